//! What larder needs of a file system beyond the standard library: atomic writes, stamps, trees made read-only,
//! trees removed although they are read-only.

use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::fault::{self, fs};
use serde::{Deserialize, Serialize};

/// Writes `bytes` to `path` so that readers, and whoever looks after a crash, see the old content or the new.
/// The bytes are flushed to the disk before they get their name.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, std::fs::File::sync_data)
}

/// Does the same as [`write_atomically`], but after a loss of power the file may be empty.
pub fn write_unflushed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, |_| Ok(()))
}

fn replace(path: &Path, bytes: &[u8], flush: impl FnOnce(&std::fs::File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fault::point("write_atomically: temporary file")?;
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    fault::point("write_atomically: flush")?;
    flush(file.as_file())?;
    // `tempfile` makes files for the owner's eyes only; a store may serve others.
    file.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
    fault::point("write_atomically: persist")?;
    file.persist(path)
        .map_err(|error| io::Error::new(error.error.kind(), format!("{}: {}", path.display(), error.error)))?;
    Ok(())
}

/// Reads a small file whole. `fs::read` asks the kernel for its size twice and for its position before it reads.
pub(crate) fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    const MOST_BYTES: usize = 4096;
    let mut bytes = Vec::with_capacity(MOST_BYTES);
    fs::File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Says whether `path` is a file that somebody may execute.
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// A file's size and mtime at some time; its absence, too, can be remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    path: PathBuf,
    size: Option<u64>,
    mtime_ns: Option<i128>,
}

impl Stamp {
    /// Takes the stamp of a file as it is now, links followed.
    pub fn of(path: &Path) -> Self {
        let meta = path.metadata().ok();
        let mtime = |meta: &std::fs::Metadata| i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        Self { path: path.to_owned(), size: meta.as_ref().map(MetadataExt::size), mtime_ns: meta.as_ref().map(mtime) }
    }

    /// Says whether the file is still as it was.
    pub fn holds(&self) -> bool {
        Self::of(&self.path) == *self
    }
}

/// Makes every file of a tree read-only (0444, or 0555 if executable) and every directory 0755.
pub fn make_read_only(tree: &Path) -> io::Result<()> {
    for item in walk(tree) {
        let item = item?;
        let mode = item.metadata()?.permissions().mode();
        let wanted = match item.file_type() {
            kind if kind.is_dir() => 0o755,
            kind if kind.is_symlink() => continue,
            _ if mode & 0o111 != 0 => 0o555,
            _ => 0o444,
        };
        if mode & 0o7777 != wanted {
            fs::set_permissions(item.path(), PermissionsExt::from_mode(wanted))?;
        }
    }
    Ok(())
}

/// Joins two paths in one piece of memory, where [`Path::join`] takes two: for what is done with each of many packages.
pub(crate) fn join(dir: &Path, name: &str) -> PathBuf {
    let mut path = PathBuf::with_capacity(dir.as_os_str().len() + 1 + name.len());
    path.push(dir);
    path.push(name);
    path
}

/// Yields everything in a tree, parents first, sorted by name, without following links.
pub fn walk(tree: &Path) -> impl Iterator<Item = io::Result<walkdir::DirEntry>> {
    walkdir::WalkDir::new(tree).sort_by_file_name().into_iter().map(|item| item.map_err(io::Error::from))
}

/// Removes a file, link or tree, whatever its modes; one that is not there is fine.
pub fn remove_all(path: &Path) -> io::Result<()> {
    let kind = match path.symlink_metadata() {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_dir() {
        return fs::remove_file(path);
    }
    match remove_tree(path) {
        // A build may leave directories that even their owner may not write.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            for item in walkdir::WalkDir::new(path).into_iter().flatten().filter(|item| item.file_type().is_dir()) {
                fs::set_permissions(item.path(), PermissionsExt::from_mode(0o755))?;
            }
            remove_tree(path)
        }
        other => other,
    }
}

/// Removes everything in a directory; one that is not there is fine.
pub fn clear(dir: &Path) -> io::Result<()> {
    match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        items => items?.try_for_each(|item| remove_all(&item?.path())),
    }
}

/// Removes a tree of any depth. The standard library holds a descriptor and a stack frame for each level, and a build
/// may leave any number of levels: so what is deep is first moved to the top, piece by piece.
fn remove_tree(tree: &Path) -> io::Result<()> {
    const DEPTH_MAX: usize = 100;
    let mut unseen = vec![tree.to_owned()];
    while let Some(dir) = unseen.pop() {
        let deep = walkdir::WalkDir::new(dir).min_depth(DEPTH_MAX).max_depth(DEPTH_MAX).into_iter().flatten();
        let deep: Vec<_> = deep.filter(|item| item.file_type().is_dir()).collect();
        for item in deep {
            // A directory may take the place of an empty one.
            let place = tempfile::tempdir_in(tree)?.keep();
            fs::rename(item.path(), &place)?;
            unseen.push(place);
        }
    }
    fs::remove_dir_all(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_is_ten_thousand_folders_deep_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("deep");
        let mut at = rustix::fs::open(dir.path(), rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        let mut name = "deep";
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&at, name, rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, name, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
            name = "d";
        }
        drop(at);
        // Where the command does this, threads have 2 MiB for their stack.
        let removed = std::thread::Builder::new().stack_size(2 << 20).spawn(move || remove_all(&top).map(|()| top));
        let top = removed.unwrap().join().unwrap().unwrap();
        assert!(top.symlink_metadata().is_err());
    }
}
