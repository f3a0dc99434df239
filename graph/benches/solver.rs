//! What the solver itself costs, in time, on ops that do nothing.
//!
//!     cargo bench -p larder-graph
//!
//! The graph is made outside the measurement: layers of 1,000 vertices, each with two inputs in the layer below. Time
//! per vertex is to stay under 3 µs, and within 1.3 times from 10,000 vertices to 1,000,000. In a fresh process
//! (`benches/growth.py`) a run and a job keep both; with a cache or a history it grows 1.4 times, and more where runs of 10,000
//! find their memory in the CPU's cache, as they do here. For memory see `memory.rs`.

mod layers;

fn main() {
    divan::main();
}
