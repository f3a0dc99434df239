//! What happens to the library: what is put there, what is left alone, what is removed, and how files get there.

use std::os::unix::fs::MetadataExt;

use fs_err as fs;
use serde_json::json;

use crate::world::{Package, Session, World, need_r, skip};

/// Puts a package there that is somebody else's.
fn put_foreign(world: &World, name: &str) {
    world.write(&format!("library/{name}/DESCRIPTION"), format!("Package: {name}\nVersion: 1.0\n"));
}

#[test]
fn what_the_lockfile_no_longer_has_goes_and_what_is_not_ours_stays() {
    need_r!();
    let world = World::new();
    let entries = ["aa", "bb"].map(|name| world.publish(&Package::new(name, "1.0")));
    put_foreign(&world, "mine");
    let ran = world.solve(&world.lock(entries.clone()), &[]).ok();
    let warning = ran.warnings();
    assert!(
        warning.starts_with("1 package in the library is not in the lockfile and stay") && warning.contains("(mine)"),
        "{warning}"
    );
    let names = |world: &World| world.record().as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&world), ["aa", "bb"]);

    let only = world.lock([entries[0].clone()]);
    assert_eq!(world.solve(&only, &[]).ok().outcomes(), "aa kept");
    assert!(world.has("library/aa") && !world.has("library/bb") && world.has("library/mine"));
    assert_eq!(names(&world), ["aa"]);

    let ran = world.solve(&only, &["--exact"]).ok();
    assert_eq!(ran.warnings(), "");
    assert!(world.has("library/aa") && !world.has("library/mine"));
}

#[test]
fn a_package_of_somebody_else_is_replaced_when_the_lockfile_has_it() {
    need_r!();
    let world = World::new();
    put_foreign(&world, "demo");
    let ran = world.solve(&world.lock_published(&[&Package::new("demo", "2.0")]), &[]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert_eq!(world.r("cat(demo::answer())"), "2.0");
}

#[test]
fn a_package_that_was_taken_away_or_damaged_is_put_back() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    fs::remove_dir_all(world.path("library/demo")).unwrap();
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo loaded");
    fs::remove_file(world.path("library/.packages.json")).unwrap();
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo loaded");
    assert!(world.record()["demo"].is_string());
}

#[test]
fn a_damaged_record_is_named_with_what_to_do() {
    need_r!();
    let world = World::new();
    world.write("library/.packages.json", "{\"demo\": 1}");
    let ran = world.solve(&world.lock_published(&[&Package::new("demo", "1.0")]), &[]).exits(3);
    assert!(ran.stderr.contains(".packages.json` cannot be read"), "{}", ran.stderr);
    assert!(ran.stderr.contains("\nhint: remove `"), "{}", ran.stderr);
}

#[test]
fn an_r_that_has_the_old_package_loaded_keeps_it() {
    need_r!();
    let world = World::new();
    let package = |version: &str| {
        Package::linker("demo", version, "hdr")
            .file(
                "R/code.R",
                &format!("answer <- function() .Call(number)\nlater <- function() \"code of {version}\"\n"),
            )
            .file("NAMESPACE", "useDynLib(demo, number)\nexport(answer, later)\n")
    };
    let entries = |version: &str, number| {
        [world.publish(&Package::header("hdr", version, number)), world.publish(&package(version))]
    };
    world.solve(&world.lock(entries("1.0", 1)), &[]).ok();
    let mut r = Session::start(&world);
    assert_eq!(r.ask("demo::answer()"), "1");
    world.solve(&world.lock(entries("2.0", 2)), &[]).ok();
    assert_eq!(r.ask("demo::answer()"), "1");
    assert_eq!(r.ask("demo::later()"), "code of 1.0");
    assert_eq!(world.r("cat(demo::answer(), demo::later())"), "2 code of 2.0");
}

