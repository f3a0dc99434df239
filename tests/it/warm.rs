//! Installs by an R that is kept warm: the same trees as with `R CMD INSTALL`, the same failures, and nothing left.

use std::process::Stdio;

use fs_err as fs;
use rustix::process::Signal;

use crate::world::{Package, World, is_gone, need_r};

mod kinds;

/// Compares packages in two libraries of a world; returns what differs, and how much was compared.
pub(crate) fn differences(mut r: std::process::Command, libraries: [&std::path::Path; 2], packages: &[&str]) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/warm/same.R");
    let script = fs::File::open(script).unwrap().into_file();
    let output =
        r.env("LC_ALL", "C.UTF-8").arg("--args").args(libraries).args(packages).stdin(script).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A package whose `configure` writes the number of the process group that it runs in, and whatever else it does.
fn grouped(name: &str, more: &str) -> Package {
    let script = format!("mkdir -p inst\ncut -d' ' -f5 /proc/self/stat > inst/group\n{more}");
    Package::configured(name, "1.0", &script)
}

#[test]
fn the_tree_is_that_of_a_plain_install_for_packages_of_every_kind() {
    need_r!();
    let world = World::new();
    let kinds = kinds::all(&world);
    let lock = world.lock_published(&kinds.iter().collect::<Vec<_>>());
    let libraries = ["a", "b"].map(|name| world.path(&format!("lib-{name}")));
    for (store, library, way) in [("a", &libraries[0], &["--plain-install"][..]), ("b", &libraries[1], &[])] {
        let ran = world.finish(
            world
                .command()
                .arg(&lock)
                .args(["--json", "-k"])
                .args(way)
                .arg("--store")
                .arg(world.path(store))
                .arg("-l")
                .arg(library),
        );
        assert_eq!(ran.ok().warnings(), "");
    }
    let packages: Vec<&str> = kinds.iter().map(|package| package.name.as_str()).collect();
    let told =
        differences(world.r_command("--no-echo"), libraries.each_ref().map(std::path::PathBuf::as_path), &packages);
    assert!(told.starts_with(&format!("compared: {} packages, ", packages.len())), "{told}");
    for package in packages {
        let log = |store: &str| {
            let ran = world.finish(world.command().args(["log", package, "--store"]).arg(world.path(store))).ok();
            // The first line is the log's place. What R says of a place ends where the build's own begins.
            let lines = ran.stdout.lines().skip(1).filter(|line| !line.starts_with("larder: "));
            let store = world.path(store).display().to_string();
            lines.map(|line| line.split("/.staging/").next().unwrap().replace(&store, "")).collect::<Vec<_>>()
        };
        assert_eq!(log("a"), log("b"), "the logs of {package}");
    }
}

#[test]
fn one_r_serves_build_after_build() {
    need_r!();
    let world = World::new();
    let packages = ["one", "two", "three"].map(|name| grouped(name, ""));
    let lock = world.lock_published(&packages.each_ref());
    let groups = |args: &[&str]| {
        world.solve(&lock, args).ok();
        let mut groups = ["one", "two", "three"].map(|name| world.read(&format!("library/{name}/group"))).to_vec();
        groups.sort();
        groups.dedup();
        groups.len()
    };
    assert_eq!(groups(&["-j1"]), 1);
    let rebuild: Vec<&str> = ["one", "two", "three"].iter().flat_map(|name| ["--rebuild", name]).collect();
    assert_eq!(groups(&[&rebuild[..], &["-j1", "--plain-install"]].concat()), 3, "unless each is to have its own");
}

#[test]
fn the_environment_can_ask_for_plain_installs() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.finish(world.command().arg(&lock).env("LARDER_PLAIN_INSTALL", "1")).ok();
    assert!(world.run(["log", "demo"]).ok().stdout.contains("larder: R CMD INSTALL: exit status: 0"));
    world.solve(&lock, &["--rebuild", "demo"]).ok();
    assert!(world.run(["log", "demo"]).ok().stdout.contains("larder: R CMD INSTALL: done by a warm R"));
}

#[test]
fn what_a_build_leaves_running_is_ended_and_the_next_build_gets_another_r() {
    need_r!();
    let world = World::new();
    // The first leaves one that keeps what it has inherited open, the second one that does not.
    let never = world.fifo("never");
    let pid = |name: &str| world.path(name).display().to_string();
    let open = format!("(read line < '{}') &\necho $! > '{}'", never.display(), pid("open"));
    let closed = format!(
        "(exec 3>&- 4>&- 5>&- 6>&-; read line < '{}') > /dev/null 2>&1 &\necho $! > '{}'",
        never.display(),
        pid("closed")
    );
    let packages =
        [grouped("aa", &open), grouped("bb", &closed).field("Imports", "aa"), grouped("cc", "").field("Imports", "bb")];
    world.solve(&world.lock_published(&packages.each_ref()), &["-j1"]).ok();
    assert!(is_gone(&world.read("open")) && is_gone(&world.read("closed")));
    let mut groups = ["aa", "bb", "cc"].map(|name| world.read(&format!("library/{name}/group"))).to_vec();
    groups.sort();
    groups.dedup();
    assert_eq!(groups.len(), 3);
}

