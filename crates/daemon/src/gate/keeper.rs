//! The loop that owns the ledger and the store. In: events of teachers and people. Out: saved grants, published lists,
//! audit lines, answers. What it answered is on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use decide::clock::Clock;
use decide::ended::{Ended, Memory, What};
use decide::grant::{About as Subject, Audit, Effect, Event, Ledger, Outcome, Rules};
use decide::publish::{Desired, desired, follow};
use model::{Addr, AddrSet, Ban, BanId, Evidence, Grant, GrantId, List, Prefix, View, ViewBuilder};
use net::log_budget::LogBudget;
use parking_lot::{Mutex, RwLock};
use store::{If, Step, Store, StoreError};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};
use wire::grant::{BanRecord, GrantRecord};

use crate::audit::{About, Log, Record};
use crate::hint::Hinted;
use crate::run::Run;
use crate::wall;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What the ledger said.
    pub outcome: Outcome,
    /// Enforcers that reached this generation have it.
    pub generation: u64,
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
    pub trouble: Mutex<BTreeMap<&'static str, String>>,
    /// Counters for metrics, by outcome.
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    /// The time that deadlines are measured by, and by how much the wall clock is behind it.
    pub clock: Mutex<(u64, u64)>,
}

/// How full a list is, and whom that has cost a place since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Learnt entries that count for `max`.
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

/// Seconds by which the clock runs ahead of the real one: for the demo, which says so. `None`: the real clock.
#[derive(Debug, Clone, Default)]
pub struct Ahead(pub Option<Arc<AtomicU64>>);

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

#[derive(Debug)]
enum Ask {
    /// Something happened; somebody may wait for what comes of it.
    Event(Event, Option<Reply>),
    /// The lists and their rules are these from now on.
    Lists(Vec<(String, Rules)>, oneshot::Sender<Result<String, String>>),
    /// The clock may have moved.
    Look,
}

type Reply = oneshot::Sender<Result<Done, String>>;

/// Events that may wait; a teacher whose event does not fit says so to its client (503).
const QUEUE: usize = 20_000;
/// Events saved in one transaction: enough that a burst of thousands costs a few, few enough that the first is not
/// kept waiting.
const GROUP: usize = 1_024;
/// How often the time is saved while grants live, so that a clock set back over a restart gives at most this.
const SAVE_CLOCK: u64 = 60;
/// How long a failing store is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(2);

const GRANTS: &str = "grants/";
const BANS: &str = "bans/";
/// Lines about full lists: whoever can prove himself can cause them.
const FULL_LINES: u32 = 10;
const CLOCK: &str = "gate/clock";

