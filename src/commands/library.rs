//! `solve library`: generations of a library, and the libraries of workers.

use larder_ops::library::LibraryError;
use larder_ops::workers::WorkerError;

use super::{CommandError, Env};
use crate::cli::LibraryCommand;
use crate::exit::Exit;

mod generations;
mod workers;

pub(super) fn run(command: &LibraryCommand, env: &Env) -> Result<Exit, CommandError> {
    match command {
        LibraryCommand::Ls(args) => generations::list(args),
        LibraryCommand::Rollback { number, library } => generations::roll_back(library, *number),
        LibraryCommand::Create { owner, store } => workers::create(*owner, store, env),
        LibraryCommand::Workers { json, store } => workers::list(*json, store, env),
        LibraryCommand::Rm { ids, ownerless, store } => workers::remove(ids, *ownerless, store, env),
    }
}

impl From<LibraryError> for CommandError {
    fn from(error: LibraryError) -> Self {
        crate::larder::Error::from(error).into()
    }
}

impl From<WorkerError> for CommandError {
    fn from(error: WorkerError) -> Self {
        let exit = if matches!(error, WorkerError::Io(_)) { Exit::Environment } else { Exit::Usage };
        Self::new(exit, error.to_string())
    }
}
