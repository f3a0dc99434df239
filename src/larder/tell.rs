//! What the solver says of vertices, as what a run says of packages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use larder_graph::{Failure as GraphFailure, Outcome as GraphOutcome, Report as GraphReport, Settled as GraphSettled};
use larder_graph::{JobEvent, Told, VertexId};
use larder_ops::key::PackageKey;
use larder_ops::library::Library;
use larder_ops::lock;
use larder_ops::op::{Done, How, Key, OpError, PackageOp, Progress};
use larder_ops::package::PackageName;
use larder_ops::trouble::Trouble;

use crate::event::{Event, Failure, Outcome, Settled, Step};
use crate::host::Host;
use crate::plan::{Plan, Stale};
use crate::report::Report;
use crate::system;

/// Why a package that is new came from the store for one of two runs.
const ANOTHER_RUN: &str = "another run built it";

/// Turns what the solver says of vertices into what a run says of packages.
pub(super) struct Teller<'a, E> {
    plan: &'a Plan,
    library: &'a Library,
    report: Report,
    done: HashMap<VertexId, GraphSettled<PackageOp>>,
    emit: &'a mut E,
}

impl<'a, E: FnMut(Event)> Teller<'a, E> {
    pub(super) fn new(plan: &'a Plan, library: &'a Library, emit: &'a mut E) -> Self {
        Self { plan, library, report: Report::default(), done: HashMap::new(), emit }
    }

    pub(super) fn tell(&mut self, event: &JobEvent<PackageOp>) {
        let vertex = event.vertex.vertex;
        match &event.told {
            // What a phase amounts to is known inside it: a cache map may or may not download.
            Told::Vertex { .. } | Told::Started(_) | Told::Found => {}
            Told::Progress(progress) => self.progress(vertex, progress),
            Told::CacheFailed(error) => {
                let message = format!("{} could not be loaded: {error}; it is built instead", self.package(vertex));
                (self.emit)(Event::Warning { message });
            }
            Told::Ended(settled) => self.ended(vertex, GraphSettled::clone(settled)),
        }
    }

    /// Tells of a package that is known to be stale without looking further.
    pub(super) fn stale(&mut self, stale: &Stale) {
        let told = Settled::from(stale);
        self.report.record(&told);
        (self.emit)(Event::Settled(told));
    }

    /// Tells of what was not even begun, and returns what it all came to.
    ///
    /// # Panics
    /// When an op did: that is our fault, not the package's.
    pub(super) fn finish(mut self) -> (Report, GraphReport<PackageOp>) {
        for vertex in self.plan.dag.vertices() {
            if !self.done.contains_key(&vertex) {
                let outcome = GraphOutcome::Stopped;
                self.ended(vertex, GraphSettled { key: None, outcome, duration: Duration::ZERO });
            }
        }
        let panicked = |settled: &GraphSettled<PackageOp>| match settled.outcome.failure() {
            Some(GraphFailure::Panicked(message)) => Some(message.clone()),
            _ => None,
        };
        if let Some(message) = self.done.values().find_map(panicked) {
            std::panic::resume_unwind(Box::new(message));
        }
        (self.report, GraphReport::of(&self.plan.dag, self.done))
    }

    fn ended(&mut self, vertex: VertexId, settled: GraphSettled<PackageOp>) {
        let told = self.settled(vertex, &settled);
        if let Some(trouble) = trouble(&settled.outcome) {
            self.report.end_by(trouble.clone());
        }
        self.done.insert(vertex, settled);
        self.report.record(&told);
        (self.emit)(Event::Settled(told));
    }

    fn package(&self, vertex: VertexId) -> &PackageName {
        &self.plan.dag.op(vertex).spec.package
    }

    fn progress(&mut self, vertex: VertexId, progress: &Progress) {
        let spec = &self.plan.dag.op(vertex).spec;
        let package = spec.package.clone();
        let started = |step| Event::Started { package: package.clone(), version: spec.version.clone(), step };
        (self.emit)(match progress {
            Progress::Fetching => started(Step::Fetch),
            Progress::Unpacking => started(Step::Unpack),
            Progress::Ready => started(Step::Wait),
            Progress::Building => started(Step::Build),
            Progress::Publishing => started(Step::Publish),
            Progress::Waiting(holder) => {
                Event::Warning { message: format!("waiting for {} to build {package}", lock::shown(*holder)) }
            }
            Progress::Bytes(current, total) => {
                Event::Progress { package, step: Step::Fetch, current: *current, total: *total }
            }
            Progress::Output { log, from, text, .. } => {
                Event::Output { package, log: log.to_path_buf(), from: *from, text: text.clone() }
            }
            Progress::Warning(message) => Event::Warning { message: format!("{package}: {message}") },
        });
    }

