//! Ports nobody uses. In: nothing. Out: numbers below the range that outgoing connections take, so that a port stays
//! free between the moment it is chosen and the moment a child binds it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Above what services use by habit, below Linux's first ephemeral port (32768).
const RANGE: std::ops::Range<u32> = 11_000..32_000;

/// A port that is free on all addresses right now and is handed out once by this process.
#[must_use]
pub fn free() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let size = RANGE.end - RANGE.start;
    if NEXT.load(Ordering::Relaxed) == 0 {
        // Processes start at different places, so that two test runs beside each other rarely meet.
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
        let start = (clock / 1000).wrapping_add(std::process::id().wrapping_mul(7919)) % size;
        let _ = NEXT.compare_exchange(0, start + 1, Ordering::Relaxed, Ordering::Relaxed);
    }
    for _ in 0..size {
        let port = (RANGE.start + NEXT.fetch_add(1, Ordering::Relaxed) % size) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() && TcpListener::bind(("::", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between {} and {}", RANGE.start, RANGE.end);
}

/// A port on 127.0.0.1.
#[must_use]
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Waits until somebody accepts at `addr`.
///
/// # Errors
/// The last reason why not.
pub fn wait(addr: SocketAddr, limit: Duration) -> Result<(), String> {
    crate::eventually(limit, || {
        TcpStream::connect_timeout(&addr, Duration::from_secs(1))
            .map(drop)
            .map_err(|e| format!("nobody accepts at {addr}: {e}"))
    })
}
