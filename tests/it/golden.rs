//! Keys against vectors that an independent implementation made, and lockfiles as pak wrote them.

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use larder::lockfile::{Lockfile, LockfileError};
use larder_ops::key::ConfigMap;
use serde::Deserialize;

use crate::world::{World, has_r, items, shared, skip};

fn lockfiles(dir: &Path) -> Vec<(String, String)> {
    let locks = items(dir).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "lock"));
    locks
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap()))
        .collect()
}

#[test]
fn source_hashes_match_the_golden_ones_to_the_byte() {
    let (Some(golden), Some(locks)) = (shared("golden"), shared("lockfiles")) else {
        return skip("../shared/golden is not there");
    };
    let mut n = 0;
    for (name, text) in lockfiles(&locks) {
        let Ok(expected) = fs::read(golden.join(format!("{name}.source-hashes.json"))) else { continue };
        let expected: BTreeMap<String, String> = serde_json::from_slice(&expected).unwrap();
        let lockfile = Lockfile::parse(&text).unwrap();
        for (package, expected) in expected {
            let entry = lockfile.entries().iter().find(|entry| entry.package == *package).expect(&package);
            assert_eq!(entry.source_hash().unwrap().to_string(), expected, "{name}: {package}");
            n += 1;
        }
    }
    assert!(n > 1000, "only {n} hashes were compared");
}

#[test]
fn config_hashes_match_the_golden_ones_to_the_byte() {
    #[derive(Deserialize)]
    struct Vector {
        map: BTreeMap<String, String>,
        config_hash: String,
    }
    let Some(golden) = shared("golden/config-hashes.json") else {
        return skip("../shared/golden is not there");
    };
    let vectors: Vec<Vector> = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    for Vector { map, config_hash } in &vectors {
        let map: ConfigMap = map.iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(map.hash().to_string(), *config_hash);
    }
    assert!(vectors.len() > 3);
}

#[test]
fn real_lockfiles_parse_and_the_renv_one_is_called_so() {
    let Some(locks) = shared("lockfiles") else {
        return skip("../shared/lockfiles is not there");
    };
    for (name, text) in lockfiles(&locks) {
        match Lockfile::parse(&text) {
            Err(LockfileError::Renv) => assert_eq!(name, "not-a-pak-lockfile"),
            Err(error) => panic!("{name}: {error}"),
            Ok(lockfile) => {
                assert_ne!(name, "not-a-pak-lockfile");
                // The number in the name counts all entries; a `deps` entry is a project and no package.
                let n = text.matches("\"package\": \"").count();
                assert!(lockfile.entries().len() <= n, "{name}");
            }
        }
    }
}

#[test]
fn every_real_lockfile_gives_a_plan() {
    let Some(locks) = shared("lockfiles") else {
        return skip("../shared/lockfiles is not there");
    };
    if !has_r() {
        return skip("there is no R");
    }
    let world = World::new();
    for (name, text) in lockfiles(&locks) {
        let lockfile = world.write(&format!("{name}.lock"), text);
        let ran = world.solve(&lockfile, &["--dry-run"]);
        if name == "not-a-pak-lockfile" {
            assert!(ran.exits(2).stderr.contains("renv lockfile"));
            continue;
        }
        let ran = ran.ok();
        let plan = &ran.events()[0];
        assert_eq!(plan["vertices"], ran.events_of("plan-vertex").len(), "{name}");
    }
}
