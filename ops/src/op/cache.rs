//! The store, and the library that is there already, as the solver's cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp, Workshop, blocking};
use crate::key::{PackageKey, Reference};
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

impl StoreCache {
    fn record(wanted: &Arc<PackageKey>, id: Reference) -> Found<Key> {
        let key = Key::Build(Arc::clone(wanted));
        let record = Record { key: key.clone(), id: id.to_string(), created_at: 0, priority: 0, source: None };
        Found { key, records: vec![record] }
    }
}

impl CacheManager<PackageOp> for StoreCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        // Nearly all are leased by now; not those whose source had to be seen first.
        self.workshop.store.hold(key.wanted().map(|wanted| (wanted.package(), wanted.reference().source)))?;
        let found = match key {
            Key::Build(wanted) => find(&self.workshop, wanted).map(|_| wanted.reference()),
            Key::Content { wanted, digest } => {
                self.workshop.store.with_content(wanted.package(), wanted.reference().source, *digest)
            }
            Key::Interface(_) => None,
        };
        let wanted = key.wanted().filter(|wanted| !self.rebuilt.contains(wanted.package()));
        Ok(wanted.zip(found).map(|(wanted, reference)| Self::record(wanted, reference)))
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
        if let Some(done) = find(&self.workshop, wanted) {
            return Ok(Some(Arc::new(done)));
        }
        // It was found by its content, under another key: what it was compiled against has not changed.
        let (workshop, wanted) = (Arc::clone(&self.workshop), Arc::clone(wanted));
        let adopted = blocking(move || {
            let _lock = workshop.store.lock_source(wanted.reference().source)?;
            Ok::<_, OpError>(workshop.store.adopt(&wanted, from)?)
        });
        let done = |tree| Arc::new(Done { tree: Some(tree), how: How::InterfaceUnchanged, build: None });
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
