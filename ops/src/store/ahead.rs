//! Entries that a run is about to load, looked at while it plans: what is found waits for whoever loads it.
//!
//! A look at an entry is a few small reads. One after the other, as the solver loads, they are what a run takes longest
//! for that only links. Who plans is in the gate of the leases meanwhile, so what was found there is still there when it
//! has been leased; from then on it is believed as long as the run goes on.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::lease::Gate;
use super::{BrokenEntry, Depth, Store};
use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;

/// By entry, its tree. Whoever loads it takes it out.
type Found = HashMap<(PackageName, Reference), PathBuf>;

/// The looks of all runs that are under way.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    runs: Mutex<Vec<Weak<Mutex<Found>>>>,
    /// How often an entry was forgotten: what a visit found before that may be gone.
    n_forgotten: AtomicU64,
}

/// Being in a store while no evictor is at work: what is there stays, unless this process itself removes it. Evictors wait
/// until it is left, so that is to be soon.
#[derive(Debug)]
pub struct Visit<'a> {
    store: &'a Store,
    gate: Gate,
    found: Mutex<Found>,
    n_forgotten: u64,
}

/// What was found for one run, which has leased it. When this is dropped, it is forgotten.
#[derive(Debug)]
pub struct LookAhead(Arc<Mutex<Found>>);

impl Store {
    /// Enters the store to see what is there. An evictor at work is waited for.
    pub fn visit(&self) -> io::Result<Visit<'_>> {
        Ok(self.visit_in(Gate::enter(&self.root)?))
    }

    /// Does the same, unless an evictor is at work.
    pub fn try_visit(&self) -> io::Result<Option<Visit<'_>>> {
        Ok(Gate::try_enter(&self.root)?.map(|gate| self.visit_in(gate)))
    }

    fn visit_in(&self, gate: Gate) -> Visit<'_> {
        let n_forgotten = self.ahead.n_forgotten.load(Ordering::Acquire);
        Visit { store: self, gate, found: Mutex::default(), n_forgotten }
    }

    /// Looks at an entry as [`Store::inspect`] does, unless that was done ahead, and notes that it is used.
    pub fn load(
        &self,
        package: &PackageName,
        reference: Reference,
        depth: Depth,
    ) -> Result<Option<PathBuf>, BrokenEntry> {
        if depth == Depth::Glance
            && let Some(tree) = self.ahead.take(package, reference)
        {
            return Ok(Some(tree));
        }
        let tree = self.inspect(package, reference, depth)?;
        if tree.is_some() {
            self.touch(package, reference);
        }
        Ok(tree)
    }

    /// Forgets what was found of an entry that is no longer what it was.
    pub(super) fn forget_ahead(&self, package: &PackageName, reference: Reference) {
        self.ahead.n_forgotten.fetch_add(1, Ordering::AcqRel);
        while self.ahead.take(package, reference).is_some() {}
    }
}

impl Visit<'_> {
    /// Says whether the store has an entry, as [`Store::has`] does. One that will be loaded is looked at for that, and its
    /// use noted; what is not whole is left to whoever loads it, who sees it again and can say so.
    pub fn has(&self, package: &PackageName, reference: Reference) -> bool {
        let Ok(Some(tree)) = self.store.inspect(package, reference, Depth::Glance) else {
            return self.store.has(package, reference);
        };
        self.store.touch(package, reference);
        lock(&self.found).insert((package.clone(), reference), tree);
        true
    }

    /// Leases sources, all in which something was found among them, and leaves. What was found waits to be loaded.
    pub fn leave<'a>(
        self,
        sources: impl IntoIterator<Item = (&'a PackageName, Sha256Digest)>,
    ) -> io::Result<LookAhead> {
        let Self { store, gate, found, n_forgotten } = self;
        store.lease.hold_within(gate, &store.root, store.held(sources))?;
        let found = Arc::new(found);
        let mut runs = lock(&store.ahead.runs);
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(&found));
        drop(runs);
        // Whoever forgets later finds it there.
        if store.ahead.n_forgotten.load(Ordering::Acquire) != n_forgotten {
            lock(&found).clear();
        }
        Ok(LookAhead(found))
    }
}

