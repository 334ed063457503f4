//! A connection that carries one stream at a time. In: its bytes, however they were cut. Out: which of them are the
//! stream's data, and the frames beside it.
//!
//! The edge begins each use with `Bind`; then both ends send `Data` of that stream until `End`. Pings and pongs may come
//! at any time between frames. A reset is said on the shared connection and ends this one.

use std::time::{Duration, Instant};

use thiserror::Error;

use super::{HEADS, PING_EVERY};
use crate::frame::{FRAME_HEAD, FrameError, FrameReader, Head, Kind, Part};
use crate::ws::{self, HEAD_MAX, Role, WsError, WsItem, WsReader};

/// How long a client waits for the opening of the stream that a connection was bound to: the shared connection may be
/// behind, but none is so far behind one that was dialled at the same time.
pub const STREAM_COMES_WITHIN: Duration = Duration::from_secs(10);

/// What a peer did on a dedicated connection against the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Misuse {
    /// Bytes that are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Bytes that are no websocket messages.
    #[error(transparent)]
    Websocket(#[from] WsError),
    /// A frame of something else than the stream that has the connection.
    #[error("a dedicated connection of stream {0} carries a {1:?} frame of {2}")]
    NotOfStream(u32, Kind, u32),
    /// A frame that says nothing while no stream has the connection.
    #[error("a {0:?} frame on an idle dedicated connection")]
    WhileIdle(Kind),
    /// A `Bind` that names no shared connection.
    #[error("a bind that makes no sense")]
    Bind,
}

/// Cuts the bytes of a dedicated connection into frames.
#[derive(Debug, Default)]
pub struct Reader {
    ws: WsReader,
    frames: FrameReader,
    /// Bytes at the front of the input that are websocket payload already.
    payload: usize,
}

/// One step of reading.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are used up.
    pub used: usize,
    /// What they were; `None`: nothing yet.
    pub frame: Option<Frame>,
}

/// What comes on a dedicated connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// The last `len` of the used bytes are data of this stream.
    Data {
        /// Which stream.
        stream: u32,
        /// How many.
        len: usize,
    },
    /// Any other frame.
    Control(Kind, u32, Vec<u8>),
    /// The peer, or a proxy in its name, closes.
    Closed,
}

/// A frame as the stream sees it that has the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfStream {
    /// So many bytes.
    Data(usize),
    /// The peer's direction is over.
    End,
    /// A sign of life.
    Alive,
    /// The connection is over.
    Closed,
}

/// A frame as it is seen while no stream has the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhileIdle {
    /// The connection belongs to this stream of the shared connection with this number.
    Bind {
        /// The shared connection.
        carrier: u8,
        /// Its stream.
        stream: u32,
    },
    /// A sign of life.
    Alive,
    /// The connection is over.
    Closed,
}

impl Reader {
    /// Cuts the next step off the front of `input`; the same bytes, less those that were used, must be given again. Call
    /// it as long as there is input.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn next(&mut self, input: &mut [u8]) -> Result<Step, Misuse> {
        let all = input.len();
        if self.payload > 0 {
            let mut payload = &input[..self.payload.min(all)];
            let before = payload.len();
            let part = self.frames.next(&mut payload)?;
            let used = before - payload.len();
            self.payload -= used;
            let frame = part.map(|part| match part {
                Part::Data(stream, bytes) => Frame::Data { stream, len: bytes.len() },
                Part::Control(kind, stream, payload) => Frame::Control(kind, stream, payload),
            });
            return Ok(Step { used, frame });
        }
        let mut rest = input;
        let item = self.ws.next(&mut rest)?;
        // Payload is unmasked where it stands; the next step cuts it.
        if let Some(WsItem::Payload(bytes)) = &item {
            self.payload = bytes.len();
        }
        let frame = matches!(item, Some(WsItem::Close)).then_some(Frame::Closed);
        Ok(Step { used: all - rest.len() - self.payload, frame })
    }
}

impl Frame {
    /// What it means for the stream that has the connection.
    ///
    /// # Errors
    /// It is of another stream, or belongs on no dedicated connection.
    pub fn of_stream(&self, id: u32) -> Result<OfStream, Misuse> {
        match *self {
            Frame::Data { stream, len } if stream == id => Ok(OfStream::Data(len)),
            Frame::Control(Kind::End, stream, _) if stream == id => Ok(OfStream::End),
            Frame::Control(Kind::Ping | Kind::Pong, ..) => Ok(OfStream::Alive),
            Frame::Closed => Ok(OfStream::Closed),
            Frame::Data { stream, .. } => Err(Misuse::NotOfStream(id, Kind::Data, stream)),
            Frame::Control(kind, stream, _) => Err(Misuse::NotOfStream(id, kind, stream)),
        }
    }

