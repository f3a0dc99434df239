//! The state machine: which phase of which vertex may start, and what follows when one ends.
//!
//! Pure and synchronous: no clock, no I/O, no task. It never looks into a result, it only knows who has one.
//! Same graph, limits and endings of phases, in the same order, give the same starts in the same order.
//!
//! A vertex goes through its cache maps one by one. Each gives a key, at once or when the inputs that the map names
//! have their final keys; the caches are asked for that key; a hit settles the vertex. When the maps are exhausted the
//! last key is final, and the vertex executes as soon as all its inputs are *complete*: as soon as they, and all that
//! they need in turn, have results. So loads wait for nothing, and an executing vertex finds its whole closure.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::dag::{Dag, VertexId};
use crate::error::Failure;
use crate::event::Outcome;
use crate::late::LateEdges;
use crate::limits::Limits;
use crate::op::{CacheMap, Op, Phase};
use crate::ready::ReadyQueue;

/// What a failure means for the vertices that do not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing more starts. What runs ends by itself and is kept.
    Stop,
    /// They go on.
    KeepGoing,
}

/// A phase to start, with what it needs.
#[derive(Debug)]
pub(crate) enum Work<K> {
    CacheMap { index: usize },
    Load { key: K },
    Execute { key: K, late_inputs: Box<[VertexId]> },
}

/// How a phase ended.
pub(crate) enum Done<O: Op> {
    CacheMap(Result<Option<CacheMap<O::Key>>, O::Error>),
    Load(Result<Option<O::Output>, O::Error>),
    Execute(Result<O::Output, O::Error>),
}

/// Where a vertex is. Exactly one of these at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This phase may start as soon as its turn comes and its resources are free.
    Queued(Phase),
    Started(Phase),
    /// Its cache map is there; so many of the inputs that the map names have no final key yet.
    Keying {
        n_unkeyed: usize,
    },
    /// No cache has its result; not all its inputs are complete.
    Waiting,
    Settled(Ending),
}

/// What a settled vertex means to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    HasResult,
    HasNone,
}

#[derive(Debug, Clone)]
enum Key<K> {
    None,
    /// The latest cache map's; another may follow.
    Tentative(K),
    /// What dependants may build their keys from. Never changes again.
    Final(K),
}

struct Vertex<K> {
    state: State,
    key: Key<K>,
    /// The cache map it is at.
    map_index: usize,
    /// Inputs that are not complete, late ones included. Zero and a result: the vertex is complete.
    n_incomplete: u32,
    /// The failed vertex because of which this one never gets complete; itself, if it failed itself.
    lost_to: Option<VertexId>,
    /// The work, from this vertex's own to the end of the longest chain of dependants.
    priority: u64,
}

/// Why nothing starts any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    Failed(VertexId),
    Stopped,
}

pub(crate) struct Sched<O: Op> {
    dag: Arc<Dag<O>>,
    on_failure: OnFailure,
    vertices: Vec<Vertex<O::Key>>,
    ready: ReadyQueue,
    late: LateEdges,
    /// The maps of vertices that are `Keying`.
    maps: HashMap<VertexId, CacheMap<O::Key>>,
    /// By a vertex without a final key: who is `Keying` because of it, once for each time its map names it.
    key_waiters: HashMap<VertexId, Vec<VertexId>>,
    drain: Option<Drain>,
    /// What was settled and not yet taken.
    settled: VecDeque<(VertexId, Outcome<O>)>,
    n_unsettled: usize,
}

