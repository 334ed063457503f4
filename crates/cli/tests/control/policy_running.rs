//! Policies at a running coordination server: a new network begins with one, and every question is answered without
//! files. The nodes are false ones that join over real sockets.

use std::time::Duration;

use serde_json::{Value, json};
use sim::mesh::{MapStream, Node};
use stage::command::{Outcome, Server, command};
use stage::control::{Control, key_in};

use crate::server::Reached;

/// Longest that a server may take to start on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// The policy of a network in which nobody is yet, with tests of those who will be.
const FIRST: &str = r#"{
	"tagOwners": { "tag:rt": ["eve@"] },
	"grants": [
		{ "src": ["eve@"], "dst": ["tag:rt"], "ip": ["tcp:22"] },
		{ "src": ["eve@"], "dst": ["198.51.100.0/28"], "ip": ["tcp:443"] },
	],
	"tests": [{ "src": "eve@", "accept": ["tag:rt:22"], "deny": ["tag:rt:23"] }],
}
"#;

/// Runs a command in the server's folder; gives its exit code, standard output and standard error.
fn run(control: &Control, args: &[&str]) -> (i32, String, String) {
    let mut command = command(args);
    let done = Outcome::of(command.arg("--data-dir").arg(control.data()).current_dir(control.data()));
    (done.code, done.out, done.err)
}

fn write(control: &Control, name: &str, text: &str) {
    std::fs::write(control.data().join(name), text).unwrap();
}

/// Joins a node; it stays as long as its stream is held.
async fn join(control: &Reached, n: u64, key: &[&str], routes: &[&str]) -> MapStream {
    let auth = key_in(&control.ok(&[&["keys", "create"], key].concat()));
    let node = Node::new(n);
    let mut channel = node.connect(control.addr, &control.key).await.unwrap();
    let mut ask = node.register_request(&auth);
    ask["Hostinfo"]["RoutableIPs"] = json!(routes);
    let (status, answer) = channel.post("/machine/register", &ask).await.unwrap();
    assert!(status == 200 && answer["MachineAuthorized"] == true, "{answer}");
    let mut ask = node.map_request(true);
    ask["Hostinfo"]["RoutableIPs"] = json!(routes);
    let mut map = channel.map_with(&ask).await.unwrap();
    tokio::time::timeout(SOON, map.news()).await.unwrap().unwrap();
    map
}

#[tokio::test]
async fn a_policy_with_tests_begins_a_new_network_and_one_that_fails_does_not_end_it() {
    let dir = stage::Dir::new("policy-first");
    let file = dir.path().join("first.hujson");
    std::fs::write(&file, FIRST).unwrap();
    let given = file.display().to_string();
    let mut control = Reached::with(&["--policy", &given]).await;
    // Nobody is there: what is to be reached is not known, what is not to be reached is not reached.
    let (code, out, _) = run(&control, &["policy", "test"]);
    assert_eq!(code, 0, "{out}");
    assert!(
        out.contains("?     tests 1 (line 7): eve@ -> tag:rt:22 accept: `eve@` has no address here yet\n"),
        "{out}"
    );
    assert!(
        out.ends_with("ok    tests 1: eve@ -> tag:rt:23 deny\n1 of 2 hold, 1 speak of somebody who is not here yet\n")
    );
    assert_eq!(run(&control, &["policy", "test", "--strict"]).0, 1);
    write(&control, "p.hujson", FIRST);
    let (code, out, err) = run(&control, &["policy", "set", "p.hujson"]);
    assert!(code == 0 && err.contains("note: nobody can say yet: tests at 7:"), "{out}{err}");
    let (code, _, err) = run(&control, &["policy", "set", "--strict", "p.hujson"]);
    assert!(code == 1 && err.contains("the policy's own tests fail"), "{err}");
    let (code, _, err) = run(&control, &["policy", "check", "--running", "p.hujson"]);
    assert!(code == 0 && err.contains("note: p.hujson:7:"), "{err}");
    assert_eq!(run(&control, &["policy", "check", "--running", "--strict", "p.hujson"]).0, 1);

    // With the node there, the promise is kept; a policy that breaks it is refused while the server runs ...
    let _eve = join(&control, 1, &["--user", "eve"], &[]).await;
    let _router = join(&control, 2, &["--tags", "tag:rt"], &[]).await;
    assert_eq!(run(&control, &["policy", "test"]).1.lines().last(), Some("2 of 2 hold"));
    let broken = FIRST.replace("tcp:22", "tcp:2222");
    write(&control, "broken.hujson", &broken);
    assert_eq!(run(&control, &["policy", "set", "broken.hujson"]).0, 1);
    // ... and at a start it is warned about, for a server that does not run helps nobody.
    std::fs::write(&file, &broken).unwrap();
    control.process.stop();
    control.again();
    let said = control.process.output();
    assert!(
        said.contains("a policy is in force that would be refused today")
            && said.contains("fault=tests 7:")
            && said.contains("eve@ -> tag:rt:22 accept"),
        "{said}"
    );
    assert!(run(&control, &["policy", "get"]).1.contains("tcp:2222"));
}

