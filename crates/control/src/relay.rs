//! The relay of the mesh (DERP). In: upgraded connections of nodes whose key is admitted. Out: their packets, from key
//! to key.
//!
//! Each connection is one task that reads and writes at once. A packet is copied from the reader's buffer into the outbox
//! of its destination, framed, and all that waits there goes out in one write: nothing is allocated for a packet. An
//! outbox is bounded; when it is full the oldest packets go, as in official relays, since old packets help nobody. So a
//! client that does not read costs itself only.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use addr::{Addr, SourceKey};
use parking_lot::{Mutex, RwLock};
use tailnet_proto::derp::{self, ClientInfo, DerpError, Frame, Gone, HEAD_LEN, Head, KEEP_ALIVE, Kind, ServerInfo};
use tailnet_proto::meshkey::{KEY_LEN, NodeKey, NodePrivate};
use tailnet_proto::nacl;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::outbox::Outbox;
use net::log_budget::LogBudget;
use net::serve::{self, Slots};

/// Time from the first byte to a good introduction.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that may be introducing themselves at once; each holds less than 20 KB. One source has a share, so that
/// an untrusted peer does not keep the others out; an office behind one address comes back in a few seconds. A quarter is for
/// sources where nodes were before.
const HANDSHAKE_LIMITS: serve::Limits = serve::Limits { total: 1024, per_source: 128, reserve: 256 };

/// A client that takes no byte for this long is gone. Official relays wait two seconds for the whole of a write; slow
/// links are forgiven more here, since what waits for them is bounded.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections with one key; a node that changes networks has two for a while.
const SAME_KEY: usize = 4;

/// What one connection may cause to be remembered about where it sent packets to.
const SENT_TO: usize = 4096;

/// The reader's buffer when little comes, and the most it grows to: one whole frame of the longest kind.
const READ_MIN: usize = 4 * 1024;
const READ_MAX: usize = HEAD_LEN + KEY_LEN + derp::SEND_MAX;

/// Answers to packets for keys that are not here: this many at once, then one each second, as in official relays.
const NOT_HERE_BURST: f64 = 3.0;

/// What a second connection with the same key is told, until one is left.
const DUPLICATE_KEY_NOTICE: &str =
    "this node is connected to the relay more than once; the connection that sends last gets its packets";

/// Bounds of a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections, all together.
    pub clients: usize,
    /// What one connection may send, in bytes each second; nothing for no limit. It is then read slower, and waits.
    pub bytes_per_second: Option<u64>,
    /// What it may send at once on top, in bytes.
    pub burst: u64,
}

impl Default for Limits {
    /// 10,000 connections, each at a gigabit a second: more than a relayed tunnel reaches, less than a machine has.
    fn default() -> Limits {
        Limits { clients: 10_000, bytes_per_second: Some(125_000_000), burst: 16 << 20 }
    }
}

/// Counts since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections taken.
    pub accepted: u64,
    /// Of them, refused before they were clients.
    pub refused: u64,
    /// Packets and bytes taken from clients.
    pub packets_in: u64,
    /// Their bytes, without frame and key.
    pub bytes_in: u64,
    /// Packets dropped because their destination did not read fast enough.
    pub dropped_full: u64,
    /// Packets for keys that are not here.
    pub dropped_not_here: u64,
    /// Times a client was read slower because it sent too fast.
    pub slowed: u64,
    /// Connections that came while one with the same key was there.
    pub same_key: u64,
}

/// A relay. Clones are the same one.
#[derive(Clone)]
pub struct Relay {
    inner: Arc<Inner>,
}

type Admit = Box<dyn Fn(&NodeKey) -> bool + Send + Sync>;

struct Inner {
    private: NodePrivate,
    public: NodeKey,
    admit: Admit,
    limits: Limits,
    /// The connections of each key; the last of them gets what is sent to it.
    seats: RwLock<HashMap<NodeKey, Vec<Arc<Client>>>>,
    connections: AtomicU64,
    /// How many are introducing themselves, by where they come from.
    entering: Arc<Slots>,
    counts: Counters,
    log: LogBudget,
}

