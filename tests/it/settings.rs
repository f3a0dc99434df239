//! `larder.toml`: what it says, what goes before it, and what a project's has no say in.

use std::process::Command;

use crate::world::{Package, World, need_r};

/// The command without what the world says of store and library.
fn plain(world: &World) -> Command {
    let mut command = world.command();
    command.env_remove("LARDER_STORE").env_remove("LARDER_LIBRARY");
    command
}

fn store(world: &World, command: &mut Command) -> String {
    let path = world.finish(command.args(["store", "path"])).ok().stdout;
    path.trim().replace(&world.path("").display().to_string(), "")
}

const OF_USER: &str = "home/.config/larder/larder.toml";

#[test]
fn what_is_typed_goes_before_the_environment_that_before_the_project_and_that_before_the_user() {
    let world = World::new();
    assert_eq!(store(&world, &mut plain(&world)), "home/.cache/larder/store");
    world.write(OF_USER, format!("store = '../../mine'\ntrust-projects = ['{}']\n", world.path("").display()));
    assert_eq!(store(&world, &mut plain(&world)), "home/.config/larder/../../mine");
    world.write("larder.toml", "store = 'theirs'\n");
    assert_eq!(store(&world, &mut plain(&world)), "theirs");
    assert_eq!(store(&world, plain(&world).env("LARDER_STORE", "env")), "env");
    let typed = plain(&world).env("LARDER_STORE", "env").args(["store", "path", "--store", "typed"]).output().unwrap();
    assert!(String::from_utf8_lossy(&typed.stdout).ends_with(
        "/typed
"
    ));
}

#[test]
fn another_file_can_be_named_and_has_to_be_there() {
    let world = World::new();
    world.write(OF_USER, "store = '/mine'");
    world.write("larder.toml", "nonsense = true");
    world.write("ci/larder.toml", "store = 'cache'");
    assert_eq!(store(&world, plain(&world).env("LARDER_CONFIG", "ci/larder.toml")), "ci/cache");
    assert_eq!(store(&world, plain(&world).env("LARDER_CONFIG", "/dev/null")), "home/.cache/larder/store");
    let ran = world.finish(plain(&world).env("LARDER_CONFIG", "none.toml").args(["store", "path"])).exits(2);
    assert!(ran.stderr.contains("none.toml"), "{}", ran.stderr);
    world.write("xdg/larder/larder.toml", "store = '~/s'");
    let mut command = plain(&world);
    command.env("XDG_CONFIG_HOME", world.path("xdg")).current_dir(world.path("tmp"));
    assert_eq!(store(&world, &mut command), "home/s");
}

#[test]
fn what_is_wrong_is_told_with_its_line_and_what_is_allowed() {
    let world = World::new();
    for (text, line, told) in [
        ("\nstroe = 'x'", 2, "unknown field `stroe`, expected one of `store`, `library`, `tenant`"),
        ("store = 7", 1, "invalid type: integer `7`, expected a string"),
        ("tenant = '../x'", 1, "tenant"),
        ("[[cache]]\nurl = 'fs:///x'\naccess = 'wo'", 3, "unknown variant `wo`, expected `ro` or `rw`"),
        ("[[cache]]\nurl = 'fs:///x'\nacess = 'ro'", 3, "`url`, `access`, `trust`, `keys`, `timeout`"),
        ("\n[[cache]]\nurl = 'ftp://host/x'", 2, "is not among fs, s3"),
        ("[[cache]]\nurl = 'fs:///x'\ntrust = 'signed'", 1, "needs a public `key`"),
        ("[[cache]]\nurl = 'fs:///x'\nkeys = ['RWnot']", 1, "is no public key"),
        ("[[cache]]\nurl = 'fs:///x'\ntimeout = 'soon'", 1, "timeout"),
        ("[[cache]]\nurl = 'fs:///x:ro'\naccess = 'rw'", 1, "`access` is not what `:ro` in `url` says"),
        ("[[cache]]\naccess = 'rw'", 1, "missing field `url`"),
        ("store = ", 1, ""),
        ("[ci-cache]\nmode = 'maybe'", 2, "unknown variant `maybe`, expected one of `off`, `restore`, `save`, `both`"),
        ("\n[ci-cache]\nurl = 'ftp://host/x'", 2, "is not among fs, s3"),
        ("[ci-cache]\nrestore-keys = ['a b']", 1, "`restore-keys` has one with a blank: `a b`"),
    ] {
        world.write("larder.toml", text);
        let ran = world.run(["store", "path"]).exits(2);
        assert!(ran.stderr.contains(&format!("larder.toml:{line}: ")) && ran.stderr.contains(told), "{}", ran.stderr);
    }
    world.run(["--help"]).ok();
}

