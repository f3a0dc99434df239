//! The library: the directory that R reads, and the record of what larder put there.
//!
//! ```text
//! {library}/{package}/          as R expects it
//! {library}/.packages.json      {package: "source_hash/config_hash"} of what larder put there
//! {library}/.larder/            lock, platform.json, staging, and pending.json while a commit is under way
//! ```
//!
//! It changes in [`Library::apply`] and nowhere else. By itself a library is one directory whose packages are replaced
//! one rename each: every package is the old one or the new one, never half. A library of *generations*
//! ([`Library::into_generations`]) is replaced as a whole, and can be rolled back.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fault::fs;

use crate::fs::{clear, remove_all};
use crate::key::Reference;
use crate::link::Linker;
use crate::package::PackageName;
use ahead::Ahead;
use generations::Generations;
use place::{Place, Wait};

mod ahead;
mod change;
mod generations;
mod place;
mod record;
mod reference;

pub use ahead::Stager;
pub use change::{Change, Put, What};
pub(crate) use generations::trees;
pub use generations::{Difference, GENERATIONS_KEPT, Generation, Held, generations, roll_back};
pub use record::Record;
pub(crate) use record::platform;
pub use reference::ReferenceLibrary;

const PRIVATE: &str = ".larder";

/// A library that this process may change; others wait.
#[derive(Debug)]
pub struct Library {
    /// The directory with the packages.
    root: PathBuf,
    place: Place,
    record: Record,
    ahead: Arc<Ahead>,
    /// The last to be given up.
    lock: Lease,
}

/// Keeps others from changing a library until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Lease {
    _lock: Arc<fs::File>,
}

impl Lease {
    fn new(lock: fs::File) -> Self {
        Self { _lock: Arc::new(lock) }
    }
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
    /// Another process changes what is only to be read here.
    #[error("the library `{0}` is being changed by another process")]
    Busy(PathBuf),
    /// What was named is a generation, which never changes.
    #[error("`{path}` is a generation of the library `{library}`, and is never changed")]
    IsGeneration {
        /// What was named.
        path: PathBuf,
        /// What can be changed.
        library: PathBuf,
    },
    /// The library is one directory.
    #[error("the library `{0}` is not made of generations")]
    NoGenerations(PathBuf),
    /// There is nothing to go back to.
    #[error("there is no generation {} (there are {}; {current} is the current one)", shown(*wanted), list(there))]
    NoSuchGeneration {
        /// What was asked for; `None` for the one before.
        wanted: Option<u32>,
        /// What R sees.
        current: u32,
        /// What there is.
        there: Vec<u32>,
    },
    /// The file system cannot put a symlink in the place of a directory in one step.
    #[error("`{path}` cannot be made a library of generations in one step: {source}")]
    NotExchanged {
        /// The library.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn shown(wanted: Option<u32>) -> String {
    wanted.map_or("before this one".to_owned(), |number| number.to_string())
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns where a library that is one directory has what is not in its place yet, or not any more.
fn staging(root: &Path) -> PathBuf {
    root.join(PRIVATE).join("staging")
}

/// Says whether a library has a package, whoever put it there.
pub fn has_package(library: &Path, package: &PackageName) -> bool {
    const FILE: &str = "DESCRIPTION";
    let mut path = PathBuf::with_capacity(library.as_os_str().len() + package.as_str().len() + FILE.len() + 2);
    path.extend([library, package.as_ref(), FILE.as_ref()]);
    path.is_file()
}

/// Returns the packages of a library, whoever put them there; of an absent library none.
pub fn packages_in(library: &Path) -> io::Result<BTreeSet<PackageName>> {
    packages_among(library, |_| true)
}

/// Does the same for packages of some names, without a look at the others.
fn packages_among(library: &Path, is_meant: impl Fn(&PackageName) -> bool) -> io::Result<BTreeSet<PackageName>> {
    let items = match fs::read_dir(library) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        items => items?,
    };
    let mut packages = BTreeSet::new();
    for item in items {
        let name = item?.file_name().to_str().and_then(|name| PackageName::parse(name).ok());
        packages.extend(name.filter(|name| is_meant(name) && has_package(library, name)));
    }
    Ok(packages)
}

impl Library {
    /// Creates the library if need be, waits until no other process changes it, and reads its record.
    pub fn open(library: &Path, platform: &str) -> Result<Self, LibraryError> {
        let (place, lock) = Place::lock(library, Wait::Yes)?.expect("it was waited for");
        Self::locked(place, platform, lock)
    }

