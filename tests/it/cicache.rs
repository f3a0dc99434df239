//! Packages kept from one CI job to the next. Runners are played by stores that start empty.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use larder_ops::testing::GitHubServer;

use crate::world::servers::Daemon;
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
fn any_server_that_serves_as_a_cache_will_do() {
    need_r!();
    let world = World::new();
    let (old, new) = (lock(&world, "1.0", 1), lock(&world, "1.2", 2));
    world.finish(runner(&world, "one").arg(&old)).ok();
    let (redis, s3, nginx) = (Daemon::redis(&world), Daemon::s3(), Daemon::nginx(&world));
    let places = [
        (redis.as_ref().map(|server| format!("redis://:s3cret@127.0.0.1:{}/1", server.port)), false),
        (s3.as_ref().map(|server| format!("s3://bucket/ci?endpoint=http://127.0.0.1:{}", server.port)), true),
        (nginx.as_ref().map(|server| format!("http://127.0.0.1:{}/ci", server.port)), true),
    ];
    for (n, (place, tells)) in places.into_iter().enumerate() {
        let Some(place) = place else { continue };
        let cache = |name: &str, what: &str, lockfile: &Path| {
            let mut command = runner(&world, name);
            command.envs([("AWS_ACCESS_KEY_ID", "someone"), ("AWS_SECRET_ACCESS_KEY", "s3cret")]);
            let ran = world.finish(command.args(["cache", what]).arg(lockfile).args(["--json", "--url", &place])).ok();
            assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("s3cret"));
            ran
        };
        let saved = told(&cache("one", "save", &old), "ci-saved");
        assert_eq!(saved["packed"], 4, "{place}: {saved}");
        let restored = told(&cache(&format!("to-{n}"), "restore", &old), "ci-restored");
        assert_eq!((&restored["exact"], &restored["packages"]), (&true.into(), &4.into()), "{place}: {restored}");
        let near = told(&cache(&format!("near-{n}"), "restore", &new), "ci-restored");
        assert_eq!(near["packages"].as_u64() > Some(0), tells, "{place}: {near}");
    }
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
    let script = format!("read line < {}\n", gate.display());
    let slow = Package::configured("slow", "1.0", &script).field("Imports", "first");
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

#[test]
fn jobs_on_github_keep_packages_in_its_cache_service() {
    need_r!();
    let world = World::new();
    let github = GitHubServer::start();
    let (old, new) = (lock(&world, "1.0", 1), lock(&world, "1.2", 2));
    let said = std::cell::RefCell::new(String::new());
    let run = |name: &str, branch: &str, lockfile: &Path| {
        let mut command = runner(&world, name);
        command.env("LARDER_CI_CACHE", "both").envs(github.job(branch));
        let ran = world.finish(command.arg(lockfile).args(["--json", "-v"])).ok();
        said.borrow_mut().extend([&*ran.stdout, &*ran.stderr]);
        ran
    };
    let ran = run("one", "refs/heads/main", &old);
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    let saved = told(&ran, "ci-saved");
    assert_eq!((&saved["packages"], &saved["packs"]), (&4.into(), &1.into()), "{saved}");
    let [pack, state] = &github.keys()[..] else { panic!("{:?}", github.keys()) };
    assert!(pack.starts_with("larder-pack-") && state.starts_with("larder-ci-larder-"), "the pack comes first");

    let n_before = world.server.requests().len();
    let ran = run("two", "refs/heads/fix", &old);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    assert_eq!(world.server.requests().len(), n_before, "no source was downloaded");
    assert!(told(&ran, "ci-saved")["why"].as_str().unwrap().ends_with("exists already"));
    let lib = world.path("two/library");
    assert_eq!(world.r(&format!("cat(loadNamespace('lnk', '{}')$answer())", lib.display())), "1");

    // Another lockfile: the newest of the same R will do, and what is new is packed, for this branch alone.
    let ran = run("three", "refs/heads/fix", &new);
    assert_eq!(ran.outcomes(), "far recompiled, hdr ingested, lnk recompiled, plain loaded");
    assert_eq!(told(&ran, "ci-restored")["exact"], false);
    let more = told(&ran, "ci-saved");
    assert_eq!((&more["packages"], &more["packs"]), (&4.into(), &1.into()), "{more}");
    let ran = run("four", "refs/heads/fix", &new);
    assert_eq!(ran.outcomes(), "far loaded, hdr loaded, lnk loaded, plain loaded");
    let ran = run("five", "refs/heads/main", &new);
    assert_eq!(told(&ran, "ci-restored")["exact"], false, "a branch's cache is not for others");

    // A damaged pack, and one that GitHub has forgotten.
    github.damage("larder-pack-");
    let ran = run("six", "refs/heads/main", &old);
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert_eq!(told(&ran, "ci-restored")["warnings"].as_array().unwrap().len(), 1);
    github.evict("larder-pack-");
    let ran = run("seven", "refs/heads/main", &old);
    assert_eq!(ran.outcomes(), "far ingested, hdr ingested, lnk ingested, plain ingested");
    assert!(told(&ran, "ci-restored")["warnings"][0].as_str().unwrap().contains("is missing"));

    assert!(told(&ran, "ci-saved")["why"].as_str().unwrap().ends_with("has to be deleted"), "{}", ran.stdout);
    let mut command = runner(&world, "eight");
    command.env("LARDER_CI_CACHE", "both").envs(github.job("refs/heads/main")).envs(github.rest());
    let ran = world.finish(command.arg(&old).arg("--json")).ok();
    assert!(told(&ran, "ci-saved")["key"].is_string(), "who may delete makes it good: {}", ran.stdout);
    let said = said.into_inner() + &ran.stdout + &ran.stderr;

    let held: String = github.contents().iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    for secret in ["T0ken", "s1gned"] {
        assert!(!said.contains(secret), "a token is told: {said}");
        assert!(!held.contains(secret), "a token is saved");
    }
}

