//! Sockets, TLS, links, dialling, secrets. In: addresses and settings that were decided elsewhere. Out: connections that
//! move bytes. Decides nothing, judges nobody.

pub mod budget;
pub mod buffers;
#[cfg(target_os = "linux")]
pub mod conntrack;
pub mod dial;
pub mod dns;
pub mod environment;
pub mod guesses;
pub mod link;
pub mod log_budget;
pub mod memory;
#[cfg(target_os = "linux")]
mod netlink;
#[cfg(target_os = "linux")]
pub mod nftables;
pub mod replace;
pub mod secret;
pub mod serve;
pub mod sockets;
pub mod stall;
pub mod tls;
