//! One entry as it lies on the disk: how it is completed, told from a broken one, and set aside if it is one.
//!
//! ```text
//! {config_hash}/         the tree
//! {config_hash}.files    its manifest
//! {config_hash}.json     its sidecar, with the digest of the manifest, and as its last field a checksum of itself
//! ```
//!
//! What is written when: the tree gets its name, then manifest and `configs.json` get theirs, then the whole file
//! system is flushed once (`syncfs`), then the sidecar is written, flushed and named, and last its directory flushed.
//! So after a loss of power, too, whoever finds a sidecar finds everything that it speaks of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::manifest::{Item, Manifest, ManifestError};
use super::scan::{self, Scan, Seen};
use super::sidecar::{Glance, seal};
use super::{Sidecar, StagingDir, Store, StoreError};
use crate::digest::Sha256Digest;
use crate::fault::{self, fs};
use crate::fs::{join, read_small};
use crate::key::Reference;
use crate::package::{Description, PackageName};

/// Where broken entries are kept for inspection, below the store's root.
pub(super) const ASIDE: &str = ".aside";

/// How closely an entry is looked at before it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Whether the sidecar is whole and the tree has a DESCRIPTION.
    #[default]
    Glance,
    /// Every byte of the tree as well, against the manifest. An entry that never had one passes.
    Full,
}

/// What is wrong with one path of the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The manifest has it, the tree has not.
    #[error("is missing")]
    Missing,
    /// The tree has it, the manifest has not.
    #[error("does not belong there")]
    Extra,
    /// The bytes are others.
    #[error("has another content than when it was stored")]
    Changed,
    /// The size is another.
    #[error("has {found} bytes instead of {expected}")]
    Size {
        /// Bytes when it was stored.
        expected: u64,
        /// Bytes now.
        found: u64,
    },
    /// It is another kind of thing, or a link to something else.
    #[error("is another kind of thing than when it was stored, or points elsewhere")]
    Kind,
    /// The permissions are others.
    #[error("has mode {found:04o} instead of {expected:04o}")]
    Mode {
        /// Permission bits when it was stored.
        expected: u32,
        /// Permission bits now.
        found: u32,
    },
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A record says what cannot be.
    #[error("is not to be believed: {0}")]
    Lie(String),
    /// A tree that nothing describes.
    #[error("has no sidecar")]
    NoSidecar,
    /// A description of nothing.
    #[error("has no tree")]
    NoTree,
    /// A tree that is no installed package.
    #[error("has no DESCRIPTION of an installed package")]
    NotAPackage,
}

/// An entry that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its entry in the store is broken: {} {problem}{}", path.display(), more(*n_more))]
pub struct BrokenEntry {
    /// The first path that is not as it should be.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
    /// How many more there are.
    pub n_more: usize,
}

fn more(n: usize) -> String {
    if n == 0 { String::new() } else { format!(", and {n} more") }
}

/// A path with what is wrong with it.
pub(super) type Wrong = (PathBuf, Problem);

impl Store {
    pub(super) fn manifest_path(&self, package: &PackageName, reference: Reference) -> PathBuf {
        self.tree(package, reference).with_extension("files")
    }

    /// Returns what the tree of an entry consists of, if that is recorded and the record is what the sidecar names.
    pub(super) fn manifest(&self, package: &PackageName, reference: Reference, sidecar: &Sidecar) -> Option<Manifest> {
        let text = fs::read(self.place(package, reference).with_extension("files")).ok()?;
        Manifest::parse(&text).ok().filter(|_| sidecar.tree == Some(Sha256Digest::of(&text)))
    }

    /// Makes the tree that has its name already an entry. The caller holds the source's lock.
    pub(super) fn complete(
        &self,
        package: &PackageName,
        reference: Reference,
        manifest: &Manifest,
        sidecar: &Sidecar,
    ) -> Result<(), StoreError> {
        let (scratch, dir) = (self.stage()?, self.source_dir(package, reference.source));
        let text = manifest.to_text();
        let sidecar = sidecar.clone().about(manifest);
        self.write_platform(&scratch)?;
        write(&scratch, &self.manifest_path(package, reference), &text)?;
        self.add_config(&scratch, package, reference, &sidecar)?;
        fault::point("complete: syncfs")?;
        self.flushes.flush(&dir)?;
        write_flushed(&scratch, &self.sidecar_path(package, reference), &seal(&sidecar)?)?;
        Ok(())
    }

