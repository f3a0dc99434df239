//! All nodes, and the edges between them.

use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::lists::{Chains, Slice, Slices, Walk};
use super::node::{BuildId, Node};
use crate::context::Site;
use crate::dag::VertexId;
use crate::op::Op;

/// A vertex as the solver knows it: one for all builds that have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(NonZeroU32);

impl NodeId {
    /// No node.
    pub(crate) const NONE: Self = Self(NonZeroU32::MAX);

    fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().filter(|number| *number < MANY);
        Self(number.and_then(NonZeroU32::new).expect("nodes are counted in 31 bits"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The inputs of one node: up to two are in place, since most vertices of most graphs have no more. Of more it is where
/// they are: the slice's start, counted from one, and its length, as two numbers the second of which no node has.
#[derive(Debug, Clone, Copy)]
pub(super) struct NodeInputs([NodeId; 2]);

/// What is added to the length.
const MANY: u32 = 1 << 31;

impl NodeInputs {
    pub(super) const NONE: Self = Self([NodeId::NONE; 2]);

    fn slice(self) -> Option<Slice> {
        let [start, len] = self.0.map(|number| number.0.get());
        (MANY..u32::MAX).contains(&len).then(|| Slice::at(start - 1, len - MANY))
    }
}

/// Everything by node, with places used again.
pub(crate) struct Nodes<O: Op> {
    places: Vec<Option<Node<O>>>,
    /// With the tickets to go on from: what was filed for the node that was here must not be taken for the next one's.
    free: Vec<(NodeId, u32)>,
    inputs: Slices<NodeId>,
    dependants: Chains<NodeId>,
    /// Each with the number of its nodes, and one more as long as its build is there.
    sites: Vec<Option<(Arc<Site<O>>, u32)>>,
    free_sites: Vec<SiteId>,
}

/// Where nodes stand: a number instead of a pointer, since very many nodes share very few sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SiteId(u32);

impl<O: Op> Nodes<O> {
    pub(crate) fn new() -> Self {
        let (inputs, dependants) = (Slices::new(), Chains::new());
        Self { places: Vec::new(), free: Vec::new(), inputs, dependants, sites: Vec::new(), free_sites: Vec::new() }
    }

    /// Makes room, as far as it is sure that it will be needed.
    pub(crate) fn reserve(&mut self, n_nodes: usize, n_edges: usize) {
        self.places.reserve(n_nodes.saturating_sub(self.free.len()));
        self.dependants.reserve(n_edges);
    }

    /// Adds a node, which becomes a dependant of its inputs.
    pub(crate) fn insert(&mut self, mut node: Node<O>, inputs: &[NodeId]) -> NodeId {
        node.inputs = self.keep(inputs);
        self.share_site(node.site);
        let id = if let Some((id, ticket)) = self.free.pop() {
            node.ticket = ticket;
            self.places[id.index()] = Some(node);
            id
        } else {
            self.places.push(Some(node));
            NodeId::new(self.places.len() - 1)
        };
        for &input in inputs {
            self.add_dependant(input, id);
        }
        id
    }

    fn keep(&mut self, inputs: &[NodeId]) -> NodeInputs {
        NodeInputs(match *inputs {
            [] => [NodeId::NONE; 2],
            [one] => [one, NodeId::NONE],
            [one, other] => [one, other],
            _ => {
                let (start, len) = self.inputs.insert(inputs).parts();
                [start + 1, len + MANY].map(|n| NodeId(NonZeroU32::new(n).expect("both are more than zero")))
            }
        })
    }

    fn forget_inputs(&mut self, inputs: NodeInputs) {
        if let Some(slice) = inputs.slice() {
            self.inputs.remove(slice);
        }
    }

    fn add_dependant(&mut self, input: NodeId, dependant: NodeId) {
        let input = self.places[input.index()].as_mut().expect("an input is there as long as its dependant");
        self.dependants.push(&mut input.dependants, dependant);
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Node<O>> {
        self.places.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node<O>> {
        self.places.get_mut(id.index())?.as_mut()
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<Node<O>> {
        let mut node = self.places[id.index()].take()?;
        self.forget_inputs(node.inputs);
        self.release_site(node.site);
        while self.dependants.pop_first(&mut node.dependants).is_some() {}
        self.free.push((id, node.ticket.wrapping_add(1)));
        Some(node)
    }

    /// Adds a site, to be [released](Self::release_site) with its build.
    pub(crate) fn add_site(&mut self, site: Site<O>) -> SiteId {
        let id = self.free_sites.pop().unwrap_or_else(|| {
            self.sites.push(None);
            SiteId(u32::try_from(self.sites.len() - 1).expect("builds are counted in 32 bits"))
        });
        self.sites[id.0 as usize] = Some((Arc::new(site), 1));
        id
    }

    fn share_site(&mut self, id: SiteId) {
        self.sites[id.0 as usize].as_mut().expect("a site is there as long as it has nodes").1 += 1;
    }

    pub(crate) fn release_site(&mut self, id: SiteId) {
        let place = &mut self.sites[id.0 as usize];
        let (_, n_users) = place.as_mut().expect("a site is there as long as it has nodes");
        *n_users -= 1;
        if *n_users == 0 {
            *place = None;
            self.free_sites.push(id);
        }
    }

    /// Lets a node stand elsewhere.
    pub(crate) fn move_to(&mut self, id: NodeId, site: SiteId, vertex: VertexId) {
        self.share_site(site);
        let node = &mut self[id];
        let left = std::mem::replace(&mut node.site, site);
        node.vertex = vertex;
        self.release_site(left);
    }

    /// Returns where a node stands.
    pub(crate) fn site(&self, id: NodeId) -> &Arc<Site<O>> {
        &self.sites[self[id].site.0 as usize].as_ref().expect("a site is there as long as it has nodes").0
    }

    /// Returns the build in whose graph a node stands.
    pub(crate) fn home(&self, id: NodeId) -> BuildId {
        self.site(id).build
    }

    pub(crate) fn op(&self, id: NodeId) -> &O {
        self.site(id).dag.op(self[id].vertex)
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Returns the inputs of a node, in the order of the graph's edges, then the late ones.
    pub(crate) fn inputs(&self, id: NodeId) -> &[NodeId] {
        let inputs = &self[id].inputs;
        match inputs.0 {
            [NodeId::NONE, _] => &[],
            [_, NodeId::NONE] => &inputs.0[..1],
            _ => inputs.slice().map_or(&inputs.0, |slice| self.inputs.get(slice)),
        }
    }

    /// Adds a late input.
    pub(crate) fn add_input(&mut self, id: NodeId, input: NodeId) {
        let mut inputs = self.inputs(id).to_vec();
        inputs.push(input);
        self.forget_inputs(self[id].inputs);
        self[id].inputs = self.keep(&inputs);
        self.add_dependant(input, id);
    }

    /// Walks along the dependants of a node, each once for each edge.
    pub(crate) fn dependants(&self, id: NodeId) -> Walk {
        self.dependants.walk(self[id].dependants)
    }

    pub(crate) fn next_dependant(&self, walk: &mut Walk) -> Option<NodeId> {
        self.dependants.next(walk)
    }

    /// Forgets the dependants of a node that are gone.
    pub(crate) fn retain_dependants(&mut self, id: NodeId) {
        let mut walk = self.dependants(id);
        let mut kept = Vec::new();
        while let Some(dependant) = self.dependants.next(&mut walk) {
            if self.get(dependant).is_some() {
                kept.push(dependant);
            }
        }
        let mut dependants = self[id].dependants;
        while self.dependants.pop_first(&mut dependants).is_some() {}
        for dependant in kept {
            self.dependants.push(&mut dependants, dependant);
        }
        self[id].dependants = dependants;
    }
}

impl<O: Op> Drop for Nodes<O> {
    /// Dependants first: a result that they hold last is near to where they were.
    fn drop(&mut self) {
        while self.places.pop().is_some() {}
    }
}

impl<O: Op> Index<NodeId> for Nodes<O> {
    type Output = Node<O>;

    fn index(&self, id: NodeId) -> &Node<O> {
        self.places[id.index()].as_ref().expect("a node is there as long as somebody holds it")
    }
}

impl<O: Op> IndexMut<NodeId> for Nodes<O> {
    fn index_mut(&mut self, id: NodeId) -> &mut Node<O> {
        self.places[id.index()].as_mut().expect("a node is there as long as somebody holds it")
    }
}