    /// Does the same as [`Library::open`], but returns `None` instead of waiting.
    pub fn try_open(library: &Path, platform: &str) -> Result<Option<Self>, LibraryError> {
        match Place::lock(library, Wait::No)? {
            Some((place, lock)) => Self::locked(place, platform, lock).map(Some),
            None => Ok(None),
        }
    }

    /// Returns which process changes the library, for people: after [`Library::try_open`] found that one does.
    pub fn holder(library: &Path) -> Option<u32> {
        Place::holder(library)
    }

    /// Says whether some process changes the library now, without keeping anybody from it.
    pub fn is_being_changed(library: &Path) -> bool {
        Place::is_locked(library)
    }

    /// Removes a library with all its generations, whoever uses it. One that is not there is fine.
    pub fn remove(library: &Path) -> io::Result<()> {
        remove_all(library)?;
        remove_all(&Generations::beside(library).dir())
    }

    fn locked(place: Place, platform: &str, lock: fs::File) -> Result<Self, LibraryError> {
        let root = place.root()?;
        record::NEW.iter().try_for_each(|new| remove_all(&root.join(PRIVATE).join(new)))?;
        // Whatever is in staging now has lost its owner, as the owner had the lock.
        match &place.generations {
            Some(generations) => generations.sweep()?,
            None => clear(&staging(&root))?,
        }
        let (record, ahead) = (Record::read(&root, platform)?, Arc::new(Ahead::new(&root)));
        Ok(Self { root, place, record, ahead, lock: Lease::new(lock) })
    }

    /// Makes it a library of generations, whose first is what it holds now; R sees the same packages throughout.
    /// It stays one. Nothing happens to one that is already.
    pub fn into_generations(self) -> Result<Self, LibraryError> {
        if self.place.generations.is_some() {
            return Ok(self);
        }
        let (generations, lock) = Generations::convert(&self.place.path)?;
        let root = generations.tree(generations.current()?);
        Ok(Self { root, place: Place { generations: Some(generations), ..self.place }, lock: Lease::new(lock), ..self })
    }

    /// Returns a hold on the library that outlives this handle.
    pub fn lease(&self) -> Lease {
        self.lock.clone()
    }

    /// Returns the directory with the packages. Of a library of generations it is the current one.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns what R is to be told: the library's own name, which stays when generations come and go.
    pub fn place(&self) -> &Path {
        &self.place.path
    }

    /// Returns what larder put there before.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Says whether the library has exactly this.
    pub fn holds(&self, package: &PackageName, reference: Reference) -> bool {
        self.record.holds(&self.root, package, reference)
    }

    /// Returns the packages in the library that are in neither the record nor `wanted`: somebody else's.
    pub fn foreign(&self, wanted: &BTreeSet<PackageName>) -> Result<Vec<PackageName>, LibraryError> {
        let ours = self.record.packages();
        let foreign = packages_among(&self.root, |name| !ours.contains(name) && !wanted.contains(name))?;
        Ok(foreign.into_iter().collect())
    }

    /// Takes packages that somebody else put into the library, and that are there, for these builds: from now on they
    /// are in the record.
    pub fn record_as(
        &mut self,
        builds: impl IntoIterator<Item = (PackageName, Reference)>,
    ) -> Result<(), LibraryError> {
        let root = &self.root;
        let there: Vec<_> = builds.into_iter().filter(|(package, _)| has_package(root, package)).collect();
        self.record.entries.extend(there.iter().cloned());
        self.record.write(root)?;
        // What was there for another R is believed again, but not before the platform is this one.
        self.record.pending.retain(|pending| !there.iter().any(|(package, _)| package == pending));
        Ok(self.record.write_pending(root)?)
    }

    /// Puts packages into the library and takes others out.
    ///
    /// Of a library of generations the whole next one is made, with all that is not mentioned carried over, flushed to
    /// the disk, and made the current one; the newest of the others stay. Otherwise the packages are linked into
    /// staging, but for those that wait there already ([`Library::stager`]), and become visible by one rename each, then
    /// the record follows; linked trees are not flushed, since a library can always be made again from the store. On an
    /// error before the first package takes the place of another one nothing has changed. Killed at any instant, every
    /// package is whole,
    /// and the next run knows which ones to look at again. Without anything to change nothing happens.
    pub fn apply(&mut self, change: &Change, linker: &Linker) -> Result<(), LibraryError> {
        if change.put.is_empty() && change.remove.is_empty() {
            return Ok(());
        }
        match self.place.generations.clone() {
            Some(generations) => self.next_generation(&generations, change, linker),
            None => self.replace_each(change, linker),
        }
    }
}

#[cfg(test)]
mod tests;
