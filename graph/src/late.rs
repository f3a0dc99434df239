//! Edges that are found while the graph runs: a cache map named an input that the graph does not have as one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::dag::{Dag, VertexId};
use crate::error::CycleError;

/// The edges beside the graph's own. Together they stay acyclic.
#[derive(Debug, Default)]
pub(crate) struct LateEdges {
    inputs: HashMap<VertexId, Vec<VertexId>>,
    dependants: HashMap<VertexId, Vec<VertexId>>,
}

impl LateEdges {
    pub(crate) fn inputs(&self, vertex: VertexId) -> &[VertexId] {
        self.inputs.get(&vertex).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn dependants(&self, vertex: VertexId) -> &[VertexId] {
        self.dependants.get(&vertex).map_or(&[], Vec::as_slice)
    }

    /// Returns those of `named` that are not yet inputs of `vertex`, each once.
    pub(crate) fn unknown<O>(&self, dag: &Dag<O>, vertex: VertexId, named: &[VertexId]) -> Vec<VertexId> {
        if named.is_empty() {
            return Vec::new();
        }
        let mut known: Vec<_> = dag.inputs(vertex).map(|(input, _)| input).collect();
        known.extend(self.inputs(vertex));
        known.sort_unstable();
        let mut unknown = Vec::new();
        for input in named {
            if known.binary_search(input).is_err() && !unknown.contains(input) {
                unknown.push(*input);
            }
        }
        unknown
    }

    /// Makes `input` an input of `vertex`, unless it needs `vertex` itself.
    pub(crate) fn add<O>(&mut self, dag: &Dag<O>, vertex: VertexId, input: VertexId) -> Result<(), CycleError> {
        if let Some(cycle) = self.path(dag, input, vertex) {
            return Err(CycleError { cycle });
        }
        self.inputs.entry(vertex).or_default().push(input);
        self.dependants.entry(input).or_default().push(vertex);
        Ok(())
    }

    /// Returns a way along inputs from `start` to `end`, put as a circle that begins with `end`: an edge from `end` to
    /// `start` would close it.
    fn path<O>(&self, dag: &Dag<O>, start: VertexId, end: VertexId) -> Option<Vec<VertexId>> {
        let mut reached_from = HashMap::from([(start, start)]);
        let mut stack = vec![start];
        while let Some(vertex) = stack.pop() {
            if vertex == end {
                let mut back = vec![end];
                let mut vertex = end;
                while vertex != start {
                    vertex = reached_from[&vertex];
                    back.push(vertex);
                }
                back[1..].reverse();
                return Some(back);
            }
            for input in dag.inputs(vertex).map(|(input, _)| input).chain(self.inputs(vertex).iter().copied()) {
                if let Entry::Vacant(entry) = reached_from.entry(input) {
                    entry.insert(vertex);
                    stack.push(input);
                }
            }
        }
        None
    }
}
