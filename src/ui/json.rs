//! Events as programs read them: one JSON object per line on stdout. The wire types live here and nowhere else.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use larder_ops::package::PackageName;
use serde::Serialize;

use crate::event::{Event, Settled};
use crate::report::{Counts, Report, RunOutcome};

/// The version of the shapes below; it changes when a field goes or changes its meaning, not when one is added.
const VERSION: u8 = 1;

/// The least time between two progress lines of one package.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Writes each event as one line, at once.
pub(super) struct Json {
    /// `None` once the reader has gone: that ends the stream, not the run.
    out: Option<Box<dyn Write + Send>>,
    last_progress: HashMap<PackageName, Instant>,
}

impl Json {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out: Some(out), last_progress: HashMap::new() }
    }

    pub(super) fn handle(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Progress { package, .. } if self.is_too_soon(package, now) => return,
            Event::Settled(settled) => {
                self.last_progress.remove(&settled.package);
            }
            _ => {}
        }
        let Some(out) = &mut self.out else { return };
        let line = serde_json::to_string(&Line { v: VERSION, body: event.into() }).expect("strings and numbers");
        if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
            self.out = None;
        }
    }

    fn is_too_soon(&mut self, package: &PackageName, now: Instant) -> bool {
        let last = self.last_progress.get(package);
        if last.is_some_and(|last| now.duration_since(*last) < PROGRESS_INTERVAL) {
            return true;
        }
        self.last_progress.insert(package.clone(), now);
        false
    }
}

#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    #[serde(flatten)]
    body: Body<'a>,
}

#[derive(Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Body<'a> {
    Plan {
        platform: &'a str,
        vertices: usize,
        library: String,
        store: String,
    },
    VertexStarted {
        package: &'a str,
        version: &'a str,
        step: &'static str,
    },
    VertexProgress {
        package: &'a str,
        step: &'static str,
        current: u64,
        total: Option<u64>,
    },
    VertexSettled {
        package: &'a str,
        version: &'a str,
        outcome: &'static str,
        because: Option<&'a str>,
        key: Option<&'a str>,
        duration_ms: u64,
        log: Option<String>,
        error: Option<&'a str>,
    },
    Warning {
        message: &'a str,
    },
    Finished {
        outcome: &'static str,
        counts: WireCounts,
        duration_ms: u64,
    },
}

#[derive(Serialize)]
struct WireCounts {
    loaded: usize,
    recompiled: usize,
    ingested: usize,
    kept: usize,
    provided: usize,
    failed: usize,
    skipped: usize,
}

impl<'a> From<&'a Event> for Body<'a> {
    fn from(event: &'a Event) -> Self {
        match event {
            Event::Plan { platform, n_vertices, library, store } => {
                Self::Plan { platform, vertices: *n_vertices, library: text(library), store: text(store) }
            }
            Event::Started { package, version, step } => {
                Self::VertexStarted { package: package.as_str(), version, step: step.as_str() }
            }
            Event::Progress { package, step, current, total } => Self::VertexProgress {
                package: package.as_str(),
                step: step.as_str(),
                current: *current,
                total: *total,
            },
            Event::Settled(settled) => settled.into(),
            Event::Warning { message } => Self::Warning { message },
            Event::Finished(report) => report.into(),
        }
    }
}

impl<'a> From<&'a Settled> for Body<'a> {
    fn from(settled: &'a Settled) -> Self {
        Self::VertexSettled {
            package: settled.package.as_str(),
            version: &settled.version,
            outcome: settled.outcome.as_str(),
            because: settled.because.as_deref(),
            key: settled.key.as_deref(),
            duration_ms: millis(settled.duration),
            log: settled.log.as_deref().map(text),
            error: settled.failure.as_ref().map(|failure| failure.message.as_str()),
        }
    }
}

impl From<&Report> for Body<'_> {
    fn from(report: &Report) -> Self {
        let outcome = match report.outcome {
            RunOutcome::Ok => "ok",
            RunOutcome::Failed => "failed",
            RunOutcome::Interrupted => "interrupted",
        };
        Self::Finished { outcome, counts: report.counts.into(), duration_ms: millis(report.duration) }
    }
}

impl From<Counts> for WireCounts {
    fn from(counts: Counts) -> Self {
        let Counts { loaded, recompiled, ingested, kept, provided, failed, skipped } = counts;
        Self { loaded, recompiled, ingested, kept, provided, failed, skipped }
    }
}

/// JSON has no bytes: a path that is not UTF-8 loses what cannot be said.
fn text(path: &Path) -> String {
    path.display().to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
