//! What runs: how a phase starts, who shares it, how its end is taken in, and how it is asked to end early.

use std::sync::Arc;

use super::event::What;
use super::known::KeyId;
use super::node::{BuildId, Drain, Ending, Flight, Node, NodeId, Owner, Role, Stage, State};
use super::{Core, Done, Item, Kept, Start, Step, Work};
use crate::context::{Below, Context, FlightId, Inputs, Late, Site};
use crate::dag::{Dag, VertexId};
use crate::error::Failure;
use crate::event::Outcome;
use crate::few::Few;
use crate::op::{Op, Phase};
use crate::ready::{Demand, Entry};

impl<O: Op> Core<O> {
    /// Returns the next phase to start; `None`: nothing may start right now.
    pub(crate) fn start_next(&mut self) -> Option<Start<O>> {
        if let Some(write) = self.to_write.pop_front() {
            return Some(write);
        }
        loop {
            let (nodes, flights, contents) = (&self.nodes, &self.flights, &self.contents);
            let is_wanted = |item: &Item| match item {
                Item::Node(node, ticket) => nodes.get(*node).is_some_and(|node| node.ticket == *ticket),
                Item::Content(content) => contents.contains_key(content),
                Item::Resume(flight) => flights.contains_key(flight),
            };
            let cost = |item: &Item| match item {
                Item::Node(node, _) if nodes[*node].state == State::Queued(Stage::Execute) => {
                    nodes.op(*node).weight().max(1)
                }
                Item::Node(..) | Item::Content(_) => 1,
                // It was counted when it began.
                Item::Resume(_) => 0,
            };
            let Entry { item, demand, .. } = self.ready.pop(is_wanted, cost)?;
            let start = match item {
                Item::Node(node, _) => self.start_node(node, demand),
                Item::Content(content) => Some(self.start_content(content, demand)),
                Item::Resume(flight) => {
                    let resumed = self.flights.get_mut(&flight).expect("it is still wanted");
                    if resumed.n_sub_builds == 0 && resumed.demand.is_none() {
                        resumed.demand = demand;
                    } else {
                        self.ready.release(&demand);
                    }
                    self.resumed.push_back(flight);
                    None
                }
            };
            self.work_off();
            if start.is_some() {
                return start;
            }
        }
    }

