//! Leases: what the living runs of a store may use, so that nothing is evicted under them.
//!
//! ```text
//! {store}/.leases/.lock      the gate: writers of leases pass together, an evictor alone
//! {store}/.leases/{uuid}     locked for the life of a run; one line for each thing that must stay
//! ```
//!
//! A run writes down what it may use *before* it asks the store for it, and passes the gate to do so; or it asks while it
//! is in the gate, and writes it down before it leaves. An evictor that stands in the gate therefore sees it in a lease
//! and leaves it alone, or the run comes later, and what was evicted is a miss: it builds. Loads themselves wait for
//! nothing.
//!
//! Who is in the gate waits for the lock on this process's own lease, never the other way round: where an evictor that
//! waits comes before those who ask later, that would be a circle.
//!
//! Runs of one process may share a lease that never ends, since one of them always goes on. So each thing has the number
//! of the newest run when it was last asked for: what was not since the oldest run that goes on began is nobody's, and
//! given back when a run ends.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::fault::fs;

use crate::digest::Sha256Digest;
use crate::lock;
use crate::package::PackageName;

/// Something of a store that a lease can name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Held {
    /// All entries of one source.
    Source { platform: String, package: PackageName, source: Sha256Digest },
    /// A download.
    Blob(Sha256Digest),
}

/// How it stands in a lease: the directory or name below the store.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source { platform, package, source } => write!(f, "{platform}/{package}/{source}"),
            Self::Blob(digest) => write!(f, "blobs/{digest}"),
        }
    }
}

/// What this process has leased of one store. Dropping it gives everything back.
#[derive(Debug, Default)]
pub(super) struct Lease {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What is leased, and which run was the newest when it was last asked for.
    held: HashMap<Held, u64>,
    kept: Kept,
    /// The runs that are under way, numbered as they began.
    runs: BTreeSet<u64>,
    /// The newest run.
    n_runs: u64,
}

/// A run that is under way. When this is dropped, what was leased for it alone is given back; an evictor at work is
/// waited for, which takes milliseconds.
#[derive(Debug)]
pub struct Tenure<'a> {
    lease: &'a Lease,
    root: &'a Path,
    run: u64,
}

impl Drop for Tenure<'_> {
    fn drop(&mut self) {
        let mut state = self.lease.lock();
        state.runs.remove(&self.run);
        if state.has_more_than_asked() {
            drop(state);
            // Whoever waits for the gate holds no other lock; see the head.
            let gate = Gate::enter(self.root);
            self.lease.lock().give_back(self.root, gate);
        }
    }
}

/// By what the evictor is kept away.
#[derive(Debug, Default)]
enum Kept {
    /// Nothing is leased yet.
    #[default]
    Nothing,
    /// The lease, locked.
    Lease(PathBuf, fs::File),
    /// The gate itself, since no lease can be written: no evictor gets through at all.
    Gate { _file: fs::File },
    /// Not even the gate is there, nor can it be made. Then nobody can evict by way of this mount either.
    Unwritable,
}

impl Lease {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run: what is asked for from here on stays at least until it ends.
    pub(super) fn begin<'a>(&'a self, root: &'a Path) -> Tenure<'a> {
        let mut state = self.lock();
        state.n_runs += 1;
        let run = state.n_runs;
        state.runs.insert(run);
        Tenure { lease: self, root, run }
    }

    /// Leases what is not leased yet; when this returns, no evictor will take it. One that is at work is waited for.
    pub(super) fn hold(&self, root: &Path, wanted: impl IntoIterator<Item = Held>) -> io::Result<()> {
        let new = self.lock().ask(wanted);
        if new.is_empty() {
            return Ok(());
        }
        self.hold_within(Gate::enter(root)?, root, new)
    }

    /// Does the same for who is in the gate, and leaves it.
    pub(super) fn hold_within(
        &self,
        gate: Gate,
        root: &Path,
        wanted: impl IntoIterator<Item = Held>,
    ) -> io::Result<()> {
        let mut state = self.lock();
        let new = state.ask(wanted);
        let State { held, kept, n_runs, .. } = &mut *state;
        if new.is_empty() {
            return Ok(());
        }
        let Gate(Some(gate)) = gate else {
            *kept = Kept::Unwritable;
            return Ok(());
        };
        let mut lines = String::new();
        for item in &new {
            let _ = writeln!(lines, "{item}");
        }
        let written = match kept {
            Kept::Lease(_, file) => file.write_all(lines.as_bytes()),
            _ => create(root).and_then(|(path, mut file)| {
                let written = file.write_all(lines.as_bytes());
                *kept = Kept::Lease(path, file);
                written
            }),
        };
        match written {
            Ok(()) => {}
            // Full, read-only, forbidden: such a store serves what it has, and a build that needs more will say so.
            Err(error) if error.kind() != io::ErrorKind::Unsupported => {
                tracing::debug!(%error, "no lease; evictors wait instead");
                *kept = Kept::Gate { _file: gate };
            }
            Err(error) => return Err(error),
        }
        held.extend(new.into_iter().map(|item| (item, *n_runs)));
        Ok(())
    }
}

