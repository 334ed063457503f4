//! Peers that hold the right token and break the protocol: a client towards an edge, an edge towards a client. The
//! frames are made here, byte by byte, not by the code under test.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use stage::edge::{Client, Edge, Mode, TOKEN};
use stage::upstream::Upstream;
use stage::{Dir, http, pattern};

use super::strangers::upgrade;
use super::{MEMORY, Site};

/// Types of frames (`tunnel_proto::frame`).
const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const OPEN: u8 = 4;
const DATA: u8 = 5;
const END: u8 = 6;
const RESET: u8 = 7;
const WINDOW: u8 = 8;
const PING: u8 = 11;

/// One frame: type, length, stream, payload.
fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&[kind, len[1], len[2], len[3]], &stream.to_be_bytes()[..], payload].concat()
}

/// Bytes as one binary websocket message (RFC 6455, 5.2); from a client with a mask of zeros.
fn message(masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut out = vec![0x82, mask | 127];
    out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
    if masked {
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
    out
}

const CLIENT_HELLO: &str = r#"{"version":1,"program":"t","host":"hostile","upstreams":[{"ask":{"http":{"host":"hostile.test","path":""}},"name":"n"}]}"#;

/// An upgraded first carrier with the right token; the hello is up to the caller.
fn carrier(edge: &Edge, session: &str) -> TcpStream {
    let token = format!("Bearer {TOKEN}");
    let fields = [
        ("Authorization", token.as_str()),
        ("x-portcullis-session", session),
        ("x-portcullis-client", session),
        ("x-portcullis-link", "carrier/0"),
    ];
    let (s, answer) = upgrade(edge.control, &fields).unwrap();
    assert_eq!(answer.status, 101, "{}", answer.head);
    s
}

/// A carrier whose hello was welcomed.
fn session(edge: &Edge, name: &str) -> TcpStream {
    let mut s = carrier(edge, name);
    s.write_all(&message(true, &frame(HELLO, 0, CLIENT_HELLO.as_bytes()))).unwrap();
    let (kind, payload) = read_frame(&mut s).unwrap();
    assert_eq!(kind, WELCOME, "{}", String::from_utf8_lossy(&payload));
    s
}

/// The first frame of the next message; enough for answers that come alone.
fn read_frame(s: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut two = [0; 2];
    s.read_exact(&mut two)?;
    let extra = match two[1] & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    } + if two[1] & 0x80 != 0 { 4 } else { 0 };
    s.read_exact(&mut vec![0; extra])?;
    let mut head = [0; 8];
    s.read_exact(&mut head)?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize];
    s.read_exact(&mut payload)?;
    Ok((head[0], payload))
}

/// True if the peer hangs up within ten seconds, whatever it says before.
fn hangs_up(s: &mut TcpStream) -> bool {
    s.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let end = Instant::now() + Duration::from_secs(12);
    let mut buf = vec![0; 65536];
    while Instant::now() < end {
        match s.read(&mut buf) {
            Ok(0) => return true,
            Err(e) if !matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return true,
            _ => {}
        }
    }
    false
}

