//! `solve store`: what to do with the store besides solving.

use super::{CommandError, Env, config, larder, read_lockfile};
use crate::cli::StoreCommand;
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(command: &StoreCommand, env: &Env) -> Result<Exit, CommandError> {
    let (StoreCommand::Populate(args) | StoreCommand::Ingest(args)) = command;
    let lockfile = read_lockfile(&args.lockfile)?;
    let larder = larder(config(&args.store, args.r.as_deref(), None, env)?)?;
    let reference = args.reference_lib.as_deref();
    match command {
        StoreCommand::Populate(_) => {
            let found = larder.populate(&lockfile, &args.lib, reference)?;
            ui::print_data(&format!("store: {} hits, {} misses\n", found.hits, found.misses));
        }
        StoreCommand::Ingest(_) => {
            let manifest = larder.ingest(&lockfile, &args.lib, reference)?;
            ui::print_data(&format!("store: {} packages in {}\n", manifest.len(), crate::larder::STORE_MANIFEST));
        }
    }
    Ok(Exit::Done)
}
