//! PROXY protocol: from a real balancer in front (HAProxy), and to upstreams.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use stage::edge::{Edge, Mode};
use stage::process::Process;
use stage::upstream::Upstream;
use stage::{Dir, http, peers, ports};

use super::{FRIEND, STRANGER};

/// HAProxy in TCP mode in front of `back`; `send` is `send-proxy` or `send-proxy-v2`.
struct Balancer {
    front: SocketAddr,
    _process: Process,
    _dir: Dir,
}

impl Balancer {
    fn start(back: SocketAddr, send: &str) -> Option<Balancer> {
        let program = peers::need("haproxy")?;
        let (dir, front) = (Dir::new("balancer"), ports::local(ports::free()));
        let file = dir.write(
            "haproxy.cfg",
            format!("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\nlisten l\n  bind {front}\n  server s {back} {send}\n"),
        );
        let mut command = Command::new(program);
        command.arg("-f").arg(file);
        let process = Process::start("haproxy", command);
        ports::wait(front, stage::START).unwrap();
        Some(Balancer { front, _process: process, _dir: dir })
    }
}

/// A page through the balancer; `None` for a connection that was closed without one.
fn page(from: Ipv4Addr, to: SocketAddr) -> Option<u16> {
    http::get_on(&mut http::tcp_from(from, to).ok()?, "site.test", "/", &[]).ok().map(|r| r.status)
}

fn http_behind(version: &str, send: &str) {
    let site = Upstream::site("private");
    let rules = ["--lb-proxy-protocol", version, "--trusted-proxies", "127.0.0.1", "--allow-ips-data", "127.0.0.9"];
    let mut edge = Edge::start(Mode::Http, true, &rules);
    let client = edge.client(&["--upstream", &format!("http://{}", site.addr())]);
    let Some(balancer) = Balancer::start(edge.http, send) else { return };
    let up = stage::eventually(stage::START, || page(FRIEND, balancer.front).filter(|s| *s == 200).ok_or(()));
    assert!(
        up.is_ok(),
        "the friend must get in; edge:\n{}\nclient:\n{}",
        edge.process.output(),
        client.process.output()
    );
    assert!(!matches!(page(STRANGER, balancer.front), Some(200)), "the stranger got in");
    // The balancer itself must say who comes; a stranger's own PROXY line says nothing.
    assert!(!matches!(page(Ipv4Addr::LOCALHOST, edge.http), Some(200)), "the balancer got in without a PROXY line");
    let mut forger = http::tcp_from(STRANGER, edge.http).unwrap();
    let _ = forger.write_all(b"PROXY TCP4 127.0.0.9 127.0.0.1 40000 80\r\n");
    let answer = http::get_on(&mut forger, "site.test", "/", &[]).map(|r| r.status);
    assert!(!matches!(answer, Ok(200)), "a stranger's PROXY line was believed");
    assert_eq!(page(FRIEND, balancer.front), Some(200), "the edge still serves");
}

#[test]
fn http_v1() {
    http_behind("v1", "send-proxy");
}

#[test]
fn http_v2() {
    http_behind("v2", "send-proxy-v2");
}

/// First a v1 line or a v2 header as the upstream sees it, then the visitor's bytes.
fn to_upstream(version: &str, behind: Option<(&str, &str)>) {
    let echo = Upstream::echo();
    let port = ports::free();
    let mut rules = vec!["--proxy-protocol", version];
    if let Some((lb, _)) = behind {
        rules.extend(["--lb-proxy-protocol", lb, "--trusted-proxies", "127.0.0.1", "--allow-ips-data", "127.0.0.9"]);
    }
    let mut edge = Edge::start(Mode::Tcp, true, &rules);
    let client = edge.client(&["--upstream", &format!("{port}={}", echo.addr())]);
    ports::wait(ports::local(port), stage::START)
        .unwrap_or_else(|e| panic!("{e}\nclient:\n{}", client.process.output()));
    let mut balancer = None;
    if let Some((_, send)) = behind {
        balancer = Balancer::start(ports::local(port), send);
        if balancer.is_none() {
            return;
        }
    }
    let visit = balancer.as_ref().map_or(ports::local(port), |b| b.front);
    let mut s = http::tcp_from(FRIEND, visit).unwrap();
    s.write_all(b"first words").unwrap();
    s.shutdown(std::net::Shutdown::Write).unwrap();
    let seen = stage::read_all(&mut s, 1 << 16).unwrap();
    let source = s.local_addr().unwrap().port();
    match version {
        "v1" => {
            let text = String::from_utf8_lossy(&seen);
            let (line, rest) = text.split_once("\r\n").unwrap_or_else(|| panic!("no PROXY line: {text:?}"));
            let words: Vec<&str> = line.split(' ').collect();
            let source = source.to_string();
            assert!(matches!(words[..], ["PROXY", "TCP4", "127.0.0.9", "127.0.0.1", s, _] if s == source), "{line}");
            assert_eq!(rest, "first words");
        }
        _ => {
            // proxy-protocol.txt 2.2: signature, version and command, family and protocol, length, addresses.
            assert_eq!(&seen[..12], b"\r\n\r\n\0\r\nQUIT\n");
            assert_eq!((seen[12], seen[13]), (0x21, 0x11), "PROXY over TCP/IPv4");
            let len = usize::from(u16::from_be_bytes([seen[14], seen[15]]));
            assert_eq!(&seen[16..20], FRIEND.octets());
            assert_eq!(u16::from_be_bytes([seen[24], seen[25]]), source);
            assert_eq!(&seen[16 + len..], b"first words");
        }
    }
    if behind.is_some() {
        let mut stranger = http::tcp_from(STRANGER, visit).unwrap();
        let _ = stranger.write_all(b"let me in");
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        assert!(answer.is_empty(), "the stranger got {answer:?}");
    }
}

#[test]
fn tcp_upstream_v1() {
    to_upstream("v1", None);
}

#[test]
fn tcp_upstream_v2() {
    to_upstream("v2", None);
}

#[test]
fn tcp_both_v1() {
    to_upstream("v1", Some(("v1", "send-proxy")));
}

#[test]
fn tcp_both_v2() {
    to_upstream("v2", Some(("v2", "send-proxy-v2")));
}
