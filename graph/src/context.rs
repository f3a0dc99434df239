//! What a running op may know: its vertex, the request to end, the results of its inputs.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::core::node::BuildId;
use crate::dag::{Dag, VertexId};
use crate::error::BuildError;
use crate::op::Op;
use crate::stop::Stop;
use crate::subbuild::SubBuild;
use crate::sync;

mod brake;

use brake::Brake;

/// One running phase. Never used twice.
///
/// Aligned as a half of it would be, so that the state of a node wastes no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(4))]
pub(crate) struct FlightId(pub(crate) u64);

/// What a solver's tasks send home besides their end.
pub(crate) struct Home<O: Op> {
    pub(crate) progress: mpsc::Sender<(FlightId, O::Progress)>,
    pub(crate) sub_builds: mpsc::UnboundedSender<SubBuild<O>>,
}

/// Where the flights of a build belong.
pub(crate) struct Site<O: Op> {
    pub(crate) build: BuildId,
    pub(crate) dag: Arc<Dag<O>>,
    pub(crate) home: Arc<Home<O>>,
}

struct Inner<O: Op> {
    flight: FlightId,
    vertex: VertexId,
    site: Arc<Site<O>>,
    brake: Brake,
}

/// What an op may know of the build it is part of; cheap to clone into a blocking task.
///
/// ```
/// # use std::convert::Infallible;
/// use larder_graph::{CacheMap, Config, Context, DagBuilder, Inputs, JobOptions, Op, Solver};
///
/// enum Number {
///     Known(u64),
///     /// Learns only when it runs what it is made of.
///     Sum,
/// }
///
/// impl Op for Number {
/// #     type Key = String;
/// #     type Output = u64;
/// #     type Error = Infallible;
/// #     type Progress = &'static str;
/// #     async fn cache_map(&self, _: usize, _: &Context<Self>) -> Result<Option<CacheMap<String>>, Infallible> {
/// #         Ok(Some(CacheMap::leaf(if let Self::Known(n) = self { n.to_string() } else { "sum".into() }).last()))
/// #     }
///     // The rest is as for any op.
///     async fn execute(&self, _: &String, _: Inputs<Self>, cx: &Context<Self>) -> Result<u64, Infallible> {
///         match self {
///             Self::Known(number) => Ok(*number),
///             Self::Sum if cx.stop().is_requested() => Ok(0),
///             Self::Sum => {
///                 cx.report("looks into itself");
///                 let mut builder = DagBuilder::new();
///                 let parts = [2, 3].map(|number| builder.add(Self::Known(number)));
///                 let dag = builder.build().expect("no edge, no cycle");
///                 let numbers = cx.build(dag, &parts).await.unwrap_or_default();
///                 Ok(numbers.iter().sum::<u64>() + cx.vertex().index() as u64)
///             }
///         }
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut builder = DagBuilder::new();
/// let sum = builder.add(Number::Sum);
/// let job = Solver::new(Config::new()).job("add", JobOptions::default())?;
/// assert_eq!(job.build(builder.build()?, &[sum]).await?.outputs, [5]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Context<O: Op> {
    inner: Arc<Inner<O>>,
}

impl<O: Op> Context<O> {
    pub(crate) fn new(flight: FlightId, site: Arc<Site<O>>, vertex: VertexId) -> Self {
        Self { inner: Arc::new(Inner { flight, vertex, site, brake: Brake::default() }) }
    }

    /// Returns the vertex this op stands at.
    pub fn vertex(&self) -> VertexId {
        self.inner.vertex
    }

    /// Tells of the work, for display. Never waits: when 1,024 reports are unread, this one is dropped.
    pub fn report(&self, progress: O::Progress) {
        let _ = self.inner.site.home.progress.try_send((self.inner.flight, progress));
    }

    /// Returns the request to end, if it comes: when nobody wants the result any more.
    pub fn stop(&self) -> &Stop {
        self.inner.brake.stop()
    }

    /// Builds `targets` of another graph in the name of the jobs that wait for this op, and returns their results.
    ///
    /// Meanwhile the op gives back what it occupies, and has it again when this returns: so builds within builds can
    /// wait for each other's pools, but never forever. What is built here is kept until the op ends.
    ///
    /// A build that comes to wait for this very op, by whatever way, ends as [`BuildError::Circular`].
    pub async fn build(
        &self,
        dag: impl Into<Arc<Dag<O>>>,
        targets: &[VertexId],
    ) -> Result<Vec<O::Output>, BuildError<O::Error>> {
        SubBuild::run(&self.inner.site.home, self.inner.flight, dag.into(), targets).await
    }

