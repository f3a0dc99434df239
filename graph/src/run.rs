//! One graph from nothing to a report: a solver of its own with one job, which wants every vertex.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::context::FlightId;
use crate::core::Core;
use crate::core::event::{Note, What};
use crate::core::node::{BuildId, Owner};
use crate::dag::{Dag, VertexId};
use crate::drive::{Driver, Sink};
use crate::event::{Event, Report, Settled, SettledTable};
use crate::few::ById;
use crate::op::Op;
use crate::ready::JobId;
use crate::stop::{Bell, Stop};

/// What a failure means for the vertices that do not depend on it.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Limits, OnFailure, Stop, run};
///
/// # block_on(async {
/// for (on_failure, n_results) in [(OnFailure::Stop, 0), (OnFailure::KeepGoing, 1)] {
///     let mut builder = larder_graph::DagBuilder::new();
///     let [_, fine] = ["oops", "fine"].map(|word| builder.add(Say(word, vec![])));
///     let dag = builder.build()?;
///     let report = run(dag.into(), Limits::new().pool("cpu", 1), on_failure, Stop::new(), |_| {}).await;
///     assert_eq!(report.output(fine).is_some(), n_results == 1);
/// }
/// # Ok::<_, larder_graph::CycleError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing more starts. What runs ends by itself and is kept.
    Stop,
    /// They go on.
    KeepGoing,
}

