//! The `ts2021` channel between nodes and the coordination server: handshake messages and records. In: bytes of a peer
//! and random numbers. Out: a session that seals and opens records. No IO.
//!
//! The handshake is `Noise_IK_25519_ChaChaPoly_BLAKE2s`: the node knows the server's key, and its own travels sealed.
//! The version it speaks is the prologue, so that nobody between the two can change it. Framing and numbers are those of
//! Tailscale's `control/controlbase`:
//!
//! ```text
//! initiation  version (2, BE)  type 1  length 96 (2, BE)  ephemeral (32)  sealed machine key (48)  tag (16)
//! response                     type 2  length 48 (2, BE)  ephemeral (32)  tag (16)
//! error                        type 3  length    (2, BE)  text, not authenticated: only a hint
//! record                       type 4  length    (2, BE)  ChaCha20-Poly1305; nonce 0 (4 bytes), counter (8, BE)
//! ```

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use blake2::{Blake2s256, Digest};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::CryptoResolver;
use snow::types::{Cipher, Dh, Hash, Random};
use thiserror::Error;

use crate::meshkey::{KEY_LEN, MachineKey, MachinePrivate, agree, public_of};

/// Bytes of an initiation.
pub const INITIATION_LEN: usize = 101;

/// Bytes of a response.
pub const RESPONSE_LEN: usize = 51;

/// Bytes before the payload of every message but the initiation.
pub const HEAD_LEN: usize = 3;

/// Longest record with its head, as both official sides have it.
pub const RECORD_MAX: usize = 4096;

/// Bytes that sealing adds to a plaintext.
pub const OVERHEAD: usize = HEAD_LEN + TAG_LEN;

/// Longest plaintext of one record.
pub const PLAIN_MAX: usize = RECORD_MAX - OVERHEAD;

const INITIATION_HEAD: usize = 5;
const TAG_LEN: usize = 16;
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const ERROR: u8 = 3;
const RECORD: u8 = 4;
const PROTOCOL: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2s";

/// Why a handshake or a record is refused. After any of these a session is over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoiseError {
    /// A handshake message of another length.
    #[error("a handshake message of {0} bytes, {1} wanted")]
    Length(usize, usize),
    /// Another type than the one that belongs here.
    #[error("a message of type {0}, type {1} wanted")]
    Type(u8, u8),
    /// A record longer than [`RECORD_MAX`] or too short to hold its tag.
    #[error("a record of {0} bytes; it has {min} to {RECORD_MAX}", min = OVERHEAD)]
    Record(usize),
    /// Sealed for another key or version, changed on its way, repeated, or out of order.
    #[error("a message that was not sealed for this key, this version or this place")]
    Sealed,
    /// All numbers of this key are used up.
    #[error("the session has used up its numbers")]
    Exhausted,
    /// The peer said why it refuses. The text is neither sealed nor signed.
    #[error("the peer refused: {0:?}")]
    Peer(String),
}

/// A node's first message, checked for its form only.
#[derive(Clone, PartialEq, Eq)]
pub struct Initiation([u8; INITIATION_LEN]);

/// What the responder has after a good initiation.
#[derive(Debug)]
pub struct Accepted {
    /// The machine key that the initiator has proved to hold, once its first record opens.
    pub peer: MachineKey,
    /// The capability version it speaks.
    pub version: u16,
    /// To be sent to it.
    pub response: [u8; RESPONSE_LEN],
    /// For everything after.
    pub session: Session,
}

/// A node's side of a handshake under way.
pub struct Initiator(snow::HandshakeState);

/// Both directions of an established channel.
#[derive(Debug)]
pub struct Session {
    /// Seals what is sent.
    pub sealer: Sealer,
    /// Opens what is received.
    pub opener: Opener,
}

/// Seals plaintexts into records.
pub struct Sealer(Direction);

/// Opens records.
pub struct Opener(Direction);

struct Direction {
    key: Option<LessSafeKey>,
    /// Number of the next record; the largest is never used, as in Noise.
    counter: u64,
}

impl Initiation {
    /// The version in clear, which the handshake then proves.
    #[must_use]
    pub fn version(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }
}

impl TryFrom<&[u8]> for Initiation {
    type Error = NoiseError;

