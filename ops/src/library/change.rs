//! Changing a library: package by package, or as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;

use crate::fault::{self, fs};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::generations::{GENERATIONS_KEPT, Generations};
use super::record::Written;
use super::{Library, LibraryError, Record, packages_in};
use crate::fs::clear;
use crate::key::Reference;
use crate::link::{LinkMode, Linker};
use crate::package::PackageName;

/// What is to be changed in a library.
#[derive(Debug, Clone)]
pub struct Change {
    /// What goes in, in the place of what is there of these packages.
    pub put: Vec<Put>,
    /// What goes out.
    pub remove: BTreeSet<PackageName>,
    /// How many generations stay, if it is a library of such.
    pub generations_kept: usize,
}

impl Default for Change {
    fn default() -> Self {
        Self { put: Vec::new(), remove: BTreeSet::new(), generations_kept: GENERATIONS_KEPT }
    }
}

/// A package that goes into a library.
#[derive(Debug, Clone)]
pub struct Put {
    /// The package.
    pub package: PackageName,
    /// Where it is now.
    pub tree: PathBuf,
    /// What it is.
    pub what: What,
}

/// What is put into a library: this decides whether its files may be shared, and whether the record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// An entry of the store.
    Stored(Reference),
    /// What larder put into another library.
    InLibrary(Reference),
    /// What somebody else put into another library. Its files may be written to, so they are copied.
    Foreign,
}

impl What {
    fn reference(self) -> Option<Reference> {
        match self {
            Self::Stored(reference) | Self::InLibrary(reference) => Some(reference),
            Self::Foreign => None,
        }
    }
}

impl Library {
    /// Makes the next generation out of this one and the change, and makes it the current one.
    pub(super) fn next_generation(
        &mut self,
        generations: &Generations,
        change: &Change,
        linker: &Linker,
    ) -> Result<(), LibraryError> {
        let changed = changed(change);
        let mut record = self.record.clone();
        record.entries.retain(|package, _| !changed.contains(package));
        record.pending.retain(|package| !changed.contains(package));
        let mut carried = Vec::new();
        for package in packages_in(&self.root)?.into_iter().filter(|package| !changed.contains(package)) {
            let what = record.entries.get(&package).map_or(What::Foreign, |reference| What::InLibrary(*reference));
            carried.push(Put { tree: self.root.join(&package), package, what });
        }
        record.entries.retain(|package, _| carried.iter().any(|put: &Put| put.package == *package));
        record.entries.extend(change.put.iter().filter_map(|put| Some((put.package.clone(), put.what.reference()?))));
        let all: Vec<&Put> = carried.iter().chain(&change.put).collect();
        let number = generations.begin()?;
        let root = generations.tree(number);
        let made = (|| {
            place_all(&all, linker, |put| root.join(&put.package))?;
            record.write(&root)?;
            generations.finish(number)
        })();
        if let Err(error) = made {
            // On a full disk the room is wanted now; what cannot be removed is swept by the next run.
            let _ = generations.sweep();
            return Err(error.into());
        }
        (self.root, self.record) = (root, record);
        Ok(generations.prune(change.generations_kept)?)
    }

    /// Replaces the packages one by one.
    pub(super) fn replace_each(&mut self, change: &Change, linker: &Linker) -> Result<(), LibraryError> {
        let staging = super::staging(&self.root);
        let (changed, after) = (changed(change), after(&self.record, change));
        let before = self.record.pending.clone();
        self.record.pending.extend(changed.iter().cloned());
        let (in_place, written) = match self.make_ready(&staging, change, &after, linker) {
            Ok(made) => made,
            Err(error) => {
                self.record.pending = before;
                // Nothing has changed. If that cannot be written down, the next run looks at these packages again.
                let _ = self.record.write_pending(&self.root);
                return Err(error.into());
            }
        };
        for Put { package, .. } in change.put.iter().filter(|put| !in_place.contains(&put.package)) {
            replace(&staging, &self.root, package)?;
        }
        for package in &change.remove {
            let place = self.root.join(package);
            if place.symlink_metadata().is_ok() {
                fs::rename(place, aside(&staging, package))?;
            }
        }
        written.into_iter().try_for_each(Written::take_place)?;
        self.record.entries = after;
        self.record.pending.retain(|package| !changed.contains(package));
        self.record.write_pending(&self.root)?;
        // What was replaced is in there, mostly nothing.
        Ok(clear(&staging)?)
    }

    /// Makes everything that needs no other package to leave its place; returns which packages are in theirs, and what
    /// is to get its name when all are. What of that has to be on the disk gets there while links are made and renamed.
    fn make_ready<'a>(
        &self,
        staging: &Path,
        change: &'a Change,
        after: &BTreeMap<PackageName, Reference>,
        linker: &Linker,
    ) -> io::Result<(BTreeSet<&'a PackageName>, Vec<Written>)> {
        let (record, root) = (&self.record, self.root.as_path());
        record.write_pending(root)?;
        let platform = (!record.has_platform(root)).then(|| record.write_platform(root)).transpose()?;
        let links = self.ahead.take_links();
        let entries = match self.ahead.take_record() {
            Some((entries, written)) if entries == *after => written,
            _ => Record::write_entries(root, after)?.begun()?,
        };
        stage_all(staging, change, links, linker)?;
        let mut in_place = BTreeSet::new();
        let made = appear_all(root, staging, change, &mut in_place).and_then(|()| entries.flushed());
        let entries = made.inspect_err(|_| take_back(root, staging, &in_place))?;
        Ok((in_place, platform.into_iter().chain([entries]).collect()))
    }
}

