//! `solve store populate`: what the store has of a lockfile, into a directory.

use super::exchange;
use crate::cli::ExchangeArgs;
use crate::commands::{CommandError, Env, larder, read_lockfile};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &ExchangeArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    let larder = larder(super::exchange_config(args, env)?)?;
    let found = larder.populate(&lockfile, &exchange(args))?;
    super::warn(&found.warnings, &found.stale, env);
    ui::print_data(&format!("store: {found}\n"));
    Ok(Exit::Done)
}
