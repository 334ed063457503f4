//! Bodies as they come: large, slow, both ways at once, upgraded.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Ending, SOON, World, field, mirror, upstream};

#[tokio::test]
async fn websocket_passes_both_ways_and_keeps_half_close() {
    let up = upstream(|mut raw| async move {
        let head = raw.head().await;
        assert_eq!(field(&head, "upgrade"), Some("websocket"));
        assert_eq!(field(&head, "connection"), Some("Upgrade"));
        assert_eq!(field(&head, "sec-websocket-key"), Some("eA=="));
        // The first bytes come in one piece with the head.
        raw.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: y\r\n\r\nhello").await;
        let mut buf = [0; 1024];
        let mut total = 0;
        loop {
            let n = raw.some(&mut buf).await;
            if n == 0 {
                break;
            }
            total += n;
            raw.stream.write_all(&buf[..n]).await.unwrap();
        }
        // The visitor ended its side; the answer still arrives.
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send(format!("bye after {total}")).await;
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: eA==\r\n\r\nearly").await;
    let head = raw.head().await;
    assert_eq!(
        head,
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
    raw.until("hello").await;
    raw.until("early").await;
    for i in 0..50 {
        raw.send(format!("message {i}.")).await;
        raw.until(&format!("message {i}.")).await;
    }
    raw.stream.shutdown().await.unwrap();
    let rest = raw.rest().await;
    assert!(rest.starts_with("bye after "), "{rest}");
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_answer() {
    let world = World::new(&[("*", "", mirror().await)]).await;
    let mut raw = world.visit().await;
    for _ in 0..2 {
        raw.send("GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        assert!(raw.response().await.0.starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn events_come_at_once() {
    let up = upstream(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n").await;
        for i in 0..5 {
            raw.send(format!("data: {i}\n\n")).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.head().await;
    for i in 0..5 {
        let started = std::time::Instant::now();
        raw.until(&format!("data: {i}\n\n")).await;
        assert!(started.elapsed() < Duration::from_secs(2), "event {i} came late");
    }
    raw.until("0\r\n\r\n").await;
}

#[tokio::test]
async fn expect_continue_is_the_upstreams_to_answer() {
    let up = upstream(|mut raw| async move {
        let head = raw.head().await;
        assert_eq!(field(&head, "expect"), Some("100-continue"));
        if head.starts_with("POST /no") {
            raw.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n").await;
            return;
        }
        raw.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
        let body = raw.take(5).await;
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        raw.stream.write_all(&body).await.unwrap();
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("POST /yes HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(raw.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(raw.head().await, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    raw.send("hello").await;
    assert_eq!(raw.response().await.1, "hello");
    let mut raw = world.visit().await;
    raw.send("POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").await;
    let got = raw.rest().await;
    assert!(got.starts_with("HTTP/1.1 417 ") && got.contains("Connection: close"), "{got}");
}

#[tokio::test]
async fn bodies_run_both_ways_at_once() {
    // Sends back each byte as it comes.
    let up = upstream(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\n\r\n").await;
        let mut buf = [0; 64];
        loop {
            let n = raw.some(&mut buf).await;
            raw.stream.write_all(&buf[..n]).await.unwrap();
            if buf[..n].ends_with(b"0\r\n\r\n") {
                return;
            }
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for i in 0..10 {
        raw.send(format!("5\r\nnum {i}\r\n")).await;
        raw.until(&format!("num {i}")).await;
    }
    raw.send("0\r\nX-T: 1\r\n\r\n").await;
    raw.until("X-T: 1").await;
}

/// Forgets the peak of before (proc_pid_clear_refs(5)).
fn forget_peak() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Peak resident memory of this process since then, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_with_bounded_memory() {
    let _turn = stage::alone();
    const TOTAL: u64 = 1 << 30;
    let up = upstream(|mut raw| async move {
        let head = raw.head().await;
        let mut buf = vec![7; 256 * 1024];
        if head.starts_with("PUT") {
            // As slow as the visitor is fast: nothing may pile up in between.
            let mut left = TOTAL;
            tokio::time::sleep(Duration::from_millis(300)).await;
            while left > 0 {
                let n = raw.some(&mut buf).await as u64;
                assert!(n > 0);
                left -= n;
            }
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        } else if head.starts_with("GET /chunked") {
            raw.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for _ in 0..TOTAL / buf.len() as u64 {
                raw.send(format!("{:x}\r\n", buf.len())).await;
                raw.stream.write_all(&buf).await.unwrap();
                raw.send("\r\n").await;
            }
            raw.send("0\r\n\r\n").await;
        } else {
            raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {TOTAL}\r\n\r\n")).await;
            for _ in 0..TOTAL / buf.len() as u64 {
                raw.stream.write_all(&buf).await.unwrap();
            }
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    forget_peak();
    let before = peak_mib();
    let mut buf = vec![1; 256 * 1024];

    let mut raw = world.visit().await;
    raw.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {TOTAL}\r\n\r\n")).await;
    for _ in 0..TOTAL / buf.len() as u64 {
        raw.stream.write_all(&buf).await.unwrap();
    }
    assert_eq!(raw.response().await.1, "ok");

    for path in ["/length", "/chunked"] {
        let mut raw = world.visit().await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        raw.head().await;
        let mut sevens = 0;
        loop {
            let n = raw.stream.read(&mut buf).await.unwrap();
            if n == 0 {
                break;
            }
            sevens += buf[..n].iter().filter(|b| **b == 7).count() as u64;
        }
        assert!(sevens > TOTAL - 64 * 1024, "{path}: {sevens} of {TOTAL}");
    }
    let grown = peak_mib() - before;
    assert!(grown < 48, "memory grew by {grown} MiB");
}

#[tokio::test]
async fn a_slow_visitor_holds_up_nobody() {
    let up = upstream(|mut raw| async move {
        while let Some(head) = raw.try_head().await {
            if head.starts_with("GET /big") {
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
                let buf = vec![0; 256 * 1024];
                while raw.stream.write_all(&buf).await.is_ok() {}
                return;
            }
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    // Ten who ask for much and read nothing.
    let mut slow = Vec::new();
    for _ in 0..10 {
        let mut raw = world.visit().await;
        raw.send("GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await;
        slow.push(raw);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut fast = world.visit().await;
    let started = std::time::Instant::now();
    for _ in 0..200 {
        fast.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(fast.response().await.1, "ok");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "200 requests took {:?}", started.elapsed());
}

#[tokio::test]
async fn an_upload_that_breaks_off_breaks_off_upstream() {
    let (tx, mut rx) = tokio::sync::mpsc::channel(1);
    let up = upstream(move |mut raw| {
        let tx = tx.clone();
        async move {
            raw.head().await;
            let _ = tx.send(raw.ending().await).await;
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(raw);
    // A body with a length that ends early is incomplete to every reader.
    let end = tokio::time::timeout(SOON, rx.recv()).await.unwrap().unwrap();
    assert!(matches!(end, Ending::Closed(ref got) | Ending::Reset(ref got) if got == "half"), "{end:?}");
}

#[tokio::test]
async fn a_visitor_that_ends_its_side_still_gets_its_answer() {
    let up = upstream(|mut raw| async move {
        raw.head().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate").await;
        raw.rest().await;
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    raw.stream.shutdown().await.unwrap();
    assert!(raw.rest().await.ends_with("late"));
}

#[tokio::test]
async fn an_answer_before_the_upload_is_over_is_delivered() {
    let up = upstream(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge").await;
        // Hangs up on the rest.
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await;
    raw.send(vec![0; 300_000]).await;
    let (head, body) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 413 ") && head.contains("Connection: close"), "{head}");
    assert_eq!(body, "large");
}
