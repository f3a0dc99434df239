//! What a running op may know: its vertex, the request to end, the results of its inputs.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, OnceLock};

use tokio::sync::mpsc;

use crate::dag::{Dag, VertexId};
use crate::error::BuildError;
use crate::op::Op;
use crate::stop::Stop;
use crate::subbuild::SubBuild;

/// One running phase. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlightId(pub(crate) u64);

/// What a solver's tasks send home besides their end.
pub(crate) struct Home<O: Op> {
    pub(crate) progress: mpsc::Sender<(FlightId, O::Progress)>,
    pub(crate) sub_builds: mpsc::UnboundedSender<SubBuild<O>>,
}

/// The solver's end of one flight's request to end. The [`Stop`] itself is made only for an op that looks at it.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    level: AtomicU8,
    stop: OnceLock<Stop>,
}

impl Brake {
    pub(crate) fn request(&self) {
        self.raise(1);
    }

    pub(crate) fn force(&self) {
        self.raise(2);
    }

    fn raise(&self, level: u8) {
        self.level.fetch_max(level, Ordering::SeqCst);
        // Of two fences one comes first: either this side sees the stop, or the other side the level.
        fence(Ordering::SeqCst);
        if let Some(stop) = self.stop.get() {
            self.apply(stop);
        }
    }

    pub(crate) fn stop(&self) -> &Stop {
        let stop = self.stop.get_or_init(Stop::new);
        // Whoever raised the level before the stop was there to be seen did not tell it.
        fence(Ordering::SeqCst);
        self.apply(stop);
        stop
    }

    fn apply(&self, stop: &Stop) {
        match self.level.load(Ordering::SeqCst) {
            0 => {}
            1 => stop.request(),
            _ => stop.force(),
        }
    }
}

struct Inner<O: Op> {
    flight: FlightId,
    vertex: VertexId,
    dag: Arc<Dag<O>>,
    brake: Brake,
    home: Arc<Home<O>>,
}

/// What an op may know of the build it is part of; cheap to clone into a blocking task.
pub struct Context<O: Op> {
    inner: Arc<Inner<O>>,
}

impl<O: Op> Context<O> {
    pub(crate) fn new(flight: FlightId, dag: Arc<Dag<O>>, vertex: VertexId, home: Arc<Home<O>>) -> Self {
        let brake = Brake::default();
        Self { inner: Arc::new(Inner { flight, vertex, dag, brake, home }) }
    }

    /// Returns the vertex this op stands at.
    pub fn vertex(&self) -> VertexId {
        self.inner.vertex
    }

    /// Tells of the work, for display. Never waits: when 1,024 reports are unread, this one is dropped.
    pub fn report(&self, progress: O::Progress) {
        let _ = self.inner.home.progress.try_send((self.inner.flight, progress));
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
        SubBuild::run(&self.inner.home, self.inner.flight, dag.into(), targets).await
    }

    pub(crate) fn brake(&self) -> &Brake {
        &self.inner.brake
    }

    pub(crate) fn dag(&self) -> &Arc<Dag<O>> {
        &self.inner.dag
    }

    pub(crate) fn op(&self) -> &O {
        self.inner.dag.op(self.inner.vertex)
    }
}

impl<O: Op> Clone for Context<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

/// A result with the results below it.
pub(crate) struct Made<O: Op> {
    vertex: VertexId,
    pub(crate) result: O::Output,
    /// The inputs' results; set once all that is below is there, and then only for ops that reach that far.
    inputs: OnceLock<Box<[Arc<Made<O>>]>>,
}

impl<O: Op> Made<O> {
    pub(crate) fn new(vertex: VertexId, result: O::Output) -> Arc<Self> {
        Arc::new(Self { vertex, result, inputs: OnceLock::new() })
    }

    pub(crate) fn complete(&self, inputs: impl FnOnce() -> Box<[Arc<Made<O>>]>) {
        self.inputs.get_or_init(inputs);
    }

    fn inputs(&self) -> &[Arc<Self>] {
        self.inputs.get().map_or(&[], |inputs| inputs)
    }
}

impl<O: Op> Drop for Made<O> {
    /// Not by recursion: a chain may be longer than a stack is deep.
    fn drop(&mut self) {
        let mut below: Vec<_> = self.inputs.take().map(Vec::from).unwrap_or_default();
        while let Some(made) = below.pop() {
            if let Some(mut made) = Arc::into_inner(made) {
                below.extend(made.inputs.take().map(Vec::from).unwrap_or_default());
            }
        }
    }
}

/// The results of what an executing vertex needs; a cheap handle that copies nothing until asked.
pub struct Inputs<O: Op> {
    pub(crate) direct: Box<[Input<O>]>,
}

/// One direct input.
pub(crate) struct Input<O: Op> {
    pub(crate) vertex: VertexId,
    pub(crate) output: u32,
    /// Where the op that made it stands.
    pub(crate) op: (Arc<Dag<O>>, VertexId),
    pub(crate) made: Arc<Made<O>>,
}

impl<O: Op> Inputs<O> {
    /// Returns the results of the vertex's own inputs, each the output that the edge names: its edges in order, then
    /// what its cache maps named besides.
    pub fn direct(&self) -> impl Iterator<Item = (VertexId, O::Output)> + '_ {
        self.direct.iter().map(|input| {
            let Input { vertex, output, op: (dag, op), made } = input;
            (*vertex, dag.op(*op).output(&made.result, *output))
        })
    }

    /// Returns the whole results of all transitive inputs, each once, the nearest first; of an op that reaches for its
    /// direct inputs only ([`Op::reach`]), those. An input that another job's graph brought has the id it has there.
    pub fn closure(&self) -> Vec<(VertexId, O::Output)> {
        let mut seen = HashSet::new();
        let mut order: Vec<(VertexId, &Arc<Made<O>>)> = Vec::new();
        for input in &self.direct {
            if seen.insert(Arc::as_ptr(&input.made)) {
                order.push((input.vertex, &input.made));
            }
        }
        let mut next = 0;
        while let Some((_, made)) = order.get(next) {
            let below = made.inputs().iter().filter(|made| seen.insert(Arc::as_ptr(made)));
            let below: Vec<_> = below.map(|made| (made.vertex, made)).collect();
            order.extend(below);
            next += 1;
        }
        order.into_iter().map(|(vertex, made)| (vertex, made.result.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The brake is all that the loop and its tasks share in memory: whichever comes first, the pull or the first look
    /// at it, the op hears of it.
    #[test]
    fn a_brake_pulled_while_an_op_first_looks_is_never_missed() {
        for round in 0..5_000 {
            let brake = Brake::default();
            let is_forced = round % 2 == 0;
            let barrier = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    if is_forced { brake.force() } else { brake.request() }
                });
                scope.spawn(|| {
                    barrier.wait();
                    brake.stop();
                });
            });
            let stop = brake.stop.get().expect("it was looked at");
            assert_eq!((stop.is_requested(), stop.is_forced()), (true, is_forced), "round {round}");
        }
    }
}
