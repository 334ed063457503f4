//! The packet filter of a node: may this packet come in? In: the rules a node was told, the addresses it answers for,
//! packets. Out: a verdict with its reason. Pure; the shell reads packets and does what the verdict says.
//!
//! What it follows is the documented behaviour of the mesh's clients: destinations must be the node's own or routed by
//! it; TCP is judged by its first packet; UDP and SCTP may answer what went out; ICMP comes along with anything open.
//!
//! A rule is a row of bits in three tables, by source, by destination, by port. A packet picks one row in each; a bit
//! that all three have is a rule that lets it in. So the time hardly depends on the number of rules.

use std::collections::{BTreeMap, VecDeque};

use addr::{Addr, AddrRange, AddrSet, Prefix};
use tailnet_proto::tailcfg::FilterRule;

/// Flows that are remembered so that answers come in: the clients' own number.
const MAX_FLOWS: usize = 512;

/// Protocols a rule without any means: TCP, UDP, ICMP and ICMPv6 (tailcfg, `FilterRule.IPProto`).
const DEFAULT_PROTOS: [u8; 4] = [6, 17, 1, 58];

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

/// What of a packet decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol number.
    pub proto: u8,
    /// Source port; 0 where there is none.
    pub src_port: u16,
    /// Destination port; 0 where there is none.
    pub dst_port: u16,
    /// What kind of packet it is within its protocol.
    pub kind: PacketKind,
}

/// The kinds of packet that are judged differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PacketKind {
    /// Nothing special.
    Plain,
    /// TCP: asks for a connection (SYN without ACK).
    TcpSyn,
    /// ICMP: an answer to an echo, or an error message.
    IcmpAnswer,
    /// A later fragment, which carries no ports; the first one was judged.
    Fragment,
}

/// Why a packet passes or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A rule lets it in.
    Rule,
    /// It belongs to a TCP connection whose first packet was judged.
    Established,
    /// It answers what went out.
    Answer,
    /// It is a later fragment.
    Fragment,
    /// The destination is not this node's and not routed by it.
    NotLocal,
    /// No rule lets it in.
    NoRule,
}

/// The filter of one node. Rebuilt when its rules change; the flows move over.
#[derive(Debug, Default)]
pub struct PacketFilter {
    local: AddrSet,
    src: Table,
    dst: Table,
    ports: BTreeMap<u8, Ports>,
    flows: Flows,
}

/// Rules by port, under one protocol.
#[derive(Debug, Default)]
struct Ports {
    stretches: Stretches,
    store: Rows,
    /// Rules that open every port: for protocols without ports.
    all: u32,
}

/// Rules by address: disjoint stretches of addresses, each with a row.
#[derive(Debug, Default)]
struct Table {
    v4: Stretches,
    /// IPv6 by binary search: its addresses share too many leading bytes for tables.
    v6: Vec<u128>,
    v6_rows: Vec<u32>,
    store: Rows,
}

/// Stretches of keys of 16 or 32 bits, found byte by byte where many begin, and by a walk over the few where not.
#[derive(Debug, Default)]
struct Stretches {
    starts: Vec<u32>,
    rows: Vec<u32>,
    /// Tables of 256 slots, one for each value of a byte; the first is for the highest byte.
    slots: Vec<Slot>,
    /// Bits below the highest byte: 24 for addresses, 8 for ports.
    shift: u32,
}

/// What is known of the keys that begin with some bytes.
#[derive(Debug, Default, Clone, Copy)]
struct Slot {
    /// The stretch that holds the first of them; or, with `len` being `TABLE`, the table for the next byte.
    at: u32,
    /// Stretches that begin after that among them.
    len: u32,
}

/// Marks a slot that leads to a table.
const TABLE: u32 = u32::MAX;

/// So many starts are walked over: they lie in one or two lines of the cache.
const WALK: usize = 8;

/// A set of rules: the words of bits that are not zero, in order; and all words, where many are not.
#[derive(Debug, Default, Clone, Copy)]
struct Row<'r> {
    words: &'r [(u32, u64)],
    dense: &'r [u64],
}

/// Rows, each different one once, one behind the other so that a look-up touches little memory.
#[derive(Debug, Default)]
struct Rows {
    spans: Vec<Span>,
    words: Vec<(u32, u64)>,
    dense: Vec<u64>,
    /// Words of a dense row.
    width: usize,
}

