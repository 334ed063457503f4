//! What all tests of the mesh start from. In: a world. Out: a running control with its administrator's commands, and
//! clients that have joined it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stage::netns::service::{visit, visit_udp};
use stage::netns::tailscaled::Tailscaled;
use stage::netns::{Host, World};
use stage::process::Process;
use stage::{START, eventually};

/// Longer than any packet takes here; waited out in full only where nothing may answer.
pub(crate) const SOON: Duration = Duration::from_millis(1500);
/// Long enough for a change to be with every client, on a machine with two busy cores.
pub(crate) const SETTLED: Duration = Duration::from_secs(20);

/// Where control is in every test.
pub(crate) const CONTROL: &str = "203.0.113.9";
/// Where the DNS of the world is, in tests that have one.
pub(crate) const DNS: &str = "192.0.2.53";

/// An address in words.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address and port in words.
pub(crate) fn to(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A coordination server on a host of its own.
pub(crate) struct Control {
    pub(crate) host: Host,
    pub(crate) url: String,
    pub(crate) process: Process,
    args: Vec<String>,
    dir: PathBuf,
}

/// A world with a control. Fields end in this order: processes before their hosts.
pub(crate) struct Mesh {
    pub(crate) control: Control,
    pub(crate) world: World,
}

impl Mesh {
    /// A control with no policy; `None` (said in one line) where the test cannot run.
    pub(crate) fn new() -> Option<Mesh> {
        Mesh::with(&[])
    }

    /// The same with more flags.
    pub(crate) fn with(args: &[&str]) -> Option<Mesh> {
        Mesh::at(&format!("http://{CONTROL}:8080"), args)
    }

    /// The same with another URL for its clients.
    pub(crate) fn at(url: &str, args: &[&str]) -> Option<Mesh> {
        if !Tailscaled::here() {
            return None;
        }
        let world = World::new()?;
        let host = world.host("control", CONTROL);
        // It asks names of apps itself; in most worlds nobody answers there.
        host.resolver(&[ip(DNS)]);
        let control = Control::start(host, url, args);
        Some(Mesh { control, world })
    }

    /// A client on a new host with a public address, that has joined.
    pub(crate) fn member(&self, name: &str, public: &str, key: &str, args: &[&str]) -> Tailscaled {
        let client = Tailscaled::start(&self.world.host(name, public));
        self.join(&client, key, args);
        client
    }

    /// A router on a new host: it joins, and forwards.
    pub(crate) fn router(&self, name: &str, public: &str, key: &str, args: &[&str]) -> Tailscaled {
        let host = self.world.host(name, public);
        host.forward();
        let client = Tailscaled::start(&host);
        self.join(&client, key, args);
        client
    }

    /// Joins with a key.
    pub(crate) fn join(&self, client: &Tailscaled, key: &str, args: &[&str]) {
        let key = format!("--auth-key={key}");
        client.up(&self.control.url, &[&[key.as_str()], args].concat()).unwrap();
    }
}

impl Control {
    /// Starts it, and waits until it answers.
    pub(crate) fn start(host: Host, url: &str, args: &[&str]) -> Control {
        let dir = host.dir().join("control");
        std::fs::create_dir_all(&dir).unwrap();
        // A URL with an IPv6 address is for clients that come over IPv6.
        let (listen, stun) =
            if url.contains('[') { ("[::]:8080", "[::]:3478") } else { ("0.0.0.0:8080", "0.0.0.0:3478") };
        let fixed = ["--server-url", url, "--listen", listen, "--stun", stun, "--data-dir"];
        let mut all: Vec<String> = fixed.iter().chain(&[dir.to_str().unwrap()]).map(ToString::to_string).collect();
        all.extend(args.iter().map(ToString::to_string));
        let process = launch(&host, &all);
        let mut control = Control { host, url: url.to_string(), process, args: all, dir };
        control.wait();
        control
    }

    /// Kills it without a goodbye.
    pub(crate) fn kill(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.wait(START).unwrap();
    }

    /// Starts it again from what it kept.
    pub(crate) fn again(&mut self) {
        self.process = launch(&self.host, &self.args);
        self.wait();
    }

    /// An administrator's command; gives what it printed.
    pub(crate) fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(args).arg("--data-dir").arg(&self.dir);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if out.status.success() {
            return Ok(text);
        }
        Err(format!("{args:?}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr)))
    }

    /// The same, which must succeed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("{e}\ncontrol printed:\n{}", self.process.output()))
    }

    /// The same as JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.run(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?} gave no JSON: {e}\n{text}"))
    }

    /// A new user.
    pub(crate) fn user(&self, name: &str) {
        self.run(&["users", "create", name]);
    }

    /// A key for a user; a new one if it is not there yet.
    pub(crate) fn key(&self, user: &str, args: &[&str]) -> String {
        if let Err(e) = self.try_run(&["users", "create", user]) {
            assert!(e.contains("already"), "{e}");
        }
        self.run(&[&["keys", "create", "--user", user], args].concat()).trim().to_string()
    }

    /// Puts a policy in force.
    pub(crate) fn policy(&self, text: &str) {
        let file = self.dir.join("policy.hujson");
        std::fs::write(&file, text).unwrap();
        self.run(&["policy", "set", file.to_str().unwrap()]);
    }

    /// One node as control knows it, by name.
    pub(crate) fn node(&self, name: &str) -> Option<Value> {
        let nodes = self.json(&["nodes", "list"]);
        nodes["nodes"].as_array()?.iter().find(|n| n["name"] == name).cloned()
    }

    /// Where its state is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn wait(&mut self) {
        let up = eventually(START, || {
            self.process.must_run();
            self.host.connect(to("127.0.0.1:8080"), SOON)?;
            // Commands are taken a moment after the first client is.
            std::os::unix::net::UnixStream::connect(self.dir.join("control.sock")).map(drop)
        });
        if let Err(e) = up {
            panic!("control does not answer: {e}; it printed:\n{}", self.process.output());
        }
    }
}

fn launch(host: &Host, args: &[String]) -> Process {
    let mut command = host.command(env!("CARGO_BIN_EXE_portcullis"));
    command.arg("control").args(args);
    Process::start("control", command)
}

/// Reaches a member's port 80 over both families and both protocols, and is seen as itself.
pub(crate) fn talk(from: &Tailscaled, other: &Tailscaled) {
    for (target, own) in [(other.v4(), from.v4()), (other.v6(), from.v6())] {
        let addr = (target, 80).into();
        becomes(SETTLED, &Ok(own), || visit(from.host(), addr, SOON));
        assert_eq!(visit_udp(from.host(), addr, SOON), Ok(own), "UDP to {target}");
    }
}

/// Waits until `f` gives `want`, and says what it gave instead.
pub(crate) fn becomes<T: PartialEq + std::fmt::Debug>(limit: Duration, want: &T, mut f: impl FnMut() -> T) {
    let got = eventually(limit, || {
        let got = f();
        if got == *want { Ok(()) } else { Err(got) }
    });
    if let Err(got) = got {
        panic!("after {limit:?} still {got:?}, not {want:?}");
    }
}
