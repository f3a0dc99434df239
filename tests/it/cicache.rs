//! Packages kept from one CI job to the next. Runners are played by stores that start empty.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::world::{Package, Ran, World, need_r};

fn lock(world: &World, hdr: &str, number: u32) -> PathBuf {
    let lnk = Package::linker("lnk", "2.0", "hdr");
    let far = Package::linker("far", "1.0", "hdr").field("Imports", "lnk");
    let plain = Package::new("plain", "1.0");
    world.lock_published(&[&Package::header("hdr", hdr, number), &lnk, &far, &plain])
}

/// A runner of its own: another store, another library, the same network.
fn runner(world: &World, name: &str) -> Command {
    let mut command = world.command();
    command.env("LARDER_STORE", world.path(&format!("{name}/store")));
    command.env("LARDER_LIBRARY", world.path(&format!("{name}/library")));
    command
}

fn url(world: &World) -> String {
    format!("fs://{}", world.path("ci").display())
}

fn cache(world: &World, name: &str, args: &[&str], lockfile: &Path) -> Ran {
    let mut command = runner(world, name);
    world.finish(command.arg("cache").args(args).arg(lockfile).args(["--json", "--url", &url(world)]))
}

/// What all that is said of saved states comes down to.
fn told(ran: &Ran, reason: &str) -> serde_json::Value {
    let [event] = &ran.events_of(reason)[..] else { panic!("{}{}", ran.stdout, ran.stderr) };
    event.clone()
}

#[test]
fn what_one_job_saves_the_next_has_without_a_download() {
    need_r!();
    let world = World::new();
    let (old, new) = (lock(&world, "1.0", 1), lock(&world, "1.2", 2));
    world.finish(runner(&world, "one").arg(&old)).ok();
    let saved = told(&cache(&world, "one", &["save"], &old).ok(), "ci-saved");
    assert_eq!((&saved["packages"], &saved["packed"], &saved["packs"]), (&4.into(), &4.into(), &1.into()), "{saved}");
    let again = told(&cache(&world, "one", &["save"], &old).ok(), "ci-saved");
    assert!(again["why"].as_str().unwrap().ends_with("exists already"), "{again}");

    let n_before = world.server.requests().len();
    let restored = told(&cache(&world, "two", &["restore"], &old).ok(), "ci-restored");
    assert_eq!((&restored["exact"], &restored["packages"]), (&true.into(), &4.into()), "{restored}");
    let ran = world.finish(runner(&world, "two").arg(&old).arg("--json")).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(world.server.requests().len(), n_before, "no source was downloaded");
    let lib = world.path("two/library");
    assert_eq!(world.r(&format!("cat(loadNamespace('lnk', '{}')$answer())", lib.display())), "1");

    // Another lockfile, of the same R: what is as it was comes, and only the rest is packed.
    let restored = told(&cache(&world, "three", &["restore"], &new).ok(), "ci-restored");
    assert_eq!((&restored["exact"], &restored["key"]), (&false.into(), &saved["key"]), "{restored}");
    let ran = world.finish(runner(&world, "three").arg(&new).arg("--json")).ok();
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, lnk recompiled, plain loaded");
    let more = told(&cache(&world, "three", &["save"], &new).ok(), "ci-saved");
    assert_eq!((&more["packages"], &more["packs"]), (&4.into(), &1.into()), "{more}");
    assert_ne!(more["key"], saved["key"]);

    let listed = cache(&world, "one", &["list", "--prefix"], Path::new("larder-")).ok();
    let keys: Vec<_> = listed.events().iter().map(|state| state["key"].clone()).collect();
    assert_eq!(keys, [more["key"].clone(), saved["key"].clone()], "newest first");
    let key = saved["key"].as_str().unwrap();
    let delete = || told(&cache(&world, "one", &["delete"], Path::new(key)).ok(), "ci-deleted")["deleted"].clone();
    assert_eq!((delete(), delete()), (true.into(), false.into()));
    let restored = told(&cache(&world, "four", &["restore"], &old).ok(), "ci-restored");
    assert_eq!(restored["key"], more["key"], "the newest of the same R will do");
}

