//! Frames inside a link between edge and client. In: websocket payload, however cut. Out: stream data as slices and
//! control frames whole.
//!
//! A frame is a head of 8 bytes and a payload: type (1), length (3, big-endian), stream (4, big-endian).
//! Only the edge opens streams. The same frames run on carriers (many streams) and on bulk links (one stream at a
//! time); end of stream is a frame, since proxies do not keep a half-closed TCP connection.

use thiserror::Error;

/// Bytes before a payload.
pub const FRAME_HEAD: usize = 8;

/// Longest payload of any frame but `Data`: a hello with a few hundred upstreams fits.
pub const CONTROL_MAX: usize = 64 * 1024;

/// Longest payload of a `Data` frame: what three bytes of length can say.
pub const DATA_MAX: usize = (1 << 24) - 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Client to edge, first frame of a session's first carrier: [`crate::hello::Hello`].
    Hello = 1,
    /// Edge to client, the answer: [`crate::hello::Welcome`].
    Welcome = 2,
    /// Edge to client instead of `Welcome`, or at any time: [`crate::hello::Reject`]; the session is over.
    Reject = 3,
    /// Edge to client: a visitor came; [`Open`].
    Open = 4,
    /// Bytes of a stream.
    Data = 5,
    /// No more bytes in this direction.
    End = 6,
    /// The stream is over in both directions; payload: [`Reset`].
    Reset = 7,
    /// More bytes may be sent on the stream; payload: u32.
    Window = 8,
    /// The rest of this direction comes on the stream's bulk link.
    Moved = 9,
    /// First frame on an idle bulk link, edge to client: it belongs to this stream of carrier (payload: u8) from here
    /// until the end of both directions.
    Bind = 10,
    /// Are you there?
    Ping = 11,
    /// Yes.
    Pong = 12,
    /// Edge to client: please dial this many more bulk links; payload: u32.
    Dial = 13,
    /// Edge to client: the edge is going away; finish what runs and come back.
    GoAway = 14,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// What it is.
    pub kind: Kind,
    /// Bytes of payload.
    pub len: usize,
    /// Which stream; 0 for frames of the session.
    pub stream: u32,
}

/// What a peer did against this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Unknown type.
    #[error("the peer sent a frame of unknown type {0}")]
    Kind(u8),
    /// A control frame that is too long.
    #[error("the peer sent a {0:?} frame of {1} bytes, at most {CONTROL_MAX} are allowed")]
    Long(Kind, usize),
    /// A payload that is not what its type needs.
    #[error("the peer sent a {0:?} frame with a payload that makes no sense")]
    Payload(Kind),
}

/// One step of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Some bytes of a `Data` frame, in order.
    Data(u32, &'a [u8]),
    /// Any other frame, whole.
    Control(Kind, u32, Vec<u8>),
}

/// Reads frames across any cutting of the input.
#[derive(Debug, Default)]
pub struct FrameReader {
    head: [u8; FRAME_HEAD],
    have: u8,
    now: Option<Head>,
    left: usize,
    control: Vec<u8>,
}

/// Payload of `Open`: which upstream, for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Index into the hello's upstreams.
    pub upstream: u16,
    /// Bytes the client may send before the first `Window`.
    pub window: u32,
    /// Who visits, for the client's log.
    pub visitor: std::net::SocketAddr,
}

/// Payload of `Reset`: why, in a word for the machine and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reset {
    /// For the machine.
    pub code: ResetCode,
    /// For people; may be empty.
    pub words: String,
}

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ResetCode {
    /// The other side's socket failed.
    Broken = 1,
    /// The upstream could not be reached.
    Unreachable = 2,
    /// The visitor is no longer allowed.
    Cut = 3,
    /// Too many streams or bytes at once.
    Busy = 4,
    /// The client does not publish what was asked for.
    Unknown = 5,
}

