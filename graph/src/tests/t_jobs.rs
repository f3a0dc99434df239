//! `BuildKit`'s scheduler scenarios about jobs, sharing, cancellation and errors, by their numbers in `SCENARIOS.md`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::join;
use tokio::sync::Barrier;

use super::lab::{Lab, LabError, at, by_content, ms, sum};
use crate::{BuildError, Failure, JobOptions, Limits, OnFailure, Reach, VertexId};

fn is_cancelled(result: Result<i64, BuildError<LabError>>) -> bool {
    result.is_err_and(|error| matches!(error, BuildError::Cancelled))
}

#[tokio::test(start_paused = true)]
async fn t01_a_vertex_runs_once_for_all_jobs_that_hold_it() {
    let lab = Lab::with(|_| crate::Config::new());
    let graph = [sum("v", 1, []).shared()];
    let [a, b, c] = [(); 3].map(|()| lab.job());
    let (one, two) = join!(lab.build(&a, &graph), lab.build(&b, &graph));
    assert_eq!((one.unwrap(), two.unwrap()), (1, 1));
    assert_eq!((lab.take_maps(), lab.take().0), (1, 1));
    a.discard();
    lab.build(&c, &graph).await.unwrap();
    assert_eq!((lab.take_maps(), lab.take().0), (0, 0), "it survives the first job");
    b.discard();
    c.discard();
    let d = lab.job();
    lab.build(&d, &graph).await.unwrap();
    assert_eq!((lab.take_maps(), lab.take().0), (1, 1), "after the last one it runs again");
}

