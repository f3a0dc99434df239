//! `solve store rm`: packages that are not wanted any more leave the store.

use larder_ops::package::PackageName;
use larder_ops::store::{Listed, remove};

use super::refused;
use crate::cli::RmArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &RmArgs, env: &Env) -> Result<Exit, CommandError> {
    let root = store_of(&args.store, env)?;
    let is_named = |entry: &Listed, (package, version): &(PackageName, Option<String>)| {
        entry.package == *package && version.as_ref().is_none_or(|version| entry.version == *version)
    };
    let is_wanted = |entry: &Listed| args.packages.iter().any(|named| is_named(entry, named));
    let tell = |evicted| ui::print_data(&ui::evicted_as_text(&evicted, &root));
    match remove(&root, is_wanted, args.force, tell).map_err(|error| refused(&error, &root))? {
        0 => {
            Err(CommandError::new(Exit::Usage, "the store has none of these")
                .hint("`solve store ls` lists what it has"))
        }
        _ => Ok(Exit::Done),
    }
}
