//! What an earlier gate has learned, taken over by one that does not run. In: addresses, the oldest first. Out: grants of a
//! list with the evidence `earlier`, all of them or none, and their lines in the audit log.

use std::path::Path;
use std::sync::Arc;

use access::Evidence;
use access::ledger::{Entry, Event, Rules};
use addr::Prefix;

/// Puts addresses on a list for `ttl` seconds (`None`: without an end). Returns how many are on it by that.
///
/// # Errors
/// A gate runs from this directory, or the store or the audit log cannot be written; nothing was changed.
pub fn import(data_dir: &Path, list: &str, learned: &[Prefix], ttl: Option<u64>) -> anyhow::Result<usize> {
    let store = Arc::new(crate::open(data_dir)?);
    // Its limits are the configuration's, which holds when the gate starts.
    let rules = Rules { max: None, ..Rules::default() };
    let until = ttl.map(|t| runtime::wall().saturating_add(t));
    let add = |p: &Prefix| {
        let prefix = rules.learnt(p.first());
        let evidence = Evidence::Earlier;
        Event::Add(Entry { list: list.to_string(), prefix, evidence, principal: None, until, pinned: false })
    };
    let events: Vec<Event> = learned.iter().map(add).collect();
    let wanted: Vec<Prefix> = learned.iter().map(|p| rules.learnt(p.first())).collect();
    let on = crate::ledger::write_stopped(store, &data_dir.join("audit.jsonl"), list, rules, events)?;
    Ok(on.iter().filter(|g| wanted.contains(&g.prefix)).count())
}
