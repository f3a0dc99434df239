//! Digests of what of an installed tree matters to others, so that a question about it needs no tree.

use std::io;
use std::path::Path;

use fs_err as fs;

use crate::digest::{Hasher, Sha256Digest};

/// The directories at the top of an installed package that dependants compile and link against. `libs` is not among
/// them: R loads it, compilers do not see it.
const INTERFACE_DIRS: [&str; 4] = ["include", "lib", "lib64", "usrlib"];

/// Returns the digest of a tree's *interface*: what a package that links to it compiles against. Headers and
/// libraries below the interface directories, and static libraries anywhere.
///
/// The package's version is not part of it: a release that changes no header is then no reason to recompile. A
/// header that has the version in it is another matter, and counts.
pub fn interface(tree: &Path) -> io::Result<Sha256Digest> {
    let mut hasher = Hasher::default();
    for item in walkdir::WalkDir::new(tree).min_depth(1).sort_by_file_name() {
        let item = item?;
        let path = item.path().strip_prefix(tree).unwrap_or(item.path());
        let is_below =
            path.components().next().is_some_and(|top| INTERFACE_DIRS.iter().any(|dir| top.as_os_str() == *dir));
        let is_static = path.extension().is_some_and(|ending| ending == "a");
        if item.file_type().is_dir() || !(is_below || is_static) {
            continue;
        }
        let content = if item.file_type().is_symlink() {
            Sha256Digest::of(fs::read_link(item.path())?.as_os_str().as_encoded_bytes())
        } else {
            Sha256Digest::of_reader(fs::File::open(item.path())?)?
        };
        for field in [path.as_os_str().as_encoded_bytes(), content.to_string().as_bytes()] {
            hasher.update(field);
            hasher.update(&[0]);
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
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
        let before = interface(dir.path()).unwrap();
        write("DESCRIPTION", "Version: 2.0");
        write("libs/demo.so", "two");
        write("R/demo.rdb", "x");
        assert_eq!(interface(dir.path()).unwrap(), before);
        write("include/demo.h", "int y;");
        let changed = interface(dir.path()).unwrap();
        assert_ne!(changed, before);
        write("extra/libdemo.a", "x");
        assert_ne!(interface(dir.path()).unwrap(), changed);
    }
}
