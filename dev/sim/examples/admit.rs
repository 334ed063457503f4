//! What one decision costs. In: nothing. Out: a Markdown table of nanoseconds of thread CPU time per `View::judge`, and
//! milliseconds to build a list, at 10 to a million prefixes. Run by `cargo xtask bench admit`.
//!
//! Lists: IPv4 30 % /32, 65 % /24, 5 % /20; IPv6 25 % /128, 30 % /64, 25 % /48, 20 % /32 to /47 inside 4096 /32s of
//! 2000::/3. Probes: 65,536 in random order, a table for those inside and one for those outside.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that fails has no figures")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};

use access::{List, Service, View, ViewBuilder};
use addr::{Addr, AddrSet, Prefix};

/// Counts allocations, to show that a decision makes none.
struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from `alloc` above with this layout.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Odd, so that the median is one of them.
const ROUNDS: usize = 7;
const PROBES: usize = 65_536;

fn main() {
    println!("| prefixes | IPv4 hit ns | IPv4 miss ns | IPv6 hit ns | IPv6 miss ns | build IPv4 ms | build IPv6 ms |");
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for n in [10, 1_000, 100_000, 1_000_000] {
        let (v4, v6) = (list(n, random_v4), list(n, random_v6));
        let (build4, build6) = (build_ms(&v4), build_ms(&v6));
        let (view4, view6) = (view(v4.clone()), view(v6.clone()));
        let cost = |view: &View, probes: &[Addr]| lookup_ns(view, probes);
        println!(
            "| {n} | {:.1} | {:.1} | {:.1} | {:.1} | {build4:.1} | {build6:.1} |",
            cost(&view4, &inside(&v4)),
            cost(&view4, &outside(&view4, random_v4)),
            cost(&view6, &inside(&v6)),
            cost(&view6, &outside(&view6, random_v6)),
        );
    }
}

/// A generator of its own, so that every run asks the same (xorshift64*, Vigna 2016).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.roll() >> 33) % n
    }
}

fn list(n: usize, random: fn(&mut Dice) -> Prefix) -> Vec<Prefix> {
    let mut dice = Dice(42);
    (0..n).map(|_| random(&mut dice)).collect()
}

fn random_v4(dice: &mut Dice) -> Prefix {
    let ip = IpAddr::V4(Ipv4Addr::from((dice.roll() >> 32) as u32));
    let len = match dice.below(100) {
        0..30 => 32,
        30..95 => 24,
        _ => 20,
    };
    Prefix::new(Addr::new(ip), len).unwrap()
}

fn random_v6(dice: &mut Dice) -> Prefix {
    let site = dice.below(4096);
    // 4096 /32s spread over 2000::/3.
    let top = 0x2000_0000 | (site.wrapping_mul(0x9E37_79B9) & 0x1fff_ffff);
    let rest = u128::from(dice.roll()) << 32 | u128::from(dice.roll() >> 32);
    let ip = IpAddr::V6(Ipv6Addr::from(u128::from(top) << 96 | rest));
    let len = match dice.below(100) {
        0..25 => 128,
        25..55 => 64,
        55..80 => 48,
        _ => 32 + dice.below(16) as u8,
    };
    Prefix::new(Addr::new(ip), len).unwrap()
}

/// An address inside a random prefix of the list, for each probe.
fn inside(list: &[Prefix]) -> Vec<Addr> {
    let mut dice = Dice(7);
    (0..PROBES)
        .map(|_| {
            let p = list[dice.below(list.len() as u64) as usize];
            let noise = u128::from(dice.roll()) << 64 | u128::from(dice.roll());
            let host = p.last().bits() ^ p.first().bits();
            p.first().with_bits(p.first().bits() | (noise & host))
        })
        .collect()
}

/// Addresses of the same spread that no prefix holds.
fn outside(view: &View, random: fn(&mut Dice) -> Prefix) -> Vec<Addr> {
    let mut dice = Dice(1_000_003);
    let mut out = Vec::with_capacity(PROBES);
    // Sites are covered whole at a million IPv6 prefixes: unused ones are asked then.
    let mut tries = 0;
    while out.len() < PROBES {
        tries += 1;
        let p = random(&mut dice).first();
        let addr = if tries > 4 * PROBES && !p.is_v4() {
            p.with_bits(p.bits() ^ 1 << 125 ^ u128::from(dice.roll()) << 61 >> 4)
        } else {
            p
        };
        if !view.judge(&Service::Data, addr).is_allow() {
            out.push(addr);
        }
    }
    out
}

fn view(prefixes: Vec<Prefix>) -> View {
    let mut b = ViewBuilder::default();
    b.add(List { name: "data".to_string(), set: AddrSet::new(prefixes), source: "bench".to_string() });
    b.build(1)
}

fn lookup_ns(view: &View, probes: &[Addr]) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (start, allocated) = (cpu(), ALLOCATIONS.load(Ordering::Relaxed));
            for addr in probes {
                let _ = black_box(view.judge(&Service::Data, *black_box(addr)));
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), allocated, "a decision allocates nothing");
            (cpu() - start) * 1e9 / probes.len() as f64
        })
        .collect();
    median(&mut rounds)
}

fn build_ms(list: &[Prefix]) -> f64 {
    let mut rounds: Vec<f64> = (0..3)
        .map(|_| {
            let start = cpu();
            black_box(AddrSet::new(list.iter().copied()));
            (cpu() - start) * 1e3
        })
        .collect();
    median(&mut rounds)
}

fn median(rounds: &mut [f64]) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

/// CPU time of this thread in seconds: waiting for the other tenants of the machine does not count.
fn cpu() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}
