//! Eviction: what has not been used for long, or is too much, leaves the store; never what somebody uses.
//!
//! Used is what a living run has leased ([`super::lease`]) and what a living library holds ([`super::roots`]). Victims
//! are found without holding anybody up. Then, a batch at a time and with the gate closed, each is looked at again
//! and moved into staging, sidecar first; the deleting happens when the gate is open again. So at any instant an
//! entry is there whole or is a miss, and an evictor that is killed leaves only staging to be swept.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::fault::fs;

use super::lease::Leased;
use super::listing::{Listed, Listing, sorted};
use super::roots::{RootError, Rooted};
use super::size::{self, Forecast};
use super::{keys, staging};
use crate::lock::Lock;
use crate::workers::{Worker, Workers};
use items::{Groups, Item, gather};
use take::take;

mod items;
mod take;

/// What is to leave a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// What was not used for this long goes; `None` or zero is off.
    pub older_than: Option<Duration>,
    /// What was used least recently goes until no more than these bytes are left.
    pub max_bytes: Option<u64>,
    /// Whether to tell only what would go.
    pub is_dry_run: bool,
}

/// What one thing in a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A package's tree with its sidecar.
    Entry(Box<Listed>),
    /// Something in a source's directory that belongs to no entry.
    Stray,
    /// A download.
    Blob,
    /// A download that was broken off.
    Partial,
    /// The output of a build.
    Log,
    /// A bad entry that was set aside.
    Aside,
    /// The library of a worker whose owner has ended.
    Worker,
}

/// One thing that left the store, or would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// What it is.
    pub what: What,
    /// Where it was.
    pub path: PathBuf,
    /// When it was last used.
    pub used: SystemTime,
    /// The bytes that this gave back, links to them elsewhere considered.
    pub freed: u64,
}

/// What came of an eviction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many entries went.
    pub n_entries: usize,
    /// How many other things went.
    pub n_others: usize,
    /// The bytes that this gave back.
    pub freed: u64,
    /// How many things should have gone, but are in use.
    pub n_in_use: usize,
    /// How many bytes the store holds afterwards, without staging.
    pub left: u64,
}

