//! Many processes on one store, for many rounds, with lockfiles that overlap: nothing fails, nothing is built twice,
//! what an evictor may not take stays, and in the end everything is whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::faults::Place;
use crate::world::{FakeR, Package, Ran, World};

const N_PROCESSES: usize = 8;

/// How many rounds each process goes; `LARDER_STRESS_ROUNDS` for more.
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment how long to go on")]
fn n_rounds() -> usize {
    std::env::var("LARDER_STRESS_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Returns the package `n` of a release: most are in many lockfiles, and each needs one or two of those before it.
fn package(n: usize, release: usize) -> Package {
    let package = Package::new(&format!("p{n:02}"), &format!("1.{release}"));
    match n {
        0 => package,
        // The first ones are linked to.
        1..4 => package.field("LinkingTo", "p00"),
        _ => package.field("Imports", &format!("p{:02}, p{:02}", n / 2, n / 3)),
    }
}

/// Writes a lockfile for each of six releases. In each the packages from some number on are new, so that lockfiles share
/// most of what they have.
fn lockfiles(world: &World) -> Vec<PathBuf> {
    let releases = 6;
    let lockfile = |release| {
        let packages: Vec<_> =
            (0..12).map(|n| package(n, if n * releases / 12 < release { release } else { 0 })).collect();
        world.lock_published(&packages.iter().collect::<Vec<_>>())
    };
    (0..releases).map(lockfile).collect()
}

#[test]
fn eight_processes_share_a_store_and_nothing_is_built_twice() {
    let world = World::new();
    let builds = world.path("builds");
    let r = FakeR::new(
        &world,
        &format!(
            "mkdir \"$library/$package\"\necho \"$package $(sed -n 's/^Version: //p' \"$source/DESCRIPTION\")\" >> '{}'\n\
             {{ cat \"$source/DESCRIPTION\"; echo 'Built: R 4.2.2; ; 2000-01-01 00:00:00 UTC; unix'; }} \
             > \"$library/$package/DESCRIPTION\"",
            builds.display()
        ),
    );
    let lockfiles = lockfiles(&world);
    let run = |process: usize| {
        // Two of them at a time have one library.
        let place = Place::new(&world, &format!("place{}", process / 2));
        for round in 0..n_rounds() {
            let lockfile = &lockfiles[(round * (process + 1) + process) % lockfiles.len()];
            let mut args = vec![lockfile.display().to_string(), "--json".to_owned(), "--r".to_owned()];
            args.push(r.path.display().to_string());
            let mut command = place.command(&args);
            let output = command.env("LARDER_STORE", world.path("store")).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "process {process}, round {round}: {said}");
            assert!(!said.contains("panicked"), "{said}");
        }
    };
    std::thread::scope(|scope| {
        for process in 0..N_PROCESSES {
            let run = &run;
            scope.spawn(move || run(process));
        }
    });
    let verified = verify(&world.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
    assert!(verified.findings.is_empty(), "{:?}", verified.findings);
    let mut built = BTreeMap::<String, usize>::new();
    for line in fs::read_to_string(&builds).unwrap().lines() {
        *built.entry(line.to_owned()).or_default() += 1;
    }
    println!(
        "{} runs, {} builds, {} entries",
        N_PROCESSES * n_rounds(),
        built.values().sum::<usize>(),
        verified.n_entries
    );
    // What links to another is built once for each of that.
    let twice: Vec<_> = built
        .iter()
        .filter(|(name, n)| **n > 1 && !["p01", "p02", "p03"].iter().any(|p| name.starts_with(p)))
        .collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(built.values().sum::<usize>() <= verified.n_entries, "{built:?}");
    assert!(world.items("store/.staging").is_empty());
}

/// A store that many processes use, with an R whose packages say in a header which version they are: so nothing is
/// taken over from another build, and each entry is either built or evicted.
struct Shared {
    world: World,
    r: FakeR,
    lockfiles: Vec<PathBuf>,
}

/// What became of each entry, by its place.
#[derive(Debug, Default)]
struct Counts {
    built: BTreeMap<String, usize>,
    evicted: BTreeMap<String, usize>,
}

impl Counts {
    /// Counts what the runs have built and the evictors have taken.
    fn of(runs: &[Ran], evictions: &[Ran]) -> Self {
        let mut counts = Self::default();
        let key = |event: &serde_json::Value| event["key"].as_str().map(str::to_owned);
        for event in runs.iter().flat_map(|ran| ran.events_of("vertex-settled")) {
            if ["ingested", "recompiled"].contains(&event["outcome"].as_str().unwrap_or_default()) {
                *counts.built.entry(key(&event).unwrap()).or_default() += 1;
            }
        }
        for event in evictions.iter().flat_map(|ran| ran.events_of("evicted")) {
            assert_ne!(event["kind"], "aside", "nothing was broken");
            if let Some(key) = key(&event) {
                *counts.evicted.entry(key).or_default() += 1;
            }
        }
        counts
    }

    fn sums(&self) -> (usize, usize) {
        (self.built.values().sum(), self.evicted.values().sum())
    }
}

impl Shared {
    fn new() -> Self {
        let world = World::new();
        let r = FakeR::new(
            &world,
            "mkdir -p \"$library/$package/include\"\n\
             sed -n 's/^Version: //p' \"$source/DESCRIPTION\" > \"$library/$package/include/version.h\"\n\
             { cat \"$source/DESCRIPTION\"; echo 'Built: R 4.2.2; ; 2000-01-01 00:00:00 UTC; unix'; } \
             > \"$library/$package/DESCRIPTION\"",
        );
        let lockfiles = lockfiles(&world);
        Self { world, r, lockfiles }
    }

    fn solve(&self, place: &Place<'_>, lockfile: usize, library: &str) -> Ran {
        let lockfile = self.lockfiles[lockfile % self.lockfiles.len()].display().to_string();
        let r = self.r.path.display().to_string();
        let args = [lockfile.as_str(), "--json", "--r", &r, "--library", library].map(str::to_owned);
        self.world.ran(&place.command(&args).env("LARDER_STORE", self.world.path("store")).output().unwrap()).ok()
    }

    /// Goes `rounds` in each of eight processes while two evictors take what they can; returns all that ran.
    fn with_evictors(&self, round: impl Fn(usize, usize) -> Ran + Sync) -> Counts {
        let (is_over, round) = (AtomicBool::new(false), &round);
        let evict = |how: [&str; 2]| {
            let mut evictions = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                evictions.push(self.world.run(["store", "evict", "--json", how[0], how[1]]).ok());
            }
            evictions
        };
        let (runs, evictions) = std::thread::scope(|scope| {
            let hows = [["--older-than", "1ms"], ["--max-size", "1"]];
            let evictors: Vec<_> = hows.map(|how| scope.spawn(move || evict(how))).into();
            let rounds = |process| (0..n_rounds()).map(|n| round(process, n)).collect::<Vec<_>>();
            let processes: Vec<_> = (0..N_PROCESSES).map(|process| scope.spawn(move || rounds(process))).collect();
            let runs: Vec<_> = processes.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::Relaxed);
            let evictions: Vec<_> = evictors.into_iter().flat_map(|evictor| evictor.join().unwrap()).collect();
            (runs.into_iter().flat_map(Result::unwrap).collect::<Vec<_>>(), evictions)
        });
        let counts = Counts::of(&runs, &evictions);
        assert!(runs.len() == N_PROCESSES * n_rounds() && evictions.len() >= 2);
        counts
    }

    /// Returns the places of all entries, after all of them were found whole.
    fn entries(&self) -> BTreeSet<String> {
        let verified = verify(&self.world.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
        assert!(verified.findings.is_empty(), "{:?}", verified.findings);
        assert!(self.world.items("store/.staging").is_empty() && self.world.items("store/.aside").is_empty());
        let listed = self.world.run(["store", "ls", "--json"]).ok();
        listed.events().iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect()
    }
}

/// What a library holds, by place in the store.
fn held(place: &Place<'_>) -> Vec<String> {
    let record = fs::read_to_string(place.path("library/.packages.json")).unwrap();
    serde_json::from_str::<BTreeMap<String, String>>(&record).unwrap().into_values().collect()
}

#[test]
fn while_evictors_are_at_work_nothing_fails_and_nothing_is_built_again_that_was_not_evicted() {
    let shared = Shared::new();
    let places: Vec<_> = (0..N_PROCESSES / 2).map(|n| Place::new(&shared.world, &format!("place{n}"))).collect();
    // Two processes at a time have one library, so that what nobody uses is another thing all the time.
    let counts = shared
        .with_evictors(|process, round| shared.solve(&places[process / 2], round * (process + 1) + process, "library"));
    println!("{:?} built and evicted", counts.sums());
    let entries = shared.entries();
    for (key, built) in &counts.built {
        let gone = counts.evicted.get(key).copied().unwrap_or_default();
        assert_eq!(*built, gone + usize::from(entries.contains(key)), "{key}: each build is there or was evicted");
    }
    assert!(counts.sums().1 > 0, "the evictors had something to do");
    for place in &places {
        assert!(held(place).iter().all(|key| entries.contains(key)), "what a library holds is never evicted");
    }
}

#[test]
fn what_libraries_hold_is_built_once_whatever_evictors_do() {
    let shared = Shared::new();
    let places: Vec<_> = (0..N_PROCESSES).map(|n| Place::new(&shared.world, &format!("place{n}"))).collect();
    // Each has a library that stays as it is, and in every other round makes the same once more from the store.
    let counts = shared.with_evictors(|process, round| {
        let fresh = format!("fresh{round}");
        let ran = shared.solve(&places[process], process, if round % 2 == 0 { "library" } else { &fresh });
        if round % 2 == 1 {
            fs::remove_dir_all(places[process].path(&fresh)).unwrap();
        }
        ran
    });
    let entries = shared.entries();
    assert!(counts.built.values().all(|n| *n == 1), "{:?}", counts.built);
    assert_eq!((counts.built.len(), counts.sums().1), (entries.len(), 0));
    assert!(places.iter().flat_map(held).all(|key| entries.contains(&key)));
}
