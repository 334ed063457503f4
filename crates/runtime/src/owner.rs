//! The one loop that owns a kind of state: grants, the mesh. In: changes. Out: what came of them, in an order that holds
//! whatever the disk does.
//!
//! - What gives is saved first and shown then; if it cannot be saved it is put back and its asker is told.
//! - What takes is in force at once and saved beside; if it cannot be saved it stays in force, its asker is told, and
//!   it is tried again until it can be.
//! - Signs of life are kept, saved or not.
//!
//! A change and its audit record are one transaction. Changes that come together are saved together. Time is kept
//! here, and what of it a restart must know.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use access::clock::{Clock, Jump};
use anyhow::Context;
use parking_lot::Mutex;
use store::{Entry, If, Step, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::audit::{About, Log, Queue, Record};
use crate::wall;
use crate::watchdog::Pulse;

/// What a change does for those who want in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A sign of life: nobody gets in or out by it.
    Keeps,
    /// Somebody may be let out by it, and nobody in.
    Takes,
    /// Somebody may be let in by it.
    Gives,
}

/// How well a change that was made is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// It is on the disk.
    Yes,
    /// It is in force and would be forgotten by a crash; it is tried again. Why.
    NotYet(String),
}

/// Why a change was not made. Nothing is different.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotMade {
    /// More changes wait than are let in.
    #[error("too many changes are waiting")]
    Busy,
    /// The process ends.
    #[error("it is stopping")]
    Stopping,
    /// The disk did not take it, and it is nothing that may be in force without. Why.
    #[error("{0}")]
    NotSaved(String),
}

/// The bytes of a thing, and when its entry may be tidied away (seconds since the Unix epoch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// When they are of no use any more.
    pub deadline: Option<u64>,
}

/// State that an [`Owner`] owns.
pub trait State: Send + Sized + 'static {
    /// The first word of its keys: `gate`, `mesh`.
    const NAME: &'static str;
    /// What is saved, for people.
    const WHAT: &'static str;
    /// A thing that is saved on its own.
    type Id: Ord + Clone + Send;
    /// What may happen to it.
    type Change: Send;
    /// What came of a change, and who is to be told.
    type Answer: Send;

    /// What a change does.
    fn kind(&self, change: &Self::Change) -> Kind;
    /// True if everything before it must be saved, because it reads the store.
    fn reads(_change: &Self::Change) -> bool {
        false
    }
    /// Makes a change. `now`: seconds since the Unix epoch.
    fn apply(&mut self, change: Self::Change, now: u64, stored: &Stored<'_, Self>) -> Self::Answer;
    /// The clock was set to `now` by a person. If it said a later time before, nothing must last longer by that.
    fn set_back(&mut self, now: u64);
    /// Does what time brings; that only takes.
    fn tick(&mut self, now: u64);
    /// The things that were changed since it was last asked.
    fn touched(&mut self) -> Vec<Self::Id>;
    /// What is to be on record since it was last asked.
    fn records(&mut self) -> Vec<Record>;
    /// Where a thing is stored.
    fn key(id: &Self::Id) -> String;
    /// What is to be stored of it; `None`: nothing.
    fn value(&self, id: &Self::Id) -> Option<Value>;
    /// Makes a thing what these bytes say, without a word on record: a change that could not be saved.
    fn put_back(&mut self, id: &Self::Id, value: Option<&[u8]>, now: u64);
    /// The same where what was saved cannot be read either: until the next start it lets nobody in.
    fn shut(&mut self, id: &Self::Id, now: u64) {
        self.put_back(id, None, now);
    }
    /// Lets readers see what is there now.
    fn show(&mut self, now: u64);
    /// When [`State::tick`] has something to do, seconds since the Unix epoch.
    fn deadline(&self, now: u64) -> Option<u64>;
    /// Tells who asked.
    fn reply(&mut self, answer: Self::Answer, saved: Result<Saved, NotMade>);
    /// Says what was put on record.
    fn say(&self, _record: &Record) {}
}

