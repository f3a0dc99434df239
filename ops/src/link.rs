//! Putting a stored tree at another place without copying its bytes where the file system can avoid it.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Timestamps};
use rustix::io::Errno;

use crate::fault;

/// How a stored tree gets into a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkMode {
    /// Every file shares its blocks with the stored one until one of them is written (btrfs, XFS).
    Reflink,
    /// Every file is another name of the stored one. Stored files are read-only, so an editor cannot change them.
    Hardlink,
    /// The package's directory is a symlink into the store. Best on network file systems; needs the store to stay.
    Symlink,
    /// Every file is copied.
    Copy,
}

impl fmt::Display for LinkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reflink => "reflink",
            Self::Hardlink => "hard link",
            Self::Symlink => "symlink",
            Self::Copy => "copy",
        })
    }
}

/// Links trees the best way that works between two places, and remembers which way that is.
///
/// Source and destination may be on different file systems: that is a reason to copy, never an error.
#[derive(Debug)]
pub struct Linker {
    /// Index into [`LADDER`]; only ever grows, so that a way that cannot work is not tried for every file.
    rung: AtomicU8,
    is_symlink: bool,
    has_copied: AtomicBool,
}

const LADDER: [LinkMode; 3] = [LinkMode::Reflink, LinkMode::Hardlink, LinkMode::Copy];

impl Linker {
    /// Links by `chosen`, or with `None` by reflink, else hard link, else copy. A chosen way that the file system
    /// refuses also falls back along that ladder; [`Linker::mode`] tells.
    pub fn new(chosen: Option<LinkMode>) -> Self {
        let rung = match chosen {
            None | Some(LinkMode::Reflink | LinkMode::Symlink) => 0,
            Some(LinkMode::Hardlink) => 1,
            Some(LinkMode::Copy) => 2,
        };
        Self {
            rung: AtomicU8::new(rung),
            is_symlink: chosen == Some(LinkMode::Symlink),
            has_copied: AtomicBool::new(false),
        }
    }

    /// Returns the way that is used now.
    pub fn mode(&self) -> LinkMode {
        if self.is_symlink { LinkMode::Symlink } else { LADDER[usize::from(self.rung.load(Ordering::Relaxed))] }
    }

    /// Says whether bytes were copied: only those can get lost when the power fails, where the file system keeps a
    /// journal.
    pub fn has_copied(&self) -> bool {
        self.has_copied.load(Ordering::Relaxed)
    }

    /// Makes `destination` (which must not exist) the same tree as `source`. On an error part of it may be there.
    pub fn link_tree(&self, source: &Path, destination: &Path) -> io::Result<()> {
        let named = |error: Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{} -> {}: {error}", source.display(), destination.display()))
        };
        fault::point("link: a tree")?;
        if self.is_symlink {
            return rustix::fs::symlink(source, destination).map_err(named);
        }
        let from = open_dir(CWD, source).map_err(named)?;
        rustix::fs::mkdir(destination, Mode::from_raw_mode(0o755)).map_err(named)?;
        let to = open_dir(CWD, destination).map_err(named)?;
        self.link_dir(&from, &to).map_err(named)
    }

    fn link_dir(&self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        /// More than most directories of a package take.
        const LIST_BYTES: usize = 16 << 10;
        // The plain way to list a directory opens it once more.
        let mut list = Vec::with_capacity(LIST_BYTES);
        let mut items = RawDir::new(from, list.spare_capacity_mut());
        while let Some(item) = items.next() {
            let item = item?;
            let name = item.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match item.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            match kind {
                FileType::Directory => {
                    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o755))?;
                    self.link_dir(&open_dir(from, name)?, &open_dir(to, name)?)?;
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                    rustix::fs::symlinkat(target, to, name)?;
                }
                _ => self.link_file(from.as_fd(), to.as_fd(), name)?,
            }
        }
        Ok(())
    }

    fn link_file(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let rung = self.rung.load(Ordering::Relaxed);
        let result = match LADDER[usize::from(rung)] {
            LinkMode::Reflink => point("link: reflink").and_then(|()| reflink(from, to, name)),
            LinkMode::Hardlink => {
                point("link: hard link").and_then(|()| rustix::fs::linkat(from, name, to, name, AtFlags::empty()))
            }
            LinkMode::Symlink | LinkMode::Copy => return self.copy(from, to, name),
        };
        match result {
            Ok(()) => Ok(()),
            // One file has all the links that the file system allows; others have not.
            Err(Errno::MLINK) => self.copy(from, to, name),
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM | Errno::NOSYS | Errno::NOTTY) => {
                let _ = self.rung.compare_exchange(rung, rung + 1, Ordering::Relaxed, Ordering::Relaxed);
                self.link_file(from, to, name)
            }
            Err(error) => Err(error),
        }
    }

    fn copy(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        point("link: copy")?;
        self.has_copied.store(true, Ordering::Relaxed);
        copy(from, to, name)
    }
}

