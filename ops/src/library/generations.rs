//! A library of generations: a symlink to one of several complete libraries beside it.
//!
//! ```text
//! {parent}/{name}                  -> .{name}.larder/{n}
//! {parent}/.{name}.larder/{n}/     a generation: a complete library with its record, never changed
//! {parent}/.{name}.larder/lock     whoever changes the library has it
//! ```
//!
//! Readers see one generation or another, nothing between, as the symlink is replaced by one rename. An exchange of
//! two directories would be as atomic, but an R that called `.libPaths()` has resolved the name: with a symlink it
//! stays in its generation to its end, where an exchange would put other packages under its feet.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fault::{self, fs};
use rustix::fs::{CWD, RenameFlags};

use super::place::{Place, Wait};
use super::record::{Record, written};
use super::{LibraryError, PRIVATE, packages_in};
use crate::fs::remove_all;
use crate::key::Reference;
use crate::lock;
use crate::package::{Description, PackageName};

/// How many generations stay if nobody says otherwise.
pub const GENERATIONS_KEPT: usize = 3;

/// In a generation that was never finished, or not yet.
const UNFINISHED: &str = "unfinished";

/// Where the generations of a library are.
#[derive(Debug, Clone)]
pub(super) struct Generations {
    /// The symlink.
    place: PathBuf,
    /// The directory with the generations, by its name.
    name: OsString,
}

/// One complete library of those that a library was, or is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number; a later one has a higher number.
    pub number: u32,
    /// When it was made.
    pub made: SystemTime,
    /// Whether it is what R sees.
    pub is_current: bool,
    /// What it holds, whoever put it there.
    pub packages: BTreeMap<PackageName, Held>,
}

/// What a library holds of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The version, as its DESCRIPTION says.
    pub version: String,
    /// What it is, if larder put it there.
    pub reference: Option<Reference>,
}

/// What became of one package from one generation to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The package.
    pub package: PackageName,
    /// The version before; `None` if it was not there.
    pub from: Option<String>,
    /// The version after; `None` if it is gone.
    pub to: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let package = &self.package;
        match (&self.from, &self.to) {
            (Some(from), Some(to)) if from == to => write!(f, "{package} {to} (another build)"),
            (Some(from), Some(to)) => write!(f, "{package} {from} -> {to}"),
            (from, Some(to)) => write!(f, "{}{package} {to}", if from.is_none() { "+" } else { "" }),
            (from, None) => write!(f, "-{package} {}", from.as_deref().unwrap_or_default()),
        }
    }
}

impl Generation {
    /// Returns what differs from an earlier generation, by package.
    pub fn differences(&self, before: &Self) -> Vec<Difference> {
        let names: BTreeSet<_> = self.packages.keys().chain(before.packages.keys()).collect();
        let differing = names.into_iter().filter(|name| self.packages.get(*name) != before.packages.get(*name));
        let version = |held: Option<&Held>| held.map(|held| held.version.clone());
        differing
            .map(|name| Difference {
                package: name.clone(),
                from: version(before.packages.get(name)),
                to: version(self.packages.get(name)),
            })
            .collect()
    }
}

/// Returns the generations of a library, oldest first. Takes no lock: one that is being made is not among them.
pub fn generations(library: &Path) -> Result<Vec<Generation>, LibraryError> {
    let place = Place::find(library)?;
    let generations = place.generations.ok_or(LibraryError::NoGenerations(place.path))?;
    let current = generations.current()?;
    let read = |number| {
        let tree = generations.tree(number);
        let entries = Record::entries(&tree)?;
        let held = |package: PackageName| {
            let description = fs::read(tree.join(&package).join("DESCRIPTION")).unwrap_or_default();
            let version = Description::parse(&description).get("Version").unwrap_or_default().to_owned();
            let reference = entries.get(&package).copied();
            (package, Held { version, reference })
        };
        let packages = packages_in(&tree)?.into_iter().map(held).collect();
        Ok(Generation { number, made: written(&tree)?, is_current: number == current, packages })
    };
    generations.finished(current)?.into_iter().map(read).collect()
}

