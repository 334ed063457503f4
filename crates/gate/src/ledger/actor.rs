//! The ledger as a state that the owner owns. In: requests, the time. Out: grants to save, published lists, audit records,
//! answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use access::ended::{Ended, Memory, What};
use access::ledger::{About as Subject, Audit, Effect, Event, Ledger, Outcome, Rules};
use access::publish::{Desired, desired, follow};
use access::record::{BanRecord, GrantRecord};
use access::{Ban, Evidence, Grant, GrantId, List, View, ViewBuilder};
use addr::{AddrSet, Prefix};
use anyhow::Context;
use net::log_budget::LogBudget;
use store::{Entry, Store};
use tokio::sync::watch;
use tracing::{info, warn};

use runtime::audit::{About, Record};
use runtime::owner::{Kind, NotMade, Saved, State, Stored, Time, Value};

use super::{Answer, Done, Id, Published, ReadModel, Request};

const GRANTS: &str = "grants/";
const BANS: &str = "bans/";
/// Lines about full lists: whoever can prove himself can cause them.
const FULL_LINES: u32 = 10;

/// The ledger and what it is shown as.
pub struct LedgerState {
    ledger: Ledger,
    out: watch::Sender<Arc<Published>>,
    views: watch::Sender<Arc<View>>,
    model: Arc<ReadModel>,
    changed: Vec<String>,
    touched: Vec<Id>,
    audit: Vec<Audit>,
    full_lines: LogBudget,
}

impl State for LedgerState {
    const NAME: &'static str = "gate";
    const WHAT: &'static str = "grants are";
    type Id = Id;
    type Change = Request;
    type Answer = Answer;

    fn kind(&self, request: &Request) -> Kind {
        match request {
            Request::Event(Event::Proof(_) | Event::Add(_) | Event::AddAll(_) | Event::Unban(_), _) => Kind::Gives,
            Request::Event(Event::Extend { ids, until, shorten }, _) => {
                let ends = |id: &GrantId| self.ledger.grant(*id).and_then(Grant::ends_at);
                let shorter = until.is_some_and(|u| ids.iter().all(|id| ends(id).is_none_or(|t| u <= t)));
                if *shorten && shorter { Kind::Takes } else { Kind::Gives }
            }
            Request::Event(Event::Revoke(..) | Event::Withdraw(..) | Event::Close(_), _) | Request::Lists(..) => {
                Kind::Takes
            }
            Request::Event(Event::Seen(..), _) | Request::Look => Kind::Keeps,
        }
    }

    fn reads(request: &Request) -> bool {
        matches!(request, Request::Lists(..))
    }

    fn apply(&mut self, request: Request, now: u64, stored: &Stored<'_, LedgerState>) -> Answer {
        match request {
            Request::Event(event, reply) => {
                let outcome = self.ledger.handle(event, now);
                self.count(outcome);
                self.gather();
                Answer::Event(reply, outcome)
            }
            Request::Lists(lists, reply) => Answer::Lists(reply, self.relist(lists, now, stored)),
            Request::Look => Answer::Look,
        }
    }

    fn tick(&mut self, now: u64) {
        self.ledger.handle_timeout(now);
        self.gather();
    }

    fn set_back(&mut self, now: u64) {
        self.ledger.set_back(now);
        // Whoever counts down by the earlier time begins anew.
        self.changed = self.ledger.lists().map(str::to_string).collect();
        self.gather();
    }

    fn touched(&mut self) -> Vec<Id> {
        std::mem::take(&mut self.touched)
    }

    fn records(&mut self) -> Vec<Record> {
        std::mem::take(&mut self.audit).into_iter().map(record).collect()
    }

    fn key(id: &Id) -> String {
        // Fixed width: listed by key is listed by number.
        match id {
            Id::Grant(id) => format!("{GRANTS}{:020}", id.0),
            Id::Ban(id) => format!("{BANS}{:020}", id.0),
        }
    }

    fn value(&self, id: &Id) -> Option<Value> {
        // Plain records: writing them as JSON does not fail.
        match id {
            Id::Grant(id) => self.ledger.grant(*id).map(|g| Value {
                bytes: serde_json::to_vec(&GrantRecord::from(g)).unwrap_or_default(),
                deadline: g.ends_at(),
            }),
            Id::Ban(id) => self.model.bans.read().get(id).map(|b| Value {
                bytes: serde_json::to_vec(&BanRecord::from(b)).unwrap_or_default(),
                deadline: b.until,
            }),
        }
    }

