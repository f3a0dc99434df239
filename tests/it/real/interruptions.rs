//! Runs that are killed, interrupted, or not alone.

use std::collections::BTreeSet;

use fs_err as fs;
use rustix::process::{Signal, kill_process};

use super::failures::same_as_cold;
use super::processes::strays;
use super::trees::library;
use super::world::{Lock, World};

/// A few packages that build in seconds. timechange is compiled, and links to cpp11: when it is built, others are done.
fn few(world: &World) -> Lock {
    world.lock("real").only(&["R6", "generics", "magrittr", "timechange"])
}

#[test]
fn a_killed_run_is_taken_up_by_the_next() {
    let Some(world) = World::empty("a_killed_run_is_taken_up_by_the_next") else { return };
    let lock = few(&world);
    let mut running = world.solve(&lock).start();
    running.wait_for_build("timechange");
    running.signal(Signal::KILL);
    let killed = running.finish();
    assert_eq!(killed.code, None, "a signal ended it");
    assert!(!world.library().join(".packages.json").exists());

    // R and compilers of the killed run may be at work still: the next run does not mind.
    let finished = killed.with("ingested");
    assert!(finished.contains("cpp11"), "{finished:?}");
    let rest = lock.packages().difference(&finished).cloned().collect();
    world.solve(&lock).run().all(&[("loaded", &finished), ("ingested", &rest)]);
    same_as_cold(&world);
    for (pid, _) in strays(&world) {
        // It may have come to its end by itself just now.
        let _ = kill_process(pid, Signal::KILL);
    }
    assert_eq!(staging(&world), BTreeSet::new());
}

#[test]
fn ctrl_c_ends_builds_keeps_what_is_finished_and_leaves_the_library() {
    let Some(world) = World::empty("ctrl_c_ends_builds_keeps_what_is_finished_and_leaves_the_library") else { return };
    let lock = few(&world);
    assert_eq!(world.solve(&lock.only(&["R6"])).run().code, Some(0));
    let before = library(&world.library());
    let mut running = world.solve(&lock).start();
    running.wait_for_build("timechange");
    running.signal(Signal::INT);
    let ran = running.finish();
    assert_eq!(ran.code, Some(130), "{}", ran.stderr);
    assert_eq!(strays(&world), []);
    assert_eq!(library(&world.library()), before);
    assert_eq!(staging(&world), BTreeSet::new());

    let mut outcomes = ran.outcomes();
    assert_eq!(ran.events.last().unwrap()["outcome"], "interrupted");
    let (kept, finished) = (outcomes.remove("kept").unwrap(), outcomes.remove("ingested").unwrap());
    assert!(finished.contains("cpp11"), "{finished:?}");
    let skipped = outcomes.remove("skipped").unwrap();
    assert!(skipped.contains("timechange"), "{skipped:?}");
    assert!(outcomes.is_empty(), "{outcomes:?}");
    world.solve(&lock).run().all(&[("kept", &kept), ("loaded", &finished), ("ingested", &skipped)]);
    same_as_cold(&world);
}

#[test]
fn two_runs_at_once_share_one_store_and_build_each_package_once() {
    let Some(world) = World::empty("two_runs_at_once_share_one_store_and_build_each_package_once") else { return };
    let lock = few(&world);
    let running = [world.solve(&lock).start(), world.solve(&lock).library("other").start()];
    let [one, other] = running.map(super::processes::Running::finish);
    let mut n_built = 0;
    for ran in [&one, &other] {
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.outcomes();
        n_built += ran.with("ingested").len();
    }
    assert_eq!(n_built, lock.packages().len());
    assert!(one.with("ingested").is_disjoint(&other.with("ingested")));
    let [one, other] = ["library", "other"].map(|name| fs::read(world.dir.join(name).join(".packages.json")).unwrap());
    assert_eq!(one, other);
    same_as_cold(&world);
}

/// Returns what is in the store's staging.
fn staging(world: &World) -> BTreeSet<String> {
    let items = fs::read_dir(world.store().join(".staging")).unwrap();
    items.map(|item| item.unwrap().file_name().into_string().unwrap()).collect()
}
