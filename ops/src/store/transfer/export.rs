//! Writing the stream: each byte is checked against the manifest while it passes.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fault::fs;

use super::{Depth, ExportError, FORMAT, INDEX, Index, Listed, Moved};
use crate::digest::{HashingReader, Sha256Digest};
use crate::key::Reference;
use crate::package::PackageName;
use crate::store::manifest::{Item, Manifest};
use crate::store::{Sidecar, Store, scan, sidecar as record};
use crate::unpack::check_link;

/// Below this level streams are larger and hardly faster to write, above it much slower and hardly smaller.
const LEVEL: i32 = 3;

/// An entry that is ready to be written.
pub(crate) struct Packed {
    listed: Listed,
    sidecar: Vec<u8>,
    manifest: Manifest,
}

impl Packed {
    /// Returns how the stream names it.
    pub(crate) fn listed(&self) -> &Listed {
        &self.listed
    }

    /// Returns how many bytes its files have.
    pub(crate) fn bytes(&self) -> u64 {
        self.manifest.size()
    }

    /// Returns what is recorded of it.
    pub(crate) fn sidecar(&self) -> Sidecar {
        Sidecar::parse(&self.sidecar).expect("it was parsed, or sealed, when it was packed")
    }
}

/// Writes entries of `store` as one stream to `out`.
///
/// What is written is leased as long as `store` is open. An entry that is not as it was stored ends the export. Entries without a manifest get one on the way.
pub fn export(
    store: &Store,
    entries: &BTreeSet<(PackageName, Reference)>,
    out: impl Write,
) -> Result<Moved, ExportError> {
    store.hold(entries.iter().map(|(package, reference)| (package, reference.source)))?;
    let packed = entries.iter().map(|(package, reference)| pack(store, package, *reference));
    write(store, packed.collect::<Result<Vec<_>, _>>()?, out)
}

/// Writes what was packed.
pub(crate) fn write(store: &Store, packed: Vec<Packed>, out: impl Write) -> Result<Moved, ExportError> {
    let mut moved = Moved { n_entries: packed.len(), ..Moved::default() };
    let mut encoder = zstd::Encoder::new(out, LEVEL).map_err(ExportError::Write)?;
    encoder.include_checksum(true).map_err(ExportError::Write)?;
    let mut tar = tar::Builder::new(encoder);
    let (sidecars, entries): (Vec<_>, Vec<_>) =
        packed.into_iter().map(|packed| ((packed.sidecar, packed.manifest), packed.listed)).unzip();
    let index = Index {
        format: FORMAT.to_owned(),
        platform: store.platform().to_owned(),
        description: store.description().lines().map(str::to_owned).collect(),
        entries,
    };
    let json = serde_json::to_vec_pretty(&index).map_err(io::Error::from)?;
    append(&mut tar, INDEX.as_ref(), &json)?;
    for (n, (listed, (sidecar, manifest))) in index.entries.iter().zip(sidecars).enumerate() {
        let member = listed.member(n);
        append(&mut tar, format!("{member}.json").as_ref(), &sidecar)?;
        append(&mut tar, format!("{member}.files").as_ref(), &manifest.to_text())?;
        let tree = store.place(&listed.package, listed.reference);
        for (path, item) in manifest.iter() {
            if let Item::File { size, digest, .. } = item {
                let member = Path::new(&member).join(path);
                let expected = (*size, *digest, item.mode().unwrap_or_default());
                append_file(&mut tar, &tree.join(path), &member, expected).map_err(|refusal| match refusal {
                    Refusal::Changed(why) => ExportError::Broken { package: listed.package.clone(), why },
                    Refusal::Write(error) => ExportError::Write(error),
                })?;
                moved.bytes += size;
            }
        }
    }
    let mut out = tar.into_inner().and_then(zstd::Encoder::finish).map_err(ExportError::Write)?;
    out.flush().map_err(ExportError::Write)?;
    Ok(moved)
}

/// Gets an entry ready to be written; nothing of its files is read yet.
pub(crate) fn pack(store: &Store, package: &PackageName, reference: Reference) -> Result<Packed, ExportError> {
    let broken = |why: String| ExportError::Broken { package: package.clone(), why };
    let tree = store.inspect(package, reference, Depth::Glance).map_err(|error| broken(error.to_string()))?;
    let Some(tree) = tree else { return Err(ExportError::Missing(vec![package.clone()])) };
    let sidecar_path = tree.with_extension("json");
    let mut sidecar = fs::read(&sidecar_path)?;
    let parsed = Sidecar::parse(&sidecar).map_err(|error| broken(error.to_string()))?;
    let manifest = if parsed.tree.is_some() {
        let known = store.manifest(package, reference, &parsed);
        known.ok_or_else(|| broken(format!("{} is not its manifest", tree.with_extension("files").display())))?
    } else {
        let manifest = scan::manifest(&tree, |_| true)?;
        // Another implementation does not write what the place tells.
        let known = store.configs(package, reference.source).unwrap_or_default().configs;
        let is_said = parsed.config.hash() == reference.config;
        let known = known.get(&reference.config).filter(|_| !is_said).cloned();
        let config = known.unwrap_or_else(|| parsed.config.clone());
        let whole = Sidecar { package: package.to_string(), config, ..parsed };
        sidecar = record::seal(&whole.about(&manifest))?;
        manifest
    };
    for (path, item) in manifest.iter() {
        if let Item::Symlink { target } = item {
            check_link(path, target).map_err(|why| broken(format!("{}: {why}", tree.join(path).display())))?;
        }
    }
    let listed =
        Listed { package: package.clone(), reference, tree: manifest.digest(), sidecar: Sha256Digest::of(&sidecar) };
    Ok(Packed { listed, sidecar, manifest })
}

fn append(tar: &mut tar::Builder<impl Write>, name: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let mut header = header(bytes.len() as u64, 0o444, 0);
    tar.append_data(&mut header, name, bytes).map_err(ExportError::Write)
}

fn header(size: u64, mode: u32, seconds: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(seconds);
    header
}

enum Refusal {
    Changed(String),
    Write(io::Error),
}

fn append_file(
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
    member: &Path,
    (size, digest, mode): (u64, Sha256Digest, u32),
) -> Result<(), Refusal> {
    let changed = |why: &dyn std::fmt::Display| Refusal::Changed(why.to_string());
    let file = scan::open(path).map_err(|error| changed(&error))?;
    let metadata = file.metadata().map_err(|error| changed(&error))?;
    let is_as_stored = || Refusal::Changed(format!("{} is not as it was stored", path.display()));
    if metadata.len() != size {
        return Err(is_as_stored());
    }
    let mut header = header(size, mode, u64::try_from(metadata.mtime()).unwrap_or(0));
    // Read to its end, and no further, whatever happens to it meanwhile: the header is written first.
    let mut reader = HashingReader::new(file.take(size));
    tar.append_data(&mut header, member, &mut reader).map_err(Refusal::Write)?;
    if reader.finish() == digest { Ok(()) } else { Err(is_as_stored()) }
}
