//! Both ports of an edge behind each of the four proxies.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use stage::edge::{Behind, Edge, Mode, wait_echo, wait_site};
use stage::proxies::{Kind, Proxy};
use stage::upstream::Upstream;
use stage::{http, pattern, ports, sha256, tls};

use super::{FRIEND, STRANGER};

/// Large enough that every buffer on the way fills many times.
const LARGE: usize = 32 << 20;

/// A visitor of the proxy's data port.
fn visitor(proxy: &Proxy) -> tls::Tls {
    tls::connect(proxy.data, "localhost").unwrap()
}

fn host(proxy: &Proxy) -> String {
    format!("localhost:{}", proxy.data.port())
}

/// Waits until a page comes all the way through.
fn wait(b: &Behind) {
    wait_site(b.edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\nclient:\n{}", b.client.process.output()));
}

/// Pages, events, a host with a port, and bodies whole in both directions.
fn bodies(kind: Kind) {
    let site = Upstream::site("private");
    let upstream = format!("localhost=http://{}", site.addr());
    let Some(b) = Behind::start(kind, Mode::Http, &["--trusted-proxies", "127.0.0.1"], &["--upstream", &upstream])
    else {
        return;
    };
    wait(&b);
    let host = host(&b.proxy);
    let page = http::get_on(&mut visitor(&b.proxy), &host, "/", &[]).unwrap();
    assert_eq!((page.status, page.text().as_str()), (200, "hello from private\n"));
    let down = http::get_on(&mut visitor(&b.proxy), &host, &format!("/bytes/{LARGE}/11"), &[]).unwrap();
    assert_eq!(sha256(&down.body), sha256(&pattern(LARGE, 11)), "a large download must arrive whole");
    let body = pattern(LARGE, 12);
    let up = http::post_on(&mut visitor(&b.proxy), &host, "/digest", &body).unwrap();
    assert_eq!(up.text(), format!("{LARGE} {}", sha256(&body)), "a large upload must arrive whole");
    let events = http::get_on(&mut visitor(&b.proxy), &host, "/events/3", &[]).unwrap();
    assert_eq!(events.text(), "data: 0\n\ndata: 1\n\ndata: 2\n\n");
}

/// A visitor's websocket: bytes both ways after the upgrade.
fn websocket(kind: Kind) {
    let site = Upstream::site("private");
    let upstream = format!("http://{}", site.addr());
    let Some(b) = Behind::start(kind, Mode::Http, &[], &["--upstream", &upstream]) else { return };
    wait(&b);
    let mut s = visitor(&b.proxy);
    let answer = http::upgrade_on(&mut s, &host(&b.proxy), "/ws", &[]).unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    assert!(answer.header("sec-websocket-accept").is_some());
    for n in [1, 1000, 100_000] {
        let message = pattern(n, n as u64);
        s.write_all(&message).unwrap();
        let mut back = vec![0; n];
        s.read_exact(&mut back).unwrap();
        assert_eq!(back, message);
    }
}

/// TCP visitors whose client reaches the edge through the proxy: the end of one direction leaves the other open.
fn half_close(kind: Kind) {
    let (digest, echo) = (Upstream::digest(), Upstream::echo());
    let (p1, p2) = (ports::free(), ports::free());
    let maps = format!("{p1}={},{p2}={}", digest.addr(), echo.addr());
    let Some(b) = Behind::start(kind, Mode::Tcp, &[], &["--upstream", &maps]) else { return };
    wait_echo(ports::local(p2)).unwrap_or_else(|e| panic!("{e}\nclient:\n{}", b.client.process.output()));
    let body = pattern(LARGE / 4, 13);
    let mut s = http::tcp(ports::local(p1)).unwrap();
    s.write_all(&body).unwrap();
    s.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    s.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{} {}\n", body.len(), sha256(&body)));
    // Echo: the visitor ends its side while most of the answer is still under way.
    let mut s = http::tcp(ports::local(p2)).unwrap();
    let mut writer = s.try_clone().unwrap();
    let sent = body.clone();
    let write = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let back = stage::read_all(&mut s, usize::MAX).unwrap();
    write.join().unwrap();
    assert_eq!(sha256(&back), sha256(&body), "{} of {} bytes came back", back.len(), body.len());
}

/// While the proxy reloads, and after it was killed and came back, every visitor of the edge gets an answer.
fn reload(kind: Kind) {
    let _turn = stage::alone();
    let (site, echo) = (Upstream::site("private"), Upstream::echo());
    let upstream = format!("http://{}", site.addr());
    let Some(mut b) = Behind::start(kind, Mode::Http, &[], &["--upstream", &upstream]) else { return };
    wait(&b);
    b.proxy.reload();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(http::get(b.edge.http, "localhost", "/", &[]).unwrap().status, 200, "during a reload");
        std::thread::sleep(Duration::from_millis(50));
    }
    let edge = b.edge.http;
    let held = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        let begin = Instant::now();
        (http::get(edge, "localhost", "/", &[]).map(|r| r.status), begin.elapsed())
    });
    b.proxy.restart(Duration::from_secs(2));
    let (status, waited) = held.join().unwrap();
    assert_eq!(status.unwrap(), 200, "a visitor must be held while the client is away");
    assert!(waited < Duration::from_secs(30), "the visitor waited for {waited:?}");
    drop(b);

    // TCP: the listener stays, and a visitor who comes while the client is away is held.
    let port = ports::free();
    let map = format!("{port}={}", echo.addr());
    let Some(mut b) = Behind::start(kind, Mode::Tcp, &[], &["--upstream", &map]) else { return };
    wait_echo(ports::local(port)).unwrap();
    let held = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        let mut s = http::tcp(ports::local(port)).map_err(|e| format!("the listener was gone: {e}"))?;
        s.write_all(b"held").map_err(|e| e.to_string())?;
        let mut back = [0; 4];
        s.read_exact(&mut back).map_err(|e| format!("the visitor was not held: {e}"))?;
        Ok::<_, String>(back)
    });
    b.proxy.restart(Duration::from_secs(2));
    assert_eq!(held.join().unwrap(), Ok(*b"held"));
}

