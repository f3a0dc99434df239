//! Building one package: a prepared source and a view of its dependencies in, an installed tree and a log out.
//!
//! This is the one place that knows `R CMD INSTALL`. It knows neither keys nor the store, so that another way to
//! run a build (a sandbox, a remote executor) can stand beside it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use larder_graph::Stop;

use crate::budget::Core;
use crate::metadata::{UPDATE_RDS, with_fields};
use crate::package::PackageName;
use crate::process::{self, Captured, Invocation, Jobs, Output, ProcessError};
use crate::toolchain::Toolchain;

mod makevars;
mod warm;

pub use makevars::DebugInfo;
pub use warm::WarmR;
use warm::{Ended, Task};

/// How packages are built; the same for all packages of a run.
#[derive(Debug, Clone)]
pub struct Builder {
    /// The R that builds.
    pub toolchain: Toolchain,
    /// Variables that builds may see besides the fixed ones: PATH, proxies.
    pub env: Vec<(OsString, OsString)>,
    /// The user's Makevars; its digest is in every key.
    pub makevars: Option<PathBuf>,
    /// How long one build may take.
    pub timeout: Duration,
    /// R processes that are ready to install; `None` to start R anew for each package.
    pub warm: Option<Arc<WarmR>>,
}

/// One build.
pub struct Build<'a> {
    /// The package.
    pub package: &'a PackageName,
    /// Its prepared source, which the build may change.
    pub source: &'a Path,
    /// All that the build may see, with the place of each.
    pub view: &'a BTreeMap<PackageName, PathBuf>,
    /// Further arguments of `R CMD INSTALL`.
    pub install_args: &'a [String],
    /// A directory for this build alone, on the store's file system.
    pub scratch: &'a Path,
    /// The log, created if need be.
    pub log: &'a Path,
    /// Who is told what goes into the log while it does.
    pub output: Output,
    /// What becomes of debug information in compiled code.
    pub debug_info: DebugInfo,
    /// The core that it has. Without one, make has one job at a time.
    pub core: Option<&'a Core>,
}

/// How a package is installed. Both ways give the same tree, unless a shortcut does not suit the package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With every shortcut there is: in a warm R if one can, and with all cores that are lent to make.
    Fast,
    /// With `R CMD INSTALL` in an R of its own, and make does one thing after the other.
    Plain,
}

/// What [`Way::Fast`] does otherwise than [`Way::Plain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortcut {
    /// R was not started anew.
    WarmR,
    /// Make had several jobs at once; some Makefiles do not say what has to wait for what.
    ParallelMake,
}

impl fmt::Display for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WarmR => "a warm R",
            Self::ParallelMake => "make with several jobs at once",
        })
    }
}

