//! Roots: the libraries that live from a store. What they hold is not evicted.
//!
//! ```text
//! {store}/.roots/{digest of its path}    the path of a library
//! {store}/.workers/{id}/                 libraries of workers, which need no registration, unless their owner has ended
//! ```
//!
//! The rule: what the record of a living library names stays, with all its generations, since some R may be in any of
//! them. However it was linked: through a symlink it needs the store, with hard links evicting would free nothing, and a
//! copy that is in use will be wanted again. A library whose directory is gone is forgotten; when it comes back (it was
//! on a disk that was not mounted), the next run registers it anew.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::fault::fs;

use crate::digest::Sha256Digest;
use crate::fs::write_atomically;
use crate::key::Reference;
use crate::library::{self, trees};
use crate::package::PackageName;
use crate::workers::{Life, Workers};

/// A registered library that cannot be read: what it needs is not known.
#[derive(Debug, thiserror::Error)]
#[error("the library `{library}` uses this store, but what it holds cannot be read: {source}")]
pub struct RootError {
    /// The library.
    pub library: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// What the living libraries hold.
#[derive(Debug, Default)]
pub(super) struct Rooted {
    /// `{platform}/{package}/{reference}`; no platform stands for any.
    entries: HashSet<String>,
}

fn entry(platform: &str, package: &str, reference: Reference) -> String {
    format!("{platform}/{package}/{reference}")
}

/// Notes that `library`, an absolute path, lives from the store at `root`.
pub(super) fn register(root: &Path, library: &Path) -> io::Result<()> {
    let bytes = library.as_os_str().as_bytes();
    let path = root.join(".roots").join(Sha256Digest::of(bytes).to_string());
    if path.is_file() || library.parent() == Some(&root.join(".workers")) {
        return Ok(());
    }
    fs::create_dir_all(root.join(".roots"))?;
    write_atomically(&path, bytes)
}

impl Rooted {
    /// Reads what the registered libraries hold. Those that are gone are given to `on_gone`, with their record.
    pub(super) fn read(root: &Path, mut on_gone: impl FnMut(&Path)) -> Result<Self, RootError> {
        let mut rooted = Self::default();
        for record in items(&root.join(".roots")) {
            let Ok(bytes) = fs::read(&record) else { continue };
            let library = PathBuf::from(OsStr::from_bytes(&bytes));
            if !rooted.add(&library)? {
                on_gone(&record);
            }
        }
        let workers = Workers::of(root).list();
        let workers = workers.map_err(|error| RootError { library: root.join(".workers"), source: error.into() })?;
        for worker in workers.into_iter().filter(|worker| worker.life != Life::Ended) {
            rooted.add(&worker.library)?;
        }
        Ok(rooted)
    }

    /// Adds what a library holds; says whether there is a library.
    fn add(&mut self, library: &Path) -> Result<bool, RootError> {
        let named = |source| RootError { library: library.to_owned(), source };
        for tree in trees(library).map_err(named)? {
            self.add_tree(&tree).map_err(named)?;
        }
        // It is registered before it has a record.
        Ok(library.symlink_metadata().is_ok())
    }

    fn add_tree(&mut self, library: &Path) -> io::Result<()> {
        let holds: Option<BTreeMap<PackageName, Reference>> = read(&library.join(".packages.json"))?;
        // A platform that a loss of power has left no trace of, but its file, stands for any.
        let platform = library::platform(library)?.unwrap_or_default();
        for (package, reference) in holds.unwrap_or_default() {
            self.entries.insert(entry(&platform, package.as_str(), reference));
        }
        Ok(())
    }

    pub(super) fn holds(&self, platform: &str, package: &str, reference: Reference) -> bool {
        [platform, ""].iter().any(|platform| self.entries.contains(&entry(platform, package, reference)))
    }
}

fn items(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|item| item.path()).collect()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference { source: Sha256Digest::of(text.as_bytes()), config: Sha256Digest::of(b"") }
    }

    fn library_with(dir: &Path, package: &str) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let record = serde_json::json!({ package: reference(package).to_string() });
        fs::write(dir.join(".packages.json"), record.to_string()).unwrap();
        dir.to_owned()
    }

    #[test]
    fn living_libraries_and_workers_hold_what_their_records_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let own = library_with(&dir.path().join("own"), "cli");
        fs::create_dir(own.join(".larder")).unwrap();
        fs::write(own.join(".larder/platform.json"), "\"here\"").unwrap();
        register(&root, &own).unwrap();
        register(&root, &own).unwrap();
        library_with(&Workers::of(&root).create(None).unwrap().library, "rlang");
        let rooted = Rooted::read(&root, |_| panic!("all are there")).unwrap();
        assert!(rooted.holds("here", "cli", reference("cli")));
        assert!(!rooted.holds("there", "cli", reference("cli")), "another platform's entry is another");
        assert!(!rooted.holds("here", "cli", reference("other")));
        assert!(rooted.holds("anywhere", "rlang", reference("rlang")));
        for lost in ["", "\0\0\0"] {
            fs::write(own.join(".larder/platform.json"), lost).unwrap();
            let rooted = Rooted::read(&root, |_| panic!("all are there")).unwrap();
            assert!(rooted.holds("there", "cli", reference("cli")), "after a loss of power it may be for any");
        }
    }

    #[test]
    fn a_library_that_is_gone_is_told_and_one_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        register(&root, &dir.path().join("gone")).unwrap();
        let mut gone = Vec::new();
        Rooted::read(&root, |record| gone.push(record.to_owned())).unwrap();
        assert_eq!(gone, items(&root.join(".roots")));
        let odd = library_with(&dir.path().join("odd"), "cli");
        fs::write(odd.join(".packages.json"), "{").unwrap();
        register(&root, &odd).unwrap();
        let error = Rooted::read(&root, |_| {}).unwrap_err();
        assert!(error.to_string().contains("odd"), "{error}");
    }
}
