//! The composition root: store, library, R and limits come together here, and a lockfile becomes a library.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_graph::{OnFailure, Stop};
use larder_ops::blobs::Blobs;
use larder_ops::budget::Budget;
use larder_ops::cicache::CiError;
use larder_ops::digest::Sha256Digest;
use larder_ops::fetch::{FetchConfig, Fetcher};
use larder_ops::install::Builder;
use larder_ops::library::{LibraryError, Record};
use larder_ops::op::{MEMORY, Origin, Workshop};
use larder_ops::package::PackageName;
use larder_ops::sonames::SystemLibraries;
use larder_ops::store::transfer::{ExportError, ImportError};
use larder_ops::store::{Depth, Store};
use larder_ops::tiers::{Address, KeyError, SecretKey, TierError, Tiers, TiersConfig};
use larder_ops::toolchain::{Distro, ToolchainError};
use larder_ops::trouble::{Trouble, is_environment};
use larder_ops::workers::Workers;
use tokio::sync::Semaphore;

use crate::host::Host;
use crate::lockfile::Lockfile;
use crate::plan::{Action, Knowledge, Plan, PlanError, Settings, Vertex};

mod bounds;
mod changes;
mod cicache;
mod config;
mod elsewhere;
mod engine;
mod evict;
mod exchange;
mod journal;
mod known;
mod reference;
mod remote;
mod run;
mod tell;
mod transfer;
mod trouble;
mod update;

use bounds::unpacked_ahead;
use engine::{Engine, Engines};
use journal::{Journal, Scribe};
use known::{Known, Stock};
use reference::{Access, Beside};

pub(crate) use bounds::{DOWNLOADS_MAX, limits};
pub use changes::{Refresh, Replaced};
pub use cicache::CiKeys;
pub use config::{Config, Request};
pub use exchange::{Abi, Exchange, Found, Ingested, Manifest, STORE_MANIFEST};
pub use journal::Events;
pub use remote::{Traffic, Whereabouts};
pub use run::Run;
pub use transfer::From;

