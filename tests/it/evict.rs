//! What leaves the store, what stays whoever wants it to go, and what the store says that it holds.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use serde_json::Value;

use crate::world::{Package, World, items, need_r};

const DAY: Duration = Duration::from_hours(24);

/// Makes everything in the store look as if it was last used so long ago.
fn age(world: &World, days: u32) {
    let time = SystemTime::now() - days * DAY;
    for item in larder_ops::fs::walk(&world.path("store")).map(Result::unwrap) {
        let is_counted = item.path().extension().is_some_and(|ending| ending == "json" || ending == "log")
            || item.path().starts_with(world.path("store/blobs"));
        if item.file_type().is_file() && is_counted {
            let times = std::fs::FileTimes::new().set_modified(time).set_accessed(time);
            fs::File::open(item.path()).unwrap().file().set_times(times).unwrap();
        }
    }
}

fn last(events: &[Value]) -> &Value {
    events.last().expect("there is a summary")
}

fn remove(dir: &Path) {
    larder_ops::fs::remove_all(dir).unwrap();
}

#[test]
fn p24_what_was_not_used_for_long_goes_unless_a_library_has_it() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0"), &Package::new("other", "1.0")]);
    world.solve(&lock, &[]).ok();
    assert_eq!(world.items("store/.leases"), [world.path("store/.leases/.lock")], "the lease has ended with the run");
    age(&world, 40);
    let ran = world.run(["store", "evict", "--older-than", "30d", "--json"]).ok();
    assert_eq!((&last(&ran.events())["entries"], &last(&ran.events())["in_use"]), (&0.into(), &2.into()));
    assert_eq!(world.trees("demo").len(), 1);
    assert_eq!(world.items("store/blobs/sha256").iter().flat_map(|dir| items(dir)).count(), 0, "downloads go");

    remove(&world.path("library"));
    assert_eq!(world.run(["store", "evict", "--older-than", "0s", "--json"]).ok().events().len(), 1, "zero is off");
    let ran = world.run(["store", "evict", "--older-than", "30d", "--dry-run"]).ok();
    assert!(
        ran.stdout.contains("demo 1.0: ") && ran.stdout.contains("2 entries and 0 other things would be"),
        "{ran:?}"
    );
    assert_eq!(world.trees("demo").len(), 1);
    let freed = |args: &[&str]| last(&world.run(args).ok().events())["freed_bytes"].as_u64().unwrap();
    let foretold = freed(&["store", "evict", "--older-than", "30d", "--json", "--dry-run"]);
    assert!(freed(&["store", "evict", "--older-than", "30d", "--json"]) >= foretold);
    assert!(world.platform_or_none().is_none(), "nothing empty is left");
    world.solve(&lock, &[]).ok();
    world.run(["store", "verify"]).ok();
}

#[test]
fn d16_what_a_run_has_found_stays_until_it_is_linked() {
    need_r!();
    let world = World::new();
    let demo = world.publish(&Package::new("demo", "1.0"));
    world.solve(&world.lock([demo.clone()]), &[]).ok();
    remove(&world.path("library"));
    age(&world, 40);
    let go = world.fifo("go");
    let slow = Package::configured("slow", "1.0", &format!("read line < '{}'", go.display()));
    let mut run = world.start(&world.lock([demo, world.publish(&slow)]), &[]);
    while run.wait_for("vertex-settled")["package"] != "demo" {}
    // Not touched since, as far as the evictor can see: only the lease keeps it.
    age(&world, 40);
    let ran = world.run(["store", "evict", "--max-size", "0", "--json"]).ok();
    assert_eq!(last(&ran.events())["entries"], 0, "{}", ran.stdout);
    let ran = world.run(["store", "rm", "demo"]).exits(2);
    assert!(ran.stderr.contains("in use by a run or a library: demo 1.0"), "{}", ran.stderr);
    fs::write(&go, "go\n").unwrap();
    run.finish().ok();
    assert!(world.has("library/demo/DESCRIPTION") && world.has("library/slow/DESCRIPTION"));
    remove(&world.path("library"));
    let ran = world.run(["store", "evict", "--max-size", "0", "--json"]).ok();
    assert_eq!((&last(&ran.events())["entries"], &last(&ran.events())["left_bytes"]), (&2.into(), &0.into()));
}

#[test]
fn what_the_store_holds_is_counted_listed_and_removed_by_name() {
    need_r!();
    let world = World::new();
    let (hdr, new) = (Package::header("hdr", "1.0", 1), Package::header("hdr", "1.1", 1));
    let lnk = world.publish(&Package::linker("lnk", "2.0", "hdr"));
    for hdr in [&hdr, &new] {
        world.solve(&world.lock([world.publish(hdr), lnk.clone()]), &[]).ok();
    }
    let ran = world.run(["store", "path"]).ok();
    assert_eq!(Path::new(ran.stdout.trim()), world.path("store"));
    let stats = world.run(["store", "stats", "--json"]).ok().events();
    assert_eq!(last(&stats)["entries"], 4);
    // The second build of `lnk` has the files of the first, since the headers are the same.
    let lnk_bytes = |events: &[Value]| -> u64 {
        let of_lnk = events.iter().filter(|event| event["package"] == "lnk");
        of_lnk.map(|event| event["bytes"].as_u64().unwrap()).sum()
    };
    let listed = world.run(["store", "ls", "lnk", "--json"]).ok().events();
    assert_eq!((listed.len(), lnk_bytes(&listed)), (2, 2 * lnk_bytes(&stats)));
    let ran = world.run(["store", "stats"]).ok();
    assert!(ran.stdout.contains("  lnk ") && ran.stdout.contains("in all"), "{}", ran.stdout);

    world.run(["store", "rm", "hdr@1.1"]).exits(2);
    let ran = world.run(["store", "rm", "hdr@1.0"]).ok();
    assert!(ran.stdout.starts_with("hdr 1.0: "), "{}", ran.stdout);
    let ran = world.run(["store", "ls"]).ok();
    assert!(ran.stdout.contains("hdr 1.1") && !ran.stdout.contains("hdr 1.0"), "{}", ran.stdout);
    world.run(["store", "rm", "hdr@1.0"]).exits(2);
    world.run(["store", "rm", "hdr", "lnk", "--force"]).ok();
    assert_eq!(world.run(["store", "ls"]).ok().stdout, "");
    world.run(["store", "verify"]).ok();
}

#[test]
fn an_evictor_ends_the_libraries_of_workers_that_are_gone_and_what_they_held_goes() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let mut owner = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let workers = larder_ops::workers::Workers::of(&world.path("store"));
    let worker = workers.create(Some(owner.id())).unwrap();
    // Of generations, so that there is more of it than the name.
    world.solve(&lock, &["--atomic-library", "--library", worker.library.to_str().unwrap()]).ok();
    let evict = |more: &[&str]| {
        let args = ["store", "evict", "--max-size", "0", "--json"];
        world.run(args.iter().chain(more).copied()).ok().events()
    };
    assert_eq!(last(&evict(&[]))["entries"], 0);
    drop(owner.stdin.take());
    owner.wait().unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let events = evict(more);
        assert_eq!((&events[0]["kind"], &last(&events)["entries"]), (&"worker".into(), &1.into()), "{more:?}");
    }
    assert!(world.items("store/.workers").is_empty() && world.platform_or_none().is_none());
}
