//! Fetching: from a list of URLs and, if there is one, a digest to a file among the [`Blobs`].
//!
//! Owns trying sources in order, retries, resuming, verification and credentials. Does not know what a package is,
//! nor where tokens come from: everything is in [`FetchConfig`]. The one exception to "nothing below `src/` reads the
//! environment" is the HTTP client's own reading of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, and of
//! `SSL_CERT_FILE` and `SSL_CERT_DIR`, unless [`FetchConfig::proxy`] says otherwise.

mod credentials;
mod error;
mod git;
mod http;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fs_err::File;
use tokio_util::sync::CancellationToken;

use crate::blobs::{Blobs, Earlier, FirstSeen, Partial};
use crate::blocking;
use crate::digest::Sha256Digest;
pub use credentials::Netrc;
pub use error::{FetchError, Reason, SourceError};
use http::Http;
use source::Source;
pub use source::{Mirror, without_credentials};

/// How to fetch; the same for a whole run.
#[derive(Debug, Clone)]
pub struct FetchConfig {
    /// Where downloads go and are looked for.
    pub blobs: Blobs,
    /// The `User-Agent` header. Some repositories choose by it between source and binary, so it should be R's own.
    pub user_agent: String,
    /// Where to look instead; the first whose prefix fits counts.
    pub mirrors: Vec<Mirror>,
    /// Whether to do without a network; files and directories are still read.
    pub offline: bool,
    /// Passwords by host.
    pub netrc: Option<Netrc>,
    /// A token that is sent to GitHub's own hosts, by https only.
    pub github_token: Option<String>,
    /// How often one source is tried again after a failure that may pass.
    pub retries_max: u32,
    /// How long to wait before that.
    pub backoff: Backoff,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for the next byte. There is no limit to the whole: large files on slow lines are fine.
    pub stall_timeout: Duration,
    /// Whether the environment's proxies are used.
    pub proxy: Proxy,
    /// The `git` program, for `git+` sources.
    pub git: PathBuf,
}

impl FetchConfig {
    /// Plain downloads into `blobs`: no mirrors, no credentials, four retries, 30 s to connect, 60 s to stall.
    pub fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            user_agent: concat!("larder/", env!("CARGO_PKG_VERSION")).to_owned(),
            mirrors: Vec::new(),
            offline: false,
            netrc: None,
            github_token: None,
            retries_max: 4,
            backoff: Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) },
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_mins(1),
            proxy: Proxy::Environment,
            git: PathBuf::from("git"),
        }
    }
}

/// Which proxy HTTP goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// What `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.
    Environment,
    /// None.
    Direct,
}

/// How long to wait before trying again: each time twice as long, at random between half of that and all of it.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest, also when a server's `Retry-After` asks for more.
    pub max: Duration,
}

impl Backoff {
    /// Returns the wait after the failure number `attempt`, counted from 0.
    fn delay(&self, attempt: u32, retry_after: Option<Duration>) -> Duration {
        let full = self.first.saturating_mul(2_u32.saturating_pow(attempt)).min(self.max);
        // At random, lest all downloads that a server turned away come back at once.
        let waited = full.mul_f64(0.5 + fastrand::f64() / 2.0);
        waited.max(retry_after.unwrap_or_default()).min(self.max)
    }
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// What it is, for messages, such as `cli 3.6.1`.
    pub what: &'a str,
    /// What its first-seen record is filed under. Two requests that may rightly get different bytes, such as those
    /// for the source and the binary of one version, need different identities.
    pub identity: String,
    /// URLs (`http`, `https`, `file`, `git+URL#COMMIT`) and paths, to be tried in this order.
    pub sources: &'a [String],
    /// The digest that the bytes must have. Without, those of the first download become the ones to have.
    pub sha256: Option<Sha256Digest>,
}

/// A file among the blobs whose bytes are the ones that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The digest of its bytes.
    pub digest: Sha256Digest,
    /// The blob; read-only.
    pub path: PathBuf,
    /// Where it came from, without credentials; `None` if it was there already and only its digest was known.
    pub url: Option<String>,
    /// The number of its bytes.
    pub size: u64,
    /// Whether it was not there before.
    pub was_downloaded: bool,
}

