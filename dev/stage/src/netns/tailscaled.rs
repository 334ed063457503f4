//! The official client on a host: its daemon, and its command line. In: where the coordination server is and how to
//! join. Out: its state, its addresses, its pings; its log when a test fails.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::Host;
use crate::process::Process;
use crate::{START, eventually, peers};

/// Long enough to join, with a relay found and two busy cores.
const JOIN: Duration = Duration::from_secs(45);

/// How it reaches the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A TUN device `tailscale0`, routes and nftables rules in the host's kernel.
    Tun,
    /// No device: peers are reached through a SOCKS5 and HTTP proxy at this address of the host.
    Userspace(SocketAddr),
}

/// The last releases before the pinned one, the oldest first: what a release is called, and its newest version.
pub const RELEASES: [(&str, &str); 9] = [
    ("1.84", "v1.84.3"),
    ("1.86", "v1.86.2"),
    ("1.88", "v1.88.4"),
    ("1.90", "v1.90.9"),
    ("1.92", "v1.92.5"),
    ("1.94", "v1.94.2"),
    ("1.96", "v1.96.5"),
    ("1.98", "v1.98.10"),
    ("1.100", "v1.100.0"),
];

/// The program of a release beside the pinned one, as `1.84`: daemon and command line in one file
/// (its build tag `ts_include_cli`), in set-up's cache.
#[must_use]
pub fn release(number: &str) -> Option<PathBuf> {
    peers::find(&program_of(number))
}

/// What the program of a release is called.
#[must_use]
pub fn program_of(number: &str) -> String {
    format!("tailscaled-{number}")
}

/// A running `tailscaled`; killed with its owner.
#[derive(Debug)]
pub struct Tailscaled {
    host: Host,
    program: Program,
    mode: Mode,
    env: Vec<(String, String)>,
    process: Process,
    dir: PathBuf,
}

/// Which client runs.
#[derive(Debug, Clone)]
enum Program {
    /// The pinned one: two programs.
    Pinned,
    /// One program that is both.
    Both(PathBuf),
}

impl Tailscaled {
    /// True if `tailscale`, `tailscaled` and `/dev/net/tun` are there; else said in one line.
    #[must_use]
    pub fn here() -> bool {
        let found = ["tailscaled", "tailscale"].iter().all(|p| peers::need(p).is_some());
        if found && !Path::new("/dev/net/tun").exists() {
            crate::skip::skip("/dev/net/tun is missing");
            return false;
        }
        found
    }

    /// Starts the daemon with a TUN device; its state lies in the host's directory and outlives it.
    pub fn start(host: &Host) -> Tailscaled {
        Tailscaled::start_with(host, Mode::Tun, &[])
    }

    /// Starts the daemon in a mode, with environment variables.
    pub fn start_with(host: &Host, mode: Mode, env: &[(&str, &str)]) -> Tailscaled {
        Tailscaled::begin(host, Program::Pinned, mode, env)
    }

    /// Starts another release, a program as [`release`] gives it, with a TUN device.
    pub fn start_release(host: &Host, program: &Path) -> Tailscaled {
        Tailscaled::begin(host, Program::Both(program.to_path_buf()), Mode::Tun, &[])
    }

    fn begin(host: &Host, program: Program, mode: Mode, env: &[(&str, &str)]) -> Tailscaled {
        let env: Vec<_> = env.iter().map(|(k, v)| ((*k).to_string(), (*v).to_string())).collect();
        let dir = host.dir().join("tailscale");
        std::fs::create_dir_all(&dir).unwrap();
        let process = launch(host, &program, mode, &env, &dir);
        let mut daemon = Tailscaled { host: host.clone(), program, mode, env, process, dir };
        daemon.wait_socket();
        daemon
    }

    /// The host it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Kills it without a goodbye and starts it again, after a while, from what it kept on disk.
    pub fn restart(&mut self, after: Duration) {
        self.kill();
        std::thread::sleep(after);
        self.process = launch(&self.host, &self.program, self.mode, &self.env, &self.dir);
        self.wait_socket();
    }

    /// Kills it without a goodbye.
    pub fn kill(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        let _ = self.process.wait(START);
    }

    /// Ends it as a service manager does.
    pub fn stop(&mut self) {
        self.process.terminate();
        let _ = self.process.wait(START);
    }

