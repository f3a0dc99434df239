//! Shared libraries of the system: which ones compiled code needs, and which this machine has.
//!
//! A package that was built where `libcurl.so.4` is does not load where it is not. The names are taken from the dynamic
//! section of the shared objects; what a package brings itself, or finds in another package, is none of the system's.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use object::read::elf::{Dyn, FileHeader};
use object::{Endianness, elf};

use crate::fault::fs;
use crate::fs::walk;

/// What every process of R has, whatever it loads: nobody looks for these. Not every R is a library of its own.
const OF_EVERY_R: [&str; 2] = ["libc.so.6", "libm.so.6"];

/// Where a loader looks for libraries. Clones share what was found.
#[derive(Debug, Clone)]
pub struct SystemLibraries(Arc<Host>);

#[derive(Debug)]
struct Host {
    r_home: PathBuf,
    /// All others. Read when somebody asks for something that R does not bring.
    dirs: OnceLock<Vec<PathBuf>>,
    /// What is there. What is not may still come.
    found: Mutex<BTreeSet<String>>,
}

impl SystemLibraries {
    /// Means the directories of this machine's loader, and R's own, which is below `r_home`. Reads nothing yet.
    pub fn of_host(r_home: &Path) -> Self {
        Self(Arc::new(Host { r_home: r_home.to_owned(), dirs: OnceLock::new(), found: Mutex::default() }))
    }

    /// Says whether the loader would find a library of this name.
    pub fn has(&self, soname: &str) -> bool {
        // A path is looked up as such.
        let is_in = |dir: &Path| dir.join(soname).is_file();
        !soname.is_empty() && (is_in(&self.0.r_home.join("lib")) || self.dirs().iter().any(|dir| is_in(dir)))
    }

    /// Returns those of these libraries that this machine has not. Each is looked for once.
    pub fn lacking<'a>(&self, sonames: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
        let mut found = self.0.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_there = |soname: &str| {
            OF_EVERY_R.contains(&soname)
                || found.contains(soname)
                || self.has(soname) && found.insert(soname.to_owned())
        };
        sonames.into_iter().map(String::as_str).filter(|soname| !is_there(soname)).collect()
    }

    fn dirs(&self) -> &[PathBuf] {
        self.0.dirs.get_or_init(|| {
            let mut dirs = Vec::new();
            read_conf(Path::new("/etc/ld.so.conf"), &mut dirs, 0);
            dirs.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
            dirs.retain(|dir| dir.is_dir());
            dirs
        })
    }

    /// Returns which of this machine's libraries the shared objects of an installed package need.
    pub fn needed_by(&self, tree: &Path) -> BTreeSet<String> {
        let is_shared_object =
            |path: &Path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.contains(".so"));
        let dirs = ["libs", "lib"].map(|dir| tree.join(dir));
        let files = dirs.iter().flat_map(|dir| walk(dir)).flatten();
        let objects = files.filter(|item| item.file_type().is_file() && is_shared_object(item.path()));
        let needed = objects.flat_map(|item| needed(&fs::read(item.path()).unwrap_or_default()));
        needed.filter(|soname| self.has(soname)).collect()
    }
}

/// Reads the loader's configuration: a directory a line, or `include` and a pattern.
fn read_conf(path: &Path, dirs: &mut Vec<PathBuf>, depth: u8) {
    const DEPTH_MAX: u8 = 4;
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
        match line.strip_prefix("include ").map(|pattern| Path::new(pattern.trim())) {
            // All that is ever written there is a directory and `*.conf`.
            Some(pattern) if depth < DEPTH_MAX => {
                let items = pattern.parent().and_then(|dir| fs::read_dir(dir).ok()).into_iter().flatten().flatten();
                let mut files: Vec<PathBuf> = items.map(|item| item.path()).collect();
                files.retain(|file| file.extension() == pattern.extension());
                files.sort();
                for file in &files {
                    read_conf(file, dirs, depth + 1);
                }
            }
            None if line.starts_with('/') => dirs.push(line.into()),
            _ => {}
        }
    }
}

/// Returns the names in the dynamic section of a shared object; none for what is no such thing.
fn needed(bytes: &[u8]) -> Vec<String> {
    let names = match bytes.get(..5) {
        Some([0x7f, b'E', b'L', b'F', 1]) => dynamic::<elf::FileHeader32<Endianness>>(bytes),
        Some([0x7f, b'E', b'L', b'F', 2]) => dynamic::<elf::FileHeader64<Endianness>>(bytes),
        _ => None,
    };
    names.unwrap_or_default()
}

fn dynamic<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<Vec<String>> {
    let header = Elf::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let (entries, strings) = sections.dynamic(endian, bytes).ok()??;
    let strings = sections.strings(endian, bytes, strings).ok()?;
    let needed = entries.iter().filter(|entry| entry.d_tag(endian) == elf::DT_NEEDED);
    let names = needed.filter_map(|entry| entry.string(endian, strings).ok());
    Some(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_object_tells_what_it_needs_and_nonsense_tells_nothing() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = needed(&own);
        assert!(names.iter().any(|name| name.starts_with("libc.")), "{names:?}");
        assert_eq!(needed(b"no object"), Vec::<String>::new());
        for end in [4, 5, 64, 100, own.len() / 2] {
            needed(&own[..end]);
        }
    }

    #[test]
    fn this_machine_has_a_c_library_and_not_everything() {
        let libraries = SystemLibraries::of_host(Path::new("/nonexistent"));
        assert!(libraries.has("libc.so.6"), "{libraries:?}");
        assert!(!libraries.has("libno-such-thing.so.1"));
        assert!(!libraries.has(""));
        let names = ["libc.so.6", "libno-such-thing.so.1"].map(str::to_owned);
        assert_eq!(libraries.lacking(&names), ["libno-such-thing.so.1"]);
        assert_eq!(libraries.needed_by(Path::new("/nonexistent")), BTreeSet::new());
    }
}
