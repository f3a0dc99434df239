//! Many processes on one store, for many rounds, with lockfiles that overlap: nothing fails, nothing is built twice,
//! and in the end everything is whole.

use std::collections::BTreeMap;
use std::path::PathBuf;

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::faults::Place;
use crate::world::{FakeR, Package, World};

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
    // In each release the packages from some number on are new, so that lockfiles share most of what they have.
    let releases = 6;
    let lockfiles: Vec<PathBuf> = (0..releases)
        .map(|release| {
            let packages: Vec<_> =
                (0..12).map(|n| package(n, if n * releases / 12 < release { release } else { 0 })).collect();
            world.lock_published(&packages.iter().collect::<Vec<_>>())
        })
        .collect();
    let run = |process: usize| {
        // Two of them at a time have one library.
        let place = Place::new(&world, &format!("place{}", process / 2));
        for round in 0..n_rounds() {
            let lockfile = &lockfiles[(round * (process + 1) + process) % releases];
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
