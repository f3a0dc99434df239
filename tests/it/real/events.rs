//! What a run said: its events, its exit code, and questions to them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::world::text;

/// A run that is over.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) code: Option<i32>,
    pub(super) events: Vec<Value>,
    pub(super) stderr: String,
    pub(super) seconds: f64,
}

/// The packages of each outcome that occurred.
pub(super) type Outcomes = BTreeMap<String, BTreeSet<String>>;

impl Ran {
    fn settled(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| event["reason"] == "vertex-settled")
    }

    /// Returns how the packages ended, after a check that each did once and that the last event counted right.
    pub(super) fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::new();
        for event in self.settled() {
            outcomes.entry(text(&event["outcome"])).or_default().insert(text(&event["package"]));
        }
        let finished = self.events.last().expect("a run says something");
        assert_eq!(finished["reason"], "finished", "{}", self.stderr);
        for (outcome, count) in finished["counts"].as_object().expect("counts") {
            let n = outcomes.get(outcome).map_or(0, BTreeSet::len);
            assert_eq!(count.as_u64(), u64::try_from(n).ok(), "{outcome}");
        }
        let n: usize = outcomes.values().map(BTreeSet::len).sum();
        assert_eq!(self.events[0]["vertices"].as_u64(), u64::try_from(n).ok(), "each package settles once");
        assert_eq!(n, self.settled().count(), "each package settles once");
        outcomes
    }

    /// Returns how one package ended.
    pub(super) fn event(&self, package: &str) -> &Value {
        self.settled().find(|event| event["package"] == package).expect("every package settles")
    }

    /// Returns the packages with this outcome so far.
    pub(super) fn with(&self, outcome: &str) -> BTreeSet<String> {
        self.settled().filter(|event| event["outcome"] == outcome).map(|event| text(&event["package"])).collect()
    }

    /// Checks that the run went well and every package ended in one of these ways.
    #[track_caller]
    pub(super) fn all(&self, expected: &[(&str, &BTreeSet<String>)]) {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        let expected = expected.iter().filter(|(_, packages)| !packages.is_empty());
        let expected: Outcomes =
            expected.map(|(outcome, packages)| (outcome.to_string(), (*packages).clone())).collect();
        assert_eq!(self.outcomes(), expected);
    }
}

/// Makes a set of names.
pub(super) fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}
