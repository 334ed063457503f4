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
use tunnel_proto::ws::Role;

use super::bulk::{BulkLink, BulkRead, BulkWrite, Next};
use super::mux::{Core, HEADS, PING_EVERY, QUANTUM};

/// Both directions of a stream.
pub(super) struct Stream {
    pub(super) rx: StreamRx,
    pub(super) tx: StreamTx,
}

/// What the peer sends.
pub(super) struct StreamRx {
    core: Arc<Core>,
    /// A piece that came on the carrier, not taken yet from here.
    piece: Vec<u8>,
    at: usize,
    bulk: Option<BulkRead>,
    done: bool,
}

/// What we send.
pub(super) struct StreamTx {
    core: Arc<Core>,
    bulk: Option<BulkWrite>,
    done: bool,
    /// The peer was told that the stream is over, or told us.
    reset: bool,
    /// When to say a ping on the bulk link.
    tick: Option<Box<tokio::time::Interval>>,
}

impl Stream {
    pub(super) fn new(core: Arc<Core>) -> Stream {
        Stream {
            rx: StreamRx { core: core.clone(), piece: Vec::new(), at: 0, bulk: None, done: false },
            tx: StreamTx { core, bulk: None, done: false, reset: false, tick: None },
        }
    }

    /// Ends both directions at once and tells the peer why.
    pub(super) fn reset(&mut self, code: ResetCode, words: &str) {
        if !self.tx.reset {
            self.tx.reset = true;
            let reset = Reset { code, words: words.to_string() };
            self.tx.core.carrier.push(Kind::Reset, self.tx.core.id, &reset.bytes());
        }
    }

    /// From now on what arrives is written into this socket without a detour.
    pub(super) fn direct(&self, sink: &Arc<TcpStream>) {
        self.rx.core.direct(sink.clone());
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
            self.at = 0;
            if let Some(piece) = self.core.pop() {
                self.piece = piece;
                continue;
            }
            self.piece = Vec::new();
            let mut inn = self.core.inn.lock();
            if !inn.queue.is_empty() {
                continue;
            }
            if let Some(reset) = &inn.reset {
                return Poll::Ready(Err(reset_error(reset)));
            }
            if inn.ended {
                self.done = true;
                continue;
            }
            if inn.moved
                && let Some(link) = inn.link.take()
            {
                self.bulk = Some(link);
                continue;
            }
            inn.held = false;
            inn.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
    }

    /// Takes bytes from the front of what [`StreamRx::poll_data`] gave.
    pub(super) fn consume(&mut self, n: usize) {
        if self.at < self.piece.len() {
            self.at += n;
            self.core.consumed(n);
        } else if let Some(bulk) = &mut self.bulk {
            bulk.consume(n);
        }
    }

    /// End of stream already went to the socket behind [`Stream::direct`].
    pub(super) fn sink_ended(&self) -> bool {
        self.core.inn.lock().sink_ended
    }

    fn poll_bulk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(bulk) = &mut self.bulk else { return Poll::Ready(Ok(())) };
        if !bulk.data().is_empty() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let other = match ready!(bulk.poll_next(cx))? {
                Next::Data(id) if id == self.core.id => return Poll::Ready(Ok(())),
                Next::Control(Kind::Ping | Kind::Pong, ..) => continue,
                Next::Control(Kind::End, id, _) if id == self.core.id => {
                    self.done = true;
                    return Poll::Ready(Ok(()));
                }
                Next::Gone => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                other => other,
            };
            let words = format!("a bulk link carries what is not its stream's: {other:?}");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, words)));
        }
    }
}

impl StreamTx {
    /// How many bytes may be sent now.
    ///
    /// # Errors
    /// The stream was reset, or what carries it broke.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.bulk.is_none() && !self.poll_moves()? {
            let left = {
                let mut out = self.core.out.lock();
                if out.reset {
                    self.reset = true;
                    drop(out);
                    let reset = self.core.inn.lock().reset.clone();
                    let error = reset.as_ref().map_or_else(|| io::ErrorKind::BrokenPipe.into(), reset_error);
                    return Poll::Ready(Err(error));
                }
                if out.left == 0 {
                    out.waker = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                // A bulk link may come while we wait for something else.
                if out.waker.as_ref().is_none_or(|w| !w.will_wake(cx.waker())) {
                    out.waker = Some(cx.waker().clone());
                }
                out.left as usize
            };
            ready!(self.core.carrier.poll_room(cx));
            return Poll::Ready(Ok(left.min(QUANTUM)));
        }
        if let Some(bulk) = &mut self.bulk {
            ready!(bulk.poll_ready(cx))?;
        }
        Poll::Ready(Ok(BULK))
    }

    /// Sends the `len` bytes that stand in `buf` from [`HEADS`] on; at most as many as [`StreamTx::poll_ready`] said.
    ///
    /// # Errors
    /// What carries the stream broke.
    pub(super) fn send(&mut self, buf: &mut [u8], len: usize) -> io::Result<()> {
        match &mut self.bulk {
            Some(bulk) => bulk.send_data(self.core.id, buf, len),
            None => {
                self.core.send(&buf[HEADS..HEADS + len]);
                Ok(())
            }
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
        match &mut self.bulk {
            Some(bulk) => bulk.send(Kind::End, self.core.id, &[]),
            None => {
                self.core.carrier.push(Kind::End, self.core.id, &[]);
                Ok(())
            }
        }
    }

    /// Sends what a bulk link has taken and not yet sent.
    ///
    /// # Errors
    /// What carries the stream broke.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.bulk.is_none() && !self.done {
            self.poll_moves()?;
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

    /// Moves to the bulk link if one was assigned: what follows goes there.
    fn poll_moves(&mut self) -> io::Result<bool> {
        if self.done {
            return Ok(false);
        }
        let Some(link) = self.core.out.lock().link.take() else { return Ok(false) };
        self.core.carrier.push(Kind::Moved, self.core.id, &[]);
        self.bulk = Some(link);
        Ok(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.rx.done && !self.tx.reset {
            // The peer has sent everything and waits for nothing: an end is as good as a reset, and keeps a bulk link.
            let _ = self.tx.end();
        }
        let whole = self.rx.done && self.tx.done && !self.tx.reset;
        if !whole {
            self.reset(ResetCode::Broken, "");
        }
        let core = &self.tx.core;
        core.carrier.forget(core.id);
        let mut out = core.out.lock();
        out.gone = true;
        let write = self.tx.bulk.take().or_else(|| out.link.take());
        let home = out.home.take();
        drop(out);
        // A client that has not moved may have sent everything before it heard of the link. It then waits for a stream
        // that is over and would not hear of the next one: such a link is not used again (edge only).
        let heard = self.rx.bulk.is_some() || core.carrier.role == Role::Client;
        let read = self.rx.bulk.take().or_else(|| core.inn.lock().link.take());
        if let Some(home) = home {
            let mut link = read.zip(write).map(|(read, write)| BulkLink { read, write });
            home.give(link.take_if(|link| whole && heard && link.is_at_rest()));
        }
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
            self.tx.core.send(&bytes[..n]);
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
