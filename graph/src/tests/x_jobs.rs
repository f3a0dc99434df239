//! Scenarios in which `BuildKit` fails or failed, by their numbers in `SCENARIOS.md`.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::join;

use super::lab::{Lab, LabCache, Sum, at, ms, sum};
use crate::{BuildError, Cache, Combined, Config, Told};

fn slow(name: &'static str, takes: u64) -> Sum {
    let mut slow = sum(name, 1, []).shared();
    (slow.ms, slow.heeds) = (takes, true);
    slow
}

#[tokio::test(start_paused = true)]
async fn x01_a_cancelled_build_never_spoils_a_normal_one_of_the_same_graph() {
    let lab = Lab::with(|_| Config::new());
    let graph = [slow("low", 1), sum("high", 1, [at(0)]).shared()];
    for _ in 0..10_000 {
        let (good, bad) = (lab.job(), lab.job());
        bad.cancel();
        let (one, two) = join!(lab.build(&good, &graph), lab.build(&bad, &graph));
        assert_eq!(one.unwrap(), 2);
        assert!(two.is_err());
    }
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn x01_x02_cancelled_half_way_in_every_round() {
    let lab = Lab::with(|_| Config::new());
    for round in 0..2000 {
        let graph = [slow("low", 10), slow("other", 7), sum("high", 1, [at(0), at(1)]).shared()];
        let (good, bad) = (lab.job(), lab.job());
        let (one, two, ()) = join!(lab.build(&good, &graph), lab.build(&bad, &graph), async {
            ms(round % 25).await;
            bad.cancel();
        });
        assert_eq!(one.unwrap(), 3);
        assert!(matches!(two, Err(BuildError::Cancelled) | Ok(3)));
    }
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn x02_start_cancel_start_in_a_loop() {
    let lab = Lab::with(|_| Config::new());
    for _ in 0..2000 {
        let graph = [slow("v", 10)];
        let first = lab.job();
        // Dropping the future cancels; nobody waits for the end of it.
        let dropped = tokio::time::timeout(Duration::from_millis(3), lab.build(&first, &graph)).await;
        assert!(dropped.is_err());
        let second = lab.job();
        assert_eq!(lab.build(&second, &graph).await.unwrap(), 1);
    }
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn x03_jobs_in_parallel_that_ignore_the_cache_here_and_there() {
    let mut seed = 7_u64;
    let mut random = move |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let lab = Lab::new();
    for _ in 0..200 {
        let mut builds = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let mut graph = vec![sum("v0", 1, []).shared()];
            for (place, name) in ["v1", "v2", "v3", "v4", "v5"].into_iter().enumerate() {
                let inputs = [place, place / 2].into_iter().collect::<std::collections::BTreeSet<_>>();
                graph.push(sum(name, 1, inputs.into_iter().map(at)).shared());
            }
            for vertex in &mut graph {
                vertex.ignores_cache = random(4) == 0;
                vertex.ms = 5;
            }
            let (job, wait) = (lab.job(), random(20));
            let (dag, ids) = lab.graph(&graph);
            builds.spawn(async move {
                ms(wait).await;
                job.build(dag, &ids[5..]).await.map(|built| built.outputs[0][0])
            });
        }
        while let Some(value) = builds.join_next().await {
            assert_eq!(value.unwrap().unwrap(), 15);
        }
    }
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn x04_a_job_that_leaves_takes_nothing_from_those_it_shared_with() {
    let lab = Lab::with(|_| Config::new());
    let graph = |name| [slow("low", 10), sum(name, 1, [at(0)]).seed("equal")];
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = (graph("a"), graph("b"));
    let (one, two, ()) = join!(lab.build(&a, &one), lab.build(&b, &two), async {
        // The equal vertices are in one flight, that of the job which leaves.
        ms(15).await;
        lab.solver.get(a.name()).unwrap().discard();
    });
    assert!(one.is_err());
    assert_eq!(two.unwrap(), 2);
    assert_eq!(lab.take().0, 2);
}

#[tokio::test(start_paused = true)]
async fn x05_equal_to_what_is_equal_to_a_third() {
    // One after another they turn out to be the same as the one before, by the second of two keys.
    let lab = Lab::new();
    let vertex = |name, first, second, wait| {
        let mut vertex = sum(name, 1, []).seeds(&[first, second]);
        vertex.map_ms = wait;
        vertex
    };
    let graph = [
        vertex("a", "a", "x", 1),
        vertex("b", "b", "x", 2),
        vertex("c", "c", "x", 3),
        sum("top", 0, [at(0), at(1), at(2)]),
    ];
    assert_eq!(lab.once(&graph).await.unwrap(), 3);
    assert_eq!(lab.take(), (2, 0), "the three are one");
    assert_eq!(lab.once(&graph).await.unwrap(), 3);
    assert_eq!(lab.take(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn x06_equal_vertices_that_report_and_need_each_others_twins() {
    let lab = Lab::new();
    let noisy = |name, inputs: Vec<_>, seed: &str| {
        let mut noisy = sum(name, 1, inputs).seed(seed);
        noisy.reports = vec![(1, "begun"), (5, "half-way")];
        noisy
    };
    // The key of the upper is that of the lower: each waits for an equal one below it.
    let graph = [
        noisy("a", vec![], "a"),
        noisy("b", vec![], "a"),
        noisy("c", vec![at(0)], "c"),
        noisy("d", vec![at(1)], "c"),
        sum("top", 0, [at(2), at(3)]),
    ];
    assert_eq!(lab.once(&graph).await.unwrap(), 4);
    assert_eq!(lab.take(), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn x09_a_cache_that_never_answers_stops_nobody_else() {
    let lab = Lab::new();
    let remote = LabCache::new(&lab.counts);
    remote.hangs.store(true, Ordering::SeqCst);
    let lab = Lab::with(|config| config.source("remote", remote.clone()));
    let sourced = |name| {
        let mut sum = sum(name, 1, []);
        sum.sources = vec!["remote"];
        sum
    };
    let (stuck, other) = (lab.job(), lab.job());
    let (one, two) = ([sourced("a")], [sum("b", 1, []), sum("c", 1, [at(0)])]);
    let (one, two) = join!(lab.build(&stuck, &one), async {
        let value = lab.build(&other, &two).await;
        stuck.cancel();
        value
    });
    assert_eq!(two.unwrap(), 2);
    assert!(matches!(one, Err(BuildError::Cancelled)), "and its own job can be cancelled");
    // Where the main cache has it, the other is not waited for.
    lab.once(&[sum("a", 1, [])]).await.unwrap();
    lab.take();
    assert_eq!(lab.once(&[sourced("a")]).await.unwrap(), 1);
    assert_eq!(lab.take(), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn x09_a_combined_cache_has_only_so_much_patience() {
    let counts = std::sync::Arc::default();
    let (main, remote) = (LabCache::new(&counts), LabCache::new(&counts));
    remote.hangs.store(true, Ordering::SeqCst);
    let combined = Combined::new(Cache::new(main)).with("remote", Cache::new(remote));
    let lab = Lab::with(|config| config.cache(combined.patience(Duration::from_secs(1))));
    let start = tokio::time::Instant::now();
    lab.once(&[sum("a", 1, [])]).await.unwrap();
    assert_eq!(start.elapsed().as_millis(), 1010);
}

#[tokio::test(start_paused = true)]
async fn x10_a_ladder_of_diamonds_is_no_work() {
    for is_shared in [false, true] {
        let lab = Lab::new();
        let mut graph: Vec<Sum> = Vec::new();
        for rung in 0..60_usize {
            for side in ["left", "right"] {
                let below = if rung == 0 { 0..0 } else { 2 * rung - 2..2 * rung };
                let name: &'static str = format!("{side} {rung}").leak();
                let mut vertex = sum(name, 0, below.map(at));
                vertex.digest = is_shared.then_some(name);
                graph.push(vertex);
            }
        }
        assert_eq!(lab.once(&graph).await.unwrap(), 0);
        assert_eq!(lab.take(), (119, 0));
        assert_eq!(lab.once(&graph).await.unwrap(), 0);
        assert_eq!(lab.take(), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn x11_who_comes_while_an_op_is_being_stopped_gets_a_fresh_run() {
    for is_one_vertex in [true, false] {
        let lab = Lab::with(|_| Config::new());
        let graph = |name| {
            let mut vertex = sum(name, 1, []).seed("key");
            (vertex.ms, vertex.heeds, vertex.lingers_ms) = (100, true, 50);
            [if is_one_vertex { vertex.shared() } else { vertex }]
        };
        let (a, b) = (lab.job(), lab.job());
        let one = graph("v");
        let two = graph(if is_one_vertex { "v" } else { "w" });
        let start = tokio::time::Instant::now();
        let (one, two, ()) = join!(
            lab.build(&a, &one),
            async {
                ms(30).await;
                lab.build(&b, &two).await
            },
            async {
                ms(10).await;
                a.cancel();
            }
        );
        assert!(matches!(one, Err(BuildError::Cancelled)));
        assert_eq!(two.unwrap(), 1);
        // Stopped at 10, gone at 60, and then a whole run: never two at a time.
        assert_eq!(start.elapsed().as_millis(), 160);
        assert_eq!(lab.counts.running_max.load(Ordering::SeqCst), 1);
        assert_eq!(lab.take().0, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn x12_the_owner_of_a_shared_run_leaves_and_the_run_keeps_what_it_reads() {
    let lab = Lab::with(|_| Config::new());
    let graph = |name| [sum("low", 1, []), sum(name, 1, [at(0)]).seed("equal")];
    let (a, b) = (lab.job(), lab.job());
    let (mut one, mut two) = (graph("a"), graph("b"));
    (one[1].ms, two[1].ms) = (100, 100);
    let (one, two, ()) = join!(lab.build(&a, &one), lab.build(&b, &two), async {
        ms(50).await;
        lab.solver.get(a.name()).unwrap().discard();
    });
    assert!(one.is_err());
    assert_eq!(two.unwrap(), 2);
    assert_eq!(lab.take().0, 2);
}

#[tokio::test(start_paused = true)]
async fn x13_a_job_that_joins_half_way_reads_the_whole_log() {
    for is_one_vertex in [true, false] {
        let lab = Lab::new();
        let graph = |name| {
            let mut vertex = sum(name, 1, []).seed("key");
            vertex.reports = vec![(10, "one"), (10, "two"), (10, "three")];
            [if is_one_vertex { vertex.shared() } else { vertex }]
        };
        let (a, b) = (lab.job(), lab.job());
        let one = graph("v");
        let two = graph(if is_one_vertex { "v" } else { "w" });
        let (first, second) = join!(lab.build(&a, &one), async {
            ms(25).await;
            lab.build(&b, &two).await
        });
        assert!(first.is_ok() && second.is_ok());
        let mut status = b.status();
        b.discard();
        let mut log = Vec::new();
        while let Some(event) = status.next().await {
            if let Told::Progress(line) = &event.told {
                log.push(**line);
            }
        }
        assert_eq!(log, ["one", "two", "three"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_counter_is_told_to_latecomers_once_and_to_listeners_each_time() {
    let lab = Lab::new();
    let mut vertex = sum("v", 1, []).seed("key");
    vertex.reports = vec![(10, "begins"), (10, "=1"), (10, "=2"), (10, "between"), (10, "=3")];
    let job = lab.job();
    let (live, built) = (job.status(), lab.build(&job, &[vertex]).await);
    assert!(built.is_ok());
    let late = job.status();
    job.discard();
    let mut heard = Vec::new();
    for mut status in [live, late] {
        let mut log = Vec::new();
        while let Some(event) = status.next().await {
            if let Told::Progress(line) = &event.told {
                log.push(**line);
            }
        }
        heard.push(log.join(" "));
    }
    assert_eq!(heard, ["begins =1 =2 between =3", "begins between =3"]);
}
