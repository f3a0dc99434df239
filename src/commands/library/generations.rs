//! `solve library ls` and `rollback`. Neither needs R.

use std::fmt::Write;

use larder_ops::library::{self, Difference, Generation, generations};
use serde::Serialize;

use crate::cli::LibraryArgs;
use crate::commands::CommandError;
use crate::exit::Exit;
use crate::ui;

/// One generation as programs read it.
#[derive(Serialize)]
struct Line<'a> {
    v: u8,
    reason: &'static str,
    number: u32,
    made_at: String,
    current: bool,
    packages: usize,
    changed: Vec<Changed<'a>>,
}

#[derive(Serialize)]
struct Changed<'a> {
    package: &'a str,
    from: Option<&'a str>,
    to: Option<&'a str>,
}

pub(super) fn list(args: &LibraryArgs) -> Result<Exit, CommandError> {
    let all = generations(&args.library)?;
    let mut text = String::new();
    let mut before: Option<&Generation> = None;
    for generation in &all {
        let differences = before.map(|before| generation.differences(before)).unwrap_or_default();
        let made_at = humantime::format_rfc3339_seconds(generation.made).to_string();
        if args.json {
            let line = Line {
                v: 1,
                reason: "generation",
                number: generation.number,
                made_at,
                current: generation.is_current,
                packages: generation.packages.len(),
                changed: differences.iter().map(Changed::from).collect(),
            };
            let _ = writeln!(text, "{}", serde_json::to_string(&line).expect("strings and numbers"));
        } else {
            let mark = if generation.is_current { "*" } else { " " };
            let n_packages = match generation.packages.len() {
                1 => "1 package".to_owned(),
                n => format!("{n} packages"),
            };
            let differences: Vec<_> = differences.iter().map(ToString::to_string).collect();
            let line =
                format!("{mark} {:>4}  {made_at}  {n_packages:<13}  {}", generation.number, differences.join(", "));
            let _ = writeln!(text, "{}", line.trim_end());
        }
        before = Some(generation);
    }
    ui::print_data(&text);
    Ok(Exit::Done)
}

pub(super) fn roll_back(args: &LibraryArgs, number: Option<u32>) -> Result<Exit, CommandError> {
    let (from, to) = library::roll_back(&args.library, number)?;
    let text = if args.json {
        serde_json::json!({"v": 1, "reason": "rollback", "from": from, "to": to}).to_string()
    } else if from == to {
        format!("generation {to} is the current one already")
    } else {
        format!("generation {to} is the current one; {from} stays")
    };
    ui::print_data(&format!("{text}\n"));
    Ok(Exit::Done)
}

impl<'a> From<&'a Difference> for Changed<'a> {
    fn from(difference: &'a Difference) -> Self {
        Self { package: difference.package.as_str(), from: difference.from.as_deref(), to: difference.to.as_deref() }
    }
}
