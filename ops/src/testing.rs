//! A file server on the loopback interface that misbehaves on demand, for tests of whatever downloads.
//!
//! HTTP/1.1, one thread per connection, one request per connection. Serves what was put into it and a directory,
//! records every request, and knows nothing of packages.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::digest::Sha256Digest;

mod github;

pub use github::GitHubServer;

/// What goes wrong with one request. [`Server::fail`] says for which and how often.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Answers with this status and these extra headers, and no file.
    Status(u16, Vec<(&'static str, String)>),
    /// Announces the whole answer, sends this many bytes of its body, and drops the connection.
    DropAfter(usize),
    /// Announces the whole answer, sends this many bytes of its body, and then nothing until [`Server::release`].
    HangAfter(usize),
    /// Answers 200 with these bytes instead of the file's.
    Body(Vec<u8>),
}

/// What a server has under one path.
#[derive(Debug, Clone)]
pub struct Page {
    /// The bytes of the body.
    pub body: Vec<u8>,
    /// The `ETag` header; a strong one made from the bytes unless changed.
    pub etag: Option<String>,
    /// The `Last-Modified` header, none unless set.
    pub last_modified: Option<String>,
    /// Whether `Range` is understood; if not, the answer is always the whole page.
    pub has_ranges: bool,
    /// The `Authorization` header that a request must have; 401 without.
    pub authorization: Option<String>,
    /// A URL that requests are sent on to (302) instead of being answered.
    pub redirect: Option<String>,
}

impl Page {
    /// A page that anyone may read, in ranges too.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let etag = Some(format!("\"{}\"", Sha256Digest::of(&body).short()));
        Self { body, etag, last_modified: None, has_ranges: true, authorization: None, redirect: None }
    }

    /// A page that is elsewhere.
    pub fn redirect(to: impl Into<String>) -> Self {
        Self { redirect: Some(to.into()), ..Self::new("") }
    }
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// `GET` and so on.
    pub method: String,
    /// The path with its query, not decoded.
    pub path: String,
    headers: HashMap<String, String>,
}

impl Recorded {
    /// Returns a header by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&name.to_ascii_lowercase()).map(String::as_str)
    }
}

/// A running server. Dropping it closes every connection and waits for its threads.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signalled when a request came in, on release, and at the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<String, Page>,
    dir: Option<PathBuf>,
    faults: HashMap<String, VecDeque<Fault>>,
    requests: Vec<Recorded>,
    n_released: usize,
    n_hanging: usize,
    is_stopping: bool,
    connections: Vec<TcpStream>,
}

impl Server {
    /// Starts a server that has nothing yet, on a free port of 127.0.0.1.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Starts a server for the files below `dir`, read at each request.
    pub fn serving(dir: impl Into<PathBuf>) -> Self {
        let server = Self::start();
        server.shared.lock().dir = Some(dir.into());
        server
    }

