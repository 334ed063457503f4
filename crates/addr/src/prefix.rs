//! A CIDR and a range of addresses. In: text. Out: `Prefix` without host bits, `AddrRange` in order.

use std::fmt;
use std::str::FromStr;

use crate::addr::Addr;

/// A CIDR without host bits: `192.0.2.0/24`, `2001:db8::/32`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    addr: Addr,
    len: u8,
}

/// All addresses from `first` to `last`, both included, of one family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct AddrRange {
    first: Addr,
    last: Addr,
}

/// Why a text is not a prefix or a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixError {
    /// What came.
    pub text: String,
    /// What was wanted and what is wrong.
    pub reason: String,
}

impl Prefix {
    /// Every IPv4 address.
    pub const ALL_V4: Prefix = Prefix { addr: ZERO_V4, len: 0 };
    /// Every IPv6 address.
    pub const ALL_V6: Prefix = Prefix { addr: ZERO_V6, len: 0 };

    /// The prefix of this length that holds the address; host bits are cleared. `None` if `len` is wider than the
    /// family.
    #[must_use]
    pub fn new(addr: Addr, len: u8) -> Option<Prefix> {
        (len <= addr.width()).then(|| Prefix { addr: addr.with_bits(addr.bits() & mask(addr.width(), len)), len })
    }

    /// [`Prefix::new`] for an IPv4 address as a number, without a detour over 128 bits.
    #[inline]
    pub(crate) fn cut_v4(bits: u32, len: u8) -> Option<Prefix> {
        let host = 32u32.checked_sub(u32::from(len))?;
        let mask = u32::MAX.checked_shl(host).unwrap_or(0);
        Some(Prefix { addr: Addr::v4(bits & mask), len })
    }

    /// [`Prefix::new`] for an IPv6 address as a number.
    #[inline]
    pub(crate) fn cut_v6(bits: u128, len: u8) -> Option<Prefix> {
        let host = 128u32.checked_sub(u32::from(len))?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        Some(Prefix { addr: Addr::v6(bits & mask), len })
    }

    /// The prefix that holds this one address.
    #[must_use]
    pub fn host(addr: Addr) -> Prefix {
        Prefix { addr, len: addr.width() }
    }

    /// The lowest address of the prefix.
    #[must_use]
    pub fn first(self) -> Addr {
        self.addr
    }

    /// The highest address of the prefix.
    #[must_use]
    pub fn last(self) -> Addr {
        let w = self.addr.width();
        self.addr.with_bits(self.addr.bits() | (full(w) & !mask(w, self.len)))
    }

    /// Length in bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        self.len
    }

    /// True for an IPv4 prefix.
    #[must_use]
    pub fn is_v4(self) -> bool {
        self.addr.is_v4()
    }

    /// True if it holds exactly one address.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.len == self.addr.width()
    }

    /// True if the address lies in the prefix. An IPv4 address never lies in an IPv6 prefix.
    #[must_use]
    pub fn contains(self, addr: Addr) -> bool {
        addr.is_v4() == self.is_v4() && addr.bits() & mask(addr.width(), self.len) == self.addr.bits()
    }

    /// True if every address of `other` lies in `self`.
    #[must_use]
    pub fn covers(self, other: Prefix) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// With its length always, single addresses too: `192.0.2.1/32`, as routes are written.
    #[must_use]
    pub fn long(self) -> String {
        format!("{}/{}", self.addr, self.len)
    }

    /// The same addresses as a range.
    #[must_use]
    pub fn range(self) -> AddrRange {
        AddrRange { first: self.first(), last: self.last() }
    }

    /// Parses `ADDRESS` or `ADDRESS/LENGTH` and says whether host bits had to be cleared.
    pub fn parse_lenient(text: &str) -> Result<(Prefix, bool), PrefixError> {
        let fail = |reason: String| PrefixError { text: text.trim().to_string(), reason };
        let (addr, len) = match text.split_once('/') {
            None => (text, None),
            Some((a, l)) => (a, Some(l.trim())),
        };
        let raw_v6_mapped =
            addr.trim().parse::<std::net::Ipv6Addr>().ok().is_some_and(|a| a.to_ipv4_mapped().is_some());
        let addr: Addr = addr.parse().map_err(|e: crate::addr::AddrError| {
            // Without a length the address is the whole text, which stands in the error already.
            fail(if len.is_none() { format!("it {}", e.reason) } else { e.to_string() })
        })?;
        let Some(len) = len else { return Ok((Prefix::host(addr), false)) };
        if let Some(bits) = len.parse().ok().and_then(netmask) {
            return Err(fail(format!("a netmask is written as its length: write `/{bits}`")));
        }
        if len.is_empty() || len.len() > 3 || !len.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail(format!("the length after `/` must be a number from 0 to {}, not `{len}`", addr.width())));
        }
        let mut bits: u16 = len.parse().map_err(|_| fail(format!("`{len}` is not a prefix length")))?;
        // `::ffff:192.0.2.0/120` is 192.0.2.0/24: the folded address needs the folded length.
        if raw_v6_mapped {
            bits = bits
                .checked_sub(96)
                .ok_or_else(|| fail("an IPv4-mapped prefix needs a length of 96 or more".to_string()))?;
        }
        let bits = u8::try_from(bits).ok().filter(|b| *b <= addr.width());
        let Some(bits) = bits else {
            return Err(fail(format!("the length after `/` must be a number from 0 to {}, not `{len}`", addr.width())));
        };
        let prefix = Prefix { addr: addr.with_bits(addr.bits() & mask(addr.width(), bits)), len: bits };
        Ok((prefix, prefix.addr != addr))
    }
}

