//! What the parts of a coordination server share. In: requests that run. Out: the registry, the relays, who has a map
//! stream open, and questions that wait for an answer.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use addr::{Prefix, SourceKey};
use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use net::budget::{Budget, Charge, Exhausted};
use net::serve::{Limits, Slot, Slots};
use net::sockets;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tailnet::Snapshot;
use tailnet_proto::meshkey::{MachineKey, MachinePrivate};
use tailnet_proto::tailcfg::map::PingRequest;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::apps::Lookups;
use super::registry::RegistryHandle;
use super::relay::Relay;
use super::{ControlSettings, ServerUrl};
use net::log_budget::LogBudget;
use runtime::run::Run;

/// Shared by all connections.
pub struct ControlState {
    /// The owner of the registry.
    pub registry: RegistryHandle,
    /// How clients reach it.
    pub url: ServerUrl,
    pub(super) machine: MachinePrivate,
    pub(super) run: Run,
    /// Proxies whose word about clients is believed.
    pub(super) trusted: RwLock<addr::AddrSet>,
    /// The relays as clients are told them, with a number that changes when they do.
    pub(super) derp: watch::Sender<(u64, Value)>,
    /// How names of apps are looked up.
    pub(super) lookups: watch::Sender<Lookups>,
    pub(super) relay: Option<Relay>,
    /// The file that the policy is read from at every start.
    pub(super) policy_file: Option<PathBuf>,
    streams: Mutex<BTreeMap<u64, Open>>,
    waiting: Mutex<BTreeMap<String, oneshot::Sender<Bytes>>>,
    next: AtomicU64,
    /// Places of connections and channels.
    pub(super) slots: Arc<Slots>,
    /// Memory for those who have proved nothing yet, and the same for sources where a node was before.
    untrusted: UntrustedBudget,
    returning: Arc<Budget>,
    /// The most bytes that they held since their memory was given back to the system last.
    most_held: AtomicUsize,
    /// Channels of each machine, the newest last.
    machines: Mutex<BTreeMap<MachineKey, VecDeque<(u64, CancellationToken)>>>,
    /// Lines about requests whose headers cannot be believed: untrusted peers send them through proxies that pass them on.
    pub(super) unbelieved: LogBudget,
    /// Lines about proxies that take `Upgrade` out of requests.
    pub(super) no_upgrade: LogBudget,
    /// How often each route went to another router.
    pub(super) moved: Mutex<BTreeMap<Prefix, u64>>,
    /// Requests by what they asked and how it went.
    pub(super) counts: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl std::fmt::Debug for ControlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ControlState({})", self.url)
    }
}

/// A map stream that is open.
struct Open {
    stream: u64,
    end: CancellationToken,
    pings: mpsc::Sender<Box<PingRequest>>,
}

/// What a new map stream needs.
pub(super) struct Opened {
    pub(super) stream: u64,
    pub(super) end: CancellationToken,
    pub(super) pings: mpsc::Receiver<Box<PingRequest>>,
}

/// Connections and channels at a time: a node's takes some 50 KB, and a mesh of more nodes wants more than one server.
const MAX_CONNECTIONS: usize = 50_000;
/// Of them those of one source (a company behind one address) that have proved nothing yet.
const MAX_CONNECTIONS_PER_SOURCE: usize = 2_000;
/// Files that are kept for the store, lists, the admin socket and metrics.
const FILES: usize = 64;
/// Bytes that all who have proved nothing may make the server hold, and those of one source: half of a gigabyte is
/// never reached, also when sources where nodes were before, which have as much again, do the same. A source has room
/// for 190 devices that join in the same moment.
const UNTRUSTED_BYTES_MAX: usize = 192 << 20;
const UNTRUSTED_BYTES_PER_SOURCE: usize = 24 << 20;
/// The same of an IPv6 /48, whose 65,536 sources may be one party's: the other half stays for everybody else.
const UNTRUSTED_BYTES_PER_NETWORK: usize = UNTRUSTED_BYTES_MAX / 2;

/// The places there are: not more than this process may have files open, and a fifth for sources where nodes were
/// before.
fn places() -> Limits {
    let total = MAX_CONNECTIONS.min(sockets::file_limit().saturating_sub(FILES));
    Limits { total, per_source: MAX_CONNECTIONS_PER_SOURCE.min(total / 2), reserve: total / 5 }
}

/// The place and the memory of a connection that has proved nothing yet.
#[derive(Debug)]
pub(super) struct Place {
    slots: Arc<Slots>,
    slot: Slot,
    /// Where it comes from; `None` for a proxy, which brings everybody's.
    source: Option<SourceKey>,
    memory: Charge,
    /// The same of its network, while nothing is known of its source.
    network: Option<Charge>,
}

/// Memory for those who have proved nothing: in all, for a source, and for the network around it.
struct UntrustedBudget {
    sources: Arc<Budget>,
    networks: Arc<Budget>,
}

