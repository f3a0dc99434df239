//! The last words of a run: what failed and why, what was skipped, and one line that counts and times.

use std::collections::BTreeMap;

use crate::event::{Failure, Outcome, Settled};
use crate::report::{Counts, Report, RunOutcome};
use crate::ui::Verbosity;
use crate::ui::style::{Palette, clean, humane, packages};

/// Returns the summary as lines, each ended. Quiet runs say nothing of success.
pub(super) fn summary(report: &Report, palette: Palette, verbosity: Verbosity) -> String {
    if report.outcome == RunOutcome::Ok && verbosity == Verbosity::Quiet {
        return String::new();
    }
    let mut lines = Vec::new();
    for failed in &report.failed {
        lines.push(String::new());
        lines.extend(failure_lines(failed, palette));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    if report.outcome == RunOutcome::Failed {
        lines.extend(skipped_lines(&report.skipped, palette));
    }
    lines.push(last_line(report, palette));
    lines.join("\n") + "\n"
}

fn last_line(report: &Report, palette: Palette) -> String {
    let Report { counts, duration, .. } = report;
    let duration = humane(*duration);
    match report.outcome {
        RunOutcome::Ok if counts.total() == counts.kept + counts.provided => {
            let head = palette.strong().apply_to("Library is up to date");
            format!("{head}: {} in {duration}", packages(counts.total()))
        }
        RunOutcome::Ok => {
            let head = palette.strong().apply_to(format!("Installed {}", packages(counts.total())));
            format!("{head} in {duration} ({})", tally(*counts, palette))
        }
        RunOutcome::Failed => {
            let failed = palette.bad().apply_to(format!("{} failed", counts.failed));
            let skipped = if counts.skipped > 0 { format!(", {} skipped", counts.skipped) } else { String::new() };
            format!("{failed}{skipped} in {duration}; {} finished and kept in the store", counts.finished())
        }
        RunOutcome::Interrupted => {
            let head = palette.notice().apply_to(format!("Interrupted after {duration}"));
            format!(
                "{head}: {} of {} finished and kept in the store; the library is as it was",
                counts.finished(),
                packages(counts.total())
            )
        }
    }
}

/// Returns the outcomes that occurred, `61 loaded, 2 recompiled, 1 failed`.
pub(super) fn tally(counts: Counts, palette: Palette) -> String {
    let parts: Vec<_> = counts
        .by_outcome()
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .map(|(outcome, n)| {
            let part = format!("{n} {}", outcome.as_str());
            if outcome == Outcome::Failed { palette.bad().apply_to(part).to_string() } else { part }
        })
        .collect();
    parts.join(", ")
}

fn failure_lines(failed: &Settled, palette: Palette) -> Vec<String> {
    let nothing = Failure::default();
    let failure = failed.failure.as_ref().unwrap_or(&nothing);
    let head = palette.bad().apply_to(format!("{} {} failed", failed.package, clean(&failed.version)));
    let mut lines = vec![format!("{head}: {}", clean(&failure.message))];
    for line in &failure.log_tail {
        lines.push(format!("  {} {}", palette.faint().apply_to("|"), clean(line)).trim_end().to_owned());
    }
    let field = |name, value: &str| format!("  {} {}", palette.advice().apply_to(name), clean(value));
    if let Some(log) = &failed.log {
        lines.push(field("log:", &log.display().to_string()));
    }
    let missing = &failure.missing_system_packages;
    if !missing.is_empty() {
        lines.push(field("missing system packages:", &missing.join(", ")));
        lines.push(field("hint:", &format!("run `apt-get install {}`", missing.join(" "))));
    }
    if let Some(hint) = &failure.hint {
        lines.push(field("hint:", hint));
    }
    lines
}

/// Groups what was skipped by what it waited for; whatever else had not had its turn is a number.
fn skipped_lines(skipped: &[Settled], palette: Palette) -> Vec<String> {
    let mut waited = BTreeMap::<&str, Vec<&str>>::new();
    let mut n_others = 0;
    for settled in skipped {
        match &settled.because {
            Some(failed) => waited.entry(failed).or_default().push(settled.package.as_str()),
            None => n_others += 1,
        }
    }
    let head = palette.notice().apply_to("skipped");
    let mut lines = Vec::new();
    for (failed, mut names) in waited {
        names.sort_unstable();
        lines.push(format!("{head} because {} failed: {}", clean(failed), names.join(", ")));
    }
    if n_others > 0 {
        lines.push(format!("not started: {}; `--keep-going` goes on after a failure", packages(n_others)));
    }
    lines
}

/// Returns an error and its hints as lines, each ended: `error: ...`, `hint: ...`.
pub(super) fn error(message: &str, hints: &[String], palette: Palette) -> String {
    let mut lines = vec![format!("{} {}\n", palette.bad().apply_to("error:"), clean(message))];
    lines.extend(hints.iter().map(|hint| format!("{} {}\n", palette.advice().apply_to("hint:"), clean(hint))));
    lines.concat()
}
