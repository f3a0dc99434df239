//! The static graph: which vertex needs which, acyclic once built.
//!
//! Knows nothing of states, keys or results; those are the scheduler's.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use petgraph::Direction;
use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::error::CycleError;

/// Names one vertex of one [`Dag`]; handed out by [`DagBuilder::add`], counted from zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(u32);

impl VertexId {
    /// Returns the vertex's place in the order in which vertices were added.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    fn node(self) -> NodeIndex {
        NodeIndex::new(self.index())
    }
}

impl From<NodeIndex> for VertexId {
    fn from(node: NodeIndex) -> Self {
        Self(u32::try_from(node.index()).expect("the graph counts its vertices in 32 bits"))
    }
}

impl fmt::Debug for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// How one vertex needs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// The input must be complete before the dependant executes.
    Ordering,
    /// As `Ordering`, and the input's key is expected to enter the dependant's key.
    Keyed,
}

/// Collects vertices and edges, in any order.
#[derive(Debug)]
pub struct DagBuilder<O> {
    ops: Vec<O>,
    edges: Vec<(VertexId, VertexId, EdgeKind)>,
}

impl<O> Default for DagBuilder<O> {
    fn default() -> Self {
        Self { ops: Vec::new(), edges: Vec::new() }
    }
}

impl<O> DagBuilder<O> {
    /// Starts with no vertex.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a vertex. Where nothing else decides, the one added first goes first.
    pub fn add(&mut self, op: O) -> VertexId {
        self.ops.push(op);
        VertexId::from(NodeIndex::new(self.ops.len() - 1))
    }

    /// Says that `dependant` needs `input`. Said twice it counts once, as the stronger kind.
    ///
    /// # Panics
    /// When a vertex is not of this builder.
    pub fn edge(&mut self, dependant: VertexId, input: VertexId, kind: EdgeKind) {
        let n = self.ops.len();
        assert!(dependant.index() < n && input.index() < n, "{dependant:?} or {input:?} is of another graph");
        self.edges.push((dependant, input, kind));
    }

    /// Checks that no vertex needs itself and fixes the graph.
    pub fn build(self) -> Result<Dag<O>, CycleError> {
        let edges = merge_parallel(self.ops.len(), self.edges);
        let mut graph = DiGraph::with_capacity(self.ops.len(), edges.len());
        for op in self.ops {
            graph.add_node(op);
        }
        // petgraph walks a vertex's edges from the newest to the oldest.
        for (dependant, input, kind) in edges.into_iter().rev() {
            graph.add_edge(dependant.node(), input.node(), kind);
        }
        match toposort(&graph, None) {
            Ok(order) => Ok(Dag { graph, order: order.into_iter().map(VertexId::from).collect() }),
            Err(cycle) => Err(cycle_through(&graph, cycle.node_id())),
        }
    }
}

/// Keeps the first of several edges between the same two vertices, with the strongest kind; sorted by dependant.
fn merge_parallel(
    n_vertices: usize,
    mut edges: Vec<(VertexId, VertexId, EdgeKind)>,
) -> Vec<(VertexId, VertexId, EdgeKind)> {
    edges.sort_by_key(|(dependant, ..)| *dependant);
    let mut merged: Vec<(VertexId, VertexId, EdgeKind)> = Vec::with_capacity(edges.len());
    // By input: where its latest edge went.
    let mut places = vec![usize::MAX; n_vertices];
    for (dependant, input, kind) in edges {
        match merged.get_mut(places[input.index()]) {
            Some(edge) if edge.0 == dependant => edge.2 = edge.2.max(kind),
            _ => {
                places[input.index()] = merged.len();
                merged.push((dependant, input, kind));
            }
        }
    }
    merged
}

/// Returns a shortest cycle through `start`, which must lie on one.
fn cycle_through<O>(graph: &DiGraph<O, EdgeKind>, start: NodeIndex) -> CycleError {
    let mut reached_from = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(node) = queue.pop_front() {
        for input in graph.neighbors(node) {
            reached_from.entry(input).or_insert_with(|| {
                queue.push_back(input);
                node
            });
        }
    }
    let mut cycle = vec![start];
    let mut node = reached_from[&start];
    while node != start {
        cycle.push(node);
        node = reached_from[&node];
    }
    cycle[1..].reverse();
    CycleError { cycle: cycle.into_iter().map(VertexId::from).collect() }
}

