//! Trouble: what keeps the machine from doing the work, whichever package it is about. A full disk fails the next package
//! just as it failed this one, so it is told once, with the place, what is known of it, and what to do.
//!
//! It knows the kernel's errors and file systems; who ends a run because of it is not known here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::fault::fs;
use crate::lock::NoLocks;

/// Less than this is as good as nothing to a build.
const SPARE: u64 = 256 << 10;
/// Large packages with their objects and temporary files are of this order.
const SCARCE: u64 = 1 << 30;

/// What the machine refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no room, or no inode, left.
    Full,
    /// The user or project may have no more.
    Quota,
    /// The file system is mounted for reading only.
    ReadOnly,
    /// This user may not write there.
    Forbidden,
    /// The file system cannot be read or written: a bad disk, a server that is gone.
    Faulty,
    /// The file system takes no locks.
    NoLocks,
    /// This process may have no more files open.
    TooManyOpen,
    /// This process may not write files as large as that.
    TooLarge,
    /// The place's name is so long that those in it would be too long for the kernel.
    TooDeep,
}

/// One such refusal: where, and what is known of the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Trouble {
    /// What is refused.
    pub kind: Kind,
    /// The directory that work goes on in: the store or the library.
    pub place: PathBuf,
    /// The file system of the place, for people: its type and where it is mounted.
    pub file_system: Option<String>,
    /// Bytes that are free there, and all that there are.
    pub room: Option<(u64, u64)>,
    /// Bytes that are needed there, where that is known.
    pub needed: Option<u64>,
    /// What was refused, in the words of whom it was refused; names the file.
    pub cause: String,
}

impl Trouble {
    /// Takes an error of the file system for trouble with `place`, if it is of that class. `cause` is what people are to
    /// read of it.
    pub fn of(error: &io::Error, place: &Path, cause: impl Into<String>) -> Option<Self> {
        Some(Self::new(kind(error)?, place, cause))
    }

    /// Says that a build failed for want of room, if its last words or the file system have said so.
    pub fn of_build(watch: &Watch, said: &[String]) -> Option<Self> {
        // Builds run in the C locale, and whatever program it was, these are the words of the C library.
        let words = [("No space left on device", Kind::Full), ("Disk quota exceeded", Kind::Quota)];
        let found = said.iter().rev().find_map(|line| {
            let (_, kind) = words.iter().find(|(words, _)| line.contains(words))?;
            Some((*kind, line.trim().to_owned()))
        });
        // R does not say why, and what it wrote may be gone before anybody has looked.
        let words = ["error writing to connection", "write error", "write failed"];
        let writing = said.iter().rev().find(|line| words.iter().any(|words| line.contains(words)));
        let error = said.iter().find(|line| line.contains("rror"));
        let written = || match writing.or(error).or(said.last()) {
            Some(line) if watch.was_full() || writing.is_some() && watch.was_scarce() => {
                Some((Kind::Full, line.trim().to_owned()))
            }
            _ => None,
        };
        let (kind, cause) = found.or_else(written)?;
        let trouble = Self::new(kind, &watch.place, cause);
        // As it was then: the build has been removed meanwhile.
        let room = trouble.room.map(|(free, all)| (free.min(watch.least.load(Ordering::Relaxed)), all));
        Some(Self { room, ..trouble })
    }

    /// Describes trouble with `place`, and asks its file system what it knows.
    pub fn new(kind: Kind, place: &Path, cause: impl Into<String>) -> Self {
        let there = existing(place);
        let stat = rustix::fs::statvfs(there).ok();
        let room = stat.map(|stat| (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize));
        let (file_system, cause) = (file_system(there), cause.into());
        Self { kind, place: place.to_owned(), file_system, room, needed: None, cause }
    }

