//! The store, and the library that is there already, as the solver's cache.
//!
//! An entry of the store is a result, whoever put it there; there is one for each key. What leads to a key, and what was
//! digested, is in the sidecars and beside them (`store/keys.rs`).

use std::path::Path;
use std::sync::Arc;

use larder_graph::{CacheManager, Found, Record, Save};

use super::{Done, How, Key, OpError, PackageOp};
use crate::blocking;
use crate::key::{PackageKey, Reference};
use crate::library::has_package;
use crate::link::{LinkMode, Linker};
use crate::store::{BrokenEntry, Depth, Lead, OnExisting, Sidecar, Store};

/// Finds what the store has, and what a library keeps. An op publishes its own tree; one that comes from elsewhere is
/// copied in.
#[derive(Debug)]
pub struct StoreCache {
    store: Arc<Store>,
    depth: Depth,
}

impl StoreCache {
    /// Looks into this store, and at what it takes from there as closely as `depth` says.
    pub fn new(store: Arc<Store>, depth: Depth) -> Self {
        Self { store, depth }
    }

    pub(super) fn found(key: Key, id: Reference) -> Found<Key> {
        let record = Record { key: key.clone(), id: id.to_string(), created_at: 0, priority: 0, source: None };
        Found { key, records: vec![record] }
    }
}

/// Takes a tree from the store, if it is there and whole.
pub(super) fn stored(store: &Store, depth: Depth, key: &PackageKey) -> Result<Option<Done>, BrokenEntry> {
    let (package, reference) = (key.package(), key.reference());
    let Some(tree) = store.load(package, reference, depth)? else { return Ok(None) };
    Ok(Some(Done { package: package.clone(), tree: Some(tree), how: How::Loaded, build: None }))
}

/// Takes what a library keeps: from the store, so that what is built against it reads what nobody changes, and only if
/// that lacks it from the library itself.
fn kept(store: &Store, depth: Depth, key: &PackageKey, library: &Path) -> Result<Option<Done>, BrokenEntry> {
    let (package, reference) = (key.package(), key.reference());
    let there = library.join(package);
    let stored = match depth {
        // Nothing is taken from there, so nothing is read.
        Depth::Glance => store.lookup_used(package, reference),
        Depth::Full => {
            let done = stored(store, depth, key)?;
            if done.is_some() && store.is_copy(package, reference, &there) == Some(false) {
                return Ok(done.map(|done| Done { how: How::Restored, ..done }));
            }
            done.and_then(|done| done.tree)
        }
    };
    let tree = stored.or_else(|| has_package(library, package).then_some(there));
    Ok(tree.map(|tree| Done { package: package.clone(), tree: Some(tree), how: How::Kept, build: None }))
}

impl CacheManager<PackageOp> for StoreCache {
    async fn query(&self, key: &Key) -> Result<Option<Found<Key>>, OpError> {
        // Nearly all are leased by now; not those whose source had to be seen first.
        self.store.hold(key.wanted().map(|wanted| (wanted.package(), wanted.reference().source)))?;
        Ok(match key {
            Key::Build(wanted) => self.store.lead(wanted).map(|Lead { key, is_there }| {
                let (id, key) = (key.reference(), Key::Build(Arc::new(key)));
                if is_there { Self::found(key, id) } else { Found { key, records: Vec::new() } }
            }),
            Key::Extra { wanted, .. } => {
                let id = wanted.reference();
                self.store.lookup(wanted.package(), id).map(|_| Self::found(key.clone(), id))
            }
            Key::Kept { wanted, .. } | Key::InReference { wanted, .. } => {
                Some(Self::found(key.clone(), wanted.reference()))
            }
            Key::Content { wanted, digest } => {
                let source = wanted.reference().source;
                let found = self.store.with_content(wanted.package(), source, *digest);
                found.map(|id| Self::found(Key::Build(Arc::clone(wanted)), id))
            }
            Key::Anew { .. } | Key::Interface(_) => None,
        })
    }

