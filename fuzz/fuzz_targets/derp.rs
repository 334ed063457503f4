//! Drives `sim::fuzz::derp`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::derp(bytes));
