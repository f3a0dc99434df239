//! Where a tier is and how it is used: what `--cache`, `LARDER_CACHE` and `larder.toml` say.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use super::trust::{PublicKey, Trust};

/// How long a tier may keep silent, unless it is told otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a tier is, and how it is used.
///
/// ```text
/// fs:///srv/larder                 s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-west-1:ro
/// gs://bucket/prefix               azblob://container/prefix?account=name
/// https://user:word@host/prefix    redis://:word@host:6379/0?root=larder                 ghac://larder
/// ```
///
/// Behind `?` may stand `trust=none|signed|all`, `key=...` (a public key, any number of them), `timeout=30s`, and what
/// only some kinds have; at the very end `:ro` or `:rw`. It is shown without passwords.
///
/// ```
/// use larder_ops::tiers::Address;
///
/// let address: Address = "redis://:secret@cache.example:6379/0?timeout=2s:ro".parse()?;
/// assert_eq!(address.to_string(), "redis://cache.example:6379/0");
/// assert!(!address.is_writable);
/// assert!("ftp://host/".parse::<Address>().is_err());
/// # Ok::<(), larder_ops::tiers::AddressError>(())
/// ```
#[derive(Clone)]
pub struct Address {
    pub(crate) place: Place,
    shown: String,
    secrets: Vec<String>,
    /// Whether results are written there.
    pub is_writable: bool,
    /// Whose entries are taken from there.
    pub trust: Trust,
    /// How long it may keep silent before it counts as down.
    pub timeout: Duration,
}

/// What stands behind a tier.
#[derive(Clone)]
pub(crate) enum Place {
    Directory(PathBuf),
    S3 {
        bucket: String,
        root: String,
        endpoint: Option<String>,
        region: String,
        is_virtual_host: bool,
        is_anonymous: bool,
    },
    Gcs {
        bucket: String,
        root: String,
        endpoint: Option<String>,
        is_anonymous: bool,
    },
    Azure {
        container: String,
        root: String,
        endpoint: Option<String>,
        account: Option<String>,
    },
    Http {
        url: Url,
        login: Option<(String, String)>,
    },
    Redis {
        endpoint: String,
        login: (Option<String>, Option<String>),
        database: i64,
        root: String,
    },
    GitHub {
        root: String,
    },
    Memory,
}

/// Text that names no tier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is no cache: {why}")]
pub struct AddressError {
    shown: String,
    why: String,
}

impl Address {
    /// A tier in the memory of this process, for tests.
    pub fn memory() -> Self {
        Self {
            place: Place::Memory,
            shown: "memory".to_owned(),
            secrets: Vec::new(),
            is_writable: true,
            trust: Trust::default(),
            timeout: TIMEOUT,
        }
    }

    /// Says whether it can be reached without a network.
    pub fn is_local(&self) -> bool {
        matches!(self.place, Place::Directory(_) | Place::Memory)
    }

    /// Takes what must not be seen out of a message.
    pub(crate) fn redact(&self, message: &str) -> String {
        self.secrets.iter().fold(message.to_owned(), |message, secret| message.replace(secret, "***"))
    }
}

/// What was asked for behind `?`, each taken once.
struct Wishes(Vec<(String, String)>);

impl Wishes {
    fn all(&mut self, name: &str) -> Vec<String> {
        let (taken, left) = std::mem::take(&mut self.0).into_iter().partition(|(asked, _)| asked == name);
        self.0 = left;
        taken.into_iter().map(|(_, value)| value).collect()
    }

