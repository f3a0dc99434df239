//! The R that builds, the compilers behind it, and the platform that follows from them.
//!
//! R is started once to learn what it is; the answer is remembered in the store together with the size and
//! mtime of every file it rests on, so that a run with nothing to build starts no process at all.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256Digest;
use crate::fs::{Stamp, write_atomically};
use crate::package::{Description, PackageName};

/// One R installation and the compilers that it uses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Toolchain {
    /// The R executable, links resolved.
    pub r: PathBuf,
    /// R's home directory.
    pub home: PathBuf,
    /// R's own library (`.Library`), with the base and recommended packages.
    pub library: PathBuf,
    /// R's version, for example `4.2.2`.
    pub version: String,
    /// What R was built for, for example `x86_64-pc-linux-gnu`.
    pub triple: String,
    /// R's words for processor and operating system, for the User-Agent.
    arch: String,
    os: String,
    /// The compilers that R's configuration names, by make variable (`CC`, `CXX`, `FC`).
    pub compilers: BTreeMap<String, Compiler>,
    /// The flags of R's configuration, and libc: with the compilers' versions the text behind the digest in the platform.
    flags: Vec<String>,
}

/// A compiler that R's configuration names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Compiler {
    /// The command as R's configuration has it, for example `g++ -std=gnu++14`.
    pub command: String,
    /// The program, links not resolved; `None` where it is not installed.
    pub path: Option<PathBuf>,
    /// The first line of its `--version`.
    pub version: String,
}

/// Why there is no usable R.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant and field is")]
pub enum ToolchainError {
    #[error("R was not found: there is no `R` on PATH")]
    NotOnPath,
    #[error("R was not found: `{path}` {problem}")]
    NotThere { path: PathBuf, problem: io::Error },
    #[error("`{r}` does not work: {problem}")]
    Broken { r: PathBuf, problem: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    stamps: Vec<Stamp>,
    toolchain: Toolchain,
}

/// What is asked of R, one value a line.
const QUESTIONS: &str = "cat(R.home(), .Library, as.character(getRversion()), R.version$platform, R.version$arch, R.version$os, sep = '\\n')";

impl Toolchain {
    /// Finds R, as `chosen` or else on `path` (a PATH-like list), and probes it, unless an earlier probe that is kept
    /// in `memory` (a directory, created if needed) still holds.
    pub fn find(chosen: Option<&Path>, path: &OsStr, memory: &Path) -> Result<Self, ToolchainError> {
        let r = match chosen {
            Some(r) if r.components().count() > 1 => r.to_owned(),
            Some(name) => find_on(path, name).ok_or_else(|| ToolchainError::NotThere {
                path: name.to_owned(),
                problem: io::Error::new(io::ErrorKind::NotFound, "is not on PATH"),
            })?,
            None => find_on(path, Path::new("R")).ok_or(ToolchainError::NotOnPath)?,
        };
        let r = r.canonicalize().map_err(|problem| ToolchainError::NotThere { path: r, problem })?;
        let record = memory.join(format!("{}.json", Sha256Digest::of(r.as_os_str().as_encoded_bytes()).short()));
        if let Some(toolchain) = recall(&record, &r, path) {
            return Ok(toolchain);
        }
        let toolchain = probe(&r, path)?;
        let stamps = toolchain.files().map(|file| Stamp::of(&file)).collect();
        let remembered = Remembered { stamps, toolchain };
        // A store that cannot be written is reported where something has to be written; here it costs only time.
        if let Err(error) = fs::create_dir_all(memory)
            .and_then(|()| write_atomically(&record, &serde_json::to_vec_pretty(&remembered).unwrap_or_default()))
        {
            tracing::debug!(%error, "the probe of R is not remembered");
        }
        Ok(remembered.toolchain)
    }

    /// The files whose change makes a remembered probe worthless.
    fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let etc = self.home.join("etc");
        let own =
            [self.r.clone(), etc.join("Makeconf"), etc.join("Makevars.site"), self.library.join("base/DESCRIPTION")];
        own.into_iter().chain(self.compilers.values().filter_map(|compiler| compiler.path.clone()))
    }

