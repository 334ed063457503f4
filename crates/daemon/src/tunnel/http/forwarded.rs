//! What is said about a visitor, pure. In: what the peer claims. Out: who the visitor is, and the fields that tell the
//! upstream. What strangers claim is neither believed nor passed on.

use std::fmt::Write as _;

use decide::visitor::{Traced, trace};
use model::{Addr, AddrSet};

use super::head::Reject;

/// The fields in which a peer says who it speaks for, each as often as it came.
#[derive(Debug, Default)]
pub(super) struct Claims<'b> {
    pub(super) x_forwarded_for: Vec<&'b [u8]>,
    pub(super) forwarded: Vec<&'b [u8]>,
    pub(super) x_forwarded_proto: Vec<&'b [u8]>,
    pub(super) x_forwarded_host: Vec<&'b [u8]>,
}

/// How a request came, as far as it is believed.
#[derive(Debug)]
pub(super) struct Came<'b> {
    peer: Addr,
    traced: Traced,
    /// The peer is a trusted proxy.
    pub(super) trusted: bool,
    proto: &'b [u8],
    host: &'b [u8],
}

impl<'b> Came<'b> {
    /// Judges what the peer claims. `proto` and `host` are what it used with us.
    ///
    /// # Errors
    /// A trusted proxy contradicts itself or says something that cannot be read.
    pub(super) fn read(
        peer: Addr,
        claims: &Claims<'b>,
        trusted: &AddrSet,
        proto: &'b str,
        host: &'b [u8],
    ) -> Result<Came<'b>, Reject> {
        let traced =
            trace(peer, &claims.x_forwarded_for, &claims.forwarded, trusted).map_err(|e| Reject::bad(e.to_string()))?;
        if !trusted.contains(peer) {
            return Ok(Came { peer, traced, trusted: false, proto: proto.as_bytes(), host });
        }
        let proto = single("X-Forwarded-Proto", &claims.x_forwarded_proto)?.unwrap_or(proto.as_bytes());
        if !["http", "https", "ws", "wss"].iter().any(|p| proto.eq_ignore_ascii_case(p.as_bytes())) {
            return Err(Reject::bad("the header X-Forwarded-Proto is neither http nor https"));
        }
        let host = single("X-Forwarded-Host", &claims.x_forwarded_host)?.unwrap_or(host);
        Ok(Came { peer, traced, trusted: true, proto, host })
    }

    /// The visitor.
    pub(super) fn addr(&self) -> Addr {
        self.traced.addr
    }

    /// Tells the upstream: `X-Forwarded-For`, `X-Real-IP`, `X-Forwarded-Proto`, `X-Forwarded-Host` and `Forwarded`
    /// (RFC 7239).
    pub(super) fn tell(&self, mut put: impl FnMut(&'static str, &[u8])) {
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
        if !self.host.is_empty() {
            put("X-Forwarded-Host", self.host);
        }
        text.clear();
        for (i, hop) in hops.enumerate() {
            text.push_str(if i == 0 { "for=" } else { ", for=" });
            let _ = if hop.is_v4() { write!(text, "{hop}") } else { write!(text, "\"[{hop}]\"") };
            if i == 0 {
                // In quotes: a host may carry a port, and characters that a token may not.
                let host = String::from_utf8_lossy(self.host);
                if !host.is_empty() && !host.contains(['"', '\\']) {
                    let _ = write!(text, ";host=\"{host}\"");
                }
                let _ = write!(text, ";proto={}", String::from_utf8_lossy(self.proto));
            }
        }
        put("Forwarded", text.as_bytes());
    }
}

fn single<'b>(name: &str, values: &[&'b [u8]]) -> Result<Option<&'b [u8]>, Reject> {
    match values {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(Reject::bad(format!("the header {name} came more than once"))),
    }
}

/// What a trusted proxy says beside the address (`X-Forwarded-Prefix`, `X-Forwarded-Port`) is passed on; in the
/// spelling with `_` no proxy sends it.
pub(super) fn passes_from_proxy(name: &str) -> bool {
    like(name.get(..12).unwrap_or_default(), "x-forwarded-") && !name.contains('_')
}

/// Fields that say who a visitor is. Frameworks read them in either spelling: CGI turns `-` into `_`.
pub(super) fn says_who(name: &str) -> bool {
    const EXACT: [&str; 7] = [
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "client-ip",
        "true-client-ip",
        "x-cluster-client-ip",
        "cf-connecting-ip",
    ];
    like(name.get(..12).unwrap_or_default(), "x-forwarded-") || EXACT.iter().any(|e| like(name, e))
}

/// Equal but for case, with `_` counting as `-`.
fn like(name: &str, dashed: &str) -> bool {
    name.len() == dashed.len()
        && name.bytes().zip(dashed.bytes()).all(|(a, b)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-'))
}