    /// Returns the URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the URL of `path` with another name for this host, to clients another host.
    pub fn url_by_name(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.address.port())
    }

    /// Puts a page (or plain bytes) under `path`, in place of what was there.
    pub fn put(&self, path: &str, page: Page) {
        self.shared.lock().pages.insert(path.to_owned(), page);
    }

    /// Lets the next `n` requests for `path` go wrong, after those that were arranged before.
    pub fn fail(&self, path: &str, n: usize, fault: &Fault) {
        let mut state = self.shared.lock();
        state.faults.entry(path.to_owned()).or_default().extend(std::iter::repeat_n(fault.clone(), n));
    }

    /// Returns what was asked for so far, in order.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.lock().requests.clone()
    }

    /// Waits until `n` answers hang. Blocks the thread.
    pub fn wait_for_hanging(&self, n: usize) {
        let state = self.shared.lock();
        drop(
            self.shared.changed.wait_while(state, |state| state.n_hanging < n).unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Lets every answer that hangs go on to its end.
    pub fn release(&self) {
        let mut state = self.shared.lock();
        state.n_released = state.n_hanging;
        self.shared.changed.notify_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let connections = {
            let mut state = self.shared.lock();
            state.is_stopping = true;
            self.shared.changed.notify_all();
            std::mem::take(&mut state.connections)
        };
        for connection in connections {
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(TcpStream::connect(self.address)); // Wakes the acceptor.
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

impl Shared {
    /// A thread that panicked must not take the others with it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut answering = Vec::new();
    for connection in listener.incoming().flatten() {
        {
            let mut state = shared.lock();
            if state.is_stopping {
                break;
            }
            state.connections.extend(connection.try_clone().ok());
        }
        let shared = Arc::clone(shared);
        answering.push(std::thread::spawn(move || {
            // A client that went away is no fault of the server.
            drop(answer(&connection, &shared));
            drop(connection.shutdown(Shutdown::Both));
        }));
    }
    for thread in answering {
        drop(thread.join());
    }
}

fn answer(mut connection: &TcpStream, shared: &Shared) -> io::Result<()> {
    let Some(request) = read_request(connection)? else {
        return Ok(());
    };
    let (page, fault) = {
        let mut state = shared.lock();
        let path = request.path.split('?').next().unwrap_or_default().to_owned();
        let fault = state.faults.get_mut(&path).and_then(VecDeque::pop_front);
        let page = state.pages.get(&path).cloned().or_else(|| read_page(state.dir.as_deref()?, &path));
        state.requests.push(request.clone());
        (page, fault)
    };
    if let Some(Fault::Status(status, headers)) = fault {
        return respond(connection, status, &headers, b"");
    }
    if let Some(Fault::Body(body)) = fault {
        return respond(connection, 200, &[], &body);
    }
    let Some(page) = page else {
        return respond(connection, 404, &[], b"");
    };
    if page.authorization.is_some() && page.authorization.as_deref() != request.header("authorization") {
        return respond(connection, 401, &[("WWW-Authenticate", "Basic".to_owned())], b"");
    }
    if let Some(to) = page.redirect {
        return respond(connection, 302, &[("Location", to)], b"");
    }

    let (status, start) = range(&page, &request);
    let mut headers: Vec<(&str, String)> = Vec::new();
    headers.extend(page.etag.map(|etag| ("ETag", etag)));
    headers.extend(page.last_modified.map(|time| ("Last-Modified", time)));
    if page.has_ranges {
        headers.push(("Accept-Ranges", "bytes".to_owned()));
    }
    let total = page.body.len();
    match status {
        206 => headers.push(("Content-Range", format!("bytes {start}-{}/{total}", total - 1))),
        416 => headers.push(("Content-Range", format!("bytes */{total}"))),
        _ => {}
    }
    let body = &page.body[start..];
    let n_first = match fault {
        Some(Fault::DropAfter(n) | Fault::HangAfter(n)) => n.min(body.len()),
        _ => body.len(),
    };
    write_head(connection, status, &headers, body.len())?;
    connection.write_all(&body[..n_first])?;
    if let Some(Fault::HangAfter(_)) = fault
        && hang(shared)
    {
        connection.write_all(&body[n_first..])?;
    }
    Ok(())
}

/// Waits to be released; says whether the server goes on.
fn hang(shared: &Shared) -> bool {
    let mut state = shared.lock();
    state.n_hanging += 1;
    let ticket = state.n_hanging;
    shared.changed.notify_all();
    let waiting = |state: &mut State| state.n_released < ticket && !state.is_stopping;
    let state = shared.changed.wait_while(state, waiting).unwrap_or_else(PoisonError::into_inner);
    !state.is_stopping
}

/// Returns the status of the answer and where in the body it starts.
fn range(page: &Page, request: &Recorded) -> (u16, usize) {
    let start = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let Some(start) = start.and_then(|start| start.parse::<usize>().ok()).filter(|_| page.has_ranges) else {
        return (200, 0);
    };
    let validators = [page.etag.as_deref(), page.last_modified.as_deref()];
    match request.header("if-range") {
        Some(validator) if !validators.contains(&Some(validator)) => (200, 0),
        _ if start >= page.body.len() => (416, page.body.len()),
        _ => (206, start),
    }
}

fn respond(connection: &TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) -> io::Result<()> {
    write_head(connection, status, headers, body.len())?;
    (&mut &*connection).write_all(body)
}

fn write_head(mut connection: &TcpStream, status: u16, headers: &[(&str, String)], length: usize) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\nContent-Length: {length}\r\nConnection: close\r\n");
    let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    head.extend(lines);
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())
}

fn read_request(connection: &TcpStream) -> io::Result<Option<Recorded>> {
    let mut lines = BufReader::new(connection).lines();
    let Some(first) = lines.next().transpose()? else {
        return Ok(None);
    };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Ok(None);
    };
    let mut headers = HashMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Recorded { method, path, headers }))
}

fn read_page(dir: &Path, path: &str) -> Option<Page> {
    let path = Path::new(path.trim_start_matches('/'));
    let is_inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    is_inside.then(|| fs_err::read(dir.join(path)).ok().map(Page::new)).flatten()
}
