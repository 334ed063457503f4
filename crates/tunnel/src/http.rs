//! The HTTP plane of the edge. In: connections that were admitted. Out: requests on streams to the right client.
//! It knows nothing of sessions: a [`Router`] finds the target and opens the stream.
//!
//! What heads and bodies mean is `tunnel_proto::http1`'s; here they move. HTTP/1.x is read and written head by head, with
//! bodies passed on as they come (`pump`, `exchange`, `serve`); HTTP/2 with prior knowledge is hyper's (`h2`).

mod exchange;
mod h2;
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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use std::time::{Duration, Instant};

use access::{Refusal, Service};
use addr::{Addr, SourceKey};
use net::budget::{Budget, Charge};
use net::log_budget::LogBudget;
use net::stall::{Unacknowledged, WriteStall};
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tunnel_proto::hello::Rewrite;
use tunnel_proto::http1::forwarded::Trust;

use self::pool::{Pool, Upstream};
use self::pump::Side;
use self::serve::Conn;
use self::stats::Counted;
pub use self::stats::HttpStats;
#[cfg(test)]
pub(crate) use self::stats::METRICS as HTTP_METRICS;
use runtime::admission::{Admission, ConnectionGuard};

/// A byte stream to an upstream, whatever carries it.
///
/// `poll_shutdown` says that nothing more comes from us and leaves the other direction open. Dropping it without that
/// aborts: the upstream must not take what it got for complete. Reading 0 bytes means that the upstream ended in
/// order; whatever broke is an error.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A visitor's stream.
pub trait VisitorIo: Io + Unacknowledged + 'static {
    /// Makes the following drop an abort: what was not delivered yet is thrown away and the visitor sees a broken
    /// connection, not the end of an answer.
    fn reset(&mut self);
}

impl VisitorIo for TcpStream {
    fn reset(&mut self) {
        let _ = self.set_zero_linger();
    }
}

impl<S: VisitorIo> VisitorIo for WriteStall<S> {
    fn reset(&mut self) {
        self.get_mut().reset();
    }
}

/// Where a request goes: equal targets share a pool of idle upstream connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The session that serves it, unique in this process.
    pub session: u64,
    /// Which of the session's upstreams.
    pub upstream: u32,
    /// What a person calls it: `http://127.0.0.1:3000 at laptop-1`.
    pub name: Arc<str>,
    /// The path prefix that matched, for the log; empty for none. Not stripped.
    pub prefix: Arc<str>,
    /// What is spoken to it; the client said so.
    pub speaks: Speaks,
    /// What is changed in heads on their way to it and back.
    pub rewrite: Option<Arc<Rewrite>>,
}

/// Which HTTP an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Speaks {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 and nothing else.
    Http2,
    /// Its client settles it by ALPN: no upstream gets bytes of a version that it did not agree to.
    Either,
}

/// Who the request comes from.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The visitor's address, as judged at admission.
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
    /// Who speaks for visitors.
    pub trust: Trust,
    /// How long a visitor may take nothing of its answer before the answer is ended.
    pub stall: Duration,
}

/// The HTTP plane: one for each edge, shared by all connections.
pub struct HttpPlane<R> {
    router: Arc<R>,
    admission: Arc<Admission>,
    trust: RwLock<Arc<Trust>>,
    stall: RwLock<Duration>,
    heads: Arc<Budget>,
    unheard: LogBudget,
    refusals: LogBudget,
    faults: LogBudget,
    /// Most connections that were open since memory was last given back.
    crest: AtomicU64,
    h1: Arc<Pool<Upstream>>,
    h2: h2::Pools,
    stats: HttpStats,
    drain: CancellationToken,
}

impl<R: Router> HttpPlane<R> {
    /// A plane that serves nobody yet.
    #[must_use]
    pub fn new(router: Arc<R>, admission: Arc<Admission>, settings: HttpSettings) -> Arc<HttpPlane<R>> {
        Arc::new(HttpPlane {
            router,
            admission,
            trust: RwLock::new(Arc::new(settings.trust)),
            stall: RwLock::new(settings.stall),
            heads: Budget::new(HEADS_IN_ALL, HEADS_PER_SOURCE),
            unheard: LogBudget::of(1),
            refusals: LogBudget::of(1),
            faults: LogBudget::default(),
            crest: AtomicU64::new(0),
            h1: Pool::new(),
            h2: h2::Pools::new(),
            stats: HttpStats::default(),
            drain: CancellationToken::new(),
        })
    }

    /// Other settings, for connections that come from now on.
    pub fn retell(&self, trust: Trust, stall: Duration) {
        *self.trust.write() = Arc::new(trust);
        *self.stall.write() = stall;
    }