impl<O: Op> Sched<O> {
    pub(crate) fn new(dag: Arc<Dag<O>>, limits: &Limits, on_failure: OnFailure) -> Self {
        let mut vertices: Vec<Vertex<O::Key>> = Vec::with_capacity(dag.len());
        vertices.extend(dag.vertices().map(|vertex| Vertex {
            state: State::Waiting,
            key: Key::None,
            map_index: 0,
            n_incomplete: u32::try_from(dag.inputs(vertex).count()).expect("edges are counted in 32 bits"),
            lost_to: None,
            priority: 0,
        }));
        for &vertex in dag.dependants_first() {
            let after = dag.dependants(vertex).map(|(dependant, _)| vertices[dependant.index()].priority).max();
            vertices[vertex.index()].priority = dag.op(vertex).weight().saturating_add(after.unwrap_or(0));
        }
        let mut sched = Self {
            on_failure,
            ready: ReadyQueue::new(limits),
            late: LateEdges::default(),
            maps: HashMap::new(),
            key_waiters: HashMap::new(),
            drain: None,
            settled: VecDeque::new(),
            n_unsettled: vertices.len(),
            vertices,
            dag,
        };
        for vertex in sched.dag.vertices() {
            sched.enqueue(vertex, Phase::CacheMap(0));
        }
        sched
    }

    /// Says whether every vertex is settled.
    pub(crate) fn is_finished(&self) -> bool {
        self.n_unsettled == 0
    }

    pub(crate) fn n_unsettled(&self) -> usize {
        self.n_unsettled
    }

    pub(crate) fn is_settled(&self, v: VertexId) -> bool {
        matches!(self.vertices[v.index()].state, State::Settled(_))
    }

    /// Says whether [`stop`](Self::stop) was called.
    pub(crate) fn is_stopping(&self) -> bool {
        self.drain == Some(Drain::Stopped)
    }

    /// Returns the next phase to start; `None`: nothing may start right now.
    pub(crate) fn start_next(&mut self) -> Option<(VertexId, Work<O::Key>)> {
        let v = self.ready.pop()?;
        let vertex = &mut self.vertices[v.index()];
        let State::Queued(phase) = vertex.state else { unreachable!("{v:?} is ready while {:?}", vertex.state) };
        vertex.state = State::Started(phase);
        let work = match (phase, &vertex.key) {
            (Phase::CacheMap(index), _) => Work::CacheMap { index },
            (Phase::Load, Key::Tentative(key)) => Work::Load { key: key.clone() },
            (Phase::Execute, Key::Final(key)) => {
                Work::Execute { key: key.clone(), late_inputs: self.late.inputs(v).into() }
            }
            (phase, key) => unreachable!("{v:?} starts {phase:?} with {key:?}"),
        };
        Some((v, work))
    }

    /// Moves a vertex on whose phase has ended, and all others that this concerns.
    pub(crate) fn advance(&mut self, v: VertexId, done: Done<O>) {
        self.ready.release(v);
        match done {
            Done::CacheMap(Ok(Some(map))) => self.mapped(v, map),
            Done::CacheMap(Ok(None)) => self.exhausted(v),
            Done::Load(Ok(Some(output))) => {
                self.finish_key(v);
                self.settle(v, Outcome::Loaded(output));
            }
            Done::Load(Ok(None) | Err(_)) => self.next_map(v),
            Done::Execute(Ok(output)) => self.settle(v, Outcome::Executed(output)),
            Done::CacheMap(Err(_)) | Done::Execute(Err(_)) if self.is_stopping() => self.settle(v, Outcome::Stopped),
            Done::CacheMap(Err(error)) | Done::Execute(Err(error)) => self.fail(v, Failure::Op(error)),
        }
    }

    /// Starts nothing more; what has not started is settled.
    pub(crate) fn stop(&mut self) {
        self.drain(Drain::Stopped);
    }

    /// Takes out what was settled since the last call, in the order in which it was.
    pub(crate) fn next_settled(&mut self) -> Option<(VertexId, Outcome<O>)> {
        self.settled.pop_front()
    }

    /// Returns the key that dependants see, if `v` has come that far.
    pub(crate) fn final_key(&self, v: VertexId) -> Option<&O::Key> {
        match &self.vertices[v.index()].key {
            Key::Final(key) => Some(key),
            Key::None | Key::Tentative(_) => None,
        }
    }

    /// Returns the inputs of `v` that are no edges of the graph.
    pub(crate) fn late_inputs(&self, v: VertexId) -> &[VertexId] {
        self.late.inputs(v)
    }

