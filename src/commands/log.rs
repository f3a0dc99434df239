//! `solve log`: the output of a build.

use larder_ops::op::Logs;

use super::{CommandError, Env, store_of};
use crate::cli::LogArgs;
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &LogArgs, env: &Env) -> Result<Exit, CommandError> {
    let logs = Logs::new(&store_of(&args.store, env)?);
    let Some(path) = logs.newest(args.package.as_ref(), args.failed)? else {
        let what = if args.failed { "failed build" } else { "build" };
        let of = args.package.as_ref().map(|package| format!(" of `{package}`")).unwrap_or_default();
        return Err(CommandError::new(Exit::Failed, format!("there is no log of a {what}{of} in this store")));
    };
    ui::print_data(&format!("{}\n", path.display()));
    ui::print_data(&ui::printable(&String::from_utf8_lossy(&fs_err::read(&path)?)));
    Ok(Exit::Done)
}
