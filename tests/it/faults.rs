//! A run that dies before any of its steps on the disk, or to which the disk says no there: what it leaves, the next
//! run puts right, and the store is as it would have been.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;
use larder_ops::store::verify::{self, verify};

use crate::world::{FakeR, Package, World, items, skip};

/// A store and a library of their own in a world that has packages for several.
pub(crate) struct Place<'a> {
    world: &'a World,
    dir: PathBuf,
    /// What commands read.
    stdin: Option<PathBuf>,
}

impl<'a> Place<'a> {
    pub(crate) fn new(world: &'a World, dir: &str) -> Self {
        Self::at(world, &world.path(dir))
    }

    /// As [`Place::new`], anywhere.
    pub(crate) fn at(world: &'a World, dir: &Path) -> Self {
        let dir = dir.to_owned();
        for part in ["tmp", "home"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        Self { world, dir, stdin: None }
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// Makes this place what another one is, hard links included.
    fn become_like(&self, other: &Self) {
        let status = Command::new("rm").arg("-rf").arg(&self.dir).status().unwrap();
        assert!(status.success());
        let status = Command::new("cp").arg("-a").arg(&other.dir).arg(&self.dir).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn command(&self, args: &[String]) -> Command {
        let mut command = self.world.command();
        command
            .args(args)
            .env("LARDER_STORE", self.path("store"))
            .env("LARDER_LIBRARY", self.path("library"))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .current_dir(&self.dir);
        if let Some(stdin) = &self.stdin {
            command.stdin(fs::File::open(stdin).unwrap().into_file());
        }
        command
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[String], when: &str) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "{when}: {args:?}: {}", shown(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What R sees: every file of every package, and the record.
    pub(crate) fn library(&self) -> BTreeMap<String, String> {
        let root = self.path("library");
        let mut found = BTreeMap::new();
        for path in items(&root).into_iter().filter(|path| !path.ends_with(".larder")) {
            for path in tree(&path) {
                if !path.is_dir() {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    found.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
                }
            }
        }
        found
    }

    /// What the store has: the names of its entries and of their files.
    fn store(&self) -> Vec<String> {
        let root = self.path("store");
        let platforms = items(&root).into_iter().filter(|path| path.join("platform.json").exists());
        platforms
            .flat_map(|path| tree(&path))
            .map(|path| path.strip_prefix(&root).unwrap().display().to_string())
            .collect()
    }

    /// What nobody needs any more.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        let mut left = items(&self.path("store/.staging"));
        left.extend(items(&self.path("store/.locks/staging")));
        left.extend(items(&self.path("library/.larder/staging")));
        for dir in [&self.dir, &self.path("library/.larder")] {
            let names = ["pending.json", "unfinished", "next"];
            left.extend(items(dir).into_iter().filter(|path| names.iter().any(|name| path.ends_with(name))));
        }
        left.extend(items(&self.path("tmp")));
        for dir in [self.path(""), self.path("library"), self.path("library/.larder"), self.path("store/blobs/partial")]
        {
            left.extend(items(&dir).into_iter().filter(|path| path.to_string_lossy().contains("/.tmp-")));
        }
        left
    }
}

pub(crate) fn tree(path: &Path) -> Vec<PathBuf> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths.extend(items(path).iter().flat_map(|path| tree(path)));
    }
    paths
}

fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// What is to be interrupted: a command on a place that these commands have made.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: Vec<Vec<String>>,
    /// Damage done to the store by hand afterwards.
    damage: fn(&Place<'_>),
    pub(crate) args: Vec<String>,
    /// What is done when the command was interrupted, before it is begun again.
    after: Vec<Vec<String>>,
    /// What the command reads.
    stdin: Option<PathBuf>,
}

/// Returns a directory for hundreds of stores: in memory where that is possible, as none of them is to outlive anything.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("larder-").tempdir_in(memory);
    builder.or_else(|_| tempfile::tempdir()).unwrap()
}

