//! nftables: a table of our own in the kernel, over netlink. In: the list with its ends. Out: sets that are equal to
//! it, the difference only, and no live flow of anybody who left.
//!
//! The kernel takes entries out when their time is over, even if nobody else does. Others' changes to the table are
//! heard of at once and undone. The table stays when the gate stops: it then forgets by itself, and lets nobody new in.

mod elements;

use std::collections::BTreeSet;
use std::time::Duration;

use access::publish::Desired;
use addr::{Addr, Port};
use anyhow::Context;
use futures_util::future::{BoxFuture, FutureExt};
use net::conntrack;
use net::nftables::{Changes, Element, Ground, NftError, Table, There, Watch};
use runtime::hint::Hinted;
use tracing::{info, warn};

use super::ports::NftablesConfig;
use super::{Closed, Enforcer, Info, Opened, Reconciled, Snapshot, Wake};
use crate::ledger::Published;
use elements::{Differences, Elements, differences, elements, quick};

/// Seconds by which an entry's end may be off: the kernel counts from when it was told, in its own ticks.
const END_TOLERANCE: u64 = 2;
/// The kernel refuses a change if an entry that it names ended this very moment: then what is there is read anew.
const MAX_TRIES: usize = 3;

/// Ports that the kernel guards.
pub(super) struct Nftables {
    config: NftablesConfig,
    info: Info,
    state: State,
}

/// What is known of the table between two changes.
#[derive(Debug, Default)]
struct State {
    table: Option<Table>,
    watch: Option<Watch>,
    /// What the kernel has, as far as we know; `None`: it must be read.
    has: Option<Desired>,
    /// The kernel's generation when it was last as it should be.
    generation: Option<u32>,
    /// Somebody else changed the table since.
    foreign_change: bool,
    /// It was said that live flows of those who left cannot be closed.
    flows_stay: bool,
}

impl Nftables {
    pub(super) fn new(config: NftablesConfig) -> Nftables {
        let info = Info {
            name: format!("nftables inet {}", config.table),
            lists: vec![config.list.clone()],
            ..Info::default()
        };
        Nftables { config, info, state: State::default() }
    }

    async fn sync(&mut self, desired: &Snapshot, force: bool) -> anyhow::Result<Reconciled> {
        let list = desired.list(&self.config.list)?.clone();
        let (mut state, config) = (std::mem::take(&mut self.state), self.config.clone());
        let (published, now) = (desired.published.clone(), desired.now());
        let work = tokio::task::spawn_blocking(move || {
            let done = state.make_equal(&config, &published, &list, now, force);
            (state, done)
        });
        let (state, done) = work.await?;
        self.state = state;
        self.state.listen();
        Ok(Reconciled::now(done?))
    }
}

impl Enforcer for Nftables {
    fn info(&self) -> &Info {
        &self.info
    }

    /// What an earlier run left there is better than anything known before the store has been read. The table is kept
    /// open, so that nobody else has it meanwhile.
    fn close(&mut self, to_all_but: &Desired, now: u64) -> anyhow::Result<Closed> {
        let Nftables { config: NftablesConfig { table, ports, .. }, .. } = self;
        let (table, made) = close(table, ports, to_all_but, now).map_err(|e| hinted(&e))?;
        self.state.table = Some(table);
        Ok(if made { Closed::Made } else { Closed::Stood })
    }

    fn open(&mut self) -> anyhow::Result<Opened> {
        match Table::open(&self.config.table).and_then(|mut table| table.delete()) {
            Ok(was) => Ok(if was { Opened::Now } else { Opened::Before }),
            Err(NftError::Taken(_)) => Ok(Opened::Kept),
            Err(e @ NftError::Foreign(_)) => Err(Hinted::error(
                format!("nothing is opened: {e}"),
                "take it away by hand, `nft delete table inet NAME`",
            )),
            Err(e) => Err(hinted(&e)),
        }
    }

    fn guard(&mut self, desired: &Snapshot) -> anyhow::Result<()> {
        let list = desired.list(&self.config.list)?;
        self.state.make_equal(&self.config, &desired.published, list, desired.now(), true).map(drop)
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, force: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired, force).boxed()
    }

    fn idle(&mut self) -> BoxFuture<'_, anyhow::Result<Wake>> {
        async move {
            self.state.touched().await;
            Ok(Wake::ForeignChange)
        }
        .boxed()
    }
}

