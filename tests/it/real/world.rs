//! Where a test lives: the real packages, the cold build that all share, a store and a library of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use fs_err as fs;
use larder_ops::testing::Server;
use serde_json::Value;

use super::events::Ran;
use super::processes::{Solve, on_path};

/// What the lockfiles' URLs start with; nobody serves there.
const BASE_URL: &str = "http://127.0.0.1:1";

/// The machine as these tests need it.
#[derive(Debug)]
pub(super) struct Real {
    pub(super) solve: PathBuf,
    pub(super) packages: PathBuf,
    pub(super) r: PathBuf,
    pub(super) path: String,
}

impl Real {
    fn find() -> Result<Self, String> {
        let path = variable("PATH").unwrap_or_default();
        Ok(Self {
            solve: variable("LARDER_SOLVE").ok_or("LARDER_SOLVE is not set")?.into(),
            packages: variable("LARDER_REAL").ok_or("LARDER_REAL is not set")?.into(),
            r: on_path("R", &path).ok_or("there is no R")?,
            path,
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "what `tests/run.sh` sets is the input of these tests")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Says that a test, or a part of one, cannot run here, where people and `tests/run.sh` see it.
pub(super) fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
    if let Some(path) = variable("LARDER_SKIPPED") {
        let file = fs::OpenOptions::new().create(true).append(true).open(path);
        // One write, so that lines of tests that run at once do not mix.
        let noted = file.and_then(|mut file| file.write_all(format!("{test}: {why}\n").as_bytes()));
        noted.expect("what is skipped must be known");
    }
}

/// Returns the directory of all tests here, emptied once. Another run of this suite waits until this one is over.
fn root() -> &'static Path {
    static ROOT: OnceLock<(PathBuf, fs::File)> = OnceLock::new();
    let (root, _) = ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("real");
        let lock = fs::File::create(root.with_extension("lock")).expect("cargo has made its directory");
        lock.file().lock().expect("kernel locks work");
        if root.exists() {
            fs::remove_dir_all(&root).expect("nobody else is there");
        }
        (root, lock)
    });
    root
}

