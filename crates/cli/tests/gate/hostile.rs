//! Attacks on a gate: forged headers, smuggled requests, floods, slow and huge requests, share links by the thousand,
//! planted links in the file system, revocations against learning. Nobody gets in, and the gate goes on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stage::command::{Outcome, Server};
use stage::gate::Gate;
use stage::http::{exchange, request, tcp_from};
use stage::process::Process;
use stage::upstream::answering;
use stage::{Dir, wait, wait_or};

/// Sends bytes as they are; what came back within a second or so.
fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    exchange(at, bytes, Duration::from_millis(1_500))
}

#[test]
fn nobody_says_who_he_is_by_a_forged_or_broken_request() {
    let dir = Dir::new("forged");
    let g = Gate::start(dir.path(), &[], &["--check-listen", "127.0.0.1:0"]);
    let many = (0..4_000).map(|n| format!("9.9.{}.{}", n / 250, n % 250)).collect::<Vec<_>>().join(", ");
    for head in [
        "X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 198.51.100.2".to_string(),
        "X-Forwarded-For: 198.51.100.1\r\nx-forwarded-for: 198.51.100.1".to_string(),
        "X-Forwarded-For : 198.51.100.1".to_string(),
        "X-Forwarded-For: 198.51.100.1\r\n 198.51.100.2".to_string(),
        "X_Forwarded_For: 198.51.100.1".to_string(),
        "X.Forwarded.For: 198.51.100.1".to_string(),
        "Forwarded: for=198.51.100.1".to_string(),
        "X-Real-Ip: 198.51.100.1".to_string(),
        "X-Forwarded-For: 198.51.100.1, nonsense".to_string(),
        "X-Forwarded-For: 198.51.100.1,".to_string(),
        "X-Forwarded-For: 198.51.100.1\0".to_string(),
        "X-Forwarded-For: 0198.51.100.1".to_string(),
        "X-Forwarded-For: 198.51.100.1/0".to_string(),
        "X-Forwarded-For: 0.0.0.0".to_string(),
        "X-Forwarded-For: ::".to_string(),
        "X-Forwarded-For: 255.255.255.255".to_string(),
        "X-Forwarded-For: 224.0.0.1".to_string(),
        "X-Forwarded-For: ff02::1".to_string(),
        format!("X-Forwarded-For: {many}, nonsense"),
        // Two requests in the place of one.
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nX-Forwarded-For: 10.0.0.1".to_string(),
        "Content-Length: 5\r\nContent-Length: 6\r\nX-Forwarded-For: 198.51.100.1".to_string(),
        "Transfer-Encoding: chunked, identity\r\nX-Forwarded-For: 10.0.0.1".to_string(),
    ] {
        for at in [g.addrs[0], g.addrs[1]] {
            raw(
                at,
                format!(
                    "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
                )
                .as_bytes(),
            );
        }
    }
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET / HTTP/1.1\nX-Forwarded-For: 10.0.0.1\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0",
    ] {
        raw(g.addrs[0], bytes);
    }
    // A forged certificate and a forged path at the check endpoint.
    for path in [
        "/v1/learn/other",
        "/v1/learn/dynamic-whitelist/../other",
        "/v1/learn/",
        "//v1/learn/dynamic-whitelist",
        "/v1/learn/dynamic-whitelist%00",
    ] {
        let head = [("X-Forwarded-For", "198.51.100.1"), ("X-Gate-Cert-Subject", "CN=mallory")];
        assert_ne!(request(g.addrs[1], "GET", path, &head).0, 200, "{path}");
    }
    let twice = [
        ("X-Forwarded-For", "198.51.100.1"),
        ("X-Gate-Cert-Subject", "CN=anna"),
        ("X-Gate-Cert-Subject", "CN=mallory"),
    ];
    assert_eq!(request(g.addrs[1], "GET", "/v1/learn/dynamic-whitelist", &twice).0, 403);
    g.mirror("198.51.100.99");
    g.expect(&["198.51.100.99"]);
    // What a name from a certificate holds steers no terminal and breaks no header.
    let evil = [("X-Forwarded-For", "198.51.100.98"), ("X-Gate-Cert-Subject", "CN=a\u{1b}[2J\"'{{x}},O=\u{fc}")];
    request(g.addrs[1], "GET", "/v1/learn/dynamic-whitelist", &evil);
    let (_, said) = g.command(&["lists", "show", "dynamic-whitelist"]);
    assert!(!said.contains('\u{1b}') && !g.file().contains("{{"), "{said}");
}

