//! The solver that many jobs share: handles to a loop that owns all state.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::node::{BuildId, Owner};
use crate::dag::{Dag, VertexId};
use crate::drive::Driver;
use crate::error::{BuildError, OpenError, UnknownJob};
use crate::export::{Export, ExportMode};
use crate::op::Op;
use crate::ready::JobId;
use crate::run::OnFailure;
use crate::status::{Histories, JobEvent, StatusStream};
use crate::stop::Stop;
use crate::sync::{self, Arc, Mutex, lock};

mod message;
mod registry;

use message::{Msg, Ticket};
use registry::Registry;

/// Solves graphs for many jobs at a time. Clones are handles to the same solver, which lives as long as one of them or
/// of its jobs.
///
/// ```
/// # use std::{convert::Infallible, sync::Arc};
/// # use larder_graph::*;
/// # struct Answer;
/// # impl Op for Answer {
/// #     type Key = u8;
/// #     type Output = Arc<u8>;
/// #     type Error = Infallible;
/// #     type Progress = ();
/// #     async fn cache_map(&self, _: usize, _: &Context<Self>) -> Result<Option<CacheMap<u8>>, Infallible> {
/// #         Ok(Some(CacheMap::leaf(42).last()))
/// #     }
/// #     async fn execute(&self, key: &u8, _: Inputs<Self>, _: &Context<Self>) -> Result<Arc<u8>, Infallible> {
/// #         Ok(Arc::new(*key))
/// #     }
/// # }
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let graph = || { let mut builder = DagBuilder::new(); let id = builder.add(Answer); (builder.build().unwrap(), id) };
/// let cache = MemoryCache::new();
/// let solver = Solver::new(Config::new().cache(cache.clone()));
/// let job = solver.job("release", JobOptions::default())?;
/// assert_eq!(solver.job("release", JobOptions::default()).err(), Some(OpenError::Duplicate("release".into())));
/// job.set_value("asked by", "a test");
///
/// let (dag, target) = graph();
/// let built = job.build(dag, &[target]).await.expect("nothing fails here");
/// assert_eq!(*built.outputs[0], 42);
///
/// // What it came to can be taken elsewhere.
/// let elsewhere = MemoryCache::<Answer>::new();
/// elsewhere.import(&job.export(&built, ExportMode::Max).await);
/// assert_eq!(elsewhere.len(), cache.len());
///
/// // All that happened, told to who asks only now; ends with the job.
/// let mut status = job.status();
/// job.discard();
/// let mut n_completed = 0;
/// while let Some(event) = status.next().await {
///     let Told::Ended(settled) = &event.told else { continue };
///     n_completed += i32::from(matches!(settled.outcome, Outcome::Executed(_)));
/// }
/// assert_eq!(n_completed, 1);
///
/// // A cancelled job ends at once, and a closed solver opens no other.
/// let job = solver.job("another", JobOptions { on_failure: OnFailure::KeepGoing, ..JobOptions::default() })?;
/// job.cancel();
/// let (dag, target) = graph();
/// assert!(matches!(job.build(dag, &[target]).await, Err(BuildError::Cancelled)));
/// solver.close().await;
/// assert!(solver.get("another")?.stop().is_requested());
/// assert!(solver.job("late", JobOptions::default()).is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Solver<O: Op> {
    shared: Arc<Shared<O>>,
}

struct Shared<O: Op> {
    messages: mpsc::UnboundedSender<Msg<O>>,
    registry: Registry<JobInner<O>>,
    n_tickets: AtomicU64,
    /// Cancelled when the loop is gone.
    gone: CancellationToken,
}

