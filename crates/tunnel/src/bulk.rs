//! Bulk links: connections that carry one stream at a time, for streams that turned bulk. In: idle links that clients
//! dialled ahead of need. Out: streams that no longer share anything, and links that come back when a stream is over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use net::buffers::Lease;
use net::link::{Closer, Link, LinkRead, LinkWrite};
use parking_lot::Mutex;
use tunnel_proto::frame::{FRAME_HEAD, FrameReader, Head, Kind, Part};
use tunnel_proto::ws::{self, HEAD_MAX, Role, WsItem, WsReader};

use super::mux::{Carrier, Core, HEADS, Home};

/// A stream with this many bytes in one direction is bulk: past the size of most pages, before the size where sharing
/// costs throughput.
pub(super) const BULK_AFTER: u64 = 128 * 1024;

/// A stream with this many bytes in both directions together is bulk however they alternate.
pub(super) const BULK_ANYWAY: u64 = 4 * 1024 * 1024;

/// A byte the other way makes up for this many: answers up to eight times their question never count as bulk.
pub(super) const TURN: u64 = 8;

/// Bulk links a client dials ahead of need.
pub(super) const WARM: u32 = 2;

/// Bulk links of one session, busy and idle: each costs both ends a socket and TLS state. Further bulk streams stay
/// on the carriers.
pub(super) const LINKS_MAX: u32 = 64;

/// Idle links kept when a burst is over.
const IDLE_KEEP: usize = 8;

/// A bulk link with its readers' state.
#[derive(Debug)]
pub(super) struct BulkLink {
    pub(super) read: BulkRead,
    pub(super) write: BulkWrite,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct BulkRead {
    link: LinkRead,
    ws: WsReader,
    frames: FrameReader,
    plain: Lease,
    /// Bytes of `plain` not yet cut into messages, from here.
    at: usize,
    /// Websocket payload not yet cut into frames.
    payload: (usize, usize),
    /// Stream data not yet taken.
    data: (usize, usize),
}

/// The writing half.
#[derive(Debug)]
pub(super) struct BulkWrite {
    link: LinkWrite,
    role: Role,
}

/// What comes next on a bulk link.
#[derive(Debug)]
pub(super) enum Next {
    /// Data of this stream is ready in [`BulkRead::data`].
    Data(u32),
    /// A control frame.
    Control(Kind, u32, Vec<u8>),
    /// The connection ended.
    Gone,
}

/// Idle bulk links of a session (edge).
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<BulkLink>>,
    counts: Mutex<Counts>,
    /// Every link that lives, to end them with the session.
    all: Mutex<Vec<Closer>>,
    /// Carrier that requests for more go to.
    main: Mutex<Option<std::sync::Weak<Carrier>>>,
}

/// How many links there are and will be.
#[derive(Debug, Default)]
struct Counts {
    /// Links that live or were asked for.
    known: u32,
    /// Links asked for that have not come.
    asked: u32,
    /// When the last one was asked for.
    asked_at: Option<Instant>,
    /// The session is over: no link is wanted.
    over: bool,
}

/// A link that was asked for and has not come by then will not come: a dial takes 15 s at the most.
const COMES_WITHIN: Duration = Duration::from_secs(20);

/// Links asked for at the same time.
const ASKED_MAX: u32 = 8;

impl BulkLink {
    pub(super) fn new(link: Link, role: Role, ws: WsReader) -> BulkLink {
        let Link { read, write } = link;
        let read = BulkRead {
            link: read,
            ws,
            frames: FrameReader::default(),
            plain: Lease::new(),
            at: 0,
            payload: (0, 0),
            data: (0, 0),
        };
        BulkLink { read, write: BulkWrite { link: write, role } }
    }

    /// True if nothing is under way: the link may serve another stream.
    pub(super) fn is_at_rest(&mut self) -> bool {
        self.write.is_flushed()
    }

    /// Reads what arrived while idle: pings. False if the link is of no more use.
    fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            match self.read.poll_next(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(Ok(Next::Control(Kind::Ping | Kind::Pong, ..))) => {}
                Poll::Ready(_) => return false,
            }
        }
    }
}

