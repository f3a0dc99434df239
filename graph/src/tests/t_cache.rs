//! `BuildKit`'s scheduler scenarios about caching, by their numbers in `SCENARIOS.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::join;

use super::lab::{Lab, LabCache, at, by_content, sum};
use crate::{Config, Solver};

#[tokio::test(start_paused = true)]
async fn t02_a_key_hits_in_a_later_job_and_another_misses() {
    let lab = Lab::new();
    assert_eq!(lab.once(&[sum("a", 1, []).seed("one")]).await.unwrap(), 1);
    assert_eq!(lab.once(&[sum("b", 2, []).seed("two")]).await.unwrap(), 2);
    assert_eq!(lab.take(), (2, 0));
    // Another vertex of the same key has the old result.
    assert_eq!(lab.once(&[sum("c", 3, []).seed("one")]).await.unwrap(), 1);
    assert_eq!(lab.take(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn t03_equal_keys_of_different_vertices_execute_once() {
    let lab = Lab::new();
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = ([sum("a", 1, []).seed("key")], [sum("b", 2, []).seed("key")]);
    let (one, two) = join!(lab.build(&a, &one), lab.build(&b, &two));
    assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
    assert_eq!((lab.take_maps(), lab.take()), (2, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn t04_equal_keys_execute_once_per_level() {
    let lab = Lab::new();
    let (a, b) = (lab.job(), lab.job());
    let graph = |low, high| [sum(low, 1, []).seed("low"), sum(high, 2, [at(0)]).seed("high")];
    let (one, two) = (graph("a", "b"), graph("c", "d"));
    let (one, two) = join!(lab.build(&a, &one), lab.build(&b, &two));
    assert_eq!((one.unwrap(), two.unwrap()), (3, 3));
    assert_eq!(lab.take(), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn t08_sums_over_several_levels_come_again_from_the_cache() {
    let lab = Lab::new();
    let graph = [
        sum("one", 1, []),
        sum("two", 2, []),
        sum("three", 0, [at(0), at(1)]),
        sum("six", 0, [at(2), at(2), at(2)]),
        sum("all", 30, [at(2), at(2), at(3), at(0), at(1)]),
    ];
    assert_eq!(lab.once(&graph).await.unwrap(), 30 + 3 + 3 + 1 + 2);
    assert_eq!(lab.take(), (5, 0));
    assert_eq!(lab.once(&graph).await.unwrap(), 39);
    assert_eq!(lab.take(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn t09_a_huge_graph_loads_only_its_root_the_second_time() {
    let lab = Lab::new();
    let mut graph = vec![sum("leaf", 1, [])];
    for place in 1..1000_usize {
        // Each vertex needs up to three before it.
        let inputs = [place - 1, place / 2, place / 3].into_iter().collect::<std::collections::BTreeSet<_>>();
        let name: &'static str = format!("v{place}").leak();
        graph.push(sum(name, 0, inputs.into_iter().rev().take(1 + place % 2).map(at)));
    }
    let first = lab.once(&graph).await.unwrap();
    assert_eq!((lab.take_maps(), lab.take()), (1000, (1000, 0)));
    assert_eq!(lab.once(&graph).await.unwrap(), first);
    assert_eq!((lab.take_maps(), lab.take()), (1000, (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn t10_an_input_of_equal_content_hits_and_its_sibling_stays_untouched() {
    let lab = Lab::new();
    let graph = |seed: &str| [sum("a", 1, []).seed(seed), sum("b", 2, []), sum("top", 0, [by_content(0), at(1)])];
    assert_eq!(lab.once(&graph("old")).await.unwrap(), 3);
    lab.take();
    assert_eq!(lab.once(&graph("new")).await.unwrap(), 3);
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t11_only_the_changed_inputs_are_made_to_be_compared() {
    let lab = Lab::new();
    let graph = |a: &str, b: &str| {
        [sum("a", 1, []).seed(a), sum("b", 2, []).seed(b), sum("top", 0, [by_content(0), by_content(1)])]
    };
    lab.once(&graph("a1", "b1")).await.unwrap();
    lab.take();
    // The digest of the unchanged one is remembered.
    assert_eq!(lab.once(&graph("a2", "b1")).await.unwrap(), 3);
    assert_eq!(lab.take(), (1, 1));
    assert_eq!(lab.once(&graph("a3", "b3")).await.unwrap(), 3);
    assert_eq!(lab.take(), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn t12_a_changed_definition_of_equal_content_hits() {
    let lab = Lab::new();
    let graph = |seed: &str| [sum("a", 1, []).seed(seed), sum("top", 5, [by_content(0)])];
    assert_eq!(lab.once(&graph("old")).await.unwrap(), 6);
    lab.take();
    assert_eq!(lab.once(&graph("new")).await.unwrap(), 6);
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t16_a_vertex_may_have_its_own_cache_sources() {
    let remote = LabCache::new(&Arc::default());
    let elsewhere = Lab::with(|config| config.cache(remote.clone()));
    elsewhere.once(&[sum("a", 1, [])]).await.unwrap();
    let lab = Lab::with(|config| config.source("remote", remote.clone()));
    let sourced = |name, inputs: Vec<_>| {
        let mut sum = sum(name, 1, inputs);
        sum.sources = vec!["remote"];
        sum
    };
    assert_eq!(lab.once(&[sourced("a", vec![])]).await.unwrap(), 1);
    assert_eq!(lab.take(), (0, 0));
    assert_eq!(remote.counts.loads.load(Ordering::SeqCst), 1);
    // It was saved into the main cache, so what is built on it needs the source no more.
    assert_eq!(lab.once(&[sum("a", 1, []), sum("b", 1, [at(0)])]).await.unwrap(), 2);
    assert_eq!(lab.take(), (1, 1));
    assert_eq!(remote.counts.loads.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn t17_ignoring_the_cache_runs_the_vertex_and_what_depends_on_it() {
    let lab = Lab::new();
    let (low, high) = (sum("low", 1, []), sum("high", 1, [at(0)]));
    lab.once(&[low.clone(), high.clone()]).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    lab.once(&[low.clone().ignoring(), high.clone().ignoring()]).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    lab.once(&[low.clone().ignoring(), high.clone()]).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    lab.once(&[low, high.ignoring()]).await.unwrap();
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t18_after_an_ignored_cache_equal_content_resumes() {
    let lab = Lab::new();
    let (low, high) = (sum("low", 1, []), sum("high", 1, [by_content(0)]));
    lab.once(&[low.clone(), high.clone()]).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    assert_eq!(lab.once(&[low.ignoring(), high]).await.unwrap(), 2);
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t19_ignoring_never_joins_what_does_not_but_others_join_it() {
    for is_one_vertex in [true, false] {
        let lab = Lab::new();
        let vertex = |value| {
            let vertex = sum("v", value, []);
            if is_one_vertex { vertex.shared() } else { vertex }
        };
        let [plain, ignoring, later, again] = [1, 2, 3, 4].map(|_| lab.job());
        let (one, two, three, four) = ([vertex(1)], [vertex(2).ignoring()], [vertex(3)], [vertex(4).ignoring()]);
        let (one, two, three, four) = join!(
            lab.build(&plain, &one),
            lab.build(&ignoring, &two),
            async {
                super::lab::ms(5).await;
                lab.build(&later, &three).await
            },
            async {
                super::lab::ms(5).await;
                lab.build(&again, &four).await
            }
        );
        assert_eq!((one.unwrap(), two.unwrap()), (1, 2), "one vertex: {is_one_vertex}");
        assert_eq!((three.unwrap(), four.unwrap()), (2, 2), "one vertex: {is_one_vertex}");
        assert_eq!(lab.take(), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn t21_a_selector_is_part_of_the_definition_key() {
    let lab = Lab::new();
    let graph = |selector| [sum("a", 1, []), sum("top", 1, [at(0).selecting(selector)])];
    lab.once(&graph("one")).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    lab.once(&graph("one")).await.unwrap();
    assert_eq!(lab.take(), (0, 1));
    lab.once(&graph("two")).await.unwrap();
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t22_a_selector_is_no_part_of_the_content_key() {
    let lab = Lab::new();
    let graph = |selector| [sum("a", 1, []), sum("top", 1, [by_content(0).selecting(selector)])];
    lab.once(&graph("one")).await.unwrap();
    assert_eq!(lab.take(), (2, 0));
    lab.once(&graph("two")).await.unwrap();
    assert_eq!(lab.take(), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn t25_an_exact_repeat_digests_nothing() {
    let lab = Lab::new();
    let graph = [sum("a", 1, []), sum("b", 1, [by_content(0)]), sum("c", 1, [by_content(1)])];
    lab.once(&graph).await.unwrap();
    let n_contents = lab.counts.contents.load(Ordering::SeqCst);
    lab.take();
    lab.take_maps();
    lab.once(&graph).await.unwrap();
    assert_eq!((lab.take_maps(), lab.take()), (3, (0, 1)));
    assert_eq!(lab.counts.contents.load(Ordering::SeqCst), n_contents);
}

#[tokio::test(start_paused = true)]
async fn t26_a_sibling_is_not_loaded_to_be_digested() {
    let lab = Lab::new();
    let graph = |seed: &str| {
        [
            sum("leaf", 1, []).seed(seed),
            sum("left", 1, [by_content(0)]),
            sum("other", 1, []),
            sum("right", 1, [by_content(2)]),
            sum("top", 1, [by_content(1), by_content(3)]),
        ]
    };
    lab.once(&graph("old")).await.unwrap();
    lab.take();
    // `left` is found by content and stands for what it stood for before, so `top` is found by definition.
    lab.once(&graph("new")).await.unwrap();
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn t27_later_cache_maps_are_asked_only_after_a_miss() {
    let lab = Lab::new();
    lab.once(&[sum("a", 1, []).seeds(&["k0", "k1", "k2"])]).await.unwrap();
    assert_eq!(lab.take(), (1, 0));
    for seeds in [["k0", "x1", "x2"], ["y0", "k1", "y2"], ["z0", "z1", "k2"]] {
        assert_eq!(lab.once(&[sum("a", 2, []).seeds(&seeds)]).await.unwrap(), 1);
        assert_eq!(lab.take(), (0, 1), "{seeds:?}");
    }
    // What was found by a later key is from then on found by the earlier ones; what was not reached stays unknown.
    assert_eq!(lab.once(&[sum("a", 3, []).seeds(&["y0"])]).await.unwrap(), 1);
    assert_eq!(lab.once(&[sum("a", 3, []).seeds(&["x1"])]).await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn t28_a_dependant_hits_when_a_later_key_of_its_input_does() {
    let lab = Lab::new();
    let graph = |first: &str| [sum("a", 1, []).seeds(&[first, "same"]), sum("top", 1, [at(0)])];
    lab.once(&graph("old")).await.unwrap();
    lab.take();
    for first in ["new", "old", "newer"] {
        lab.once(&graph(first)).await.unwrap();
        assert_eq!(lab.take(), (0, 1), "{first}");
    }
}

#[tokio::test(start_paused = true)]
async fn t31_two_outputs_of_vertices_of_equal_key_are_added_up() {
    for _ in 0..20 {
        let lab = Lab::new();
        let two = |name| {
            let mut two = sum(name, 1, [at(0)]);
            (two.n_outputs, two.seeds) = (2, vec!["two".to_owned()]);
            two
        };
        let graph = [
            sum("leaf", 1, []),
            two("x"),
            two("y"),
            sum("l", 0, [at(1), at(2).output(1)]),
            sum("r", 0, [at(2), at(1).output(1)]),
            sum("top", 1, [at(3), at(4)]),
        ];
        assert_eq!(lab.once(&graph).await.unwrap(), 11);
        assert_eq!((lab.take_maps(), lab.take().1), (6, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn t32_t33_outputs_of_equal_vertices_may_cross() {
    for n in [2_usize, 3] {
        let lab = Lab::new();
        let mut graph = Vec::new();
        for _ in 0..n {
            let mut two = sum("v", 5, []);
            two.n_outputs = u32::try_from(n).unwrap();
            graph.push(two);
        }
        for layer in 1..=n {
            for place in 0..n {
                let below = (layer - 1) * n;
                let mut two =
                    sum("v", 0, (0..n).map(|k| at(below + (place + k) % n).output(u32::try_from(k).unwrap())));
                (two.n_outputs, two.seeds) = (u32::try_from(n).unwrap(), vec![format!("layer {layer}")]);
                graph.push(two);
            }
        }
        let (last, count) = (graph.len() - n, graph.len());
        graph.push(sum("top", 0, (last..count).map(at)));
        let job = lab.job();
        let first = lab.build(&job, &graph).await.unwrap();
        assert_eq!(lab.build(&job, &graph).await.unwrap(), first);
        job.discard();
        assert_eq!(lab.solver.census().await, [0; 7]);
    }
}

#[tokio::test(start_paused = true)]
async fn t35_a_load_that_fails_falls_back_to_executing() {
    let lab = Lab::new();
    let graph = [
        sum("a", 1, []),
        sum("b", 1, [at(0)]),
        sum("c", 1, [at(0)]),
        sum("d", 1, [at(1), at(2)]),
        sum("e", 1, [at(3)]),
    ];
    let value = lab.once(&graph).await.unwrap();
    lab.once(&graph).await.unwrap();
    assert_eq!(lab.take(), (5, 1));
    lab.cache.fails_loads.store(true, Ordering::SeqCst);
    assert_eq!(lab.once(&graph).await.unwrap(), value);
    // Every record is tried once.
    assert_eq!(lab.take(), (5, 5));
}

#[tokio::test(start_paused = true)]
async fn t36_half_cached_inputs_with_contents_do_not_wait_in_a_circle() {
    let lab = Lab::new();
    let graph = |seed: &str| {
        [
            sum("a", 1, []),
            sum("b", 1, []).seed(seed),
            sum("c", 1, [by_content(0), by_content(1)]),
            sum("d", 1, [by_content(2), by_content(0)]),
            sum("e", 1, [by_content(3), by_content(2), by_content(1)]),
        ]
    };
    // Known in part: `c` but not what is above it.
    lab.once(&graph("old")[..3]).await.unwrap();
    lab.once(&graph("new")).await.unwrap();
    lab.take();
    lab.once(&graph("newer")).await.unwrap();
    assert_eq!(lab.take(), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn cache_miss_stale_dep_a_held_base_still_gives_its_key() {
    for (is_held, is_shared) in [(false, false), (true, true), (true, false)] {
        let lab = Lab::new();
        let base = || if is_shared { sum("base", 1, []).shared() } else { sum("base", 1, []) };
        let step = sum("step", 1, [at(0)]);
        lab.once(&[base(), step.clone()]).await.unwrap();
        lab.take();
        let third = lab.job();
        if is_held {
            lab.build(&third, &[base()]).await.unwrap();
            lab.take();
        }
        lab.once(&[base(), step.clone()]).await.unwrap();
        assert_eq!(lab.take(), (0, 1), "held: {is_held}, shared: {is_shared}");
        // Who wants it anew does not get the held one.
        lab.once(&[base().ignoring(), step.clone()]).await.unwrap();
        assert_eq!(lab.take().0, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn x07_a_base_held_complete_by_a_third_job_still_lets_dependants_be_found_or_made() {
    // Without any cache nothing is found, and everything that is not held is made, once.
    let counts = Arc::default();
    let solver = Solver::new(Config::new());
    let base = || sum("base", 1, []).shared();
    let jobs = ["holds", "one", "two"].map(|name| solver.job(name, crate::JobOptions::default()).unwrap());
    let (dag, ids) = super::lab::graph(&counts, &[base()]);
    jobs[0].build(dag, &ids).await.unwrap();
    let step = |name| super::lab::graph(&counts, &[base(), sum(name, 1, [at(0)]).seed("step")]);
    let ((one, ids), (two, _)) = (step("a"), step("b"));
    let (one, two) = join!(jobs[1].build(one, &ids[1..]), jobs[2].build(two, &ids[1..]));
    assert_eq!((one.unwrap().outputs[0][0], two.unwrap().outputs[0][0]), (2, 2));
    assert_eq!(counts.execs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn x14_an_output_that_was_never_asked_for_is_there_in_a_later_process() {
    let lab = Lab::new();
    let two = || {
        let mut two = sum("two", 4, []);
        two.n_outputs = 2;
        two
    };
    assert_eq!(lab.once(&[two(), sum("first", 0, [at(0)])]).await.unwrap(), 4);
    lab.take();
    let later = Solver::new(Config::new().cache(lab.cache.clone()));
    let job = later.job("later", crate::JobOptions::default()).unwrap();
    let (dag, ids) = lab.graph(&[two(), sum("second", 0, [at(0).output(1)])]);
    assert_eq!(job.build(dag, &ids[1..]).await.unwrap().outputs[0][0], 5);
    assert_eq!(lab.take(), (1, 1));
}
