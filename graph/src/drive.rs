//! The loop's body: starts what may start, takes in what has ended; the only owner of the core.
//!
//! Ops run as tasks that send one message home, how their phase ended. Every task is joined here, and none is ever
//! aborted: an op may have children of its own to wait for. What asks a cache may be dropped, and is, when nobody wants
//! the answer any more.

use std::any::Any;
use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, Waker};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, coop};

use crate::cache::{Cache, CacheManager, Record, Save};
use crate::config::Config;
use crate::context::{Context, FlightId, Home, Inputs};
use crate::core::event::{Note, What};
use crate::core::node::{BuildId, Drain, Owner};
use crate::core::{Core, Done, Kept, Start, Work, Writing};
use crate::dag::VertexId;
use crate::error::BuildError;
use crate::few::ById;
use crate::op::{Op, Part};
use crate::subbuild::{Answer, SubBuild};

/// Reports of progress that may be unread at a time; see [`Context::report`].
const PROGRESS_MAX: usize = 1024;

/// A panic as it was caught.
pub(crate) type Panic = Box<dyn Any + Send>;

/// Who hears what happens.
pub(crate) trait Sink<O: Op> {
    /// Something happened to a vertex, or a build ended.
    fn note(&mut self, core: &Core<O>, note: Note<O>);

    /// An op tells of its work.
    fn progress(&mut self, core: &Core<O>, flight: FlightId, progress: O::Progress);

    /// A flight has ended; called before what follows from that is told.
    fn ended(&mut self, _flight: FlightId) {}

    /// An op panicked, for the first time.
    fn panicked(&mut self) {}

    /// Something is about to start: the last chance to ask a build to end.
    fn before_start(&mut self, _core: &mut Core<O>) {}
}

pub(crate) struct Driver<O: Op> {
    pub(crate) core: Core<O>,
    progress: mpsc::Receiver<(FlightId, O::Progress)>,
    sub_builds: mpsc::UnboundedReceiver<SubBuild<O>>,
    tasks: JoinSet<Landed<O>>,
    /// Who waits for which sub-build.
    askers: HashMap<BuildId, oneshot::Sender<Answer<O>>>,
    /// What the ops of these flights are told as soon as they have back what they occupied.
    answers: ById<FlightId, Vec<Reply<O>>>,
    /// The first panic of an op.
    pub(crate) panic: Option<Panic>,
}

/// An answer that waits to be sent.
type Reply<O> = (oneshot::Sender<Answer<O>>, Answer<O>);

/// The end of a flight.
pub(crate) struct Landed<O: Op> {
    flight: FlightId,
    done: Done<O>,
    panic: Option<Panic>,
}

/// Something that the loop waits for.
pub(crate) enum Arrival<O: Op> {
    Landed(Landed<O>),
    Progress(FlightId, O::Progress),
    SubBuild(SubBuild<O>),
}

impl<O: Op> Driver<O> {
    pub(crate) fn new(config: Config<O>) -> Self {
        let (sender, progress) = mpsc::channel(PROGRESS_MAX);
        let (asker, sub_builds) = mpsc::unbounded_channel();
        Self {
            core: Core::new(config, Arc::new(Home { progress: sender, sub_builds: asker })),
            progress,
            sub_builds,
            tasks: JoinSet::new(),
            askers: HashMap::new(),
            answers: ById::default(),
            panic: None,
        }
    }

    /// Starts all that may start. A phase that ends without waiting costs no task, and may let others start.
    pub(crate) async fn start_ready(&mut self, sink: &mut impl Sink<O>) {
        loop {
            sink.before_start(&mut self.core);
            self.tell(sink);
            let start = self.core.start_next();
            self.answer_resumed();
            let has_ended = self.tell(sink);
            let Some(Start { flight, context, work }) = start else {
                // The op that asked for what has ended may go on.
                if has_ended {
                    continue;
                }
                return;
            };
            let mut task = Task { flight, work: perform(context, work) };
            // The waker may be deaf: a task that waits is polled again as soon as it is spawned.
            match Pin::new(&mut task).poll(&mut task::Context::from_waker(Waker::noop())) {
                Poll::Ready(landed) => self.take_in(Arrival::Landed(landed), sink),
                Poll::Pending => drop(self.tasks.spawn(task)),
            }
            // A graph that never waits must not keep others, such as a Ctrl-C handler, from running.
            coop::consume_budget().await;
        }
    }

    /// Waits for the next thing to take in; forever, if nothing runs. May be dropped.
    pub(crate) async fn arrival(&mut self) -> Arrival<O> {
        tokio::select! {
            biased;
            Some(joined) = self.tasks.join_next() => {
                Arrival::Landed(joined.expect("a task catches its panics and is not aborted"))
            }
            Some(sub_build) = self.sub_builds.recv() => Arrival::SubBuild(sub_build),
            Some((flight, progress)) = self.progress.recv() => Arrival::Progress(flight, progress),
        }
    }

