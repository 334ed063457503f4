//! The registry as a state that the owner owns. In: changes, as functions on it. Out: what they returned, once the owner has
//! saved them; and a snapshot that readers share without asking.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use store::{If, Step, Store};
use tailnet::{Audit, Registry, Saved as Thing, Settings, Slot, Snapshot};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use runtime::audit::{About, Record};
use runtime::owner::{self, Ahead, Kind, NotMade, Owner, Saved, State, Stored, Time, Trouble, Value};
use runtime::run::Run;

/// How others reach the handle. Clones reach the same one.
#[derive(Debug, Clone)]
pub struct RegistryHandle {
    requests: mpsc::Sender<ChangeRequest>,
    /// The network now.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// The time that deadlines are measured by.
    pub time: Arc<Time>,
    /// What is wrong with the store or the audit log; empty when nothing is.
    pub trouble: Trouble,
}

/// A change, and what tells its caller how it is kept.
pub struct ChangeRequest {
    kind: Kind,
    make: Change,
}

/// What is done to the registry, at a time in seconds since the Unix epoch.
type Change = Box<dyn FnOnce(&mut Registry, u64) -> Reply + Send>;

type Reply = Box<dyn FnOnce(Result<Saved, NotMade>) + Send>;

/// Who changes something through the socket, in the audit log.
pub(super) const BY: &str = "command line";

/// Changes that may wait; a client that finds it full is told to come back.
const QUEUE: usize = 4_096;

/// The registry and what it is shown as.
pub struct Mesh {
    registry: Registry,
    out: watch::Sender<Arc<Snapshot>>,
}

impl RegistryHandle {
    /// Reads the store and starts the loop on a thread of its own.
    ///
    /// # Errors
    /// The store or the audit log cannot be read, or hold what this version does not accept.
    pub fn start(run: &Run, settings: Settings, store: Arc<dyn Store>, audit: &Path) -> anyhow::Result<RegistryHandle> {
        let opened = owner::open::<Mesh>(store.clone(), audit, Ahead::default())?;
        let now = opened.time.now();
        let mut registry = Registry::new(settings);
        read(&mut registry, &*store, now)?;
        registry.set_back(now);
        let first = Arc::new(registry.snapshot(now));
        info!(nodes = first.nodes.len(), users = first.users.len(), "network loaded");
        let (out, snapshot) = watch::channel(first);
        let (requests, queue) = mpsc::channel(QUEUE);
        let handle = RegistryHandle { requests, snapshot, time: opened.time.clone(), trouble: opened.trouble.clone() };
        let owner = Owner::new(opened, Mesh { registry, out });
        let (pulse, stopping) = (run.pulse("mesh registry"), run.stopping());
        run.spawn("mesh registry", async move {
            let runtime = tokio::runtime::Handle::current();
            // The store blocks: a thread of its own, with the runtime's timers.
            tokio::task::spawn_blocking(move || runtime.block_on(owner.run(queue, pulse, stopping))).await?;
            Ok(())
        });
        Ok(handle)
    }

    /// Makes a change that may let somebody in, and waits until it is saved and seen by readers.
    ///
    /// # Errors
    /// It could not be saved and was not made, too much is waiting, or the process stops.
    pub async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Registry, u64) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        self.make(Kind::Gives, change).await.map(|(value, _)| value)
    }

    /// Makes a change of some kind, and waits until it is in force; says how it is kept.
    ///
    /// # Errors
    /// As for [`RegistryHandle::change`]; what gives nothing is made even if it cannot be saved.
    pub async fn make<T: Send + 'static>(
        &self,
        kind: Kind,
        change: impl FnOnce(&mut Registry, u64) -> T + Send + 'static,
    ) -> anyhow::Result<(T, Saved)> {
        let (answer, answered) = oneshot::channel();
        let make = Box::new(move |registry: &mut Registry, now: u64| {
            let value = change(registry, now);
            let reply: Reply = Box::new(move |saved| drop(answer.send(saved.map(|s| (value, s)))));
            reply
        });
        self.requests.try_send(ChangeRequest { kind, make }).map_err(|_| NotMade::Busy)?;
        let done = answered.await.map_err(|_| NotMade::Stopping)?;
        done.map_err(|e| anyhow::Error::new(e).context("nothing was changed, because it could not be saved"))
    }

    /// Notes a sign of life that nobody waits for.
    pub fn notify(&self, change: impl FnOnce(&mut Registry, u64) + Send + 'static) {
        let make = Box::new(move |registry: &mut Registry, now: u64| {
            change(registry, now);
            let reply: Reply = Box::new(drop);
            reply
        });
        // A full queue means that the server is far behind; signs of life come again.
        let _ = self.requests.try_send(ChangeRequest { kind: Kind::Keeps, make });
    }

    /// The network now.
    #[must_use]
    pub fn now(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }
}

