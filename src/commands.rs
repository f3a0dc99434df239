//! The commands, and how what goes wrong in one becomes a message, a hint and an exit status.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use larder_ops::fetch::Netrc;
use larder_ops::install::DebugInfo;
use larder_ops::tiers::AddressError;

use crate::cli::{CacheArgs, Cli, Color, Command, OutputArgs, OwnerArgs, PlaceArgs, SourceArgs, StoreArgs, WishArgs};
use crate::exit::Exit;
use crate::larder::{self, Config, Larder, Request};
use crate::lockfile::{Lockfile, LockfileError};
use crate::ui::{self, ColorMode, Palette};

mod cicache;
mod clock;
mod completions;
mod doctor;
mod graph;
mod library;
mod log;
mod plan;
mod remote;
mod settings;
mod solve;
mod store;
mod why;

use settings::Settings;

/// The environment that a command runs in, read once.
#[derive(Debug)]
pub struct Env {
    variables: Vec<(OsString, OsString)>,
}

impl Env {
    /// Reads the environment of this process.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the environment is read")]
    pub fn read() -> Self {
        Self { variables: std::env::vars_os().collect() }
    }

    fn get(&self, name: &str) -> Option<&OsStr> {
        let found = self.variables.iter().find(|(variable, _)| variable == name).map(|(_, value)| value.as_os_str());
        found.filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// What builds may see: where programs are, and how to reach the network for the few packages that download.
    fn for_builds(&self) -> Vec<(OsString, OsString)> {
        const SEEN: [&str; 8] = [
            "PATH",
            "LD_LIBRARY_PATH",
            "http_proxy",
            "https_proxy",
            "no_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "NO_PROXY",
        ];
        self.variables.iter().filter(|(name, _)| SEEN.iter().any(|seen| name == seen)).cloned().collect()
    }
}

/// What ended a command.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    message: String,
    hints: Vec<String>,
}

impl CommandError {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hints: Vec::new() }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl From<larder::Error> for CommandError {
    fn from(error: larder::Error) -> Self {
        let exit = if error.is_usage() { Exit::Usage } else { Exit::Environment };
        Self { exit, hints: error.hint().into_iter().collect(), message: error.to_string() }
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::new(Exit::Environment, error.to_string())
    }
}

/// Runs the command that was typed.
pub fn main(env: &Env) -> ExitCode {
    #[cfg(feature = "faults")]
    if let Some(fault) = env.get("LARDER_FAULT").and_then(OsStr::to_str) {
        larder_ops::fault::arm(fault).expect("a test says what is to fail");
    }
    let settings = Settings::read(env);
    let mut command = Cli::command();
    if let Ok(settings) = &settings {
        command = settings.applied_to(command, env);
    }
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let cli = match parsed.and_then(|typed| Cli::from_arg_matches(&typed).map_err(|error| error.format(&mut command))) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let mut palette = palette(env, Color::Auto);
    // Help is to be had even so.
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => {
            ui::print_error(&error.message, &error.hints, palette);
            return error.exit.into();
        }
    };
    settings.warnings.iter().for_each(|message| ui::print_warning(message, palette));
    let env = &settings.behind(env);
    let result = match cli.command {
        None => {
            palette = self::palette(env, cli.solve.output.color);
            solve::run(&cli.solve, env)
        }
        Some(Command::Plan(args)) => plan::run(&args, env),
        Some(Command::Why(args)) => why::run(&args, env),
        Some(Command::Graph(args)) => graph::run(&args, env),
        Some(Command::Log(args)) => log::run(&args, env),
        Some(Command::Store(command)) => store::run(&command, env),
        Some(Command::Remote(command)) => remote::run(&command, env),
        Some(Command::Cache(command)) => cicache::run(&command, env),
        Some(Command::Library(command)) => library::run(&command, env),
        Some(Command::Doctor(args)) => doctor::run(&args, &settings, env),
        Some(Command::Completions { shell }) => Ok(completions::run(shell)),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            ui::print_error(&error.message, &error.hints, palette);
            error.exit.into()
        }
    }
}

fn palette(env: &Env, color: Color) -> Palette {
    let mode = match color {
        Color::Auto => ColorMode::Auto,
        Color::Always => ColorMode::Always,
        Color::Never => ColorMode::Never,
    };
    Palette::choose(mode, env.get("NO_COLOR").is_some(), io::stderr().is_terminal())
}

fn shown(lockfile: &Path) -> String {
    if lockfile == Path::new("-") { "standard input".to_owned() } else { lockfile.display().to_string() }
}