    fn enqueue(&mut self, v: VertexId, phase: Phase) {
        if self.drain.is_some() {
            return self.settle_unbuilt(v);
        }
        let vertex = &mut self.vertices[v.index()];
        vertex.state = State::Queued(phase);
        self.ready.push(v, vertex.priority, &self.dag.op(v).resources(phase));
    }

    fn mapped(&mut self, v: VertexId, map: CacheMap<O::Key>) {
        if self.drain.is_some() {
            return self.settle_unbuilt(v);
        }
        if let Err(failure) = self.add_late_inputs(v, map.inputs()) {
            return self.fail(v, failure);
        }
        let mut n_unkeyed = 0;
        for &input in map.inputs() {
            if self.final_key(input).is_some() {
                continue;
            }
            if self.is_settled(input) {
                return self.skip_unkeyable(v, input);
            }
            n_unkeyed += 1;
            self.key_waiters.entry(input).or_default().push(v);
        }
        if n_unkeyed == 0 {
            self.keyed(v, map);
        } else {
            self.vertices[v.index()].state = State::Keying { n_unkeyed };
            self.maps.insert(v, map);
        }
    }

    fn add_late_inputs(&mut self, v: VertexId, named: &[VertexId]) -> Result<(), Failure<O::Error>> {
        if let Some(input) = named.iter().find(|input| !self.dag.contains(**input)) {
            return Err(Failure::UnknownInput(*input));
        }
        for input in self.late.unknown(&self.dag, v, named) {
            self.late.add(&self.dag, v, input).map_err(Failure::LateCycle)?;
            if !self.is_complete(input) {
                self.vertices[v.index()].n_incomplete += 1;
            }
            if let Some(root) = self.vertices[input.index()].lost_to {
                self.lose(v, root);
            }
        }
        Ok(())
    }

    /// All the keys that `map` needs are final.
    fn keyed(&mut self, v: VertexId, map: CacheMap<O::Key>) {
        let keys: Vec<_> = map.inputs().iter().filter_map(|input| self.final_key(*input).cloned()).collect();
        let key = map.key(&keys);
        let vertex = &mut self.vertices[v.index()];
        // The caches were just asked for this very key.
        if matches!(&vertex.key, Key::Tentative(previous) if *previous == key) {
            return self.next_map(v);
        }
        vertex.key = Key::Tentative(key);
        self.enqueue(v, Phase::Load);
    }

    fn next_map(&mut self, v: VertexId) {
        let vertex = &mut self.vertices[v.index()];
        vertex.map_index += 1;
        let phase = Phase::CacheMap(vertex.map_index);
        self.enqueue(v, phase);
    }

    /// There are no more cache maps: the last key stands, and the result must be made.
    fn exhausted(&mut self, v: VertexId) {
        if matches!(self.vertices[v.index()].key, Key::None) {
            return self.fail(v, Failure::NoCacheMap);
        }
        self.finish_key(v);
        if self.vertices[v.index()].lost_to.is_some() {
            self.settle_unbuilt(v);
        } else if self.vertices[v.index()].n_incomplete == 0 {
            self.enqueue(v, Phase::Execute);
        } else if self.drain.is_some() {
            self.settle_unbuilt(v);
        } else {
            self.vertices[v.index()].state = State::Waiting;
        }
    }

    /// The key that `v` has now is the one that dependants see.
    fn finish_key(&mut self, v: VertexId) {
        let vertex = &mut self.vertices[v.index()];
        vertex.key = match std::mem::replace(&mut vertex.key, Key::None) {
            Key::Tentative(key) => Key::Final(key),
            key => unreachable!("{v:?} cannot finish {key:?}"),
        };
        for waiter in self.key_waiters.remove(&v).unwrap_or_default() {
            let State::Keying { n_unkeyed } = &mut self.vertices[waiter.index()].state else { continue };
            *n_unkeyed -= 1;
            if *n_unkeyed == 0 {
                let map = self.maps.remove(&waiter).expect("a map is kept while its vertex is keying");
                self.keyed(waiter, map);
            }
        }
    }

