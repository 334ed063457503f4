//! nftables: a table of our own in the kernel, over netlink. In: the list with its ends. Out: sets that are equal to
//! it, the difference only, and no live flow of anybody who left.
//!
//! The kernel takes entries out when their time is over, even if nobody else does. Others' changes to the table are
//! heard of at once and undone. The table stays when the gate stops: it then forgets by itself, and lets nobody new in.

use std::collections::BTreeSet;
use std::sync::Arc;

use addr::Port;

use super::Memory;
use crate::keeper::Published;

#[cfg(target_os = "linux")]
pub(super) use linux::{State, close, guard};

/// Makes the table equal to the list. True if something was changed.
pub(super) async fn apply(
    now: &Arc<Published>,
    list: &str,
    ports: &BTreeSet<Port>,
    table: &str,
    memory: &mut Memory,
    look: bool,
) -> anyhow::Result<bool> {
    super::of(now, list)?;
    let clock = memory.now();
    let mut state = std::mem::take(&mut memory.nftables);
    let (now, list, ports, table) = (now.clone(), list.to_string(), ports.clone(), table.to_string());
    let work = tokio::task::spawn_blocking(move || {
        let done = state.make_equal(&now, &list, &ports, &table, clock, look);
        (state, done)
    });
    let (state, done) = work.await?;
    memory.nftables = state;
    memory.nftables.listen();
    done
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use access::learned::LearnedEntry;
    use access::publish::{Desired, later, stretches};
    use addr::{Addr, Port, Prefix};
    use anyhow::Context;
    use net::conntrack;
    use net::nftables::{Changes, Element, Ground, NftError, Table, There, Watch};
    use tracing::{info, warn};

    use crate::keeper::Published;
    use runtime::hint::Hinted;

    /// What is known of the table between two changes.
    #[derive(Debug, Default)]
    pub(in super::super) struct State {
        table: Option<Table>,
        watch: Option<Watch>,
        /// What the kernel has, as far as we know; `None`: it must be read.
        has: Option<Desired>,
        /// The kernel's generation when it was last as it should be.
        generation: Option<u32>,
        /// Somebody else changed the table since.
        touched: bool,
        said: bool,
    }

    /// Seconds by which an entry's end may be off: the kernel counts from when it was told, in its own ticks.
    const TOLERANCE: u64 = 2;
    /// The kernel refuses a change if an entry that it names ended this very moment: then what is there is read anew.
    const TRIES: usize = 3;

    /// Elements with their ends, seconds since the Unix epoch.
    type Elements = BTreeMap<Element, Option<u64>>;

    /// Closes the ports to everybody but these, unless the table stands already: what an earlier run left there is
    /// better than anything known before the store has been read. Returns the hands on it, which nobody else has
    /// meanwhile, and whether it was made.
    ///
    /// # Errors
    /// What is missing, and how to give it.
    pub(in super::super) fn close(
        table: &str,
        ports: &BTreeSet<Port>,
        statics: &[Prefix],
    ) -> anyhow::Result<(State, bool)> {
        let anew = |table: &mut Table| {
            let desired = Desired { statics: statics.to_vec(), ..Desired::default() };
            let add = elements(&desired).into_keys().map(|e| (e, None)).collect();
            table.apply(Ground::Anew, &Changes { open: ports.iter().copied().collect(), add, ..Changes::default() })
        };
        let make = || -> Result<(State, bool), NftError> {
            let mut table = match Table::open(table) {
                Err(NftError::Taken(name)) => {
                    // A gate that has the name keeps a table; where none stands, somebody else has it.
                    let mut table = Table::of_another(&name)?;
                    if table.read()?.is_none() {
                        anew(&mut table)?;
                    }
                    return Err(NftError::Taken(name));
                }
                other => other?,
            };
            if table.read()?.is_some_and(|there| there.frame && ports.is_subset(&there.ports)) {
                return Ok((State { table: Some(table), ..State::default() }, false));
            }
            anew(&mut table)?;
            Ok((State { table: Some(table), ..State::default() }, true))
        };
        make().map_err(|e| hinted(&e))
    }

    /// Makes the table equal to what is published before anything else runs, so that nothing that fails later leaves the
    /// ports open.
    ///
    /// # Errors
    /// The kernel does not let us.
    pub(in super::super) fn guard(
        state: &mut State,
        published: &Published,
        list: &str,
        ports: &BTreeSet<Port>,
        table: &str,
        now: u64,
    ) -> anyhow::Result<()> {
        state.make_equal(published, list, ports, table, now, true).map(drop)
    }

    fn hinted(e: &NftError) -> anyhow::Error {
        let hint = match e {
            NftError::NotPermitted => {
                "run it as root or give it that one right: `AmbientCapabilities=CAP_NET_ADMIN` in a systemd unit, `--cap-add NET_ADMIN --network host` in Docker"
            }
            NftError::Missing => "leave out --nft-ports, or use a kernel with nf_tables (Linux 5.2 or later)",
            NftError::Taken(_) => {
                "stop it (`ss -xlp` shows what holds that name), or give this one its own table with `--nft-table NAME`"
            }
            NftError::Refused { .. } => "see the message above; leave out --nft-ports to run without",
        };
        Hinted::error(format!("the ports of --nft-ports cannot be guarded: {e}"), hint)
    }

    impl State {
        /// Ends when somebody else touched the table.
        pub(in super::super) async fn touched(&mut self) {
            match &mut self.watch {
                Some(w) => {
                    let heard = w.touched().await;
                    self.touched = true;
                    if let Err(e) = heard {
                        warn!(
                            "the kernel no longer says what others change ({e}); the table is looked at now and then"
                        );
                        self.watch = None;
                    }
                }
                None => std::future::pending().await,
            }
        }

        /// Begins to hear of others' changes.
        pub(in super::super) fn listen(&mut self) {
            if let (Some(table), None) = (&self.table, &self.watch) {
                // Without it the table is still looked at now and then.
                self.watch = table.watch().ok();
            }
        }

        /// Makes the table equal to the list at this time (seconds since the Unix epoch).
        pub(in super::super) fn make_equal(
            &mut self,
            published: &Published,
            list: &str,
            ports: &BTreeSet<Port>,
            table: &str,
            now: u64,
            look: bool,
        ) -> anyhow::Result<bool> {
            let d = super::super::of(published, list)?;
            let mut tried = 0;
            let left = loop {
                tried += 1;
                match self.change(d, ports, table, now, look, tried == TRIES) {
                    Ok(left) => break left,
                    Err(e) => {
                        self.has = None;
                        self.generation = None;
                        if tried == TRIES || !matches!(e, NftError::Refused { .. }) {
                            return Err(e).context("the packet filter");
                        }
                    }
                }
            };
            if left == Left::Nobody {
                return Ok(false);
            }
            if left == Left::Some {
                let id = published.view.id(list);
                let set = id.and_then(|id| published.view.list(id)).map(|l| &l.set);
                match conntrack::cut(ports, |a: Addr| set.is_some_and(|s| s.contains(a))) {
                    Ok(0) => {}
                    Ok(n) => info!("{n} live flows of addresses that are not on `{list}` are cut"),
                    // Their packets are dropped all the same.
                    Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {}
                    Err(e) if !std::mem::replace(&mut self.said, true) => {
                        warn!("live flows of addresses that left can not be ended, only their packets dropped: {e}")
                    }
                    Err(_) => {}
                }
            }
            Ok(true)
        }

        /// One try. Says whether somebody left.
        fn change(
            &mut self,
            d: &Desired,
            ports: &BTreeSet<Port>,
            name: &str,
            now: u64,
            look: bool,
            anew: bool,
        ) -> Result<Left, NftError> {
            let table = match &mut self.table {
                Some(t) => t,
                none => none.insert(Table::open(name)?),
            };
            // Reading 100,000 entries takes the kernel half a second: only if there is a reason.
            let sure = match (&self.watch, look) {
                (Some(_), _) => !self.touched,
                (None, true) => self.generation.is_some_and(|g| table.generation().is_ok_and(|n| n == g)),
                (None, false) => true,
            };
            if let (Some(has), true) = (&self.has, sure) {
                let changes = quick(has, d).unwrap_or_else(|| differences(&elements(has), &elements(d), 0));
                return self.finish(Ground::Stands, changes, d, now);
            }
            self.touched = false;
            let there = table.read()?;
            let (ground, have, open) = match there {
                Some(There { frame: true, rules, ports, elements, .. }) if !anew => {
                    let have = elements.into_iter().map(|(e, left)| (e, left.map(|l| now.saturating_add(l.as_secs()))));
                    (if rules { Ground::Stands } else { Ground::Rules }, have.collect(), ports)
                }
                _ => (Ground::Anew, Elements::new(), BTreeSet::new()),
            };
            let mut changes = differences(&have, &elements(d), TOLERANCE);
            changes.ports = (open.difference(ports).copied().collect(), ports.difference(&open).copied().collect());
            let first = self.has.is_none();
            let left = self.finish(ground, changes, d, now)?;
            // Who left while nobody looked may still have a flow.
            Ok(if first || left == Left::Some || ground != Ground::Stands { Left::Some } else { left })
        }

        fn finish(&mut self, ground: Ground, d: Differences, desired: &Desired, now: u64) -> Result<Left, NftError> {
            let Some(table) = &mut self.table else { return Ok(Left::Nobody) };
            let nothing = d.remove.is_empty() && d.add.is_empty() && d.ports.0.is_empty() && d.ports.1.is_empty();
            let left = if d.left { Left::Some } else { Left::Others };
            if !nothing || ground != Ground::Stands {
                let add = d.add.into_iter().filter_map(|(e, end)| {
                    // What is over by now is not put in, however short.
                    let left = end.map(|end| end.saturating_sub(now));
                    (left != Some(0)).then_some((e, left.map(Duration::from_secs)))
                });
                let changes = Changes { close: d.ports.0, open: d.ports.1, remove: d.remove, add: add.collect() };
                table.apply(ground, &changes)?;
            }
            self.generation = table.generation().ok();
            self.has = Some(desired.clone());
            Ok(if nothing && ground == Ground::Stands { Left::Nobody } else { left })
        }
    }

    /// What came of a try.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Left {
        /// Nothing changed.
        Nobody,
        /// Somebody came or stayed longer.
        Others,
        /// Somebody left, or may have.
        Some,
    }

    #[derive(Debug, Default)]
    struct Differences {
        remove: Vec<Element>,
        add: Vec<(Element, Option<u64>)>,
        /// Something is removed for good.
        left: bool,
        /// Ports that go and that come.
        ports: (Vec<Port>, Vec<Port>),
    }

    /// Everything that the sets should hold.
    fn elements(d: &Desired) -> Elements {
        let all = || d.statics.iter().map(|p| (*p, None)).chain(d.learnt.iter());
        let mut out = Elements::new();
        for (p, end) in all() {
            if let Some(e) = Element::exact(p) {
                let end = out.get(&e).map_or(end, |o| later(*o, end));
                out.insert(e, end);
            }
        }
        let wide = stretches(all().filter(|(p, _)| Element::exact(*p).is_none()));
        out.extend(wide.into_iter().map(|s| (Element::range(s.v4, s.first, s.last), s.end)));
        out
    }

    /// The differences when only exact addresses changed, without a look at the others. `None`: not so.
    fn quick(has: &Desired, d: &Desired) -> Option<Differences> {
        if has.statics != d.statics {
            return None;
        }
        let mut out = Differences::default();
        let element =
            |l: LearnedEntry| -> Option<Element> { Element::exact(l.0).filter(|_| !d.statics.contains(&l.0)) };
        for c in has.learnt.changes(&d.learnt) {
            if let Some(before) = c.before {
                out.remove.push(element(before)?);
                out.left |= c.after.is_none_or(|a| a.0 != before.0);
            }
            if let Some(after) = c.after {
                out.add.push((element(after)?, after.1));
            }
        }
        Some(out)
    }

    fn differences(have: &Elements, want: &Elements, tolerance: u64) -> Differences {
        let mut out = Differences::default();
        let same = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => a.abs_diff(b) <= tolerance,
            (a, b) => a == b,
        };
        for (e, end) in have {
            match want.get(e) {
                Some(w) if same(*end, *w) => {}
                Some(w) => {
                    out.remove.push(*e);
                    out.add.push((*e, *w));
                }
                None => {
                    out.remove.push(*e);
                    out.left = true;
                }
            }
        }
        out.add.extend(want.iter().filter(|(e, _)| !have.contains_key(e)).map(|(e, end)| (*e, *end)));
        out
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::collections::BTreeSet;

    use addr::Port;

    use crate::keeper::Published;

    #[derive(Debug, Default)]
    pub(in super::super) struct State;

    pub(in super::super) fn close(_: &str, _: &BTreeSet<Port>, _: &[addr::Prefix]) -> anyhow::Result<(State, bool)> {
        Err(runtime::hint::Hinted::error("nftables is a part of Linux".to_string(), "leave out --nft-ports"))
    }

    pub(in super::super) fn guard(
        _: &mut State,
        _: &Published,
        _: &str,
        _: &BTreeSet<Port>,
        _: &str,
        _: u64,
    ) -> anyhow::Result<()> {
        anyhow::bail!("nftables is a part of Linux")
    }

    impl State {
        pub(in super::super) async fn touched(&mut self) {
            std::future::pending().await
        }

        pub(in super::super) fn listen(&mut self) {}

        pub(in super::super) fn make_equal(
            &mut self,
            _: &Published,
            _: &str,
            _: &BTreeSet<Port>,
            _: &str,
            _: u64,
            _: bool,
        ) -> anyhow::Result<bool> {
            anyhow::bail!("nftables is a part of Linux")
        }
    }
}
#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{State, close, guard};
