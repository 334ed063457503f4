//! The HTTP plane against raw visitors and upstreams made here; the router connects to them directly.
#![allow(unreachable_pub, reason = "what suites share is written as if for other crates")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod bodies;
mod door;
mod h2;
mod readers;
mod routing;
mod smuggling;
mod timeouts;
mod world;
