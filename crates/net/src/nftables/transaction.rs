//! What is written to the kernel. In: the table's name, ports, elements. Out: the messages of one transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use addr::{Port, Transport};

use super::*;
use crate::netlink::{ACK, APPEND, CREATE, Messages, Netlink};

/// An element as it is written.
pub(super) struct Row {
    pub(super) set: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) flags: u32,
    pub(super) left: Option<Duration>,
}

impl Row {
    pub(super) fn of(set: &'static str, key: Vec<u8>, flags: u32, left: Option<Duration>) -> Row {
        Row { set, key, flags, left }
    }

    /// An element of a tree is two: where it begins, and the first address past it, if there is one. The time belongs to
    /// the beginning; the end goes with it.
    pub(super) fn both(e: Element, left: Option<Duration>) -> impl Iterator<Item = Row> {
        let name = e.set.name();
        let past = (e.set.is_ranges() && e.last < e.set.highest())
            .then(|| Row::of(name, e.set.key(e.last.saturating_add(1)), RANGE_END, None));
        std::iter::once(Row::of(name, e.set.key(e.first), 0, left)).chain(past)
    }

    pub(super) fn write(&self, m: &mut Messages) {
        m.nest(1, |m| {
            m.nest(1, |m| {
                m.put(1, &self.key);
            });
            if self.flags != 0 {
                m.number(3, self.flags);
            }
            if let Some(left) = self.left {
                let ms = u64::try_from(left.clamp(Duration::from_millis(1), MAX_TIMEOUT).as_millis()).unwrap_or(1);
                m.put(4, &ms.to_be_bytes());
            }
        });
    }
}

/// A transaction being written.
pub(super) struct Batch {
    pub(super) out: Messages,
    pub(super) name: String,
    pub(super) used: bool,
}

impl Batch {
    pub(super) fn begin(nl: &Netlink, name: &str) -> Batch {
        let mut out = nl.messages();
        out.message(kind::BATCH_BEGIN, 0, &head(0, SUBSYSTEM));
        Batch { out, name: name.to_string(), used: false }
    }

    pub(super) fn message(&mut self, what: u16, flags: u16) -> &mut Messages {
        self.used = true;
        // Each is acknowledged: there are few of them, whatever number of elements they carry.
        self.out.message(SUBSYSTEM << 8 | what, flags | ACK, &head(INET, 0)).text(1, &self.name)
    }

    pub(super) fn send(mut self, nl: &mut Netlink) -> Result<(), NftError> {
        if !self.used {
            return Ok(());
        }
        self.out.message(kind::BATCH_END, 0, &head(0, SUBSYSTEM));
        nl.send(self.out.done()).map_err(|e| refused("the transaction", e))
    }

    pub(super) fn table(&mut self) {
        self.message(kind::NEW_TABLE, CREATE);
    }

    /// A table that is there sees packets.
    pub(super) fn wake(&mut self) {
        self.message(kind::NEW_TABLE, CREATE).number(2, 0);
    }

    pub(super) fn sets(&mut self) {
        for (id, (name, (flags, length))) in (1..).zip(shapes()) {
            // What `nft` shows the keys as: `ipv4_addr`, `ipv6_addr`, `inet_service`.
            let shown = match length {
                4 => 7,
                16 => 8,
                _ => 13,
            };
            let m = self.message(kind::NEW_SET, CREATE).text(2, &name);
            m.number(3, flags).number(4, shown).number(5, length).number(10, id);
        }
    }