#[derive(Default)]
struct Counters {
    accepted: AtomicU64,
    refused: AtomicU64,
    packets_in: AtomicU64,
    bytes_in: AtomicU64,
    dropped_full: AtomicU64,
    dropped_not_here: AtomicU64,
    slowed: AtomicU64,
    same_key: AtomicU64,
}

/// One connection, as others see it.
struct Client {
    key: NodeKey,
    outbox: Mutex<Outbox>,
    /// There is something in the outbox.
    wake: Notify,
    /// Nothing has moved for a while: buffers may go.
    idle: Notify,
    cut: CancellationToken,
    /// Another connection has the same key.
    twice: AtomicBool,
}

/// Why a connection ended.
#[derive(Debug, Error)]
enum Cut {
    #[error("it left")]
    Left,
    #[error(transparent)]
    Frame(#[from] DerpError),
    #[error("its first frame is no introduction")]
    Introduction,
    #[error("frames of type {0:?} are for relays among themselves")]
    Forbidden(Kind),
    #[error("the key {0} is not admitted")]
    NotAdmitted(NodeKey),
    #[error("its key is no longer admitted, or newer connections took its place")]
    Revoked,
    #[error("it took nothing for {} s", WRITE_TIMEOUT.as_secs())]
    Stalled,
    #[error("it did not introduce itself within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Late,
    #[error("the relay is full")]
    Full,
    #[error("the relay goes away")]
    Closing,
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl Relay {
    /// A relay with this key, for the nodes that `admit` lets in.
    #[must_use]
    pub fn new(private: NodePrivate, admit: impl Fn(&NodeKey) -> bool + Send + Sync + 'static) -> Relay {
        Relay::with_limits(private, admit, Limits::default())
    }

    /// The same, with bounds of one's own.
    #[must_use]
    pub fn with_limits(
        private: NodePrivate,
        admit: impl Fn(&NodeKey) -> bool + Send + Sync + 'static,
        limits: Limits,
    ) -> Relay {
        let public = private.public();
        Relay {
            inner: Arc::new(Inner {
                private,
                public,
                admit: Box::new(admit),
                limits,
                seats: RwLock::default(),
                connections: AtomicU64::new(0),
                entering: Slots::new(HANDSHAKE_LIMITS),
                counts: Counters::default(),
                log: LogBudget::default(),
            }),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> NodeKey {
        self.inner.public
    }

    /// True if a node with this key is connected.
    #[must_use]
    pub fn has(&self, key: &NodeKey) -> bool {
        self.inner.seats.read().contains_key(key)
    }

    /// Connections now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Counts since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let c = &self.inner.counts;
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counts {
            accepted: get(&c.accepted),
            refused: get(&c.refused),
            packets_in: get(&c.packets_in),
            bytes_in: get(&c.bytes_in),
            dropped_full: get(&c.dropped_full),
            dropped_not_here: get(&c.dropped_not_here),
            slowed: get(&c.slowed),
            same_key: get(&c.same_key),
        }
    }

    /// Asks for every client again whether it is admitted, and cuts those that are not. Call it whenever the answer of
    /// `admit` may have changed.
    pub fn recheck(&self) {
        // Not asked under the lock: `admit` may take locks of its own.
        let keys: Vec<NodeKey> = self.inner.seats.read().keys().copied().collect();
        for key in keys.iter().filter(|k| !(self.inner.admit)(k)) {
            self.inner.seats.read().get(key).into_iter().flatten().for_each(|c| c.cut.cancel());
        }
    }

    /// Tells every client to come back after `reconnect` and to try for `during`, and ends the connections.
    pub fn close(&self, reconnect: Duration, during: Duration) {
        let seats = self.inner.seats.read();
        for client in seats.values().flatten() {
            client.notify(&Frame::Restarting(reconnect, during));
            client.outbox.lock().close();
            client.wake.notify_one();
        }
    }

    /// Serves one connection, whose HTTP part is over, until its end. `leftover` are bytes already read behind it.
    pub async fn serve<S>(&self, io: S, leftover: impl Into<Vec<u8>>, remote: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let relay = &*self.inner;
        add(&relay.counts.accepted, 1);
        let end = relay.enter_and_run(io, Inbox::new(leftover.into()), remote.ip()).await;
        match end {
            Cut::Left | Cut::Revoked | Cut::Closing | Cut::Io(_) | Cut::Stalled => {
                debug!(%remote, why = %end, "relay: connection closed");
            }
            Cut::Frame(_) | Cut::Introduction | Cut::Forbidden(_) | Cut::NotAdmitted(_) | Cut::Late | Cut::Full => {
                if let Some(held_back) = relay.log.spend(Instant::now()) {
                    info!(%remote, held_back, why = %end, "relay: connection refused");
                }
            }
        }
    }
}

impl Inner {
    async fn enter_and_run<S>(&self, mut io: S, mut inbox: Inbox, from: IpAddr) -> Cut
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut seat = match self.enter(&mut io, &mut inbox, from).await {
            Ok(seat) => seat,
            Err(cut) => {
                add(&self.counts.refused, 1);
                return cut;
            }
        };
        let client = seat.client.clone();
        let (mut reader, mut writer) = tokio::io::split(io);
        tokio::select! {
            cut = self.read(&mut reader, &mut inbox, &client, &mut seat.sent_to) => cut,
            cut = write(&mut writer, &client) => cut,
            () = client.cut.cancelled() => Cut::Revoked,
        }
    }

    /// Introductions: ours, the client's, the answer. The client has its seat before it has the answer.
    async fn enter<S>(&self, io: &mut S, inbox: &mut Inbox, from: IpAddr) -> Result<Seat<'_>, Cut>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let source = SourceKey::of(Addr::new(from));
        let _entering = self.entering.take(source).map_err(|_| Cut::Full)?;
        let (key, info) =
            tokio::time::timeout(HANDSHAKE_TIMEOUT, self.introduce(io, inbox)).await.map_err(|_| Cut::Late)??;
        if !(self.admit)(&key) {
            return Err(Cut::NotAdmitted(key));
        }
        let mut answer = vec![];
        let mine = ServerInfo { version: derp::VERSION, ..ServerInfo::default() };
        let sealed = mine.seal(&self.private, &key, &rand::random::<[u8; nacl::NONCE_LEN]>());
        Frame::ServerInfo(&sealed.ok_or(DerpError::Box)?).encode(&mut answer);
        let seat = self.sit(key, &answer)?;
        // It may have been thrown out between the first question and its seat, where nobody could cut it.
        if !(self.admit)(&key) {
            return Err(Cut::NotAdmitted(key));
        }
        self.entering.know(source);
        debug!(key = %key.short(), version = info.version, "relay: client connected");
        Ok(seat)
    }

    async fn introduce<S>(&self, io: &mut S, inbox: &mut Inbox) -> Result<(NodeKey, ClientInfo), Cut>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut hello = vec![];
        Frame::ServerKey(self.public).encode(&mut hello);
        io.write_all(&hello).await?;
        io.flush().await?;
        loop {
            // An untrusted peer is heard for one frame of one kind only.
            let head = inbox.head()?;
            if head.is_some_and(|head| head.kind != Some(Kind::ClientInfo)) {
                return Err(Cut::Introduction);
            }
            if let Some((frame, len)) = derp::first(inbox.bytes())? {
                let Some(Frame::ClientInfo(key, sealed)) = frame else { return Err(Cut::Introduction) };
                let info = ClientInfo::open(sealed, &self.private, &key)?;
                inbox.consume(len);
                return Ok((key, info));
            }
            inbox.make_room(head.map_or(READ_MIN, |head| head.frame_len()));
            if io.read(inbox.room()).await.map(|n| inbox.filled(n))? == 0 {
                return Err(Cut::Left);
            }
        }
    }

