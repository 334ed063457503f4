//! Time limits, with a clock that jumps: streams in memory on both sides.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use access::{List, ViewBuilder};
use runtime::admission::Admission;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::Instant;
use tunnel::http::{HttpPlane, Io, Opening, Router, Speaks, Target, Visitor, VisitorIo, serve_connection};

use crate::world::{set, settings};

struct Memory(DuplexStream);

impl net::stall::Unacknowledged for Memory {}

impl VisitorIo for Memory {
    fn reset(&mut self) {}
}

impl AsyncRead for Memory {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Memory {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// `slow.test` never opens, `mute.test` opens and says nothing, nobody else is served.
struct Odd;

impl Router for Odd {
    fn route<'a>(&'a self, host: &'a str, _path: &'a str) -> Pin<Box<dyn Future<Output = Option<Target>> + Send + 'a>> {
        let upstream = ["slow.test", "mute.test"].iter().position(|h| *h == host);
        Box::pin(async move {
            Some(Target {
                session: 1,
                upstream: upstream? as u32,
                name: host.into(),
                prefix: "".into(),
                speaks: Speaks::Http1,
                rewrite: None,
            })
        })
    }

    fn open<'a>(&'a self, target: &'a Target, _visitor: Visitor) -> Opening<'a> {
        Box::pin(async move {
            if target.upstream == 0 {
                std::future::pending::<()>().await;
            }
            let (ours, theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut theirs = theirs;
                let mut buf = [0; 64];
                while matches!(theirs.read(&mut buf).await, Ok(n) if n > 0) {}
            });
            Ok(Box::new(ours) as Box<dyn Io>)
        })
    }
}

fn visit() -> DuplexStream {
    let admission = Admission::new();
    let mut view = ViewBuilder::default();
    view.add(List { name: "data".into(), set: set("127.0.0.1"), source: "test".into() });
    admission.publish(view.build(1));
    let plane = HttpPlane::new(Arc::new(Odd), admission, settings(set("")));
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move { serve_connection(&plane, Memory(theirs), "127.0.0.1:1".parse().unwrap()).await });
    ours
}

async fn rest(stream: &mut DuplexStream) -> (String, u64) {
    let from = Instant::now();
    let mut got = String::new();
    stream.read_to_string(&mut got).await.unwrap();
    (got, from.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_hung_up_on() {
    let (got, after) = rest(&mut visit()).await;
    assert_eq!(got, "");
    assert!((29..=31).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_in_has_its_time() {
    let mut visitor = visit();
    let from = Instant::now();
    let head = "GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n";
    let mut sent = 0;
    for b in head.bytes() {
        if visitor.write_all(&[b]).await.is_err() {
            break;
        }
        sent += 1;
        tokio::time::sleep(Duration::from_secs(5)).await;
        if from.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    assert!(sent < head.len(), "it was let go on");
    let (got, _) = rest(&mut visitor).await;
    assert!(got.starts_with("HTTP/1.1 408 "), "{got}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_kept_for_a_while() {
    let mut visitor = visit();
    for _ in 0..3 {
        visitor.write_all(b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await.unwrap();
        let mut buf = vec![0; 4096];
        let n = visitor.read(&mut buf).await.unwrap();
        assert!(buf[..n].starts_with(b"HTTP/1.1 503 "));
        tokio::time::sleep(Duration::from_secs(120)).await;
    }
    let (got, after) = rest(&mut visitor).await;
    assert_eq!(got, "");
    assert!((25..=35).contains(&after), "{after}");
    // The second head has its 30 s like the first, not the time of an idle connection.
    let mut visitor = visit();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await.unwrap();
    let mut buf = vec![0; 4096];
    let _ = visitor.read(&mut buf).await.unwrap();
    visitor.write_all(b"GET / HT").await.unwrap();
    let (got, after) = rest(&mut visitor).await;
    assert!(got.starts_with("HTTP/1.1 408 ") && (29..=34).contains(&after), "{after}: {got}");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_does_not_open_is_a_504() {
    let mut visitor = visit();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: slow.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let (got, after) = rest(&mut visitor).await;
    assert!(got.starts_with("HTTP/1.1 504 ") && got.contains("in time") && !got.contains("slow.test"), "{got}");
    assert!((29..=31).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_long_but_not_for_a_visitor_that_left() {
    let mut visitor = visit();
    visitor.write_all(b"GET / HTTP/1.1\r\nHost: mute.test\r\n\r\n").await.unwrap();
    let mut buf = [0; 16];
    let waited = tokio::time::timeout(Duration::from_secs(3600), visitor.read(&mut buf)).await;
    assert!(waited.is_err(), "an hour without an answer is the upstream's affair");
    visitor.shutdown().await.unwrap();
    let (got, after) = rest(&mut visitor).await;
    assert_eq!(got, "");
    assert!((29..=31).contains(&after), "{after}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_takes_little_memory() {
    let admission = Admission::new();
    let plane = HttpPlane::new(Arc::new(Odd), admission, settings(set("")));
    let (_, theirs) = tokio::io::duplex(1024);
    let serving = serve_connection(&plane, Memory(theirs), "127.0.0.1:1".parse().unwrap());
    let size = size_of_val(&serving);
    assert!(size <= 3 * 1024, "the state of one connection takes {size} bytes");
}
