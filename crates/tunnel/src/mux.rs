//! Many streams on one link: a carrier. In: frames of the peer, bytes of local sockets. Out: the same at the other
//! end. The rules are [`tunnel_proto::mux::Connection`]; here are its link, its lock and its wakers.
//!
//! Reading: one task per carrier decrypts, cuts frames and writes stream data straight into the stream's socket, outside
//! of the lock. What a slow socket does not take waits in the stream, so that it never stalls another one.
//! Writing: streams append frames to one buffer; one task sends it, so that small frames of many streams share a
//! record and a system call.

use std::io;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use net::buffers::Lease;
use net::link::{Link, LinkRead, LinkWrite};
use parking_lot::{Mutex, MutexGuard};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::debug;
use tunnel_proto::frame::{FrameReader, Kind, Part, Reset};
use tunnel_proto::mux::{
    BUFFERED_MAX, Broken, Buffered, Connection, Delivery, Event, Finish, Handled, Read, Room, StreamNumbers,
};
use tunnel_proto::ws::{Role, WsItem, WsReader};

use super::bulk::{BulkLink, BulkRead, BulkWrite, Home};

/// Bytes waiting for slow sockets, all streams of the process together.
static BUFFERED: LazyLock<Arc<Buffered>> = LazyLock::new(|| Arc::new(Buffered::new(BUFFERED_MAX)));

/// An idle carrier keeps a buffer of this size only.
const SPARE: usize = 16 * 1024;

/// Where a carrier tells of things that are not its own.
pub(super) trait Session: Send + Sync + 'static {
    /// The peer opens a stream (client only).
    fn open(&self, _carrier: &Arc<Carrier>, _stream: u32, _payload: &[u8]) -> Result<(), String> {
        Err(Broken::OpenedByClient.to_string())
    }

    /// A frame of the session.
    fn control(&self, kind: Kind, payload: &[u8]) -> Result<(), String>;

    /// The peer ended a stream of ours before its time, and says why.
    fn was_reset(&self, _reset: &Reset) {}

    /// A stream turned bulk. The client waits to be told.
    fn wants_bulk(&self, _carrier: &Arc<Carrier>, _stream: u32) {}

    /// Numbers of its streams (edge only).
    fn numbers(&self) -> Arc<StreamNumbers> {
        Arc::default()
    }
}

/// One link that many streams share.
pub(super) struct Carrier {
    /// Its number in the session.
    pub(super) no: u8,
    session: Arc<dyn Session>,
    conn: Mutex<Connection<Local>>,
    wake: Notify,
    why: OnceLock<String>,
    died: Notify,
    opened: Notify,
}

/// What is kept for a stream.
#[derive(Default)]
struct Local {
    /// Where data goes without a detour while none waits.
    sink: Option<Arc<TcpStream>>,
    /// End of stream was passed on to the sink.
    sink_ended: bool,
    rx: Option<Waker>,
    tx: Option<Waker>,
    link: Option<Box<Bound>>,
}

/// A stream's bulk link, until its halves are taken.
struct Bound {
    read: Option<BulkRead>,
    write: Option<BulkWrite>,
    home: Home,
}

