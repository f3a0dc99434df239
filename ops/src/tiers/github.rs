//! GitHub's cache service, version 2: one client of it, for tiers and for what is kept from one job to the next.
//!
//! The service is Twirp as JSON, with the token that a job's actions have; the bytes go to and come from signed URLs of
//! a blob storage. It finds by prefix, never writes again, and cannot list or delete; what a branch may see is its
//! business: what was written for that branch, else for the default one.
//!
//! As a tier it has to hold what changes, too. So an object is a series of entries there, `{name}#1`, `{name}#2` and so
//! on, of which the newest counts: a number is given once, which makes it the tag that two writers compare. One that was
//! given to a job which died is passed over.

use std::fmt;

use futures_util::{StreamExt, TryStreamExt, stream};
use opendal::Buffer;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::objects::{Answer, Expect, ObjectError, Objects, Pieces};
use crate::digest::Sha256Digest;

const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
/// How often something is tried that may be tried again.
const ATTEMPTS_MAX: u32 = 3;
/// The pause after the first of them, in milliseconds; doubled after each.
const PAUSE_MS: u64 = 250;
/// What is larger is uploaded in blocks of this size, each of which may be sent again by itself.
const BLOCK_BYTES: usize = 16 << 20;
/// How many blocks of one upload are on their way at once.
const BLOCKS_MAX: usize = 4;
/// How many numbers may have been given to jobs that died.
const LOST_MAX: u32 = 3;

/// What a job on GitHub knows of its caches. Tokens are never shown.
#[derive(Clone, Default)]
pub struct GitHub {
    /// `ACTIONS_RESULTS_URL` and `ACTIONS_RUNTIME_TOKEN`, for saving and restoring.
    pub service: Option<(String, String)>,
    /// `GITHUB_API_URL`, `GITHUB_REPOSITORY` and `GITHUB_TOKEN`, for listing and deleting.
    pub rest: Option<(String, String, String)>,
}

impl fmt::Debug for GitHub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.service.as_ref().map(|(url, _)| url);
        let repository = self.rest.as_ref().map(|(_, repository, _)| repository);
        f.debug_struct("GitHub").field("service", &url).field("repository", &repository).finish_non_exhaustive()
    }
}

/// The service, as far as one version of entries goes.
pub(crate) struct Service {
    /// Its URL, and the token.
    login: Option<(String, String)>,
    client: Client,
    version: Sha256Digest,
}

/// An entry that was found.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its key.
    pub(crate) key: String,
    /// Where it is; as good as a token.
    url: String,
}

/// What the service says of an entry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    ok: bool,
    signed_upload_url: String,
    signed_download_url: String,
    matched_key: String,
}

impl Service {
    /// Means the entries of one version. That there is no service is told when something is asked.
    pub(crate) fn new(github: &GitHub, client: Client, version: Sha256Digest) -> Self {
        Self { login: github.service.clone(), client, version }
    }

