//! HTTP/2 with prior knowledge: gRPC as HTTP/2 to the upstream, everything else as HTTP/1.1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tunnel::http::Speaks;

use crate::world::{World, empty, field, mirror, set, settings, text, upstream, visit_h2 as visit};

/// A gRPC-like upstream: HTTP/2 only, sends back what comes, then a trailer.
async fn grpc() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                assert_eq!(request.version(), http::Version::HTTP_2);
                let (mut tx, body) = Channel::<Bytes, std::convert::Infallible>::new(4);
                let mut response = Response::new(body);
                for name in ["te", "x-forwarded-for", "content-type"] {
                    let value = request.headers().get(name).cloned().unwrap();
                    response.headers_mut().insert(http::HeaderName::try_from(format!("seen-{name}")).unwrap(), value);
                }
                let authority = request.uri().authority().unwrap().to_string();
                response.headers_mut().insert("seen-authority", authority.parse().unwrap());
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let mut sum = 0;
                    while let Some(frame) = body.frame().await {
                        let Ok(frame) = frame else { return };
                        match frame.into_data() {
                            Ok(data) => {
                                sum += data.len();
                                if tx.send_data(data).await.is_err() {
                                    return;
                                }
                            }
                            Err(frame) => assert_eq!(frame.trailers_ref().unwrap()["x-in"], "1"),
                        }
                    }
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    trailers.insert("x-sum", sum.to_string().parse().unwrap());
                    let _ = tx.send(Frame::trailers(trailers)).await;
                });
                Ok::<_, std::convert::Infallible>(response)
            });
            let io = TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service));
        }
    });
    addr
}

#[tokio::test]
async fn plain_requests_go_on_as_http1() {
    let world = World::new(&[("app.test", "", mirror().await)]).await;
    let mut sender = visit(&world, 1).await;
    for i in 0..5 {
        let request = Request::get(format!("http://App.test:8000/p{i}?q=1"))
            .header("x-forwarded-for", "10.9.9.9")
            .header("x-real-ip", "10.9.9.9")
            .header("forwarded", "for=10.9.9.9")
            .header("te", "trailers")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(empty())
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let seen = text(response).await;
        assert!(seen.starts_with(&format!("GET /p{i}?q=1 HTTP/1.1\r\n")), "{seen}");
        assert_eq!(field(&seen, "host"), Some("app.test:8000"));
        assert_eq!(field(&seen, "x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(field(&seen, "x-real-ip"), Some("127.0.0.1"));
        assert_eq!(field(&seen, "cookie"), Some("a=1; b=2"));
        assert!(!seen.contains("10.9.9.9"), "{seen}");
    }
    assert_eq!(world.opened(), 1, "the upstream connection is used again");
    let request = Request::post("http://app.test/").body(Full::new(Bytes::from("hello")).boxed()).unwrap();
    assert!(text(sender.send_request(request).await.unwrap()).await.ends_with("\r\n\r\nhello"));
    let request = Request::get("http://other.test/").body(empty()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(text(response).await.contains("No client serves `other.test`"));
    let request = Request::get("http://app.test/").header("host", "other.test").body(empty()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 400);
}

#[tokio::test]
async fn grpc_streams_both_ways_with_trailers() {
    let data = [("data", "127.0.0.0/8")];
    let world =
        World::made(&[("*", "", grpc().await)], &data, settings(set("")), |router| router.speaks = Speaks::Http2).await;
    let mut sender = visit(&world, 1).await;
    let (mut tx, body) = Channel::<Bytes, std::convert::Infallible>::new(1);
    let request = Request::post("http://rpc.test/pkg.Service/Method")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(body.boxed())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["seen-te"], "trailers");
    assert_eq!(response.headers()["seen-x-forwarded-for"], "127.0.0.1");
    assert_eq!(response.headers()["seen-authority"], "rpc.test");
    let mut back = response.into_body();
    for i in 0..10 {
        tx.send_data(Bytes::from(format!("message {i}"))).await.unwrap();
        let frame = tokio::time::timeout(Duration::from_secs(5), back.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("message {i}"));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-in", "1".parse().unwrap());
    tx.send(Frame::trailers(trailers)).await.unwrap();
    drop(tx);
    let trailers = back.collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(trailers["x-sum"], "90");
    // Many at once over one upstream connection.
    let before = world.opened();
    let mut all = Vec::new();
    for i in 0..50 {
        let mut sender = sender.clone();
        all.push(tokio::spawn(async move {
            let request = Request::post("http://rpc.test/")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from(vec![7; i * 1000])).boxed())
                .unwrap();
            let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["x-sum"], (i * 1000).to_string());
        }));
    }
    for one in all {
        one.await.unwrap();
    }
    assert_eq!(world.opened(), before);
}

