//! Reading the stream: everything is verified in staging before the first entry is published.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use crate::fault::{self, fs};
use fs_err::os::unix::fs::symlink;

use super::{Depth, FORMAT, INDEX, ImportError, Index, Listed, Moved};
use crate::digest::{Hasher, Sha256Digest};
use crate::package::Description;
use crate::store::manifest::{Item, Manifest};
use crate::store::verify::is_platform_name;
use crate::store::{Sidecar, Store, scan};
use crate::unpack::{Metered, check_link};

/// The most that records may hold: each lists a line or an object for every file or entry.
const RECORD_BYTES_MAX: u64 = 64 << 20;
/// The most that a member's header may hold besides its block.
const HEADER_BYTES_MAX: u64 = 64 << 10;
/// The most memory that the decoder may use, as a power of two: what levels up to 19 need.
const WINDOW_LOG_MAX: u32 = 27;

/// An entry in staging, verified.
struct Staged {
    listed: Listed,
    sidecar: Sidecar,
    manifest: Manifest,
    tree: PathBuf,
}

/// Takes in what [`export`](super::export) wrote; entries that `store` has already stay as they are.
///
/// The stream must be for the platform of `store`, unless `is_any_platform`: then it goes where it belongs. One bit off
/// anywhere, and nothing is published.
pub fn import(store: &Store, is_any_platform: bool, input: impl Read) -> Result<Moved, ImportError> {
    take_in(store, is_any_platform, None, input)
}

/// Takes in a stream that must hold this entry and no other.
pub(crate) fn import_one(store: &Store, wanted: &Listed, input: impl Read) -> Result<Moved, ImportError> {
    take_in(store, false, Some(wanted), input)
}

fn take_in(
    store: &Store,
    is_any_platform: bool,
    wanted: Option<&Listed>,
    input: impl Read,
) -> Result<Moved, ImportError> {
    let not_an_export = |error: io::Error| ImportError::NotAnExport(error.to_string());
    let mut decoder = zstd::Decoder::new(input).map_err(not_an_export)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(not_an_export)?;
    let left = Rc::new(Cell::new(HEADER_BYTES_MAX));
    let mut archive = tar::Archive::new(Metered { reader: decoder, left: Rc::clone(&left) });
    let mut members = Members { entries: archive.entries().map_err(not_an_export)?, left: Rc::clone(&left) };
    let index = read_index(&mut members)?;
    if !is_any_platform && index.platform != store.platform() {
        return Err(ImportError::OtherPlatform { found: index.platform, here: store.platform().to_owned() });
    }
    if wanted.is_some_and(|wanted| !matches!(&*index.entries, [only] if only == wanted)) {
        return Err(ImportError::NotAnExport("it holds another entry than its label says".to_owned()));
    }
    let store = Store::open(store.root(), index.platform, index.description.join("\n"));
    let scratch = store.stage()?;
    let mut staged = Vec::with_capacity(index.entries.len().min(1 << 16));
    for (n, listed) in index.entries.into_iter().enumerate() {
        staged.push(stage(&store, &mut members, listed, n, &scratch.path().join(n.to_string()))?);
    }
    members.end()?;
    left.set(u64::MAX);
    let mut rest = archive.into_inner();
    let is_zero = |buffer: &[u8]| buffer.iter().all(|byte| *byte == 0);
    let mut buffer = [0; 4096];
    loop {
        match rest.read(&mut buffer).map_err(ImportError::Damaged)? {
            0 => break,
            n if is_zero(&buffer[..n]) => {}
            _ => return Err(ImportError::NotAnExport("there is something behind its end".to_owned())),
        }
    }
    let mut moved = Moved { n_entries: staged.len(), ..Moved::default() };
    for Staged { listed: Listed { package, reference, .. }, sidecar, manifest, tree } in staged {
        moved.bytes += manifest.size();
        let _lock = store.lock_source(reference.source)?;
        if let Ok(Some(_)) = store.inspect(&package, reference, Depth::Glance) {
            store.touch(&package, reference);
            moved.n_present += 1;
        } else {
            store.enter(&tree, &package, reference, &manifest, &sidecar)?;
        }
    }
    Ok(moved)
}

fn read_index<R: Read>(members: &mut Members<'_, R>) -> Result<Index, ImportError> {
    let not_an_export = |error: &dyn std::fmt::Display| ImportError::NotAnExport(error.to_string());
    let bytes = members.record(INDEX).map_err(|error| not_an_export(&error))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| not_an_export(&error))?;
    if index.format != FORMAT {
        return Err(not_an_export(&format!("its format is `{}`, not `{FORMAT}`", index.format.escape_debug())));
    }
    if !is_platform_name(&index.platform) {
        return Err(not_an_export(&format!("`{}` is no platform", index.platform.escape_debug())));
    }
    Ok(index)
}

