//! Where states and packs are put: under names in a tier, or in GitHub's cache service.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Key;
use super::state::State;
use crate::digest::Sha256Digest;
use crate::store::verify::is_platform_name;
use crate::tiers::Tenant;
use crate::tiers::objects::{Answer, Content, Expect, ObjectError, Objects, Pieces};
use crate::tiers::trust::Trust;

/// How many states are read at once.
const READS_MAX: usize = 16;

/// What is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum Name<'a> {
    State(&'a Key),
    Pack(Sha256Digest),
}

/// A state as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its key.
    pub key: String,
    /// When it was saved, in RFC 3339.
    pub created_at: String,
    /// The platform that its entries are for, where that can be known.
    pub platform: Option<String>,
    /// How many entries it has, where that can be known.
    pub n_entries: Option<usize>,
    /// How many bytes its packs have, where that can be known; packs may belong to several states.
    pub bytes: Option<u64>,
}

/// A place for states and packs of one tenant and platform. What is there is never written again.
pub(super) trait Shelf: fmt::Debug + Send + Sync {
    /// Finds the state of this key, else the newest whose key starts with it, else the newest of the first prefix that
    /// has any. Not all that is found is to be believed.
    fn find<'a>(&'a self, key: &'a Key, prefixes: &'a [Key]) -> Answer<'a, Option<Vec<u8>>>;

    /// Opens a pack; `None` if it is not there.
    fn open(&self, pack: Sha256Digest) -> Answer<'_, Option<Pieces>>;

    /// Returns how large a pack is; `None` if it is not there.
    fn size(&self, pack: Sha256Digest) -> Answer<'_, Option<u64>>;

    /// Writes what is not there yet. `false`: it is there, or somebody else is writing it.
    fn put<'a>(&'a self, name: Name<'a>, content: Content) -> Answer<'a, bool>;

    /// Lists the states whose keys start so, of all platforms.
    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Kept>>;

    /// Removes the states of a key, of all platforms, and what only they needed as far as that can be known. `false`:
    /// there was none.
    fn remove<'a>(&'a self, key: &'a Key) -> Answer<'a, bool>;

    /// Removes what is not what its name says; only that.
    fn discard<'a>(&'a self, name: Name<'a>) -> Answer<'a, ()>;
}

/// A tier as a shelf.
#[derive(Debug)]
pub(super) struct TierShelf {
    pub(super) objects: Arc<dyn Objects>,
    pub(super) tenant: Tenant,
    /// `None`: only listed and removed from.
    pub(super) platform: Option<String>,
    pub(super) trust: Trust,
}

impl TierShelf {
    fn folder(&self) -> String {
        format!("{}/ci/", self.tenant)
    }

    fn name(&self, name: Name<'_>) -> String {
        match name {
            Name::State(key) => {
                format!("{}{}/{}", self.folder(), self.platform.as_deref().unwrap_or_default(), key.to_component())
            }
            Name::Pack(sha256) => format!("{}/ci-packs/{sha256}", self.tenant),
        }
    }

    /// Reads all states of these names that can be read.
    async fn states(&self, names: Vec<String>) -> Result<Vec<(String, Vec<u8>, State)>, ObjectError> {
        let read = |name: String| async move {
            let read = self.objects.read(&name).await?;
            Ok(read.and_then(|(bytes, _)| {
                let state = State::parse(&bytes, &self.trust).ok()?;
                Some((name, bytes, state))
            }))
        };
        let read = stream::iter(names).map(read).buffer_unordered(READS_MAX);
        read.try_filter_map(|found| std::future::ready(Ok(found))).try_collect().await
    }

    /// Returns the names of states, with platform and key; `None` if the storage does not tell.
    async fn known(&self) -> Result<Option<Vec<(String, String, Key)>>, ObjectError> {
        let folder = self.folder();
        let Some(names) = self.objects.list(&folder).await? else { return Ok(None) };
        let parsed = names.into_iter().filter_map(|name| {
            let (platform, key) = name.strip_prefix(&folder)?.split_once('/')?;
            let (platform, key) = (platform.to_owned(), Key::of_component(key)?);
            is_platform_name(&platform).then_some((name, platform, key))
        });
        Ok(Some(parsed.collect()))
    }