    /// Gives a client its seat and its first frame.
    fn sit(&self, key: NodeKey, answer: &[u8]) -> Result<Seat<'_>, Cut> {
        let mut seats = self.seats.write();
        if self.connections() >= self.limits.clients as u64 {
            return Err(Cut::Full);
        }
        let same = seats.entry(key).or_default();
        let client = Arc::new(Client::new(key, answer));
        if same.len() == SAME_KEY {
            same.remove(0).cut.cancel();
        }
        for other in &*same {
            other.twice.store(true, Ordering::Relaxed);
            other.notify(&Frame::Health(DUPLICATE_KEY_NOTICE));
        }
        if !same.is_empty() {
            client.twice.store(true, Ordering::Relaxed);
            add(&self.counts.same_key, 1);
        }
        same.push(client.clone());
        add(&self.connections, 1);
        Ok(Seat { relay: self, client, sent_to: BTreeSet::new() })
    }

    fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        io: &mut R,
        inbox: &mut Inbox,
        client: &Client,
        sent_to: &mut BTreeSet<NodeKey>,
    ) -> Cut {
        let mut sender = Sender::new(&self.limits, sent_to);
        loop {
            let taken = match self.take(inbox, client, &mut sender) {
                Ok(taken) => taken,
                Err(cut) => return cut,
            };
            if taken > 0 && client.twice.load(Ordering::Relaxed) {
                self.speaks(client);
            }
            if let Some(wait) = sender.budget.as_mut().and_then(|b| b.owe(taken as f64, Instant::now())) {
                add(&self.counts.slowed, 1);
                tokio::time::sleep(wait).await;
            }
            match inbox.fill(io, &client.idle).await {
                Ok(0) => return Cut::Left,
                Ok(_) => {}
                Err(e) => return Cut::Io(e),
            }
        }
    }

    /// Handles all whole frames in the inbox; returns the bytes they took.
    fn take(&self, inbox: &mut Inbox, client: &Client, sender: &mut Sender<'_>) -> Result<usize, Cut> {
        let before = inbox.bytes().len();
        loop {
            inbox.skip();
            match inbox.head()? {
                None => break,
                // What is not known is passed over, however long it is.
                Some(Head { kind: None, len }) => inbox.skip_next(HEAD_LEN + len),
                Some(Head {
                    kind: Some(kind @ (Kind::ForwardPacket | Kind::WatchConns | Kind::ClosePeer)), ..
                }) => {
                    return Err(Cut::Forbidden(kind));
                }
                Some(_) => {
                    let Some((frame, len)) = derp::first(inbox.bytes())? else { break };
                    match frame {
                        Some(Frame::SendPacket(to, packet)) => self.send(client, to, packet, sender),
                        Some(Frame::Ping(data)) => client.notify(&Frame::Pong(data)),
                        // The rest tells a relay nothing that it uses.
                        _ => {}
                    }
                    inbox.consume(len);
                }
            }
        }
        Ok(before - inbox.bytes().len())
    }

    fn send(&self, from: &Client, to: NodeKey, packet: &[u8], sender: &mut Sender<'_>) {
        add(&self.counts.packets_in, 1);
        add(&self.counts.bytes_in, packet.len() as u64);
        let seats = self.seats.read();
        if let Some(client) = seats.get(&to).and_then(|same| same.last()) {
            let (was_empty, dropped) = {
                let mut outbox = client.outbox.lock();
                (outbox.is_empty(), outbox.packet(&from.key, packet))
            };
            if was_empty {
                client.wake.notify_one();
            }
            add(&self.counts.dropped_full, dropped);
            sender.remember(to);
        } else {
            drop(seats);
            add(&self.counts.dropped_not_here, 1);
            // Only path discovery waits for an answer, and not for many.
            if derp::is_disco(packet) && sender.not_here.take(Instant::now()) {
                from.notify(&Frame::PeerGone(to, Gone::NotHere));
            }
        }
    }

    /// Of connections with one key, the one that sent last gets what is sent to it.
    #[cold]
    fn speaks(&self, client: &Client) {
        let is_last = |same: &Vec<Arc<Client>>| same.last().is_some_and(|c| std::ptr::eq(&**c, client));
        if self.seats.read().get(&client.key).is_some_and(is_last) {
            return;
        }
        let mut seats = self.seats.write();
        let Some(same) = seats.get_mut(&client.key) else { return };
        if let Some(at) = same.iter().position(|c| std::ptr::eq(&**c, client)) {
            let client = same.remove(at);
            same.push(client);
        }
    }
}