    fn try_from(bytes: &[u8]) -> Result<Initiation, NoiseError> {
        let message = bytes.try_into().map_err(|_| NoiseError::Length(bytes.len(), INITIATION_LEN))?;
        let Initiation([_, _, kind, high, low, ..]) = Initiation(message);
        if kind != INITIATION {
            return Err(NoiseError::Type(kind, INITIATION));
        }
        match usize::from(u16::from_be_bytes([high, low])) + INITIATION_HEAD {
            INITIATION_LEN => Ok(Initiation(message)),
            other => Err(NoiseError::Length(other, INITIATION_LEN)),
        }
    }
}

impl fmt::Debug for Initiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Initiation {{ version: {} }}", self.version())
    }
}

/// The server's side: answers an initiation. `ephemeral` are fresh random bytes.
///
/// An initiation can be sent again by who has seen it, as always in Noise IK; the session that comes of it is of no use
/// to them, since they can neither open nor seal a record. So act on nothing before the first record opens.
///
/// # Errors
/// [`NoiseError::Sealed`] if it was not made for this key and version, or has been changed.
pub fn respond(
    own: &MachinePrivate,
    initiation: &Initiation,
    ephemeral: [u8; KEY_LEN],
) -> Result<Accepted, NoiseError> {
    let version = initiation.version();
    let prologue = prologue(version);
    let mut state = builder(ephemeral)
        .and_then(|b| b.local_private_key(own.as_bytes()))
        .and_then(|b| b.prologue(prologue.as_bytes()))
        .and_then(snow::Builder::build_responder)
        .map_err(|_| NoiseError::Sealed)?;
    state.read_message(&initiation.0[INITIATION_HEAD..], &mut []).map_err(|_| NoiseError::Sealed)?;
    let peer = state.get_remote_static().and_then(|k| k.try_into().ok()).ok_or(NoiseError::Sealed)?;
    let mut response = [0; RESPONSE_LEN];
    response[..HEAD_LEN].copy_from_slice(&head(RESPONSE, RESPONSE_LEN - HEAD_LEN));
    state.write_message(&[], &mut response[HEAD_LEN..]).map_err(|_| NoiseError::Sealed)?;
    let (to_server, to_node) = state.dangerously_get_raw_split();
    Ok(Accepted {
        peer: MachineKey::from_bytes(peer),
        version,
        response,
        session: Session { sealer: Sealer(Direction::new(&to_node)), opener: Opener(Direction::new(&to_server)) },
    })
}

impl Initiator {
    /// A node's side: the first message to the server with this key. `ephemeral` are fresh random bytes.
    ///
    /// # Errors
    /// [`NoiseError::Sealed`] for a server key that can keep nothing secret.
    pub fn start(
        own: &MachinePrivate,
        server: &MachineKey,
        version: u16,
        ephemeral: [u8; KEY_LEN],
    ) -> Result<(Initiator, [u8; INITIATION_LEN]), NoiseError> {
        let prologue = prologue(version);
        let mut state = builder(ephemeral)
            .and_then(|b| b.local_private_key(own.as_bytes()))
            .and_then(|b| b.remote_public_key(server.as_bytes()))
            .and_then(|b| b.prologue(prologue.as_bytes()))
            .and_then(snow::Builder::build_initiator)
            .map_err(|_| NoiseError::Sealed)?;
        let mut message = [0; INITIATION_LEN];
        message[..2].copy_from_slice(&version.to_be_bytes());
        message[2..INITIATION_HEAD].copy_from_slice(&head(INITIATION, INITIATION_LEN - INITIATION_HEAD));
        state.write_message(&[], &mut message[INITIATION_HEAD..]).map_err(|_| NoiseError::Sealed)?;
        Ok((Initiator(state), message))
    }

