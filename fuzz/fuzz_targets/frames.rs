//! Drives `sim::fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::frames(bytes));
