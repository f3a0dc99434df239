//! Plans as programs read them. Like the events' wire types, these are written by hand and live here only; a graph has the
//! shape that exports have (`larder_ops::wire`).

use std::path::Path;
use std::time::Duration;

use larder_graph::{Edge, VertexId};
use larder_ops::package::PackageName;
use larder_ops::wire::{self, Input, ResultAt};
use serde::Serialize;

use crate::larder::{Refresh, Replaced};
use crate::plan::{Action, Outlook, Plan};

#[derive(Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Line<'a> {
    Plan { v: u8, platform: &'a str, vertices: usize, library: String, store: String },
    PlanVertex(PlanVertex<'a>),
    Warning { v: u8, message: &'a str },
    Stale { v: u8, package: &'a str, version: &'a str, because: &'a str },
    Outlook(Foretold<'a>),
    Refresh { v: u8, in_place: bool, changed: Vec<Changed<'a>> },
}

#[derive(Serialize)]
struct Foretold<'a> {
    v: u8,
    cores: u32,
    wall_ms: u64,
    work_ms: u64,
    critical_path: Vec<&'a str>,
    critical_path_ms: u64,
    built: usize,
    guessed: usize,
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
    #[serde(flatten)]
    planned: Planned<'a>,
}

/// What a plan says of a package beyond what a graph does.
#[derive(Serialize)]
struct Planned<'a> {
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
    inputs: Vec<KeyInput<'a>>,
    needed_by: Vec<&'a str>,
}

#[derive(Serialize)]
struct KeyInput<'a> {
    name: &'a str,
    value: &'a str,
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

/// Returns as one JSON object how long the builds will take.
pub fn outlook_as_json(outlook: &Outlook) -> String {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    json(&Line::Outlook(Foretold {
        v: 1,
        cores: outlook.cores,
        wall_ms: ms(outlook.wall),
        work_ms: ms(outlook.work),
        critical_path: outlook.critical.iter().map(PackageName::as_str).collect(),
        critical_path_ms: ms(outlook.critical_work),
        built: outlook.n_built,
        guessed: outlook.n_guessed,
    }))
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
    let inputs = key.into_iter().flat_map(|key| key.config().iter()).map(|(name, value)| KeyInput { name, value });
    let needed_by = plan.dag.dependants(id).map(|(user, _)| plan.dag.op(user).spec.package.as_str());
    json(&Why { vertex: vertex(plan, id), inputs: inputs.collect(), needed_by: needed_by.collect() })
}

/// Returns the whole graph as one JSON object, as exports are; to each package what the plan says of it.
pub fn graph_as_json(plan: &Plan, platform: &str) -> String {
    let vertices = plan.dag.vertices().map(|id| {
        let vertex = plan.dag.op(id);
        let input = |edge: Edge| Input {
            vertex: edge.input.index(),
            package: plan.dag.op(edge.input).spec.package.clone(),
            output: edge.output,
            kind: edge.kind.into(),
        };
        let is_there = matches!(vertex.action, Action::Load | Action::Keep);
        let reference = vertex.key.as_ref().filter(|_| is_there).map(|key| key.reference());
        wire::Vertex {
            package: vertex.spec.package.clone(),
            version: vertex.spec.version.clone(),
            key: vertex.key.as_deref().cloned(),
            links: Vec::new(),
            inputs: plan.dag.edges(id).map(input).collect(),
            contents: Vec::new(),
            result: reference.map(|reference| ResultAt { reference, created_at: 0, priority: 0, source: None }),
            more: planned(plan, id),
        }
    });
    json(&wire::Graph { v: wire::VERSION, platform: platform.to_owned(), vertices: vertices.collect() })
}

fn vertex(plan: &Plan, id: VertexId) -> PlanVertex<'_> {
    let vertex = plan.dag.op(id);
    let (package, version) = (vertex.spec.package.as_str(), vertex.spec.version.as_ref());
    PlanVertex { v: 1, package, version, planned: planned(plan, id) }
}

fn planned(plan: &Plan, id: VertexId) -> Planned<'_> {
    let vertex = plan.dag.op(id);
    let source = vertex.key.as_ref().map(|key| key.reference().source).or(vertex.spec.source_hash);
    let linking_to = plan.linking_to(vertex).map(|names| names.iter().map(PackageName::as_str).collect());
    Planned {
        r#type: vertex.kind,
        source_hash: source.map(|hash| hash.to_string()),
        config_hash: vertex.key.as_ref().map(|key| key.reference().config.to_string()),
        action: vertex.action.as_str(),
        because: &vertex.because,
        linking_to,
        dependencies: vertex.spec.dependencies.iter().map(PackageName::as_str).collect(),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers") + "\n"
}