    /// What it means while no stream has the connection; `role` is this end's, and only the edge binds.
    ///
    /// # Errors
    /// It belongs to a stream, or binds what cannot be bound.
    pub fn while_idle(&self, role: Role) -> Result<WhileIdle, Misuse> {
        match self {
            Frame::Control(Kind::Bind, stream, payload) if role == Role::Client => match payload.as_slice() {
                [carrier] => Ok(WhileIdle::Bind { carrier: *carrier, stream: *stream }),
                _ => Err(Misuse::Bind),
            },
            Frame::Control(Kind::Ping | Kind::Pong, ..) => Ok(WhileIdle::Alive),
            Frame::Closed => Ok(WhileIdle::Closed),
            Frame::Data { .. } => Err(Misuse::WhileIdle(Kind::Data)),
            Frame::Control(kind, ..) => Err(Misuse::WhileIdle(*kind)),
        }
    }
}

/// What a client's dedicated connection waits for between two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// To be bound; a ping is due then.
    Bind(Instant),
    /// For the stream that it was bound to, until then.
    Stream {
        /// The shared connection.
        carrier: u8,
        /// Its stream.
        stream: u32,
        /// When it is given up.
        until: Instant,
    },
}

/// What is to be done when a [`Waiting`] is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// Say a ping.
    Ping,
    /// The stream was over before it heard of this connection: drop it.
    GiveUp,
}

impl Waiting {
    /// The wait of a connection that serves no stream.
    #[must_use]
    pub fn begin(now: Instant) -> Waiting {
        Waiting::Bind(now + PING_EVERY)
    }

    /// A frame came. True if the connection was bound and now waits for its stream.
    ///
    /// # Errors
    /// The connection is of no more use: the edge broke the protocol, or closed it (`None`).
    pub fn handle_frame(&mut self, frame: &Frame, now: Instant) -> Result<bool, Option<Misuse>> {
        match frame.while_idle(Role::Client)? {
            WhileIdle::Alive => Ok(false),
            WhileIdle::Closed => Err(None),
            WhileIdle::Bind { carrier, stream } => {
                *self = Waiting::Stream { carrier, stream, until: now + STREAM_COMES_WITHIN };
                Ok(true)
            }
        }
    }

    /// When [`Waiting::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        match *self {
            Waiting::Bind(at) | Waiting::Stream { until: at, .. } => at,
        }
    }

    /// What is due.
    pub fn handle_timeout(&mut self, now: Instant) -> Due {
        match self {
            Waiting::Bind(at) if *at <= now => {
                *at = now + PING_EVERY;
                Due::Ping
            }
            Waiting::Stream { until, .. } if *until <= now => Due::GiveUp,
            _ => Due::Nothing,
        }
    }
}

/// A whole frame as a websocket message of its own.
#[must_use]
pub fn message(role: Role, kind: Kind, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut buf = vec![0; HEADS];
    buf.extend_from_slice(payload);
    let start = write_heads(&mut buf[..HEADS], role, Head { kind, len: payload.len(), stream });
    buf.drain(..start);
    buf
}

/// Writes both heads of a message with one frame into `room`, [`HEADS`] bytes before its payload; returns where the
/// message starts.
pub fn write_heads(room: &mut [u8], role: Role, head: Head) -> usize {
    let mut ws_room = [0; HEAD_MAX];
    let start = ws::write_head(&mut ws_room, role, FRAME_HEAD + head.len);
    room[..HEAD_MAX].copy_from_slice(&ws_room);
    room[HEAD_MAX..].copy_from_slice(&head.bytes());
    start
}

