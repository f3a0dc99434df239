//! The static graph: which vertex needs which, acyclic once built.
//!
//! Knows nothing of states, keys or results; those are the scheduler's.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::error::CycleError;

/// Names one vertex of one [`Dag`]; handed out by [`DagBuilder::add`], counted from zero.
///
/// ```
/// let mut builder = larder_graph::DagBuilder::new();
/// let [a, b] = ["a", "b"].map(|op| builder.add(op));
/// assert!((a.index(), b.index()) == (0, 1) && a < b);
/// assert_eq!(format!("{b:?}"), "v1");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(NonZeroU32);

impl VertexId {
    /// No vertex.
    pub(crate) const NONE: Self = Self(NonZeroU32::MAX);

    pub(crate) fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("a graph counts its vertices in 32 bits"))
    }

    /// Returns the vertex's place in the order in which vertices were added.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl fmt::Debug for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.index())
    }
}

/// How one vertex needs another.
///
/// ```
/// use larder_graph::EdgeKind;
///
/// // Said twice, the stronger one counts.
/// assert!(EdgeKind::Keyed > EdgeKind::Ordering);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EdgeKind {
    /// The input must be there before the dependant executes.
    Ordering,
    /// As `Ordering`, and the input's key is expected to enter the dependant's key.
    Keyed,
}

/// One input of a vertex.
///
/// ```
/// use larder_graph::{DagBuilder, Edge, EdgeKind};
///
/// let mut builder = DagBuilder::new();
/// let [parser, program] = ["parser.y", "program"].map(|op| builder.add(op));
/// // A generator makes a source and a header; this is the header.
/// let header = Edge { input: parser, output: 1, kind: EdgeKind::Keyed };
/// builder.edge_to(program, header);
/// assert_eq!(builder.build()?.edges(program).next(), Some(header));
/// # Ok::<_, larder_graph::CycleError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// The vertex that is needed.
    pub input: VertexId,
    /// Which of its outputs, counted from zero.
    pub output: u32,
    /// How it is needed.
    pub kind: EdgeKind,
}

/// What the solver should do otherwise than usual at one vertex.
///
/// ```
/// use larder_graph::{DagBuilder, VertexOptions};
///
/// let mut builder = DagBuilder::new();
/// // Asked of the cache source `office` besides the main cache, and never exported.
/// let options = VertexOptions { sources: vec!["office".into()], is_never_exported: true, ..VertexOptions::default() };
/// let secret = builder.add_with("secret", options);
/// assert!(builder.build()?.options(secret).is_some_and(|options| !options.ignores_cache));
/// # Ok::<_, larder_graph::CycleError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VertexOptions {
    /// Executes although a cache may have the result. What depends on it by its key executes too; what depends on it
    /// by its content may still be found.
    pub ignores_cache: bool,
    /// Caches to ask besides the solver's main one, by the names they have in the [`Config`](crate::Config).
    pub sources: Vec<Arc<str>>,
    /// Leaves the result out of every [`Export`](crate::Export); its keys stay.
    pub is_never_exported: bool,
}

/// Collects vertices and edges, in any order.
///
/// ```
/// use larder_graph::{DagBuilder, Edge, EdgeKind, VertexOptions};
///
/// let mut builder = DagBuilder::new();
/// let compiler = builder.add("compiler");
/// let headers = builder.add("headers");
/// // Made anew whatever caches have.
/// let program = builder.add_with("program", VertexOptions { ignores_cache: true, ..VertexOptions::default() });
/// builder.edge(program, compiler, EdgeKind::Ordering);
/// // The second of its outputs.
/// builder.edge_to(program, Edge { input: headers, output: 1, kind: EdgeKind::Keyed });
/// let dag = builder.build().expect("there is no cycle");
/// assert_eq!(dag.inputs(program).collect::<Vec<_>>(), [(compiler, EdgeKind::Ordering), (headers, EdgeKind::Keyed)]);
/// assert_eq!(dag.dependants_first().first(), Some(&program));
///
/// let mut builder = DagBuilder::new();
/// let [egg, hen] = ["egg", "hen"].map(|op| builder.add(op));
/// builder.edge(egg, hen, EdgeKind::Keyed);
/// builder.edge(hen, egg, EdgeKind::Keyed);
/// assert_eq!(builder.build().err().map(|error| error.cycle.len()), Some(2));
/// ```
#[derive(Debug)]
pub struct DagBuilder<O> {
    ops: Vec<O>,
    edges: Vec<(VertexId, Edge)>,
    options: HashMap<VertexId, VertexOptions>,
}

impl<O> Default for DagBuilder<O> {
    fn default() -> Self {
        Self { ops: Vec::new(), edges: Vec::new(), options: HashMap::new() }
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
        VertexId::new(self.ops.len() - 1)
    }

    /// Adds a vertex with options.
    pub fn add_with(&mut self, op: O, options: VertexOptions) -> VertexId {
        let vertex = self.add(op);
        self.options.insert(vertex, options);
        vertex
    }

