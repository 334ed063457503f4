//! The HTTP plane against raw visitors and upstreams made here; the router connects to them directly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::large_futures, missing_docs, unreachable_pub)]

mod bodies;
mod door;
mod h2;
mod readers;
mod routing;
mod smuggling;
mod timeouts;
mod world;
