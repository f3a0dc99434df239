//! A pack on its way: counted and digested as its bytes come, in memory, or on the disk if it may be large.

use std::io::{self, Write};
use std::sync::Arc;

use opendal::Buffer;

use crate::digest::{Hasher, Sha256Digest};
use crate::fault::fs;
use crate::store::Store;
use crate::tiers::objects::Content;

/// What may have more bytes than this goes to the disk.
const IN_MEMORY_MAX: u64 = 32 << 20;

/// Bytes as they come.
pub(super) struct Spool {
    to: To,
    hasher: Hasher,
    n_bytes: u64,
}

enum To {
    Memory(Vec<u8>),
    /// It has no name any more.
    Disk(fs::File),
}

impl Spool {
    /// Makes one for at most so many bytes. A store that cannot be written has no place for large ones, so these are in
    /// memory after all.
    pub(super) fn for_bytes(store: &Store, bytes_max: u64) -> Self {
        let on_disk = || -> io::Result<fs::File> {
            let scratch = store.stage().map_err(io::Error::other)?;
            fs::OpenOptions::new().create_new(true).read(true).write(true).open(scratch.path().join("pack"))
        };
        let file = if bytes_max > IN_MEMORY_MAX { on_disk().ok() } else { None };
        let to = file.map_or(To::Memory(Vec::new()), To::Disk);
        Self { to, hasher: Hasher::default(), n_bytes: 0 }
    }

    /// Returns how many bytes have come.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Returns what came, with its digest.
    pub(super) fn finish(self) -> (Sha256Digest, Content) {
        let content = match self.to {
            To::Memory(bytes) => Content::Memory(Buffer::from(bytes)),
            To::Disk(file) => Content::File { file: Arc::new(file), bytes: self.n_bytes },
        };
        (self.hasher.finish(), content)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = match &mut self.to {
            To::Memory(memory) => memory.write(bytes)?,
            To::Disk(file) => file.write(bytes)?,
        };
        self.hasher.update(&bytes[..n]);
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