impl<O: Op> Solver<O> {
    /// Starts a solver on the current tokio runtime.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(config: Config<O>) -> Self {
        let (messages, inbox) = mpsc::unbounded_channel();
        let gone = CancellationToken::new();
        // The loop ends when it is closed or no handle is left, and what runs has been asked to end and has ended.
        let guard = gone.clone().drop_guard();
        tokio::spawn(async move {
            serve(Driver::new(config), inbox).await;
            drop(guard);
        });
        Self { shared: Arc::new(Shared { messages, registry: Registry::new(), n_tickets: AtomicU64::new(0), gone }) }
    }

    /// Opens a job of this name.
    pub fn job(&self, name: impl Into<String>, options: JobOptions) -> Result<Job<O>, OpenError> {
        let name = name.into();
        let make = |id| {
            let (shared, values) = (Arc::clone(&self.shared), Mutex::default());
            JobInner { id: JobId(id), name: name.clone(), options, stop: Stop::new(), values, shared }
        };
        let announce = |job: &JobInner<O>| self.shared.send(Msg::Open(job.id, options.keeps_history));
        Ok(Job { inner: self.shared.registry.open(&name, make, announce)? })
    }

    /// Returns another handle to an open job. Looks now, and does not wait for one to be opened.
    pub fn get(&self, name: &str) -> Result<Job<O>, UnknownJob> {
        let inner = self.shared.registry.get(name);
        inner.map(|inner| Job { inner }).ok_or_else(|| UnknownJob(name.to_owned()))
    }

    /// Ends the solver in order, for all who have a handle: no job can be opened any more, every job is
    /// [cancelled](Job::cancel), and this returns when what ran has ended and caches have what they were to keep. A job
    /// that is in a hurry may still be [forced](Stop::force). Closed twice, both wait.
    ///
    /// Without it the same happens when the last handle and job are dropped, but nobody can wait for it.
    pub async fn close(&self) {
        self.shared.registry.close(|| self.shared.send(Msg::Close));
        self.shared.gone.cancelled().await;
    }

    /// Waits until the solver has taken in all that was asked of it so far, and returns how many vertices, builds,
    /// flights, and entries of its indexes it holds. All are zero when all jobs are discarded and nothing runs.
    pub async fn census(&self) -> [usize; 7] {
        let (reply, census) = oneshot::channel();
        self.shared.send(Msg::Census(reply));
        census.await.unwrap_or_default()
    }
}

impl<O: Op> Clone for Solver<O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<O: Op> Shared<O> {
    fn send(&self, message: Msg<O>) {
        // Without a runtime there is no loop, and nobody to wait for it.
        let _ = self.messages.send(message);
    }
}

/// How a job wants to be served.
///
/// ```
/// use larder_graph::{JobOptions, OnFailure};
///
/// // A job that nobody will ask later what happened.
/// let options = JobOptions { on_failure: OnFailure::KeepGoing, keeps_history: false };
/// assert_ne!(options, JobOptions::default());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobOptions {
    /// What a failure means for the rest of a build. What fails for one job goes on for others that keep going.
    pub on_failure: OnFailure,
    /// Keeps all that happened for who asks for the [`status`](Job::status) later; it takes some 220 bytes per vertex.
    /// Without it a reader hears what happens from then on.
    pub keeps_history: bool,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self { on_failure: OnFailure::Stop, keeps_history: true }
    }
}

/// One client's requests. What it built is kept until it is discarded or its last handle is dropped.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{BuildError, Config, JobOptions, Solver};
///
/// # block_on(async {
/// let solver = Solver::new(Config::new());
/// let job = solver.job("nightly", JobOptions::default())?;
/// job.set_value("asked by", "a timer");
/// let mut asked_by = Vec::new();
/// solver.get(job.name())?.each_value("asked by", |by: &&str| asked_by.push(*by));
/// assert_eq!(asked_by, ["a timer"]);
///
/// let (dag, [_, world]) = say(["hello", "world"]);
/// assert_eq!(&*job.build(dag.clone(), &[world]).await?.outputs[0], "hello world");
/// job.clone().cancel();
/// assert!(job.stop().is_requested());
/// assert!(matches!(job.build(dag, &[world]).await, Err(BuildError::Cancelled)));
/// job.discard();
/// assert_eq!(solver.census().await, [0; 7]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Job<O: Op> {
    inner: Arc<JobInner<O>>,
}

type Value = Arc<dyn Any + Send + Sync>;

struct JobInner<O: Op> {
    id: JobId,
    name: String,
    options: JobOptions,
    stop: Stop,
    values: Mutex<HashMap<String, Vec<Value>>>,
    shared: Arc<Shared<O>>,
}

/// What a build came to.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Config, JobOptions, Solver};
///
/// # block_on(async {
/// let job = Solver::new(Config::new()).job("ci", JobOptions::default())?;
/// let (dag, [hello, world]) = say(["hello", "world"]);
/// let built = job.build(dag, &[world, hello]).await?;
/// assert_eq!(built.outputs, ["hello world".into(), "hello".into()]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub struct Built<O: Op> {
    id: BuildId,
    /// The results of the targets, in their order, each with all its outputs ([`Op::output`]).
    pub outputs: Vec<O::Output>,
}

