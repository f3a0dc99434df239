//! `solve store stats`: how much of what the store holds.

use larder_ops::store::Stats;

use crate::cli::StatsArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &StatsArgs, env: &Env) -> Result<Exit, CommandError> {
    let stats = Stats::read(&store_of(&args.store, env)?)?;
    ui::print_data(&if args.json { ui::stats_as_json(&stats) } else { ui::stats_as_text(&stats) });
    Ok(Exit::Done)
}
