//! Very many short lists in a few blocks of memory: what is near in the graph is near in memory, and a list costs no
//! allocation of its own.

use std::collections::HashMap;
use std::num::NonZeroU32;

/// Lists whose items are side by side.
pub(crate) struct Slices<T> {
    items: Vec<T>,
    /// By length: where there is room for one of that length.
    free: HashMap<u32, Vec<u32>>,
    n_used: usize,
}

/// One list of [`Slices`].
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Slice {
    start: u32,
    len: u32,
}

impl<T: Copy> Slices<T> {
    pub(crate) fn new() -> Self {
        Self { items: Vec::new(), free: HashMap::new(), n_used: 0 }
    }

    pub(crate) fn insert(&mut self, items: &[T]) -> Slice {
        if items.is_empty() {
            return Slice::default();
        }
        let len = narrow(items.len());
        self.n_used += items.len();
        if let Some(start) = self.free.get_mut(&len).and_then(Vec::pop) {
            let slice = Slice { start, len };
            self.items[slice.range()].copy_from_slice(items);
            return slice;
        }
        let start = narrow(self.items.len());
        self.items.extend_from_slice(items);
        Slice { start, len }
    }

    pub(crate) fn remove(&mut self, slice: Slice) {
        if slice.len == 0 {
            return;
        }
        self.n_used -= slice.len as usize;
        if self.n_used == 0 {
            return *self = Self::new();
        }
        self.free.entry(slice.len).or_default().push(slice.start);
    }

    pub(crate) fn get(&self, slice: Slice) -> &[T] {
        &self.items[slice.range()]
    }
}

impl Slice {
    pub(crate) fn at(start: u32, len: u32) -> Self {
        Self { start, len }
    }

    /// Returns start and length.
    pub(crate) fn parts(self) -> (u32, u32) {
        (self.start, self.len)
    }

    fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// Lists that grow at their end and are walked from their beginning.
pub(crate) struct Chains<T> {
    /// With the place of the item that comes next; that of the first one, for the last.
    links: Vec<(T, u32)>,
    free: Vec<u32>,
}

/// One list of [`Chains`]: the place of its last item, counted from one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chain(Option<NonZeroU32>);

impl Chain {
    fn last(self) -> Option<u32> {
        self.0.map(|last| last.get() - 1)
    }
}

/// How far a walk along a chain has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    next: Option<u32>,
    last: u32,
}

impl<T: Copy> Chains<T> {
    pub(crate) fn new() -> Self {
        Self { links: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn reserve(&mut self, n_items: usize) {
        self.links.reserve(n_items.saturating_sub(self.free.len()));
    }

    pub(crate) fn push(&mut self, chain: &mut Chain, item: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.links.push((item, 0));
            narrow(self.links.len() - 1)
        });
        let first = match chain.last() {
            Some(last) => std::mem::replace(&mut self.links[last as usize].1, place),
            None => place,
        };
        self.links[place as usize] = (item, first);
        chain.0 = NonZeroU32::new(place + 1);
    }

    pub(crate) fn pop_first(&mut self, chain: &mut Chain) -> Option<T> {
        let last = chain.last()?;
        let first = self.links[last as usize].1;
        let (item, second) = self.links[first as usize];
        self.links[last as usize].1 = second;
        if first == last {
            chain.0 = None;
        }
        self.free.push(first);
        if self.free.len() == self.links.len() {
            *self = Self::new();
        }
        Some(item)
    }

    /// Starts at a chain's beginning. What is pushed to the chain meanwhile is not visited.
    pub(crate) fn walk(&self, chain: Chain) -> Walk {
        let next = chain.last().map(|last| self.links[last as usize].1);
        Walk { next, last: chain.last().unwrap_or_default() }
    }

    pub(crate) fn next(&self, walk: &mut Walk) -> Option<T> {
        let place = walk.next?;
        let (item, next) = self.links[place as usize];
        walk.next = (place != walk.last).then_some(next);
        Some(item)
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("edges are counted in 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_takes_the_room_of_one_as_long() {
        let mut slices = Slices::new();
        let [a, b] = [[1, 2], [3, 4]].map(|items| slices.insert(&items));
        slices.remove(a);
        let (c, d) = (slices.insert(&[5]), slices.insert(&[6, 7]));
        assert_eq!([b, c, d].map(|slice| slices.get(slice)), [&[3, 4][..], &[5], &[6, 7]]);
        assert_eq!(slices.items.len(), 5);
    }

    #[test]
    fn a_chain_keeps_its_order() {
        let mut chains = Chains::new();
        let (mut a, mut b) = (Chain::default(), Chain::default());
        for item in 0..3 {
            chains.push(&mut a, item);
            chains.push(&mut b, 10 + item);
        }
        assert_eq!(chains.pop_first(&mut a), Some(0));
        chains.push(&mut b, 13);
        let mut walk = chains.walk(b);
        let walked: Vec<_> = std::iter::from_fn(|| chains.next(&mut walk)).collect();
        assert_eq!(walked, [10, 11, 12, 13]);
        while chains.pop_first(&mut b).is_some() {}
        assert_eq!((chains.pop_first(&mut a), chains.pop_first(&mut a)), (Some(1), Some(2)));
        assert_eq!((chains.pop_first(&mut a), chains.links.len()), (None, 0));
    }
}
