//! More of everything than anybody needs: half-open handshakes, silent connections, slow readers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use stage::command::{Outcome, binary, command};
use stage::edge::{Edge, Mode, wait_echo, wait_site};
use stage::netns::World;
use stage::process::Process;
use stage::upstream::Upstream;
use stage::{http, ports};

use super::{MEMORY, Site};

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
    let _turn = stage::alone();
    let upstream = Upstream::site("private");
    for (encrypted, words) in
        [(true, &b"\x16\x03\x01\x02\x00\x01"[..]), (false, &b"GET /tunnel HTTP/1.1\r\nHost: e\r\nUpgr"[..])]
    {
        let mut edge = Edge::start(Mode::Http, encrypted, &[]);
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

/// Connections of strangers that say nothing take all places but those of clients that were here.
#[test]
fn strangers_lock_out_no_client_that_was_here() {
    let _turn = stage::shared();
    let upstream = Upstream::site("private");
    let mut edge = Edge::start(Mode::Http, false, &[]);
    let to = format!("http://{}", upstream.addr());
    let client = edge.client(&["--upstream", &to]);
    wait_site(edge.http, "site.test").unwrap();
    // More sources than have places, eight hundred connections, for as long as this takes.
    let held = flood(edge.control, 800, b"GET /tunnel HTTP/1.1\r\nHost: e\r\nUpgr");
    let begin = Instant::now();
    drop(client);
    let _again = edge.client(&["--upstream", &to]);
    wait_site(edge.http, "site.test").unwrap();
    // Handshakes that are not finished end after 10 s, which would let anybody in.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    drop(held);
}

/// One source has its share of visitors and not more, whatever it does with them.
#[test]
fn one_source_leaves_places_to_others() {
    let site = Site::start(Upstream::site("private"), &["--max-visitors", "40", "--max-visitors-per-source", "10"]);
    let greedy = Ipv4Addr::new(127, 0, 0, 66);
    let held: Vec<_> = (0..60).filter_map(|_| http::tcp_from(greedy, site.http()).ok()).collect();
    site.serves();
    let mut one_more = http::tcp_from(greedy, site.http()).unwrap();
    assert!(http::get_on(&mut one_more, "site.test", "/", &[]).is_err(), "it has its share");
    let said = site.edge.process.output().lines().filter(|l| l.contains("127.0.0.66") && l.contains("closed")).count();
    assert!((1..=20).contains(&said), "{said} lines:\n{}", site.edge.process.output());
    drop(held);
}

/// Refused visitors are counted and mostly not written.
#[test]
fn refused_visitors_do_not_fill_the_log() {
    let echo = Upstream::echo();
    let port = ports::free();
    let mut edge = Edge::start(Mode::Tcp, false, &["--allow-ips-data", "127.0.0.1"]);
    let _client = edge.client(&["--upstream", &format!("{port}=127.0.0.1:{}", echo.port())]);
    wait_echo(ports::local(port)).unwrap();
    for _ in 0..500 {
        let mut s = http::tcp_from(Ipv4Addr::new(127, 0, 0, 8), ports::local(port)).unwrap();
        assert!(!matches!(s.read(&mut [0]), Ok(1..)));
    }
    let lines = edge.process.output().lines().filter(|l| l.contains("127.0.0.8 is refused")).count();
    assert!((1..=20).contains(&lines), "{lines} lines");
    let url = format!("ws://{}", edge.control);
    let mut ask = command(&["status", "--url", &url, "--insecure", "--json", "--token-file"]);
    let status = Outcome::of(ask.arg(edge.token_file()));
    let none = status.out.replace(' ', "").contains("\"visitors\":0");
    assert!(none, "clients and askers are no visitors: {}", status.all());
}

/// With few files visitors are bounded below that, so that a list still takes effect.
#[test]
fn files_are_kept_for_lists() {
    let _turn = stage::shared();
    let dir = stage::Dir::new("files");
    let list = dir.write("list", "127.0.0.0/8\n");
    let (control, http_at) = (ports::free(), ports::free());
    let token = dir.secret("token", stage::edge::TOKEN);
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "ulimit -n 128; exec {} http server --auto-tls=false --control-addr 127.0.0.1 --data-addr 127.0.0.1 --port {http_at} --control-port {control} --token-file {} --data-dir {} --allow-ips-data @{}",
        binary(), token.display(), dir.path().join("data").display(), list.display()
    ));
    let mut edge = stage::process::Process::start("edge", command);
    edge.line(stage::START, |l| l.contains("visitors=96").then_some(())).unwrap_or_else(|e| panic!("{e}"));
    stage::eventually(stage::START, || TcpStream::connect(ports::local(http_at))).unwrap();
    let held = flood(ports::local(http_at), 400, b"GET / HTTP/1.1\r\n");
    std::fs::write(dir.path().join("new"), "127.0.0.1\n").unwrap();
    std::fs::rename(dir.path().join("new"), &list).unwrap();
    // Who is no longer on the list is hung up on, although there are more than enough of them.
    let cut = stage::eventually(Duration::from_secs(10), || {
        let mut s = &held[0];
        s.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        match s.read(&mut [0]) {
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => Err(()),
            _ => Ok(()),
        }
    });
    cut.unwrap_or_else(|()| panic!("not cut:\n{}", edge.output()));
    let flooded = edge.output().lines().filter(|l| l.contains("cannot accept")).count();
    assert!(flooded <= 3, "{}", edge.output());
}