impl AddrRange {
    /// A range from `first` to `last`. `None` if the families differ or the order is wrong.
    #[must_use]
    pub fn new(first: Addr, last: Addr) -> Option<AddrRange> {
        (first.is_v4() == last.is_v4() && first <= last).then_some(AddrRange { first, last })
    }

    /// The lowest address.
    #[must_use]
    pub fn first(self) -> Addr {
        self.first
    }

    /// The highest address.
    #[must_use]
    pub fn last(self) -> Addr {
        self.last
    }

    /// The fewest prefixes that hold exactly these addresses, in order. At most 2 × width − 2 of them.
    #[must_use]
    pub fn prefixes(self) -> Vec<Prefix> {
        let width = self.first.width();
        let (mut at, end) = (self.first.bits(), self.last.bits());
        let mut out = Vec::new();
        loop {
            // The widest block that starts at `at` (its trailing zeros) and does not pass `end`.
            let align = if at == 0 { u32::from(width) } else { at.trailing_zeros().min(u32::from(width)) };
            let left = end - at;
            let fit = if left == u128::MAX { 128 } else { 127 - (left + 1).leading_zeros() };
            let size = align.min(fit);
            out.push(Prefix { addr: self.first.with_bits(at), len: width - size as u8 });
            let step_last = if size == 128 { u128::MAX } else { at + ((1u128 << size) - 1) };
            if step_last >= end {
                return out;
            }
            at = step_last + 1;
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Parses a prefix; host bits are cleared (use [`Prefix::parse_lenient`] to hear of it).
    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        Prefix::parse_lenient(text).map(|(p, _)| p)
    }
}

impl fmt::Display for Prefix {
    /// `192.0.2.1` for one address, `192.0.2.0/24` otherwise.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() { self.addr.fmt(f) } else { write!(f, "{}/{}", self.addr, self.len) }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a prefix: {}", self.text, self.reason)
    }
}

impl std::error::Error for PrefixError {}

const ZERO_V4: Addr = Addr::UNSPECIFIED_V4;
const ZERO_V6: Addr = Addr::UNSPECIFIED_V6;

/// The length of a netmask such as 255.255.255.0.
fn netmask(mask: std::net::Ipv4Addr) -> Option<u32> {
    let bits = u32::from(mask);
    (bits.leading_ones() + bits.trailing_zeros() == 32).then(|| bits.leading_ones())
}

fn full(width: u8) -> u128 {
    if width == 128 { u128::MAX } else { (1u128 << width) - 1 }
}

