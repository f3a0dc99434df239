//! What the machine refuses: read-only and forbidden stores, quotas, file systems without locks or hard links, names that
//! are too long. Each time there is one error that names the place and the way out, nothing is half published, and the next
//! run is fine; where something is only convenient, the run goes on without it. Full disks are in `full.rs`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::faults::Place;
use crate::world::{FakeR, Mounted, Package, Ran, World, has_r, need_r, skip};

/// A world whose R is a script, and a lockfile of packages that it builds.
struct Scene {
    world: World,
    r: FakeR,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let r = FakeR::working(&world);
        Self { world, r }
    }

    fn lock(&self, version: &str) -> PathBuf {
        let packages = [
            Package::new("aa", version),
            Package::new("bb", version).field("Imports", "aa"),
            Package::new("cc", version),
        ];
        self.world.lock_published(&packages.each_ref())
    }

    fn args(&self, lockfile: &Path, more: &[&str]) -> Vec<String> {
        let args = [lockfile.to_str().unwrap(), "--jobs", "1", "--r", self.r.path.to_str().unwrap()];
        args.iter().chain(more).map(|&arg| arg.to_owned()).collect()
    }

    fn run(&self, place: &Place<'_>, args: &[String]) -> Ran {
        self.world.finish(&mut place.command(args))
    }

    fn run_with_fault(&self, place: &Place<'_>, args: &[String], fault: &str) -> Ran {
        self.world.finish(place.command(args).env("LARDER_FAULT", fault))
    }

    fn n_builds(&self) -> usize {
        self.r.starts().iter().filter(|argument| *argument == "CMD").count()
    }
}

