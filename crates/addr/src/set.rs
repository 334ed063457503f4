//! An immutable set of prefixes with longest-prefix lookup. In: prefixes, once. Out: the longest that holds an
//! address. Swapped whole when the list changes; never edited. A set with a few changes shares what stays with the one
//! before, so that a change of a long list costs microseconds.
//!
//! The address space is cut into stretches in which the same length of prefix is the longest; the prefix itself is
//! then the address cut to that length, so that no table of prefixes is touched by a lookup. Stretches are found by a
//! table on the first bits and a binary search in a few neighbouring words.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::addr::Addr;
use crate::prefix::Prefix;

/// A set of prefixes. Lookup takes the longest prefix that holds an address; no allocation. A copy shares everything.
#[derive(Clone, Default)]
pub struct AddrSet {
    base: Arc<Base>,
    late: Option<Arc<Late>>,
}

/// A set as it was built.
#[derive(Clone, Default)]
struct Base {
    prefixes: Vec<Prefix>,
    v4: V4,
    v6: V6,
}

/// What changed since a set was built.
struct Late {
    /// Prefixes that the base does not have.
    added: Base,
    /// Prefixes of the base that are gone, in order.
    removed: Vec<Prefix>,
}

/// No prefix holds the stretch. Every length is smaller.
const NONE: u8 = u8::MAX;

/// Changes that are kept beside a base: building a set of these takes some tens of microseconds.
const MAX_OVERLAY: usize = 512;
/// A set this small is built whole in the same time.
const SMALL: usize = 1_024;

impl AddrSet {
    /// Builds the set; duplicates count once.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> AddrSet {
        AddrSet { base: Arc::new(Base::new(prefixes.into_iter().collect())), late: None }
    }

    /// The set with some prefixes removed and some added; of one that is in both, it has it.
    #[must_use]
    pub fn changed(&self, remove: impl IntoIterator<Item = Prefix>, add: impl IntoIterator<Item = Prefix>) -> AddrSet {
        self.changed_beside(SMALL, MAX_OVERLAY, remove, add)
    }

    fn changed_beside(
        &self,
        small: usize,
        most: usize,
        remove: impl IntoIterator<Item = Prefix>,
        add: impl IntoIterator<Item = Prefix>,
    ) -> AddrSet {
        let (mut added, mut removed) = match &self.late {
            None => (BTreeSet::new(), BTreeSet::new()),
            Some(l) => (l.added.prefixes.iter().copied().collect(), l.removed.iter().copied().collect::<BTreeSet<_>>()),
        };
        for p in remove {
            if !added.remove(&p) && self.base.has(p) {
                removed.insert(p);
            }
        }
        for p in add {
            if !removed.remove(&p) && !self.base.has(p) {
                added.insert(p);
            }
        }
        if self.base.prefixes.len() < small || added.len() + removed.len() > most {
            let stay = self.base.prefixes.iter().copied().filter(|p| !removed.contains(p));
            return AddrSet::new(stay.chain(added).collect::<Vec<_>>());
        }
        let late = Late { added: Base::new(added.into_iter().collect()), removed: removed.into_iter().collect() };
        AddrSet { base: self.base.clone(), late: Some(Arc::new(late)) }
    }

    /// The longest prefix that holds the address.
    #[must_use]
    #[inline]
    pub fn lookup(&self, addr: Addr) -> Option<Prefix> {
        let found = self.base.lookup(addr);
        match &self.late {
            None => found,
            Some(late) => late.lookup(&self.base, addr, found),
        }
    }

    /// True if some prefix holds the address.
    #[must_use]
    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        self.lookup(addr).is_some()
    }

    /// The prefixes in order, duplicates removed.
    #[must_use]
    pub fn prefixes(&self) -> Cow<'_, [Prefix]> {
        let Some(late) = &self.late else { return Cow::Borrowed(&self.base.prefixes) };
        let stay = self.base.prefixes.iter().filter(|p| late.removed.binary_search(p).is_err());
        let mut all: Vec<Prefix> = stay.chain(&late.added.prefixes).copied().collect();
        all.sort_unstable();
        Cow::Owned(all)
    }

    /// Number of different prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        let late = self.late.as_ref().map_or((0, 0), |l| (l.added.prefixes.len(), l.removed.len()));
        self.base.prefixes.len() + late.0 - late.1
    }

    /// True if the set holds nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Base {
    fn new(mut prefixes: Vec<Prefix>) -> Base {
        // By family, start, then widest first: a parent stands before its children.
        prefixes.sort_unstable();
        prefixes.dedup();
        let split = prefixes.partition_point(|p| p.is_v4());
        let v4 = V4::new(&stretches(&prefixes[..split]));
        let v6 = V6::new(&stretches(&prefixes[split..]));
        Base { prefixes, v4, v6 }
    }

    #[inline]
    fn lookup(&self, addr: Addr) -> Option<Prefix> {
        match addr.ip() {
            IpAddr::V4(a) => {
                let bits = u32::from(a);
                Prefix::cut_v4(bits, self.v4.len_at(bits))
            }
            IpAddr::V6(a) => {
                let bits = u128::from(a);
                Prefix::cut_v6(bits, self.v6.len_at(bits))
            }
        }
    }

    fn has(&self, p: Prefix) -> bool {
        self.prefixes.binary_search(&p).is_ok()
    }
}

