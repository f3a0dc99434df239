//! Caches beyond this machine: an ordered chain of tiers behind the store. What one machine built, no other builds again.
//!
//! ```text
//! {tenant}/{platform}/{package}/{source_hash}/{config_hash}    an entry, one immutable object (tiers/entry.rs)
//! {tenant}/{platform}/{package}/{source_hash}/configs.json     which there are, and what the source links to (tiers/index.rs)
//! {tenant}/{platform without its toolchain}/platforms.json     which toolchains there are packages of (tiers/platforms.rs)
//! ```
//!
//! A tier sees nothing but these. Lookups go through the tiers in order, and the first that has an entry whole and
//! trusted gives it: into the store, verified byte for byte, and in the background into the tiers before it. A tier
//! that lacks something, lies, is slow or down is passed over; it costs one warning and a bounded time, never the run.
//!
//! ```
//! use larder_ops::tiers::{Address, Tenant, Tiers, TiersConfig};
//!
//! # let dir = tempfile::tempdir()?;
//! let address: Address = format!("fs://{}", dir.path().display()).parse()?;
//! let tiers = Tiers::new(TiersConfig { addresses: vec![address], ..TiersConfig::default() })?;
//! assert_eq!(tiers.tenant(), &Tenant::default());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;
use crate::sonames::SystemLibraries;
use crate::store::Configs;

pub(crate) mod address;
mod breaker;
mod bring;
mod entry;
pub(crate) mod github;
mod index;
pub(crate) mod objects;
mod platforms;
mod push;
mod tenant;
#[cfg(test)]
mod tests;
pub(crate) mod trust;

pub use address::{Address, AddressError};
use breaker::Breaker;
use entry::Wanted;
pub use github::GitHub;
pub use index::{Held, Index};
use objects::{ObjectError, Objects};
pub use tenant::{Tenant, TenantError};
pub use trust::{KeyError, PublicKey, SecretKey, Trust};

/// How many small requests are under way at once, over all tiers.
const REQUESTS_MAX: usize = 64;
/// How many bytes of entries may be on their way at once.
const IN_FLIGHT_MAX: u64 = 64 << 20;
/// How many uploads go on at once.
const UPLOADS_MAX: usize = 4;

/// What a chain of tiers is made of.
#[derive(Debug, Default)]
pub struct TiersConfig {
    /// Where they are, in the order to ask.
    pub addresses: Vec<Address>,
    /// Whose entries these are.
    pub tenant: Tenant,
    /// What entries are signed with.
    pub signer: Option<SecretKey>,
    /// Where R is: its own shared libraries count as the system's.
    pub r_home: PathBuf,
    /// What the job knows of GitHub's caches, if this is one: what `ghac://` stands for.
    pub github: GitHub,
}

/// A chain of tiers, and what is known of them so far.
pub struct Tiers {
    chain: Vec<Arc<Tier>>,
    tenant: Tenant,
    signer: Option<Arc<SecretKey>>,
    libraries: SystemLibraries,
    /// What was asked already: of each tier the index, if it has one.
    known: Mutex<HashMap<Source, Arc<[Option<Index>]>>>,
    warnings: Mutex<Vec<String>>,
    in_flight: Semaphore,
    uploading: Arc<Semaphore>,
    uploads: Mutex<JoinSet<()>>,
    traffic: Traffic,
}

/// One source on one platform.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Source {
    platform: String,
    package: PackageName,
    hash: Sha256Digest,
}

/// One tier.
#[derive(Debug)]
struct Tier {
    address: Address,
    objects: Arc<dyn Objects>,
    /// Of small requests.
    asking: Breaker,
    /// Of entries: a tier may answer quickly, and then send nothing.
    moving: Breaker,
    /// Whether the user was told that something is wrong with it.
    is_told: AtomicBool,
    /// The platforms that it is known to have.
    announced: Mutex<BTreeSet<String>>,
    /// The entries that were found damaged: what is written in their place is welcome.
    damaged: Mutex<BTreeSet<String>>,
}

/// What has gone over the line, in entries and bytes.
#[derive(Debug, Default)]
struct Traffic {
    n_brought: AtomicU64,
    bytes_brought: AtomicU64,
    n_pushed: AtomicU64,
    bytes_pushed: AtomicU64,
}

/// What a chain of tiers has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Entries that came from tiers.
    pub n_brought: u64,
    /// Their bytes on the line.
    pub bytes_brought: u64,
    /// Entries that were written to tiers, once for each.
    pub n_pushed: u64,
    /// Their bytes on the line.
    pub bytes_pushed: u64,
}

