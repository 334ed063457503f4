//! Sets of places in a list, one bit each. In: places. Out: union, membership, iteration in order.

/// A set of small numbers. What lies beyond its length is not in it; the empty set needs no length.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// The empty set over `len` places.
    pub(crate) fn new(len: usize) -> Bits {
        Bits(vec![0; len.div_ceil(64)])
    }

    pub(crate) fn of(len: usize, places: impl IntoIterator<Item = usize>) -> Bits {
        let mut out = Bits::new(len);
        for i in places {
            out.set(i);
        }
        out
    }

    pub(crate) fn set(&mut self, i: usize) {
        if i / 64 >= self.0.len() {
            self.0.resize(i / 64 + 1, 0);
        }
        self.0[i / 64] |= 1 << (i % 64);
    }

    pub(crate) fn unset(&mut self, i: usize) {
        if let Some(word) = self.0.get_mut(i / 64) {
            *word &= !(1 << (i % 64));
        }
    }

    pub(crate) fn has(&self, i: usize) -> bool {
        self.0.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 == 1)
    }

    /// Takes in another set, which may be over more places.
    pub(crate) fn add(&mut self, other: &Bits) {
        if other.0.len() > self.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a |= b;
        }
    }

    pub(crate) fn keep(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= b;
        }
        self.0.truncate(other.0.len());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    /// Takes out what another set holds.
    pub(crate) fn remove(&mut self, other: &Bits) {
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a &= !b;
        }
    }

    /// True if it holds all of another set.
    pub(crate) fn covers(&self, other: &Bits) -> bool {
        let at = |i: usize| self.0.get(i).copied().unwrap_or(0);
        other.0.iter().enumerate().all(|(i, w)| w & !at(i) == 0)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// The places in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().enumerate().flat_map(|(i, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                if rest == 0 {
                    return None;
                }
                let bit = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                Some(i * 64 + bit)
            })
        })
    }

    pub(crate) fn words(&self) -> &[u64] {
        &self.0
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

/// Rows of who sees whom, made symmetric: a node that may be reached must know who asks.
pub(crate) fn symmetric(mut rows: Vec<Bits>) -> Vec<Bits> {
    make_symmetric(&mut rows);
    for (i, row) in rows.iter_mut().enumerate() {
        row.unset(i);
    }
    rows
}

/// Makes a square relation symmetric: where `a` has `b`, `b` gets `a`. Works on blocks of 64 × 64 so that 10,000 rows
/// take milliseconds.
pub(crate) fn make_symmetric(rows: &mut [Bits]) {
    let blocks = rows.len().div_ceil(64);
    let read = |rows: &[Bits], i: usize, j: usize| -> [u64; 64] {
        std::array::from_fn(|k| rows.get(i * 64 + k).and_then(|r| r.words().get(j)).copied().unwrap_or(0))
    };
    let write = |rows: &mut [Bits], i: usize, j: usize, block: &[u64; 64]| {
        for (k, word) in block.iter().enumerate() {
            if let Some(w) = rows.get_mut(i * 64 + k).and_then(|r| r.words_mut().get_mut(j)) {
                *w |= word;
            }
        }
    };
    for i in 0..blocks {
        for j in i..blocks {
            let (mut upper, mut lower) = (read(rows, i, j), read(rows, j, i));
            transpose(&mut upper);
            transpose(&mut lower);
            write(rows, j, i, &upper);
            write(rows, i, j, &lower);
        }
    }
}

/// Transposes a 64 × 64 block of bits, halves at a time.
fn transpose(block: &mut [u64; 64]) {
    let (mut half, mut mask) = (32, 0x0000_0000_ffff_ffff_u64);
    while half > 0 {
        let mut k = 0;
        while k < 64 {
            let t = ((block[k] >> half) ^ block[k + half]) & mask;
            block[k] ^= t << half;
            block[k + half] ^= t;
            k = (k + half + 1) & !half;
        }
        half >>= 1;
        mask ^= mask << half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn symmetry_is_what_pairs_say() {
        let n = 150;
        let mut rows: Vec<Bits> = (0..n).map(|i| Bits::of(n, (0..n).filter(|j| (i * 7 + j * 13) % 11 == 0))).collect();
        let before = rows.clone();
        make_symmetric(&mut rows);
        for i in 0..n {
            for j in 0..n {
                assert_eq!(rows[i].has(j), before[i].has(j) || before[j].has(i), "{i} {j}");
            }
        }
    }

    fn places() -> impl Strategy<Value = BTreeSet<usize>> {
        prop::collection::btree_set(prop_oneof![0usize..10, 60usize..70, 120usize..200], 0..20)
    }

    proptest! {
        /// A set of bits does what a set of numbers does, whatever the lengths.
        #[test]
        fn bits_are_a_set(a in places(), b in places(), (len_a, len_b) in (0usize..150, 0usize..150), i in 0usize..220) {
            let of = |len, set: &BTreeSet<usize>| Bits::of(len, set.iter().copied());
            let (x, y) = (of(len_a, &a), of(len_b, &b));
            let set = |bits: &Bits| bits.iter().collect::<BTreeSet<_>>();
            prop_assert!(x.iter().eq(a.iter().copied()), "in order");
            prop_assert_eq!((x.count(), x.is_empty(), x.has(i)), (a.len(), a.is_empty(), a.contains(&i)));
            prop_assert_eq!(x.covers(&y), a.is_superset(&b));
            let (mut sum, mut rest, mut both) = (x.clone(), x.clone(), x.clone());
            sum.add(&y);
            rest.remove(&y);
            both.keep(&y);
            prop_assert_eq!(set(&sum), a.union(&b).copied().collect());
            prop_assert_eq!(set(&rest), a.difference(&b).copied().collect());
            prop_assert_eq!(set(&both), a.intersection(&b).copied().collect());
            let (mut with, mut without) = (x.clone(), x);
            with.set(i);
            without.unset(i);
            prop_assert!(with.has(i) && !without.has(i));
            prop_assert_eq!(with.count() - usize::from(!a.contains(&i)), a.len());
            prop_assert_eq!(without.count() + usize::from(a.contains(&i)), a.len());
        }

        /// Whoever sees somebody is seen by him, nobody sees himself, and nobody else comes in.
        #[test]
        fn who_sees_is_seen(n in 1usize..140, pairs in prop::collection::vec((0usize..140, 0usize..140), 0..60)) {
            let pairs: BTreeSet<(usize, usize)> = pairs.into_iter().map(|(a, b)| (a % n, b % n)).collect();
            let row = |i: usize| Bits::of(n, pairs.iter().filter(|(a, _)| *a == i).map(|(_, b)| *b));
            let rows = symmetric((0..n).map(row).collect());
            let want = |a: usize, b: usize| a != b && (pairs.contains(&(a, b)) || pairs.contains(&(b, a)));
            for (i, row) in rows.iter().enumerate() {
                prop_assert_eq!(row.iter().collect::<Vec<_>>(), (0..n).filter(|j| want(i, *j)).collect::<Vec<_>>());
            }
        }
    }
}
