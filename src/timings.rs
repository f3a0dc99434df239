//! Where the time of a run went, as a page to look at and as a trace for other programs.
//!
//! A [`Timeline`] is made from the events of a run, when it is over or as far as it got; a run that nobody asks pays
//! nothing for it. `analysis.rs` says what follows from it, `html.rs` and `trace.rs` write it down. None of them knows how
//! a run works.

mod analysis;
mod cpu;
mod html;
mod timeline;
mod trace;

pub use analysis::{Analysis, OnCores};
pub use cpu::CpuMeter;
pub use html::page;
pub use timeline::{Ended, Package, Stage, Timeline};
pub use trace::trace;
