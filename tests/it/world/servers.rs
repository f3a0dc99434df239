//! Real servers on loopback, each in a directory of its own and gone with its value.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fs_err as fs;

use super::{World, skip};

/// A server that runs as long as this value.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Option<Child>,
    pub(crate) port: u16,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Daemon {
    /// Ends it at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = child.wait();
        }
    }

    /// Starts a program, and waits until it says one of its lines.
    fn start(command: &mut Command, port: u16, ready: &str) -> Self {
        use std::os::unix::process::CommandExt;
        let mut child = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = Vec::new();
        for line in lines.by_ref().map_while(Result::ok) {
            said.push(line);
            if said.last().is_some_and(|line| line.contains(ready)) {
                break;
            }
        }
        assert!(said.last().is_some_and(|line| line.contains(ready)), "{command:?}: {said:?}");
        // Whatever else it says has to go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child: Some(child), port }
    }

    /// Redis, with nothing kept.
    pub(crate) fn redis(world: &World) -> Option<Self> {
        let program = program("redis-server", "redis-server")?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", "s3cret"]);
        command.arg("--dir").arg(world.path("tmp"));
        Some(Self::start(&mut command, port, "Ready to accept connections"))
    }

    /// nginx as a `WebDAV` server over `cloud`.
    pub(crate) fn nginx(world: &World) -> Option<Self> {
        Self::nginx_with(world, "PUT DELETE MKCOL", true)
    }

    /// nginx as a server over `cloud` that takes what is PUT, and knows nothing of `WebDAV` besides.
    pub(crate) fn nginx_of_put(world: &World) -> Option<Self> {
        Self::nginx_with(world, "PUT", false)
    }

    fn nginx_with(world: &World, methods: &str, lists: bool) -> Option<Self> {
        let program = program("nginx", "nginx")?;
        let port = free_port();
        let module = Path::new("/usr/lib/nginx/modules/ngx_http_dav_ext_module.so");
        let (load, more) = if lists && module.exists() {
            (format!("load_module {};", module.display()), "dav_ext_methods PROPFIND OPTIONS;")
        } else {
            (String::new(), "")
        };
        let root = world.path("nginx");
        fs::create_dir_all(root.join("cloud")).unwrap();
        // Its workers would be another user.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let at = root.display();
        world.write(
            "nginx/nginx.conf",
            format!(
                "{load} {user} daemon off; worker_processes 1; pid {at}/pid; error_log {at}/error.log;
                 events {{}}
                 http {{
                   access_log {at}/access.log; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;
                   fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;
                   client_max_body_size 0;
                   server {{
                     listen 127.0.0.1:{port};
                     location / {{ root {at}/cloud; dav_methods {methods}; {more} create_full_put_path on; }}
                   }}
                 }}"
            ),
        );
        // It says nothing when it is ready, so the shell does: once it answers.
        let script = "\"$0\" -p \"$1\" -c nginx.conf & until (: </dev/tcp/127.0.0.1/$2) 2>/dev/null; do :; done; echo ready; wait";
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(program).arg(&root).arg(port.to_string());
        Some(Self::start(&mut command, port, "ready"))
    }

    /// moto's S3, with a bucket called `bucket`.
    pub(crate) fn s3() -> Option<Self> {
        let program = program("moto_server", "moto's S3 server, which tests/run.sh installs")?;
        let port = free_port();
        let script = "\"$0\" -H 127.0.0.1 -p $1 >/dev/null 2>&1 & until (: </dev/tcp/127.0.0.1/$1) 2>/dev/null; do :; done; echo ready; wait";
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(program).arg(port.to_string());
        let daemon = Self::start(&mut command, port, "ready");
        let mut line = TcpStream::connect(("127.0.0.1", port)).unwrap();
        line.write_all(b"PUT /bucket HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        BufReader::new(line).read_line(&mut answer).unwrap();
        assert!(answer.contains("200"), "{answer}");
        Some(daemon)
    }
}

fn program(name: &str, what: &str) -> Option<PathBuf> {
    let found = super::on_path(name);
    if found.is_none() {
        skip(&format!("there is no {what}"));
    }
    found
}

/// Returns a port that nobody listens on just now.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
