//! How much of what a store holds.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::listing::{Listing, sorted};
use super::size::{self, Size};
use crate::package::PackageName;

/// How much a store holds. Bytes are the files' lengths; files that entries share count once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The packages, by platform.
    pub platforms: BTreeMap<String, BTreeMap<PackageName, PackageStats>>,
    /// Downloads, whole or under way.
    pub blobs: Size,
    /// Output of builds.
    pub logs: Size,
    /// What builds work on now, or dead ones left.
    pub staging: Size,
    /// Bad entries that were set aside.
    pub aside: Size,
}

/// How much a store holds of one package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackageStats {
    /// Entries and their bytes.
    pub size: Size,
    /// When one of them was last used.
    pub used: SystemTime,
}

impl Stats {
    /// Counts what the store at `root` holds, for all platforms. No tree is looked into, see `listing`.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut stats = Self {
            blobs: size::of(&root.join("blobs")),
            logs: size::of(&root.join("logs")),
            staging: size::of(&root.join(".staging")),
            aside: Size { n: sorted(&root.join(".aside"))?.len(), ..size::of(&root.join(".aside")) },
            ..Self::default()
        };
        let mut groups = HashSet::new();
        for entry in Listing::read(root, None)?.entries {
            let group = (entry.platform.clone(), entry.reference.source, entry.group);
            let own = if groups.insert(group) { entry.bytes } else { 0 };
            let packages = stats.platforms.entry(entry.platform).or_default();
            let package = packages
                .entry(entry.package)
                .or_insert(PackageStats { size: Size::default(), used: SystemTime::UNIX_EPOCH });
            package.size.add(own);
            package.used = package.used.max(entry.used);
        }
        Ok(stats)
    }

    /// Returns the number of all entries and their bytes.
    pub fn entries(&self) -> Size {
        let packages = self.platforms.values().flat_map(BTreeMap::values);
        packages.fold(Size::default(), |sum, package| Size {
            n: sum.n + package.size.n,
            bytes: sum.bytes + package.size.bytes,
        })
    }

    /// Returns the bytes of everything.
    pub fn bytes(&self) -> u64 {
        let rest = [self.blobs, self.logs, self.staging, self.aside];
        rest.iter().fold(self.entries().bytes, |sum, size| sum + size.bytes)
    }
}
