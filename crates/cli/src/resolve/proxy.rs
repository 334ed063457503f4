//! The proxy in front of the client. In: `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY` and where the edge is. Out: the CONNECT
//! proxy to use, or none.

use addr::{Addr, Prefix, percent_decoded};
use net::secret::Secret;
use tunnel::settings::HttpProxy;
use tunnel_proto::connect::EdgeUrl;

use crate::fail::Fail;

/// The proxy for this edge, by the conventions of curl and Go: `HTTPS_PROXY` for `wss://`, `HTTP_PROXY` for `ws://`,
/// then `ALL_PROXY`; lower case counts first; `NO_PROXY` excepts hosts. `HTTP_PROXY` in upper case is not read when
/// `REQUEST_METHOD` is set, because a CGI caller could have written it.
///
/// # Errors
/// The variable that counts holds no usable proxy.
pub(crate) fn choose(url: &EdgeUrl, var: impl Fn(&str) -> Option<String>) -> Result<Option<HttpProxy>, Fail> {
    let get = |name: &str| var(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
    let names: &[&'static str] = if url.tls {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    } else if get("REQUEST_METHOD").is_some() {
        &["http_proxy", "all_proxy", "ALL_PROXY"]
    } else {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    };
    let Some((name, value)) = names.iter().find_map(|n| get(n).map(|v| (*n, v))) else { return Ok(None) };
    if get("no_proxy").or_else(|| get("NO_PROXY")).is_some_and(|list| excepted(url, &list)) {
        return Ok(None);
    }
    read(&value).map(Some).map_err(|why| {
        Fail::hinted(
            format!("the variable {name} holds no usable proxy: {why}"),
            format!("wanted `http://[user:password@]host:port`; or except the edge: `NO_PROXY={}`", url.host),
        )
    })
}

/// True if `NO_PROXY` excepts the host: `*`, a name and the names below it, `.suffix`, an address, a CIDR, each with
/// an optional port.
fn excepted(url: &EdgeUrl, list: &str) -> bool {
    let host = url.host.trim_end_matches('.').to_ascii_lowercase();
    let addr: Option<Addr> = host.parse().ok();
    list.split([',', ' ']).map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let (Some(addr), Ok(prefix)) = (addr, entry.parse::<Prefix>()) {
            return prefix.contains(addr);
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((n, p)) if !n.contains(':') || n.ends_with(']') => (n, p.parse::<u16>().ok()),
            _ => (entry, None),
        };
        if port.is_some_and(|p| p != url.port) {
            return false;
        }
        if let (Some(addr), Ok(one)) = (addr, name.parse::<Addr>()) {
            return one == addr;
        }
        let name = name.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.').to_ascii_lowercase();
        // A suffix counts at a dot only, and never for an address.
        !name.is_empty()
            && addr.is_none()
            && (host == name || host.strip_suffix(&name).is_some_and(|h| h.ends_with('.')))
    })
}

fn read(value: &str) -> Result<HttpProxy, String> {
    let rest = match value.split_once("://") {
        None => value,
        Some((s, r)) if s.eq_ignore_ascii_case("http") => r,
        Some((s, _)) => return Err(format!("`{s}://` proxies are not supported, only `http://`")),
    };
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (credentials, authority) = match rest.rsplit_once('@') {
        Some((c, a)) => (Some(Secret::new(decode(c)?)), a),
        None => (None, rest),
    };
    // Reads host and port as everywhere else; without a port it is 80, as in Go.
    let url: EdgeUrl = format!("ws://{authority}").parse().map_err(|_| "no host and port".to_string())?;
    Ok(HttpProxy { host: url.host, port: url.port, credentials })
}

/// Undoes `%XX` in user and password.
fn decode(text: &str) -> Result<String, String> {
    let bytes = percent_decoded(text).ok_or("`%` in user or password needs two hex digits")?;
    String::from_utf8(bytes).map_err(|_| "user and password are not UTF-8".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, vars: &[(&str, &str)]) -> Result<Option<String>, Fail> {
        let var = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string());
        let proxy = choose(&url.parse().unwrap(), var)?;
        Ok(proxy.map(|p| {
            format!("{}{}:{}", p.credentials.map(|c| format!("{}@", c.reveal())).unwrap_or_default(), p.host, p.port)
        }))
    }

    #[test]
    fn which_variable_counts() {
        let none: &[(&str, &str)] = &[];
        assert_eq!(chosen("wss://edge", none).unwrap(), None);
        assert_eq!(chosen("wss://edge", &[("HTTPS_PROXY", "http://p:3128")]).unwrap().unwrap(), "p:3128");
        assert_eq!(chosen("wss://edge", &[("HTTPS_PROXY", "p:1"), ("https_proxy", "q:2")]).unwrap().unwrap(), "q:2");
        assert_eq!(chosen("wss://edge", &[("HTTP_PROXY", "p:1")]).unwrap(), None);
        assert_eq!(chosen("ws://edge", &[("HTTP_PROXY", "p:1")]).unwrap().unwrap(), "p:1");
        assert_eq!(chosen("ws://edge", &[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")]).unwrap(), None);
        assert_eq!(chosen("wss://edge", &[("ALL_PROXY", "p:1"), ("HTTPS_PROXY", "")]).unwrap().unwrap(), "p:1");
        assert_eq!(
            chosen("wss://edge", &[("https_proxy", "http://u%40x:p%3Aw@[2001:db8::1]:8/")]).unwrap().unwrap(),
            "u@x:p:w@2001:db8::1:8"
        );
        for bad in ["socks5://p:1", "https://p:1", "http://", "http://p:x", "http://u%4:p@p:1"] {
            assert!(chosen("wss://edge", &[("HTTPS_PROXY", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_proxy() {
        for (url, list, excepted) in [
            ("wss://edge.example.com", "*", true),
            ("wss://edge.example.com", "example.com", true),
            ("wss://edge.example.com", ".example.com", true),
            ("wss://edge.example.com", "*.example.com", true),
            ("wss://Edge.Example.com.", "other, EDGE.example.COM", true),
            ("wss://edgeexample.com", "example.com", false),
            ("wss://edge.example.com.evil.net", "example.com", false),
            ("wss://edge.example.com:8123", "edge.example.com:8123", true),
            ("wss://edge.example.com:8123", "edge.example.com:443", false),
            ("wss://203.0.113.9:8123", "203.0.113.0/24", true),
            ("wss://203.0.113.9:8123", "203.0.113.9", true),
            ("wss://203.0.113.9:8123", "113.9", false),
            ("wss://203.0.113.9:8123", "203.0.114.0/24", false),
            ("wss://[2001:db8::1]:8123", "2001:db8::/32", true),
            ("wss://[2001:db8::1]:8123", "[2001:db8::1]:8123", true),
            ("wss://[2001:db8::1]:8123", "[2001:db8::1]:1", false),
            ("wss://edge", "", false),
        ] {
            let got = chosen(url, &[("HTTPS_PROXY", "p:1"), ("NO_PROXY", list)]).unwrap();
            assert_eq!(got.is_none(), excepted, "{url} {list}");
        }
    }
}
