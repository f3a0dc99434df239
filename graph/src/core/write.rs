//! What caches keep: a flight that no vertex waits for, so that a cache which is slow, or hangs, holds up nothing.
//!
//! A result that is being kept is at hand all the while, also when all who had it are gone: nothing is made twice because
//! its cache is slow. Only the end of a solver or a run waits for caches.

use std::sync::Arc;

use super::event::{Note, What};
use super::known::KeyId;
use super::node::{BuildId, Flight, NodeId, Role};
use super::{Core, Done, Kept, Work};
use crate::context::FlightId;
use crate::dag::VertexId;
use crate::op::Op;

/// Something that a cache is about to keep.
pub(super) struct Write<O: Op> {
    /// The result, if it is one.
    pub(super) result: Option<(KeyId, O::Output)>,
    /// Who hears of it if it fails.
    audience: Vec<(BuildId, VertexId)>,
}

impl<O: Op> Core<O> {
    /// Takes in what a cache made of something that `flight` brought for `id`, its `result` or what leads to one.
    pub(super) fn kept(&mut self, flight: &Flight<O>, id: NodeId, result: Option<&O::Output>, kept: Kept<O>) {
        let writing = match kept {
            Kept::Yes => return,
            Kept::No(error) => return self.tell_cache_failed(id, error),
            Kept::Underway(writing) => writing,
        };
        let place = (Arc::clone(flight.context.site()), flight.context.vertex());
        let start = self.take_off(Role::Write, flight.phase, place, None, None, Work::Write(writing));
        let key = self.nodes[id].key;
        let result = key.zip(result.cloned());
        if let Some((key, _)) = &result {
            self.keys.share(*key);
            self.unsaved.insert(*key, start.flight);
        }
        let builds = self.wanting(id).into_iter();
        let audience = builds.map(|build| (build, self.vertex_in(build, id))).collect();
        self.writes.insert(start.flight, Write { result, audience });
        self.to_write.push_back(start);
    }

    /// A cache has kept something, or has failed to.
    pub(super) fn written(&mut self, id: FlightId, done: Done<O>) {
        let Some(Write { result, audience }) = self.writes.remove(&id) else { return };
        if let Some((key, _)) = result {
            if self.unsaved.get(&key) == Some(&id) {
                self.unsaved.remove(&key);
            }
            self.keys.release(key);
        }
        let Done::Written(Err(error)) = done else { return };
        let error = Arc::new(error);
        for (build, vertex) in audience {
            if self.builds.contains_key(&build) {
                let what = What::NotKept(Arc::clone(&error));
                self.notes.push_back(Note { build, node: NodeId::NONE, vertex, what });
            }
        }
    }

    /// Returns the result of a key that is on its way into a cache.
    pub(super) fn unsaved(&self, key: KeyId) -> Option<&O::Output> {
        let (_, output) = self.writes.get(self.unsaved.get(&key)?)?.result.as_ref()?;
        Some(output)
    }
}
