//! Upstreams that cannot be had, and those that want something of their own: TLS with their own CA, HTTP/2 over TLS,
//! Unix sockets. What went wrong is said to whoever runs the tunnel, and to no visitor.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::process::Command;

use stage::edge::{Client, Edge, Mode, wait_site};
use stage::process::Process;
use stage::upstream::Upstream;
use stage::{Dir, START, certificates, http, peers, ports};

/// The lines that have all of these words.
fn lines(text: &str, words: &[&str]) -> usize {
    text.lines().filter(|l| words.iter().all(|w| l.contains(w))).count()
}

fn wait_line(process: &mut Process, words: &[&str]) {
    let found = process.line(START, |l| words.iter().all(|w| l.contains(w)).then_some(()));
    found.unwrap_or_else(|e| panic!("no line with {words:?}: {e}"));
}

/// An edge and its client, when the client has a session.
fn pair(mode: Mode, upstream: &str, args: &[&str]) -> (Edge, Client) {
    let mut edge = Edge::start(mode, true, &[]);
    let mut client = edge.client(&[&["--upstream", upstream], args].concat());
    wait_line(&mut client.process, &["published"]);
    (edge, client)
}

#[test]
fn what_cannot_be_reached_is_said_on_both_sides_and_to_no_visitor() {
    let dead = ports::local(ports::free());
    let (mut edge, mut client) = pair(Mode::Http, &format!("http://{dead}"), &[]);
    for _ in 0..40 {
        let page = http::get(edge.http, "localhost", "/", &[]).unwrap();
        assert_eq!(page.status, 502);
        let host = String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned();
        for private in ["127.0.0.1", &dead.port().to_string(), host.as_str()] {
            assert!(!page.text().contains(private), "{private} is told to visitors:\n{}", page.text());
        }
    }
    let (to, why) = (dead.to_string(), "Connection refused");
    wait_line(&mut client.process, &["WARN", &to, why]);
    wait_line(&mut edge.process, &["WARN", "could not serve", &to, why]);
    for text in [client.process.output(), edge.process.output()] {
        assert_eq!(lines(&text, &["WARN", &to, why]), 1, "one line a minute:\n{text}");
    }
    let _back = Upstream::serve_at(dead, |s| drop(stage::upstream::site("late", s)));
    wait_site(edge.http, "localhost").unwrap();
    wait_line(&mut client.process, &[&dead.to_string(), "answers again"]);
}

#[test]
fn tcp_visitors_of_a_dead_upstream_leave_a_line() {
    let (port, dead) = (ports::free(), ports::free());
    let (mut edge, mut client) = pair(Mode::Tcp, &format!("{port}=127.0.0.1:{dead}"), &[]);
    let mut visitor = http::tcp(ports::local(port)).unwrap();
    assert!(!matches!(visitor.read(&mut [0]), Ok(1..)), "nobody is there");
    let (to, why) = (format!("127.0.0.1:{dead}"), "Connection refused");
    wait_line(&mut client.process, &["WARN", &to, why]);
    wait_line(&mut edge.process, &["WARN", &to, why]);
}

/// `openssl s_server -www` with a certificate; it answers every request with a page.
fn tls_site(dir: &Dir) -> (Process, SocketAddr) {
    let at = ports::local(ports::free());
    let mut command = Command::new("openssl");
    command.args(["s_server", "-quiet", "-www", "-accept"]).arg(at.to_string());
    command.arg("-cert").arg(dir.path().join("cert.pem")).arg("-key").arg(dir.path().join("key.pem"));
    let process = Process::start("openssl s_server", command);
    stage::eventually(START, || std::net::TcpStream::connect(at)).unwrap();
    (process, at)
}

