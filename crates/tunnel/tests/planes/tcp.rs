//! The tunnel in one process: an edge and a client on loopback, real sockets, real TLS. In: visitors of this test.
//! Out: what they must see.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use access::{List, ViewBuilder};
use addr::{AddrSet, parse_list};
use net::secret::{Secret, TokenHash};
use runtime::admission::Admission;
use runtime::run::Run;
use stage::{Dir, ports};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tunnel::edge::{self, EdgeHandle};
use tunnel::settings::{ClientSettings, EdgeSettings, EdgeTls, EdgeToken, TcpPlane, Trust, UpstreamTls};
use tunnel::{client, settings::HttpProxy};
use tunnel_proto::upstream::{PortRanges, Upstream, UpstreamMatch, UpstreamTo};

struct World {
    run: Run,
    admission: Arc<Admission>,
    edge: EdgeHandle,
    port: u16,
}

fn view(generation: u64, data: &str) -> access::View {
    let mut view = ViewBuilder::default();
    for (name, text) in [("control", "0.0.0.0/0,::/0"), ("data", data)] {
        let set = AddrSet::new(parse_list(text).unwrap().prefixes);
        view.add(List { name: name.to_string(), set, source: "test".to_string() });
    }
    view.build(generation)
}

fn client_settings(edge: &EdgeHandle, port: u16, upstream: SocketAddr) -> ClientSettings {
    let scheme = if edge.fingerprint.is_some() { "wss" } else { "ws" };
    ClientSettings {
        url: format!("{scheme}://{}", edge.control_addr).parse().unwrap(),
        token: Secret::new("t0ken"),
        trust: edge.fingerprint.map_or(Trust::Plain, Trust::Pin),
        upstreams: vec![Upstream {
            ask: UpstreamMatch::Port(port),
            to: UpstreamTo::tcp(upstream.ip().to_string(), upstream.port()),
            rewrite: tunnel_proto::hello::Rewrite::default(),
        }],
        carriers: 2,
        demux: false,
        proxy: None::<HttpProxy>,
        id: None,
        upstream_tls: UpstreamTls::default(),
    }
}

async fn world(tls: bool, upstream: SocketAddr) -> World {
    let admission = Admission::new();
    admission.publish(view(1, "127.0.0.0/8"));
    let run = Run::new(Duration::from_secs(1));
    let dir = Dir::new("tunnel");
    let settings = EdgeSettings {
        control: "127.0.0.1:0".parse().unwrap(),
        http: None,
        tcp: Some(TcpPlane { addr: "127.0.0.1".parse().unwrap(), allow_ports: PortRanges::all() }),
        tokens: vec![EdgeToken::all("test", TokenHash::of("t0ken"))],
        tls: if tls { EdgeTls::Auto { sans: vec![], dir: dir.path().to_path_buf() } } else { EdgeTls::Off },
        trusted_proxies: AddrSet::default(),
        trusted_header: access::visitor::AddressHeader::default(),
        identity_fields: tunnel_proto::http1::forwarded::IdentityFields::default(),
        stall: Duration::from_secs(60),
        proxy_protocol: None,
        lb_proxy_protocol: None,
        grace: Duration::from_secs(10),
        max_visitors: 10_000,
        max_visitors_per_source: 10_000,
    };
    let edge = edge::start(settings, admission.clone(), &run).await.unwrap();
    let port = ports::free();
    client::start(client_settings(&edge, port, upstream), &run).await.unwrap();
    edge.published().await;
    World { run, admission, edge, port }
}

/// Echoes until end of stream, then says how many bytes it saw and ends.
async fn echo_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut r, mut w) = socket.split();
                let n = tokio::io::copy(&mut r, &mut w).await.unwrap_or(0);
                let _ = w.write_all(format!("|{n}").as_bytes()).await;
                let _ = w.shutdown().await;
            });
        }
    });
    addr
}

