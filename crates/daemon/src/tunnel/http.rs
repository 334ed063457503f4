//! The HTTP plane of the edge. In: connections that passed a door. Out: requests on streams to the right client.
//! It knows nothing of sessions: a [`Router`] finds the target and opens the stream.
//!
//! HTTP/1.x is read and written here, head by head, with bodies passed on as they come (`head`, `chunked`, `pump`,
//! `exchange`, `serve`); HTTP/2 with prior knowledge is hyper's (`h2`).

mod chunked;
mod exchange;
mod forwarded;
mod h2;
mod head;
mod page;
mod pool;
mod pump;
mod serve;
mod stats;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use model::{Addr, AddrSet};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use self::pool::{Pool, Upstream};
use self::pump::Side;
use self::serve::Conn;
use self::stats::Counted;
pub use self::stats::HttpStats;
use crate::door::{Doors, Pass};

/// A byte stream to an upstream, whatever carries it.
///
/// `poll_shutdown` says that nothing more comes from us and leaves the other direction open. Dropping it without that
/// aborts: the upstream must not take what it got for complete. Reading 0 bytes means that the upstream ended in
/// order; whatever broke is an error.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A visitor's stream.
pub trait VisitorIo: Io + 'static {
    /// Makes the following drop an abort: what was not delivered yet is thrown away and the visitor sees a broken
    /// connection, not the end of an answer.
    fn reset(&mut self);
}

impl VisitorIo for TcpStream {
    fn reset(&mut self) {
        let _ = self.set_zero_linger();
    }
}

/// Where a request goes: equal targets share a pool of idle upstream connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// The session that serves it, unique in this process.
    pub session: u64,
    /// Which of the session's upstreams.
    pub upstream: u32,
    /// What a person calls it: `http://127.0.0.1:3000 at laptop-1`.
    pub name: Arc<str>,
    /// The path prefix that matched, for the log; empty for none. Not stripped.
    pub prefix: Arc<str>,
}

/// Who the request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The visitor's address, as judged at the door.
    pub addr: Addr,
    /// The socket's peer: the visitor or the proxy in front.
    pub peer: SocketAddr,
}

/// What opening a stream comes to.
pub type Opening<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send + 'a>>;

/// Finds targets and opens streams; the sessions of the edge, or a fixed upstream in tests.
pub trait Router: Send + Sync + 'static {
    /// The target for a host (lower case, without port and final dot; IPv6 without brackets; empty if the visitor named
    /// none) and a path without query; waits a while for a client that is reconnecting.
    fn route<'a>(&'a self, host: &'a str, path: &'a str) -> Pin<Box<dyn Future<Output = Option<Target>> + Send + 'a>>;

    /// Opens a stream to the target's upstream. `ConnectionRefused` and friends carry the client's words.
    fn open<'a>(&'a self, target: &'a Target, visitor: Visitor) -> Opening<'a>;
}

/// What the HTTP plane needs to know.
#[derive(Debug, Clone)]
pub struct HttpSettings {
    /// Proxies whose `X-Forwarded-For` and `Forwarded` are believed.
    pub trusted_proxies: AddrSet,
}

/// The HTTP plane: one for each edge, shared by all connections.
pub struct HttpPlane<R> {
    router: Arc<R>,
    doors: Arc<Doors>,
    trusted: RwLock<Arc<AddrSet>>,
    h1: Arc<Pool<Upstream>>,
    h2: h2::Pools,
    stats: HttpStats,
    drain: CancellationToken,
}

impl<R: Router> HttpPlane<R> {
    /// A plane that serves nobody yet.
    #[must_use]
    pub fn new(router: Arc<R>, doors: Arc<Doors>, settings: HttpSettings) -> Arc<HttpPlane<R>> {
        Arc::new(HttpPlane {
            router,
            doors,
            trusted: RwLock::new(Arc::new(settings.trusted_proxies)),
            h1: Pool::new(),
            h2: h2::Pools::new(),
            stats: HttpStats::default(),
            drain: CancellationToken::new(),
        })
    }