#[test]
fn tls_of_an_upstream_is_believed_by_its_own_ca_and_refused_in_words() {
    if peers::need("openssl").is_none() {
        return;
    }
    // As `openssl req -x509` makes it: self-signed, and a CA.
    let own = Dir::new("own");
    let at = |name: &str| own.path().join(name);
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    make.args(["-days", "2", "-subj", "/CN=box"]).arg("-keyout").arg(at("key.pem")).arg("-out").arg(at("cert.pem"));
    assert!(make.output().unwrap().status.success());
    let (_site, addr) = tls_site(&own);
    let to = format!("https://{addr}");
    let (edge, mut client) = pair(Mode::Http, &to, &[]);
    let page = http::get(edge.http, "localhost", "/", &[]).unwrap();
    assert_eq!(page.status, 502, "{}", page.text());
    wait_line(&mut client.process, &["WARN", "is not trusted", "--upstream-ca"]);
    assert_eq!(lines(&client.process.output(), &["OtherError"]), 0, "words, not types");
    let file = at("cert.pem").display().to_string();
    let (edge, client) = pair(Mode::Http, &to, &["--upstream-ca", &file]);
    wait_site(edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\n{}", client.process.output()));

    // A CA of one's own, and a name that is not the upstream's host.
    let signed = Dir::new("signed");
    let ca = certificates::signed(signed.path(), "DNS:box.test").display().to_string();
    let (_site, addr) = tls_site(&signed);
    let to = format!("https://{addr}");
    let (edge, mut client) = pair(Mode::Http, &to, &["--upstream-ca", &ca]);
    assert_eq!(http::get(edge.http, "localhost", "/", &[]).unwrap().status, 502);
    wait_line(&mut client.process, &["WARN", "is not trusted", "--upstream-server-name"]);
    let (edge, client) = pair(Mode::Http, &to, &["--upstream-ca", &ca, "--upstream-server-name", "box.test"]);
    wait_site(edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\n{}", client.process.output()));
}

/// gRPC is HTTP/2 all the way: a visitor's request in it goes on in it, agreed upon by ALPN.
#[test]
fn grpc_over_tls_is_spoken_in_http2() {
    let (Some(nginx), Some(curl)) = (peers::need("nginx"), peers::need("curl")) else { return };
    let (dir, at) = (Dir::new("h2"), ports::local(ports::free()));
    let ca = certificates::self_signed(dir.path());
    let here = dir.path().display();
    let config = format!(
        "daemon off; worker_processes 1; pid {here}/pid; error_log stderr warn; events {{}}
http {{ access_log off; client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;
uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;
server {{ listen {at} ssl http2; ssl_certificate {here}/cert.pem; ssl_certificate_key {here}/key.pem;
location / {{ return 200 \"$server_protocol\"; }} }} }}\n"
    );
    let file = dir.write("nginx.conf", config);
    let mut command = Command::new(nginx);
    command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(file);
    let _nginx = Process::start("nginx", command);
    stage::eventually(START, || std::net::TcpStream::connect(at)).unwrap();
    let (edge, client) = pair(Mode::Http, &format!("https://{at}"), &["--upstream-ca", ca.to_str().unwrap()]);
    let ask = |kind: &str| {
        let mut command = Command::new(&curl);
        command.args(["-sS", "--max-time", "20", "--http2-prior-knowledge", "-H", &format!("content-type: {kind}")]);
        let out = command.args(["-H", "te: trailers"]).arg(format!("http://{}/", edge.http)).output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    assert_eq!(ask("application/grpc"), "HTTP/2.0", "{}", client.process.output());
    assert_eq!(ask("text/plain"), "HTTP/1.1", "{}", client.process.output());
}

#[test]
fn a_unix_socket_is_an_upstream() {
    let dir = Dir::new("unix");
    let path = dir.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut s in listener.incoming().flatten() {
            // All of the request: hanging up on the rest of it would be a reset.
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && s.read(&mut byte).is_ok_and(|n| n == 1) {
                head.extend_from_slice(&byte);
            }
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nunix\n");
        }
    });
    let to = format!("unix:{}", path.display());
    let (edge, client) = pair(Mode::Http, &to, &[]);
    wait_site(edge.http, "localhost").unwrap_or_else(|e| panic!("{e}\n{}", client.process.output()));
    let port = ports::free();
    let (_edge, client) = pair(Mode::Tcp, &format!("{port}={to}"), &[]);
    let mut visitor = http::tcp(ports::local(port)).unwrap();
    visitor.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let all = stage::read_all(&mut visitor, 4096).unwrap();
    assert!(all.ends_with(b"unix\n"), "{:?}\n{}", String::from_utf8_lossy(&all), client.process.output());
}

/// A refusal is read by its length: whoever keeps the connection open holds up nobody.
#[test]
fn a_refusal_that_keeps_the_connection_alive_is_acted_on_at_once() {
    let edge = Edge::start(Mode::Http, false, &[]);
    for (answer, is_final, words) in [
        ("401 Unauthorized\r\nContent-Length: 0\r\n\r\n", true, "the edge refuses the token"),
        ("301 Moved\r\nLocation: https://b.example/\r\nContent-Length: 3\r\n\r\nhey", true, "https://b.example/"),
        ("404 Not Found\r\nServer: nginx\r\nContent-Length: 0\r\n\r\n", false, "404 (from nginx)"),
        ("502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbad\r\n0\r\n\r\n", false, "502: bad"),
    ] {
        let proxy = Upstream::serve(move |mut s| {
            if http::read_head(&mut s).is_ok_and(|h| h.is_some()) {
                let _ = write!(s, "HTTP/1.1 {answer}");
                // Stays open until the client has had enough.
                let _ = s.read(&mut [0]);
            }
        });
        let url = format!("ws://{}", proxy.addr());
        let mut client = edge.client_at(&url, &["--insecure", "--upstream", "http://127.0.0.1:9"]);
        wait_line(&mut client.process, &[words]);
        let text = client.process.output();
        assert!(!text.contains("in 15 s"), "{text}");
        if is_final {
            let status = client.process.wait(START).unwrap();
            assert_eq!(status.code(), Some(1), "{text}");
        } else {
            client.process.must_run();
        }
    }
}
