//! What to start from: real lockfiles, archives and DESCRIPTIONs below the directories in LARDER_SEEDS, and the hostile
//! archives of the tests. They go into the directory that libFuzzer was given.

use std::path::Path;

use larder_ops::digest::Sha256Digest;
use larder_ops::unpack::peek;

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/it/malicious/archives.rs"]
mod archives;

/// Larger inputs make each round slow and show nothing more.
const BYTES_MAX: u64 = 100 << 10;

/// Writes the seeds of one target.
pub(crate) fn write(target: &str) {
    let Some(into) = std::env::args_os().skip(1).find(|arg| Path::new(arg).is_dir()) else { return };
    let put = |kind: &str, bytes: &[u8]| {
        if kind == target {
            fs_err::write(Path::new(&into).join(Sha256Digest::of(bytes).to_string()), bytes).unwrap();
        }
    };
    put("lockfile", br#"{"lockfile_version":1,"packages":[{"package":"demo","version":"1.0","type":"standard","platform":"source","rversion":"*","deps":[{"package":"x","type":"LinkingTo"}],"metadata":{"RemoteSha":"1.0"},"sha256":[],"filesize":10}]}"#);
    put(
        "description",
        b"Package: demo\nVersion: 1.0\nLinkingTo: Rcpp (>= 1.0),\n    cpp11\nAuthor: Ren\xe9\n\nBuilt: x\n",
    );
    for hostile in archives::escapes("demo") {
        let is_tar = !hostile.bytes.starts_with(b"PK");
        if is_tar && hostile.bytes.len() < 20_000 {
            put("unpack", &[b"T", hostile.bytes.as_slice()].concat());
            put("unpack", &archives::gzip(&hostile.bytes));
        } else if !is_tar {
            put("unpack", &hostile.bytes);
        }
    }
    let dirs = std::env::var_os("LARDER_SEEDS").unwrap_or_default();
    std::env::split_paths(&dirs).filter(|dir| dir.is_dir()).for_each(|dir| visit(&dir, &put));
}

fn visit(path: &Path, put: &impl Fn(&str, &[u8])) {
    if path.is_dir() {
        for item in fs_err::read_dir(path).unwrap() {
            visit(&item.unwrap().path(), put);
        }
        return;
    }
    let name = path.to_string_lossy();
    let bytes = || fs_err::read(path).unwrap();
    let is_small = path.metadata().is_ok_and(|meta| meta.len() < BYTES_MAX);
    if name.ends_with(".tar.gz") {
        if let Ok(Some(description)) = peek(path, "DESCRIPTION") {
            put("description", &description);
        }
        if is_small {
            put("unpack", &bytes());
        }
    } else if is_small && (name.ends_with(".lock") || name.ends_with(".json")) {
        put("lockfile", &bytes());
    }
}
