//! A timeline as one page of HTML that needs nothing else: no network, no other file. It can be read without its script.
//!
//! Every name goes through [`Esc`]: what a lockfile calls a package, or R says of it, is text and nothing else.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::json;

use super::analysis::Analysis;
use super::timeline::{Package, Timeline};
use crate::event::{Outcome, Step};
use crate::larder::DOWNLOADS_MAX;
use crate::report::RunOutcome;
use crate::ui::{humane, packages};

mod chart;

const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

/// How many packages the list of the slowest has.
const SLOWEST: usize = 20;

/// What takes less is not worth a word.
const LEAST: Duration = Duration::from_millis(1);

/// Returns the page.
pub fn page(timeline: &Timeline) -> String {
    let analysis = Analysis::of(timeline);
    let mut html = String::with_capacity(32 * 1024);
    write(&mut html, timeline, &analysis).expect("memory takes everything");
    html
}

/// Text in which nothing is markup.
struct Esc<'a>(&'a str);

impl fmt::Display for Esc<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if c.is_control() => f.write_char(' ')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Returns the word for how a run ended.
pub(super) fn word(outcome: RunOutcome) -> &'static str {
    match outcome {
        RunOutcome::Ok => "ok",
        RunOutcome::Failed => "failed",
        RunOutcome::Interrupted => "interrupted",
    }
}

fn write(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    let n = timeline.packages.len();
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <title>solve: {} for {}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n",
        humane(timeline.end),
        packages(n)
    )?;
    head(html, timeline)?;
    tiles(html, timeline, analysis)?;
    if analysis.work > Duration::ZERO {
        if analysis.critical.len() > 1 {
            critical(html, timeline, analysis)?;
        }
        if timeline.packages.iter().filter(|package| package.is_built()).count() > 1 {
            cores(html, timeline, analysis)?;
        }
    }
    chart::over_time(html, timeline)?;
    chart::gantt(html, timeline, analysis)?;
    slowest(html, timeline, analysis)?;
    outcomes(html, timeline, analysis)?;
    let data = data(timeline, analysis).replace('<', "\\u003c");
    write!(
        html,
        "</main>\n<script type=\"application/json\" id=\"timings\">{data}</script>\n<script>\n{JS}</script>\n</body>\n</html>\n"
    )
}

fn head(html: &mut String, timeline: &Timeline) -> fmt::Result {
    let cores = match timeline.cores {
        1 => "1 core".to_owned(),
        n => format!("{n} cores"),
    };
    writeln!(html, "<h1>{} in {}</h1>", packages(timeline.packages.len()), humane(timeline.end))?;
    let how = match timeline.outcome {
        Some(RunOutcome::Ok) => "All went well.",
        Some(RunOutcome::Failed) => "<span class=\"bad\">Some packages failed.</span>",
        Some(RunOutcome::Interrupted) => "<span class=\"bad\">It was interrupted.</span>",
        None => "<span class=\"bad\">It did not come to its end.</span>",
    };
    writeln!(html, "<p class=\"soft\">{how} Builds on {cores}. <span>{}</span></p>", Esc(&timeline.platform))
}

fn tiles(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    let built = timeline.packages.iter().filter(|package| package.is_built()).count();
    writeln!(html, "<dl class=\"tiles\">")?;
    let mut tile = |name: &str, value: String, note: String| {
        writeln!(html, "<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>")
    };
    tile(
        "wall time",
        humane(timeline.end),
        timeline.planned.map_or_else(String::new, |at| format!("{} until the plan was made", humane(at))),
    )?;
    let all = |step| -> Duration { timeline.packages.iter().map(|package| package.time(step)).sum() };
    tile("building", humane(all(Step::Build)), format!("{built} of {}", packages(timeline.packages.len())))?;
    if built > 0 {
        tile(
            "cores in use",
            format!("{:.0} %", analysis.used * 100.0),
            "by builds, from the first to the last".to_owned(),
        )?;
        tile(
            "longest chain",
            humane(analysis.critical_work),
            format!("{} in a row", packages(analysis.critical.len())),
        )?;
    }
    let fetched = timeline.packages.iter().filter(|package| package.time(Step::Fetch) >= LEAST).count();
    if fetched > 0 {
        tile("downloading", humane(all(Step::Fetch)), format!("{}, up to {DOWNLOADS_MAX} at once", packages(fetched)))?;
    }
    if let Some((stage, n)) = &timeline.linked {
        tile("into the library", humane(stage.duration()), packages(*n))?;
    }
    writeln!(html, "</dl>")
}

fn critical(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    writeln!(html, "<h2>The longest chain</h2>")?;
    writeln!(
        html,
        "<p class=\"soft\">Each of these needs the one before it. However many cores there are, a run with this work takes at \
         least {}.</p>\n<p class=\"chain\">",
        humane(analysis.critical_work)
    )?;
    let chain: Vec<String> = analysis
        .critical
        .iter()
        .map(|place| &timeline.packages[*place])
        .map(|package| format!("<span>{} <b>{}</b></span>", Esc(package.name.as_str()), humane(package.work())))
        .collect();
    writeln!(html, "{}</p>", chain.join(" \u{2192} "))
}

