//! Every backend against a list of what was written: whatever is written in whatever order, all say the same of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use stage::Dir;
use store::{Change, Entry, If, Memory, Sqlite, Step, Store, StoreError};

/// Keys that begin alike, and with letters that mean something to databases.
const KEYS: [&str; 12] = ["a", "a/", "a/1", "a/10", "a/2", "A/1", "a%", "a_1", "a*", "b/\u{e9}", "b/\u{10ffff}", "b"];
const PREFIXES: [&str; 9] = ["", "a", "a/", "a/1", "a%", "a_", "*", "b/", "b/\u{10ffff}"];

#[derive(Debug, Clone)]
enum Op {
    Write(Vec<Write>),
    Expire(u64),
    Restart,
}

#[derive(Debug, Clone)]
struct Write {
    key: &'static str,
    /// `None`: it is deleted.
    put: Option<(Vec<u8>, Option<u64>)>,
    belief: Belief,
}

#[derive(Debug, Clone, Copy)]
enum Belief {
    None,
    Absent,
    /// The revision that it has, or one that it has not.
    There {
        right: bool,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let value = (prop::collection::vec(any::<u8>(), 0..4), prop::option::of(0u64..50));
    let belief = prop_oneof![
        4 => Just(Belief::None),
        1 => Just(Belief::Absent),
        2 => any::<bool>().prop_map(|right| Belief::There { right }),
    ];
    let write = (prop::sample::select(KEYS.to_vec()), prop::option::weighted(0.7, value), belief)
        .prop_map(|(key, put, belief)| Write { key, put, belief });
    prop_oneof![
        8 => prop::collection::vec(write, 1..4).prop_map(Op::Write),
        1 => (0u64..50).prop_map(Op::Expire),
        1 => Just(Op::Restart),
    ]
}

/// What the documentation of [`Store`] says, in the fewest words.
#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    changes: Vec<Change>,
}

impl Model {
    fn revision(&self) -> u64 {
        self.changes.len() as u64
    }

    fn note(&mut self, key: &str, value: Option<Vec<u8>>) {
        self.changes.push(Change { revision: self.revision() + 1, key: key.to_string(), value });
    }

    fn write(&mut self, steps: &[Step]) -> Result<u64, (String, Option<u64>)> {
        for step in steps {
            let (Step::Put { key, when, .. } | Step::Delete { key, when }) = step;
            let found = self.entries.get(key).map(|e| e.revision);
            let holds = match when {
                If::Anyway => true,
                If::Absent => found.is_none(),
                If::Revision(r) => found == Some(*r),
            };
            if !holds {
                return Err((key.clone(), found));
            }
        }
        for step in steps {
            match step {
                Step::Put { key, value, deadline, .. } => {
                    self.note(key, Some(value.clone()));
                    let (key, value, revision) = (key.clone(), value.clone(), self.revision());
                    self.entries.insert(key.clone(), Entry { key, value, revision, deadline: *deadline });
                }
                Step::Delete { key, .. } => {
                    if self.entries.remove(key).is_some() {
                        self.note(key, None);
                    }
                }
            }
        }
        Ok(self.revision())
    }

    fn steps(&self, writes: &[Write]) -> Vec<Step> {
        let each = writes.iter().map(|w| {
            let at = self.entries.get(w.key).map_or(7_777, |e| e.revision);
            let when = match w.belief {
                Belief::None => If::Anyway,
                Belief::Absent => If::Absent,
                Belief::There { right: true } => If::Revision(at),
                Belief::There { right: false } => If::Revision(at + 1),
            };
            let key = w.key.to_string();
            match &w.put {
                Some((value, deadline)) => Step::Put { key, value: value.clone(), deadline: *deadline, when },
                None => Step::Delete { key, when },
            }
        });
        each.collect()
    }

    fn expire(&mut self, now: u64) -> usize {
        let due = self.entries.values().filter(|e| e.deadline.is_some_and(|d| d <= now));
        let due: Vec<String> = due.map(|e| e.key.clone()).collect();
        for key in &due {
            self.entries.remove(key);
        }
        due.len()
    }
}

/// A deletion by deadline has no order: its changes are compared as a set.
fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.iter_mut().for_each(|c| c.revision = 0);
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    changes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_backend_says_what_was_written(ops in prop::collection::vec(op(), 1..25)) {
        let dir = Dir::new("model");
        let path = dir.at("s.db");
        let (memory, mut sqlite, mut model) = (Memory::new(), Sqlite::open(&path).unwrap(), Model::default());
        for op in &ops {
            match op {
                Op::Write(writes) => {
                    let steps = model.steps(writes);
                    let want = model.write(&steps);
                    for store in [&memory as &dyn Store, &sqlite] {
                        let got = match store.write(&steps) {
                            Ok(revision) => Ok(revision),
                            Err(StoreError::Conflict { key, found }) => Err((key, found)),
                            Err(e) => panic!("{e}"),
                        };
                        prop_assert_eq!(&got, &want, "{:?} of {:?}", store, steps);
                    }
                }
                Op::Expire(now) => {
                    let (before, due) = (model.revision(), model.expire(*now));
                    let mut told = Vec::new();
                    for store in [&memory as &dyn Store, &sqlite] {
                        prop_assert_eq!(store.expire(*now).unwrap(), due);
                        told.push(store.changes("", before, 100, Duration::ZERO).unwrap());
                    }
                    prop_assert_eq!(sorted(told[0].clone()), sorted(told[1].clone()));
                    prop_assert_eq!(told[0].iter().filter(|c| c.value.is_none()).count(), due);
                    // The order is each backend's own; from here on the model goes by that of the memory.
                    model.changes.extend(told.swap_remove(0));
                }
                Op::Restart => {
                    drop(sqlite);
                    sqlite = Sqlite::open(&path).unwrap();
                }
            }
            for prefix in PREFIXES {
                let want: Vec<Entry> = model.entries.values().filter(|e| e.key.starts_with(prefix)).cloned().collect();
                for store in [&memory as &dyn Store, &sqlite] {
                    let (got, revision) = store.list(prefix).unwrap();
                    prop_assert_eq!(&got, &want, "{:?} below {:?}", store, prefix);
                    prop_assert_eq!(revision, model.revision());
                }
            }
            for key in KEYS {
                for store in [&memory as &dyn Store, &sqlite] {
                    let got = store.get(key).unwrap();
                    prop_assert_eq!(got.as_ref(), model.entries.get(key), "{}", key);
                }
            }
        }
        // Changes since any moment, cut anywhere.
        for (prefix, since) in PREFIXES.iter().zip(0u64..).map(|(p, n)| (p, n * 3)) {
            let want: Vec<&Change> = model.changes.iter().filter(|c| c.revision > since && c.key.starts_with(prefix)).collect();
            let got = memory.changes(prefix, since, 5, Duration::ZERO).unwrap();
            prop_assert_eq!(got.iter().collect::<Vec<_>>(), want.into_iter().take(5).collect::<Vec<_>>());
            let theirs = sqlite.changes(prefix, since, 100, Duration::ZERO).unwrap();
            let ours = memory.changes(prefix, since, 100, Duration::ZERO).unwrap();
            prop_assert_eq!(theirs.len(), ours.len());
            prop_assert!(theirs.windows(2).all(|w| w[0].revision < w[1].revision));
        }
    }
}
