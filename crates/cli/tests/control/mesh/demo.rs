//! `portcullis demo --mesh` as a person runs it: it comes out well, says so, and leaves nothing behind.

use std::time::Duration;

use stage::command::{Outcome, command};
use stage::netns::World;
use stage::netns::tailscaled::Tailscaled;
use stage::peers;
use stage::process::Process;

#[test]
fn the_demo_comes_out_well_and_leaves_nothing_behind() {
    // The demo makes hosts of its own; the world only says whether that can be done here.
    if !Tailscaled::here() || World::new().is_none() {
        return;
    }
    let peers = peers::find("tailscaled").unwrap();
    let path = format!("{}:{}", peers.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut demo = Process::start("demo", {
        let mut c = command(&["demo", "--mesh"]);
        c.env("PATH", path);
        c
    });
    let tag = format!("portcullis-demo-{}", demo.pid());
    let status = demo.wait(Duration::from_secs(300)).unwrap();
    let text = demo.output();
    assert!(status.success(), "{text}");
    assert!(text.contains("it saw 203.0.113.10, the office"), "{text}");
    let names =
        std::fs::read_dir("/run/netns").unwrap().flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|n| n.starts_with(&tag)).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn without_the_client_the_demo_says_what_it_needs() {
    let none = stage::Dir::new("empty");
    let out = Outcome::of(command(&["demo", "--mesh"]).env("PATH", none.path()).env("HOME", none.path()));
    let text = out.all();
    if !["/usr/bin/tailscaled", "/usr/sbin/tailscaled", "/usr/local/bin/tailscaled"]
        .iter()
        .any(|p| std::path::Path::new(p).exists())
    {
        assert_eq!(out.code, 1, "{text}");
        assert!(text.contains("`tailscaled`") && text.contains("hint: "), "{text}");
    }
}
