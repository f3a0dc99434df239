//! GitHub's cache service as a shelf.
//!
//! States and packs are cache entries `larder-ci-{key}` and `larder-pack-{sha256}`, in a version of their own for each
//! tenant and platform. The service (`tiers/github.rs`) cannot list or delete: that is GitHub's REST API, with another
//! token.

use opendal::Buffer;
use reqwest::{Client, Method, StatusCode};
use serde::Deserialize;

use super::Key;
use super::shelf::{Kept, Name, Shelf};
use crate::digest::Sha256Digest;
use crate::tiers::Tenant;
use crate::tiers::github::{GitHub, Service, failed, refused, send};
use crate::tiers::objects::{Answer, ObjectError, Pieces};

const STATE: &str = "larder-ci-";
const PACK: &str = "larder-pack-";
/// How many entries GitHub lists at once, at most.
const PAGE: usize = 100;

/// The service as one tenant on one platform sees it.
#[derive(Debug)]
pub(super) struct GitHubShelf {
    service: Service,
    github: GitHub,
    client: Client,
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
        Self { service: Service::new(&github, client.clone(), version), github, client }
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
            let Some(found) = self.service.find(&key_of(Name::State(key)), &prefixes).await? else { return Ok(None) };
            self.service.read(&found).await
        })
    }

    fn open(&self, pack: Sha256Digest) -> Answer<'_, Option<Pieces>> {
        Box::pin(async move {
            let Some(found) = self.service.find_exactly(&key_of(Name::Pack(pack))).await? else { return Ok(None) };
            self.service.open(&found).await
        })
    }

    fn size(&self, pack: Sha256Digest) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            let Some(found) = self.service.find_exactly(&key_of(Name::Pack(pack))).await? else { return Ok(None) };
            self.service.size(&found).await
        })
    }

    fn put<'a>(&'a self, name: Name<'a>, content: Buffer) -> Answer<'a, bool> {
        Box::pin(async move { self.service.put(&key_of(name), content).await })
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
