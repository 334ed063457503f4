//! What strangers can make the HTTP plane hold; a process of its own, since other tests measure their memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::large_futures, missing_docs, unreachable_pub)]

mod bounds;
#[path = "../http_plane/world.rs"]
#[allow(dead_code)] // Each suite uses its part of it.
mod world;