    fn start_node(&mut self, id: NodeId, demand: Demand) -> Option<Start<O>> {
        let State::Queued(stage) = self.nodes[id].state else { unreachable!("what is queued has this ticket") };
        let node = &self.nodes[id];
        let key = match stage {
            Stage::Map | Stage::Query => None,
            Stage::Load | Stage::Execute => node.key.map(|key| (key, node.is_fresh)),
        };
        if let Some((key, is_fresh)) = key {
            let anew = self.airborne.get(&(key, true));
            let any = || self.airborne.get(&(key, false)).filter(|_| !is_fresh);
            if let Some(flight) = anew.or_else(any).copied() {
                self.ready.release(&demand);
                self.join(id, flight);
                return None;
            }
            if self.take_landed(id) {
                self.ready.release(&demand);
                return None;
            }
        }
        let work = self.work(id, stage);
        let place = (Arc::clone(self.nodes.site(id)), self.nodes[id].vertex);
        let phase = self.phase(id, stage);
        let start = self.take_off(Role::Node(stage), phase, place, key, demand, work);
        self.flights.get_mut(&start.flight).expect("it has just begun").attached.push(id);
        self.set(id, State::Started(start.flight));
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.tell(build, id, What::Started(phase, start.flight));
        }
        Some(start)
    }

    fn work(&mut self, id: NodeId, stage: Stage) -> Work<O> {
        let cache = self.cache(id).cloned();
        let node = &mut self.nodes[id];
        match stage {
            Stage::Map => Work::CacheMap { index: node.map_index as usize },
            Stage::Query => {
                let tried = node.more.iter().flat_map(|more| &more.tried);
                let earlier = tried.map(|(key, _)| key.clone()).collect();
                let probe = if node.asks_again { None } else { node.probe.as_ref().map(|probe| &probe.0) };
                let own = || node.key.map(|key| &self.keys[key]);
                let key = probe.or_else(own).cloned().expect("a query is for a map's key or the final one");
                node.asks_again = false;
                Work::Query { cache: cache.expect("without a cache nothing is queried"), key, earlier }
            }
            Stage::Load => {
                let record = node.more().records.last().cloned().expect("a load is for a record");
                Work::Load { cache: cache.expect("without a cache there is no record"), record }
            }
            Stage::Execute => {
                let links = node.links(&self.keys);
                let key = self.key(id).cloned().expect("what executes has its final key");
                Work::Execute { cache, key, links, inputs: self.inputs(id) }
            }
        }
    }

    /// Collects what an op is given: its direct inputs, and what is below them if it is complete.
    fn inputs(&self, id: NodeId) -> Inputs<O> {
        Inputs::new(Arc::clone(&self.nodes.site(id).dag), self.nodes[id].vertex, self.below(id))
    }

    /// Collects the results of a node's own inputs, which must have them.
    pub(super) fn below(&self, id: NodeId) -> Below<O> {
        let inputs = self.nodes.inputs(id);
        let (edges, late) = inputs.split_at(inputs.len() - self.nodes[id].n_late());
        let made = |input: &Node<O>| Arc::clone(input.made.as_ref().expect("what is below has its result"));
        let site = self.nodes.site(id);
        let late = late.iter().map(|id| {
            let late = &self.nodes[*id];
            let place = match late.hold(site.build).and_then(|hold| hold.vertex) {
                Some(vertex) => (Arc::clone(&site.dag), vertex),
                None => (Arc::clone(&self.nodes.site(*id).dag), late.vertex),
            };
            Late { made: made(late), place }
        });
        Below::new(edges.iter().map(|edge| made(&self.nodes[*edge])), late)
    }

    pub(super) fn take_off(
        &mut self,
        role: Role,
        phase: Phase,
        place: (Arc<Site<O>>, VertexId),
        key: Option<(KeyId, bool)>,
        demand: Demand,
        work: Work<O>,
    ) -> Start<O> {
        let id = FlightId(self.n_flights);
        self.n_flights += 1;
        if let Some(key) = key {
            self.airborne.insert(key, id);
            self.keys.share(key.0);
        }
        let (site, vertex) = place;
        let context = Context::new(id, site, vertex);
        let start = Start { flight: id, context: context.clone(), work };
        let flight = Flight {
            role,
            phase,
            attached: Few::new(),
            context,
            key,
            is_doomed: false,
            parked: Vec::new(),
            demand,
            n_sub_builds: 0,
            sub_builds: Vec::new(),
        };
        self.flights.insert(id, flight);
        start
    }

    /// A node finds that another's flight brings what it was about to fetch or make.
    fn join(&mut self, id: NodeId, flight_id: FlightId) {
        let circular = self.wanting(id).into_iter().filter(|build| self.is_within(*build, flight_id));
        for build in circular.collect::<Vec<_>>() {
            self.refuse(build);
        }
        let flight = self.flights.get_mut(&flight_id).expect("what is listed by key is in the air");
        if flight.is_doomed {
            flight.parked.push((id, self.nodes[id].ticket.wrapping_add(1)));
            return self.set(id, State::Parked);
        }
        flight.attached.push(id);
        let phase = flight.phase;
        self.set(id, State::Started(flight_id));
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.tell(build, id, What::Started(phase, flight_id));
        }
    }

    /// A phase has ended.
    pub(crate) fn advance(&mut self, id: FlightId, done: Done<O>) {
        let flight = self.flights.remove(&id).expect("a flight ends once");
        self.ready.release(&flight.demand);
        if let Some(key) = flight.key {
            if self.airborne.get(&key) == Some(&id) {
                self.airborne.remove(&key);
            }
            self.keys.release(key.0);
        }
        match flight.role {
            Role::Write => {
                self.written(id, done);
                return self.work_off();
            }
            Role::Content(content) => self.content_done(content, &flight, done),
            Role::Node(_) if flight.is_doomed => self.end_doomed(&flight, done),
            Role::Node(stage) => self.end(stage, &flight, done),
        }
        for node in flight.attached.iter() {
            self.let_go(*node);
            self.agenda.push_back(Step::Pursue(*node));
        }
        for (node, ticket) in flight.parked {
            if self.nodes.get(node).is_some_and(|node| node.ticket == ticket) {
                self.set(node, State::Idle);
                self.agenda.push_back(Step::Pursue(node));
            }
        }
        self.work_off();
        for build in flight.sub_builds {
            self.release(build);
        }
    }

    /// Takes in the end of a flight that nobody wanted any more. Who wanted it is told how it ended, but who came
    /// since gets nothing of it: an op that was asked to stop is no one to learn from.
    fn end_doomed(&mut self, flight: &Flight<O>, done: Done<O>) {
        let Some(&id) = flight.attached.first() else { return };
        let made = match done {
            Done::Execute(Ok(output), kept) => Some((Ending::Executed, output, kept)),
            Done::Load(Ok(Some(output)), kept) => Some((Ending::Loaded, output, kept)),
            _ => None,
        };
        for &node in flight.attached.iter() {
            self.set(node, State::Idle);
        }
        if let Some((how, output, kept)) = made {
            if !matches!(kept, Kept::No(_)) {
                self.kept(flight, id, None, kept);
            }
            for &node in flight.attached.iter() {
                if self.live_wants(node).is_empty() {
                    self.settle(node, how, output.clone());
                } else {
                    self.tell_leavers(node, || Outcome::Executed(output.clone()));
                }
            }
        } else if !self.live_wants(id).is_empty() {
            let node = &mut self.nodes[id];
            if node.key.is_none() {
                // From the beginning: what the op found out before may be half done.
                (node.map_index, node.probe, node.is_last_map) = (0, None, false);
                if let Some(more) = &mut node.more {
                    more.tried.clear();
                }
            }
        }
    }

    fn end(&mut self, stage: Stage, flight: &Flight<O>, done: Done<O>) {
        for &node in flight.attached.iter() {
            self.set(node, State::Idle);
        }
        let Some(&first) = flight.attached.first() else { return };
        match done {
            Done::CacheMap(Ok(Some(map))) if !self.live_wants(first).is_empty() => self.mapped(first, map, flight),
            Done::CacheMap(Ok(None)) => self.exhausted(first),
            Done::CacheMap(Ok(Some(_))) => {}
            Done::Query(Ok(found), kept) => {
                self.kept(flight, first, None, kept);
                self.queried(first, found);
            }
            Done::Query(Err(error), _) => {
                self.tell_cache_failed(first, error);
                self.queried(first, None);
            }
            Done::Load(Ok(Some(output)), kept) => {
                self.kept(flight, first, Some(&output), kept);
                let record = self.nodes[first].more().records.last().cloned();
                for &node in flight.attached.iter() {
                    self.nodes[node].more().loaded_from.clone_from(&record);
                    self.settle(node, Ending::Loaded, output.clone());
                }
            }
            Done::Load(Ok(None), _) => self.not_loaded(flight),
            // Executing would meet it too.
            Done::Load(Err(error), _) if O::is_general(&error) => self.fail_all(flight, Failure::Op(error)),
            Done::Load(Err(error), _) => {
                self.tell_cache_failed(first, error);
                self.not_loaded(flight);
            }
            Done::Execute(Ok(output), kept) => {
                self.kept(flight, first, Some(&output), kept);
                for (place, &node) in flight.attached.iter().enumerate() {
                    // What joined did not do it.
                    let how = if place == 0 { Ending::Executed } else { Ending::Loaded };
                    self.settle(node, how, output.clone());
                }
            }
            Done::CacheMap(Err(error)) => self.fail(first, Failure::Op(error)),
            Done::Execute(Err(error), _) => self.fail_all(flight, Failure::Op(error)),
            Done::Panicked(message) => self.fail_all(flight, Failure::Panicked(message)),
            Done::Digest(_) | Done::Content(..) | Done::Written(_) => unreachable!("{stage:?} is done otherwise"),
        }
    }

    fn not_loaded(&mut self, flight: &Flight<O>) {
        let Some(bad) = flight.attached.first().and_then(|node| self.nodes[*node].more().records.last().cloned())
        else {
            return;
        };
        for &node in flight.attached.iter() {
            let more = self.nodes[node].more();
            more.records.retain(|record| *record != bad);
            more.bad.push(bad.clone());
        }
    }

    /// One failure for all who wait for the flight.
    fn fail_all(&mut self, flight: &Flight<O>, failure: Failure<O::Error>) {
        let failure = Arc::new(failure);
        for &node in flight.attached.iter() {
            self.fail_with(node, Arc::clone(&failure));
        }
    }

    pub(super) fn tell_cache_failed(&mut self, id: NodeId, error: O::Error) {
        let error = Arc::new(error);
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            if !self.builds[&build].lets_go() {
                self.tell(build, id, What::CacheFailed(Arc::clone(&error)));
            }
        }
    }

    /// Asks a flight to end if no build wants what it brings.
    pub(super) fn doom_if_unleased(&mut self, id: FlightId) {
        let Some(flight) = self.flights.get(&id) else { return };
        let nodes: Vec<NodeId> = match flight.role {
            Role::Node(_) => flight.attached.iter().copied().collect(),
            Role::Content(content) => {
                self.contents.get(&content).into_iter().flat_map(|content| &content.waiters).map(|w| w.0).collect()
            }
            Role::Write => return,
        };
        let is_leased = nodes.iter().filter_map(|node| self.nodes.get(*node)).any(|node| {
            let mut wanting = node.holds.iter().filter(|hold| !hold.wants.is_empty());
            wanting.any(|hold| self.builds.get(&hold.build).is_some_and(|build| !build.lets_go()))
        });
        if is_leased {
            return;
        }
        let flight = self.flights.get_mut(&id).expect("it was found above");
        flight.is_doomed = true;
        flight.context.brake().request();
        for build in flight.sub_builds.clone() {
            self.drain(build, Drain::Stopped);
        }
    }

    pub(super) fn doom_unleased_contents(&mut self) {
        if self.contents.is_empty() {
            return;
        }
        let contents = self.flights.iter().filter(|(_, flight)| matches!(flight.role, Role::Content(_)));
        let mut contents: Vec<_> = contents.map(|(id, _)| *id).collect();
        contents.sort_unstable();
        for flight in contents {
            self.doom_if_unleased(flight);
        }
    }

    /// The op of `flight` builds something itself: meanwhile it occupies nothing.
    pub(crate) fn submit_sub(&mut self, id: FlightId, dag: Arc<Dag<O>>, targets: &[VertexId]) -> Option<BuildId> {
        let flight = self.flights.get_mut(&id)?;
        self.ready.release(&std::mem::take(&mut flight.demand));
        flight.n_sub_builds += 1;
        let is_doomed = flight.is_doomed;
        let build = self.submit(Owner::Flight(id), dag, targets, true, false);
        let flight = self.flights.get_mut(&id).expect("it was found above");
        flight.sub_builds.push(build);
        if is_doomed {
            self.stop(build, false);
        }
        Some(build)
    }

    /// One of the builds of a flight is finished. After the last one it waits for what it occupied, and is then given
    /// out by `next_resumed`; says whether there are others.
    pub(crate) fn end_sub(&mut self, id: FlightId) -> bool {
        let Some(flight) = self.flights.get_mut(&id) else { return false };
        flight.n_sub_builds -= 1;
        if flight.n_sub_builds > 0 {
            return true;
        }
        let home = flight.context.site().build;
        let demand = self.ready.demand(&flight.context.op().resources(flight.phase));
        let flight = &self.flights[&id];
        let job = flight.attached.first().and_then(|node| self.wanting(*node).first().map(|build| self.job(*build)));
        let job = job.unwrap_or_else(|| self.job(home));
        // What has begun goes before what has not.
        let entry = Entry { priority: u64::MAX, tie: id.0, demand, item: Item::Resume(id) };
        self.ready.push(job, entry);
        false
    }
}
