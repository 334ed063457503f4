//! What a client publishes. In: `http://127.0.0.1:3000`, `app.example.com=http://…`, `2222=host:22`. Out: typed parts.

//!
//! | written | means |
//! | --- | --- |
//! | `http://127.0.0.1:3000`, `127.0.0.1:3000`, `*=http://…` | every host and path |
//! | `app.example.com=http://127.0.0.1:4000` | requests for this host |
//! | `*.example.com=http://…` | requests for every host below it; a longer name wins, a whole one always |
//! | `app.example.com/api=http://…`, `/api=http://…` | requests below this path |
//! | `h2c://127.0.0.1:50051` | an upstream that speaks HTTP/2 without TLS, such as gRPC |
//! | `2222=192.168.0.10:22`, `2222=192.168.0.10` | connections to this port of the edge |
//! | `192.168.0.10` with `--ports 2222,5432` | the same ports there (TCP clients) |
//! | `192.168.0.10:22` | TCP clients: port 22 on both sides; HTTP clients: every host, by HTTP |
//! | `unix:/run/app.sock` on the right side | a Unix socket of the client's machine |
//!
//! Several in one value are parted by commas. The same left side twice shares the load.

use std::fmt;
use std::str::FromStr;

use addr::Host;

use crate::hello::{Rewrite, UPSTREAMS_MAX};

/// One published service: what visitors ask for, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// What visitors ask for.
    pub ask: UpstreamMatch,
    /// Where it goes.
    pub to: UpstreamTo,
    /// What the edge changes in heads on their way to it and back; HTTP only.
    pub rewrite: Rewrite,
}

/// What visitors ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamMatch {
    /// HTTP requests for this host (in its one form, or `*.` and such a name; `None`: any) below this path prefix (starts with `/`,
    /// ends with none; empty: any).
    Http {
        /// Host, or any.
        host: Option<String>,
        /// Path prefix, or empty.
        path: String,
    },
    /// Connections to this port of the edge.
    Port(u16),
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTo {
    /// TLS to the upstream (`https://`).
    pub tls: bool,
    /// HTTP/2 is spoken to it (`h2c://`).
    pub h2: bool,
    /// Where it listens.
    pub at: Place,
}

/// Where an upstream listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On a TCP port.
    Tcp {
        /// Name or address; IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// On a Unix socket with this absolute path.
    Unix(String),
}

/// Longest path of a Unix socket (unix(7): 108 bytes with the NUL at the end).
const UNIX_PATH_MAX: usize = 107;

/// Ports and ranges of ports: `2222,5432,8000-8100`.
/// In order, disjoint and not touching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRanges(Vec<(u16, u16)>);

/// What a bare `host:port` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plane {
    /// `http client`: the catch-all, by HTTP.
    Http,
    /// `tcp client`: the same port on both sides.
    Tcp,
}

/// Why a text is not an upstream or a list of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// One upstream is wrong.
    #[error("`{text}` is not an upstream: {why}")]
    Upstream {
        /// What came.
        text: String,
        /// What was wanted and what is wrong.
        why: String,
    },
    /// A list of ports is wrong.
    #[error("`{text}` is not a list of ports: {why}")]
    Ports {
        /// What came.
        text: String,
        /// What was wanted and what is wrong.
        why: String,
    },
}