    /// Returns what is the matter in a few words, for what was not attempted because of it.
    pub fn in_short(&self) -> &'static str {
        match self.kind {
            Kind::Full => "no space left",
            Kind::Quota => "disk quota used up",
            Kind::ReadOnly => "read-only file system",
            Kind::Forbidden => "no permission to write",
            Kind::Faulty => "the file system fails",
            Kind::NoLocks => "the file system refuses locks",
            Kind::TooManyOpen => "too many open files",
            Kind::TooLarge => "file size limit",
            Kind::TooDeep => "path too long",
        }
    }

    /// Returns what the user can do about it.
    pub fn hint(&self) -> &'static str {
        match self.kind {
            Kind::Full => {
                "free some space there, such as with `solve store evict --max-size SIZE`, or choose another place with \
                 `--store` or `--library`; what is finished is kept, and the next run goes on from there"
            }
            Kind::Quota => {
                "have the quota raised, remove something, such as with `solve store evict --max-size SIZE`, or choose \
                 another place with `--store` or `--library`; what is finished is kept"
            }
            Kind::ReadOnly => {
                "mount it writable, or choose another place with `--store` or `--library`; a store that is read-only \
                 serves what it has"
            }
            Kind::Forbidden => {
                "run as the user to whom it belongs, have the permissions changed, or choose another place with \
                 `--store` or `--library`"
            }
            Kind::Faulty => {
                "look at the system's log (`dmesg`), and choose another place with `--store` or `--library`"
            }
            Kind::NoLocks => {
                "mount it with locks (NFS: without `nolock`, with a lock daemon), or choose a local place with `--store` \
                 or `--library`; without locks two runs would destroy each other's work"
            }
            Kind::TooManyOpen => {
                "raise the limit with `ulimit -n`, or let fewer packages build at a time with `--jobs`"
            }
            Kind::TooLarge => "raise the limit with `ulimit -f`",
            Kind::TooDeep => "choose a place with a shorter path",
        }
    }

    fn text(&self) -> String {
        let place = self.place.display();
        let what = match self.kind {
            Kind::Full => format!("no space left for `{place}`"),
            Kind::Quota => format!("the disk quota is used up for `{place}`"),
            Kind::ReadOnly => format!("`{place}` is on a read-only file system"),
            Kind::Forbidden => format!("`{place}` may not be written by this user"),
            Kind::Faulty => format!("the file system of `{place}` fails"),
            Kind::NoLocks => format!("the file system of `{place}` refuses locks"),
            Kind::TooManyOpen => format!("too many files are open while working in `{place}`"),
            Kind::TooLarge => format!("files in `{place}` may not be as large as needed"),
            Kind::TooDeep => format!("the path `{place}` is too long"),
        };
        let room = self.room.filter(|_| matches!(self.kind, Kind::Full | Kind::Quota));
        let room = room.map(|(free, all)| format!("{} of {} free", shown(free), shown(all)));
        let needed = self.needed.filter(|_| room.is_some()).map(|needed| format!("{} needed", shown(needed)));
        let about: Vec<String> = self.file_system.iter().cloned().chain(room).chain(needed).collect();
        format!("{what} ({}): {}", about.join(", "), self.cause).replace(" ()", "")
    }
}

/// The least room that a file system had while a build went on: what fails for want of room is removed before anybody
/// else hears of it.
#[derive(Debug)]
pub struct Watch {
    place: PathBuf,
    least: AtomicU64,
}

impl Watch {
    /// Begins with the room that there is now.
    pub fn over(place: &Path) -> Self {
        let watch = Self { place: place.to_owned(), least: AtomicU64::new(u64::MAX) };
        watch.look();
        watch
    }

    /// Looks once more; to be called whenever something was heard of the build.
    pub fn look(&self) {
        if let Ok(stat) = rustix::fs::statvfs(&self.place) {
            // Some file systems count no inodes.
            let has_inodes = stat.f_files == 0 || stat.f_favail > 0;
            let free = if has_inodes { stat.f_bavail * stat.f_frsize } else { 0 };
            self.least.fetch_min(free, Ordering::Relaxed);
        }
    }

    /// Says whether there was no room at one of the looks.
    pub fn was_full(&self) -> bool {
        self.least.load(Ordering::Relaxed) < SPARE
    }

    /// Says whether there was so little that one package may have used it up between two looks.
    fn was_scarce(&self) -> bool {
        self.least.load(Ordering::Relaxed) < SCARCE
    }
}

/// Returns the kernel's error number. `fs_err` and others hide it, but their text ends with it.
fn errno(error: &io::Error) -> Option<Errno> {
    let said = || {
        let text = error.to_string();
        let (number, _) = text.rsplit_once("(os error ")?.1.split_once(')')?;
        number.parse().ok()
    };
    error.raw_os_error().or_else(said).map(Errno::from_raw_os_error)
}

/// Says of what class an error of the file system is; `None` if it is about one file or package.
fn kind(error: &io::Error) -> Option<Kind> {
    Some(match error.kind() {
        io::ErrorKind::StorageFull => Kind::Full,
        io::ErrorKind::QuotaExceeded => Kind::Quota,
        io::ErrorKind::ReadOnlyFilesystem => Kind::ReadOnly,
        io::ErrorKind::PermissionDenied => Kind::Forbidden,
        io::ErrorKind::FileTooLarge => Kind::TooLarge,
        _ if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<NoLocks>) => Kind::NoLocks,
        _ => match errno(error)? {
            Errno::IO | Errno::STALE | Errno::NOTCONN => Kind::Faulty,
            Errno::MFILE | Errno::NFILE => Kind::TooManyOpen,
            _ => return None,
        },
    })
}

