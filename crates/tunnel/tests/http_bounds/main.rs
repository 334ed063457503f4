//! What strangers can make the HTTP plane hold; a process of its own, since other tests measure their memory.
#![allow(unreachable_pub, reason = "what suites share is written as if for other crates")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod bounds;
#[path = "../http_plane/world.rs"]
#[allow(dead_code, reason = "each suite uses its part of it")]
mod world;