    fn one(&mut self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    fn is_set(&mut self, name: &str) -> Result<bool, String> {
        match self.one(name).as_deref() {
            None | Some("false") => Ok(false),
            Some("true" | "") => Ok(true),
            Some(other) => Err(format!("`{name}` is `true` or `false`, not `{other}`")),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (rest, is_writable) = match text.rsplit_once(':') {
            Some((rest, "ro")) => (rest, false),
            Some((rest, "rw")) => (rest, true),
            _ => (text, true),
        };
        let unreadable = |why: &dyn fmt::Display| AddressError {
            // A password may be in it.
            shown: text.split("://").next().unwrap_or_default().chars().take(20).collect::<String>() + "://...",
            why: why.to_string(),
        };
        let url = Url::parse(rest).map_err(|error| unreadable(&error))?;
        let shown = shown(&url);
        let refused = |why: String| AddressError { shown: shown.clone(), why };
        // Taken for a part of the path, it would be written to where nobody looks.
        if [":ro", ":rw"].iter().any(|end| url.path().ends_with(end)) {
            return Err(refused("`:ro` and `:rw` stand at the very end, behind what follows `?`".to_owned()));
        }
        let mut wishes = Wishes(url.query_pairs().map(|(name, value)| (name.into(), value.into())).collect());
        let trust = Trust::from_words(wishes.one("trust").as_deref(), &keys(wishes.all("key")).map_err(refused)?);
        let trust = trust.map_err(refused)?;
        let timeout = wishes.one("timeout").map_or(Ok(TIMEOUT), |text| {
            humantime::parse_duration(&text).map_err(|error| refused(format!("`timeout={text}`: {error}")))
        })?;
        let place = place(&url, &mut wishes).map_err(refused)?;
        if let Some((name, _)) = wishes.0.first() {
            return Err(refused(format!("`{name}` is nothing that can be said of it")));
        }
        let secrets = url.password().into_iter().map(decoded).chain(url.password().map(str::to_owned)).collect();
        Ok(Self { place, shown, secrets, is_writable, trust, timeout })
    }
}

fn keys(texts: Vec<String>) -> Result<Vec<PublicKey>, String> {
    texts.into_iter().map(|text| text.parse().map_err(|error| format!("{error}"))).collect()
}

/// Returns a URL as it may be seen.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    // Refused only where there is no host, and then there is nothing to hide.
    let _ = (shown.set_password(None), shown.set_username(""));
    shown.to_string()
}

fn decoded(text: &str) -> String {
    let encoded = format!("x={}", text.replace('+', "%2B"));
    let pairs = Url::parse(&format!("x:?{encoded}")).ok();
    pairs.and_then(|url| url.query_pairs().next().map(|(_, value)| value.into_owned())).unwrap_or_default()
}

fn place(url: &Url, wishes: &mut Wishes) -> Result<Place, String> {
    let root = || url.path().trim_matches('/').to_owned();
    let host = |what: &str| match url.host_str() {
        Some(host) if !host.is_empty() => Ok(host.to_owned()),
        _ => Err(format!("it names no {what}: `{}://{what}/prefix`", url.scheme())),
    };
    Ok(match url.scheme() {
        "fs" | "file" => {
            if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().len() < 2 {
                return Err("give an absolute path: `fs:///path`".to_owned());
            }
            Place::Directory(PathBuf::from(decoded(url.path())))
        }
        "s3" => Place::S3 {
            bucket: host("bucket")?,
            root: root(),
            endpoint: wishes.one("endpoint"),
            region: wishes.one("region").unwrap_or_default(),
            is_virtual_host: wishes.is_set("virtual-host")?,
            is_anonymous: wishes.is_set("anonymous")?,
        },
        "gs" => Place::Gcs {
            bucket: host("bucket")?,
            root: root(),
            endpoint: wishes.one("endpoint"),
            is_anonymous: wishes.is_set("anonymous")?,
        },
        "azblob" => Place::Azure {
            container: host("container")?,
            root: root(),
            endpoint: wishes.one("endpoint"),
            account: wishes.one("account"),
        },
        "http" | "https" => {
            let login = url.password().map(|word| (decoded(url.username()), decoded(word)));
            let mut plain = url.clone();
            plain.set_query(None);
            let _ = (plain.set_password(None), plain.set_username(""));
            Place::Http { url: plain, login }
        }
        "redis" | "rediss" => {
            let database = url.path().trim_matches('/');
            let database = if database.is_empty() { Ok(0) } else { database.parse() };
            let user = Some(url.username()).filter(|user| !user.is_empty()).map(decoded);
            let scheme = if url.scheme() == "redis" { "tcp" } else { "rediss" };
            Place::Redis {
                endpoint: format!("{scheme}://{}:{}", host("host")?, url.port().unwrap_or(6379)),
                login: (user, url.password().map(decoded)),
                database: database.map_err(|_| "what follows the host is the number of a database".to_owned())?,
                root: wishes.one("root").unwrap_or_default(),
            }
        }
        "ghac" => {
            let root = [url.host_str().unwrap_or_default(), &root()].join("/");
            Place::GitHub { root: root.trim_matches('/').to_owned() }
        }
        other => {
            return Err(format!("`{other}` is not among fs, s3, gs, azblob, http, https, redis, rediss, ghac"));
        }
    })
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<Address>().unwrap_err().to_string()
    }

    #[test]
    fn read_only_in_the_wrong_place_is_refused_and_not_a_path() {
        for text in ["fs:///srv/cache:ro?timeout=2s", "s3://bucket/prefix:rw?region=eu-west-1"] {
            assert!(refusal(text).contains("stand at the very end, behind what follows `?`"), "{text}");
        }
        assert!(!address("fs:///srv/cache?timeout=2s:ro").is_writable);
    }

    #[test]
    fn every_kind_of_tier_can_be_named() {
        for text in [
            "fs:///srv/cache",
            "s3://bucket/some/prefix?endpoint=http://127.0.0.1:9000&region=us-east-1",
            "gs://bucket",
            "azblob://container/prefix?account=me",
            "https://user:word@host:8443/cache?timeout=3s:ro",
            "redis://:word@127.0.0.1:6379/2",
            "rediss://host",
            "ghac://larder:rw",
        ] {
            address(text);
        }
        let Place::S3 { bucket, root, endpoint, .. } = address("s3://b/p/q?endpoint=http://h:9000:ro").place else {
            panic!("it is S3")
        };
        assert_eq!((&*bucket, &*root, endpoint.as_deref()), ("b", "p/q", Some("http://h:9000")));
    }

    #[test]
    fn no_password_is_ever_shown() {
        for text in ["redis://me:s3cr%2Bet@host/0", "https://me:s3cr%2Bet@host/x", "https://me:s3cr%2Bet@host/?what=1"]
        {
            let shown = match text.parse::<Address>() {
                Ok(address) => {
                    let error = address.redact("no route to https://me:s3cr+et@host nor s3cr%2Bet");
                    format!("{address} {address:?} {error}")
                }
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("s3cr"), "{shown}");
        }
        assert!(!refusal("redis://me:secret@host:port/").contains("secret"));
    }

    #[test]
    fn what_is_no_tier_says_why() {
        assert_eq!(
            refusal("ftp://host/x"),
            "`ftp://host/x` is no cache: `ftp` is not among fs, s3, gs, azblob, http, https, redis, rediss, ghac"
        );
        assert!(refusal("fs://relative/path").contains("absolute"));
        assert!(refusal("s3:///prefix").contains("bucket"));
        assert!(refusal("s3://b/?regoin=x").contains("`regoin`"));
        assert!(refusal("fs:///x?trust=signed").contains("key"));
        assert!(refusal("fs:///x?timeout=soon").contains("timeout"));
        assert!(refusal("redis://host/main").contains("number"));
        assert!(refusal("no url").contains("no cache"));
    }
}
