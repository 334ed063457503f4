//! Drives `sim::fuzz::mesh_requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sim::fuzz::mesh_requests(bytes));
