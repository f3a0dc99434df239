//! Events on a terminal: lines that stay scroll up, and below them moves a picture of what runs now.
//!
//! Indicatif draws, clears and repaints in time; what is drawn is one text, made by `frame`.

use std::fmt;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::style::ProgressTracker;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::event::Event;
use crate::ui::frame::Frame;
use crate::ui::lines::Voice;

const TICK: Duration = Duration::from_millis(100);
const REDRAWS_PER_SECOND: u8 = 20;

/// Shows a run on a terminal. Dropping it takes the moving part away.
pub(super) struct Bars {
    voice: Voice,
    picture: Picture,
    bar: ProgressBar,
    /// Leads to the same screen as `bar`.
    out: Box<dyn Write + Send>,
}

impl Bars {
    /// Starts on stderr; `None` if that is no terminal, or one that cannot move its cursor.
    pub(super) fn on_stderr(voice: Voice, now: Instant) -> Option<Self> {
        let term = Term::buffered_stderr();
        let target = ProgressDrawTarget::term(term.clone(), REDRAWS_PER_SECOND);
        if target.is_hidden() {
            return None;
        }
        let screen = term.clone();
        let bars = Self::new(voice, target, Arc::new(move || screen.size()), Box::new(term), now);
        bars.bar.enable_steady_tick(TICK);
        Some(bars)
    }

    fn new(
        voice: Voice,
        target: ProgressDrawTarget,
        size: Arc<dyn Fn() -> (u16, u16) + Send + Sync>,
        out: Box<dyn Write + Send>,
        now: Instant,
    ) -> Self {
        let picture = Picture { frame: Arc::new(Mutex::new(Frame::new(now))), size, voice };
        let style = ProgressStyle::with_template("{picture}").expect("a valid template");
        let bar = ProgressBar::with_draw_target(None, target).with_style(style.with_key("picture", picture.clone()));
        Self { voice, picture, bar, out }
    }