impl Late {
    fn lookup(&self, base: &Base, addr: Addr, mut found: Option<Prefix>) -> Option<Prefix> {
        // The longest of the base may be gone; then the next wider one counts.
        while let Some(p) = found.filter(|p| self.removed.binary_search(p).is_ok()) {
            found = (0..p.bits()).rev().filter_map(|len| Prefix::new(addr, len)).find(|q| base.has(*q));
        }
        match (found, self.added.lookup(addr)) {
            (Some(a), Some(b)) => Some(if b.bits() > a.bits() { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

impl std::fmt::Debug for AddrSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.prefixes().iter()).finish()
    }
}

/// From this address on (to the next stretch) prefixes of this length are the longest.
type Stretch = (u128, u8);

/// The stretches of one family's sorted prefixes, from address 0 on; neighbours differ in length.
fn stretches(sorted: &[Prefix]) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::with_capacity(sorted.len() + 1);
    let mut push = |start: u128, len: u8| {
        if out.last().is_some_and(|l| l.0 == start) {
            out.pop();
        }
        if out.last().is_none_or(|l| l.1 != len) {
            out.push((start, len));
        }
    };
    push(0, NONE);
    // The prefixes that hold the current address, widest first, with their last addresses.
    let mut open: Vec<(u128, u8)> = Vec::new();
    for p in sorted {
        let (first, last) = (p.first().bits(), p.last().bits());
        while let Some(&(end, _)) = open.last() {
            if end >= first {
                break;
            }
            open.pop();
            push(end + 1, open.last().map_or(NONE, |o| o.1));
        }
        push(first, p.bits());
        open.push((last, p.bits()));
    }
    while let Some((end, _)) = open.pop() {
        // Past the family's end there is nothing: for IPv4 the extra stretch is never reached.
        if let Some(next) = end.checked_add(1) {
            push(next, open.last().map_or(NONE, |o| o.1));
        }
    }
    out
}

/// IPv4: a table on the first `k` bits gives a bucket of words; a word is the rest of a stretch's start (32 − k ≤ 24
/// bits) above its length (8 bits). A bucket begins with a word for its first address.
#[derive(Clone)]
struct V4 {
    k: u32,
    /// Where each bucket begins in `words`; one entry more than buckets.
    table: Vec<u32>,
    words: Vec<u32>,
}

/// The rest of an address and a length must fit a word of 32 bits.
const V4_TABLE_MIN: u32 = 8;
/// 256 KiB of table, which stays in the second-level cache; a bucket of a million prefixes then has one or two lines.
const V4_TABLE_MAX: u32 = 16;

impl Default for V4 {
    fn default() -> V4 {
        V4::new(&[(0, NONE)])
    }
}

impl V4 {
    fn new(stretches: &[Stretch]) -> V4 {
        let k = table_bits(stretches.len(), V4_TABLE_MIN, V4_TABLE_MAX);
        let rest = 32 - k;
        let mut table = Vec::with_capacity((1 << k) + 1);
        let mut words = Vec::with_capacity(stretches.len() + (1 << k));
        let (mut next, mut len) = (0, NONE);
        for bucket in 0..1u64 << k {
            let (from, to) = (u128::from(bucket << rest), u128::from((bucket + 1) << rest));
            table.push(words.len() as u32);
            if stretches.get(next).is_none_or(|s| s.0 != from) {
                words.push(u32::from(len));
            }
            while let Some(&(start, l)) = stretches.get(next).filter(|s| s.0 < to) {
                words.push(((start - from) as u32) << 8 | u32::from(l));
                len = l;
                next += 1;
            }
        }
        table.push(words.len() as u32);
        V4 { k, table, words }
    }

