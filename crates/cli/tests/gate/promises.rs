//! Limits and promises of the gate that show only in time, in numbers or in unlucky surroundings: device slots, idle,
//! share checks under load and over TLS, and what the doctor finds.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stage::command::{Outcome, Server, binary, plain};
use stage::gate::{Gate, Serve};
use stage::http::request;
use stage::process::Process;
use stage::proxies::nginx_by;
use stage::upstream::answering;
use stage::{Dir, certificates, peers, ports, skip, wait, wait_or};

const IMMICH: &str = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";

fn learner(name: &str, rules: &str) -> (Serve, SocketAddr, Dir) {
    let dir = Dir::new(name);
    let config = format!(
        "http = false\n[lists.family]\n{rules}\n[gate]\nlisten = \"127.0.0.1:0\"\n[[gate.learn]]\nlist = \"family\"\n"
    );
    let s = Serve::start(dir.path(), &config, &["listener=\"check endpoint\""]);
    let at = s.at("check endpoint");
    (s, at, dir)
}

fn learn(at: SocketAddr, who: &str, device: &str, from: &str) {
    let headers = [("X-Forwarded-For", from), ("X-Gate-Cert-Subject", who), ("X-Gate-Cert-Fp", device)];
    assert_eq!(request(at, "GET", "/v1/learn/family", &headers).0, 200);
}

fn on(at: SocketAddr, ip: &str) -> bool {
    request(at, "GET", "/v1/check/family", &[("X-Forwarded-For", ip)]).0 == 200
}

#[test]
fn a_device_that_roams_leaves_its_old_address_after_the_grace_and_slots_are_kept() {
    let (s, at, _dir) = learner("slots", "devices = 2\ngrace = \"2s\"");
    learn(at, "CN=anna", "phone", "198.51.100.1");
    learn(at, "CN=anna", "phone", "2001:db8:1::1");
    learn(at, "CN=bert", "phone", "198.51.100.50");
    learn(at, "CN=anna", "phone", "198.51.100.2");
    // Both for a while: requests under way go on, and a phone that flaps is not locked out.
    assert!(on(at, "198.51.100.1") && on(at, "198.51.100.2") && on(at, "2001:db8:1::7"));
    wait("the old address leaves", || !on(at, "198.51.100.1"));
    assert!(on(at, "198.51.100.2") && on(at, "2001:db8:1::7") && on(at, "198.51.100.50"));
    // Two slots: the third device takes the place of the one seen longest ago, nobody else's.
    std::thread::sleep(Duration::from_millis(1_100));
    learn(at, "CN=anna", "tablet", "198.51.100.3");
    std::thread::sleep(Duration::from_millis(1_100));
    learn(at, "CN=anna", "laptop", "198.51.100.4");
    wait("the oldest device leaves", || !on(at, "198.51.100.2"));
    assert!(on(at, "198.51.100.3") && on(at, "198.51.100.4") && on(at, "198.51.100.50"));
    assert!(s.ok(&["audit"]).contains("superseded"));
}

#[test]
fn who_asks_stays_and_who_is_silent_leaves() {
    let (s, at, _dir) = learner("idle", "idle = \"3s\"");
    learn(at, "CN=anna", "phone", "198.51.100.1");
    learn(at, "CN=anna", "old", "198.51.100.2");
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(on(at, "198.51.100.1"), "{}", s.process.output());
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(!on(at, "198.51.100.2"));
    std::thread::sleep(Duration::from_secs(5));
    assert!(!on(at, "198.51.100.1"));
}

fn question(up: &str) -> String {
    format!("/verify_share_request?{up}")
}

fn ask(g: SocketAddr, up: &str, uri: &str, guest: &str) -> u16 {
    request(g, "GET", &question(up), &[("X-Forwarded-For", guest), ("X-Forwarded-Uri", uri)]).0
}