impl Kind {
    fn parse(byte: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 14] =
            [Hello, Welcome, Reject, Open, Data, End, Reset, Window, Moved, Bind, Ping, Pong, Dial, GoAway];
        ALL.get(usize::from(byte).checked_sub(1)?).copied()
    }
}

impl Head {
    /// The head as bytes. Lengths over [`DATA_MAX`] cannot be said and are cut; callers stay below.
    #[must_use]
    pub fn bytes(self) -> [u8; FRAME_HEAD] {
        let len = (self.len.min(DATA_MAX) as u32).to_be_bytes();
        let stream = self.stream.to_be_bytes();
        [self.kind as u8, len[1], len[2], len[3], stream[0], stream[1], stream[2], stream[3]]
    }

    fn parse(b: [u8; FRAME_HEAD]) -> Result<Head, FrameError> {
        let kind = Kind::parse(b[0]).ok_or(FrameError::Kind(b[0]))?;
        let len = u32::from_be_bytes([0, b[1], b[2], b[3]]) as usize;
        if kind != Kind::Data && len > CONTROL_MAX {
            return Err(FrameError::Long(kind, len));
        }
        Ok(Head { kind, len, stream: u32::from_be_bytes([b[4], b[5], b[6], b[7]]) })
    }
}

/// Appends a whole frame.
pub fn push(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { kind, len: payload.len(), stream }.bytes());
    out.extend_from_slice(payload);
}

impl FrameReader {
    /// Takes the next part from the front of `input`. `None`: all input is used up.
    ///
    /// # Errors
    /// The peer broke the protocol; the link cannot go on.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Part<'a>>, FrameError> {
        loop {
            let Some(head) = self.now else {
                if !self.read_head(input)? {
                    return Ok(None);
                }
                continue;
            };
            if head.kind == Kind::Data {
                let take = self.left.min(input.len());
                let (bytes, later) = input.split_at(take);
                *input = later;
                self.left -= take;
                if self.left == 0 {
                    self.now = None;
                }
                if take > 0 {
                    return Ok(Some(Part::Data(head.stream, bytes)));
                }
                if self.left > 0 {
                    return Ok(None);
                }
                continue; // A frame without bytes.
            }
            let take = self.left.min(input.len());
            let (bytes, later) = input.split_at(take);
            *input = later;
            self.control.extend_from_slice(bytes);
            self.left -= take;
            if self.left > 0 {
                return Ok(None);
            }
            self.now = None;
            return Ok(Some(Part::Control(head.kind, head.stream, std::mem::take(&mut self.control))));
        }
    }

    fn read_head(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        let have = usize::from(self.have);
        let take = (FRAME_HEAD - have).min(input.len());
        let (now, later) = input.split_at(take);
        self.head[have..have + take].copy_from_slice(now);
        *input = later;
        self.have += take as u8;
        if usize::from(self.have) < FRAME_HEAD {
            return Ok(false);
        }
        self.have = 0;
        let head = Head::parse(self.head)?;
        self.left = head.len;
        self.now = Some(head);
        Ok(true)
    }
}

impl Open {
    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(25);
        out.extend_from_slice(&self.upstream.to_be_bytes());
        out.extend_from_slice(&self.window.to_be_bytes());
        out.extend_from_slice(&self.visitor.port().to_be_bytes());
        match self.visitor.ip() {
            std::net::IpAddr::V4(a) => out.extend_from_slice(&a.octets()),
            std::net::IpAddr::V6(a) => out.extend_from_slice(&a.octets()),
        }
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// It has not the length of an `Open`.
    pub fn parse(b: &[u8]) -> Result<Open, FrameError> {
        let bad = FrameError::Payload(Kind::Open);
        let (fixed, ip) = b.split_at_checked(8).ok_or(bad)?;
        let ip: std::net::IpAddr = match ip.len() {
            4 => <[u8; 4]>::try_from(ip).map_err(|_| bad)?.into(),
            16 => <[u8; 16]>::try_from(ip).map_err(|_| bad)?.into(),
            _ => return Err(bad),
        };
        Ok(Open {
            upstream: u16::from_be_bytes([fixed[0], fixed[1]]),
            window: u32::from_be_bytes([fixed[2], fixed[3], fixed[4], fixed[5]]),
            visitor: (ip, u16::from_be_bytes([fixed[6], fixed[7]])).into(),
        })
    }
}

