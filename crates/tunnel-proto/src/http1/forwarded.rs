//! What is said about a visitor, pure. In: what the peer claims, and which peers are believed. Out: who the visitor is,
//! and the fields that tell the upstream. What untrusted peers claim is neither believed nor passed on.

use std::fmt::Write as _;

use addr::{Addr, AddrSet, Authority};

use super::fields::{Kind, is_token, kind};
use super::reject::Reject;
use access::visitor::{AddressHeader, Traced, reported};

/// Who speaks for visitors, and in which words.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Proxies whose word counts.
    pub proxies: AddrSet,
    /// The one header in which they name the visitor; the other may have come from the visitor itself.
    pub header: AddressHeader,
    /// Fields in which they say who is logged in; nothing of that kind is passed on unless named here.
    pub identity: IdentityFields,
}

/// Names of fields that say who is logged in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentityFields(Vec<String>);

/// The fields in which a peer says who it speaks for, each as often as it came.
#[derive(Debug, Default)]
pub struct Claims<'b> {
    /// Values of `X-Forwarded-For`.
    pub x_forwarded_for: Vec<&'b [u8]>,
    /// Values of `Forwarded`.
    pub forwarded: Vec<&'b [u8]>,
    /// Values of `X-Forwarded-Proto`.
    pub x_forwarded_proto: Vec<&'b [u8]>,
    /// Values of `X-Forwarded-Host`.
    pub x_forwarded_host: Vec<&'b [u8]>,
}

/// How a request came, as far as it is believed.
#[derive(Debug)]
pub struct Came<'b> {
    peer: Addr,
    traced: Traced,
    /// The peer is a trusted proxy.
    pub trusted: bool,
    /// The peer named a visitor, is not trusted, and has an address such as proxies on this machine or network have.
    pub unheard: bool,
    proto: &'b [u8],
    /// Host and port as the upstream is told; empty if the visitor named none.
    authority: String,
}

impl Trust {
    /// Trusts these proxies, with the default header.
    #[must_use]
    pub fn proxies(proxies: AddrSet) -> Trust {
        Trust { proxies, ..Trust::default() }
    }

    /// True if a field of this name and kind goes on to the upstream; those that we write ourselves do not.
    #[must_use]
    pub fn passes(&self, name: &str, kind: Kind, trusted_peer: bool) -> bool {
        match kind {
            Kind::Plain => true,
            Kind::Way => trusted_peer,
            Kind::Who => trusted_peer && self.identity.0.iter().any(|n| n.eq_ignore_ascii_case(name)),
            _ => false,
        }
    }
}

/// Who is behind a peer, by this header alone.
///
/// # Errors
/// In words: a trusted proxy contradicts itself, or names a visitor in the other header only. Whether it wrote that one or
/// passed it on cannot be told, and to judge the proxy instead would let in whoever comes through it.
pub fn visitor(
    header: AddressHeader,
    peer: Addr,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
    proxies: &AddrSet,
) -> Result<Traced, String> {
    let itself = Traced { addr: peer, hops: Vec::new(), more: false };
    if !proxies.contains(peer) {
        return Ok(itself);
    }
    let (values, other) = match header {
        AddressHeader::XForwardedFor => (x_forwarded_for, forwarded),
        AddressHeader::Forwarded => (forwarded, x_forwarded_for),
    };
    match reported(header, values, proxies).map_err(|e| e.to_string())? {
        Some(traced) => Ok(traced),
        None if other.is_empty() => Ok(itself),
        None => Err(format!("the trusted proxy names no visitor in {} (--trusted-header)", header.name())),
    }
}

impl IdentityFields {
    /// Takes names of fields, in any case.
    ///
    /// # Errors
    /// A name that is no such field, with what was wanted.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<IdentityFields, String> {
        let mut out = Vec::new();
        for name in names.into_iter().map(str::trim).filter(|n| !n.is_empty()) {
            if !is_token(name) || name.contains('_') {
                return Err(format!("`{name}` is not the name of a header field, such as `remote-user`"));
            }
            if kind(name) == Kind::Plain {
                return Err(format!("`{name}` is passed on from everybody; name fields such as `remote-user`"));
            }
            if kind(name) != Kind::Who || name.eq_ignore_ascii_case("x-real-ip") {
                return Err(format!("`{name}` is written by the edge itself, or means one connection only"));
            }
            out.push(name.to_ascii_lowercase());
        }
        Ok(IdentityFields(out))
    }
}

