//! `dns:` entries: a list follows a name, with a small authoritative name server that the test changes.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use crate::room::*;

/// What the server says of a name.
#[derive(Clone)]
enum Zone {
    Addrs(Vec<IpAddr>),
    /// There is no such name.
    Nothing,
    /// The server is broken.
    Broken,
    Silent,
}

#[derive(Clone)]
struct Server {
    at: SocketAddr,
    zone: Arc<Mutex<BTreeMap<String, Zone>>>,
    asked: Arc<Mutex<u32>>,
}

impl Server {
    /// Answers A and AAAA over UDP with a time to live of a second (RFC 1035 section 4).
    fn start() -> Server {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let s = Server { at: socket.local_addr().unwrap(), zone: Arc::default(), asked: Arc::default() };
        let mine = s.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 1500];
            while let Ok((n, from)) = socket.recv_from(&mut buf) {
                if let Some(answer) = mine.answer(&buf[..n]) {
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        s
    }

    fn say(&self, host: &str, zone: Zone) {
        self.zone.lock().unwrap().insert(host.to_string(), zone);
    }

    fn answer(&self, q: &[u8]) -> Option<Vec<u8>> {
        *self.asked.lock().unwrap() += 1;
        let (mut at, mut labels) = (12, Vec::new());
        while let n @ 1.. = usize::from(q[at]) {
            labels.push(String::from_utf8_lossy(&q[at + 1..at + 1 + n]).to_ascii_lowercase());
            at += n + 1;
        }
        let kind = u16::from_be_bytes([q[at + 1], q[at + 2]]);
        let question = &q[12..at + 5];
        let zone = self.zone.lock().unwrap().get(&labels.join(".")).cloned().unwrap_or(Zone::Nothing);
        let (code, addrs) = match zone {
            Zone::Addrs(a) => (0, a),
            Zone::Nothing => (3, Vec::new()),
            Zone::Broken => (2, Vec::new()),
            Zone::Silent => return None,
        };
        let fits: Vec<&IpAddr> = addrs.iter().filter(|a| a.is_ipv4() == (kind == 1)).collect();
        let mut out = vec![q[0], q[1], 0x84, code, 0, 1, 0, fits.len() as u8, 0, 0, 0, 0];
        out.extend(question);
        for a in fits {
            out.extend([0xc0, 12, 0, kind as u8, 0, 1, 0, 0, 0, 1]);
            match a {
                IpAddr::V4(a) => out.extend([&[0, 4][..], &a.octets()].concat()),
                IpAddr::V6(a) => out.extend([&[0, 16][..], &a.octets()].concat()),
            }
        }
        Some(out)
    }
}

fn addrs(texts: &[&str]) -> Zone {
    Zone::Addrs(texts.iter().map(|t| t.parse().unwrap()).collect())
}

#[test]
fn gatekeepers_source_range_follows_a_name_and_keeps_its_last_good_answer() {
    let dir = Dir::new("dnsenv");
    let dns = Server::start();
    dns.say("home.example.net", addrs(&["198.51.100.1", "2001:db8::9", "10.0.0.5"]));
    let servers = dns.at.to_string();
    let env = [
        ("DEFAULT_SOURCE_RANGE", "192.0.2.0/24,dns:Home.example.net"),
        ("DNS_SERVERS", servers.as_str()),
        ("DNS_LEAST", "1s"),
    ];
    let g = Gate::start(&dir.0, &env, &[]);
    // Both families, IPv6 as wide as the list learns it, no private address.
    wait_or(
        || g.entries() == ["198.51.100.1", "2001:db8::/64", "192.0.2.0/24"],
        || format!("{:?}\n{}", g.entries(), g.proc.text()),
    );
    let (_, said) = g.command(&["list", "show", "dynamic-whitelist"]);
    assert!(said.contains("dns:home.example.net") && said.contains(" dns "), "{said}");
    // It moves: the new address comes, the old one goes, and the other family's with it.
    dns.say("home.example.net", addrs(&["198.51.100.2"]));
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    // Every kind of failure: the last good answer stays, and it is said.
    for (broken, why) in [(Zone::Broken, "fail"), (Zone::Nothing, "no such name"), (Zone::Silent, "timed out")] {
        dns.say("home.example.net", broken);
        wait_or(
            || g.command(&["list", "show", "dynamic-whitelist"]).1.to_lowercase().contains(why),
            || format!("{why}: {}", g.command(&["list", "show", "dynamic-whitelist"]).1),
        );
        g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    }
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("dns:home.example.net") && said.contains("fix:"), "{said}");
    assert!(g.proc.logged("its last one stays").is_some(), "{}", g.proc.text());
    // A restart while the name is silent keeps it too; an answer mends it.
    drop(g);
    let g = Gate::start(&dir.0, &env, &[]);
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    g.expect(&["198.51.100.2", "192.0.2.0/24"]);
    dns.say("home.example.net", addrs(&["198.51.100.3"]));
    g.expect(&["198.51.100.3", "192.0.2.0/24"]);
    // No longer named: no longer on the list.
    drop(g);
    let g = Gate::start(&dir.0, &[("DEFAULT_SOURCE_RANGE", "192.0.2.0/24")], &[]);
    g.expect(&["192.0.2.0/24"]);
}

