//! A table of our own in nf_tables, over netlink. In: ports to guard, elements with the time they have left. Out: the
//! kernel's table with exactly these, in transactions; what is there; word of who else touched it. Linux only.
//!
//! The chain stands in prerouting before destinations are rewritten, so ports that containers publish on this machine
//! are guarded as the visitor sees them. It knows no established flows: an address that leaves its set is cut, not only
//! refused. Numbers after the kernel's `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

use addr::{Port, Prefix, Transport};
use rustix::io::Errno;
use rustix::net::netlink::NETFILTER;
use tokio::io::unix::AsyncFd;

use crate::netlink::{ACK, Attributes, CREATE, DUMP, Netlink, heard};
use transaction::{Batch, Row, by_set, shapes};

/// The sets of the table. Exact addresses and IPv6 /64s are hashed, so that a change costs the same however many there
/// are; everything else is a tree of ranges, which are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Set {
    /// Single IPv4 addresses.
    Host4,
    /// IPv4 ranges.
    Net4,
    /// Single IPv6 addresses.
    Host6,
    /// IPv6 /64s, each by its first address.
    Subnet6,
    /// IPv6 ranges.
    Net6,
}

/// What a set holds: all addresses from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The set.
    pub set: Set,
    /// The lowest address, as a number of its family's width.
    pub first: u128,
    /// The highest address.
    pub last: u128,
}

/// Why the kernel's table cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// No right to change packet filters.
    #[error("the packet filter cannot be changed: the right CAP_NET_ADMIN is missing")]
    NotPermitted,
    /// A kernel without nf_tables.
    #[error("this kernel has no nf_tables")]
    Missing,
    /// Another process keeps a table of this name.
    #[error("another gate on this machine keeps the table `inet {0}`")]
    Taken(String),
    /// A table of this name is there, and no gate made it.
    #[error("the table `inet {0}` is somebody else's: no gate made it")]
    Foreign(String),
    /// What was sent does not fit what is there, or the kernel cannot do it.
    #[error("the kernel refuses {what}: {why}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The kernel's error.
        why: io::Error,
    },
}

/// What is in the kernel.
#[derive(Debug)]
pub struct There {
    /// The table works, and its chains and rules are as this process left them. False too if it did not write any yet.
    pub rules: bool,
    /// The sets and the chains are ours and no others.
    pub frame: bool,
    /// The guarded ports.
    pub ports: BTreeSet<Port>,
    /// Each element with the time it has left; `None`: no end.
    pub elements: BTreeMap<Element, Option<Duration>>,
}

/// What comes before the elements in a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Nothing: the table stands.
    Stands,
    /// The table works, its chains and rules are written anew; elements stay.
    Rules,
    /// What is there goes, everything is made anew. Refused where no gate made it.
    Anew,
}

/// Differences to what is there.
#[derive(Debug, Default)]
pub struct Changes {
    /// Ports that go.
    pub close: Vec<Port>,
    /// Ports that come.
    pub open: Vec<Port>,
    /// Elements that go.
    pub remove: Vec<Element>,
    /// Elements that come, with the time they have; `None`: no end. One that gets another end stands in both lists.
    pub add: Vec<(Element, Option<Duration>)>,
}

/// The hands on one table. While it lives no other gate in this network namespace has it.
#[derive(Debug)]
pub struct Table {
    nl: Netlink,
    name: String,
    /// Chains and rules as they were read after they were written.
    written: Option<Vec<u8>>,
    /// The name on this machine, if it is held.
    _mine: Option<UnixListener>,
}

/// Hears of changes that others make to the table.
#[derive(Debug)]
pub struct Watch {
    fd: AsyncFd<OwnedFd>,
    name: String,
    own: u32,
    /// Something was heard that nobody was told of yet.
    foreign: bool,
}

/// What a table is made of.
struct Shape {
    /// Each set's flags and length of key in bytes.
    sets: BTreeMap<String, (u32, u32)>,
    /// In the order of the alphabet.
    chains: Vec<String>,
    /// None of its chains sees a packet.
    dormant: bool,
}