    fn put_back(&mut self, id: &Id, value: Option<&[u8]>, _: u64) {
        let key = LedgerState::key(id);
        let id = match id {
            Id::Grant(id) => id,
            Id::Ban(id) => {
                let ban = value.and_then(|v| understood_ban(&key, v));
                match &ban {
                    Some(b) => drop(self.model.bans.write().insert(*id, b.clone())),
                    None => drop(self.model.bans.write().remove(id)),
                }
                self.ledger.put_back_ban(*id, ban);
                return;
            }
        };
        let grant = value.and_then(|v| understood(&key, v));
        if let Some(g) = self.ledger.grant(*id)
            && let Some(list) = self.model.grants.write().get_mut(&g.list)
        {
            list.remove(&g.prefix);
        }
        if let Some(g) = grant.as_ref().filter(|g| self.ledger.rules(&g.list).is_some()) {
            self.model.grants.write().entry(g.list.clone()).or_default().insert(g.prefix, g.clone());
        }
        self.ledger.put_back(*id, grant);
        self.gather();
    }

    fn show(&mut self, _: u64) {
        self.publish();
    }

    fn deadline(&self, _: u64) -> Option<u64> {
        self.ledger.poll_timeout()
    }

    fn reply(&mut self, answer: Answer, saved: Result<Saved, NotMade>) {
        // Whoever asked may have gone: it is done all the same.
        match answer {
            Answer::Event(Some(reply), outcome) => {
                let generation = self.out.borrow().generation;
                let unsaved = |saved| match saved {
                    Saved::Yes => None,
                    Saved::NotYet(why) => Some(why),
                };
                let _ = reply.send(saved.map(|s| Done { outcome, generation, unsaved: unsaved(s) }));
            }
            Answer::Event(None, _) | Answer::Look => {}
            Answer::Lists(reply, said) => drop(reply.send(said)),
        }
    }
}

