//! Caches beyond this machine: what one machine built, no other builds again. Machines are played by stores.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use larder_ops::testing::GitHubServer;

use crate::world::clouds::{Cloud, Dialect};
use crate::world::servers::Daemon;
use crate::world::{Package, Ran, World, need_r, without_compilers};

pub(crate) const LOGINS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "someone"),
    ("AWS_SECRET_ACCESS_KEY", "s3cret"),
    ("AZBLOB_ACCOUNT_NAME", "someone"),
    ("AZBLOB_ACCOUNT_KEY", "czNjcmV0"),
];

fn lock(world: &World, hdr: &str, number: u32) -> PathBuf {
    let lnk = Package::linker("lnk", "2.0", "hdr");
    let far = Package::linker("far", "1.0", "hdr").field("Imports", "lnk");
    let plain = Package::new("plain", "1.0");
    world.lock_published(&[&Package::header("hdr", hdr, number), &lnk, &far, &plain])
}

/// A machine of its own: another store, another library, the same network.
pub(crate) fn machine(world: &World, name: &str) -> Command {
    let mut command = world.command();
    command.env("LARDER_STORE", world.path(&format!("{name}/store")));
    command.env("LARDER_LIBRARY", world.path(&format!("{name}/library")));
    command.envs(LOGINS);
    command
}

pub(crate) fn solve(world: &World, name: &str, lockfile: &Path, cache: &str) -> Ran {
    world.finish(machine(world, name).arg(lockfile).args(["--json", "--cache", cache]))
}

/// What every kind of cache must do: fill, serve another machine, survive an upgrade, keep quiet about passwords.
fn serves(world: &World, cache: &str) {
    serves_machines(world, cache, |_| Vec::new());
}

