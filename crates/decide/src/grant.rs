//! The ledger: who was given what, until when. In: proofs, a person's hands, stored grants, the time. Out: effects in
//! the order in which they must happen (persist, changed, forget, audit) and the next deadline. Pure: no IO, no clock.
//!
//! To allow: persist, then publish. To revoke: publish, then forget. The time never runs backwards here: an earlier
//! time than one already seen counts as that one, so that setting a clock back gives nobody more time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use model::{Addr, AddrSet, Evidence, Grant, GrantId, Prefix};

use crate::publish::Learnt;

/// Who leaves when a list is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Evict {
    /// Whoever was seen longest ago.
    #[default]
    LeastRecentlySeen,
    /// Whoever came first, as Gatekeeper does.
    FirstSeen,
}

/// What holds for one list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// At most so many learnt grants; static and pinned entries do not count. `None`: no limit.
    pub max: Option<usize>,
    /// Who leaves when it is full.
    pub evict: Evict,
    /// Seconds from the latest proof to the end. `None`: a proof does not age.
    pub ttl: Option<u64>,
    /// Seconds from the latest sign of life (proof or admitted request) to the end. `None`: silence ends nothing.
    pub idle: Option<u64>,
    /// Width of a learnt IPv4 prefix in bits, 1 to 32: less than 32 for carriers whose customers change their address
    /// within a pool from one connection to the next.
    pub v4_width: u8,
    /// Width of a learnt IPv6 prefix in bits, 1 to 128.
    pub v6_width: u8,
    /// Learn from private, loopback, link-local, CGN and unique local addresses too.
    pub learn_private: bool,
    /// At most so many devices of one principal. `None`: no limit.
    pub devices: Option<usize>,
    /// Seconds that the old address of a device stays after its new one came.
    pub grace: u64,
    /// Entries that are always on the list.
    pub statics: Vec<Prefix>,
}

/// A proof: somebody showed at `addr` that the list's teacher may trust it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The list it opens.
    pub list: String,
    /// From where.
    pub addr: Addr,
    /// What was shown.
    pub evidence: Evidence,
    /// Who.
    pub principal: Option<String>,
    /// With which device.
    pub device: Option<String>,
    /// Seconds instead of the list's `ttl`, for a teacher with its own.
    pub ttl: Option<u64>,
}

/// An entry made by a person or by a name's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The list.
    pub list: String,
    /// From where; any width.
    pub prefix: Prefix,
    /// `Manual` or `Dns`.
    pub evidence: Evidence,
    /// Who it is for, or the name.
    pub principal: Option<String>,
    /// When it ends; `None`: never by itself.
    pub until: Option<u64>,
    /// Break-glass: no limit removes it.
    pub pinned: bool,
}

/// What can happen to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A teacher saw a proof.
    Proof(Proof),
    /// An address on the list was admitted somewhere.
    Seen(String, Addr),
    /// An entry by hand.
    Add(Entry),
    /// A grant ends now. The text says by whom or why.
    Revoke(GrantId, String),
    /// A grant's end is set; `None`: it no longer ends by itself.
    Extend(GrantId, Option<u64>),
}

/// What came of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A new grant.
    Given(GrantId),
    /// The grant was there and lives on.
    Renewed(GrantId),
    /// The grant ended.
    Ended(GrantId),
    /// Nothing to do or nothing allowed.
    Refused(Refusal),
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No such list.
    NoList,
    /// No such grant.
    NoGrant,
    /// The address is private and the list does not learn those.
    Private,
    /// The address is this machine's own.
    Own,
    /// Nobody can come from the address: multicast, broadcast, unspecified.
    Nobodys,
    /// A static entry of the list holds the address already.
    Static,
}

/// What the shell must do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Save this grant.
    Persist(Grant),
    /// Delete this grant from the store.
    Forget(GrantId),
    /// The desired entries of this list are different now.
    Changed(String),
    /// Write this into the audit log.
    Audit(Audit),
}

/// A line of the audit log, before it has its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// When, seconds since the Unix epoch.
    pub at: u64,
    /// `given`, `revoked`, `expired`, `evicted`, `extended`, `superseded`.
    pub what: &'static str,
    /// The grant as it was then.
    pub grant: Grant,
    /// By whom or why; may be empty.
    pub by: String,
}

/// Every list and every live grant.
#[derive(Debug, Default)]
pub struct Ledger {
    lists: BTreeMap<String, Page>,
    grants: BTreeMap<GrantId, Grant>,
    /// Deadlines, soonest first.
    ends: BTreeSet<(u64, GrantId)>,
    own: AddrSet,
    next: u64,
    now: u64,
    effects: VecDeque<Effect>,
}