impl LookAhead {
    /// Returns the tree of an entry that was found whole, and that nobody has loaded yet.
    pub fn tree(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        lock(&self.0).get(&(package.clone(), reference)).cloned()
    }
}

impl Ahead {
    /// Says whether an entry was found whole, and nobody has taken it yet.
    pub(super) fn has(&self, package: &PackageName, reference: Reference) -> bool {
        let place = (package.clone(), reference);
        lock(&self.runs).iter().filter_map(Weak::upgrade).any(|found| lock(&found).contains_key(&place))
    }

    fn take(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        let place = (package.clone(), reference);
        lock(&self.runs).iter().filter_map(Weak::upgrade).find_map(|found| lock(&found).remove(&place))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;
    use crate::store::testing::{Shop, key};

    #[test]
    fn what_a_visit_has_found_is_loaded_once_without_another_look_and_forgotten_with_the_run() {
        let shop = Shop::new();
        let demo = key("demo", &[]);
        let (package, reference) = (demo.package(), demo.reference());
        let tree = shop.publish(&demo);
        let store = Store::open(shop.store.root(), shop.store.platform(), "");
        let load = || store.load(package, reference, Depth::Glance);
        let hidden = shop.store.root().join("hidden");
        let visited = || {
            let visit = store.visit().unwrap();
            assert!(visit.has(package, reference));
            visit.leave([(package, reference.source)]).unwrap()
        };
        let ahead = visited();
        fs::rename(&tree, &hidden).unwrap();
        assert_eq!(ahead.tree(package, reference), Some(tree.clone()));
        assert_eq!(load(), Ok(Some(tree.clone())), "it was there");
        assert_eq!(ahead.tree(package, reference), None);
        assert_eq!(load(), Ok(None), "the second looks by itself");
        fs::rename(&hidden, &tree).unwrap();
        drop(visited());
        fs::rename(&tree, &hidden).unwrap();
        assert_eq!(load(), Ok(None), "the run is over");
    }

    #[test]
    fn what_was_found_by_who_has_not_leased_it_is_not_believed() {
        let shop = Shop::new();
        let demo = key("demo", &[]);
        let tree = shop.publish(&demo);
        let visit = shop.store.visit().unwrap();
        assert!(visit.has(demo.package(), demo.reference()));
        fs::rename(&tree, shop.store.root().join("hidden")).unwrap();
        assert_eq!(shop.store.load(demo.package(), demo.reference(), Depth::Glance), Ok(None));
    }

    #[test]
    fn what_is_broken_is_there_for_a_visit_and_not_found() {
        let shop = Shop::new();
        let demo = key("demo", &[]);
        let tree = shop.publish(&demo);
        fs::remove_file(tree.join("DESCRIPTION")).unwrap();
        let visit = shop.store.visit().unwrap();
        assert!(visit.has(demo.package(), demo.reference()));
        let ahead = visit.leave([(demo.package(), demo.reference().source)]).unwrap();
        assert_eq!(ahead.tree(demo.package(), demo.reference()), None);
        shop.store.load(demo.package(), demo.reference(), Depth::Glance).unwrap_err();
    }

    #[test]
    fn what_is_released_or_set_aside_after_a_look_is_not_loaded() {
        let shop = Shop::new();
        let keys = ["released", "aside", "meanwhile"].map(|package| key(package, &[]));
        for key in &keys {
            shop.publish(key);
        }
        let store = Store::open(shop.store.root(), shop.store.platform(), "");
        let visit = store.visit().unwrap();
        assert!(keys.iter().all(|key| visit.has(key.package(), key.reference())));
        let sources = || keys.iter().map(|key| (key.package(), key.reference().source));
        let _ahead = visit.leave(sources()).unwrap();
        let visit = store.visit().unwrap();
        assert!(visit.has(keys[2].package(), keys[2].reference()));
        store.release(&keys[2]).unwrap();
        let _later = visit.leave(sources()).unwrap();
        store.release(&keys[0]).unwrap();
        store.set_aside(keys[1].package(), keys[1].reference(), &"a test").unwrap();
        for key in &keys {
            assert_eq!(store.load(key.package(), key.reference(), Depth::Glance), Ok(None), "{}", key.package());
        }
    }
}
