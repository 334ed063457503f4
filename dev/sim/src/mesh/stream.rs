//! A client's end of a `ts2021` channel as a byte stream, written apart from the server's so that one checks the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tailnet_proto::noise::{HEAD_LEN, PLAIN_MAX, RECORD_MAX, Session, record_len};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The stream; buffers grow as they must, since this is a test tool.
pub(super) struct Stream<S> {
    io: S,
    session: Session,
    came: Vec<u8>,
    plain: Vec<u8>,
    unsent: Vec<u8>,
    /// An early payload may still come; it is passed over.
    early: bool,
}

/// What an early payload starts with: magic, then its length (4, big-endian).
const EARLY: [u8; 5] = *b"\xff\xff\xffTS";
const EARLY_HEAD: usize = EARLY.len() + 4;

impl<S> Stream<S> {
    /// With bytes that came behind the handshake.
    pub(super) fn new(io: S, session: Session, came: Vec<u8>) -> Stream<S> {
        Stream { io, session, came, plain: vec![], unsent: vec![], early: true }
    }

    /// True if there is something to read behind an early payload, if one came.
    fn readable(&mut self) -> bool {
        if self.early && !self.plain.is_empty() {
            let start = self.plain.len().min(EARLY.len());
            if self.plain[..start] != EARLY[..start] {
                self.early = false;
            } else if let Some([.., a, b, c, d]) = self.plain.first_chunk::<EARLY_HEAD>() {
                let len = EARLY_HEAD + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if self.plain.len() >= len {
                    self.plain.drain(..len);
                    self.early = false;
                }
            }
        }
        !self.early && !self.plain.is_empty()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.readable() {
                let n = this.plain.len().min(out.remaining());
                out.put_slice(&this.plain[..n]);
                this.plain.drain(..n);
                return Poll::Ready(Ok(()));
            }
            if let Some(head) = this.came.first_chunk::<HEAD_LEN>() {
                let len = record_len(*head).map_err(io::Error::other)?;
                if this.came.len() >= len {
                    let mut record: Vec<u8> = this.came.drain(..len).collect();
                    this.plain.extend_from_slice(this.session.opener.open(&mut record).map_err(io::Error::other)?);
                    continue;
                }
            }
            let mut more = [0; 16 * 1024];
            let mut more = ReadBuf::new(&mut more);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut more))?;
            if more.filled().is_empty() {
                let whole = this.came.is_empty();
                return Poll::Ready(if whole { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
            }
            this.came.extend_from_slice(more.filled());
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, plain: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let this = self.get_mut();
        let take = plain.len().min(PLAIN_MAX);
        this.unsent.resize(RECORD_MAX, 0);
        let len = this.session.sealer.seal(&plain[..take], &mut this.unsent).map_err(io::Error::other)?;
        this.unsent.truncate(len);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while !this.unsent.is_empty() {
            let n = ready!(Pin::new(&mut this.io).poll_write(cx, &this.unsent))?;
            this.unsent.drain(..n);
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
