//! A disk that is full, at twenty different fill levels: the error says so, nothing is half-done, and once there is room
//! again the next run is fine.

use std::path::PathBuf;

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::faults::Place;
use crate::world::{FakeR, Mounted, Package, World, skip};

const LEVELS: u64 = 20;

/// Runs with too little room for what `inside` says, at every level.
#[expect(clippy::print_stdout, reason = "counts, for whoever looks")]
fn fill(is_inside: fn(&str) -> bool) {
    let world = World::new();
    let r = FakeR::working(&world);
    let noise: String =
        (0..60_000_u32).map(|n| char::from(b'a' + (n.wrapping_mul(2_654_435_761) >> 27) as u8 % 26)).collect();
    let built = |name: &str| {
        let package = Package::new(name, "1.0").field("Built", "R 4.2.2; ; 2024-01-01 00:00:00 UTC; unix");
        package.file("R/noise", &noise).file("data/noise", &noise)
    };
    let packages = [built("aa"), built("bb"), Package::new("cc", "1.0").field("Imports", "aa"), built("dd")];
    let lockfile = world.lock_published(&packages.each_ref());
    let args = [lockfile.to_str().unwrap(), "--jobs", "1", "--link", "copy", "--r", r.path.to_str().unwrap()];
    let args = args.map(str::to_owned);
    let mounted = match Mounted::tmpfs(&world.path("mounted"), "size=8m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    let total = mounted.free();
    // What the file system does not hold lies beside it.
    let place = || {
        let place = Place::at(&world, &world.path("beside"));
        for part in ["store", "library", "tmp"] {
            let _ = fs::remove_dir_all(place.path(part));
            let _ = fs::remove_file(place.path(part));
            if is_inside(part) {
                let _ = fs::remove_dir_all(mounted.0.join(part));
                fs::create_dir(mounted.0.join(part)).unwrap();
                fs_err::os::unix::fs::symlink(mounted.0.join(part), place.path(part)).unwrap();
            }
        }
        fs::create_dir_all(place.path("tmp")).unwrap();
        place
    };
    let clean = place();
    clean.ok(&args, "with room");
    let (expected, used) = (clean.library(), total - mounted.free());
    let mut n_full = 0;
    for level in 0..LEVELS {
        let (place, when) = (place(), format!("{level}/{LEVELS} of what is needed"));
        mounted.leave(used * level / LEVELS);
        let output = place.command(&args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            assert_eq!(place.library(), expected, "{when}");
        } else {
            n_full += 1;
            assert_eq!(output.status.code(), Some(3), "{when}: {said}");
            assert_eq!(said.matches("No space left on device").count(), 1, "{when}: {said}");
            let errors: Vec<_> = said.lines().filter(|line| line.starts_with("error: ")).collect();
            assert!(errors.len() == 1 && errors[0].starts_with("error: no space left for `"), "{when}: {said}");
            assert!(
                errors[0].contains(" of 8.0 MiB free") && said.contains("hint: free some space there"),
                "{when}: {said}"
            );
            assert!(place.library().is_empty(), "{when}: the library changes as a whole or not at all");
        }
        fs::remove_file(mounted.ballast()).unwrap();
        let verified = verify(&place.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
        assert!(verified.findings.is_empty(), "{when}: {:?}", verified.findings);
        place.ok(&args, &when);
        assert_eq!(place.library(), expected, "{when}");
        let verified = verify(&place.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
        assert!(verified.findings.is_empty(), "{when}: {:?}", verified.findings);
        assert_eq!(place.leftovers(), Vec::<PathBuf>::new(), "{when}");
    }
    println!("full at {n_full} of {LEVELS} levels");
    assert!(n_full >= 15, "{n_full}");
}

#[test]
fn with_the_store_on_a_full_disk_nothing_is_half_done() {
    fill(|part| part == "store");
}

#[test]
fn with_the_library_on_a_full_disk_nothing_is_half_done() {
    fill(|part| part == "library");
}

#[test]
fn with_everything_on_a_full_disk_nothing_is_half_done() {
    fill(|_| true);
}
