//! `solve store ingest`: what another program built of a lockfile, into the store.

use super::exchange;
use crate::cli::ExchangeArgs;
use crate::commands::{CommandError, Env, larder, read_lockfile};
use crate::exit::Exit;
use crate::larder::STORE_MANIFEST;
use crate::ui;

pub(super) fn run(args: &ExchangeArgs, env: &Env) -> Result<Exit, CommandError> {
    let lockfile = read_lockfile(&args.lockfile)?;
    let larder = larder(super::exchange_config(args, env)?)?;
    let done = larder.ingest(&lockfile, &exchange(args))?;
    super::warn(&done.warnings, &done.stale, env);
    ui::print_data(&format!("store: {} packages in {STORE_MANIFEST}\n", done.manifest.len()));
    Ok(Exit::Done)
}
