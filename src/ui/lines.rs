//! Events as lines that stay: what a file or a CI log shows, and what bars leave behind on a terminal.

use std::io::Write;
use std::time::Duration;

use crate::event::{Event, Outcome, Settled, Step};
use crate::ui::style::{Palette, clean, humane, packages};
use crate::ui::{Verbosity, summary};

/// Which settled packages get a line of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// All of them.
    Everything,
    /// Those that work was done for or that went wrong; a warm run only loads, hundreds of packages in a second.
    News,
    /// None.
    Nothing,
}

/// What is said, to whoever listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Voice {
    pub(super) palette: Palette,
    pub(super) verbosity: Verbosity,
    pub(super) detail: Detail,
}

/// Writes what the voice says, event by event.
pub(super) struct Lines {
    voice: Voice,
    out: Box<dyn Write + Send>,
}

impl Lines {
    pub(super) fn new(voice: Voice, out: Box<dyn Write + Send>) -> Self {
        Self { voice, out }
    }

    pub(super) fn handle(&mut self, event: &Event) {
        // Nobody is left to tell that nobody listens.
        let _ = self.out.write_all(self.voice.say(event).as_bytes());
        let _ = self.out.flush();
    }
}

impl Voice {
    /// Returns the lines for one event, each ended; mostly one or none.
    pub(super) fn say(self, event: &Event) -> String {
        let line = match event {
            Event::Finished(report) => return summary::summary(report, self.palette, self.verbosity),
            Event::Warning { message } if self.verbosity != Verbosity::Quiet => self.warning(message),
            Event::Settled(settled) if self.shows(settled) => self.settled(settled),
            Event::Started { package, version, step: Step::Build } if self.verbosity == Verbosity::Verbose => {
                format!("{:<10} {package} {}", "building", clean(version))
            }
            Event::Plan { platform, n_vertices, library, store } if self.verbosity == Verbosity::Verbose => format!(
                "{} for {}, library {}, store {}",
                packages(*n_vertices),
                clean(platform),
                clean(&library.display().to_string()),
                clean(&store.display().to_string()),
            ),
            _ => return String::new(),
        };
        line + "\n"
    }

    fn shows(self, settled: &Settled) -> bool {
        match (self.detail, settled.outcome) {
            (Detail::Nothing, _) | (Detail::News, Outcome::Kept | Outcome::Loaded | Outcome::Provided) => false,
            // Whatever an interrupt kept from its turn is a number in the summary.
            (Detail::News, Outcome::Skipped) => settled.because.is_some(),
            _ => true,
        }
    }

    fn settled(self, settled: &Settled) -> String {
        let Settled { package, version, outcome, .. } = settled;
        let verb = self.palette.outcome(*outcome).apply_to(format!("{:<10}", outcome.as_str()));
        let took = match settled.duration {
            Duration::ZERO => String::new(),
            duration => self.palette.faint().apply_to(format!(" ({})", humane(duration))).to_string(),
        };
        let why = reason(settled).map_or_else(String::new, |why| format!(": {}", clean(&why)));
        format!("{verb} {package} {}{took}{why}", clean(version))
    }

    fn warning(self, message: &str) -> String {
        format!("{} {}", self.palette.notice().apply_to("warning:"), clean(message))
    }
}

fn reason(settled: &Settled) -> Option<String> {
    match (&settled.failure, &settled.because) {
        (Some(failure), _) => Some(failure.message.clone()),
        (None, Some(failed)) if settled.outcome == Outcome::Skipped => Some(format!("{failed} failed")),
        (None, because) => because.clone(),
    }
}
