//! Downloads from a server that misbehaves, from files, and through mirrors.

use tempfile::TempDir;

use super::*;
use crate::testing::{Fault, Page, Server};

mod git;

/// Waits for nothing, so that a test may fail as often as it likes.
const NO_WAIT: Backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO };

/// A server and a directory of downloads, both empty.
struct World {
    dir: TempDir,
    server: Server,
}

impl World {
    fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), server: Server::start() }
    }

    fn config(&self) -> FetchConfig {
        let blobs = Blobs::open(self.dir.path().join("blobs")).unwrap();
        FetchConfig { backoff: NO_WAIT, proxy: Proxy::Direct, ..FetchConfig::new(blobs) }
    }

    async fn fetch(&self, sources: &[&str], sha256: Option<Sha256Digest>) -> Result<Fetched, FetchError> {
        fetch_with(self.config(), sources, sha256).await
    }

    /// Fetches `/x` of the server.
    async fn fetch_x(&self, sha256: Option<Sha256Digest>) -> Result<Fetched, FetchError> {
        self.fetch(&[&self.server.url("/x")], sha256).await
    }

    /// The header of each request so far.
    fn headers(&self, name: &str) -> Vec<Option<String>> {
        self.server.requests().iter().map(|request| request.header(name).map(str::to_owned)).collect()
    }

    /// The names of all files among the blobs.
    fn n_blobs(&self) -> usize {
        let folders = fs_err::read_dir(self.dir.path().join("blobs/sha256")).unwrap();
        folders.map(|folder| fs_err::read_dir(folder.unwrap().path()).unwrap().count()).sum()
    }
}

async fn fetch_with(
    config: FetchConfig,
    sources: &[&str],
    sha256: Option<Sha256Digest>,
) -> Result<Fetched, FetchError> {
    let sources: Vec<String> = sources.iter().map(|source| (*source).to_owned()).collect();
    let request = Request { what: "cli 3.6.1", identity: "cli 3.6.1 source".to_owned(), sources: &sources, sha256 };
    Fetcher::new(config).fetch(request, |_, _| {}, &CancellationToken::new()).await
}

fn bytes(fetched: &Fetched) -> Vec<u8> {
    fs_err::read(&fetched.path).unwrap()
}

/// Some bytes that are not all the same.
fn body() -> Vec<u8> {
    (0..100_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn failures(result: Result<Fetched, FetchError>) -> Vec<SourceError> {
    match result {
        Err(FetchError::AllFailed { failures, .. }) => failures,
        other => panic!("expected failures, not {other:?}"),
    }
}

#[tokio::test]
async fn what_was_fetched_is_not_fetched_again() {
    let world = World::new();
    world.server.put("/x", Page::new("abc"));
    let digest = Sha256Digest::of(b"abc");
    let fetched = world.fetch_x(Some(digest)).await.unwrap();
    assert_eq!(
        (bytes(&fetched), fetched.digest, fetched.size, fetched.was_downloaded),
        (b"abc".to_vec(), digest, 3, true)
    );
    assert_eq!(fetched.url.as_deref(), Some(&*world.server.url("/x")));

    let again = world.fetch_x(Some(digest)).await.unwrap();
    assert_eq!((again.path, again.was_downloaded), (fetched.path, false));
    assert_eq!(world.headers("user-agent"), [Some(concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned())]);
}

#[tokio::test]
async fn progress_ends_with_everything() {
    let world = World::new();
    world.server.put("/x", Page::new(body()));
    let (mut seen, sources) = (Vec::new(), [world.server.url("/x")]);
    let request = Request { what: "x", identity: "x".to_owned(), sources: &sources, sha256: None };
    let progress = |current, total| seen.push((current, total));
    Fetcher::new(world.config()).fetch(request, progress, &CancellationToken::new()).await.unwrap();
    assert!(seen.is_sorted());
    assert_eq!(seen.first(), Some(&(0, Some(400_000))));
    assert_eq!(seen.last(), Some(&(400_000, Some(400_000))));
}

#[tokio::test]
async fn sources_are_tried_in_order_and_no_is_taken_for_an_answer() {
    let world = World::new();
    for (path, status) in [("/a", 404), ("/b", 403), ("/c", 410)] {
        world.server.fail(path, 9, &Fault::Status(status, Vec::new()));
    }
    world.server.put("/d", Page::new("abc"));
    let urls = ["/a", "/b", "/c", "/d", "/e"].map(|path| world.server.url(path));
    let fetched = world.fetch(&urls.each_ref().map(String::as_str), None).await.unwrap();
    assert_eq!(fetched.url.as_ref(), Some(&urls[3]));
    let asked: Vec<_> = world.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/a", "/b", "/c", "/d"]);
}

#[tokio::test]
async fn wrong_bytes_never_become_a_blob() {
    let world = World::new();
    world.server.put("/bad", Page::new("abd"));
    world.server.put("/good", Page::new("abc"));
    let (expected, actual) = (Sha256Digest::of(b"abc"), Sha256Digest::of(b"abd"));
    let (bad, good) = (world.server.url("/bad"), world.server.url("/good"));

    let error = world.fetch(&[&bad], Some(expected)).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "could not fetch `cli 3.6.1` from {bad}: wrong bytes: the lockfile says sha256 {expected}, these have {actual}"
        )
    );
    assert_eq!(world.n_blobs(), 0);
    assert_eq!(fs_err::read_dir(world.dir.path().join("blobs/partial")).unwrap().count(), 0);
    assert_eq!(bytes(&world.fetch(&[&bad, &good], Some(expected)).await.unwrap()), b"abc");
}

