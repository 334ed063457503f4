//! What requests said of the surroundings. In: observations. Out: the recent ones, each once for a source, for `doctor`,
//! `explain` and the log. Bounded, whatever untrusted peers send.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use access::certificate::NoProof;
use access::visitor::{AddressHeader, TraceError};
use addr::{Addr, SourceKey};
use net::log_budget::LogBudget;
use parking_lot::Mutex;

use super::asked::{LEARN, Peer, Sign, Unknown};

/// Something that a request showed and that a person may have to mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// A peer that is no trusted proxy asked or proved something.
    UntrustedPeer(Addr),
    /// A trusted proxy says no address.
    NoAddress(Peer, AddressHeader),
    /// A trusted proxy says an address that cannot be read.
    Unreadable(Peer, TraceError),
    /// The address is a proxy's, through which others come too.
    SecondProxy(Addr, Sign),
    /// Visitors come from an address that routers and networks of containers have themselves.
    Gateway(Addr),
    /// Visitors come from this machine itself: a tunnel or a proxy on it that hides them.
    Loopback(Addr),
    /// A private address proved itself, and its list does not learn those.
    PrivateProof(Addr),
    /// Visitors reach Traefik through a trusted proxy, and Traefik's list looks at who connects.
    HopBeforeTraefik(Addr),
    /// A trusted proxy appends the visitor's path to the endpoint's.
    PathBelow(Peer, &'static str),
    /// A trusted proxy asks at an endpoint for a list that is not there: the path's list, shortened, and those that are.
    NoList(Peer, &'static str, String, String),
    /// A trusted proxy sends a certificate in a form that proves nothing.
    Certificate(Peer, NoProof),
    /// A trusted proxy passes on what no certificate can stand behind: it came without TLS, or to a container's own site.
    OpenSite(Peer),
    /// A source has all the connections that it may have.
    Crowded(Addr),
}

/// Observations of one kind that are kept; proxies are a few.
const MAX_PER_KIND: usize = 64;
/// How long one is kept after it was seen last: phones report every quarter of an hour.
const RETENTION: Duration = Duration::from_secs(3_600);
/// The same is said again in the log after this long.
const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(600);

/// The observations of late.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    kept: Mutex<BTreeMap<(u8, Option<SourceKey>), Kept>>,
    lines: LogBudget,
}

#[derive(Debug)]
struct Kept {
    what: Observation,
    seen: Instant,
    said: Instant,
}

impl Observations {
    /// Keeps an observation. `say` is called if it is worth a line in the log, with the number of lines held back.
    pub(crate) fn note(&self, what: Observation, now: Instant, say: impl FnOnce(&Observation, u64)) {
        let key = what.key();
        {
            let mut kept = self.kept.lock();
            if let Some(k) = kept.get_mut(&key) {
                k.seen = now;
                k.what = what.clone();
                if now.duration_since(k.said) < LOG_REPEAT_INTERVAL {
                    return;
                }
                k.said = now;
            } else {
                kept.retain(|_, k| now.duration_since(k.seen) < RETENTION);
                // The first ones stay: a flood of sources hides none of them.
                if kept.range((key.0, None)..).take_while(|(k, _)| k.0 == key.0).count() >= MAX_PER_KIND {
                    return;
                }
                kept.insert(key, Kept { what: what.clone(), seen: now, said: now });
            }
        }
        if let Some(held_back) = self.lines.spend(now) {
            say(&what, held_back);
        }
    }

    /// What was seen within the last hour.
    #[must_use]
    pub(crate) fn recent(&self, now: Instant) -> Vec<Observation> {
        let kept = self.kept.lock();
        kept.values().filter(|k| now.duration_since(k.seen) < RETENTION).map(|k| k.what.clone()).collect()
    }
}

impl Observation {
    /// The kind, and the source that it is about.
    fn key(&self) -> (u8, Option<SourceKey>) {
        let peer = |p: &Peer| match p {
            Peer::Tcp(addr) => Some(SourceKey::of(*addr)),
            Peer::Socket => None,
        };
        let of = |addr: &Addr| Some(SourceKey::of(*addr));
        match self {
            Observation::UntrustedPeer(a) => (0, of(a)),
            Observation::NoAddress(p, _) => (1, peer(p)),
            Observation::Unreadable(p, _) => (2, peer(p)),
            Observation::SecondProxy(a, _) => (3, of(a)),
            Observation::Gateway(a) => (4, of(a)),
            Observation::Loopback(a) => (5, of(a)),
            Observation::PrivateProof(a) => (6, of(a)),
            Observation::HopBeforeTraefik(a) => (7, of(a)),
            Observation::PathBelow(p, _) => (8, peer(p)),
            Observation::Certificate(p, _) => (9, peer(p)),
            Observation::Crowded(a) => (10, of(a)),
            Observation::NoList(p, ..) => (11, peer(p)),
            Observation::OpenSite(p) => (12, peer(p)),
        }
    }

    /// True if it bears on what becomes of a visitor from this address: it is about it, or about a proxy through which
    /// anybody may come.
    #[must_use]
    pub fn concerns(&self, addr: Addr) -> bool {
        match self {
            Observation::NoAddress(..)
            | Observation::Unreadable(..)
            | Observation::PathBelow(..)
            | Observation::NoList(..)
            | Observation::OpenSite(_) => true,
            Observation::SecondProxy(at, Sign::Header(_, named)) => *at == addr || *named == addr,
            Observation::UntrustedPeer(a)
            | Observation::SecondProxy(a, Sign::Entries | Sign::Trusted)
            | Observation::Gateway(a)
            | Observation::Loopback(a)
            | Observation::PrivateProof(a)
            | Observation::HopBeforeTraefik(a)
            | Observation::Crowded(a) => *a == addr,
            Observation::Certificate(..) => false,
        }
    }
}