impl Shape {
    fn is_whole(&self) -> bool {
        self.sets == shapes() && self.chains == [BEFORE, GUARD]
    }

    /// Whether a gate made it, whatever came to it since. One that holds nothing is nobody's.
    fn is_ours(&self) -> bool {
        let holds = |chain: &str| self.chains.iter().any(|c| c == chain);
        let ports = Transport::ALL.into_iter().all(|t| self.sets.contains_key(ports_of(t)));
        (self.sets.is_empty() && self.chains.is_empty()) || (ports && holds(BEFORE) && holds(GUARD))
    }
}

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
/// `NFPROTO_INET`.
const INET: u8 = 1;
/// `NFNLGRP_NFTABLES` as a bit of a bind.
const GROUP: u32 = 1 << 6;
/// An attribute's length has 16 bits: a message takes elements up to this many bytes.
const LIST_ROOM: usize = 60_000;
/// The longest an element can have, a hundred years: the kernel's own limit is higher.
const MAX_TIMEOUT: Duration = Duration::from_secs(3_155_760_000);

mod transaction;

mod kind {
    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = 0;
    pub(super) const GET_TABLE: u16 = 1;
    pub(super) const DEL_TABLE: u16 = 2;
    pub(super) const NEW_CHAIN: u16 = 3;
    pub(super) const GET_CHAIN: u16 = 4;
    pub(super) const NEW_RULE: u16 = 6;
    pub(super) const GET_RULE: u16 = 7;
    pub(super) const DEL_RULE: u16 = 8;
    pub(super) const NEW_SET: u16 = 9;
    pub(super) const GET_SET: u16 = 10;
    pub(super) const NEW_ELEMENT: u16 = 12;
    pub(super) const GET_ELEMENT: u16 = 13;
    pub(super) const DEL_ELEMENT: u16 = 14;
    pub(super) const GET_GEN: u16 = 16;
}

/// `NFT_TABLE_F_DORMANT`.
const DORMANT: u32 = 1;
/// `NFT_SET_INTERVAL`, `NFT_SET_TIMEOUT`, `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL: u32 = 4;
const TIMEOUT: u32 = 0x10;
const RANGE_END: u32 = 1;
/// The sets of guarded ports, by transport.
fn ports_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp_ports",
        Transport::Udp => "udp_ports",
    }
}

/// The chain of the hook and the one that judges.
const BEFORE: &str = "before";
const GUARD: &str = "guard";

impl Set {
    /// Every set of addresses.
    pub const ALL: [Set; 5] = [Set::Host4, Set::Net4, Set::Host6, Set::Subnet6, Set::Net6];

    fn name(self) -> &'static str {
        match self {
            Set::Host4 => "host4",
            Set::Net4 => "net4",
            Set::Host6 => "host6",
            Set::Subnet6 => "subnet6",
            Set::Net6 => "net6",
        }
    }

    fn is_v4(self) -> bool {
        matches!(self, Set::Host4 | Set::Net4)
    }

    fn is_ranges(self) -> bool {
        matches!(self, Set::Net4 | Set::Net6)
    }

    fn highest(self) -> u128 {
        if self.is_v4() { u128::from(u32::MAX) } else { u128::MAX }
    }

    fn key(self, n: u128) -> Vec<u8> {
        if self.is_v4() { (n as u32).to_be_bytes().to_vec() } else { n.to_be_bytes().to_vec() }
    }

    fn read(self, key: &[u8]) -> Option<u128> {
        Some(if self.is_v4() {
            u128::from(u32::from_be_bytes(key.try_into().ok()?))
        } else {
            u128::from_be_bytes(key.try_into().ok()?)
        })
    }

    /// The last address of an element of a hashed set.
    fn last(self, first: u128) -> u128 {
        if self == Set::Subnet6 { first | u128::from(u64::MAX) } else { first }
    }
}

impl Element {
    /// A single address or an IPv6 /64, which are hashed. `None` for any other prefix.
    #[must_use]
    pub fn exact(p: Prefix) -> Option<Element> {
        let set = match (p.is_v4(), p.is_host()) {
            (true, true) => Set::Host4,
            (false, true) => Set::Host6,
            (false, false) if p.bits() == 64 => Set::Subnet6,
            _ => return None,
        };
        Some(Element { set, first: p.first().bits(), last: p.last().bits() })
    }