    /// Takes the server's response.
    ///
    /// # Errors
    /// [`NoiseError::Peer`] if it is an error message; others if it is no answer to our message by the holder of the
    /// server's key.
    pub fn finish(mut self, response: &[u8]) -> Result<Session, NoiseError> {
        match response {
            [ERROR, _, _, text @ ..] => Err(NoiseError::Peer(String::from_utf8_lossy(text).into_owned())),
            [RESPONSE, high, low, sealed @ ..] if response.len() == RESPONSE_LEN => {
                if usize::from(u16::from_be_bytes([*high, *low])) != sealed.len() {
                    return Err(NoiseError::Length(response.len(), RESPONSE_LEN));
                }
                self.0.read_message(sealed, &mut []).map_err(|_| NoiseError::Sealed)?;
                let (to_server, to_node) = self.0.dangerously_get_raw_split();
                let (sealer, opener) = (Sealer(Direction::new(&to_server)), Opener(Direction::new(&to_node)));
                Ok(Session { sealer, opener })
            }
            [RESPONSE, ..] | [] => Err(NoiseError::Length(response.len(), RESPONSE_LEN)),
            [kind, ..] => Err(NoiseError::Type(*kind, RESPONSE)),
        }
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initiator(***)")
    }
}

/// Bytes of the whole record that starts with this head.
///
/// # Errors
/// Another type, or a length out of bounds.
pub fn record_len(head: [u8; HEAD_LEN]) -> Result<usize, NoiseError> {
    let [kind, high, low] = head;
    if kind != RECORD {
        return Err(NoiseError::Type(kind, RECORD));
    }
    let len = HEAD_LEN + usize::from(u16::from_be_bytes([high, low]));
    if (OVERHEAD..=RECORD_MAX).contains(&len) { Ok(len) } else { Err(NoiseError::Record(len)) }
}

impl Sealer {
    /// Writes one record with `plain` into the start of `out` and returns its length, `plain.len() + OVERHEAD`.
    ///
    /// # Errors
    /// [`NoiseError::Record`] if it is longer than [`PLAIN_MAX`] or `out` is too short (then nothing is used up),
    /// [`NoiseError::Exhausted`] at the end of the numbers.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, NoiseError> {
        let len = plain.len() + OVERHEAD;
        if len > RECORD_MAX {
            return Err(NoiseError::Record(len));
        }
        let record = out.get_mut(..len).ok_or(NoiseError::Record(len))?;
        let (key, nonce) = self.0.next()?;
        let (start, sealed) = record.split_at_mut(HEAD_LEN);
        let (body, tag) = sealed.split_at_mut(plain.len());
        start.copy_from_slice(&head(RECORD, len - HEAD_LEN));
        body.copy_from_slice(plain);
        let made = key.seal_in_place_separate_tag(nonce, Aad::empty(), body).map_err(|_| NoiseError::Sealed)?;
        tag.copy_from_slice(made.as_ref());
        Ok(len)
    }
}

impl Opener {
    /// Opens one whole record in place and returns its plaintext, which may be empty.
    ///
    /// # Errors
    /// Whatever is wrong with it; the opener then opens nothing more, since what follows has lost its place.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a mut [u8], NoiseError> {
        let whole = record.len();
        let (start, sealed) = record.split_first_chunk_mut::<HEAD_LEN>().ok_or(NoiseError::Record(whole))?;
        let opened = record_len(*start).and_then(|len| {
            let (key, nonce) = if len == whole { self.0.next()? } else { return Err(NoiseError::Record(whole)) };
            key.open_in_place(nonce, Aad::empty(), sealed).map_err(|_| NoiseError::Sealed)
        });
        if opened.is_err() {
            self.0.key = None;
        }
        opened
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer {{ counter: {} }}", self.0.counter)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener {{ counter: {} }}", self.0.counter)
    }
}

impl Direction {
    fn new(key: &[u8; KEY_LEN]) -> Direction {
        Direction { key: chacha(key), counter: 0 }
    }

    /// The key and the nonce of the next record.
    fn next(&mut self) -> Result<(&LessSafeKey, Nonce), NoiseError> {
        if self.counter == u64::MAX {
            return Err(NoiseError::Exhausted);
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&self.counter.to_be_bytes());
        self.counter += 1;
        Ok((self.key.as_ref().ok_or(NoiseError::Sealed)?, Nonce::assume_unique_for_key(nonce)))
    }
}

fn head(kind: u8, len: usize) -> [u8; HEAD_LEN] {
    // Every length here is at most RECORD_MAX.
    let [high, low] = (len as u16).to_be_bytes();
    [kind, high, low]
}

fn prologue(version: u16) -> String {
    format!("Tailscale Control Protocol v{version}")
}

fn chacha(key: &[u8; KEY_LEN]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key).ok().map(LessSafeKey::new)
}

