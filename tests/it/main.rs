//! Scenarios: the command, as users start it, against packages made here. One binary, so that it links once.

mod build;
mod crash;
mod cutoff;
mod exchange;
mod failure;
mod golden;
mod interrupt;
mod library;
mod lockfile;
mod output;
mod plan;
mod probe;
mod real;
mod recompile;
mod sources;
mod store;
mod tidy;
mod warm;
mod world;
