//! From the store into a saved state: only what no pack of the state before has.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::{StreamExt, TryStreamExt, stream};
use opendal::Buffer;
use tokio::sync::Semaphore;

use super::shelf::Name;
use super::state::{Entry, Pack, State};
use super::{CiCache, CiError, Key, PACKS_MAX, now};
use crate::blocking;
use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::Store;
use crate::store::transfer::{self, ExportError, Packed};

/// How many bytes of files are put into one pack; what is larger has one of its own.
const PACK_BYTES_MAX: u64 = 32 << 20;
/// A pack of the state before that has fewer bytes than this is small.
const SMALL_BYTES: u64 = 4 << 20;
/// How many small packs a state may refer to; with more of them, all small ones are packed anew.
const SMALL_MAX: usize = 8;
/// How many bytes of files may be in packs that are made or written at once; a larger pack is alone. Packs are in memory,
/// compressed, until they are written.
const IN_MEMORY_MAX: u64 = 128 << 20;
/// How many packs are looked for at once.
const LOOKS_MAX: usize = 16;

type Place = (PackageName, Reference);

/// What a save came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// The key that was written, or why none was.
    pub outcome: Option<Result<Key, Skipped>>,
    /// How many entries the state has.
    pub n_entries: usize,
    /// How many of them were packed for it.
    pub n_packed: usize,
    /// How many packs were written.
    pub n_packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Saved {
    fn skipped(why: Skipped) -> Self {
        Self { outcome: Some(Err(why)), ..Self::default() }
    }
}

/// What a save goes on from.
#[derive(Default)]
struct Before {
    state: Option<State>,
    /// What is wanted and is in packs of that state that are kept.
    held: BTreeMap<Place, Entry>,
    /// Whether something has the key that must not keep it.
    is_in_the_way: bool,
}

/// Why nothing is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skipped {
    /// There is a state of this key.
    IsThere(String),
    /// There is a state of this key that cannot be restored as a whole, and it cannot be removed.
    NotWhole(String),
    /// The state of this key has everything.
    NothingNew(String),
    /// There is nothing to save.
    Nothing,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IsThere(key) => write!(f, "`{key}` exists already"),
            Self::NotWhole(key) => write!(f, "`{key}` exists already, is damaged, and has to be deleted"),
            Self::NothingNew(key) => write!(f, "nothing is new since `{key}`"),
            Self::Nothing => f.write_str("there is nothing to save"),
        }
    }
}

impl CiCache {
    /// Saves entries of `store` under `key`. A state that is not complete gets a key that starts with `key`, so that the
    /// complete one can still be written.
    ///
    /// Refers to packs of the state that a restore would find, as far as at least half of what is in them is wanted.
    /// What is broken in the store is left out with a warning, and the state then is not complete.
    pub async fn save(
        &self,
        store: &Arc<Store>,
        key: &Key,
        prefixes: &[Key],
        wanted: &BTreeSet<Place>,
        is_complete: bool,
    ) -> Result<Saved, CiError> {
        if !self.is_writable {
            return Err(CiError::ReadOnly);
        }
        if wanted.is_empty() {
            return Ok(Saved::skipped(Skipped::Nothing));
        }
        store.hold(wanted.iter().map(|(package, reference)| (package, reference.source)))?;
        let Before { state: before, held, is_in_the_way } = match self.before(store, key, prefixes, wanted).await? {
            Ok(before) => before,
            Err(skipped) => return Ok(Saved::skipped(skipped)),
        };
        let new: Vec<Place> = wanted.iter().filter(|place| !held.contains_key(*place)).cloned().collect();
        let (packed, broken) = self.pack(store, new).await?;
        let is_complete = is_complete && broken.is_empty();
        let key = if is_complete { key.clone() } else { key.partial(SystemTime::now())? };
        let mut saved = Saved::default();
        saved.warnings.extend(broken.iter().map(|(package, why)| format!("{package} is not saved: {why}")));
        let mut state = State::new(self.tenant.clone(), store.platform(), &key, now(), is_complete);
        let mut known = BTreeMap::new();
        for entry in held.into_values() {
            let n = *known.entry(entry.pack).or_insert_with(|| {
                state.packs.extend(before.as_ref().map(|before| before.packs[entry.pack]));
                state.packs.len() - 1
            });
            state.entries.push(Entry { pack: n, ..entry });
        }
        for (pack, entries, is_new) in packed {
            saved.n_packed += entries.len();
            saved.n_packs += usize::from(is_new);
            saved.bytes += if is_new { pack.bytes } else { 0 };
            let n = state.packs.len();
            state.packs.push(pack);
            state.entries.extend(entries.into_iter().map(|entry| Entry { pack: n, ..entry }));
        }
        saved.n_entries = state.entries.len();
        if saved.n_entries == 0 {
            return Ok(Saved { outcome: Some(Err(Skipped::Nothing)), ..saved });
        }
        if is_in_the_way && is_complete {
            // Not everybody may; then it is still there.
            drop(self.within(0, self.shelf.discard(Name::State(&key))).await);
        }
        // The packs are all there: a state may not name what is not.
        let content = Buffer::from(state.to_bytes(self.signer.as_ref()));
        let is_written = self.within(content.len() as u64, self.shelf.put(Name::State(&key), content)).await?;
        saved.outcome = Some(match (is_written, is_in_the_way) {
            (true, _) => Ok(key.clone()),
            (false, true) => Err(Skipped::NotWhole(key.to_string())),
            (false, false) => Err(Skipped::IsThere(key.to_string())),
        });
        if is_written && is_complete {
            self.tidy(&key).await;
        }
        Ok(saved)
    }

