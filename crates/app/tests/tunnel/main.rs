//! The tunnel as people run it: the built binary, its command line, real proxies around it, attackers, and the recipes
//! of the manual. In: arguments, requests, frames. Out: what visitors get, and that nobody else gets in.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cli;
mod conformance;
mod hostile;
mod printed;
