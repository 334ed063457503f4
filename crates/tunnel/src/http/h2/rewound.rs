//! A connection of which something was read already. In: the connection and what was read. Out: both as one stream; its end says
//! whether the visitor is to be reset.

use super::*;

/// A stream of which some was read already, and that can be made to break when it is dropped.
pub(in crate::http) struct Rewound<S: VisitorIo> {
    io: S,
    ahead: BytesMut,
    reset: Arc<AtomicBool>,
}

impl<S: VisitorIo> Rewound<S> {
    /// Setting `reset` makes the drop an abort.
    pub(in crate::http) fn new(io: S, ahead: BytesMut, reset: Arc<AtomicBool>) -> Rewound<S> {
        Rewound { io, ahead, reset }
    }
}

impl<S: VisitorIo> Drop for Rewound<S> {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Acquire) {
            self.io.reset();
        }
    }
}

impl<S: VisitorIo> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.ahead.len().min(buf.remaining());
        buf.put_slice(self.ahead.get(..n).unwrap_or_default());
        self.ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: VisitorIo> AsyncWrite for Rewound<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