#[test]
fn what_github_keeps_is_listed_and_deleted_with_another_token() {
    need_r!();
    let world = World::new();
    let github = GitHubServer::start();
    let lockfile = lock(&world, "1.0", 1);
    let run = |env: &[(&'static str, String)], args: &[&str]| {
        let mut command = runner(&world, "one");
        world.finish(command.args(args).envs(env.iter().map(|(name, value)| (name, value))))
    };
    let (job, rest) = (github.job("refs/heads/main"), github.rest());
    run(&[], &[lockfile.to_str().unwrap()]).ok();
    let save = |key: &str| run(&job, &["cache", "save", lockfile.to_str().unwrap(), "--key", key, "--json"]);
    github.fail(2);
    assert_eq!(told(&save("mine-1").ok(), "ci-saved")["packed"], 4, "a service that is busy is asked again");
    assert_eq!(told(&save("mine-1").ok(), "ci-saved")["why"], "`mine-1` exists already");
    save("other").ok();
    let prune = |older_than: &str, more: &str| {
        let ran = run(&rest, &["cache", "prune", "--json", "--older-than", older_than, more]).ok();
        ran.events().iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((prune("1000y", "--dry-run"), prune("1d", "--dry-run")), (vec![], vec!["mine-1".to_owned()]));
    let list = |prefix: &str| {
        let ran = run(&rest, &["cache", "list", "--json", "--prefix", prefix]).ok();
        ran.events().iter().map(|state| state["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list(""), ["other", "mine-1"], "newest first, and no packs");
    assert_eq!(list("mine"), ["mine-1"]);
    assert!(run(&rest, &["cache", "list"]).ok().stdout.contains("mine-1  2024-01-01T"));
    let delete =
        |key: &str| told(&run(&rest, &["cache", "delete", key, "--json"]).ok(), "ci-deleted")["deleted"].clone();
    assert_eq!((delete("mine-1"), delete("mine-1"), list("")), (true.into(), false.into(), vec!["other".to_owned()]));

    // Each needs what it needs.
    let refused = run(&job, &["cache", "list"]).exits(3);
    assert!(refused.stderr.contains("GITHUB_TOKEN"), "{}", refused.stderr);
    let refused = run(&rest, &["cache", "restore"]).exits(3);
    assert!(refused.stderr.contains("ACTIONS_RUNTIME_TOKEN"), "{}", refused.stderr);
    let mut wrong = github.rest();
    wrong[2].1 = "ghs_wr0ng".to_owned();
    let refused = run(&wrong, &["cache", "list"]).exits(3);
    assert!(refused.stderr.contains("Bad credentials") && !refused.stderr.contains("wr0ng"), "{}", refused.stderr);
}
