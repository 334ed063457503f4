//! Without the token, with a wrong one, with another's address, with bytes that are no protocol at all.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use stage::edge::{Client, Edge, Mode, wait_site};
use stage::upstream::Upstream;
use stage::{Dir, http, pattern, tls};

use super::Site;

/// An upgrade as a client sends it.
pub(crate) fn upgrade(
    to: SocketAddr,
    fields: &[(&str, &str)],
) -> std::io::Result<(std::net::TcpStream, http::Response)> {
    upgrade_from(Ipv4Addr::LOCALHOST, to, fields)
}

fn upgrade_from(
    from: Ipv4Addr,
    to: SocketAddr,
    fields: &[(&str, &str)],
) -> std::io::Result<(std::net::TcpStream, http::Response)> {
    let mut s = http::tcp_from(from, to)?;
    let answer = http::upgrade_on(&mut s, "edge.test", "/tunnel", fields)?;
    Ok((s, answer))
}

#[test]
fn no_token_and_wrong_tokens() {
    let edge = Edge::start(Mode::Http, false, &[]);
    let session = [("x-portcullis-session", "s"), ("x-portcullis-client", "c"), ("x-portcullis-link", "carrier/0")];
    let wrong = [
        None,
        Some("Bearer "),
        Some("Bearer wrong"),
        Some("Basic c3RhZ2U6c3RhZ2U="),
        Some("stage-token-0123456789abcdef"),
        Some("Bearer stage-token-0123456789abcde"),
        Some("Bearer stage-token-0123456789abcdefg"),
    ];
    for (n, authorization) in (1..).zip(wrong) {
        // Each from an address of its own: ten wrong ones of one address are the last that are looked at.
        let from = Ipv4Addr::new(127, 0, 1, n);
        let mut fields = session.to_vec();
        fields.extend(authorization.map(|a| ("Authorization", a)));
        let (_, answer) = upgrade_from(from, edge.control, &fields).unwrap();
        assert_eq!(answer.status, 401, "{authorization:?}: {}", answer.head);
        for path in ["/status", "/metrics"] {
            let fields: Vec<_> = authorization.map(|a| ("Authorization", a)).into_iter().collect();
            let mut s = http::tcp_from(from, edge.control).unwrap();
            let answer = http::get_on(&mut s, "edge.test", path, &fields).unwrap();
            assert_eq!(answer.status, 401, "{path} {authorization:?}");
        }
    }
    // Twice is not once: whoever reads the first and whoever reads the last would disagree.
    let token = format!("Bearer {}", stage::edge::TOKEN);
    let fields =
        [session.to_vec(), vec![("Authorization", token.as_str()), ("Authorization", "Bearer wrong")]].concat();
    assert_eq!(upgrade(edge.control, &fields).unwrap().1.status, 401);
    let right = [session.to_vec(), vec![("Authorization", token.as_str())]].concat();
    assert_eq!(upgrade(edge.control, &right).unwrap().1.status, 101, "the right token must do");
}

/// Ten wrong tokens of one address, and no more are looked at, not even the right one; others notice nothing.
#[test]
fn tokens_cannot_be_guessed_fast() {
    let edge = Edge::start(Mode::Http, false, &[]);
    let guesser = Ipv4Addr::new(127, 0, 0, 66);
    let ask = |from: Ipv4Addr, token: &str, more: &[(&str, &str)]| {
        let bearer = format!("Bearer {token}");
        let mut s = http::tcp_from(from, edge.control).unwrap();
        let fields = [&[("Authorization", bearer.as_str())], more].concat();
        http::get_on(&mut s, "edge.test", "/status", &fields).unwrap().status
    };
    let begin = Instant::now();
    let guesses: Vec<u16> = (0..10).map(|n| ask(guesser, &format!("guess-{n}"), &[])).collect();
    assert_eq!(guesses, [401; 10]);
    assert!(begin.elapsed() >= Duration::from_secs(3), "each of them waits: {:?}", begin.elapsed());
    assert_eq!(ask(guesser, stage::edge::TOKEN, &[]), 429, "the right one is not looked at either");
    assert_eq!(ask(Ipv4Addr::LOCALHOST, stage::edge::TOKEN, &[]), 200);
    let lines = edge.process.output().lines().filter(|l| l.contains("127.0.0.66") && l.contains("wrong token")).count();
    assert_eq!(lines, 10, "{}", edge.process.output());
    // Whoever gives no token guesses nothing: a monitor, or a page that a browser behind the same address was led to.
    let home = Ipv4Addr::new(127, 0, 0, 68);
    for _ in 0..11 {
        let mut s = http::tcp_from(home, edge.control).unwrap();
        assert_eq!(http::get_on(&mut s, "edge.test", "/", &[]).unwrap().status, 401);
    }
    assert_eq!(ask(home, stage::edge::TOKEN, &[]), 200);
    // A proxy of this machine that was not named: strangers behind it do not close it for everybody, and it is said.
    let proxy = Ipv4Addr::new(127, 0, 0, 67);
    for n in 0..12 {
        assert_eq!(ask(proxy, &format!("guess-{n}"), &[("X-Forwarded-For", "198.51.100.7")]), 401);
    }
    assert_eq!(ask(proxy, stage::edge::TOKEN, &[("X-Forwarded-For", "198.51.100.8")]), 200);
    let said = edge
        .process
        .output()
        .lines()
        .filter(|l| l.contains("WARN") && l.contains("--trusted-proxies 127.0.0.67"))
        .count();
    assert_eq!(said, 1, "{}", edge.process.output());
}

