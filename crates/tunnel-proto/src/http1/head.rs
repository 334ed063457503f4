//! Heads of HTTP/1.1 messages, pure. In: the bytes of a head, whole. Out: what it means (host, framing, visitor) and
//! the head to send on. What two readers could understand differently is refused here (RFC 9112, section 11.2).

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::Range;

use crate::hello::Rewrite;
use addr::{Addr, Authority};

use super::fields::{Kind, is_token, kind};
use super::forwarded::{Came, Claims, Trust};
use super::rewrite;

/// Longest head, in bytes. Go and nginx allow less by default; a cookie jar rarely passes 16 KiB.
pub const HEAD_MAX: usize = 64 * 1024;

/// Most header fields in one head, as it came and as it goes on. Apache's default; 100 of them take 3 KiB of stack.
pub const FIELDS_MAX: usize = 100;

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

/// A request that is refused, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// The status to answer with.
    pub status: u16,
    /// Why, for people: `there are two Host fields`.
    pub reason: String,
}

/// The methods that matter to framing, retries and counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they are named as on the wire")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Trace,
    Other,
}

/// A request that may go on.
#[derive(Debug)]
pub struct Request {
    /// What it asks for.
    pub method: Method,
    /// The visitor speaks HTTP/1.0.
    pub http10: bool,
    /// The host in its one form ([`addr::Host`]); empty if none was given.
    pub host: String,
    /// How its body ends.
    pub body: Body,
    /// The visitor wants the connection to live on.
    pub keep_alive: bool,
    /// Asks for another protocol (RFC 9110, section 7.8).
    pub upgrade: bool,
    /// Who asks.
    pub visitor: Addr,
    /// The peer named a visitor and is not trusted; see [`Came::unheard`].
    pub unheard: bool,
    /// The head to send to the upstream.
    pub head: Vec<u8>,
    path: Range<usize>,
}

/// A response that may go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// How its body ends.
    pub body: Body,
    /// The upstream keeps the connection.
    pub keep_alive: bool,
    /// For how long, in seconds, if it said so.
    pub idle: Option<u64>,
    /// The visitor was told that the connection ends.
    pub close: bool,
}

/// How the visitor is to be answered.
#[derive(Debug, Clone, Copy)]
pub struct Reply {
    /// What was asked: the answer to HEAD has no body.
    pub method: Method,
    /// The visitor speaks HTTP/1.0.
    pub http10: bool,
    /// The connection ends after this response.
    pub close: bool,
}

/// Looks for the end of a head as its bytes come in.
#[derive(Debug, Default)]
pub struct HeadScan {
    at: usize,
    line: usize,
}

impl HeadScan {
    /// The length of the head with its empty line, once it is whole. `strict`: a line ends with CR LF and nothing else.
    ///
    /// # Errors
    /// A bare line feed, or a head above [`HEAD_MAX`].
    pub fn end(&mut self, buf: &[u8], strict: bool) -> Result<Option<usize>, Reject> {
        while let Some(found) = buf.get(self.at..).and_then(|rest| rest.iter().position(|b| *b == b'\n')) {
            let lf = self.at + found;
            let line = buf.get(self.line..lf).unwrap_or_default();
            if strict && line.last() != Some(&b'\r') {
                return Err(Reject::bad("a line of the head ends without a carriage return"));
            }
            self.at = lf + 1;
            self.line = self.at;
            if line.is_empty() || line == b"\r" {
                return if self.at > HEAD_MAX { Err(Reject::too_large()) } else { Ok(Some(self.at)) };
            }
        }
        self.at = buf.len();
        if buf.len() > HEAD_MAX { Err(Reject::too_large()) } else { Ok(None) }
    }
}

