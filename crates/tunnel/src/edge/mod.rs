//! The edge: the public side. In: clients on the control plane, visitors on the data plane. Out: each visitor on a
//! stream to a client that publishes what it asked for, if its address may pass.

mod control;
mod doctor;
mod metrics;
mod owners;
mod pool;
mod ports;
mod reload;
mod routes;
mod sessions;
mod tokens;
mod web;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use access::Service;
use addr::{Addr, Timestamp};
use anyhow::Result;
use api::{EdgeInfo, EdgeStatus};
use net::guesses::Guesses;
use net::log_budget::LogBudget;
use net::serve::{Limits, Listener, Slots};
use net::sockets;
use net::tls::Vouched;
use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tunnel_proto::connect::Fingerprint;
use tunnel_proto::http1::forwarded::Trust;

pub use self::doctor::{Wrong, doctor};
pub use self::reload::Prepared;
use self::routes::Table;
use self::tokens::Tokens;
use super::http::{HttpPlane, HttpSettings};
use super::settings::{EdgeSettings, EdgeTls};
use runtime::admission::{AccessGuard, Admission};
use runtime::hint::Hinted;
use runtime::run::Run;

/// A running edge.
#[derive(Clone)]
pub struct EdgeHandle {
    edge: Arc<Edge>,
    /// Where clients connected at the start.
    pub control_addr: SocketAddr,
    /// Where HTTP visitors connected at the start.
    pub http_addr: Option<SocketAddr>,
    /// What clients pin: the edge's own CA, or the root in the file of a given certificate.
    pub fingerprint: Option<Fingerprint>,
    /// The name in a given certificate.
    pub name: Option<String>,
    /// The root of a given certificate's CA is known neither to this system nor from its file: clients need it.
    pub needs_root: bool,
}

/// What all tasks of an edge share.
pub(super) struct Edge {
    /// The settings in force.
    settings: watch::Sender<Arc<EdgeSettings>>,
    admission: Arc<Admission>,
    control_door: AccessGuard,
    planes: Mutex<Planes>,
    run: Run,
    tls: RwLock<Option<Arc<ServerConfig>>>,
    /// What its given certificate is.
    certificate: Mutex<String>,
    table: Arc<Table>,
    ports: ports::Ports,
    /// Visitors of all planes.
    visitors: Arc<Slots>,
    /// Clients and people that have not proved a token yet.
    handshakes: Arc<Slots>,
    guesses: Guesses,
    lines: Lines,
    /// The tokens in force.
    tokens: RwLock<Arc<Tokens>>,
    /// A proxy that is not named; it is told of once.
    unnamed: Mutex<Option<Addr>>,
    plane: std::sync::OnceLock<Arc<HttpPlane<web::Web>>>,
    since: Timestamp,
    stats: Stats,
}

/// Where the planes listen.
#[derive(Default)]
struct Planes {
    control: Place,
    http: Place,
}

/// A listener that may be replaced.
#[derive(Default)]
struct Place {
    at: Option<SocketAddr>,
    close: CancellationToken,
}

impl Place {
    /// The listener before is closed; what is returned closes this one.
    fn replace(&mut self, listener: &Listener) -> CancellationToken {
        self.close();
        self.at = listener.local_addr().ok();
        self.close = CancellationToken::new();
        self.close.clone()
    }

