//! The one owner of the book. In: changes, as functions on it. Out: what they returned, once it is on the disk; and a
//! picture that readers share without asking.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use decide::clock::Clock;
use decide::mesh::{Audit, Book, Saved, Settings, Slot, Snapshot};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{If, Step, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::audit::{About, Log, Record};
use crate::run::Run;
use crate::wall;

/// How others reach the keeper. Clones reach the same one.
#[derive(Debug, Clone)]
pub struct Keeper {
    asks: mpsc::Sender<Ask>,
    /// The network now.
    pub picture: watch::Receiver<Arc<Snapshot>>,
}

/// A change, and what tells its asker once it is saved.
type Ask = Box<dyn FnOnce(&mut Book, u64) -> Reply + Send>;
type Reply = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Changes that may wait; a client that finds it full is told to come back.
const QUEUE: usize = 4_096;
/// Changes saved in one transaction: a thousand clients that come back at once cost a few.
const GROUP: usize = 512;
/// How often the time is saved, so that a clock set back over a restart gives at most this.
const SAVE_CLOCK: u64 = 60;
/// How long a failing store is left alone before it is tried again.
const RETRY: Duration = Duration::from_secs(2);

const CLOCK: &str = "mesh/clock";

struct Loop {
    book: Book,
    store: Arc<dyn Store>,
    log: Log,
    clock: Clock,
    started: Instant,
    saved_clock: u64,
    out: watch::Sender<Arc<Snapshot>>,
    /// The disk did not take it last time.
    failing: Option<Instant>,
}

impl Keeper {
    /// Reads the store and starts the loop on a thread of its own.
    ///
    /// # Errors
    /// The store or the audit log can not be read, or hold what this version does not accept.
    pub fn start(run: &Run, settings: Settings, store: Arc<dyn Store>, audit: &Path) -> anyhow::Result<Keeper> {
        let log = Log::open(audit)?;
        let saved: Option<u64> =
            store.get(CLOCK)?.and_then(|e| String::from_utf8(e.value).ok()).and_then(|t| t.parse().ok());
        let clock = Clock::new(wall(), saved.unwrap_or(0), 0);
        let mut me = Loop {
            book: Book::new(settings),
            store,
            log,
            clock,
            started: Instant::now(),
            saved_clock: 0,
            out: watch::channel(Arc::new(Book::new(Settings::default()).snapshot(0))).0,
            failing: None,
        };
        me.read()?;
        let now = me.now();
        let first = Arc::new(me.book.snapshot(now));
        info!("{} nodes, {} users", first.nodes.len(), first.users.len());
        me.out.send_replace(first);
        let picture = me.out.subscribe();
        let (asks, queue) = mpsc::channel(QUEUE);
        let stopping = run.stopping();
        run.spawn("mesh book", async move {
            let runtime = tokio::runtime::Handle::current();
            // The store blocks: a thread of its own, with the runtime's timers.
            tokio::task::spawn_blocking(move || runtime.block_on(me.run(queue, stopping))).await?;
            Ok(())
        });
        Ok(Keeper { asks, picture })
    }

    /// Makes a change and waits until it is saved and seen by readers.
    ///
    /// # Errors
    /// It could not be saved (it is tried again), too much is waiting, or the process stops.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Book, u64) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let (tell, told) = oneshot::channel();
        let ask: Ask = Box::new(move |book, now| {
            let value = change(book, now);
            Box::new(move |saved| drop(tell.send(saved.map(|()| value))))
        });
        self.asks.try_send(ask).map_err(|_| anyhow!("too many changes are waiting"))?;
        told.await.context("the server is stopping")?.map_err(|e| anyhow!("it could not be saved: {e}"))
    }

    /// Makes a change that nobody waits for.
    pub fn mention(&self, change: impl FnOnce(&mut Book, u64) + Send + 'static) {
        let ask: Ask = Box::new(move |book, now| {
            change(book, now);
            Box::new(|_| {})
        });
        // A full queue means that the server is far behind; signs of life come again.
        let _ = self.asks.try_send(ask);
    }

    /// The network now.
    #[must_use]
    pub fn now(&self) -> Arc<Snapshot> {
        self.picture.borrow().clone()
    }
}

impl Loop {
    async fn run(mut self, mut queue: mpsc::Receiver<Ask>, stopping: impl Future<Output = ()>) {
        tokio::pin!(stopping);
        let mut asks: Vec<Ask> = Vec::new();
        loop {
            let now = self.now();
            let wake = self.book.deadline(now).map_or(SAVE_CLOCK, |t| (t - now).clamp(1, SAVE_CLOCK));
            let wake = if self.failing.is_some() { RETRY } else { Duration::from_secs(wake) };
            tokio::select! {
                biased;
                n = queue.recv_many(&mut asks, GROUP) => if n == 0 { break },
                () = tokio::time::sleep(wake) => {}
                () = &mut stopping => {
                    // What is in the queue was asked for before the stop.
                    queue.close();
                    while queue.recv_many(&mut asks, GROUP).await > 0 {}
                    self.turn(&mut asks);
                    break;
                }
            }
            self.turn(&mut asks);
        }
    }