/// Where a row lies.
#[derive(Debug, Clone, Copy)]
struct Span {
    at: u32,
    len: u32,
    /// Place among the dense rows, or `SPARSE`.
    dense: u32,
}

/// Marks a row that is not dense.
const SPARSE: u32 = u32::MAX;

/// Flows that went out, the newest last.
#[derive(Debug, Default)]
struct Flows {
    known: BTreeMap<Flow, u64>,
    order: VecDeque<(u64, Flow)>,
    next: u64,
}

type Flow = (u8, Addr, u16, Addr, u16);

impl Reason {
    /// True if the packet passes.
    #[must_use]
    pub fn passes(self) -> bool {
        !matches!(self, Reason::NotLocal | Reason::NoRule)
    }
}

impl PacketFilter {
    /// Builds a filter. `local` is what the node answers for: its addresses and the routes it advertises. Texts in rules
    /// that are no addresses let nobody in: the filter never opens more than it understands.
    #[must_use]
    pub fn new(rules: &[FilterRule], local: impl IntoIterator<Item = Prefix>) -> PacketFilter {
        /// Place of the sources, destination, first and last port, protocols.
        type Entry = (usize, Vec<AddrRange>, u16, u16, Vec<u8>);
        let mut entries: Vec<Entry> = Vec::new();
        let mut sources: Vec<Vec<AddrRange>> = Vec::new();
        for rule in rules {
            let src: Vec<AddrRange> = rule.src_ips.iter().flat_map(|t| read_ranges(t)).collect();
            if src.is_empty() {
                continue;
            }
            sources.push(src);
            let protos = if rule.ip_proto.is_empty() { DEFAULT_PROTOS.to_vec() } else { rule.ip_proto.clone() };
            for d in &rule.dst_ports {
                let to = read_ranges(&d.ip);
                if !to.is_empty() {
                    entries.push((sources.len() - 1, to, d.ports.first, d.ports.last, protos.clone()));
                }
            }
        }
        let width = entries.len();
        let src =
            Table::new(width, entries.iter().enumerate().flat_map(|(i, e)| sources[e.0].iter().map(move |r| (*r, i))));
        let dst = Table::new(width, entries.iter().enumerate().flat_map(|(i, e)| e.1.iter().map(move |r| (*r, i))));
        let mut by_proto: BTreeMap<u8, Vec<(u16, u16, usize)>> = BTreeMap::new();
        for (i, (_, _, first, last, protos)) in entries.iter().enumerate() {
            for p in protos {
                by_proto.entry(*p).or_default().push((*first, *last, i));
            }
        }
        let ports = by_proto.into_iter().map(|(p, list)| (p, Ports::new(width, &list))).collect();
        PacketFilter { local: AddrSet::new(local), src, dst, ports, flows: Flows::default() }
    }

    /// The same rules afresh, with the flows of the filter before: a change of rules cuts no answer.
    #[must_use]
    pub fn after(mut self, before: PacketFilter) -> PacketFilter {
        self.flows = before.flows;
        self
    }

    /// Remembers what goes out, so that its answer comes in. Only UDP and SCTP need it.
    pub fn outgoing(&mut self, p: &Packet) {
        if matches!(p.proto, UDP | SCTP) {
            self.flows.remember((p.proto, p.dst, p.dst_port, p.src, p.src_port));
        }
    }

    /// Judges a packet that wants to come in.
    #[must_use]
    pub fn incoming(&self, p: &Packet) -> Reason {
        if !self.local.contains(p.dst) {
            return Reason::NotLocal;
        }
        match (p.proto, p.kind) {
            (_, PacketKind::Fragment) => Reason::Fragment,
            (TCP, PacketKind::TcpSyn) => self.rule(p),
            (TCP, _) => Reason::Established,
            (ICMP | ICMP6, PacketKind::IcmpAnswer) => Reason::Answer,
            // Whoever may reach anything at an address may also ask whether it is there.
            (ICMP | ICMP6, _) => judged(self.any_port(p)),
            (UDP | SCTP, _) if self.flows.knows((p.proto, p.src, p.src_port, p.dst, p.dst_port)) => Reason::Answer,
            (UDP | SCTP, _) => self.rule(p),
            _ => judged(self.every_port(p)),
        }
    }

