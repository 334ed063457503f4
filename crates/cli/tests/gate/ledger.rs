//! Who is let in, who no longer, and why: commands and what they say, with the real program.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use stage::command::{Server, command, run_at};
use stage::gate::{Gate, Serve};
use stage::http::{read_head, read_request_body, request};
use stage::process::Process;
use stage::upstream::{Upstream, answering};
use stage::{Dir, START, wait};

const LIST: &str = "dynamic-whitelist";

/// A gate without Traefik: learns and checks at one endpoint.
fn gate(dir: &Path, env: &[(&str, &str)], args: &[&str]) -> Gate {
    let args: Vec<&str> = ["--check-listen", "127.0.0.1:0"].iter().chain(args).copied().collect();
    Gate::start(dir, env, &args)
}

fn learn(g: &Gate, from: &str, who: &str, device: &str) -> u16 {
    let headers = [("X-Forwarded-For", from), ("X-Gate-Cert-Subject", who), ("X-Gate-Cert-Fp", device)];
    request(check_side(g), "GET", &format!("/v1/learn/{LIST}"), &headers).0
}

fn on(g: &Gate, from: &str) -> bool {
    request(check_side(g), "GET", &format!("/v1/check/{LIST}"), &[("X-Forwarded-For", from)]).0 == 200
}

fn check_side(g: &Gate) -> SocketAddr {
    *g.addrs.last().unwrap()
}

fn fails(g: &Gate, args: &[&str], what: &[&str]) {
    let (code, said) = g.command(args);
    assert_eq!(code, 1, "{args:?}: {said}");
    for w in what {
        assert!(said.contains(w), "{args:?} does not say `{w}`: {said}");
    }
}

#[test]
fn explain_says_why_somebody_is_no_longer_in_after_a_restart_too() {
    let dir = Dir::new("whynot");
    let mut g = gate(dir.path(), &[("MAX_IP_LEN", "2")], &[]);
    for n in 1..=3 {
        learn(&g, &format!("198.51.100.{n}"), &format!("CN=phone-{n}"), "fp");
    }
    learn(&g, "2001:db8:7:100::9", "CN=tablet", "t");
    g.ok(&["grant", "revoke", "2001:db8:7:100::1"]);
    g.ok(&["grant", "add", "192.0.2.7", "--for", "1s", "--pin"]);
    wait("the entry ends", || !on(&g, "192.0.2.7"));
    for round in 0..2 {
        for (addr, words) in [
            (
                "198.51.100.1",
                vec!["198.51.100.1 (CN=phone-1, mtls) was evicted", "198.51.100.3 (mtls) came", "holds 2"],
            ),
            ("2001:db8:7:100::77", vec!["2001:db8:7:100::/64 (CN=tablet, mtls) was revoked", "by hand"]),
            // The neighbouring network of the same household.
            ("2001:db8:7:1ff::1", vec!["nearby, 2001:db8:7:100::/64"]),
            ("192.0.2.7", vec!["192.0.2.7 (somebody, manual) expired"]),
        ] {
            let (code, said) = g.command(&["explain", addr]);
            assert_eq!(code, 3, "{said}");
            for w in words {
                assert!(said.contains(w), "round {round}, {addr}: `{w}` in {said}");
            }
        }
        if round == 0 {
            assert!(g.process.logged("list full list=\"dynamic-whitelist\"").is_some(), "{}", g.process.output());
            let (_, doctor) = g.command(&["doctor"]);
            assert!(doctor.contains("is too small") && doctor.contains("raise MAX_IP_LEN"), "{doctor}");
            let metrics = request(check_side(&g), "GET", "/metrics", &[]).1;
            assert!(
                metrics.contains("portcullis_gate_evicted_total{list=\"dynamic-whitelist\",of=\"proven\"} 2"),
                "{metrics}"
            );
            g.process.kill();
            g = gate(dir.path(), &[("MAX_IP_LEN", "2")], &[]);
        }
    }
    // Everything that is on it is stronger: a proof finds no place, and that is said.
    for n in 1..=2 {
        g.ok(&["grant", "add", &format!("203.0.113.{n}")]);
    }
    learn(&g, "203.0.113.9", "CN=late", "l");
    assert!(!on(&g, "203.0.113.9"));
    let (_, said) = g.command(&["explain", "203.0.113.9"]);
    assert!(said.contains("203.0.113.9 (CN=late, mtls) found no place") && said.contains("more evidence"), "{said}");
    assert!(on(&g, "203.0.113.1") && on(&g, "203.0.113.2"));
}