impl State {
    /// Returns what of this is not leased yet; the rest is asked for by the newest run, too.
    fn ask(&mut self, wanted: impl IntoIterator<Item = Held>) -> Vec<Held> {
        if matches!(self.kept, Kept::Gate { .. } | Kept::Unwritable) {
            return Vec::new();
        }
        let mut new = Vec::new();
        for item in wanted {
            match self.held.get_mut(&item) {
                Some(run) => *run = self.n_runs,
                None => new.push(item),
            }
        }
        new
    }

    /// Says whether something is leased that no run has asked for that still goes on. Without a run, whoever has the lease
    /// is about to end it.
    fn has_more_than_asked(&self) -> bool {
        let oldest = self.runs.first().filter(|_| matches!(self.kept, Kept::Lease(..)));
        oldest.is_some_and(|oldest| self.held.values().any(|asked| asked < oldest))
    }

    /// Gives that back, for who is in the gate. Where it cannot be written down it stays leased.
    fn give_back(&mut self, root: &Path, gate: io::Result<Gate>) {
        let (Some(&oldest), Kept::Lease(old, _)) = (self.runs.first(), &self.kept) else { return };
        self.held.retain(|_, asked| *asked >= oldest);
        let lines: Vec<String> = self.held.keys().map(ToString::to_string).collect();
        let lines = lines.join("\n") + "\n";
        let renew = || -> io::Result<Kept> {
            // An evictor sees the old one, or the new one, or both.
            let Gate(Some(_gate)) = gate? else { return Err(io::ErrorKind::NotFound.into()) };
            let (path, mut file) = create(root)?;
            if let Err(error) = file.write_all(lines.as_bytes()) {
                let _ = fs::remove_file(path);
                return Err(error);
            }
            fs::remove_file(old)?;
            Ok(Kept::Lease(path, file))
        };
        match renew() {
            Ok(kept) => self.kept = kept,
            Err(error) => tracing::debug!(%error, "more is leased than is used"),
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Kept::Lease(path, _) = &self.kept {
            let _ = fs::remove_file(path);
        }
    }
}

fn dir(root: &Path) -> PathBuf {
    root.join(".leases")
}

/// Opens the gate, to write if possible: some network file systems lock nothing else exclusively.
fn open_gate(root: &Path) -> Option<fs::File> {
    let path = dir(root).join(".lock");
    let open = || fs::OpenOptions::new().read(true).append(true).create(true).open(&path);
    let opened = match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir_all(dir(root)).and_then(|()| open()),
        other => other,
    };
    match opened.or_else(|_| fs::File::open(&path)) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::debug!(%error, "the store takes no leases");
            None
        }
    }
}

/// Being in the gate: as long as this lives, no evictor is. `None` where there is no gate, nor can one be made.
#[derive(Debug)]
pub(super) struct Gate(Option<fs::File>);

impl Gate {
    /// Enters; an evictor at work is waited for.
    pub(super) fn enter(root: &Path) -> io::Result<Self> {
        let gate = open_gate(root);
        gate.iter().try_for_each(lock::take_shared)?;
        Ok(Self(gate))
    }

    /// Enters, unless an evictor is at work.
    pub(super) fn try_enter(root: &Path) -> io::Result<Option<Self>> {
        let gate = open_gate(root);
        let is_open = gate.as_ref().map_or(Ok(true), lock::try_take_shared)?;
        Ok(is_open.then_some(Self(gate)))
    }
}

fn create(root: &Path) -> io::Result<(PathBuf, fs::File)> {
    let path = dir(root).join(format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)));
    let file = fs::OpenOptions::new().create_new(true).append(true).open(&path)?;
    lock::take(&file)?;
    Ok((path, file))
}

/// All that the living have leased, while the gate is closed: no lease changes before this is dropped.
#[derive(Debug)]
pub(super) struct ClosedGate {
    leased: Leased,
    _gate: fs::File,
}

impl ClosedGate {
    /// Waits until nobody is in the gate, closes it and reads the leases; those of the dead are removed.
    pub(super) fn close(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir(root))?;
        let path = dir(root).join(".lock");
        let gate = fs::OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        lock::take(&gate)?;
        Ok(Self { leased: Leased::read(root, |dead| drop(fs::remove_file(dead)))?, _gate: gate })
    }

    pub(super) fn leased(&self) -> &Leased {
        &self.leased
    }
}

/// The lines of all leases whose run lives.
#[derive(Debug, Default, Clone)]
pub(super) struct Leased {
    lines: HashSet<String>,
}

