//! What can go wrong in the solver itself, and how an op's own error is carried.

use std::sync::Arc;

use crate::dag::VertexId;

/// Vertices that need each other in a circle.
///
/// ```
/// use larder_graph::{DagBuilder, EdgeKind};
///
/// let mut builder = DagBuilder::new();
/// let [egg, hen] = ["egg", "hen"].map(|op| builder.add(op));
/// builder.edge(egg, hen, EdgeKind::Keyed);
/// builder.edge(hen, egg, EdgeKind::Keyed);
/// let error = builder.build().err();
/// assert_eq!(error.map(|error| error.cycle.len()), Some(2));
/// ```
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
///
/// ```
/// use larder_graph::Failure;
///
/// let mine: Failure<std::fmt::Error> = Failure::Op(std::fmt::Error);
/// assert_eq!(mine.to_string(), std::fmt::Error.to_string());
/// assert_eq!(Failure::<std::fmt::Error>::Panicked("out of range".into()).to_string(), "it panicked: out of range");
/// ```
#[derive(Debug, thiserror::Error)]
pub enum Failure<E> {
    /// The op said so.
    #[error(transparent)]
    Op(E),
    /// The content of an input that a cache map needs could not be digested.
    #[error("the content of its input {input:?} has no digest")]
    Content {
        /// The input, as the cache map named it.
        input: VertexId,
        /// What the input's op said.
        source: Arc<E>,
    },
    /// A cache map named an input that needs the vertex itself.
    #[error("its cache map closes a cycle")]
    LateCycle(#[source] CycleError),
    /// A cache map named an input that is no vertex of the graph.
    #[error("its cache map needs {0:?}, which is not in the graph")]
    UnknownInput(VertexId),
    /// The op has no cache map at all, so that the vertex has no key: a bug in the op.
    #[error("it has no cache map")]
    NoCacheMap,
    /// The op panicked: a bug in the op.
    #[error("it panicked: {0}")]
    Panicked(String),
}

/// Why a build has not all its targets.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{BuildError, Config, Failure, JobOptions, Solver};
///
/// # block_on(async {
/// // `Say` is much as in the example of `Op`, but `oops` fails.
/// let (dag, [_, _, last]) = say(["well", "oops", "sorry"]);
/// let job = Solver::new(Config::new()).job("talk", JobOptions::default())?;
/// let Err(error) = job.build(dag, &[last]).await else { panic!("it fails") };
/// assert_eq!(error.to_string(), "oops failed");
/// let BuildError::Failed { chain, failure } = error else { panic!("a vertex does") };
/// assert_eq!(chain.iter().map(|(_, name)| &**name).collect::<Vec<_>>(), ["sorry", "oops"]);
/// assert!(matches!(*failure, Failure::Op(NoWord)));
/// # Ok::<_, larder_graph::OpenError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, thiserror::Error)]
pub enum BuildError<E> {
    /// A vertex failed.
    #[error("{} failed", chain.last().map_or("a vertex", |(_, name)| name.as_str()))]
    Failed {
        /// From a target that is missing to the vertex that failed, each an input of the one before, with its name.
        chain: Vec<(VertexId, String)>,
        /// Why. Shared with every other build that waited for the same vertex.
        #[source]
        failure: Arc<Failure<E>>,
    },
    /// The job was cancelled or discarded.
    #[error("the build was cancelled")]
    Cancelled,
    /// An op asked for a build that waits for the op itself.
    #[error("the build waits for the op that asked for it")]
    Circular,
    /// A target is no vertex of the graph.
    #[error("the target {0:?} is not in the graph")]
    UnknownTarget(VertexId),
}

/// Why a job cannot be opened.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, JobOptions, OpenError, Solver};
///
/// # block_on(async {
/// let solver = Solver::<Say>::new(Config::new());
/// let job = solver.job("ci", JobOptions::default());
/// let again = solver.job("ci", JobOptions::default());
/// assert_eq!(again.err(), Some(OpenError::Duplicate("ci".into())));
/// solver.close().await;
/// assert_eq!(solver.job("late", JobOptions::default()).err(), Some(OpenError::Closed));
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// One of this name is there already.
    #[error("there is a job `{0}` already")]
    Duplicate(String),
    /// The solver is [closed](crate::Solver::close).
    #[error("the solver is closed")]
    Closed,
}

/// There is no job of this name.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, Solver, UnknownJob};
///
/// # block_on(async {
/// let solver = Solver::<Say>::new(Config::new());
/// assert_eq!(solver.get("nobody").err(), Some(UnknownJob("nobody".into())));
/// # });
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no job `{0}`")]
pub struct UnknownJob(pub String);
