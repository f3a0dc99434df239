//! Endings: a node gets its result or will never have one, and a build comes to its end.

use std::collections::VecDeque;
use std::sync::Arc;

use super::known::List;
use super::node::{BuildId, Drain, Ending, NodeId, Stage, State, Wants};
use super::{
    Core, Step,
    event::{Note, What},
};
use crate::context::Made;
use crate::dag::VertexId;
use crate::error::Failure;
use crate::event::Outcome;
use crate::op::{Op, Reach};

impl<O: Op> Core<O> {
    /// Gives `id` its result.
    pub(super) fn settle(&mut self, id: NodeId, how: Ending, output: O::Output) {
        self.set(id, State::Settled(how));
        let node = &mut self.nodes[id];
        node.made = Some(Made::new(output));
        if let Some(more) = &mut node.more {
            more.records = Vec::new();
        }
        if node.key.is_some() {
            // What was made anew is taken rather than what it was to replace.
            let goes_first = node.is_fresh;
            self.list(id, List::Landed, goes_first);
        }
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.tell_settled(build, id, how);
        }
        self.give_to_those_awaiting(id);
        self.result_for_contents(id);
        let mut dependants = self.nodes.dependants(id);
        while let Some(dependant) = self.nodes.next_dependant(&mut dependants) {
            self.nodes[dependant].n_missing -= 1;
            self.start_if_ready(dependant, Reach::Direct);
        }
        if self.nodes[id].n_incomplete == 0 {
            self.agenda.push_back(Step::Complete(id));
        }
    }

    /// Lets all others who wait to make the same look again.
    fn give_to_those_awaiting(&mut self, id: NodeId) {
        let Some(key) = self.nodes[id].key else { return };
        while let Some(other) = self.first(key, List::Awaiting) {
            self.unlist_key(other);
            // This result may be gone before the other is wanted, but not from the cache.
            self.nodes[other].asks_again = self.cache(other).is_some();
            if matches!(self.nodes[other].state, State::Waiting | State::Queued(_)) {
                self.set(other, State::Idle);
                self.agenda.push_back(Step::Pursue(other));
            }
        }
    }

    /// `id` and all below it have results.
    pub(super) fn completed(&mut self, id: NodeId) {
        if let Some(made) = &self.nodes[id].made {
            made.complete(self.below(id));
        }
        let mut dependants = self.nodes.dependants(id);
        while let Some(dependant) = self.nodes.next_dependant(&mut dependants) {
            self.nodes[dependant].n_incomplete -= 1;
            if self.nodes[dependant].n_incomplete > 0 {
                continue;
            }
            if self.nodes[dependant].made.is_some() {
                self.agenda.push_back(Step::Complete(dependant));
            }
            self.start_if_ready(dependant, Reach::Closure);
        }
    }

    fn start_if_ready(&mut self, id: NodeId, reach: Reach) {
        if self.nodes[id].state == State::Waiting && self.nodes.op(id).reach() == reach && self.is_ready(id) {
            self.enqueue(id, Stage::Execute);
        }
    }

    /// `id` failed by itself.
    pub(super) fn fail(&mut self, id: NodeId, failure: Failure<O::Error>) {
        self.fail_with(id, Arc::new(failure));
    }

    pub(super) fn fail_with(&mut self, id: NodeId, failure: Arc<Failure<O::Error>>) {
        self.nodes[id].more().failure = Some(failure);
        self.nodes[id].lost_to = Some(id);
        self.end_without_result(id);
        self.lose(id, id);
    }

    /// `id` cannot have a result because `root` has none.
    pub(super) fn skip(&mut self, id: NodeId, root: NodeId) {
        self.nodes[id].lost_to = Some(root);
        self.end_without_result(id);
        self.lose(id, root);
    }

    fn end_without_result(&mut self, id: NodeId) {
        // A newcomer tries again.
        self.unlist(id);
        self.nodes[id].keying = None;
        self.set(id, State::Settled(Ending::HasNone));
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            self.tell_settled(build, id, Ending::HasNone);
        }
    }

    /// Follows the failure of `root` from `id` on: all that needs `id` is never complete, so what would have to
    /// execute is skipped, and so is what needs a key or a content that never comes. What a cache may have goes on.
    pub(super) fn lose(&mut self, id: NodeId, root: NodeId) {
        let mut reached = VecDeque::from([id]);
        while let Some(input) = reached.pop_front() {
            // What is reached later may be lost to another failure, which came first.
            let root = self.nodes[input].lost_to.unwrap_or(root);
            if self.nodes[input].state == State::Settled(Ending::HasNone) {
                for waiter in self.bereaved(input) {
                    self.nodes[waiter].lost_to = Some(root);
                    self.end_without_result(waiter);
                    reached.push_back(waiter);
                }
            }
            let mut dependants = self.nodes.dependants(input);
            while let Some(dependant) = self.nodes.next_dependant(&mut dependants) {
                let is_first = self.nodes[dependant].lost_to.is_none();
                if is_first {
                    self.nodes[dependant].lost_to = Some(root);
                }
                let is_waiting = self.nodes[dependant].state == State::Waiting;
                let is_blocked = is_waiting && self.blocked_by(dependant).is_some();
                if is_blocked {
                    self.end_without_result(dependant);
                }
                if is_first || is_blocked {
                    reached.push_back(dependant);
                }
            }
        }
    }

    /// Starts nothing more for `id`; what has not started is not built.
    pub(super) fn drain(&mut self, id: BuildId, why: Drain) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        match (build.drain, why) {
            (None, _) | (Some(Drain::Failed(_)), Drain::Stopped) => {}
            _ => return,
        }
        let is_first = build.drain.is_none();
        build.drain = Some(why);
        let mut n_running = 0;
        for place in 0..self.builds[&id].held.len() {
            let node = self.builds[&id].held[place];
            let wants = self.nodes[node].hold(id).map_or(Wants::NOTHING, |hold| hold.wants);
            if wants.is_empty() {
                continue;
            }
            match self.nodes[node].state {
                State::Settled(_) => {}
                State::Started(flight) => {
                    n_running += 1;
                    self.doom_if_unleased(flight);
                    if why != Drain::Stopped && why != Drain::Done || self.flights[&flight].is_doomed {
                        continue;
                    }
                    // Others go on with it.
                    n_running -= 1;
                    self.tell_unbuilt(id, node);
                    self.unwant(id, node);
                }
                _ if is_first => {
                    self.tell_unbuilt(id, node);
                    self.unwant(id, node);
                }
                _ => {}
            }
        }
        self.doom_unleased_contents();
        let build = self.builds.get_mut(&id).expect("it was found above");
        build.n_running = n_running;
        if n_running == 0 {
            self.agenda.push_back(Step::Finish(id));
        }
    }

    /// Asks a build to end, kindly or at once.
    pub(crate) fn stop(&mut self, id: BuildId, is_forced: bool) {
        self.drain(id, Drain::Stopped);
        if is_forced && let Some(build) = self.builds.get(&id) {
            for node in &build.held {
                if let State::Started(flight) = self.nodes[*node].state
                    && let Some(flight) = self.flights.get(&flight).filter(|flight| flight.is_doomed)
                {
                    flight.context.brake().force();
                }
            }
        }
        self.work_off();
    }

    /// The flight that worked for a node has ended: builds that drain have waited for just that.
    pub(super) fn let_go(&mut self, id: NodeId) {
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            let Some(of) = self.builds.get_mut(&build).filter(|build| build.drain.is_some()) else { continue };
            if of.n_running > 0 {
                of.n_running -= 1;
                if of.n_running == 0 {
                    self.agenda.push_back(Step::Finish(build));
                }
            }
            if !self.nodes[id].is_settled() {
                self.tell_unbuilt(build, id);
                self.unwant(build, id);
            }
        }
    }

    /// Says how a flight ended that nobody wanted any more, to those who had wanted it.
    pub(super) fn tell_leavers(&mut self, id: NodeId, outcome: impl Fn() -> Outcome<O>) {
        for place in 0..self.nodes[id].holds.len() {
            let Some(build) = self.wanting_at(id, place) else { continue };
            let hold = self.nodes[id].hold(build).expect("it wants the node");
            let is_to_be_told = hold.wants.contains(Wants::RESULT) && !hold.is_told;
            if is_to_be_told && self.builds.get(&build).is_some_and(|build| build.drain.is_some()) {
                self.told(build, id, outcome());
            }
        }
    }

    pub(super) fn finish(&mut self, id: BuildId) {
        let Some(build) = self.builds.get_mut(&id) else { return };
        if build.is_finished || build.n_running > 0 {
            return;
        }
        build.is_finished = true;
        let (node, vertex) = (NodeId::NONE, VertexId::NONE);
        self.notes.push_back(Note { build: id, node, vertex, what: What::Finished });
        if self.builds[&id].is_released {
            self.release(id);
        }
    }

    /// Returns the way from a node without a result to the failed one, each an input of the one before.
    pub(crate) fn chain(&self, from: NodeId) -> Vec<NodeId> {
        let Some(root) = self.nodes[from].lost_to else { return vec![from] };
        let mut chain = vec![from];
        let mut node = from;
        while node != root {
            let inputs = self.nodes.inputs(node).iter().copied();
            let next = inputs.clone().find(|input| *input == root);
            let next = next.or_else(|| inputs.clone().find(|input| self.nodes[*input].lost_to == Some(root)));
            let Some(next) = next else { break };
            chain.push(next);
            node = next;
        }
        chain
    }
}