    fn close(&mut self) {
        self.close.cancel();
        self.at = None;
    }
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

/// What untrusted peers can make an edge say, each kind within a budget; the rest is told at DEBUG, and counted.
#[derive(Default)]
struct Lines {
    control_refused: LogBudget,
    control_full: LogBudget,
    visitor_refused: LogBudget,
    visitors_full: LogBudget,
    wrong_token: LogBudget,
    bad_proxy_line: LogBudget,
}

/// Open files that are kept from visitors, for links of clients, lists and the admin socket; of a small limit a quarter.
pub const FILES_KEPT: usize = 4_096;

/// Of so many files, those that visitors do not get.
fn files_kept(files: usize) -> usize {
    (files / 4).min(FILES_KEPT)
}

/// Visitors as far as there are files for them.
fn visitors_max(wanted: usize, files: usize) -> usize {
    let room = files - files_kept(files);
    if room < wanted {
        info!(
            visitors = room,
            files, "fewer visitors at once than wanted: raise the limit of open files (ulimit -n, LimitNOFILE)"
        );
    }
    wanted.min(room).max(1)
}

/// Handshakes of clients at the same time. Each may hold some 100 KiB; more than 512 is a flood, and more than half of
/// the files that are kept would take those of lists and of clients that are in. One source has an eighth: a client dials
/// up to 16 carriers and some bulk links at once. A quarter is for sources that proved a token before: untrusted peers of
/// however many sources lock out no client that was here.
fn handshakes(files: usize) -> Limits {
    let total = (files_kept(files) / 2).clamp(8, 512);
    Limits { total, per_source: (total / 8).max(8), reserve: total / 4 }
}

/// Starts an edge: everything is bound when this returns.
///
/// # Errors
/// A certificate cannot be made or read, an address cannot be bound.
pub async fn start(settings: EdgeSettings, admission: Arc<Admission>, run: &Run) -> Result<EdgeHandle> {
    let Loaded { tls, fingerprint, name, needs_root, digest } = load_tls(&settings.tls)?;
    let control = listen("control plane", settings.control, "clients (--control-addr, --control-port)")?;
    let control_addr = control.local_addr()?;
    let http = match settings.http {
        None => None,
        Some(addr) => Some(listen("http plane", addr, "visitors (--data-addr, --port)")?),
    };
    let http_addr = http.as_ref().map(Listener::local_addr).transpose()?;
    let (tokens, _) = Tokens::none().next(&settings.tokens, &admission);
    let settings = Arc::new(settings);
    let edge = Arc::new(Edge {
        control_door: admission.guard(Service::Control),
        planes: Mutex::default(),
        table: Table::new(settings.grace),
        ports: ports::Ports::default(),
        visitors: Slots::new(reload::visitor_limits(&settings)),
        handshakes: Slots::new(handshakes(sockets::files_max())),
        guesses: Guesses::default(),
        lines: Lines::default(),
        unnamed: Mutex::default(),
        tokens: RwLock::new(Arc::new(tokens)),
        plane: std::sync::OnceLock::new(),
        tls: RwLock::new(tls),
        certificate: Mutex::new(digest),
        run: run.clone(),
        since: Timestamp(runtime::wall()),
        stats: Stats::default(),
        settings: watch::channel(settings.clone()).0,
        admission,
    });
    let web = Arc::new(web::Web::new(edge.clone()));
    let plane = HttpPlane::new(
        web,
        edge.admission.clone(),
        HttpSettings {
            trust: Trust {
                proxies: settings.trusted_proxies.clone(),
                header: settings.trusted_header,
                identity: settings.identity_fields.clone(),
            },
            stall: settings.stall,
        },
    );
    let _ = edge.plane.set(plane);
    edge.serve_control(control);
    if let Some(listener) = http {
        edge.serve_http(listener);
    }
    run.spawn("routes", routes::keep(edge.clone()));
    Ok(EdgeHandle { edge, control_addr, http_addr, fingerprint, name, needs_root })
}

impl EdgeHandle {
    /// Who is connected and what is published, in the form of `/status`.
    #[must_use]
    pub fn status(&self) -> EdgeStatus {
        self.edge.status()
    }

    /// The port where clients connect now.
    #[must_use]
    pub fn control_port(&self) -> u16 {
        self.edge.listening().0.port()
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
    fn status(&self) -> EdgeStatus {
        let settings = self.settings();
        let mode = match (settings.http.is_some(), settings.tcp.is_some()) {
            (true, true) => "http,tcp",
            (true, false) => "http",
            _ => "tcp",
        };
        let info = EdgeInfo {
            version: env!("CARGO_PKG_VERSION").to_string(),
            sha: option_env!("PORTCULLIS_SHA").unwrap_or_default().to_string(),
            mode: mode.to_string(),
            start_time: self.since.to_string(),
            hostname: hostname(),
        };
        EdgeStatus {
            info,
            clients: self.table.sessions().iter().map(|s| s.status()).collect(),
            list_generation: self.admission.view().generation,
            visitors: self.visitors.taken(),
        }
    }

    fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.read().clone()
    }

    fn settings(&self) -> Arc<EdgeSettings> {
        self.settings.borrow().clone()
    }

