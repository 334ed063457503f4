//! Where an edge is and why it is believed. In: `wss://host:8123/path`, `sha256:…`, connect strings. Out: typed parts.

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

/// Why a text of this file is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL of an edge.
    #[error("`{0}` is not the URL of an edge: {1}")]
    Url(String, &'static str),
    /// Not a fingerprint.
    #[error("`{0}` is not a fingerprint: wanted `sha256:` and 64 hex digits")]
    Fingerprint(String),
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
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
            return Err(fail("it needs a host name or an address"));
        }
        if !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fail("the path must be plain ASCII; write other characters as %XX"));
        }
        Ok(EdgeUrl { tls, host: host.to_string(), port: port.unwrap_or(if tls { 443 } else { 80 }), path: path.to_string() })
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
        let hex = text.trim().strip_prefix("sha256:").ok_or_else(fail)?;
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
        Some(p) => p.parse::<u16>().ok().filter(|p| *p != 0).map(|p| (host, Some(p))),
    }
}
