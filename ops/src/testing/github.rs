//! GitHub's cache service, version 2, with the blob storage behind it and the REST API beside it, on loopback.
//!
//! What matters to a client is as it is there: every job has a token of its own, which says what it may write (the
//! scope of its branch) and read (that, then the default branch). A key is written once for each scope and version, from
//! its reservation on, and found when its upload is finalized; a lookup takes the exact key, else the newest that starts
//! with it, else that of the first restore key, scope by scope. Bytes go to signed URLs alone, as a block blob, at
//! once or in blocks that are then listed, and come from such. Lists and deletions are another API, with another token.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Value, json};

/// The branch that all jobs may read from.
const DEFAULT_BRANCH: &str = "refs/heads/main";
/// GitHub's own limit.
const KEY_BYTES_MAX: usize = 512;

/// A running service.
#[derive(Debug)]
pub struct GitHubServer {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<Entry>,
    n_jobs: usize,
    n_entries: usize,
    is_stopping: bool,
    log: Vec<String>,
    n_failing: usize,
    n_blocks_failing: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    id: usize,
    key: String,
    version: String,
    scope: String,
    content: Option<Vec<u8>>,
    /// What was uploaded in parts, by name, and is in no list yet.
    blocks: BTreeMap<String, Vec<u8>>,
    is_final: bool,
}

struct Request {
    method: String,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

type Answer = (u16, String, Vec<u8>);

impl GitHubServer {
    /// The token for lists and deletions.
    pub const REST_TOKEN: &str = "ghs_restT0ken";
    /// The repository that this is.
    pub const REPOSITORY: &str = "someone/something";

    /// Starts a service that has nothing yet.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Mutex::<State>::default());
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, address, &shared)
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Returns the environment of a step of a job on a branch, such as `refs/heads/main`.
    pub fn job(&self, branch: &str) -> Vec<(&'static str, String)> {
        let mut state = lock(&self.shared);
        state.n_jobs += 1;
        let token = format!("runtimeT0ken.{}.{branch}", state.n_jobs);
        vec![
            ("CI", "true".to_owned()),
            ("GITHUB_ACTIONS", "true".to_owned()),
            ("ACTIONS_CACHE_SERVICE_V2", "True".to_owned()),
            ("ACTIONS_RESULTS_URL", format!("http://{}/results/", self.address)),
            ("ACTIONS_RUNTIME_TOKEN", token),
        ]
    }

    /// Returns the environment that allows lists and deletions.
    pub fn rest(&self) -> Vec<(&'static str, String)> {
        vec![
            ("GITHUB_API_URL", format!("http://{}/api", self.address)),
            ("GITHUB_REPOSITORY", Self::REPOSITORY.to_owned()),
            ("GITHUB_TOKEN", Self::REST_TOKEN.to_owned()),
        ]
    }

    /// Returns the keys of what can be found, oldest first.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.shared).entries.iter().filter(|entry| entry.is_final).map(|entry| entry.key.clone()).collect()
    }

    /// Returns everything that was uploaded, finished or not.
    pub fn contents(&self) -> Vec<Vec<u8>> {
        lock(&self.shared).entries.iter().filter_map(|entry| entry.content.clone()).collect()
    }

    /// Returns what was asked for: method and path or service method, with the status.
    pub fn log(&self) -> Vec<String> {
        lock(&self.shared).log.clone()
    }

    /// Forgets entries, as GitHub does with what nobody has asked for in a week.
    pub fn evict(&self, prefix: &str) {
        lock(&self.shared).entries.retain(|entry| !entry.key.starts_with(prefix));
    }

    /// Changes a byte in the middle of all that starts so.
    pub fn damage(&self, prefix: &str) {
        for entry in lock(&self.shared).entries.iter_mut().filter(|entry| entry.key.starts_with(prefix)) {
            if let Some(content) = &mut entry.content {
                let middle = content.len() / 2;
                content[middle] ^= 1;
            }
        }
    }

    /// Answers the next requests with 503.
    pub fn fail(&self, n: usize) {
        lock(&self.shared).n_failing = n;
    }

    /// Answers the next uploads of a part with 503.
    pub fn fail_blocks(&self, n: usize) {
        lock(&self.shared).n_blocks_failing = n;
    }
}

