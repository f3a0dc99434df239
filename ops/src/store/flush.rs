//! Flushing the store's file system once for all who wait for it at a time.
//!
//! A flush takes as long as the disk needs for what was written, and covers what anybody wrote before it began. Of
//! several entries that are completed at once, so, each waits for the next flush and not for one of its own after those
//! of all others.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fault::fs;

/// Counts who waits for a flush, and whom the last one covered.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    asked: AtomicU64,
    covered: Mutex<u64>,
}

impl Flushes {
    /// Comes back when all that was written before the call is on the disk that has `dir`.
    pub(super) fn flush(&self, dir: &Path) -> io::Result<()> {
        let own = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut covered = self.covered.lock().unwrap_or_else(PoisonError::into_inner);
        if *covered >= own {
            return Ok(());
        }
        let all = self.asked.load(Ordering::SeqCst);
        rustix::fs::syncfs(fs::File::open(dir)?)?;
        *covered = all;
        Ok(())
    }
}
