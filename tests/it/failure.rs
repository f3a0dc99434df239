//! What goes wrong, what is said, and what is left whole.

use std::io::Read;

use fs_err as fs;
use serde_json::json;

use crate::world::{FakeR, Package, World, need_r, skip};

/// `bad` does not install, `above` needs it, `top` needs that, `good` needs nothing.
fn four(world: &World) -> std::path::PathBuf {
    let packages = [
        Package::new("top", "1.0").field("Imports", "above"),
        Package::new("above", "1.0").field("Imports", "bad"),
        Package::broken("bad", "1.0"),
        Package::new("good", "1.0"),
    ];
    world.lock_published(&packages.each_ref())
}

#[test]
fn a_failure_leaves_the_library_as_it_was() {
    need_r!();
    let world = World::new();
    let before = world.lock_published(&[&Package::new("bad", "0.9"), &Package::new("gone", "1.0")]);
    world.solve(&before, &[]).ok();
    let record = world.record();
    let ran = world.solve(&four(&world), &["--jobs", "1"]).exits(1);
    assert_eq!(ran.of("bad")["outcome"], "failed");
    assert_eq!(ran.events_of("finished")[0]["outcome"], "failed");
    assert_eq!(world.record(), record);
    assert!(world.has("library/gone") && !world.has("library/good"));
    assert_eq!(world.r("cat(bad::answer())"), "0.9");
}

#[test]
fn with_keep_going_everything_else_is_finished_and_put_there() {
    need_r!();
    let world = World::new();
    world.solve(&world.lock_published(&[&Package::new("bad", "0.9"), &Package::new("gone", "1.0")]), &[]).ok();
    let lock = four(&world);
    let ran = world.solve(&lock, &["-k"]).exits(1);
    assert_eq!(ran.outcomes(), "above skipped, bad failed, good ingested, top skipped");
    assert_eq!((ran.because("above"), ran.because("top")), ("bad".to_owned(), "bad".to_owned()));
    assert_eq!(
        ran.events_of("finished")[0]["counts"],
        json!({"loaded": 0, "recompiled": 0, "ingested": 1, "kept": 0, "provided": 0, "failed": 1, "skipped": 2})
    );
    assert_eq!(world.r("cat(good::answer(), bad::answer())"), "1.0 0.9", "what failed stays in its old version");
    assert!(!world.has("library/gone"), "what the lockfile no longer has goes all the same");

    let ran = world.solve(&lock, &["-k"]).exits(1);
    assert_eq!(ran.outcomes(), "above skipped, bad failed, good kept, top skipped");
}