#[test]
fn a_flood_of_addresses_stays_within_the_list_and_the_memory() {
    let _turn = stage::shared();
    let dir = Dir::new("flood");
    let g = Gate::start(
        dir.path(),
        &[("MAX_IP_LEN", "50"), ("DEFAULT_SOURCE_RANGE", "192.0.2.1")],
        &["--check-listen", "127.0.0.1:0"],
    );
    let seen_empty = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (file, empty, done) = (dir.at("dynamic-whitelist.yml"), seen_empty.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                if std::fs::read_to_string(&file).is_ok_and(|t| !t.contains("192.0.2.1")) {
                    empty.store(true, Ordering::SeqCst);
                }
            }
        })
    };
    let before = g.process.rss_kib();
    let (a, b) = (g.addrs[0], g.addrs[1]);
    let threads: Vec<_> = (0..4)
        .map(|t| {
            std::thread::spawn(move || {
                for n in 0..750u32 {
                    let ip = format!("11.{t}.{}.{}", n / 250, n % 250);
                    request(a, "GET", "/", &[("X-Forwarded-For", &ip)]);
                    request(a, "GET", "/", &[("X-Forwarded-For", &format!("10.{t}.{}.{}", n / 250, n % 250))]);
                    request(b, "GET", "/v1/check/dynamic-whitelist", &[("X-Forwarded-For", &ip)]);
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    wait("the file is as long as the list", || g.entries().len() == 51);
    done.store(true, Ordering::SeqCst);
    watcher.join().unwrap();
    assert!(!seen_empty.load(Ordering::SeqCst), "the file was never empty or half");
    assert!(g.process.rss_kib() < before + 32 * 1024, "{} KiB before, {} after", before, g.process.rss_kib());
    assert!(g.process.lines() < 8_000);
}

#[test]
fn huge_bodies_are_not_read_and_slow_strangers_keep_no_proxy_out() {
    let _turn = stage::alone();
    let dir = Dir::new("slow");
    let g = Gate::start(dir.path(), &[("TRUSTED_PROXIES", "127.0.0.1")], &["--check-listen", "127.0.0.1:0"]);
    // A mirrored upload of a terabyte is answered at its head.
    for kind in ["Content-Length: 1000000000000", "Transfer-Encoding: chunked"] {
        let began = Instant::now();
        let mut s = TcpStream::connect(g.addrs[0]).unwrap();
        s.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(s, "POST /upload HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 198.51.100.1\r\n{kind}\r\n\r\n").unwrap();
        let mut some = [0; 15];
        s.read_exact(&mut some).unwrap();
        assert_eq!(&some, b"HTTP/1.1 200 OK");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    // A head without an end, and one of a megabyte.
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX-A: {}\r\n\r\n", "a".repeat(1 << 20));
    assert!(!raw(g.addrs[0], long.as_bytes()).contains(" 200 "));
    // Strangers that connect and say nothing: hundreds, from addresses that are no proxies.
    let mut held = Vec::new();
    for n in 0..300u32 {
        let from = Ipv4Addr::new(127, 0, 9, (n % 250 + 1) as u8);
        held.extend(g.addrs.iter().filter_map(|at| tcp_from(from, *at).ok()));
    }
    for _ in 0..20 {
        let began = Instant::now();
        g.mirror("198.51.100.2");
        assert_eq!(
            request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &[("X-Forwarded-For", "198.51.100.2")]).0,
            200
        );
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    // A silent one is let go by itself.
    let mut s = TcpStream::connect(g.addrs[0]).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    s.write_all(b"GET / HT").unwrap();
    let began = Instant::now();
    let mut rest = Vec::new();
    let _ = s.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(18), "{:?}", began.elapsed());
    drop(held);
}

#[test]
fn share_links_can_not_be_guessed_stretched_or_aimed_elsewhere() {
    let _turn = stage::shared();
    let dir = Dir::new("guess");
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let odd = Arc::new(AtomicBool::new(false));
    let saw = odd.clone();
    let up = answering(move |head| {
        count.fetch_add(1, Ordering::SeqCst);
        let first = head.lines().next().unwrap_or_default();
        // Nothing but a plain link, with no header that a guest made up.
        if !first.starts_with("GET /s/") || first.contains("..") || first.contains('%') || head.contains("evil") {
            saw.store(true, Ordering::SeqCst);
        }
        (404, String::new())
    });
    let elsewhere = answering(|_| panic!("an upstream that is not named was asked"));
    let g = Gate::start(dir.path(), &[("SHARE_UPSTREAMS", &format!("x=http://{up}"))], &[]);
    let link = |to: &str, more: &str| format!("/verify_share_request?protocol=http&container_name_port={to}{more}");
    let ask = |path: &str, uri: &str, guest: &str| {
        request(
            g.addrs[0],
            "GET",
            path,
            &[("X-Forwarded-For", guest), ("X-Forwarded-Uri", uri), ("Cookie", "evil"), ("Authorization", "evil")],
        )
        .0
    };
    for to in [
        format!("{elsewhere}"),
        format!("{up}@{elsewhere}"),
        format!("{up}/../../?x="),
        format!("{up}%23@{elsewhere}"),
        format!("{elsewhere}%0d%0aHost:%20{up}"),
        format!("[::ffff:{}]:{}", up.ip(), up.port()),
        format!("{up}&container_name_port={elsewhere}").replace(&format!("{up}&"), "&"),
    ] {
        assert_eq!(ask(&link(&to, ""), "/s/aBcDeFgHiJkLmNo", "198.51.100.1"), 403, "{to}");
    }
    for uri in [
        "/s/aBcDeFgHiJkLmNo/../../admin",
        "/s/aBcDeFgHi%2e%2e%2fadmin",
        "http://evil/s/aBcDeFgHiJkLmNo",
        "/s/aBcDeFgHiJkLmNo?x=%0d%0aevil",
        "/s/",
        "/s/aaaaaaaaa bbbbbbbb",
        "/S/aBcDeFgHiJkLmNo",
    ] {
        assert_eq!(ask(&link(&up.to_string(), ""), uri, "198.51.100.2"), 403, "{uri}");
    }
    let before = asked.load(Ordering::SeqCst);
    // From many addresses: all together are bounded too.
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let (path, at) = (link(&up.to_string(), ""), g.addrs[0]);
            std::thread::spawn(move || {
                for n in 0..250 {
                    let (guest, uri) = (format!("11.0.{t}.{n}"), format!("/s/guess{t:02}{n:08}"));
                    let head = [("X-Forwarded-For", guest.as_str()), ("X-Forwarded-Uri", uri.as_str())];
                    assert_eq!(request(at, "GET", &path, &head).0, 403);
                }
            })
        })
        .collect();
    for t in threads {
        t.join().unwrap();
    }
    assert!(asked.load(Ordering::SeqCst) - before <= 601, "{}", asked.load(Ordering::SeqCst) - before);
    assert!(!odd.load(Ordering::SeqCst), "the upstream saw something that a guest made up");
    g.expect(&["255.255.255.255"]);
}

#[test]
fn a_revocation_against_learning_leaves_file_list_and_store_equal() {
    let _turn = stage::shared();
    let dir = Dir::new("race");
    let mut g = Gate::start(dir.path(), &[], &[]);
    let stop = Arc::new(AtomicBool::new(false));
    let at = g.addrs[0];
    let learners: Vec<_> = (0..3)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    request(at, "GET", "/", &[("X-Forwarded-For", "198.51.100.1")]);
                }
            })
        })
        .collect();
    for _ in 0..25 {
        let _ = g.command(&["grant", "revoke", "198.51.100.1"]);
    }
    stop.store(true, Ordering::SeqCst);
    for l in learners {
        l.join().unwrap();
    }
    let _ = g.command(&["grant", "revoke", "198.51.100.1"]);
    g.expect(&["255.255.255.255"]);
    assert_eq!(g.command(&["explain", "198.51.100.1"]).0, 3);
    assert_eq!(g.command(&["audit", "verify"]).0, 0);
    // Killed right after: the revocation is what a restart finds.
    g.process.kill();
    drop(g);
    let g = Gate::start(dir.path(), &[], &[]);
    assert_eq!(g.command(&["explain", "198.51.100.1"]).0, 3);
    assert_eq!(g.command(&["audit", "verify"]).0, 0);
}

