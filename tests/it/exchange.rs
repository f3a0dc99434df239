//! Another tool fills a library: the store gives what it has before, and takes what was built after.

use std::process::Command;

use fs_err as fs;
use serde_json::Value;

use crate::world::{Package, World, need_r};

/// What the other tool does: plain R, without larder.
fn install(world: &World, package: &Package) {
    let source = world.path("other").join(&package.name);
    package.write_to(&source);
    fs::create_dir_all(world.path("lib")).unwrap();
    let status = Command::new("R")
        .args(["CMD", "INSTALL", "--library=lib"])
        .arg(&source)
        .env("R_LIBS", world.path("lib"))
        .current_dir(world.path("."))
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

fn store(world: &World, command: &str, lock: &std::path::Path, lib: &str) -> String {
    let (lock, lib) = (lock.to_str().unwrap(), world.path(lib));
    world.run(["store", command, "--lockfile", lock, "--lib", lib.to_str().unwrap()]).ok().stdout
}

#[test]
fn what_another_tool_installed_is_taken_once_and_given_to_the_next_library() {
    need_r!();
    let world = World::new();
    let (hdr, lnk) = (Package::header("hdr", "1.0", 7), Package::linker("lnk", "2.0", "hdr"));
    let lock = world.lock_published(&[&hdr, &lnk]);
    assert_eq!(store(&world, "populate", &lock, "lib"), "store: 0 hits, 2 misses\n");
    install(&world, &hdr);
    install(&world, &lnk);
    for _ in 0..2 {
        assert_eq!(store(&world, "ingest", &lock, "lib"), "store: 2 packages in store-manifest.json\n");
    }
    assert!(world.has("lib/lnk/DESCRIPTION"), "the other tool's library stays");
    let manifest: Value = serde_json::from_str(&world.read("lib/store-manifest.json")).unwrap();

    assert_eq!(store(&world, "populate", &lock, "next"), "store: 2 hits, 0 misses\n");
    let record: Value = serde_json::from_str(&world.read("next/.packages.json")).unwrap();
    assert_eq!(record, manifest);

    // The keys are those under which larder itself looks: nothing is built.
    let ran = world.solve(&lock, &[]).ok();
    assert_eq!(ran.outcomes(), "hdr loaded, lnk loaded");
    assert_eq!(world.r("cat(lnk::answer())"), "7");
}

#[test]
fn a_package_of_another_version_is_not_taken_for_the_locked_one() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    install(&world, &Package::new("demo", "0.9"));
    assert_eq!(store(&world, "ingest", &lock, "lib"), "store: 0 packages in store-manifest.json\n");
}

#[test]
fn what_the_library_in_use_has_is_neither_linked_nor_taken_again() {
    need_r!();
    let world = World::new();
    let (demo, more) = (Package::new("demo", "1.0"), Package::new("more", "1.0"));
    let lock = world.lock_published(&[&demo, &more]);
    world.solve(&lock, &[]).ok();
    let (lib, reference) = (world.path("lib"), world.path("library"));
    let populate = |lock: &std::path::Path| {
        let args = ["store", "populate", "--lockfile", lock.to_str().unwrap(), "--lib", lib.to_str().unwrap()];
        world.run(args.into_iter().chain(["--reference-lib", reference.to_str().unwrap()])).ok().stdout
    };
    assert_eq!(populate(&lock), "store: 0 hits, 0 misses\n");
    let newer = world.lock_published(&[&Package::new("demo", "1.1"), &more]);
    assert_eq!(populate(&newer), "store: 0 hits, 1 misses\n");
}