impl Drop for GitHubServer {
    fn drop(&mut self) {
        lock(&self.shared).is_stopping = true;
        drop(TcpStream::connect(self.address)); // Wakes the acceptor.
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn accept(listener: &TcpListener, address: SocketAddr, shared: &Arc<Mutex<State>>) {
    for connection in listener.incoming().flatten() {
        if lock(shared).is_stopping {
            return;
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A client that went away is no fault of the server.
            drop(answer(&connection, address, &shared));
        });
    }
}

fn answer(mut connection: &TcpStream, address: SocketAddr, shared: &Mutex<State>) -> io::Result<()> {
    let Some(request) = read(connection)? else { return Ok(()) };
    let (status, headers, body) = {
        let mut state = lock(shared);
        let answer = if state.n_failing > 0 {
            state.n_failing -= 1;
            (503, String::new(), Vec::new())
        } else {
            state.dispatch(&request, address)
        };
        let name = request.path.rsplit('/').next().unwrap_or_default();
        state.log.push(format!("{} {name} {}", request.method, answer.0));
        answer
    };
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
    connection.write_all(head.as_bytes())?;
    connection.write_all(&body)
}

fn read(connection: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(None) };
    let url = reqwest::Url::parse(&format!("http://here{target}")).map_err(io::Error::other)?;
    let (method, path) = (method.to_owned(), url.path().to_owned());
    let query = url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
    let mut request = Request { method, path, query, headers: Vec::new(), body: Vec::new() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut request.body)?;
    Ok(Some(request))
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| &**value)
    }

    fn asked(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(asked, _)| asked == name).map(|(_, value)| &**value)
    }

    fn bearer(&self) -> &str {
        self.header("authorization").and_then(|words| words.strip_prefix("Bearer ")).unwrap_or_default()
    }
}

fn as_json(status: u16, value: &Value) -> Answer {
    (status, "Content-Type: application/json\r\n".to_owned(), value.to_string().into_bytes())
}

fn twirp(status: u16, code: &str, message: &str) -> Answer {
    as_json(status, &json!({ "code": code, "msg": message }))
}

impl State {
    fn dispatch(&mut self, request: &Request, address: SocketAddr) -> Answer {
        if let Some(path) = request.path.strip_prefix("/blob/") {
            return self.blob(request, path);
        }
        if let Some(method) = request.path.strip_prefix("/results/twirp/github.actions.results.api.v1.CacheService/") {
            return self.service(request, method, address);
        }
        if request.path == format!("/api/repos/{}/actions/caches", GitHubServer::REPOSITORY) {
            return self.rest(request);
        }
        (404, String::new(), Vec::new())
    }

    fn service(&mut self, request: &Request, method: &str, address: SocketAddr) -> Answer {
        let mut parts = request.bearer().splitn(3, '.');
        let (Some("runtimeT0ken"), Some(_), Some(branch)) = (parts.next(), parts.next(), parts.next()) else {
            return twirp(401, "unauthenticated", "the token is none of ours");
        };
        if request.header("content-type") != Some("application/json") || request.method != "POST" {
            return twirp(404, "bad_route", "neither JSON nor protobuf");
        }
        let question: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let (key, version) = (&question["key"], &question["version"]);
        let (Some(key), Some(version)) = (key.as_str(), version.as_str()) else {
            return twirp(400, "invalid_argument", "key and version are needed");
        };
        let is_hex = version.len() == 64 && version.bytes().all(|byte| byte.is_ascii_hexdigit());
        if key.is_empty() || key.len() > KEY_BYTES_MAX || key.contains(',') || !is_hex {
            return twirp(400, "invalid_argument", "no such key or version is possible");
        }
        let here = |entry: &Entry| entry.key == key && entry.version == version && entry.scope == branch;
        match method {
            "CreateCacheEntry" => {
                if self.entries.iter().any(here) {
                    return twirp(
                        409,
                        "already_exists",
                        "cache entry with the same key, version, and scope already exists",
                    );
                }
                self.n_entries += 1;
                let (id, key, version, scope) = (self.n_entries, key.into(), version.into(), branch.into());
                self.entries.push(Entry {
                    id,
                    key,
                    version,
                    scope,
                    content: None,
                    blocks: BTreeMap::new(),
                    is_final: false,
                });
                as_json(200, &json!({ "ok": true, "signed_upload_url": signed(address, id, "w"), "message": "" }))
            }
            "FinalizeCacheEntryUpload" => {
                let size = question["size_bytes"].as_str().and_then(|size| size.parse().ok());
                let Some(entry) = self.entries.iter_mut().find(|entry| here(entry)) else {
                    return twirp(404, "not_found", "nothing was reserved");
                };
                if size.is_none() || entry.content.as_ref().map(Vec::len) != size {
                    return twirp(400, "invalid_argument", "the size is not that of what was uploaded");
                }
                entry.is_final = true;
                as_json(200, &json!({ "ok": true, "entry_id": entry.id.to_string(), "message": "" }))
            }
            "GetCacheEntryDownloadURL" => {
                let keys = question["restore_keys"].as_array().cloned().unwrap_or_default();
                let prefixes: Vec<&str> = std::iter::once(key).chain(keys.iter().filter_map(Value::as_str)).collect();
                match self.find(key, &prefixes, version, branch) {
                    None => as_json(200, &json!({ "ok": false, "signed_download_url": "", "matched_key": "" })),
                    Some(entry) => {
                        let url = signed(address, entry.id, "r");
                        as_json(200, &json!({ "ok": true, "signed_download_url": url, "matched_key": entry.key }))
                    }
                }
            }
            _ => twirp(404, "bad_route", "there is no such method"),
        }
    }

