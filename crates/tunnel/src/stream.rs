//! One stream, whatever carries it: first a carrier, later perhaps a bulk link. In: bytes of a local socket or of an
//! HTTP connection. Out: the same at the other end. Half-close is kept; a stream that is dropped before its end is
//! reset, so that nobody takes a part for the whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use net::buffers::{self, BULK};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tunnel_proto::frame::{Kind, Reset, ResetCode};
use tunnel_proto::mux::dedicated::OfStream;
use tunnel_proto::mux::{Finish, HEADS, PING_EVERY, Read, Room};

use super::bulk::{BulkRead, BulkWrite};
use super::mux::Carrier;

/// Both directions of a stream.
pub(super) struct Stream {
    pub(super) rx: StreamRx,
    pub(super) tx: StreamTx,
}

/// What the peer sends.
pub(super) struct StreamRx {
    carrier: Arc<Carrier>,
    id: u32,
    /// A piece that came on the carrier, not taken yet from here.
    piece: Vec<u8>,
    at: usize,
    bulk: Option<BulkRead>,
    done: bool,
}

/// What we send.
pub(super) struct StreamTx {
    carrier: Arc<Carrier>,
    id: u32,
    bulk: Option<BulkWrite>,
    done: bool,
    /// When to say a ping on the bulk link.
    tick: Option<Box<tokio::time::Interval>>,
}

impl Stream {
    /// Opens one to the peer (edge only). `None` if the carrier is dead or full.
    pub(super) fn open(carrier: &Arc<Carrier>, payload: &[u8], want_bulk: bool) -> Option<Stream> {
        let id = carrier.open(payload, want_bulk)?;
        Some(Stream::new(carrier.clone(), id))
    }

    /// Accepts one of the peer (client only). `None` if it is refused; the peer was told.
    pub(super) fn accept(carrier: &Arc<Carrier>, id: u32) -> Option<Stream> {
        carrier.accept(id).then(|| Stream::new(carrier.clone(), id))
    }

    fn new(carrier: Arc<Carrier>, id: u32) -> Stream {
        Stream {
            rx: StreamRx { carrier: carrier.clone(), id, piece: Vec::new(), at: 0, bulk: None, done: false },
            tx: StreamTx { carrier, id, bulk: None, done: false, tick: None },
        }
    }

    /// Ends both directions at once and tells the peer why.
    pub(super) fn reset(&mut self, code: ResetCode, words: &str) {
        self.tx.carrier.reset(self.tx.id, &Reset { code, words: words.to_string() });
    }

    /// From now on what arrives is written into this socket without a detour.
    pub(super) fn direct(&self, sink: &Arc<TcpStream>) {
        self.rx.carrier.direct(self.rx.id, sink.clone());
    }
}

impl StreamRx {
    /// What has arrived; empty at the end.
    ///
    /// # Errors
    /// The stream was reset, or what carried it broke.
    pub(super) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        loop {
            if self.at < self.piece.len() {
                return Poll::Ready(Ok(&self.piece[self.at..]));
            }
            if self.done {
                return Poll::Ready(Ok(&[]));
            }
            if self.bulk.is_some() {
                ready!(self.poll_bulk(cx))?;
                if self.done {
                    continue;
                }
                return Poll::Ready(Ok(self.bulk.as_ref().map_or(&[], |b| b.data())));
            }
            (self.piece, self.at) = (Vec::new(), 0);
            match ready!(self.carrier.poll_read(self.id, cx)) {
                (Read::Piece(piece), _) => self.piece = piece,
                (Read::End, _) => self.done = true,
                (Read::Reset(reset), _) => return Poll::Ready(Err(reset_error(&reset))),
                (Read::Dedicated, Some(half)) => self.bulk = Some(half),
                // There is no other way to this stream's data.
                (Read::Dedicated, None) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                (Read::Wait, _) => return Poll::Pending,
            }
        }
    }

    /// Takes bytes from the front of what [`StreamRx::poll_data`] gave.
    pub(super) fn consume(&mut self, n: usize) {
        if self.at < self.piece.len() {
            self.at += n;
            self.carrier.consumed(self.id, n);
        } else if let Some(bulk) = &mut self.bulk {
            bulk.consume(n);
        }
    }

    /// End of stream already went to the socket behind [`Stream::direct`].
    pub(super) fn sink_ended(&self) -> bool {
        self.carrier.sink_ended(self.id)
    }

    fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(bulk) = &mut self.bulk else { return Poll::Ready(Ok(())) };
        if !bulk.data().is_empty() {
            return Poll::Ready(Ok(()));
        }
        loop {
            match ready!(bulk.poll_next(cx))?.of_stream(self.id) {
                Ok(OfStream::Data(_)) => return Poll::Ready(Ok(())),
                Ok(OfStream::Alive) => {}
                Ok(OfStream::End) => {
                    self.carrier.ended_on_bulk(self.id);
                    self.done = true;
                    return Poll::Ready(Ok(()));
                }
                Ok(OfStream::Closed) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Err(e) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, e))),
            }
        }
    }
}

