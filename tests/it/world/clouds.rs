//! Servers that speak the few requests by which object storages are used here, in Google's and in Azure's dialect: no
//! more than their documentation says of these, so they show that larder asks for the right things, not all that the
//! real ones do.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use super::proxy::{head, header};

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    Google,
    Azure,
}

/// Objects by name; each has a number that grows when it is written.
type Objects = BTreeMap<String, (u32, Vec<u8>)>;

/// A server on loopback, as long as the process runs; with one bucket called `bucket`.
pub(crate) struct Cloud {
    pub(crate) port: u16,
    objects: Arc<Mutex<Objects>>,
}

impl Cloud {
    pub(crate) fn start(dialect: Dialect) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let cloud = Self { port: listener.local_addr().unwrap().port(), objects: Arc::default() };
        let objects = Arc::clone(&cloud.objects);
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let objects = Arc::clone(&objects);
                std::thread::spawn(move || {
                    drop(answer(&connection, dialect, &objects));
                    drop(connection.shutdown(Shutdown::Both));
                });
            }
        });
        cloud
    }

    /// Returns the names of all objects.
    pub(crate) fn names(&self) -> Vec<String> {
        self.objects.lock().unwrap().keys().cloned().collect()
    }
}

fn answer(mut client: &TcpStream, dialect: Dialect, objects: &Mutex<Objects>) -> io::Result<()> {
    let (head, mut body) = head(client)?;
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = header(&head, "content-length").and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
    client.take((length - body.len().min(length)) as u64).read_to_end(&mut body)?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut objects = objects.lock().unwrap_or_else(PoisonError::into_inner);
    let (status, tag, said) = match dialect {
        Dialect::Google => google(method, path, query, body, &mut objects),
        Dialect::Azure => azure(method, path, &head, body, &mut objects),
    };
    let length = said.len();
    let host = header(&head, "host").unwrap_or_default();
    let second = query.replace("uploadType=resumable&", "");
    let session = if second == query { String::new() } else { format!("Location: http://{host}/session?{second}\r\n") };
    let tag = tag.map(|tag| format!("ETag: \"{tag}\"\r\nx-goog-generation: {tag}\r\n")).unwrap_or_default();
    let date = "Last-Modified: Fri, 01 Mar 2024 00:00:00 GMT";
    write!(
        client,
        "HTTP/1.1 {status} So\r\n{session}{tag}{date}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if method == "HEAD" { Ok(()) } else { client.write_all(&said) }
}

type Answer = (u16, Option<u32>, Vec<u8>);

fn google(method: &str, path: &str, query: &str, body: Vec<u8>, objects: &mut Objects) -> Answer {
    let about = |name: &str, number: u32, size: usize| {
        serde_json::json!({
            "kind": "storage#object", "bucket": "bucket", "name": name, "size": size.to_string(),
            "generation": number.to_string(), "etag": number.to_string(), "updated": "2024-03-01T00:00:00.000Z",
        })
        .to_string()
        .into_bytes()
    };
    let asked = |wanted: &str| query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == wanted);
    if let Some(name) = path.strip_prefix("/storage/v1/b/bucket/o/").filter(|_| method == "GET") {
        let name = decoded(name);
        return match objects.get(&name) {
            Some((number, content)) if asked("alt").is_some() => (200, Some(*number), content.clone()),
            Some((number, content)) => (200, Some(*number), about(&name, *number, content.len())),
            None => (404, None, b"{\"error\":{\"code\":404,\"message\":\"No such object\"}}".to_vec()),
        };
    }
    // What has a condition is uploaded in two steps: the second goes to where the first one's answer says.
    let is_second = (method, path) == ("PUT", "/session");
    let Some((_, name)) =
        asked("name").filter(|_| is_second || (method, path) == ("POST", "/upload/storage/v1/b/bucket/o"))
    else {
        return (400, None, b"{}".to_vec());
    };
    let name = decoded(name);
    let number = objects.get(&name).map_or(0, |(number, _)| *number);
    if asked("ifGenerationMatch").is_some_and(|(_, wanted)| wanted != number.to_string()) {
        return (412, None, b"{\"error\":{\"code\":412,\"message\":\"conditionNotMet\"}}".to_vec());
    }
    if !is_second && asked("uploadType") == Some(("uploadType", "resumable")) {
        return (200, None, Vec::new());
    }
    let size = body.len();
    objects.insert(name.clone(), (number + 1, body));
    (200, Some(number + 1), about(&name, number + 1, size))
}

fn azure(method: &str, path: &str, head: &str, body: Vec<u8>, objects: &mut Objects) -> Answer {
    let is_signed = header(head, "authorization").is_some_and(|word| word.starts_with("SharedKey someone:"));
    let Some(name) = path.strip_prefix("/bucket/").map(decoded).filter(|_| is_signed) else {
        return (403, None, b"<Error><Code>AuthenticationFailed</Code></Error>".to_vec());
    };
    let number = objects.get(&name).map(|(number, _)| *number);
    match method {
        "GET" | "HEAD" => match objects.get(&name) {
            Some((number, content)) => (200, Some(*number), content.clone()),
            None => (404, None, b"<Error><Code>BlobNotFound</Code></Error>".to_vec()),
        },
        "PUT" if header(head, "x-ms-blob-type") == Some("BlockBlob") => {
            if header(head, "if-none-match") == Some("*") && number.is_some() {
                return (409, None, b"<Error><Code>BlobAlreadyExists</Code></Error>".to_vec());
            }
            let wanted = header(head, "if-match").map(|tag| tag.trim_matches('"').to_owned());
            if wanted.is_some() && wanted != number.map(|number| number.to_string()) {
                return (412, None, b"<Error><Code>ConditionNotMet</Code></Error>".to_vec());
            }
            let number = number.unwrap_or(0) + 1;
            objects.insert(name, (number, body));
            (201, Some(number), Vec::new())
        }
        _ => (400, None, Vec::new()),
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        let (byte, after) = hex.filter(|_| *first == b'%').map_or((*first, tail), |byte| (byte, &tail[2..]));
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).unwrap()
}