    /// Looks at an entry of this very store before it is used. `None` if there is none, or none that this machine can
    /// load; `Err` if there is one that is broken.
    pub(super) fn inspect_here(
        &self,
        package: &PackageName,
        reference: Reference,
        depth: Depth,
    ) -> Result<Option<PathBuf>, BrokenEntry> {
        let (tree, sidecar_path) = (self.tree(package, reference), self.sidecar_path(package, reference));
        let bytes = read_small(&sidecar_path);
        if bytes.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let is_package = join(&tree, "DESCRIPTION").is_file();
        if !is_package && !tree.is_dir() {
            return Ok(None);
        }
        let sidecar = bytes.map_err(|error| error.to_string());
        let sidecar = sidecar.and_then(|bytes| Glance::parse(&bytes).map_err(|error| error.to_string()));
        if sidecar.as_ref().is_ok_and(|sidecar| !self.lacking(&sidecar.sonames).is_empty()) {
            return Ok(None);
        }
        let wrong = match depth {
            Depth::Full => self.examine(package, reference, scan::n_threads()).wrong,
            Depth::Glance => {
                let unreadable = sidecar.err().map(|why| (sidecar_path, Problem::Unreadable(why)));
                unreadable.into_iter().chain((!is_package).then(|| (tree.clone(), Problem::NotAPackage))).collect()
            }
        };
        // Where the content is right, so can the modes be.
        let is_mended =
            !wrong.is_empty() && !self.is_base && self.mend_modes(package, reference, &wrong).unwrap_or(false);
        let mut wrong = wrong.into_iter().filter(|_| !is_mended);
        match wrong.next() {
            None => Ok(Some(tree)),
            Some((path, problem)) => Err(BrokenEntry { path, problem, n_more: wrong.count() }),
        }
    }