/// What the store holds, with what is in force and not saved yet.
pub struct Stored<'a, S: State> {
    store: &'a dyn Store,
    unsaved: &'a BTreeMap<S::Id, Option<Value>>,
}

impl<S: State> Stored<'_, S> {
    /// Every entry whose key starts with `prefix`, by key.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self, prefix: &str) -> Result<Vec<Entry>, StoreError> {
        let (entries, _) = self.store.list(prefix)?;
        let mut all: BTreeMap<String, Entry> = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        for (key, value) in self.unsaved.iter().map(|(id, v)| (S::key(id), v)) {
            match value {
                None => drop(all.remove(&key)),
                Some(v) if key.starts_with(prefix) => {
                    let e = Entry { key: key.clone(), value: v.bytes.clone(), revision: 0, deadline: v.deadline };
                    all.insert(key, e);
                }
                Some(_) => {}
            }
        }
        Ok(all.into_values().collect())
    }
}

/// Seconds by which the clock runs ahead of the real one: for the demo, which says so. `None`: the real clock.
#[derive(Debug, Clone, Default)]
pub struct Ahead(pub Option<Arc<AtomicU64>>);

/// The time that deadlines are measured by.
#[derive(Debug)]
pub struct Time {
    clock: Mutex<Clock>,
    ahead: Ahead,
    started: Duration,
    /// Who asked for a reset and waits for it.
    asked: Mutex<Vec<oneshot::Sender<Reset>>>,
}

/// What a reset of the clock did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    /// The time that deadlines went by, seconds since the Unix epoch.
    pub from: u64,
    /// What was saved for the next start.
    pub floor: u64,
    /// The wall clock, which they go by now.
    pub to: u64,
}

/// The wall clock of a process that knows of no earlier one.
impl Default for Time {
    fn default() -> Time {
        Time::new(0, Ahead::default())
    }
}

impl Time {
    pub(crate) fn new(saved: u64, ahead: Ahead) -> Time {
        let clock = Mutex::new(Clock::new(wall(), saved, 0));
        Time { clock, ahead, started: since_boot(), asked: Mutex::default() }
    }

    /// The clock of a process that starts from what a store has at `NAME/clock`.
    #[must_use]
    pub fn after(saved: Option<Vec<u8>>) -> Time {
        Time::new(saved.and_then(|s| String::from_utf8(s).ok()?.parse().ok()).unwrap_or(0), Ahead::default())
    }

    /// The time now, seconds since the Unix epoch.
    #[must_use]
    pub fn now(&self) -> u64 {
        // The demo's clock runs ahead, which is no jump.
        let mono = since_boot().saturating_sub(self.started).as_secs().saturating_add(self.ahead());
        self.clock.lock().tick(self.wall(), mono)
    }

    /// Seconds by which the wall clock is behind.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.clock.lock().ahead_of(self.wall())
    }

    /// A jump of the wall clock that is not believed yet.
    #[must_use]
    pub fn jump(&self) -> Option<Jump> {
        self.clock.lock().jump(self.wall())
    }

    /// The latest time that is beyond doubt: what a restart goes on from.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.clock.lock().floor()
    }

    /// The wall clock is right, says a person: the owner goes by it from its next turn on, saves that, and answers then.
    pub fn ask_reset(&self) -> oneshot::Receiver<Reset> {
        let (reply, answer) = oneshot::channel();
        self.asked.lock().push(reply);
        answer
    }

    fn reset(&self) -> Reset {
        let from = self.now();
        let (floor, to) = (self.floor(), self.wall());
        self.clock.lock().reset(to);
        Reset { from, floor, to }
    }

    fn ahead(&self) -> u64 {
        self.ahead.0.as_ref().map_or(0, |a| a.load(Ordering::SeqCst))
    }

    /// The wall clock, seconds since the Unix epoch.
    pub(crate) fn wall(&self) -> u64 {
        wall().saturating_add(self.ahead())
    }
}

