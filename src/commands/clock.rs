//! `--timings` and `--trace`: looks at the clock while a run goes on, and writes down where the time went.

use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_ops::fs::write_unflushed;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::CommandError;
use crate::cli::TimeArgs;
use crate::exit::Exit;
use crate::larder::{Events, Run};
use crate::timings::{CpuMeter, Timeline, page, trace};
use crate::ui;

/// How often the machine is asked how busy it is.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is to be written down about the time of a run, and what has been seen of it so far.
pub(super) struct Clock {
    page: Option<PathBuf>,
    trace: Option<PathBuf>,
    events: Events,
    cores: u32,
    meter: CpuMeter,
    ticks: Interval,
}

impl Clock {
    pub(super) fn new(args: &TimeArgs, run: &Run, cores: u32) -> Self {
        let (page, trace) = (args.timings.clone(), args.trace.clone());
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { page, trace, events: run.events(), cores, meter: CpuMeter::default(), ticks }
    }

    fn is_asked(&self) -> bool {
        self.page.is_some() || self.trace.is_some()
    }

    /// Looks how busy the machine is, from time to time; never, if nobody wants to know.
    pub(super) async fn tick(&mut self) {
        if !self.is_asked() {
            std::future::pending::<()>().await;
        }
        self.ticks.tick().await;
        self.meter.sample(self.events.elapsed());
    }

    /// Writes what was asked for, as far as the run got; each file in one step. Says where it is, unless in silence.
    pub(super) fn write(&mut self, is_silent: bool) -> Result<(), CommandError> {
        if !self.is_asked() {
            return Ok(());
        }
        let now = self.events.elapsed();
        self.meter.sample(now);
        let mut timeline = Timeline::of(self.events.so_far(), self.cores, now);
        timeline.busy = self.meter.take();
        timeline.busy.retain(|(at, _)| *at <= timeline.end);
        let files = [("timings", &self.page, page as fn(&Timeline) -> String), ("trace", &self.trace, trace)];
        for (what, path, text) in files {
            let Some(path) = path else { continue };
            write(path, &text(&timeline))?;
            if !is_silent {
                ui::print_written(what, path);
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    let written = std::path::absolute(path).and_then(|path| write_unflushed(&path, text.as_bytes()));
    written.map_err(|error| {
        let message = format!("{}: cannot write where the time went: {error}", path.display());
        CommandError::new(Exit::Environment, message).hint("name a file in a directory that exists and can be written")
    })
}
