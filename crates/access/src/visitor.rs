//! Whose request it is. In: the socket's peer, the values of `X-Forwarded-For` and `Forwarded`, the trusted proxies.
//! Out: the visitor's address and the hops that vouch for it, or why the headers cannot be believed.
//!
//! The rule: the peer is the visitor unless it is a trusted proxy. Then the header is read from right to left, each
//! entry having been written by the hop to its right, up to the first address that is no trusted proxy: that is the
//! visitor. What stands further left was said by the visitor itself and is not looked at; that something stands there is
//! told, since the visitor may then be a proxy that nobody named. An entry that must be read and is no address, a header
//! that comes twice, and two headers that disagree are refused, never guessed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use addr::{Addr, AddrSet};

/// A visitor and how it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// The visitor.
    pub addr: Addr,
    /// The addresses that trusted proxies reported, from the visitor to the hop before the peer. Empty when the peer
    /// itself is the visitor.
    pub hops: Vec<Addr>,
    /// Further entries stand to the left of the visitor's. Whoever has that address passed them on: it is a proxy that is
    /// not trusted, or it made them up.
    pub more: bool,
}

/// The header in which trusted proxies say where a visitor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressHeader {
    /// `X-Forwarded-For`, as nginx, HAProxy, Caddy and Traefik write it.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Why the headers of a trusted proxy cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceError {
    /// The header came more than once.
    Twice(&'static str),
    /// An entry that had to be read is no address.
    Malformed(&'static str),
    /// `X-Forwarded-For` and `Forwarded` name different visitors.
    Disagree,
}

/// Finds the visitor behind a peer. `x_forwarded_for` and `forwarded` are the values of these headers, one for each
/// time the header came (RFC 7239; `X-Forwarded-For` as nginx, HAProxy, Caddy and Traefik write it).
///
/// # Errors
/// [`TraceError`], only when the peer is trusted: what untrusted peers send is not read.
pub fn trace(
    peer: Addr,
    x_forwarded_for: &[&[u8]],
    forwarded: &[&[u8]],
    trusted: &AddrSet,
) -> Result<Traced, TraceError> {
    if !trusted.contains(peer) {
        return Ok(Traced { addr: peer, hops: Vec::new(), more: false });
    }
    let by_list = reported(AddressHeader::XForwardedFor, x_forwarded_for, trusted)?;
    let by_forwarded = reported(AddressHeader::Forwarded, forwarded, trusted)?;
    match (by_list, by_forwarded) {
        (None, None) => Ok(Traced { addr: peer, hops: Vec::new(), more: false }),
        (Some(t), None) | (None, Some(t)) => Ok(t),
        (Some(a), Some(b)) if a.addr == b.addr => Ok(a),
        (Some(_), Some(_)) => Err(TraceError::Disagree),
    }
}

/// The visitor that one header of a trusted proxy names. `values` are the values of that header, one for each time it
/// came. `None`: it did not come, and the visitor is not known; it is never the proxy.
///
/// # Errors
/// [`TraceError`].
pub fn reported(header: AddressHeader, values: &[&[u8]], trusted: &AddrSet) -> Result<Option<Traced>, TraceError> {
    let Some(value) = single(header.name(), values)? else { return Ok(None) };
    match header {
        AddressHeader::XForwardedFor => walk(XFF, trusted, &value.split(',').collect::<Vec<_>>(), list_entry),
        AddressHeader::Forwarded => walk(FORWARDED, trusted, &split_forwarded(value)?, forwarded_entry),
    }
    .map(Some)
}

impl AddressHeader {
    /// Its field name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            AddressHeader::XForwardedFor => XFF,
            AddressHeader::Forwarded => FORWARDED,
        }
    }
}

impl FromStr for AddressHeader {
    type Err = String;

    /// Reads the field name, in any case.
    fn from_str(text: &str) -> Result<AddressHeader, String> {
        [AddressHeader::XForwardedFor, AddressHeader::Forwarded]
            .into_iter()
            .find(|h| h.name().eq_ignore_ascii_case(text.trim()))
            .ok_or_else(|| "wanted `x-forwarded-for` or `forwarded`".to_string())
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Twice(h) => write!(f, "the header {h} came more than once"),
            TraceError::Malformed(h) => write!(f, "the header {h} holds something that is no address"),
            TraceError::Disagree => write!(f, "the headers {XFF} and {FORWARDED} name different visitors"),
        }
    }
}