impl StreamTx {
    /// How many bytes may be sent now.
    ///
    /// # Errors
    /// The stream was reset, or what carries it broke.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bulk.is_none() {
            match ready!(self.carrier.poll_room(self.id, cx)) {
                (Room::Bytes(n), _) => return Poll::Ready(Ok(n)),
                (Room::Reset(reset), _) => return Poll::Ready(Err(reset_error(&reset))),
                (Room::Dedicated, Some(half)) => self.bulk = Some(half),
                (Room::Dedicated, None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                (Room::Wait, _) => return Poll::Pending,
            }
        }
        if let Some(bulk) = &mut self.bulk {
            ready!(bulk.poll_ready(cx))?;
        }
        Poll::Ready(Ok(BULK))
    }

    /// Sends the `len` bytes that stand in `buf` from [`HEADS`] on; at most as many as [`StreamTx::poll_ready`] said.
    /// Returns how many may follow at once; 0: ask [`StreamTx::poll_ready`].
    ///
    /// # Errors
    /// What carries the stream broke.
    pub(super) fn send(&mut self, buf: &mut [u8], len: usize) -> io::Result<usize> {
        match &mut self.bulk {
            Some(bulk) => bulk.send_data(self.id, buf, len).map(|()| 0),
            None => Ok(self.carrier.send(self.id, &buf[HEADS..HEADS + len])),
        }
    }

    /// Says that no more bytes follow. Only after [`StreamTx::poll_ready`].
    ///
    /// # Errors
    /// What carries the stream broke.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.done {
            return Ok(());
        }
        self.done = true;
        match (self.carrier.finish(self.id), &mut self.bulk) {
            (Finish::Dedicated, Some(bulk)) => bulk.send(Kind::End, self.id, &[]),
            _ => Ok(()),
        }
    }

    /// Sends what a bulk link has taken and not yet sent.
    ///
    /// # Errors
    /// What carries the stream broke.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bulk.is_none() && !self.done {
            self.bulk = self.carrier.moves(self.id);
        }
        match &mut self.bulk {
            Some(bulk) => bulk.poll_ready(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Says a ping on a bulk link every now and then: the stream may be silent for longer than a proxy waits.
    pub(super) fn poll_ping(&mut self, cx: &mut Context<'_>) {
        let Some(bulk) = &mut self.bulk else { return };
        let tick = self.tick.get_or_insert_with(|| {
            let mut tick = tokio::time::interval_at(tokio::time::Instant::now() + PING_EVERY, PING_EVERY);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            Box::new(tick)
        });
        while tick.poll_tick(cx).is_ready() {
            // A link that cannot take a ping is busy, or fails at the next read.
            let _ = super::bulk::poll_say(bulk, cx, Kind::Ping);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.tx.carrier.close(self.tx.id, self.rx.bulk.take(), self.tx.bulk.take());
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.tx.poll_ping(cx);
        let data = ready!(self.rx.poll_data(cx))?;
        let n = data.len().min(buf.remaining());
        buf.put_slice(&data[..n]);
        self.rx.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.tx.poll_ready(cx))?;
        let n = room.min(bytes.len());
        if self.tx.bulk.is_none() {
            self.tx.carrier.send(self.tx.id, &bytes[..n]);
            return Poll::Ready(Ok(n));
        }
        buffers::with_scratch(|buf| {
            buf[HEADS..HEADS + n].copy_from_slice(&bytes[..n]);
            self.tx.send(buf, n)
        })?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tx.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.tx.done {
            ready!(self.tx.poll_flush(cx))?;
            self.tx.end()?;
        }
        self.tx.poll_flush(cx)
    }
}

fn reset_error(reset: &Reset) -> io::Error {
    let kind = match reset.code {
        ResetCode::Unreachable | ResetCode::Unknown => io::ErrorKind::ConnectionRefused,
        ResetCode::Cut => io::ErrorKind::PermissionDenied,
        ResetCode::Busy | ResetCode::Broken => io::ErrorKind::ConnectionReset,
    };
    if reset.words.is_empty() { kind.into() } else { io::Error::new(kind, reset.words.clone()) }
}