fn mask(width: u8, len: u8) -> u128 {
    let host = width - len;
    if host == 128 { 0 } else { full(width) & !((1u128 << host) - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Addresses near each other, at both ends of a family, and anywhere.
    fn addr() -> impl Strategy<Value = Addr> {
        let v4 = prop_oneof![0u32..300, any::<u32>(), (0u32..300).prop_map(|n| u32::MAX - n)];
        let v6 = prop_oneof![0u128..300, any::<u128>(), (0u128..300).prop_map(|n| u128::MAX - n)];
        prop_oneof![
            v4.prop_map(|n| Addr::new(Ipv4Addr::from(n).into())),
            v6.prop_map(|n| Addr::new(Ipv6Addr::from(n).into())),
        ]
    }

    /// The family of an address and its number.
    fn at(a: Addr) -> (bool, u128) {
        (a.is_v4(), a.bits())
    }

    proptest! {
        #[test]
        fn a_prefix_holds_its_range_and_nothing_else(a in addr(), len in 0u8..=129, other in addr()) {
            let Some(p) = Prefix::new(a, len) else { return prop_assert_matches(len > a.width()) };
            prop_assert_eq!((p.bits(), p.is_v4(), p.is_host()), (len, a.is_v4(), len == a.width()));
            prop_assert!(p.contains(a) && p.contains(p.first()) && p.contains(p.last()));
            let within = at(p.first()) <= at(other) && at(other) <= at(p.last());
            prop_assert_eq!(p.contains(other), within && other.is_v4() == p.is_v4());
            // As many addresses as the length says.
            let host = a.width() - len;
            let size = p.last().bits() - p.first().bits();
            prop_assert_eq!(size, if host == 128 { u128::MAX } else { (1 << host) - 1 });
            // The short ways are the long one.
            let short = if a.is_v4() { Prefix::cut_v4(a.bits() as u32, len) } else { Prefix::cut_v6(a.bits(), len) };
            prop_assert_eq!(short, Some(p));
        }

        #[test]
        fn one_covers_another_if_it_holds_both_its_ends(a in addr(), b in addr(), wide in 0u8..=32, narrow in 0u8..=32) {
            let (Some(p), Some(q)) = (Prefix::new(a, wide), Prefix::new(b, narrow)) else { return Ok(()) };
            prop_assert_eq!(p.covers(q), p.contains(q.first()) && p.contains(q.last()));
            prop_assert!(p.covers(p));
            prop_assert_eq!(p.covers(q) && q.covers(p), p == q);
        }

        #[test]
        fn a_prefix_is_read_as_it_is_written(a in addr(), len in 0u8..=128) {
            let Some(p) = Prefix::new(a, len) else { return Ok(()) };
            for text in [p.to_string(), p.long(), format!(" {p} "), format!("{p:?}")] {
                prop_assert_eq!(Prefix::parse_lenient(&text), Ok((p, false)), "{}", text);
            }
            // Host bits are cleared, and it is said.
            let read = Prefix::parse_lenient(&format!("{a}/{len}"));
            prop_assert_eq!(read, Ok((p, p.first() != a)));
        }

        /// The fewest prefixes: they join, hold both ends, and no two of them are halves of one.
        #[test]
        fn a_range_is_the_fewest_prefixes(a in addr(), b in addr()) {
            let Some(range) = AddrRange::new(a, b) else {
                return prop_assert_matches(a.is_v4() != b.is_v4() || a > b);
            };
            let all = range.prefixes();
            prop_assert_eq!((all.first().map(|p| p.first()), all.last().map(|p| p.last())), (Some(a), Some(b)));
            prop_assert!(all.len() <= (2 * usize::from(a.width()) - 2).max(1));
            for w in all.windows(2) {
                prop_assert_eq!(w[0].last().bits() + 1, w[1].first().bits());
                let parent = Prefix::new(w[0].first(), w[0].bits().saturating_sub(1)).unwrap();
                prop_assert!(w[0].bits() != w[1].bits() || !parent.covers(w[1]), "{:?} are halves of {}", w, parent);
            }
        }
    }

    fn prop_assert_matches(holds: bool) -> Result<(), TestCaseError> {
        if holds { Ok(()) } else { Err(TestCaseError::fail("refused without a reason")) }
    }

    #[test]
    fn whole_families_are_one_prefix() {
        for all in [Prefix::ALL_V4, Prefix::ALL_V6] {
            assert_eq!(all.range().prefixes(), [all]);
            assert!(all.contains(all.last()) && !all.is_host());
        }
        assert_eq!(Prefix::ALL_V6.last().bits(), u128::MAX);
        assert!(!Prefix::ALL_V6.covers(Prefix::ALL_V4) && !Prefix::ALL_V4.contains("::".parse().unwrap()));
        // All but the first and the last address: the most prefixes that a range can be.
        let (first, last) = ("0.0.0.1".parse().unwrap(), "255.255.255.254".parse().unwrap());
        assert_eq!(AddrRange::new(first, last).unwrap().prefixes().len(), 62);
    }

    #[test]
    fn mapped_prefixes_are_ipv4() {
        assert_eq!(prefix("::ffff:192.0.2.0/120"), prefix("192.0.2.0/24"));
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1/32"));
        assert_eq!(prefix("::ffff:0:0/96"), Prefix::ALL_V4);
        assert_eq!(prefix("::/0"), Prefix::ALL_V6);
    }

    #[test]
    fn what_is_no_prefix_says_why() {
        for (text, why) in [
            ("", "it is empty"),
            ("office", "it is not an IPv4 or IPv6 address"),
            ("office/24", "`office` is not an IPv4 or IPv6 address"),
            ("10.0.0.0/33", "the length after `/` must be a number from 0 to 32, not `33`"),
            ("10.0.0.0/-1", "the length after `/` must be a number from 0 to 32, not `-1`"),
            ("10.0.0.0/+8", "the length after `/` must be a number from 0 to 32, not `+8`"),
            ("10.0.0.0/0008", "the length after `/` must be a number from 0 to 32, not `0008`"),
            ("2001:db8::/129", "the length after `/` must be a number from 0 to 128, not `129`"),
            ("2001:db8::/256", "the length after `/` must be a number from 0 to 128, not `256`"),
            ("10.0.0.0/", "the length after `/` must be a number from 0 to 32, not ``"),
            ("10.0.0.0/255.255.240.0", "a netmask is written as its length: write `/20`"),
            ("10.0.0.0/0.0.0.0", "a netmask is written as its length: write `/0`"),
            ("10.0.0.0/255.0.255.0", "the length after `/` must be a number from 0 to 32, not `255.0.255.0`"),
            ("::ffff:10.0.0.0/95", "an IPv4-mapped prefix needs a length of 96 or more"),
            ("fe80::1%eth0/64", "`fe80::1%eth0` has a zone, which means nothing on another machine"),
        ] {
            let e = text.parse::<Prefix>().unwrap_err();
            assert_eq!(e.reason, why, "{text}");
            assert_eq!(e.to_string(), format!("`{text}` is not a prefix: {why}"));
        }
    }
}
