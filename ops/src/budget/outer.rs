//! The jobserver of a make that started this process: tokens taken from there, all given back at the end.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FileType, Mode, OFlags, fstat};
use tokio::net::unix::pipe::Receiver;

use super::pipes::reopen;

/// A jobserver that is shared with others. Clones are the same one. When the last is dropped, or it is
/// [closed](Self::close), all that was taken is given back.
#[derive(Debug, Clone)]
pub struct Jobserver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    take: OwnedFd,
    give: OwnedFd,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// The very bytes: they may mean something to others.
    tokens: Vec<u8>,
    is_closed: bool,
}

/// Why the jobserver that make speaks of cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the jobserver in MAKEFLAGS (`{auth}`) cannot be used: {source}")]
pub struct JobserverError {
    auth: String,
    source: io::Error,
}

impl Jobserver {
    /// Joins the jobserver that `MAKEFLAGS` names; `None` if it names none.
    ///
    /// An error means that make did not hand it on, since it does not know that this command takes part: its recipe
    /// lacks a `+`.
    pub fn join(makeflags: &OsStr) -> Result<Option<Self>, JobserverError> {
        let flags = makeflags.to_string_lossy();
        let auth = flags
            .split_ascii_whitespace()
            // What follows is for make alone: variables.
            .take_while(|word| *word != "--")
            .filter_map(|word| word.strip_prefix("--jobserver-auth=").or(word.strip_prefix("--jobserver-fds=")))
            .last();
        let Some(auth) = auth else { return Ok(None) };
        match open(auth) {
            Ok(None) => Ok(None),
            Ok(Some((take, give))) => {
                let held = Mutex::default();
                Ok(Some(Self(Arc::new(Inner { take, give, held }))))
            }
            Err(source) => Err(JobserverError { auth: auth.to_owned(), source }),
        }
    }

    /// Gives everything back, and takes nothing any more.
    pub fn close(&self) {
        self.0.held().is_closed = true;
        while self.give_back() {}
    }

    /// Returns how many tokens are held.
    pub(super) fn n_held(&self) -> usize {
        self.0.held().tokens.len()
    }

    /// Takes a token, if there is one. Says whether there was.
    pub(super) fn take(&self) -> bool {
        let mut held = self.0.held();
        let mut token = [0];
        let is_taken = !held.is_closed && rustix::io::read(&self.0.take, &mut token) == Ok(1);
        held.tokens.extend(token.iter().filter(|_| is_taken));
        is_taken
    }

    /// Gives one token back. Says whether there was any.
    pub(super) fn give_back(&self) -> bool {
        self.0.give_back()
    }

    /// Waits until there may be a token.
    pub(super) async fn stir(&self) {
        if self.0.held().is_closed {
            return std::future::pending().await;
        }
        let watched = self.0.take.try_clone().and_then(Receiver::from_owned_fd);
        match watched {
            Ok(watched) => drop(watched.readable().await),
            Err(error) => {
                tracing::debug!(%error, "the jobserver cannot be watched");
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_back(&self) -> bool {
        let token = self.held().tokens.pop();
        // The pipe had room for it before.
        token.is_some_and(|token| rustix::io::write(&self.give, &[token]) == Ok(1))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        while self.give_back() {}
    }
}

/// Opens `fifo:PATH` or `R,W`. Negative numbers say that there is none for this process.
fn open(auth: &str) -> io::Result<Option<(OwnedFd, OwnedFd)>> {
    let pair = if let Some(path) = auth.strip_prefix("fifo:") {
        let open = |access| rustix::fs::open(path, access | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        // To read first: an end to write to is not to be had without one.
        (open(OFlags::RDONLY)?, open(OFlags::WRONLY)?)
    } else {
        let numbers = auth.split_once(',').and_then(|(take, give)| Some((take.parse().ok()?, give.parse().ok()?)));
        let (take, give): (i32, i32) = numbers.ok_or(io::ErrorKind::InvalidInput)?;
        if take < 0 || give < 0 {
            return Ok(None);
        }
        (reopen(take, OFlags::RDONLY)?, reopen(give, OFlags::WRONLY)?)
    };
    // A number that make did not hand on may be anything by now.
    for fd in [&pair.0, &pair.1] {
        if FileType::from_raw_mode(fstat(fd)?.st_mode) != FileType::Fifo {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no pipe"));
        }
    }
    Ok(Some(pair))
}
