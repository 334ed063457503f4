//! Address sets as disjoint ranges, with the arithmetic that IP sets need. In: ranges and prefixes, in any order.
//! Out: the union, the difference, membership, and the shortest list of ranges or prefixes that says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use addr::{Addr, AddrRange, Prefix};

/// A set of addresses of both families, kept as disjoint, sorted, non-adjacent ranges.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ranges {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    /// The set of no address.
    #[must_use]
    pub fn new() -> Ranges {
        Ranges::default()
    }

    /// The set of every address of both families.
    #[must_use]
    pub fn all() -> Ranges {
        [Prefix::ALL_V4, Prefix::ALL_V6].into_iter().collect()
    }

    /// Every address of these ranges, in any order, overlapping or not.
    #[must_use]
    pub fn of(ranges: impl IntoIterator<Item = AddrRange>) -> Ranges {
        let mut out = Ranges::new();
        for r in ranges {
            out.family_mut(r.first().is_v4()).push((r.first().bits(), r.last().bits()));
        }
        normalize(&mut out.v4);
        normalize(&mut out.v6);
        out
    }

    /// Both sets together.
    pub fn add(&mut self, other: &Ranges) {
        self.v4.extend_from_slice(&other.v4);
        self.v6.extend_from_slice(&other.v6);
        normalize(&mut self.v4);
        normalize(&mut self.v6);
    }

    /// What is in `self` and not in `other`.
    pub fn remove(&mut self, other: &Ranges) {
        self.v4 = difference(&self.v4, &other.v4);
        self.v6 = difference(&self.v6, &other.v6);
    }

    /// What is in both.
    #[must_use]
    pub fn intersect(&self, other: &Ranges) -> Ranges {
        let mut outside = self.clone();
        outside.remove(other);
        let mut both = self.clone();
        both.remove(&outside);
        both
    }

    /// True if the address is in the set.
    #[must_use]
    pub fn contains(&self, addr: Addr) -> bool {
        let family = self.family(addr.is_v4());
        let bits = addr.bits();
        let i = family.partition_point(|r| r.1 < bits);
        family.get(i).is_some_and(|r| r.0 <= bits)
    }

    /// True if some address of the prefix is in the set.
    #[must_use]
    pub fn overlaps(&self, prefix: Prefix) -> bool {
        let family = self.family(prefix.is_v4());
        let i = family.partition_point(|r| r.1 < prefix.first().bits());
        family.get(i).is_some_and(|r| r.0 <= prefix.last().bits())
    }

    /// True if every address of the prefix is in the set.
    #[must_use]
    pub fn covers(&self, prefix: Prefix) -> bool {
        let family = self.family(prefix.is_v4());
        let i = family.partition_point(|r| r.1 < prefix.first().bits());
        family.get(i).is_some_and(|r| r.0 <= prefix.first().bits() && r.1 >= prefix.last().bits())
    }

    /// True if every address of `other` is in the set.
    #[must_use]
    pub fn covers_all(&self, other: &Ranges) -> bool {
        let mut rest = other.clone();
        rest.remove(self);
        rest.is_empty()
    }

    /// True if the set holds no address.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// The ranges in order, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = AddrRange> + '_ {
        let v4 = self.v4.iter().filter_map(|r| range(Prefix::ALL_V4.first(), *r));
        v4.chain(self.v6.iter().filter_map(|r| range(Prefix::ALL_V6.first(), *r)))
    }

    /// The fewest prefixes that hold exactly these addresses, in order, IPv4 first.
    #[must_use]
    pub fn prefixes(&self) -> Vec<Prefix> {
        self.iter().flat_map(AddrRange::prefixes).collect()
    }

    /// The ranges as text, as `SrcIPs` of a packet filter write them: an address, a prefix where the range is exactly
    /// one, `first-last` otherwise.
    pub fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.iter().map(|r| match r.prefixes().as_slice() {
            [one] => one.to_string(),
            _ => format!("{}-{}", r.first(), r.last()),
        })
    }

    fn family(&self, v4: bool) -> &[(u128, u128)] {
        if v4 { &self.v4 } else { &self.v6 }
    }

    fn family_mut(&mut self, v4: bool) -> &mut Vec<(u128, u128)> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

