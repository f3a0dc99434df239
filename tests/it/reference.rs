//! A new library made from one that is in use: the flow of an application server that gives its workers new packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::world::{Package, Ran, Session, World, need_r};

const FROM_OLD: &[&str] = &["--library", "new", "--reference-lib", "library"];

/// `hdr` (header only), `lnk` and `far` (both link to it), `top` (imports `far`), `alone`.
fn packages(hdr: &str, number: u32) -> Vec<Package> {
    vec![
        Package::header("hdr", hdr, number),
        Package::linker("lnk", "2.0", "hdr"),
        Package::linker("far", "1.0", "hdr"),
        Package::new("top", "3.0").imports(&["far"]),
        Package::new("alone", "1.0"),
    ]
}

/// Writes a lockfile with those of the packages that are named.
fn lock(world: &World, hdr: &str, number: u32, names: &[&str]) -> PathBuf {
    let all = packages(hdr, number);
    world.lock(all.iter().filter(|package| names.contains(&&*package.name)).map(|package| world.publish(package)))
}

const ALL: &[&str] = &["hdr", "lnk", "far", "top", "alone"];

/// Every file of a library with its inode: whatever changes in it shows.
fn content(library: &Path) -> Vec<(PathBuf, u64)> {
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&path.symlink_metadata().unwrap());
    let mut open = vec![library.to_owned()];
    let mut all = Vec::new();
    while let Some(dir) = open.pop() {
        for path in crate::world::items(&dir) {
            all.push((path.clone(), inode(&path)));
            if path.is_dir() && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    all
}

/// What R says with the new library.
fn r(world: &World, expression: &str) -> String {
    world.r(&format!(".libPaths('{}'); cat({expression})", world.path("new").display()))
}

fn stale(ran: &Ran) -> String {
    let finished = ran.events_of("finished");
    let names = finished[0]["stale"].as_array().cloned().unwrap_or_default();
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(", ")
}

/// Forgets what the store has of a package, as an evictor would.
fn forget(world: &World, package: &str) {
    fs::remove_dir_all(world.platform_dir().join(package)).unwrap();
}

/// Installs a package by hand, without larder.
fn install(world: &World, package: &Package, library: &str) {
    let source = world.path("by-hand").join(&package.name);
    package.write_to(&source);
    let library = world.path(library);
    let mut r = Command::new("R");
    r.args(["CMD", "INSTALL", "--library"]).arg(&library).arg(&source).env("R_LIBS", &library);
    let output = r.current_dir(world.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn p19_what_is_unchanged_comes_from_the_library_in_use_even_if_the_store_has_it_no_longer() {
    need_r!();
    let world = World::new();
    let lock = lock(&world, "1.0", 1, ALL);
    world.solve(&lock, &[]).ok();
    let before = content(&world.path("library"));
    for package in ALL {
        forget(&world, package);
    }
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    let ran = world.solve(&lock, &[FROM_OLD, &["--offline"]].concat()).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far loaded, hdr loaded, lnk loaded, top loaded");
    assert_eq!(ran.because("lnk"), "the reference library has it");
    assert_eq!(content(&world.path("library")), before, "the library in use is never changed");
    fs::remove_dir_all(world.path("library")).unwrap();
    assert_eq!(r(&world, "lnk::answer(), far::answer(), top::own(), alone::answer()"), "1 1 3.0 1 1.0");
}

#[test]
fn d9_a_new_header_recompiles_also_what_is_not_in_the_lockfile_while_the_worker_runs_on() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    let mut worker = Session::start(&world);
    assert_eq!(worker.ask("lnk::answer()"), "1");
    let before = content(&world.path("library"));
    let ran = world.solve(&lock(&world, "1.1", 2, &["hdr", "lnk"]), FROM_OLD).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far recompiled, hdr ingested, lnk recompiled, top loaded");
    assert_eq!(ran.because("far"), "hdr 1.0 -> 1.1");
    assert_eq!(stale(&ran), "");
    assert_eq!(r(&world, "lnk::answer(), far::answer(), top::own(), alone::answer()"), "2 2 3.0 2 1.0");
    assert_eq!(content(&world.path("library")), before);
    assert_eq!(worker.ask("paste(far::answer(), top::own())"), "1 3.0 1", "loaded after the new library was made");

    // Going back finds everything in the store, and the other way round too.
    let ran =
        world.solve(&lock(&world, "1.0", 1, &["hdr", "lnk"]), &["--library", "third", "--reference-lib", "new"]).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far loaded, hdr loaded, lnk loaded, top loaded");
    let again = world.solve(&lock(&world, "1.1", 2, &["hdr", "lnk"]), FROM_OLD).ok();
    assert_eq!(again.outcomes(), "alone kept, far kept, hdr kept, lnk kept, top kept");
}

#[test]
fn d9_what_cannot_be_built_again_is_named_and_left_out() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    let newer = lock(&world, "1.1", 2, &["hdr", "lnk"]);
    let ran = world.solve(&newer, FROM_OLD).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far stale, hdr ingested, lnk recompiled, top loaded");
    assert_eq!(ran.because("far"), "it links to hdr 1.0 -> 1.1, and its source is not at hand");
    assert_eq!(stale(&ran), "far, top");
    assert!(ran.warnings().contains("far 1.0 (it links to hdr 1.0 -> 1.1,"), "{}", ran.warnings());
    assert!(ran.warnings().contains("top 3.0 (it needs far, which is stale)"), "{}", ran.warnings());
    assert!(!world.has("new/far") && !world.has("new/top"));
    assert_eq!(r(&world, "lnk::answer(), alone::answer()"), "2 1.0");
    let again = world.solve(&newer, FROM_OLD).ok();
    assert_eq!(
        (again.outcomes(), stale(&again)),
        ("alone kept, far stale, hdr kept, lnk kept, top loaded".to_owned(), "far, top".to_owned())
    );
}

#[test]
fn what_no_longer_compiles_is_stale_and_has_a_log() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    let hdr = Package::new("hdr", "2.0").file("inst/include/hdr.h", "#define OTHER_NUMBER 1\n");
    let ran = world.solve(&world.lock([world.publish(&hdr)]), FROM_OLD).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far stale, hdr ingested, lnk stale, top loaded");
    assert_eq!(ran.because("far"), "it links to hdr 1.0 -> 2.0, and `R CMD INSTALL` failed");
    assert!(Path::new(ran.of("far")["log"].as_str().unwrap()).is_file());
    assert_eq!(stale(&ran), "far, lnk, top");
    assert_eq!(r(&world, "alone::answer()"), "1.0");
}

