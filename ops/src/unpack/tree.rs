//! Writing a tree: files and folders at once, symbolic links last.
//!
//! While entries arrive there is not one symbolic link in the tree, so no path in it can lead anywhere else,
//! in whatever order a hostile archive has them.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err::os::unix::fs::OpenOptionsExt;
use fs_err::{File, OpenOptions};

use super::archive::{Entry, Kind};
use super::name::{self, Refusal};
use super::{Options, Top, UnpackError, refused};
use crate::fault::{self, fs};

pub(super) struct Tree<'a> {
    archive: &'a Path,
    root: &'a Path,
    options: &'a Options,
    should_stop: &'a dyn Fn() -> bool,
    n_entries: u64,
    names_bytes: u64,
    size_bytes: u64,
    /// Every folder made so far, with the time to give it once nothing more is put into it.
    folders: HashMap<PathBuf, Option<SystemTime>>,
    /// Links to make at the end, by their place.
    links: BTreeMap<PathBuf, (Vec<u8>, Vec<u8>)>,
    buffer: Vec<u8>,
}

impl<'a> Tree<'a> {
    pub(super) fn create(
        archive: &'a Path,
        root: &'a Path,
        options: &'a Options,
        should_stop: &'a dyn Fn() -> bool,
    ) -> Result<Self, UnpackError> {
        fs::create_dir_all(root)?;
        fs::set_permissions(root, PermissionsExt::from_mode(0o755))?;
        let folders = HashMap::from([(PathBuf::new(), None)]);
        let (links, buffer) = (BTreeMap::new(), vec![0; 64 << 10]);
        let (n_entries, names_bytes, size_bytes) = (0, 0, 0);
        Ok(Self { archive, root, options, should_stop, n_entries, names_bytes, size_bytes, folders, links, buffer })
    }

    /// Counts one entry, whether or not it will be kept.
    pub(super) fn count_entry(&mut self, entry: &Entry<'_>) -> Result<(), UnpackError> {
        self.check_stop()?;
        self.n_entries += 1;
        let target = match &entry.kind {
            Kind::Symlink { target } | Kind::HardLink { target } => target.len(),
            _ => 0,
        };
        self.count_name(entry.name.len() + target)
    }

    /// Counts the bytes of a name that may be kept in memory.
    fn count_name(&mut self, bytes: usize) -> Result<(), UnpackError> {
        let Options { entries_max, names_bytes_max, .. } = *self.options;
        self.names_bytes += bytes as u64;
        // An archive may imply any number of folders without an entry for them.
        if self.n_entries.max(self.folders.len() as u64) > entries_max {
            return Err(self.too_large(entries_max, "entries"));
        }
        if self.names_bytes > names_bytes_max {
            return Err(self.too_large(names_bytes_max, "bytes of names"));
        }
        Ok(())
    }