    /// Returns which of the shared libraries that an entry needs this machine has not.
    pub(crate) fn lacking<'a>(&self, sonames: &'a BTreeSet<String>) -> Vec<&'a str> {
        self.libraries.as_ref().map(|libraries| libraries.lacking(sonames)).unwrap_or_default()
    }

    /// Sets modes back if nothing but modes is wrong with an entry; says whether that is so.
    pub(super) fn mend_modes(&self, package: &PackageName, reference: Reference, wrong: &[Wrong]) -> io::Result<bool> {
        let are_modes = wrong.iter().all(|(_, problem)| matches!(problem, Problem::Mode { .. }));
        let manifest = || self.manifest(package, reference, &self.sidecar(package, reference)?);
        match are_modes.then(manifest).flatten() {
            Some(manifest) => scan::set_modes(&self.tree(package, reference), &manifest).map(|()| true),
            None => Ok(false),
        }
    }

    /// Says whether `tree`, a package of a library, has the content of this entry. `None` if there is nothing that
    /// says what that is.
    pub fn is_copy(&self, package: &PackageName, reference: Reference, tree: &Path) -> Option<bool> {
        let manifest = self.manifest(package, reference, &self.sidecar(package, reference)?)?;
        let scan = scan::scan(tree, scan::n_threads(), |_| true).ok()?;
        Some(differences(tree, &manifest, &scan).iter().all(|(_, problem)| matches!(problem, Problem::Mode { .. })))
    }

    /// Reads everything of an entry whose tree and sidecar are there.
    pub(super) fn examine(&self, package: &PackageName, reference: Reference, n_threads: usize) -> Examined {
        let (tree, mut wrong) = (self.tree(package, reference), Vec::new());
        let (sidecar_path, manifest_path) = (tree.with_extension("json"), tree.with_extension("files"));
        let sidecar = match fs::read(&sidecar_path) {
            Ok(bytes) => Sidecar::parse(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let sidecar = sidecar.map_err(|why| wrong.push((sidecar_path.clone(), Problem::Unreadable(why)))).ok();
        let text = match fs::read(&manifest_path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                wrong.push((manifest_path.clone(), Problem::Unreadable(error.to_string())));
                None
            }
        };
        let parse = |text: &[u8]| Manifest::parse(text).map_err(|error: ManifestError| error.to_string());
        let manifest = text.as_deref().map(parse).transpose();
        let manifest =
            manifest.map_err(|why| wrong.push((manifest_path.clone(), Problem::Unreadable(why)))).ok().flatten();
        let expected = sidecar.as_ref().and_then(|sidecar| sidecar.tree);
        match (&text, expected) {
            (None, Some(_)) => wrong.push((manifest_path, Problem::Missing)),
            (Some(text), Some(expected)) if Sha256Digest::of(text) != expected => {
                wrong.push((manifest_path, Problem::Lie("it is not the one that its sidecar names".to_owned())));
            }
            _ => {}
        }
        let scan = scan::scan(&tree, n_threads, |_| true);
        let scan = scan.map_err(|error| wrong.push((tree.clone(), Problem::Unreadable(error.to_string())))).ok();
        if let (Some(manifest), Some(scan)) = (&manifest, &scan) {
            wrong.extend(differences(&tree, manifest, scan));
        }
        if let Some(sidecar) = &sidecar {
            let lie = sidecar.lie(package, reference, manifest.as_ref());
            wrong.extend(lie.map(|why| (sidecar_path, Problem::Lie(why.to_owned()))));
        }
        let description = fs::read(tree.join("DESCRIPTION")).unwrap_or_default();
        if !Description::parse(&description).is_built() {
            wrong.push((tree.clone(), Problem::NotAPackage));
        }
        let found = scan.iter().flat_map(Scan::values).flatten().map(|seen| &seen.item);
        let size = found.map(|item| if let Item::File { size, .. } = item { *size } else { 0 }).sum();
        Examined { wrong, size, has_manifest: text.is_some() }
    }

    /// Returns an entry that is to be used. One that is broken is set aside, so that the next who wants it builds it.
    pub fn sound(
        &self,
        package: &PackageName,
        reference: Reference,
        depth: Depth,
    ) -> io::Result<Result<Option<PathBuf>, BrokenEntry>> {
        if let Ok(found) = self.inspect(package, reference, depth) {
            return Ok(Ok(found));
        }
        let _lock = self.lock_source(reference.source)?;
        // Another process may have made it good meanwhile.
        let found = self.inspect(package, reference, depth);
        if let Err(broken) = &found {
            self.set_aside(package, reference, broken)?;
            self.mend_configs(package, reference.source)?;
        }
        Ok(found)
    }

    /// Moves an entry, or what is left of one, to `{root}/.aside`, with a note that says why. It is no entry any more.
    /// Returns where it is now. The caller holds the source's lock.
    pub fn set_aside(
        &self,
        package: &PackageName,
        reference: Reference,
        why: &dyn fmt::Display,
    ) -> io::Result<PathBuf> {
        let tree = self.tree(package, reference);
        self.forget_ahead(package, reference);
        // The sidecar first: without it the rest is no entry.
        let parts = [(tree.with_extension("json"), "sidecar.json"), (tree.clone(), "tree")];
        let parts = parts.into_iter().chain([(tree.with_extension("files"), "tree.files")]);
        self.put_aside(package.as_str(), &tree, parts, why)
    }

    /// Moves these things into one new directory of `{root}/.aside`. Those that are not there are passed over.
    pub(super) fn put_aside(
        &self,
        name: &str,
        place: &Path,
        parts: impl IntoIterator<Item = (PathBuf, &'static str)>,
        why: &dyn fmt::Display,
    ) -> io::Result<PathBuf> {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let name = format!("{name}-{}-{:08x}", time.replace(':', ""), fastrand::u32(..));
        let aside = self.root.join(ASIDE).join(name);
        fs::create_dir_all(&aside)?;
        fs::write(aside.join("why.txt"), format!("{}\nset aside at {time}:\n{why}\n", place.display()))?;
        for (from, to) in parts {
            match fs::rename(from, aside.join(to)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(aside)
    }
}

/// What reading an entry showed.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) wrong: Vec<Wrong>,
    /// Bytes of all files that are there.
    pub(super) size: u64,
    pub(super) has_manifest: bool,
}

/// Compares a tree with what it was.
pub(super) fn differences(tree: &Path, manifest: &Manifest, scan: &Scan) -> Vec<Wrong> {
    let mut wrong = Vec::new();
    let seen_at = |path: &Path| scan.get(path.as_os_str().as_encoded_bytes());
    for (path, item) in manifest.iter() {
        let problem = match seen_at(path) {
            None => Some(Problem::Missing),
            Some(Err(error)) => Some(Problem::Unreadable(error.to_string())),
            Some(Ok(seen)) => difference(item, seen),
        };
        wrong.extend(problem.map(|problem| (tree.join(path), problem)));
    }
    for path in scan.keys() {
        let path = Path::new(OsStr::from_bytes(path));
        if manifest.get(path).is_none() {
            wrong.push((tree.join(path), Problem::Extra));
        }
    }
    wrong
}

fn difference(expected: &Item, seen: &Seen) -> Option<Problem> {
    match (expected, &seen.item) {
        (Item::File { size, digest, .. }, Item::File { size: found, digest: content, .. }) => {
            if size != found {
                return Some(Problem::Size { expected: *size, found: *found });
            }
            if digest != content {
                return Some(Problem::Changed);
            }
        }
        (expected, found) if expected != found => return Some(Problem::Kind),
        _ => {}
    }
    let mode = expected.mode().filter(|mode| *mode != seen.mode)?;
    Some(Problem::Mode { expected: mode, found: seen.mode })
}

/// Writes a file so that readers see the old content or the new. It is made in staging: whoever dies meanwhile leaves
/// nothing among the entries.
pub(super) fn write(scratch: &StagingDir, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = scratch.path().join("new");
    fs::write(&new, bytes)?;
    fs::rename(new, path)
}

/// As [`write`], and flushed: content before the name, then the name.
pub(super) fn write_flushed(scratch: &StagingDir, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = scratch.path().join("new");
    fault::point("write_flushed: create")?;
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    fault::point("write_flushed: flush")?;
    file.sync_data()?;
    fs::rename(new, path)?;
    flush_dir(path.parent().expect("a file has a directory"))
}

/// Flushes the names in a directory. A file system that does not know how is trusted with them.
pub(super) fn flush_dir(dir: &Path) -> io::Result<()> {
    fault::point("flush a directory")?;
    match fs::File::open(dir)?.sync_all() {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}