#[test]
fn what_a_compiler_sees_no_change_for_needs_no_source() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    let ran = world.solve(&lock(&world, "1.1", 1, &["hdr"]), FROM_OLD).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far loaded, hdr ingested, lnk loaded, top loaded");
    assert_eq!(ran.because("far"), "interface unchanged");
    assert_eq!(r(&world, "far::answer(), top::own()"), "1 3.0 1");
}

#[test]
fn what_links_to_a_package_that_is_gone_is_stale() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    fs::remove_dir_all(world.path("library/hdr")).unwrap();
    let ran = world.solve(&lock(&world, "1.0", 1, &["alone"]), FROM_OLD).ok();
    assert_eq!(ran.outcomes(), "alone loaded, far stale, lnk stale, top stale");
    assert_eq!(ran.because("far"), "it links to hdr, which is not there any more");
    assert_eq!(ran.because("top"), "it needs far, which is stale");
    assert_eq!(stale(&ran), "far, lnk, top");
    assert_eq!(ran.events_of("plan")[0]["vertices"], 4);
}

#[test]
fn what_was_installed_by_hand_goes_along_if_what_it_links_to_is_the_same() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    install(&world, &Package::new("plain", "1.0"), "library");
    install(&world, &Package::linker("hand", "1.0", "hdr"), "library");
    install(
        &world,
        &Package::linker("hand2", "1.0", "hand")
            .file("src/number.cpp", "")
            .file("NAMESPACE", "export(answer)\n")
            .file("R/code.R", "answer <- function() 4\n"),
        "library",
    );
    let same = lock(&world, "1.0", 1, &["hdr"]);
    let ran = world.solve(&same, FROM_OLD).ok();
    assert_eq!(ran.because("hand"), "the reference library has it");
    assert_eq!(stale(&ran), "");
    assert_eq!(r(&world, "hand::answer(), hand2::answer(), plain::answer()"), "1 4 1.0");
    let record: serde_json::Value = serde_json::from_str(&world.read("new/.packages.json")).unwrap();
    assert!(record["plain"].is_null() && record["far"].is_string(), "{record}");
    let inode = |library: &str| {
        std::os::unix::fs::MetadataExt::ino(&world.path(library).join("plain/DESCRIPTION").metadata().unwrap())
    };
    assert_ne!(inode("library"), inode("new"), "whoever installed it may write to it");
    let before = content(&world.path("new"));
    world.solve(&same, FROM_OLD).ok();
    assert_eq!(content(&world.path("new")), before, "nothing to do");

    let ran = world.solve(&lock(&world, "1.1", 2, &["hdr"]), FROM_OLD).ok();
    assert_eq!(stale(&ran), "hand, hand2");
    assert_eq!(ran.because("hand"), "it links to hdr 1.0 -> 1.1, and its source is not at hand");
    assert!(!world.has("new/hand") && world.has("new/plain"));
}

