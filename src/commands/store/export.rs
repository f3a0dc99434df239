//! `solve store export`: packages as one stream, for a store elsewhere.

use crate::cli::ExportArgs;
use crate::commands::{CommandError, Env, base_of, config, in_lockfile, larder, read_lockfile};
use crate::exit::Exit;
use crate::larder::{From, Request};
use crate::ui;

pub(super) fn run(args: &ExportArgs, env: &Env) -> Result<Exit, CommandError> {
    let Some(out) = ui::data_stream() else {
        return Err(CommandError::new(Exit::Usage, "an export is not for a terminal")
            .hint("send it to a file or another command: `solve store export PKG > packages.larder`"));
    };
    let larder = larder(config(&args.store, args.r.as_deref(), None, env)?)?;
    let moved = match (&args.lockfile, &args.library) {
        (Some(path), _) => {
            let lockfile = read_lockfile(path)?;
            // Not this library: what is in it does not matter.
            let request = Request { base: base_of(path), ..Request::new("") };
            larder.export(&args.packages, From::Lockfile(&lockfile, &request), out).map_err(in_lockfile(path))?
        }
        (None, Some(library)) => larder.export(&args.packages, From::Library(library), out)?,
        (None, None) => larder.export(&args.packages, From::LastUsed, out)?,
    };
    ui::print_note(&format!("store: {} packages exported\n", moved.n_entries));
    Ok(Exit::Done)
}