/// Writes the websocket head of the frames in `buf` into the room before them; returns where the message starts.
pub(super) fn write_ws_head(buf: &mut [u8], role: Role) -> usize {
    let mut room = [0; HEAD_MAX];
    let start = ws::write_head(&mut room, role, buf.len() - HEAD_MAX);
    buf[..HEAD_MAX].copy_from_slice(&room);
    start
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an instant has no other beginning")]
mod tests {
    use super::super::a_moment;
    use super::*;
    use proptest::prelude::*;

    /// Data joined by stream, and other frames in words.
    fn read(bytes: &[u8], cut: usize) -> Result<Vec<(u32, Vec<u8>)>, Misuse> {
        let (mut reader, mut out) = (Reader::default(), Vec::<(u32, Vec<u8>)>::new());
        for chunk in bytes.to_vec().chunks_mut(cut) {
            let mut input = &mut chunk[..];
            while !input.is_empty() {
                let step = reader.next(input)?;
                let (used, rest) = input.split_at_mut(step.used);
                match step.frame {
                    None => {}
                    Some(Frame::Data { stream, len }) => {
                        let data = &used[used.len() - len..];
                        match out.last_mut() {
                            Some((last, all)) if *last == stream => all.extend_from_slice(data),
                            _ => out.push((stream, data.to_vec())),
                        }
                    }
                    Some(other) => out.push((u32::MAX, format!("{other:?}").into_bytes())),
                }
                input = rest;
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_same_frames_come(
            lens in proptest::collection::vec(0usize..3000, 1..8), cut in 1usize..700, client: bool,
        ) {
            let role = if client { Role::Client } else { Role::Server };
            let (mut bytes, mut want) = (message(role, Kind::Bind, 7, &[3]), vec![]);
            want.push((u32::MAX, format!("{:?}", Frame::Control(Kind::Bind, 7, vec![3])).into_bytes()));
            for len in lens {
                let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
                bytes.extend(message(role, Kind::Data, 7, &data));
                bytes.extend(message(role, Kind::Ping, 0, &[]));
                if len > 0 {
                    want.push((7, data));
                }
                want.push((u32::MAX, format!("{:?}", Frame::Control(Kind::Ping, 0, vec![])).into_bytes()));
            }
            prop_assert_eq!(read(&bytes, cut), Ok(want));
        }

        #[test]
        fn garbage_never_panics_and_always_gets_on(bytes in proptest::collection::vec(any::<u8>(), 1..400), cut in 1usize..64) {
            let _ = read(&bytes, cut);
        }
    }

    #[test]
    fn a_stream_takes_nothing_of_another() {
        let data = Frame::Data { stream: 5, len: 3 };
        assert_eq!(data.of_stream(5), Ok(OfStream::Data(3)));
        assert_eq!(data.of_stream(6), Err(Misuse::NotOfStream(6, Kind::Data, 5)));
        let end = Frame::Control(Kind::End, 5, vec![]);
        assert_eq!(end.of_stream(5), Ok(OfStream::End));
        assert_eq!(end.of_stream(6), Err(Misuse::NotOfStream(6, Kind::End, 5)));
        assert_eq!(Frame::Control(Kind::Ping, 0, vec![]).of_stream(5), Ok(OfStream::Alive));
        assert!(Frame::Control(Kind::Bind, 5, vec![0]).of_stream(5).is_err(), "it is bound already");
    }

    #[test]
    fn an_idle_connection_is_bound_by_the_edge_alone() {
        let bind = Frame::Control(Kind::Bind, 5, vec![2]);
        assert_eq!(bind.while_idle(Role::Client), Ok(WhileIdle::Bind { carrier: 2, stream: 5 }));
        assert_eq!(bind.while_idle(Role::Server), Err(Misuse::WhileIdle(Kind::Bind)));
        assert_eq!(Frame::Control(Kind::Bind, 5, vec![]).while_idle(Role::Client), Err(Misuse::Bind));
        assert_eq!(Frame::Data { stream: 5, len: 1 }.while_idle(Role::Client), Err(Misuse::WhileIdle(Kind::Data)));
    }

    #[test]
    fn a_waiting_connection_pings_and_gives_up_on_a_stream_that_never_comes() {
        let now = a_moment();
        let mut waiting = Waiting::begin(now);
        assert_eq!(waiting.handle_timeout(now + PING_EVERY - Duration::from_millis(1)), Due::Nothing);
        assert_eq!(waiting.handle_timeout(now + PING_EVERY), Due::Ping);
        assert_eq!(waiting.poll_timeout(), now + 2 * PING_EVERY);
        assert_eq!(waiting.handle_frame(&Frame::Control(Kind::Pong, 0, vec![]), now), Ok(false));
        assert_eq!(waiting.handle_frame(&Frame::Control(Kind::Bind, 5, vec![2]), now), Ok(true));
        assert_eq!(waiting, Waiting::Stream { carrier: 2, stream: 5, until: now + STREAM_COMES_WITHIN });
        assert_eq!(waiting.handle_timeout(now + STREAM_COMES_WITHIN - Duration::from_millis(1)), Due::Nothing);
        assert_eq!(waiting.handle_timeout(now + STREAM_COMES_WITHIN), Due::GiveUp);
        assert_eq!(Waiting::begin(now).handle_frame(&Frame::Closed, now), Err(None));
    }
}
