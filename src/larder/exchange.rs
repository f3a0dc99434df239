//! Trading packages with a library that another tool fills: take from the store what it has before that tool runs,
//! give to the store what the tool has built, or put a library together from a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_ops::digest::Sha256Digest;
use larder_ops::fs::write_atomically;
use larder_ops::key::{PackageKey, Reference};
use larder_ops::library::{Change, Library, Put, Record, What, has_package};
use larder_ops::link::{LinkMode, Linker};
use larder_ops::op::{Origin, Standing};
use larder_ops::package::{Description, PackageName};
use larder_ops::store::{Configs, Depth, OnExisting, Sidecar, Store, StoreError};
use larder_ops::toolchain::Provided;

use super::{Access, Error, Known, Larder, Request};
use crate::lockfile::Lockfile;
use crate::plan::{Action, Knowledge, Plan, Vertex};

/// A library that another tool fills, and what goes with it.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// The library.
    pub library: PathBuf,
    /// A library that is in use, such as a running worker's.
    pub reference: Option<PathBuf>,
    /// Whether `library` is to take the place of `reference`, instead of standing beside it: then it gets also what is
    /// the same in both, and keeps a record of what is in it.
    pub is_runtime: bool,
}

/// What of a lockfile the store had, and what it lacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Packages that it had.
    pub hits: usize,
    /// Packages that it lacked.
    pub misses: usize,
    /// Packages of the reference library that are compiled against something that changed; counted apart if the new
    /// library takes its place.
    pub abi: Option<Abi>,
    /// Packages of the reference library, but not of the lockfile, that are not in the new library, since they would not
    /// work there.
    pub stale: Vec<PackageName>,
    /// What the store has, but not as it was stored, and so counts as lacking.
    pub warnings: Vec<String>,
}

/// Packages whose own source is as it was, but not what they are compiled against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Abi {
    /// Those of which the store had the other build.
    pub hits: usize,
    /// Those that have to be built again.
    pub rebuilds: usize,
}

/// What was given to the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ingested {
    /// What the library holds now, and what it may rely on from the reference library.
    pub manifest: Manifest,
    /// Packages of the reference library that the manifest does not have, since they would not work beside the rest.
    pub stale: Vec<PackageName>,
    /// What the store had, but not as it was stored, and got anew.
    pub warnings: Vec<String>,
}

/// A library's content: package to place in the store.
pub type Manifest = BTreeMap<PackageName, Reference>;

/// The manifest that [`Larder::ingest`] leaves in a library.
pub const STORE_MANIFEST: &str = "store-manifest.json";

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} hits, {} misses", self.hits, self.misses)?;
        match self.abi {
            Some(abi) => write!(f, ", {} ABI hits, {} ABI rebuilds", abi.hits, abi.rebuilds),
            None => Ok(()),
        }
    }
}

impl Exchange {
    /// Fills `library`, and nothing special.
    pub fn new(library: impl Into<PathBuf>) -> Self {
        Self { library: library.into(), reference: None, is_runtime: false }
    }

    fn request(&self) -> Request {
        Request { reference: self.reference.clone(), ..Request::new(&self.library) }
    }
}

impl Larder {
    /// Links into the library what the store has of a lockfile, for another tool to install the rest.
    ///
    /// Packages that the library has already are left alone, whoever put them there. What the reference library has
    /// under the same key is left there; or, if the library is to take its place, linked from it and not counted.
    /// Then also packages outside the lockfile come over, if they would work.
    pub fn populate(&self, lockfile: &Lockfile, exchange: &Exchange) -> Result<Found, Error> {
        let store = self.store();
        let mut library = Library::open(&exchange.library, store.platform())?;
        let request = exchange.request();
        let beside = self.beside(lockfile, &request, &store, Access::Hold)?;
        let plan = self.plan_with(lockfile, &request, &store, library.record(), beside.as_ref())?;
        store.hold(plan.sources())?;
        let in_use = beside.as_ref().map(|beside| &*beside.library);
        let mut found = Found { abi: exchange.is_runtime.then(Abi::default), ..Found::default() };
        found.stale.extend(plan.stale.iter().map(|stale| stale.package.clone()));
        let (mut put, mut absent) = (Vec::new(), BTreeSet::new());
        for &id in plan.dag.dependants_first().iter().rev() {
            let vertex = plan.dag.op(id);
            let (package, is_locked) = (&vertex.spec.package, vertex.spec.standing == Standing::Locked);
            let is_wanted = is_locked || exchange.is_runtime;
            if vertex.action == Action::Provided || !is_wanted || has_package(library.root(), package) {
                continue;
            }
            let reference = vertex.key.as_ref().map(|key| key.reference());
            let kept = reference.and_then(|reference| Some((reference, in_use?.tree(package, reference)?)));
            // What stays where it is is not loaded.
            let kept = kept.filter(|(reference, tree)| {
                !exchange.is_runtime || !is_locked || self.vouches(&store, package, *reference, tree)
            });
            let needs_absent = || plan.dag.inputs(id).any(|(input, _)| absent.contains(&input));
            if !is_locked && needs_absent() {
                absent.insert(id);
                found.stale.push(package.clone());
                continue;
            }
            let stored = match reference.filter(|_| kept.is_none()) {
                Some(reference) => self.sound(&store, package, reference, &mut found.warnings)?,
                None => None,
            };
            let stored = reference.zip(stored);
            if let Some((reference, _)) = &stored {
                store.touch(package, *reference);
            }
            let was_there = in_use.and_then(|in_use| in_use.record().was_put(package)).map(|before| before.source);
            let is_abi = was_there.is_some() && was_there == reference.map(|reference| reference.source);
            let n_of = match &mut found.abi {
                Some(abi) if is_abi || !is_locked => (&mut abi.hits, &mut abi.rebuilds),
                _ => (&mut found.hits, &mut found.misses),
            };
            let (tree, what) = match (kept, stored) {
                (Some(_), _) if !exchange.is_runtime => continue,
                (Some((_, tree)), _) if vertex.spec.standing == Standing::Foreign => (tree, What::Foreign),
                (Some((reference, tree)), _) => (tree, What::InLibrary(reference)),
                (None, Some((reference, tree))) => {
                    *n_of.0 += 1;
                    (tree, What::Stored(reference))
                }
                (None, None) => {
                    *n_of.1 += 1;
                    if !is_locked {
                        absent.insert(id);
                        found.stale.push(package.clone());
                    }
                    continue;
                }
            };
            put.push(Put { package: package.clone(), tree, what });
        }
        found.stale.sort();
        store.register(library.place());
        let linker = Linker::new(self.config.link);
        library.apply(&Change { put, ..Change::default() }, &linker)?;
        Ok(found)
    }

