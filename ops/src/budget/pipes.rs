//! The pipes through which a process group gets cores and gives them back: GNU make's jobserver, as its client sees it.
//!
//! Make takes a byte out of one descriptor before it starts a job besides its first, and writes one into another when
//! that has ended. It never asks whether the two belong to the same pipe. Here they do not: so what comes back is seen,
//! and does not go to whoever reads first. The descriptors have fixed numbers, above those that a shell script can
//! name and below any that a program gets by opening, so that `configure` does not put its log there.

use std::io::{self, PipeReader, PipeWriter, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use command_fds::{CommandFdExt, FdMapping};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Resource, getrlimit};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::process::Command;

const TAKE_FROM: i32 = 100;
const GIVE_TO: i32 = 101;

/// Both names of the option: a make that knows neither would start as many jobs as there are.
const MAKEFLAGS: &str = "-j --jobserver-fds=100,101 --jobserver-auth=100,101";

/// What is offered. Make gives back what it took.
const TOKEN: u8 = b'+';

/// Two pipes, open at both ends for as long as they are there.
#[derive(Debug)]
pub(crate) struct Pipes {
    /// The group's end of the pipe with the offer; whether it blocks is the group's business.
    take: PipeReader,
    /// The same end, opened once more, that never blocks.
    recall: OwnedFd,
    offer: Sender,
    collect: Receiver,
    /// The group's end of the pipe for what comes back.
    give: PipeWriter,
}

impl Pipes {
    /// Makes a pair of pipes. Must be called within a tokio runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let (take, offer) = pipe()?;
        let (collect, give) = pipe()?;
        // The smallest there is: only when it is empty it takes PIPE_BUF bytes, and is writable in the eyes of `poll`.
        // So whether an offer was taken need not be asked again and again.
        fcntl_setpipe_size(&offer, rustix::param::page_size())?;
        let recall = reopen(take.as_raw_fd(), OFlags::RDONLY)?;
        let (offer, collect) = (Sender::from_owned_fd(offer.into())?, Receiver::from_owned_fd(collect.into())?);
        Ok(Self { take, recall, offer, collect, give })
    }

    /// Has a command inherit them, and tells make of it.
    pub(crate) fn attach(&self, command: &mut Command) -> io::Result<()> {
        // Between fork and exec it is too late to say so.
        if getrlimit(Resource::Nofile).current.is_some_and(|limit| limit <= GIVE_TO.unsigned_abs().into()) {
            return Err(Errno::MFILE.into());
        }
        let mappings = vec![
            FdMapping { parent_fd: self.take.try_clone()?.into(), child_fd: TAKE_FROM },
            FdMapping { parent_fd: self.give.try_clone()?.into(), child_fd: GIVE_TO },
        ];
        command.env("MAKEFLAGS", MAKEFLAGS).fd_mappings(mappings).map_err(io::Error::other)?;
        Ok(())
    }

    /// Puts a token where it can be taken. Says whether it is there.
    pub(super) fn offer(&self) -> bool {
        rustix::io::write(&self.offer, &[TOKEN]) == Ok(1)
    }

    /// Says whether a token is there.
    pub(super) fn has_offer(&self) -> bool {
        ioctl_fionread(&self.take).is_ok_and(|n| n > 0)
    }

    /// Takes an offer back. Says whether it was still there.
    pub(super) fn recall(&self) -> bool {
        rustix::io::read(&self.recall, &mut [0; 1]) == Ok(1)
    }

    /// Takes what was given back; says how much.
    pub(super) fn collect(&self) -> usize {
        drain(&self.collect)
    }

    /// Makes both pipes empty, for the next build. Nobody may be using them.
    pub(super) fn reset(&self) {
        drain(&self.recall);
        self.collect();
    }

    /// Waits until an offer was taken or something came back. Wakes up too often rather than too late.
    pub(super) async fn stir(&self) {
        // What is told here is forgotten at once: the caller looks at the pipes themselves, and only then waits again.
        let forget = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        tokio::select! {
            Ok(()) = self.offer.writable() => drop(self.offer.try_io(forget)),
            Ok(()) = self.collect.readable() => drop(self.collect.try_io(forget)),
            else => std::future::pending().await,
        }
    }

    /// Plays the group: takes a token, if one is there.
    #[cfg(test)]
    pub(super) fn take(&self) -> bool {
        self.recall()
    }

    /// Plays the group: gives a token back.
    #[cfg(test)]
    pub(super) fn give(&self) {
        rustix::io::write(&self.give, &[TOKEN]).unwrap();
    }
}

fn drain(fd: impl AsFd) -> usize {
    let mut bytes = [0; 64];
    std::iter::from_fn(|| rustix::io::read(&fd, &mut bytes).ok().filter(|n| *n > 0)).sum()
}

/// Opens what a descriptor refers to once more, without blocking: that would otherwise be the same for both.
pub(super) fn reopen(fd: i32, access: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{fd}");
    Ok(rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}