#[test]
fn a_ban_keeps_proofs_out_and_is_shown_and_ended() {
    let dir = Dir::new("ban");
    let mut g = gate(dir.path(), &[], &[]);
    learn(&g, "198.51.100.1", "CN=anna", "a");
    let said = g.ok(&["grant", "revoke", "198.51.100.1"]);
    assert!(said.contains("ended: g1") && said.contains("the next proof lets them in again"), "{said}");
    learn(&g, "198.51.100.1", "CN=anna", "a");
    assert!(on(&g, "198.51.100.1"));
    let said = g.ok(&["grant", "revoke", "198.51.100.1", "--for", "1h"]);
    assert!(said.contains("banned: 198.51.100.1") && said.contains("grant unban 198.51.100.1"), "{said}");
    learn(&g, "198.51.100.1", "CN=anna", "a");
    assert!(!on(&g, "198.51.100.1"), "a ban that proofs do not respect");
    let (_, said) = g.command(&["explain", "198.51.100.1"]);
    assert!(said.contains("no proof of 198.51.100.1 counts"), "{said}");
    assert!(g.ok(&["lists", "show"]).contains("no proof of 198.51.100.1 counts until 20"));
    // By name: from everywhere, and nobody else behind the same address.
    learn(&g, "198.51.100.5", "CN=anna-phone", "a");
    learn(&g, "198.51.100.5", "CN=bert", "b");
    learn(&g, "198.51.100.6", "CN=anna-phone", "a");
    let said = g.ok(&["grant", "revoke", "CN=anna-phone", "--for", "ever"]);
    assert!(said.contains("198.51.100.5 stays") && said.contains("CN=bert (mtls) is there too"), "{said}");
    // Nor does the site that learns from the certificate open, from wherever it comes: a private address is not learned.
    for from in ["198.51.100.8", "192.168.7.7"] {
        assert_eq!(learn(&g, from, "CN=anna-phone", "a"), 403, "{from}");
        assert_eq!(learn(&g, from, "CN=bert", "b"), 200, "{from}");
    }
    fails(&g, &["grant", "extend", "203.0.113.77", "--for", "7d"], &["no live grant", "grant add"]);
    assert!(on(&g, "198.51.100.5") && !on(&g, "198.51.100.6"));
    g.process.kill();
    drop(g);
    g = gate(dir.path(), &[], &[]);
    learn(&g, "198.51.100.6", "CN=anna-phone", "a");
    learn(&g, "198.51.100.1", "CN=anna", "a");
    assert!(!on(&g, "198.51.100.6") && !on(&g, "198.51.100.1"), "a restart forgot a ban");
    fails(&g, &["grant", "unban", "203.0.113.1"], &["is not banned", "CN=anna-phone on `dynamic-whitelist`"]);
    g.ok(&["grant", "unban", "CN=anna-phone"]);
    learn(&g, "198.51.100.6", "CN=anna-phone", "a");
    assert!(on(&g, "198.51.100.6"));
    let said = g.ok(&["grant", "add", "198.51.100.1"]);
    assert!(said.contains("the ban of 198.51.100.1 is over"), "{said}");
    fails(&g, &["grant", "revoke", "anna"], &["nobody who is on a list", "CN=anna-phone", "CN=bert"]);
    let said = g.ok(&["audit", "--what", "banned,unbanned"]);
    assert!(said.contains("CN=anna-phone") && !said.contains("given"), "{said}");
    // A ban's time ends it.
    g.ok(&["grant", "revoke", "198.51.100.6", "--for", "1s"]);
    wait("the ban ends", || {
        learn(&g, "198.51.100.6", "CN=anna-phone", "a");
        on(&g, "198.51.100.6")
    });
}

/// A client chooses whether it sends its CA's certificate along, which makes its name unreadable: no way around a ban.
#[test]
fn who_is_banned_by_name_does_not_come_in_without_one() {
    let dir = Dir::new("nameless");
    let g = gate(dir.path(), &[], &[]);
    let one = "Subject%3D%22CN%3Danna%22%3BSerialNumber%3D%227%22";
    let two = format!("{one}%2CSubject%3D%22CN%3Dca%22%3BSerialNumber%3D%221%22");
    let mirror = |info: &str| {
        let headers = [("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-Tls-Client-Cert-Info", info)];
        assert_eq!(request(g.addrs[0], "GET", "/", &headers).0, 200);
        on(&g, "198.51.100.9")
    };
    assert!(mirror(&two), "without a ban it is somebody's proof");
    g.ok(&["grant", "revoke", "198.51.100.9"]);
    g.ok(&["grant", "revoke", "CN=anna", "--for", "ever"]);
    assert!(!mirror(one) && !mirror(&two), "{}", g.process.output());
    let (_, said) = g.command(&["explain", "198.51.100.9"]);
    assert!(said.contains("names are banned here"), "{said}");
    g.ok(&["grant", "unban", "CN=anna"]);
    assert!(mirror(&two));
}

