//! A library that is in use, such as that of a running worker, and from which another one is made. It is only read.

use std::path::{Path, PathBuf};

use crate::fault::fs;

use super::place::lock_shared;
use super::{LibraryError, Record, has_package};
use crate::key::{PackageKey, Reference};
use crate::package::{Description, PackageName};

/// A library that others are made from.
#[derive(Debug)]
pub struct ReferenceLibrary {
    root: PathBuf,
    record: Record,
    /// Nobody changes it while this is open; a generation never changes.
    _lock: Option<fs::File>,
}

impl ReferenceLibrary {
    /// Reads the record of the library at `dir` as `platform` sees it, and keeps larder from changing the library. Does
    /// not wait, and leaves nothing there.
    pub fn open(dir: &Path, platform: &str) -> Result<Self, LibraryError> {
        let lock = lock_shared(&fs::canonicalize(dir)?)?;
        Ok(Self { _lock: lock, ..Self::look_at(dir, platform)? })
    }

    /// Does the same as [`ReferenceLibrary::open`], but what it says may be outdated before it is heard.
    pub fn look_at(dir: &Path, platform: &str) -> Result<Self, LibraryError> {
        // Of a library of generations the one that it is now: others may come while this one is read.
        let root = fs::canonicalize(dir)?;
        Ok(Self { record: Record::read(&root, platform)?, root, _lock: None })
    }

    /// Returns its directory, without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns what larder put there.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Takes packages that somebody else put there for these builds, which nothing else can be.
    #[must_use]
    pub fn claiming(mut self, foreign: impl IntoIterator<Item = (PackageName, Reference)>) -> Self {
        self.record = self.record.with(foreign);
        self
    }

    /// Returns where it has exactly this, if it has.
    pub fn tree(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        self.record.holds(&self.root, package, reference).then(|| self.root.join(package))
    }

    /// Returns what a package there says of itself, if there is one.
    pub fn description(&self, package: &PackageName) -> Option<Description> {
        if !has_package(&self.root, package) {
            return None;
        }
        Some(Description::parse(&fs::read(self.root.join(package).join("DESCRIPTION")).ok()?))
    }

    /// Returns the version of a package there.
    pub fn version(&self, package: &PackageName) -> Option<String> {
        Some(self.description(package)?.get("Version")?.to_owned())
    }

    /// Says which of the packages that `key` links to are not those of this library: `hdr 1.0 -> 1.1`. What is only
    /// another build, since something else changed, is named if there is nothing else to name.
    pub fn difference(&self, key: &PackageKey) -> String {
        let (mut changed, mut rebuilt) = (Vec::new(), Vec::new());
        for (name, linked) in key.linked_closure() {
            match (self.record.was_put(name), self.version(name)) {
                (Some(before), _) if before == linked.reference() => {}
                (_, Some(version)) if version != linked.version() => {
                    changed.push(format!("{name} {version} -> {}", linked.version()));
                }
                (Some(_), _) => rebuilt.push(format!("another build of {name} {}", linked.version())),
                // R's own, as it was.
                (None, None) => {}
                (None, Some(version)) => changed.push(format!("{name} {version}, which was put there by hand")),
            }
        }
        if changed.is_empty() { rebuilt.join(", ") } else { changed.join(", ") }
    }
}
