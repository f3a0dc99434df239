//! How words look to people: colours, durations, and text from elsewhere made harmless.

use std::time::Duration;

use console::Style;

use crate::event::Outcome;

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// Never.
    Never,
}

/// The few colours in use, or none. No meaning depends on them.
#[derive(Debug, Clone, Copy)]
pub struct Palette {
    has_color: bool,
}

impl Palette {
    /// Decides for one stream. An explicit [`ColorMode::Always`] is stronger than `NO_COLOR`.
    pub fn choose(mode: ColorMode, has_no_color: bool, is_terminal: bool) -> Self {
        let has_color = match mode {
            ColorMode::Auto => is_terminal && !has_no_color,
            ColorMode::Always => true,
            ColorMode::Never => false,
        };
        Self { has_color }
    }

    pub(super) fn good(self) -> Style {
        self.plain().green()
    }

    pub(super) fn bad(self) -> Style {
        self.plain().red().bold()
    }

    pub(super) fn notice(self) -> Style {
        self.plain().yellow()
    }

    pub(super) fn advice(self) -> Style {
        self.plain().cyan()
    }

    pub(super) fn strong(self) -> Style {
        self.plain().bold()
    }

    pub(super) fn faint(self) -> Style {
        self.plain().dim()
    }

    pub(super) fn outcome(self, outcome: Outcome) -> Style {
        match outcome {
            Outcome::Ingested | Outcome::Recompiled => self.good(),
            Outcome::Loaded | Outcome::Kept | Outcome::Provided => self.faint(),
            Outcome::Failed => self.bad(),
            Outcome::Skipped | Outcome::Stale => self.notice(),
        }
    }

    fn plain(self) -> Style {
        Style::new().force_styling(self.has_color)
    }
}

/// Returns text from elsewhere as one line that can do nothing to a terminal but be read on it.
///
/// What R, compilers and servers say may hold escape sequences, carriage returns and characters that reverse the
/// reading order. Everything of that kind goes; tabs stay, and newlines become spaces.
pub(super) fn clean(text: &str) -> String {
    let is_bidi = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    console::strip_ansi_codes(text.trim_end())
        .chars()
        .map(|c| if c == '\n' { ' ' } else { c })
        .filter(|&c| c == '\t' || !(c.is_control() || is_bidi(c)))
        .collect()
}

/// Writes a duration the way people say it: `8ms`, `1.2s`, `3m12s`, `1h02m`.
pub(crate) fn humane(duration: Duration) -> String {
    let millis = duration.as_millis();
    match duration.as_secs() {
        0 => format!("{millis}ms"),
        1..60 => format!("{}.{}s", millis / 1000, millis / 100 % 10),
        _ => humane_secs(duration),
    }
}

/// Writes the duration of something that goes on, without the digits that would only flicker: `0s`, `38s`, `3m12s`.
pub(super) fn humane_secs(duration: Duration) -> String {
    match duration.as_secs() {
        secs @ 0..60 => format!("{secs}s"),
        secs @ 60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        secs => format!("{}h{:02}m", secs / 3600, secs / 60 % 60),
    }
}

/// Writes `1 package`, `2 packages`.
pub(crate) fn packages(n: usize) -> String {
    if n == 1 { "1 package".to_owned() } else { format!("{n} packages") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_speech() {
        let shown: Vec<_> = [0, 8, 999, 1_250, 59_990, 60_000, 192_000, 3_599_999, 3_720_000, 360_000_000]
            .map(Duration::from_millis)
            .map(humane)
            .into();
        assert_eq!(shown, ["0ms", "8ms", "999ms", "1.2s", "59.9s", "1m00s", "3m12s", "59m59s", "1h02m", "100h00m"]);
        assert_eq!(humane_secs(Duration::from_millis(38_400)), "38s");
    }

    #[test]
    fn output_of_packages_cannot_drive_the_terminal() {
        assert_eq!(clean("\x1b[31mred\x1b[0m\ttab\r\n"), "red\ttab");
        assert_eq!(clean("a\x1b]0;title\x07b\u{9b}2Jc\u{202e}d\x08"), "abcd");
        assert_eq!(clean("one\ntwo"), "one two");
    }

    #[test]
    fn colour_needs_a_terminal_or_an_explicit_wish() {
        let shown =
            |mode, no_color, terminal| Palette::choose(mode, no_color, terminal).bad().apply_to("x").to_string() != "x";
        assert!(shown(ColorMode::Auto, false, true));
        assert!(!shown(ColorMode::Auto, false, false));
        assert!(!shown(ColorMode::Auto, true, true));
        assert!(shown(ColorMode::Always, true, false));
        assert!(!shown(ColorMode::Never, false, true));
    }
}
