//! Two ends of the tunnel's multiplexer over a false network, and a model of what their users must see. In: a seed and a
//! number of steps. Out: what happened, or a panic that names the seed.
//!
//! The network delays, cuts bytes anywhere, reorders between connections, stalls and breaks them. Users read slowly or not
//! at all, let go early, and hand out bytes while something else happens. The model keeps, for each direction of each visit,
//! only how many bytes were sent and whether its end was said:
//! - every byte arrives once and in order; who sees the end has seen everything that was sent before it;
//! - nobody is reset without a reason of this world's making: a cut, a user that let go, too many waiting bytes;
//! - when the network is whole again, everything ends, and nothing is left over: no stream, no waiting byte, no dedicated
//!   connection that is counted and not there;
//! - honest ends never break the protocol; what waits stays within its bounds at any time.

mod ends;
mod hostile;
mod net;
mod visit;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tunnel_proto::mux::{Buffered, OUT_MAX, Pool, QUANTUM, StreamNumbers, WINDOW_MAX};

pub use self::hostile::hostile;

use self::ends::{Assigning, Carrier, Held, Link};
use self::net::{Pattern, Rng};
use self::visit::Visit;

/// The edge's place in pairs.
const EDGE: usize = 0;
/// The client's.
const CLIENT: usize = 1;

/// Shared connections of the session.
const CARRIERS: usize = 2;

/// Visits at the same time.
const VISITS: usize = 24;

/// What happened in a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Streams opened.
    pub visits: u64,
    /// Streams of which both ends saw both directions end.
    pub whole: u64,
    /// Streams that were reset, each for a reason.
    pub reset: u64,
    /// Times a dedicated connection was bound to a stream at both ends.
    pub bound: u64,
    /// Times one came back and was used again.
    pub reused: u64,
    /// Connections that were cut or fell silent.
    pub cuts: u64,
    /// Bytes that reached their user.
    pub bytes: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, o: Tally) {
        self.visits += o.visits;
        self.whole += o.whole;
        self.reset += o.reset;
        self.bound += o.bound;
        self.reused += o.reused;
        self.cuts += o.cuts;
        self.bytes += o.bytes;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} streams ({} whole, {} reset), {} times on a dedicated connection ({} again), {} connections broken, {} MB",
            self.visits,
            self.whole,
            self.reset,
            self.bound,
            self.reused,
            self.cuts,
            self.bytes / 1_000_000
        )
    }
}

/// One run. Every third seed has a network without faults, where no stream may be reset but by its users; every fifth
/// has little memory for waiting bytes.
///
/// # Panics
/// A promise was broken; the message names the seed.
#[must_use]
pub fn run(seed: u64, steps: usize) -> Tally {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    world.drain();
    world.tally
}

struct World {
    seed: u64,
    rng: Rng,
    /// Milliseconds.
    now: u64,
    base: Instant,
    pattern: Pattern,
    /// Of the edge's process and of the client's.
    buffered: [Arc<Buffered>; 2],
    numbers: [Arc<StreamNumbers>; 2],
    carriers: Vec<Carrier>,
    /// The newest shared connection of each number.
    current: [usize; CARRIERS],
    links: Vec<Link>,
    pool: Pool<Held>,
    /// Dedicated connections that the pool dropped and the world has yet to close.
    dropped: Rc<RefCell<Vec<usize>>>,
    swept: u64,
    /// When dedicated connections arrive that the client is dialling.
    dials: Vec<u64>,
    assigning: Vec<Assigning>,
    visits: Vec<Visit>,
    /// Visits that are not over at both ends.
    active: Vec<usize>,
    faults: bool,
    tally: Tally,
}

/// Fails with the seed and the time.
macro_rules! broken {
    ($world:expr, $($words:tt)*) => {
        panic!("seed {} at {} ms: {}", $world.seed, $world.now, format_args!($($words)*))
    };
}
use broken;

impl World {
    fn new(seed: u64) -> World {
        let base = Instant::now();
        let most = if seed % 5 == 4 { 300_000 } else { 1 << 40 };
        let mut world = World {
            seed,
            rng: Rng::new(seed),
            now: 0,
            base,
            pattern: Pattern::new(),
            buffered: [Arc::new(Buffered::new(most)), Arc::new(Buffered::new(most))],
            numbers: Default::default(),
            carriers: vec![],
            current: [0; CARRIERS],
            links: vec![],
            pool: Pool::new(base),
            dropped: Rc::default(),
            swept: 0,
            dials: vec![5; tunnel_proto::mux::pool::WARM as usize],
            assigning: vec![],
            visits: vec![],
            active: vec![],
            faults: seed % 3 != 2,
            tally: Tally::default(),
        };
        for number in 0..CARRIERS {
            world.connect(number);
        }
        world
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_millis(self.now)
    }