impl UntrustedBudget {
    fn new() -> UntrustedBudget {
        let (sources, networks) = (
            Budget::new(UNTRUSTED_BYTES_MAX, UNTRUSTED_BYTES_PER_SOURCE),
            Budget::new(UNTRUSTED_BYTES_MAX, UNTRUSTED_BYTES_PER_NETWORK),
        );
        UntrustedBudget { sources, networks }
    }

    /// Empty charges of a source and of its network.
    fn charge(&self, source: Option<SourceKey>) -> (Charge, Charge) {
        let network = source.and_then(|s| SourceKey::levels(s.first()).last());
        (self.sources.charge(source), self.networks.charge(network))
    }
}

impl Place {
    /// Takes more memory.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.memory.grow(bytes)?;
        let Some(network) = &mut self.network else { return Ok(()) };
        network.grow(bytes).inspect_err(|_| self.memory.shrink(bytes))
    }

    /// It has proved that it is a node's: it no longer counts as an untrusted peer.
    pub(super) fn proved(&mut self) {
        self.slot.trusted();
        self.memory.shrink(usize::MAX);
        self.network = None;
        if let Some(source) = self.source {
            self.slots.know(source);
        }
    }
}

/// A channel as one of its machine's, until it is dropped.
pub(super) struct Entered {
    state: Arc<ControlState>,
    machine: MachineKey,
    id: u64,
    /// Newer ones took its place.
    pub(super) cut: CancellationToken,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut machines = self.state.machines.lock();
        let Some(open) = machines.get_mut(&self.machine) else { return };
        open.retain(|(id, _)| *id != self.id);
        if open.is_empty() {
            machines.remove(&self.machine);
        }
    }
}

/// Channels of one machine, each of which may hold a whole map that is not read. Official clients have one; one whose
/// network comes and goes leaves others behind for a while.
const CHANNELS_EACH: usize = 8;
/// Questions to one node that may wait.
const MAX_PINGS: usize = 8;

impl ControlState {
    pub(super) fn new(
        registry: RegistryHandle,
        settings: &ControlSettings,
        machine: MachinePrivate,
        run: Run,
        (derp, relay): (Value, Option<Relay>),
        lookups: Lookups,
    ) -> ControlState {
        ControlState {
            registry,
            url: settings.server_url.clone(),
            machine,
            run,
            trusted: RwLock::new(settings.trusted.clone()),
            derp: watch::channel((1, derp)).0,
            lookups: watch::channel(lookups).0,
            relay,
            policy_file: settings.policy.clone(),
            streams: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            slots: Slots::new(places()),
            untrusted: UntrustedBudget::new(),
            returning: Budget::new(UNTRUSTED_BYTES_MAX, UNTRUSTED_BYTES_PER_SOURCE),
            most_held: AtomicUsize::new(0),
            machines: Mutex::default(),
            unbelieved: LogBudget::default(),
            no_upgrade: LogBudget::of(1),
            moved: Mutex::default(),
            counts: Mutex::default(),
        }
    }

    /// A place for a connection, with so many bytes of memory; says why there is none. `from` is where it comes from,
    /// nothing for a proxy that is trusted.
    pub(super) fn place(&self, from: Option<addr::Addr>, bytes: usize) -> Result<Place, String> {
        let source = from.map(SourceKey::of);
        let slot =
            source.map_or_else(|| self.slots.take_trusted(), |s| self.slots.take(s)).map_err(|e| e.to_string())?;
        let known = source.is_some_and(|s| self.slots.knows(s));
        let (memory, network) = match known {
            true => (self.returning.charge(source), None),
            false => {
                let (memory, network) = self.untrusted.charge(source);
                (memory, Some(network))
            }
        };
        let mut place = Place { slots: self.slots.clone(), slot, source, memory, network };
        place.grow(bytes).map_err(|e| e.to_string())?;
        self.most_held.fetch_max(self.held_by_strangers(), Ordering::Relaxed);
        Ok(place)
    }

    /// True once after a crowd of untrusted peers has left: so many bytes, of which less than half are held now.
    pub(super) fn crowd_has_left(&self, crowd: usize) -> bool {
        let (now, most) = (self.held_by_strangers(), self.most_held.load(Ordering::Relaxed));
        let left = most >= crowd && now <= most / 2;
        if left {
            self.most_held.store(now, Ordering::Relaxed);
        }
        left
    }

    fn held_by_strangers(&self) -> usize {
        self.untrusted.sources.used() + self.returning.used()
    }

    /// The relays as clients are told them: ours, and those that the policy names. With a number that changes with them.
    pub(super) fn derp(&self, s: &Snapshot) -> (u64, Value) {
        let (number, mut map) = self.derp.borrow().clone();
        let Some(theirs) = &s.compiled.policy().derp_map else { return (number, map) };
        for (id, region) in theirs.get("Regions").and_then(Value::as_object).into_iter().flatten() {
            match map["Regions"].as_object_mut() {
                // A region without one under its number crashes clients; `null` takes ours or another out of the map.
                Some(regions) if region.is_null() => drop(regions.remove(id)),
                _ => map["Regions"][id.as_str()] = region.clone(),
            }
        }
        let mut hash = DefaultHasher::new();
        map.to_string().hash(&mut hash);
        (hash.finish(), map)
    }

