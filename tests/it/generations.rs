//! A library that is replaced as a whole: `--atomic-library`, its generations, and going back to one.

use std::path::Path;

use fs_err as fs;
use rustix::process::Signal;

use crate::world::{FakeR, Package, Session, World, need_r};

const ATOMIC: &[&str] = &["--atomic-library"];

fn lock(world: &World, version: &str) -> std::path::PathBuf {
    world.lock_published(&[&Package::new("demo", version), &Package::new("other", version)])
}

fn current(world: &World) -> String {
    fs::read_link(world.path("library")).unwrap().to_string_lossy().into_owned()
}

/// Returns the lines of `solve library ls`, without the times.
fn ls(world: &World) -> String {
    let lines = world.run(["library", "ls"]).ok().stdout;
    lines.lines().map(|line| [&line[..8], line[28..].trim_end(), "\n"].concat()).collect()
}

#[test]
fn a_worker_keeps_its_whole_generation_and_the_next_one_gets_the_new() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0"), ATOMIC).ok();
    assert_eq!(current(&world), ".library.larder/1");
    let mut worker = Session::start(&world);
    assert_eq!(worker.ask("demo::answer()"), "1.0");
    // Once made of generations, it stays so.
    assert_eq!(world.solve(&lock(&world, "2.0"), &[]).ok().outcomes(), "demo ingested, other ingested");
    assert_eq!(current(&world), ".library.larder/2");
    assert_eq!(worker.ask("other::answer()"), "1.0", "not loaded before, and yet of its own generation");
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "2.0 2.0");

    insta::assert_snapshot!(ls(&world), @r"
         1    2 packages
    *    2    2 packages     demo 1.0 -> 2.0, other 1.0 -> 2.0
    ");
    let ran = world.run(["library", "rollback"]).ok();
    assert_eq!(ran.stdout, "generation 1 is the current one; 2 stays\n");
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "1.0 1.0");
    assert_eq!(world.run(["library", "rollback", "2"]).ok().stdout, "generation 2 is the current one; 1 stays\n");
    let ran = world.run(["library", "rollback", "9"]).exits(2);
    assert!(ran.stderr.contains("no generation 9 (there are 1, 2; 2 is the current one)"), "{}", ran.stderr);
}

#[test]
fn a_run_with_nothing_to_do_makes_no_generation() {
    need_r!();
    let world = World::new();
    let lock = lock(&world, "1.0");
    world.solve(&lock, ATOMIC).ok();
    for args in [ATOMIC, &[]] {
        assert_eq!(world.solve(&lock, args).ok().outcomes(), "demo kept, other kept");
        assert_eq!(current(&world), ".library.larder/1");
    }
}

#[test]
fn what_is_not_ours_is_carried_over_unless_exact() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0"), &[]).ok();
    world.write("library/mine/DESCRIPTION", "Package: mine\nVersion: 1.0\n");
    world.solve(&lock(&world, "2.0"), ATOMIC).ok();
    assert!(world.has("library/mine/DESCRIPTION"));
    assert_eq!(current(&world), ".library.larder/1", "the directory that was there is generation 0");
    let only = world.lock([world.publish(&Package::new("demo", "2.0"))]);
    assert_eq!(world.solve(&only, &["--exact"]).ok().outcomes(), "demo kept");
    insta::assert_snapshot!(ls(&world), @r"
         0    3 packages
         1    3 packages     demo 1.0 -> 2.0, other 1.0 -> 2.0
    *    2    1 package      -mine 1.0, -other 2.0
    ");
    world.run(["library", "rollback", "0"]).ok();
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "1.0 1.0");
}

#[test]
fn old_generations_go_but_never_the_current_one() {
    need_r!();
    let world = World::new();
    for version in ["1.0", "2.0", "3.0"] {
        world.solve(&lock(&world, version), &["--atomic-library", "--keep-generations", "2"]).ok();
    }
    let numbers = |world: &World| {
        let lines = world.run(["library", "ls", "--json"]).ok().events();
        lines.iter().map(|line| line["number"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&world), [2, 3]);
    world.run(["library", "rollback"]).ok();
    world.solve(&lock(&world, "1.0"), &["--keep-generations", "1"]).ok();
    assert_eq!(numbers(&world), [4]);
    assert_eq!(world.r("cat(demo::answer())"), "1.0");
}

#[test]
fn a_run_that_fails_or_is_killed_makes_no_generation() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0"), ATOMIC).ok();
    let broken = world.lock_published(&[&Package::broken("demo", "2.0"), &Package::new("other", "2.0")]);
    world.solve(&broken, &[]).exits(1);
    assert_eq!(current(&world), ".library.larder/1");
    let running = world.start(&lock(&world, "3.0"), &[]);
    running.signal(Signal::KILL);
    running.finish();
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "1.0 1.0");
    world.solve(&lock(&world, "3.0"), &[]).ok();
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "3.0 3.0");
    assert_eq!(world.items(".library.larder").len(), 3, "two generations and the lock");
}

#[test]
fn a_generation_of_symlinks_leads_into_the_store() {
    need_r!();
    let world = World::new();
    let args = ["--atomic-library", "--link", "symlink"];
    world.solve(&lock(&world, "1.0"), &args).ok();
    let next = world.lock([world.publish(&Package::new("demo", "2.0")), world.publish(&Package::new("other", "1.0"))]);
    assert_eq!(world.solve(&next, &args).ok().outcomes(), "demo ingested, other kept");
    let other = fs::read_link(world.path("library/other")).unwrap();
    assert_eq!(other, world.trees("other")[0], "not to the generation before, which will go");
    world.solve(&lock(&world, "3.0"), &["--link", "symlink", "--keep-generations", "1"]).ok();
    assert_eq!(world.r("cat(demo::answer(), other::answer())"), "3.0 3.0");
}

