//! What one vertex of the graph does: the package's way from a lockfile entry to a tree in the store.
//!
//! ```text
//! cache_map(0)   the key as the plan knows it; else the source is fetched and its DESCRIPTION asked
//! (the cache)    the store has it, or the library does
//! cache_map(1)   the source is fetched and unpacked, ahead of its turn, and the key made from what is really in it
//! cache_map(2)   by content: whether what it links to is the same to a compiler as in an earlier build
//! execute        built (or a prebuilt package checked), made read-only, published
//! ```
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use larder_graph::{Config, Dag, JobOptions, Limits, Solver};
//! use larder_ops::op::{CPU, Commission, NETWORK, PackageOp, Spec, StoreCache, Workshop};
//!
//! # async fn example(workshop: Workshop, commission: Commission, plan: Dag<Spec>)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let (workshop, commission) = (Arc::new(workshop), Arc::new(commission));
//! let limits = Limits::new().pool(CPU, 4).pool(NETWORK, 8);
//! let solver = Solver::new(Config::from(limits).cache(StoreCache::new(Arc::clone(&workshop.store), workshop.depth)));
//! let dag = plan.map(|_, spec| PackageOp::new(spec.clone(), Arc::clone(&workshop), Arc::clone(&commission)));
//! let targets: Vec<_> = dag.vertices().collect();
//! let job = solver.job("library", JobOptions::default())?;
//! for done in job.build(dag, &targets).await?.outputs {
//!     println!("{}: {:?} {:?}", done.package, done.how, done.tree);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It does not know the other vertices' work, and nothing of the library but that a package may be there. Several runs
//! share a [`Workshop`] and the results of one solver; what is one run's own is its [`Commission`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use larder_graph::{CacheMap, Context, Inputs, Need, Op, Phase, Resources};
use tokio::sync::Semaphore;

use crate::blocking;
use crate::budget::{Budget, Core};
use crate::digest::Sha256Digest;
use crate::explain::difference;
use crate::fetch::Fetcher;
use crate::install::{Build, Builder, DebugInfo, InstallError, Way};
use crate::key::{DEBUG_INFO, PackageKey};
use crate::lock::{Attempt, Lock};
use crate::package::PackageName;
use crate::process::Output;
use crate::recipe::{Recipe, provided_key};
use crate::sonames::SystemLibraries;
use crate::store::{BuiltAgainst, Depth, OnExisting, Sidecar, Store};
use crate::trouble::Watch;

mod cache;
mod commission;
mod error;
mod log;
mod prepare;
mod progress;
mod spec;
mod tiered;

pub use cache::StoreCache;
pub use commission::{Commission, Key};
pub use error::OpError;
pub use log::Logs;
use prepare::{AtHand, Prepared};
pub use progress::Progress;
pub use spec::{BuildRecord, Done, How, Origin, Spec, Standing};
pub use tiered::TieredCache;

/// The pool that building takes one unit of.
pub const CPU: &str = "cpu";
/// The pool that building takes as many units of as it is expected to need MiB.
pub const MEMORY: &str = "memory";
/// The pool that downloading takes one unit of.
pub const NETWORK: &str = "network";

/// What all packages are made with, whoever wants them.
#[derive(Debug)]
pub struct Workshop {
    /// Where results are kept.
    pub store: Arc<Store>,
    /// Brings sources.
    pub fetcher: Fetcher,
    /// Runs builds.
    pub builder: Builder,
    /// The cores that builds share with what make does within them.
    pub budget: Arc<Budget>,
    /// How closely what is loaded is looked at.
    pub depth: Depth,
    /// The shared libraries of this machine.
    pub libraries: SystemLibraries,
    /// Room for sources that are unpacked ahead of their turn. Where there is none left, a source is downloaded and
    /// looked into, and unpacked when its build starts; nobody waits for room.
    pub ahead: Arc<Semaphore>,
}

/// The work of one vertex.
#[derive(Debug)]
pub struct PackageOp {
    /// What is to be done.
    pub spec: Spec,
    workshop: Arc<Workshop>,
    commission: Arc<Commission>,
    /// The definition key, as the latest cache map has it.
    wanted: Arc<Mutex<Option<Arc<PackageKey>>>>,
    at_hand: Mutex<Option<AtHand>>,
}

