//! `portcullis demo`: every step comes out, with and without `--once`, with real traffic.

use std::process::Command;

use stage::command::{Outcome, command};
use stage::process::{Process, Signal};
use stage::{START, pages, recording};

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

/// The manual's recording of the demo; `UPDATE_GOLDEN=1` makes it anew.
#[test]
fn the_recording_is_what_the_demo_says_today() {
    let done = Outcome::of(&mut demo(&["--once"]));
    assert_eq!(done.code, 0, "{}", done.all());
    let lines: Vec<String> = done.out.trim_end().lines().map(str::to_string).collect();
    let now = recording::svg("portcullis demo --once", &lines);
    let place = "docs/pictures/demo.svg";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(pages::root().join(place), &now).unwrap();
    }
    let stands = recording::same_for_all_runs(&pages::file(place));
    let now = recording::same_for_all_runs(&now);
    let differs = now.lines().zip(stands.lines()).find(|(now, stands)| now != stands);
    assert!(now == stands, "{place} is old, make it with UPDATE_GOLDEN=1: {differs:?}");
}
