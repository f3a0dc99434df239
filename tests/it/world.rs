//! A world of one's own for each test: home, temporary files, store, library, a server with packages.
//!
//! Nothing of the machine's user is in it. It is removed at the end, unless the test fails: then it stays, and the
//! test's output says where. The command's runs are [`Ran`]; packages are made by [`Package`].

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_err as fs;
use larder_ops::digest::Sha256Digest;
use larder_ops::testing::{Page, Server};
use serde_json::{Value, json};

mod archive;
pub(crate) mod clouds;
mod fake_r;
mod mounted;
mod package;
pub(crate) mod proxy;
mod ran;
pub(crate) mod servers;
mod session;

pub(crate) use archive::{Form, tarball};
pub(crate) use fake_r::FakeR;
pub(crate) use mounted::Mounted;
pub(crate) use package::Package;
pub(crate) use ran::Ran;
pub(crate) use session::Session;

/// The PATH on which tests look for R and compilers.
pub(crate) const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Returns from a test that needs R where there is none, and says so.
macro_rules! need_r {
    () => {
        if !$crate::world::has_r() {
            return $crate::world::skip("there is no R");
        }
    };
}
pub(crate) use need_r;

/// Finds a program on this machine; what `tests/run.sh` installed for the tests alone counts too.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../servers/bin");
    let dirs = std::env::split_paths(PATH).chain(["/usr/sbin".into(), own]);
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// Fills a directory with all programs of this machine but those that compile.
pub(crate) fn without_compilers(bin: &Path) {
    fs::create_dir_all(bin).unwrap();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(PATH).collect();
    dirs.reverse();
    for program in dirs.iter().flat_map(|dir| items(dir)) {
        let name = program.file_name().unwrap().to_str().unwrap_or_default().to_owned();
        let compiles =
            ["gcc", "g++", "c++", "cc", "c89", "c99", "cpp", "make", "gmake", "clang", "gfortran", "f77", "f95"];
        let stem = name.rsplit_once("-linux-gnu-").map_or(&*name, |(_, stem)| stem);
        let is_compiler = compiles.iter().any(|compiler| {
            stem.strip_prefix(compiler)
                .is_some_and(|rest| rest.chars().all(|c| c == '-' || c == '.' || c.is_ascii_digit()))
        });
        if !is_compiler {
            let place = bin.join(&name);
            let _ = fs::remove_file(&place);
            rustix::fs::symlink(&program, &place).unwrap();
        }
    }
}

/// Says whether there is an R to build with.
pub(crate) fn has_r() -> bool {
    std::env::split_paths(PATH).any(|dir| dir.join("R").is_file())
}

/// Tells whoever looks that the current test did not run, and why.
#[expect(clippy::print_stdout, reason = "whoever runs one test sees why it did nothing")]
#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where to report")]
pub(crate) fn skip(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    println!("skipped {test}: {why}");
    if let Some(path) = std::env::var_os("LARDER_SKIPPED") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

/// The folder of material that projects of this kind share; absent in most clones.
pub(crate) fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    path.exists().then_some(path)
}

/// Everything that one test has.
pub(crate) struct World {
    root: PathBuf,
    /// Serves what [`World::publish`] puts there.
    pub(crate) server: Server,
    n_lockfiles: AtomicUsize,
}

impl World {
    pub(crate) fn new() -> Self {
        let root = tempfile::Builder::new().prefix("larder-").tempdir().unwrap().keep();
        // Compilers and R resolve links; what they print then starts with the root as it is here.
        let root = root.canonicalize().unwrap();
        for dir in ["home", "tmp", "store"] {
            fs::create_dir(root.join(dir)).unwrap();
        }
        if has_r() {
            remember_probe(&root.join("store"));
        }
        Self { root, server: Server::start(), n_lockfiles: AtomicUsize::new(0) }
    }

    /// Returns a place in this world.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Writes a file, with the directories that it needs; returns its path.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub(crate) fn read(&self, path: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(path)).unwrap()).into_owned()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    /// Puts a package's source archive on the server, and returns its entry of a lockfile.
    pub(crate) fn publish(&self, package: &Package) -> Value {
        self.publish_as(package, package.archive(Form::TarGz), "tar.gz")
    }

    /// Puts these bytes on the server as the archive of `package`, and returns its entry of a lockfile.
    pub(crate) fn publish_as(&self, package: &Package, bytes: Vec<u8>, ending: &str) -> Value {
        let path = format!("/src/contrib/{}_{}.{ending}", package.name, package.version);
        let digest = Sha256Digest::of(&bytes).to_string();
        self.server.put(&path, Page::new(bytes));
        let mut entry = package.entry(&self.server.url(&path));
        entry["sha256"] = digest.into();
        entry["metadata"]["RemoteRepos"] = self.server.url("").into();
        entry
    }

    /// Writes a lockfile with these entries; returns its path.
    pub(crate) fn lock(&self, entries: impl IntoIterator<Item = Value>) -> PathBuf {
        let entries: Vec<Value> = entries.into_iter().collect();
        let lockfile = json!({
            "lockfile_version": 1,
            "os": "Debian GNU/Linux 12 (bookworm)",
            "r_version": "R version 4.2.2",
            "platform": "x86_64-pc-linux-gnu",
            "packages": entries,
        });
        let name = format!("pkg-{}.lock", self.n_lockfiles.fetch_add(1, Ordering::Relaxed));
        self.write(&name, serde_json::to_vec_pretty(&lockfile).unwrap())
    }

