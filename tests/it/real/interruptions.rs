//! Runs that are killed, interrupted, or not alone.

use std::collections::BTreeSet;

use fs_err as fs;
use rustix::process::Signal;

use super::events::set;
use super::failures::same_as_cold;
use super::processes::{Running, end_strays, strays};
use super::trees::library;
use super::world::{Lock, World};

/// What the store forgets for these tests: a few packages that build in seconds, one above the other: memoise needs
/// cachem, and that needs fastmap, both compiled. When cachem is built something is done and something is not.
const TO_BUILD: [&str; 4] = ["cachem", "fastmap", "magrittr", "memoise"];

/// A world whose store lacks some packages, and a lockfile that needs them and, of what the store has, rlang and R6.
fn world(name: &str) -> Option<(World, Lock)> {
    let world = World::full(name)?;
    world.forget(&TO_BUILD);
    let lock = world.lock("real").only(&["R6", "magrittr", "memoise"]);
    Some((world, lock))
}

#[test]
fn a_killed_run_is_taken_up_by_the_next() {
    let Some((world, lock)) = world("a_killed_run_is_taken_up_by_the_next") else { return };
    let mut running = world.solve(&lock).start();
    running.wait_for_build("cachem");
    running.signal(Signal::KILL);
    let killed = running.finish();
    assert_eq!(killed.code, None, "a signal ended it");
    assert!(!world.library().join(".packages.json").exists());

    // R and compilers of the killed run may be at work still: the next run does not mind.
    let finished = killed.with("ingested");
    assert!(finished.contains("fastmap"), "{finished:?}");
    let rest = set(&TO_BUILD).difference(&finished).cloned().collect();
    let loaded = lock.packages().difference(&rest).cloned().collect();
    world.solve(&lock).run().all(&[("loaded", &loaded), ("ingested", &rest)]);
    same_as_cold(&world);

    // Whoever builds once they are gone sweeps what they left.
    end_strays(&world);
    assert_eq!(world.solve(&lock).arg("--rebuild").arg("R6").run().code, Some(0));
    assert_eq!(staging(&world), BTreeSet::new());
}

#[test]
fn ctrl_c_ends_builds_keeps_what_is_finished_and_leaves_the_library() {
    let name = "ctrl_c_ends_builds_keeps_what_is_finished_and_leaves_the_library";
    let Some((world, lock)) = world(name) else { return };
    world.solve(&lock.only(&["R6"])).run().all(&[("loaded", &set(&["R6"]))]);
    let before = library(&world.library());
    let mut running = world.solve(&lock).start();
    running.wait_for_build("cachem");
    running.signal(Signal::INT);
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert_eq!(strays(&world), []);
    assert_eq!(library(&world.library()), before);
    assert_eq!(staging(&world), BTreeSet::new());

    let outcomes = ran.outcomes();
    assert_eq!(ran.events.last().unwrap()["outcome"], "interrupted");
    assert!(outcomes["ingested"].contains("fastmap"), "{outcomes:?}");
    assert!(outcomes["skipped"].is_superset(&set(&["cachem", "memoise"])), "{outcomes:?}");
    let loaded = outcomes["loaded"].union(&outcomes["ingested"]).cloned().collect();
    let again = world.solve(&lock).run();
    again.all(&[("kept", &outcomes["kept"]), ("loaded", &loaded), ("ingested", &outcomes["skipped"])]);
    same_as_cold(&world);
}

#[test]
fn two_runs_at_once_share_one_store_and_build_each_package_once() {
    let Some((world, lock)) = world("two_runs_at_once_share_one_store_and_build_each_package_once") else { return };
    let running = [world.solve(&lock).start(), world.solve(&lock).library("other").start()];
    let built = running.map(Running::finish).map(|ran| {
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.outcomes().remove("ingested").unwrap_or_default()
    });
    assert!(built[0].is_disjoint(&built[1]), "{built:?}");
    assert_eq!(&built[0] | &built[1], set(&TO_BUILD));
    let [one, other] = ["library", "other"].map(|name| fs::read(world.dir.join(name).join(".packages.json")).unwrap());
    assert_eq!(one, other);
    same_as_cold(&world);
}

/// Returns what is in the store's staging.
fn staging(world: &World) -> BTreeSet<String> {
    let items = fs::read_dir(world.store().join(".staging")).unwrap();
    items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}