#[derive(Debug)]
struct Page {
    rules: Rules,
    statics: AddrSet,
    by_prefix: BTreeMap<Prefix, GrantId>,
    /// Learnt grants by who leaves first.
    leaving: BTreeSet<(u64, GrantId)>,
    by_principal: BTreeMap<String, BTreeSet<GrantId>>,
    /// The `seen_at` that the store has.
    saved_seen: BTreeMap<GrantId, u64>,
    /// What enforcers should hold.
    learnt: Learnt,
}

/// A sign of life is saved when it is this much newer than the saved one: a busy client costs one write a minute, and
/// a crash takes at most this many seconds from a grant, never adds any.
pub const SEEN_STEP: u64 = 60;

/// How much newer a sign of life must be to be told and saved: [`SEEN_STEP`], or a third of a shorter `idle`, so that
/// who is there is never taken for silent.
#[must_use]
pub fn seen_step(idle: Option<u64>) -> u64 {
    idle.map_or(SEEN_STEP, |i| (i / 3).min(SEEN_STEP))
}

/// Limits with nothing but the house's defaults: /64 for IPv6, no private addresses, five minutes of grace.
impl Default for Rules {
    fn default() -> Rules {
        Rules {
            max: None,
            evict: Evict::default(),
            ttl: None,
            idle: None,
            v4_width: 32,
            // A household or a phone has a whole /64 and changes its address in it daily (RFC 8981).
            v6_width: 64,
            learn_private: false,
            devices: None,
            // Long enough for requests under way and a phone that flaps between Wi-Fi and mobile data.
            grace: 300,
            statics: Vec::new(),
        }
    }
}

impl Ledger {
    /// A ledger with these lists and no grants. `own`: addresses of this machine, which are never learnt.
    #[must_use]
    pub fn new(lists: impl IntoIterator<Item = (String, Rules)>, own: AddrSet) -> Ledger {
        let lists = lists.into_iter().map(|(name, rules)| (name, Page::new(rules))).collect();
        Ledger { lists, own, next: 1, ..Ledger::default() }
    }

    /// Takes stored grants back, drops those that ended meanwhile, and holds the rest to the limits of today. Grants
    /// of lists that no longer exist stay stored and open nothing. Returns how many are live.
    pub fn restore(&mut self, stored: impl IntoIterator<Item = Grant>, now: u64) -> usize {
        self.now = self.now.max(now);
        for grant in stored {
            self.next = self.next.max(grant.id.0.saturating_add(1));
            if !self.lists.contains_key(&grant.list) {
                continue;
            }
            if let Some(page) = self.lists.get_mut(&grant.list) {
                // Two grants for one prefix can only come from a crash or an edited store: the later one counts.
                if let Some(double) = page.by_prefix.get(&grant.prefix).copied() {
                    self.drop_grant(double);
                    self.effects.push_back(Effect::Forget(double));
                }
            }
            self.put(grant, true);
        }
        let lists: Vec<String> = self.lists.keys().cloned().collect();
        for list in lists {
            self.evict(&list);
        }
        self.handle_timeout(now);
        self.grants.len()
    }

    /// Takes in an event. `now`: seconds since the Unix epoch.
    pub fn handle(&mut self, event: Event, now: u64) -> Outcome {
        self.now = self.now.max(now);
        self.handle_timeout(now);
        match event {
            Event::Proof(p) => self.proof(p),
            Event::Seen(list, addr) => self.seen(&list, addr),
            Event::Add(e) => self.add(e),
            Event::Revoke(id, by) => self.end(id, "revoked", by),
            Event::Extend(id, until) => self.extend(id, until),
        }
    }

