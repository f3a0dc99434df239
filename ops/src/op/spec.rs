//! What is to be done for one package, and what came of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Sha256Digest;
use crate::key::ConfigMap;
use crate::package::PackageName;
use crate::recipe::Recipe;

/// What is to be done for one package.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The package.
    pub package: PackageName,
    /// Its version.
    pub version: String,
    /// Why it is wanted.
    pub standing: Standing,
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
    pub dependencies: Arc<[PackageName]>,
    /// What goes into its DESCRIPTION.
    pub metadata: Arc<BTreeMap<String, String>>,
    /// Further arguments of `R CMD INSTALL`.
    pub install_args: Vec<String>,
    /// Whether to build it although the store has it.
    pub is_rebuilt: bool,
    /// What building it is expected to cost, in milliseconds.
    pub weight_ms: u64,
    /// How much memory building it is expected to need at a time, in MiB.
    pub memory_mib: u32,
}

/// Why a package is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The lockfile has it.
    Locked,
    /// It is not in the lockfile, but in the reference library, where larder put it. That it cannot be had is no failure.
    Extra,
    /// As [`Standing::Extra`], but somebody else put it there: nothing but its installed files is known.
    Foreign,
}

/// Where a package comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// From nowhere: there is only what was built of it.
    Nowhere,
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

/// A vertex that came to its end.
#[derive(Debug)]
pub struct Done {
    /// The package.
    pub package: PackageName,
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
    /// A tier had it.
    Brought {
        /// Which one.
        from: String,
    },
    /// The store had it, and the library has it too, but not as it was stored.
    Restored,
    /// The reference library had it, and the store no longer.
    InReference,
    /// The store had a build against other versions of what it links to, but with the same headers and libraries.
    InterfaceUnchanged,
    /// The source was built before, but with something else.
    Recompiled {
        /// What differs.
        because: String,
    },
    /// It was not known before.
    Ingested,
    /// It is not in the lockfile, and cannot be had as it would have to be now.
    Stale {
        /// Why.
        because: String,
        /// The log of the build that failed, if there was one.
        log: Option<PathBuf>,
    },
}
