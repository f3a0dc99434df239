//! Consumers of events, and the only place that prints.
//!
//! Data goes to stdout, everything for people to stderr. What to use is decided by the caller: no environment is
//! read here.

mod bars;
mod contents;
mod counter;
mod frame;
mod json;
mod lines;
mod plan_json;
mod style;
mod summary;
#[cfg(test)]
pub(crate) mod testing;
mod verified;

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

pub use self::contents::{
    entries_as_json, entries_as_text, evicted_as_json, evicted_as_text, eviction_as_json, eviction_as_text,
    stats_as_json, stats_as_text,
};
pub use self::counter::Counter;
pub use self::plan_json::{graph_as_json, outlook_as_json, plan_as_json, refresh_as_json, why_as_json};
pub use self::style::{ColorMode, Palette};
pub(crate) use self::style::{humane, packages};
pub use self::verified::{verified_as_json, verified_as_text};

use self::bars::Bars;
use self::json::Json;
use self::lines::{Detail, Lines, Voice};
use crate::event::Event;

/// Whom the events are for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// People, on stderr.
    #[default]
    Human,
    /// Programs: one JSON object per line on stdout, and nothing on stderr.
    Json,
}

/// How progress is shown to people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Bars on a terminal, else lines.
    #[default]
    Auto,
    /// Bars; lines where the terminal cannot have them.
    Bars,
    /// One line per settled package.
    Lines,
    /// Not at all: only warnings and the summary.
    None,
}

/// How much is said to people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Only errors.
    Quiet,
    /// What one wants to know.
    #[default]
    Normal,
    /// What one wants to know when something is odd.
    Verbose,
}

/// What the user and the terminal ask for.
#[derive(Debug, Clone, Copy)]
pub struct UiOptions {
    /// Whom the events are for.
    pub format: Format,
    /// How progress is shown to people.
    pub progress: ProgressMode,
    /// How much is said to people.
    pub verbosity: Verbosity,
    /// The colours for stderr.
    pub palette: Palette,
    /// Whether stderr is a terminal.
    pub is_terminal: bool,
}

/// Shows one run. Dropping it leaves a clean terminal, whatever happened.
///
/// ```no_run
/// use larder::ui::{ColorMode, Format, Palette, ProgressMode, Ui, UiOptions, Verbosity};
///
/// # async fn example(mut run: larder::larder::Run, palette: Palette) {
/// let mut ui = Ui::new(UiOptions {
///     format: Format::Human,
///     progress: ProgressMode::Auto,
///     verbosity: Verbosity::Verbose,
///     palette,
///     is_terminal: true,
/// });
/// while let Some(event) = run.next().await {
///     ui.handle(&event);
/// }
/// # }
/// ```
pub struct Ui(Kind);

enum Kind {
    Bars(Bars),
    Lines(Lines),
    Json(Json),
}

impl Ui {
    /// Makes the display that the options ask for. Nothing is shown before the first event.
    pub fn new(options: UiOptions) -> Self {
        let UiOptions { format, progress, verbosity, palette, is_terminal } = options;
        if format == Format::Json {
            let is_verbose = verbosity == Verbosity::Verbose;
            return Self(Kind::Json(Json::new(Box::new(io::stdout()), is_verbose)));
        }
        let progress = match progress {
            _ if verbosity == Verbosity::Quiet => ProgressMode::None,
            ProgressMode::Auto if is_terminal => ProgressMode::Bars,
            ProgressMode::Auto => ProgressMode::Lines,
            chosen => chosen,
        };
        if progress == ProgressMode::Bars {
            let detail = if verbosity == Verbosity::Verbose { Detail::Everything } else { Detail::News };
            if let Some(bars) = Bars::on_stderr(Voice { palette, verbosity, detail }, Instant::now()) {
                return Self(Kind::Bars(bars));
            }
        }
        let detail = if progress == ProgressMode::None { Detail::Nothing } else { Detail::Everything };
        Self(Kind::Lines(Lines::new(Voice { palette, verbosity, detail }, Box::new(io::stderr()))))
    }

    /// Shows one event. Never fails: a reader that went away does not end a build.
    pub fn handle(&mut self, event: &Event) {
        match &mut self.0 {
            Kind::Bars(bars) => bars.handle(event, Instant::now()),
            Kind::Lines(lines) => lines.handle(event),
            Kind::Json(json) => json.handle(event, Instant::now()),
        }
    }
}

/// Prints data, the result of a command, to stdout. A reader that went away is no error.
pub fn print_data(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns stdout, for data that is no text. `None` if it is a terminal, which that would upset.
pub fn data_stream() -> Option<impl Write> {
    let out = io::stdout().lock();
    (!out.is_terminal()).then(|| io::BufWriter::with_capacity(64 << 10, out))
}

/// Prints a note about what a command did to stderr, since its data is on stdout.
pub fn print_note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Prints an error that ends the command, and its hints, to stderr. Drop the [`Ui`] before.
pub fn print_error(message: &str, hints: &[String], palette: Palette) {
    let _ = io::stderr().write_all(summary::error(message, hints, palette).as_bytes());
}

/// Tells people, on stderr, of a file that was written for them.
pub fn print_written(what: &str, path: &std::path::Path) {
    let path = style::clean(&path.display().to_string());
    let _ = io::stderr().write_all(format!("{what}: {path}\n").as_bytes());
}

/// Prints something that people should know and that stops nothing to stderr.
pub fn print_warning(message: &str, palette: Palette) {
    let label = palette.notice().apply_to("warning:");
    let _ = io::stderr().write_all(format!("{label} {}\n", style::clean(message)).as_bytes());
}

/// Returns `text`, which somebody else wrote, without what could drive a terminal.
pub fn printable(text: &str) -> String {
    text.lines().map(|line| style::clean(line) + "\n").collect()
}
