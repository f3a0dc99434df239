//! `solve store import`: what `solve store export` wrote, into this store.

use std::io::{self, IsTerminal};

use crate::cli::ImportArgs;
use crate::commands::{CommandError, Env, config, larder};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &ImportArgs, env: &Env) -> Result<Exit, CommandError> {
    let input = io::stdin().lock();
    if input.is_terminal() {
        return Err(CommandError::new(Exit::Usage, "there is nothing to import from on a terminal")
            .hint("`solve store import < packages.larder`"));
    }
    let larder = larder(config(&args.store, args.r.as_deref(), None, env)?)?;
    let moved = larder.import(input, args.any_platform)?;
    let (new, present) = (moved.n_entries - moved.n_present, moved.n_present);
    ui::print_data(&format!("store: {new} packages imported, {present} were there\n"));
    Ok(Exit::Done)
}