#[test]
fn garbage_inside_the_upgrade() {
    let _turn = stage::shared();
    let mut site = Site::start(Upstream::site("private"), &[]);
    let hello = frame(HELLO, 0, CLIENT_HELLO.as_bytes());
    let garbage: Vec<(&str, Vec<u8>)> = vec![
        ("noise", pattern(100_000, 1)),
        ("zeros", vec![0; 100_000]),
        ("a text message", [&[0x81, 0x80 | 5, 0, 0, 0, 0], &b"hello"[..]].concat()),
        ("a reserved bit", [&[0xc2, 0x80 | 5, 0, 0, 0, 0], &b"hello"[..]].concat()),
        ("a message of 2^63 bytes", [&[0x82, 0xff][..], &(1u64 << 63).to_be_bytes(), &[0; 4], &[255; 64]].concat()),
        ("a long ping", [&[0x89, 0x80 | 126, 4, 0, 0, 0, 0, 0][..], &[0; 1024]].concat()),
        ("data before the hello", message(true, &frame(DATA, 1, &[0; 1000]))),
        ("an open before the hello", message(true, &frame(OPEN, 1, &[0; 12]))),
        ("an unknown frame", message(true, &frame(99, 0, &[]))),
        ("an endless hello", message(true, &[&[HELLO, 0xff, 0xff, 0xff, 0, 0, 0, 0][..], &[b'{'; 100_000]].concat())),
        ("a hello that is no JSON", message(true, &frame(HELLO, 0, b"{{{{"))),
        (
            "a hello of nothing",
            message(true, &frame(HELLO, 0, br#"{"version":1,"program":"","host":"","upstreams":[]}"#)),
        ),
        (
            "a hello of the future",
            message(true, &frame(HELLO, 0, br#"{"version":4294967295,"program":"","host":"","upstreams":[]}"#)),
        ),
        ("a deep hello", message(true, &frame(HELLO, 0, "[".repeat(60_000).as_bytes()))),
        ("two hellos", message(true, &[hello.clone(), hello.clone()].concat())),
        ("an end before the hello", message(true, &frame(END, 7, &[]))),
    ];
    for (what, bytes) in garbage {
        let mut s = carrier(&site.edge, &format!("garbage-{}", what.replace(' ', "-")));
        let _ = s.write_all(&bytes);
        assert!(hangs_up(&mut s), "the edge did not hang up on {what}");
    }
    site.unharmed();
}

/// What a welcomed client must not do costs it its session and nobody else anything.
#[test]
fn a_client_that_breaks_the_rules() {
    let mut site = Site::start(Upstream::site("private"), &[]);
    let open = [&0u16.to_be_bytes()[..], &65536u32.to_be_bytes(), &80u16.to_be_bytes(), &[127, 0, 0, 1]].concat();
    for (what, bytes) in [
        ("opens a stream", frame(OPEN, 1, &open)),
        ("sends an unknown frame", frame(200, 0, &[])),
        ("sends a frame that is too long", [&[END, 0xff, 0xff, 0xff, 0, 0, 0, 1][..], &[0; 70_000]].concat()),
        ("sends a window that is no number", frame(WINDOW, 1, &[1, 2])),
        ("sends a second hello", frame(HELLO, 0, CLIENT_HELLO.as_bytes())),
    ] {
        let mut s = session(&site.edge, &format!("breaker-{}", what.len()));
        s.write_all(&message(true, &bytes)).unwrap();
        if what == "sends a window that is no number" || what == "sends a second hello" {
            // Refused or ignored; never harmful.
            continue;
        }
        assert!(hangs_up(&mut s), "the edge keeps a client that {what}");
    }
    site.unharmed();
}

/// A million opens from a client, in one go.
#[test]
fn a_client_that_opens_a_million_streams() {
    let _turn = stage::shared();
    let mut site = Site::start(Upstream::site("private"), &[]);
    let mut s = session(&site.edge, "opener");
    let open = [&0u16.to_be_bytes()[..], &65536u32.to_be_bytes(), &80u16.to_be_bytes(), &[127, 0, 0, 1]].concat();
    for batch in 0..1000u32 {
        let frames: Vec<u8> = (0..1000).flat_map(|i| frame(OPEN, batch * 1000 + i + 1, &open)).collect();
        if s.write_all(&message(true, &frames)).is_err() {
            break;
        }
    }
    site.unharmed();
}

/// Frames that want an answer, from a client that reads none: answers must not pile up.
#[test]
fn a_client_that_never_reads() {
    let _turn = stage::shared();
    let mut site = Site::start(Upstream::site("private"), &[]);
    for (what, one) in [
        ("pings", frame(PING, 0, &[])),
        ("data for streams that are not", frame(DATA, 77, &[])),
        ("resets for streams that are not", frame(RESET, 77, &[1])),
        ("windows for streams that are not", frame(WINDOW, 77, &[0, 0, 0, 1])),
    ] {
        let mut s = session(&site.edge, &format!("deaf-{}", what.len()));
        s.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
        let batch = message(true, &one.repeat(4000));
        let end = Instant::now() + Duration::from_secs(6);
        // 20 million frames if nothing stops them.
        for _ in 0..5000 {
            if s.write_all(&batch).is_err() || Instant::now() > end {
                break;
            }
        }
        site.edge.process.must_run();
        let grown = site.edge.process.rss_kib().saturating_sub(site.before);
        assert!(grown < MEMORY, "{what}: the edge grew by {grown} KiB");
    }
    // The same at the level below.
    let mut s = session(&site.edge, "deaf");
    s.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    let batch = [0x89, 0x80, 0, 0, 0, 0].repeat(10_000);
    let end = Instant::now() + Duration::from_secs(6);
    for _ in 0..2000 {
        if s.write_all(&batch).is_err() || Instant::now() > end {
            break;
        }
    }
    site.unharmed();
}

/// A hostile client that publishes a host and ignores its visitors: they get an answer in the end, others at once.
#[test]
fn a_client_that_ignores_its_visitors() {
    let _turn = stage::alone();
    let mut site = Site::start(Upstream::site("private"), &[]);
    let _deaf = session(&site.edge, "ignorer");
    let to = site.http();
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let mut s = http::tcp(to).unwrap();
            s.write_all(b"GET / HTTP/1.1\r\nHost: hostile.test\r\n\r\n").unwrap();
            s
        })
        .collect();
    let begin = Instant::now();
    site.serves();
    assert!(begin.elapsed() < Duration::from_secs(2), "others waited {:?}", begin.elapsed());
    drop(waiting);
    site.unharmed();
}

/// An edge that went bad: it welcomes a client, then opens streams without end. The client dials only what it
/// publishes, keeps within its memory, and comes back to a good edge.
#[test]
fn an_edge_that_opens_a_million_streams() {
    let _turn = stage::shared();
    // Nobody accepts there: dials of the client wait in the system, and this process does not run out of files.
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = Upstream::serve(|s| {
        let _ = bad_edge(s);
    });
    let dir = Dir::new("bad-edge");
    let token = dir.secret("token.txt", TOKEN);
    let map = format!("9={}", upstream.local_addr().unwrap());
    let url = format!("ws://{}", bad.addr());
    let mut client = Client::start(Mode::Tcp, &url, &token, &["--insecure", "--upstream", &map]);
    stage::eventually(stage::START, || if bad.total() > 0 { Ok(()) } else { Err("the client never came") }).unwrap();
    let end = Instant::now() + Duration::from_secs(8);
    let mut most = 0;
    while Instant::now() < end {
        client.process.must_run();
        most = most.max(client.process.rss_kib());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(most < 2 * MEMORY, "the client grew to {most} KiB");
}

fn bad_edge(mut s: TcpStream) -> io::Result<()> {
    s.set_write_timeout(Some(Duration::from_secs(2)))?;
    let head = http::read_head(&mut s)?.unwrap_or_default();
    let accept = http::websocket_accept(&http::header(&head, "sec-websocket-key").unwrap_or_default());
    write!(
        s,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )?;
    if http::header(&head, "x-portcullis-link").as_deref() != Some("carrier/0") {
        std::thread::sleep(Duration::from_secs(8));
        return Ok(());
    }
    read_frame(&mut s)?;
    s.write_all(&message(false, &frame(WELCOME, 0, br#"{"program":"bad","bulk":2,"published":[]}"#)))?;
    let open = |upstream: u16| {
        [&upstream.to_be_bytes()[..], &65536u32.to_be_bytes(), &80u16.to_be_bytes(), &[127, 0, 0, 1]].concat()
    };
    let (right, wrong) = (open(0), open(999));
    for batch in 0..1000u32 {
        let frames: Vec<u8> = (0..1000)
            .flat_map(|i| frame(OPEN, batch * 1000 + i + 1, if i % 2 == 0 { &right } else { &wrong }))
            .collect();
        s.write_all(&message(false, &frames))?;
    }
    std::thread::sleep(Duration::from_secs(8));
    Ok(())
}

/// A client whose edge sends noise after the upgrade comes back again and again, slower and slower, and stays small.
#[test]
fn an_edge_that_sends_noise() {
    let upstream = Upstream::site("private");
    let noisy = Upstream::serve(|mut s| {
        let Ok(Some(head)) = http::read_head(&mut s) else { return };
        let accept = http::websocket_accept(&http::header(&head, "sec-websocket-key").unwrap_or_default());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        let _ = s.write_all(answer.as_bytes());
        let _ = s.write_all(&pattern(1 << 20, 5));
    });
    let dir = Dir::new("noisy-edge");
    let token = dir.secret("token.txt", TOKEN);
    let target = format!("http://{}", upstream.addr());
    let mut client =
        Client::start(Mode::Http, &format!("ws://{}", noisy.addr()), &token, &["--insecure", "--upstream", &target]);
    std::thread::sleep(Duration::from_secs(4));
    client.process.must_run();
    let tries = noisy.total();
    assert!((2..60).contains(&tries), "{tries} tries in four seconds");
    assert!(client.process.rss_kib() < MEMORY);
}

/// A hello may not take another's place without the token; with it, a new session of the same client takes over.
#[test]
fn sessions_of_the_same_client() {
    let edge = Edge::start(Mode::Http, false, &[]);
    let mut first = session(&edge, "same");
    let token = format!("Bearer {TOKEN}");
    let fields = [
        ("Authorization", token.as_str()),
        ("x-portcullis-session", "other"),
        ("x-portcullis-client", "same"),
        ("x-portcullis-link", "carrier/0"),
    ];
    let (mut second, answer) = upgrade(edge.control, &fields).unwrap();
    assert_eq!(answer.status, 101);
    second.write_all(&message(true, &frame(HELLO, 0, CLIENT_HELLO.as_bytes()))).unwrap();
    assert_eq!(read_frame(&mut second).unwrap().0, WELCOME);
    assert!(hangs_up(&mut first), "the old session lives on");
    // A carrier of a session that is not there is no session.
    let fields = [
        ("Authorization", token.as_str()),
        ("x-portcullis-session", "nowhere"),
        ("x-portcullis-client", "x"),
        ("x-portcullis-link", "carrier/1"),
    ];
    assert_eq!(upgrade(edge.control, &fields).unwrap().1.status, 404);
}