    /// A node opens a map stream. The one it had before ends: a client that comes back has lost it.
    pub(super) fn open(&self, node: u64) -> Opened {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        let (pings, queue) = mpsc::channel(MAX_PINGS);
        let end = CancellationToken::new();
        let open = Open { stream, end: end.clone(), pings };
        if let Some(old) = self.streams.lock().insert(node, open) {
            old.end.cancel();
        }
        Opened { stream, end, pings: queue }
    }

    /// A machine opens a channel, and loses its oldest one if it has too many.
    pub(super) fn enter(self: &Arc<ControlState>, machine: MachineKey) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let cut = CancellationToken::new();
        let mut machines = self.machines.lock();
        let open = machines.entry(machine).or_default();
        if open.len() >= CHANNELS_EACH
            && let Some((_, oldest)) = open.pop_front()
        {
            oldest.cancel();
        }
        open.push_back((id, cut.clone()));
        Entered { state: self.clone(), machine, id, cut }
    }

    /// A map stream has ended.
    pub(super) fn close(&self, node: u64, stream: u64) {
        let mut streams = self.streams.lock();
        if streams.get(&node).is_some_and(|o| o.stream == stream) {
            streams.remove(&node);
        }
    }

    /// True if a node has a map stream open.
    pub(super) fn has_stream(&self, node: u64) -> bool {
        self.streams.lock().contains_key(&node)
    }

    /// How many map streams are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.lock().len()
    }

    /// Sends an HTTP request to a node over its map stream and waits for the answer, as it came on the wire.
    ///
    /// # Errors
    /// The node has no stream open, or does not answer in time.
    pub async fn ask(&self, node: u64, request: Option<&str>, patience: Duration) -> anyhow::Result<Bytes> {
        let id = format!("{:016x}{:016x}", rand::random::<u64>(), rand::random::<u64>());
        let ping = PingRequest {
            url: format!("https://{}/machine/answer/{id}", self.url.host),
            url_is_noise: true,
            types: if request.is_some() { "c2n".into() } else { String::new() },
            payload: request.map(|r| STANDARD.encode(r)).unwrap_or_default(),
        };
        let (reply, answer) = oneshot::channel();
        let pings = self.streams.lock().get(&node).map(|o| o.pings.clone()).context("it has no map stream open")?;
        self.waiting.lock().insert(id.clone(), reply);
        let exchange = async {
            pings.send(Box::new(ping)).await.map_err(|_| anyhow!("its map stream has ended"))?;
            answer.await.map_err(|_| anyhow!("it was not answered"))
        };
        let answer = tokio::time::timeout(patience, exchange).await;
        self.waiting.lock().remove(&id);
        answer.context("it did not answer in time")?
    }

    /// True if somebody waits for this answer.
    pub(super) fn awaits(&self, id: &str) -> bool {
        self.waiting.lock().contains_key(id)
    }

    /// An answer has come.
    pub(super) fn answered(&self, id: &str, body: Bytes) -> bool {
        let waits = self.waiting.lock().remove(id);
        waits.is_some_and(|reply| reply.send(body).is_ok())
    }

    pub(super) fn count(&self, what: &'static str, status: u16) {
        *self.counts.lock().entry((what, status)).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_network_leaves_half_of_the_memory_to_everybody_else() {
        let untrusted = UntrustedBudget::new();
        let slots = Slots::new(Limits { total: 10_000, per_source: 1_000, reserve: 0 });
        let place = |from: String| {
            let source = SourceKey::of(from.parse().unwrap());
            let (memory, network) = untrusted.charge(Some(source));
            let slot = slots.take(source).unwrap();
            let mut p = Place { slots: slots.clone(), slot, source: Some(source), memory, network: Some(network) };
            p.grow(128 * 1024).map(|()| p)
        };
        // One channel of each of a /48's sources.
        let held: Vec<Place> = (0..3_000).map_while(|n| place(format!("2001:db8:1:{n:x}::1")).ok()).collect();
        assert_eq!(held.len(), UNTRUSTED_BYTES_PER_NETWORK / (128 * 1024));
        assert!(place("2001:db8:1:ffff::1".into()).is_err());
        assert_eq!(untrusted.sources.used(), UNTRUSTED_BYTES_PER_NETWORK, "who is refused holds nothing");
        let honest: Vec<Place> = (1..200).map(|n| place(format!("192.0.2.{n}")).unwrap()).collect();
        drop((held, honest));
        assert_eq!((untrusted.sources.used(), untrusted.networks.used()), (0, 0));
    }
}
