//! Buffers for busy streams, none for idle ones. In: a need. Out: this thread's scratch buffer, or a leased one.

use std::cell::RefCell;
use std::sync::LazyLock;

use parking_lot::Mutex;

/// Most bytes moved at once. 256 KiB halves the CPU per GiB against 8 KiB; beyond it nothing is gained (measured on
/// loopback; `docs/bench`).
pub const BULK: usize = 256 * 1024;

/// A leased buffer holds [`BULK`] bytes and what TLS and framing add to them.
const LEASE: usize = BULK + 4096;

/// Spare leased buffers kept for reuse: 32 × 260 KiB = 8 MiB at the most after a burst.
const SPARE: usize = 32;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

static POOL: LazyLock<Mutex<Vec<Vec<u8>>>> = LazyLock::new(|| Mutex::new(Vec::new()));

/// Lends this thread's scratch buffer to `f`: [`BULK`] bytes and 4 KiB for heads. Its content is whatever was there;
/// nested calls get a buffer of their own.
pub fn with_scratch<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with(|cell| match cell.try_borrow_mut() {
        Ok(mut buf) => {
            if buf.is_empty() {
                buf.resize(LEASE, 0);
            }
            f(&mut buf)
        }
        Err(_) => f(&mut vec![0; LEASE]),
    })
}

/// A buffer that takes memory only while it holds bytes. Bytes are never cleared, only overwritten: clearing 256 KiB
/// for each write would cost as much as encrypting them.
#[derive(Default)]
pub struct Lease {
    buf: Vec<u8>,
    end: usize,
}

impl Lease {
    /// A buffer without memory.
    #[must_use]
    pub const fn new() -> Lease {
        Lease { buf: Vec::new(), end: 0 }
    }

    /// The bytes in it.
    #[must_use]
    pub fn filled(&self) -> &[u8] {
        &self.buf[..self.end]
    }

    /// The bytes in it.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.buf[..self.end]
    }

    /// True if it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Appends bytes.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    /// At least `need` bytes behind those in it, to be written and then counted by [`Lease::advance`].
    pub fn space(&mut self, need: usize) -> &mut [u8] {
        if self.buf.is_empty() {
            self.buf = POOL.lock().pop().unwrap_or_else(|| vec![0; LEASE]);
        }
        if self.buf.len() < self.end + need {
            self.buf.resize(self.end + need, 0);
        }
        &mut self.buf[self.end..]
    }

    /// Counts `n` bytes written to [`Lease::space`].
    pub fn advance(&mut self, n: usize) {
        self.end = (self.end + n).min(self.buf.len());
    }

    /// Forgets the bytes and gives the memory back.
    pub fn release(&mut self) {
        self.end = 0;
        let buf = std::mem::take(&mut self.buf);
        if (LEASE..=2 * LEASE).contains(&buf.len()) {
            let mut pool = POOL.lock();
            if pool.len() < SPARE {
                pool.push(buf);
            }
        }
    }

    /// Forgets the bytes, keeps the memory.
    pub fn clear(&mut self) {
        self.end = 0;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.buf.is_empty() {
            self.release();
        }
    }
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({} bytes)", self.end)
    }
}
