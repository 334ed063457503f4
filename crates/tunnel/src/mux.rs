//! Many streams on one link: a carrier. In: frames of the peer, bytes of local sockets. Out: the same at the other
//! end. Both edge and client run this; only the edge opens streams.
//!
//! Reading: one task per carrier decrypts, cuts frames and writes stream data straight into the stream's socket. What
//! a slow socket does not take waits in the stream, bounded by its window, so that it never stalls another stream.
//! Writing: streams append frames to one buffer; one task sends it, so that small frames of many streams share a
//! record and a system call. Each stream may send what its credit allows.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use net::buffers::Lease;
use net::link::{Link, LinkRead, LinkWrite};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::debug;
use tunnel_proto::frame::{self, FRAME_HEAD, FrameReader, Kind, Part, Reset, ResetCode};
use tunnel_proto::ws::{self, HEAD_MAX, Role, WsItem, WsReader};

use super::bulk::{BULK_AFTER, BULK_ANYWAY, BulkLink, BulkRead, BulkWrite, Pool, TURN};
use super::stream::Stream;

/// Credit of a new stream: enough for a page or a keystroke's echo, little enough that 10,000 stalled visitors hold
/// 640 MiB at the very worst on a client and, by [`BUFFERED_MAX`], far less.
pub(super) const WINDOW_FIRST: u32 = 64 * 1024;

/// Most credit of a stream that keeps up. A busier stream moves to a bulk link.
const WINDOW_MAX: u32 = 256 * 1024;

/// Bytes waiting for slow sockets, all streams of the process together. Beyond it new data for a stream that already
/// waits resets that stream: memory stays bounded whatever visitors do.
const BUFFERED_MAX: u64 = 256 * 1024 * 1024;

/// Frames waiting to be sent on one carrier; beyond it senders wait for room.
const OUT_MAX: usize = 256 * 1024;

/// Frames that wait for a peer that does not read: answers and grants do not wait for room, so there must be an end.
/// 10,000 streams that all grant at once make 120 KiB.
const OUT_END: usize = 4 * 1024 * 1024;

/// Most bytes of one `Data` frame on a carrier: what a stream may put in front of others at a time.
pub(super) const QUANTUM: usize = 32 * 1024;

/// Waiting bytes are collected in pieces up to this size: one TLS record.
const PIECE_MAX: usize = 16 * 1024;

/// Streams on one carrier; the edge stops opening, the client answers `Busy`.
const STREAMS_MAX: usize = 32 * 1024;

/// A ping this often in both directions: far below the 60 s after which nginx cuts silent connections, and often enough
/// that visitors do not wait long on a link that vanished.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);

/// Two pings missed and a half: the link is dead. As long as TCP waits for an acknowledgement (`USER_TIMEOUT`).
const DEAD_AFTER: Duration = Duration::from_secs(25);

/// Senders woken when room appears: enough to fill the buffer again with full quanta, few enough not to stampede.
const WAKE_BATCH: usize = 16;

static BUFFERED: AtomicU64 = AtomicU64::new(0);

/// Where a carrier tells of things that are not its own.
pub(super) trait Session: Send + Sync + 'static {
    /// The peer opens a stream (client only). The default is a breach of protocol.
    fn open(&self, _carrier: &Arc<Carrier>, _stream: u32, _payload: &[u8]) -> Result<(), String> {
        Err("only the edge opens streams".to_string())
    }

    /// A frame of the session.
    fn control(&self, kind: Kind, payload: &[u8]) -> Result<(), String>;

    /// The peer ended a stream of ours before its time, and says why.
    fn was_reset(&self, _reset: &Reset) {}

    /// The pool of bulk links; `None` on the client, which waits to be told.
    fn pool(&self) -> Option<&Arc<Pool>> {
        None
    }
}

/// One link that many streams share.
pub(super) struct Carrier {
    /// Its number in the session.
    pub(super) no: u8,
    pub(super) role: Role,
    session: Arc<dyn Session>,
    streams: Mutex<HashMap<u32, Arc<Core>>>,
    next: AtomicU32,
    out: Mutex<Out>,
    wake: Notify,
    dead: AtomicBool,
    died: Notify,
    opened: Notify,
}

