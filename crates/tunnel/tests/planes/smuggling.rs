//! Requests that two readers could take for different ones: each is refused, and the connection ends.

use crate::world::{World, mirror, upstream};

/// What is refused, with the status. The second request after each must never be answered.
const TABLE: &[(&str, &str, &str)] = &[
    (
        "length and coding",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "coding and length",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "400",
    ),
    ("two lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"),
    ("two equal lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "400"),
    ("list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na", "400"),
    ("signed length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\na", "400"),
    ("negative length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\na", "400"),
    ("hex length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\na", "400"),
    ("empty length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\na", "400"),
    ("too long a length", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\na", "400"),
    ("unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "400"),
    ("list of codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "400"),
    ("chunked not last", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "400"),
    (
        "two codings",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "twice chunked",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    (
        "vertical tab in the coding",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        "400",
    ),
    ("coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
    ("bare line feeds", "GET / HTTP/1.1\nHost: a\n\n", "400"),
    ("one bare line feed", "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", "400"),
    ("bare line feed at the end", "GET / HTTP/1.1\r\nHost: a\r\n\n", "400"),
    ("bare carriage return", "GET / HTTP/1.1\r\nHost: a\r\nX: b\rc\r\n\r\n", "400"),
    ("space before the colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\na", "400"),
    ("space in a name", "GET / HTTP/1.1\r\nHost: a\r\nX Y: 1\r\n\r\n", "400"),
    ("empty name", "GET / HTTP/1.1\r\nHost: a\r\n: 1\r\n\r\n", "400"),
    ("no colon", "GET / HTTP/1.1\r\nHost: a\r\nXY\r\n\r\n", "400"),
    ("folded line", "GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", "400"),
    ("folded first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", "400"),
    ("NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", "400"),
    ("NUL in the path", "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("two spaces", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("space in the path", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("tab for a space", "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("no version", "GET /\r\nHost: a\r\n\r\n", "400"),
    ("HTTP/0.9", "GET /\r\n\r\n", "400"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", "505"),
    ("HTTP/2 in words", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", "505"),
    ("lower case version", "GET / http/1.1\r\nHost: a\r\n\r\n", "400"),
    ("no host", "GET / HTTP/1.1\r\n\r\n", "400"),
    ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"),
    ("two equal hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400"),
    ("host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400"),
    ("host with a path", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "400"),
    ("host with a user", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "400"),
    ("host with a wrong port", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", "400"),
    ("host with two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "400"),
    ("host with a broken literal", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "400"),
    ("absolute form without host", "GET http://a/ HTTP/1.1\r\n\r\n", "400"),
    ("absolute form with a user", "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("absolute form without authority", "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("another scheme", "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("relative path", "GET x HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("asterisk with GET", "GET * HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "405"),
    (
        "chunk with a bare line feed",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
        "400",
    ),
    (
        "chunk longer than it says",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        "400",
    ),
    (
        "chunk size with a sign",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
        "400",
    ),
    (
        "chunk size with 0x",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
        "400",
    ),
    (
        "chunk size too long",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n",
        "400",
    ),
    (
        "line feed in a chunk extension",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\ny\r\na\r\n0\r\n\r\n",
        "400",
    ),
    (
        "folded trailer",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: a\r\n b\r\n\r\n",
        "400",
    ),
    ("host with a comma", "GET / HTTP/1.1\r\nHost: x,intranet.test\r\n\r\n", "400"),
    ("host with an encoded dot", "GET / HTTP/1.1\r\nHost: intranet%2Etest\r\n\r\n", "400"),
    ("host with two dots at its end", "GET / HTTP/1.1\r\nHost: intranet.test..\r\n\r\n", "400"),
    ("host with an empty label", "GET / HTTP/1.1\r\nHost: .intranet.test\r\n\r\n", "400"),
    ("host that is an address in disguise", "GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", "400"),
    ("authority with a comma", "GET http://x,intranet.test/ HTTP/1.1\r\nHost: x\r\n\r\n", "400"),
    ("fragment", "GET /x#/../admin HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
    ("upgrade in quotes", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: \"h2c\"\r\n\r\n", "400"),
    ("connection that is no token", "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-A, (b)\r\nX-A: 1\r\n\r\n", "400"),
    ("TE that is no coding", "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers, \"x\"\r\n\r\n", "400"),
    ("only line feeds", "\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "400"),
];

#[tokio::test]
async fn each_is_refused_and_the_connection_ends() {
    let world = World::new(&[("*", "", mirror().await)]).await;
    for (name, request, status) in TABLE {
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
        let got = world.ask(&format!("{request}{smuggled}")).await;
        assert!(got.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {got}");
        assert_eq!(
            got.matches("<!doctype").count() + got.matches("smuggled").count(),
            1,
            "{name}: a second answer in {got}"
        );
        assert!(got.contains("Connection: close"), "{name}: {got}");
    }
}

#[tokio::test]
async fn a_head_has_limits() {
    let world = World::new(&[("*", "", mirror().await)]).await;
    let got = world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(70_000))).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    let got = world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(101))).await;
    assert!(got.starts_with("HTTP/1.1 431 "), "{got}");
    // Without an end: refused as soon as it is too long, with bounded memory.
    let mut raw = world.visit().await;
    raw.send(format!("GET /{}", "x".repeat(80_000))).await;
    assert!(raw.rest().await.starts_with("HTTP/1.1 431 "));
    // Just below the limit it passes.
    let mut raw = world.visit().await;
    raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(60_000))).await;
    let (head, body) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && body.len() > 60_000, "{head}");
}

#[tokio::test]
async fn a_request_trailer_says_nothing_that_the_head_was_asked_for() {
    let up = upstream(|mut raw| async move {
        raw.head().await;
        let body = raw.until("0\r\n").await + &raw.head().await;
        raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\nX-Forwarded-For: 10.0.0.1\r\n\
         Content-Length: 5\r\nHost: b\r\nAuthorization: x\r\n\r\n",
    )
    .await;
    assert_eq!(raw.response().await.1, "3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n");
}
