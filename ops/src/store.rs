//! The content-addressed store: where every build's result is kept, once, for every later run.
//!
//! ```text
//! {root}/{platform}/platform.json                                       what the platform's digest stands for
//! {root}/{platform}/{package}/{source_hash}/configs.json                the known configurations of a source
//! {root}/{platform}/{package}/{source_hash}/{config_hash}/              the tree, read-only
//! {root}/{platform}/{package}/{source_hash}/{config_hash}.files         its manifest: what the tree consists of
//! {root}/{platform}/{package}/{source_hash}/{config_hash}.json          its sidecar; the mtime is "last used"
//! {root}/.staging/{uuid}/  .locks/  .keys/  .probes/  .aside/  blobs/  logs/
//! ```
//!
//! An entry exists when tree *and* sidecar exist, and the sidecar is written last, after all else was flushed to
//! the disk. So a process that dies at any instant leaves an entry or none, and what it leaves besides is swept by
//! the next build. Only [`Store::publish`] and [`transfer::import`] add a name below a platform.
//!
//! ```
//! use std::time::Duration;
//!
//! use larder_ops::digest::Sha256Digest;
//! use larder_ops::key::{ConfigMap, PackageKey};
//! use larder_ops::package::PackageName;
//! use larder_ops::store::{OnExisting, Sidecar, Store};
//!
//! # let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path(), "4.2-x86_64-pc-linux-gnu", "R 4.2.2, gcc 12");
//! let name = PackageName::parse("R6")?;
//! let key = PackageKey::new(name, "2.5.1".to_owned(), Sha256Digest::of(b"source"), vec![], &ConfigMap::default());
//! assert_eq!(store.lookup(key.package(), key.reference()), None);
//!
//! // Built beside, then published in one step, under a lock that other processes wait for.
//! let _lock = store.lock_source(key.reference().source)?;
//! let staging = store.stage()?;
//! let built = staging.path().join("R6");
//! fs_err::create_dir(&built)?;
//! fs_err::write(built.join("DESCRIPTION"), "Package: R6\nBuilt: R 4.2.2\n")?;
//! let tree = store.publish(&built, &key, &Sidecar::new(&key, Duration::from_secs(1)), OnExisting::Keep)?;
//! assert_eq!(store.lookup(key.package(), key.reference()), Some(tree));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::fault::fs;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::facets;
use crate::fs::{join, make_read_only, read_small, remove_all};
use crate::key::{ConfigMap, PackageKey, Reference};
use crate::link::{LinkMode, Linker};
use crate::lock::{Attempt, Lock};
use crate::package::PackageName;
use crate::sonames::SystemLibraries;
use ahead::Ahead;
use lease::{Held, Lease};
use manifest::Manifest;
use staging::Staging;

mod ahead;
mod entry;
mod evict;
mod flush;
mod keys;
mod layers;
mod lease;
mod listing;
pub mod manifest;
mod platform;
mod roots;
pub(crate) mod scan;
mod sidecar;
mod size;
mod staging;
mod stats;
mod sweeper;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfer;
pub mod verify;
mod writable;

pub use ahead::{LookAhead, Visit};
pub use entry::{BrokenEntry, Depth, Problem};
pub use evict::{EvictError, Evicted, Policy, Summary, What, evict, remove};
pub use keys::Lead;
pub use lease::Tenure;
pub use listing::{Listed, list};
pub use platform::platforms;
pub use roots::RootError;
pub use sidecar::SidecarError;
pub use size::Size;
pub use staging::StagingDir;
pub use stats::{PackageStats, Stats};
pub use sweeper::Sweeper;

/// A store as one platform sees it. Cheap to open; nothing is created before something is stored.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    platform: String,
    description: String,
    staging: Mutex<Option<Staging>>,
    lease: Lease,
    ahead: Ahead,
    flushes: flush::Flushes,
    /// Whether it is below another one, and so only read.
    is_base: bool,
    bases: Vec<Store>,
    /// What compiled code finds here; `None`: nobody has said, so all that is stored counts as usable.
    libraries: Option<SystemLibraries>,
}

/// What the store knows of a source.
const CONFIGS: &str = "configs.json";
/// What the store knows of a platform.
const PLATFORM: &str = "platform.json";

/// The known configurations of one source. Another implementation reads and writes this file: its field names stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configs {
    /// Says whether there was something to compile.
    #[serde(default)]
    pub source_compiled: bool,
    /// The packages that the source links to, by its DESCRIPTION.
    #[serde(default)]
    pub linkingto: Vec<PackageName>,
    /// The configurations that were built, by config hash.
    #[serde(default)]
    pub configs: BTreeMap<Sha256Digest, ConfigMap>,
}