/// Frames waiting to be sent, behind room for a websocket head.
struct Out {
    buf: Vec<u8>,
    waiters: VecDeque<Waker>,
}

/// What the halves of a stream and its carrier share.
pub(super) struct Core {
    pub(super) carrier: Arc<Carrier>,
    pub(super) id: u32,
    pub(super) inn: Mutex<In>,
    pub(super) out: Mutex<Credit>,
    /// Bytes in both directions on the carrier.
    total: AtomicU64,
    /// Bytes that came, and bytes that went, of late without much in the other direction.
    came: AtomicU64,
    went: AtomicU64,
    /// A bulk link was assigned, or is not wanted.
    pub(super) settled: AtomicBool,
}

/// The receiving side.
#[derive(Default)]
pub(super) struct In {
    /// What came and was not taken.
    pub(super) queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// The stream's task holds a piece that is not written yet: nothing may overtake it.
    pub(super) held: bool,
    /// Bytes that the peer may still send.
    window: u32,
    /// The window's full size.
    full: u32,
    /// Bytes taken since the last grant.
    taken: u32,
    /// The peer sent everything.
    pub(super) ended: bool,
    /// The rest comes on the bulk link.
    pub(super) moved: bool,
    pub(super) reset: Option<Reset>,
    /// Where data goes without a detour while the queue is empty.
    sink: Option<Arc<TcpStream>>,
    /// End of stream was passed on to the sink.
    pub(super) sink_ended: bool,
    pub(super) link: Option<BulkRead>,
    pub(super) waker: Option<Waker>,
}

/// The sending side.
#[derive(Default)]
pub(super) struct Credit {
    /// Bytes that may still be sent.
    pub(super) left: u32,
    pub(super) reset: bool,
    /// The stream was dropped.
    pub(super) gone: bool,
    pub(super) link: Option<BulkWrite>,
    /// Where the bulk link goes when both directions are over.
    pub(super) home: Option<Home>,
    pub(super) waker: Option<Waker>,
}

/// Takes a bulk link back; one that is dropped unused says that the link was lost.
pub(super) struct Home(Option<Box<dyn FnOnce(Option<BulkLink>) + Send>>);

impl Home {
    pub(super) fn new(take: impl FnOnce(Option<BulkLink>) + Send + 'static) -> Home {
        Home(Some(Box::new(take)))
    }

    /// The link comes back, or is lost.
    pub(super) fn give(mut self, link: Option<BulkLink>) {
        if let Some(take) = self.0.take() {
            take(link);
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(None);
        }
    }
}

impl Carrier {
    pub(super) fn new(no: u8, role: Role, session: Arc<dyn Session>) -> Arc<Carrier> {
        Arc::new(Carrier {
            no,
            role,
            session,
            streams: Mutex::default(),
            next: AtomicU32::new(1),
            out: Mutex::new(Out { buf: Vec::new(), waiters: VecDeque::new() }),
            wake: Notify::new(),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            opened: Notify::new(),
        })
    }

    /// Moves frames until the link or the protocol breaks; then every stream on it is broken. Words for the log.
    pub(super) async fn run(self: &Arc<Carrier>, link: Link, ws: WsReader, frames: FrameReader) -> String {
        // Whoever drops this future ends the streams too.
        let _ends = Ends(self.clone());
        let Link { read, write } = link;
        let reader = self.read_loop(read, ws, frames);
        let writer = self.write_loop(write);
        let why = tokio::select! {
            why = reader => why,
            why = writer => why,
            () = self.closed() => "closed".to_string(),
        };
        self.kill(&why);
        why
    }

    /// True once the carrier is of no more use.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }

    /// Ends when the carrier is dead.
    pub(super) async fn closed(&self) {
        loop {
            let died = self.died.notified();
            tokio::pin!(died);
            died.as_mut().enable();
            if self.is_dead() {
                return;
            }
            died.await;
        }
    }

