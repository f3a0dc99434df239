//! Taking things out of a store in which others work.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::fault::fs;

use super::items::{Item, metadata, read_or_written};
use super::{EvictError, Evicted, Spare, Uses, What};
use crate::fs::write_unflushed;
use crate::store::lease::{ClosedGate, Leased};
use crate::store::listing::sorted;
use crate::store::size;
use crate::store::staging::Staging;

/// How many things are moved while the gate is closed: some milliseconds' work.
const BATCH: usize = 500;
/// The same where there is no room: as many names fit into a directory that is there.
const BATCH_WITHOUT_ROOM: usize = 10;

/// Moves things out of the store and deletes them; returns how many. What is in use or used since stays.
pub(super) fn take(
    root: &Path,
    victims: Vec<Item>,
    spare: Spare,
    on_evicted: &mut dyn FnMut(Evicted),
) -> Result<usize, EvictError> {
    if victims.is_empty() {
        return Ok(0);
    }
    // Where things are moved to. On a full disk, which is why many an evictor is called, no directory can be made: then
    // they lie in staging as what a dead process left, and whoever sweeps before this process may have them.
    let staging = match Staging::open(root).and_then(|staging| staging.dir()) {
        Ok(staging) => Some(staging),
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => None,
        Err(error) => return Err(error.into()),
    };
    let (aside, prefix, batch_max) = match &staging {
        Some(staging) => (staging.path().to_owned(), String::new(), BATCH),
        None => (root.join(".staging"), format!("{:016x}-", fastrand::u64(..)), BATCH_WITHOUT_ROOM),
    };
    let mut n_gone = 0;
    let mut numbers = 0_u64..;
    let mut victims = victims.into_iter();
    loop {
        let batch: Vec<Item> = victims.by_ref().take(batch_max).collect();
        if batch.is_empty() {
            return Ok(n_gone);
        }
        let mut moved = Vec::with_capacity(batch.len());
        {
            let gate = ClosedGate::close(root)?;
            let uses = match spare {
                Spare::Used => Some(Uses::of(root, Cow::Borrowed(gate.leased()))?),
                Spare::Nothing => None,
            };
            let mut sources = BTreeSet::new();
            for (item, n) in batch.into_iter().zip(&mut numbers) {
                let to = aside.join(format!("{prefix}{n}"));
                if !uses.as_ref().is_some_and(|uses| uses.has(&item)) && move_out(&item, &to)? {
                    sources.extend(item.path.parent().filter(|_| item.held.is_some()).map(Path::to_owned));
                    moved.push((item, to));
                }
            }
            for source in sources {
                forget(root, &source, gate.leased());
            }
        }
        for (Item { what, path, used, .. }, to) in moved {
            let mut freed = size::remove(&to)?;
            for beside in ["files", "json"] {
                freed += size::remove(&to.with_extension(beside))?;
            }
            on_evicted(Evicted { what, path, used, freed });
            n_gone += 1;
        }
    }
}

/// Moves one thing out if it is still there and was not used since; says whether it did.
fn move_out(item: &Item, to: &Path) -> io::Result<bool> {
    match &item.what {
        What::Entry(entry) => {
            let sidecar = entry.tree.with_extension("json");
            let used = metadata(&sidecar).and_then(|metadata| metadata.modified().ok());
            // First the sidecar: without it there is no entry.
            if used != Some(entry.used) || !renamed(&sidecar, &to.with_extension("json"))? {
                return Ok(false);
            }
            renamed(&entry.tree, to)?;
            renamed(&entry.tree.with_extension("files"), &to.with_extension("files"))?;
            Ok(true)
        }
        What::Blob | What::Log | What::Partial => {
            let is_as_before = metadata(&item.path).is_some_and(|metadata| read_or_written(&metadata) == item.used);
            // A download under way is locked.
            let file = fs::File::open(&item.path);
            let is_free = file.as_ref().is_ok_and(|file| file.file().try_lock().is_ok());
            Ok(is_as_before && is_free && renamed(&item.path, to)?)
        }
        What::Stray | What::Aside => renamed(&item.path, to),
    }
}

fn renamed(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes what is no longer there out of a source's `configs.json`, and removes directories that are empty.
fn forget(root: &Path, source: &Path, leased: &Leased) {
    let Ok(below) = source.strip_prefix(root) else { return };
    if below.starts_with("blobs") {
        return;
    }
    let is_sidecar = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json") && !path.ends_with("configs.json")
    };
    let left: Vec<PathBuf> = sorted(source).unwrap_or_default().into_iter().filter(is_sidecar).collect();
    let configs = source.join("configs.json");
    if left.is_empty() {
        let _ = fs::remove_file(&configs);
    } else if let Ok(bytes) = fs::read(&configs)
        && let Ok(mut json) = serde_json::from_slice::<serde_json::Value>(&bytes)
        && let Some(known) = json.get_mut("configs").and_then(serde_json::Value::as_object_mut)
    {
        known.retain(|config, _| source.join(config).with_extension("json").is_file());
        // Lost in a crash it is made good from the sidecars, so nothing waits for the disk here.
        let _ = serde_json::to_vec_pretty(&json).map(|bytes| write_unflushed(&configs, &bytes));
    }
    // Whoever publishes has leased the source before making directories; what is not empty stays.
    for dir in [Some(source), source.parent(), source.parent().and_then(Path::parent)].into_iter().flatten() {
        let name = dir.strip_prefix(root).unwrap_or(dir).to_string_lossy();
        if name.is_empty() || leased.holds_in(&name) {
            return;
        }
        if sorted(dir).is_ok_and(|items| items.iter().all(|item| item.ends_with("platform.json"))) {
            let _ = fs::remove_file(dir.join("platform.json"));
        }
        #[expect(clippy::disallowed_methods, reason = "that it is not empty is no error")]
        if std::fs::remove_dir(dir).is_err() {
            return;
        }
    }
}
