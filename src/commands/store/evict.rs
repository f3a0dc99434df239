//! `solve store evict`: what was not used for long, or is too much, leaves the store.

use std::time::SystemTime;

use larder_ops::store::{Policy, evict};

use super::refused;
use crate::cli::EvictArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(args: &EvictArgs, env: &Env) -> Result<Exit, CommandError> {
    let root = store_of(&args.store, env)?;
    let policy = Policy { older_than: args.older_than, max_bytes: args.max_size, is_dry_run: args.dry_run };
    let tell = if args.json { ui::evicted_as_json } else { ui::evicted_as_text };
    let summary = evict(&root, &policy, SystemTime::now(), |evicted| ui::print_data(&tell(evicted, &root)));
    let summary = summary.map_err(|error| refused(&error, &root))?;
    let tell = if args.json { ui::eviction_as_json } else { ui::eviction_as_text };
    ui::print_data(&tell(&summary, &policy));
    Ok(Exit::Done)
}
