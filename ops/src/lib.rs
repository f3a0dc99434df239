//! What larder does to one R package: fetch, unpack, install, ingest, link.

pub mod blobs;
pub mod digest;
pub mod explain;
pub mod facets;
pub mod fetch;
pub mod fs;
pub mod install;
pub mod key;
pub mod library;
pub mod link;
pub mod lock;
pub mod metadata;
pub mod op;
pub mod package;
pub mod process;
pub mod recipe;
pub mod source;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod toolchain;
pub mod unpack;
