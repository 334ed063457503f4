//! The tunnel as people run it: the built binary, its command line, real proxies around it, attackers, and the recipes
//! of the manual. In: arguments, requests, frames. Out: what visitors get, and that nobody else gets in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

mod cli;
mod conformance;
mod doctor;
mod hostile;
mod init;
mod logs;
mod printed;
