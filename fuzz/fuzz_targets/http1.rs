//! Drives `sim::fuzz::http1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::http1(bytes));
