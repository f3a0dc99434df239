//! Events in few words, and places to write to.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_ops::package::PackageName;

use crate::event::{Event, Failure, Outcome, Settled, Step};
use crate::report::Report;
use crate::ui::style::{ColorMode, Palette};

pub(crate) fn plain() -> Palette {
    Palette::choose(ColorMode::Never, false, true)
}

pub(crate) fn name(name: &str) -> PackageName {
    PackageName::parse(name).unwrap()
}

pub(crate) fn plan(n_vertices: usize) -> Event {
    Event::Plan { platform: "4.2-linux".to_owned(), n_vertices, library: "library".into(), store: "store".into() }
}

pub(crate) fn started(package: &str, step: Step) -> Event {
    Event::Started { package: name(package), version: "1.0".to_owned(), step }
}

pub(crate) fn fetched(package: &str, current: u64, total: u64) -> Event {
    Event::Progress { package: name(package), step: Step::Fetch, current, total: Some(total) }
}

/// A package that settled for no stated reason after no time.
pub(crate) fn settled(package: &str, outcome: Outcome) -> Settled {
    Settled {
        package: name(package),
        version: "1.0".to_owned(),
        outcome,
        because: None,
        key: None,
        needs: Arc::default(),
        duration: Duration::ZERO,
        log: None,
        failure: None,
    }
}

/// A package whose build failed after 8.2 s, with a log.
pub(crate) fn failed(package: &str) -> Settled {
    Settled {
        duration: Duration::from_millis(8_200),
        log: Some("logs/build.log".into()),
        failure: Some(Failure { message: "R CMD INSTALL ended with status 1".to_owned(), ..Failure::default() }),
        ..settled(package, Outcome::Failed)
    }
}

pub(crate) fn skipped(package: &str, because: &str) -> Settled {
    Settled { because: Some(because.to_owned()), ..settled(package, Outcome::Skipped) }
}

/// The report of a run that took 3m12s.
pub(crate) fn report(settled: &[Settled]) -> Report {
    let mut report = Report { duration: Duration::from_secs(192), ..Report::default() };
    for settled in settled {
        report.record(settled);
    }
    report
}

/// Keeps what is written to any of its clones.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
