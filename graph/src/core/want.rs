//! Demand: who wants what of a node, what the node therefore does next, and what it wants of others.

use super::known::List;
use super::node::{BuildId, ContentState, Drain, Ending, NodeId, Owner, Stage, State, Wants};
use super::{
    Core, Item, Step,
    event::{Note, What},
};
use crate::context::FlightId;
use crate::error::Failure;
use crate::event::Outcome;
use crate::few::Few;
use crate::op::{Op, Phase, Reach};
use crate::ready::{Entry, JobId};

impl<O: Op> Core<O> {
    /// `build` comes to want this of `node`.
    pub(super) fn want(&mut self, build: BuildId, node: NodeId, wants: Wants) {
        let Some(of) = self.builds.get(&build) else { return };
        let is_draining = of.drain.is_some();
        let Some(wanted) = self.nodes.get(node) else { return };
        let (state, place) = (wanted.state, node);
        let Some(hold) = self.nodes[place].hold_mut(build) else { return };
        let newly = wants - hold.wants;
        if newly.is_empty() {
            return;
        }
        let is_newcomer = hold.wants.is_empty();
        let comes_late = is_draining && !matches!(state, State::Settled(_));
        if comes_late && !is_newcomer {
            // What runs in its name is all that it still waits for, by what it wanted before.
            return;
        }
        hold.wants |= wants;
        if comes_late {
            self.tell_unbuilt(build, node);
            return self.unwant(build, node);
        }
        if wants.contains(Wants::COMPLETE) {
            let steps = self.nodes.inputs(node).iter().map(|input| Step::Want(build, *input, Wants::COMPLETE));
            self.agenda.extend(steps);
        }
        match state {
            State::Settled(_) => self.tell_settled(build, node, Ending::Loaded),
            State::Started(flight)
                if (wants.contains(Wants::RESULT) || self.nodes[node].key.is_none())
                    && self.is_within(build, flight) =>
            {
                self.refuse(build);
            }
            State::Started(flight) if is_newcomer => {
                if let Some(phase) = self.flights.get(&flight).map(|flight| flight.phase) {
                    self.tell(build, node, What::Started(phase, flight));
                }
            }
            State::Keying { .. } | State::Waiting => self.demand_for(build, node),
            State::Idle => self.agenda.push_back(Step::Pursue(node)),
            State::Started(_) | State::Queued(_) | State::Parked => {}
        }
    }

    /// Says whether `build` is in the name of `flight`: asked for by its op, or by an op that such a build waits for.
    pub(super) fn is_within(&self, build: BuildId, flight: FlightId) -> bool {
        let (mut seen, mut stack) = (vec![build], vec![build]);
        while let Some(build) = stack.pop() {
            let Some(Owner::Flight(owner)) = self.builds.get(&build).map(|build| build.owner) else { continue };
            if owner == flight {
                return true;
            }
            let nodes = self.flights.get(&owner).into_iter().flat_map(|owner| owner.attached.iter());
            for build in nodes.flat_map(|node| self.wanting(*node)) {
                if !seen.contains(&build) {
                    seen.push(build);
                    stack.push(build);
                }
            }
        }
        false
    }

    /// Stops a build that would wait for itself.
    pub(super) fn refuse(&mut self, build: BuildId) {
        if let Some(of) = self.builds.get_mut(&build) {
            of.is_circular = true;
        }
        self.agenda.push_back(Step::Drain(build, Drain::Stopped));
    }

    /// `build` no longer wants anything of a node that is not settled for it.
    pub(super) fn unwant(&mut self, build: BuildId, node: NodeId) {
        if let Some(hold) = self.nodes[node].hold_mut(build) {
            hold.wants = Wants::NOTHING;
        }
        match self.nodes[node].state {
            State::Queued(stage) => {
                if self.live_wants(node).is_empty() {
                    self.rest(node);
                } else {
                    // It may have been filed under the job that left.
                    self.enqueue(node, stage);
                }
            }
            State::Keying { .. } | State::Waiting | State::Parked if self.live_wants(node).is_empty() => {
                self.rest(node);
            }
            _ => {}
        }
    }

    /// Nobody wants more of this node: what it waited for no longer concerns it.
    fn rest(&mut self, node: NodeId) {
        self.nodes[node].keying = None;
        self.set(node, State::Idle);
    }

    pub(super) fn set(&mut self, node: NodeId, state: State) {
        let node = &mut self.nodes[node];
        node.state = state;
        node.ticket = node.ticket.wrapping_add(1);
    }

    /// Returns what is wanted of a node by builds that may still start something.
    pub(super) fn live_wants(&self, node: NodeId) -> Wants {
        let live = self.nodes[node].holds.iter().filter(|hold| !hold.wants.is_empty());
        let live = live.filter(|hold| self.builds.get(&hold.build).is_some_and(|build| build.drain.is_none()));
        live.fold(Wants::NOTHING, |wants, hold| wants | hold.wants)
    }