/// As [`serves`], where machines differ in their environment.
fn serves_machines(world: &World, cache: &str, env: impl Fn(&str) -> Vec<(&'static str, String)>) {
    let machine = |name: &str| {
        let mut command = machine(world, name);
        command.envs(env(name));
        command
    };
    let solve =
        |name: &str, lockfile: &Path| world.finish(machine(name).arg(lockfile).args(["--json", "--cache", cache])).ok();
    let (old, new) = (lock(world, "1.0", 1), lock(world, "1.2", 2));
    let ran = solve("one", &old);
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert_eq!(ran.warnings(), "");
    let n_before = world.server.requests().len();

    let ran = solve("two", &old);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert!(ran.because("lnk").ends_with("has it"), "{}", ran.because("lnk"));
    assert_eq!(ran.warnings(), "");
    assert_eq!(world.server.requests().len(), n_before, "no source was downloaded");

    let ran = solve("one", &new);
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, lnk recompiled, plain kept");
    let n_before = world.server.requests().len();
    let planned = world.finish(machine("two").arg("plan").arg(&new).args(["--json", "--cache", cache])).ok();
    assert_eq!(planned.actions(), "far load, hdr load, lnk load, plain keep");
    let ran = solve("two", &new);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain kept");
    assert_eq!(world.server.requests().len(), n_before);
    let all = format!("{}{}{}", ran.stdout, ran.stderr, planned.stdout);
    assert!(!all.contains("s3cret"), "{all}");
    let verified = world.finish(machine("two").args(["store", "verify"])).ok();
    assert!(verified.stdout.contains("broken") || !verified.stdout.contains("set aside"), "{}", verified.stdout);
}

#[test]
fn a_directory_serves_as_a_cache() {
    need_r!();
    let world = World::new();
    serves(&world, &format!("fs://{}", world.path("cloud").display()));
}

#[test]
fn an_s3_server_serves_as_a_cache() {
    need_r!();
    let world = World::new();
    let Some(server) = Daemon::s3() else { return };
    serves(&world, &format!("s3://bucket/some/prefix?endpoint=http://127.0.0.1:{}", server.port));
}

/// Both dialects are played: no server of Google's or Microsoft's runs here.
#[test]
fn what_speaks_like_google_or_azure_serves_as_a_cache() {
    need_r!();
    for (dialect, start, end) in [
        (Dialect::Google, "gs://bucket/some/prefix", "&anonymous=true"),
        (Dialect::Azure, "azblob://bucket/some/prefix", "&account=someone"),
    ] {
        let (world, cloud) = (World::new(), Cloud::start(dialect));
        serves(&world, &format!("{start}?endpoint=http://127.0.0.1:{}{end}", cloud.port));
        let names = cloud.names();
        assert!(names.len() >= 12 && names.iter().all(|name| name.starts_with("some/prefix/local/")), "{names:?}");
    }
}

#[test]
fn a_webdav_server_serves_as_a_cache() {
    need_r!();
    let world = World::new();
    let Some(server) = Daemon::nginx(&world) else { return };
    serves(&world, &format!("http://127.0.0.1:{}/some/folder", server.port));
}

#[test]
fn a_server_that_knows_get_put_and_head_alone_serves_as_a_cache() {
    need_r!();
    let world = World::new();
    let Some(server) = Daemon::nginx_of_put(&world) else { return };
    serves(&world, &format!("http://127.0.0.1:{}/some/folder", server.port));
    assert!(!crate::world::items(&world.path("nginx/cloud/some/folder/local")).is_empty());
}

/// Played too. What it keeps for the default branch, every branch may read.
#[test]
fn the_cache_service_of_github_serves_as_a_cache() {
    need_r!();
    let (world, github) = (World::new(), GitHubServer::start());
    serves_machines(&world, "ghac://some/root", |name| {
        github.job(if name == "one" { "refs/heads/main" } else { "refs/heads/topic" })
    });
    let keys = github.keys();
    assert!(keys.len() >= 12 && keys.iter().all(|key| key.starts_with("some/root/local/")), "{keys:?}");

    // Outside of a job it is a cache that is down.
    let lockfile = lock(&world, "1.0", 1);
    let ran = solve(&world, "three", &lockfile, "ghac://some/root").ok();
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert_eq!(ran.warnings().lines().count(), 1, "{}", ran.warnings());
    assert!(ran.warnings().contains("ACTIONS_RUNTIME_TOKEN"), "{}", ran.warnings());
}

#[test]
fn redis_serves_as_a_cache() {
    need_r!();
    let world = World::new();
    let Some(server) = Daemon::redis(&world) else { return };
    serves(&world, &format!("redis://:s3cret@127.0.0.1:{}/1", server.port));
}

#[test]
fn a_machine_without_compilers_gets_the_whole_library() {
    need_r!();
    let world = World::new();
    let (lockfile, bin) = (lock(&world, "1.0", 1), world.path("bin"));
    without_compilers(&bin);
    let cache = format!("fs://{}", world.path("cloud").display());
    solve(&world, "one", &lockfile, &cache).ok();
    let n_before = world.server.requests().len();

    let mut command = machine(&world, "two");
    let ran = world.finish(command.arg(&lockfile).args(["--json", "--cache", &cache]).env("PATH", &bin)).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert!(ran.warnings().contains("it uses packages of"), "{}", ran.warnings());
    assert_eq!(world.server.requests().len(), n_before);
    let lib = world.path("two/library");
    assert_eq!(world.r(&format!("cat(loadNamespace('lnk', '{}')$answer())", lib.display())), "1");

    // And so it does with what is only in the store.
    fs::remove_dir_all(&lib).unwrap();
    let ran = world.finish(machine(&world, "two").arg(&lockfile).args(["--json", "--offline"]).env("PATH", &bin)).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
}

#[test]
fn a_cache_that_is_down_or_dies_costs_a_warning_and_no_package() {
    need_r!();
    let world = World::new();
    let Some(mut server) = Daemon::redis(&world) else { return };
    let cache = format!("redis://:s3cret@127.0.0.1:{}/1?timeout=2s", server.port);
    let lockfile = lock(&world, "1.0", 1);
    solve(&world, "one", &lockfile, &cache).ok();
    server.kill();
    let ran = solve(&world, "two", &lockfile, &cache).ok();
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert_eq!(ran.warnings().lines().count(), 1, "{}", ran.warnings());
    assert!(ran.warnings().contains("passed over"), "{}", ran.warnings());
    assert!(!ran.warnings().contains("s3cret"), "{}", ran.warnings());
}

#[test]
fn tenants_and_signatures_keep_entries_apart() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&[&Package::new("plain", "1.0")]);
    let cache = format!("fs://{}", world.path("cloud").display());
    let key = world.path("secret.key");
    let made = world.finish(machine(&world, "one").arg("remote").arg("keygen").arg(&key)).ok();
    let public = made.stdout.trim().to_owned();
    world.finish(machine(&world, "one").arg("remote").arg("keygen").arg(&key)).exits(3);
    let run = |name: &str, cache: &str, more: &[&str]| {
        world.finish(machine(&world, name).arg(&lockfile).args(["--json", "--cache", cache]).args(more)).ok()
    };
    run("one", &cache, &["--tenant", "a", "--signing-key", key.to_str().unwrap()]);
    assert_eq!(run("two", &format!("{cache}:ro"), &["--tenant", "b"]).outcomes(), "plain ingested");
    let signed = format!("{cache}?key={}:ro", public.replace('+', "%2B"));
    assert_eq!(run("three", &signed, &["--tenant", "a"]).outcomes(), "plain loaded");
    let other = world.finish(machine(&world, "one").args(["remote", "keygen", "other.key"])).ok();
    let theirs = format!("{cache}?key={}:ro", other.stdout.trim().replace('+', "%2B"));
    let ran = run("four", &theirs, &["--tenant", "a"]);
    assert_eq!(ran.outcomes(), "plain ingested");
    assert!(ran.warnings().contains("nobody who is trusted has signed it"), "{}", ran.warnings());
    let names = crate::world::items(&world.path("cloud"));
    assert!(
        names.iter().all(|path| path.ends_with("a") || path.ends_with(".partial")),
        "`:ro` writes nothing: {names:?}"
    );
    world.finish(machine(&world, "one").arg(&lockfile).args(["--tenant", "../b"])).exits(2);
    world.finish(machine(&world, "one").arg(&lockfile).args(["--cache", "ftp://x"])).exits(2);
}

