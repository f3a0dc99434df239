//! Directories compared: with themselves at another time, and with each other.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

/// What tells whether a file was touched: mode, inode, size and the time of its last change in nanoseconds.
pub(super) type Listing = BTreeMap<PathBuf, (u32, u64, u64, i128)>;

/// Lists all below `dir` for which `is_wanted`, by the path below `dir`. What is not wanted is not descended into.
pub(super) fn listing(dir: &Path, is_wanted: impl Fn(&Path) -> bool) -> Listing {
    let mut found = Listing::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let meta = fs::symlink_metadata(dir.join(&below)).unwrap();
        if meta.is_dir() {
            let items = fs::read_dir(dir.join(&below)).unwrap();
            todo.extend(items.map(|item| below.join(item.unwrap().file_name())).filter(|path| is_wanted(path)));
        }
        let changed = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        found.insert(below, (meta.mode(), meta.ino(), meta.size(), changed));
    }
    found
}

/// Returns what is new, gone or touched between two listings.
pub(super) fn changed<'a>(before: &'a Listing, after: &'a Listing) -> Vec<&'a Path> {
    let paths: BTreeSet<&PathBuf> = before.keys().chain(after.keys()).collect();
    paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).map(PathBuf::as_path).collect()
}

/// Lists a library, but for what the command keeps there for itself.
pub(super) fn library(dir: &Path) -> Listing {
    listing(dir, |path| path != Path::new(".larder"))
}

/// Returns what `diff -r` finds different between two builds of a package.
///
/// Not in R's own databases: a namespace knows the path that it was installed in, help pages that of their source.
pub(super) fn differences(a: &Path, b: &Path) -> String {
    let databases = ["*.rdb", "*.rdx", "paths.rds"].map(|name| format!("--exclude={name}"));
    let output = Command::new("diff").args(["-rq", "--no-dereference"]).args(databases).args([a, b]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