    /// Puts `entry` at `path`, which is relative and plain.
    pub(super) fn add(&mut self, path: &Path, entry: Entry<'_>, top: &Top) -> Result<(), UnpackError> {
        let parent = path.parent().unwrap_or(Path::new(""));
        match entry.kind {
            Kind::Folder => {
                self.make_folder(path, &entry.name)?;
                self.folders.insert(path.to_owned(), entry.modified);
            }
            Kind::File { is_executable } => {
                self.make_folder(parent, &entry.name)?;
                self.make_way(path, &entry.name)?;
                let mode = if is_executable { 0o755 } else { 0o644 };
                self.write_file(path, mode, entry.modified, entry.data)?;
            }
            Kind::Symlink { target } => {
                name::check_link(path, &target).map_err(|why| self.refuse(&entry.name, why))?;
                self.links.insert(path.to_owned(), (entry.name, target));
            }
            Kind::HardLink { target } => {
                let nothing = || Refusal::HardLinkToNothing { target: name::shown(&target) };
                let refuse = || self.refuse(&entry.name, nothing());
                let inner = name::parse(&target).ok();
                let inner =
                    inner.as_deref().zip(top.name.as_deref()).and_then(|(path, top)| path.strip_prefix(top).ok());
                let inner = inner.ok_or_else(refuse)?;
                let existing = self.root.join(inner);
                if !existing.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
                    return Err(refuse());
                }
                if inner != path {
                    self.make_folder(parent, &entry.name)?;
                    self.make_way(path, &entry.name)?;
                    fs::hard_link(existing, self.root.join(path))?;
                }
            }
            Kind::Special(what) => return Err(self.refuse(&entry.name, Refusal::Special(what))),
        }
        Ok(())
    }

    /// Makes the links, sets the folders' times, and returns the size in bytes and the number of entries.
    pub(super) fn finish(mut self) -> Result<(u64, u64), UnpackError> {
        for (path, (entry, target)) in std::mem::take(&mut self.links) {
            self.check_stop()?;
            self.make_folder(path.parent().unwrap_or(Path::new("")), &entry)?;
            let link = self.root.join(&path);
            if link.symlink_metadata().is_ok() {
                return Err(self.refuse(&entry, Refusal::InTheWay));
            }
            fs::os::unix::fs::symlink(name::to_path(&target), link)?;
        }
        for (path, modified) in &self.folders {
            if let Some(modified) = modified {
                File::open(self.root.join(path))?.set_modified(*modified)?;
            }
        }
        Ok((self.size_bytes, self.n_entries))
    }

    fn make_folder(&mut self, path: &Path, entry: &[u8]) -> Result<(), UnpackError> {
        if self.folders.contains_key(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_folder(parent, entry)?;
        }
        self.count_name(path.as_os_str().len())?;
        let folder = self.root.join(path);
        match fs::create_dir(&folder) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(self.refuse(entry, Refusal::InTheWay));
            }
            Err(error) => return Err(error.into()),
        }
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        self.folders.insert(path.to_owned(), None);
        Ok(())
    }

    /// Removes an earlier file of the same name, since the last one counts. Removed, not overwritten: it may be
    /// one of several hard links.
    fn make_way(&self, path: &Path, entry: &[u8]) -> Result<(), UnpackError> {
        let file = self.root.join(path);
        match file.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => Ok(fs::remove_file(file)?),
            Ok(_) => Err(self.refuse(entry, Refusal::InTheWay)),
            Err(_) => Ok(()),
        }
    }

    fn write_file(
        &mut self,
        path: &Path,
        mode: u32,
        modified: Option<SystemTime>,
        data: &mut dyn Read,
    ) -> Result<(), UnpackError> {
        fault::point("unpack: a file")?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(self.root.join(path))?;
        loop {
            let damaged = |source| UnpackError::Damaged { archive: self.archive.to_owned(), source };
            let n = data.read(&mut self.buffer).map_err(damaged)?;
            if n == 0 {
                break;
            }
            self.size_bytes += n as u64;
            if self.size_bytes > self.options.unpacked_bytes_max {
                return Err(self.too_large(self.options.unpacked_bytes_max, "bytes"));
            }
            file.write_all(&self.buffer[..n])?;
            self.check_stop()?;
        }
        // Whatever the umask is: what is unpacked here may be read by another user's build.
        file.set_permissions(PermissionsExt::from_mode(mode))?;
        if let Some(modified) = modified {
            file.set_modified(modified)?;
        }
        Ok(())
    }

    fn check_stop(&self) -> Result<(), UnpackError> {
        if (self.should_stop)() { Err(UnpackError::Stopped) } else { Ok(()) }
    }

    fn refuse(&self, entry: &[u8], why: Refusal) -> UnpackError {
        refused(self.archive, entry, why)
    }

    fn too_large(&self, max: u64, unit: &'static str) -> UnpackError {
        UnpackError::TooLarge { archive: self.archive.to_owned(), max, unit }
    }
}
