//! A map whose keys are stream numbers. In: a number. Out: its place.
//!
//! Every frame and every step of a stream's user looks one up, a dozen times a request; the standard hash, made to
//! withstand keys of strangers, would be a third of what the multiplexer costs. Only the edge gives numbers, in
//! sequence. One that would rather have them collide makes its own client walk through
//! [`STREAMS_MAX`](super::STREAMS_MAX) places of two bytes: some microseconds a frame.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by stream number.
pub(super) type NumberMap<V> = HashMap<u32, V, BuildHasherDefault<NumberHasher>>;

/// Fibonacci hashing: one multiplication, which leaves successive numbers apart in their low bits (the place) and in
/// their high bits (the tag that the map compares first).
#[derive(Debug, Default)]
pub(super) struct NumberHasher(u64);

/// 2^64 divided by the golden ratio; odd, so that no two numbers have the same hash.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for NumberHasher {
    fn write_u32(&mut self, number: u32) {
        self.0 = u64::from(number).wrapping_mul(GOLDEN);
    }

    /// Not for numbers; what else is hashed is hashed slowly and well enough.
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(GOLDEN));
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::BuildHasher as _;

    #[test]
    fn successive_numbers_and_those_a_power_of_two_apart_are_spread() {
        let hash = |n: u32| BuildHasherDefault::<NumberHasher>::default().hash_one(n);
        let places: BTreeSet<u64> = (5_000..6_024).map(|n| hash(n) & 1023).collect();
        assert_eq!(places.len(), 1024, "as many as there are");
        for step in [1, 2, 4] {
            let tags: BTreeSet<u64> = (0..128u32).map(|i| hash(77 + i * step) >> 57).collect();
            // Chance alone makes 81.
            assert!(tags.len() > 64, "{} of 128 at steps of {step}", tags.len());
        }
    }
}
