//! A build-graph solver: vertices, keys, caches and limits, for many jobs at a time.
//!
//! A vertex is an [`Op`]. The op names its result by a key, as cheaply as it can ([`Op::cache_map`]); a cache may
//! have the result under that key ([`CacheManager`]); else the op makes it ([`Op::execute`]), once what it needs is
//! there. Nothing is named, loaded or made that the answer does not need.
//!
//! A [`Solver`] does so for any number of [`Job`]s. What two of them have in common is done once; what one of them
//! gives up goes on for the other. [`run`] is a solver for one graph: it settles every vertex of a [`Dag`] and says what
//! happens meanwhile in [`Event`]s.
//!
//! `examples/custom_op.rs` of the repository is a graph of one's own in 130 lines.
//!
//! The solver decides what starts when, and no more: it has never heard of packages, files or terminals. To learn how,
//! read `core.rs` and what is below it (a pure state machine: what may start, and what follows when something ends),
//! then `drive.rs` (the loop that owns it). `SCENARIOS.md` says which behaviours are shown by which test.

mod cache;
mod config;
mod context;
mod core;
mod dag;
mod drive;
mod error;
mod event;
mod export;
mod few;
mod forecast;
mod limits;
mod op;
mod ready;
mod run;
mod solver;
mod status;
mod stop;
mod subbuild;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use cache::{Cache, CacheManager, Combined, Found, MemoryCache, Record, Save};
pub use config::Config;
pub use context::{Context, Inputs};
pub use dag::{Dag, DagBuilder, Edge, EdgeKind, VertexId, VertexOptions};
pub use error::{BuildError, CycleError, Failure, OpenError, UnknownJob};
pub use event::{Event, Outcome, Report, Settled};
pub use export::{Export, ExportDigest, ExportInput, ExportMode, ExportRecord, ExportResult};
pub use forecast::{Expected, Forecast};
pub use limits::{Limits, Resources};
pub use op::{CacheMap, Need, Op, Phase, Reach};
pub use run::{OnFailure, run};
pub use solver::{Built, Job, JobOptions, Solver};
pub use status::{History, JobEvent, StatusStream, StatusVertex, Told};
pub use stop::Stop;
