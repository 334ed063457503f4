//! The ledger: who was given what, until when. In: proofs, a person's hands, stored grants, the time. Out: effects in
//! the order in which they must happen (persist, changed, forget, audit) and the next deadline. Pure: no IO, no clock.
//!
//! To allow: persist, then publish. To revoke: publish, then forget. The time never runs backwards here: an earlier
//! time than one already seen counts as that one, so that setting a clock back gives nobody more time.

mod bans;
mod event;
mod roam;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use crate::{Ban, BanId, Claim, Evidence, Grant, GrantId, Whom};
use addr::{Addr, AddrSet, Prefix};

use crate::ended::{Ended, What};
use crate::learned::LearnedEntries;
use crate::page::{Page, Place, place};
use roam::{MOVED, Moved};

pub use crate::rules::{Evict, Rules};
pub use bans::BANS;
pub use event::{About, Audit, Close, Effect, Entry, Event, Outcome, Proof, Rejection};
pub use roam::{MAX_DEVICES_TOLD_APART, OTHER_PLACE};

/// Every list and every live grant.
#[derive(Debug, Default)]
pub struct Ledger {
    lists: BTreeMap<String, Page>,
    grants: BTreeMap<GrantId, Grant>,
    /// When a reason of a grant ends, soonest first.
    ends: BTreeSet<(u64, GrantId)>,
    /// When bans end, soonest first.
    ban_ends: BTreeSet<(u64, String, Whom)>,
    /// Devices that left a place because they showed up elsewhere, oldest first.
    moved: VecDeque<Moved>,
    own: AddrSet,
    next: u64,
    now: u64,
    effects: VecDeque<Effect>,
}

/// A sign of life is saved when it is this much newer than the saved one: a busy client costs one write a minute, and
/// a crash takes at most this many seconds from a grant, never adds any.
pub const SEEN_STEP: u64 = 60;

/// Reasons for one prefix: people behind one address, each with a few devices.
const CLAIMS: usize = 32;
/// How much newer a sign of life must be to be told and saved: [`SEEN_STEP`], or a third of a shorter `idle`, so that
/// who is there is never taken for silent.
#[must_use]
pub fn seen_step(idle: Option<u64>) -> u64 {
    idle.map_or(SEEN_STEP, |i| (i / 3).min(SEEN_STEP))
}

impl Ledger {
    /// A ledger with these lists and no grants. `own`: addresses of this machine, which are never learned.
    #[must_use]
    pub fn new(lists: impl IntoIterator<Item = (String, Rules)>, own: AddrSet) -> Ledger {
        let lists = lists.into_iter().map(|(name, rules)| (name, Page::new(rules))).collect();
        Ledger { lists, own, next: 1, ..Ledger::default() }
    }

    /// Takes stored grants and bans back, drops those that ended meanwhile, and holds the rest to the limits of today.
    /// Those of lists that no longer exist stay stored and do nothing. Returns how many grants are live.
    pub fn restore(
        &mut self,
        stored: impl IntoIterator<Item = Grant>,
        bans: impl IntoIterator<Item = Ban>,
        now: u64,
    ) -> usize {
        self.now = self.now.max(now);
        for ban in bans {
            self.next = self.next.max(ban.id.0.saturating_add(1));
            self.put_ban(ban);
        }
        for grant in stored {
            self.next = self.next.max(grant.id.0.saturating_add(1));
            let Some(page) = self.lists.get_mut(&grant.list) else { continue };
            // Two grants for one prefix can only come from a crash or an edited store: the later one counts.
            if let Some(double) = page.by_prefix.get(&grant.prefix).copied() {
                self.drop_grant(double);
                self.effects.push_back(Effect::Forget(double));
            }
            self.put(grant, true);
        }
        self.set_back(now);
        // Who is over takes nobody's place.
        self.handle_timeout(now);
        let lists: Vec<String> = self.lists.keys().cloned().collect();
        for list in lists {
            self.evict(&list, None);
        }
        self.grants.len()
    }

