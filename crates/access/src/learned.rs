//! What a list has learned, as a value that is cheap to copy and to compare. In: grants by number. Out: entries in the order in
//! which they were given, and what differs between two copies.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Prefix;

use crate::GrantId;

/// LearnedEntries entries in the order in which they were given. A copy costs little and shares what does not change, and two
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

    /// True if nothing is learnt.
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
