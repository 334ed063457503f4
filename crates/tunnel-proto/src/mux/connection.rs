//! One shared connection and its streams. In: frames, lengths, the time, what users of streams want. Out: frames in one
//! buffer, events, what may be read and sent.
//!
//! Both edge and client run this; only the edge opens streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::number_map::NumberMap;
use super::stream::{Finish, OverWindow, Read, Recv, Room, Send, Usage, Way};
use super::{Buffered, DEAD_AFTER, OUT_END, OUT_MAX, PING_EVERY, STREAMS_MAX, dedicated};
use crate::frame::{self, FrameError, Kind, Reset, ResetCode};
use crate::ws::{HEAD_MAX, Role, WsError};

/// Senders told of room at a time: enough to fill the buffer again with full quanta, few enough not to stampede.
const WAKE_BATCH: usize = 16;

/// A peer that moved to a dedicated connection which does not come by then has lost it: longer than one that broke can
/// look alive, and than most streams take to let go of one that was promised to the next.
const DEDICATED_COMES_WITHIN: Duration = Duration::from_secs(60);

/// Numbers for the streams of a session's connections. No stream has the number of an earlier one, even on a connection
/// that replaced a broken one: a dedicated connection may still be on its way to a stream of the old one, by number.
#[derive(Debug)]
pub struct StreamNumbers(AtomicU32);

impl Default for StreamNumbers {
    fn default() -> StreamNumbers {
        StreamNumbers(AtomicU32::new(1))
    }
}

/// A shared connection. `T` is what the caller keeps for each stream.
#[derive(Debug)]
pub struct Connection<T> {
    role: Role,
    streams: NumberMap<Box<Stream<T>>>,
    numbers: Arc<StreamNumbers>,
    /// Frames to be sent, behind room for a websocket head.
    out: Vec<u8>,
    /// Streams that wait for room in `out`, in their order.
    blocked: VecDeque<u32>,
    events: VecDeque<Event>,
    /// When the peer was last heard.
    heard: Instant,
    ping_at: Instant,
    is_dead: bool,
    buffered: Arc<Buffered>,
}

#[derive(Debug)]
struct Stream<T> {
    recv: Recv,
    send: Send,
    usage: Usage,
    dedicated: Dedicated,
    /// When the peer said that it moved.
    moved_at: Option<Instant>,
    local: T,
}

/// Where a stream stands with a dedicated connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dedicated {
    /// It has none, and may get one.
    Without,
    /// One is set aside for it; the peer is being told.
    Assigned,
    /// It is there for both directions.
    Bound,
    /// It gets none any more.
    Declined,
}

/// What happened that the caller has to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opens a stream (client only): [`Connection::accept`] it or [`Connection::refuse`] it.
    Open {
        /// Its number.
        stream: u32,
        /// A [`frame::Open`].
        payload: Vec<u8>,
    },
    /// [`Connection::read`] has something else than [`Read::Wait`].
    Readable(u32),
    /// [`Connection::room`] may have something else than [`Room::Wait`].
    Writable(u32),
    /// The stream is bulk: if a dedicated connection is idle, [`Connection::assign`] it (edge only).
    WantsDedicated(u32),
    /// A frame of the session.
    Session(Kind, Vec<u8>),
    /// The peer ended a stream before its time.
    PeerReset(Reset),
    /// The connection is of no more use, for this reason.
    Dead(String),
}

/// What [`Connection::handle_frame`] leaves to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Nothing but the events.
    Whole,
    /// The peer ended its direction of this stream, and nothing waits before the end: it may be passed on at once.
    Ended(u32),
}

/// What to do with data that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nobody wants it: its stream is gone or was reset, which the peer is about to hear.
    Drop,
    /// Nothing waits before it: the caller may hand some of it out without a detour. Then
    /// [`Connection::delivered`].
    Direct,
    /// It must wait: [`Connection::delivered`] with 0.
    Queue,
}