/// Addresses in groups, those in one group lying in exactly the same of these sets; each group with the places of its
/// sets, in order. What lies in none of the first `base` sets is left out.
pub(crate) fn split(sets: &[&Ranges], base: usize) -> Vec<(Ranges, Vec<u32>)> {
    let mut out: Vec<(Ranges, Vec<u32>)> = Vec::new();
    let mut known: BTreeMap<u128, usize> = BTreeMap::new();
    for (v4, top) in [(true, u128::from(u32::MAX)), (false, u128::MAX)] {
        let mut edges: Vec<(u128, u32)> = Vec::new();
        for (i, set) in sets.iter().enumerate() {
            for (first, last) in set.family(v4) {
                edges.push((*first, i as u32));
                edges.extend((*last < top).then(|| (last + 1, i as u32)));
            }
        }
        edges.sort_unstable();
        // A set's ranges are apart, so its edges alternate: each one goes in or out. The digest of the sets one is in
        // changes with each edge, so that a stretch costs no look at all of them.
        let (mut inside, mut digest, mut at) = (BTreeSet::<u32>::new(), 0u128, 0usize);
        while at < edges.len() {
            let first = edges[at].0;
            while let Some((_, set)) = edges.get(at).filter(|e| e.0 == first) {
                digest ^= spread(*set);
                if !inside.remove(set) {
                    inside.insert(*set);
                }
                at += 1;
            }
            if inside.first().is_none_or(|s| *s as usize >= base) {
                continue;
            }
            let last = edges.get(at).map_or(top, |e| e.0 - 1);
            let group = *known.entry(digest).or_insert_with(|| {
                out.push((Ranges::new(), inside.iter().copied().collect()));
                out.len() - 1
            });
            out[group].0.family_mut(v4).push((first, last));
        }
    }
    out.iter_mut().for_each(|(r, _)| {
        normalize(&mut r.v4);
        normalize(&mut r.v6);
    });
    out
}

/// A number spread over 128 bits (the steps of splitmix64), so that sums of different numbers differ.
fn spread(n: u32) -> u128 {
    let mix = |seed: u64| {
        let mut z = (u64::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    u128::from(mix(0)) << 64 | u128::from(mix(0xd1b5_4a32_d192_ed03))
}

impl FromIterator<Prefix> for Ranges {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Ranges {
        Ranges::of(prefixes.into_iter().map(Prefix::range))
    }
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.texts()).finish()
    }
}

fn range(family: Addr, (first, last): (u128, u128)) -> Option<AddrRange> {
    AddrRange::new(family.with_bits(first), family.with_bits(last))
}

/// Sorts and joins overlapping and adjacent ranges.
fn normalize(ranges: &mut Vec<(u128, u128)>) {
    if ranges.windows(2).all(|w| w[0].1 < w[1].0 && w[1].0 - w[0].1 > 1) {
        return;
    }
    // Two lists one behind the other are two sorted runs.
    ranges.sort();
    let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for &(first, last) in ranges.iter() {
        match out.last_mut() {
            Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
            _ => out.push((first, last)),
        }
    }
    *ranges = out;
}