#[test]
fn many_guests_of_one_link_are_one_question_and_a_silent_upstream_holds_up_nobody_long() {
    let _turn = stage::alone();
    let dir = Dir::new("flight");
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let slow = answering(move |head| {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(400));
        (if head.contains(IMMICH) { 200 } else { 404 }, String::new())
    });
    let silent = answering(|_| {
        std::thread::sleep(Duration::from_secs(30));
        (200, String::new())
    });
    let shares = format!("slow=http://{slow},silent=http://{silent}");
    let env = [("SHARE_UPSTREAMS", shares.as_str()), ("MAX_IP_LEN", "100"), ("TRAEFIK_THROTTLE", "0s")];
    let g = Gate::start(dir.path(), &env, &[]);
    let at = g.addrs[0];
    let (slow, silent) =
        (format!("protocol=http&container_name_port={slow}"), format!("protocol=http&container_name_port={silent}"));
    let began = Instant::now();
    let stuck: Vec<_> = (0..12)
        .map(|n| {
            let silent = silent.clone();
            std::thread::spawn(move || ask(at, &silent, &format!("/share/{IMMICH}"), &format!("203.0.113.{n}")))
        })
        .collect();
    let guests: Vec<_> = (0..20)
        .map(|n| {
            let slow = slow.clone();
            std::thread::spawn(move || ask(at, &slow, &format!("/share/{IMMICH}"), &format!("198.51.100.{n}")))
        })
        .collect();
    assert!(guests.into_iter().all(|t| t.join().unwrap() == 200));
    // The other one's silence costs them nothing.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the canary and the link, once each");
    assert!(stuck.into_iter().all(|t| t.join().unwrap() == 403));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(g.entries().len(), 20);
}

#[test]
fn share_links_of_an_upstream_with_tls() {
    let (Some(nginx), Some(_)) = (peers::need("nginx"), peers::need("openssl")) else { return };
    let dir = Dir::new("sharetls");
    certificates::sites_and_a_phone(dir.path());
    let (port, d) = (ports::free(), dir.path().display());
    let http = format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {d}/site.pem; ssl_certificate_key {d}/site.key;
    location = /share/{IMMICH} {{ return 200 album; }} location / {{ return 404; }} }}"
    );
    let _n = Process::start("nginx", nginx_by(Command::new(nginx), dir.path(), &http));
    let share = format!("immich=https://localhost:{port}");
    let ca = dir.at("ca.pem").display().to_string();
    let up = format!("protocol=https&container_name_port=localhost:{port}");
    let trusting = Gate::start(dir.path(), &[("SHARE_UPSTREAMS", &share), ("SSL_CERT_FILE", &ca)], &[]);
    wait_or(
        || ask(trusting.addrs[0], &up, &format!("/share/{IMMICH}"), "198.51.100.1") == 200,
        || trusting.process.output(),
    );
    assert_eq!(ask(trusting.addrs[0], &up, &format!("/share/{}", IMMICH.replace('T', "U")), "198.51.100.2"), 403);
    assert_eq!(trusting.entries(), ["198.51.100.1"]);
    drop(trusting);
    // A certificate that nobody vouches for: no answer of it counts.
    let other = Dir::new("sharetlsno");
    let g = Gate::start(other.path(), &[("SHARE_UPSTREAMS", &share)], &[]);
    assert_eq!(ask(g.addrs[0], &up, &format!("/share/{IMMICH}"), "198.51.100.1"), 403);
    assert!(g.command(&["doctor"]).1.contains("does not answer"), "{}", g.command(&["doctor"]).1);
}

/// What the doctor says; it must name the trouble and a line that mends it.
fn doctor(g: &Gate, what: &str, fix: &str) {
    let (code, said) = g.command(&["doctor"]);
    assert!(
        code == 1 && said.contains(what) && said.contains("fix: ") && said.contains(fix),
        "{said}\n{}",
        g.process.output()
    );
}

#[test]
fn the_doctor_sees_a_gateway_that_hides_clients_and_proxies_that_are_everybody() {
    let dir = Dir::new("docgw");
    let env = [("DEFAULT_SOURCE_RANGE", "172.16.0.0/12"), ("TRUSTED_PROXIES", "0.0.0.0/0")];
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
    // Let in by the range, and never learned: still everybody behind it.
    let head = [("X-Forwarded-For", "172.18.0.1")];
    assert_eq!(request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &head).0, 200);
    doctor(&g, "172.18.0.1, a gateway that hides", "userland-proxy");
    doctor(&g, "anybody in 0.0.0.0/0", "TRUSTED_PROXIES=");
}

#[test]
fn the_doctor_asks_shares_by_itself_and_finds_one_that_accepts_anything() {
    let dir = Dir::new("docshare");
    let anything = answering(|_| (200, "app".into()));
    // As Immich: its own links are told apart, others get the app's page.
    let immich = answering(|h| (if h.contains("/share/") { 404 } else { 200 }, String::new()));
    let g = Gate::start(dir.path(), &[("SHARE_UPSTREAMS", &format!("a=http://{anything},b=http://{immich}"))], &[]);
    doctor(&g, &format!("http://{anything}/ accepts any share link"), "login page");
    assert!(!g.command(&["doctor"]).1.contains(&format!("http://{immich}/ accepts any")));
}

