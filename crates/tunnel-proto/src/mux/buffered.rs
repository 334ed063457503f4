//! Bytes that wait for slow sockets, counted for many connections together. In: bytes that came to wait or left. Out:
//! how many wait.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counter; all connections of a process share one.
#[derive(Debug)]
pub struct Buffered {
    bytes: AtomicU64,
    max: u64,
}

impl Buffered {
    /// A counter of at most about `max` bytes.
    #[must_use]
    pub const fn new(max: u64) -> Buffered {
        Buffered { bytes: AtomicU64::new(0), max }
    }

    /// Bytes that wait now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Counts `n` bytes. False, and not counted, if the limit was passed before and `refusable`.
    pub(super) fn add(&self, n: usize, refusable: bool) -> bool {
        let before = self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        if before > self.max && refusable {
            self.sub(n);
            return false;
        }
        true
    }

    /// `n` bytes wait no more.
    pub(super) fn sub(&self, n: usize) {
        self.bytes.fetch_sub(n as u64, Ordering::Relaxed);
    }

    /// True while there is so much room that windows may grow.
    pub(super) fn is_roomy(&self) -> bool {
        self.bytes() < self.max / 2
    }
}
