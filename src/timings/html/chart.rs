//! The two pictures: how much went on at once, and when each package was at which step.

use std::fmt::{self, Write};
use std::time::Duration;

use super::super::analysis::Analysis;
use super::super::timeline::{Package, Timeline};
use super::Esc;
use crate::event::{Outcome, Step};
use crate::ui::{humane, packages};

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 110.0;

/// Room above and below the picture.
const TOP: f64 = 8.0;
const BELOW: f64 = 20.0;

/// The padding above the picture, as the style has it.
const PADDING: f64 = 8.0;

/// Writes how many builds and downloads went on at once, and how busy the machine was.
pub(super) fn over_time(html: &mut String, timeline: &Timeline) -> fmt::Result {
    let (builds, fetches) = (timeline.concurrent(Step::Build), timeline.concurrent(Step::Fetch));
    let most = |counts: &[(Duration, usize)]| counts.iter().map(|(_, n)| *n).max().unwrap_or(0);
    if most(&builds) == 0 && most(&fetches) == 0 {
        return Ok(());
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of things that go on at once")]
    let float = |n: usize| n as f64;
    let busiest = timeline.busy.iter().map(|(_, cores)| *cores).fold(0.0, f64::max);
    let top = f64::from(timeline.cores.max(1)).max(float(most(&builds))).max(busiest.ceil());
    let x = |at: Duration| at.as_secs_f64() / seconds(timeline) * WIDTH;
    let y = |n: f64| TOP + HEIGHT - n * HEIGHT;
    let steps = |counts: &[(Duration, usize)], top: f64| {
        let mut last = y(0.0);
        let mut path = format!("M0 {last:.1}");
        for (at, n) in counts {
            let next = y(float(*n) / top);
            let _ = write!(path, "L{x:.1} {last:.1}L{x:.1} {next:.1}", x = x(*at));
            last = next;
        }
        path + &format!("L{WIDTH} {last:.1}")
    };
    writeln!(html, "<h2>Core use over time</h2>")?;
    write!(html, "<ul class=\"legend\"><li><i class=\"build\"></i>builds</li>")?;
    if !timeline.busy.is_empty() {
        write!(html, "{}cores busy, with all programs of the machine</li>", line("--text"))?;
    }
    write!(html, "{}cores that builds may use: {}</li>", line("--cap"), timeline.cores)?;
    if most(&fetches) > 0 {
        write!(html, "{}downloads, on a scale of their own up to {}</li>", line("--fetch"), most(&fetches))?;
    }
    writeln!(html, "</ul>")?;
    let label = format!(
        "At most {} builds and {} downloads ran at once; builds may use {} cores.",
        most(&builds),
        most(&fetches),
        timeline.cores
    );
    writeln!(
        html,
        "<div class=\"scroll over\"><svg role=\"img\" aria-label=\"{label}\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" \
         height=\"{height}\" preserveAspectRatio=\"none\" style=\"display:block;overflow:visible\">",
        height = TOP + HEIGHT,
    )?;
    let mut path = |class: &str, d: &str| {
        writeln!(html, "<path class=\"{class}\" vector-effect=\"non-scaling-stroke\" d=\"{d}\"/>")
    };
    for (at, _) in ticks(timeline) {
        path("grid", &format!("M{:.1} {TOP}V{}", x(at), TOP + HEIGHT))?;
    }
    path("builds", &(steps(&builds, top) + &format!("L{WIDTH} {:.1}Z", y(0.0))))?;
    if most(&fetches) > 0 {
        path("fetches", &steps(&fetches, float(most(&fetches))))?;
    }
    let points = timeline.busy.iter().map(|(at, cores)| format!("{:.1} {:.1}", x(*at), y(*cores / top)));
    let points: Vec<_> = points.collect();
    if !points.is_empty() {
        path("busy", &format!("M{}", points.join("L")))?;
    }
    let cap = y(f64::from(timeline.cores) / top);
    path("cap", &format!("M0 {cap:.1}H{WIDTH}"))?;
    writeln!(html, "</svg>")?;
    // Beside the picture, which is stretched, so that the text is not.
    for (at, text) in [(cap, timeline.cores), (y(0.0), 0)] {
        write!(html, "<span class=\"scale\" style=\"top:{:.0}px\">{text}</span>", at + PADDING)?;
    }
    write!(html, "<div class=\"track ticks\" style=\"height:{BELOW}px\">")?;
    axis(html, timeline)?;
    writeln!(html, "</div></div>")
}

/// Writes what times the lines of a picture stand for.
fn axis(html: &mut String, timeline: &Timeline) -> fmt::Result {
    for (at, text) in ticks(timeline) {
        let left = percent(at, timeline);
        // Centred, it would leave the picture.
        let class = if left > 96.0 { " class=\"end\"" } else { "" };
        write!(html, "<span{class} style=\"left:{left:.2}%\">{text}</span>")?;
    }
    Ok(())
}

/// Returns the beginning of a legend's entry for a line.
fn line(color: &str) -> String {
    let dashed = if color == "--cap" { ";border-top-style:dashed" } else { "" };
    format!("<li><i class=\"line\" style=\"color:var({color}){dashed}\"></i>")
}

/// Writes a row for each package.
pub(super) fn gantt(html: &mut String, timeline: &Timeline, analysis: &Analysis) -> fmt::Result {
    let mut rows: Vec<(usize, &Package)> =
        timeline.packages.iter().enumerate().filter(|(_, package)| !package.stages.is_empty()).collect();
    let idle = timeline.packages.len() - rows.len();
    let n_built = rows.iter().filter(|(_, package)| package.is_built()).count();
    writeln!(html, "<h2>What was done when</h2>")?;
    let none = match idle {
        0 => String::new(),
        _ if rows.is_empty() => "Nothing took any time: all packages were there.".to_owned(),
        n => format!("{} took no time at all and are not shown here.", packages(n)),
    };
    if rows.is_empty() {
        return writeln!(html, "<p class=\"soft\">{none}</p>");
    }
    // What was built, in the order in which it began; then what only came along.
    let begin =
        |package: &Package, step: Step| package.stages.iter().find(|stage| stage.step == step).map(|at| at.start);
    rows.sort_by_key(|(place, package)| {
        let first = begin(package, Step::Build);
        (first.is_none(), first.or_else(|| package.stages.first().map(|stage| stage.start)), *place)
    });
    writeln!(
        html,
        "<p class=\"soft\">One row for each package, by the start of its build; those of the longest chain in red, with \u{25c6}. {none}</p>"
    )?;
    legend(html)?;
    let built_only = if n_built > 0 && n_built < rows.len() { " checked" } else { "" };
    writeln!(
        html,
        "<div id=\"tools\" class=\"tools hidden\"><label>Zoom <input id=\"zoom\" type=\"range\" min=\"1\" max=\"12\" step=\"0.5\" value=\"1\"></label>\
         <label><input id=\"built\" type=\"checkbox\"{built_only}> only what was built ({n_built} of {})</label>\
         <label><input id=\"critical\" type=\"checkbox\"> only the longest chain</label>\
         <label>Find <input id=\"find\" type=\"search\" size=\"14\"></label></div>",
        rows.len()
    )?;
    writeln!(html, "<div class=\"scroll all\"><table class=\"gantt\" id=\"gantt\"><tbody>")?;
    write!(html, "<tr><th class=\"axis soft\" scope=\"row\">time</th><td><div class=\"track ticks\">")?;
    axis(html, timeline)?;
    writeln!(html, "</div></td></tr>")?;
    if let Some(planned) = timeline.planned {
        whole(html, "plan", "plan", (Duration::ZERO, planned), timeline)?;
    }
    for (place, package) in rows {
        row(html, place, package, timeline, analysis.critical.contains(&place))?;
    }
    if let Some((stage, _)) = &timeline.linked {
        whole(html, "into the library", "link", (stage.start, stage.end), timeline)?;
    }
    writeln!(html, "</tbody></table></div>")
}

fn legend(html: &mut String) -> fmt::Result {
    const STEPS: [(&str, &str); 7] = [
        ("plan", "plan"),
        ("fetch", "download"),
        ("unpack", "unpack"),
        ("build", "build"),
        ("publish", "into the store"),
        ("load", "from the store, into the library"),
        ("wait", "waits"),
    ];
    write!(html, "<ul class=\"legend\">")?;
    for (class, text) in STEPS {
        let style = if class == "wait" { " style=\"height:2px;vertical-align:3px\"" } else { "" };
        write!(html, "<li><i class=\"{class}\"{style}></i>{text}</li>")?;
    }
    writeln!(html, "</ul>")
}

/// Writes a row for what concerns no single package.
fn whole(html: &mut String, name: &str, class: &str, span: (Duration, Duration), timeline: &Timeline) -> fmt::Result {
    let took = span.1.saturating_sub(span.0);
    write!(html, "<tr><th class=\"soft\" scope=\"row\">{name}</th><td><div class=\"track\">")?;
    bar(html, class, span, timeline, &format!("{name}: {}", humane(took)))?;
    writeln!(html, "<span class=\"says\">{}</span></div></td></tr>", humane(took))
}

fn row(html: &mut String, place: usize, package: &Package, timeline: &Timeline, is_critical: bool) -> fmt::Result {
    let outcome = package.ended.as_ref().map(|ended| ended.outcome);
    let is_failed = outcome == Some(Outcome::Failed);
    let class = match (is_critical, is_failed) {
        (true, true) => "critical failed",
        (true, false) => "critical",
        (false, true) => "failed",
        (false, false) => "",
    };
    let name = Esc(package.name.as_str());
    let needs: Vec<String> = package.needs.iter().map(ToString::to_string).collect();
    let mark = if is_critical { "\u{25c6} " } else { "" };
    write!(
        html,
        "<tr class=\"{class}\" data-n=\"{place}\" data-name=\"{name}\" data-needs=\"{}\"{}><th scope=\"row\" title=\"{name} {version}\">\
         {mark}{name} <span class=\"soft\">{version}</span></th><td><div class=\"track\">",
        needs.join(" "),
        if package.is_built() { " data-built=\"1\"" } else { "" },
        version = Esc(&package.version),
    )?;
    let mut says: Vec<String> = Vec::new();
    let mut last: Option<Duration> = None;
    for stage in &package.stages {
        if let Some(last) = last.filter(|last| *last < stage.start) {
            bar(html, "wait", (last, stage.start), timeline, "")?;
        }
        let said = format!("{} {}", verb(stage.step), humane(stage.duration()));
        let title = format!("{}: {said}, from {} on", package.name, humane(stage.start));
        bar(html, stage.step.as_str(), (stage.start, stage.end), timeline, &title)?;
        says.push(said);
        last = Some(stage.end);
    }
    if let Some(outcome) = outcome {
        says.push(outcome.as_str().to_owned());
    }
    writeln!(html, "<span class=\"says\">{}</span></div></td></tr>", says.join(", "))
}

fn verb(step: Step) -> &'static str {
    match step {
        Step::Wait => "waited",
        Step::Fetch => "downloaded in",
        Step::Unpack => "unpacked in",
        Step::Build => "built in",
        Step::Publish => "into the store in",
        Step::Load => "from the store in",
        Step::Link => "linked in",
    }
}