#[tokio::test]
async fn questions_are_answered_by_the_running_server() {
    let control = Reached::with(&[]).await;
    let (code, _, err) = run(&control, &["policy", "diff"]);
    assert!(code == 2 && err.contains("hint: name the new policy with `--policy NEW`"), "{err}");
    write(&control, "p.hujson", FIRST);
    assert_eq!(run(&control, &["policy", "set", "p.hujson"]).0, 0);
    let _eve = join(&control, 1, &["--user", "eve"], &[]).await;
    let _router = join(&control, 2, &["--tags", "tag:rt"], &["198.51.100.7/32"]).await;
    let explain = |args: &[&str]| run(&control, &[&["policy", "explain"], args].concat());
    let (code, out, _) = explain(&["sim-1", "198.51.100.7:443"]);
    assert!(
        code == 0 && out.contains("by rule 2 of grants (line 5); but no router has an approved route there"),
        "{out}"
    );
    control.ok(&["routes", "approve", "sim-2", "198.51.100.7/32"]);
    let (code, out, _) = explain(&["sim-1", "198.51.100.7:443"]);
    assert!(
        code == 0 && out.contains("allowed for tcp, by rule 2 of grants (line 5); udp and icmp are refused"),
        "{out}"
    );
    assert_eq!(explain(&["sim-1", "198.51.100.7:80"]).0, 3, "refused");
    assert_eq!(explain(&["sim-1", "198.51.100.7:443", "--proto", "udp"]).0, 3);
    let (code, _, err) = explain(&["nobody", "sim-2:22"]);
    assert!(code == 1 && err.contains("hint: SRC and DST are nodes of the network"), "{err}");

    // A change is told in addresses, behind whom they are.
    let wide = FIRST.replace("198.51.100.0/28", "198.51.100.0/24").replace("tcp:443", "tcp:443\", \"tcp:80");
    write(&control, "wide.hujson", &wide);
    let (code, out, err) = run(&control, &["policy", "diff", "--policy", "wide.hujson"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.contains("+ sim-1 -> 198.51.100.7/32 behind sim-2: tcp:80\n")
            || out.contains("+ sim-1 -> 198.51.100.7 behind sim-2: tcp:80\n"),
        "{out}"
    );
    let (code, dry, _) = run(&control, &["policy", "set", "--dry-run", "wide.hujson"]);
    assert!(code == 0 && dry.starts_with(&out) && dry.ends_with("nothing was changed\n"), "{dry}");
    let (_, out, _) = run(&control, &["policy", "set", "--dry-run", "--json", "wide.hujson"]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert!(json["changes"].as_array().unwrap().iter().any(|c| c["at"][0].as_str().unwrap().contains("behind sim-2")));
    write(&control, "none.hujson", "{\"grants\": []}");
    let (_, out, _) = run(&control, &["policy", "set", "--dry-run", "none.hujson"]);
    assert!(out.contains("- sim-1 -> 198.51.100.7 behind sim-2: tcp:443\n"), "who loses the address is said: {out}");
    let (_, out, _) = run(&control, &["policy", "diff", "--policy", "none.hujson", "--against", "wide.hujson"]);
    assert!(out.contains("- sim-1 -> 198.51.100.7 behind sim-2: tcp:80,443\n"), "{out}");

    // The same with files: what is exported says the same.
    let (code, topology, _) = run(&control, &["policy", "topology"]);
    assert_eq!(code, 0);
    write(&control, "nodes.json", &topology);
    let files = ["--policy", "p.hujson", "--topology", "nodes.json"];
    for command in [&["compile", "--json"][..], &["compile"], &["test"]] {
        let live = run(&control, &[&["policy"], command].concat());
        assert_eq!(live.0, 0, "{live:?}");
        assert_eq!(live, run(&control, &[&["policy"], command, &files].concat()), "{command:?}");
    }
    let (_, text, _) = run(&control, &["policy", "compile", "--node", "sim-2"]);
    assert!(text.contains(" -> 198.51.100.0/28 tcp 443") && !text.contains("cap  ssh-behavior"), "{text}");
    let (code, _, err) = run(&control, &["policy", "test", "--topology", "nodes.json"]);
    assert!(code == 2 && err.contains("--policy"), "{err}");
}

#[tokio::test]
async fn what_is_probably_not_meant_is_noted() {
    let control = Reached::with(&[]).await;
    let text = r#"{
        "groups": { "group:ops": ["eve@", "adda@example.com"] },
        "grants": [{ "src": ["group:ops"], "dst": ["autogroup:self"], "ip": ["22"] }],
        "ssh": [{ "action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"] }],
    }"#;
    write(&control, "p.hujson", text);
    for args in [&["policy", "set", "p.hujson"][..], &["policy", "check", "--running", "p.hujson"]] {
        let (code, _, err) = run(&control, args);
        assert_eq!(code, 0, "{err}");
        assert!(
            err.contains("note: p.hujson:2:") && err.contains("users who do not exist: `adda@example.com`"),
            "{err}"
        );
        assert!(err.contains("note: p.hujson:4:") && err.contains("the login is refused"), "{err}");
    }
    let (code, _, err) = run(&control, &["policy", "check", "p.hujson"]);
    assert!(code == 0 && err.contains("the login is refused") && !err.contains("do not exist"), "{err}");
}
