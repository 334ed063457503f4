//! Values of flags. In: one word. Out: a typed value, or what was wanted instead.

use std::net::IpAddr;
use std::time::Duration;

use model::Addr;

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

/// A visitor's address.
pub(crate) fn addr(text: &str) -> Result<Addr, String> {
    text.parse().map_err(|e: model::AddrError| e.reason.to_string())
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
    // A year: longer is a slip of the pen, and far below what the timers can hold.
    let ms = number.checked_mul(scale_ms).filter(|ms| *ms <= 31_536_000_000);
    ms.map(Duration::from_millis).ok_or_else(|| "wanted at most a year".to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