#[test]
fn links_planted_in_the_folder_lead_nowhere() {
    let dir = Dir::new("links");
    std::fs::write(dir.at("victim"), "precious").unwrap();
    std::os::unix::fs::symlink(dir.at("victim"), dir.at(".dynamic-whitelist.yml.portcullis-new")).unwrap();
    let g = Gate::start(dir.path(), &[], &[]);
    g.mirror("198.51.100.1");
    g.expect(&["198.51.100.1"]);
    assert_eq!(std::fs::read_to_string(dir.at("victim")).unwrap(), "precious");
    // The file itself may be a link, as configuration tools make it: then its target is replaced, the link stays.
    drop(g);
    let dir = Dir::new("links2");
    std::fs::create_dir(dir.at("real")).unwrap();
    std::fs::write(dir.at("real/list.yml"), "").unwrap();
    std::os::unix::fs::symlink("real/list.yml", dir.at("dynamic-whitelist.yml")).unwrap();
    let g = Gate::start(dir.path(), &[], &[]);
    g.mirror("198.51.100.1");
    g.expect(&["198.51.100.1"]);
    assert!(std::fs::symlink_metadata(dir.at("dynamic-whitelist.yml")).unwrap().file_type().is_symlink());
    assert!(std::fs::read_to_string(dir.at("real/list.yml")).unwrap().contains("198.51.100.1"));
}

#[test]
fn a_unix_socket_replaces_a_stale_one_and_nobodys_file() {
    let dir = Dir::new("unix");
    std::fs::write(dir.at("precious"), "precious").unwrap();
    let at = |name: &str| format!("unix:{}", dir.at(name).display());
    let out = Outcome::of(&mut Gate::command_in(dir.path(), &["--listen", &at("precious")]));
    assert_eq!(out.code, 1, "{}", out.all());
    assert_eq!(std::fs::read_to_string(dir.at("precious")).unwrap(), "precious");
    for _ in 0..2 {
        let mut p = Process::start("gate", Gate::command_in(dir.path(), &["--listen", &at("gate.in")]));
        wait_or(|| p.logged("listening listener=").is_some(), || p.output());
        let mut s = std::os::unix::net::UnixStream::connect(dir.at("gate.in")).unwrap();
        s.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-For: 198.51.100.1\r\n\r\n")
            .unwrap();
        let mut said = String::new();
        s.read_to_string(&mut said).unwrap();
        assert!(said.ends_with("OK"), "{said}");
        p.kill();
    }
}