    pub(super) fn handle(&mut self, event: &Event, now: Instant) {
        self.picture.with(|frame| frame.update(event, now));
        if matches!(event, Event::Finished(_)) {
            self.bar.finish_and_clear();
        }
        let said = self.voice.say(event);
        if !said.is_empty() {
            // Not flushed here: the repaint that follows sends both at once.
            self.bar.suspend(|| {
                let _ = self.out.write_all(said.as_bytes());
            });
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        let _ = self.out.flush();
    }
}

/// The frame as something that indicatif can ask for.
#[derive(Clone)]
struct Picture {
    frame: Arc<Mutex<Frame>>,
    /// Returns rows and columns.
    size: Arc<dyn Fn() -> (u16, u16) + Send + Sync>,
    voice: Voice,
}

impl Picture {
    fn with<T>(&self, f: impl FnOnce(&mut Frame) -> T) -> T {
        // A frame that a panic left half changed is still worth a look.
        f(&mut self.frame.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ProgressTracker for Picture {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, _: &ProgressState, now: Instant) {
        self.with(|frame| frame.tick(now));
    }

    fn reset(&mut self, _: &ProgressState, _: Instant) {}

    fn write(&self, _: &ProgressState, w: &mut dyn fmt::Write) {
        let (rows, columns) = (self.size)();
        let text = self.with(|frame| frame.render(rows.into(), columns.into(), self.voice.palette));
        let _ = w.write_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::{InMemoryTerm, TermLike as _};
    use insta::assert_snapshot;

    use super::*;
    use crate::event::{Outcome, Settled, Step};
    use crate::ui::Verbosity;
    use crate::ui::lines::Detail;
    use crate::ui::testing::{failed, fetched, plain, plan, report, settled, started};

    /// A terminal of 12 rows and 60 columns, and a run on it whose clock is ours.
    struct Screen {
        term: InMemoryTerm,
        bars: Bars,
        start: Instant,
    }

    /// Does what the driver of a terminal does to lines.
    struct Driver(InMemoryTerm);

    impl Write for Driver {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_str(&str::from_utf8(bytes).unwrap().replace('\n', "\r\n"))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn new() -> Self {
            let term = InMemoryTerm::new(12, 60);
            // Ahead of the real clock, so that the ticks that indicatif adds never count.
            let start = Instant::now() + Duration::from_hours(1);
            let voice = Voice { palette: plain(), verbosity: Verbosity::Normal, detail: Detail::News };
            let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
            let bars = Bars::new(voice, target, Arc::new(|| (12, 60)), Box::new(Driver(term.clone())), start);
            Self { term, bars, start }
        }

        fn at(&mut self, ms: u64, events: &[Event]) -> String {
            for event in events {
                self.bars.handle(event, self.start + Duration::from_millis(ms));
            }
            self.bars.bar.tick();
            self.term.contents()
        }
    }

    #[test]
    fn what_runs_moves_below_what_stays() {
        let mut screen = Screen::new();
        screen.at(0, &[plan(8), started("cli", Step::Build), started("BH", Step::Fetch), started("R6", Step::Fetch)]);
        screen.at(0, &[Event::Settled(settled("warm", Outcome::Loaded)), fetched("R6", 9, 9)]);
        assert_snapshot!(screen.at(62_000, &[fetched("BH", 1 << 20, 3 << 20)]), @"
        ⠋ ━━━───────────────────── 1/8  1m02s  1 loaded
          building cli 1.0  1m02s
          fetching BH 1.0   1m02s  1.00 MiB of 3.00 MiB
        ");
        let cli = Settled { duration: Duration::from_secs(62), ..settled("cli", Outcome::Ingested) };
        let events = [Event::Settled(cli), Event::Settled(failed("xml2")), started("BH", Step::Build)];
        assert_snapshot!(screen.at(62_500, &events), @"
        ingested   cli 1.0 (1m02s)
        failed     xml2 1.0 (8.2s): R CMD INSTALL ended with status
        1
        ⠴ ━━━━━━━━━─────────────── 3/8  1m02s  1 loaded, 1 ingested…
          building BH 1.0     0s
        ");
        let all = [settled("warm", Outcome::Loaded), settled("cli", Outcome::Ingested)];
        assert_snapshot!(screen.at(63_000, &[Event::Finished(report(&all))]), @"
        ingested   cli 1.0 (1m02s)
        failed     xml2 1.0 (8.2s): R CMD INSTALL ended with status
        1
        Installed 2 packages in 3m12s (1 loaded, 1 ingested)
        ");
    }

    #[test]
    fn more_packages_than_rows_are_counted() {
        let mut screen = Screen::new();
        let events: Vec<_> = (0..20).map(|i| started(&format!("p{i:02}"), Step::Build)).collect();
        screen.at(0, &[plan(20)]);
        assert_snapshot!(screen.at(2_000, &events), @"
        ⠋ ──────────────────────── 0/20  2s
          building p00 1.0     0s
          building p01 1.0     0s
          building p02 1.0     0s
          building p03 1.0     0s
          building p04 1.0     0s
          building p05 1.0     0s
          … and 14 more
        ");
    }

    #[test]
    fn a_short_run_shows_only_its_summary() {
        let mut screen = Screen::new();
        assert_eq!(screen.at(0, &[plan(1), started("cli", Step::Link)]), "");
        assert_eq!(screen.at(99, &[Event::Settled(settled("cli", Outcome::Kept))]), "");
        let done = Event::Finished(report(&[settled("cli", Outcome::Kept)]));
        assert_eq!(screen.at(99, &[done]), "Library is up to date: 1 package in 3m12s");
    }

    #[test]
    fn leaving_early_leaves_a_clean_screen() {
        let mut screen = Screen::new();
        screen.at(0, &[plan(1)]);
        assert_ne!(screen.at(5_000, &[started("cli", Step::Build)]), "");
        drop(screen.bars);
        assert_eq!(screen.term.contents(), "");
    }
}
