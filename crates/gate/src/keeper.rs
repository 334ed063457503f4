//! The ledger as a state that the owner owns. In: events of teachers and people. Out: grants to save, published lists,
//! audit records, answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use access::ended::{Ended, Memory, What};
use access::ledger::{About as Subject, Audit, Effect, Event, Ledger, Outcome, Rules};
use access::publish::{Desired, desired, follow};
use access::record::{BanRecord, GrantRecord};
use access::{Ban, BanId, Evidence, Grant, GrantId, List, View, ViewBuilder, Whom};
use addr::{Addr, AddrSet, Prefix};
use anyhow::Context;
use net::log_budget::LogBudget;
use parking_lot::{Mutex, RwLock};
use store::{Entry, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use runtime::audit::{About, Record};
use runtime::hint::Hinted;
pub use runtime::owner::Ahead;
use runtime::owner::{self, Kind, NotMade, Owner, Saved, State, Stored, Time, Trouble, Value};
use runtime::run::Run;

/// Everything published, at a generation.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Counts up at every change.
    pub generation: u64,
    /// Each list's desired entries; a list that did not change keeps its `Arc`.
    pub lists: BTreeMap<String, Arc<Desired>>,
    /// The same as a view, for decisions.
    pub view: Arc<View>,
}

/// What came of an event, and the generation that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// What the ledger said.
    pub outcome: Outcome,
    /// Enforcers that reached this generation have it.
    pub generation: u64,
    /// Why it is in force and would be forgotten by a crash; `None`: it is saved.
    pub unsaved: Option<String>,
}

/// What readers see of the keeper, without asking it.
#[derive(Debug, Default)]
pub struct Picture {
    /// Live grants by list and prefix.
    pub grants: RwLock<BTreeMap<String, BTreeMap<Prefix, Grant>>>,
    /// Whose proofs do not count, by number.
    pub bans: RwLock<BTreeMap<BanId, Ban>>,
    /// Why those who are no longer in are not.
    pub ended: RwLock<Memory>,
    /// How full each list is.
    pub rooms: RwLock<BTreeMap<String, Room>>,
    /// The rules of each list.
    pub rules: RwLock<BTreeMap<String, Rules>>,
    /// What is wrong with the store or the audit log; empty when nothing is.
    pub trouble: Trouble,
    /// Counters for metrics, by outcome.
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    /// The time that deadlines are measured by.
    pub time: Arc<Time>,
}

/// How full a list is, and whom that has cost a place since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// LearnedEntries entries that count for `max`.
    pub proven: usize,
    /// Guests of share links.
    pub guests: usize,
    /// Proven ones who left because others came.
    pub evicted: u64,
    /// Guests who did.
    pub guests_evicted: u64,
    /// Proofs in vain because everybody on it has more evidence.
    pub refused: u64,
}

/// How others reach the keeper. Clones reach the same one.
#[derive(Debug, Clone)]
pub struct Keeper {
    asks: mpsc::Sender<Ask>,
    /// What is published.
    pub published: watch::Receiver<Arc<Published>>,
    /// The same lists as a view, for doors that take them.
    pub views: watch::Receiver<Arc<View>>,
    /// What it knows.
    pub picture: Arc<Picture>,
}

/// Something for the ledger, and who waits for what comes of it.
#[derive(Debug)]
pub enum Ask {
    /// Something happened.
    Event(Event, Option<Reply>),
    /// The lists and their rules are these from now on.
    Lists(Vec<(String, Rules)>, oneshot::Sender<Result<String, String>>),
    /// The clock may have moved.
    Look,
}

/// What came of it.
#[derive(Debug)]
pub enum Answer {
    /// Of an event.
    Event(Option<Reply>, Outcome),
    /// Of other lists, in words.
    Lists(oneshot::Sender<Result<String, String>>, Result<String, String>),
    /// Of a look at the clock.
    Look,
}

type Reply = oneshot::Sender<Result<Done, NotMade>>;

/// Events that may wait; a teacher whose event does not fit says so to its client (503).
const QUEUE: usize = 20_000;

const GRANTS: &str = "grants/";
const BANS: &str = "bans/";
/// Lines about full lists: whoever can prove himself can cause them.
const FULL_LINES: u32 = 10;

/// What the ledger saves on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// A grant.
    Grant(GrantId),
    /// A ban.
    Ban(BanId),
}