impl<'b> Came<'b> {
    /// Judges what the peer claims. `proto` and `authority` are what it used with us, the latter as it was judged.
    ///
    /// # Errors
    /// A trusted proxy contradicts itself or says something that cannot be read.
    pub fn read(
        peer: Addr,
        claims: &Claims<'b>,
        trust: &Trust,
        proto: &'b str,
        authority: Option<&Authority>,
    ) -> Result<Came<'b>, Reject> {
        let named = !claims.x_forwarded_for.is_empty() || !claims.forwarded.is_empty();
        let text = authority.map(ToString::to_string).unwrap_or_default();
        if !trust.proxies.contains(peer) {
            let traced = visitor(trust.header, peer, &[], &[], &trust.proxies).map_err(Reject::bad)?;
            let unheard = named && peer.is_private();
            return Ok(Came { peer, traced, trusted: false, unheard, proto: proto.as_bytes(), authority: text });
        }
        let (list, forwarded) = (&claims.x_forwarded_for, &claims.forwarded);
        let traced = visitor(trust.header, peer, list, forwarded, &trust.proxies).map_err(Reject::bad)?;
        let proto = match claims.x_forwarded_proto[..] {
            [] => proto.as_bytes(),
            [one] => one,
            _ => return Err(Reject::bad("the header X-Forwarded-Proto came more than once")),
        };
        if !["http", "https", "ws", "wss"].iter().any(|p| proto.eq_ignore_ascii_case(p.as_bytes())) {
            return Err(Reject::bad("the header X-Forwarded-Proto is neither http nor https"));
        }
        // The proxy may know the port better. Another host than the one that was judged is not passed on: many a proxy
        // hands on what the visitor wrote there.
        let told = match claims.x_forwarded_host[..] {
            [one] => std::str::from_utf8(one).ok().and_then(Authority::parse),
            _ => None,
        };
        let text = match (&told, authority) {
            (Some(told), Some(judged)) if told.host == judged.host => told.to_string(),
            _ => text,
        };
        Ok(Came { peer, traced, trusted: true, unheard: false, proto, authority: text })
    }

    /// The visitor.
    #[must_use]
    pub fn addr(&self) -> Addr {
        self.traced.addr
    }

    /// Writes what the upstream is to know: `X-Forwarded-For`, `X-Real-IP`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `Forwarded`
    /// (RFC 7239).
    pub fn write_fields(&self, mut put: impl FnMut(&'static str, &[u8])) {
        let hops = self.traced.hops.iter().chain([&self.peer]);
        let mut text = String::with_capacity(96);
        for (i, hop) in hops.clone().enumerate() {
            let _ = write!(text, "{}{hop}", if i == 0 { "" } else { ", " });
        }
        put("X-Forwarded-For", text.as_bytes());
        text.clear();
        let _ = write!(text, "{}", self.traced.addr);
        put("X-Real-IP", text.as_bytes());
        put("X-Forwarded-Proto", self.proto);
        if !self.authority.is_empty() {
            put("X-Forwarded-Host", self.authority.as_bytes());
        }
        text.clear();
        for (i, hop) in hops.enumerate() {
            text.push_str(if i == 0 { "for=" } else { ", for=" });
            let _ = if hop.is_v4() { write!(text, "{hop}") } else { write!(text, "\"[{hop}]\"") };
            if i == 0 {
                // In quotes: a host may carry a port, which a token may not.
                if !self.authority.is_empty() {
                    let _ = write!(text, ";host=\"{}\"", self.authority);
                }
                let _ = write!(text, ";proto={}", String::from_utf8_lossy(self.proto));
            }
        }
        put("Forwarded", text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(header: AddressHeader) -> Trust {
        let proxies = AddrSet::new(addr::parse_list("10.0.0.0/8").unwrap().prefixes);
        Trust { proxies, header, identity: IdentityFields::new(["Remote-User"]).unwrap() }
    }

    fn came(peer: &str, claims: &Claims<'static>, header: AddressHeader) -> Result<(String, String), String> {
        let judged = Authority::parse("app.example.com").unwrap();
        let came = Came::read(peer.parse().unwrap(), claims, &trust(header), "http", Some(&judged));
        let came = came.map_err(|e| e.reason)?;
        Ok((came.addr().to_string(), came.authority))
    }

    #[test]
    fn one_header_of_a_trusted_proxy_counts() {
        let both =
            || Claims { x_forwarded_for: vec![b"203.0.113.9"], forwarded: vec![b"for=10.1.1.1"], ..Claims::default() };
        let judged = |header| came("10.0.0.1", &both(), header).unwrap().0;
        assert_eq!(judged(AddressHeader::XForwardedFor), "203.0.113.9");
        assert_eq!(judged(AddressHeader::Forwarded), "10.1.1.1");
        // Only in the other one: neither the proxy nor what a visitor may have written is judged.
        let other = || Claims { forwarded: vec![b"for=203.0.113.9"], ..Claims::default() };
        let why = came("10.0.0.1", &other(), AddressHeader::XForwardedFor).unwrap_err();
        assert!(why.contains("X-Forwarded-For") && why.contains("--trusted-header"), "{why}");
        // An untrusted peer is itself, whatever it says.
        assert_eq!(came("192.0.2.1", &both(), AddressHeader::XForwardedFor).unwrap().0, "192.0.2.1");
    }

    #[test]
    fn the_upstream_is_told_the_host_that_was_judged() {
        let told = |values: Vec<&'static [u8]>| {
            let claims =
                Claims { x_forwarded_for: vec![b"203.0.113.9"], x_forwarded_host: values, ..Claims::default() };
            came("10.0.0.1", &claims, AddressHeader::XForwardedFor).unwrap().1
        };
        assert_eq!(told(vec![]), "app.example.com");
        assert_eq!(told(vec![b"App.Example.com:8443"]), "app.example.com:8443");
        for other in [&b"intranet.example"[..], b"app.example.com, intranet.example", b"x,y", b"\xff", b""] {
            assert_eq!(told(vec![other]), "app.example.com", "{}", String::from_utf8_lossy(other));
        }
        assert_eq!(told(vec![b"app.example.com", b"intranet.example"]), "app.example.com");
    }

    #[test]
    fn who_is_logged_in_is_said_by_trusted_proxies_where_it_is_configured() {
        let trust = trust(AddressHeader::default());
        for (name, from_proxy, from_visitor) in [
            ("remote-user", true, false),
            ("REMOTE-USER", true, false),
            ("Remote_User", false, false),
            ("x-webauth-user", false, false),
            ("x-forwarded-port", true, false),
            ("x-forwarded-for", false, false),
            ("accept", true, true),
        ] {
            assert_eq!(trust.passes(name, kind(name), true), from_proxy, "{name}");
            assert_eq!(trust.passes(name, kind(name), false), from_visitor, "{name}");
        }
        for bad in ["x-forwarded-for", "X-Real-IP", "accept", "remote_user", "a b", "connection"] {
            assert!(IdentityFields::new([bad]).is_err(), "{bad}");
        }
    }
}
