//! `solve store populate`: what the store has of a lockfile, into a directory.

use crate::cli::ExchangeArgs;
use crate::commands::{CommandError, Env, config, larder, read_lockfile};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &ExchangeArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    let larder = larder(config(&args.store, args.r.as_deref(), None, env)?)?;
    let found = larder.populate(&lockfile, &args.lib, args.reference_lib.as_deref())?;
    ui::print_data(&format!("store: {} hits, {} misses\n", found.hits, found.misses));
    Ok(Exit::Done)
}
