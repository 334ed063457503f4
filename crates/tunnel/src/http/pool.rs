//! Idle upstream connections. In: connections whose last exchange ended cleanly. Out: the youngest one that still
//! lives. Bounded in number and age; a dead one is found when it is asked for, and once a second.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pump::Side;
use super::{Io, Target};

/// Idle connections of one target. More would be opened again as fast as they are needed.
const MAX_IDLE_PER_TARGET: usize = 128;

/// Idle connections of all targets.
const MAX_IDLE: usize = 1024;

/// Age at which an idle connection is let go. Below the 5 s of Node.js, the shortest common keep-alive of an
/// upstream, so that we are the first to hang up and no request meets a closing connection.
const IDLE: Duration = Duration::from_secs(4);

/// How often dead and old ones are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A stream to an upstream.
pub(super) type Upstream = Side<Box<dyn Io>>;

/// Something that can wait in a pool.
pub(super) trait Idle: Send + 'static {
    /// False once it cannot carry another exchange.
    fn is_alive(&mut self) -> bool;
}

/// The idle connections, by session and upstream.
#[derive(Debug)]
pub(super) struct Pool<T> {
    shelves: Mutex<Shelves<T>>,
}

#[derive(Debug)]
struct Shelves<T> {
    by_target: HashMap<(u64, u32), Vec<Waiting<T>>>,
    count: usize,
    sweeping: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    what: T,
    until: Instant,
}

impl<T: Idle> Pool<T> {
    pub(super) fn new() -> Arc<Pool<T>> {
        Arc::new(Pool { shelves: Mutex::new(Shelves { by_target: HashMap::new(), count: 0, sweeping: false }) })
    }

    /// The connection that was used last, if one lives.
    pub(super) fn take(&self, target: &Target) -> Option<T> {
        let now = Instant::now();
        let mut shelves = self.shelves.lock();
        loop {
            let mut found = shelves.by_target.get_mut(&key(target))?.pop()?;
            shelves.count -= 1;
            if found.until > now && found.what.is_alive() {
                return Some(found.what);
            }
        }
    }

    /// Keeps a connection; `idle` is what the upstream allows, in seconds.
    pub(super) fn put(self: &Arc<Self>, target: &Target, what: T, idle: Option<u64>) {
        // A second less than the upstream said, for what is under way when it hangs up.
        let idle = idle.map_or(IDLE, |s| IDLE.min(Duration::from_secs(s.saturating_sub(1))));
        let mut shelves = self.shelves.lock();
        if shelves.count >= MAX_IDLE || idle.is_zero() {
            return;
        }
        let shelf = shelves.by_target.entry(key(target)).or_default();
        if shelf.len() >= MAX_IDLE_PER_TARGET {
            return;
        }
        shelf.push(Waiting { what, until: Instant::now() + idle });
        shelves.count += 1;
        if !std::mem::replace(&mut shelves.sweeping, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    /// Lets go of everything of a session.
    pub(super) fn forget(&self, session: u64) {
        let mut shelves = self.shelves.lock();
        shelves.by_target.retain(|(s, _), _| *s != session);
        shelves.count = shelves.by_target.values().map(Vec::len).sum();
    }
}

impl Idle for Upstream {
    fn is_alive(&mut self) -> bool {
        // Nothing may come from an upstream that was asked nothing; the end may.
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_fill(&mut cx).is_pending()
    }
}

/// Ends with the pool, or when the pool is empty.
async fn sweep<T: Idle>(pool: Weak<Pool<T>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let mut shelves = pool.shelves.lock();
        shelves.by_target.retain(|_, shelf| {
            shelf.retain_mut(|w| w.until > now && w.what.is_alive());
            !shelf.is_empty()
        });
        shelves.count = shelves.by_target.values().map(Vec::len).sum();
        if shelves.count == 0 {
            shelves.sweeping = false;
            return;
        }
    }
}

fn key(target: &Target) -> (u64, u32) {
    (target.session, target.upstream)
}

/// True for an error that says the connection was gone before anything came back.
pub(super) fn was_gone(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
    )
}
