//! What a plan may know of this machine: what the store has, the library, R, and the caches that were asked.

use std::collections::HashSet;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use larder_ops::blobs::Blobs;
use larder_ops::digest::Sha256Digest;
use larder_ops::key::{PackageKey, Reference};
use larder_ops::library::{self, Record, ReferenceLibrary};
use larder_ops::op::Origin;
use larder_ops::package::{Description, PackageName};
use larder_ops::source;
use larder_ops::store::{Configs, Depth, Sidecar, Store, Visit};
use larder_ops::tiers::Tiers;
use larder_ops::toolchain::{Provided, Toolchain};

use super::reference::Beside;
use crate::plan::Knowledge;

/// After so many questions that a store has no answer to, the names of its packages are read, once: one look at it
/// instead of three for each package that it never had. A plan of few packages never pays for a store of many.
const MISSES_MAX: u32 = 64;

/// The store, as far as one plan asks it. What comes into it while the plan is made may be missed, as it may be by a
/// look that came too early; whoever builds looks again under the source's lock.
pub(super) struct Stock<'a> {
    store: &'a Store,
    n_misses: AtomicU32,
    /// The packages that it has something of, once that is known.
    packages: OnceLock<HashSet<PackageName>>,
}

impl<'a> Stock<'a> {
    pub(super) fn of(store: &'a Store) -> Self {
        Self { store, n_misses: AtomicU32::new(0), packages: OnceLock::new() }
    }

    /// Asks the store about a package, unless it is known to have nothing of it.
    fn ask<T>(&self, package: &PackageName, question: impl FnOnce(&Store) -> Option<T>) -> Option<T> {
        if self.packages.get().is_some_and(|packages| !packages.contains(package)) {
            return None;
        }
        let answer = question(self.store);
        if answer.is_none()
            && self.packages.get().is_none()
            && self.n_misses.fetch_add(1, Ordering::Relaxed) + 1 == MISSES_MAX
            && let Ok(packages) = self.store.packages()
        {
            // Only one comes to this number.
            let _ = self.packages.set(packages);
        }
        answer
    }
}

/// What a plan may know, from where it is kept.
pub(super) struct Known<'a> {
    pub(super) store: &'a Store,
    /// By which the run that plans is in the store.
    pub(super) visit: Option<&'a Visit<'a>>,
    pub(super) record: &'a Record,
    pub(super) library: &'a Path,
    pub(super) beside: Option<&'a Beside>,
    pub(super) tiers: Option<&'a Tiers>,
    pub(super) depth: Depth,
    pub(super) toolchain: &'a Toolchain,
    pub(super) blobs: &'a Blobs,
    pub(super) stock: Stock<'a>,
}

impl Known<'_> {
    fn reference(&self) -> Option<&ReferenceLibrary> {
        self.beside.map(|beside| &*beside.library)
    }

    /// Returns what an installed package made from this source says that it links to. The store may have forgotten it.
    fn installed_configs(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let libraries =
            [Some((self.library, self.record)), self.reference().map(|other| (other.root(), other.record()))];
        let mut having = libraries.into_iter().flatten().filter(|(_, record)| record.source(package) == Some(source));
        let bytes = having.find_map(|(dir, _)| fs_err::read(dir.join(package).join("DESCRIPTION")).ok())?;
        Some(Configs { linkingto: Description::parse(&bytes).packages("LinkingTo"), ..Configs::default() })
    }
}

impl Knowledge for Known<'_> {
    fn configs(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let elsewhere = || self.tiers?.configs(self.store.platform(), package, source);
        let stored = || self.stock.ask(package, |store| store.configs(package, source));
        stored().or_else(|| self.installed_configs(package, source)).or_else(elsewhere)
    }

    fn in_reference(&self, package: &PackageName) -> Option<Reference> {
        let (library, is_extra) =
            (self.reference()?, |beside: &Beside| beside.extras.iter().any(|extra| extra.package == *package));
        // Who wants every byte looked at has built again what nobody can vouch for any more.
        let may_be_taken = self.depth == Depth::Glance || self.beside.is_some_and(is_extra);
        let reference = library.record().get(package).filter(|_| may_be_taken)?;
        library.tree(package, reference).map(|_| reference)
    }

    fn differs_from_reference(&self, key: &PackageKey) -> String {
        self.reference().map(|reference| reference.difference(key)).unwrap_or_default()
    }

    fn has(&self, package: &PackageName, reference: Reference) -> bool {
        let visit = self.visit.filter(|_| self.depth == Depth::Glance);
        let has = |store: &Store| match visit {
            Some(visit) => visit.has(package, reference),
            None => store.has(package, reference),
        };
        self.stock.ask(package, |store| has(store).then_some(())).is_some()
    }

    fn elsewhere(&self, package: &PackageName, reference: Reference) -> Option<String> {
        self.tiers?.holder(self.store.platform(), package, reference).map(|(address, _)| address.to_string())
    }

    fn in_library(&self, package: &PackageName) -> Option<Reference> {
        self.record.get(package).filter(|_| library::has_package(self.library, package))
    }

    fn builds(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, Sidecar)> {
        let sidecars = self.stock.ask(package, |store| Some(store.sidecars(package, source))).unwrap_or_default();
        sidecars.into_iter().map(|(config, _, sidecar)| (config, sidecar)).collect()
    }

    fn last_build(&self, package: &PackageName) -> Option<Duration> {
        self.stock.ask(package, |store| store.last_build(package))
    }

    fn provided(&self, package: &PackageName) -> Option<Provided> {
        self.toolchain.provided(package)
    }

    fn content(&self, origin: &Origin) -> Option<Sha256Digest> {
        match origin {
            Origin::Archive { sha256: Some(digest), .. } => Some(*digest),
            Origin::Archive { identity, .. } => Some(self.blobs.first_seen(identity).ok()??.sha256),
            Origin::Directory(dir) if dir.join("DESCRIPTION").is_file() => source::digest(dir).ok(),
            Origin::Directory(_) | Origin::Provided | Origin::Nowhere => None,
        }
    }

    fn file_digest(&self, path: &Path) -> Option<Sha256Digest> {
        Sha256Digest::of_reader(fs_err::File::open(path).ok()?).ok()
    }

    fn is_source_of(&self, package: &PackageName, path: &Path) -> bool {
        let description = fs_err::read(path.join("DESCRIPTION")).map(|bytes| Description::parse(&bytes));
        description.is_ok_and(|description| description.get("Package") == Some(package.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_many_misses_a_store_is_asked_only_about_packages_that_it_has_something_of() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(dir.path().join("some-platform/demo")).unwrap();
        let store = Store::open(dir.path(), "some-platform", "");
        let stock = Stock::of(&store);
        let is_asked = |name: &str| {
            let mut is_asked = false;
            let answer = stock.ask(&PackageName::parse(name).unwrap(), |_| {
                is_asked = true;
                None::<()>
            });
            assert_eq!(answer, None);
            is_asked
        };
        for n in 0..MISSES_MAX {
            assert!(is_asked(&format!("absent{n}")));
        }
        assert!(is_asked("demo"));
        assert!(!is_asked("another"));
    }
}
