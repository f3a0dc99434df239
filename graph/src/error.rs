//! What can go wrong in the solver itself, and how an op's own error is carried.

use crate::dag::VertexId;

/// Vertices that need each other in a circle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cycle: {}", circle(cycle))]
pub struct CycleError {
    /// The whole circle: each vertex needs the next, the last one needs the first.
    pub cycle: Vec<VertexId>,
}

fn circle(cycle: &[VertexId]) -> String {
    let names: Vec<_> = cycle.iter().chain(cycle.first()).map(|vertex| format!("{vertex:?}")).collect();
    names.join(" -> ")
}

/// Why a vertex failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure<E> {
    /// The op said so.
    #[error(transparent)]
    Op(E),
    /// A cache map named an input that needs the vertex itself.
    #[error("its cache map closes a cycle")]
    LateCycle(#[source] CycleError),
    /// A cache map named an input that is no vertex of the graph.
    #[error("its cache map needs {0:?}, which is not in the graph")]
    UnknownInput(VertexId),
    /// The op has no cache map at all, so that the vertex has no key: a bug in the op.
    #[error("it has no cache map")]
    NoCacheMap,
}
