//! Scenarios: the command, as users start it, against packages made here. One binary, so that it links once.

mod build;
mod crash;
mod cutoff;
mod exchange;
mod failure;
mod faults;
mod full;
mod generations;
mod golden;
mod interrupt;
mod library;
mod lockfile;
mod malicious;
mod output;
mod plan;
mod power;
mod probe;
mod real;
mod recompile;
mod sources;
mod store;
mod stress;
mod tidy;
mod world;
