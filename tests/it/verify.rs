//! What becomes of a store whose files change: it is noticed, told, kept for inspection, and made good.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::world::{Package, World, need_r};

/// Damages a stored file, as a failing disk does: same name, same size, other content.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o444)).unwrap();
}

/// A world with `demo` and `other` built.
fn built() -> (World, PathBuf) {
    let world = World::new();
    let lock = world.lock_published(&[
        &Package::new("demo", "1.0").file("inst/data.txt", "some data\n"),
        &Package::new("other", "1.0"),
    ]);
    world.solve(&lock, &[]).ok();
    (world, lock)
}

#[test]
fn a_flipped_bit_is_found_and_repaired_and_the_next_run_builds_it_again() {
    need_r!();
    let (world, lock) = built();
    let ran = world.run(["store", "verify"]).ok();
    assert!(ran.stdout.contains("2 entries") && ran.stdout.contains("nothing is wrong"), "{}", ran.stdout);

    flip(&world.trees("demo")[0].join("data.txt"));
    let ran = world.run(["store", "verify"]).exits(1);
    assert!(ran.stdout.contains("/data.txt has another content than when it was stored"), "{}", ran.stdout);
    assert!(ran.stdout.contains("1 finding\n"), "{}", ran.stdout);
    world.run(["store", "verify", "other"]).ok();

    let ran = world.run(["store", "verify", "--repair", "--json"]).ok();
    let events = ran.events();
    assert_eq!(events[0]["reason"], "finding");
    assert_eq!((&events[0]["package"], &events[0]["repaired"]), (&"demo".into(), &true.into()));
    assert_eq!((&events[1]["reason"], &events[1]["repaired"]), (&"verified".into(), &1.into()));
    assert_eq!(world.items("store/.aside").len(), 1);
    world.run(["store", "verify"]).ok();
    assert_eq!(world.solve(&lock, &["--library", "fresh"]).ok().outcomes(), "demo ingested, other loaded");
    world.run(["store", "verify"]).ok();
}

/// The machine under a store that lasts may change: another image, an upgrade of the system.
#[test]
fn what_needs_a_shared_library_that_is_gone_is_built_again_and_says_so() {
    need_r!();
    let (world, lock) = built();
    let sidecar = world.trees("demo")[0].with_extension("json");
    let mut said: serde_json::Value = serde_json::from_slice(&fs::read(&sidecar).unwrap()).unwrap();
    // One that another implementation wrote needs no checksum.
    let fields = said.as_object_mut().unwrap();
    fields.retain(|name, _| !["checksum", "tree"].contains(&&**name));
    fields.insert("sonames".to_owned(), serde_json::json!(["libc.so.6", "libgone.so.7"]));
    fs::remove_file(&sidecar).unwrap();
    fs::write(&sidecar, said.to_string()).unwrap();

    let ran = world.solve(&lock, &["--library", "fresh"]).ok();
    assert_eq!(ran.outcomes(), "demo recompiled, other loaded");
    assert_eq!(ran.because("demo"), "its build in the store needs libgone.so.7, which this machine has not");
    assert_eq!(world.items("store/.aside").len(), 0, "nothing was wrong with it");
    let ran = world.solve(&lock, &["--library", "another"]).ok();
    assert_eq!(ran.outcomes(), "demo loaded, other loaded");
    world.run(["store", "verify"]).ok();
}

#[test]
fn with_verify_no_damaged_package_is_loaded_or_kept() {
    need_r!();
    let (world, lock) = built();
    let fresh = |name: &str| world.path(name);
    flip(&world.trees("demo")[0].join("data.txt"));
    let ran = world.solve(&lock, &["--verify", "--library", fresh("a").to_str().unwrap()]).ok();
    assert_eq!(ran.outcomes(), "demo ingested, other loaded");
    assert!(
        ran.warnings().contains("demo could not be loaded: its entry in the store is broken"),
        "{}",
        ran.warnings()
    );
    assert_eq!(ran.warnings().matches("could not be loaded").count(), 1, "{}", ran.warnings());
    assert_eq!(world.read("a/demo/data.txt"), "some data\n");
    assert_eq!(world.items("store/.aside").len(), 1);
    world.run(["store", "verify"]).ok();

    // Linked by copy: what happens to the library then does not happen to the store.
    let copied = fresh("copied");
    let to = copied.to_str().unwrap();
    world.solve(&lock, &["--library", to, "--link", "copy"]).ok();
    flip(&copied.join("demo/data.txt"));
    assert_eq!(world.solve(&lock, &["--library", to]).ok().outcomes(), "demo kept, other kept");
    let ran =
        world.finish(world.command().arg(&lock).args(["--json", "--library", to]).env("LARDER_VERIFY", "true")).ok();
    assert_eq!(ran.outcomes(), "demo loaded, other kept");
    assert_eq!(ran.because("demo"), "it was changed in the library");
    assert_eq!(world.read("copied/demo/data.txt"), "some data\n");
}

