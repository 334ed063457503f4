//! A socket and a stream, joined until both directions are over. In: a connected socket, a stream. Out: bytes, end of
//! stream and resets, passed on both ways. Buffers are taken only while bytes are there.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use net::buffers;
use net::sockets;
use tokio::net::TcpStream;

use super::stream::Stream;
use tunnel_proto::frame::ResetCode;
use tunnel_proto::mux::HEADS;

/// Joins socket and stream. Ends when both directions ended; an error is the first thing that broke, and the other
/// side is reset when the stream is dropped.
///
/// # Errors
/// The socket or the stream broke.
pub(super) async fn relay(socket: &Arc<TcpStream>, stream: &mut Stream) -> io::Result<()> {
    stream.direct(socket);
    let mut state = Relay { up: Way::Open, down: Way::Open };
    let done = std::future::poll_fn(|cx| state.poll(cx, socket, stream)).await;
    if done.is_err() {
        // Neither side may take this for a regular end.
        sockets::reset_on_close(socket);
        stream.reset(ResetCode::Broken, "");
    }
    done
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// Everything is sent, the last bytes are on their way.
    Flushing,
    Over,
}

struct Relay {
    /// Socket to stream.
    up: Way,
    /// Stream to socket.
    down: Way,
}

/// Turns of one direction before the other one and other tasks get theirs.
const MAX_TURNS: usize = 16;

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>, socket: &TcpStream, stream: &mut Stream) -> Poll<io::Result<()>> {
        let down = self.poll_down(cx, socket, stream)?;
        let up = self.poll_up(cx, socket, stream)?;
        stream.tx.poll_ping(cx);
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>, socket: &TcpStream, stream: &mut Stream) -> Poll<io::Result<()>> {
        // What may be sent without asking: each question locks the carrier.
        let mut room = 0;
        for _ in 0..MAX_TURNS {
            match self.up {
                Way::Over => return Poll::Ready(Ok(())),
                Way::Flushing => {
                    ready!(stream.tx.poll_flush(cx))?;
                    self.up = Way::Over;
                    return Poll::Ready(Ok(()));
                }
                Way::Open => {}
            }
            if room == 0 {
                room = ready!(stream.tx.poll_ready(cx))?;
            }
            ready!(socket.poll_read_ready(cx))?;
            let read: io::Result<usize> = buffers::with_scratch(|buf| {
                let n = socket.try_read(&mut buf[HEADS..HEADS + room])?;
                if n > 0 {
                    room = stream.tx.send(buf, n)?;
                } else {
                    stream.tx.end()?;
                }
                Ok(n)
            });
            match read {
                Ok(0) => self.up = Way::Flushing,
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_down(&mut self, cx: &mut Context<'_>, socket: &TcpStream, stream: &mut Stream) -> Poll<io::Result<()>> {
        for _ in 0..MAX_TURNS {
            if self.down == Way::Over {
                return Poll::Ready(Ok(()));
            }
            let data = ready!(stream.rx.poll_data(cx))?;
            if data.is_empty() {
                self.down = Way::Over;
                if !stream.rx.sink_ended() {
                    // A socket that is already gone has nothing left to end.
                    let _ = sockets::half_close(socket);
                }
                return Poll::Ready(Ok(()));
            }
            match socket.try_write(data) {
                Ok(n) => stream.rx.consume(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready!(socket.poll_write_ready(cx))?,
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
