//! What larder does to one R package: fetch, unpack, install, ingest, link.

pub mod blobs;
pub mod digest;
pub mod fetch;
pub mod package;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unpack;