#[tokio::test]
async fn all_sources_that_failed_are_listed_without_credentials() {
    let world = World::new();
    let secret = world.server.url("/a?token=hidden").replace("http://", "http://me:secret@");
    let error = world.fetch(&[&secret, "ftp://host/b", "/no/such/file"], None).await.unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines[0], "could not fetch `cli 3.6.1` from any source:");
    assert_eq!(lines[1], format!("  {}: 404 Not Found", world.server.url("/a?token=...")));
    assert_eq!(lines[2], "  ftp://host/b: not an http, https, file or git+ URL and not a path");
    assert!(lines[3].contains("/no/such/file"), "{}", lines[3]);
    let error = world.fetch(&[], None).await.unwrap_err().to_string();
    assert_eq!(error, "could not fetch `cli 3.6.1`: it has no source");
}

#[tokio::test]
async fn failures_that_may_pass_are_tried_again() {
    let world = World::new();
    world.server.put("/x", Page::new("abc"));
    for status in [503, 429, 408] {
        world.server.fail("/x", 1, &Fault::Status(status, vec![("Retry-After", "3600".to_owned())]));
    }
    assert_eq!(bytes(&world.fetch_x(None).await.unwrap()), b"abc");
    assert_eq!(world.server.requests().len(), 4);
}