impl PackageOp {
    /// Joins what is to be done with what it is done with, and for whom.
    pub fn new(spec: Spec, workshop: Arc<Workshop>, commission: Arc<Commission>) -> Self {
        Self { spec, workshop, commission, wanted: Arc::default(), at_hand: Mutex::new(None) }
    }

    fn map(&self, recipe: Recipe) -> Result<CacheMap<Key>, OpError> {
        let mut provided = BTreeMap::new();
        let mut linked = Vec::new();
        for name in recipe.inputs() {
            if let Some(id) = self.commission.ids.get(name) {
                linked.push((name.clone(), *id));
            } else if let Some(found) = self.workshop.builder.toolchain.provided(name) {
                provided.insert(name.clone(), Arc::new(provided_key(name, &found)));
            } else {
                return Err(OpError::LinkedNowhere(name.clone()));
            }
        }
        let (names, ids): (Vec<_>, Vec<_>) = linked.into_iter().unzip();
        let (wanted, commission) = (Arc::clone(&self.wanted), Arc::clone(&self.commission));
        let (spec, workshop) = ((self.spec.is_rebuilt, self.spec.standing), Arc::clone(&self.workshop));
        Ok(CacheMap::new(ids, move |keys: &[Key]| {
            let mut all = provided;
            all.extend(names.into_iter().zip(keys.iter().filter_map(Key::wanted).cloned()));
            let key = Arc::new(recipe.key(&all));
            *wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&key));
            commission.key(key, spec, &workshop.store, workshop.depth)
        }))
    }

    /// Returns the map that asks for a build by what it was compiled against, if it links to anything.
    fn content_map(&self) -> Option<CacheMap<Key>> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let linked: Vec<PackageName> = wanted
            .linked_closure()
            .into_keys()
            .filter(|name| self.commission.ids.contains_key(*name))
            .cloned()
            .collect();
        if linked.is_empty() {
            return None;
        }
        let needs: Vec<Need> = linked.iter().map(|name| Need::content(self.commission.ids[name])).collect();
        Some(CacheMap::of(needs, move |interfaces: &[Key]| {
            let interface = |key: &Key| match key {
                Key::Interface(digest) => Some(*digest),
                _ => None,
            };
            let interfaces = linked.iter().zip(interfaces.iter().filter_map(interface)).collect();
            Key::Content { digest: content_hash(&wanted, &interfaces), wanted }
        }))
    }

    fn key_of_provided(&self) -> Result<Arc<PackageKey>, OpError> {
        let toolchain = &self.workshop.builder.toolchain;
        match toolchain.provided(&self.spec.package) {
            Some(provided) => Ok(Arc::new(provided_key(&self.spec.package, &provided))),
            None => Err(OpError::NotProvided { library: toolchain.library.clone() }),
        }
    }
}

impl Op for PackageOp {
    type Key = Key;
    type Output = Arc<Done>;
    type Error = OpError;
    type Progress = Progress;

    fn is_general(error: &OpError) -> bool {
        matches!(error, OpError::Machine(_))
    }

    fn weight(&self) -> u64 {
        self.spec.weight_ms
    }

    fn slot(progress: &Progress) -> Option<u64> {
        progress.slot()
    }

    fn resources(&self, phase: Phase) -> Resources {
        match (phase, &self.spec.origin) {
            (_, Origin::Provided) | (Phase::Query | Phase::Load | Phase::Content, _) => Resources::none(),
            (Phase::CacheMap(0), _) if self.spec.recipe.is_some() => Resources::none(),
            (Phase::CacheMap(0 | 1), Origin::Nowhere) => Resources::none(),
            (Phase::CacheMap(0 | 1), _) => Resources::none().take(NETWORK, 1),
            (Phase::CacheMap(_), _) => Resources::none(),
            (Phase::Execute, _) => Resources::none().take(CPU, 1).take(MEMORY, self.spec.memory_mib),
        }
    }