#[test]
fn what_is_where_can_be_asked_and_moved_ahead_of_a_run() {
    need_r!();
    let world = World::new();
    let lockfile = lock(&world, "1.0", 1);
    let cache = format!("fs://{}", world.path("cloud").display());
    world.finish(machine(&world, "one").arg(&lockfile)).ok();
    let remote = |name: &str, what: &str| {
        world
            .finish(machine(&world, name).args(["remote", what]).arg(&lockfile).args(["--cache", &cache, "--json"]))
            .ok()
    };
    let status = |name: &str| {
        let lines: Vec<serde_json::Value> =
            remote(name, "status").stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let one = |line: &serde_json::Value| {
            format!(
                "{} {} {}",
                line["package"].as_str().unwrap(),
                line["store"],
                line["caches"].as_array().unwrap().len()
            )
        };
        lines.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(status("one"), "hdr true 0, lnk true 0, far true 0, plain true 0");
    assert!(remote("one", "push").stdout.contains("\"written\":4"));
    assert!(remote("one", "push").stdout.contains("\"written\":0"), "nothing is written twice");
    assert_eq!(status("two"), "hdr false 1, lnk false 1, far false 1, plain false 1");
    assert!(remote("two", "pull").stdout.contains("\"brought\":4"));
    assert_eq!(status("two"), "hdr true 1, lnk true 1, far true 1, plain true 1");
    let ran = world.finish(machine(&world, "two").arg(&lockfile).args(["--json", "--offline"])).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    let none = world.finish(machine(&world, "one").args(["remote", "status"]).arg(&lockfile)).exits(2);
    assert!(none.stderr.contains("--cache"), "{}", none.stderr);
}

#[test]
fn two_machines_that_write_the_same_at_once_leave_it_whole() {
    need_r!();
    let world = World::new();
    let lockfile = lock(&world, "1.0", 1);
    let cache = format!("fs://{}", world.path("cloud").display());
    let start =
        |name: &str| world.start_command(machine(&world, name).arg(&lockfile).args(["--json", "--cache", &cache]));
    let both = [start("one"), start("two")];
    for running in both {
        running.finish().ok();
    }
    let ran = solve(&world, "three", &lockfile, &cache).ok();
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(ran.warnings(), "");
}
