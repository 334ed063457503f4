//! Where requests go and what pages say; headers on both sides; idle connections.

use std::time::Duration;

use crate::world::{Ending, World, field, mirror, upstream};

#[tokio::test]
async fn goes_by_host_then_prefix_then_catch_all() {
    let named = |name: &'static str| {
        upstream(move |mut raw| async move {
            while raw.try_head().await.is_some() {
                raw.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len())).await;
            }
        })
    };
    let (site, api, any, v6) = (named("site").await, named("api").await, named("any").await, named("v6").await);
    let world =
        World::new(&[("app.test", "", site), ("app.test", "/api", api), ("*", "", any), ("2001:db8::1", "", v6)]).await;
    let mut raw = world.visit().await;
    for (target, host, want) in [
        ("/", "app.test", "site"),
        ("/", "APP.Test:8000", "site"),
        ("/", "app.test.", "site"),
        ("/api/x?y=/z", "app.test:9443", "api"),
        ("/?/api", "app.test", "site"),
        ("/", "other.test", "any"),
        ("/", "[2001:DB8:0::1]:80", "v6"),
        ("http://app.test/api", "app.test", "api"),
        ("http://app.test:80/api", "ignored.test", "api"),
        ("http://app.test", "ignored.test", "site"),
    ] {
        raw.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let (head, body) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 200 OK"), "{target} {host}: {head}");
        assert_eq!(body, want, "{target} {host}");
    }
    assert_eq!(world.opened(), 4, "one upstream connection each, used again");
}

#[tokio::test]
async fn nobody_serves_it_503_and_upstream_down_502() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::new(&[("down.test", "", closed)]).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n").await;
    let (head, body) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.contains("No client serves `nobody.test`"), "{body}");
    // The connection lives on.
    raw.send("GET / HTTP/1.1\r\nHost: down.test\r\n\r\n").await;
    let (head, body) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(body.contains("cannot be reached") && !body.contains(&closed.to_string()), "{body}");
    raw.send("HEAD / HTTP/1.1\r\nHost: down.test\r\nConnection: close\r\n\r\n").await;
    let rest = raw.rest().await;
    assert!(rest.starts_with("HTTP/1.1 502 ") && rest.ends_with("\r\n\r\n"), "{rest}");
}