/// A clock that only runs forwards, and runs while the machine sleeps: a laptop that wakes has not jumped.
fn since_boot() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(t.tv_sec).unwrap_or(0), u32::try_from(t.tv_nsec).unwrap_or(0))
}

/// What is wrong, for whoever asks: `store`, `audit`; empty when nothing is.
pub type Trouble = Arc<Mutex<BTreeMap<&'static str, String>>>;

/// Changes saved in one transaction: enough that a burst of thousands costs a few, few enough that the first is not
/// kept waiting.
const GROUP: usize = 1_024;
/// How often the time is saved, so that a clock set back over a restart gives at most this.
const SAVE_CLOCK: u64 = 60;
/// How long a failing store is left alone before what is in force is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// The owner: state, and what must happen around every change of it.
pub struct Owner<S: State> {
    state: S,
    store: Arc<dyn Store>,
    log: Log,
    time: Arc<Time>,
    saved_clock: u64,
    trouble: Trouble,
    /// In force and not saved: what the next transaction has to bring.
    unsaved: BTreeMap<S::Id, Option<Value>>,
    /// The records of that.
    owed: Vec<Record>,
    /// What is being done.
    batch: Batch<S>,
    retry_at: Option<Instant>,
    jump_said: bool,
}

/// Changes that were made and not saved yet.
struct Batch<S: State> {
    /// What they touched; true where one of them gives.
    touched: BTreeMap<S::Id, bool>,
    /// What was taken before something was given: that stays if giving fails.
    taken: BTreeMap<S::Id, Option<Value>>,
    /// Their records, in order; true where the change gives.
    records: Vec<(bool, Record)>,
    /// Who waits: the answer, what the change does, and whether the answer rests on what is not saved.
    replies: Vec<(S::Answer, Kind, bool)>,
    /// Some change gives.
    gives: bool,
    /// Some change takes, and readers have not seen it.
    unseen: bool,
}

impl<S: State> Default for Batch<S> {
    fn default() -> Batch<S> {
        let (touched, taken, records, replies) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        Batch { touched, taken, records, replies, gives: false, unseen: false }
    }
}

/// The store, the log and the time, opened; the state is read next.
pub struct Opened {
    /// The time now.
    pub time: Arc<Time>,
    /// What is wrong.
    pub trouble: Trouble,
    /// True if the store has never held this state.
    pub first_start: bool,
    store: Arc<dyn Store>,
    log: Log,
}

/// Opens the audit log, and brings it and the clock to what the store knows.
///
/// # Errors
/// The store or the audit log cannot be read.
pub fn open<S: State>(store: Arc<dyn Store>, audit: &Path, ahead: Ahead) -> anyhow::Result<Opened> {
    let mut log = Log::open(audit)?;
    let entry = |what: &str| store.get(&format!("{}/{what}", S::NAME)).context("the store cannot be read");
    let saved = entry("clock")?;
    let first_start = saved.is_none();
    let saved = saved.and_then(|e| String::from_utf8(e.value).ok()?.parse().ok()).unwrap_or(0);
    let time = Arc::new(Time::new(saved, ahead));
    let now = time.now();
    let (behind, ahead) = (time.behind(), now.saturating_sub(saved));
    if behind > SAVE_CLOCK {
        warn!(
            state = S::NAME,
            behind_s = behind,
            "the clock is behind the latest saved time; deadlines go on from the saved time. If the clock is right and that \
             time was not: `portcullis clock reset`"
        );
    }
    if time.jump().is_some() {
        info!(state = S::NAME, ago = length(ahead), "the clock is far ahead of the last saved time");
    }
    let trouble = Trouble::default();
    if let Some(e) = entry("audit")? {
        // A damaged note about the log ends nobody's access.
        let queue: Option<Queue> = serde_json::from_slice(&e.value).ok();
        match queue.map(|q| log.catch_up(q, now)) {
            Some(Ok(None)) => {}
            Some(Ok(Some(why))) => error!(
                path = %audit.display(),
                why,
                "the audit log is not the one that was written: lines are missing or were changed. It goes on, and records \
                 that. Was it rotated or restored? Do that while nothing runs, together with the store"
            ),
            Some(Err(e)) => {
                error!(state = S::NAME, err = format!("{e:#}"), "cannot write the audit log; the records wait")
            }
            None => warn!(state = S::NAME, "cannot read what the store knows of the audit log"),
        }
    }
    Ok(Opened { time, trouble, first_start, store, log })
}

