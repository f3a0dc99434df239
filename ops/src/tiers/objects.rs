//! Objects under names, wherever they are: the one trait that a tier has to fill, and how the kinds of storage do.
//!
//! Credentials beyond those in an address come from where each service's own tools look for them (AWS's chain, Google's
//! and Azure's defaults). That is the second exception to "nothing below `src/` reads the environment".

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use opendal::services::{Azblob, Fs, Gcs, Memory, Redis, S3, Webdav};
use opendal::{Buffer, ErrorKind, HttpTransporter, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::address::Place;
use super::github::{GitHub, Serial};

/// An answer of a storage, boxed so that the trait can be an object.
pub(crate) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ObjectError>> + Send + 'a>>;

/// The pieces of an object as they arrive.
pub(crate) type Pieces = Pin<Box<dyn stream::Stream<Item = Result<Buffer, ObjectError>> + Send>>;

/// A storage that failed; that something is not there is no failure.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ObjectError(pub(crate) String);

/// What was written before, for those who change an object that others may change too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Whatever is there.
    Anything,
    /// Nothing.
    Nothing,
    /// What this tag was read with.
    Tag(String),
}

/// Objects under names.
pub(crate) trait Objects: fmt::Debug + Send + Sync {
    /// Opens an object; `None` if it is not there.
    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Pieces>>;

    /// Reads a small object, with a tag if there are such; `None` if it is not there.
    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<(Vec<u8>, Option<String>)>>;

    /// Writes an object, whole or not at all. `false`: what was expected is not what is there.
    fn write<'a>(&'a self, name: &'a str, content: Buffer, expect: Expect) -> Answer<'a, bool>;

    /// Looks whether an object is there, and how large it is: 0 where that is not told.
    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, Option<u64>>;

    /// Lists the names of all objects below a folder, which ends with a slash; `None` if that cannot be had.
    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Option<Vec<String>>>;

    /// Removes an object; that it is not there is no error.
    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()>;
}

/// Makes a place a storage. Connects to nothing yet: the first request does.
pub(crate) fn connect(
    place: &Place,
    client: &reqwest::Client,
    github: &GitHub,
) -> Result<Arc<dyn Objects>, ObjectError> {
    Ok(match place {
        Place::GitHub { root } => Arc::new(Serial::new(github, client.clone(), root)),
        place => Arc::new(Remote::new(place, client)?),
    })
}

/// A storage behind `OpenDAL`.
pub(crate) struct Remote {
    operator: Operator,
    http: Option<Http>,
}

/// What is done otherwise with a server over HTTP, of which no more is asked than it has to know: GET, PUT and HEAD.
struct Http {
    client: reqwest::Client,
    url: reqwest::Url,
    login: Option<(String, String)>,
    /// For servers that want folders made before what is in them.
    with_folders: Operator,
}

impl Http {
    /// Looks by HEAD: PROPFIND is for servers of `WebDAV` alone.
    async fn size(&self, name: &str) -> Result<Option<u64>, ObjectError> {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("it has a host").pop_if_empty().extend(name.split('/'));
        let request = self.client.head(url);
        let request = match &self.login {
            Some((user, word)) => request.basic_auth(user, Some(word)),
            None => request,
        };
        let answer = request.send().await.map_err(|error| ObjectError(said_of(&error.without_url())))?;
        let length = answer.headers().get(reqwest::header::CONTENT_LENGTH);
        match answer.status() {
            status if status.is_success() => {
                Ok(Some(length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)))
            }
            reqwest::StatusCode::NOT_FOUND | reqwest::StatusCode::GONE => Ok(None),
            status => Err(ObjectError(format!("it answered {} to HEAD", status.as_u16()))),
        }
    }
}