    async fn cache_map(&self, index: usize, cx: &Context<Self>) -> Result<Option<CacheMap<Self::Key>>, OpError> {
        let is_provided = matches!(self.spec.origin, Origin::Provided);
        let recipe = match (index, &self.spec.recipe) {
            (0, _) if is_provided => return Ok(Some(CacheMap::leaf(Key::Build(self.key_of_provided()?)))),
            (0, Some(recipe)) => Ok(recipe.clone()),
            (0, None) => self.learn(cx).await,
            (1, _) if !is_provided => self.prepare_or_recall(cx).await,
            (2, _) if !self.spec.is_rebuilt => return Ok(self.content_map()),
            _ => return Ok(None),
        };
        let recipe = recipe.map_err(|error| self.told_of_all(error))?;
        if index > 0 || self.spec.recipe.is_none() {
            cx.report(Progress::Ready);
        }
        Ok(Some(self.map(recipe)?))
    }

    async fn content(&self, key: &Key, done: &Arc<Done>, _: Option<&str>, _: &Context<Self>) -> Result<Key, OpError> {
        let (workshop, key, done) = (Arc::clone(&self.workshop), key.clone(), Arc::clone(done));
        blocking(move || {
            Ok(match (&done.tree, key.wanted()) {
                (Some(tree), _) => Key::Interface(workshop.store.interface(tree)?),
                (None, Some(provided)) => Key::Interface(provided.digest()),
                (None, None) => key,
            })
        })
        .await
    }

    async fn execute(&self, key: &Key, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<Arc<Done>, OpError> {
        self.make(key, inputs, cx).await.map_err(|error| self.told_of_all(error))
    }
}

impl PackageOp {
    /// Makes of a failure that every package would meet what it is.
    fn told_of_all(&self, error: OpError) -> OpError {
        error.in_store(&self.workshop.store, &self.spec.package)
    }

    async fn make(&self, key: &Key, inputs: Inputs<Self>, cx: &Context<Self>) -> Result<Arc<Done>, OpError> {
        let key = key.wanted().expect("an interface is nobody's own key");
        if matches!(self.spec.origin, Origin::Provided) {
            return Ok(Arc::new(Done {
                tree: None,
                how: How::Provided,
                build: None,
                package: self.spec.package.clone(),
            }));
        }
        let closure = inputs.closure();
        let at_hand = self.at_hand.lock().unwrap_or_else(PoisonError::into_inner).take();
        let at_hand = match (at_hand, self.spec.standing) {
            (Some(at_hand), Standing::Locked) => at_hand,
            (None, Standing::Locked) => unreachable!("the last cache map has brought the source"),
            (at_hand, _) => {
                let stale = closure.iter().find(|(_, done)| matches!(done.how, How::Stale { .. }));
                let stale_since = |because| Ok(self.stale(because, None));
                match (stale, at_hand) {
                    (Some((_, done)), _) => return stale_since(format!("it needs {}, which is stale", done.package)),
                    (None, Some(at_hand)) => at_hand,
                    (None, None) => return stale_since(self.why_stale(key)),
                }
            }
        };
        let store = &self.workshop.store;
        let _lock = self.lock(key.reference().source, cx).await?;
        // Another process may have built it while this one waited.
        if !self.spec.is_rebuilt {
            match cache::stored(store, self.workshop.depth, key) {
                Ok(Some(done)) => return Ok(Arc::new(done)),
                Ok(None) => {}
                Err(broken) => drop(store.set_aside(key.package(), key.reference(), &broken)?),
            }
        }
        let mut prepared = self.unpacked(at_hand, cx).await?;
        let how = self.how(key);
        let view: BTreeMap<PackageName, PathBuf> =
            inputs.closure().iter().filter_map(|(_, done)| Some((done.package.clone(), done.tree.clone()?))).collect();
        let core = self.core(cx).await?;
        cx.report(Progress::Building);
        let logs = Logs::new(store.root());
        let (log, _in_use) = logs.create(&self.spec.package, &self.spec.version, key.reference())?;
        let start = Instant::now();
        let watch = Arc::new(Watch::over(store.root()));
        let output = Self::output(&log, &watch, cx);
        let mut built = self.build(&prepared, (Way::Fast, &core), &view, (&log, &output), cx).await;
        if let Err(InstallError::Shortcut { shortcut, reason }) = &built
            && !watch.was_full()
        {
            // From the beginning: what fails leaves half of its work in the source.
            let again = self.prepare_again(&prepared, cx).await?;
            cx.report(Progress::Building);
            let (shortcut, reason) = (*shortcut, reason.clone());
            prepared = again;
            built = self.build(&prepared, (Way::Plain, &core), &view, (&log, &output), cx).await;
            if built.is_ok() {
                let message = format!("`R CMD INSTALL` could install it, but {shortcut} could not: {reason}");
                cx.report(Progress::Warning(message));
            }
        }
        let built = match built {
            Ok(built) => built,
            Err(source) => {
                let log = Logs::mark_failed(&log);
                let because = format!("{}, and {source}", self.why_changed(key));
                let error = OpError::Build { log: log.clone(), source };
                let error = self.told_of_all(error.of_build(&watch, &self.spec.package));
                if self.spec.standing == Standing::Locked || error.is_environment() || cx.stop().is_requested() {
                    return Err(error);
                }
                return Ok(self.stale(because, Some(log)));
            }
        };
        let duration = start.elapsed();
        cx.report(Progress::Publishing);
        let mut sidecar = Sidecar::new(key, duration);
        sidecar.peak_bytes = core.peak_bytes();
        sidecar.linkingto.clone_from(&prepared.recipe.linking_to);
        sidecar.source_compiled = built.join("libs").is_dir() && !prepared.is_binary;
        sidecar.dependencies = Self::dependencies(&view);
        sidecar.content = Some(self.content_of(key, &view)?);
        sidecar.sonames = self.workshop.libraries.needed_by(&built);
        let existing = if self.spec.is_rebuilt { OnExisting::Replace } else { OnExisting::Keep };
        let (workshop, key) = (Arc::clone(&self.workshop), Arc::clone(key));
        let tree = blocking(move || {
            let tree = workshop.store.publish(&built, &key, &sidecar, existing);
            drop(prepared);
            tree
        });
        let tree = tree.await?;
        let package = self.spec.package.clone();
        Ok(Arc::new(Done { package, tree: Some(tree), how, build: Some(BuildRecord { log, duration }) }))
    }

