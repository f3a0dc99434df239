//! Warm R processes: an R that has loaded what every install needs, and forks for each instead of starting anew.
//!
//! Each is the leader of a process group and serves one build at a time, so that everything in the group is of that
//! build: its output is the build's log, and whatever ends the build ends the group. Another is then started for the
//! next build. What is said over which pipe stands in `server.R`. This module knows neither packages nor stores.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs_err as fs;
use larder_graph::Stop;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};
use tokio::process::{ChildStdin, Command};

use crate::budget::{Core, Pipes};
use crate::process::{Captured, Group, ProcessError, within};
use crate::toolchain::Toolchain;

/// What R reads when it starts, and goes on doing.
const SERVER: &str = include_str!("server.R");

/// How long an R that says that it ends, and all that it has started, may take to be gone.
const LEAVING: Duration = Duration::from_secs(3);

/// The warm R processes of a run: as many as builds ever went on at once. They end when this is dropped, and when this
/// process dies.
#[derive(Debug, Default)]
pub struct WarmR {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Server>,
    /// Why there are none, if this R is not one that can be forked.
    cannot: Option<String>,
}

/// What a warm R is to do.
pub(super) struct Task<'a> {
    /// The R.
    pub(super) toolchain: &'a Toolchain,
    /// Its environment. All tasks of one [`WarmR`] name the same variables.
    pub(super) env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub(super) cwd: &'a Path,
    /// What it runs: R code, as [`call`] makes it.
    pub(super) call: Vec<u8>,
    /// A directory that does not exist yet, for what is said between here and there.
    pub(super) dir: PathBuf,
    /// Who takes its output.
    pub(super) captured: Captured,
    /// How long it may take.
    pub(super) timeout: Duration,
    /// The core that it runs on.
    pub(super) core: Option<&'a Core>,
}

/// How a task came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// Well.
    Done,
    /// R failed.
    Failed,
    /// Something failed that is not R: configure, make, a compiler.
    FailedOutside,
    /// This R is none that larder knows how to fork; nothing was begun.
    Cannot(String),
}

impl WarmR {
    /// Does one task, in an R that is idle or else in a new one. Stopped or too late, everything that was begun is
    /// ended as [`process::run`](crate::process::run) does it. Afterwards nothing of the task is left running.
    pub(super) async fn run(&self, task: &mut Task<'_>, stop: &Stop) -> Result<Ended, ProcessError> {
        if let Some(reason) = &self.state().cannot {
            return Ok(Ended::Cannot(reason.clone()));
        }
        // One may have died meanwhile: of a lack of memory, by somebody's hand.
        let idle = std::iter::from_fn(|| self.state().idle.pop()).find_map(Server::living);
        let mut server = match idle {
            Some(server) => server,
            None if !task.toolchain.home.join("bin/exec/R").is_file() => {
                return Ok(self.give_up("it is laid out in another way".to_owned()));
            }
            None => Server::start(task).await?,
        };
        let (timeout, core) = (task.timeout, task.core);
        let (group, pipes) = (server.group.id(), Arc::clone(&server.pipes));
        let to_its_end = async {
            let ended = within(server.serve(task), timeout, stop).await;
            let is_free = ended.is_ok() && server.group.becomes_alone(LEAVING).await;
            match &ended {
                _ if is_free => {}
                Ok(_) => server.group.kill().await?,
                Err(_) => server.group.end(stop).await?,
            }
            Ok::<_, ProcessError>((ended, is_free))
        };
        let (ended, is_free) = match core {
            Some(core) => core.accompany(group, Some(&pipes), to_its_end).await?,
            None => to_its_end.await?,
        };
        server.drain(&mut task.captured)?;
        if is_free {
            self.state().idle.push(server);
        }
        Ok(match ended? {
            Ended::Cannot(reason) => self.give_up(reason),
            ended => ended,
        })
    }

    /// Ends those that are idle, and waits until they are gone: until then what they took is not counted as ours.
    pub(super) async fn end(&self) -> io::Result<()> {
        let idle = std::mem::take(&mut self.state().idle);
        for mut server in idle {
            server.group.kill().await?;
        }
        Ok(())
    }

