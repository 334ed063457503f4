//! What the gate's listeners and commands share. In: settings. Out: the parts that each of them reads.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::ledger::Event;
use addr::Addr;
use http::StatusCode;
use parking_lot::{Mutex, RwLock};
use tracing::info;

use super::answer::RefusalPage;
use super::asked::Proxies;
use super::doctor::Diagnosis;
use super::enforce;
use super::ledger::LedgerHandle;
use super::observations::Observation;
use super::share::guests::ShareState;

/// What all listeners share.
#[derive(Debug)]
pub struct GateState {
    /// The ledger.
    pub ledger: LedgerHandle,
    /// Which proxies are believed.
    pub(super) proxies: Proxies,
    /// What a refused visitor gets.
    pub(super) refusal: RefusalPage,
    /// What is kept in sync.
    pub(super) enforcers: Vec<enforce::Handle>,
    /// Share links and their guests.
    pub(super) shares: ShareState,
    /// Host names that lists follow.
    pub(super) names: Arc<Mutex<access::names::Names>>,
    /// What `doctor` goes by.
    pub(super) diagnosis: Diagnosis,
    /// Who was seen of late.
    pub(super) signs: Arc<SignsOfLife>,
    /// Answers by status, for metrics.
    pub(super) answers: Arc<Answers>,
}

/// What all listeners share, as it is now; clones are the same.
#[derive(Debug, Clone)]
pub(super) struct Current(Arc<RwLock<Arc<GateState>>>);

impl Current {
    pub(super) fn new(state: GateState) -> Current {
        Current(Arc::new(RwLock::new(Arc::new(state))))
    }

    pub(super) fn now(&self) -> Arc<GateState> {
        self.0.read().clone()
    }

    pub(super) fn replace(&self, state: GateState) {
        *self.0.write() = Arc::new(state);
    }
}

/// Signs of life submitted of late, so that a busy client costs one event a minute.
#[derive(Debug, Default)]
pub(super) struct SignsOfLife(Mutex<HashMap<(String, Addr), Instant>>);

/// Answers by endpoint and status.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<BTreeMap<(&'static str, u16), u64>>);

/// Clients whose last sign of life is remembered: more than any list holds; beyond it all are forgotten, which costs an
/// event each.
const MAX_SIGNS: usize = 100_000;

impl SignsOfLife {
    /// True if the last one of this client on this list is at least so long ago; then this one is it.
    fn is_due(&self, list: &str, addr: Addr, step: Duration, now: Instant) -> bool {
        let mut seen = self.0.lock();
        let key = (list.to_string(), addr);
        if seen.get(&key).is_some_and(|t| now.duration_since(*t) < step) {
            return false;
        }
        if seen.len() >= MAX_SIGNS {
            seen.clear();
        }
        seen.insert(key, now);
        true
    }
}

impl Answers {
    /// Counts one.
    pub(super) fn count(&self, endpoint: &'static str, status: StatusCode) {
        *self.0.lock().entry((endpoint, status.as_u16())).or_default() += 1;
    }

    /// How many there were, by endpoint and status.
    pub(super) fn counts(&self) -> BTreeMap<(&'static str, u16), u64> {
        self.0.lock().clone()
    }
}

impl GateState {
    /// A sign of life of an address that was admitted by this list; submitted to the ledger once a minute.
    pub fn touch(&self, list: &str, addr: Addr) {
        let idle = self.ledger.model.rules.read().get(list).and_then(|r| r.idle);
        let step = Duration::from_secs(access::ledger::seen_step(idle));
        if self.signs.is_due(list, addr, step, Instant::now()) {
            self.ledger.notify(Event::Seen(list.to_string(), addr));
        }
    }

    /// Keeps an observation, and logs it if it is new.
    pub(super) fn note(&self, what: Observation) {
        self.diagnosis.observations.note(what, Instant::now(), |what, held_back| {
            let fix = self.mend(what);
            info!(found = %what, %fix, held_back, "the set-up looks wrong");
        });
    }

    /// What to do about an observation.
    pub(super) fn mend(&self, what: &Observation) -> String {
        self.diagnosis.configured_by.mend(&self.proxies, what)
    }

    /// True if a Traefik in front judges who connects to it, whatever proxies say.
    pub(super) fn traefik_by_peer(&self) -> bool {
        self.enforcers.iter().any(|e| e.info.by_peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_client_is_a_sign_of_life_a_minute() {
        let (signs, now, step) = (SignsOfLife::default(), Instant::now(), Duration::from_secs(60));
        let addr: Addr = "192.0.2.1".parse().unwrap();
        let due = |list: &str, after: u64| signs.is_due(list, addr, step, now + Duration::from_secs(after));
        assert!(due("home", 0) && !due("home", 59) && due("guests", 59) && due("home", 60) && !due("home", 61));
    }
}