    /// Returns R's minor version, for example `4.2`: packages are compatible within it.
    pub fn minor(&self) -> &str {
        match self.version.match_indices('.').nth(1) {
            Some((end, _)) => &self.version[..end],
            None => &self.version,
        }
    }

    /// Returns the User-Agent by which repositories recognise R and decide which binary they serve.
    pub fn user_agent(&self) -> String {
        let Self { version, triple, arch, os, .. } = self;
        format!("R/{version} R ({version} {triple} {arch} {os})")
    }

    /// Returns the text that the platform's digest stands for: compilers, flags, libc.
    pub fn description(&self) -> String {
        let compilers = self.compilers.iter().map(|(variable, compiler)| format!("{variable}: {}", compiler.version));
        compilers.chain(self.flags.iter().cloned()).collect::<Vec<_>>().join("\n")
    }

    /// Says whether packages of a platform, given the text behind it, are for this machine too, as far as can be told:
    /// what that has for compilers which are missing here does not matter, since here nothing can be compiled.
    pub fn may_use(&self, description: &str) -> bool {
        let is_missing = |line: &str| {
            let variable = line.split(": ").next().unwrap_or_default();
            self.compilers.get(variable).is_some_and(|compiler| compiler.path.is_none())
        };
        let without = |text: &str| text.lines().filter(|line| !is_missing(line)).map(str::to_owned).collect::<Vec<_>>();
        without(description) == without(&self.description())
    }

    /// Returns the platform on `distro`: all that two stores must have in common to share what they built.
    pub fn platform(&self, distro: Option<&Distro>) -> String {
        let digest = Sha256Digest::of(self.description().as_bytes()).short();
        let distro = distro.map(|distro| format!("-{}", distro.tag())).unwrap_or_default();
        format!("{}-{}{distro}-g{digest}", self.minor(), self.triple)
    }

    /// Returns the programs that compiling needs and this machine lacks.
    pub fn missing_compilers(&self, path: &OsStr) -> Vec<String> {
        let missing = |variable: &&str| match self.compilers.get(*variable) {
            Some(compiler) => compiler.path.is_none().then(|| compiler.program().to_owned()),
            None => Some((*variable).to_owned()),
        };
        let mut programs: Vec<String> = ["CC", "CXX"].iter().filter_map(missing).collect();
        if find_on(path, Path::new("make")).is_none() {
            programs.push("make".to_owned());
        }
        programs
    }

    /// Says whether the C compiler takes GCC's flags: it is GCC or clang.
    pub fn is_gnu_like(&self) -> bool {
        let version = self.compilers.get("CC").map_or("", |compiler| &compiler.version);
        ["clang", "GCC", "gcc"].iter().any(|name| version.contains(name))
    }

    /// Says whether the C compiler knows `-ffile-prefix-map`: GCC since 8, clang since 10.
    pub fn maps_file_prefixes(&self) -> bool {
        let version = self.compilers.get("CC").map_or("", |compiler| &compiler.version);
        let (is_clang, words) = (version.contains("clang"), version.split_whitespace());
        let major = words.rev().find_map(|word| word.split('.').next()?.parse::<u32>().ok());
        let is_gcc = version.contains("GCC") || version.contains("gcc");
        major.is_some_and(|major| is_clang && major >= 10 || is_gcc && major >= 8)
    }

    /// Returns what R's own library says of a package, or `None` where it lacks it.
    pub fn provided(&self, package: &PackageName) -> Option<Provided> {
        let description = Description::parse(&fs::read(self.library.join(package).join("DESCRIPTION")).ok()?);
        Some(Provided {
            version: description.get("Version")?.to_owned(),
            built: description.get("Built").unwrap_or_default().to_owned(),
        })
    }
}

impl Compiler {
    fn program(&self) -> &str {
        program_of(&self.command)
    }
}

