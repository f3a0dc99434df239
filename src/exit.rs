//! What the exit status of `solve` means. Scripts rely on these numbers.

use std::process::ExitCode;

use crate::report::RunOutcome;

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for is done.
    Done,
    /// 1: some package failed.
    Failed,
    /// 2: the command line or the lockfile is wrong.
    Usage,
    /// 3: this machine cannot do it: no R, no compiler, disk full, store not writable.
    Environment,
    /// 101: a bug of ours; the number that Rust gives to a panic.
    Bug,
    /// 130: interrupted; the number that shells give to Ctrl-C.
    Interrupted,
}

impl Exit {
    /// Returns the exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Environment => 3,
            Self::Bug => 101,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<RunOutcome> for Exit {
    fn from(outcome: RunOutcome) -> Self {
        match outcome {
            RunOutcome::Ok => Self::Done,
            RunOutcome::Failed => Self::Failed,
            RunOutcome::Interrupted => Self::Interrupted,
        }
    }
}
