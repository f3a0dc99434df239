//! How long a graph would take: the solver's own state machine on a clock that jumps from one end to the next.
//!
//! Nothing runs and nobody waits, so that ten thousand vertices are foretold in some milliseconds; but what starts when
//! is decided by the very code that decides it in a run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::context::{Context, Home, Inputs};
use crate::core::node::Owner;
use crate::core::{Core, Done, Kept, Work};
use crate::dag::{Dag, VertexId};
use crate::limits::{Limits, Resources};
use crate::op::{CacheMap, Op, Phase};
use crate::ready::JobId;

/// What is expected of one vertex. As an [`Op`] it sleeps for as long as it is to take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    /// What waits for no input, such as a download.
    pub ahead: Duration,
    /// What that occupies.
    pub ahead_takes: Resources,
    /// What starts when the inputs are there. In whole milliseconds it is the vertex's [weight](Op::weight).
    pub work: Duration,
    /// What that occupies.
    pub takes: Resources,
}

/// How a graph is expected to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// When the last vertex ends.
    pub makespan: Duration,
    /// By vertex, when its work starts.
    pub starts: Box<[Duration]>,
    /// All work, as if it were done one after the other; without what is done ahead.
    pub work: Duration,
    /// The chain of vertices that takes longest, inputs first: no number of cores does it faster than that.
    pub critical: Vec<VertexId>,
    /// The work of that chain.
    pub critical_work: Duration,
}

impl Forecast {
    /// Foretells how `dag` goes within `limits`.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use larder_graph::{DagBuilder, EdgeKind, Expected, Forecast, Limits, Resources};
    ///
    /// let build = |s| Expected {
    ///     work: Duration::from_secs(s),
    ///     takes: Resources::none().take("cpu", 1),
    ///     ..Expected::default()
    /// };
    /// let mut builder = DagBuilder::new();
    /// let [lib, app, _other] = [3, 2, 4].map(|s| builder.add(build(s)));
    /// builder.edge(app, lib, EdgeKind::Ordering);
    /// let dag = std::sync::Arc::new(builder.build().expect("there is no cycle"));
    ///
    /// let on = |cores| Forecast::of(&dag, Limits::new().pool("cpu", cores)).makespan.as_secs();
    /// assert_eq!([1, 2, 3].map(on), [9, 5, 5]);
    /// let forecast = Forecast::of(&dag, Limits::new());
    /// assert_eq!((forecast.critical, forecast.critical_work.as_secs()), (vec![lib, app], 5));
    /// ```
    pub fn of(dag: &Arc<Dag<Expected>>, limits: Limits) -> Self {
        let (progress, _) = mpsc::channel(1);
        let (sub_builds, _) = mpsc::unbounded_channel();
        let mut core = Core::new(Config::from(limits), Arc::new(Home { progress, sub_builds }));
        core.submit(Owner::Job(JobId(0)), Arc::clone(dag), &[], true, true);
        let mut starts = vec![Duration::ZERO; dag.len()];
        let mut now = Duration::ZERO;
        // By the time of their end; those that began first end first.
        let mut running = BinaryHeap::new();
        loop {
            while let Some(start) = core.start_next() {
                while core.next_note().is_some() {}
                let vertex = start.context.vertex();
                let expected = dag.op(vertex);
                let (duration, is_map) = match start.work {
                    Work::CacheMap { .. } => (expected.ahead, true),
                    _ => (expected.work, false),
                };
                if !is_map {
                    starts[vertex.index()] = now;
                }
                running.push(Reverse((now + duration, start.flight, vertex, is_map)));
            }
            let Some(Reverse((end, flight, vertex, is_map))) = running.pop() else { break };
            now = end;
            let done = if is_map { Done::CacheMap(Ok(Some(map(vertex)))) } else { Done::Execute(Ok(()), Kept::Yes) };
            core.advance(flight, done);
            while core.next_note().is_some() {}
        }
        let (critical, critical_work) = longest(dag);
        let work = dag.vertices().map(|vertex| dag.op(vertex).work).sum();
        Self { makespan: now, starts: starts.into(), work, critical, critical_work }
    }
}

fn map(vertex: VertexId) -> CacheMap<VertexId> {
    CacheMap::leaf(vertex).last()
}

/// Returns the chain of vertices with the most work, inputs first, and that work.
fn longest(dag: &Dag<Expected>) -> (Vec<VertexId>, Duration) {
    // By vertex: the work from there on, and which of its dependants that goes through.
    let mut from: Vec<(Duration, Option<VertexId>)> = vec![(Duration::ZERO, None); dag.len()];
    for &vertex in dag.dependants_first() {
        let (after, _) = from[vertex.index()];
        let through = after + dag.op(vertex).work;
        from[vertex.index()].0 = through;
        for (input, _) in dag.inputs(vertex) {
            if through > from[input.index()].0 {
                from[input.index()] = (through, Some(vertex));
            }
        }
    }
    let work = |vertex: &VertexId| (from[vertex.index()].0, Reverse(vertex.index()));
    let first = dag.vertices().max_by_key(work).filter(|first| from[first.index()].0 > Duration::ZERO);
    let chain: Vec<VertexId> = std::iter::successors(first, |vertex| from[vertex.index()].1).collect();
    (chain, first.map_or(Duration::ZERO, |first| from[first.index()].0))
}