#[test]
fn nothing_is_ended_that_was_not_named() {
    let dir = Dir::new("wider");
    let g = gate(dir.path(), &[], &[]);
    fails(&g, &["grant", "add", "0.0.0.0/0"], &["everybody with an IPv4 address", "--yes"]);
    fails(&g, &["grant", "add", "::/0"], &["everybody with an IPv6 address"]);
    fails(&g, &["grant", "add", "8.0.0.0/9"], &["--yes"]);
    fails(&g, &["grant", "add", "friend.example.net"], &["is a host name", "dns:friend.example.net"]);
    fails(&g, &["grant", "add", "192.0.2.9-192.0.2.1"], &["backwards"]);
    fails(&g, &["grant", "revoke", "friend.example.net"], &["dns:friend.example.net"]);
    assert!(!on(&g, "203.0.113.200"));
    g.ok(&["grant", "add", "10.0.0.0/8"]);
    g.ok(&["grant", "add", "192.0.2.10-192.0.2.12"]);
    assert!(on(&g, "192.0.2.12") && !on(&g, "192.0.2.13"));
    g.ok(&["grant", "add", "203.0.113.40/29"]);
    learn(&g, "203.0.113.41", "CN=anna", "a");
    let said = g.ok(&["grant", "revoke", "203.0.113.41"]);
    assert!(said.contains("203.0.113.40/29") && said.contains("still lets it in"), "{said}");
    assert!(on(&g, "203.0.113.42"));
    fails(&g, &["grant", "revoke", "203.0.113.41"], &["wider grant", "203.0.113.40/29", "--wider"]);
    g.ok(&["grant", "revoke", "203.0.113.41", "--wider"]);
    assert!(!on(&g, "203.0.113.42"));
    // An IPv6 address means what was added for it and what its proof gave, which is its network.
    g.ok(&["grant", "add", "2001:db8:5::5"]);
    learn(&g, "2001:db8:5::6", "CN=anna", "a");
    g.ok(&["grant", "revoke", "2001:db8:5::5"]);
    assert!(!on(&g, "2001:db8:5::5") && !on(&g, "2001:db8:5::6"));
    // The undo of letting everybody in ends that alone.
    learn(&g, "198.51.100.1", "CN=anna", "a");
    g.ok(&["grant", "add", "0.0.0.0/0", "--yes"]);
    assert!(on(&g, "203.0.113.200"));
    let said = g.ok(&["grant", "revoke", "0.0.0.0/0"]);
    assert!(said.contains("narrower grants within it stay"), "{said}");
    assert!(on(&g, "198.51.100.1") && !on(&g, "203.0.113.200"));
    // And where it is no grant itself, it means all within.
    g.ok(&["grant", "revoke", "0.0.0.0/0"]);
    assert!(!on(&g, "198.51.100.1") && !on(&g, "10.1.2.3"));
}

#[test]
fn an_end_by_hand_shortens_no_proof() {
    let dir = Dir::new("shorten");
    let g = gate(dir.path(), &[], &[]);
    learn(&g, "203.0.113.34", "CN=anna", "a");
    let said = g.ok(&["grant", "add", "203.0.113.34", "--for", "1s"]);
    assert!(said.contains("stays in longer than that"), "{said}");
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    assert!(on(&g, "203.0.113.34"));
    g.ok(&["grant", "extend", "203.0.113.34", "--for", "1s", "--shorten"]);
    wait("told so, it ends", || !on(&g, "203.0.113.34"));
}

