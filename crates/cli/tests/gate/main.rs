//! The gate as people run it: the built binary beside real proxies, packet filters, names and visitors. In: its
//! flags, environment and files. Out: the right address gets in, the wrong one does not, a revoked one is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod demo;
mod edge;
mod gatekeeper;
mod hostile;
mod import;
mod learn;
mod ledger;
mod names;
mod nftables;
mod promises;
mod proxies;
mod reload;
mod serve;
mod shares;
mod traefik;
mod trust;
