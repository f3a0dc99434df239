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
            if report.trouble.is_some() {
                let head = palette.bad().apply_to(format!("Ended after {duration}"));
                let (n, all) = (counts.finished(), packages(counts.total()));
                return format!("{head}: {n} of {all} finished and kept in the store");
            }
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
    let mut refused = BTreeMap::<&str, usize>::new();
    let mut n_others = 0;
    for settled in skipped {
        match (settled.failed_input(), &settled.because) {
            (Some(failed), _) => waited.entry(failed).or_default().push(settled.package.as_str()),
            (None, Some(why)) => *refused.entry(why).or_default() += 1,
            (None, None) => n_others += 1,
        }
    }
    let head = palette.notice().apply_to("skipped");
    let mut lines = Vec::new();
    for (failed, mut names) in waited {
        names.sort_unstable();
        lines.push(format!("{head} because {} failed: {}", clean(failed), names.join(", ")));
    }
    lines.extend(refused.into_iter().map(|(why, n)| format!("not attempted: {} ({why})", packages(n))));
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

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use larder_ops::trouble::{Kind, Trouble};

    use super::*;
    use crate::ui::testing::{failed, plain, report, settled, skipped};

    fn say(report: &Report) -> String {
        summary(report, plain(), Verbosity::Normal)
    }

    #[test]
    fn success_counts_and_times() {
        let mut all = vec![settled("cli", Outcome::Ingested), settled("later", Outcome::Recompiled)];
        all.extend((0..61).map(|i| settled(&format!("p{i}"), Outcome::Loaded)));
        assert_eq!(say(&report(&all)), "Installed 63 packages in 3m12s (61 loaded, 1 recompiled, 1 ingested)\n");
        assert_eq!(summary(&report(&all), plain(), Verbosity::Quiet), "");
    }

    #[test]
    fn nothing_to_do_says_so() {
        let kept = report(&[settled("cli", Outcome::Kept)]);
        assert_eq!(say(&kept), "Library is up to date: 1 package in 3m12s\n");
        assert_eq!(say(&Report::default()), "Library is up to date: 0 packages in 0ms\n");
    }

    #[test]
    fn a_failure_shows_rs_words_the_log_and_the_way_out() {
        let mut xml2 = failed("xml2");
        xml2.failure = Some(Failure {
            message: "R CMD INSTALL ended with status 1".to_owned(),
            log_tail: ["\x1b[31mlibxml-2.0\x1b[0m was not found", "", "ERROR: configuration failed"]
                .map(Into::into)
                .into(),
            missing_system_packages: vec!["libxml2-dev".to_owned(), "pkg-config".to_owned()],
            hint: Some("or take the binary".to_owned()),
            is_environment: false,
        });
        let all = [
            settled("cli", Outcome::Ingested),
            xml2,
            skipped("xslt", "xml2"),
            failed("sf"),
            skipped("rvest", "xml2"),
            skipped("tmap", "sf"),
            settled("units", Outcome::Skipped),
        ];
        assert_snapshot!(say(&report(&all)), @"

        xml2 1.0 failed: R CMD INSTALL ended with status 1
          | libxml-2.0 was not found
          |
          | ERROR: configuration failed
          log: logs/build.log
          missing system packages: libxml2-dev, pkg-config
          hint: run `apt-get install libxml2-dev pkg-config`
          hint: or take the binary

        sf 1.0 failed: R CMD INSTALL ended with status 1
          log: logs/build.log

        skipped because sf failed: tmap
        skipped because xml2 failed: rvest, xslt
        not started: 1 package; `--keep-going` goes on after a failure
        2 failed, 4 skipped in 3m12s; 1 finished and kept in the store
        ");
        assert_eq!(summary(&report(&all), plain(), Verbosity::Quiet), say(&report(&all)), "quiet is not mute");
    }

    #[test]
    fn what_the_machine_refused_is_counted_and_the_error_itself_comes_last() {
        let trouble = Trouble::new(Kind::Full, "/".as_ref(), "aa: No space left on device");
        let unattempted = |name| skipped(name, trouble.in_short());
        let mut report = report(&[settled("cli", Outcome::Ingested), unattempted("units"), unattempted("sf")]);
        report.end_by(trouble.clone());
        assert_snapshot!(say(&report), @"
        not attempted: 2 packages (no space left)
        Ended after 3m12s: 1 of 3 packages finished and kept in the store
        ");
    }

    #[test]
    fn an_interrupt_says_what_is_kept() {
        let mut report = report(&[settled("cli", Outcome::Ingested), settled("units", Outcome::Skipped)]);
        report.outcome = RunOutcome::Interrupted;
        assert_snapshot!(say(&report), @"Interrupted after 3m12s: 1 of 2 packages finished and kept in the store; the library is as it was");
    }

    #[test]
    fn errors_come_with_hints() {
        let hints = ["run `renv::snapshot()` again".to_owned()];
        assert_snapshot!(error("renv.lock: package `xml2` has no `Version`", &hints, plain()), @"
        error: renv.lock: package `xml2` has no `Version`
        hint: run `renv::snapshot()` again
        ");
    }
}
