//! R is asked once what it is, and not started at all when there is nothing to build.

use std::time::{Duration, SystemTime};

use crate::world::{FakeR, Package, World};

#[test]
fn r_is_asked_once_what_it_is() {
    let world = World::new();
    let r = FakeR::working(&world);
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let args = ["--dry-run", "--r", r.path.to_str().unwrap()];
    for _ in 0..3 {
        world.solve(&lock, &args).ok();
    }
    assert_eq!(r.starts().len(), 1);
    let file = fs_err::File::options().append(true).open(&r.path).unwrap();
    file.file().set_modified(SystemTime::now() + Duration::from_mins(1)).unwrap();
    drop(file);
    world.solve(&lock, &args).ok();
    assert_eq!(r.starts().len(), 2, "another R may have taken its place");
    world.write("r/etc/Makeconf", "CC = sh\nCXX = sh\nCFLAGS = -O3\n");
    let before = world.solve(&lock, &args).ok();
    assert_eq!(r.starts().len(), 3, "its compilers may have changed");
    world.write("r/etc/Makeconf", "CC = sh\nCXX = sh\nCFLAGS = -O3 -g0\n");
    let after = world.solve(&lock, &args).ok();
    assert_ne!(before.events()[0]["platform"], after.events()[0]["platform"], "flags are part of the platform");
}

#[test]
fn a_warm_run_starts_no_r() {
    let world = World::new();
    let r = FakeR::working(&world);
    let packages = [Package::new("aa", "1.0"), Package::new("bb", "1.0").field("Imports", "aa")];
    let lock = world.lock_published(&packages.each_ref());
    let args = ["--r", r.path.to_str().unwrap()];
    assert_eq!(world.solve(&lock, &args).ok().outcomes(), "aa ingested, bb ingested");
    let n = r.starts().len();
    assert_eq!(n, 3, "the probe and two builds: {:?}", r.starts());
    fs_err::remove_dir_all(world.path("library")).unwrap();
    assert_eq!(world.solve(&lock, &args).ok().outcomes(), "aa loaded, bb loaded");
    assert_eq!(world.solve(&lock, &args).ok().outcomes(), "aa kept, bb kept");
    assert_eq!(r.starts().len(), n);
    assert_eq!(world.server.requests().len(), 2, "and asks no server");
}

#[test]
fn an_r_that_is_another_has_a_store_of_its_own() {
    let world = World::new();
    let r = FakeR::working(&world);
    let lock = world.lock_published(&[&Package::new("demo", "1.0")]);
    let args = ["--r", r.path.to_str().unwrap()];
    world.solve(&lock, &args).ok();
    let script = fs_err::read_to_string(&r.path).unwrap().replace("4.2.2", "4.3.0");
    fs_err::write(&r.path, script).unwrap();
    let ran = world.solve(&lock, &args).ok();
    assert_eq!(ran.outcomes(), "demo ingested");
    assert!(ran.events()[0]["platform"].as_str().unwrap().starts_with("4.3-"));
}
