//! The library: the directory that R reads, and the record of what larder put there.
//!
//! ```text
//! {library}/{package}/          as R expects it
//! {library}/.packages.json      {package: "source_hash/config_hash"} of what larder put there
//! {library}/.larder/            lock, platform.json, staging, and pending.json while a commit is under way
//! ```
//!
//! Packages are first linked into staging beside the library, and become visible together in [`Library::commit`]:
//! one rename each, so every package is the old one or the new one, never half. Nothing changes before that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;
use rustix::fs::{CWD, RenameFlags};

use crate::fs::{remove_all, write_atomically};
use crate::key::Reference;
use crate::link::Linker;
use crate::package::PackageName;

/// The record of what larder put into a library, as it was when it was read.
#[derive(Debug, Clone, Default)]
pub struct Record {
    entries: BTreeMap<PackageName, Reference>,
    /// Ours, but not to be taken for whole: a commit that was killed was replacing them, or they are for another R.
    pending: BTreeSet<PackageName>,
    /// What the packages are for.
    platform: String,
}

/// A library that this process may change; others wait.
#[derive(Debug)]
pub struct Library {
    root: PathBuf,
    record: Record,
    next: AtomicUsize,
    lock: Lease,
}

/// Keeps others from changing a library until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Lease {
    _lock: Arc<fs::File>,
}

/// A package in staging, ready to become visible.
#[derive(Debug, Clone)]
pub struct StagedPackage {
    /// The package.
    pub package: PackageName,
    /// What it is.
    pub reference: Reference,
    path: PathBuf,
}

