//! Unpacking: a downloaded archive becomes a source tree, and nothing in it can touch anything else.
//!
//! Owns the rules for what an archive may contain and how it lies on disk afterwards. It does not know where
//! archives come from, nor what a package is beyond "there is a DESCRIPTION".

mod archive;
mod name;
mod tree;

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use archive::Entry;
pub(crate) use archive::Metered;
pub use name::Refusal;
pub(crate) use name::check_link;
use tree::Tree;

/// What to expect of an archive, and how much of it to accept.
#[derive(Debug, Clone)]
pub struct Options {
    /// The folder below the top folder that holds the package (`RemoteSubdir`).
    pub subdir: Option<String>,
    /// Whether an archive without a DESCRIPTION in the package's folder is an error.
    pub needs_description: bool,
    /// The most that all files together may hold once unpacked. Of a small archive less is accepted: beyond a GiB
    /// not more than 200 times its own size.
    pub unpacked_bytes_max: u64,
    /// The most entries that an archive may have, and the most folders, with those that it only implies.
    pub entries_max: u64,
    /// The most bytes that all names and link targets may have together: they are kept in memory.
    pub names_bytes_max: u64,
}

impl Default for Options {
    /// No subdirectory, DESCRIPTION required, 20 GiB in at most a million entries: far more than any R package has.
    fn default() -> Self {
        Self {
            subdir: None,
            needs_description: true,
            unpacked_bytes_max: 20 << 30,
            entries_max: 1_000_000,
            names_bytes_max: 128 << 20,
        }
    }
}

/// Returns the most bytes that an archive may hold if it is no bomb, up to `max`. Data that is all zeros packs a
/// thousandfold, but nobody publishes more than a GiB of it.
fn bytes_max(archive: &Path, max: u64) -> Result<u64, UnpackError> {
    const FREE_BYTES: u64 = 1 << 30;
    const RATIO_MAX: u64 = 200;
    let size = fs_err::metadata(archive)?.len();
    Ok(max.min(size.saturating_mul(RATIO_MAX).max(FREE_BYTES)))
}

/// The most bytes of a DESCRIPTION that are read. The largest on CRAN has some tens of thousands.
pub const DESCRIPTION_BYTES_MAX: u64 = 4 << 20;

/// A tree that [`unpack`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Where the package is: `into`, or the subdirectory of it that was asked for.
    pub package_dir: PathBuf,
    /// The name of the archive's one top folder, which is not on disk.
    pub top_folder: String,
    /// How many bytes all files hold together.
    pub size_bytes: u64,
    /// How many entries the archive has.
    pub n_entries: u64,
}

/// Why an archive was not unpacked. Nothing of it is left on disk.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not an archive, or one of a kind that R packages do not come in.
    #[error("{archive}: this is no tar or zip archive (it starts with `{start}`); remove it to download it again")]
    UnknownFormat {
        /// The file.
        archive: PathBuf,
        /// Its first bytes, escaped: an error page of a server shows at once.
        start: String,
    },
    /// It cannot be read to its end.
    #[error("{archive}: the archive is damaged; remove it to download it again")]
    Damaged {
        /// The file.
        archive: PathBuf,
        /// What the decoder said.
        source: io::Error,
    },
    /// One entry is something that no package may contain.
    #[error("{archive}: refused because of its entry `{entry}`: {why}")]
    Refused {
        /// The file.
        archive: PathBuf,
        /// The entry's name, escaped.
        entry: String,
        /// The rule that it breaks.
        why: Refusal,
    },
    /// It has nothing in it.
    #[error("{archive}: the archive is empty")]
    Empty {
        /// The file.
        archive: PathBuf,
    },
    /// It would fill the disk.
    #[error("{archive}: holds more than {max} {unit}, which no R package of its size does")]
    TooLarge {
        /// The file.
        archive: PathBuf,
        /// The limit that was reached.
        max: u64,
        /// What was counted: `bytes`, `entries` or `bytes of names`.
        unit: &'static str,
    },
    /// The subdirectory that was asked for is not in it.
    #[error("{archive}: has no folder `{subdir}`; check the subdirectory in the package's reference")]
    NoSubdir {
        /// The file.
        archive: PathBuf,
        /// The folder that was asked for.
        subdir: String,
    },
    /// It is an archive, but not of a package.
    #[error("{archive}: has no DESCRIPTION in `{folder}`, so it is no R package")]
    NoDescription {
        /// The file.
        archive: PathBuf,
        /// The folder where it should be.
        folder: String,
    },
    /// There is already something where the tree was to go.
    #[error("{into}: cannot unpack here, the directory is not empty")]
    Occupied {
        /// The place.
        into: PathBuf,
    },
    /// Reading the archive's file or writing the tree failed; the message names the path.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The caller asked to stop.
    #[error("stopped while unpacking")]
    Stopped,
}

