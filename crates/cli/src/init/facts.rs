//! What need not be asked, because it can be found out. In: this machine. Out: its addresses and name, proxies that run,
//! who listens where.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;

use addr::Addr;

use crate::args::init::Front;

/// What is known of this machine.
#[derive(Debug)]
pub(super) struct Facts {
    /// Names and addresses by which it may be reached, the likeliest first.
    pub(super) names: Vec<String>,
    /// The proxies that run, in containers too; one that is only installed stands in front of nothing.
    pub(super) proxies: Vec<Front>,
    /// From where the person at the terminal comes.
    pub(super) person: Option<Addr>,
}

/// Proxies and how their programs are called.
const PROXIES: [(Front, &str); 4] =
    [(Front::Traefik, "traefik"), (Front::Caddy, "caddy"), (Front::Nginx, "nginx"), (Front::Haproxy, "haproxy")];

/// Looks around.
pub(super) fn look() -> Facts {
    Facts { names: names(), proxies: proxies(), person: person() }
}

/// A public address, then a full name, then any address.
fn names() -> Vec<String> {
    let addresses: Vec<IpAddr> = net::sockets::own_addresses();
    let (public, private): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| !Addr::new(*a).is_private());
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    let full = Some(name).filter(|n| n.contains('.') && !n.ends_with(".local") && !n.ends_with(".localdomain"));
    let text = |all: Vec<IpAddr>| all.into_iter().map(|a| a.to_string());
    text(public).chain(full).chain(text(private)).collect()
}

fn proxies() -> Vec<Front> {
    let running: BTreeSet<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|e| fs::read_to_string(e.path().join("comm")).ok())
        .map(|comm| comm.trim().to_string())
        .collect();
    PROXIES.iter().filter(|(_, name)| running.contains(*name)).map(|(p, _)| *p).collect()
}

/// `SSH_CONNECTION` has the address of whoever is logged in first (sshd(8)).
fn person() -> Option<Addr> {
    let text = std::env::var("SSH_CONNECTION").ok()?;
    let addr: Addr = text.split(' ').next()?.parse().ok()?;
    (!addr.is_loopback()).then_some(addr)
}

/// The first port from this one on that nobody listens at, or this one.
pub(super) fn free_port(from: u16) -> u16 {
    /// More than this in a row are no accident.
    const TRIES: u16 = 20;
    let taken = |port: u16| {
        let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
        bound.is_err_and(|e| e.kind() == ErrorKind::AddrInUse)
    };
    (from..from.saturating_add(TRIES)).find(|p| !taken(*p)).unwrap_or(from)
}

/// True if somebody listens at this UDP port.
pub(super) fn udp_taken(port: u16) -> bool {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_err_and(|e| e.kind() == ErrorKind::AddrInUse)
}

/// The number of a group of this machine.
pub(super) fn group(name: &str) -> Option<u32> {
    let all = fs::read_to_string("/etc/group").ok()?;
    let line = all.lines().find(|l| l.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// True if something of Portcullis runs from this data directory: then its ports are taken by itself.
pub(super) fn runs(store: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(store.join(runtime::api::SOCKET)).is_ok()
}
