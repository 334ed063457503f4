//! Whose request it is, and by whose word. In: who connected, the headers, whom the configuration believes. Out: the
//! visitor and the certificate that its proxy saw, or why they are not known. Nothing here reads a request's path or query.

use std::fmt;

use access::certificate::{Holder, NoProof, by_info, by_name};
use access::visitor::{AddressHeader, TraceError, reported};
use addr::{Addr, AddrSet};
use http::{HeaderMap, HeaderValue};

/// Where proxies ask about a list.
pub(super) const CHECK: &str = "/v1/check/";
/// Where proxies show certificates for a list.
pub(super) const LEARN: &str = "/v1/learn/";

/// Who connected to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// From an address.
    Tcp(Addr),
    /// Through a Unix socket: whoever may open it is a trusted proxy.
    Socket,
}

/// Which proxies are believed, and how they say where a visitor comes from. All of it is configuration: no request
/// chooses any of it.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// Addresses of trusted proxies.
    pub trusted: AddrSet,
    /// The one header that counts; the other is not looked at.
    pub header: AddressHeader,
    /// At the check endpoint a peer that is no trusted proxy is a visitor, judged by its own address. Otherwise refused.
    pub direct: bool,
}

/// A visitor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visitor {
    /// Where it comes from.
    pub addr: Addr,
    /// A sign that the address is a proxy's through which others come too.
    pub second: Option<Sign>,
    /// The trusted proxy in front of the one that asks, if the visitor came through two.
    pub hop: Option<Addr>,
}

/// What says that an address is not the visitor's but a proxy's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sign {
    /// Entries stand to its left in the header.
    Entries,
    /// Another header names another address.
    Header(&'static str, Addr),
    /// It is a trusted proxy itself, and public: its own request, or one whose visitor it did not name.
    Trusted,
}

/// Why it is not known whose request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// The peer is no trusted proxy.
    Untrusted(Addr),
    /// A trusted proxy says no address.
    NoAddress(Peer, AddressHeader),
    /// What it says cannot be read.
    Unreadable(Peer, TraceError),
}

/// Which headers carry the certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cert {
    /// `X-Gate-Cert-Subject` and `X-Gate-Cert-Fp`, set by the proxy's configuration.
    Gate,
    /// `X-Forwarded-Tls-Client-Cert-Info`, set by Traefik's passTLSClientCert, which takes a client's own away.
    Traefik,
    /// The same of clients that send their CA's certificate along.
    TraefikChain,
}

/// Headers of content delivery networks that name the visitor: theirs differs from the address that a proxy saw only if
/// the proxy saw the network itself.
const CDN: [&str; 2] = ["cf-connecting-ip", "true-client-ip"];

impl Proxies {
    /// True if the peer's word is believed.
    #[must_use]
    pub fn believes(&self, peer: Peer) -> bool {
        match peer {
            Peer::Tcp(addr) => self.trusted.contains(addr),
            Peer::Socket => true,
        }
    }

    /// The visitor that a trusted proxy reports. It is never the proxy itself.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn visitor(&self, peer: Peer, headers: &HeaderMap) -> Result<Visitor, Unknown> {
        if let (false, Peer::Tcp(addr)) = (self.believes(peer), peer) {
            return Err(Unknown::Untrusted(addr));
        }
        let values: Vec<&[u8]> = headers.get_all(self.header.name()).iter().map(HeaderValue::as_bytes).collect();
        let found = reported(self.header, &values, &self.trusted).map_err(|e| Unknown::Unreadable(peer, e))?;
        let Some(found) = found else { return Err(Unknown::NoAddress(peer, self.header)) };
        // Private ones are trusted by default, and are devices of a home network too.
        let proxy = self.trusted.contains(found.addr) && !found.addr.is_private();
        let second = match (found.more, proxy) {
            (true, _) => Some(Sign::Entries),
            (false, true) => Some(Sign::Trusted),
            (false, false) => sign(found.addr, headers),
        };
        Ok(Visitor { addr: found.addr, second, hop: found.hops.get(1).copied() })
    }

    /// The same for a question that teaches nothing: where the configuration says so, a peer that is no proxy is itself.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn judged(&self, peer: Peer, headers: &HeaderMap) -> Result<Visitor, Unknown> {
        match self.visitor(peer, headers) {
            Err(Unknown::Untrusted(addr)) if self.direct => Ok(Visitor { addr, second: None, hop: None }),
            other => other,
        }
    }
}

/// A header that names another visitor than `found`.
fn sign(found: Addr, headers: &HeaderMap) -> Option<Sign> {
    let named = |name: &'static str| {
        let mut all = headers.get_all(name).iter();
        let one = all.next().and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse::<Addr>().ok());
        one.filter(|a| *a != found && all.next().is_none())
    };
    if let Some((name, addr)) = CDN.into_iter().find_map(|n| Some((n, named(n)?))) {
        return Some(Sign::Header(name, addr));
    }
    // A proxy in the same network may write its own front's address there: only a public one behind a private one tells.
    let real = if found.is_private() { named("x-real-ip").filter(|a| !a.is_private()) } else { None };
    real.map(|addr| Sign::Header("x-real-ip", addr))
}

/// Whose certificate the proxy reports.
///
/// # Errors
/// Why that is no proof.
pub(super) fn holder(headers: &HeaderMap, cert: Cert) -> Result<Holder, NoProof> {
    match cert {
        Cert::Gate => {
            let subject = one(headers, "x-gate-cert-subject")?.ok_or(NoProof::Absent)?;
            by_name(subject, one(headers, "x-gate-cert-fp")?)
        }
        Cert::Traefik | Cert::TraefikChain => {
            let info = one(headers, "x-forwarded-tls-client-cert-info")?.ok_or(NoProof::Absent)?;
            by_info(info, cert == Cert::TraefikChain)
        }
    }
}

