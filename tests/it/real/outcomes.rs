//! The ways a package ends well: ingested, kept, loaded, recompiled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use fs_err as fs;

use super::events::set;
use super::processes::{on_path, r, started};
use super::trees::{changed, listing};
use super::world::{LINKS_TO_RCPP, Upgraded, World, cold, skip, text, upgraded};

#[test]
fn a_cold_run_builds_every_package_and_the_library_loads() {
    let name = "a_cold_run_builds_every_package_and_the_library_loads";
    let Some(real) = World::empty(name).map(|world| world.real) else { return };
    let (world, ran) = cold(real);
    let lock = world.lock("real");
    ran.all(&[("ingested", &lock.packages())]);
    assert_eq!(loads(world), lock.packages());

    // What the record says, the plan says too, and the run said.
    let plan = world.command(&["plan"]).lockfile(&lock).run();
    let planned = plan.events.iter().filter(|event| event["reason"] == "plan-vertex");
    let planned: BTreeMap<_, _> = planned.map(|vertex| (text(&vertex["package"]), reference(vertex))).collect();
    assert_eq!(world.record(), planned);
    for (package, reference) in &planned {
        assert_eq!(ran.event(package)["key"], **reference);
        let log = text(&ran.event(package)["log"]);
        assert!(Path::new(&log).is_file(), "{log}");
    }

    // Where it came from, as renv and sessioninfo read it: from `Meta/package.rds`, and from DESCRIPTION.
    let rds = "for (p in rownames(installed.packages('LIB')))
                   cat(p, packageDescription(p, 'LIB')$RemoteType, packageDescription(p, 'LIB')$RemoteSha, '\n')";
    let rds = r(real, &rds.replace("LIB", world.library().to_str().unwrap()));
    let rds: BTreeSet<&str> = rds.lines().map(str::trim_end).collect();
    for package in lock.packages() {
        let [kind, sha] = ["RemoteType", "RemoteSha"].map(|field| text(&lock.entry(&package)["metadata"][field]));
        assert!(rds.contains(&*format!("{package} {kind} {sha}")), "{package}: {rds:?}");
        let description = fs::read_to_string(world.library().join(&package).join("DESCRIPTION")).unwrap();
        assert!(description.contains(&format!("\nRemoteType: {kind}\n")), "{description}");
        assert!(description.contains(&format!("\nRemoteSha: {sha}\n")), "{description}");
    }
}

#[test]
fn a_second_run_keeps_everything_starts_no_program_and_changes_no_file() {
    let name = "a_second_run_keeps_everything_starts_no_program_and_changes_no_file";
    let Some(world) = World::full(name) else { return };
    let lock = world.lock("real");
    world.solve(&lock).run().all(&[("loaded", &lock.packages())]);

    // Sidecars are left out: the time of their last change says when an entry was last used. A run's lease is there
    // while it runs, and the library's lock says who had it last.
    let is_sidecar = |path: &Path| path.file_stem().is_some_and(|stem| stem.len() == 64) && path.extension().is_some();
    let is_left_out = |path: &Path| is_sidecar(path) || [".leases", ".larder/lock"].map(Path::new).contains(&path);
    let files =
        || ["home", "tmp", "library", "store"].map(|part| listing(&world.dir.join(part), |path| !is_left_out(path)));
    let before = files();
    let ran = world.solve(&lock).run();
    ran.all(&[("kept", &lock.packages())]);
    let after = files();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(changed(before, after), Vec::<&Path>::new());
    }
    assert_eq!(world.server.requests().len(), 0);
    eprintln!("no-op: {:.3} s", ran.seconds);

    if let Some(strace) = on_path("strace", &world.real.path) {
        world.solve(&lock).traced(&strace).run().all(&[("kept", &lock.packages())]);
        assert_eq!(started(&world), [world.real.solve.to_str().unwrap()]);
    } else {
        skip(name, "there is no strace, so started programs are not seen");
    }
}

#[test]
fn a_deleted_library_comes_back_from_the_store_without_r_and_compilers() {
    let name = "a_deleted_library_comes_back_from_the_store_without_r_and_compilers";
    let Some(world) = World::full(name) else { return };
    let lock = world.lock("real");
    let solve = || world.solve(&lock).arg("--r").arg(&world.real.r).path("/nonexistent");
    let ran = solve().run();
    ran.all(&[("loaded", &lock.packages())]);
    eprintln!("warm: {:.3} s", ran.seconds);
    assert_eq!(world.record(), cold(world.real).0.record());
    assert_eq!(loads(&world), lock.packages());
    assert_eq!(world.server.requests().len(), 0);

    if let Some(strace) = on_path("strace", &world.real.path) {
        fs::remove_dir_all(world.library()).unwrap();
        solve().traced(&strace).run().all(&[("loaded", &lock.packages())]);
        assert_eq!(started(&world), [world.real.solve.to_str().unwrap()]);
    } else {
        skip(name, "there is no strace, so started programs are not seen");
    }
}

#[test]
fn an_upgrade_recompiles_what_links_to_it_and_the_way_back_compiles_nothing() {
    let name = "an_upgrade_recompiles_what_links_to_it_and_the_way_back_compiles_nothing";
    let Some(real) = World::empty(name).map(|world| world.real) else { return };
    let Upgraded { world, cold: loaded, ran, .. } = upgraded(real);
    let (old, new) = (world.lock("real"), world.lock("upgrade"));
    loaded.all(&[("loaded", &old.packages())]);
    let (rcpp, linking) = (set(&["Rcpp"]), set(&LINKS_TO_RCPP));
    let changed: BTreeSet<String> = rcpp.union(&linking).cloned().collect();
    let unchanged: BTreeSet<String> = old.packages().difference(&changed).cloned().collect();

    ran.all(&[("ingested", &rcpp), ("recompiled", &linking), ("kept", &unchanged)]);
    eprintln!("upgrade: {:.1} s", ran.seconds);
    let versions = [&old, &new].map(|lock| text(&lock.entry("Rcpp")["version"]));
    for package in LINKS_TO_RCPP {
        let because = text(&ran.event(package)["because"]);
        assert!(because.contains("Rcpp"), "{package}: {because}");
        assert!(versions.iter().all(|version| because.contains(version)), "{package}: {because}");
    }
    assert_eq!(loads(world), new.packages());

    let back = world.solve(&old).run();
    back.all(&[("loaded", &changed), ("kept", &unchanged)]);
    assert_eq!(world.record(), cold(real).0.record());
    assert_eq!(loads(world), old.packages());
}

#[test]
fn blanks_in_paths_do_no_harm() {
    let Some(world) = World::empty("blanks in paths do no harm") else { return };
    let lock = world.lock("real").only(&["magrittr"]);
    world.solve(&lock).run().all(&[("ingested", &lock.packages())]);
    assert_eq!(loads(&world), lock.packages());
}

/// Attaches every package of a library in one R, as the issue says it must be possible, and returns their names.
#[track_caller]
pub(super) fn loads(world: &World) -> BTreeSet<String> {
    let code = "for (p in rownames(installed.packages('LIB'))) library(p, lib.loc = 'LIB', character.only = TRUE)
                writeLines(rownames(installed.packages('LIB')))";
    r(world.real, &code.replace("LIB", world.library().to_str().unwrap())).lines().map(str::to_owned).collect()
}

fn reference(vertex: &serde_json::Value) -> String {
    format!("{}/{}", text(&vertex["source_hash"]), text(&vertex["config_hash"]))
}
