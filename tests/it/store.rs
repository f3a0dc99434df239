//! What the store holds and how, what it makes good, and what several processes may do to it at once.

use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::world::{Package, World, items, need_r};

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn all_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    let mut at = 0;
    while at < all.len() {
        let items = if all[at].is_dir() { items(&all[at]) } else { Vec::new() };
        all.extend(items);
        at += 1;
    }
    all
}

#[test]
fn trees_are_read_only_and_complete() {
    need_r!();
    let world = World::new();
    let package = Package::new("demo", "1.0").executable("inst/bin/tool", "#!/bin/sh\n").file("inst/data.txt", "x");
    world.solve(&world.lock_published(&[&package]), &[]).ok();
    let tree = &world.trees("demo")[0];
    for path in all_below(tree) {
        let metadata = path.symlink_metadata().unwrap();
        let expected: &[u32] = if metadata.is_dir() { &[0o755] } else { &[0o444, 0o555] };
        assert!(expected.contains(&(metadata.mode() & 0o777)), "{}: {:o}", path.display(), metadata.mode());
    }
    assert_eq!(tree.join("bin/tool").metadata().unwrap().mode() & 0o777, 0o555);
    assert_eq!(tree.join("data.txt").metadata().unwrap().mode() & 0o777, 0o444);
    assert!(tree.join("Meta/package.rds").is_file());
    assert_eq!(world.items("store/.staging"), Vec::<PathBuf>::new(), "staging is left empty");
}

#[test]
fn records_have_the_shape_that_others_read() {
    need_r!();
    let world = World::new();
    let hdr = world.publish(&Package::header("hdr", "1.0", 1));
    let lnk = world.publish(&Package::linker("lnk", "2.0", "hdr"));
    let ran = world.solve(&world.lock([hdr, lnk]), &[]).ok();
    let key = ran.of("lnk")["key"].as_str().unwrap().to_owned();
    let (source, config) = key.split_once('/').unwrap();
    let hdr = ran.of("hdr")["key"].as_str().unwrap().split_once('/').unwrap().0.to_owned();

    let place = world.platform_dir().join("lnk").join(source);
    let names: Vec<_> =
        items(&place).iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(
        names,
        [config.to_owned(), format!("{config}.files"), format!("{config}.json"), "configs.json".to_owned()]
    );
    assert_eq!(
        json_of(&place.join("configs.json")),
        json!({"source_compiled": true, "linkingto": ["hdr"], "configs": {config: {"hdr": hdr}}})
    );
    let sidecar = json_of(&place.join(format!("{config}.json")));
    assert!(sidecar["created_at"].as_str().unwrap().ends_with('Z'), "{sidecar}");
    assert_eq!((&sidecar["package"], &sidecar["version"]), (&json!("lnk"), &json!("2.0")));
    assert_eq!(sidecar["config"], json!({"hdr": hdr}));
    assert_eq!(sidecar["linked"]["hdr"]["version"], json!("1.0"));
    assert!(sidecar["build_ms"].as_u64().unwrap() > 0);

    let platform = json_of(&world.platform_dir().join("platform.json"));
    assert_eq!(platform["platform"].as_str(), world.platform_dir().file_name().unwrap().to_str());
    assert!(platform["description"].to_string().contains("CFLAGS"));
    assert_eq!(world.record(), json!({"hdr": format!("{hdr}/{}", empty()), "lnk": key}));
}

/// The config hash of what links to nothing.
fn empty() -> String {
    larder_ops::digest::Sha256Digest::of(b"").to_string()
}

#[test]
fn last_use_is_recorded() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    let sidecar = world.trees("demo")[0].with_extension("json");
    let long_ago = std::time::SystemTime::UNIX_EPOCH;
    fs::File::options().append(true).open(&sidecar).unwrap().file().set_modified(long_ago).unwrap();
    assert_eq!(world.solve(&lock, &["--library", "other"]).ok().outcomes(), "demo loaded");
    assert_ne!(sidecar.metadata().unwrap().modified().unwrap(), long_ago);
}

#[test]
fn a_tree_without_its_record_is_built_again() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    let tree = world.trees("demo")[0].clone();
    fs::remove_file(tree.with_extension("json")).unwrap();
    fs::remove_file(tree.join("DESCRIPTION")).unwrap();
    let ran = world.solve(&lock, &["--library", "other"]).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert!(tree.join("DESCRIPTION").is_file() && tree.with_extension("json").is_file());
    assert_eq!(world.solve(&lock, &["--library", "third"]).ok().outcomes(), "demo loaded");
}

#[test]
fn a_record_whose_tree_is_gone_is_a_miss() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    fs::remove_dir_all(&world.trees("demo")[0]).unwrap();
    assert_eq!(world.solve(&lock, &["--library", "other"]).ok().outcomes(), "demo ingested");
}

