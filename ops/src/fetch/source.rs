//! The places that bytes come from, how mirrors stand in for them, and how they are shown without secrets.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::error::Reason;

/// A rule that sends requests elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The beginning of the URLs that it is for. Fits whole path components only.
    pub prefix: String,
    /// What replaces it: an `http`, `https` or `file` URL or a directory.
    pub to: String,
}

impl Mirror {
    /// Returns `source` as the mirror has it, if the mirror is for it.
    fn rewrite(&self, source: &str) -> Option<String> {
        let rest = source.strip_prefix(&self.prefix)?;
        let is_whole = self.prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?', '#']);
        if !is_whole {
            return None;
        }
        if self.to.contains("://") {
            let (to, slash) = (self.to.trim_end_matches('/'), if rest.starts_with(['?', '#']) { "" } else { "/" });
            return Some(format!("{to}{slash}{}", rest.trim_start_matches('/')));
        }
        // A plain directory has plain names, and no queries.
        let path = rest.split(['?', '#']).next().unwrap_or_default();
        let path = percent_decoded(path.trim_start_matches('/'));
        Path::new(&self.to).join(path).into_os_string().into_string().ok()
    }
}

/// One place to fetch from. Shown without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Http(Url),
    File(PathBuf),
    /// A commit of a repository.
    Git {
        url: String,
        commit: String,
    },
}

impl Source {
    /// Reads a source as lockfiles have it, in the form that the first fitting mirror gives it.
    pub(super) fn parse(text: &str, mirrors: &[Mirror]) -> Result<Self, Reason> {
        let rewritten = mirrors.iter().find_map(|mirror| mirror.rewrite(text));
        let text = rewritten.as_deref().unwrap_or(text).trim();
        if let Some(repository) = text.strip_prefix("git+") {
            let (url, commit) = repository.split_once('#').ok_or(Reason::Unsupported)?;
            // A whole commit, not a branch: what a lockfile pins must not move.
            let is_commit = matches!(commit.len(), 40 | 64) && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !is_commit || url.starts_with('-') {
                return Err(Reason::Unsupported);
            }
            return Ok(Self::Git { url: url.to_owned(), commit: commit.to_ascii_lowercase() });
        }
        if !text.contains("://") {
            return if text.is_empty() { Err(Reason::Unsupported) } else { Ok(Self::File(text.into())) };
        }
        let url = Url::parse(text).map_err(|_| Reason::Unsupported)?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(Self::Http(url)),
            "file" => url.to_file_path().map(Self::File).map_err(|()| Reason::Unsupported),
            _ => Err(Reason::Unsupported),
        }
    }

    /// Says whether it takes a network to get there.
    pub(super) fn is_remote(&self) -> bool {
        match self {
            Self::Http(_) => true,
            Self::File(_) => false,
            Self::Git { url, .. } => !url.starts_with("file://") && !url.starts_with('/'),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => f.write_str(&without_credentials(url.as_str())),
            Self::File(path) => path.display().fmt(f),
            Self::Git { url, commit } => write!(f, "git+{}#{commit}", without_credentials(url)),
        }
    }
}

/// Returns `url` as it may be shown and logged: no user, no password, no token among its parameters.
pub fn without_credentials(url: &str) -> String {
    let (prefix, address) = match url.strip_prefix("git+") {
        Some(address) => ("git+", address),
        None => ("", url),
    };
    let Ok(mut parsed) = Url::parse(address) else {
        return url.to_owned();
    };
    let is_secret = |name: &str| {
        let name = name.to_ascii_lowercase();
        ["token", "secret", "password", "signature", "key"].iter().any(|word| name.contains(word))
    };
    let has_user = parsed.has_host() && (!parsed.username().is_empty() || parsed.password().is_some());
    let has_secrets = parsed.query_pairs().any(|(name, _)| is_secret(&name));
    if !has_user && !has_secrets {
        return url.to_owned();
    }
    if has_user && (parsed.set_username("").is_err() || parsed.set_password(None).is_err()) {
        return format!("{prefix}{}://...", parsed.scheme());
    }
    if has_secrets {
        let pairs: Vec<(String, String)> = parsed.query_pairs().into_owned().collect();
        let shown =
            |(name, value): (String, String)| if is_secret(&name) { (name, "...".to_owned()) } else { (name, value) };
        parsed.query_pairs_mut().clear().extend_pairs(pairs.into_iter().map(shown));
    }
    format!("{prefix}{parsed}")
}