/// Reads the values of `--upstream` and `--ports`, in every form of the table above.
///
/// # Errors
/// The first value that fits no form, with what was wanted; no upstream at all; ports that no upstream uses.
pub fn parse_upstreams(
    values: &[String],
    ports: Option<&PortRanges>,
    plane: Plane,
) -> Result<Vec<Upstream>, UpstreamError> {
    let mut out: Vec<Upstream> = Vec::new();
    let mut ports_used = false;
    for text in values.iter().flat_map(|v| v.split(',')) {
        let text = text.trim();
        let fail = |why: String| UpstreamError::Upstream { text: text.to_string(), why };
        match Form::read(text, plane).map_err(fail)? {
            Form::Whole(upstream) => out.push(upstream),
            Form::Host { host, port } => {
                let Some(ports) = ports else {
                    let port = port.ok_or_else(|| {
                        fail("it has no port; say which with `--ports 22`, or write `PORT=HOST:PORT`".to_string())
                    })?;
                    let to = UpstreamTo::tcp(host, port);
                    out.push(Upstream { ask: UpstreamMatch::Port(port), to, rewrite: Rewrite::default() });
                    continue;
                };
                ports_used = true;
                if port.is_some() && ports.count() != 1 {
                    return Err(fail(
                        "one port cannot serve several of `--ports`; write `PORT=HOST:PORT` for each".to_string(),
                    ));
                }
                out.extend(ports.iter().map(|p| Upstream {
                    ask: UpstreamMatch::Port(p),
                    to: UpstreamTo::tcp(host.clone(), port.unwrap_or(p)),
                    rewrite: Rewrite::default(),
                }));
            }
        }
    }
    if out.len() > UPSTREAMS_MAX {
        let why = format!("these are {}; one client publishes at most {UPSTREAMS_MAX}", out.len());
        return Err(UpstreamError::Upstream { text: values.join(","), why });
    }
    if out.is_empty() {
        let why = "at least one is needed, such as `http://127.0.0.1:3000`".to_string();
        return Err(UpstreamError::Upstream { text: values.join(","), why });
    }
    if let (Some(ports), false) = (ports, ports_used) {
        let why = "no upstream uses them; they go with an upstream that is a host alone".to_string();
        return Err(UpstreamError::Ports { text: ports.to_string(), why });
    }
    let mut seen = Vec::with_capacity(out.len());
    out.retain(|u| {
        let new = !seen.contains(u);
        if new {
            seen.push(u.clone());
        }
        new
    });
    Ok(out)
}

impl PortRanges {
    /// No port.
    #[must_use]
    pub fn none() -> PortRanges {
        PortRanges(Vec::new())
    }

    /// The ports, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.iter().flat_map(|(a, b)| *a..=*b)
    }

    /// How many ports.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|(a, b)| usize::from(b - a) + 1).sum()
    }

    /// Every port from 1.
    #[must_use]
    pub fn all() -> PortRanges {
        PortRanges(vec![(1, u16::MAX)])
    }

    /// True if the port lies in one of the ranges.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(a, b)| (*a..=*b).contains(&port))
    }
}

impl UpstreamTo {
    /// A TCP port, without TLS.
    #[must_use]
    pub fn tcp(host: String, port: u16) -> UpstreamTo {
        UpstreamTo { tls: false, h2: false, at: Place::Tcp { host, port } }
    }

    /// How HTTP is spoken to it, as the beginning of a URL.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match (self.tls, self.h2) {
            (true, _) => "https://",
            (false, true) => "h2c://",
            (false, false) => "http://",
        }
    }
}

impl fmt::Display for UpstreamTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Display for UpstreamMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamMatch::Http { host, path } if path.is_empty() => f.write_str(host.as_deref().unwrap_or("*")),
            UpstreamMatch::Http { host, path } => write!(f, "{}{path}", host.as_deref().unwrap_or("")),
            UpstreamMatch::Port(port) => write!(f, "{port}"),
        }
    }
}

impl fmt::Display for Upstream {
    /// In a form that [`parse_upstreams`] reads back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ask {
            UpstreamMatch::Port(port) => write!(f, "{port}={}", self.to),
            ask => write!(f, "{ask}={}{}", self.to.scheme(), self.to),
        }
    }
}

impl FromStr for PortRanges {
    type Err = UpstreamError;