/// Unpacks `archive` into the directory `into`, which must be absent or empty, without the archive's top folder.
///
/// The format is told by the file's first bytes: zip, or tar that is plain or compressed by gzip, bzip2, xz or zstd.
/// With a subdirectory the whole archive is unpacked all the same, since bootstrap scripts and links of such
/// packages reach into the rest of their repository; [`Unpacked::package_dir`] says where the package is.
/// Folders are 0755 and files 0644, or 0755 where anyone may execute them; modification times are kept.
///
/// `should_stop` is asked between files and between pieces of large ones. After an error `into` is gone.
pub fn unpack(
    archive: &Path,
    into: &Path,
    options: &Options,
    should_stop: &dyn Fn() -> bool,
) -> Result<Unpacked, UnpackError> {
    if into.exists() && fs_err::read_dir(into)?.next().is_some() {
        return Err(UnpackError::Occupied { into: into.to_owned() });
    }
    let subdir = match &options.subdir {
        Some(subdir) => inner_path(archive, subdir.as_bytes())?,
        None => PathBuf::new(),
    };
    let options = &Options { unpacked_bytes_max: bytes_max(archive, options.unpacked_bytes_max)?, ..options.clone() };
    let unfinished = Unfinished(into);
    let mut tree = Tree::create(archive, into, options, should_stop)?;
    let mut top = Top::default();
    archive::visit(archive, options.unpacked_bytes_max, &mut |entry| {
        tree.count_entry(&entry)?;
        if let Some(path) = top.strip(archive, &entry)? {
            tree.add(&path, entry, &top)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let top_folder = top.name.ok_or_else(|| UnpackError::Empty { archive: archive.to_owned() })?;
    let (size_bytes, n_entries) = tree.finish()?;

    let package_dir = if subdir.as_os_str().is_empty() { into.to_owned() } else { into.join(&subdir) };
    if !package_dir.is_dir() {
        return Err(UnpackError::NoSubdir { archive: archive.to_owned(), subdir: subdir.display().to_string() });
    }
    if options.needs_description && !package_dir.join("DESCRIPTION").is_file() {
        let folder: PathBuf = Path::new(&top_folder).iter().chain(&subdir).collect();
        let folder = folder.display().to_string();
        return Err(UnpackError::NoDescription { archive: archive.to_owned(), folder });
    }
    std::mem::forget(unfinished);
    Ok(Unpacked { package_dir, top_folder, size_bytes, n_entries })
}

/// Returns the contents of one small file (up to 4 MiB), given by its path below the archive's top folder such as
/// `DESCRIPTION` or `r/DESCRIPTION`, without unpacking anything; `None` if the archive does not have it.
pub fn peek(archive: &Path, file: &str) -> Result<Option<Vec<u8>>, UnpackError> {
    let bytes_max = bytes_max(archive, Options::default().unpacked_bytes_max)?;
    let wanted = inner_path(archive, file.as_bytes())?;
    let mut found = None;
    let mut top = Top::default();
    archive::visit(archive, bytes_max, &mut |entry| {
        if top.strip(archive, &entry)?.is_none_or(|path| path != wanted) || !entry.kind.is_file() {
            return Ok(ControlFlow::Continue(()));
        }
        let mut bytes = Vec::new();
        let damaged = |source| UnpackError::Damaged { archive: archive.to_owned(), source };
        entry.data.take(DESCRIPTION_BYTES_MAX).read_to_end(&mut bytes).map_err(damaged)?;
        found = Some(bytes);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

/// Checks a path that the caller gives, by the rules for names in archives.
fn inner_path(archive: &Path, path: &[u8]) -> Result<PathBuf, UnpackError> {
    let path = path.trim_ascii();
    let path = path.strip_prefix(b"/").unwrap_or(path);
    name::parse(path).map_err(|why| refused(archive, path, why))
}

fn refused(archive: &Path, entry: &[u8], why: Refusal) -> UnpackError {
    UnpackError::Refused { archive: archive.to_owned(), entry: name::shown(entry), why }
}

/// The one folder that everything in an archive is in, once it has been seen.
#[derive(Debug, Default)]
struct Top {
    name: Option<String>,
}

impl Top {
    /// Returns the entry's path below the top folder: `None` for the top folder itself and for what archivers
    /// leave behind.
    fn strip(&mut self, archive: &Path, entry: &Entry<'_>) -> Result<Option<PathBuf>, UnpackError> {
        let refuse = |why| refused(archive, &entry.name, why);
        let path = name::parse(&entry.name).map_err(refuse)?;
        if name::is_litter(&path) {
            return Ok(None);
        }
        let mut components = path.iter();
        let Some(first) = components.next() else {
            return Ok(None); // `./`, the folder that the archiver stood in.
        };
        let below = components.as_path();
        let first = first.to_str().ok_or_else(|| refuse(Refusal::NotText))?;
        if below.as_os_str().is_empty() && !entry.kind.is_folder() {
            return Err(refuse(Refusal::OutsideTopFolder));
        }
        match &self.name {
            None => self.name = Some(first.to_owned()),
            Some(top) if top == first => {}
            Some(top) => return Err(refuse(Refusal::SecondTopFolder { first: top.clone() })),
        }
        Ok((!below.as_os_str().is_empty()).then(|| below.to_owned()))
    }
}

/// Removes a tree that did not get finished.
struct Unfinished<'a>(&'a Path);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(self.0) {
            tracing::warn!("could not remove an unfinished tree: {error}");
        }
    }
}

#[cfg(test)]
mod tests;
