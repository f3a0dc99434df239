//! `larder.toml`: what stands for options that were neither typed nor in the environment.
//!
//! ```toml
//! store = "/var/cache/larder"             # or "own:/base": the first is written, the others are only read
//! library = "library"
//! tenant = "team"
//! signing-key = "secret.key"
//! trust-projects = ["~/work"]             # in the user's file: whose files count as the user's own
//!
//! [[cache]]
//! url = "s3://team-cache/larder"
//! access = "ro"                           # or "rw"
//! trust = "signed"                        # or "all", "none"
//! keys = ["RW..."]
//! timeout = "5s"
//!
//! [ci-cache]                              # means what LARDER_CI_CACHE and its like do: only where `CI` is set
//! mode = "both"                           # or "off", "restore", "save"
//! url = "fs:///ci"                        # on GitHub not needed
//! key = "larder-{r}-{os}-{arch}-{lock}"
//! restore-keys = ["larder-{r}-{os}-{arch}-"]
//! ```
//!
//! Looked for in the current directory (the project's), and then as `larder/larder.toml` in the user's configuration
//! directory; or only where `LARDER_CONFIG` says. Relative paths count from the file.
//!
//! A project's file was written by whoever wrote the repository. Building a lockfile runs what that asks for anyway, but
//! only under keys of its own; a cache of somebody else could put something wrong into the store under the key of a
//! package that other projects use, and one that is written to gets what is built here. So of a project that the user
//! has not named in `trust-projects` nothing counts but a `library` inside of it, and of `ci-cache` all but where that is: it
//! is the project's own job that has it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use larder_ops::tiers::{Address, Tenant};
use serde::Deserialize;
use toml::Spanned;

use super::{CommandError, Env};
use crate::exit::Exit;

const NAME: &str = "larder.toml";
/// The variables of the CI cache: mode, place, key and what else will do.
const OF_CI: [&str; 4] =
    ["LARDER_CI_CACHE", "LARDER_CI_CACHE_URL", "LARDER_CI_CACHE_KEY", "LARDER_CI_CACHE_RESTORE_KEYS"];

/// What one file may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    store: Option<String>,
    library: Option<String>,
    tenant: Option<Tenant>,
    signing_key: Option<String>,
    trust_projects: Vec<String>,
    cache: Vec<Spanned<Cache>>,
    /// The caches as they would be typed.
    #[serde(skip)]
    caches: Vec<String>,
    ci_cache: Option<Spanned<CiCache>>,
}

