//! What the solver itself costs, in memory: see `max alloc`. Per vertex a job is to hold less than 400 bytes; at 1,000,000
//! it is 342 for a run with its report, 244 for a job, and 216 more if the job keeps its history.
//!
//!     cargo bench -p larder-graph --bench memory
//!
//! Counting takes time, so the times of this bench say nothing; those are in `solver.rs`.

mod layers;

#[global_allocator]
static ALLOC: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}
