//! Numbers by hash. A slot has a number and half of its hash side by side: to look into a table that is larger than the
//! CPU's caches is one wait, and to enlarge it nothing else is looked at.

use std::num::NonZeroU32;

/// A table of numbers that are kept elsewhere with what was hashed.
pub(crate) struct Table {
    /// Half of the hash, then the number; zero where there is none. What collides lies in the next free slot.
    slots: Vec<u64>,
    n_used: usize,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), n_used: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.n_used
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.n_used == 0
    }

    /// Makes room for `n` more. At most two of three slots are used.
    pub(crate) fn reserve(&mut self, n: usize) {
        let n = self.n_used + n;
        let needed = n + n / 2 + 1;
        if needed <= self.slots.len() {
            return;
        }
        let slots = std::mem::take(&mut self.slots);
        self.slots = vec![0; needed.max(2 * slots.len())];
        for slot in slots.into_iter().filter(|slot| *slot != 0) {
            let (Ok(place) | Err(place)) = self.place(slot, |_| false);
            self.slots[place] = slot;
        }
    }

    /// Returns the number that is there, if there is one; else it is `new` from now on.
    pub(crate) fn find_or_insert(
        &mut self,
        hash: u64,
        is_it: impl Fn(NonZeroU32) -> bool,
        new: NonZeroU32,
    ) -> Option<NonZeroU32> {
        self.reserve(1);
        match self.place(hash, is_it) {
            Ok(place) => number(self.slots[place]),
            Err(place) => {
                self.slots[place] = hash >> 32 << 32 | u64::from(new.get());
                self.n_used += 1;
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, hash: u64, number: NonZeroU32) {
        let Ok(mut hole) = self.place(hash, |known| known == number) else { return };
        self.n_used -= 1;
        let mut place = self.after(hole);
        while self.slots[place] != 0 {
            // What lies behind the hole moves into it, unless its own place comes later.
            let own = self.home(self.slots[place]);
            if self.distance(own, place) >= self.distance(hole, place) {
                self.slots[hole] = self.slots[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.slots[hole] = 0;
    }

    /// Returns where a number is, or else where it is to be put. There is a free slot as soon as there is any.
    fn place(&self, hash: u64, is_it: impl Fn(NonZeroU32) -> bool) -> Result<usize, usize> {
        if self.slots.is_empty() {
            return Err(0);
        }
        let mut place = self.home(hash);
        while self.slots[place] != 0 {
            let slot = self.slots[place];
            if slot >> 32 == hash >> 32 && number(slot).is_some_and(&is_it) {
                return Ok(place);
            }
            place = self.after(place);
        }
        Err(place)
    }

    /// Returns the place of a hash, or of a slot with half of it, if nothing else is there.
    fn home(&self, hash: u64) -> usize {
        ((hash >> 32) as usize * self.slots.len()) >> 32
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.slots.len() { 0 } else { place + 1 }
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.slots.len() - from }
    }
}

fn number(slot: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(slot & u64::from(u32::MAX)).expect("it is the lower half"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_is_a_map(steps in prop::collection::vec((0_u64..40, prop::bool::ANY), 0..400)) {
            // Few hashes, near to each other and to the end, so that much collides and goes around.
            let hash = |key: u64| u64::MAX - ((key / 3) << 56);
            let (mut table, mut map) = (Table::new(), BTreeMap::new());
            for (place, (key, is_added)) in steps.into_iter().enumerate() {
                let number = NonZeroU32::new(u32::try_from(place).unwrap() + 1).unwrap();
                if is_added {
                    let known = map.get(&key).copied();
                    prop_assert_eq!(table.find_or_insert(hash(key), |number| Some(number) == known, number), known);
                    map.entry(key).or_insert(number);
                } else if let Some(known) = map.remove(&key) {
                    table.remove(hash(key), known);
                }
                prop_assert_eq!((table.len(), table.is_empty()), (map.len(), map.is_empty()));
            }
        }
    }
}
