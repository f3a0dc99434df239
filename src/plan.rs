//! The plan: which packages there are, what each needs, by which key it is known, and what is to be done for it.
//!
//! A pure function of lockfile, host, and what is known ([`Knowledge`]). It needs no network and no compiler. The
//! same plan is printed by `solve plan` and carried out by `solve`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use larder_graph::{Dag, DagBuilder, EdgeKind, VertexId};
use larder_ops::digest::Sha256Digest;
use larder_ops::explain::difference;
use larder_ops::install::DebugInfo;
use larder_ops::key::{BINARY, ConfigMap, DEBUG_INFO, INSTALL_ARGS, MAKEVARS, PackageKey, Reference};
use larder_ops::op::{Origin, Spec, Standing};
use larder_ops::package::PackageName;
use larder_ops::recipe::{Recipe, provided_key};
use larder_ops::store::{Configs, Sidecar};
use larder_ops::toolchain::Provided;

use crate::host::Host;
use crate::lockfile::{Entry, Kind, Lockfile};

mod extras;
mod origin;
mod outlook;

pub use extras::{Extra, Stale};
pub use outlook::Outlook;

/// What a plan may know besides lockfile and host.
pub trait Knowledge: Sync {
    /// What the store knows of a source.
    fn configs(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs>;
    /// Whether the store has this.
    fn has(&self, package: &PackageName, reference: Reference) -> bool;
    /// Which cache beyond this machine has this, as far as one was asked.
    fn elsewhere(&self, package: &PackageName, reference: Reference) -> Option<String>;
    /// What the library has of a package, if larder put it there and it is whole.
    fn in_library(&self, package: &PackageName) -> Option<Reference>;
    /// What the reference library has of a package, if there is one and it is whole.
    fn in_reference(&self, package: &PackageName) -> Option<Reference>;
    /// Which of the packages that a build links to are not those of the reference library, in words.
    fn differs_from_reference(&self, key: &PackageKey) -> String;
    /// The builds of a source, last used first.
    fn builds(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, Sidecar)>;
    /// How long the latest build of a package took, whatever its source was.
    fn last_build(&self, package: &PackageName) -> Option<Duration>;
    /// What R's own library has of a package.
    fn provided(&self, package: &PackageName) -> Option<Provided>;
    /// The digest of the content of a source that is known by it, if it was seen.
    fn content(&self, origin: &Origin) -> Option<Sha256Digest>;
    /// The digest of a file on this machine.
    fn file_digest(&self, path: &std::path::Path) -> Option<Sha256Digest>;
    /// Whether a directory holds the source of a package.
    fn is_source_of(&self, package: &PackageName, path: &std::path::Path) -> bool;
}

/// What the user wants besides the lockfile.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Packages to build although the store has them.
    pub rebuild: BTreeSet<PackageName>,
    /// Whether a change of Depends or Imports rebuilds a package too.
    pub rebuilds_when_imports_change: bool,
    /// What becomes of debug information.
    pub debug_info: DebugInfo,
    /// The digest of the user's Makevars, if there are any.
    pub makevars: Option<Sha256Digest>,
    /// Where relative local sources start: the lockfile's directory.
    pub base: PathBuf,
    /// Packages outside the lockfile that are to go on working.
    pub extras: Vec<Extra>,
}

/// What is to be done for a lockfile.
///
/// ```no_run
/// # fn example(larder: &larder::Larder, lockfile: &larder::lockfile::Lockfile) -> Result<(), larder::larder::Error> {
/// use larder::larder::Request;
/// use larder::plan::Action;
///
/// let plan = larder.plan(lockfile, &Request::new("library"))?;
/// for id in plan.dag.vertices() {
///     let vertex = plan.dag.op(id);
///     if vertex.action == Action::Recompile {
///         let users: Vec<_> = plan.dag.dependants(id).map(|(user, _)| &plan.dag.op(user).spec.package).collect();
///         println!("{} is recompiled ({}); {users:?} need it", vertex.spec.package, vertex.because);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Plan {
    /// The packages and what each needs.
    pub dag: Dag<Vertex>,
    /// Which vertex is which package.
    pub ids: HashMap<PackageName, VertexId>,
    /// Packages outside the lockfile that cannot go on working, as far as that is known without their sources.
    pub stale: Vec<Stale>,
    /// What the user should know before the run.
    pub warnings: Vec<String>,
}

