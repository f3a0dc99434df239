//! One HTTP download: redirects, ranges, and bytes as they come over the wire.
//!
//! Does not retry and does not judge the bytes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::credentials::{Authorization, Credentials};
use super::error::Reason;
use super::{FetchConfig, Proxy};
use crate::blobs::Partial;

const REDIRECTS_MAX: usize = 10;

/// The HTTP clients of a run, made when first needed.
pub(super) struct Http {
    config: Arc<FetchConfig>,
    credentials: Credentials,
    /// Knows the certificates that this system trusts, a company's own too. Reading them takes a while, and fails
    /// where there are none, so nobody waits for them who needs only `http`.
    secure: OnceLock<Client>,
    plain: OnceLock<Client>,
}

/// A download that broke off. What has arrived is in the partial file.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    /// How long the server asks to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl<R: Into<Reason>> From<R> for Failure {
    fn from(reason: R) -> Self {
        Self { reason: reason.into(), retry_after: None }
    }
}

impl Http {
    pub(super) fn new(config: &Arc<FetchConfig>) -> Self {
        let credentials = Credentials {
            netrc: config.netrc.clone().unwrap_or_default(),
            github_token: config.github_token.clone().filter(|token| !token.is_empty()),
        };
        Self { config: Arc::clone(config), credentials, secure: OnceLock::new(), plain: OnceLock::new() }
    }

    /// Fetches what `partial` lacks of `url`, or all of it if the server has other bytes by now.
    pub(super) async fn download(
        &self,
        url: &Url,
        partial: &mut Partial,
        progress: &mut (impl FnMut(u64, Option<u64>) + Send),
    ) -> Result<(), Failure> {
        let mut response = self.send(url, range_headers(partial)).await?;
        let is_rest = |response: &Response, len| len > 0 && starts_at(response, len);
        let is_no_use = match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => true,
            StatusCode::PARTIAL_CONTENT => !is_rest(&response, partial.len()),
            _ => false,
        };
        if is_no_use && partial.len() > 0 {
            partial.restart(None)?;
            response = self.send(url, HeaderMap::new()).await?;
        }
        match response.status() {
            StatusCode::PARTIAL_CONTENT if is_rest(&response, partial.len()) => {}
            StatusCode::OK => partial.restart(validator(&response))?,
            status => {
                let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = retry_after.and_then(|value| value.trim().parse().ok()).map(Duration::from_secs);
                return Err(Failure { reason: Reason::Status(status.as_u16()), retry_after });
            }
        }
        let total = response.content_length().map(|rest| partial.len() + rest);
        progress(partial.len(), total);
        while let Some(chunk) = response.chunk().await.map_err(Reason::from)? {
            // Into the page cache: too short a wait to move to another thread and back.
            partial.append(&chunk)?;
            progress(partial.len(), total);
        }
        Ok(())
    }

    /// Sends a request and follows redirects, with the credentials of each host to that host only.
    async fn send(&self, first: &Url, headers: HeaderMap) -> Result<Response, Reason> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut bare = url.clone();
            if bare.set_username("").is_err() || bare.set_password(None).is_err() {
                return Err(Reason::Unsupported);
            }
            let mut request = self.client(url.scheme())?.get(bare).headers(headers.clone());
            request = match self.credentials.for_request(&url, first) {
                Some(Authorization::Basic { user, password }) => request.basic_auth(user, Some(password)),
                Some(Authorization::Bearer(token)) => request.bearer_auth(token),
                None => request,
            };
            let response = request.send().await?;
            let location = response.headers().get(header::LOCATION).filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(response);
            };
            let location = String::from_utf8_lossy(location.as_bytes());
            url = next(&url, &location).ok_or_else(|| Reason::Redirect(super::without_credentials(&location)))?;
        }
        Err(Reason::Redirect("one place after the other".to_owned()))
    }

    fn client(&self, scheme: &str) -> Result<&Client, Reason> {
        let (cell, is_secure) = if scheme == "https" { (&self.secure, true) } else { (&self.plain, false) };
        if let Some(client) = cell.get() {
            return Ok(client);
        }
        // The client asks for a process-wide provider of cryptography; if there is one already, that will do.
        drop(rustls::crypto::ring::default_provider().install_default());
        let mut builder = Client::builder()
            .user_agent(&self.config.user_agent)
            .connect_timeout(self.config.connect_timeout)
            .read_timeout(self.config.stall_timeout)
            .redirect(redirect::Policy::none())
            .referer(false);
        if !is_secure {
            builder = builder.tls_certs_only([]);
        }
        if self.config.proxy == Proxy::Direct {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(Reason::NoHttps)?;
        Ok(cell.get_or_init(|| client))
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").finish_non_exhaustive()
    }
}

/// Where a redirect leads, unless that is somewhere less safe than `from`.
fn next(from: &Url, location: &str) -> Option<Url> {
    let next = from.join(location).ok()?;
    matches!((from.scheme(), next.scheme()), (_, "https") | ("http", "http")).then_some(next)
}

/// Asks for what is missing, or for everything should the server have another version by now.
fn range_headers(partial: &Partial) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let validator = partial.validator().and_then(|validator| HeaderValue::from_str(validator).ok());
    if let Some(validator) = validator.filter(|_| partial.len() > 0) {
        let range = HeaderValue::from_str(&format!("bytes={}-", partial.len())).expect("digits are fit for a header");
        headers.insert(header::RANGE, range);
        headers.insert(header::IF_RANGE, validator);
    }
    headers
}

/// What the server calls this version of the bytes. A weak `ETag` says nothing of bytes.
fn validator(response: &Response) -> Option<String> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(header::ETAG).filter(|etag| !etag.starts_with("W/")).or_else(|| text(header::LAST_MODIFIED))
}

/// Says whether the bytes that come are the ones from `start` on.
fn starts_at(response: &Response, start: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let given = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    given.and_then(|given| given.trim().parse().ok()) == Some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_do_not_lead_from_https_to_less() {
        let next = |from: &str, to: &str| next(&from.parse().unwrap(), to).map(String::from);
        assert_eq!(next("https://a/x/y", "../z").as_deref(), Some("https://a/z"));
        assert_eq!(next("http://a/x", "https://b/y").as_deref(), Some("https://b/y"));
        assert_eq!(next("http://a/x", "http://b/y").as_deref(), Some("http://b/y"));
        assert_eq!(next("https://a/x", "http://a/x"), None);
        assert_eq!(next("http://a/x", "file:///etc/passwd"), None);
    }
}
