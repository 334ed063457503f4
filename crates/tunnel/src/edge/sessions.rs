//! A client's session at the edge. In: a hello, carriers, bulk links. Out: streams to its upstreams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use addr::{Addr, Timestamp};
use api::ClientStatus;
use net::log_budget::LogBudget;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tunnel_proto::frame::{Kind, Open, Reset, ResetCode};
use tunnel_proto::hello::{Hello, RouteKey};
use tunnel_proto::mux::{StreamNumbers, WINDOW_FIRST};

use super::super::mux::{Carrier, Session};
use super::super::printable;
use super::super::stream::Stream;
use super::pool::Pool;

/// A session; lives as long as one of its carriers.
pub(super) struct EdgeSession {
    /// Unique in this process.
    pub(super) id: u64,
    /// What the client calls the session; random, a new one for each.
    pub(super) key: String,
    /// What the client calls itself; the same for all its sessions.
    client: String,
    /// Which token it proved.
    token: usize,
    pub(super) hello: Hello,
    /// Its address, as judged.
    pub(super) addr: Addr,
    since: Timestamp,
    carriers: Mutex<Vec<Arc<Carrier>>>,
    next: AtomicUsize,
    /// Numbers of its streams.
    numbers: Arc<StreamNumbers>,
    alive: AtomicBool,
    /// The client said goodbye: what runs is finished, nothing new goes to it.
    pub(super) leaving: CancellationToken,
    pub(super) pool: Arc<Pool>,
    /// Lines about upstreams that it could not reach.
    unreachable: LogBudget,
}

impl EdgeSession {
    pub(super) fn new(key: String, client: String, token: usize, hello: Hello, addr: Addr) -> Arc<EdgeSession> {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Arc::new(EdgeSession {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            key,
            client,
            token,
            hello,
            addr,
            since: Timestamp(runtime::wall()),
            carriers: Mutex::default(),
            next: AtomicUsize::new(0),
            numbers: Arc::default(),
            alive: AtomicBool::new(true),
            leaving: CancellationToken::new(),
            pool: Pool::new(),
            unreachable: LogBudget::of(1),
        })
    }

    /// True for sessions of one client: same name for itself, same token.
    pub(super) fn is_of_same_client(&self, other: &EdgeSession) -> bool {
        self.client == other.client && self.token == other.token
    }

    /// Which token it proved.
    pub(super) fn token(&self) -> usize {
        self.token
    }

    /// True if the caller may attach links: it proved the same token.
    pub(super) fn is_of_token(&self, token: usize) -> bool {
        self.token == token
    }

    pub(super) fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// True if new visitors may go to it.
    pub(super) fn takes_visitors(&self) -> bool {
        self.is_alive() && !self.leaving.is_cancelled()
    }

    /// What it publishes, in the order of its upstream numbers.
    pub(super) fn asks(&self) -> impl Iterator<Item = &RouteKey> {
        self.hello.upstreams.iter().map(|u| &u.ask)
    }

    /// What a person calls one of its upstreams.
    pub(super) fn name(&self, upstream: u16) -> String {
        let to = self.hello.upstreams.get(usize::from(upstream)).map_or("?", |u| u.name.as_str());
        format!("{to} at {}", self.hello.host)
    }

    /// How requests go to one of its upstreams.
    pub(super) fn upstream(&self, upstream: u16) -> Option<&tunnel_proto::hello::Published> {
        self.hello.upstreams.get(usize::from(upstream))
    }

    /// Adds a carrier. False if the session is over.
    pub(super) fn attach(&self, carrier: &Arc<Carrier>) -> bool {
        let mut carriers = self.carriers.lock();
        if !self.is_alive() {
            return false;
        }
        if let Some(i) = carriers.iter().position(|c| c.no == carrier.no) {
            // The client dialled this one again before we noticed that the old one is dead.
            carriers.remove(i).kill("replaced by a new connection of the client");
        }
        carriers.push(carrier.clone());
        self.pool.set_main(&carriers[0]);
        true
    }

