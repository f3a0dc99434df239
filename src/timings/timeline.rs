//! What happened when: the steps of each package, put together from a run's events.

use std::collections::HashMap;
use std::time::Duration;

use larder_ops::package::PackageName;

use crate::event::{Event, Outcome, Settled, Step};
use crate::report::RunOutcome;

/// A run, by the time since its start.
///
/// ```no_run
/// # fn example(run: &larder::larder::Run) {
/// use larder::timings::{Timeline, page, trace};
///
/// let mut events = run.events();
/// let timeline = Timeline::of(events.so_far(), 4, events.elapsed());
/// let (html, json) = (page(&timeline), trace(&timeline));
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// How many units of CPU builds could take together.
    pub cores: u32,
    /// What the packages are for.
    pub platform: String,
    /// When the plan was ready.
    pub planned: Option<Duration>,
    /// When the run was over, or was left.
    pub end: Duration,
    /// How it ended, if it did.
    pub outcome: Option<RunOutcome>,
    /// The packages, in the order in which something was first heard of them.
    pub packages: Vec<Package>,
    /// When the library was changed, and how many packages were put into it.
    pub linked: Option<(Stage, usize)>,
    /// How many cores all programs of this machine used together, measured up to each of these times.
    pub busy: Vec<(Duration, f64)>,
}

/// One package of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Package {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: String,
    /// What was done, in order. Between steps it waits.
    pub stages: Vec<Stage>,
    /// Its end, unless the run ended before.
    pub ended: Option<Ended>,
    /// What it needs of the run's packages, by their place.
    pub needs: Vec<usize>,
}

/// How a package ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    /// When.
    pub at: Duration,
    /// How.
    pub outcome: Outcome,
    /// Why it ended so, or what went wrong.
    pub because: Option<String>,
}

/// A step, and when it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// What was done; never [`Step::Wait`].
    pub step: Step,
    /// From when on.
    pub start: Duration,
    /// Until when.
    pub end: Duration,
}