/// The place of a connection among the clients, until it is dropped.
struct Seat<'a> {
    relay: &'a Inner,
    client: Arc<Client>,
    /// Keys that got packets from it and will want to know that it is gone.
    sent_to: BTreeSet<NodeKey>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut seats = self.relay.seats.write();
        self.relay.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(same) = seats.get_mut(&self.client.key) else { return };
        same.retain(|c| !Arc::ptr_eq(c, &self.client));
        match &same[..] {
            [] => {
                seats.remove(&self.client.key);
            }
            [one] => {
                one.twice.store(false, Ordering::Relaxed);
                one.notify(&Frame::Health(""));
                return;
            }
            _ => return,
        }
        for key in &self.sent_to {
            if let Some(other) = seats.get(key).and_then(|same| same.last()) {
                other.notify(&Frame::PeerGone(self.client.key, Gone::Disconnected));
            }
        }
    }
}

impl Client {
    fn new(key: NodeKey, answer: &[u8]) -> Client {
        Client {
            key,
            outbox: Mutex::new(Outbox::starting_with(answer)),
            wake: Notify::new(),
            idle: Notify::new(),
            cut: CancellationToken::new(),
            twice: AtomicBool::new(false),
        }
    }

    fn notify(&self, frame: &Frame<'_>) {
        self.outbox.lock().notify(frame);
        self.wake.notify_one();
    }
}

