//! DERP, the relay protocol of Tailscale, version 2: frames and introductions. In: bytes of a relay or of its client.
//! Out: frames that borrow from them. Numbers are those of Tailscale's `derp/derp.go`.
//!
//! A frame is a type (1), a length (4, big-endian) and a body. The relay says its key; the client says its own, and
//! boxes its information with both keys, which proves that it has the private half; the relay boxes an answer.
//! From then on packets go by public key.
//!
//! What official clients do before the first frame (`derp/derphttp`, `net/tlsdial`, `tailcfg/derpmap.go`; read at 1.103):
//! - They reach relays of a DERP map by HTTPS only, at port `DERPPort` (443 if it is 0) of `IPv4` and `IPv6`, or of
//!   `HostName` by DNS where those are empty; `"none"` or any other text that is no address turns a family off.
//!   Plain HTTP needs `TS_DEBUG_USE_DERP_HTTP` in the client's environment, so a relay needs TLS.
//! - `CertName: "sha256-raw:<hex>"` pins a certificate instead of asking the system's authorities, since version 1.82
//!   (before it, this text was taken for a host name and failed). It is the SHA-256, in lower case hexadecimal, of the
//!   whole leaf certificate in DER, not of its key. Exactly one certificate may be sent; it must be within its dates; and
//!   if `HostName` is a name it must be among the certificate's names. For an address as `HostName` no server name is
//!   sent and none is compared.
//! - An IPv6 address as `HostName` breaks the latency check, which puts it into a URL without brackets: give such a relay
//!   a made-up name, and its address in `IPv6`.
//! - They send `GET /derp` with `Upgrade: DERP` and wait for `101`. A second certificate named `derpkey<hex of the relay's
//!   key>` with serial number 2 (the "meta certificate") makes them send `Derp-Fast-Start: 1` and skip the answer; without
//!   it they never do. Pinning ignores that certificate.
//! - When UDP is blocked they measure `GET /derp/latency-check` over the same TLS settings; any status up to 299 counts.
//! - STUN goes to `STUNPort` (3478 if it is 0, none if it is -1) of the same addresses.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::meshkey::{KEY_LEN, NodeKey, NodePrivate};
use crate::nacl::{NONCE_LEN, SharedBox};

/// The version of the protocol that is spoken here.
pub const VERSION: u32 = 2;

/// Bytes before a body.
pub const HEAD_LEN: usize = 5;

/// Longest packet, in bytes.
pub const PACKET_MAX: usize = 64 * 1024;

/// Longest body of a `SendPacket` frame.
pub const SEND_MAX: usize = KEY_LEN + PACKET_MAX;

/// Longest `ClientInfo` that an untrusted peer may send: real ones have less than 300 bytes.
pub const INFO_MAX: usize = 16 * 1024;

/// Longest body of any frame, known or not, as official clients have it.
pub const BODY_MAX: usize = 1 << 20;

/// How often a relay sends `KeepAlive` at least; official clients hang up after two minutes of silence.
pub const KEEP_ALIVE: Duration = Duration::from_secs(60);

const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";
/// A ping longer than this is refused, as by official relays; the first eight bytes come back.
const PING_MAX: usize = 1000;
const PING_LEN: usize = 8;
/// What messages of path discovery start with, and their shortest length: magic, key, nonce (`disco/disco.go`).
const DISCO_MAGIC: &[u8] = b"TS\xf0\x9f\x92\xac";
const DISCO_MIN: usize = 6 + 32 + 24;

/// Types of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Relay to client, first: magic and the relay's key.
    ServerKey = 0x01,
    /// Client to relay, its answer: key, nonce, boxed [`ClientInfo`].
    ClientInfo = 0x02,
    /// Relay to client: nonce, boxed [`ServerInfo`].
    ServerInfo = 0x03,
    /// Client to relay: destination, packet.
    SendPacket = 0x04,
    /// Relay to client: source, packet.
    RecvPacket = 0x05,
    /// Relay to client: nothing.
    KeepAlive = 0x06,
    /// Client to relay: whether this is its home.
    NotePreferred = 0x07,
    /// Relay to client: a key and why it is not here.
    PeerGone = 0x08,
    /// Relay to relay: a key is here.
    PeerPresent = 0x09,
    /// Relay to relay: source, destination, packet.
    ForwardPacket = 0x0a,
    /// Relay to relay: tell me who is here.
    WatchConns = 0x10,
    /// Relay to relay: cut this client.
    ClosePeer = 0x11,
    /// Either way: eight bytes to come back in a `Pong`.
    Ping = 0x12,
    /// The answer.
    Pong = 0x13,
    /// Relay to client: what is wrong with this connection; empty when nothing is any more.
    Health = 0x14,
    /// Relay to client: going away.
    Restarting = 0x15,
}

