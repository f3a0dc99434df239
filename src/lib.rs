//! Turns a pak lockfile into a complete R package library.
//!
//! ```text
//! lockfile -> plan (DAG + keys) -> graph solver -> ops (fetch, unpack, install, ingest, link) -> library
//!                                      \--> events -> ui (bars | lines | json)
//! ```
//!
//! Start with [`Larder`]: it turns a [`Lockfile`](lockfile::Lockfile) into a library and tells of it in
//! [`Event`](event::Event)s. `ARCHITECTURE.md` has the map.

mod cli;
pub mod commands;
pub mod event;
pub mod exit;
pub mod host;
pub mod larder;
pub mod lockfile;
pub mod plan;
pub mod report;
pub mod system;
pub mod ui;

pub use larder::Larder;
pub use larder_graph::{OnFailure, Stop};
