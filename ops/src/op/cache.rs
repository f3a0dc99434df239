//! The store, and the library that is there already, as the solver's cache.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp, Workshop, blocking};
use crate::key::{PackageKey, Reference};
use crate::library;
use crate::package::PackageName;
use crate::store::{BrokenEntry, Depth};

/// Finds what the store or the library has. An op publishes its tree itself, so there is nothing to save.
#[derive(Debug)]
pub struct StoreCache {
    workshop: Arc<Workshop>,
    /// What is to be built although the store has it.
    rebuilt: BTreeSet<PackageName>,
    /// What was looked at.
    seen: Mutex<HashMap<Key, Verdict>>,
}

/// What a look at an entry showed, where it is not to be repeated.
#[derive(Debug, Clone)]
enum Verdict {
    /// Every byte was read.
    Good(Arc<Done>),
    /// It was told, once for all that ask.
    Broken,
}

impl StoreCache {
    /// Looks where the workshop looks, but not for what is to be `rebuilt`.
    pub fn new(workshop: Arc<Workshop>, rebuilt: BTreeSet<PackageName>) -> Self {
        Self { workshop, rebuilt, seen: Mutex::default() }
    }
}

/// Takes a tree from the library if that has the very one, else from the store, else from the reference library.
pub(super) fn find(workshop: &Workshop, key: &PackageKey) -> Result<Option<Done>, BrokenEntry> {
    let (package, reference) = (key.package(), key.reference());
    let Workshop { store, library: (library, record), reference: in_use, depth, .. } = workshop;
    let is_recorded = record.get(package) == Some(reference) && library::has_package(library, package);
    let is_kept = is_recorded
        && (*depth == Depth::Glance || store.is_copy(package, reference, &library.join(package)) != Some(false));
    let stored = match depth {
        // Nothing is taken from there.
        Depth::Glance if is_kept => store.lookup(package, reference),
        depth => store.inspect(package, reference, *depth)?,
    };
    if stored.is_some() {
        store.touch(package, reference);
    }
    let kept = || is_kept.then(|| library.join(package));
    let how = if is_kept { How::Kept } else { How::Loaded };
    if let Some(tree) = stored.or_else(kept) {
        return Ok(Some(Done { tree: Some(tree), how, build: None }));
    }
    let tree = in_use.as_ref().and_then(|in_use| in_use.tree(package, reference));
    Ok(tree.map(|tree| Done { tree: Some(tree), how: How::InReference, build: None }))
}

impl StoreCache {
    fn record(wanted: &Arc<PackageKey>, id: Reference) -> Found<Key> {
        let key = Key::Build(Arc::clone(wanted));
        let record = Record { key: key.clone(), id: id.to_string(), created_at: 0, priority: 0, source: None };
        Found { key, records: vec![record] }
    }

    fn remember(&self, key: &Key, verdict: Verdict) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), verdict);
    }

    fn remembered(&self, key: &Key) -> Option<Verdict> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Looks for what can be had under a key, as closely as the workshop does.
    async fn look(&self, key: &Key) -> Result<Option<(Reference, Option<Done>)>, BrokenEntry> {
        let (workshop, key) = (Arc::clone(&self.workshop), key.clone());
        let is_quick = workshop.depth == Depth::Glance;
        let look = move || match &key {
            Key::Build(wanted) => Ok(find(&workshop, wanted)?.map(|done| (wanted.reference(), Some(done)))),
            Key::Content { wanted, digest } => {
                let store = &workshop.store;
                let (package, source) = (wanted.package(), wanted.reference().source);
                let Some(found) = store.with_content(package, source, *digest) else { return Ok(None) };
                Ok(store.inspect(package, found, workshop.depth)?.map(|_| (found, None)))
            }
            Key::Interface(_) => Ok(None),
        };
        if is_quick { look() } else { blocking(look).await }
    }
}

impl CacheManager<PackageOp> for StoreCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        let wanted = key.wanted().filter(|wanted| !self.rebuilt.contains(wanted.package()));
        let (Some(wanted), None | Some(Verdict::Good(_))) = (wanted, self.remembered(key)) else { return Ok(None) };
        match self.look(key).await {
            Ok(found) => Ok(found.map(|(reference, done)| {
                if let Some(done) = done.filter(|_| self.workshop.depth == Depth::Full) {
                    self.remember(key, Verdict::Good(Arc::new(done)));
                }
                Self::record(wanted, reference)
            })),
            Err(broken) => {
                self.remember(key, Verdict::Broken);
                Err(broken.into())
            }
        }
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
        if let Some(Verdict::Good(done)) = self.remembered(&record.key) {
            return Ok(Some(done));
        }
        if let Some(done) = find(&self.workshop, wanted)? {
            return Ok(Some(Arc::new(done)));
        }
        // It was found by its content, under another key: what it was compiled against has not changed.
        let (workshop, wanted) = (Arc::clone(&self.workshop), Arc::clone(wanted));
        let adopted = blocking(move || {
            let _lock = workshop.store.lock_source(wanted.package(), wanted.reference().source)?;
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
