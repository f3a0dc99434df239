//! Any bytes as an archive: whatever comes of it lies in its tree, and links in it stay there.
//!
//! An input that starts with `T` is a plain tar whose checksums are put right first, so that changes to its headers
//! are not all refused for the same reason.

#![no_main]

use std::path::Path;

use larder_ops::unpack::{Options, peek, unpack};
use libfuzzer_sys::fuzz_target;

#[path = "../seeds.rs"]
mod seeds;

fuzz_target!(init: seeds::write("unpack"), |bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("there is room for temporary files");
    let (archive, tree) = (dir.path().join("archive"), dir.path().join("tree"));
    let tar;
    let bytes = match bytes {
        [b'T', rest @ ..] => {
            tar = with_checksums(rest.to_vec());
            &tar
        }
        other => other,
    };
    fs_err::write(&archive, bytes).expect("the archive is written");
    let options = Options {
        unpacked_bytes_max: 1 << 20,
        entries_max: 200,
        names_bytes_max: 20_000,
        needs_description: false,
        ..Options::default()
    };
    let result = unpack(&archive, &tree, &options, &|| false);
    let _ = peek(&archive, "DESCRIPTION");
    let mut left: Vec<_> = fs_err::read_dir(dir.path()).unwrap().map(|item| item.unwrap().file_name()).collect();
    left.sort();
    match result {
        Ok(_) => {
            assert_eq!(left, ["archive", "tree"]);
            check(&tree, &tree.canonicalize().unwrap());
        }
        Err(_) => assert_eq!(left, ["archive"]),
    }
});

fn check(dir: &Path, root: &Path) {
    for item in fs_err::read_dir(dir).unwrap() {
        let item = item.unwrap();
        let kind = item.file_type().unwrap();
        if kind.is_dir() {
            check(&item.path(), root);
        } else if kind.is_symlink() {
            assert!(item.path().canonicalize().map_or(true, |target| target.starts_with(root)));
        } else {
            assert!(kind.is_file());
        }
    }
}

fn with_checksums(mut tar: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let size = usize::try_from(header.entry_size().unwrap_or(0)).unwrap_or(0);
        at = at.saturating_add(512).saturating_add(size.checked_next_multiple_of(512).unwrap_or(usize::MAX));
        if at.checked_add(512).is_none() {
            break;
        }
    }
    tar
}
