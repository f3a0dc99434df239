//! `solve store`: what to do with the store besides solving. One file per subcommand.

use super::{CommandError, Env};
use crate::cli::StoreCommand;
use crate::exit::Exit;

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