    /// Finds out what there is to go on from, or why nothing has to be done.
    async fn before(
        &self,
        store: &Store,
        key: &Key,
        prefixes: &[Key],
        wanted: &BTreeSet<Place>,
    ) -> Result<Result<Before, Skipped>, CiError> {
        let Some(bytes) = self.within(0, self.shelf.find(key, prefixes)).await? else {
            return Ok(Ok(Before::default()));
        };
        let Ok(state) = State::parse(&bytes, &self.trust).and_then(|state| self.fitting(state, store)) else {
            // What cannot be believed is in the way, if it has this key.
            return Ok(Ok(Before { is_in_the_way: true, ..Before::default() }));
        };
        let there = self.packs_of(&state).await?;
        let is_whole = there.iter().all(|is_there| *is_there);
        let is_in_the_way = state.key == key.as_str();
        if is_in_the_way && is_whole {
            return Ok(Err(Skipped::IsThere(state.key)));
        }
        let of_use = state.entries.iter().filter(|entry| there[entry.pack] && wanted.contains(&entry.place()));
        let mut held: BTreeMap<Place, Entry> = of_use.map(|entry| (entry.place(), entry.clone())).collect();
        if !is_in_the_way && held.len() == wanted.len() {
            return Ok(Err(Skipped::NothingNew(state.key)));
        }
        let kept = worth_keeping(&state, wanted, &there);
        held.retain(|_, entry| kept.contains(&entry.pack));
        Ok(Ok(Before { state: Some(state), held, is_in_the_way }))
    }

    /// Removes what was saved of this key before all of it was there, where that is possible.
    async fn tidy(&self, key: &Key) {
        let parts = self.list(&key.partial_prefix()).await.unwrap_or_default();
        for part in parts.into_iter().filter_map(|part| part.key.parse().ok()) {
            if let Err(error) = self.delete(&part).await {
                tracing::debug!(%error, key = %part, "it stays");
            }
        }
    }

    /// Says for each pack of a state whether it is there.
    async fn packs_of(&self, state: &State) -> Result<Vec<bool>, CiError> {
        let look = |pack: Pack| async move {
            Ok::<_, CiError>(self.within(0, self.shelf.size(pack.sha256)).await? == Some(pack.bytes))
        };
        stream::iter(state.packs.clone()).map(look).buffered(LOOKS_MAX).try_collect().await
    }

