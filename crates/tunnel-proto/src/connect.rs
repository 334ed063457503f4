//! Where an edge is and why it is believed. In: `wss://host:8123/path`, `sha256:…`, connect strings. Out: typed parts.
//!
//! A connect string is all a client needs, in one word that no shell has to quote:
//! `wss://203.0.113.9:8123#sha256:<64 hex digits>,token-file=token.txt`. What follows `#` is optional and in any order:
//! the fingerprint of the edge's CA, and where the token lies (`token-file=PATH` or `token-env=NAME`). The token itself
//! never stands in it, because arguments can be read by every user of a machine.

use std::fmt;
use std::str::FromStr;

/// `ws://` or `wss://` URL of an edge's control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeUrl {
    /// `wss`.
    pub tls: bool,
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// 443 and 80 by default, as for any websocket (RFC 6455, section 3).
    pub port: u16,
    /// Path prefix without a trailing slash; empty for none.
    pub path: String,
}

/// SHA-256 of a certificate in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// One argument that says where an edge is, why it is believed and where the token lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectString {
    /// The edge's control plane.
    pub url: EdgeUrl,
    /// The edge's CA; `None` if the system's certificates vouch for it.
    pub pin: Option<Fingerprint>,
    /// Where the client finds the token, unless it is told otherwise.
    pub token: Option<TokenPlace>,
}

/// Where a token lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// In this file of the client.
    File(String),
    /// In this environment variable of the client.
    Env(String),
}

/// Why a text of this file is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL of an edge.
    #[error("`{0}` is not the URL of an edge: {1}")]
    Url(String, &'static str),
    /// Not a fingerprint.
    #[error("`{0}` is not a fingerprint: wanted `sha256:` and 64 hex digits, with or without colons")]
    Fingerprint(String),
    /// Not a connect string.
    #[error("`{0}` is not a connect string: {1}")]
    Connect(String, String),
}

impl FromStr for EdgeUrl {
    type Err = ConnectError;
    fn from_str(text: &str) -> Result<EdgeUrl, ConnectError> {
        let fail = |why| ConnectError::Url(text.to_string(), why);
        let t = text.trim();
        let (tls, rest) = match t.split_once("://") {
            Some((s, r)) if s.eq_ignore_ascii_case("wss") || s.eq_ignore_ascii_case("https") => (true, r),
            Some((s, r)) if s.eq_ignore_ascii_case("ws") || s.eq_ignore_ascii_case("http") => (false, r),
            _ => return Err(fail("it must start with `wss://` or `ws://`")),
        };
        let (authority, path) = match rest.find('/') {
            Some(i) => (&rest[..i], rest[i..].trim_end_matches('/')),
            None => (rest, ""),
        };
        if path.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err(fail("it must not have a query or a fragment"));
        }
        if authority.contains('@') {
            return Err(fail("it must not have a user; give the token with `--token-file`"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| fail("the port must be a number from 1 to 65535"))?;
        if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(fail("an IPv6 address with a port is written `[2001:db8::1]:8123`"));
        }
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
            return Err(fail("it needs a host name or an address"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fail("the path must be plain ASCII; write other characters as %XX"));
        }
        Ok(EdgeUrl {
            tls,
            host: host.to_string(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            path: path.to_string(),
        })
    }
}

impl EdgeUrl {
    /// `host:port` as it stands in a `Host` header, the default port left out.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for EdgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.tls { "wss" } else { "ws" }, self.authority(), self.path)
    }
}

impl FromStr for Fingerprint {
    type Err = ConnectError;
    fn from_str(text: &str) -> Result<Fingerprint, ConnectError> {
        let fail = || ConnectError::Fingerprint(text.to_string());
        // `SHA256 Fingerprint=AB:CD:…` is how openssl prints it, and people copy all or part of that.
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let hex = ["sha256:", "sha256 fingerprint=", ""].iter().find_map(|p| lower.strip_prefix(p)).unwrap_or(&lower);
        let colons = hex.bytes().filter(|b| *b == b':').count();
        if colons != 0 && (colons != 31 || !hex.split(':').all(|pair| pair.len() == 2)) {
            return Err(fail());
        }
        let hex: Vec<u8> = hex.bytes().filter(|b| *b != b':').collect();
        if hex.len() != 64 {
            return Err(fail());
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(h, l)| h << 4 | l).ok_or_else(fail)?;
        }
        Ok(Fingerprint(out))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ConnectString {
    type Err = ConnectError;
    fn from_str(text: &str) -> Result<ConnectString, ConnectError> {
        let text = text.trim();
        let fail = |why: String| ConnectError::Connect(text.to_string(), why);
        let (url, rest) = text.split_once('#').map_or((text, None), |(u, r)| (u, Some(r)));
        let mut out = ConnectString { url: url.parse()?, pin: None, token: None };
        for word in rest.iter().flat_map(|r| r.split(',')) {
            let twice = match word.split_once('=') {
                _ if word.starts_with("sha256:") => out.pin.replace(word.parse()?).is_some(),
                Some((_, "")) => return Err(fail(format!("`{word}` has no value"))),
                Some(("token-file", v)) => out.token.replace(TokenPlace::File(v.to_string())).is_some(),
                Some(("token-env", v)) => out.token.replace(TokenPlace::Env(v.to_string())).is_some(),
                _ => {
                    return Err(fail(format!(
                        "after `#` come `sha256:` and 64 hex digits, `token-file=PATH` or `token-env=NAME`, not `{word}`"
                    )));
                }
            };
            if twice {
                return Err(fail(format!("`{word}` says again what was said before it")));
            }
        }
        if out.pin.is_some() && !out.url.tls {
            return Err(fail("a fingerprint needs `wss://`; `ws://` has no certificate".to_string()));
        }
        Ok(out)
    }
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.url, f)?;
        let pin = self.pin.map(|p| p.to_string());
        let token = self.token.as_ref().map(|t| match t {
            TokenPlace::File(path) => format!("token-file={path}"),
            TokenPlace::Env(name) => format!("token-env={name}"),
        });
        for (n, word) in pin.into_iter().chain(token).enumerate() {
            write!(f, "{}{word}", if n == 0 { '#' } else { ',' })?;
        }
        Ok(())
    }
}

fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        (host, after.strip_prefix(':').or(if after.is_empty() { None } else { Some("bad") }))
    } else if authority.matches(':').count() > 1 {
        (authority, None)
    } else {
        authority.split_once(':').map_or((authority, None), |(h, p)| (h, Some(p)))
    };
    match port {
        None => Some((host, None)),
        // `parse` alone would take `+8123`.
        Some(p) if !p.bytes().all(|b| b.is_ascii_digit()) => None,
        Some(p) => p.parse::<u16>().ok().filter(|p| *p != 0).map(|p| (host, Some(p))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn urls_have_defaults_and_a_normal_form() {
        for (text, normal) in [
            ("wss://edge.example.com", "wss://edge.example.com"),
            ("https://edge.example.com:443/", "wss://edge.example.com"),
            ("WS://127.0.0.1:80/a/b/", "ws://127.0.0.1/a/b"),
            (" wss://[2001:db8::1]:8123 ", "wss://[2001:db8::1]:8123"),
            ("wss://2001:db8::1", "wss://[2001:db8::1]"),
        ] {
            assert_eq!(text.parse::<EdgeUrl>().unwrap().to_string(), normal);
        }
    }

    #[test]
    fn urls_that_are_none_say_why() {
        for (text, why) in [
            ("edge.example.com:8123", "start with"),
            ("ftp://edge", "start with"),
            ("wss://", "host name"),
            ("wss://:8123", "host name"),
            ("wss://edge:0", "65535"),
            ("wss://edge:70000", "65535"),
            ("wss://edge:+1", "65535"),
            ("wss://user:pw@edge", "--token-file"),
            ("wss://edge/?token=x", "query"),
            ("wss://edge#x", "fragment"),
            ("wss://a:b:c", "IPv6"),
            ("wss://[2001:db8::1", "65535"),
            ("wss://ed ge", "host name"),
            ("wss://edge/\u{fc}", "ASCII"),
        ] {
            let e = text.parse::<EdgeUrl>().unwrap_err().to_string();
            assert!(e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn connect_strings_round_trip() {
        for text in [
            format!("wss://203.0.113.9:8123#sha256:{HEX}"),
            format!("wss://[2001:db8::1]:8123/p#sha256:{HEX},token-file=/etc/portcullis/token"),
            "wss://edge.example.com#token-env=EDGE_TOKEN".to_string(),
            "ws://127.0.0.1:8123".to_string(),
        ] {
            assert_eq!(text.parse::<ConnectString>().unwrap().to_string(), text);
        }
        let colons: String = HEX
            .as_bytes()
            .chunks(2)
            .map(|c| std::str::from_utf8(c).unwrap().to_uppercase())
            .collect::<Vec<_>>()
            .join(":");
        let c: ConnectString = format!("wss://e#token-env=T,sha256:{colons}").parse().unwrap();
        assert_eq!(c.to_string(), format!("wss://e#sha256:{HEX},token-env=T"));
    }

    #[test]
    fn connect_strings_that_are_none_say_why() {
        for (text, why) in [
            (format!("ws://e#sha256:{HEX}"), "wss://"),
            (format!("wss://e#sha256:{HEX},sha256:{HEX}"), "again"),
            ("wss://e#sha256:12".to_string(), "64 hex"),
            ("wss://e#token=secret".to_string(), "token-file=PATH"),
            ("wss://e#".to_string(), "after `#`"),
            ("wss://e#token-file=".to_string(), "no value"),
        ] {
            let e = text.parse::<ConnectString>().unwrap_err().to_string();
            assert!(e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn fingerprints_as_openssl_prints_them() {
        let pairs: Vec<String> = HEX.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).to_uppercase()).collect();
        let colons = pairs.join(":");
        for text in
            [format!("SHA256 Fingerprint={colons}"), format!("sha256 Fingerprint={colons}"), colons.clone(), HEX.into()]
        {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), format!("sha256:{HEX}"), "{text}");
        }
        for bad in [&colons[3..], "SHA1 Fingerprint=AA:BB", "", ":", &colons.replace(':', "::")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(c) = text.parse::<ConnectString>() {
                prop_assert_eq!(c.to_string().parse::<ConnectString>().unwrap(), c);
            }
        }

        #[test]
        fn fingerprints_round_trip(bytes in any::<[u8; 32]>()) {
            let f = Fingerprint(bytes);
            prop_assert_eq!(f.to_string().parse::<Fingerprint>().unwrap(), f);
        }
    }
}
