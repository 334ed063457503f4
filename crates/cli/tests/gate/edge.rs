//! A proof given to the gate opens a tunnel's edge, and its end closes it.

use std::process::Command;

use crate::room::*;

#[test]
fn a_proof_opens_an_edge_and_its_end_closes_it() {
    let dir = Dir::new("edge");
    let list = dir.at("list");
    let g = Gate::start(&dir.0, &[("LEARN_PRIVATE", "true")], &["--list-file", list.to_str().unwrap()]);
    wait("the list is written", || list.exists());
    let (http, control) = (free_port(), free_port());
    let mut c = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    c.args([
        "http",
        "server",
        "--token",
        "abcdefghijklmnopqrstuvwx",
        "--port",
        &http.to_string(),
        "--control-port",
        &control.to_string(),
    ]);
    c.arg("--allow-ips").arg(format!("@{}", list.display())).arg("--data-dir").arg(dir.at("edge"));
    let edge = Proc::start(c);
    let explain = || {
        let mut c = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        c.args(["explain", "127.0.0.1", "--service", "data", "--data-dir"]).arg(dir.at("edge"));
        c.output().unwrap().status.code()
    };
    wait_or(|| explain() == Some(3), || edge.text());
    g.mirror("127.0.0.1");
    wait_or(|| explain() == Some(0), || edge.text());
    assert_eq!(g.command(&["grant", "revoke", "127.0.0.1"]).0, 0);
    wait_or(|| explain() == Some(3), || edge.text());
}
