//! One address, folded once. In: text or `IpAddr`. Out: `Addr`, which compares equal however it was written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An IP address in its one normal form: IPv4-mapped IPv6 (`::ffff:192.0.2.1`) is IPv4, a zone is refused in text
/// and dropped from sockets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr(IpAddr);

/// Why a text is not an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddrError {
    /// What came.
    pub text: String,
    /// What is wrong with it, as a clause that follows the text.
    pub reason: &'static str,
}

impl Addr {
    pub(crate) const UNSPECIFIED_V4: Addr = Addr(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    pub(crate) const UNSPECIFIED_V6: Addr = Addr(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    #[inline]
    pub(crate) fn v4(bits: u32) -> Addr {
        Addr(IpAddr::V4(Ipv4Addr::from(bits)))
    }

    /// `bits` are those of a folded address, cut to a prefix, so they are no IPv4-mapped ones unless cut to `::/80` or
    /// wider, which names IPv6 all the same.
    #[inline]
    pub(crate) fn v6(bits: u128) -> Addr {
        Addr(IpAddr::V6(Ipv6Addr::from(bits)))
    }

    /// Folds an address into its normal form.
    #[must_use]
    pub fn new(ip: IpAddr) -> Addr {
        Addr(ip.to_canonical())
    }

    /// The address of a socket's peer; the port and the zone are dropped.
    #[must_use]
    pub fn of(peer: SocketAddr) -> Addr {
        Addr::new(peer.ip())
    }

    /// The address for `std::net`.
    #[must_use]
    #[inline]
    pub fn ip(self) -> IpAddr {
        self.0
    }

    /// True for IPv4 (IPv4-mapped IPv6 included, since that is folded).
    #[must_use]
    pub fn is_v4(self) -> bool {
        self.0.is_ipv4()
    }

    /// Width of the family in bits: 32 or 128.
    #[must_use]
    pub fn width(self) -> u8 {
        if self.is_v4() { 32 } else { 128 }
    }

    /// The address as a number, in the low `width` bits.
    #[must_use]
    pub fn bits(self) -> u128 {
        match self.0 {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        }
    }

    /// The address with these low `width` bits, of the same family as `self`. Higher bits are cut off.
    #[must_use]
    pub fn with_bits(self, bits: u128) -> Addr {
        if self.is_v4() {
            Addr(IpAddr::V4(Ipv4Addr::from(bits as u32)))
        } else {
            Addr(IpAddr::V6(Ipv6Addr::from(bits)))
        }
    }

    /// True if it is of this machine alone (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    #[must_use]
    pub fn is_loopback(self) -> bool {
        self.ip().is_loopback()
    }

    /// True for an address of one's own surroundings: private, loopback, link-local, CGN, unique local, unspecified.
    /// Nothing is learned from these unless asked to.
    #[must_use]
    pub fn is_private(self) -> bool {
        match self.0 {
            IpAddr::V4(a) => {
                a.is_private()
                    || a.is_loopback()
                    || a.is_link_local()
                    || a.is_unspecified()
                    || (a.octets()[0] == 100 && (64..128).contains(&a.octets()[1]))
            }
            IpAddr::V6(a) => a.is_loopback() || a.is_unspecified() || a.is_unique_local() || a.is_unicast_link_local(),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        Addr::new(ip)
    }
}

impl FromStr for Addr {
    type Err = AddrError;

    /// Parses an address; spaces around it and brackets (`[2001:db8::1]`) are allowed, a zone or a port is not.
    fn from_str(text: &str) -> Result<Addr, AddrError> {
        let fail = |reason| AddrError { text: text.to_string(), reason };
        let t = text.trim();
        let t = match t.strip_prefix('[').map(|r| r.strip_suffix(']')) {
            Some(Some(inner)) => inner,
            Some(None) => return Err(fail("has `[` without `]`")),
            None => t,
        };
        if t.is_empty() {
            return Err(fail("is empty"));
        }
        if t.contains('%') {
            return Err(fail("has a zone, which means nothing on another machine"));
        }
        IpAddr::from_str(t).map(Addr::new).map_err(|_| fail("is not an IPv4 or IPv6 address"))
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.text, self.reason)
    }
}

impl std::error::Error for AddrError {}