/// Visitors who connect and say little or nothing.
#[test]
fn silent_visitors() {
    let _turn = stage::alone();
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
    let _turn = stage::shared();
    let echo = Upstream::echo();
    let source = Upstream::serve(|mut s| {
        let chunk = vec![7; 1 << 16];
        while s.write_all(&chunk).is_ok() {}
    });
    let (p_echo, p_source) = (ports::free(), ports::free());
    for extra in [&[][..], &["--demux"], &["--carriers", "1"]] {
        let mut edge = Edge::start(Mode::Tcp, true, &[]);
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

/// Whoever holds an IPv6 /64 has as many addresses as he likes, and one source's places: a client of another /64, which
/// nobody has seen before, finds one of its own.
#[test]
fn many_addresses_of_one_64_lock_out_no_other() {
    let _turn = stage::shared();
    let Some(world) = World::new() else { return };
    let host = world.lone("edge");
    // Everything happens on one machine that has both networks: each address of the /64 may be bound.
    host.ip(&["-6", "addr", "add", "2001:db8:1::1/64", "dev", "lo"]);
    host.ip(&["-6", "route", "add", "local", "2001:db8:66::/64", "dev", "lo"]);
    host.sysctl("net/ipv6/ip_nonlocal_bind", "1");
    let token = world.dir().secret("token", stage::edge::TOKEN);
    let portcullis = |args: &[&str]| {
        let mut command = host.command(binary());
        stage::command::plain(&mut command);
        command.args(args).arg("--token-file").arg(&token);
        command
    };
    let data = host.dir().join("data");
    let mut server = portcullis(&["tcp", "server", "--auto-tls=false", "--control-addr", "2001:db8:1::1"]);
    server.args(["--control-port", "8123", "--data-addr", "127.0.0.1", "--data-dir"]).arg(data);
    let edge = Process::start("edge", server);
    let control: SocketAddr = "[2001:db8:1::1]:8123".parse().unwrap();
    stage::eventually(stage::START, || host.connect(control, stage::START))
        .unwrap_or_else(|e| panic!("{e}\n{}", edge.output()));

    let held: Vec<TcpStream> = host.within(|| {
        let each = (1..=512u128).map(|n| Ipv6Addr::from(0x2001_0db8_0066_0000_0000_0000_0000_0000 | n << 40 | n));
        each.filter_map(|from| {
            let mut s = http::tcp_from(from, control).ok()?;
            s.write_all(b"GET /tunnel HTTP/1.1\r\nHost: e\r\nUpgr").ok()?;
            Some(s)
        })
        .collect()
    });
    // An eighth of the places, if those that only known clients may take are left out a sixth.
    let open = || held.iter().filter(|s| is_open(s)).count();
    stage::eventually(Duration::from_secs(5), || if open() <= 64 { Ok(()) } else { Err(open()) })
        .unwrap_or_else(|open| panic!("{open} of {} connections of one /64 are held", held.len()));

    let _echo = host.within(|| Upstream::serve_at(([127, 0, 0, 1], 7).into(), stage::upstream::echo));
    let map = ["tcp", "client", "--url", "ws://[2001:db8:1::1]:8123", "--insecure", "--upstream", "2222=127.0.0.1:7"];
    let client = Process::start("client", portcullis(&map));
    let there = host.within(|| wait_echo(ports::local(2222)));
    there.unwrap_or_else(|e| panic!("{e}\nthe client:\n{}\nthe edge:\n{}", client.output(), edge.output()));
}

/// True if the other side has not ended this connection.
fn is_open(mut s: &TcpStream) -> bool {
    s.set_nonblocking(true).unwrap();
    matches!(s.read(&mut [0; 64]), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}
