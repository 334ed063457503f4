//! Writers that nobody reads from. In: a connection and how long it may stand still. Out: the same connection, whose
//! writes fail once the peer has taken nothing for so long; reading is left alone.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// A connection that may know how much of what was written its peer has taken.
pub trait Unacknowledged {
    /// Bytes that were written and that the peer has not acknowledged; 0 where that is not known.
    fn unacknowledged(&self) -> usize {
        0
    }
}

impl Unacknowledged for TcpStream {
    fn unacknowledged(&self) -> usize {
        crate::sockets::unacknowledged(self).unwrap_or(0)
    }
}

/// A connection whose writes must make progress.
#[derive(Debug)]
pub struct WriteStall<S> {
    inner: S,
    limit: Duration,
    /// Runs while a write waits; with it what the peer had not acknowledged when it was set.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S> WriteStall<S> {
    /// Writes may wait for at most `limit` without the peer taking a byte.
    pub fn new(inner: S, limit: Duration) -> WriteStall<S> {
        WriteStall { inner, limit, waiting: None }
    }

    /// The connection itself.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The connection itself, no longer watched.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Unacknowledged> WriteStall<S> {
    /// Looks at what a write came to.
    fn watched<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let (timer, before) = match &mut self.waiting {
            Some(waiting) => waiting,
            none => none.insert((Box::pin(tokio::time::sleep(self.limit)), self.inner.unacknowledged())),
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            // The system takes more only when a good part of its buffer is free: a slow peer's acknowledgements are
            // progress too.
            let now = self.inner.unacknowledged();
            if now >= *before {
                let what = format!("the peer has taken nothing for {} s", self.limit.as_secs());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)));
            }
            *before = now;
            timer.as_mut().reset(Instant::now() + self.limit);
        }
    }
}

impl<S: Unacknowledged> Unacknowledged for WriteStall<S> {
    fn unacknowledged(&self) -> usize {
        self.inner.unacknowledged()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteStall<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unacknowledged + Unpin> AsyncWrite for WriteStall<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watched(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    impl Unacknowledged for tokio::io::DuplexStream {}

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_nothing_ends_it() {
        let (ours, _theirs) = duplex(10);
        let mut ours = WriteStall::new(ours, LIMIT);
        let start = Instant::now();
        let e = ours.write_all(&[0; 100]).await.unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_peer_does_not() {
        let (ours, mut theirs) = duplex(10);
        let mut ours = WriteStall::new(ours, LIMIT);
        let reading = tokio::spawn(async move {
            let mut byte = [0];
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                theirs.read_exact(&mut byte).await.unwrap();
            }
        });
        ours.write_all(&[0; 100]).await.unwrap();
        // Silence between two answers is no stall.
        tokio::time::sleep(LIMIT * 10).await;
        reading.await.unwrap();
    }
}