impl Stage {
    /// Returns how long it took.
    pub fn duration(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

impl Package {
    /// Returns how long a step took in all.
    pub fn time(&self, step: Step) -> Duration {
        self.stages.iter().filter(|stage| stage.step == step).map(Stage::duration).sum()
    }

    /// Returns what it took of a core: building and publishing.
    pub fn work(&self) -> Duration {
        self.time(Step::Build) + self.time(Step::Publish)
    }

    /// Returns what waits for no other package: the download, and unpacking it.
    pub fn ahead(&self) -> Duration {
        self.time(Step::Fetch) + self.time(Step::Unpack)
    }

    /// Says whether a compiler or R worked on it, in vain or not.
    pub fn is_built(&self) -> bool {
        self.stages.iter().any(|stage| stage.step == Step::Build)
    }
}

impl Timeline {
    /// Puts together what a run told until `now`, with the time since its start.
    pub fn of(events: impl IntoIterator<Item = (Duration, Event)>, cores: u32, now: Duration) -> Self {
        let mut reading = Reading {
            timeline: Self { cores, end: now, ..Self::default() },
            places: HashMap::new(),
            under_way: HashMap::new(),
            needs: HashMap::new(),
        };
        for (at, event) in events {
            reading.take_in(at, event);
        }
        reading.finish()
    }

    /// Returns the stages of all packages.
    pub fn stages(&self) -> impl Iterator<Item = &Stage> {
        self.packages.iter().flat_map(|package| &package.stages)
    }

    /// Returns how many packages were at a step at the same time, from each of these times on.
    pub fn concurrent(&self, step: Step) -> Vec<(Duration, usize)> {
        let mut changes: Vec<(Duration, isize)> = self
            .stages()
            .filter(|stage| stage.step == step)
            .flat_map(|stage| [(stage.start, 1), (stage.end, -1)])
            .collect();
        changes.sort_unstable();
        let mut counts: Vec<(Duration, usize)> = vec![(Duration::ZERO, 0)];
        let mut n = 0_isize;
        for (at, change) in changes {
            n += change;
            let n = usize::try_from(n).unwrap_or(0);
            match counts.last_mut() {
                Some(last) if last.0 == at => last.1 = n,
                _ => counts.push((at, n)),
            }
        }
        counts
    }
}

struct Reading {
    timeline: Timeline,
    places: HashMap<PackageName, usize>,
    /// By package: the step that it is in, and since when.
    under_way: HashMap<usize, (Step, Duration)>,
    needs: HashMap<usize, std::sync::Arc<[PackageName]>>,
}

impl Reading {
    fn take_in(&mut self, at: Duration, event: Event) {
        match event {
            Event::Plan { platform, .. } => {
                (self.timeline.platform, self.timeline.planned) = (platform, Some(at));
            }
            Event::Started { package, version, step } => {
                let place = self.place(&package, &version);
                self.leave(place, at);
                self.under_way.insert(place, (step, at));
            }
            // The last one of a download: it is there, and may wait for who unpacks it.
            Event::Progress { package, step, current, total: Some(total) } if current == total => {
                let Some(place) = self.places.get(&package).copied() else { return };
                if self.under_way.get(&place).is_some_and(|(of, _)| *of == step) {
                    self.leave(place, at);
                }
            }
            Event::Settled(settled) => self.settled(at, settled),
            Event::Linked { n_packages, duration } => {
                let stage = Stage { step: Step::Link, start: at.saturating_sub(duration), end: at };
                self.timeline.linked = Some((stage, n_packages));
            }
            Event::Finished(report) => {
                (self.timeline.end, self.timeline.outcome) = (at, Some(report.outcome));
            }
            Event::Progress { .. } | Event::Output { .. } | Event::Warning { .. } => {}
        }
    }

    fn settled(&mut self, at: Duration, settled: Settled) {
        let place = self.place(&settled.package, &settled.version);
        self.leave(place, at);
        self.needs.insert(place, settled.needs);
        let package = &mut self.timeline.packages[place];
        if settled.outcome == Outcome::Loaded && !package.is_built() && !settled.duration.is_zero() {
            let since = package.stages.last().map_or(Duration::ZERO, |last| last.end);
            let start = at.saturating_sub(settled.duration).max(since);
            package.stages.push(Stage { step: Step::Load, start, end: at });
        }
        let because = settled.failure.map(|failure| failure.message).or(settled.because);
        package.ended = Some(Ended { at, outcome: settled.outcome, because });
    }

    fn place(&mut self, name: &PackageName, version: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.timeline.packages.len();
        self.places.insert(name.clone(), place);
        let (name, version) = (name.clone(), version.to_owned());
        self.timeline.packages.push(Package { name, version, stages: Vec::new(), ended: None, needs: Vec::new() });
        place
    }

    /// Ends the step that a package is in.
    fn leave(&mut self, place: usize, at: Duration) {
        if let Some((step, start)) = self.under_way.remove(&place).filter(|(step, _)| *step != Step::Wait) {
            self.timeline.packages[place].stages.push(Stage { step, start, end: at });
        }
    }

    fn finish(mut self) -> Timeline {
        let under_way: Vec<usize> = self.under_way.keys().copied().collect();
        for place in under_way {
            self.leave(place, self.timeline.end);
        }
        for (place, needs) in &self.needs {
            let places = needs.iter().filter_map(|name| self.places.get(name).copied());
            self.timeline.packages[*place].needs = places.filter(|need| need != place).collect();
        }
        self.timeline
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timings::analysis::testing::run_of_four;

    #[test]
    fn a_package_goes_from_step_to_step_and_waits_between() {
        let timeline = run_of_four();
        let text: Vec<String> = timeline
            .packages
            .iter()
            .map(|package| {
                let stages = package.stages.iter().map(|stage| {
                    format!("{} {}-{}", stage.step.as_str(), stage.start.as_millis(), stage.end.as_millis())
                });
                let ended = package.ended.as_ref().map_or("", |ended| ended.outcome.as_str());
                format!("{}: {} {ended}", package.name, stages.collect::<Vec<_>>().join(", "))
            })
            .collect();
        insta::assert_snapshot!(text.join("\n"), @"
        Rcpp: fetch 10-110, unpack 110-160, build 160-1160, publish 1160-1170 ingested
        later: fetch 10-60, unpack 120-130, build 1180-3180, publish 3180-3200 recompiled
        cli: fetch 20-90, build 160-660 failed
        R6: load 5-10 loaded
        ");
        assert_eq!(timeline.packages[1].needs, [0]);
        assert_eq!(timeline.concurrent(Step::Build)[1..4].iter().map(|(_, n)| *n).collect::<Vec<_>>(), [2, 1, 0]);
        assert_eq!(timeline.linked.map(|(stage, n)| (stage.duration().as_millis(), n)), Some((20, 3)));
    }

    #[test]
    fn what_a_run_was_at_when_it_was_left_ends_there() {
        let name = PackageName::parse("cli").unwrap();
        let started = Event::Started { package: name, version: "1.0".to_owned(), step: Step::Build };
        let timeline = Timeline::of([(Duration::from_secs(1), started)], 2, Duration::from_secs(9));
        assert_eq!(timeline.packages[0].time(Step::Build), Duration::from_secs(8));
        assert_eq!((timeline.outcome, &timeline.packages[0].ended), (None, &None));
    }
}