/// What is recorded beside a tree: how it came to be. Another implementation may have written `created_at` alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sidecar {
    /// When it was stored, RFC 3339.
    pub created_at: String,
    /// The package.
    #[serde(default)]
    pub package: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// Says whether there was something to compile.
    #[serde(default)]
    pub source_compiled: bool,
    /// The packages that the source links to, by its DESCRIPTION.
    #[serde(default)]
    pub linkingto: Vec<PackageName>,
    /// What it was built with.
    #[serde(default)]
    pub config: ConfigMap,
    /// All packages that it links to, through any number of steps.
    #[serde(default)]
    pub linked: BTreeMap<PackageName, BuiltAgainst>,
    /// The other packages that its build could see.
    #[serde(default)]
    pub dependencies: BTreeMap<PackageName, BuiltAgainst>,
    /// How long the build took, in milliseconds: the weight of the next one.
    #[serde(default)]
    pub build_ms: u64,
    /// The most memory that was seen in use at a time during the build, in bytes; `None` if it was too short to be seen.
    #[serde(default)]
    pub peak_bytes: Option<u64>,
    /// The digest of what packages that link to it compile against.
    #[serde(default)]
    pub interface: Option<Sha256Digest>,
    /// The content key: the config hash, but with the interfaces of what it links to in place of their keys.
    #[serde(default)]
    pub content: Option<Sha256Digest>,
    /// The first of the entries that share their files, if this is a later one; it may be gone.
    #[serde(default)]
    pub shares: Option<Sha256Digest>,
    /// The digest of the tree: that of its manifest.
    #[serde(default)]
    pub tree: Option<Sha256Digest>,
    /// The bytes of all files together, where the digest is known.
    #[serde(default)]
    pub size: u64,
    /// How many files there are, where the digest is known.
    #[serde(default)]
    pub n_files: u64,
    /// The system's shared libraries that its compiled code needs.
    #[serde(default)]
    pub sonames: BTreeSet<String>,
    /// Set by whoever writes the file; says that nothing of it was lost.
    #[serde(default)]
    checksum: Option<String>,
}

/// One package that another was built against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltAgainst {
    /// Its version.
    pub version: String,
    /// Its place in the store; for a package of R's own library a digest over version and `Built`.
    pub reference: Reference,
}

impl BuiltAgainst {
    /// Returns how a sidecar mentions the build with this key.
    pub fn new(key: &PackageKey) -> Self {
        Self { version: key.version().to_owned(), reference: key.reference() }
    }
}

/// Why the store could not do something. Whatever it was, nothing half-done is visible.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused; the message has the path.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
    /// A build left no installed package.
    #[error("`{0}` is not an installed package: it has no DESCRIPTION with `Built`")]
    NotAPackage(PathBuf),
}

