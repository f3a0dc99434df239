//! What goes wrong, and what is whole all the same.

use std::path::Path;

use fs_err as fs;
use larder_ops::testing::Fault;

use super::events::set;
use super::outcomes::loads;
use super::trees::{differences, library};
use super::world::{World, cold, text};

/// What needs fastmap, and so must be skipped if it has to be built.
const NEED_FASTMAP: [&str; 3] = ["cachem", "memoise", "promises"];

#[test]
fn with_keep_going_one_failure_costs_only_what_needs_it() {
    let Some(world) = World::full("with_keep_going_one_failure_costs_only_what_needs_it") else { return };
    world.forget(&NEED_FASTMAP);
    let lock = world.lock("broken");
    let ran = world.solve(&lock).arg("--keep-going").run();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let outcomes = ran.outcomes();
    let (failed, skipped) = (set(&["fastmap"]), set(&NEED_FASTMAP));
    let well = lock.packages().into_iter().filter(|package| !failed.contains(package) && !skipped.contains(package));
    let well = well.collect();
    assert_eq!(outcomes["failed"], failed);
    assert_eq!(outcomes["skipped"], skipped);
    assert_eq!(outcomes["loaded"], well);
    for package in NEED_FASTMAP {
        assert_eq!(ran.event(package)["because"], "fastmap");
    }
    let log = text(&ran.event("fastmap")["log"]);
    let log = fs::read_to_string(Path::new(&log)).unwrap();
    assert!(log.contains("this_does_not_compile"), "{log}");
    assert_eq!(loads(&world), well);
    assert!(world.record().into_keys().eq(well));
}

#[test]
fn without_keep_going_a_failure_leaves_the_library_as_it_was() {
    let Some(world) = World::full("without_keep_going_a_failure_leaves_the_library_as_it_was") else { return };
    assert_eq!(world.solve(&world.lock("real")).run().code, Some(0));
    let before = library(&world.library());
    let ran = world.solve(&world.lock("broken")).human().run();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(library(&world.library()), before);

    // A person sees what failed, the compiler's words, and where the rest of them is.
    assert!(ran.stderr.contains("fastmap") && ran.stderr.contains("error:"), "{}", ran.stderr);
    let log = ran.stderr.lines().find_map(|line| line.trim().strip_prefix("log: ")).expect("the log is named");
    assert!(Path::new(log).is_file(), "{log}");
}

#[test]
fn other_bytes_than_the_lockfile_says_are_refused() {
    let Some(world) = World::full("other_bytes_than_the_lockfile_says_are_refused") else { return };
    assert_eq!(world.solve(&world.lock("real")).run().code, Some(0));
    let before = library(&world.library());
    let ran = world.solve(&world.lock("wrongsha")).run();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.outcomes()["failed"], set(&["generics"]));
    let error = text(&ran.event("generics")["error"]);
    let [wanted, found] = ["wrongsha", "real"].map(|lock| text(&world.lock(lock).entry("generics")["sha256"]));
    let url = world.server.url(&world.lock("real").path("generics"));
    for part in [wanted, found, url] {
        assert!(error.contains(&part), "no {part} in: {error}");
    }
    assert_eq!(library(&world.library()), before);
}

#[test]
fn a_server_that_drops_connections_delays_a_run_and_does_not_fail_it() {
    let Some(world) = World::empty("a_server_that_drops_connections_delays_a_run_and_does_not_fail_it") else { return };
    let lock = world.lock("real").only(&["R6", "cpp11", "generics", "withr"]);
    let path = |package| lock.path(package);
    world.server.fail(&path("cpp11"), 2, &Fault::DropAfter(100_000));
    world.server.fail(&path("R6"), 2, &Fault::Status(503, Vec::new()));
    world.server.fail(&path("generics"), 1, &Fault::DropAfter(0));
    world.server.fail(&path("withr"), 1, &Fault::HangAfter(10));
    let running = world.solve(&lock).start();
    world.server.wait_for_hanging(1);
    world.server.release();
    running.finish().all(&[("ingested", &lock.packages())]);

    let requests = world.server.requests();
    let of = |package| requests.iter().filter(|request| request.path == path(package)).collect::<Vec<_>>();
    assert_eq!(of("R6").len(), 3);
    // What had come through is not asked for again.
    let starts: Vec<_> = of("cpp11").iter().map(|request| request.header("range").map(str::to_owned)).collect();
    assert_eq!(starts, [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]);
    same_as_cold(&world);
}

#[test]
fn offline_builds_need_no_server() {
    let Some(world) = World::downloaded("offline_builds_need_no_server") else { return };
    let lock = world.lock("real").only(&["R6", "timechange"]);
    world.solve(&lock).arg("--offline").run().all(&[("ingested", &lock.packages())]);
    assert_eq!(world.server.requests().len(), 0);
    same_as_cold(&world);
}

#[test]
fn offline_what_is_missing_is_listed_before_anything_is_built() {
    let Some(world) = World::empty("offline_what_is_missing_is_listed_before_anything_is_built") else { return };
    let lock = world.lock("real");
    let ran = world.solve(&lock).arg("--offline").run();
    assert_eq!(ran.code, Some(3), "{}", ran.stderr);
    let mut said = ran.stderr.split(|c: char| !c.is_alphanumeric() && c != '.');
    for package in lock.packages() {
        assert!(said.clone().any(|word| word == package), "{package}: {}", ran.stderr);
    }
    assert!(said.any(|word| word == "offline"), "{}", ran.stderr);
    assert_eq!(world.server.requests().len(), 0);
}

/// Checks that a library is what the cold run made of the same packages, as far as builds can be equal.
#[track_caller]
pub(super) fn same_as_cold(world: &World) {
    let (cold, _) = cold(world.real);
    let record = cold.record();
    for (package, reference) in world.record() {
        assert_eq!(Some(&reference), record.get(&package), "{package}");
        assert_eq!(differences(&cold.library().join(&package), &world.library().join(&package)), "");
    }
}