    /// A range of one family. Ranges of a set must not overlap.
    #[must_use]
    pub fn range(v4: bool, first: u128, last: u128) -> Element {
        Element { set: if v4 { Set::Net4 } else { Set::Net6 }, first, last }
    }
}

/// Makes sure that the table could be kept: the kernel has nf_tables and lets this process change it.
///
/// # Errors
/// Why not.
pub fn ready() -> Result<(), NftError> {
    let mut nl = socket()?;
    let mut m = nl.messages();
    m.message(SUBSYSTEM << 8 | kind::GET_GEN, ACK, &head(0, 0));
    nl.ask(m.done(), &mut |_, _| {}).map(|_| ()).map_err(|e| refused("a question", e))
}

impl Table {
    /// Takes a table in hand; nothing is changed yet.
    ///
    /// # Errors
    /// Another gate has it, or the kernel does not let us.
    pub fn open(name: &str) -> Result<Table, NftError> {
        ready()?;
        // An abstract socket belongs to the network namespace, as the table does, and ends with the process.
        let mine = SocketAddr::from_abstract_name(format!("portcullis nftables {name}"))
            .and_then(|a| UnixListener::bind_addr(&a))
            .map_err(|e| match e.kind() {
                io::ErrorKind::AddrInUse => NftError::Taken(name.to_string()),
                _ => NftError::Refused { what: "a name of our own", why: e },
            })?;
        Ok(Table { nl: socket()?, name: name.to_string(), written: None, _mine: Some(mine) })
    }

