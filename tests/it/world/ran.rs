//! What a run of the command left: its exit code, what it printed, and its events in few words.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use serde_json::Value;

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Ran {
    root: PathBuf,
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    pub(super) fn new(root: &Path, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { root: root.to_owned(), code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Insists on an exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Insists on success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.exits(0)
    }

    /// Returns the events, or the lines of a plan.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// Returns the events of one kind.
    pub(crate) fn events_of(&self, reason: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["reason"] == reason).collect()
    }

    /// Returns how each package ended, sorted by name: `bar loaded, foo ingested`.
    pub(crate) fn outcomes(&self) -> String {
        self.by_package("vertex-settled", "outcome")
    }

    /// Returns what a plan is going to do, sorted by name: `bar load, foo unknown`.
    pub(crate) fn actions(&self) -> String {
        self.by_package("plan-vertex", "action")
    }

    fn by_package(&self, reason: &str, field: &str) -> String {
        let mut all: Vec<String> = self
            .events_of(reason)
            .iter()
            .map(|event| format!("{} {}", event["package"].as_str().unwrap(), event[field].as_str().unwrap()))
            .collect();
        all.sort();
        all.join(", ")
    }

    /// Returns the event or plan line that a package ended with.
    #[track_caller]
    pub(crate) fn of(&self, package: &str) -> Value {
        let last = ["vertex-settled", "plan-vertex"];
        let found = self
            .events()
            .into_iter()
            .find(|event| event["package"] == package && last.iter().any(|reason| event["reason"] == *reason));
        found.unwrap_or_else(|| panic!("no `{package}` in\n{}\n{}", self.stdout, self.stderr))
    }

    /// Returns why a package ended as it did.
    pub(crate) fn because(&self, package: &str) -> String {
        self.of(package)["because"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the error that a package ended with.
    pub(crate) fn error(&self, package: &str) -> String {
        self.of(package)["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns all warnings, one a line.
    pub(crate) fn warnings(&self) -> String {
        let warnings = self.events_of("warning");
        warnings.iter().map(|event| event["message"].as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    /// Returns exit code and all that was printed, with this world's paths and all that differs from run to run
    /// replaced.
    pub(crate) fn transcript(&self) -> String {
        let mut text = format!("exit {}\n", self.code.map_or("by signal".to_owned(), |code| code.to_string()));
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !stream.is_empty() {
                text.extend(["--- ", name, "\n", stream.trim_end(), "\n"]);
            }
        }
        filtered(&text.replace(&*self.root.to_string_lossy(), "[world]"))
    }
}

/// Replaces durations, digests, ports, times, and the platform.
fn filtered(text: &str) -> String {
    let filters = [
        (r"\b\d+(\.\d+)? ?(ms|s)\b", "[time]"),
        (r"\b[0-9a-f]{64}\b", "[digest]"),
        (r"\.staging/[0-9a-f]{32}/\d+", ".staging/[build]"),
        (r"127\.0\.0\.1:\d+", "[server]"),
        (r"\b\d{4}-\d\d-\d\dT[\d.:]+Z", "[when]"),
        (r"\b\d\.\d+-[a-z0-9_]+-[a-z-]+-[a-z0-9.-]+-g[0-9a-f]{8}\b", "[platform]"),
        (r"-[0-9a-f]{8}(\.failed)?\.log", "-[key]$1.log"),
    ];
    filters.iter().fold(text.to_owned(), |text, (pattern, with)| {
        fancy_regex::Regex::new(pattern).unwrap().replace_all(&text, *with).into_owned()
    })
}