/// What one connection has to remember about what it sends.
struct Sender<'a> {
    budget: Option<Bucket>,
    not_here: Bucket,
    sent_to: &'a mut BTreeSet<NodeKey>,
    last: Option<NodeKey>,
}

impl<'a> Sender<'a> {
    fn new(limits: &Limits, sent_to: &'a mut BTreeSet<NodeKey>) -> Sender<'a> {
        let budget = limits.bytes_per_second.map(|rate| Bucket::new(rate as f64, limits.burst.max(1) as f64));
        Sender { budget, not_here: Bucket::new(1.0, NOT_HERE_BURST), sent_to, last: None }
    }

    fn remember(&mut self, to: NodeKey) {
        if self.last != Some(to) {
            self.last = Some(to);
            if self.sent_to.len() < SENT_TO {
                self.sent_to.insert(to);
            }
        }
    }
}

/// Fills at `rate` each second up to `burst`.
struct Bucket {
    rate: f64,
    burst: f64,
    level: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn new(rate: f64, burst: f64) -> Bucket {
        Bucket { rate, burst, level: burst, at: None }
    }

    fn fill(&mut self, now: Instant) {
        let past = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.level = (self.level + past.as_secs_f64() * self.rate).min(self.burst);
    }

    /// Takes `amount` in any case; if there was not so much, says how long to wait.
    fn owe(&mut self, amount: f64, now: Instant) -> Option<Duration> {
        self.fill(now);
        self.level -= amount;
        (self.level < 0.0).then(|| Duration::try_from_secs_f64(-self.level / self.rate).unwrap_or(HANDSHAKE_TIMEOUT))
    }

    /// Takes one if there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let there = self.level >= 1.0;
        self.level -= if there { 1.0 } else { 0.0 };
        there
    }
}

/// Bytes that came and are not handled yet.
struct Inbox {
    buffer: Vec<u8>,
    from: usize,
    to: usize,
    /// Bytes still to come of a frame that is passed over.
    to_skip: usize,
}