/// Does `args` with a fault at every step, two at a time; returns how many steps there are.
fn at_every_step(world: &World, scenario: &Scenario, fault: &str, n_max: usize) -> usize {
    let Scenario { name, before, damage, args, after, stdin } = scenario;
    let dir = scratch();
    let place = |part: &str| Place { stdin: stdin.clone(), ..Place::at(world, &dir.path().join(part)) };
    let template = place("template");
    for args in before {
        template.ok(args, name);
    }
    damage(&template);
    let clean = place("clean");
    clean.become_like(&template);
    clean.ok(args, name);
    for args in after.iter().chain((!after.is_empty()).then_some(args)) {
        clean.ok(args, name);
    }
    assert_eq!(clean.leftovers(), Vec::<PathBuf>::new(), "{name}, undisturbed");
    let place = &place;
    let (next, n_done) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let lane = |lane: usize| {
        let place = place(&lane.to_string());
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n > n_max {
                break;
            }
            place.become_like(&template);
            let output = place.command(args).env("LARDER_FAULT", format!("{fault}:{n}")).output().unwrap();
            let when = format!("{name}, {fault} at step {n}");
            assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"), "{when}: {}", shown(&output));
            if fault == "kill" {
                let is_over = output.status.success();
                assert!(is_over || output.status.signal() == Some(9), "{when}: {}", shown(&output));
                if is_over {
                    break;
                }
            } else {
                let code = output.status.code();
                assert!(matches!(code, Some(0 | 1 | 3)), "{when}: {}", shown(&output));
            }
            n_done.fetch_add(1, Ordering::Relaxed);
            for after in after {
                place.ok(after, &when);
                assert_verified(&place, &when);
            }
            place.ok(args, &when);
            assert_eq!(place.library(), clean.library(), "{when}");
            assert_verified(&place, &when);
            assert_eq!(place.store(), clean.store(), "{when}");
            assert_eq!(place.leftovers(), Vec::<PathBuf>::new(), "{when}");
        }
    };
    std::thread::scope(|scope| {
        for n in 0..2 {
            scope.spawn(move || lane(n));
        }
    });
    n_done.into_inner()
}

