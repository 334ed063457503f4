//! The wall clock. In: nothing. Out: seconds since the Unix epoch; the rooms' owners hand it to `decide`, which has no clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch by the wall clock; 0 for a clock that is set before it.
#[must_use]
pub fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