    /// Both chains, emptied, then their rules.
    pub(super) fn rules(&mut self) {
        // Hook `prerouting`, priority `mangle`: before `dstnat`, after fragments are put together for those who track.
        self.message(kind::NEW_CHAIN, CREATE)
            .text(3, BEFORE)
            .nest(4, |m| {
                m.number(1, 0).put(2, &(-150i32).to_be_bytes());
            })
            .number(5, ACCEPT)
            .text(7, "filter");
        self.message(kind::NEW_CHAIN, CREATE).text(3, GUARD);
        for chain in [BEFORE, GUARD] {
            self.message(kind::DEL_RULE, 0).text(2, chain);
        }
        // This machine speaking to itself: `lo` is interface 1 in every network namespace.
        self.rule(BEFORE, |m| {
            meta(m, 4);
            compare(m, &1u32.to_ne_bytes());
            verdict(m, RETURN, None);
        });
        // On its way to another machine. Not "not local": broadcasts and anycasts arrive here too.
        self.rule(BEFORE, |m| {
            expression(m, "fib", |m| {
                m.number(1, 1).number(2, 3).number(3, 2);
            });
            compare(m, &1u32.to_ne_bytes());
            verdict(m, RETURN, None);
        });
        for transport in Transport::ALL {
            self.rule(BEFORE, |m| {
                meta(m, 16);
                compare(m, &[transport.protocol()]);
                payload(m, 2, 2, 2);
                lookup(m, ports_of(transport));
                verdict(m, JUMP, Some(GUARD));
            });
        }
        for set in Set::ALL {
            self.rule(GUARD, |m| {
                meta(m, 15);
                compare(m, &[if set.is_v4() { 2 } else { 10 }]);
                // Where the source stands in an IP header, and how long it is.
                let (at, length) = if set.is_v4() { (12, 4) } else { (8, 16) };
                payload(m, 1, at, length);
                if set == Set::Subnet6 {
                    expression(m, "bitwise", |m| {
                        m.number(1, 1).number(2, 1).number(3, 16);
                        m.nest(4, |m| {
                            m.put(1, &(!u128::from(u64::MAX)).to_be_bytes());
                        });
                        m.nest(5, |m| {
                            m.put(1, &[0; 16]);
                        });
                    });
                }
                lookup(m, set.name());
                verdict(m, RETURN, None);
            });
        }
        self.rule(GUARD, |m| {
            expression(m, "counter", |_| {});
            verdict(m, DROP, None);
        });
    }

    pub(super) fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Messages)) {
        self.message(kind::NEW_RULE, CREATE | APPEND).text(2, chain).nest(4, expressions);
    }
}

/// `NF_DROP`, `NF_ACCEPT`, `NFT_JUMP`, `NFT_RETURN`.
pub(super) const DROP: u32 = 0;
pub(super) const ACCEPT: u32 = 1;
pub(super) const JUMP: u32 = -3i32 as u32;
pub(super) const RETURN: u32 = -5i32 as u32;

pub(super) fn expression(m: &mut Messages, name: &str, data: impl FnOnce(&mut Messages)) {
    m.nest(1, |m| {
        m.text(1, name).nest(2, data);
    });
}

pub(super) fn meta(m: &mut Messages, key: u32) {
    expression(m, "meta", |m| {
        m.number(1, 1).number(2, key);
    });
}

/// Goes on only if register 1 is equal to this.
pub(super) fn compare(m: &mut Messages, value: &[u8]) {
    expression(m, "cmp", |m| {
        m.number(1, 1).number(2, 0).nest(3, |m| {
            m.put(1, value);
        });
    });
}

/// `base`: 1 the network header, 2 the transport header.
pub(super) fn payload(m: &mut Messages, base: u32, offset: u32, length: u32) {
    expression(m, "payload", |m| {
        m.number(1, 1).number(2, base).number(3, offset).number(4, length);
    });
}

pub(super) fn lookup(m: &mut Messages, set: &str) {
    expression(m, "lookup", |m| {
        m.text(1, set).number(2, 1);
    });
}

pub(super) fn verdict(m: &mut Messages, code: u32, chain: Option<&str>) {
    expression(m, "immediate", |m| {
        m.number(1, 0).nest(2, |m| {
            m.nest(2, |m| {
                m.number(1, code);
                if let Some(chain) = chain {
                    m.text(2, chain);
                }
            });
        });
    });
}

/// Each set's flags and length of key in bytes.
pub(super) fn shapes() -> BTreeMap<String, (u32, u32)> {
    let of = |s: Set| {
        let flags = if s.is_ranges() { INTERVAL | TIMEOUT } else { TIMEOUT };
        (s.name().to_string(), (flags, if s.is_v4() { 4 } else { 16 }))
    };
    let ports = Transport::ALL.map(|t| (ports_of(t).to_string(), (0, 2)));
    Set::ALL.into_iter().map(of).chain(ports).collect()
}

/// Ports of one set after those of the other, as a transaction takes them.
pub(super) fn by_set(ports: &[Port]) -> impl Iterator<Item = &Port> {
    Transport::ALL.into_iter().flat_map(move |t| ports.iter().filter(move |p| p.transport == t))
}
