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
    /// Whether builds' output goes along.
    is_verbose: bool,
    last_progress: HashMap<PackageName, Instant>,
}

impl Json {
    pub(super) fn new(out: Box<dyn Write + Send>, is_verbose: bool) -> Self {
        Self { out: Some(out), is_verbose, last_progress: HashMap::new() }
    }

    pub(super) fn handle(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Progress { package, .. } if self.is_too_soon(package, now) => return,
            Event::Output { .. } if !self.is_verbose => return,
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
    VertexOutput {
        package: &'a str,
        log: String,
        from: u64,
        text: &'a str,
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
        #[serde(skip_serializing_if = "Vec::is_empty")]
        stale: Vec<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
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
            Event::Output { package, log, from, text: piece } => {
                Self::VertexOutput { package: package.as_str(), log: text(log), from: *from, text: piece }
            }
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

impl<'a> From<&'a Report> for Body<'a> {
    fn from(report: &'a Report) -> Self {
        let outcome = match report.outcome {
            RunOutcome::Ok => "ok",
            RunOutcome::Failed => "failed",
            RunOutcome::Interrupted => "interrupted",
        };
        let stale = report.stale.iter().map(|settled| settled.package.as_str()).collect();
        Self::Finished {
            outcome,
            counts: report.counts.into(),
            duration_ms: millis(report.duration),
            stale,
            error: report.trouble.as_ref().map(ToString::to_string),
        }
    }
}

impl From<Counts> for WireCounts {
    fn from(counts: Counts) -> Self {
        let Counts { loaded, recompiled, ingested, kept, provided, failed, skipped, stale: _ } = counts;
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

#[cfg(test)]
mod tests {
    use std::io;

    use insta::assert_snapshot;

    use super::*;
    use crate::event::{Outcome, Step};
    use crate::ui::testing::{Written, failed, fetched, plan, report, settled, started};

    fn lines(events: &[(u64, Event)]) -> String {
        let (written, start) = (Written::default(), Instant::now());
        let mut json = Json::new(Box::new(written.clone()), true);
        for (at_ms, event) in events {
            json.handle(event, start + Duration::from_millis(*at_ms));
        }
        written.text()
    }

    #[test]
    fn every_event_has_its_shape() {
        let recompiled = Settled {
            because: Some("Rcpp 1.0.14 -> 1.0.15".to_owned()),
            key: Some("aa/bb".to_owned()),
            duration: Duration::from_millis(1_234),
            ..settled("later", Outcome::Recompiled)
        };
        let events = [
            plan(2),
            started("later", Step::Fetch),
            fetched("later", 1_024, 9_000),
            Event::Progress { package: recompiled.package.clone(), step: Step::Build, current: 1, total: None },
            Event::Output {
                package: recompiled.package.clone(),
                log: "a.log".into(),
                from: 9,
                text: "cc\n".to_owned(),
            },
            Event::Settled(recompiled.clone()),
            Event::Settled(failed("xml2")),
            Event::Warning { message: "a \"word\"\n".to_owned() },
            Event::Finished(report(&[recompiled, failed("xml2")])),
        ];
        let events: Vec<_> = (0..).step_by(100).zip(events).collect();
        assert_snapshot!(lines(&events), @r#"
        {"v":1,"reason":"plan","platform":"4.2-linux","vertices":2,"library":"library","store":"store"}
        {"v":1,"reason":"vertex-started","package":"later","version":"1.0","step":"fetch"}
        {"v":1,"reason":"vertex-progress","package":"later","step":"fetch","current":1024,"total":9000}
        {"v":1,"reason":"vertex-progress","package":"later","step":"build","current":1,"total":null}
        {"v":1,"reason":"vertex-output","package":"later","log":"a.log","from":9,"text":"cc\n"}
        {"v":1,"reason":"vertex-settled","package":"later","version":"1.0","outcome":"recompiled","because":"Rcpp 1.0.14 -> 1.0.15","key":"aa/bb","duration_ms":1234,"log":null,"error":null}
        {"v":1,"reason":"vertex-settled","package":"xml2","version":"1.0","outcome":"failed","because":null,"key":null,"duration_ms":8200,"log":"logs/build.log","error":"R CMD INSTALL ended with status 1"}
        {"v":1,"reason":"warning","message":"a \"word\"\n"}
        {"v":1,"reason":"finished","outcome":"failed","counts":{"loaded":0,"recompiled":1,"ingested":0,"kept":0,"provided":0,"failed":1,"skipped":0},"duration_ms":192000}
        "#);
    }

    #[test]
    fn output_of_builds_is_for_those_who_ask() {
        let written = Written::default();
        let mut json = Json::new(Box::new(written.clone()), false);
        let package = settled("cli", Outcome::Ingested).package;
        let output = Event::Output { package, log: "a.log".into(), from: 0, text: "cc\n".to_owned() };
        json.handle(&output, Instant::now());
        assert_eq!(written.text(), "");
    }

    #[test]
    fn progress_is_limited_per_package() {
        let events = [
            (0, fetched("cli", 1, 9)),
            (99, fetched("cli", 2, 9)),
            (99, fetched("xml2", 3, 9)),
            (100, fetched("cli", 4, 9)),
            (150, fetched("cli", 9, 9)),
        ];
        let text = lines(&events);
        let shown: Vec<_> = text.lines().filter_map(|line| line.split("current\":").nth(1)?.get(..1)).collect();
        assert_eq!(shown, ["1", "3", "4"]);
    }

    #[test]
    fn a_reader_that_goes_away_does_not_end_the_run() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut json = Json::new(Box::new(Closed), false);
        json.handle(&plan(1), Instant::now());
        json.handle(&plan(1), Instant::now());
        assert!(json.out.is_none());
    }
}