    /// Breaks the carrier and its streams.
    pub(super) fn kill(&self, why: &str) {
        if self.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        self.died.notify_waiters();
        let streams: Vec<Arc<Core>> = self.streams.lock().drain().map(|(_, core)| core).collect();
        for core in streams {
            core.reset(Reset { code: ResetCode::Broken, words: format!("the link to the other side was lost: {why}") });
        }
        let waiters = {
            let mut out = self.out.lock();
            out.buf = Vec::new();
            std::mem::take(&mut out.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    /// Streams on it now.
    pub(super) fn load(&self) -> usize {
        self.streams.lock().len()
    }

    /// Opens a stream to the peer (edge only). `None` if the carrier is dead or full.
    pub(super) fn open(self: &Arc<Carrier>, payload: &[u8], want_bulk: bool) -> Option<Stream> {
        let core = {
            let mut streams = self.streams.lock();
            if self.is_dead() || streams.len() >= STREAMS_MAX {
                return None;
            }
            let id = loop {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                if id != 0 && !streams.contains_key(&id) {
                    break id;
                }
            };
            let core = Core::new(self.clone(), id);
            streams.insert(id, core.clone());
            core
        };
        self.push(Kind::Open, core.id, payload);
        if want_bulk {
            core.go_bulk();
        }
        Some(Stream::new(core))
    }

    /// Accepts a stream of the peer (client only). `None` if it is refused; the peer was told.
    pub(super) fn accept(self: &Arc<Carrier>, id: u32) -> Option<Stream> {
        let mut streams = self.streams.lock();
        if self.is_dead() {
            return None;
        }
        if streams.len() >= STREAMS_MAX || streams.contains_key(&id) {
            drop(streams);
            let words = "too many streams at once".to_string();
            self.push(Kind::Reset, id, &Reset { code: ResetCode::Busy, words }.bytes());
            return None;
        }
        let core = Core::new(self.clone(), id);
        streams.insert(id, core.clone());
        drop(streams);
        self.opened.notify_waiters();
        Some(Stream::new(core))
    }

    /// A stream that the peer has opened or is about to: its bulk link may overtake the carrier (client only).
    pub(super) async fn stream_soon(&self, id: u32) -> Option<Arc<Core>> {
        /// Longer than any carrier is behind a link that was dialled at the same time.
        const SOON: Duration = Duration::from_secs(10);
        let wait = async {
            loop {
                let opened = self.opened.notified();
                tokio::pin!(opened);
                opened.as_mut().enable();
                if let Some(core) = self.stream(id) {
                    return Some(core);
                }
                if self.is_dead() {
                    return None;
                }
                opened.await;
            }
        };
        tokio::time::timeout(SOON, wait).await.ok().flatten()
    }

    /// A stream by its number.
    pub(super) fn stream(&self, id: u32) -> Option<Arc<Core>> {
        self.streams.lock().get(&id).cloned()
    }

    pub(super) fn forget(&self, id: u32) {
        self.streams.lock().remove(&id);
    }

    /// Queues a frame that does not wait for room. A peer that makes us answer and does not read loses the carrier.
    /// Call it without holding a stream's locks.
    pub(super) fn push(&self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut out = self.out.lock();
        out.begin();
        frame::push(&mut out.buf, kind, stream, payload);
        let len = out.buf.len();
        drop(out);
        if len > OUT_END {
            self.kill("the other side does not read what it is sent");
        }
        self.wake.notify_one();
    }

    /// True if there is room for data now; otherwise the waker is called when there is.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut out = self.out.lock();
        if out.buf.len() < OUT_MAX || self.is_dead() {
            return Poll::Ready(());
        }
        if !out.waiters.iter().any(|w| w.will_wake(cx.waker())) {
            out.waiters.push_back(cx.waker().clone());
        }
        Poll::Pending
    }

    async fn write_loop(&self, mut link: LinkWrite) -> String {
        let mut spare = Vec::new();
        loop {
            self.wake.notified().await;
            // Whoever else is ready now adds its frames first: one record and one system call for all of them.
            tokio::task::yield_now().await;
            loop {
                let mut buf = {
                    let mut out = self.out.lock();
                    let next = std::mem::take(&mut spare);
                    std::mem::replace(&mut out.buf, next)
                };
                let woken = self.wake_waiters();
                if buf.is_empty() {
                    spare = buf;
                    if woken {
                        tokio::task::yield_now().await;
                        continue;
                    }
                    break;
                }
                let start = write_ws_head(&mut buf, self.role);
                if let Err(e) = link.write_all(&buf[start..]).await {
                    return e.to_string();
                }
                buf.clear();
                // An idle carrier keeps a small buffer only.
                buf.shrink_to(16 * 1024);
                spare = buf;
            }
        }
    }

    fn wake_waiters(&self) -> bool {
        let mut out = self.out.lock();
        let n = out.waiters.len().min(WAKE_BATCH);
        let waiters: Vec<Waker> = out.waiters.drain(..n).collect();
        drop(out);
        waiters.into_iter().for_each(Waker::wake);
        n > 0
    }

    async fn read_loop(self: &Arc<Carrier>, mut link: LinkRead, mut ws: WsReader, mut frames: FrameReader) -> String {
        let mut heard = Instant::now();
        let mut tick = tokio::time::interval(PING_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tick.reset();
        let mut plain = Lease::new();
        loop {
            let filled = tokio::select! {
                biased;
                filled = fill_or_release(&mut link, &mut plain) => filled,
                _ = tick.tick() => {
                    if heard.elapsed() > DEAD_AFTER {
                        return "no sign of life for 25 s".to_string();
                    }
                    self.push(Kind::Ping, 0, &[]);
                    continue;
                }
            };
            match filled {
                Ok(0) => return "the other side closed the connection".to_string(),
                Ok(_) => heard = Instant::now(),
                Err(e) => return e.to_string(),
            }
            if let Err(why) = self.take(&mut plain, &mut ws, &mut frames) {
                return why;
            }
            plain.clear();
        }
    }

    /// Cuts what arrived into frames and hands them out.
    fn take(self: &Arc<Carrier>, plain: &mut Lease, ws: &mut WsReader, frames: &mut FrameReader) -> Result<(), String> {
        let mut input = plain.filled_mut();
        while let Some(item) = ws.next(&mut input).map_err(|e| e.to_string())? {
            match item {
                WsItem::Payload(mut payload) => {
                    while let Some(part) = frames.next(&mut payload).map_err(|e| e.to_string())? {
                        self.part(part)?;
                    }
                }
                WsItem::Ping(bytes, len) => {
                    // A websocket ping of a proxy; answered inside our own stream of frames it would be data, so it is
                    // answered by a pong frame of ours, which any proxy takes as a sign of life.
                    let _ = (bytes, len);
                    self.push(Kind::Pong, 0, &[]);
                }
                WsItem::Close => {
                    return Err(
                        "a websocket close frame (a proxy in between is reloading, or the other side left)".to_string()
                    );
                }
            }
        }
        Ok(())
    }

    fn part(self: &Arc<Carrier>, part: Part<'_>) -> Result<(), String> {
        match part {
            Part::Data(id, bytes) => {
                // Data of a stream that is gone crossed its reset on the way.
                if let Some(core) = self.stream(id) {
                    core.arrived(bytes)?;
                    core.maybe_bulk(bytes.len(), (&core.came, &core.went));
                }
            }
            Part::Control(kind, id, payload) => self.control(kind, id, &payload)?,
        }
        Ok(())
    }

    fn control(self: &Arc<Carrier>, kind: Kind, id: u32, payload: &[u8]) -> Result<(), String> {
        match kind {
            Kind::Open => self.session.open(self, id, payload)?,
            Kind::End => {
                if let Some(core) = self.stream(id) {
                    core.peer_ended();
                }
            }
            Kind::Moved => {
                if let Some(core) = self.stream(id) {
                    core.wake_in(|inn| inn.moved = true);
                }
            }
            Kind::Reset => {
                if let Some(core) = self.stream(id) {
                    let reset = Reset::parse(payload);
                    self.session.was_reset(&reset);
                    core.reset(reset);
                }
            }
            Kind::Window => {
                let more = frame::parse_u32(kind, payload).map_err(|e| e.to_string())?;
                if let Some(core) = self.stream(id) {
                    core.granted(more)?;
                }
            }
            Kind::Ping => self.push(Kind::Pong, 0, &[]),
            Kind::Pong => {}
            Kind::Data | Kind::Bind => return Err(format!("a {kind:?} frame where none belongs")),
            Kind::Hello | Kind::Welcome | Kind::Reject | Kind::Dial | Kind::GoAway => {
                self.session.control(kind, payload)?
            }
        }
        Ok(())
    }
}

struct Ends(Arc<Carrier>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill("closed");
    }
}

impl Out {
    fn begin(&mut self) {
        if self.buf.is_empty() {
            self.buf.resize(HEAD_MAX, 0);
        }
    }
}

impl Core {
    fn new(carrier: Arc<Carrier>, id: u32) -> Arc<Core> {
        let mut inn = In::default();
        (inn.window, inn.full) = (WINDOW_FIRST, WINDOW_FIRST);
        let credit = Credit { left: WINDOW_FIRST, ..Credit::default() };
        Arc::new(Core {
            carrier,
            id,
            inn: Mutex::new(inn),
            out: Mutex::new(credit),
            total: AtomicU64::new(0),
            came: AtomicU64::new(0),
            went: AtomicU64::new(0),
            settled: AtomicBool::new(false),
        })
    }

    /// Sends stream data on the carrier; the caller has credit and room.
    pub(super) fn send(self: &Arc<Core>, bytes: &[u8]) {
        {
            let mut out = self.out.lock();
            out.left = out.left.saturating_sub(bytes.len() as u32);
        }
        self.carrier.push(Kind::Data, self.id, bytes);
        self.maybe_bulk(bytes.len(), (&self.went, &self.came));
    }

    /// Writes into this socket without a detour from now on. The caller still has to write what is queued.
    pub(super) fn direct(&self, sink: Arc<TcpStream>) {
        self.inn.lock().sink = Some(sink);
    }

    /// Data of the peer.
    fn arrived(&self, mut bytes: &[u8]) -> Result<(), String> {
        let mut inn = self.inn.lock();
        if inn.ended || inn.moved || inn.window < bytes.len() as u32 {
            return Err(format!("stream {} sent more than its window, or after its end", self.id));
        }
        inn.window -= bytes.len() as u32;
        if inn.reset.is_some() {
            return Ok(());
        }
        let mut grant = None;
        if inn.is_clear()
            && let Some(sink) = &inn.sink
        {
            // An error shows again when the stream's task next touches the socket.
            let n = sink.try_write(bytes).unwrap_or(0);
            bytes = &bytes[n..];
            grant = inn.take(n);
        }
        if !bytes.is_empty() {
            if BUFFERED.fetch_add(bytes.len() as u64, Ordering::Relaxed) > BUFFERED_MAX && !inn.queue.is_empty() {
                BUFFERED.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
                drop(inn);
                let words = "too many bytes wait for slow connections".to_string();
                let reset = Reset { code: ResetCode::Busy, words };
                self.carrier.push(Kind::Reset, self.id, &reset.bytes());
                self.reset(reset);
                return Ok(());
            }
            inn.queued += bytes.len();
            // Small pieces share one: each piece of its own would cost far more memory than its bytes.
            match inn.queue.back_mut() {
                Some(last) if last.len() + bytes.len() <= PIECE_MAX => last.extend_from_slice(bytes),
                _ => inn.queue.push_back(bytes.to_vec()),
            }
            wake(&mut inn.waker);
        }
        drop(inn);
        self.grant(grant);
        Ok(())
    }

    /// Takes the next waiting piece out of the queue.
    pub(super) fn pop(&self) -> Option<Vec<u8>> {
        let mut inn = self.inn.lock();
        let piece = inn.queue.pop_front()?;
        inn.held = true;
        inn.queued -= piece.len();
        BUFFERED.fetch_sub(piece.len() as u64, Ordering::Relaxed);
        Some(piece)
    }

    /// Bytes left the queue for good: the peer may send as many again.
    pub(super) fn consumed(&self, n: usize) {
        let grant = self.inn.lock().take(n);
        self.grant(grant);
    }

    fn grant(&self, grant: Option<u32>) {
        if let Some(more) = grant {
            self.carrier.push(Kind::Window, self.id, &more.to_be_bytes());
        }
    }

    fn granted(&self, more: u32) -> Result<(), String> {
        let mut out = self.out.lock();
        // The peer's window never exceeds WINDOW_MAX; twice that is an attack on the arithmetic.
        out.left = out.left.checked_add(more).filter(|l| *l <= 2 * WINDOW_MAX).ok_or("a window that has no end")?;
        wake(&mut out.waker);
        Ok(())
    }

    fn peer_ended(&self) {
        self.wake_in(|inn| {
            inn.ended = true;
            if inn.is_clear()
                && let Some(sink) = &inn.sink
            {
                let _ = net::sockets::half_close(sink);
                inn.sink_ended = true;
            }
        });
    }

    fn wake_in(&self, change: impl FnOnce(&mut In)) {
        let mut inn = self.inn.lock();
        change(&mut inn);
        wake(&mut inn.waker);
    }

    /// The stream is over in both directions.
    pub(super) fn reset(&self, reset: Reset) {
        self.wake_in(|inn| {
            inn.drop_queue();
            if inn.reset.is_none() {
                inn.reset = Some(reset);
            }
        });
        let mut out = self.out.lock();
        out.reset = true;
        wake(&mut out.waker);
    }

    /// Moves a stream that turned bulk to a link of its own (edge only): one whose bytes run one way, or very many.
    /// Short questions and answers in turn stay where they share records and system calls.
    fn maybe_bulk(self: &Arc<Core>, more: usize, (same, other): (&AtomicU64, &AtomicU64)) {
        let more = more as u64;
        let total = self.total.fetch_add(more, Ordering::Relaxed) + more;
        let run = same.fetch_add(more, Ordering::Relaxed) + more;
        let back = other.load(Ordering::Relaxed);
        if back > 0 {
            other.store(back.saturating_sub(TURN * more), Ordering::Relaxed);
        }
        if self.settled.load(Ordering::Relaxed) || (run < BULK_AFTER && total < BULK_ANYWAY) {
            return;
        }
        self.go_bulk();
    }

    fn go_bulk(self: &Arc<Core>) {
        if let Some(pool) = self.carrier.session.pool() {
            pool.assign(self);
        }
    }

    /// Hands both halves of a bulk link to the stream.
    pub(super) fn bind(&self, link: BulkLink, home: Home) {
        self.settled.store(true, Ordering::Relaxed);
        let BulkLink { read, write } = link;
        let mut out = self.out.lock();
        if out.gone {
            // Its stream was dropped a moment ago: the link is lost with `home`.
            return;
        }
        self.wake_in(|inn| inn.link = Some(read));
        out.link = Some(write);
        out.home = Some(home);
        wake(&mut out.waker);
    }
}

impl In {
    /// Counts taken bytes; says how many the peer may send again once half of the window is used up. A stream that
    /// keeps up gets a wider window.
    fn take(&mut self, n: usize) -> Option<u32> {
        self.taken += n as u32;
        if self.taken < self.full / 2 || self.ended || self.moved {
            return None;
        }
        let mut grant = std::mem::take(&mut self.taken);
        if self.queue.is_empty() && self.full < WINDOW_MAX && BUFFERED.load(Ordering::Relaxed) < BUFFERED_MAX / 2 {
            grant += self.full;
            self.full *= 2;
        }
        self.window += grant;
        Some(grant)
    }

    /// Nothing waits to be written before what comes next.
    fn is_clear(&self) -> bool {
        self.queue.is_empty() && !self.held
    }

    fn drop_queue(&mut self) {
        BUFFERED.fetch_sub(self.queued as u64, Ordering::Relaxed);
        self.queued = 0;
        self.queue = VecDeque::new();
    }
}

impl Drop for In {
    fn drop(&mut self) {
        self.drop_queue();
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Carrier({})", self.no)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Writes the websocket head into the room before the frames; returns where the message starts.
fn write_ws_head(buf: &mut [u8], role: Role) -> usize {
    let len = buf.len() - HEAD_MAX;
    let mut room = [0; HEAD_MAX];
    let start = ws::write_head(&mut room, role, len);
    buf[..HEAD_MAX].copy_from_slice(&room);
    start
}

/// Reads; an idle link gives its buffer back while it waits.
async fn fill_or_release(link: &mut LinkRead, plain: &mut Lease) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let polled = link.poll_fill(cx, plain);
        if polled.is_pending() {
            plain.release();
        }
        polled
    })
    .await
}

/// Room before stream data for a websocket head and a frame head.
pub(super) const HEADS: usize = HEAD_MAX + FRAME_HEAD;

pub(super) fn log_gone(what: &str, why: &str) {
    debug!("{what} is gone: {why}");
}