/// Insists on one error, which says all of this.
#[track_caller]
fn one_error(ran: &Ran, says: &[&str]) {
    let errors: Vec<_> = ran.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(ran.code == Some(3) && errors.len() == 1, "exit {:?}\n{}", ran.code, ran.stderr);
    assert!(ran.stderr.contains("hint: ") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
    for words in says {
        assert!(errors[0].contains(words), "no `{words}`: {}", ran.stderr);
    }
}

/// Insists on a store in which nothing is wrong, and nothing but what a run in progress may leave.
#[track_caller]
fn verified(place: &Place<'_>, when: &str) {
    let verified = verify(&place.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
    assert!(verified.findings.is_empty(), "{when}: {:?}", verified.findings);
}

#[test]
fn a_build_that_fills_the_disk_ends_a_run_that_keeps_going_and_what_was_built_stays() {
    let world = World::new();
    let mounted = match Mounted::tmpfs(&world.path("mounted"), "size=4m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    // `head` says what a compiler would, and removes what it began.
    let r = FakeR::new(
        &world,
        "mkdir \"$library/$package\"\n\
         { cat \"$source/DESCRIPTION\"; echo 'Built: R 4.2.2; ; 2000-01-01 00:00:00 UTC; unix'; } \
         > \"$library/$package/DESCRIPTION\"\n\
         if [ $package = large ]; then\n\
         head -c 6000000 /dev/zero > \"$library/$package/big\" || { rm \"$library/$package/big\"; exit 1; }\nfi",
    );
    let packages = [
        Package::new("small", "1.0"),
        Package::new("large", "1.0").field("Imports", "small"),
        Package::new("other", "1.0").field("Imports", "large"),
        Package::new("last", "1.0").field("Imports", "large"),
    ];
    let lockfile = world.lock_published(&packages.each_ref());
    let scene = Scene { world, r };
    let place = Place::at(&scene.world, &mounted.0.join("place"));
    let ran = scene.run(&place, &scene.args(&lockfile, &["--keep-going", "--json"]));
    one_error(&ran, &["no space left for `", "tmpfs at `", " of 4.0 MiB free)", "large: ", "No space left on device"]);
    assert_eq!(ran.outcomes(), "large skipped, last skipped, other skipped, small ingested");
    assert_eq!((ran.because("large"), ran.because("last")), ("no space left".into(), "no space left".into()));
    let finished = &ran.events_of("finished")[0];
    assert_eq!((finished["outcome"].as_str(), finished["counts"]["failed"].as_u64()), (Some("failed"), Some(0)));
    assert!(finished["error"].as_str().unwrap().starts_with("no space left for `"), "{finished}");
    verified(&place, "full");
    assert!(place.library().is_empty());

    mounted.remount("size=20m");
    let ran = scene.run(&place, &scene.args(&lockfile, &["--json"])).ok();
    assert_eq!(ran.outcomes(), "large ingested, last ingested, other ingested, small loaded");
    verified(&place, "with room");
}

#[test]
fn an_r_that_does_not_know_why_it_cannot_write_is_understood() {
    need_r!();
    let world = World::new();
    let mounted = match Mounted::tmpfs(&world.path("mounted"), "size=6m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    // R says `error writing to connection`, and has removed all that it wrote when it ends.
    let large = Package::new("large", "1.0").file("R/data.R", "data <- as.raw(runif(8e6, 0, 255))\n");
    let packages = [
        Package::new("small", "1.0"),
        large.imports(&["small"]),
        Package::new("last", "1.0").field("Imports", "large"),
    ];
    let lockfile = world.lock_published(&packages.each_ref());
    let place = Place::at(&world, &mounted.0.join("place"));
    for more in [&["--plain-install"][..], &[]] {
        let mut args = vec![lockfile.to_str().unwrap(), "--keep-going", "--json"];
        args.extend(more);
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let ran = world.finish(&mut place.command(&args));
        one_error(&ran, &["no space left for `", "tmpfs at `", "large: "]);
        assert!(ran.outcomes().starts_with("large skipped, last skipped, small "), "{}", ran.outcomes());
        verified(&place, "full");
    }
    mounted.remount("size=60m");
    place.ok(&[lockfile.display().to_string()], "with room");
    verified(&place, "with room");
}

#[test]
fn a_read_only_store_serves_what_it_has_and_what_it_lacks_is_told_before_anything_is_built() {
    let scene = Scene::new();
    let mounted = match Mounted::tmpfs(&scene.world.path("mounted"), "size=8m") {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    let place = Place::new(&scene.world, "place");
    fs::create_dir_all(mounted.0.join("store")).unwrap();
    fs_err::os::unix::fs::symlink(mounted.0.join("store"), place.path("store")).unwrap();
    let (old, new) = (scene.lock("1.0"), scene.lock("2.0"));
    place.ok(&scene.args(&old, &[]), "writable");
    let n_builds = scene.n_builds();
    mounted.remount("ro");

    fs::remove_dir_all(place.path("library")).unwrap();
    let ran = scene.run(&place, &scene.args(&old, &["--json"])).ok();
    assert_eq!(ran.outcomes(), "aa loaded, bb loaded, cc loaded");
    let warnings = ran.warnings();
    assert!(warnings.contains("the store is only read: "), "{warnings}");
    assert_eq!(warnings.lines().count(), 1, "{warnings}");
    let before = place.library();

    for more in [&[][..], &["--keep-going"]] {
        let ran = scene.run(&place, &scene.args(&new, more));
        one_error(&ran, &["is on a read-only file system", "tmpfs at `", "3 packages are not known to be in it"]);
    }
    assert_eq!((scene.n_builds(), place.library()), (n_builds, before));
    // What is planned is only read.
    scene
        .run(
            &place,
            &["plan".to_owned()]
                .into_iter()
                .chain(scene.args(&old, &[]))
                .filter(|a| a != "--jobs" && a != "1")
                .collect::<Vec<_>>(),
        )
        .ok();

    mounted.remount("rw");
    place.ok(&scene.args(&new, &[]), "writable again");
    verified(&place, "writable again");
}

#[test]
fn somebody_elses_store_serves_what_it_has_and_what_it_lacks_is_told_before_anything_is_built() {
    let scene = Scene::new();
    let is_possible = Command::new("setpriv").args(["--reuid=65534", "true"]).output();
    if !rustix::process::geteuid().is_root() || !is_possible.is_ok_and(|output| output.status.success()) {
        return skip("only root can become somebody else");
    }
    let place = Place::new(&scene.world, "place");
    let (old, new) = (scene.lock("1.0"), scene.lock("2.0"));
    place.ok(&scene.args(&old, &[]), "as its owner");
    fs::remove_dir_all(place.path("library")).unwrap();
    // The way there, the command itself, and a place for the library.
    fs::set_permissions(scene.world.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let solve = scene.world.path("solve");
    fs::copy(env!("CARGO_BIN_EXE_solve"), &solve).unwrap();
    for dir in ["", "tmp", "home"] {
        fs::set_permissions(place.path(dir), PermissionsExt::from_mode(0o777)).unwrap();
    }
    let starts = scene.world.path("starts");
    fs::set_permissions(starts, PermissionsExt::from_mode(0o666)).unwrap();
    let as_nobody = |args: &[String]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&solve).args(args);
        let like = place.command(&[]);
        command.env_clear().envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        scene.world.finish(command.current_dir(place.path("")))
    };

    let ran = as_nobody(&scene.args(&old, &["--json"])).ok();
    assert_eq!(ran.outcomes(), "aa loaded, bb loaded, cc loaded");
    assert!(ran.warnings().contains("the store is only read: "), "{}", ran.warnings());
    let n_builds = scene.n_builds();
    for more in [&[][..], &["--keep-going"]] {
        one_error(&as_nobody(&scene.args(&new, more)), &["store` may not be written by this user", "3 packages"]);
    }
    assert_eq!(scene.n_builds(), n_builds);
    // A library that belongs to somebody else.
    fs::set_permissions(place.path("library"), PermissionsExt::from_mode(0o755)).unwrap();
    Command::new("chown").args(["-R", "root"]).arg(place.path("library")).status().unwrap();
    one_error(&as_nobody(&scene.args(&old, &[])), &["library` may not be written by this user"]);

    Command::new("rm").arg("-rf").arg(place.path("library")).status().unwrap();
    place.ok(&scene.args(&new, &[]), "as its owner again");
    verified(&place, "as its owner again");
}

#[test]
fn a_store_on_a_full_disk_can_be_made_smaller_and_what_else_is_done_to_it_has_one_error() {
    let scene = Scene::new();
    let mounted = match Mounted::ext4(&scene.world.path("mounted"), 16 << 20) {
        Ok(mounted) => mounted,
        Err(why) => return skip(&format!("no file system can be mounted here ({why})")),
    };
    let place = Place::at(&scene.world, &mounted.0.join("place"));
    let (one, two) = (scene.lock("1.0"), scene.lock("2.0"));
    place.ok(&scene.args(&one, &[]), "with room");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let r = scene.r.path.display();
    let mut export = place.command(&words(&format!("store export --library library --r {r}")));
    let exported = scene.world.write("exported", export.output().unwrap().stdout);
    place.ok(&scene.args(&two, &["--exact"]), "with room");
    fs::remove_dir_all(place.path("library")).unwrap();
    mounted.fill();

    let full = ["no space left for `", "ext4 at `"];
    one_error(&scene.run(&place, &scene.args(&two, &[])), &full);
    let import = || {
        let mut import = place.command(&words(&format!("store import --r {r}")));
        import.stdin(fs::File::open(&exported).unwrap().into_file());
        scene.world.finish(&mut import)
    };
    one_error(&import(), &full);
    // What the hints advise.
    assert!(scene.run(&place, &words("store rm aa --force")).ok().stderr.is_empty());
    mounted.fill();
    let ran = scene.run(&place, &words("store evict --max-size 0 --json")).ok();
    assert!(ran.stdout.contains("\"package\":\"cc\""), "{}", ran.stdout);
    verified(&place, "evicted");

    mounted.remount("ro");
    let read_only = ["store` is on a read-only file system (ext4 at `"];
    place.ok(&words("store verify"), "read-only");
    place.ok(&words("store stats"), "read-only");
    one_error(&import(), &read_only);
    one_error(&scene.run(&place, &scene.args(&one, &[])), &["a read-only file system"]);
    mounted.remount("rw");
    fs::remove_file(mounted.ballast()).unwrap();
    place.ok(&scene.args(&one, &[]), "with room again");
    verified(&place, "with room again");
}

/// Returns the names of the steps of a run in a fresh place.
fn steps(scene: &Scene, args: &[String]) -> Vec<String> {
    let (place, list) = (Place::new(&scene.world, "listed"), scene.world.path("steps"));
    scene.run_with_fault(&place, args, &format!("list:{}", list.display())).ok();
    fs::read_to_string(list).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn where_locks_are_refused_the_run_says_so_and_does_nothing() {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let scene = Scene::new();
    let args = scene.args(&scene.lock("1.0"), &["--keep-going"]);
    let steps = steps(&scene, &args);
    let n_locks = steps.iter().filter(|step| *step == "lock").count();
    assert!(n_locks >= 7, "the library, the gate, the lease, the staging, each build: {n_locks}");
    for error in ["ENOLCK", "EOPNOTSUPP"] {
        let place = Place::new(&scene.world, error);
        let ran = scene.run_with_fault(&place, &args, &format!("{error}@lock"));
        one_error(&ran, &["the file system of `", "refuses locks", " at `/", "library"]);
        for n in 1..=n_locks {
            let place = Place::new(&scene.world, &format!("{error}{n}"));
            let ran = scene.run_with_fault(&place, &args, &format!("{error}@lock:{n}"));
            one_error(
                &ran,
                &["the file system of `", "refuses locks", " at `/", ": the file system refuses locks: ", "(os error "],
            );
            assert!(place.library().is_empty(), "{error} at {n}");
            verified(&place, error);
            place.ok(&args, error);
            assert_eq!(place.leftovers(), Vec::<PathBuf>::new(), "{error} at {n}");
        }
    }
}

#[test]
fn where_hard_links_are_refused_packages_are_copied_and_that_is_told_once() {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let scene = Scene::new();
    let args = scene.args(&scene.lock("1.0"), &["--json"]);
    let clean = Place::new(&scene.world, "clean");
    clean.ok(&args, "clean");
    for (error, is_told) in
        [("EPERM", true), ("EXDEV", true), ("EOPNOTSUPP", true), ("ENOSYS", true), ("EMLINK", false)]
    {
        let place = Place::new(&scene.world, error);
        let ran = scene.run_with_fault(&place, &args, &format!("{error}@link: hard link")).ok();
        // A file that has all the links it may have says nothing of others.
        assert_eq!(ran.warnings().matches("packages were copied").count(), usize::from(is_told), "{error}");
        assert_eq!(place.library(), clean.library(), "{error}");
        // A way that was asked for by name.
        fs::remove_dir_all(place.path("library")).unwrap();
        let more: Vec<_> = args.iter().cloned().chain(["--link".into(), "hardlink".into()]).collect();
        let ran = scene.run_with_fault(&place, &more, &format!("{error}@link: hard link")).ok();
        assert_eq!(ran.warnings().matches("does not allow `hard link`").count(), usize::from(is_told), "{error}");
        verified(&place, error);
    }
}

#[test]
fn whatever_the_machine_refuses_at_any_step_there_is_one_error_and_the_next_run_is_fine() {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let scene = Scene::new();
    let args = scene.args(&scene.lock("1.0"), &["--keep-going", "--link", "copy"]);
    let steps = steps(&scene, &args);
    let clean = Place::new(&scene.world, "clean");
    clean.ok(&args, "clean");
    let mut n_told = 0;
    let errors =
        [("EDQUOT", "quota"), ("EROFS", "read-only"), ("EMFILE", "open"), ("EIO", "fails"), ("ENOSPC", "space")];
    for n in (1..=steps.len()).step_by(3) {
        let (error, word) = errors[n % errors.len()];
        let when = format!("{error} at step {n}, {}", steps[n - 1]);
        let place = Place::new(&scene.world, "place");
        let ran = scene.run_with_fault(&place, &args, &format!("{error}:{n}"));
        if ran.code != Some(0) {
            n_told += 1;
            assert!(ran.code == Some(3), "{when}: {}", ran.stderr);
            one_error(&ran, &[word, " at `/", "(os error "]);
        }
        place.ok(&args, &when);
        assert_eq!(place.library(), clean.library(), "{when}");
        verified(&place, &when);
        assert_eq!(place.leftovers(), Vec::<PathBuf>::new(), "{when}");
        fs::remove_dir_all(place.path("")).unwrap();
    }
    println!("{n_told} of {} steps ended the run", steps.len().div_ceil(3));
    assert!(n_told > steps.len() / 9, "{n_told} of {}", steps.len());
}

#[test]
fn a_process_that_may_open_few_files_says_so() {
    let scene = Scene::new();
    let args = scene.args(&scene.lock("1.0"), &[]);
    let mut n_told = 0;
    for limit in [8, 12, 14, 16, 18, 20, 22, 24, 28, 32, 40, 64, 101, 102] {
        let place = Place::new(&scene.world, &format!("with {limit}"));
        let solve = place.command(&args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$@\"")).arg("sh");
        command.arg(solve.get_program()).args(solve.get_args()).env_clear();
        command.envs(solve.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir(place.path(""));
        let ran = scene.world.finish(&mut command);
        if ran.code != Some(0) {
            assert!(ran.code == Some(3) && !ran.stderr.contains("panicked"), "{limit}: {:?} {}", ran.code, ran.stderr);
        }
        if ran.stderr.contains("finished and kept in the store") {
            n_told += 1;
            one_error(&ran, &["too many files are open while working in `", "(os error 24)"]);
        }
        place.ok(&args, "with enough");
        verified(&place, "with enough");
    }
    assert!(n_told > 0);
}

#[test]
fn names_and_paths_that_are_too_long_are_told_by_what_is_too_long() {
    let scene = Scene::new();
    // A package whose name no file system takes.
    let place = Place::new(&scene.world, "place");
    let lockfile = scene.world.lock_published(&[&Package::new(&"a".repeat(300), "1.0")]);
    let ran = scene.run(&place, &scene.args(&lockfile, &[]));
    assert!(ran.code == Some(2) && ran.stderr.contains("at most 100 characters"), "{:?} {}", ran.code, ran.stderr);
    let lockfile = scene.world.lock_published(&[&Package::new("aa", &"1".repeat(300))]);
    let ran = scene.run(&place, &scene.args(&lockfile, &[]));
    assert!(ran.code == Some(2) && ran.stderr.contains("is not a version"), "{:?} {}", ran.code, ran.stderr);

    let long = |place: &Place<'_>, length: usize| {
        let mut path = place.path("");
        while path.as_os_str().len() < length {
            let left = length - path.as_os_str().len();
            path.push("x".repeat(left.min(200)));
        }
        path.display().to_string()
    };
    let lockfile = scene.lock("1.0");
    for length in [4080, 4300] {
        let ran = scene.run(&place, &scene.args(&lockfile, &["--library", &long(&place, length)]));
        one_error(&ran, &["File name too long"]);
        let ran = scene.run(&place, &scene.args(&lockfile, &["--store", &long(&place, length)]));
        one_error(&ran, &["File name too long"]);
    }
    let ran = scene.run(&place, &scene.args(&lockfile, &["--store", &long(&place, 3600)]));
    one_error(&ran, &["the path `", "` is too long", "File name too long"]);
    // Deep, but not too deep.
    let deep = long(&place, 2000);
    place.ok(&scene.args(&lockfile, &["--store", &deep, "--library", &long(&place, 2001)]), "deep");
    place.ok(&scene.args(&lockfile, &[]), "nearby");
    verified(&place, "nearby");
}

#[test]
fn a_member_of_an_archive_may_have_a_name_as_long_as_the_file_system_takes() {
    let scene = Scene::new();
    for (length, is_good) in [(255, true), (256, false)] {
        let place = Place::new(&scene.world, &length.to_string());
        let package = Package::new("aa", "1.0").file(&format!("inst/{}", "x".repeat(length)), "x");
        let other = Package::new("bb", "1.0");
        let lockfile = scene.world.lock_published(&[&package, &other]);
        let ran = scene.run(&place, &scene.args(&lockfile, &["--keep-going", "--json"]));
        if is_good {
            ran.ok();
        } else {
            // This is about one package: the other one is built.
            assert_eq!(ran.outcomes(), "aa failed, bb ingested");
            assert!(ran.error("aa").contains("xxx") && ran.error("aa").contains("too long"), "{}", ran.error("aa"));
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
        }
        verified(&place, "long names");
        assert_eq!(place.leftovers(), Vec::<PathBuf>::new(), "{length}");
    }
}

#[test]
fn without_a_home_or_a_place_for_temporary_files_a_run_is_fine() {
    let scene = Scene::new();
    let args = scene.args(&scene.lock("1.0"), &[]);
    let place = Place::new(&scene.world, "place");
    let full = Mounted::tmpfs(&scene.world.path("mounted"), "size=64k,nr_inodes=1");
    let full = full.map_or_else(
        |why| {
            skip(&format!("a full TMPDIR: {why}"));
            place.path("none")
        },
        |full| {
            let dir = full.0.clone();
            std::mem::forget(full);
            dir
        },
    );
    let file = scene.world.write("file", "");
    for dir in ["/proc".into(), scene.world.path("missing"), file, full.clone()] {
        let _ = fs::remove_dir_all(place.path("library"));
        let _ = fs::remove_dir_all(place.path("store"));
        scene.world.finish(place.command(&args).env("TMPDIR", &dir).env("HOME", &dir)).ok();
        verified(&place, &dir.display().to_string());
    }
    if has_r() {
        let mut doctor = scene.world.command();
        let doctor = doctor.args(["doctor", "--store"]).arg(place.path("fresh")).env("TMPDIR", &full);
        let ran = scene.world.finish(doctor);
        assert!(ran.stdout.contains("platform"), "{}\n{}", ran.stdout, ran.stderr);
    }
    let _ = Command::new("umount").arg("-l").arg(&full).output();
    // The store itself is there by default.
    let ran = scene.world.finish(place.command(&args).env_remove("LARDER_STORE").env("HOME", "/proc"));
    assert!(ran.code == Some(3) && ran.stderr.contains("/proc/.cache"), "{:?} {}", ran.code, ran.stderr);
}
