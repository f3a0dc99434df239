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
//! It does not know the other vertices' work, and nothing of the library but that a package may be there.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use larder_graph::{CacheMap, Context, Inputs, Need, Op, Phase, Resources, VertexId};

use crate::digest::Sha256Digest;
use crate::explain::difference;
use crate::fetch::Fetcher;
use crate::install::{Build, Builder, InstallError, Way};
use crate::key::{ConfigMap, PackageKey};
use crate::library::Record;
use crate::package::PackageName;
use crate::recipe::{Recipe, provided_key};
use crate::store::{BuiltAgainst, OnExisting, Sidecar, Store};

mod cache;
mod error;
mod log;
mod prepare;

pub use cache::StoreCache;
pub use error::{OpError, is_environment};
pub use log::Logs;
use prepare::Prepared;

/// The pool that building takes one unit of.
pub const CPU: &str = "cpu";
/// The pool that downloading takes one unit of.
pub const NETWORK: &str = "network";

/// What all vertices of a run share.
#[derive(Debug)]
pub struct Workshop {
    /// Where results are kept.
    pub store: Store,
    /// The library's directory and what larder put there before.
    pub library: (PathBuf, Record),
    /// Brings sources.
    pub fetcher: Fetcher,
    /// Runs builds.
    pub builder: Builder,
    /// Which vertex is which package.
    pub ids: HashMap<PackageName, VertexId>,
    /// Says whether a change of Depends or Imports rebuilds a package too (`--rebuild-when imports`).
    pub rebuilds_when_imports_change: bool,
}

/// What is to be done for one package.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// Where its source comes from.
    pub origin: Origin,
    /// How to make its key, where that is known without the source.
    pub recipe: Option<Recipe>,
    /// The first field of its source hash, where that hash takes in the content: `url` or `local`.
    pub content_kind: Option<&'static str>,
    /// Its source hash, unless it takes in the content.
    pub source_hash: Option<Sha256Digest>,
    /// What a prebuilt package is for, if the lockfile says that it is one.
    pub binary_platform: Option<String>,
    /// The `@`-entries of a build from source.
    pub special: ConfigMap,
    /// What it needs, `LinkingTo` included.
    pub dependencies: Vec<PackageName>,
    /// What goes into its DESCRIPTION.
    pub metadata: BTreeMap<String, String>,
    /// Further arguments of `R CMD INSTALL`.
    pub install_args: Vec<String>,
    /// Whether to build it although the store has it.
    pub is_rebuilt: bool,
    /// What building it is expected to cost, in milliseconds.
    pub weight_ms: u64,
}

/// Where a package comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// R's own library.
    Provided,
    /// An archive.
    Archive {
        /// Where it is, in the order to try.
        sources: Vec<String>,
        /// What it must be.
        sha256: Option<Sha256Digest>,
        /// What its first-seen record is filed under.
        identity: String,
        /// The folder of the package in it, empty for the top.
        subdir: String,
        /// Whether it is a repository, with files that do not belong to the package.
        is_repository: bool,
    },
    /// A directory on this machine.
    Directory(PathBuf),
}

/// What the solver knows a package by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The definition key of a build.
    Build(Arc<PackageKey>),
    /// The content key of a build: its config hash, but with the interfaces of what it links to in place of their keys.
    Content {
        /// The build that is wanted.
        wanted: Arc<PackageKey>,
        /// The hash.
        digest: Sha256Digest,
    },
    /// What a package is to those that link to it.
    Interface(Sha256Digest),
}

impl Key {
    /// Returns the definition key of the build that this is about.
    pub fn wanted(&self) -> Option<&Arc<PackageKey>> {
        match self {
            Self::Build(wanted) | Self::Content { wanted, .. } => Some(wanted),
            Self::Interface(_) => None,
        }
    }
}

/// A vertex that came to its end.
#[derive(Debug)]
pub struct Done {
    /// Where the tree is; `None` for what R itself provides.
    pub tree: Option<PathBuf>,
    /// How it got there.
    pub how: How,
    /// The build, if there was one.
    pub build: Option<BuildRecord>,
}

/// A build that went well.
#[derive(Debug, Clone)]
pub struct BuildRecord {
    /// Its log.
    pub log: PathBuf,
    /// How long it took, without waiting for its turn.
    pub duration: Duration,
}