    /// `tailscale up` and what else is said; returns when the client is connected.
    ///
    /// # Errors
    /// The command's words, and the daemon's last lines.
    pub fn up(&self, server: &str, args: &[&str]) -> Result<(), String> {
        let server = format!("--login-server={server}");
        let name = format!("--hostname={}", self.host.name());
        let limit = format!("--timeout={}s", JOIN.as_secs());
        // What the caller says itself is not said twice: the command takes each flag once.
        let own = [name.as_str(), limit.as_str()];
        let said = |flag: &str| args.iter().any(|a| a.split('=').next() == flag.split('=').next());
        let own: Vec<&str> = own.into_iter().filter(|flag| !said(flag)).collect();
        self.cli(&[&["up", &server], own.as_slice(), args].concat()).map(drop)
    }

    /// `tailscale up` that waits for a person, running beside the test.
    pub fn up_interactive(&self, server: &str, args: &[&str]) -> Process {
        let mut command = self.command();
        command.args(["up", &format!("--login-server={server}"), &format!("--hostname={}", self.host.name())]);
        command.args(args);
        Process::start(&format!("tailscale up on {}", self.host.name()), command)
    }

    /// Any subcommand of `tailscale`; gives what it printed.
    ///
    /// # Errors
    /// Both its streams, if it fails.
    pub fn cli(&self, args: &[&str]) -> Result<String, String> {
        let out = self.output(args);
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if out.status.success() {
            return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        Err(format!("tailscale {args:?} on {}: {}\n{}\n{last}", self.host.name(), out.status, text.trim()))
    }

    /// The same with what it printed on both streams: warnings are on the second.
    ///
    /// # Errors
    /// As [`Tailscaled::cli`].
    pub fn said(&self, args: &[&str]) -> Result<String, String> {
        let out = self.output(args);
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        if out.status.success() { Ok(text) } else { Err(format!("{args:?}: {}\n{text}", out.status)) }
    }

    /// `tailscale status --json`.
    #[must_use]
    pub fn status(&self) -> Value {
        let out = self.output(&["status", "--json"]);
        serde_json::from_slice(&out.stdout).unwrap_or(Value::Null)
    }

    /// The client's state in its own words: `Running`, `NeedsLogin`, `Stopped`, `Starting`, …
    #[must_use]
    pub fn state(&self) -> String {
        self.status()["BackendState"].as_str().unwrap_or_default().to_string()
    }

    /// The names of the peers it sees, in order.
    #[must_use]
    pub fn peers(&self) -> Vec<String> {
        let status = self.status();
        let peers = status["Peer"].as_object().into_iter().flat_map(|p| p.values());
        let mut names: Vec<String> = peers.filter_map(|p| p["HostName"].as_str().map(ToString::to_string)).collect();
        names.sort();
        names
    }

    /// What it knows of a peer: by host name.
    #[must_use]
    pub fn peer(&self, name: &str) -> Option<Value> {
        let status = self.status();
        let mut peers = status["Peer"].as_object()?.values();
        peers.find(|p| p["HostName"].as_str() == Some(name)).cloned()
    }

    /// Routes that it would send to a peer, without the peer's own addresses.
    #[must_use]
    pub fn routes_of(&self, name: &str) -> Vec<String> {
        let Some(peer) = self.peer(name) else { return Vec::new() };
        let list = |key: &str| -> Vec<String> {
            let values = peer[key].as_array().cloned().unwrap_or_default();
            values.iter().filter_map(|v| v.as_str().map(ToString::to_string)).collect()
        };
        let own = list("TailscaleIPs");
        let mut routes = list("AllowedIPs");
        routes.retain(|r| !own.iter().any(|ip| r.split('/').next() == Some(ip)));
        routes.sort();
        routes
    }

    /// Its own mesh addresses, IPv4 first.
    ///
    /// # Panics
    /// If it has none yet.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let status = self.status();
        let own = status["Self"]["TailscaleIPs"].as_array().cloned().unwrap_or_default();
        own.iter().filter_map(|v| v.as_str()?.parse().ok()).collect()
    }

