//! What follows from a timeline: what the run waited for, and how it would have gone with more cores.

use std::sync::Arc;
use std::time::Duration;

use larder_graph::{Dag, DagBuilder, EdgeKind, Expected, Forecast, Resources, VertexId};
use larder_ops::op::{CPU, NETWORK};

use super::timeline::Timeline;
use crate::event::{Outcome, Step};
use crate::larder::limits;

/// The numbers of cores that a run is thought through with.
const CORES: [u32; 5] = [1, 2, 4, 8, 16];

/// What can be said of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Analysis {
    /// The work of all packages, one after the other.
    pub work: Duration,
    /// The chain of packages that took longest, inputs first, by place.
    pub critical: Vec<usize>,
    /// The work of that chain.
    pub critical_work: Duration,
    /// The share of the cores' time between the first build and the last that builds took, 0 to 1.
    pub used: f64,
    /// How the same work would have gone with other numbers of cores, from the fewest on; the run's own is among them.
    pub on_cores: Vec<OnCores>,
    /// How many packages ended how.
    pub outcomes: Vec<(Outcome, usize)>,
}

/// A run with another number of cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnCores {
    /// The number.
    pub cores: u32,
    /// How long it would have taken until the last package was built.
    pub makespan: Duration,
}

impl Analysis {
    /// Thinks a timeline through.
    pub fn of(timeline: &Timeline) -> Self {
        let dag = Arc::new(expected(timeline));
        let mut cores: Vec<u32> = CORES.into_iter().chain([timeline.cores.max(1)]).collect();
        cores.sort_unstable();
        cores.dedup();
        let on = |cores| Forecast::of(&dag, limits(cores));
        let own = on(timeline.cores.max(1));
        let on_cores = cores.into_iter().map(|cores| OnCores { cores, makespan: on(cores).makespan }).collect();
        Self {
            work: own.work,
            critical: own.critical.iter().map(|vertex| vertex.index()).collect(),
            critical_work: own.critical_work,
            used: used(timeline),
            on_cores,
            outcomes: outcomes(timeline),
        }
    }

    /// Returns how the run would have gone on its own number of cores, by the same reckoning as on others.
    pub fn own(&self, cores: u32) -> Duration {
        self.on_cores.iter().find(|on| on.cores == cores.max(1)).map_or(Duration::ZERO, |on| on.makespan)
    }
}

/// Makes a graph of the work that was measured: a vertex for each package, in their order.
fn expected(timeline: &Timeline) -> Dag<Expected> {
    let mut builder = DagBuilder::new();
    let ids: Vec<VertexId> = timeline
        .packages
        .iter()
        .map(|package| {
            let takes = |pool, is_any| if is_any { Resources::none().take(pool, 1) } else { Resources::none() };
            let (ahead, work) = (package.ahead(), package.work());
            builder.add(Expected {
                ahead,
                ahead_takes: takes(NETWORK, !ahead.is_zero()),
                work,
                takes: takes(CPU, !work.is_zero()),
            })
        })
        .collect();
    for (package, id) in timeline.packages.iter().zip(&ids) {
        for need in &package.needs {
            builder.edge(*id, ids[*need], EdgeKind::Ordering);
        }
    }
    // A lockfile with a circle in it has no run.
    builder.build().unwrap_or_else(|_| DagBuilder::new().build().expect("nothing is no circle"))
}

fn used(timeline: &Timeline) -> f64 {
    let builds = || timeline.stages().filter(|stage| stage.step == Step::Build);
    let (Some(first), Some(last)) = (builds().map(|stage| stage.start).min(), builds().map(|stage| stage.end).max())
    else {
        return 0.0;
    };
    let time: Duration = builds().map(super::Stage::duration).sum();
    let there = last.saturating_sub(first).as_secs_f64() * f64::from(timeline.cores.max(1));
    if there > 0.0 { (time.as_secs_f64() / there).min(1.0) } else { 0.0 }
}

fn outcomes(timeline: &Timeline) -> Vec<(Outcome, usize)> {
    let mut counts = crate::report::Counts::default();
    for ended in timeline.packages.iter().filter_map(|package| package.ended.as_ref()) {
        counts.count(ended.outcome);
    }
    counts.by_outcome().into_iter().filter(|(_, n)| *n > 0).collect()
}

#[cfg(test)]
pub(crate) mod testing {
    use std::time::Duration;

    use super::Timeline;
    use crate::event::{Event, Outcome, Settled, Step};
    use crate::report::{Report, RunOutcome};
    use crate::ui::testing::{failed, fetched, name, plan, settled, started};

    /// Rcpp is built, then later; cli fails; R6 is loaded.
    pub(crate) fn run_of_four() -> Timeline {
        let ms = Duration::from_millis;
        let later = Settled {
            needs: [name("Rcpp")].into(),
            because: Some("Rcpp 1.0.14 -> 1.0.15".to_owned()),
            ..settled("later", Outcome::Recompiled)
        };
        let events = [
            (3, plan(4)),
            (10, Event::Settled(Settled { duration: ms(5), ..settled("R6", Outcome::Loaded) })),
            (10, started("Rcpp", Step::Fetch)),
            (10, started("later", Step::Fetch)),
            (20, started("cli", Step::Fetch)),
            (60, fetched("later", 9, 9)),
            (90, started("cli", Step::Wait)),
            (110, started("Rcpp", Step::Unpack)),
            (120, started("later", Step::Unpack)),
            (130, started("later", Step::Wait)),
            (160, started("Rcpp", Step::Build)),
            (160, started("cli", Step::Build)),
            (660, Event::Settled(failed("cli"))),
            (1_160, started("Rcpp", Step::Publish)),
            (1_170, Event::Settled(settled("Rcpp", Outcome::Ingested))),
            (1_180, started("later", Step::Build)),
            (3_180, started("later", Step::Publish)),
            (3_200, Event::Settled(later)),
            (3_230, Event::Linked { n_packages: 3, duration: ms(20) }),
            (3_240, Event::Finished(Report { outcome: RunOutcome::Failed, ..Report::default() })),
        ];
        let mut timeline = Timeline::of(events.map(|(at, event)| (ms(at), event)), 2, ms(3_240));
        // For a snapshot the order of first mention matters less than that of the story.
        timeline.packages.rotate_left(1);
        for package in &mut timeline.packages {
            package.needs.iter_mut().for_each(|need| *need -= 1);
        }
        timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_thought_through_with_other_numbers_of_cores() {
        let analysis = Analysis::of(&testing::run_of_four());
        assert_eq!(analysis.critical, [0, 1], "Rcpp, then later");
        assert_eq!((analysis.critical_work.as_millis(), analysis.work.as_millis()), (3_030, 3_530));
        let on: Vec<_> = analysis.on_cores.iter().map(|on| (on.cores, on.makespan.as_millis())).collect();
        // cli's download is over first, and on one core its build, too, comes first.
        assert_eq!(on, [(1, 3_600), (2, 3_180), (4, 3_180), (8, 3_180), (16, 3_180)]);
        assert_eq!(analysis.own(2).as_millis(), 3_180);
        assert!((analysis.used - 3.5 / 6.04).abs() < 1e-9, "{}", analysis.used);
    }

    #[test]
    fn nothing_at_all_can_be_thought_through() {
        let analysis = Analysis::of(&Timeline::default());
        assert_eq!((analysis.work, analysis.critical.len(), analysis.on_cores.len()), (Duration::ZERO, 0, 5));
    }
}
