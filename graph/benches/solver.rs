//! What the solver itself costs, in time, on ops that do nothing.
//!
//!     cargo bench -p larder-graph
//!
//! The graph is made outside the measurement: layers of 1,000 vertices, each with two inputs in the layer below. Time
//! per vertex is to stay under 3 µs, and within 1.3 times from 10,000 vertices to 1,000,000. The first it does; it grows 1.5
//! times for a run and about twice for jobs, since a graph of 1,000,000 is in no CPU cache. For memory see `memory.rs`.

mod layers;

fn main() {
    divan::main();
}
