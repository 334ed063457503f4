//! STUN binding (RFC 5389), as official clients ask and expect it (Tailscale's `net/stun`). In: a datagram, the address
//! it came from. Out: the answer. Whoever does not ask as official clients do gets none, so that nothing is reflected.

use std::net::{IpAddr, SocketAddr};

use thiserror::Error;

/// Longest answer, in bytes: head, attribute head, family and port, an IPv6 address.
pub const RESPONSE_MAX: usize = HEAD + 4 + 4 + 16;

/// Longest request that is looked at; theirs have 40 bytes.
pub const REQUEST_MAX: usize = 512;

const HEAD: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// What official clients say they are: eight bytes, so no padding.
const OFFICIAL: &[u8] = b"tailnode";
/// Attribute head and checksum; it stands last.
const FINGERPRINT_LEN: usize = 8;
/// RFC 5389, section 15.5.
const FINGERPRINT_XOR: u32 = 0x5354_554e;

/// A transaction: what the answer is found again by.
pub type Transaction = [u8; 12];

/// Why a datagram gets no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StunError {
    /// Not STUN at all, or longer than [`REQUEST_MAX`].
    #[error("no STUN message")]
    NotStun,
    /// Another message than the one wanted here.
    #[error("another STUN message than a binding")]
    NotBinding,
    /// Attributes do not fit the message.
    #[error("malformed attributes")]
    Attributes,
    /// It does not come from an official client.
    #[error("not of an official client")]
    Software,
    /// Its last attribute is no checksum, or a wrong one.
    #[error("no right fingerprint")]
    Fingerprint,
}

/// A binding request, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its transaction.
    pub transaction: Transaction,
}

/// A binding response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// That of the request.
    pub transaction: Transaction,
    /// Where the request came from.
    pub mapped: SocketAddr,
}

impl Request {
    /// The request as bytes; what a simulated node sends.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = head(BINDING_REQUEST, 4 + OFFICIAL.len() + FINGERPRINT_LEN, &self.transaction);
        attribute(&mut out, SOFTWARE, OFFICIAL);
        let sum = (crc32(&out) ^ FINGERPRINT_XOR).to_be_bytes();
        attribute(&mut out, FINGERPRINT, &sum);
        out
    }
}

impl TryFrom<&[u8]> for Request {
    type Error = StunError;

    fn try_from(bytes: &[u8]) -> Result<Request, StunError> {
        let (kind, transaction, rest) = split(bytes)?;
        if kind != BINDING_REQUEST {
            return Err(StunError::NotBinding);
        }
        let (mut official, mut last) = (false, None);
        for a in attributes(rest) {
            let (kind, value) = a?;
            official |= kind == SOFTWARE && value == OFFICIAL;
            last = Some((kind, value));
        }
        let summed = bytes.len().checked_sub(FINGERPRINT_LEN).and_then(|n| bytes.get(..n)).unwrap_or_default();
        let sum = (crc32(summed) ^ FINGERPRINT_XOR).to_be_bytes();
        match last {
            _ if !official => Err(StunError::Software),
            Some((FINGERPRINT, value)) if value == sum => Ok(Request { transaction }),
            _ => Err(StunError::Fingerprint),
        }
    }
}

impl Response {
    /// The response as bytes; an IPv4 address in IPv6 clothes is written as what it is.
    #[must_use]
    pub fn encode(&self, out: &mut [u8; RESPONSE_MAX]) -> usize {
        let mask = self.mask();
        let mut value = [0; 20];
        let port = self.mapped.port() ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
        value[2..4].copy_from_slice(&port.to_be_bytes());
        let len = match self.mapped.ip().to_canonical() {
            IpAddr::V4(ip) => {
                value[1] = 1;
                xor(&mut value[4..8], &ip.octets(), &mask);
                8
            }
            IpAddr::V6(ip) => {
                value[1] = 2;
                xor(&mut value[4..20], &ip.octets(), &mask);
                20
            }
        };
        out[..2].copy_from_slice(&BINDING_SUCCESS);
        // At most 24.
        out[2..4].copy_from_slice(&(4 + len as u16).to_be_bytes());
        out[4..8].copy_from_slice(&MAGIC_COOKIE);
        out[8..HEAD].copy_from_slice(&self.transaction);
        out[HEAD..HEAD + 2].copy_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
        out[HEAD + 2..HEAD + 4].copy_from_slice(&(len as u16).to_be_bytes());
        out[HEAD + 4..HEAD + 4 + len].copy_from_slice(&value[..len]);
        HEAD + 4 + len
    }

    fn mask(&self) -> [u8; 16] {
        mask(&self.transaction)
    }
}

impl TryFrom<&[u8]> for Response {
    type Error = StunError;

