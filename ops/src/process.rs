//! Child processes in groups of their own: output captured, ended together, nobody left behind.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use larder_graph::Stop;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

/// Hears what a process writes: where in the log it is, in bytes, and the text, in whole lines as a rule. Called on a
/// thread of its own; the process waits meanwhile.
pub type Output = Arc<dyn Fn(u64, &str) + Send + Sync>;

/// What to run. The child gets no environment but `env`, and no standard input.
pub struct Invocation {
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

/// Runs a process to its end. When the time is over or a stop is requested the whole group is asked to end
/// (SIGTERM), and killed after five seconds or when the stop is forced. Afterwards no process of the group is left.
///
/// Must not be dropped half-way: the group would lose its keeper (the child itself is killed even then).
pub async fn run(invocation: Invocation, stop: &Stop) -> Result<ExitStatus, ProcessError> {
    let Invocation { program, args, env, cwd, log, output, timeout } = invocation;
    let (written, input) = io::pipe()?;
    let mut command = Command::new(&program);
    command.args(args).env_clear().envs(env).current_dir(cwd).process_group(0).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(input.try_clone()?).stderr(input);
    let mut child = command.spawn().map_err(|source| ProcessError::Spawn { program, source })?;
    // The last of our own ends of the pipe that are for the child.
    drop(command);
    let captured = tokio::task::spawn_blocking(move || capture(written, log, &*output));
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let signal = |signal| group.map_or(Ok(()), |group| kill_process_group(group, signal));
    let ended = tokio::select! {
        status = child.wait() => Ok(status?),
        () = stop.requested() => Err(ProcessError::Stopped),
        () = tokio::time::sleep(timeout) => Err(ProcessError::TimedOut(timeout)),
    };
    if ended.is_err() {
        let _ = signal(Signal::TERM);
        tokio::select! {
            _ = child.wait() => {}
            () = stop.forced() => {}
            () = tokio::time::sleep(GRACE) => {}
        }
    }
    // Whatever the child has left behind is in its group still.
    let _ = signal(Signal::KILL);
    child.wait().await?;
    // The pipe is at its end when the last process that writes into it is gone: a killed one takes a moment. One that
    // left the group is not waited for.
    if let Ok(copied) = tokio::time::timeout(GRACE, captured).await {
        copied.map_err(io::Error::other)??;
    }
    ended
}

/// Longer lines are told in pieces.
const PIECE_MAX: usize = 4096;

/// Writes all that comes into the log, and tells of it.
fn capture(mut written: io::PipeReader, mut log: fs::File, output: &dyn Fn(u64, &str)) -> io::Result<()> {
    let mut from = log.metadata()?.len();
    let (mut buffer, mut n_held) = ([0; PIECE_MAX], 0);
    loop {
        let n_read = match written.read(&mut buffer[n_held..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            n_read => n_read?,
        };
        log.write_all(&buffer[n_held..n_held + n_read])?;
        n_held += n_read;
        let lines = buffer[..n_held].iter().rposition(|byte| *byte == b'\n').map(|last| last + 1);
        let is_last = n_read == 0;
        let n_told = lines.filter(|_| !is_last).unwrap_or(if is_last || n_held == PIECE_MAX { n_held } else { 0 });
        if n_told > 0 {
            output(from, &String::from_utf8_lossy(&buffer[..n_told]));
            buffer.copy_within(n_told..n_held, 0);
            n_held -= n_told;
            from += n_told as u64;
        }
        if is_last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, dir: &std::path::Path, timeout: Duration) -> Invocation {
        Invocation {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            env: vec![("PATH".into(), "/usr/bin:/bin".into())],
            cwd: dir.to_owned(),
            log: fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap(),
            output: Arc::new(|_, _| {}),
            timeout,
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
            assert!(begun.elapsed() < Duration::from_secs(60), "it still runs: {status}");
            std::thread::yield_now();
        }
    }
}