    fn fail(&mut self, v: VertexId, failure: Failure<O::Error>) {
        self.settle(v, Outcome::Failed(failure));
        self.lose(v, v);
        if self.on_failure == OnFailure::Stop && self.drain.is_none() {
            self.drain(Drain::Failed(v));
        }
    }

    /// `v` cannot have a key because `input` will never have one.
    fn skip_unkeyable(&mut self, v: VertexId, input: VertexId) {
        let because = self.vertices[input.index()].lost_to.expect("before a drain only a failure ends without a key");
        self.settle(v, Outcome::Skipped { because });
        self.lose(v, because);
    }

    /// `v` has no way left to a result.
    fn settle_unbuilt(&mut self, v: VertexId) {
        let outcome = match (self.vertices[v.index()].lost_to, self.drain) {
            (Some(because), _) | (None, Some(Drain::Failed(because))) => Outcome::Skipped { because },
            (None, Some(Drain::Stopped)) => Outcome::Stopped,
            (None, None) => unreachable!("nothing stands in the way of {v:?}"),
        };
        self.settle(v, outcome);
    }

    fn drain(&mut self, drain: Drain) {
        self.drain = Some(drain);
        self.ready.clear();
        self.maps.clear();
        self.key_waiters.clear();
        for v in self.dag.vertices() {
            match self.vertices[v.index()].state {
                State::Queued(_) | State::Keying { .. } | State::Waiting => self.settle_unbuilt(v),
                State::Started(_) | State::Settled(_) => {}
            }
        }
    }

    /// Gives `v` its end; one with a result may thereby be complete, and others in turn.
    fn settle(&mut self, v: VertexId, outcome: Outcome<O>) {
        let ending = if outcome.output().is_some() { Ending::HasResult } else { Ending::HasNone };
        self.vertices[v.index()].state = State::Settled(ending);
        self.n_unsettled -= 1;
        self.settled.push_back((v, outcome));
        let mut complete = Vec::new();
        if self.is_complete(v) {
            complete.push(v);
        }
        while let Some(input) = complete.pop() {
            for v in self.dependants(input) {
                self.vertices[v.index()].n_incomplete -= 1;
                if self.is_complete(v) {
                    complete.push(v);
                } else if self.vertices[v.index()].n_incomplete == 0 && self.vertices[v.index()].state == State::Waiting
                {
                    self.enqueue(v, Phase::Execute);
                }
            }
        }
    }

    fn is_complete(&self, v: VertexId) -> bool {
        let vertex = &self.vertices[v.index()];
        vertex.n_incomplete == 0 && vertex.state == State::Settled(Ending::HasResult)
    }

    /// Follows the failure of `root` from `v` on: all that needs `v` is never complete, so what would have to execute
    /// is skipped, and so is what needs a key that never comes. What a cache may still have goes on.
    fn lose(&mut self, v: VertexId, root: VertexId) {
        if self.vertices[v.index()].lost_to.is_none() {
            self.vertices[v.index()].lost_to = Some(root);
        }
        let mut reached = VecDeque::from([v]);
        while let Some(input) = reached.pop_front() {
            if self.is_settled(input) && self.final_key(input).is_none() {
                for waiter in self.key_waiters.remove(&input).unwrap_or_default() {
                    if matches!(self.vertices[waiter.index()].state, State::Keying { .. }) {
                        self.maps.remove(&waiter);
                        self.vertices[waiter.index()].lost_to = Some(root);
                        self.settle_unbuilt(waiter);
                        reached.push_back(waiter);
                    }
                }
            }
            for v in self.dependants(input) {
                let vertex = &mut self.vertices[v.index()];
                if vertex.lost_to.is_none() {
                    vertex.lost_to = Some(root);
                    if vertex.state == State::Waiting {
                        self.settle_unbuilt(v);
                    }
                    reached.push_back(v);
                }
            }
        }
    }

    fn dependants(&self, v: VertexId) -> Vec<VertexId> {
        self.dag.dependants(v).map(|(dependant, _)| dependant).chain(self.late.dependants(v).iter().copied()).collect()
    }
}