/// Why a run did not even start, or could not be brought to its end. Packages that fail are in the [`Report`](crate::report::Report) instead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no usable R.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
    /// The lockfile cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The library cannot be read or changed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// There is code to compile and nothing to compile it with.
    #[error("{} to compile ({}), but this machine has no {}", n_packages(packages.len()), names(packages), programs.join(", no "))]
    NoCompiler {
        /// The programs that are missing.
        programs: Vec<String>,
        /// The packages that need them.
        packages: Vec<PackageName>,
    },
    /// What is to be made is what it is to be made from.
    #[error("`{0}` is the library itself: another one is made from a reference library, which stays as it is")]
    ReferenceIsLibrary(PathBuf),
    /// Without network something is missing.
    #[error("{} neither stored nor downloaded before, and this run is offline: {}", n_packages(.0.len()), names(.0))]
    Offline(Vec<PackageName>),
    /// Entries cannot be exported.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No cache beyond this machine was named.
    #[error("there is no cache to ask")]
    NoCache,
    /// A cache beyond this machine cannot be used.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// Packages cannot be kept from one CI job to the next.
    #[error(transparent)]
    CiCache(#[from] CiError),
    /// The key that packages are to be signed with cannot be read.
    #[error("the signing key: {0}")]
    SigningKey(#[from] KeyError),
    /// An export is not taken in.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The machine refuses what any package would need: the disk is full, the store read-only and the like.
    #[error(transparent)]
    Machine(Trouble),
    /// The file system refused; the message has the path.
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn n_packages(n: usize) -> String {
    if n == 1 { "1 package is".to_owned() } else { format!("{n} packages are") }
}

fn names(packages: &[PackageName]) -> String {
    const SHOWN_MAX: usize = 30;
    let mut shown: Vec<String> = packages.iter().take(SHOWN_MAX).map(ToString::to_string).collect();
    if packages.len() > SHOWN_MAX {
        shown.push(format!("and {} more", packages.len() - SHOWN_MAX));
    }
    shown.join(", ")
}

impl Error {
    /// Says whether the lockfile or the request is at fault, not the machine.
    pub fn is_usage(&self) -> bool {
        use ImportError::{Damaged, NotAnExport, OtherPlatform, Refused};
        use LibraryError::{IsGeneration, NoGenerations, NoSuchGeneration};
        matches!(
            self,
            Self::Plan(_)
                | Self::ReferenceIsLibrary(_)
                | Self::NoCache
                | Self::Tier(_)
                | Self::CiCache(CiError::ReadOnly | CiError::Key(_))
                | Self::Library(IsGeneration { .. } | NoGenerations(_) | NoSuchGeneration { .. })
                | Self::Export(ExportError::Missing(_) | ExportError::Nothing)
                | Self::Import(NotAnExport(_) | OtherPlatform { .. } | Damaged(_) | Refused { .. })
        )
    }

    /// Returns what the user can do about it.
    pub fn hint(&self) -> Option<String> {
        let install = || Distro::install_command(Host::distro().as_ref());
        match self {
            Self::Toolchain(ToolchainError::NotOnPath) => {
                Some(format!("`{}`, or name R with `--r` or `LARDER_R`", install()))
            }
            Self::Toolchain(ToolchainError::NotThere { .. }) => {
                Some("name an existing R with `--r` or `LARDER_R`".to_owned())
            }
            Self::NoCache => Some("name one with `--cache` or `LARDER_CACHE`".to_owned()),
            Self::NoCompiler { .. } => Some(format!("`{}`", install())),
            Self::Offline(_) => {
                Some("run once without `--offline`, or give a `--mirror` that is a directory".to_owned())
            }
            Self::Export(ExportError::Missing(_)) => Some(
                "build them first; or say with `--lockfile` or `--library` which of their builds are meant".to_owned(),
            ),
            Self::Import(ImportError::Damaged(_) | ImportError::Refused { .. }) => {
                Some("nothing was imported; copy the file again, or export again".to_owned())
            }
            Self::Import(ImportError::OtherPlatform { .. }) => Some(
                "`--any-platform` takes it in all the same, for machines of that kind that use this store".to_owned(),
            ),
            Self::Plan(PlanError::LinkedNowhere { linked, .. }) => {
                Some(format!("add `{linked}` to the lockfile: write it again with `pak::lockfile_create()`"))
            }
            Self::Plan(PlanError::Cycle(_)) => Some(
                "remove one of these `dependencies`, or write the lockfile again with `pak::lockfile_create()`"
                    .to_owned(),
            ),
            Self::Library(LibraryError::Record { path, .. }) => Some(format!(
                "remove `{}`: the packages stay, and this command puts in place again what differs",
                path.display()
            )),
            Self::Library(LibraryError::Busy(_)) => Some("try again when that process has ended".to_owned()),
            Self::Library(LibraryError::IsGeneration { library, .. }) => Some(format!("name `{}`", library.display())),
            Self::Library(LibraryError::NoGenerations(_)) => {
                Some("`solve LOCKFILE --atomic-library` makes it so".to_owned())
            }
            Self::Library(LibraryError::NoSuchGeneration { .. }) => Some("`solve library ls` lists them".to_owned()),
            Self::Library(LibraryError::NotExchanged { path, .. }) => Some(format!(
                "choose a new library, as a directory inside of `{}`, or leave out `--atomic-library`",
                path.display()
            )),
            Self::Machine(trouble) => Some(trouble.hint().to_owned()),
            Self::Library(LibraryError::Io(error)) | Self::Io(error) if is_environment(error) => {
                Some("choose another place with `--library` or `--store`".to_owned())
            }
            _ => None,
        }
    }
}

/// A store and an R, ready to turn lockfiles into libraries.
///
/// ```no_run
/// use std::sync::Arc;
///
/// use larder::larder::{Config, Larder, Request};
/// use larder::lockfile::Lockfile;
///
/// # async fn example(one: Lockfile, two: Lockfile) -> Result<(), Box<dyn std::error::Error>> {
/// let path = ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
/// let larder = Arc::new(Larder::open(Config::new("/var/cache/larder", [path]))?);
///
/// // What would be done, and why. Changes nothing.
/// let plan = larder.plan(&one, &Request::new("library"))?;
/// for vertex in plan.vertices() {
///     println!("{} {}: {}", vertex.spec.package, vertex.action.as_str(), vertex.because);
/// }
///
/// // Two libraries at once: what both need is built once.
/// let runs = [larder.solve(&one, Request::new("library")), larder.solve(&two, Request::new("worker"))];
/// for run in runs {
///     println!("{:?}", run.finish().await?.outcome);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Larder {
    config: Config,
    host: Host,
    fetcher: Fetcher,
    blobs: Blobs,
    tiers: Option<Arc<Tiers>>,
    libraries: SystemLibraries,
    /// What the user should know of this machine.
    notes: Vec<String>,
    engines: Engines,
}

impl Larder {
    /// Finds R and looks at the machine. Writes nothing but the memory of what it found, into the store.
    pub fn open(config: Config) -> Result<Self, Error> {
        let path = config.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone()).unwrap_or_default();
        let host = Host::probe(config.r.as_deref(), &path, &config.store.join(".probes"))?;
        let below = config.base_stores.iter().map(|store| store.join("blobs"));
        let blobs = Blobs::at(config.store.join("blobs")).over(below);
        let mut fetching = FetchConfig::new(blobs.clone());
        fetching.user_agent = host.toolchain.user_agent();
        fetching.mirrors.clone_from(&config.mirrors);
        fetching.offline = config.is_offline;
        fetching.netrc.clone_from(&config.netrc);
        fetching.github_token.clone_from(&config.github_token);
        let tiers = tiers(&config, &host)?;
        let absent = config.base_stores.iter().filter(|store| !store.is_dir());
        let notes = absent.map(|store| format!("there is no base store `{}`", store.display())).collect();
        let (fetcher, engines) = (Fetcher::new(fetching), Engines::default());
        let libraries = SystemLibraries::of_host(&host.toolchain.home);
        Ok(Self { config, host, fetcher, blobs, tiers, libraries, notes, engines })
    }

    /// Returns the machine as it was found.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Returns how many units of CPU builds may take together.
    pub fn jobs(&self) -> u32 {
        self.config.jobs
    }

    /// Opens the store for this machine's platform.
    pub fn store(&self) -> Store {
        let store = Store::open(&self.config.store, self.host.platform.clone(), self.host.description.clone());
        store.with_libraries(self.libraries.clone()).over(&self.config.base_stores)
    }

    /// Returns where the caches beyond this machine are, in the order to ask.
    pub fn cache_addresses(&self) -> Vec<String> {
        self.tiers.iter().flat_map(|tiers| tiers.addresses()).map(ToString::to_string).collect()
    }

    /// Takes what the user should know of these caches, once.
    pub fn cache_warnings(&self) -> Vec<String> {
        self.tiers.iter().flat_map(|tiers| tiers.warnings()).collect()
    }

    /// Returns the libraries of workers, which are on the store's file system.
    pub fn workers(&self) -> Workers {
        Workers::of(&self.config.store)
    }

    /// Plans a lockfile: what would be done, and why. Changes nothing.
    pub fn plan(&self, lockfile: &Lockfile, request: &Request) -> Result<Plan, Error> {
        let record = Record::read(&request.library, &self.host.platform)?;
        let beside = self.beside(lockfile, request, &self.store(), Access::Look)?;
        self.plan_with(lockfile, request, &self.store(), &record, beside.as_ref())
    }

    fn plan_with(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        store: &Store,
        record: &Record,
        beside: Option<&Beside>,
    ) -> Result<Plan, Error> {
        let known = self.known(store, record, &request.library, beside);
        self.plan_from(lockfile, request, &known, beside)
    }

    fn known<'a>(
        &'a self,
        store: &'a Store,
        record: &'a Record,
        library: &'a Path,
        beside: Option<&'a Beside>,
    ) -> Known<'a> {
        let (toolchain, blobs) = (&self.host.toolchain, &self.blobs);
        let tiers = self.tiers.as_deref();
        let stock = Stock::of(store);
        Known { store, visit: None, record, library, beside, tiers, depth: self.depth(), toolchain, blobs, stock }
    }

    fn makevars(&self) -> Result<Option<Sha256Digest>, Error> {
        let makevars = self.config.makevars.as_deref().map(fs_err::read).transpose()?;
        Ok(makevars.map(|bytes| Sha256Digest::of(&bytes)))
    }

    fn plan_from(
        &self,
        lockfile: &Lockfile,
        request: &Request,
        known: &impl Knowledge,
        beside: Option<&Beside>,
    ) -> Result<Plan, Error> {
        let settings = Settings {
            rebuild: request.rebuild.clone(),
            rebuilds_when_imports_change: request.rebuilds_when_imports_change,
            debug_info: request.debug_info,
            makevars: self.makevars()?,
            base: request.base.clone(),
            extras: beside.map(|beside| beside.extras.clone()).unwrap_or_default(),
        };
        Ok(Plan::new(lockfile, &self.host, &settings, known)?)
    }

    /// Makes the library complete, in the background: the returned [`Run`] yields what happens, can be stopped, and
    /// at the end gives the report. Must be called within a tokio runtime.
    ///
    /// The library changes at the very end, one rename a package, and only if all went well or the request says
    /// [`OnFailure::KeepGoing`]; then with all that went well. Whatever was built stays in the store in any case.
    ///
    /// Runs may go on at the same time. What two of them need is made once, within the limits of both together; one
    /// that is stopped takes nothing from the others. Runs into one library wait for each other.
    pub fn solve(self: &Arc<Self>, lockfile: &Lockfile, request: Request) -> Run {
        let journal = Arc::new(Journal::default());
        let stop = Stop::new();
        let (larder, lockfile, stopped) = (Arc::clone(self), lockfile.clone(), stop.clone());
        let (events, scribe) = (journal.listen(), Scribe(journal));
        let task = tokio::spawn(async move {
            let emit = |event| scribe.tell(event);
            scribe.follow(run::run(&larder, &lockfile, &request, stopped, emit)).await
        });
        Run::new(events, stop, task)
    }

    /// Returns the solver of the runs that are under way, or starts it.
    fn engine(&self) -> Arc<Engine> {
        let memory_mib = u32::try_from(self.config.memory_bytes >> 20).unwrap_or(u32::MAX);
        self.engines.get(|| self.workshop(), self.tiers.as_ref(), limits(self.config.jobs).pool(MEMORY, memory_mib))
    }

    fn workshop(&self) -> Workshop {
        Workshop {
            store: Arc::new(self.store()),
            fetcher: self.fetcher.clone(),
            builder: Builder {
                toolchain: self.host.toolchain.clone(),
                env: self.config.env.clone(),
                makevars: self.config.makevars.clone(),
                timeout: self.config.build_timeout,
                warm: (!self.config.is_plain_install).then(Arc::default),
            },
            budget: Budget::new(self.config.jobs, self.config.jobserver.clone()),
            depth: self.depth(),
            libraries: self.libraries.clone(),
            ahead: Arc::new(Semaphore::new(unpacked_ahead(self.config.jobs))),
        }
    }

    fn missing_compilers(&self) -> Vec<String> {
        let path = self.config.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
        self.host.toolchain.missing_compilers(path.unwrap_or_default())
    }

    fn depth(&self) -> Depth {
        if self.config.verifies { Depth::Full } else { Depth::Glance }
    }

    /// Finds out before anything is built what would stop the run later.
    fn check(&self, plan: &Plan, request: &Request) -> Result<(), Error> {
        let named = |is_wanted: &dyn Fn(&&Vertex) -> bool| -> Vec<PackageName> {
            plan.vertices().filter(is_wanted).map(|vertex| vertex.spec.package.clone()).collect()
        };
        let is_compiled =
            |vertex: &&Vertex| vertex.needs_compilation && matches!(vertex.action, Action::Ingest | Action::Recompile);
        let packages = named(&is_compiled);
        if !packages.is_empty() {
            let programs = self.missing_compilers();
            if !programs.is_empty() {
                return Err(Error::NoCompiler { programs, packages });
            }
        }
        if self.config.is_offline && request.on_failure == OnFailure::Stop {
            let missing = named(&|vertex| self.needs_network(vertex));
            if !missing.is_empty() {
                return Err(Error::Offline(missing));
            }
        }
        Ok(())
    }

    fn needs_network(&self, vertex: &Vertex) -> bool {
        let is_fetched = matches!(vertex.action, Action::Ingest | Action::Recompile | Action::Unknown);
        match &vertex.spec.origin {
            Origin::Archive { identity, sha256, sources, .. } if is_fetched => {
                self.fetcher.cached(identity, sha256.as_ref()).is_none() && self.fetcher.needs_network(sources)
            }
            _ => false,
        }
    }
}

/// Makes the chain of caches beyond this machine, if there are any.
fn tiers(config: &Config, host: &Host) -> Result<Option<Arc<Tiers>>, Error> {
    let addresses = config.caches.iter().filter(|address| !config.is_offline || address.is_local());
    let addresses: Vec<Address> = addresses.cloned().collect();
    if addresses.is_empty() {
        return Ok(None);
    }
    let signer = config.signing_key.as_deref().map(SecretKey::read).transpose()?;
    let r_home = host.toolchain.home.clone();
    let (tenant, github) = (config.tenant.clone(), config.github.clone());
    Ok(Some(Arc::new(Tiers::new(TiersConfig { addresses, tenant, signer, r_home, github })?)))
}
