//! What tests of enforcers share: lists made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use access::GrantId;
use access::learned::LearnedEntries;
use access::publish::Desired;

use super::Snapshot;
use crate::ledger::{Published, ReadModel};

/// A list with learned entries and no ends; an entry has the same number in every list.
pub(super) fn desired(list: &str, learned: &[&str]) -> Desired {
    let learned: Vec<(&str, Option<u64>)> = learned.iter().map(|p| (*p, None)).collect();
    ending(list, &learned)
}

/// A list with learned entries and their ends (seconds since the Unix epoch).
pub(super) fn ending(list: &str, learned: &[(&str, Option<u64>)]) -> Desired {
    let mut learnt = LearnedEntries::default();
    for (prefix, end) in learned {
        let id = prefix.bytes().fold(7_u64, |n, b| n.wrapping_mul(31).wrapping_add(b.into()));
        learnt.put(GrantId(id), prefix.parse().unwrap(), *end);
    }
    Desired { generation: 1, list: list.to_string(), statics: Vec::new(), learnt }
}

/// These lists as they are published.
pub(super) fn published(generation: u64, lists: &[(&str, &[&str])]) -> Arc<Published> {
    let lists: BTreeMap<String, Arc<Desired>> =
        lists.iter().map(|(name, learned)| ((*name).to_string(), Arc::new(desired(name, learned)))).collect();
    Arc::new(Published { generation, lists, ..Published::default() })
}

/// These lists as an enforcer sees them.
pub(super) fn snapshot(generation: u64, lists: &[(&str, &[&str])]) -> Snapshot {
    Snapshot { published: published(generation, lists), ledger: Arc::new(ReadModel::default()) }
}