impl BulkRead {
    /// The data that [`Next::Data`] announced.
    pub(super) fn data(&self) -> &[u8] {
        self.plain.filled().get(self.data.0..self.data.1).unwrap_or_default()
    }

    /// Takes `n` bytes from the front of [`BulkRead::data`].
    pub(super) fn consume(&mut self, n: usize) {
        self.data.0 = (self.data.0 + n).min(self.data.1);
    }

    /// The next frame, or part of a `Data` frame. Earlier data must have been consumed.
    ///
    /// # Errors
    /// The connection or the protocol broke.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Next>> {
        loop {
            if self.payload.0 < self.payload.1 {
                if let Some(next) = self.next_frame()? {
                    return Poll::Ready(Ok(next));
                }
                continue;
            }
            if self.at < self.plain.filled().len() {
                if !self.next_message()? {
                    return Poll::Ready(Ok(Next::Gone));
                }
                continue;
            }
            self.plain.clear();
            self.at = 0;
            match self.link.poll_fill(cx, &mut self.plain) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Next::Gone)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.plain.release();
                    return Poll::Pending;
                }
            }
        }
    }

    fn next_frame(&mut self) -> io::Result<Option<Next>> {
        let (from, to) = self.payload;
        let mut input = &self.plain.filled()[from..to];
        let part = self.frames.next(&mut input).map_err(broken)?;
        let left = input.len();
        self.payload.0 = to - left;
        Ok(match part {
            Some(Part::Data(stream, bytes)) => {
                self.data = (self.payload.0 - bytes.len(), self.payload.0);
                Some(Next::Data(stream))
            }
            Some(Part::Control(kind, stream, payload)) => Some(Next::Control(kind, stream, payload)),
            None => None,
        })
    }

    fn next_message(&mut self) -> io::Result<bool> {
        let all = self.plain.filled().len();
        let mut input = &mut self.plain.filled_mut()[self.at..];
        let item = self.ws.next(&mut input).map_err(broken)?;
        let payload = match item {
            Some(WsItem::Payload(bytes)) => bytes.len(),
            Some(WsItem::Close) => return Ok(false),
            Some(WsItem::Ping(..)) | None => 0,
        };
        self.at = all - input.len();
        self.payload = (self.at - payload, self.at);
        Ok(true)
    }
}

impl BulkWrite {
    /// True if nothing is under way.
    fn is_flushed(&mut self) -> bool {
        matches!(self.link.poll_flush(&mut Context::from_waker(std::task::Waker::noop())), Poll::Ready(Ok(())))
    }

    /// True when another frame may be sent.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.poll_flush(cx)
    }

    /// Sends a `Data` frame whose bytes stand in `buf` from [`HEADS`] on; the heads are written before them.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn send_data(&mut self, stream: u32, buf: &mut [u8], len: usize) -> io::Result<()> {
        let start = write_heads(&mut buf[..HEADS], self.role, Head { kind: Kind::Data, len, stream });
        self.link.send(&buf[start..HEADS + len])
    }

    /// Sends a control frame.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.link.send(&message(self.role, kind, stream, payload))
    }

    /// Sends a control frame and waits until it is out.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) async fn say(&mut self, kind: Kind) -> io::Result<()> {
        self.link.flush().await?;
        self.send(kind, 0, &[])?;
        self.link.flush().await
    }
}

impl Pool {
    pub(super) fn new() -> Arc<Pool> {
        let counts = Counts { known: WARM, asked: WARM, asked_at: Some(Instant::now()), over: false };
        Arc::new(Pool { counts: Mutex::new(counts), ..Pool::default() })
    }

    /// Requests for more links go to this carrier.
    pub(super) fn set_main(&self, carrier: &Arc<Carrier>) {
        *self.main.lock() = Some(Arc::downgrade(carrier));
    }

    /// A link that the client dialled. False if there are too many, or the session is over.
    pub(super) fn arrived(&self, link: BulkLink, closer: Closer) -> bool {
        let mut counts = self.counts.lock();
        if counts.over {
            return false;
        }
        if counts.asked > 0 {
            counts.asked -= 1;
        } else if counts.known < LINKS_MAX {
            // Dialled again after one was lost.
            counts.known += 1;
        } else {
            return false;
        }
        let mut all = self.all.lock();
        all.retain(|c| !c.is_gone());
        all.push(closer);
        drop(all);
        self.idle.lock().push(link);
        true
    }

