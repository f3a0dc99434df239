//! How a package's key is made, once it is known what the package links to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::digest::Sha256Digest;
use crate::key::{ConfigMap, IMPORTS, PackageKey};
use crate::package::PackageName;
use crate::toolchain::Provided;

/// All that a package's key is made of, but for the keys of other packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// The hash of its source.
    pub source: Sha256Digest,
    /// The packages that it links to.
    pub linking_to: Vec<PackageName>,
    /// The packages whose change means a rebuild besides (`--rebuild-when imports`); else empty.
    pub imports: Vec<PackageName>,
    /// The `@`-entries.
    pub special: ConfigMap,
}

impl Recipe {
    /// Returns the packages whose keys are needed, each once.
    pub fn inputs(&self) -> BTreeSet<&PackageName> {
        self.linking_to.iter().chain(&self.imports).collect()
    }

    /// Returns the key, given the keys of at least all [`inputs`](Self::inputs).
    pub fn key(&self, keys: &BTreeMap<PackageName, Arc<PackageKey>>) -> PackageKey {
        let mut special = self.special.clone();
        if !self.imports.is_empty() {
            // Each of these keys is made in the same way, so that the digest covers the whole closure.
            let digests: Vec<_> =
                self.imports.iter().flat_map(|name| [name.to_string(), keys[name].digest().to_string()]).collect();
            special.insert(IMPORTS, Sha256Digest::of_fields(digests.iter().map(String::as_str)));
        }
        let linked = self.linking_to.iter().map(|name| Arc::clone(&keys[name])).collect();
        PackageKey::new(self.package.clone(), self.version.clone(), self.source, linked, &special)
    }
}

/// Returns the key that stands for a package of R's own library.
pub fn provided_key(package: &PackageName, provided: &Provided) -> PackageKey {
    let source = provided.key(package);
    PackageKey::new(package.clone(), provided.version.clone(), source, Vec::new(), &ConfigMap::default())
}