/// Puts everything that goes in into staging, but for the symlinks that are there.
fn stage_all(
    staging: &Path,
    change: &Change,
    mut links: BTreeMap<PackageName, PathBuf>,
    linker: &Linker,
) -> io::Result<()> {
    fs::create_dir_all(staging)?;
    let mut rest = Vec::new();
    for put in &change.put {
        match links.remove(&put.package) {
            Some(tree) if tree == put.tree && linker.mode() == LinkMode::Symlink => continue,
            // It came from elsewhere in the end.
            Some(_) => fs::remove_file(staging.join(&put.package))?,
            None => {}
        }
        rest.push(put);
    }
    let has_copied = place_all(&rest, linker, |put| staging.join(&put.package))?;
    if has_copied {
        // Names are in the file system's journal before the record is; what was copied is not.
        fault::point("library: syncfs")?;
        rustix::fs::syncfs(fs::File::open(staging)?).map_err(io::Error::from)?;
    }
    Ok(())
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns what the record is to say when all is done.
fn after(record: &Record, change: &Change) -> BTreeMap<PackageName, Reference> {
    let mut entries = record.entries.clone();
    entries.retain(|package, _| !change.remove.contains(package));
    for put in &change.put {
        match put.what.reference() {
            Some(reference) => drop(entries.insert(put.package.clone(), reference)),
            None => drop(entries.remove(&put.package)),
        }
    }
    entries
}

fn changed(change: &Change) -> BTreeSet<PackageName> {
    change.put.iter().map(|put| &put.package).chain(&change.remove).cloned().collect()
}

/// No package has such a name.
fn aside(staging: &Path, package: &PackageName) -> PathBuf {
    staging.join(format!("{package}-old"))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| named(path, error))
}

fn named(path: &Path, error: Errno) -> io::Error {
    io::Error::new(io::Error::from(error).kind(), format!("{}: {error}", path.display()))
}

/// Moves staged packages to where none of their names is; what is in its place is added to `in_place`.
fn appear_all<'a>(
    root: &Path,
    staging: &Path,
    change: &'a Change,
    in_place: &mut BTreeSet<&'a PackageName>,
) -> io::Result<()> {
    let (from, to) = (open_dir(staging)?, open_dir(root)?);
    for Put { package, .. } in &change.put {
        fault::point("library: put in place")?;
        let name = package.as_str();
        match rustix::fs::renameat_with(&from, name, &to, name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            // Some network file systems cannot tell.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                let place = root.join(package);
                if place.symlink_metadata().is_ok() {
                    continue;
                }
                fs::rename(staging.join(package), place)?;
            }
            Err(error) => return Err(named(&root.join(package), error)),
        }
        in_place.insert(package);
    }
    Ok(())
}

/// Undoes that.
fn take_back(root: &Path, staging: &Path, in_place: &BTreeSet<&PackageName>) {
    for package in in_place {
        let _ = fs::rename(root.join(package), staging.join(package));
    }
}

/// Moves one to where one of its name is.
fn replace(staging: &Path, root: &Path, package: &PackageName) -> io::Result<()> {
    let (staged, place) = (staging.join(package), root.join(package));
    fault::point("library: exchange")?;
    // A directory cannot be renamed over another. Exchanged, the old one is in staging, to be removed.
    if rustix::fs::renameat_with(CWD, &staged, CWD, &place, RenameFlags::EXCHANGE).is_ok() {
        return Ok(());
    }
    // Some network file systems have no exchange. Killed between the two, the package is missing, not half there,
    // and pending, so that the next run puts it back.
    fs::rename(&place, aside(staging, package))?;
    fs::rename(staged, place)
}

/// Puts all trees in their places, several at a time: the work is the kernel's, mostly waiting for locks of
/// directories, and a second thread helps even on one core's worth of it. A few symlinks are made sooner than a thread
/// starts. Says whether bytes were copied.
fn place_all(all: &[&Put], linker: &Linker, place: impl Fn(&Put) -> PathBuf + Sync) -> io::Result<bool> {
    let (sharing, copying) = (Linker::new(None), Linker::new(Some(LinkMode::Copy)));
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(put) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let place = place(put);
            match (put.what, linker.mode()) {
                (What::Stored(_), _) => linker.link_tree(&put.tree, &place)?,
                // It leads into the store, or wherever its owner wanted; the library that has it may go.
                _ if put.tree.is_symlink() => {
                    fs::os::unix::fs::symlink(fs::canonicalize(&put.tree)?, place)?;
                }
                (What::InLibrary(_), LinkMode::Symlink) => sharing.link_tree(&put.tree, &place)?,
                (What::InLibrary(_), _) => linker.link_tree(&put.tree, &place)?,
                (What::Foreign, _) => copying.link_tree(&put.tree, &place)?,
            }
        }
        Ok::<_, io::Error>(())
    };
    if linker.mode() == LinkMode::Symlink {
        work()?;
    } else {
        let n_threads = std::thread::available_parallelism().map_or(2, usize::from).min(all.len());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(joined)
        })?;
    }
    Ok([linker, &sharing, &copying].into_iter().any(Linker::has_copied))
}