#[test]
fn a_library_without_generations_has_none_to_show() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0"), &[]).ok();
    for command in ["ls", "rollback"] {
        let ran = world.run(["library", command]).exits(2);
        insta::allow_duplicates! {
            insta::assert_snapshot!(ran.transcript(), @r"
            exit 2
            --- stderr
            error: the library `[world]/library` is not made of generations
            hint: `solve LOCKFILE --atomic-library` makes it so
            ");
        }
    }
}

#[test]
fn a_generation_cannot_be_changed_by_its_own_name() {
    need_r!();
    let world = World::new();
    world.solve(&lock(&world, "1.0"), ATOMIC).ok();
    let generation = world.path(".library.larder/1");
    let ran = world.solve(&lock(&world, "2.0"), &["--library", generation.to_str().unwrap()]).exits(2);
    assert!(ran.stderr.contains("is a generation of the library"), "{}", ran.stderr);
    assert!(ran.stderr.contains("hint: name `"), "{}", ran.stderr);
}

#[test]
fn a_mount_point_cannot_become_a_symlink_and_the_way_out_is_named() {
    need_r!();
    let world = World::new();
    let unshare = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
        command
    };
    fs::create_dir(world.path("library")).unwrap();
    let mount = "mount -t tmpfs none library";
    if !unshare(mount).current_dir(world.path("")).output().is_ok_and(|output| output.status.success()) {
        return crate::world::skip("nothing can be mounted here");
    }
    let lock = lock(&world, "1.0");
    let solve = world.command();
    let script = format!("{mount}; exec {} {} --atomic-library", solve.get_program().display(), lock.display());
    let mut command = unshare(&script);
    command.env_clear().envs(solve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = world.finish(command.current_dir(world.path(""))).exits(3);
    assert!(ran.stderr.contains("hint: choose a new library"), "{}", ran.stderr);
}

#[test]
fn p26_libraries_of_workers_are_made_listed_and_removed() {
    let world = World::new();
    let owner = std::process::id().to_string();
    let mine = world.run(["library", "create", "--owner", &owner]).ok().stdout;
    let nobodys = world.run(["library", "create"]).ok().stdout;
    let list = world.run(["library", "workers", "--json"]).ok().events();
    assert_eq!(list.len(), 2);
    let of = |library: &str| list.iter().find(|line| line["library"] == library.trim()).unwrap().clone();
    assert_eq!((of(&mine)["alive"].as_bool(), of(&nobodys)["alive"].as_bool()), (Some(true), None));
    assert!(Path::new(mine.trim()).starts_with(world.path("store/.workers")));
    assert_eq!(world.run(["library", "rm", "--ownerless"]).ok().stdout, "", "one lives, the other never had an owner");
    for _ in 0..2 {
        world.run(["library", "rm", mine.trim(), nobodys.trim()]).ok();
    }
    assert_eq!(world.run(["library", "workers"]).ok().stdout, "");
    let ran = world.run(["library", "rm", "../../home"]).exits(2);
    assert!(ran.stderr.contains("is no worker's library"), "{}", ran.stderr);
}

/// What changes a name in the file system, or flushes.
const STEPS: [&str; 13] = [
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "linkat",
    "fsync",
    "fdatasync",
    "syncfs",
];

/// Kills the command when one of its threads comes to this step for the n-th time.
fn killed_at(world: &World, (step, n): (&str, u32), lock: &Path, r: &str) -> Option<i32> {
    let solve = world.command();
    let mut strace = std::process::Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={step}")]);
    strace.args(["-e", &format!("inject={step}:signal=KILL:when={n}")]);
    strace.arg(solve.get_program()).arg(lock).args(["--json", "--r", r]);
    strace.env_clear().envs(solve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    strace.current_dir(world.path("")).output().ok()?.status.code()
}

#[test]
fn d20_killed_at_any_step_the_library_is_the_old_one_or_the_new() {
    let world = World::new();
    let r = FakeR::working(&world);
    let r = r.path.to_str().unwrap();
    let lock =
        |version: &str| world.lock_published(&["aa", "bb", "cc"].map(|name| Package::new(name, version)).each_ref());
    let (old, new) = (lock("1.0"), lock("2.0"));
    for lock in [&old, &new, &old] {
        world.solve(lock, &["--r", r, "--atomic-library"]).ok();
    }
    // The most that strace counts to.
    if killed_at(&world, ("rename", 65_535), &old, r) != Some(0) {
        return crate::world::skip("there is no strace");
    }
    let versions = || {
        let version = |name: &str| {
            let description = world.read(&format!("library/{name}/DESCRIPTION"));
            description.lines().find_map(|line| line.strip_prefix("Version: ")).unwrap().to_owned()
        };
        let versions = ["aa", "bb", "cc"].map(version);
        assert!(versions[0] == versions[1] && versions[1] == versions[2], "{versions:?}");
        versions[0].clone()
    };
    let mut n_kills = 0;
    for step in STEPS {
        for n in 1.. {
            let is_over = killed_at(&world, (step, n), &new, r) == Some(0);
            let seen = versions();
            assert!(seen == "1.0" || seen == "2.0");
            world.solve(&new, &["--r", r]).ok();
            assert_eq!(versions(), "2.0", "after {step} {n}");
            world.solve(&old, &["--r", r]).ok();
            assert_eq!(versions(), "1.0", "after {step} {n}");
            let left = world.items(".library.larder");
            assert_eq!(left.len(), 4, "three generations and the lock after {step} {n}: {left:?}");
            if is_over {
                break;
            }
            n_kills += 1;
        }
    }
    println!("killed at {n_kills} steps");
    assert!(n_kills > 20, "{n_kills}");
}
