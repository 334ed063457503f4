//! The built binary on the stage: edges and clients. In: arguments beyond the usual. Out: running processes, their
//! ports and the pin that the edge printed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::command::{Server, command};
use crate::process::Process;
use crate::proxies::{self, Proxy};
use crate::{Dir, START, ports};

/// The secret of every edge on a stage.
pub const TOKEN: &str = "stage-token-0123456789abcdef";

/// Which pair of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `http server`, `http client`.
    Http,
    /// `tcp server`, `tcp client`.
    Tcp,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Mode::Http => "http",
            Mode::Tcp => "tcp",
        }
    }
}

/// A running edge.
#[derive(Debug)]
pub struct Edge {
    /// The process.
    pub process: Process,
    /// Its control plane.
    pub control: SocketAddr,
    /// Its HTTP plane; in TCP mode nothing listens there.
    pub http: SocketAddr,
    mode: Mode,
    tls: bool,
    data: PathBuf,
    dir: Dir,
}

impl Edge {
    /// Starts an edge on free ports of 127.0.0.1 and waits until its control plane accepts. With `tls` it makes its own
    /// certificate; without, it is told `--auto-tls=false`.
    #[must_use]
    pub fn start(mode: Mode, tls: bool, args: &[&str]) -> Edge {
        let dir = Dir::new("edge");
        let data = dir.at("data");
        let (control, http) = (ports::local(ports::free()), ports::local(ports::free()));
        let mut command = command(&[mode.word(), "server", "--control-addr", "127.0.0.1", "--data-addr", "127.0.0.1"]);
        command.arg("--control-port").arg(control.port().to_string());
        if mode == Mode::Http {
            command.arg("--port").arg(http.port().to_string());
        }
        command.arg("--token-file").arg(dir.secret("token.txt", TOKEN)).arg("--data-dir").arg(&data);
        if tls {
            command.args(["--auto-tls-san", "127.0.0.1", "--auto-tls-path"]).arg(dir.path().join("tls"));
        } else {
            command.arg("--auto-tls=false");
        }
        command.args(args);
        let mut edge = Edge { process: Process::start("edge", command), control, http, mode, tls, data, dir };
        edge.wait();
        edge
    }

    /// Kills it, and starts it again as it was after a while.
    pub fn away(&mut self, time: std::time::Duration) {
        self.process.kill();
        std::thread::sleep(time);
        self.again();
    }

    /// Waits until the planes accept; fails with the edge's words if it ends instead.
    fn wait(&mut self) {
        for addr in [Some(self.control), (self.mode == Mode::Http).then_some(self.http)].into_iter().flatten() {
            let up = crate::eventually(START, || {
                self.process.must_run();
                std::net::TcpStream::connect(addr).map(drop)
            });
            if let Err(e) = up {
                panic!("the edge does not accept at {addr}: {e}; it printed:\n{}", self.process.output());
            }
        }
    }

    /// The token's file.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token.txt")
    }

    /// A directory of its own, for lists and configuration.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// `sha256:…` as the edge printed it.
    pub fn fingerprint(&mut self) -> String {
        let pick = |line: &str| {
            let at = line.find("sha256:")?;
            let word: String = line[at..].chars().take(7 + 64).collect();
            (word.len() == 71).then_some(word)
        };
        self.process.line(START, pick).unwrap_or_else(|e| panic!("no fingerprint: {e}"))
    }

    /// A client that connects to the edge itself.
    pub fn client(&mut self, args: &[&str]) -> Client {
        let (url, trust) = self.reach();
        let trust: Vec<&str> = trust.iter().map(String::as_str).collect();
        Client::start(self.mode, &url, &self.token_file(), &[&trust, args].concat())
    }

    /// URL and trust arguments of a client that connects to the edge itself.
    pub fn reach(&mut self) -> (String, Vec<String>) {
        if self.tls {
            (format!("wss://{}", self.control), vec!["--ca-fingerprint".to_string(), self.fingerprint()])
        } else {
            // Without TLS a client must be told that this is meant.
            (format!("ws://{}", self.control), vec!["--insecure".to_string()])
        }
    }

    /// A client that connects to another URL, such as that of a proxy in front.
    pub fn client_at(&self, url: &str, args: &[&str]) -> Client {
        Client::start(self.mode, url, &self.token_file(), args)
    }

    /// Which pair of commands it runs.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

impl Server for Edge {
    fn data(&self) -> &Path {
        &self.data
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn process_mut(&mut self) -> &mut Process {
        &mut self.process
    }

    fn again(&mut self) {
        self.process.again();
        self.wait();
    }
}

/// A running client.
#[derive(Debug)]
pub struct Client {
    /// The process.
    pub process: Process,
}

impl Client {
    /// Starts a client; it may not be connected yet.
    #[must_use]
    pub fn start(mode: Mode, url: &str, token: &Path, args: &[&str]) -> Client {
        Client::start_with(mode, url, token, args, &[])
    }

    /// The same with environment variables.
    #[must_use]
    pub fn start_with(mode: Mode, url: &str, token: &Path, args: &[&str], env: &[(&str, &str)]) -> Client {
        let mut command = command(&[mode.word(), "client", "--url", url, "--token-file"]);
        command.arg(token).args(args);
        command.envs(env.iter().copied());
        Client { process: Process::start("client", command) }
    }
}

/// Waits until a request for `/` of `host` is answered with 200.
///
/// # Errors
/// The last answer or reason.
pub fn wait_site(addr: SocketAddr, host: &str) -> Result<(), String> {
    crate::eventually(START, || match crate::http::get(addr, host, "/", &[("Connection", "close")]) {
        Ok(r) if r.status == 200 => Ok(()),
        Ok(r) => Err(format!("{}{}", r.head, r.text())),
        Err(e) => Err(e.to_string()),
    })
}

/// Waits until a published TCP port answers: one byte to an echo and back.
///
/// # Errors
/// The last reason.
pub fn wait_echo(addr: SocketAddr) -> Result<(), String> {
    use std::io::{Read, Write};
    crate::eventually(START, || {
        let mut s = crate::http::tcp(addr).map_err(|e| e.to_string())?;
        s.write_all(b"?").map_err(|e| e.to_string())?;
        s.read_exact(&mut [0]).map_err(|e| e.to_string())
    })
}

/// An edge without TLS of its own and a client that reaches it through a proxy in front.
#[derive(Debug)]
pub struct Behind {
    // Dropped in this order: the visitor's side first.
    /// The client.
    pub client: Client,
    /// The proxy between visitors, client and edge.
    pub proxy: Proxy,
    /// The edge.
    pub edge: Edge,
}

impl Behind {
    /// `None` if the proxy is not installed.
    #[must_use]
    pub fn start(kind: proxies::Kind, mode: Mode, server: &[&str], client: &[&str]) -> Option<Behind> {
        let edge = Edge::start(mode, false, server);
        let proxy = Proxy::start(kind, edge.http, edge.control)?;
        let ca = proxy.ca.to_str().unwrap().to_string();
        let url = format!("wss://localhost:{}", proxy.control.port());
        let client = edge.client_at(&url, &[&["--auto-tls=false", "--ca-file", &ca], client].concat());
        Some(Behind { client, proxy, edge })
    }
}
