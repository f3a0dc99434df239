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
