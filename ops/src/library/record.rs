//! The record: which packages of a library larder put there, and what each is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{LibraryError, PRIVATE, has_package};
use crate::digest::Sha256Digest;
use crate::fault::{self, fs};
use crate::fs::remove_all;
use crate::key::Reference;
use crate::package::PackageName;

const RECORD: &str = ".packages.json";
const PENDING: &str = "pending.json";
const PLATFORM: &str = "platform.json";
/// What these are called while they are written.
pub(super) const NEW: [&str; 3] = ["new", "new-pending", "new-platform"];

/// The record of what larder put into a library, as it was when it was read.
#[derive(Debug, Clone, Default)]
pub struct Record {
    pub(super) entries: BTreeMap<PackageName, Reference>,
    /// Ours, but not to be taken for whole: a commit that was killed was replacing them, or they are for another R.
    pub(super) pending: BTreeSet<PackageName>,
    /// What the packages are for.
    platform: String,
}

impl Record {
    /// Reads the record of a library as `platform` sees it; an absent library has an empty one.
    ///
    /// Keys do not name the platform. So what was put there for another one, such as the R of before, is ours, but not
    /// what is wanted, whatever its key.
    pub fn read(library: &Path, platform: &str) -> Result<Self, LibraryError> {
        let entries = Self::entries(library)?;
        let pending: Option<BTreeSet<PackageName>> = read_or_lost(library, PENDING)?;
        let there = self::platform(library)?;
        let is_for_this = there.is_some_and(|there| there.is_empty() || there == platform);
        let mut record = Self { entries, platform: platform.to_owned(), ..Self::default() };
        if pending.is_none() || !is_for_this {
            record.pending.extend(record.entries.keys().cloned());
        }
        record.pending.extend(pending.into_iter().flatten());
        Ok(record)
    }

    /// Reads what a library's `.packages.json` says, and no more.
    pub(super) fn entries(library: &Path) -> Result<BTreeMap<PackageName, Reference>, LibraryError> {
        read_json(&library.join(RECORD))
    }

    /// Returns what the library has of a package, as far as larder put it there and finished doing so.
    pub fn get(&self, package: &PackageName) -> Option<Reference> {
        self.entries.get(package).copied().filter(|_| !self.pending.contains(package))
    }

    /// Returns what was put there of a package, even if it is not whole or for another R.
    pub fn was_put(&self, package: &PackageName) -> Option<Reference> {
        self.entries.get(package).copied()
    }

    /// Returns the packages that larder put there, finished or not.
    pub fn packages(&self) -> BTreeSet<&PackageName> {
        self.entries.keys().chain(&self.pending).collect()
    }

    /// Returns the record with more packages in it: somebody else's, by what they are to be known as.
    #[must_use]
    pub fn with(mut self, more: impl IntoIterator<Item = (PackageName, Reference)>) -> Self {
        self.entries.extend(more);
        self
    }

    /// Says whether `library`, whose record this is, has exactly this.
    pub fn holds(&self, library: &Path, package: &PackageName, reference: Reference) -> bool {
        self.get(package) == Some(reference) && has_package(library, package)
    }

    /// Says whether it is written down what the packages are for.
    pub(super) fn has_platform(&self, library: &Path) -> bool {
        platform(library).is_ok_and(|there| there.as_ref() == Some(&self.platform))
    }

    /// Writes what is to take the place of the platform. It is not flushed: see [`read_or_lost`].
    pub(super) fn write_platform(&self, library: &Path) -> io::Result<Written> {
        write_json(library, NEW[2], &Path::new(PRIVATE).join(PLATFORM), &self.platform)
    }

    /// Writes what is to take the place of the entries.
    pub(super) fn write_entries(library: &Path, entries: &BTreeMap<PackageName, Reference>) -> io::Result<Written> {
        write_json(library, NEW[0], Path::new(RECORD), entries)
    }

