//! `portcullis demo`: every step comes out, with and without `--once`, with real traffic.

use std::process::Command;

use stage::START;
use stage::command::{Outcome, command};
use stage::process::{Process, Signal};

fn demo(args: &[&str]) -> Command {
    command(&[&["demo"], args].concat())
}

#[test]
fn once_tells_everything_and_ends_well() {
    let done = Outcome::of(&mut demo(&["--once"]));
    assert_eq!(done.code, 0, "{}", done.all());
    let said = done.out;
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
    let mut demo = Process::start("demo", demo(&[]));
    demo.line(START, |l| l.contains("Still running").then_some(())).unwrap();
    assert!(demo.ended().is_none());
    demo.signal(Signal::INT);
    assert!(demo.wait(START).unwrap().success());
}