/// One package of a plan.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What is to be done, in full.
    pub spec: Spec,
    /// pak's word for where it comes from.
    pub kind: &'static str,
    /// Its key, where all that it is made of is known.
    pub key: Option<Arc<PackageKey>>,
    /// What is to be done, in a word.
    pub action: Action,
    /// Why.
    pub because: String,
    /// Whether there is code to compile, as far as the lockfile tells.
    pub needs_compilation: bool,
    /// System packages that it asks for.
    pub system_packages: Vec<String>,
    /// Whether it was built before, this source or another, so that its weight is more than a guess.
    pub is_measured: bool,
    /// Whether the store has, or had, builds of this source. Of others it is not asked again.
    is_seen: bool,
}

/// What is to be done for a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The library has it.
    Keep,
    /// The store has it.
    Load,
    /// Its source was built before, but with something else.
    Recompile,
    /// It is new.
    Ingest,
    /// R itself has it.
    Provided,
    /// That depends on its source, which has not been seen.
    Unknown,
}

impl Action {
    /// Returns the word for it in plans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Load => "load",
            Self::Recompile => "recompile",
            Self::Ingest => "ingest",
            Self::Provided => "provided",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a lockfile cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Packages need each other in a circle.
    #[error("these packages need each other in a circle: {}", circle(.0))]
    Cycle(Vec<PackageName>),
    /// A package links to one that is nowhere.
    #[error("`{package}` links to `{linked}`, which is neither in the lockfile nor in R's own library")]
    LinkedNowhere {
        /// The package.
        package: PackageName,
        /// What it links to.
        linked: PackageName,
    },
    /// `--rebuild` names a package that the lockfile does not have.
    #[error("`--rebuild {0}`: the lockfile has no such package")]
    RebuildUnknown(PackageName),
}

impl PlanError {
    /// Says whether the lockfile is at fault, not the command line.
    pub fn is_in_lockfile(&self) -> bool {
        !matches!(self, Self::RebuildUnknown(_))
    }
}

fn circle(names: &[PackageName]) -> String {
    let shown: Vec<_> = names.iter().chain(names.first()).map(ToString::to_string).collect();
    shown.join(" -> ")
}

impl Plan {
    /// Plans `lockfile` for `host`.
    pub fn new(
        lockfile: &Lockfile,
        host: &Host,
        settings: &Settings,
        known: &impl Knowledge,
    ) -> Result<Self, PlanError> {
        let locked: BTreeSet<&PackageName> = lockfile.entries().iter().map(|entry| &entry.package).collect();
        let (extras, stale) = extras::divide(&settings.extras, &locked, known);
        let mut vertices = vertices(lockfile.entries(), host, settings, known);
        let mut linking_to: Vec<Vec<PackageName>> =
            lockfile.entries().iter().zip(&vertices).map(|(entry, vertex)| linking_to(entry, vertex)).collect();
        vertices.extend(extras.iter().map(extras::vertex));
        linking_to.extend(extras.iter().map(|extra| extra.linking_to.clone()));
        let names: Vec<PackageName> = vertices.iter().map(|vertex| vertex.spec.package.clone()).collect();
        let needs: Vec<Arc<[PackageName]>> = vertices.iter().map(|vertex| vertex.spec.dependencies.clone()).collect();
        let mut builder = DagBuilder::new();
        let ids: HashMap<PackageName, VertexId> =
            vertices.into_iter().map(|vertex| (vertex.spec.package.clone(), builder.add(vertex))).collect();
        if let Some(name) = settings.rebuild.iter().find(|name| !ids.contains_key(*name)) {
            return Err(PlanError::RebuildUnknown(name.clone()));
        }
        // Without an entry for it, what a package links to must come from R itself.
        let mut provided = BTreeMap::new();
        for ((package, needs), linking_to) in names.iter().zip(needs).zip(linking_to) {
            let id = ids[package];
            // What an extra needs and nobody has, it lacked before.
            for input in needs.iter().filter(|name| !linking_to.contains(name)).filter_map(|name| ids.get(name)) {
                builder.edge(id, *input, EdgeKind::Ordering);
            }
            for name in linking_to {
                if let Some(input) = ids.get(&name) {
                    builder.edge(id, *input, EdgeKind::Keyed);
                } else if let Some(found) = known.provided(&name) {
                    provided.insert(name.clone(), Arc::new(provided_key(&name, &found)));
                } else {
                    return Err(PlanError::LinkedNowhere { package: package.clone(), linked: name });
                }
            }
        }
        let mut dag = builder.build().map_err(|error| {
            PlanError::Cycle(error.cycle.into_iter().map(|vertex| names[vertex.index()].clone()).collect())
        })?;
        decide(&mut dag, provided, known);
        Ok(Self { dag, ids, stale, warnings: warnings(lockfile, host, known) })
    }