/// `from` without `cut`; both sorted and disjoint.
fn difference(from: &[(u128, u128)], cut: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut out = Vec::with_capacity(from.len());
    for &(first, last) in from {
        let mut at = first;
        let mut open = true;
        let skip = cut.partition_point(|c| c.1 < first);
        for &(c_first, c_last) in cut[skip..].iter().take_while(|c| c.0 <= last) {
            if c_first > at {
                out.push((at, c_first - 1));
            }
            match c_last.checked_add(1) {
                Some(next) if next <= last => at = at.max(next),
                _ => {
                    open = false;
                    break;
                }
            }
        }
        if open {
            out.push((at, last));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> Ranges {
        texts.iter().map(|t| t.parse::<Prefix>().unwrap()).collect()
    }

    #[test]
    fn joins_neighbours_and_cuts_holes() {
        let mut s = set(&["10.0.0.0/25", "10.0.0.128/25", "2001:db8::/32"]);
        assert_eq!(s.texts().collect::<Vec<_>>(), ["10.0.0.0/24", "2001:db8::/32"]);
        s.remove(&set(&["10.0.0.7", "10.0.0.255"]));
        assert_eq!(s.texts().collect::<Vec<_>>(), ["10.0.0.0-10.0.0.6", "10.0.0.8-10.0.0.254", "2001:db8::/32"]);
        assert!(!s.contains("10.0.0.7".parse().unwrap()));
        assert!(s.overlaps("10.0.0.0/30".parse().unwrap()) && s.covers("10.0.0.8/29".parse().unwrap()));
        assert!(!s.covers("10.0.0.0/24".parse().unwrap()));
    }

    #[test]
    fn split_says_of_every_address_where_it_lies() {
        let sets = [
            set(&["10.0.0.0/28", "::/0"]),
            set(&["10.0.0.4/30", "10.0.0.12", "ffff::/16"]),
            set(&["10.0.0.6/31", "10.0.0.40/29"]),
            set(&["10.0.0.0/8"]),
        ];
        let groups = split(&sets.iter().collect::<Vec<_>>(), 2);
        for last in 0..64u8 {
            let addr: Addr = format!("10.0.0.{last}").parse().unwrap();
            let want: Vec<u32> = (0..4).filter(|i| sets[*i as usize].contains(addr)).collect();
            let got: Vec<&Vec<u32>> = groups.iter().filter(|g| g.0.contains(addr)).map(|g| &g.1).collect();
            match want.first().is_some_and(|s| *s < 2) {
                true => assert_eq!(got, [&want], "{addr}"),
                false => assert!(got.is_empty(), "{addr}"),
            }
        }
        assert!(groups.iter().any(|g| g.0.contains("ffff::1".parse().unwrap()) && g.1 == [0, 1]));
    }

    #[test]
    fn whole_family_survives_its_edges() {
        let mut all = Ranges::all();
        all.remove(&set(&["0.0.0.0/1", "::/1"]));
        assert_eq!(all.texts().collect::<Vec<_>>(), ["128.0.0.0/1", "8000::/1"]);
        all.remove(&Ranges::all());
        assert!(all.is_empty());
    }

    /// Both ends of both families, and as many addresses in the middle: all that a test can count.
    fn points() -> Vec<Addr> {
        let v4 = (0..12).chain(1_000..1_012).chain(u32::MAX - 11..=u32::MAX);
        let v6 = (0..12).chain(u128::MAX - 11..=u128::MAX);
        let v4 = v4.map(|n| Addr::new(std::net::Ipv4Addr::from(n).into()));
        v4.chain(v6.map(|n| Addr::new(std::net::Ipv6Addr::from(n).into()))).collect()
    }

    fn ranges() -> impl Strategy<Value = Vec<AddrRange>> {
        let ends = (0..points().len(), 0..points().len());
        let one = ends.prop_filter_map("one family, in order", |(a, b)| AddrRange::new(points()[a], points()[b]));
        prop::collection::vec(one, 0..8)
    }

    fn within(all: &[AddrRange], a: Addr) -> bool {
        all.iter().any(|r| r.first().is_v4() == a.is_v4() && r.first() <= a && a <= r.last())
    }

    proptest! {
        /// Sets of ranges do what sets of addresses do.
        #[test]
        fn arithmetic_is_that_of_sets(one in ranges(), other in ranges()) {
            let (a, b) = (Ranges::of(one.clone()), Ranges::of(other.clone()));
            let (mut sum, mut rest) = (a.clone(), a.clone());
            sum.add(&b);
            rest.remove(&b);
            let both = a.intersect(&b);
            for p in points() {
                let (x, y) = (within(&one, p), within(&other, p));
                prop_assert_eq!(a.contains(p), x, "{}", p);
                prop_assert_eq!(sum.contains(p), x || y, "{}", p);
                prop_assert_eq!(rest.contains(p), x && !y, "{}", p);
                prop_assert_eq!(both.contains(p), x && y, "{}", p);
                prop_assert_eq!(a.overlaps(Prefix::host(p)), x);
                prop_assert_eq!(a.covers(Prefix::host(p)), x);
            }
            prop_assert!(sum.covers_all(&a) && sum.covers_all(&b) && a.covers_all(&both) && a.covers_all(&rest));
            prop_assert_eq!(a.covers_all(&b), b == both);
            prop_assert_eq!(both.is_empty() && !a.is_empty(), rest == a && !a.is_empty());
            let mut again = rest;
            again.add(&both);
            prop_assert_eq!(&again, &a, "a set is the same however it came about");
        }

        /// There is one way to write a set: in order, apart, and read back the same.
        #[test]
        fn a_set_has_one_form(mut all in ranges()) {
            let a = Ranges::of(all.clone());
            all.reverse();
            prop_assert_eq!(&Ranges::of(all.into_iter().flat_map(|r| [r, r])), &a);
            let listed: Vec<AddrRange> = a.iter().collect();
            for w in listed.windows(2) {
                let apart = w[0].last().bits().checked_add(1).is_some_and(|next| next < w[1].first().bits());
                prop_assert!(apart || w[0].first().is_v4() != w[1].first().is_v4(), "{:?}", w);
            }
            prop_assert_eq!(&a.prefixes().into_iter().collect::<Ranges>(), &a);
            for (text, range) in a.texts().zip(&listed) {
                let read = match text.split_once('-') {
                    Some((first, last)) => AddrRange::new(first.parse().unwrap(), last.parse().unwrap()).unwrap(),
                    None => text.parse::<Prefix>().unwrap().range(),
                };
                prop_assert_eq!(read, *range, "{}", text);
            }
        }

        /// A prefix lies within a set if all of it does, and touches it if any of it does.
        #[test]
        fn a_prefix_lies_within_or_touches(all in ranges(), at in 0..60usize, len in 0u8..=128) {
            let at = points()[at % points().len()];
            let Some(p) = Prefix::new(at, len) else { return Ok(()) };
            let a = Ranges::of(all);
            let one: Ranges = [p].into_iter().collect();
            prop_assert_eq!(a.overlaps(p), !a.intersect(&one).is_empty());
            prop_assert_eq!(a.covers(p), a.covers_all(&one));
        }

        /// Addresses in one group lie in the same sets, those in two groups do not, and none is left out.
        #[test]
        fn groups_part_addresses_by_their_sets(all in prop::collection::vec(ranges(), 1..5), base in 1usize..5) {
            let sets: Vec<Ranges> = all.iter().cloned().map(Ranges::of).collect();
            let base = base.min(sets.len());
            let groups = split(&sets.iter().collect::<Vec<_>>(), base);
            for p in points() {
                let places: Vec<u32> = (0..sets.len()).filter(|i| sets[*i].contains(p)).map(|i| i as u32).collect();
                let found: Vec<&Vec<u32>> = groups.iter().filter(|(r, _)| r.contains(p)).map(|(_, at)| at).collect();
                match places.first() {
                    Some(first) if (*first as usize) < base => prop_assert_eq!(found, vec![&places]),
                    _ => prop_assert!(found.is_empty()),
                }
            }
            let different: BTreeSet<&Vec<u32>> = groups.iter().map(|(_, at)| at).collect();
            prop_assert_eq!(different.len(), groups.len());
        }
    }
}
