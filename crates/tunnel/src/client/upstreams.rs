//! The client's upstreams. In: streams of visitors. Out: connections to the upstreams that were named; an edge can
//! name nothing else.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use net::log_budget::LogBudget;
use net::sockets;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};
use tunnel_proto::frame::ResetCode;
use tunnel_proto::upstream::{Place, UpstreamTo};

use super::super::relay::relay;
use super::super::settings::ClientSettings;
use super::super::stream::Stream;

/// The upstreams, by the number that the hello gave them.
pub(super) struct Upstreams {
    list: Vec<Arc<Upstream>>,
    tls: Option<Tls>,
    dials: Semaphore,
}

/// One of them, and how it was when it was last dialled.
pub(super) struct Upstream {
    to: UpstreamTo,
    is_down: AtomicBool,
    lines: LogBudget,
}

/// TLS with `https://` upstreams.
struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

/// Dials at the same time. A burst of visitors fits; an edge that opens streams without end is told to wait.
const DIALS_MAX: usize = 1024;

/// How HTTP/2 with prior knowledge begins (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

impl Upstreams {
    /// # Errors
    /// The file of CAs cannot be read.
    pub(super) fn new(settings: &ClientSettings) -> Result<Upstreams> {
        let list: Vec<_> = settings.upstreams.iter().map(|u| Arc::new(Upstream::new(u.to.clone()))).collect();
        let tls = list.iter().any(|u| u.to.tls).then(|| Tls::new(settings)).transpose()?;
        Ok(Upstreams { list, tls, dials: Semaphore::new(DIALS_MAX) })
    }

    pub(super) fn get(&self, number: u16) -> Option<Arc<Upstream>> {
        self.list.get(usize::from(number)).cloned()
    }

    /// Joins a stream to an upstream; a failure is told to the edge in words, and said here within a budget.
    pub(super) async fn serve(&self, upstream: Arc<Upstream>, mut stream: Stream) {
        let Ok(place) = self.dials.try_acquire() else {
            stream.reset(ResetCode::Busy, "this client is dialling as many upstream connections as it may");
            return;
        };
        // What happens once is boxed: it would stay part of every visitor.
        let reached = Box::pin(self.reach(&upstream, &mut stream)).await;
        drop(place);
        let reached = match reached {
            Ok(reached) => reached,
            Err(why) => {
                upstream.failed(&why);
                stream.reset(ResetCode::Unreachable, &format!("{}: {why}", upstream.to));
                return;
            }
        };
        upstream.answers();
        let moved = match reached {
            Reached::Tcp(socket) => relay(&Arc::new(socket), &mut stream).await,
            Reached::Other(socket) => copy(socket, &mut stream).await,
        };
        if let Err(e) = moved {
            debug!(upstream = %upstream.to, err = %e, "connection failed");
        }
    }

    /// Dials; the error is in words for people.
    async fn reach(&self, upstream: &Upstream, stream: &mut Stream) -> Result<Reached, String> {
        let words = |e: io::Error| e.to_string().split(" (os error").next().unwrap_or_default().to_string();
        let (host, port) = match &upstream.to.at {
            Place::Unix(path) => {
                let socket = within(UnixStream::connect(path)).await.map_err(words)?;
                return Ok(Reached::Other(Box::new(socket)));
            }
            Place::Tcp { host, port } => (host, *port),
        };
        let socket = net::dial::tcp(host, port).await.map_err(words)?;
        sockets::tune(&socket);
        let Some(tls) = self.tls.as_ref().filter(|_| upstream.to.tls) else { return Ok(Reached::Tcp(socket)) };
        let name = match &tls.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.clone()).map_err(|_| format!("`{host}` is no name for TLS"))?,
        };
        // The edge speaks first, and what it speaks must be what the upstream agrees to: a request in another protocol
        // would be read as something else.
        let config = if speaks_http2(stream).await.map_err(words)? { &tls.http2 } else { &tls.http1 };
        let socket = within(tokio_rustls::TlsConnector::from(config.clone()).connect(name, socket))
            .await
            .map_err(|e| tls.why(&e))?;
        if Arc::ptr_eq(config, &tls.http2) && socket.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err("it does not speak HTTP/2, which the visitor's request needs".to_string());
        }
        Ok(Reached::Other(Box::new(socket)))
    }
}

/// A connection to an upstream.
enum Reached {
    Tcp(TcpStream),
    Other(Box<dyn Bytes>),
}

trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

impl Tls {
    fn new(settings: &ClientSettings) -> Result<Tls> {
        let by = &settings.upstream_tls;
        let http1 = if by.insecure { net::tls::unverified()? } else { net::tls::system_roots(by.ca_file.as_deref())? };
        let name = by.server_name.clone().map(ServerName::try_from).transpose()?;
        Ok(Tls { http2: net::tls::with_alpn(&http1, b"h2"), http1, name })
    }

    /// Why a handshake failed, with what can be done about it.
    fn why(&self, e: &io::Error) -> String {
        let words = net::tls::words(e);
        match net::tls::seen_in(e) {
            Some(_) => format!(
                "{words} (--upstream-ca FILE says whom to believe, --upstream-server-name what it is called, --upstream-insecure believes anybody)"
            ),
            None => format!("TLS: {words}"),
        }
    }
}

impl Upstream {
    fn new(to: UpstreamTo) -> Upstream {
        Upstream { to, is_down: AtomicBool::new(false), lines: LogBudget::of(1) }
    }

    /// What it did not do for a visitor is said once a minute, with how often it happened.
    fn failed(&self, why: &str) {
        self.is_down.store(true, Ordering::Relaxed);
        match self.lines.spend(std::time::Instant::now()) {
            Some(0) => warn!(upstream = %self.to, %why, "a visitor could not be served"),
            Some(held_back) => warn!(upstream = %self.to, %why, held_back, "visitors could not be served"),
            None => debug!(upstream = %self.to, %why, "a visitor could not be served"),
        }
    }

    fn answers(&self) {
        if self.is_down.load(Ordering::Relaxed) && self.is_down.swap(false, Ordering::Relaxed) {
            info!(upstream = %self.to, "upstream answers again");
        }
    }
}

/// Whether the edge speaks HTTP/2 on this stream; waits for its first bytes and leaves them there.
async fn speaks_http2(stream: &mut Stream) -> io::Result<bool> {
    poll_fn(|cx| {
        stream.rx.poll_data(cx).map_ok(|first| {
            let n = first.len().min(HTTP2_PREFACE.len());
            n > 0 && first[..n] == HTTP2_PREFACE[..n]
        })
    })
    .await
}

async fn within<T>(dial: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(net::dial::DIAL_TIMEOUT, dial)
        .await
        .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s")))
}

async fn copy(mut upstream: Box<dyn Bytes>, stream: &mut Stream) -> io::Result<()> {
    if let Err(e) = tokio::io::copy_bidirectional(stream, &mut upstream).await {
        stream.reset(ResetCode::Broken, "");
        return Err(e);
    }
    stream.shutdown().await
}