    fn rule(&self, p: &Packet) -> Reason {
        let Some(ports) = self.ports.get(&p.proto) else { return Reason::NoRule };
        let Some((src, dst)) = self.rows(p) else { return Reason::NoRule };
        let port = ports.row(p.dst_port);
        judged(port.is_some_and(|port| meet(src, dst, port)))
    }

    fn any_port(&self, p: &Packet) -> bool {
        self.rows(p).is_some_and(|(src, dst)| meet(src, dst, dst))
    }

    fn every_port(&self, p: &Packet) -> bool {
        let Some(ports) = self.ports.get(&p.proto) else { return false };
        self.rows(p).is_some_and(|(src, dst)| meet(src, dst, ports.store.get(ports.all)))
    }

    fn rows(&self, p: &Packet) -> Option<(Row<'_>, Row<'_>)> {
        Some((self.src.row(p.src)?, self.dst.row(p.dst)?))
    }
}

fn judged(passes: bool) -> Reason {
    if passes { Reason::Rule } else { Reason::NoRule }
}

/// `*`, an address, a prefix, `first-last`; anything else is nothing.
fn read_ranges(text: &str) -> Vec<AddrRange> {
    if text == "*" {
        return vec![Prefix::ALL_V4.range(), Prefix::ALL_V6.range()];
    }
    let range = match text.split_once('-') {
        Some((a, b)) => a.parse().ok().zip(b.parse().ok()).and_then(|(a, b)| AddrRange::new(a, b)),
        None => text.parse::<Prefix>().ok().map(Prefix::range),
    };
    range.into_iter().collect()
}

/// True if a rule is in all three rows. Walks the row with the fewest words.
fn meet(a: Row<'_>, b: Row<'_>, c: Row<'_>) -> bool {
    let (short, x, y) = if a.words.len() <= b.words.len() && a.words.len() <= c.words.len() {
        (a, b, c)
    } else if b.words.len() <= c.words.len() {
        (b, a, c)
    } else {
        (c, a, b)
    };
    short.words.iter().any(|(i, word)| word & x.word(*i) & y.word(*i) != 0)
}

impl Row<'_> {
    #[inline]
    fn word(self, i: u32) -> u64 {
        if let Some(w) = self.dense.get(i as usize) {
            return *w;
        }
        self.words.binary_search_by_key(&i, |(n, _)| *n).map_or(0, |at| self.words[at].1)
    }
}

impl Rows {
    #[inline]
    fn get(&self, row: u32) -> Row<'_> {
        let Some(s) = self.spans.get(row as usize) else { return Row::default() };
        let words = self.words.get(s.at as usize..(s.at + s.len) as usize).unwrap_or_default();
        let dense = match s.dense {
            SPARSE => &[],
            i => self.dense.get(i as usize * self.width..(i as usize + 1) * self.width).unwrap_or_default(),
        };
        Row { words, dense }
    }
}

/// The words of a set of rules.
fn words(bits: &BTreeMap<usize, u32>) -> Vec<(u32, u64)> {
    let mut out: Vec<(u32, u64)> = Vec::new();
    for i in bits.keys() {
        let (word, bit) = ((i / 64) as u32, 1u64 << (i % 64));
        match out.last_mut() {
            Some((w, bits)) if *w == word => *bits |= bit,
            _ => out.push((word, bit)),
        }
    }
    out
}

impl Table {
    fn new(width: usize, ranges: impl Iterator<Item = (AddrRange, usize)>) -> Table {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (r, i) in ranges {
            let list = if r.first().is_v4() { &mut v4 } else { &mut v6 };
            list.push((r.first().bits(), r.last().bits(), i));
        }
        let mut store = Store::new(width);
        let (starts4, rows4) = sweep(u128::from(u32::MAX), &v4, &mut store);
        let (starts6, rows6) = sweep(u128::MAX, &v6, &mut store);
        Table { v4: Stretches::new(&starts4, rows4, 24), v6: starts6, v6_rows: rows6, store: store.rows }
    }

    #[inline]
    fn row(&self, addr: Addr) -> Option<Row<'_>> {
        let bits = addr.bits();
        let row = if addr.is_v4() {
            self.v4.find(bits as u32)?
        } else {
            *self.v6_rows.get(self.v6.partition_point(|s| *s <= bits).checked_sub(1)?)?
        };
        Some(self.store.get(row))
    }
}

