//! The edge: the public side. In: clients on the control plane, visitors on the data plane. Out: each visitor on a
//! stream to a client that publishes what it asked for, if its address may pass.

mod control;
mod ports;
mod routes;
mod sessions;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use model::Addr;
use net::sockets;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};
use wire::connect::Fingerprint;

use self::routes::Table;
use super::http::{HttpPlane, HttpSettings};
use super::settings::{EdgeSettings, EdgeTls};
use crate::door::{Door, Doors};
use crate::run::Run;

/// A running edge.
#[derive(Clone)]
pub struct EdgeHandle {
    edge: Arc<Edge>,
    /// Where clients connect.
    pub control_addr: SocketAddr,
    /// Where HTTP visitors connect.
    pub http_addr: Option<SocketAddr>,
    /// What clients pin: the edge's own CA, or the last certificate of a chain that systems do not trust.
    pub fingerprint: Option<Fingerprint>,
}

/// What all tasks of an edge share.
pub(super) struct Edge {
    settings: EdgeSettings,
    doors: Arc<Doors>,
    control_door: Door,
    http_addr: Option<SocketAddr>,
    run: Run,
    tls: Option<parking_lot::RwLock<Arc<ServerConfig>>>,
    table: Arc<Table>,
    ports: ports::Ports,
    visitors: Arc<Semaphore>,
    wrong_tokens: Semaphore,
    plane: std::sync::OnceLock<Arc<HttpPlane<web::Web>>>,
    since: SystemTime,
    stats: Stats,
}

/// Counters for `/metrics`.
#[derive(Default)]
struct Stats {
    tcp_visitors: AtomicU64,
    tcp_refused: AtomicU64,
    control_requests: AtomicU64,
    control_refused: AtomicU64,
    tokens_refused: AtomicU64,
    sessions: AtomicU64,
}

/// How long visitors and clients that accept cannot serve may hold up the accept loop when the process is out of
/// descriptors: long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Starts an edge: everything is bound when this returns.
///
/// # Errors
/// A certificate cannot be made or read, an address cannot be bound.
pub async fn start(settings: EdgeSettings, doors: Arc<Doors>, run: &Run) -> Result<EdgeHandle> {
    let (tls, fingerprint) = load_tls(&settings.tls)?;
    let control = sockets::listen(settings.control).with_context(|| {
        format!("cannot listen on {} for clients (--control-addr, --control-port)", settings.control)
    })?;
    let control_addr = control.local_addr()?;
    let http = match settings.http {
        None => None,
        Some(addr) => Some(
            sockets::listen(addr)
                .with_context(|| format!("cannot listen on {addr} for visitors (--data-addr, --port)"))?,
        ),
    };
    let http_addr = http.as_ref().map(tokio::net::TcpListener::local_addr).transpose()?;
    let edge = Arc::new(Edge {
        control_door: doors.door(&["control"]),
        http_addr,
        table: Table::new(settings.grace),
        ports: ports::Ports::default(),
        visitors: Arc::new(Semaphore::new(settings.max_visitors)),
        wrong_tokens: Semaphore::new(control::WRONG_TOKENS_WAIT),
        plane: std::sync::OnceLock::new(),
        tls: tls.map(parking_lot::RwLock::new),
        run: run.clone(),
        since: SystemTime::now(),
        stats: Stats::default(),
        settings,
        doors,
    });
    let web = Arc::new(web::Web::new(edge.clone()));
    let plane = HttpPlane::new(
        web,
        edge.doors.clone(),
        HttpSettings { trusted_proxies: edge.settings.trusted_proxies.clone() },
    );
    let _ = edge.plane.set(plane.clone());
    run.spawn("control plane", control::accept(edge.clone(), control));
    if let Some(listener) = http {
        run.spawn("http plane", web::accept(edge.clone(), plane, listener));
    }
    run.spawn("routes", routes::keep(edge.clone()));
    edge.reload_certificate();
    Ok(EdgeHandle { edge, control_addr, http_addr, fingerprint })
}

impl EdgeHandle {
    /// Who is connected and what is published, in the form of `/status`.
    #[must_use]
    pub fn status(&self) -> Value {
        self.edge.status()
    }

