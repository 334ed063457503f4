//! The recipes for an edge behind Caddy and nginx, as they are printed: they work, and headers that a visitor makes up
//! let nobody in.

use stage::edge::{Edge, Mode, wait_site};
use stage::proxies::{Kind, Proxy};
use stage::upstream::Upstream;
use stage::{http, pages, tls};

use super::{FRIEND, STRANGER};

/// What a stranger may try, to be taken for a friend.
const FORGED: [(&str, &str); 9] = [
    ("X-Forwarded-For", "127.0.0.9"),
    ("x-forwarded-for", "127.0.0.9, 127.0.0.9"),
    ("Forwarded", "for=127.0.0.9"),
    ("X-Real-IP", "127.0.0.9"),
    ("X_Forwarded_For", "127.0.0.9"),
    ("CF-Connecting-IP", "127.0.0.9"),
    ("True-Client-IP", "127.0.0.9"),
    ("X-Original-Forwarded-For", "127.0.0.9"),
    ("X-Forwarded-Host", "intranet.example"),
];

fn recipe(kind: Kind, text: &str) {
    let site = Upstream::serve(|mut s| {
        while let Ok(Some(head)) = http::read_head(&mut s) {
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            if std::io::Write::write_all(&mut s, answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    // As the manual starts it, for one friend.
    let rules = ["--trusted-proxies", "127.0.0.1", "--allow-ips-data", "127.0.0.9,127.0.0.1"];
    let edge = Edge::start(Mode::Http, false, &rules);
    let Some(proxy) = Proxy::printed(kind, text, edge.http, edge.control) else { return };
    let ca = proxy.ca.to_str().unwrap().to_string();
    let url = format!("wss://localhost:{}", proxy.control.port());
    let upstream = format!("http://{}", site.addr());
    let client = edge.client_at(&url, &["--auto-tls=false", "--ca-file", &ca, "--upstream", &upstream]);
    wait_site(edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\nclient:\n{}", client.process.output()));
    let host = format!("localhost:{}", proxy.data.port());
    let ask = |from, fields: &[(&str, &str)]| {
        let socket = http::tcp_from(from, proxy.data).unwrap();
        http::get_on(&mut tls::over(socket, "localhost").unwrap(), &host, "/", fields).unwrap()
    };
    for field in FORGED {
        let answer = ask(STRANGER, &[field]);
        assert!([400, 403].contains(&answer.status), "{field:?} lets a stranger in: {}", answer.text());
        // A friend's own requests say of it what is true, whatever it adds.
        let answer = ask(FRIEND, &[field]);
        let seen = answer.text();
        assert_eq!(answer.status, 200, "{field:?}: {seen}");
        assert_eq!(http::headers(&seen, "x-real-ip"), ["127.0.0.9"], "{seen}");
        assert_eq!(http::headers(&seen, "x-forwarded-for"), ["127.0.0.9, 127.0.0.1"], "{seen}");
        assert_eq!(http::headers(&seen, "x-forwarded-proto"), ["https"], "{seen}");
        assert_eq!(http::headers(&seen, "x-forwarded-host"), [host.as_str()], "{seen}");
        assert!(!seen.contains("intranet"), "{seen}");
    }
    let seen = ask(FRIEND, &[("Remote-User", "root"), ("X-Gate-User", "root"), ("X-Forwarded-User", "root")]).text();
    assert!(!seen.contains("root"), "{seen}");
}

#[test]
fn caddy() {
    recipe(Kind::Caddy, &pages::recipe("caddy-front"));
}

#[test]
fn nginx() {
    recipe(Kind::Nginx, &pages::recipe("nginx-front"));
}

/// Without `--trusted-proxies` the proxy is the visitor, and the edge says which flag was forgotten, once.
#[test]
fn a_forgotten_flag_is_said() {
    let site = Upstream::site("private");
    let mut edge = Edge::start(Mode::Http, false, &[]);
    let upstream = format!("http://{}", site.addr());
    let _client = edge.client(&["--upstream", &upstream]);
    wait_site(edge.http, "localhost").unwrap();
    for _ in 0..3 {
        let answer = http::get(edge.http, "localhost", "/", &[("X-Forwarded-For", "203.0.113.7")]).unwrap();
        assert_eq!(answer.status, 200);
    }
    let said = stage::eventually(stage::START, || {
        let text = edge.process.output();
        if text.contains("--trusted-proxies 127.0.0.1") { Ok(text) } else { Err(text) }
    })
    .unwrap();
    assert_eq!(said.matches("--trusted-proxies").count(), 1, "{said}");
}

/// Flags of a client reach the upstream through a real edge; what they cannot mean is said at once.
#[test]
fn hosts_and_headers_are_rewritten() {
    let site = Upstream::serve(|mut s| {
        while let Ok(Some(head)) = http::read_head(&mut s) {
            let answer = format!("HTTP/1.1 200 OK\r\nServer: old\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            if std::io::Write::write_all(&mut s, answer.as_bytes()).is_err() {
                return;
            }
        }
    });
    let mut edge = Edge::start(Mode::Http, false, &[]);
    let to = format!("http://{}", site.addr());
    let upstreams = format!("app.example.com={to},*.example.com={to},*.deep.example.com=http://127.0.0.1:1");
    let _client = edge.client(&[
        "--upstream",
        &upstreams,
        "--host-header",
        "app.example.com=rewrite",
        "--request-header-add",
        "X-Api-Key: ours",
        "--response-header-remove",
        "Server",
    ]);
    wait_site(edge.http, "app.example.com").unwrap();
    for (host, sent) in
        [("app.example.com", site.addr().to_string()), ("x.y.example.com", "x.y.example.com".to_string())]
    {
        let answer = http::get(edge.http, host, "/", &[("X-Api-Key", "theirs")]).unwrap();
        let seen = answer.text();
        assert_eq!(http::headers(&seen, "host"), [sent], "{seen}");
        assert_eq!(http::headers(&seen, "x-forwarded-host"), [host], "{seen}");
        assert_eq!(http::headers(&seen, "x-api-key"), ["ours"], "{seen}");
        assert_eq!(answer.header("server"), None, "{}", answer.head);
    }
    assert_eq!(http::get(edge.http, "a.deep.example.com", "/", &[]).unwrap().status, 502, "the longest wins");
    assert_eq!(http::get(edge.http, "example.com", "/", &[]).unwrap().status, 503, "the name itself is not below it");
    for (flag, value, why) in [
        ("--request-header-add", "Content-Length: 5", "cannot be changed"),
        ("--request-header-add", "other.example.com=X: 1", "no --upstream"),
        ("--host-header", "a b", "not a host"),
        ("--upstream", "2/=o", "no host"),
    ] {
        let mut wrong = edge.client(&["--upstream", &upstreams, flag, value]);
        assert!(!wrong.process.wait(stage::START).unwrap().success());
        assert!(wrong.process.output().contains(why), "{flag} {value}: {}", wrong.process.output());
    }
}