impl Request {
    /// Reads a whole head.
    ///
    /// # Errors
    /// With the status to answer; the connection must end after it, since what follows cannot be told apart.
    pub fn read(bytes: &[u8], peer: SocketAddr, trust: &Trust, proto: &str) -> Result<Request, Reject> {
        let bytes = &*encoded(bytes);
        let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(bytes, &mut fields) {
            Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
            Ok(_) => return Err(Reject::bad("the head is cut short")),
            Err(e) => return Err(Reject::of(e, bytes)),
        }
        let method = parsed.method.unwrap_or_default();
        let facts = Facts::collect(parsed.headers, Of::Request)?;
        let http10 = parsed.version == Some(0);
        let line = Line::read(method, parsed.path.unwrap_or_default(), &facts, http10)?;
        let body = facts.request_body(http10)?;
        let came = Came::read(Addr::of(peer), &facts.claims, trust, proto, line.authority.as_ref())?;
        let upgrade = facts.wants_upgrade() && !http10;
        let mut out = HeadWriter::new(bytes.len());
        let path = out.request_line(method, line.target);
        let authority = line.authority.as_ref().map(ToString::to_string).unwrap_or_default();
        out.field("Host", authority.as_bytes());
        for h in parsed.headers.iter() {
            if trust.passes(h.name, kind(h.name), came.trusted) && !facts.nominates(h.name) {
                out.field(h.name, h.value);
            }
        }
        if facts.te_trailers {
            out.field("TE", b"trailers");
        }
        if upgrade {
            out.field("Connection", b"Upgrade");
            for v in &facts.upgrade {
                out.field("Upgrade", v);
            }
        }
        out.body(body, facts.content_length.is_some());
        came.tell(|name, value| out.field(name, value));
        Ok(Request {
            method: Method::of(method),
            http10,
            host: line.authority.map(|a| a.host.to_string()).unwrap_or_default(),
            body,
            keep_alive: if http10 { facts.keep_alive && !facts.close } else { !facts.close },
            upgrade,
            visitor: came.addr(),
            unheard: came.unheard,
            head: out.finish()?,
            path,
        })
    }

    /// Changes the head as the client of its upstream wants it; what was read of it stays as it is.
    ///
    /// # Errors
    /// It would be one that no reader takes.
    pub fn rewrite(&mut self, change: &Rewrite) -> Result<(), Reject> {
        self.head = rewrite::request(&self.head, change)?;
        Ok(())
    }

    /// The path without the query.
    pub fn path(&self) -> &str {
        self.head.get(self.path.clone()).and_then(|b| std::str::from_utf8(b).ok()).unwrap_or("/")
    }
}

impl Response {
    /// Reads a whole head of the upstream and writes the one for the visitor to `out`, changed as its client wants it.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(
        bytes: &[u8],
        reply: Reply,
        change: Option<&Rewrite>,
        out: &mut bytes::BytesMut,
    ) -> Result<Response, &'static str> {
        let mut fields = [MaybeUninit::uninit(); FIELDS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        // The blank before a colon is removed, as a proxy must (RFC 9112, section 5.1).
        let mut config = httparse::ParserConfig::default();
        config.allow_spaces_after_header_name_in_responses(true);
        match config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields) {
            Ok(httparse::Status::Complete(n)) if n == bytes.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(TOO_MANY_IN_ANSWER),
            Ok(_) | Err(_) => return Err("its answer is not HTTP"),
        }
        let status = parsed.code.unwrap_or(0);
        if status < 100 {
            return Err("its answer is not HTTP");
        }
        let facts =
            Facts::collect(parsed.headers, Of::Response).map_err(|_| "the framing of its answer is contradictory")?;
        let http10 = parsed.version == Some(0);
        let body = facts.response_body(status, reply.method)?;
        let mut head = HeadWriter::on(std::mem::take(out));
        head.status_line(status, parsed.reason.unwrap_or_default());
        let is_changed =
            |name: &str| change.is_some_and(|c| rewrite::is_changed(name, &c.response_set, &c.response_remove));
        for h in parsed.headers.iter() {
            if kind(h.name).passes_in_response() && !facts.nominates(h.name) && !is_changed(h.name) {
                head.field(h.name, h.value);
            }
        }
        for f in change.iter().filter(|_| status >= 200).flat_map(|c| &c.response_set) {
            head.field(&f.name, f.value.as_bytes());
        }
        if status == 101 || status == 426 {
            for v in &facts.upgrade {
                head.field("Upgrade", v);
            }
        }
        let mut close = reply.close;
        if status >= 200 {
            close = head.response_framing(body, &facts, reply, status);
        } else if status == 101 {
            head.field("Connection", b"Upgrade");
        }
        *out = head.finish_bytes()?;
        Ok(Response {
            status,
            body,
            keep_alive: (if http10 { facts.keep_alive } else { !facts.close }) && body != Body::Eof,
            idle: facts.idle,
            close,
        })
    }
}

impl Reject {
    /// A request that means nothing, or more than one thing.
    pub fn bad(reason: impl Into<String>) -> Reject {
        Reject { status: 400, reason: reason.into() }
    }

    /// A head above [`HEAD_MAX`].
    #[must_use]
    pub fn too_large() -> Reject {
        Reject { status: 431, reason: format!("the head is longer than {} KiB", HEAD_MAX / 1024) }
    }