/// The ledger and what it is shown as.
pub struct Grants {
    ledger: Ledger,
    out: watch::Sender<Arc<Published>>,
    views: watch::Sender<Arc<View>>,
    picture: Arc<Picture>,
    changed: Vec<String>,
    touched: Vec<Id>,
    audit: Vec<Audit>,
    full_lines: LogBudget,
}

impl Keeper {
    /// Reads the store and starts the loop on a thread of its own. `take_over`: entries of an earlier gate, oldest
    /// first, as (list, prefix, ttl); given only if the store has never held this gate.
    ///
    /// # Errors
    /// The store or the audit log can not be read.
    pub fn start(
        run: &Run,
        lists: Vec<(String, Rules)>,
        own: AddrSet,
        store: Arc<dyn Store>,
        audit: &Path,
        take_over: Vec<Event>,
        ahead: Ahead,
    ) -> anyhow::Result<Keeper> {
        let opened = owner::open::<Grants>(store.clone(), audit, ahead)?;
        let (out, published) = watch::channel(Arc::new(Published::default()));
        let (views, seen) = watch::channel(Arc::new(View::default()));
        let (trouble, time) = (opened.trouble.clone(), opened.time.clone());
        let picture = Arc::new(Picture { trouble, time, ..Picture::default() });
        let mut me = Grants {
            ledger: Ledger::new(lists, own),
            out,
            views,
            picture: picture.clone(),
            changed: Vec::new(),
            touched: Vec::new(),
            audit: Vec::new(),
            full_lines: LogBudget::of(FULL_LINES),
        };
        let now = opened.time.now();
        let read = |prefix| store.list(prefix).map(|(entries, _)| entries).context("the store can not be read");
        info!("{} grants read", me.read(read(GRANTS)?, read(BANS)?, now, |_| None));
        *picture.ended.write() = remembered(audit);
        if opened.first_start {
            let count = take_over.len();
            for event in take_over {
                me.ledger.handle(event, now);
            }
            if count > 0 {
                info!("{} of {count} entries of the earlier file taken over", me.ledger.len());
            }
        }
        me.changed = me.ledger.lists().map(str::to_string).collect();
        me.gather();
        let mut owner = Owner::new(opened, me);
        owner.begin().map_err(|e| {
            Hinted::error(
                format!("the gate can not save its grants: {e}"),
                "choose a directory that can be written with `--data-dir DIR`",
            )
        })?;
        let (asks, queue) = mpsc::channel(QUEUE);
        let keeper = Keeper { asks, published, views: seen, picture };
        let stopping = run.stopping();
        run.spawn("gate ledger", async move {
            let runtime = tokio::runtime::Handle::current();
            // The store blocks: a thread of its own, with the runtime's timers.
            tokio::task::spawn_blocking(move || runtime.block_on(owner.run(queue, stopping))).await?;
            Ok(())
        });
        Ok(keeper)
    }

    /// Hands in an event and waits until it is saved and published.
    ///
    /// # Errors
    /// It could not be saved, or too much is waiting; then nothing was given.
    pub async fn tell(&self, event: Event) -> Result<Done, NotMade> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Event(event, Some(reply));
        self.asks.try_send(ask).map_err(|_| NotMade::Busy)?;
        answer.await.map_err(|_| NotMade::Stopping)?
    }

    /// Hands in an event that nobody waits for; if the queue is full it is lost, so only for signs of life.
    pub fn mention(&self, event: Event) {
        let _ = self.asks.try_send(Ask::Event(event, None));
    }

    /// Looks at the clock now instead of at the next deadline.
    pub fn look(&self) {
        let _ = self.asks.try_send(Ask::Look);
    }

    /// Makes these the lists. Grants of a list that is gone stay stored and open nothing; those of a list that is back
    /// count again. Returns what changed, in words. It is in force at once, saved or not: the lists themselves are
    /// written in the configuration.
    ///
    /// # Errors
    /// The store can not be read; everything is as it was.
    pub async fn relist(&self, lists: Vec<(String, Rules)>) -> Result<String, NotMade> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Lists(lists, reply)).await.map_err(|_| NotMade::Stopping)?;
        answer.await.map_err(|_| NotMade::Stopping)?.map_err(NotMade::NotSaved)
    }

    /// The grant behind an entry of a list.
    #[must_use]
    pub fn grant(&self, list: &str, prefix: Prefix) -> Option<Grant> {
        self.picture.grants.read().get(list)?.get(&prefix).cloned()
    }

    /// Whom a person banned from a list, if that is this person or this address.
    #[must_use]
    pub fn banned(&self, list: &str, addr: Addr, principal: &str) -> Option<Whom> {
        let bans = self.picture.bans.read();
        let mut all = bans.values().filter(|b| b.list == list).map(|b| &b.whom);
        all.find(|whom| match whom {
            Whom::Named(name) => name == principal,
            Whom::From(prefix) => prefix.contains(addr),
        })
        .cloned()
    }

    /// The grants of a list that hold an address, most exact first.
    #[must_use]
    pub fn holding(&self, list: &str, addr: Addr) -> Vec<Grant> {
        let grants = self.picture.grants.read();
        let Some(list) = grants.get(list) else { return Vec::new() };
        // Only so many widths exist: one look each beats reading 100,000 grants.
        let widths = (0..=addr.width()).rev();
        widths.filter_map(|w| list.get(&Prefix::new(addr, w)?).cloned()).collect()
    }
}