#[test]
fn one_command_is_one_transaction() {
    let dir = Dir::new("atomic");
    let mut g = gate(dir.path(), &[("MAX_IP_LEN", "2000")], &[]);
    g.ok(&["grant", "add", "192.0.2.0-192.0.2.254"]);
    for _ in 0..200 {
        if let Some(a) = g.addrs.first() {
            let n: u8 = rand::random();
            request(*a, "GET", "/", &[("X-Forwarded-For", &format!("203.0.113.{n}"))]);
        }
    }
    let live = |g: &Gate| g.json(&["lists", "show", LIST])["grants"].as_array().unwrap().len();
    let before = live(&g);
    for delay in [0, 2, 5, 9, 15, 25] {
        let mut revoke = command(&["grant", "revoke", "0.0.0.0/0", "--data-dir"]);
        let mut revoke = Process::start("revoke", {
            revoke.arg(dir.at("state"));
            revoke
        });
        std::thread::sleep(std::time::Duration::from_millis(delay));
        g.process.kill();
        revoke.wait(START).unwrap();
        g = gate(dir.path(), &[("MAX_IP_LEN", "2000")], &[]);
        let after = live(&g);
        assert!(after == before || after == 0, "{after} of {before} are left");
        if after == 0 {
            return;
        }
    }
}

