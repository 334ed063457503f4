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