    /// Takes the lock on building this source, after whoever has it now.
    async fn lock(&self, source: Sha256Digest, cx: &Context<Self>) -> Result<Lock, OpError> {
        match self.workshop.store.try_lock_source(source)? {
            Attempt::Taken(lock) => return Ok(lock),
            Attempt::HeldBy(holder) => cx.report(Progress::Waiting(holder)),
        }
        let workshop = Arc::clone(&self.workshop);
        tokio::select! {
            lock = blocking(move || workshop.store.lock_source(source)) => Ok(lock?),
            () = cx.stop().requested() => Err(OpError::Stopped),
        }
    }

    /// Waits for a core: the solver has started this build, but make may still use what was idle until now.
    async fn core(&self, cx: &Context<Self>) -> Result<Core, OpError> {
        tokio::select! {
            biased;
            core = self.workshop.budget.core() => Ok(core),
            () = cx.stop().requested() => Err(OpError::Stopped),
        }
    }

    async fn build(
        &self,
        prepared: &Prepared,
        (way, core): (Way, &Core),
        view: &BTreeMap<PackageName, PathBuf>,
        (log, output): (&Path, &Output),
        cx: &Context<Self>,
    ) -> Result<PathBuf, InstallError> {
        let builder = &self.workshop.builder;
        let build = Build {
            package: &self.spec.package,
            source: &prepared.package_dir,
            view,
            install_args: &self.spec.install_args,
            scratch: prepared.staging.path(),
            log,
            output: Arc::clone(output),
            debug_info: self.debug_info(),
            core: Some(core),
        };
        if prepared.is_binary {
            if !self.spec.metadata.is_empty() && prepared.package_dir.join("Meta/package.rds").is_file() {
                builder.update_metadata(&build, &self.spec.metadata, cx.stop()).await?;
            }
            return Ok(prepared.package_dir.clone());
        }
        if prepared.needs_bootstrap {
            builder.bootstrap(&build, cx.stop()).await?;
        }
        builder.install(&build, way, cx.stop()).await
    }