/// Why a key is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It was here and left.
    Disconnected,
    /// It is not connected to this relay.
    NotHere,
    /// Another reason.
    Other(u8),
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its type; nothing for one that is not known here, whose body is to be skipped.
    pub kind: Option<Kind>,
    /// Bytes of body; at most [`BODY_MAX`], and at most what its type allows.
    pub len: usize,
}

/// A frame whose body borrows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// The relay's key.
    ServerKey(NodeKey),
    /// The client's key, and nonce and box for [`ClientInfo::open`].
    ClientInfo(NodeKey, &'a [u8]),
    /// Nonce and box for [`ServerInfo::open`].
    ServerInfo(&'a [u8]),
    /// A packet to this key.
    SendPacket(NodeKey, &'a [u8]),
    /// A packet from this key.
    RecvPacket(NodeKey, &'a [u8]),
    /// The relay is alive.
    KeepAlive,
    /// Whether this relay is the client's home.
    NotePreferred(bool),
    /// This key is not here.
    PeerGone(NodeKey, Gone),
    /// Among relays only.
    PeerPresent(NodeKey),
    /// Among relays only: source, destination, packet.
    ForwardPacket(NodeKey, NodeKey, &'a [u8]),
    /// Among relays only.
    WatchConns,
    /// Among relays only.
    ClosePeer(NodeKey),
    /// To come back in a `Pong`.
    Ping([u8; PING_LEN]),
    /// What came in a `Ping`.
    Pong([u8; PING_LEN]),
    /// What is wrong with this connection.
    Health(&'a str),
    /// Come back after the first time, and try for as long as the second.
    Restarting(Duration, Duration),
}

/// Why bytes are no frame. The connection is to be cut.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DerpError {
    /// Longer or shorter than its type allows.
    #[error("a frame of type {0:#04x} with a body of {1} bytes")]
    Length(u8, usize),
    /// The relay's first frame is something else.
    #[error("this is no DERP relay")]
    Magic,
    /// The box does not open, or what is in it is not understood.
    #[error("the introduction was not sealed with the key it names, or says nothing that is understood")]
    Box,
}

/// What a client says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    /// The version it speaks.
    pub version: u32,
    /// It answers `Ping`.
    #[serde(rename = "CanAckPings")]
    pub can_ack_pings: bool,
    /// It only measures.
    #[serde(rename = "IsProber")]
    pub is_prober: bool,
}

/// What a relay says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// The version it speaks.
    pub version: u32,
    /// How much it lets a client send, in bytes each second; 0 for no limit. Clients drop what is more.
    #[serde(rename = "TokenBucketBytesPerSecond", skip_serializing_if = "is_zero")]
    pub bytes_per_second: u64,
    /// And at once, in bytes.
    #[serde(rename = "TokenBucketBytesBurst", skip_serializing_if = "is_zero")]
    pub bytes_burst: u64,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::ServerKey,
        Kind::ClientInfo,
        Kind::ServerInfo,
        Kind::SendPacket,
        Kind::RecvPacket,
        Kind::KeepAlive,
        Kind::NotePreferred,
        Kind::PeerGone,
        Kind::PeerPresent,
        Kind::ForwardPacket,
        Kind::WatchConns,
        Kind::ClosePeer,
        Kind::Ping,
        Kind::Pong,
        Kind::Health,
        Kind::Restarting,
    ];

    /// Shortest and longest body. Where official relays may send more one day, more is taken and not looked at.
    fn bounds(self) -> (usize, usize) {
        match self {
            Kind::ServerKey => (MAGIC.len() + KEY_LEN, 1024),
            Kind::ClientInfo => (KEY_LEN + NONCE_LEN, INFO_MAX),
            Kind::ServerInfo => (NONCE_LEN, INFO_MAX),
            Kind::SendPacket | Kind::RecvPacket => (KEY_LEN, SEND_MAX),
            Kind::ForwardPacket => (2 * KEY_LEN, KEY_LEN + SEND_MAX),
            Kind::KeepAlive => (0, 1024),
            Kind::NotePreferred => (1, 1),
            Kind::PeerGone | Kind::PeerPresent => (KEY_LEN, 1024),
            Kind::WatchConns => (0, 0),
            Kind::ClosePeer => (KEY_LEN, KEY_LEN),
            Kind::Ping | Kind::Pong => (PING_LEN, PING_MAX),
            Kind::Health => (0, 4096),
            Kind::Restarting => (8, 1024),
        }
    }
}

impl Head {
    /// Bytes of the whole frame.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        HEAD_LEN + self.len
    }
}

