//! The host of a request in its one form. In: text of a `Host` field, an authority, a key of a list. Out: [`Host`] and
//! [`Authority`], or nothing where two readers could see two hosts.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::Addr;

/// A host: a DNS name in lower case without final dot, or an address in its canonical form (IPv6 without brackets,
/// IPv4-mapped IPv6 as IPv4). Equal hosts are equal text.
///
/// A name is made of letters, digits, `-`, `_` and `.`; no label is empty or longer than 63 bytes, and the last one is
/// no number: URL parsers take `127.1`, `0x7f.1` and `2130706433` for addresses (WHATWG URL, "ends in a number"), so
/// that an address has one spelling here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(String);

/// A host and the port beside it, as a `Host` field or the authority of a URL names them (RFC 3986, section 3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The host.
    pub host: Host,
    /// The port, if one stands there.
    pub port: Option<u16>,
}

/// Longest name in text (RFC 1035, section 2.3.4: 255 bytes on the wire).
const NAME_MAX: usize = 253;

/// Longest label of a name (RFC 1035, section 2.3.4).
const LABEL_MAX: usize = 63;

impl Host {
    /// Reads a host without port; IPv6 stands without brackets. `None` if it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Host> {
        if text.contains(':') {
            return text.parse::<Ipv6Addr>().ok().map(|a| Host(Addr::new(IpAddr::V6(a)).to_string()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Host(address.to_string()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |l: &str| {
            (1..=LABEL_MAX).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let fits = name.len() <= NAME_MAX && name.split('.').all(is_label);
        let last = name.rsplit('.').next().unwrap_or_default();
        (fits && !is_number(last)).then(|| Host(name.to_ascii_lowercase()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Authority {
    /// Reads `host`, `host:port`, `[2001:db8::1]` or `[2001:db8::1]:port`; an empty port is none (RFC 3986, section
    /// 3.2.3). `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Authority> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']')?;
                let port = if after.is_empty() { "" } else { after.strip_prefix(':')? };
                // In brackets stands IPv6 and nothing else.
                inner.parse::<Ipv6Addr>().ok()?;
                (inner, port)
            }
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let digits = port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port {
            "" => None,
            p if digits => Some(p.parse().ok()?),
            _ => return None,
        };
        if !text.starts_with('[') && host.contains(':') {
            return None;
        }
        Some(Authority { host: Host::parse(host)?, port })
    }
}

/// What URL parsers read as a number of an IPv4 address: digits, or `0x` with hex digits.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.0.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            write!(f, "{}", self.host)?
        }
        self.port.map_or(Ok(()), |p| write!(f, ":{p}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_have_one_form() {
        for (text, want) in [
            ("App.Example.COM", Some("app.example.com")),
            ("app.example.com.", Some("app.example.com")),
            ("a_b-c.example", Some("a_b-c.example")),
            ("app:80", Some("app:80")),
            ("app:080", Some("app:80")),
            ("app:", Some("app")),
            ("[2001:DB8::0:1]:443", Some("[2001:db8::1]:443")),
            ("[::1]", Some("[::1]")),
            ("[::ffff:192.0.2.1]:1", Some("192.0.2.1:1")),
            ("192.0.2.1:8000", Some("192.0.2.1:8000")),
            ("", None),
            (":80", None),
            ("a b", None),
            ("a/b", None),
            ("u@a", None),
            ("a:b", None),
            ("a:65536", None),
            ("a:+1", None),
            ("2001:db8::1", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[app]", None),
            ("[192.0.2.1]", None),
            ("[fe80::1%eth0]", None),
            ("a\"b", None),
            ("\u{e4}", None),
            ("*.example.com", None),
            // One host to us, another to a framework, a URL parser or a resolver.
            ("x,intranet.example", None),
            ("intranet%2Eexample", None),
            ("intranet.example;a", None),
            ("intranet.example..", None),
            (".intranet.example", None),
            ("a..b", None),
            (".", None),
            ("127.1", None),
            ("0x7f.1", None),
            ("0x7f000001", None),
            ("2130706433", None),
            ("0300.0.2.1", None),
            ("192.0.2.1.", None),
            ("192.0.2.256", None),
            ("a.0x", None),
        ] {
            assert_eq!(Authority::parse(text).map(|a| a.to_string()).as_deref(), want, "{text}");
        }
        assert_eq!(Host::parse("2001:DB8:0::1").unwrap().as_str(), "2001:db8::1");
        assert!(Authority::parse(&format!("{}.example", "a".repeat(64))).is_none());
        assert!(Authority::parse(&vec!["abcdefg"; 40].join(".")).is_none());
    }

    proptest! {
        /// What is written is read as the same, whatever came.
        #[test]
        fn the_one_form_reads_back(text in "[a-fA-F0-9xX:.\\[\\]_-]{0,24}") {
            if let Some(authority) = Authority::parse(&text) {
                prop_assert_eq!(Authority::parse(&authority.to_string()), Some(authority.clone()));
                prop_assert_eq!(Host::parse(authority.host.as_str()), Some(authority.host));
            }
        }
    }
}
