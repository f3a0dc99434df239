//! The command line: what can be typed, and nothing about what it does.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use larder_ops::fetch::Mirror;
use larder_ops::library::GENERATIONS_KEPT;
use larder_ops::package::PackageName;

mod cicache;
mod remote;

pub(crate) use cicache::{
    CacheCommand, CacheDeleteArgs, CacheListArgs, CachePathsArgs, CachePruneArgs, CiArgs, CiCommonArgs, CiKeyArgs,
    CiMode, CiPlaceArgs,
};
pub(crate) use remote::{CacheArgs, RemoteArgs, RemoteCommand};

/// Turn a pak lockfile into a complete R package library
///
/// Every package is loaded from a store of what was built before, recompiled because a package that it links to
/// changed, or built and kept for the next run. The library changes at the end, one package at a time and each in one
/// step; if a package fails it stays as it was, unless --keep-going.
#[derive(Debug, Parser)]
#[command(
    name = "solve",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Defaults come from larder.toml here and from larder/larder.toml in the user's configuration directory, \
                  or from the file that LARDER_CONFIG names.\n\n\
                  Exit codes: 0 done, 1 some package failed, 2 bad usage or lockfile, \
                  3 environment (no R, no compiler, disk full, store not writable), 101 a bug of ours, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub solve: SolveArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what would be done for a lockfile, and why
    Plan(PlanArgs),
    /// Explain one package: what its key is made of, what differs from store and library, who needs it
    Why(WhyArgs),
    /// Print the build graph
    Graph(GraphArgs),
    /// Print the log of the latest build
    Log(LogArgs),
    /// Look after the store: verify, count, evict, move packages, and trade them with other tools
    #[command(subcommand)]
    Store(StoreCommand),
    /// Look at the generations of a library, go back to one, and keep the libraries of workers
    #[command(subcommand)]
    Library(LibraryCommand),
    /// Look at caches beyond this machine, and move packages there or here ahead of a run
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Keep packages from one CI job to the next: save, restore, list, delete
    #[command(subcommand)]
    Cache(Box<CacheCommand>),
    /// Check R, compilers, store, and the system packages that a lockfile asks for
    Doctor(DoctorArgs),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum LibraryCommand {
    /// List the generations of a library, and what differs from one to the next
    Ls(LibraryArgs),
    /// Make another generation the current one, in one step; the one that is left stays
    Rollback {
        /// Its number [default: the one before the current one]
        number: Option<u32>,
        #[command(flatten)]
        library: LibraryArgs,
    },
    /// Make an empty library for one worker, on the store's file system, and print its directory
    Create {
        /// The process whose library it is: when that has ended, others may remove it [default: it stays]
        #[arg(long, value_name = "PID")]
        owner: Option<u32>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// List the libraries of workers
    Workers {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove libraries of workers; one that is not there is fine
    Rm {
        /// Their ids, or their directories
        #[arg(value_name = "ID", required_unless_present = "ownerless")]
        ids: Vec<PathBuf>,
        /// Remove all whose owner has ended
        #[arg(long)]
        ownerless: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LibraryArgs {
    /// The library
    #[arg(short, long, env = "LARDER_LIBRARY", default_value = "library", value_name = "DIR", hide_env_values = true)]
    pub library: PathBuf,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Link into a library what the store has of a lockfile
    Populate(ExchangeArgs),
    /// Give the store what another tool has installed for a lockfile
    Ingest(ExchangeArgs),
    /// Remove what was not used for long, or is too much; never what a run or a library uses
    Evict(EvictArgs),
    /// Count what the store holds, by platform and package
    Stats(StatsArgs),
    /// List the entries of the store
    Ls(LsArgs),
    /// Remove packages from the store, unless a run or a library uses them
    Rm(RmArgs),
    /// Print the directory of the store
    Path(StoreArgs),
    /// Check that everything is as it was stored: every byte, every record; ends with 1 if not
    Verify(VerifyArgs),
    /// Write packages with all that they need to standard output, for another store
    Export(ExportArgs),
    /// Take in from standard input what `export` wrote, in whole or not at all
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The packages [default: all of the lockfile or library]
    #[arg(value_name = "PKG", value_parser = PackageName::parse, required_unless_present_any = ["lockfile", "library"])]
    pub packages: Vec<PackageName>,
    /// Export what this lockfile asks for [default: what was used last]
    #[arg(long, value_name = "FILE", conflicts_with = "library")]
    pub lockfile: Option<PathBuf>,
    /// Export what this library holds
    #[arg(long, value_name = "DIR")]
    pub library: Option<PathBuf>,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The R that the packages are for [default: R on PATH]
    #[arg(long, env = "LARDER_R", value_name = "PATH", hide_env_values = true)]
    pub r: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Take it in although it is for another platform than this machine's
    #[arg(long)]
    pub any_platform: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The R that the packages are for [default: R on PATH]
    #[arg(long, env = "LARDER_R", value_name = "PATH", hide_env_values = true)]
    pub r: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct EvictArgs {
    /// Remove what was not used for this long, such as 30d or 12h; 0 is off
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, required_unless_present = "max_size")]
    pub older_than: Option<Duration>,
    /// Remove what was used least recently until the store is no larger than this, such as 10GB or 512MiB
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    pub max_size: Option<u64>,
    /// Show what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The package [default: all]
    #[arg(value_name = "PKG", value_parser = PackageName::parse)]
    pub package: Option<PackageName>,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The packages; all builds of one, or of one version
    #[arg(value_name = "PKG[@VERSION]", required = true, value_parser = package_and_version)]
    pub packages: Vec<(PackageName, Option<String>)>,
    /// Remove them although they are in use
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The packages to check [default: all]
    #[arg(value_name = "PKG", value_parser = PackageName::parse)]
    pub packages: Vec<PackageName>,
    /// Set broken entries aside, and put right what can be
    #[arg(long)]
    pub repair: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ExchangeArgs {
    /// The lockfile; `-` for standard input
    #[arg(long, value_name = "FILE")]
    pub lockfile: PathBuf,
    /// The library of the other tool
    #[arg(long, value_name = "DIR")]
    pub lib: PathBuf,
    /// A library that stays in use beside it: what it has under the same key is left there
    #[arg(long, value_name = "DIR")]
    pub reference_lib: Option<PathBuf>,
    /// The library is to take the place of the reference library: what is the same comes over from there
    #[arg(long, requires = "reference_lib")]
    pub runtime: bool,
    /// Read every byte of what is taken, and set aside what is not as it was stored
    #[arg(long, env = "LARDER_VERIFY", hide_env_values = true)]
    pub verify: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The R that the packages are for [default: R on PATH]
    #[arg(long, env = "LARDER_R", value_name = "PATH", hide_env_values = true)]
    pub r: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SolveArgs {
    /// The lockfile, as `pak::lockfile_create()` writes it; `-` for standard input
    #[arg(required = true)]
    pub lockfile: Option<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub ci: CiArgs,
    /// How many CPUs builds, and make within them, may use together [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    /// How much memory builds may need together, such as 6GB, by what earlier ones needed [default: all]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    pub memory: Option<u64>,
    /// After a failure go on with everything that does not depend on it
    #[arg(short, long)]
    pub keep_going: bool,
    /// How packages get from the store into the library
    #[arg(long, value_enum, default_value_t, value_name = "HOW", hide_possible_values = true)]
    #[arg(help = "How packages get from the store into the library: auto, reflink, hardlink, symlink or copy")]
    pub link: Link,
    /// Read every byte of what is loaded, and build again what is not as it was stored
    #[arg(long, env = "LARDER_VERIFY", hide_env_values = true)]
    pub verify: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
    #[command(flatten)]
    pub build: BuildArgs,
    /// Show the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub time: TimeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// How to show progress
    #[arg(long, value_enum, default_value_t, value_name = "HOW", hide_possible_values = true)]
    #[arg(help = "How to show progress: auto, bars, lines or none")]
    pub progress: Progress,
}

/// Where the time went.
#[derive(Debug, Args)]
pub(crate) struct TimeArgs {
    /// Write a page that shows where the time went [default name: solve-timings.html]
    #[arg(long, value_name = "FILE.html", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "solve-timings.html")]
    pub timings: Option<PathBuf>,
    /// Write a trace of the run, for ui.perfetto.dev or `chrome://tracing`
    #[arg(long, value_name = "FILE.json")]
    pub trace: Option<PathBuf>,
}

/// How packages are built.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// How long one package may build, such as 90m or 2h
    #[arg(long, value_name = "TIME", default_value = "60m", value_parser = humantime::parse_duration)]
    pub build_timeout: Duration,
    /// Install every package with an R of its own instead of one that is kept warm
    #[arg(long, env = "LARDER_PLAIN_INSTALL", value_parser = clap::builder::FalseyValueParser::new(), hide_env = true)]
    pub plain_install: bool,
}

/// How the library changes.
#[derive(Debug, Args)]
pub(crate) struct ChangeArgs {
    /// Also remove packages from the library that this command did not put there
    #[arg(long)]
    pub exact: bool,
    /// Make the library from this one, which is in use and stays as it is: what it has besides the lockfile comes too
    #[arg(long, value_name = "DIR")]
    pub reference_lib: Option<PathBuf>,
    /// Replace the library as a whole, by a symlink to the new one; `solve library rollback` goes back
    #[arg(long)]
    pub atomic_library: bool,
    /// How many generations of such a library stay
    #[arg(long, value_name = "N", default_value_t = GENERATIONS_KEPT, value_parser = generations_kept)]
    pub keep_generations: usize,
}

/// Where things are.
#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// The library to make complete
    #[arg(short, long, env = "LARDER_LIBRARY", default_value = "library", value_name = "DIR", hide_env_values = true)]
    pub library: PathBuf,
    #[command(flatten)]
    pub store: StoreArgs,
    /// The R to build with [default: R on PATH]
    #[arg(long, env = "LARDER_R", value_name = "PATH", hide_env_values = true)]
    pub r: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Where results are kept; behind `:` stores that are only read [default: larder/store in the user's cache directory]
    #[arg(long, env = "LARDER_STORE", value_name = "DIR[:DIR]", hide_env_values = true)]
    pub store: Option<PathBuf>,
}

/// What is wanted besides the lockfile.
#[derive(Debug, Args)]
pub(crate) struct WishArgs {
    /// Build this package although the store has it (repeatable)
    #[arg(long, value_name = "PKG", value_parser = PackageName::parse)]
    pub rebuild: Vec<PackageName>,
    /// Which changes rebuild a package
    #[arg(long, value_enum, default_value_t, value_name = "WHAT", hide_possible_values = true)]
    #[arg(help = "Which changes rebuild a package: those of linking-to (headers) or of imports as well")]
    pub rebuild_when: RebuildWhen,
    /// What becomes of debug information in compiled code
    #[arg(long, value_enum, default_value_t, value_name = "HOW", hide_possible_values = true)]
    #[arg(help = "What becomes of debug information in compiled code: drop it or keep it")]
    pub debug_info: DebugInfo,
}

/// Where sources come from.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Do without a network
    #[arg(long)]
    pub offline: bool,
    /// Download from URL what starts with PREFIX (repeatable); a directory or file:// URL will do
    #[arg(long, value_name = "PREFIX=URL", value_parser = mirror)]
    pub mirror: Vec<Mirror>,
}

/// How a command talks.
#[derive(Debug, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object per line on stdout
    #[arg(long)]
    pub json: bool,
    /// Say only what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more, and show what builds write; with --json builds write events too
    #[arg(short, long)]
    pub verbose: bool,
    /// When to use colours: auto, always or never
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", hide_possible_values = true)]
    pub color: Color,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The lockfile; `-` for standard input
    pub lockfile: PathBuf,
    /// The library in use that the new one would be made from
    #[arg(long, value_name = "DIR")]
    pub reference_lib: Option<PathBuf>,
    /// Packages that an R with that library has loaded: say which of them would change
    #[arg(long, value_name = "PKG,...", value_delimiter = ',', value_parser = PackageName::parse)]
    pub loaded: Option<Vec<PackageName>>,
    /// How many CPUs builds would use together, for how long they would take [default: all]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub jobs: Option<u32>,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The lockfile; `-` for standard input
    pub lockfile: PathBuf,
    /// The package
    #[arg(value_parser = PackageName::parse)]
    pub package: PackageName,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// The lockfile; `-` for standard input
    pub lockfile: PathBuf,
    /// The form: dot, mermaid or json
    #[arg(long, value_enum, default_value_t, value_name = "FORM", hide_possible_values = true)]
    pub format: GraphFormat,
    #[command(flatten)]
    pub cache: CacheArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// The package [default: whatever was built last]
    #[arg(value_parser = PackageName::parse)]
    pub package: Option<PackageName>,
    /// Only builds that failed
    #[arg(long)]
    pub failed: bool,
    #[command(flatten)]
    pub store: StoreArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// A lockfile whose system requirements are checked too
    pub lockfile: Option<PathBuf>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Link {
    #[default]
    Auto,
    Reflink,
    Hardlink,
    Symlink,
    Copy,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RebuildWhen {
    #[default]
    LinkingTo,
    Imports,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DebugInfo {
    #[default]
    Drop,
    Keep,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum Progress {
    #[default]
    Auto,
    Bars,
    Lines,
    None,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(crate) enum GraphFormat {
    #[default]
    Dot,
    Mermaid,
    Json,
}

fn generations_kept(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|kept| *kept > 0).ok_or_else(|| "expected a number above 0".to_owned())
}

/// Reads a size with a unit; `GB` are powers of 1000, `GiB` of 1024.
fn size_bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim().to_ascii_lowercase());
    let factor: u32 = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1000_u32.pow(2),
        "g" | "gb" => 1000_u32.pow(3),
        "kib" => 1024,
        "mib" => 1024_u32.pow(2),
        "gib" => 1024_u32.pow(3),
        "t" | "tb" => return size_bytes(&format!("{number}gb")).map(|bytes| bytes.saturating_mul(1000)),
        "tib" => return size_bytes(&format!("{number}gib")).map(|bytes| bytes.saturating_mul(1024)),
        _ => return Err("expected a number with a unit, such as 10GB or 512MiB".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number with a unit, such as 10GB".to_owned())?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it has no sign, and `as` saturates")]
    Ok((number * f64::from(factor)) as u64)
}

fn package_and_version(text: &str) -> Result<(PackageName, Option<String>), String> {
    let (package, version) = text.split_once('@').map_or((text, None), |(package, version)| (package, Some(version)));
    let package = PackageName::parse(package).map_err(|error| error.to_string())?;
    Ok((package, version.map(str::to_owned)))
}

fn mirror(text: &str) -> Result<Mirror, String> {
    // The prefix is a URL and may have `=` in its query; what it becomes starts like a URL or a path.
    let splits = text.match_indices('=').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let is_place = |to: &str| {
        let scheme = to.split_once("://").map_or("", |(scheme, _)| scheme);
        to.starts_with(['/', '.'])
            || !scheme.is_empty() && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'+')
    };
    let split = splits.clone().find(|(_, to)| is_place(to)).or_else(|| splits.clone().next());
    match split.filter(|(prefix, to)| !prefix.is_empty() && !to.is_empty()) {
        Some((prefix, to)) => Ok(Mirror { prefix: prefix.to_owned(), to: to.to_owned() }),
        None => Err("expected PREFIX=URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size_bytes("10GB"), Ok(10_000_000_000));
        assert_eq!(size_bytes("1.5 MiB"), Ok(1_572_864));
        assert_eq!(size_bytes("2tb"), Ok(2_000_000_000_000));
        assert_eq!(size_bytes("17"), Ok(17));
        assert!(size_bytes("GB").is_err() && size_bytes("-1GB").is_err() && size_bytes("1XB").is_err());
    }

    #[test]
    fn mirrors_are_split_where_the_new_place_starts() {
        let parsed = mirror("https://x.org/a?b=c=file:///tmp/repo").unwrap();
        assert_eq!((&*parsed.prefix, &*parsed.to), ("https://x.org/a?b=c", "file:///tmp/repo"));
        let parsed = mirror("https://x.org=/srv/mirror").unwrap();
        assert_eq!((&*parsed.prefix, &*parsed.to), ("https://x.org", "/srv/mirror"));
        assert!(mirror("nothing").is_err() && mirror("=x").is_err() && mirror("x=").is_err());
    }
}