/// The text of a header that came at most once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, NoProof> {
    let mut all = headers.get_all(name).iter();
    let Some(first) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(NoProof::Twice);
    }
    std::str::from_utf8(first.as_bytes()).map(Some).map_err(|_| NoProof::NoText)
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Socket => f.write_str("the proxy at the Unix socket"),
        }
    }
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sign::Entries => f.write_str("further addresses stand to its left"),
            Sign::Header(name, addr) => write!(f, "{name} names {addr}"),
            Sign::Trusted => f.write_str("it is among the trusted proxies"),
        }
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Untrusted(peer) => write!(f, "{peer} is no trusted proxy"),
            Unknown::NoAddress(peer, header) => write!(f, "{peer} sends no {}", header.name()),
            Unknown::Unreadable(peer, why) => write!(f, "{peer}: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut out = HeaderMap::new();
        for (name, value) in all {
            out.append(*name, HeaderValue::from_str(value).unwrap());
        }
        out
    }

    fn proxies(direct: bool) -> Proxies {
        let trusted = AddrSet::new(["172.16.0.0/12".parse().unwrap(), "192.0.2.5".parse().unwrap()]);
        Proxies { trusted, header: AddressHeader::XForwardedFor, direct }
    }

    fn peer(text: &str) -> Peer {
        Peer::Tcp(text.parse().unwrap())
    }

    #[test]
    fn a_proxy_is_never_the_visitor() {
        let p = proxies(true);
        let traefik = peer("172.18.0.5");
        for head in [&[][..], &[("x-real-ip", "203.0.113.7")], &[("forwarded", "for=203.0.113.7")]] {
            let unknown = Err(Unknown::NoAddress(traefik, AddressHeader::XForwardedFor));
            assert_eq!(p.judged(traefik, &headers(head)), unknown);
            assert_eq!(p.visitor(traefik, &headers(head)), unknown);
        }
        let at = |v: Visitor| (v.addr.to_string(), v.second);
        let good = headers(&[("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.66")]);
        assert_eq!(p.visitor(traefik, &good).map(at), Ok(("203.0.113.7".to_string(), None)));
        assert_eq!(p.visitor(Peer::Socket, &good).map(at), Ok(("203.0.113.7".to_string(), None)));
        // An untrusted peer is itself only where that is configured, and never proves anything.
        let stranger = peer("198.51.100.9");
        let untrusted = Err(Unknown::Untrusted("198.51.100.9".parse().unwrap()));
        assert_eq!(p.visitor(stranger, &good), untrusted);
        assert_eq!(proxies(false).judged(stranger, &good), untrusted);
        assert_eq!(p.judged(stranger, &good).map(at), Ok(("198.51.100.9".to_string(), None)));
    }

    #[test]
    fn signs_of_a_second_proxy() {
        let p = proxies(false);
        let sign = |head: &[(&'static str, &str)]| p.visitor(peer("172.18.0.5"), &headers(head)).unwrap().second;
        let v = |name, addr: &str| Some(Sign::Header(name, addr.parse().unwrap()));
        assert_eq!(sign(&[("x-forwarded-for", "203.0.113.7, 173.245.48.5")]), Some(Sign::Entries));
        assert_eq!(sign(&[("x-forwarded-for", "203.0.113.7, 172.18.0.9")]), None);
        assert_eq!(sign(&[("x-forwarded-for", "203.0.113.7, 192.0.2.5")]), None);
        assert_eq!(sign(&[("x-forwarded-for", "192.0.2.5")]), Some(Sign::Trusted));
        assert_eq!(sign(&[("x-forwarded-for", "172.18.0.9")]), None);
        let cf = ("cf-connecting-ip", "203.0.113.7");
        assert_eq!(sign(&[("x-forwarded-for", "173.245.48.5"), cf]), v("cf-connecting-ip", "203.0.113.7"));
        assert_eq!(sign(&[("x-forwarded-for", "203.0.113.7"), cf]), None);
        // X-Real-IP of a chain of proxies is the front's: it tells only where the address itself can be nobody's.
        let real = ("x-real-ip", "203.0.113.7");
        assert_eq!(sign(&[("x-forwarded-for", "192.168.0.1"), real]), v("x-real-ip", "203.0.113.7"));
        assert_eq!(sign(&[("x-forwarded-for", "203.0.113.8"), real]), None);
        assert_eq!(sign(&[("x-forwarded-for", "192.168.0.1"), ("x-real-ip", "192.168.0.9")]), None);
    }

    #[test]
    fn only_the_configured_header_is_a_proof() {
        let info = ("x-forwarded-tls-client-cert-info", "Subject%3D%22CN%3Danna%22%3BSerialNumber%3D%2218%22");
        let name = ("x-gate-cert-subject", "CN=kid");
        let both = headers(&[info, name]);
        assert_eq!(holder(&both, Cert::Gate).map(|h| h.subject), Ok("CN=kid".to_string()));
        assert_eq!(holder(&both, Cert::Traefik).map(|h| h.subject), Ok("CN=anna".to_string()));
        assert_eq!(holder(&headers(&[info]), Cert::Gate), Err(NoProof::Absent));
        assert_eq!(holder(&headers(&[name, name]), Cert::Gate), Err(NoProof::Twice));
        let fp = ("x-gate-cert-fp", "00");
        assert_eq!(holder(&headers(&[name, fp, fp]), Cert::Gate), Err(NoProof::Twice));
        assert_eq!(
            holder(&headers(&[("x-gate-cert-subject", "{tls_client_subject}")]), Cert::Gate),
            Err(NoProof::Unexpanded)
        );
    }
}
