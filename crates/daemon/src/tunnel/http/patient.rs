//! A visitor's stream with an end to patience. In: a stream. Out: the same one, whose writes fail once the visitor has
//! taken nothing for a while, so that one that does not read holds its place, and an upstream's, no longer than that.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::VisitorIo;

/// A stream that gives up on a visitor who takes nothing.
#[derive(Debug)]
pub(super) struct Patient<S> {
    io: S,
    /// How long it may take nothing.
    patience: Duration,
    /// Runs while a write waits; with it what the visitor had not acknowledged when it was set.
    waiting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: VisitorIo> Patient<S> {
    pub(super) fn new(io: S, patience: Duration) -> Patient<S> {
        Patient { io, patience, waiting: None }
    }

    /// Looks at what a write came to.
    fn judge<T>(&mut self, cx: &mut Context<'_>, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.waiting = None;
            return wrote;
        }
        let (timer, before) = match &mut self.waiting {
            Some(waiting) => waiting,
            none => none.insert((Box::pin(tokio::time::sleep(self.patience)), self.io.unacknowledged())),
        };
        loop {
            ready!(timer.as_mut().poll(cx));
            // The system takes more only when a good part of its buffer is free: a slow visitor's acknowledgements are
            // progress too.
            let now = self.io.unacknowledged();
            if now >= *before {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the visitor takes nothing")));
            }
            *before = now;
            timer.as_mut().reset(Instant::now() + self.patience);
        }
    }
}

impl<S: VisitorIo> VisitorIo for Patient<S> {
    fn reset(&mut self) {
        self.io.reset();
    }

    fn unacknowledged(&self) -> usize {
        self.io.unacknowledged()
    }
}

impl<S: VisitorIo> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<S: VisitorIo> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.judge(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.judge(cx, wrote)
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
