//! A false network for the multiplexer: bytes that arrive late, in pieces, in order, or not at all. In: bytes and a seed.
//! Out: the same bytes, later.

use std::collections::VecDeque;

/// Numbers that only look random: the same seed gives the same numbers everywhere (splitmix64, Steele et al. 2014).
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// One direction of a connection.
#[derive(Debug)]
pub(super) struct Pipe {
    /// Pieces on their way: when they arrive, and the bytes.
    flight: VecDeque<(u64, Vec<u8>)>,
    len: usize,
    room: usize,
    last: u64,
    /// Nothing arrives before then.
    pub(super) stalled: u64,
    closed: bool,
    /// The other end takes no more bytes: they vanish.
    deaf: bool,
}

/// What a read gives.
#[derive(Debug)]
pub(super) enum Got {
    Bytes(Vec<u8>),
    Nothing,
    End,
}

impl Pipe {
    pub(super) fn new(room: usize) -> Pipe {
        Pipe { flight: VecDeque::new(), len: 0, room, last: 0, stalled: 0, closed: false, deaf: false }
    }

    /// Takes what it has room for, as a socket does; says how much.
    pub(super) fn write(&mut self, bytes: &[u8], now: u64, rng: &mut Rng) -> usize {
        if self.deaf || self.closed {
            return bytes.len();
        }
        let n = bytes.len().min(self.room - self.len);
        if n > 0 {
            let late = if rng.once_in(20) { rng.below(200) } else { rng.below(8) } as u64;
            self.last = self.last.max(now + late);
            self.len += n;
            self.flight.push_back((self.last, bytes[..n].to_vec()));
        }
        n
    }

    /// Some of what has arrived.
    pub(super) fn read(&mut self, now: u64, rng: &mut Rng) -> Got {
        let due = now >= self.stalled && self.flight.front().is_some_and(|(at, _)| *at <= now);
        if due && let Some((at, mut bytes)) = self.flight.pop_front() {
            if rng.once_in(4) && bytes.len() > 1 {
                let rest = bytes.split_off(1 + rng.below(bytes.len() - 1));
                self.flight.push_front((at, rest));
            }
            self.len -= bytes.len();
            return Got::Bytes(bytes);
        }
        if self.closed && self.flight.is_empty() { Got::End } else { Got::Nothing }
    }

    /// Its writer is gone: what is on its way still arrives.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// The network broke: what is on its way is lost.
    pub(super) fn cut(&mut self) {
        self.flight.clear();
        self.len = 0;
        self.closed = true;
    }

    /// Its reader is gone.
    pub(super) fn deafen(&mut self) {
        self.deaf = true;
        self.flight.clear();
        self.len = 0;
    }

    /// Bytes on their way.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

/// Byte `at` of a direction of a visit, for long runs of them at once.
#[derive(Debug)]
pub(super) struct Pattern(Vec<u8>);

/// No two offsets of a run this long look alike.
const PERIOD: usize = 65_521;

impl Pattern {
    pub(super) fn new() -> Pattern {
        let mut rng = Rng::new(1);
        let one: Vec<u8> = (0..PERIOD).map(|_| rng.next() as u8).collect();
        Pattern([&one[..], &one[..], &one[..]].concat())
    }

    /// `n` bytes from `at`, different for each `key`; `n` is at most 64 KiB.
    pub(super) fn at(&self, key: usize, at: usize, n: usize) -> &[u8] {
        let from = (key * 7919 + at) % PERIOD;
        &self.0[from..from + n]
    }
}