    /// Returns the builds that want anything of a node, draining ones included.
    pub(super) fn wanting(&self, node: NodeId) -> Vec<BuildId> {
        let holds = self.nodes[node].holds.iter();
        holds.filter(|hold| !hold.wants.is_empty()).map(|hold| hold.build).collect()
    }

    /// As [`wanting`](Self::wanting), one by one.
    pub(super) fn wanting_at(&self, node: NodeId, place: usize) -> Option<BuildId> {
        self.nodes[node].holds.get(place).filter(|hold| !hold.wants.is_empty()).map(|hold| hold.build)
    }

    /// Looks what an idle node does next.
    pub(super) fn pursue(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        if node.state != State::Idle {
            return;
        }
        let wants = self.live_wants(id);
        let wants_result = wants.contains(Wants::RESULT);
        if wants.is_empty() || (node.key.is_some() && !wants_result) {
            return;
        }
        if wants_result && self.take_landed(id) {
            return;
        }
        let node = &self.nodes[id];
        if wants_result && node.key.is_some() && node.has_record() {
            self.enqueue(id, Stage::Load);
        } else if wants_result && node.asks_again {
            self.enqueue(id, Stage::Query);
        } else if !node.is_exhausted {
            self.enqueue(id, Stage::Map);
        } else {
            self.await_inputs(id);
        }
    }

    /// Takes the result of another node with the same key, if there is one and it will do.
    pub(super) fn take_landed(&mut self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        let (Some(key), false) = (node.key, node.is_fresh) else { return false };
        let landed = self.first(key, List::Landed).and_then(|other| self.nodes[other].made.as_ref());
        let Some(output) = landed.map(|made| &made.result).or_else(|| self.unsaved(key)).cloned() else { return false };
        self.settle(id, Ending::Loaded, output);
        true
    }

