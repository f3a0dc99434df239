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
            Event::Output { package, text, .. } if self.verbosity == Verbosity::Verbose => {
                let name = self.palette.faint().apply_to(format!("{package}:"));
                let lines: Vec<_> = text.lines().map(|line| format!("{name} {}", clean(line))).collect();
                lines.join("\n")
            }
            Event::Plan { platform, n_vertices, library, store } if self.verbosity == Verbosity::Verbose => format!(
                "{} for {}, into library `{}`, by way of store `{}`",
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
        // What is there costs next to nothing, and if it does not, that is worth a word.
        let least = match outcome {
            Outcome::Kept | Outcome::Loaded | Outcome::Provided => Duration::from_secs(1),
            _ => Duration::from_millis(1),
        };
        let took = match settled.duration {
            duration if duration < least => String::new(),
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
        (None, because) => settled.failed_input().map(|failed| format!("{failed} failed")).or_else(|| because.clone()),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::ui::testing::{Written, failed, plain, plan, settled, skipped, started};

    fn lines(verbosity: Verbosity, detail: Detail) -> String {
        let took = |ms, settled| Settled { duration: Duration::from_millis(ms), ..settled };
        let because = |why: &str, settled| Settled { because: Some(why.to_owned()), ..settled };
        let written = Written::default();
        let mut lines = Lines::new(Voice { palette: plain(), verbosity, detail }, Box::new(written.clone()));
        lines.handle(&plan(8));
        lines.handle(&started("cli", Step::Fetch));
        lines.handle(&started("cli", Step::Build));
        lines.handle(&Event::Warning { message: "copying:\x1b[2J no hard links".to_owned() });
        for settled in [
            settled("R6", Outcome::Kept),
            took(1_200, because("interface unchanged", settled("curl", Outcome::Loaded))),
            settled("methods", Outcome::Provided),
            took(12_300, settled("cli", Outcome::Ingested)),
            took(4_100, because("Rcpp 1.0.14 -> 1.0.15", settled("later", Outcome::Recompiled))),
            failed("xml2"),
            skipped("rvest", "xml2"),
            settled("units", Outcome::Skipped),
        ] {
            lines.handle(&Event::Settled(settled));
        }
        written.text()
    }

    #[test]
    fn each_settled_package_has_a_line() {
        assert_snapshot!(lines(Verbosity::Normal, Detail::Everything), @"
        warning: copying: no hard links
        kept       R6 1.0
        loaded     curl 1.0 (1.2s): interface unchanged
        provided   methods 1.0
        ingested   cli 1.0 (12.3s)
        recompiled later 1.0 (4.1s): Rcpp 1.0.14 -> 1.0.15
        failed     xml2 1.0 (8.2s): R CMD INSTALL ended with status 1
        skipped    rvest 1.0: xml2 failed
        skipped    units 1.0
        ");
    }

    #[test]
    fn news_are_what_was_worked_on_or_went_wrong() {
        assert_snapshot!(lines(Verbosity::Normal, Detail::News), @"
        warning: copying: no hard links
        ingested   cli 1.0 (12.3s)
        recompiled later 1.0 (4.1s): Rcpp 1.0.14 -> 1.0.15
        failed     xml2 1.0 (8.2s): R CMD INSTALL ended with status 1
        skipped    rvest 1.0: xml2 failed
        ");
    }

    #[test]
    fn verbose_tells_the_places_and_the_beginnings() {
        let text = lines(Verbosity::Verbose, Detail::Nothing);
        assert_snapshot!(text, @"
        8 packages for 4.2-linux, into library `library`, by way of store `store`
        building   cli 1.0
        warning: copying: no hard links
        ");
    }

    #[test]
    fn quiet_says_nothing_on_the_way() {
        assert_eq!(lines(Verbosity::Quiet, Detail::Nothing), "");
    }
}
