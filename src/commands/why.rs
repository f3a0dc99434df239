//! `solve why`: what a package's key is made of, what differs, and who needs it.

use std::collections::BTreeSet;
use std::fmt::Write;

use larder_graph::EdgeKind;
use larder_ops::explain::difference;
use larder_ops::library::Record;

use super::{
    CommandError, Env, config, in_lockfile, larder, log_to_stderr, read_lockfile, request, survey, with_caches,
};
use crate::cli::WhyArgs;
use crate::exit::Exit;
use crate::larder::Larder;
use crate::plan::Plan;
use crate::ui;

pub(super) fn run(args: &WhyArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    log_to_stderr(&args.output);
    let request = request(&args.place, &args.wish, &args.lockfile);
    let config = config(&args.place.store, args.place.r.as_deref(), None, env)?;
    let larder = larder(with_caches(config, &args.cache, env)?)?;
    survey(&larder, &args.lockfile, &lockfile, &request, env)?;
    let plan = larder.plan(&lockfile, &request).map_err(in_lockfile(&args.lockfile))?;
    let Some(id) = plan.ids.get(&args.package) else {
        return Err(CommandError::new(Exit::Usage, format!("the lockfile has no package `{}`", args.package)));
    };
    let record = Record::read(&request.library, &larder.host().platform).map_err(crate::larder::Error::from)?;
    let text = if args.output.json { ui::why_as_json(&plan, *id) } else { text(&plan, *id, &larder, &record) };
    ui::print_data(&text);
    Ok(Exit::Done)
}

fn text(plan: &Plan, id: larder_graph::VertexId, larder: &Larder, record: &Record) -> String {
    let vertex = plan.dag.op(id);
    let spec = &vertex.spec;
    let mut text = format!("{} {}: {} ({})\n", spec.package, spec.version, vertex.action.as_str(), vertex.because);
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "  {label:<16}{value}");
    };
    if let Some(key) = &vertex.key {
        line("source", &format!("{} ({})", key.reference().source, vertex.kind));
        line("config", &key.reference().config.to_string());
        for linked in key.linked() {
            line("links to", &format!("{} {}  {}", linked.package(), linked.version(), linked.digest()));
        }
        for (name, value) in key.config().iter().filter(|(name, _)| name.starts_with('@')) {
            line("setting", &format!("{} = {value}", name.trim_start_matches('@')));
        }
        if key.config().is_empty() {
            line("links to", "nothing: the key is the source hash");
        }
        let store = larder.store();
        let builds = store.sidecars(&spec.package, key.reference().source);
        let is_stored = builds.iter().any(|(config, ..)| *config == key.reference().config);
        line("in the store", if is_stored { "yes" } else { "no" });
        for (_, _, other) in builds.iter().filter(|(config, ..)| *config != key.reference().config) {
            line("", &format!("a build of {}, which differs: {}", other.created_at, difference(other, key)));
        }
        match record.get(&spec.package) {
            Some(reference) if reference == key.reference() => line("in the library", "yes"),
            Some(reference) if reference.source == key.reference().source => {
                let before = store.sidecar(&spec.package, reference);
                let differs = before.map(|before| difference(&before, key)).unwrap_or_default();
                line("in the library", &format!("another build: {differs}"));
            }
            Some(reference) => line("in the library", &format!("another source: {}", reference.source)),
            None => line("in the library", "no"),
        }
    } else {
        let source = spec.source_hash.map_or("known when it is there".to_owned(), |hash| hash.to_string());
        line("source", &format!("{source} ({})", vertex.kind));
        line("config", "known when the source is there");
    }
    let inputs: Vec<String> = plan.dag.inputs(id).map(|(input, kind)| named(plan, input, kind)).collect();
    line("needs", &or_nothing(&inputs));
    let users: Vec<String> = plan.dag.dependants(id).map(|(user, kind)| named(plan, user, kind)).collect();
    line("needed by", &or_nothing(&users));
    let mut linked = BTreeSet::new();
    let mut open = vec![id];
    while let Some(next) = open.pop() {
        for (user, kind) in plan.dag.dependants(next) {
            if kind == EdgeKind::Keyed && linked.insert(&plan.dag.op(user).spec.package) {
                open.push(user);
            }
        }
    }
    let linked: Vec<String> = linked.into_iter().map(ToString::to_string).collect();
    line("would recompile", &or_nothing(&linked));
    text
}

fn named(plan: &Plan, id: larder_graph::VertexId, kind: EdgeKind) -> String {
    let package = &plan.dag.op(id).spec.package;
    if kind == EdgeKind::Keyed { format!("{package} (links)") } else { package.to_string() }
}

fn or_nothing(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
