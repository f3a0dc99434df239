//! What is in a store, for those who count, list and evict: one small read an entry, no tree is looked into.
//!
//! An entry's bytes are what its sidecar says; only where that does not tell (another implementation wrote it) is the
//! tree walked. Entries of one source that share their files by hard links or blocks (see [`Store::adopt`]) form one
//! *group*, whose bytes count once.
//!
//! [`Store::adopt`]: super::Store::adopt

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::fault::fs;
use serde::Deserialize;

use crate::digest::Sha256Digest;
use crate::key::Reference;
use crate::package::PackageName;

/// One entry of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What machines it is for.
    pub platform: String,
    /// The package.
    pub package: PackageName,
    /// Its version, empty if the sidecar does not tell.
    pub version: String,
    /// Its place below platform and package.
    pub reference: Reference,
    /// When it was last used.
    pub used: SystemTime,
    /// The bytes of its files, shared or not.
    pub bytes: u64,
    /// By what the entries of a source that share their files are recognized.
    pub(super) group: Sha256Digest,
    pub(super) tree: PathBuf,
}

/// What lies in a source's directory and belongs to no entry: a tree or a file that a crash left.
#[derive(Debug, Clone)]
pub(super) struct Stray {
    pub(super) platform: String,
    pub(super) package: PackageName,
    pub(super) source: Sha256Digest,
    pub(super) path: PathBuf,
}

/// The content of a store.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) entries: Vec<Listed>,
    pub(super) strays: Vec<Stray>,
}

/// What of a sidecar is needed here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Brief {
    version: String,
    size: Option<u64>,
    shares: Option<Sha256Digest>,
}

impl Listing {
    /// Lists the entries of one package or of all, for all platforms, sorted by platform, package and last use.
    /// What goes away meanwhile is left out.
    pub(super) fn read(root: &Path, package: Option<&PackageName>) -> io::Result<Self> {
        let mut packages = Vec::new();
        for platform in platforms(root)? {
            for dir in sorted(&root.join(&platform))? {
                let name = file_name(&dir).and_then(|name| PackageName::parse(name).ok());
                if let Some(name) = name.filter(|name| package.is_none_or(|wanted| wanted == name) && dir.is_dir()) {
                    packages.push((platform.clone(), name, dir));
                }
            }
        }
        // The work is the kernel's, one small file after the other.
        let next = AtomicUsize::new(0);
        let work = || {
            let mut listing = Self::default();
            while let Some((platform, package, dir)) = packages.get(next.fetch_add(1, Ordering::Relaxed)) {
                listing.package(platform, package, dir)?;
            }
            Ok::<_, io::Error>(listing)
        };
        let n_threads = std::thread::available_parallelism().map_or(2, usize::from).min(packages.len().max(1));
        let parts = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(work)).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
        });
        let mut listing = Self::default();
        for part in parts {
            let part = part?;
            listing.entries.extend(part.entries);
            listing.strays.extend(part.strays);
        }
        listing.entries.sort_by(|a, b| {
            (&a.platform, &a.package, a.used, &a.tree).cmp(&(&b.platform, &b.package, b.used, &b.tree))
        });
        listing.strays.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(listing)
    }

    fn package(&mut self, platform: &str, package: &PackageName, dir: &Path) -> io::Result<()> {
        for source_dir in names(dir)? {
            let Ok(source) = source_dir.parse() else { continue };
            let dir = dir.join(&source_dir);
            let names = match names(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => continue,
                names => names?,
            };
            let configs: HashSet<&str> = names.iter().filter_map(|name| name.strip_suffix(".json")).collect();
            for name in &names {
                let config = name.strip_suffix(".json").or(name.strip_suffix(".files")).unwrap_or(name);
                match (config.parse::<Sha256Digest>(), configs.contains(config)) {
                    _ if name == "configs.json" => {}
                    (Ok(config), true) if name.ends_with(".json") => {
                        let tree = dir.join(config.to_string());
                        let Some((brief, used)) = brief(&dir.join(name))? else { continue };
                        self.entries.push(Listed {
                            platform: platform.to_owned(),
                            package: package.clone(),
                            version: brief.version,
                            reference: Reference { source, config },
                            used,
                            bytes: brief.size.filter(|size| *size > 0).unwrap_or_else(|| super::size::of(&tree).bytes),
                            group: brief.shares.unwrap_or(config),
                            tree,
                        });
                    }
                    (Ok(_), true) => {}
                    _ => self.strays.push(Stray {
                        platform: platform.to_owned(),
                        package: package.clone(),
                        source,
                        path: dir.join(name),
                    }),
                }
            }
        }
        Ok(())
    }
}

/// Lists the entries of one package or of all in the store at `root`, for all platforms, sorted by platform, package and
/// last use. Takes no lock: what comes or goes meanwhile may be in it or not.
pub fn list(root: &Path, package: Option<&PackageName>) -> io::Result<Vec<Listed>> {
    Ok(Listing::read(root, package)?.entries)
}

/// Reads a sidecar; `None` if it is gone. One that is no JSON is an entry all the same, with nothing known of it.
fn brief(path: &Path) -> io::Result<Option<(Brief, SystemTime)>> {
    let read = fs::File::open(path).and_then(|mut file| {
        let mut bytes = Vec::with_capacity(4096);
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok((bytes, file.metadata()?.modified()?))
    });
    match read {
        Ok((bytes, used)) => Ok(Some((serde_json::from_slice(&bytes).unwrap_or_default(), used))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the platforms that a store has packages for.
pub(super) fn platforms(root: &Path) -> io::Result<Vec<String>> {
    let platforms = sorted(root)?.into_iter().filter(|dir| dir.join("platform.json").is_file());
    Ok(platforms.filter_map(|dir| file_name(&dir).map(str::to_owned)).collect())
}

fn file_name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// Returns what is in a directory, sorted; nothing if there is none.
pub(super) fn sorted(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = names(dir)?.into_iter().map(|name| dir.join(name)).collect();
    paths.sort();
    Ok(paths)
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    let items = match fs::read_dir(dir) {
        Ok(items) => items,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    items.filter_map(|item| item.map(|item| item.file_name().into_string().ok()).transpose()).collect()
}