/// What is left of a stream that its user let go.
#[derive(Debug)]
pub struct Closed<T> {
    /// The end has yet to be said on the dedicated connection.
    pub end_on_dedicated: bool,
    /// Both directions ended as they should and the peer has left the dedicated connection, or will with the end: it
    /// may serve another stream, if everything on it is sent.
    pub may_reuse: bool,
    /// What the caller kept.
    pub local: T,
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Broken {
    /// More than the stream's credit, or something after its end.
    #[error("stream {0} sent more than its window, or after its end")]
    OverWindow(u32),
    /// Credit beyond any window.
    #[error("a window that has no end")]
    EndlessWindow,
    /// A frame that does not belong on a shared connection.
    #[error("a {0:?} frame where none belongs")]
    Misplaced(Kind),
    /// A client opened a stream.
    #[error("only the edge opens streams")]
    OpenedByClient,
    /// Bytes that are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Bytes that are no websocket messages.
    #[error(transparent)]
    Websocket(#[from] WsError),
    /// The peer, or a proxy in its name, closes.
    #[error("a websocket close frame (a proxy in between is reloading, or the other side left)")]
    Closing,
    /// Nothing was heard for [`DEAD_AFTER`].
    #[error("no sign of life for 25 s")]
    Silent,
    /// [`OUT_END`] bytes wait for it.
    #[error("the other side does not read what it is sent")]
    DoesNotRead,
}

impl<T> Connection<T> {
    /// A connection that was just made. All connections of a session share `numbers`, all of a process `buffered`.
    #[must_use]
    pub fn new(role: Role, numbers: Arc<StreamNumbers>, buffered: Arc<Buffered>, now: Instant) -> Connection<T> {
        Connection {
            role,
            streams: NumberMap::default(),
            numbers,
            out: Vec::new(),
            blocked: VecDeque::new(),
            events: VecDeque::new(),
            heard: now,
            ping_at: now + PING_EVERY,
            is_dead: false,
            buffered,
        }
    }

    /// Which end this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// True once it is of no more use.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_dead
    }

    /// Streams on it now; none on a dead one.
    #[must_use]
    pub fn load(&self) -> usize {
        if self.is_dead { 0 } else { self.streams.len() }
    }

    /// What happened, in order. Call it until `None` after every other call.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    // What waits for the peer.

    /// True if [`Connection::poll_transmit`] has something.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        !self.out.is_empty() || !self.blocked.is_empty()
    }