/// How a vertex ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// R itself has it.
    Provided,
    /// The library has it already.
    Kept,
    /// The store had it.
    Loaded,
    /// The store had a build against other versions of what it links to, but with the same headers and libraries.
    InterfaceUnchanged,
    /// The source was built before, but with something else.
    Recompiled {
        /// What differs.
        because: String,
    },
    /// It was not known before.
    Ingested,
}

/// What an operation tells while it works.
#[derive(Debug, Clone)]
pub enum Progress {
    /// A download begins.
    Fetching,
    /// A build begins.
    Building,
    /// Bytes of the download so far, and in all if the server says so.
    Bytes(u64, Option<u64>),
    /// Something that the user should know.
    Warning(String),
}

/// The work of one vertex.
#[derive(Debug)]
pub struct PackageOp {
    /// What is to be done.
    pub spec: Spec,
    workshop: Arc<Workshop>,
    /// The definition key, as the latest cache map has it.
    wanted: Arc<Mutex<Option<Arc<PackageKey>>>>,
    prepared: Mutex<Option<Prepared>>,
}

impl PackageOp {
    /// Joins what is to be done with what it is done with.
    pub fn new(spec: Spec, workshop: Arc<Workshop>) -> Self {
        Self { spec, workshop, wanted: Arc::default(), prepared: Mutex::new(None) }
    }