/// A gate with an nginx in front that mirrors `/` to it and lets `/asks` ask it.
fn behind_nginx(dir: &Dir, demand: &str, from: &str) -> Option<(Gate, Process)> {
    let (nginx, _) = (peers::need("nginx")?, peers::need("openssl")?);
    certificates::sites_and_a_phone(dir.path());
    let (port, d) = (ports::free(), dir.path().display().to_string());
    let sites = format!("https://127.0.0.1:{port},https://127.0.0.1:{port}/asks");
    let g = Gate::start(dir.path(), &[("PROBE_URLS", &sites)], &["--check-listen", "127.0.0.1:0"]);
    let (mirror, check) = (g.addrs[0], g.addrs[1]);
    let http = format!(
        "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {d}/site.pem; ssl_certificate_key {d}/site.key; {demand}
    location = /_learn {{ internal; proxy_pass http://{mirror}; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; proxy_set_header X-Forwarded-For {from}; }}
    location = /_gate {{ internal; proxy_pass http://{check}/v1/check/dynamic-whitelist; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; proxy_set_header X-Forwarded-For {from}; }}
    location / {{ mirror /_learn; root /nowhere; }}
    location /asks {{ auth_request /_gate; root /nowhere; }} }}"
    );
    let n = Process::start("nginx", nginx_by(Command::new(nginx), dir.path(), &http));
    wait_or(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), || n.output());
    Some((g, n))
}

#[test]
fn the_doctor_plays_a_stranger_at_the_sites() {
    // One that demands nothing and passes everything on, and one as it should be.
    let dir = Dir::new("docbad");
    let Some((g, _n)) = behind_nginx(&dir, "", "$http_x_forwarded_for") else { return };
    doctor(&g, "takes visitors without a certificate for proven", "RequireAndVerifyClientCert");
    doctor(&g, "/asks passes a visitor's own X-Forwarded-For on", "$remote_addr");
    g.expect(&["255.255.255.255"]);
    let dir = Dir::new("docgood");
    let demand = format!("ssl_client_certificate {}/ca.pem; ssl_verify_client on;", dir.path().display());
    let Some((g, _n)) = behind_nginx(&dir, &demand, "$remote_addr") else { return };
    let (code, said) = g.command(&["doctor"]);
    assert_eq!(code, 0, "a site as it should be is not complained of: {said}");
}

/// Gives the gate's file to a container alone, not its folder.
const MOUNT: &str = "mount --bind host.yml dynamic-whitelist.yml";

#[test]
fn the_doctor_sees_a_mount_that_breaks_atomic_replace_and_a_clock_that_was_set_back() {
    let dir = Dir::new("docmount");
    dir.write("host.yml", "");
    dir.write("dynamic-whitelist.yml", "");
    // Tests as root only: a mount of a single file, as a container has it.
    let mut c = Command::new("unshare");
    c.args(["-m", "sh", "-c"])
        .arg(format!("{MOUNT} && exec {} gatekeeper --listen 127.0.0.1:0 --data-dir state", binary()))
        .current_dir(dir.path());
    plain(&mut c);
    let mounted = Outcome::of(Command::new("unshare").args(["-m", "sh", "-c", MOUNT]).current_dir(dir.path()));
    if mounted.code == 0 {
        let g = Gate::by(c, dir.path(), 1);
        g.mirror("198.51.100.1");
        wait("the file on the other side has it", || {
            std::fs::read_to_string(dir.at("host.yml")).unwrap().contains("198.51.100.1")
        });
        doctor(&g, "written in place", "mount the directory");
    } else {
        skip::skip(&format!("a mount cannot be made here: {}", mounted.all()));
    }
    let Some(python) = peers::need("python3") else { return };
    let dir = Dir::new("docclock");
    drop(Gate::start(dir.path(), &[], &[]));
    // An hour ahead of the wall clock, as the store of a machine whose clock was set back.
    let out = Outcome::of(Command::new(python)
        .args(["-c", "import sqlite3,sys,time\nc=sqlite3.connect(sys.argv[1])\nt=[r[0] for r in c.execute(\"select name from sqlite_master where type='table'\")]\nn=0\nfor x in t:\n  cols=[r[1] for r in c.execute('pragma table_info(%s)'%x)]\n  if 'key' in cols and 'value' in cols:\n    n+=c.execute('update %s set value=? where key=?'%x,(str(int(time.time())+3600).encode(),'gate/clock')).rowcount\nc.commit()\nassert n>=1,(t,n)"])
        .arg(dir.at("state/gate.db")));
    assert_eq!(out.code, 0, "{}", out.all());
    let g = Gate::start(dir.path(), &[], &[]);
    doctor(&g, "the clock is", "timedatectl");
}