fn builder<'a>(ephemeral: [u8; KEY_LEN]) -> Result<snow::Builder<'a>, snow::Error> {
    Ok(snow::Builder::with_resolver(PROTOCOL.parse()?, Box::new(Primitives { ephemeral })))
}

/// What `snow` builds the handshake from: aws-lc-rs, BLAKE2s, and the random bytes of the caller.
struct Primitives {
    ephemeral: [u8; KEY_LEN],
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(Curve::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        matches!(choice, HashChoice::Blake2s).then(|| Box::new(Blake::default()) as Box<dyn Hash>)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(Chacha(None)) as Box<dyn Cipher>)
    }
}

/// Random bytes that are given out once: a handshake makes one ephemeral key.
struct Once(Option<[u8; KEY_LEN]>);

impl Random for Once {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let bytes = self.0.take().filter(|b| b.len() == dest.len()).ok_or(snow::Error::Rng)?;
        dest.copy_from_slice(&bytes);
        Ok(())
    }
}

#[derive(Default)]
struct Curve {
    private: [u8; KEY_LEN],
    public: [u8; KEY_LEN],
}

impl Dh for Curve {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY_LEN
    }

    fn priv_len(&self) -> usize {
        KEY_LEN
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = public_of(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut private = [0; KEY_LEN];
        rng.try_fill_bytes(&mut private)?;
        self.set(&private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let public = public.first_chunk().ok_or(snow::Error::Dh)?;
        let shared = agree(&self.private, public).ok_or(snow::Error::Dh)?;
        out.get_mut(..KEY_LEN).ok_or(snow::Error::Dh)?.copy_from_slice(&shared);
        Ok(())
    }
}

#[derive(Default)]
struct Blake(Blake2s256);

impl Hash for Blake {
    fn name(&self) -> &'static str {
        "BLAKE2s"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = Blake2s256::new();
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(&self.0.finalize_reset());
    }
}

/// The cipher within the handshake; its nonces are Noise's (little-endian), and only number zero is used.
struct Chacha(Option<LessSafeKey>);