impl<S: State> Owner<S> {
    /// An owner of what was read.
    pub fn new(opened: Opened, state: S) -> Owner<S> {
        let Opened { time, trouble, store, log, .. } = opened;
        Owner {
            state,
            store,
            log,
            time,
            saved_clock: 0,
            trouble,
            unsaved: BTreeMap::new(),
            owed: Vec::new(),
            batch: Batch::default(),
            retry_at: None,
            jump_said: false,
        }
    }

    /// Saves what reading brought about, with the time.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn begin(&mut self) -> Result<(), String> {
        let now = self.now();
        self.collect(Kind::Takes);
        self.settle(now);
        self.trouble.lock().get("store").cloned().map_or(Ok(()), Err)
    }

    /// Takes changes until the queue is closed.
    pub async fn run(
        mut self,
        mut queue: mpsc::Receiver<S::Change>,
        mut pulse: Pulse,
        stopping: impl Future<Output = ()>,
    ) {
        tokio::pin!(stopping);
        let mut group = Vec::new();
        loop {
            let wake = self.wake();
            tokio::select! {
                n = queue.recv_many(&mut group, GROUP) => if n == 0 { break },
                () = tokio::time::sleep(wake) => {}
                () = pulse.asked() => {}
                // What is in the queue was asked for before the stop.
                () = &mut stopping, if !queue.is_closed() => queue.close(),
            }
            self.turn(group.drain(..));
        }
        self.retry_at = None;
        self.turn([]);
        if !self.unsaved.is_empty() {
            error!(
                state = S::NAME,
                changes = self.unsaved.len(),
                "changes in force are not saved and end with this process"
            );
        }
    }

    /// How long until a deadline or a retry.
    fn wake(&self) -> Duration {
        let now = self.time.now();
        let due = self.state.deadline(now).map_or(SAVE_CLOCK, |t| t.saturating_sub(now)).min(SAVE_CLOCK);
        let due = Duration::from_secs(due).max(Duration::from_millis(100));
        self.retry_at.map_or(due, |at| due.min(at.saturating_duration_since(Instant::now())))
    }

    /// The time now; says once that the clock jumped.
    fn now(&mut self) -> u64 {
        let now = self.time.now();
        match (self.time.jump(), self.jump_said) {
            (Some(jump), false) => {
                self.jump_said = true;
                if now.saturating_add(jump.by / 2) < wall() {
                    error!(
                        state = S::NAME,
                        by = length(jump.by),
                        believed_in = length(jump.believed_in),
                        "the clock jumped forward; deadlines go on by the time before until that has lasted. If it is wrong, \
                         set it right before then; if it is noticed later, `portcullis clock reset` afterwards"
                    );
                }
            }
            (None, true) => {
                self.jump_said = false;
                warn!(state = S::NAME, "deadlines go by the clock again");
            }
            _ => {}
        }
        now
    }

    /// Makes changes, saves, shows, answers.
    fn turn(&mut self, changes: impl IntoIterator<Item = S::Change>) {
        let asked = std::mem::take(&mut *self.time.asked.lock());
        let reset = (!asked.is_empty()).then(|| self.reset());
        let now = self.now();
        self.state.tick(now);
        // What time ends is seen at once.
        self.collect(Kind::Takes);
        let mut changes: VecDeque<S::Change> = changes.into_iter().collect();
        while let Some(change) = changes.pop_front() {
            let kind = self.state.kind(&change);
            // What is given must be saved before anything is shown.
            if (kind == Kind::Takes && self.batch.gives) || S::reads(&change) {
                self.settle(now);
            }
            if kind == Kind::Gives {
                self.see(now);
            }
            let stored = Stored { store: &*self.store, unsaved: &self.unsaved };
            let answer = self.state.apply(change, now, &stored);
            let touches = self.collect(kind);
            // An answer may rest on what was given before it and is put back if it cannot be saved.
            let rests = touches || (kind == Kind::Gives && self.batch.gives);
            self.batch.replies.push((answer, kind, rests));
        }
        self.settle(now);
        for (asker, reset) in asked.into_iter().zip(std::iter::repeat(reset).flatten()) {
            let _ = asker.send(reset);
        }
    }

    /// Goes by the wall clock, whatever time was saved.
    fn reset(&mut self) -> Reset {
        let reset = self.time.reset();
        warn!(state = S::NAME, change = reset.words(), "clock reset");
        self.state.set_back(reset.to);
        self.batch.records.push((false, reset.record::<S>()));
        // Saved with the next transaction, which is this turn's.
        self.saved_clock = 0;
        reset
    }

    /// Takes in what a change touched; true if that is to be saved.
    fn collect(&mut self, kind: Kind) -> bool {
        let touched = self.state.touched();
        let any = !touched.is_empty();
        for id in touched {
            if kind == Kind::Takes {
                self.batch.taken.insert(id.clone(), self.state.value(&id));
            }
            *self.batch.touched.entry(id).or_default() |= kind == Kind::Gives;
        }
        self.batch.records.extend(self.state.records().into_iter().map(|r| (kind == Kind::Gives, r)));
        self.batch.gives |= any && kind == Kind::Gives;
        // A list may be another without anything to save.
        self.batch.unseen |= kind == Kind::Takes;
        any
    }

    /// Lets readers see what was taken.
    fn see(&mut self, now: u64) {
        if std::mem::take(&mut self.batch.unseen) {
            self.state.show(now);
        }
    }

    /// Saves, shows, answers.
    fn settle(&mut self, now: u64) {
        if !self.batch.gives {
            self.see(now);
        }
        let batch = std::mem::take(&mut self.batch);
        let due = self.retry_at.is_none_or(|at| Instant::now() >= at);
        if due {
            self.retry_at = None;
        }
        // What failed a moment ago is not tried again for nothing.
        let idle = batch.touched.is_empty() && batch.records.is_empty();
        let tried = due || !idle;
        let saved = if tried { self.save(&batch, now) } else { Ok(()) };
        let Batch { touched, taken, records, replies, .. } = batch;
        match &saved {
            Ok(()) => {
                let records: Vec<Record> = records.into_iter().map(|(_, r)| r).collect();
                records.iter().for_each(|r| self.state.say(r));
                // What is owed has its lines when it is saved, and not when there was nothing to try.
                if tried && (!records.is_empty() || !self.owed.is_empty() || (due && self.log.waits())) {
                    self.put_on_record(records);
                }
            }
            Err(e) => {
                // What was taken stays so, whatever was given after it.
                self.unsaved.extend(taken);
                self.not_saved(touched, records, e, now);
            }
        }
        self.state.show(now);
        for (answer, kind, rests) in replies {
            let outcome = match &saved {
                Err(e) if rests && kind == Kind::Gives => Err(NotMade::NotSaved(e.to_string())),
                Err(e) if rests => Ok(Saved::NotYet(e.to_string())),
                // It may be done already and owed still: taken once more is not saved by that.
                _ if kind == Kind::Takes && !self.unsaved.is_empty() => Ok(Saved::NotYet(self.why())),
                _ => Ok(Saved::Yes),
            };
            self.state.reply(answer, outcome);
        }
    }

    /// Why something is owed to the store.
    fn why(&self) -> String {
        self.trouble.lock().get("store").cloned().unwrap_or_default()
    }

    /// One transaction: what is owed, the batch, their records, the time.
    fn save(&mut self, batch: &Batch<S>, now: u64) -> Result<(), StoreError> {
        let mut steps: Vec<Step> = Vec::with_capacity(self.unsaved.len() + batch.touched.len() + 2);
        let owed = self.unsaved.iter().filter(|(id, _)| !batch.touched.contains_key(id));
        steps.extend(owed.map(|(id, value)| step(S::key(id), value.clone())));
        steps.extend(batch.touched.keys().map(|id| step(S::key(id), self.state.value(id))));
        let records: Vec<Record> = self.owed.iter().chain(batch.records.iter().map(|(_, r)| r)).cloned().collect();
        let floor = self.time.floor();
        let clock = self.saved_clock == 0
            // A try that shows whether the disk takes something again.
            || self.trouble.lock().contains_key("store")
            || now >= self.saved_clock.saturating_add(SAVE_CLOCK);
        if clock {
            steps.push(put(format!("{}/clock", S::NAME), floor.to_string().into_bytes()));
        }
        if steps.is_empty() && records.is_empty() {
            return Ok(());
        }
        if clock || !records.is_empty() {
            let queue = serde_json::to_vec(&self.log.queue(&records)).map_err(|e| StoreError::Other(e.to_string()))?;
            steps.push(put(format!("{}/audit", S::NAME), queue));
        }
        self.store.write(&steps)?;
        if clock {
            self.saved_clock = now;
        }
        self.unsaved.clear();
        if self.trouble.lock().remove("store").is_some() {
            info!(state = S::NAME, "saved again");
        }
        Ok(())
    }

    /// Puts back what would have given, and keeps the rest for the next time.
    fn not_saved(&mut self, touched: BTreeMap<S::Id, bool>, records: Vec<(bool, Record)>, e: &StoreError, now: u64) {
        if self.trouble.lock().insert("store", e.to_string()).is_none() {
            error!(
                state = S::NAME,
                err = %e,
                "cannot save: what is in force stays, what is taken away is in force at once and tried again, and nothing \
                 new is given until it can be saved"
            );
        }
        self.retry_at = Some(Instant::now() + RETRY);
        let (mut back, mut unreadable) = (Vec::new(), Vec::new());
        for (id, gives) in touched {
            if !gives {
                let value = self.state.value(&id);
                self.unsaved.insert(id, value);
                continue;
            }
            let before = match self.unsaved.get(&id) {
                Some(owed) => Ok(owed.as_ref().map(|v| v.bytes.clone())),
                None => self.store.get(&S::key(&id)).map(|e| e.map(|e| e.value)),
            };
            match before {
                Ok(before) => back.push((id, before)),
                Err(e) => {
                    error!(key = S::key(&id), err = %e, "cannot read what was stored before; it lets nobody in until the next start");
                    unreadable.push(id);
                }
            }
        }
        unreadable.iter().for_each(|id| self.state.shut(id, now));
        // What is new goes first: it may hold the place of what was there.
        back.sort_by_key(|(_, before)| before.is_some());
        for (id, before) in back {
            self.state.put_back(&id, before.as_deref(), now);
        }
        // That was no change of its own.
        self.state.touched();
        self.state.records();
        for (_, record) in records.into_iter().filter(|(gives, _)| !gives) {
            self.state.say(&record);
            self.owed.push(record);
        }
        if self.owed.len() > MAX_UNSAVED_RECORDS {
            let over = self.owed.len() - MAX_UNSAVED_RECORDS;
            self.owed.drain(..over);
            error!(dropped = over, "audit records dropped: the disk takes none for too long");
        }
    }

    /// Brings records that are saved into the log.
    fn put_on_record(&mut self, records: Vec<Record>) {
        let owed = std::mem::take(&mut self.owed);
        match self.log.append(owed.into_iter().chain(records)) {
            Ok(()) => {
                self.trouble.lock().remove("audit");
            }
            Err(e) => {
                self.retry_at = Some(Instant::now() + RETRY);
                if self.trouble.lock().insert("audit", format!("{e:#}")).is_none() {
                    error!(
                        state = S::NAME,
                        err = format!("{e:#}"),
                        "cannot write the audit log; the records wait in the store"
                    );
                }
            }
        }
    }
}

