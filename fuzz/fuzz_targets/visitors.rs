//! Drives `sim::fuzz::visitors`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::visitors(bytes));
