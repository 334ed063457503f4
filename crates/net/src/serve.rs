//! Accepting connections, for every plane. In: a listening socket and limits. Out: connections, each with the place it
//! takes; places are counted in all and for each source, and errors of the system cost a pause, never the listener.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::{Addr, SourceKey};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tracing::warn;

use crate::log_budget::LogBudget;

/// How long a listener rests after an error of the system, such as no free descriptors: the next accept would fail at
/// once. Short enough that nobody notices, long enough to cost nothing.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Sources that are remembered as known, the newest: at 40 bytes each a small part of a megabyte.
const KNOWN_MAX: usize = 4_096;

/// Places for connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// At the same time, in all.
    pub total: usize,
    /// At the same time from one source ([`SourceKey`]).
    pub per_source: usize,
    /// Of `total`, those that only known sources ([`Slots::know`]) may take, so that untrusted peers lock out nobody who was
    /// here before.
    pub reserve: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All are taken, or all but the reserve.
    Total,
    /// The source has its share.
    Source,
}

impl std::fmt::Display for Full {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Full::Total => "too many connections are open",
            Full::Source => "its source has too many connections open",
        })
    }
}

/// The places of one plane. Several listeners may share them.
#[derive(Debug)]
pub struct Slots {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    taken: usize,
    by_source: HashMap<SourceKey, usize>,
    /// Known sources, and when each was last seen, as a running number.
    known: HashMap<SourceKey, u64>,
    /// Each known source once, with a mark that it had; one that was seen again since goes to the back in its turn.
    order: VecDeque<(SourceKey, u64)>,
    marks: u64,
}

/// A place, given back when dropped.
#[derive(Debug)]
#[must_use = "the place is given back when this is dropped"]
pub struct Slot {
    slots: Arc<Slots>,
    source: Option<SourceKey>,
}

impl Slots {
    /// Places, none of them taken.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Slots> {
        let state = State {
            limits,
            taken: 0,
            by_source: HashMap::new(),
            known: HashMap::new(),
            order: VecDeque::new(),
            marks: 0,
        };
        Arc::new(Slots { state: Mutex::new(state) })
    }

    /// A place for a connection of a source.
    ///
    /// # Errors
    /// There is none: which limit is reached.
    pub fn take(self: &Arc<Slots>, source: SourceKey) -> Result<Slot, Full> {
        let mut state = self.state.lock();
        let reserve = if state.known.contains_key(&source) { 0 } else { state.limits.reserve };
        let limits = state.limits;
        if state.taken >= limits.total.saturating_sub(reserve) {
            return Err(Full::Total);
        }
        let count = state.by_source.entry(source).or_default();
        if *count >= limits.per_source {
            return Err(Full::Source);
        }
        *count += 1;
        state.taken += 1;
        Ok(Slot { slots: self.clone(), source: Some(source) })
    }

    /// A place for a connection that stands for many sources (a trusted proxy, a balancer), or for one that proved who it
    /// is: only the limit for all counts, and the reserve is open to it.
    ///
    /// # Errors
    /// All places are taken.
    pub fn take_trusted(self: &Arc<Slots>) -> Result<Slot, Full> {
        let mut state = self.state.lock();
        if state.taken >= state.limits.total {
            return Err(Full::Total);
        }
        state.taken += 1;
        Ok(Slot { slots: self.clone(), source: None })
    }

    /// Remembers a source that proved itself (a session, a valid token), among the newest 4,096 such.
    pub fn know(&self, source: SourceKey) {
        let mut state = self.state.lock();
        state.marks += 1;
        let mark = state.marks;
        if state.known.insert(source, mark).is_none() {
            state.order.push_back((source, mark));
        }
        while state.known.len() > KNOWN_MAX {
            let Some((oldest, mark)) = state.order.pop_front() else { break };
            match state.known.get(&oldest) {
                Some(&newer) if newer != mark => state.order.push_back((oldest, newer)),
                _ => drop(state.known.remove(&oldest)),
            }
        }
    }

    /// True if the source is remembered.
    #[must_use]
    pub fn knows(&self, source: SourceKey) -> bool {
        self.state.lock().known.contains_key(&source)
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.state.lock().taken
    }

    /// The limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.state.lock().limits
    }

    /// Other limits, for whoever comes from now on.
    pub fn limit(&self, limits: Limits) {
        self.state.lock().limits = limits;
    }
}