    pub(crate) fn brake(&self) -> &Brake {
        &self.inner.brake
    }

    pub(crate) fn site(&self) -> &Arc<Site<O>> {
        &self.inner.site
    }

    pub(crate) fn op(&self) -> &O {
        self.inner.site.dag.op(self.inner.vertex)
    }
}

impl<O: Op> Clone for Context<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A result with the results below it.
pub(crate) struct Made<O: Op> {
    pub(crate) result: O::Output,
    /// Set once all that is below is there.
    below: OnceLock<Below<O>>,
}

/// The results of a vertex's inputs. A vertex has the same edges in every graph in which it is, so that a graph and what
/// is below one of its vertices can be walked side by side; nothing here says where else it stands.
///
/// The first two are in place, since most vertices of most graphs have no more.
pub(crate) struct Below<O: Op> {
    edges: [Option<Arc<Made<O>>>; 2],
    others: Option<Box<Others<O>>>,
}

pub(crate) struct Others<O: Op> {
    edges: Vec<Arc<Made<O>>>,
    late: Vec<Late<O>>,
}

/// An input that is no edge: a cache map named it.
pub(crate) struct Late<O: Op> {
    pub(crate) made: Arc<Made<O>>,
    /// Where it stands in the graph that it came with.
    pub(crate) place: (Arc<Dag<O>>, VertexId),
}

impl<O: Op> Below<O> {
    pub(crate) fn new(
        mut edges: impl ExactSizeIterator<Item = Arc<Made<O>>>,
        late: impl ExactSizeIterator<Item = Late<O>>,
    ) -> Self {
        let first = [edges.next(), edges.next()];
        let has_others = edges.len() + late.len() > 0;
        let others = || Box::new(Others { edges: edges.collect(), late: late.collect() });
        Self { edges: first, others: has_others.then(others) }
    }

    fn edges(&self) -> impl Iterator<Item = &Arc<Made<O>>> {
        self.edges.iter().flatten().chain(self.others.iter().flat_map(|others| &others.edges))
    }

    fn late(&self) -> impl Iterator<Item = &Late<O>> {
        self.others.iter().flat_map(|others| &others.late)
    }

    /// Moves those into `last` that nobody else has.
    fn move_last(self, last: &mut Vec<Made<O>>) {
        last.extend(self.edges.into_iter().flatten().filter_map(Arc::into_inner));
        if let Some(others) = self.others {
            let Others { edges, late } = *others;
            last.extend(edges.into_iter().chain(late.into_iter().map(|late| late.made)).filter_map(Arc::into_inner));
        }
    }
}

impl<O: Op> Made<O> {
    pub(crate) fn new(result: O::Output) -> Arc<Self> {
        Arc::new(Self { result, below: OnceLock::new() })
    }

    /// All that is below is there.
    pub(crate) fn complete(&self, below: Below<O>) {
        // Said twice, it is the same.
        let _ = self.below.set(below);
    }
}

impl<O: Op> Drop for Made<O> {
    /// Not by recursion: a chain may be longer than a stack is deep.
    fn drop(&mut self) {
        let mut last = Vec::new();
        if let Some(below) = self.below.take() {
            below.move_last(&mut last);
        }
        while let Some(mut made) = last.pop() {
            if let Some(below) = made.below.take() {
                below.move_last(&mut last);
            }
        }
    }
}