#[tokio::test(start_paused = true)]
async fn t05_cancelled_in_a_cache_map_nothing_executes_whatever_the_op_says() {
    let lab = Lab::new();
    let mut vertex = sum("v", 1, []);
    vertex.map_ms = 50;
    let (job, graph) = (lab.job(), [vertex]);
    let (built, ()) = join!(lab.build(&job, &graph), async {
        ms(10).await;
        job.cancel();
    });
    assert!(is_cancelled(built));
    assert_eq!((lab.take_maps(), lab.take().0), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn t06_cancelled_while_executing_is_cancelled_whatever_the_op_says() {
    for heeds in [true, false] {
        let lab = Lab::new();
        let mut vertex = sum("v", 1, []);
        (vertex.ms, vertex.heeds) = (50, heeds);
        let (job, graph) = (lab.job(), [vertex]);
        let (built, ()) = join!(lab.build(&job, &graph), async {
            ms(10).await;
            job.cancel();
        });
        assert!(is_cancelled(built));
        assert_eq!((lab.take_maps(), lab.take().0), (1, 1));
        assert!(is_cancelled(lab.build(&job, &graph).await), "a cancelled job builds no more");
    }
}

#[tokio::test(start_paused = true)]
async fn t07_what_one_job_gives_up_goes_on_for_another() {
    let lab = Lab::new();
    let vertex = || {
        let mut vertex = sum("v", 1, []).shared();
        (vertex.map_ms, vertex.ms, vertex.heeds) = (50, 50, true);
        [vertex]
    };
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = (vertex(), vertex());
    let (one, two, ()) = join!(lab.build(&a, &one), lab.build(&b, &two), async {
        ms(10).await;
        a.cancel();
    });
    assert!(is_cancelled(one));
    assert_eq!(two.unwrap(), 1);
    assert_eq!((lab.take_maps(), lab.take()), (1, (1, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_another_one_needs_and_that_is_there_is_not_waited_for() {
    let lab = Lab::with(|_| crate::Config::new());
    let (low, mut slow) = (sum("low", 1, []).shared(), sum("slow", 1, []).shared());
    slow.ms = 100;
    let graph = [low, slow, sum("high", 1, [at(0), at(1)]).shared()];
    let (first, second) = (lab.job(), lab.job());
    let (one, two) = join!(lab.build(&first, &graph), async {
        ms(50).await;
        let (dag, ids) = lab.graph(&graph);
        let targets = [ids[2], ids[0]];
        let built = second.build(dag, &targets);
        tokio::time::timeout(std::time::Duration::from_secs(9), built).await.expect("it ends").unwrap().outputs.len()
    });
    assert_eq!((one.unwrap(), two), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn t13_a_failed_digest_reaches_the_caller_and_the_result_is_released() {
    let lab = Lab::with(|_| crate::Config::new());
    let mut input = sum("input", 1, []);
    input.content_fails = true;
    let (dag, ids) = lab.graph(&[input, sum("top", 1, [by_content(0)])]);
    let job = lab.job();
    let held = job.build(dag, &ids).await;
    let Err(BuildError::Failed { chain, failure }) = held else { panic!("it cannot be built") };
    assert_eq!(chain, [(ids[1], "top".to_owned())]);
    let Failure::Content { input, source } = &*failure else { panic!("{failure:?}") };
    assert_eq!((*input, &**source), (ids[0], &LabError("content")));
    job.discard();
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn t13_results_are_dropped_with_the_last_job() {
    let lab = Lab::with(|_| crate::Config::new());
    let (dag, ids) = lab.graph(&[sum("a", 1, []).shared(), sum("b", 1, [at(0)]).shared()]);
    let (dag, a, b) = (Arc::new(dag), lab.job(), lab.job());
    let built = a.build(Arc::clone(&dag), &ids).await.unwrap();
    b.build(dag, &ids).await.unwrap();
    let results: Vec<_> = built.outputs.iter().map(Arc::downgrade).collect();
    drop(built);
    a.discard();
    lab.solver.census().await;
    assert!(results.iter().all(|result| result.strong_count() > 0));
    b.discard();
    assert_eq!(lab.solver.census().await, [0; 7]);
    assert!(results.iter().all(|result| result.strong_count() == 0));
}

#[tokio::test(start_paused = true)]
async fn t14_inputs_are_worked_on_in_parallel() {
    let lab = Lab::new();
    let (maps, execs) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let meeting = |name| {
        let mut meeting = sum(name, 1, []);
        (meeting.map_barrier, meeting.barrier) = (Some(Arc::clone(&maps)), Some(Arc::clone(&execs)));
        meeting
    };
    // The second cache map, of which there is none, meets nobody.
    assert_eq!(lab.once(&[meeting("a"), meeting("b"), sum("top", 0, [at(0), at(1)])]).await.unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn t15_errors_reach_the_caller_with_the_way_to_the_vertex() {
    let failing = |kind: &str| {
        let mut low = sum("low", 1, []);
        (low.map_fails, low.fails, low.heeds) = (kind == "map", kind == "exec", false);
        [low, sum("middle", 1, [at(0)]), sum("top", 1, [at(1)])]
    };
    for kind in ["map", "exec"] {
        let lab = Lab::new();
        let error = lab.once(&failing(kind)).await.unwrap_err();
        assert_eq!(error.to_string(), "low failed");
        let BuildError::Failed { chain, failure } = error else { panic!("{error}") };
        let names: Vec<_> = chain.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["top", "middle", "low"]);
        // An op that says so itself has failed, and was not cancelled.
        assert_eq!(failure.to_string(), kind);
        assert!(matches!(&*failure, Failure::Op(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn t15_an_error_reaches_every_job_and_is_not_kept() {
    let lab = Lab::new();
    let graph = |fails| {
        let mut vertex = sum("v", 1, []).shared();
        vertex.fails = fails;
        [vertex]
    };
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = (graph(true), graph(true));
    let (one, two) = join!(lab.build(&a, &one), lab.build(&b, &two));
    assert!(one.is_err() && two.is_err());
    assert_eq!(lab.take().0, 1);
    // The failed one is still held by both, and a newcomer has a fresh run.
    let c = lab.job();
    assert_eq!(lab.build(&c, &graph(false)).await.unwrap(), 1);
    assert_eq!(lab.take().0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_an_op_is_a_failure_for_those_who_wait_and_nobody_else() {
    let lab = Lab::new();
    let mut bad = sum("bad", 1, []);
    bad.nested = Some(|_| panic!("scripted panic"));
    let (a, b) = (lab.job(), lab.job());
    let (good, bad) = ([sum("good", 1, [])], [bad]);
    let (bad, good) = join!(lab.build(&a, &bad), lab.build(&b, &good));
    let Err(BuildError::Failed { failure, .. }) = bad else { panic!("it panicked") };
    assert_eq!(failure.to_string(), "it panicked: scripted panic");
    assert_eq!(good.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn t20_an_op_may_build_and_what_it_built_is_found_again() {
    let lab = Lab::new();
    let mut outer = sum("outer", 1, []);
    outer.nested = Some(|counts| {
        let (dag, ids) = super::lab::graph(counts, &[sum("low", 2, []), sum("inner", 3, [at(0)])]);
        (dag, ids[1..].to_vec())
    });
    assert_eq!(lab.once(&[outer.clone()]).await.unwrap(), 6);
    assert_eq!(lab.take(), (3, 0));
    assert_eq!(lab.once(&[outer.clone()]).await.unwrap(), 6);
    assert_eq!(lab.take(), (0, 1));
    // The outer one anew, the inner ones from the cache.
    assert_eq!(lab.once(&[outer.ignoring()]).await.unwrap(), 6);
    assert_eq!(lab.take(), (1, 1));
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn t20_builds_within_builds_share_one_pool_without_waiting_for_ever() {
    let lab = Lab::with(|config| config.limits(Limits::new().pool("cpu", 1)));
    let taking = |name, value| {
        let mut sum = sum(name, value, []);
        (sum.takes, sum.seeds) = (Some("cpu"), vec![name.to_owned()]);
        sum
    };
    let outer = |name| {
        let mut outer = taking(name, 1);
        outer.nested = Some(|counts| {
            let mut inner = sum("inner", 1, []);
            inner.takes = Some("cpu");
            let mut middle = sum("middle", 1, []);
            middle.takes = Some("cpu");
            middle.nested = Some(|counts| {
                let mut deep = sum("deep", 1, []);
                deep.takes = Some("cpu");
                super::lab::graph(counts, &[deep])
            });
            super::lab::graph(counts, &[inner, middle])
        });
        outer
    };
    let graph = [outer("a"), outer("b"), taking("c", 1), sum("top", 0, [at(0), at(1), at(2)])];
    assert_eq!(lab.once(&graph).await.unwrap(), 4 + 4 + 1);
    assert_eq!(lab.counts.running_max.load(Ordering::SeqCst), 1);
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn t20_cancelling_a_job_cancels_what_its_ops_build() {
    let lab = Lab::new();
    let mut outer = sum("outer", 1, []);
    outer.nested = Some(|counts| {
        let mut inner = sum("inner", 3, []);
        (inner.ms, inner.heeds) = (1_000_000, true);
        super::lab::graph(counts, &[inner])
    });
    let (job, graph) = (lab.job(), [outer]);
    let start = tokio::time::Instant::now();
    let (built, ()) = join!(lab.build(&job, &graph), async {
        ms(50).await;
        job.cancel();
    });
    assert!(is_cancelled(built));
    assert!(start.elapsed().as_millis() < 100);
}

#[tokio::test(start_paused = true)]
async fn t37_unknown_and_duplicate_names_are_errors() {
    let lab = Lab::new();
    assert_eq!(lab.solver.get("nobody").map(drop).unwrap_err().to_string(), "there is no job `nobody`");
    let job = lab.solver.job("one", JobOptions::default()).unwrap();
    let again = lab.solver.job("one", JobOptions::default()).map(drop).unwrap_err();
    assert_eq!(again.to_string(), "there is a job `one` already");
    assert_eq!(lab.solver.get("one").unwrap().name(), "one");
    job.discard();
    assert!(lab.solver.get("one").is_err());
    lab.solver.job("one", JobOptions::default()).unwrap();
    let (dag, _) = lab.graph(&[sum("v", 1, [])]);
    let (_, other) = lab.graph(&[sum("v", 1, []), sum("w", 1, [])]);
    let unknown: VertexId = other[1];
    assert!(matches!(lab.job().build(dag, &[unknown]).await, Err(BuildError::UnknownTarget(_))));
}

#[tokio::test(start_paused = true)]
async fn t38_equal_vertices_of_three_jobs_stay_as_long_as_one_of_them() {
    let lab = Lab::with(|_| crate::Config::new());
    let graph = |name| [sum("low", 1, []), sum(name, 1, [at(0)]).seed("equal")];
    let jobs = ["a", "b", "c"].map(|name| (lab.job(), graph(name)));
    for (job, graph) in &jobs {
        lab.build(job, graph).await.unwrap();
    }
    assert_eq!(lab.take().0, 2);
    for (job, graph) in jobs {
        lab.build(&job, &graph).await.unwrap();
        assert_eq!(lab.take().0, 0, "whoever is left has the result");
        job.discard();
    }
    assert_eq!(lab.solver.census().await, [0; 7]);
    lab.once(&graph("d")).await.unwrap();
    assert_eq!(lab.take().0, 2);
}

#[tokio::test(start_paused = true)]
async fn jobs_values_are_visited_in_order_and_by_type() {
    let lab = Lab::new();
    let job = lab.job();
    job.set_value("session", 1_u32);
    job.set_value("session", "text");
    lab.solver.get(job.name()).unwrap().set_value("session", 2_u32);
    let mut seen = Vec::new();
    job.each_value::<u32>("session", |value| seen.push(*value));
    job.each_value::<u32>("other", |value| seen.push(*value));
    assert_eq!(seen, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn jobs_parallelism_one_serialises_two_builds() {
    for (size, expected) in [(1, 1), (2, 2)] {
        let lab = Lab::with(|config| config.limits(Limits::new().pool("cpu", size)));
        let graph = |name| {
            let mut vertex = sum(name, 1, []);
            vertex.takes = Some("cpu");
            [vertex]
        };
        let (a, b) = (lab.job(), lab.job());
        let (one, two) = (graph("a"), graph("b"));
        let (one, two) = join!(lab.build(&a, &one), lab.build(&b, &two));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(lab.counts.running_max.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_are_served_fairly() {
    let lab = Lab::with(|config| config.limits(Limits::new().pool("cpu", 1)));
    let graph = |prefix: &str, n: usize, ms| {
        let vertex = |place| {
            let mut vertex = sum(format!("{prefix}{place}").leak(), 1, []);
            (vertex.takes, vertex.ms) = (Some("cpu"), ms);
            vertex
        };
        let mut graph: Vec<_> = (0..n).map(vertex).collect();
        graph.push(sum(format!("{prefix} top").leak(), 0, (0..n).map(at)));
        graph
    };
    let (a, b) = (lab.job(), lab.job());
    let (long, short) = (graph("long", 20, 10), graph("short", 3, 10));
    let (one, two) = join!(lab.build(&a, &long), async {
        ms(45).await;
        lab.build(&b, &short).await
    });
    assert!(one.is_ok() && two.is_ok());
    let order = lab.counts.order.lock().unwrap().clone();
    let last_short = order.iter().position(|name| name == "short2").unwrap();
    // The newcomer starts level and then takes turns; it does not wait for the twenty.
    assert!(last_short <= 10, "{order:?}");
}

#[tokio::test(start_paused = true)]
async fn a_job_that_keeps_going_is_not_stopped_by_one_that_does_not() {
    let lab = Lab::new();
    let graph = || {
        let mut bad = sum("bad", 1, []).shared();
        bad.fails = true;
        let mut slow = sum("slow", 1, []).shared();
        slow.ms = 20;
        [bad, slow, sum("after", 1, [at(1)]).shared()]
    };
    let (stops, goes) = (lab.job(), lab.job_with(OnFailure::KeepGoing));
    let ((one, ids), (two, _)) = (lab.graph(&graph()), lab.graph(&graph()));
    let (one, two) = join!(stops.build(one, &ids), goes.build(two, &ids));
    assert!(one.is_err() && two.is_err());
    let order = lab.counts.order.lock().unwrap().clone();
    assert_eq!(order.iter().filter(|name| *name == "after").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_op_reaches_decides_what_is_brought_for_it() {
    for (reach, expected) in [(Reach::Direct, (1, 1)), (Reach::Closure, (1, 2))] {
        let lab = Lab::new();
        let graph = |seed: &str| {
            let mut top = sum("top", 1, [at(1)]).seed(seed);
            top.reach = reach;
            [sum("low", 1, []), sum("middle", 1, [at(0)]), top]
        };
        lab.once(&graph("old")).await.unwrap();
        lab.take();
        lab.once(&graph("new")).await.unwrap();
        assert_eq!(lab.take(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_edge_of_a_shared_vertex_serves_the_job_that_is_left() {
    let lab = Lab::new();
    let graph = || {
        let mut late = sum("late", 1, []).shared();
        (late.map_ms, late.ms) = (20, 20);
        late.late = vec![0];
        vec![sum("named", 5, []), late, sum("top", 1, [at(1)])]
    };
    let (a, b) = (lab.job(), lab.job());
    let (one, two) = (graph(), graph());
    let (one, two, ()) = join!(lab.build(&a, &one), lab.build(&b, &two), async {
        ms(10).await;
        lab.solver.get(a.name()).unwrap().discard();
    });
    assert!(is_cancelled(one));
    // One from below, and what was named late is there too.
    assert_eq!(two.unwrap(), 1 + 1 + 5);
    b.discard();
    drop(a);
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn a_build_that_waits_for_the_op_that_asked_for_it_is_refused() {
    for is_one_vertex in [true, false] {
        let lab = Lab::new();
        let mut outer = sum("outer", 1, []);
        outer.digest = is_one_vertex.then_some("outer");
        outer.nested = Some(if is_one_vertex {
            |counts| {
                let (dag, ids) = super::lab::graph(counts, &[sum("outer", 1, []).shared(), sum("top", 1, [at(0)])]);
                (dag, ids[1..].to_vec())
            }
        } else {
            |counts| {
                let (dag, ids) = super::lab::graph(counts, &[sum("outer", 1, []), sum("top", 1, [at(0)])]);
                (dag, ids[1..].to_vec())
            }
        });
        let Err(BuildError::Failed { failure, .. }) = lab.once(&[outer]).await else { panic!("it is refused") };
        assert_eq!(failure.to_string(), "nested");
        assert_eq!(lab.solver.census().await, [0; 7]);
    }
}

/// Found by `oracle_jobs`: both targets fail while a vertex runs of which only the key was wanted, and the result comes
/// to be wanted in the same moment. The build then waited for the end of something that it had given up.
#[tokio::test(start_paused = true)]
async fn a_build_that_drains_ends_though_more_comes_to_be_wanted_of_what_runs() {
    let lab = Lab::with(|_| crate::Config::new().limits(Limits::new().pool("cpu", 2)));
    let takes_cpu = |mut vertex: super::lab::Sum| {
        (vertex.takes, vertex.ms) = (Some("cpu"), 0);
        vertex
    };
    let mut far = sum("far", 0, [at(1)]);
    far.reach = Reach::Closure;
    let mut vertices = [
        sum("content", 0, []),
        sum("slow", 0, []),
        sum("fails", 0, []),
        far,
        sum("both", 0, [at(2), at(1)]),
        sum("by_content", 0, [at(2), by_content(0)]),
        sum("above_both", 0, [at(4)]),
        sum("above_far", 0, [at(6), at(3)]),
        sum("above_content", 0, [at(5)]),
        sum("top", 0, [at(7), at(8)]),
    ]
    .map(takes_cpu);
    vertices[1].ms = 3;
    (vertices[2].ms, vertices[2].fails) = (1, true);
    let job = lab.job_with(OnFailure::KeepGoing);
    let (dag, ids) = lab.graph(&vertices);
    let targets = [ids[9], ids[4]];
    // Virtual: this time comes only if nothing else ever will.
    let built = tokio::time::timeout(std::time::Duration::from_hours(1), job.build(dag, &targets)).await;
    assert!(matches!(built, Ok(Err(BuildError::Failed { .. }))));
}