    /// Ends every link, whoever uses it: the session is over.
    pub(super) fn end(&self) {
        self.counts.lock().over = true;
        self.idle.lock().clear();
        self.all.lock().drain(..).for_each(|c| c.close());
    }

    /// Gives a link to a stream, or asks the client for more.
    pub(super) fn assign(self: &Arc<Pool>, core: &Arc<Core>) {
        loop {
            let Some(mut link) = self.idle.lock().pop() else {
                self.ask_for_more();
                return;
            };
            if core.settled.swap(true, Ordering::AcqRel) {
                self.idle.lock().push(link);
                return;
            }
            // A direction that ended on the carrier leaves nothing to move.
            let ended = core.inn.lock().ended;
            let over = {
                let out = core.out.lock();
                out.reset || out.gone
            };
            if ended || over {
                self.idle.lock().push(link);
                return;
            }
            let payload = [core.carrier.no];
            if !link.is_alive() || link.write.send(Kind::Bind, core.id, &payload).is_err() {
                self.lost(1);
                core.settled.store(false, Ordering::Release);
                continue;
            }
            let pool = Arc::downgrade(self);
            core.bind(
                link,
                Home::new(move |link| {
                    let Some(pool) = pool.upgrade() else { return };
                    match link {
                        Some(link) => pool.idle.lock().push(link),
                        None => pool.lost(1),
                    }
                }),
            );
            return;
        }
    }

    /// Links that will not come back.
    fn lost(&self, n: u32) {
        let mut counts = self.counts.lock();
        counts.known = counts.known.saturating_sub(n);
    }

    /// Drops links that died or that nobody needs any more. Call it every half minute.
    pub(super) fn sweep(&self) {
        let gone = {
            let mut idle = self.idle.lock();
            let before = idle.len();
            idle.retain_mut(BulkLink::is_alive);
            idle.truncate(IDLE_KEEP);
            (before - idle.len()) as u32
        };
        self.lost(gone);
        let mut counts = self.counts.lock();
        if counts.asked > 0 && counts.asked_at.is_none_or(|at| at.elapsed() > COMES_WITHIN) {
            counts.known = counts.known.saturating_sub(counts.asked);
            counts.asked = 0;
        }
    }

    /// Idle links now.
    pub(super) fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    fn ask_for_more(&self) {
        let Some(main) = self.main.lock().as_ref().and_then(std::sync::Weak::upgrade) else { return };
        {
            let mut counts = self.counts.lock();
            if counts.asked >= ASKED_MAX || counts.known >= LINKS_MAX || counts.over {
                return;
            }
            counts.known += 1;
            counts.asked += 1;
            counts.asked_at = Some(Instant::now());
        }
        main.push(Kind::Dial, 0, &1u32.to_be_bytes());
    }
}

/// A frame of the session as a websocket message of its own; for words before a carrier runs.
pub(super) fn whole_message(role: Role, kind: Kind, payload: &[u8]) -> Vec<u8> {
    message(role, kind, 0, payload)
}

fn message(role: Role, kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; HEADS];
    buf.extend_from_slice(payload);
    let start = write_heads(&mut buf[..HEADS], role, Head { kind, len: payload.len(), stream });
    buf.drain(..start);
    buf
}

fn write_heads(room: &mut [u8], role: Role, head: Head) -> usize {
    let mut ws_room = [0; HEAD_MAX];
    let start = ws::write_head(&mut ws_room, role, FRAME_HEAD + head.len);
    room[..HEAD_MAX].copy_from_slice(&ws_room);
    room[HEAD_MAX..].copy_from_slice(&head.bytes());
    start
}

fn broken(e: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e.to_string())
}

/// Polls until another frame may be sent, then says it; for pings on a link that a silent stream holds.
pub(super) fn poll_say(write: &mut BulkWrite, cx: &mut Context<'_>, kind: Kind) -> Poll<io::Result<()>> {
    ready!(write.poll_ready(cx))?;
    Poll::Ready(write.send(kind, 0, &[]))
}