impl Slot {
    /// The connection proved who it is, or turned out to speak for others: from now on it counts as
    /// [`Slots::take_trusted`] and leaves its source's share to others.
    pub fn trusted(&mut self) {
        if let Some(source) = self.source.take() {
            release(&mut self.slots.state.lock(), source);
        }
    }

    /// The connection speaks for another source than its peer (a PROXY line, a forwarded address): counts there from
    /// now on.
    ///
    /// # Errors
    /// That source has its share; the place stays counted as it was.
    pub fn moved_to(&mut self, source: SourceKey) -> Result<(), Full> {
        let mut state = self.slots.state.lock();
        if self.source == Some(source) {
            return Ok(());
        }
        let per_source = state.limits.per_source;
        let count = state.by_source.entry(source).or_default();
        if *count >= per_source {
            return Err(Full::Source);
        }
        *count += 1;
        if let Some(before) = self.source.replace(source) {
            release(&mut state, before);
        }
        Ok(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.slots.state.lock();
        state.taken -= 1;
        if let Some(source) = self.source {
            release(&mut state, source);
        }
    }
}

fn release(state: &mut State, source: SourceKey) {
    if let Some(count) = state.by_source.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            state.by_source.remove(&source);
        }
    }
}

/// A listening socket that outlives errors of the system.
#[derive(Debug)]
pub struct Listener {
    name: &'static str,
    inner: TcpListener,
    log: LogBudget,
}

impl Listener {
    /// Listens on an address (see [`crate::sockets::listen`]). The name stands in log lines.
    ///
    /// # Errors
    /// As the system says; the caller names the flag that chose the address.
    pub fn bind(name: &'static str, at: SocketAddr) -> io::Result<Listener> {
        Ok(Listener::new(name, crate::sockets::listen(at)?))
    }

    /// The same with a socket that listens already.
    #[must_use]
    pub fn new(name: &'static str, inner: TcpListener) -> Listener {
        Listener { name, inner, log: LogBudget::of(1) }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    /// The next connection. Errors of the system (no descriptors, no memory) are said once a minute, with the number of
    /// those between, and tried again after a pause; a connection that ended while it waited is passed over. An IPv4 peer is
    /// named by its IPv4 address at a socket of both families too. Cancel safe.
    pub async fn accept(&self) -> (TcpStream, SocketAddr) {
        let (stream, peer) = insist(self.name, &self.log, || self.inner.accept()).await;
        match peer.ip().to_canonical() {
            v4 @ IpAddr::V4(_) => (stream, SocketAddr::new(v4, peer.port())),
            IpAddr::V6(_) => (stream, peer),
        }
    }

    /// The same until `stop` ends; then nothing.
    pub async fn accept_until(&self, stop: Pin<&mut impl Future<Output = ()>>) -> Option<(TcpStream, SocketAddr)> {
        tokio::select! {
            () = stop => None,
            accepted = self.accept() => Some(accepted),
        }
    }
}

/// The same for a Unix socket.
#[derive(Debug)]
pub struct LocalListener {
    name: &'static str,
    inner: UnixListener,
    log: LogBudget,
}

impl LocalListener {
    /// Accepts from a socket that listens. The name stands in log lines.
    #[must_use]
    pub fn new(name: &'static str, inner: UnixListener) -> LocalListener {
        LocalListener { name, inner, log: LogBudget::of(1) }
    }