/// A chain of tiers that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` cannot be used as a cache: {why}")]
pub struct TierError {
    address: String,
    why: String,
}

impl Tiers {
    /// Makes a chain. Nothing is asked yet.
    pub fn new(config: TiersConfig) -> Result<Self, TierError> {
        let client = client();
        let tier = |address: Address| {
            let wrong = |why: String| TierError { address: address.to_string(), why: address.redact(&why) };
            let client = client.as_ref().map_err(|error| wrong(error.to_string()))?;
            let objects = objects::connect(&address.place, client, &config.github);
            let objects = objects.map_err(|ObjectError(why)| wrong(why))?;
            Ok(Tier::new(address, objects))
        };
        let tiers = config.addresses.into_iter().map(tier).collect::<Result<Vec<_>, _>>()?;
        let libraries = SystemLibraries::of_host(&config.r_home);
        Ok(Self::of(tiers, config.tenant, config.signer, libraries))
    }

    fn of(tiers: Vec<Tier>, tenant: Tenant, signer: Option<SecretKey>, libraries: SystemLibraries) -> Self {
        Self {
            chain: tiers.into_iter().map(Arc::new).collect(),
            tenant,
            signer: signer.map(Arc::new),
            libraries,
            known: Mutex::default(),
            warnings: Mutex::default(),
            in_flight: Semaphore::new(permits(IN_FLIGHT_MAX) as usize),
            uploading: Arc::new(Semaphore::new(UPLOADS_MAX)),
            uploads: Mutex::default(),
            traffic: Traffic::default(),
        }
    }

