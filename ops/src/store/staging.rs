//! Staging: directories beside the store's entries in which builds happen, owned by one process each.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fault::{self, fs};

use crate::fs::remove_all;
use crate::lock;

/// This process's part of `.staging`. Its lock file exists and is locked before the directory exists, so whoever
/// can take the lock of a directory (or finds none) knows that the owner is dead.
#[derive(Debug)]
pub(super) struct Staging {
    owned: Arc<Owned>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Owned {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: fs::File,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // What cannot be removed now is ownerless from here on, and swept by the next process.
        let _ = remove_all(&self.dir);
        let _ = fs::remove_file(&self.lock_path);
    }
}

impl Staging {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        sweep(root);
        let (staging, locks) = (root.join(".staging"), root.join(".locks/staging"));
        fs::create_dir_all(&staging)?;
        fs::create_dir_all(&locks)?;
        let (uuid, lock_path, lock) = loop {
            let uuid = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
            let lock_path = lock_path(&locks, &uuid);
            fault::point("staging: lock file")?;
            let lock = fs::OpenOptions::new().create_new(true).append(true).open(&lock_path)?;
            lock::take(&lock)?;
            // Before it was locked, whoever sweeps took it for a dead process's.
            if lock_path.exists() {
                break (uuid, lock_path, lock);
            }
        };
        let dir = staging.join(&uuid);
        fs::create_dir(&dir)?;
        Ok(Self { owned: Arc::new(Owned { dir, lock_path, _lock: lock }), next: AtomicUsize::new(0) })
    }

    pub(super) fn dir(&self) -> io::Result<StagingDir> {
        let dir = self.owned.dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir)?;
        Ok(StagingDir { dir, _owned: Arc::clone(&self.owned) })
    }
}

fn lock_path(locks: &Path, uuid: &str) -> PathBuf {
    locks.join(format!("{uuid}.lock"))
}

/// Removes what dead processes left in the staging of the store at `root`. What cannot be removed stays for another time.
pub(super) fn sweep(root: &Path) {
    let (staging, locks) = (root.join(".staging"), root.join(".locks/staging"));
    for item in fs::read_dir(&staging).into_iter().flatten().flatten() {
        let lock_path = lock_path(&locks, &item.file_name().to_string_lossy());
        let lock = fs::File::open(&lock_path);
        if lock.as_ref().is_ok_and(|lock| lock.file().try_lock().is_err()) {
            continue;
        }
        tracing::debug!(dir = %item.path().display(), "removing what a dead process left");
        // A compiler that it left behind may still write there: then it is for the next process to remove.
        match remove_all(&item.path()) {
            Ok(()) => drop(fs::remove_file(&lock_path)),
            Err(error) => tracing::debug!(%error, "left for the next process"),
        }
    }
    // Killed between the two, a process leaves its lock without a directory.
    for item in fs::read_dir(&locks).into_iter().flatten().flatten() {
        let Ok(lock) = fs::File::open(item.path()) else { continue };
        let has_dir = || staging.join(item.path().file_stem().unwrap_or_default()).exists();
        if lock.file().try_lock().is_ok() && !has_dir() {
            let _ = fs::remove_file(item.path());
        }
    }
}

/// A directory on the store's file system that goes away with this value.
#[derive(Debug)]
pub struct StagingDir {
    dir: PathBuf,
    _owned: Arc<Owned>,
}

impl StagingDir {
    /// Returns the directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        let _ = remove_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn what_dead_processes_left_is_swept_and_what_lives_is_not() {
        let root = tempfile::tempdir().unwrap();
        let living = Staging::open(root.path()).unwrap().dir().unwrap();
        let dead = root.path().join(".staging/dead");
        fs::create_dir_all(dead.join("0/source")).unwrap();
        sweep(root.path());
        assert!(!dead.exists());
        assert!(living.path().exists());
    }

    #[test]
    fn what_an_orphan_still_writes_to_is_left_for_another_time() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join(".staging/dead/0");
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let _ = fs::create_dir_all(&dead).and_then(|()| fs::write(dead.join("object.o"), "x"));
                }
            });
            (0..100).for_each(|_| sweep(root.path()));
            is_over.store(true, Ordering::Relaxed);
        });
        sweep(root.path());
        assert!(!dead.exists(), "now it is the next time");
    }
}
