//! What may start, in order of priority, and the counters of what is free.
//!
//! There is one queue per set of pools, so that work which waits for one pool holds up nothing that needs
//! another; and what does not fit reserves its pools against everything of lower priority, so that the small
//! never starve the big.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};

use crate::dag::VertexId;
use crate::limits::{Limits, Resources};

/// Units taken from each pool, by the pool's index, each pool once. Empty for most.
type Demand = Box<[(usize, u32)]>;

pub(crate) struct ReadyQueue {
    names: HashMap<&'static str, usize>,
    sizes: Vec<u32>,
    free: Vec<u32>,
    queues: Vec<Queue>,
    /// What the started occupy; nothing is kept for those that occupy nothing.
    held: HashMap<VertexId, Demand>,
}

struct Queue {
    /// The pools that each entry takes from, one bit each.
    pools: u64,
    entries: BinaryHeap<Entry>,
}

struct Entry {
    priority: u64,
    vertex: VertexId,
    demand: Demand,
}

impl Entry {
    fn rank(&self) -> (u64, Reverse<VertexId>) {
        (self.priority, Reverse(self.vertex))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Entry {}

impl ReadyQueue {
    pub(crate) fn new(limits: &Limits) -> Self {
        let sizes: Vec<_> = limits.pools().iter().map(|(_, size)| *size).collect();
        Self {
            names: limits.pools().iter().enumerate().map(|(index, (name, _))| (*name, index)).collect(),
            free: sizes.clone(),
            sizes,
            queues: Vec::new(),
            held: HashMap::new(),
        }
    }

    pub(crate) fn push(&mut self, vertex: VertexId, priority: u64, resources: &Resources) {
        let demand = self.demand(resources);
        let pools = demand.iter().fold(0, |pools, (pool, _)| pools | 1 << pool);
        let entry = Entry { priority, vertex, demand };
        match self.queues.iter_mut().find(|queue| queue.pools == pools) {
            Some(queue) => queue.entries.push(entry),
            None => self.queues.push(Queue { pools, entries: BinaryHeap::from([entry]) }),
        }
    }

    /// Takes out the entry of highest priority that may start now, and occupies what it needs.
    pub(crate) fn pop(&mut self) -> Option<VertexId> {
        let mut reserved = 0;
        loop {
            let queue = self
                .queues
                .iter_mut()
                .filter(|queue| queue.pools & reserved == 0 && !queue.entries.is_empty())
                .max_by(|a, b| a.entries.peek().cmp(&b.entries.peek()))?;
            let head = queue.entries.peek()?;
            if head.demand.iter().any(|(pool, amount)| self.free[*pool] < *amount) {
                // All its pools, not just the exhausted one: else, when that one is free, another is not.
                reserved |= queue.pools;
                continue;
            }
            let entry = queue.entries.pop()?;
            for (pool, amount) in &entry.demand {
                self.free[*pool] -= amount;
            }
            if !entry.demand.is_empty() {
                self.held.insert(entry.vertex, entry.demand);
            }
            return Some(entry.vertex);
        }
    }

    /// Gives back what a popped vertex occupies.
    pub(crate) fn release(&mut self, vertex: VertexId) {
        if self.held.is_empty() {
            return;
        }
        for (pool, amount) in self.held.remove(&vertex).unwrap_or_default() {
            self.free[pool] += amount;
        }
    }

    /// Forgets all that waits; what is occupied stays so.
    pub(crate) fn clear(&mut self) {
        self.queues.clear();
    }

    fn demand(&self, resources: &Resources) -> Demand {
        let mut demand: Vec<(usize, u32)> = Vec::new();
        for (name, amount) in resources.takes() {
            let Some(&pool) = self.names.get(name) else { continue };
            let size = self.sizes[pool];
            match demand.iter_mut().find(|(known, _)| *known == pool) {
                Some(take) => take.1 = take.1.saturating_add(*amount).min(size),
                None => demand.push((pool, (*amount).min(size))),
            }
        }
        demand.into_boxed_slice()
    }
}
