//! One budget of cores for packages and for make within them, and one of memory: what runs at once is seen by what
//! waits for each other, and what does not by the log that all of it writes.

use std::fmt::Write;
use std::process::{Command, Stdio};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use crate::world::{PATH, Package, World, need_r};

/// A package whose make has to do what these recipes say before it compiles, in any order or at once. `@` in a recipe
/// is the world's directory.
fn made(world: &World, name: &str, recipes: &[&str]) -> Package {
    let targets: Vec<String> = (1..=recipes.len()).map(|n| format!("t{n}")).collect();
    let targets = targets.join(" ");
    let mut makevars = format!(".PHONY: all {targets}\nall: $(SHLIB)\n$(SHLIB): {targets}\n");
    for (n, recipe) in (1..).zip(recipes) {
        let recipe = recipe.replace('$', "$$").replace('@', &world.path("").display().to_string());
        writeln!(makevars, "t{n}:\n\t@{recipe}").unwrap();
    }
    Package::new(name, "1.0").file("src/Makevars", &makevars).file("src/code.c", "int f(void) { return 1; }\n")
}

/// A package that can be made only by two jobs at once: each waits for the other.
fn meeting(world: &World, name: &str) -> Package {
    let fifo = format!("{name}.fifo");
    world.fifo(&fifo);
    made(world, name, &[&format!("echo > @/{fifo}"), &format!("read line < @/{fifo}")])
}

/// A package of ten jobs, each of which notes when it begins and ends.
fn noted(world: &World, name: &str) -> Package {
    // As long as it takes to start some processes.
    let recipe = "echo + >> @/noted; for i in 1 2 3 4 5; do /bin/true; done; echo - >> @/noted";
    made(world, name, &[recipe; 10])
}

/// Returns how many of those who noted when they began and ended were there at once, at most.
fn most_at_once(world: &World) -> i32 {
    let (mut now, mut most) = (0, 0);
    for line in world.read("noted").lines() {
        now += if line == "+" { 1 } else { -1 };
        most = most.max(now);
    }
    assert_eq!(now, 0, "who begins also ends");
    most
}

/// A jobserver with these tokens, as an outer make would have it, and what it is called.
fn jobserver(world: &World, tokens: &[u8]) -> (std::os::fd::OwnedFd, String) {
    let path = world.fifo("jobserver");
    let pipe = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).unwrap();
    rustix::io::write(&pipe, tokens).unwrap();
    (pipe, format!(" -j{} --jobserver-auth=fifo:{}", tokens.len() + 1, path.display()))
}

fn tokens(pipe: &std::os::fd::OwnedFd) -> String {
    let mut tokens = [0; 16];
    let n = rustix::io::read(pipe, &mut tokens).unwrap();
    tokens[..n].sort_unstable();
    String::from_utf8(tokens[..n].to_vec()).unwrap()
}

#[test]
fn a_package_alone_uses_the_cores_that_are_idle() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&meeting(&world, "wide")]);
    assert_eq!(world.solve(&lock, &["-j2"]).ok().warnings(), "");
    assert_eq!(world.solve(&lock, &["-j2", "--rebuild", "wide", "--plain-install"]).ok().warnings(), "");
}

#[test]
fn jobs_within_packages_and_packages_are_together_no_more_than_there_are_cores() {
    need_r!();
    let world = World::new();
    let packages: Vec<_> = ["one", "two", "three", "four"].iter().map(|name| noted(&world, name)).collect();
    let lock = world.lock_published(&packages.iter().collect::<Vec<_>>());
    world.solve(&lock, &["-j3"]).ok();
    assert!(most_at_once(&world) <= 3, "{}", world.read("noted"));
    fs::remove_file(world.path("noted")).unwrap();
    world.solve(&lock, &["-j1", "--store", world.path("other").to_str().unwrap(), "-l", "other-library"]).ok();
    assert_eq!(most_at_once(&world), 1);
}

#[test]
fn what_cannot_be_made_by_several_jobs_is_made_by_one_and_what_a_killed_make_kept_is_lent_again() {
    need_r!();
    let world = World::new();
    world.fifo("killer.fifo");
    // The first time, when both jobs run, one of them kills make. So the other's core is not given back.
    let is_again = "[ -e @/again ] && exit 0";
    let packages = [
        made(
            &world,
            "killer",
            &[
                &format!("{is_again}; read line < @/killer.fifo; touch @/again; kill -9 $PPID"),
                &format!("{is_again}; echo > @/killer.fifo"),
            ],
        ),
        meeting(&world, "next").field("Imports", "killer"),
    ];
    let ran = world.solve(&world.lock_published(&packages.each_ref()), &["-j2"]).ok();
    assert_eq!(
        ran.warnings(),
        "killer: `R CMD INSTALL` could install it, but make with several jobs at once could not: \
         ERROR: compilation failed for package \u{2018}killer\u{2019}"
    );
    let log = world.run(["log", "killer"]).ok().stdout;
    assert!(log.contains("larder: R CMD INSTALL: failed outside of R"), "{log}");
    assert!(log.contains("larder: R CMD INSTALL: exit status: 0"), "{log}");
}