/// Settles every vertex of `dag`, and tells `events` how it goes.
///
/// When `stop` is requested nothing more starts; the run returns when what runs has ended, and caches have what they were
/// to keep; when it is forced it does not wait for caches. The future should be awaited
/// to its end: dropping it drops the ops' futures wherever they are.
///
/// # Panics
/// When an op panics: after all others were asked to stop and have ended, the panic goes on from here.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use larder_graph::{Limits, OnFailure, Stop, run};
///
/// # block_on(async {
/// let (dag, [_, world]) = say(["hello", "world"]);
/// let stop = Stop::new();
/// let report = run(dag, Limits::new(), OnFailure::Stop, stop.clone(), |_event| {}).await;
/// assert_eq!(report.output(world).map(|words| &**words), Some("hello world"));
///
/// // What is asked to stop before it begins starts nothing.
/// stop.request();
/// let (dag, [_, world]) = say(["hello", "world"]);
/// let report = run(dag, Limits::new(), OnFailure::Stop, stop, |_event| {}).await;
/// assert!(report.output(world).is_none() && !report.is_success());
/// # });
/// ```
pub async fn run<O: Op>(
    dag: Arc<Dag<O>>,
    config: impl Into<Config<O>>,
    on_failure: OnFailure,
    stop: Stop,
    events: impl FnMut(Event<'_, O>),
) -> Report<O> {
    let mut driver = Driver::new(config.into());
    let n_vertices = dag.len();
    let mut sink = Run {
        bell: stop.bell(),
        stop: stop.clone(),
        heard: 0,
        build: None,
        started_at: ById::default(),
        settled: SettledTable::new(n_vertices),
        is_finished: false,
        is_deaf: false,
        events,
    };
    let is_fail_fast = on_failure == OnFailure::Stop;
    let build = driver.core.submit(Owner::Job(JobId(0)), Arc::clone(&dag), &[], is_fail_fast, true);
    sink.build = Some(build);
    loop {
        driver.start_ready(&mut sink).await;
        // Who is in a hurry does not wait for slow caches.
        let is_idle = driver.is_idle() || (sink.heard == 2 && driver.core.only_writes());
        if driver.panic.is_some() || (sink.is_finished && is_idle) {
            break;
        }
        assert!(!driver.is_idle(), "the solver is stuck: {:?}", driver.core.census());
        tokio::select! {
            biased;
            () = stop.requested(), if sink.heard == 0 => sink.bell.ring(),
            () = stop.forced(), if sink.heard < 2 => sink.bell.ring(),
            arrival = driver.arrival() => driver.take_in(arrival, &mut sink),
        }
    }
    if let Some(panic) = driver.panic.take() {
        driver.core.stop(build, false);
        while !driver.is_idle() {
            let arrival = driver.arrival().await;
            driver.take_in(arrival, &mut Deaf);
        }
        resume_unwind(panic);
    }
    Report::new(sink.settled)
}

/// Keeps what the report will say.
struct Run<O: Op, E> {
    stop: Stop,
    /// That of the stop.
    bell: Bell,
    /// The level of the stop that the core was told of.
    heard: u8,
    build: Option<BuildId>,
    /// Of what is not settled: when its first phase started.
    started_at: ById<VertexId, Instant>,
    settled: SettledTable<O>,
    is_finished: bool,
    /// An op panicked: there is no more to tell.
    is_deaf: bool,
    events: E,
}

impl<O: Op, E: FnMut(Event<'_, O>)> Sink<O> for Run<O, E> {
    fn before_start(&mut self, core: &mut Core<O>) {
        let asked = match &self.stop {
            _ if self.heard == 2 || !self.bell.has_rung() => 0,
            stop if stop.is_forced() => 2,
            stop => u8::from(stop.is_requested()),
        };
        if asked > self.heard
            && let Some(build) = self.build
        {
            self.heard = asked;
            core.stop(build, asked == 2);
        }
    }

    fn note(&mut self, core: &Core<O>, note: Note<O>) {
        // A build within the build is the business of the op that asked for it.
        if self.is_deaf || self.build.is_some_and(|build| build != note.build) {
            return;
        }
        let vertex = note.vertex;
        match note.what {
            What::Started(phase, _) => {
                self.started_at.entry(vertex).or_insert_with(Instant::now);
                (self.events)(Event::Started { vertex, phase });
            }
            What::CacheFailed(error) | What::NotKept(error) => {
                (self.events)(Event::CacheFailed { vertex, error: &error });
            }
            What::Settled(outcome) => {
                let key = core.key(note.node).cloned();
                let duration = self.started_at.remove(&vertex).map_or(Duration::ZERO, |start| start.elapsed());
                let settled = self.settled.insert(vertex, Settled { key, outcome, duration });
                (self.events)(Event::Settled { vertex, settled });
            }
            What::Found => {}
            What::Finished => self.is_finished = true,
        }
    }

    fn panicked(&mut self) {
        self.is_deaf = true;
    }

    fn progress(&mut self, core: &Core<O>, flight: FlightId, progress: O::Progress) {
        let audience = core.audience(flight);
        // A stray thread of an op may still hold a context.
        if let Some((_, vertex)) = audience.into_iter().find(|(build, _)| Some(*build) == self.build) {
            (self.events)(Event::Progress { vertex, progress });
        }
    }
}

/// Hears nothing.
struct Deaf;

impl<O: Op> Sink<O> for Deaf {
    fn note(&mut self, _: &Core<O>, _: Note<O>) {}

    fn progress(&mut self, _: &Core<O>, _: FlightId, _: O::Progress) {}
}

impl<O: Op> Core<O> {
    /// Returns the builds that follow what a flight does, each with the vertex that it does it for.
    pub(crate) fn audience(&self, flight: FlightId) -> Vec<(BuildId, VertexId)> {
        let Some(flight) = self.flight(flight) else { return Vec::new() };
        let nodes = flight.attached.iter().filter_map(|id| Some((*id, self.node(*id)?)));
        let holds = nodes.flat_map(|(id, node)| node.holds.iter().map(move |hold| (id, hold)));
        let wanting = holds.filter(|(_, hold)| !hold.wants.is_empty() && !hold.is_told);
        wanting.map(|(id, hold)| (hold.build, self.vertex_in(hold.build, id))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::DagBuilder;
    use crate::limits::Limits;
    use crate::testing::Scripted;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_run_may_be_a_task_of_a_threaded_runtime() {
        let mut builder = DagBuilder::new();
        for _ in 0..100 {
            builder.add(Scripted::default());
        }
        let dag = Arc::new(builder.build().expect("no edge, no cycle"));
        let limits = Limits::new();
        let report = tokio::spawn(run(dag, limits, OnFailure::Stop, Stop::new(), |_| {})).await.expect("no panic");
        assert!(report.is_success());
    }
}
