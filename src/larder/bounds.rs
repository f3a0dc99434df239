//! How much may go on at once, and how far ahead: the visible numbers.

use larder_graph::Limits;
use larder_ops::op::{CPU, NETWORK};

/// How many downloads go on at once.
pub(crate) const DOWNLOADS_MAX: u32 = 12;

/// Returns what may go on at once on this many cores.
pub(crate) fn limits(jobs: u32) -> Limits {
    Limits::new().pool(CPU, jobs).pool(NETWORK, DOWNLOADS_MAX)
}

/// Returns how many sources may be unpacked and wait for the turn of their builds: enough that no core waits for one,
/// and not so many that the sources of a large lockfile fill the disk all at once.
pub(super) fn unpacked_ahead(jobs: u32) -> usize {
    const LEAST: usize = 8;
    LEAST.max(jobs as usize * 2)
}