    /// Reads `2222,5432,8000-8100`, or one of the words `all` and `none`.
    fn from_str(text: &str) -> Result<PortRanges, UpstreamError> {
        let fail = |why: String| UpstreamError::Ports { text: text.to_string(), why };
        match text.trim() {
            t if t.eq_ignore_ascii_case("all") => return Ok(PortRanges::all()),
            t if t.eq_ignore_ascii_case("none") => return Ok(PortRanges::none()),
            "" => return Err(fail("it is empty; write ports such as `2222,8000-8100`, `all` or `none`".to_string())),
            _ => {}
        }
        let mut ranges = Vec::new();
        for item in text.split(|c: char| c == ',' || c.is_whitespace()).filter(|i| !i.is_empty()) {
            let port = |p: &str| {
                read_port(p).ok_or_else(|| {
                    fail(format!("`{item}` is not a port from 1 to 65535 or a range such as `8000-8100`"))
                })
            };
            let (a, b) = item.split_once('-').map_or((item, item), |(a, b)| (a, b));
            let (a, b) = (port(a)?, port(b)?);
            if a > b {
                return Err(fail(format!("the range `{item}` runs backwards")));
            }
            ranges.push((a, b));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (a, b) in ranges {
            match merged.last_mut() {
                Some((_, end)) if a <= end.saturating_add(1) => *end = (*end).max(b),
                _ => merged.push((a, b)),
            }
        }
        if merged.is_empty() {
            return Err(fail("it names no port; write `none` for none".to_string()));
        }
        Ok(PortRanges(merged))
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (n, (a, b)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if a == b { write!(f, "{comma}{a}")? } else { write!(f, "{comma}{a}-{b}")? }
        }
        Ok(())
    }
}

/// What one piece of a value is.
enum Form {
    Whole(Upstream),
    /// A TCP client's upstream without a left side.
    Host {
        host: String,
        port: Option<u16>,
    },
}

impl Form {
    fn read(text: &str, plane: Plane) -> Result<Form, String> {
        if text.is_empty() {
            return Err("it is empty; between two commas stands an upstream".to_string());
        }
        // An `=` behind the scheme belongs to a URL or a path.
        let scheme = [text.find("://"), text.find("unix:/")].into_iter().flatten().min().unwrap_or(text.len());
        let (left, right) = match text.find('=').filter(|i| *i < scheme) {
            Some(i) => (Some(text[..i].trim()), text[i + 1..].trim()),
            None => (None, text),
        };
        let to = To::read(right)?;
        if let Some(port) = left.filter(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_digit())) {
            let port = read_port(port).ok_or_else(|| format!("`{port}` is not a port from 1 to 65535"))?;
            if to.http.is_some() {
                return Err(format!("a port is forwarded as it is, without HTTP: write `{port}=HOST:PORT`"));
            }
            let ask = UpstreamMatch::Port(port);
            return Ok(Form::Whole(Upstream { ask, to: to.place(port), rewrite: Rewrite::default() }));
        }
        if plane == Plane::Tcp {
            if to.http.is_some() || left.is_some() {
                return Err("a TCP client forwards ports: write `HOST` with `--ports`, `HOST:PORT` or `PORT=HOST:PORT`; for HTTP use `portcullis http client`".to_string());
            }
            return match to.at {
                At::Host { host, port } => Ok(Form::Host { host, port }),
                At::Unix(path) => Err(format!("say which port of the edge it is for: `PORT=unix:{path}`")),
            };
        }
        if to.tcp {
            return Err("say which port of the edge it is for: `PORT=HOST:PORT`".to_string());
        }
        let (host, path) = left.map_or(Ok((None, String::new())), read_match)?;
        let tls = to.http == Some(Http::Tls);
        if tls && matches!(to.at, At::Unix(_)) {
            return Err("a Unix socket is spoken to without TLS: write `unix:/path`".to_string());
        }
        let to = to.place(if tls { 443 } else { 80 });
        Ok(Form::Whole(Upstream { ask: UpstreamMatch::Http { host, path }, to, rewrite: Rewrite::default() }))
    }
}

/// The right side of an upstream.
struct To {
    /// The scheme, if it was one of HTTP.
    http: Option<Http>,
    /// `tcp://` was written.
    tcp: bool,
    at: At,
}

/// A place whose port may be left out.
enum At {
    Host { host: String, port: Option<u16> },
    Unix(String),
}

/// A scheme of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    Plain,
    Tls,
    H2c,
}