    /// As [`Listener::accept_until`].
    pub async fn accept_until(&self, stop: Pin<&mut impl Future<Output = ()>>) -> Option<UnixStream> {
        tokio::select! {
            () = stop => None,
            (stream, _) = insist(self.name, &self.log, || self.inner.accept()) => Some(stream),
        }
    }
}

/// Accepts until it succeeds.
async fn insist<T, F: Future<Output = io::Result<T>>>(
    name: &'static str,
    log: &LogBudget,
    accept: impl Fn() -> F,
) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(e) if of_the_peer(&e) => {}
            Err(e) => {
                if let Some(held_back) = log.spend(Instant::now()) {
                    warn!(
                        listener = name,
                        held_back,
                        err = %e,
                        "cannot accept; is the limit of open files (ulimit -n) reached?"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors of the connection that was to be accepted, not of the listener (accept(2)).
fn of_the_peer(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The source of a socket's peer.
#[must_use]
pub fn source(peer: SocketAddr) -> SourceKey {
    SourceKey::of(Addr::of(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SourceKey {
        SourceKey::of(text.parse().unwrap())
    }

    #[test]
    fn one_source_has_its_share_and_others_theirs() {
        let slots = Slots::new(Limits { total: 10, per_source: 4, reserve: 0 });
        let held: Vec<Slot> = (0..4).map(|n| slots.take(key(&format!("2001:db8::{n}"))).unwrap()).collect();
        assert_eq!(slots.take(key("2001:db8::ffff")).unwrap_err(), Full::Source);
        let other = slots.take(key("2001:db8:0:1::1")).unwrap();
        drop(held);
        assert_eq!(slots.taken(), 1);
        drop(other);
        assert_eq!(slots.taken(), 0);
        assert!(slots.state.lock().by_source.is_empty(), "nothing is kept of sources that left");
    }

    #[test]
    fn the_reserve_is_for_known_sources() {
        let slots = Slots::new(Limits { total: 4, per_source: 4, reserve: 2 });
        slots.know(key("192.0.2.9"));
        let _strangers: Vec<Slot> = (0..2).map(|n| slots.take(key(&format!("198.51.100.{n}"))).unwrap()).collect();
        assert_eq!(slots.take(key("198.51.100.7")).unwrap_err(), Full::Total);
        let _known = slots.take(key("192.0.2.9")).unwrap();
        let _proxy = slots.take_trusted().unwrap();
        assert_eq!(slots.take(key("192.0.2.9")).unwrap_err(), Full::Total);
        assert_eq!(slots.take_trusted().unwrap_err(), Full::Total);
    }

    #[test]
    fn known_sources_are_bounded_and_the_newest() {
        let slots = Slots::new(Limits { total: 1, per_source: 1, reserve: 0 });
        let nth = |n: usize| key(&format!("10.{}.{}.1", n / 256, n % 256));
        slots.know(nth(0));
        for n in 1..KNOWN_MAX {
            slots.know(nth(n));
        }
        slots.know(nth(0));
        slots.know(nth(KNOWN_MAX));
        assert!(slots.knows(nth(0)), "seen again, it is among the newest");
        assert!(!slots.knows(nth(1)));
        assert!(slots.state.lock().known.len() <= KNOWN_MAX && slots.state.lock().order.len() <= KNOWN_MAX);
    }

    #[test]
    fn a_place_moves_to_who_it_speaks_for() {
        let slots = Slots::new(Limits { total: 10, per_source: 1, reserve: 0 });
        let mut a = slots.take(key("192.0.2.1")).unwrap();
        a.moved_to(key("198.51.100.1")).unwrap();
        let mut b = slots.take(key("192.0.2.1")).unwrap();
        assert_eq!(b.moved_to(key("198.51.100.1")), Err(Full::Source));
        b.trusted();
        let c = slots.take(key("192.0.2.1")).unwrap();
        drop((a, b, c));
        assert_eq!(slots.taken(), 0);
        assert!(slots.state.lock().by_source.is_empty());
    }

    #[tokio::test]
    async fn a_listener_accepts() {
        let listener = Listener::bind("test", "127.0.0.1:0".parse().unwrap()).unwrap();
        let at = listener.local_addr().unwrap();
        let (client, (_server, peer)) = tokio::join!(TcpStream::connect(at), listener.accept());
        assert_eq!(client.unwrap().local_addr().unwrap(), peer);
    }

    #[tokio::test]
    async fn an_ipv4_peer_is_named_so_at_a_socket_of_both_families() {
        let listener = Listener::bind("test", "[::]:0".parse().unwrap()).unwrap();
        let at = SocketAddr::new([127, 0, 0, 1].into(), listener.local_addr().unwrap().port());
        let (client, (_server, peer)) = tokio::join!(TcpStream::connect(at), listener.accept());
        assert_eq!(client.unwrap().local_addr().unwrap(), peer);
    }
}