    /// Says that `dependant` needs the first output of `input`. Said twice it counts once, as the stronger kind.
    ///
    /// # Panics
    /// When a vertex is not of this builder.
    pub fn edge(&mut self, dependant: VertexId, input: VertexId, kind: EdgeKind) {
        self.edge_to(dependant, Edge { input, output: 0, kind });
    }

    /// As [`edge`](Self::edge), to any output.
    pub fn edge_to(&mut self, dependant: VertexId, edge: Edge) {
        let n = self.ops.len();
        let input = edge.input;
        assert!(dependant.index() < n && input.index() < n, "{dependant:?} or {input:?} is of another graph");
        self.edges.push((dependant, edge));
    }

    /// Checks that no vertex needs itself and fixes the graph.
    pub fn build(self) -> Result<Dag<O>, CycleError> {
        let n = self.ops.len();
        let merged = merge_parallel(n, self.edges);
        assert!(u32::try_from(merged.len()).is_ok(), "edges are counted in 32 bits");
        let dependants = Lists::new(n, merged.iter().map(|(dependant, edge)| (edge.input, (*dependant, edge.kind))));
        let edges = Lists::new(n, merged.iter().copied());
        let order = in_layers(&edges, &dependants)?;
        Ok(Dag { ops: self.ops, edges, dependants, order, options: self.options })
    }
}

/// A list for each vertex, all in one block: who goes along the vertices goes along the block.
#[derive(Debug, Clone)]
struct Lists<T> {
    /// By vertex: the end of its list, which begins where the one before ends.
    ends: Vec<u32>,
    items: Vec<T>,
}

impl<T: Copy> Lists<T> {
    /// Sorts items by vertex; those of one stay in order.
    fn new(n_vertices: usize, items: impl Iterator<Item = (VertexId, T)> + Clone) -> Self {
        let mut ends = vec![0_u32; n_vertices + 1];
        for (vertex, _) in items.clone() {
            ends[vertex.index() + 1] += 1;
        }
        for place in 1..ends.len() {
            ends[place] += ends[place - 1];
        }
        let Some((_, first)) = items.clone().next() else { return Self { ends: ends.split_off(1), items: Vec::new() } };
        let mut sorted = vec![first; ends[n_vertices] as usize];
        for (vertex, item) in items {
            // Where the list begins so far moves to its end.
            let place = &mut ends[vertex.index()];
            sorted[*place as usize] = item;
            *place += 1;
        }
        ends.pop();
        Self { ends, items: sorted }
    }

    fn of(&self, vertex: VertexId) -> &[T] {
        let start = vertex.index().checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.items[start as usize..self.ends[vertex.index()] as usize]
    }
}

/// Sorts vertices by the number of steps from the farthest dependant: what is built at about the same time is then near
/// each other.
fn in_layers(edges: &Lists<Edge>, dependants: &Lists<(VertexId, EdgeKind)>) -> Result<Vec<VertexId>, CycleError> {
    let vertices = || (0..edges.ends.len()).map(VertexId::new);
    let mut layers = vec![0_u32; vertices().len()];
    let mut n_open: Vec<usize> = vertices().map(|vertex| dependants.of(vertex).len()).collect();
    let mut todo: Vec<_> = vertices().filter(|vertex| n_open[vertex.index()] == 0).collect();
    let mut n_sorted = 0;
    while let Some(vertex) = todo.pop() {
        n_sorted += 1;
        let below = layers[vertex.index()] + 1;
        for Edge { input, .. } in edges.of(vertex) {
            layers[input.index()] = below.max(layers[input.index()]);
            n_open[input.index()] -= 1;
            if n_open[input.index()] == 0 {
                todo.push(*input);
            }
        }
    }
    if n_sorted < layers.len() {
        let is_left = |vertex: &VertexId| n_open[vertex.index()] > 0;
        return Err(cycle_among(edges, dependants, is_left));
    }
    // Read from its end, the order within a layer is that in which vertices were added.
    let mut sorted: Vec<VertexId> = vertices().rev().collect();
    sorted.sort_by_key(|vertex| layers[vertex.index()]);
    Ok(sorted)
}

/// Keeps the first of several edges to the same output, with the strongest kind; sorted by dependant.
fn merge_parallel(n_vertices: usize, mut edges: Vec<(VertexId, Edge)>) -> Vec<(VertexId, Edge)> {
    edges.sort_by_key(|(dependant, _)| *dependant);
    let mut merged: Vec<(VertexId, Edge)> = Vec::with_capacity(edges.len());
    // By input: where its first edge from the present dependant went.
    let mut places = vec![usize::MAX; n_vertices];
    for (dependant, edge) in edges {
        let first = places[edge.input.index()];
        if merged.get(first).is_none_or(|(known, _)| *known != dependant) {
            places[edge.input.index()] = merged.len();
            merged.push((dependant, edge));
            continue;
        }
        let same = |(_, known): &&mut (_, Edge)| known.input == edge.input && known.output == edge.output;
        match merged[first..].iter_mut().find(same) {
            Some((_, known)) => known.kind = known.kind.max(edge.kind),
            None => merged.push((dependant, edge)),
        }
    }
    merged
}