/// Unpacks one entry to `tree`, and checks all that can be known of it.
fn stage<R: Read>(
    store: &Store,
    members: &mut Members<'_, R>,
    listed: Listed,
    n: usize,
    tree: &Path,
) -> Result<Staged, ImportError> {
    let member = listed.member(n);
    let (sidecar_name, manifest_name) = (format!("{member}.json"), format!("{member}.files"));
    let sidecar = members.record(&sidecar_name)?;
    if Sha256Digest::of(&sidecar) != listed.sidecar {
        return Err(refused(&sidecar_name, &"its digest is not the one in the index"));
    }
    let sidecar = Sidecar::parse(&sidecar).map_err(|error| refused(&sidecar_name, &error))?;
    let text = members.record(&manifest_name)?;
    if Sha256Digest::of(&text) != listed.tree || sidecar.tree != Some(listed.tree) {
        return Err(refused(&manifest_name, &"its digest is not the one in the index and in the sidecar"));
    }
    let manifest = Manifest::parse(&text).map_err(|error| refused(&manifest_name, &error))?;
    if sidecar.package.is_empty() {
        return Err(refused(&sidecar_name, &"it names no package"));
    }
    if let Some(lie) = sidecar.lie(&listed.package, listed.reference, Some(&manifest)) {
        return Err(refused(&sidecar_name, &lie));
    }
    fs::create_dir(tree)?;
    for (path, item) in manifest.iter() {
        let place = tree.join(path);
        match item {
            Item::Folder => fs::create_dir(place)?,
            Item::Symlink { target } => {
                check_link(path, target).map_err(|why| refused(&Path::new(&member).join(path).display(), &why))?;
                symlink(OsStr::from_bytes(target), place)?;
            }
            Item::File { size, digest, .. } => {
                members.file(&Path::new(&member).join(path), *size, digest, &place)?;
            }
        }
    }
    let description = Description::parse(&fs::read(tree.join("DESCRIPTION")).unwrap_or_default());
    if !description.is_built() || description.get("Package") != Some(listed.package.as_str()) {
        return Err(refused(&member, &"it is not the installed package that the index says"));
    }
    scan::set_modes(tree, &manifest)?;
    tracing::debug!(store = %store.root().display(), package = %listed.package, "verified");
    Ok(Staged { listed, sidecar, manifest, tree: tree.to_owned() })
}

fn refused(member: &dyn std::fmt::Display, why: &dyn std::fmt::Display) -> ImportError {
    ImportError::Refused { member: member.to_string().escape_debug().to_string(), why: why.to_string() }
}

/// The members of the tar, each of which is asked for by its name.
struct Members<'a, R: Read> {
    entries: tar::Entries<'a, Metered<R>>,
    /// How many bytes may be read; limits headers, which are read into memory.
    left: Rc<Cell<u64>>,
}

impl<'a, R: Read> Members<'a, R> {
    fn next(&mut self) -> Result<Option<tar::Entry<'a, Metered<R>>>, ImportError> {
        self.left.set(HEADER_BYTES_MAX);
        let next = self.entries.next().transpose().map_err(ImportError::Damaged);
        self.left.set(u64::MAX);
        next
    }

    fn expect(&mut self, name: &Path) -> Result<tar::Entry<'a, Metered<R>>, ImportError> {
        let Some(entry) = self.next()? else {
            return Err(refused(&name.display(), &"it is missing"));
        };
        let found = entry.path_bytes();
        if *found != *name.as_os_str().as_encoded_bytes() || entry.header().entry_type() != tar::EntryType::Regular {
            let found = String::from_utf8_lossy(&found).into_owned();
            return Err(refused(&found, &format!("`{}` should be in its place", name.display())));
        }
        Ok(entry)
    }

    fn record(&mut self, name: &str) -> Result<Vec<u8>, ImportError> {
        let entry = self.expect(name.as_ref())?;
        if entry.size() > RECORD_BYTES_MAX {
            return Err(refused(&name, &"it is too large"));
        }
        let (size, mut bytes) = (entry.size(), Vec::new());
        let mut entry = entry.take(size);
        entry.read_to_end(&mut bytes).map_err(ImportError::Damaged)?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(ImportError::Damaged(cut_off())) }
    }

    /// Writes a file that must have this size and content.
    fn file(&mut self, name: &Path, size: u64, digest: &Sha256Digest, place: &Path) -> Result<(), ImportError> {
        let mut entry = self.expect(name)?;
        if entry.size() != size {
            return Err(refused(&name.display(), &"its size is not the one in the manifest"));
        }
        let seconds = entry.header().mtime().unwrap_or(0);
        fault::point("import: a file")?;
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(place)?;
        let (mut hasher, mut buffer, mut n_read) = (Hasher::default(), vec![0; 64 << 10], 0);
        loop {
            match entry.read(&mut buffer).map_err(ImportError::Damaged)? {
                0 => break,
                n => {
                    hasher.update(&buffer[..n]);
                    file.write_all(&buffer[..n])?;
                    n_read += n as u64;
                }
            }
        }
        if n_read != size {
            return Err(ImportError::Damaged(cut_off()));
        }
        if hasher.finish() != *digest {
            return Err(refused(&name.display(), &"its content is not the one in the manifest"));
        }
        if let Some(time) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
            file.file().set_modified(time)?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<(), ImportError> {
        match self.next()? {
            None => Ok(()),
            Some(entry) => {
                let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                Err(refused(&found, &"it is not in the index"))
            }
        }
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle")
}