impl Reset {
    /// The payload; words are cut at 512 bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut words = self.words.as_str();
        while words.len() > 512 {
            words = &words[..words.floor_char_boundary(512)];
        }
        let mut out = vec![self.code as u8];
        out.extend_from_slice(words.as_bytes());
        out
    }

    /// Reads a payload; an unknown code is `Broken`, control characters in the words are dropped.
    #[must_use]
    pub fn parse(b: &[u8]) -> Reset {
        let code = match b.first() {
            Some(2) => ResetCode::Unreachable,
            Some(3) => ResetCode::Cut,
            Some(4) => ResetCode::Busy,
            Some(5) => ResetCode::Unknown,
            _ => ResetCode::Broken,
        };
        let words = String::from_utf8_lossy(b.get(1..).unwrap_or_default());
        let words = words.chars().filter(|c| !c.is_control()).take(512).collect();
        Reset { code, words }
    }
}

/// Reads a payload that is one u32.
///
/// # Errors
/// It has not four bytes.
pub fn parse_u32(kind: Kind, b: &[u8]) -> Result<u32, FrameError> {
    b.try_into().map(u32::from_be_bytes).map_err(|_| FrameError::Payload(kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    enum Seen {
        Data(u32, Vec<u8>),
        Control(Kind, u32, Vec<u8>),
    }

    fn read_all(bytes: &[u8], cut: usize) -> Result<Vec<Seen>, FrameError> {
        let mut reader = FrameReader::default();
        let mut out: Vec<Seen> = Vec::new();
        for chunk in bytes.chunks(cut.max(1)) {
            let mut input = chunk;
            while let Some(part) = reader.next(&mut input)? {
                match part {
                    Part::Data(s, b) => match out.last_mut() {
                        Some(Seen::Data(last, all)) if *last == s => all.extend_from_slice(b),
                        _ => out.push(Seen::Data(s, b.to_vec())),
                    },
                    Part::Control(k, s, b) => out.push(Seen::Control(k, s, b)),
                }
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(data in proptest::collection::vec((1u32..9, 0usize..3000), 0..8), cut in 1usize..700) {
            let (mut bytes, mut want) = (Vec::new(), Vec::new());
            for (stream, len) in data {
                let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                push(&mut bytes, Kind::Data, stream, &payload);
                push(&mut bytes, Kind::Window, stream, &7u32.to_be_bytes());
                if len > 0 {
                    want.push(Seen::Data(stream, payload));
                }
                want.push(Seen::Control(Kind::Window, stream, vec![0, 0, 0, 7]));
            }
            prop_assert_eq!(read_all(&bytes, cut).unwrap(), want);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..64) {
            let _ = read_all(&bytes, cut);
            let _ = Open::parse(&bytes);
            let _ = Reset::parse(&bytes);
        }

        #[test]
        fn open_survives(upstream: u16, window: u32, ip: std::net::IpAddr, port: u16) {
            let open = Open { upstream, window, visitor: (ip, port).into() };
            prop_assert_eq!(Open::parse(&open.bytes()).unwrap(), open);
        }
    }

    #[test]
    fn unknown_types_and_long_control_frames_are_refused() {
        assert_eq!(read_all(&[0, 0, 0, 0, 0, 0, 0, 0], 8), Err(FrameError::Kind(0)));
        assert_eq!(read_all(&[15, 0, 0, 0, 0, 0, 0, 0], 8), Err(FrameError::Kind(15)));
        assert_eq!(read_all(&[1, 1, 0, 1, 0, 0, 0, 0], 8), Err(FrameError::Long(Kind::Hello, 65537)));
    }
}