impl LedgerState {
    /// Fills a new ledger from the store and the audit log, and takes these entries of an earlier gate over.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn restore(
        ledger: Ledger,
        (out, views): (watch::Sender<Arc<Published>>, watch::Sender<Arc<View>>),
        model: Arc<ReadModel>,
        store: &dyn Store,
        audit: &Path,
        take_over: Vec<Event>,
    ) -> anyhow::Result<LedgerState> {
        let mut me = LedgerState {
            ledger,
            out,
            views,
            model,
            changed: Vec::new(),
            touched: Vec::new(),
            audit: Vec::new(),
            full_lines: LogBudget::of(FULL_LINES),
        };
        let now = me.model.time.now();
        let read = |prefix| store.list(prefix).map(|(entries, _)| entries).context("the store cannot be read");
        // Outside of the line: what a log line says is not worked out where nobody reads the log.
        let live = me.read(read(GRANTS)?, read(BANS)?, now, |_| None);
        info!(grants = live, "grants read");
        *me.model.ended.write() = remembered(audit);
        let entries = take_over.len();
        for event in take_over {
            me.ledger.handle(event, now);
        }
        if entries > 0 {
            info!(entries, taken = me.ledger.len(), "took over the entries of the earlier file");
        }
        me.changed = me.ledger.lists().map(str::to_string).collect();
        me.gather();
        Ok(me)
    }

    /// Takes the ledger's effects.
    fn gather(&mut self) {
        while let Some(effect) = self.ledger.poll_effect() {
            match effect {
                Effect::Persist(g) => {
                    self.touched.push(Id::Grant(g.id));
                    self.model.grants.write().entry(g.list.clone()).or_default().insert(g.prefix, g);
                }
                Effect::Forget(id) => self.touched.push(Id::Grant(id)),
                Effect::Changed(list) => {
                    if !self.changed.contains(&list) {
                        self.changed.push(list);
                    }
                }
                Effect::PersistBan(b) => {
                    self.touched.push(Id::Ban(b.id));
                    self.model.bans.write().insert(b.id, b);
                }
                Effect::ForgetBan(id) => {
                    self.model.bans.write().remove(&id);
                    self.touched.push(Id::Ban(id));
                }
                Effect::Audit(a) => self.audit.push(a),
                Effect::Ended(e) => self.ended(e),
            }
        }
    }

    /// Takes an end or a proof in vain into the model, and says what a full list costs.
    fn ended(&mut self, e: Ended) {
        if matches!(e.what, What::Evicted | What::Full) {
            let mut rooms = self.model.rooms.write();
            let room = rooms.entry(e.list.clone()).or_default();
            match (e.what, e.evidence) {
                (What::Full, _) => room.refused += 1,
                (_, Evidence::Share) => room.guests_evicted += 1,
                _ => room.evicted += 1,
            }
            drop(rooms);
            if let Some(held_back) = self.full_lines.spend(Instant::now()) {
                let who = e.principal.as_deref().unwrap_or("somebody");
                warn!(list = e.list, peer = %e.prefix, who, evidence = %e.evidence, why = e.by, held_back, "list full");
            }
        }
        if !matches!(e.what, What::Refused | What::Full)
            && let Some(list) = self.model.grants.write().get_mut(&e.list)
        {
            list.remove(&e.prefix);
        }
        self.model.ended.write().note(e);
    }

    /// Takes other lists. LedgerState of a list that is back are read from the store.
    fn relist(
        &mut self,
        lists: Vec<(String, Rules)>,
        now: u64,
        stored: &Stored<'_, LedgerState>,
    ) -> Result<String, String> {
        let before: BTreeMap<String, Rules> =
            self.ledger.lists().filter_map(|l| Some((l.to_string(), self.ledger.rules(l)?.clone()))).collect();
        let after: BTreeMap<String, Rules> = lists.into_iter().collect();
        if before == after {
            return Ok("the lists are as they were".to_string());
        }
        let grants = stored.list(GRANTS).map_err(|e| e.to_string())?;
        let bans = stored.list(BANS).map_err(|e| e.to_string())?;
        let mut next = Ledger::new(after.clone(), self.ledger.own().clone());
        next.skip_ids(self.ledger.next_id());
        let old = std::mem::replace(&mut self.ledger, next);
        self.read(grants, bans, now, |id| old.grant(id).cloned());
        self.changed = before.keys().chain(after.keys()).cloned().collect();
        self.changed.sort();
        self.changed.dedup();
        self.gather();
        let mut said: Vec<String> = Vec::new();
        said.extend(after.keys().filter(|n| !before.contains_key(*n)).map(|n| format!("`{n}` is new")));
        said.extend(before.keys().filter(|n| !after.contains_key(*n)).map(|n| format!("`{n}` is gone")));
        let other = |n: &&String| before.get(*n).is_some_and(|b| Some(b) != after.get(*n));
        said.extend(after.keys().filter(other).map(|n| format!("`{n}` changed")));
        Ok(format!("{}; {} grants live", said.join(", "), self.ledger.len()))
    }

    fn publish(&mut self) {
        if self.changed.is_empty() {
            return;
        }
        let before = self.out.borrow().clone();
        let generation = before.generation + 1;
        let mut lists = before.lists.clone();
        for name in std::mem::take(&mut self.changed) {
            let mut rooms = self.model.rooms.write();
            if self.ledger.rules(&name).is_some() {
                let room = rooms.entry(name.clone()).or_default();
                (room.proven, room.guests) = self.ledger.counted(&name);
            } else {
                rooms.remove(&name);
            }
            drop(rooms);
            if self.ledger.rules(&name).is_none() {
                lists.remove(&name);
                continue;
            }
            let d = Arc::new(desired(&self.ledger, &name, generation));
            lists.insert(name, d);
        }
        let mut view = ViewBuilder::default();
        for (name, d) in &lists {
            let then = before.lists.get(name).zip(before.view.id(name).and_then(|id| before.view.list(id)));
            let set = match then {
                Some((b, l)) if Arc::ptr_eq(b, d) => l.set.clone(),
                Some((b, l)) => follow(&l.set, b, d),
                None => d.set(),
            };
            view.add(List { name: name.clone(), set, source: "the gate".to_string() });
        }
        let view = Arc::new(view.build(generation));
        self.views.send_replace(view.clone());
        self.out.send_replace(Arc::new(Published { generation, lists, view }));
    }

    /// Fills an empty ledger from what the store says; `known`: what is newer than the store, signs of life that were not
    /// worth a write. Returns how many grants live.
    fn read(
        &mut self,
        entries: Vec<Entry>,
        bans: Vec<Entry>,
        now: u64,
        known: impl Fn(GrantId) -> Option<Grant>,
    ) -> usize {
        let mut grants = Vec::with_capacity(entries.len());
        let mut next = 1;
        let number = |e: &Entry, of: &str| e.key.strip_prefix(of).and_then(|k| k.parse::<u64>().ok()).unwrap_or(0);
        next = bans.iter().map(|e| number(e, BANS).saturating_add(1)).fold(next, u64::max);
        let bans: Vec<Ban> = bans.iter().filter_map(|e| understood_ban(&e.key, &e.value)).collect();
        for e in entries {
            next = next.max(number(&e, GRANTS).saturating_add(1));
            grants.extend(understood(&e.key, &e.value).map(|g| known(g.id).unwrap_or(g)));
        }
        self.ledger.skip_ids(next);
        let live = self.ledger.restore(grants, bans, now);
        let bans = self.ledger.lists().flat_map(|l| self.ledger.bans(l)).map(|b| (b.id, b.clone()));
        *self.model.bans.write() = bans.collect();
        let mut model: BTreeMap<String, BTreeMap<Prefix, Grant>> = BTreeMap::new();
        for list in self.ledger.lists() {
            let page = model.entry(list.to_string()).or_default();
            page.extend(self.ledger.grants(list).map(|g| (g.prefix, g.clone())));
        }
        *self.model.grants.write() = model;
        let rules = self.ledger.lists().filter_map(|l| Some((l.to_string(), self.ledger.rules(l)?.clone())));
        *self.model.rules.write() = rules.collect();
        live
    }

    fn count(&self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Given(_) => "given",
            Outcome::Renewed(_) => "renewed",
            Outcome::Ended(_) | Outcome::Settled(_) => "ended",
            Outcome::Rejected(_) => "refused",
        };
        *self.model.counts.lock().entry(name).or_default() += 1;
    }
}