    /// Gives the store what another tool has installed into the library for a lockfile, and writes what the library
    /// holds to `store-manifest.json` in it. The library's own trees are copied, not moved.
    ///
    /// A package whose version is not the lockfile's is not taken. What the reference library has under the same key is
    /// in use from there and not taken again; what it has besides is carried over into the manifest, if it would still
    /// work. If the library is to take the place of the reference library, it gets larder's own record too.
    pub fn ingest(&self, lockfile: &Lockfile, exchange: &Exchange) -> Result<Ingested, Error> {
        let (store, library) = (self.store(), exchange.library.as_path());
        // Nobody else changes it meanwhile.
        let mut opened = exchange.is_runtime.then(|| Library::open(library, store.platform())).transpose()?;
        let record = Record::read(library, store.platform())?;
        let request = exchange.request();
        let beside = self.beside(lockfile, &request, &store, Access::Hold)?;
        let plan = {
            let known = Installed { known: self.known(&store, &record, library, beside.as_ref()), library };
            self.plan_from(lockfile, &request, &known, beside.as_ref())?
        };
        let in_use = beside.as_ref().map(|beside| &*beside.library);
        store.hold(plan.sources())?;
        let mut done = Ingested::default();
        done.stale.extend(plan.stale.iter().map(|stale| stale.package.clone()));
        let mut absent = BTreeSet::new();
        for &id in plan.dag.dependants_first().iter().rev() {
            let vertex = plan.dag.op(id);
            let package = &vertex.spec.package;
            if matches!(vertex.spec.origin, Origin::Provided) {
                continue;
            }
            let Some(key) = &vertex.key else { continue };
            let is_kept = in_use.is_some_and(|in_use| in_use.tree(package, key.reference()).is_some());
            if vertex.spec.standing != Standing::Locked {
                let is_had = is_kept || store.lookup(package, key.reference()).is_some();
                if !is_had || plan.dag.inputs(id).any(|(input, _)| absent.contains(&input)) {
                    absent.insert(id);
                    done.stale.push(package.clone());
                } else if vertex.spec.standing == Standing::Extra {
                    done.manifest.insert(package.clone(), key.reference());
                }
            } else if is_kept {
                done.manifest.insert(package.clone(), key.reference());
            } else if installed(library, vertex).is_some() {
                self.take(&store, &plan, vertex, key, library, &mut done.warnings)?;
                done.manifest.insert(package.clone(), key.reference());
            }
        }
        done.stale.sort();
        let json = serde_json::to_vec_pretty(&done.manifest).map_err(std::io::Error::from)?;
        write_atomically(&library.join(STORE_MANIFEST), &json)?;
        if let Some(library) = &mut opened {
            store.register(library.place());
            library.record_as(done.manifest.iter().map(|(package, reference)| (package.clone(), *reference)))?;
        }
        Ok(done)
    }