/// Why a library could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The file system refused; the message has the path.
    #[error("the library: {0}")]
    Io(#[from] io::Error),
    /// The record is not what larder writes.
    #[error("`{path}` cannot be read: {source}")]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

const RECORD: &str = ".packages.json";
const PRIVATE: &str = ".larder";
const PENDING: &str = "pending.json";
const PLATFORM: &str = "platform.json";

impl Record {
    /// Reads the record of a library as `platform` sees it; an absent library has an empty one.
    ///
    /// Keys do not name the platform. So what was put there for another one, such as the R of before, is ours, but not
    /// what is wanted, whatever its key.
    pub fn read(library: &Path, platform: &str) -> Result<Self, LibraryError> {
        let mut record = Self {
            entries: read_json(&library.join(RECORD))?,
            pending: read_json(&library.join(PRIVATE).join(PENDING))?,
            platform: read_json(&library.join(PRIVATE).join(PLATFORM))?,
        };
        if !record.platform.is_empty() && record.platform != platform {
            record.pending.extend(record.entries.keys().cloned());
        }
        platform.clone_into(&mut record.platform);
        Ok(record)
    }

    /// Returns what the library has of a package, as far as larder put it there and finished doing so.
    pub fn get(&self, package: &PackageName) -> Option<Reference> {
        self.entries.get(package).copied().filter(|_| !self.pending.contains(package))
    }

    /// Returns the packages that larder put there, finished or not.
    pub fn packages(&self) -> BTreeSet<&PackageName> {
        self.entries.keys().chain(&self.pending).collect()
    }
}

fn read_json<T: serde::de::DeserializeOwned + Default>(path: &Path) -> Result<T, LibraryError> {
    match fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|source| LibraryError::Record { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(error.into()),
    }
}

/// Says whether a library has a package, whoever put it there.
pub fn has_package(library: &Path, package: &PackageName) -> bool {
    library.join(package).join("DESCRIPTION").is_file()
}

impl Library {
    /// Creates the library if need be, waits until no other process changes it, and reads its record.
    pub fn open(root: &Path, platform: &str) -> Result<Self, LibraryError> {
        let lock = Self::lock_file(root)?;
        lock.file().lock()?;
        Self::locked(root, platform, lock)
    }

    /// Does the same as [`Library::open`], but returns `None` instead of waiting.
    pub fn try_open(root: &Path, platform: &str) -> Result<Option<Self>, LibraryError> {
        let lock = Self::lock_file(root)?;
        match lock.file().try_lock() {
            Ok(()) => Self::locked(root, platform, lock).map(Some),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error.into()),
        }
    }

    fn lock_file(root: &Path) -> io::Result<fs::File> {
        let private = root.join(PRIVATE);
        fs::create_dir_all(&private)?;
        fs::OpenOptions::new().create(true).append(true).open(private.join("lock"))
    }

    fn locked(root: &Path, platform: &str, lock: fs::File) -> Result<Self, LibraryError> {
        // Whatever is in staging now has lost its owner, as the owner had the lock.
        remove_all(&root.join(PRIVATE).join("staging"))?;
        Ok(Self {
            record: Record::read(root, platform)?,
            root: fs::canonicalize(root)?,
            next: AtomicUsize::new(0),
            lock: Lease { _lock: Arc::new(lock) },
        })
    }

    /// Returns a hold on the library that outlives this handle.
    pub fn lease(&self) -> Lease {
        self.lock.clone()
    }

    /// Returns the library's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns what larder put there before.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Says whether the library has exactly this.
    pub fn holds(&self, package: &PackageName, reference: Reference) -> bool {
        self.record.get(package) == Some(reference) && has_package(&self.root, package)
    }

    /// Links a stored tree into the library's staging, on the library's file system.
    pub fn stage(
        &self,
        package: &PackageName,
        reference: Reference,
        tree: &Path,
        linker: &Linker,
    ) -> Result<StagedPackage, LibraryError> {
        let path = self.staging_path(package)?;
        linker.link_tree(tree, &path)?;
        Ok(StagedPackage { package: package.clone(), reference, path })
    }

    fn staging_path(&self, package: &PackageName) -> io::Result<PathBuf> {
        let staging = self.root.join(PRIVATE).join("staging");
        match fs::create_dir(&staging) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(staging.join(format!("{package}-{}", self.next.fetch_add(1, Ordering::Relaxed)))),
        }
    }

    /// Returns the packages in the library that are in neither the record nor `wanted`: somebody else's.
    pub fn foreign(&self, wanted: &BTreeSet<PackageName>) -> Result<Vec<PackageName>, LibraryError> {
        let ours = self.record.packages();
        let mut foreign = Vec::new();
        for item in fs::read_dir(&self.root)? {
            if let Some(name) = item?.file_name().to_str().and_then(|name| PackageName::parse(name).ok())
                && !ours.contains(&name)
                && !wanted.contains(&name)
                && has_package(&self.root, &name)
            {
                foreign.push(name);
            }
        }
        foreign.sort();
        Ok(foreign)
    }

    /// Makes staged packages visible and removes others, one rename each, and writes the record.
    ///
    /// Killed at any instant, every package is whole, and the next run knows which ones to look at again.
    /// Nothing is flushed: a library can always be made again from the store.
    pub fn commit(&mut self, put: &[StagedPackage], remove: &BTreeSet<PackageName>) -> Result<(), LibraryError> {
        if put.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let changed: BTreeSet<_> = put.iter().map(|staged| &staged.package).chain(remove).cloned().collect();
        self.record.pending.extend(changed.iter().cloned());
        self.write_pending()?;
        write_json(&self.root.join(PRIVATE).join(PLATFORM), &self.record.platform)?;
        for staged in put {
            self.replace(staged)?;
            self.record.entries.insert(staged.package.clone(), staged.reference);
        }
        for package in remove {
            let place = self.root.join(package);
            if place.symlink_metadata().is_ok() {
                fs::rename(place, self.staging_path(package)?)?;
            }
            self.record.entries.remove(package);
        }
        write_json(&self.root.join(RECORD), &self.record.entries)?;
        self.record.pending.retain(|package| !changed.contains(package));
        self.write_pending()?;
        remove_all(&self.root.join(PRIVATE).join("staging"))?;
        Ok(())
    }

    fn write_pending(&self) -> io::Result<()> {
        let path = self.root.join(PRIVATE).join(PENDING);
        if self.record.pending.is_empty() { remove_all(&path) } else { write_json(&path, &self.record.pending) }
    }

    /// The one place where a name in the library changes what it means.
    fn replace(&self, staged: &StagedPackage) -> io::Result<()> {
        let place = self.root.join(&staged.package);
        if place.symlink_metadata().is_err() {
            return fs::rename(&staged.path, place);
        }
        // A directory cannot be renamed over another. Exchanged, the old one is in staging, to be removed.
        if rustix::fs::renameat_with(CWD, &staged.path, CWD, &place, RenameFlags::EXCHANGE).is_ok() {
            return Ok(());
        }
        // Some network file systems have no exchange. Killed between the two, the package is missing, not half there,
        // and pending, so that the next run puts it back.
        fs::rename(&place, self.staging_path(&staged.package)?)?;
        fs::rename(&staged.path, place)
    }
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> io::Result<()> {
    write_atomically(path, &serde_json::to_vec_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256Digest;

    const PLATFORM_HERE: &str = "4.2-x86_64-pc-linux-gnu";

    fn name(text: &str) -> PackageName {
        PackageName::parse(text).unwrap()
    }

    fn reference(text: &str) -> Reference {
        Reference { source: Sha256Digest::of(text.as_bytes()), config: Sha256Digest::of(b"") }
    }

    fn tree(dir: &Path, content: &str) -> PathBuf {
        let tree = dir.join(content);
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("DESCRIPTION"), content).unwrap();
        tree
    }

    fn put(library: &mut Library, dir: &Path, package: &str, content: &str) {
        let staged = library
            .stage(&name(package), reference(content), &tree(dir, content), &Linker::new(None))
            .expect("staging works");
        library.commit(&[staged], &BTreeSet::new()).expect("commit works");
    }

    #[test]
    fn what_is_staged_is_not_visible_before_the_commit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib");
        let library = Library::open(&root, PLATFORM_HERE).unwrap();
        library.stage(&name("demo"), reference("one"), &tree(dir.path(), "one"), &Linker::new(None)).unwrap();
        assert!(!has_package(&root, &name("demo")));
        drop(library);
        Library::open(&root, PLATFORM_HERE).unwrap();
        assert!(!root.join(".larder/staging").exists(), "what was never committed is swept");
    }

    #[test]
    fn packages_are_replaced_and_removed_and_the_record_follows() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib");
        let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
        put(&mut library, dir.path(), "demo", "one");
        put(&mut library, dir.path(), "other", "three");
        put(&mut library, dir.path(), "demo", "two");
        assert!(library.holds(&name("demo"), reference("two")));
        assert_eq!(fs::read_to_string(root.join("demo/DESCRIPTION")).unwrap(), "two");
        library.commit(&[], &BTreeSet::from([name("other")])).unwrap();
        assert!(!root.join("other").exists());
        drop(library);
        let record = Record::read(&root, PLATFORM_HERE).unwrap();
        assert_eq!(record.packages(), BTreeSet::from([&name("demo")]));
        assert_eq!(record.get(&name("demo")), Some(reference("two")));
    }

    #[test]
    fn what_a_killed_commit_was_replacing_is_not_taken_for_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib");
        let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
        put(&mut library, dir.path(), "demo", "one");
        drop(library);
        write_json(&root.join(".larder/pending.json"), &["demo", "fresh"]).unwrap();
        let library = Library::open(&root, PLATFORM_HERE).unwrap();
        assert!(!library.holds(&name("demo"), reference("one")));
        assert_eq!(library.record().packages(), BTreeSet::from([&name("demo"), &name("fresh")]));
    }

    #[test]
    fn a_removed_package_is_not_held() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib");
        let mut library = Library::open(&root, PLATFORM_HERE).unwrap();
        put(&mut library, dir.path(), "demo", "one");
        fs::remove_dir_all(root.join("demo")).unwrap();
        assert!(!library.holds(&name("demo"), reference("one")));
    }

    #[test]
    fn packages_of_others_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("lib");
        tree(&root, "mine");
        tree(&root, "wanted");
        let library = Library::open(&root, PLATFORM_HERE).unwrap();
        assert_eq!(library.foreign(&BTreeSet::from([name("wanted")])).unwrap(), [name("mine")]);
    }
}