/// What these lists hold by a store that no gate has open, and the time now by it; nothing is changed.
///
/// # Errors
/// The store cannot be read.
pub fn saved(
    store: &Path,
    lists: &BTreeMap<String, Rules>,
) -> Result<(BTreeMap<String, Desired>, u64), store::StoreError> {
    let there = store.exists();
    let read = |prefix| if there { store::peek_all(store, prefix) } else { Ok(Vec::new()) };
    let clock = if there { store::peek(store, &format!("{}/clock", LedgerState::NAME))? } else { None };
    let now = Time::after(clock).now();
    let (grants, bans) = (read(GRANTS)?, read(BANS)?);
    let mut ledger = Ledger::new(lists.clone(), AddrSet::default());
    ledger.restore(
        grants.iter().filter_map(|e| understood(&e.key, &e.value)),
        bans.iter().filter_map(|e| understood_ban(&e.key, &e.value)),
        now,
    );
    Ok((lists.keys().map(|name| (name.clone(), desired(&ledger, name, 0))).collect(), now))
}

/// A stored grant. One that is not understood is left in the store as it is: a newer version may read it.
fn understood(key: &str, bytes: &[u8]) -> Option<Grant> {
    let read = serde_json::from_slice::<GrantRecord>(bytes).map_err(|e| e.to_string()).and_then(Grant::try_from);
    read.map_err(|why| warn!(key, err = why, "cannot read a stored grant; it opens nothing")).ok()
}

fn understood_ban(key: &str, bytes: &[u8]) -> Option<Ban> {
    let read = serde_json::from_slice::<BanRecord>(bytes).map_err(|e| e.to_string()).and_then(Ban::try_from);
    read.map_err(|why| warn!(key, err = why, "cannot read a stored ban; it keeps nobody out")).ok()
}

/// What ended in earlier runs, from the end of the audit log. A log that is gone or damaged costs that memory only.
fn remembered(log: &Path) -> Memory {
    let mut memory = Memory::default();
    for line in runtime::audit::tail(log) {
        let About::Grant { grant } = line.about else { continue };
        let (Ok(what), Ok(g)) = (line.what.word().parse(), Grant::try_from(*grant)) else { continue };
        memory.note(Ended {
            at: line.at,
            list: g.list,
            prefix: g.prefix,
            principal: g.claim.principal,
            evidence: g.claim.evidence,
            what,
            by: line.by,
        });
    }
    memory
}

fn record(a: Audit) -> Record {
    let about = match &a.about {
        Subject::Grant(g) => About::Grant { grant: Box::new(GrantRecord::from(g)) },
        Subject::Ban(b) => About::Thing { about: format!("{} on {}", b.whom, b.list) },
    };
    Record { at: a.at, what: crate::verbs::event(a.what), about, by: a.by }
}