impl<O: Op> Job<O> {
    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Brings the results of `targets`, and whatever they need for it. Dropping the future cancels this build.
    pub async fn build(
        &self,
        dag: impl Into<Arc<Dag<O>>>,
        targets: &[VertexId],
    ) -> Result<Built<O>, BuildError<O::Error>> {
        let (dag, inner) = (dag.into(), &self.inner);
        if let Some(target) = targets.iter().find(|target| !dag.contains(**target)) {
            return Err(BuildError::UnknownTarget(*target));
        }
        if inner.stop.is_requested() {
            return Err(BuildError::Cancelled);
        }
        let ticket = Ticket(inner.shared.n_tickets.fetch_add(1, Ordering::Relaxed));
        let (reply, mut answer) = oneshot::channel();
        let is_fail_fast = inner.options.on_failure == OnFailure::Stop;
        let targets = targets.to_vec();
        inner.shared.send(Msg::Build { ticket, job: inner.id, dag, targets, is_fail_fast, reply });
        let mut cancel = CancelOnDrop { ticket, shared: Some(&inner.shared) };
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            () = inner.stop.requested() => {
                inner.shared.send(Msg::Cancel { ticket, is_forced: false });
                tokio::select! {
                    biased;
                    answer = &mut answer => answer,
                    () = inner.stop.forced() => {
                        inner.shared.send(Msg::Cancel { ticket, is_forced: true });
                        answer.await
                    }
                }
            }
        };
        cancel.shared = None;
        let (id, outputs) = answer.unwrap_or(Err(BuildError::Cancelled))?;
        Ok(Built { id, outputs })
    }

    /// Returns the handle by which the job is cancelled, first kindly, then at once. All its builds end as
    /// [`BuildError::Cancelled`], as soon as what runs for nobody else has ended. There is no way back: a new attempt is
    /// a new job.
    pub fn stop(&self) -> &Stop {
        &self.inner.stop
    }

    /// Cancels the job kindly.
    pub fn cancel(&self) {
        self.inner.stop.request();
    }

    /// Gives up all results. The name is free again, other handles are of no use any more.
    pub fn discard(self) {
        self.inner.end();
    }

    /// Attaches a value under a name; a name may have several.
    pub fn set_value(&self, name: impl Into<String>, value: impl Any + Send + Sync) {
        let mut values = lock(&self.inner.values);
        values.entry(name.into()).or_default().push(Arc::new(value));
    }

    /// Visits the values of a name that are of type `T`, in the order in which they were attached.
    pub fn each_value<T: Any + Send + Sync>(&self, name: &str, mut visit: impl FnMut(&T)) {
        let values = lock(&self.inner.values).get(name).cloned();
        values.iter().flatten().filter_map(|value| value.downcast_ref()).for_each(&mut visit);
    }

    /// Returns all that happened in this job so far, and will.
    pub fn status(&self) -> StatusStream<O> {
        let (reader, events) = mpsc::unbounded_channel();
        self.inner.shared.send(Msg::Read { job: self.inner.id, reader });
        StatusStream::new(events)
    }

    /// Returns the records of what a build of this job came to. What a cache does not have any more is left out.
    pub async fn export(&self, built: &Built<O>, mode: ExportMode) -> Export<O::Key, O::Output> {
        let (reply, draft) = oneshot::channel();
        self.inner.shared.send(Msg::Export { build: built.id, reply });
        match draft.await {
            Ok(draft) => draft.complete(mode).await,
            Err(_) => Export::default(),
        }
    }
}

impl<O: Op> Clone for Job<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<O: Op> JobInner<O> {
    fn end(&self) {
        self.stop.request();
        self.shared.registry.remove(&self.name, self);
        self.shared.send(Msg::Discard(self.id));
    }
}

impl<O: Op> Drop for JobInner<O> {
    fn drop(&mut self) {
        self.end();
    }
}

struct CancelOnDrop<'a, O: Op> {
    ticket: Ticket,
    shared: Option<&'a Shared<O>>,
}

impl<O: Op> Drop for CancelOnDrop<'_, O> {
    fn drop(&mut self) {
        if let Some(shared) = self.shared {
            shared.send(Msg::Cancel { ticket: self.ticket, is_forced: false });
        }
    }
}

async fn serve<O: Op>(mut driver: Driver<O>, mut inbox: mpsc::UnboundedReceiver<Msg<O>>) {
    let mut office = message::Office::new();
    // Whether there may be more messages.
    let mut is_open = true;
    while !driver.is_idle() || (is_open && !office.is_closed) {
        driver.start_ready(&mut office.histories).await;
        office.reply(&mut driver);
        tokio::select! {
            biased;
            message = inbox.recv(), if is_open => match message {
                Some(message) => office.take(&mut driver, message),
                None => is_open = false,
            },
            arrival = driver.arrival() => driver.take_in(arrival, &mut office.histories),
        }
        office.reply(&mut driver);
    }
}