#[test]
fn a_client_with_a_wrong_token_ends_with_one_clear_message() {
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let dir = Dir::new("token");
    let token = dir.secret("token.txt", "not-the-token-of-this-edge");
    let (url, trust) = edge.reach();
    let args: Vec<&str> = trust.iter().map(String::as_str).chain(["--upstream", "http://127.0.0.1:9"]).collect();
    let mut client = Client::start(Mode::Http, &url, &token, &args);
    let status = client.process.wait(Duration::from_secs(20)).unwrap();
    // Its last words may still be on their way through the pipe.
    let said =
        client.process.line(Duration::from_secs(2), |l| l.starts_with("error: ").then(|| l.to_string())).unwrap();
    let output = client.process.output();
    assert_eq!(status.code(), Some(1), "{output}");
    assert_eq!(output.matches("error: ").count(), 1, "{output}");
    assert!(output.to_lowercase().contains("token"), "{said}");
    assert!(!output.contains("not-the-token-of-this-edge"), "the token is a secret: {output}");
}

#[test]
fn a_client_without_a_pin_refuses_and_shows_how_to_pin() {
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let pin = edge.fingerprint();
    let url = format!("wss://{}", edge.control);
    let mut client = edge.client_at(&url, &["--upstream", "http://127.0.0.1:9"]);
    let status = client.process.wait(Duration::from_secs(20)).unwrap();
    let shown = client.process.line(Duration::from_secs(2), |l| l.contains(&pin).then_some(()));
    assert_eq!(status.code(), Some(1), "{}", client.process.output());
    shown.unwrap();
    // A pin of another edge is no pin.
    let other = format!("sha256:{}", "ab".repeat(32));
    let mut client = edge.client_at(&url, &["--ca-fingerprint", &other, "--upstream", "http://127.0.0.1:9"]);
    assert_eq!(client.process.wait(Duration::from_secs(20)).unwrap().code(), Some(1), "{}", client.process.output());
}

/// Bytes of every kind at every port; the ports stay open for the others.
#[test]
fn garbage_before_the_upgrade() {
    let site = Upstream::site("private");
    for encrypted in [false, true] {
        let mut edge = Edge::start(Mode::Http, encrypted, &[]);
        let client = edge.client(&["--upstream", &format!("http://{}", site.addr())]);
        wait_site(edge.http, "site.test").unwrap_or_else(|e| panic!("{e}\n{}", client.process.output()));
        let mut garbage = vec![
            vec![0; 70_000],
            vec![0xff; 70_000],
            b"\r\n\r\n\r\n\r\n".to_vec(),
            b"GET".to_vec(),
            b"\x16\x03\x01\xff\xff\x01\x00".to_vec(),
        ];
        garbage.push([b"GET / HTTP/1.1\r\n".to_vec(), pattern(50_000, 1)].concat());
        garbage.push(
            [b"GET /tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX: ".to_vec(), vec![b'a'; 200_000]].concat(),
        );
        garbage.extend((2..40).map(|seed| pattern(3000, seed)));
        for (port, bytes) in [edge.control, edge.http].into_iter().flat_map(|p| garbage.iter().map(move |g| (p, g))) {
            let mut s = http::tcp(port).unwrap();
            s.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let _ = s.write_all(bytes);
            let mut answer = vec![0; 512];
            let n = s.read(&mut answer).unwrap_or(0);
            assert!(
                !answer[..n].starts_with(b"HTTP/1.1 101") && !answer[..n].starts_with(b"HTTP/1.1 200"),
                "{:?}",
                String::from_utf8_lossy(&answer[..n])
            );
        }
        if encrypted {
            // The same inside TLS.
            for bytes in garbage.iter().take(12) {
                let mut s = tls::connect(edge.control, "127.0.0.1").unwrap();
                s.sock.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let _ = s.write_all(bytes);
                let _ = s.flush();
                let _ = s.read(&mut [0; 512]);
            }
        }
        edge.process.must_run();
        wait_site(edge.http, "site.test").unwrap();
        assert_eq!(client.process.output().matches("connected to").count(), 1, "the session must not notice");
    }
}

