//! Entries on the way from one store to another: a closure as one stream, taken in whole or not at all.
//!
//! ```text
//! larder-export.json        platform, and for each entry its place and the digests of manifest and sidecar
//! {package}.{n}.json        the sidecar of the n-th entry
//! {package}.{n}.files       its manifest
//! {package}.{n}/{path}      its files, in the manifest's order
//! ```
//!
//! A tar in zstd, in exactly this order and with nothing else in it. What an import writes follows from the manifest,
//! not from the names in the tar, which only have to agree; so there is no path to escape by. Folders and links are in
//! the manifest alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use super::{Depth, Store, StoreError};
use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;

mod export;
mod import;
#[cfg(test)]
mod tests;

pub use export::export;
pub(crate) use export::{Packed, pack, write};
pub use import::import;
pub(crate) use import::import_one;

const FORMAT: &str = "larder-export 1";
const INDEX: &str = "larder-export.json";

/// What comes first in the stream.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    format: String,
    platform: String,
    /// What the platform stands for, in lines.
    description: Vec<String>,
    entries: Vec<Listed>,
}

/// One entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    package: PackageName,
    reference: Reference,
    /// The digest of the manifest.
    tree: Sha256Digest,
    /// The digest of the sidecar's bytes.
    sidecar: Sha256Digest,
}

impl Listed {
    /// Returns whose entry it is.
    pub(crate) fn package(&self) -> &PackageName {
        &self.package
    }

    /// Returns its place.
    pub(crate) fn reference(&self) -> Reference {
        self.reference
    }

    fn member(&self, n: usize) -> String {
        format!("{}.{n}", self.package)
    }
}

/// What was put into a stream, or taken out of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Entries.
    pub n_entries: usize,
    /// Those of them that the store had already.
    pub n_present: usize,
    /// Bytes in their files.
    pub bytes: u64,
}

/// Why nothing, or not all, was exported. What was written so far is no export, and no import takes it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant and field is")]
pub enum ExportError {
    #[error("not in the store for this platform: {}", named(.0))]
    Missing(Vec<PackageName>),
    #[error("there is nothing to export: larder has put no package there")]
    Nothing,
    #[error("`{package}` cannot be exported: {why}; `solve store verify --repair` sets it aside")]
    Broken { package: PackageName, why: String },
    #[error("could not write the export: {0}")]
    Write(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why nothing was imported. Nothing of it is in the store, unless it is the store that failed: then what was
/// published before is there whole.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant and field is")]
pub enum ImportError {
    #[error("this is not what `solve store export` writes: {0}")]
    NotAnExport(String),
    #[error("the export was made for `{found}`, and this machine is `{here}`")]
    OtherPlatform { found: String, here: String },
    #[error("the export is damaged or not complete: {0}")]
    Damaged(io::Error),
    #[error("the export is refused because of `{member}`: {why}")]
    Refused { member: String, why: String },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn named(packages: &[PackageName]) -> String {
    packages.iter().map(PackageName::as_str).collect::<Vec<_>>().join(", ")
}

impl Store {
    /// Returns these entries and all that they were built against or need at run time, as their sidecars tell. All of
    /// them are leased.
    ///
    /// `pinned` says which entry of a package is meant, where that is known; else it is the one that the build saw.
    /// `is_provided` says what R brings along.
    pub fn closure(
        &self,
        wanted: impl IntoIterator<Item = (PackageName, Reference)>,
        pinned: &BTreeMap<PackageName, Reference>,
        is_provided: impl Fn(&PackageName) -> bool,
    ) -> Result<BTreeSet<(PackageName, Reference)>, ExportError> {
        let (mut closure, mut missing) = (BTreeSet::new(), BTreeSet::new());
        let mut open: Vec<_> = wanted.into_iter().collect();
        while let Some((package, reference)) = open.pop() {
            self.hold([(&package, reference.source)])?;
            let Some(sidecar) = self.lookup(&package, reference).and_then(|_| self.sidecar(&package, reference)) else {
                missing.insert(package);
                continue;
            };
            let needs = sidecar.linked.iter().chain(&sidecar.dependencies);
            let is_new = closure.insert((package, reference));
            for (name, against) in needs.filter(|_| is_new) {
                let reference = pinned.get(name).copied().unwrap_or(against.reference);
                if self.lookup(name, reference).is_some() || !is_provided(name) {
                    open.push((name.clone(), reference));
                }
            }
        }
        if missing.is_empty() { Ok(closure) } else { Err(ExportError::Missing(missing.into_iter().collect())) }
    }

    /// Returns the entry of a package that was used last, whatever its version.
    pub fn last_used(&self, package: &PackageName) -> io::Result<Option<Reference>> {
        let mut newest = None;
        for path in super::verify::items(&self.root.join(&self.platform).join(package))? {
            let Some(source) = path.file_name().and_then(|name| name.to_str()?.parse().ok()) else { continue };
            let good = self
                .sidecars(package, source)
                .into_iter()
                .map(|(config, used, _)| (used, Reference { source, config }));
            newest = newest.max(good.filter(|(_, found)| self.lookup(package, *found).is_some()).max());
        }
        Ok(newest.map(|(_, reference)| reference))
    }
}
