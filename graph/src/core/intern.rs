//! How graphs come in and go: vertices become nodes, shared where they are the same, and are forgotten when no build
//! holds them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::known::Keys;
use super::lists::{Chain, Chains};
use super::node::{Build, BuildId, Hold, Node, NodeId, Nodes, Owner, SiteId, State, Wants};
use super::nodes::NodeInputs;
use super::{Core, Step, event::What};
use crate::cache::{Cache, Combined, MemoryCache};
use crate::context::Site;
use crate::dag::{Dag, VertexId};
use crate::few::{ById, Few};
use crate::op::Op;

/// What makes two vertices the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity<K> {
    digest: K,
    ignores_cache: bool,
    inputs: Box<[(NodeId, u32)]>,
}

impl<O: Op> Core<O> {
    /// Takes in what `targets` may need, and starts to want their results. No targets means all.
    ///
    /// The targets must be of `dag`.
    pub(crate) fn submit(
        &mut self,
        owner: Owner,
        dag: Arc<Dag<O>>,
        targets: &[VertexId],
        is_fail_fast: bool,
        wants_all: bool,
    ) -> BuildId {
        let id = BuildId(self.n_builds);
        self.n_builds += 1;
        // In the order in which they are likely to start.
        let all = || dag.dependants_first().iter().rev().copied();
        let targets: Vec<_> = if wants_all { all().collect() } else { targets.to_vec() };
        let site = Site { build: id, dag: Arc::clone(&dag), home: Arc::clone(&self.home) };
        let build = Build {
            owner,
            site: self.nodes.add_site(site),
            nodes: vec![None; dag.len()],
            dag,
            held: Vec::new(),
            // One besides the targets: that all of them are known.
            n_targets_open: 1,
            targets,
            is_fail_fast,
            drain: None,
            n_running: 0,
            is_finished: false,
            is_circular: false,
            is_released: false,
        };
        self.builds.insert(id, build);
        let targets = self.builds[&id].targets.clone();
        self.take_in(id, &targets);
        for target in &targets {
            let build = self.builds.get_mut(&id).expect("it is there until it is released");
            let node = build.nodes[target.index()].expect("all targets were taken in");
            let hold = self.nodes[node].hold_mut(id).expect("all targets were taken in");
            // One that an earlier target needs may have been told of by now.
            if !std::mem::replace(&mut hold.is_target, true) && !hold.is_told {
                build.n_targets_open += 1;
            }
            self.want(id, node, Wants::RESULT);
            self.work_off();
        }
        self.close_target(id);
        self.work_off();
        id
    }

    /// Makes nodes of `roots` and all that they need, as far as they are not yet.
    pub(super) fn take_in(&mut self, build: BuildId, roots: &[VertexId]) {
        let of = self.builds.get_mut(&build).expect("it takes something in");
        if roots.iter().all(|root| of.nodes[root.index()].is_some()) {
            return;
        }
        let (dag, site, mut nodes) = (Arc::clone(&of.dag), of.site, std::mem::take(&mut of.nodes));
        // By vertex that is new: the work of the longest chain of dependants.
        let mut after: Vec<Option<u64>> = vec![None; dag.len()];
        for root in roots.iter().filter(|root| nodes[root.index()].is_none()) {
            after[root.index()] = Some(0);
        }
        let (mut n_new, mut n_edges) = (0, 0);
        for &vertex in dag.dependants_first() {
            let Some(after_it) = &mut after[vertex.index()] else { continue };
            let priority = dag.op(vertex).weight().saturating_add(*after_it);
            *after_it = priority;
            n_new += 1;
            for edge in dag.edges(vertex) {
                n_edges += 1;
                if nodes[edge.input.index()].is_none() {
                    let after_input = after[edge.input.index()].get_or_insert(0);
                    *after_input = priority.max(*after_input);
                }
            }
        }
        self.nodes.reserve(n_new, n_edges);
        self.keys.reserve(n_new);
        self.builds.get_mut(&build).expect("it was found above").held.reserve(n_new);
        let mut inputs = Vec::new();
        for &vertex in dag.dependants_first().iter().rev() {
            let Some(priority) = after[vertex.index()] else { continue };
            inputs.clear();
            inputs.extend(dag.edges(vertex).map(|edge| nodes[edge.input.index()].expect("inputs come first")));
            let node = self.intern((build, site), &dag, vertex, &inputs, priority);
            nodes[vertex.index()] = Some(node);
        }
        self.builds.get_mut(&build).expect("it was found above").nodes = nodes;
    }

