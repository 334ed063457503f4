//! Who is counted as one source. In: an address. Out: the key by which places, memory, log lines and guesses are
//! counted, and the wider networks that the same party may hold.

use std::fmt;

use crate::Addr;

/// One source of connections: an IPv4 address, or an IPv6 /64. A host of an IPv6 network takes as many addresses of its
/// /64 as it likes (RFC 4862), so that counting whole addresses would count nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey {
    addr: Addr,
    bits: u8,
}

/// Widths by which IPv6 sources are counted: a host's network, a small site (RFC 6177) and a large one.
const LEVELS_V6: [u8; 3] = [64, 56, 48];

impl SourceKey {
    /// The source that an address belongs to.
    #[must_use]
    pub fn of(addr: Addr) -> SourceKey {
        SourceKey::cut(addr, LEVELS_V6[0])
    }

    /// The source, and for IPv6 the /56 and the /48 around it, narrowest first: whoever holds one of these holds many
    /// sources. For what must not be had often by one party, such as guesses and places on a list.
    pub fn levels(addr: Addr) -> impl Iterator<Item = SourceKey> {
        let levels = if addr.is_v4() { &LEVELS_V6[..1] } else { &LEVELS_V6[..] };
        levels.iter().map(move |bits| SourceKey::cut(addr, *bits))
    }

    /// How many sources of the narrowest kind this one stands for, as a power of two: 0 for a source itself.
    #[must_use]
    pub fn extra_bits(self) -> u8 {
        if self.addr.is_v4() { 0 } else { LEVELS_V6[0] - self.bits }
    }

    /// The first address of the source, which stands for all of it.
    #[must_use]
    pub fn first(self) -> Addr {
        self.addr
    }

    fn cut(addr: Addr, bits: u8) -> SourceKey {
        if addr.is_v4() {
            return SourceKey { addr, bits: 32 };
        }
        let host = 128 - u32::from(bits);
        SourceKey { addr: addr.with_bits(addr.bits() >> host << host), bits }
    }
}

impl From<Addr> for SourceKey {
    fn from(addr: Addr) -> SourceKey {
        SourceKey::of(addr)
    }
}

/// `192.0.2.7` or `2001:db8:1:2::/64`.
impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.addr.is_v4() {
            true => self.addr.fmt(f),
            false => write!(f, "{}/{}", self.addr, self.bits),
        }
    }
}

impl fmt::Debug for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> SourceKey {
        SourceKey::of(text.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"), "IPv4-mapped addresses are IPv4");
        assert_eq!(key("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(key("192.0.2.1").to_string(), "192.0.2.1");
    }

    #[test]
    fn levels_widen_and_never_mix_families() {
        let words = |text: &str| SourceKey::levels(text.parse().unwrap()).map(|k| k.to_string()).collect::<Vec<_>>();
        assert_eq!(words("2001:db8:1:2ff::1"), ["2001:db8:1:2ff::/64", "2001:db8:1:200::/56", "2001:db8:1::/48"]);
        assert_eq!(words("192.0.2.1"), ["192.0.2.1"]);
        // A /64 and the /56 that begins with it are two sources.
        let levels: Vec<SourceKey> = SourceKey::levels("2001:db8::1".parse().unwrap()).collect();
        assert_ne!(levels[0], levels[1]);
        assert_eq!(levels.iter().map(|k| k.extra_bits()).collect::<Vec<_>>(), [0, 8, 16]);
    }
}
