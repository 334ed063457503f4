//! RFC 6455 framing, used as a byte pipe: every proxy that passes websockets passes it. In: bytes of a connection
//! after its upgrade. Out: payload, however it was cut into messages. Message borders mean nothing here; the frames of
//! [`crate::frame`] are inside.

use thiserror::Error;

/// Most bytes before a message's payload: 2, 8 of length, 4 of mask (RFC 6455, section 5.2).
pub const HEAD_MAX: usize = 14;

/// Longest payload of a control frame (RFC 6455, section 5.5).
const CONTROL_MAX: u64 = 125;

const BINARY: u8 = 0x2;
const CONTINUATION: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Which end of the connection we are: clients must mask (RFC 6455, section 5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Dialled: sets the MASK bit. The key is zero, so that payload stays as it is and nobody pays for XOR; masking
    /// protects old proxies from scripts in browsers, and no script chooses these bytes.
    Client,
    /// Accepted: must not mask.
    Server,
}

/// What a peer did against RFC 6455.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WsError {
    /// Reserved bits or an unknown opcode: not a websocket, or an extension nobody asked for.
    #[error("the peer sent bytes that are no websocket frame (first byte 0x{0:02x})")]
    NotWebsocket(u8),
    /// A control frame that is fragmented or too long.
    #[error("the peer sent a control frame that is fragmented or longer than 125 bytes")]
    BadControl,
    /// A text message; this protocol is binary.
    #[error("the peer sent a text message, this protocol is binary")]
    Text,
}

/// One step of reading.
#[derive(Debug, PartialEq, Eq)]
pub enum WsItem<'a> {
    /// Payload, already unmasked.
    Payload(&'a [u8]),
    /// A ping.
    Ping([u8; CONTROL_MAX as usize], u8),
    /// The peer, or a proxy in its name, closes the connection.
    Close,
}

/// Reads frames across any cutting of the input.
#[derive(Debug, Default)]
pub struct WsReader {
    head: [u8; HEAD_MAX],
    have: u8,
    left: u64,
    opcode: u8,
    key: [u8; 4],
    /// Offset into the mask key.
    at: usize,
    control: Vec<u8>,
}

/// Writes the head of a binary message of `len` bytes so that it ends at the end of `room`; returns where it starts.
pub fn write_head(room: &mut [u8; HEAD_MAX], role: Role, len: usize) -> usize {
    let mask = if role == Role::Client { 0x80 } else { 0 };
    let mut end = HEAD_MAX;
    if role == Role::Client {
        end -= 4;
        room[end..].fill(0);
    }
    match len {
        0..=125 => {
            room[end - 1] = mask | len as u8;
            end -= 1;
        }
        126..=0xFFFF => {
            room[end - 2..end].copy_from_slice(&(len as u16).to_be_bytes());
            room[end - 3] = mask | 126;
            end -= 3;
        }
        _ => {
            room[end - 8..end].copy_from_slice(&(len as u64).to_be_bytes());
            room[end - 9] = mask | 127;
            end -= 9;
        }
    }
    room[end - 1] = 0x80 | BINARY;
    end - 1
}

/// A whole close frame with status 1000 or 1001 (RFC 6455, section 7.4).
#[must_use]
pub fn close(role: Role, status: u16) -> Vec<u8> {
    control(role, CLOSE, &status.to_be_bytes())
}

fn control(role: Role, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_MAX as usize)];
    let mut out = vec![0x80 | opcode, payload.len() as u8];
    if role == Role::Client {
        out[1] |= 0x80;
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
    out
}