#[test]
fn files_get_there_as_they_were_asked_to() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0").executable("inst/tool", "#!/bin/sh\n")]);
    world.solve(&lock, &["--link", "copy"]).ok();
    let tree = world.trees("demo")[0].clone();
    let inode = |path: &std::path::Path| path.metadata().unwrap().ino();
    assert_ne!(inode(&world.path("library/demo/tool")), inode(&tree.join("tool")));
    world.solve(&lock, &["--link", "hardlink", "--library", "hard"]).ok();
    assert_eq!(inode(&world.path("hard/demo/tool")), inode(&tree.join("tool")));
    world.solve(&lock, &["--link", "symlink", "--library", "soft"]).ok();
    assert_eq!(fs::read_link(world.path("soft/demo")).unwrap(), tree);
    assert_eq!(world.solve(&lock, &["--library", "soft"]).ok().outcomes(), "demo kept");
    for library in ["library", "hard", "soft"] {
        let place = world.path(library).join("demo");
        assert_eq!(place.join("tool").metadata().unwrap().mode() & 0o777, 0o555, "{library}");
        let mtime = |path: &std::path::Path| path.metadata().unwrap().modified().unwrap();
        assert_eq!(mtime(&place.join("DESCRIPTION")), mtime(&tree.join("DESCRIPTION")), "{library}");
        assert_eq!(
            world.r(&format!("cat(loadNamespace('demo', lib.loc = '{}')$answer())", world.path(library).display())),
            "1.0"
        );
    }
    let ran = world.solve(&lock, &["--link", "reflink", "--library", "shared"]).ok();
    assert!(world.has("shared/demo/tool"));
    assert!(ran.warnings().is_empty() || ran.warnings().contains("does not allow `reflink`"), "{}", ran.warnings());
}

#[test]
fn a_library_of_links_follows_the_lockfile() {
    need_r!();
    let world = World::new();
    let lock = |version| world.lock_published(&[&Package::new("demo", version)]);
    world.solve(&lock("1.0"), &["--link", "symlink"]).ok();
    world.solve(&lock("2.0"), &["--link", "symlink"]).ok();
    assert_eq!(world.r("cat(demo::answer())"), "2.0");
    assert_eq!(world.trees("demo").len(), 2, "the store is not changed through the link");
    world.solve(&lock("1.0"), &["--link", "copy"]).ok();
    assert!(!world.path("library/demo").is_symlink());
    assert_eq!(world.r("cat(demo::answer())"), "1.0");
    let other = world.lock_published(&[&Package::new("other", "1.0")]);
    world.solve(&other, &[]).ok();
    assert!(!world.has("library/demo"));
    assert!(world.trees("demo").iter().all(|tree| tree.join("DESCRIPTION").is_file()));
}

#[test]
fn a_library_on_another_file_system_gets_copies() {
    need_r!();
    let world = World::new();
    let Ok(elsewhere) = tempfile::Builder::new().prefix("larder-").tempdir_in("/dev/shm") else {
        return skip("/dev/shm cannot be written");
    };
    if elsewhere.path().metadata().unwrap().dev() == world.path("").metadata().unwrap().dev() {
        return skip("/dev/shm is no other file system");
    }
    let library = elsewhere.path().join("library");
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.solve(&lock, &["--library", library.to_str().unwrap()]).ok();
    assert_eq!(ran.warnings(), "", "copying is no news where nobody asked for a way");
    assert!(library.join("demo/DESCRIPTION").is_file());
    let other = elsewhere.path().join("other");
    let ran = world.solve(&lock, &["--library", other.to_str().unwrap(), "--link", "hardlink"]).ok();
    assert!(
        ran.warnings().contains("does not allow `hard link`") && ran.warnings().contains("used `copy`"),
        "{}",
        ran.warnings()
    );
    let store = elsewhere.path().join("store");
    let ran = world.solve(&lock, &["--store", store.to_str().unwrap(), "--library", "third"]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert!(world.has("third/demo/DESCRIPTION"));
}

#[test]
fn a_library_that_cannot_be_is_an_error_of_the_machine() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.write("file", "x");
    for library in ["file", "file/library"] {
        let ran = world.solve(&lock, &["--library", library]).exits(3);
        assert!(ran.stderr.starts_with("error: the library: ") && ran.stderr.contains(library), "{}", ran.stderr);
        assert!(!world.has("store/logs"), "that is found out before anything is built");
    }
}

#[test]
fn a_library_of_one_run_is_waited_for_by_the_next() {
    need_r!();
    let world = World::new();
    let locks = [
        world.lock([world.publish(&Package::new("aa", "1.0"))]),
        world.lock([world.publish(&Package::new("bb", "1.0"))]),
    ];
    let runs = locks.each_ref().map(|lock| world.start(lock, &[]));
    for run in runs {
        run.finish().ok();
    }
    // Whichever came last: the library is what its lockfile says, and the record too.
    let record = world.record();
    assert!(record == json!({"aa": record["aa"]}) || record == json!({"bb": record["bb"]}), "{record}");
    assert_ne!(world.has("library/aa"), world.has("library/bb"));
}

#[test]
fn a_library_in_the_place_of_the_store_loses_nothing() {
    need_r!();
    let world = World::new();
    // A store inside of the library, or the library inside of the store, is odd but no reason to lose anything.
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.solve(&lock, &["--library", "store"]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert_eq!(world.solve(&lock, &["--library", "store", "--exact"]).ok().outcomes(), "demo kept");
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo loaded");
}
