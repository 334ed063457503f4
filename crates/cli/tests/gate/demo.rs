//! `portcullis demo`: every step comes out, with and without `--once`, with real traffic.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn demo(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    c.arg("demo").args(args);
    c
}

#[test]
fn once_tells_everything_and_ends_well() {
    let out = demo(&["--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{said}{}", String::from_utf8_lossy(&out.stderr));
    assert!(!said.contains("BAD"), "{said}");
    for wanted in [
        "A list that learns",
        "127.0.0.4 is allowed: `127.0.0.4` on list `host:home.example` (list:family) holds it",
        "given to CN=phone on mtls evidence for 168 hours",
        "given to guest of album on share evidence for 24 hours",
        "but not home.example",
        "the gate's clock is simulated",
        "127.0.0.4 is refused",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

#[test]
fn without_once_it_stays_until_it_is_told_to_stop() {
    let mut child = demo(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.by_ref().any(|l| l.contains("Still running")), "it ended");
    assert!(child.try_wait().unwrap().is_none());
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}