    /// Removes what was to take the place of the entries, or what there is of it.
    pub(super) fn discard_entries(library: &Path) {
        let _ = fs::remove_file(library.join(PRIVATE).join(NEW[0]));
    }

    /// Writes down what is about to change. It is not flushed: see [`read_or_lost`].
    pub(super) fn write_pending(&self, library: &Path) -> io::Result<()> {
        let name = Path::new(PRIVATE).join(PENDING);
        if self.pending.is_empty() {
            remove_all(&library.join(name))
        } else {
            write_json(library, NEW[1], &name, &self.pending)?.take_place()
        }
    }

    /// Writes all of it down. What was put there for another platform is pending before it counts as one of this.
    pub(super) fn write(&self, library: &Path) -> io::Result<()> {
        self.write_pending(library)?;
        self.write_platform(library)?.take_place()?;
        let entries = Self::write_entries(library, &self.entries)?;
        entries.flushed()?.take_place()
    }

    /// Returns what the record says when of these packages nothing but `put` has changed, and no others are left.
    pub fn expected(
        &self,
        is_wanted: impl Fn(&PackageName) -> bool,
        put: impl IntoIterator<Item = (PackageName, Reference)>,
    ) -> BTreeMap<PackageName, Reference> {
        let mut entries = self.entries.clone();
        entries.retain(|package, _| is_wanted(package));
        entries.extend(put);
        entries
    }

    /// Returns the hash of the source that a package in the library was made from.
    pub fn source(&self, package: &PackageName) -> Option<Sha256Digest> {
        self.get(package).map(|reference| reference.source)
    }
}

/// Returns what the packages of a library are for, if that is written down; `None` if a loss of power has left no trace
/// of it but its file.
pub(crate) fn platform(library: &Path) -> io::Result<Option<String>> {
    read_or_lost(library, PLATFORM)
}

/// Returns when the record of a library was last written.
pub(super) fn written(library: &Path) -> io::Result<std::time::SystemTime> {
    fs::metadata(library.join(RECORD)).or_else(|_| fs::metadata(library))?.modified()
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

/// Reads one of the small files that are never flushed, whose absence says something, too. `None` if a loss of power left
/// its name, which is in the file system's journal before what follows it, but not what was in it: then nothing is
/// known of any package.
fn read_or_lost<T: serde::de::DeserializeOwned + Default>(library: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(library.join(PRIVATE).join(name)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Some(T::default()))
        }
        Err(error) => Err(error),
    }
}

/// A file of a library that is written, but has yet to get its name.
#[derive(Debug)]
#[must_use]
pub(super) struct Written {
    new: PathBuf,
    path: PathBuf,
    is_flushed: bool,
}

impl Written {
    /// Has the kernel begin to write the file out, so that [`Written::flushed`] takes less time later.
    pub(super) fn begun(self) -> io::Result<Self> {
        // By this the pages would be given up when they are on the disk, so the kernel begins with that. It is an advice.
        let _ = rustix::fs::fadvise(fs::File::open(&self.new)?, 0, None, rustix::fs::Advice::DontNeed);
        Ok(self)
    }

    /// Waits until it is on the disk, unless that was done.
    pub(super) fn flushed(self) -> io::Result<Self> {
        if !self.is_flushed {
            fault::point("library: flush a record")?;
            fs::File::open(&self.new)?.sync_data()?;
        }
        Ok(Self { is_flushed: true, ..self })
    }

    pub(super) fn take_place(self) -> io::Result<()> {
        fs::rename(self.new, self.path)
    }
}

/// The caller has the library's lock, so that few names are enough for what is not finished: whoever is killed leaves
/// at most one file of each.
fn write_json(library: &Path, new: &str, name: &Path, value: &impl serde::Serialize) -> io::Result<Written> {
    let new = library.join(PRIVATE).join(new);
    fs::write(&new, serde_json::to_vec_pretty(value)?)?;
    Ok(Written { new, path: library.join(name), is_flushed: false })
}
