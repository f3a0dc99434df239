//! How a node comes to its key: cache maps, what they need of others, what caches answer, digests of contents.

use std::sync::Arc;

use super::known::List;
use super::node::{Content, ContentId, ContentState, Ending, Flight, Needed, NodeId, Role, Stage, State, Waiter};
use super::{Core, Done, Start, Step, Work};
use crate::cache::Found;
use crate::dag::VertexId;
use crate::error::{CycleError, Failure};
use crate::op::{CacheMap, Need, Op, Part, Phase};
use crate::ready::{Demand, Entry};

impl<O: Op> Core<O> {
    /// A cache map is there. The op it was asked of may stand in another graph than the node by now.
    pub(super) fn mapped(&mut self, id: NodeId, mut map: CacheMap<O::Key>, flight: &Flight<O>) {
        let needed = match self.resolve(id, &mut map, flight) {
            Ok(Some(needed)) => needed,
            // Asked again of an op whose graph is still there.
            Ok(None) => return,
            Err(failure) => return self.fail(id, failure),
        };
        let ticket = self.nodes[id].ticket.wrapping_add(1);
        let mut n_unmet = 0;
        for place in 0..needed.len(self.nodes.inputs(id)) {
            let (input, part) = needed.get(self.nodes.inputs(id), place);
            let Some(part) = part else {
                if self.nodes[input].key.is_some() {
                    continue;
                }
                if let Some(root) = self.without_key(input) {
                    return self.skip(id, root);
                }
                n_unmet += 1;
                self.waiters.push(&mut self.nodes[input].waiters, Waiter::Node(id, ticket));
                continue;
            };
            if self.has_none(input) {
                let root = self.nodes[input].lost_to.expect("what has no result is lost");
                return self.skip(id, root);
            }
            let content = self.request(input, part);
            let content = self.contents.get_mut(&content).expect("it was just requested");
            if !matches!(content.state, ContentState::Known(_)) {
                n_unmet += 1;
                content.waiters.push((id, ticket));
            }
        }
        if n_unmet == 0 {
            return self.keyed(id, map, &needed);
        }
        self.set(id, State::Keying { n_unmet });
        self.nodes[id].keying = Some(Box::new((map, needed)));
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.demand_for(build, id);
        }
    }

    fn has_none(&self, id: NodeId) -> bool {
        self.nodes[id].state == State::Settled(Ending::HasNone)
    }

    fn without_key(&self, id: NodeId) -> Option<NodeId> {
        if self.has_none(id) { self.nodes[id].lost_to } else { None }
    }

    /// Finds the nodes that a map names, and makes those that are no inputs yet into some; from then on the map itself
    /// names none. `None`: they cannot be found in the graph that they were named in, which is gone.
    fn resolve(
        &mut self,
        id: NodeId,
        map: &mut CacheMap<O::Key>,
        flight: &Flight<O>,
    ) -> Result<Option<Needed>, Failure<O::Error>> {
        let (site, vertex) = (flight.context.site(), flight.context.vertex());
        let (dag, build) = (&site.dag, &site.build);
        if let Some(need) = map.needs().iter().find(|need| !dag.contains(need.input)) {
            return Err(Failure::UnknownInput(need.input));
        }
        let needs = map.take_needs();
        let inputs = self.nodes.inputs(id);
        // Looked up at the inputs, which are looked at next anyway, and not in the graph, which may be far.
        let is_named = |(need, input): (&Need, &NodeId)| {
            need.content.is_none() && need.input == self.nodes[*input].vertex && self.nodes.home(*input) == *build
        };
        if needs.len() == inputs.len() && needs.iter().zip(inputs).all(is_named) {
            return Ok(Some(Needed::Inputs));
        }
        let nodes = self.nodes.inputs(id).iter().copied();
        let mut edges: Vec<_> = dag.edges(vertex).map(|edge| edge.input).zip(nodes).collect();
        edges.sort_unstable();
        let mut needed = Vec::with_capacity(needs.len());
        for need in needs {
            if let Ok(place) = edges.binary_search_by_key(&need.input, |(vertex, _)| *vertex) {
                needed.push((edges[place].1, need.content));
                continue;
            }
            if self.nodes.home(id) != *build || !self.builds.contains_key(build) {
                return Ok(None);
            }
            self.take_in(*build, &[need.input]);
            let input = self.builds[build].nodes[need.input.index()].expect("it was just taken in");
            needed.push((input, need.content));
            if self.nodes.inputs(id).contains(&input) {
                continue;
            }
            if let Some(cycle) = self.path(input, id) {
                let cycle = cycle.into_iter().map(|node| self.vertex_in(*build, node)).collect();
                return Err(Failure::LateCycle(CycleError { cycle }));
            }
            self.add_input(id, input);
            if let (Some(root), None) = (self.nodes[input].lost_to, self.nodes[id].lost_to) {
                self.nodes[id].lost_to = Some(root);
                self.lose(id, root);
            }
        }
        Ok(Some(Needed::These(needed.into())))
    }

    /// Returns a way along inputs from `start` to `end`, put as a circle that begins with `end`: an edge from `end` to
    /// `start` would close it.
    fn path(&self, start: NodeId, end: NodeId) -> Option<Vec<NodeId>> {
        let mut reached_from = std::collections::HashMap::from([(start, start)]);
        let mut stack = vec![start];
        while let Some(node) = stack.pop() {
            if node == end {
                let mut back = vec![end];
                let mut node = end;
                while node != start {
                    node = reached_from[&node];
                    back.push(node);
                }
                back[1..].reverse();
                return Some(back);
            }
            for &input in self.nodes.inputs(node) {
                if let std::collections::hash_map::Entry::Vacant(entry) = reached_from.entry(input) {
                    entry.insert(node);
                    stack.push(input);
                }
            }
        }
        None
    }

    /// All that `map` needs is there.
    fn keyed(&mut self, id: NodeId, map: CacheMap<O::Key>, needed: &Needed) {
        let mut digests = std::mem::take(&mut self.digests);
        let inputs = self.nodes.inputs(id);
        let (mut has_fresh, mut is_content) = (false, false);
        for place in 0..needed.len(inputs) {
            let (input, part) = needed.get(inputs, place);
            if let Some(part) = part {
                is_content = true;
                let state = self.content(input, part).map(|content| &content.state);
                digests.extend(state.and_then(|state| match state {
                    ContentState::Known(digest) => Some(digest.clone()),
                    _ => None,
                }));
            } else {
                has_fresh |= self.nodes[input].is_fresh;
                digests.extend(self.key(input).cloned());
            }
        }
        let is_last = map.is_last();
        let key = map.key(&digests);
        digests.clear();
        self.digests = digests;
        let has_cache = self.cache(id).is_some();
        let node = &mut self.nodes[id];
        node.is_last_map = is_last;
        let may_ask = has_cache && !node.ignores_cache && !has_fresh;
        let is_known = node.probe.as_ref().is_some_and(|probe| probe.0 == key);
        node.is_fresh |= node.ignores_cache || (has_fresh && !is_content);
        if !is_known && let Some(probe) = node.probe.replace(Box::new((key, is_content))) {
            node.more().tried.push(*probe);
        }
        // The caches were just asked for this very key, if it is known.
        if may_ask && !is_known {
            self.enqueue(id, Stage::Query);
        } else {
            self.next_map(id);
        }
    }

    fn next_map(&mut self, id: NodeId) {
        // Of an op with more maps than can be counted the last of those is the last one.
        let next = self.nodes[id].map_index.checked_add(1);
        self.nodes[id].map_index = next.unwrap_or(u16::MAX);
        self.set(id, State::Idle);
        if self.nodes[id].is_last_map || next.is_none() {
            return self.exhausted(id);
        }
        self.agenda.push_back(Step::Pursue(id));
    }

    /// A cache has answered.
    pub(super) fn queried(&mut self, id: NodeId, found: Option<Found<O::Key>>) {
        let Some(mut found) = found else { return self.next_map(id) };
        if let Some(more) = &self.nodes[id].more {
            found.records.retain(|record| !more.bad.contains(record));
        }
        // The best one last.
        found.records.sort_by(|a, b| b.rank(a));
        if !found.records.is_empty() {
            self.nodes[id].more().records = found.records;
            self.tell_found(id);
        }
        let node = &mut self.nodes[id];
        if node.key.is_none() {
            node.is_fresh = false;
            self.finish_key(id, found.key);
        }
        self.next_map(id);
    }

    /// There are no more cache maps: the vertex stands for itself.
    pub(super) fn exhausted(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        node.is_exhausted = true;
        if node.key.is_none() {
            let Some(last) = node.probe.take() else { return self.fail(id, Failure::NoCacheMap) };
            let tried = node.more.iter().flat_map(|more| &more.tried);
            // A content key is a way to find a result, not its name: that would change with what is below.
            let own = std::iter::once(&*last).chain(tried.clone().rev()).find(|(_, is_content)| !is_content);
            let own = own.or_else(|| tried.clone().next()).unwrap_or(&*last).0.clone();
            if own != last.0 {
                node.probe = Some(last);
            }
            self.finish_key(id, own);
        }
        if self.nodes[id].key.is_some() && !self.nodes[id].is_fresh {
            self.list(id, List::Awaiting, false);
        }
        self.agenda.push_back(Step::Pursue(id));
    }

    /// `key` is what dependants see from now on.
    fn finish_key(&mut self, id: NodeId, key: O::Key) {
        self.nodes[id].key = Some(self.keys.take(key));
        let mut waiters = std::mem::take(&mut self.nodes[id].waiters);
        while let Some(waiter) = self.waiters.pop_first(&mut waiters) {
            match waiter {
                Waiter::Node(node, ticket) => self.met(node, ticket),
                Waiter::Content(content) => self.content_keyed(content),
            }
        }
    }

    /// One of the things that a keying node needs is there.
    fn met(&mut self, id: NodeId, ticket: u32) {
        let Some(node) = self.nodes.get(id).filter(|node| node.ticket == ticket) else { return };
        let State::Keying { n_unmet } = node.state else { return };
        self.nodes[id].state = State::Keying { n_unmet: n_unmet - 1 };
        if n_unmet == 1 {
            self.agenda.push_back(Step::Key(id, ticket));
        }
    }

    pub(super) fn complete_map(&mut self, id: NodeId, ticket: u32) {
        let Some(node) = self.nodes.get_mut(id).filter(|node| node.ticket == ticket) else { return };
        let (map, needed) = *node.keying.take().expect("a map is kept while its node is keying");
        self.keyed(id, map, &needed);
    }

    /// Returns those who wait for a key or a content of a node that will never have it.
    pub(super) fn bereaved(&mut self, id: NodeId) -> Vec<NodeId> {
        let mut waiting = Vec::new();
        if self.nodes[id].key.is_none() {
            let mut waiters = std::mem::take(&mut self.nodes[id].waiters);
            while let Some(waiter) = self.waiters.pop_first(&mut waiters) {
                if let Waiter::Node(node, ticket) = waiter {
                    waiting.push((node, ticket));
                }
            }
        }
        for content in self.contents_of.get(&id).cloned().unwrap_or_default() {
            if let Some(content) = self.contents.get_mut(&content)
                && !matches!(content.state, ContentState::Known(_))
            {
                waiting.append(&mut content.waiters);
            }
        }
        waiting.retain(|(node, ticket)| self.is_keying(*node, *ticket));
        waiting.into_iter().map(|(node, _)| node).collect()
    }

    fn is_keying(&self, id: NodeId, ticket: u32) -> bool {
        let node = self.nodes.get(id).filter(|node| node.ticket == ticket);
        node.is_some_and(|node| matches!(node.state, State::Keying { .. }))
    }

    pub(super) fn content(&self, input: NodeId, part: &Part) -> Option<&Content<O::Key>> {
        let contents = self.contents_of.get(&input)?.iter().filter_map(|content| self.contents.get(content));
        contents.into_iter().find(|content| content.part == *part)
    }

    /// Returns the content of `part` of `input`, to be waited for; from now on its digest is on its way.
    fn request(&mut self, input: NodeId, part: &Part) -> ContentId {
        let of = self.contents_of.entry(input).or_default();
        let known = of.iter().find(|content| self.contents.get(content).is_some_and(|c| c.part == *part));
        if let Some(content) = known {
            return *content;
        }
        let id = ContentId(self.n_contents);
        self.n_contents += 1;
        of.push(id);
        let state = ContentState::AwaitsKey;
        self.contents.insert(id, Content { input, part: part.clone(), state, waiters: Vec::new() });
        if self.nodes[input].key.is_some() {
            self.content_keyed(id);
        } else {
            self.waiters.push(&mut self.nodes[input].waiters, Waiter::Content(id));
        }
        id
    }

    fn content_keyed(&mut self, id: ContentId) {
        let Some(content) = self.contents.get_mut(&id) else { return };
        let input = content.input;
        if self.cache(input).is_some() && !self.nodes[input].is_fresh {
            self.contents.get_mut(&id).expect("it was found above").state = ContentState::Asking;
            self.enqueue_content(id);
        } else {
            self.await_result(id);
        }
    }

    /// No cache remembers the digest: the result itself must be digested.
    fn await_result(&mut self, id: ContentId) {
        let Some(content) = self.contents.get_mut(&id) else { return };
        let input = content.input;
        if self.nodes[input].made.is_some() {
            content.state = ContentState::Digesting;
            return self.enqueue_content(id);
        }
        content.state = ContentState::AwaitsResult;
        for (waiter, ticket) in content.waiters.clone() {
            if self.is_keying(waiter, ticket) {
                for place in 0..self.nodes[waiter].holds.len() {
                    let Some(build) = self.wanting_at(waiter, place) else { continue };
                    self.demand_for(build, waiter);
                }
            }
        }
    }

    /// A node has its result: what waits to be digested may be.
    pub(super) fn result_for_contents(&mut self, input: NodeId) {
        for id in self.contents_of.get(&input).cloned().unwrap_or_default() {
            if self.contents.get(&id).is_some_and(|content| content.state == ContentState::AwaitsResult) {
                self.await_result(id);
            }
        }
    }

    fn enqueue_content(&mut self, id: ContentId) {
        let content = &self.contents[&id];
        let node = &self.nodes[content.input];
        let demand = match content.state {
            ContentState::Digesting => self.ready.demand(&self.nodes.op(content.input).resources(Phase::Content)),
            _ => Demand::default(),
        };
        let job = node.holds.first().map(|hold| self.job(hold.build)).expect("a node is held");
        let tie = u64::from(u32::MAX) << 32 | u64::from(id.0);
        let (priority, item) = (node.priority, super::Item::Content(id));
        self.ready.push(job, Entry { priority, tie, demand, item });
    }

    pub(super) fn start_content(&mut self, id: ContentId, demand: Demand) -> Start<O> {
        let content = &self.contents[&id];
        let node = &self.nodes[content.input];
        let (part, cache) = (content.part.clone(), self.cache(content.input).cloned());
        let key = self.key(content.input).cloned().expect("a content is asked for by key");
        let (phase, work) = match (&content.state, &node.made) {
            (ContentState::Asking, _) => {
                let cache = cache.expect("without a cache no digest is asked for");
                (Phase::Query, Work::Digest { cache, key, part })
            }
            (ContentState::Digesting, Some(made)) => {
                let result = made.result.clone();
                (Phase::Content, Work::Content { cache, key, part, result })
            }
            (state, _) => unreachable!("{state:?} does not start"),
        };
        let place = (Arc::clone(self.nodes.site(content.input)), node.vertex);
        self.take_off(Role::Content(id), phase, place, None, demand, work)
    }

    /// A digest is there, or will not come this way.
    pub(super) fn content_done(&mut self, id: ContentId, flight: &Flight<O>, done: Done<O>) {
        let Some(content) = self.contents.get_mut(&id) else { return };
        let input = content.input;
        let digest = match done {
            Done::Digest(Ok(Some(digest))) => digest,
            Done::Digest(answer) => {
                if let Err(error) = answer {
                    self.tell_cache_failed(input, error);
                }
                return self.await_result(id);
            }
            Done::Content(Ok(digest), kept) => {
                self.kept(flight, input, None, kept);
                digest
            }
            // It was told to end, and somebody new wants it.
            Done::Content(Err(_), _) | Done::Panicked(_) if flight.is_doomed => return self.await_result(id),
            Done::Content(Err(error), _) => {
                let error = Arc::new(error);
                return self.content_failed(id, |input| Failure::Content { input, source: Arc::clone(&error) });
            }
            Done::Panicked(message) => return self.content_failed(id, |_| Failure::Panicked(message.clone())),
            _ => unreachable!("a content is digested or looked up"),
        };
        let content = self.contents.get_mut(&id).expect("it was found above");
        content.state = ContentState::Known(digest);
        for (waiter, ticket) in std::mem::take(&mut content.waiters) {
            self.met(waiter, ticket);
        }
    }

    /// Those who need the content fail; who comes later tries again.
    fn content_failed(&mut self, id: ContentId, failure: impl Fn(VertexId) -> Failure<O::Error>) {
        let Some(content) = self.contents.remove(&id) else { return };
        for (waiter, ticket) in content.waiters {
            if self.is_keying(waiter, ticket) {
                let home = self.nodes.home(waiter);
                self.fail(waiter, failure(self.vertex_in(home, content.input)));
            }
        }
    }
}