struct Loop {
    ledger: Ledger,
    store: Arc<dyn Store>,
    log: Log,
    clock: Clock,
    ahead: Ahead,
    started: Instant,
    saved_clock: u64,
    out: watch::Sender<Arc<Published>>,
    views: watch::Sender<Arc<View>>,
    picture: Arc<Picture>,
    changed: Vec<String>,
    persist: BTreeMap<GrantId, Grant>,
    /// Ended grants that the store still has.
    forget: Vec<GrantId>,
    audit: Vec<Audit>,
    /// Bans that the store does not have yet; they are in force all the same.
    ban: BTreeMap<BanId, Ban>,
    /// Ended bans that the store still has.
    unban: Vec<BanId>,
    full_lines: LogBudget,
    retry_at: Option<Instant>,
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
        let log = Log::open(audit)?;
        let saved = store.get(CLOCK).context("the store can not be read")?;
        let first_start = saved.is_none();
        let saved = saved.and_then(|e| String::from_utf8(e.value).ok()?.parse().ok()).unwrap_or(0);
        let (out, published) = watch::channel(Arc::new(Published::default()));
        let (views, seen) = watch::channel(Arc::new(View::default()));
        let picture = Arc::new(Picture::default());
        let mut me = Loop {
            ledger: Ledger::new(lists, own),
            store,
            log,
            clock: Clock::new(wall(), saved, 0),
            ahead,
            started: Instant::now(),
            saved_clock: 0,
            out,
            views,
            picture: picture.clone(),
            changed: Vec::new(),
            persist: BTreeMap::new(),
            forget: Vec::new(),
            audit: Vec::new(),
            ban: BTreeMap::new(),
            unban: Vec::new(),
            full_lines: LogBudget::of(FULL_LINES),
            retry_at: None,
        };
        let live = me.read_store().context("the store can not be read")?;
        let behind = me.clock.ahead_of(wall());
        if behind > SAVE_CLOCK {
            warn!("the clock is {behind} s behind the latest saved time; deadlines go on from the saved time");
        }
        info!("{live} grants read");
        *picture.ended.write() = remembered(audit);
        if first_start {
            let now = me.now();
            let count = take_over.len();
            for event in take_over {
                me.ledger.handle(event, now);
            }
            if count > 0 {
                info!("{} of {count} entries of the earlier file taken over", me.ledger.len());
            }
        }
        me.saved_clock = 0;
        me.changed = me.ledger.lists().map(str::to_string).collect();
        me.gather();
        me.flush().map_err(|e| {
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
            tokio::task::spawn_blocking(move || runtime.block_on(me.run(queue, stopping))).await?;
            Ok(())
        });
        Ok(keeper)
    }

    /// Hands in an event and waits until it is saved and published.
    ///
    /// # Errors
    /// It could not be saved, or too much is waiting; then nothing was given.
    pub async fn tell(&self, event: Event) -> Result<Done, String> {
        let (reply, answer) = oneshot::channel();
        let ask = Ask::Event(event, Some(reply));
        self.asks.try_send(ask).map_err(|_| "too many events are waiting".to_string())?;
        answer.await.map_err(|_| "the gate is stopping".to_string())?
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
    /// count again. Returns what changed, in words.
    ///
    /// # Errors
    /// The store fails; everything is as it was.
    pub async fn relist(&self, lists: Vec<(String, Rules)>) -> Result<String, String> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(Ask::Lists(lists, reply)).await.map_err(|_| "the gate is stopping".to_string())?;
        answer.await.map_err(|_| "the gate is stopping".to_string())?
    }

    /// The grant behind an entry of a list.
    #[must_use]
    pub fn grant(&self, list: &str, prefix: Prefix) -> Option<Grant> {
        self.picture.grants.read().get(list)?.get(&prefix).cloned()
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

impl Loop {
    async fn run(mut self, mut queue: mpsc::Receiver<Ask>, stopping: impl Future<Output = ()>) {
        tokio::pin!(stopping);
        let mut group = Vec::new();
        loop {
            let wake = self.wake();
            tokio::select! {
                n = queue.recv_many(&mut group, GROUP) => {
                    if n == 0 {
                        break;
                    }
                    self.take(std::mem::take(&mut group));
                }
                () = tokio::time::sleep(wake) => self.tick(),
                () = &mut stopping, if !queue.is_closed() => queue.close(),
            }
        }
        self.tick();
    }

    /// How long until a deadline or a retry.
    fn wake(&mut self) -> Duration {
        let now = self.now();
        let due = self.ledger.poll_timeout().map_or(SAVE_CLOCK, |t| t.saturating_sub(now)).min(SAVE_CLOCK);
        let due = Duration::from_secs(due).max(Duration::from_millis(100));
        self.retry_at.map_or(due, |at| due.min(at.saturating_duration_since(Instant::now())))
    }

    fn now(&mut self) -> u64 {
        let wall = wall().saturating_add(self.ahead.0.as_ref().map_or(0, |a| a.load(Ordering::SeqCst)));
        let now = self.clock.tick(wall, self.started.elapsed().as_secs());
        *self.picture.clock.lock() = (now, self.clock.ahead_of(wall));
        now
    }

    fn tick(&mut self) {
        let now = self.now();
        self.ledger.handle_timeout(now);
        self.gather();
        // An end is published at once; the store hears of it beside.
        self.publish();
        if self.retry_at.is_none_or(|at| Instant::now() >= at) {
            self.retry_at = None;
            let _ = self.flush();
        }
    }

    fn take(&mut self, group: Vec<Ask>) {
        let mut replies: Vec<(Reply, Outcome)> = Vec::new();
        let mut group: VecDeque<Ask> = group.into();
        while let Some(ask) = group.pop_front() {
            let (event, reply) = match ask {
                Ask::Event(event, reply) => (event, reply),
                Ask::Lists(lists, reply) => {
                    self.settle(std::mem::take(&mut replies));
                    let _ = reply.send(self.relist(lists).map_err(|e| e.to_string()));
                    continue;
                }
                Ask::Look => {
                    self.tick();
                    continue;
                }
            };
            let ends = matches!(event, Event::Revoke(..) | Event::Withdraw(..) | Event::Close(_));
            if ends {
                // What was given before must be saved before anything is published.
                self.settle(std::mem::take(&mut replies));
            }
            let now = self.now();
            let outcome = self.ledger.handle(event, now);
            self.count(outcome);
            self.gather();
            if let Some(reply) = reply {
                replies.push((reply, outcome));
            }
            if ends {
                self.publish();
                self.settle(std::mem::take(&mut replies));
            }
        }
        self.settle(replies);
    }

    /// Saves, publishes, answers.
    fn settle(&mut self, replies: Vec<(Reply, Outcome)>) {
        let saved = self.flush().map_err(|e| e.to_string());
        let generation = self.out.borrow().generation;
        for (reply, outcome) in replies {
            // A refusal needed no saving.
            let refused = matches!(outcome, Outcome::Refused(_));
            let answer = match &saved {
                Err(e) if !refused => Err(e.clone()),
                _ => Ok(Done { outcome, generation }),
            };
            // Whoever asked may have gone: it is done all the same.
            let _ = reply.send(answer);
        }
    }

    /// Takes the ledger's effects.
    fn gather(&mut self) {
        while let Some(effect) = self.ledger.poll_effect() {
            match effect {
                Effect::Persist(g) => {
                    self.picture.grants.write().entry(g.list.clone()).or_default().insert(g.prefix, g.clone());
                    self.persist.insert(g.id, g);
                }
                Effect::Forget(id) => {
                    self.persist.remove(&id);
                    self.forget.push(id);
                }
                Effect::Changed(list) => {
                    if !self.changed.contains(&list) {
                        self.changed.push(list);
                    }
                }
                Effect::PersistBan(b) => {
                    self.picture.bans.write().insert(b.id, b.clone());
                    self.ban.insert(b.id, b);
                }
                Effect::ForgetBan(id) => {
                    self.picture.bans.write().remove(&id);
                    self.ban.remove(&id);
                    self.unban.push(id);
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

    /// Saves everything that waits, then publishes. On failure the ledger goes back to what is saved, without what
    /// was ended.
    fn flush(&mut self) -> Result<(), StoreError> {
        let saved = self.save();
        match &saved {
            Ok(()) => {
                self.persist.clear();
                self.forget.clear();
                self.ban.clear();
                self.unban.clear();
                self.picture.trouble.lock().remove("store");
                self.retry_at = None;
                self.publish();
            }
            Err(e) => {
                if self.picture.trouble.lock().insert("store", e.to_string()).is_none() {
                    error!(
                        "the store does not save: {e}; live grants stay in force, no new ones are given until it does"
                    );
                }
                self.retry_at = Some(Instant::now() + RETRY);
                self.persist.clear();
                // Nobody is told of a grant that was not given.
                self.audit.retain(|a| !matches!(a.what, What::Given | What::Unbanned));
                self.unban.clear();
                if let Err(e) = self.read_store() {
                    error!("the store can not be read either: {e}");
                }
                self.changed = self.ledger.lists().map(str::to_string).collect();
                self.publish();
            }
        }
        let audit = std::mem::take(&mut self.audit);
        match self.log.append(audit.into_iter().map(record)) {
            Ok(()) => {
                self.picture.trouble.lock().remove("audit");
            }
            Err(e) => {
                if self.picture.trouble.lock().insert("audit", format!("{e:#}")).is_none() {
                    error!("{e:#}; the records wait in memory");
                }
            }
        }
        saved
    }

    fn save(&mut self) -> Result<(), StoreError> {
        let mut steps: Vec<Step> = Vec::with_capacity(self.persist.len() + self.forget.len() + 1);
        for g in self.persist.values() {
            let value = serde_json::to_vec(&GrantRecord::from(g)).map_err(|e| StoreError::Other(e.to_string()))?;
            steps.push(Step::Put { key: key(g.id), value, deadline: g.ends_at(), when: If::Anyway });
        }
        for b in self.ban.values() {
            let value = serde_json::to_vec(&BanRecord::from(b)).map_err(|e| StoreError::Other(e.to_string()))?;
            steps.push(Step::Put { key: ban_key(b.id), value, deadline: b.until, when: If::Anyway });
        }
        steps.extend(self.unban.iter().map(|id| Step::Delete { key: ban_key(*id), when: If::Anyway }));
        steps.extend(self.forget.iter().map(|id| Step::Delete { key: key(*id), when: If::Anyway }));
        let now = self.now();
        if now >= self.saved_clock.saturating_add(SAVE_CLOCK) {
            let value = now.to_string().into_bytes();
            steps.push(Step::Put { key: CLOCK.to_string(), value, deadline: None, when: If::Anyway });
        }
        if steps.is_empty() {
            return Ok(());
        }
        self.store.write(&steps)?;
        if matches!(steps.last(), Some(Step::Put { key, .. }) if key == CLOCK) {
            self.saved_clock = now;
        }
        Ok(())
    }

    /// Takes other lists. Everything known is saved first, so that what is read back is what was in force.
    fn relist(&mut self, lists: Vec<(String, Rules)>) -> Result<String, StoreError> {
        let before: BTreeMap<String, Rules> =
            self.ledger.lists().filter_map(|l| Some((l.to_string(), self.ledger.rules(l)?.clone()))).collect();
        let after: BTreeMap<String, Rules> = lists.into_iter().collect();
        if before == after {
            return Ok("the lists are as they were".to_string());
        }
        self.persist.extend(self.ledger.unsaved().map(|g| (g.id, g.clone())).collect::<Vec<_>>());
        self.flush()?;
        let mut next = Ledger::new(after.clone(), self.ledger.own().clone());
        next.skip_ids(self.ledger.next_id());
        let old = std::mem::replace(&mut self.ledger, next);
        if let Err(e) = self.read_store() {
            self.ledger = old;
            return Err(e);
        }
        self.changed = before.keys().chain(after.keys()).cloned().collect();
        self.changed.sort();
        self.changed.dedup();
        self.gather();
        // An end is published at once, and so is an entry that is no longer static.
        self.publish();
        self.flush()?;
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
            let (proven, guests) = self.ledger.counted(&name);
            let mut rooms = self.picture.rooms.write();
            let room = rooms.entry(name.clone()).or_default();
            (room.proven, room.guests) = (proven, guests);
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

    /// Makes the ledger what the store says, without what was ended since. Returns how many grants live.
    fn read_store(&mut self) -> Result<usize, StoreError> {
        let (entries, _) = self.store.list(GRANTS)?;
        let mut grants = Vec::with_capacity(entries.len());
        let mut next = 1;
        for e in entries {
            if let Some(id) = e.key.strip_prefix(GRANTS).and_then(|k| k.parse::<u64>().ok()) {
                next = next.max(id.saturating_add(1));
            }
            let read =
                serde_json::from_slice::<GrantRecord>(&e.value).map_err(|e| e.to_string()).and_then(Grant::try_from);
            match read {
                Ok(g) if self.forget.contains(&g.id) => {}
                Ok(g) => grants.push(g),
                // Left in the store as it is: a newer version may read it.
                Err(why) => warn!("the stored grant {} is not understood and opens nothing: {why}", e.key),
            }
        }
        let (entries, _) = self.store.list(BANS)?;
        let mut bans: Vec<Ban> = Vec::with_capacity(entries.len());
        for e in entries {
            if let Some(id) = e.key.strip_prefix(BANS).and_then(|k| k.parse::<u64>().ok()) {
                next = next.max(id.saturating_add(1));
            }
            match serde_json::from_slice::<BanRecord>(&e.value).map_err(|e| e.to_string()).and_then(Ban::try_from) {
                Ok(b) => bans.push(b),
                Err(why) => warn!("the stored ban {} is not understood and keeps nobody out: {why}", e.key),
            }
        }
        // What keeps somebody out is in force before it is saved.
        bans.extend(self.ban.values().cloned());
        let now = self.now();
        let lists: Vec<(String, Rules)> =
            self.ledger.lists().filter_map(|l| Some((l.to_string(), self.ledger.rules(l)?.clone()))).collect();
        let own = self.ledger.own().clone();
        let ids = self.ledger.next_id().max(next);
        self.ledger = Ledger::new(lists, own);
        self.ledger.skip_ids(ids);
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
        Ok(live)
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

fn key(id: GrantId) -> String {
    // Fixed width: listed by key is listed by number.
    format!("{GRANTS}{:020}", id.0)
}

fn ban_key(id: BanId) -> String {
    format!("{BANS}{:020}", id.0)
}

/// What ended in earlier runs, from the end of the audit log. A log that is gone or damaged costs that memory only.
fn remembered(log: &Path) -> Memory {
    let mut memory = Memory::default();
    for line in crate::audit::tail(log) {
        let About::Grant { grant } = line.about else { continue };
        let (Ok(what), Ok(g)) = (line.what.parse(), Grant::try_from(grant)) else { continue };
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
pub fn said(done: Result<Done, String>) -> anyhow::Result<Done> {
    match done {
        Err(e) => Err(anyhow!("nothing was changed: {e}")),
        Ok(Done { outcome: Outcome::Refused(why), .. }) => Err(anyhow!("{why}")),
        Ok(done) => Ok(done),
    }
}

fn record(a: Audit) -> Record {
    let about = match &a.about {
        Subject::Grant(g) => About::Grant { grant: GrantRecord::from(g) },
        Subject::Ban(b) => About::Thing { about: format!("{} on {}", b.whom, b.list) },
    };
    Record { at: a.at, what: a.what.word().to_string(), about, by: a.by }
}