/// Says whether an error of the file system is about the machine: full, read-only, forbidden, a name too long for it.
pub fn is_environment(error: &io::Error) -> bool {
    kind(error).is_some() || error.kind() == io::ErrorKind::InvalidFilename
}

/// Says why this user cannot write into a directory, or make it where it is missing, without trying.
pub fn refusal(dir: &Path) -> Option<io::Error> {
    let there = existing(dir);
    let refused = rustix::fs::accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).err()?;
    let error = io::Error::from(refused);
    // A kernel that cannot tell has not refused.
    kind(&error)?;
    Some(io::Error::new(error.kind(), format!("{}: {error}", there.display())))
}

/// Returns the path, or what there is above it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

/// Names the file system that a path is on: `tmpfs at /tmp`.
fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounted = mounts.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let dir = before.split(' ').nth(4)?.replace("\\040", " ");
        path.starts_with(&dir).then(|| (dir.len(), after.split(' ').next().unwrap_or_default(), dir))
    });
    // Of those mounted at one place the last one is seen.
    let (_, kind, dir) = mounted.max_by_key(|(length, ..)| *length)?;
    Some(format!("{kind} at `{dir}`"))
}

fn shown(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = usize::try_from(bytes.max(1).ilog2() / 10).unwrap_or(0).min(UNITS.len() - 1);
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    if unit == 0 { format!("{bytes} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_by_its_number_wherever_it_hides() {
        let raw = |errno: Errno| io::Error::from(errno);
        let hidden = |errno: Errno| io::Error::new(raw(errno).kind(), format!("x: {}", raw(errno)));
        for (errno, expected) in [
            (Errno::NOSPC, Some(Kind::Full)),
            (Errno::DQUOT, Some(Kind::Quota)),
            (Errno::ROFS, Some(Kind::ReadOnly)),
            (Errno::ACCESS, Some(Kind::Forbidden)),
            (Errno::PERM, Some(Kind::Forbidden)),
            (Errno::IO, Some(Kind::Faulty)),
            (Errno::MFILE, Some(Kind::TooManyOpen)),
            (Errno::FBIG, Some(Kind::TooLarge)),
            (Errno::NOENT, None),
            (Errno::NAMETOOLONG, None),
        ] {
            assert_eq!(kind(&raw(errno)), expected);
            assert_eq!(kind(&hidden(errno)), expected, "{errno:?} in a text");
        }
        assert!(is_environment(&raw(Errno::NAMETOOLONG)));
    }

    #[test]
    fn it_names_the_place_the_file_system_and_the_room() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("not/there/yet");
        let trouble = Trouble::new(Kind::Full, &place, "aa: failed to write file `x`");
        let text = trouble.to_string();
        assert!(text.starts_with(&format!("no space left for `{}` (", place.display())), "{text}");
        assert!(text.contains(" at `/") && text.ends_with(" free): aa: failed to write file `x`"), "{text}");
        let text = Trouble { needed: Some(3 << 20), ..trouble.clone() }.to_string();
        assert!(text.contains(" free, 3.0 MiB needed): aa: "), "{text}");
        let unknown = Trouble { kind: Kind::ReadOnly, file_system: None, ..trouble };
        let text = unknown.to_string();
        assert!(text.ends_with("is on a read-only file system: aa: failed to write file `x`"), "{text}");
    }

    #[test]
    fn a_build_that_ran_out_of_room_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let said = ["cc1plus: error: x.o: No space left on device".to_owned(), "make: *** [x.o] Error 1".to_owned()];
        let watch = Watch::over(dir.path());
        let trouble = Trouble::of_build(&watch, &said).unwrap();
        assert_eq!((trouble.kind, trouble.cause.as_str()), (Kind::Full, said[0].as_str()));
        let said =
            ["Error in serialize(x) : ".to_owned(), "  error writing to connection".to_owned(), "failed".to_owned()];
        watch.least.store(SCARCE, Ordering::Relaxed);
        assert_eq!(Trouble::of_build(&watch, &said), None, "there was room all the time");
        watch.least.store(SCARCE - 1, Ordering::Relaxed);
        assert_eq!(Trouble::of_build(&watch, &said).unwrap().cause, "error writing to connection");
        let said = ["Error: no".to_owned(), "ERROR: failed".to_owned()];
        assert_eq!(Trouble::of_build(&watch, &said), None, "that may be anything");
        watch.least.store(0, Ordering::Relaxed);
        assert_eq!(Trouble::of_build(&watch, &said).unwrap().cause, "Error: no");
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!([0, 1023, 1024, 12_800, 8 << 20].map(shown), ["0 B", "1023 B", "1.0 KiB", "12.5 KiB", "8.0 MiB"]);
    }
}