    /// A table whose name another process holds. Any process of this machine can hold the name, so that it must not be
    /// what keeps a port open: for closing ports where no table stands, and for nothing else.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn of_another(name: &str) -> Result<Table, NftError> {
        ready()?;
        Ok(Table { nl: socket()?, name: name.to_string(), written: None, _mine: None })
    }

    /// Begins to hear of others' changes.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub fn watch(&self) -> Result<Watch, NftError> {
        let what = "to say what others change";
        let listening = Netlink::open(Some(NETFILTER), GROUP).map_err(|e| refused(what, e))?;
        let own = self.nl.port().map_err(|e| refused(what, e))?;
        // SAFETY: an `OwnedFd` is open for as long as it lives and always says the same number; `Watch` gives it to
        // nobody who could close it.
        #[expect(unsafe_code, reason = "tokio wants the promise that the descriptor stays the same one")]
        let fd = unsafe { AsyncFd::register(OwnedFd::from(listening)) }.map_err(|e| refused(what, e.into()))?;
        Ok(Watch { fd, name: self.name.clone(), own, foreign: false })
    }

    /// The kernel's count of changes to any table, anybody's.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn generation(&mut self) -> Result<u32, NftError> {
        let mut m = self.nl.messages();
        m.message(SUBSYSTEM << 8 | kind::GET_GEN, ACK, &head(0, 0));
        let mut generation = None;
        let mut each = |_: u16, body: &[u8]| generation = generation.or(Attributes::after(body, 4).number(1));
        self.nl.ask(m.done(), &mut each).map_err(|e| refused("a question", e))?;
        Ok(generation.unwrap_or(0))
    }

    /// Reads what is there. `None`: there is no such table.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&mut self) -> Result<Option<There>, NftError> {
        let Some(shape) = self.shape()? else { return Ok(None) };
        let frame = shape.is_whole();
        let mut there = There { rules: false, frame, ports: BTreeSet::new(), elements: BTreeMap::new() };
        if !there.frame {
            return Ok(Some(there));
        }
        let rules = self.rules()?;
        there.rules = self.written.as_ref() == Some(&rules) && !shape.dormant;
        for transport in Transport::ALL {
            for RawElement { key, .. } in self.elements(ports_of(transport))? {
                let number = key.try_into().ok().map(u16::from_be_bytes);
                there.ports.extend(number.map(|number| Port { transport, number }));
            }
        }
        for set in Set::ALL {
            let read = self.elements(set.name())?;
            if set.is_ranges() {
                ranges(set, &read, &mut there.elements);
            } else {
                for RawElement { key, left, .. } in &read {
                    let Some(first) = set.read(key) else { continue };
                    there.elements.insert(Element { set, first, last: set.last(first) }, *left);
                }
            }
        }
        Ok(Some(there))
    }

    /// `None`: there is no such table.
    fn shape(&mut self) -> Result<Option<Shape>, NftError> {
        let mut m = self.nl.messages();
        m.message(SUBSYSTEM << 8 | kind::GET_TABLE, ACK, &head(INET, 0)).text(1, &self.name);
        let mut flags = None;
        let mut each = |_: u16, body: &[u8]| flags = flags.or(Attributes::after(body, 4).number(2));
        match self.nl.ask(m.done(), &mut each) {
            Err(e) if is(&e, Errno::NOENT) => return Ok(None),
            other => other.map_err(|e| refused("to show the table", e))?,
        };
        let sets = self.dump(kind::GET_SET, None, |a| {
            Some((a.text(2)?.to_string(), (a.number(3).unwrap_or(0), a.number(5).unwrap_or(0))))
        })?;
        let mut chains = self.dump(kind::GET_CHAIN, None, |a| a.text(3).map(str::to_string))?;
        chains.sort();
        Ok(Some(Shape { sets: sets.into_iter().collect(), chains, dormant: flags.unwrap_or(0) & DORMANT != 0 }))
    }

    /// Whether the table is there. A table that somebody else made is an error, unless this process wrote it since.
    fn ours(&mut self) -> Result<bool, NftError> {
        match self.shape()? {
            Some(shape) if self.written.is_none() && !shape.is_ours() => Err(NftError::Foreign(self.name.clone())),
            there => Ok(there.is_some()),
        }
    }

    /// Applies changes: in one transaction if the kernel takes it in one, which it does for some thousand elements
    /// everywhere, and for any number with CAP_NET_ADMIN over the whole machine. True if it was one.
    ///
    /// # Errors
    /// Refused; then the transaction that was refused changed nothing. [`NftError::Foreign`]; then nothing changed.
    pub fn apply(&mut self, ground: Ground, changes: &Changes) -> Result<bool, NftError> {
        if ground == Ground::Anew {
            self.ours()?;
        }
        let mut batch = Batch::begin(&self.nl, &self.name);
        match ground {
            Ground::Stands => {}
            Ground::Rules => {
                batch.wake();
                batch.rules();
            }
            Ground::Anew => {
                // Made, so that it can be deleted, so that it is empty.
                batch.table();
                batch.message(kind::DEL_TABLE, 0);
                batch.table();
                batch.sets();
                batch.rules();
            }
        }
        let port = |p: &Port| Row::of(ports_of(p.transport), p.number.to_be_bytes().to_vec(), 0, None);
        let mut one = true;
        // First what goes: a range that becomes a smaller one would meet itself.
        one &= self.rows(&mut batch, kind::DEL_ELEMENT, by_set(&changes.close).map(port))?;
        for set in Set::ALL {
            let rows = changes.remove.iter().filter(|e| e.set == set).flat_map(|e| Row::both(*e, None));
            one &= self.rows(&mut batch, kind::DEL_ELEMENT, rows)?;
        }
        for set in Set::ALL {
            let rows = changes.add.iter().filter(|(e, _)| e.set == set);
            one &= self.rows(&mut batch, kind::NEW_ELEMENT, rows.flat_map(|(e, left)| Row::both(*e, *left)))?;
        }
        // Last, so that with many elements nobody who may come stands before a guard that does not know him yet.
        one &= self.rows(&mut batch, kind::NEW_ELEMENT, by_set(&changes.open).map(port))?;
        batch.send(&mut self.nl)?;
        if ground != Ground::Stands {
            self.written = Some(self.rules()?);
        }
        Ok(one)
    }

    /// Adds elements to a batch; a full one is sent and a new one begun. True if none had to be.
    fn rows(&mut self, batch: &mut Batch, verb: u16, rows: impl Iterator<Item = Row>) -> Result<bool, NftError> {
        let mut one = true;
        let mut rows = rows.peekable();
        while let Some(first) = rows.peek() {
            let set = first.set;
            if batch.out.len() + LIST_ROOM + 1_024 > self.nl.room && batch.used {
                one = false;
                std::mem::replace(batch, Batch::begin(&self.nl, &self.name)).send(&mut self.nl)?;
            }
            let room = LIST_ROOM.min(self.nl.room.saturating_sub(4_096));
            batch.message(verb, CREATE).text(2, set).nest(3, |m| {
                let from = m.len();
                // The two ends of a range stay together.
                while m.len() - from < room
                    && let Some(row) = rows.next_if(|r| r.set == set)
                {
                    row.write(m);
                    if let Some(end) = rows.next_if(|r| r.flags == RANGE_END) {
                        end.write(m);
                    }
                }
            });
        }
        Ok(one)
    }

    /// Takes the table away: nothing is guarded any more. False if there is none.
    ///
    /// # Errors
    /// No gate made it, or the kernel does not let us.
    pub fn delete(&mut self) -> Result<bool, NftError> {
        if !self.ours()? {
            return Ok(false);
        }
        let mut batch = Batch::begin(&self.nl, &self.name);
        batch.message(kind::DEL_TABLE, 0);
        batch.send(&mut self.nl)?;
        self.written = None;
        Ok(true)
    }

    fn dump<T>(
        &mut self,
        what: u16,
        set: Option<&str>,
        read: impl Fn(Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NftError> {
        let name = self.name.clone();
        let listed = self.nl.list(
            |mut m| {
                let m1 = m.message(SUBSYSTEM << 8 | what, DUMP, &head(INET, 0)).text(1, &name);
                if let Some(set) = set {
                    m1.text(2, set);
                }
                m.done()
            },
            |body| {
                let a = Attributes::after(body, 4);
                // Old kernels list every table's.
                (a.text(1) == Some(name.as_str())).then(|| read(a)).flatten()
            },
        );
        listed.map_err(|e| refused("to show the table", e))
    }

    /// The elements of a set, as the kernel keeps them.
    fn elements(&mut self, set: &str) -> Result<Vec<RawElement>, NftError> {
        let read = self.dump(kind::GET_ELEMENT, Some(set), |a| {
            let rows = a.within(3)?.filter_map(|(_, e)| {
                let e = Attributes(e);
                let left = e.get(5).and_then(|v| Some(u64::from_be_bytes(v.try_into().ok()?)));
                let key = e.within(1)?.get(1)?.to_vec();
                Some(RawElement { key, flags: e.number(3).unwrap_or(0), left: left.map(Duration::from_millis) })
            });
            Some(rows.collect::<Vec<_>>())
        })?;
        Ok(read.into_iter().flatten().collect())
    }

    /// Chains and rules, without what changes by itself (counters and the kernel's own numbers).
    fn rules(&mut self) -> Result<Vec<u8>, NftError> {
        let mut out = Vec::new();
        let chains = self.dump(kind::GET_CHAIN, None, |a| Some(kept(a, &[3, 4, 5, 7])))?;
        let rules = self.dump(kind::GET_RULE, None, |a| {
            let mut text = kept(a, &[2]);
            for (_, e) in a.within(4).into_iter().flatten() {
                let e = Attributes(e);
                text.extend_from_slice(e.get(1)?);
                if e.text(1) != Some("counter") {
                    text.extend_from_slice(e.get(2).unwrap_or_default());
                }
            }
            Some(text)
        })?;
        for part in chains.into_iter().chain(rules) {
            out.extend((part.len() as u32).to_ne_bytes());
            out.extend(part);
        }
        Ok(out)
    }
}

impl Watch {
    /// Ends when somebody else touched the table, or may have. May be given up and begun again.
    ///
    /// # Errors
    /// The kernel no longer says.
    pub async fn touched(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            let (name, own, foreign) = (&self.name, self.own, &mut self.foreign);
            let mut each = |sender: u32, kind: u16, body: &[u8]| {
                // Each message about a table, chain, rule, set or element names its table first.
                let named = Attributes::after(body, 4).text(1) == Some(name.as_str());
                *foreign |= sender != own && kind >> 8 == SUBSYSTEM && named;
            };
            match heard(self.fd.get_ref().as_fd(), &mut each) {
                Ok(Some(())) => {}
                Ok(None) => self.foreign = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    // All that waited is read: one look answers it.
                    if std::mem::take(&mut self.foreign) {
                        return Ok(());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// An element of a set as the kernel lists it; of a range, one of its two ends.
struct RawElement {
    key: Vec<u8>,
    flags: u32,
    /// Until the kernel drops it; never, if `None`.
    left: Option<Duration>,
}

/// Puts the ends of a tree's ranges together.
fn ranges(set: Set, read: &[RawElement], out: &mut BTreeMap<Element, Option<Duration>>) {
    let mut points: Vec<(u128, bool, Option<Duration>)> =
        read.iter().filter_map(|e| Some((set.read(&e.key)?, e.flags & RANGE_END == 0, e.left))).collect();
    // An end stands before the beginning of its neighbour.
    points.sort_unstable_by_key(|(at, begins, _)| (*at, *begins));
    let mut open: Option<(u128, Option<Duration>)> = None;
    let mut close = |open: &mut Option<(u128, Option<Duration>)>, last: u128| {
        if let Some((first, left)) = open.take() {
            out.insert(Element { set, first, last }, left);
        }
    };
    for (at, begins, left) in points {
        close(&mut open, at.saturating_sub(1));
        if begins {
            open = Some((at, left));
        }
    }
    close(&mut open, set.highest());
}

fn kept(a: Attributes<'_>, kinds: &[u16]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, value) in a.filter(|(k, _)| kinds.contains(k)) {
        out.extend(kind.to_ne_bytes());
        out.extend(value);
    }
    out
}

/// `nfgenmsg`: family, version 0, subsystem of a batch.
fn head(family: u8, subsystem: u16) -> [u8; 4] {
    let [a, b] = subsystem.to_be_bytes();
    [family, 0, a, b]
}

fn socket() -> Result<Netlink, NftError> {
    Netlink::open(Some(NETFILTER), 0).map_err(|e| match Errno::from_io_error(&e) {
        Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => NftError::Missing,
        _ => refused("a socket", e),
    })
}

fn refused(what: &'static str, why: io::Error) -> NftError {
    match Errno::from_io_error(&why) {
        Some(Errno::PERM | Errno::ACCESS) => NftError::NotPermitted,
        _ => NftError::Refused { what, why },
    }
}

fn is(e: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(e) == Some(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_addresses_are_hashed() {
        for (text, set) in [
            ("192.0.2.1", Some(Set::Host4)),
            ("::ffff:192.0.2.1", Some(Set::Host4)),
            ("192.0.2.0/31", None),
            ("2001:db8::1", Some(Set::Host6)),
            ("2001:db8::/64", Some(Set::Subnet6)),
            ("2001:db8::/65", None),
            ("2001:db8::/48", None),
            ("0.0.0.0/0", None),
        ] {
            assert_eq!(Element::exact(text.parse().unwrap()).map(|e| e.set), set, "{text}");
        }
    }

    #[test]
    fn ends_find_their_beginnings() {
        let point = |n: u32, flags| RawElement { key: n.to_be_bytes().to_vec(), flags, left: None };
        let mut out = BTreeMap::new();
        // As a kernel lists them: backwards, neighbours that touch, one without an end, an end that leads nowhere.
        let read =
            [point(90, 0), point(20, RANGE_END), point(20, 0), point(10, 0), point(30, RANGE_END), point(0, RANGE_END)];
        ranges(Set::Net4, &read, &mut out);
        let got: Vec<(u128, u128)> = out.keys().map(|e| (e.first, e.last)).collect();
        assert_eq!(got, [(10, 19), (20, 29), (90, u128::from(u32::MAX))]);
    }
}
