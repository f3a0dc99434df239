//! What is done ahead of builds: downloads and unpacking, and how far.

use std::collections::BTreeMap;
use std::sync::Arc;

use fs_err as fs;
use larder::event::{Event, Step};
use larder::larder::{Config, Larder, Request};
use larder::lockfile::Lockfile;

use crate::world::{PATH, Package, World, need_r};

/// How many sources may be unpacked and wait, with one core.
const ROOM: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sources_are_fetched_ahead_of_builds_and_as_many_unpacked_as_there_is_room_for() {
    need_r!();
    let world = World::new();
    let go = world.fifo("go");
    // All others need it, so it is built first; it waits until something is written into `go`.
    let first = Package::configured("first", "1.0", &format!("read line < '{}'", go.display()));
    let users: Vec<Package> = (10..22).map(|n| Package::new(&format!("user{n}"), "1.0").imports(&["first"])).collect();
    let packages: Vec<&Package> = std::iter::once(&first).chain(&users).collect();
    let lockfile = fs::read_to_string(world.lock_published(&packages)).unwrap();

    let mut config = Config::new(world.path("store"), [("PATH".into(), PATH.into())]);
    config.jobs = 1;
    let larder = Arc::new(Larder::open(config).unwrap());
    let mut run = larder.solve(&Lockfile::parse(&lockfile).unwrap(), Request::new(world.path("library")));
    // A source is looked into for what it links to, and then brought; it waits after both. Of the first the lockfile says
    // that it links to nothing.
    let (mut n_waits, mut steps) = (0, BTreeMap::<String, Vec<Step>>::new());
    let mut take_in = |event: Event| {
        if let Event::Started { package, step, .. } = event {
            n_waits += usize::from(step == Step::Wait);
            steps.entry(package.to_string()).or_default().push(step);
        }
        (n_waits, steps.clone())
    };
    let count = |steps: &BTreeMap<String, Vec<Step>>, step| steps.values().filter(|of| of.contains(&step)).count();
    let ahead = loop {
        let (n_waits, steps) = take_in(run.next().await.expect("the first build is still to be let go"));
        if n_waits == users.len() * 2 + 1 {
            break steps;
        }
    };
    assert_eq!(count(&ahead, Step::Fetch), packages.len());
    let unpacked = count(&ahead, Step::Unpack);
    // The room of the first one, which is built, is another's.
    assert!((ROOM..=ROOM + 1).contains(&unpacked), "{unpacked}: {ahead:?}");

    tokio::task::spawn_blocking(move || fs::write(go, "go\n")).await.unwrap().unwrap();
    let mut all = ahead;
    while let Some(event) = run.next().await {
        (_, all) = take_in(event);
    }
    assert_eq!(run.finish().await.unwrap().counts.ingested, packages.len());
    assert_eq!(count(&all, Step::Unpack), packages.len());
}
