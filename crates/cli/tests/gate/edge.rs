//! A proof given to the gate opens a tunnel's edge, and its end closes it.

use stage::command::{Server, command, run_at};
use stage::gate::Gate;
use stage::process::Process;
use stage::{Dir, ports, wait, wait_or};

#[test]
fn a_proof_opens_an_edge_and_its_end_closes_it() {
    let dir = Dir::new("edge");
    let list = dir.at("list");
    let g = Gate::start(dir.path(), &[("LEARN_PRIVATE", "true")], &["--list-file", list.to_str().unwrap()]);
    wait("the list is written", || list.exists());
    let (http, control) = (ports::free(), ports::free());
    let (http, control) = (http.to_string(), control.to_string());
    let mut c = command(&["http", "server", "--token", "abcdefghijklmnopqrstuvwx"]);
    c.args(["--port", &http, "--control-port", &control]);
    c.arg("--allow-ips").arg(format!("@{}", list.display())).arg("--data-dir").arg(dir.at("edge"));
    let edge = Process::start("edge", c);
    let explain = || run_at(&dir.at("edge"), &["explain", "127.0.0.1", "--service", "data"]).code;
    wait_or(|| explain() == 3, || edge.output());
    g.mirror("127.0.0.1");
    wait_or(|| explain() == 0, || edge.output());
    assert_eq!(g.command(&["grant", "revoke", "127.0.0.1"]).0, 0);
    wait_or(|| explain() == 3, || edge.output());
}