impl Chacha {
    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Cipher for Chacha {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; KEY_LEN]) {
        self.0 = chacha(key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plain: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plain.len());
        body.copy_from_slice(plain);
        // A failure leaves a tag of zeros, which no peer accepts.
        rest[..TAG_LEN].fill(0);
        let key = self.0.as_ref();
        if let Some(Ok(tag)) =
            key.map(|k| k.seal_in_place_separate_tag(Self::nonce(nonce), Aad::from(authtext), &mut *body))
        {
            rest[..TAG_LEN].copy_from_slice(tag.as_ref());
        } else {
            body.fill(0);
        }
        plain.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], sealed: &[u8], out: &mut [u8]) -> Result<usize, snow::Error> {
        let key = self.0.as_ref().ok_or(snow::Error::Decrypt)?;
        let plain = sealed.len().checked_sub(TAG_LEN).ok_or(snow::Error::Decrypt)?;
        let (body, tag) = sealed.split_at(plain);
        let out = out.get_mut(..plain).ok_or(snow::Error::Decrypt)?;
        key.open_separate_gather(Self::nonce(nonce), Aad::from(authtext), body, tag, out)
            .map_err(|_| snow::Error::Decrypt)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        hex_vec(text).try_into().unwrap()
    }

    fn hex_vec(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn server() -> MachinePrivate {
        MachinePrivate::from_random([1; KEY_LEN])
    }

    fn node() -> MachinePrivate {
        MachinePrivate::from_random([2; KEY_LEN])
    }

    /// A node's first message and what it needs to go on.
    fn start() -> (Initiator, [u8; INITIATION_LEN]) {
        Initiator::start(&node(), &server().public(), 130, [3; KEY_LEN]).unwrap()
    }

    /// Both ends of a channel: the node's, the server's.
    fn channel() -> (Session, Session) {
        let (initiator, message) = start();
        let accepted = respond(&server(), &message[..].try_into().unwrap(), [4; KEY_LEN]).unwrap();
        assert_eq!((accepted.peer, accepted.version), (node().public(), 130));
        (initiator.finish(&accepted.response).unwrap(), accepted.session)
    }

    fn seal(from: &mut Session, plain: &[u8]) -> Vec<u8> {
        let mut out = [0; RECORD_MAX];
        let len = from.sealer.seal(plain, &mut out).unwrap();
        assert_eq!(record_len([out[0], out[1], out[2]]), Ok(len));
        out[..len].to_vec()
    }

    #[test]
    fn what_one_end_seals_the_other_opens() {
        let (mut node, mut server) = channel();
        for plain in [&b"first"[..], b"", &[7; PLAIN_MAX], b"last"] {
            assert_eq!(server.opener.open(&mut seal(&mut node, plain)).unwrap(), plain);
            assert_eq!(node.opener.open(&mut seal(&mut server, plain)).unwrap(), plain);
        }
        let mut out = [0; RECORD_MAX + 1];
        let too_long = [0; PLAIN_MAX + 1];
        assert_eq!(node.sealer.seal(&too_long, &mut out), Err(NoiseError::Record(RECORD_MAX + 1)));
        assert_eq!(node.sealer.seal(b"four", &mut out[..22]), Err(NoiseError::Record(23)));
        assert_eq!(server.opener.open(&mut seal(&mut node, b"nothing was used up")).unwrap(), b"nothing was used up");
    }

    #[test]
    fn every_cut_and_every_changed_bit_of_a_handshake_is_refused() {
        let (_, message) = start();
        for cut in 0..INITIATION_LEN {
            assert!(matches!(Initiation::try_from(&message[..cut]), Err(NoiseError::Length(..))));
        }
        for bit in 0..INITIATION_LEN * 8 {
            let mut changed = message;
            changed[bit / 8] ^= 1 << (bit % 8);
            let taken = Initiation::try_from(&changed[..]).and_then(|i| respond(&server(), &i, [4; KEY_LEN]));
            // The highest bit of a Curve25519 key is not looked at (RFC 7748, section 5), but it is hashed.
            assert!(taken.is_err(), "bit {bit}");
        }
        let accepted = respond(&server(), &message[..].try_into().unwrap(), [4; KEY_LEN]).unwrap();
        for cut in 0..RESPONSE_LEN {
            assert!(start().0.finish(&accepted.response[..cut]).is_err());
        }
        for bit in 0..RESPONSE_LEN * 8 {
            let mut changed = accepted.response;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(start().0.finish(&changed).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_key_or_another_version_is_refused() {
        let (_, mut message) = start();
        let other = MachinePrivate::from_random([9; KEY_LEN]);
        let refused = respond(&other, &message[..].try_into().unwrap(), [4; KEY_LEN]);
        assert_eq!(refused.map(|a| a.peer), Err(NoiseError::Sealed));
        message[..2].copy_from_slice(&131u16.to_be_bytes());
        let refused = respond(&server(), &message[..].try_into().unwrap(), [4; KEY_LEN]);
        assert_eq!(refused.map(|a| a.peer), Err(NoiseError::Sealed));
        assert!(Initiator::start(&node(), &MachineKey::default(), 130, [3; KEY_LEN]).is_err());
    }

    #[test]
    fn a_repeated_initiation_gives_a_session_of_no_use() {
        let (initiator, message) = start();
        let initiation: Initiation = message[..].try_into().unwrap();
        let first = respond(&server(), &initiation, [4; KEY_LEN]).unwrap();
        let mut repeated = respond(&server(), &initiation, [5; KEY_LEN]).unwrap().session;
        let mut node = initiator.finish(&first.response).unwrap();
        assert_eq!(repeated.opener.open(&mut seal(&mut node, b"x")), Err(NoiseError::Sealed));
    }

    #[test]
    fn repeated_changed_cut_and_reordered_records_are_refused() {
        let record = |n: usize| {
            let (mut node, server) = channel();
            let records: Vec<_> = (0..n).map(|i| seal(&mut node, &[i as u8; 30])).collect();
            (records, server.opener)
        };
        let (mut twice, mut opener) = record(1);
        opener.open(&mut twice[0].clone()).unwrap();
        assert_eq!(opener.open(&mut twice[0]), Err(NoiseError::Sealed), "repeated");
        let (mut two, mut opener) = record(2);
        assert_eq!(opener.open(&mut two[1]), Err(NoiseError::Sealed), "out of order");
        assert_eq!(opener.open(&mut two[0]), Err(NoiseError::Sealed), "nothing opens after a failure");
        let len = record(1).0[0].len();
        for bit in 0..len * 8 {
            let (mut one, mut opener) = record(1);
            one[0][bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(&mut one[0]).is_err(), "bit {bit}");
        }
        for cut in 0..len {
            let (mut one, mut opener) = record(1);
            assert!(opener.open(&mut one[0][..cut]).is_err(), "cut at {cut}");
        }
        for head in [[4, 0, 15], [4, 0x0f, 0xfe], [4, 0xff, 0xff]] {
            assert!(matches!(record_len(head), Err(NoiseError::Record(_))), "{head:?}");
        }
        assert_eq!(record_len([4, 0x0f, 0xfd]), Ok(RECORD_MAX));
        assert_eq!(record_len([3, 0, 16]), Err(NoiseError::Type(3, 4)));
    }

    #[test]
    fn numbers_run_out_without_a_repeat() {
        let (mut node, mut server) = channel();
        node.sealer.0.counter = u64::MAX - 1;
        server.opener.0.counter = u64::MAX - 1;
        let mut last = seal(&mut node, b"last");
        assert_eq!(node.sealer.seal(b"more", &mut [0; RECORD_MAX]), Err(NoiseError::Exhausted));
        assert_eq!(server.opener.open(&mut last.clone()).unwrap(), b"last");
        assert_eq!(server.opener.open(&mut last), Err(NoiseError::Exhausted));
    }

    #[test]
    fn an_error_message_is_read_as_what_the_peer_says() {
        let said = start().0.finish(&[&head(ERROR, 11)[..], b"no such key"].concat());
        assert_eq!(said.map(|_| ()), Err(NoiseError::Peer("no such key".into())));
    }

    /// Vector `Noise_IK_25519_ChaChaPoly_BLAKE2s` of the cacophony project's test vectors. Its counters beyond zero are
    /// little-endian, as in Noise proper, so the first record of each direction is compared.
    #[test]
    fn the_handshake_is_that_of_the_public_vectors() {
        let build = |ephemeral: &str| builder(hex(ephemeral)).unwrap().prologue(b"John Galt").unwrap();
        let (node, server): ([u8; 32], [u8; 32]) = (
            hex("e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"),
            hex("4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"),
        );
        let server_key: [u8; 32] = hex("31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62");
        let mut initiator = build("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a")
            .local_private_key(&node)
            .and_then(|b| b.remote_public_key(&server_key))
            .and_then(snow::Builder::build_initiator)
            .unwrap();
        let mut responder = build("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b")
            .local_private_key(&server)
            .and_then(snow::Builder::build_responder)
            .unwrap();
        let (mut message, mut payload) = ([0; 256], [0; 256]);
        let len = initiator.write_message(b"Ludwig von Mises", &mut message).unwrap();
        let wanted = "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79440b03ddc7aac5123d06a1b23b71670e32\
                      e76c28239a7ca4ac8f784de7e44c1adbfc6e83fef7352a58d9d56157400c0a737b1d171ce368229c7b752ac25b8faf4e\
                      ca690f6d896f543be02c996ab2b86b76";
        assert_eq!(message[..len], hex_vec(wanted));
        let len = responder.read_message(&message[..len], &mut payload).unwrap();
        assert_eq!(&payload[..len], b"Ludwig von Mises");
        let len = responder.write_message(b"Murray Rothbard", &mut message).unwrap();
        let wanted = "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843d9b5a8927f0ac9655ef76833bc7e5561\
                      f42e691ac8404efd6fbd6308b6a27c";
        assert_eq!(message[..len], hex_vec(wanted));
        initiator.read_message(&message[..len], &mut payload).unwrap();
        let (to_server, to_node) = initiator.dangerously_get_raw_split();
        assert_eq!(responder.dangerously_get_raw_split(), (to_server, to_node));
        for (key, plain, wanted) in [
            (to_server, "F. A. Hayek", "2c256ed08fcd08c2980f954ee4beaccb61c9581340f5dd2fd1cf3b"),
            (to_node, "Carl Menger", "d6033f70eee20945c7c9dba304e397ee3b284ff5e00fd9efb095d3"),
        ] {
            let len = Sealer(Direction::new(&key)).seal(plain.as_bytes(), &mut message).unwrap();
            assert_eq!(message[HEAD_LEN..len], hex_vec(wanted));
        }
    }
}