    /// As [`TierShelf::known`], for who cannot do without.
    async fn names(&self) -> Result<Vec<(String, String, Key)>, ObjectError> {
        let why = "this kind of storage does not tell what it has";
        self.known().await?.ok_or_else(|| ObjectError(why.to_owned()))
    }
}

impl Shelf for TierShelf {
    fn find<'a>(&'a self, key: &'a Key, prefixes: &'a [Key]) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            if let Some((bytes, _)) = self.objects.read(&self.name(Name::State(key))).await? {
                return Ok(Some(bytes));
            }
            // Without a list there are only exact keys.
            let names = self.known().await?.unwrap_or_default();
            for prefix in std::iter::once(key).chain(prefixes) {
                let is_meant = |(_, platform, key): &&(String, String, Key)| {
                    self.platform.as_ref() == Some(platform) && key.as_str().starts_with(prefix.as_str())
                };
                let names = names.iter().filter(is_meant).map(|(name, ..)| name.clone()).collect();
                let states = self.states(names).await?;
                let newest = states.into_iter().max_by(|(_, _, one), (_, _, other)| {
                    (&one.created_at, &one.key).cmp(&(&other.created_at, &other.key))
                });
                if let Some((_, bytes, _)) = newest {
                    return Ok(Some(bytes));
                }
            }
            Ok(None)
        })
    }

    fn open(&self, pack: Sha256Digest) -> Answer<'_, Option<Pieces>> {
        Box::pin(async move { self.objects.open(&self.name(Name::Pack(pack))).await })
    }

    fn size(&self, pack: Sha256Digest) -> Answer<'_, Option<u64>> {
        Box::pin(async move { self.objects.size(&self.name(Name::Pack(pack))).await })
    }

    fn put<'a>(&'a self, name: Name<'a>, content: Content) -> Answer<'a, bool> {
        Box::pin(async move {
            let name = self.name(name);
            // Not every storage can refuse to write again.
            if self.objects.size(&name).await?.is_some() {
                return Ok(false);
            }
            self.objects.write(&name, content, Expect::Nothing).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Kept>> {
        Box::pin(async move {
            let mut names = self.names().await?;
            names.retain(|(_, _, key)| key.as_str().starts_with(prefix));
            let states = self.states(names.into_iter().map(|(name, ..)| name).collect()).await?;
            let kept = states.into_iter().map(|(_, _, state)| Kept {
                bytes: Some(state.bytes()),
                n_entries: Some(state.entries.len()),
                platform: Some(state.platform),
                key: state.key,
                created_at: state.created_at,
            });
            Ok(kept.collect())
        })
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Answer<'a, bool> {
        Box::pin(async move {
            let (gone, left): (Vec<_>, Vec<_>) =
                self.names().await?.into_iter().partition(|(_, _, found)| found == key);
            if gone.is_empty() {
                return Ok(false);
            }
            let names =
                |names: Vec<(String, String, Key)>| names.into_iter().map(|(name, ..)| name).collect::<Vec<_>>();
            let (gone, left) = (names(gone), names(left));
            let packs = |states: Vec<(String, Vec<u8>, State)>| -> BTreeSet<Sha256Digest> {
                states.iter().flat_map(|(_, _, state)| &state.packs).map(|pack| pack.sha256).collect()
            };
            let (n_left, needless) = (left.len(), packs(self.states(gone.clone()).await?));
            for name in gone {
                self.objects.remove(&name).await?;
            }
            let left = self.states(left).await?;
            // Of one that cannot be read nobody knows what it needs.
            if left.len() == n_left {
                for pack in needless.difference(&packs(left)) {
                    self.objects.remove(&self.name(Name::Pack(*pack))).await?;
                }
            }
            Ok(true)
        })
    }

    fn discard<'a>(&'a self, name: Name<'a>) -> Answer<'a, ()> {
        Box::pin(async move { self.objects.remove(&self.name(name)).await })
    }
}