impl WsReader {
    /// Takes the next item from the front of `input`. `None`: all input is used up.
    ///
    /// # Errors
    /// The peer broke RFC 6455; the connection cannot go on.
    pub fn next<'a>(&mut self, input: &mut &'a mut [u8]) -> Result<Option<WsItem<'a>>, WsError> {
        loop {
            if self.left == 0 && !self.read_head(input)? {
                return Ok(None);
            }
            if self.opcode >= CLOSE {
                if let Some(item) = self.read_control(input) {
                    return Ok(Some(item));
                }
                if self.left > 0 {
                    return Ok(None);
                }
                continue;
            }
            if self.left == 0 {
                continue; // An empty message.
            }
            let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            if take == 0 {
                return Ok(None);
            }
            let (now, later) = std::mem::take(input).split_at_mut(take);
            *input = later;
            self.left -= take as u64;
            self.unmask(now);
            return Ok(Some(WsItem::Payload(now)));
        }
    }

    /// Reads a head; false if the input ended in it.
    fn read_head(&mut self, input: &mut &mut [u8]) -> Result<bool, WsError> {
        loop {
            let have = usize::from(self.have);
            let need = if have < 2 { 2 } else { head_len(self.head[1]) };
            if have >= need {
                break;
            }
            let take = (need - have).min(input.len());
            if take == 0 {
                return Ok(false);
            }
            let (now, later) = std::mem::take(input).split_at_mut(take);
            self.head[have..have + take].copy_from_slice(now);
            *input = later;
            self.have += take as u8;
        }
        self.have = 0;
        let (first, second) = (self.head[0], self.head[1]);
        let opcode = first & 0x0F;
        if first & 0x70 != 0 || !matches!(opcode, CONTINUATION | BINARY | CLOSE | PING | PONG | 0x1) {
            return Err(WsError::NotWebsocket(first));
        }
        if opcode == 0x1 {
            return Err(WsError::Text);
        }
        let mut at = 2;
        let len = match second & 0x7F {
            126 => {
                at = 4;
                u64::from(u16::from_be_bytes([self.head[2], self.head[3]]))
            }
            127 => {
                at = 10;
                let mut b = [0; 8];
                b.copy_from_slice(&self.head[2..10]);
                u64::from_be_bytes(b)
            }
            n => u64::from(n),
        };
        if opcode >= CLOSE && (first & 0x80 == 0 || len > CONTROL_MAX) {
            return Err(WsError::BadControl);
        }
        self.key = [0; 4];
        if second & 0x80 != 0 {
            self.key.copy_from_slice(&self.head[at..at + 4]);
        }
        self.at = 0;
        self.left = len;
        self.opcode = opcode;
        self.control.clear();
        Ok(true)
    }

    /// Collects a control frame; `None` while it is incomplete or when it needs no answer.
    fn read_control<'a>(&mut self, input: &mut &'a mut [u8]) -> Option<WsItem<'a>> {
        let take = (self.left as usize).min(input.len());
        let (now, later) = std::mem::take(input).split_at_mut(take);
        *input = later;
        self.left -= take as u64;
        self.unmask(now);
        self.control.extend_from_slice(now);
        if self.left > 0 {
            return None;
        }
        let opcode = std::mem::replace(&mut self.opcode, BINARY);
        match opcode {
            CLOSE => Some(WsItem::Close),
            PING => {
                let mut payload = [0; CONTROL_MAX as usize];
                payload[..self.control.len()].copy_from_slice(&self.control);
                Some(WsItem::Ping(payload, self.control.len() as u8))
            }
            _ => None,
        }
    }

    fn unmask(&mut self, bytes: &mut [u8]) {
        if self.key == [0; 4] {
            return;
        }
        for b in bytes {
            *b ^= self.key[self.at & 3];
            self.at += 1;
        }
    }
}

fn head_len(second: u8) -> usize {
    let mask = if second & 0x80 != 0 { 4 } else { 0 };
    mask + match second & 0x7F {
        126 => 4,
        127 => 10,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(role: Role, key: [u8; 4], payload: &[u8]) -> Vec<u8> {
        let mut room = [0; HEAD_MAX];
        let at = write_head(&mut room, role, payload.len());
        let mut out = room[at..].to_vec();
        if role == Role::Client {
            let n = out.len();
            out[n - 4..].copy_from_slice(&key);
        }
        out.extend(payload.iter().enumerate().map(|(i, b)| b ^ if role == Role::Client { key[i & 3] } else { 0 }));
        out
    }

    fn read_all(bytes: &[u8], cut: usize) -> Result<(Vec<u8>, bool), WsError> {
        let mut reader = WsReader::default();
        let (mut out, mut closed) = (Vec::new(), false);
        for chunk in bytes.chunks(cut.max(1)) {
            let mut chunk = chunk.to_vec();
            let mut input = &mut chunk[..];
            while let Some(item) = reader.next(&mut input)? {
                match item {
                    WsItem::Payload(p) => out.extend_from_slice(p),
                    WsItem::Close => closed = true,
                    WsItem::Ping(..) => {}
                }
            }
        }
        Ok((out, closed))
    }

    proptest! {
        #[test]
        fn payload_survives_any_cut(
            sizes in proptest::collection::vec(0usize..70_000, 0..4), cut in 1usize..5000, key: [u8; 4], client: bool,
        ) {
            let role = if client { Role::Client } else { Role::Server };
            let (mut bytes, mut want) = (Vec::new(), Vec::new());
            for (n, size) in sizes.iter().enumerate() {
                let payload: Vec<u8> = (0..*size).map(|i| (i * 7 + n) as u8).collect();
                bytes.extend(message(role, key, &payload));
                bytes.extend(control(role, PONG, b"x"));
                want.extend(payload);
            }
            bytes.extend(close(role, 1001));
            prop_assert_eq!(read_all(&bytes, cut).unwrap(), (want, true));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 1usize..64) {
            let _ = read_all(&bytes, cut);
        }
    }

    #[test]
    fn the_close_that_caddy_injects_is_seen() {
        assert_eq!(read_all(&[0x88, 0x02, 0x03, 0xe9], 1).unwrap(), (vec![], true));
    }

    #[test]
    fn text_reserved_bits_and_long_control_frames_are_refused() {
        assert_eq!(read_all(&[0x81, 0x01, b'a'], 9), Err(WsError::Text));
        assert_eq!(read_all(b"GET / HTTP/1.1\r\n", 9), Err(WsError::NotWebsocket(b'G')));
        assert_eq!(read_all(&[0x89, 126, 1, 0], 9), Err(WsError::BadControl));
        assert_eq!(read_all(&[0x09, 1, 0], 9), Err(WsError::BadControl));
    }
}
