//! Packages on their way to a machine without network.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use fs_err as fs;

use crate::world::{Package, Ran, World, need_r};

fn lock(world: &World) -> std::path::PathBuf {
    world.lock_published(&[
        &Package::header("hdr", "1.0", 1),
        &Package::linker("lnk", "2.0", "hdr"),
        &Package::new("top", "3.0").imports(&["lnk"]),
        &Package::new("alone", "1.0"),
    ])
}

#[expect(clippy::disallowed_methods, reason = "only this kind of file can become a process's input or output")]
fn export(world: &World, args: &[&str], to: &Path) -> Ran {
    let file = File::create(to).unwrap();
    let mut command = world.command();
    let output = command.args(["store", "export"]).args(args).stdout(file).stderr(Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    world.ran(&output)
}

#[expect(clippy::disallowed_methods, reason = "only this kind of file can become a process's input or output")]
fn import(world: &World, from: &Path) -> Ran {
    world.finish(world.command().args(["store", "import", "--store", "elsewhere"]).stdin(File::open(from).unwrap()))
}

#[test]
fn an_empty_store_without_network_and_sources_gets_all_that_a_lockfile_needs() {
    need_r!();
    let world = World::new();
    let lock = lock(&world);
    world.solve(&lock, &[]).ok();
    let file = world.path("all.larder");
    let ran = export(&world, &["--lockfile", lock.to_str().unwrap()], &file).ok();
    assert_eq!(ran.stderr, "store: 4 packages exported\n");
    let ran = import(&world, &file).ok();
    assert_eq!(ran.stdout, "store: 4 packages imported, 0 were there\n");
    assert_eq!(import(&world, &file).ok().stdout, "store: 0 packages imported, 4 were there\n");
    let there = ["--offline", "--store", "elsewhere", "--library", "there"];
    let ran = world.solve(&lock, &there).ok();
    assert_eq!(ran.outcomes(), "alone loaded, hdr loaded, lnk loaded, top loaded");
    assert!(!world.has("elsewhere/blobs/sha256") || world.items("elsewhere/blobs/sha256").is_empty());
    world.run(["store", "verify", "--store", "elsewhere"]).ok();
}

#[test]
fn a_package_comes_with_what_it_needs_and_nothing_else() {
    need_r!();
    let world = World::new();
    let lock = lock(&world);
    world.solve(&lock, &[]).ok();
    for args in [&["top"][..], &["top", "--library", "library"], &["top", "--lockfile", lock.to_str().unwrap()]] {
        let file = world.path("top.larder");
        assert_eq!(export(&world, args, &file).ok().stderr, "store: 3 packages exported\n", "{args:?}");
        let _ = fs::remove_dir_all(world.path("elsewhere"));
        import(&world, &file).ok();
        let offline = ["--offline", "--store", "elsewhere", "--library", "there"];
        let ran = world.solve(&lock, &offline).exits(3);
        assert!(ran.stderr.contains("1 package is neither stored") && ran.stderr.contains("alone"), "{}", ran.stderr);
    }
    let ran = export(&world, &["absent"], &world.path("absent.larder")).exits(2);
    assert!(ran.stderr.contains("not in the store for this platform: absent"), "{}", ran.stderr);
}

#[test]
fn a_damaged_export_is_refused_whole() {
    need_r!();
    let world = World::new();
    let lock = lock(&world);
    world.solve(&lock, &[]).ok();
    let file = world.path("all.larder");
    export(&world, &["--library", "library"], &file).ok();
    let bytes = fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 8;
    for damaged in [&bytes[..bytes.len() - 7], &flipped, b"", b"{}"] {
        let file = world.write("damaged.larder", damaged);
        let ran = import(&world, &file).exits(2);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        assert!(world.items("elsewhere").iter().all(|path| path.file_name().unwrap().as_encoded_bytes()[0] == b'.'));
    }
}
