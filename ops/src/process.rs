//! Child processes in groups of their own: output captured, ended together, nobody left behind.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_err as fs;
use larder_graph::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::process::{Child, ChildStdin, Command};

use crate::budget::{Core, Pipes};

mod memory;

pub(crate) use memory::Meter;

/// Hears what a process writes: where in the log it is, in bytes, and the text, in whole lines as a rule. Called on a
/// thread of its own; the process waits meanwhile.
pub type Output = Arc<dyn Fn(u64, &str) + Send + Sync>;

/// What to run. The child gets no environment but `env`, and no standard input.
pub struct Invocation<'a> {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// Where its standard output and error go.
    pub log: fs::File,
    /// Who is told of it.
    pub output: Output,
    /// How long it may take.
    pub timeout: Duration,
    /// The core that it runs on, which is told how much memory it uses.
    pub core: Option<&'a Core>,
    /// Whether make, in there, may have more cores when they are idle.
    pub jobs: Jobs,
}

/// What make may do within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// One thing after the other.
    One,
    /// As many things at once as cores are lent to it.
    Lent,
}

/// Why a process did not come to an end of its own.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It did not start.
    #[error("cannot start `{program}`: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It took too long, and was ended with all its children.
    #[error("took longer than {}, and was ended", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// It was ended because the run was asked to stop.
    #[error("stopped")]
    Stopped,
    /// The system refused something else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long a process group may take to end cleanly once asked to.
const GRACE: Duration = Duration::from_secs(5);

/// A process with all that it starts, as far as that stays in its group. Dropped, the whole group is killed.
#[derive(Debug)]
pub(crate) struct Group {
    child: Child,
    /// `None` once the leader was reaped: its number may be somebody else's by then.
    id: Option<Pid>,
}

impl Group {
    /// Starts a command as the leader of a new group. Make, in there, gets its jobs through `pipes`.
    pub(crate) fn spawn(command: &mut Command, pipes: Option<&Pipes>) -> Result<Self, ProcessError> {
        command.process_group(0).kill_on_drop(true);
        pipes.map(|pipes| pipes.attach(command)).transpose()?;
        let program = command.as_std().get_program().into();
        let child = command.spawn().map_err(|source| ProcessError::Spawn { program, source })?;
        let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        Ok(Self { child, id })
    }

    /// Returns the number of the group, if its leader was not reaped.
    pub(crate) fn id(&self) -> Option<Pid> {
        self.id
    }

    /// Takes the leader's standard input, if that is a pipe.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits until the leader is gone. Others of its group may live on.
    pub(crate) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Asks the group to end, and kills it after five seconds or when the stop is forced.
    pub(crate) async fn end(&mut self, stop: &Stop) -> io::Result<()> {
        self.signal(Signal::TERM);
        tokio::select! {
            _ = self.child.wait() => {}
            () = stop.forced() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
        self.kill().await
    }

    /// Kills whatever of the group is left, and reaps its leader.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.signal(Signal::KILL);
        self.child.wait().await?;
        self.id = None;
        Ok(())
    }

    /// Waits until the leader is the only one of its group that lives. Says whether it came to that in time; where the
    /// others cannot be seen it did not.
    pub(crate) async fn becomes_alone(&mut self, within: Duration) -> bool {
        let Some(group) = self.id else { return false };
        let others_end = tokio::task::spawn_blocking(move || others_end(group, Instant::now() + within));
        matches!(others_end.await, Ok(Ok(true))) && self.is_led()
    }

    /// Says whether the leader still runs.
    pub(crate) fn is_led(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        // There may be nobody any more.
        let _ = self.id.map(|group| kill_process_group(group, signal));
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Waits for the end of all of a group but its leader; says `false` if that takes too long.
fn others_end(group: Pid, deadline: Instant) -> io::Result<bool> {
    loop {
        let others = others(group)?;
        if others.is_empty() {
            return Ok(true);
        }
        for pid in others {
            // One that is gone already has no descriptor.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
            if poll(&mut [PollFd::new(&process, PollFlags::IN)], left.as_ref())? == 0 {
                return Ok(false);
            }
        }
    }
}

/// Returns the living processes of a group but for its leader.
fn others(group: Pid) -> io::Result<Vec<Pid>> {
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|item| item.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(Pid::from_raw).filter(|pid| *pid != group && is_living_member(*pid, group)).collect())
}

fn is_living_member(pid: Pid, group: Pid) -> bool {
    // pid (name) state parent group ...: the name may have anything in it.
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).unwrap_or_default();
    let mut words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let (state, its_group) = (words.next(), words.nth(1));
    !matches!(state, None | Some("Z" | "X")) && its_group.is_some_and(|id| id.parse() == Ok(group.as_raw_pid()))
}

