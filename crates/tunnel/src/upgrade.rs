//! The HTTP around the tunnel: the request that becomes a link, and the few others the control plane answers. In:
//! bytes before the upgrade. Out: parsed heads, answers. Strict: one request, no body, then upgrade or close.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use net::buffers::Lease;
use net::link::{Link, LinkRead};
use runtime::answer::Media;
use tunnel_proto::hello::{REJECT_HEADER, RejectCode};

/// Longest head of a request or an answer. Proxies add headers; 16 KiB is what nginx and Caddy allow at the most.
const HEAD_MAX: usize = 16 * 1024;

/// Most headers in a head.
const HEADERS_MAX: usize = 96;

/// RFC 6455, section 1.3.
const WS_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request's head.
#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) method: String,
    /// As sent, query included.
    pub(super) target: String,
    headers: Vec<(String, Vec<u8>)>,
}

/// What a link is for; the client says it in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// Shared by many streams; carrier 0 begins the session.
    Carrier(u8),
    /// For one bulk stream at a time.
    Bulk,
}

/// Headers of the upgrade beyond RFC 6455.
pub(super) const H_SESSION: &str = "x-portcullis-session";
pub(super) const H_CLIENT: &str = "x-portcullis-client";
pub(super) const H_LINK: &str = "x-portcullis-link";

impl RequestHead {
    /// The only value of a header; `None` if it is absent or came twice.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.values(name);
        let first = values.next()?;
        if values.next().is_some() {
            return None;
        }
        std::str::from_utf8(first).ok().map(str::trim)
    }

    /// All values of a header.
    pub(super) fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_slice())
    }

    /// Path without query.
    pub(super) fn path(&self) -> &str {
        self.target.split(['?', '#']).next().unwrap_or_default()
    }

    /// `Authorization: Bearer TOKEN`.
    pub(super) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The websocket key, if this asks for a websocket (RFC 6455, section 4.2.1).
    pub(super) fn websocket_key(&self) -> Option<&str> {
        let lists = |name: &str, want: &str| {
            self.values(name)
                .any(|v| String::from_utf8_lossy(v).split(',').any(|t| t.trim().eq_ignore_ascii_case(want)))
        };
        if self.method != "GET" || !lists("upgrade", "websocket") || !lists("connection", "upgrade") {
            return None;
        }
        self.header("sec-websocket-key").filter(|k| STANDARD.decode(k).is_ok_and(|k| k.len() == 16))
    }
}

impl LinkKind {
    pub(super) fn parse(text: &str) -> Option<LinkKind> {
        match text.split_once('/') {
            None if text == "bulk" => Some(LinkKind::Bulk),
            Some(("carrier", no)) => no.parse().ok().filter(|n| *n < CARRIERS_MAX).map(LinkKind::Carrier),
            _ => None,
        }
    }
}

/// Most carriers of a session.
pub(super) const CARRIERS_MAX: u8 = 16;

impl std::fmt::Display for LinkKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LinkKind::Carrier(no) => write!(f, "carrier/{no}"),
            LinkKind::Bulk => f.write_str("bulk"),
        }
    }
}

/// Reads a request's head; what was read beyond it goes back to the link. `None`: the peer left without a word.
///
/// # Errors
/// What came is no HTTP/1.1 request, or too long.
pub(super) async fn read_request(link: &mut LinkRead) -> Result<Option<RequestHead>> {
    let Some(head) = read_head(link).await? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    request.parse(&head).context("not an HTTP/1.1 request")?;
    let own = |h: &httparse::Header<'_>| (h.name.to_string(), h.value.to_vec());
    Ok(Some(RequestHead {
        method: request.method.unwrap_or_default().to_string(),
        target: request.path.unwrap_or_default().to_string(),
        headers: request.headers.iter().map(own).collect(),
    }))
}

/// Reads an answer's head: status, reason, and what follows the head of a refused upgrade, for the person.
///
/// # Errors
/// What came is no HTTP/1.1 answer, or the peer left.
pub(super) async fn read_answer(link: &mut LinkRead) -> Result<(u16, Vec<(String, String)>)> {
    let Some(head) = read_head(link).await? else {
        bail!("the other side closed the connection without an answer");
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(&head).context("the other side does not speak HTTP/1.1")?;
    let own =
        |h: &httparse::Header<'_>| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).trim().to_string());
    let headers = answer.headers.iter().map(own).collect();
    Ok((answer.code.unwrap_or_default(), headers))
}

/// The answer to a websocket key (RFC 6455, section 4.2.2).
pub(super) fn accept_key(key: &str) -> String {
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{WS_GUID}").as_bytes()))
}

/// A short answer that ends the connection.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    media: Media,
    body: Cow<'static, str>,
    code: Option<RejectCode>,
    field: Option<(&'static str, &'static str)>,
}

impl Answer {
    /// What was asked for.
    pub(super) fn ok(media: Media, body: String) -> Answer {
        Answer { status: StatusCode::OK, media, body: body.into(), code: None, field: None }
    }

