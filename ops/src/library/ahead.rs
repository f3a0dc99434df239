//! What is made ready beside a run, while nobody knows yet whether the library will change.
//!
//! A symlink is the same whenever it is made: a name in the store. So those that a run will need wait in staging, and so
//! does the record as it will be if all goes as planned; what is left to do at its end is a rename for each. Trees of
//! files are not made ahead: what the store has under their name might be another tree by then.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fault::fs;

use super::record::Written;
use super::{Lease, Library, Record, staging};
use crate::fs::{clear, join};
use crate::key::Reference;
use crate::link::{LinkMode, Linker};
use crate::package::PackageName;

/// What waits in a library; if nobody takes it, it is removed with this.
#[derive(Debug)]
pub(super) struct Ahead {
    root: PathBuf,
    staging: PathBuf,
    /// By package, where the symlink in staging leads; `None` once they were taken.
    links: Mutex<Option<Links>>,
    /// What the record may say, flushed; its own lock, since that takes as long as many links.
    record: Mutex<Option<Expected>>,
}

pub(super) type Links = BTreeMap<PackageName, PathBuf>;

/// A record that is written, or not yet.
type Expected = Option<(BTreeMap<PackageName, Reference>, Written)>;

impl Ahead {
    pub(super) fn new(root: &Path) -> Self {
        let (links, record) = (Mutex::new(Some(Links::new())), Mutex::new(Some(None)));
        Self { root: root.to_owned(), staging: staging(root), links, record }
    }

    /// Takes the links; from here on none is made.
    pub(super) fn take_links(&self) -> Links {
        lock(&self.links).take().unwrap_or_default()
    }

    /// Takes the record; from here on none is written.
    pub(super) fn take_record(&self) -> Expected {
        lock(&self.record).take().flatten()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if !self.take_links().is_empty() {
            // Whoever opens the library next does it too.
            let _ = clear(&self.staging);
        }
        if self.take_record().is_some() {
            Record::discard_entries(&self.root);
        }
    }
}

/// Makes symlinks ready for a library, and keeps others from changing it.
#[derive(Debug)]
pub struct Stager {
    ahead: Arc<Ahead>,
    linker: Arc<Linker>,
    _lease: Lease,
}

impl Library {
    /// Returns by what symlinks can be made ready for [`Library::apply`] while it is not called yet, if it would put
    /// symlinks there one by one.
    pub fn stager(&self, linker: &Arc<Linker>) -> Option<Stager> {
        let takes_symlinks = self.place.generations.is_none() && linker.mode() == LinkMode::Symlink;
        let stager = || Stager { ahead: Arc::clone(&self.ahead), linker: Arc::clone(linker), _lease: self.lease() };
        takes_symlinks.then(stager)
    }
}

impl Stager {
    /// Makes the symlink by which the library would have this tree. What cannot be made now is tried again, and told,
    /// when the library changes; when it does already, nothing happens.
    pub fn stage(&self, package: &PackageName, tree: &Path) {
        let mut links = lock(&self.ahead.links);
        let Some(links) = links.as_mut().filter(|links| !links.contains_key(package)) else { return };
        let staging = &self.ahead.staging;
        let link = || -> io::Result<()> {
            if links.is_empty() {
                fs::create_dir_all(staging)?;
            }
            self.linker.link_tree(tree, &join(staging, package.as_str()))
        };
        match link() {
            Ok(()) => drop(links.insert(package.clone(), tree.to_owned())),
            Err(error) => tracing::debug!(%package, %error, "no symlink is made ahead"),
        }
    }

    /// Writes and flushes what the record is to say if all goes as planned. If it says something else in the end, that is
    /// written then.
    pub fn expect(&self, entries: BTreeMap<PackageName, Reference>) {
        let mut record = lock(&self.ahead.record);
        let Some(record) = record.as_mut() else { return };
        let written = Record::write_entries(&self.ahead.root, &entries);
        match written.and_then(Written::flushed) {
            Ok(written) => *record = Some((entries, written)),
            Err(error) => {
                tracing::debug!(%error, "no record is written ahead");
                Record::discard_entries(&self.ahead.root);
            }
        }
    }
}
