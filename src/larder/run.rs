//! One run: the plan is carried out, what happens is told, and the library is changed at the end.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use larder_graph::{
    Config, Dag, Event as GraphEvent, OnFailure, Outcome as GraphOutcome, Report as GraphReport, Stop, VertexId,
};
use larder_graph::{Failure as GraphFailure, Settled as GraphSettled};
use larder_ops::library::{Library, LibraryError, StagedPackage, has_package};
use larder_ops::link::Linker;
use larder_ops::op::{Done, How, Key, OpError, PackageOp, Progress, StoreCache};
use larder_ops::package::PackageName;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::{Error, Larder, Request};
use crate::event::{Event, Failure, Outcome, Settled, Step};
use crate::host::Host;
use crate::lockfile::Lockfile;
use crate::plan::Plan;
use crate::report::{Report, RunOutcome};
use crate::system;

/// A run that is under way.
#[derive(Debug)]
pub struct Run {
    events: UnboundedReceiver<Event>,
    stop: Stop,
    task: JoinHandle<Result<Report, Error>>,
}

impl Run {
    pub(super) fn new(events: UnboundedReceiver<Event>, stop: Stop, task: JoinHandle<Result<Report, Error>>) -> Self {
        Self { events, stop, task }
    }

    /// Returns the next event, or `None` when the run is over.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Returns the handle by which the run can be asked to end, first kindly, then at once.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Waits for the end and returns the report.
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
        self.events.poll_recv(cx)
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
    let store = larder.store();
    let store = blocking(move || {
        store.sweep();
        Ok::<_, Error>(store)
    });
    let store = store.await?;
    let Some(mut library) = open(request, store.platform(), &stop, &mut emit).await? else {
        let report = Report { outcome: RunOutcome::Interrupted, duration: start.elapsed(), ..Report::default() };
        emit(Event::Finished(report.clone()));
        return Ok(report);
    };
    let plan = larder.plan_with(lockfile, request, &store, library.record())?;
    emit(Event::Plan {
        platform: larder.host.platform.clone(),
        n_vertices: plan.dag.len(),
        library: library.root().to_owned(),
        store: store.root().to_owned(),
    });
    for message in plan.warnings.clone() {
        emit(Event::Warning { message });
    }
    larder.check(&plan, request)?;
    if let Err(error) = larder.blobs.create() {
        // A store that is there but cannot be written serves what it has; a download that finds no place says so.
        if !store.root().is_dir() {
            return Err(error.into());
        }
    }
    let workshop = larder.workshop(store, (library.root().to_owned(), library.record().clone()), &plan, request);
    let workshop = Arc::new(workshop);
    let dag = Arc::new(plan.dag.map(|_, vertex| PackageOp::new(vertex.spec.clone(), Arc::clone(&workshop))));
    let mut report = Report::default();
    let graph_report = {
        let mut teller = Teller { plan: &plan, dag: &dag, report: &mut report, emit: &mut emit };
        let on_event = |event: GraphEvent<'_, PackageOp>| teller.tell(event);
        let rebuilt = dag.vertices().map(|vertex| &dag.op(vertex).spec).filter(|spec| spec.is_rebuilt);
        let rebuilt = rebuilt.map(|spec| spec.package.clone()).collect();
        let config = Config::from(larder.limits()).cache(StoreCache::new(Arc::clone(&workshop), rebuilt));
        larder_graph::run(Arc::clone(&dag), config, request.on_failure, stop.clone(), on_event).await
    };
    workshop.builder.rest().await;
    if stop.is_requested() {
        report.outcome = RunOutcome::Interrupted;
    } else if report.outcome == RunOutcome::Ok || request.on_failure == OnFailure::KeepGoing {
        library = update(larder, request, &plan, &graph_report, library, &mut emit).await?;
    }
    drop(library);
    report.duration = start.elapsed();
    emit(Event::Finished(report.clone()));
    Ok(report)
}

/// Opens the library, and waits for whoever else is changing it, unless the run is stopped meanwhile.
async fn open(
    request: &Request,
    platform: &str,
    stop: &Stop,
    emit: &mut impl FnMut(Event),
) -> Result<Option<Library>, Error> {
    let (path, for_platform) = (request.library.clone(), platform.to_owned());
    if let Some(library) = blocking(move || Library::try_open(&path, &for_platform)).await? {
        return Ok(Some(library));
    }
    emit(Event::Warning { message: format!("waiting for another process that changes {}", request.library.display()) });
    let (path, for_platform) = (request.library.clone(), platform.to_owned());
    tokio::select! {
        library = blocking(move || Library::open(&path, &for_platform)) => Ok(Some(library?)),
        () = stop.requested() => Ok(None),
    }
}

