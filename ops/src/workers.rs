//! The libraries of workers: directories on the store's file system that each belong to one process, such as one R
//! session of an application server.
//!
//! ```text
//! {store}/.workers/{id}/             the library
//! {store}/.locks/workers/{id}.json   its owner; there before the library is, and after
//! ```
//!
//! What a library holds is not known here. One whose owner has ended is swept; one without an owner, or whose owner
//! cannot be seen from here (another machine, another container), stays until somebody removes it by its id.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fault::fs;
use serde::{Deserialize, Serialize};

use crate::fs::{remove_all, walk, write_atomically};
use crate::library::Library;

/// All libraries of workers in one store.
#[derive(Debug, Clone)]
pub struct Workers {
    libraries: PathBuf,
    owners: PathBuf,
}

/// The name of one library: 32 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);

/// One library of a worker.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its name.
    pub id: WorkerId,
    /// Where it is.
    pub library: PathBuf,
    /// When it was made.
    pub made: SystemTime,
    /// The owner's process id.
    pub owner: Option<u32>,
    /// Whether its owner runs.
    pub life: Life,
}

/// Whether the owner of a library runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It does.
    Alive,
    /// It has ended, or the machine has been started anew since.
    Ended,
    /// It has no owner, or one that cannot be seen from here.
    Unknown,
}

/// A process, in a way that another one with its number later is not taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    pid: u32,
    /// Its time of start, in the kernel's ticks since boot.
    started: u64,
    /// The kernel's name for this boot of the machine, and for the processes that can be seen.
    namespace: String,
}

/// Why there is no library for a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The file system refused; the message has the path.
    #[error("the workers' libraries: {0}")]
    Io(#[from] io::Error),
    /// There is no such process.
    #[error("there is no process {0} to own the library")]
    NoOwner(u32),
    /// It is no id.
    #[error("`{0}` is no worker's library: expected an id of 32 hex digits")]
    NotAnId(String),
}

impl From<WorkerError> for io::Error {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Io(error) => error,
            other => Self::other(other),
        }
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl WorkerId {
    /// Takes an id, or the library's directory, whose name it is.
    pub fn parse(text: &Path) -> Result<Self, WorkerError> {
        let name = text.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.len() == 32 && name.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c)) {
            Ok(Self(name.to_owned()))
        } else {
            Err(WorkerError::NotAnId(text.display().to_string()))
        }
    }
}

impl Workers {
    /// Looks at the store at `root`; nothing is made.
    pub fn of(root: &Path) -> Self {
        Self { libraries: root.join(".workers"), owners: root.join(".locks/workers") }
    }

    /// Makes an empty library that no other worker has. With an owner it may be removed by anybody once that process
    /// has ended; without, it stays until [`Workers::remove`].
    pub fn create(&self, owner: Option<u32>) -> Result<Worker, WorkerError> {
        let record = owner.map(|pid| Owner::of(pid).ok_or(WorkerError::NoOwner(pid))).transpose()?;
        fs::create_dir_all(&self.libraries)?;
        fs::create_dir_all(&self.owners)?;
        let id = WorkerId(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)));
        write_atomically(&self.owner_path(&id), &serde_json::to_vec(&record).map_err(io::Error::from)?)?;
        fs::create_dir(self.library(&id))?;
        Ok(self.worker(id)?)
    }

    /// Returns where a worker's library is, or would be.
    pub fn library(&self, id: &WorkerId) -> PathBuf {
        self.libraries.join(&id.0)
    }

    fn owner_path(&self, id: &WorkerId) -> PathBuf {
        self.owners.join(format!("{id}.json"))
    }

    /// Returns all libraries, oldest first.
    pub fn list(&self) -> Result<Vec<Worker>, WorkerError> {
        let items = match fs::read_dir(&self.libraries) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            items => items?,
        };
        let mut workers = Vec::new();
        for item in items {
            let Ok(id) = WorkerId::parse(Path::new(&item?.file_name())) else { continue };
            match self.worker(id) {
                // Removed just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                worker => workers.push(worker?),
            }
        }
        workers.sort_by(|a, b| (a.made, &a.id).cmp(&(b.made, &b.id)));
        Ok(workers)
    }

    fn worker(&self, id: WorkerId) -> io::Result<Worker> {
        let library = self.library(&id);
        let path = self.owner_path(&id);
        let owner: Option<Owner> = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).flatten();
        // The owner's record is written once; the library changes as it is filled.
        let made = fs::metadata(path).or_else(|_| fs::metadata(&library))?.modified()?;
        fs::symlink_metadata(&library)?;
        let life = owner.as_ref().map_or(Life::Unknown, Owner::life);
        Ok(Worker { id, library, made, owner: owner.map(|owner| owner.pid), life })
    }

    /// Removes a library, whoever owns it. One that is not there is fine.
    pub fn remove(&self, id: &WorkerId) -> Result<(), WorkerError> {
        Library::remove(&self.library(id))?;
        Ok(remove_all(&self.owner_path(id))?)
    }

    /// Returns the libraries whose owners have ended, but not what some other process changes now.
    pub fn ended(&self) -> Result<Vec<Worker>, WorkerError> {
        let is_left = |worker: &Worker| worker.life == Life::Ended && !Library::is_being_changed(&worker.library);
        Ok(self.list()?.into_iter().filter(is_left).collect())
    }

    /// Removes the libraries whose owners have ended; returns which.
    pub fn sweep(&self) -> Result<Vec<WorkerId>, WorkerError> {
        let mut removed = Vec::new();
        for worker in self.ended()? {
            self.remove(&worker.id)?;
            removed.push(worker.id);
        }
        Ok(removed)
    }
}

