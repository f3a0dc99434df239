//! What a run came to, gathered from the settled events and from nothing else.

use std::sync::Arc;
use std::time::Duration;

use larder_ops::trouble::Trouble;
use larder_ops::wire::Graph;

use crate::event::{Outcome, Settled};

/// The end of a run, for its caller and for the summary that people read.
///
/// ```
/// use larder::event::Outcome;
/// use larder::report::{Report, RunOutcome};
///
/// let mut report = Report::default();
/// report.counts.count(Outcome::Loaded);
/// assert_eq!((report.outcome, report.counts.finished()), (RunOutcome::Ok, 1));
/// assert!(report.failed.is_empty());
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// How the run as a whole ended.
    pub outcome: RunOutcome,
    /// How many packages ended in which way.
    pub counts: Counts,
    /// How long the run took.
    pub duration: Duration,
    /// The packages that failed, in the order in which they did.
    pub failed: Vec<Settled>,
    /// The packages that were skipped, in the order in which they were.
    pub skipped: Vec<Settled>,
    /// The packages of the reference library that are not in the new one, since they would not work there: not in the
    /// lockfile, and not to be had in the build that is wanted now. `because` says why.
    pub stale: Vec<Settled>,
    /// What of the machine ended the run, if that was it: then nobody failed, and what was not finished was skipped.
    pub trouble: Option<Trouble>,
    /// The records of the graph, if the request asked for them and all went well.
    pub export: Option<Arc<Graph>>,
}

/// How a run as a whole ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RunOutcome {
    /// Every package is in the library.
    #[default]
    Ok,
    /// At least one package failed, or the machine refused.
    Failed,
    /// Someone stopped it.
    Interrupted,
}

/// How many packages ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is explained by the outcome of the same name")]
pub struct Counts {
    pub loaded: usize,
    pub recompiled: usize,
    pub ingested: usize,
    pub kept: usize,
    pub provided: usize,
    pub failed: usize,
    pub skipped: usize,
    pub stale: usize,
}

impl Report {
    /// Takes one settled package in. The run's outcome becomes `Failed` with the first failure, unless it was
    /// interrupted; its duration is for the caller to set.
    pub fn record(&mut self, settled: &Settled) {
        self.counts.count(settled.outcome);
        match settled.outcome {
            Outcome::Failed => {
                self.failed.push(settled.clone());
                if self.outcome == RunOutcome::Ok {
                    self.outcome = RunOutcome::Failed;
                }
            }
            Outcome::Skipped => self.skipped.push(settled.clone()),
            Outcome::Stale => self.stale.push(settled.clone()),
            _ => {}
        }
    }

    /// Takes in that the machine refused. Of several refusals the first one counts.
    pub fn end_by(&mut self, trouble: Trouble) {
        self.trouble.get_or_insert(trouble);
        if self.outcome == RunOutcome::Ok {
            self.outcome = RunOutcome::Failed;
        }
    }
}

impl Counts {
    /// Counts one more package that ended like this.
    pub fn count(&mut self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Kept => &mut self.kept,
            Outcome::Loaded => &mut self.loaded,
            Outcome::Recompiled => &mut self.recompiled,
            Outcome::Ingested => &mut self.ingested,
            Outcome::Provided => &mut self.provided,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Stale => &mut self.stale,
        };
        *counter += 1;
    }

    /// Returns the outcomes with their numbers, in the order in which people and programs read them.
    pub fn by_outcome(&self) -> [(Outcome, usize); 8] {
        [
            (Outcome::Loaded, self.loaded),
            (Outcome::Recompiled, self.recompiled),
            (Outcome::Ingested, self.ingested),
            (Outcome::Kept, self.kept),
            (Outcome::Provided, self.provided),
            (Outcome::Failed, self.failed),
            (Outcome::Skipped, self.skipped),
            (Outcome::Stale, self.stale),
        ]
    }

    /// Returns how many packages have settled.
    pub fn total(&self) -> usize {
        self.by_outcome().iter().map(|(_, n)| n).sum()
    }

    /// Returns how many packages ended well.
    pub fn finished(&self) -> usize {
        self.total() - self.failed - self.skipped - self.stale
    }
}