/// Makes the library what the lockfile says, as far as packages came to their end.
async fn update(
    larder: &Larder,
    request: &Request,
    plan: &Plan,
    done: &GraphReport<PackageOp>,
    library: Library,
    emit: &mut impl FnMut(Event),
) -> Result<Library, Error> {
    let wanted: BTreeSet<PackageName> = plan.ids.keys().cloned().collect();
    let mut to_link = Vec::new();
    let mut provided = BTreeSet::new();
    // What needs something that failed would not load: it stays in the store until the rest is there.
    let (mut lost, mut held_back) = (HashSet::new(), Vec::new());
    for &id in plan.dag.dependants_first().iter().rev() {
        let (package, settled) = (&plan.dag.op(id).spec.package, done.settled(id));
        let is_lost = settled.outcome.output().is_none() || plan.dag.inputs(id).any(|(input, _)| lost.contains(&input));
        if is_lost {
            lost.insert(id);
        }
        let key = settled.key.as_ref().and_then(Key::wanted);
        let (Some(done), Some(key)) = (settled.outcome.output(), key) else { continue };
        match (&done.how, &done.tree) {
            (How::Provided, _) => drop(provided.insert(package.clone())),
            (How::Kept, _) | (_, None) => {}
            _ if is_lost => held_back.push(package.clone()),
            (_, Some(tree)) => to_link.push((package.clone(), key.reference(), tree.clone())),
        }
    }
    if !held_back.is_empty() {
        held_back.sort();
        emit(Event::Warning {
            message: format!(
                "{} {} in the store, but not in the library: what {} failed",
                super::names(&held_back),
                if held_back.len() == 1 { "is" } else { "are" },
                if held_back.len() == 1 { "it needs" } else { "they need" },
            ),
        });
    }
    let foreign = library.foreign(&wanted)?;
    let ours = library.record().packages();
    let mut remove: BTreeSet<PackageName> =
        ours.into_iter().filter(|package| !wanted.contains(*package) || provided.contains(*package)).cloned().collect();
    if request.is_exact {
        remove.extend(foreign);
    } else if !foreign.is_empty() {
        emit(Event::Warning {
            message: format!(
                "{} in the library {} not in the lockfile and stay there ({}); `--exact` removes them",
                if foreign.len() == 1 { "1 package".to_owned() } else { format!("{} packages", foreign.len()) },
                if foreign.len() == 1 { "is" } else { "are" },
                super::names(&foreign)
            ),
        });
    }
    let left: Vec<PackageName> = done
        .iter()
        .filter(|(_, settled)| settled.outcome.output().is_none())
        .map(|(id, _)| plan.dag.op(id).spec.package.clone())
        .filter(|package| has_package(library.root(), package))
        .collect();
    if !left.is_empty() {
        emit(Event::Warning {
            message: format!(
                "{} stay in the library as they were, and may not fit what was replaced around them",
                super::names(&left)
            ),
        });
    }
    let linker = Linker::new(larder.config.link);
    let (library, linker) = blocking(move || {
        let mut library = library;
        let staged = stage(&library, &linker, &to_link)?;
        library.commit(&staged, &remove)?;
        Ok::<_, LibraryError>((library, linker))
    })
    .await?;
    if let Some(chosen) = larder.config.link.filter(|chosen| *chosen != linker.mode()) {
        emit(Event::Warning {
            message: format!(
                "the file system does not allow `{chosen}` between store and library; used `{}`",
                linker.mode()
            ),
        });
    }
    Ok(library)
}

type ToLink = (PackageName, larder_ops::key::Reference, std::path::PathBuf);

/// Links packages into the library's staging, several at a time: the work is the kernel's, mostly waiting for locks
/// of directories, and a second thread helps even on one core's worth of it.
fn stage(library: &Library, linker: &Linker, to_link: &[ToLink]) -> Result<Vec<StagedPackage>, LibraryError> {
    let next = AtomicUsize::new(0);
    let n_threads = std::thread::available_parallelism().map_or(2, usize::from).min(to_link.len());
    let work = || {
        let mut staged = Vec::new();
        while let Some((package, reference, tree)) = to_link.get(next.fetch_add(1, Ordering::Relaxed)) {
            staged.push(library.stage(package, *reference, tree, linker)?);
        }
        Ok::<_, LibraryError>(staged)
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
        let mut staged = Vec::with_capacity(to_link.len());
        for thread in threads {
            staged.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(staged)
    })
}

/// Turns what the solver says of vertices into what a run says of packages.
struct Teller<'a, E> {
    plan: &'a Plan,
    dag: &'a Dag<PackageOp>,
    report: &'a mut Report,
    emit: &'a mut E,
}