impl Stretches {
    /// `starts` in order, the first being 0.
    fn new(starts: &[u128], rows: Vec<u32>, shift: u32) -> Stretches {
        let starts = starts.iter().map(|s| *s as u32).collect();
        let mut out = Stretches { starts, rows, slots: Vec::new(), shift };
        out.table(0, shift);
        out
    }

    /// Enters the table of the byte at `shift` for keys from `base` on, and says where it is.
    fn table(&mut self, base: u64, shift: u32) -> u32 {
        let at = self.slots.len();
        self.slots.resize(at + 256, Slot::default());
        for byte in 0..256u64 {
            let first = base + (byte << shift);
            let next = first + (1 << shift);
            let from = self.starts.partition_point(|s| u64::from(*s) <= first);
            let len = self.starts[from..].partition_point(|s| u64::from(*s) < next);
            self.slots[at + byte as usize] = if len > WALK && shift > 0 {
                Slot { at: self.table(first, shift - 8), len: TABLE }
            } else {
                Slot { at: from.saturating_sub(1) as u32, len: len as u32 }
            };
        }
        at as u32
    }

    #[inline]
    fn find(&self, key: u32) -> Option<u32> {
        let (mut table, mut shift) = (0, self.shift);
        loop {
            let slot = self.slots.get(table + (key >> shift & 0xff) as usize)?;
            if slot.len == TABLE {
                table = slot.at as usize;
                shift -= 8;
                continue;
            }
            let (at, len) = (slot.at as usize, slot.len as usize);
            let later = self.starts.get(at + 1..at + 1 + len)?.iter().filter(|s| **s <= key).count();
            return self.rows.get(at + later).copied();
        }
    }
}

impl Ports {
    fn new(width: usize, list: &[(u16, u16, usize)]) -> Ports {
        let ranges: Vec<(u128, u128, usize)> =
            list.iter().map(|(a, b, i)| (u128::from(*a), u128::from(*b), *i)).collect();
        let mut store = Store::new(width);
        let (starts, rows) = sweep(u128::from(u16::MAX), &ranges, &mut store);
        let all = list.iter().filter(|(a, b, _)| *a == 0 && *b == u16::MAX).map(|(_, _, i)| (*i, 1)).collect();
        let all = store.place(words(&all));
        Ports { stretches: Stretches::new(&starts, rows, 8), store: store.rows, all }
    }

    #[inline]
    fn row(&self, port: u16) -> Option<Row<'_>> {
        Some(self.store.get(self.stretches.find(u32::from(port))?))
    }
}

/// Collects rows while a table is built.
struct Store {
    rows: Rows,
    known: BTreeMap<Vec<(u32, u64)>, u32>,
}

impl Store {
    fn new(width: usize) -> Store {
        Store { rows: Rows { width: width.div_ceil(64), ..Rows::default() }, known: BTreeMap::new() }
    }

    fn place(&mut self, words: Vec<(u32, u64)>) -> u32 {
        if let Some(i) = self.known.get(&words) {
            return *i;
        }
        let r = &mut self.rows;
        let mut dense = SPARSE;
        // From an eighth on, finding a word by its number costs less than searching for it.
        if words.len() * 8 >= r.width && r.width > 0 {
            let from = r.dense.len();
            dense = (from / r.width) as u32;
            r.dense.resize(from + r.width, 0);
            for (i, w) in &words {
                r.dense[from + *i as usize] = *w;
            }
        }
        r.spans.push(Span { at: r.words.len() as u32, len: words.len() as u32, dense });
        r.words.extend_from_slice(&words);
        let i = (r.spans.len() - 1) as u32;
        self.known.insert(words, i);
        i
    }
}

/// Cuts ranges into disjoint stretches, each with the rules that hold there. `top` is the highest key there is.
fn sweep(top: u128, ranges: &[(u128, u128, usize)], store: &mut Store) -> (Vec<u128>, Vec<u32>) {
    let mut events: Vec<(u128, bool, usize)> = Vec::with_capacity(ranges.len() * 2);
    for (first, last, i) in ranges {
        events.push((*first, true, *i));
        if *last < top {
            let after = last + 1;
            events.push((after, false, *i));
        }
    }
    events.sort_unstable();
    let mut open: BTreeMap<usize, u32> = BTreeMap::new();
    let (mut starts, mut rows) = (vec![0], vec![store.place(Vec::new())]);
    let mut at = 0;
    while at < events.len() {
        let here = events[at].0;
        while let Some((_, begins, i)) = events.get(at).filter(|e| e.0 == here) {
            if *begins {
                *open.entry(*i).or_default() += 1;
            } else if let Some(n) = open.get_mut(i) {
                *n -= 1;
                if *n == 0 {
                    open.remove(i);
                }
            }
            at += 1;
        }
        let row = store.place(words(&open));
        if starts.last() == Some(&here) {
            rows.pop();
            starts.pop();
        }
        starts.push(here);
        rows.push(row);
    }
    (starts, rows)
}

