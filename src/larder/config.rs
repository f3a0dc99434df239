//! What a [`Larder`](super::Larder) works with, and what is wanted of it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use larder_graph::{ExportMode, OnFailure};
use larder_ops::budget::Jobserver;
use larder_ops::fetch::{Mirror, Netrc};
use larder_ops::install::DebugInfo;
use larder_ops::library::GENERATIONS_KEPT;
use larder_ops::link::LinkMode;
use larder_ops::package::PackageName;
use larder_ops::tiers::{Address, GitHub, Tenant};

use crate::host;

/// What a [`Larder`](super::Larder) works with; the same for all that it solves.
///
/// ```
/// use larder::larder::Config;
/// use larder_ops::link::LinkMode;
///
/// let mut config = Config::new("/var/cache/larder", [("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())]);
/// config.jobs = 4;
/// config.is_offline = true;
/// config.link = Some(LinkMode::Symlink);
/// ```
#[derive(Debug, Clone)]
pub struct Config {
    /// The store's directory; made when something is stored.
    pub store: PathBuf,
    /// Stores below it: asked in this order for what it lacks, and never written.
    pub base_stores: Vec<PathBuf>,
    /// R; `None` for the one on `PATH` of `env`.
    pub r: Option<PathBuf>,
    /// How many units of CPU builds may take together.
    pub jobs: u32,
    /// How much memory builds may need together, in bytes, going by what earlier builds needed. One that needs more than
    /// this runs alone.
    pub memory_bytes: u64,
    /// The jobserver of a make that started this process: of its cores are taken those besides the first.
    pub jobserver: Option<Jobserver>,
    /// Whether to do without a network.
    pub is_offline: bool,
    /// Where to download from instead.
    pub mirrors: Vec<Mirror>,
    /// Passwords by host.
    pub netrc: Option<Netrc>,
    /// A token for GitHub.
    pub github_token: Option<String>,
    /// How packages get from the store into a library; `None` for the best way that works.
    pub link: Option<LinkMode>,
    /// How long one build may take.
    pub build_timeout: Duration,
    /// What builds see of the environment, `PATH` first of all.
    pub env: Vec<(OsString, OsString)>,
    /// The user's Makevars: honoured, and part of every key.
    pub makevars: Option<PathBuf>,
    /// Whether every package is installed by an R of its own, and not by one that is kept warm.
    pub is_plain_install: bool,
    /// Whether to read every byte of what is loaded, and build again what is not as it was stored.
    pub verifies: bool,
    /// Caches beyond this machine, in the order to ask. Offline, only those that need no network are.
    pub caches: Vec<Address>,
    /// Whose packages in these caches are meant.
    pub tenant: Tenant,
    /// What the job knows of GitHub's caches, if this is one there: what the cache `ghac://` stands for.
    pub github: GitHub,
    /// The file with the key that packages are signed with before they are written to caches.
    pub signing_key: Option<PathBuf>,
    /// How long a run that is done otherwise waits for what it writes to caches.
    pub upload_patience: Duration,
}

impl Config {
    /// Works with the store at `store` and the R on the `PATH` of `env`, all CPUs, all memory, and otherwise defaults.
    pub fn new(store: impl Into<PathBuf>, env: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        Self {
            store: store.into(),
            base_stores: Vec::new(),
            r: None,
            jobs: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            memory_bytes: host::memory_bytes().unwrap_or(u64::MAX),
            jobserver: None,
            is_offline: false,
            mirrors: Vec::new(),
            netrc: None,
            github_token: None,
            link: None,
            build_timeout: Duration::from_hours(1),
            env: env.into_iter().collect(),
            makevars: None,
            is_plain_install: false,
            verifies: false,
            caches: Vec::new(),
            github: GitHub::default(),
            tenant: Tenant::default(),
            signing_key: None,
            upload_patience: Duration::from_mins(1),
        }
    }
}

/// What is wanted of one lockfile.
///
/// ```
/// use larder::larder::Request;
/// use larder::{ExportMode, OnFailure};
/// use larder_ops::package::PackageName;
///
/// let mut request = Request::new("library");
/// request.on_failure = OnFailure::KeepGoing;
/// request.rebuild.insert(PackageName::parse("Rcpp")?);
/// request.export = Some(ExportMode::Max);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Request {
    /// The library; made if it does not exist.
    pub library: PathBuf,
    /// What to do when a package fails.
    pub on_failure: OnFailure,
    /// Whether to remove packages from the library that larder did not put there.
    pub is_exact: bool,
    /// Whether to make it a library of generations, if it is not one: then it changes as a whole, and can be rolled back.
    pub makes_generations: bool,
    /// How many generations stay, if it is a library of such.
    pub generations_kept: usize,
    /// A library in use, such as a running worker's, that `library` is made from. It is never changed. What it has and
    /// the lockfile wants is taken from it, even if the store has it no longer; what it has besides goes on working in
    /// the new library too, or is named as stale. With it the new library is complete or as it was, whatever
    /// `on_failure` says.
    pub reference: Option<PathBuf>,
    /// Packages to build although the store has them.
    pub rebuild: BTreeSet<PackageName>,
    /// Whether a change of Depends or Imports rebuilds a package too.
    pub rebuilds_when_imports_change: bool,
    /// What becomes of debug information in compiled code.
    pub debug_info: DebugInfo,
    /// The lockfile's directory, where relative local sources start.
    pub base: PathBuf,
    /// Whether the report of a run that went well is to have the records of its graph, and which results among them.
    pub export: Option<ExportMode>,
}

impl Request {
    /// Wants a library at `library`, and nothing special.
    pub fn new(library: impl Into<PathBuf>) -> Self {
        Self {
            library: library.into(),
            on_failure: OnFailure::Stop,
            is_exact: false,
            makes_generations: false,
            generations_kept: GENERATIONS_KEPT,
            reference: None,
            rebuild: BTreeSet::new(),
            rebuilds_when_imports_change: false,
            debug_info: DebugInfo::default(),
            base: PathBuf::new(),
            export: None,
        }
    }
}
