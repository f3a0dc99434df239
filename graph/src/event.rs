//! What a run tells while it goes, and what it leaves: how each vertex ended.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::dag::{Dag, VertexId};
use crate::error::Failure;
use crate::op::{Op, Phase};

/// Something that happened, told in the order in which it did.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Event, Limits, OnFailure, Phase, Stop, run};
///
/// # block_on(async {
/// let (dag, _) = say(["hello"]);
/// let mut told = Vec::new();
/// run(dag, Limits::new(), OnFailure::Stop, Stop::new(), |event| told.push(match event {
///     Event::Started { phase: Phase::Execute, .. } => "it is made".to_owned(),
///     Event::Started { phase, .. } => format!("{phase:?}"),
///     Event::Progress { progress, .. } => format!("{progress} %"),
///     Event::CacheFailed { error, .. } => error.to_string(),
///     Event::Settled { settled, .. } => format!("{:?}", settled.outcome),
/// })).await;
/// assert_eq!(told, ["CacheMap(0)", "it is made", "100 %", "Executed(\"hello\")"]);
/// # });
/// ```
pub enum Event<'a, O: Op> {
    /// A phase of a vertex starts.
    Started {
        /// The vertex.
        vertex: VertexId,
        /// What it starts with.
        phase: Phase,
    },
    /// An op tells of its work. Never comes after its vertex settled.
    Progress {
        /// The vertex.
        vertex: VertexId,
        /// What it tells.
        progress: O::Progress,
    },
    /// A cache could not be asked or written; the vertex goes on as if the cache had nothing.
    CacheFailed {
        /// The vertex.
        vertex: VertexId,
        /// Why.
        error: &'a O::Error,
    },
    /// A vertex reached its end. Comes exactly once for each.
    Settled {
        /// The vertex.
        vertex: VertexId,
        /// How it ended.
        settled: &'a Settled<O>,
    },
}

/// How a vertex ended.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Limits, OnFailure, Settled, Stop, run};
///
/// # block_on(async {
/// let (dag, [_, world]) = say(["hello", "world"]);
/// let report = run(dag, Limits::new(), OnFailure::Stop, Stop::new(), |_| {}).await;
/// let Settled { key, outcome, .. } = report.settled(world);
/// assert_eq!(key.as_deref(), Some("world(hello())"));
/// assert_eq!(outcome.output().map(|words| &**words), Some("hello world"));
/// # });
/// ```
pub struct Settled<O: Op> {
    /// The vertex's final key, if it came to have one.
    pub key: Option<O::Key>,
    /// What became of it.
    pub outcome: Outcome<O>,
    /// The time since its first phase started; zero if none did.
    pub duration: Duration,
}

/// What became of a vertex.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Failure, Limits, OnFailure, Outcome, Stop, run};
///
/// # block_on(async {
/// let (dag, [oops, next]) = say(["oops", "next"]);
/// let report = run(dag, Limits::new(), OnFailure::KeepGoing, Stop::new(), |_| {}).await;
/// assert!(matches!(report.settled(oops).outcome.failure(), Some(Failure::Op(NoWord))));
/// assert!(matches!(report.settled(next).outcome, Outcome::Skipped { because } if because == oops));
/// assert!(report.settled(next).outcome.output().is_none());
/// # });
/// ```
pub enum Outcome<O: Op> {
    /// A cache had the result.
    Loaded(O::Output),
    /// The result was made.
    Executed(O::Output),
    /// It could not be made.
    Failed(Arc<Failure<O::Error>>),
    /// It was not tried, because something else failed.
    Skipped {
        /// The vertex that really failed, not one in between.
        because: VertexId,
    },
    /// It was not tried or not finished, because the run was asked to stop, or had no use for it any more.
    Stopped,
    /// A cache has the result, and nobody came to need it. Only jobs tell of this; a [`run`](crate::run) needs all.
    Found,
}

impl<O: Op> Clone for Settled<O> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), outcome: self.outcome.clone(), duration: self.duration }
    }
}

impl<O: Op> Clone for Outcome<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Loaded(output) => Self::Loaded(output.clone()),
            Self::Executed(output) => Self::Executed(output.clone()),
            Self::Failed(failure) => Self::Failed(Arc::clone(failure)),
            Self::Skipped { because } => Self::Skipped { because: *because },
            Self::Stopped => Self::Stopped,
            Self::Found => Self::Found,
        }
    }
}

impl<O: Op> Outcome<O> {
    /// Returns the result, if there is one.
    pub fn output(&self) -> Option<&O::Output> {
        match self {
            Self::Loaded(output) | Self::Executed(output) => Some(output),
            Self::Failed(_) | Self::Skipped { .. } | Self::Stopped | Self::Found => None,
        }
    }

