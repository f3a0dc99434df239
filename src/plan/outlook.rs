//! How long the builds of a plan will take, as far as can be told before: from what packages cost when they were last
//! built, and by the scheduler that will run them.

use std::sync::Arc;
use std::time::Duration;

use larder_graph::{Dag, DagBuilder, Expected, Forecast, Resources};
use larder_ops::op::{CPU, Origin};
use larder_ops::package::PackageName;

use super::{Action, Plan, Vertex};
use crate::larder::limits;

/// What is to be expected of a plan. Downloads are not in it: nobody knows the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// How many cores builds may take.
    pub cores: u32,
    /// From the first build to the last.
    pub wall: Duration,
    /// All builds, one after the other.
    pub work: Duration,
    /// The chain of packages that takes longest, inputs first.
    pub critical: Vec<PackageName>,
    /// The builds of that chain, one after the other.
    pub critical_work: Duration,
    /// How many packages are built.
    pub n_built: usize,
    /// How many of them were never built here, in no version, so that their cost is a guess.
    pub n_guessed: usize,
}

/// Says whether something is done for a package that takes a core. What depends on a source that was not seen may turn
/// out not to be.
pub(super) fn is_built(vertex: &Vertex) -> bool {
    matches!(vertex.action, Action::Ingest | Action::Recompile | Action::Unknown)
        && !matches!(vertex.spec.origin, Origin::Provided | Origin::Nowhere)
}

impl Plan {
    /// Foretells how the builds go on this many cores; `None` if there are none.
    pub fn outlook(&self, cores: u32) -> Option<Outlook> {
        let built = || self.vertices().filter(|vertex| is_built(vertex));
        built().next()?;
        let dag = Arc::new(self.expected());
        let forecast = Forecast::of(&dag, limits(cores));
        let name = |vertex: &larder_graph::VertexId| self.dag.op(*vertex).spec.package.clone();
        Some(Outlook {
            cores,
            wall: forecast.makespan,
            work: forecast.work,
            critical: forecast.critical.iter().map(name).collect(),
            critical_work: forecast.critical_work,
            n_built: built().count(),
            n_guessed: built().filter(|vertex| !vertex.is_measured).count(),
        })
    }

    fn expected(&self) -> Dag<Expected> {
        let mut builder = DagBuilder::new();
        for vertex in self.vertices() {
            let work = Duration::from_millis(if is_built(vertex) { vertex.spec.weight_ms } else { 0 });
            let takes = if work.is_zero() { Resources::none() } else { Resources::none().take(CPU, 1) };
            builder.add(Expected { work, takes, ..Expected::default() });
        }
        for vertex in self.dag.vertices() {
            for (input, kind) in self.dag.inputs(vertex) {
                builder.edge(vertex, input, kind);
            }
        }
        builder.build().expect("the plan has no cycle either")
    }
}
