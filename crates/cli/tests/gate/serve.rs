//! The gate inside `serve --config`: its lists at the tunnel's admission, its grant sources and enforcers, its commands, and a
//! configuration that is read again.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stage::command::{Outcome, Server, run_at};
use stage::edge::{Client, Mode};
use stage::gate::Serve;
use stage::http::{read_head, request};
use stage::upstream::{Upstream, answering};
use stage::{Dir, curl, pages, peers, ports, wait, wait_or};

#[test]
fn the_manuals_file_starts() {
    let dir = Dir::new("manual");
    let mut text = pages::file("docs/manual/gate.toml").replace("data_dir = \"state\"\n", "");
    for port in ["7070", "5000", "5002"] {
        text = text.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:0");
    }
    // What it follows is not in this machine's world.
    text = text.replace(", \"dns:home.example.net\"]", "]");
    std::fs::create_dir(dir.at("dynamic")).unwrap();
    let s = Serve::start(dir.path(), &text, &["listener=\"check endpoint\""]);
    let check = s.at("check endpoint");
    s.at("share links");
    mirror(s.at("mirrored requests for `family`"), "198.51.100.1");
    let list = || std::fs::read_to_string(dir.at("dynamic/lists.yml")).unwrap_or_default();
    wait_or(|| list().matches("198.51.100.1").count() == 2, || format!("{}\n{}", list(), s.process.output()));
    assert_eq!(request(check, "GET", "/v1/check/family", &[("X-Forwarded-For", "198.51.100.1")]).0, 200);
    assert_eq!(request(check, "GET", "/v1/check/photos", &[("X-Forwarded-For", "198.51.100.1")]).0, 403);
    let plain = || std::fs::read_to_string(dir.at("family.txt")).unwrap_or_default();
    wait_or(|| plain() == "192.168.0.0/16\n198.51.100.1\n", plain);
    assert!(request(check, "GET", "/metrics", &[]).1.contains("portcullis_gate_grants{list=\"family\"} 1"));
    let said = s.ok(&["lists"]);
    assert!(said.contains("family") && said.contains("photos"), "{said}");
}

fn mirror(at: SocketAddr, xff: &str) {
    assert_eq!(request(at, "GET", "/any/path", &[("X-Forwarded-For", xff)]), (200, "OK".to_string()));
}

/// An edge for HTTP and one TCP port whose lists take in the gate's list, and a client that serves both from a site that
/// never stops sending at `/slow`.
struct Edge {
    serve: Serve,
    _client: Client,
    _site: Upstream,
    http: u16,
    tcp: u16,
}

const LISTS: &str = "[lists.family]\nlearn_private = true\n[lists.staff]\nstatic = [\"127.0.9.0/24\"]\n[gate]\nlisten = \"127.0.0.1:0\"\n[[gate.mirror]]\nlist = \"family\"\nlisten = \"127.0.0.1:0\"\n";

fn edge(dir: &Dir, lists: &str) -> Edge {
    let (http, control, tcp) = (ports::free(), ports::free(), ports::free());
    let config = format!(
        "port = {http}\ncontrol_port = {control}\ndata_addr = \"127.0.0.1\"\ncontrol_addr = \"127.0.0.1\"\nallow_ports = \"{tcp}\"\ntoken_file = \"token\"\nauto_tls = false\nallow_ips_control = [\"127.0.0.1\"]\nallow_ips_data = [\"list:family\"]\n[port_lists.{tcp}]\nallow_ips = [\"list:staff\", \"list:family\"]\n[host_lists.\"staff.example.com\"]\nallow_ips = [\"list:staff\"]\n{lists}"
    );
    let serve = Serve::start(dir.path(), &config, &["listening listener="]);
    let site = slow_site();
    let (url, upstream) = (format!("ws://127.0.0.1:{control}"), format!("http://{}", site.addr()));
    let port = format!("{tcp}={}", site.addr());
    let args = ["--insecure", "--upstream", &upstream, "--upstream", &port];
    let client = Client::start(Mode::Http, &url, &dir.at("token"), &args);
    Edge { serve, _client: client, _site: site, http, tcp }
}

