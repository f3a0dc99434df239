//! What may start, in order of priority, and the counters of what is free.
//!
//! There is one queue per job and set of pools, so that work which waits for one pool holds up nothing that needs
//! another; and what does not fit reserves its pools against everything that comes after it, so that the small
//! never starve the big. Among jobs the one that has been served least comes first, within a job the longest path.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};

use crate::limits::{Limits, Resources};

/// Units taken from each pool, by the pool's index, each pool once.
///
/// Boxed, it is half as large where nothing is taken.
pub(crate) type Demand = Option<Box<Vec<(usize, u32)>>>;

/// Who is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct JobId(pub(crate) u32);

pub(crate) struct ReadyQueue<T> {
    names: HashMap<&'static str, usize>,
    sizes: Vec<u32>,
    free: Vec<u32>,
    queues: Vec<Queue<T>>,
    /// The work of each job that was started. A job that comes later starts level with the least served one.
    served: BTreeMap<JobId, u64>,
}

struct Queue<T> {
    job: JobId,
    /// The pools that each entry takes from, one bit each.
    pools: u64,
    entries: Ranked<T>,
}

/// Entries by rank. What comes in order stays in order, and only the rest is sorted: of a whole graph that is wanted at
/// once nearly all comes in order.
struct Ranked<T> {
    in_order: VecDeque<Entry<T>>,
    others: BinaryHeap<Entry<T>>,
}

impl<T> Ranked<T> {
    fn new() -> Self {
        Self { in_order: VecDeque::new(), others: BinaryHeap::new() }
    }

    fn push(&mut self, entry: Entry<T>) {
        if self.in_order.back().is_none_or(|last| entry < *last) {
            self.in_order.push_back(entry);
        } else {
            self.others.push(entry);
        }
    }

    fn peek(&self) -> Option<&Entry<T>> {
        self.in_order.front().max(self.others.peek())
    }

    fn pop(&mut self) -> Option<Entry<T>> {
        if self.in_order.front() > self.others.peek() { self.in_order.pop_front() } else { self.others.pop() }
    }

    fn is_empty(&self) -> bool {
        self.in_order.is_empty() && self.others.is_empty()
    }
}

pub(crate) struct Entry<T> {
    pub(crate) priority: u64,
    /// Of entries of equal priority that with the lower one goes first; no two are equal.
    pub(crate) tie: u64,
    pub(crate) demand: Demand,
    pub(crate) item: T,
}

impl<T> Entry<T> {
    fn rank(&self) -> (u64, Reverse<u64>) {
        (self.priority, Reverse(self.tie))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> ReadyQueue<T> {
    pub(crate) fn new(limits: &Limits) -> Self {
        let sizes: Vec<_> = limits.pools().iter().map(|(_, size)| *size).collect();
        Self {
            names: limits.pools().iter().enumerate().map(|(index, (name, _))| (*name, index)).collect(),
            free: sizes.clone(),
            sizes,
            queues: Vec::new(),
            served: BTreeMap::new(),
        }
    }

    pub(crate) fn push(&mut self, job: JobId, entry: Entry<T>) {
        let pools = entry.demand.iter().flat_map(|demand| &**demand).fold(0, |pools, (pool, _)| pools | 1 << pool);
        let known = self.queues.iter().position(|queue| queue.pools == pools && queue.job == job);
        let place = known.unwrap_or_else(|| {
            self.queues.push(Queue { job, pools, entries: Ranked::new() });
            self.queues.len() - 1
        });
        self.queues[place].entries.push(entry);
    }

    /// Takes out the first entry that may start now, and occupies what it needs. Those that are no longer `wanted` are
    /// thrown away.
    ///
    /// `cost` is what an entry adds to the work of its job.
    pub(crate) fn pop(&mut self, wanted: impl Fn(&T) -> bool, cost: impl Fn(&T) -> u64) -> Option<Entry<T>> {
        let mut reserved = 0;
        loop {
            for queue in &mut self.queues {
                while queue.entries.peek().is_some_and(|head| !wanted(&head.item)) {
                    queue.entries.pop();
                }
            }
            self.queues.retain(|queue| !queue.entries.is_empty());
            let served = &self.served;
            let rank = |queue: &Queue<T>| {
                (Reverse(served.get(&queue.job).copied().unwrap_or(0)), queue.entries.peek().map(Entry::rank))
            };
            let queues = self.queues.iter_mut().filter(|queue| queue.pools & reserved == 0);
            let queue = queues.max_by(|a, b| rank(a).cmp(&rank(b)))?;
            let head = queue.entries.peek()?;
            if head.demand.iter().flat_map(|demand| &**demand).any(|(pool, amount)| self.free[*pool] < *amount) {
                // All its pools, not just the exhausted one: else, when that one is free, another is not.
                reserved |= queue.pools;
                continue;
            }
            let entry = queue.entries.pop()?;
            for (pool, amount) in entry.demand.iter().flat_map(|demand| &**demand) {
                self.free[*pool] -= amount;
            }
            *self.served.entry(queue.job).or_insert(0) += cost(&entry.item);
            return Some(entry);
        }
    }

    /// Throws away all entries.
    pub(crate) fn clear(&mut self) {
        self.queues = Vec::new();
    }

    /// Gives back what a popped entry occupies.
    pub(crate) fn release(&mut self, demand: &Demand) {
        for (pool, amount) in demand.iter().flat_map(|demand| &**demand) {
            self.free[*pool] += amount;
        }
    }

    pub(crate) fn add_job(&mut self, job: JobId) {
        let least = self.served.values().min().copied().unwrap_or(0);
        self.served.insert(job, least);
    }

    pub(crate) fn remove_job(&mut self, job: JobId) {
        self.served.remove(&job);
    }

    pub(crate) fn demand(&self, resources: &Resources) -> Demand {
        let mut demand: Vec<(usize, u32)> = Vec::new();
        for (name, amount) in resources.takes() {
            let Some(&pool) = self.names.get(name) else { continue };
            let size = self.sizes[pool];
            match demand.iter_mut().find(|(known, _)| *known == pool) {
                Some(take) => take.1 = take.1.saturating_add(*amount).min(size),
                None => demand.push((pool, (*amount).min(size))),
            }
        }
        (!demand.is_empty()).then(|| Box::new(demand))
    }
}