impl To {
    fn read(text: &str) -> Result<To, String> {
        let (http, tcp, rest) = match text.split_once("://") {
            None => (None, false, text),
            Some((s, r)) if s.eq_ignore_ascii_case("http") => (Some(Http::Plain), false, r),
            Some((s, r)) if s.eq_ignore_ascii_case("https") => (Some(Http::Tls), false, r),
            Some((s, r)) if s.eq_ignore_ascii_case("h2c") => (Some(Http::H2c), false, r),
            Some((s, r)) if s.eq_ignore_ascii_case("tcp") => (None, true, r),
            Some((s, _)) => return Err(format!("the scheme `{s}` is not one of `http`, `https`, `h2c` and `tcp`")),
        };
        if let Some(path) = rest.strip_prefix("unix:") {
            return Ok(To { http, tcp, at: At::Unix(unix_path(path)?) });
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err("its address has a path; requests keep the path they came with".to_string());
        }
        if rest.contains('@') {
            return Err("it has a user name; credentials do not belong into an upstream".to_string());
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(r) => {
                let (host, after) = r.split_once(']').ok_or("`[` has no `]`")?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(format!("`{host}` is not an IPv6 address"));
                }
                (
                    host,
                    if after.is_empty() {
                        None
                    } else {
                        Some(after.strip_prefix(':').ok_or("after `]` comes `:` and a port")?)
                    },
                )
            }
            None if rest.parse::<std::net::Ipv6Addr>().is_ok() => {
                // `::1:5173` is an address, and hardly ever the one that was meant.
                if let Some((host, port)) = rest.rsplit_once(':')
                    && host.parse::<std::net::Ipv6Addr>().is_ok()
                    && read_port(port).is_some()
                {
                    return Err(format!(
                        "write the address in brackets: `[{host}]:{port}`, or `[{rest}]` if all of it is the address"
                    ));
                }
                (rest, None)
            }
            None => rest.split_once(':').map_or((rest, None), |(h, p)| (h, Some(p))),
        };
        let port = match port {
            None => None,
            Some(p) => Some(read_port(p).ok_or_else(|| format!("`{p}` is not a port from 1 to 65535"))?),
        };
        if host.is_empty() {
            return Err("it has no host".to_string());
        }
        // A number alone is a port that somebody forgot the host of, not a host.
        if host.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("`{host}` is not a host; write `127.0.0.1:{host}`"));
        }
        // Written with a port it would read as a socket.
        if host.eq_ignore_ascii_case("unix") {
            return Err("`unix` is no host here; write `unix:/run/app.sock`, or the host's full name".to_string());
        }
        if !host.contains(':') && !is_name(host) {
            return Err(format!("`{host}` is not a host name or an address"));
        }
        Ok(To { http, tcp, at: At::Host { host: host.to_ascii_lowercase(), port } })
    }

    /// With `port` where none was written.
    fn place(self, port: u16) -> UpstreamTo {
        let (tls, h2) = (self.http == Some(Http::Tls), self.http == Some(Http::H2c));
        let at = match self.at {
            At::Host { host, port: written } => Place::Tcp { host, port: written.unwrap_or(port) },
            At::Unix(path) => Place::Unix(path),
        };
        UpstreamTo { tls, h2, at }
    }
}

/// The path of a Unix socket.
fn unix_path(path: &str) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("`{path}` is not the whole path of a socket; write `unix:/run/app.sock`"));
    }
    if path.len() > UNIX_PATH_MAX || path.chars().any(char::is_control) {
        return Err(format!("the path of a socket has at most {UNIX_PATH_MAX} bytes and no control characters"));
    }
    Ok(path.to_string())
}

/// `host`, `host/path`, `/path` or `*`; a port after the host is dropped, since routing does not see it.
fn read_match(left: &str) -> Result<(Option<String>, String), String> {
    let (host, path) = left.find('/').map_or((left, ""), |i| (&left[..i], left[i..].trim_end_matches('/')));
    if path.bytes().any(|b| !b.is_ascii_graphic() || b"?#,=".contains(&b)) {
        return Err(format!("the path `{path}` must be plain ASCII without `?`, `#` and `=`"));
    }
    // An IPv6 address without brackets is all address.
    let host = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inner, "")) => inner,
        Some((inner, after)) if after.strip_prefix(':').and_then(read_port).is_some() => inner,
        Some(_) => host,
        None => host.split_once(':').filter(|(_, port)| read_port(port).is_some()).map_or(host, |(name, _)| name),
    };
    if host.is_empty() && path.is_empty() {
        return Err("there is nothing before `=`; write `*` for every host".to_string());
    }
    if host.is_empty() || host == "*" {
        return Ok((None, path.to_string()));
    }
    let (star, name) = host.strip_prefix("*.").map_or(("", host), |name| ("*.", name));
    let name = Host::parse(name).filter(|n| star.is_empty() || n.as_str().parse::<std::net::IpAddr>().is_err());
    let name = name.ok_or_else(|| {
        format!("`{host}` is no host that a request can name; names of other scripts are written in their `xn--` form")
    })?;
    Ok((Some(format!("{star}{name}")), path.to_string()))
}

/// Reads the left side of an upstream alone, as other flags name one: `app.example.com`, `*.example.com/api`, `/api`, `*`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_match(left: &str) -> Result<UpstreamMatch, String> {
    read_match(left.trim()).map(|(host, path)| UpstreamMatch::Http { host, path })
}

