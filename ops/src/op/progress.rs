//! What an operation tells while it works.

use std::path::Path;
use std::sync::Arc;

/// How many pieces of a build's output are told to who comes to wait for it later.
const OUTPUTS_KEPT: u64 = 64;

/// What an operation tells while it works.
#[derive(Debug, Clone)]
pub enum Progress {
    /// A download begins.
    Fetching,
    /// The source is unpacked and made ready.
    Unpacking,
    /// The source has been looked at as far as now: the package waits for its turn.
    Ready,
    /// A build begins.
    Building,
    /// What was built goes into the store.
    Publishing,
    /// Another process builds the same source, the one with this id if that can be told.
    Waiting(Option<u32>),
    /// Bytes of the download so far, and in all if the server says so.
    Bytes(u64, Option<u64>),
    /// A piece of what a build writes.
    Output {
        /// Its log.
        log: Arc<Path>,
        /// Counts the pieces of one build.
        number: u64,
        /// Where in the log this is, in bytes.
        from: u64,
        /// What it wrote.
        text: String,
    },
    /// Something that the user should know.
    Warning(String),
}

impl Progress {
    /// Returns where this is filed for who comes late, so that it takes the place of what was filed there before.
    pub(super) fn slot(&self) -> Option<u64> {
        match self {
            Self::Bytes(..) => Some(0),
            Self::Output { number, .. } => Some(1 + number % OUTPUTS_KEPT),
            _ => None,
        }
    }
}
