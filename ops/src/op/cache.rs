//! The store, and the library that is there already, as the solver's cache.

use std::path::Path;
use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp, Workshop, blocking};
use crate::key::{PackageKey, Reference};
use crate::library::has_package;
use crate::store::{BrokenEntry, Depth};

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

/// Takes a tree from the store, if it is there and whole.
pub(super) fn stored(workshop: &Workshop, key: &PackageKey) -> Result<Option<Done>, BrokenEntry> {
    let (package, reference) = (key.package(), key.reference());
    let Some(tree) = workshop.store.inspect(package, reference, workshop.depth)? else { return Ok(None) };
    workshop.store.touch(package, reference);
    Ok(Some(Done { package: package.clone(), tree: Some(tree), how: How::Loaded, build: None }))
}

/// Takes what a library keeps: from the store, so that what is built against it reads what nobody changes, and only if
/// that lacks it from the library itself.
fn kept(workshop: &Workshop, key: &PackageKey, library: &Path) -> Result<Option<Done>, BrokenEntry> {
    let (store, package, reference) = (&workshop.store, key.package(), key.reference());
    let there = library.join(package);
    let stored = match workshop.depth {
        // Nothing is taken from there, so nothing is read.
        Depth::Glance => store.lookup(package, reference).inspect(|_| store.touch(package, reference)),
        Depth::Full => {
            let done = stored(workshop, key)?;
            if done.is_some() && store.is_copy(package, reference, &there) == Some(false) {
                return Ok(done);
            }
            done.and_then(|done| done.tree)
        }
    };
    let tree = stored.or_else(|| has_package(library, package).then_some(there));
    Ok(tree.map(|tree| Done { package: package.clone(), tree: Some(tree), how: How::Kept, build: None }))
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
        let (workshop, record) = (Arc::clone(&self.workshop), record.clone());
        let load = move || load(&workshop, &record);
        Ok(blocking(load).await?.map(Arc::new))
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

fn load(workshop: &Workshop, record: &Record<Key>) -> Result<Option<Done>, OpError> {
    if let Key::Kept { wanted, library } = &record.key {
        return Ok(kept(workshop, wanted, library)?);
    }
    let done =
        |wanted: &PackageKey, how, tree| Done { package: wanted.package().clone(), tree: Some(tree), how, build: None };
    if let Key::InReference { wanted, library } = &record.key {
        let there = has_package(library, wanted.package()).then(|| library.join(wanted.package()));
        return Ok(there.map(|tree| done(wanted, How::InReference, tree)));
    }
    let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
    if let Some(done) = stored(workshop, wanted)? {
        return Ok(Some(done));
    }
    // It was found by its content, under another key: what it was compiled against has not changed.
    workshop.store.inspect(wanted.package(), from, workshop.depth)?;
    let _lock = workshop.store.lock_source(wanted.package(), from.source)?;
    let adopted = workshop.store.adopt(wanted, from)?;
    Ok(adopted.map(|tree| done(wanted, How::InterfaceUnchanged, tree)))
}