    #[inline]
    fn len_at(&self, bits: u32) -> u8 {
        let rest = 32 - self.k;
        let bucket = (bits >> rest) as usize;
        let words = &self.words[self.table[bucket] as usize..self.table[bucket + 1] as usize];
        // The largest word that starts at or before the address, whatever its length.
        let sought = (bits & ((1 << rest) - 1)) << 8 | 0xff;
        let i = words.partition_point(|w| *w <= sought);
        // A bucket's first word starts at 0, so `i` is at least 1.
        words[i - 1] as u8
    }
}

/// IPv6: three levels over bits 0–31, 32–63 and 64–127 of the address. A row whose key is exactly the address's bits
/// may lead to a block of rows on the next level; all other addresses from its key on share one length.
#[derive(Clone)]
struct V6 {
    k: u32,
    /// The first row of `top` whose key has these first `k` bits or more; one entry more than there are values.
    table: Vec<u32>,
    top: Vec<Row<u32>>,
    mid: Vec<Row<u32>>,
    low: Vec<Row<u64>>,
}

/// A key and what holds from it on. Blocks of `mid` and `low` begin with a row that is no key but a head: the number of
/// rows in the block, and the length for the addresses after the parent's own key, up to the parent's next row. Key,
/// value and head stand together so that a lookup touches few cache lines.
#[derive(Clone, Copy)]
struct Row<K> {
    key: K,
    /// A length, or [`SPLIT`] plus where the block stands on the next level.
    value: u32,
}

const SPLIT: u32 = 1 << 31;
/// A small set gets a small table.
const V6_TABLE_MIN: u32 = 4;
/// As for IPv4; public IPv6 uses one eighth of it, in few places, and the search goes on from there.
const V6_TABLE_MAX: u32 = 16;

impl Default for V6 {
    fn default() -> V6 {
        V6::new(&[(0, NONE)])
    }
}

impl V6 {
    fn new(stretches: &[Stretch]) -> V6 {
        let mut v6 = V6 { k: 0, table: Vec::new(), top: Vec::new(), mid: Vec::new(), low: Vec::new() };
        let mut before = NONE;
        for group in stretches.chunk_by(|a, b| a.0 >> 96 == b.0 >> 96) {
            let value = v6.mid_value(group, before);
            v6.top.push(Row { key: (group[0].0 >> 96) as u32, value });
            before = last_len(group);
        }
        v6.k = table_bits(v6.top.len(), V6_TABLE_MIN, V6_TABLE_MAX);
        let mut row = 0;
        for first in 0..=1u64 << v6.k {
            while v6.top.get(row).is_some_and(|r| u64::from(r.key) < first << (32 - v6.k)) {
                row += 1;
            }
            v6.table.push(row as u32);
        }
        v6
    }

    /// The value of the row of `top` for stretches that share their first 32 bits; `before` is the length before them.
    fn mid_value(&mut self, group: &[Stretch], mut before: u8) -> u32 {
        if let [(start, len)] = group
            && start << 32 == 0
        {
            return u32::from(*len);
        }
        let head = self.mid.len();
        self.mid.push(Row { key: 0, value: u32::from(last_len(group)) });
        if (group[0].0 >> 64) as u32 != 0 {
            self.mid.push(Row { key: 0, value: u32::from(before) });
        }
        for sub in group.chunk_by(|a, b| a.0 >> 64 == b.0 >> 64) {
            let value = self.low_value(sub, before);
            self.mid.push(Row { key: (sub[0].0 >> 64) as u32, value });
            before = last_len(sub);
        }
        self.mid[head].key = (self.mid.len() - head - 1) as u32;
        SPLIT | head as u32
    }

