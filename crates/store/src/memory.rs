//! The key space in memory, for tests and for state that need not last. In and out: as [`Store`].

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::{Change, Entry, MAX_KEPT_CHANGES, Result, Step, Store, StoreError, holds};

/// A store that ends with the process.
#[derive(Debug, Default)]
pub struct Memory {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone)]
struct State {
    entries: BTreeMap<String, Entry>,
    changes: VecDeque<Change>,
    revision: u64,
    /// Changes up to this one are no longer kept.
    compacted: u64,
}

impl Memory {
    /// An empty store.
    #[must_use]
    pub fn new() -> Memory {
        Memory::default()
    }
}

impl Store for Memory {
    fn get(&self, key: &str) -> Result<Option<Entry>> {
        Ok(self.state.lock().entries.get(key).cloned())
    }

    fn list(&self, prefix: &str) -> Result<(Vec<Entry>, u64)> {
        let s = self.state.lock();
        let found = s.entries.range(prefix.to_string()..).take_while(|(k, _)| k.starts_with(prefix));
        Ok((found.map(|(_, e)| e.clone()).collect(), s.revision))
    }

    fn write(&self, steps: &[Step]) -> Result<u64> {
        let mut s = self.state.lock();
        // All beliefs are checked against the state before the first step, as one moment.
        for step in steps {
            let (Step::Put { key, when, .. } | Step::Delete { key, when }) = step;
            let found = s.entries.get(key).map(|e| e.revision);
            if !holds(*when, found) {
                return Err(StoreError::Conflict { key: key.clone(), found });
            }
        }
        for step in steps {
            s.step(step);
        }
        self.changed.notify_all();
        Ok(s.revision)
    }

    fn changes(&self, prefix: &str, revision: u64, limit: usize, wait: Duration) -> Result<Vec<Change>> {
        let until = Instant::now() + wait;
        let mut s = self.state.lock();
        loop {
            if revision < s.compacted {
                return Err(StoreError::Compacted { oldest: s.compacted });
            }
            let found: Vec<Change> = s
                .changes
                .iter()
                .filter(|c| c.revision > revision && c.key.starts_with(prefix))
                .take(limit)
                .cloned()
                .collect();
            if !found.is_empty() || self.changed.wait_until(&mut s, until).timed_out() {
                return Ok(found);
            }
        }
    }

    fn expire(&self, now: u64) -> Result<usize> {
        let mut s = self.state.lock();
        let due: Vec<String> =
            s.entries.values().filter(|e| e.deadline.is_some_and(|d| d <= now)).map(|e| e.key.clone()).collect();
        for key in &due {
            s.step(&Step::Delete { key: key.clone(), when: crate::If::Anyway });
        }
        self.changed.notify_all();
        Ok(due.len())
    }
}

impl State {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Put { key, value, deadline, .. } => {
                self.note(key, Some(value.clone()));
                let entry =
                    Entry { key: key.clone(), value: value.clone(), revision: self.revision, deadline: *deadline };
                self.entries.insert(key.clone(), entry);
            }
            Step::Delete { key, .. } => {
                if self.entries.remove(key).is_some() {
                    self.note(key, None);
                }
            }
        }
    }

    fn note(&mut self, key: &str, value: Option<Vec<u8>>) {
        self.revision += 1;
        self.changes.push_back(Change { revision: self.revision, key: key.to_string(), value });
        while self.changes.len() as u64 > MAX_KEPT_CHANGES {
            if let Some(old) = self.changes.pop_front() {
                self.compacted = old.revision;
            }
        }
    }
}