impl Op for Expected {
    type Key = VertexId;
    type Output = ();
    type Error = Infallible;
    type Progress = Infallible;

    fn weight(&self) -> u64 {
        u64::try_from(self.work.as_millis()).unwrap_or(u64::MAX)
    }

    fn resources(&self, phase: Phase) -> Resources {
        match phase {
            Phase::CacheMap(_) => self.ahead_takes.clone(),
            Phase::Execute => self.takes.clone(),
            Phase::Query | Phase::Load | Phase::Content => Resources::none(),
        }
    }

    async fn cache_map(&self, _: usize, cx: &Context<Self>) -> Result<Option<CacheMap<VertexId>>, Infallible> {
        tokio::time::sleep(self.ahead).await;
        Ok(Some(map(cx.vertex())))
    }

    async fn execute(&self, _: &VertexId, _: Inputs<Self>, _: &Context<Self>) -> Result<(), Infallible> {
        tokio::time::sleep(self.work).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::dag::{DagBuilder, EdgeKind};
    use crate::event::Event;
    use crate::run::{OnFailure, run};
    use crate::stop::Stop;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// `(ahead, work, inputs)` in milliseconds; inputs are among those before.
    fn graph(vertices: &[(u64, u64, Vec<usize>)]) -> Arc<Dag<Expected>> {
        let mut builder = DagBuilder::new();
        let mut ids = Vec::new();
        for (ahead, work, inputs) in vertices {
            let id = builder.add(Expected {
                ahead: MS(*ahead),
                ahead_takes: Resources::none().take("network", 1),
                work: MS(*work),
                takes: Resources::none().take("cpu", 1),
            });
            for input in inputs {
                builder.edge(id, ids[*input], EdgeKind::Ordering);
            }
            ids.push(id);
        }
        Arc::new(builder.build().expect("inputs come first"))
    }

    fn limits(cores: u32) -> Limits {
        Limits::new().pool("cpu", cores).pool("network", 2)
    }

    /// What a run really does, on virtual time: its length, and when which work starts.
    fn really(dag: &Arc<Dag<Expected>>, limits: Limits) -> (Duration, Vec<Duration>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime without I/O needs nothing").block_on(async {
            let (begin, mut starts) = (Instant::now(), vec![Duration::ZERO; dag.len()]);
            let report = run(Arc::clone(dag), limits, OnFailure::Stop, Stop::new(), |event| {
                if let Event::Started { vertex, phase: Phase::Execute } = event {
                    starts[vertex.index()] = begin.elapsed();
                }
            });
            assert!(report.await.is_success());
            (begin.elapsed(), starts)
        })
    }

    #[test]
    fn what_the_most_work_waits_for_is_brought_first_and_built_first() {
        // The last one is the largest, and alone; what two chains begin with comes before it nevertheless.
        let dag = graph(&[(5, 10, vec![]), (5, 40, vec![0]), (5, 10, vec![]), (5, 41, vec![2]), (5, 45, vec![])]);
        let forecast = Forecast::of(&dag, limits(2));
        assert_eq!(*forecast.starts, [MS(5), MS(56), MS(5), MS(15), MS(15)]);
        assert_eq!((forecast.makespan, forecast.work), (MS(96), MS(146)));
        assert_eq!((forecast.critical_work, forecast.critical.len()), (MS(51), 2));
    }

    #[test]
    fn nothing_takes_no_time() {
        let forecast = Forecast::of(&graph(&[]), limits(2));
        assert_eq!((forecast.makespan, forecast.critical), (Duration::ZERO, vec![]));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_forecast_is_what_the_engine_does(
            seeds in prop::collection::vec((0_u64..30, 1_u64..200, prop::collection::vec(any::<prop::sample::Index>(), 0..3)), 1..30),
            cores in 1_u32..6,
        ) {
            let vertices: Vec<_> = seeds.into_iter().enumerate().map(|(n, (ahead, work, inputs))| {
                // No two end at one time: of such either may be taken in first.
                let work = work * 1000 + u64::try_from(n).unwrap() * 7;
                (ahead * 100 + u64::try_from(n).unwrap(), work, inputs.iter().filter(|_| n > 0).map(|input| input.index(n)).collect())
            }).collect();
            let dag = graph(&vertices);
            let forecast = Forecast::of(&dag, limits(cores));
            let (makespan, starts) = really(&dag, limits(cores));
            prop_assert_eq!((makespan, &*starts), (forecast.makespan, &*forecast.starts));
        }
    }
}