/// A DNS name or an IPv4 address. 253: the longest name (RFC 1035, 3.1, in text).
fn is_name(host: &str) -> bool {
    !host.trim_end_matches('.').is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        && !host.starts_with(['-', '.'])
        && !host.contains("..")
}

fn read_port(text: &str) -> Option<u16> {
    // `parse` alone would take `+80`.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|p| digits && *p != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str], ports: &str, plane: Plane) -> Result<Vec<String>, String> {
        let values: Vec<String> = values.iter().map(|v| (*v).to_string()).collect();
        let ports = if ports.is_empty() { None } else { Some(ports.parse().unwrap()) };
        parse_upstreams(&values, ports.as_ref(), plane)
            .map(|u| u.iter().map(ToString::to_string).collect())
            .map_err(|e| e.to_string())
    }

    #[test]
    fn http_forms() {
        for (text, normal) in [
            ("http://127.0.0.1:3000", "*=http://127.0.0.1:3000"),
            ("127.0.0.1:3000", "*=http://127.0.0.1:3000"),
            ("localhost:3000", "*=http://localhost:3000"),
            ("http://traefik.kube-system", "*=http://traefik.kube-system:80"),
            ("*.Example.com/api=h2c://127.0.0.1:50051", "*.example.com/api=h2c://127.0.0.1:50051"),
            ("192.0.2.1=http://a", "192.0.2.1=http://a:80"),
            ("https://Intra.example.com/", "*=https://intra.example.com:443"),
            ("*=http://127.0.0.1:3000", "*=http://127.0.0.1:3000"),
            ("App.Example.com=http://127.0.0.1:4000", "app.example.com=http://127.0.0.1:4000"),
            ("app.example.com:9443=127.0.0.1:4000", "app.example.com=http://127.0.0.1:4000"),
            ("app.example.com/api/=https://10.0.0.1:8443", "app.example.com/api=https://10.0.0.1:8443"),
            ("/api=http://[::1]:3000", "/api=http://[::1]:3000"),
            ("2222=192.168.0.10:22", "2222=192.168.0.10:22"),
            ("2222=192.168.0.10", "2222=192.168.0.10:2222"),
            ("2222=tcp://[::1]:22", "2222=[::1]:22"),
            ("unix:/run/app.sock", "*=http://unix:/run/app.sock"),
            ("a.example.com=http://unix:/run/A=b/app", "a.example.com=http://unix:/run/A=b/app"),
            ("2222=unix:/run/ssh.sock", "2222=unix:/run/ssh.sock"),
            ("http://[::1:5173]", "*=http://[::1:5173]:80"),
        ] {
            assert_eq!(read(&[text], "", Plane::Http).unwrap(), [normal], "{text}");
        }
        let many = ["a.example.com=http://127.0.0.1:1,b.example.com=http://127.0.0.1:2", "http://127.0.0.1:3"];
        assert_eq!(read(&many, "", Plane::Http).unwrap().len(), 3);
        assert_eq!(
            read(&["127.0.0.1:1,http://127.0.0.1:1"], "", Plane::Http).unwrap().len(),
            1,
            "the same twice is once"
        );
        assert_eq!(read(&["80=10.0.0.1:1,80=10.0.0.2:1"], "", Plane::Http).unwrap().len(), 2, "two share the load");
    }

    #[test]
    fn tcp_forms() {
        assert_eq!(
            read(&["192.168.0.10"], "2222,5432", Plane::Tcp).unwrap(),
            ["2222=192.168.0.10:2222", "5432=192.168.0.10:5432"]
        );
        assert_eq!(read(&["raspberrypi.local"], "2222", Plane::Tcp).unwrap(), ["2222=raspberrypi.local:2222"]);
        assert_eq!(read(&["10.0.0.1:22"], "2222", Plane::Tcp).unwrap(), ["2222=10.0.0.1:22"]);
        assert_eq!(
            read(&["10.0.0.1:22", "8080=10.0.0.2:80"], "", Plane::Tcp).unwrap(),
            ["22=10.0.0.1:22", "8080=10.0.0.2:80"]
        );
        assert_eq!(
            read(&["10.0.0.1,8080=10.0.0.2:80"], "22", Plane::Tcp).unwrap(),
            ["22=10.0.0.1:22", "8080=10.0.0.2:80"]
        );
        assert_eq!(read(&["2001:db8::1"], "22", Plane::Tcp).unwrap(), ["22=[2001:db8::1]:22"]);
    }

    #[test]
    fn what_fits_no_form_says_why() {
        for (text, ports, plane, why) in [
            ("", "", Plane::Http, "empty"),
            ("http://a,,http://b", "", Plane::Http, "empty"),
            ("3000", "", Plane::Http, "127.0.0.1:3000"),
            ("ftp://a", "", Plane::Http, "scheme"),
            ("http://a/path", "", Plane::Http, "path"),
            ("http://u:p@a", "", Plane::Http, "user"),
            ("http://a:99999", "", Plane::Http, "65535"),
            ("http://a:+80", "", Plane::Http, "65535"),
            ("http://[::1", "", Plane::Http, "]"),
            ("http://", "", Plane::Http, "no host"),
            ("=http://a", "", Plane::Http, "nothing before"),
            ("*.*.example.com=http://a", "", Plane::Http, "no host"),
            ("*.192.0.2.1=http://a", "", Plane::Http, "no host"),
            ("a*.example.com=http://a", "", Plane::Http, "no host"),
            ("2/=o", "", Plane::Http, "no host"),
            ("128.=t0.0.1:2", "", Plane::Http, "no host"),
            ("0x7f.1=http://a", "", Plane::Http, "no host"),
            ("m\u{fc}ller.de=http://a", "", Plane::Http, "xn--"),
            ("70000=a:1", "", Plane::Http, "65535"),
            ("22=http://a:22", "", Plane::Http, "without HTTP"),
            ("tcp://a:22", "", Plane::Http, "PORT=HOST:PORT"),
            ("http://a", "22", Plane::Tcp, "http client"),
            ("host=10.0.0.1:1", "", Plane::Tcp, "http client"),
            ("10.0.0.1", "", Plane::Tcp, "--ports"),
            ("10.0.0.1:22", "1,2", Plane::Tcp, "PORT=HOST:PORT"),
            ("22=10.0.0.1", "23", Plane::Tcp, "no upstream uses"),
            ("::1:5173", "", Plane::Http, "[::1]:5173"),
            ("http://2001:db8::1:80", "", Plane::Http, "[2001:db8::1]:80"),
            ("unix:app.sock", "", Plane::Http, "unix:/run/app.sock"),
            ("https://unix:/run/app.sock", "", Plane::Http, "without TLS"),
            ("unix", "", Plane::Http, "full name"),
            ("22=Unix:22", "", Plane::Tcp, "full name"),
            ("unix:/run/app.sock", "", Plane::Tcp, "PORT=unix:/run/app.sock"),
        ] {
            let e = read(&[text], ports, plane).unwrap_err();
            assert!(e.contains(why), "{text}: {e}");
        }
    }

    #[test]
    fn ports_and_ranges() {
        let p: PortRanges = "5432, 2222 8000-8100,8101".parse().unwrap();
        assert_eq!(p.to_string(), "2222,5432,8000-8101");
        assert_eq!(p.count(), 104);
        assert!(p.contains(8050) && !p.contains(8102));
        assert_eq!("all".parse::<PortRanges>().unwrap(), PortRanges::all());
        assert_eq!("none".parse::<PortRanges>().unwrap().count(), 0);
        for bad in ["", ",", "0", "65536", "a", "9-1", "1-", "-", "+1"] {
            assert!(bad.parse::<PortRanges>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_reads_back(text in "[a-z0-9:/=.,*\\[\\]-]{0,40}") {
            for plane in [Plane::Http, Plane::Tcp] {
                if let Ok(list) = parse_upstreams(std::slice::from_ref(&text), None, plane) {
                    let again: Vec<String> = list.iter().map(ToString::to_string).collect();
                    prop_assert_eq!(parse_upstreams(&again, None, plane).unwrap(), list);
                }
            }
        }

        #[test]
        fn ranges_agree_with_a_plain_set(ranges in proptest::collection::vec((1u16..200, 1u16..200), 1..8)) {
            let text: Vec<String> = ranges.iter().map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
            let parsed: PortRanges = text.join(",").parse().unwrap();
            for port in 1..220u16 {
                let wanted = ranges.iter().any(|(a, b)| port >= *a.min(b) && port <= *a.max(b));
                prop_assert_eq!(parsed.contains(port), wanted);
            }
            prop_assert_eq!(parsed.to_string().parse::<PortRanges>().unwrap(), parsed);
        }
    }
}