fn assert_verified(place: &Place<'_>, when: &str) {
    let verified = verify(&place.path("store"), &verify::Options::default(), &|_, _| ()).unwrap();
    assert!(verified.findings.is_empty(), "{when}: {:?}", verified.findings);
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn nothing(_: &Place<'_>) {}

/// Damages a store in every way that `store verify --repair` knows.
fn spoil(place: &Place<'_>) {
    let store = place.path("store");
    let all = tree(&store);
    let sidecar = all.iter().filter(|path| path.extension().is_some_and(|ending| ending == "json"));
    let mut sidecars = sidecar.filter(|path| path.with_extension("").is_dir());
    fs::remove_file(sidecars.next().unwrap()).unwrap();
    fs::write(sidecars.next().unwrap(), "{").unwrap();
    let configs = all.iter().rfind(|path| path.ends_with("configs.json")).unwrap();
    fs::write(configs, "{}").unwrap();
    fs::write(configs.with_file_name("stray"), "x").unwrap();
}

pub(crate) fn scenarios(world: &World, r: &FakeR) -> Vec<Scenario> {
    let chain = |version: &str| {
        let packages = [
            Package::new("aa", version),
            Package::new("bb", version).field("Imports", "aa"),
            // Built elsewhere: nothing is installed, only stored.
            Package::new("cc", version).field("Built", "R 4.2.2; ; 2024-01-01 00:00:00 UTC; unix"),
        ];
        world.lock_published(&packages.each_ref())
    };
    let linked = |version: &str| {
        let header = Package::new("hdr", version);
        world.lock_published(&[&header, &Package::new("lnk", "1.0").field("LinkingTo", "hdr")])
    };
    let (one, two) = (chain("1.0"), chain("2.0"));
    let (same, newer) = (linked("1.0"), linked("1.1"));
    let only = world.lock_published(&[&Package::new("aa", "1.0")]);
    let solve = |lockfile: &Path, more: &str| {
        let mut args = vec![lockfile.display().to_string()];
        args.extend(words(&format!("--quiet --jobs 1 --r {} {more}", r.path.display())));
        args
    };
    let scenario = |name, before: &[Vec<String>], args| Scenario {
        name,
        before: before.to_vec(),
        damage: nothing,
        args,
        after: Vec::new(),
        stdin: None,
    };
    let exported = world.write("exported", {
        let place = Place::new(world, "exporting");
        place.ok(&solve(&one, ""), "before the export");
        let args = format!("store export --library library --r {}", r.path.display());
        let output = place.command(&words(&args)).output().unwrap();
        assert!(output.status.success(), "{}", shown(&output));
        output.stdout
    });
    let import = words(&format!("store import --r {}", r.path.display()));
    let copy = |lockfile: &Path| solve(lockfile, "--link copy");
    let symlink = |lockfile: &Path| solve(lockfile, "--link symlink");
    let elsewhere = |lockfile: &Path| solve(lockfile, "--library elsewhere");
    vec![
        Scenario { stdin: Some(exported), ..scenario("import", &[], import) },
        scenario("cold", &[], solve(&one, "")),
        scenario("upgrade", &[solve(&one, "")], solve(&two, "")),
        scenario("copies", &[copy(&one)], copy(&two)),
        scenario("symlinks", &[elsewhere(&one)], symlink(&one)),
        scenario("other symlinks", &[symlink(&one), elsewhere(&two)], symlink(&two)),
        scenario("adopt", &[solve(&same, "")], solve(&newer, "")),
        scenario("rebuild", &[solve(&one, "")], solve(&one, "--rebuild aa --rebuild cc")),
        scenario("remove", &[solve(&one, "")], solve(&only, "--exact")),
        scenario("first generation", &[solve(&one, "")], solve(&two, "--atomic-library")),
        scenario(
            "next generation",
            &[solve(&one, "--atomic-library"), solve(&two, "--atomic-library")],
            solve(&one, "--atomic-library --keep-generations 1"),
        ),
        scenario(
            "rollback",
            &[solve(&one, "--atomic-library"), solve(&two, "--atomic-library")],
            words("library rollback 1"),
        ),
        // What went is built again, then the other half goes, and the store is what is in the library.
        Scenario {
            after: vec![solve(&one, "")],
            ..scenario("evict", &[solve(&one, ""), solve(&two, "")], words("store evict --max-size 0"))
        },
        Scenario { damage: spoil, ..scenario("repair", &[solve(&one, "")], words("store verify --repair")) },
    ]
}

#[test]
fn killed_before_any_step_on_the_disk_a_run_is_made_good_by_the_next() {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let world = World::new();
    let r = FakeR::working(&world);
    let mut counts = Vec::new();
    for scenario in scenarios(&world, &r) {
        counts.push((scenario.name, at_every_step(&world, &scenario, "kill", usize::MAX)));
        println!("{}: killed {} times", scenario.name, counts[counts.len() - 1].1);
    }
    let n: usize = counts.iter().map(|(_, n)| n).sum();
    println!("killed {n} times: {counts:?}");
    assert!(n >= 200, "{counts:?}");
}

#[test]
fn where_the_disk_fails_at_any_step_the_run_says_so_and_the_next_one_makes_it_good() {
    if !cfg!(feature = "faults") {
        return skip("the command was built without the feature `faults`");
    }
    let world = World::new();
    let r = FakeR::working(&world);
    let mut n = 0;
    for scenario in scenarios(&world, &r) {
        let fault = match scenario.name {
            "upgrade" | "rollback" | "symlinks" => "EIO",
            "adopt" | "next generation" | "other symlinks" => "ENOSPC",
            _ => continue,
        };
        let points = world.path(&format!("points of {}", scenario.name));
        let listed = Place::new(&world, "listed");
        for args in &scenario.before {
            listed.ok(args, scenario.name);
        }
        let fault_list = format!("list:{}", points.display());
        assert!(listed.command(&scenario.args).env("LARDER_FAULT", fault_list).status().unwrap().success());
        let n_points = fs::read_to_string(&points).unwrap().lines().count();
        fs::remove_dir_all(listed.path("")).unwrap();
        n += at_every_step(&world, &scenario, fault, n_points);
    }
    println!("failed {n} times");
}