impl<E: FnMut(Event)> Teller<'_, E> {
    fn tell(&mut self, event: GraphEvent<'_, PackageOp>) {
        match event {
            // What a phase amounts to is known inside it: a cache map may or may not download.
            GraphEvent::Started { .. } => {}
            GraphEvent::Progress { vertex, progress } => self.progress(vertex, progress),
            GraphEvent::CacheFailed { vertex, error } => {
                let message = format!("{} could not be loaded: {error}; it is built instead", self.package(vertex));
                (self.emit)(Event::Warning { message });
            }
            GraphEvent::Settled { vertex, settled } => {
                let settled = self.settled(vertex, settled);
                self.report.record(&settled);
                (self.emit)(Event::Settled(settled));
            }
        }
    }

    fn package(&self, vertex: VertexId) -> &PackageName {
        &self.dag.op(vertex).spec.package
    }

    fn progress(&mut self, vertex: VertexId, progress: Progress) {
        let spec = &self.dag.op(vertex).spec;
        let package = spec.package.clone();
        let started = |step| Event::Started { package: package.clone(), version: spec.version.clone(), step };
        (self.emit)(match progress {
            Progress::Fetching => started(Step::Fetch),
            Progress::Building => started(Step::Build),
            Progress::Bytes(current, total) => Event::Progress { package, step: Step::Fetch, current, total },
            Progress::Warning(message) => Event::Warning { message: format!("{package}: {message}") },
        });
    }

    fn settled(&self, vertex: VertexId, settled: &GraphSettled<PackageOp>) -> Settled {
        let spec = &self.dag.op(vertex).spec;
        let (outcome, because) = match &settled.outcome {
            GraphOutcome::Loaded(done) | GraphOutcome::Executed(done) => self.well(vertex, done),
            GraphOutcome::Failed(_) => (Outcome::Failed, None),
            GraphOutcome::Skipped { because } => (Outcome::Skipped, Some(self.package(*because).to_string())),
            GraphOutcome::Stopped => (Outcome::Skipped, None),
        };
        let key = settled.key.as_ref().and_then(Key::wanted);
        let op_error = match settled.outcome.failure() {
            Some(GraphFailure::Op(error)) => Some(error),
            _ => None,
        };
        let build = settled.outcome.output().and_then(|done| done.build.as_ref());
        Settled {
            package: spec.package.clone(),
            version: spec.version.clone(),
            outcome,
            because,
            key: key.filter(|_| outcome != Outcome::Provided).map(|key| key.reference().to_string()),
            duration: match (build, outcome) {
                (Some(build), _) => build.duration,
                // Not its own: what it waited for.
                (None, Outcome::Skipped) => Duration::ZERO,
                (None, _) => settled.duration,
            },
            log: build.map(|build| build.log.clone()).or_else(|| op_error.and_then(OpError::log).cloned()),
            failure: settled.outcome.failure().map(|failure| self.failure(vertex, failure)),
        }
    }

    fn well(&self, vertex: VertexId, done: &Done) -> (Outcome, Option<String>) {
        match &done.how {
            How::Provided => (Outcome::Provided, Some(self.plan.dag.op(vertex).because.clone())),
            How::Kept => (Outcome::Kept, None),
            How::Loaded => (Outcome::Loaded, None),
            How::InterfaceUnchanged => (Outcome::Loaded, Some("interface unchanged".to_owned())),
            How::Recompiled { because } => (Outcome::Recompiled, Some(because.clone())),
            How::Ingested => (Outcome::Ingested, None),
        }
    }

    fn failure(&self, vertex: VertexId, failure: &GraphFailure<OpError>) -> Failure {
        let planned = self.plan.dag.op(vertex);
        let GraphFailure::Op(error) = failure else {
            let message = match failure {
                GraphFailure::LateCycle(error) => {
                    let circle: Vec<_> = error.cycle.iter().map(|vertex| self.package(*vertex).to_string()).collect();
                    format!("what its source links to needs it in turn: {}", circle.join(" -> "))
                }
                other => other.to_string(),
            };
            return Failure { message, ..Failure::default() };
        };
        let missing = system::missing_packages(&planned.system_packages);
        let install = larder_ops::toolchain::Distro::install_command(Host::distro().as_ref());
        Failure {
            message: with_causes(error),
            log_tail: error.tail().to_vec(),
            missing_system_packages: if error.log().is_some() { missing } else { Vec::new() },
            hint: (!error.missing_programs().is_empty()).then(|| format!("`{install}`")),
            is_environment: error.is_environment(),
        }
    }
}

async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Returns an error's message with those of its causes that it does not already tell.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use larder_ops::blobs::BlobError;
    use larder_ops::fetch::FetchError;

    use super::*;

    #[test]
    fn a_message_tells_its_causes_once() {
        let full = BlobError::Io(io::Error::new(io::ErrorKind::StorageFull, "blobs/x: no space left on device"));
        let error = OpError::from(FetchError::Store { what: "cli 3.6.1".to_owned(), source: full });
        let text = with_causes(&error);
        assert!(text.starts_with("could not keep the download of `cli 3.6.1`: "), "{text}");
        assert_eq!(text.matches("no space left on device").count(), 1, "{text}");
    }
}
