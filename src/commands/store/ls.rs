//! `solve store ls`: the entries of the store, least recently used first.

use larder_ops::store::list;

use crate::cli::LsArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &LsArgs, env: &Env) -> Result<Exit, CommandError> {
    let entries = list(&store_of(&args.store, env)?, args.package.as_ref())?;
    ui::print_data(&if args.json { ui::entries_as_json(&entries) } else { ui::entries_as_text(&entries) });
    Ok(Exit::Done)
}