    /// Returns whose entries these are.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Returns where the tiers are, in order.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.chain.iter().map(|tier| &tier.address)
    }

    /// Returns those of these sources that no tier was asked for yet.
    pub fn unasked(
        &self,
        platform: &str,
        sources: impl IntoIterator<Item = (PackageName, Sha256Digest)>,
    ) -> Vec<(PackageName, Sha256Digest)> {
        let known = self.known();
        let source = |(package, source): &(PackageName, _)| Source {
            platform: platform.to_owned(),
            package: package.clone(),
            hash: *source,
        };
        sources.into_iter().filter(|asked| !known.contains_key(&source(asked))).collect()
    }

    /// Asks all tiers at once what they have of these sources, unless that is known.
    pub async fn survey(&self, platform: &str, sources: impl IntoIterator<Item = (PackageName, Sha256Digest)>) {
        let unknown = self.unasked(platform, sources).into_iter();
        let unknown = unknown.map(|(package, source)| Source { platform: platform.to_owned(), package, hash: source });
        let ask = |source: Source| async move {
            let indexes = self.chain.iter().map(|tier| self.index(tier, &source));
            let indexes: Arc<[Option<Index>]> = futures_util::future::join_all(indexes).await.into();
            self.known().insert(source, indexes);
        };
        stream::iter(unknown).for_each_concurrent(REQUESTS_MAX / self.chain.len().max(1), ask).await;
    }

    /// Returns what tiers know of a source, as far as they were asked.
    pub fn configs(&self, platform: &str, package: &PackageName, source: Sha256Digest) -> Option<Configs> {
        let indexes = self.indexes(platform, package, source)?;
        let mut all = None::<Index>;
        for index in indexes.iter().flatten() {
            match &mut all {
                Some(all) => drop(all.take_in(index)),
                None => all = Some(index.clone()),
            }
        }
        all.map(|index| index.configs)
    }

    /// Returns the first tier that says it has this, as far as they were asked, and what it knows of it.
    pub fn holder(&self, platform: &str, package: &PackageName, reference: Reference) -> Option<(&Address, Held)> {
        let indexes = self.indexes(platform, package, reference.source)?;
        let mut holding = self.chain.iter().zip(indexes.iter()).filter(|(tier, _)| tier.is_read());
        holding.find_map(|(tier, index)| Some((&tier.address, index.as_ref()?.entries.get(&reference.config)?.clone())))
    }

    /// Says for each tier whether it has an entry; asks those that were not asked yet.
    pub async fn holders(&self, platform: &str, package: &PackageName, reference: Reference) -> Vec<bool> {
        self.survey(platform, [(package.clone(), reference.source)]).await;
        let indexes = self.indexes(platform, package, reference.source).unwrap_or_default();
        indexes.iter().map(|index| index.as_ref().is_some_and(|index| index.has(reference.config))).collect()
    }

    /// Says whether it is worth asking for an entry: only where a tier knows its source, since an index may lack what
    /// was written at the same time as something else.
    pub(crate) fn may_have(&self, platform: &str, package: &PackageName, reference: Reference) -> bool {
        let indexes = self.indexes(platform, package, reference.source).unwrap_or_default();
        self.chain.iter().zip(indexes.iter()).any(|(tier, index)| tier.is_read() && index.is_some())
    }

    /// Finds an entry of a source by its content key.
    pub(crate) async fn with_content(
        &self,
        platform: &str,
        package: &PackageName,
        source: Sha256Digest,
        content: Sha256Digest,
    ) -> Option<Reference> {
        self.survey(platform, [(package.clone(), source)]).await;
        let indexes = self.indexes(platform, package, source)?;
        let config = indexes.iter().flatten().find_map(|index| index.with_content(content))?;
        Some(Reference { source, config })
    }

    /// Takes what the user should know, once.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns what has gone over the line.
    pub fn moved(&self) -> Moved {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Traffic { n_brought, bytes_brought, n_pushed, bytes_pushed } = &self.traffic;
        Moved {
            n_brought: of(n_brought),
            bytes_brought: of(bytes_brought),
            n_pushed: of(n_pushed),
            bytes_pushed: of(bytes_pushed),
        }
    }

    async fn index(&self, tier: &Tier, source: &Source) -> Option<Index> {
        let name = format!("{}/{}", self.folder(&source.platform, &source.package, source.hash), index::NAME);
        let (bytes, _) = self.ask(tier, tier.objects.read(&name)).await??;
        match serde_json::from_slice(&bytes) {
            Ok(index) => Some(index),
            Err(error) => {
                self.warn(tier, &format!("`{name}` is damaged, and passed over: {error}"));
                None
            }
        }
    }

    fn indexes(&self, platform: &str, package: &PackageName, source: Sha256Digest) -> Option<Arc<[Option<Index>]>> {
        self.known().get(&Source { platform: platform.to_owned(), package: package.clone(), hash: source }).cloned()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Source, Arc<[Option<Index>]>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self, platform: &str, package: &PackageName, source: Sha256Digest) -> String {
        format!("{}/{platform}/{package}/{source}", self.tenant)
    }

    fn entry_name(&self, platform: &str, package: &PackageName, reference: Reference) -> String {
        format!("{}/{}", self.folder(platform, package, reference.source), reference.config)
    }

    fn wanted(&self, package: &PackageName, reference: Reference) -> Wanted {
        Wanted { tenant: self.tenant.clone(), package: package.clone(), reference }
    }

    /// Asks a tier something small, if it is worth asking.
    async fn ask<T>(&self, tier: &Tier, answer: impl Future<Output = Result<T, ObjectError>>) -> Option<T> {
        if !tier.asking.admits() {
            return None;
        }
        let answer = match tokio::time::timeout(tier.address.timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(tier.is_silent()),
        };
        self.note(tier, &tier.asking, answer)
    }

    /// Counts whether a tier works, and tells the user once that it does not.
    fn note<T>(&self, tier: &Tier, breaker: &Breaker, answer: Result<T, ObjectError>) -> Option<T> {
        match answer {
            Ok(answer) => {
                breaker.note(true);
                Some(answer)
            }
            Err(ObjectError(why)) => {
                breaker.note(false);
                self.warn(tier, &format!("passed over: {why}"));
                None
            }
        }
    }

    fn warn(&self, tier: &Tier, why: &str) {
        let message = tier.address.redact(&format!("the cache {}: {why}", tier.address));
        tracing::debug!(message, "a tier failed");
        if !tier.is_told.swap(true, Ordering::Relaxed) {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        }
    }
}

impl Tier {
    fn new(address: Address, objects: Arc<dyn Objects>) -> Self {
        Self {
            address,
            objects,
            asking: Breaker::default(),
            moving: Breaker::default(),
            is_told: AtomicBool::new(false),
            announced: Mutex::default(),
            damaged: Mutex::default(),
        }
    }

    fn damaged(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_read(&self) -> bool {
        self.address.trust != Trust::None
    }

    fn is_silent(&self) -> ObjectError {
        ObjectError(format!("it did not answer within {}", humantime::format_duration(self.address.timeout)))
    }
}

impl fmt::Debug for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tiers").field("tiers", &self.chain).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// Counts bytes in pieces of a mebibyte, as the semaphore does.
fn permits(bytes: u64) -> u32 {
    u32::try_from(bytes.clamp(1, IN_FLIGHT_MAX).div_ceil(1 << 20)).expect("it was limited")
}

pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    // The client asks for a process-wide provider of cryptography; if there is one already, that will do.
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).build()
}
