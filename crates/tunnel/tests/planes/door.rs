//! Who gets in, behind proxies too, and who is cut when the list changes.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Ending, World, field, mirror, upstream};

const ME: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

#[tokio::test]
async fn a_stranger_is_hung_up_on_before_a_byte() {
    let world = World::with(&[("*", "", mirror().await)], &[("data", "127.0.0.5")], "").await;
    let mut raw = world.visit_from(Ipv4Addr::new(127, 0, 0, 6)).await;
    // It need not even send anything; and nothing is said to it.
    assert!(matches!(raw.ending().await, Ending::Closed(got) | Ending::Reset(got) if got.is_empty()));
    let mut raw = world.visit_from(ME).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.6\r\n\r\n").await;
    assert!(raw.response().await.0.starts_with("HTTP/1.1 200"));
    assert_eq!(world.opened(), 1);
}

#[tokio::test]
async fn before_the_first_view_and_with_an_empty_list_nobody_gets_in() {
    let world = World::with(&[("*", "", mirror().await)], &[], "").await;
    assert!(matches!(world.visit().await.ending().await, Ending::Closed(t) | Ending::Reset(t) if t.is_empty()));
    world.publish(&[("data", "")]);
    assert!(matches!(world.visit().await.ending().await, Ending::Closed(t) | Ending::Reset(t) if t.is_empty()));
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_visitor_decides() {
    let world =
        World::with(&[("*", "", mirror().await)], &[("data", "203.0.113.0/24, 127.0.0.9")], "127.0.0.8/31, 10.0.0.0/8")
            .await;
    let mut raw = world.visit_from(PROXY).await;
    let ask = |headers: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
    for (headers, status) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", "200"),
        ("X-Forwarded-For: 198.51.100.1\r\n", "403"),
        ("X-Forwarded-For: 203.0.113.7, 198.51.100.1\r\n", "403"),
        ("X-Forwarded-For: 198.51.100.1, 203.0.113.7, 10.1.1.1\r\n", "200"),
        // The one header counts; the other may be the visitor's own words.
        ("X-Forwarded-For: 198.51.100.1\r\nForwarded: for=203.0.113.7\r\n", "403"),
        ("X-Forwarded-For: 203.0.113.7\r\nForwarded: for=198.51.100.1\r\n", "200"),
        // Without a header the proxy is judged as itself.
        ("", "200"),
    ] {
        raw.send(ask(headers)).await;
        let (head, body) = raw.response().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{headers}: {head}");
        assert_eq!(status == "403", body.contains("is not allowed to reach this site"), "{body}");
    }
    for headers in [
        "X-Forwarded-For: junk\r\n",
        "X-Forwarded-For:\r\n",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 203.0.113.7\r\n",
        "Forwarded: for=203.0.113.7\r\n",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n",
        "X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: gopher\r\n",
    ] {
        let mut raw = world.visit_from(PROXY).await;
        raw.send(ask(headers)).await;
        let got = raw.rest().await;
        assert!(got.starts_with("HTTP/1.1 400 "), "{headers}: {got}");
    }
    // Who only says to be behind a proxy is judged as itself.
    let mut raw = world.visit_from(ME).await;
    assert!(matches!(raw.ending().await, Ending::Closed(t) | Ending::Reset(t) if t.is_empty()));
}

#[tokio::test]
async fn what_trusted_proxies_say_is_passed_on() {
    let world = World::with(
        &[("*", "", mirror().await)],
        &[("data", "203.0.113.0/24, 2001:db8::/32")],
        "127.0.0.9, 10.0.0.0/8",
    )
    .await;
    let mut raw = world.visit_from(PROXY).await;
    raw.send(
        "GET / HTTP/1.1\r\nHost: in.test\r\nX-Forwarded-For: 192.0.2.1, 203.0.113.7, 10.1.1.1\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: out.test\r\nX-Forwarded-Port: 443\r\nX-Real-IP: 6.6.6.6\r\n\r\n",
    )
    .await;
    let (_, seen) = raw.response().await;
    assert_eq!(field(&seen, "x-forwarded-for"), Some("203.0.113.7, 10.1.1.1, 127.0.0.9"), "{seen}");
    assert_eq!(field(&seen, "x-real-ip"), Some("203.0.113.7"));
    assert_eq!(field(&seen, "x-forwarded-proto"), Some("https"));
    assert_eq!(field(&seen, "x-forwarded-host"), Some("in.test"), "what was judged is what is told");
    assert_eq!(field(&seen, "x-forwarded-port"), Some("443"));
    assert_eq!(field(&seen, "host"), Some("in.test"));
    assert_eq!(
        field(&seen, "forwarded"),
        Some("for=203.0.113.7;host=\"in.test\";proto=https, for=10.1.1.1, for=127.0.0.9")
    );
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::1\r\n\r\n").await;
    let (_, seen) = raw.response().await;
    assert_eq!(field(&seen, "forwarded"), Some("for=\"[2001:db8::1]\";host=\"a\";proto=http, for=127.0.0.9"));
}

