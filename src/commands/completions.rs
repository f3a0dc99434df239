//! `solve completions`: for the shell to read.

use clap::CommandFactory;

use crate::cli::Cli;
use crate::exit::Exit;
use crate::ui;

pub(super) fn run(shell: clap_complete::Shell) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "solve", &mut script);
    ui::print_data(&String::from_utf8_lossy(&script));
    Exit::Done
}