#[tokio::test]
async fn headers_to_the_upstream() {
    let world = World::new(&[("*", "", mirror().await)]).await;
    let mut raw = world.visit().await;
    raw.send(
        "GET /p?q=1 HTTP/1.1\r\nHost: App.test:8000\r\nConnection: keep-alive, X-Evil, host, content-length\r\nX-Evil: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers, deflate\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nAuthorization: Bearer kept\r\nCookie: a=b\r\n\
         X-Forwarded-For: 10.9.9.9\r\nX_Forwarded_For: 10.9.9.8\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Prefix: /evil\r\nX-Real-IP: 10.9.9.7\r\nForwarded: for=10.9.9.6\r\nTrue-Client-IP: 10.9.9.5\r\n\
         CF-Connecting-IP: 10.9.9.4\r\nX-Client-IP: 10.9.9.3\r\n\r\n",
    )
    .await;
    let (_, seen) = raw.response().await;
    assert!(seen.starts_with("GET /p?q=1 HTTP/1.1\r\nHost: app.test:8000\r\n"), "{seen}");
    for (name, want) in [
        ("x-evil", None),
        ("connection", None),
        ("keep-alive", None),
        ("proxy-connection", None),
        ("proxy-authorization", None),
        ("upgrade", None),
        ("http2-settings", None),
        ("te", Some("trailers")),
        ("authorization", Some("Bearer kept")),
        ("cookie", Some("a=b")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("x_forwarded_for", None),
        ("x-forwarded-host", Some("app.test:8000")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-prefix", None),
        ("x-real-ip", Some("127.0.0.1")),
        ("forwarded", Some("for=127.0.0.1;host=\"app.test:8000\";proto=http")),
        ("true-client-ip", None),
        ("cf-connecting-ip", None),
        ("x-client-ip", None),
    ] {
        assert_eq!(field(&seen, name), want, "{name} in {seen}");
    }
    assert!(!seen.contains("10.9.9"), "{seen}");
}

#[tokio::test]
async fn headers_to_the_visitor() {
    let up = upstream(|mut raw| async move {
        raw.head().await;
        raw.send(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=9\r\nX-Hop: 1\r\nX-Kept: 2\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        raw.rest().await;
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (head, body) = raw.response().await;
    assert_eq!(head, "HTTP/1.1 200 OK\r\nX-Kept: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(body, "ok");
}

#[tokio::test]
async fn head_204_304_and_http10() {
    let up = upstream(|mut raw| async move {
        while let Some(head) = raw.try_head().await {
            let answer = match head.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n",
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                "/chunked" => {
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
                }
                "/eof" => {
                    raw.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
                    return;
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            };
            raw.send(answer).await;
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    // All on one connection: nothing may be left over from one answer to the next.
    for (request, want) in [
        ("HEAD /head", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 99\r\n\r\n"),
        ("GET /eof", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nto the end\r\n0\r\n\r\n"),
        (
            "GET /chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
        ),
    ] {
        raw.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let got = raw.exact(want.len()).await;
        assert_eq!(String::from_utf8(got).unwrap(), want, "{request}");
    }
    // HTTP/1.0: no chunks, the end of the connection is the end of the body.
    let got = world.ask("GET /chunked HTTP/1.0\r\n\r\n").await;
    assert_eq!(got, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde");
    let got = world.ask("GET /eof HTTP/1.0\r\n\r\n").await;
    assert_eq!(got, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end");
    let mut raw = world.visit().await;
    for _ in 0..2 {
        raw.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        let (head, body) = raw.response().await;
        assert!(head.contains("Connection: keep-alive"), "{head}");
        assert_eq!(body, "ok");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let world = World::new(&[("*", "", mirror().await)]).await;
    let mut raw = world.visit().await;
    raw.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\nGET /3 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for want in ["GET /1 ", "POST /2 ", "GET /3 "] {
        let (_, body) = raw.response().await;
        assert!(body.starts_with(want), "{body}");
    }
}

#[tokio::test]
async fn an_idle_upstream_that_hung_up_costs_no_request() {
    // Every connection serves one request, says it would stay, and hangs up.
    let up = upstream(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    for i in 0..20 {
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (head, _) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 200"), "request {i}: {head}");
    }
    // With a body nothing may be sent twice: either it goes through or the visitor is told.
    tokio::time::sleep(Duration::from_millis(50)).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").await;
    let (head, _) = raw.response().await;
    assert!(head.starts_with("HTTP/1.1 200"), "the dead connection was found before it was used: {head}");
}

#[tokio::test]
async fn an_upstream_that_says_nothing_understandable_502() {
    for answer in [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: ",
    ] {
        let up = upstream(move |mut raw| async move {
            raw.head().await;
            raw.send(answer).await;
        })
        .await;
        let world = World::new(&[("*", "", up)]).await;
        let mut raw = world.visit().await;
        raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (head, body) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer:?}: {head}");
        assert!(body.contains("behind this site") && !body.contains(&up.to_string()), "{body}");
    }
}

#[tokio::test]
async fn an_upstream_that_dies_in_its_answer_is_no_success() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        for version in ["1.1", "1.0"] {
            let up = upstream(move |mut raw| async move {
                raw.head().await;
                raw.send(answer).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            })
            .await;
            let world = World::new(&[("*", "", up)]).await;
            let mut raw = world.visit().await;
            raw.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n")).await;
            match raw.ending().await {
                Ending::Reset(got) => assert!(!got.ends_with("0\r\n\r\n"), "{got}"),
                Ending::Closed(got) => panic!("{answer:?} in {version} ended in order: {got}"),
            }
        }
    }
    // One that is reset and whose body had no length.
    let up = upstream(move |mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\n\r\nhalf").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        raw.stream.set_zero_linger().unwrap();
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut raw = world.visit().await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(matches!(raw.ending().await, Ending::Reset(got) if got.contains("half")));
}

#[tokio::test]
async fn draining_ends_idle_connections_and_lets_busy_ones_finish() {
    let up = upstream(|mut raw| async move {
        while raw.try_head().await.is_some() {
            tokio::time::sleep(Duration::from_millis(300)).await;
            raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let world = World::new(&[("*", "", up)]).await;
    let mut idle = world.visit().await;
    idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    idle.response().await;
    let mut busy = world.visit().await;
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.plane.drain();
    assert_eq!(idle.rest().await, "");
    let got = busy.rest().await;
    assert!(got.contains("Connection: close") && got.ends_with("ok"), "{got}");
}

#[tokio::test]
async fn who_waits_for_a_client_is_told_when_we_stop() {
    let world = World::new(&[("never.test", "", mirror().await)]).await;
    let mut raw = world.visit().await;
    raw.send("GET /wait HTTP/1.1\r\nHost: waiting.test\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.plane.drain();
    let got = raw.rest().await;
    assert!(got.starts_with("HTTP/1.1 503 ") && got.contains("Connection: close"), "{got}");
}

#[tokio::test]
async fn counts() {
    let world = World::new(&[("a.test", "", mirror().await)]).await;
    let mut raw = world.visit().await;
    for host in ["a.test", "a.test", "b.test"] {
        raw.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        raw.response().await;
    }
    let mut out = runtime::metrics::Exposition::new();
    world.plane.stats().expose(&mut out);
    let text = out.finish();
    for line in [
        "portcullis_http_requests_total{code=\"200\",host=\"a.test\",method=\"GET\"} 2",
        "portcullis_http_requests_in_flight 0",
        "http_dataplane_requests_total{code=\"200\",host=\"a.test\",method=\"GET\"} 2",
        "http_dataplane_requests_total{code=\"503\",host=\"b.test\",method=\"GET\"} 1",
        "http_dataplane_request_duration_seconds_count{host=\"a.test\"} 2",
        "http_dataplane_connections_gauge 1",
        "http_dataplane_in_flight_gauge 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}