/// Headers of visitors who are no trusted proxy count for nothing: neither for admission nor at the upstream.
#[test]
fn spoofed_addresses() {
    let upstream = Upstream::site("private");
    let mut edge = Edge::start(Mode::Http, false, &["--allow-ips-data", "127.0.0.9"]);
    let _client = edge.client(&["--upstream", &format!("http://{}", upstream.addr())]);
    let ask = |from: [u8; 4], fields: &[(&str, &str)]| {
        let mut s = http::tcp_from(Ipv4Addr::from(from), edge.http)?;
        http::get_on(&mut s, "site.test", "/head", fields)
    };
    let up = stage::eventually(stage::START, || ask([127, 0, 0, 9], &[]).ok().filter(|r| r.status == 200).ok_or(()));
    assert!(up.is_ok());
    let lies = [
        ("X-Forwarded-For", "127.0.0.9"),
        ("X-Forwarded-For", "127.0.0.9, 127.0.0.9"),
        ("Forwarded", "for=127.0.0.9"),
        ("X-Real-IP", "127.0.0.9"),
        ("CF-Connecting-IP", "127.0.0.9"),
        ("True-Client-IP", "127.0.0.9"),
        ("X-Client-IP", "127.0.0.9"),
    ];
    for lie in lies {
        let got = ask([127, 0, 0, 8], &[lie]).map(|r| r.status);
        assert!(!matches!(got, Ok(200)), "{lie:?} was let in: {got:?}");
        let told = ask([127, 0, 0, 9], &[(lie.0, "6.6.6.6")]).unwrap().text();
        assert_eq!(http::headers(&told, "x-forwarded-for"), ["127.0.0.9"], "{told}");
        if lie.0 == "Forwarded" {
            assert!(!told.contains("6.6.6.6"), "a stranger's Forwarded was passed on: {told}");
        }
    }
    // Who is refused gets no byte: admission comes before the first read and the first write.
    let mut s = http::tcp_from(Ipv4Addr::new(127, 0, 0, 8), edge.http).unwrap();
    let mut answer = Vec::new();
    let _ = s.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
}

/// The list of the control plane is its own: a refused address cannot even try a token.
#[test]
fn the_control_plane_has_its_list() {
    let edge = Edge::start(Mode::Http, false, &["--allow-ips-control", "127.0.0.9"]);
    let mut s = http::tcp_from(Ipv4Addr::new(127, 0, 0, 8), edge.control).unwrap();
    let token = format!("Bearer {}", stage::edge::TOKEN);
    let _ = s.write_all(format!("GET /status HTTP/1.1\r\nHost: e\r\nAuthorization: {token}\r\n\r\n").as_bytes());
    let mut answer = Vec::new();
    let _ = s.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
    let mut s = http::tcp_from(Ipv4Addr::new(127, 0, 0, 9), edge.control).unwrap();
    assert_eq!(http::get_on(&mut s, "e", "/status", &[("Authorization", &token)]).unwrap().status, 200);
}

/// An upstream that breaks: the visitor sees a break, not an end, and the next one is served.
#[test]
fn upstreams_that_die() {
    let mut site = Site::start(Upstream::site("private"), &[]);
    for n in [1, 1000, 3_000_000] {
        let got = http::get(site.http(), "site.test", &format!("/die/{n}"), &[]);
        assert!(got.is_err(), "half a body passed for a whole one ({n} bytes)");
    }
    site.unharmed();
    drop(site);
    type Misdeed = (&'static str, &'static [u8]);
    let misdeeds: [Misdeed; 6] = [
        ("closes", b""),
        ("garbage", b"\x00\x01\x02\x03 what\r\n\r\n"),
        ("no status", b"HTTP/1.1\r\n\r\n"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("cut head", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("a bare interim answer", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ];
    for (what, bytes) in misdeeds {
        let upstream = Upstream::serve(move |mut s| {
            let Ok(Some(head)) = http::read_head(&mut s) else { return };
            if head.starts_with("GET / ") {
                let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
            } else {
                let _ = s.write_all(bytes);
            }
        });
        let site = Site::start(upstream, &[]);
        let begin = Instant::now();
        let got = http::get(site.http(), "site.test", "/bad", &[]).unwrap();
        assert_eq!(got.status, 502, "an upstream that {what}: {}", got.head);
        assert!(begin.elapsed() < Duration::from_secs(10), "an upstream that {what} held the visitor");
        site.serves();
    }
}

/// An upstream that is not there: 502 at once, and nothing of the private side in it.
#[test]
fn an_upstream_that_is_down() {
    let mut edge = Edge::start(Mode::Http, false, &[]);
    let down = stage::ports::local(stage::ports::free());
    let _client = edge.client(&["--upstream", &format!("http://{down}")]);
    let page = stage::eventually(stage::START, || match http::get(edge.http, "site.test", "/", &[]) {
        Ok(r) if r.status == 502 => Ok(r),
        other => Err(format!("{other:?}")),
    });
    let page = page.unwrap();
    assert!(!page.text().contains(&down.port().to_string()), "{}", page.text());
}