    /// Makes `library` hold exactly what `manifest` says, as far as the store has it; returns what it lacks. What it has
    /// not as it was stored is set aside, and lacking.
    pub fn assemble(&self, manifest: &Manifest, library: &Path) -> Result<Vec<PackageName>, Error> {
        let store = self.store();
        let mut library = Library::open(library, store.platform())?;
        store.hold(manifest.iter().map(|(package, reference)| (package, reference.source)))?;
        let linker = Linker::new(self.config.link);
        let (mut missing, mut put, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
        for (package, reference) in manifest.iter().filter(|(package, reference)| !library.holds(package, **reference))
        {
            match self.sound(&store, package, *reference, &mut warnings)? {
                Some(tree) => {
                    store.touch(package, *reference);
                    put.push(Put { package: package.clone(), tree, what: What::Stored(*reference) });
                }
                None => missing.push(package.clone()),
            }
        }
        let ours = library.record().packages();
        let remove = ours.into_iter().filter(|package| !manifest.contains_key(*package)).cloned().collect();
        store.register(library.place());
        library.apply(&Change { put, remove, ..Change::default() }, &linker)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(missing)
    }

    /// Returns an entry of the store, looked at as closely as was asked for. A broken one is set aside, and none.
    fn sound(
        &self,
        store: &Store,
        package: &PackageName,
        reference: Reference,
        warnings: &mut Vec<String>,
    ) -> Result<Option<PathBuf>, Error> {
        let found = store.sound(package, reference, self.depth())?;
        Ok(found.unwrap_or_else(|broken| {
            warnings.push(format!("{package} could not be loaded: {broken}; it is set aside"));
            None
        }))
    }

    /// Says whether a package of a library may be taken from there. Who wants everything looked at takes only what the
    /// store can vouch for.
    fn vouches(&self, store: &Store, package: &PackageName, reference: Reference, tree: &Path) -> bool {
        self.depth() == Depth::Glance || store.is_copy(package, reference, tree) == Some(true)
    }

    /// Copies an installed package into the store, unless it is there already.
    fn take(
        &self,
        store: &Store,
        plan: &Plan,
        vertex: &Vertex,
        key: &PackageKey,
        library: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let package = &vertex.spec.package;
        store.hold([(package, key.reference().source)])?;
        if self.sound(store, package, key.reference(), warnings)?.is_some() {
            store.touch(package, key.reference());
            return Ok(());
        }
        give(store, plan, vertex, key, library)
    }
}

/// Copies an installed package into the store. Losing the race to an equal one is success.
fn give(store: &Store, plan: &Plan, vertex: &Vertex, key: &PackageKey, library: &Path) -> Result<(), Error> {
    let package = &vertex.spec.package;
    let _lock = store.lock_source(key.reference().source)?;
    let staging = store.stage()?;
    let copy = staging.path().join("copy");
    // Never a hard link: whoever owns the library may write to its files.
    Linker::new(Some(LinkMode::Copy)).link_tree(&library.join(package), &copy)?;
    let mut sidecar = Sidecar::new(key, Duration::ZERO);
    sidecar.linkingto = plan.linking_to(vertex).unwrap_or_default().to_vec();
    sidecar.source_compiled = copy.join("libs").is_dir() && vertex.spec.binary_platform.is_none();
    store.publish(&copy, key, &sidecar, OnExisting::Keep).map_err(|error| match error {
        StoreError::Io(error) => Error::Io(error),
        StoreError::NotAPackage(path) => {
            Error::Io(std::io::Error::other(format!("{}: not an installed package", path.display())))
        }
    })?;
    Ok(())
}

/// Returns what an installed package says of itself, if it is the version that is wanted.
fn installed(library: &Path, vertex: &Vertex) -> Option<Description> {
    let bytes = fs_err::read(library.join(&vertex.spec.package).join("DESCRIPTION")).ok()?;
    Some(Description::parse(&bytes)).filter(|found| found.get("Version") == Some(&vertex.spec.version))
}

/// What a plan may know when the packages are installed already: what each links to is in its own DESCRIPTION.
struct Installed<'a> {
    known: Known<'a>,
    library: &'a Path,
}

impl Knowledge for Installed<'_> {
    fn configs(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let bytes = fs_err::read(self.library.join(package).join("DESCRIPTION")).ok();
        let Some(description) = bytes.map(|bytes| Description::parse(&bytes)) else {
            return self.known.configs(package, source);
        };
        Some(Configs { linkingto: description.packages("LinkingTo"), ..Configs::default() })
    }

    fn elsewhere(&self, package: &PackageName, reference: Reference) -> Option<String> {
        self.known.elsewhere(package, reference)
    }

    fn has(&self, package: &PackageName, reference: Reference) -> bool {
        self.known.has(package, reference)
    }

    fn in_reference(&self, package: &PackageName) -> Option<Reference> {
        self.known.in_reference(package)
    }

    fn differs_from_reference(&self, key: &PackageKey) -> String {
        self.known.differs_from_reference(key)
    }

    fn in_library(&self, package: &PackageName) -> Option<Reference> {
        self.known.in_library(package)
    }

    fn builds(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, Sidecar)> {
        self.known.builds(package, source)
    }

    fn last_build(&self, _: &PackageName) -> Option<Duration> {
        None
    }

    fn provided(&self, package: &PackageName) -> Option<Provided> {
        self.known.provided(package)
    }

    fn content(&self, origin: &Origin) -> Option<Sha256Digest> {
        self.known.content(origin)
    }

    fn file_digest(&self, path: &Path) -> Option<Sha256Digest> {
        self.known.file_digest(path)
    }

    fn is_source_of(&self, package: &PackageName, path: &Path) -> bool {
        self.known.is_source_of(package, path)
    }
}
