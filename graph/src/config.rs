//! What a solver is given once: limits and caches.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Cache, CacheManager};
use crate::limits::Limits;
use crate::op::Op;

/// What a solver works with. By default there is no limit and no cache.
///
/// ```
/// # mod words { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shared/say.rs")); }
/// # use words::*;
/// use std::time::Duration;
///
/// use larder_graph::{Config, JobOptions, Limits, MemoryCache, Solver};
///
/// let office = MemoryCache::<Say>::new();
/// let config = Config::new()
///     .limits(Limits::new().pool("cpu", 4))
///     .cache(MemoryCache::new())
///     // Asked for vertices that name it, and not waited for too long.
///     .source("office", office)
///     .patience(Duration::from_secs(5));
/// # block_on(async {
/// Solver::new(config).job("ci", JobOptions::default())?;
/// # Ok::<_, larder_graph::OpenError>(())
/// # }).unwrap();
/// ```
pub struct Config<O: Op> {
    pub(crate) limits: Limits,
    main: Option<Cache<O>>,
    sources: Vec<(Arc<str>, Cache<O>)>,
    pub(crate) patience: Option<Duration>,
}

impl<O: Op> Config<O> {
    /// Starts with the defaults.
    pub fn new() -> Self {
        Self { limits: Limits::new(), main: None, sources: Vec::new(), patience: None }
    }

    /// Sets how much of each scarce thing all jobs may take together.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Keeps results in `manager`, and looks there for them.
    #[must_use]
    pub fn cache(mut self, manager: impl CacheManager<O>) -> Self {
        self.main = Some(Cache::new(manager));
        self
    }

    /// Has a further cache, asked for those vertices that name it ([`VertexOptions`](crate::VertexOptions)). One that
    /// all should ask goes into [`cache`](Self::cache) as a [`Combined`](crate::Combined).
    #[must_use]
    pub fn source(mut self, name: impl Into<Arc<str>>, manager: impl CacheManager<O>) -> Self {
        self.sources.push((name.into(), Cache::new(manager)));
        self
    }

    /// Waits no longer than this for a cache that a vertex names; see [`Combined::patience`](crate::Combined::patience).
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    pub(crate) fn main_cache(&self) -> Option<&Cache<O>> {
        self.main.as_ref()
    }

    pub(crate) fn cache_source(&self, name: &str) -> Option<&Cache<O>> {
        self.sources.iter().find(|(known, _)| &**known == name).map(|(_, cache)| cache)
    }
}

impl<O: Op> Default for Config<O> {
    fn default() -> Self {
        Self::new()
    }
}

impl<O: Op> From<Limits> for Config<O> {
    fn from(limits: Limits) -> Self {
        Self { limits, ..Self::new() }
    }
}
