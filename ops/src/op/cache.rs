//! The store, and the library that is there already, as the solver's cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, OpError, PackageOp, Workshop};
use crate::key::PackageKey;
use crate::library;
use crate::package::PackageName;

/// Finds what the store or the library has. An op publishes its tree itself, so there is nothing to save.
#[derive(Debug)]
pub struct StoreCache {
    workshop: Arc<Workshop>,
    /// What is to be built although the store has it.
    rebuilt: BTreeSet<PackageName>,
}

impl StoreCache {
    /// Looks where the workshop looks, but not for what is to be `rebuilt`.
    pub fn new(workshop: Arc<Workshop>, rebuilt: BTreeSet<PackageName>) -> Self {
        Self { workshop, rebuilt }
    }
}

/// Takes a tree from the library if that has the very one, else from the store.
pub(super) fn find(workshop: &Workshop, key: &PackageKey) -> Option<Done> {
    let (package, reference) = (key.package(), key.reference());
    let Workshop { store, library: (library, record), .. } = workshop;
    let is_kept = record.get(package) == Some(reference) && library::has_package(library, package);
    let stored = store.lookup(package, reference);
    if stored.is_some() {
        store.touch(package, reference);
    }
    let how = if is_kept { How::Kept } else { How::Loaded };
    let tree = stored.or_else(|| is_kept.then(|| library.join(package)))?;
    Some(Done { tree: Some(tree), how, build: None })
}

type Key = Arc<PackageKey>;

impl CacheManager<PackageOp> for StoreCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        if self.rebuilt.contains(key.package()) || find(&self.workshop, key).is_none() {
            return Ok(None);
        }
        let id = key.reference().to_string();
        let record = Record { key: Arc::clone(key), id, created_at: 0, priority: 0, source: None };
        Ok(Some(Found { key: Arc::clone(key), records: vec![record] }))
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        Ok(find(&self.workshop, &record.key).map(Arc::new))
    }

    async fn save(&self, _: Save<'_, PackageOp>) -> Result<(), OpError> {
        Ok(())
    }

    async fn link(&self, _: &Key, _: &Key) -> Result<(), OpError> {
        Ok(())
    }

    async fn digest(&self, _: &Key, _: u32, _: Option<&str>) -> Result<Option<Key>, OpError> {
        Ok(None)
    }

    async fn remember(&self, _: &Key, _: u32, _: Option<&str>, _: &Key) -> Result<(), OpError> {
        Ok(())
    }

    async fn release(&self, _: &Record<Key>) -> Result<(), OpError> {
        Ok(())
    }
}
