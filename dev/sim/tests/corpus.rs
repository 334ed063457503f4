//! Replays the committed corpora of `fuzz/` through their targets, then changes them a little and tries again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sim::fuzz::{TARGETS, Target};

/// The inputs of one target, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 5, "{} holds {} inputs", dir.display(), files.len());
    files.iter().map(|f| std::fs::read(f).unwrap()).collect()
}

#[test]
fn every_corpus_replays() {
    for (name, target) in TARGETS {
        for input in corpus(name) {
            target(&input);
        }
    }
}

#[test]
fn changed_inputs_break_no_promise() {
    for target in TARGETS {
        mutate(target);
    }
}

fn mutate((name, target): Target) {
    let seeds = corpus(name);
    let change = (0..seeds.len(), any::<prop::sample::Index>(), any::<u8>(), 0u8..4);
    let changes = proptest::collection::vec(change, 1..6);
    // The random numbers are fixed: a test that fails once fails always, and exploring is the fuzzer's work.
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 2_000, failure_persistence: None, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    runner
        .run(&changes, |changes| {
            let mut input = seeds[changes[0].0].clone();
            for (seed, at, byte, how) in changes {
                let at = at.index(input.len() + 1);
                match how {
                    0 => input.insert(at, byte),
                    1 if at < input.len() => input[at] = byte,
                    2 if at < input.len() => drop(input.remove(at)),
                    _ => {
                        let other = &seeds[seed];
                        let from = usize::from(byte) % (other.len() + 1);
                        input.splice(at..at, other[from..].iter().copied());
                    }
                }
            }
            target(&input);
            Ok(())
        })
        .unwrap();
}