impl Reset {
    /// For people.
    #[must_use]
    pub fn words(&self) -> String {
        // At a start the wall clock counts at once if it is ahead, and what differs is what was saved.
        let from = if self.from == self.to { self.floor } else { self.from };
        let way = if from > self.to { "back" } else { "forward" };
        format!("from {} to {}, {} {way}", stamp(from), stamp(self.to), length(from.abs_diff(self.to)))
    }

    fn record<S: State>(&self) -> Record {
        let about = About::Thing { about: format!("{} clock: {}", S::NAME, self.words()) };
        Record { at: self.to, what: ::api::AuditEvent::ClockReset, about, by: "command line".to_string() }
    }
}

/// What a process that starts from this store would go by.
///
/// # Errors
/// The store cannot be read.
pub fn stopped<S: State>(store: &dyn Store) -> anyhow::Result<Time> {
    let saved = store.get(&format!("{}/clock", S::NAME)).context("the store cannot be read")?;
    Ok(Time::after(saved.map(|e| e.value)))
}

/// Resets the clock of a state whose process does not run, with a line in its audit log. What began later than now is
/// put right by the next start.
///
/// # Errors
/// The store or the audit log cannot be read or written; nothing was changed.
pub fn reset_stopped<S: State>(store: &dyn Store, audit: &Path) -> anyhow::Result<Reset> {
    let reset = stopped::<S>(store)?.reset();
    let clock = put(format!("{}/clock", S::NAME), reset.to.to_string().into_bytes());
    write_stopped::<S>(store, audit, vec![clock], &[reset.record::<S>()])?;
    Ok(reset)
}