/// Why there is no installed tree.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// R said no.
    #[error("`{what}` failed")]
    Failed {
        /// What was run, for people.
        what: &'static str,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// R said no, but that may be due to a shortcut. What the plain way gives has yet to be seen, with a fresh source.
    #[error("{shortcut} could not install it: {reason}")]
    Shortcut {
        /// What may be at fault.
        shortcut: Shortcut,
        /// What R said, in one line.
        reason: String,
    },
    /// R said yes, but left no package.
    #[error("`R CMD INSTALL` left no package `{0}`")]
    NothingInstalled(PackageName),
    /// The prebuilt package is for another R.
    #[error("the prebuilt package is for {built}, but this is R {r} on {triple}")]
    WrongBinary {
        /// Its `Built` field, shortened.
        built: String,
        /// This R's version.
        r: String,
        /// This R's platform.
        triple: String,
    },
    /// There is code to compile and nothing to compile it with.
    #[error("it has code to compile, but this machine has no {}", .0.join(", no "))]
    NoCompiler(Vec<String>),
    /// The process did not end by itself.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// R's clock is set to this in builds, and `Built` says it, so that equal builds give equal bytes.
const EPOCH: (&str, &str) = ("946684800", "2000-01-01 00:00:00 UTC");

const INSTALL: &str = "R CMD INSTALL";

const TAIL_LINES: usize = 25;

impl Builder {
    /// Installs a source package into `{scratch}/library/{package}` and returns that directory.
    ///
    /// R sees the view and its own library, no profile and no variable of the user's. The log is appended to.
    /// Cancelled or failed, nothing outside `scratch` and the log has changed.
    pub async fn install(&self, build: &Build<'_>, way: Way, stop: &Stop) -> Result<PathBuf, InstallError> {
        if build.source.join("src").is_dir() {
            let missing = self.toolchain.missing_compilers(self.path());
            if !missing.is_empty() {
                return Err(InstallError::NoCompiler(missing));
            }
        }
        let library = self.furnish(build)?;
        let mut args = vec![format!("--built-timestamp={}", EPOCH.1).into(), join("--library=", &library)];
        args.extend(build.install_args.iter().map(OsString::from));
        args.push(build.source.into());
        let is_done = way == Way::Fast && self.install_warm(build, &args, stop).await?;
        if !is_done {
            let args = ["CMD", "INSTALL"].map(OsString::from).into_iter().chain(args).collect();
            let jobs = if way == Way::Fast { Jobs::Lent } else { Jobs::One };
            let run = Run { what: INSTALL, args, cwd: build.scratch.to_owned(), env: None, jobs };
            self.run(build, run, stop).await?;
        }
        let installed = library.join(build.package);
        if installed.join("DESCRIPTION").is_file() {
            Ok(installed)
        } else {
            Err(InstallError::NothingInstalled(build.package.clone()))
        }
    }

    /// Installs in a warm R. Says `false`, and has done nothing, where that is not possible.
    async fn install_warm(&self, build: &Build<'_>, args: &[OsString], stop: &Stop) -> Result<bool, InstallError> {
        // Which start of R these ask for is up to the script that starts it.
        let is_about_start = |arg: &OsString| ["--use-vanilla", "--no-vanilla"].iter().any(|about| arg == about);
        // A line names a directory there.
        let is_line = !build.scratch.as_os_str().as_encoded_bytes().contains(&b'\n');
        let is_possible = is_line && !args.iter().any(is_about_start);
        let Some(warm) = self.warm.as_ref().filter(|_| is_possible) else { return Ok(false) };
        let (mut log, begin) = self.open_log(build, INSTALL)?;
        let mut task = Task {
            toolchain: &self.toolchain,
            env: self.environment(build),
            cwd: build.scratch,
            call: warm::call("tools:::.install_packages", args.iter().map(OsString::as_os_str)),
            dir: build.scratch.join("warm"),
            captured: Captured::new(log.try_clone()?, Arc::clone(&build.output))?,
            timeout: self.timeout,
            core: build.core,
        };
        let ended = warm.run(&mut task, stop).await;
        match &ended {
            Ok(Ended::Done) => writeln!(log, "larder: {INSTALL}: done by a warm R")?,
            Ok(Ended::Failed) => writeln!(log, "larder: {INSTALL}: a warm R failed")?,
            Ok(Ended::FailedOutside) => writeln!(log, "larder: {INSTALL}: failed outside of R")?,
            Ok(Ended::Cannot(reason)) => tracing::debug!(reason, "R cannot be kept warm"),
            Err(error) => writeln!(log, "larder: {INSTALL}: {error}")?,
        }
        match ended? {
            Ended::Done => Ok(true),
            Ended::Cannot(_) => Ok(false),
            Ended::FailedOutside => Err(failed(build, INSTALL, begin, parallel(build))?),
            Ended::Failed => Err(failed(build, INSTALL, begin, Some(Shortcut::WarmR))?),
        }
    }

    /// Runs a repository's `bootstrap.R`, which makes what is in the package but not in version control.
    pub async fn bootstrap(&self, build: &Build<'_>, stop: &Stop) -> Result<(), InstallError> {
        self.furnish(build)?;
        let args = ["--vanilla", "--no-echo", "-f", "bootstrap.R"].map(OsString::from).to_vec();
        let run = Run { what: "bootstrap.R", args, cwd: build.source.to_owned(), env: None, jobs: Jobs::One };
        self.run(build, run, stop).await
    }

    /// Writes `fields` into `Meta/package.rds` of the unpacked prebuilt package in `build.source`.
    pub async fn update_metadata(
        &self,
        build: &Build<'_>,
        fields: &BTreeMap<String, String>,
        stop: &Stop,
    ) -> Result<(), InstallError> {
        self.furnish(build)?;
        let file = build.scratch.join("fields.dcf");
        fs::write(&file, with_fields(b"", fields))?;
        let args = ["--vanilla", "--no-echo", "-e", UPDATE_RDS].map(OsString::from).to_vec();
        let env = Some(("LARDER_FIELDS".into(), file.into()));
        let run = Run { what: "writing Meta/package.rds", args, cwd: build.source.to_owned(), env, jobs: Jobs::One };
        self.run(build, run, stop).await
    }

    /// Ends what is kept ready for further builds. A later build starts it again.
    pub async fn rest(&self) {
        if let Some(warm) = &self.warm
            && let Err(error) = warm.end().await
        {
            tracing::debug!(%error, "a warm R could not be waited for");
        }
    }

    /// Checks the `Built` field of a prebuilt package against this R: `R 4.5.2; x86_64-pc-linux-gnu; 2025-..; unix`.
    pub fn check_built(&self, built: &str) -> Result<(), InstallError> {
        let parts: Vec<&str> = built.split(';').map(str::trim).collect();
        let version = parts.first().and_then(|part| part.strip_prefix("R ")).unwrap_or_default();
        let triple = parts.get(1).copied().unwrap_or_default();
        let is_unix = parts.last() == Some(&"unix");
        let is_same_minor = version.split('.').take(2).eq(self.toolchain.minor().split('.'));
        // Vendors differ in the middle of the triple (`pc`, `unknown`, `redhat`); processor and system must not.
        let ends = |triple: &str| {
            let mut words = triple.split('-');
            (words.next().map(str::to_owned), words.next_back().map(str::to_owned))
        };
        if is_same_minor && is_unix && (triple.is_empty() || ends(triple) == ends(&self.toolchain.triple)) {
            return Ok(());
        }
        let kind = if is_unix { triple.to_owned() } else { parts.last().copied().unwrap_or_default().to_owned() };
        Err(InstallError::WrongBinary {
            built: format!("R {version} {kind}").trim_end().to_owned(),
            r: self.toolchain.version.clone(),
            triple: self.toolchain.triple.clone(),
        })
    }

    fn path(&self) -> &OsStr {
        self.env.iter().find(|(name, _)| name == "PATH").map_or(OsStr::new(""), |(_, path)| path)
    }

    /// Makes the directories that a build finds itself in; returns its library.
    fn furnish(&self, build: &Build<'_>) -> io::Result<PathBuf> {
        let [library, view, home, tmp] = ["library", "view", "home", "tmp"].map(|name| build.scratch.join(name));
        if library.is_dir() {
            return Ok(library);
        }
        for dir in [&library, &view, &home, &tmp] {
            fs::create_dir_all(dir)?;
        }
        for (package, tree) in build.view {
            fs_err::os::unix::fs::symlink(tree, view.join(package))?;
        }
        fs::write(build.scratch.join("Makevars"), makevars::text(self, build))?;
        Ok(library)
    }

    async fn run(&self, build: &Build<'_>, run: Run, stop: &Stop) -> Result<(), InstallError> {
        let Run { what, args, cwd, env, jobs } = run;
        let (log, begin) = self.open_log(build, what)?;
        let invocation = Invocation {
            program: self.toolchain.r.clone(),
            args,
            env: self.environment(build).into_iter().chain(env).collect(),
            cwd,
            log,
            output: Arc::clone(&build.output),
            timeout: self.timeout,
            core: build.core,
            jobs,
        };
        let ended = process::run(invocation, stop).await;
        let mut log = fs::OpenOptions::new().append(true).open(build.log)?;
        match &ended {
            Ok(status) => writeln!(log, "larder: {what}: {status}")?,
            Err(error) => writeln!(log, "larder: {what}: {error}")?,
        }
        if ended?.success() {
            return Ok(());
        }
        Err(failed(build, what, begin, parallel(build).filter(|_| jobs == Jobs::Lent))?)
    }

    /// Opens the log and writes its heading; returns where what follows begins.
    fn open_log(&self, build: &Build<'_>, what: &str) -> io::Result<(fs::File, u64)> {
        if let Some(dir) = build.log.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut log = fs::OpenOptions::new().create(true).append(true).open(build.log)?;
        writeln!(log, "larder: {what} of {} with R {}", build.package, self.toolchain.version)?;
        let begin = log.metadata()?.len();
        Ok((log, begin))
    }

    fn environment(&self, build: &Build<'_>) -> Vec<(OsString, OsString)> {
        let scratch = |name: &str| build.scratch.join(name).into_os_string();
        // A path that does not exist: R falls back to the user's own where such a variable is empty.
        let nothing = || scratch("nothing");
        let mut env: Vec<(OsString, OsString)> = self.env.clone();
        env.extend([
            ("R_LIBS".into(), scratch("view")),
            ("R_LIBS_USER".into(), nothing()),
            ("R_LIBS_SITE".into(), nothing()),
            // The site's files too: Debian's Renviron.site puts the machine's site library before R_LIBS_SITE.
            ("R_ENVIRON".into(), nothing()),
            ("R_PROFILE".into(), nothing()),
            ("R_PROFILE_USER".into(), nothing()),
            ("R_ENVIRON_USER".into(), nothing()),
            ("R_MAKEVARS_USER".into(), scratch("Makevars")),
            ("HOME".into(), scratch("home")),
            ("TMPDIR".into(), scratch("tmp")),
            ("LC_ALL".into(), "C.UTF-8".into()),
            ("TZ".into(), "UTC".into()),
            ("SOURCE_DATE_EPOCH".into(), EPOCH.0.into()),
        ]);
        env
    }
}

/// One run of R.
struct Run {
    /// What it is, for people.
    what: &'static str,
    args: Vec<OsString>,
    cwd: PathBuf,
    /// A variable besides those that all builds have.
    env: Option<(OsString, OsString)>,
    jobs: Jobs,
}

/// Says whether make had several jobs at once. It may, but that is known only afterwards.
fn parallel(build: &Build<'_>) -> Option<Shortcut> {
    build.core.filter(|core| core.has_borrowed()).map(|_| Shortcut::ParallelMake)
}

/// Says how a build failed whose output is in the log from `begin` on: due to a shortcut, perhaps.
fn failed(
    build: &Build<'_>,
    what: &'static str,
    begin: u64,
    shortcut: Option<Shortcut>,
) -> Result<InstallError, io::Error> {
    let tail = tail(build.log, begin)?;
    Ok(match shortcut {
        Some(shortcut) => {
            let said = tail.iter().rfind(|line| line.starts_with("ERROR")).or(tail.last());
            InstallError::Shortcut { shortcut, reason: said.cloned().unwrap_or_else(|| "it ended".to_owned()) }
        }
        None => InstallError::Failed { what, tail },
    })
}

fn join(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}

/// Returns the last lines of what a log has from `begin` on, without larder's own and without blank ones.
fn tail(log: &Path, begin: u64) -> io::Result<Vec<String>> {
    const BYTES_MAX: u64 = 64 << 10;
    let mut file = fs::File::open(log)?;
    let size = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(size.saturating_sub(BYTES_MAX).max(begin)))?;
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with("larder: ")).collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(|line| (*line).to_owned()).collect())
}
