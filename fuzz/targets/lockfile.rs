//! Any bytes as a lockfile: read, or refused in few words.

#![no_main]

use larder::lockfile::Lockfile;
use libfuzzer_sys::fuzz_target;

#[path = "../seeds.rs"]
mod seeds;

fuzz_target!(init: seeds::write("lockfile"), |bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Lockfile::parse(text) {
        Ok(lockfile) => {
            for entry in lockfile.entries() {
                entry.source_hash();
                assert!(!entry.package.as_str().contains(['/', '\0']) && !entry.package.as_str().starts_with('.'));
                assert!(!entry.version.contains('/'));
            }
        }
        Err(error) => {
            error.hint();
            assert!(error.to_string().len() < 4 * bytes.len() + 1000);
        }
    }
});
