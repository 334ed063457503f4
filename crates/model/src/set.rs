//! An immutable set of prefixes with longest-prefix lookup. In: prefixes, once. Out: the longest that holds an
//! address. Swapped whole when the list changes; never edited.

use crate::addr::Addr;
use crate::prefix::Prefix;

/// A set of prefixes. Lookup takes the longest prefix that holds an address; no allocation.
#[derive(Clone, Default)]
pub struct AddrSet {
    prefixes: Vec<Prefix>,
    v4: Segments,
    v6: Segments,
}

/// Disjoint stretches of one family in order: stretch `i` runs from `starts[i]` to before `starts[i + 1]`, and
/// `owner[i]` is 1 + the index of the longest prefix there, or 0 for none.
#[derive(Clone, Default)]
struct Segments {
    starts: Vec<u128>,
    owner: Vec<u32>,
}

impl AddrSet {
    /// Builds the set; duplicates count once.
    #[must_use]
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> AddrSet {
        let mut prefixes: Vec<Prefix> = prefixes.into_iter().collect();
        // Order by family, start, then widest first: a parent stands before its children.
        prefixes.sort_unstable();
        prefixes.dedup();
        let split = prefixes.partition_point(|p| p.is_v4());
        let v4 = Segments::new(&prefixes[..split], 0);
        let v6 = Segments::new(&prefixes[split..], split as u32);
        AddrSet { prefixes, v4, v6 }
    }

    /// The longest prefix that holds the address.
    #[must_use]
    #[inline]
    pub fn lookup(&self, addr: Addr) -> Option<Prefix> {
        let segments = if addr.is_v4() { &self.v4 } else { &self.v6 };
        segments.owner(addr.bits()).map(|i| self.prefixes[i as usize])
    }

    /// True if some prefix holds the address.
    #[must_use]
    #[inline]
    pub fn contains(&self, addr: Addr) -> bool {
        self.lookup(addr).is_some()
    }

    /// The prefixes in order, duplicates removed.
    #[must_use]
    pub fn prefixes(&self) -> &[Prefix] {
        &self.prefixes
    }

    /// Number of different prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.prefixes.len()
    }

    /// True if the set holds nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty()
    }
}

impl std::fmt::Debug for AddrSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(&self.prefixes).finish()
    }
}

impl Segments {
    fn new(sorted: &[Prefix], base: u32) -> Segments {
        let mut s = Segments { starts: vec![0], owner: vec![0] };
        let mut open: Vec<(u128, u32)> = Vec::new();
        for (i, p) in sorted.iter().enumerate() {
            let (first, last) = (p.first().bits(), p.last().bits());
            while let Some(&(end, _)) = open.last() {
                if end >= first {
                    break;
                }
                open.pop();
                s.push(end + 1, open.last().map_or(0, |o| o.1));
            }
            s.push(first, base + i as u32 + 1);
            open.push((last, base + i as u32 + 1));
        }
        while let Some((end, _)) = open.pop() {
            if let Some(next) = end.checked_add(1) {
                s.push(next, open.last().map_or(0, |o| o.1));
            }
        }
        s
    }

    fn push(&mut self, start: u128, owner: u32) {
        if self.starts.last() == Some(&start) {
            if let Some(o) = self.owner.last_mut() {
                *o = owner;
            }
        } else {
            self.starts.push(start);
            self.owner.push(owner);
        }
    }

    fn owner(&self, bits: u128) -> Option<u32> {
        let i = self.starts.partition_point(|s| *s <= bits).checked_sub(1)?;
        self.owner[i].checked_sub(1)
    }
}
