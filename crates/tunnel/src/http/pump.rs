//! Bytes in motion: the two ends of an exchange and the flow of a body from one to the other. In: streams and
//! framing. Out: the same body, framed for the other side, with back-pressure and without waiting for more than came.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio_util::io::poll_read_buf;
use tunnel_proto::http1::chunked::{Chunks, Malformed, Part, copy_trailer};
use tunnel_proto::http1::head::Body;

use super::Io;

/// First read of an idle stream, in bytes: holds the head of nearly every request.
const READ_MIN: usize = 4 * 1024;

/// Read of a busy stream: beyond this nothing is won (measured: 0.33 CPU-seconds per GB at 256 KiB, 0.31 at 1 MiB).
const READ_MAX: usize = 256 * 1024;

/// Pieces up to this size are copied together into one write; larger ones are written from where they lie.
const COPY_MAX: usize = 8 * 1024;

/// Written before more is collected.
const OUT_FULL: usize = 32 * 1024;

/// One end of an exchange: its stream, what came and was not used, what is to go.
#[derive(Debug)]
pub(super) struct Side<S> {
    pub(super) io: S,
    pub(super) inbuf: BytesMut,
    pub(super) out: BytesMut,
    want: usize,
    last_read: usize,
    unflushed: bool,
}

impl<S: Io> Side<S> {
    pub(super) fn new(io: S) -> Side<S> {
        Side { io, inbuf: BytesMut::new(), out: BytesMut::new(), want: READ_MIN, last_read: 0, unflushed: false }
    }

    /// Reads once into `inbuf`; 0 means the end. A stream that has nothing holds no buffer, unless it is busy.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let used = self.inbuf.len();
        let short = if used == 0 { self.want } else { READ_MIN } / 2;
        if self.inbuf.capacity() - used < short {
            self.inbuf.reserve(self.want);
        }
        let room = self.inbuf.capacity() - used;
        match poll_read_buf(Pin::new(&mut self.io), cx, &mut self.inbuf) {
            Poll::Ready(Ok(n)) => {
                self.last_read = n;
                if n == room {
                    self.want = (self.want * 2).min(READ_MAX);
                } else if n < self.want / 4 {
                    self.want = (self.want / 2).max(READ_MIN);
                }
                Poll::Ready(Ok(n))
            }
            Poll::Pending => {
                if used == 0 && (room <= 2 * READ_MIN || self.last_read < room / 4) {
                    self.inbuf = BytesMut::new();
                }
                Poll::Pending
            }
            ready => ready,
        }
    }

    /// Writes all of `out` and flushes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?;
            self.wrote(n)?;
            self.out.advance(n);
        }
        if self.out.capacity() > OUT_FULL {
            self.out = BytesMut::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes some of `out` and then of `more`; returns how much of `more`.
    fn poll_write(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        let ahead = self.out.len();
        let n = if ahead == 0 {
            ready!(Pin::new(&mut self.io).poll_write(cx, more))?
        } else if self.io.is_write_vectored() {
            let parts = [IoSlice::new(&self.out), IoSlice::new(more)];
            ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &parts))?
        } else {
            ready!(Pin::new(&mut self.io).poll_write(cx, &self.out))?
        };
        self.wrote(n)?;
        self.out.advance(n.min(ahead));
        Poll::Ready(Ok(n.saturating_sub(ahead)))
    }

    fn wrote(&mut self, n: usize) -> io::Result<()> {
        self.unflushed = true;
        if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(()) }
    }

    /// Says that nothing more goes out.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// How a body changes its frame on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// As it came.
    Keep,
    /// Into chunks: it came without a length and goes on over a connection that stays.
    Chunk,
    /// Out of chunks: the receiver speaks HTTP/1.0.
    Bare,
}

