//! How graphs come in and go: vertices become nodes, shared where they are the same, and are forgotten when no build
//! holds them.

use std::collections::HashSet;
use std::sync::Arc;

use super::node::{Build, BuildId, Drain, Hold, Node, NodeId, Owner, State, Wants};
use super::{Core, Step, event::What};
use crate::cache::{Cache, Combined, MemoryCache};
use crate::dag::{Dag, VertexId};
use crate::few::Few;
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
        let targets: Vec<_> = if wants_all { dag.vertices().collect() } else { targets.to_vec() };
        self.nodes.reserve(targets.len());
        let build = Build {
            owner,
            nodes: vec![None; dag.len()],
            dag,
            held: Vec::new(),
            n_targets_open: 0,
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
        let mut n_open = 0;
        for target in &targets {
            let node = self.builds[&id].nodes[target.index()].expect("all targets were taken in");
            let hold = self.nodes[node].hold_mut(id).expect("all targets were taken in");
            n_open += usize::from(!hold.is_target);
            hold.is_target = true;
        }
        let build = self.builds.get_mut(&id).expect("it was just made");
        build.n_targets_open = n_open;
        let nodes: Vec<_> = targets.iter().filter_map(|target| build.nodes[target.index()]).collect();
        if nodes.is_empty() {
            self.agenda.push_back(Step::Drain(id, Drain::Done));
        }
        for node in nodes {
            self.agenda.push_back(Step::Want(id, node, Wants::RESULT));
        }
        self.work_off();
        id
    }

    /// Makes nodes of `roots` and all that they need, as far as they are not yet.
    pub(super) fn take_in(&mut self, build: BuildId, roots: &[VertexId]) {
        let dag = Arc::clone(&self.builds[&build].dag);
        let mut is_new = vec![false; dag.len()];
        let mut stack = roots.to_vec();
        while let Some(vertex) = stack.pop() {
            if self.builds[&build].nodes[vertex.index()].is_none() && !is_new[vertex.index()] {
                is_new[vertex.index()] = true;
                stack.extend(dag.edges(vertex).map(|edge| edge.input));
            }
        }
        let mut priorities = vec![0_u64; dag.len()];
        for &vertex in dag.dependants_first() {
            if is_new[vertex.index()] {
                let dependants = dag.dependants(vertex).filter(|(dependant, _)| is_new[dependant.index()]);
                let after = dependants.map(|(dependant, _)| priorities[dependant.index()]).max();
                priorities[vertex.index()] = dag.op(vertex).weight().saturating_add(after.unwrap_or(0));
            }
        }
        for &vertex in dag.dependants_first().iter().rev().filter(|vertex| is_new[vertex.index()]) {
            let inputs = {
                let nodes = &self.builds[&build].nodes;
                let mut inputs = Vec::with_capacity(dag.edges(vertex).count());
                inputs.extend(dag.edges(vertex).map(|edge| nodes[edge.input.index()].expect("inputs come first")));
                inputs.into_boxed_slice()
            };
            let priority = priorities[vertex.index()];
            let node = self.intern(build, &dag, vertex, inputs, priority);
            self.builds.get_mut(&build).expect("it is being taken in").nodes[vertex.index()] = Some(node);
        }
    }

    fn intern(
        &mut self,
        build: BuildId,
        dag: &Arc<Dag<O>>,
        vertex: VertexId,
        inputs: Box<[NodeId]>,
        priority: u64,
    ) -> NodeId {
        let ignores_cache = dag.options(vertex).is_some_and(|options| options.ignores_cache);
        let identity = Self::identity(dag, vertex, ignores_cache, &inputs);
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
        for input in &inputs {
            let input = &self.nodes[*input];
            n_missing -= u32::from(input.made.is_some());
            n_incomplete -= u32::from(input.is_complete());
            lost_to = lost_to.or(input.lost_to);
        }
        let mut holds = Few::new();
        holds.push(Hold { build, vertex: Some(vertex), wants: Wants::NOTHING, is_target: false, is_told: false });
        let cache = self.cache_of(dag, vertex);
        let n_dependants = dag.dependants(vertex).count();
        let mut node = Node {
            dag: Arc::clone(dag),
            vertex,
            home: build,
            state: State::Idle,
            ticket: 0,
            holds,
            inputs,
            dependants: Vec::with_capacity(n_dependants),
            n_missing,
            n_incomplete,
            map_index: 0,
            is_last_map: false,
            is_exhausted: false,
            asks_again: false,
            ignores_cache,
            is_fresh: false,
            lost_to,
            priority,
            key: None,
            probe: None,
            made: None,
            keying: None,
            waiters: Vec::new(),
            more: None,
        };
        if cache.is_some() {
            node.more().cache = cache;
        }
        let id = self.nodes.insert(node);
        self.builds.get_mut(&build).expect("it is being taken in").held.push(id);
        for place in 0..self.nodes[id].inputs.len() {
            let input = self.nodes[id].inputs[place];
            self.nodes[input].dependants.push(id);
        }
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
            stack.extend(held.inputs.iter().map(|input| (*input, None)));
            self.builds.get_mut(&build).expect("it holds a node").held.push(node);
        }
    }

    /// Makes `input` an input of `node`, for all who hold that.
    pub(super) fn add_input(&mut self, node: NodeId, input: NodeId) {
        let builds: Vec<_> = self.nodes[node].holds.iter().map(|hold| (hold.build, hold.wants)).collect();
        let (is_made, is_complete) = (self.nodes[input].made.is_some(), self.nodes[input].is_complete());
        let joined = &mut self.nodes[node];
        let mut inputs = std::mem::take(&mut joined.inputs).into_vec();
        inputs.push(input);
        joined.inputs = inputs.into();
        joined.n_missing += u32::from(!is_made);
        joined.n_incomplete += u32::from(!is_complete);
        self.nodes[input].dependants.push(node);
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
        let mut gone = Vec::new();
        for node in build.held {
            let held = &mut self.nodes[node];
            held.holds.retain(|hold| hold.build != id);
            if held.holds.is_empty() {
                gone.push(node);
            } else if held.home == id {
                // The op of any other graph that has this vertex is as good.
                if let Some((home, vertex)) = held.holds.iter().find_map(|hold| Some((hold.build, hold.vertex?))) {
                    (held.home, held.vertex) = (home, vertex);
                    held.dag = Arc::clone(&self.builds[&home].dag);
                }
            }
        }
        self.forget(gone);
        self.work_off();
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
            let node = &self.nodes[node];
            stay.extend(node.inputs.iter().copied().filter(|input| !self.nodes[*input].holds.is_empty()));
        }
        for node in gone {
            self.nodes.remove(node);
        }
        for input in stay {
            let mut dependants = std::mem::take(&mut self.nodes[input].dependants);
            dependants.retain(|dependant| self.nodes.get(*dependant).is_some());
            self.nodes[input].dependants = dependants;
        }
    }

    /// Lets nobody find a node any more who does not have it already.
    pub(super) fn unlist(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        if let Some(key) = &node.key
            && let Some(awaiting) = self.awaiting.get_mut(key)
        {
            awaiting.retain(|known| *known != id);
            if awaiting.is_empty() {
                self.awaiting.remove(key);
            }
        }
        if let Some(key) = &node.key
            && node.made.is_some()
        {
            let twins = self.twins.get_mut(key);
            if self.landed.get(key) != Some(&id) {
                if let Some(twins) = twins {
                    twins.retain(|twin| *twin != id);
                }
            } else if let Some(twin) = twins.and_then(Vec::pop) {
                self.landed.insert(key.clone(), twin);
            } else {
                self.landed.remove(key);
            }
            if self.twins.get(key).is_some_and(Vec::is_empty) {
                self.twins.remove(key);
            }
        }
        if let Some(identity) = Self::identity(&node.dag, node.vertex, node.ignores_cache, &node.inputs)
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
