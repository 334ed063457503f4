//! Tests that need something absent. In: what is missing. Out: one line for the reader and one for the count, or a
//! failure where every peer is required.

use std::io::Write;

/// Set to `1` by the test command with `--setup`: whatever is missing fails.
pub const REQUIRE: &str = "PORTCULLIS_REQUIRE_PEERS";
/// File that gets one line for each skipped test; set by the test command, which counts them.
pub const LOG: &str = "PORTCULLIS_SKIP_LOG";

/// Says that a test is skipped, and why. The caller returns at once.
///
/// # Panics
/// With `PORTCULLIS_REQUIRE_PEERS=1`.
pub fn skip(why: &str) {
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{why}, and every peer is required");
    skip_always(why);
}

/// Says the same where not even a full run has what is missing, because bringing it takes too long.
pub fn skip_always(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    // Written past the capture of the test harness: who reads the run must see it.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    if let Some(log) = std::env::var_os(LOG)
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(log)
    {
        let _ = writeln!(file, "{test}: {why}");
    }
}