impl State for Grants {
    const NAME: &'static str = "gate";
    const WHAT: &'static str = "grants are";
    type Id = Id;
    type Change = Ask;
    type Answer = Answer;

    fn kind(&self, ask: &Ask) -> Kind {
        match ask {
            Ask::Event(Event::Proof(_) | Event::Add(_) | Event::AddAll(_) | Event::Unban(_), _) => Kind::Gives,
            Ask::Event(Event::Extend { ids, until, shorten }, _) => {
                let ends = |id: &GrantId| self.ledger.grant(*id).and_then(Grant::ends_at);
                let shorter = until.is_some_and(|u| ids.iter().all(|id| ends(id).is_none_or(|t| u <= t)));
                if *shorten && shorter { Kind::Takes } else { Kind::Gives }
            }
            Ask::Event(Event::Revoke(..) | Event::Withdraw(..) | Event::Close(_), _) | Ask::Lists(..) => Kind::Takes,
            Ask::Event(Event::Seen(..), _) | Ask::Look => Kind::Keeps,
        }
    }

    fn reads(ask: &Ask) -> bool {
        matches!(ask, Ask::Lists(..))
    }

    fn apply(&mut self, ask: Ask, now: u64, stored: &Stored<'_, Grants>) -> Answer {
        match ask {
            Ask::Event(event, reply) => {
                let outcome = self.ledger.handle(event, now);
                self.count(outcome);
                self.gather();
                Answer::Event(reply, outcome)
            }
            Ask::Lists(lists, reply) => Answer::Lists(reply, self.relist(lists, now, stored)),
            Ask::Look => Answer::Look,
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
            Id::Ban(id) => self.picture.bans.read().get(id).map(|b| Value {
                bytes: serde_json::to_vec(&BanRecord::from(b)).unwrap_or_default(),
                deadline: b.until,
            }),
        }
    }

