//! What a list has learned, as a value that is cheap to copy and to compare. In: grants by number. Out: entries in the order in
//! which they were given, and what differs between two copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Prefix;

use crate::GrantId;

/// Learned entries in the order in which they were given. A copy costs little and shares what does not change, and two
/// copies are compared where they differ only: so a change costs the same on a list of ten and of 100,000.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LearnedEntries {
    blocks: BTreeMap<u64, Arc<BTreeMap<GrantId, LearnedEntry>>>,
    len: usize,
}

/// A prefix and its end, seconds since the Unix epoch; `None`: no end.
pub type LearnedEntry = (Prefix, Option<u64>);

/// Grants whose numbers share all but these bits stand together: 100,000 are 400 blocks, of which a change copies one.
const BLOCK_BITS: u32 = 8;

/// What became of a grant between two copies of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// As it was; `None`: it was not there.
    pub before: Option<LearnedEntry>,
    /// As it is; `None`: it is gone.
    pub after: Option<LearnedEntry>,
}

impl LearnedEntries {
    /// Puts a grant in, in place of what had its number.
    pub fn put(&mut self, id: GrantId, prefix: Prefix, end: Option<u64>) {
        let block = self.blocks.entry(id.0 >> BLOCK_BITS).or_default();
        if Arc::make_mut(block).insert(id, (prefix, end)).is_none() {
            self.len += 1;
        }
    }

    /// Takes a grant out.
    pub fn remove(&mut self, id: GrantId) {
        let Some(block) = self.blocks.get_mut(&(id.0 >> BLOCK_BITS)) else { return };
        if block.contains_key(&id) {
            Arc::make_mut(block).remove(&id);
            self.len -= 1;
        }
        if block.is_empty() {
            self.blocks.remove(&(id.0 >> BLOCK_BITS));
        }
    }

    /// What stands under a number.
    #[must_use]
    pub fn get(&self, id: GrantId) -> Option<LearnedEntry> {
        self.blocks.get(&(id.0 >> BLOCK_BITS))?.get(&id).copied()
    }

    /// Every entry, oldest grant first.
    pub fn iter(&self) -> impl Iterator<Item = LearnedEntry> {
        self.blocks.values().flat_map(|b| b.values().copied())
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if nothing is learned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is different in a later copy.
    #[must_use]
    pub fn changes(&self, later: &LearnedEntries) -> Vec<Change> {
        let none = Arc::default();
        let mut out = Vec::new();
        let mut compare = |a: &BTreeMap<GrantId, LearnedEntry>, b: &BTreeMap<GrantId, LearnedEntry>| {
            for (id, before) in a {
                let after = b.get(id).copied();
                if after != Some(*before) {
                    out.push(Change { before: Some(*before), after });
                }
            }
            let new = b.iter().filter(|(id, _)| !a.contains_key(*id));
            out.extend(new.map(|(_, after)| Change { before: None, after: Some(*after) }));
        };
        for (key, a) in &self.blocks {
            let b = later.blocks.get(key).unwrap_or(&none);
            if !Arc::ptr_eq(a, b) {
                compare(a, b);
            }
        }
        for (_, b) in later.blocks.iter().filter(|(key, _)| !self.blocks.contains_key(key)) {
            compare(&none, b);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use addr::Addr;
    use proptest::prelude::*;

    fn entry(n: u8) -> (Prefix, Option<u64>) {
        (Prefix::host(Addr::new([192, 0, 2, n].into())), n.is_multiple_of(2).then_some(u64::from(n)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// It holds what a map of the same steps holds. Numbers reach over several blocks.
        #[test]
        fn holds_what_was_put_and_not_taken(steps in prop::collection::vec((0u64..1_500, any::<Option<u8>>()), 0..120)) {
            let (mut learned, mut map) = (LearnedEntries::default(), BTreeMap::new());
            for (id, n) in steps {
                match n {
                    Some(n) => {
                        learned.put(GrantId(id), entry(n).0, entry(n).1);
                        map.insert(id, entry(n));
                    }
                    None => {
                        learned.remove(GrantId(id));
                        map.remove(&id);
                    }
                }
                prop_assert_eq!(learned.get(GrantId(id)), map.get(&id).copied());
                prop_assert_eq!((learned.len(), learned.is_empty()), (map.len(), map.is_empty()));
            }
            prop_assert_eq!(learned.iter().collect::<Vec<_>>(), map.into_values().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_copy_shares_every_block_but_the_one_that_changes() {
        let mut first = LearnedEntries::default();
        (0..1_000).for_each(|id| first.put(GrantId(id), entry(1).0, None));
        let mut second = first.clone();
        second.remove(GrantId(999));
        let shared =
            first.blocks.iter().filter(|(k, b)| second.blocks.get(k).is_some_and(|o| Arc::ptr_eq(b, o))).count();
        assert_eq!((first.blocks.len(), shared), (4, 3));
        // What is not there changes nothing, and copies nothing.
        second.remove(GrantId(998_000));
        second.remove(GrantId(999));
        assert_eq!(second.len(), 999);
        // An emptied block is gone.
        (768..1_000).for_each(|id| second.remove(GrantId(id)));
        assert_eq!(second.blocks.len(), 3);
    }
}