    /// Its mesh IPv4 address.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn v4(&self) -> IpAddr {
        let own = self.addresses();
        own.into_iter().find(IpAddr::is_ipv4).unwrap_or_else(|| panic!("{} has no IPv4 address", self.host.name()))
    }

    /// Its mesh IPv6 address.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn v6(&self) -> IpAddr {
        let own = self.addresses();
        own.into_iter().find(IpAddr::is_ipv6).unwrap_or_else(|| panic!("{} has no IPv6 address", self.host.name()))
    }

    /// `tailscale ping`: the line of the pong, which says by which path (`via DERP(…)` or `via 203.0.113.7:41641`).
    ///
    /// # Errors
    /// The command's words, if no pong came.
    pub fn ping(&self, to: &str, args: &[&str]) -> Result<String, String> {
        let out = self.output(&[&["ping"], args, &[to]].concat());
        let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        text.lines().rev().find(|l| l.starts_with("pong")).map(ToString::to_string).ok_or(text)
    }

    /// Waits until `test` holds for the client's status.
    ///
    /// # Errors
    /// The last status and the daemon's last lines, when `limit` passes first.
    pub fn wait(&self, limit: Duration, test: impl Fn(&Value) -> bool) -> Result<(), String> {
        let tried = eventually(limit, || {
            let status = self.status();
            if test(&status) {
                return Ok(());
            }
            // Each try is a process: not more than five a second.
            std::thread::sleep(Duration::from_millis(180));
            Err(status)
        });
        let own = ["BackendState", "TailscaleIPs", "Health"];
        let theirs = ["HostName", "Online", "AllowedIPs", "CurAddr", "Relay"];
        let some = |v: &Value, keys: &[&str]| keys.iter().map(|k| format!("{k}={} ", v[*k])).collect::<String>();
        tried.map_err(|s| {
            let peers = s["Peer"].as_object().into_iter().flat_map(|p| p.values());
            let peers: String = peers.map(|p| format!("\n  {}", some(p, &theirs))).collect();
            format!("{} after {limit:?}: {}{peers}", self.host.name(), some(&s, &own))
        })
    }

    fn output(&self, args: &[&str]) -> Output {
        let mut command = self.command();
        command.args(args);
        command.output().unwrap_or_else(|e| panic!("cannot run tailscale: {e}"))
    }

    fn command(&self) -> Command {
        // The command speaks to the daemon's socket alone, so it needs no namespace, and starts faster without.
        let mut command = match &self.program {
            Program::Pinned => Command::new(peers::find("tailscale").unwrap_or_else(|| panic!("tailscale is missing"))),
            Program::Both(path) => {
                let mut command = Command::new(path);
                command.env("TS_BE_CLI", "true");
                command
            }
        };
        command.arg("--socket").arg(self.dir.join("sock"));
        command
    }

    fn wait_socket(&mut self) {
        let socket = self.dir.join("sock");
        let up = eventually(START, || {
            self.process.must_run();
            std::os::unix::net::UnixStream::connect(&socket).map(drop)
        });
        if let Err(e) = up {
            panic!("tailscaled on {} does not listen: {e}; it printed:\n{}", self.host.name(), self.log());
        }
    }
}

impl Drop for Tailscaled {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let path = self.host.dir().join("tailscaled.log");
            let _ = std::fs::write(&path, self.log());
            eprintln!("---- all of tailscaled's log: {}", path.display());
        }
    }
}

fn launch(host: &Host, program: &Program, mode: Mode, env: &[(String, String)], dir: &Path) -> Process {
    let program = match program {
        Program::Pinned => peers::find("tailscaled").unwrap_or_else(|| panic!("tailscaled is missing")),
        Program::Both(path) => path.clone(),
    };
    let _ = std::fs::remove_file(dir.join("sock"));
    let mut command = host.command(program);
    command.arg("--statedir").arg(dir).arg("--socket").arg(dir.join("sock"));
    command.args(["--port", "0", "--no-logs-no-support"]);
    match mode {
        Mode::Tun => {
            command.args(["--tun", "tailscale0"]);
        }
        Mode::Userspace(proxy) => {
            let proxy = proxy.to_string();
            command.args(["--tun", "userspace-networking", "--socks5-server", &proxy]);
            command.args(["--outbound-http-proxy-listen", &proxy]);
        }
    }
    command.env("TS_DEBUG_FIREWALL_MODE", "nftables");
    // Nothing of the public service is meant to be asked; there is no path to it either.
    command.env("TS_NO_LOGS_NO_SUPPORT", "true").env("TS_PANIC_IF_HIT_MAIN_CONTROL", "true");
    // There is no home router to ask for ports here, and asking takes time.
    command.env("TS_DISABLE_PORTMAPPER", "true");
    command.envs(env.iter().map(|(k, v)| (k, v)));
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    Process::start(&format!("tailscaled on {}", host.name()), command)
}