impl TryFrom<[u8; HEAD_LEN]> for Head {
    type Error = DerpError;

    fn try_from([kind, a, b, c, d]: [u8; HEAD_LEN]) -> Result<Head, DerpError> {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        let known = Kind::ALL.into_iter().find(|k| *k as u8 == kind);
        let (min, max) = known.map_or((0, BODY_MAX), Kind::bounds);
        if (min..=max).contains(&len) { Ok(Head { kind: known, len }) } else { Err(DerpError::Length(kind, len)) }
    }
}

impl<'a> Frame<'a> {
    /// The frame of this type and body.
    ///
    /// # Errors
    /// A body that is too short or too long, a relay that is none.
    pub fn decode(kind: Kind, body: &'a [u8]) -> Result<Frame<'a>, DerpError> {
        let wrong = || DerpError::Length(kind as u8, body.len());
        let (min, max) = kind.bounds();
        if !(min..=max).contains(&body.len()) {
            return Err(wrong());
        }
        let key = |from: &'a [u8]| {
            from.split_first_chunk().map(|(key, rest)| (NodeKey::from_bytes(*key), rest)).ok_or_else(wrong)
        };
        Ok(match kind {
            Kind::ServerKey => Frame::ServerKey(
                key(body.strip_prefix(MAGIC).ok_or(DerpError::Magic)?).map_err(|_| DerpError::Magic)?.0,
            ),
            Kind::ClientInfo => {
                let (key, sealed) = key(body)?;
                Frame::ClientInfo(key, sealed)
            }
            Kind::ServerInfo => Frame::ServerInfo(body),
            Kind::SendPacket => {
                let (to, packet) = key(body)?;
                Frame::SendPacket(to, packet)
            }
            Kind::RecvPacket => {
                let (from, packet) = key(body)?;
                Frame::RecvPacket(from, packet)
            }
            Kind::ForwardPacket => {
                let (from, rest) = key(body)?;
                let (to, packet) = key(rest)?;
                Frame::ForwardPacket(from, to, packet)
            }
            Kind::KeepAlive => Frame::KeepAlive,
            Kind::NotePreferred => Frame::NotePreferred(body != [0]),
            Kind::PeerGone => {
                let (key, rest) = key(body)?;
                let reason = rest.first().map_or(Gone::Disconnected, |code| Gone::from(*code));
                Frame::PeerGone(key, reason)
            }
            Kind::PeerPresent => Frame::PeerPresent(key(body)?.0),
            Kind::WatchConns => Frame::WatchConns,
            Kind::ClosePeer => Frame::ClosePeer(key(body)?.0),
            Kind::Ping => Frame::Ping(*body.first_chunk().ok_or_else(wrong)?),
            Kind::Pong => Frame::Pong(*body.first_chunk().ok_or_else(wrong)?),
            Kind::Health => Frame::Health(std::str::from_utf8(body).map_err(|_| wrong())?),
            Kind::Restarting => {
                let [a, b, c, d, e, f, g, h] = *body.first_chunk().ok_or_else(wrong)?;
                let millis = |bytes| Duration::from_millis(u32::from_be_bytes(bytes).into());
                Frame::Restarting(millis([a, b, c, d]), millis([e, f, g, h]))
            }
        })
    }

