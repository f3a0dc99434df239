//! A record of what happened in which some things take the place of earlier ones.

use std::collections::HashMap;
use std::hash::Hash;

/// What happened, in order, read from any point on. An item filed under a slot takes the earlier one of that slot out,
/// so that a counter that was told a thousand times is there once, at the place of its last telling.
///
/// ```
/// use larder_graph::History;
///
/// let mut history = History::new();
/// history.push(None, "starts");
/// history.push(Some("bytes"), "1 of 9");
/// history.push(Some("bytes"), "9 of 9");
/// assert_eq!(history.iter().copied().collect::<Vec<_>>(), ["starts", "9 of 9"]);
/// // A reader goes on where it was, whatever went meanwhile.
/// let (_, next) = history.next(0).expect("there are two");
/// history.take_out(&"bytes");
/// assert_eq!(history.next(next), None);
/// ```
#[derive(Debug)]
pub struct History<K, T> {
    /// By number, rising. Without an item: it was taken out.
    entries: Vec<(u64, Option<T>)>,
    /// By slot: the number of the item that is filed there.
    slots: HashMap<K, u64>,
    n_pushed: u64,
    n_taken_out: usize,
}

impl<K, T> Default for History<K, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), slots: HashMap::new(), n_pushed: 0, n_taken_out: 0 }
    }
}

impl<K: Eq + Hash, T> History<K, T> {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an item; what was filed under the same slot goes.
    pub fn push(&mut self, slot: Option<K>, item: T) {
        let number = self.n_pushed;
        self.n_pushed += 1;
        if let Some(earlier) = slot.and_then(|slot| self.slots.insert(slot, number)) {
            self.clear(earlier);
        }
        self.entries.push((number, Some(item)));
    }

    /// Takes out what is filed under a slot.
    pub fn take_out(&mut self, slot: &K) {
        if let Some(earlier) = self.slots.remove(slot) {
            self.clear(earlier);
        }
    }

    /// Returns what is there, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.entries.iter().filter_map(|(_, item)| item.as_ref())
    }

    /// Returns the first item from `number` on, with the number to go on from. Numbers start with zero.
    pub fn next(&self, number: u64) -> Option<(&T, u64)> {
        let start = self.entries.partition_point(|(of, _)| *of < number);
        self.entries[start..].iter().find_map(|(of, item)| Some((item.as_ref()?, of + 1)))
    }

    fn clear(&mut self, number: u64) {
        let Ok(place) = self.entries.binary_search_by_key(&number, |(of, _)| *of) else { return };
        self.n_taken_out += usize::from(self.entries[place].1.take().is_some());
        if self.n_taken_out > self.entries.len() / 2 {
            self.entries.retain(|(_, item)| item.is_some());
            self.n_taken_out = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_over_and_over_takes_no_room() {
        let mut history = History::new();
        history.push(None, 0);
        for item in 1..=10_000 {
            history.push(Some(item % 3), item);
        }
        assert_eq!(history.iter().copied().collect::<Vec<_>>(), [0, 9_998, 9_999, 10_000]);
        assert!(history.entries.capacity() < 32, "{}", history.entries.capacity());
        history.take_out(&0);
        assert_eq!(history.iter().copied().collect::<Vec<_>>(), [0, 9_998, 10_000]);
    }

    #[test]
    fn a_reader_goes_on_where_it_was_though_items_went() {
        let mut history = History::new();
        history.push(Some("a"), 1);
        history.push(None, 2);
        let (first, next) = history.next(0).unwrap();
        assert_eq!((*first, next), (1, 1));
        history.push(Some("a"), 3);
        let (item, next) = history.next(next).unwrap();
        assert_eq!(*item, 2);
        let (item, next) = history.next(next).unwrap();
        assert_eq!(*item, 3);
        assert_eq!(history.next(next), None);
    }
}
