//! GitHub's cache service, version 2, as a shelf.
//!
//! States and packs are cache entries `larder-ci-{key}` and `larder-pack-{sha256}`, in a version of their own for each
//! tenant and platform. The service is Twirp as JSON, with the token that a job's actions have; the bytes go to and come
//! from signed URLs of a blob storage. It finds by prefix and never writes again itself; what a branch may see is its
//! business. It cannot list or delete: that is GitHub's REST API, with another token.

use std::fmt;

use futures_util::{StreamExt, stream};
use opendal::Buffer;
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Key;
use super::shelf::{Kept, Name, Shelf};
use crate::digest::Sha256Digest;
use crate::tiers::Tenant;
use crate::tiers::objects::{Answer, ObjectError, Pieces};

const SERVICE: &str = "twirp/github.actions.results.api.v1.CacheService";
const STATE: &str = "larder-ci-";
const PACK: &str = "larder-pack-";
/// How often something is tried that may be tried again.
const ATTEMPTS_MAX: u32 = 3;
/// The pause after the first of them, in milliseconds; doubled after each.
const PAUSE_MS: u64 = 250;
/// How many entries GitHub lists at once, at most.
const PAGE: usize = 100;

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

/// The service as one tenant on one platform sees it.
#[derive(Debug)]
pub(super) struct GitHubShelf {
    github: GitHub,
    client: Client,
    version: String,
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

/// What GitHub's REST API lists.
#[derive(Debug, Deserialize)]
struct Page {
    total_count: usize,
    actions_caches: Vec<Cached>,
}

#[derive(Debug, Deserialize)]
struct Cached {
    key: String,
    created_at: String,
}

impl GitHubShelf {
    pub(super) fn new(github: GitHub, client: Client, tenant: &Tenant, platform: Option<&str>) -> Self {
        let version = Sha256Digest::of_fields(["larder-ci 1", &tenant.to_string(), platform.unwrap_or_default()]);
        Self { github, client, version: version.to_string() }
    }