/// A package in R's own library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provided {
    /// Its version.
    pub version: String,
    /// Its `Built` field.
    pub built: String,
}

impl Provided {
    /// Returns the key under which a package that links to this one is built. The version alone would not do:
    /// Matrix changed its C interface between two R patch releases.
    pub fn key(&self, package: &PackageName) -> Sha256Digest {
        Sha256Digest::of_fields(["installed", package.as_str(), &self.version, &self.built])
    }
}

/// The Linux distribution, as far as it decides which system libraries there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distro {
    /// `ID` of os-release, for example `debian`.
    pub id: String,
    /// `VERSION_ID`, for example `12`.
    pub release: String,
    /// `ID_LIKE`, for example `debian`.
    pub like: String,
}

impl Distro {
    /// Reads the text of `/etc/os-release`.
    pub fn parse(os_release: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
            Some(line.trim_matches(['"', '\'']).to_owned())
        };
        Some(Self {
            id: value("ID")?,
            release: value("VERSION_ID").unwrap_or_default(),
            like: value("ID_LIKE").unwrap_or_default(),
        })
    }

    /// Returns for example `debian-12`: harmless as part of a path.
    pub fn tag(&self) -> String {
        let text = if self.release.is_empty() { self.id.clone() } else { format!("{}-{}", self.id, self.release) };
        text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' }).collect()
    }

    /// Returns the command that installs R and all that compiling packages takes.
    pub fn install_command(distro: Option<&Self>) -> &'static str {
        let words = distro.map(|distro| format!("{} {}", distro.id, distro.like)).unwrap_or_default();
        let is = |names: &[&str]| words.split_whitespace().any(|word| names.contains(&word));
        if is(&["debian", "ubuntu"]) {
            "apt-get install r-base-dev"
        } else if is(&["fedora", "rhel", "centos"]) {
            "dnf install R-devel"
        } else if is(&["suse", "opensuse"]) {
            "zypper install R-base-devel"
        } else if is(&["alpine"]) {
            "apk add R R-dev build-base gfortran"
        } else if is(&["arch"]) {
            "pacman -S r gcc-fortran base-devel"
        } else {
            "install R, a C, C++ and Fortran compiler, and make"
        }
    }
}

fn find_on(path: &OsStr, program: &Path) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|file| crate::fs::is_executable(file))
}

fn program_of(command: &str) -> &str {
    command.split_whitespace().next().unwrap_or(command)
}

fn recall(record: &Path, r: &Path, path: &OsStr) -> Option<Toolchain> {
    let Remembered { stamps, toolchain } = serde_json::from_slice(&fs::read(record).ok()?).ok()?;
    let is_unchanged = toolchain.r == r && stamps.iter().all(Stamp::holds) && toolchain.files().count() == stamps.len();
    // Another compiler may have come before the remembered one. One that is merely off this PATH is still there.
    let is_same = |compiler: &Compiler| {
        let now = find_on(path, Path::new(compiler.program()));
        now.is_none() && compiler.path.is_some() || now == compiler.path
    };
    (is_unchanged && toolchain.compilers.values().all(is_same)).then_some(toolchain)
}

