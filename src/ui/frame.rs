//! The moving part of the display as a pure function: what runs now, at this time, on a screen of this size.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use console::{measure_text_width, pad_str, truncate_str};
use indicatif::HumanBytes;
use larder_ops::package::PackageName;

use crate::event::{Event, Step};
use crate::report::Counts;
use crate::ui::style::{Palette, clean, humane_secs};
use crate::ui::summary::tally;

/// A run that is over sooner shows no bar at all.
const DELAY: Duration = Duration::from_millis(100);

/// Rows that are left to what was printed before, so that the frame never fills the screen.
const ROWS_KEPT: usize = 3;

const BAR_WIDTH: usize = 24;
const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const SPINNER_INTERVAL_MS: u128 = 100;

/// What the display has to know of a run that goes on.
#[derive(Debug)]
pub(super) struct Frame {
    started: Instant,
    /// The latest time heard of; it comes in with events and ticks and never goes back.
    now: Instant,
    n_vertices: usize,
    counts: Counts,
    /// The packages that something is done to, in the order in which they were first started.
    running: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    package: PackageName,
    version: String,
    step: Step,
    since: Instant,
    bytes: Option<(u64, Option<u64>)>,
    /// Its step is over and the next one has not begun; it keeps its place but has no line.
    is_waiting: bool,
}

impl Frame {
    pub(super) fn new(now: Instant) -> Self {
        Self { started: now, now, n_vertices: 0, counts: Counts::default(), running: Vec::new() }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    pub(super) fn update(&mut self, event: &Event, now: Instant) {
        self.tick(now);
        match event {
            Event::Plan { n_vertices, .. } => self.n_vertices = *n_vertices,
            Event::Started { package, version, step } => self.start(package, version, *step),
            Event::Progress { package, step, current, total } => {
                let running = self.running.iter_mut().find(|it| it.package == *package && it.step == *step);
                if let Some(running) = running {
                    running.bytes = (*step == Step::Fetch).then_some((*current, *total));
                    running.is_waiting = *total == Some(*current);
                }
            }
            Event::Settled(settled) => {
                self.counts.count(settled.outcome);
                self.running.retain(|it| it.package != settled.package);
            }
            Event::Output { .. } | Event::Linked { .. } | Event::Warning { .. } | Event::Finished(_) => {}
        }
    }

    fn start(&mut self, package: &PackageName, version: &str, step: Step) {
        let since = self.now;
        match self.running.iter_mut().find(|it| it.package == *package) {
            Some(running) if matches!(step, Step::Wait | Step::Unpack) => running.is_waiting = true,
            // Mostly over before one could read it.
            _ if matches!(step, Step::Wait | Step::Unpack | Step::Publish) => {}
            Some(running) => {
                running.step = step;
                running.since = since;
                running.bytes = None;
                running.is_waiting = false;
            }
            None => self.running.push(Running {
                package: package.clone(),
                version: clean(version),
                step,
                since,
                bytes: None,
                is_waiting: false,
            }),
        }
    }

    /// Returns the lines to show; nothing at all in a run's first moment. No line is wider than the screen.
    pub(super) fn render(&self, rows: usize, columns: usize, palette: Palette) -> String {
        if self.now - self.started < DELAY || self.n_vertices == 0 {
            return String::new();
        }
        let busy: Vec<_> = self.running.iter().filter(|it| !it.is_waiting).collect();
        // The bar and the empty row below take two; when not all packages fit, a row says how many do not.
        let fit = rows.saturating_sub(ROWS_KEPT + 2);
        let n_shown = if busy.len() <= fit { busy.len() } else { fit.saturating_sub(1) };
        let (shown, rest) = busy.split_at(n_shown);

        let mut lines = vec![self.bar(palette)];
        let names: Vec<_> = shown.iter().map(|it| format!("{} {}", it.package, it.version)).collect();
        let width = names.iter().map(|name| measure_text_width(name)).max().unwrap_or(0);
        for (running, name) in shown.iter().zip(&names) {
            lines.push(running.line(&pad_str(name, width, console::Alignment::Left, None), self.now, palette));
        }
        if !rest.is_empty() {
            lines.push(palette.faint().apply_to(format!("  … and {} more", rest.len())).to_string());
        }
        let mut text: String = lines.iter().map(|line| truncate_str(line, columns, "…") + "\n").collect();
        // The cursor rests at the start of an empty row: what the terminal echoes of a Ctrl-C, and the prompt after a
        // kill, land there. Indicatif alone leaves it at the right edge, where an echo shifts the picture by a row.
        text.push_str(&" ".repeat(columns));
        text.push('\r');
        text
    }

    fn bar(&self, palette: Palette) -> String {
        let elapsed = self.now - self.started;
        let spin = usize::try_from(elapsed.as_millis() / SPINNER_INTERVAL_MS % 10).expect("below ten");
        let n_settled = self.counts.total();
        let filled = (n_settled * BAR_WIDTH / self.n_vertices).min(BAR_WIDTH);
        let done = palette.good().apply_to("━".repeat(filled));
        let todo = palette.faint().apply_to("─".repeat(BAR_WIDTH - filled));
        format!(
            "{} {done}{todo} {n_settled}/{}  {}  {}",
            SPINNER[spin],
            self.n_vertices,
            humane_secs(elapsed),
            tally(self.counts, palette)
        )
    }
}

impl Running {
    fn line(&self, name: &str, now: Instant, palette: Palette) -> String {
        let verb = match self.step {
            Step::Wait | Step::Unpack | Step::Fetch => "fetching",
            Step::Build | Step::Publish => "building",
            Step::Load => "loading",
            Step::Link => "linking",
        };
        let mut line = format!(
            "  {} {name} {:>6}",
            palette.advice().apply_to(format!("{verb:<8}")),
            humane_secs(now - self.since)
        );
        if let Some((current, total)) = self.bytes {
            let _ = write!(line, "  {}", HumanBytes(current));
            if let Some(total) = total {
                let _ = write!(line, " of {}", HumanBytes(total));
            }
        }
        line
    }
}