    /// Returns why the vertex failed, if it did so itself.
    pub fn failure(&self) -> Option<&Failure<O::Error>> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl<O: Op<Output: fmt::Debug, Error: fmt::Debug>> fmt::Debug for Settled<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, outcome, duration } = self;
        let mut settled = f.debug_struct("Settled");
        settled.field("key", key).field("outcome", outcome).field("duration", duration).finish()
    }
}

impl<O: Op<Output: fmt::Debug, Error: fmt::Debug>> fmt::Debug for Outcome<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(output) => f.debug_tuple("Loaded").field(output).finish(),
            Self::Executed(output) => f.debug_tuple("Executed").field(output).finish(),
            Self::Failed(failure) => f.debug_tuple("Failed").field(failure).finish(),
            Self::Skipped { because } => f.debug_struct("Skipped").field("because", because).finish(),
            Self::Stopped => f.write_str("Stopped"),
            Self::Found => f.write_str("Found"),
        }
    }
}

/// How a whole run ended: every vertex is settled.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use std::collections::HashMap;
///
/// use larder_graph::{Limits, OnFailure, Report, Stop, run};
///
/// # block_on(async {
/// let (dag, [good, oops]) = say(["good", "oops"]);
/// let report = run(dag.clone(), Limits::new(), OnFailure::Stop, Stop::new(), |_| {}).await;
/// assert!(!report.is_success());
/// assert_eq!(report.output(good).map(|words| &**words), Some("good"));
/// assert_eq!(report.failures().map(|(vertex, _)| vertex).collect::<Vec<_>>(), [oops]);
/// // The same from what a job's status told.
/// let told: HashMap<_, _> = report.iter().map(|(vertex, settled)| (vertex, settled.clone())).collect();
/// assert_eq!(Report::of(&dag, told).iter().count(), dag.len());
/// # });
/// ```
pub struct Report<O: Op> {
    settled: SettledTable<O>,
}

/// How vertices ended, in the order in which they did: what is told one after the other lies side by side.
pub(crate) struct SettledTable<O: Op> {
    /// By vertex: its place. `u32::MAX`: none yet.
    places: Vec<u32>,
    settled: Vec<Settled<O>>,
}

impl<O: Op> SettledTable<O> {
    pub(crate) fn new(n_vertices: usize) -> Self {
        Self { places: vec![u32::MAX; n_vertices], settled: Vec::with_capacity(n_vertices) }
    }

    /// Takes in how a vertex ended, which it does once.
    pub(crate) fn insert(&mut self, vertex: VertexId, settled: Settled<O>) -> &Settled<O> {
        self.places[vertex.index()] = u32::try_from(self.settled.len()).expect("vertices are counted in 32 bits");
        self.settled.push(settled);
        &self.settled[self.settled.len() - 1]
    }

    fn get(&self, vertex: VertexId) -> Option<&Settled<O>> {
        self.settled.get(self.places[vertex.index()] as usize)
    }
}

impl<O: Op> Report<O> {
    /// Puts together how the vertices of a job's build ended, as its [`status`](crate::Job::status) told; what it did not
    /// tell of was stopped before it came into play.
    pub fn of<V>(dag: &Dag<V>, mut told: HashMap<VertexId, Settled<O>>) -> Self {
        let unheard = || Settled { key: None, outcome: Outcome::Stopped, duration: Duration::ZERO };
        let mut settled = SettledTable::new(dag.len());
        for vertex in dag.vertices() {
            settled.insert(vertex, told.remove(&vertex).unwrap_or_else(unheard));
        }
        Self::new(settled)
    }

    /// Takes over a table in which nothing is missing.
    pub(crate) fn new(settled: SettledTable<O>) -> Self {
        Self { settled }
    }

    /// Returns how `vertex` ended.
    pub fn settled(&self, vertex: VertexId) -> &Settled<O> {
        self.settled.get(vertex).expect("a run ends when every vertex is settled")
    }

    /// Returns the result of `vertex`, if it has one.
    pub fn output(&self, vertex: VertexId) -> Option<&O::Output> {
        self.settled(vertex).outcome.output()
    }

    /// Returns how every vertex ended, by index.
    pub fn iter(&self) -> impl Iterator<Item = (VertexId, &Settled<O>)> + '_ {
        (0..self.settled.places.len()).map(VertexId::new).map(|vertex| (vertex, self.settled(vertex)))
    }

    /// Returns the vertices that failed themselves, by index.
    pub fn failures(&self) -> impl Iterator<Item = (VertexId, &Failure<O::Error>)> + '_ {
        self.iter().filter_map(|(vertex, settled)| Some((vertex, settled.outcome.failure()?)))
    }

    /// Says whether every vertex has its result.
    pub fn is_success(&self) -> bool {
        self.settled.settled.iter().all(|settled| settled.outcome.output().is_some())
    }
}
