//! The built binary behind real proxies. In: Caddy, nginx, HAProxy, Traefik, CONNECT proxies. Out: proof that what a
//! user types works behind them. A peer that is not installed is said in one line and counted as skipped.

mod balancer;
mod behind;
mod corporate;
mod printed;
mod silence;
mod upstreams;

/// The binary under test.
const BIN: &str = env!("CARGO_BIN_EXE_portcullis");

/// Addresses visitors come from: all of 127.0.0.0/8 is this machine.
const FRIEND: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 9);
const STRANGER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 8);

/// An edge without TLS of its own and a client that reaches it through a proxy in front.
struct Behind {
    // Dropped in this order: the visitor's side first.
    client: stage::edge::Client,
    proxy: stage::proxies::Proxy,
    edge: stage::edge::Edge,
}

impl Behind {
    /// `None` if the proxy is not installed.
    fn start(kind: stage::proxies::Kind, mode: stage::edge::Mode, server: &[&str], client: &[&str]) -> Option<Behind> {
        let edge = stage::edge::Edge::start(BIN, mode, false, server);
        let proxy = stage::proxies::Proxy::start(kind, edge.http, edge.control)?;
        let ca = proxy.ca.to_str().unwrap().to_string();
        let url = format!("wss://localhost:{}", proxy.control.port());
        let client = edge.client_at(&url, &[&["--auto-tls=false", "--ca-file", &ca], client].concat());
        Some(Behind { client, proxy, edge })
    }
}
