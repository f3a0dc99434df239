//! How many bytes files take, and how many removing them gives back: a file with several names goes with the last.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::fs::{remove_all, walk};

/// How much there is of something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// How many: files, or what else is counted.
    pub n: usize,
    /// Their bytes, as their lengths say.
    pub bytes: u64,
}

impl Size {
    /// Takes one more in.
    pub fn add(&mut self, bytes: u64) {
        self.n += 1;
        self.bytes += bytes;
    }
}

/// Returns the size of a file or of all files in a tree; what cannot be read counts nothing.
pub(super) fn of(path: &Path) -> Size {
    let mut size = Size::default();
    for item in walk(path).flatten().filter(|item| !item.file_type().is_dir()) {
        size.add(item.metadata().map_or(0, |metadata| metadata.len()));
    }
    size
}

/// Foretells what removing several trees would give back.
#[derive(Debug, Default)]
pub(super) struct Forecast {
    /// How many names of a file are left, by device and inode.
    left: HashMap<(u64, u64), u64>,
}

impl Forecast {
    /// Returns what removing this one, after those before, would give back.
    pub(super) fn remove(&mut self, path: &Path) -> u64 {
        let mut freed = 0;
        for item in walk(path).flatten().filter(|item| !item.file_type().is_dir()) {
            let Ok(metadata) = item.metadata() else { continue };
            if metadata.nlink() == 1 {
                freed += metadata.len();
                continue;
            }
            let left = self.left.entry((metadata.dev(), metadata.ino())).or_insert(metadata.nlink());
            *left = left.saturating_sub(1);
            if *left == 0 {
                freed += metadata.len();
            }
        }
        freed
    }
}

/// Removes a file or tree and returns what that gave back.
pub(super) fn remove(path: &Path) -> io::Result<u64> {
    // Each file in turn loses its last name here, or keeps another elsewhere; two names in one tree count once.
    let freed = Forecast::default().remove(path);
    remove_all(path)?;
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn a_file_is_freed_with_its_last_name() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        for tree in [&one, &two] {
            fs::create_dir(tree).unwrap();
            fs::write(tree.join("own"), "1234").unwrap();
        }
        fs::write(one.join("shared"), "12345678").unwrap();
        fs::hard_link(one.join("shared"), two.join("shared")).unwrap();
        let mut forecast = Forecast::default();
        assert_eq!([forecast.remove(&one), forecast.remove(&two)], [4, 12]);
        assert_eq!([remove(&one).unwrap(), remove(&two).unwrap()], [4, 12]);
        assert!(!one.exists() && !two.exists());
    }
}