    /// Removes a carrier; true if it was the last one, and the session is over.
    pub(super) fn detach(&self, carrier: &Arc<Carrier>) -> bool {
        let mut carriers = self.carriers.lock();
        carriers.retain(|c| !Arc::ptr_eq(c, carrier));
        if let Some(first) = carriers.first() {
            self.pool.set_main(first);
            return false;
        }
        let last = self.alive.swap(false, Ordering::AcqRel);
        drop(carriers);
        if last {
            self.pool.end();
        }
        last
    }

    /// Ends the session with all its streams.
    pub(super) fn end(&self, why: &str) {
        self.alive.store(false, Ordering::Release);
        let carriers = std::mem::take(&mut *self.carriers.lock());
        carriers.iter().for_each(|c| c.kill(why));
        // Streams on bulk links end with the session too: nobody would judge their client any more.
        self.pool.end();
    }

    /// Asks the client to finish what runs and come back.
    pub(super) fn go_away(&self) {
        if let Some(carrier) = self.carriers.lock().first() {
            carrier.push(Kind::GoAway, &[]);
        }
    }

    /// Opens a stream to an upstream, on the carrier with the fewest streams.
    pub(super) fn open(&self, upstream: u16, visitor: SocketAddr) -> Option<Stream> {
        let carrier = {
            let carriers = self.carriers.lock();
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let n = carriers.len();
            (0..n).map(|i| &carriers[(turn + i) % n]).min_by_key(|c| c.load())?.clone()
        };
        let open = Open { upstream, window: WINDOW_FIRST, visitor };
        Stream::open(&carrier, &open.bytes(), self.hello.demux)
    }

    /// Streams open now.
    pub(super) fn streams(&self) -> usize {
        self.carriers.lock().iter().map(|c| c.load()).sum()
    }

    pub(super) fn status(&self) -> ClientStatus {
        let upstreams: Vec<String> = self
            .hello
            .upstreams
            .iter()
            .map(|u| match &u.ask {
                RouteKey::Port(port) => format!("{port}={}", u.name),
                RouteKey::Http { host, path } => {
                    format!("{}{path}={}", if host.is_empty() { "*" } else { host }, u.name)
                }
            })
            .collect();
        // Counted first: a lock taken inside the literal would be held while `streams` takes it again.
        let carriers = self.carriers.lock().len();
        ClientStatus {
            client_id: self.client.clone(),
            remote_addr: self.addr.to_string(),
            since: self.since.to_string(),
            upstreams,
            hostname: self.hello.host.clone(),
            version: self.hello.program.clone(),
            carriers,
            bulk_idle: self.pool.idle(),
            streams: self.streams(),
        }
    }

    pub(super) fn log_joined(&self, token: &str) {
        let upstreams: Vec<&str> = self.hello.upstreams.iter().map(|u| u.name.as_str()).collect();
        info!(
            client = self.hello.host,
            id = self.client,
            peer = %self.addr,
            token,
            upstreams = upstreams.join(", "),
            "client connected"
        );
    }
}

impl Session for EdgeSession {
    fn control(&self, kind: Kind, _payload: &[u8]) -> Result<(), String> {
        if kind == Kind::GoAway {
            self.leaving.cancel();
            return Ok(());
        }
        Err(format!("a {kind:?} frame that a client must not send"))
    }

    fn was_reset(&self, reset: &Reset) {
        if reset.code != ResetCode::Unreachable {
            return;
        }
        let (client, why) = (&self.hello.host, printable(&reset.words));
        match self.unreachable.spend(Instant::now()) {
            Some(0) => warn!(client = %client, %why, "client could not serve a visitor"),
            Some(held_back) => warn!(client = %client, %why, held_back, "client could not serve visitors"),
            None => debug!(client = %client, %why, "client could not serve a visitor"),
        }
    }

    fn wants_bulk(&self, carrier: &Arc<Carrier>, stream: u32) {
        self.pool.assign(carrier, stream);
    }

    fn numbers(&self) -> Arc<StreamNumbers> {
        self.numbers.clone()
    }
}