impl Inbox {
    fn new(leftover: Vec<u8>) -> Inbox {
        let to = leftover.len();
        let mut buffer = leftover;
        buffer.resize(to.max(READ_MIN), 0);
        Inbox { buffer, from: 0, to, to_skip: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    fn head(&self) -> Result<Option<Head>, DerpError> {
        self.bytes().first_chunk::<HEAD_LEN>().map(|head| Head::try_from(*head)).transpose()
    }

    fn consume(&mut self, len: usize) {
        self.from += len;
    }

    fn skip_next(&mut self, len: usize) {
        self.to_skip = len;
        self.skip();
    }

    fn skip(&mut self) {
        let len = self.to_skip.min(self.to - self.from);
        self.from += len;
        self.to_skip -= len;
    }

    /// Moves what is there to the front and makes the buffer long enough for `len` bytes in all.
    fn make_room(&mut self, len: usize) {
        self.buffer.copy_within(self.from..self.to, 0);
        (self.from, self.to) = (0, self.to - self.from);
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
    }

    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.to..]
    }

    fn filled(&mut self, n: usize) -> usize {
        self.to += n;
        n
    }

    /// Reads once. The buffer grows when it was full, or when a frame needs it, and shrinks when nothing comes.
    async fn fill<R: AsyncRead + Unpin>(&mut self, io: &mut R, idle: &Notify) -> std::io::Result<usize> {
        let whole = self.to == self.buffer.len();
        // A head that is wrong is refused by whoever looks at it next.
        let wanted = self.head().ok().flatten().map_or(0, |head| head.frame_len().min(READ_MAX));
        let grown = if whole && self.buffer.len() < READ_MAX { READ_MAX } else { self.buffer.len() };
        self.make_room(wanted.max(grown));
        if self.to > 0 || self.buffer.len() == READ_MIN {
            let n = io.read(self.room()).await?;
            return Ok(self.filled(n));
        }
        loop {
            tokio::select! {
                n = io.read(&mut self.buffer[self.to..]) => {
                    let n = n?;
                    return Ok(self.filled(n));
                }
                () = idle.notified(), if self.buffer.len() > READ_MIN => self.buffer = vec![0; READ_MIN],
            }
        }
    }
}

/// Sends what is in the outbox, all that waits at once, and a sign of life each minute.
async fn write<W: AsyncWrite + Unpin>(io: &mut W, client: &Client) -> Cut {
    let (mut few, mut bulk) = (Vec::new(), Vec::new());
    // Clients that came together shall not be written to together for ever.
    let every = KEEP_ALIVE + Duration::from_millis(rand::random_range(0..5000));
    let mut alive = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let mut quiet = true;
    loop {
        let closing = client.outbox.lock().take(&mut few, &mut bulk);
        if few.is_empty() && bulk.is_empty() {
            if closing {
                return Cut::Closing;
            }
            tokio::select! {
                () = client.wake.notified() => {}
                _ = alive.tick() => {
                    if std::mem::replace(&mut quiet, true) {
                        (few, bulk) = (Vec::new(), Vec::new());
                        client.outbox.lock().shrink();
                        client.idle.notify_one();
                    }
                    client.outbox.lock().notify(&Frame::KeepAlive);
                }
            }
            continue;
        }
        quiet &= bulk.is_empty();
        for bytes in [&few, &bulk] {
            if let Err(cut) = send(io, bytes).await {
                return cut;
            }
        }
        few.clear();
        bulk.clear();
        match tokio::time::timeout(WRITE_TIMEOUT, io.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Cut::Io(e),
            Err(_) => return Cut::Stalled,
        }
    }
}

async fn send<W: AsyncWrite + Unpin>(io: &mut W, mut bytes: &[u8]) -> Result<(), Cut> {
    while !bytes.is_empty() {
        match tokio::time::timeout(WRITE_TIMEOUT, io.write(bytes)).await {
            Ok(Ok(0)) => return Err(Cut::Left),
            Ok(Ok(n)) => bytes = bytes.get(n..).unwrap_or_default(),
            Ok(Err(e)) => return Err(Cut::Io(e)),
            Err(_) => return Err(Cut::Stalled),
        }
    }
    Ok(())
}

fn add(count: &AtomicU64, n: u64) {
    if n > 0 {
        count.fetch_add(n, Ordering::Relaxed);
    }
}