    /// The same for `mid` and 64 bits.
    fn low_value(&mut self, group: &[Stretch], before: u8) -> u32 {
        if let [(start, len)] = group
            && *start as u64 == 0
        {
            return u32::from(*len);
        }
        let head = self.low.len();
        self.low.push(Row { key: 0, value: u32::from(last_len(group)) });
        if group[0].0 as u64 != 0 {
            self.low.push(Row { key: 0, value: u32::from(before) });
        }
        self.low.extend(group.iter().map(|(start, len)| Row { key: *start as u64, value: u32::from(*len) }));
        self.low[head].key = (self.low.len() - head - 1) as u64;
        SPLIT | head as u32
    }

    #[inline]
    fn len_at(&self, bits: u128) -> u8 {
        let key = (bits >> 96) as u32;
        let bucket = (key >> (32 - self.k)) as usize;
        let (from, to) = (self.table[bucket] as usize, self.table[bucket + 1] as usize);
        // The row may stand in an earlier bucket, right before `from`. Row 0 has key 0, so there is one.
        let row = self.top[from + self.top[from..to].partition_point(|r| r.key <= key) - 1];
        if row.value & SPLIT == 0 {
            return row.value as u8;
        }
        let head = (row.value & !SPLIT) as usize;
        let (count, after) = (self.mid[head].key as usize, self.mid[head].value as u8);
        if row.key != key {
            return after;
        }
        let key = (bits >> 64) as u32;
        // A block's first key is 0, so the search finds at least one row.
        let row = self.mid[head + self.mid[head + 1..=head + count].partition_point(|r| r.key <= key)];
        if row.value & SPLIT == 0 {
            return row.value as u8;
        }
        let head = (row.value & !SPLIT) as usize;
        let (count, after) = (self.low[head].key as usize, self.low[head].value as u8);
        if row.key != key {
            return after;
        }
        let key = bits as u64;
        self.low[head + self.low[head + 1..=head + count].partition_point(|r| r.key <= key)].value as u8
    }
}

fn last_len(group: &[Stretch]) -> u8 {
    group.last().map_or(NONE, |s| s.1)
}

/// Bits for a table of about as many entries as there are things to find.
fn table_bits(things: usize, min: u32, max: u32) -> u32 {
    things.next_power_of_two().trailing_zeros().clamp(min, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Knows nothing of `Prefix` and `Addr`: the text of the longest prefix by comparing bits one after the other.
    fn oracle(list: &[(IpAddr, u8)], addr: IpAddr) -> Option<u8> {
        let bit = |ip: IpAddr, n: usize| match ip {
            IpAddr::V4(a) => a.octets()[n / 8] >> (7 - n % 8) & 1,
            IpAddr::V6(a) => a.octets()[n / 8] >> (7 - n % 8) & 1,
        };
        list.iter()
            .filter(|(ip, len)| {
                ip.is_ipv4() == addr.is_ipv4() && (0..usize::from(*len)).all(|n| bit(*ip, n) == bit(addr, n))
            })
            .map(|(_, len)| *len)
            .max()
    }

    fn check(list: &[(IpAddr, u8)], probes: impl Iterator<Item = IpAddr>) {
        let set = AddrSet::new(list.iter().map(|(ip, len)| Prefix::new(Addr::new(*ip), *len).unwrap()));
        for probe in probes {
            let addr = Addr::new(probe);
            let found = set.lookup(addr);
            assert_eq!(found.map(Prefix::bits), oracle(list, probe), "{probe} in {list:?}");
            assert!(found.is_none_or(|p| p.contains(addr) && set.prefixes().binary_search(&p).is_ok()));
        }
    }

    #[test]
    fn nobody_and_everybody() {
        let none = AddrSet::default();
        let all = AddrSet::new([Prefix::ALL_V4, Prefix::ALL_V6]);
        for text in
            ["0.0.0.0", "255.255.255.255", "10.1.2.3", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::1"]
        {
            let addr: Addr = text.parse().unwrap();
            assert!(!none.contains(addr) && !AddrSet::new([]).contains(addr), "{text}");
            assert!(all.contains(addr), "{text}");
        }
        let v4 = AddrSet::new([Prefix::ALL_V4]);
        assert!(v4.contains("::ffff:192.0.2.1".parse().unwrap()), "folded once");
        assert!(!v4.contains("2001:db8::1".parse().unwrap()), "a family of its own");
    }

    /// Addresses that crowd together, so that prefixes nest and touch.
    fn near_v4() -> impl Strategy<Value = Ipv4Addr> {
        (0u32..16, 0u32..8, 0u32..8).prop_map(|(a, b, c)| Ipv4Addr::from(a << 28 | b << 15 | c))
    }

    fn near_v6() -> impl Strategy<Value = Ipv6Addr> {
        let edge = || prop_oneof![Just(0u128), Just(1), Just(u128::from(u32::MAX)), 0u128..4];
        // No IPv4-mapped addresses: they are IPv4.
        (1u128..5, edge(), edge(), edge(), prop_oneof![Just(0u128), Just(0x2001_0db8), Just(0xffff_ffff)])
            .prop_map(|(d, c, b, a, top)| Ipv6Addr::from(((top ^ a) << 96) | b << 64 | c << 32 | d))
    }

    proptest! {
        #[test]
        fn agrees_with_comparing_bits_v4(
            list in proptest::collection::vec((near_v4(), 0u8..=32), 0..40),
            probes in proptest::collection::vec(near_v4(), 1..40),
        ) {
            let list: Vec<(IpAddr, u8)> = list.into_iter().map(|(a, l)| (IpAddr::V4(a), l)).collect();
            // Both sides of every border, too.
            let edges: Vec<IpAddr> = list.iter().flat_map(|(ip, len)| {
                let p = Prefix::new(Addr::new(*ip), *len).unwrap();
                let (a, z) = (p.first().bits() as u32, p.last().bits() as u32);
                [a, z, a.wrapping_sub(1), z.wrapping_add(1)].map(|b| IpAddr::V4(Ipv4Addr::from(b)))
            }).collect();
            check(&list, probes.into_iter().map(IpAddr::V4).chain(edges));
        }

        #[test]
        fn a_changed_set_is_the_set_built_anew(
            first in proptest::collection::vec((near_v4(), 0u8..=32), 0..20),
            steps in proptest::collection::vec(
                proptest::collection::vec((near_v4(), 0u8..=32, any::<bool>(), any::<prop::sample::Index>()), 1..6), 1..8),
            most in 0usize..30,
        ) {
            let prefix = |a: Ipv4Addr, len: u8| Prefix::new(Addr::new(IpAddr::V4(a)), len).unwrap();
            let mut want: BTreeSet<Prefix> = first.iter().map(|(a, l)| prefix(*a, *l)).collect();
            let mut set = AddrSet::new(want.iter().copied());
            for step in steps {
                let (mut remove, mut add) = (Vec::new(), Vec::new());
                for (a, len, new, which) in step {
                    match want.iter().nth(which.index(want.len().max(1))) {
                        Some(p) if !new => remove.push(*p),
                        _ => add.push(prefix(a, len)),
                    }
                }
                remove.iter().for_each(|p| { want.remove(p); });
                want.extend(add.iter().copied());
                set = set.changed_beside(0, most, remove, add);
                let anew = AddrSet::new(want.iter().copied());
                prop_assert_eq!(set.prefixes(), anew.prefixes());
                prop_assert_eq!(set.len(), want.len());
                for p in &want {
                    let edges = [p.first(), p.last()].map(Addr::bits);
                    let near = edges.into_iter().flat_map(|b| [b.saturating_sub(1), b, b + 1]);
                    for bits in near.filter(|b| *b <= u128::from(u32::MAX)) {
                        let a = Addr::new(IpAddr::V4(Ipv4Addr::from(bits as u32)));
                        prop_assert_eq!(set.lookup(a), anew.lookup(a), "{} in {:?}", a, want);
                    }
                }
            }
        }

        #[test]
        fn agrees_with_comparing_bits_v6(
            list in proptest::collection::vec((near_v6(), 0u8..=128), 0..40),
            probes in proptest::collection::vec(near_v6(), 1..40),
        ) {
            let list: Vec<(IpAddr, u8)> = list.into_iter().map(|(a, l)| (IpAddr::V6(a), l)).collect();
            let edges: Vec<IpAddr> = list.iter().flat_map(|(ip, len)| {
                let p = Prefix::new(Addr::new(*ip), *len).unwrap();
                let (a, z) = (p.first().bits(), p.last().bits());
                [a, z, a.wrapping_sub(1), z.wrapping_add(1)].map(Ipv6Addr::from)
            }).filter(|ip| ip.to_ipv4_mapped().is_none()).map(IpAddr::V6).collect();
            check(&list, probes.into_iter().map(IpAddr::V6).chain(edges));
        }
    }
}
