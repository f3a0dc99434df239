//! `solve store`: what to do with the store besides solving. One file per subcommand.

use std::path::Path;

use larder_ops::package::PackageName;
use larder_ops::store::EvictError;
use larder_ops::trouble::Trouble;

use super::{CommandError, Env, palette};
use crate::cli::{Color, ExchangeArgs, StoreCommand};
use crate::exit::Exit;
use crate::larder::{self, Exchange};
use crate::ui;

mod evict;
mod export;
mod import;
mod ingest;
mod ls;
mod path;
mod populate;
mod rm;
mod stats;
mod verify;

pub(super) fn run(command: &StoreCommand, env: &Env) -> Result<Exit, CommandError> {
    match command {
        StoreCommand::Populate(args) => populate::run(args, env),
        StoreCommand::Ingest(args) => ingest::run(args, env),
        StoreCommand::Export(args) => export::run(args, env),
        StoreCommand::Import(args) => import::run(args, env),
        StoreCommand::Evict(args) => evict::run(args, env),
        StoreCommand::Stats(args) => stats::run(args, env),
        StoreCommand::Ls(args) => ls::run(args, env),
        StoreCommand::Rm(args) => rm::run(args, env),
        StoreCommand::Path(args) => path::run(args, env),
        StoreCommand::Verify(args) => verify::run(args, env),
    }
}

/// An eviction that cannot go on. What is in use is the request's fault, all else the machine's.
fn refused(error: &EvictError, store: &Path) -> CommandError {
    if let EvictError::Io(io) = error
        && let Some(trouble) = Trouble::of(io, store, io.to_string())
    {
        return larder::Error::Machine(trouble).into();
    }
    let exit = if matches!(error, EvictError::InUse(_)) { Exit::Usage } else { Exit::Environment };
    let hint = match error {
        EvictError::InUse(_) => Some("`--force` removes them all the same".to_owned()),
        EvictError::Root(error) => Some(format!("mend or remove `{}`", error.library.display())),
        EvictError::Io(_) => None,
    };
    CommandError { hints: hint.into_iter().collect(), ..CommandError::new(exit, error.to_string()) }
}

fn exchange(args: &ExchangeArgs) -> Exchange {
    Exchange { library: args.lib.clone(), reference: args.reference_lib.clone(), is_runtime: args.runtime }
}

fn warn_of_stale(stale: &[PackageName], env: &Env) {
    if !stale.is_empty() {
        let names = stale.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let message = format!("of the reference library, but not of the lockfile, and left out as stale: {names}");
        ui::print_warning(&message, palette(env, Color::Auto));
    }
}