/// Answers at once and then sends for ever.
async fn ticking() -> std::net::SocketAddr {
    upstream(|mut raw| async move {
        while let Some(head) = raw.try_head().await {
            if head.starts_with("GET /die") {
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
            if !head.starts_with("GET /tick") {
                raw.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                continue;
            }
            raw.send("HTTP/1.1 200 OK\r\n\r\n").await;
            while raw.stream.write_all(b"tick ").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            return;
        }
    })
    .await
}

fn ask(path: &str, visitor: &str) -> Request<BoxBody<Bytes, std::convert::Infallible>> {
    Request::get(format!("http://a.test{path}")).header("x-forwarded-for", visitor).body(empty()).unwrap()
}

/// Reads until the body breaks; panics if it ends in order.
async fn broken_after(body: &mut Incoming, from: Instant) -> Duration {
    loop {
        match tokio::time::timeout(Duration::from_secs(5), body.frame()).await.expect("nothing broke") {
            Some(Ok(_)) => {}
            Some(Err(_)) => return from.elapsed(),
            None => panic!("ended in order"),
        }
    }
}

#[tokio::test]
async fn an_upstream_that_dies_resets_the_stream() {
    let world = World::new(&[("*", "", ticking().await)]).await;
    let mut sender = visit(&world, 1).await;
    let mut body = sender.send_request(ask("/die", "-")).await.unwrap().into_body();
    broken_after(&mut body, Instant::now()).await;
    assert_eq!(sender.send_request(ask("/", "-")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_direct_visitor_is_cut_as_a_whole() {
    let world = World::with(&[("*", "", ticking().await)], &[("data", "127.0.0.5, 127.0.0.6")], "").await;
    let (mut five, mut six) = (visit(&world, 5).await, visit(&world, 6).await);
    let mut body = five.send_request(ask("/tick", "-")).await.unwrap().into_body();
    let mut stays = six.send_request(ask("/tick", "-")).await.unwrap().into_body();
    let cut = Instant::now();
    world.publish(&[("data", "127.0.0.6")]);
    assert!(broken_after(&mut body, cut).await < Duration::from_secs(1));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(five.send_request(ask("/", "-")).await.is_err(), "the connection is gone");
    for _ in 0..20 {
        stays.frame().await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn behind_a_proxy_only_the_visitors_streams_are_cut() {
    let lists = [("data", "203.0.113.7, 203.0.113.8")];
    let world = World::with(&[("*", "", ticking().await)], &lists, "127.0.0.9").await;
    let mut sender = visit(&world, 9).await;
    let mut gone = sender.send_request(ask("/tick", "203.0.113.7")).await.unwrap().into_body();
    let mut stays = sender.send_request(ask("/tick", "203.0.113.8")).await.unwrap().into_body();
    assert_eq!(sender.send_request(ask("/", "203.0.113.9")).await.unwrap().status(), 403);
    assert_eq!(sender.send_request(ask("/", "junk")).await.unwrap().status(), 400);
    let cut = Instant::now();
    world.publish(&[("data", "203.0.113.8")]);
    assert!(broken_after(&mut gone, cut).await < Duration::from_secs(1));
    for _ in 0..20 {
        stays.frame().await.unwrap().unwrap();
    }
    assert_eq!(sender.send_request(ask("/", "203.0.113.7")).await.unwrap().status(), 403);
    assert_eq!(sender.send_request(ask("/", "203.0.113.8")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_drain_lets_streams_finish() {
    let world = World::new(&[("*", "", ticking().await)]).await;
    let mut sender = visit(&world, 1).await;
    let mut body = sender.send_request(ask("/tick", "-")).await.unwrap().into_body();
    world.plane.drain();
    for _ in 0..20 {
        body.frame().await.unwrap().unwrap();
    }
    drop(body);
    tokio::time::timeout(Duration::from_secs(5), async {
        while !sender.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the connection ends once its streams are over");
}
