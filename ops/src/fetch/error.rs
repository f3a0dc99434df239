//! What can go wrong with a download, and whether trying again may help.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::iter::successors;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::blobs::BlobError;
use crate::digest::Sha256Digest;

/// Why something was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It is not there and there is no network to get it from.
    #[error("`{what}` was not downloaded before and larder is offline; it would come from {}", sources.join(", "))]
    Offline {
        /// What was asked for.
        what: String,
        /// Its sources, without credentials.
        sources: Vec<String>,
    },
    /// No source had it.
    #[error("could not fetch `{what}`{}", list(failures))]
    AllFailed {
        /// What was asked for.
        what: String,
        /// What happened at each source, in the order they were tried.
        failures: Vec<SourceError>,
    },
    /// The directory of downloads is unusable.
    #[error("could not keep the download of `{what}`")]
    Store {
        /// What was asked for.
        what: String,
        /// What is wrong with the directory.
        source: BlobError,
    },
    /// The caller asked to stop.
    #[error("stopped while fetching `{what}`")]
    Stopped {
        /// What was asked for.
        what: String,
    },
}

impl FetchError {
    /// Returns what this machine, not a server, has refused: to open one more connection or file.
    pub(crate) fn refused(&self) -> Option<&io::Error> {
        let Self::AllFailed { failures, .. } = self else { return None };
        let is_it = |error: &&io::Error| matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE));
        failures.iter().find_map(|failure| match &failure.reason {
            Reason::Transport(error) => {
                successors(error.source(), |&error| error.source()).filter_map(|error| error.downcast_ref()).find(is_it)
            }
            Reason::File(error) | Reason::NoGit { source: error, .. } => Some(error).filter(is_it),
            _ => None,
        })
    }
}

fn list(failures: &[SourceError]) -> String {
    match failures {
        [] => ": it has no source".to_owned(),
        [only] => format!(" from {only}"),
        several => several.iter().fold(" from any source:".to_owned(), |text, failure| format!("{text}\n  {failure}")),
    }
}

/// What happened at one source.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {reason}")]
pub struct SourceError {
    /// The source, without credentials, as its mirror has it.
    pub url: String,
    /// Why it did not do.
    pub reason: Reason,
}

/// Why a source did not do.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The server said no.
    #[error("{}", status_text(*.0))]
    Status(u16),
    /// The connection failed, was cut off or went quiet.
    #[error("{}", chain(.0))]
    Transport(reqwest::Error),
    /// The server, or a proxy in between, is not who it says, as far as this system's certificates tell.
    #[error(
        "{}; if this network has a certificate authority of its own, add it to the system's or name it in SSL_CERT_FILE",
        chain(.0)
    )]
    Certificate(reqwest::Error),
    /// There are no certificates to tell servers by.
    #[error("cannot use https: {}; install the system's CA certificates or name some in SSL_CERT_FILE", chain(.0))]
    NoHttps(reqwest::Error),
    /// The server sent on to somewhere larder does not follow.
    #[error("redirected to `{0}`, which is not followed")]
    Redirect(String),
    /// Not the bytes that the lockfile has.
    #[error("wrong bytes: the lockfile says sha256 {expected}, these have {actual}")]
    WrongDigest {
        /// The digest to have.
        expected: Sha256Digest,
        /// The digest that the download has.
        actual: Sha256Digest,
    },
    /// Not the bytes of the first download.
    #[error(
        "`{identity}` has changed: first seen with sha256 {first}, now {actual}; if that is expected, remove {}",
        record.display()
    )]
    Changed {
        /// What the record is filed under.
        identity: String,
        /// The digest that was first seen.
        first: Sha256Digest,
        /// The digest that the download has.
        actual: Sha256Digest,
        /// The record.
        record: PathBuf,
    },
    /// A file cannot be read; the message names it.
    #[error(transparent)]
    File(io::Error),
    /// The text of the source is of no kind that is known.
    #[error("not an http, https, file or git+ URL and not a path")]
    Unsupported,
    /// There is no `git` to fetch with.
    #[error("cannot run `{}`: {source}; install git to fetch this source", program.display())]
    NoGit {
        /// The program that was to be run.
        program: PathBuf,
        /// Why it did not start.
        source: io::Error,
    },
    /// Git ran and failed.
    #[error("`git {command}` failed: {stderr}")]
    Git {
        /// The first word of the command.
        command: String,
        /// The end of what it said.
        stderr: String,
    },
    /// Not tried, for it needs a network.
    #[error("not tried, larder is offline")]
    Offline,
    /// The directory of downloads is unusable. Other sources would not help.
    #[error(transparent)]
    Store(#[from] BlobError),
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}

impl From<reqwest::Error> for Reason {
    /// Without the URL, which the caller shows and which may have secrets.
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if is_about_certificate(&error) { Self::Certificate(error) } else { Self::Transport(error) }
    }
}

impl From<io::Error> for Reason {
    /// Reading and writing is of downloads, unless said otherwise.
    fn from(error: io::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Reason {
    /// Says whether the same request may succeed a little later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => matches!(status, 408 | 429 | 500..=599),
            Self::Transport(_) => true,
            _ => false,
        }
    }
}

/// Says whether a certificate is to blame, which no second try will change.
fn is_about_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return matches!(error, rustls::Error::InvalidCertificate(_));
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            // An `io::Error` does not have what it wraps as its source, it stands in for it.
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

fn status_text(status: u16) -> String {
    let reason = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let hint = match status {
        401 => "; a password goes into .netrc, a token for GitHub into GITHUB_PAT",
        407 => "; the proxy wants a password",
        _ => "",
    };
    format!("{status} {}{hint}", reason.unwrap_or("(no standard status)"))
}

/// The message of `error` and of all that caused it, on one line.
fn chain(error: &dyn std::error::Error) -> impl fmt::Display {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error};

    use super::*;

    #[test]
    fn a_bad_certificate_is_found_below_what_wraps_it() {
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert!(is_about_certificate(&io::Error::other(unknown())));
        assert!(is_about_certificate(&io::Error::other(io::Error::other(unknown()))));
        assert!(!is_about_certificate(&io::Error::other(Error::DecryptError)));
        assert!(!is_about_certificate(&io::Error::other("reset")));
    }
}