    fn settled(&self, vertex: VertexId, settled: &GraphSettled<PackageOp>) -> Settled {
        let spec = &self.plan.dag.op(vertex).spec;
        let key = settled.key.as_ref().and_then(Key::wanted);
        let (outcome, because) = match &settled.outcome {
            GraphOutcome::Loaded(done) if is_kept(self.library, &spec.package, done, key) => (Outcome::Kept, None),
            GraphOutcome::Loaded(done) if done.build.is_some() => (Outcome::Loaded, Some(ANOTHER_RUN.to_owned())),
            GraphOutcome::Loaded(done) | GraphOutcome::Executed(done) => self.well(vertex, done),
            GraphOutcome::Failed(_) => match trouble(&settled.outcome) {
                Some(trouble) => (Outcome::Skipped, Some(trouble.in_short().to_owned())),
                None => (Outcome::Failed, None),
            },
            GraphOutcome::Skipped { because } => {
                let trouble = self.done.get(because).and_then(|root| trouble(&root.outcome));
                let because = trouble.map_or_else(|| self.package(*because).to_string(), |t| t.in_short().to_owned());
                (Outcome::Skipped, Some(because))
            }
            GraphOutcome::Stopped | GraphOutcome::Found => (Outcome::Skipped, None),
        };
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
            needs: Arc::clone(&spec.dependencies),
            duration: match (build, outcome) {
                (Some(build), _) => build.duration,
                // Not its own: what it waited for.
                (None, Outcome::Skipped) => Duration::ZERO,
                (None, _) => settled.duration,
            },
            log: match settled.outcome.output().map(|done| &done.how) {
                Some(How::Stale { log, .. }) => log.clone(),
                _ => build.map(|build| build.log.clone()).or_else(|| op_error.and_then(OpError::log).cloned()),
            },
            failure: settled
                .outcome
                .failure()
                .filter(|_| outcome == Outcome::Failed)
                .map(|failure| self.failure(vertex, failure)),
        }
    }

    fn well(&self, vertex: VertexId, done: &Done) -> (Outcome, Option<String>) {
        match &done.how {
            How::Provided => (Outcome::Provided, Some(self.plan.dag.op(vertex).because.clone())),
            How::Kept => (Outcome::Kept, None),
            How::Restored => (Outcome::Loaded, Some("it was changed in the library".to_owned())),
            How::Loaded => (Outcome::Loaded, None),
            How::Brought { from } => (Outcome::Loaded, Some(format!("{from} has it"))),
            How::InterfaceUnchanged => (Outcome::Loaded, Some("interface unchanged".to_owned())),
            How::Recompiled { because } => (Outcome::Recompiled, Some(because.clone())),
            How::Ingested => (Outcome::Ingested, None),
            How::InReference => (Outcome::Loaded, Some("the reference library has it".to_owned())),
            How::Stale { because, .. } => (Outcome::Stale, Some(because.clone())),
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

/// Returns what of the machine kept a package from its end.
fn trouble(outcome: &GraphOutcome<PackageOp>) -> Option<&Trouble> {
    match outcome.failure() {
        Some(GraphFailure::Op(OpError::Machine(trouble))) => Some(trouble),
        Some(GraphFailure::Content { source, .. }) => match &**source {
            OpError::Machine(trouble) => Some(trouble),
            _ => None,
        },
        _ => None,
    }
}

/// Says whether the library has what came from the store. Mostly that is known before it is looked for there; a key
/// that leads to another one is known only then.
pub(super) fn is_kept(library: &Library, package: &PackageName, done: &Done, key: Option<&Arc<PackageKey>>) -> bool {
    match done.how {
        How::Kept => true,
        How::Loaded => key.is_some_and(|key| library.holds(package, key.reference())),
        _ => false,
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
