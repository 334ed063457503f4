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
    use proptest::prelude::*;
    use std::collections::BTreeSet;

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

    proptest! {
        /// A small pool is given out whole, each address once, none that is kept and none outside, wherever it is begun.
        #[test]
        fn a_pool_is_given_out_whole(width in 0u8..6, block in 0u32..64, from in 0u64..200) {
            let base: Addr = "100.100.100.0".parse().unwrap();
            let pool = Prefix::new(base.with_bits(base.bits() + u128::from(block)), 32 - width).unwrap();
            let (mut got, mut at) = (BTreeSet::new(), from);
            while let Some((a, n)) = next(pool, at, |a| got.contains(&a)) {
                prop_assert!(pool.contains(a) && got.insert(a), "{a} of {pool}");
                at = n;
            }
            let kept = usize::from(pool.contains("100.100.100.100".parse().unwrap()));
            let size = 1usize << width;
            let want = if size == 1 { 1 - kept } else { size - 1 };
            // The address of the names is kept, unless it is the network's own name, which nobody has anyway.
            let own_name = usize::from(size > 1 && pool.first().to_string() == "100.100.100.100");
            prop_assert_eq!(got.len(), if size == 1 { want } else { want - kept + own_name });
        }
    }

    #[test]
    fn what_is_held_is_no_route() {
        let held = |text: &str| Pools::default().hold(text.parse().unwrap());
        for own in [
            "100.64.0.0/10",
            "100.64.0.0/11",
            "100.100.100.100",
            "fd7a:115c:a1e0::/48",
            "fd7a:115c:a1e0:1::/64",
            "fd7a:115c:a1e0::53",
        ] {
            assert!(held(own), "{own}");
        }
        // Wider ones lead elsewhere too; IPv4 subnets behind routers are written in a part of the network's own range.
        for other in
            ["100.0.0.0/8", "0.0.0.0/0", "::/0", "fd7a:115c::/32", "192.0.2.0/24", "fd7a:115c:a1e0:b1a:0:7:a00::/104"]
        {
            assert!(!held(other), "{other}");
        }
        let others = Pools { v4: "10.9.0.0/24".parse().unwrap(), v6: "fd00:9::/64".parse().unwrap() };
        let held = |text: &str| others.hold(text.parse().unwrap());
        assert!(held("100.100.100.100") && held("fd7a:115c:a1e0::53"), "every node answers names there");
        assert!(!held("100.64.0.1") && !held("fd7a:115c:a1e0::1"));
    }

    #[test]
    fn addresses_that_clients_use_inside_are_nobodys() {
        let pool: Prefix = "100.115.92.0/22".parse().unwrap();
        let (first, _) = next(pool, 0, |_| false).unwrap();
        assert_eq!(first.to_string(), "100.115.94.0", "ChromeOS has the /23 before it");
        let (a, n) = next("fd7a:115c:a1e0::/64".parse().unwrap(), 0x53, |_| false).unwrap();
        assert_eq!((a.to_string(), n), ("fd7a:115c:a1e0::54".to_string(), 0x55));
        let via: Prefix = "fd7a:115c:a1e0:b1a::/96".parse().unwrap();
        // A pool of nothing but such is never offered by a file that was checked; whoever asks is not kept waiting.
        let small = Prefix::new(via.first(), 120).unwrap();
        assert_eq!(next(small, 0, |_| false), None);
    }
}
