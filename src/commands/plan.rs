//! `solve plan` and `--dry-run`: what would be done, and why.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use larder_ops::package::PackageName;

use super::{
    CommandError, Env, config, in_lockfile, larder, log_to_stderr, read_lockfile, request, survey, with_caches,
};
use crate::cli::PlanArgs;
use crate::exit::Exit;
use crate::larder::{Larder, Refresh, Replaced, Request};
use crate::lockfile::Lockfile;
use crate::plan::{Action, Outlook, Plan};
use crate::ui::{self, packages};

pub(super) fn run(args: &PlanArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    log_to_stderr(&args.output);
    let mut request = request(&args.place, &args.wish, &args.lockfile);
    request.reference.clone_from(&args.reference_lib);
    let config = config(&args.place.store, args.place.r.as_deref(), None, env)?;
    let larder = larder(with_caches(config, &args.cache, env)?)?;
    survey(&larder, &args.lockfile, &lockfile, &request, env)?;
    let jobs = args.jobs.unwrap_or(larder.jobs());
    show(&larder, &args.lockfile, &lockfile, &request, args.loaded.as_deref(), jobs, args.output.json)
}

/// Prints the plan for a lockfile.
pub(super) fn show(
    larder: &Larder,
    path: &Path,
    lockfile: &Lockfile,
    request: &Request,
    loaded: Option<&[PackageName]>,
    jobs: u32,
    is_json: bool,
) -> Result<Exit, CommandError> {
    let (plan, refresh) = larder.changes(lockfile, request, loaded.unwrap_or_default()).map_err(in_lockfile(path))?;
    let refresh = loaded.map(|_| refresh);
    let outlook = plan.outlook(jobs);
    if is_json {
        let store = larder.store();
        ui::print_data(&ui::plan_as_json(&plan, &larder.host().platform, &request.library, store.root()));
        ui::print_data(&outlook.as_ref().map(ui::outlook_as_json).unwrap_or_default());
        ui::print_data(&refresh.as_ref().map(ui::refresh_as_json).unwrap_or_default());
    } else {
        ui::print_data(&text(&plan, &larder.host().platform));
        ui::print_data(&outlook.as_ref().map(foretold).unwrap_or_default());
        ui::print_data(&refresh.as_ref().map(told).unwrap_or_default());
    }
    Ok(Exit::Done)
}

/// The order of a plan for people: what costs most first.
const ORDER: [Action; 6] =
    [Action::Recompile, Action::Ingest, Action::Unknown, Action::Load, Action::Keep, Action::Provided];

fn text(plan: &Plan, platform: &str) -> String {
    let mut text = format!("Plan for {} packages on {platform}\n", plan.dag.len());
    let width = plan.vertices().map(|vertex| name(vertex).len()).max().unwrap_or(0);
    for action in ORDER {
        let mut vertices: Vec<_> = plan.vertices().filter(|vertex| vertex.action == action).collect();
        vertices.sort_by_key(|vertex| &vertex.spec.package);
        for vertex in vertices {
            let _ = writeln!(text, "  {:<9}  {:<width$}  {}", action.as_str(), name(vertex), vertex.because);
        }
    }
    let counts = ORDER.iter().filter_map(|action| {
        let n = plan.vertices().filter(|vertex| vertex.action == *action).count();
        (n > 0).then(|| format!("{n} {}", participle(*action)))
    });
    let counts: Vec<_> = counts.collect();
    let _ = writeln!(text, "{}", if counts.is_empty() { "nothing to do".to_owned() } else { counts.join(", ") });
    for stale in &plan.stale {
        let _ = writeln!(text, "stale: {} {}: {}", stale.package, stale.version, stale.because);
    }
    for warning in &plan.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text
}

/// Says how long the builds will take.
fn foretold(outlook: &Outlook) -> String {
    let Outlook { cores, wall, work, critical, critical_work, n_built, n_guessed } = outlook;
    let cores = if *cores == 1 { "1 core".to_owned() } else { format!("{cores} cores") };
    let mut text = format!("builds take about {} on {cores}", about(*wall));
    if *n_built > 1 {
        let _ = write!(text, ": {} of work in {}", about(*work), packages(*n_built));
    }
    if critical.len() > 1 {
        let names: Vec<_> = critical.iter().map(PackageName::as_str).collect();
        let _ = write!(text, ", and no less than {} in a row for {}", about(*critical_work), names.join(" -> "));
    }
    let _ = match (n_guessed, n_built) {
        (0, _) => writeln!(text),
        (n, all) if n == all => writeln!(text, " (a guess: none was built here before)"),
        (1, _) => writeln!(text, " (1 package was never built here: a guess)"),
        (n, _) => writeln!(text, " ({n} packages were never built here: guesses)"),
    };
    text
}

/// Writes a duration that is not known any better.
fn about(duration: Duration) -> String {
    match duration.as_secs() {
        0 => "a second".to_owned(),
        secs @ 1..90 => format!("{secs} s"),
        secs @ 90..600 => format!("{} min {} s", secs / 60, secs % 60 / 10 * 10),
        secs if secs < 5400 => format!("{} min", (secs + 30) / 60),
        secs => format!("{} h {} min", secs / 3600, secs % 3600 / 60),
    }
}

/// Says what an R that runs is to do, and why.
fn told(refresh: &Refresh) -> String {
    if refresh.is_in_place() {
        return "No loaded package changes: what is new can be added to the library in use\n".to_owned();
    }
    let mut text = "Loaded packages change: R has to be started anew, with the new library\n".to_owned();
    for Replaced { package, from, to, because } in &refresh.changed {
        let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
        let _ = writeln!(text, "  {package}  {} -> {}  {because}", version(from), version(to));
    }
    text
}

fn name(vertex: &crate::plan::Vertex) -> String {
    format!("{} {}", vertex.spec.package, vertex.spec.version)
}

fn participle(action: Action) -> &'static str {
    match action {
        Action::Keep => "to keep",
        Action::Load => "to load",
        Action::Recompile => "to recompile",
        Action::Ingest => "to build",
        Action::Provided => "provided by R",
        Action::Unknown => "to be decided when the source is there",
    }
}
