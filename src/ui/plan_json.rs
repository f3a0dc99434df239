//! Plans as programs read them. Like the events' wire types, these are written by hand and live here only.

use std::path::Path;

use larder_graph::{EdgeKind, VertexId};
use serde::Serialize;

use crate::larder::{Refresh, Replaced};
use crate::plan::Plan;

#[derive(Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line<'a> {
    Plan { v: u8, platform: &'a str, vertices: usize, library: String, store: String },
    PlanVertex(PlanVertex<'a>),
    Warning { v: u8, message: &'a str },
    Stale { v: u8, package: &'a str, version: &'a str, because: &'a str },
    Refresh { v: u8, in_place: bool, changed: Vec<Changed<'a>> },
}

#[derive(Serialize)]
struct Changed<'a> {
    package: &'a str,
    from: Option<&'a str>,
    to: Option<&'a str>,
    because: &'a str,
}

#[derive(Serialize)]
struct PlanVertex<'a> {
    v: u8,
    package: &'a str,
    version: &'a str,
    r#type: &'static str,
    source_hash: Option<String>,
    config_hash: Option<String>,
    action: &'static str,
    because: &'a str,
    linking_to: Option<Vec<&'a str>>,
    dependencies: Vec<&'a str>,
}

#[derive(Serialize)]
struct Why<'a> {
    #[serde(flatten)]
    vertex: PlanVertex<'a>,
    inputs: Vec<Input<'a>>,
    needed_by: Vec<&'a str>,
}

#[derive(Serialize)]
struct Input<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct Graph<'a> {
    v: u8,
    vertices: Vec<PlanVertex<'a>>,
    edges: Vec<Edge<'a>>,
}

#[derive(Serialize)]
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    kind: &'static str,
}

/// Returns the plan as one JSON object per line: the `plan` event, a line per vertex, and the warnings.
pub fn plan_as_json(plan: &Plan, platform: &str, library: &Path, store: &Path) -> String {
    let head = Line::Plan {
        v: 1,
        platform,
        vertices: plan.dag.len(),
        library: library.display().to_string(),
        store: store.display().to_string(),
    };
    let vertices = plan.dag.vertices().map(|id| Line::PlanVertex(vertex(plan, id)));
    let warnings = plan.warnings.iter().map(|message| Line::Warning { v: 1, message });
    let stale = plan.stale.iter().map(|stale| Line::Stale {
        v: 1,
        package: stale.package.as_str(),
        version: &stale.version,
        because: &stale.because,
    });
    std::iter::once(head).chain(vertices).chain(stale).chain(warnings).map(|line| json(&line)).collect()
}

/// Returns as one JSON object what an R that runs is to do.
pub fn refresh_as_json(refresh: &Refresh) -> String {
    let changed = |replaced| {
        let Replaced { package, from, to, because }: &Replaced = replaced;
        Changed { package: package.as_str(), from: from.as_deref(), to: to.as_deref(), because }
    };
    let changed = refresh.changed.iter().map(changed).collect();
    json(&Line::Refresh { v: 1, in_place: refresh.is_in_place(), changed })
}

/// Returns one vertex with what its key is made of and who needs it, as one JSON object.
pub fn why_as_json(plan: &Plan, id: VertexId) -> String {
    let key = plan.dag.op(id).key.as_ref();
    let inputs = key.into_iter().flat_map(|key| key.config().iter()).map(|(name, value)| Input { name, value });
    let needed_by = plan.dag.dependants(id).map(|(user, _)| plan.dag.op(user).spec.package.as_str());
    json(&Why { vertex: vertex(plan, id), inputs: inputs.collect(), needed_by: needed_by.collect() })
}

/// Returns the whole graph as one JSON object. Edges lead from a package to what it needs.
pub fn graph_as_json(plan: &Plan) -> String {
    let name = |id| plan.dag.op(id).spec.package.as_str();
    let edges = plan.dag.vertices().flat_map(|id| {
        plan.dag.inputs(id).map(move |(input, kind)| Edge {
            from: name(id),
            to: name(input),
            kind: if kind == EdgeKind::Keyed { "linking-to" } else { "ordering" },
        })
    });
    let vertices = plan.dag.vertices().map(|id| vertex(plan, id)).collect();
    json(&Graph { v: 1, vertices, edges: edges.collect() })
}

fn vertex(plan: &Plan, id: VertexId) -> PlanVertex<'_> {
    let vertex = plan.dag.op(id);
    let source = vertex.key.as_ref().map(|key| key.reference().source).or(vertex.spec.source_hash);
    let linking_to = vertex
        .spec
        .recipe
        .as_ref()
        .map(|recipe| recipe.linking_to.iter().map(larder_ops::package::PackageName::as_str));
    PlanVertex {
        v: 1,
        package: vertex.spec.package.as_str(),
        version: &vertex.spec.version,
        r#type: vertex.kind,
        source_hash: source.map(|hash| hash.to_string()),
        config_hash: vertex.key.as_ref().map(|key| key.reference().config.to_string()),
        action: vertex.action.as_str(),
        because: &vertex.because,
        linking_to: linking_to.map(Iterator::collect),
        dependencies: vertex.spec.dependencies.iter().map(larder_ops::package::PackageName::as_str).collect(),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers") + "\n"
}
