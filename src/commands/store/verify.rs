//! `solve store verify`: whether the store is what it was when it was filled.

use larder_ops::store::verify::{Options, verify};

use crate::cli::VerifyArgs;
use crate::commands::{CommandError, Env, store_of};
use crate::exit::Exit;
use crate::ui::{self, Counter};

pub(super) fn run(args: &VerifyArgs, env: &Env) -> Result<Exit, CommandError> {
    let root = store_of(&args.store, env)?;
    let options = Options { packages: args.packages.iter().cloned().collect(), repairs: args.repair };
    let counter = Counter::on_stderr("checking the store:");
    let verified = verify(&root, &options, &|n, n_all| counter.set(n, n_all))?;
    drop(counter);
    ui::print_data(&if args.json { ui::verified_as_json(&verified) } else { ui::verified_as_text(&verified, &root) });
    Ok(if verified.is_good() { Exit::Done } else { Exit::Failed })
}
