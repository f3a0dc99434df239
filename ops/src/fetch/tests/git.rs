//! Sources that take the `git` program: the real one where there is one, and one that hangs.

use std::io::Read;
use std::process::Command;

use super::*;

/// A repository with two commits; returns the first. `None` where there is no git.
fn repository(dir: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(dir).args(["-c", "user.name=t", "-c", "user.email=t@example.org"]).args(args);
        let output = command.output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    };
    fs_err::create_dir_all(dir).unwrap();
    git(&["init", "--quiet", "."])?;
    let mut commits = Vec::new();
    for version in ["1", "2"] {
        fs_err::write(dir.join("DESCRIPTION"), format!("Package: demo\nVersion: {version}\n")).unwrap();
        git(&["add", "."])?;
        git(&["commit", "--quiet", "-m", version])?;
        commits.extend(git(&["rev-parse", "HEAD"]));
    }
    commits.into_iter().next()
}

#[tokio::test]
async fn a_commit_becomes_an_archive_with_one_top_folder() {
    let world = World::new();
    let dir = world.dir.path().join("demo.git");
    let Some(commit) = repository(&dir) else { return };
    let url = format!("git+file://{}#{commit}", dir.display());
    let fetched = world.fetch(&[&url], None).await.unwrap();
    let description = crate::unpack::peek(&fetched.path, "DESCRIPTION").unwrap().unwrap();
    assert_eq!(description, b"Package: demo\nVersion: 1\n");
    let tree = world.dir.path().join("tree");
    let unpacked = crate::unpack::unpack(&fetched.path, &tree, &crate::unpack::Options::default(), &|| false).unwrap();
    assert_eq!(unpacked.top_folder, format!("demo-{}", &commit[..7]));

    fs_err::remove_dir_all(&dir).unwrap();
    assert!(!world.fetch(&[&url], None).await.unwrap().was_downloaded);
    let missing = url.replace(&commit, &"0".repeat(40));
    let other = Request { what: "y", identity: "y".to_owned(), sources: &[missing], sha256: None };
    let failed = Fetcher::new(world.config()).fetch(other, |_, _| {}, &CancellationToken::new()).await;
    assert!(matches!(failures(failed)[0].reason, Reason::Git { .. }));
    assert_eq!(fs_err::read_dir(world.dir.path().join("blobs/partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn without_git_the_error_says_to_install_it() {
    let world = World::new();
    let config = FetchConfig { git: world.dir.path().join("no-git"), ..world.config() };
    let url = format!("git+https://example.org/demo#{}", "a".repeat(40));
    let error = fetch_with(config, &[&url], None).await.unwrap_err().to_string();
    assert!(error.ends_with("install git to fetch this source"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_kills_all_that_git_started() {
    let world = World::new();
    let (git, pipe) = (world.dir.path().join("git"), world.dir.path().join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // A git that starts another process and waits for it; both hold the pipe open for writing.
    let script = format!("#!/bin/sh\nexec 3>'{}'\necho started >&3\nsleep 1000 &\nwait\n", pipe.display());
    // Written by another process: what this one holds open for writing, a test beside this one may pass on to a
    // process that it starts, and then it cannot be run ("text file busy").
    let write = ["-c", "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"", git.to_str().unwrap(), &script];
    assert!(Command::new("sh").args(write).status().unwrap().success());
    let stop = CancellationToken::new();
    let task = tokio::spawn({
        let (fetcher, stop) = (Fetcher::new(FetchConfig { git, ..world.config() }), stop.clone());
        async move {
            let sources = [format!("git+https://example.org/demo#{}", "a".repeat(40))];
            let request = Request { what: "demo", identity: "demo".to_owned(), sources: &sources, sha256: None };
            fetcher.fetch(request, |_, _| {}, &stop).await
        }
    });
    let mut reader = tokio::task::block_in_place(|| fs_err::File::open(&pipe)).unwrap();
    tokio::task::block_in_place(|| reader.read_exact(&mut [0; 8])).unwrap();
    stop.cancel();
    let result = task.await.unwrap();
    assert!(matches!(result, Err(FetchError::Stopped { .. })), "{result:?}");
    // The pipe ends once nobody holds it any more.
    assert_eq!(tokio::task::block_in_place(|| reader.read(&mut [0; 8])).unwrap(), 0);
    assert_eq!(fs_err::read_dir(world.dir.path().join("blobs/partial")).unwrap().count(), 0);
}
