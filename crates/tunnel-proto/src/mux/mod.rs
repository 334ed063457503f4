//! The tunnel's multiplexer: many streams on one connection, and streams that move to a dedicated connection. In: frames
//! of the peer, what local sockets have and take, the time. Out: frames, events, how long to wait. No IO, no clock, no lock.
//!
//! - [`Connection`] is one shared connection with its streams: credit, half-close, reset, pings, who may send when.
//! - [`dedicated`] reads and writes a connection that carries one stream at a time ("bulk link" on the wire's side).
//! - [`Pool`] counts the dedicated connections of a session and says when another one is wanted (edge only).
//!
//! Payload isn't copied where a socket takes it at once: [`Connection::handle_data`] judges a length, the caller moves the
//! bytes and says by [`Connection::delivered`] how many found their way; only what is left is copied and waits.
//!
//! How a stream changes its connection: the edge binds an idle dedicated connection to it (`Bind`, on that connection) and
//! from then on each end says `Moved` on the shared connection before it sends on the other one. So each direction is
//! first what the shared connection carried up to `Moved`, then what the dedicated one carries up to `End`; credit counts
//! only for the former. A dedicated connection serves the next stream only if both ends are sure to have left it.

mod buffered;
mod connection;
pub mod dedicated;
mod number_map;
pub mod pool;
mod stream;

use std::time::Duration;

pub use self::buffered::Buffered;
pub use self::connection::{Broken, Closed, Connection, Delivery, Event, Handled, StreamNumbers};
pub use self::pool::Pool;
pub use self::stream::{Finish, Read, Room};

use crate::frame::FRAME_HEAD;
use crate::ws::HEAD_MAX;

/// Credit of a new stream: enough for a page or a keystroke's echo, little enough that 10,000 stalled visitors hold
/// 640 MiB at the very worst on a client and, by [`BUFFERED_MAX`], far less.
pub const WINDOW_FIRST: u32 = 64 * 1024;

/// Most credit of a stream that keeps up. A busier stream moves to a dedicated connection.
pub const WINDOW_MAX: u32 = 256 * 1024;

/// Bytes that wait for slow sockets, all streams of the process together. Beyond it new data for a stream that already
/// waits resets that stream: memory stays bounded whatever visitors do.
pub const BUFFERED_MAX: u64 = 256 * 1024 * 1024;

/// Bytes of frames waiting to be sent on one connection; beyond it senders of data wait for room.
pub const OUT_MAX: usize = 256 * 1024;

/// Bytes of frames that wait for a peer that does not read: answers and grants do not wait for room, so there must be
/// an end. 10,000 streams that all grant at once make 120 KiB.
pub const OUT_END: usize = 4 * 1024 * 1024;

/// Most bytes of one `Data` frame on a shared connection: what a stream may put in front of others at a time.
pub const QUANTUM: usize = 32 * 1024;

/// Streams on one connection; the edge stops opening, the client answers `Busy`.
pub const STREAMS_MAX: usize = 32 * 1024;

/// A ping this often in both directions: far below the 60 s after which nginx cuts silent connections, and often enough
/// that visitors do not wait long on a connection that vanished.
pub const PING_EVERY: Duration = Duration::from_secs(10);

/// Two pings missed and a half: the connection is dead. As long as TCP waits for an acknowledgement (`USER_TIMEOUT`).
pub const DEAD_AFTER: Duration = Duration::from_secs(25);

/// Room before stream data for a websocket head and a frame head.
pub const HEADS: usize = HEAD_MAX + FRAME_HEAD;

/// Some moment, for tests: no rule asks which.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a moment can only be had from the clock")]
fn a_moment() -> std::time::Instant {
    std::time::Instant::now()
}