/// The visitor's address decides, not the proxy's, and nobody can claim another's.
fn visitor_address(kind: Kind) {
    let site = Upstream::site("private");
    let upstream = format!("http://{}", site.addr());
    let rules = ["--trusted-proxies", "127.0.0.1", "--allow-ips-data", "127.0.0.9"];
    let Some(b) = Behind::start(kind, Mode::Http, &rules, &["--upstream", &upstream]) else { return };
    let host = host(&b.proxy);
    let ask = |from, path: &str, fields: &[(&str, &str)]| {
        let socket = http::tcp_from(from, b.proxy.data).unwrap();
        http::get_on(&mut tls::over(socket, "localhost").unwrap(), &host, path, fields)
    };
    stage::eventually(stage::START, || match ask(FRIEND, "/", &[]) {
        Ok(r) if r.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .unwrap_or_else(|e| panic!("the friend must get in: {e}\nclient:\n{}", b.client.process.output()));
    assert_eq!(ask(STRANGER, "/", &[]).unwrap().status, 403, "the stranger must be refused");
    for spoof in [("X-Forwarded-For", "127.0.0.9"), ("Forwarded", "for=127.0.0.9"), ("X-Real-IP", "127.0.0.9")] {
        let status = ask(STRANGER, "/", &[spoof]).map(|r| r.status);
        assert!(!matches!(status, Ok(200)), "the stranger got in with {spoof:?}: {status:?}");
    }
    // What the upstream is told is the visitor, whatever the visitor said before.
    if let Ok(page) = ask(FRIEND, "/head", &[("X-Forwarded-For", "6.6.6.6")])
        && page.status == 200
    {
        let told = http::headers(&page.text(), "x-forwarded-for");
        assert_eq!(told.len(), 1, "one X-Forwarded-For: {}", page.text());
        assert!(told[0].contains("127.0.0.9"), "{told:?}");
    }
    let head = ask(FRIEND, "/head", &[]).unwrap().text();
    assert!(http::header(&head, "x-forwarded-for").unwrap().contains("127.0.0.9"), "{head}");
}

/// Without the proxy in the list of trusted ones, its header says nothing: the socket's peer decides.
fn untrusted(kind: Kind) {
    let site = Upstream::site("private");
    let upstream = format!("http://{}", site.addr());
    let Some(b) = Behind::start(kind, Mode::Http, &["--allow-ips-data", "127.0.0.9"], &["--upstream", &upstream])
    else {
        return;
    };
    // The client needs the control plane only; the friend reaches the edge directly.
    stage::eventually(stage::START, || {
        let mut s = http::tcp_from(FRIEND, b.edge.http).map_err(|e| e.to_string())?;
        let r = http::get_on(&mut s, "localhost", "/", &[]).map_err(|e| e.to_string())?;
        if r.status == 200 { Ok(()) } else { Err(r.head) }
    })
    .unwrap();
    let socket = http::tcp_from(FRIEND, b.proxy.data).unwrap();
    let through = http::get_on(&mut tls::over(socket, "localhost").unwrap(), &host(&b.proxy), "/", &[]);
    assert!(!matches!(through.as_ref().map(|r| r.status), Ok(200)), "an untrusted proxy was believed");
}

/// An edge that was away serves again as soon as it is back: what the proxy answered meanwhile was read and acted on.
fn away(kind: Kind) {
    let _turn = stage::alone();
    let site = Upstream::site("private");
    let upstream = format!("http://{}", site.addr());
    let Some(mut b) = Behind::start(kind, Mode::Http, &[], &["--upstream", &upstream]) else { return };
    wait(&b);
    b.edge.away(Duration::from_secs(2));
    let back = Instant::now();
    wait(&b);
    // Pauses double up to a second and a half in that time; a dial that nobody answers would take 15 s.
    assert!(back.elapsed() < Duration::from_secs(6), "{:?}\n{}", back.elapsed(), b.client.process.output());
    let words = b.client.process.output();
    assert!(!words.contains("did not answer in 15 s"), "{words}");
}

macro_rules! suite {
    ($($module:ident $kind:ident),*) => {$(
        mod $module {
            use super::Kind;
            #[test] fn bodies() { super::bodies(Kind::$kind); }
            #[test] fn websocket() { super::websocket(Kind::$kind); }
            #[test] fn half_close() { super::half_close(Kind::$kind); }
            #[test] fn reload() { super::reload(Kind::$kind); }
            #[test] fn visitor_address() { super::visitor_address(Kind::$kind); }
            #[test] fn untrusted() { super::untrusted(Kind::$kind); }
            #[test] fn away() { super::away(Kind::$kind); }
        }
    )*};
}
suite!(caddy Caddy, nginx Nginx, haproxy Haproxy, traefik Traefik);

/// Caddy's own CA by its pin, as a user would copy it: the intermediate that Caddy shows, not a file.
#[test]
fn caddy_by_pin() {
    let site = Upstream::site("private");
    let edge = Edge::start(Mode::Http, false, &[]);
    let Some(proxy) = Proxy::start(Kind::Caddy, edge.http, edge.control) else { return };
    let shown = tls::certificates(proxy.control, "localhost").unwrap();
    let pin = format!("sha256:{}", sha256(shown.last().unwrap()));
    let url = format!("wss://localhost:{}", proxy.control.port());
    let upstream = format!("http://{}", site.addr());
    let client = edge.client_at(&url, &["--ca-fingerprint", &pin, "--upstream", &upstream]);
    wait_site(edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\nclient:\n{}", client.process.output()));
}