/// Waits for `work`, unless the time is over or a stop is requested before.
pub(crate) async fn within<T>(
    work: impl Future<Output = io::Result<T>>,
    timeout: Duration,
    stop: &Stop,
) -> Result<T, ProcessError> {
    tokio::select! {
        done = work => Ok(done?),
        () = stop.requested() => Err(ProcessError::Stopped),
        () = tokio::time::sleep(timeout) => Err(ProcessError::TimedOut(timeout)),
    }
}

/// Runs a process to its end. When the time is over or a stop is requested the whole group is asked to end
/// (SIGTERM), and killed after five seconds or when the stop is forced. Afterwards no process of the group is left.
pub async fn run(invocation: Invocation<'_>, stop: &Stop) -> Result<ExitStatus, ProcessError> {
    let Invocation { program, args, env, cwd, log, output, timeout, core, jobs } = invocation;
    let pipes = (jobs == Jobs::Lent).then(Pipes::new).transpose()?.map(Arc::new);
    let (written, input) = io::pipe()?;
    let mut command = Command::new(&program);
    command.args(args).env_clear().envs(env).current_dir(cwd);
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut group = Group::spawn(&mut command, pipes.as_deref())?;
    // The last of our own ends of the pipe that are for the child.
    drop(command);
    let captured = tokio::task::spawn_blocking(move || capture(written, Captured::new(log, output)?));
    let id = group.id();
    let to_its_end = async {
        let ended = within(group.wait(), timeout, stop).await;
        match ended {
            // Whatever the child has left behind is in its group still.
            Ok(_) => group.kill().await?,
            Err(_) => group.end(stop).await?,
        }
        ended
    };
    let ended = match core {
        Some(core) => core.accompany(id, pipes.as_ref(), to_its_end).await,
        None => to_its_end.await,
    };
    // The pipe is at its end when the last process that writes into it is gone: a killed one takes a moment. One that
    // left the group is not waited for.
    if let Ok(copied) = tokio::time::timeout(GRACE, captured).await {
        copied.map_err(io::Error::other)??;
    }
    ended
}