#[tokio::test]
async fn retries_end() {
    let world = World::new();
    world.server.fail("/x", 9, &Fault::Status(503, Vec::new()));
    let config = FetchConfig { retries_max: 2, ..world.config() };
    let failures = failures(fetch_with(config, &[&world.server.url("/x")], None).await);
    assert!(matches!(failures[0].reason, Reason::Status(503)), "{failures:?}");
    assert_eq!(world.server.requests().len(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let world = World::new();
    let gone = Server::start().url("/x");
    let failures = failures(world.fetch(&[&gone], None).await);
    assert!(matches!(failures[0].reason, Reason::Transport(_)));
    assert!(failures[0].to_string().starts_with(&format!("{gone}: ")), "{}", failures[0]);
    assert_eq!(failures[0].to_string().matches(&gone).count(), 1);
}

#[test]
fn waits_grow_up_to_a_limit_and_heed_the_server() {
    let seconds = Duration::from_secs;
    let backoff = Backoff { first: seconds(1), max: seconds(30) };
    for (attempt, full) in [(0, 1), (1, 2), (3, 8), (5, 30), (99, 30)] {
        let delay = backoff.delay(attempt, None);
        assert!(delay >= seconds(full) / 2 && delay <= seconds(full), "{attempt}: {delay:?}");
    }
    assert_eq!(backoff.delay(0, Some(seconds(7))), seconds(7));
    assert_eq!(backoff.delay(0, Some(seconds(3600))), seconds(30));
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_was() {
    let world = World::new();
    let page = Page::new(body());
    let etag = page.etag.clone();
    world.server.put("/x", page);
    world.server.fail("/x", 1, &Fault::DropAfter(1000));
    world.server.fail("/x", 1, &Fault::DropAfter(500));
    // No digest is known: within a run that does not matter.
    let fetched = world.fetch_x(None).await.unwrap();
    assert_eq!(fetched.digest, Sha256Digest::of(&body()));
    let range = |start: u32| Some(format!("bytes={start}-"));
    assert_eq!(world.headers("range"), [None, range(1000), range(1500)]);
    assert_eq!(world.headers("if-range"), [None, etag.clone(), etag]);
}

/// Breaks the first download off after 1000 bytes, changes the page, and fetches again in a new run.
/// Returns the `Range` headers of the second run.
async fn resume_after(first: Page, second: Page) -> Vec<Option<String>> {
    let world = World::new();
    let digest = Sha256Digest::of(&second.body);
    world.server.put("/x", first);
    world.server.fail("/x", 1, &Fault::DropAfter(1000));
    let config = FetchConfig { retries_max: 0, ..world.config() };
    assert_eq!(failures(fetch_with(config, &[&world.server.url("/x")], Some(digest)).await).len(), 1);
    world.server.put("/x", second);
    assert_eq!(world.fetch_x(Some(digest)).await.unwrap().digest, digest);
    world.headers("range").split_off(1)
}

#[tokio::test]
async fn a_later_run_goes_on_where_an_earlier_one_was() {
    let resumed = [Some("bytes=1000-".to_owned())];
    assert_eq!(resume_after(Page::new(body()), Page::new(body())).await, resumed);
    let dated =
        Page { etag: None, last_modified: Some("Tue, 14 Nov 2023 22:13:20 GMT".to_owned()), ..Page::new(body()) };
    assert_eq!(resume_after(dated.clone(), dated).await, resumed);
}

#[tokio::test]
async fn nothing_is_resumed_that_may_have_changed() {
    let resumed = || Some("bytes=1000-".to_owned());
    let other: Vec<u8> = body().into_iter().rev().collect();
    let same_tag = |body: Vec<u8>| Page { etag: Some("\"same\"".to_owned()), ..Page::new(body) };
    // Other bytes by now: the server sends all of them.
    assert_eq!(resume_after(Page::new(body()), Page::new(other.clone())).await, [resumed()]);
    // No ranges (any more): the same.
    let plain = Page { has_ranges: false, ..Page::new(body()) };
    assert_eq!(resume_after(plain.clone(), plain).await, [resumed()]);
    // A weak tag says nothing of bytes: not even tried.
    let weak = Page { etag: Some("W/\"1\"".to_owned()), ..Page::new(body()) };
    assert_eq!(resume_after(weak.clone(), weak).await, [None]);
    // Less than there was (416), or other bytes under the same tag: found out, and once more from the start.
    assert_eq!(resume_after(same_tag(body()), same_tag(vec![1; 10])).await, [resumed(), None]);
    assert_eq!(resume_after(same_tag(body()), same_tag(other)).await, [resumed(), None]);
}

#[tokio::test]
async fn bytes_of_an_earlier_run_are_not_trusted_without_a_digest() {
    let world = World::new();
    world.server.put("/x", Page::new(body()));
    world.server.fail("/x", 1, &Fault::DropAfter(1000));
    let config = FetchConfig { retries_max: 0, ..world.config() };
    assert_eq!(failures(fetch_with(config, &[&world.server.url("/x")], None).await).len(), 1);
    world.fetch_x(None).await.unwrap();
    assert_eq!(world.headers("range"), [None, None]);
}

#[tokio::test]
async fn a_server_that_goes_quiet_is_left() {
    let world = World::new();
    world.server.put("/x", Page::new(body()));
    world.server.fail("/x", 1, &Fault::HangAfter(1000));
    let config = FetchConfig { stall_timeout: Duration::from_millis(300), ..world.config() };
    let fetched = fetch_with(config, &[&world.server.url("/x")], None).await.unwrap();
    assert_eq!(fetched.size, 400_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_keeps_what_has_arrived() {
    let world = World::new();
    let digest = Sha256Digest::of(&body());
    world.server.put("/x", Page::new(body()));
    world.server.fail("/x", 1, &Fault::HangAfter(1000));
    let (stop, sources) = (CancellationToken::new(), [world.server.url("/x")]);
    let request = Request { what: "x", identity: "x".to_owned(), sources: &sources, sha256: Some(digest) };
    let (fetcher, stopper) = (Fetcher::new(world.config()), stop.clone());
    // Stopped from within: by the time of this report the first bytes are on disk.
    let progress = move |current, _| {
        if current > 0 {
            stopper.cancel();
        }
    };
    let result = fetcher.fetch(request, progress, &stop).await;
    assert!(matches!(result, Err(FetchError::Stopped { .. })), "{result:?}");

    assert_eq!(world.fetch_x(Some(digest)).await.unwrap().size, 400_000);
    assert!(world.headers("range")[1].is_some());
}

#[tokio::test]
async fn offline_what_is_there_is_found_and_what_is_not_is_named() {
    let world = World::new();
    world.server.put("/x", Page::new("abc"));
    let url = world.server.url("/x");
    let offline = || FetchConfig { offline: true, ..world.config() };
    let error = fetch_with(offline(), &[&url], None).await.unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }));
    assert_eq!(
        error.to_string(),
        format!("`cli 3.6.1` was not downloaded before and larder is offline; it would come from {url}")
    );
    assert_eq!(world.server.requests().len(), 0);

    let fetched = world.fetch_x(None).await.unwrap();
    assert_eq!(fetch_with(offline(), &[&url], None).await.unwrap().path, fetched.path);
    assert_eq!(fetch_with(offline(), &[&url], Some(fetched.digest)).await.unwrap().path, fetched.path);

    let file = world.dir.path().join("file");
    fs_err::write(&file, "def").unwrap();
    let by_file = fetch_with(offline(), &[&url, file.to_str().unwrap()], Some(Sha256Digest::of(b"def"))).await;
    assert_eq!(bytes(&by_file.unwrap()), b"def");
}

#[tokio::test]
async fn files_are_checked_and_copied() {
    let world = World::new();
    let file = world.dir.path().join("a b.tar.gz");
    fs_err::write(&file, "abc").unwrap();
    let digest = Sha256Digest::of(b"abc");
    let url = format!("file://{}", file.to_str().unwrap().replace(' ', "%20"));
    let fetched = world.fetch(&[&url], Some(digest)).await.unwrap();
    fs_err::write(&file, "changed").unwrap();
    assert_eq!(bytes(&fetched), b"abc");
    let failures = failures(world.fetch(&[file.to_str().unwrap()], Some(Sha256Digest::of(b"x"))).await);
    assert!(matches!(failures[0].reason, Reason::WrongDigest { .. }));
    assert_eq!(world.n_blobs(), 1);
}

#[tokio::test]
async fn a_mirror_is_asked_instead() {
    let world = World::new();
    world.server.put("/mirror/src/a.tar.gz", Page::new("abc"));
    fs_err::create_dir_all(world.dir.path().join("mirror/src")).unwrap();
    fs_err::write(world.dir.path().join("mirror/src/a.tar.gz"), "def").unwrap();
    let source = world.server.url("/cran/src/a.tar.gz");
    let mirrored = async |to: String, sha256| {
        let mirrors = vec![Mirror { prefix: world.server.url("/cran"), to }];
        fetch_with(FetchConfig { mirrors, ..world.config() }, &[&source], Some(sha256)).await.unwrap()
    };
    mirrored(world.server.url("/mirror/"), Sha256Digest::of(b"abc")).await;
    mirrored(world.dir.path().join("mirror").to_str().unwrap().to_owned(), Sha256Digest::of(b"def")).await;
    let asked: Vec<_> = world.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(asked, ["/mirror/src/a.tar.gz"]);
}

#[tokio::test]
async fn what_changes_behind_a_lockfile_without_digests_is_an_error() {
    let world = World::new();
    world.server.put("/x", Page::new("first"));
    let first = world.fetch_x(None).await.unwrap();
    let fetcher = Fetcher::new(world.config());
    let cached = fetcher.cached("cli 3.6.1 source", None).unwrap();
    assert_eq!((cached.digest, cached.url), (first.digest, Some(world.server.url("/x"))));
    assert_eq!(fetcher.cached("cli 3.6.1 binary", None), None);

    // The blob is gone, its record is not.
    fs_err::remove_file(&first.path).unwrap();
    assert_eq!(fetcher.cached("cli 3.6.1 source", None), None);
    assert_eq!(world.fetch_x(None).await.unwrap().digest, first.digest);

    fs_err::remove_file(&first.path).unwrap();
    world.server.put("/x", Page::new("second"));
    let error = world.fetch_x(None).await.unwrap_err().to_string();
    let record = world.config().blobs.record_path("cli 3.6.1 source");
    let second = Sha256Digest::of(b"second");
    for part in ["`cli 3.6.1 source`", &first.digest.to_string(), &second.to_string(), record.to_str().unwrap()] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    assert_eq!(world.n_blobs(), 0);
    fs_err::remove_file(record).unwrap();
    assert_eq!(world.fetch_x(None).await.unwrap().digest, second);
}

#[tokio::test]
async fn passwords_go_to_their_host_and_no_other() {
    let world = World::new();
    let basic = Some("Basic bWU6c2VjcmV0".to_owned()); // me:secret
    world.server.put("/private", Page { authorization: basic.clone(), ..Page::new("abc") });
    world.server.put("/elsewhere", Page::new("def"));
    world.server.put("/away", Page::redirect(world.server.url_by_name("/elsewhere")));
    world.server.put("/back", Page::redirect("/private"));
    let private = world.server.url("/private");

    let failures = failures(world.fetch(&[&private], None).await);
    assert!(failures[0].to_string().contains(".netrc"), "{}", failures[0]);

    let netrc = Netrc::parse("machine 127.0.0.1 login me password secret");
    let config = || FetchConfig { netrc: Some(netrc.clone()), ..world.config() };
    let digests = [Sha256Digest::of(b"abc"), Sha256Digest::of(b"def")];
    fetch_with(config(), &[&world.server.url("/back")], Some(digests[0])).await.unwrap();
    fetch_with(config(), &[&world.server.url("/away")], Some(digests[1])).await.unwrap();
    assert_eq!(world.headers("authorization"), [None, basic.clone(), basic.clone(), basic.clone(), None]);

    let other = World::new();
    other.server.put("/private", Page { authorization: basic, ..Page::new("abc") });
    let in_url = other.server.url("/private").replace("http://", "http://me:secret@");
    let fetched = other.fetch(&[&in_url], None).await.unwrap();
    assert_eq!(fetched.url, Some(other.server.url("/private")));
}

#[tokio::test]
async fn redirects_end() {
    let world = World::new();
    world.server.put("/x", Page::redirect("/x"));
    let failures = failures(world.fetch_x(None).await);
    assert!(matches!(failures[0].reason, Reason::Redirect(_)), "{failures:?}");
    assert_eq!(world.server.requests().len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_of_the_same_bytes_at_once_do_not_mix() {
    let world = World::new();
    let digest = Sha256Digest::of(&body());
    world.server.put("/x", Page::new(body()));
    world.server.fail("/x", 2, &Fault::HangAfter(1000));
    let fetcher = Fetcher::new(world.config());
    let tasks = [1, 2].map(|_| {
        let (fetcher, sources) = (fetcher.clone(), [world.server.url("/x")]);
        tokio::spawn(async move {
            let request = Request { what: "x", identity: "x".to_owned(), sources: &sources, sha256: Some(digest) };
            fetcher.fetch(request, |_, _| {}, &CancellationToken::new()).await
        })
    });
    tokio::task::block_in_place(|| world.server.wait_for_hanging(2));
    world.server.release();
    for task in tasks {
        assert_eq!(bytes(&task.await.unwrap().unwrap()), body());
    }
    assert_eq!(world.n_blobs(), 1);
    assert_eq!(fs_err::read_dir(world.dir.path().join("blobs/partial")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_directory_is_served_too() {
    let world = World::new();
    fs_err::create_dir(world.dir.path().join("src")).unwrap();
    fs_err::write(world.dir.path().join("src/a"), "abc").unwrap();
    let server = Server::serving(world.dir.path());
    assert_eq!(bytes(&world.fetch(&[&server.url("/src/a")], None).await.unwrap()), b"abc");
    assert_eq!(failures(world.fetch(&[&server.url("/src/b")], Some(Sha256Digest::of(b""))).await).len(), 1);
    world.server.put("/wrong", Page::new("abc"));
    world.server.fail("/wrong", 1, &Fault::Body(b"xyz".to_vec()));
    let failures = failures(world.fetch(&[&world.server.url("/wrong")], Some(Sha256Digest::of(b""))).await);
    assert!(matches!(failures[0].reason, Reason::WrongDigest { actual, .. } if actual == Sha256Digest::of(b"xyz")));
}