    /// The clock says `now`, and may have said a later time before: what began later begins now, and lasts as long as it
    /// was given for. One wrong reading of the clock gives nobody more.
    pub fn set_back(&mut self, now: u64) {
        self.now = now;
        let late = |g: &&Grant| g.seen_at > now || g.claims().any(|c| c.proved_at > now);
        for g in self.grants.values().filter(late).cloned().collect::<Vec<Grant>>() {
            let grace = self.lists.get(&g.list).and_then(|p| p.rules.grace);
            let claims = g.claims().map(|c| begun(c, grace, now)).collect();
            let seen = Grant { given_at: g.given_at.min(now), seen_at: g.seen_at.min(now), ..g };
            let Some(g) = seen.with_claims(claims) else { continue };
            self.effects.push_back(Effect::Persist(g.clone()));
            self.effects.push_back(Effect::Changed(g.list.clone()));
            self.put(g, true);
        }
        let bans = self.lists.values().flat_map(|p| p.bans.values()).filter(|b| b.since > now);
        for b in bans.cloned().collect::<Vec<Ban>>() {
            let until = b.until.map(|t| t.saturating_sub(b.since - now));
            let b = Ban { since: now, until, ..b };
            self.put_back_ban(b.id, Some(b.clone()));
            self.effects.push_back(Effect::PersistBan(b));
        }
        self.moved.iter_mut().for_each(|m| m.at = m.at.min(now));
    }

    /// Makes a grant what was saved of it (`None`: nothing), with no other effect than that its list changed: a change
    /// that could not be saved.
    pub fn put_back(&mut self, id: GrantId, saved: Option<Grant>) {
        let gone = self.drop_grant(id);
        for list in gone.iter().chain(&saved).map(|g| g.list.clone()) {
            self.effects.push_back(Effect::Changed(list));
        }
        if let Some(g) = saved.filter(|g| self.lists.contains_key(&g.list)) {
            self.put(g, true);
        }
    }

    /// The same for a ban.
    pub fn put_back_ban(&mut self, id: BanId, saved: Option<Ban>) {
        let gone = self.lists.values().flat_map(|p| p.bans.values()).find(|b| b.id == id).cloned();
        if let Some(ban) = gone {
            self.lists.get_mut(&ban.list).and_then(|p| p.bans.remove(&ban.whom));
            if let Some(end) = ban.until {
                self.ban_ends.remove(&(end, ban.list, ban.whom));
            }
        }
        if let Some(ban) = saved {
            self.put_ban(ban);
        }
    }

    /// Takes in an event. `now`: seconds since the Unix epoch.
    pub fn handle(&mut self, event: Event, now: u64) -> Outcome {
        self.now = self.now.max(now);
        self.handle_timeout(now);
        match event {
            Event::Proof(p) => self.proof(p),
            Event::Seen(list, addr) => self.seen(&list, addr),
            Event::Add(e) => self.add(e),
            Event::AddAll(all) => {
                let outcomes: Vec<Outcome> = all.into_iter().map(|e| self.add(e)).collect();
                let given = outcomes.iter().filter(|o| !matches!(o, Outcome::Rejected(_))).count();
                match outcomes.first() {
                    Some(why) if given == 0 => *why,
                    Some(_) => Outcome::Settled(given),
                    None => Outcome::Rejected(Rejection::NoGrant),
                }
            }
            Event::Revoke(id, by) => self.end(id, What::Revoked, by),
            Event::Withdraw(id, claim, by) => {
                let meant = |c: &Claim| c.is_same(&claim);
                if self.take_away(id, &meant, &by) { Outcome::Ended(id) } else { Outcome::Rejected(Rejection::NoGrant) }
            }
            Event::Close(c) => self.close(&c),
            Event::Extend { ids, until, shorten } => self.extend(&ids, until, shorten),
            Event::Unban(whom) => {
                let ended = whom.into_iter().filter(|(list, whom)| self.end_ban(list, whom, "by hand")).count();
                if ended == 0 { Outcome::Rejected(Rejection::NoGrant) } else { Outcome::Settled(ended) }
            }
        }
    }