    async fn load(&self, record: &Record<Key>) -> Result<Option<Arc<Done>>, OpError> {
        let is_own = record.key.wanted().is_some_and(|wanted| record.id.parse() == Ok(wanted.reference()));
        if self.depth == Depth::Glance && is_own {
            // A few small reads; in turn, so that equal runs tell of equal things in equal order.
            return Ok(load(&self.store, self.depth, record)?.map(Arc::new));
        }
        let (store, depth, record) = (Arc::clone(&self.store), self.depth, record.clone());
        let load = move || load(&store, depth, &record);
        Ok(blocking(load).await?.map(Arc::new))
    }

    async fn save(&self, save: Save<'_, PackageOp>) -> Result<(), OpError> {
        let (Some(key), Some(tree)) = (save.key.wanted(), &save.output.tree) else { return Ok(()) };
        let is_elsewhere = self.store.lookup(key.package(), key.reference()).as_ref() != Some(tree);
        if is_elsewhere && matches!(save.key, Key::Build(_)) {
            let (store, key, tree) = (Arc::clone(&self.store), Arc::clone(key), tree.clone());
            blocking(move || take_in(&store, &key, &tree)).await?;
        }
        for alias in save.links {
            self.link(alias, save.key).await?;
        }
        Ok(())
    }

    /// What leads to a build by content is in the sidecars already.
    async fn link(&self, alias: &Key, key: &Key) -> Result<(), OpError> {
        if let (Key::Build(alias), Some(key)) = (alias, key.wanted()) {
            self.store.link_keys(alias, key);
        }
        Ok(())
    }

    async fn digest(&self, key: &Key, output: u32, selector: Option<&str>) -> Result<Option<Key>, OpError> {
        let digest = key.wanted().and_then(|key| self.store.content_digest(key, output, selector));
        Ok(digest.map(Key::Interface))
    }

    async fn remember(&self, key: &Key, output: u32, selector: Option<&str>, digest: &Key) -> Result<(), OpError> {
        // What one run makes of a package outside its lockfile may be nothing at all.
        let is_result = !matches!(key, Key::Extra { .. });
        if let (Some(key), Key::Interface(digest)) = (key.wanted().filter(|_| is_result), digest) {
            self.store.remember_digest(key, output, selector, *digest);
        }
        Ok(())
    }

    /// What a library keeps is the library's.
    async fn release(&self, record: &Record<Key>) -> Result<(), OpError> {
        let Key::Build(key) = &record.key else { return Ok(()) };
        let (store, key) = (Arc::clone(&self.store), Arc::clone(key));
        blocking(move || Ok(store.release(&key)?)).await
    }
}

fn load(store: &Store, depth: Depth, record: &Record<Key>) -> Result<Option<Done>, OpError> {
    if let Key::Kept { wanted, library } = &record.key {
        return Ok(kept(store, depth, wanted, library)?);
    }
    let done =
        |wanted: &PackageKey, how, tree| Done { package: wanted.package().clone(), tree: Some(tree), how, build: None };
    if let Key::InReference { wanted, library } = &record.key {
        let (package, reference) = (wanted.package(), wanted.reference());
        let there = has_package(library, package).then(|| library.join(package));
        if let (Depth::Full, Some(tree)) = (depth, &there)
            && store.is_copy(package, reference, tree) == Some(false)
        {
            return Ok(stored(store, depth, wanted)?);
        }
        return Ok(there.map(|tree| done(wanted, How::InReference, tree)));
    }
    let (Some(wanted), Ok(from)) = (record.key.wanted(), record.id.parse::<Reference>()) else { return Ok(None) };
    if let Some(done) = stored(store, depth, wanted)? {
        return Ok(Some(done));
    }
    // It was found by its content, under another key: what it was compiled against has not changed. Nobody asks for that
    // other key, so nobody else would set it aside.
    if store.sound(wanted.package(), from, depth)??.is_none() {
        return Ok(None);
    }
    let _lock = store.lock_source(from.source)?;
    let adopted = store.adopt(wanted, from)?;
    Ok(adopted.map(|tree| done(wanted, How::InterfaceUnchanged, tree)))
}