impl Remote {
    pub(crate) fn new(place: &Place, client: &reqwest::Client) -> Result<Self, ObjectError> {
        let transport = HttpTransporter::new(ReqwestTransport::new(client.clone()));
        let over = |operator: Operator| {
            let context = operator.base_context().with_http_transport(transport.clone());
            operator.with_context(context)
        };
        let operator = operator(place, false).map(over).map_err(|failed| error(&failed))?;
        let http = match place {
            Place::Http { url, login } => {
                let with_folders = self::operator(place, true).map(over).map_err(|failed| error(&failed))?;
                Some(Http { client: client.clone(), url: url.clone(), login: login.clone(), with_folders })
            }
            _ => None,
        };
        Ok(Self { operator, http })
    }
}

fn operator(place: &Place, makes_folders: bool) -> opendal::Result<Operator> {
    match place {
        Place::Directory(path) => {
            let partial = path.join(".partial").to_string_lossy().into_owned();
            Operator::new(Fs::default().root(&path.to_string_lossy()).atomic_write_dir(&partial))
        }
        Place::S3 { bucket, root, endpoint, region, is_virtual_host, is_anonymous } => {
            let mut s3 = S3::default().bucket(bucket).root(root);
            if let Some(endpoint) = endpoint {
                s3 = s3.endpoint(endpoint);
            }
            if !region.is_empty() {
                s3 = s3.region(region);
            } else if endpoint.is_some() {
                // Servers of one's own do not care, but the signature needs one.
                s3 = s3.region("us-east-1");
            }
            if *is_virtual_host {
                s3 = s3.enable_virtual_host_style();
            }
            Operator::new(if *is_anonymous { s3.skip_signature() } else { s3 })
        }
        Place::Gcs { bucket, root, endpoint, is_anonymous } => {
            let mut gcs = Gcs::default().bucket(bucket).root(root);
            if let Some(endpoint) = endpoint {
                gcs = gcs.endpoint(endpoint);
            }
            Operator::new(if *is_anonymous { gcs.skip_signature() } else { gcs })
        }
        Place::Azure { container, root, endpoint, account } => {
            let mut azure = Azblob::default().container(container).root(root);
            match (endpoint, account) {
                (Some(endpoint), _) => azure = azure.endpoint(endpoint),
                (None, Some(account)) => {
                    azure = azure.endpoint(&format!("https://{account}.blob.core.windows.net"));
                }
                (None, None) => {}
            }
            if let Some(account) = account {
                azure = azure.account_name(account);
            }
            Operator::new(azure)
        }
        Place::Http { url, login } => {
            let mut webdav = Webdav::default().endpoint(url.as_str()).disable_create_dir(!makes_folders);
            if let Some((user, word)) = login {
                webdav = webdav.username(user).password(word);
            }
            Operator::new(webdav)
        }
        Place::Redis { endpoint, login: (user, word), database, root } => {
            let mut redis = Redis::default().endpoint(endpoint).db(*database).root(root);
            if let Some(user) = user {
                redis = redis.username(user);
            }
            if let Some(word) = word {
                redis = redis.password(word);
            }
            Operator::new(redis)
        }
        Place::GitHub { .. } => unreachable!("that is no storage of OpenDAL's here"),
        Place::Memory => Operator::new(Memory::default()),
    }
}

/// Returns the deepest cause of an error.
fn cause_of(error: &dyn std::error::Error) -> Option<String> {
    std::iter::successors(error.source(), |error| error.source()).last().map(ToString::to_string)
}

fn said_of(error: &dyn std::error::Error) -> String {
    cause_of(error).unwrap_or_else(|| error.to_string())
}

fn error(error: &opendal::Error) -> ObjectError {
    let cause = cause_of(error);
    // `kind at operation, context: { request, response } => what was said`: of the response its status is of use.
    let text = format!("{error:#}");
    let text = text.lines().next().unwrap_or_default();
    let said = text.rsplit_once(" => ").map_or(text, |(_, said)| said);
    let digits = |(_, rest): (&str, &str)| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    let status = text.split_once("status: ").map(digits);
    let what = match (cause, status) {
        (Some(cause), _) => cause,
        (None, Some(status)) => format!("it answered {status}: {said}"),
        (None, None) => said.to_owned(),
    };
    ObjectError(what.lines().next().unwrap_or_default().chars().take(300).collect())
}

