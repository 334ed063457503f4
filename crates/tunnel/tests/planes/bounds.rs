//! What strangers can make the plane hold, and for how long. Not beside the test that measures this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

use crate::world::{SOON, World, empty, set, settings, text, upstream, visit_h2 as visit};

/// An upstream that reads and says nothing, but for `/answer`.
async fn silent() -> std::net::SocketAddr {
    upstream(|mut raw| async move {
        while let Some(head) = raw.try_head().await {
            if head.starts_with("GET /answer") {
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

/// A request whose header list is some 60 KB.
fn large(path: &str) -> Request<http_body_util::combinators::BoxBody<bytes::Bytes, std::convert::Infallible>> {
    let mut request = Request::get(format!("http://a{path}"));
    for _ in 0..15 {
        request = request.header("x", "y".repeat(3_900));
    }
    request.body(empty()).unwrap()
}

#[tokio::test]
async fn header_lists_of_one_connection_are_bounded() {
    let _turn = stage::shared();
    let world = World::new(&[("*", "", silent().await)]).await;
    let sender = visit(&world, 1).await;
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let mut sender = sender.clone();
        asked.spawn(async move { sender.send_request(large("/")).await.map(|r| r.status().as_u16()) });
    }
    // Four of them fit 256 KiB and wait for their answer; the others are told at once.
    for _ in 0..36 {
        let status = tokio::time::timeout(SOON, asked.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status.unwrap(), 431);
    }
    assert_eq!(world.opened(), 4);
    // Given back when they are over: the same connection serves again.
    asked.shutdown().await;
    let again = async {
        loop {
            let answer = sender.clone().send_request(large("/answer")).await.unwrap();
            if answer.status() == 200 {
                return text(answer).await;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, again).await.unwrap(), "ok");
}

#[tokio::test]
async fn one_source_takes_a_share_of_the_memory_for_heads() {
    let _turn = stage::shared();
    let world = World::new(&[("*", "", silent().await)]).await;
    let mut asked = tokio::task::JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..30 {
        let sender = visit(&world, 1).await;
        for _ in 0..4 {
            let mut sender = sender.clone();
            asked.spawn(async move { sender.send_request(large("/")).await.map(|r| r.status().as_u16()) });
        }
        senders.push(sender);
    }
    // 120 heads of 59 KB, each counted twice: 8 MiB hold 71.
    for _ in 0..45 {
        let status = tokio::time::timeout(SOON, asked.join_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(status.unwrap(), 503);
    }
    assert!((60..=75).contains(&world.opened()), "{}", world.opened());
    // HTTP/1.1 of the same source is told the same, and another source is served.
    let head = format!("GET /answer HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(60_000));
    let mut raw = world.visit().await;
    raw.send(&head).await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 503 "));
    let mut raw = world.visit_from(std::net::Ipv4Addr::new(127, 0, 0, 2)).await;
    raw.send(&head).await;
    assert!(raw.response().await.0.starts_with("HTTP/1.1 200 "));
    // A small one of the first source, too.
    let mut raw = world.visit().await;
    raw.send("GET /answer HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(raw.response().await.0.starts_with("HTTP/1.1 200 "));
    drop((asked, senders));
    let again = async {
        loop {
            let mut raw = world.visit().await;
            raw.send(head.replace("\r\nX:", "\r\nConnection: close\r\nX:")).await;
            if raw.rest().await.starts_with("HTTP/1.1 200 ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, again).await.expect("memory is given back");
}

/// A visitor who comes through a trusted proxy takes his own share, not what all who come through it have.
#[tokio::test]
async fn one_visitor_behind_a_trusted_proxy_takes_a_share_of_the_memory_for_heads() {
    let _turn = stage::shared();
    let routes = [("*", "", silent().await)];
    let world = World::made(&routes, &[("data", "0.0.0.0/0")], settings(set("127.0.0.0/8")), |_| {}).await;
    let head = |from: &str, path: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {from}\r\nX: {}\r\n\r\n", "y".repeat(60_000))
    };
    // 120 KB each: 8 MiB hold 69.
    let mut held = Vec::new();
    for _ in 0..69 {
        let mut raw = world.visit().await;
        raw.send(&head("203.0.113.1", "/")).await;
        held.push(raw);
    }
    tokio::time::timeout(SOON, async {
        while world.opened() < 69 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let mut raw = world.visit().await;
    raw.send(&head("203.0.113.1", "/answer")).await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 503 "));
    let mut raw = world.visit().await;
    raw.send(&head("203.0.113.2", "/answer")).await;
    assert!(raw.response().await.0.starts_with("HTTP/1.1 200 "));
    // The proxy's connection goes on with the next visitor's request.
    raw.send(&head("203.0.113.3", "/answer")).await;
    assert!(raw.response().await.0.starts_with("HTTP/1.1 200 "));
}

/// Sends without end; counts the connections that were broken off.
async fn endless(broken: Arc<AtomicUsize>) -> std::net::SocketAddr {
    upstream(move |mut raw| {
        let broken = broken.clone();
        async move {
            let head = raw.head().await;
            raw.send("HTTP/1.1 200 OK\r\n\r\n").await;
            if head.starts_with("GET /events") {
                raw.send("data: 1\n\n").await;
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            let piece = vec![b'x'; 64 * 1024];
            while raw.stream.write_all(&piece).await.is_ok() {}
            broken.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await
}

async fn impatient(broken: &Arc<AtomicUsize>) -> World {
    let with = tunnel::http::HttpSettings { stall: Duration::from_secs(1), ..settings(set("")) };
    let routes = [("*", "", endless(broken.clone()).await)];
    World::made(&routes, &[("data", "127.0.0.0/8")], with, |_| {}).await
}

async fn until_broken(broken: &AtomicUsize, n: usize) {
    let wait = async {
        while broken.load(Ordering::SeqCst) < n {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(3 * SOON, wait).await.expect("an answer that nobody takes goes on");
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_ended() {
    let _turn = stage::shared();
    let broken = Arc::new(AtomicUsize::new(0));
    let world = impatient(&broken).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    until_broken(&broken, 1).await;
    let mut sender = visit(&world, 1).await;
    let unread = sender.send_request(Request::get("http://a/").body(empty()).unwrap()).await.unwrap();
    until_broken(&broken, 2).await;
    drop(unread);
}

#[tokio::test]
async fn who_takes_slowly_or_waits_for_more_is_not_ended() {
    let _turn = stage::shared();
    let broken = Arc::new(AtomicUsize::new(0));
    let world = impatient(&broken).await;
    let mut slow = world.visit().await;
    slow.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut events = world.visit().await;
    events.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
    events.until("data: 1\n\n\r\n").await;
    let mut sender = visit(&world, 1).await;
    let request = Request::get("http://a/events").body(empty()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let begin = Instant::now();
    let mut buf = vec![0; 256 * 1024];
    while begin.elapsed() < Duration::from_secs(4) {
        assert!(slow.some(&mut buf).await > 0, "a slow visitor was cut");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(broken.load(Ordering::SeqCst), 0);
    assert!(tokio::time::timeout(Duration::from_millis(100), body.frame()).await.is_err(), "events over HTTP/2 ended");
    assert!(tokio::time::timeout(Duration::from_millis(100), events.some(&mut buf)).await.is_err(), "events ended");
}
