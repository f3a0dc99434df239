//! What is known of keys besides the entries themselves: where a key leads that has none, which results were given up,
//! and digests of contents that no sidecar has.
//!
//! ```text
//! {root}/.keys/{platform}/{package}/{source_hash}.json
//! {root}/.locks/keys-{platform}.lock                      held for a moment by whoever changes one of them
//! ```
//!
//! Entries are the truth about results, whoever wrote or removed them. These files only save work: a lost one costs a
//! look into a source. So a store that cannot be written is no error here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault::fs;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::digest::Sha256Digest;
use crate::fs::{read_small, write_atomically};
use crate::key::{PackageKey, Reference};
use crate::lock::{Attempt, Lock};
use crate::package::PackageName;

/// How many links one may lead to before they count as a circle.
const LINKS_MAX: usize = 16;

/// What is known of the keys of one source, by config hash.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Keys {
    links: BTreeMap<Sha256Digest, PackageKey>,
    released: BTreeSet<Sha256Digest>,
    digests: Vec<KnownDigest>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KnownDigest {
    config: Sha256Digest,
    output: u32,
    selector: Option<String>,
    digest: Sha256Digest,
}

/// Where a key leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    /// The key that the result is filed under.
    pub key: PackageKey,
    /// Whether the result is there; it was, in any case.
    pub is_there: bool,
}

impl Store {
    /// Finds what a key leads to: its own entry, or that of a key that it is linked to. `None`: it was never heard of.
    pub fn lead(&self, key: &PackageKey) -> Option<Lead> {
        let mut key = key.clone();
        for _ in 0..LINKS_MAX {
            if self.has(key.package(), key.reference()) {
                return Some(Lead { key, is_there: true });
            }
            let config = key.reference().config;
            let mut links = self.layers().filter_map(|store| store.keys(&key)?.links.remove(&config));
            let Some(next) = links.next() else {
                let is_released = self.keys(&key)?.released.contains(&config);
                return is_released.then_some(Lead { key, is_there: false });
            };
            key = next;
        }
        None
    }

    /// Makes `alias` lead to where `key` leads, unless it has an entry of its own.
    pub fn link_keys(&self, alias: &PackageKey, key: &PackageKey) {
        let target = self.lead(key).map_or_else(|| key.clone(), |lead| lead.key);
        if *alias != target {
            self.change_keys(alias, |keys, config| {
                keys.links.insert(config, target);
            });
        }
    }

