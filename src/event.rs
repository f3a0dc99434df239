//! What a run says of itself while it goes: the stream of events that embedders and `ui` consume.
//!
//! These are plain values. How they look on a screen or on the wire is not known here; see `ui`.
//!
//! ```
//! use larder::event::Event;
//!
//! fn show(event: &Event) -> Option<String> {
//!     Some(match event {
//!         Event::Plan { n_vertices, library, .. } => format!("{n_vertices} packages into {}", library.display()),
//!         Event::Started { package, step, .. } => format!("{package}: {}", step.as_str()),
//!         Event::Progress { package, current, total: Some(total), .. } => format!("{package}: {current}/{total}"),
//!         Event::Output { package, text, .. } => format!("{package}: {}", text.trim_end()),
//!         Event::Settled(settled) => match &settled.failure {
//!             Some(failure) => format!("{}: {}\n{}", settled.package, failure.message, failure.log_tail.join("\n")),
//!             None => format!("{}: {}", settled.package, settled.outcome.as_str()),
//!         },
//!         Event::Warning { message } => message.clone(),
//!         Event::Finished(report) => format!("{:?} in {:?}", report.outcome, report.duration),
//!         Event::Progress { .. } => return None,
//!     })
//! }
//!
//! assert_eq!(show(&Event::Warning { message: "full".to_owned() }).as_deref(), Some("full"));
//! ```

use std::path::PathBuf;
use std::time::Duration;

use larder_ops::package::PackageName;

use crate::plan::Stale;
use crate::report::Report;

/// One thing that happened. A run sends one `Plan`, then any of the others, and last one `Finished`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The plan is made and work is about to start.
    Plan {
        /// The platform that every key of this run belongs to.
        platform: String,
        /// How many packages will settle.
        n_vertices: usize,
        /// The library to complete.
        library: PathBuf,
        /// The store to load from and ingest into.
        store: PathBuf,
    },
    /// A package entered a step; it left the step that it was in before, if any.
    Started {
        /// Which package.
        package: PackageName,
        /// Its version.
        version: String,
        /// What is done to it now.
        step: Step,
    },
    /// A step came forward. Senders need not hold back: whoever shows these limits their rate.
    ///
    /// The last one of a fetch has `current` equal to `total`: the package then waits for its next step, and is
    /// not shown as busy.
    Progress {
        /// Which package.
        package: PackageName,
        /// The step that it is in.
        step: Step,
        /// How far it is; bytes for [`Step::Fetch`].
        current: u64,
        /// Where it ends, if that is known.
        total: Option<u64>,
    },
    /// A build wrote something. Its log file has all of it; of what nobody reads in time, pieces may be missing here.
    Output {
        /// Which package.
        package: PackageName,
        /// The log file.
        log: PathBuf,
        /// Where in the file this is, in bytes.
        from: u64,
        /// What it wrote: whole lines, as a rule.
        text: String,
    },
    /// A package reached its end; sent once for each package of the plan.
    Settled(Settled),
    /// Something that people should know and that stops nothing.
    Warning {
        /// A sentence in the voice of an error message.
        message: String,
    },
    /// The run is over.
    Finished(Report),
}

/// What is being done to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Its source, or a prebuilt binary, is on the way.
    Fetch,
    /// R installs it from source.
    Build,
    /// Its tree comes from the store or from a cache.
    Load,
    /// Its tree goes into the library.
    Link,
}

/// How one package ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Which package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// What became of it.
    pub outcome: Outcome,
    /// The reason in a few words, such as `Rcpp 1.0.14 -> 1.0.15`. Of a skipped package it is the name of the failed
    /// package alone, or what of the machine ended the run, such as `no space left`, or `None` if the run ended
    /// otherwise before this one's turn.
    pub because: Option<String>,
    /// The reference `source_hash/config_hash`, if the key was known.
    pub key: Option<String>,
    /// How long work on this package took; zero if there was none.
    pub duration: Duration,
    /// The log of its build.
    pub log: Option<PathBuf>,
    /// What went wrong; present exactly if the outcome is [`Outcome::Failed`].
    pub failure: Option<Failure>,
}

/// The ways a package can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The library already had it.
    Kept,
    /// It came from the store or a cache.
    Loaded,
    /// It was built before, but what it links to has changed.
    Recompiled,
    /// It is new: built, or taken in as a prebuilt binary.
    Ingested,
    /// R itself has it.
    Provided,
    /// It could not be had.
    Failed,
    /// Something that it needs failed, or the run ended before its turn.
    Skipped,
    /// It is in the reference library, but not in the lockfile, and cannot be had as it would have to be now.
    Stale,
}

/// What went wrong with one package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// The error, in one sentence.
    pub message: String,
    /// The last lines of R's own output, unaltered.
    pub log_tail: Vec<String>,
    /// Debian's names of the system packages that the build missed. Advice for other systems belongs into `hint`.
    pub missing_system_packages: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// Whether the machine is at fault, not the package: no compiler, disk full, no permission.
    pub is_environment: bool,
}

impl Settled {
    /// Returns the failed package because of which this one was skipped. A name is one word, other reasons are several.
    pub fn failed_input(&self) -> Option<&str> {
        self.because.as_deref().filter(|because| self.outcome == Outcome::Skipped && !because.contains(' '))
    }
}

impl From<&Stale> for Settled {
    fn from(stale: &Stale) -> Self {
        Self {
            package: stale.package.clone(),
            version: stale.version.clone(),
            outcome: Outcome::Stale,
            because: Some(stale.because.clone()),
            key: None,
            duration: Duration::ZERO,
            log: None,
            failure: None,
        }
    }
}

impl Step {
    /// Returns the word that events use on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Build => "build",
            Self::Load => "load",
            Self::Link => "link",
        }
    }
}

impl Outcome {
    /// Returns the word that people and programs read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Loaded => "loaded",
            Self::Recompiled => "recompiled",
            Self::Ingested => "ingested",
            Self::Provided => "provided",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Stale => "stale",
        }
    }
}