/// Reads and checks a lockfile; `-` is standard input.
fn read_lockfile(path: &Path) -> Result<Lockfile, CommandError> {
    parse_lockfile(path, &read_bytes(path)?)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, CommandError> {
    let shown = shown(path);
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        #[expect(clippy::disallowed_methods, reason = "the message below names the path")]
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map_err(|error| {
        CommandError::new(Exit::Usage, format!("{shown}: cannot read the lockfile: {error}"))
            .hint("name a file that `pak::lockfile_create()` wrote, or `-` for standard input")
    })?;
    Ok(bytes)
}

fn parse_lockfile(path: &Path, bytes: &[u8]) -> Result<Lockfile, CommandError> {
    let shown = shown(path);
    let text = std::str::from_utf8(bytes)
        .map_err(|error| CommandError::new(Exit::Usage, format!("{shown}: not a lockfile: {error}")))?;
    Lockfile::parse(text.trim_start_matches('\u{feff}')).map_err(|error| {
        let hint = LockfileError::hint(&error);
        CommandError::new(Exit::Usage, format!("{shown}: {error}")).hint(hint)
    })
}

/// Says of an error in what the lockfile holds in which lockfile that is.
fn in_lockfile(path: &Path) -> impl Fn(larder::Error) -> CommandError {
    move |error| {
        let is_in_it = matches!(&error, larder::Error::Plan(problem) if problem.is_in_lockfile());
        let mut error = CommandError::from(error);
        if is_in_it {
            error.message = format!("{}: {}", shown(path), error.message);
        }
        error
    }
}

fn base_of(lockfile: &Path) -> PathBuf {
    lockfile.parent().map(Path::to_owned).unwrap_or_default()
}

fn store_of(args: &StoreArgs, env: &Env) -> Result<PathBuf, CommandError> {
    Ok(stores_of(args, env)?.0)
}

/// Returns the store, and those below it.
fn stores_of(args: &StoreArgs, env: &Env) -> Result<(PathBuf, Vec<PathBuf>), CommandError> {
    let cache = || env.path("XDG_CACHE_HOME").or_else(|| Some(env.path("HOME")?.join(".cache")));
    let stores = args.store.clone().or_else(|| Some(cache()?.join("larder/store")));
    let stores = stores.ok_or_else(|| {
        CommandError::new(Exit::Environment, "there is no place for the store: neither HOME nor XDG_CACHE_HOME is set")
            .hint("name a directory with `--store` or `LARDER_STORE`")
    })?;
    // Builds run elsewhere, and the library may hold links into the store.
    let mut all = std::env::split_paths(&stores).map(std::path::absolute);
    let store = all.next().unwrap_or_else(|| Ok(stores.clone()))?;
    Ok((store, all.collect::<Result<_, _>>()?))
}

fn request(place: &PlaceArgs, wish: &WishArgs, lockfile: &Path) -> Request {
    Request {
        rebuild: wish.rebuild.iter().cloned().collect(),
        rebuilds_when_imports_change: wish.rebuild_when == crate::cli::RebuildWhen::Imports,
        debug_info: match wish.debug_info {
            crate::cli::DebugInfo::Drop => DebugInfo::Drop,
            crate::cli::DebugInfo::Keep => DebugInfo::Keep,
        },
        base: base_of(lockfile),
        ..Request::new(&place.library)
    }
}

/// Joins the options with what the environment adds: credentials and Makevars.
fn config(store: &StoreArgs, r: Option<&Path>, source: Option<&SourceArgs>, env: &Env) -> Result<Config, CommandError> {
    let home = env.path("HOME");
    let netrc = env.path("NETRC").or_else(|| Some(home.as_ref()?.join(".netrc")));
    let makevars = env.path("R_MAKEVARS_USER").or_else(|| Some(home.as_ref()?.join(".R/Makevars")));
    let (store, base_stores) = stores_of(store, env)?;
    Ok(Config {
        base_stores,
        r: r.map(Path::to_owned),
        is_offline: source.is_some_and(|source| source.offline),
        mirrors: source.map(|source| source.mirror.clone()).unwrap_or_default(),
        netrc: netrc.and_then(|path| fs_err::read_to_string(path).ok()).map(|text| Netrc::parse(&text)),
        github_token: ["GITHUB_PAT", "GITHUB_TOKEN"].iter().find_map(|name| env.get(name)?.to_str().map(str::to_owned)),
        makevars: makevars.filter(|path| path.is_file()),
        ..Config::new(store, env.for_builds())
    })
}

/// Adds the caches beyond this machine: those that were named, else those of the environment.
fn with_caches(config: Config, args: &CacheArgs, env: &Env) -> Result<Config, CommandError> {
    let listed = || env.get("LARDER_CACHE").and_then(OsStr::to_str).unwrap_or_default().split_whitespace();
    let caches = match &*args.cache {
        [] => listed().map(str::parse).collect::<Result<_, AddressError>>(),
        named => Ok(named.to_vec()),
    };
    let caches = caches.map_err(|error| CommandError::new(Exit::Usage, format!("LARDER_CACHE: {error}")))?;
    let github = cicache::github(env);
    let OwnerArgs { tenant, signing_key } = args.owner.clone();
    Ok(Config { caches, tenant, github, signing_key, ..config })
}

/// Asks the caches beyond this machine about a lockfile, so that plans know what they have.
fn survey(larder: &Larder, path: &Path, lockfile: &Lockfile, request: &Request, env: &Env) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(larder.survey(lockfile, request)).map_err(in_lockfile(path))?;
    let palette = palette(env, Color::Auto);
    larder.cache_warnings().iter().for_each(|message| ui::print_warning(message, palette));
    Ok(())
}

fn larder(config: Config) -> Result<Arc<Larder>, CommandError> {
    let mut larder = Larder::open(config)?;
    if !larder.has_platform() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(larder.settle_platform());
    }
    Ok(Arc::new(larder))
}

/// Turns on log lines on stderr for `-v`; warnings otherwise.
fn log_to_stderr(output: &OutputArgs) {
    let level = if output.verbose { tracing::Level::DEBUG } else { tracing::Level::WARN };
    let level = if output.quiet { tracing::Level::ERROR } else { level };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_target(false).without_time();
    // A second call, in tests, changes nothing.
    let _ = subscriber.with_writer(io::stderr).try_init();
}
