//! A run that is killed at any event leaves everything whole, and the next run goes on from there.

use rustix::process::Signal;

use crate::world::{FakeR, Package, World, items};

fn chain(version: &str) -> Vec<Package> {
    vec![
        Package::new("aa", version),
        Package::new("bb", version).field("Imports", "aa"),
        Package::new("cc", version).field("Imports", "bb"),
        Package::new("dd", version),
    ]
}

/// Every package in the library is one version or the other, and whole.
fn assert_whole(world: &World, n: usize) {
    for path in items(&world.path("library")).iter().filter(|path| path.is_dir() && !path.ends_with(".larder")) {
        let description = fs_err::read_to_string(path.join("DESCRIPTION")).unwrap();
        assert!(description.contains("\nBuilt: "), "killed after event {n}: {}", path.display());
    }
}

#[test]
fn a_run_that_is_killed_at_any_event_leaves_everything_whole() {
    let world = World::new();
    let r = FakeR::working(&world);
    let r = ["--r", r.path.to_str().unwrap()];
    let old = world.lock_published(&chain("1.0").iter().collect::<Vec<_>>());
    let new = world.lock_published(&chain("2.0").iter().collect::<Vec<_>>());
    let n_events = world.solve(&old, &r).ok().events().len();
    assert!(n_events > 10);
    for n in 1..=n_events {
        // Each time from the old library, with nothing of the new version in the store.
        for package in ["aa", "bb", "cc", "dd"] {
            let sources = items(&world.platform_dir().join(package));
            for source in sources.iter().filter(|source| holds_version(source, "2.0")) {
                fs_err::remove_dir_all(source).unwrap();
            }
        }
        world.solve(&old, &r).ok();
        let mut run = world.start(&new, &r);
        for _ in 0..n {
            if run.next_event().is_none() {
                break;
            }
        }
        run.signal(Signal::KILL);
        run.finish();
        assert_whole(&world, n);
        let ran = world.solve(&new, &r).ok();
        assert_eq!(ran.events_of("vertex-settled").len(), 4);
        assert_whole(&world, n);
        assert_eq!(world.solve(&new, &r).ok().outcomes(), "aa kept, bb kept, cc kept, dd kept", "after event {n}");
        for package in ["aa", "bb", "cc", "dd"] {
            assert!(world.read(&format!("library/{package}/DESCRIPTION")).contains("Version: 2.0"), "after event {n}");
        }
        // Whoever builds next sweeps what the dead have left.
        world.solve(&new, &[r[0], r[1], "--rebuild", "dd"]).ok();
        assert!(items(&world.path("store/.staging")).is_empty(), "after event {n}");
        assert!(items(&world.path("library/.larder/staging")).is_empty(), "after event {n}");
    }
}

fn holds_version(source: &std::path::Path, version: &str) -> bool {
    let descriptions = items(source).into_iter().map(|tree| tree.join("DESCRIPTION")).filter(|path| path.is_file());
    descriptions
        .map(|path| fs_err::read_to_string(path).unwrap())
        .any(|text| text.contains(&format!("Version: {version}")))
}
