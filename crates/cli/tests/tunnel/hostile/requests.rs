//! Requests that two readers could understand differently (RFC 9112, section 11.2), and requests without end.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stage::http;
use stage::upstream::Upstream;

use super::Site;

/// A site that notes the first line of every request it sees, the naive way: it believes `Content-Length` alone and
/// takes whatever follows for the next request, as an old server would.
fn noting() -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = seen.clone();
    let upstream = Upstream::serve(move |mut s| {
        while let Ok(Some(head)) = http::read_head(&mut s) {
            notes.lock().unwrap().push(head.lines().next().unwrap_or_default().to_string());
            let n: usize = http::header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
            // Chunked bodies that the edge sent on properly are read, so that they do not look like requests.
            let chunked = http::header(&head, "transfer-encoding").is_some_and(|v| v == "chunked");
            let read =
                if chunked { http::read_request_body(&mut s, &head).map(drop) } else { s.read_exact(&mut vec![0; n]) };
            if read.is_err() || s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n").is_err() {
                return;
            }
        }
    });
    (upstream, seen)
}

/// What the edge answers to raw bytes, until it is silent for a while.
fn answers(site: &Site, bytes: &[u8]) -> String {
    let mut s: TcpStream = http::tcp(site.http()).unwrap();
    s.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let _ = s.write_all(bytes);
    let mut out = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = s.read(&mut buf) {
        out.extend_from_slice(&buf[..n]);
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn smuggling() {
    let (upstream, seen) = noting();
    let mut site = Site::start(upstream, &[]);
    let inner = "GET /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n";
    let n = inner.len();
    // Each must be refused with 400, and nothing of it may reach the upstream.
    let refused = [
        (
            "length and chunked",
            format!(
                "POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "chunked and length",
            format!(
                "POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\nContent-Length: {n}\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "two lengths",
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0\r\nContent-Length: {n}\r\n\r\n{inner}"),
        ),
        ("a list of lengths", format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0, {n}\r\n\r\n{inner}")),
        ("a signed length", format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: +{n}\r\n\r\n{inner}")),
        ("a hex length", format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 0x{n:x}\r\n\r\n{inner}")),
        (
            "a huge length",
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length: 18446744073709551617\r\n\r\n{inner}"),
        ),
        (
            "a space before the colon",
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nContent-Length : {n}\r\n\r\n{inner}"),
        ),
        (
            "a folded line",
            format!(
                "POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "chunked twice",
            format!(
                "POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "chunked not last",
            format!(
                "POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{inner}"
            ),
        ),
        (
            "an unknown coding",
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "a coding behind a control character",
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        (
            "chunked in HTTP/1.0",
            format!("POST /a HTTP/1.0\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{inner}"),
        ),
        ("two hosts", "GET /a HTTP/1.1\r\nHost: site.test\r\nHost: other.test\r\n\r\n".to_string()),
        ("no host", "GET /a HTTP/1.1\r\n\r\n".to_string()),
        ("a zero byte", "GET /a HTTP/1.1\r\nHost: site.test\r\nX: a\0b\r\n\r\n".to_string()),
        (
            "a bare carriage return",
            format!("GET /a HTTP/1.1\r\nHost: site.test\r\nX: a\rContent-Length: {n}\r\n\r\n{inner}"),
        ),
        ("a space in the target", "GET /a /smuggled HTTP/1.1\r\nHost: site.test\r\n\r\n".to_string()),
    ];
    for (what, bytes) in &refused {
        seen.lock().unwrap().clear();
        let answer = answers(&site, bytes.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 501"), "{what}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what} was answered twice: {answer:?}");
        assert!(seen.lock().unwrap().is_empty(), "{what} reached the upstream: {:?}", seen.lock().unwrap());
    }
    // Chunks that lie about themselves: the request may begin, the smuggled one never may.
    for (what, chunks) in [
        ("a huge chunk", "ffffffffffffffff1\r\n"),
        ("a negative chunk", "-1\r\n"),
        ("a chunk with a sign", "+3\r\nabc\r\n"),
        ("a chunk of the wrong length", "3\r\nabcdef\r\n"),
        ("bare line feeds", "3\nabc\n0\n\n"),
        ("an extension with a line feed", "3;x\nabc\r\n"),
    ] {
        seen.lock().unwrap().clear();
        let request =
            format!("POST /a HTTP/1.1\r\nHost: site.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{inner}");
        let answer = answers(&site, request.as_bytes());
        assert!(!seen.lock().unwrap().iter().any(|l| l.contains("smuggled")), "{what}: {:?}", seen.lock().unwrap());
        assert!(answer.matches("HTTP/1.1 200").count() <= 1, "{what} was answered twice: {answer:?}");
    }
    // Two honest requests in one packet are two requests.
    seen.lock().unwrap().clear();
    let two = "POST /one HTTP/1.1\r\nHost: site.test\r\nContent-Length: 2\r\n\r\nhiGET /two HTTP/1.1\r\nHost: site.test\r\n\r\n";
    assert_eq!(answers(&site, two.as_bytes()).matches("HTTP/1.1 200").count(), 2);
    assert_eq!(*seen.lock().unwrap(), ["POST /one HTTP/1.1", "GET /two HTTP/1.1"]);
    site.edge.process.must_run();
    site.serves();
}

#[test]
fn oversized_heads() {
    let mut site = Site::start(Upstream::site("private"), &[]);
    let long = "a".repeat(1 << 20);
    for (what, head) in [
        ("a long header", format!("GET / HTTP/1.1\r\nHost: site.test\r\nX: {long}\r\n\r\n")),
        ("a long path", format!("GET /{long} HTTP/1.1\r\nHost: site.test\r\n\r\n")),
        ("a long name", format!("GET / HTTP/1.1\r\nHost: site.test\r\n{long}: x\r\n\r\n")),
        ("many headers", format!("GET / HTTP/1.1\r\nHost: site.test\r\n{}\r\n", "X: y\r\n".repeat(20_000))),
        ("a long host", format!("GET / HTTP/1.1\r\nHost: {long}\r\n\r\n")),
    ] {
        let answer = answers(&site, head.as_bytes());
        let refused = ["400", "414", "431"].iter().any(|s| answer.starts_with(&format!("HTTP/1.1 {s}")));
        // With most of the head unread the system may cut the connection before the answer is read.
        assert!(refused || answer.is_empty(), "{what}: {answer:?}");
    }
    // A head that never ends is cut at its limit, not kept.
    let mut s = http::tcp(site.http()).unwrap();
    s.write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n").unwrap();
    let begin = Instant::now();
    let line = b"X-Padding: 0123456789012345678901234567890123456789\r\n".repeat(100);
    while s.write_all(&line).is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(10), "an endless head is read for ever");
    }
    site.unharmed();
}

/// The same requests at the control plane.
#[test]
fn oversized_upgrades() {
    let mut site = Site::start(Upstream::site("private"), &[]);
    let long = "a".repeat(1 << 20);
    for field in [format!("X: {long}"), format!("Authorization: Bearer {long}"), "X: y\r\n".repeat(5000)] {
        let mut s = http::tcp(site.edge.control).unwrap();
        let _ = s.write_all(
            format!("GET /tunnel HTTP/1.1\r\nHost: e\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{field}\r\n\r\n")
                .as_bytes(),
        );
        let mut answer = Vec::new();
        let _ = s.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    }
    site.unharmed();
}