    /// Asks the service; `None` if what is asked for is there already.
    async fn call(&self, method: &str, mut question: Value) -> Result<Option<Said>, ObjectError> {
        let Some((url, token)) = &self.login else {
            let why = "this job does not know GitHub's cache service (ACTIONS_RESULTS_URL, ACTIONS_RUNTIME_TOKEN)";
            return Err(ObjectError(why.to_owned()));
        };
        question["version"] = self.version.to_string().into();
        let url = format!("{}/{SERVICE}/{method}", url.trim_end_matches('/'));
        let question = question.to_string();
        let ask = || {
            let request = self.client.post(&url).bearer_auth(token).header("Content-Type", "application/json");
            request.header("User-Agent", "larder").body(question.clone())
        };
        let answer = send(method, ask).await?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| failed(method, error))?;
        if status == StatusCode::CONFLICT {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(refused(method, status, &text));
        }
        let said = serde_json::from_str(&text);
        said.map(Some).map_err(|error| ObjectError(format!("GitHub's cache service, {method}: {error}")))
    }

    /// Finds the entry of this key, else the newest whose key starts with it, else the newest of the first prefix that
    /// has any.
    pub(crate) async fn find(&self, key: &str, prefixes: &[String]) -> Result<Option<Entry>, ObjectError> {
        let said = self.call("GetCacheEntryDownloadURL", json!({ "key": key, "restore_keys": prefixes })).await?;
        Ok(said.filter(|said| said.ok).map(|said| Entry { key: said.matched_key, url: said.signed_download_url }))
    }

    /// As [`Service::find`], for exactly this key.
    pub(crate) async fn find_exactly(&self, key: &str) -> Result<Option<Entry>, ObjectError> {
        Ok(self.find(key, &[]).await?.filter(|found| found.key == key))
    }

    /// Opens an entry; `None` if it is known, and what it stands for is gone.
    pub(crate) async fn open(&self, entry: &Entry) -> Result<Option<Pieces>, ObjectError> {
        let Some(answer) = self.download(entry, None).await? else { return Ok(None) };
        let pieces = stream::unfold(Some(answer), |answer| async move {
            let mut answer = answer?;
            match answer.chunk().await {
                Ok(None) => None,
                Ok(Some(piece)) => Some((Ok(Buffer::from(piece)), Some(answer))),
                Err(error) => Some((Err(failed("the download", error)), None)),
            }
        });
        Ok(Some(pieces.boxed()))
    }

    /// Reads a small entry; `None` as in [`Service::open`].
    pub(crate) async fn read(&self, entry: &Entry) -> Result<Option<Vec<u8>>, ObjectError> {
        let Some(answer) = self.download(entry, None).await? else { return Ok(None) };
        Ok(Some(answer.bytes().await.map_err(|error| failed("the download", error))?.to_vec()))
    }

    /// Returns how large an entry is; `None` as in [`Service::open`].
    pub(crate) async fn size(&self, entry: &Entry) -> Result<Option<u64>, ObjectError> {
        let Some(answer) = self.download(entry, Some("bytes=0-0")).await? else { return Ok(None) };
        let total = answer.headers().get("Content-Range").and_then(|range| range.to_str().ok()?.rsplit('/').next());
        Ok(total.and_then(|total| total.parse().ok()).or(answer.content_length()))
    }

    async fn download(&self, entry: &Entry, range: Option<&str>) -> Result<Option<Response>, ObjectError> {
        let ask = || {
            let request = self.client.get(&entry.url);
            match range {
                Some(range) => request.header("Range", range),
                None => request,
            }
        };
        let answer = send("the download", ask).await?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => Err(refused("the download", status, "")),
        }
    }

    /// Writes an entry. `false`: it is there, or somebody else is writing it.
    pub(crate) async fn put(&self, key: &str, content: Buffer) -> Result<bool, ObjectError> {
        let said = self.call("CreateCacheEntry", json!({ "key": key })).await?;
        let Some(said) = said.filter(|said| said.ok) else { return Ok(false) };
        let size = content.len();
        self.upload(&said.signed_upload_url, content).await?;
        let done = json!({ "key": key, "size_bytes": size.to_string() });
        match self.call("FinalizeCacheEntryUpload", done).await? {
            Some(said) if said.ok => Ok(true),
            _ => Err(ObjectError(format!("GitHub's cache service did not keep `{key}`"))),
        }
    }

    /// Writes a block blob of Azure: at once, or block by block and then the list of them.
    async fn upload(&self, url: &str, content: Buffer) -> Result<(), ObjectError> {
        let put = |url: String, content: Buffer| async move {
            let content = content.to_bytes();
            let upload = || {
                let request = self.client.put(&url).header("x-ms-blob-type", "BlockBlob");
                request.header("Content-Type", "application/octet-stream").body(content.clone())
            };
            let answer = send("the upload", upload).await?;
            let status = answer.status();
            if status.is_success() { Ok(()) } else { Err(refused("the upload", status, "")) }
        };
        if content.len() <= BLOCK_BYTES {
            return put(url.to_owned(), content).await;
        }
        // Any base64 will do for a name, if all have the same length; eight digits are such.
        let starts = (0..content.len()).step_by(BLOCK_BYTES);
        let blocks: Vec<(String, usize)> = starts.enumerate().map(|(n, start)| (format!("{n:08}"), start)).collect();
        let joint = if url.contains('?') { '&' } else { '?' };
        let uploads: Vec<_> = blocks
            .iter()
            .map(|(name, start)| {
                let block = content.slice(*start..content.len().min(start + BLOCK_BYTES));
                put(format!("{url}{joint}comp=block&blockid={name}"), block)
            })
            .collect();
        stream::iter(uploads).buffer_unordered(BLOCKS_MAX).try_collect::<()>().await?;
        let names: String = blocks.iter().flat_map(|(name, _)| ["<Latest>", name, "</Latest>"]).collect();
        let list = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>{names}</BlockList>");
        put(format!("{url}{joint}comp=blocklist"), Buffer::from(list)).await
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Sends a request, again if that may help.
pub(crate) async fn send(what: &str, request: impl Fn() -> RequestBuilder) -> Result<Response, ObjectError> {
    for attempt in 1.. {
        let answer = request().send().await;
        let may_help = match &answer {
            Ok(answer) => answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS,
            // A key that is asked for twice may be taken by the first.
            Err(error) => error.is_connect(),
        };
        if !may_help || attempt == ATTEMPTS_MAX {
            return answer.map_err(|error| failed(what, error));
        }
        tokio::time::sleep(std::time::Duration::from_millis(PAUSE_MS << attempt)).await;
    }
    unreachable!("the last attempt returns")
}

/// A signed URL is as good as a token, so none is shown.
pub(crate) fn failed(what: &str, error: reqwest::Error) -> ObjectError {
    let error = error.without_url();
    let mut why = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    ObjectError(format!("GitHub's cache service, {what}: {why}"))
}

pub(crate) fn refused(what: &str, status: StatusCode, text: &str) -> ObjectError {
    let said: Value = serde_json::from_str(text).unwrap_or_default();
    let words = ["msg", "message"].iter().find_map(|name| said[name].as_str()).unwrap_or_default();
    let words: String = words.chars().take(200).collect();
    let why = [&*status.to_string(), &words.escape_debug().to_string()].join(" ");
    ObjectError(format!("GitHub's cache service, {what}: {}", why.trim_end()))
}

/// The service as a tier.
#[derive(Debug)]
pub(crate) struct Serial {
    service: Service,
    root: String,
}

impl Serial {
    pub(crate) fn new(github: &GitHub, client: Client, root: &str) -> Self {
        let version = Sha256Digest::of_fields(["larder-tier 1"]);
        Self { service: Service::new(github, client, version), root: root.to_owned() }
    }

    /// Returns what all entries of an object start with.
    fn series(&self, name: &str) -> String {
        let root = &self.root;
        if root.is_empty() { format!("{name}#") } else { format!("{root}/{name}#") }
    }

    async fn newest(&self, name: &str) -> Result<Option<Entry>, ObjectError> {
        let series = self.series(name);
        Ok(self.service.find(&series, &[]).await?.filter(|found| found.key.starts_with(&series)))
    }
}

impl Objects for Serial {
    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Pieces>> {
        Box::pin(async move {
            let Some(newest) = self.newest(name).await? else { return Ok(None) };
            self.service.open(&newest).await
        })
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<(Vec<u8>, Option<String>)>> {
        Box::pin(async move {
            let Some(newest) = self.newest(name).await? else { return Ok(None) };
            Ok(self.service.read(&newest).await?.map(|bytes| (bytes, Some(newest.key))))
        })
    }

    fn write<'a>(&'a self, name: &'a str, content: Buffer, expect: Expect) -> Answer<'a, bool> {
        Box::pin(async move {
            let (series, newest) = (self.series(name), self.newest(name).await?.map(|newest| newest.key));
            let is_expected = match &expect {
                Expect::Anything => true,
                Expect::Nothing => newest.is_none(),
                Expect::Tag(tag) => newest.as_ref() == Some(tag),
            };
            if !is_expected {
                return Ok(false);
            }
            let number = newest.and_then(|key| key.strip_prefix(&series)?.parse::<u32>().ok()).unwrap_or(0);
            for n in 1..=LOST_MAX {
                if self.service.put(&format!("{series}{}", number.saturating_add(n)), content.clone()).await? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, Option<u64>> {
        Box::pin(async move {
            let Some(newest) = self.newest(name).await? else { return Ok(None) };
            self.service.size(&newest).await
        })
    }

    fn list<'a>(&'a self, _folder: &'a str) -> Answer<'a, Option<Vec<String>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn remove<'a>(&'a self, _name: &'a str) -> Answer<'a, ()> {
        let why = "GitHub's cache service deletes nothing for a job";
        Box::pin(std::future::ready(Err(ObjectError(why.to_owned()))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::GitHubServer;

    fn tier(server: &GitHubServer, branch: &str) -> Serial {
        let job = server.job(branch);
        let said = |name: &str| job.iter().find(|(known, _)| *known == name).unwrap().1.clone();
        let service = Some((said("ACTIONS_RESULTS_URL"), said("ACTIONS_RUNTIME_TOKEN")));
        Serial::new(&GitHub { service, rest: None }, super::super::client().unwrap(), "some/root")
    }

    #[tokio::test]
    async fn what_changes_is_a_series_of_which_the_newest_counts() {
        let server = GitHubServer::start();
        let (main, branch) = (tier(&server, "refs/heads/main"), tier(&server, "refs/heads/topic"));
        assert_eq!(main.read("a").await.unwrap(), None);
        assert!(main.write("a", Buffer::from("one"), Expect::Nothing).await.unwrap());
        assert!(main.write("ab", Buffer::from("another"), Expect::Nothing).await.unwrap());
        assert!(!main.write("a", Buffer::from("two"), Expect::Nothing).await.unwrap());
        let (bytes, tag) = main.read("a").await.unwrap().unwrap();
        assert_eq!(bytes, b"one");
        let expect = || Expect::Tag(tag.clone().unwrap());
        assert!(branch.write("a", Buffer::from("of the branch"), expect()).await.unwrap());
        assert!(main.write("a", Buffer::from("three"), expect()).await.unwrap());
        assert!(!main.write("a", Buffer::from("four"), expect()).await.unwrap(), "somebody else has changed it");
        assert_eq!(main.read("a").await.unwrap().unwrap().0, b"three");
        assert_eq!(branch.read("a").await.unwrap().unwrap().0, b"of the branch");
        assert_eq!(branch.size("ab").await.unwrap(), Some(7), "the default branch is read by all");
        assert_eq!(main.size("b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_number_that_was_given_to_a_job_that_died_is_passed_over() {
        let server = GitHubServer::start();
        let tier = tier(&server, "refs/heads/main");
        let reserved = json!({ "key": tier.series("a") + "1" });
        assert!(tier.service.call("CreateCacheEntry", reserved).await.unwrap().unwrap().ok);
        assert!(tier.write("a", Buffer::from("it"), Expect::Nothing).await.unwrap());
        assert_eq!(tier.read("a").await.unwrap().unwrap().0, b"it");
        assert_eq!(server.keys(), ["some/root/a#2"]);
    }

    #[tokio::test]
    async fn what_is_large_goes_in_blocks_and_comes_back_whole() {
        let server = GitHubServer::start();
        let tier = tier(&server, "refs/heads/main");
        let large: Vec<u8> = (0..2 * BLOCK_BYTES + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        server.fail_blocks(1);
        assert!(tier.write("a", Buffer::from(large.clone()), Expect::Nothing).await.unwrap());
        assert!(tier.read("a").await.unwrap().unwrap().0 == large);
        let n_put = server.log().iter().filter(|line| line.starts_with("PUT ") && line.ends_with(" 201")).count();
        assert_eq!(n_put, 3 + 1, "{:?}", server.log());
    }
}
