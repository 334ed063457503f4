//! A coordination server on the stage, on this machine or on a host of its own. In: arguments of `portcullis control`.
//! Out: a process that answers, and its administrator's commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Server};
use crate::netns::Host;
use crate::process::Process;
use crate::{Dir, START, eventually, ports};

/// The port of a control on a host of its own.
pub const PORT: u16 = 8080;

/// A running control.
#[derive(Debug)]
pub struct Control {
    /// The process.
    pub process: Process,
    /// Where it listens, as its own host sees it.
    pub addr: SocketAddr,
    /// Its URL for clients.
    pub url: String,
    data: PathBuf,
    host: Option<Host>,
    _own: Option<Dir>,
}

impl Control {
    /// Starts it on a free port of 127.0.0.1 with a data directory of its own, and waits until it answers.
    #[must_use]
    pub fn start(args: &[&str]) -> Control {
        let dir = Dir::new("control");
        let control = Control::start_in(dir.path(), args);
        Control { _own: Some(dir), ..control }
    }

    /// The same with a data directory.
    #[must_use]
    pub fn start_in(data: &Path, args: &[&str]) -> Control {
        Control::by(command::command(&[]), data, args)
    }

    /// The same by a command that lacks all arguments of `portcullis`.
    #[must_use]
    pub fn by(mut command: Command, data: &Path, args: &[&str]) -> Control {
        let addr = ports::local(ports::free());
        let url = format!("http://{addr}");
        command.args(["control", "--server-url", &url, "--listen", &addr.to_string(), "--stun", "off"]);
        command.args(args).arg("--data-dir").arg(data);
        let process = Process::start("control", command);
        let mut control = Control { process, addr, url, data: data.to_path_buf(), host: None, _own: None };
        control.wait();
        control
    }

    /// Starts it on a host, at port [`PORT`] of all its addresses, with this URL for clients.
    #[must_use]
    pub fn on(host: Host, url: &str, args: &[&str]) -> Control {
        let data = host.dir().join("control");
        std::fs::create_dir_all(&data).unwrap();
        // A URL with an IPv6 address is for clients that come over IPv6.
        let any = if url.contains('[') { "[::]" } else { "0.0.0.0" };
        let mut command = host.command(command::binary());
        command.args(["control", "--server-url", url, "--listen", &format!("{any}:{PORT}")]);
        command.args(["--stun", &format!("{any}:3478"), "--data-dir"]).arg(&data).args(args);
        let process = Process::start("control", command);
        let addr = ports::local(PORT);
        let mut control = Control { process, addr, url: url.to_string(), data, host: Some(host), _own: None };
        control.wait();
        control
    }

    /// The host that it is on.
    ///
    /// # Panics
    /// It is on this machine.
    #[must_use]
    pub fn host(&self) -> &Host {
        self.host.as_ref().unwrap_or_else(|| panic!("this control has no host of its own"))
    }

    /// A new user.
    pub fn user(&self, name: &str) {
        self.ok(&["users", "create", name]);
    }

    /// A key for a user; a new one if it is not there yet.
    #[must_use]
    pub fn key(&self, user: &str, args: &[&str]) -> String {
        if let Err(e) = self.try_run(&["users", "create", user]) {
            assert!(e.contains("already"), "{e}");
        }
        key_in(&self.ok(&[&["keys", "create", "--user", user], args].concat()))
    }

    /// Puts a policy in force.
    pub fn policy(&self, text: &str) {
        let file = self.data.join("policy.hujson");
        std::fs::write(&file, text).unwrap();
        self.ok(&["policy", "set", file.to_str().unwrap()]);
    }

    /// One node as it knows it, by name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Value> {
        let nodes = self.json(&["nodes", "list"]);
        nodes["nodes"].as_array()?.iter().find(|n| n["name"] == name).cloned()
    }

    fn wait(&mut self) {
        let up = eventually(START, || {
            self.process.must_run();
            match &self.host {
                Some(host) => host.connect(self.addr, Duration::from_secs(1)),
                None => std::net::TcpStream::connect(self.addr),
            }
            .map_err(|e| e.to_string())?;
            // Commands are taken a moment after the first client is.
            if command::answers(&self.data) { Ok(()) } else { Err("nobody takes commands".to_string()) }
        });
        if let Err(e) = up {
            panic!("control does not answer: {e}; it printed:\n{}", self.process.output());
        }
    }
}

impl Server for Control {
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

/// The pre-auth key in what `keys create` printed.
///
/// # Panics
/// There is none.
#[must_use]
pub fn key_in(said: &str) -> String {
    said.lines().find(|l| l.starts_with("pck-")).unwrap_or_else(|| panic!("no key: {said}")).trim().to_string()
}
