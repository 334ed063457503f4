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
