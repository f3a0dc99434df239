//! Commits of git repositories, by the `git` program: a commit becomes a tar with one top folder.

use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempPath;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::error::Reason;
use crate::blobs::Blobs;

/// Makes a tar of `commit` of the repository at `url`, a temporary file among `blobs`.
///
/// When `stop` is cancelled, git and all that it started is killed and reaped first.
pub(super) async fn archive(
    git: &Path,
    blobs: &Blobs,
    url: &str,
    commit: &str,
    stop: &CancellationToken,
) -> Result<TempPath, Reason> {
    let repository = blobs.temporary_dir()?;
    let git = Git { program: git, repository: repository.path(), stop };
    git.run(&["init", "--quiet", "--bare", "."]).await?;
    // Not every server hands out a commit that is no branch's head: then everything has to come.
    let shallow = git.run(&["fetch", "--quiet", "--no-tags", "--depth=1", "--", url, commit]).await;
    match shallow {
        Ok(()) => {}
        Err(Reason::Git { .. }) => {
            git.run(&["fetch", "--quiet", "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]).await?;
        }
        Err(other) => return Err(other),
    }
    let archive = blobs.temporary()?.into_temp_path();
    let output = format!("--output={}", archive.display());
    let prefix = format!("--prefix={}-{}/", name(url), &commit[..7]);
    git.run(&["archive", "--format=tar", &prefix, &output, &format!("{commit}^{{commit}}")]).await?;
    Ok(archive)
}

/// The last part of the repository's URL, made fit for a file name.
fn name(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let last = last.strip_suffix(".git").unwrap_or(last);
    let name: String = last.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '.').collect();
    if name.trim_matches('.').is_empty() { "repository".to_owned() } else { name }
}

struct Git<'a> {
    program: &'a Path,
    repository: &'a Path,
    stop: &'a CancellationToken,
}

impl Git<'_> {
    async fn run(&self, args: &[&str]) -> Result<(), Reason> {
        let mut command = Command::new(self.program);
        command
            .args(args)
            .current_dir(self.repository)
            .env("GIT_DIR", self.repository)
            // Nobody is there to type a password, and no URL may name a program to run.
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for inherited in ["GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"] {
            command.env_remove(inherited);
        }
        let no_git = |source| Reason::NoGit { program: self.program.to_owned(), source };
        let child = command.spawn().map_err(no_git)?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let output = child.wait_with_output();
        tokio::pin!(output);
        let output: Output = tokio::select! {
            biased;
            output = &mut output => output.map_err(no_git)?,
            () = self.stop.cancelled() => {
                group.kill();
                drop(output.await); // Ends when the last process of the group has closed its standard error.
                return Err(Reason::Stopped);
            }
        };
        group.0 = None;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).rev().take(3).collect();
        let stderr = last.into_iter().rev().collect::<Vec<_>>().join("; ");
        Err(Reason::Git { command: args[0].to_owned(), stderr: super::source::without_credentials_in(&stderr) })
    }
}

/// The processes of one git command; killed when dropped, unless they have ended.
struct Group(Option<Pid>);

impl Group {
    fn kill(&mut self) {
        if let Some(leader) = self.0.take()
            && let Err(error) = kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!("git had ended before it was killed: {error}");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
