//! Drives `sim::fuzz::connect_strings`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::connect_strings(bytes));