#[test]
fn a_damaged_list_of_configurations_is_made_good() {
    need_r!();
    let world = World::new();
    let lnk = Package::linker("lnk", "2.0", "hdr");
    let old = [world.publish(&Package::header("hdr", "1.0", 1)), world.publish(&lnk)];
    world.solve(&world.lock(old.clone()), &[]).ok();
    let configs = world.trees("lnk")[0].with_file_name("configs.json");
    fs::write(&configs, "{\"source_compiled\": tr").unwrap();
    assert_eq!(world.solve(&world.lock(old), &["--library", "other"]).ok().outcomes(), "hdr loaded, lnk loaded");
    let new = [world.publish(&Package::header("hdr", "1.1", 2)), world.publish(&lnk)];
    assert_eq!(world.solve(&world.lock(new), &[]).ok().outcomes(), "hdr ingested, lnk recompiled");
    assert_eq!(json_of(&configs)["configs"].as_object().unwrap().len(), 2, "nothing that was known is lost");
}

#[test]
fn two_processes_build_a_package_once() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let both = ["one", "two"].map(|library| world.start(&lock, &["--library", library]));
    let mut outcomes = both.map(|run| run.finish().ok().outcomes());
    outcomes.sort();
    assert_eq!(outcomes, ["demo ingested", "demo loaded"]);
    assert_eq!(world.items("store/logs/demo").len(), 1);
    assert!(world.has("one/demo/DESCRIPTION") && world.has("two/demo/DESCRIPTION"));
}

/// A package whose build tells `told` that it runs, and then waits until something is written to `waits`.
fn waiting(told: &Path, waits: &Path) -> Package {
    let script = format!("echo running > '{}'\nread line < '{}'", told.display(), waits.display());
    Package::configured("slow", "1.0", &script)
}

#[test]
fn staging_of_the_living_stays_and_of_the_dead_goes() {
    need_r!();
    let world = World::new();
    let (told, waits) = (world.fifo("told"), world.fifo("waits"));
    let slow = world.lock_published(&[&waiting(&told, &waits)]);
    let quick = world.lock_published(&[&Package::new("quick", "1.0")]);
    let release = || fs::OpenOptions::new().write(true).open(&waits).unwrap().write_all(b"go\n").unwrap();

    let run = world.start(&slow, &[]);
    fs::read_to_string(&told).unwrap();
    let staged = world.items("store/.staging");
    assert_eq!(staged.len(), 1);
    world.solve(&quick, &["--library", "other"]).ok();
    assert!(staged[0].is_dir(), "a build that runs keeps its place");
    release();
    assert_eq!(run.finish().ok().outcomes(), "slow ingested");

    let run = world.start(&slow, &["--rebuild", "slow"]);
    fs::read_to_string(&told).unwrap();
    let staged = world.items("store/.staging");
    run.signal(Signal::KILL);
    assert_eq!(run.finish().code, None);
    // Its build ends with it, or goes on with this: nobody may be there to read it.
    if let Ok(waits) = rustix::fs::open(&waits, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()) {
        let _ = rustix::io::write(&waits, b"go\n");
    }
    assert!(staged[0].is_dir());
    world.solve(&quick, &["--library", "other", "--rebuild", "quick"]).ok();
    assert!(!staged[0].exists(), "what a dead process left is swept");
    assert_eq!(world.solve(&slow, &[]).ok().outcomes(), "slow kept");
}

#[test]
fn d13_a_build_that_fails_leaves_no_directory_behind() {
    need_r!();
    let world = World::new();
    let script = "#!/bin/sh\nmkdir -p deep/er && echo x > deep/er/file && chmod 0500 deep && exit 1\n";
    let bad = world.lock_published(&[&Package::configured("bad", "1.0", script), &Package::new("good", "1.0")]);
    let ran = world.solve(&bad, &["--keep-going"]).exits(1);
    assert_eq!(ran.outcomes(), "bad failed, good ingested");
    for dir in ["store/.staging", "store/.locks/staging", "tmp"] {
        assert!(world.items(dir).is_empty(), "{dir}: {:?}", world.items(dir));
    }
}

#[test]
fn a_store_that_cannot_be_made_is_an_error_of_the_machine() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.write("file", "x");
    let ran = world.solve(&lock, &["--store", "file/store"]).exits(3);
    assert!(ran.stderr.contains("file/store"), "{}", ran.stderr);
    assert!(!world.has("library/demo"));
}

#[test]
fn a_store_that_cannot_be_written_still_serves() {
    need_r!();
    let world = World::new();
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    world.solve(&lock, &[]).ok();
    for path in all_below(&world.path("store")).into_iter().filter(|path| path.is_dir()) {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o555)).unwrap();
    }
    let ran = world.solve(&lock, &["--library", "other"]).ok();
    for path in all_below(&world.path("store")).into_iter().filter(|path| path.is_dir()) {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    assert_eq!(ran.outcomes(), "demo loaded");
}
