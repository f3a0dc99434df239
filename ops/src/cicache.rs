//! The store's entries kept from one job of a continuous integration to the next, under keys.
//!
//! ```text
//! {tenant}/ci/{platform}/{key}     a state: which entries, and in which packs they are (cicache/state.rs)
//! {tenant}/ci-packs/{sha256}       a pack: entries as one stream (store/transfer.rs), named by its content
//! ```
//!
//! Both are written once. A state refers to the packs of the one before it for what that had, so a save writes only
//! what is new, and a restore reads only packs with something that is wanted and lacking. Nothing but entries of the
//! store is ever in a pack, and what comes out of one is verified before it is published. A pack that is missing or
//! damaged costs the entries in it, which are then built; damaged ones are removed where that is possible, and a state
//! that lacks packs is no longer whole, so the next save writes it again.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::sonames::SystemLibraries;
use crate::tiers::address::Place as TierPlace;
use crate::tiers::objects::{self, ObjectError};
use crate::tiers::{Address, GitHub, SecretKey, Tenant, Trust};

mod github;
mod key;
mod restore;
mod save;
mod shelf;
mod state;
#[cfg(test)]
mod tests;

pub use key::{Key, KeyError, Surroundings};
pub use restore::Restored;
pub use save::{Saved, Skipped};
pub use shelf::Kept;
use shelf::{Shelf, TierShelf};

/// How many packs are on their way at once.
const PACKS_MAX: usize = 4;
/// What moves fewer bytes a second than this is given up.
const RATE_MIN: u64 = 32 << 10;
/// How long GitHub may keep silent.
const GITHUB_TIMEOUT: Duration = Duration::from_secs(30);

/// Where states are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// A tier: a directory, a bucket and so on.
    Tier(Address),
    /// The cache service of the GitHub job that this is.
    GitHub(GitHub),
}

/// Saved states of one tenant, for the store's platform.
#[derive(Debug)]
pub struct CiCache {
    shelf: Box<dyn Shelf>,
    tenant: Tenant,
    trust: Trust,
    signer: Option<SecretKey>,
    is_writable: bool,
    timeout: Duration,
    libraries: SystemLibraries,
    /// Takes what must not be seen out of a message.
    address: Option<Address>,
}

/// Whose states are meant, and for what.
#[derive(Debug, Default)]
pub struct CiCacheConfig {
    /// Whose they are.
    pub tenant: Tenant,
    /// The platform whose entries they have; `None`: states are only listed and deleted.
    pub platform: Option<String>,
    /// What they are signed with.
    pub signer: Option<SecretKey>,
    /// Where R is: its own shared libraries count as the system's.
    pub r_home: std::path::PathBuf,
}

/// Why states cannot be saved, restored, listed or deleted. No run fails because of it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum CiError {
    #[error("the CI cache: {0}")]
    Place(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the CI cache is only read (`:ro`)")]
    ReadOnly,
    #[error(transparent)]
    Store(#[from] std::io::Error),
}

impl CiCache {
    /// Opens a place. Nothing is asked yet.
    pub fn open(place: Place, config: CiCacheConfig) -> Result<Self, CiError> {
        let CiCacheConfig { tenant, platform, signer, r_home } = config;
        let client = crate::tiers::client().map_err(|error| CiError::Place(error.to_string()))?;
        let (shelf, address): (Box<dyn Shelf>, _) = match place {
            Place::Tier(address) if matches!(address.place, TierPlace::GitHub { .. }) => {
                let why = "`ghac://` is not asked for: in a job on GitHub it is where states go if no place is named";
                return Err(CiError::Place(why.to_owned()));
            }
            Place::Tier(address) => {
                let objects = objects::connect(&address.place, &client, &GitHub::default());
                let objects = objects.map_err(|ObjectError(why)| CiError::Place(address.redact(&why)))?;
                let (tenant, trust) = (tenant.clone(), address.trust.clone());
                (Box::new(TierShelf { objects, tenant, platform, trust }), Some(address))
            }
            Place::GitHub(github) => {
                (Box::new(github::GitHubShelf::new(github, client, &tenant, platform.as_deref())), None)
            }
        };
        Ok(Self {
            shelf,
            tenant,
            signer,
            trust: address.as_ref().map(|address| address.trust.clone()).unwrap_or_default(),
            is_writable: address.as_ref().is_none_or(|address| address.is_writable),
            timeout: address.as_ref().map_or(GITHUB_TIMEOUT, |address| address.timeout),
            libraries: SystemLibraries::of_host(&r_home),
            address,
        })
    }

    /// Lists states whose keys start so, of all platforms, newest first.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Kept>, CiError> {
        let mut kept = self.within(0, self.shelf.list(prefix)).await?;
        kept.sort_by(|one, other| (&other.created_at, &one.key).cmp(&(&one.created_at, &other.key)));
        Ok(kept)
    }

    /// Deletes the states of a key, and in a tier the packs that no other state needs; says whether there was one.
    pub async fn delete(&self, key: &Key) -> Result<bool, CiError> {
        if !self.is_writable {
            return Err(CiError::ReadOnly);
        }
        self.within(0, self.shelf.remove(key)).await
    }

    /// Deletes the states that were saved before `cutoff`, but for the newest of all, each as [`CiCache::delete`] does.
    /// Returns their keys; with `is_dry_run` those that would go.
    pub async fn prune(&self, cutoff: SystemTime, is_dry_run: bool) -> Result<Vec<Key>, CiError> {
        let (mut seen, mut old) = (BTreeSet::new(), Vec::new());
        for (n, kept) in self.list("").await?.into_iter().enumerate() {
            // The same key may be there for several platforms, and is deleted for all: its newest state counts.
            let is_newest = seen.insert(kept.key.clone());
            let is_old = humantime::parse_rfc3339_weak(&kept.created_at).is_ok_and(|time| time < cutoff);
            if is_newest && is_old && n > 0 {
                old.extend(kept.key.parse::<Key>().ok());
            }
        }
        if !is_dry_run {
            for key in &old {
                self.delete(key).await?;
            }
        }
        Ok(old)
    }

    /// Waits for an answer that moves so many bytes, for as long as it is worth.
    async fn within<T>(&self, bytes: u64, answer: impl Future<Output = Result<T, ObjectError>>) -> Result<T, CiError> {
        let patience = self.timeout + Duration::from_secs(bytes / RATE_MIN);
        let answer = tokio::time::timeout(patience, answer)
            .await
            .unwrap_or_else(|_| Err(ObjectError(format!("no answer within {}", humantime::format_duration(patience)))));
        answer.map_err(|ObjectError(why)| {
            CiError::Place(self.address.as_ref().map_or(why.clone(), |address| address.redact(&why)))
        })
    }
}

fn now() -> String {
    humantime::format_rfc3339_nanos(SystemTime::now()).to_string()
}