    /// Something happens.
    fn step(&mut self) {
        match self.rng.below(100) {
            0..=39 => self.some_user(),
            40..=79 => {
                let c = self.some_carrier();
                let end = self.rng.below(2);
                if self.rng.once_in(2) { self.transmit(c, end) } else { self.receive(c, end) }
            }
            80..=85 => {
                if !self.links.is_empty() {
                    let link = self.rng.below(self.links.len());
                    self.idle_link(link);
                }
            }
            86..=89 => self.go_on_assigning(),
            90..=94 => {
                let pause = self.rng.below(4) as u64;
                self.pass(pause);
            }
            95..=97 => {
                if self.active.len() < VISITS {
                    self.open();
                }
            }
            _ => self.rare(),
        }
    }

    fn rare(&mut self) {
        match self.rng.below(40) {
            0..=3 => {
                // Nothing happens for a while, on the network that is.
                self.settle();
                let pause = 200 + self.rng.below(1500) as u64;
                self.pass(pause);
            }
            4 => {
                for _ in 0..4 {
                    self.settle();
                    self.pass(4_000);
                }
            }
            5..=9 => self.stall(),
            10..=12 if self.faults => self.cut_link(),
            13 if self.faults => self.cut_carrier(),
            14 if self.faults && self.rng.once_in(6) => self.silence_carrier(),
            _ => self.check(),
        }
    }

    fn some_user(&mut self) {
        if self.active.is_empty() {
            return;
        }
        let at = self.rng.below(self.active.len());
        let (visit, end) = (self.active[at], self.rng.below(2));
        self.act(visit, end);
    }

    /// The newest connections mostly; those that were replaced must not be forgotten.
    fn some_carrier(&mut self) -> usize {
        if self.rng.once_in(8) {
            return self.rng.below(self.carriers.len());
        }
        let number = self.rng.below(CARRIERS);
        self.current[number]
    }

    /// Time passes.
    fn pass(&mut self, ms: u64) {
        self.now += ms;
        self.timeouts();
    }

    /// What is under way on shared connections arrives: none of them is ever far behind.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            for c in 0..self.carriers.len() {
                for end in [EDGE, CLIENT] {
                    self.transmit(c, end);
                    self.receive(c, end);
                    self.receive(c, end);
                }
            }
            self.go_on_assigning();
            for link in 0..self.links.len() {
                self.idle_link(link);
            }
            self.pass(2);
            if self.carriers.iter().all(|c| c.is_quiet(self.now)) {
                return;
            }
        }
        broken!(self, "a shared connection never falls silent");
    }

    /// The network is whole, nobody comes any more, users take what there is: everything ends and nothing is left.
    fn drain(&mut self) {
        self.faults = false;
        for visit in &mut self.visits {
            visit.hurry();
        }
        let patience = self.now + 600_000;
        while !self.active.is_empty() {
            self.settle();
            for visit in self.active.clone() {
                for _ in 0..4 {
                    self.act(visit, EDGE);
                    self.act(visit, CLIENT);
                }
            }
            self.pass(20);
            if self.now > patience {
                let left: Vec<_> = self.active.iter().map(|v| self.picture(*v)).collect();
                broken!(self, "these never end: {left:?}");
            }
        }
        for _ in 0..40 {
            self.settle();
            self.pass(2_000);
        }
        self.check();
        self.check_nothing_left();
    }

    /// Bounds that hold at any time.
    fn check(&mut self) {
        let mut waiting = [0, 0];
        for c in &mut self.carriers {
            for end in [EDGE, CLIENT] {
                let (queued, load) = (c.ends[end].conn.queued(), c.ends[end].conn.load());
                waiting[end] += queued;
                if queued > load * WINDOW_MAX as usize {
                    broken!(self, "{queued} bytes wait in {load} streams");
                }
                if c.ends[end].most > OUT_MAX + 2 * QUANTUM {
                    broken!(self, "{} bytes waited to be sent", c.ends[end].most);
                }
            }
        }
        for end in [EDGE, CLIENT] {
            let counted = self.buffered[end].bytes();
            if counted != waiting[end] as u64 {
                broken!(self, "{counted} bytes are counted, {} wait", waiting[end]);
            }
        }
        let (known, asked) = self.pool.counts();
        if known > tunnel_proto::mux::pool::MAX || asked > known {
            broken!(self, "the pool knows {known} and waits for {asked}");
        }
    }

    fn check_nothing_left(&mut self) {
        for c in &self.carriers {
            for end in [EDGE, CLIENT] {
                if c.ends[end].conn.load() > 0 {
                    broken!(self, "{} streams are left over", c.ends[end].conn.load());
                }
            }
        }
        if self.buffered.iter().any(|b| b.bytes() > 0) {
            broken!(self, "bytes wait for nobody");
        }
        let live = self.links.iter().filter(|l| l.is_live(EDGE)).count();
        let (known, asked) = self.pool.counts();
        if (known as usize, asked) != (live, 0) {
            broken!(self, "the pool knows {known} and waits for {asked}; {live} are there");
        }
        for (i, link) in self.links.iter().enumerate() {
            if link.is_live(EDGE) != link.is_live(CLIENT) {
                broken!(self, "only one end has dedicated connection {i}: {link:?}");
            }
        }
    }
}
