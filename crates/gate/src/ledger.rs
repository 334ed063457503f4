//! The gate's ledger, for everybody else. In: events of grant sources and people. Out: what came of them, published lists,
//! what readers see without asking.

mod actor;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use access::ended::Memory;
use access::ledger::{Event, Ledger, Outcome, Rules};
use access::publish::Desired;
use access::{Ban, BanId, Grant, GrantId, View, Whom};
use addr::{Addr, AddrSet, Prefix};
use parking_lot::{Mutex, RwLock};
use store::Store;
use tokio::sync::{mpsc, oneshot, watch};

use runtime::hint::Hinted;
pub use runtime::owner::Ahead;
use runtime::owner::{self, NotMade, Owner, Time, Trouble};
use runtime::run::Run;

pub use actor::{LedgerState, saved};

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

/// What readers see of the ledger, without asking it.
#[derive(Debug, Default)]
pub struct ReadModel {
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

/// How others reach the ledger. Clones reach the same one.
#[derive(Debug, Clone)]
pub struct LedgerHandle {
    requests: mpsc::Sender<Request>,
    /// What is published.
    pub published: watch::Receiver<Arc<Published>>,
    /// The same lists as a view, for admission that take them.
    pub views: watch::Receiver<Arc<View>>,
    /// What it knows.
    pub model: Arc<ReadModel>,
}

/// Something for the ledger, and who waits for what comes of it.
#[derive(Debug)]
pub enum Request {
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

/// Events that may wait; a grant source whose event does not fit answers its client so (503).
const QUEUE: usize = 20_000;

/// What the ledger saves on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// A grant.
    Grant(GrantId),
    /// A ban.
    Ban(BanId),
}

/// Makes changes of a list in a gate that does not run, all of them or none. Returns the list's grants.
///
/// # Errors
/// The store or the audit log cannot be read or written; nothing was changed.
pub(crate) fn write_stopped(
    store: Arc<dyn Store>,
    audit: &Path,
    list: &str,
    rules: Rules,
    events: Vec<Event>,
) -> anyhow::Result<Vec<Grant>> {
    let opened = owner::open::<LedgerState>(store.clone(), audit, Ahead::default())?;
    let (trouble, time) = (opened.trouble.clone(), opened.time.clone());
    let model = Arc::new(ReadModel { trouble, time, ..ReadModel::default() });
    let shown = (watch::channel(Arc::default()).0, watch::channel(Arc::default()).0);
    let ledger = Ledger::new(vec![(list.to_string(), rules)], AddrSet::default());
    let me = LedgerState::restore(ledger, shown, model.clone(), &*store, audit, events)?;
    Owner::new(opened, me).begin().map_err(|e| anyhow::anyhow!("nothing was changed: {e}"))?;
    let grants = model.grants.read().get(list).map(|all| all.values().cloned().collect());
    Ok(grants.unwrap_or_default())
}

impl LedgerHandle {
    /// Reads the store and starts the loop on a thread of its own. `take_over`: entries of an earlier gate, oldest
    /// first, as (list, prefix, ttl); given only if the store has never held this gate.
    ///
    /// # Errors
    /// The store or the audit log cannot be read.
    pub fn start(
        run: &Run,
        lists: Vec<(String, Rules)>,
        own: AddrSet,
        store: Arc<dyn Store>,
        audit: &Path,
        take_over: Vec<Event>,
        ahead: Ahead,
    ) -> anyhow::Result<LedgerHandle> {
        let opened = owner::open::<LedgerState>(store.clone(), audit, ahead)?;
        let (out, published) = watch::channel(Arc::new(Published::default()));
        let (views, seen) = watch::channel(Arc::new(View::default()));
        let (trouble, time) = (opened.trouble.clone(), opened.time.clone());
        let model = Arc::new(ReadModel { trouble, time, ..ReadModel::default() });
        let take_over = if opened.first_start { take_over } else { Vec::new() };
        let ledger = Ledger::new(lists, own);
        let me = LedgerState::restore(ledger, (out, views), model.clone(), &*store, audit, take_over)?;
        let mut owner = Owner::new(opened, me);
        owner.begin().map_err(|e| {
            Hinted::error(
                format!("the gate cannot save its grants: {e}"),
                "choose a directory that can be written with `--data-dir DIR`",
            )
        })?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let ledger = LedgerHandle { requests, published, views: seen, model };
        let (pulse, stopping) = (run.pulse("gate ledger"), run.stopping());
        run.spawn("gate ledger", async move {
            let runtime = tokio::runtime::Handle::current();
            // The store blocks: a thread of its own, with the runtime's timers.
            tokio::task::spawn_blocking(move || runtime.block_on(owner.run(queue, pulse, stopping))).await?;
            Ok(())
        });
        Ok(ledger)
    }

    /// Hands in an event and waits until it is saved and published.
    ///
    /// # Errors
    /// It could not be saved, or too much is waiting; then nothing was given.
    pub async fn submit(&self, event: Event) -> Result<Done, NotMade> {
        let (reply, answer) = oneshot::channel();
        let request = Request::Event(event, Some(reply));
        self.requests.try_send(request).map_err(|_| NotMade::Busy)?;
        answer.await.map_err(|_| NotMade::Stopping)?
    }

    /// Hands in an event that nobody waits for; if the queue is full it is lost, so only for signs of life.
    pub fn notify(&self, event: Event) {
        let _ = self.requests.try_send(Request::Event(event, None));
    }

    /// Looks at the clock now instead of at the next deadline.
    pub fn look(&self) {
        let _ = self.requests.try_send(Request::Look);
    }

    /// Makes these the lists. LedgerState of a list that is gone stay stored and open nothing; those of a list that is back
    /// count again. Returns what changed, in words. It is in force at once, saved or not: the lists themselves are
    /// written in the configuration.
    ///
    /// # Errors
    /// The store cannot be read; everything is as it was.
    pub async fn relist(&self, lists: Vec<(String, Rules)>) -> Result<String, NotMade> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(Request::Lists(lists, reply)).await.map_err(|_| NotMade::Stopping)?;
        answer.await.map_err(|_| NotMade::Stopping)?.map_err(NotMade::NotSaved)
    }

    /// The grant behind an entry of a list.
    #[must_use]
    pub fn grant(&self, list: &str, prefix: Prefix) -> Option<Grant> {
        self.model.grants.read().get(list)?.get(&prefix).cloned()
    }

    /// Whom a person banned from a list, if that is this person or this address.
    #[must_use]
    pub fn banned(&self, list: &str, addr: Addr, principal: &str) -> Option<Whom> {
        let bans = self.model.bans.read();
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
        let grants = self.model.grants.read();
        let Some(list) = grants.get(list) else { return Vec::new() };
        // Only so many widths exist: one look each beats reading 100,000 grants.
        let widths = (0..=addr.width()).rev();
        widths.filter_map(|w| list.get(&Prefix::new(addr, w)?).cloned()).collect()
    }
}

/// What the ledger's answer means in words, for a person.
///
/// # Errors
/// The event was refused.
pub fn said(done: Result<Done, NotMade>) -> anyhow::Result<Done> {
    match done {
        Err(e) => Err(anyhow::Error::new(e).context("nothing was changed")),
        Ok(Done { outcome: Outcome::Rejected(why), .. }) => Err(api::Error::refused(why.to_string()).into()),
        Ok(done) => Ok(done),
    }
}