fn capture(mut written: io::PipeReader, mut captured: Captured) -> io::Result<()> {
    let mut buffer = [0; PIECE_MAX];
    loop {
        match written.read(&mut buffer) {
            Ok(0) => {
                captured.end();
                return Ok(());
            }
            Ok(n_read) => captured.take(&buffer[..n_read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Longer lines are told in pieces.
const PIECE_MAX: usize = 4096;

/// What a process has written: goes into the log at once, and is told in lines.
pub(crate) struct Captured {
    log: fs::File,
    output: Output,
    /// Where in the log `untold` begins.
    from: u64,
    untold: Vec<u8>,
}

impl Captured {
    /// Goes on at the end of `log`.
    pub(crate) fn new(log: fs::File, output: Output) -> io::Result<Self> {
        let from = log.metadata()?.len();
        Ok(Self { log, output, from, untold: Vec::new() })
    }

    /// Takes what was written next.
    pub(crate) fn take(&mut self, written: &[u8]) -> io::Result<()> {
        self.log.write_all(written)?;
        for piece in written.chunks(PIECE_MAX) {
            if self.untold.len() + piece.len() > PIECE_MAX {
                self.tell(self.untold.len());
            }
            self.untold.extend(piece);
            if let Some(last) = self.untold.iter().rposition(|byte| *byte == b'\n') {
                self.tell(last + 1);
            }
        }
        Ok(())
    }

    /// Tells the last line even if it has no end.
    pub(crate) fn end(&mut self) {
        self.tell(self.untold.len());
    }

    fn tell(&mut self, n: usize) {
        if n > 0 {
            (self.output)(self.from, &String::from_utf8_lossy(&self.untold[..n]));
            self.untold.drain(..n);
            self.from += n as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &std::path::Path, timeout: Duration) -> Invocation<'static> {
        Invocation {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: dir.to_owned(),
            log: fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap(),
            output: Arc::new(|_, _| {}),
            timeout,
            core: None,
            jobs: Jobs::One,
        }
    }

    #[tokio::test]
    async fn output_and_status_are_kept_and_the_environment_is_clean() {
        let dir = tempfile::tempdir().unwrap();
        let status = run(shell("env; echo oops >&2; exit 3", dir.path(), Duration::MAX), &Stop::new()).await.unwrap();
        assert_eq!(status.code(), Some(3));
        let log = fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.contains("oops") && !log.contains("CARGO"), "{log}");
    }

    #[tokio::test]
    async fn what_it_writes_is_told_in_lines_and_with_its_place_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log"), "before\n").unwrap();
        let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
        let script = "echo one; echo two; head -c 10000 /dev/zero | tr '\\0' x; echo; printf end";
        let mut invocation = shell(script, dir.path(), Duration::MAX);
        let told = Arc::clone(&heard);
        invocation.output = Arc::new(move |from, text| told.lock().unwrap().push((from, text.to_owned())));
        run(invocation, &Stop::new()).await.unwrap();
        let (log, heard) = (fs::read_to_string(dir.path().join("log")).unwrap(), heard.lock().unwrap());
        let mut place = "before\n".len();
        for (from, text) in &*heard {
            assert_eq!((*from, &log[place..place + text.len()]), (place as u64, text.as_str()));
            assert!(text.ends_with('\n') || text.len() == PIECE_MAX || text == "end", "{text}");
            place += text.len();
        }
        assert_eq!(place, log.len());
    }

    #[tokio::test]
    async fn what_takes_too_long_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let ended = run(shell("exec sleep 1000", dir.path(), Duration::from_millis(10)), &Stop::new()).await;
        assert!(matches!(ended, Err(ProcessError::TimedOut(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn a_stop_ends_the_process_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let stop = Stop::new();
        let script = "sleep 1000 & echo $! > child; echo > fifo; wait";
        let started = tokio::task::spawn_blocking(move || fs::read(fifo));
        let stopped = async {
            started.await.unwrap().unwrap();
            stop.request();
        };
        let (ended, ()) = tokio::join!(run(shell(script, dir.path(), Duration::MAX), &stop), stopped);
        assert!(matches!(ended, Err(ProcessError::Stopped)), "{ended:?}");
        assert_is_gone(dir.path());
    }

    #[tokio::test]
    async fn children_do_not_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let status = run(shell("sleep 1000 & echo $! > child", dir.path(), Duration::MAX), &Stop::new()).await.unwrap();
        assert!(status.success());
        assert_is_gone(dir.path());
    }

    #[tokio::test]
    async fn a_leader_is_alone_when_all_others_of_its_group_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let mut command = Command::new("/bin/sh");
        // The other one ends when the leader's input does, as far as it is open here.
        command
            .args(["-c", "exec 3<&0; cat <&3 & echo > fifo; exec sleep 1000"])
            .stdin(Stdio::piped())
            .current_dir(dir.path());
        let mut group = Group::spawn(&mut command, None).unwrap();
        fs::read(fifo).unwrap();
        let input = group.stdin();
        assert!(!group.becomes_alone(Duration::from_millis(1)).await);
        drop(input);
        assert!(group.becomes_alone(Duration::from_mins(1)).await);
        group.kill().await.unwrap();
        assert!(!group.is_led());
    }

    #[tokio::test]
    async fn a_forced_stop_does_not_wait_for_what_ignores_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let stop = Stop::new();
        stop.force();
        let ended = run(shell("trap '' TERM; echo $$ > child; sleep 1000", dir.path(), Duration::MAX), &stop).await;
        assert!(matches!(ended, Err(ProcessError::Stopped)), "{ended:?}");
    }

    /// Waits until the child is gone: a zombie until init reaps it. One that was not killed would be there for long.
    fn assert_is_gone(dir: &std::path::Path) {
        let pid = fs::read_to_string(dir.join("child")).unwrap();
        let begun = std::time::Instant::now();
        loop {
            let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if status.is_empty() || status.contains(") Z ") || status.contains(") X ") {
                return;
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "it still runs: {status}");
            std::thread::yield_now();
        }
    }
}