    /// Asks the service; `None` if what is asked for is there already.
    async fn call(&self, method: &str, mut question: Value) -> Result<Option<Said>, ObjectError> {
        let Some((url, token)) = &self.github.service else {
            let why = "this job does not know GitHub's cache service (ACTIONS_RESULTS_URL, ACTIONS_RUNTIME_TOKEN)";
            return Err(ObjectError(why.to_owned()));
        };
        question["version"] = self.version.clone().into();
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

    /// Asks where an entry can be had.
    async fn look(&self, key: &str, prefixes: &[String]) -> Result<Option<Said>, ObjectError> {
        let said = self.call("GetCacheEntryDownloadURL", json!({ "key": key, "restore_keys": prefixes })).await?;
        Ok(said.filter(|said| said.ok))
    }

    /// As [`GitHubShelf::look`], for exactly this key: the service takes it for a prefix, too.
    async fn look_exactly(&self, key: &str) -> Result<Option<Said>, ObjectError> {
        Ok(self.look(key, &[]).await?.filter(|said| said.matched_key == key))
    }

    async fn download(&self, said: &Said, range: Option<&str>) -> Result<Option<Response>, ObjectError> {
        let ask = || {
            let request = self.client.get(&said.signed_download_url);
            match range {
                Some(range) => request.header("Range", range),
                None => request,
            }
        };
        let answer = send("the download", ask).await?;
        match answer.status() {
            // The entry is known, and what it stands for is gone.
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => Ok(Some(answer)),
            status => Err(refused("the download", status, "")),
        }
    }

    async fn rest(&self, method: Method, query: &[(&str, String)]) -> Result<(StatusCode, String), ObjectError> {
        let Some((url, repository, token)) = &self.github.rest else {
            let why = "GitHub lists and deletes only for who has its token (GITHUB_TOKEN, GITHUB_REPOSITORY)";
            return Err(ObjectError(why.to_owned()));
        };
        let url = format!("{}/repos/{repository}/actions/caches", url.trim_end_matches('/'));
        let mut url = reqwest::Url::parse(&url).map_err(|error| ObjectError(format!("GITHUB_API_URL: {error}")))?;
        url.query_pairs_mut().extend_pairs(query);
        let ask = || {
            let request = self.client.request(method.clone(), url.clone()).bearer_auth(token);
            request.header("User-Agent", "larder").header("Accept", "application/vnd.github+json")
        };
        let answer = send("the list of caches", ask).await?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| failed("the list of caches", error))?;
        if status.is_success() || status == StatusCode::NOT_FOUND && method == Method::DELETE {
            Ok((status, text))
        } else {
            Err(refused("the list of caches", status, &text))
        }
    }
}

/// Sends a request, again if that may help.
async fn send(what: &str, request: impl Fn() -> reqwest::RequestBuilder) -> Result<Response, ObjectError> {
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
fn failed(what: &str, error: reqwest::Error) -> ObjectError {
    let error = error.without_url();
    let mut why = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        why = cause.to_string();
        source = cause.source();
    }
    ObjectError(format!("GitHub's cache service, {what}: {why}"))
}

fn refused(what: &str, status: StatusCode, text: &str) -> ObjectError {
    let said: Value = serde_json::from_str(text).unwrap_or_default();
    let words = ["msg", "message"].iter().find_map(|name| said[name].as_str()).unwrap_or_default();
    let words: String = words.chars().take(200).collect();
    let why = [&*status.to_string(), &words.escape_debug().to_string()].join(" ");
    ObjectError(format!("GitHub's cache service, {what}: {}", why.trim_end()))
}

fn key_of(name: Name<'_>) -> String {
    match name {
        Name::State(key) => format!("{STATE}{key}"),
        Name::Pack(sha256) => format!("{PACK}{sha256}"),
    }
}

impl Shelf for GitHubShelf {
    fn find<'a>(&'a self, key: &'a Key, prefixes: &'a [Key]) -> Answer<'a, Option<Vec<u8>>> {
        Box::pin(async move {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| key_of(Name::State(prefix))).collect();
            let Some(said) = self.look(&key_of(Name::State(key)), &prefixes).await? else { return Ok(None) };
            let Some(answer) = self.download(&said, None).await? else { return Ok(None) };
            Ok(Some(answer.bytes().await.map_err(|error| failed("the download", error))?.to_vec()))
        })
    }

    fn open(&self, pack: Sha256Digest) -> Answer<'_, Option<Pieces>> {
        Box::pin(async move {
            let Some(said) = self.look_exactly(&key_of(Name::Pack(pack))).await? else { return Ok(None) };
            let Some(answer) = self.download(&said, None).await? else { return Ok(None) };
            let pieces = stream::unfold(Some(answer), |answer| async move {
                let mut answer = answer?;
                match answer.chunk().await {
                    Ok(None) => None,
                    Ok(Some(piece)) => Some((Ok(Buffer::from(piece)), Some(answer))),
                    Err(error) => Some((Err(failed("the download", error)), None)),
                }
            });
            Ok(Some(pieces.boxed() as Pieces))
        })
    }

    fn size(&self, pack: Sha256Digest) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            let Some(said) = self.look_exactly(&key_of(Name::Pack(pack))).await? else { return Ok(None) };
            let Some(answer) = self.download(&said, Some("bytes=0-0")).await? else { return Ok(None) };
            let total = answer.headers().get("Content-Range").and_then(|range| range.to_str().ok()?.rsplit('/').next());
            Ok(total.and_then(|total| total.parse().ok()).or(answer.content_length()))
        })
    }

    fn put<'a>(&'a self, name: Name<'a>, content: Buffer) -> Answer<'a, bool> {
        Box::pin(async move {
            let key = key_of(name);
            let Some(said) = self.call("CreateCacheEntry", json!({ "key": key })).await? else { return Ok(false) };
            if !said.ok {
                return Ok(false);
            }
            let (content, size) = (content.to_bytes(), content.len());
            let upload = || {
                let request = self.client.put(&said.signed_upload_url).header("x-ms-blob-type", "BlockBlob");
                request.header("Content-Type", "application/octet-stream").body(content.clone())
            };
            let answer = send("the upload", upload).await?;
            if !answer.status().is_success() {
                return Err(refused("the upload", answer.status(), ""));
            }
            let done = json!({ "key": key, "size_bytes": size.to_string() });
            match self.call("FinalizeCacheEntryUpload", done).await? {
                Some(said) if said.ok => Ok(true),
                _ => Err(ObjectError(format!("GitHub's cache service did not keep `{key}`"))),
            }
        })
    }

    fn list<'a>(&'a self, prefix: &'a str) -> Answer<'a, Vec<Kept>> {
        Box::pin(async move {
            let (mut all, mut n_seen) = (Vec::new(), 0);
            for page in 1.. {
                let query = [
                    ("key", format!("{STATE}{prefix}")),
                    ("per_page", PAGE.to_string()),
                    ("page", page.to_string()),
                    ("sort", "created_at".to_owned()),
                    ("direction", "desc".to_owned()),
                ];
                let (_, text) = self.rest(Method::GET, &query).await?;
                let listed: Page = serde_json::from_str(&text)
                    .map_err(|error| ObjectError(format!("GitHub's list of caches is not one: {error}")))?;
                n_seen += listed.actions_caches.len();
                let is_last = listed.actions_caches.is_empty() || n_seen >= listed.total_count;
                all.extend(listed.actions_caches.into_iter().filter_map(|cached| {
                    let key = cached.key.strip_prefix(STATE)?.to_owned();
                    Some(Kept { key, created_at: cached.created_at, platform: None, n_entries: None, bytes: None })
                }));
                if is_last {
                    break;
                }
            }
            Ok(all)
        })
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Answer<'a, bool> {
        Box::pin(async move {
            let (status, _) = self.rest(Method::DELETE, &[("key", key_of(Name::State(key)))]).await?;
            Ok(status.is_success())
        })
    }

    fn discard<'a>(&'a self, name: Name<'a>) -> Answer<'a, ()> {
        Box::pin(async move { self.rest(Method::DELETE, &[("key", key_of(name))]).await.map(drop) })
    }
}
