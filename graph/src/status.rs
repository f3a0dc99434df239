//! What a job tells while it goes: a history that everybody reads from its beginning, whenever they come.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::FlightId;
use crate::core::Core;
use crate::core::event::{Note, What};
use crate::core::node::{BuildId, Owner};
use crate::dag::{Dag, VertexId};
use crate::drive::Sink;
use crate::event::{Outcome, Settled};
use crate::few::ById;
use crate::op::{Op, Phase};
use crate::ready::JobId;

mod history;

pub use history::History;

/// A vertex as a job knows it.
///
/// See the example of [`StatusStream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusVertex {
    /// Counts the solver's builds: a job may have several, and an op's own builds are among them.
    pub build: u32,
    /// The vertex of that build's graph.
    pub vertex: VertexId,
}

/// Something that happened to a vertex of a job.
///
/// See the example of [`StatusStream`].
pub struct JobEvent<O: Op> {
    /// The vertex.
    pub vertex: StatusVertex,
    /// When, on the clock of the runtime.
    pub at: Instant,
    /// What.
    pub told: Told<O>,
}

/// What can happen to a vertex, in the order in which it may.
///
/// See the example of [`StatusStream`].
pub enum Told<O: Op> {
    /// The vertex comes into play. Comes first, and once.
    Vertex {
        /// What people call it.
        name: String,
        /// Its inputs, as far as they are edges of the graph.
        inputs: Vec<StatusVertex>,
    },
    /// A phase starts.
    Started(Phase),
    /// A cache has the result, which may never be needed.
    Found,
    /// The op tells of its work. Who comes to wait for a running op is told what it has told so far, without what was
    /// replaced since ([`Op::slot`]); and so is who comes late to the stream.
    Progress(Arc<O::Progress>),
    /// A cache could not be asked or written.
    CacheFailed(Arc<O::Error>),
    /// The vertex is done with. Comes last, and once, at the latest when its build ends; only that a slow cache could
    /// not keep the result may be told later.
    Ended(Box<Settled<O>>),
}

/// The events of one job, from its first on. Ends when the job is discarded.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, JobOptions, Solver, StatusVertex, Told};
///
/// # block_on(async {
/// let job = Solver::new(Config::new()).job("ci", JobOptions::default())?;
/// let (dag, [_, world]) = say(["hello", "world"]);
/// job.build(dag, &[world]).await?;
/// // Asked only now, and told all the same.
/// let mut status = job.status();
/// let first = status.next().await.expect("something has happened");
/// let Told::Vertex { name, inputs } = &first.told else { panic!("a vertex is introduced first") };
/// let StatusVertex { vertex, .. } = first.vertex;
/// assert_eq!((vertex, &**name, inputs.len()), (world, "world", 1));
/// let mut ended = Vec::new();
/// while let Some(event) = status.try_next() {
///     if let Told::Ended(settled) = &event.told {
///         assert!(event.at >= first.at);
///         ended.extend(settled.outcome.output().cloned());
///     }
/// }
/// assert_eq!(ended, ["hello".into(), "hello world".into()]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct StatusStream<O: Op> {
    events: mpsc::UnboundedReceiver<Arc<JobEvent<O>>>,
}

impl<O: Op> StatusStream<O> {
    pub(crate) fn new(events: mpsc::UnboundedReceiver<Arc<JobEvent<O>>>) -> Self {
        Self { events }
    }

    /// Waits for the next event; `None`: there will be no more.
    pub async fn next(&mut self) -> Option<Arc<JobEvent<O>>> {
        self.events.recv().await
    }

    /// Returns the next event if it is there already. After a build has ended all that happened in it is.
    pub fn try_next(&mut self) -> Option<Arc<JobEvent<O>>> {
        self.events.try_recv().ok()
    }
}