    /// Returns the vertices in the lockfile's order.
    pub fn vertices(&self) -> impl Iterator<Item = &Vertex> {
        self.dag.vertices().map(|vertex| self.dag.op(vertex))
    }

    /// Returns the sources that the store may have builds of, as far as they are known before they are seen.
    pub fn sources(&self) -> impl Iterator<Item = (&PackageName, Sha256Digest)> {
        self.sources_of(|vertex| vertex.action != Action::Provided)
    }

    /// Returns the sources of those packages, as far as they are known before they are seen.
    pub(crate) fn sources_of(
        &self,
        is_wanted: impl Fn(&Vertex) -> bool,
    ) -> impl Iterator<Item = (&PackageName, Sha256Digest)> {
        self.vertices().filter(move |vertex| is_wanted(vertex)).filter_map(|vertex| {
            let source = vertex.key.as_ref().map(|key| key.reference().source).or(vertex.spec.source_hash)?;
            Some((&vertex.spec.package, source))
        })
    }

    /// Returns the packages that a package's key is made of, where that is known.
    pub fn linking_to<'a>(&self, vertex: &'a Vertex) -> Option<&'a [PackageName]> {
        vertex.spec.recipe.as_ref().map(|recipe| recipe.linking_to.as_slice())
    }
}

/// Says what the run will have to do otherwise than the lockfile has it, or cannot do.
fn warnings(lockfile: &Lockfile, host: &Host, known: &impl Knowledge) -> Vec<String> {
    let mut foreign: BTreeMap<String, Vec<&Entry>> = BTreeMap::new();
    let mut lacking = Vec::new();
    for entry in lockfile.entries() {
        if let Some(binary) = entry.binary.as_ref().filter(|binary| !host.takes(binary)) {
            foreign.entry(format!("{}, R {}", binary.platform, binary.r_minor)).or_default().push(entry);
        }
        if entry.kind == Kind::Installed && known.provided(&entry.package).is_none() {
            lacking.push(entry.package.to_string());
        }
    }
    let mut warnings: Vec<String> = foreign
        .into_iter()
        .map(|(platform, entries)| match entries[..] {
            [entry] => format!(
                "`{}` is locked as a binary for {platform}, which does not fit here: its source is taken",
                entry.package
            ),
            _ => format!(
                "{} packages are locked as binaries for {platform}, which do not fit here: their sources are taken",
                entries.len()
            ),
        })
        .collect();
    if !lacking.is_empty() {
        warnings.push(format!(
            "the lockfile takes {} from R's own library, but {} does not have {}",
            lacking.join(", "),
            host.toolchain.library.display(),
            if lacking.len() == 1 { "it" } else { "them" }
        ));
    }
    warnings
}

fn linking_to(entry: &Entry, vertex: &Vertex) -> Vec<PackageName> {
    match (&vertex.spec.recipe, &entry.linking_to) {
        (Some(recipe), _) => recipe.linking_to.clone(),
        (None, Some(linking_to)) if entry.binary.is_none() => linking_to.clone(),
        _ => Vec::new(),
    }
}

/// Gives every vertex its key, inputs first, and from that what is to be done.
fn decide(dag: &mut Dag<Vertex>, mut keys: BTreeMap<PackageName, Arc<PackageKey>>, known: &impl Knowledge) {
    let inputs_first: Vec<VertexId> = dag.dependants_first().iter().rev().copied().collect();
    for id in inputs_first {
        let vertex = dag.op_mut(id);
        if vertex.key.is_none() {
            decide_one(vertex, &keys, known);
        }
        keys.extend(vertex.key.iter().map(|key| (vertex.spec.package.clone(), Arc::clone(key))));
    }
}

/// Does it for one, given the keys of what it links to as far as they are known.
fn decide_one(vertex: &mut Vertex, keys: &BTreeMap<PackageName, Arc<PackageKey>>, known: &impl Knowledge) {
    let package = &vertex.spec.package;
    let key = if matches!(vertex.spec.origin, Origin::Provided) {
        known.provided(package).map(|found| provided_key(package, &found))
    } else {
        let recipe = vertex.spec.recipe.as_ref();
        recipe
            .filter(|recipe| recipe.inputs().iter().all(|name| keys.contains_key(*name)))
            .map(|recipe| recipe.key(keys))
    };
    (vertex.action, vertex.because) = action(vertex, key.as_ref(), known);
    if outlook::is_built(vertex) {
        measure(vertex, source_of(vertex, key.as_ref()), known);
    }
    vertex.key = key.map(Arc::new);
}