    fn map(&self, recipe: Recipe) -> Result<CacheMap<Key>, OpError> {
        let mut provided = BTreeMap::new();
        let mut linked = Vec::new();
        for name in recipe.inputs() {
            if let Some(id) = self.workshop.ids.get(name) {
                linked.push((name.clone(), *id));
            } else if let Some(found) = self.workshop.builder.toolchain.provided(name) {
                provided.insert(name.clone(), Arc::new(provided_key(name, &found)));
            } else {
                return Err(OpError::LinkedNowhere(name.clone()));
            }
        }
        let (names, ids): (Vec<_>, Vec<_>) = linked.into_iter().unzip();
        let wanted = Arc::clone(&self.wanted);
        Ok(CacheMap::new(ids, move |keys: &[Key]| {
            let mut all = provided;
            all.extend(names.into_iter().zip(keys.iter().filter_map(Key::wanted).cloned()));
            let key = Arc::new(recipe.key(&all));
            *wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&key));
            Key::Build(key)
        }))
    }

    /// Returns the map that asks for a build by what it was compiled against, if it links to anything.
    fn content_map(&self) -> Option<CacheMap<Key>> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let linked: Vec<PackageName> =
            wanted.linked_closure().into_keys().filter(|name| self.workshop.ids.contains_key(*name)).cloned().collect();
        if linked.is_empty() {
            return None;
        }
        let needs: Vec<Need> = linked.iter().map(|name| Need::content(self.workshop.ids[name])).collect();
        Some(CacheMap::of(needs, move |interfaces: &[Key]| {
            let interface = |key: &Key| match key {
                Key::Interface(digest) => Some(*digest),
                Key::Build(_) | Key::Content { .. } => None,
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

    fn weight(&self) -> u64 {
        self.spec.weight_ms
    }

    fn resources(&self, phase: Phase) -> Resources {
        match (phase, &self.spec.origin) {
            (_, Origin::Provided) | (Phase::Query | Phase::Load | Phase::Content, _) => Resources::none(),
            (Phase::CacheMap(0), _) if self.spec.recipe.is_some() => Resources::none(),
            (Phase::CacheMap(0 | 1), _) => Resources::none().take(NETWORK, 1),
            (Phase::CacheMap(_), _) => Resources::none(),
            (Phase::Execute, _) => Resources::none().take(CPU, 1),
        }
    }

    async fn cache_map(&self, index: usize, cx: &Context<Self>) -> Result<Option<CacheMap<Self::Key>>, OpError> {
        let is_provided = matches!(self.spec.origin, Origin::Provided);
        Ok(match (index, &self.spec.recipe) {
            (0, _) if is_provided => Some(CacheMap::leaf(Key::Build(self.key_of_provided()?))),
            (0, Some(recipe)) => Some(self.map(recipe.clone())?),
            (0, None) => Some(self.map(self.learn(cx).await?)?),
            (1, _) if !is_provided => Some(self.map(self.prepare(cx).await?)?),
            (2, _) if !self.spec.is_rebuilt => self.content_map(),
            _ => None,
        })
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
        let key = key.wanted().expect("an interface is nobody's own key");
        if matches!(self.spec.origin, Origin::Provided) {
            return Ok(Arc::new(Done { tree: None, how: How::Provided, build: None }));
        }
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut prepared = prepared.expect("the last cache map has prepared the source");
        let store = &self.workshop.store;
        let lock = {
            let (workshop, key) = (Arc::clone(&self.workshop), Arc::clone(key));
            blocking(move || workshop.store.lock_source(key.package(), key.reference().source))
        };
        let _lock = tokio::select! {
            lock = lock => lock?,
            () = cx.stop().requested() => return Err(OpError::Stopped),
        };
        // Another process may have built it while this one waited.
        if !self.spec.is_rebuilt
            && let Some(done) = cache::find(&self.workshop, key)
        {
            return Ok(Arc::new(done));
        }
        let how = self.how(key);
        let ids: HashMap<VertexId, &PackageName> = self.workshop.ids.iter().map(|(name, id)| (*id, name)).collect();
        let closure = inputs.closure();
        let view: BTreeMap<PackageName, PathBuf> =
            closure.iter().filter_map(|(id, done)| Some((ids[id].clone(), done.tree.clone()?))).collect();
        cx.report(Progress::Building);
        let logs = Logs::new(store.root());
        let log = logs.create(&self.spec.package, &self.spec.version, key.reference())?;
        let start = Instant::now();
        let mut built = self.build(&prepared, Way::Warm, &view, &log, cx).await;
        if let Err(InstallError::WarmFailed { reason }) = &built {
            // From the beginning: what fails leaves half of its work in the source.
            let again = self.prepare_again(&prepared, cx).await?;
            let reason = reason.clone();
            prepared = again;
            built = self.build(&prepared, Way::Plain, &view, &log, cx).await;
            if built.is_ok() {
                let message = format!("`R CMD INSTALL` could install it, but a warm R could not: {reason}");
                cx.report(Progress::Warning(message));
            }
        }
        let built = match built {
            Ok(built) => built,
            Err(source) => return Err(OpError::Build { log: Logs::mark_failed(&log), source }),
        };
        let duration = start.elapsed();
        let mut sidecar = Sidecar::new(key, duration);
        sidecar.linkingto.clone_from(&prepared.recipe.linking_to);
        sidecar.source_compiled = built.join("libs").is_dir() && !prepared.is_binary;
        sidecar.dependencies = Self::dependencies(&view);
        sidecar.content = Some(self.content_of(key, &view)?);
        let existing = if self.spec.is_rebuilt { OnExisting::Replace } else { OnExisting::Keep };
        let (workshop, key) = (Arc::clone(&self.workshop), Arc::clone(key));
        let tree = blocking(move || {
            let tree = workshop.store.publish(&built, &key, &sidecar, existing);
            drop(prepared);
            tree
        });
        let tree = tree.await?;
        Ok(Arc::new(Done { tree: Some(tree), how, build: Some(BuildRecord { log, duration }) }))
    }
}

impl PackageOp {
    async fn build(
        &self,
        prepared: &Prepared,
        way: Way,
        view: &BTreeMap<PackageName, PathBuf>,
        log: &Path,
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

    /// Says whether this is a recompilation, and why, or something new.
    fn how(&self, key: &PackageKey) -> How {
        let source = key.reference().source;
        let earlier = self.workshop.store.sidecars(key.package(), source);
        match earlier.into_iter().find(|(config, ..)| *config != key.reference().config) {
            Some((_, _, sidecar)) => How::Recompiled { because: difference(&sidecar, key) },
            None => How::Ingested,
        }
    }

    /// Tells what of the view is in the store, by its place there.
    fn dependencies(view: &BTreeMap<PackageName, PathBuf>) -> BTreeMap<PackageName, BuiltAgainst> {
        let against = |name: &PackageName, tree: &PathBuf| {
            let sidecar = fs_err::read(tree.with_extension("json")).ok()?;
            let sidecar: Sidecar = serde_json::from_slice(&sidecar).ok()?;
            let source = tree.parent()?.file_name()?.to_str()?.parse().ok()?;
            let config = tree.file_name()?.to_str()?.parse().ok()?;
            let reference = crate::key::Reference { source, config };
            Some((name.clone(), BuiltAgainst { version: sidecar.version, reference }))
        };
        view.iter().filter_map(|(name, tree)| against(name, tree)).collect()
    }
}

/// Runs what waits for the disk where it keeps nobody else waiting.
async fn blocking<T: Send + 'static, E: Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
