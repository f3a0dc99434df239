//! The solver that the runs of a [`Larder`](super::Larder) share: what two of them need at the same time is made once.
//!
//! It is there as long as a run is, and belongs to the runtime that it was started on.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use larder_graph::{Config, Limits, Solver};
use larder_ops::op::{PackageOp, StoreCache, TieredCache, Workshop};
use larder_ops::tiers::Tiers;
use tokio::runtime;

/// A solver and what it works with.
pub(super) struct Engine {
    pub(super) solver: Solver<PackageOp>,
    pub(super) workshop: Arc<Workshop>,
}

/// By runtime, the engine of the runs that are under way on it.
#[derive(Default)]
pub(super) struct Engines {
    running: Mutex<HashMap<runtime::Id, Weak<Engine>>>,
    n_runs: AtomicU64,
}

impl Engines {
    /// Returns the engine of the runs that are under way, or starts one.
    pub(super) fn get(
        &self,
        workshop: impl FnOnce() -> Workshop,
        tiers: Option<&Arc<Tiers>>,
        limits: Limits,
    ) -> Arc<Engine> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, engine| engine.strong_count() > 0);
        let here = runtime::Handle::current().id();
        if let Some(engine) = running.get(&here).and_then(Weak::upgrade) {
            return engine;
        }
        let workshop = Arc::new(workshop());
        let (config, store) = (Config::from(limits), Arc::clone(&workshop.store));
        let solver = Solver::new(match tiers {
            None => config.cache(StoreCache::new(store, workshop.depth)),
            Some(tiers) => config.cache(TieredCache::new(store, workshop.depth, Arc::clone(tiers))),
        });
        let engine = Arc::new(Engine { solver, workshop });
        running.insert(here, Arc::downgrade(&engine));
        engine
    }

    /// Returns a number that no other run has.
    pub(super) fn number(&self) -> u64 {
        self.n_runs.fetch_add(1, Ordering::Relaxed)
    }
}

impl Engine {
    /// Waits until what the run held is given up. After the last one to leave nothing is left, on the disk either.
    pub(super) async fn leave(self: Arc<Self>) {
        self.solver.census().await;
        if let Some(engine) = Arc::into_inner(self) {
            engine.solver.close().await;
            engine.workshop.builder.rest().await;
            engine.workshop.store.end_staging();
        }
    }
}

impl fmt::Debug for Engines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engines").finish_non_exhaustive()
    }
}