/// Makes the entry of `key` out of a tree that is none of the store's.
fn take_in(store: &Store, key: &PackageKey, tree: &Path) -> Result<(), OpError> {
    let _lock = store.lock_source(key.reference().source)?;
    let staging = store.stage()?;
    let copy = staging.path().join("copy");
    Linker::new(Some(LinkMode::Copy)).link_tree(tree, &copy)?;
    let mut sidecar = Sidecar::new(key, std::time::Duration::ZERO);
    sidecar.source_compiled = copy.join("libs").is_dir();
    store.publish(&copy, key, &sidecar, OnExisting::Replace)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::SystemTime;

    use fs_err as fs;
    use larder_graph::testing::contract::{self, Samples};

    use super::*;
    use crate::digest::Sha256Digest;
    use crate::key::ConfigMap;
    use crate::package::PackageName;
    use crate::store::Policy;

    /// A store, and trees that are not in it yet.
    struct Trees(tempfile::TempDir);

    impl Trees {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        /// Opens the store anew, as the next process would.
        fn cache(&self) -> StoreCache {
            let store = Store::open(self.0.path().join("store"), "4.2-linux", "a test");
            store.sweep();
            StoreCache::new(Arc::new(store), Depth::Glance)
        }
    }

    impl Samples<PackageOp> for Trees {
        fn key(&self, name: &str) -> Key {
            let package = PackageName::parse("sample").unwrap();
            let special = ConfigMap::from_iter([("@sample", name)]);
            Key::Build(Arc::new(PackageKey::new(
                package,
                "1.0".to_owned(),
                Sha256Digest::of(b""),
                Vec::new(),
                &special,
            )))
        }

        fn output(&self, name: &str) -> Arc<Done> {
            let tree: PathBuf = self.0.path().join("trees").join(Sha256Digest::of(name.as_bytes()).short());
            fs::create_dir_all(&tree).unwrap();
            fs::write(tree.join("DESCRIPTION"), format!("Package: sample\nTitle: {name}\nBuilt: R 4.2.2\n")).unwrap();
            let package = PackageName::parse("sample").unwrap();
            Arc::new(Done { package, tree: Some(tree), how: How::Ingested, build: None })
        }

        fn name(&self, output: &Arc<Done>) -> String {
            let tree = output.tree.as_ref().unwrap();
            assert!(tree.starts_with(self.0.path().join("store")), "{}", tree.display());
            let description = fs::read_to_string(tree.join("DESCRIPTION")).unwrap();
            description.lines().find_map(|line| line.strip_prefix("Title: ")).unwrap().to_owned()
        }

        fn digest(&self, name: &str) -> Key {
            Key::Interface(Sha256Digest::of(name.as_bytes()))
        }
    }

    #[tokio::test]
    async fn the_store_keeps_the_contract_of_cache_managers() {
        let trees = Trees::new();
        contract::check(&trees.cache(), &trees).await;
    }

    #[tokio::test]
    async fn the_store_knows_its_keys_in_the_next_process() {
        let trees = Trees::new();
        contract::survives(|| trees.cache(), &trees).await;
    }

    #[tokio::test]
    async fn what_was_deleted_behind_the_stores_back_is_not_found_and_its_keys_are_forgotten() {
        let trees = Trees::new();
        let ([own, alias], cache) = (["own", "alias"].map(|name| trees.key(name)), trees.cache());
        let output = trees.output("it");
        cache.save(Save { key: &own, links: std::slice::from_ref(&alias), output: &output }).await.unwrap();
        let found = cache.query(&alias).await.unwrap().expect("it was linked");
        let keys = trees.0.path().join("store/.keys/4.2-linux/sample");
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1);

        fs::remove_dir_all(trees.0.path().join("store/4.2-linux/sample")).unwrap();
        assert_eq!(cache.query(&alias).await.unwrap(), None);
        assert!(cache.load(&found.records[0]).await.unwrap().is_none());
        assert_eq!(trees.cache().query(&own).await.unwrap(), None);
        let root = trees.0.path().join("store");
        crate::store::evict(&root, &Policy::default(), SystemTime::now(), |_| {}).unwrap();
        assert!(!keys.exists() && !keys.parent().unwrap().exists(), "tidied up");
    }
}
