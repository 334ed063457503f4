//! The gate and the real nftables, in network namespaces of its own: a stranger reaches nothing, a proof opens the
//! port, a revocation cuts the connection that is open.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod gate_room;

use std::process::{Command, Output};

use gate_room::*;

fn ip(args: &[&str]) -> Output {
    Command::new("ip").args(args).output().unwrap()
}

struct Names {
    gate: String,
    out: String,
    /// A container: its port is published by the machine of the gate, as Docker does, by rewriting the destination.
    inner: String,
}

impl Drop for Names {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.gate]);
        ip(&["netns", "del", &self.out]);
        ip(&["netns", "del", &self.inner]);
    }
}

impl Names {
    fn within(&self, ns: &str, program: &str) -> Command {
        let mut c = Command::new("ip");
        c.args(["netns", "exec", ns, program]);
        c
    }

    /// True if the port answers to this source address.
    fn reaches(&self, source: &str) -> bool {
        let mut c = self.within(&self.out, "curl");
        c.args(["-s", "-o", "/dev/null", "--max-time", "2", "--interface", source, "http://203.0.113.1:8080/"]);
        c.status().unwrap().success()
    }
}

#[test]
fn a_proof_opens_a_port_and_a_revocation_cuts_what_is_open() {
    for name in ["nft", "ip", "python3", "curl"] {
        if peer(name, &[]).is_none() {
            return;
        }
    }
    let n = std::process::id();
    let names = Names { gate: format!("pcg{n}"), out: format!("pco{n}"), inner: format!("pci{n}") };
    if !ip(&["netns", "add", &names.gate]).status.success() {
        let why = "skipped: network namespaces can not be made here (needs root)";
        assert!(std::env::var("PORTCULLIS_REQUIRE_PEERS").is_err(), "{why}");
        eprintln!("{why}");
        return;
    }
    let ok = |args: &[&str]| {
        let out = ip(args);
        assert!(out.status.success(), "ip {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    ok(&["netns", "add", &names.out]);
    ok(&["netns", "add", &names.inner]);
    ok(&["-n", &names.gate, "link", "add", "w0", "type", "veth", "peer", "name", "w1", "netns", &names.inner]);
    ok(&["-n", &names.gate, "link", "add", "v0", "type", "veth", "peer", "name", "v1", "netns", &names.out]);
    for (ns, dev, addrs) in [
        (&names.gate, "v0", vec!["203.0.113.1/24"]),
        (&names.out, "v1", vec!["203.0.113.7/24", "203.0.113.8/24"]),
        (&names.gate, "w0", vec!["172.30.0.1/24"]),
        (&names.inner, "w1", vec!["172.30.0.2/24"]),
    ] {
        for a in addrs {
            ok(&["-n", ns, "addr", "add", a, "dev", dev]);
        }
        ok(&["-n", ns, "link", "set", dev, "up"]);
        ok(&["-n", ns, "link", "set", "lo", "up"]);
    }
    ok(&["-n", &names.inner, "route", "add", "default", "via", "172.30.0.1"]);
    let within = |ns: &str, program: &str, args: &[&str]| {
        assert!(names.within(ns, program).args(args).status().unwrap().success(), "{program} {args:?}")
    };
    within(&names.gate, "sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    within(
        &names.gate,
        "nft",
        &[
            "add table ip docker; add chain ip docker pre { type nat hook prerouting priority dstnat; }; add rule ip docker pre tcp dport 8080 dnat to 172.30.0.2:8080",
        ],
    );
    let dir = Dir::new("nft");
    // A service that says a line every tenth of a second for as long as it is listened to.
    std::fs::write(
        dir.at("serve.py"),
        "import http.server,time\nclass H(http.server.BaseHTTPRequestHandler):\n def do_GET(s):\n  s.send_response(200); s.end_headers()\n  if s.path=='/long':\n   while True:\n    s.wfile.write(b'tick\\n'); s.wfile.flush(); time.sleep(.1)\nhttp.server.ThreadingHTTPServer(('',8080),H).serve_forever()\n",
    )
    .unwrap();
    let mut c = names.within(&names.inner, "python3");
    c.arg(dir.at("serve.py"));
    let _service = Proc::start(c);
    wait("the service answers", || names.reaches("203.0.113.7"));
    let mut c = names.within(&names.gate, env!("CARGO_BIN_EXE_portcullis"));
    c.args(["gatekeeper", "--listen", "127.0.0.1:5000", "--nft-ports", "8080", "--data-dir"])
        .arg(dir.at("state"))
        .current_dir(&dir.0)
        .env("NO_COLOR", "1");
    let gate = Proc::start(c);
    wait_or(|| !names.reaches("203.0.113.7"), || gate.text());
    let mut proof = names.within(&names.gate, "curl");
    proof.args(["-s", "-H", "X-Forwarded-For: 203.0.113.7", "http://127.0.0.1:5000/"]);
    assert!(proof.status().unwrap().success());
    wait_or(|| names.reaches("203.0.113.7"), || gate.text());
    assert!(!names.reaches("203.0.113.8"));
    // The kernel knows when it ends.
    let mut list = names.within(&names.gate, "nft");
    let table = String::from_utf8(list.args(["list", "table", "inet", "portcullis"]).output().unwrap().stdout).unwrap();
    assert!(table.contains("203.0.113.7 timeout"), "{table}");
    let mut long = names.within(&names.out, "curl");
    long.args(["-sN", "--interface", "203.0.113.7", "-o"]).arg(dir.at("ticks")).arg("http://203.0.113.1:8080/long");
    let _long = Proc::start(long);
    let ticks = || std::fs::metadata(dir.at("ticks")).map_or(0, |m| m.len());
    wait("the connection is open", || ticks() > 0);
    let mut revoke = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    revoke.args(["grant", "revoke", "203.0.113.7", "--data-dir"]).arg(dir.at("state"));
    assert!(revoke.status().unwrap().success());
    wait_or(|| !names.reaches("203.0.113.7"), || gate.text());
    // What was under way to the client may still come; nothing new is acknowledged, so the stream stands still.
    let mut last = ticks();
    wait("the open connection is cut", || {
        std::thread::sleep(std::time::Duration::from_millis(1_000));
        let now = ticks();
        std::mem::replace(&mut last, now) == now
    });
}
