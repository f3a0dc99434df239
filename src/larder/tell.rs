//! What the solver says of vertices, as what a run says of packages.

use std::time::Duration;

use larder_graph::{Dag, Event as GraphEvent, Failure as GraphFailure, Outcome as GraphOutcome};
use larder_graph::{Settled as GraphSettled, VertexId};
use larder_ops::op::{Done, How, Key, OpError, PackageOp, Progress};
use larder_ops::package::PackageName;

use crate::event::{Event, Failure, Outcome, Settled, Step};
use crate::host::Host;
use crate::plan::Plan;
use crate::report::Report;
use crate::system;

/// Turns what the solver says of vertices into what a run says of packages.
pub(super) struct Teller<'a, E> {
    pub(super) plan: &'a Plan,
    pub(super) dag: &'a Dag<PackageOp>,
    pub(super) report: &'a mut Report,
    pub(super) emit: &'a mut E,
}

impl<E: FnMut(Event)> Teller<'_, E> {
    pub(super) fn tell(&mut self, event: GraphEvent<'_, PackageOp>) {
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
            log: match settled.outcome.output().map(|done| &done.how) {
                Some(How::Stale { log, .. }) => log.clone(),
                _ => build.map(|build| build.log.clone()).or_else(|| op_error.and_then(OpError::log).cloned()),
            },
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