/// Fetches. Clones share connections.
#[derive(Debug, Clone)]
pub struct Fetcher {
    config: Arc<FetchConfig>,
    http: Arc<Http>,
}

/// The bytes to expect.
#[derive(Debug)]
enum Expected {
    Digest(Sha256Digest),
    FirstSeen(FirstSeen),
    Anything,
}

impl Fetcher {
    /// Sets up; nothing is connected or read before the first download.
    pub fn new(config: FetchConfig) -> Self {
        let config = Arc::new(config);
        Self { http: Arc::new(Http::new(&config)), config }
    }

    /// Returns what is already there, by the digest or else by the first-seen record of `identity`. No network, and
    /// an unreadable record counts as none.
    pub fn cached(&self, identity: &str, sha256: Option<&Sha256Digest>) -> Option<Fetched> {
        let record = if sha256.is_none() { self.config.blobs.first_seen(identity).ok()? } else { None };
        let digest = *sha256.or(record.as_ref().map(|record| &record.sha256))?;
        let path = self.config.blobs.get(&digest)?;
        let size = path.metadata().ok()?.len();
        Some(Fetched { digest, path, url: record.map(|record| record.url), size, was_downloaded: false })
    }

    /// Says whether all of these sources, after mirroring, are beyond this machine.
    pub fn needs_network(&self, sources: &[String]) -> bool {
        sources.iter().all(|text| Source::parse(text, &self.config.mirrors).is_ok_and(|source| source.is_remote()))
    }

