//! What is known under each key: every key is kept once, and whoever has it holds its number.

use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::ops::Index;

use super::Core;
use super::node::NodeId;
use super::table::Table;
use crate::op::Op;

/// A key that some node or flight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyId(NonZeroU32);

impl KeyId {
    fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("keys are counted in 32 bits"))
    }

    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Keys by number and by value.
pub(crate) struct Keys<K> {
    ids: Table,
    known: Vec<Option<Known<K>>>,
    free: Vec<KeyId>,
    hasher: RandomState,
}

struct Known<K> {
    key: K,
    n_users: NonZeroU32,
    /// The first of the nodes in each [`List`].
    listed: [Option<NodeId>; 2],
}

/// Nodes with the same key, chained by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum List {
    /// No cache has their result. As soon as one of them has it the caches' answer is out of date for all others.
    Awaiting,
    /// They have the result. The first one is taken.
    Landed,
}

/// A node's place in a list, in as few bytes as there are.
#[derive(Debug, Clone, Copy)]
#[repr(Rust, packed)]
pub(crate) struct Listed {
    list: List,
    before: Option<NodeId>,
    after: Option<NodeId>,
}

impl<K: Eq + Hash> Keys<K> {
    pub(crate) fn new() -> Self {
        Self { ids: Table::new(), known: Vec::new(), free: Vec::new(), hasher: RandomState::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn reserve(&mut self, n: usize) {
        self.ids.reserve(n);
        self.known.reserve(n.saturating_sub(self.free.len()));
    }

    /// Returns the number of a key, to be [released](Self::release) by who no longer has it.
    pub(crate) fn take(&mut self, key: K) -> KeyId {
        let Self { ids, known, free, hasher } = self;
        let hash = hasher.hash_one(&key);
        let is_it = |id| known[KeyId(id).index()].as_ref().is_some_and(|known| known.key == key);
        let id = free.last().copied().unwrap_or_else(|| KeyId::new(known.len()));
        if let Some(id) = ids.find_or_insert(hash, is_it, id.0).map(KeyId) {
            self.share(id);
            return id;
        }
        free.pop();
        let new = Some(Known { key, n_users: NonZeroU32::MIN, listed: [None, None] });
        match known.get_mut(id.index()) {
            Some(place) => *place = new,
            None => known.push(new),
        }
        id
    }

    /// One more has the key.
    pub(crate) fn share(&mut self, id: KeyId) {
        let known = self.known_mut(id);
        known.n_users = known.n_users.saturating_add(1);
    }

    pub(crate) fn release(&mut self, id: KeyId) {
        let known = self.known_mut(id);
        if let Some(n_users) = NonZeroU32::new(known.n_users.get() - 1) {
            known.n_users = n_users;
            return;
        }
        self.ids.remove(self.hasher.hash_one(&self[id]), id.0);
        self.known[id.index()] = None;
        self.free.push(id);
        if self.ids.is_empty() {
            *self = Self::new();
        }
    }

    fn first(&self, id: KeyId, list: List) -> Option<NodeId> {
        self.known[id.index()].as_ref().and_then(|known| known.listed[list as usize])
    }

    fn known_mut(&mut self, id: KeyId) -> &mut Known<K> {
        self.known[id.index()].as_mut().expect("a key is there as long as somebody has it")
    }
}

impl<K> Index<KeyId> for Keys<K> {
    type Output = K;

    fn index(&self, id: KeyId) -> &K {
        &self.known[id.index()].as_ref().expect("a key is there as long as somebody has it").key
    }
}

impl<O: Op> Core<O> {
    /// Returns the key of a node, if it has its final one.
    pub(crate) fn key(&self, id: NodeId) -> Option<&O::Key> {
        Some(&self.keys[self.nodes.get(id)?.key?])
    }

    /// Returns the node that is first in a list of `key`.
    pub(super) fn first(&self, key: KeyId, list: List) -> Option<NodeId> {
        self.keys.first(key, list)
    }

    /// Puts a node with a final key into a list, and takes it out of the other one.
    pub(super) fn list(&mut self, id: NodeId, list: List, goes_first: bool) {
        if self.nodes[id].listed.is_some_and(|listed| listed.list == list) {
            return;
        }
        self.unlist_key(id);
        let key = self.nodes[id].key.expect("what is listed by key has one");
        let first = &mut self.keys.known_mut(key).listed[list as usize];
        let (before, after) = match *first {
            Some(known) if !goes_first => (Some(known), self.nodes[known].listed.and_then(|listed| listed.after)),
            known => {
                *first = Some(id);
                (None, known)
            }
        };
        self.nodes[id].listed = Some(Listed { list, before, after });
        if let Some(listed) = before.and_then(|before| self.nodes[before].listed.as_mut()) {
            listed.after = Some(id);
        }
        if let Some(listed) = after.and_then(|after| self.nodes[after].listed.as_mut()) {
            listed.before = Some(id);
        }
    }

    /// Takes a node out of the list it is in.
    pub(super) fn unlist_key(&mut self, id: NodeId) {
        let Some(Listed { list, before, after }) = self.nodes[id].listed.take() else { return };
        match before {
            Some(before) => {
                if let Some(listed) = &mut self.nodes[before].listed {
                    listed.after = after;
                }
            }
            None => {
                if let Some(key) = self.nodes[id].key {
                    self.keys.known_mut(key).listed[list as usize] = after;
                }
            }
        }
        if let Some(listed) = after.and_then(|after| self.nodes[after].listed.as_mut()) {
            listed.before = before;
        }
    }
}