    /// More fields than [`FIELDS_MAX`], counting those that go on.
    #[must_use]
    pub fn too_many_fields() -> Reject {
        Reject { status: 431, reason: format!("the head has too many fields: more than {FIELDS_MAX} would go on") }
    }

    fn of(e: httparse::Error, bytes: &[u8]) -> Reject {
        match e {
            httparse::Error::TooManyHeaders => Reject::too_many_fields(),
            httparse::Error::Version if names_a_version(bytes) => {
                Reject { status: 505, reason: "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken".into() }
            }
            e => Reject::bad(format!("the head is malformed ({e})")),
        }
    }
}

impl Method {
    /// By its name on the wire.
    #[must_use]
    pub fn of(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// As counted; methods that are not in RFC 9110 and 5789 are one.
    pub fn label(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Trace => "TRACE",
            Method::Other => "OTHER",
        }
    }

    /// May be sent again when nothing came back (RFC 9110, section 9.2.1): the safe ones.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }
}

/// True if the request line has three words of which the last is a version, only not one that is spoken here.
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    words.nth(2).is_some_and(|v| v.starts_with(b"HTTP/") && v.len() == 8) && words.next().is_none()
}

/// Raw bytes above ASCII in a request target are written as `%XX`, which every reader takes for the same (RFC 3987,
/// section 3.1); old devices and players send them.
fn encoded(bytes: &[u8]) -> Cow<'_, [u8]> {
    use std::io::Write as _;
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (line, rest) = bytes.split_at(end);
    let blank = |b: &u8| *b == b' ';
    let (Some(from), Some(to)) = (line.iter().position(blank), line.iter().rposition(blank)) else {
        return Cow::Borrowed(bytes);
    };
    let target = line.get(from..to).unwrap_or_default();
    if target.is_ascii() {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len() + 2 * target.len());
    out.extend_from_slice(line.get(..from).unwrap_or_default());
    for b in target {
        // Writing into memory does not fail.
        let _ = if b.is_ascii() { out.write_all(&[*b]) } else { write!(out, "%{b:02X}") };
    }
    out.extend_from_slice(line.get(to..).unwrap_or_default());
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

/// Whose head it is: in an answer of our own upstream some things are mended that would be refused of a visitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Request,
    Response,
}

/// What the fields of a head say together.
#[derive(Default)]
struct Facts<'b> {
    host: Option<&'b [u8]>,
    content_length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    connection_upgrade: bool,
    te_trailers: bool,
    idle: Option<u64>,
    upgrade: Vec<&'b [u8]>,
    nominated: Vec<&'b str>,
    claims: Claims<'b>,
}

