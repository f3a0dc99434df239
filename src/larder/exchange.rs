//! Trading packages with a library that another tool fills: take from the store what it has before that tool runs,
//! give to the store what the tool has built, or put a library together from a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use larder_ops::digest::Sha256Digest;
use larder_ops::fs::write_atomically;
use larder_ops::key::{PackageKey, Reference};
use larder_ops::library::{Library, Record, has_package};
use larder_ops::link::{LinkMode, Linker};
use larder_ops::op::Origin;
use larder_ops::package::{Description, PackageName};
use larder_ops::store::{Configs, OnExisting, Sidecar, Store, StoreError};
use larder_ops::toolchain::Provided;

use super::{Error, Known, Larder, Request};
use crate::lockfile::Lockfile;
use crate::plan::{Action, Knowledge, Plan, Vertex};

/// What of a lockfile the store had, and what it lacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Packages that it had.
    pub hits: usize,
    /// Packages that it lacked.
    pub misses: usize,
}

/// A library's content: package to place in the store.
pub type Manifest = BTreeMap<PackageName, Reference>;

/// The manifest that [`Larder::ingest`] leaves in a library.
pub const STORE_MANIFEST: &str = "store-manifest.json";

impl Larder {
    /// Links into `library` what the store has of a lockfile, for another tool to install the rest.
    ///
    /// Packages that the library has already are left alone, whoever put them there, and so is what `reference`, a
    /// library that stays in use beside it, has under the same key.
    pub fn populate(&self, lockfile: &Lockfile, library: &Path, reference: Option<&Path>) -> Result<Found, Error> {
        let store = self.store();
        let mut library = Library::open(library, store.platform())?;
        let elsewhere =
            reference.map(|reference| Record::read(reference, store.platform())).transpose()?.unwrap_or_default();
        let plan = self.plan_with(lockfile, &Request::new(library.root()), &store, library.record())?;
        let linker = Linker::new(self.config.link);
        let (mut found, mut staged) = (Found::default(), Vec::new());
        for vertex in plan.vertices().filter(|vertex| vertex.action != Action::Provided) {
            let package = &vertex.spec.package;
            if has_package(library.root(), package) {
                continue;
            }
            let reference = vertex.key.as_ref().map(|key| key.reference());
            if reference.is_some() && elsewhere.get(package) == reference {
                continue;
            }
            match reference.and_then(|reference| Some((reference, store.lookup(package, reference)?))) {
                Some((reference, tree)) => {
                    store.touch(package, reference);
                    staged.push(library.stage(package, reference, &tree, &linker)?);
                    found.hits += 1;
                }
                None => found.misses += 1,
            }
        }
        library.commit(&staged, &BTreeSet::new())?;
        Ok(found)
    }

    /// Gives the store what another tool has installed into `library` for a lockfile, and writes what the library
    /// holds to `store-manifest.json` in it. The library's own trees are copied, not moved.
    ///
    /// A package whose version is not the lockfile's is not taken. What `reference` has under the same key is in
    /// use from there and not taken again; what it has besides is carried over into the manifest.
    pub fn ingest(&self, lockfile: &Lockfile, library: &Path, reference: Option<&Path>) -> Result<Manifest, Error> {
        let store = self.store();
        let record = Record::read(library, store.platform())?;
        let elsewhere =
            reference.map(|reference| Record::read(reference, store.platform())).transpose()?.unwrap_or_default();
        let plan = {
            let known = Installed { known: self.known(&store, &record, library), library };
            self.plan_from(lockfile, &Request::new(library), &known)?
        };
        let mut manifest: Manifest = elsewhere
            .packages()
            .into_iter()
            .filter(|package| !plan.ids.contains_key(*package))
            .filter_map(|package| Some((package.clone(), elsewhere.get(package)?)))
            .collect();
        for vertex in plan.vertices().filter(|vertex| !matches!(vertex.spec.origin, Origin::Provided)) {
            let package = &vertex.spec.package;
            let Some(key) = &vertex.key else { continue };
            if elsewhere.get(package) == Some(key.reference()) {
                manifest.insert(package.clone(), key.reference());
            } else if installed(library, vertex).is_some() {
                take(&store, &plan, vertex, key, library)?;
                manifest.insert(package.clone(), key.reference());
            }
        }
        let json = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::from)?;
        write_atomically(&library.join(STORE_MANIFEST), &json)?;
        Ok(manifest)
    }

    /// Makes `library` hold exactly what `manifest` says, as far as the store has it; returns what it lacks.
    pub fn assemble(&self, manifest: &Manifest, library: &Path) -> Result<Vec<PackageName>, Error> {
        let store = self.store();
        let mut library = Library::open(library, store.platform())?;
        let linker = Linker::new(self.config.link);
        let (mut missing, mut staged) = (Vec::new(), Vec::new());
        for (package, reference) in manifest.iter().filter(|(package, reference)| !library.holds(package, **reference))
        {
            match store.lookup(package, *reference) {
                Some(tree) => {
                    store.touch(package, *reference);
                    staged.push(library.stage(package, *reference, &tree, &linker)?);
                }
                None => missing.push(package.clone()),
            }
        }
        let ours = library.record().packages();
        let remove = ours.into_iter().filter(|package| !manifest.contains_key(*package)).cloned().collect();
        library.commit(&staged, &remove)?;
        Ok(missing)
    }
}

/// Copies an installed package into the store, unless it is there already.
fn take(store: &Store, plan: &Plan, vertex: &Vertex, key: &PackageKey, library: &Path) -> Result<(), Error> {
    let package = &vertex.spec.package;
    let _lock = store.lock_source(key.reference().source)?;
    if store.lookup(package, key.reference()).is_some() {
        store.touch(package, key.reference());
        return Ok(());
    }
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

    fn has(&self, package: &PackageName, reference: Reference) -> bool {
        self.known.has(package, reference)
    }

    fn in_library(&self, package: &PackageName) -> Option<Reference> {
        self.known.in_library(package)
    }

    fn builds(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, Sidecar)> {
        self.known.builds(package, source)
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