    fn put_back(&mut self, id: &Id, value: Option<&[u8]>, _: u64) {
        let key = Grants::key(id);
        let id = match id {
            Id::Grant(id) => id,
            Id::Ban(id) => {
                let ban = value.and_then(|v| understood_ban(&key, v));
                match &ban {
                    Some(b) => drop(self.picture.bans.write().insert(*id, b.clone())),
                    None => drop(self.picture.bans.write().remove(id)),
                }
                self.ledger.put_back_ban(*id, ban);
                return;
            }
        };
        let grant = value.and_then(|v| understood(&key, v));
        if let Some(g) = self.ledger.grant(*id)
            && let Some(list) = self.picture.grants.write().get_mut(&g.list)
        {
            list.remove(&g.prefix);
        }
        if let Some(g) = grant.as_ref().filter(|g| self.ledger.rules(&g.list).is_some()) {
            self.picture.grants.write().entry(g.list.clone()).or_default().insert(g.prefix, g.clone());
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

impl Grants {
    /// Takes the ledger's effects.
    fn gather(&mut self) {
        while let Some(effect) = self.ledger.poll_effect() {
            match effect {
                Effect::Persist(g) => {
                    self.touched.push(Id::Grant(g.id));
                    self.picture.grants.write().entry(g.list.clone()).or_default().insert(g.prefix, g);
                }
                Effect::Forget(id) => self.touched.push(Id::Grant(id)),
                Effect::Changed(list) => {
                    if !self.changed.contains(&list) {
                        self.changed.push(list);
                    }
                }
                Effect::PersistBan(b) => {
                    self.touched.push(Id::Ban(b.id));
                    self.picture.bans.write().insert(b.id, b);
                }
                Effect::ForgetBan(id) => {
                    self.picture.bans.write().remove(&id);
                    self.touched.push(Id::Ban(id));
                }
                Effect::Audit(a) => self.audit.push(a),
                Effect::Ended(e) => self.ended(e),
            }
        }
    }

    /// Takes an end or a proof in vain into the picture, and says what a full list costs.
    fn ended(&mut self, e: Ended) {
        if matches!(e.what, What::Evicted | What::Full) {
            let mut rooms = self.picture.rooms.write();
            let room = rooms.entry(e.list.clone()).or_default();
            match (e.what, e.evidence) {
                (What::Full, _) => room.refused += 1,
                (_, Evidence::Share) => room.guests_evicted += 1,
                _ => room.evicted += 1,
            }
            drop(rooms);
            if let Some(held_back) = self.full_lines.spend(Instant::now()) {
                let who = e.principal.as_deref().unwrap_or("somebody");
                let more = if held_back > 0 { format!(" ({held_back} more of these)") } else { String::new() };
                warn!("{} ({who}, {}) has no place on `{}`: {}{more}", e.prefix, e.evidence, e.list, e.by);
            }
        }
        if !matches!(e.what, What::Refused | What::Full)
            && let Some(list) = self.picture.grants.write().get_mut(&e.list)
        {
            list.remove(&e.prefix);
        }
        self.picture.ended.write().note(e);
    }

    /// Takes other lists. Grants of a list that is back are read from the store.
    fn relist(&mut self, lists: Vec<(String, Rules)>, now: u64, stored: &Stored<'_, Grants>) -> Result<String, String> {
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
            let mut rooms = self.picture.rooms.write();
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
        *self.picture.bans.write() = bans.collect();
        let mut picture: BTreeMap<String, BTreeMap<Prefix, Grant>> = BTreeMap::new();
        for list in self.ledger.lists() {
            let page = picture.entry(list.to_string()).or_default();
            page.extend(self.ledger.grants(list).map(|g| (g.prefix, g.clone())));
        }
        *self.picture.grants.write() = picture;
        let rules = self.ledger.lists().filter_map(|l| Some((l.to_string(), self.ledger.rules(l)?.clone())));
        *self.picture.rules.write() = rules.collect();
        live
    }

    fn count(&self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Given(_) => "given",
            Outcome::Renewed(_) => "renewed",
            Outcome::Ended(_) | Outcome::Settled(_) => "ended",
            Outcome::Refused(_) => "refused",
        };
        *self.picture.counts.lock().entry(name).or_default() += 1;
    }
}

/// A stored grant. One that is not understood is left in the store as it is: a newer version may read it.
fn understood(key: &str, bytes: &[u8]) -> Option<Grant> {
    let read = serde_json::from_slice::<GrantRecord>(bytes).map_err(|e| e.to_string()).and_then(Grant::try_from);
    read.map_err(|why| warn!("the stored grant {key} is not understood and opens nothing: {why}")).ok()
}

fn understood_ban(key: &str, bytes: &[u8]) -> Option<Ban> {
    let read = serde_json::from_slice::<BanRecord>(bytes).map_err(|e| e.to_string()).and_then(Ban::try_from);
    read.map_err(|why| warn!("the stored ban {key} is not understood and keeps nobody out: {why}")).ok()
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

/// What the keeper's answer means in words, for a person.
///
/// # Errors
/// The event was refused.
pub fn said(done: Result<Done, NotMade>) -> anyhow::Result<Done> {
    match done {
        Err(e) => Err(anyhow::Error::new(e).context("nothing was changed")),
        Ok(Done { outcome: Outcome::Refused(why), .. }) => Err(api::Error::refused(why.to_string()).into()),
        Ok(done) => Ok(done),
    }
}

fn record(a: Audit) -> Record {
    let about = match &a.about {
        Subject::Grant(g) => About::Grant { grant: Box::new(GrantRecord::from(g)) },
        Subject::Ban(b) => About::Thing { about: format!("{} on {}", b.whom, b.list) },
    };
    Record { at: a.at, what: crate::verbs::event(a.what), about, by: a.by }
}