    /// Makes the changes, saves, shows, answers.
    fn turn(&mut self, asks: &mut Vec<Ask>) {
        let now = self.now();
        self.book.tick(now);
        let replies: Vec<Reply> = asks.drain(..).map(|ask| ask(&mut self.book, now)).collect();
        // To allow: saved before it is seen. What takes away is in the same picture, a disk's time later.
        let saved = self.save(now);
        if self.book.changed() {
            let picture = Arc::new(self.book.snapshot(now));
            self.out.send_replace(picture);
        }
        for reply in replies {
            reply(saved.clone());
        }
    }

    fn save(&mut self, now: u64) -> Result<(), String> {
        let slots = self.book.take_saves();
        let audits = self.book.take_audits();
        for a in &audits {
            info!("{}: {} ({})", a.what, a.about, a.by);
        }
        let mut steps: Vec<Step> = slots.iter().map(|s| step(*s, self.book.saved(*s))).collect();
        if now >= self.saved_clock + SAVE_CLOCK || (self.saved_clock == 0 && !steps.is_empty()) {
            steps.push(put(CLOCK.to_string(), now.to_string().into_bytes()));
        }
        let clock = steps.last().is_some_and(|s| matches!(s, Step::Put { key, .. } if key == CLOCK));
        if !steps.is_empty()
            && let Err(e) = self.store.write(&steps)
        {
            if self.failing.is_none() {
                error!("the mesh can not be saved, and is tried again: {e}");
            }
            self.failing = Some(Instant::now());
            self.book.not_saved(slots, audits);
            return Err(e.to_string());
        }
        if clock {
            self.saved_clock = now;
        }
        if self.failing.take().is_some() {
            info!("the mesh is saved again");
        }
        if let Err(e) = self.log.append(audits.into_iter().map(record)) {
            warn!("the audit log: {e:#}");
        }
        Ok(())
    }

    fn read(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        let (entries, _) = self.store.list("mesh/").context("the store can not be read")?;
        for e in entries {
            let Some(saved) = unsaved(&e.key, &e.value).with_context(|| format!("the entry {} is damaged", e.key))?
            else {
                continue;
            };
            self.book.load(saved, now).map_err(|e| anyhow!("{e}"))?;
        }
        Ok(())
    }

    fn now(&mut self) -> u64 {
        self.clock.tick(wall(), self.started.elapsed().as_secs())
    }
}

fn record(a: Audit) -> Record {
    Record { at: a.at, what: a.what.to_string(), about: About::Thing { about: a.about }, by: a.by }
}

fn key(slot: Slot) -> String {
    // Numbers with leading zeros, so that the order of keys is theirs.
    match slot {
        Slot::User(id) => format!("mesh/users/{id:012}"),
        Slot::Key(id) => format!("mesh/keys/{id:012}"),
        Slot::Node(id) => format!("mesh/nodes/{id:012}"),
        Slot::Policy => "mesh/policy".into(),
        Slot::Names => "mesh/names".into(),
        Slot::Counters => "mesh/counters".into(),
    }
}

fn put(key: String, value: Vec<u8>) -> Step {
    Step::Put { key, value, deadline: None, when: If::Anyway }
}

fn step(slot: Slot, saved: Option<Saved>) -> Step {
    match saved {
        None => Step::Delete { key: key(slot), when: If::Anyway },
        Some(Saved::User(u)) => put(key(slot), json(&u)),
        Some(Saved::Key(k)) => put(key(slot), json(&k)),
        Some(Saved::Node(n)) => put(key(slot), json(&*n)),
        Some(Saved::Policy(text)) => put(key(slot), text.into_bytes()),
        Some(Saved::Names(n)) => put(key(slot), json(&n)),
        Some(Saved::Counters(c)) => put(key(slot), json(&c)),
    }
}

/// Plain records: writing them as JSON does not fail.
fn json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

/// The record of an entry; `None` for entries that are not the book's.
fn unsaved(key: &str, value: &[u8]) -> anyhow::Result<Option<Saved>> {
    fn read<T: DeserializeOwned>(value: &[u8]) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(value)?)
    }
    let mut words = key.split('/').skip(1);
    Ok(Some(match words.next() {
        Some("users") => Saved::User(read(value)?),
        Some("keys") => Saved::Key(read(value)?),
        Some("nodes") => Saved::Node(Arc::new(read(value)?)),
        Some("policy") => Saved::Policy(String::from_utf8(value.to_vec())?),
        Some("names") => Saved::Names(read(value)?),
        Some("counters") => Saved::Counters(read(value)?),
        _ => return Ok(None),
    }))
}