fn probe(r: &Path, path: &OsStr) -> Result<Toolchain, ToolchainError> {
    let broken = |problem: String| ToolchainError::Broken { r: r.to_owned(), problem };
    let mut command = Command::new(r);
    command
        .args(["--vanilla", "--no-echo", "-e", QUESTIONS])
        .env("LC_ALL", "C")
        .env_remove("R_HOME")
        // What is asked needs none of the packages that R attaches, which are half of its start.
        .env("R_DEFAULT_PACKAGES", "NULL")
        .stdin(Stdio::null());
    let mut output = command.output().map_err(|error| broken(error.to_string()))?;
    if !output.status.success() {
        // Perhaps only the user's place for temporary files is full; builds have one of their own.
        command.env_remove("TMPDIR").env_remove("TMP").env_remove("TEMP");
        if let Ok(again) = command.output()
            && again.status.success()
        {
            tracing::warn!("R starts only without TMPDIR: there may be no room for its temporary files");
            output = again;
        }
    }
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(broken(format!("{} {}", output.status, stderr.lines().next().unwrap_or_default())));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    let [home, library, version, triple, arch, os] = stdout.lines().collect::<Vec<_>>()[..] else {
        return Err(broken(format!("it answered {stdout:?}")));
    };
    let makeconf = fs::read_to_string(Path::new(home).join("etc/Makeconf"))?;
    let site = fs::read_to_string(Path::new(home).join("etc/Makevars.site")).unwrap_or_default();
    let variables: BTreeMap<&str, &str> = makeconf.lines().chain(site.lines()).filter_map(make_variable).collect();
    let compilers = ["CC", "CXX", "FC"].iter().filter_map(|name| {
        let command = variables.get(name).filter(|command| !command.is_empty())?;
        let found = find_on(path, Path::new(program_of(command)));
        let version = found
            .as_ref()
            .map_or("not installed".to_owned(), |program| first_line(Command::new(program).arg("--version")));
        Some(((*name).to_owned(), Compiler { command: (*command).to_owned(), path: found, version }))
    });
    let mut flags: Vec<String> =
        variables.iter().filter(|(name, _)| is_flag(name)).map(|(name, value)| format!("{name} = {value}")).collect();
    flags.push(format!("libc: {}", first_line(Command::new("getconf").arg("GNU_LIBC_VERSION"))));
    Ok(Toolchain {
        r: r.to_owned(),
        home: home.into(),
        library: Path::new(library).canonicalize().unwrap_or_else(|_| library.into()),
        version: version.to_owned(),
        triple: triple.to_owned(),
        arch: arch.to_owned(),
        os: os.to_owned(),
        compilers: compilers.collect(),
        flags,
    })
}

fn make_variable(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end_matches(['+', ':', '?', ' ']);
    name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_').then_some((name, value.trim()))
}

/// Says whether a variable of Makeconf decides what compiling yields, rather than where R lies on this machine.
fn is_flag(name: &str) -> bool {
    let is_compiler =
        ["CC", "CXX", "FC", "OBJC", "OBJCXX"].contains(&name) || name.starts_with("CXX1") || name.starts_with("CXX2");
    is_compiler
        || name.ends_with("FLAGS") && !name.starts_with("ALL_") && !name.starts_with("R_") && !name.starts_with("JAVA")
        || ["BLAS_LIBS", "LAPACK_LIBS", "FLIBS", "SHLIB_LD", "SHLIB_CXXLD"].contains(&name)
}

fn first_line(command: &mut Command) -> String {
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let stdout = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&stdout).lines().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognised() {
        let debian = Distro::parse("NAME=\"Debian\"\nID=debian\nVERSION_ID=\"12\"\n").unwrap();
        assert_eq!(debian.tag(), "debian-12");
        let mint = Distro::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\nVERSION_ID=21/3\n").unwrap();
        assert_eq!(mint.tag(), "linuxmint-21_3");
        assert!(Distro::install_command(Some(&mint)).contains("r-base-dev"));
        assert_eq!(Distro::parse("PRETTY_NAME=x\n"), None);
    }

    #[test]
    fn flags_are_what_compiling_depends_on() {
        assert_eq!(make_variable("CXX17FLAGS = -g -O2"), Some(("CXX17FLAGS", "-g -O2")));
        assert_eq!(make_variable("%.o: %.c = x"), None);
        for name in ["CC", "CFLAGS", "CXX17", "CXX17FLAGS", "LDFLAGS", "FPICFLAGS"] {
            assert!(is_flag(name), "{name}");
        }
        for name in ["R_HOME", "ALL_CFLAGS", "JAVA_CPPFLAGS", "LIBR"] {
            assert!(!is_flag(name), "{name}");
        }
    }
}