#[tokio::test]
async fn a_hosts_own_list_decides_alone() {
    let up = mirror().await;
    let lists = [
        ("data", "127.0.0.5"),
        ("host:inner.test", "127.0.0.6, 127.0.0.7"),
        ("host:both.test", "127.0.0.5, 127.0.0.6"),
    ];
    let world = World::with(&[("*", "", up)], &lists, "").await;
    for (from, host, status) in [
        (5, "open.test", "200"),
        (5, "inner.test", "403"),
        (5, "INNER.test.:80", "403"),
        (5, "both.test", "200"),
        (6, "open.test", "403"),
        (6, "inner.test", "200"),
        (7, "both.test", "403"),
    ] {
        let mut raw = world.visit_from(Ipv4Addr::new(127, 0, 0, from)).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let (head, _) = raw.response().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{from} to {host}: {head}");
    }
    let mut raw = world.visit_from(Ipv4Addr::new(127, 0, 0, 8)).await;
    assert!(matches!(raw.ending().await, Ending::Closed(t) | Ending::Reset(t) if t.is_empty()));
}

/// Sends for ever and reads for ever, so that both directions are in the middle of something.
async fn endless() -> std::net::SocketAddr {
    upstream(|mut raw| async move {
        let head = raw.head().await;
        let (mut read, mut write) = raw.stream.into_split();
        let answer = if head.contains("Upgrade: websocket") {
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
        } else {
            "HTTP/1.1 200 OK\r\n\r\n"
        };
        let _ = write.write_all(answer.as_bytes()).await;
        tokio::spawn(async move {
            let mut buf = vec![0; 65536];
            while matches!(read.read(&mut buf).await, Ok(n) if n > 0) {}
        });
        while write.write_all(b"tick ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Reads until the connection breaks; returns how long that took.
async fn broken_after(raw: &mut crate::world::Raw, from: Instant) -> Duration {
    match raw.ending().await {
        Ending::Reset(_) => from.elapsed(),
        Ending::Closed(t) => panic!("ended in order after {} bytes", t.len()),
    }
}

#[tokio::test]
async fn who_is_no_longer_allowed_is_cut_in_mid_body_and_others_notice_nothing() {
    let world = World::with(&[("*", "", endless().await)], &[("data", "127.0.0.5, 127.0.0.6")], "").await;
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let put = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbegun";
    let ws = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut all = Vec::new();
    for last in [5, 6] {
        for request in [get, put, ws] {
            let mut raw = world.visit_from(Ipv4Addr::new(127, 0, 0, last)).await;
            raw.send(request).await;
            raw.until("tick").await;
            all.push(raw);
        }
        // And one that has not said anything yet, and one that is idle between requests.
        all.push(world.visit_from(Ipv4Addr::new(127, 0, 0, last)).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut stay = all.split_off(4);
    let cut = Instant::now();
    assert!(world.publish(&[("data", "127.0.0.6")]) >= 4);
    for raw in &mut all {
        assert!(broken_after(raw, cut).await < Duration::from_secs(1));
    }
    for raw in stay.iter_mut().take(3) {
        for _ in 0..20 {
            raw.until("tick").await;
        }
    }
    assert!(world.plane.stats().cut.load(std::sync::atomic::Ordering::Relaxed) >= 3);
}

#[tokio::test]
async fn behind_a_proxy_only_the_visitor_is_cut() {
    let lists = [("data", "203.0.113.7, 203.0.113.8")];
    let world = World::with(&[("*", "", endless().await)], &lists, "127.0.0.9").await;
    let mut raws = Vec::new();
    for visitor in ["203.0.113.7", "203.0.113.8"] {
        let mut raw = world.visit_from(PROXY).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {visitor}\r\n\r\n")).await;
        raw.until("tick").await;
        raws.push(raw);
    }
    let cut = Instant::now();
    world.publish(&[("data", "203.0.113.8")]);
    assert!(broken_after(&mut raws[0], cut).await < Duration::from_secs(1));
    for _ in 0..20 {
        raws[1].until("tick").await;
    }
}

#[tokio::test]
async fn a_changed_host_list_cuts_only_that_host() {
    let lists = [("data", "127.0.0.5"), ("host:one.test", "127.0.0.5"), ("host:two.test", "127.0.0.5")];
    let world = World::with(&[("*", "", endless().await)], &lists, "").await;
    let mut raws = Vec::new();
    for host in ["one.test", "two.test", "none.test"] {
        let mut raw = world.visit_from(ME).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        raw.until("tick").await;
        raws.push(raw);
    }
    let cut = Instant::now();
    world.publish(&[("data", "127.0.0.5"), ("host:one.test", "127.0.0.99"), ("host:two.test", "127.0.0.5")]);
    assert!(broken_after(&mut raws[0], cut).await < Duration::from_secs(1));
    // `data` no longer knows it, but the list of two.test does: that one stays, none.test is cut.
    for _ in 0..5 {
        raws[1].until("tick").await;
        raws[2].until("tick").await;
    }
    world.publish(&[("data", "127.0.0.1"), ("host:two.test", "127.0.0.5")]);
    assert!(broken_after(&mut raws[2], Instant::now()).await < Duration::from_secs(1));
    for _ in 0..20 {
        raws[1].until("tick").await;
    }
    // A list that did not exist before counts as well.
    world.publish(&[("data", "127.0.0.5"), ("host:two.test", "127.0.0.1")]);
    assert!(broken_after(&mut raws[1], Instant::now()).await < Duration::from_secs(1));
}