    /// Ends what is due.
    pub fn handle_timeout(&mut self, now: u64) {
        self.now = self.now.max(now);
        while let Some((end, list, whom)) = self.ban_ends.first().cloned() {
            if end > self.now {
                break;
            }
            self.end_ban(&list, &whom, "its time is over");
        }
        while let Some(&(end, id)) = self.ends.first() {
            if end > self.now {
                return;
            }
            self.lapse(id);
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Ledger::handle_timeout`] must be called, seconds since the Unix epoch.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let grants = self.ends.first().map(|(end, _)| *end);
        let bans = self.ban_ends.first().map(|(end, ..)| *end);
        [grants, bans].into_iter().flatten().min()
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
    pub fn learnt(&self, list: &str) -> LearnedEntries {
        self.lists.get(list).map(|p| p.learnt.clone()).unwrap_or_default()
    }

    /// Whose proofs do not count on a list.
    pub fn bans(&self, list: &str) -> impl Iterator<Item = &Ban> {
        self.lists.get(list).into_iter().flat_map(|p| p.bans.values())
    }

    /// How many count for the limit of a list, and how many for that of its guests.
    #[must_use]
    pub fn counted(&self, list: &str) -> (usize, usize) {
        self.lists.get(list).map_or((0, 0), Page::counted)
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

    /// The addresses that are never learned because they are this machine's own.
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
        let Some(page) = self.lists.get(&p.list) else { return Outcome::Rejected(Rejection::NoList) };
        if page.statics.contains(p.addr) {
            return Outcome::Rejected(Rejection::Static);
        }
        if self.own.contains(p.addr) {
            return Outcome::Rejected(Rejection::Own);
        }
        if nobodys(p.addr) {
            return Outcome::Rejected(Rejection::Nobodys);
        }
        if p.addr.is_private() && !page.rules.learn_private {
            return Outcome::Rejected(Rejection::Private);
        }
        let prefix = page.rules.learnt(p.addr);
        let claim = Claim {
            principal: p.principal,
            device: p.device,
            idle: page.rules.idle,
            until: p.ttl.or(page.rules.ttl).map(|t| now.saturating_add(t)),
            ..Claim::new(p.evidence, now)
        };
        if let Some(ban) = page.banned(p.addr, prefix, claim.principal.as_deref()) {
            let by = format!("no proof of {} counts", ban.whom);
            return self.turned_away(&p.list, prefix, claim, Rejection::Banned, by);
        }
        let there = page.by_prefix.get(&prefix).and_then(|id| self.grants.get(id));
        let returns = there.is_some_and(|g| g.claims().any(|c| c.is_same(&claim) && c.superseded.is_some()))
            || self.was_here(&p.list, prefix, &claim);
        let mut grant = match there {
            Some(g) => renewed(g, &claim, now),
            None => new_grant(&p.list, prefix, claim.clone(), now),
        };
        let (before, after) = (there.map(place), place(&grant));
        if before != Some(after) && !page.has_room(after, grant.strength()) {
            let by = format!("the list is full: all {} on it have more evidence", page.counted().0);
            return self.turned_away(&p.list, prefix, claim, Rejection::Full, by);
        }
        let new = before.is_none();
        if new {
            grant.id = self.number();
        }
        let id = grant.id;
        self.settle(grant, new);
        self.roam(&p.list, id, &claim, returns);
        self.evict(&p.list, Some(id));
        if new { Outcome::Given(id) } else { Outcome::Renewed(id) }
    }

    /// Says that somebody proved himself in vain.
    fn turned_away(&mut self, list: &str, prefix: Prefix, claim: Claim, why: Rejection, by: String) -> Outcome {
        self.effects.push_back(Effect::Ended(Ended {
            at: self.now,
            list: list.to_string(),
            prefix,
            principal: claim.principal,
            evidence: claim.evidence,
            what: if why == Rejection::Full { What::Full } else { What::Refused },
            by,
        }));
        Outcome::Rejected(why)
    }

    fn seen(&mut self, list: &str, addr: Addr) -> Outcome {
        let Some(page) = self.lists.get(list) else { return Outcome::Rejected(Rejection::NoList) };
        // Only so many widths exist: one look each, the most exact first, beats reading every grant.
        let at = |w: u8| page.by_prefix.get(&Prefix::new(addr, w)?).and_then(|id| self.grants.get(id));
        let Some(g) = (0..=addr.width()).rev().find_map(at) else { return Outcome::Rejected(Rejection::NoGrant) };
        let g = Grant { seen_at: self.now, ..g.clone() };
        let id = g.id;
        self.settle(g, false);
        Outcome::Renewed(id)
    }

    fn add(&mut self, e: Entry) -> Outcome {
        let now = self.now;
        let Some(page) = self.lists.get(&e.list) else { return Outcome::Rejected(Rejection::NoList) };
        let claim = Claim {
            principal: e.principal,
            // A person's word does not end by silence.
            until: e.until,
            pinned: e.pinned,
            ..Claim::new(e.evidence, now)
        };
        let there = page.by_prefix.get(&e.prefix).and_then(|id| self.grants.get(id));
        let mut grant = match there {
            Some(g) => reworded(g, claim.clone(), now),
            None => new_grant(&e.list, e.prefix, claim.clone(), now),
        };
        let (before, after) = (there.map(place), place(&grant));
        if before != Some(after) && !page.has_room(after, grant.strength()) {
            return Outcome::Rejected(Rejection::Full);
        }
        let new = before.is_none();
        if new {
            grant.id = self.number();
        } else {
            self.audit(What::Extended, &grant, "");
        }
        let id = grant.id;
        if e.evidence == Evidence::Manual {
            self.welcome(&e.list, e.prefix, claim.principal.as_deref());
        }
        self.settle(grant, new);
        self.evict(&e.list, Some(id));
        self.handle_timeout(now);
        if new { Outcome::Given(id) } else { Outcome::Renewed(id) }
    }

    fn extend(&mut self, ids: &[GrantId], until: Option<u64>, shorten: bool) -> Outcome {
        let mut set = 0;
        for id in ids {
            let Some(g) = self.grants.get(id) else { continue };
            let mut claims: Vec<Claim> = g.claims().cloned().collect();
            let by_hand = claims.iter().position(|c| c.evidence == Evidence::Manual);
            if shorten {
                for c in claims.iter_mut().filter(|c| c.evidence != Evidence::Dns) {
                    c.until = until.map(|u| c.until.map_or(u, |t| t.min(u))).or(c.until);
                }
            }
            match by_hand.and_then(|at| claims.get_mut(at)) {
                Some(c) => c.until = until,
                None if shorten => {}
                None => claims.push(Claim { until, ..Claim::new(Evidence::Manual, self.now) }),
            }
            let seen = Grant { seen_at: self.now, ..g.clone() };
            let Some(g) = seen.with_claims(claims) else { continue };
            self.effects.push_back(Effect::Persist(g.clone()));
            self.effects.push_back(Effect::Changed(g.list.clone()));
            self.audit(What::Extended, &g, "by hand");
            let list = g.list.clone();
            self.put(g, true);
            self.evict(&list, Some(*id));
            set += 1;
        }
        self.handle_timeout(self.now);
        if set == 0 { Outcome::Rejected(Rejection::NoGrant) } else { Outcome::Settled(set) }
    }

    /// Ends those reasons of a grant that are meant, and the grant if none is left. False if none was meant.
    fn take_away(&mut self, id: GrantId, meant: &dyn Fn(&Claim) -> bool, by: &str) -> bool {
        let Some(g) = self.grants.get(&id).cloned() else { return false };
        let (gone, kept): (Vec<Claim>, Vec<Claim>) = g.claims().cloned().partition(|c| meant(c));
        if gone.is_empty() {
            return false;
        }
        match g.with_claims(kept) {
            None => drop(self.end(id, What::Revoked, by.to_string())),
            Some(rest) => {
                self.effects.push_back(Effect::Changed(rest.list.clone()));
                self.effects.push_back(Effect::Persist(rest.clone()));
                let told = g.with_claims(gone).unwrap_or(g);
                self.audit(What::Revoked, &told, &format!("{by}; {} goes on", evidence(&rest)));
                self.demote(rest);
            }
        }
        true
    }

    /// Takes out the reasons of a grant whose time is over, and the grant if none is left.
    fn lapse(&mut self, id: GrantId) {
        let Some(g) = self.grants.get(&id).cloned() else { return };
        let over = |c: &Claim| c.ends_at(g.seen_at).is_some_and(|e| e <= self.now);
        let (gone, kept): (Vec<Claim>, Vec<Claim>) = g.claims().cloned().partition(over);
        let by = gone.first().map(|c| ended_by(c, g.seen_at)).unwrap_or_default();
        for c in gone.iter().filter(|c| c.superseded.is_some()) {
            self.moved.push_back(Moved { at: self.now, list: g.list.clone(), prefix: g.prefix, claim: c.clone() });
            if self.moved.len() > MOVED {
                self.moved.pop_front();
            }
        }
        match g.with_claims(kept) {
            None => drop(self.end(id, What::Expired, by)),
            Some(rest) => {
                self.effects.push_back(Effect::Persist(rest.clone()));
                self.effects.push_back(Effect::Changed(rest.list.clone()));
                let told = g.with_claims(gone).unwrap_or(g);
                self.audit(What::Lapsed, &told, &format!("{} goes on", evidence(&rest)));
                self.demote(rest);
            }
        }
    }

    /// Puts a grant that lost a reason in its place, which may be one among the guests.
    fn demote(&mut self, rest: Grant) {
        let list = rest.list.clone();
        self.put(rest, true);
        self.evict(&list, None);
    }

    /// Puts a grant in its place and says what follows.
    fn settle(&mut self, g: Grant, new: bool) {
        let saved = self.lists.get(&g.list).and_then(|p| p.saved_seen.get(&g.id)).copied();
        let same = self.grants.get(&g.id).is_some_and(|before| alike(before, &g));
        let idle = g.claims().filter_map(|c| c.idle).min();
        let save = new || !same || saved.is_none_or(|s| g.seen_at.saturating_sub(s) >= seen_step(idle));
        if save {
            self.effects.push_back(Effect::Persist(g.clone()));
            // Enforcers that hold deadlines hear of a later end only with the saved one: once a minute at most.
            self.effects.push_back(Effect::Changed(g.list.clone()));
        }
        if new {
            self.audit(What::Given, &g, "");
        }
        self.put(g, save);
    }

    /// Holds a list to its limits. `newcomer`: for whom somebody leaves.
    fn evict(&mut self, list: &str, newcomer: Option<GrantId>) {
        while let Some((id, max)) = self.lists.get(list).and_then(|p| p.leaves_next(&self.grants)) {
            let Some(g) = self.grants.get(&id) else { return };
            let many = if place(g) == Place::Guest { "guests" } else { "entries" };
            let by = match newcomer.and_then(|n| self.grants.get(&n)).filter(|n| n.id != id) {
                Some(n) => format!("{} {} ({}) came; the list holds {max} {many}", n.id, n.prefix, evidence(n)),
                None => format!("the list holds {max} {many}"),
            };
            self.end(id, What::Evicted, by);
        }
    }

    fn end(&mut self, id: GrantId, what: What, by: String) -> Outcome {
        let Some(g) = self.drop_grant(id) else { return Outcome::Rejected(Rejection::NoGrant) };
        self.effects.push_back(Effect::Changed(g.list.clone()));
        self.effects.push_back(Effect::Forget(id));
        self.effects.push_back(Effect::Ended(Ended {
            at: self.now,
            list: g.list.clone(),
            prefix: g.prefix,
            principal: g.claim.principal.clone(),
            evidence: g.claim.evidence,
            what,
            by: by.clone(),
        }));
        self.audit(what, &g, &by);
        Outcome::Ended(id)
    }

    fn audit(&mut self, what: What, g: &Grant, by: &str) {
        let about = About::Grant(g.clone());
        self.effects.push_back(Effect::Audit(Audit { at: self.now, what, about, by: by.to_string() }));
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
        let told = page.and_then(|p| p.learnt.get(g.id)).filter(|_| !saved).map(|t| t.1);
        self.drop_grant(g.id);
        let Some(page) = self.lists.get_mut(&g.list) else { return };
        page.put(&g, told);
        let seen = if saved { Some(g.seen_at) } else { saved_before };
        if let Some(seen) = seen {
            page.saved_seen.insert(g.id, seen);
        }
        if let Some(end) = g.changes_at() {
            self.ends.insert((end, g.id));
        }
        self.grants.insert(g.id, g);
    }

    fn drop_grant(&mut self, id: GrantId) -> Option<Grant> {
        let g = self.grants.remove(&id)?;
        if let Some(end) = g.changes_at() {
            self.ends.remove(&(end, id));
        }
        if let Some(page) = self.lists.get_mut(&g.list) {
            page.take(&g);
        }
        Some(g)
    }
}

impl Rules {
    /// The prefix that a proof from this address teaches.
    #[must_use]
    pub fn learnt(&self, addr: Addr) -> Prefix {
        let width = match addr.ip() {
            std::net::IpAddr::V4(_) => self.v4_width,
            // A translator in front of this machine makes one of these of each IPv4 address (RFC 6052, section 2.1; RFC
            // 8215): one /64 would be everybody.
            std::net::IpAddr::V6(a) => match a.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, ..] => self.v4_width.saturating_add(96),
                [0x64, 0xff9b, 1, ..] => 128,
                _ => self.v6_width,
            },
        };
        Prefix::new(addr, width).unwrap_or(Prefix::host(addr))
    }
}

/// A reason that begins at `now` at the latest. `grace`: how long one lasts whose device showed up elsewhere.
fn begun(c: &Claim, grace: Option<u64>, now: u64) -> Claim {
    let until = c.until.map(|t| t.saturating_sub(c.proved_at.saturating_sub(now)));
    let leaves = grace.filter(|_| c.superseded.is_some()).map(|s| now.saturating_add(s));
    let until = until.map(|t| t.min(leaves.unwrap_or(t)));
    Claim { proved_at: c.proved_at.min(now), until, ..c.clone() }
}

/// A grant without a number yet.
fn new_grant(list: &str, prefix: Prefix, claim: Claim, now: u64) -> Grant {
    Grant { id: GrantId(0), list: list.to_string(), prefix, given_at: now, seen_at: now, claim, beside: Vec::new() }
}

/// A grant after a proof: the same reason lasts longer, another one stands beside.
fn renewed(g: &Grant, claim: &Claim, now: u64) -> Grant {
    let mut claims: Vec<Claim> = g.claims().cloned().collect();
    match claims.iter_mut().find(|c| c.is_same(claim)) {
        Some(c) => {
            let until = c.until.zip(claim.until).map(|(a, b)| a.max(b));
            *c = Claim { until, places: c.places, pinned: c.pinned, ..claim.clone() };
        }
        None => {
            if claims.len() >= CLAIMS {
                // The weakest, and of these the one whose proof is oldest.
                let last = claims.iter().enumerate().min_by_key(|(_, c)| (c.strength(), c.proved_at)).map(|(i, _)| i);
                last.map(|i| claims.remove(i));
            }
            claims.push(claim.clone());
        }
    }
    let seen = Grant { seen_at: now, ..g.clone() };
    seen.with_claims(claims).unwrap_or(seen)
}

/// A grant after a person's word, of which there is one, or a name's: it is as told, whatever was there.
fn reworded(g: &Grant, claim: Claim, now: u64) -> Grant {
    let replaces = |c: &Claim| {
        c.evidence == claim.evidence && (claim.evidence == Evidence::Manual || c.principal == claim.principal)
    };
    let mut claims: Vec<Claim> = g.claims().filter(|c| !replaces(c)).cloned().collect();
    claims.push(claim);
    let seen = Grant { seen_at: now, ..g.clone() };
    seen.with_claims(claims).unwrap_or(seen)
}

/// True if the store may go on with the one instead of the other until the next sign of life is saved.
fn alike(before: &Grant, after: &Grant) -> bool {
    let same = |b: &Claim, a: &Claim| {
        let bare = |c: &Claim| Claim { until: None, proved_at: 0, ..c.clone() };
        bare(b) == bare(a)
            && b.until.is_some() == a.until.is_some()
            // A deadline that only moved with the proof is saved with `seen_at`; one that was set is saved now.
            && b.until.zip(a.until).is_none_or(|(b, a)| a >= b && a - b < SEEN_STEP)
    };
    before.beside.len() == after.beside.len() && before.claims().zip(after.claims()).all(|(b, a)| same(b, a))
}

/// The kinds of evidence of a grant, strongest first, each once.
#[must_use]
pub fn evidence(g: &Grant) -> String {
    let mut words: Vec<&str> = g.claims().map(|c| c.evidence.word()).collect();
    words.dedup();
    words.join(", ")
}

/// Why a reason is over whose time has come.
fn ended_by(c: &Claim, seen_at: u64) -> String {
    match (c.superseded, c.idle) {
        (Some(p), _) => format!("its device came from {p} meanwhile"),
        (None, Some(idle)) if c.until.is_none_or(|u| seen_at.saturating_add(idle) < u) => {
            format!("nobody was seen for {idle} s")
        }
        (None, _) => String::new(),
    }
}

fn nobodys(addr: Addr) -> bool {
    match addr.ip() {
        std::net::IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || a.is_unspecified(),
        std::net::IpAddr::V6(a) => a.is_multicast() || a.is_unspecified(),
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejection::NoList => "there is no such list",
            Rejection::NoGrant => "there is no such grant",
            Rejection::Private => "it is a private address, which could be anybody behind the same router",
            Rejection::Nobodys => "nobody can come from such an address",
            Rejection::Own => "it is an address of this machine",
            Rejection::Static => "an entry that is always there holds it already",
            Rejection::Full => "the list is full, and everybody on it has more evidence",
            Rejection::Banned => "a person said that no proof of it counts for now",
            Rejection::Bans => "there are too many bans on that list; end some first",
        })
    }
}