/// An acyclic graph of ops. An edge leads from a dependant to its input.
#[derive(Debug)]
pub struct Dag<O> {
    graph: DiGraph<O, EdgeKind>,
    /// Every vertex before its inputs.
    order: Vec<VertexId>,
}

impl<O> Dag<O> {
    /// Returns what `vertex` does.
    pub fn op(&self, vertex: VertexId) -> &O {
        &self.graph[vertex.node()]
    }

    /// Returns what `vertex` needs itself, in the order in which the edges were added.
    pub fn inputs(&self, vertex: VertexId) -> impl Iterator<Item = (VertexId, EdgeKind)> + '_ {
        self.graph.edges(vertex.node()).map(|edge| (edge.target().into(), *edge.weight()))
    }

    /// Returns what needs `vertex` itself, by index.
    pub fn dependants(&self, vertex: VertexId) -> impl Iterator<Item = (VertexId, EdgeKind)> + '_ {
        self.graph.edges_directed(vertex.node(), Direction::Incoming).map(|edge| (edge.source().into(), *edge.weight()))
    }

    /// Returns the number of vertices.
    pub fn len(&self) -> usize {
        self.graph.node_count()
    }

    /// Returns the op at a vertex, to be changed while the graph stays as it is.
    pub fn op_mut(&mut self, vertex: VertexId) -> &mut O {
        &mut self.graph[vertex.node()]
    }

    /// Returns the same graph with other ops.
    pub fn map<P>(&self, mut op: impl FnMut(VertexId, &O) -> P) -> Dag<P> {
        let graph = self.graph.map(|node, weight| op(VertexId::from(node), weight), |_, kind| *kind);
        Dag { graph, order: self.order.clone() }
    }

    /// Says whether there is no vertex.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns every vertex, by index.
    pub fn vertices(&self) -> impl Iterator<Item = VertexId> + use<O> {
        self.graph.node_indices().map(VertexId::from)
    }

    /// Returns every vertex, each before its inputs.
    pub fn dependants_first(&self) -> &[VertexId] {
        &self.order
    }

    /// Says whether `vertex` is one of this graph's.
    pub(crate) fn contains(&self, vertex: VertexId) -> bool {
        vertex.index() < self.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dag(n: usize, edges: &[(usize, usize)]) -> Result<Dag<usize>, CycleError> {
        let mut builder = DagBuilder::new();
        let ids: Vec<_> = (0..n).map(|i| builder.add(i)).collect();
        for &(dependant, input) in edges {
            builder.edge(ids[dependant], ids[input], EdgeKind::Ordering);
        }
        builder.build()
    }

    #[test]
    fn edges_keep_their_order_and_count_once() {
        let mut builder = DagBuilder::new();
        let [a, b, c] = ["a", "b", "c"].map(|op| builder.add(op));
        for (input, kind) in [(c, EdgeKind::Keyed), (b, EdgeKind::Ordering), (c, EdgeKind::Ordering)] {
            builder.edge(a, input, kind);
        }
        builder.edge(a, b, EdgeKind::Keyed);
        builder.edge(b, c, EdgeKind::Ordering);
        let dag = builder.build().unwrap();
        assert_eq!(dag.inputs(a).collect::<Vec<_>>(), [(c, EdgeKind::Keyed), (b, EdgeKind::Keyed)]);
        assert_eq!(dag.dependants(c).map(|(v, _)| v).collect::<Vec<_>>(), [a, b]);
        assert_eq!(dag.dependants_first(), [a, b, c]);
    }

    #[test]
    fn a_cycle_error_names_the_whole_cycle_in_order() {
        let error = dag(6, &[(0, 1), (1, 2), (2, 3), (3, 4), (4, 1), (4, 5)]).unwrap_err();
        let mut cycle: Vec<_> = error.cycle.iter().map(|v| v.index()).collect();
        let first = cycle.iter().position(|&v| v == 1).unwrap();
        cycle.rotate_left(first);
        assert_eq!(cycle, [1, 2, 3, 4]);
    }

    #[test]
    fn a_vertex_that_needs_itself_is_a_cycle_of_one() {
        let error = dag(2, &[(1, 1)]).unwrap_err();
        assert_eq!(error.to_string(), "cycle: v1 -> v1");
    }
}
