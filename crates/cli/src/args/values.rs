//! Values of flags. In: one word. Out: a typed value, or what was wanted instead.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use addr::Addr;

/// An address to listen on; `127.0.0.1:` as inlets writes it is the same as `127.0.0.1`.
pub(crate) fn bind_addr(text: &str) -> Result<IpAddr, String> {
    let t = text.trim();
    if t == "localhost" || t == "localhost:" {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    let bare = t.strip_suffix(':').filter(|b| !b.ends_with(':')).unwrap_or(t);
    bare.strip_prefix('[')
        .and_then(|b| b.strip_suffix(']'))
        .unwrap_or(bare)
        .parse()
        .map_err(|_| "wanted an IPv4 or IPv6 address, without a port".to_string())
}

/// A name or an address that can stand in a certificate and be connected to, in its normal form; IPv6 in brackets is
/// taken too.
pub(crate) fn certificate_name(text: &str) -> Result<String, String> {
    let t = text.trim();
    let bare = t.strip_prefix('[').and_then(|b| b.strip_suffix(']')).unwrap_or(t);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        if ip.is_unspecified() {
            return Err("it is every address of this machine, and nobody can connect to that".to_string());
        }
        return Ok(ip.to_string());
    }
    if t.contains("://") || t.contains('/') {
        return Err("it is a URL".to_string());
    }
    if let Some((_, port)) = t.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err("it has a port, which no certificate has".to_string());
    }
    let name = t.strip_suffix('.').unwrap_or(t);
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        (1..=63).contains(&l.len()) && inner && !l.starts_with('-') && !l.ends_with('-')
    };
    let whole = name.strip_prefix("*.").unwrap_or(name);
    let last = whole.rsplit('.').next().unwrap_or_default();
    if name.len() > 253 || !whole.split('.').all(label) || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is not a host name".to_string());
    }
    Ok(name.to_ascii_lowercase())
}

/// A visitor's address.
pub(crate) fn addr(text: &str) -> Result<Addr, String> {
    text.parse().map_err(|e: addr::AddrError| e.reason.to_string())
}

/// A length of time: `10s`, `500ms`, `2m`, `1h`; a number alone is seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let t = text.trim();
    let unit_at = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let (number, unit) = t.split_at(unit_at);
    let scale_ms = match unit.trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err("wanted a length of time such as `10s`, `500ms` or `2m`".to_string()),
    };
    let number: u64 =
        number.parse().map_err(|_| "wanted a length of time such as `10s`, `500ms` or `2m`".to_string())?;
    // A year: longer is a typo, and far below what the timers can hold.
    let ms = number.checked_mul(scale_ms).filter(|ms| *ms <= 31_536_000_000);
    ms.map(Duration::from_millis).ok_or_else(|| "wanted at most a year".to_string())
}

/// `192.0.2.53`, `192.0.2.53:5353`, `[2001:db8::53]:53`.
///
/// # Errors
/// What was wanted.
pub(crate) fn name_server(text: &str) -> Result<SocketAddr, String> {
    let t = text.trim();
    let bare = t.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    bare.or_else(|_| t.parse()).map_err(|_| format!("`{t}` is no address of a name server, with or without a port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        for (text, ip) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:", "127.0.0.1"),
            ("::", "::"),
            ("[::1]", "::1"),
            ("localhost:", "127.0.0.1"),
            ("0.0.0.0", "0.0.0.0"),
        ] {
            assert_eq!(bind_addr(text).unwrap().to_string(), ip, "{text}");
        }
        for bad in ["", "127.0.0.1:80", "example.com", "[::1"] {
            assert!(bind_addr(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_for_a_certificate() {
        for (text, name) in [
            ("Edge.example.com", "edge.example.com"),
            ("edge.example.com.", "edge.example.com"),
            ("*.example.com", "*.example.com"),
            ("203.0.113.9", "203.0.113.9"),
            ("[2001:db8:e::9]", "2001:db8:e::9"),
            ("2001:DB8:E::9", "2001:db8:e::9"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(certificate_name(text).unwrap(), name, "{text}");
        }
        for (text, why) in [
            ("edge.example.com:8123", "port"),
            ("203.0.113.9:8123", "port"),
            ("[2001:db8:e::9]:8123", "port"),
            ("::", "nobody can connect"),
            ("0.0.0.0", "nobody can connect"),
            ("https://edge.example.com", "URL"),
            ("edge..example.org", "host name"),
            ("a,b", "host name"),
            ("300.1.2.3", "host name"),
            ("*", "host name"),
            ("-a.example", "host name"),
            ("", "host name"),
        ] {
            assert!(certificate_name(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn lengths_of_time() {
        for (text, ms) in
            [("10", 10_000), ("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("0", 0), (" 1h ", 3_600_000)]
        {
            assert_eq!(duration(text).unwrap().as_millis(), ms, "{text}");
        }
        for bad in ["", "s", "-1", "1.5s", "10 parsecs", "99999999999999999999", "9000000h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
