//! The command `solve`.

use std::process::ExitCode;

use larder::commands::{Env, main as run};

fn main() -> ExitCode {
    run(&Env::read())
}