    fn stall(&self) -> Duration {
        *self.stall.read()
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

    /// Gives memory back to the system once most of a crowd has left.
    pub async fn tidy(&self) {
        /// A smaller crowd leaves nothing behind that is worth a walk through all memory.
        const TRIM_THRESHOLD: u64 = 64;
        let now = self.stats.connections.load(Ordering::Relaxed);
        let crest = self.crest.load(Ordering::Relaxed);
        if crest >= TRIM_THRESHOLD && now <= crest / 4 {
            self.crest.store(now, Ordering::Relaxed);
            let _ = tokio::task::spawn_blocking(net::memory::give_back).await;
        }
    }

    fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Lets a visitor in to a host: the host's own list decides if there is one, else the list `data`.
    fn admit(&self, host: &str, addr: Addr) -> Result<ConnectionGuard, Refusal> {
        self.admission.guard(Service::Host(host.to_string())).admit(addr)
    }

    /// Lets a visitor in whom at least one list of this plane knows: before its request is read nobody can say which
    /// host it wants.
    fn admit_anywhere(&self, addr: Addr) -> Result<ConnectionGuard, Refusal> {
        let refusal = match self.admission.guard(Service::Data).admit(addr) {
            Ok(pass) => return Ok(pass),
            Err(refusal) => refusal,
        };
        let view = self.admission.view();
        let hosts = view.guarded().filter(|(s, l)| matches!(s, Service::Host(_)) && l.set.contains(addr));
        let pass = hosts.into_iter().find_map(|(host, _)| self.admission.guard(host.clone()).admit(addr).ok());
        pass.ok_or(refusal)
    }

    /// Counts a refused visitor and logs why, within the budget of such lines.
    fn note_refusal(&self, refusal: &Refusal) {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(held_back) = self.refusals.spend(Instant::now()) {
            tracing::info!(peer = %refusal.addr, service = %refusal.service, held_back, "visitor refused: {refusal}");
        }
    }

    /// An empty charge for heads from this peer; a trusted proxy stands for many sources.
    fn charge(&self, peer: SocketAddr, trust: &Trust) -> Charge {
        let addr = Addr::of(peer);
        self.heads.charge((!trust.proxies.contains(addr)).then(|| SourceKey::of(addr)))
    }

    /// Says that a proxy on this machine or network is not believed: to forget `--trusted-proxies` looks like a fault of
    /// the service behind.
    fn not_heard(&self, peer: SocketAddr, trust: &Trust) {
        if self.unheard.spend(Instant::now()).is_some() {
            let (addr, name) = (Addr::of(peer), trust.header.name());
            tracing::warn!(
                plane = "http",
                peer = %addr,
                "{addr} names a visitor in {name}, and is not believed: it is judged as the visitor itself. \
                 If it is your proxy, say `--trusted-proxies {addr}`"
            );
        }
    }

    /// Says what is wrong with an upstream to whoever runs this, in words that are no business of a visitor.
    fn fault(&self, target: &Target, visitor: Addr, why: &str) {
        if let Some(held_back) = self.faults.spend(Instant::now()) {
            // The client's words, which may be anything.
            let why: String = why.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect();
            let held_back = (held_back > 0).then_some(held_back);
            tracing::warn!(plane = "http", upstream = %target.name, %visitor, why, held_back, "upstream failed a visitor");
        }
    }

    /// Ends when no list of this plane knows the visitor any more.
    async fn refused(&self, mut pass: ConnectionGuard) {
        loop {
            pass.cut().await;
            match self.admit_anywhere(pass.addr()) {
                Ok(other) => pass = other,
                Err(_) => return,
            }
        }
    }
}

/// Memory for heads of all visitors at once, in bytes: an edge that holds so much is not filled by honest ones, whose
/// heads take 1 or 2 KiB for the time of a request.
const HEADS_IN_ALL: usize = 96 * 1024 * 1024;

/// The same for one source: 64 heads of the largest size, or thousands of common ones.
const HEADS_PER_SOURCE: usize = 8 * 1024 * 1024;

/// Serves one connection until it ends. `peer` is the visitor, or the proxy in front; a PROXY line has been taken off
/// and `peer` is whom it named. A visitor that no list knows is hung up on before a byte is read or written.
pub async fn serve_connection<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr) {
    let trust = plane.trust.read().clone();
    serve(plane, stream, peer, trust).await;
}

/// The same for a peer that speaks for itself only: no header of it names a visitor, trusted or not.
pub async fn serve_as_peer<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr) {
    serve(plane, stream, peer, Arc::default()).await;
}

async fn serve<R: Router, S: VisitorIo>(plane: &Arc<HttpPlane<R>>, stream: S, peer: SocketAddr, trust: Arc<Trust>) {
    let addr = Addr::of(peer);
    let guard = if trust.proxies.contains(addr) {
        // A trusted proxy is judged request by request, by the visitor that it names.
        None
    } else {
        match plane.admit_anywhere(addr) {
            Ok(pass) => Some(pass),
            Err(refusal) => return plane.note_refusal(&refusal),
        }
    };
    let _open = Counted::new(&plane.stats.connections);
    plane.crest.fetch_max(plane.stats.connections.load(Ordering::Relaxed), Ordering::Relaxed);
    let stream = WriteStall::new(stream, plane.stall());
    let mut conn = Conn::new(plane, stream, peer, trust.clone());
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
            let mut serving = Box::pin(h2::serve(plane, h2::Rewound::new(io, inbuf, reset.clone()), peer, trust));
            tokio::select! {
                biased;
                () = &mut refused => {
                    reset.store(true, Ordering::Release);
                    End::Cut
                }
                over = &mut serving => {
                // A visitor that takes nothing gets no end in order: nobody waits for it to read one.
                reset.store(over == h2::Over::Stalled, Ordering::Release);
                End::Over
            }
            }
        }
    };
    if end == End::Cut {
        plane.stats.cut.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%peer, why = "no longer allowed", "connection cut");
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