#[test]
fn a_broken_entry_that_a_run_meets_is_set_aside_and_built_again() {
    need_r!();
    let (world, lock) = built();
    let tree = world.trees("demo")[0].clone();
    fs::write(tree.with_extension("json"), "{\"created_at\": ").unwrap();
    let other = world.trees("other")[0].clone();
    fs::remove_file(other.join("DESCRIPTION")).unwrap();
    let ran = world.solve(&lock, &["--library", "fresh"]).ok();
    assert_eq!(ran.outcomes(), "demo ingested, other ingested");
    assert!(ran.warnings().contains("demo could not be loaded"), "{}", ran.warnings());
    assert_eq!(world.items("store/.aside").len(), 2);
    assert!(world.items("store/.aside").iter().all(|aside| aside.join("why.txt").is_file()));
    world.run(["store", "verify"]).ok();
}

#[test]
fn configs_that_name_what_is_gone_are_a_miss_and_made_good() {
    need_r!();
    let (world, lock) = built();
    let tree = world.trees("demo")[0].clone();
    fs::remove_dir_all(&tree).unwrap();
    world.run(["store", "verify"]).exits(1);
    assert_eq!(world.solve(&lock, &["--library", "fresh"]).ok().outcomes(), "demo ingested, other loaded");
    world.run(["store", "verify"]).ok();
}

#[test]
fn a_package_that_is_being_built_is_not_called_broken() {
    need_r!();
    let world = World::new();
    let (told, waits) = (world.fifo("told"), world.fifo("waits"));
    let script = format!("#!/bin/sh\necho x > {}\nread x < {}\n", told.display(), waits.display());
    let lock = world.lock_published(&[&Package::configured("slow", "1.0", &script)]);
    let run = world.start(&lock, &[]);
    fs::read_to_string(&told).unwrap();
    world.run(["store", "verify"]).ok();
    fs::write(&waits, "x\n").unwrap();
    assert_eq!(run.finish().ok().outcomes(), "slow ingested");
    world.run(["store", "verify"]).ok();
}

#[test]
fn a_broken_entry_that_is_met_by_its_content_is_set_aside_and_built_again() {
    need_r!();
    let world = World::new();
    let lock = |version: &str| {
        world.lock_published(&[&Package::header("hdr", version, 1), &Package::linker("lnk", "2.0", "hdr")])
    };
    world.solve(&lock("1.0"), &[]).ok();
    flip(&world.trees("lnk")[0].join("DESCRIPTION"));
    // The same headers: without looking closely it would be taken over.
    let ran = world.solve(&lock("1.1"), &["--verify", "--library", "fresh"]).ok();
    assert_eq!(ran.outcomes(), "hdr ingested, lnk ingested");
    assert!(ran.warnings().contains("lnk could not be loaded: its entry in the store is broken"), "{}", ran.warnings());
    assert_eq!(world.items("store/.aside").len(), 1);
    assert_eq!(world.trees("lnk").len(), 1, "only the new build");
    world.run(["store", "verify"]).ok();
}

#[test]
fn with_verify_nothing_damaged_is_given_to_other_tools_or_taken_from_a_library_in_use() {
    need_r!();
    let (world, lock) = built();
    let (lockfile, manifest) = (lock.to_str().unwrap(), world.record());
    let populate = |lib: &str, more: &[&str]| {
        let args = ["store", "populate", "--lockfile", lockfile, "--lib", lib];
        world.run(args.iter().chain(more).copied()).ok()
    };
    let is_damaged = |lib: &str| world.read(&format!("{lib}/demo/data.txt")) != "some data\n";
    flip(&world.trees("demo")[0].join("data.txt"));
    assert_eq!(populate("trusting", &[]).stdout, "store: 2 hits, 0 misses\n");
    assert!(is_damaged("trusting"));
    let ran = populate("careful", &["--verify"]);
    assert_eq!(ran.stdout, "store: 1 hits, 1 misses\n");
    assert!(ran.stderr.contains("demo could not be loaded") && ran.stderr.contains("set aside"), "{}", ran.stderr);
    assert!(!world.has("careful/demo") && world.has("careful/other"));
    world.run(["store", "verify"]).ok();

    // The other tool gives it back, and it is lost once more, this time behind the back of the record of a library.
    world.solve(&lock, &["--library", "again"]).ok();
    flip(&world.trees("demo")[0].join("data.txt"));
    let mut config = larder::larder::Config::new(world.path("store"), [("PATH".into(), crate::world::PATH.into())]);
    config.verifies = true;
    let larder = larder::larder::Larder::open(config).unwrap();
    let missing = larder.assemble(&serde_json::from_value(manifest).unwrap(), &world.path("assembled")).unwrap();
    assert_eq!(missing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["demo"]);
    assert!(!world.has("assembled/demo") && world.has("assembled/other"));
    assert_eq!(world.items("store/.aside").len(), 2);

    // A library in use, whose package the store has no longer: nothing says what its bytes were.
    let from = ["--reference-lib", "again", "--library"];
    let ran = world.solve(&lock, &[&from[..], &["next"]].concat()).ok();
    assert_eq!(ran.outcomes(), "demo loaded, other loaded");
    let ran = world.solve(&lock, &[&from[..], &["checked", "--verify"]].concat()).ok();
    assert_eq!(ran.outcomes(), "demo ingested, other loaded");
    assert!(!is_damaged("checked"));
    // Now the store can tell, and it is the copy in the library in use that is not as it was stored.
    let copied = ["--reference-lib", "again", "--runtime", "--verify"];
    assert_eq!(populate("runtime", &copied).stdout, "store: 0 hits, 0 misses, 1 ABI hits, 0 ABI rebuilds\n");
    assert!(!is_damaged("runtime") && world.has("runtime/other"));
}
