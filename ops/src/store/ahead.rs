//! Entries that a run is about to load, looked at beside the run: what is found waits for whoever loads it.
//!
//! A look at an entry is a few small reads. One after the other, as the solver loads, they are what a run takes longest
//! for that only links. What was found is believed as long as the run goes on that asked for it, which has leased it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{BrokenEntry, Depth, Store};
use crate::key::Reference;
use crate::package::PackageName;

type Found = Mutex<HashMap<(PackageName, Reference), Look>>;

/// The looks of all runs that are under way.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Vec<Weak<Found>>>);

#[derive(Debug)]
enum Look {
    /// Its tree; the use of it is noted.
    Whole(PathBuf),
    /// Somebody came to it first.
    Overtaken,
}

/// What is found for one run. When this is dropped, it is forgotten.
#[derive(Debug)]
pub struct LookAhead(Arc<Found>);

impl Store {
    /// Begins to look ahead for a run that has leased what it will load.
    pub fn ahead(&self) -> LookAhead {
        let found = Arc::default();
        let mut runs = self.ahead.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.retain(|run| run.strong_count() > 0);
        runs.push(Arc::downgrade(&found));
        LookAhead(found)
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
}

impl Ahead {
    /// Says whether an entry was found whole, and nobody has taken it yet.
    pub(super) fn has(&self, package: &PackageName, reference: Reference) -> bool {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().filter_map(Weak::upgrade).any(|found| {
            let found = found.lock().unwrap_or_else(PoisonError::into_inner);
            matches!(found.get(&(package.clone(), reference)), Some(Look::Whole(_)))
        })
    }

    /// Takes what was found of an entry; if nothing was yet, nobody needs to look any more.
    fn take(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        let runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().filter_map(Weak::upgrade).find_map(|found| {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            match found.insert((package.clone(), reference), Look::Overtaken) {
                Some(Look::Whole(tree)) => Some(tree),
                Some(Look::Overtaken) | None => None,
            }
        })
    }
}

impl Store {
    /// Forgets what was found of an entry that is no longer what it was.
    pub(super) fn forget_ahead(&self, package: &PackageName, reference: Reference) {
        while self.ahead.take(package, reference).is_some() {}
    }
}

impl LookAhead {
    /// Returns the work of looking at these entries one after the other, which ends when the run does. What is not
    /// whole is left to whoever loads it, who sees it again and can say so. After each, `next` gets its name and its tree;
    /// of one that somebody else came to first, that is the tree it has in this store, not in one below. The work says
    /// whether it came to its end.
    pub fn work(
        &self,
        store: Arc<Store>,
        entries: Vec<(PackageName, Reference)>,
        next: impl Fn(&PackageName, &Path) + Send + 'static,
    ) -> impl FnOnce() -> bool + Send + 'static {
        let run = Arc::downgrade(&self.0);
        move || {
            for (package, reference) in entries {
                let Some(found) = run.upgrade() else { return false };
                let lock = || found.lock().unwrap_or_else(PoisonError::into_inner);
                let place = (package.clone(), reference);
                if lock().contains_key(&place) {
                    next(&package, &store.tree(&package, reference));
                    continue;
                }
                let Ok(Some(tree)) = store.inspect(&package, reference, Depth::Glance) else { continue };
                store.touch(&package, reference);
                if let Entry::Vacant(place) = lock().entry(place) {
                    place.insert(Look::Whole(tree.clone()));
                }
                next(&package, &tree);
            }
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;
    use crate::store::testing::{Shop, key};

    #[test]
    fn what_was_looked_at_ahead_is_loaded_once_without_another_look_and_forgotten_with_the_run() {
        let shop = Shop::new();
        let demo = key("demo", &[]);
        let tree = shop.publish(&demo);
        let store = Arc::new(Store::open(shop.store.root(), shop.store.platform(), ""));
        let load = || store.load(demo.package(), demo.reference(), Depth::Glance);
        let entries = vec![(demo.package().clone(), demo.reference())];
        let ahead = store.ahead();
        ahead.work(Arc::clone(&store), entries.clone(), |_, _| {})();
        let hidden = shop.store.root().join("hidden");
        fs::rename(&tree, &hidden).unwrap();
        assert_eq!(load(), Ok(Some(tree.clone())), "it was there");
        assert_eq!(load(), Ok(None), "the second looks by itself");
        fs::rename(&hidden, &tree).unwrap();
        let work = ahead.work(Arc::clone(&store), entries.clone(), |_, _| {});
        drop(ahead);
        assert!(!work(), "the run is over");
        let ahead = store.ahead();
        load().unwrap().expect("it is there again");
        ahead.work(Arc::clone(&store), entries, |_, _| {})();
        fs::rename(&tree, &hidden).unwrap();
        assert_eq!(load(), Ok(None), "what was overtaken is not kept");
    }

    #[test]
    fn what_is_released_or_set_aside_after_a_look_is_not_loaded() {
        let shop = Shop::new();
        let keys = ["released", "aside"].map(|package| key(package, &[]));
        for key in &keys {
            shop.publish(key);
        }
        let store = Arc::new(Store::open(shop.store.root(), shop.store.platform(), ""));
        let ahead = store.ahead();
        let entries = keys.iter().map(|key| (key.package().clone(), key.reference())).collect();
        ahead.work(Arc::clone(&store), entries, |_, _| {})();
        store.release(&keys[0]).unwrap();
        store.set_aside(keys[1].package(), keys[1].reference(), &"a test").unwrap();
        for key in &keys {
            assert_eq!(store.load(key.package(), key.reference(), Depth::Glance), Ok(None), "{}", key.package());
        }
    }
}
