//! The built binary behind real proxies. In: Caddy, nginx, HAProxy, Traefik, CONNECT proxies. Out: proof that what a
//! user types works behind them. A peer that is not installed is said in one line and counted as skipped.

mod balancer;
mod behind;
mod corporate;
mod printed;
mod silence;
mod upstreams;

/// Addresses visitors come from: all of 127.0.0.0/8 is this machine.
const FRIEND: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 8);
