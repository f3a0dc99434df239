//! End to end on real CRAN packages: what the command promises, shown on thirty packages that people use.
//!
//! All tests stand on one cold build, served over HTTP on loopback: minutes on two cores, done once, by whichever test
//! needs it first. Every test has its own store and library; a store that is to be full is a copy by hard links of
//! what the cold build left. They run in any order and at once. What they leave is in `target/tmp/real`, to be
//! looked at, until the next run.
//!
//! `tests/run.sh` says what they read; where that is missing they say so and are over.

#![expect(
    clippy::print_stderr,
    reason = "a test's output is for whoever runs it: what is skipped, and how long runs take"
)]

mod events;
mod failures;
mod interruptions;
mod machines;
mod outcomes;
mod plain;
mod processes;
mod trees;
mod world;
