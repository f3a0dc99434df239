//! `solve store path`: where the store is.

use crate::cli::StoreArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &StoreArgs, env: &Env) -> Result<Exit, CommandError> {
    ui::print_data(&format!("{}\n", store_of(args, env)?.display()));
    Ok(Exit::Done)
}
