//! The gate and the kernel's packet filter, in network namespaces of their own: a visitor, the gate's machine, and a
//! container whose port that machine publishes by rewriting destinations, as Docker does. A stranger reaches nothing,
//! a proof opens the port, a revocation or an end cuts what is open, whatever happens to the gate and to its table.

mod boot;

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use stage::command::{Outcome, answers, binary, plain, run_at};
use stage::netns::{Host, World};
use stage::process::Process;
use stage::{Dir, START, peers, wait, wait_or};

/// The gate's machine between its visitors and a container. Fields end in this order: processes before their hosts.
struct Place {
    services: Vec<Process>,
    gate: Host,
    out: Host,
    inner: Host,
    world: World,
}

/// Answers HTTP on TCP 8080 (`/long` never ends) and, on UDP 8080, everybody who ever wrote, ten times a second.
const SERVICE: &str = "
import http.server,socket,threading,time
class H(http.server.BaseHTTPRequestHandler):
 def do_GET(s):
  s.send_response(200); s.end_headers()
  while s.path=='/long':
   s.wfile.write(b'tick\\n'); s.wfile.flush(); time.sleep(.1)
 def log_message(*a): pass
class S(http.server.ThreadingHTTPServer):
 address_family=socket.AF_INET6
u=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); u.bind(('::',8080)); who=set()
def hear():
 while True: who.add(u.recvfrom(99)[1])
def tell():
 while True:
  for w in list(who): u.sendto(b'tick',w)
  time.sleep(.1)
threading.Thread(target=hear,daemon=True).start(); threading.Thread(target=tell,daemon=True).start()
S(('::',8080),H).serve_forever()
";

/// Writes ten times a second from ADDRESS and notes in FILE what comes back.
const TALKER: &str = "
import socket,sys,time
s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind((sys.argv[1],0)); s.connect(('203.0.113.1',8080)); s.settimeout(.1)
f=open(sys.argv[2],'ab',0)
while True:
 try: s.send(b'x')
 except OSError: pass
 try: f.write(s.recv(9))
 except OSError: time.sleep(.05)
";

/// Where the gate takes mirrored requests.
const MIRROR: &str = "127.0.0.1:5000";

impl Place {
    /// `None`, said in one line, where it cannot be made.
    fn new() -> Option<Place> {
        for program in ["python3", "curl", "conntrack", "setpriv"] {
            peers::need(program)?;
        }
        let world = World::new()?;
        let (gate, out, inner) = (world.lone("gate"), world.lone("out"), world.lone("inner"));
        world.cable((&gate, "w0"), (&inner, "w1"));
        world.cable((&gate, "v0"), (&out, "v1"));
        for (host, interface, addrs) in [
            (&gate, "v0", &["203.0.113.1/24", "2001:db8:1::1/48"][..]),
            (
                &out,
                "v1",
                &["203.0.113.7/24", "203.0.113.8/24", "203.0.113.77/24", "2001:db8:1:5::7/48", "2001:db8:1:6::7/48"],
            ),
            (&gate, "w0", &["172.30.0.1/24"]),
            (&inner, "w1", &["172.30.0.2/24"]),
        ] {
            for addr in addrs {
                host.ip(&["addr", "add", addr, "dev", interface]);
            }
        }
        inner.ip(&["route", "add", "default", "via", "172.30.0.1"]);
        gate.sysctl("net/ipv4/ip_forward", "1");
        let mut w = Place { services: Vec::new(), gate, out, inner, world };
        w.nft("add table ip docker");
        w.nft("add chain ip docker pre { type nat hook prerouting priority dstnat; }");
        w.nft("add rule ip docker pre fib daddr type local tcp dport 8080 dnat to 172.30.0.2:8080");
        w.nft("add rule ip docker pre fib daddr type local udp dport 8080 dnat to 172.30.0.2:8080");
        w.dir().write("serve.py", SERVICE);
        w.dir().write("talk.py", TALKER);
        // In the container over IPv4, and on the machine itself over IPv6.
        for host in [&w.inner, &w.gate] {
            let mut c = host.command("python3");
            c.arg(w.dir().at("serve.py"));
            w.services.push(Process::start("service", c));
        }
        wait("the services answer", || w.reaches("203.0.113.7") && w.reaches("2001:db8:1:5::7"));
        Some(w)
    }

