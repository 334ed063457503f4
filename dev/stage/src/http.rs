//! A visitor that speaks HTTP/1.1 and hides nothing: what is sent is what was written. In: an address and a request.
//! Out: the whole answer.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use base64::Engine;

/// A visitor that gets no byte for this long has been forgotten.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Anything that bytes go through.
pub trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Status line and fields, as they came.
    pub head: String,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        header(&self.head, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A TCP connection with time limits and without delay.
///
/// # Errors
/// As the system's.
pub fn tcp(addr: SocketAddr) -> io::Result<TcpStream> {
    let s = TcpStream::connect_timeout(&addr, PATIENCE)?;
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(PATIENCE))?;
    s.set_write_timeout(Some(PATIENCE))?;
    Ok(s)
}

/// The same from a source address of one's own, such as another of 127.0.0.0/8.
///
/// # Errors
/// As the system's.
pub fn tcp_from(source: impl Into<IpAddr>, addr: SocketAddr) -> io::Result<TcpStream> {
    use rustix::net;
    let source = SocketAddr::from((source.into(), 0));
    let family = if source.is_ipv4() { net::AddressFamily::INET } else { net::AddressFamily::INET6 };
    let socket = net::socket(family, net::SocketType::STREAM, None)?;
    net::bind(&socket, &source)?;
    net::connect(&socket, &addr)?;
    let s = TcpStream::from(socket);
    s.set_nodelay(true)?;
    s.set_read_timeout(Some(PATIENCE))?;
    s.set_write_timeout(Some(PATIENCE))?;
    Ok(s)
}

/// `GET path` on a connection of its own, with extra fields such as `("X-Forwarded-For", "192.0.2.1")`.
///
/// # Errors
/// No connection, no answer, or not HTTP.
pub fn get(addr: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Response> {
    get_on(&mut tcp(addr)?, host, path, fields)
}

/// `GET path` on a connection that stays usable.
///
/// # Errors
/// No answer, or not HTTP.
pub fn get_on(s: &mut impl Stream, host: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Response> {
    let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    s.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n").as_bytes())?;
    read_response(s)
}

/// One request on a connection of its own, with fields besides `Host: gate` and `Connection: close`: status and body of the answer; status 0 if
/// there is none.
#[track_caller]
pub fn request(addr: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let (status, _, body) = request_full(addr, method, path, fields);
    (status, body)
}

/// The same with the head of the answer between status and body.
#[track_caller]
pub fn request_full(addr: SocketAddr, method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n{fields}\r\n");
    let answer = exchange(addr, head.as_bytes(), Duration::from_secs(20));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head.to_string(), body.to_string())
}

/// Sends bytes as they are on a connection of its own, and gives everything that comes until the other side ends it or
/// is silent for `limit`.
///
/// # Panics
/// Nobody accepts there.
#[track_caller]
pub fn exchange(addr: SocketAddr, bytes: &[u8], limit: Duration) -> String {
    let mut s = tcp(addr).unwrap_or_else(|e| panic!("nobody accepts at {addr}: {e}"));
    s.set_read_timeout(Some(limit)).unwrap();
    // The answer may come, and the end, before everything is sent.
    let _ = s.write_all(bytes);
    let mut out = Vec::new();
    let _ = s.read_to_end(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// `POST path` with a body, on a connection that stays usable.
///
/// # Errors
/// No answer, or not HTTP.
pub fn post_on(s: &mut impl Stream, host: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    s.write_all(format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes())?;
    s.write_all(body)?;
    read_response(s)
}

/// Asks for an upgrade to a websocket; after 101 the stream carries raw bytes.
///
/// # Errors
/// No answer, or not HTTP.
pub fn upgrade_on(s: &mut impl Stream, host: &str, path: &str, fields: &[(&str, &str)]) -> io::Result<Response> {
    let fields: String = fields.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect();
    let fixed = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n";
    s.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fixed}{fields}\r\n").as_bytes())?;
    read_response(s)
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455, 4.2.2).
#[must_use]
pub fn websocket_accept(key: &str) -> String {
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.trim());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// A head up to its empty line, read so that no byte of what follows is taken; `None` at a clean end.
///
/// # Errors
/// An end inside the head, more than 256 KiB, or as the stream.
pub fn read_head(s: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if s.read(&mut byte)? == 0 {
            let cut = || {
                io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the head was cut: {:?}", String::from_utf8_lossy(&head)),
                )
            };
            return if head.is_empty() { Ok(None) } else { Err(cut()) };
        }
        head.push(byte[0]);
        if head.len() > 256 * 1024 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a head of more than 256 KiB"));
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

/// One whole answer; interim answers other than 101 are passed over.
///
/// # Errors
/// No answer, a body that ends early, or as the stream.
pub fn read_response(s: &mut impl Read) -> io::Result<Response> {
    loop {
        let head =
            read_head(s)?.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))?;
        let status = head.split_whitespace().nth(1).and_then(|w| w.parse().ok());
        let status: u16 = status
            .filter(|_| head.starts_with("HTTP/1."))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, head.clone()))?;
        match status {
            101 | 204 | 304 => return Ok(Response { status, head, body: vec![] }),
            100..200 => {}
            _ => {
                let body = read_body(s, &head, true)?;
                return Ok(Response { status, head, body });
            }
        }
    }
}

/// The body that belongs to a request's head.
///
/// # Errors
/// A body that ends early, or as the stream.
pub fn read_request_body(s: &mut impl Read, head: &str) -> io::Result<Vec<u8>> {
    read_body(s, head, false)
}

/// The first field of that name in a head.
#[must_use]
pub fn header(head: &str, name: &str) -> Option<String> {
    headers(head, name).into_iter().next()
}

/// Every field of that name in a head.
#[must_use]
pub fn headers(head: &str, name: &str) -> Vec<String> {
    let field =
        |l: &str| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_string());
    head.lines().skip(1).filter_map(field).collect()
}

fn read_body(s: &mut impl Read, head: &str, to_end: bool) -> io::Result<Vec<u8>> {
    if header(head, "transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
        return read_chunks(s);
    }
    match header(head, "content-length").map(|v| v.parse::<usize>()) {
        Some(Ok(n)) => {
            let mut body = vec![0; n];
            s.read_exact(&mut body)?;
            Ok(body)
        }
        Some(Err(e)) => Err(io::Error::new(io::ErrorKind::InvalidData, e)),
        None if to_end => crate::read_all(s, usize::MAX),
        None => Ok(vec![]),
    }
}

fn read_chunks(s: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(s)?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16);
        let size = size.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size `{line}`: {e}")))?;
        let from = body.len();
        body.resize(from + size, 0);
        s.read_exact(&mut body[from..])?;
        // After the last chunk come trailers up to an empty line; after every other its own line end.
        while !read_line(s)?.is_empty() {}
        if size == 0 {
            return Ok(body);
        }
    }
}

fn read_line(s: &mut impl Read) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") {
        s.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8_lossy(&line).into_owned())
}
