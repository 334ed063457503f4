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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn an_address_is_the_same_however_it_is_written() {
        for (one, other) in [
            ("192.0.2.1", " ::ffff:192.0.2.1 "),
            ("192.0.2.1", "[::ffff:c000:201]"),
            ("2001:db8::1", "2001:0DB8:0:0:0:0:0:1"),
            ("::1", "[::1]"),
        ] {
            assert_eq!(addr(one), addr(other));
        }
        // An address with IPv4 in it that is not mapped is IPv6 (RFC 4291, sections 2.5.5.1 and 2.5.5.2).
        assert!(!addr("::192.0.2.1").is_v4() && !addr("64:ff9b::192.0.2.1").is_v4());
        let zoned = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 7));
        assert_eq!(Addr::of(zoned), addr("fe80::1"));
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            ("", "is empty"),
            ("[]", "is empty"),
            ("[::1", "has `[` without `]`"),
            ("fe80::1%eth0", "has a zone, which means nothing on another machine"),
            ("192.0.2.1:80", "is not an IPv4 or IPv6 address"),
            ("192.0.2.01", "is not an IPv4 or IPv6 address"),
            ("192.0.2", "is not an IPv4 or IPv6 address"),
            ("0x7f.0.0.1", "is not an IPv4 or IPv6 address"),
            ("::1]", "is not an IPv4 or IPv6 address"),
        ] {
            let e = text.parse::<Addr>().unwrap_err();
            assert_eq!((e.reason, e.to_string()), (why, format!("`{text}` {why}")));
        }
    }

    /// The first and the last address of each range of one's own, and their neighbours outside.
    #[test]
    fn ones_own_surroundings_end_where_the_standards_say() {
        for (first, last) in [
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let (first, last) = (addr(first), addr(last));
            assert!(first.is_private() && last.is_private(), "{first} {last}");
            let (before, after) = (first.with_bits(first.bits() - 1), last.with_bits(last.bits() + 1));
            assert!(!before.is_private() && !after.is_private(), "{before} {after}");
        }
        for own in ["0.0.0.0", "::", "::1", "::ffff:10.0.0.1"] {
            assert!(addr(own).is_private(), "{own}");
        }
        for public in ["0.0.0.1", "::2", "2001:db8::1", "ff02::1", "255.255.255.255"] {
            assert!(!addr(public).is_private(), "{public}");
        }
        assert!(addr("127.9.9.9").is_loopback() && addr("::ffff:127.0.0.1").is_loopback() && addr("::1").is_loopback());
        assert!(!addr("128.0.0.1").is_loopback() && !addr("::").is_loopback());
    }

    proptest! {
        #[test]
        fn numbers_and_text_lead_back(bits in any::<u128>(), v4 in any::<bool>()) {
            let a = if v4 { Addr::v4(bits as u32) } else { Addr::new(Ipv6Addr::from(bits).into()) };
            prop_assert_eq!(addr(&a.to_string()), a);
            prop_assert_eq!(a.with_bits(a.bits()), a);
            prop_assert_eq!(Addr::from(a.ip()), a);
            prop_assert_eq!(a.width() == 32, a.is_v4());
            prop_assert_eq!(format!("[{a:?}]").parse::<Addr>().unwrap(), a);
        }
    }
}