    /// Packs entries and writes the packs. Returns for each what is in it and whether it was written just now; and what
    /// could not be packed.
    async fn pack(
        &self,
        store: &Arc<Store>,
        places: Vec<Place>,
    ) -> Result<(Vec<(Pack, Vec<Entry>, bool)>, Vec<(PackageName, String)>), CiError> {
        let (store_of, mut broken) = (Arc::clone(store), Vec::new());
        let looked = blocking(move || {
            let pack = |(package, reference): Place| {
                transfer::pack(&store_of, &package, reference).map_err(|error| (package, error))
            };
            places.into_iter().map(pack).collect::<Vec<_>>()
        })
        .await;
        let mut groups: Vec<(u64, Vec<Packed>)> = Vec::new();
        for packed in looked {
            match packed {
                Err((package, error)) => broken.push((package, error.to_string())),
                Ok(packed) => match groups.last_mut() {
                    Some((bytes, group)) if *bytes + packed.bytes() <= PACK_BYTES_MAX => {
                        *bytes += packed.bytes();
                        group.push(packed);
                    }
                    _ => groups.push((packed.bytes(), vec![packed])),
                },
            }
        }
        let mebibytes = |bytes: u64| u32::try_from(bytes.clamp(1, IN_MEMORY_MAX).div_ceil(1 << 20)).unwrap_or(u32::MAX);
        let room = &Semaphore::new(mebibytes(IN_MEMORY_MAX) as usize);
        let write = |(bytes, group): (u64, Vec<Packed>)| async move {
            let _permit = room.acquire_many(mebibytes(bytes)).await.expect("it is never closed");
            let places: Vec<Place> =
                group.iter().map(|packed| (packed.listed().package().clone(), packed.listed().reference())).collect();
            let store = Arc::clone(store);
            let (content, entries, broken) = blocking(move || compress(&store, group, places)).await;
            if entries.is_empty() {
                return Ok((None, broken));
            }
            let unpacked = entries.iter().map(|entry| entry.bytes).sum();
            let pack = Pack { sha256: Sha256Digest::of(&content), bytes: content.len() as u64, unpacked };
            let put = self.shelf.put(Name::Pack(pack.sha256), Buffer::from(content));
            let is_new = self.within(pack.bytes, put).await?;
            if !is_new && self.within(0, self.shelf.size(pack.sha256)).await? != Some(pack.bytes) {
                let name = pack.sha256.short();
                return Err(CiError::Place(format!(
                    "another job is writing the same pack, {name}, or has given it up"
                )));
            }
            Ok((Some((pack, entries, is_new)), broken))
        };
        let written: Vec<_> = stream::iter(groups).map(write).buffered(PACKS_MAX).try_collect().await?;
        let mut packs = Vec::new();
        for (pack, more) in written {
            packs.extend(pack);
            broken.extend(more);
        }
        Ok((packs, broken))
    }
}

/// Returns which packs a new state goes on referring to: those of which at least half is wanted; and of the small ones
/// none, if they are many.
fn worth_keeping(state: &State, wanted: &BTreeSet<Place>, there: &[bool]) -> BTreeSet<usize> {
    let mut of_use = vec![0_u64; state.packs.len()];
    for entry in state.entries.iter().filter(|entry| wanted.contains(&entry.place())) {
        of_use[entry.pack] += entry.bytes;
    }
    let is_of_use = |n: &usize| there[*n] && of_use[*n] > 0 && of_use[*n].saturating_mul(2) >= state.packs[*n].unpacked;
    let mut kept: BTreeSet<usize> = (0..state.packs.len()).filter(is_of_use).collect();
    let is_small = |n: &usize| state.packs[*n].bytes < SMALL_BYTES;
    if kept.iter().filter(|n| is_small(n)).count() > SMALL_MAX {
        kept.retain(|n| !is_small(n));
    }
    kept
}

/// Makes a pack. What turns out to be broken is left out.
fn compress(
    store: &Store,
    mut group: Vec<Packed>,
    mut places: Vec<Place>,
) -> (Vec<u8>, Vec<Entry>, Vec<(PackageName, String)>) {
    let mut broken = Vec::new();
    while !group.is_empty() {
        let entry = |packed: &Packed| Entry {
            listed: packed.listed().clone(),
            bytes: packed.bytes(),
            sonames: packed.sidecar().sonames,
            pack: 0,
        };
        let entries = group.iter().map(entry).collect();
        let mut content = Vec::new();
        let failed = match transfer::write(store, group, &mut content) {
            Ok(_) => return (content, entries, broken),
            Err(ExportError::Broken { package, why }) => (Some(package), why),
            Err(error) => (None, error.to_string()),
        };
        let (gone, left): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|(package, _)| failed.0.as_ref().is_none_or(|failed| failed == package));
        broken.extend(gone.into_iter().map(|(package, _)| (package, failed.1.clone())));
        places = left;
        group = Vec::new();
        for (package, reference) in std::mem::take(&mut places) {
            match transfer::pack(store, &package, reference) {
                Ok(packed) => {
                    group.push(packed);
                    places.push((package, reference));
                }
                Err(error) => broken.push((package, error.to_string())),
            }
        }
    }
    (Vec::new(), Vec::new(), broken)
}
