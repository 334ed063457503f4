//! The corpus of the fuzzer, replayed by the ordinary tests: no input panics, and none takes long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "the bound is on time spent, which a test has to measure")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy::{Compiled, Policy, Topology, format};

/// Longest that one small file may take, in a build without optimisation on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn every_file_of_the_corpus() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let topology = Arc::new(Topology::read(include_str!("golden/topology.json")).unwrap());
    let mut seen = 0;
    for entry in std::fs::read_dir(root.join("../../fuzz/corpus/policy")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        seen += 1;
        let Ok(text) = std::str::from_utf8(&bytes) else { continue };
        let start = Instant::now();
        if let Ok(policy) = Policy::parse(text) {
            let compiled = Compiled::new(policy.into(), Arc::clone(&topology));
            assert!(compiled.to_json(None).is_object());
            assert_eq!(compiled.run_tests(), compiled.run_tests());
        }
        let _ = Topology::read(text);
        if let Ok(once) = format(text) {
            assert_eq!(format(&once).unwrap(), once, "{}", path.display());
        }
        assert!(start.elapsed() < BOUND, "{} took {:?}", path.display(), start.elapsed());
    }
    assert!(seen > 20, "the corpus is missing");
}
