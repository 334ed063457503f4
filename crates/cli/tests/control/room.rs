//! A coordination server for tests that attack it: started on a free port, ended with the test.
#![allow(unreachable_pub, reason = "suites share it, and each uses its part")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use sim::mesh::server_key;
use stage::process::Process;
use stage::{Dir, ports};
use tailnet_proto::meshkey::MachineKey;

pub const BIN: &str = env!("CARGO_BIN_EXE_portcullis");

pub struct Control {
    pub process: Process,
    pub addr: SocketAddr,
    pub key: MachineKey,
    pub dir: Dir,
}

impl Control {
    /// Starts it by this command, which lacks the arguments of `control`, and waits for so long. Eve is its user.
    pub async fn launch(name: &str, mut command: Command, more: &[&str], patience: Duration) -> Control {
        let dir = Dir::new(name);
        let addr = ports::local(ports::free());
        command.args(["control", "--server-url", &format!("http://{addr}"), "--listen", &addr.to_string()]);
        command.args(["--stun", "off", "--data-dir"]).arg(dir.path()).args(more);
        let process = Process::start("control", command);
        ports::wait(addr, patience).unwrap();
        let control = Control { process, addr, key: server_key(addr).await.unwrap(), dir };
        control.command(&["users", "create", "eve"]);
        control
    }

    /// An administrator's command; returns what it prints.
    pub fn command(&self, args: &[&str]) -> String {
        let out = Command::new(BIN).args(args).arg("--data-dir").arg(self.dir.path()).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }
}
