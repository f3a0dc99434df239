//! What is known of keys besides the entries themselves: where a key leads that has none, which results were given up,
//! and digests of contents that no sidecar has.
//!
//! ```text
//! {root}/.keys/{platform}/{package}/{source_hash}.json
//! ```
//!
//! Entries are the truth about results, whoever wrote or removed them. These files only save work: a lost one costs a
//! look into a source. So a store that cannot be written is no error here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::fault::fs;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError};
use crate::digest::Sha256Digest;
use crate::fs::write_atomically;
use crate::key::{PackageKey, Reference};
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
            if self.lookup(key.package(), key.reference()).is_some() {
                return Some(Lead { key, is_there: true });
            }
            let mut keys = self.keys(&key)?;
            let config = key.reference().config;
            match keys.links.remove(&config) {
                Some(next) => key = next,
                None => return keys.released.contains(&config).then_some(Lead { key, is_there: false }),
            }
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
        let Some(tree) = self.lookup(package, reference) else { return Ok(()) };
        self.change_keys(key, |keys, config| {
            keys.released.insert(config);
        });
        let aside = self.stage()?;
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
        let remembered = self.keys(key).and_then(|keys| {
            let mut known = keys.digests.into_iter();
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

    /// Forgets keys of sources that were removed while nobody looked.
    pub(super) fn prune_keys(&self) {
        prune(&self.root, &self.root.join(".keys").join(&self.platform));
    }

    fn keys_path(&self, package: &PackageName, source: Sha256Digest) -> PathBuf {
        self.root.join(".keys").join(&self.platform).join(package).join(format!("{source}.json"))
    }

    fn keys(&self, key: &PackageKey) -> Option<Keys> {
        let Reference { source, .. } = key.reference();
        serde_json::from_slice(&fs::read(self.keys_path(key.package(), source)).ok()?).ok()
    }

    /// Changes a file of keys. Of two who do so at once one may lose its change.
    fn change_keys(&self, key: &PackageKey, change: impl FnOnce(&mut Keys, Sha256Digest)) {
        let Reference { source, config } = key.reference();
        let mut keys = self.keys(key).unwrap_or_default();
        change(&mut keys, config);
        let path = self.keys_path(key.package(), source);
        let write = || -> io::Result<()> {
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir)?;
            }
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

/// Forgets the keys in a directory of `.keys`, those of one platform, whose sources the store at `root` has no longer.
pub(super) fn prune(root: &Path, keys: &Path) {
    let Some(platform) = keys.file_name() else { return };
    for package in fs::read_dir(keys).into_iter().flatten().flatten() {
        for file in fs::read_dir(package.path()).into_iter().flatten().flatten() {
            let path = file.path();
            let Some(source) = path.file_stem() else { continue };
            if !root.join(platform).join(package.file_name()).join(source).is_dir() {
                let _ = fs::remove_file(&path);
            }
        }
    }
}

/// A package has one output, and the whole content of it is its interface.
fn is_interface(output: u32, selector: Option<&str>) -> bool {
    output == 0 && selector.is_none()
}
