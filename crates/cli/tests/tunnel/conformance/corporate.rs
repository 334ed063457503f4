//! A client behind a proxy that must be asked to leave the house (CONNECT, RFC 9110, 9.3.6): `HTTPS_PROXY`, `NO_PROXY`.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stage::edge::{Client, Edge, Mode, wait_site};
use stage::http;
use stage::upstream::Upstream;

/// `corporate:secret word` in Base64: the password has a space, which the URL writes as `%20`.
const BASIC: &str = "Basic Y29ycG9yYXRlOnNlY3JldCB3b3Jk";

/// A CONNECT proxy that wants a password; counts the tunnels that it made and the clients it turned away.
struct ConnectProxy {
    listener: Upstream,
    made: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl ConnectProxy {
    fn start() -> ConnectProxy {
        let (made, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (m, r) = (made.clone(), refused.clone());
        let listener = Upstream::serve(move |s| {
            let _ = serve(s, &m, &r);
        });
        ConnectProxy { listener, made, refused }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

fn serve(mut s: TcpStream, made: &AtomicUsize, refused: &AtomicUsize) -> io::Result<()> {
    let head = http::read_head(&mut s)?.unwrap_or_default();
    if http::header(&head, "proxy-authorization").as_deref() != Some(BASIC) {
        refused.fetch_add(1, Ordering::Relaxed);
        return s.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"house\"\r\nContent-Length: 0\r\n\r\n");
    }
    let mut words = head.split_whitespace();
    let (Some("CONNECT"), Some(target)) = (words.next(), words.next()) else {
        return s.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n");
    };
    let mut far = TcpStream::connect(target)?;
    made.fetch_add(1, Ordering::Relaxed);
    s.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut s2, mut far2) = (s.try_clone()?, far.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = io::copy(&mut far2, &mut s2);
        let _ = s2.shutdown(Shutdown::Write);
    });
    let _ = io::copy(&mut s, &mut far);
    let _ = far.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}

fn client(edge: &mut Edge, upstream: &str, env: &[(&str, &str)]) -> Client {
    let (url, trust) = edge.reach();
    let args: Vec<&str> = trust.iter().map(String::as_str).chain(["--upstream", upstream]).collect();
    Client::start_with(Mode::Http, &url, &edge.token_file(), &args, env)
}

#[test]
fn through_the_proxy_with_a_password() {
    let (site, proxy) = (Upstream::site("private"), ConnectProxy::start());
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let url = format!("http://corporate:secret%20word@{}", proxy.listener.addr());
    let c = client(&mut edge, &format!("http://{}", site.addr()), &[("HTTPS_PROXY", &url)]);
    wait_site(edge.http, "site.test").unwrap_or_else(|e| panic!("{e}\nclient:\n{}", c.process.output()));
    assert!(proxy.made() >= 1, "the client did not use the proxy");
    let large = http::get(edge.http, "site.test", "/bytes/5000000/3", &[]).unwrap();
    assert_eq!(large.body, stage::pattern(5_000_000, 3));
}

#[test]
fn a_wrong_password_is_said() {
    let (site, proxy) = (Upstream::site("private"), ConnectProxy::start());
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let url = format!("http://corporate:wrong@{}", proxy.listener.addr());
    let mut c = client(&mut edge, &format!("http://{}", site.addr()), &[("HTTPS_PROXY", &url)]);
    c.process.line(stage::START, |l| l.contains("407").then_some(())).unwrap();
    assert!(!c.process.output().contains("wrong"), "the password is a secret:\n{}", c.process.output());
    assert_eq!(proxy.made(), 0);
    assert!(proxy.refused.load(Ordering::Relaxed) >= 1);
}

#[test]
fn no_proxy_goes_straight() {
    let (site, proxy) = (Upstream::site("private"), ConnectProxy::start());
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let url = format!("http://corporate:secret%20word@{}", proxy.listener.addr());
    for no in ["127.0.0.1", "localhost,127.0.0.0/8", "*"] {
        let c = client(&mut edge, &format!("http://{}", site.addr()), &[("HTTPS_PROXY", &url), ("NO_PROXY", no)]);
        wait_site(edge.http, "site.test")
            .unwrap_or_else(|e| panic!("NO_PROXY={no}: {e}\nclient:\n{}", c.process.output()));
        assert_eq!(proxy.made(), 0, "NO_PROXY={no}");
        drop(c);
        // The client's session ends before the next one's begins to count.
        std::thread::sleep(Duration::from_millis(200));
    }
}
