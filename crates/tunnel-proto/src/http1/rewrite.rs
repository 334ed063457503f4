//! Fields that a client has changed for its upstream. In: a [`Rewrite`] of its hello, heads as they would go on. Out: the
//! heads that go on. What was judged stays so: the host that the visitor asked for is still in `X-Forwarded-Host`, and
//! what the edge says of the visitor, and framing, can neither be set nor removed.

use crate::hello::{Rewrite, SetField};
use addr::Authority;

use super::fields::{Kind, is_token, kind};
use super::reject::{FIELDS_MAX, HEAD_MAX, Reject};

/// Most fields that are set or removed for one upstream, in all.
pub const CHANGES_MAX: usize = 32;

/// Longest value of a field that is set, in bytes.
const VALUE_MAX: usize = 1024;

/// Holds a rewrite to its limits: the client before it connects, the edge when it hears it.
///
/// # Errors
/// What is wrong, with what was wanted.
pub fn check(rewrite: &Rewrite) -> Result<(), String> {
    if !rewrite.host.is_empty() && Authority::parse(&rewrite.host).is_none() {
        return Err(format!("`{}` is not a host to send, such as `localhost:5173`", rewrite.host));
    }
    let set = rewrite.request_set.iter().chain(&rewrite.response_set);
    let removed = rewrite.request_remove.iter().chain(&rewrite.response_remove);
    if set.clone().count() + removed.clone().count() > CHANGES_MAX {
        return Err(format!("more than {CHANGES_MAX} header fields are changed for one upstream"));
    }
    for name in set.clone().map(|f| &f.name).chain(removed) {
        if !is_token(name) || name.len() > 64 {
            return Err(format!("`{name}` is not the name of a header field"));
        }
        let ours = match kind(name) {
            Kind::Plain | Kind::Way => false,
            Kind::Host => return Err(format!("`{name}` is changed by --host-header")),
            Kind::Who => ["x-real-ip", "forwarded"].iter().any(|own| like(name, own)) || like_forwarded(name),
            _ => true,
        };
        if ours || ["trailer", "date", "sec-websocket-accept"].iter().any(|n| like(name, n)) {
            return Err(format!("`{name}` is written by the edge, or belongs to one connection: it cannot be changed"));
        }
    }
    for field in set {
        let value = &field.value;
        if value.len() > VALUE_MAX || value.chars().any(|c| c.is_control() && c != '\t') || value.trim() != value {
            return Err(format!("the value of `{}` is longer than {VALUE_MAX} bytes, or no header value", field.name));
        }
    }
    Ok(())
}

/// The request's head for this upstream. `head` is one that this crate wrote.
///
/// # Errors
/// It would be one that no reader takes.
pub fn request(head: &[u8], rewrite: &Rewrite) -> Result<Vec<u8>, Reject> {
    let mut out = Vec::with_capacity(head.len() + 256);
    let mut fields = 0;
    let body = head.strip_suffix(b"\r\n\r\n").unwrap_or(head);
    for (i, line) in lines(body).enumerate() {
        let name = line.split(|b| *b == b':').next().and_then(|n| std::str::from_utf8(n).ok()).unwrap_or_default();
        if i > 0 && is_changed(name, &rewrite.request_set, &rewrite.request_remove) {
            continue;
        }
        if i > 0 && !rewrite.host.is_empty() && name.eq_ignore_ascii_case("host") {
            out.extend_from_slice(b"Host: ");
            out.extend_from_slice(rewrite.host.as_bytes());
        } else {
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
        fields += usize::from(i > 0);
    }
    for f in &rewrite.request_set {
        out.extend_from_slice(format!("{}: {}\r\n", f.name, f.value).as_bytes());
        fields += 1;
    }
    out.extend_from_slice(b"\r\n");
    if fields > FIELDS_MAX {
        return Err(Reject::too_many_fields());
    }
    if out.len() > HEAD_MAX { Err(Reject::too_large()) } else { Ok(out) }
}

/// True if the upstream's own field of this name does not go on.
#[must_use]
pub fn is_changed(name: &str, set: &[SetField], removed: &[String]) -> bool {
    set.iter().any(|f| like(name, &f.name)) || removed.iter().any(|n| like(name, n))
}

/// Lines that end with CR LF, which is nowhere else in a head of ours.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l))
}

/// Equal names to who turns `-` into `_`.
fn like(a: &str, b: &str) -> bool {
    let fold = |c: u8| if c == b'_' { b'-' } else { c.to_ascii_lowercase() };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(a, b)| fold(a) == fold(b))
}

/// `X-Forwarded-For`, `-Host` and `-Proto` in another spelling.
fn like_forwarded(name: &str) -> bool {
    ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"].iter().any(|own| like(name, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> SetField {
        SetField { name: name.into(), value: value.into() }
    }

    fn rewrite(f: impl FnOnce(&mut Rewrite)) -> Rewrite {
        let mut rewrite = Rewrite::default();
        f(&mut rewrite);
        rewrite
    }

    #[test]
    fn host_and_fields_change_and_what_was_judged_stays() {
        let head = b"GET /a?b HTTP/1.1\r\nHost: app.example.com\r\nOrigin: https://app.example.com\r\nx_api-key: visitor's\r\nX-A: 1\r\n\
            X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Host: app.example.com\r\n\r\n";
        let rewrite = rewrite(|r| {
            r.host = "localhost:5173".into();
            r.request_set = vec![set("X-Api-Key", "ours")];
            r.request_remove = vec!["origin".into()];
        });
        check(&rewrite).unwrap();
        assert_eq!(
            String::from_utf8(request(head, &rewrite).unwrap()).unwrap(),
            "GET /a?b HTTP/1.1\r\nHost: localhost:5173\r\nX-A: 1\r\nX-Forwarded-For: 192.0.2.1\r\n\
             X-Forwarded-Host: app.example.com\r\nX-Api-Key: ours\r\n\r\n"
        );
    }

    #[test]
    fn what_the_edge_says_and_framing_cannot_be_changed() {
        for name in [
            "X-Forwarded-For",
            "x_forwarded_host",
            "X-Real-IP",
            "Forwarded",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "Upgrade",
            "TE",
            "Trailer",
            "Host",
            "a b",
            "",
            "X-A\r\nX-B",
        ] {
            assert!(check(&rewrite(|r| r.request_set = vec![set(name, "x")])).is_err(), "{name}");
            assert!(check(&rewrite(|r| r.request_remove = vec![name.into()])).is_err(), "{name}");
            assert!(check(&rewrite(|r| r.response_set = vec![set(name, "x")])).is_err(), "{name}");
        }
        for value in ["a\r\nX-B: c", "a\0", " a", &"x".repeat(2000)] {
            assert!(check(&rewrite(|r| r.request_set = vec![set("X-A", value)])).is_err(), "{value:?}");
        }
        for host in ["a b", "a,b", "a/b", "x:99999"] {
            assert!(check(&rewrite(|r| r.host = host.into())).is_err(), "{host}");
        }
        for name in ["Origin", "Remote-User", "X-Forwarded-Prefix", "Strict-Transport-Security", "Server"] {
            check(&rewrite(|r| r.request_set = vec![set(name, "x")])).unwrap();
        }
    }
}
