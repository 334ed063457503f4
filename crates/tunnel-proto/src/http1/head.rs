//! Heads of HTTP/1.1 messages, pure. In: the bytes of a head, whole. Out: what it means (host, framing, visitor) and
//! the head to send on. What two readers could understand differently is refused here (RFC 9112, section 11.2).

use std::borrow::Cow;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::ops::Range;

use crate::hello::Rewrite;
use addr::{Addr, Authority};

use super::fields::kind;
use super::forwarded::{Came, Trust};
use super::framing::{Facts, Of};
use super::rewrite;
use super::write::{HeadWriter, TOO_MANY_IN_ANSWER};

pub use super::framing::Body;
pub use super::method::Method;
pub use super::reject::{FIELDS_MAX, HEAD_MAX, Reject};
pub use super::write::Reply;

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
        came.write_fields(|name, value| out.field(name, value));
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

        /// An answer goes on as one that every reader ends at the same byte, on a connection that its visitor can speak.
        #[test]
        fn an_answer_that_goes_on_is_unambiguous(
            status in prop::sample::select(vec![100u16, 101, 200, 204, 206, 304, 404, 426, 500]),
            fields in prop::collection::vec(prop::sample::select(vec![
                "Content-Length: 5\r\n", "Content-Length: 5, 5\r\n", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n",
                "Connection: close, X-Hop\r\n", "Connection: keep-alive\r\n", "X-Hop: secret\r\n", "Keep-Alive: timeout=5\r\n",
                "Upgrade: websocket\r\n", "Connection: upgrade\r\n", "Set-Cookie: a=b\r\n", "Proxy-Authenticate: x\r\n",
            ]), 0..6),
            (old, head, http10, close) in any::<(bool, bool, bool, bool)>(),
        ) {
            let method = if head { Method::Head } else { Method::Get };
            let reply = Reply { method, http10, close };
            let text = format!("HTTP/1.{} {status} Fine\r\n{}\r\n", u8::from(!old), fields.concat());
            let mut out = bytes::BytesMut::new();
            let Ok(first) = Response::read(text.as_bytes(), reply, None, &mut out) else { return Ok(()) };
            let sent = String::from_utf8(out.to_vec()).unwrap();
            let count = |name: &str| sent.matches(&format!("\r\n{name}: ")).count();
            let line = format!("HTTP/1.1 {status} ");
            prop_assert!(sent.starts_with(&line));
            prop_assert!(count("Content-Length") + count("Transfer-Encoding") <= 1, "{}", sent);
            prop_assert!(!http10 || count("Transfer-Encoding") == 0, "who speaks 1.0 is sent no chunks: {}", sent);
            prop_assert!(!sent.contains("X-Hop: secret") || !text.contains("X-Hop\r\n"), "{}", sent);
            prop_assert_eq!(sent.matches("Set-Cookie: a=b").count(), text.matches("Set-Cookie").count());
            prop_assert!(status != 204 || count("Content-Length") == 0, "RFC 9110, section 8.6");
            let mut again = bytes::BytesMut::new();
            let second = Response::read(sent.as_bytes(), reply, None, &mut again).unwrap();
            let ends_here = matches!(first.body, Body::Chunked | Body::Eof);
            match first.body {
                // What ended with the upstream's connection goes on in chunks, or ends the visitor's connection.
                Body::Chunked | Body::Eof if http10 => prop_assert!(first.close && second.body == Body::Eof),
                Body::Chunked | Body::Eof => prop_assert_eq!(second.body, Body::Chunked),
                body => prop_assert_eq!(second.body, body),
            }
            if status >= 200 {
                prop_assert_eq!(first.close, close || (http10 && ends_here));
                prop_assert_eq!(first.close, sent.contains("Connection: close\r\n") || sent.contains("Connection: Upgrade, close\r\n"));
            }
            prop_assert!(first.body != Body::Eof || !first.keep_alive, "the upstream's connection was its end");
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