    /// A refusal: the code is for programs, the words are for people.
    pub(super) fn reject(status: StatusCode, code: RejectCode, words: impl Into<Cow<'static, str>>) -> Answer {
        Answer { status, media: Media::Text, body: words.into(), code: Some(code), field: None }
    }

    /// With a header on top.
    pub(super) fn with(self, name: &'static str, value: &'static str) -> Answer {
        Answer { field: Some((name, value)), ..self }
    }

    /// Sends it and ends the connection.
    pub(super) async fn send(self, link: &mut Link) {
        // The asker may be gone; there is nobody to tell.
        let _ = link.write.write_all(self.bytes().as_bytes()).await;
        link.write.close().await;
    }

    fn bytes(&self) -> String {
        let mut out = format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n", self.status, self.body.len());
        let code = self.code.map(|code| (REJECT_HEADER, code.as_str()));
        for (name, value) in self.media.fields().chain(code).chain(self.field).chain([("Connection", "close")]) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        out + "\r\n" + &self.body
    }
}

/// An answer's body, by the length that its head tells (RFC 9112, section 6.3), at most `max` bytes: a proxy that keeps
/// the connection alive says nothing more after it. What came before a connection broke off is given as it is.
pub(super) async fn read_body(link: &mut LinkRead, headers: &[(String, String)], max: usize) -> Body {
    let of = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let chunked = of("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().ends_with("chunked"));
    let length = of("content-length").filter(|_| !chunked).and_then(|v| v.parse::<usize>().ok());
    let mut raw = Vec::new();
    let mut part = Lease::new();
    let mut ended = false;
    loop {
        let (complete, data) = match length {
            // Looked at where a chunk may have ended only.
            _ if chunked && (ended || raw.ends_with(b"\r\n")) => match unchunked(&raw) {
                (data, true) => (true, Some(data)),
                (data, false) => (false, Some(data)),
            },
            Some(n) => (raw.len() >= n, None),
            None => (ended && !chunked && raw.len() < max, None),
        };
        if complete || ended {
            let mut bytes = data.unwrap_or(raw);
            bytes.truncate(length.unwrap_or(max).min(max));
            return Body { bytes, complete };
        }
        ended = raw.len() >= max || link.fill(&mut part).await.unwrap_or(0) == 0;
        raw.extend_from_slice(part.filled());
        part.clear();
    }
}

/// What came of a body.
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    /// All of it.
    pub(super) complete: bool,
}

/// The data of a chunked body as far as it has come, and whether that is all of it (RFC 9112, section 7.1).
fn unchunked(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    loop {
        let Some(end) = raw.windows(2).position(|w| w == b"\r\n") else { return (out, false) };
        let line = String::from_utf8_lossy(&raw[..end]).into_owned();
        let size = line.split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else { return (out, false) };
        raw = &raw[end + 2..];
        if size == 0 {
            return (out, true);
        }
        out.extend_from_slice(&raw[..size.min(raw.len())]);
        match raw.get(size.saturating_add(2)..) {
            Some(rest) => raw = rest,
            None => return (out, false),
        }
    }
}

async fn read_head(link: &mut LinkRead) -> Result<Option<Vec<u8>>> {
    let mut head: Vec<u8> = Vec::new();
    let mut part = Lease::new();
    loop {
        let n = link.fill(&mut part).await.context("the connection broke")?;
        if n == 0 {
            if head.is_empty() {
                return Ok(None);
            }
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof)).context("the connection ended inside a head");
        }
        head.extend_from_slice(part.filled());
        part.clear();
        if let Some(at) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            link.unread(&head[at + 4..]);
            head.truncate(at + 4);
            return Ok(Some(head));
        }
        // What cannot become a head is refused before more of it is read.
        if head.len() > HEAD_MAX {
            bail!("a head of more than {HEAD_MAX} bytes");
        }
        if !head[0].is_ascii_uppercase() {
            bail!("not HTTP");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    /// What is read of an answer after which the connection stays open.
    async fn body_of(answer: &'static [u8]) -> (Vec<u8>, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        far.write_all(answer).await.unwrap();
        let mut link = Link::plain(near);
        let (_, headers) = read_answer(&mut link.read).await.unwrap();
        let read = read_body(&mut link.read, &headers, 4096);
        let body = tokio::time::timeout(Duration::from_secs(5), read).await.unwrap();
        (body.bytes, body.complete)
    }

    #[test]
    fn a_refusal_says_why_to_programs_and_to_people() {
        let words = "404: no such session\n";
        let answer = Answer::reject(StatusCode::NOT_FOUND, RejectCode::NoSuchSession, words).with("Allow", "GET");
        assert_eq!(
            answer.bytes(),
            "HTTP/1.1 404 Not Found\r\nContent-Length: 21\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Portcullis-Reject: no-such-session\r\n\
             Allow: GET\r\nConnection: close\r\n\r\n404: no such session\n"
        );
    }

    #[tokio::test]
    async fn a_body_ends_where_its_head_says_although_the_connection_stays() {
        for (answer, wanted) in [
            (&b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"[..], &b""[..]),
            (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnonemore", b"none"),
            (b"HTTP/1.1 502 x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        ] {
            assert_eq!(body_of(answer).await, (wanted.to_vec(), true));
        }
    }
}