/// Makes another generation the current one: `to`, or else the one before. The one that is left stays. Returns the
/// numbers of both.
pub fn roll_back(library: &Path, to: Option<u32>) -> Result<(u32, u32), LibraryError> {
    let place = Place::find(library)?;
    if place.generations.is_none() {
        return Err(LibraryError::NoGenerations(place.path));
    }
    let (place, _lock) = Place::lock(library, Wait::Yes)?.expect("it was waited for");
    let generations = place.generations.ok_or(LibraryError::NoGenerations(place.path))?;
    let current = generations.current()?;
    let there = generations.finished(current)?;
    let to = match to {
        Some(number) if there.contains(&number) => number,
        None if there[0] < current => *there.iter().rev().find(|number| **number < current).expect("the first one is"),
        wanted => return Err(LibraryError::NoSuchGeneration { wanted, current, there }),
    };
    if to != current {
        generations.switch(to)?;
    }
    Ok((current, to))
}

/// Returns all directories in which an R that was told of the library at `place` may find packages.
pub(crate) fn trees(place: &Path) -> io::Result<Vec<PathBuf>> {
    let generations = Generations::beside(place);
    let numbers = match generations.numbers() {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Vec::new(),
        numbers => numbers?,
    };
    Ok(std::iter::once(place.to_owned()).chain(numbers.into_iter().map(|number| generations.tree(number))).collect())
}

impl Generations {
    /// Returns where the generations of the library at `place` are, or would be.
    pub(super) fn beside(place: &Path) -> Self {
        let mut name = OsString::from(".");
        name.push(place.file_name().unwrap_or_default());
        name.push(".larder");
        Self { place: place.to_owned(), name }
    }

    /// Returns the library that `path` is a generation of, if it is one.
    pub(super) fn library_of(path: &Path) -> Option<PathBuf> {
        let dir = path.parent()?;
        let name = dir.file_name()?.to_str()?.strip_prefix('.')?.strip_suffix(".larder")?;
        let library = dir.with_file_name(name);
        let target = fs::read_link(&library).ok()?;
        let is_number = path.file_name()?.to_str()?.parse::<u32>().is_ok();
        (is_number && Self::beside(&library).number(&target).is_some()).then_some(library)
    }

    /// Returns the number of the generation that a symlink with this text leads to.
    pub(super) fn number(&self, target: &Path) -> Option<u32> {
        target.strip_prefix(&self.name).ok()?.to_str()?.parse().ok()
    }

    fn dir(&self) -> PathBuf {
        self.place.with_file_name(&self.name)
    }

    fn link_text(&self, number: u32) -> PathBuf {
        Path::new(&self.name).join(number.to_string())
    }

    pub(super) fn lock_path(&self) -> PathBuf {
        self.dir().join("lock")
    }

    pub(super) fn tree(&self, number: u32) -> PathBuf {
        self.dir().join(number.to_string())
    }

    /// Returns the number of the generation that R sees.
    pub(super) fn current(&self) -> io::Result<u32> {
        let target = fs::read_link(&self.place)?;
        let other = || io::Error::other(format!("{}: leads to no generation any more", self.place.display()));
        self.number(&target).ok_or_else(other)
    }

    fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for item in fs::read_dir(self.dir())? {
            let item = item?;
            if item.file_type()?.is_dir() {
                numbers.extend(item.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn marker(&self, number: u32) -> PathBuf {
        self.tree(number).join(PRIVATE).join(UNFINISHED)
    }

    /// Returns the numbers of what can be made current, ascending. A generation is finished when it was made so.
    fn finished(&self, current: u32) -> io::Result<Vec<u32>> {
        let mut numbers = self.numbers()?;
        numbers.retain(|number| *number == current || !self.marker(*number).exists());
        Ok(numbers)
    }

    /// Removes what a process that was killed has left. The caller has the lock.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let current = self.current()?;
        remove_all(&self.marker(current))?;
        let finished = self.finished(current)?;
        for item in fs::read_dir(self.dir())? {
            let (name, path) = item.map(|item| (item.file_name(), item.path()))?;
            let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
            if name != OsStr::new("lock") && !number.is_some_and(|number| finished.contains(&number)) {
                remove_all(&path)?;
            }
        }
        Ok(())
    }

    /// Makes the library at `place`, a directory that the caller has locked, the first generation of itself. Readers
    /// see the same packages throughout. Returns the lock that is the library's from now on.
    pub(super) fn convert(place: &Path) -> Result<(Self, fs::File), LibraryError> {
        let this = Self::beside(place);
        fs::create_dir_all(this.dir())?;
        let held = fs::OpenOptions::new().create(true).append(true).open(this.lock_path())?;
        lock::take(&held)?;
        pin_links(place)?;
        let first = this.numbers()?.last().map_or(0, |last| last + 1);
        let tree = this.tree(first);
        remove_all(&tree)?;
        fs::os::unix::fs::symlink(this.link_text(first), &tree)?;
        if let Err(source) = this.take_place_of(place, first) {
            let _ = fs::remove_file(&tree);
            return Err(LibraryError::NotExchanged { path: place.to_owned(), source });
        }
        Ok((this, held))
    }

    /// Puts the symlink that is prepared where generation `first` will be in the place of the directory at `place`, and
    /// that directory where the symlink leads.
    fn take_place_of(&self, place: &Path, first: u32) -> io::Result<()> {
        let tree = self.tree(first);
        fault::point("generations: exchange")?;
        match rustix::fs::renameat_with(CWD, &tree, CWD, place, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(()),
            Err(error) if !packages_in(place)?.is_empty() => Err(error.into()),
            // Nobody misses an empty library for an instant.
            Err(_) => {
                fs::remove_file(&tree)?;
                fs::rename(place, &tree)?;
                fs::os::unix::fs::symlink(self.link_text(first), place)
            }
        }
    }

    /// Makes the directory of the next generation and returns its number.
    pub(super) fn begin(&self) -> io::Result<u32> {
        let number = self.numbers()?.last().map_or(0, |last| last + 1);
        fs::create_dir_all(self.tree(number).join(PRIVATE))?;
        fs::write(self.marker(number), "")?;
        Ok(number)
    }

    /// Makes a generation that is complete the current one. It is on the disk before it can be seen.
    pub(super) fn finish(&self, number: u32) -> io::Result<()> {
        fault::point("generations: syncfs")?;
        rustix::fs::syncfs(fs::File::open(self.tree(number))?)?;
        self.switch(number)?;
        remove_all(&self.marker(number))
    }

    fn switch(&self, number: u32) -> io::Result<()> {
        let next = self.dir().join("next");
        remove_all(&next)?;
        fs::os::unix::fs::symlink(self.link_text(number), &next)?;
        fs::rename(&next, &self.place)?;
        fault::point("generations: flush the place")?;
        fs::File::open(self.place.parent().unwrap_or(Path::new("/")))?.sync_all()
    }

    /// Removes generations, but for the current one and the newest `keep`. An empty one is nobody's to go back to.
    pub(super) fn prune(&self, keep: usize) -> io::Result<()> {
        let current = self.current()?;
        let mut numbers = self.finished(current)?;
        numbers.reverse();
        for (n_newer, number) in numbers.into_iter().enumerate().filter(|(_, number)| *number != current) {
            if n_newer >= keep || packages_in(&self.tree(number))?.is_empty() {
                // Renamed first: half removed, it must not be taken for a generation.
                let aside = self.dir().join(format!("removed-{number}"));
                fs::rename(self.tree(number), &aside)?;
                remove_all(&aside)?;
            }
        }
        Ok(())
    }
}

/// Makes relative symlinks of a library's packages absolute: they are about to be in another directory.
fn pin_links(library: &Path) -> io::Result<()> {
    for package in packages_in(library)? {
        let place = library.join(&package);
        match fs::read_link(&place) {
            Ok(target) if target.is_relative() => {
                let pinned = library.join(PRIVATE).join("pinned");
                remove_all(&pinned)?;
                fs::os::unix::fs::symlink(fs::canonicalize(&place)?, &pinned)?;
                fs::rename(pinned, place)?;
            }
            _ => {}
        }
    }
    Ok(())
}
