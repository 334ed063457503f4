//! The stage checks itself: proxies, upstreams and visitors work with each other before a tunnel stands between them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use stage::process::Process;
use stage::proxies::{Kind, Proxy};
use stage::upstream::Upstream;
use stage::{Dir, START, http, pattern, sha256, tls, wait};

#[test]
fn a_process_starts_again_as_it_was_and_its_children_go_with_it() {
    let dir = Dir::new("again");
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo \"$GIVEN,${HOME-none},$(pwd),$!\"; wait"]);
    command.env("GIVEN", "by the test").env_remove("HOME").current_dir(dir.path());
    let mut process = Process::start("again", command);
    let mut said = || {
        let line = process.line(START, |l| l.contains("by the test").then(|| l.to_string())).unwrap();
        let (said, child) = line.rsplit_once(',').unwrap();
        assert_eq!(said, format!("by the test,none,{}", dir.path().display()));
        let child = Path::new("/proc").join(child);
        assert!(child.exists());
        process.again();
        wait("its child is gone", || !child.exists());
    };
    said();
    said();
    assert_eq!(process.stop().code(), None, "ended by the signal");
}

#[test]
fn who_is_alone_runs_beside_nobody_who_takes_part() {
    let inside = AtomicUsize::new(0);
    let enter = |others: usize| {
        let now = inside.fetch_add(1, Ordering::SeqCst);
        assert!(now <= others, "{now} others are inside");
        sleep(Duration::from_millis(10));
        inside.fetch_sub(1, Ordering::SeqCst);
    };
    std::thread::scope(|s| {
        for n in 0..8 {
            let enter = &enter;
            s.spawn(move || match n % 2 {
                0 => {
                    let _alone = stage::alone();
                    enter(0);
                }
                _ => {
                    let _shared = stage::shared();
                    enter(3);
                }
            });
        }
    });
    assert_eq!(inside.load(Ordering::SeqCst), 0);
}

#[test]
fn echo_keeps_half_close() {
    let echo = Upstream::echo();
    let mut s = http::tcp(echo.addr()).unwrap();
    s.write_all(b"until the end").unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    let mut back = String::new();
    s.read_to_string(&mut back).unwrap();
    assert_eq!(back, "until the end");
}

#[test]
fn site_shows_what_arrives() {
    let site = Upstream::site("stage");
    let mut s = http::tcp(site.addr()).unwrap();
    assert_eq!(http::get_on(&mut s, "a.test", "/", &[]).unwrap().text(), "hello from stage\n");
    assert_eq!(http::get_on(&mut s, "a.test", "/bytes/100000/7", &[]).unwrap().body, pattern(100_000, 7));
    let body = pattern(70_000, 3);
    let answer = http::post_on(&mut s, "a.test", "/digest", &body).unwrap();
    assert_eq!(answer.text(), format!("70000 {}", sha256(&body)));
    assert!(http::get_on(&mut s, "a.test", "/head", &[("X-One", "1")]).unwrap().text().contains("X-One: 1"));
    let events = http::get_on(&mut s, "a.test", "/events/2", &[]).unwrap();
    assert_eq!(events.text(), "data: 0\n\ndata: 1\n\n");
    assert!(http::get_on(&mut s, "a.test", "/die/10", &[]).is_err(), "a cut body must not pass for a whole one");
}

/// Each proxy passes requests, upgrades and reloads without any tunnel.
fn proxy(kind: Kind) {
    let (data, control) = (Upstream::site("data"), Upstream::site("control"));
    let Some(mut proxy) = Proxy::start(kind, data.addr(), control.addr()) else { return };
    for round in ["at first", "after a reload"] {
        for (front, name) in [(proxy.data, "data"), (proxy.control, "control")] {
            let answer = stage::eventually(stage::START, || {
                let mut s = tls::connect(front, "localhost").map_err(|e| e.to_string())?;
                let answer = http::get_on(&mut s, &format!("localhost:{}", front.port()), "/", &[])
                    .map_err(|e| e.to_string())?;
                if answer.status == 200 { Ok(answer) } else { Err(answer.head) }
            });
            assert_eq!(answer.expect(round).text(), format!("hello from {name}\n"), "{kind:?} {round}");
            let mut s = tls::connect(front, "localhost").unwrap();
            assert_eq!(http::upgrade_on(&mut s, "localhost", "/ws", &[]).unwrap().status, 101, "{kind:?} {round}");
            s.write_all(b"ping").unwrap();
            let mut back = [0; 4];
            s.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"ping", "{kind:?} {round}");
        }
        proxy.reload();
    }
    assert!(stage::certificates::der_of(&proxy.ca).len() > 100);
}

#[test]
fn caddy() {
    proxy(Kind::Caddy);
}

#[test]
fn nginx() {
    proxy(Kind::Nginx);
}

#[test]
fn haproxy() {
    proxy(Kind::Haproxy);
}

#[test]
fn traefik() {
    proxy(Kind::Traefik);
}
