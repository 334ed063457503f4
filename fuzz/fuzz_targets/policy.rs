//! Any bytes as a policy: reading ends and never panics; what is accepted compiles; layout is the same the second time;
//! what changes can be said, and nothing changes where nothing differs.
#![no_main]

use std::sync::Arc;

use policy::{Compiled, Policy, Topology, diff, format};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let topology = Topology::read(include_str!("../../crates/decide/tests/golden/topology.json")).unwrap_or_default();
    if let Ok((policy, tolerated)) = Policy::parse_in_force(text) {
        assert_eq!(tolerated.is_empty(), Policy::parse(text).is_ok());
        let topology = Arc::new(topology);
        let open = Compiled::new(Policy::default().into(), topology.clone());
        let compiled = Compiled::new(policy.into(), topology);
        compiled.run_tests();
        compiled.to_json(None);
        compiled.notes();
        diff(&open, &compiled);
        assert!(diff(&compiled, &compiled).changes.is_empty());
    }
    let _ = Topology::read(text);
    if let Ok(once) = format(text) {
        assert_eq!(format(&once).as_deref(), Ok(once.as_str()));
    }
});