    /// Writes the whole frame behind what is in `out`. A packet must not be longer than [`PACKET_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |kind: Kind, parts: [&[u8]; 3]| {
            let len: usize = parts.iter().map(|p| p.len()).sum();
            out.push(kind as u8);
            // Bodies are far below 4 GiB.
            out.extend_from_slice(&(len as u32).to_be_bytes());
            parts.iter().for_each(|p| out.extend_from_slice(p));
        };
        match self {
            Frame::ServerKey(key) => put(Kind::ServerKey, [MAGIC, key.as_bytes(), &[]]),
            Frame::ClientInfo(key, sealed) => put(Kind::ClientInfo, [key.as_bytes(), sealed, &[]]),
            Frame::ServerInfo(sealed) => put(Kind::ServerInfo, [sealed, &[], &[]]),
            Frame::SendPacket(to, packet) => put(Kind::SendPacket, [to.as_bytes(), packet, &[]]),
            Frame::RecvPacket(from, packet) => put(Kind::RecvPacket, [from.as_bytes(), packet, &[]]),
            Frame::ForwardPacket(from, to, packet) => {
                put(Kind::ForwardPacket, [from.as_bytes(), to.as_bytes(), packet]);
            }
            Frame::KeepAlive => put(Kind::KeepAlive, [&[]; 3]),
            Frame::NotePreferred(home) => put(Kind::NotePreferred, [&[u8::from(*home)], &[], &[]]),
            Frame::PeerGone(key, reason) => put(Kind::PeerGone, [key.as_bytes(), &[(*reason).into()], &[]]),
            Frame::PeerPresent(key) => put(Kind::PeerPresent, [key.as_bytes(), &[], &[]]),
            Frame::WatchConns => put(Kind::WatchConns, [&[]; 3]),
            Frame::ClosePeer(key) => put(Kind::ClosePeer, [key.as_bytes(), &[], &[]]),
            Frame::Ping(data) => put(Kind::Ping, [data, &[], &[]]),
            Frame::Pong(data) => put(Kind::Pong, [data, &[], &[]]),
            Frame::Health(problem) => put(Kind::Health, [problem.as_bytes(), &[], &[]]),
            Frame::Restarting(after, during) => {
                let millis = |d: &Duration| u32::try_from(d.as_millis()).unwrap_or(u32::MAX).to_be_bytes();
                put(Kind::Restarting, [&millis(after), &millis(during), &[]]);
            }
        }
    }
}

/// The first whole frame in `bytes` and its length; nothing if it is not whole yet. A frame of an unknown type has a
/// length and no value.
///
/// # Errors
/// What comes is no frame, whatever may follow.
pub fn first(bytes: &[u8]) -> Result<Option<(Option<Frame<'_>>, usize)>, DerpError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else { return Ok(None) };
    let head = Head::try_from(*head)?;
    let Some(body) = rest.get(..head.len) else { return Ok(None) };
    let frame = head.kind.map(|kind| Frame::decode(kind, body)).transpose()?;
    Ok(Some((frame, head.frame_len())))
}

/// True if a packet looks like a message of path discovery: few, small, and worth more than bulk.
#[must_use]
pub fn is_disco(packet: &[u8]) -> bool {
    packet.len() >= DISCO_MIN && packet.starts_with(DISCO_MAGIC)
}

impl ClientInfo {
    /// Nonce and box, for [`Frame::ClientInfo`]. Nothing if the relay's key can keep no secret.
    #[must_use]
    pub fn seal(&self, own: &NodePrivate, relay: &NodeKey, nonce: &[u8; NONCE_LEN]) -> Option<Vec<u8>> {
        seal(self, own, relay, nonce)
    }

    /// What `client` sealed for the relay `own`.
    ///
    /// # Errors
    /// [`DerpError::Box`] if somebody else sealed it.
    pub fn open(sealed: &[u8], own: &NodePrivate, client: &NodeKey) -> Result<ClientInfo, DerpError> {
        open(sealed, own, client)
    }
}

impl ServerInfo {
    /// Nonce and box, for [`Frame::ServerInfo`]. Nothing if the client's key can keep no secret.
    #[must_use]
    pub fn seal(&self, own: &NodePrivate, client: &NodeKey, nonce: &[u8; NONCE_LEN]) -> Option<Vec<u8>> {
        seal(self, own, client, nonce)
    }

    /// What `relay` sealed for the client `own`.
    ///
    /// # Errors
    /// [`DerpError::Box`] if somebody else sealed it.
    pub fn open(sealed: &[u8], own: &NodePrivate, relay: &NodeKey) -> Result<ServerInfo, DerpError> {
        open(sealed, own, relay)
    }
}

impl From<u8> for Gone {
    fn from(code: u8) -> Gone {
        match code {
            0 => Gone::Disconnected,
            1 => Gone::NotHere,
            other => Gone::Other(other),
        }
    }
}

impl From<Gone> for u8 {
    fn from(gone: Gone) -> u8 {
        match gone {
            Gone::Disconnected => 0,
            Gone::NotHere => 1,
            Gone::Other(code) => code,
        }
    }
}

fn seal(info: &impl Serialize, own: &NodePrivate, peer: &NodeKey, nonce: &[u8; NONCE_LEN]) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(info).ok()?;
    Some([nonce, SharedBox::new(own, peer)?.seal(nonce, &json).as_slice()].concat())
}