#[test]
fn people_add_names_and_take_them_back() {
    let dir = Dir::new("dnshand");
    let dns = Server::start();
    dns.say("home.example.net", addrs(&["198.51.100.1"]));
    dns.say("office.example.net", addrs(&["198.51.100.1", "198.51.100.7"]));
    let servers = dns.at.to_string();
    let env = [("DNS_SERVERS", servers.as_str()), ("DNS_LEAST", "1s")];
    let mut g = Gate::start(&dir.0, &env, &[]);
    let ok = |g: &Gate, args: &[&str]| {
        let (code, said) = g.command(args);
        assert_eq!(code, 0, "{args:?}: {said}");
        said
    };
    let said = ok(&g, &["grant", "add", "dns:home.example.net"]);
    assert!(said.contains("198.51.100.1"), "the first answer is shown: {said}");
    g.expect(&["198.51.100.1"]);
    let said = ok(&g, &["grant", "add", "dns:nowhere.example.net"]);
    assert!(said.contains("no such name"), "{said}");
    ok(&g, &["grant", "add", "dns:office.example.net", "--for", "4s"]);
    g.expect(&["198.51.100.1", "198.51.100.7"]);
    let (code, said) = g.command(&["explain", "198.51.100.1"]);
    assert!(code == 0 && said.contains("dns:home.example.net") && said.contains("on dns evidence"), "{said}");
    // Killed: it is still followed, and the one for a time ends when it should.
    g.proc.child.kill().unwrap();
    g.proc.child.wait().unwrap();
    drop(g);
    let g = Gate::start(&dir.0, &env, &[]);
    g.expect(&["198.51.100.1"]);
    dns.say("home.example.net", addrs(&["198.51.100.2"]));
    g.expect(&["198.51.100.2"]);
    // Its address alone can not be revoked: it would be back at once.
    let (code, said) = g.command(&["grant", "revoke", "198.51.100.2"]);
    assert!(code == 1 && said.contains("grant revoke dns:home.example.net"), "{said}");
    ok(&g, &["grant", "revoke", "dns:home.example.net"]);
    g.expect(&["255.255.255.255"]);
    let (code, said) = g.command(&["grant", "revoke", "dns:home.example.net"]);
    assert!(code == 1 && said.contains("hint:"), "{said}");
    let (code, said) = g.command(&["grant", "add", "dns:home"]);
    assert!(code == 1 && said.contains("full host name"), "{said}");
}

#[test]
fn answers_that_do_not_count_are_said() {
    let dir = Dir::new("dnspriv");
    let dns = Server::start();
    dns.say("priv.example.net", addrs(&["192.168.1.9", "127.0.0.1"]));
    let many: Vec<String> = (1..=21).map(|n| format!("198.51.100.{n}")).collect();
    dns.say("many.example.net", addrs(&many.iter().map(String::as_str).collect::<Vec<_>>()));
    let servers = dns.at.to_string();
    let g = Gate::start(&dir.0, &[("DNS_SERVERS", servers.as_str()), ("DNS_LEAST", "1s")], &[]);
    let (code, said) = g.command(&["grant", "add", "dns:priv.example.net"]);
    assert!(code == 0 && said.contains("192.168.1.9 does not count: it is a private address"), "{said}");
    assert!(said.contains("127.0.0.1 does not count"), "{said}");
    let (_, said) = g.command(&["list", "show"]);
    assert!(said.contains("192.168.1.9 does not count"), "{said}");
    let (code, said) = g.command(&["doctor"]);
    assert!(code == 1 && said.contains("dns:priv.example.net") && said.contains("does not count"), "{said}");
    let (code, said) = g.command(&["grant", "add", "dns:many.example.net"]);
    assert!(code == 0 && said.contains("5 more addresses do not count"), "{said}");
}

#[test]
fn a_file_follows_names_and_reads_them_again() {
    let dir = Dir::new("dnsfile");
    let dns = Server::start();
    dns.say("home.example.net", addrs(&["198.51.100.1"]));
    dns.say("work.example.net", addrs(&["10.1.2.3"]));
    let config = |name: &str, private: bool| {
        format!(
            "http = false\n[lists.family]\nlearn_private = {private}\nstatic = [\"dns:{name}\"]\n[gate]\nlisten = \"127.0.0.1:0\"\ndns_servers = [\"{}\"]\ndns_least = \"1s\"\n",
            dns.at
        )
    };
    let s = Serve::start(&dir.0, &config("home.example.net", false), &["check endpoint: listening"]);
    let check = s.at("check endpoint");
    let on = |ip: &str| request(check, "GET", "/v1/check/family", &[("X-Forwarded-For", ip)]).0 == 200;
    wait_or(|| on("198.51.100.1"), || s.proc.text());
    let head = full(check, "GET", "/v1/check/family", &[("X-Forwarded-For", "198.51.100.1")]).1;
    assert!(head.contains("x-gate-user: dns:home.example.net") && head.contains("dns"), "{head}");
    s.rewrite(&config("work.example.net", false));
    s.ok(&["reload"]);
    wait("the old name's address goes", || !on("198.51.100.1"));
    wait("the new one is asked for", || s.ok(&["list", "show", "family"]).contains("10.1.2.3"));
    assert!(!on("10.1.2.3"), "a private address is not learnt");
    s.rewrite(&config("work.example.net", true));
    s.ok(&["reload"]);
    wait("unless asked to", || on("10.1.2.3"));
    let (status, metrics) = request(check, "GET", "/metrics", &[]);
    assert!(
        status == 200 && metrics.contains("portcullis_gate_name_failing{name=\"work.example.net\"} 0"),
        "{metrics}"
    );
}
