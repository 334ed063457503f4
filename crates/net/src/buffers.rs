//! Buffers for busy streams, none for idle ones. In: a need. Out: a buffer of this thread, or a leased one.

use std::cell::RefCell;
use std::sync::LazyLock;

use parking_lot::Mutex;

/// Size of a bulk buffer. 256 KiB halves the CPU per GiB against 8 KiB; beyond it nothing is gained (measured on
/// loopback; `docs/bench`).
pub const BULK: usize = 256 * 1024;

/// Spare leased buffers kept for reuse: 32 × 256 KiB = 8 MiB at the most after a burst.
const SPARE: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static POOL: LazyLock<Mutex<Vec<Vec<u8>>>> = LazyLock::new(|| Mutex::new(Vec::new()));

/// Lends this thread's scratch buffer of [`BULK`] bytes to `f`. Its content is whatever was there; nested calls get a
/// buffer of their own.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buf) => {
            if buf.is_empty() {
                buf.resize(BULK, 0);
            }
            f(&mut buf)
        }
        Err(_) => f(&mut vec![0; BULK]),
    })
}

/// A leased buffer; goes back when dropped.
#[derive(Debug, Default)]
pub struct Lease(Vec<u8>);

impl Lease {
    /// An empty buffer with room for about [`BULK`] bytes.
    #[must_use]
    pub fn take() -> Lease {
        let mut buf = POOL.lock().pop().unwrap_or_else(|| Vec::with_capacity(BULK + 1024));
        buf.clear();
        Lease(buf)
    }

    /// The buffer.
    pub fn vec(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let capacity = self.0.capacity();
        if (BULK..=2 * BULK).contains(&capacity) {
            let mut pool = POOL.lock();
            if pool.len() < SPARE {
                pool.push(std::mem::take(&mut self.0));
            }
        }
    }
}
