//! The edge's planes in one process: HTTP against raw visitors and upstreams made here, whose router connects to them
//! directly, and TCP through an edge and a client.
#![allow(unreachable_pub, reason = "what suites share is written as if for other crates")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod bodies;
mod bounds;
mod door;
mod h2;
mod readers;
mod routing;
mod smuggling;
mod tcp;
mod timeouts;
mod world;
