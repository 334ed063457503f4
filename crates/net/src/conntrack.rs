//! The kernel's table of live flows, over netlink. In: guarded ports, and who may stay. Out: every other visitor's flow
//! to them is forgotten, so that nothing that belongs to it is let through or rewritten any more. Linux only.
//!
//! Numbers after the kernel's `include/uapi/linux/netfilter/nfnetlink_conntrack.h` and `rtnetlink.h`.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use addr::{Addr, Port, Transport};
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;

use crate::netlink::{ACK, Attributes, DUMP, Netlink};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_GET` and `…_DELETE`.
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `CTA_TUPLE_ORIG`, `CTA_ID`, `CTA_ZONE`.
const ORIGINAL: u16 = 1;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// `RTM_GETADDR`, `IFA_ADDRESS`, `IFA_LOCAL`.
const GET_ADDRESS: u16 = 22;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// A flow as the table has it.
#[derive(Debug)]
struct Flow {
    source: Addr,
    target: Addr,
    port: Port,
    /// What names it to the kernel: family, and attributes as they came.
    family: u8,
    name: Vec<(u16, Vec<u8>)>,
}

/// Cuts the TCP and UDP flows to these ports of this machine whose source may not stay. Says how many there were.
///
/// # Errors
/// The table cannot be read or changed; `Unsupported` if this kernel tracks no flows.
pub fn cut(ports: &BTreeSet<Port>, may_stay: impl Fn(Addr) -> bool) -> io::Result<usize> {
    let mut nl = Netlink::open(Some(NETFILTER), 0)?;
    let flows = nl
        .list(
            |mut m| {
                m.message(GET, DUMP, &[0; 4]);
                m.done()
            },
            |body| read(body).filter(|f| ports.contains(&f.port)),
        )
        .map_err(absent)?;
    if flows.is_empty() {
        return Ok(0);
    }
    let own = own_addresses()?;
    let mut cut = 0;
    for f in flows {
        // From here to elsewhere, through here to elsewhere, or this machine with itself: nobody's visit.
        if !own.contains(&f.target) || own.contains(&f.source) || f.source.ip().is_loopback() || may_stay(f.source) {
            continue;
        }
        let mut m = nl.messages();
        let one = m.message(DELETE, ACK, &[f.family, 0, 0, 0]);
        for (kind, value) in &f.name {
            one.put(*kind, value);
        }
        match nl.send(m.done()) {
            Ok(()) => cut += 1,
            // It ended by itself meanwhile.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NOENT) => {}
            Err(e) => return Err(absent(e)),
        }
    }
    Ok(cut)
}

/// The addresses of this machine's interfaces.
///
/// # Errors
/// The kernel does not say.
pub fn own_addresses() -> io::Result<BTreeSet<Addr>> {
    let mut nl = Netlink::open(None, 0)?;
    let listed = nl.list(
        |mut m| {
            m.message(GET_ADDRESS, DUMP, &[0; 8]);
            m.done()
        },
        |body| {
            let a = Attributes::after(body, 8);
            a.get(LOCAL).or_else(|| a.get(ADDRESS)).and_then(address)
        },
    )?;
    Ok(listed.into_iter().collect())
}

fn read(body: &[u8]) -> Option<Flow> {
    let attributes = Attributes::after(body, 4);
    let original = attributes.within(ORIGINAL)?;
    let (ip, protocol) = (original.within(1)?, original.within(2)?);
    let number = protocol.get(1)?;
    let transport = Transport::ALL.into_iter().find(|t| [t.protocol()] == *number)?;
    let port = Port { transport, number: u16::from_be_bytes(protocol.get(3)?.try_into().ok()?) };
    let source = address(ip.get(1).or_else(|| ip.get(3))?)?;
    let target = address(ip.get(2).or_else(|| ip.get(4))?)?;
    let mut name = Vec::new();
    for kind in [ORIGINAL, ID, ZONE] {
        if let Some(value) = attributes.get(kind) {
            // `NLA_F_NESTED`, which reading took off.
            let kind = if kind == ORIGINAL { kind | 0x8000 } else { kind };
            name.push((kind, value.to_vec()));
        }
    }
    Some(Flow { source, target, port, family: *body.first()?, name })
}

fn address(bytes: &[u8]) -> Option<Addr> {
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(Addr::new(ip))
}

/// A kernel without connection tracking says "invalid argument" to any message of that part.
fn absent(e: io::Error) -> io::Error {
    match Errno::from_io_error(&e) {
        Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::PROTONOSUPPORT) => {
            io::Error::new(io::ErrorKind::Unsupported, "this kernel lists no flows (module nf_conntrack_netlink)")
        }
        _ => e,
    }
}
