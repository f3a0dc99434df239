//! One run: the plan is carried out, what happens is told, and the library is changed at the end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use larder_graph::{Built, Dag, Job, JobOptions, OnFailure, Stop, VertexId};
use larder_ops::blocking;
use larder_ops::library::Library;
use larder_ops::link::Linker;
use larder_ops::lock;
use larder_ops::op::{Commission, PackageOp, Workshop};
use larder_ops::store::LookAhead;
use larder_ops::wire::Graph;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};

use super::engine::Engine;
use super::journal::Events;
use super::tell::Teller;
use super::update::update;
use super::{Access, Error, Larder, Request, trouble};
use crate::event::Event;
use crate::lockfile::Lockfile;
use crate::plan::{Action, Plan, Vertex};
use crate::report::{Report, RunOutcome};

/// A run that is under way.
///
/// ```no_run
/// # async fn example(mut run: larder::larder::Run) -> Result<(), larder::larder::Error> {
/// // Another listener, who hears everything from the first event on and may read as slowly as it likes.
/// let mut log = run.events();
/// tokio::spawn(async move {
///     while let Some(event) = log.next().await {
///         println!("{event:?}");
///     }
/// });
/// let stop = run.stop();
/// while let Some(event) = run.next().await {
///     if matches!(event, larder::event::Event::Settled(settled) if settled.failure.is_some()) {
///         stop.request();
///     }
/// }
/// let report = run.finish().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Run {
    events: Events,
    stop: Stop,
    task: JoinHandle<Result<Report, Error>>,
}

impl Run {
    pub(super) fn new(events: Events, stop: Stop, task: JoinHandle<Result<Report, Error>>) -> Self {
        Self { events, stop, task }
    }

    /// Returns the next event, or `None` when the run is over.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.next().await
    }

    /// Returns all events from the first on, for another listener, who may come at any time.
    pub fn events(&self) -> Events {
        self.events.again()
    }

    /// Returns the handle by which the run can be asked to end, first kindly, then at once.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits for the end and returns the report. If the machine refused, such as for want of room, that is the error; what
    /// was finished by then is in the report of [`Event::Finished`].
    pub async fn finish(mut self) -> Result<Report, Error> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

impl Drop for Run {
    /// Nobody waits for the end any more: what runs is ended at once, and its processes with it.
    fn drop(&mut self) {
        self.stop.force();
    }
}

impl futures_core::Stream for Run {
    type Item = Event;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Event>> {
        std::pin::Pin::new(&mut self.events).poll_next(cx)
    }
}

pub(super) async fn run(
    larder: &Larder,
    lockfile: &Lockfile,
    request: &Request,
    stop: Stop,
    mut emit: impl FnMut(Event),
) -> Result<Report, Error> {
    let start = Instant::now();
    let engine = larder.engine();
    let mut meanwhile = JoinSet::new();
    let report = with_engine(&engine, larder, lockfile, request, &stop, &mut meanwhile, &mut emit).await;
    all_of(&mut meanwhile).await;
    // Whoever hears that the run is over may begin another one on the same library.
    engine.leave().await;
    // The library is complete by now: only the process waits for this.
    for message in larder.finish_uploads(&stop).await {
        emit(Event::Warning { message });
    }
    let report = report.map_err(|error| trouble::in_place(error, &larder.store(), Some(&request.library)))?;
    let report = Report { duration: start.elapsed(), ..report };
    emit(Event::Finished(report.clone()));
    match report.trouble {
        Some(trouble) => Err(Error::Machine(trouble)),
        None => Ok(report),
    }
}

async fn with_engine(
    engine: &Engine,
    larder: &Larder,
    lockfile: &Lockfile,
    request: &Request,
    stop: &Stop,
    meanwhile: &mut JoinSet<()>,
    emit: &mut impl FnMut(Event),
) -> Result<Report, Error> {
    let Engine { solver, workshop } = engine;
    let store = &workshop.store;
    let Some(library) = open(request, workshop, stop, emit).await? else {
        return Ok(Report { outcome: RunOutcome::Interrupted, ..Report::default() });
    };
    let (shared, place) = (Arc::clone(workshop), library.place().to_owned());
    let (done, registered) = oneshot::channel();
    meanwhile.spawn_blocking(move || {
        shared.store.register(&place);
        let _ = done.send(());
    });
    let beside = larder.beside(lockfile, request, store, Access::Hold)?;
    let _tenure = store.tenure();
    let (plan, visit) = larder.plan_visiting(lockfile, request, store, library.record(), beside.as_ref()).await?;
    // From here on nobody evicts what the plan was made with.
    let ahead = visit.leave(plan.sources())?;
    emit(Event::Plan {
        platform: larder.host.platform.clone(),
        n_vertices: plan.dag.len() + plan.stale.len(),
        library: library.place().to_owned(),
        store: store.root().to_owned(),
    });
    for message in larder.notes.iter().chain(&plan.warnings).cloned() {
        emit(Event::Warning { message });
    }
    larder.check(&plan, request)?;
    if let Some(message) = trouble::check(store, &plan)? {
        emit(Event::Warning { message });
    }
    let linker = Arc::new(Linker::new(larder.config.link));
    stage_ahead(&plan, &ahead, &library, &linker, stop, meanwhile);
    if let Err(error) = larder.blobs.create() {
        // A store that is there but cannot be written serves what it has; a download that finds no place says so.
        if !store.root().is_dir() {
            return Err(error.into());
        }
    }
    let number = larder.engines.number();
    let commission = Arc::new(Commission {
        run: number,
        library: (library.root().into(), library.record().clone()),
        lease: library.lease(),
        reference: beside.map(|beside| beside.library),
        ids: plan.ids.clone(),
        rebuilds_when_imports_change: request.rebuilds_when_imports_change,
    });
    let op = |_, vertex: &Vertex| PackageOp::new(vertex.spec.clone(), Arc::clone(workshop), Arc::clone(&commission));
    // Whoever listens late listens to the run; see `journal`.
    let options = JobOptions { on_failure: request.on_failure, keeps_history: false };
    let job = solver.job(number.to_string(), options).expect("no two runs have one number");
    let mut teller = Teller::new(&plan, &library, emit);
    plan.stale.iter().for_each(|stale| teller.stale(stale));
    let built = solve(&job, plan.dag.map(op), stop, &mut teller).await;
    let (mut report, done) = teller.finish();
    if let (Some(built), Some(mode)) = (built, request.export) {
        let export = job.export(&built, mode).await;
        report.export = Some(Arc::new(Graph::of_export(&export, store.platform())));
    }
    // The solver gives back the graph while the library changes.
    drop(job);
    if stop.is_requested() {
        report.outcome = RunOutcome::Interrupted;
    } else if report.trouble.is_some() {
        // Nothing more is written, though what came to its end would fit.
    } else if report.outcome == RunOutcome::Ok
        || request.on_failure == OnFailure::KeepGoing && request.reference.is_none()
    {
        // An evictor has to know of the library before anything is linked into it.
        if registered.await.is_err() {
            // It panicked, and so does this.
            all_of(meanwhile).await;
        }
        let updated = update(larder, request, plan, done, (library, linker), &mut report, emit).await;
        match updated.map_err(|error| trouble::in_place(error, store, Some(&request.library))) {
            Err(Error::Machine(trouble)) => report.end_by(trouble),
            other => other?,
        }
    }
    Ok(report)
}