    fn give_up(&self, reason: String) -> Ended {
        self.state().cannot = Some(reason.clone());
        Ended::Cannot(reason)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One R.
#[derive(Debug)]
struct Server {
    group: Group,
    /// What make takes its jobs from, in one build after the other.
    pipes: Arc<Pipes>,
    requests: ChildStdin,
    output: Receiver,
}

impl Server {
    /// Starts R as `R CMD INSTALL` starts it, with the same variables from R's own scripts.
    async fn start(task: &Task<'_>) -> Result<Self, ProcessError> {
        let (output, input) = io::pipe()?;
        let mut command = Command::new(&task.toolchain.r);
        command.args(["CMD", "env", "R_DEFAULT_PACKAGES=", "LC_COLLATE=C"]).arg(task.toolchain.home.join("bin/R"));
        command.args(["--no-save", "--no-restore", "--no-echo"]);
        command.env_clear().envs(task.env.iter().cloned()).current_dir(task.cwd);
        command.stdin(Stdio::piped()).stdout(input.try_clone()?).stderr(input);
        let pipes = Arc::new(Pipes::new()?);
        let mut group = Group::spawn(&mut command, Some(&pipes))?;
        let mut requests = group.stdin().expect("it was asked for");
        // Fits into the pipe, so nobody waits for an R that does not read. That one is gone is seen when it is asked.
        let _ = requests.write_all(SERVER.as_bytes()).await;
        Ok(Self { group, pipes, requests, output: Receiver::from_owned_fd(output.into())? })
    }

    fn living(mut self) -> Option<Self> {
        self.group.is_led().then_some(self)
    }

    /// Does one task, to the end of the R that it is done in.
    async fn serve(&mut self, task: &mut Task<'_>) -> io::Result<Ended> {
        let (news, hold) = open_news(&make_dir(task, 0)?)?;
        let (mut news, mut hold) = (BufReader::new(news).lines(), Some(hold));
        fs::write(task.dir.join("0/env"), environ(task))?;
        fs::write(task.dir.join("0/script"), script(task))?;
        let mut n_runs = 0;
        make_dir(task, 1)?;
        if self.ask("install", &task.dir.join("0")).await.is_err() {
            return Ok(Ended::Failed);
        }
        let mut chunk = vec![0; 8 << 10];
        loop {
            tokio::select! {
                Ok(n @ 1..) = self.output.read(&mut chunk) => task.captured.take(&chunk[..n])?,
                line = news.next_line() => match line?.as_deref() {
                    // From now on the pipe is at its end when R is, whatever it died of.
                    Some("ready") => drop(hold.take()),
                    Some("run") => {
                        n_runs += 1;
                        make_dir(task, n_runs + 1)?;
                        if self.ask("run", &task.dir.join(n_runs.to_string())).await.is_err() {
                            return Ok(Ended::Failed);
                        }
                    }
                    Some("end ok") => return Ok(Ended::Done),
                    Some("end outside") => return Ok(Ended::FailedOutside),
                    line => return Ok(match line.and_then(|line| line.strip_prefix("cannot ")) {
                        Some(reason) => Ended::Cannot(reason.to_owned()),
                        None => Ended::Failed,
                    }),
                },
                status = self.group.wait() => return status.map(|_| Ended::Failed),
            }
        }
    }

    async fn ask(&mut self, what: &str, dir: &Path) -> io::Result<()> {
        let line = [what.as_bytes(), b" ", dir.as_os_str().as_bytes(), b"\n"].concat();
        self.requests.write_all(&line).await
    }

    /// Takes what is in the pipe of a task that is over.
    fn drain(&self, captured: &mut Captured) -> io::Result<()> {
        let mut chunk = [0; 8 << 10];
        while let Ok(n @ 1..) = self.output.try_read(&mut chunk) {
            captured.take(&chunk[..n])?;
        }
        captured.end();
        Ok(())
    }
}

/// Makes the directory of the n-th R of a task, with the pipe in which it tells its news.
fn make_dir(task: &Task<'_>, n: u32) -> io::Result<PathBuf> {
    let dir = task.dir.join(n.to_string());
    fs::create_dir_all(&dir)?;
    mknodat(CWD, dir.join("news"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    Ok(dir)
}

/// Opens a pipe of news, with its other end: as long as that is held the pipe has no end.
fn open_news(dir: &Path) -> io::Result<(Receiver, Sender)> {
    let path = dir.join("news");
    Ok((OpenOptions::new().open_receiver(&path)?, OpenOptions::new().open_sender(&path)?))
}

fn environ(task: &Task<'_>) -> Vec<u8> {
    let pwd = (OsString::from("PWD"), task.cwd.into());
    let variables = task.env.iter().chain([&pwd]);
    variables.flat_map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()).collect()
}

/// What R is to evaluate. It comes to the last line only if nothing failed before.
fn script(task: &Task<'_>) -> Vec<u8> {
    let done = call("base::file.create", [task.dir.join("0/ok").as_os_str()]);
    [&*task.call, b"\nbase::invisible(", &*done, b")\n"].concat()
}

/// Returns R code that calls `function` with a vector of strings.
pub(super) fn call<'a>(function: &str, strings: impl IntoIterator<Item = &'a OsStr>) -> Vec<u8> {
    let strings: Vec<_> = strings.into_iter().map(quoted).collect();
    [function.as_bytes(), b"(c(", &*strings.join(&b", "[..]), b"))"].concat()
}

fn quoted(text: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'"'];
    for byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'\n' => quoted.extend(b"\\n"),
            _ => quoted.push(*byte),
        }
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_for_r() {
        let code = call("f", ["a \"b\"".as_ref(), "c\\d\n\u{e9}".as_ref()]);
        assert_eq!(String::from_utf8(code).unwrap(), r#"f(c("a \"b\"", "c\\d\né"))"#);
    }
}
