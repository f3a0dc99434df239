//! Small tools for what there is a lot of: lists of mostly one item, and maps by number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A list that keeps its first item in place.
#[derive(Debug, Clone)]
pub(crate) struct Few<T> {
    first: Option<T>,
    others: Vec<T>,
}

impl<T> Few<T> {
    pub(crate) fn new() -> Self {
        Self { first: None, others: Vec::new() }
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.others.push(item);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        if place == 0 { self.first.as_ref() } else { self.others.get(place - 1) }
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.first.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.others)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.first.iter_mut().chain(&mut self.others)
    }

    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        self.others.retain(&mut is_kept);
        if self.first.as_ref().is_some_and(|first| !is_kept(first)) {
            self.first = if self.others.is_empty() { None } else { Some(self.others.remove(0)) };
        }
    }
}

/// A map by ids that the solver itself counts, so that nobody can choose them to collide.
pub(crate) type ById<I, T> = HashMap<I, T, BuildHasherDefault<IdHasher>>;

/// Spreads a number over all bits.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order_when_items_leave() {
        let mut few = Few::new();
        for item in 0..4 {
            few.push(item);
        }
        few.retain(|item| item % 2 == 1);
        assert_eq!((few.iter().copied().collect::<Vec<_>>(), few.len(), few.get(1)), (vec![1, 3], 2, Some(&3)));
        few.retain(|_| false);
        assert!(few.is_empty() && few.first().is_none());
    }
}
