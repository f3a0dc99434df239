//! What a job tells while it goes: a history that everybody reads from its beginning, whenever they come.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::FlightId;
use crate::core::Core;
use crate::core::event::{Note, What};
use crate::core::node::{BuildId, Owner};
use crate::dag::VertexId;
use crate::drive::Sink;
use crate::error::Failure;
use crate::event::Outcome;
use crate::op::{Op, Phase};
use crate::ready::JobId;

/// A vertex as a job knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusVertex {
    /// Counts the solver's builds: a job may have several, and an op's own builds are among them.
    pub build: u32,
    /// The vertex of that build's graph.
    pub vertex: VertexId,
}

/// Something that happened to a vertex of a job.
pub struct JobEvent<O: Op> {
    /// The vertex.
    pub vertex: StatusVertex,
    /// When, on the clock of the runtime.
    pub at: Instant,
    /// What.
    pub told: Told<O>,
}

/// What can happen to a vertex, in the order in which it may.
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
    /// The op tells of its work. Who comes to wait for a running op is told all that it has told so far.
    Progress(Arc<O::Progress>),
    /// A cache could not be asked or written.
    CacheFailed(Arc<O::Error>),
    /// The vertex is done with. Comes last, and once, at the latest when its build ends; only that a slow cache could
    /// not keep the result may be told later.
    Ended(End<O>),
}

/// How a vertex ended for a job.
pub enum End<O: Op> {
    /// The result was there, or another vertex made it, or it was known to be in a cache and not needed.
    Cached,
    /// The result was made.
    Completed,
    /// It could not be made.
    Failed(Arc<Failure<O::Error>>),
    /// It was not tried because this vertex failed.
    Skipped(VertexId),
    /// It was not finished, because the job was cancelled or had no use for it any more.
    Cancelled,
}

/// The events of one job, from its first on. Ends when the job is discarded.
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
}

impl<O: Op> futures_core::Stream for StatusStream<O> {
    type Item = Arc<JobEvent<O>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx)
    }
}

/// Keeps what every job was told.
pub(crate) struct Histories<O: Op> {
    jobs: HashMap<JobId, History<O>>,
    /// By flight: what its op told so far.
    logs: HashMap<FlightId, Vec<Arc<O::Progress>>>,
    /// Vertices that were told of and have not ended; and whether a cache has them.
    open: HashMap<BuildId, BTreeMap<VertexId, bool>>,
    /// Builds that are finished, for who drives the core.
    pub(crate) finished: Vec<BuildId>,
}

struct History<O: Op> {
    /// Whether who comes late is told what was before.
    is_kept: bool,
    events: Vec<Arc<JobEvent<O>>>,
    readers: Vec<mpsc::UnboundedSender<Arc<JobEvent<O>>>>,
}

impl<O: Op> Histories<O> {
    pub(crate) fn new() -> Self {
        Self { jobs: HashMap::new(), logs: HashMap::new(), open: HashMap::new(), finished: Vec::new() }
    }

    pub(crate) fn add(&mut self, job: JobId, is_kept: bool) {
        self.jobs.insert(job, History { is_kept, events: Vec::new(), readers: Vec::new() });
    }

    /// Ends the streams of a job's readers.
    pub(crate) fn remove(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(crate) fn read(&mut self, job: JobId, reader: mpsc::UnboundedSender<Arc<JobEvent<O>>>) {
        let Some(history) = self.jobs.get_mut(&job) else { return };
        for event in &history.events {
            let _ = reader.send(Arc::clone(event));
        }
        history.readers.push(reader);
    }

    fn push(&mut self, core: &Core<O>, build: BuildId, vertex: VertexId, told: Told<O>) {
        let vertex = StatusVertex { build: build.0, vertex };
        let event = Arc::new(JobEvent { vertex, at: Instant::now(), told });
        for job in core.jobs(build) {
            let Some(history) = self.jobs.get_mut(&job) else { continue };
            history.readers.retain(|reader| reader.send(Arc::clone(&event)).is_ok());
            if history.is_kept {
                history.events.push(Arc::clone(&event));
            }
        }
    }

    /// Says whether anybody hears, now or later, what is told of a build.
    fn is_heard(&self, core: &Core<O>, build: BuildId) -> bool {
        let is_heard = |job| self.jobs.get(&job).is_some_and(|job| job.is_kept || !job.readers.is_empty());
        match core.build(build).map(|build| build.owner) {
            Some(Owner::Job(job)) => is_heard(job),
            _ => core.jobs(build).into_iter().any(is_heard),
        }
    }

    fn introduce(&mut self, core: &Core<O>, build: BuildId, vertex: VertexId) {
        let open = self.open.entry(build).or_default();
        if open.contains_key(&vertex) {
            return;
        }
        open.insert(vertex, false);
        let Some(of) = core.build(build) else { return };
        let inputs = of.dag.inputs(vertex).map(|(vertex, _)| StatusVertex { build: build.0, vertex }).collect();
        self.push(core, build, vertex, Told::Vertex { name: of.dag.op(vertex).name(), inputs });
    }
}

impl<O: Op> Sink<O> for Histories<O> {
    fn note(&mut self, core: &Core<O>, note: Note<O>) {
        let (build, vertex) = (note.build, note.vertex);
        if matches!(note.what, What::Finished) {
            for (vertex, is_found) in self.open.remove(&build).unwrap_or_default() {
                self.push(core, build, vertex, Told::Ended(if is_found { End::Cached } else { End::Cancelled }));
            }
            return self.finished.push(build);
        }
        if !self.is_heard(core, build) {
            return;
        }
        if let What::NotKept(error) = note.what {
            return self.push(core, build, vertex, Told::CacheFailed(error));
        }
        self.introduce(core, build, vertex);
        match note.what {
            What::Started(phase, flight) => {
                self.push(core, build, vertex, Told::Started(phase));
                for progress in self.logs.get(&flight).cloned().unwrap_or_default() {
                    self.push(core, build, vertex, Told::Progress(progress));
                }
            }
            What::Found => {
                self.open.entry(build).or_default().insert(vertex, true);
                self.push(core, build, vertex, Told::Found);
            }
            What::CacheFailed(error) => self.push(core, build, vertex, Told::CacheFailed(error)),
            What::Settled(outcome) => {
                self.open.entry(build).or_default().remove(&vertex);
                let end = match outcome {
                    Outcome::Loaded(_) => End::Cached,
                    Outcome::Executed(_) => End::Completed,
                    Outcome::Failed(failure) => End::Failed(failure),
                    Outcome::Skipped { because } => End::Skipped(because),
                    Outcome::Stopped => End::Cancelled,
                };
                self.push(core, build, vertex, Told::Ended(end));
            }
            What::NotKept(_) | What::Finished => {}
        }
    }

    fn progress(&mut self, core: &Core<O>, flight: FlightId, progress: O::Progress) {
        if core.flight(flight).is_none() {
            // A stray thread of an op may still hold a context.
            return;
        }
        let progress = Arc::new(progress);
        self.logs.entry(flight).or_default().push(Arc::clone(&progress));
        for (build, vertex) in core.audience(flight) {
            self.push(core, build, vertex, Told::Progress(Arc::clone(&progress)));
        }
    }

    fn ended(&mut self, flight: FlightId) {
        self.logs.remove(&flight);
    }
}
