//! What can be typed about caches beyond this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use larder_ops::tiers::{Address, Tenant};

use super::{PlaceArgs, SourceArgs, WishArgs};

/// Caches beyond this machine.
#[derive(Debug, Args)]
pub(crate) struct CacheArgs {
    /// Take from and write to this cache what the store lacks or is new (repeatable) [env: `LARDER_CACHE=URL` URL ...]
    #[arg(long, value_name = "URL[:ro]")]
    pub cache: Vec<Address>,
    #[command(flatten)]
    pub owner: OwnerArgs,
}

/// In whose name caches are asked and written.
#[derive(Debug, Clone, Args)]
pub(crate) struct OwnerArgs {
    /// Whose packages in the caches are meant
    #[arg(long, env = "LARDER_TENANT", value_name = "NAME", default_value_t, hide_env_values = true)]
    pub tenant: Tenant,
    /// The key that signs what is written to caches, as `solve remote keygen` makes it
    #[arg(long, env = "LARDER_SIGNING_KEY", value_name = "FILE", hide_env_values = true)]
    pub signing_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Say which packages of a lockfile the store and each cache have
    Status(RemoteArgs),
    /// Write to all caches what the store has of a lockfile
    Push(RemoteArgs),
    /// Bring from the caches what the store lacks of a lockfile
    Pull(RemoteArgs),
    /// Make a key that signs what is written to caches, and print the public key that checks it
    Keygen {
        /// The file that keeps the secret key; none that exists is overwritten
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RemoteArgs {
    /// The lockfile; `-` for standard input
    pub lockfile: PathBuf,
    #[command(flatten)]
    pub place: PlaceArgs,
    #[command(flatten)]
    pub wish: WishArgs,
    #[command(flatten)]
    pub source: SourceArgs,
    #[command(flatten)]
    pub cache: CacheArgs,
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}