/// Says whether a storage compares versions, and no tags.
fn has_versions_alone(operator: &Operator) -> bool {
    let can = operator.info().capability();
    can.write_with_if_version_match && !can.write_with_if_match
}

fn found<T>(answer: opendal::Result<T>) -> Result<Option<T>, ObjectError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(failed) if failed.kind() == ErrorKind::NotFound => Ok(None),
        Err(failed) => Err(error(&failed)),
    }
}

impl Objects for Remote {
    fn open<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Pieces>> {
        Box::pin(async move {
            let Some(reader) = found(self.operator.reader(name).await)? else { return Ok(None) };
            let Some(mut pieces) = found(reader.into_stream(..).await)? else { return Ok(None) };
            // That it is not there may be known only with the first piece.
            let first = match pieces.next().await {
                None => None,
                Some(first) => match found(first)? {
                    None => return Ok(None),
                    first => first,
                },
            };
            let rest = pieces.map(|piece| piece.map_err(|failed| error(&failed)));
            Ok(Some(Box::pin(stream::iter(first.map(Ok)).chain(rest)) as Pieces))
        })
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<(Vec<u8>, Option<String>)>> {
        Box::pin(async move {
            let Some(reader) = found(self.operator.reader(name).await)? else { return Ok(None) };
            let Some(content) = found(reader.read(..).await)? else { return Ok(None) };
            let by_version = has_versions_alone(&self.operator);
            let tag = |metadata: opendal::Metadata| {
                let tag = if by_version { metadata.version() } else { metadata.etag() };
                tag.map(str::to_owned)
            };
            let tag = reader.metadata().and_then(|metadata| tag(metadata.clone()));
            Ok(Some((content.to_vec(), tag)))
        })
    }

    fn write<'a>(&'a self, name: &'a str, content: Buffer, expect: Expect) -> Answer<'a, bool> {
        Box::pin(async move {
            let can = self.operator.info().capability();
            let mut options = opendal::options::WriteOptions::default();
            match expect {
                Expect::Nothing if can.write_with_if_not_exists => options.if_not_exists = true,
                Expect::Tag(tag) if can.write_with_if_match => options.if_match = Some(tag),
                Expect::Tag(tag) if has_versions_alone(&self.operator) => options.if_version_match = Some(tag),
                Expect::Anything | Expect::Nothing | Expect::Tag(_) => {}
            }
            let mut written = self.operator.write_options(name, content.clone(), options.clone()).await;
            if let (Err(_), Some(http)) = (&written, &self.http) {
                written = http.with_folders.write_options(name, content, options).await;
            }
            match written {
                Ok(_) => Ok(true),
                Err(failed)
                    if matches!(
                        failed.kind(),
                        ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists | ErrorKind::Conflict
                    ) =>
                {
                    Ok(false)
                }
                Err(failed) => Err(error(&failed)),
            }
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, Option<u64>> {
        Box::pin(async move {
            match &self.http {
                Some(http) => http.size(name).await,
                None => Ok(found(self.operator.stat(name).await)?.map(|info| info.content_length())),
            }
        })
    }

    fn list<'a>(&'a self, folder: &'a str) -> Answer<'a, Option<Vec<String>>> {
        Box::pin(async move {
            if !self.operator.info().capability().list {
                return Ok(None);
            }
            let listed = found(self.operator.list_with(folder).recursive(true).await)?.unwrap_or_default();
            let names = listed.into_iter().map(|entry| entry.path().to_owned());
            Ok(Some(names.filter(|name| !name.ends_with('/')).collect()))
        })
    }

    fn remove<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { found(self.operator.delete(name).await).map(drop) })
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("scheme", &self.operator.info().scheme()).finish_non_exhaustive()
    }
}