impl Leased {
    /// Reads the leases as they are at some moment; without the gate that is good for a forecast only.
    pub(super) fn read(root: &Path, mut on_dead: impl FnMut(&Path)) -> io::Result<Self> {
        let mut lines = HashSet::new();
        let items = match fs::read_dir(dir(root)) {
            Ok(items) => items,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        for item in items {
            let path = item?.path();
            if path.ends_with(".lock") {
                continue;
            }
            let file = match fs::File::open(&path) {
                Ok(file) => file,
                // Its run has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if file.file().try_lock().is_ok() {
                on_dead(&path);
            } else {
                lines.extend(io::read_to_string(file)?.lines().map(str::to_owned));
            }
        }
        Ok(Self { lines })
    }

    pub(super) fn holds(&self, item: &Held) -> bool {
        self.lines.contains(&item.to_string())
    }

    /// Says whether a directory of the store, such as `platform/package`, or anything in it is leased.
    pub(super) fn holds_in(&self, dir: &str) -> bool {
        let is_in = |line: &String| line.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.lines.iter().any(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(text: &str) -> Held {
        Held::Blob(Sha256Digest::of(text.as_bytes()))
    }

    #[test]
    fn what_is_leased_is_seen_until_the_lease_ends() {
        let root = tempfile::tempdir().unwrap();
        let lease = Lease::default();
        lease.hold(root.path(), [blob("a")]).unwrap();
        lease.hold(root.path(), [blob("a"), blob("b")]).unwrap();
        let gate = ClosedGate::close(root.path()).unwrap();
        assert!(gate.leased().holds(&blob("a")) && gate.leased().holds(&blob("b")) && !gate.leased().holds(&blob("c")));
        assert!(gate.leased().holds_in("blobs") && !gate.leased().holds_in("blob"));
        drop((gate, lease));
        let gate = ClosedGate::close(root.path()).unwrap();
        assert!(!gate.leased().holds(&blob("a")));
        assert_eq!(fs::read_dir(root.path().join(".leases")).unwrap().count(), 1, "only the gate is left");
    }

    #[test]
    fn who_does_not_wait_enters_only_while_no_evictor_is_at_work_and_what_is_leased_inside_is_seen_after() {
        let root = tempfile::tempdir().unwrap();
        let lease = Lease::default();
        let closed = ClosedGate::close(root.path()).unwrap();
        assert!(Gate::try_enter(root.path()).unwrap().is_none());
        drop(closed);
        let gate = Gate::try_enter(root.path()).unwrap().expect("nobody is at work");
        let other = fs::File::open(root.path().join(".leases/.lock")).unwrap();
        assert!(!lock::try_take(&other).unwrap(), "an evictor would wait");
        lease.hold_within(gate, root.path(), [blob("a")]).unwrap();
        let closed = ClosedGate::close(root.path()).unwrap();
        assert!(closed.leased().holds(&blob("a")));
    }

    #[test]
    fn what_no_run_needs_that_goes_on_is_given_back_although_there_always_is_one() {
        let root = tempfile::tempdir().unwrap();
        let lease = Lease::default();
        let held = || {
            let gate = ClosedGate::close(root.path()).unwrap();
            ["a", "b", "c"].into_iter().filter(|text| gate.leased().holds(&blob(text))).collect::<String>()
        };
        let first = lease.begin(root.path());
        lease.hold(root.path(), [blob("a"), blob("b")]).unwrap();
        let second = lease.begin(root.path());
        lease.hold(root.path(), [blob("b"), blob("c")]).unwrap();
        assert_eq!(held(), "abc");
        drop(first);
        assert_eq!(held(), "bc", "the second has asked for `b` too");
        let third = lease.begin(root.path());
        drop(second);
        assert_eq!(held(), "");
        lease.hold(root.path(), [blob("a")]).unwrap();
        assert_eq!(held(), "a");
        assert_eq!(fs::read_dir(root.path().join(".leases")).unwrap().count(), 2, "the gate and one lease");
        drop(third);
        drop(lease);
        assert_eq!(held(), "");
    }

    #[test]
    fn leases_of_the_dead_hold_nothing_and_go() {
        let root = tempfile::tempdir().unwrap();
        let dead = root.path().join(".leases/dead");
        fs::create_dir_all(dead.parent().unwrap()).unwrap();
        fs::write(&dead, format!("{}\n", blob("a"))).unwrap();
        assert!(!ClosedGate::close(root.path()).unwrap().leased().holds(&blob("a")));
        assert!(!dead.exists());
    }

    #[test]
    fn an_evictor_in_the_gate_keeps_leases_waiting_and_the_other_way_round() {
        let root = tempfile::tempdir().unwrap();
        let gate = ClosedGate::close(root.path()).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let lease = Lease::default();
                lease.hold(root.path(), [blob("a")]).unwrap();
                sender.send("leased").unwrap();
                let gate = ClosedGate::close(root.path()).unwrap();
                assert!(gate.leased().holds(&blob("a")));
            });
            assert!(receiver.try_recv().is_err());
            drop(gate);
            assert_eq!(receiver.recv().unwrap(), "leased");
        });
    }

    #[test]
    fn a_store_that_takes_no_lease_is_used_all_the_same() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        Lease::default().hold(&file, [blob("a")]).unwrap();
    }
}