#[test]
fn the_new_library_is_complete_or_as_it_was() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    let broken = world.lock([
        world.publish(&Package::header("hdr", "1.1", 2)),
        world.publish(&Package::broken("fails", "1.0")),
        world.publish(&Package::new("fine", "1.0")),
    ]);
    for more in [&[][..], &["--keep-going"]] {
        world.solve(&broken, &[FROM_OLD, more].concat()).exits(1);
        assert!(!world.has("new/.packages.json") && !world.has("new/fine") && !world.has("new/alone"));
    }
    let atomic = [FROM_OLD, &["--atomic-library"]].concat();
    world.solve(&lock(&world, "1.1", 2, &["hdr"]), &atomic).ok();
    assert_eq!(fs::read_link(world.path("new")).unwrap(), Path::new(".new.larder/1"));
    assert_eq!(r(&world, "far::answer()"), "2");
}

#[test]
fn links_of_the_new_library_do_not_lead_into_the_old_one() {
    need_r!();
    let world = World::new();
    let all = lock(&world, "1.0", 1, ALL);
    world.solve(&all, &["--link", "symlink"]).ok();
    let mut args = FROM_OLD.to_vec();
    args.extend(["--link", "symlink"]);
    world.solve(&all, &args).ok();
    fs::remove_dir_all(world.path("library")).unwrap();
    assert_eq!(r(&world, "lnk::answer(), top::own()"), "1 3.0 1");
}

#[test]
fn a_library_is_not_made_from_itself_nor_from_one_that_changes() {
    need_r!();
    let world = World::new();
    let all = lock(&world, "1.0", 1, ALL);
    world.solve(&all, &[]).ok();
    let ran = world.solve(&all, &["--reference-lib", "library/"]).exits(2);
    assert!(ran.stderr.contains("is the library itself"), "{}", ran.stderr);
    let lock_file = fs::File::open(world.path("library/.larder/lock")).unwrap();
    lock_file.file().lock().unwrap();
    let ran = world.solve(&all, FROM_OLD).exits(3);
    assert!(ran.stderr.contains("is being changed by another process"), "{}", ran.stderr);
    drop(lock_file);
    let ran = world.solve(&all, &["--library", "new", "--reference-lib", "nowhere"]).exits(3);
    assert!(ran.stderr.contains("nowhere"), "{}", ran.stderr);
}

/// Returns the answer to "which loaded packages would change".
fn refresh(world: &World, lock: &Path, args: &[&str], loaded: &str) -> serde_json::Value {
    let ran = world.finish(world.command().arg("plan").arg(lock).args(["--json", "--loaded", loaded]).args(args)).ok();
    ran.events_of("refresh").remove(0)
}

