//! The multiplexer over a false network, for as long as one likes. In: the first seed, how many, steps for each. Out: what
//! happened; a broken promise names its seed, which fails again the same way.
//!
//! `cargo run --release -p sim --example mux -- 1000 200 50000`

#![allow(clippy::print_stdout, reason = "it talks to a person")]

use sim::mux::{Tally, run};

fn main() {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let mut next = |default: u64| args.next().and_then(Result::ok).unwrap_or(default);
    let (first, count, steps) = (next(0), next(200), next(50_000));
    let begin = std::time::Instant::now();
    let mut all = Tally::default();
    for seed in first..first + count {
        all += run(seed, steps as usize);
    }
    let took = begin.elapsed().as_secs_f64();
    println!(
        "seeds {first} to {}, {} million steps in {took:.0} s: {all}",
        first + count - 1,
        count * steps / 1_000_000
    );
}