    fn dir(&self) -> &Dir {
        self.world.dir()
    }

    fn run(&self, host: &Host, program: &str, args: &[&str]) -> String {
        let out = host.run(program, args);
        assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    fn nft(&self, text: &str) -> String {
        self.run(&self.gate, "nft", &[text])
    }

    fn table(&self) -> String {
        let out = self.gate.command("nft").args(["list", "table", "inet", "portcullis"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// True if the port answers to this source address.
    fn reaches(&self, source: &str) -> bool {
        self.reaches_port(source, 8080)
    }

    fn reaches_port(&self, source: &str, port: u16) -> bool {
        let target = if source.contains(':') { "[2001:db8:1::1]" } else { "203.0.113.1" };
        let mut c = self.out.command("curl");
        c.args([
            "-s",
            "-o",
            "/dev/null",
            "--max-time",
            "1",
            "--interface",
            source,
            &format!("http://{target}:{port}/"),
        ]);
        c.status().unwrap().success()
    }

    fn gate(&self, args: &[&str]) -> Process {
        let p = self.start(args);
        // The port is closed first; mirrored requests and commands are taken a moment later.
        let up = || p.logged("listening listener=").is_some() && answers(&self.dir().at("state"));
        wait_or(|| self.table().contains("drop") && up(), || p.output());
        p
    }

    fn start(&self, args: &[&str]) -> Process {
        Process::start("gate", self.gatekeeper(&[binary()], "state", &[&["--listen", MIRROR], args].concat()))
    }

    /// `gatekeeper` on the gate's machine, below these programs, with this data directory.
    fn gatekeeper(&self, by: &[&str], data: &str, args: &[&str]) -> Command {
        let mut c = self.gate.command(by[0]);
        c.args(&by[1..]).arg("gatekeeper").args(args).arg("--data-dir").arg(self.dir().at(data));
        plain(&mut c);
        c.current_dir(self.dir().path());
        c
    }

    /// A command to the running gate.
    fn tell(&self, args: &[&str]) {
        let out = run_at(&self.dir().at("state"), args);
        assert_eq!(out.code, 0, "{args:?}: {}", out.all());
    }

    fn proof(&self, addr: &str) {
        self.run(&self.gate, "curl", &["-s", "-H", &format!("X-Forwarded-For: {addr}"), "http://127.0.0.1:5000/"]);
    }

    /// A TCP and a UDP conversation from this address that go on until they are cut, and where what comes is noted.
    fn talk(&self, source: &str) -> Talk {
        let (tcp, udp) = (self.dir().at(format!("tcp-{source}")), self.dir().at(format!("udp-{source}")));
        let mut c = self.out.command("curl");
        c.args(["-sN", "--interface", source, "-o"]).arg(&tcp).arg("http://203.0.113.1:8080/long");
        let mut u = self.out.command("python3");
        u.arg(self.dir().at("talk.py")).arg(source).arg(&udp);
        let t = Talk { files: [tcp, udp], _both: [Process::start("curl", c), Process::start("talker", u)] };
        wait("both conversations go on", || t.heard().iter().all(|n| *n > 8));
        t
    }

    fn flows(&self, source: &str) -> usize {
        let out = self.gate.command("conntrack").args(["-L", "-s", source]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).lines().filter(|l| l.contains("dport=8080")).count()
    }
}

struct Talk {
    files: [std::path::PathBuf; 2],
    _both: [Process; 2],
}

impl Talk {
    fn heard(&self) -> [u64; 2] {
        [0, 1].map(|n: usize| std::fs::metadata(&self.files[n]).map_or(0, |m| m.len()))
    }

    /// What was under way to the visitor may still come; nothing new does.
    fn cut(&self) {
        self.quiet("both conversations are cut", |t| t.heard());
    }

    fn quiet<T: PartialEq>(&self, what: &str, heard: impl Fn(&Talk) -> T) {
        let mut last = heard(self);
        wait(what, || {
            std::thread::sleep(Duration::from_millis(700));
            std::mem::replace(&mut last, heard(self)) == heard(self)
        });
    }

    fn goes_on(&self) {
        let before = self.heard();
        wait("both conversations go on", || self.heard().iter().zip(before).all(|(now, then)| *now > then));
    }
}

#[test]
fn a_proof_opens_a_port_and_a_revocation_cuts_what_is_open() {
    let Some(w) = Place::new() else { return };
    // Who was inside before there was a gate has no right to stay.
    let early = w.talk("203.0.113.77");
    let gate = w.gate(&["--nft-ports", "8080"]);
    wait_or(|| !w.reaches("203.0.113.7"), || gate.output());
    early.cut();
    assert!(!w.reaches("2001:db8:1:5::7"));
    w.proof("203.0.113.7");
    w.proof("203.0.113.77");
    wait_or(|| w.reaches("203.0.113.7"), || gate.output());
    assert!(!w.reaches("203.0.113.8"));
    // The kernel knows when it ends.
    assert!(w.table().contains("203.0.113.7 timeout 7d"), "{}", w.table());
    let (talk, other) = (w.talk("203.0.113.7"), w.talk("203.0.113.77"));
    assert!(w.flows("203.0.113.7") >= 2);
    w.tell(&["grant", "revoke", "203.0.113.7"]);
    wait_or(|| !w.reaches("203.0.113.7"), || gate.output());
    talk.cut();
    wait("its flows are forgotten", || w.flows("203.0.113.7") == 0);
    assert!(gate.logged("live flows").is_some(), "{}", gate.output());
    other.goes_on();
}

#[test]
fn a_gate_that_cannot_start_leaves_the_port_closed() {
    let Some(w) = Place::new() else { return };
    // Somebody else has the port of the mirrored requests.
    let mut c = w.gate.command("python3");
    c.args(["-c", "import socket,time\ns=socket.create_server(('127.0.0.1',5000))\nprint('listening on it',file=__import__('sys').stderr,flush=True)\ntime.sleep(600)"]);
    let other = Process::start("other", c);
    wait_or(|| other.logged("listening").is_some(), || other.output());
    for _ in 0..4 {
        w.run(&w.gate, "sh", &["-c", "nft delete table inet portcullis 2>/dev/null || true"]);
        let mut gate = w.start(&["--nft-ports", "8080"]);
        let end = gate.wait(START).unwrap();
        wait_or(|| gate.logged("cannot listen on 127.0.0.1:5000").is_some(), || gate.output());
        assert_eq!(end.code(), Some(1), "{}", gate.output());
        assert!(!gate.output().contains("panicked"), "{}", gate.output());
        assert!(!w.reaches("203.0.113.7"), "the port is open after a failed start: {}", w.table());
    }
    // Whoever holds the table's name on this machine needs no right for it, and opens no port by it.
    w.nft("delete table inet portcullis");
    let mut c = w.gate.command("setpriv");
    c.args(["--bounding-set=-all", "--inh-caps=-all", "python3", "-c"]);
    c.arg("import socket,sys,time\ns=socket.socket(socket.AF_UNIX)\ns.bind('\\0portcullis nftables portcullis')\nprint('holding',file=sys.stderr,flush=True)\ntime.sleep(600)");
    let holder = Process::start("holder", c);
    wait_or(|| holder.logged("holding").is_some(), || holder.output());
    let mut gate = w.start(&["--nft-ports", "8080"]);
    assert_eq!(gate.wait(START).unwrap().code(), Some(1), "{}", gate.output());
    assert!(!w.reaches("203.0.113.7"), "the port is open while the name is held: {}", w.table());
    drop(holder);
    // The same where the store is what fails.
    w.nft("delete table inet portcullis");
    std::fs::create_dir_all(w.dir().at("broken")).unwrap();
    w.dir().write("broken/gate.db", "this is no database, whatever its name says; not at all, and long enough");
    let out = Outcome::of(&mut w.gatekeeper(&[binary()], "broken", &["--nft-ports", "8080"]));
    assert!(out.code != 0 && !w.reaches("203.0.113.7"), "{}", out.err);
}

#[test]
fn ports_are_closed_at_boot_and_opened_by_hand() {
    let Some(w) = Place::new() else { return };
    let nft = |args: &[&str]| {
        let mut c = w.gate.command(binary());
        plain(&mut c);
        let out = Outcome::of(c.arg("nft").args(args));
        assert_eq!(out.code, 0, "{args:?}: {}", out.all());
        out.all()
    };
    let said = nft(&["boot", "--nft-ports", "8080", "--default-source-range", "203.0.113.7"]);
    assert!(said.contains("closed to everybody but 1 entries"), "{said}");
    assert!(w.reaches("203.0.113.7") && !w.reaches("203.0.113.8") && !w.reaches("2001:db8:1:5::7"));
    // Run again, as a service may be: nothing changes, even with other entries.
    let said = nft(&["boot", "--nft-ports", "8080"]);
    assert!(said.contains("stands already"), "{said}");
    assert!(w.reaches("203.0.113.7"));
    let mut gate = w.gate(&["--nft-ports", "8080"]);
    wait_or(|| !w.reaches("203.0.113.7"), || gate.output());
    w.tell(&["grant", "add", "203.0.113.8"]);
    wait_or(|| w.reaches("203.0.113.8"), || gate.output());
    gate.stop();
    let said = nft(&["open"]);
    assert!(said.contains("open to everybody"), "{said}");
    assert!(w.reaches("203.0.113.77"));
    assert!(nft(&["open"]).contains("there is no table"));
    // As `serve` is told.
    let config = "data_dir = \"state\"\n[lists.players]\nstatic = [\"203.0.113.77\"]\n[[gate.nftables]]\nlist = \"players\"\nports = [\"8080\", \"27015-27020/udp\"]\n";
    w.dir().write("gate.toml", config);
    nft(&["boot", "--config", w.dir().at("gate.toml").to_str().unwrap()]);
    assert!(w.reaches("203.0.113.77") && !w.reaches("203.0.113.7"));
}

#[test]
fn a_port_is_guarded_for_the_transport_that_was_named() {
    let Some(w) = Place::new() else { return };
    let gate = w.gate(&["--nft-ports", "8080/udp,9000-9002"]);
    wait_or(|| w.table().contains("9000"), || gate.output());
    assert!(w.reaches("203.0.113.7"), "TCP is not guarded: {}", w.table());
    let table = w.table();
    let set = |name: &str| {
        let from = table.split(&format!("set {name} {{")).nth(1).unwrap_or_default();
        from.split('}').next().unwrap_or_default().to_string()
    };
    assert!(set("udp_ports").contains("8080") && set("udp_ports").contains("9002"), "{table}");
    assert!(!set("tcp_ports").contains("8080") && set("tcp_ports").contains("9001"), "{table}");
}

#[test]
fn an_end_cuts_with_the_gate_and_without_it_and_a_restart_keeps() {
    let Some(w) = Place::new() else { return };
    let mut gate = w.gate(&["--nft-ports", "8080"]);
    w.tell(&["grant", "add", "203.0.113.7", "--for", "12s"]);
    w.tell(&["grant", "add", "203.0.113.77"]);
    let (short, long) = (w.talk("203.0.113.7"), w.talk("203.0.113.77"));
    short.cut();
    wait_or(|| w.flows("203.0.113.7") == 0, || gate.output());
    assert!(!w.reaches("203.0.113.7"));
    long.goes_on();
    w.tell(&["grant", "add", "203.0.113.7", "--for", "14s"]);
    w.tell(&["grant", "add", "203.0.113.0/28", "--for", "14s"]);
    let short = w.talk("203.0.113.7");
    // `ip netns exec` becomes the program, so this is kill -9 for the gate itself.
    gate.kill();
    // The kernel's number of the table: another one if it was made anew.
    let handle = || {
        let shown = w.run(&w.gate, "nft", &["-a", "list", "table", "inet", "portcullis"]);
        shown.lines().next().unwrap_or_default().to_string()
    };
    let before = handle();
    // Nobody is there to do it, and the end comes all the same; who has longer stays; nobody new comes in. What the
    // service sends over UDP without being asked still leaves, since nobody is there to forget the flow.
    short.quiet("the conversation over TCP is cut", |t| t.heard()[0]);
    assert!(!w.reaches("203.0.113.7") && !w.reaches("203.0.113.8") && w.reaches("203.0.113.77"));
    long.goes_on();
    assert!(w.flows("203.0.113.7") > 0, "the kernel keeps flows of its own accord");
    let mut gate = w.gate(&["--nft-ports", "8080"]);
    wait_or(|| w.flows("203.0.113.7") == 0, || gate.output());
    short.cut();
    assert_eq!(handle(), before);
    long.goes_on();
    // Other ports in the next run.
    gate.stop();
    let gate = w.gate(&["--nft-ports", "8081,9090"]);
    wait_or(|| w.reaches("203.0.113.8"), || gate.output());
    assert!(w.table().contains("8081, 9090"), "{}", w.table());
}

#[test]
fn what_others_do_to_the_table_is_undone() {
    let _turn = stage::shared();
    let Some(w) = Place::new() else { return };
    let gate = w.gate(&["--nft-ports", "8080", "--max", "1000"]);
    w.proof("203.0.113.7");
    wait_or(|| w.reaches("203.0.113.7"), || gate.output());
    for command in [
        "flush ruleset",
        "delete table inet portcullis",
        "add element inet portcullis host4 { 203.0.113.8 }",
        "add element inet portcullis net4 { 203.0.112.0/22 }",
        "delete element inet portcullis host4 { 203.0.113.7 }",
        "delete element inet portcullis tcp_ports { 8080 }",
        "insert rule inet portcullis before accept",
        "flush chain inet portcullis guard",
        "add chain inet portcullis mine { type filter hook input priority 0; policy drop; }",
    ] {
        w.nft(command);
        let began = Instant::now();
        // On the address of the machine itself, since a flushed ruleset publishes nothing.
        wait_or(
            || {
                let t = w.table();
                t.contains("203.0.113.7 timeout")
                    && !t.contains("203.0.113.8")
                    && !t.contains("203.0.112")
                    && !t.contains("mine")
                    && t.contains("drop")
                    && t.contains("8080")
                    && !t.contains("\taccept")
            },
            || format!("after {command}: {}\n{}", w.table(), gate.output()),
        );
        eprintln!("{command}: undone within {:?}", began.elapsed());
        assert!(w.reaches("203.0.113.7") || command == "flush ruleset", "{command}");
        assert!(!w.reaches("203.0.113.8"), "{command}");
        if command == "flush ruleset" {
            w.nft("add table ip docker; add chain ip docker pre { type nat hook prerouting priority dstnat; }; add rule ip docker pre fib daddr type local tcp dport 8080 dnat to 172.30.0.2:8080");
        }
    }
    // At any moment, while addresses come and go.
    let stop = AtomicU32::new(0);
    std::thread::scope(|s| {
        s.spawn(|| {
            while stop.load(Ordering::Relaxed) == 0 {
                let _ = w.gate.command("nft").args(["delete", "table", "inet", "portcullis"]).output();
                std::thread::sleep(Duration::from_millis(7));
            }
        });
        for n in 1..40 {
            w.proof(&format!("198.51.100.{n}"));
            if n % 2 == 0 {
                w.tell(&["grant", "revoke", &format!("198.51.100.{n}")]);
            }
        }
        stop.store(1, Ordering::Relaxed);
    });
    wait_or(
        || {
            let t = w.table();
            (1..40).all(|n| t.contains(&format!("198.51.100.{n} timeout")) == (n % 2 == 1)) && t.contains("drop")
        },
        || format!("{}\n{}", w.table(), gate.output()),
    );
    assert!(!w.reaches("203.0.113.8") && w.reaches("203.0.113.7"));
}

#[test]
fn prefixes_that_overlap_and_addresses_in_any_dress() {
    let Some(w) = Place::new() else { return };
    let gate = w.gate(&["--nft-ports", "8080", "--default-source-range", "203.0.113.64/28,198.18.0.0/15,203.0.113.66"]);
    wait_or(|| w.reaches("203.0.113.77"), || gate.output());
    assert!(!w.reaches("203.0.113.7"));
    // Nested, with ends in any order: an address stays until the last of them.
    w.tell(&["grant", "add", "203.0.113.0/28", "--for", "3s"]);
    w.tell(&["grant", "add", "203.0.113.0/29", "--for", "1h"]);
    w.tell(&["grant", "add", "203.0.113.4/30", "--for", "5s"]);
    wait_or(|| w.reaches("203.0.113.7") && w.reaches("203.0.113.8"), || gate.output());
    wait_or(|| !w.reaches("203.0.113.8"), || format!("{}{}", w.table(), gate.output()));
    std::thread::sleep(Duration::from_secs(4));
    assert!(w.reaches("203.0.113.7"), "{}", w.table());
    w.tell(&["grant", "revoke", "203.0.113.0/29"]);
    wait_or(|| !w.reaches("203.0.113.7"), || w.table());
    w.proof("::ffff:203.0.113.7");
    wait_or(|| w.reaches("203.0.113.7"), || w.table());
    assert!(w.table().contains("203.0.113.7 timeout"), "{}", w.table());
    // A household is a /64, and its neighbour is not in it.
    w.proof("2001:DB8:1:5:0:0:0:99");
    wait_or(|| w.reaches("2001:db8:1:5::7"), || w.table());
    assert!(!w.reaches("2001:db8:1:6::7"));
    w.tell(&["grant", "add", "2001:db8:1:6::7"]);
    w.tell(&["grant", "add", "2001:db8:1:4::/62", "--for", "1h"]);
    wait_or(|| w.reaches("2001:db8:1:6::7"), || w.table());
    w.tell(&["grant", "revoke", "2001:db8:1::/48"]);
    wait_or(|| !w.reaches("2001:db8:1:5::7") && !w.reaches("2001:db8:1:6::7"), || w.table());
    assert!(w.reaches("203.0.113.77"));
    assert!(gate.logged("out of sync").is_none(), "{}", gate.output());
}

#[test]
fn two_gates_and_a_gate_without_the_right() {
    let Some(w) = Place::new() else { return };
    let mut first = w.gate(&["--nft-ports", "8080"]);
    let other = |by: &[&str], more: &[&str]| {
        w.gatekeeper(by, "second", &[&["--listen", "127.0.0.1:5001", "--nft-ports", "9090"], more].concat())
    };
    let Outcome { code, err: said, .. } = Outcome::of(&mut other(&[binary()], &[]));
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("another gate on this machine keeps the table `inet portcullis`") && said.contains("--nft-table"),
        "{said}"
    );
    let without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", binary()];
    let Outcome { code, err: said, .. } = Outcome::of(&mut other(&without, &[]));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("CAP_NET_ADMIN is missing") && said.contains("hint: "), "{said}");
    let second = Process::start("second gate", other(&[binary()], &["--nft-table", "second"]));
    wait_or(|| w.nft("list tables").contains("table inet second"), || second.output());
    w.proof("203.0.113.7");
    wait_or(|| w.reaches("203.0.113.7"), || first.output());
    wait_or(|| w.nft("list table inet second").contains("9090"), || second.output());
    // Only that right is needed.
    first.stop();
    std::fs::remove_dir_all(w.dir().at("state")).unwrap();
    std::fs::remove_file(w.dir().at("dynamic-whitelist.yml")).unwrap();
    let only = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", binary()];
    let third = Process::start("gate", w.gatekeeper(&only, "state", &["--listen", MIRROR, "--nft-ports", "8080"]));
    wait_or(|| !w.reaches("203.0.113.7"), || third.output());
    w.proof("203.0.113.8");
    wait_or(|| w.reaches("203.0.113.8"), || third.output());
}
