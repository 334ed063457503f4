//! Field names that mean something to us. In: a name as it came, in any case. Out: its [`Kind`]. One table for every
//! plane: HTTP/1, HTTP/2 and trailers.
//!
//! CGI and its heirs turn `-` into `_`, and some servers turn every character that is no letter or digit into it, so that
//! `X_Forwarded_For` and `X.Forwarded.For` are read as `X-Forwarded-For`: such a spelling of a name that counts is
//! removed from visitors, whatever the name means with `-`.

/// What a field is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes on as it is.
    Plain,
    /// `Host`.
    Host,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Connection`.
    Connection,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Upgrade`.
    Upgrade,
    /// `TE`.
    Te,
    /// Concerns this hop only and is read by nobody.
    Hop,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// `X-Forwarded-Host`.
    XForwardedHost,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// How the request reached a proxy in front (`X-Forwarded-Port`): passed on from a trusted one.
    Way,
    /// Says who a visitor is or where it comes from, in words that are not ours: removed.
    Who,
}

/// Names of one kind each, in lower case.
const KNOWN: [(&str, Kind); 20] = [
    ("te", Kind::Te),
    ("host", Kind::Host),
    ("upgrade", Kind::Upgrade),
    ("connection", Kind::Connection),
    ("keep-alive", Kind::KeepAlive),
    ("content-length", Kind::ContentLength),
    ("transfer-encoding", Kind::TransferEncoding),
    ("http2-settings", Kind::Hop),
    ("proxy-connection", Kind::Hop),
    ("proxy-authenticate", Kind::Hop),
    ("proxy-authorization", Kind::Hop),
    ("forwarded", Kind::Forwarded),
    ("x-forwarded-for", Kind::XForwardedFor),
    ("x-forwarded-host", Kind::XForwardedHost),
    ("x-forwarded-proto", Kind::XForwardedProto),
    ("x-forwarded-port", Kind::Way),
    ("x-forwarded-prefix", Kind::Way),
    ("x-forwarded-scheme", Kind::Way),
    ("x-forwarded-server", Kind::Way),
    ("x-forwarded-ssl", Kind::Way),
];

/// Names by which common software learns who asks, from where, or for which site and path: whole names, and
/// beginnings of names where they end in `-`. Sorted, for the search.
const WHO: [&str; 98] = [
    "akamai-client-ip",
    "akamai-edgescape",
    "ali-cdn-real-ip",
    "cdn-real-ip",
    "cdn-src-ip",
    "cf-access-",
    "cf-connecting-",
    "cf-ipcity",
    "cf-ipcontinent",
    "cf-ipcountry",
    "cf-pseudo-ipv4",
    "cf-visitor",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "cloudfront-forwarded-",
    "cloudfront-viewer-",
    "coming-from",
    "do-connecting-ip",
    "fastly-client",
    "fastly-client-",
    "fly-client-ip",
    "fly-forwarded-",
    "forwarded-",
    "front-end-https",
    "http-client-ip",
    "http-x-forwarded-",
    "incap-client-ip",
    "mellon-",
    "oidc-",
    "proxy",
    "proxy-client-ip",
    "remote-",
    "shib-",
    "ssl-client-",
    "tailscale-",
    "teleport-jwt-assertion",
    "true-client-ip",
    "wl-proxy-client-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-auth-request-",
    "x-authelia-",
    "x-authenticated-",
    "x-authentik-",
    "x-azure-",
    "x-cdn-real-ip",
    "x-cdn-src-ip",
    "x-client",
    "x-client-cert",
    "x-client-cert-",
    "x-client-dn",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-coming-from",
    "x-connecting-ip",
    "x-consumer-",
    "x-country-code",
    "x-credential-",
    "x-custom-ip-authorization",
    "x-edge-client-ip",
    "x-envoy-",
    "x-forward-for",
    "x-forwarded",
    "x-forwarded-",
    "x-gate-",
    "x-goog-authenticated-user-",
    "x-goog-iap-",
    "x-host",
    "x-http-host-override",
    "x-iisnode-",
    "x-ip",
    "x-ms-client-principal",
    "x-ms-client-principal-",
    "x-ms-token-",
    "x-nf-client-connection-ip",
    "x-original-",
    "x-originating-ip",
    "x-pomerium-",
    "x-proxy-user",
    "x-proxyuser-ip",
    "x-real-",
    "x-realip",
    "x-remote-",
    "x-rewrite-url",
    "x-saml-",
    "x-scheme",
    "x-shib-",
    "x-source-ip",
    "x-ssl-",
    "x-sucuri-",
    "x-tls-client-",
    "x-url-scheme",
    "x-vercel-",
    "x-webauth-",
];

/// Longest name that is looked at; none in the tables is longer.
const NAME_MAX: usize = 64;

/// What the field of this name is to us.
#[must_use]
pub fn kind(name: &str) -> Kind {
    let mut folded = [0; NAME_MAX];
    let mut dashed = true;
    let mut len = 0;
    for (to, from) in folded.iter_mut().zip(name.bytes()) {
        *to = if from.is_ascii_alphanumeric() { from.to_ascii_lowercase() } else { b'-' };
        dashed &= from == b'-' || from.is_ascii_alphanumeric();
        len += 1;
    }
    let folded = folded.get(..len).unwrap_or_default();
    let whole = name.len() <= NAME_MAX;
    if let Some((_, kind)) = KNOWN.iter().find(|(known, _)| whole && known.as_bytes() == folded) {
        // In another spelling it is somebody's attempt to be read as that field further on.
        return if dashed { *kind } else { Kind::Who };
    }
    if is_who(folded, whole) { Kind::Who } else { Kind::Plain }
}