#[test]
fn a_failed_build_shows_its_last_lines_and_its_log() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::broken("bad", "1.0")]);
    let ran = world.solve(&lock, &[]).exits(1);
    let settled = ran.of("bad");
    assert_eq!(settled["error"], "`R CMD INSTALL` failed");
    let log = fs::read_to_string(settled["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("libnothing was not found") && log.contains("configuration failed"), "{log}");
    let said = world.run([lock.to_str().unwrap()]).exits(1).stderr;
    assert!(said.contains("bad 1.0 failed: `R CMD INSTALL` failed\n"), "{said}");
    assert!(said.contains("  | libnothing was not found\n") && said.contains("  log: "), "{said}");
}

#[test]
fn what_was_built_before_a_failure_is_loaded_afterwards() {
    need_r!();
    let world = World::new();
    let (good, fixed) =
        (world.publish(&Package::new("good", "1.0")), Package::new("bad", "1.0").field("Imports", "good"));
    let mut broken = world.publish(&Package::broken("bad", "1.0").field("Imports", "good"));
    broken["sha256"] = json!({});
    world.solve(&world.lock([good.clone(), broken]), &[]).exits(1);
    assert!(!world.has("library/good"));
    let ran = world.solve(&world.lock([good, world.publish(&fixed)]), &[]).ok();
    assert_eq!(ran.outcomes(), "bad ingested, good loaded");
}

#[test]
fn a_build_that_takes_too_long_is_ended_with_its_children() {
    need_r!();
    // On a busy machine R may need seconds to come to `configure`.
    let was_there = ["2s", "10s", "1min"].into_iter().any(|patience| {
        let world = World::new();
        let (told, never) = (world.fifo("told"), world.fifo("never"));
        // Open at both ends: whoever writes need not wait.
        let mut told = fs::OpenOptions::new().read(true).write(true).open(told).unwrap();
        rustix::fs::fcntl_setfl(&told, rustix::fs::OFlags::NONBLOCK).unwrap();
        let script = format!("cat '{0}' & echo $! > '{1}'\nwait", never.display(), told.path().display());
        let lock = world.lock_published(&[&Package::configured("slow", "1.0", &script)]);
        let ran = world.start(&lock, &["--build-timeout", patience]).finish().exits(1);
        assert_eq!(ran.error("slow"), format!("took longer than {}, and was ended", patience.replace("1min", "1m")));
        assert_eq!(world.items("store/.staging"), Vec::<std::path::PathBuf>::new());
        assert!(world.platform_or_none().is_none(), "nothing was stored");
        let mut child = String::new();
        // It ends with an error: nobody has closed the other end.
        let _ = told.read_to_string(&mut child);
        assert!(child.is_empty() || crate::world::is_gone(&child));
        !child.is_empty()
    });
    assert!(was_there, "the build had no child");
}

#[test]
fn without_r_the_package_to_install_is_named() {
    let world = World::new();
    fs::create_dir(world.path("bin")).unwrap();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.finish(world.command().arg(&lock).env("PATH", world.path("bin"))).exits(3);
    assert!(ran.stderr.starts_with("error: R was not found: there is no `R` on PATH\nhint: `"), "{}", ran.stderr);
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if os.contains("ID=debian") || os.contains("ID=ubuntu") {
        assert!(ran.stderr.contains("`apt-get install r-base-dev`"), "{}", ran.stderr);
    }
    assert!(ran.stderr.contains("`--r` or `LARDER_R`"), "{}", ran.stderr);
    let ran = world.run([lock.to_str().unwrap(), "--r", "/nowhere/R"]).exits(3);
    assert!(ran.stderr.starts_with("error: R was not found: `/nowhere/R` "), "{}", ran.stderr);
}

#[test]
fn something_that_is_no_r_is_told_from_r() {
    let world = World::new();
    let fake = world.write("R", "#!/bin/sh\necho 'cannot open shared object file' >&2\nexit 127\n");
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.run([lock.to_str().unwrap(), "--r", "./R"]).exits(3);
    assert!(
        ran.stderr.contains("does not work: ") && ran.stderr.contains("cannot open shared object"),
        "{}",
        ran.stderr
    );
}

#[test]
fn without_a_compiler_the_packages_that_need_it_are_named() {
    need_r!();
    let world = World::new();
    // All that R's scripts call, but nothing that compiles. The store has no memory of another PATH.
    fs::create_dir(world.path("bin")).unwrap();
    for dir in ["/bin", "/usr/bin", "/usr/local/bin"] {
        for program in crate::world::items(dir.as_ref()) {
            let name = program.file_name().unwrap().to_string_lossy().into_owned();
            let compiles = ["gcc", "g++", "cc", "c++", "make", "clang", "c89", "c99", "gfortran"];
            let link = world.path("bin").join(&name);
            if !compiles.iter().any(|word| name.contains(word)) && link.symlink_metadata().is_err() {
                fs_err::os::unix::fs::symlink(&program, link).unwrap();
            }
        }
    }
    let pure = world.publish(&Package::new("pure", "1.0"));
    let told = world.publish(&Package::new("told", "1.0").file("src/code.c", "int x;\n"));
    let mut untold = world.publish(&Package::new("untold", "1.0").file("src/code.c", "int x;\n"));
    untold["needscompilation"] = json!(false);
    let without = |lock: &std::path::Path, args: &[&str]| {
        let mut command = world.command();
        command
            .arg(lock)
            .arg("--json")
            .args(args)
            .env("PATH", world.path("bin"))
            .env("LARDER_STORE", world.path("fresh"));
        world.finish(&mut command)
    };
    let ran = without(&world.lock([pure.clone(), told]), &[]).exits(3);
    assert!(
        ran.stderr.contains("told") && ran.stderr.contains("no gcc") && ran.stderr.contains("no make"),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("\nhint: `"), "{}", ran.stderr);
    assert_eq!(ran.outcomes(), "", "nothing is built before that is known");
    let ran = without(&world.lock([pure, untold]), &["-k"]).exits(3);
    assert_eq!(ran.outcomes(), "pure ingested, untold failed");
    assert!(
        ran.error("untold").starts_with("it has code to compile, but this machine has no gcc"),
        "{}",
        ran.error("untold")
    );
}

#[test]
fn bad_usage_is_told_apart_from_failure() {
    let world = World::new();
    for args in [
        &["--no-such-option"][..],
        &["x.lock", "--jobs", "0"],
        &["x.lock", "--mirror", "x"],
        &["why", "x.lock", "../x"],
    ] {
        let ran = world.run(args.iter().copied()).exits(2);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
    assert_eq!(world.run(Vec::<&str>::new()).code, Some(2));
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = world.command();
    command.arg(&lock).arg("--json").stdout(writer).stderr(std::process::Stdio::null());
    let status = command.status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(world.has("library/demo/DESCRIPTION"));
}

#[test]
fn what_an_r_leaves_half_written_is_not_taken_for_a_package() {
    let world = World::new();
    // It says that all went well.
    let fake = FakeR::new(&world, "mkdir -p \"$library/$package/R\"");
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let ran = world.solve(&lock, &["--r", fake.path.to_str().unwrap()]).exits(1);
    assert_eq!(ran.error("demo"), "`R CMD INSTALL` left no package `demo`");
    let fake = FakeR::new(&world, "mkdir \"$library/$package\"; echo x > \"$library/$package/DESCRIPTION\"");
    let ran = world.solve(&lock, &["--r", fake.path.to_str().unwrap()]).exits(1);
    assert!(ran.error("demo").contains("is not an installed package"), "{}", ran.error("demo"));
    assert!(!world.has("library/demo") && world.platform_or_none().is_none());
}

#[test]
fn system_packages_that_a_failed_build_missed_are_named() {
    if !std::path::Path::new("/var/lib/dpkg/info").is_dir() {
        return skip("only Debian's packages can be looked for");
    }
    let world = World::new();
    let fake = FakeR::new(&world, "echo 'nothing.h: no such file'; exit 1");
    let mut entry = world.publish(&Package::new("demo", "1.0"));
    entry["sysreqs_packages"] = json!([
        {"sysreq": "nothing", "packages": ["libsurely-absent-dev"], "pre_install": {}, "post_install": {}},
        {"sysreq": "libc", "packages": "base-files"},
    ]);
    let lock = world.lock([entry]);
    let args = [lock.to_str().unwrap(), "--r", fake.path.to_str().unwrap()];
    let said = world.run(args).exits(1).stderr;
    assert!(said.contains("missing system packages: libsurely-absent-dev\n"), "{said}");
    assert!(said.contains("`apt-get install libsurely-absent-dev`"), "{said}");
    let told = world.run(["doctor", args[0], "--r", args[2]]).exits(3).stdout;
    assert!(told.contains("libsurely-absent-dev") && !told.contains("base-files"), "{told}");
}

#[test]
fn what_needs_a_failed_package_stays_out_of_the_library_even_if_the_store_has_it() {
    need_r!();
    let world = World::new();
    let (low, alone) = (Package::new("low", "1.0"), Package::new("alone", "1.0"));
    let high = Package::new("high", "1.0").imports(&["low"]);
    world.solve(&world.lock_published(&[&low, &high, &alone]), &[]).ok();
    fs_err::remove_dir_all(world.path("library")).unwrap();
    let broken = world.lock_published(&[&Package::broken("low", "2.0"), &high, &alone]);
    let ran = world.solve(&broken, &["-k"]).exits(1);
    assert_eq!(ran.outcomes(), "alone loaded, high loaded, low failed");
    assert_eq!(ran.warnings(), "high is in the store, but not in the library: what it needs failed");
    assert!(world.has("library/alone") && !world.has("library/high") && !world.has("library/low"));
}
