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

/// The counts line of one of the two commands on the runtime way, from the library `library` into `lib`.
fn runtime(world: &World, command: &str, lock: &std::path::Path, lib: &str) -> crate::world::Ran {
    let (lock, lib, reference) = (lock.to_str().unwrap(), world.path(lib), world.path("library"));
    let args = ["store", command, "--lockfile", lock, "--lib", lib.to_str().unwrap()];
    world.run(args.into_iter().chain(["--runtime", "--reference-lib", reference.to_str().unwrap()])).ok()
}

/// `hdr`, `lnk` and `far` that link to it, `plain`, in the library; and a lockfile with another `hdr` and `plain`.
fn worker_and_upgrade(world: &World) -> std::path::PathBuf {
    let lock = |hdr: &str, number, plain: &str| {
        let packages = [
            Package::header("hdr", hdr, number),
            Package::linker("lnk", "1.0", "hdr"),
            Package::new("plain", plain),
            Package::new("same", "1.0"),
        ];
        world.lock(packages.iter().map(|package| world.publish(package)))
    };
    let extras = [
        Package::linker("far", "1.0", "hdr"),
        Package::new("top", "1.0").imports(&["far"]),
        Package::new("alone", "1.0"),
    ];
    let old: Value = serde_json::from_str(&fs::read_to_string(lock("1.0", 1, "1.0")).unwrap()).unwrap();
    let entries = old["packages"].as_array().unwrap().iter().cloned();
    world.solve(&world.lock(entries.chain(extras.iter().map(|package| world.publish(package)))), &[]).ok();
    lock("1.1", 2, "1.1")
}

#[test]
fn p19_p27_a_worker_gets_what_is_the_same_and_the_rest_is_counted() {
    need_r!();
    let world = World::new();
    let newer = worker_and_upgrade(&world);
    world.write("lib/already/DESCRIPTION", "Package: already\nVersion: 1.0\n");
    let ran = runtime(&world, "populate", &newer, "lib");
    // New: hdr and plain. Compiled against the old hdr: lnk, and far, which the other tool will not build.
    assert_eq!(ran.stdout, "store: 0 hits, 2 misses, 0 ABI hits, 2 ABI rebuilds\n");
    assert_eq!(
        ran.stderr,
        "warning: of the reference library, but not of the lockfile, and left out as stale: far, top\n"
    );
    assert!(world.has("lib/same") && world.has("lib/alone") && world.has("lib/already"), "neither counted nor missing");
    for absent in ["hdr", "lnk", "plain", "far", "top"] {
        assert!(!world.has(&format!("lib/{absent}")), "{absent}");
    }

    // Once all of it was built somewhere, the store has the other configurations.
    world.solve(&newer, &["--library", "other", "--reference-lib", "library"]).ok();
    let ran = runtime(&world, "populate", &newer, "next");
    assert_eq!(
        (ran.stdout.as_str(), ran.stderr.as_str()),
        ("store: 2 hits, 0 misses, 2 ABI hits, 0 ABI rebuilds\n", "")
    );
    let say =
        |library: &str, what: &str| world.r(&format!(".libPaths('{}'); cat({what})", world.path(library).display()));
    assert_eq!(say("next", "lnk::answer(), far::answer(), top::own(), plain::answer()"), "2 2 1.0 2 1.1");
    // What is there is left alone, and not counted.
    let before = world.read("next/lnk/DESCRIPTION");
    let ran = runtime(&world, "populate", &newer, "next");
    assert_eq!(ran.stdout, "store: 0 hits, 0 misses, 0 ABI hits, 0 ABI rebuilds\n");
    assert_eq!(world.read("next/lnk/DESCRIPTION"), before);
}

#[test]
fn p17_p21_what_a_worker_got_is_recorded_and_what_no_longer_fits_is_not_carried_on() {
    need_r!();
    let world = World::new();
    let newer = worker_and_upgrade(&world);
    runtime(&world, "populate", &newer, "lib");
    for package in
        [Package::header("hdr", "1.1", 2), Package::linker("lnk", "1.0", "hdr"), Package::new("plain", "1.1")]
    {
        install(&world, &package);
    }
    let ran = runtime(&world, "ingest", &newer, "lib");
    // hdr, lnk, plain, same, and from beyond the lockfile alone; far was compiled against the other hdr.
    assert_eq!(ran.stdout, "store: 5 packages in store-manifest.json\n");
    assert!(ran.stderr.contains("left out as stale: far, top"), "{}", ran.stderr);
    let manifest: Value = serde_json::from_str(&world.read("lib/store-manifest.json")).unwrap();
    let record: Value = serde_json::from_str(&world.read("lib/.packages.json")).unwrap();
    assert_eq!(manifest, record);
    assert_eq!(world.solve(&newer, &["--library", "lib"]).ok().outcomes(), "hdr kept, lnk kept, plain kept, same kept");
    assert_eq!(world.trees("lnk").len(), 2, "both configurations");
}

#[test]
fn p12_p17_half_written_entries_are_repaired_and_whole_ones_left_alone() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    install(&world, &Package::new("demo", "1.0"));
    store(&world, "ingest", &lock, "lib");
    let tree = world.trees("demo")[0].clone();
    let made = fs::metadata(tree.join("DESCRIPTION")).unwrap().modified().unwrap();
    store(&world, "ingest", &lock, "lib");
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&path.metadata().unwrap());
    let before = inode(&tree);
    assert_eq!(fs::metadata(tree.join("DESCRIPTION")).unwrap().modified().unwrap(), made);
    fs::remove_file(tree.with_extension("json")).unwrap();
    store(&world, "ingest", &lock, "lib");
    assert!(tree.with_extension("json").is_file());
    assert_ne!(inode(&tree), before, "a tree without its sidecar is not to be trusted");
}

#[test]
fn p18_d16_populating_marks_what_it_uses() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    let sidecar = world.trees("demo")[0].with_extension("json");
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().append(true).open(&sidecar).unwrap().set_modified(old).unwrap();
    assert_eq!(store(&world, "populate", &lock, "lib"), "store: 1 hits, 0 misses\n");
    assert!(fs::metadata(&sidecar).unwrap().modified().unwrap() > old);
    assert_eq!(store(&world, "populate", &lock, "lib"), "store: 0 hits, 0 misses\n", "what is there is skipped");
}