impl Worker {
    /// Returns the bytes of its files, also of those that it shares with the store or others.
    pub fn size_bytes(&self) -> io::Result<u64> {
        let mut size = 0;
        for item in walk(&self.library) {
            match item.and_then(|item| Ok(item.metadata()?)) {
                Ok(meta) if meta.is_file() => size += meta.len(),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(size)
    }
}

impl Owner {
    /// Describes a process that runs.
    fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: started(pid)?, namespace: namespace()? })
    }

    fn life(&self) -> Life {
        if namespace().as_ref() != Some(&self.namespace) {
            return Life::Unknown;
        }
        if started(self.pid) == Some(self.started) { Life::Alive } else { Life::Ended }
    }
}

/// Returns when a process was started; `None` if there is none, or only what is left of one.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have anything in it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let is_left = matches!(fields.next()?, "Z" | "X");
    // The 22nd field, counted from 1, where the state is the third.
    fields.nth(18)?.parse().ok().filter(|_| !is_left)
}

fn namespace() -> Option<String> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let seen = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), seen.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p26_every_worker_has_a_library_of_its_own() {
        let store = tempfile::tempdir().unwrap();
        let workers = Workers::of(store.path());
        assert!(workers.list().unwrap().is_empty());
        let made: Vec<_> = (0..3).map(|_| workers.create(None).unwrap()).collect();
        assert!(made.iter().all(|worker| worker.library.is_dir() && worker.library.starts_with(store.path())));
        let mut ids: Vec<_> = workers.list().unwrap().into_iter().map(|worker| worker.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), 3);
        fs::write(made[0].library.join("file"), "12345").unwrap();
        assert_eq!(made[0].size_bytes().unwrap(), 5);
    }

    #[test]
    fn p26_removing_is_idempotent() {
        let store = tempfile::tempdir().unwrap();
        let workers = Workers::of(store.path());
        let worker = workers.create(None).unwrap();
        for _ in 0..2 {
            workers.remove(&worker.id).unwrap();
            assert!(!worker.library.exists());
        }
        assert!(WorkerId::parse(Path::new("../../etc")).is_err());
        assert_eq!(WorkerId::parse(&worker.library).unwrap(), worker.id);
    }

    #[test]
    fn d14_only_the_library_of_an_owner_that_has_ended_is_swept() {
        let store = tempfile::tempdir().unwrap();
        let workers = Workers::of(store.path());
        let mut process = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let [mine, other, nobodys] =
            [Some(std::process::id()), Some(process.id()), None].map(|owner| workers.create(owner).unwrap());
        assert_eq!((mine.life, other.life, nobodys.life), (Life::Alive, Life::Alive, Life::Unknown));
        assert!(workers.sweep().unwrap().is_empty());
        drop(process.stdin.take());
        process.wait().unwrap();
        assert_eq!(workers.sweep().unwrap(), [other.id]);
        assert!(mine.library.is_dir() && nobodys.library.is_dir() && !other.library.exists());
        assert!(matches!(workers.create(Some(process.id())), Err(WorkerError::NoOwner(_))));
    }

    #[test]
    fn a_later_process_of_the_same_number_is_not_the_owner() {
        let here = Owner::of(std::process::id()).unwrap();
        assert_eq!(here.life(), Life::Alive);
        assert_eq!(Owner { started: here.started + 1, ..here.clone() }.life(), Life::Ended);
        assert_eq!(Owner { namespace: "another machine".to_owned(), ..here }.life(), Life::Unknown);
    }
}