    /// Replaces the trusted proxies, for connections that come from now on.
    pub fn trust(&self, proxies: AddrSet) {
        *self.trusted.write() = Arc::new(proxies);
    }

    /// Ends idle connections now and busy ones after their request.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Lets go of the idle streams of a session that ended.
    pub fn forget(&self, session: u64) {
        self.h1.forget(session);
        self.h2.forget(session);
    }

    /// What is counted.
    pub fn stats(&self) -> &HttpStats {
        &self.stats
    }

    fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Lets a visitor in to a host: the host's own list decides if there is one, else the list `data`.
    fn admit(&self, host: &str, addr: Addr) -> Option<Pass> {
        self.doors.door(&[&format!("host:{host}"), DATA]).admit(addr).ok()
    }

    /// Lets a visitor in whom at least one list of this plane knows: before its request is read nobody can say which
    /// host it wants.
    fn admit_anywhere(&self, addr: Addr) -> Option<Pass> {
        if let Ok(pass) = self.doors.door(&[DATA]).admit(addr) {
            return Some(pass);
        }
        let view = self.doors.view();
        let hosts = view.lists().iter().filter(|l| l.name.starts_with("host:") && l.set.contains(addr));
        hosts.into_iter().find_map(|l| self.doors.door(&[&l.name]).admit(addr).ok())
    }

    /// Ends when no list of this plane knows the visitor any more.
    async fn refused(&self, mut pass: Pass) {
        loop {
            pass.cut().await;
            match self.admit_anywhere(pass.addr()) {
                Some(other) => pass = other,
                None => return,
            }
        }
    }
}

/// The list that guards the data plane where no host has its own.
const DATA: &str = "data";

/// Serves one connection until it ends. `peer` is the visitor, or the proxy in front; a PROXY line has been taken off
/// and `peer` is whom it named. A visitor that no list knows is hung up on before a byte is read or written.
pub async fn serve_connection<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr) {
    let trusted = plane.trusted.read().clone();
    serve(plane, stream, peer, trusted).await;
}

/// The same for a peer that speaks for itself only: no header of it names a visitor, trusted or not.
pub async fn serve_as_peer<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr) {
    serve(plane, stream, peer, Arc::default()).await;
}

async fn serve<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr, trusted: Arc<AddrSet>) {
    let addr = Addr::of(peer);
    let guard = if trusted.contains(addr) {
        // A trusted proxy is judged request by request, by the visitor that it names.
        None
    } else {
        let Some(pass) = plane.admit_anywhere(addr) else {
            plane.stats.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, "refused at the door");
            return;
        };
        Some(pass)
    };
    let _open = Counted::new(&plane.stats.connections);
    let mut conn = Conn::new(plane, stream, peer, trusted.clone());
    let mut refused = std::pin::pin!(async {
        match guard {
            Some(pass) => plane.refused(pass).await,
            None => std::future::pending().await,
        }
    });
    let end = tokio::select! {
        biased;
        () = &mut refused => End::Cut,
        end = conn.run() => end,
    };
    let end = match end {
        End::Over => return,
        End::Cut => {
            conn.side.io.reset();
            End::Cut
        }
        End::H2 => {
            let reset = Arc::new(AtomicBool::new(false));
            let Side { io, inbuf, .. } = conn.side;
            let mut serving = Box::pin(h2::serve(plane, h2::Rewound::new(io, inbuf, reset.clone()), peer, trusted));
            tokio::select! {
                biased;
                () = &mut refused => {
                    reset.store(true, Ordering::Release);
                    End::Cut
                }
                () = &mut serving => End::Over,
            }
        }
    };
    if end == End::Cut {
        plane.stats.cut.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, "cut: no longer allowed");
    }
}

/// How a connection left HTTP/1.x.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It is over.
    Over,
    /// It is HTTP/2.
    H2,
    /// The visitor is no longer allowed.
    Cut,
}