#[test]
fn around_a_run_states_are_restored_and_saved_by_themselves() {
    need_r!();
    let world = World::new();
    let (old, new) = (lock(&world, "1.0", 1), lock(&world, "1.2", 2));
    let run = |name: &str, lockfile: &Path| {
        let mut command = runner(&world, name);
        command.env("CI", "true").env("LARDER_CI_CACHE", "both").env("LARDER_CI_CACHE_URL", url(&world));
        world.finish(command.arg(lockfile).arg("--json")).ok()
    };
    let ran = run("one", &old);
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert_eq!(told(&ran, "ci-restored")["why"], "nothing is saved that would do");
    assert_eq!(told(&ran, "ci-saved")["packed"], 4);

    let n_before = world.server.requests().len();
    let ran = run("two", &old);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(told(&ran, "ci-restored")["packages"], 4);
    assert!(told(&ran, "ci-saved")["why"].as_str().unwrap().ends_with("exists already"));
    assert_eq!(world.server.requests().len(), n_before, "no source was downloaded");
    let ran = run("two", &old);
    assert_eq!(told(&ran, "ci-restored")["why"], "the store lacks nothing");

    let ran = run("three", &new);
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, lnk recompiled, plain loaded");
    assert_eq!(told(&ran, "ci-saved")["packages"], 4);
    let ran = run("four", &new);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");

    // Outside of CI nothing happens.
    let mut command = runner(&world, "five");
    command.env("LARDER_CI_CACHE", "both").env("LARDER_CI_CACHE_URL", url(&world));
    let ran = world.finish(command.arg(&old).arg("--json")).ok();
    assert_eq!(ran.events_of("ci-restored").len() + ran.events_of("ci-saved").len(), 0);
    // Unless it is asked for; people are told in one line each.
    let args = ["--ci-cache", "both", "--ci-cache-url", &url(&world)];
    let ran = world.finish(runner(&world, "six").arg(&old).args(args)).ok();
    assert!(ran.stderr.contains("CI cache: restored: 4 packages from `larder-"), "{}", ran.stderr);
    assert!(ran.stderr.contains("CI cache: nothing is saved: `larder-"), "{}", ran.stderr);
    // A place that is none costs a warning and no package.
    world.write("file", "");
    let args = ["--ci-cache", "both", "--ci-cache-url", &format!("fs://{}", world.path("file/in").display())];
    let ran = world.finish(runner(&world, "seven").arg(&old).args(args)).ok();
    assert!(
        ran.stderr.contains("warning: nothing is restored") || ran.stderr.contains("nothing is saved"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_damaged_pack_costs_its_packages_and_a_warning() {
    need_r!();
    let world = World::new();
    let lockfile = lock(&world, "1.0", 1);
    let run = |name: &str| {
        let args = ["--json", "--ci-cache", "both", "--ci-cache-url", &url(&world)];
        world.finish(runner(&world, name).arg(&lockfile).args(args)).ok()
    };
    run("one");
    let packs = world.items("ci/local/ci-packs");
    assert_eq!(packs.len(), 1);
    let content = fs::read(&packs[0]).unwrap();
    fs::write(&packs[0], &content[..content.len() / 2]).unwrap();
    let ran = run("two");
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    let warnings = told(&ran, "ci-restored")["warnings"].clone();
    assert_eq!(warnings.as_array().unwrap().len(), 1, "{warnings}");
    assert!(warnings[0].as_str().unwrap().contains("is damaged"), "{warnings}");
    assert!(told(&ran, "ci-saved")["key"].is_string(), "and it is made good");
    assert_eq!(run("three").outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
}

#[test]
fn what_is_finished_is_saved_when_a_run_is_interrupted() {
    need_r!();
    let world = World::new();
    let gate = world.fifo("gate");
    let first = Package::new("first", "1.0");
    let slow =
        Package::new("slow", "1.0").field("Imports", "first").configure(&format!("read line < {}", gate.display()));
    let lockfile = world.lock_published(&[&first, &slow]);
    let args = ["--json", "--ci-cache", "both", "--ci-cache-url", &url(&world)];
    let mut running = world.start_command(runner(&world, "one").arg(&lockfile).args(args));
    while running.wait_for("vertex-settled")["package"] != "first" {}
    running.signal(rustix::process::Signal::TERM);
    let ran = running.finish().exits(130);
    let saved = told(&ran, "ci-saved");
    assert_eq!(saved["packages"], 1, "{saved}");
    assert!(saved["key"].as_str().unwrap().contains("-partial-"), "{saved}");
    let restored = told(&cache(&world, "two", &["restore"], &lockfile).ok(), "ci-restored");
    assert_eq!((&restored["packages"], &restored["exact"]), (&1.into(), &false.into()), "{restored}");
}

#[test]
fn keys_and_paths_can_be_had_for_other_caches() {
    need_r!();
    let world = World::new();
    let lockfile = lock(&world, "1.0", 1);
    let paths = |args: &[&str]| world.finish(runner(&world, "one").args(["cache", "paths"]).arg(&lockfile).args(args));
    let ran = paths(&[]).ok();
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let [key, path, restore] = lines[..] else { panic!("{}", ran.stdout) };
    let key = key.strip_prefix("key: ").unwrap();
    assert!(key.starts_with(restore.strip_prefix("restore-key: ").unwrap()), "{}", ran.stdout);
    assert!(path.starts_with(&format!("path: {}/", world.path("one/store").display())), "{}", ran.stdout);
    let json = told(&paths(&["--json", "--key", "mine-{os}", "--restore-key", "mine-"]).ok(), "ci-paths");
    assert_eq!(json["key"], format!("mine-{}", std::env::consts::OS));
    assert_eq!(json["restore_keys"][0], "mine-");
    paths(&["--key", "{what}"]).exits(2);
    paths(&["--key", ""]).exits(2);
    let nowhere = world.finish(runner(&world, "one").args(["cache", "list"])).exits(2);
    assert!(nowhere.stderr.contains("--url"), "{}", nowhere.stderr);
    world.finish(runner(&world, "one").args(["cache", "delete"])).exits(2);
    world.finish(runner(&world, "one").arg(&lockfile).env("CI", "1").env("LARDER_CI_CACHE", "maybe")).exits(2);
}