impl<'b> Facts<'b> {
    fn collect(headers: &[httparse::Header<'b>], of: Of) -> Result<Facts<'b>, Reject> {
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
    fn length(&mut self, value: &[u8], of: Of) -> Result<(), Reject> {
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

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Reject::bad("Transfer-Encoding is something else than chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    fn connection(&mut self, value: &'b [u8], of: Of) -> Result<(), Reject> {
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

    fn nominates(&self, name: &str) -> bool {
        self.nominated.iter().any(|n| n.eq_ignore_ascii_case(name))
    }

    /// `Upgrade: h2c` is not passed on: HTTP/2 frames would then run past everything that is checked here.
    fn wants_upgrade(&self) -> bool {
        self.connection_upgrade
            && !self.upgrade.is_empty()
            && !self
                .upgrade
                .iter()
                .any(|v| elements(v).any(|t| t.get(..2).is_some_and(|p| p.eq_ignore_ascii_case("h2"))))
    }

    fn request_body(&self, http10: bool) -> Result<Body, Reject> {
        match (self.chunked, self.content_length) {
            (true, _) if http10 => Err(Reject::bad("Transfer-Encoding does not exist in HTTP/1.0")),
            (true, _) => Ok(Body::Chunked),
            (false, None | Some(0)) => Ok(Body::None),
            (false, Some(n)) => Ok(Body::Length(n)),
        }
    }

    fn response_body(&self, status: u16, method: Method) -> Result<Body, &'static str> {
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

/// The request line and the host, which belong together.
struct Line<'b> {
    /// `/path?query` or `*`.
    target: &'b str,
    /// `None`: the visitor named no host.
    authority: Option<Authority>,
}

impl<'b> Line<'b> {
    fn read(method: &str, target: &'b str, facts: &Facts<'b>, http10: bool) -> Result<Line<'b>, Reject> {
        if method == "CONNECT" {
            return Err(Reject { status: 405, reason: "CONNECT is not served: this is no forward proxy".into() });
        }
        if !target.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err(Reject::bad("the request target has characters that must be encoded"));
        }
        if target.contains('#') {
            return Err(Reject::bad("the request target has a fragment"));
        }
        if facts.host.is_none() && !http10 {
            return Err(Reject::bad("there is no Host field"));
        }
        let (target, host) = if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
            (target, facts.host.unwrap_or_default())
        } else {
            // The absolute form wins over `Host` (RFC 9112, section 3.2.2), which must be there all the same.
            let rest =
                strip_scheme(target).ok_or_else(|| Reject::bad("the request target is neither a path nor a URL"))?;
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if authority.is_empty() {
                return Err(Reject::bad("the request target names no host"));
            }
            (if path.is_empty() { "/" } else { path }, authority.as_bytes())
        };
        if !target.starts_with(['/', '*']) {
            return Err(Reject::bad("the request target has a query but no path"));
        }
        if host.is_empty() {
            return Ok(Line { target, authority: None });
        }
        let authority = std::str::from_utf8(host).ok().and_then(Authority::parse);
        let authority = authority.ok_or_else(|| Reject::bad("the host is no host"))?;
        Ok(Line { target, authority: Some(authority) })
    }
}

fn strip_scheme(target: &str) -> Option<&str> {
    ["http://", "https://"].iter().find_map(|s| {
        let head = target.get(..s.len())?;
        head.eq_ignore_ascii_case(s).then(|| target.get(s.len()..))?
    })
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

/// More fields than [`FIELDS_MAX`], counting those that go on.
const TOO_MANY_IN_ANSWER: &str = "its answer has too many header fields";

struct HeadWriter<B> {
    out: B,
    /// Where the head begins: others may stand before it.
    start: usize,
    fields: usize,
}

impl HeadWriter<Vec<u8>> {
    /// Room for what is added: the fields about the visitor take some 200 bytes.
    fn new(len: usize) -> HeadWriter<Vec<u8>> {
        HeadWriter { out: Vec::with_capacity(len + 320), start: 0, fields: 0 }
    }

    /// Returns where the path (without query) stands.
    fn request_line(&mut self, method: &str, target: &str) -> Range<usize> {
        self.put(method.as_bytes());
        self.put(b" ");
        let start = self.out.len();
        self.put(target.as_bytes());
        self.put(b" HTTP/1.1\r\n");
        start..start + target.find('?').unwrap_or(target.len())
    }

    fn body(&mut self, body: Body, length_given: bool) {
        match body {
            Body::Length(n) => self.number("Content-Length", n),
            Body::Chunked => self.field("Transfer-Encoding", b"chunked"),
            Body::None if length_given => self.number("Content-Length", 0),
            Body::None | Body::Eof => {}
        }
    }

    /// The head, which must be one that a reader such as this takes.
    fn finish(mut self) -> Result<Vec<u8>, Reject> {
        self.put(b"\r\n");
        match () {
            () if self.fields > FIELDS_MAX => Err(Reject::too_many_fields()),
            () if self.out.len() > HEAD_MAX => Err(Reject::too_large()),
            () => Ok(self.out),
        }
    }
}

impl HeadWriter<bytes::BytesMut> {
    fn on(out: bytes::BytesMut) -> HeadWriter<bytes::BytesMut> {
        HeadWriter { start: out.len(), out, fields: 0 }
    }

    fn status_line(&mut self, status: u16, reason: &str) {
        self.put(b"HTTP/1.1 ");
        self.put(status.to_string().as_bytes());
        self.put(b" ");
        self.put(reason.as_bytes());
        self.put(b"\r\n");
    }

    /// Returns whether the visitor was told that the connection ends.
    fn response_framing(&mut self, body: Body, facts: &Facts<'_>, reply: Reply, status: u16) -> bool {
        match body {
            Body::Length(n) => self.number("Content-Length", n),
            Body::Chunked | Body::Eof if !reply.http10 => self.field("Transfer-Encoding", b"chunked"),
            Body::Chunked | Body::Eof => {}
            // To HEAD, and with 304, these say what GET would bring; 204 has neither (RFC 9110, section 8.6).
            Body::None if status == 204 => {}
            Body::None => match facts.content_length {
                Some(n) => self.number("Content-Length", n),
                None if facts.chunked && !reply.http10 => self.field("Transfer-Encoding", b"chunked"),
                None => {}
            },
        }
        // HTTP/1.0 knows no chunks: such a body ends with the connection.
        let close = reply.close || (reply.http10 && matches!(body, Body::Chunked | Body::Eof));
        let upgrade = if status == 426 { "Upgrade" } else { "" };
        match (close, reply.http10, upgrade) {
            (true, _, "") => self.field("Connection", b"close"),
            (true, _, _) => self.field("Connection", b"Upgrade, close"),
            (false, true, _) => self.field("Connection", b"keep-alive"),
            (false, false, "") => {}
            (false, false, _) => self.field("Connection", b"Upgrade"),
        }
        close
    }

    /// The head, which must be one that a reader such as this takes.
    fn finish_bytes(mut self) -> Result<bytes::BytesMut, &'static str> {
        self.put(b"\r\n");
        match () {
            () if self.fields > FIELDS_MAX => Err(TOO_MANY_IN_ANSWER),
            () if self.out.len() - self.start > HEAD_MAX => Err("its answer's head is too large"),
            () => Ok(self.out),
        }
    }
}

impl<B: bytes::BufMut> HeadWriter<B> {
    fn put(&mut self, bytes: &[u8]) {
        self.out.put_slice(bytes);
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.fields += 1;
        self.put(name.as_bytes());
        self.put(b": ");
        self.put(value);
        self.put(b"\r\n");
    }

    fn number(&mut self, name: &str, n: u64) {
        self.field(name, n.to_string().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Request, Reject> {
        let Some(end) = HeadScan::default().end(bytes, true)? else { return Err(Reject::bad("not whole")) };
        let peer = "192.0.2.1:1".parse().unwrap();
        Request::read(&bytes[..end], peer, &Trust::default(), "http")
    }

    /// Text that looks like a request, with what usually breaks one.
    fn almost() -> impl Strategy<Value = String> {
        let field = prop_oneof![
            Just("Host: a\r\n"),
            Just("Content-Length: 5\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("Connection: close, X\r\n"),
            Just("Upgrade: websocket\r\n"),
            Just("Connection: upgrade\r\n"),
            Just("X-Forwarded-For: 10.0.0.1\r\n"),
            Just("X: y\r\n"),
            Just(" folded\r\n"),
            Just("X : y\r\n"),
            Just("X: y\n"),
            Just("\r"),
            Just("\0"),
            Just("Forwarded: for=1.2.3.4\r\n"),
        ];
        ("(GET|POST|CONNECT|x) (/|/a\\?b|\\*|http://b/c|b) HTTP/1\\.[012]\r\n", prop::collection::vec(field, 0..8))
            .prop_map(|(line, fields)| format!("{line}{}\r\n", fields.concat()))
    }

    /// An answer of as many fields as are taken gets one more where its body goes on in chunks.
    #[test]
    fn an_answer_goes_on_as_one_that_can_be_read() {
        let reply = Reply { method: Method::Get, http10: false, close: false };
        let read = |fields: usize| {
            let head = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(fields));
            let mut out = bytes::BytesMut::new();
            Response::read(head.as_bytes(), reply, None, &mut out).map(|_| out)
        };
        let out = read(FIELDS_MAX - 1).unwrap();
        assert!(Response::read(&out, reply, None, &mut bytes::BytesMut::new()).is_ok());
        assert_eq!(read(FIELDS_MAX).unwrap_err(), TOO_MANY_IN_ANSWER);
        assert_eq!(read(FIELDS_MAX + 1).unwrap_err(), TOO_MANY_IN_ANSWER);
    }

    proptest! {
        /// What goes on is one request, read again as the same one, that says of the visitor what we know and nothing else.
        #[test]
        fn what_goes_on_is_unambiguous(text in almost()) {
            if let Ok(request) = read(text.as_bytes()) {
                let again = read(&request.head).unwrap();
                prop_assert_eq!(&again.host, &request.host);
                prop_assert_eq!(again.body, request.body);
                prop_assert_eq!(again.path(), request.path());
                let sent = String::from_utf8(request.head).unwrap();
                prop_assert_eq!(sent.matches("X-Forwarded-For: ").count(), 1);
                prop_assert!(sent.contains("X-Forwarded-For: 192.0.2.1\r\n") && !sent.contains("10.0.0.1") && !sent.contains("1.2.3.4"));
                prop_assert!(sent.matches("Content-Length").count() + sent.matches("Transfer-Encoding").count() <= 1);
            }
        }

        #[test]
        fn nothing_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), tail in "(\r\n\r\n)?") {
            let mut bytes = bytes;
            bytes.extend_from_slice(tail.as_bytes());
            let _ = read(&bytes);
            let reply = Reply { method: Method::Get, http10: false, close: false };
            let _ = Response::read(&bytes, reply, None, &mut ::bytes::BytesMut::new());
        }
    }
}
