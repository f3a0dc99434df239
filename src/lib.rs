//! Turns a pak lockfile into a complete R package library.
//!
//! ```text
//! lockfile -> plan (DAG + keys) -> graph solver -> ops (fetch, unpack, install, ingest, link) -> library
//!                                      \--> events -> ui (bars | lines | json)
//! ```
//!
//! Start with [`Larder`]: it turns a [`Lockfile`](lockfile::Lockfile) into a library and tells of it in
//! [`Event`](event::Event)s. `ARCHITECTURE.md` has the map.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use larder::larder::{Config, Larder, Request};
//! use larder::lockfile::Lockfile;
//!
//! # async fn example(lockfile: &str) -> Result<(), Box<dyn std::error::Error>> {
//! let path = ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
//! let larder = Arc::new(Larder::open(Config::new("/var/cache/larder", [path]))?);
//! let mut run = larder.solve(&Lockfile::parse(lockfile)?, Request::new("library"));
//! while let Some(event) = run.next().await {
//!     println!("{event:?}");
//! }
//! let report = run.finish().await?;
//! # Ok(())
//! # }
//! ```

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
pub mod timings;
pub mod ui;

pub use larder::Larder;
pub use larder_graph::{ExportMode, OnFailure, Stop};
