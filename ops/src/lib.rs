//! What larder does to one R package: fetch, unpack, install, ingest, link.

pub mod digest;
pub mod package;