impl Flows {
    fn remember(&mut self, flow: Flow) {
        self.next += 1;
        self.known.insert(flow, self.next);
        self.order.push_back((self.next, flow));
        // Old entries of a flow that was seen again are skipped here and dropped when their turn comes.
        while self.known.len() > MAX_FLOWS || self.order.len() > MAX_FLOWS * 4 {
            let Some((age, flow)) = self.order.pop_front() else { return };
            if self.known.get(&flow) == Some(&age) {
                self.known.remove(&flow);
            }
        }
    }

    fn knows(&self, flow: Flow) -> bool {
        self.known.contains_key(&flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailnet_proto::tailcfg::{NetPortRange, PortRange};

    fn rule(src: &[&str], dst: &[(&str, u16, u16)], proto: &[u8]) -> FilterRule {
        FilterRule {
            src_ips: src.iter().map(|s| (*s).to_string()).collect(),
            dst_ports: dst
                .iter()
                .map(|(ip, first, last)| NetPortRange {
                    ip: (*ip).to_string(),
                    ports: PortRange { first: *first, last: *last },
                })
                .collect(),
            ip_proto: proto.to_vec(),
            cap_grant: Vec::new(),
        }
    }

    fn packet(src: &str, dst: &str, proto: u8, port: u16, kind: PacketKind) -> Packet {
        Packet { src: src.parse().unwrap(), dst: dst.parse().unwrap(), proto, src_port: 40000, dst_port: port, kind }
    }

    fn filter() -> PacketFilter {
        let rules = [
            rule(&["100.64.0.2", "fd7a::2"], &[("100.64.0.1", 22, 22), ("fd7a::1", 22, 22)], &[]),
            rule(&["100.64.0.3-100.64.0.9"], &[("192.0.2.0/24", 80, 90)], &[6]),
            rule(&["*"], &[("100.64.0.1", 0, 65535)], &[47]),
            rule(&["255.255.255.0-255.255.255.255"], &[("100.64.0.1", 0, 65535)], &[]),
            rule(&["nonsense"], &[("*", 0, 65535)], &[]),
            rule(&["100.64.0.66"], &[("nonsense", 0, 65535)], &[]),
        ];
        PacketFilter::new(&rules, ["100.64.0.1/32", "fd7a::1/128", "192.0.2.0/24"].iter().map(|p| p.parse().unwrap()))
    }

    #[test]
    fn tcp_is_judged_by_its_first_packet() {
        let f = filter();
        assert_eq!(f.incoming(&packet("100.64.0.2", "100.64.0.1", TCP, 22, PacketKind::TcpSyn)), Reason::Rule);
        assert_eq!(f.incoming(&packet("fd7a::2", "fd7a::1", TCP, 22, PacketKind::TcpSyn)), Reason::Rule);
        assert_eq!(f.incoming(&packet("100.64.0.2", "100.64.0.1", TCP, 23, PacketKind::TcpSyn)), Reason::NoRule);
        assert_eq!(f.incoming(&packet("100.64.0.8", "100.64.0.1", TCP, 23, PacketKind::Plain)), Reason::Established);
        assert_eq!(f.incoming(&packet("100.64.0.9", "192.0.2.7", TCP, 90, PacketKind::TcpSyn)), Reason::Rule);
        assert_eq!(f.incoming(&packet("100.64.0.10", "192.0.2.7", TCP, 90, PacketKind::TcpSyn)), Reason::NoRule);
        for (src, port) in [("255.255.255.0", 0), ("255.255.255.255", 65535), ("255.255.255.7", 80)] {
            assert_eq!(
                f.incoming(&packet(src, "100.64.0.1", TCP, port, PacketKind::TcpSyn)),
                Reason::Rule,
                "the edges of the ranges"
            );
        }
    }

    #[test]
    fn only_what_the_node_answers_for() {
        let f = filter();
        assert_eq!(f.incoming(&packet("100.64.0.2", "10.0.0.1", TCP, 22, PacketKind::Plain)), Reason::NotLocal);
        assert_eq!(f.incoming(&packet("100.64.0.2", "10.0.0.1", UDP, 22, PacketKind::Fragment)), Reason::NotLocal);
    }

    #[test]
    fn udp_answers_come_back_until_they_are_forgotten() {
        let mut f = filter();
        let answer = packet("8.8.8.8", "100.64.0.1", UDP, 5000, PacketKind::Plain);
        assert_eq!(f.incoming(&answer), Reason::NoRule);
        f.outgoing(&Packet { src: answer.dst, dst: answer.src, src_port: 5000, dst_port: 40000, ..answer });
        assert_eq!(f.incoming(&answer), Reason::Answer);
        for port in 0..2000 {
            f.outgoing(&Packet { src: answer.dst, dst: answer.src, src_port: 6000, dst_port: port, ..answer });
        }
        assert_eq!(f.incoming(&answer), Reason::NoRule);
        assert!(f.flows.known.len() <= MAX_FLOWS && f.flows.order.len() <= MAX_FLOWS * 4);
    }

    #[test]
    fn icmp_comes_with_anything_open_and_others_need_every_port() {
        let f = filter();
        assert_eq!(f.incoming(&packet("100.64.0.2", "100.64.0.1", ICMP, 0, PacketKind::Plain)), Reason::Rule);
        assert_eq!(f.incoming(&packet("100.64.0.5", "192.0.2.1", ICMP, 0, PacketKind::Plain)), Reason::Rule);
        assert_eq!(f.incoming(&packet("100.64.0.2", "192.0.2.1", ICMP, 0, PacketKind::Plain)), Reason::NoRule);
        assert_eq!(f.incoming(&packet("9.9.9.9", "192.0.2.1", ICMP, 0, PacketKind::IcmpAnswer)), Reason::Answer);
        assert_eq!(f.incoming(&packet("9.9.9.9", "100.64.0.1", 47, 0, PacketKind::Plain)), Reason::Rule);
        assert_eq!(f.incoming(&packet("9.9.9.9", "100.64.0.1", 50, 0, PacketKind::Plain)), Reason::NoRule);
        assert_eq!(f.incoming(&packet("100.64.0.2", "100.64.0.1", 132, 22, PacketKind::Plain)), Reason::NoRule);
    }

    /// Tables by bytes find what a search in the whole list finds, at every edge.
    #[test]
    fn tables_find_what_a_search_finds() {
        let dense: Vec<u128> = (0..3000u128).map(|i| 0x6440_0000 + i * 3).collect();
        let wide: Vec<u128> = (1..200u128).map(|i| i * 0x0101_0000).collect();
        let mut starts: Vec<u128> =
            [0, 1, 0xff, 0x100, 0xffff_ffff, 0x0a00_0000].into_iter().chain(dense).chain(wide).collect();
        starts.sort_unstable();
        starts.dedup();
        let rows: Vec<u32> = (0..starts.len() as u32).collect();
        let found = Stretches::new(&starts, rows.clone(), 24);
        let near = |s: &u128| [s.saturating_sub(1), *s, (s + 1).min(u128::from(u32::MAX)), s ^ 0x80];
        for key in starts.iter().flat_map(near) {
            let want = starts.partition_point(|s| *s <= key) as u32 - 1;
            assert_eq!(found.find(key as u32), Some(want), "{key:x}");
        }
        let ports: Vec<u128> = (0..=0xffff).filter(|p| p % 7 < 2 || *p > 0xff00).collect();
        let found = Stretches::new(&ports, (0..ports.len() as u32).collect(), 8);
        for key in 0..=0xffffu32 {
            let want = ports.partition_point(|s| *s <= u128::from(key)) as u32 - 1;
            assert_eq!(found.find(key), Some(want), "{key}");
        }
    }

    #[test]
    fn an_empty_filter_lets_nothing_in() {
        let f = PacketFilter::new(&[], [Prefix::ALL_V4]);
        assert_eq!(f.incoming(&packet("1.2.3.4", "5.6.7.8", TCP, 80, PacketKind::TcpSyn)), Reason::NoRule);
        assert_eq!(
            PacketFilter::default().incoming(&packet("1.2.3.4", "5.6.7.8", TCP, 80, PacketKind::Plain)),
            Reason::NotLocal
        );
    }
}