fn changed(refresh: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("none").to_owned();
    let line = |item: &serde_json::Value| {
        format!(
            "{} {} -> {}: {}",
            text(&item["package"]),
            text(&item["from"]),
            text(&item["to"]),
            text(&item["because"])
        )
    };
    refresh["changed"].as_array().unwrap().iter().map(line).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_caller_learns_which_loaded_packages_would_change() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0", 1, ALL), &[]).ok();
    let mut worker = Session::start(&world);
    worker.ask("alone::answer()");
    let newer = lock(&world, "1.1", 2, &["hdr", "lnk"]);
    let from_old = &FROM_OLD;
    let answer = refresh(&world, &newer, from_old, &worker.loaded());
    assert_eq!(
        (answer["in_place"].as_bool(), changed(&answer).as_str()),
        (Some(true), ""),
        "what changes is not loaded"
    );

    // `top` imports `far`: R has loaded both, so that the list names both, and only `far` changes.
    worker.ask("paste(lnk::answer(), top::own())");
    let answer = refresh(&world, &newer, from_old, &worker.loaded());
    assert_eq!(answer["in_place"], false);
    assert_eq!(changed(&answer), "far 1.0 -> 1.0: hdr 1.0 -> 1.1; lnk 2.0 -> 2.0: hdr 1.0 -> 1.1");
    fs::remove_dir_all(world.path("store/blobs")).unwrap();
    let answer = refresh(&world, &newer, from_old, "far,top");
    assert_eq!(changed(&answer), "far 1.0 -> none: hdr 1.0 -> 1.1");

    // Without a reference library the question is about the library itself.
    let more = world.lock([world.publish(&Package::new("alone", "1.1")), world.publish(&Package::new("fresh", "1.0"))]);
    assert_eq!(
        changed(&refresh(&world, &more, &[], "base,stats,fresh")),
        "fresh none -> 1.0: R has it from another library"
    );
    let answer = changed(&refresh(&world, &more, &[], "alone,top,unheard.of"));
    assert_eq!(answer, "alone 1.0 -> 1.1: another version; top 3.0 -> none: the lockfile does not have it");
    let text = world
        .run(["plan", newer.to_str().unwrap(), "--reference-lib", "library", "-l", "new", "--loaded", "alone"])
        .ok()
        .stdout;
    assert!(text.ends_with("No loaded package changes: what is new can be added to the library in use\n"), "{text}");
    let text = world
        .run(["plan", newer.to_str().unwrap(), "--reference-lib", "library", "-l", "new", "--loaded", "lnk"])
        .ok()
        .stdout;
    assert!(text.ends_with("  lnk  2.0 -> 2.0  hdr 1.0 -> 1.1\n"), "{text}");
}

#[test]
fn a_worker_is_replaced_by_one_with_a_library_of_its_own() {
    need_r!();
    let world = World::new();
    let create = || world.run(["library", "create"]).ok().stdout.trim().to_owned();
    let (old, new) = (create(), create());
    let first = lock(&world, "1.0", 1, ALL);
    world.solve(&first, &["--library", &old]).ok();
    let mut worker = Session::with_library(&world, Path::new(&old));
    assert_eq!(worker.ask("far::answer()"), "1");
    let newer = lock(&world, "1.1", 2, &["hdr"]);
    assert_eq!(
        refresh(&world, &newer, &["--reference-lib", &old, "--library", &new], &worker.loaded())["in_place"],
        false
    );
    world.solve(&newer, &["--library", &new, "--reference-lib", &old]).ok();
    let mut next = Session::with_library(&world, Path::new(&new));
    assert_eq!(next.ask("far::answer()"), "2");
    assert_eq!(worker.ask("lnk::answer()"), "1", "the old worker has its library to its end");
    drop(worker);
    world.run(["library", "rm", &old]).ok();
    assert_eq!(next.ask("lnk::answer()"), "2");
}
