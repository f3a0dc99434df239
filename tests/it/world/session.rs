//! An R that goes on running, as a worker does, and answers questions.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::World;

/// An R session with a library of its own.
pub(crate) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Session {
    /// Starts R with the library of this world.
    pub(crate) fn start(world: &World) -> Self {
        Self::with_library(world, &world.path("library"))
    }

    /// Starts R with this library.
    pub(crate) fn with_library(world: &World, library: &Path) -> Self {
        let mut command = world.r_command("--no-echo");
        let mut child = command.env("R_LIBS", library).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Returns what R prints for an expression, without the space around it.
    pub(crate) fn ask(&mut self, expression: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "cat({expression}, '\\n')").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Returns the packages whose namespaces are loaded, as `--loaded` takes them.
    pub(crate) fn loaded(&mut self) -> String {
        self.ask("paste(loadedNamespaces(), collapse = ',')")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}