/// Returns a cycle among those left, each of which has a dependant that is left.
fn cycle_among(
    edges: &Lists<Edge>,
    dependants: &Lists<(VertexId, EdgeKind)>,
    is_left: impl Fn(&VertexId) -> bool,
) -> CycleError {
    let up = |vertex| dependants.of(vertex).iter().map(|(dependant, _)| *dependant).find(&is_left);
    // As many steps as there are vertices lead onto a cycle, from wherever they begin.
    let n = edges.ends.len();
    let first = (0..n).map(VertexId::new).find(&is_left).expect("what is not sorted is left");
    let start = (0..n).fold(first, |vertex, _| up(vertex).expect("it has a dependant that is left"));
    // A shortest one through that vertex.
    let mut reached_from = HashMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(vertex) = queue.pop_front() {
        for Edge { input, .. } in edges.of(vertex) {
            reached_from.entry(*input).or_insert_with(|| {
                queue.push_back(*input);
                vertex
            });
        }
    }
    let mut cycle = vec![start];
    let mut vertex = reached_from[&start];
    while vertex != start {
        cycle.push(vertex);
        vertex = reached_from[&vertex];
    }
    cycle[1..].reverse();
    CycleError { cycle }
}

/// An acyclic graph of ops. An edge leads from a dependant to its input.
///
/// ```
/// use larder_graph::{Dag, DagBuilder, EdgeKind};
///
/// let mut builder = DagBuilder::new();
/// let [lib, tool] = ["lib", "tool"].map(|op| builder.add(op));
/// builder.edge(tool, lib, EdgeKind::Keyed);
/// let mut dag: Dag<&str> = builder.build()?;
/// assert_eq!((dag.len(), dag.is_empty()), (2, false));
/// assert_eq!(dag.vertices().map(|vertex| *dag.op(vertex)).collect::<Vec<_>>(), ["lib", "tool"]);
/// assert_eq!(dag.dependants(lib).collect::<Vec<_>>(), [(tool, EdgeKind::Keyed)]);
/// assert_eq!(dag.dependants_first(), [tool, lib]);
/// assert!(dag.inputs(lib).next().is_none() && dag.edges(tool).count() == 1 && dag.options(lib).is_none());
///
/// *dag.op_mut(lib) = "library";
/// let lengths = dag.map(|_, name| name.len());
/// assert_eq!(*lengths.op(lib), 7);
/// # Ok::<_, larder_graph::CycleError>(())
/// ```
#[derive(Debug)]
pub struct Dag<O> {
    ops: Vec<O>,
    edges: Lists<Edge>,
    dependants: Lists<(VertexId, EdgeKind)>,
    /// Every vertex before its inputs.
    order: Vec<VertexId>,
    /// Of those vertices that have any.
    options: HashMap<VertexId, VertexOptions>,
}

impl<O> Dag<O> {
    /// Returns what `vertex` does.
    pub fn op(&self, vertex: VertexId) -> &O {
        &self.ops[vertex.index()]
    }

    /// Returns what `vertex` needs itself, in the order in which the edges were added.
    pub fn inputs(&self, vertex: VertexId) -> impl Iterator<Item = (VertexId, EdgeKind)> + '_ {
        self.edges(vertex).map(|edge| (edge.input, edge.kind))
    }

    /// Returns what `vertex` needs itself and which output of it, in the order in which the edges were added.
    pub fn edges(&self, vertex: VertexId) -> impl Iterator<Item = Edge> + '_ {
        self.edges.of(vertex).iter().copied()
    }

    /// Returns the options of `vertex`, if it has any.
    pub fn options(&self, vertex: VertexId) -> Option<&VertexOptions> {
        self.options.get(&vertex)
    }

    /// Returns what needs `vertex` itself, by index.
    pub fn dependants(&self, vertex: VertexId) -> impl Iterator<Item = (VertexId, EdgeKind)> + '_ {
        self.dependants.of(vertex).iter().copied()
    }

    /// Returns the number of vertices.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Returns the op at a vertex, to be changed while the graph stays as it is.
    pub fn op_mut(&mut self, vertex: VertexId) -> &mut O {
        &mut self.ops[vertex.index()]
    }

    /// Returns the same graph with other ops.
    pub fn map<P>(&self, mut op: impl FnMut(VertexId, &O) -> P) -> Dag<P> {
        let ops = self.vertices().zip(&self.ops).map(|(vertex, known)| op(vertex, known)).collect();
        let (edges, dependants) = (self.edges.clone(), self.dependants.clone());
        Dag { ops, edges, dependants, order: self.order.clone(), options: self.options.clone() }
    }

    /// Says whether there is no vertex.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns every vertex, by index.
    pub fn vertices(&self) -> impl Iterator<Item = VertexId> + use<O> {
        (0..self.len()).map(VertexId::new)
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
