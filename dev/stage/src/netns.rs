//! A small internet: hosts that are network namespaces, joined by three documentation networks (RFC 5737) and NAT boxes.
//! In: names and addresses. Out: hosts that run processes and sockets of their own; everything is removed with the
//! world, and what a killed test run left behind is swept by the next.
//!
//! Needs root, `ip` and `nft`; [`World::new`] says so in one line and the test is skipped.

pub mod dns;
pub mod host;
pub mod service;
pub mod tailscaled;

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

pub use host::Host;

use crate::Dir;

/// The public networks: what stands before the last octet, and the bridge of it. `.1` is the internet's own router.
const NETWORKS: [([u8; 3], &str); 3] = [([203, 0, 113], "w0"), ([198, 51, 100], "w1"), ([192, 0, 2], "w2")];

/// The address of every bridge on its own wire. A bridge without one of its own takes the lowest of its cables, a new
/// one with each lower cable, and drops what comes to the old one for as long as neighbours remember it.
const MAC: &str = "02:00:5e:00:53:01";

/// First letters of every namespace made here; the maker's process number follows, for the sweep.
const PREFIX: &str = "ptcl-";

/// An internet and everything in it.
#[derive(Debug)]
pub struct World {
    tag: String,
    internet: Host,
    made: RefCell<Vec<Host>>,
    links: Cell<u32>,
    dir: Dir,
}

/// A box that hides a private network behind its one public address.
#[derive(Debug)]
pub struct Nat {
    /// The box itself.
    pub host: Host,
    inside: Ipv4Addr,
}

impl World {
    /// An internet with nobody in it; `None` if it cannot be made here (said in one line).
    #[must_use]
    pub fn new() -> Option<World> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            crate::skip::skip("network namespaces need root");
            return None;
        }
        for program in ["ip", "nft", "mount"] {
            crate::peers::need(program)?;
        }
        SWEPT.call_once(sweep);
        let tag = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Dir::new("world");
        let internet = match Host::make(&tag, "internet", dir.path()) {
            Ok(host) => host,
            Err(e) => {
                crate::skip::skip(&format!("network namespaces cannot be made here: {e}"));
                return None;
            }
        };
        for (net, bridge) in NETWORKS {
            internet.ip(&["link", "add", bridge, "address", MAC, "type", "bridge"]);
            let [a, b, c] = net;
            internet.ip(&["addr", "add", &format!("{a}.{b}.{c}.1/24"), "dev", bridge]);
            internet.ip(&["addr", "add", &format!("{}/64", v6(Ipv4Addr::new(a, b, c, 1))), "dev", bridge]);
            internet.ip(&["link", "set", bridge, "up"]);
        }
        internet.forward();
        let made = RefCell::new(vec![internet.clone()]);
        Some(World { tag, internet, made, links: Cell::new(0), dir })
    }

    /// Where files of this world go; removed with it.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The host that joins the networks: what is dropped there is lost on the way.
    #[must_use]
    pub fn internet(&self) -> &Host {
        &self.internet
    }

    /// A host with a public address (of one of the three documentation networks) and the IPv6 address of [`v6`].
    pub fn host(&self, name: &str, public: &str) -> Host {
        let addr: Ipv4Addr = public.parse().unwrap_or_else(|e| panic!("{public}: {e}"));
        let [a, b, c, _] = addr.octets();
        let network = NETWORKS.iter().find(|(net, _)| *net == [a, b, c]);
        let (_, bridge) = network.unwrap_or_else(|| panic!("{public} is in none of the documentation networks"));
        let host = self.make(name);
        self.plug(&host, "eth0", &self.internet, bridge);
        let gateway = Ipv4Addr::new(a, b, c, 1);
        host.ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"]);
        host.ip(&["addr", "add", &format!("{}/64", v6(addr)), "dev", "eth0"]);
        host.ip(&["route", "add", "default", "via", &gateway.to_string()]);
        host.ip(&["-6", "route", "add", "default", "via", &v6(gateway).to_string()]);
        host
    }

    /// A box with a public address that hides a private /24, whose first address is its own inside.
    pub fn nat(&self, name: &str, public: &str, inside: &str) -> Nat {
        let host = self.host(name, public);
        let inside: Ipv4Addr = inside.parse().unwrap_or_else(|e| panic!("{inside}: {e}"));
        host.ip(&["link", "add", "lan", "address", MAC, "type", "bridge"]);
        host.ip(&["addr", "add", &format!("{inside}/24"), "dev", "lan"]);
        host.ip(&["link", "set", "lan", "up"]);
        host.nft(
            "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }; }",
        );
        host.nft(
            "table inet way { chain forward { type filter hook forward priority filter; \
             iifname \"eth0\" ct state { established, related } accept; iifname \"eth0\" drop; }; }",
        );
        host.forward();
        Nat { host, inside }
    }

    /// A host behind a NAT box.
    pub fn behind(&self, nat: &Nat, name: &str, private: &str) -> Host {
        let host = self.make(name);
        self.plug(&host, "eth0", &nat.host, "lan");
        host.ip(&["addr", "add", &format!("{private}/24"), "dev", "eth0"]);
        host.ip(&["route", "add", "default", "via", &nat.inside.to_string()]);
        host
    }

    /// A host with nothing but its loopback, for a network of the test's own making.
    pub fn lone(&self, name: &str) -> Host {
        self.make(name)
    }

    /// A cable between new interfaces of two hosts, both up.
    pub fn cable(&self, (one, interface): (&Host, &str), (other, end): (&Host, &str)) {
        one.ip(&["link", "add", interface, "type", "veth", "peer", "name", end, "netns", other.namespace()]);
        one.ip(&["link", "set", interface, "up"]);
        other.ip(&["link", "set", end, "up"]);
    }

    fn make(&self, name: &str) -> Host {
        let host = Host::make(&self.tag, name, self.dir.path()).unwrap_or_else(|e| panic!("no host {name}: {e}"));
        self.made.borrow_mut().push(host.clone());
        host
    }

    /// A cable between an interface of a host and a bridge of another.
    fn plug(&self, host: &Host, interface: &str, other: &Host, bridge: &str) {
        let n = self.links.replace(self.links.get() + 1);
        let end = format!("c{n}");
        host.ip(&["link", "add", interface, "type", "veth", "peer", "name", &end, "netns", other.namespace()]);
        other.ip(&["link", "set", &end, "master", bridge, "up"]);
        host.ip(&["link", "set", interface, "up"]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in self.made.get_mut() {
            remove(host.namespace());
        }
    }
}

/// The IPv6 address that goes with a public IPv4 address: 2001:db8 (RFC 3849) and the four octets.
#[must_use]
pub fn v6(addr: Ipv4Addr) -> std::net::Ipv6Addr {
    let [a, b, c, d] = addr.octets().map(u16::from);
    std::net::Ipv6Addr::new(0x2001, 0xdb8, a, b << 8 | c, 0, 0, 0, d)
}

/// Ends what still runs in a namespace and removes it.
fn remove(namespace: &str) {
    let ip = |args: &[&str]| Command::new("ip").args(args).output();
    if let Ok(out) = ip(&["netns", "pids", namespace]) {
        // This process itself is listed while a thread of it is inside; it ends the thread by itself.
        let own = std::process::id() as i32;
        let pids =
            String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.trim().parse().ok()).collect::<Vec<i32>>();
        for pid in pids.into_iter().filter(|p| *p != own).filter_map(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = ip(&["netns", "del", namespace]);
}

/// Removes the namespaces of processes that are gone.
fn sweep() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let maker = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if maker.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}
