//! Admission: every connection that is judged by address passes one. In: the current view (a `watch`) and visitors.
//! Out: a `ConnectionGuard` for as long as the visitor may stay; when the view changes every pass is asked again, and who is no
//! longer allowed is cut.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use access::{Refusal, Service, Verdict, View};
use addr::Addr;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

/// All admission of one process: the view they judge by and everyone who is inside.
pub struct Admission {
    view: watch::Sender<Arc<View>>,
    /// Told of everyone who passes; nobody is, unless asked for.
    passed: OnceLock<Passed>,
    /// Who is inside; sharded by slot so that 10,000 visitors do not queue for one lock.
    inside: [Mutex<Shard>; SHARDS],
}

type Passed = Box<dyn Fn(Addr) + Send + Sync>;

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("generation", &self.view().generation).finish_non_exhaustive()
    }
}

/// The admission of one service.
#[derive(Debug, Clone)]
pub struct AccessGuard {
    admission: Arc<Admission>,
    service: Arc<Service>,
}

/// A visitor who was let in. Dropping it says that the visitor left.
#[derive(Debug)]
pub struct ConnectionGuard {
    admission: Arc<Admission>,
    entry: Arc<Entry>,
    shard: usize,
    slot: usize,
}

/// Enough that two cores rarely meet; few enough that an idle process pays nothing.
const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Shard {
    entries: Vec<Option<Arc<Entry>>>,
    free: Vec<usize>,
}

#[derive(Debug)]
struct Entry {
    addr: Addr,
    service: Arc<Service>,
    cut: AtomicBool,
    /// Why it was cut.
    why: OnceLock<Box<Refusal>>,
    wake: Notify,
}

impl Admission {
    /// Admission without a view: everybody is refused until [`Admission::publish`].
    #[must_use]
    pub fn new() -> Arc<Admission> {
        let (view, _) = watch::channel(Arc::new(View::default()));
        Arc::new(Admission { view, passed: OnceLock::new(), inside: std::array::from_fn(|_| Mutex::default()) })
    }

    /// The guard of a service, which judges by its list. Where there is none, nobody passes.
    #[must_use]
    pub fn guard(self: &Arc<Admission>, service: Service) -> AccessGuard {
        AccessGuard { admission: self.clone(), service: Arc::new(service) }
    }

    /// The current view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Sees every later view.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Replaces the view and asks everyone inside again. Returns how many were cut.
    pub fn publish(&self, view: View) -> usize {
        let view = Arc::new(view);
        // The view is in force before anyone inside is asked: who is admitted from here on was judged by it.
        self.view.send_replace(view.clone());
        let mut cut = 0;
        for shard in &self.inside {
            for entry in shard.lock().entries.iter().flatten() {
                let Verdict::Refuse(why) = view.judge(&entry.service, entry.addr) else { continue };
                let (service, view) = (entry.service.clone(), view.clone());
                let _ = entry.why.set(Box::new(Refusal { addr: entry.addr, service, why, view }));
                if !entry.cut.swap(true, Ordering::AcqRel) {
                    entry.wake.notify_waiters();
                    cut += 1;
                }
            }
        }
        cut
    }

    /// Calls this with every address that passes, before it does. Only the first such function counts.
    pub fn on_pass(&self, notify: impl Fn(Addr) + Send + Sync + 'static) {
        let _ = self.passed.set(Box::new(notify));
    }

    /// The addresses inside, each once.
    #[must_use]
    pub fn addrs(&self) -> std::collections::BTreeSet<Addr> {
        let of = |s: &Mutex<Shard>| s.lock().entries.iter().flatten().map(|e| e.addr).collect::<Vec<_>>();
        self.inside.iter().flat_map(of).collect()
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        self.inside
            .iter()
            .map(|s| {
                let s = s.lock();
                s.entries.len() - s.free.len()
            })
            .sum()
    }
}

impl AccessGuard {
    /// Judges a visitor and notes that it is inside.
    ///
    /// # Errors
    /// Why it must not pass.
    pub fn admit(&self, addr: Addr) -> Result<ConnectionGuard, Refusal> {
        let entry = Arc::new(Entry {
            addr,
            service: self.service.clone(),
            cut: AtomicBool::new(false),
            why: OnceLock::new(),
            wake: Notify::new(),
        });
        let shard = Arc::as_ptr(&entry) as usize / size_of::<Entry>() % SHARDS;
        let slot = self.admission.inside[shard].lock().insert(entry.clone());
        let pass = ConnectionGuard { admission: self.admission.clone(), entry, shard, slot };
        // Judged after it is noted: a view published in between is seen either here or by `publish`.
        {
            let view = self.admission.view.borrow();
            if let Verdict::Refuse(why) = view.judge(&self.service, addr) {
                return Err(Refusal { addr, service: self.service.clone(), why, view: view.clone() });
            }
        }
        if let Some(notify) = self.admission.passed.get() {
            notify(addr);
        }
        Ok(pass)
    }
}

impl ConnectionGuard {
    /// Who passed.
    #[must_use]
    pub fn addr(&self) -> Addr {
        self.entry.addr
    }

    /// Why the visitor is no longer allowed; nothing while it is.
    #[must_use]
    pub fn why(&self) -> String {
        self.entry.why.get().map_or_else(String::new, ToString::to_string)
    }

    /// True once the visitor is no longer allowed.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.entry.cut.load(Ordering::Acquire)
    }

    /// Ends when the visitor is no longer allowed. Safe to drop and call again.
    pub async fn cut(&self) {
        loop {
            let woken = self.entry.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if self.is_cut() {
                return;
            }
            woken.await;
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.admission.inside[self.shard].lock().remove(self.slot);
    }
}

impl Shard {
    fn insert(&mut self, entry: Arc<Entry>) -> usize {
        if let Some(slot) = self.free.pop() {
            self.entries[slot] = Some(entry);
            return slot;
        }
        self.entries.push(Some(entry));
        self.entries.len() - 1
    }

    fn remove(&mut self, slot: usize) {
        self.entries[slot] = None;
        self.free.push(slot);
    }
}