#[test]
fn what_fails_with_one_job_as_well_is_told_once() {
    need_r!();
    let world = World::new();
    world.fifo("bad.fifo");
    let serial = "[ -e @/serial ] && exit 1; touch @/serial";
    let bad = made(&world, "bad", &[&format!("{serial}; echo > @/bad.fifo"), "read line < @/bad.fifo; exit 1"]);
    let ran = world.solve(&world.lock_published(&[&bad]), &["-j2"]).exits(1);
    assert_eq!((ran.error("bad").as_str(), ran.warnings().as_str()), ("`R CMD INSTALL` failed", ""));
}

#[test]
fn under_make_cores_come_from_its_jobserver_and_all_go_back() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&meeting(&world, "one"), &noted(&world, "two").field("Imports", "one")]);
    let solve = format!("{} {} -j 8", env!("CARGO_BIN_EXE_solve"), lock.display());
    world.write("Makefile", format!("all:\n\t+{solve}\n"));
    let mut make = Command::new("make");
    make.envs(world.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = make.arg("-j3").current_dir(world.path("")).env("PATH", PATH).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Make itself counts in the end, and says so if tokens are missing.
    assert!(output.status.success() && !said.contains("INTERNAL") && !said.contains("jobserver"), "{said}");
    assert!(most_at_once(&world) <= 3, "{}", world.read("noted"));
}

#[test]
fn a_make_that_does_not_hand_on_its_jobserver_is_told_of() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let flags = " -j3 --jobserver-auth=997,998";
    let ran = world.finish(world.command().arg(&lock).env("MAKEFLAGS", flags)).ok();
    assert!(ran.stderr.contains("the jobserver in MAKEFLAGS (`997,998`) cannot be used"), "{}", ran.stderr);
    assert!(ran.stderr.contains("put a `+` before the command"), "{}", ran.stderr);
}

#[test]
fn interrupted_in_the_middle_everything_goes_back_to_the_outer_make() {
    need_r!();
    for signals in [&[Signal::TERM][..], &[Signal::INT, Signal::INT]] {
        let world = World::new();
        let (pipe, flags) = jobserver(&world, b"abc");
        let (told, never) = (world.fifo("told"), world.fifo("never"));
        let wait = format!("read line < {}", never.display());
        let tell = format!("echo > {}; {wait}", told.display());
        // Two of the three jobs run on cores of the outer make.
        let lock = world.lock_published(&[&made(&world, "endless", &[&wait, &wait, &tell])]);
        let run = world.start_command(world.command().arg(&lock).args(["--json", "-j4"]).env("MAKEFLAGS", &flags));
        fs::read(told).unwrap();
        for signal in signals {
            run.signal(*signal);
        }
        run.finish().exits(130);
        assert_eq!(tokens(&pipe), "abc");
    }
}

/// Has the store say that the build of a package needed this much memory.
fn remember_peak(world: &World, package: &str, bytes: u64) {
    let path = world.trees(package)[0].with_extension("json");
    let mut sidecar: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let fields = sidecar.as_object_mut().unwrap();
    // As other programs write it: without a checksum.
    fields.retain(|name, _| !["tree", "checksum"].contains(&name.as_str()));
    fields.insert("peak_bytes".to_owned(), bytes.into());
    fs::write(&path, serde_json::to_vec(&sidecar).unwrap()).unwrap();
}

#[test]
fn two_builds_that_need_more_memory_than_there_is_do_not_overlap() {
    need_r!();
    let world = World::new();
    world.fifo("meet");
    // Where they are to meet, they wait for each other; else they note when they begin and end.
    let script = |meet: &str| {
        let script = format!("if [ -e @/meet-now ]; then {meet}; fi; echo + >> @/noted; /bin/true; echo - >> @/noted");
        script.replace('@', &world.path("").display().to_string())
    };
    let packages = [
        Package::configured("one", "1.0", &script("echo > @/meet")),
        Package::configured("two", "1.0", &script("read line < @/meet")),
    ];
    let lock = world.lock_published(&packages.each_ref());
    world.solve(&lock, &["-j2"]).ok();
    let rebuild = |args: &[&str]| {
        for package in ["one", "two"] {
            remember_peak(&world, package, 4_000_000_000);
        }
        fs::remove_file(world.path("noted")).unwrap();
        world.solve(&lock, &[&["-j2", "--rebuild", "one", "--rebuild", "two"], args].concat()).ok();
    };
    rebuild(&["--memory", "6GB"]);
    assert_eq!(most_at_once(&world), 1);
    world.write("meet-now", "");
    rebuild(&["--memory", "9GB"]);
}
