//! Downloads that later runs share: files by digest, and which digest was first seen for what has none in a lockfile.
//!
//! Layout of the directory, which may be removed as a whole or in part at any time no run is using it:
//!
//! ```text
//! sha256/ab/<64 hex digits>             a whole download, 0444, never changed
//! first-seen/<sha256 of identity>.json  a FirstSeen record
//! partial/...                           downloads that are under way or were broken off; locked as a whole by each
//!                                       process that downloads, together, and by one that clears up, alone
//! ```
//!
//! Whatever is under `sha256/` and `first-seen/` was flushed to disk before it got its name.

mod partial;

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use fs_err::File;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::digest::Sha256Digest;
use crate::fault::{self, fs};
pub(crate) use partial::{Earlier, Partial};

/// A directory of downloads. Clones share it.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: Arc<Path>,
    /// Directories below it, of which only the records of first seen things are read.
    bases: Arc<[PathBuf]>,
}

/// What was found the first time something without a known digest was downloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstSeen {
    /// What the digest stands for, in the words of whoever asked.
    pub identity: String,
    /// Where the bytes came from, without credentials.
    pub url: String,
    /// The digest of the bytes.
    pub sha256: Sha256Digest,
    /// Their number.
    pub size: u64,
    /// When that was, in seconds since 1970.
    pub when: u64,
}