    /// Ends what is due.
    pub fn handle_timeout(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some(&(end, id)) = self.ends.first() {
            if end > self.now {
                return;
            }
            self.end(id, "expired", String::new());
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Ledger::handle_timeout`] must be called, seconds since the Unix epoch.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// The names of the lists.
    pub fn lists(&self) -> impl Iterator<Item = &str> {
        self.lists.keys().map(String::as_str)
    }

    /// The rules of a list.
    #[must_use]
    pub fn rules(&self, list: &str) -> Option<&Rules> {
        self.lists.get(list).map(|p| &p.rules)
    }

    /// The live grants of a list, in the order in which they were given.
    pub fn grants<'a>(&'a self, list: &'a str) -> impl Iterator<Item = &'a Grant> {
        self.grants.values().filter(move |g| g.list == list)
    }

    /// What enforcers of a list should hold of its live grants.
    #[must_use]
    pub fn learnt(&self, list: &str) -> Learnt {
        self.lists.get(list).map(|p| p.learnt.clone()).unwrap_or_default()
    }

    /// A live grant.
    #[must_use]
    pub fn grant(&self, id: GrantId) -> Option<&Grant> {
        self.grants.get(&id)
    }

    /// Number of live grants of all lists.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// True if no grant is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// The time as the ledger has it: the latest it was told.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The addresses that are never learnt because they are this machine's own.
    #[must_use]
    pub fn own(&self) -> &AddrSet {
        &self.own
    }

    /// The live grants whose latest sign of life is newer than the one that was last to be saved.
    pub fn unsaved(&self) -> impl Iterator<Item = &Grant> {
        let saved = |g: &Grant| self.lists.get(&g.list).and_then(|p| p.saved_seen.get(&g.id)).copied();
        self.grants.values().filter(move |g| saved(g) != Some(g.seen_at))
    }

    /// The number that the next grant gets.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next
    }

    /// Numbers below this are taken, by grants that a shell could not read.
    pub fn skip_ids(&mut self, below: u64) {
        self.next = self.next.max(below);
    }

    fn proof(&mut self, p: Proof) -> Outcome {
        let now = self.now;
        let Some(page) = self.lists.get(&p.list) else { return Outcome::Refused(Refusal::NoList) };
        if page.statics.contains(p.addr) {
            return Outcome::Refused(Refusal::Static);
        }
        if self.own.contains(p.addr) {
            return Outcome::Refused(Refusal::Own);
        }
        if nobodys(p.addr) {
            return Outcome::Refused(Refusal::Nobodys);
        }
        if p.addr.is_private() && !page.rules.learn_private {
            return Outcome::Refused(Refusal::Private);
        }
        let prefix = page.rules.learnt(p.addr);
        let until = p.ttl.or(page.rules.ttl).map(|t| now.saturating_add(t));
        let idle = page.rules.idle;
        let there = page.by_prefix.get(&prefix).and_then(|id| self.grants.get(id));
        let (grant, new) = match there {
            // A person's entry is not shortened by a teacher.
            Some(g) if g.pinned || g.evidence == Evidence::Manual || g.evidence == Evidence::Dns => {
                (Grant { seen_at: now, ..g.clone() }, false)
            }
            Some(g) => {
                // The proof that lasts longer stands; a share link does not take the name off a certificate.
                let longer = g.until.is_some() && until.is_none_or(|u| Some(u) >= g.until);
                if !longer && p.evidence != g.evidence {
                    (Grant { seen_at: now, idle, ..g.clone() }, false)
                } else {
                    let until = if g.until.is_none() { None } else { until.map(|u| u.max(g.until.unwrap_or(u))) };
                    let principal = p.principal.or_else(|| g.principal.clone());
                    let device = p.device.or_else(|| g.device.clone());
                    (Grant { seen_at: now, until, idle, evidence: p.evidence, principal, device, ..g.clone() }, false)
                }
            }
            None => {
                let id = self.number();
                let g = Grant {
                    id,
                    list: p.list,
                    prefix,
                    principal: p.principal,
                    device: p.device,
                    evidence: p.evidence,
                    given_at: now,
                    seen_at: now,
                    idle,
                    until,
                    pinned: false,
                };
                (g, true)
            }
        };
        let (id, list) = (grant.id, grant.list.clone());
        self.settle(grant, new);
        self.supersede(&list, id);
        self.evict(&list);
        if new { Outcome::Given(id) } else { Outcome::Renewed(id) }
    }

    fn seen(&mut self, list: &str, addr: Addr) -> Outcome {
        let Some(page) = self.lists.get(list) else { return Outcome::Refused(Refusal::NoList) };
        // Only so many widths exist: one look each, the most exact first, beats reading every grant.
        let at = |w: u8| page.by_prefix.get(&Prefix::new(addr, w)?).and_then(|id| self.grants.get(id));
        let Some(g) = (0..=addr.width()).rev().find_map(at) else { return Outcome::Refused(Refusal::NoGrant) };
        let g = Grant { seen_at: self.now, ..g.clone() };
        let id = g.id;
        self.settle(g, false);
        Outcome::Renewed(id)
    }

    fn add(&mut self, e: Entry) -> Outcome {
        let Some(page) = self.lists.get(&e.list) else { return Outcome::Refused(Refusal::NoList) };
        let there = page.by_prefix.get(&e.prefix).and_then(|id| self.grants.get(id));
        let (id, given_at, new) = match there {
            Some(g) => (g.id, g.given_at, false),
            None => (self.number(), self.now, true),
        };
        let grant = Grant {
            id,
            list: e.list,
            prefix: e.prefix,
            principal: e.principal,
            device: None,
            evidence: e.evidence,
            given_at,
            seen_at: self.now,
            // A person's word does not end by silence.
            idle: None,
            until: e.until,
            pinned: e.pinned,
        };
        let list = grant.list.clone();
        if !new {
            self.effects.push_back(Effect::Audit(Audit {
                at: self.now,
                what: "extended",
                grant: grant.clone(),
                by: String::new(),
            }));
        }
        self.settle(grant, new);
        self.evict(&list);
        self.handle_timeout(self.now);
        if new { Outcome::Given(id) } else { Outcome::Renewed(id) }
    }

    fn extend(&mut self, id: GrantId, until: Option<u64>) -> Outcome {
        let Some(g) = self.grants.get(&id) else { return Outcome::Refused(Refusal::NoGrant) };
        let g = Grant { until, idle: None, seen_at: self.now, ..g.clone() };
        self.effects.push_back(Effect::Persist(g.clone()));
        self.effects.push_back(Effect::Changed(g.list.clone()));
        self.effects.push_back(Effect::Audit(Audit {
            at: self.now,
            what: "extended",
            grant: g.clone(),
            by: String::new(),
        }));
        self.put(g, true);
        self.handle_timeout(self.now);
        Outcome::Renewed(id)
    }

    /// Puts a grant in its place and says what follows.
    fn settle(&mut self, g: Grant, new: bool) {
        let saved = self.lists.get(&g.list).and_then(|p| p.saved_seen.get(&g.id)).copied();
        let before = self.grants.get(&g.id);
        let same = before.is_some_and(|b| {
            (b.pinned, b.evidence, &b.principal, &b.device, b.idle) == (g.pinned, g.evidence, &g.principal, &g.device, g.idle)
                && b.until.is_some() == g.until.is_some()
                // A deadline that only moved with the proof is saved with `seen_at`; one that was set is saved now.
                && (b.until.zip(g.until)).is_none_or(|(b, n)| n >= b && n - b < SEEN_STEP.max(1))
        });
        let save = new || !same || saved.is_none_or(|s| g.seen_at.saturating_sub(s) >= seen_step(g.idle));
        if save {
            self.effects.push_back(Effect::Persist(g.clone()));
        }
        // Enforcers that hold deadlines hear of a later end only with the saved one: once a minute at most.
        if save || new {
            self.effects.push_back(Effect::Changed(g.list.clone()));
        }
        if new {
            let audit = Audit { at: self.now, what: "given", grant: g.clone(), by: String::new() };
            self.effects.push_back(Effect::Audit(audit));
        }
        self.put(g, save);
    }

    /// A device that came from a new address leaves its old one after the grace; a principal with too many devices
    /// leaves the one seen longest ago. Families are apart: a device has one address of each.
    fn supersede(&mut self, list: &str, id: GrantId) {
        let Some(page) = self.lists.get(list) else { return };
        let Some(g) = self.grants.get(&id) else { return };
        let Some(principal) = &g.principal else { return };
        let Some(ids) = page.by_principal.get(principal) else { return };
        let others: Vec<&Grant> = ids
            .iter()
            .filter_map(|i| self.grants.get(i))
            .filter(|o| o.id != id && !o.pinned && o.prefix.is_v4() == g.prefix.is_v4())
            .collect();
        let roams = |o: &Grant| g.device.is_some() && o.device == g.device;
        let mut old: Vec<GrantId> = others.iter().filter(|o| roams(o)).map(|o| o.id).collect();
        if let Some(slots) = page.rules.devices {
            let mut rest: Vec<&&Grant> = others.iter().filter(|o| !roams(o)).collect();
            rest.sort_by_key(|o| (std::cmp::Reverse(o.seen_at), std::cmp::Reverse(o.id)));
            old.extend(rest.iter().skip(slots.saturating_sub(1)).map(|o| o.id));
        }
        let leave = self.now.saturating_add(page.rules.grace);
        for id in old {
            let Some(g) = self.grants.get(&id) else { continue };
            if g.until.is_some_and(|u| u <= leave) {
                continue;
            }
            let g = Grant { until: Some(leave), ..g.clone() };
            self.effects.push_back(Effect::Persist(g.clone()));
            self.effects.push_back(Effect::Changed(g.list.clone()));
            let audit = Audit { at: self.now, what: "superseded", grant: g.clone(), by: String::new() };
            self.effects.push_back(Effect::Audit(audit));
            self.put(g, true);
        }
        self.handle_timeout(self.now);
    }

    fn evict(&mut self, list: &str) {
        while let Some(page) = self.lists.get(list) {
            let Some(max) = page.rules.max else { return };
            if page.leaving.len() <= max {
                return;
            }
            let Some(&(_, id)) = page.leaving.first() else { return };
            let Some(g) = self.drop_grant(id) else { return };
            self.effects.push_back(Effect::Changed(g.list.clone()));
            self.effects.push_back(Effect::Forget(id));
            let by = format!("the list holds {max}");
            self.effects.push_back(Effect::Audit(Audit { at: self.now, what: "evicted", grant: g, by }));
        }
    }

    fn end(&mut self, id: GrantId, what: &'static str, by: String) -> Outcome {
        let Some(g) = self.drop_grant(id) else { return Outcome::Refused(Refusal::NoGrant) };
        self.effects.push_back(Effect::Changed(g.list.clone()));
        self.effects.push_back(Effect::Forget(id));
        self.effects.push_back(Effect::Audit(Audit { at: self.now, what, grant: g, by }));
        Outcome::Ended(id)
    }

    fn number(&mut self) -> GrantId {
        let id = GrantId(self.next);
        self.next = self.next.saturating_add(1);
        id
    }

    /// Puts a grant into every index, in place of what had its number. `saved`: the store will have this state.
    fn put(&mut self, g: Grant, saved: bool) {
        let page = self.lists.get(&g.list);
        let saved_before = page.and_then(|p| p.saved_seen.get(&g.id)).copied();
        // An end that only moved with a sign of life is told with the saved one.
        let told = page.and_then(|p| p.learnt.get(g.id)).filter(|_| !saved);
        self.drop_grant(g.id);
        let Some(page) = self.lists.get_mut(&g.list) else { return };
        page.by_prefix.insert(g.prefix, g.id);
        page.learnt.put(g.id, g.prefix, told.map_or(g.ends_at(), |t| t.1));
        if !g.pinned && g.evidence != Evidence::Dns {
            page.leaving.insert((page.rules.leaves_by(&g), g.id));
        }
        if let Some(p) = &g.principal {
            page.by_principal.entry(p.clone()).or_default().insert(g.id);
        }
        let seen = if saved { Some(g.seen_at) } else { saved_before };
        if let Some(seen) = seen {
            page.saved_seen.insert(g.id, seen);
        }
        if let Some(end) = g.ends_at() {
            self.ends.insert((end, g.id));
        }
        self.grants.insert(g.id, g);
    }

    fn drop_grant(&mut self, id: GrantId) -> Option<Grant> {
        let g = self.grants.remove(&id)?;
        if let Some(end) = g.ends_at() {
            self.ends.remove(&(end, id));
        }
        if let Some(page) = self.lists.get_mut(&g.list) {
            page.by_prefix.remove(&g.prefix);
            page.learnt.remove(id);
            page.leaving.remove(&(page.rules.leaves_by(&g), id));
            page.saved_seen.remove(&id);
            if let Some(ids) = g.principal.as_ref().and_then(|p| page.by_principal.get_mut(p)) {
                ids.remove(&id);
                if ids.is_empty()
                    && let Some(p) = &g.principal
                {
                    page.by_principal.remove(p);
                }
            }
        }
        Some(g)
    }
}

impl Rules {
    /// The prefix that a proof from this address teaches.
    #[must_use]
    pub fn learnt(&self, addr: Addr) -> Prefix {
        let width = if addr.is_v4() { self.v4_width } else { self.v6_width };
        Prefix::new(addr, width).unwrap_or(Prefix::host(addr))
    }

    fn leaves_by(&self, g: &Grant) -> u64 {
        match self.evict {
            Evict::FirstSeen => g.given_at,
            Evict::LeastRecentlySeen => g.seen_at,
        }
    }
}

impl Page {
    fn new(rules: Rules) -> Page {
        Page {
            statics: AddrSet::new(rules.statics.iter().copied()),
            rules,
            by_prefix: BTreeMap::new(),
            leaving: BTreeSet::new(),
            by_principal: BTreeMap::new(),
            saved_seen: BTreeMap::new(),
            learnt: Learnt::default(),
        }
    }
}

fn nobodys(addr: Addr) -> bool {
    match addr.ip() {
        std::net::IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.is_unspecified(),
        std::net::IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::NoList => "there is no such list",
            Refusal::NoGrant => "there is no such grant",
            Refusal::Private => "it is a private address, which could be anybody behind the same router",
            Refusal::Nobodys => "nobody can come from such an address",
            Refusal::Own => "it is an address of this machine",
            Refusal::Static => "an entry that is always there holds it already",
        })
    }
}
