//! Addresses of nodes. In: the ranges, what is taken, how far it was counted. Out: the next free one.

use addr::{Addr, Prefix};

/// Where addresses of nodes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pools {
    /// IPv4.
    pub v4: Prefix,
    /// IPv6.
    pub v6: Prefix,
}

/// Where IPv4 addresses of nodes come from by default: the shared range of RFC 6598.
const V4: (&str, u8) = ("100.64.0.0", 10);
/// Where IPv6 ones come from by default: the unique local range that official clients take for their own.
const V6: (&str, u8) = ("fd7a:115c:a1e0::", 48);

/// Where IPv4 subnets written as IPv6 (4via6) live: routes of routers, no nodes.
const VIA_4IN6: (&str, u8) = ("fd7a:115c:a1e0:b1a::", 64);
/// Never given away: the addresses at which every node answers names, a range that ChromeOS uses inside, and 4via6.
const RESERVED: [(&str, u8); 4] = [NAMES[0], ("100.115.92.0", 23), NAMES[1], VIA_4IN6];
/// Where every node answers names.
const NAMES: [(&str, u8); 2] = [("100.100.100.100", 32), ("fd7a:115c:a1e0::53", 128)];

impl Default for Pools {
    fn default() -> Pools {
        Pools { v4: read(V4).unwrap_or(Prefix::ALL_V4), v6: read(V6).unwrap_or(Prefix::ALL_V6) }
    }
}

impl Pools {
    /// True if the prefix lies in the network itself, where nodes answer for their own addresses and nobody routes.
    pub(crate) fn hold(&self, prefix: Prefix) -> bool {
        if self.v4.covers(prefix) {
            return true;
        }
        if self.v6.covers(prefix) {
            return !read(VIA_4IN6).is_some_and(|p| p.covers(prefix));
        }
        NAMES.into_iter().filter_map(read).any(|p| p.covers(prefix))
    }
}

fn read((text, bits): (&str, u8)) -> Option<Prefix> {
    text.parse().ok().and_then(|a| Prefix::new(a, bits))
}

/// The first free address of a pool at or after `from` (counted from its first), which wraps around once. Returns it
/// and where to go on.
pub(crate) fn next(pool: Prefix, from: u64, taken: impl Fn(Addr) -> bool) -> Option<(Addr, u64)> {
    let width = u32::from(pool.first().width()) - u32::from(pool.bits());
    // 2^40 nodes are more than anyone has; IPv6 pools are counted no further.
    let size = 1u64 << width.min(40);
    let kept: Vec<Prefix> = RESERVED.into_iter().filter_map(read).collect();
    // The first is the network's own name; a pool of one has nothing else.
    let first = u64::from(size > 1);
    let base = pool.first().bits();
    (0..size - first).find_map(|i| {
        let at = first + (from.saturating_sub(first) + i) % (size - first);
        let addr = pool.first().with_bits(base + u128::from(at));
        let free = !taken(addr) && !kept.iter().any(|k| k.contains(addr));
        free.then_some((addr, at + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_in_order_and_not_again_at_once() {
        let p = Pools::default();
        let (a, n) = next(p.v4, 0, |_| false).unwrap();
        let (b, _) = next(p.v4, n, |_| false).unwrap();
        assert_eq!((a.to_string(), b.to_string()), ("100.64.0.1".into(), "100.64.0.2".into()));
        assert_eq!(next(p.v6, 0, |_| false).unwrap().0.to_string(), "fd7a:115c:a1e0::1");
        let at = |text: &str| next(p.v4, 0, |a| a < text.parse::<Addr>().unwrap()).unwrap().0.to_string();
        assert_eq!(at("100.64.1.0"), "100.64.1.0");
    }

    #[test]
    fn kept_addresses_stay_and_a_full_pool_says_so() {
        let pool: Prefix = "100.100.100.96/29".parse().unwrap();
        let mut got = Vec::new();
        let mut from = 0;
        while let Some((a, n)) = next(pool, from, |a| got.contains(&a)) {
            got.push(a);
            from = n;
        }
        let texts: Vec<String> = got.iter().map(|a| a.to_string().rsplit('.').next().unwrap().to_string()).collect();
        assert_eq!(texts, ["97", "98", "99", "101", "102", "103"]);
    }
}
