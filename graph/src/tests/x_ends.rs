//! How a solver ends, and what must not hold it up: slow saves, dropped handles, results of jobs that are gone. Depth, and
//! inputs that come late.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::join;
use tokio::time::Instant;

use super::lab::{Lab, Sum, at, ms, sum};
use crate::{
    BuildError, CacheMap, Config, Context, DagBuilder, EdgeKind, Inputs, JobOptions, OnFailure, Op, OpenError, Reach,
    Solver, Stop, Told, VertexId, run,
};

/// Far longer than any test; virtual.
const NEVER_MS: u64 = 1_000_000_000;

fn slow(name: &'static str) -> Sum {
    let mut vertex = sum(name, 1, []);
    (vertex.ms, vertex.heeds, vertex.lingers_ms) = (100, true, 50);
    vertex
}

#[tokio::test(start_paused = true)]
async fn closing_cancels_every_job_and_waits_for_what_runs() {
    let lab = Lab::new();
    let (a, b, graph) = (lab.job(), lab.job(), [slow("v"), sum("top", 0, [at(0)])]);
    let other = lab.solver.clone();
    let start = Instant::now();
    let (one, two, (), ()) = join!(
        lab.build(&a, &graph),
        lab.build(&b, &graph),
        async {
            ms(10).await;
            lab.solver.close().await;
            assert_eq!(start.elapsed().as_millis(), 60, "asked at 10, gone at 60");
        },
        async {
            ms(20).await;
            assert_eq!(other.job("late", JobOptions::default()).err(), Some(OpenError::Closed));
            other.close().await;
        }
    );
    assert!(matches!((one, two), (Err(BuildError::Cancelled), Err(BuildError::Cancelled))));
    assert!(matches!(lab.build(&a, &graph).await, Err(BuildError::Cancelled)));
    assert_eq!(lab.counts.running.load(Ordering::SeqCst), 0);
    lab.solver.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_that_is_dropped_ends_the_solver() {
    let lab = Lab::new();
    let (counts, solver) = (Arc::clone(&lab.counts), Arc::downgrade(&lab.cache.hangs));
    let (dag, ids) = lab.graph(&[slow("v")]);
    let job = lab.job();
    drop(lab);
    let (built, ()) = join!(job.build(dag, &ids), async {
        ms(10).await;
        assert_eq!(counts.running.load(Ordering::SeqCst), 1, "a job keeps its solver");
        job.cancel();
    });
    assert!(built.is_err());
    drop(job);
    ms(1).await;
    assert_eq!(solver.strong_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn x09_a_cache_that_never_gets_done_with_saving_holds_up_nobody() {
    let lab = Lab::new();
    lab.cache.save_ms.store(NEVER_MS, Ordering::SeqCst);
    let graph = [sum("a", 1, []), sum("b", 1, [at(0)]), sum("c", 1, [at(1)])];
    let start = Instant::now();
    assert_eq!(lab.once(&graph).await.unwrap(), 3);
    assert_eq!((start.elapsed().as_millis(), lab.take()), (30, (3, 0)));
    // The job is gone, its results are not in the cache, and yet they are not made again.
    assert_eq!(lab.once(&graph).await.unwrap(), 3);
    assert_eq!((start.elapsed().as_millis(), lab.take()), (30, (0, 0)));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_being_saved() {
    let lab = Lab::new();
    lab.cache.save_ms.store(500, Ordering::SeqCst);
    lab.once(&[sum("a", 1, [])]).await.unwrap();
    assert!(lab.cache.memory.is_empty());
    lab.solver.close().await;
    assert_eq!(lab.cache.memory.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_what_is_being_saved_unless_it_is_forced() {
    for is_forced in [false, true] {
        let lab = Lab::new();
        lab.cache.save_ms.store(500, Ordering::SeqCst);
        let (stop, start) = (Stop::new(), Instant::now());
        let config = Config::new().cache(lab.cache.clone());
        let (dag, _) = lab.graph(&[sum("a", 1, [])]);
        let (report, ()) = join!(run(Arc::new(dag), config, OnFailure::Stop, stop.clone(), |_| {}), async {
            ms(100).await;
            if is_forced {
                stop.force();
            }
        });
        assert!(report.is_success());
        assert_eq!(start.elapsed().as_millis(), if is_forced { 100 } else { 510 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_that_fails_late_is_told_once_and_opens_nothing_again() {
    let lab = Lab::new();
    lab.cache.save_ms.store(50, Ordering::SeqCst);
    lab.cache.fails_saves.store(true, Ordering::SeqCst);
    let (job, graph) = (lab.job(), [sum("a", 1, []), sum("b", 1, [at(0)])]);
    lab.build(&job, &graph).await.unwrap();
    let mut status = job.status();
    ms(1000).await;
    job.discard();
    let mut log = String::new();
    while let Some(event) = status.next().await {
        log.push(match &event.told {
            Told::Vertex { .. } => 'v',
            Told::Ended(settled) if matches!(settled.outcome, crate::Outcome::Executed(_)) => 'e',
            Told::CacheFailed(_) => 'f',
            _ => continue,
        });
    }
    assert_eq!(log, "vveeff");
    assert_eq!(lab.solver.census().await, [0; 7]);
}

#[tokio::test(start_paused = true)]
async fn an_op_is_given_its_inputs_by_the_names_of_its_own_graph() {
    let lab = Lab::new();
    let (low, middle) = (|| sum("low", 1, []).shared(), |low| sum("middle", 1, [at(low)]).shared());
    let mut top = sum("top", 0, [at(1)]);
    top.reach = Reach::Closure;
    let first = lab.job();
    // Here they are the vertices 2 and 3.
    let other = [sum("x", 0, []), sum("y", 0, []), low(), middle(2)];
    lab.build(&first, &other).await.unwrap();
    lab.once(&[low(), middle(0), top]).await.unwrap();
    assert_eq!(lab.counts.closures.lock().unwrap().pop(), Some(vec![Some(1), Some(0)]));
}

#[tokio::test(start_paused = true)]
async fn an_input_that_only_another_graph_has_has_no_name() {
    let lab = Lab::with(|_| Config::new());
    let middle = || sum("middle", 1, []).shared();
    let mut late = middle();
    late.late = vec![0];
    let (mut own, mut foreign) = (sum("own", 0, [at(1)]), sum("foreign", 0, [at(0)]));
    (own.reach, foreign.reach) = (Reach::Closure, Reach::Closure);
    let first = lab.job();
    lab.build(&first, &[sum("low", 1, []), late, own]).await.unwrap();
    lab.once(&[middle(), foreign]).await.unwrap();
    let closures = lab.counts.closures.lock().unwrap().clone();
    assert_eq!(closures, [vec![Some(1), Some(0)], vec![Some(0), None]]);
}

/// One of a chain: its key is that of the vertex before it, and one.
struct Link(Option<VertexId>);

impl Op for Link {
    type Key = u64;
    type Output = ();
    type Error = Infallible;
    type Progress = ();

    async fn cache_map(&self, _: usize, _: &Context<Self>) -> Result<Option<CacheMap<u64>>, Infallible> {
        Ok(Some(CacheMap::new(self.0, |keys| keys.iter().sum::<u64>() + 1).last()))
    }

    async fn execute(&self, _: &u64, _: Inputs<Self>, _: &Context<Self>) -> Result<(), Infallible> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_chain_may_be_longer_than_a_stack_is_deep() {
    let mut builder = DagBuilder::new();
    let mut last = None;
    for _ in 0..20_000 {
        let link = builder.add(Link(last));
        if let Some(last) = last {
            builder.edge(link, last, EdgeKind::Keyed);
        }
        last = Some(link);
    }
    let solver = Solver::new(Config::new());
    let job = solver.job("long", JobOptions::default()).unwrap();
    job.build(builder.build().unwrap(), last.as_slice()).await.unwrap();
}

/// A leaf, or what names an input that is no edge in its first cache map and only its edge in its second.
enum Late {
    Leaf(u64),
    Top { edge: VertexId, late: VertexId },
}

impl Op for Late {
    type Key = u64;
    type Output = u64;
    type Error = Infallible;
    type Progress = Infallible;

    async fn cache_map(&self, index: usize, _: &Context<Self>) -> Result<Option<CacheMap<u64>>, Infallible> {
        Ok(match (self, index) {
            (Self::Leaf(key), 0) => Some(CacheMap::leaf(*key)),
            (Self::Top { edge, late }, 0) => Some(CacheMap::new([*edge, *late], |keys| keys.iter().sum())),
            (Self::Top { edge, .. }, 1) => Some(CacheMap::new([*edge], |keys| keys.iter().sum())),
            _ => None,
        })
    }

    async fn execute(&self, key: &u64, _: Inputs<Self>, _: &Context<Self>) -> Result<u64, Infallible> {
        Ok(*key)
    }
}

#[tokio::test(start_paused = true)]
async fn a_map_is_given_what_it_names_and_not_what_an_earlier_one_named() {
    let mut builder = DagBuilder::new();
    let [edge, late] = [1, 10].map(|key| builder.add(Late::Leaf(key)));
    let top = builder.add(Late::Top { edge, late });
    builder.edge(top, edge, EdgeKind::Keyed);
    let job = Solver::new(Config::new()).job("late", JobOptions::default()).unwrap();
    assert_eq!(job.build(builder.build().unwrap(), &[top]).await.unwrap().outputs, [1]);
}