/// Answers `/slow` with a byte every 10 ms, for ever, and everything else with `in`.
fn slow_site() -> Upstream {
    Upstream::serve(|mut s| {
        let Ok(Some(head)) = read_head(&mut s) else { return };
        if !head.starts_with("GET /slow") {
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nin");
            return;
        }
        let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        while s.write_all(b".").is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    })
}

/// A request from an address of the loopback network: what came back, nothing if it was refused.
fn visit(from: &str, port: u16, host: &str) -> String {
    let mut c = curl::command(from);
    c.args(["-i", "-H", &format!("Host: {host}")]).arg(format!("http://127.0.0.1:{port}/"));
    let out = c.output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Who reads from `/slow`, and whether the connection broke.
fn reader(from: &str, port: u16) -> std::thread::JoinHandle<Instant> {
    let mut c = curl::command(from);
    c.args(["-N", "--max-time", "60"]).arg(format!("http://127.0.0.1:{port}/slow"));
    let mut child = c.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut some = [0; 10];
    out.read_exact(&mut some).unwrap();
    std::thread::spawn(move || {
        let mut rest = [0; 4096];
        while out.read(&mut rest).is_ok_and(|n| n > 0) {}
        let _ = child.wait();
        Instant::now()
    })
}

#[test]
fn a_proof_given_to_the_gate_opens_the_tunnel_and_its_end_cuts_it() {
    let _turn = stage::alone();
    if peers::need("curl").is_none() {
        return;
    }
    let dir = Dir::new("admission");
    let e = edge(&dir, LISTS);
    let at = e.serve.at("mirrored requests for `family`");
    // Before the proof nobody gets in, beside the static entries on the port.
    wait_or(|| visit("127.0.9.1", e.tcp, "x").contains("\r\n\r\nin"), || e.serve.process.output());
    assert_eq!(visit("127.0.1.1", e.http, "a.example.com"), "");
    assert_eq!(visit("127.0.1.1", e.tcp, "x"), "");
    mirror(at, "127.0.1.1");
    wait_or(|| visit("127.0.1.1", e.http, "a.example.com").contains("\r\n\r\nin"), || e.serve.process.output());
    assert!(visit("127.0.1.1", e.tcp, "x").contains("in"), "the port takes two lists");
    assert!(!visit("127.0.1.1", e.http, "staff.example.com").contains("\r\n\r\nin"), "a host with a list of its own");
    // Who, on what evidence, until when: asked of the running edge.
    for service in ["data", &format!("port:{}", e.tcp), "a.example.com"] {
        let said = e.serve.ok(&["explain", "127.0.1.1", "--service", service]);
        assert!(said.contains("list:family") && said.contains("mtls evidence") && said.contains("until 2"), "{said}");
    }
    assert_eq!(e.serve.command(&["explain", "127.0.1.1", "--service", "staff.example.com"]).0, 3);
    assert_eq!(e.serve.command(&["explain", "127.0.1.1", "--service", "family"]).0, 0, "the gate's own list");
    // Revoked: live connections of both planes are cut within a second, other people's are not.
    mirror(at, "127.0.1.2");
    wait_or(|| visit("127.0.1.2", e.http, "a.example.com").contains("in"), || e.serve.process.output());
    let (web, port, other) = (reader("127.0.1.1", e.http), reader("127.0.1.1", e.tcp), reader("127.0.1.2", e.http));
    let before = Instant::now();
    e.serve.ok(&["grant", "revoke", "127.0.1.1"]);
    for who in [web, port] {
        let took = who.join().unwrap().duration_since(before);
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    let said = e.serve.command(&["explain", "127.0.1.1", "--service", "data"]).1;
    assert!(said.contains("was revoked"), "the edge's explain does not say why: {said}");
    assert!(!other.is_finished());
    assert_eq!(visit("127.0.1.1", e.http, "a.example.com"), "");
    // A grant that ends by itself cuts too.
    e.serve.ok(&["grant", "extend", "127.0.1.2", "--for", "2s", "--shorten"]);
    let before = Instant::now();
    let took = other.join().unwrap().duration_since(before);
    assert!(took < Duration::from_secs(4), "{took:?}");
    // A restart keeps.
    mirror(at, "127.0.1.3");
    let said = e.serve.ok(&["lists"]);
    assert!(said.contains("list:family"), "{said}");
}

#[test]
fn the_file_is_read_again_and_a_bad_one_changes_nothing() {
    let dir = Dir::new("reread");
    let (share, other) =
        (answering(|h| (if h.contains("aaaaaaaaaa") { 200 } else { 404 }, String::new())), ports::free());
    let config = |family: &str, more: &str| {
        format!(
            "http = false\n[lists.family]\n{family}\n[lists.photos]\n{more}\n[gate]\nlisten = \"127.0.0.1:0\"\nshare_listen = \"127.0.0.1:0\"\n[[gate.mirror]]\nlist = \"family\"\nlisten = \"127.0.0.1:0\"\n[[gate.learn]]\nlist = \"family\"\nlisten = \"127.0.0.1:0\"\n[[gate.learn]]\nlist = \"photos\"\n[gate.shares.immich]\nupstream = \"http://{share}\"\nlist = \"photos\"\nttl = \"1h\"\n[[gate.traefik]]\nfile = \"lists.yml\"\nmiddlewares = {{ family = [\"family\"], photos = [\"family\", \"photos\"] }}\n[[gate.file]]\nlist = \"photos\"\nfile = \"photos.txt\"\n"
        )
    };
    std::fs::write(dir.at("office.txt"), "192.0.2.0/28\n").unwrap();
    let s = Serve::start(dir.path(), &config("static = [\"@office.txt\"]", ""), &["listener=\"check endpoint\""]);
    let (check, at) = (s.at("check endpoint"), s.at("mirrored requests for `family`"));
    let on =
        |list: &str, ip: &str| request(check, "GET", &format!("/v1/check/{list}"), &[("X-Forwarded-For", ip)]).0 == 200;
    mirror(at, "198.51.100.1");
    mirror(at, "198.51.100.2");
    assert!(on("family", "192.0.2.5") && on("family", "198.51.100.1") && !on("photos", "198.51.100.1"));
    // Each grant source opens its own list.
    let learn = s.at("certificates for `family`");
    let cert = [("X-Forwarded-For", "198.51.100.3"), ("X-Gate-Cert-Subject", "CN=anna")];
    assert_eq!(request(learn, "GET", "/whatever", &cert[..1]).0, 403);
    assert_eq!(request(learn, "GET", "/whatever", &cert).0, 200);
    assert_eq!(request(check, "GET", "/v1/learn/family", &cert).0, 403, "it learns at its own place only");
    assert_eq!(request(check, "GET", "/v1/learn/nowhere", &cert).0, 403);
    assert!(on("family", "198.51.100.3"));
    let link = format!("/verify_share_request?protocol=http&container_name_port={share}");
    let guest = [("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-Uri", "/s/aaaaaaaaaa")];
    assert_eq!(request(s.at("share links"), "GET", &link, &guest).0, 200);
    assert!(on("photos", "198.51.100.9") && !on("family", "198.51.100.9"));
    wait("the plain file has the guest", || {
        std::fs::read_to_string(dir.at("photos.txt")).unwrap_or_default() == "198.51.100.9\n"
    });
    let said = s.ok(&["lists", "show", "photos"]);
    assert!(said.contains("guest of immich") && said.contains("traefik") && said.contains("photos.txt"), "{said}");
    // The file of the list: within a second, by itself.
    std::fs::write(dir.at("office.txt"), "192.0.2.0/28\n203.0.113.0/24\n").unwrap();
    wait("the list's file is followed", || on("family", "203.0.113.7"));
    // Bad in any way: refused with the line, and nothing changes.
    for (family, more, wanted) in [
        ("static = [\"10.0.0.0/40\"]", "", "gate.toml:4"),
        ("static = [\"list:photos\"]", "", "gate.toml:4"),
        ("static = [\"dns:home\"]", "", "no full host name"),
        ("static = [\"ipset:office\"]", "", "policy"),
        ("ttl = \"soon\"", "", "soon"),
        ("max = 0", "", "max = 0"),
        ("color = \"red\"", "", "color"),
        ("", "[lists.\"{{x}}\"]", "needs a name"),
    ] {
        s.rewrite(&config(family, more));
        let (code, said) = s.command(&["reload"]);
        assert!(code == 1 && said.contains(wanted), "{family}{more}: {said}");
        assert!(on("family", "203.0.113.7") && on("family", "198.51.100.1"), "{said}");
    }
    s.rewrite(&config("", "").replace("list = \"photos\"\nttl", "list = \"nowhere\"\nttl"));
    let (code, said) = s.command(&["reload"]);
    assert!(code == 1 && said.contains("no list `nowhere`") && said.contains("hint:"), "{said}");
    // Good: fewer may stay, static entries go and come, learned ones are kept.
    s.rewrite(&config("max = 2\nstatic = [\"192.0.2.99\"]", ""));
    s.ok(&["reload"]);
    assert!(on("family", "192.0.2.99") && !on("family", "192.0.2.5") && !on("family", "203.0.113.7"));
    assert!(on("family", "198.51.100.3") && !on("family", "198.51.100.1") && on("photos", "198.51.100.9"));
    let yaml = || std::fs::read_to_string(dir.at("lists.yml")).unwrap_or_default();
    wait_or(|| yaml().contains("192.0.2.99") && !yaml().contains("203.0.113"), yaml);
    assert!(s.ok(&["audit"]).contains("the list holds 2"));
    let _ = other;
}

#[test]
fn names_of_lists_that_are_not_there_are_refused_with_line_and_hint() {
    let dir = Dir::new("unknown");
    std::fs::write(dir.at("token"), "serve-token-0123456789abcdef").unwrap();
    let run = |config: &str| {
        Serve::write(dir.path(), config);
        let out = Outcome::of(&mut Serve::command_in(dir.path()));
        (out.code, out.err)
    };
    let base = "token_file = \"token\"\nport = 0\ncontrol_port = 0\n";
    for (config, wanted) in [
        (
            format!("{base}allow_ips = [\"list:famly\"]\n[lists.family]\n"),
            "gate.toml:5: there is no list `famly`; there are family",
        ),
        (
            format!("{base}[port_lists.22]\nallow_ips = [\"list:x\"]\n"),
            "gate.toml:6: there is no list `x`; there are none",
        ),
        ("http = false\n[gate]\nlisten = \"127.0.0.1:0\"\n".to_string(), "no list; write one"),
        (
            "http = false\n[lists.a]\n[gate]\n[[gate.mirror]]\nlist = \"b\"\nlisten = \"127.0.0.1:0\"\n".to_string(),
            "gate.toml:6: there is no list `b`",
        ),
        ("http = false\n[lists.a]\n[gate]\n[[gate.mirror]]\nlist = \"a\"\n".to_string(), "`listen` of its own"),
        ("http = false\n[lists.a]\n[gate]\n[[gate.learn]]\nlist = \"a\"\n".to_string(), "`listen` of its own"),
        (
            "http = false\n[lists.a]\n[gate.shares.x]\nlist = \"a\"\nupstream = \"http://x:1/path\"\n".to_string(),
            "gate.toml:6",
        ),
        ("http = false\n[lists.a]\n[[gate.webhook]]\nlist = \"a\"\nurl = \"ftp://x\"\n".to_string(), "gate.toml:6"),
        ("http = false\n[lists.a]\n[gate]\ntrusted_proxies = [\"traefik\"]\n".to_string(), "gate.toml:5"),
        (format!("{base}trusted_proxies = [\"list:a\"]\n[lists.a]\n"), "cannot say whom to believe"),
    ] {
        let (code, said) = run(&config);
        assert!(matches!(code, 1 | 2) && said.contains(wanted) && said.contains("error: "), "{config}\n{said}");
    }
    let edge = ["http", "server", "--token", "abcdefghijklmnopqrstuvwx", "--port", "0", "--control-port", "0"];
    let out = run_at(&dir.at("edge"), &[&edge[..], &["--allow-ips", "list:family"]].concat());
    assert!(out.code == 1 && out.err.contains("--allow-ips") && out.err.contains("hint:"), "{}", out.err);
}
