//! Drives `sim::fuzz::noise`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::noise(bytes));