    fn try_from(bytes: &[u8]) -> Result<Response, StunError> {
        let (kind, transaction, rest) = split(bytes)?;
        if kind != BINDING_SUCCESS {
            return Err(StunError::NotBinding);
        }
        let mask = mask(&transaction);
        for a in attributes(rest) {
            let (XOR_MAPPED_ADDRESS, [_, family, high, low, ip @ ..]) = a? else { continue };
            let port = u16::from_be_bytes([high ^ MAGIC_COOKIE[0], low ^ MAGIC_COOKIE[1]]);
            let ip: IpAddr = match (family, ip.len()) {
                (1, 4) => {
                    let mut octets = [0; 4];
                    xor(&mut octets, ip, &mask);
                    octets.into()
                }
                (2, 16) => {
                    let mut octets = [0; 16];
                    xor(&mut octets, ip, &mask);
                    octets.into()
                }
                _ => return Err(StunError::Attributes),
            };
            return Ok(Response { transaction, mapped: SocketAddr::new(ip, port) });
        }
        Err(StunError::Attributes)
    }
}

/// Type, transaction and attributes of a message.
fn split(bytes: &[u8]) -> Result<([u8; 2], Transaction, &[u8]), StunError> {
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(StunError::NotStun)?;
    let [a, b, high, low, c0, c1, c2, c3, transaction @ ..] = *head;
    if bytes.len() > REQUEST_MAX || a & 0b1100_0000 != 0 || [c0, c1, c2, c3] != MAGIC_COOKIE {
        return Err(StunError::NotStun);
    }
    if usize::from(u16::from_be_bytes([high, low])) != rest.len() {
        return Err(StunError::Attributes);
    }
    Ok(([a, b], transaction, rest))
}

/// Attributes in their order, padded to four bytes.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), StunError>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(([k0, k1, l0, l1], body)) = rest.split_first_chunk::<4>() else {
            rest = &[];
            return Some(Err(StunError::Attributes));
        };
        let len = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (Some(value), Some(after)) = (body.get(..len), body.get(len.next_multiple_of(4)..)) else {
            rest = &[];
            return Some(Err(StunError::Attributes));
        };
        rest = after;
        Some(Ok((u16::from_be_bytes([*k0, *k1]), value)))
    })
}

fn head(kind: [u8; 2], attributes: usize, transaction: &Transaction) -> Vec<u8> {
    // A request's attributes have 20 bytes.
    let len = (attributes as u16).to_be_bytes();
    [&kind[..], &len, &MAGIC_COOKIE, transaction].concat()
}

fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    // Values here are at most eight bytes, and whole fours.
    out.extend_from_slice(&(value.len() as u16).to_be_bytes());
    out.extend_from_slice(value);
}

fn mask(transaction: &Transaction) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE);
    mask[4..].copy_from_slice(transaction);
    mask
}

fn xor(out: &mut [u8], bytes: &[u8], mask: &[u8; 16]) {
    out.iter_mut().zip(bytes).zip(mask).for_each(|((o, b), m)| *o = b ^ m);
}

/// The checksum of Ethernet (ISO 3309), bit by bit: forty bytes are not worth a table.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |s, _| if s & 1 == 1 { s >> 1 ^ 0xedb8_8320 } else { s >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: Transaction = *b"twelve bytes";

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    /// RFC 5769, sections 2.2 and 2.3: what was mapped in the sample responses.
    #[test]
    fn addresses_are_masked_as_in_the_samples_of_the_standard() {
        let transaction = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
        let mut out = [0; RESPONSE_MAX];
        let v4 = Response { transaction, mapped: "192.0.2.1:32853".parse().unwrap() };
        let len = v4.encode(&mut out);
        assert_eq!(out[HEAD..len], *b"\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43");
        assert_eq!(Response::try_from(&out[..len]), Ok(v4));
        let v6 = Response { transaction, mapped: "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap() };
        let len = v6.encode(&mut out);
        assert_eq!(
            out[HEAD..len],
            *b"\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9"
        );
        assert_eq!(Response::try_from(&out[..len]), Ok(v6));
        let mapped = Response { transaction, mapped: "[::ffff:192.0.2.1]:32853".parse().unwrap() };
        let len = mapped.encode(&mut out);
        assert_eq!(Response::try_from(&out[..len]), Ok(v4));
    }

    #[test]
    fn requests_read_back_and_every_changed_bit_is_noticed() {
        let request = Request { transaction: TRANSACTION };
        let bytes = request.encode();
        assert_eq!(bytes.len(), 40);
        assert_eq!(Request::try_from(&bytes[..]), Ok(request));
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Request::try_from(&changed[..]).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Request::try_from(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_official_clients_do_not_send_gets_no_answer() {
        let plain = head(BINDING_REQUEST, 0, &TRANSACTION);
        assert_eq!(Request::try_from(&plain[..]), Err(StunError::Software));
        let mut no_sum = head(BINDING_REQUEST, 12, &TRANSACTION);
        attribute(&mut no_sum, SOFTWARE, OFFICIAL);
        assert_eq!(Request::try_from(&no_sum[..]), Err(StunError::Fingerprint));
        assert_eq!(Request::try_from(&[0x16, 3, 1][..]), Err(StunError::NotStun));
        let mut out = [0; RESPONSE_MAX];
        let len = Response { transaction: TRANSACTION, mapped: "192.0.2.1:1".parse().unwrap() }.encode(&mut out);
        assert_eq!(Request::try_from(&out[..len]), Err(StunError::NotBinding));
    }
}