/// A body that did not get across, and whose fault it was.
#[derive(Debug)]
pub(super) enum FlowError {
    /// The source broke off.
    Source(io::Error),
    /// The source broke its own framing.
    Malformed(&'static str),
    /// The receiver took no more.
    Sink(io::Error),
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Flow<'m> {
    left: Left,
    frame: Frame,
    /// Bytes at the front of the source's buffer that go out next, from where they lie.
    direct: usize,
    /// A line end follows `direct`.
    tail: bool,
    keep_trailer: fn(&str) -> bool,
    /// Bytes of body, for the statistics.
    meter: &'m AtomicU64,
    /// Bytes of body so far: whether anything moves.
    pub(super) moved: u64,
}

#[derive(Debug)]
enum Left {
    Nothing,
    Bytes(u64),
    Chunks(Box<Chunks>),
    UntilEof,
}

impl<'m> Flow<'m> {
    pub(super) fn new(body: Body, frame: Frame, keep_trailer: fn(&str) -> bool, meter: &'m AtomicU64) -> Flow<'m> {
        let left = match body {
            Body::None => Left::Nothing,
            Body::Length(n) => Left::Bytes(n),
            Body::Chunked => Left::Chunks(Box::new(Chunks::new())),
            Body::Eof => Left::UntilEof,
        };
        Flow { left, frame, direct: 0, tail: false, keep_trailer, meter, moved: 0 }
    }

    /// Moves what can be moved. Ready once the body is over and flushed; poll no more then.
    ///
    /// # Errors
    /// [`FlowError`]; the body is then incomplete and must not look complete to the receiver.
    pub(super) fn poll<A: Io, B: Io>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut Side<A>,
        to: &mut Side<B>,
    ) -> Poll<Result<(), FlowError>> {
        loop {
            if self.direct > 0 {
                let piece = from.inbuf.get(..self.direct).unwrap_or_default();
                let n = ready!(to.poll_write(cx, piece)).map_err(FlowError::Sink)?;
                from.inbuf.advance(n);
                self.direct -= n;
                if self.direct == 0 && self.tail {
                    to.out.extend_from_slice(b"\r\n");
                    self.tail = false;
                }
                continue;
            }
            if matches!(self.left, Left::Nothing) {
                return to.poll_drain(cx).map_err(FlowError::Sink);
            }
            if !from.inbuf.is_empty() && to.out.len() < OUT_FULL {
                self.step(from, to)?;
                continue;
            }
            ready!(to.poll_drain(cx)).map_err(FlowError::Sink)?;
            if from.inbuf.is_empty() {
                let n = ready!(from.poll_fill(cx)).map_err(FlowError::Source)?;
                if n == 0 {
                    self.end(to)?;
                }
            }
        }
    }

    /// Uses what lies in the source's buffer: all of it, or up to a piece that is written from there.
    fn step<A, B>(&mut self, from: &mut Side<A>, to: &mut Side<B>) -> Result<(), FlowError> {
        match &mut self.left {
            Left::Nothing => {}
            Left::Bytes(left) => {
                let n = (from.inbuf.len() as u64).min(*left);
                *left -= n;
                if *left == 0 {
                    self.left = Left::Nothing;
                }
                self.pass(n as usize, from, to);
            }
            Left::UntilEof => {
                let n = from.inbuf.len();
                self.pass(n, from, to);
            }
            Left::Chunks(chunks) => {
                let (used, part) = chunks.next(&from.inbuf).map_err(malformed)?;
                from.inbuf.advance(used);
                let keep = self.frame == Frame::Keep;
                match part {
                    Part::Begin(n) if keep => chunk_size(n, to),
                    Part::End if keep => to.out.extend_from_slice(b"\r\n"),
                    Part::Data(n) => self.pass(n, from, to),
                    Part::Done => {
                        if keep {
                            to.out.extend_from_slice(b"0\r\n");
                            copy_trailer(chunks.trailer(), self.keep_trailer, &mut to.out).map_err(malformed)?;
                            to.out.extend_from_slice(b"\r\n");
                        }
                        self.left = Left::Nothing;
                    }
                    Part::Begin(_) | Part::End | Part::More => {}
                }
            }
        }
        Ok(())
    }

    fn pass<A, B>(&mut self, n: usize, from: &mut Side<A>, to: &mut Side<B>) {
        self.moved += n as u64;
        self.meter.fetch_add(n as u64, Ordering::Relaxed);
        let chunk = self.frame == Frame::Chunk && n > 0;
        if chunk {
            chunk_size(n as u64, to);
        }
        if n > COPY_MAX {
            self.direct = n;
            self.tail = chunk;
            return;
        }
        to.out.extend_from_slice(from.inbuf.get(..n).unwrap_or_default());
        from.inbuf.advance(n);
        if chunk {
            to.out.extend_from_slice(b"\r\n");
        }
    }

    /// The source has ended.
    fn end<B>(&mut self, to: &mut Side<B>) -> Result<(), FlowError> {
        if !matches!(self.left, Left::UntilEof) {
            return Err(FlowError::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.frame == Frame::Chunk {
            to.out.extend_from_slice(b"0\r\n\r\n");
        }
        self.left = Left::Nothing;
        Ok(())
    }
}

fn malformed(m: Malformed) -> FlowError {
    FlowError::Malformed(m.0)
}

fn chunk_size<B>(n: u64, to: &mut Side<B>) {
    use std::fmt::Write as _;
    // Writing into memory does not fail.
    let _ = write!(to.out, "{n:x}\r\n");
}
