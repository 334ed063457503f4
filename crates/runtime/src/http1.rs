//! HTTP/1.1 for what the program serves itself: control, gate, files, metrics. In: a connection, its limits, and what
//! answers its requests. Out: its end. A run that stops lets the request under way finish and closes then.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::http1::{Builder, Connection, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

/// What a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a request's head may take, and a connection may wait for its next one.
    pub head: Duration,
    /// Bytes of a head, and of an answer that waits for a slow reader.
    pub buffer: usize,
    /// Another request may follow.
    pub keep_alive: bool,
}

/// The settings of a server.
#[must_use]
pub fn builder(limits: Limits) -> Builder {
    let mut http = Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.buffer)
        .keep_alive(limits.keep_alive);
    http
}

type Boxed = Box<dyn Error + Send + Sync>;

/// A connection of `hyper`, which can be told to end with the request under way.
pub trait Graceful: Future<Output = hyper::Result<()>> {
    /// Tells it.
    fn finish(self: Pin<&mut Self>);
}

impl<I, S, B> Graceful for Connection<I, S>
where
    I: Read + Write + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Boxed>,
    B: Body + 'static,
    B::Error: Into<Boxed>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B> Graceful for UpgradeableConnection<I, S>
where
    I: Read + Write + Unpin + Send + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Boxed>,
    B: Body + 'static,
    B::Error: Into<Boxed>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// Serves a connection until its end, upgrades included.
///
/// # Errors
/// The connection broke, or what came is no HTTP/1.1.
pub async fn serve<I, F, B>(
    io: I,
    limits: Limits,
    stopping: impl Future<Output = ()>,
    answer: impl Fn(Request<Incoming>) -> F,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Response<B>>,
    B: Body + 'static,
    B::Error: Into<Boxed>,
{
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let connection = builder(limits).serve_connection(TokioIo::new(io), service).with_upgrades();
    drive(pin!(connection), stopping).await
}

/// Drives a connection of any sort to its end; once the run stops, to the end of the request under way.
///
/// # Errors
/// As [`serve`].
pub async fn drive(mut connection: Pin<&mut impl Graceful>, stopping: impl Future<Output = ()>) -> hyper::Result<()> {
    tokio::select! {
        biased;
        end = connection.as_mut() => return end,
        () = stopping => {}
    }
    connection.as_mut().finish();
    connection.await
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::StatusCode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::answer;

    const LIMITS: Limits = Limits { head: Duration::from_millis(200), buffer: 8192, keep_alive: true };

    /// Serves one connection: every path is answered with itself, `/slow` a moment later.
    fn start(
        limits: Limits,
    ) -> (tokio::io::DuplexStream, CancellationToken, tokio::task::JoinHandle<hyper::Result<()>>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let stop = CancellationToken::new();
        let stopping = stop.clone().cancelled_owned();
        let served = tokio::spawn(async move {
            serve(far, limits, stopping, |request: Request<Incoming>| async move {
                let path = request.uri().path().to_string();
                if path == "/slow" {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                answer::text(StatusCode::OK, path)
            })
            .await
        });
        (near, stop, served)
    }

    async fn rest(io: &mut tokio::io::DuplexStream) -> String {
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        String::from_utf8(all).unwrap()
    }

    #[tokio::test]
    async fn a_head_answer_has_its_length_and_no_body() {
        let (mut io, _stop, served) = start(LIMITS);
        io.write_all(b"HEAD /abc HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let got = rest(&mut io).await;
        assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.contains("content-length: 4\r\n"), "{got}");
        assert!(got.contains("cache-control: no-store\r\n") && got.ends_with("\r\n\r\n"), "{got}");
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_request_under_way_is_finished_when_the_run_stops() {
        let (mut io, stop, served) = start(LIMITS);
        io.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        stop.cancel();
        let got = rest(&mut io).await;
        assert!(got.ends_with("/slow") && got.contains("connection: close"), "{got}");
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_idle_connection_ends_with_its_time_and_with_the_run() {
        let (mut io, _stop, served) = start(LIMITS);
        let begun = Instant::now();
        rest(&mut io).await;
        assert!(begun.elapsed() >= LIMITS.head);
        let _ = served.await.unwrap();
        let (mut io, stop, served) = start(Limits { head: Duration::from_secs(600), ..LIMITS });
        stop.cancel();
        assert_eq!(rest(&mut io).await, "");
        served.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let (mut io, _stop, served) = start(LIMITS);
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(2 * LIMITS.buffer));
        io.write_all(long.as_bytes()).await.unwrap();
        assert!(rest(&mut io).await.starts_with("HTTP/1.1 431 "));
        assert!(served.await.unwrap().is_err());
    }
}
