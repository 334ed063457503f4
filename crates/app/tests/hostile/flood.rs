//! More of everything than anybody needs: half-open handshakes, silent connections, slow readers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use stage::edge::{Edge, Mode, wait_echo, wait_site};
use stage::upstream::Upstream;
use stage::{http, ports};

use crate::{BIN, MEMORY, Site};

/// Connections of a flood: several times what an edge handles at once.
const FLOOD: usize = 2_000;

/// Opens connections from many addresses that begin with `words` and then say nothing.
fn flood(to: SocketAddr, n: usize, words: &[u8]) -> Vec<TcpStream> {
    (0..n)
        .filter_map(|i| {
            let from = Ipv4Addr::new(127, 1, (i / 200) as u8, (i % 200) as u8 + 1);
            let mut s = http::tcp_from(from, to).ok()?;
            s.write_all(words).ok()?;
            Some(s)
        })
        .collect()
}

/// Half a TLS handshake, half a request: a new client and new visitors are served all the same.
#[test]
fn half_open_handshakes() {
    let upstream = Upstream::site("private");
    for (encrypted, words) in
        [(true, &b"\x16\x03\x01\x02\x00\x01"[..]), (false, &b"GET /tunnel HTTP/1.1\r\nHost: e\r\nUpgr"[..])]
    {
        let mut edge = Edge::start(BIN, Mode::Http, encrypted, &[]);
        let first = edge.client(&["--upstream", &format!("http://{}", upstream.addr())]);
        wait_site(edge.http, "site.test").unwrap();
        let before = edge.process.rss_kib();
        let held = flood(edge.control, FLOOD, words);
        assert!(held.len() > FLOOD / 2, "only {} connections could be opened", held.len());
        let begin = Instant::now();
        assert_eq!(http::get(edge.http, "site.test", "/", &[]).unwrap().status, 200, "visitors");
        assert!(begin.elapsed() < Duration::from_secs(2), "visitors waited {:?}", begin.elapsed());
        // A new client gets in while the flood stands: slots come free after 10 s at the latest.
        drop(first);
        let second = edge.client(&["--upstream", &format!("http://{}", upstream.addr())]);
        wait_site(edge.http, "site.test").unwrap_or_else(|e| panic!("no new client: {e}\n{}", second.process.output()));
        let grown = edge.process.rss_kib().saturating_sub(before);
        assert!(grown < MEMORY, "the edge grew by {grown} KiB");
        edge.process.must_run();
        drop(held);
    }
}

/// Visitors who connect and say little or nothing.
#[test]
fn silent_visitors() {
    let mut site = Site::start(Upstream::site("private"), &[]);
    let halves: [&[u8]; 3] =
        [b"", b"GET / HTTP/1.1\r\nHost: si", b"POST / HTTP/1.1\r\nHost: site.test\r\nContent-Length: 100\r\n\r\n"];
    let held: Vec<_> = halves.iter().flat_map(|words| flood(site.http(), FLOOD / 2, words)).collect();
    assert!(held.len() > FLOOD, "only {} connections could be opened", held.len());
    let begin = Instant::now();
    site.serves();
    assert!(begin.elapsed() < Duration::from_secs(3), "others waited {:?}", begin.elapsed());
    site.unharmed();
    drop(held);
    site.unharmed();
}

/// Visitors who ask for much and read nothing: others are as fast as before, and memory is bounded.
#[test]
fn slow_readers() {
    let echo = Upstream::echo();
    let source = Upstream::serve(|mut s| {
        let chunk = vec![7; 1 << 16];
        while s.write_all(&chunk).is_ok() {}
    });
    let (p_echo, p_source) = (ports::free(), ports::free());
    for extra in [&[][..], &["--demux"], &["--carriers", "1"]] {
        let mut edge = Edge::start(BIN, Mode::Tcp, true, &[]);
        let map = format!("{p_echo}={},{p_source}={}", echo.addr(), source.addr());
        let client = edge.client(&[&["--upstream", &map], extra].concat());
        wait_echo(ports::local(p_echo)).unwrap_or_else(|e| panic!("{e}\n{}", client.process.output()));
        let before = (edge.process.rss_kib(), client.process.rss_kib());
        let slow: Vec<_> = (0..100).map(|_| http::tcp(ports::local(p_source)).unwrap()).collect();
        std::thread::sleep(Duration::from_secs(2));
        let mut s = http::tcp(ports::local(p_echo)).unwrap();
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let begin = Instant::now();
                s.write_all(b"ping").unwrap();
                s.read_exact(&mut [0; 4]).unwrap_or_else(|e| panic!("{extra:?}: stalled by slow readers: {e}"));
                begin.elapsed()
            })
            .collect();
        times.sort();
        // On a busy machine a few are slow for reasons of its own; a stall is slow for all.
        assert!(times[25] < Duration::from_millis(250), "{extra:?}: bytes took {times:?} beside slow readers");
        for (side, now, before) in
            [("edge", edge.process.rss_kib(), before.0), ("client", client.process.rss_kib(), before.1)]
        {
            let grown = now.saturating_sub(before);
            assert!(grown < MEMORY, "{extra:?}: the {side} grew by {grown} KiB with 100 slow readers");
        }
        drop(slow);
        edge.process.must_run();
    }
}
