//! What a check of the store found, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use larder_ops::store::verify::{Finding, Verified};
use serde::Serialize;

use crate::ui::style::clean;

/// More of one entry than this says no more; `--json` has all.
const SHOWN_MAX: usize = 10;

#[derive(Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line<'a> {
    Finding {
        v: u8,
        platform: &'a str,
        package: Option<&'a str>,
        key: Option<String>,
        path: String,
        problem: String,
        repaired: bool,
        repair: Option<&'a str>,
        error: Option<&'a str>,
    },
    Verified {
        v: u8,
        entries: usize,
        bytes: u64,
        findings: usize,
        repaired: usize,
        without_manifest: usize,
        manifests_written: usize,
        busy: Vec<String>,
    },
}

/// Returns one JSON object per finding, and a last one with the counts.
pub fn verified_as_json(verified: &Verified) -> String {
    let findings = verified.findings.iter().map(|finding| Line::Finding {
        v: 1,
        platform: &finding.platform,
        package: finding.package.as_ref().map(larder_ops::package::PackageName::as_str),
        key: finding.reference.map(|reference| reference.to_string()),
        path: finding.path.display().to_string(),
        problem: finding.problem.to_string(),
        repaired: finding.is_repaired(),
        repair: finding.repair.as_ref().and_then(|repair| repair.as_deref().ok()),
        error: finding.repair.as_ref().and_then(|repair| repair.as_ref().err()).map(String::as_str),
    });
    let last = Line::Verified {
        v: 1,
        entries: verified.n_entries,
        bytes: verified.bytes,
        findings: verified.findings.len(),
        repaired: n_repaired(verified),
        without_manifest: verified.n_unrecorded,
        manifests_written: verified.n_recorded,
        busy: verified.busy.iter().map(|path| path.display().to_string()).collect(),
    };
    let lines = findings.chain([last]).map(|line| serde_json::to_string(&line).expect("plain data is serializable"));
    lines.map(|line| line + "\n").collect()
}

/// Returns what was found in the store at `root`, in words.
pub fn verified_as_text(verified: &Verified, root: &Path) -> String {
    let mut text = String::new();
    let shown = |path: &Path| clean(&path.strip_prefix(root).unwrap_or(path).display().to_string());
    for group in verified.findings.chunk_by(is_of_one_entry) {
        for finding in group.iter().take(SHOWN_MAX) {
            let problem = clean(&finding.problem.to_string());
            writeln!(text, "{} {problem}", shown(&finding.path)).expect("memory takes everything");
        }
        if group.len() > SHOWN_MAX {
            writeln!(text, "    and {} more", group.len() - SHOWN_MAX).expect("memory takes everything");
        }
        match group[0].repair.as_ref() {
            Some(Ok(done)) => writeln!(text, "    {}", clean(done)),
            Some(Err(error)) => writeln!(text, "    not repaired: {}", clean(error)),
            None => Ok(()),
        }
        .expect("memory takes everything");
    }
    for path in &verified.busy {
        writeln!(text, "{} is being worked on by another process, and was not checked", shown(path))
            .expect("memory takes everything");
    }
    text + &summary(verified)
}

fn is_of_one_entry(a: &Finding, b: &Finding) -> bool {
    a.reference.is_some() && (&a.platform, &a.package, a.reference) == (&b.platform, &b.package, b.reference)
}

fn n_repaired(verified: &Verified) -> usize {
    verified.findings.iter().filter(|finding| finding.is_repaired()).count()
}

fn summary(verified: &Verified) -> String {
    let entries = if verified.n_entries == 1 { "entry" } else { "entries" };
    let size = indicatif::DecimalBytes(verified.bytes);
    let mut text = format!("store: {} {entries} ({size}) checked, ", verified.n_entries);
    match verified.findings.len() {
        0 => write!(text, "nothing is wrong"),
        1 => write!(text, "1 finding"),
        n => write!(text, "{n} findings"),
    }
    .expect("memory takes everything");
    match (verified.findings.len(), n_repaired(verified)) {
        (0, _) | (_, 0) => {}
        (all, repaired) if all == repaired => text += ", repaired",
        (_, repaired) => write!(text, ", {repaired} of them repaired").expect("memory takes everything"),
    }
    if verified.n_recorded > 0 {
        write!(text, "; {} manifests written", verified.n_recorded).expect("memory takes everything");
    }
    let left = verified.n_unrecorded - verified.n_recorded;
    if left > 0 {
        write!(text, "; {left} without a manifest (`--repair` writes it)").expect("memory takes everything");
    }
    text + "\n"
}