impl Carrier {
    pub(super) fn new(no: u8, role: Role, session: Arc<dyn Session>) -> Arc<Carrier> {
        let conn = Connection::new(role, session.numbers(), BUFFERED.clone(), Instant::now());
        Arc::new(Carrier {
            no,
            session,
            conn: Mutex::new(conn),
            wake: Notify::new(),
            why: OnceLock::new(),
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
            () = self.closed() => self.why.get().cloned().unwrap_or_default(),
        };
        self.kill(&why);
        why
    }

    /// Ends when the carrier is dead.
    pub(super) async fn closed(&self) {
        loop {
            let died = self.died.notified();
            tokio::pin!(died);
            died.as_mut().enable();
            if self.conn.lock().is_dead() {
                return;
            }
            died.await;
        }
    }

    /// Breaks the carrier and its streams.
    pub(super) fn kill(self: &Arc<Carrier>, why: &str) {
        self.with(|conn| conn.kill(why));
    }

    /// Streams on it now.
    pub(super) fn load(&self) -> usize {
        self.conn.lock().load()
    }

    /// Queues a frame of the session.
    pub(super) fn push(self: &Arc<Carrier>, kind: Kind, payload: &[u8]) {
        self.with(|conn| conn.push_session(kind, payload));
    }

    /// Opens a stream to the peer (edge only). `None` if the carrier is dead or full.
    pub(super) fn open(self: &Arc<Carrier>, payload: &[u8], want_bulk: bool) -> Option<u32> {
        self.with(|conn| conn.open(payload, want_bulk, Local::default()))
    }

    /// Accepts a stream of the peer (client only). False if it is refused; the peer was told.
    pub(super) fn accept(self: &Arc<Carrier>, id: u32) -> bool {
        let accepted = self.with(|conn| conn.accept(id, Local::default()));
        self.opened.notify_waiters();
        accepted
    }

    /// Refuses a stream of the peer (client only).
    pub(super) fn refuse(self: &Arc<Carrier>, id: u32, why: &Reset) {
        self.with(|conn| conn.refuse(id, why));
    }

    /// Ends when a stream is there that the peer has opened or is about to: its bulk link may overtake the carrier
    /// (client only). False if the carrier is dead.
    pub(super) async fn opens(&self, id: u32) -> bool {
        loop {
            let opened = self.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            {
                let mut conn = self.conn.lock();
                if conn.is_dead() || conn.local(id).is_some() {
                    return !conn.is_dead();
                }
            }
            opened.await;
        }
    }

    // What streams ask for.

    /// Lets what arrives go into this socket without a detour.
    pub(super) fn direct(&self, id: u32, sink: Arc<TcpStream>) {
        if let Some(local) = self.conn.lock().local(id) {
            local.sink = Some(sink);
        }
    }

    /// True if the end of the stream already went to its socket.
    pub(super) fn sink_ended(&self, id: u32) -> bool {
        self.conn.lock().local(id).is_some_and(|local| local.sink_ended)
    }

    /// The next thing that came; with [`Read::Dedicated`] the bulk link's half that it comes on.
    pub(super) fn poll_read(&self, id: u32, cx: &Context<'_>) -> Poll<(Read, Option<BulkRead>)> {
        let mut conn = self.conn.lock();
        match conn.read(id) {
            Read::Wait => {
                if let Some(local) = conn.local(id) {
                    remember(&mut local.rx, cx);
                }
                Poll::Pending
            }
            Read::Dedicated => {
                let half = conn.local(id).and_then(|local| local.link.as_mut()?.read.take());
                Poll::Ready((Read::Dedicated, half))
            }
            read => Poll::Ready((read, None)),
        }
    }

    /// Bytes of a stream are used up.
    pub(super) fn consumed(self: &Arc<Carrier>, id: u32, n: usize) {
        self.with(|conn| conn.consumed(id, n));
    }

    /// The end of a stream came on its bulk link.
    pub(super) fn ended_on_bulk(&self, id: u32) {
        self.conn.lock().ended_on_dedicated(id);
    }

    /// What may be sent; with [`Room::Dedicated`] the bulk link's half that it goes on.
    pub(super) fn poll_room(self: &Arc<Carrier>, id: u32, cx: &Context<'_>) -> Poll<(Room, Option<BulkWrite>)> {
        self.with(|conn| {
            let room = conn.room(id);
            let Some(local) = conn.local(id) else { return Poll::Ready((room, None)) };
            match room {
                Room::Dedicated => Poll::Ready((room, local.write_half())),
                Room::Wait => {
                    remember(&mut local.tx, cx);
                    Poll::Pending
                }
                room => {
                    // A bulk link may come while the caller waits for something else.
                    remember(&mut local.tx, cx);
                    Poll::Ready((room, None))
                }
            }
        })
    }

    /// Moves the sending direction to its bulk link if there is one.
    pub(super) fn moves(self: &Arc<Carrier>, id: u32) -> Option<BulkWrite> {
        self.with(|conn| if conn.moves(id) { conn.local(id)?.write_half() } else { None })
    }

    /// Sends data of a stream; at most as much as there was room for. Returns the room that is left; 0: ask again.
    pub(super) fn send(self: &Arc<Carrier>, id: u32, bytes: &[u8]) -> usize {
        self.with(|conn| conn.send(id, bytes))
    }

    /// Says that no more bytes of a stream follow, or has the caller say it on its bulk link.
    pub(super) fn finish(self: &Arc<Carrier>, id: u32) -> Finish {
        self.with(|conn| conn.finish(id))
    }

    /// Ends a stream in both directions.
    pub(super) fn reset(self: &Arc<Carrier>, id: u32, why: &Reset) {
        self.with(|conn| conn.reset(id, why));
    }

    /// Lets a stream go, with the halves of its bulk link that it had taken.
    pub(super) fn close(self: &Arc<Carrier>, id: u32, read: Option<BulkRead>, write: Option<BulkWrite>) {
        let Some(closed) = self.with(|conn| conn.close(id)) else { return };
        let Some(bound) = closed.local.link else { return };
        let Some((read, mut write)) = read.or(bound.read).zip(write.or(bound.write)) else { return };
        if closed.end_on_dedicated {
            // A link that does not take it is not at rest, and is lost.
            let _ = write.send(Kind::End, id, &[]);
        }
        let mut link = BulkLink { read, write };
        let again = closed.may_reuse && link.is_at_rest();
        bound.home.give(again.then_some(link));
    }

    /// Sets an idle bulk link aside for a stream; see [`Connection::assign`].
    pub(super) fn assign(&self, id: u32) -> bool {
        self.conn.lock().assign(id)
    }

    /// The link that was set aside is of no use.
    pub(super) fn unassign(&self, id: u32) {
        self.conn.lock().unassign(id);
    }

    /// Hands both halves of a bulk link to a stream; dropped, and lost, if that is gone.
    pub(super) fn bind(self: &Arc<Carrier>, id: u32, link: BulkLink, home: Home) {
        let BulkLink { read, write } = link;
        let mut bound = Some(Box::new(Bound { read: Some(read), write: Some(write), home }));
        self.with(|conn| {
            if let Some(local) = conn.bind(id) {
                local.link = bound.take();
            }
        });
    }

    // The machine and its surroundings.

    /// Calls the rules, then does what they say.
    fn with<R>(self: &Arc<Carrier>, call: impl FnOnce(&mut Connection<Local>) -> R) -> R {
        let mut conn = self.conn.lock();
        let before = conn.wants_transmit();
        let result = call(&mut conn);
        self.act(conn, before);
        result
    }

    /// Does what the rules say, outside of the lock. True if somebody was woken.
    fn act(self: &Arc<Carrier>, mut conn: MutexGuard<'_, Connection<Local>>, transmitted: bool) -> bool {
        // Whoever first has something to send wakes the writer, which goes on until there is nothing.
        let transmit = !transmitted && conn.wants_transmit();
        // One is the rule, and needs no memory.
        let (mut first, mut wakers, mut events) = (None, Vec::new(), Vec::new());
        while let Some(event) = conn.poll_event() {
            let waker = match event {
                Event::Readable(id) => conn.local(id).and_then(|local| local.rx.take()),
                Event::Writable(id) => conn.local(id).and_then(|local| local.tx.take()),
                other => {
                    events.push(other);
                    continue;
                }
            };
            match &first {
                None => first = waker,
                Some(_) => wakers.extend(waker),
            }
        }
        drop(conn);
        if transmit {
            self.wake.notify_one();
        }
        let woken = first.is_some();
        first.into_iter().chain(wakers).for_each(Waker::wake);
        events.into_iter().for_each(|event| self.event(event));
        woken
    }

    fn event(self: &Arc<Carrier>, event: Event) {
        let done = match event {
            Event::Readable(_) | Event::Writable(_) => Ok(()),
            Event::Open { stream, payload } => self.session.open(self, stream, &payload),
            Event::Session(kind, payload) => self.session.control(kind, &payload),
            Event::PeerReset(reset) => {
                self.session.was_reset(&reset);
                Ok(())
            }
            Event::WantsDedicated(id) => {
                self.session.wants_bulk(self, id);
                Ok(())
            }
            Event::Dead(why) => {
                // Only the first reason counts, and there is only one.
                let _ = self.why.set(why);
                self.died.notify_waiters();
                self.opened.notify_waiters();
                Ok(())
            }
        };
        if let Err(why) = done {
            self.kill(&why);
        }
    }

    async fn write_loop(self: &Arc<Carrier>, mut link: LinkWrite) -> String {
        let mut buf = Vec::new();
        loop {
            self.wake.notified().await;
            // Whoever else is ready now adds its frames first: one record and one system call for all of them.
            tokio::task::yield_now().await;
            loop {
                let (start, more) = {
                    let mut conn = self.conn.lock();
                    let start = conn.poll_transmit(&mut buf);
                    let more = conn.wants_transmit();
                    (start, self.act(conn, true) || more)
                };
                match start {
                    Some(start) => {
                        if let Err(e) = link.write_all(&buf[start..]).await {
                            return e.to_string();
                        }
                        buf.clear();
                        buf.shrink_to(SPARE);
                    }
                    None if more => tokio::task::yield_now().await,
                    None => break,
                }
            }
        }
    }

    async fn read_loop(self: &Arc<Carrier>, mut link: LinkRead, mut ws: WsReader, mut frames: FrameReader) -> String {
        let timeout = tokio::time::sleep_until(self.due());
        tokio::pin!(timeout);
        let mut plain = Lease::new();
        loop {
            let filled = tokio::select! {
                biased;
                filled = fill_or_release(&mut link, &mut plain) => filled,
                () = &mut timeout => {
                    if let Err(why) = self.with(|conn| conn.handle_timeout(Instant::now())) {
                        return why.to_string();
                    }
                    timeout.as_mut().reset(self.due());
                    continue;
                }
            };
            match filled {
                Ok(0) => return "the other side closed the connection".to_string(),
                Ok(_) => self.conn.lock().heard(Instant::now()),
                Err(e) => return e.to_string(),
            }
            if let Err(why) = self.take(&mut plain, &mut ws, &mut frames) {
                return why.to_string();
            }
            plain.clear();
        }
    }

    /// When the rules want to hear of the time again; a dead carrier is about to end.
    fn due(&self) -> tokio::time::Instant {
        self.conn.lock().poll_timeout().unwrap_or_else(Instant::now).into()
    }

    /// Cuts what arrived into frames and hands them out.
    fn take(self: &Arc<Carrier>, plain: &mut Lease, ws: &mut WsReader, frames: &mut FrameReader) -> Result<(), Broken> {
        let mut input = plain.filled_mut();
        while let Some(item) = ws.next(&mut input)? {
            match item {
                WsItem::Payload(mut payload) => {
                    while let Some(part) = frames.next(&mut payload)? {
                        match part {
                            Part::Data(id, bytes) => self.data(id, bytes)?,
                            Part::Control(kind, id, payload) => self.frame(kind, id, payload)?,
                        }
                    }
                }
                WsItem::Ping(..) => self.with(|conn| conn.handle_ws_ping()),
                WsItem::Close => return Err(Broken::Closing),
            }
        }
        Ok(())
    }

    /// Stream data: what its socket takes now goes there, the rest waits.
    fn data(self: &Arc<Carrier>, id: u32, bytes: &[u8]) -> Result<(), Broken> {
        let mut conn = self.conn.lock();
        let sink = match conn.handle_data(id, bytes.len())? {
            Delivery::Drop => return Ok(()),
            Delivery::Queue => None,
            Delivery::Direct => conn.local(id).and_then(|local| local.sink.clone()),
        };
        let taken = match sink {
            // Nothing can overtake it meanwhile: this task alone lets bytes wait. An error shows again when the stream's
            // task next touches the socket.
            Some(sink) => MutexGuard::unlocked(&mut conn, || sink.try_write(bytes).unwrap_or(0)),
            None => 0,
        };
        let before = conn.wants_transmit();
        conn.delivered(id, taken, &bytes[taken..]);
        self.act(conn, before);
        Ok(())
    }

    fn frame(self: &Arc<Carrier>, kind: Kind, id: u32, payload: Vec<u8>) -> Result<(), Broken> {
        let mut conn = self.conn.lock();
        let before = conn.wants_transmit();
        let handled = conn.handle_frame(kind, id, payload)?;
        if let Handled::Ended(id) = handled
            && let Some(local) = conn.local(id)
            && let Some(sink) = local.sink.clone()
        {
            local.sink_ended = true;
            // A socket that is already gone has nothing left to end.
            let _ = MutexGuard::unlocked(&mut conn, || net::sockets::half_close(&sink));
        }
        self.act(conn, before);
        Ok(())
    }
}

struct Ends(Arc<Carrier>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.kill("closed");
    }
}

impl Local {
    fn write_half(&mut self) -> Option<BulkWrite> {
        self.link.as_mut()?.write.take()
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Carrier({})", self.no)
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    if place.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
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

pub(super) fn log_gone(what: &str, why: &str) {
    debug!(link = what, why, "link closed");
}
