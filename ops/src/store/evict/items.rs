//! Everything that a store could do without, with its last use and its size.

use std::collections::HashMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::fault::fs;

use super::What;
use crate::digest::Sha256Digest;
use crate::store::lease::Held;
use crate::store::listing::{Listed, Listing, sorted};
use crate::store::size;

/// One thing, as it was when it was found.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) path: PathBuf,
    pub(super) used: SystemTime,
    pub(super) bytes: u64,
    /// How a lease names it, if one can.
    pub(super) held: Option<Held>,
}

impl Item {
    fn new(what: What, path: PathBuf, used: SystemTime, held: Option<Held>) -> Self {
        Self { bytes: size::of(&path).bytes, what, path, used, held }
    }

    pub(super) fn entry(&self) -> Option<&Listed> {
        match &self.what {
            What::Entry(entry) => Some(entry),
            _ => None,
        }
    }
}

impl From<Listed> for Item {
    fn from(entry: Listed) -> Self {
        let (platform, package) = (entry.platform.clone(), entry.package.clone());
        Self {
            path: entry.tree.clone(),
            used: entry.used,
            bytes: entry.bytes,
            held: Some(Held::Source { platform, package, source: entry.reference.source }),
            what: What::Entry(Box::new(entry)),
        }
    }
}

pub(super) fn gather(root: &Path) -> io::Result<Vec<Item>> {
    let Listing { entries, strays } = Listing::read(root, None)?;
    let mut items: Vec<Item> = entries.into_iter().map(Item::from).collect();
    for stray in strays {
        let held = Held::Source { platform: stray.platform, package: stray.package, source: stray.source };
        // The tree's own times are those of its build, which a copy keeps.
        if let Some(metadata) = metadata(&stray.path) {
            items.push(Item::new(What::Stray, stray.path, changed(&metadata), Some(held)));
        }
    }
    for folder in sorted(&root.join("blobs/sha256"))? {
        for path in sorted(&folder)? {
            let digest: Option<Sha256Digest> = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let (Some(digest), Some(metadata)) = (digest, metadata(&path)) {
                items.push(Item::new(What::Blob, path, read_or_written(&metadata), Some(Held::Blob(digest))));
            }
        }
    }
    for path in sorted(&root.join("blobs/partial"))? {
        if let Some(metadata) = metadata(&path) {
            items.push(Item::new(What::Partial, path, read_or_written(&metadata), None));
        }
    }
    for package in sorted(&root.join("logs"))? {
        for path in sorted(&package)? {
            if let Some(metadata) = metadata(&path) {
                items.push(Item::new(What::Log, path, read_or_written(&metadata), None));
            }
        }
    }
    for path in sorted(&root.join(".aside"))? {
        if let Some(metadata) = metadata(&path) {
            items.push(Item::new(What::Aside, path, changed(&metadata), None));
        }
    }
    Ok(items)
}

pub(super) fn metadata(path: &Path) -> Option<Metadata> {
    fs::symlink_metadata(path).ok()
}

/// When it got its name, which moving alone changes.
pub(super) fn changed(metadata: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds
}

/// When it was last read, as far as the file system keeps track of that (once a day will do), or else written.
pub(super) fn read_or_written(metadata: &Metadata) -> SystemTime {
    let times = [metadata.modified(), metadata.accessed()];
    times.into_iter().flatten().max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// The entries that share their files, which are freed with the last of them.
pub(super) struct Groups {
    left: HashMap<(String, Sha256Digest, Sha256Digest), (usize, u64)>,
}

impl Groups {
    pub(super) fn of(items: &[Item]) -> Self {
        let mut left = HashMap::new();
        for entry in items.iter().filter_map(Item::entry) {
            let (n, bytes) = left.entry(Self::group(entry)).or_insert((0, 0));
            *n += 1;
            *bytes = entry.bytes.max(*bytes);
        }
        Self { left }
    }

    fn group(entry: &Listed) -> (String, Sha256Digest, Sha256Digest) {
        (entry.platform.clone(), entry.reference.source, entry.group)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.left.values().map(|(_, bytes)| bytes).sum()
    }

    pub(super) fn remove(&mut self, item: &Item) -> u64 {
        let Some(entry) = item.entry() else { return item.bytes };
        match self.left.get_mut(&Self::group(entry)) {
            Some((n, bytes)) => {
                *n -= 1;
                if *n == 0 { *bytes } else { 0 }
            }
            None => 0,
        }
    }
}
