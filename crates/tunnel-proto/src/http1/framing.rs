//! What the fields of a head say together: where its body ends, whether the connection stays, who is spoken for. In: fields.
//! Out: facts that agree; a contradiction is refused (RFC 9112, section 6.3).

use super::fields::{Kind, is_token, kind};
use super::forwarded::Claims;
use super::method::Method;
use super::reject::{FIELDS_MAX, Reject};

/// How a message's body ends (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// In chunks (RFC 9112, section 7.1).
    Chunked,
    /// With the connection; responses only.
    Eof,
}

/// Whose head it is: in an answer of our own upstream some things are mended that would be refused of a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Request,
    Response,
}

/// What the fields of a head say together.
#[derive(Default)]
pub(super) struct Facts<'b> {
    pub(super) host: Option<&'b [u8]>,
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) connection_upgrade: bool,
    pub(super) te_trailers: bool,
    pub(super) idle: Option<u64>,
    pub(super) upgrade: Vec<&'b [u8]>,
    pub(super) nominated: Vec<&'b str>,
    pub(super) claims: Claims<'b>,
}

impl<'b> Facts<'b> {
    pub(super) fn collect(headers: &[httparse::Header<'b>], of: Of) -> Result<Facts<'b>, Reject> {
        let mut f = Facts::default();
        for h in headers {
            match kind(h.name) {
                Kind::Host if f.host.replace(h.value).is_some() => {
                    return Err(Reject::bad("there are two Host fields"));
                }
                Kind::ContentLength => f.length(h.value, of)?,
                Kind::TransferEncoding => f.transfer_encoding(h.value)?,
                Kind::Connection => f.connection(h.value, of)?,
                Kind::KeepAlive => f.idle = keep_alive_timeout(h.value),
                Kind::Upgrade if of == Of::Request && !all_elements(h.value, is_protocol) => {
                    return Err(Reject::bad("Upgrade holds something that is no protocol's name"));
                }
                Kind::Upgrade => f.upgrade.push(h.value),
                Kind::Te if of == Of::Request && !all_elements(h.value, is_coding) => {
                    return Err(Reject::bad("TE holds something that is no coding"));
                }
                Kind::Te => f.te_trailers |= elements(h.value).any(|t| t.eq_ignore_ascii_case("trailers")),
                Kind::XForwardedFor => f.claims.x_forwarded_for.push(h.value),
                Kind::Forwarded => f.claims.forwarded.push(h.value),
                Kind::XForwardedProto => f.claims.x_forwarded_proto.push(h.value),
                Kind::XForwardedHost => f.claims.x_forwarded_host.push(h.value),
                _ => {}
            }
        }
        if f.chunked && f.content_length.is_some() {
            return Err(Reject::bad("there are both Content-Length and Transfer-Encoding"));
        }
        Ok(f)
    }

    /// Exactly one number (RFC 9112, section 6.3): no sign, and of a visitor no list and no second field, even an equal
    /// one. An answer may say the same number more than once: it goes on as one, so that nobody reads another.
    pub(super) fn length(&mut self, value: &[u8], of: Of) -> Result<(), Reject> {
        let text = std::str::from_utf8(value).map_err(|_| Reject::bad("Content-Length is no number"))?;
        let numbers = text.split(|c| c == ',' && of == Of::Response);
        for number in numbers {
            let number = if of == Of::Response { number.trim_matches([' ', '\t']) } else { number };
            let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
            let n = number.parse().ok().filter(|_| digits);
            let n = n.ok_or_else(|| Reject::bad("Content-Length is no number"))?;
            if self.content_length.replace(n).is_some_and(|before| of == Of::Request || before != n) {
                return Err(Reject::bad("there are two Content-Length fields"));
            }
        }
        Ok(())
    }

    pub(super) fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reject::bad("Transfer-Encoding is something else than chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    pub(super) fn connection(&mut self, value: &'b [u8], of: Of) -> Result<(), Reject> {
        if of == Of::Request && !all_elements(value, is_token) {
            return Err(Reject::bad("Connection holds something that is no field's name"));
        }
        for token in elements(value) {
            if token.eq_ignore_ascii_case("close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case("keep-alive") {
                self.keep_alive = true;
            } else if token.eq_ignore_ascii_case("upgrade") {
                self.connection_upgrade = true;
            } else if self.nominated.len() < FIELDS_MAX {
                self.nominated.push(token);
            } else {
                return Err(Reject::bad("Connection names too many fields"));
            }
        }
        Ok(())
    }

    pub(super) fn nominates(&self, name: &str) -> bool {
        self.nominated.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// `Upgrade: h2c` is not passed on: HTTP/2 frames would then run past everything that is checked here.
    pub(super) fn wants_upgrade(&self) -> bool {
        self.connection_upgrade
            && !self.upgrade.is_empty()
            && !self
                .upgrade
                .iter()
                .any(|v| elements(v).any(|t| t.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("h2"))))
    }

    pub(super) fn request_body(&self, http10: bool) -> Result<Body, Reject> {
        match (self.chunked, self.content_length) {
            (true, _) if http10 => Err(Reject::bad("Transfer-Encoding does not exist in HTTP/1.0")),
            (true, _) => Ok(Body::Chunked),
            (false, None | Some(0)) => Ok(Body::None),
            (false, Some(n)) => Ok(Body::Length(n)),
        }
    }

    pub(super) fn response_body(&self, status: u16, method: Method) -> Result<Body, &'static str> {
        if method == Method::Head || status < 200 || status == 204 || status == 304 {
            return Ok(Body::None);
        }
        Ok(match (self.chunked, self.content_length) {
            (true, _) => Body::Chunked,
            (false, Some(0)) => Body::None,
            (false, Some(n)) => Body::Length(n),
            (false, None) => Body::Eof,
        })
    }
}

/// The elements of a list (RFC 9110, section 5.6.1) without empty ones; none of a value that is no text.
fn elements(value: &[u8]) -> impl Iterator<Item = &str> {
    std::str::from_utf8(value)
        .unwrap_or_default()
        .split(',')
        .map(|t| t.trim_matches([' ', '\t']))
        .filter(|t| !t.is_empty())
}

fn all_elements(value: &[u8], good: fn(&str) -> bool) -> bool {
    value.is_ascii() && elements(value).all(good)
}

/// `websocket`, `SPDY/3.1` (RFC 9110, section 7.8).
fn is_protocol(text: &str) -> bool {
    text.split_once('/').map_or(is_token(text), |(name, version)| is_token(name) && is_token(version))
}

/// `trailers`, `gzip;q=0.5` (RFC 9110, section 10.1.4).
fn is_coding(text: &str) -> bool {
    text.split(';').map(|part| part.trim_matches([' ', '\t'])).enumerate().all(|(i, part)| match part.split_once('=') {
        Some((name, value)) => i > 0 && is_token(name) && is_token(value),
        None => is_token(part),
    })
}

fn keep_alive_timeout(value: &[u8]) -> Option<u64> {
    elements(value).find_map(|t| t.strip_prefix("timeout=")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts<'b>(fields: &[(&'b str, &'b str)], of: Of) -> Result<Facts<'b>, Reject> {
        let headers: Vec<httparse::Header<'b>> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        Facts::collect(&headers, of)
    }

    fn refused(fields: &[(&str, &str)], of: Of) -> String {
        match facts(fields, of) {
            Ok(_) => panic!("{fields:?} is taken"),
            Err(e) => e.reason,
        }
    }

    /// Where two readers could see two ends of a body, a visitor is refused (RFC 9112, section 6.3).
    #[test]
    fn a_body_has_one_end() {
        let both = "there are both Content-Length and Transfer-Encoding";
        let two = "there are two Content-Length fields";
        let none = "Content-Length is no number";
        let coding = "Transfer-Encoding is something else than chunked";
        for (fields, why) in [
            (&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")][..], both),
            (&[("transfer-encoding", "Chunked"), ("CONTENT-LENGTH", "0")], both),
            (&[("Content-Length", "5"), ("Content-Length", "5")], two),
            (&[("Content-Length", "5"), ("Content-Length", "6")], two),
            (&[("Content-Length", "5, 5")], none),
            (&[("Content-Length", "")], none),
            (&[("Content-Length", "+5")], none),
            (&[("Content-Length", "-1")], none),
            (&[("Content-Length", "0x5")], none),
            (&[("Content-Length", "5 ")], none),
            (&[("Content-Length", "18446744073709551616")], none),
            (&[("Content-Length", "\u{665}")], none),
            (&[("Transfer-Encoding", "chunked, chunked")], coding),
            (&[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], coding),
            (&[("Transfer-Encoding", "gzip, chunked")], coding),
            (&[("Transfer-Encoding", "identity")], coding),
            (&[("Transfer-Encoding", " chunked")], coding),
            (&[("Transfer-Encoding", "")], coding),
            (&[("Host", "a"), ("host", "a")], "there are two Host fields"),
        ] {
            assert_eq!(refused(fields, Of::Request), why, "{fields:?}");
        }
        for (fields, body) in [
            (&[][..], Body::None),
            (&[("Content-Length", "0")], Body::None),
            (&[("Content-Length", "007")], Body::Length(7)),
            (&[("Content-Length", "18446744073709551615")], Body::Length(u64::MAX)),
            (&[("Transfer-Encoding", "CHUNKED")], Body::Chunked),
        ] {
            assert_eq!(facts(fields, Of::Request).unwrap().request_body(false), Ok(body), "{fields:?}");
        }
        // Who speaks 1.0 knows no chunks, and what such a peer means by them nobody knows.
        assert!(facts(&[("Transfer-Encoding", "chunked")], Of::Request).unwrap().request_body(true).is_err());
        assert!(facts(&[("Content-Length", "3")], Of::Request).unwrap().request_body(true).is_ok());
    }

    /// An upstream of our own that says the same twice is taken at its word, one that contradicts itself is not.
    #[test]
    fn an_answer_may_say_the_same_twice() {
        let length = |fields: &[(&str, &str)]| facts(fields, Of::Response).map(|f| f.content_length);
        assert_eq!(length(&[("Content-Length", "5"), ("Content-Length", "5")]), Ok(Some(5)));
        assert_eq!(length(&[("Content-Length", "5, 5,\t5")]), Ok(Some(5)));
        assert!(length(&[("Content-Length", "5, 6")]).is_err());
        assert!(length(&[("Content-Length", "5"), ("Content-Length", "05, 6")]).is_err());
        assert!(length(&[("Content-Length", "5,")]).is_err());
        assert!(facts(&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")], Of::Response).is_err());
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_they_say() {
        let said = facts(&[("Content-Length", "5")], Of::Response).unwrap();
        for (status, method, body) in [
            (200, Method::Get, Body::Length(5)),
            (200, Method::Head, Body::None),
            (101, Method::Get, Body::None),
            (199, Method::Get, Body::None),
            (204, Method::Get, Body::None),
            (205, Method::Get, Body::Length(5)),
            (304, Method::Get, Body::None),
            (404, Method::Post, Body::Length(5)),
        ] {
            assert_eq!(said.response_body(status, method), Ok(body), "{status} {method:?}");
        }
        let silent = facts(&[], Of::Response).unwrap();
        assert_eq!(silent.response_body(200, Method::Get), Ok(Body::Eof), "it ends with the connection");
        let nothing = facts(&[("Content-Length", "0")], Of::Response).unwrap();
        assert_eq!(nothing.response_body(200, Method::Get), Ok(Body::None));
    }

    #[test]
    fn a_connection_field_is_a_list_of_names() {
        let f = facts(&[("Connection", "Keep-Alive, ,X-Secret"), ("connection", "CLOSE")], Of::Request).unwrap();
        assert!(f.close && f.keep_alive && f.nominates("x-secret") && !f.nominates("close"));
        for bad in ["a b", "close;x", "\"close\"", "\u{e9}"] {
            assert_eq!(
                refused(&[("Connection", bad)], Of::Request),
                "Connection holds something that is no field's name"
            );
            assert!(facts(&[("Connection", bad)], Of::Response).is_ok(), "of an answer the rest is taken");
        }
        let many = vec!["x"; FIELDS_MAX].join(",");
        assert!(facts(&[("Connection", &many)], Of::Request).is_ok());
        let more = format!("{many},x");
        assert_eq!(refused(&[("Connection", &more)], Of::Request), "Connection names too many fields");
    }

    #[test]
    fn another_protocol_is_asked_for_by_two_fields_and_is_never_http2() {
        let wants = |fields: &[(&str, &str)]| facts(fields, Of::Request).unwrap().wants_upgrade();
        assert!(wants(&[("Connection", "upgrade"), ("Upgrade", "websocket")]));
        assert!(wants(&[("Connection", "x, Upgrade"), ("Upgrade", "SPDY/3.1, foo")]));
        assert!(!wants(&[("Upgrade", "websocket")]) && !wants(&[("Connection", "upgrade")]));
        for h2 in ["h2c", "H2", "websocket, h2c", "h2c/1"] {
            assert!(!wants(&[("Connection", "upgrade"), ("Upgrade", h2)]), "{h2}");
        }
        assert!(!wants(&[("Connection", "upgrade"), ("Upgrade", "websocket"), ("Upgrade", "h2c")]));
        for bad in ["web socket", "a/b/c", "/", "a/"] {
            assert_eq!(refused(&[("Upgrade", bad)], Of::Request), "Upgrade holds something that is no protocol's name");
        }
    }

    #[test]
    fn codings_and_waiting_times() {
        let te = |value: &str| facts(&[("TE", value)], Of::Request).map(|f| f.te_trailers);
        assert_eq!((te("trailers"), te("gzip;q=0.5, Trailers"), te("deflate")), (Ok(true), Ok(true), Ok(false)));
        for bad in ["trailers=1", "gzip;q=", "a b", ";q=1"] {
            assert_eq!(te(bad), Err(Reject::bad("TE holds something that is no coding")), "{bad}");
        }
        let idle = |value: &str| facts(&[("Keep-Alive", value)], Of::Response).unwrap().idle;
        assert_eq!((idle("max=5, timeout=15"), idle("timeout=x"), idle("timeout=-1")), (Some(15), None, None));
    }

    proptest! {
        /// Whatever fields come together in whatever order: what is taken has one length at most, and of a visitor each
        /// field about it came once.
        #[test]
        fn what_is_taken_is_said_once(
            fields in prop::collection::vec(prop::sample::select(vec![
                ("Content-Length", "5"), ("content-length", "5"), ("Content-Length", "6"), ("Transfer-Encoding", "chunked"),
                ("transfer-encoding", "gzip"), ("Host", "a"), ("Connection", "close"), ("X", "y"),
            ]), 0..5),
            request in any::<bool>(),
        ) {
            let of = if request { Of::Request } else { Of::Response };
            let Ok(f) = facts(&fields, of) else { return Ok(()) };
            let named = |name: &str| fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).count();
            let lengths: std::collections::BTreeSet<&str> =
                fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("content-length")).map(|(_, v)| *v).collect();
            prop_assert!(lengths.len() <= 1 && (lengths.is_empty() || !f.chunked));
            prop_assert!(named("transfer-encoding") <= 1 && named("host") <= 1);
            prop_assert!(!request || named("content-length") <= 1);
        }
    }
}