#[test]
fn caches_of_a_file_are_used_and_named_ones_go_before_them() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&[&Package::new("plain", "1.0")]);
    let key = world.finish(plain(&world).args(["remote", "keygen", "secret.key"])).ok().stdout;
    world.write(
        "mine.toml",
        format!(
            "tenant = 'team'\nsigning-key = 'secret.key'\n[[cache]]\nurl = 'fs://{}'\nkeys = ['{}']\ntimeout = '5s'\n",
            world.path("cloud").display(),
            key.trim()
        ),
    );
    let run = |name: &str, args: &[&str], env: &[(&str, &str)]| {
        let mut command = crate::tiers::machine(&world, name);
        command.arg(&lockfile).arg("--json").env("LARDER_CONFIG", "mine.toml").args(args).envs(env.iter().copied());
        world.finish(&mut command).ok().outcomes()
    };
    assert_eq!(run("one", &[], &[]), "plain ingested");
    assert!(world.has("cloud/team"));
    assert_eq!(run("two", &[], &[]), "plain loaded");
    let other = format!("fs://{}", world.path("other").display());
    assert_eq!(run("three", &[], &[("LARDER_CACHE", &other)]), "plain ingested");
    assert_eq!(run("four", &["--cache", &other], &[]), "plain loaded");
    assert_eq!(run("five", &["--tenant", "b"], &[]), "plain ingested");
}

#[test]
fn the_ci_cache_of_a_file_is_used_in_ci_and_what_is_set_or_typed_goes_before_it() {
    need_r!();
    let world = World::new();
    let lockfile = world.lock_published(&[&Package::new("plain", "1.0")]);
    let [one, two, three] = ["one", "two", "three"].map(|name| format!("fs://{}", world.path(name).display()));
    world.write(
        "larder.toml",
        "[ci-cache]\nmode = 'save'\nkey = 'of-project'\nrestore-keys = ['of-p']\nurl = 'fs:///x'\n",
    );
    world.write(OF_USER, format!("[ci-cache]\nmode = 'both'\nkey = 'of-user'\nurl = '{one}'\n"));
    let run = |env: &[(&str, &str)], args: &[&str]| {
        let ran = world.finish(world.command().arg(&lockfile).arg("--json").envs(env.iter().copied()).args(args)).ok();
        let told = |reason: &str| {
            let events = ran.events_of(reason);
            events.first().map(|event| event["key"].as_str().or(event["why"].as_str()).unwrap().to_owned())
        };
        (told("ci-restored"), told("ci-saved"), ran.stderr)
    };
    assert_eq!(run(&[], &[]).1, None, "this is no CI");
    let ci = ("CI", "true");
    let (restored, saved, warnings) = run(&[ci], &[]);
    assert_eq!((restored, saved), (None, Some("of-project".to_owned())));
    assert!(warnings.contains("not trusted with `ci-cache.url`"), "{warnings}");
    assert!(world.has("one/local/ci"));

    // What is set goes before the files, what is typed before that.
    let env = [ci, ("LARDER_CI_CACHE_URL", &two), ("LARDER_CI_CACHE_KEY", "of-env"), ("LARDER_CI_CACHE", "both")];
    let (restored, saved, _) = run(&env, &[]);
    assert_eq!((restored.as_deref(), saved.as_deref()), (Some("the store lacks nothing"), Some("of-env")));
    let typed = ["--ci-cache-url", &three, "--ci-cache-key", "typed", "--ci-cache", "save"];
    assert_eq!(run(&env, &typed).1.as_deref(), Some("typed"));
    assert!(world.has("two/local/ci") && world.has("three/local/ci"));
    assert_eq!(run(&[ci, ("LARDER_CI_CACHE", "off")], &[]).1, None);
    let paths = world.finish(world.command().args(["cache", "paths"])).ok().stdout;
    assert!(paths.contains("key: of-project\n") && paths.contains("restore-key: of-p\n"), "{paths}");
}

#[test]
fn a_project_that_is_not_trusted_has_no_say_but_in_a_library_of_its_own() {
    let world = World::new();
    let everything = "store = 's'\nlibrary = 'lib'\ntenant = 't'\nsigning-key = 'k'\ntrust-projects = ['.']\n\
                      [[cache]]\nurl = 'fs:///x'\n[ci-cache]\nurl = 'fs:///x'\n";
    world.write("larder.toml", everything);
    let ran = world.finish(plain(&world).args(["store", "path"])).ok();
    assert!(ran.stdout.ends_with("home/.cache/larder/store\n"), "{}", ran.stdout);
    let told = "not trusted with `store`, `tenant`, `signing-key`, `trust-projects`, `cache`, `ci-cache.url`: name its directory in \
                `trust-projects`";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    let help = world.finish(plain(&world).arg("--help")).ok().stdout;
    assert!(help.contains("[default: lib]"), "{help}");
    for outside in ["/lib", "../lib", "a/../../lib"] {
        world.write("larder.toml", format!("library = '{outside}'"));
        let ran = world.finish(plain(&world).arg("--help")).ok();
        assert!(ran.stdout.contains("[default: library]"), "{}", ran.stdout);
        let ran = world.finish(plain(&world).args(["store", "path"])).ok();
        assert!(ran.stderr.contains("`library`"), "{}", ran.stderr);
    }
}

#[test]
fn the_doctor_says_which_files_count() {
    need_r!();
    let world = World::new();
    world.write(OF_USER, "");
    world.write("larder.toml", "library = 'lib'");
    let said = world.run(["doctor"]).stdout;
    let lines: Vec<_> = said.lines().filter(|line| line.starts_with("ok       config")).collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].ends_with("/larder.toml") && lines[1].ends_with(OF_USER), "{said}");
}