fn bar(html: &mut String, class: &str, span: (Duration, Duration), timeline: &Timeline, title: &str) -> fmt::Result {
    let (left, right) = (percent(span.0, timeline), percent(span.1, timeline));
    let title = if title.is_empty() { String::new() } else { format!(" title=\"{}\"", Esc(title)) };
    write!(html, "<i class=\"{class}\" style=\"left:{left:.3}%;width:{:.3}%\"{title}></i>", right - left)
}

fn seconds(timeline: &Timeline) -> f64 {
    timeline.end.as_secs_f64().max(1e-6)
}

fn percent(at: Duration, timeline: &Timeline) -> f64 {
    (at.as_secs_f64() / seconds(timeline) * 100.0).min(100.0)
}

/// Returns about eight round times, and what they are called.
fn ticks(timeline: &Timeline) -> Vec<(Duration, String)> {
    const STEPS_MS: [u64; 22] = [
        1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000,
        600_000, 1_200_000, 1_800_000, 3_600_000,
    ];
    let end = u64::try_from(timeline.end.as_millis()).unwrap_or(u64::MAX);
    let step = STEPS_MS.into_iter().find(|step| end / step <= 9).unwrap_or_else(|| (end / 8).max(1));
    (0..=end / step).map(|n| Duration::from_millis(n * step)).map(|at| (at, label(at))).collect()
}

/// Returns a round time in few letters.
fn label(at: Duration) -> String {
    match (at.as_secs(), at.subsec_millis()) {
        (0, 0) => "0".to_owned(),
        (0, ms) => format!("{ms}ms"),
        (s, ms) if s < 60 && ms > 0 => format!("{s}.{}s", ms / 100),
        (s, _) if s < 60 => format!("{s}s"),
        (s, _) if s % 60 == 0 => format!("{}m", s / 60),
        (s, _) => format!("{}m{:02}s", s / 60, s % 60),
    }
}
