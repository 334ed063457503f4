//! Bulk links: connections that carry one stream at a time, for streams that turned bulk. In: a link that was dialled
//! ahead of need. Out: its frames, and the link itself when a stream is done with it. The rules are
//! [`tunnel_proto::mux::dedicated`].

use std::io;
use std::task::{Context, Poll, ready};

use net::buffers::Lease;
use net::link::{Link, LinkRead, LinkWrite};
use tunnel_proto::frame::{Head, Kind};
use tunnel_proto::mux::HEADS;
use tunnel_proto::mux::dedicated::{self, Frame, WhileIdle};
use tunnel_proto::ws::Role;

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
    pub(super) fn is_alive(&mut self) -> bool {
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