impl State for Mesh {
    const NAME: &'static str = "mesh";
    const WHAT: &'static str = "the mesh is";
    type Id = Slot;
    type Change = ChangeRequest;
    type Answer = Reply;

    fn kind(&self, request: &ChangeRequest) -> Kind {
        request.kind
    }

    fn apply(&mut self, request: ChangeRequest, now: u64, _: &Stored<'_, Mesh>) -> Reply {
        (request.make)(&mut self.registry, now)
    }

    fn tick(&mut self, now: u64) {
        self.registry.tick(now);
    }

    fn set_back(&mut self, now: u64) {
        self.registry.set_back(now);
    }

    fn touched(&mut self) -> Vec<Slot> {
        self.registry.take_saves().into_iter().collect()
    }

    fn records(&mut self) -> Vec<Record> {
        self.registry.take_audits().into_iter().map(record).collect()
    }

    fn key(slot: &Slot) -> String {
        key(*slot)
    }

    fn value(&self, slot: &Slot) -> Option<Value> {
        let bytes = bytes(&self.registry.saved(*slot)?);
        Some(Value { bytes, deadline: None })
    }

    fn put_back(&mut self, slot: &Slot, value: Option<&[u8]>, now: u64) {
        let before = value.map(|v| thing(&key(*slot), v)).transpose().map(Option::flatten);
        match before {
            Ok(before) => {
                if let Err(e) = self.registry.put_back(*slot, before, now) {
                    warn!(key = key(*slot), err = %e, "cannot restore");
                }
            }
            Err(e) => warn!(key = key(*slot), err = format!("{e:#}"), "cannot restore"),
        }
    }

    fn shut(&mut self, slot: &Slot, now: u64) {
        match slot {
            // Without one everybody would be let through.
            Slot::Policy => self.registry.shut_policy(),
            _ => self.put_back(slot, None, now),
        }
    }

    fn show(&mut self, now: u64) {
        if self.registry.changed() {
            let snapshot = Arc::new(self.registry.snapshot(now));
            self.out.send_replace(snapshot);
        }
    }

    fn deadline(&self, now: u64) -> Option<u64> {
        self.registry.deadline(now)
    }

    fn reply(&mut self, reply: Reply, saved: Result<Saved, NotMade>) {
        reply(saved);
    }

    fn say(&self, r: &Record) {
        if let About::Thing { about } = &r.about {
            info!(what = %r.what, about, by = r.by, "network changed");
        }
    }
}

pub(crate) fn read(registry: &mut Registry, store: &dyn Store, now: u64) -> anyhow::Result<()> {
    let (entries, _) = store.list("mesh/").context("the store cannot be read")?;
    for e in entries {
        let Some(saved) = thing(&e.key, &e.value).with_context(|| format!("the entry {} is damaged", e.key))? else {
            continue;
        };
        registry.load(saved, now).map_err(|e| anyhow!("{e}"))?;
    }
    Ok(())
}

/// What a change of a registry whose process does not run is to be saved as.
pub(crate) fn steps(registry: &mut Registry) -> Vec<Step> {
    let slots = registry.take_saves();
    let put = |slot: Slot| match registry.saved(slot).map(|t| bytes(&t)) {
        Some(value) => Step::Put { key: key(slot), value, deadline: None, when: If::Anyway },
        None => Step::Delete { key: key(slot), when: If::Anyway },
    };
    slots.into_iter().map(put).collect()
}

/// A thing as it is stored.
fn bytes(thing: &Thing) -> Vec<u8> {
    match thing {
        Thing::User(u) => json(u),
        Thing::Key(k) => json(k),
        Thing::Node(n) => json(&**n),
        Thing::Policy(text) => text.clone().into_bytes(),
        Thing::Names(n) => json(n),
        Thing::Counters(c) => json(c),
    }
}

pub(crate) fn record(a: Audit) -> Record {
    Record { at: a.at, what: a.what, about: About::Thing { about: a.about }, by: a.by }
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

/// Plain records: writing them as JSON does not fail.
fn json<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}

/// The record of an entry; `None` for entries that are not the registry's.
fn thing(key: &str, value: &[u8]) -> anyhow::Result<Option<Thing>> {
    fn read<T: DeserializeOwned>(value: &[u8]) -> anyhow::Result<T> {
        Ok(serde_json::from_slice(value)?)
    }
    let mut words = key.split('/').skip(1);
    Ok(Some(match words.next() {
        Some("users") => Thing::User(read(value)?),
        Some("keys") => Thing::Key(read(value)?),
        Some("nodes") => Thing::Node(Arc::new(read(value)?)),
        Some("policy") => Thing::Policy(String::from_utf8(value.to_vec())?),
        Some("names") => Thing::Names(read(value)?),
        Some("counters") => Thing::Counters(read(value)?),
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
