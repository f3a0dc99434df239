//! A writable store over others that are only read, such as one in the image of a container.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use fs_err as fs;

use crate::world::{Mounted, Package, World, items, need_r, skip};

fn packages() -> [Package; 3] {
    let far = Package::linker("far", "1.0", "hdr").field("Imports", "lnk");
    [Package::linker("lnk", "2.0", "hdr"), far, Package::new("plain", "1.0")]
}

fn lock(world: &World, hdr: (&str, u32), more: &[&Package]) -> PathBuf {
    let (header, others) = (Package::header("hdr", hdr.0, hdr.1), packages());
    let all: Vec<&Package> = std::iter::once(&header).chain(&others).chain(more.iter().copied()).collect();
    world.lock_published(&all)
}

/// Solves with only this store.
fn alone(world: &World, store: &str, lockfile: &Path) {
    let mut command = world.command();
    command.env("LARDER_STORE", world.path(store)).env("LARDER_LIBRARY", world.path("first"));
    world.finish(command.arg(lockfile).arg("--json")).ok();
    fs::remove_dir_all(world.path("first")).unwrap();
}

/// The command with a store over a base.
fn over(world: &World, base: &str) -> Command {
    let mut command = world.command();
    command.env("LARDER_STORE", format!("{}:{}", world.path("upper").display(), world.path(base).display()));
    command
}

/// Returns the packages that a store has entries of.
fn held(world: &World, store: &str) -> String {
    let listed = world.finish(world.command().args(["store", "ls", "--json", "--store"]).arg(world.path(store))).ok();
    let name = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["package"].as_str().unwrap().to_owned()
    };
    let mut names: Vec<_> = listed.stdout.lines().map(name).collect();
    names.sort();
    names.join(" ")
}

/// Returns everything below a directory with the time of its last change.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut all = BTreeMap::new();
    for path in items(dir) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        all.insert(path.clone(), metadata.modified().unwrap());
        if metadata.is_dir() {
            all.extend(snapshot(&path));
        }
    }
    all
}

/// Whatever the base lies on: all is loaded from it, what is new goes into the store over it.
fn serves(world: &World) {
    let extra = Package::linker("extra", "1.0", "hdr");
    let (old, more) = (lock(world, ("1.0", 1), &[]), lock(world, ("1.0", 1), &[&extra]));
    let n_before = world.server.requests().len();
    let solve = |lockfile: &Path, args: &[&str]| {
        let ran = world.finish(over(world, "base").arg(lockfile).arg("--json").args(args)).ok();
        assert_eq!(ran.warnings(), "");
        ran.outcomes()
    };
    let planned = world.finish(over(world, "base").arg("plan").arg(&old).arg("--json")).ok();
    assert_eq!(planned.actions(), "far load, hdr load, lnk load, plain load");
    assert_eq!(solve(&old, &[]), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(world.server.requests().len(), n_before);
    assert_eq!(world.r("cat(lnk::answer())"), "1");
    assert_eq!(held(world, "upper"), "");
    assert_eq!(solve(&old, &[]), "far kept, hdr kept, lnk kept, plain kept");

    fs::remove_dir_all(world.path("library")).unwrap();
    assert_eq!(solve(&more, &[]), "extra ingested, far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(world.server.requests().len(), n_before + 1);
    assert_eq!(held(world, "upper"), "extra");
    assert_eq!(world.r("cat(extra::answer())"), "1");

    // What links to it is known from below, so only what changes is fetched.
    let new = lock(world, ("1.2", 2), &[&extra]);
    let planned = world.finish(over(world, "base").arg("plan").arg(&new).arg("--json")).ok();
    assert_eq!(planned.actions(), "extra recompile, far recompile, hdr ingest, lnk recompile, plain keep");
    assert_eq!(solve(&new, &[]), "extra recompiled, far recompiled, hdr ingested, lnk recompiled, plain kept");
    assert_eq!(held(world, "upper"), "extra extra far hdr lnk");
    assert_eq!(world.r("cat(lnk::answer())"), "2");

    fs::remove_dir_all(world.path("library")).unwrap();
    let linked = solve(&old, &["--link", "symlink", "--verify"]);
    assert_eq!(linked, "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert!(fs::read_link(world.path("library/lnk")).unwrap().starts_with(world.path("base")));
    world.finish(over(world, "base").args(["store", "verify"])).ok();
    let stats = world.finish(over(world, "base").args(["store", "stats", "--json"])).ok();
    assert!(!stats.stdout.contains("\"plain\""), "{}", stats.stdout);
    let exported = world.finish(over(world, "base").args(["store", "export", "--library"]).arg(world.path("library")));
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
}

#[test]
fn a_base_that_cannot_be_written_serves_and_what_is_new_goes_on_top() {
    need_r!();
    let world = World::new();
    let mounted = match Mounted::tmpfs(&world.path("base"), "size=64m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    alone(&world, "base", &lock(&world, ("1.0", 1), &[]));
    mounted.remount("ro");
    serves(&world);
}

#[test]
fn a_base_that_could_be_written_is_left_as_it_is() {
    need_r!();
    let world = World::new();
    alone(&world, "base", &lock(&world, ("1.0", 1), &[]));
    let before = snapshot(&world.path("base"));
    serves(&world);
    assert_eq!(snapshot(&world.path("base")), before);
}

#[test]
fn what_is_broken_in_a_base_is_made_anew_on_top() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&[&Package::new("plain", "1.0")]);
    alone(&world, "base", &lockfile);
    let platform = items(&world.path("base")).into_iter().find(|dir| dir.join("platform.json").is_file()).unwrap();
    let [source] = &items(&platform.join("plain"))[..] else { panic!("it has one source") };
    let tree = items(source).into_iter().find(|path| path.is_dir()).unwrap();
    fs::write(tree.with_extension("json"), "{").unwrap();
    let before = snapshot(&world.path("base"));
    let ran = world.finish(over(&world, "base").arg(&lockfile).arg("--json")).ok();
    assert_eq!(ran.outcomes(), "plain ingested");
    assert!(ran.stderr.contains("in a base store, is passed over"), "{}", ran.stderr);
    assert_eq!((held(&world, "upper"), snapshot(&world.path("base"))), ("plain".to_owned(), before));
}

#[test]
fn a_base_on_top_of_which_nothing_was_stored_yet_knows_what_was_first_seen() {
    need_r!();
    let world = World::new();
    let mut entry = world.publish(&Package::new("plain", "1.0"));
    entry.as_object_mut().unwrap().remove("sha256");
    let lockfile = world.lock([entry]);
    alone(&world, "base", &lockfile);
    let n_before = world.server.requests().len();
    let ran = world.finish(over(&world, "base").arg(&lockfile).args(["--json", "--offline"])).ok();
    assert_eq!((ran.outcomes(), world.server.requests().len()), ("plain loaded".to_owned(), n_before));
}