    fn intern(
        &mut self,
        (build, site): (BuildId, SiteId),
        dag: &Dag<O>,
        vertex: VertexId,
        inputs: &[NodeId],
        priority: u64,
    ) -> NodeId {
        let ignores_cache = dag.options(vertex).is_some_and(|options| options.ignores_cache);
        let identity = Self::identity(dag, vertex, ignores_cache, inputs);
        if let Some(mut identity) = identity.clone() {
            // One that is made anew will do for anybody; one from a cache will not do for who wants it made anew.
            identity.ignores_cache = true;
            let anew = self.by_identity.get(&identity).copied();
            identity.ignores_cache = false;
            let known = if ignores_cache { anew } else { anew.or(self.by_identity.get(&identity).copied()) };
            if let Some(node) = known {
                self.nodes[node].priority = self.nodes[node].priority.max(priority);
                match self.nodes[node].hold_mut(build) {
                    // Two vertices of this very graph are the same.
                    Some(hold) => hold.vertex = hold.vertex.or(Some(vertex)),
                    None => self.hold(build, node, Some(vertex)),
                }
                return node;
            }
        }
        let count = u32::try_from(inputs.len()).expect("edges are counted in 32 bits");
        let (mut n_missing, mut n_incomplete, mut lost_to) = (count, count, None);
        for input in inputs {
            let input = &self.nodes[*input];
            n_missing -= u32::from(input.made.is_some());
            n_incomplete -= u32::from(input.is_complete());
            lost_to = lost_to.or(input.lost_to);
        }
        let mut holds = Few::new();
        holds.push(Hold { build, vertex: Some(vertex), wants: Wants::NOTHING, is_target: false, is_told: false });
        let cache = self.cache_of(dag, vertex);
        let mut node = Node {
            holds,
            priority,
            state: State::Idle,
            ticket: 0,
            n_missing,
            n_incomplete,
            key: None,
            vertex,
            site,
            is_exhausted: false,
            asks_again: false,
            ignores_cache,
            is_fresh: false,
            made: None,
            probe: None,
            keying: None,
            more: None,
            inputs: NodeInputs::NONE,
            dependants: Chain::default(),
            waiters: Chain::default(),
            lost_to,
            map_index: 0,
            is_last_map: false,
            listed: None,
        };
        if cache.is_some() {
            node.more().cache = cache;
        }
        let id = self.nodes.insert(node, inputs);
        self.builds.get_mut(&build).expect("it is being taken in").held.push(id);
        if let Some(identity) = identity {
            self.by_identity.insert(identity, id);
        }
        id
    }

    fn identity(dag: &Dag<O>, vertex: VertexId, ignores_cache: bool, inputs: &[NodeId]) -> Option<Identity<O::Key>> {
        let digest = dag.op(vertex).digest()?;
        let inputs = inputs.iter().zip(dag.edges(vertex)).map(|(node, edge)| (*node, edge.output)).collect();
        Some(Identity { digest, ignores_cache, inputs })
    }

    /// Returns the cache that a vertex names besides the main one, joined with that.
    fn cache_of(&self, dag: &Dag<O>, vertex: VertexId) -> Option<Cache<O>> {
        let sources = &dag.options(vertex)?.sources;
        let named = sources.iter().filter_map(|name| Some((name, self.config.cache_source(name)?)));
        // Without a main cache what is found is kept in memory, as long as the vertex.
        let main = self.config.main_cache().cloned().unwrap_or_else(|| Cache::new(MemoryCache::new()));
        let combined = match self.config.patience {
            Some(patience) => Combined::new(main).patience(patience),
            None => Combined::new(main),
        };
        let combined = named.fold(combined, |combined, (name, cache)| combined.with(Arc::clone(name), cache.clone()));
        (!sources.is_empty()).then(|| Cache::new(combined))
    }

    /// Lets `build` hold a node that is there already, and what that needs by late edges.
    fn hold(&mut self, build: BuildId, node: NodeId, vertex: Option<VertexId>) {
        let mut stack = vec![(node, vertex)];
        while let Some((node, vertex)) = stack.pop() {
            let held = &mut self.nodes[node];
            if held.hold(build).is_some() {
                continue;
            }
            held.holds.push(Hold { build, vertex, wants: Wants::NOTHING, is_target: false, is_told: false });
            // The inputs that are edges of the build's own graph were taken in before, and know their place in it.
            stack.extend(self.nodes.inputs(node).iter().map(|input| (*input, None)));
            self.builds.get_mut(&build).expect("it holds a node").held.push(node);
        }
    }