/// Packages that are kept from one CI job to the next.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct CiCache {
    mode: Option<Mode>,
    url: Option<String>,
    key: Option<String>,
    restore_keys: Vec<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Off,
    Restore,
    Save,
    Both,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Cache {
    url: String,
    access: Option<Access>,
    trust: Option<Trust>,
    #[serde(default)]
    keys: Vec<String>,
    timeout: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Access {
    Ro,
    Rw,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Trust {
    None,
    Signed,
    All,
}

/// What all files together say.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Values by the environment variable that goes before them.
    values: BTreeMap<&'static str, String>,
    caches: Vec<String>,
    /// The files, the one that goes before the others first.
    pub(super) files: Vec<PathBuf>,
    /// What the user should know of them.
    pub(super) warnings: Vec<String>,
}

impl Settings {
    /// Reads the files; that there are none is fine, unless one was named.
    pub(super) fn read(env: &Env) -> Result<Self, CommandError> {
        let mut settings = Self::default();
        if let Some(path) = env.path("LARDER_CONFIG") {
            let file = read(&path)?.ok_or_else(|| {
                CommandError::new(Exit::Usage, format!("LARDER_CONFIG: there is no file `{}`", path.display()))
            })?;
            settings.take(&path, file, env);
            return Ok(settings);
        }
        let home = || env.path("XDG_CONFIG_HOME").or_else(|| Some(env.path("HOME")?.join(".config")));
        let of_user = home().map(|dir| dir.join("larder").join(NAME));
        let user = of_user.as_deref().map(read).transpose()?.flatten();
        let here = Path::new(NAME);
        if let Some(mut project) = read(here)? {
            let trusted = user.iter().flat_map(|user| &user.trust_projects);
            let dirs = trusted.filter_map(|dir| Some(in_place(of_user.as_deref()?, dir, env)));
            if !is_below_one_of(dirs) {
                settings.warnings.extend(project.confine(of_user.as_deref()));
            }
            settings.take(here, project, env);
        }
        if let (Some(path), Some(user)) = (of_user, user) {
            settings.take(&path, user, env);
        }
        Ok(settings)
    }

    /// Adds what a file says and none before it did.
    fn take(&mut self, path: &Path, file: File, env: &Env) {
        let placed = |text: Option<String>| text.map(|text| in_place(path, &text, env).display().to_string());
        let stores = file.store.map(|stores| {
            let stores = std::env::split_paths(&stores).map(|store| in_place(path, &store.to_string_lossy(), env));
            stores.map(|store| store.display().to_string()).collect::<Vec<_>>().join(":")
        });
        let said = [
            ("LARDER_STORE", stores),
            ("LARDER_LIBRARY", placed(file.library)),
            ("LARDER_TENANT", file.tenant.map(|tenant| tenant.to_string())),
            ("LARDER_SIGNING_KEY", placed(file.signing_key)),
        ];
        let ci = file.ci_cache.map(Spanned::into_inner).unwrap_or_default().variables();
        for (name, value) in said.into_iter().chain(ci) {
            if let Some(value) = value {
                self.values.entry(name).or_insert(value);
            }
        }
        if self.caches.is_empty() {
            self.caches = file.caches;
        }
        self.files.push(path.to_owned());
    }

    /// Puts what the files say and no option has for a default behind the environment: so for that, too, the
    /// environment goes before a file.
    pub(super) fn behind(&self, env: &Env) -> Env {
        let mut variables = env.variables.clone();
        let unset = self.values.iter().filter(|(name, _)| OF_CI.contains(name) && env.get(name).is_none());
        variables.retain(|(name, _)| !unset.clone().any(|(unset, _)| name == unset));
        variables.extend(unset.map(|(name, value)| (name.into(), value.into())));
        Env { variables }
    }

    /// Makes what the files say the defaults of all commands: so what is typed goes before the environment, that before
    /// a file, and that before the usual.
    pub(super) fn applied_to(&self, command: Command, env: &Env) -> Command {
        // Each option that is looked at is moved; that takes longer than reading a lockfile.
        if self.values.is_empty() && self.caches.is_empty() {
            return command;
        }
        let are_caches_set = env.get("LARDER_CACHE").is_some();
        let with_default = |arg: Arg| {
            let value = arg.get_env().and_then(|name| self.values.get(name.to_str()?));
            match value {
                Some(value) => arg.default_value(value.clone()),
                None if arg.get_long() == Some("cache") && !are_caches_set && !self.caches.is_empty() => {
                    arg.default_values(self.caches.clone()).hide_default_value(true)
                }
                None => arg,
            }
        };
        command.mut_args(with_default).mut_subcommands(|command| self.applied_to(command, env))
    }
}

impl File {
    /// Takes out what a project has no say in; returns what to tell the user of that.
    fn confine(&mut self, of_user: Option<&Path>) -> Option<String> {
        let library = self.library.take();
        let is_inside =
            |path: &String| Path::new(path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        let (inside, outside) = (library.clone().filter(is_inside), library.filter(|path| !is_inside(path)));
        let found = [
            ("store", self.store.is_some()),
            ("library", outside.is_some()),
            ("tenant", self.tenant.is_some()),
            ("signing-key", self.signing_key.is_some()),
            ("trust-projects", !self.trust_projects.is_empty()),
            ("cache", !self.cache.is_empty()),
            ("ci-cache.url", self.ci_cache.as_ref().is_some_and(|ci| ci.get_ref().url.is_some())),
        ];
        let ci_cache = self.ci_cache.take().map(|ci| Spanned::new(ci.span(), CiCache { url: None, ..ci.into_inner() }));
        *self = Self { library: inside, ci_cache, ..Self::default() };
        let found: Vec<_> = found.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| format!("`{name}`")).collect();
        let user = of_user.map_or_else(|| "your own file".to_owned(), |path| format!("`{}`", path.display()));
        (!found.is_empty()).then(|| {
            format!(
                "`{NAME}` of this project is not trusted with {}: name its directory in `trust-projects` of {user}, or \
                 set `LARDER_CONFIG={NAME}`",
                found.join(", ")
            )
        })
    }
}

impl Cache {
    /// Returns it as it would be typed, checked.
    fn address(&self) -> Result<String, String> {
        let mut wishes = Vec::new();
        wishes.extend(self.trust.map(|trust| match trust {
            Trust::None => "trust=none".to_owned(),
            Trust::Signed => "trust=signed".to_owned(),
            Trust::All => "trust=all".to_owned(),
        }));
        wishes.extend(self.keys.iter().map(|key| format!("key={}", encoded(key))));
        wishes.extend(self.timeout.iter().map(|timeout| format!("timeout={}", encoded(timeout))));
        let (url, typed) = match self.url.rsplit_once(':') {
            Some((url, access @ ("ro" | "rw"))) => (url, Some(access)),
            _ => (&*self.url, None),
        };
        let access = match (self.access, typed) {
            (None, typed) => typed.unwrap_or("rw"),
            (Some(Access::Ro), None | Some("ro")) => "ro",
            (Some(Access::Rw), None | Some("rw")) => "rw",
            (Some(_), Some(typed)) => return Err(format!("`access` is not what `:{typed}` in `url` says")),
        };
        let joint = if wishes.is_empty() {
            ""
        } else if url.contains('?') {
            "&"
        } else {
            "?"
        };
        let address = format!("{url}{joint}{}:{access}", wishes.join("&"));
        address.parse::<Address>().map(|_| address).map_err(|error| error.to_string())
    }
}

impl CiCache {
    /// Says what is wrong with it.
    fn check(&self) -> Result<(), String> {
        if let Some(key) = self.restore_keys.iter().find(|key| key.contains(char::is_whitespace)) {
            return Err(format!("`restore-keys` has one with a blank: `{}`", key.escape_debug()));
        }
        self.url.as_ref().map_or(Ok(()), |url| url.parse::<Address>().map(drop).map_err(|error| error.to_string()))
    }

    /// Returns it as it would be in the environment.
    fn variables(self) -> [(&'static str, Option<String>); 4] {
        let mode = self.mode.map(|mode| match mode {
            Mode::Off => "off",
            Mode::Restore => "restore",
            Mode::Save => "save",
            Mode::Both => "both",
        });
        let prefixes = Some(self.restore_keys.join(" ")).filter(|prefixes| !prefixes.is_empty());
        let [a, b, c, d] = OF_CI;
        [(a, mode.map(str::to_owned)), (b, self.url), (c, self.key), (d, prefixes)]
    }
}

/// Writes what has a meaning of its own in a URL otherwise.
fn encoded(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace('&', "%26").replace('#', "%23")
}

/// Returns a path of a file as one of this process: `~/` is the home, and all else starts beside the file.
fn in_place(file: &Path, path: &str, env: &Env) -> PathBuf {
    match (path.strip_prefix("~/"), env.path("HOME")) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => file.parent().unwrap_or(Path::new("")).join(path),
    }
}

fn is_below_one_of(mut dirs: impl Iterator<Item = PathBuf>) -> bool {
    let Ok(here) = fs_err::canonicalize(".") else { return false };
    dirs.any(|dir| fs_err::canonicalize(dir).is_ok_and(|dir| here.starts_with(dir)))
}

fn read(path: &Path) -> Result<Option<File>, CommandError> {
    let text = match fs_err::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(CommandError::new(Exit::Usage, error.to_string())),
    };
    let wrong = |at: Option<usize>, why: &str| {
        let line = at.map(|at| format!(":{}", 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()));
        CommandError::new(Exit::Usage, format!("{}{}: {why}", path.display(), line.unwrap_or_default()))
    };
    let mut file: File = toml::from_str(&text).map_err(|error: toml::de::Error| {
        wrong(error.span().map(|span| span.start), error.message().lines().next().unwrap_or_default())
    })?;
    let typed = |cache: &Spanned<Cache>| cache.get_ref().address().map_err(|why| wrong(Some(cache.span().start), &why));
    if let Some(ci) = &file.ci_cache {
        ci.get_ref().check().map_err(|why| wrong(Some(ci.span().start), &why))?;
    }
    file.caches = file.cache.iter().map(typed).collect::<Result<_, _>>()?;
    Ok(Some(file))
}
