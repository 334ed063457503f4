//! Drives `sim::fuzz::proxy_lines`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::proxy_lines(bytes));