    /// Returns the blob for `request`, from the first of its sources that has it if it is not there yet.
    ///
    /// `progress` is told the bytes so far and, if known, how many there will be. When `stop` is cancelled, or the
    /// future dropped, what has arrived stays for a later call to go on from. After an error nothing is among the
    /// blobs that was not there before.
    pub async fn fetch(
        &self,
        request: Request<'_>,
        mut progress: impl FnMut(u64, Option<u64>) + Send,
        stop: &CancellationToken,
    ) -> Result<Fetched, FetchError> {
        let what = request.what;
        if let Some(fetched) = self.cached(&request.identity, request.sha256.as_ref()) {
            return Ok(fetched);
        }
        let store_error = |source| FetchError::Store { what: what.to_owned(), source };
        let expected = match request.sha256 {
            Some(digest) => Expected::Digest(digest),
            None => self
                .config
                .blobs
                .first_seen(&request.identity)
                .map_err(store_error)?
                .map_or(Expected::Anything, Expected::FirstSeen),
        };
        let mut failures = Vec::new();
        for text in request.sources {
            let source = Source::parse(text, &self.config.mirrors);
            let shown = source.as_ref().map_or_else(|_| without_credentials(text), Source::to_string);
            let fetched = match source {
                Ok(source) if self.config.offline && source.is_remote() => Err(Reason::Offline),
                Ok(source) => self.fetch_from(&source, &request.identity, &expected, &mut progress, stop).await,
                Err(reason) => Err(reason),
            };
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(_) if stop.is_cancelled() => return Err(FetchError::Stopped { what: what.to_owned() }),
                Err(Reason::Store(source)) => return Err(store_error(source)),
                Err(reason) => {
                    tracing::debug!("{what}: {shown}: {reason}");
                    failures.push(SourceError { url: shown, reason });
                }
            }
        }
        let what = what.to_owned();
        if !failures.is_empty() && failures.iter().all(|failure| matches!(failure.reason, Reason::Offline)) {
            return Err(FetchError::Offline {
                what,
                sources: failures.into_iter().map(|failure| failure.url).collect(),
            });
        }
        Err(FetchError::AllFailed { what, failures })
    }

    /// Gets the bytes of one source, checks them, and makes them a blob.
    async fn fetch_from(
        &self,
        source: &Source,
        identity: &str,
        expected: &Expected,
        progress: &mut (impl FnMut(u64, Option<u64>) + Send),
        stop: &CancellationToken,
    ) -> Result<Fetched, Reason> {
        let blobs = self.config.blobs.clone();
        let url = source.to_string();
        let used = blobs.clone();
        let _in_use = blocking(move || used.hold()).await;
        let (digest, path) = match source {
            Source::Http(address) => {
                let earlier = match expected {
                    Expected::Anything => Earlier::Discard,
                    Expected::Digest(_) | Expected::FirstSeen(_) => Earlier::Resume,
                };
                let key = address.to_string();
                let partial = blocking(move || Partial::open(&blobs, &key, earlier)).await?;
                let partial = self.download(address, partial, expected, progress, stop).await?;
                let digest = partial.digest();
                if let Err(reason) = self.check(expected, digest) {
                    partial.discard()?;
                    return Err(reason);
                }
                (digest, blocking(move || partial.publish()).await?)
            }
            Source::File(from) => {
                let (from, stop) = (from.clone(), stop.clone());
                let (digest, copy) = blocking(move || copy(&from, &blobs, &stop)).await?;
                self.check(expected, digest)?;
                let blobs = self.config.blobs.clone();
                (digest, blocking(move || blobs.publish(&copy, &digest)).await?)
            }
            Source::Git { url, commit } => {
                let archive = git::archive(&self.config.git, &blobs, url, commit, stop).await?;
                blocking(move || {
                    let digest = Sha256Digest::of_reader(File::open(&archive)?)?;
                    Ok::<_, Reason>((digest, blobs.publish(&archive, &digest)?))
                })
                .await?
            }
        };
        let size = fs_err::metadata(&path)?.len();
        progress(size, Some(size));
        if !matches!(expected, Expected::Digest(_)) {
            let record = self.config.blobs.record(identity, &url, digest)?;
            // A commit is its own digest, and the archive made of it depends on the version of git.
            if record.sha256 != digest && !matches!(source, Source::Git { .. }) {
                return Err(self.changed(record, digest));
            }
        }
        Ok(Fetched { digest, path, url: Some(url), size, was_downloaded: true })
    }

    /// Downloads until there is nothing more to come, trying again after failures that may pass.
    async fn download(
        &self,
        url: &reqwest::Url,
        mut partial: Partial,
        expected: &Expected,
        progress: &mut (impl FnMut(u64, Option<u64>) + Send),
        stop: &CancellationToken,
    ) -> Result<Partial, Reason> {
        let mut n_failures = 0;
        loop {
            let was_resumed = partial.len() > 0;
            let downloaded = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Reason::Stopped),
                downloaded = self.http.download(url, &mut partial, progress) => downloaded,
            };
            let (reason, retry_after) = match downloaded {
                // What was there from before may be to blame for wrong bytes: once more without it.
                Ok(()) if was_resumed && self.check(expected, partial.digest()).is_err() => {
                    partial.restart(None)?;
                    continue;
                }
                Ok(()) => return Ok(partial),
                Err(failure) => (failure.reason, failure.retry_after),
            };
            if !reason.may_pass() || n_failures >= self.config.retries_max {
                return Err(reason);
            }
            let delay = self.config.backoff.delay(n_failures, retry_after);
            tracing::debug!("trying again in {delay:?} after: {reason}");
            n_failures += 1;
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Reason::Stopped),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    fn check(&self, expected: &Expected, actual: Sha256Digest) -> Result<(), Reason> {
        match expected {
            Expected::Digest(expected) if *expected != actual => {
                Err(Reason::WrongDigest { expected: *expected, actual })
            }
            Expected::FirstSeen(record) if record.sha256 != actual => Err(self.changed(record.clone(), actual)),
            _ => Ok(()),
        }
    }

    fn changed(&self, first: FirstSeen, actual: Sha256Digest) -> Reason {
        let record = self.config.blobs.record_path(&first.identity);
        Reason::Changed { identity: first.identity, first: first.sha256, actual, record }
    }
}

/// Copies the file `from` to a temporary one among the blobs.
fn copy(from: &Path, blobs: &Blobs, stop: &CancellationToken) -> Result<(Sha256Digest, tempfile::TempPath), Reason> {
    use std::io::{Read, Write};
    let mut reader = crate::digest::HashingReader::new(File::open(from).map_err(Reason::File)?);
    let mut copy = blobs.temporary()?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = reader.read(&mut buffer).map_err(Reason::File)?;
        if n == 0 {
            return Ok((reader.finish(), copy.into_temp_path()));
        }
        if stop.is_cancelled() {
            return Err(Reason::Stopped);
        }
        copy.write_all(&buffer[..n])?;
    }
}

#[cfg(test)]
mod tests;