fn cores(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    let own = analysis.own(timeline.cores);
    writeln!(html, "<h2>With more cores, or fewer</h2>")?;
    // The fewest that come close to the best.
    let best = analysis.on_cores.iter().map(|on| on.makespan).min().unwrap_or_default();
    let more = analysis.on_cores.iter().find(|on| on.cores > timeline.cores && on.makespan <= best + best / 50);
    let saved = more.map(|on| (on.cores, own.saturating_sub(on.makespan)));
    let sentence = match saved {
        Some((cores, saved)) if saved.as_secs_f64() > own.as_secs_f64() * 0.01 => {
            format!("On {cores} cores it would have been over {} sooner.", humane(saved))
        }
        _ => "More cores would have saved nothing: the longest chain takes that long.".to_owned(),
    };
    writeln!(
        html,
        "<p class=\"soft\"><b>{sentence}</b> Reckoned by the scheduler itself, from how long each package took here, each on one \
         core; until the last package is built.</p>"
    )?;
    let longest = analysis.on_cores.iter().map(|on| on.makespan).max().unwrap_or_default().as_secs_f64().max(1e-9);
    writeln!(
        html,
        "<table><thead><tr><th class=\"n\">cores</th><th class=\"n\">time</th><th class=\"n\">against this run</th><th></th></tr></thead><tbody>"
    )?;
    for on in &analysis.on_cores {
        let is_own = on.cores == timeline.cores;
        let against = match (is_own, on.makespan < own) {
            (true, _) => "as it was".to_owned(),
            (_, true) => format!("\u{2212}{}", humane(own.saturating_sub(on.makespan))),
            (_, false) if on.makespan == own => "the same".to_owned(),
            _ => format!("+{}", humane(on.makespan.saturating_sub(own))),
        };
        writeln!(
            html,
            "<tr><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{against}</td>\
             <td class=\"wide\"><div class=\"bar{}\" style=\"width:{:.2}%\"></div></td></tr>",
            on.cores,
            humane(on.makespan),
            if is_own { " own" } else { "" },
            on.makespan.as_secs_f64() / longest * 100.0
        )?;
    }
    writeln!(html, "</tbody></table>")
}

fn slowest(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    let mut slowest: Vec<&Package> = timeline.packages.iter().filter(|package| package.is_built()).collect();
    slowest.sort_by_key(|package| std::cmp::Reverse(package.work()));
    if slowest.len() < 2 {
        return Ok(());
    }
    let Some(longest) = slowest.first().map(|package| package.work().as_secs_f64().max(1e-9)) else { return Ok(()) };
    let (n, all) = (slowest.len(), analysis.work.as_secs_f64().max(1e-9));
    slowest.truncate(SLOWEST);
    writeln!(html, "<h2>The slowest packages</h2>")?;
    let share = slowest.iter().map(|package| package.work().as_secs_f64()).sum::<f64>() / all * 100.0;
    if n > slowest.len() {
        writeln!(
            html,
            "<p class=\"soft\">These {} of {n} took {share:.0} % of the time that builds took.</p>",
            slowest.len()
        )?;
    }
    writeln!(
        html,
        "<table><thead><tr><th>package</th><th class=\"n\">build</th><th class=\"n\">share</th><th class=\"n\">download</th><th></th></tr></thead><tbody>"
    )?;
    for package in slowest {
        let work = package.work().as_secs_f64();
        writeln!(
            html,
            "<tr><td>{} <span class=\"soft\">{}</span></td><td class=\"n\">{}</td><td class=\"n\">{:.1} %</td><td class=\"n\">{}</td>\
             <td class=\"wide\"><div class=\"bar own\" style=\"width:{:.2}%\"></div></td></tr>",
            Esc(package.name.as_str()),
            Esc(&package.version),
            humane(package.work()),
            work / all * 100.0,
            match package.time(Step::Fetch) {
                Duration::ZERO => "\u{2013}".to_owned(),
                time => humane(time),
            },
            work / longest * 100.0
        )?;
    }
    writeln!(html, "</tbody></table>")
}

fn outcomes(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    writeln!(html, "<h2>How packages ended</h2>")?;
    for (outcome, n) in &analysis.outcomes {
        let is_bad = matches!(outcome, Outcome::Failed | Outcome::Skipped | Outcome::Stale);
        let (open, class) = (if is_bad { " open" } else { "" }, if is_bad { " class=\"bad\"" } else { "" });
        writeln!(
            html,
            "<details{open}><summary><span{class}>{n} {}</span> <span class=\"soft\">{}</span></summary><ul>",
            outcome.as_str(),
            meaning(*outcome)
        )?;
        let of = timeline.packages.iter().filter_map(|package| Some((package, package.ended.as_ref()?)));
        for (package, ended) in of.filter(|(_, ended)| ended.outcome == *outcome) {
            write!(html, "<li>{} {}", Esc(package.name.as_str()), Esc(&package.version))?;
            if let Some(because) = &ended.because {
                write!(html, " <code>{}</code>", Esc(because))?;
            }
            writeln!(html, "</li>")?;
        }
        writeln!(html, "</ul></details>")?;
    }
    let left = timeline.packages.iter().filter(|package| package.ended.is_none()).count();
    if left > 0 {
        writeln!(html, "<p class=\"bad\">{} had not ended when the run was left.</p>", packages(left))?;
    }
    Ok(())
}

