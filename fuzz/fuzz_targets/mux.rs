//! Drives `sim::fuzz::mux`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::mux(bytes));
