//! The store, and the library that is there already, as the solver's cache.

use std::path::Path;
use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp, Workshop, blocking};
use crate::key::{PackageKey, Reference};
use crate::library::has_package;
use crate::store::Store;

/// Finds what the store has, and what a library keeps. An op publishes its tree itself, so there is nothing to save.
#[derive(Debug)]
pub struct StoreCache {
    workshop: Arc<Workshop>,
}

impl StoreCache {
    /// Looks into the workshop's store.
    pub fn new(workshop: Arc<Workshop>) -> Self {
        Self { workshop }
    }

    fn record(key: &Key, id: Reference) -> Found<Key> {
        let record = Record { key: key.clone(), id: id.to_string(), created_at: 0, priority: 0, source: None };
        Found { key: key.clone(), records: vec![record] }
    }
}

/// Takes a tree from the store, if it is there.
pub(super) fn stored(store: &Store, key: &PackageKey) -> Option<Done> {
    let (package, reference) = (key.package(), key.reference());
    let tree = store.lookup(package, reference)?;
    store.touch(package, reference);
    Some(Done { package: package.clone(), tree: Some(tree), how: How::Loaded, build: None })
}

/// Takes what a library keeps: from the store, so that what is built against it reads what nobody changes, and only if
/// that lacks it from the library itself.
fn kept(store: &Store, key: &PackageKey, library: &Path) -> Option<Done> {
    let package = key.package();
    let tree = stored(store, key).and_then(|done| done.tree);
    let tree = tree.or_else(|| has_package(library, package).then(|| library.join(package)))?;
    Some(Done { package: package.clone(), tree: Some(tree), how: How::Kept, build: None })
}

impl CacheManager<PackageOp> for StoreCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        let store = &self.workshop.store;
        Ok(match key {
            Key::Build(wanted) | Key::Extra { wanted, .. } => {
                let reference = wanted.reference();
                store.lookup(wanted.package(), reference).map(|_| Self::record(key, reference))
            }
            Key::Kept { wanted, .. } | Key::InReference { wanted, .. } => Some(Self::record(key, wanted.reference())),
            Key::Content { wanted, digest } => store
                .with_content(wanted.package(), wanted.reference().source, *digest)
                .map(|found| Self::record(&Key::Build(Arc::clone(wanted)), found)),
            Key::Anew { .. } | Key::Interface(_) => None,
        })
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        let store = &self.workshop.store;
        if let Key::Kept { wanted, library } = &record.key {
            return Ok(kept(store, wanted, library).map(Arc::new));
        }
        if let Key::InReference { wanted, library } = &record.key {
            let done = |how, tree| Done { package: wanted.package().clone(), tree: Some(tree), how, build: None };
            let there = has_package(library, wanted.package()).then(|| library.join(wanted.package()));
            return Ok(there.map(|tree| Arc::new(done(How::InReference, tree))));
        }
        let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
        if let Some(done) = stored(store, wanted) {
            return Ok(Some(Arc::new(done)));
        }
        // It was found by its content, under another key: what it was compiled against has not changed.
        let (workshop, wanted) = (Arc::clone(&self.workshop), Arc::clone(wanted));
        let package = wanted.package().clone();
        let adopted = blocking(move || {
            let _lock = workshop.store.lock_source(wanted.package(), wanted.reference().source)?;
            Ok::<_, OpError>(workshop.store.adopt(&wanted, from)?)
        });
        let done = |tree| Arc::new(Done { package, tree: Some(tree), how: How::InterfaceUnchanged, build: None });
        Ok(adopted.await?.map(done))
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
