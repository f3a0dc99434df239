//! What a store holds and what left it, for people and for programs.

use std::fmt::Write;
use std::path::Path;
use std::time::SystemTime;

use indicatif::DecimalBytes;
use larder_ops::store::{Evicted, Listed, Policy, Size, Stats, Summary, What};
use serde::Serialize;

use crate::ui::style::clean;

#[derive(Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line<'a> {
    Entry {
        v: u8,
        platform: &'a str,
        package: &'a str,
        version: &'a str,
        key: String,
        bytes: u64,
        used_at: String,
    },
    Evicted {
        v: u8,
        kind: &'static str,
        platform: Option<&'a str>,
        package: Option<&'a str>,
        version: Option<&'a str>,
        key: Option<String>,
        path: String,
        used_at: String,
        freed_bytes: u64,
    },
    Eviction {
        v: u8,
        dry_run: bool,
        entries: usize,
        others: usize,
        freed_bytes: u64,
        in_use: usize,
        left_bytes: u64,
    },
    Package {
        v: u8,
        platform: &'a str,
        package: &'a str,
        entries: usize,
        bytes: u64,
        used_at: String,
    },
    Stats {
        v: u8,
        entries: usize,
        entry_bytes: u64,
        blob_bytes: u64,
        log_bytes: u64,
        staging_bytes: u64,
        aside: usize,
        aside_bytes: u64,
        bytes: u64,
    },
}

fn json(line: &Line<'_>) -> String {
    serde_json::to_string(line).expect("plain data is serializable") + "\n"
}

fn time(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

fn kind(what: &What) -> &'static str {
    match what {
        What::Entry(_) => "entry",
        What::Stray => "stray",
        What::Blob => "download",
        What::Partial => "partial-download",
        What::Log => "log",
        What::Aside => "aside",
        What::Worker => "worker",
    }
}

/// Returns one JSON object per entry.
pub fn entries_as_json(entries: &[Listed]) -> String {
    let line = |entry: &Listed| {
        json(&Line::Entry {
            v: 1,
            platform: &entry.platform,
            package: entry.package.as_str(),
            version: &entry.version,
            key: entry.reference.to_string(),
            bytes: entry.bytes,
            used_at: time(entry.used),
        })
    };
    entries.iter().map(line).collect()
}

/// Returns a table of entries, each platform's under its name.
pub fn entries_as_text(entries: &[Listed]) -> String {
    let mut text = String::new();
    for platform in entries.chunk_by(|a, b| a.platform == b.platform) {
        writeln!(text, "{}", clean(&platform[0].platform)).expect("memory takes everything");
        for Listed { package, version, reference, used, bytes, .. } in platform {
            let (name, size) = (format!("{package} {}", clean(version)), DecimalBytes(*bytes).to_string());
            writeln!(text, "  {name:<24} {size:>10}  {}  {reference}", time(*used)).expect("memory takes everything");
        }
    }
    text
}

/// Returns one thing that left the store at `root`, or would, as a JSON object.
pub fn evicted_as_json(evicted: &Evicted, root: &Path) -> String {
    let entry = match &evicted.what {
        What::Entry(entry) => Some(entry),
        _ => None,
    };
    json(&Line::Evicted {
        v: 1,
        kind: kind(&evicted.what),
        platform: entry.map(|entry| entry.platform.as_str()),
        package: entry.map(|entry| entry.package.as_str()),
        version: entry.map(|entry| entry.version.as_str()),
        key: entry.map(|entry| entry.reference.to_string()),
        path: evicted.path.strip_prefix(root).unwrap_or(&evicted.path).display().to_string(),
        used_at: time(evicted.used),
        freed_bytes: evicted.freed,
    })
}

/// Returns one thing that left the store at `root`, or would, as a line.
pub fn evicted_as_text(evicted: &Evicted, root: &Path) -> String {
    let name = match &evicted.what {
        What::Entry(entry) => format!("{} {}", entry.package, clean(&entry.version)),
        other => {
            format!("{} {}", kind(other), clean(&evicted.path.strip_prefix(root).unwrap_or(root).to_string_lossy()))
        }
    };
    format!("{name}: {}, last used {}\n", DecimalBytes(evicted.freed), time(evicted.used))
}

/// Returns what an eviction came to as a JSON object.
pub fn eviction_as_json(summary: &Summary, policy: &Policy) -> String {
    json(&Line::Eviction {
        v: 1,
        dry_run: policy.is_dry_run,
        entries: summary.n_entries,
        others: summary.n_others,
        freed_bytes: summary.freed,
        in_use: summary.n_in_use,
        left_bytes: summary.left,
    })
}

/// Returns what an eviction came to as a line.
pub fn eviction_as_text(summary: &Summary, policy: &Policy) -> String {
    let (evicted, freed) =
        if policy.is_dry_run { ("would be evicted", "would be freed") } else { ("evicted", "freed") };
    let entries = if summary.n_entries == 1 { "entry" } else { "entries" };
    let mut text = format!("store: {} {entries} and {} other things {evicted}, ", summary.n_entries, summary.n_others);
    write!(text, "{} {freed}, {} left", DecimalBytes(summary.freed), DecimalBytes(summary.left))
        .expect("memory takes everything");
    if summary.n_in_use > 0 {
        write!(text, "; {} in use stay", summary.n_in_use).expect("memory takes everything");
    }
    text + "\n"
}

/// Returns one JSON object per platform and package, and a last one for the whole store.
pub fn stats_as_json(stats: &Stats) -> String {
    let mut text = String::new();
    for (platform, packages) in &stats.platforms {
        for (package, held) in packages {
            text += &json(&Line::Package {
                v: 1,
                platform,
                package: package.as_str(),
                entries: held.size.n,
                bytes: held.size.bytes,
                used_at: time(held.used),
            });
        }
    }
    let entries = stats.entries();
    text + &json(&Line::Stats {
        v: 1,
        entries: entries.n,
        entry_bytes: entries.bytes,
        blob_bytes: stats.blobs.bytes,
        log_bytes: stats.logs.bytes,
        staging_bytes: stats.staging.bytes,
        aside: stats.aside.n,
        aside_bytes: stats.aside.bytes,
        bytes: stats.bytes(),
    })
}

/// Returns what a store holds as a table, the largest packages first.
pub fn stats_as_text(stats: &Stats) -> String {
    let mut text = String::new();
    let mut line = |name: &str, Size { n, bytes }: Size, of: &str, end: &str| {
        let size = DecimalBytes(bytes).to_string();
        writeln!(text, "{name:<24} {size:>10}  {n:>5} {of}{end}").expect("memory takes everything");
    };
    for (platform, packages) in &stats.platforms {
        let all = packages
            .values()
            .fold(Size::default(), |sum, held| Size { n: sum.n + held.size.n, bytes: sum.bytes + held.size.bytes });
        line(&clean(platform), all, "entries", "");
        let mut packages: Vec<_> = packages.iter().collect();
        packages.sort_by_key(|(package, held)| (std::cmp::Reverse(held.size.bytes), *package));
        for (package, held) in packages {
            line(&format!("  {package}"), held.size, "entries", &format!("  {}", time(held.used)));
        }
    }
    line("downloads", stats.blobs, "files", "");
    line("logs", stats.logs, "files", "");
    if stats.staging.n > 0 {
        line("under way", stats.staging, "files", "");
    }
    if stats.aside.n > 0 {
        line("set aside", stats.aside, "entries", "");
    }
    line("in all", Size { n: stats.entries().n, bytes: stats.bytes() }, "entries", "");
    text
}
