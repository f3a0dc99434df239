//! What can be typed about keeping packages from one CI job to the next.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use larder_ops::cicache::Key;
use larder_ops::tiers::{Address, Tenant};

use super::{PlaceArgs, SourceArgs, WishArgs};

/// What a run does with saved states around its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CiMode {
    #[default]
    Off,
    Restore,
    Save,
    Both,
}

/// Saved states around a run.
#[derive(Debug, Args)]
pub(crate) struct CiArgs {
    /// Restore packages before and save them after the run: off, restore, save or both [env: `LARDER_CI_CACHE`, where `CI` is set]
    #[arg(long = "ci-cache", value_enum, value_name = "MODE", hide_possible_values = true)]
    pub mode: Option<CiMode>,
    /// Where they are kept, a URL as for --cache [env: `LARDER_CI_CACHE_URL`; default: the cache of a job on GitHub]
    #[arg(long = "ci-cache-url", value_name = "URL[:ro]")]
    pub url: Option<Address>,
    /// The key to save under, a template [env: `LARDER_CI_CACHE_KEY`; default: `larder-{r}-{os}-{arch}-{lock}`]
    #[arg(long = "ci-cache-key", value_name = "KEY")]
    pub key: Option<String>,
    /// What will do: the newest with a key that starts so (repeatable) [default: `larder-{r}-{os}-{arch}-`]
    #[arg(long = "ci-cache-restore-key", value_name = "KEY")]
    pub restore_key: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Save what the store has of a lockfile under a key, unless there is such a key or nothing is new
    Save(CacheSaveArgs),
    /// Bring into the store what it lacks of a lockfile, or all that is saved under a key
    Restore(CacheRestoreArgs),
    /// List what is saved, newest first
    List(CacheListArgs),
    /// Delete what is saved under a key; that there is nothing is fine
    Delete(CacheDeleteArgs),
    /// Delete what was saved long ago, but for the newest
    Prune(CachePruneArgs),
    /// Print key, paths and restore keys for `actions/cache` and its like
    Paths(CachePathsArgs),
}

/// Where states are, and whose.
#[derive(Debug, Args)]
pub(crate) struct CiPlaceArgs {
    /// Where they are kept, a URL as for --cache [env: `LARDER_CI_CACHE_URL`; default: the cache of a job on GitHub]
    #[arg(long, value_name = "URL[:ro]")]
    pub url: Option<Address>,
    /// Whose packages are meant
    #[arg(long, env = "LARDER_TENANT", value_name = "NAME", default_value_t, hide_env_values = true)]
    pub tenant: Tenant,
    /// The key that signs what is saved, as `solve remote keygen` makes it
    #[arg(long, env = "LARDER_SIGNING_KEY", value_name = "FILE", hide_env_values = true)]
    pub signing_key: Option<PathBuf>,
}

/// Under which key.
#[derive(Debug, Args)]
pub(crate) struct CiKeyArgs {
    /// The key, in which `{os}`, `{arch}`, `{r}`, `{lock}` and `{hash(FILES)}` are filled in
    #[arg(
        long,
        value_name = "KEY",
        help = "The key, with {os}, {arch}, {r}, {lock} (the lockfile's digest), {hash(FILES)} [default: larder-{r}-{os}-{arch}-{lock}]"
    )]
    pub key: Option<String>,
    /// What will do: the newest with a key that starts so (repeatable)
    #[arg(long, value_name = "KEY")]
    pub restore_key: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CacheSaveArgs {
    /// The lockfile; `-` for standard input
    pub lockfile: PathBuf,
    #[command(flatten)]
    pub common: CiCommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CacheRestoreArgs {
    /// The lockfile whose packages are wanted; `-` for standard input [default: all that is saved]
    pub lockfile: Option<PathBuf>,
    #[command(flatten)]
    pub common: CiCommonArgs,
}

#[derive(Debug, Args)]
pub(crate) struct CiCommonArgs {
    #[command(flatten)]
    pub keys: CiKeyArgs,
    #[command(flatten)]
    pub at: CiPlaceArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheListArgs {
    /// Only keys that start so
    #[arg(long, value_name = "KEY", default_value = "")]
    pub prefix: String,
    #[command(flatten)]
    pub at: CiPlaceArgs,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheDeleteArgs {
    /// The key, in full
    pub key: Key,
    #[command(flatten)]
    pub at: CiPlaceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CachePruneArgs {
    /// Delete what was saved longer ago than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub older_than: Duration,
    /// Show what would go, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub at: CiPlaceArgs,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CachePathsArgs {
    /// The lockfile
    pub lockfile: Option<PathBuf>,
    #[command(flatten)]
    pub keys: CiKeyArgs,
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