/// Waits for what is done beside a run.
async fn all_of(meanwhile: &mut JoinSet<()>) {
    while let Some(done) = meanwhile.join_next().await {
        done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
}

/// Begins to make ready what the library will need of what the run loads, and its record if all is there that it needs.
fn stage_ahead(
    plan: &Plan,
    ahead: &LookAhead,
    library: &Library,
    linker: &Arc<Linker>,
    stop: &Stop,
    meanwhile: &mut JoinSet<()>,
) {
    let Some(stager) = library.stager(linker).map(Arc::new) else { return };
    let loads = plan.vertices().filter(|vertex| vertex.action == Action::Load).filter_map(|vertex| vertex.key.as_ref());
    let loads: Vec<_> = loads.map(|key| (key.package().clone(), key.reference())).collect();
    if loads.is_empty() {
        return;
    }
    let found =
        loads.iter().filter_map(|(package, reference)| Some((package.clone(), ahead.tree(package, *reference)?)));
    let (found, stop): (Vec<_>, _) = (found.collect(), stop.clone());
    let is_there = |vertex: &Vertex| matches!(vertex.action, Action::Keep | Action::Load | Action::Provided);
    if plan.vertices().all(is_there) {
        let expected = library.record().expected(|package| plan.ids.contains_key(package), loads);
        let stager = Arc::clone(&stager);
        meanwhile.spawn_blocking(move || stager.expect(expected));
    }
    meanwhile.spawn_blocking(move || {
        for (package, tree) in found.iter().take_while(|_| !stop.is_requested()) {
            stager.stage(package, tree);
        }
    });
}

/// Brings all packages to their end, as part of what the solver has to do for others besides, and tells how it goes.
/// What it came to is the sum of what is told of its vertices; the build is there if all went well.
async fn solve<E: FnMut(Event)>(
    job: &Job<PackageOp>,
    dag: Dag<PackageOp>,
    stop: &Stop,
    teller: &mut Teller<'_, E>,
) -> Option<Built<PackageOp>> {
    let mut status = job.status();
    let targets: Vec<VertexId> = dag.vertices().collect();
    let mut building = pin!(job.build(dag, &targets));
    let passed_on = job.stop();
    let built = loop {
        tokio::select! {
            biased;
            () = stop.forced(), if !passed_on.is_forced() => passed_on.force(),
            () = stop.requested(), if !passed_on.is_requested() => passed_on.request(),
            Some(event) = status.next() => teller.tell(&event),
            ended = &mut building => break ended.ok(),
        }
    };
    while let Some(event) = status.try_next() {
        teller.tell(&event);
    }
    built
}

/// Opens the library, and waits for whoever else is changing it, unless the run is stopped meanwhile. What processes
/// that have died left in the store is swept on the way.
async fn open(
    request: &Request,
    workshop: &Arc<Workshop>,
    stop: &Stop,
    emit: &mut impl FnMut(Event),
) -> Result<Option<Library>, Error> {
    let (path, shared) = (request.library.clone(), Arc::clone(workshop));
    let try_open = move || {
        shared.store.sweep();
        Library::try_open(&path, shared.store.platform())
    };
    let library = if let Some(library) = blocking(try_open).await? {
        library
    } else {
        let holder = lock::shown(Library::holder(&request.library));
        let message = format!("waiting for {holder}, which changes {}", request.library.display());
        emit(Event::Warning { message });
        let (path, shared) = (request.library.clone(), Arc::clone(workshop));
        tokio::select! {
            library = blocking(move || Library::open(&path, shared.store.platform())) => library?,
            () = stop.requested() => return Ok(None),
        }
    };
    // Now, not at the end: whether the file system can do it is better known before anything is built.
    Ok(Some(if request.makes_generations { library.into_generations()? } else { library }))
}
