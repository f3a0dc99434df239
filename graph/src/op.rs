//! What a vertex does: the trait [`Op`], and what the solver hands to it.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::dag::{Dag, VertexId};
use crate::event::Table;
use crate::limits::Resources;
use crate::stop::Stop;

/// One vertex's work, in three phases: name the result, look for it in a cache, make it.
///
/// Each phase is a future. It is first polled on the solver's own loop, so that what needs no waiting costs no task;
/// a body that blocks belongs into `spawn_blocking`. No phase is ever dropped half-way: to end early is the op's own
/// decision, on [`Context::stop`].
pub trait Op: Sized + Send + Sync + 'static {
    /// Names a result: equal keys mean results of which either will do.
    type Key: Clone + Eq + Hash + fmt::Debug + Send + Sync + 'static;
    /// A handle to a result; cheap to clone.
    type Output: Clone + Send + Sync + 'static;
    /// Why a phase failed.
    type Error: Send + Sync + 'static;
    /// What an op tells of its work while it is at it.
    type Progress: Send + 'static;

    /// Returns the expected cost of [`execute`](Op::execute) in milliseconds. What the most work waits for starts first.
    fn weight(&self) -> u64 {
        1
    }

    /// Returns what `phase` occupies while it runs.
    fn resources(&self, _phase: Phase) -> Resources {
        Resources::none()
    }

    /// Returns the `index`-th way to name this vertex's result, cheapest first, or `None`: there are no more.
    ///
    /// Asked lazily: 0 first, the next only after no cache had the key of the previous. There must be at least one.
    /// It waits for no input, so it is also the place where a source is fetched ahead of its turn. An error fails the
    /// vertex.
    fn cache_map(
        &self,
        index: usize,
        cx: &Context<Self>,
    ) -> impl Future<Output = Result<Option<CacheMap<Self::Key>>, Self::Error>> + Send;

    /// Takes the result from a cache; `None` if none has it. An error counts as a miss and is reported as
    /// [`Event::LoadFailed`](crate::Event::LoadFailed).
    fn load(
        &self,
        key: &Self::Key,
        cx: &Context<Self>,
    ) -> impl Future<Output = Result<Option<Self::Output>, Self::Error>> + Send;

    /// Makes the result. `key` is the last cache map's; all transitive inputs have their results.
    fn execute(
        &self,
        key: &Self::Key,
        inputs: Inputs<Self>,
        cx: &Context<Self>,
    ) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

/// The part of its work that an op is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// [`Op::cache_map`] with this index.
    CacheMap(usize),
    /// [`Op::load`].
    Load,
    /// [`Op::execute`].
    Execute,
}

/// One way to compute a vertex's key: from the keys of some inputs.
pub struct CacheMap<K> {
    inputs: Vec<VertexId>,
    recipe: Recipe<K>,
}

type Compute<K> = Box<dyn FnOnce(&[K]) -> K + Send>;

enum Recipe<K> {
    Known(K),
    Computed(Compute<K>),
}

impl<K> CacheMap<K> {
    /// Computes the key from the keys of `inputs`, given in the same order. An input that is no edge of the graph
    /// becomes one, as if it had been there from the start, unless that closes a cycle.
    pub fn new(inputs: impl Into<Vec<VertexId>>, key: impl FnOnce(&[K]) -> K + Send + 'static) -> Self {
        Self { inputs: inputs.into(), recipe: Recipe::Computed(Box::new(key)) }
    }

    /// The key is known without any other.
    pub fn leaf(key: K) -> Self {
        Self { inputs: Vec::new(), recipe: Recipe::Known(key) }
    }

    /// Returns the vertices whose keys are needed.
    pub fn inputs(&self) -> &[VertexId] {
        &self.inputs
    }

    /// Returns the key, given the keys of [`inputs`](Self::inputs) in that order.
    pub fn key(self, keys: &[K]) -> K {
        match self.recipe {
            Recipe::Known(key) => key,
            Recipe::Computed(compute) => compute(keys),
        }
    }
}

impl<K: fmt::Debug> fmt::Debug for CacheMap<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheMap").field("inputs", &self.inputs).finish_non_exhaustive()
    }
}

/// What one run shares with its tasks.
pub(crate) struct Shared<O: Op> {
    pub(crate) dag: Arc<Dag<O>>,
    pub(crate) table: Table<O>,
    pub(crate) stop: Stop,
    pub(crate) progress: mpsc::Sender<(VertexId, O::Progress)>,
}

/// What an op may know of the run it is part of; cheap to clone into a blocking task.
pub struct Context<O: Op> {
    vertex: VertexId,
    shared: Arc<Shared<O>>,
}

impl<O: Op> Context<O> {
    pub(crate) fn new(vertex: VertexId, shared: Arc<Shared<O>>) -> Self {
        Self { vertex, shared }
    }

    /// Returns the vertex this op stands at.
    pub fn vertex(&self) -> VertexId {
        self.vertex
    }

    /// Tells of the work, for display. Never waits: when 1,024 reports are unread, this one is dropped.
    pub fn report(&self, progress: O::Progress) {
        let _ = self.shared.progress.try_send((self.vertex, progress));
    }

    /// Returns the request to end, if it comes.
    pub fn stop(&self) -> &Stop {
        &self.shared.stop
    }

    pub(crate) fn op(&self) -> &O {
        self.shared.dag.op(self.vertex)
    }

    pub(crate) fn inputs(&self, late: Box<[VertexId]>) -> Inputs<O> {
        Inputs { vertex: self.vertex, late, shared: Arc::clone(&self.shared) }
    }
}

impl<O: Op> Clone for Context<O> {
    fn clone(&self) -> Self {
        Self::new(self.vertex, Arc::clone(&self.shared))
    }
}

/// The results of what an executing vertex needs; a cheap handle that copies nothing until asked.
pub struct Inputs<O: Op> {
    vertex: VertexId,
    late: Box<[VertexId]>,
    shared: Arc<Shared<O>>,
}

impl<O: Op> Inputs<O> {
    /// Returns the results of the vertex's own inputs: its edges in order, then what its cache maps named besides.
    pub fn direct(&self) -> impl Iterator<Item = (VertexId, O::Output)> + '_ {
        self.named_by(self.vertex, &self.late).map(|vertex| (vertex, self.output(vertex)))
    }

    /// Returns the results of all transitive inputs, each once, the nearest first.
    pub fn closure(&self) -> Vec<(VertexId, O::Output)> {
        let mut seen = HashSet::new();
        let mut order: Vec<_> = self.named_by(self.vertex, &self.late).filter(|vertex| seen.insert(*vertex)).collect();
        let mut next = 0;
        while let Some(&vertex) = order.get(next) {
            let late = self.shared.table.late_inputs(vertex);
            order.extend(self.named_by(vertex, late).filter(|input| seen.insert(*input)));
            next += 1;
        }
        order.into_iter().map(|vertex| (vertex, self.output(vertex))).collect()
    }

    fn named_by<'a>(&'a self, vertex: VertexId, late: &'a [VertexId]) -> impl Iterator<Item = VertexId> + 'a {
        self.shared.dag.inputs(vertex).map(|(input, _)| input).chain(late.iter().copied())
    }

    fn output(&self, vertex: VertexId) -> O::Output {
        let settled = self.shared.table.settled(vertex);
        settled.and_then(|settled| settled.outcome.output()).expect("a vertex executes after its inputs").clone()
    }
}
