//! Scenarios: the command, as users start it, against packages made here. One binary, so that it links once.

mod build;
mod crash;
mod cutoff;
mod exchange;
mod failure;
mod generations;
mod golden;
mod interrupt;
mod jobs;
mod library;
mod lockfile;
mod output;
mod pkgstore;
mod plan;
mod probe;
mod real;
mod recompile;
mod reference;
mod sources;
mod store;
mod tidy;
mod transfer;
mod verify;
mod world;