impl std::error::Error for TraceError {}

const XFF: &str = "X-Forwarded-For";
const FORWARDED: &str = "Forwarded";

fn single<'a>(name: &'static str, values: &[&'a [u8]]) -> Result<Option<&'a str>, TraceError> {
    match values {
        [] => Ok(None),
        [one] => std::str::from_utf8(one).map(Some).map_err(|_| TraceError::Malformed(name)),
        _ => Err(TraceError::Twice(name)),
    }
}

/// Walks the entries from right to left up to the first that is no trusted proxy.
fn walk(
    name: &'static str,
    trusted: &AddrSet,
    entries: &[&str],
    read: fn(&str) -> Option<Addr>,
) -> Result<Traced, TraceError> {
    let mut hops = Vec::new();
    for entry in entries.iter().rev() {
        let addr = read(entry).ok_or(TraceError::Malformed(name))?;
        hops.push(addr);
        if !trusted.contains(addr) {
            break;
        }
    }
    hops.reverse();
    let addr = *hops.first().ok_or(TraceError::Malformed(name))?;
    Ok(Traced { addr, more: hops.len() < entries.len(), hops })
}

/// Splits at the commas outside quoted strings.
fn split_forwarded(value: &str) -> Result<Vec<&str>, TraceError> {
    split_unquoted(value, b',').ok_or(TraceError::Malformed(FORWARDED))
}

fn split_unquoted(value: &str, at: u8) -> Option<Vec<&str>> {
    let (mut out, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (i, b) in value.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if b == at && !quoted => {
                out.push(value.get(from..i)?);
                from = i + 1;
            }
            _ => {}
        }
    }
    out.push(value.get(from..)?);
    (!quoted).then_some(out)
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn list_entry(entry: &str) -> Option<Addr> {
    node(entry.trim_matches([' ', '\t']))
}

/// The one `for=` of `for=192.0.2.1;proto=https;by=…` (RFC 7239, section 4).
fn forwarded_entry(entry: &str) -> Option<Addr> {
    let mut found = None;
    for pair in split_unquoted(entry, b';')? {
        let pair = pair.trim_matches([' ', '\t']);
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        if !name.eq_ignore_ascii_case("for") {
            continue;
        }
        if found.is_some() {
            return None;
        }
        let bare = match value.strip_prefix('"') {
            // An address never needs a backslash, so a quoted pair is not one.
            Some(rest) => rest.strip_suffix('"').filter(|v| !v.contains(['\\', '"']))?,
            // A token has no colon and no bracket (RFC 7239, section 4): IPv6 and ports must be quoted.
            None => value.parse::<Ipv4Addr>().ok().map(|_| value)?,
        };
        // In quotes IPv6 stands in brackets (RFC 7239, section 6).
        if !bare.starts_with('[') && bare.matches(':').count() > 1 {
            return None;
        }
        found = Some(node(bare)?);
    }
    found
}

fn node(text: &str) -> Option<Addr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Addr::new(ip));
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        // `[fe80::1%3]:80` has a zone, which means nothing on another machine.
        return (!text.contains('%')).then(|| Addr::of(with_port));
    }
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<std::net::Ipv6Addr>().ok().map(|a| Addr::new(IpAddr::V6(a)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> AddrSet {
        AddrSet::new(addr::parse_list(text).unwrap().prefixes)
    }

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn run(peer: &str, xff: &[&str], fwd: &[&str]) -> Result<String, TraceError> {
        let xff: Vec<&[u8]> = xff.iter().map(|s| s.as_bytes()).collect();
        let fwd: Vec<&[u8]> = fwd.iter().map(|s| s.as_bytes()).collect();
        trace(addr(peer), &xff, &fwd, &set("10.0.0.0/8, 2001:db8:aa::/48")).map(|t| t.addr.to_string())
    }

    #[test]
    fn table() {
        let bad = Err(TraceError::Malformed(XFF));
        let badf = Err(TraceError::Malformed(FORWARDED));
        let ok = |s: &str| Ok(s.to_string());
        type Row<'a> = (&'a str, &'a [&'a str], &'a [&'a str], Result<String, TraceError>);
        let rows: &[Row<'_>] = &[
            // Untrusted peers are themselves, whatever they say.
            ("198.51.100.7", &["10.0.0.1"], &[], ok("198.51.100.7")),
            ("198.51.100.7", &["a", "b"], &["for=_x", "\""], ok("198.51.100.7")),
            // Without a header a trusted proxy is itself.
            ("10.0.0.1", &[], &[], ok("10.0.0.1")),
            ("10.0.0.1", &["203.0.113.9"], &[], ok("203.0.113.9")),
            ("::ffff:10.0.0.1", &["203.0.113.9"], &[], ok("203.0.113.9")),
            ("10.0.0.1", &["::ffff:203.0.113.9"], &[], ok("203.0.113.9")),
            // Right to left, to the first untrusted; what the visitor claimed is not believed and not read.
            ("10.0.0.1", &["192.0.2.66, 203.0.113.9, 10.0.0.2"], &[], ok("203.0.113.9")),
            ("10.0.0.1", &["unknown, 203.0.113.9"], &[], ok("203.0.113.9")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], &[], ok("10.0.0.3")),
            ("10.0.0.1", &["203.0.113.9:4711"], &[], ok("203.0.113.9")),
            ("10.0.0.1", &["2001:db8::1"], &[], ok("2001:db8::1")),
            ("10.0.0.1", &["[2001:db8::1]:443,10.0.0.2"], &[], ok("2001:db8::1")),
            ("10.0.0.1", &["2001:db8::1, 2001:db8:aa::2"], &[], ok("2001:db8::1")),
            // Malformed where it counts.
            ("10.0.0.1", &[""], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.9,"], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.9, unknown"], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.9, junk, 10.0.0.2"], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.999"], &[], bad.clone()),
            ("10.0.0.1", &["0203.0.113.9"], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.9 10.0.0.2"], &[], bad.clone()),
            ("10.0.0.1", &["fe80::1%eth0"], &[], bad.clone()),
            ("10.0.0.1", &["[fe80::1%3]:80"], &[], bad.clone()),
            ("10.0.0.1", &["203.0.113.9", "203.0.113.9"], &[], Err(TraceError::Twice(XFF))),
            // Forwarded.
            ("10.0.0.1", &[], &["for=203.0.113.9"], ok("203.0.113.9")),
            ("10.0.0.1", &[], &["proto=https;FOR=\"203.0.113.9:99\";by=10.0.0.1"], ok("203.0.113.9")),
            (
                "10.0.0.1",
                &[],
                &["for=192.0.2.1, for=\"[2001:db8::1]:80\";host=\"a,b\", for=10.0.0.2"],
                ok("2001:db8::1"),
            ),
            ("10.0.0.1", &[], &["for=\"_x, for=203.0.113.9"], badf.clone()),
            ("10.0.0.1", &[], &["for=2001:db8::1"], badf.clone()),
            ("10.0.0.1", &[], &["for=\"2001:db8::1\""], badf.clone()),
            ("10.0.0.1", &[], &["for=_hidden"], badf.clone()),
            ("10.0.0.1", &[], &["for=unknown"], badf.clone()),
            ("10.0.0.1", &[], &["proto=https"], badf.clone()),
            ("10.0.0.1", &[], &["for=203.0.113.9;for=203.0.113.10"], badf.clone()),
            ("10.0.0.1", &[], &["for=203.0.113.9", "for=203.0.113.9"], Err(TraceError::Twice(FORWARDED))),
            // Both.
            ("10.0.0.1", &["203.0.113.9"], &["for=203.0.113.9"], ok("203.0.113.9")),
            ("10.0.0.1", &["203.0.113.9"], &["for=203.0.113.8"], Err(TraceError::Disagree)),
        ];
        for (peer, xff, fwd, want) in rows {
            assert_eq!(&run(peer, xff, fwd), want, "peer {peer}, {xff:?}, {fwd:?}");
        }
    }

    #[test]
    fn hops_run_from_the_visitor_to_the_peer() {
        let t =
            trace(addr("10.0.0.1"), &[b"1.1.1.1, 203.0.113.9, 10.0.0.3, 10.0.0.2"], &[], &set("10.0.0.0/8")).unwrap();
        assert_eq!(t.hops, ["203.0.113.9", "10.0.0.3", "10.0.0.2"].map(addr));
        assert!(t.more);
    }

    #[test]
    fn one_header_is_read_alone_and_its_absence_is_nobody() {
        let trusted = set("10.0.0.0/8");
        let read = |header, values: &[&[u8]]| reported(header, values, &trusted).map(|t| t.map(|t| (t.addr, t.more)));
        let (list, forwarded) = (AddressHeader::XForwardedFor, AddressHeader::Forwarded);
        assert_eq!(read(list, &[]), Ok(None));
        assert_eq!(read(forwarded, &[]), Ok(None));
        assert_eq!(read(list, &[b"203.0.113.9"]), Ok(Some((addr("203.0.113.9"), false))));
        // What a front proxy that is not trusted passed on stands to its left.
        assert_eq!(read(list, &[b"203.0.113.7, 173.245.48.5"]), Ok(Some((addr("173.245.48.5"), true))));
        assert_eq!(read(list, &[b"203.0.113.7, 10.0.0.9"]), Ok(Some((addr("203.0.113.7"), false))));
        assert_eq!(read(forwarded, &[b"for=203.0.113.7, for=173.245.48.5"]), Ok(Some((addr("173.245.48.5"), true))));
        assert_eq!(read(list, &[b"for=203.0.113.7"]), Err(TraceError::Malformed(XFF)));
        assert_eq!(read(forwarded, &[b"203.0.113.7"]), Err(TraceError::Malformed(FORWARDED)));
    }

    proptest! {
        /// Whatever a visitor puts to the left, the answer is what the trusted proxy saw.
        #[test]
        fn nothing_on_the_left_counts(junk in "[ -~]{0,40}", visitor in any::<u32>()) {
            let visitor = Addr::new(Ipv4Addr::from(visitor).into());
            let trusted = set("10.0.0.0/8");
            prop_assume!(!trusted.contains(visitor));
            let header = format!("{junk}, {visitor}, 10.9.9.9");
            let t = trace(addr("10.0.0.1"), &[header.as_bytes()], &[], &trusted).unwrap();
            prop_assert_eq!(t.addr, visitor);
        }

        /// No input makes it panic, and an untrusted peer is always itself.
        #[test]
        fn strangers_are_themselves(xff in prop::collection::vec(any::<Vec<u8>>(), 0..3), fwd in prop::collection::vec(any::<Vec<u8>>(), 0..3)) {
            let x: Vec<&[u8]> = xff.iter().map(Vec::as_slice).collect();
            let f: Vec<&[u8]> = fwd.iter().map(Vec::as_slice).collect();
            let peer = addr("192.0.2.1");
            prop_assert_eq!(trace(peer, &x, &f, &set("10.0.0.0/8")).unwrap().addr, peer);
            let _ = trace(addr("10.0.0.1"), &x, &f, &set("10.0.0.0/8"));
        }

        /// An answer is never a trusted proxy unless every entry is one.
        #[test]
        fn stops_at_the_first_stranger(chain in prop::collection::vec((any::<bool>(), any::<u16>()), 1..8)) {
            let of = |(trusted, n): &(bool, u16)| if *trusted { format!("10.0.{}.{}", n >> 8, n & 255) } else { format!("203.0.{}.{}", n >> 8, n & 255) };
            let header = chain.iter().map(of).collect::<Vec<_>>().join(", ");
            let want = chain.iter().rev().find(|c| !c.0).unwrap_or(&chain[0]);
            let t = trace(addr("10.0.0.1"), &[header.as_bytes()], &[], &set("10.0.0.0/8")).unwrap();
            prop_assert_eq!(t.addr, addr(&of(want)));
        }
    }
}