impl Store {
    /// Opens the store at `root` for packages of `platform`; `description` is the text behind the platform.
    pub fn open(root: impl Into<PathBuf>, platform: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            root: root.into(),
            platform: platform.into(),
            description: description.into(),
            staging: Mutex::new(None),
            lease: Lease::default(),
            ahead: Ahead::default(),
            flushes: flush::Flushes::default(),
            is_base: false,
            bases: Vec::new(),
            libraries: None,
        }
    }

    /// Says what shared libraries this machine has: an entry that needs another one is none here. It stays where it is,
    /// since it is whole, until a build of this machine takes its place.
    #[must_use]
    pub fn with_libraries(mut self, libraries: SystemLibraries) -> Self {
        self.libraries = Some(libraries);
        self
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the platform whose packages this is about.
    pub fn platform(&self) -> &str {
        &self.platform
    }

    /// Returns what the platform stands for.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    /// Returns where a package's tree is, or would be.
    pub fn tree(&self, package: &PackageName, reference: Reference) -> PathBuf {
        let mut tree = self.source_dir(package, reference.source);
        tree.push(reference.config.to_string());
        tree
    }

    fn source_dir(&self, package: &PackageName, source: Sha256Digest) -> PathBuf {
        /// What comes after the package: two digests, slashes and an extension.
        const REST_BYTES: usize = 2 * 64 + 16;
        let names = [self.platform.as_str(), package.as_str()];
        let bytes = self.root.as_os_str().len() + names.iter().map(|name| name.len()).sum::<usize>() + REST_BYTES;
        // Made for every look at the store, so in one piece of memory.
        let mut dir = PathBuf::with_capacity(bytes);
        dir.push(&self.root);
        dir.extend(names);
        dir.push(source.to_string());
        dir
    }

    fn sidecar_path(&self, package: &PackageName, reference: Reference) -> PathBuf {
        let mut path = self.tree(package, reference).into_os_string();
        path.push(".json");
        path.into()
    }

    fn lookup_here(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        let tree = self.tree(package, reference);
        (self.sidecar_path(package, reference).is_file() && join(&tree, "DESCRIPTION").is_file()).then_some(tree)
    }

    fn configs_here(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        self.configs_file(package, source).or_else(|| {
            let sidecars = self.sidecars_here(package, source);
            let (_, _, newest) = sidecars.first()?;
            Some(Configs {
                source_compiled: newest.source_compiled,
                linkingto: newest.linkingto.clone(),
                configs: sidecars.iter().map(|(config, _, sidecar)| (*config, sidecar.config.clone())).collect(),
            })
        })
    }

    fn configs_file(&self, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let mut path = self.source_dir(package, source);
        path.push(CONFIGS);
        serde_json::from_slice(&read_small(&path).ok()?).ok()
    }

    fn sidecars_here(&self, package: &PackageName, source: Sha256Digest) -> Vec<(Sha256Digest, SystemTime, Sidecar)> {
        let items = fs::read_dir(self.source_dir(package, source)).into_iter().flatten().flatten();
        let mut sidecars: Vec<(Sha256Digest, SystemTime, Sidecar)> = items
            .filter_map(|item| {
                let name = item.file_name().into_string().ok()?;
                let config = name.strip_suffix(".json")?.parse().ok()?;
                let sidecar = Sidecar::parse(&read_small(&item.path()).ok()?).ok()?;
                Some((config, item.metadata().ok()?.modified().ok()?, sidecar))
            })
            .collect();
        sidecars.sort_by_key(|(config, used, _)| (std::cmp::Reverse(*used), *config));
        if sidecars.iter().any(|(_, _, sidecar)| sidecar.config.is_empty()) {
            // Either the plain case, or somebody else's sidecar: then configs.json knows.
            let mut known = self.configs_file(package, source).unwrap_or_default().configs;
            for (config, _, sidecar) in &mut sidecars {
                sidecar.config = known.remove(config).unwrap_or_else(|| std::mem::take(&mut sidecar.config));
            }
        }
        sidecars
    }

    /// Notes that an entry is used now. A store that cannot be written is used all the same.
    pub fn touch(&self, package: &PackageName, reference: Reference) {
        let _ = self.note_use(package, reference);
    }

    /// Returns the tree of an entry if the store has it, or one below, as [`Store::lookup`] does, and notes that it is used.
    pub fn lookup_used(&self, package: &PackageName, reference: Reference) -> Option<PathBuf> {
        let here = match self.note_use(package, reference) {
            // Its sidecar is there, then.
            Ok(()) => Some(self.tree(package, reference)).filter(|tree| join(tree, "DESCRIPTION").is_file()),
            Err(Errno::NOENT) => None,
            Err(_) => self.lookup_here(package, reference),
        };
        here.or_else(|| self.bases.iter().find_map(|base| base.lookup_here(package, reference)))
    }

    fn note_use(&self, package: &PackageName, reference: Reference) -> Result<(), Errno> {
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        let path = self.sidecar_path(package, reference);
        let noted = rustix::fs::utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty());
        if let Err(error) = noted
            && error != Errno::NOENT
        {
            tracing::debug!(path = %path.display(), %error, "last use is not recorded");
        }
        noted
    }

    /// Leases sources for as long as this store is open, or the run goes on that this is for: what is there of them from
    /// here on is not evicted. Call it before looking anything up that is to stay, or look in a [`Visit`]. An evictor at
    /// work is waited for.
    pub fn hold<'a>(&self, sources: impl IntoIterator<Item = (&'a PackageName, Sha256Digest)>) -> io::Result<()> {
        self.lease.hold(&self.root, self.held(sources))
    }

    fn held<'a>(
        &self,
        sources: impl IntoIterator<Item = (&'a PackageName, Sha256Digest)>,
    ) -> impl Iterator<Item = Held> {
        let held = |(package, source): (&PackageName, _)| Held::Source {
            platform: self.platform.clone(),
            package: package.clone(),
            source,
        };
        sources.into_iter().map(held)
    }

    /// Begins a run: what it asks to hold stays at least until the returned value is dropped, and may go then, even if
    /// other runs go on.
    pub fn tenure(&self) -> Tenure<'_> {
        self.lease.begin(&self.root)
    }

    /// Leases a download in the store, as [`Store::hold`] does sources.
    pub fn hold_blob(&self, digest: Sha256Digest) -> io::Result<()> {
        self.lease.hold(&self.root, [Held::Blob(digest)])
    }

    /// Registers a library that is about to be linked from this store: what it holds is not evicted while it exists.
    /// A store that cannot be written is used all the same.
    pub fn register(&self, library: &Path) {
        if let Err(error) = roots::register(&self.root, library) {
            tracing::debug!(library = %library.display(), %error, "the library is not registered");
        }
    }

    /// Takes the lock on building a source, if no other process builds it.
    pub fn try_lock_source(&self, source: Sha256Digest) -> io::Result<Attempt> {
        fs::create_dir_all(self.root.join(".locks"))?;
        Lock::attempt(&self.lock_path(source))
    }

    /// Waits until no other process builds this source, and keeps others waiting until the lock is dropped.
    pub fn lock_source(&self, source: Sha256Digest) -> io::Result<Lock> {
        fs::create_dir_all(self.root.join(".locks"))?;
        Lock::wait(&self.lock_path(source))
    }

    fn lock_path(&self, source: Sha256Digest) -> PathBuf {
        self.root.join(".locks").join(format!("{}-{source}.lock", self.platform))
    }

    /// Removes what dead processes left in staging; what a living process works on is locked by it. Cheap where there is
    /// nothing, however much is stored, so every run begins with it.
    pub fn sweep(&self) {
        staging::sweep(&self.root);
    }

    /// Makes an empty directory on the store's file system, removed when it is dropped.
    pub fn stage(&self) -> io::Result<StagingDir> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if staging.is_none() {
            *staging = Some(Staging::open(&self.root)?);
        }
        staging.as_ref().expect("set just above").dir()
    }

    /// Gives up the staging directory, once nothing is in it; the next use makes another.
    pub fn end_staging(&self) {
        *self.staging.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Makes an installed package at `built`, which lies in a [`StagingDir`] of this store, the entry of `key`.
    ///
    /// Afterwards `built` is gone. Losing the race to an equal entry is success, unless `existing` says that the
    /// new tree is wanted instead. The caller holds the source's lock.
    pub fn publish(
        &self,
        built: &Path,
        key: &PackageKey,
        sidecar: &Sidecar,
        existing: OnExisting,
    ) -> Result<PathBuf, StoreError> {
        let description = fs::read(built.join("DESCRIPTION")).unwrap_or_default();
        if !crate::package::Description::parse(&description).is_built() {
            return Err(StoreError::NotAPackage(built.to_owned()));
        }
        let (package, reference) = (key.package(), key.reference());
        if existing == OnExisting::Keep
            && let Ok(Some(tree)) = self.inspect(package, reference, Depth::Glance)
        {
            remove_all(built)?;
            return Ok(tree);
        }
        make_read_only(built)?;
        let manifest = scan::manifest(built, |_| true)?;
        self.enter(built, package, reference, &manifest, sidecar)
    }

    /// Gives a tree its name, and makes it an entry. What has that name gives way: kept aside if it was an entry that
    /// is broken, and removed if it is to be replaced, or what a crash left. The caller holds the source's lock.
    fn enter(
        &self,
        built: &Path,
        package: &PackageName,
        reference: Reference,
        manifest: &Manifest,
        sidecar: &Sidecar,
    ) -> Result<PathBuf, StoreError> {
        let (dir, tree) = (self.source_dir(package, reference.source), self.tree(package, reference));
        // What is not an entry yet is nobody else's to keep.
        self.hold([(package, reference.source)])?;
        fs::create_dir_all(&dir)?;
        if let Err(broken) = self.inspect_here(package, reference, Depth::Glance) {
            self.set_aside(package, reference, &broken)?;
        }
        let replaced = self.stage()?;
        if fs::remove_file(self.sidecar_path(package, reference)).is_ok() {
            // Else the old sidecar might come back after a loss of power, and speak for the new tree.
            entry::flush_dir(&dir)?;
        }
        if tree.symlink_metadata().is_ok() {
            fs::rename(&tree, replaced.path().join("replaced"))?;
        }
        fs::rename(built, &tree)?;
        if let Err(error) = self.complete(package, reference, manifest, sidecar) {
            // On a full disk it would only be in the way. What cannot be taken back is what a crash leaves.
            let _ = fs::rename(&tree, replaced.path().join("incomplete"));
            drop(replaced);
            self.forget(package, reference);
            return Err(error);
        }
        Ok(tree)
    }

    /// Takes away what is said of an entry that could not be completed.
    fn forget(&self, package: &PackageName, reference: Reference) {
        let _ = fs::remove_file(self.sidecar_path(package, reference));
        let _ = fs::remove_file(self.manifest_path(package, reference));
        let _ = self.mend_configs(package, reference.source);
    }

    /// Returns the interface digest of a tree, from its sidecar where it has one.
    pub fn interface(&self, tree: &Path) -> io::Result<Sha256Digest> {
        match Sidecar::of_tree(tree).and_then(|sidecar| sidecar.interface) {
            Some(interface) if self.owns(tree) => Ok(interface),
            _ => facets::interface_of(tree),
        }
    }

    /// Returns an entry of this source that was built with the content key `content`, if there is one.
    pub fn with_content(
        &self,
        package: &PackageName,
        source: Sha256Digest,
        content: Sha256Digest,
    ) -> Option<Reference> {
        let entries = self.sidecars(package, source).into_iter();
        let same = entries.filter(|(_, _, sidecar)| sidecar.content == Some(content));
        same.map(|(config, ..)| Reference { source, config })
            .find(|reference| self.lookup(package, *reference).is_some())
    }

    /// Makes the entry of `key` out of another entry of the same source: its files are linked, nothing is built.
    /// Returns `None` if that one is gone. The caller holds the source's lock.
    pub fn adopt(&self, key: &PackageKey, from: Reference) -> Result<Option<PathBuf>, StoreError> {
        let package = key.package();
        let (Some(tree), Some(sidecar)) = (self.lookup(package, from), self.sidecar(package, from)) else {
            return Ok(None);
        };
        if let Ok(Some(tree)) = self.inspect(package, key.reference(), Depth::Glance) {
            return Ok(Some(tree));
        }
        let staging = self.stage()?;
        let linked = staging.path().join("adopted");
        let sharing = Linker::new(None);
        sharing.link_tree(&tree, &linked)?;
        let shares = (sharing.mode() != LinkMode::Copy).then(|| sidecar.shares.unwrap_or(from.config));
        let now = Sidecar::new(key, Duration::ZERO);
        let known = self.manifest(package, from, &sidecar);
        let sidecar = Sidecar { config: now.config, linked: now.linked, created_at: now.created_at, shares, ..sidecar };
        // The files are the same ones: they need not be read again.
        let manifest = known.map_or_else(|| scan::manifest(&linked, |_| true), Ok)?;
        self.enter(&linked, package, key.reference(), &manifest, &sidecar).map(Some)
    }

    /// Adds an entry to what is known of its source, and forgets those that are no more.
    fn add_config(
        &self,
        scratch: &StagingDir,
        package: &PackageName,
        reference: Reference,
        sidecar: &Sidecar,
    ) -> io::Result<()> {
        let source = reference.source;
        let mut configs = self.configs_here(package, source).unwrap_or_default();
        configs.source_compiled = sidecar.source_compiled;
        configs.linkingto.clone_from(&sidecar.linkingto);
        configs.configs.retain(|config, _| self.lookup_here(package, Reference { source, config: *config }).is_some());
        configs.configs.insert(reference.config, sidecar.config.clone());
        let path = self.source_dir(package, source).join(CONFIGS);
        entry::write(scratch, &path, &serde_json::to_vec_pretty(&configs)?)
    }

    fn write_platform(&self, scratch: &StagingDir) -> io::Result<()> {
        let path = self.root.join(&self.platform).join(PLATFORM);
        if path.exists() {
            return Ok(());
        }
        let lines = self.description.lines().map(str::to_owned).collect();
        let platform = platform::Platform { platform: self.platform.clone(), description: lines };
        // Flushed by itself: it is never looked at again while it is there, so it must not be there empty.
        entry::write_flushed(scratch, &path, &serde_json::to_vec_pretty(&platform)?)
    }
}

/// What to do with an entry of the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// It is as good as the new one.
    Keep,
    /// The new one was asked for (`--rebuild`).
    Replace,
}

impl Sidecar {
    /// Describes a build that ended now.
    pub fn new(key: &PackageKey, build: Duration) -> Self {
        Self {
            created_at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            package: key.package().to_string(),
            version: key.version().to_owned(),
            source_compiled: false,
            linkingto: Vec::new(),
            config: key.config().clone(),
            linked: key.linked_closure().into_iter().map(|(n, key)| (n.clone(), BuiltAgainst::new(key))).collect(),
            dependencies: BTreeMap::new(),
            build_ms: u64::try_from(build.as_millis()).unwrap_or(u64::MAX),
            peak_bytes: None,
            interface: None,
            content: None,
            shares: None,
            tree: None,
            size: 0,
            n_files: 0,
            sonames: BTreeSet::new(),
            checksum: None,
        }
    }
}
