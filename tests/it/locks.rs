//! Processes that wait for each other: it is said for whom, it can be ended, and nobody waits for the dead.

use rustix::process::Signal;
use serde_json::Value;

use fs_err as fs;

use crate::world::{Package, World, need_r};

fn message(warning: &Value) -> &str {
    warning["message"].as_str().unwrap()
}

/// A package whose build says what it is by `told`, and goes on when there is something in `go`.
fn waiting(told: &std::path::Path, go: &std::path::Path) -> Package {
    Package::configured("slow", "1.0", &format!("echo $$ > '{}'\nread line < '{}'", told.display(), go.display()))
}

#[test]
fn p22_who_waits_for_a_build_or_a_library_says_for_whom_and_finds_what_was_made() {
    need_r!();
    let world = World::new();
    let (told, go) = (world.fifo("told"), world.fifo("go"));
    let lock = world.lock_published(&[&waiting(&told, &go)]);
    let first = world.start(&lock, &[]);
    fs::read_to_string(&told).unwrap();
    let pid = first.pid();

    let mut for_build = world.start(&lock, &["--library", "other"]);
    assert_eq!(message(&for_build.wait_for("warning")), format!("waiting for PID {pid} to build slow"));
    let mut for_library = world.start(&lock, &[]);
    let library = world.path("library");
    let expected = format!("waiting for PID {pid}, which changes {}", library.display());
    assert_eq!(message(&for_library.wait_for("warning")), expected);
    let mut interrupted = world.start(&lock, &["--library", "third"]);
    interrupted.wait_for("warning");
    interrupted.signal(Signal::INT);
    interrupted.finish().exits(130);

    fs::write(&go, "go\n").unwrap();
    assert_eq!(first.finish().ok().outcomes(), "slow ingested");
    assert_eq!(for_build.finish().ok().outcomes(), "slow loaded");
    assert_eq!(for_library.finish().ok().outcomes(), "slow kept");
    assert_eq!(world.items("store/.locks/").iter().filter(|path| path.is_file()).count(), 0, "no lock is left");
}

#[test]
fn d15_a_killed_holder_frees_at_once() {
    need_r!();
    let world = World::new();
    let (told, go) = (world.fifo("told"), world.fifo("go"));
    let lock = world.lock_published(&[&waiting(&told, &go)]);
    let first = world.start(&lock, &[]);
    let orphan = fs::read_to_string(&told).unwrap();
    let mut second = world.start(&lock, &["--library", "other"]);
    second.wait_for("warning");
    first.signal(Signal::KILL);
    first.finish();
    // What it left waits for the same word, unless the R that was kept warm has ended it by now.
    let orphan = rustix::process::Pid::from_raw(orphan.trim().parse().unwrap()).unwrap();
    let killed = rustix::process::kill_process(orphan, Signal::KILL);
    assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)), "{killed:?}");
    // Now it is the second one that builds.
    fs::read_to_string(&told).unwrap();
    fs::write(&go, "go\n").unwrap();
    assert_eq!(second.finish().ok().outcomes(), "slow ingested");
}
