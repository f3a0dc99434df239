//! From a saved state into the store: only packs with something in them that is wanted.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Seek, Write};
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::shelf::Name;
use super::state::{Pack, State};
use super::{CiCache, CiError, Key, PACKS_MAX};
use crate::blocking;
use crate::digest::Hasher;
use crate::fault::fs;
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::Store;
use crate::store::transfer;
use crate::tiers::objects::{ObjectError, Pieces};

/// How many bytes of a pack are written to the disk at once.
const PIECE_BYTES: usize = 1 << 20;

/// What a restore found and brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The key of the state; `None` if there was none.
    pub key: Option<String>,
    /// Whether that is the key that was asked for.
    pub is_exact: bool,
    /// How many entries it has.
    pub n_saved: usize,
    /// How many of them came into the store.
    pub n_restored: usize,
    /// How many packs were read for that.
    pub n_packs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl CiCache {
    /// Brings into `store` what it lacks and is wanted of the state of `key`, else of the newest whose key starts with
    /// it, else with one of `prefixes`. What is wrong with states and packs is a warning.
    pub async fn restore(
        &self,
        store: &Arc<Store>,
        key: &Key,
        prefixes: &[Key],
        is_wanted: impl Fn(&PackageName, Reference) -> bool,
    ) -> Result<Restored, CiError> {
        let mut restored = Restored::default();
        let Some(bytes) = self.within(0, self.shelf.find(key, prefixes)).await? else { return Ok(restored) };
        let state = match State::parse(&bytes, &self.trust).and_then(|state| self.fitting(state, store)) {
            Ok(state) => state,
            Err(why) => {
                restored.warnings.push(format!("the saved state is passed over: {why}"));
                return Ok(restored);
            }
        };
        restored.is_exact = state.key == key.as_str();
        restored.n_saved = state.entries.len();
        let mut packs: BTreeMap<usize, usize> = BTreeMap::new();
        for entry in &state.entries {
            let (package, reference) = entry.place();
            store.hold([(&package, reference.source)])?;
            let is_usable = || self.libraries.lacking(&entry.sonames).is_empty();
            if is_wanted(&package, reference) && store.lookup(&package, reference).is_none() && is_usable() {
                *packs.entry(entry.pack).or_default() += 1;
            }
        }
        let bring = |(n, n_wanted): (usize, usize)| {
            let pack = state.packs[n];
            async move { (pack, n_wanted, self.bring(store, pack).await) }
        };
        let mut lost = (0, Vec::new());
        let mut coming = stream::iter(packs).map(bring).buffer_unordered(PACKS_MAX);
        while let Some((pack, n_wanted, brought)) = coming.next().await {
            match brought {
                Ok(n) => {
                    restored.n_restored += n;
                    restored.n_packs += 1;
                    restored.bytes += pack.bytes;
                }
                Err(why) => {
                    lost.0 += n_wanted;
                    lost.1.push(format!("pack {} {why}", pack.sha256.short()));
                }
            }
        }
        drop(coming);
        if let (n, [first, more @ ..]) = (lost.0, &*lost.1) {
            let packages = if n == 1 { "1 saved package" } else { &format!("{n} saved packages") };
            let more = if more.is_empty() { String::new() } else { format!(", and {} more packs", more.len()) };
            restored.warnings.push(format!("{packages} could not be restored: {first}{more}"));
        }
        restored.key = Some(state.key);
        Ok(restored)
    }

    /// Returns a state, if it is one for this tenant and store.
    pub(super) fn fitting(&self, state: State, store: &Store) -> Result<State, String> {
        if (&state.tenant, &*state.platform) == (&self.tenant, store.platform()) {
            return Ok(state);
        }
        Err(format!("it is of tenant `{}`, platform `{}`", state.tenant, state.platform.escape_debug()))
    }

    /// Brings a pack, by way of a file; returns how many entries of it are new to the store. The error says why there is
    /// none, after "pack ...".
    async fn bring(&self, store: &Arc<Store>, pack: Pack) -> Result<usize, String> {
        let scratch = store.stage().map_err(|error| format!("has no place to go to: {error}"))?;
        let spool = Spool::create(scratch.path()).map_err(|error| format!("has no place to go to: {error}"))?;
        let read = async {
            let Some(pieces) = self.shelf.open(pack.sha256).await? else { return Ok(None) };
            spool.fill(pieces, pack.bytes).await.map(Some)
        };
        let spool = self.within(pack.bytes, read).await.map_err(|error| format!("did not come: {error}"))?;
        let Some(Spool { mut file, hasher, .. }) = spool else { return Err("is missing".to_owned()) };
        // Before anything is unpacked: the digest is all that the signature vouches for.
        if hasher.finish() != pack.sha256 {
            if self.is_writable
                && let Err(error) = self.within(0, self.shelf.discard(Name::Pack(pack.sha256))).await
            {
                tracing::debug!(%error, "a damaged pack stays");
            }
            return Err("is damaged".to_owned());
        }
        let store = Arc::clone(store);
        let imported = blocking(move || {
            file.rewind()?;
            let moved = transfer::import(&store, false, BufReader::new(file));
            drop(scratch);
            moved
        });
        imported.await.map(|moved| moved.n_entries - moved.n_present).map_err(|error| format!("is not taken: {error}"))
    }
}

/// A pack as it arrives: on the disk, since packs may be large, and several come at once.
struct Spool {
    file: fs::File,
    hasher: Hasher,
    n_bytes: u64,
}

impl Spool {
    fn create(dir: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).open(dir.join("pack"))?;
        Ok(Self { file, hasher: Hasher::default(), n_bytes: 0 })
    }

    /// Takes all pieces. More than there should be is damage enough; it need not fill the disk.
    async fn fill(mut self, mut pieces: Pieces, bytes: u64) -> Result<Self, ObjectError> {
        let mut waiting = Vec::new();
        loop {
            let piece = pieces.next().await.transpose()?;
            let is_last = piece.is_none() || self.n_bytes + waiting.len() as u64 > bytes;
            piece.into_iter().flatten().for_each(|bytes| waiting.extend_from_slice(&bytes));
            if waiting.len() >= PIECE_BYTES || is_last {
                let written = blocking(move || {
                    self.hasher.update(&waiting);
                    self.n_bytes += waiting.len() as u64;
                    self.file.write_all(&waiting).map(|()| self)
                });
                (self, waiting) = (written.await.map_err(|error| ObjectError(error.to_string()))?, Vec::new());
            }
            if is_last {
                return Ok(self);
            }
        }
    }
}
