//! PROXY protocol (HAProxy, proxy-protocol.txt), versions 1 and 2. In: the first bytes of a connection, or two
//! addresses. Out: the visitor's address, or the bytes to send.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};
use thiserror::Error;

/// Which version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Longest header that is read: version 1 needs 107 bytes, version 2 with every TLV that HAProxy sends a few hundred.
pub const HEADER_MAX: usize = 2048;

/// Version 2 begins with this.
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoded {
    /// The visitor; `None` for the balancer's own connections (LOCAL, UNKNOWN) and for families other than IP.
    pub source: Option<SocketAddr>,
    /// Bytes of the header.
    pub len: usize,
}

/// Why bytes are no PROXY header of the wanted version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProxyLineError {
    /// Something else.
    #[error("the connection does not begin with a PROXY protocol header of version {0}")]
    Not(u8),
    /// No end within [`HEADER_MAX`].
    #[error("the PROXY protocol header is longer than {HEADER_MAX} bytes")]
    Long,
}

/// Reads a header from the front of `bytes`; `None`: more bytes are needed.
///
/// # Errors
/// These bytes cannot become a header of this version.
pub fn decode(bytes: &[u8], version: Version) -> Result<Option<Decoded>, ProxyLineError> {
    let (number, signature): (u8, &[u8]) = match version {
        Version::V1 => (1, b"PROXY "),
        Version::V2 => (2, V2_SIGNATURE),
    };
    let common = bytes.len().min(signature.len());
    if bytes[..common] != signature[..common] {
        return Err(ProxyLineError::Not(number));
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: number == 1, allow_v2: number == 2 };
    match ProxyHeader::parse(bytes, config) {
        Ok((header, len)) => {
            let address = header.proxied_address().filter(|a| a.protocol == Protocol::Stream);
            Ok(Some(Decoded { source: address.map(|a| canonical(a.source)), len }))
        }
        Err(proxy_header::Error::BufferTooShort) if bytes.len() < HEADER_MAX => Ok(None),
        Err(proxy_header::Error::BufferTooShort) => Err(ProxyLineError::Long),
        Err(_) => Err(ProxyLineError::Not(number)),
    }
}

/// The header that tells an upstream who visits. Addresses of two families are both written as IPv6.
#[must_use]
pub fn encode(version: Version, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (from, to) = (canonical(from), canonical(to));
    let (from, to) = if from.is_ipv4() == to.is_ipv4() { (from, to) } else { (as_v6(from), as_v6(to)) };
    let header = ProxyHeader::with_address(ProxiedAddress::stream(from, to));
    let mut out = Vec::new();
    let done = match version {
        Version::V1 => header.encode_v1(&mut out),
        Version::V2 => header.encode_v2(&mut out),
    };
    debug_assert!(done.is_ok(), "two addresses of one family always fit");
    out
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn as_v6(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(a) => SocketAddr::new(a.to_ipv6_mapped().into(), addr.port()),
        IpAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_every_part_of_it_asks_for_more(
            from: IpAddr, to: IpAddr, port: u16, v2: bool,
        ) {
            let version = if v2 { Version::V2 } else { Version::V1 };
            let from = SocketAddr::new(from, port);
            let bytes = encode(version, from, SocketAddr::new(to, 443));
            let decoded = decode(&bytes, version).unwrap().unwrap();
            prop_assert_eq!(decoded.len, bytes.len());
            prop_assert_eq!(decoded.source.map(canonical), Some(canonical(from)));
            for n in 0..bytes.len() {
                prop_assert_eq!(decode(&bytes[..n], version), Ok(None));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), v2: bool, sign: bool) {
            let version = if v2 { Version::V2 } else { Version::V1 };
            let mut all = if sign { if v2 { V2_SIGNATURE.to_vec() } else { b"PROXY ".to_vec() } } else { vec![] };
            all.extend(bytes);
            let _ = decode(&all, version);
        }
    }

    #[test]
    fn the_wrong_version_and_plain_http_are_refused_at_the_first_byte() {
        assert_eq!(decode(b"GET", Version::V1), Err(ProxyLineError::Not(1)));
        assert_eq!(decode(b"PROXY TCP4", Version::V2), Err(ProxyLineError::Not(2)));
        assert_eq!(decode(b"PROXY UNKNOWN\r\nx", Version::V1), Ok(Some(Decoded { source: None, len: 15 })));
    }
}
