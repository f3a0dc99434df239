//! Keeping the store small, once or in the background.

use std::time::{Duration, SystemTime};

use larder_ops::store::{EvictError, Evicted, Policy, Summary, Sweeper, evict};

use super::Larder;

impl Larder {
    /// Removes from the store, for all platforms, what `policy` says, and tells of each thing to `on_evicted`. What runs
    /// under way or living libraries use stays. Blocks; runs may go on meanwhile.
    pub fn evict(&self, policy: &Policy, on_evicted: impl FnMut(&Evicted)) -> Result<Summary, EvictError> {
        evict(&self.config.store, policy, SystemTime::now(), on_evicted)
    }

    /// Removes what was not used for `retention`, now and then again and again, until the returned value is dropped.
    /// See [`Sweeper::start`].
    pub fn sweeper(
        &self,
        retention: Duration,
        on_swept: impl Fn(Result<Summary, EvictError>) + Send + Sync + 'static,
    ) -> Sweeper {
        Sweeper::start(self.config.store.clone(), retention, on_swept)
    }
}