    /// Returns what the key says of debug information.
    fn debug_info(&self) -> DebugInfo {
        if self.spec.special.get(DEBUG_INFO).is_some() { DebugInfo::Keep } else { DebugInfo::Drop }
    }

    /// Returns who listens to what a build writes.
    fn output(log: &Path, watch: &Arc<Watch>, cx: &Context<Self>) -> Output {
        let (cx, log, watch, number) = (cx.clone(), Arc::from(log), Arc::clone(watch), AtomicU64::new(0));
        Arc::new(move |from, text| {
            watch.look();
            let (log, number) = (Arc::clone(&log), number.fetch_add(1, Ordering::Relaxed));
            cx.report(Progress::Output { log, number, from, text: text.to_owned() });
        })
    }

    /// Returns the content hash of a build that saw `view`.
    fn content_of(&self, key: &PackageKey, view: &BTreeMap<PackageName, PathBuf>) -> Result<Sha256Digest, OpError> {
        let mut interfaces = BTreeMap::new();
        for name in key.linked_closure().into_keys() {
            if let Some(tree) = view.get(name) {
                interfaces.insert(name, self.workshop.store.interface(tree)?);
            }
        }
        Ok(content_hash(key, &interfaces))
    }

    /// Says why a package of the reference library cannot be taken from there.
    fn why_changed(&self, key: &PackageKey) -> String {
        let difference = self.commission.reference.as_ref().map(|reference| reference.difference(key));
        match difference.filter(|difference| !difference.is_empty()) {
            Some(difference) => format!("it links to {difference}"),
            None => "it was built for another R or with other settings".to_owned(),
        }
    }

    fn stale(&self, because: String, log: Option<PathBuf>) -> Arc<Done> {
        let package = self.spec.package.clone();
        Arc::new(Done { package, tree: None, how: How::Stale { because, log }, build: None })
    }

    fn why_stale(&self, key: &PackageKey) -> String {
        format!("{}, and its source is not at hand", self.why_changed(key))
    }

    /// Says whether this is a recompilation, and why, or something new.
    fn how(&self, key: &PackageKey) -> How {
        let source = key.reference().source;
        let earlier = self.workshop.store.sidecars(key.package(), source);
        let own = earlier.iter().find(|(config, ..)| *config == key.reference().config);
        let lacking = own.map(|(_, _, sidecar)| self.workshop.store.lacking(&sidecar.sonames)).unwrap_or_default();
        if !lacking.is_empty() {
            let because = format!("its build in the store needs {}, which this machine has not", lacking.join(", "));
            return How::Recompiled { because };
        }
        match earlier.into_iter().find(|(config, ..)| *config != key.reference().config) {
            Some((_, _, sidecar)) => How::Recompiled { because: difference(&sidecar, key) },
            None => How::Ingested,
        }
    }

    /// Tells what of the view is in the store, by its place there.
    fn dependencies(view: &BTreeMap<PackageName, PathBuf>) -> BTreeMap<PackageName, BuiltAgainst> {
        let against = |name: &PackageName, tree: &PathBuf| {
            let sidecar = Sidecar::of_tree(tree)?;
            let source = tree.parent()?.file_name()?.to_str()?.parse().ok()?;
            let config = tree.file_name()?.to_str()?.parse().ok()?;
            let reference = crate::key::Reference { source, config };
            Some((name.clone(), BuiltAgainst { version: sidecar.version, reference }))
        };
        view.iter().filter_map(|(name, tree)| against(name, tree)).collect()
    }
}

/// Returns what the config hash would be if each package that this build links to, through any number of steps, stood
/// there with the digest of its interface instead of its key. All of them, not only the direct ones: a build finds
/// headers of the others too, by flags that the direct ones hand on. What R provides has its key for an interface.
fn content_hash(key: &PackageKey, interfaces: &BTreeMap<&PackageName, Sha256Digest>) -> Sha256Digest {
    let mut content = key.config().clone();
    for (name, linked) in key.linked_closure() {
        content.insert(name.as_str(), interfaces.get(name).copied().unwrap_or_else(|| linked.digest()));
    }
    content.hash()
}