async fn echo_round(port: u16, len: usize) {
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut r, mut w) = socket.into_split();
    let data: Vec<u8> = (0..len).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect();
    let want = [data.as_slice(), format!("|{len}").as_bytes()].concat();
    let send = tokio::spawn(async move {
        w.write_all(&data).await.unwrap();
        w.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(60), r.read_to_end(&mut got)).await.expect("no end").unwrap();
    send.await.unwrap();
    assert_eq!(got.len(), want.len());
    assert!(got == want, "bytes changed on the way");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_and_half_close_pass_both_ways_small_and_bulk() {
    for tls in [false, true] {
        let w = world(tls, echo_upstream().await).await;
        for len in [0, 1, 1000, 200_000, 5_000_000, 40_000_000] {
            echo_round(w.port, len).await;
        }
        // Links come back to the pool and are used again.
        let many = (0..20).map(|i| echo_round(w.port, 3_000_000 + i)).collect::<Vec<_>>();
        futures_util::future::join_all(many).await;
        let many = (0..300).map(|i| echo_round(w.port, 100 * i)).collect::<Vec<_>>();
        futures_util::future::join_all(many).await;
        // A visitor may see its end a moment before both ends have tidied up.
        let tidy = async {
            while w.edge.status().clients[0].streams != 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), tidy).await.expect("streams were left over");
        let status = w.edge.status();
        assert!(status.clients[0].bulk_idle > 0, "{status:?}");
        w.run.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_visitor_does_not_stall_a_fast_one() {
    // An upstream that pours.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let block = vec![7; 64 * 1024];
                for _ in 0..400 {
                    if socket.write_all(&block).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let w = world(true, addr).await;
    let mut stalled = Vec::new();
    for _ in 0..80 {
        // Never read from.
        stalled.push(TcpStream::connect(("127.0.0.1", w.port)).await.unwrap());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut fast = TcpStream::connect(("127.0.0.1", w.port)).await.unwrap();
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), fast.read_to_end(&mut got)).await.expect("stalled").unwrap();
    assert_eq!(got.len(), 400 * 64 * 1024);
    w.run.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_longer_on_the_list_is_cut_and_the_others_notice_nothing() {
    let w = world(true, echo_upstream().await).await;
    let dial = async |from: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut stream = socket.connect(format!("127.0.0.1:{}", w.port).parse().unwrap()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        let mut buf = [0; 5];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut buf)).await.unwrap();
        (stream, read.is_ok())
    };
    let (mut stays, ok) = dial("127.0.0.2").await;
    assert!(ok);
    let (mut goes, ok) = dial("127.0.0.3").await;
    assert!(ok);
    assert_eq!(w.admission.publish(view(2, "127.0.0.2")), 1);
    let mut buf = [0; 16];
    let cut = tokio::time::timeout(Duration::from_secs(1), goes.read(&mut buf)).await.expect("cut within a second");
    assert!(cut.is_err(), "cut is a reset, not an end: {cut:?}");
    stays.write_all(b"still").await.unwrap();
    stays.read_exact(&mut buf[..5]).await.unwrap();
    assert_eq!(&buf[..5], b"still");
    let (_, ok) = dial("127.0.0.3").await;
    assert!(!ok, "a refused visitor got an answer");
    w.run.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_wait_for_a_client_that_comes_back() {
    let upstream = echo_upstream().await;
    let w = world(true, upstream).await;
    echo_round(w.port, 10).await;
    let lost = Run::new(Duration::from_millis(10));
    // A second client on the same port shares the load; when the first is gone it serves alone.
    client::start(client_settings(&w.edge, w.port, upstream), &lost).await.unwrap();
    while w.edge.status().clients.len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..10 {
        echo_round(w.port, 1000).await;
    }
    lost.stop();
    lost.finish().await.unwrap();
    drop(lost);
    while w.edge.status().clients.len() > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..4 {
        echo_round(w.port, 1000).await;
    }
    w.run.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_fails_the_client_with_one_message() {
    let w = world(true, echo_upstream().await).await;
    let run = Run::new(Duration::from_millis(10));
    let mut settings = client_settings(&w.edge, w.port, "127.0.0.1:9".parse().unwrap());
    settings.token = Secret::new("guess");
    client::start(settings, &run).await.unwrap();
    let e = tokio::time::timeout(Duration::from_secs(10), run.finish()).await.unwrap().unwrap_err();
    assert!(format!("{e:#}").contains("refuses the token"), "{e:#}");
    w.run.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_down_resets_its_visitor() {
    let w = world(false, "127.0.0.1:9".parse().unwrap()).await;
    let mut visitor = match TcpStream::connect(("127.0.0.1", w.port)).await {
        Ok(visitor) => visitor,
        // The reset may be faster than the last step of connecting.
        Err(e) => return assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
    };
    let mut buf = [0; 1];
    let read = tokio::time::timeout(Duration::from_secs(5), visitor.read(&mut buf)).await.expect("no end");
    assert!(read.is_err(), "{read:?}");
    w.run.stop();
}