#[test]
fn what_only_a_warm_r_cannot_install_is_installed_the_plain_way() {
    need_r!();
    let world = World::new();
    let picky = Package::new("picky", "1.0").file(
        "R/code.R",
        "if (\"parallel\" %in% names(getLoadedDLLs())) stop(\"I want a fresh R\")\nanswer <- function() 1\n",
    );
    let ran = world.solve(&world.lock_published(&[&picky]), &[]).ok();
    assert_eq!(ran.outcomes(), "picky ingested");
    assert_eq!(
        ran.warnings(),
        "picky: `R CMD INSTALL` could install it, but a warm R could not: ERROR: lazy loading failed for package \u{2018}picky\u{2019}"
    );
    let log = world.run(["log", "picky"]).ok().stdout;
    assert!(log.contains("I want a fresh R") && log.contains("larder: R CMD INSTALL: exit status: 0"), "{log}");
}

#[test]
fn what_fails_either_way_is_told_once() {
    need_r!();
    let world = World::new();
    let bad = Package::new("bad", "1.0").file("R/code.R", "f <- function() stop(\"oh\")\nf()\n");
    let lock = world.lock_published(&[&bad]);
    let said = world.run([lock.to_str().unwrap()]).exits(1).stderr;
    assert_eq!(said.matches("Error in f() : oh").count(), 1, "{said}");
    assert!(!said.contains("warm"), "{said}");
    let log = world.run(["log", "bad", "--failed"]).ok().stdout;
    assert_eq!(log.matches("Error in f() : oh").count(), 2, "{log}");
    assert_eq!(log.matches("Execution halted").count(), 2, "{log}");
}

#[test]
fn a_compiler_that_fails_is_not_asked_again() {
    need_r!();
    let world = World::new();
    let packages = [Package::new("code", "1.0").file("src/code.c", "not C\n"), Package::broken("conf", "1.0")];
    let ran = world.solve(&world.lock_published(&packages.each_ref()), &["-k"]).exits(1);
    for (package, error) in [("code", "ERROR: compilation failed"), ("conf", "ERROR: configuration failed")] {
        assert_eq!(ran.error(package), "`R CMD INSTALL` failed");
        let log = fs::read_to_string(ran.of(package)["log"].as_str().unwrap()).unwrap();
        assert_eq!(log.matches(error).count(), 1, "{log}");
    }
}

#[test]
fn when_the_command_is_killed_its_builds_end() {
    need_r!();
    let world = World::new();
    let (told, never) = (world.fifo("told"), world.fifo("never"));
    let script = format!("echo $$ > '{}'\nread line < '{}'", told.display(), never.display());
    let lock = world.lock_published(&[&Package::configured("endless", "1.0", &script)]);
    let run = world.start(&lock, &[]);
    let child = fs::read_to_string(&told).unwrap();
    run.signal(Signal::KILL);
    run.finish();
    while !is_gone(&child) {
        std::thread::yield_now();
    }
}

#[test]
fn debug_information_is_left_out_unless_it_is_to_be_kept() {
    need_r!();
    let world = World::new();
    let code = Package::new("code", "1.0")
        .file("NAMESPACE", "useDynLib(code)\n")
        .file("src/c.c", "int f(void) { return 1; }\n")
        .file("src/cpp.cpp", "int g() { return 1; }\n")
        .file("src/fortran.f90", "subroutine h()\nend subroutine h\n");
    let lock = world.lock_published(&[&code]);
    let has_debug_info = |world: &World| {
        let readelf = std::process::Command::new("readelf")
            .arg("-S")
            .arg(world.path("library/code/libs/code.so"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        String::from_utf8_lossy(&readelf.stdout).contains(".debug_info")
    };
    world.solve(&lock, &[]).ok();
    assert!(!has_debug_info(&world));
    let ran = world.solve(&lock, &["--debug-info", "keep"]).ok();
    assert_eq!((ran.outcomes().as_str(), ran.because("code").as_str()), ("code recompiled", "debug-info changed"));
    assert!(has_debug_info(&world));
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "code loaded");
    // Whoever asks for it in their own Makevars gets it.
    world.write("home/.R/Makevars", "CFLAGS += -g\n");
    world.solve(&lock, &[]).ok();
    assert!(has_debug_info(&world));
}