    /// Removes a result. Its key stays known, and what leads to it does.
    pub fn release(&self, key: &PackageKey) -> Result<(), StoreError> {
        let (package, reference) = (key.package(), key.reference());
        let _lock = self.lock_source(reference.source)?;
        let Some(tree) = self.lookup_here(package, reference) else { return Ok(()) };
        self.change_keys(key, |keys, config| {
            keys.released.insert(config);
        });
        let aside = self.stage()?;
        self.forget_ahead(package, reference);
        // Without its sidecar it is no entry.
        fs::remove_file(self.sidecar_path(package, reference))?;
        fs::rename(&tree, aside.path().join("released"))?;
        match fs::remove_file(tree.with_extension("files")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Ok(self.mend_configs(package, reference.source)?)
    }

    /// Returns the digest of a part of a result: as it was remembered, else the interface as its sidecar has it.
    pub fn content_digest(&self, key: &PackageKey, output: u32, selector: Option<&str>) -> Option<Sha256Digest> {
        let config = key.reference().config;
        let remembered = self.layers().find_map(|store| {
            let mut known = store.keys(key)?.digests.into_iter();
            known.find(|known| known.is_of(config, output, selector)).map(|known| known.digest)
        });
        let in_sidecar =
            || self.sidecar(key.package(), key.reference())?.interface.filter(|_| is_interface(output, selector));
        remembered.or_else(in_sidecar)
    }

    /// Remembers such a digest.
    pub fn remember_digest(&self, key: &PackageKey, output: u32, selector: Option<&str>, digest: Sha256Digest) {
        if self.content_digest(key, output, selector) == Some(digest) {
            return;
        }
        self.change_keys(key, |keys, config| {
            keys.digests.retain(|known| !known.is_of(config, output, selector));
            keys.digests.push(KnownDigest { config, output, selector: selector.map(str::to_owned), digest });
        });
    }

    fn keys_path(&self, package: &PackageName, source: Sha256Digest) -> PathBuf {
        self.root.join(".keys").join(&self.platform).join(package).join(format!("{source}.json"))
    }

    fn keys(&self, key: &PackageKey) -> Option<Keys> {
        let Reference { source, .. } = key.reference();
        serde_json::from_slice(&read_small(&self.keys_path(key.package(), source)).ok()?).ok()
    }

    /// Changes a file of keys. Of those who do so at once none loses its change, nor its directory to a [`prune`].
    fn change_keys(&self, key: &PackageKey, change: impl FnOnce(&mut Keys, Sha256Digest)) {
        let Reference { source, config } = key.reference();
        let path = self.keys_path(key.package(), source);
        let write = || -> io::Result<()> {
            fs::create_dir_all(self.root.join(".locks"))?;
            let _lock = Lock::wait(&lock_path(&self.root, self.platform.as_ref()))?;
            let mut keys = self.keys(key).unwrap_or_default();
            change(&mut keys, config);
            fs::create_dir_all(path.parent().expect("a file is in a directory"))?;
            write_atomically(&path, &serde_json::to_vec_pretty(&keys)?)
        };
        if let Err(error) = write() {
            tracing::debug!(%error, "what was learnt of a key is not kept");
        }
    }
}

impl KnownDigest {
    fn is_of(&self, config: Sha256Digest, output: u32, selector: Option<&str>) -> bool {
        (self.config, self.output, self.selector.as_deref()) == (config, output, selector)
    }
}

fn lock_path(root: &Path, platform: &OsStr) -> PathBuf {
    let name = [OsStr::new("keys-"), platform, OsStr::new(".lock")];
    root.join(".locks").join(name.into_iter().collect::<std::ffi::OsString>())
}

/// Forgets the keys in a directory of `.keys`, those of one platform, whose sources the store at `root` has no longer,
/// and removes what is empty then. Nearly always there is nothing to do, so nothing is locked before there is.
pub(super) fn prune(root: &Path, keys: &Path) {
    let Some(platform) = keys.file_name() else { return };
    let entries = root.join(platform);
    let useless = |package: &Path| -> Option<Vec<PathBuf>> {
        let sources = entries.join(package.file_name()?);
        let files: Vec<PathBuf> = fs::read_dir(package).ok()?.flatten().map(|file| file.path()).collect();
        let is_used = |file: &PathBuf| file.file_stem().is_some_and(|source| sources.join(source).is_dir());
        let n_used = files.iter().filter(|file| is_used(file)).count();
        let useless: Vec<PathBuf> = files.into_iter().filter(|file| !is_used(file)).collect();
        (n_used == 0 || !useless.is_empty()).then_some(useless)
    };
    let packages: Vec<PathBuf> = fs::read_dir(keys).into_iter().flatten().flatten().map(|item| item.path()).collect();
    let packages: Vec<PathBuf> = packages.into_iter().filter(|package| useless(package).is_some()).collect();
    if packages.is_empty() {
        return;
    }
    // Whoever writes keys now has made the source's directory, but perhaps not yet when it was looked for.
    let Ok(Attempt::Taken(_lock)) = Lock::attempt(&lock_path(root, platform)) else { return };
    for package in packages {
        for file in useless(&package).unwrap_or_default() {
            let _ = fs::remove_file(&file);
        }
        // What is not empty stays.
        let _ = fs::remove_dir(&package);
    }
    let _ = fs::remove_dir(keys);
}

/// A package has one output, and the whole content of it is its interface.
fn is_interface(output: u32, selector: Option<&str>) -> bool {
    output == 0 && selector.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ConfigMap;
    use crate::store::testing::{Shop, name};

    fn key(n: usize) -> PackageKey {
        let special = ConfigMap::from_iter([("@n", n.to_string())]);
        PackageKey::new(name("demo"), "1.0".to_owned(), Sha256Digest::of(b"demo"), Vec::new(), &special)
    }

    #[test]
    fn of_many_who_write_at_once_none_loses_a_link_although_others_tidy_up() {
        let shop = Shop::new();
        let own = key(0);
        shop.publish(&own);
        let keys = shop.store.root().join(".keys/some-platform");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (store, own) = (&shop.store, &own);
                scope.spawn(move || (0..25).for_each(|n| store.link_keys(&key(1 + thread * 25 + n), own)));
            }
            for _ in 0..2 {
                scope.spawn(|| (0..100).for_each(|_| prune(shop.store.root(), &keys)));
            }
        });
        for n in 1..=100 {
            assert_eq!(shop.store.lead(&key(n)).map(|lead| lead.key).as_ref(), Some(&own), "link {n}");
        }
    }
}