    /// Ends when a client publishes something; for the demo and for tests.
    pub async fn published(&self) {
        let mut routes = self.edge.table.watch();
        while self.edge.table.sessions().is_empty() {
            if routes.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Edge {
    fn status(&self) -> Value {
        let clients: Vec<Value> = self.table.sessions().iter().map(|s| s.status()).collect();
        let http = self.settings.http.is_some();
        let mode = match (http, self.settings.tcp.is_some()) {
            (true, true) => "http,tcp",
            (true, false) => "http",
            _ => "tcp",
        };
        json!({
            "info": {
                "version": env!("CARGO_PKG_VERSION"),
                "sha": option_env!("PORTCULLIS_SHA").unwrap_or(""),
                "mode": mode,
                "startTime": rfc3339(self.since),
                "hostname": hostname(),
            },
            "clients": clients,
            "listGeneration": self.doors.view().generation,
            "visitors": self.doors.inside(),
        })
    }

    fn metrics(&self) -> String {
        use std::fmt::Write as _;
        let mut out = String::new();
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let mut one = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let sessions = self.table.sessions();
        one("controlplane_connected_gauge", "gauge", "Clients connected now.", sessions.len() as u64);
        one("controlplane_sessions_total", "counter", "Sessions since the start.", get(&self.stats.sessions));
        one(
            "controlplane_requests_total",
            "counter",
            "Connections to the control plane.",
            get(&self.stats.control_requests),
        );
        one(
            "controlplane_refused_total",
            "counter",
            "Connections to the control plane refused by address.",
            get(&self.stats.control_refused),
        );
        one(
            "controlplane_token_refused_total",
            "counter",
            "Requests with a wrong or no token.",
            get(&self.stats.tokens_refused),
        );
        one("tcp_dataplane_connections_total", "counter", "Visitors of TCP ports.", get(&self.stats.tcp_visitors));
        one(
            "tcp_dataplane_refused_total",
            "counter",
            "Visitors of TCP ports refused by address.",
            get(&self.stats.tcp_refused),
        );
        one(
            "visitors_inside_gauge",
            "gauge",
            "Connections that passed a door and are open now.",
            self.doors.inside() as u64,
        );
        one(
            "streams_gauge",
            "gauge",
            "Streams to clients open now.",
            sessions.iter().map(|s| s.streams() as u64).sum(),
        );
        if let Some(plane) = self.plane.get() {
            plane.stats().prometheus(&mut out);
        }
        out
    }

    /// A given certificate is read again on reload; a bad one changes nothing.
    fn reload_certificate(self: &Arc<Edge>) {
        let EdgeTls::Own { cert, key } = self.settings.tls.clone() else { return };
        let weak = Arc::downgrade(self);
        self.run.on_reload("certificate", move || {
            let (cert, key, weak) = (cert.clone(), key.clone(), weak.clone());
            Box::pin(async move {
                let config = net::tls::own_certificate(&cert, &key)?;
                if let Some(slot) = weak.upgrade().as_ref().and_then(|e| e.tls.as_ref()) {
                    *slot.write() = config;
                }
                Ok(format!("{} read again", cert.display()))
            })
        });
    }

    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(|t| t.read().clone())
    }

    /// True if this peer is a balancer that sends PROXY lines. Without a list of trusted proxies balancers are
    /// believed on private addresses only: nobody can claim another address from the internet.
    fn balances(&self, peer: SocketAddr) -> bool {
        let trusted = &self.settings.trusted_proxies;
        let believed = if trusted.is_empty() { Addr::of(peer).is_private() } else { self.trusts(peer) };
        self.settings.lb_proxy_protocol.is_some() && believed
    }

    /// True if this peer's word about the visitor's address counts.
    fn trusts(&self, peer: SocketAddr) -> bool {
        self.settings.trusted_proxies.contains(Addr::of(peer))
    }
}

fn load_tls(tls: &EdgeTls) -> Result<(Option<Arc<ServerConfig>>, Option<Fingerprint>)> {
    Ok(match tls {
        EdgeTls::Off => (None, None),
        EdgeTls::Auto { sans, dir } => {
            let (config, digest) = net::tls::own_ca(dir, sans)?;
            (Some(config), Some(Fingerprint(digest)))
        }
        EdgeTls::Own { cert, key } => {
            let config = net::tls::own_certificate(cert, key)?;
            (Some(config), net::tls::pin_of(cert)?.map(Fingerprint))
        }
    })
}

/// What an accept loop does with an error: nothing is lost by going on.
async fn accept_failed(what: &str, e: &std::io::Error) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
        debug!("{what}: a connection went away before it was accepted");
        return;
    }
    warn!("{what}: cannot accept: {e}; is the limit of open files (ulimit -n) reached?");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn hostname() -> String {
    String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned()
}

/// UTC in RFC 3339, whole seconds. Civil-from-days after Howard Hinnant's published algorithm.
pub(crate) fn rfc3339(t: SystemTime) -> String {
    let secs = t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (secs / 86_400, secs % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + u64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn log_refused(plane: &str, words: &str) {
    info!("{plane}: {words}");
}