    /// Moves what is to be sent into `buf`, which must be empty and lends its memory: one websocket message, from the
    /// returned place on. `None` if nothing waits. Senders that waited for room hear of it.
    pub fn poll_transmit(&mut self, buf: &mut Vec<u8>) -> Option<usize> {
        std::mem::swap(&mut self.out, buf);
        for _ in 0..WAKE_BATCH {
            let Some(id) = self.blocked.pop_front() else { break };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.send.blocked = false;
                self.events.push_back(Event::Writable(id));
            }
        }
        if buf.is_empty() {
            return None;
        }
        Some(dedicated::write_ws_head(buf, self.role))
    }

    /// Queues a frame of the session.
    pub fn push_session(&mut self, kind: Kind, payload: &[u8]) {
        self.push(kind, 0, payload);
    }

    /// Queues a frame that does not wait for room. A peer that makes us answer and does not read loses the connection.
    fn push(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        if self.is_dead {
            return;
        }
        if self.out.is_empty() {
            self.out.resize(HEAD_MAX, 0);
        }
        frame::push(&mut self.out, kind, stream, payload);
        if self.out.len() > OUT_END {
            self.kill(&Broken::DoesNotRead.to_string());
        }
    }

    // Time.

    /// When [`Connection::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (!self.is_dead).then_some(self.ping_at)
    }

    /// Says a ping when one is due, and ends streams whose dedicated connection does not come: it broke before its
    /// first word was read, and the peer may be done with the stream.
    ///
    /// # Errors
    /// The peer has been silent for too long.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Broken> {
        if self.is_dead || now < self.ping_at {
            return Ok(());
        }
        if now.saturating_duration_since(self.heard) > DEAD_AFTER {
            return Err(Broken::Silent);
        }
        self.push(Kind::Ping, 0, &[]);
        self.ping_at = now + PING_EVERY;
        for id in self.ids() {
            let Some(stream) = self.streams.get(&id) else { continue };
            let waits = stream.moved_at.is_some_and(|at| now.saturating_duration_since(at) > DEDICATED_COMES_WITHIN);
            if waits && stream.dedicated != Dedicated::Bound {
                let words = "its connection of its own did not come".to_string();
                self.reset(id, &Reset { code: ResetCode::Broken, words });
            }
        }
        Ok(())
    }

    /// Bytes of the peer came, whatever they mean.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Breaks the connection and its streams.
    pub fn kill(&mut self, why: &str) {
        if self.is_dead {
            return;
        }
        self.is_dead = true;
        self.out = Vec::new();
        self.blocked.clear();
        for id in self.ids() {
            let words = format!("the link to the other side was lost: {why}");
            self.end_both(id, Reset { code: ResetCode::Broken, words });
        }
        self.events.push_back(Event::Dead(why.to_string()));
    }

    // Frames of the peer.

    /// A websocket ping of a proxy; answered by a pong frame of ours, which any proxy takes as a sign of life. Its own
    /// answer inside our stream of frames would be data.
    pub fn handle_ws_ping(&mut self) {
        self.push(Kind::Pong, 0, &[]);
    }

    /// A frame that is not `Data`.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn handle_frame(&mut self, kind: Kind, id: u32, payload: Vec<u8>) -> Result<Handled, Broken> {
        if self.is_dead {
            return Ok(Handled::Whole);
        }
        match kind {
            Kind::Open if self.role == Role::Client => self.events.push_back(Event::Open { stream: id, payload }),
            Kind::Open => return Err(Broken::OpenedByClient),
            Kind::End => return Ok(self.peer_ended(id)),
            Kind::Moved => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.recv.moved = true;
                    stream.moved_at.get_or_insert(self.heard);
                    self.events.push_back(Event::Readable(id));
                }
            }
            Kind::Reset if self.streams.contains_key(&id) => {
                let reset = Reset::parse(&payload);
                self.events.push_back(Event::PeerReset(reset.clone()));
                self.end_both(id, reset);
            }
            Kind::Window => {
                let more = frame::parse_u32(kind, &payload)?;
                if let Some(stream) = self.streams.get_mut(&id) {
                    if !stream.send.granted(more) {
                        return Err(Broken::EndlessWindow);
                    }
                    self.events.push_back(Event::Writable(id));
                }
            }
            Kind::Ping => self.push(Kind::Pong, 0, &[]),
            Kind::Reset | Kind::Pong => {}
            Kind::Data | Kind::Bind => return Err(Broken::Misplaced(kind)),
            Kind::Hello | Kind::Welcome | Kind::Reject | Kind::Dial | Kind::GoAway => {
                self.events.push_back(Event::Session(kind, payload));
            }
        }
        Ok(Handled::Whole)
    }

    fn peer_ended(&mut self, id: u32) -> Handled {
        let Some(stream) = self.streams.get_mut(&id) else { return Handled::Whole };
        stream.recv.ended = true;
        self.events.push_back(Event::Readable(id));
        if stream.recv.is_clear() && stream.recv.reset.is_none() { Handled::Ended(id) } else { Handled::Whole }
    }

    /// `len` bytes of stream data came. Unless they are to be dropped, [`Connection::delivered`] must follow before the
    /// next frame is handled.
    ///
    /// # Errors
    /// The peer had no credit for them.
    pub fn handle_data(&mut self, id: u32, len: usize) -> Result<Delivery, Broken> {
        // Data of a stream that is gone crossed its reset on the way.
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(Delivery::Drop) };
        stream.recv.arrives(len).map_err(|OverWindow| Broken::OverWindow(id))?;
        Ok(match &stream.recv {
            recv if recv.reset.is_some() => Delivery::Drop,
            recv if recv.is_clear() => Delivery::Direct,
            _ => Delivery::Queue,
        })
    }

    /// What became of data that came: `taken` bytes went to the stream's user at once, `rest` has to wait.
    pub fn delivered(&mut self, id: u32, taken: usize, rest: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.recv.reset.is_some() {
            return;
        }
        let grant = stream.recv.consumed(taken, &self.buffered);
        if !rest.is_empty() {
            if !stream.recv.queue(rest, &self.buffered) {
                let words = "too many bytes wait for slow connections".to_string();
                self.reset(id, &Reset { code: ResetCode::Busy, words });
                return;
            }
            self.events.push_back(Event::Readable(id));
        }
        let is_bulk = stream.usage.count(taken + rest.len(), Way::Came);
        self.want_dedicated(id, is_bulk);
        self.grant(id, grant);
    }

    // What users of streams want.

    /// Opens a stream to the peer (edge only); `dedicated`: whatever it carries, on a connection of its own if one is
    /// there. `None` if this connection is dead or full.
    pub fn open(&mut self, payload: &[u8], dedicated: bool, local: T) -> Option<u32> {
        if self.is_dead || self.streams.len() >= STREAMS_MAX {
            return None;
        }
        let id = loop {
            let id = self.numbers.0.fetch_add(1, Ordering::Relaxed);
            if id != 0 && !self.streams.contains_key(&id) {
                break id;
            }
        };
        self.streams.insert(id, Stream::new(local));
        self.push(Kind::Open, id, payload);
        self.want_dedicated(id, dedicated);
        Some(id)
    }

    /// Accepts a stream that the peer opens (client only). False if it is refused; the peer was told.
    pub fn accept(&mut self, id: u32, local: T) -> bool {
        if self.is_dead {
            return false;
        }
        if self.streams.len() >= STREAMS_MAX || self.streams.contains_key(&id) {
            let words = "too many streams at once".to_string();
            self.refuse(id, &Reset { code: ResetCode::Busy, words });
            return false;
        }
        self.streams.insert(id, Stream::new(local));
        true
    }

    /// Refuses a stream that the peer opens.
    pub fn refuse(&mut self, id: u32, why: &Reset) {
        self.push(Kind::Reset, id, &why.bytes());
    }

    /// What the caller keeps for a stream.
    pub fn local(&mut self, id: u32) -> Option<&mut T> {
        self.streams.get_mut(&id).map(|s| &mut s.local)
    }

    /// The next thing that came.
    pub fn read(&mut self, id: u32) -> Read {
        match self.streams.get_mut(&id) {
            Some(stream) => stream.recv.read(stream.dedicated == Dedicated::Bound, &self.buffered),
            None => Read::Reset(gone()),
        }
    }

    /// `n` bytes of what [`Connection::read`] gave are used up: the peer may send as many again.
    pub fn consumed(&mut self, id: u32, n: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let grant = stream.recv.consumed(n, &self.buffered);
        self.grant(id, grant);
    }

    /// The end of the peer's direction came on the dedicated connection.
    pub fn ended_on_dedicated(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.recv.finished = true;
        }
    }

    /// How much may be sent now. Whoever gets [`Room::Dedicated`] has left this connection with its direction.
    pub fn room(&mut self, id: u32) -> Room {
        let Some(stream) = self.streams.get_mut(&id) else { return Room::Reset(gone()) };
        if stream.send.on_dedicated || stream.may_move() {
            self.moves(id);
            return Room::Dedicated;
        }
        if let Some(reset) = &stream.recv.reset {
            return Room::Reset(reset.clone());
        }
        let credit = stream.send.credit();
        if credit == 0 {
            return Room::Wait;
        }
        if self.out.len() >= OUT_MAX {
            if !std::mem::replace(&mut stream.send.blocked, true) {
                self.blocked.push_back(id);
            }
            return Room::Wait;
        }
        Room::Bytes(credit)
    }

    /// Moves the sending direction to the dedicated connection if one is bound and the direction is not over. True if
    /// it is there, now or before.
    pub fn moves(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        if stream.send.on_dedicated {
            return true;
        }
        if !stream.may_move() {
            return false;
        }
        stream.send.on_dedicated = true;
        self.push(Kind::Moved, id, &[]);
        true
    }

    /// Sends data; at most as much as [`Connection::room`] said. Returns how much may follow at once; 0: ask for room
    /// again.
    pub fn send(&mut self, id: u32, bytes: &[u8]) -> usize {
        let Some(stream) = self.streams.get_mut(&id) else { return 0 };
        stream.send.sent(bytes.len());
        let is_bulk = stream.usage.count(bytes.len(), Way::Went);
        let stays = !is_bulk && stream.dedicated != Dedicated::Bound && stream.recv.reset.is_none();
        let more = if stays { stream.send.credit() } else { 0 };
        self.push(Kind::Data, id, bytes);
        self.want_dedicated(id, is_bulk);
        if self.out.len() < OUT_MAX && !self.is_dead { more } else { 0 }
    }

    /// Says that no more bytes follow.
    pub fn finish(&mut self, id: u32) -> Finish {
        let Some(stream) = self.streams.get_mut(&id) else { return Finish::Said };
        if std::mem::replace(&mut stream.send.done, true) {
            return Finish::Said;
        }
        if stream.send.on_dedicated {
            return Finish::Dedicated;
        }
        self.push(Kind::End, id, &[]);
        Finish::Said
    }

    /// Ends both directions at once and tells the peer why, unless either end did so before. The stream stays until it
    /// is [closed](Connection::close).
    pub fn reset(&mut self, id: u32, why: &Reset) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.recv.reset.is_some() || std::mem::replace(&mut stream.send.told_reset, true) {
            return;
        }
        self.push(Kind::Reset, id, &why.bytes());
        self.end_both(id, why.clone());
    }

    /// Lets a stream go. One that is not over is reset, so that nobody takes a part for the whole.
    pub fn close(&mut self, id: u32) -> Option<Closed<T>> {
        let stream = self.streams.get(&id)?;
        let is_reset = stream.recv.reset.is_some() || stream.send.told_reset;
        let mut end_on_dedicated = false;
        if stream.recv.finished && !is_reset {
            // The peer has sent everything and waits for nothing: an end is as good as a reset, and keeps a dedicated
            // connection.
            end_on_dedicated = self.finish(id) == Finish::Dedicated;
        } else {
            self.reset(id, &gone());
        }
        let mut stream = self.streams.remove(&id)?;
        stream.recv.drop_queue(&self.buffered);
        let whole = stream.recv.finished && stream.send.done && !is_reset && stream.recv.reset.is_none();
        // A client that has not moved may have sent everything before it heard of the dedicated connection. It then
        // waits for a stream that is over and would not hear of the next one: such a connection is not used again.
        let peer_heard = stream.recv.on_dedicated || self.role == Role::Client;
        let may_reuse = whole && peer_heard && stream.dedicated == Dedicated::Bound;
        Some(Closed { end_on_dedicated, may_reuse, local: stream.local })
    }

    // Dedicated connections.

    /// Sets an idle dedicated connection aside for a stream (edge only). If true, the caller says `Bind` on it and then
    /// calls [`Connection::bind`], or [`Connection::unassign`] if that failed; if false, the stream does not need it.
    pub fn assign(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.dedicated == Dedicated::Without) else {
            return false;
        };
        // A direction that ended here leaves nothing to move.
        let is_over = stream.recv.ended || stream.recv.reset.is_some();
        stream.dedicated = if is_over { Dedicated::Declined } else { Dedicated::Assigned };
        !is_over
    }

    /// The dedicated connection that was set aside is of no use.
    pub fn unassign(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id).filter(|s| s.dedicated == Dedicated::Assigned) {
            stream.dedicated = Dedicated::Without;
        }
    }

    /// A dedicated connection belongs to the stream from here on. `None`: the stream is gone, or has one; the
    /// connection is to be dropped.
    pub fn bind(&mut self, id: u32) -> Option<&mut T> {
        let stream = self.streams.get_mut(&id).filter(|s| s.dedicated != Dedicated::Bound)?;
        stream.dedicated = Dedicated::Bound;
        self.events.extend([Event::Readable(id), Event::Writable(id)]);
        Some(&mut stream.local)
    }

    // Helpers.

    /// Its streams, in the order of their numbers.
    #[expect(clippy::disallowed_methods, reason = "sorted here")]
    fn ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The stream is over in both directions.
    fn end_both(&mut self, id: u32, reset: Reset) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.recv.drop_queue(&self.buffered);
        stream.recv.reset.get_or_insert(reset);
        self.events.extend([Event::Readable(id), Event::Writable(id)]);
    }

    fn want_dedicated(&mut self, id: u32, is_bulk: bool) {
        let may = |s: &Stream<T>| s.dedicated == Dedicated::Without;
        if is_bulk && self.role == Role::Server && self.streams.get(&id).is_some_and(|s| may(s)) {
            self.events.push_back(Event::WantsDedicated(id));
        }
    }

    fn grant(&mut self, id: u32, grant: Option<u32>) {
        if let Some(more) = grant {
            self.push(Kind::Window, id, &more.to_be_bytes());
        }
    }

    /// Bytes that wait in its streams; for tests of bounds.
    #[doc(hidden)]
    #[must_use]
    pub fn queued(&mut self) -> usize {
        self.ids().iter().filter_map(|id| self.streams.get(id)).map(|s| s.recv.queued()).sum()
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        for (_, mut stream) in self.streams.drain() {
            stream.recv.drop_queue(&self.buffered);
        }
    }
}

impl<T> Stream<T> {
    fn new(local: T) -> Box<Stream<T>> {
        Box::new(Stream {
            recv: Recv::new(),
            send: Send::new(),
            usage: Usage::default(),
            dedicated: Dedicated::Without,
            moved_at: None,
            local,
        })
    }

    /// A dedicated connection is there and the sending direction, which is not over, has not gone there yet.
    fn may_move(&self) -> bool {
        self.dedicated == Dedicated::Bound && !self.send.on_dedicated && !self.send.done && self.recv.reset.is_none()
    }
}

/// What a stream that was let go says.
fn gone() -> Reset {
    Reset { code: ResetCode::Broken, words: String::new() }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant has no other beginning")]
mod tests;
