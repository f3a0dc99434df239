//! Starting the command and R, watching and ending them.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::events::Ran;
use super::world::{Lock, Real, World};

/// A command line of `solve` in the making. Its environment is what a login on a clean machine has.
#[derive(Debug)]
pub(super) struct Solve {
    dir: PathBuf,
    words: Vec<OsString>,
    path: OsString,
    env: Vec<(OsString, OsString)>,
    is_json: bool,
}

impl Solve {
    pub(super) fn new(world: &World) -> Self {
        let words = vec![world.real.solve.clone().into()];
        Self { dir: world.dir.clone(), words, path: world.real.path.clone().into(), env: Vec::new(), is_json: true }
    }

    #[must_use]
    pub(super) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.words.push(word.as_ref().to_owned());
        self
    }

    #[must_use]
    pub(super) fn lockfile(self, lock: &Lock) -> Self {
        let text = lock.to_json();
        let path = self.dir.join(format!("{}.lock", larder_ops::digest::Sha256Digest::of(&text).short()));
        fs::write(&path, text).unwrap();
        self.arg(path)
    }

    /// Puts the library elsewhere in the world.
    #[must_use]
    pub(super) fn library(mut self, name: &str) -> Self {
        let at = self.words.iter().position(|word| word == "--library").expect("every command has one");
        self.words[at + 1] = self.dir.join(name).into();
        self
    }

    #[must_use]
    pub(super) fn path(mut self, path: impl AsRef<OsStr>) -> Self {
        path.as_ref().clone_into(&mut self.path);
        self
    }

    #[must_use]
    pub(super) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Lets it talk to people: no events, all on standard error.
    #[must_use]
    pub(super) fn human(mut self) -> Self {
        self.is_json = false;
        self
    }

    /// Writes every start of a program, by it or its children, to the file `trace` of the world.
    #[must_use]
    pub(super) fn traced(mut self, strace: &Path) -> Self {
        let trace = self.dir.join("trace");
        let before = [strace.as_os_str(), "-f".as_ref(), "-qq".as_ref(), "-e".as_ref(), "trace=execve".as_ref()];
        let before = before.into_iter().chain(["-o".as_ref(), trace.as_os_str()]).map(OsStr::to_owned);
        self.words = before.chain(self.words).collect();
        self
    }

    pub(super) fn start(mut self) -> Running {
        if self.is_json {
            self = self.arg("--json");
        }
        let stderr = tempfile::Builder::new().prefix("stderr-").tempfile_in(&self.dir).unwrap();
        let (stderr, stderr_path) = stderr.keep().unwrap();
        let mut command = Command::new(&self.words[0]);
        command.args(&self.words[1..]).current_dir(&self.dir).env_clear().env("PATH", &self.path);
        command.env("HOME", self.dir.join("home")).env("TMPDIR", self.dir.join("tmp"));
        command.envs(self.env);
        let start = Instant::now();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().expect("it is piped"));
        Running { child, lines, events: Vec::new(), stderr_path, start }
    }

    pub(super) fn run(self) -> Ran {
        self.start().finish()
    }
}

/// A command that runs.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
    events: Vec<Value>,
    stderr_path: PathBuf,
    start: Instant,
}

impl Running {
    fn read(&mut self) -> Option<&Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        self.events.push(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}")));
        self.events.last()
    }

    /// Waits until R installs this package.
    pub(super) fn wait_for_build(&mut self, package: &str) {
        while let Some(event) = self.read() {
            if event["reason"] == "vertex-started" && event["step"] == "build" && event["package"] == package {
                return;
            }
        }
        panic!("`{package}` was not built: {}", fs::read_to_string(&self.stderr_path).unwrap());
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(super) fn finish(mut self) -> Ran {
        while self.read().is_some() {}
        let status = self.child.wait().unwrap();
        let seconds = self.start.elapsed().as_secs_f64();
        let stderr = fs::read_to_string(&self.stderr_path).unwrap();
        Ran { code: status.code(), events: self.events, stderr, seconds }
    }
}

/// Returns the programs whose start a trace has.
pub(super) fn started(world: &World) -> Vec<String> {
    let trace = fs::read_to_string(world.dir.join("trace")).unwrap();
    let starts = trace.lines().filter_map(|line| line.split_once("execve(\"")?.1.split_once('"'));
    starts.map(|(program, _)| program.to_owned()).collect()
}

/// Returns the living processes that belong to a world, by where they are and what they were told.
pub(super) fn strays(world: &World) -> Vec<(Pid, String)> {
    let dir = world.dir.to_str().expect("UTF-8");
    let mut strays = Vec::new();
    for item in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = item.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // A process may end between two looks; a dead one that nobody has reaped has neither.
        let cwd = fs::read_link(item.path().join("cwd")).unwrap_or_default();
        let [line, environment] = ["cmdline", "environ"]
            .map(|file| String::from_utf8_lossy(&fs::read(item.path().join(file)).unwrap_or_default()).into_owned());
        if cwd.starts_with(dir) || line.contains(dir) || environment.contains(dir) {
            strays.push((pid, line.replace('\0', " ")));
        }
    }
    strays
}

/// Kills the processes that belong to a world, and waits until they are gone.
pub(super) fn end_strays(world: &World) {
    loop {
        let strays = strays(world);
        if strays.is_empty() {
            return;
        }
        for (pid, _) in strays {
            // It may have come to its end by itself just now.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Runs R code in a process that knows no library but R's own and returns what it printed.
#[track_caller]
pub(super) fn r(real: &Real, code: &str) -> String {
    let mut command = Command::new(&real.r);
    command.args(["--vanilla", "--no-echo", "-e", code]).env_clear().env("PATH", &real.path);
    command.env("R_LIBS_SITE", "/nonexistent").env("R_LIBS_USER", "/nonexistent");
    let output = command.output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{code}\n{out}\n{err}");
    out
}

/// Finds a program.
pub(super) fn on_path(program: &str, path: &str) -> Option<PathBuf> {
    path.split(':').map(|dir| Path::new(dir).join(program)).find(|path| path.is_file())
}
