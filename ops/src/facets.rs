//! Digests of what of an installed tree matters to others, so that a question about it needs no tree.

use std::io;
use std::path::Path;

use crate::digest::{Hasher, Sha256Digest};
use crate::store::manifest::{Item, Manifest};
use crate::store::scan;

/// The directories at the top of an installed package that dependants compile and link against. `libs` is not among
/// them: R loads it, compilers do not see it.
const INTERFACE_DIRS: [&str; 4] = ["include", "lib", "lib64", "usrlib"];

/// Returns the digest of a tree's *interface*: what a package that links to it compiles against. Headers and
/// libraries below the interface directories, and static libraries anywhere.
///
/// The package's version is not part of it: a release that changes no header is then no reason to recompile. A
/// header that has the version in it is another matter, and counts.
pub fn interface(tree: &Manifest) -> Sha256Digest {
    let mut items: Vec<_> = tree.iter().filter(|(path, _)| is_interface(path)).collect();
    // By component, as a walk sorted by name comes across them; a manifest is sorted by bytes.
    items.sort_by_key(|(path, _)| *path);
    let mut hasher = Hasher::default();
    for (path, item) in items {
        let content = match item {
            Item::Folder => continue,
            Item::File { digest, .. } => *digest,
            Item::Symlink { target } => Sha256Digest::of(target),
        };
        for field in [path.as_os_str().as_encoded_bytes(), content.to_string().as_bytes()] {
            hasher.update(field);
            hasher.update(&[0]);
        }
    }
    hasher.finish()
}

/// As [`interface`], but of a tree on the disk, of which only what counts is read.
pub fn interface_of(tree: &Path) -> io::Result<Sha256Digest> {
    Ok(interface(&scan::manifest(tree, is_interface)?))
}

fn is_interface(path: &Path) -> bool {
    let is_below = path.components().next().is_some_and(|top| INTERFACE_DIRS.iter().any(|dir| top.as_os_str() == *dir));
    is_below || path.extension().is_some_and(|ending| ending == "a")
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn only_what_others_compile_against_is_in_the_interface() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        write("include/demo.h", "int x;");
        write("DESCRIPTION", "Version: 1.0");
        write("libs/demo.so", "one");
        let before = interface_of(dir.path()).unwrap();
        write("DESCRIPTION", "Version: 2.0");
        write("libs/demo.so", "two");
        write("R/demo.rdb", "x");
        assert_eq!(interface_of(dir.path()).unwrap(), before);
        write("include/demo.h", "int y;");
        let changed = interface_of(dir.path()).unwrap();
        assert_ne!(changed, before);
        write("extra/libdemo.a", "x");
        assert_ne!(interface_of(dir.path()).unwrap(), changed);
    }
}
