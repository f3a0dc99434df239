//! `solve graph`: the build graph, for other tools to draw.

use std::fmt::Write;

use larder_graph::EdgeKind;

use super::{CommandError, Env, config, in_lockfile, larder, read_lockfile, request, survey, with_caches};
use crate::cli::{DebugInfo, GraphArgs, GraphFormat, RebuildWhen, WishArgs};
use crate::exit::Exit;
use crate::plan::{Action, Plan};
use crate::ui;

pub(super) fn run(args: &GraphArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    let wish = WishArgs { rebuild: Vec::new(), rebuild_when: RebuildWhen::LinkingTo, debug_info: DebugInfo::Drop };
    let config = config(&args.place.store, args.place.r.as_deref(), None, env)?;
    let larder = larder(with_caches(config, &args.cache, env)?)?;
    let request = request(&args.place, &wish, &args.lockfile);
    survey(&larder, &args.lockfile, &lockfile, &request, env)?;
    let plan = larder.plan(&lockfile, &request).map_err(in_lockfile(&args.lockfile))?;
    ui::print_data(&match args.format {
        GraphFormat::Dot => dot(&plan),
        GraphFormat::Mermaid => mermaid(&plan),
        GraphFormat::Json => ui::graph_as_json(&plan, &larder.host().platform),
    });
    Ok(Exit::Done)
}

/// Names of packages and versions are letters, digits, dots and dashes, so nothing needs quoting beyond quotes.
fn dot(plan: &Plan) -> String {
    let mut text = "digraph larder {\n  rankdir = LR;\n  node [shape = box, style = filled];\n".to_owned();
    for id in plan.dag.vertices() {
        let vertex = plan.dag.op(id);
        let (name, version, color) = (&vertex.spec.package, &vertex.spec.version, color(vertex.action));
        let _ = writeln!(text, "  \"{name}\" [label = \"{name}\\n{version}\", fillcolor = \"{color}\"];");
        for (input, kind) in plan.dag.inputs(id) {
            let style = if kind == EdgeKind::Keyed { "bold" } else { "dashed" };
            let _ = writeln!(text, "  \"{name}\" -> \"{}\" [style = {style}];", plan.dag.op(input).spec.package);
        }
    }
    text + "}\n"
}

fn mermaid(plan: &Plan) -> String {
    let mut text = "flowchart LR\n".to_owned();
    for id in plan.dag.vertices() {
        let vertex = plan.dag.op(id);
        let _ = writeln!(text, "  v{}[\"{} {}\"]", id.index(), vertex.spec.package, vertex.spec.version);
        for (input, kind) in plan.dag.inputs(id) {
            let arrow = if kind == EdgeKind::Keyed { "==>" } else { "-.->" };
            let _ = writeln!(text, "  v{} {arrow} v{}", id.index(), input.index());
        }
    }
    text
}

fn color(action: Action) -> &'static str {
    match action {
        Action::Keep | Action::Provided => "white",
        Action::Load => "palegreen",
        Action::Recompile => "orange",
        Action::Ingest => "lightblue",
        Action::Unknown => "lightgrey",
    }
}
