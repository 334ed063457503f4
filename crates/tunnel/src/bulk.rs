//! Bulk links: connections that carry one stream at a time, for streams that turned bulk. In: idle links that clients
//! dialled ahead of need. Out: streams that no longer share anything, and links that come back when a stream is over. The
//! rules are [`tunnel_proto::mux::dedicated`] and [`tunnel_proto::mux::Pool`].

use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use net::buffers::Lease;
use net::link::{Closer, Link, LinkRead, LinkWrite};
use parking_lot::Mutex;
use tunnel_proto::frame::{Head, Kind};
use tunnel_proto::mux::dedicated::{self, Frame, WhileIdle};
use tunnel_proto::mux::{self, HEADS};
use tunnel_proto::ws::Role;

use super::mux::{Carrier, Home};

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
    reader: dedicated::Reader,
    plain: Lease,
    /// Bytes of `plain` not yet cut into frames, from here.
    at: usize,
    /// Stream data not yet taken.
    data: (usize, usize),
}

/// The writing half.
#[derive(Debug)]
pub(super) struct BulkWrite {
    link: LinkWrite,
    role: Role,
}

/// Idle bulk links of a session (edge).
#[derive(Debug)]
pub(super) struct Pool {
    state: Mutex<mux::Pool<BulkLink>>,
    /// Every link that lives, to end them with the session.
    all: Mutex<Vec<Closer>>,
    /// Carrier that requests for more go to.
    main: Mutex<Option<Weak<Carrier>>>,
}

impl BulkLink {
    pub(super) fn new(link: Link, role: Role) -> BulkLink {
        let Link { read, write } = link;
        let read =
            BulkRead { link: read, reader: dedicated::Reader::default(), plain: Lease::new(), at: 0, data: (0, 0) };
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
                Poll::Ready(Ok(frame)) if frame.while_idle(self.write.role) == Ok(WhileIdle::Alive) => {}
                Poll::Ready(_) => return false,
            }
        }
    }
}

impl BulkRead {
    /// The data that [`Frame::Data`] announced.
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
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Frame>> {
        loop {
            while self.at < self.plain.filled().len() {
                let step = self.reader.next(&mut self.plain.filled_mut()[self.at..]).map_err(broken)?;
                self.at += step.used;
                if let Some(frame) = step.frame {
                    if let Frame::Data { len, .. } = frame {
                        self.data = (self.at - len, self.at);
                    }
                    return Poll::Ready(Ok(frame));
                }
            }
            self.plain.clear();
            self.at = 0;
            match self.link.poll_fill(cx, &mut self.plain) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(Frame::Closed)),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => {
                    self.plain.release();
                    return Poll::Pending;
                }
            }
        }
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
        let start = dedicated::write_heads(&mut buf[..HEADS], self.role, Head { kind: Kind::Data, len, stream });
        self.link.send(&buf[start..HEADS + len])
    }

    /// Sends a control frame.
    ///
    /// # Errors
    /// The connection broke.
    pub(super) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.link.send(&dedicated::message(self.role, kind, stream, payload))
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
        let state = Mutex::new(mux::Pool::new(Instant::now()));
        Arc::new(Pool { state, all: Mutex::default(), main: Mutex::default() })
    }

    /// Requests for more links go to this carrier.
    pub(super) fn set_main(&self, carrier: &Arc<Carrier>) {
        *self.main.lock() = Some(Arc::downgrade(carrier));
    }

    /// A link that the client dialled. False if there are too many, or the session is over.
    pub(super) fn arrived(&self, link: BulkLink, closer: Closer) -> bool {
        // Before the link is anybody's: the session may end at any time, and with it every link.
        let mut all = self.all.lock();
        all.retain(|c| !c.is_gone());
        all.push(closer);
        drop(all);
        self.state.lock().arrived(link).is_none()
    }

    /// Ends every link, whoever uses it: the session is over.
    pub(super) fn end(&self) {
        self.state.lock().end();
        self.all.lock().drain(..).for_each(|c| c.close());
    }

    /// Gives a link to a stream, or asks the client for more.
    pub(super) fn assign(self: &Arc<Pool>, carrier: &Arc<Carrier>, stream: u32) {
        loop {
            let taken = self.state.lock().take();
            let Some(mut link) = taken else { return self.ask_for_more() };
            if !carrier.assign(stream) {
                return self.give_back(link);
            }
            if !link.is_alive() || link.write.send(Kind::Bind, stream, &[carrier.no]).is_err() {
                self.state.lock().lost();
                carrier.unassign(stream);
                continue;
            }
            let pool = Arc::downgrade(self);
            let home = Home::new(move |link| {
                let Some(pool) = pool.upgrade() else { return };
                match link {
                    Some(link) => pool.give_back(link),
                    None => pool.state.lock().lost(),
                }
            });
            return carrier.bind(stream, link, home);
        }
    }

    fn give_back(&self, link: BulkLink) {
        let superfluous = self.state.lock().give_back(link);
        drop(superfluous);
    }

    /// Drops links that died or that nobody needs any more. Call it every half minute.
    pub(super) fn sweep(&self) {
        self.state.lock().handle_timeout(Instant::now(), BulkLink::is_alive);
    }

    /// Idle links now.
    pub(super) fn idle(&self) -> usize {
        self.state.lock().idle()
    }

    fn ask_for_more(&self) {
        let Some(main) = self.main.lock().as_ref().and_then(Weak::upgrade) else { return };
        if self.state.lock().asks(Instant::now()) {
            main.push(Kind::Dial, &1u32.to_be_bytes());
        }
    }
}

/// A frame of the session as a websocket message of its own; for words before a carrier runs.
pub(super) fn whole_message(role: Role, kind: Kind, payload: &[u8]) -> Vec<u8> {
    dedicated::message(role, kind, 0, payload)
}

fn broken(e: dedicated::Misuse) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, e)
}

/// Polls until another frame may be sent, then says it; for pings on a link that a silent stream holds.
pub(super) fn poll_say(write: &mut BulkWrite, cx: &mut Context<'_>, kind: Kind) -> Poll<io::Result<()>> {
    ready!(write.poll_ready(cx))?;
    Poll::Ready(write.send(kind, 0, &[]))
}
