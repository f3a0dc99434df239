//! Looking at a tree on the disk: what is in it, with which modes, and what cannot be read.
//!
//! Files are read and digested on all cores. Whether something is as it should be is for others to say.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fault::fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::manifest::{Item, Manifest};
use crate::digest::Hasher;

/// Fewer files than this a thread reads sooner than another one starts.
const FILES_PER_THREAD_MIN: usize = 64;

/// What is in a tree, by path in bytes, or why it cannot be told.
pub(super) type Scan = BTreeMap<Vec<u8>, io::Result<Seen>>;

/// One thing as it is on the disk.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) item: Item,
    /// Its permission bits.
    pub(super) mode: u32,
}

/// Returns what a tree consists of. `is_wanted` says of which paths.
pub(crate) fn manifest(tree: &Path, is_wanted: impl Fn(&Path) -> bool) -> io::Result<Manifest> {
    let scan = scan(tree, n_threads(), is_wanted)?;
    let items = scan.into_iter().map(|(path, seen)| Ok((path, seen?.item)));
    Ok(Manifest::new(items.collect::<io::Result<_>>()?))
}

/// Returns how many threads can read at once.
pub(super) fn n_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Reads the whole tree by at most `n_threads` threads.
pub(super) fn scan(tree: &Path, n_threads: usize, is_wanted: impl Fn(&Path) -> bool) -> io::Result<Scan> {
    let (mut scan, mut left) = (Scan::new(), Vec::new());
    for found in walkdir::WalkDir::new(tree).min_depth(1) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                let path = error.path().and_then(|path| path.strip_prefix(tree).ok());
                let Some(path) = path.map(Path::to_owned) else { return Err(error.into()) };
                scan.insert(path.as_os_str().as_bytes().to_vec(), Err(error.into()));
                continue;
            }
        };
        let path = found.path().strip_prefix(tree).expect("a walk stays below its start").to_owned();
        if is_wanted(&path) {
            left.push((path, found.file_type()));
        }
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut seen, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
        while let Some((path, kind)) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
            seen.push((path.as_os_str().as_bytes().to_vec(), look(&tree.join(path), *kind, &mut buffer)));
        }
        seen
    };
    let n_more = n_threads.min(left.len() / FILES_PER_THREAD_MIN).saturating_sub(1);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_more).map(|_| scope.spawn(work)).collect();
        scan.extend(work());
        for thread in threads {
            scan.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    Ok(scan)
}

fn look(path: &Path, kind: std::fs::FileType, buffer: &mut [u8]) -> io::Result<Seen> {
    let mode_of = |metadata: &std::fs::Metadata| metadata.permissions().mode() & 0o7777;
    if kind.is_dir() {
        return Ok(Seen { item: Item::Folder, mode: mode_of(&fs::symlink_metadata(path)?) });
    }
    if kind.is_symlink() {
        let target = fs::read_link(path)?.as_os_str().as_bytes().to_vec();
        return Ok(Seen { item: Item::Symlink { target }, mode: 0 });
    }
    if !kind.is_file() {
        return Err(special(path));
    }
    let mut file = open(path)?;
    let mode = mode_of(&file.metadata()?);
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        match file.read(buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Seen { item: Item::File { is_executable: mode & 0o111 != 0, size, digest: hasher.finish() }, mode })
}

/// Opens a file that is not a link.
pub(super) fn open(path: &Path) -> io::Result<fs::File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn special(path: &Path) -> io::Error {
    io::Error::other(format!("{}: neither a file, a folder nor a link", path.display()))
}

/// Gives everything in a tree the mode that its manifest implies.
pub(super) fn set_modes(tree: &Path, manifest: &Manifest) -> io::Result<()> {
    let wanted = manifest.iter().filter_map(|(path, item)| Some((tree.join(path), item.mode()?)));
    let root = (PathBuf::from(tree), 0o755);
    for (path, mode) in std::iter::once(root).chain(wanted) {
        if fs::symlink_metadata(&path)?.permissions().mode() & 0o7777 != mode {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        }
    }
    Ok(())
}
