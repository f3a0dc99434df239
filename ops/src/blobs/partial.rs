//! A download under way: bytes on disk, their digest so far, and what the server calls this version of them.
//!
//! One writer per file, by a kernel lock on it. A second download of the same URL, in this process or another, gets a
//! file of its own instead of waiting: waiting could not be cancelled, and the solver asks for most things only once.

use std::fs::TryLockError;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fs_err::{File, OpenOptions};
use tempfile::TempPath;

use super::Blobs;
use crate::digest::{Hasher, HashingReader, Sha256Digest};
use crate::fault::{self, fs};

/// What to do with the bytes of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Earlier {
    /// Go on from them. Only for downloads whose digest is known: what a loss of power did to them must come out.
    Resume,
    /// Begin anew.
    Discard,
}

/// Bytes of a download. When dropped they stay for the next run, unless they are in a file of their own.
#[derive(Debug)]
pub(crate) struct Partial {
    blobs: Blobs,
    path: PathBuf,
    /// Set if the usual file is in use by another download.
    own: Option<TempPath>,
    file: File,
    len: u64,
    hasher: Hasher,
    /// An `ETag` or `Last-Modified` to send back in `If-Range`.
    validator: Option<String>,
}

impl Partial {
    /// Opens the partial download of `url`. Reads what is there, so call it where blocking is allowed.
    pub(crate) fn open(blobs: &Blobs, url: &str, earlier: Earlier) -> io::Result<Self> {
        let path = blobs.partial_dir()?.join(Sha256Digest::of(url.as_bytes()).to_string());
        let (path, own, file) = if let Some(file) = lock(&path)? {
            (path, None, file)
        } else {
            let (file, own) = blobs.temporary()?.into_parts();
            let path = own.to_path_buf();
            (path.clone(), Some(own), File::from_parts(file, path))
        };
        let (blobs, hasher) = (blobs.clone(), Hasher::default());
        let mut partial = Self { blobs, path, own, file, len: 0, hasher, validator: None };
        partial.validator = fs_err::read_to_string(partial.validator_path()).ok();
        if earlier == Earlier::Resume && partial.validator.is_some() {
            let mut reader = HashingReader::new(&partial.file);
            partial.len = io::copy(&mut reader, &mut io::sink())?;
            partial.hasher = reader.into_hasher();
        } else {
            partial.restart(None)?;
        }
        Ok(partial)
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// By what the server can tell whether it still has the same bytes.
    pub(crate) fn validator(&self) -> Option<&str> {
        self.validator.as_deref()
    }

    /// Throws all bytes away; those to come are of the version that `validator` names.
    pub(crate) fn restart(&mut self, validator: Option<String>) -> io::Result<()> {
        // In this order: a crash in between must not leave old bytes with a new name.
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        match &validator {
            Some(text) => fs::write(self.validator_path(), text)?,
            None => self.forget_validator()?,
        }
        (self.len, self.hasher, self.validator) = (0, Hasher::default(), validator);
        Ok(())
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Returns the digest of all bytes so far.
    pub(crate) fn digest(&self) -> Sha256Digest {
        self.hasher.clone().finish()
    }

    /// Makes the bytes a blob. Flushes, so call it where blocking is allowed.
    pub(crate) fn publish(self) -> io::Result<PathBuf> {
        // The lock is held until the file has its new name, see `lock`.
        let place = self.blobs.publish(&self.path, &self.digest())?;
        self.forget_validator()?;
        Ok(place)
    }

    /// Removes the bytes, which turned out to be the wrong ones.
    pub(crate) fn discard(self) -> io::Result<()> {
        self.forget_validator()?;
        if self.own.is_none() { fs::remove_file(&self.path) } else { Ok(()) }
    }

    fn validator_path(&self) -> PathBuf {
        self.path.with_extension("validator")
    }

    fn forget_validator(&self) -> io::Result<()> {
        match fs::remove_file(self.validator_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.own.is_some() {
            drop(self.forget_validator());
        }
    }
}

/// Opens and locks the file at `path`; `None` if another download has it, or the file system has no locks.
fn lock(path: &std::path::Path) -> io::Result<Option<File>> {
    loop {
        fault::point("partial: open")?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return Ok(None),
        }
        // Between open and lock the file may have been finished: then it is a blob now, not ours to write.
        let opened = file.metadata()?;
        if path.metadata().is_ok_and(|named| (named.dev(), named.ino()) == (opened.dev(), opened.ino())) {
            return Ok(Some(file));
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn blobs() -> (TempDir, Blobs) {
        let dir = TempDir::new().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    #[test]
    fn bytes_stay_for_the_next_run_together_with_their_version() {
        let (_dir, blobs) = blobs();
        let mut partial = Partial::open(&blobs, "url", Earlier::Resume).unwrap();
        partial.restart(Some("\"v1\"".to_owned())).unwrap();
        partial.append(b"abc").unwrap();
        drop(partial);

        let mut partial = Partial::open(&blobs, "url", Earlier::Resume).unwrap();
        assert_eq!((partial.len(), partial.validator()), (3, Some("\"v1\"")));
        partial.append(b"def").unwrap();
        assert_eq!(partial.digest(), Sha256Digest::of(b"abcdef"));
        assert_eq!(fs_err::read(partial.publish().unwrap()).unwrap(), b"abcdef");
        assert_eq!(Partial::open(&blobs, "url", Earlier::Resume).unwrap().len(), 0);
    }

    #[test]
    fn bytes_of_no_known_version_or_not_wanted_are_thrown_away() {
        let (_dir, blobs) = blobs();
        for (validator, earlier) in [(None, Earlier::Resume), (Some("\"v1\"".to_owned()), Earlier::Discard)] {
            let mut partial = Partial::open(&blobs, "url", Earlier::Resume).unwrap();
            partial.restart(validator).unwrap();
            partial.append(b"abc").unwrap();
            drop(partial);
            let partial = Partial::open(&blobs, "url", earlier).unwrap();
            assert_eq!((partial.len(), partial.validator()), (0, None));
        }
    }

    #[test]
    fn a_second_download_of_the_same_url_gets_a_file_of_its_own() {
        let (dir, blobs) = blobs();
        let mut first = Partial::open(&blobs, "url", Earlier::Resume).unwrap();
        let mut second = Partial::open(&blobs, "url", Earlier::Resume).unwrap();
        second.restart(Some("\"v1\"".to_owned())).unwrap();
        first.append(b"abc").unwrap();
        second.append(b"abc").unwrap();
        let place = second.publish().unwrap();
        assert_eq!(first.publish().unwrap(), place);
        assert_eq!(fs_err::read(place).unwrap(), b"abc");
        assert_eq!(fs_err::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }
}