    /// Publishes packages and writes the lockfile that has them all.
    pub(crate) fn lock_published(&self, packages: &[&Package]) -> PathBuf {
        self.lock(packages.iter().map(|package| self.publish(package)))
    }

    /// Returns the command in this world, to be given arguments; no other variable is set.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_solve"));
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("LARDER_STORE", self.path("store"))
            .env("LARDER_LIBRARY", self.path("library"))
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// Runs the command with these arguments, to its end.
    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.finish(self.command().args(args))
    }

    /// Makes the library what a lockfile says, and reads the events.
    pub(crate) fn solve(&self, lockfile: &Path, args: &[&str]) -> Ran {
        self.finish(self.command().arg(lockfile).arg("--json").args(args))
    }

    /// Runs a prepared command to its end.
    pub(crate) fn finish(&self, command: &mut Command) -> Ran {
        self.ran(&command.output().unwrap())
    }

    /// Takes what a command that ran to its end left.
    pub(crate) fn ran(&self, output: &std::process::Output) -> Ran {
        Ran::new(&self.root, output.status, &output.stdout, &output.stderr)
    }

    /// Starts to make the library what a lockfile says.
    pub(crate) fn start(&self, lockfile: &Path, args: &[&str]) -> Running {
        self.start_command(self.command().arg(lockfile).arg("--json").args(args))
    }

    /// Starts a prepared command.
    pub(crate) fn start_command(&self, command: &mut Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { root: self.root.clone(), child, stdout, seen: String::new() }
    }

    /// Returns what R prints for an expression, with the library of this world.
    pub(crate) fn r(&self, expression: &str) -> String {
        let output = self.r_command("--no-echo").arg("-e").arg(expression).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{expression}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Returns R with the library of this world, to be given further arguments.
    pub(crate) fn r_command(&self, argument: &str) -> Command {
        let mut command = Command::new("R");
        let vars: [(&str, OsString); 4] = [
            ("PATH", PATH.into()),
            ("HOME", self.path("home").into()),
            ("TMPDIR", self.path("tmp").into()),
            ("R_LIBS", self.path("library").into()),
        ];
        command.env_clear().envs(vars).args(["--vanilla", argument]);
        command
    }

    /// Returns the directory of the store that holds this machine's packages.
    pub(crate) fn platform_dir(&self) -> PathBuf {
        self.platform_or_none().expect("something was stored")
    }

    /// As [`World::platform_dir`], or `None` if nothing was ever stored.
    pub(crate) fn platform_or_none(&self) -> Option<PathBuf> {
        self.items("store").into_iter().find(|path| path.join("platform.json").is_file())
    }

    /// Returns the trees of a package in the store, sorted by path.
    pub(crate) fn trees(&self, package: &str) -> Vec<PathBuf> {
        let sources = items(&self.platform_dir().join(package));
        let trees = sources.iter().flat_map(|source| items(source));
        trees.filter(|path| path.is_dir()).collect()
    }

    /// Returns what is in a directory of this world, sorted; nothing if there is none.
    pub(crate) fn items(&self, dir: &str) -> Vec<PathBuf> {
        items(&self.path(dir))
    }

    /// Returns the record of the library: `{package: "source_hash/config_hash"}`.
    pub(crate) fn record(&self) -> Value {
        serde_json::from_str(&self.read("library/.packages.json")).unwrap()
    }

    /// Makes a named pipe, for packages that wait for the test or tell it something.
    pub(crate) fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        path
    }
}

impl Drop for World {
    #[expect(clippy::print_stderr, reason = "part of the output of a test that fails")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what this test left is kept in {}", self.root.display());
        } else {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// A run of the command that is under way.
pub(crate) struct Running {
    root: PathBuf,
    child: Child,
    stdout: BufReader<ChildStdout>,
    seen: String,
}

impl Running {
    /// Waits for the next event; `None` at the end.
    pub(crate) fn next_event(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        self.seen.push_str(&line);
        (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
    }

    /// Waits for an event of this kind, and returns it.
    pub(crate) fn wait_for(&mut self, reason: &str) -> Value {
        loop {
            match self.next_event() {
                Some(event) if event["reason"] == reason => return event,
                Some(_) => {}
                None => panic!("the run ended without an event `{reason}`:\n{}", self.seen),
            }
        }
    }

    /// Returns the command's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the command alone.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn finish(mut self) -> Ran {
        let mut stdout = std::mem::take(&mut self.seen).into_bytes();
        self.stdout.read_to_end(&mut stdout).unwrap();
        let mut stderr = Vec::new();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        Ran::new(&self.root, status, &stdout, &stderr)
    }
}

/// Returns what is in a directory, sorted; nothing if there is none.
pub(crate) fn items(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().map(|item| item.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Says whether a process no longer runs. One that was killed is a zombie until init has reaped it.
pub(crate) fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ") || stat.contains(") X ")
}

/// Puts what the command once learnt of R into a new store: starting R for each test would take most of the time.
fn remember_probe(store: &Path) {
    static PROBE: OnceLock<Vec<(OsString, Vec<u8>)>> = OnceLock::new();
    let probe = PROBE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let probed = Command::new(env!("CARGO_BIN_EXE_solve"))
            .args(["doctor", "--store"])
            .arg(dir.path())
            .env_clear()
            .env("PATH", PATH)
            .output();
        drop(probed);
        items(&dir.path().join(".probes"))
            .into_iter()
            .map(|path| (path.file_name().unwrap().to_owned(), fs::read(&path).unwrap()))
            .collect()
    });
    let probes = store.join(".probes");
    fs::create_dir(&probes).unwrap();
    for (name, content) in probe {
        fs::write(probes.join(name), content).unwrap();
    }
}
