//! What larder does to one R package: fetch, unpack, install, ingest, link.

pub mod digest;
pub mod fs;
pub mod install;
pub mod key;
pub mod library;
pub mod link;
pub mod metadata;
pub mod package;
pub mod process;
pub mod source;
pub mod store;
pub mod toolchain;