    pub(crate) fn take_in(&mut self, arrival: Arrival<O>, sink: &mut impl Sink<O>) {
        match arrival {
            Arrival::Progress(flight, progress) => sink.progress(&self.core, flight, progress),
            Arrival::SubBuild(SubBuild { flight, dag, targets, reply }) => {
                if let Some(build) = self.core.submit_sub(flight, dag, &targets) {
                    self.askers.insert(build, reply);
                }
            }
            Arrival::Landed(Landed { flight, done, panic }) => {
                // What was told before the phase ended is there by now.
                for _ in 0..self.progress.len() {
                    if let Ok((flight, progress)) = self.progress.try_recv() {
                        sink.progress(&self.core, flight, progress);
                    }
                }
                if self.panic.is_none() && panic.is_some() {
                    self.panic = panic;
                    sink.panicked();
                }
                self.answers.remove(&flight);
                sink.before_start(&mut self.core);
                sink.ended(flight);
                self.core.advance(flight, done);
            }
        }
        self.tell(sink);
    }

    /// Says whether any op or cache is at work.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.core.is_idle()
    }

    /// Hands on what the core has to tell. Says whether the end of a sub-build was among it.
    pub(crate) fn tell(&mut self, sink: &mut impl Sink<O>) -> bool {
        let mut has_ended = false;
        while let Some(note) = self.core.next_note() {
            let build = note.build;
            let is_end = matches!(note.what, What::Finished);
            sink.note(&self.core, note);
            if is_end && let Some(reply) = self.askers.remove(&build) {
                self.sub_finished(build, reply);
                has_ended = true;
            }
        }
        has_ended
    }

    fn sub_finished(&mut self, build: BuildId, reply: oneshot::Sender<Answer<O>>) {
        let Some(Owner::Flight(flight)) = self.core.build(build).map(|build| build.owner) else { return };
        let answer = self.core.answer(build);
        if self.core.end_sub(flight) {
            // The op waits for another build too, and has nothing to go on with but this.
            let _ = reply.send(answer);
        } else {
            self.answers.entry(flight).or_default().push((reply, answer));
        }
    }

    fn answer_resumed(&mut self) {
        while let Some(flight) = self.core.next_resumed() {
            for (reply, answer) in self.answers.remove(&flight).unwrap_or_default() {
                let _ = reply.send(answer);
            }
        }
    }
}

impl<O: Op> Core<O> {
    /// Returns what a finished build came to.
    pub(crate) fn answer(&self, id: BuildId) -> Answer<O> {
        let Some(build) = self.build(id) else { return Err(BuildError::Cancelled) };
        let nodes = || build.targets.iter().filter_map(|target| build.nodes[target.index()]);
        if build.is_circular {
            return Err(BuildError::Circular);
        }
        if build.drain == Some(Drain::Stopped) {
            return Err(BuildError::Cancelled);
        }
        let mut outputs = Vec::with_capacity(build.targets.len());
        for node in nodes().filter_map(|node| self.node(node)) {
            match &node.made {
                Some(made) => outputs.push(made.result.clone()),
                None => break,
            }
        }
        if outputs.len() == build.targets.len() {
            return Ok(outputs);
        }
        let lost =
            nodes().find(|node| self.node(*node).is_some_and(|node| node.lost_to.is_some() && node.made.is_none()));
        let first = match (lost, build.drain) {
            (Some(lost), _) => lost,
            (None, Some(Drain::Failed(root))) => root,
            (None, _) => return Err(BuildError::Cancelled),
        };
        let chain = self.chain(first);
        let root = chain.last().and_then(|root| self.node(*root));
        let failure = root.and_then(|root| root.more.as_ref()?.failure.clone());
        let named = |node| -> (VertexId, String) { (self.vertex_in(id, node), self.op_name(node)) };
        match failure {
            Some(failure) => Err(BuildError::Failed { chain: chain.into_iter().map(named).collect(), failure }),
            None => Err(BuildError::Cancelled),
        }
    }
}

type Performing<O> = Pin<Box<dyn Future<Output = Done<O>> + Send>>;

