//! `solve store`: what to do with the store besides solving. One file per subcommand.

use larder_ops::package::PackageName;

use super::{CommandError, Env, palette};
use crate::cli::{Color, ExchangeArgs, StoreCommand};
use crate::exit::Exit;
use crate::larder::Exchange;
use crate::ui;

mod export;
mod import;
mod ingest;
mod populate;
mod verify;

pub(super) fn run(command: &StoreCommand, env: &Env) -> Result<Exit, CommandError> {
    match command {
        StoreCommand::Populate(args) => populate::run(args, env),
        StoreCommand::Ingest(args) => ingest::run(args, env),
        StoreCommand::Export(args) => export::run(args, env),
        StoreCommand::Import(args) => import::run(args, env),
        StoreCommand::Verify(args) => verify::run(args, env),
    }
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
