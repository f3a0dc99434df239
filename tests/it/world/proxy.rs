//! A proxy on loopback between the command and a real server over HTTP, which spoils what passes as a test wants it.
//!
//! One thread and one request per connection. Nothing is changed but what a fault says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::servers::Daemon;

/// What becomes of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The server is not even asked: this is the answer, with this body.
    Says(u16, &'static str),
    /// So much of the answer's body arrives; then the connection is closed.
    Cut(usize),
    /// So much of the answer's body arrives; then the server is killed, and nobody listens any more.
    Kill(usize),
    /// This bit of the answer's body is another.
    Flip(usize),
    /// So many bytes of the answer's body arrive each second.
    Trickle(usize),
    /// Nothing ever arrives.
    Silence,
}

type Rule = (fn(&str) -> bool, Fault);

/// A proxy that runs as long as this value.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    behind: u16,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    server: Option<Daemon>,
    rule: Option<Rule>,
    requests: Vec<String>,
    is_over: bool,
}

impl Proxy {
    /// Starts one before a server, which lives as long.
    pub(crate) fn before(server: Daemon) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Mutex::new(State { server: Some(server), ..State::default() });
        let behind = state.lock().unwrap().server.as_ref().unwrap().port;
        let shared = Arc::new(Shared { behind, state, ended: Condvar::new() });
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for connection in listener.incoming().flatten() {
                    if shared.state().is_over {
                        break;
                    }
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        // A side that went away is what this is about.
                        drop(pass(&connection, &shared));
                        drop(connection.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { port, shared, acceptor: Some(acceptor) }
    }

    /// Spoils from now on those requests of which `is_hit` says so, by their first line.
    pub(crate) fn fails(&self, is_hit: fn(&str) -> bool, fault: Fault) {
        self.shared.state().rule = Some((is_hit, fault));
    }

    /// Lets everything pass from now on.
    pub(crate) fn mends(&self) {
        self.shared.state().rule = None;
    }

    /// Takes the first lines of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.state().requests)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.ended.notify_all();
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        self.acceptor.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits so long, or until it is over; says whether it is.
    fn is_over_after(&self, pause: Duration) -> bool {
        let waited = self.ended.wait_timeout_while(self.state(), pause, |state| !state.is_over);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }
}

fn pass(mut client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let (head, rest) = self::head(client)?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let line = text.lines().next().unwrap_or_default().to_owned();
    let fault = {
        let mut state = shared.state();
        state.requests.push(line.clone());
        state.rule.filter(|(is_hit, _)| is_hit(&line)).map(|(_, fault)| fault)
    };
    let length = header(&text, "content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    if header(&text, "expect").is_some() {
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    if matches!(fault, Some(Fault::Silence)) {
        shared.is_over_after(Duration::from_hours(1));
        return Ok(());
    }
    let mut body = rest;
    let mut left = client.take((length - body.len().min(length)) as u64);
    left.read_to_end(&mut body)?;
    if let Some(Fault::Says(status, said)) = fault {
        let kind = if said.starts_with('<') { "application/xml" } else { "text/plain" };
        let length = said.len();
        return write!(
            client,
            "HTTP/1.1 {status} So\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}"
        );
    }
    // One request per connection, on both sides; and what was asked for already is not asked for again.
    let kept = text.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !["connection", "expect"].contains(&&*name) && !line.is_empty()
    });
    let asked = kept.collect::<Vec<_>>().join("\r\n") + "\r\nConnection: close\r\n\r\n";
    let mut server = TcpStream::connect(("127.0.0.1", shared.behind))?;
    server.write_all(asked.as_bytes())?;
    server.write_all(&body)?;
    let (head, mut answer) = self::head(&server)?;
    if line.starts_with("HEAD") {
        return client.write_all(&head);
    }
    server.read_to_end(&mut answer)?;
    client.write_all(&head)?;
    match fault {
        Some(Fault::Cut(n)) => client.write_all(&answer[..n.min(answer.len())]),
        Some(Fault::Kill(n)) => {
            client.write_all(&answer[..n.min(answer.len())])?;
            shared.state().server.take();
            Ok(())
        }
        Some(Fault::Flip(n)) if !answer.is_empty() => {
            let at = n / 8 % answer.len();
            answer[at] ^= 1 << (n % 8);
            client.write_all(&answer)
        }
        Some(Fault::Trickle(rate)) => {
            for piece in answer.chunks((rate / 10).max(1)) {
                client.write_all(piece)?;
                if shared.is_over_after(Duration::from_millis(100)) {
                    break;
                }
            }
            Ok(())
        }
        _ => client.write_all(&answer),
    }
}

/// Reads until the empty line; returns what came after it too.
pub(super) fn head(mut from: &TcpStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((bytes, rest));
        }
        match from.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend(&buffer[..n]),
        }
    }
}

/// Returns a header of a request or an answer.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let pairs = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = pairs.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}
