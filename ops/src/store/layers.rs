//! Stores below a store: bases that are only read, such as one in the image of a container.
//!
//! What a base has is used where it lies. Nothing is ever written to it: no lease, no time of last use, no repair; so
//! nobody may evict from it while it is somebody's base. What is broken there counts as missing, and is made anew above.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{BrokenEntry, Configs, Depth, Sidecar, Store};
use crate::digest::Sha256Digest;
use crate::fault::fs;
use crate::key::Reference;
use crate::package::PackageName;

impl Store {
    /// Puts this store over others, which are asked in this order for what it lacks, and never written. They are on the
    /// same machine, so [`Store::with_libraries`] comes before.
    #[must_use]
    pub fn over<P: Into<PathBuf>>(mut self, bases: impl IntoIterator<Item = P>) -> Self {
        let base = |root: P| Self {
            is_base: true,
            libraries: self.libraries.clone(),
            ..Self::open(root, self.platform.clone(), self.description.clone())
        };
        self.bases = bases.into_iter().map(base).collect();
        self
    }

    /// Returns this store and those below it.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.bases)
    }

    /// Says whether a path is one of this store or of one below it.
    pub fn owns(&self, path: &Path) -> bool {
        self.layers().any(|store| path.starts_with(&store.root))
    }

    /// Returns the tree of an entry if the store has it, or one below: one look at the sidecar, one at the tree.
    pub fn lookup(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        self.layers().find_map(|store| store.lookup_here(package, reference))
    }

    /// Says whether the store has an entry, or one below, by its sidecar alone, which comes last and goes first. Whoever
    /// takes the entry looks at its tree, too.
    pub fn has(&self, package: &PackageName, reference: Reference) -> bool {
        self.ahead.has(package, reference)
            || self.layers().any(|store| store.sidecar_path(package, reference).is_file())
    }

    /// Returns where an entry's tree is, here or below, or here would be.
    pub(super) fn place(&self, package: &PackageName, reference: Reference) -> PathBuf {
        self.lookup(package, reference).unwrap_or_else(|| self.tree(package, reference))
    }

    /// Returns the sidecar of one entry.
    pub fn sidecar(&self, package: &PackageName, reference: Reference) -> Option<Sidecar> {
        Sidecar::of_tree(&self.place(package, reference))
    }

    /// Looks at an entry before it is used. `None` if there is none, or none that this machine can load; `Err` if this
    /// store has one that is broken.
    pub fn inspect(
        &self,
        package: &PackageName,
        reference: Reference,
        depth: Depth,
    ) -> Result<Option<PathBuf>, BrokenEntry> {
        if let Some(tree) = self.inspect_here(package, reference, depth)? {
            return Ok(Some(tree));
        }
        let below = self.bases.iter().find_map(|base| {
            let found = base.inspect_here(package, reference, depth);
            found.inspect_err(|broken| tracing::warn!("{package}, in a base store, is passed over: {broken}")).ok()?
        });
        Ok(below)
    }

    /// Returns what is known of a source. A file that is missing or cannot be read as such is made good from the
    /// sidecars.
    pub fn configs(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let mut known = self.layers().filter_map(|store| store.configs_here(package, source));
        let first = known.next()?;
        Some(known.fold(first, |mut all, more| {
            for (config, map) in more.configs {
                all.configs.entry(config).or_insert(map);
            }
            all
        }))
    }

    /// Returns the sidecars of a source's entries with the config hash and the time of last use, last used first.
    pub fn sidecars(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, SystemTime, Sidecar)> {
        let mut seen = HashSet::new();
        let all = self.layers().flat_map(|store| store.sidecars_here(package, source));
        let mut all: Vec<_> = all.filter(|(config, ..)| seen.insert(*config)).collect();
        all.sort_by_key(|(config, used, _)| (std::cmp::Reverse(*used), *config));
        all
    }

    /// Returns the packages that this platform has a directory for, here or below: all that there may be entries of.
    pub fn packages(&self) -> io::Result<HashSet<PackageName>> {
        let mut packages = HashSet::new();
        for store in self.layers() {
            let items = match fs::read_dir(store.root.join(&store.platform)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                items => items?,
            };
            for item in items {
                packages.extend(item?.file_name().to_str().and_then(|name| PackageName::parse(name).ok()));
            }
        }
        Ok(packages)
    }

    /// Returns how long the build of a package took that was used last, whatever its source was.
    pub fn last_build(&self, package: &PackageName) -> Option<Duration> {
        let sources = |store: &Self| {
            let sources = fs::read_dir(store.root.join(&store.platform).join(package)).into_iter().flatten().flatten();
            sources.filter_map(|source| source.file_name().to_str()?.parse().ok()).collect::<Vec<_>>()
        };
        let sources: HashSet<Sha256Digest> = self.layers().flat_map(sources).collect();
        let sidecars = sources.into_iter().flat_map(|source| self.sidecars(package, source));
        let built = sidecars.filter(|(_, _, sidecar)| sidecar.build_ms > 0);
        let (.., sidecar) = built.max_by_key(|(config, used, _)| (*used, *config))?;
        Some(Duration::from_millis(sidecar.build_ms))
    }
}