fn open<T: for<'de> Deserialize<'de>>(sealed: &[u8], own: &NodePrivate, peer: &NodeKey) -> Result<T, DerpError> {
    let (nonce, sealed) = sealed.split_first_chunk().ok_or(DerpError::Box)?;
    let json = SharedBox::new(own, peer).and_then(|shared| shared.open(nonce, sealed)).ok_or(DerpError::Box)?;
    serde_json::from_slice(&json).map_err(|_| DerpError::Box)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> NodeKey {
        NodeKey::from_bytes([n; KEY_LEN])
    }

    #[test]
    fn every_frame_reads_back_and_no_part_of_it_is_one() {
        let packet = vec![9; PACKET_MAX];
        let minute = Duration::from_secs(60);
        for frame in [
            Frame::ServerKey(key(1)),
            Frame::ClientInfo(key(2), &[7; 60]),
            Frame::ServerInfo(&[7; 60]),
            Frame::SendPacket(key(3), b""),
            Frame::SendPacket(key(3), &packet),
            Frame::RecvPacket(key(4), b"packet"),
            Frame::ForwardPacket(key(4), key(5), b"packet"),
            Frame::KeepAlive,
            Frame::NotePreferred(true),
            Frame::NotePreferred(false),
            Frame::PeerGone(key(6), Gone::NotHere),
            Frame::PeerGone(key(6), Gone::Other(0xf0)),
            Frame::PeerPresent(key(7)),
            Frame::WatchConns,
            Frame::ClosePeer(key(8)),
            Frame::Ping(*b"12345678"),
            Frame::Pong(*b"12345678"),
            Frame::Health("twice"),
            Frame::Restarting(minute, 2 * minute),
        ] {
            let mut bytes = vec![];
            frame.encode(&mut bytes);
            assert_eq!(first(&bytes), Ok(Some((Some(frame), bytes.len()))));
            for cut in (0..bytes.len()).take(200) {
                assert_eq!(first(&bytes[..cut]), Ok(None), "{frame:?} cut at {cut}");
            }
            bytes.extend_from_slice(b"more");
            assert_eq!(first(&bytes).unwrap().unwrap().1, bytes.len() - 4);
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_the_body_comes() {
        for (kind, len) in [
            (Kind::SendPacket, SEND_MAX + 1),
            (Kind::SendPacket, KEY_LEN - 1),
            (Kind::ClientInfo, INFO_MAX + 1),
            (Kind::Ping, 7),
            (Kind::Ping, 1001),
            (Kind::NotePreferred, 2),
            (Kind::ServerKey, 39),
        ] {
            let mut head = [kind as u8, 0, 0, 0, 0];
            head[1..].copy_from_slice(&(len as u32).to_be_bytes());
            assert_eq!(first(&head), Err(DerpError::Length(kind as u8, len)));
        }
        assert_eq!(first(&[0xee, 0xff, 0xff, 0xff, 0xff]), Err(DerpError::Length(0xee, 0xffff_ffff)));
        assert_eq!(first(&[0xee, 0, 0, 0, 2, 1, 2, 3]), Ok(Some((None, 7))), "unknown types are skipped");
        let mut wrong = vec![];
        Frame::ServerKey(key(1)).encode(&mut wrong);
        wrong[HEAD_LEN] = b'd';
        assert_eq!(first(&wrong), Err(DerpError::Magic));
    }

    #[test]
    fn introductions_open_for_the_two_alone() {
        let (client, relay, other) =
            (NodePrivate::from_random([1; 32]), NodePrivate::from_random([2; 32]), NodePrivate::from_random([3; 32]));
        let info = ClientInfo { version: VERSION, can_ack_pings: true, is_prober: false };
        let sealed = info.seal(&client, &relay.public(), &[5; NONCE_LEN]).unwrap();
        assert_eq!(ClientInfo::open(&sealed, &relay, &client.public()), Ok(info));
        assert_eq!(ClientInfo::open(&sealed, &relay, &other.public()), Err(DerpError::Box), "another's key");
        assert_eq!(ClientInfo::open(&sealed, &other, &client.public()), Err(DerpError::Box), "for another relay");
        assert_eq!(ClientInfo::open(&sealed[..30], &relay, &client.public()), Err(DerpError::Box));
        let info = ServerInfo { version: VERSION, ..ServerInfo::default() };
        let sealed = info.seal(&relay, &client.public(), &[6; NONCE_LEN]).unwrap();
        assert_eq!(ServerInfo::open(&sealed, &client, &relay.public()), Ok(info));
        assert_eq!(
            serde_json::to_string(&ServerInfo { version: 2, ..ServerInfo::default() }).unwrap(),
            r#"{"version":2}"#
        );
    }

    #[test]
    fn path_discovery_is_told_from_bulk() {
        let mut disco = DISCO_MAGIC.to_vec();
        disco.resize(DISCO_MIN, 0);
        assert!(is_disco(&disco) && !is_disco(&disco[..DISCO_MIN - 1]) && !is_disco(&[0; 100]));
    }
}