/// Closes the ports to everybody but these, unless the table stands already. Returns the table, and whether it was made.
fn close(table: &str, ports: &BTreeSet<Port>, d: &Desired, now: u64) -> Result<(Table, bool), NftError> {
    let anew = |table: &mut Table| {
        let add = elements(d).into_iter().filter_map(|(e, end)| lasting(e, end, now)).collect();
        table.apply(Ground::Anew, &Changes { open: ports.iter().copied().collect(), add, ..Changes::default() })
    };
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
    let stands = table.read()?.is_some_and(|there| there.frame && ports.is_subset(&there.ports));
    // Somebody may have changed its rules while no gate ran: a table without them is open. Entries stay.
    if stands && table.apply(Ground::Rules, &Changes::default()).is_ok() {
        return Ok((table, false));
    }
    anew(&mut table)?;
    Ok((table, true))
}

/// An element with the time that it has left. What is over by now is not put in, however short.
fn lasting(e: Element, end: Option<u64>, now: u64) -> Option<(Element, Option<Duration>)> {
    let left = end.map(|end| end.saturating_sub(now));
    (left != Some(0)).then_some((e, left.map(Duration::from_secs)))
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
        NftError::Foreign(_) => {
            "give this gate its own table with `--nft-table NAME`, or take that one away: `nft delete table inet NAME`"
        }
        NftError::Refused { .. } => "see the message above; leave out --nft-ports to run without",
    };
    Hinted::error(format!("the ports of --nft-ports cannot be guarded: {e}"), hint)
}

impl State {
    /// Ends when somebody else touched the table.
    async fn touched(&mut self) {
        match &mut self.watch {
            Some(w) => {
                let heard = w.touched().await;
                self.foreign_change = true;
                if let Err(e) = heard {
                    warn!(err = %e, "nftables notifications lost, falling back to polling");
                    self.watch = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Begins to hear of others' changes.
    fn listen(&mut self) {
        if let (Some(table), None) = (&self.table, &self.watch) {
            // Without it the table is still looked at now and then.
            self.watch = table.watch().ok();
        }
    }

    /// Makes the table equal to the list at this time (seconds since the Unix epoch). `force`: others' changes are looked
    /// for, even if none was heard of.
    fn make_equal(
        &mut self,
        config: &NftablesConfig,
        published: &Published,
        d: &Desired,
        now: u64,
        force: bool,
    ) -> anyhow::Result<bool> {
        let NftablesConfig { list, ports, table, .. } = config;
        let mut tried = 0;
        let left = loop {
            tried += 1;
            match self.change(d, ports, table, now, force, tried == MAX_TRIES) {
                Ok(left) => break left,
                Err(e) => {
                    self.has = None;
                    self.generation = None;
                    if tried == MAX_TRIES || !matches!(e, NftError::Refused { .. }) {
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
                Ok(flows) => info!(list, flows, "closed live flows of addresses that are not on the list"),
                // Their packets are dropped all the same.
                Err(e) if e.kind() == std::io::ErrorKind::Unsupported => {}
                Err(e) if !std::mem::replace(&mut self.flows_stay, true) => {
                    warn!(list, err = %e, "cannot close live flows of addresses that left; their packets are dropped")
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
        force: bool,
        anew: bool,
    ) -> Result<Left, NftError> {
        let table = match &mut self.table {
            Some(t) => t,
            none => none.insert(Table::open(name)?),
        };
        // Reading 100,000 entries takes the kernel half a second: only if there is a reason.
        let sure = match (&self.watch, force) {
            (Some(_), _) => !self.foreign_change,
            (None, true) => self.generation.is_some_and(|g| table.generation().is_ok_and(|n| n == g)),
            (None, false) => true,
        };
        if let (Some(has), true) = (&self.has, sure) {
            let changes = quick(has, d).unwrap_or_else(|| differences(&elements(has), &elements(d), 0));
            return self.finish(Ground::Stands, changes, d, now);
        }
        self.foreign_change = false;
        let there = table.read()?;
        let (ground, have, open) = match there {
            Some(There { frame: true, rules, ports, elements, .. }) if !anew => {
                let have = elements.into_iter().map(|(e, left)| (e, left.map(|l| now.saturating_add(l.as_secs()))));
                (if rules { Ground::Stands } else { Ground::Rules }, have.collect(), ports)
            }
            _ => (Ground::Anew, Elements::new(), BTreeSet::new()),
        };
        let mut changes = differences(&have, &elements(d), END_TOLERANCE);
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
            let add = d.add.into_iter().filter_map(|(e, end)| lasting(e, end, now));
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