/// A record or a file that cannot be read or written; the message names the path.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A first-seen record that is not what this module writes.
    #[error("{path}: not a record of a download; remove it to accept the next one")]
    BadRecord {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl Blobs {
    /// Opens the directory `dir` to read what is there, which may be nothing.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into().into(), bases: Arc::default() }
    }

    /// Puts this directory over others: what was first seen there counts here too. They are never written.
    #[must_use]
    pub fn over(self, bases: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { bases: bases.into_iter().collect(), ..self }
    }

    /// Opens the directory `dir`, which is made if it is absent.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let blobs = Self::at(dir);
        blobs.create()?;
        Ok(blobs)
    }

    /// Makes the directory if it is absent; without it nothing can be downloaded.
    pub fn create(&self) -> io::Result<()> {
        ["sha256", "first-seen", "partial"].iter().try_for_each(|part| fs::create_dir_all(self.dir.join(part)))
    }

    /// Keeps those who clear up away from what is under way, for as long as the returned file is open. `None` where
    /// that cannot be: there they find out neither whether somebody downloads, and leave everything alone.
    pub(crate) fn hold(&self) -> Option<File> {
        let dir = File::open(self.dir.join("partial")).ok()?;
        dir.file().lock_shared().ok().map(|()| dir)
    }

    /// Makes downloads wait while the returned file is open, if none is under way.
    pub(crate) fn try_close(&self) -> Option<File> {
        let path = self.dir.join("partial");
        fs::create_dir_all(&path).ok()?;
        let dir = File::open(path).ok()?;
        dir.try_lock().ok().map(|()| dir)
    }

    /// Returns the file with the bytes of `digest`, if it is there. They are not read again: only [`crate::fetch`]
    /// puts files here, and it checks them first.
    pub fn get(&self, digest: &Sha256Digest) -> Option<PathBuf> {
        Some(self.place(digest)).filter(|path| path.is_file())
    }

    /// Returns the digests of all files that are there; none if they cannot be listed.
    pub fn digests(&self) -> Vec<Sha256Digest> {
        let folders = fs_err::read_dir(self.dir.join("sha256")).into_iter().flatten().flatten();
        let files = folders.filter_map(|folder| fs_err::read_dir(folder.path()).ok()).flatten().flatten();
        files.filter_map(|file| file.file_name().to_str()?.parse().ok()).collect()
    }

    /// Returns what was first seen for `identity`.
    pub fn first_seen(&self, identity: &str) -> Result<Option<FirstSeen>, BlobError> {
        let below = self.bases.iter().map(Self::at);
        let mut seen = std::iter::once(self.clone()).chain(below).map(|blobs| blobs.first_seen_here(identity));
        seen.find(|seen| !matches!(seen, Ok(None))).unwrap_or(Ok(None))
    }

    fn first_seen_here(&self, identity: &str) -> Result<Option<FirstSeen>, BlobError> {
        let path = self.record_path(identity);
        let text = match fs_err::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        serde_json::from_slice(&text).map(Some).map_err(|source| BlobError::BadRecord { path, source })
    }

    /// Returns where the first-seen record of `identity` is, or would be.
    pub fn record_path(&self, identity: &str) -> PathBuf {
        self.dir.join("first-seen").join(format!("{}.json", Sha256Digest::of(identity.as_bytes())))
    }

    /// Records that the blob `sha256` is what `identity` stands for, unless there is a record already, which then
    /// stays. Returns the record that holds.
    pub(crate) fn record(&self, identity: &str, url: &str, sha256: Sha256Digest) -> Result<FirstSeen, BlobError> {
        let metadata = fs_err::metadata(self.place(&sha256))?;
        // The blob has just been written: its time is now, and no clock is read.
        let when = metadata.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (identity, url) = (identity.to_owned(), url.to_owned());
        let record = FirstSeen { identity, url, sha256, size: metadata.len(), when };
        let path = self.record_path(&record.identity);
        let mut file = self.temporary()?;
        serde_json::to_writer(&mut file, &record).map_err(io::Error::from)?;
        file.write_all(b"\n")?;
        file.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
        file.as_file().sync_all()?;
        fault::point("first-seen record: persist")?;
        match file.persist_noclobber(&path) {
            Ok(_) => {
                self.flush("first-seen")?;
                Ok(record)
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                Ok(self.first_seen(&record.identity)?.unwrap_or(record))
            }
            Err(error) => Err(error.error.into()),
        }
    }

    /// Makes a temporary file on the file system of the blobs. It is gone when dropped.
    pub(crate) fn temporary(&self) -> io::Result<NamedTempFile> {
        fault::point("blobs: temporary file")?;
        tempfile::Builder::new().prefix(".tmp-").tempfile_in(self.partial_dir()?)
    }

    /// Makes a temporary directory on the file system of the blobs. It is gone when dropped.
    pub(crate) fn temporary_dir(&self) -> io::Result<tempfile::TempDir> {
        fault::point("blobs: temporary directory")?;
        tempfile::Builder::new().prefix(".tmp-").tempdir_in(self.partial_dir()?)
    }

    /// Returns where downloads go on. If it could not be made at the start, it is now, or says why not.
    fn partial_dir(&self) -> io::Result<PathBuf> {
        let dir = self.dir.join("partial");
        if !dir.is_dir() {
            self.create()?;
        }
        Ok(dir)
    }

    /// Gives the file at `from`, whose bytes are those of `digest`, its name as a blob, flushed and read-only.
    /// If that blob is there already, `from` is removed.
    pub(crate) fn publish(&self, from: &Path, digest: &Sha256Digest) -> io::Result<PathBuf> {
        let place = self.place(digest);
        if place.is_file() {
            fs::remove_file(from)?;
            return Ok(place);
        }
        let file = File::open(from)?;
        file.set_permissions(PermissionsExt::from_mode(0o444))?;
        fault::point("blob: flush")?;
        file.sync_all()?;
        let (folder, _) = Self::folder_and_name(digest);
        fs::create_dir_all(self.dir.join(&folder))?;
        fs::rename(from, &place)?;
        self.flush(&folder)?;
        Ok(place)
    }

    fn place(&self, digest: &Sha256Digest) -> PathBuf {
        let (folder, name) = Self::folder_and_name(digest);
        self.dir.join(folder).join(name)
    }

    fn folder_and_name(digest: &Sha256Digest) -> (String, String) {
        let hex = digest.to_string();
        (format!("sha256/{}", &hex[..2]), hex)
    }

    /// Makes the names in a folder survive a loss of power.
    fn flush(&self, folder: &str) -> io::Result<()> {
        fault::point("blobs: flush a folder")?;
        File::open(self.dir.join(folder))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn blobs() -> (TempDir, Blobs) {
        let dir = TempDir::new().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        (dir, blobs)
    }

    fn publish(blobs: &Blobs, bytes: &[u8]) -> Sha256Digest {
        let digest = Sha256Digest::of(bytes);
        let path = blobs.temporary().unwrap().into_temp_path();
        fs_err::write(&path, bytes).unwrap();
        blobs.publish(&path, &digest).unwrap();
        digest
    }

    #[test]
    fn a_blob_is_found_by_its_digest_and_read_only() {
        let (dir, blobs) = blobs();
        let digest = Sha256Digest::of(b"bytes");
        assert_eq!(blobs.get(&digest), None);
        publish(&blobs, b"bytes");
        publish(&blobs, b"bytes");
        let path = blobs.get(&digest).unwrap();
        assert_eq!(path, dir.path().join(format!("blobs/sha256/{}/{digest}", &digest.to_string()[..2])));
        assert_eq!(fs_err::read(&path).unwrap(), b"bytes");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
        assert_eq!(fs_err::read_dir(dir.path().join("blobs/partial")).unwrap().count(), 0);
    }

    #[test]
    fn the_first_record_stays() {
        let (_dir, blobs) = blobs();
        assert_eq!(blobs.first_seen("cli 3.6.1").unwrap(), None);
        let (first, second) = (publish(&blobs, b"first"), publish(&blobs, b"second"));
        let record = blobs.record("cli 3.6.1", "http://a/cli.tar.gz", first).unwrap();
        assert_eq!((record.sha256, record.size), (first, 5));
        assert_eq!(blobs.record("cli 3.6.1", "http://b/cli.tar.gz", second).unwrap(), record);
        assert_eq!(blobs.first_seen("cli 3.6.1").unwrap(), Some(record));
    }

    #[test]
    fn a_record_that_is_none_is_an_error_that_names_it() {
        let (_dir, blobs) = blobs();
        let path = blobs.record_path("x");
        fs_err::write(&path, "{").unwrap();
        let error = blobs.first_seen("x").unwrap_err();
        assert!(error.to_string().starts_with(path.to_str().unwrap()), "{error}");
    }
}