fn action(vertex: &mut Vertex, key: Option<&PackageKey>, known: &impl Knowledge) -> (Action, String) {
    let package = &vertex.spec.package;
    if matches!(vertex.spec.origin, Origin::Provided) {
        let because = match key {
            Some(key) => format!("R has {}", key.version()),
            None => "R's own library lacks it".to_owned(),
        };
        return (Action::Provided, because);
    }
    let Some(key) = key else {
        let because = match &vertex.spec.recipe {
            None => "its source has not been seen",
            Some(_) => "the source of something it links to has not been seen",
        };
        return (Action::Unknown, because.to_owned());
    };
    let reference = key.reference();
    if !vertex.spec.is_rebuilt {
        if known.in_library(package) == Some(reference) {
            return (Action::Keep, "the library has it".to_owned());
        }
        if vertex.is_seen && known.has(package, reference) {
            return (Action::Load, "the store has it".to_owned());
        }
        if let Some(cache) = known.elsewhere(package, reference) {
            return (Action::Load, format!("{cache} has it"));
        }
        if known.in_reference(package) == Some(reference) {
            return (Action::Load, "the reference library has it".to_owned());
        }
    }
    let builds = if vertex.is_seen { known.builds(package, reference.source) } else { Vec::new() };
    if matches!(vertex.spec.origin, Origin::Nowhere) {
        let because = known.differs_from_reference(key);
        return (Action::Unknown, format!("stale, unless its build still fits: its source is not at hand; {because}"));
    }
    if vertex.spec.is_rebuilt {
        return (Action::Ingest, "asked for by --rebuild".to_owned());
    }
    match builds.iter().find(|(config, _)| *config != reference.config) {
        Some((_, sidecar)) => (Action::Recompile, difference(sidecar, key)),
        None => (Action::Ingest, "the store does not have it".to_owned()),
    }
}

fn source_of(vertex: &Vertex, key: Option<&PackageKey>) -> Option<Sha256Digest> {
    key.map(|key| key.reference().source).or(vertex.spec.source_hash).filter(|_| vertex.is_seen)
}

/// Takes what building it cost before, of this source or else of another, for what it will cost.
fn measure(vertex: &mut Vertex, source: Option<Sha256Digest>, known: &impl Knowledge) {
    let package = &vertex.spec.package;
    let builds = source.map(|source| known.builds(package, source)).unwrap_or_default();
    let of_source = builds.iter().map(|(_, sidecar)| sidecar.build_ms).find(|ms| *ms > 0);
    let peak = builds.iter().find_map(|(_, sidecar)| sidecar.peak_bytes);
    if let Some(bytes) = peak {
        vertex.spec.memory_mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX).max(1);
    }
    let of_any = || known.last_build(package).map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    if let Some(ms) = of_source.or_else(of_any) {
        (vertex.spec.weight_ms, vertex.is_measured) = (ms.max(1), true);
    }
}

/// Makes the vertices of entries, in their order, and decides of those that link to nothing. What is known of each is
/// read from the disk, so several at a time.
fn vertices(entries: &[Entry], host: &Host, settings: &Settings, known: &impl Knowledge) -> Vec<Vertex> {
    /// What takes as long as it takes to start a thread, and some more.
    const ENTRIES_PER_THREAD: usize = 40;
    const THREADS_MAX: usize = 4;
    /// What a thread takes at a time: whichever comes late takes less.
    const ENTRIES_PER_PART: usize = 8;
    let of = |entry: &Entry| {
        let mut vertex = vertex(entry, host, settings, known);
        if vertex.spec.recipe.as_ref().is_some_and(|recipe| recipe.inputs().is_empty()) {
            decide_one(&mut vertex, &BTreeMap::new(), known);
        }
        vertex
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let parts = std::iter::from_fn(|| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let part = entries.chunks(ENTRIES_PER_PART).nth(n)?;
            Some((n, part.iter().map(of).collect::<Vec<_>>()))
        });
        parts.collect::<Vec<_>>()
    };
    let n_threads = (entries.len() / ENTRIES_PER_THREAD).clamp(1, THREADS_MAX);
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let mut done = work();
        for thread in threads {
            done.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(n, _)| *n);
    done.into_iter().flat_map(|(_, part)| part).collect()
}