    /// Makes `input` an input of `node`, for all who hold that.
    pub(super) fn add_input(&mut self, node: NodeId, input: NodeId) {
        let builds: Vec<_> = self.nodes[node].holds.iter().map(|hold| (hold.build, hold.wants)).collect();
        let (is_made, is_complete) = (self.nodes[input].made.is_some(), self.nodes[input].is_complete());
        let joined = &mut self.nodes[node];
        joined.more().n_late += 1;
        joined.n_missing += u32::from(!is_made);
        joined.n_incomplete += u32::from(!is_complete);
        self.nodes.add_input(node, input);
        for (build, wants) in builds {
            self.hold(build, input, None);
            if wants.contains(Wants::COMPLETE) {
                self.agenda.push_back(Step::Want(build, input, Wants::COMPLETE));
            }
        }
    }

    /// Forgets a build: what nobody else holds is gone, results included. One that is not finished is stopped first.
    pub(crate) fn release(&mut self, id: BuildId) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        build.is_released = true;
        if !build.is_finished {
            return self.stop(id, false);
        }
        let build = self.builds.remove(&id).expect("it was found above");
        if self.builds.is_empty() && self.flights.is_empty() {
            return self.forget_all();
        }
        let mut gone = Vec::new();
        for node in build.held {
            let held = &mut self.nodes[node];
            held.holds.retain(|hold| hold.build != id);
            if held.holds.is_empty() {
                gone.push(node);
            } else if held.site == build.site {
                // The op of any other graph that has this vertex is as good.
                if let Some((home, vertex)) = held.holds.iter().find_map(|hold| Some((hold.build, hold.vertex?))) {
                    self.nodes.move_to(node, self.builds[&home].site, vertex);
                }
            }
        }
        self.nodes.release_site(build.site);
        self.forget(gone);
        self.work_off();
    }

    /// Nobody is left who holds anything: no node need be taken out of the others' lists.
    fn forget_all(&mut self) {
        self.nodes = Nodes::new();
        self.keys = Keys::new();
        self.by_identity = HashMap::new();
        self.waiters = Chains::new();
        self.contents = ById::default();
        self.contents_of = ById::default();
        self.ready.clear();
        self.agenda.clear();
    }

    fn forget(&mut self, gone: Vec<NodeId>) {
        let mut stay = HashSet::new();
        for &node in &gone {
            self.unlist(node);
            for content in self.contents_of.remove(&node).unwrap_or_default() {
                self.contents.remove(&content);
            }
            if let State::Started(flight) = self.nodes[node].state
                && let Some(flight) = self.flights.get_mut(&flight)
            {
                // The flight goes on for others.
                flight.attached.retain(|attached| *attached != node);
            }
            let inputs = self.nodes.inputs(node).iter().copied();
            stay.extend(inputs.filter(|input| !self.nodes[*input].holds.is_empty()));
        }
        for node in gone {
            let key = self.nodes.remove(node).and_then(|mut node| {
                while self.waiters.pop_first(&mut node.waiters).is_some() {}
                node.key
            });
            if let Some(key) = key {
                self.keys.release(key);
            }
        }
        for input in stay {
            self.nodes.retain_dependants(input);
        }
    }

    /// Lets nobody find a node any more who does not have it already.
    pub(super) fn unlist(&mut self, id: NodeId) {
        self.unlist_key(id);
        let node = &self.nodes[id];
        if let Some(identity) =
            Self::identity(&self.nodes.site(id).dag, node.vertex, node.ignores_cache, self.nodes.inputs(id))
            && self.by_identity.get(&identity) == Some(&id)
        {
            self.by_identity.remove(&identity);
        }
    }

    /// Returns the vertex of `build`'s own graph that a node is, or where it is at home if it is none of that graph.
    pub(crate) fn vertex_in(&self, build: BuildId, node: NodeId) -> VertexId {
        let node = &self.nodes[node];
        node.hold(build).and_then(|hold| hold.vertex).unwrap_or(node.vertex)
    }

    /// Says to `build` that a node was found in a cache, whether or not its result will be needed.
    pub(super) fn tell_found(&mut self, node: NodeId) {
        for place in 0..self.nodes[node].holds.len() {
            let Some(build) = self.wanting_at(node, place) else { continue };
            self.tell(build, node, What::Found);
        }
    }
}