    fn await_inputs(&mut self, id: NodeId) {
        self.set(id, State::Waiting);
        if let Some(root) = self.blocked_by(id) {
            return self.skip(id, root);
        }
        if self.is_ready(id) {
            return self.enqueue(id, Stage::Execute);
        }
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.demand_for(build, id);
        }
    }

    /// Returns the failed node without whose result this one cannot execute.
    pub(super) fn blocked_by(&self, id: NodeId) -> Option<NodeId> {
        match self.nodes.op(id).reach() {
            Reach::Closure => self.nodes[id].lost_to,
            Reach::Direct => {
                let inputs = self.nodes.inputs(id).iter().map(|input| &self.nodes[*input]);
                inputs.filter(|input| input.state == State::Settled(Ending::HasNone)).find_map(|input| input.lost_to)
            }
        }
    }

    pub(super) fn is_ready(&self, id: NodeId) -> bool {
        let node = &self.nodes[id];
        match self.nodes.op(id).reach() {
            Reach::Closure => node.n_incomplete == 0,
            Reach::Direct => node.n_missing == 0,
        }
    }

    /// Says to others what `node`, as it stands, needs of them in the name of `build`.
    pub(super) fn demand_for(&mut self, build: BuildId, id: NodeId) {
        let node = &self.nodes[id];
        match node.state {
            State::Waiting => {
                let wants = if self.nodes.op(id).reach() == Reach::Closure { Wants::COMPLETE } else { Wants::RESULT };
                let steps = self.nodes.inputs(id).iter().map(|input| Step::Want(build, *input, wants));
                self.agenda.extend(steps);
            }
            State::Keying { .. } => {
                let Some((_, needed)) = node.keying.as_deref() else { return };
                let inputs = self.nodes.inputs(id);
                for place in 0..needed.len(inputs) {
                    let (input, part) = needed.get(inputs, place);
                    let content = part.and_then(|part| self.content(input, part));
                    let wants = match content.map(|content| &content.state) {
                        Some(ContentState::AwaitsResult | ContentState::Digesting) => Wants::RESULT,
                        _ => Wants::KEY,
                    };
                    self.agenda.push_back(Step::Want(build, input, wants));
                }
            }
            _ => {}
        }
    }

    pub(super) fn enqueue(&mut self, id: NodeId, stage: Stage) {
        self.set(id, State::Queued(stage));
        let node = &self.nodes[id];
        let phase = self.phase(id, stage);
        let demand = self.ready.demand(&self.nodes.op(id).resources(phase));
        let live = node.holds.iter().filter(|hold| !hold.wants.is_empty());
        let live = live.filter(|hold| self.builds.get(&hold.build).is_some_and(|build| build.drain.is_none()));
        let Some(job) = live.map(|hold| self.job(hold.build)).next() else { return self.rest(id) };
        // Where nothing else decides, the vertex that was added first goes first.
        let tie = u64::from(self.nodes.home(id).0) << 32 | u64::try_from(node.vertex.index()).unwrap_or(u64::MAX);
        let (priority, item) = (node.priority, Item::Node(id, node.ticket));
        self.ready.push(job, Entry { priority, tie, demand, item });
    }

    pub(super) fn phase(&self, id: NodeId, stage: Stage) -> Phase {
        match stage {
            Stage::Map => Phase::CacheMap(self.nodes[id].map_index as usize),
            Stage::Query => Phase::Query,
            Stage::Load => Phase::Load,
            Stage::Execute => Phase::Execute,
        }
    }

    /// Returns the job in whose name a build is, the first one if there are several.
    pub(crate) fn job(&self, build: BuildId) -> JobId {
        if let Some(Owner::Job(job)) = self.builds.get(&build).map(|build| build.owner) {
            return job;
        }
        self.jobs(build).first().copied().unwrap_or(JobId(u32::MAX))
    }

    /// Returns the jobs in whose name a build is: one, or all that wait for the op that builds.
    pub(crate) fn jobs(&self, build: BuildId) -> Few<JobId> {
        let mut jobs = Few::new();
        let (mut next, mut stack) = (Some(build), Vec::new());
        while let Some(build) = next {
            match self.builds.get(&build).map(|build| build.owner) {
                Some(Owner::Job(job)) if !jobs.as_slice().contains(&job) => jobs.push(job),
                Some(Owner::Flight(flight)) => {
                    let nodes = self.flights.get(&flight).into_iter().flat_map(|flight| flight.attached.iter());
                    stack.extend(nodes.flat_map(|node| self.wanting(*node)));
                }
                _ => {}
            }
            next = stack.pop();
        }
        jobs
    }

    pub(super) fn tell(&mut self, build: BuildId, node: NodeId, what: What<O>) {
        let vertex = self.vertex_in(build, node);
        self.notes.push_back(Note { build, node, vertex, what });
    }

    /// Says how a settled node ended, to a build that wants to know and was not told.
    pub(super) fn tell_settled(&mut self, build: BuildId, id: NodeId, how: Ending) {
        let node = &self.nodes[id];
        let Some(hold) = node.hold(build).copied() else { return };
        let is_failure = node.lost_to == Some(id) && node.made.is_none();
        if hold.is_told || !(hold.wants.contains(Wants::RESULT) || (is_failure && !hold.wants.is_empty())) {
            return;
        }
        let outcome = match (&node.made, node.lost_to) {
            (Some(made), _) if how == Ending::Executed => Outcome::Executed(made.result.clone()),
            (Some(made), _) => Outcome::Loaded(made.result.clone()),
            (None, Some(root)) if root == id => {
                let failure = node.more.as_ref().and_then(|more| more.failure.clone());
                Outcome::Failed(failure.expect("what is lost to itself has failed"))
            }
            (None, Some(root)) => Outcome::Skipped { because: self.vertex_in(build, root) },
            (None, None) => unreachable!("a node without a result is lost"),
        };
        let is_general = matches!(outcome.failure(), Some(Failure::Op(error)) if O::is_general(error));
        self.told(build, id, outcome);
        if is_failure && (is_general || self.builds[&build].is_fail_fast) {
            self.agenda.push_back(Step::Drain(build, Drain::Failed(id)));
        }
    }

    /// Says that a node will not be built for a build that drains.
    pub(super) fn tell_unbuilt(&mut self, build: BuildId, id: NodeId) {
        let node = &self.nodes[id];
        let Some(hold) = node.hold(build).copied() else { return };
        if hold.is_told || !hold.wants.contains(Wants::RESULT) {
            return;
        }
        let outcome = match (node.lost_to, self.builds[&build].drain) {
            (Some(root), _) | (None, Some(Drain::Failed(root))) => {
                Outcome::Skipped { because: self.vertex_in(build, root) }
            }
            (None, Some(Drain::Stopped)) => Outcome::Stopped,
            (None, Some(Drain::Done) | None) => return,
        };
        self.told(build, id, outcome);
    }

    /// Says how a node ended for a build.
    pub(super) fn told(&mut self, build: BuildId, node: NodeId, outcome: Outcome<O>) {
        self.tell(build, node, What::Settled(outcome));
        let Some(hold) = self.nodes[node].hold_mut(build) else { return };
        hold.is_told = true;
        if hold.is_target {
            self.close_target(build);
        }
    }

    /// One of the targets of a build is settled.
    pub(super) fn close_target(&mut self, build: BuildId) {
        let of = self.builds.get_mut(&build).expect("it is there until it is released");
        of.n_targets_open -= 1;
        if of.n_targets_open == 0 && of.drain.is_none() {
            self.agenda.push_back(Step::Drain(build, Drain::Done));
        }
    }
}