    fn find(&self, key: &str, prefixes: &[&str], version: &str, branch: &str) -> Option<&Entry> {
        [branch, DEFAULT_BRANCH].into_iter().find_map(|scope| {
            let mut newest = self.entries.iter().rev();
            let is_there = |entry: &&Entry| entry.is_final && entry.version == version && entry.scope == scope;
            newest.find(|entry| is_there(entry) && entry.key == key).or_else(|| {
                prefixes.iter().find_map(|prefix| {
                    self.entries.iter().rev().find(|entry| is_there(entry) && entry.key.starts_with(prefix))
                })
            })
        })
    }

    /// The storage behind the service: it knows nothing but signatures.
    fn blob(&mut self, request: &Request, id: &str) -> Answer {
        let refused = |status: u16| (status, String::new(), Vec::new());
        // The storage takes an Authorization header for an attempt to do without the signature.
        if request.header("authorization").is_some() {
            return refused(401);
        }
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id.to_string() == id) else {
            return refused(404);
        };
        let wanted = |may: &str| Some(format!("s1gned-{may}-{id}"));
        let signature = request.asked("sig").map(str::to_owned);
        match &*request.method {
            "PUT" if signature == wanted("w") && !entry.is_final => {
                if request.header("x-ms-blob-type") != Some("BlockBlob") {
                    return refused(400);
                }
                match request.asked("comp") {
                    None => entry.content = Some(request.body.clone()),
                    Some("block") if self.n_blocks_failing > 0 => {
                        self.n_blocks_failing -= 1;
                        return refused(503);
                    }
                    Some("block") => {
                        let Some(name) = request.asked("blockid").filter(|name| name.len() % 4 == 0) else {
                            return refused(400);
                        };
                        entry.blocks.insert(name.to_owned(), request.body.clone());
                    }
                    Some("blocklist") => {
                        let list = String::from_utf8_lossy(&request.body).into_owned();
                        let names = list.split("<Latest>").skip(1).filter_map(|rest| rest.split("</Latest>").next());
                        let blocks: Option<Vec<Vec<u8>>> = names.map(|name| entry.blocks.remove(name)).collect();
                        let Some(blocks) = blocks else { return refused(400) };
                        entry.content = Some(blocks.concat());
                    }
                    Some(_) => return refused(400),
                }
                refused(201)
            }
            "GET" if signature == wanted("r") => {
                let content = entry.content.clone().unwrap_or_default();
                if request.header("range") == Some("bytes=0-0") && !content.is_empty() {
                    let range = format!("Content-Range: bytes 0-0/{}\r\n", content.len());
                    return (206, range, content[..1].to_vec());
                }
                (200, String::new(), content)
            }
            _ => refused(403),
        }
    }

    fn rest(&mut self, request: &Request) -> Answer {
        if request.header("user-agent").is_none() {
            return as_json(403, &json!({ "message": "Request forbidden by administrative rules." }));
        }
        if request.bearer() != GitHubServer::REST_TOKEN {
            return as_json(401, &json!({ "message": "Bad credentials" }));
        }
        let key = request.asked("key").unwrap_or_default().to_owned();
        let shown = |entry: &Entry| {
            json!({
                "id": entry.id, "ref": entry.scope, "key": entry.key, "version": entry.version,
                "created_at": format!("2024-01-01T00:{:02}:{:02}.000000Z", entry.id / 60, entry.id % 60),
                "size_in_bytes": entry.content.as_ref().map_or(0, Vec::len),
            })
        };
        match &*request.method {
            "GET" => {
                let number =
                    |name: &str, usual: usize| request.asked(name).map_or(usual, |n| n.parse().unwrap_or(usual));
                let (page, size) = (number("page", 1), number("per_page", 30).min(100));
                let all = self.entries.iter().filter(|entry| entry.is_final && entry.key.starts_with(&key));
                let all: Vec<Value> = all.rev().map(shown).collect();
                let listed: Vec<&Value> = all.iter().skip((page - 1) * size).take(size).collect();
                as_json(200, &json!({ "total_count": all.len(), "actions_caches": listed }))
            }
            "DELETE" if !key.is_empty() => {
                let n_before = self.entries.len();
                self.entries.retain(|entry| entry.key != key);
                if self.entries.len() == n_before {
                    return as_json(404, &json!({ "message": "Not Found" }));
                }
                as_json(200, &json!({ "total_count": n_before - self.entries.len(), "actions_caches": [] }))
            }
            _ => as_json(422, &json!({ "message": "Invalid request." })),
        }
    }
}

fn signed(address: SocketAddr, id: usize, may: &str) -> String {
    let mut url = format!("http://{address}/blob/{id}?");
    let _ = write!(url, "sp={may}&sig=s1gned-{may}-{id}");
    url
}