/// Makes the vertex of an entry, as far as it follows from the entry alone and what is known of its source.
fn vertex(entry: &Entry, host: &Host, settings: &Settings, known: &impl Knowledge) -> Vertex {
    let binary = entry.binary.as_ref().filter(|binary| host.takes(binary));
    let is_foreign = entry.binary.is_some() && binary.is_none();
    let origin = origin::of(entry, is_foreign, settings, known);
    let content_kind = matches!(entry.kind, Kind::Url | Kind::Local).then(|| entry.kind.as_str());
    let source_hash = entry.source_hash();
    let source = source_hash
        .or_else(|| content_kind.and(known.content(&origin)).map(|content| entry.source_hash_with_content(&content)));
    let mut special = ConfigMap::default();
    if !entry.install_args.is_empty() {
        special.insert(INSTALL_ARGS, entry.install_args.join(" "));
    }
    if let Some(makevars) = &settings.makevars {
        special.insert(MAKEVARS, makevars);
    }
    if settings.debug_info == DebugInfo::Keep {
        special.insert(DEBUG_INFO, "keep");
    }
    let source = source.filter(|_| !matches!(origin, Origin::Provided));
    let seen = source.and_then(|source| known.configs(&entry.package, source));
    let is_seen = seen.is_some();
    let recipe = source.and_then(|source| {
        let (linking_to, special) = if let Some(binary) = binary {
            (Vec::new(), ConfigMap::from_iter([(BINARY, &binary.platform)]))
        } else {
            let seen = seen.map(|configs| configs.linkingto);
            // Of a foreign binary the lockfile does not know what its source links to.
            (seen.or_else(|| entry.linking_to.clone().filter(|_| !is_foreign))?, special.clone())
        };
        let is_strict = settings.rebuilds_when_imports_change;
        Some(Recipe {
            package: entry.package.clone(),
            version: entry.version.clone(),
            source,
            linking_to,
            imports: if is_strict { entry.dependencies.to_vec() } else { Vec::new() },
            special,
        })
    });
    Vertex {
        spec: Spec {
            package: entry.package.clone(),
            version: entry.version.clone(),
            standing: Standing::Locked,
            recipe,
            content_kind,
            source_hash,
            binary_platform: binary.map(|binary| binary.platform.clone()),
            special,
            dependencies: entry.dependencies.clone(),
            metadata: entry.metadata.clone(),
            install_args: entry.install_args.clone(),
            is_rebuilt: settings.rebuild.contains(&entry.package),
            weight_ms: guess_ms(entry, &origin, binary.is_some()),
            memory_mib: if entry.needs_compilation { COMPILER_MIB } else { R_MIB },
            origin,
        },
        kind: entry.kind.as_str(),
        key: None,
        action: Action::Unknown,
        because: String::new(),
        needs_compilation: entry.needs_compilation && binary.is_none(),
        system_packages: entry.system_packages.clone(),
        is_measured: false,
        is_seen,
    }
}

/// How much memory a build is taken to need that was never measured, or was over too soon to be: that of R, and of a
/// compiler besides. Seen for C++ with large templates: 1 GB and more; the next build knows.
const R_MIB: u32 = 150;
const COMPILER_MIB: u32 = 400;

/// Guesses what building costs that was never measured: R's fixed part, and more by size where there is code; much more
/// where it is C++, which is what links to other packages. Seen on 2 cores, without debug information: `withr` (98 kB,
/// R alone) 0.7 s, `glue` (121 kB, C) 1.5 s, `rlang` (0.7 MB) 8 s, `later` (63 kB, Rcpp) 10 s, `data.table` (5.5 MB) 16 s.
fn guess_ms(entry: &Entry, origin: &Origin, is_binary: bool) -> u64 {
    let kilobytes = entry.size_bytes.unwrap_or(200_000) / 1000;
    // Beyond that it is mostly data and documentation.
    let code = kilobytes.min(1500);
    match origin {
        Origin::Provided | Origin::Nowhere => 0,
        Origin::Archive { .. } | Origin::Directory(_) if is_binary => 100 + kilobytes / 20,
        Origin::Archive { .. } | Origin::Directory(_) if entry.needs_compilation => {
            let is_cpp = entry.linking_to.as_ref().is_some_and(|linking_to| !linking_to.is_empty());
            1000 + code * 8 + kilobytes + if is_cpp { 5000 } else { 0 }
        }
        Origin::Archive { .. } | Origin::Directory(_) => 500 + code * 3,
    }
}