    fn tokens(&self) -> Arc<Tokens> {
        self.tokens.read().clone()
    }

    /// Where clients connect, and where HTTP visitors do.
    fn listening(&self) -> (SocketAddr, Option<SocketAddr>) {
        let planes = self.planes.lock();
        (planes.control.at.unwrap_or(self.settings.borrow().control), planes.http.at)
    }

    /// True if this peer is a balancer that sends PROXY lines. Without a list of trusted proxies balancers are
    /// believed on private addresses only: nobody can claim another address from the internet.
    fn balances(&self, peer: SocketAddr) -> bool {
        let settings = self.settings.borrow();
        let trusted = &settings.trusted_proxies;
        let believed = if trusted.is_empty() { Addr::of(peer).is_private() } else { trusted.contains(Addr::of(peer)) };
        settings.lb_proxy_protocol.is_some() && believed
    }

    /// Says once that a proxy in front is not believed: everybody behind it is taken for the proxy.
    fn say_unnamed_proxy(&self, peer: Addr) {
        if self.unnamed.lock().replace(peer).is_none() {
            warn!(
                %peer,
                "{peer} passes requests on for others (X-Forwarded-For), and is not among --trusted-proxies: visitors are judged as {peer}, and the service is told that address and http; if it is a proxy of yours, add --trusted-proxies {peer}"
            );
        }
    }

    /// True if this peer's word about the visitor's address counts.
    fn trusts(&self, peer: SocketAddr) -> bool {
        self.settings.borrow().trusted_proxies.contains(Addr::of(peer))
    }
}

/// The control plane's TLS and what clients are told of it.
#[derive(Default)]
struct Loaded {
    tls: Option<Arc<ServerConfig>>,
    fingerprint: Option<Fingerprint>,
    name: Option<String>,
    needs_root: bool,
    /// What a given certificate and its key are, so that a reload says if they are others.
    digest: String,
}

fn load_tls(tls: &EdgeTls) -> Result<Loaded> {
    Ok(match tls {
        EdgeTls::Off => Loaded::default(),
        EdgeTls::Auto { sans, dir } => {
            let (config, digest) = net::tls::own_ca(dir, sans)?;
            Loaded { tls: Some(config), fingerprint: Some(Fingerprint(digest)), ..Loaded::default() }
        }
        EdgeTls::Own { cert, key } => {
            let tls = Some(net::tls::own_certificate(cert, key)?);
            let (by, name) = net::tls::vouched(cert)?;
            let both = [std::fs::read(cert)?, std::fs::read(key)?].concat();
            let digest = runtime::sha256_hex(&both);
            Loaded { tls, fingerprint: pin(&by), name, needs_root: by == Vouched::Elsewhere, digest }
        }
    })
}

/// What clients of a certificate pin.
fn pin(by: &Vouched) -> Option<Fingerprint> {
    match by {
        Vouched::ByRoot(digest) => Some(Fingerprint(*digest)),
        Vouched::BySystem | Vouched::Elsewhere => None,
    }
}

/// Listens, or says what would help.
fn listen(name: &'static str, at: SocketAddr, whom: &str) -> Result<Listener> {
    Listener::bind(name, at).map_err(|e| {
        let what = format!("cannot listen on {at} for {whom}");
        if e.kind() == std::io::ErrorKind::PermissionDenied && at.port() < 1024 {
            return Hinted::error(format!("{what}: {e}"), PRIVILEGED);
        }
        anyhow::Error::from(e).context(what)
    })
}

/// What helps where a low port is refused (capabilities(7), ip(7)).
const PRIVILEGED: &str = "ports below 1024 need a privilege: run as root, give the program `setcap cap_net_bind_service=+ep`, or use --generate=systemd, which asks for it";

fn hostname() -> String {
    String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned()
}

/// Says something that untrusted peers cause: at INFO as long as its budget lasts, with how much was held back since the last
/// such line; then at DEBUG.
fn say(budget: &LogBudget, plane: impl Display, peer: impl Display, what: &'static str, why: impl Display) {
    match budget.spend(Instant::now()) {
        Some(0) => info!(%plane, %peer, %why, "{what}"),
        Some(held_back) => info!(%plane, %peer, %why, held_back, "{what}"),
        None => debug!(%plane, %peer, %why, "{what}"),
    }
}