/// The results of what an executing vertex needs; a cheap handle that copies nothing until asked.
///
/// An input is named as the op's own graph names it. One that the graph does not have has no name: a cache map brought
/// it in another job's graph, to a vertex that both graphs have.
///
/// ```
/// # use std::convert::Infallible;
/// use larder_graph::{CacheMap, Context, DagBuilder, EdgeKind, Inputs, Limits, OnFailure, Op, Stop, run};
///
/// struct Count;
///
/// impl Op for Count {
/// #     type Key = u8;
/// #     type Output = (usize, usize);
/// #     type Error = Infallible;
/// #     type Progress = ();
/// #     async fn cache_map(&self, _: usize, cx: &Context<Self>) -> Result<Option<CacheMap<u8>>, Infallible> {
/// #         Ok(Some(CacheMap::leaf(cx.vertex().index() as u8).last()))
/// #     }
///     // The rest is as for any op.
///     async fn execute(&self, _: &u8, inputs: Inputs<Self>, _: &Context<Self>) -> Result<(usize, usize), Infallible> {
///         assert!(inputs.direct().all(|(vertex, _)| vertex.is_some()));
///         Ok((inputs.direct().count(), inputs.closure().len()))
///     }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let mut builder = DagBuilder::new();
/// let [low, middle, top] = [(); 3].map(|()| builder.add(Count));
/// builder.edge(middle, low, EdgeKind::Keyed);
/// builder.edge(top, middle, EdgeKind::Keyed);
/// let report = run(builder.build()?.into(), Limits::new(), OnFailure::Stop, Stop::new(), |_| {}).await;
/// assert_eq!(report.output(top), Some(&(1, 2)));
/// # Ok::<_, larder_graph::CycleError>(())
/// # }).unwrap();
/// ```
pub struct Inputs<O: Op> {
    dag: Arc<Dag<O>>,
    vertex: VertexId,
    direct: Below<O>,
}

impl<O: Op> Inputs<O> {
    pub(crate) fn new(dag: Arc<Dag<O>>, vertex: VertexId, direct: Below<O>) -> Self {
        Self { dag, vertex, direct }
    }

    /// Returns the results of the vertex's own inputs, each the output that the edge names: its edges in order, then
    /// what its cache maps named besides.
    pub fn direct(&self) -> impl Iterator<Item = (Option<VertexId>, O::Output)> + '_ {
        let edges = self
            .dag
            .edges(self.vertex)
            .zip(self.direct.edges())
            .map(|(edge, made)| (Some(edge.input), self.dag.op(edge.input).output(&made.result, edge.output)));
        let late = self.direct.late().map(|late| {
            let (dag, vertex) = &late.place;
            (self.own(late), dag.op(*vertex).output(&late.made.result, 0))
        });
        edges.chain(late)
    }

    /// Returns the whole results of all transitive inputs, each once, the nearest first; of an op that reaches for its
    /// direct inputs only ([`Op::reach`]), those.
    pub fn closure(&self) -> Vec<(Option<VertexId>, O::Output)> {
        let mut places = HashMap::new();
        let mut order: Vec<(Option<VertexId>, &Arc<Made<O>>)> = Vec::new();
        let mut todo = VecDeque::new();
        let (mut from, mut below) = (Some(self.vertex), Some(&self.direct));
        loop {
            let mut names = from.into_iter().flat_map(|vertex| self.dag.edges(vertex));
            let edges =
                below.into_iter().flat_map(Below::edges).map(|made| (names.next().map(|edge| edge.input), made));
            let late = below.into_iter().flat_map(Below::late).map(|late| (self.own(late), &late.made));
            for (vertex, made) in edges.chain(late) {
                let place = *places.entry(Arc::as_ptr(made)).or_insert(order.len());
                match order.get_mut(place) {
                    // What is below has names now, too.
                    Some((known, _)) if known.is_none() && vertex.is_some() => *known = vertex,
                    Some(_) => continue,
                    None => order.push((vertex, made)),
                }
                todo.push_back(place);
            }
            let Some(place) = todo.pop_front() else { break };
            let (vertex, made) = order[place];
            (from, below) = (vertex, made.below.get());
        }
        order.into_iter().map(|(vertex, made)| (vertex, made.result.clone())).collect()
    }

    /// Returns what the op's own graph calls a late input.
    fn own(&self, late: &Late<O>) -> Option<VertexId> {
        let (dag, vertex) = &late.place;
        Arc::ptr_eq(dag, &self.dag).then_some(*vertex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scripted;

    #[test]
    fn results_that_two_threads_let_go_at_once_are_released_once_and_without_a_deep_stack() {
        for _ in 0..20 {
            let output: Arc<str> = "shared".into();
            let mut made = Made::<Scripted>::new(Arc::clone(&output));
            for _ in 0..20_000 {
                let next = Made::new(Arc::clone(&output));
                next.complete(Below::new([Arc::clone(&made), made].into_iter(), std::iter::empty()));
                made = next;
            }
            let (one, two) = (Arc::clone(&made), made);
            std::thread::scope(|scope| {
                scope.spawn(|| drop(one));
                scope.spawn(|| drop(two));
            });
            assert_eq!(Arc::strong_count(&output), 1);
        }
    }
}
