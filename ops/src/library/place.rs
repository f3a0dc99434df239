//! Where a library is: a directory, or a symlink to one of its generations; and the lock that goes with it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fault::fs;

use super::generations::Generations;
use super::{LibraryError, PRIVATE};
use crate::lock;

/// A library as it was found, which is not changed by looking.
#[derive(Debug)]
pub(super) struct Place {
    /// What R is told: a directory, or the symlink to a generation; its parent is resolved.
    pub(super) path: PathBuf,
    /// The generations, if it is made of such.
    pub(super) generations: Option<Generations>,
}

/// Whether to wait for other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Yes,
    No,
}

impl Place {
    /// Looks where `library` is. A symlink of the user's own is followed: what it leads to is the library.
    pub(super) fn find(library: &Path) -> Result<Self, LibraryError> {
        // As many as the kernel follows.
        const LINKS_MAX: usize = 40;
        let mut path = resolve_parent(&std::path::absolute(library)?)?;
        for _ in 0..LINKS_MAX {
            let Ok(target) = fs::read_link(&path) else { break };
            let generations = Generations::beside(&path);
            if generations.number(&target).is_some() {
                return Ok(Self { path, generations: Some(generations) });
            }
            path = resolve_parent(&path.with_file_name(target))?;
        }
        match Generations::library_of(&path) {
            Some(library) => Err(LibraryError::IsGeneration { path, library }),
            None => Ok(Self { path, generations: None }),
        }
    }

    /// Returns the directory with the packages.
    pub(super) fn root(&self) -> Result<PathBuf, LibraryError> {
        match &self.generations {
            Some(generations) => Ok(generations.tree(generations.current()?)),
            None => Ok(self.path.clone()),
        }
    }

    fn lock_path(&self) -> PathBuf {
        match &self.generations {
            Some(generations) => generations.lock_path(),
            None => self.path.join(PRIVATE).join("lock"),
        }
    }

    /// Returns which process changes the library, if one does and that can be told.
    pub(super) fn holder(library: &Path) -> Option<u32> {
        lock::holder(&Self::find(library).ok()?.lock_path())
    }

    /// Creates the library if need be, and keeps others from changing it while the file is open. `None` if somebody
    /// else does that now and it was not to be waited for.
    pub(super) fn lock(library: &Path, wait: Wait) -> Result<Option<(Self, fs::File)>, LibraryError> {
        loop {
            let path = Self::find(library)?.lock_path();
            fs::create_dir_all(path.parent().expect("it is in a directory"))?;
            let file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
            match wait {
                Wait::Yes => lock::take(&file)?,
                Wait::No if !lock::try_take(&file)? => return Ok(None),
                Wait::No => {}
            }
            // Whoever had the lock before may have made it a library of generations, which have another one.
            let place = Self::find(library)?;
            if place.lock_path() == path && is_same(&file, &path) {
                lock::name_holder(&file);
                return Ok(Some((place, file)));
            }
        }
    }
}

/// Keeps others from changing a library that is only read, while the file is open; `None` where nobody ever changed it
/// by larder, or where it is a generation, which does not change. Does not wait.
pub(super) fn lock_shared(library: &Path) -> Result<Option<fs::File>, LibraryError> {
    let Ok(file) = fs::File::open(library.join(PRIVATE).join("lock")) else { return Ok(None) };
    if lock::try_take_shared(&file)? { Ok(Some(file)) } else { Err(LibraryError::Busy(library.to_owned())) }
}

fn is_same(file: &fs::File, path: &Path) -> bool {
    let id = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
    matches!((file.metadata(), path.metadata()), (Ok(file), Ok(path)) if id(&file) == id(&path))
}

/// Resolves all of a path but its last part, as far as it exists.
fn resolve_parent(path: &Path) -> io::Result<PathBuf> {
    // Without a slash at its end, by which the kernel would follow a symlink.
    let path: PathBuf = path.components().collect();
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return fs::canonicalize(path) };
    match fs::canonicalize(parent) {
        Ok(parent) => Ok(parent.join(name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(resolve_parent(parent)?.join(name)),
        Err(error) => Err(error),
    }
}