/// Returns what the cold build of `real.lock` gave; its world is called `cold`.
pub(super) fn cold(real: &'static Real) -> &'static (World, Ran) {
    static COLD: OnceLock<(World, Ran)> = OnceLock::new();
    COLD.get_or_init(|| {
        let world = World::new(real, "cold");
        let ran = world.solve(&world.lock("real")).run();
        eprintln!("cold: {:.1} s, {} requests", ran.seconds, world.server.requests().len());
        (world, ran)
    })
}

/// A machine on which Rcpp was upgraded, after it had all of `real.lock`; what it built meanwhile it wrote to a cache.
#[derive(Debug)]
pub(super) struct Upgraded {
    pub(super) world: World,
    /// The run before the upgrade.
    pub(super) cold: Ran,
    /// The upgrade.
    pub(super) ran: Ran,
    /// The cache: a directory that has what the upgrade built, and nothing else.
    pub(super) cache: PathBuf,
}

/// What links to Rcpp, through any number of steps.
pub(super) const LINKS_TO_RCPP: [&str; 5] = ["RcppEigen", "later", "minqa", "plyr", "promises"];

/// Returns what the upgrade from `real.lock` to `upgrade.lock` gave; compiled once, by whichever test needs it first.
pub(super) fn upgraded(real: &'static Real) -> &'static Upgraded {
    static UPGRADED: OnceLock<Upgraded> = OnceLock::new();
    UPGRADED.get_or_init(|| {
        let world = World::new(real, "upgraded").with(World::is_lasting);
        let cold = world.solve(&world.lock("real")).run();
        let cache = world.dir.join("cloud");
        let ran = world.solve(&world.lock("upgrade")).arg("--cache").arg(format!("fs://{}", cache.display())).run();
        Upgraded { world, cold, ran, cache }
    })
}

/// A directory with a store, a library and a server of the real packages, for one test.
#[derive(Debug)]
pub(super) struct World {
    pub(super) real: &'static Real,
    pub(super) dir: PathBuf,
    pub(super) server: Server,
}

impl World {
    fn new(real: &'static Real, name: &str) -> Self {
        let dir = root().join(name);
        for part in ["home", "tmp"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        Self { real, dir, server: Server::serving(real.packages.join("repo")) }
    }

    /// A world with nothing in it; `None`, said aloud, where these tests cannot run. `name` is the test's.
    pub(super) fn empty(name: &str) -> Option<Self> {
        static REAL: OnceLock<Result<Real, String>> = OnceLock::new();
        match REAL.get_or_init(Real::find) {
            Ok(real) => Some(Self::new(real, name)),
            Err(why) => {
                skip(name, why);
                None
            }
        }
    }

    /// A world whose store has all that the cold build made.
    pub(super) fn full(name: &str) -> Option<Self> {
        Some(Self::empty(name)?.with(Self::is_lasting))
    }

    /// Says whether a part of a store is more than one run's.
    fn is_lasting(part: &str) -> bool {
        ![".locks", ".staging", "logs"].contains(&part)
    }

    /// A world whose store has what the cold build downloaded, and nothing else.
    pub(super) fn downloaded(name: &str) -> Option<Self> {
        Some(Self::empty(name)?.with(|part| part == "blobs"))
    }

    /// Links parts of the cold store into this one: files of a store are replaced, never changed.
    fn with(self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let (from, ran) = cold(self.real);
        assert_eq!(ran.code, Some(0), "the cold build failed, so there is nothing to stand on");
        fs::create_dir(self.store()).unwrap();
        for item in fs::read_dir(from.store()).unwrap() {
            let path = item.unwrap().path();
            if is_wanted(path.file_name().unwrap().to_str().unwrap()) {
                let status = Command::new("cp").arg("-al").arg(path).arg(self.store()).status().unwrap();
                assert!(status.success());
            }
        }
        self
    }

    pub(super) fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    pub(super) fn library(&self) -> PathBuf {
        self.dir.join("library")
    }

    /// Returns the record of what the command put into the library.
    pub(super) fn record(&self) -> BTreeMap<String, String> {
        serde_json::from_slice(&fs::read(self.library().join(".packages.json")).unwrap()).unwrap()
    }

    /// Returns one of the lockfiles that `tests/real/fetch.py` wrote.
    pub(super) fn lock(&self, name: &str) -> Lock {
        let path = self.real.packages.join(name).with_extension("lock");
        Lock(serde_json::from_slice(&fs::read(path).unwrap()).unwrap())
    }

    /// Prepares `solve LOCKFILE` into this world's library; sources come from this world's server.
    pub(super) fn solve(&self, lock: &Lock) -> Solve {
        self.command(&[]).lockfile(lock).arg("--mirror").arg(format!("{BASE_URL}={}", self.server.url("")))
    }

    /// Prepares a subcommand (none for the main job) with this world's store and library.
    pub(super) fn command(&self, subcommand: &[&str]) -> Solve {
        let solve = subcommand.iter().fold(Solve::new(self), Solve::arg);
        solve.arg("--store").arg(self.store()).arg("--library").arg(self.library())
    }

    /// Makes the store forget packages, all their versions.
    pub(super) fn forget(&self, packages: &[&str]) {
        let platform = fs::read_dir(self.store()).unwrap().map(|item| item.unwrap().path());
        let platform = platform.filter(|path| path.join("platform.json").exists()).last().expect("one platform");
        for package in packages {
            fs::remove_dir_all(platform.join(package)).unwrap();
        }
    }
}

/// A lockfile.
#[derive(Debug, Clone)]
pub(super) struct Lock(Value);

impl Lock {
    fn entries(&self) -> impl Iterator<Item = &Value> {
        self.0["packages"].as_array().expect("a pak lockfile").iter()
    }

    /// Returns the entry of a package.
    pub(super) fn entry(&self, package: &str) -> &Value {
        self.entries().find(|entry| entry["package"] == package).expect("the lockfile has it")
    }

    /// Returns the names of all packages.
    pub(super) fn packages(&self) -> BTreeSet<String> {
        self.entries().map(|entry| text(&entry["package"])).collect()
    }

    /// Returns where on a server the source of a package is, and what its file is called.
    pub(super) fn path(&self, package: &str) -> String {
        text(&self.entry(package)["sources"][0]).strip_prefix(BASE_URL).expect("one base").to_owned()
    }

    /// Returns the same lockfile with `roots` and what they need, and nothing else.
    pub(super) fn only(&self, roots: &[&str]) -> Self {
        let mut wanted = BTreeSet::new();
        let mut todo: Vec<String> = roots.iter().map(ToString::to_string).collect();
        while let Some(package) = todo.pop() {
            todo.extend(self.entry(&package)["dependencies"].as_array().expect("a list").iter().map(text));
            wanted.insert(package);
        }
        let mut smaller = self.0.clone();
        let entries = smaller["packages"].as_array_mut().expect("a pak lockfile");
        entries.retain(|entry| wanted.contains(&text(&entry["package"])));
        Self(smaller)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&self.0).expect("JSON")
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
