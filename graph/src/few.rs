//! Small tools for what there is a lot of: lists of mostly one item, and maps by number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A list that keeps a single item in place.
#[derive(Debug, Clone)]
pub(crate) enum Few<T> {
    None,
    One(T),
    #[expect(clippy::box_collection, reason = "half as large where there is one item, which is nearly everywhere")]
    Many(Box<Vec<T>>),
}

impl<T> Few<T> {
    pub(crate) fn new() -> Self {
        Self::None
    }

    pub(crate) fn push(&mut self, item: T) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(item),
            Self::One(first) => Self::Many(Box::new(vec![first, item])),
            Self::Many(mut items) => {
                items.push(item);
                Self::Many(items)
            }
        }
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.as_slice().get(place)
    }

    pub(crate) fn first(&self) -> Option<&T> {
        self.as_slice().first()
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, T> {
        self.as_slice().iter()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, T> {
        match self {
            Self::None => [].iter_mut(),
            Self::One(item) => std::slice::from_mut(item).iter_mut(),
            Self::Many(items) => items.iter_mut(),
        }
    }

    pub(crate) fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        match self {
            Self::One(item) if !is_kept(item) => *self = Self::None,
            Self::Many(items) => items.retain(is_kept),
            _ => {}
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
