//! Any bytes as a policy: reading ends and never panics; what is accepted compiles; layout is the same the second time.
#![no_main]

use decide::policy::{Compiled, Policy, Topology, format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let topology = Topology::read(include_str!("../../crates/decide/tests/golden/topology.json")).unwrap_or_default();
    if let Ok(policy) = Policy::parse(text) {
        let compiled = Compiled::new(policy.into(), topology.into());
        compiled.run_tests();
        compiled.to_json(None);
    }
    let _ = Topology::read(text);
    if let Ok(once) = format(text) {
        assert_eq!(format(&once).as_deref(), Ok(once.as_str()));
    }
});