/// Changes what a process that does not run has stored, in one transaction with the records of it.
///
/// # Errors
/// The store or the audit log cannot be read or written; nothing was changed.
pub fn write_stopped<S: State>(
    store: &dyn Store,
    audit: &Path,
    mut steps: Vec<Step>,
    records: &[Record],
) -> anyhow::Result<()> {
    let mut log = Log::open(audit)?;
    let key = format!("{}/audit", S::NAME);
    let queue: Option<Queue> = store.get(&key)?.and_then(|e| serde_json::from_slice(&e.value).ok());
    let now = records.iter().map(|r| r.at).max().unwrap_or(0);
    if let Some(why) = queue.map(|q| log.catch_up(q, now)).transpose()?.flatten() {
        error!(path = %audit.display(), why, "the audit log is not the one that was written; it records that");
    }
    steps.push(put(key, serde_json::to_vec(&log.queue(records))?));
    store.write(&steps)?;
    // From here on the store has the records, and the next start writes them if this cannot.
    if let Err(e) = log.append(records.iter().cloned()) {
        warn!(state = S::NAME, err = format!("{e:#}"), "cannot write the audit log; the records wait in the store");
    }
    Ok(())
}

/// A moment as people write it, such as `2026-11-28T14:00:00Z`.
fn stamp(t: u64) -> String {
    addr::Timestamp(t).to_string()
}

/// Records of what is in force and not saved. Past it the oldest are dropped and that is logged.
const MAX_UNSAVED_RECORDS: usize = 10_000;

fn put(key: String, value: Vec<u8>) -> Step {
    Step::Put { key, value, deadline: None, when: If::Anyway }
}

fn step(key: String, value: Option<Value>) -> Step {
    match value {
        Some(v) => Step::Put { key, value: v.bytes, deadline: v.deadline, when: If::Anyway },
        None => Step::Delete { key, when: If::Anyway },
    }
}

/// A length of time (seconds) as people say it.
#[must_use]
pub fn length(s: u64) -> String {
    match s {
        0..120 => format!("{s} s"),
        120..7_200 => format!("{} min", (s + 30) / 60),
        7_200..172_800 => format!("{} h", (s + 1_800) / 3_600),
        _ => format!("{} days", s.saturating_add(43_200) / 86_400),
    }
}

#[cfg(test)]
mod tests;
