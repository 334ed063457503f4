//! The multiplexer over a false network: seeds that everybody can run again, and a new one each time.

use sim::mux::{Tally, run};

#[test]
fn two_ends_over_a_false_network() {
    let mut all = Tally::default();
    for seed in 0..120 {
        all += run(seed, 6_000);
    }
    println!("{all}");
    // What is not met is not tested.
    assert!(all.whole > 500 && all.reset > 50 && all.bound > 100 && all.reused > 20 && all.cuts > 20, "{all}");
}