#[test]
fn grace_never_means_never() {
    let dir = Dir::new("never");
    let config = "http = false\n[lists.family]\ngrace = \"never\"\n[gate]\nlisten = \"127.0.0.1:0\"\n[[gate.learn]]\nlist = \"family\"\n";
    let s = Serve::start(dir.path(), config, &["listener=\"check endpoint\""]);
    let at = s.at("check endpoint");
    for n in 1..=2 {
        let from = format!("198.51.100.{n}");
        let headers =
            [("X-Forwarded-For", from.as_str()), ("X-Gate-Cert-Subject", "CN=anna"), ("X-Gate-Cert-Fp", "fp")];
        assert_eq!(request(at, "GET", "/v1/learn/family", &headers).0, 200);
    }
    let shown = s.json(&["lists", "show"]);
    let left: Vec<u64> = shown["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["ends_at"].as_u64().unwrap() - g["given_at"].as_u64().unwrap())
        .collect();
    assert!(left.len() == 2 && left.iter().all(|l| *l > 6 * 86_400), "{left:?}");
    let dir = Dir::new("never2");
    let g = gate(dir.path(), &[("GRANT_GRACE", "1s")], &[]);
    learn(&g, "198.51.100.1", "CN=anna", "a");
    learn(&g, "198.51.100.2", "CN=anna", "a");
    wait("its grace is over", || !on(&g, "198.51.100.1"));
}

#[test]
fn a_guest_with_a_link_costs_nobody_with_a_certificate_a_place() {
    let dir = Dir::new("guests");
    let token = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";
    let up = answering(move |head| (if head.contains(token) { 200 } else { 404 }, "x".into()));
    let up_text = format!("http://{up}");
    let env = [("SHARE_UPSTREAMS", up_text.as_str()), ("MAX_IP_LEN", "3"), ("MAX_GUESTS", "5")];
    let g = gate(dir.path(), &env, &[]);
    for n in 1..=3 {
        learn(&g, &format!("198.51.100.{n}"), &format!("CN=owner-{n}"), "fp");
    }
    let question = format!("/verify_share_request?protocol=http&container_name_port={up}");
    for n in 0..20 {
        let guest = format!("2001:db8:1:{n:x}::1");
        let uri = format!("/share/{token}");
        let headers = [("X-Forwarded-For", guest.as_str()), ("X-Forwarded-Uri", uri.as_str())];
        assert_eq!(request(g.addrs[0], "GET", &question, &headers).0, 200);
    }
    assert!((1..=3).all(|n| on(&g, &format!("198.51.100.{n}"))), "{}", g.ok(&["lists", "show"]));
    assert!(g.ok(&["lists"]).contains("5 of 5"));
    let (_, said) = g.command(&["explain", "2001:db8:1::1"]);
    assert!(said.contains("was evicted") && said.contains("holds 5 guests"), "{said}");
}

#[test]
fn audit_shows_what_is_asked_for() {
    let dir = Dir::new("filter");
    let g = gate(dir.path(), &[], &[]);
    learn(&g, "198.51.100.1", "CN=anna", "a");
    learn(&g, "198.51.100.2", "CN=bert", "b");
    g.ok(&["grant", "revoke", "198.51.100.2"]);
    let rows = |args: &[&str]| {
        let all: Vec<&str> = ["audit", "--json"].iter().chain(args).copied().collect();
        g.ok(&all).lines().count()
    };
    assert_eq!(rows(&[]), 3);
    assert_eq!(rows(&["--address", "198.51.100.1"]), 1);
    assert_eq!(rows(&["--address", "198.51.100.0/24"]), 3);
    assert_eq!(rows(&["--who", "bert"]), 2);
    assert_eq!(rows(&["--what", "revoked"]), 1);
    assert_eq!(rows(&["--list", "other"]), 0);
    assert_eq!(rows(&["--since", "1h"]), 3);
    assert_eq!(rows(&["--since", "2200-01-01"]), 0);
    let (code, said) = g.command(&["audit", "--since", "yesterday"]);
    assert!(code == 2 && said.contains("2026-11-28"), "{said}");
    let (code, said) = g.command(&["audit", "--address", "anna"]);
    assert!(code == 2 && said.contains("--address"), "{said}");
    // Without a gate it is said what is missing.
    let empty = Dir::new("filter-none");
    let said = run_at(empty.path(), &["explain", "198.51.100.1"]).err;
    assert!(said.contains("neither an edge nor a gate runs"), "{said}");
}

#[test]
fn programs_and_webhooks_hear_who_came_and_went_and_why() {
    let dir = Dir::new("hooks");
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let to = heard.clone();
    let service = Upstream::serve(move |mut s| {
        if let Ok(Some(head)) = read_head(&mut s)
            && let Ok(body) = read_request_body(&mut s, &head)
        {
            to.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
            let _ = s.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let script = dir.at("hook.sh");
    let log = dir.at("hook.log");
    let text = format!(
        "#!/bin/sh\necho \"$PORTCULLIS_LIST $PORTCULLIS_EMPTY $(cat | tr '\\n' ' ') $PORTCULLIS_CHANGES\" >> {}\n",
        log.display()
    );
    std::fs::write(&script, text).unwrap();
    Command::new("chmod").arg("+x").arg(&script).status().unwrap();
    let hook = format!("http://{}/hook", service.addr());
    let g = gate(dir.path(), &[], &["--webhook", &hook, "--exec", script.to_str().unwrap()]);
    let logged = |what: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(what);
    let bodies = |what: &str| heard.lock().unwrap().iter().any(|b| b.contains(what));
    // Nobody is nobody: an empty array, and the old line for programs.
    wait("the start", || bodies("\"entries\":[]") && bodies("\"empty\":true"));
    wait("the start", || logged("dynamic-whitelist 1 255.255.255.255"));
    learn(&g, "198.51.100.1", "CN=anna", "a");
    let came = "\"change\":\"added\"";
    wait("who came", || bodies(came) && bodies("CN=anna") && bodies("\"entries\":[\"198.51.100.1\"]"));
    wait("who came", || logged("dynamic-whitelist 0 198.51.100.1") && logged(came));
    g.ok(&["grant", "revoke", "198.51.100.1"]);
    wait("who went", || {
        bodies("\"change\":\"removed\"") && bodies("\"what\":\"revoked\"") && bodies("\"by\":\"by hand\"")
    });
    wait("who went", || logged("\"what\":\"revoked\""));
}

/// State as version 0.1 left it: its grants, and its audit log with hashes over its own lines.
#[test]
fn state_of_the_version_before_opens() {
    let dir = Dir::new("old");
    std::fs::create_dir_all(dir.at("state")).unwrap();
    std::fs::write(dir.at("state/gate.db"), include_bytes!("../fixtures/0.1.0-gate/gate.db")).unwrap();
    std::fs::write(dir.at("state/audit.jsonl"), include_bytes!("../fixtures/0.1.0-gate/audit.jsonl")).unwrap();
    let g = gate(dir.path(), &[("MAX_IP_LEN", "6")], &[]);
    for addr in ["203.0.113.50", "198.51.100.2", "2001:db8::1", "198.51.100.9", "198.51.100.77", "198.51.100.78"] {
        assert!(on(&g, addr), "{addr}: {}\n{}", g.ok(&["lists", "show"]), g.process.output());
    }
    let shown = g.ok(&["lists", "show"]);
    assert!(shown.contains("CN=bert") && shown.contains("earlier") && shown.contains("pinned"), "{shown}");
    let (_, said) = g.command(&["explain", "198.51.100.79"]);
    assert!(said.contains("was revoked") && said.contains("by hand"), "{said}");
    // It goes on from there: the chain, the numbers, and who leaves first.
    learn(&g, "203.0.113.1", "CN=new", "n");
    learn(&g, "203.0.113.2", "CN=new", "o");
    assert!(on(&g, "203.0.113.1") && on(&g, "203.0.113.2") && !on(&g, "203.0.113.50"), "{}", g.ok(&["lists", "show"]));
    assert!(g.ok(&["audit", "verify"]).contains("none changed"));
}
