//! Ctrl-C, once and twice: nothing is left running, nothing half done, and what was finished is kept.

use std::path::Path;

use fs_err as fs;
use rustix::process::Signal;

use crate::world::{Package, World, is_gone, need_r};

/// A package whose build tells `told` the process that it waits in, and then waits for what never comes.
fn endless(told: &Path, never: &Path, before: &str) -> Package {
    let script = format!("{before}\necho $$ > '{}'\nread line < '{}'", told.display(), never.display());
    Package::configured("endless", "1.0", &script)
}

#[test]
fn an_interrupt_ends_builds_and_keeps_what_is_finished() {
    need_r!();
    let world = World::new();
    let (told, never) = (world.fifo("told"), world.fifo("never"));
    let good = world.publish(&Package::new("good", "1.0"));
    // It needs `good`, so that is finished before.
    let slow = world.publish(&endless(&told, &never, "").field("Imports", "good"));
    let last = world.publish(&Package::new("last", "1.0").field("Imports", "endless"));
    let lock = world.lock([good, slow, last]);
    for signal in [Signal::INT, Signal::TERM] {
        let run = world.start(&lock, &[]);
        let child = fs::read_to_string(&told).unwrap();
        run.signal(signal);
        let ran = run.finish().exits(130);
        assert!(is_gone(&child));
        assert_eq!(ran.events_of("finished")[0]["outcome"], "interrupted");
        assert_eq!(ran.events_of("vertex-settled").len(), 3);
        assert!(ran.outcomes().ends_with("last skipped"), "{}", ran.outcomes());
        assert!(!world.has("library/good") && !world.has("library/.packages.json"), "the library is as it was");
        assert_eq!(world.items("store/.staging"), Vec::<std::path::PathBuf>::new());
    }
    let only = world.lock([world.publish(&Package::new("good", "1.0"))]);
    assert_eq!(world.solve(&only, &[]).ok().outcomes(), "good loaded");
}

#[test]
fn a_second_interrupt_ends_at_once_what_will_not_listen() {
    need_r!();
    let world = World::new();
    let (told, never) = (world.fifo("told"), world.fifo("never"));
    let lock = world.lock_published(&[&endless(&told, &never, "trap '' TERM INT")]);
    let mut run = world.start(&lock, &[]);
    let child = fs::read_to_string(&told).unwrap();
    run.signal(Signal::INT);
    let warning = run.wait_for("warning");
    assert!(warning["message"].as_str().unwrap().contains("once more to end at once"), "{warning}");
    run.signal(Signal::INT);
    run.finish().exits(130);
    assert!(is_gone(&child));
}

#[test]
fn an_interrupt_ends_downloads_that_hang() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.server.fail("/src/contrib/demo_1.0.tar.gz", 1, &larder_ops::testing::Fault::HangAfter(10));
    let run = world.start(&lock, &[]);
    world.server.wait_for_hanging(1);
    run.signal(Signal::INT);
    let ran = run.finish().exits(130);
    assert_eq!(ran.events_of("finished")[0]["outcome"], "interrupted");
    assert_eq!(world.solve(&lock, &[]).ok().outcomes(), "demo ingested");
}

#[test]
fn an_interrupt_for_people_says_what_is_kept() {
    need_r!();
    let world = World::new();
    let (told, never) = (world.fifo("told"), world.fifo("never"));
    let lock = world.lock_published(&[&endless(&told, &never, "")]);
    let run = world.start_command(world.command().arg(&lock));
    fs::read_to_string(&told).unwrap();
    run.signal(Signal::INT);
    insta::assert_snapshot!(run.finish().transcript(), @"
    exit 130
    --- stderr
    warning: ending running builds; once more to end at once
    skipped    endless 1.0
    Interrupted after [time]: 0 of 1 package finished and kept in the store; the library is as it was
    ");
}
