//! A build-graph solver: vertices, keys, caches and limits.
//!
//! A vertex is an [`Op`]. The op names its result by a key, as cheaply as it can ([`Op::cache_map`]); a cache may
//! have the result under that key ([`Op::load`]); else the op makes it ([`Op::execute`]), once all that it needs is
//! there. [`run`] takes a [`Dag`] of ops from nothing to a [`Report`] in which every vertex is settled, and says what
//! happens meanwhile in [`Event`]s.
//!
//! `examples/custom_op.rs` of the repository is a graph of one's own in 130 lines.
//!
//! The solver decides what starts when, and no more: it has never heard of packages, files or terminals. To learn how,
//! read `sched.rs` (a pure state machine: what may start, and what follows when something ends), then `run.rs` (the one
//! loop that owns it).

mod dag;
mod error;
mod event;
mod late;
mod limits;
mod op;
mod ready;
mod run;
mod sched;
mod stop;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use dag::{Dag, DagBuilder, EdgeKind, VertexId};
pub use error::{CycleError, Failure};
pub use event::{Event, Outcome, Report, Settled};
pub use limits::{Limits, Resources};
pub use op::{CacheMap, Context, Inputs, Op, Phase};
pub use run::run;
pub use sched::OnFailure;
pub use stop::Stop;
