//! A gate on the stage: `portcullis gatekeeper`, or `serve` with a file. In: environment, arguments, a file. Out: a
//! process that listens, the addresses where it does, its list, its administrator's commands.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{self, Server};
use crate::process::Process;
use crate::{http, wait_or};

/// The secret of every edge that `serve` runs on a stage.
pub const TOKEN: &str = "serve-token-0123456789abcdef";

/// What stands before an address in the log of a listener.
const LISTENING: &str = "listening listener=";

/// The address in a line that says where something listens.
fn listening(line: &str) -> Option<SocketAddr> {
    line.split_once(LISTENING)?.1.split_once(" addr=")?.1.split_whitespace().next()?.parse().ok()
}

/// A gate of Gatekeeper's commands and variables.
#[derive(Debug)]
pub struct Gate {
    /// The process.
    pub process: Process,
    /// Where it listens: mirrored requests, then the endpoints that were asked for.
    pub addrs: Vec<SocketAddr>,
    listeners: usize,
    dir: PathBuf,
    data: PathBuf,
}

impl Gate {
    /// `portcullis gatekeeper ARGS…` in a folder, with its state in `state` and its list in `dynamic-whitelist.yml`; it
    /// lacks where it listens. The environment is the command's to set.
    #[must_use]
    pub fn command_in(dir: &Path, args: &[&str]) -> Command {
        let mut command = command::command(&["gatekeeper"]);
        command.args(args).arg("--data-dir").arg(dir.join("state")).current_dir(dir);
        command
    }

    /// Starts it on a free port and waits until it and every endpoint of `args` listen.
    #[must_use]
    pub fn start(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> Gate {
        let mut command = Gate::command_in(dir, &[&["--listen", "127.0.0.1:0"], args].concat());
        command.envs(env.iter().copied());
        Gate::by(command, dir, 1 + args.iter().filter(|a| a.ends_with("-listen")).count())
    }

    /// Starts what is a gate in the end, whose state is in `dir/state`, and waits until so many of its listeners are up.
    #[must_use]
    pub fn by(command: Command, dir: &Path, listeners: usize) -> Gate {
        let process = Process::start("gate", command);
        let (dir, data) = (dir.to_path_buf(), dir.join("state"));
        let mut gate = Gate { process, addrs: Vec::new(), listeners, dir, data };
        gate.listens();
        gate
    }

    fn listens(&mut self) {
        let mut addrs = Vec::new();
        wait_or(
            || {
                let log = self.process.output();
                addrs = log.lines().filter_map(listening).collect();
                addrs.len() >= self.listeners && command::answers(&self.data)
            },
            || format!("the gate listens at {} places; it printed:\n{}", self.listeners, self.process.output()),
        );
        self.addrs = addrs;
    }

    /// A mirrored request after a proof from this address: the status and the body of the answer.
    pub fn mirror(&self, forwarded_for: &str) -> (u16, String) {
        http::request(self.addrs[0], "GET", "/", &[("X-Forwarded-For", forwarded_for)])
    }

    /// The lines of doctor, and how it ended.
    #[must_use]
    pub fn doctor(&self) -> (i32, String) {
        self.command(&["doctor"])
    }

    /// The list's file, empty if there is none.
    #[must_use]
    pub fn file(&self) -> String {
        std::fs::read_to_string(self.dir.join("dynamic-whitelist.yml")).unwrap_or_default()
    }

    /// The entries in it.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        let entry = |l: &str| Some(l.strip_prefix("        - \"")?.strip_suffix('"')?.to_string());
        self.file().lines().filter_map(entry).collect()
    }

    /// Waits until the file holds these entries and no others.
    #[track_caller]
    pub fn expect(&self, entries: &[&str]) {
        wait_or(
            || self.entries() == entries,
            || format!("file has {:?}, wanted {entries:?}\n{}", self.entries(), self.process.output()),
        );
    }
}

impl Server for Gate {
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
        self.listens();
    }
}

impl Drop for Gate {
    /// As its operator ends it, so that it saves what it has.
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// `portcullis serve --config dir/gate.toml`, with state in `dir/state` and the token of its edge in `dir/token`.
#[derive(Debug)]
pub struct Serve {
    /// The process.
    pub process: Process,
    dir: PathBuf,
    data: PathBuf,
}

impl Serve {
    /// Starts it with this file and waits until everything in `ready` was logged.
    #[must_use]
    pub fn start(dir: &Path, config: &str, ready: &[&str]) -> Serve {
        Serve::write(dir, config);
        std::fs::write(dir.join("token"), TOKEN).unwrap();
        let process = Process::start("serve", Serve::command_in(dir));
        for what in ready {
            wait_or(|| process.logged(what).is_some(), || format!("`{what}`: {}", process.output()));
        }
        Serve { process, dir: dir.to_path_buf(), data: dir.join("state") }
    }

    /// The command alone.
    #[must_use]
    pub fn command_in(dir: &Path) -> Command {
        let mut command = command::command(&["serve", "--config"]);
        command.arg(dir.join("gate.toml"));
        command
    }

    /// Puts the file there at once, whole.
    pub fn write(dir: &Path, config: &str) {
        std::fs::write(dir.join("gate.new"), format!("data_dir = \"state\"\n{config}")).unwrap();
        std::fs::rename(dir.join("gate.new"), dir.join("gate.toml")).unwrap();
    }

    /// Changes the file; the process is not told.
    pub fn rewrite(&self, config: &str) {
        Serve::write(&self.dir, config);
    }

    /// The address of a listener, by what the log calls it; waits for it.
    pub fn at(&self, what: &str) -> SocketAddr {
        let mut found = None;
        wait_or(
            || {
                let line = self.process.logged(&format!("{LISTENING}\"{what}\""));
                found = line.and_then(|l| listening(&l));
                found.is_some()
            },
            || format!("{what}: {}", self.process.output()),
        );
        found.unwrap()
    }
}

impl Server for Serve {
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
        wait_or(|| command::answers(&self.data), || self.process.output());
    }
}

impl Drop for Serve {
    /// As its operator ends it, so that it saves what it has.
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Asks it to end and waits a little; its own drop kills what is left.
fn end(process: &mut Process) {
    process.terminate();
    let _ = process.wait(std::time::Duration::from_secs(3));
}
