//! What both ways to configure a gate share, its file and Gatekeeper's environment: defaults, and whom it believes.

use access::publish::IpStrategy;
use addr::{AddrSet, Prefix};

use super::Notes;

/// A phone that reports to its home every quarter of an hour stays; one that is gone for a week does not.
pub(crate) const TTL: u64 = 7 * 86_400;
/// A guest looks at an album today.
pub(crate) const SHARE_TTL: u64 = 86_400;
/// Docker's networks, the own host, a home network: where a proxy in front usually is.
const PRIVATE: [&str; 8] =
    ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10"];

/// Guests of one list: each new one on a full list is compared with all of them.
pub(crate) const MAX_GUESTS: usize = 10_000;

/// The public proxies among the trusted ones, as Traefik is to pass them over; said, since who reaches Traefik past them
/// is refused from then on.
pub(crate) fn in_front(trusted: &AddrSet, own: &AddrSet, notes: &Notes) -> Option<IpStrategy> {
    let prefixes = trusted.prefixes();
    let public: Vec<Prefix> = prefixes
        .iter()
        .filter(|p| p.bits() > 0 && !p.first().is_private() && !own.contains(p.first()))
        .copied()
        .collect();
    if public.is_empty() {
        return None;
    }
    notes.info(
        "Traefik's list reads X-Forwarded-For, since trusted proxies stand in front of it; it refuses who comes past them (TRAEFIK_EXCLUDED_IPS=none, or excluded_ips = [\"none\"], if there are none)"
    );
    Some(IpStrategy::Excluded(public))
}

/// Loopback and private ranges.
pub(crate) fn private_proxies() -> AddrSet {
    AddrSet::new(PRIVATE.iter().filter_map(|p| p.parse().ok()))
}

/// Says whom the gate believes when nobody told it.
pub(crate) fn say_private_proxies(switch: &str, notes: &Notes) {
    notes.info(format!(
        "X-Forwarded-For is believed from loopback and private ranges ({}); {switch} names others",
        PRIVATE.join(", ")
    ));
}