impl From<Unknown> for Observation {
    fn from(why: Unknown) -> Observation {
        match why {
            Unknown::Untrusted(peer) => Observation::UntrustedPeer(peer),
            Unknown::NoAddress(peer, header) => Observation::NoAddress(peer, header),
            Unknown::Unreadable(peer, e) => Observation::Unreadable(peer, e),
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Observation::UntrustedPeer(a) => write!(f, "{a} sends requests and is no trusted proxy: they are refused"),
            Observation::NoAddress(p, header) => {
                write!(f, "{p} sends no {}, so it is not known who asks: its requests are refused", header.name())
            }
            Observation::Unreadable(p, why) => {
                write!(f, "{p} sends an address that cannot be read ({why}): its requests are refused")
            }
            Observation::SecondProxy(a, sign) => {
                write!(
                    f,
                    "{a} is no visitor but a proxy, it seems ({sign}): it is not learnt, since everybody behind it would be in"
                )
            }
            Observation::Gateway(a) => write!(
                f,
                "visitors seem to come from {a}, a gateway that hides who they are: whoever lets it in lets in everybody behind it"
            ),
            Observation::Loopback(a) => write!(
                f,
                "visitors seem to come from {a}, this machine itself: a tunnel or a proxy on it hides who they are, and whoever lets it in lets in everybody"
            ),
            Observation::PrivateProof(a) => write!(f, "{a} proved itself and is private, so it was not learnt"),
            Observation::HopBeforeTraefik(a) => write!(
                f,
                "visitors reach Traefik through {a}, but Traefik's list looks at who connects: it refuses those who were learnt"
            ),
            Observation::PathBelow(p, endpoint) => {
                write!(f, "{p} appends the visitor's path to {endpoint}LIST, as Envoy does: its requests are refused")
            }
            Observation::NoList(p, endpoint, list, _) => {
                let does =
                    if *endpoint == LEARN { "no list of that name learns there" } else { "there is no such list" };
                write!(f, "{p} asks at {endpoint}{}, and {does}: its requests are refused", list.escape_debug())
            }
            Observation::Certificate(p, why) => write!(f, "what {p} says of a certificate is no proof: {why}"),
            Observation::OpenSite(p) => write!(
                f,
                "{p} passes on requests that came to it without TLS or for a container's own name: nobody shows a certificate there, so they prove nothing"
            ),
            Observation::Crowded(a) => write!(f, "{a} is turned away: it has too many connections open"),
        }
    }
}

/// An address that routers and networks of containers have themselves: the first of a private network. Addresses of
/// carriers and of meshes (100.64.0.0/10, fd7a:115c:a1e0::/48) are single devices'.
#[must_use]
pub(super) fn is_gateway(addr: Addr) -> bool {
    if !addr.is_private() || addr.ip().is_loopback() || addr.bits() == 0 {
        return false;
    }
    if addr.is_v4() {
        let carrier = addr.bits() >> 22 == (100 << 24 | 64 << 16) >> 22;
        return addr.bits() & 0xff == 1 && !carrier;
    }
    let mesh = addr.bits() >> 80 == 0xfd7a_115c_a1e0;
    addr.bits() & 0xffff_ffff_ffff_ffff == 1 && !mesh
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn gateways_are_told_from_devices() {
        for yes in ["172.18.0.1", "192.168.1.1", "10.0.0.1", "fd12:3456::1", "fe80::1"] {
            assert!(is_gateway(addr(yes)), "{yes}");
        }
        for no in [
            "172.18.0.6",
            "100.64.5.1",
            "127.0.0.1",
            "::1",
            "203.0.113.1",
            "2001:db8::1",
            "fd7a:115c:a1e0::1",
            "0.0.0.0",
        ] {
            assert!(!is_gateway(addr(no)), "{no}");
        }
    }

    #[test]
    fn a_flood_is_bounded_and_hides_nothing_that_was_seen() {
        let (heard, now) = (Observations::default(), Instant::now());
        let mut lines = 0;
        heard.note(Observation::NoAddress(Peer::Socket, AddressHeader::XForwardedFor), now, |_, _| lines += 1);
        for n in 0..10_000u32 {
            let a = Addr::new(std::net::Ipv4Addr::from(0x0b00_0000 + n).into());
            heard.note(Observation::UntrustedPeer(a), now, |_, _| lines += 1);
        }
        let one64 = (0..500).map(|n| addr(&format!("2001:db8::{n:x}")));
        one64.for_each(|a| heard.note(Observation::Crowded(a), now, |_, _| lines += 1));
        assert!(lines <= 21, "{lines}");
        let all = heard.recent(now);
        assert_eq!(all.len(), 1 + MAX_PER_KIND + 1);
        assert!(all.contains(&Observation::NoAddress(Peer::Socket, AddressHeader::XForwardedFor)));
        assert!(heard.recent(now + RETENTION).is_empty());
        // The same again is a line after ten minutes, not before.
        let later = now + LOG_REPEAT_INTERVAL;
        let mut again = 0;
        for at in [now, later, later] {
            heard.note(Observation::UntrustedPeer(addr("11.0.0.1")), at, |_, _| again += 1);
        }
        assert_eq!(again, 1);
    }
}