/// Looks a folded name up in [`WHO`]. Of its beginnings that stand there, each sorts directly before the name or before
/// names that begin with it, so that the nearest ones before the name are enough to look at.
fn is_who(folded: &[u8], whole: bool) -> bool {
    let at = WHO.partition_point(|w| w.as_bytes() <= folded);
    let first = folded.first();
    WHO.get(..at)
        .unwrap_or_default()
        .iter()
        .rev()
        .take_while(|w| w.as_bytes().first() == first)
        .any(|w| (whole && w.as_bytes() == folded) || (w.ends_with('-') && folded.starts_with(w.as_bytes())))
}

impl Kind {
    /// True for a field of an upstream's answer that goes on to the visitor as it is.
    #[must_use]
    pub fn passes_in_response(self) -> bool {
        !matches!(
            self,
            Kind::ContentLength
                | Kind::TransferEncoding
                | Kind::Connection
                | Kind::KeepAlive
                | Kind::Upgrade
                | Kind::Hop
        )
    }
}

/// True for a field that must not come in a request's trailer, where it would slip past what was checked in the head
/// (RFC 9110, section 6.5.1).
#[must_use]
pub fn forbidden_in_trailer(name: &str) -> bool {
    kind(name) != Kind::Plain
        || ["authorization", "cookie", "set-cookie", "content-type", "content-encoding", "content-range", "trailer"]
            .iter()
            .any(|f| name.eq_ignore_ascii_case(f))
}

/// True if the text is a token (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(WHO.windows(2).all(|w| w[0] < w[1]), "{:?}", WHO.windows(2).find(|w| w[0] >= w[1]));
        assert!(WHO.iter().chain(KNOWN.iter().map(|(n, _)| n)).all(|n| n.len() < NAME_MAX));
    }

    #[test]
    fn names_by_which_software_learns_who_it_is() {
        // What a review sent through an edge, and what arrived.
        for name in [
            "X-Gate-User",
            "X-Gate-Cert-Subject",
            "Remote-User",
            "X-Remote-User",
            "X-Auth-Request-Email",
            "Tailscale-User-Login",
            "X-SSL-Client-S-DN",
            "CF-Connecting-IP",
            "CF-Connecting-IPv6",
            "Fastly-Client-IP",
            "X-Original-Forwarded-For",
            "X-Envoy-External-Address",
            "X-Azure-ClientIP",
            "Proxy-Client-IP",
            "WL-Proxy-Client-IP",
            "X-Remote-IP",
            "X-Remote-Addr",
            "X-Host",
            "X-Original-Host",
            "X-Original-URL",
            "X-Rewrite-URL",
            "X-Real-IP",
            "X-Client-IP",
            "True-Client-IP",
            "X-Cluster-Client-IP",
            "X-Forwarded-User",
            "X-Forwarded-Client-Cert",
            "X-Forwarded-Tls-Client-Cert-Info",
            "X-WEBAUTH-USER",
            "X-Pomerium-Jwt-Assertion",
            "X-Goog-Authenticated-User-Email",
            "X-MS-CLIENT-PRINCIPAL",
            "X-Ms-Client-Principal-Name",
            "Client-Cert",
            "OIDC_CLAIM_email",
            "Proxy",
            "Ssl-Client-Cert",
            "Fly-Client-IP",
        ] {
            for spelled in [name.to_string(), name.to_uppercase(), name.replace('-', "_"), name.replacen('-', ".", 1)] {
                assert_eq!(kind(&spelled), Kind::Who, "{spelled}");
            }
        }
        // What counts with a dash counts for nothing in another spelling, and is not passed on.
        for name in [
            "Transfer_Encoding",
            "content_length",
            "X_Forwarded_For",
            "X-Forwarded_Proto",
            "x.forwarded.host",
            "X_FORWARDED_PORT",
            "Keep_Alive",
            "X_Gate-User",
        ] {
            assert_eq!(kind(name), Kind::Who, "{name}");
        }
    }

    #[test]
    fn other_names_pass() {
        for name in [
            "Accept",
            "Authorization",
            "Cookie",
            "Origin",
            "Referer",
            "User-Agent",
            "X-Requested-With",
            "X-Csrf-Token",
            "X-Api-Key",
            "X-Auth-Token",
            "X-Auth-User",
            "X-User-Id",
            "X-Request-Id",
            "X-Clients",
            "X-Http-Method-Override",
            "Sec-Fetch-Site",
            "Sec-WebSocket-Key",
            "traceparent",
            "my_field",
            "Clientip",
            "Remote",
            "Forwards",
            "X",
            "",
        ] {
            assert_eq!(kind(name), Kind::Plain, "{name}");
        }
        assert_eq!(kind(&format!("x-gate-{}", "a".repeat(200))), Kind::Who);
        assert_eq!(kind("X-Forwarded-Port"), Kind::Way);
        assert_eq!(kind("TE"), Kind::Te);
    }
}