impl<O: Op> futures_core::Stream for StatusStream<O> {
    type Item = Arc<JobEvent<O>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// Keeps what every job was told.
pub(crate) struct Histories<O: Op> {
    jobs: ById<JobId, Listed<O>>,
    /// By flight: what its op told so far.
    logs: ById<FlightId, History<u64, Arc<O::Progress>>>,
    /// Vertices that were told of and have not ended.
    open: ById<BuildId, BTreeMap<VertexId, Open>>,
    /// Builds that are finished, for who drives the core.
    pub(crate) finished: Vec<BuildId>,
}

/// What is known of a vertex that has not ended.
struct Open {
    since: Instant,
    /// Whether a cache has it.
    is_found: bool,
}

struct Listed<O: Op> {
    /// Whether who comes late is told what was before.
    is_kept: bool,
    since: Instant,
    events: History<(StatusVertex, u64), Kept<O>>,
    readers: Vec<mpsc::UnboundedSender<Arc<JobEvent<O>>>>,
}

/// An event as it is kept: small, since there are many, and few are ever read.
struct Kept<O: Op> {
    vertex: StatusVertex,
    /// Since the job was opened; half as large as an `Instant`.
    nanos: u64,
    what: Brief<O>,
}

/// [`Told`], without what the graph says anyway.
enum Brief<O: Op> {
    Vertex(Arc<Dag<O>>),
    Started(Phase),
    Found,
    Progress(Arc<O::Progress>),
    CacheFailed(Arc<O::Error>),
    Ended(Box<Settled<O>>),
}

impl<O: Op> Clone for Brief<O> {
    fn clone(&self) -> Self {
        match self {
            Self::Vertex(dag) => Self::Vertex(Arc::clone(dag)),
            Self::Started(phase) => Self::Started(*phase),
            Self::Found => Self::Found,
            Self::Progress(progress) => Self::Progress(Arc::clone(progress)),
            Self::CacheFailed(error) => Self::CacheFailed(Arc::clone(error)),
            Self::Ended(settled) => Self::Ended(settled.clone()),
        }
    }
}

impl<O: Op> Brief<O> {
    /// Makes the event out of it that readers get.
    fn event(&self, vertex: StatusVertex, at: Instant) -> Arc<JobEvent<O>> {
        let told = match self.clone() {
            Self::Vertex(dag) => {
                let inputs = dag.inputs(vertex.vertex).map(|(input, _)| StatusVertex { vertex: input, ..vertex });
                Told::Vertex { name: dag.op(vertex.vertex).name(), inputs: inputs.collect() }
            }
            Self::Started(phase) => Told::Started(phase),
            Self::Found => Told::Found,
            Self::Progress(progress) => Told::Progress(progress),
            Self::CacheFailed(error) => Told::CacheFailed(error),
            Self::Ended(settled) => Told::Ended(settled),
        };
        Arc::new(JobEvent { vertex, at, told })
    }
}

impl<O: Op> Histories<O> {
    pub(crate) fn new() -> Self {
        Self { jobs: ById::default(), logs: ById::default(), open: ById::default(), finished: Vec::new() }
    }

    pub(crate) fn add(&mut self, job: JobId, is_kept: bool) {
        self.jobs.insert(job, Listed { is_kept, since: Instant::now(), events: History::new(), readers: Vec::new() });
    }

