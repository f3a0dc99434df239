//! What people and programs read: lines, summaries, events, logs, help.

use crate::world::{Package, World, need_r};

fn two(world: &World) -> std::path::PathBuf {
    world.lock_published(&[&Package::linker("lnk", "2.0", "hdr"), &Package::header("hdr", "1.0", 1)])
}

#[test]
fn a_run_tells_of_every_package_and_sums_up() {
    need_r!();
    let world = World::new();
    let lock = two(&world);
    let lock = lock.to_str().unwrap();
    insta::assert_snapshot!(world.run([lock]).transcript(), @"
    exit 0
    --- stderr
    ingested   hdr 1.0 ([time])
    ingested   lnk 2.0 ([time])
    Installed 2 packages in [time] (2 ingested)
    ");
    insta::assert_snapshot!(world.run([lock]).transcript(), @"
    exit 0
    --- stderr
    kept       hdr 1.0
    kept       lnk 2.0
    Library is up to date: 2 packages in [time]
    ");
    insta::assert_snapshot!(world.run([lock, "--library", "other"]).transcript(), @"
    exit 0
    --- stderr
    loaded     hdr 1.0
    loaded     lnk 2.0
    Installed 2 packages in [time] (2 loaded)
    ");
    let newer = world.lock_published(&[&Package::linker("lnk", "2.0", "hdr"), &Package::header("hdr", "1.1", 2)]);
    insta::assert_snapshot!(world.run([newer.to_str().unwrap()]).transcript(), @"
    exit 0
    --- stderr
    ingested   hdr 1.1 ([time])
    recompiled lnk 2.0 ([time]): hdr 1.0 -> 1.1
    Installed 2 packages in [time] (1 recompiled, 1 ingested)
    ");
}

#[test]
fn a_failure_is_told_with_log_and_what_it_held_up() {
    need_r!();
    let world = World::new();
    let lock =
        world.lock_published(&[&Package::broken("bad", "1.0"), &Package::new("top", "1.0").field("Imports", "bad")]);
    insta::assert_snapshot!(world.run([lock.to_str().unwrap(), "-k"]).transcript(), @"
    exit 1
    --- stderr
    failed     bad 1.0 ([time]): `R CMD INSTALL` failed
    skipped    top 1.0: bad failed

    bad 1.0 failed: `R CMD INSTALL` failed
      | * installing *source* package ‘bad’ ...
      | ** using staged installation
      | libnothing was not found
      | ERROR: configuration failed for package ‘bad’
      | * removing ‘[world]/store/.staging/[build]/library/bad’
      log: [world]/store/logs/bad/[when]-1.0-[key].failed.log

    skipped because bad failed: top
    1 failed, 1 skipped in [time]; 0 finished and kept in the store
    ");
}

#[test]
fn quiet_runs_say_nothing_of_success() {
    need_r!();
    let world = World::new();
    let good = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.run([good.to_str().unwrap(), "--quiet"]).ok();
    assert_eq!((ran.stdout, ran.stderr), (String::new(), String::new()));
    let bad = world.lock_published(&[&Package::broken("bad", "1.0")]);
    let ran = world.run([bad.to_str().unwrap(), "--quiet"]).exits(1);
    assert!(ran.stderr.contains("bad 1.0 failed: "), "{}", ran.stderr);
}

#[test]
fn events_come_in_order_and_each_package_settles_once() {
    need_r!();
    let world = World::new();
    let ran = world.solve(&two(&world), &[]).ok();
    let events = ran.events();
    assert!(events.iter().all(|event| event["v"] == 1));
    assert_eq!(events.first().unwrap()["reason"], "plan");
    assert_eq!(events.last().unwrap()["reason"], "finished");
    let at = |reason: &str, package: &str, step: Option<&str>| {
        let is_it = |event: &&serde_json::Value| {
            event["reason"] == reason && event["package"] == package && step.is_none_or(|step| event["step"] == step)
        };
        let found: Vec<usize> = (0..).zip(&events).filter(|(_, event)| is_it(event)).map(|(index, _)| index).collect();
        assert_eq!(found.len(), 1, "{reason} of {package} {step:?}: {}", ran.stdout);
        found[0]
    };
    for package in ["hdr", "lnk"] {
        let fetch = at("vertex-started", package, Some("fetch"));
        let build = at("vertex-started", package, Some("build"));
        let settled = at("vertex-settled", package, None);
        assert!(fetch < build && build < settled, "{}", ran.stdout);
    }
    assert!(at("vertex-settled", "hdr", None) < at("vertex-started", "lnk", Some("build")));
    let settled = ran.of("lnk");
    let mut fields: Vec<&str> = settled.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["because", "duration_ms", "error", "key", "log", "outcome", "package", "reason", "v", "version"]
    );
    assert!(settled["error"].is_null() && settled["log"].is_string());
    let finished = &ran.events_of("finished")[0];
    assert_eq!((&finished["outcome"], &finished["counts"]["ingested"]), (&"ok".into(), &2.into()));
}

#[test]
fn the_log_of_the_latest_build_is_shown() {
    need_r!();
    let world = World::new();
    let ran = world.run(["log"]).exits(1);
    assert_eq!(ran.stderr, "error: there is no log of a build in this store\n");
    world.solve(&two(&world), &[]).ok();
    let bad = world.lock_published(&[&Package::broken("bad", "1.0")]);
    world.solve(&bad, &[]).exits(1);
    world.solve(&world.lock_published(&[&Package::new("demo", "1.0")]), &[]).ok();

    let log = |args: &[&str]| world.run([&["log"], args].concat()).ok().stdout;
    assert!(log(&[]).contains("* DONE (demo)"), "{}", log(&[]));
    assert!(log(&["lnk"]).contains("number.cpp"), "{}", log(&["lnk"]));
    let failed = log(&["--failed"]);
    assert!(failed.lines().next().unwrap().ends_with(".failed.log"), "{failed}");
    assert!(failed.contains("libnothing was not found"), "{failed}");
    assert_eq!(
        world.run(["log", "demo", "--failed"]).exits(1).stderr,
        "error: there is no log of a failed build of `demo` in this store\n"
    );
}

#[test]
fn help_names_every_option_and_the_exit_codes() {
    let world = World::new();
    let help = world.run(["--help"]).ok().stdout;
    for word in [
        "--library",
        "--store",
        "--r ",
        "--jobs",
        "--keep-going",
        "--offline",
        "--mirror",
        "--link",
        "--rebuild ",
        "--rebuild-when",
        "--exact",
        "--dry-run",
        "--json",
        "--quiet",
        "--verbose",
        "--color",
        "--progress",
        "--build-timeout",
        "LARDER_LIBRARY",
        "LARDER_STORE",
        "LARDER_R",
        "plan",
        "why",
        "graph",
        "log",
        "doctor",
        "completions",
    ] {
        assert!(help.contains(word), "{word}:\n{help}");
    }
    let codes = help.split("Exit codes:").nth(1).unwrap();
    for code in ["0 ", "1 ", "2 ", "3 ", "101 ", "130 "] {
        assert!(codes.contains(code), "{code}:\n{help}");
    }
    assert!(help.lines().all(|line| line.chars().count() <= 120), "{help}");
    assert!(world.run(["--version"]).ok().stdout.starts_with("solve "));
}

#[test]
fn shells_get_completions() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(["completions", shell]).ok().stdout;
        assert!(script.contains("solve") && script.contains("keep-going"), "{shell}");
    }
}

#[test]
fn the_doctor_tells_what_is_there() {
    need_r!();
    let world = World::new();
    let said = world.run(["doctor"]).ok().stdout;
    for word in ["R  ", "platform", "CC", "CXX", "store"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    fs_err::create_dir(world.path("bin")).unwrap();
    let ran = world.finish(world.command().arg("doctor").env("PATH", world.path("bin"))).exits(3);
    assert!(ran.stdout.contains("missing  R"), "{}", ran.stdout);
}

#[test]
fn colours_are_for_those_who_ask() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let lock = lock.to_str().unwrap();
    assert!(!world.run([lock]).ok().stderr.contains('\u{1b}'), "not a terminal");
    assert!(world.run([lock, "--color", "always"]).ok().stderr.contains('\u{1b}'));
    let ran = world.finish(world.command().args([lock]).env("NO_COLOR", "1"));
    assert!(!ran.ok().stderr.contains('\u{1b}'));
}
