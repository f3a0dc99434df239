//! Locks between processes: the kernel's, on a file that says who holds it.
//!
//! A process that dies, by whatever means, has released its locks, so none is ever "stale". The file goes away with the
//! lock, unless its holder was killed: then it is an empty promise that the next holder takes over, or a sweep removes.

use std::fs::TryLockError;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::fault::{self, fs};
use rustix::io::Errno;

/// A lock that this process holds until the value is dropped.
#[derive(Debug)]
pub struct Lock {
    file: fs::File,
    path: PathBuf,
}

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Attempt {
    /// It is ours.
    Taken(Lock),
    /// Another has it: the process with this id, if that can be told.
    HeldBy(Option<u32>),
}

impl Lock {
    /// Takes the lock at `path` if nobody has it. The file is made if need be, its directory is not.
    pub fn attempt(path: &Path) -> io::Result<Attempt> {
        loop {
            let file = open(path)?;
            if !try_take(&file)? {
                return Ok(Attempt::HeldBy(holder(path)));
            }
            if let Some(lock) = Self::named(file, path)? {
                return Ok(Attempt::Taken(lock));
            }
        }
    }

    /// Takes the lock at `path`, after its holder has released it or died.
    pub fn wait(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            take(&file)?;
            if let Some(lock) = Self::named(file, path)? {
                return Ok(lock);
            }
        }
    }

    /// Removes the file of a lock that nobody holds; says whether it is gone.
    pub fn sweep(path: &Path) -> bool {
        let Ok(file) = fs::File::open(path) else { return false };
        let is_free = file.file().try_lock().is_ok() && is_at(&file, path).unwrap_or(false);
        is_free && fs::remove_file(path).is_ok()
    }

    /// Makes a locked file the lock, if it still has its name: whoever held it before has removed it.
    fn named(file: fs::File, path: &Path) -> io::Result<Option<Self>> {
        if !is_at(&file, path)? {
            return Ok(None);
        }
        name_holder(&file);
        Ok(Some(Self { file, path: path.to_owned() }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is held nobody else removes it, and whoever waits for it looks at the name again.
        if is_at(&self.file, &self.path).unwrap_or(false) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().read(true).create(true).append(true).open(path)
}

fn is_at(file: &fs::File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    #[expect(clippy::disallowed_methods, reason = "that it is not there is an answer, not an error")]
    let named = std::fs::metadata(path);
    Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())))
}

/// Writes into a locked file that this process has it. Only for people: a full disk may keep it from being written.
pub(crate) fn name_holder(mut file: &fs::File) {
    let _ = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
}

/// Returns the process that a lock file names: the one that has the lock, or had it last.
pub(crate) fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Waits for the lock on a file, for as long as it is open.
pub(crate) fn take(file: &fs::File) -> io::Result<()> {
    fault::point("lock").and_then(|()| file.file().lock()).map_err(|error| refusal(file.path(), &error))
}

/// As [`take`], but together with others that share it.
pub(crate) fn take_shared(file: &fs::File) -> io::Result<()> {
    fault::point("lock").and_then(|()| file.file().lock_shared()).map_err(|error| refusal(file.path(), &error))
}

/// Takes the lock on a file if nobody has it; says whether it did.
pub(crate) fn try_take(file: &fs::File) -> io::Result<bool> {
    taken(file, std::fs::File::try_lock)
}

/// As [`try_take`], but together with others that share it.
pub(crate) fn try_take_shared(file: &fs::File) -> io::Result<bool> {
    taken(file, std::fs::File::try_lock_shared)
}

fn taken(file: &fs::File, take: fn(&std::fs::File) -> Result<(), TryLockError>) -> io::Result<bool> {
    match fault::point("lock").map_err(TryLockError::Error).and_then(|()| take(file.file())) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(refusal(file.path(), &error)),
    }
}

/// Says of a file system that has no locks what that means.
fn refusal(path: &Path, error: &io::Error) -> io::Error {
    let errno = Errno::from_io_error(error);
    let path = path.display();
    if [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL].map(Some).contains(&errno) {
        io::Error::new(io::ErrorKind::Unsupported, NoLocks(format!("{path}: the file system refuses locks: {error}")))
    } else {
        io::Error::new(error.kind(), format!("{path}: cannot be locked: {error}"))
    }
}

/// A file system that has no locks; the text names the file.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoLocks(String);

/// Names the holder of a lock, for people.
pub fn shown(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another process".to_owned(), |pid| format!("PID {pid}"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_lock_tells_who_holds_it_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let Attempt::Taken(lock) = Lock::attempt(&path).unwrap() else { panic!("nobody has it") };
        let Attempt::HeldBy(Some(pid)) = Lock::attempt(&path).unwrap() else { panic!("it is held") };
        assert_eq!(pid, std::process::id());
        assert!(!Lock::sweep(&path), "what is held is not swept");
        drop(lock);
        assert!(!path.exists());
        assert!(matches!(Lock::attempt(&path).unwrap(), Attempt::Taken(_)));
    }

    #[test]
    fn what_a_killed_holder_left_is_taken_over_or_swept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        fs::write(&path, "4194303").unwrap();
        assert!(matches!(Lock::attempt(&path).unwrap(), Attempt::Taken(_)));
        fs::write(&path, "4194303").unwrap();
        assert!(Lock::sweep(&path));
        assert!(!path.exists());
    }

    #[test]
    fn one_at_a_time_although_each_holder_removes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _lock = Lock::wait(&path).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        entered.fetch_add(1, Ordering::Relaxed);
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    }
                });
            }
            scope.spawn(|| (0..500).for_each(|_| _ = Lock::sweep(&path)));
        });
        assert_eq!(entered.into_inner(), 800);
    }
}