fn meaning(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Kept => "the library had it",
        Outcome::Loaded => "from the store",
        Outcome::Recompiled => "built before, but what it links to has changed",
        Outcome::Ingested => "new: built, or taken in as a binary",
        Outcome::Provided => "R itself has it",
        Outcome::Failed => "could not be had",
        Outcome::Skipped => "something that it needs failed, or the run ended before its turn",
        Outcome::Stale => "in the reference library alone, and left out",
    }
}

/// Returns what the page shows, for programs.
fn data(timeline: &Timeline, analysis: &Analysis) -> String {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let packages: Vec<_> = timeline
        .packages
        .iter()
        .map(|package| {
            let stages = package.stages.iter();
            json!({
                "package": package.name.as_str(),
                "version": package.version,
                "outcome": package.ended.as_ref().map(|ended| ended.outcome.as_str()),
                "ended_ms": package.ended.as_ref().map(|ended| ms(ended.at)),
                "needs": package.needs,
                "steps": stages.map(|stage| json!({
                    "step": stage.step.as_str(), "start_ms": ms(stage.start), "end_ms": ms(stage.end),
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let on = analysis.on_cores.iter();
    json!({
        "v": 1,
        "outcome": timeline.outcome.map(word),
        "cores": timeline.cores,
        "wall_ms": ms(timeline.end),
        "work_ms": ms(analysis.work),
        "critical_path": analysis.critical,
        "critical_path_ms": ms(analysis.critical_work),
        "on_cores": on.map(|on| json!({ "cores": on.cores, "wall_ms": ms(on.makespan) })).collect::<Vec<_>>(),
        "packages": packages,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::analysis::testing::run_of_four;

    #[test]
    fn what_a_package_says_of_itself_is_text() {
        let mut timeline = run_of_four();
        let hostile = "</script><script>alert(1)</script><img src=x onerror='alert(\"2\")'>";
        timeline.packages[0].version = hostile.to_owned();
        timeline.packages[2].ended.as_mut().unwrap().because = Some(hostile.to_owned());
        timeline.platform = hostile.to_owned();
        let html = page(&timeline);
        assert_eq!(html.matches("<script").count(), 2, "its own two");
        assert_eq!(html.matches("</script").count(), 2);
        assert!(!html.contains("<img"));
        assert!(html.contains("&lt;img src=x onerror=&#39;alert(&quot;2&quot;)&#39;&gt;"));
    }

    #[test]
    fn a_page_names_no_other_place() {
        let html = page(&run_of_four());
        assert!(!html.contains("http") && !html.contains("url(") && !html.contains("@import"));
    }

    /// A run of `n` packages in which every third needs the one before, on 4 cores.
    fn run_of(n: u64) -> Timeline {
        let stage = |step, start, end| {
            let (start, end) = (Duration::from_millis(start), Duration::from_millis(end));
            super::super::Stage { step, start, end }
        };
        let package = |i: u64| {
            let (start, took) = (100 + i / 4 * 700 + i % 4 * 90, 200 + i * 37 % 450);
            let stages = vec![
                stage(Step::Fetch, i * 5, i * 5 + 60),
                stage(Step::Unpack, i * 5 + 60, i * 5 + 75),
                stage(Step::Build, start + i * 5, start + i * 5 + took),
                stage(Step::Publish, start + i * 5 + took, start + i * 5 + took + 9),
            ];
            let at = stages[3].end;
            let (outcome, because) = (Outcome::Ingested, None);
            let ended = Some(super::super::Ended { at, outcome, because });
            let name = crate::ui::testing::name(&format!("package{i}"));
            let needs = if i % 3 == 1 { vec![usize::try_from(i - 1).unwrap()] } else { Vec::new() };
            Package { name, version: "1.0.2".to_owned(), stages, ended, needs }
        };
        let packages: Vec<_> = (0..n).map(package).collect();
        let end = packages.iter().flat_map(|package| &package.stages).map(|stage| stage.end).max().unwrap_or_default();
        Timeline { cores: 4, end, outcome: Some(RunOutcome::Ok), packages, ..Timeline::default() }
    }

    #[test]
    fn three_hundred_packages_fit_on_a_page() {
        let html = page(&run_of(300));
        assert!(html.len() < 600_000, "{}", html.len());
        assert_eq!(html.matches("<tr class=").count(), 300);
        assert!(page(&run_of(1)).contains("<h1>1 package in "));
    }

    #[test]
    fn a_run_without_packages_has_a_page() {
        assert!(page(&Timeline::default()).contains("It did not come to its end."));
    }
}
