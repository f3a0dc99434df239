//! One run: the plan is carried out, what happens is told, and the library is changed at the end.

use std::sync::Arc;
use std::time::Instant;

use larder_graph::{Config, Event as GraphEvent, OnFailure, Stop};
use larder_ops::library::Library;
use larder_ops::op::{PackageOp, StoreCache};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::tell::Teller;
use super::update::update;
use super::{Error, Larder, Request, blocking};
use crate::event::Event;
use crate::lockfile::Lockfile;
use crate::report::{Report, RunOutcome};

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
    let beside = larder.beside(lockfile, request, &store)?;
    let plan = larder.plan_with(lockfile, request, &store, library.record(), beside.as_ref())?;
    emit(Event::Plan {
        platform: larder.host.platform.clone(),
        n_vertices: plan.dag.len() + plan.stale.len(),
        library: library.place().to_owned(),
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
    let place = (library.root().to_owned(), library.record().clone());
    let workshop = larder.workshop(store, place, beside.as_ref(), &plan, request);
    let workshop = Arc::new(workshop);
    let dag = Arc::new(plan.dag.map(|_, vertex| PackageOp::new(vertex.spec.clone(), Arc::clone(&workshop))));
    let mut report = Report::default();
    for stale in &plan.stale {
        let settled = stale.into();
        report.record(&settled);
        emit(Event::Settled(settled));
    }
    let graph_report = {
        let mut teller = Teller { plan: &plan, dag: &dag, report: &mut report, emit: &mut emit };
        let on_event = |event: GraphEvent<'_, PackageOp>| teller.tell(event);
        let rebuilt = dag.vertices().map(|vertex| &dag.op(vertex).spec).filter(|spec| spec.is_rebuilt);
        let rebuilt = rebuilt.map(|spec| spec.package.clone()).collect();
        let config = Config::from(larder.limits()).cache(StoreCache::new(Arc::clone(&workshop), rebuilt));
        larder_graph::run(Arc::clone(&dag), config, request.on_failure, stop.clone(), on_event).await
    };
    if stop.is_requested() {
        report.outcome = RunOutcome::Interrupted;
    } else if report.outcome == RunOutcome::Ok
        || request.on_failure == OnFailure::KeepGoing && request.reference.is_none()
    {
        library = update(larder, request, &plan, &graph_report, library, &mut report, &mut emit).await?;
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
    let library = if let Some(library) = blocking(move || Library::try_open(&path, &for_platform)).await? {
        library
    } else {
        let message = format!("waiting for another process that changes {}", request.library.display());
        emit(Event::Warning { message });
        let (path, for_platform) = (request.library.clone(), platform.to_owned());
        tokio::select! {
            library = blocking(move || Library::open(&path, &for_platform)) => library?,
            () = stop.requested() => return Ok(None),
        }
    };
    // Now, not at the end: whether the file system can do it is better known before anything is built.
    Ok(Some(if request.makes_generations { library.into_generations()? } else { library }))
}