/// Returns `text` with every URL in it as it may be shown.
pub(super) fn without_credentials_in(text: &str) -> String {
    let shown = |word: &str| {
        let url = word.trim_matches(['\'', '"', '`', ',', ':']);
        if url.contains("://") { word.replace(url, &without_credentials(url)) } else { word.to_owned() }
    };
    text.split(' ').map(shown).collect::<Vec<_>>().join(" ")
}

/// Decodes `%41` and the like; what is no such escape stays.
pub(super) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (byte, hex(0), hex(1)) {
            bytes.extend(u8::try_from(high * 16 + low));
            rest = &tail[2..];
        } else {
            bytes.push(byte);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, mirrors: &[Mirror]) -> String {
        Source::parse(text, mirrors).map_or_else(|reason| reason.to_string(), |source| source.to_string())
    }

    #[test]
    fn a_mirror_stands_in_for_whole_components_only() {
        let mirror = |prefix: &str, to: &str| [Mirror { prefix: prefix.to_owned(), to: to.to_owned() }];
        let cran = "https://cran.example.org";
        for (mirror, source, expected) in [
            (
                mirror(cran, "http://local/cran"),
                "https://cran.example.org/src/a.tar.gz",
                "http://local/cran/src/a.tar.gz",
            ),
            (mirror(cran, "http://local/cran/"), "https://cran.example.org?a=b", "http://local/cran?a=b"),
            (mirror("https://cran.example.org/", "/srv/cran"), "https://cran.example.org/a%20b?q", "/srv/cran/a b"),
            (mirror(cran, "file:///srv/a%20b"), "https://cran.example.org/x", "/srv/a b/x"),
            (mirror(cran, "/srv"), "https://cran.example.org.evil/x", "https://cran.example.org.evil/x"),
            (
                mirror("git+https://git.example.org", "git+file:///srv"),
                &format!("git+https://git.example.org/r#{}", "a".repeat(40)),
                &format!("git+file:///srv/r#{}", "a".repeat(40)),
            ),
        ] {
            assert_eq!(shown(source, &mirror), expected);
        }
    }

    #[test]
    fn files_are_named_by_url_or_path() {
        for (text, path) in
            [("/a/b c", "/a/b c"), ("file:///a/b%20c", "/a/b c"), ("file://localhost/a", "/a"), ("a/b", "a/b")]
        {
            assert_eq!(Source::parse(text, &[]).unwrap(), Source::File(path.into()), "{text}");
        }
        for text in ["", "ftp://host/a", "file://other/a", "git+https://host/a", "git+https://host/a#main", "http://"] {
            assert!(matches!(Source::parse(text, &[]), Err(Reason::Unsupported)), "{text}");
        }
        assert!(Source::parse(&format!("git+--upload-pack=x#{}", "a".repeat(40)), &[]).is_err());
    }

    #[test]
    fn credentials_are_not_shown() {
        for (url, expected) in [
            ("https://me:secret@host/a?b=c", "https://host/a?b=c"),
            ("https://host/a?private_token=secret&b=c", "https://host/a?private_token=...&b=c"),
            ("https://host/a%20b?x=%20", "https://host/a%20b?x=%20"),
            ("git+https://me:secret@host/r.git#abc", "git+https://host/r.git#abc"),
            ("/a/b@c", "/a/b@c"),
        ] {
            assert_eq!(without_credentials(url), expected);
        }
    }
}