fn point(name: &'static str) -> Result<(), Errno> {
    fault::point(name).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn open_dir(at: impl AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn open_pair(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(OwnedFd, OwnedFd), Errno> {
    let source = rustix::fs::openat(from, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&source)?.st_mode);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fchmod(&target, mode)?;
    Ok((source, target))
}

fn reflink(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let (source, target) = open_pair(from, to, name)?;
    match rustix::fs::ioctl_ficlone(&target, &source) {
        Ok(()) => keep_times(&source, &target),
        Err(error) => {
            rustix::fs::unlinkat(to, name, AtFlags::empty())?;
            Err(error)
        }
    }
}

fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let (source, target) = open_pair(from, to, name)?;
    let (mut reader, mut writer) = (std::fs::File::from(source), std::fs::File::from(target));
    io::copy(&mut reader, &mut writer).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    keep_times(&reader, &writer)
}

/// R compares mtimes of installed files with those of sources and caches, so they are kept.
fn keep_times(source: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(source)?;
    let time = |seconds, nanoseconds| rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let modified = time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
    rustix::fs::futimens(target, &Timestamps { last_access: modified, last_modification: modified })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use fs_err as fs;

    use super::*;

    fn stored(dir: &Path) -> std::path::PathBuf {
        let tree = dir.join("stored");
        fs::create_dir_all(tree.join("R/empty")).unwrap();
        fs::write(tree.join("DESCRIPTION"), "Package: demo\n").unwrap();
        fs::write(tree.join("R/code"), "x").unwrap();
        rustix::fs::symlink("code", tree.join("R/link")).unwrap();
        crate::fs::make_read_only(&tree).unwrap();
        tree
    }

    #[test]
    fn every_mode_gives_the_same_tree() {
        for mode in [None, Some(LinkMode::Hardlink), Some(LinkMode::Copy), Some(LinkMode::Symlink)] {
            let dir = tempfile::tempdir().unwrap();
            let (tree, linked) = (stored(dir.path()), dir.path().join("linked"));
            Linker::new(mode).link_tree(&tree, &linked).unwrap();
            assert_eq!(fs::read_to_string(linked.join("R/link")).unwrap(), "x", "{mode:?}");
            assert!(linked.join("R/empty").is_dir());
            let (stored, linked) = (tree.join("R/code").metadata().unwrap(), linked.join("R/code").metadata().unwrap());
            assert_eq!((stored.mode(), stored.mtime_nsec()), (linked.mode(), linked.mtime_nsec()), "{mode:?}");
        }
    }

    #[test]
    fn another_file_system_means_a_copy() {
        let (here, shm) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        let Ok(there) = tempfile::tempdir_in(shm) else { return eprintln!("skipped: no {}", shm.display()) };
        if here.path().metadata().unwrap().dev() == there.path().metadata().unwrap().dev() {
            return eprintln!("skipped: {} is on the same file system", shm.display());
        }
        let linker = Linker::new(Some(LinkMode::Hardlink));
        linker.link_tree(&stored(here.path()), &there.path().join("linked")).unwrap();
        assert_eq!(linker.mode(), LinkMode::Copy);
        assert_eq!(fs::read_to_string(there.path().join("linked/R/code")).unwrap(), "x");
    }
}
