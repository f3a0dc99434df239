//! Which credentials go to which host: those in the URL, a GitHub token, the passwords of a netrc file.
//!
//! Decided anew for each request, redirected ones too, so that nothing travels to a host it is not for.

use std::collections::HashMap;
use std::fmt;

use reqwest::Url;

const GITHUB_HOSTS: [&str; 3] = ["api.github.com", "github.com", "codeload.github.com"];

/// The passwords of a netrc file, by host. `default` and `macdef` are passed over: a password goes only to a host
/// that the file names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Netrc {
    logins: HashMap<String, Login>,
}

#[derive(Clone, Default, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

impl Netrc {
    /// Reads the text of a netrc file; what is not understood is passed over. Of two entries for a host the first counts.
    pub fn parse(text: &str) -> Self {
        let mut logins = HashMap::new();
        let mut current: Option<(String, Login)> = None;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let mut words = words(line).into_iter();
            while let Some(word) = words.next() {
                match (word.as_str(), &mut current) {
                    ("machine", current) => {
                        keep(&mut logins, current.take());
                        *current = words.next().map(|host| (host.to_ascii_lowercase(), Login::default()));
                    }
                    ("default", current) => keep(&mut logins, current.take()),
                    ("login", Some((_, login))) => login.user = words.next().unwrap_or_default(),
                    ("password", Some((_, login))) => login.password = words.next().unwrap_or_default(),
                    ("macdef", _) => {
                        // A macro goes on to the next empty line.
                        lines.by_ref().find(|line| line.trim().is_empty());
                        break;
                    }
                    _ => {}
                }
            }
        }
        keep(&mut logins, current);
        Self { logins }
    }
}

fn keep(logins: &mut HashMap<String, Login>, entry: Option<(String, Login)>) {
    if let Some((host, login)) = entry {
        logins.entry(host).or_insert(login);
    }
}

/// Splits a line at blanks, except within double quotes, up to a comment.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let mut word = String::new();
        let mut is_quoted = false;
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next() {
                None => break rest.len(),
                Some((0, '"')) => is_quoted = true,
                Some((at, '"')) if is_quoted => break at + 1,
                Some((_, '\\')) if is_quoted => word.extend(chars.next().map(|(_, c)| c)),
                Some((at, c)) if c.is_whitespace() && !is_quoted => break at,
                Some((_, c)) => word.push(c),
            }
        };
        words.push(word);
        rest = rest[end..].trim_start();
    }
    words
}

impl fmt::Debug for Netrc {
    /// Names hosts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.logins.keys()).finish()
    }
}

/// What one request carries.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    Basic { user: String, password: String },
    Bearer(String),
}

/// All credentials of a run.
#[derive(Default)]
pub(super) struct Credentials {
    pub(super) netrc: Netrc,
    pub(super) github_token: Option<String>,
}

impl Credentials {
    /// Returns what to send with a request for `url`, which may have come about by a redirect from `first`.
    pub(super) fn for_request(&self, url: &Url, first: &Url) -> Option<Authorization> {
        let host = url.host_str()?.to_ascii_lowercase();
        if let Some(given) = [url, first].into_iter().filter(|from| from.origin() == url.origin()).find_map(in_url) {
            return Some(given);
        }
        if let Some(token) = &self.github_token
            && url.scheme() == "https"
            && url.port().is_none()
            && GITHUB_HOSTS.contains(&host.as_str())
        {
            return Some(Authorization::Bearer(token.clone()));
        }
        let login = self.netrc.logins.get(&host)?;
        Some(Authorization::Basic { user: login.user.clone(), password: login.password.clone() })
    }
}

/// User and password that are part of the URL. Both are percent-encoded there.
fn in_url(url: &Url) -> Option<Authorization> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let [user, password] = [url.username(), url.password().unwrap_or_default()].map(super::source::percent_decoded);
    Some(Authorization::Basic { user, password })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(credentials: &Credentials, url: &str, first: &str) -> Option<String> {
        let authorization = credentials.for_request(&url.parse().unwrap(), &first.parse().unwrap());
        authorization.map(|authorization| match authorization {
            Authorization::Basic { user, password } => format!("{user}:{password}"),
            Authorization::Bearer(token) => token,
        })
    }

    #[test]
    fn a_github_token_goes_to_github_alone_and_by_https() {
        let credentials = Credentials { github_token: Some("t".to_owned()), ..Credentials::default() };
        let token = |url: &str| sent(&credentials, url, "https://api.github.com/x").is_some();
        for url in ["https://api.github.com/x", "https://github.com/x", "https://codeload.github.com/x"] {
            assert!(token(url), "{url}");
        }
        for url in [
            "http://api.github.com/x",
            "https://api.github.com:8443/x",
            "https://github.com.evil.org/x",
            "https://raw.githubusercontent.com/x",
            "https://objects.example.org/x",
        ] {
            assert!(!token(url), "{url}");
        }
    }

    #[test]
    fn credentials_of_a_url_stay_with_its_host_and_port() {
        let credentials = Credentials::default();
        let first = "https://me:p%40ss@host/a";
        assert_eq!(sent(&credentials, first, first).as_deref(), Some("me:p@ss"));
        assert_eq!(sent(&credentials, "https://host/b", first).as_deref(), Some("me:p@ss"));
        assert_eq!(sent(&credentials, "https://host:1/b", first), None);
        assert_eq!(sent(&credentials, "http://host/b", first), None);
        assert_eq!(sent(&credentials, "https://other/b", first), None);
    }

    #[test]
    fn netrc_files_are_read_as_people_write_them() {
        let netrc = Netrc::parse(
            "# mine\nmachine a.org login me password one # not this\nmachine b.org\n  login you\n\tpassword \"t w\\\"o\"\n\
             macdef init\nmachine c.org login x password y\n\nmachine A.org login late password late\n\
             machine d#.org login l password p#1\ndefault login anyone password any\n",
        );
        let credentials = Credentials { netrc, github_token: None };
        let basic = |host: &str| sent(&credentials, &format!("https://{host}/x"), "https://first.org");
        assert_eq!(basic("a.org").as_deref(), Some("me:one"));
        assert_eq!(basic("b.org").as_deref(), Some("you:t w\"o"));
        assert_eq!(basic("c.org"), None);
        assert_eq!(basic("unknown.org"), None);
        assert_eq!(credentials.netrc.logins["d#.org"].password, "p#1");
        assert!(!format!("{:?}", credentials.netrc).contains("one"));
    }
}