/// Makes a phase into a future of its own size; there are many.
fn perform<O: Op>(context: Context<O>, work: Work<O>) -> Performing<O> {
    match work {
        Work::CacheMap { index } => {
            Box::pin(async move { Done::CacheMap(context.op().cache_map(index, &context).await) })
        }
        Work::Execute { cache, key, links, inputs } => Box::pin(execute(context, cache, key, links, inputs)),
        Work::Query { cache, key, earlier } => Box::pin(async move {
            match unless_stopped(&context, cache.query(&key)).await.unwrap_or(Ok(None)) {
                Ok(Some(found)) => {
                    // Next time the first of these keys will do.
                    let mut aliases = earlier;
                    aliases.push(key);
                    aliases.retain(|alias| *alias != found.key);
                    let kept = link(cache, aliases, &found.key).await;
                    Done::Query(Ok(Some(found)), kept)
                }
                miss => Done::Query(miss, Kept::Yes),
            }
        }),
        Work::Load { cache, record } => Box::pin(load(context, cache, record)),
        Work::Digest { cache, key, part } => Box::pin(async move {
            let digest = cache.digest(&key, part.output, part.selector.as_deref());
            Done::Digest(unless_stopped(&context, digest).await.unwrap_or(Ok(None)))
        }),
        Work::Content { cache, key, part, result } => Box::pin(digest(context, cache, key, part, result)),
        Work::Write(writing) => Box::pin(async move { Done::Written(writing.await) }),
    }
}

async fn execute<O: Op>(
    context: Context<O>,
    cache: Option<Cache<O>>,
    key: O::Key,
    links: Vec<O::Key>,
    inputs: Inputs<O>,
) -> Done<O> {
    let output = match context.op().execute(&key, inputs, &context).await {
        Ok(output) => output,
        Err(error) => return Done::Execute(Err(error), Kept::Yes),
    };
    let kept = match cache {
        Some(cache) => save(cache, key, links, output.clone()).await,
        None => Kept::Yes,
    };
    Done::Execute(Ok(output), kept)
}

async fn load<O: Op>(context: Context<O>, cache: Cache<O>, record: Record<O::Key>) -> Done<O> {
    let loaded = unless_stopped(&context, cache.load(&record)).await.unwrap_or(Ok(None));
    let kept = match &loaded {
        // What another cache had is in the main one from now on.
        Ok(Some(output)) if record.source.is_some() => save(cache, record.key, Vec::new(), output.clone()).await,
        _ => Kept::Yes,
    };
    Done::Load(loaded, kept)
}

async fn save<O: Op>(cache: Cache<O>, key: O::Key, links: Vec<O::Key>, output: O::Output) -> Kept<O> {
    begin(async move { cache.save(Save { key: &key, links: &links, output: &output }).await }).await
}

async fn link<O: Op>(cache: Cache<O>, aliases: Vec<O::Key>, key: &O::Key) -> Kept<O> {
    if aliases.is_empty() {
        return Kept::Yes;
    }
    let key = key.clone();
    begin(async move {
        for alias in &aliases {
            cache.link(alias, &key).await?;
        }
        Ok(())
    })
    .await
}

/// Has a cache keep something. If that takes time, nobody waits for it here.
async fn begin<O: Op>(writing: impl Future<Output = Result<(), O::Error>> + Send + 'static) -> Kept<O> {
    let mut writing: Writing<O> = Box::pin(writing);
    match poll_fn(|cx| Poll::Ready(writing.as_mut().poll(cx))).await {
        Poll::Ready(Ok(())) => Kept::Yes,
        Poll::Ready(Err(error)) => Kept::No(error),
        Poll::Pending => Kept::Underway(writing),
    }
}

async fn digest<O: Op>(
    context: Context<O>,
    cache: Option<Cache<O>>,
    key: O::Key,
    part: Part,
    result: O::Output,
) -> Done<O> {
    let op = context.op();
    let (output, selector) = (op.output(&result, part.output), part.selector.as_deref());
    let digest = match op.content(&key, &output, selector, &context).await {
        Ok(digest) => digest,
        Err(error) => return Done::Content(Err(error), Kept::Yes),
    };
    let kept = match cache {
        Some(cache) => {
            let (key, digest) = (key.clone(), digest.clone());
            begin(async move { cache.remember(&key, part.output, part.selector.as_deref(), &digest).await }).await
        }
        None => Kept::Yes,
    };
    Done::Content(Ok(digest), kept)
}

/// Waits for a cache, but not when nobody wants the answer any more.
async fn unless_stopped<O: Op, T>(context: &Context<O>, answer: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        answer = answer => Some(answer),
        () = async { context.stop().requested().await } => None,
    }
}

/// A phase that runs. Its panic is an end like any other, wherever between two awaits it happens.
struct Task<O: Op> {
    flight: FlightId,
    work: Performing<O>,
}

impl<O: Op> Future for Task<O> {
    type Output = Landed<O>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Landed<O>> {
        let flight = self.flight;
        // After a panic the future is not polled again, and what it borrowed goes with it.
        match catch_unwind(AssertUnwindSafe(|| self.work.as_mut().poll(cx))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Landed { flight, done, panic: None }),
            Err(panic) => Poll::Ready(Landed { flight, done: Done::Panicked(message(&*panic)), panic: Some(panic) }),
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something unprintable".to_owned())
}