    /// Ends the streams of a job's readers.
    pub(crate) fn remove(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(crate) fn read(&mut self, job: JobId, reader: mpsc::UnboundedSender<Arc<JobEvent<O>>>) {
        let Some(history) = self.jobs.get_mut(&job) else { return };
        for Kept { vertex, nanos, what } in history.events.iter() {
            let _ = reader.send(what.event(*vertex, history.since + Duration::from_nanos(*nanos)));
        }
        history.readers.push(reader);
    }

    fn push(&mut self, core: &Core<O>, at: Instant, build: BuildId, vertex: VertexId, what: Brief<O>) {
        let vertex = StatusVertex { build: build.0, vertex };
        let slot = match &what {
            Brief::Progress(progress) => O::slot(progress).map(|slot| (vertex, slot)),
            _ => None,
        };
        let jobs = core.jobs(build);
        for (job, what) in jobs.iter().zip(std::iter::repeat_n(what, jobs.len())) {
            let Some(history) = self.jobs.get_mut(job) else { continue };
            if !history.readers.is_empty() {
                let event = what.event(vertex, at);
                history.readers.retain(|reader| reader.send(Arc::clone(&event)).is_ok());
            }
            if history.is_kept {
                let nanos = at.duration_since(history.since).as_nanos();
                let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
                history.events.push(slot, Kept { vertex, nanos, what });
            }
        }
    }

    /// Says whether anybody hears, now or later, what is told of a build.
    fn is_heard(&self, core: &Core<O>, build: BuildId) -> bool {
        let is_heard = |job| self.jobs.get(&job).is_some_and(|job| job.is_kept || !job.readers.is_empty());
        match core.build(build).map(|build| build.owner) {
            Some(Owner::Job(job)) => is_heard(job),
            _ => core.jobs(build).iter().copied().any(is_heard),
        }
    }

    fn introduce(&mut self, core: &Core<O>, at: Instant, build: BuildId, vertex: VertexId) {
        let open = self.open.entry(build).or_default();
        if open.contains_key(&vertex) {
            return;
        }
        open.insert(vertex, Open { since: at, is_found: false });
        let Some(of) = core.build(build) else { return };
        self.push(core, at, build, vertex, Brief::Vertex(Arc::clone(&of.dag)));
    }
}

impl<O: Op> Sink<O> for Histories<O> {
    fn note(&mut self, core: &Core<O>, note: Note<O>) {
        let (build, vertex) = (note.build, note.vertex);
        if matches!(note.what, What::Finished) {
            let at = Instant::now();
            for (vertex, open) in self.open.remove(&build).unwrap_or_default() {
                let outcome = if open.is_found { Outcome::Found } else { Outcome::Stopped };
                let settled = Settled { key: None, outcome, duration: at - open.since };
                self.push(core, at, build, vertex, Brief::Ended(Box::new(settled)));
            }
            return self.finished.push(build);
        }
        if !self.is_heard(core, build) {
            return;
        }
        let at = Instant::now();
        if let What::NotKept(error) = note.what {
            return self.push(core, at, build, vertex, Brief::CacheFailed(error));
        }
        self.introduce(core, at, build, vertex);
        match note.what {
            What::Started(phase, flight) => {
                self.push(core, at, build, vertex, Brief::Started(phase));
                let told: Vec<_> = self.logs.get(&flight).into_iter().flat_map(History::iter).cloned().collect();
                for progress in told {
                    self.push(core, at, build, vertex, Brief::Progress(progress));
                }
            }
            What::Found => {
                if let Some(open) = self.open.entry(build).or_default().get_mut(&vertex) {
                    open.is_found = true;
                }
                self.push(core, at, build, vertex, Brief::Found);
            }
            What::CacheFailed(error) => self.push(core, at, build, vertex, Brief::CacheFailed(error)),
            What::Settled(outcome) => {
                let open = self.open.entry(build).or_default().remove(&vertex);
                let duration = open.map_or(Duration::ZERO, |open| at - open.since);
                let key = core.key(note.node).cloned();
                self.push(core, at, build, vertex, Brief::Ended(Box::new(Settled { key, outcome, duration })));
            }
            What::NotKept(_) | What::Finished => {}
        }
    }

    fn progress(&mut self, core: &Core<O>, flight: FlightId, progress: O::Progress) {
        if core.flight(flight).is_none() {
            // A stray thread of an op may still hold a context.
            return;
        }
        let (at, progress) = (Instant::now(), Arc::new(progress));
        self.logs.entry(flight).or_default().push(O::slot(&progress), Arc::clone(&progress));
        for (build, vertex) in core.audience(flight) {
            self.push(core, at, build, vertex, Brief::Progress(Arc::clone(&progress)));
        }
    }

    fn ended(&mut self, flight: FlightId) {
        self.logs.remove(&flight);
    }
}