/// Why an eviction ended early. What went until then is gone, and the rest is whole.
#[derive(Debug, thiserror::Error)]
pub enum EvictError {
    /// The file system refused; the message has the path.
    #[error("the store: {0}")]
    Io(#[from] io::Error),
    /// A library's needs are not known.
    #[error(transparent)]
    Root(#[from] RootError),
    /// What is to be removed is in use.
    #[error("in use by a run or a library: {}", .0.iter().map(|e| format!("{} {}", e.package, e.version)).collect::<Vec<_>>().join(", "))]
    InUse(Vec<Listed>),
}

/// Removes from the store at `root`, for all platforms, what the policy says, and tells of each thing to `on_evicted`.
///
/// Blocks; processes that use the store are held up for milliseconds. What dead processes left goes in any case, the
/// libraries of workers among it.
pub fn evict(
    root: &Path,
    policy: &Policy,
    now: SystemTime,
    mut on_evicted: impl FnMut(&Evicted),
) -> Result<Summary, EvictError> {
    let mut forecast = Forecast::default();
    // First, since what they hold may go then.
    let workers = end_workers(root, policy, &mut forecast)?;
    let mut items = gather(root)?;
    items.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    let uses = Uses::now(root)?;
    let mut summary = Summary::default();
    let mut groups = Groups::of(&items);
    summary.left = items.iter().map(|item| if matches!(item.what, What::Entry(_)) { 0 } else { item.bytes }).sum();
    summary.left += groups.bytes();
    let cutoff = policy.older_than.filter(|age| !age.is_zero()).and_then(|age| now.checked_sub(age));
    let mut victims = Vec::new();
    for item in items {
        let is_old = cutoff.is_some_and(|cutoff| item.used < cutoff);
        let is_too_much = policy.max_bytes.is_some_and(|max| summary.left > max);
        if !is_old && !is_too_much {
            continue;
        }
        if uses.has(&item) {
            summary.n_in_use += 1;
            continue;
        }
        summary.left -= groups.remove(&item);
        victims.push(item);
    }
    let mut tell = |evicted: Evicted| {
        match evicted.what {
            What::Entry(_) => summary.n_entries += 1,
            _ => summary.n_others += 1,
        }
        summary.freed += evicted.freed;
        on_evicted(&evicted);
    };
    workers.into_iter().for_each(&mut tell);
    if policy.is_dry_run {
        for Item { what, path, used, .. } in victims {
            let freed = forecast.remove(&path);
            tell(Evicted { what, path, used, freed });
        }
        return Ok(summary);
    }
    let n_victims = victims.len();
    let n_gone = take(root, victims, Spare::Used, &mut tell)?;
    summary.n_in_use += n_victims - n_gone;
    tidy(root);
    Ok(summary)
}

/// Removes the entries that `is_wanted` names, and tells of each to `on_evicted`; nothing if one of them is in use,
/// unless `is_forced`.
pub fn remove(
    root: &Path,
    is_wanted: impl Fn(&Listed) -> bool,
    is_forced: bool,
    mut on_evicted: impl FnMut(Evicted),
) -> Result<usize, EvictError> {
    let wanted: Vec<Listed> = Listing::read(root, None)?.entries.into_iter().filter(is_wanted).collect();
    let items: Vec<Item> = wanted.into_iter().map(Item::from).collect();
    if is_forced {
        return take(root, items, Spare::Nothing, &mut on_evicted);
    }
    let uses = Uses::now(root)?;
    let in_use = items.iter().filter(|item| uses.has(item));
    let in_use: Vec<Listed> = in_use.filter_map(|item| item.entry().cloned()).collect();
    if !in_use.is_empty() {
        return Err(EvictError::InUse(in_use));
    }
    take(root, items, Spare::Used, &mut on_evicted)
}

/// Removes the libraries of workers whose owners have ended; returns which.
fn end_workers(root: &Path, policy: &Policy, forecast: &mut Forecast) -> Result<Vec<Evicted>, EvictError> {
    let workers = Workers::of(root);
    let end = |worker: Worker| {
        let freed = if policy.is_dry_run { forecast.remove(&worker.library) } else { size::remove(&worker.library)? };
        if !policy.is_dry_run {
            workers.remove(&worker.id).map_err(io::Error::from)?;
        }
        Ok(Evicted { what: What::Worker, path: worker.library, used: worker.made, freed })
    };
    workers.ended().map_err(io::Error::from)?.into_iter().map(end).collect()
}

/// What somebody uses.
struct Uses<'a> {
    leased: Cow<'a, Leased>,
    rooted: Rooted,
}

impl<'a> Uses<'a> {
    /// Looks at the leases first: who puts something into a library has it leased until the library's record says so.
    fn of(root: &Path, leased: Cow<'a, Leased>) -> Result<Self, RootError> {
        Ok(Self { leased, rooted: Rooted::read(root, |gone| drop(fs::remove_file(gone)))? })
    }

    /// What is used at some moment, which without the gate is good for a forecast only.
    fn now(root: &Path) -> Result<Self, EvictError> {
        Ok(Self::of(root, Cow::Owned(Leased::read(root, |_| {})?))?)
    }

    fn has(&self, item: &Item) -> bool {
        let is_rooted = |entry: &Listed| self.rooted.holds(&entry.platform, entry.package.as_str(), entry.reference);
        item.held.as_ref().is_some_and(|held| self.leased.holds(held)) || item.entry().is_some_and(is_rooted)
    }
}

/// What is not to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spare {
    /// What somebody uses.
    Used,
    Nothing,
}

/// Removes what dead processes left, and what is known of keys whose sources are gone.
fn tidy(root: &Path) {
    staging::sweep(root);
    for platform in sorted(&root.join(".keys")).unwrap_or_default() {
        keys::prune(root, &platform);
    }
    let locks = root.join(".locks");
    for path in sorted(&locks).unwrap_or_default() {
        if path.extension().is_some_and(|extension| extension == "lock") {
            Lock::sweep(&path);
        }
    }
}

#[cfg(test)]
mod tests;
