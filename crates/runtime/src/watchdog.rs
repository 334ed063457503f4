//! The service manager's watchdog. In: what systemd asks for (`WATCHDOG_USEC`), loops that answer. Out: a sign of life for
//! as long as every one of them does; systemd ends a process that gives none, and starts it anew.
//!
//! A timer alone would prove that timers run. Here each owner of state is asked, on its own thread, and the question goes
//! out from the runtime that carries the connections: a sign of life means that both still turn.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sd_notify::NotifyState;
use tokio::sync::watch;
use tracing::{error, info};

/// Questions within the manager's time: one may be answered late and still be in time.
const QUESTIONS: u32 = 3;

/// Whom the watchdog asks. Clones ask the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The number of the question.
    question: watch::Sender<u64>,
    loops: Mutex<Vec<(&'static str, Weak<AtomicU64>)>>,
}

/// A loop's answers. One that is dropped is asked no more: its loop has ended, and whoever spawned it knows.
#[derive(Debug)]
pub struct Pulse {
    question: watch::Receiver<u64>,
    answered: Arc<AtomicU64>,
}

impl Default for Watchdog {
    fn default() -> Watchdog {
        Watchdog(Arc::new(Inner { question: watch::channel(0).0, loops: Mutex::default() }))
    }
}

impl Watchdog {
    /// A loop that must turn from now on.
    pub(crate) fn pulse(&self, name: &'static str) -> Pulse {
        let question = self.0.question.subscribe();
        let answered = Arc::new(AtomicU64::new(*question.borrow()));
        let mut loops = self.0.loops.lock();
        loops.retain(|(_, answered)| answered.strong_count() > 0);
        loops.push((name, Arc::downgrade(&answered)));
        Pulse { question, answered }
    }

    /// Who has not answered the last question.
    fn silent(&self) -> Vec<&'static str> {
        let asked = *self.0.question.borrow();
        let loops = self.0.loops.lock();
        let late = loops.iter().filter(|(_, a)| a.upgrade().is_some_and(|a| a.load(Ordering::Acquire) < asked));
        late.map(|(name, _)| *name).collect()
    }

    fn ask(&self) {
        self.0.question.send_modify(|n| *n += 1);
    }

    /// Keeps the service manager's watchdog content for as long as every loop answers; does nothing if there is none.
    /// Never ends.
    pub(crate) async fn run(self) {
        let Some(limit) = sd_notify::watchdog_enabled().filter(|t| !t.is_zero()) else { return };
        info!(limit = ?limit, "the service manager watches this process");
        self.feed(limit, || super::run::notify_systemd(&[NotifyState::Watchdog])).await;
    }

    async fn feed(&self, limit: Duration, sign: impl Fn()) {
        let mut said = false;
        loop {
            let silent = self.silent();
            if silent.is_empty() {
                sign();
                self.ask();
                said = false;
            } else if !std::mem::replace(&mut said, true) {
                error!(
                    loops = silent.join(", "),
                    "no answer; the service manager ends this process if that lasts for {limit:?}"
                );
            }
            tokio::time::sleep(limit / QUESTIONS).await;
        }
    }
}

impl Pulse {
    /// Ends when the loop is asked, which is answered by that. To be selected beside the loop's work; loses nothing when
    /// it is dropped.
    pub async fn asked(&mut self) {
        if self.question.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.answered.store(*self.question.borrow_and_update(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_only_while_every_loop_turns() {
        let (dog, signs) = (Watchdog::default(), Arc::new(AtomicU64::new(0)));
        let (mut well, mut ill) = (dog.pulse("well"), dog.pulse("ill"));
        tokio::spawn(async move {
            loop {
                well.asked().await;
            }
        });
        let (count, feeding) = (signs.clone(), dog.clone());
        tokio::spawn(async move {
            feeding
                .feed(Duration::from_secs(30), || {
                    let _ = count.fetch_add(1, Ordering::SeqCst);
                })
                .await;
        });
        let answering = tokio::spawn(async move {
            for _ in 0..5 {
                ill.asked().await;
            }
            // Alive, and turning no more.
            (ill, std::future::pending::<()>().await)
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        // The first, and one for each answer of both.
        assert_eq!(signs.load(Ordering::SeqCst), 6);
        assert_eq!(dog.silent(), ["ill"]);
        // A loop that ended is asked no more.
        answering.abort();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(signs.load(Ordering::SeqCst) > 10);
        assert!(dog.silent().is_empty());
    }
}
