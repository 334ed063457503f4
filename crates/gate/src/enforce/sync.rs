//! The loop that keeps any enforcer in sync. In: what is published, what the enforcer says. Out: changes, and how far it
//! is, for those who wait for it and for `doctor`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::publish::Desired;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Enforcer, InForce, Info, Reconciled, Remark, Snapshot, Wake};
use crate::ledger::{Published, ReadModel};
use runtime::run::Run;

/// What is there is compared with what should be this often, in case somebody changed it by hand.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How far an enforcer is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The latest generation it has.
    pub reached: u64,
    /// How long the latest change took.
    pub took: Duration,
    /// Changes applied since the start.
    pub changes: u64,
    /// What is wrong now.
    pub error: Option<String>,
    /// What a person should know.
    pub remarks: Vec<Remark>,
}

/// An enforcer at work, for others.
#[derive(Debug, Clone)]
pub struct Handle {
    /// What it is.
    pub info: Info,
    /// How far it is.
    pub progress: Arc<Mutex<Progress>>,
    reached: watch::Receiver<Reached>,
    stop: CancellationToken,
}

/// How far an enforcer is, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reached {
    generation: u64,
    /// It is in force by then; `None`: it is already.
    by: Option<Instant>,
}

/// Makes guarded ports equal to what is published before anything else starts.
///
/// # Errors
/// Ports are to be guarded and the kernel does not let us.
pub fn guard(enforcer: &mut dyn Enforcer, published: &Arc<Published>, ledger: &Arc<ReadModel>) -> anyhow::Result<()> {
    enforcer.guard(&Snapshot { published: published.clone(), ledger: ledger.clone() })
}

/// Starts keeping an enforcer in sync with the published lists, in a task of its own.
#[must_use]
pub fn start(
    run: &Run,
    published: watch::Receiver<Arc<Published>>,
    ledger: Arc<ReadModel>,
    enforcer: Box<dyn Enforcer>,
) -> Handle {
    let (handle, sync) = Sync::new(published, ledger, enforcer);
    let (stopping, stopped) = (run.stopping(), handle.stop.clone());
    run.spawn("enforcer", async move {
        tokio::select! {
            () = sync.run() => {}
            () = stopping => {}
            () = stopped.cancelled() => {}
        }
        Ok(())
    });
    handle
}

impl Handle {
    /// Ends it and waits until it has ended; what it holds stays as it is.
    pub async fn stop(&self) {
        self.stop.cancel();
        let mut reached = self.reached.clone();
        // The other end lives as long as its task.
        while reached.changed().await.is_ok() {}
    }

    /// Waits until the enforcer has a generation in force, or the time has come. True if it has.
    pub async fn has(&self, generation: u64, until: Instant) -> bool {
        let mut reached = self.reached.clone();
        let wait = async {
            let by = reached.wait_for(|r| r.generation >= generation).await.ok()?.by;
            if let Some(by) = by {
                tokio::time::sleep_until(by.into()).await;
            }
            Some(())
        };
        tokio::time::timeout_at(until.into(), wait).await.is_ok_and(|r| r.is_some())
    }

    /// True if it holds this list.
    #[must_use]
    pub fn holds(&self, list: &str) -> bool {
        self.info.lists.iter().any(|l| l == list)
    }
}

/// An enforcer and what was done with it.
struct Sync {
    enforcer: Box<dyn Enforcer>,
    info: Info,
    published: watch::Receiver<Arc<Published>>,
    ledger: Arc<ReadModel>,
    progress: Arc<Mutex<Progress>>,
    report: watch::Sender<Reached>,
    /// The lists as they were when it was last made equal; empty after a failure.
    last: Vec<Option<Arc<Desired>>>,
    /// What is there is read next time.
    force: bool,
    /// The enforcer has something to finish.
    due: bool,
    /// When it was last touched.
    touched: Option<Instant>,
    /// The wait after the next failure.
    backoff: Duration,
}

impl Sync {
    fn new(
        published: watch::Receiver<Arc<Published>>,
        ledger: Arc<ReadModel>,
        enforcer: Box<dyn Enforcer>,
    ) -> (Handle, Sync) {
        let info = enforcer.info().clone();
        let progress = Arc::<Mutex<Progress>>::default();
        let (report, reached) = watch::channel(Reached::default());
        let stop = CancellationToken::new();
        let handle = Handle { info: info.clone(), progress: progress.clone(), reached, stop };
        let (last, backoff) = (Vec::new(), BACKOFF.0);
        let sync = Sync {
            enforcer,
            info,
            published,
            ledger,
            progress,
            report,
            last,
            force: true,
            due: false,
            touched: None,
            backoff,
        };
        (handle, sync)
    }

    /// Goes on until nothing is published any more.
    async fn run(mut self) {
        loop {
            if let Some(at) = self.touched {
                tokio::time::sleep(self.enforcer.min_interval().saturating_sub(at.elapsed())).await;
            }
            let next_look = self.step().await;
            tokio::select! {
                // What is due comes first, however much is published.
                biased;
                wake = self.enforcer.idle() => self.woken(wake),
                changed = self.published.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = tokio::time::sleep(next_look) => self.force = true,
            }
        }
    }

    /// Makes the enforcer equal to the latest of what is published, if there is a reason. Returns when to look again.
    async fn step(&mut self) -> Duration {
        let published = self.published.borrow_and_update().clone();
        let generation = published.generation;
        let lists: Vec<_> = self.info.lists.iter().map(|l| published.lists.get(l).cloned()).collect();
        let (force, due) = (std::mem::take(&mut self.force), std::mem::take(&mut self.due));
        if !force && !due && self.is_last(&lists) {
            let in_force = self.enforcer.unchanged(generation);
            self.reached(generation, in_force);
            return RESYNC_INTERVAL;
        }
        let began = Instant::now();
        self.touched = Some(began);
        let desired = Snapshot { published, ledger: self.ledger.clone() };
        let done = self.enforcer.reconcile(&desired, force).await;
        self.progress.lock().remarks = self.enforcer.remarks().to_vec();
        match done {
            Ok(Reconciled { changed, in_force }) => {
                self.backoff = BACKOFF.0;
                self.last = lists;
                if changed {
                    let mut p = self.progress.lock();
                    p.changes += 1;
                    p.took = began.elapsed();
                    debug!(enforcer = self.info.name, generation, took_ms = p.took.as_millis(), "enforcer updated");
                }
                self.reached(generation, in_force);
                RESYNC_INTERVAL
            }
            Err(e) => {
                self.failed(&e);
                let wait = self.backoff;
                self.backoff = (wait * 2).min(BACKOFF.1);
                wait
            }
        }
    }

    /// True if the enforcer was made equal to exactly these.
    fn is_last(&self, lists: &[Option<Arc<Desired>>]) -> bool {
        let same = |(a, b): (&Option<Arc<Desired>>, &Option<Arc<Desired>>)| matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        lists.len() == self.last.len() && lists.iter().zip(&self.last).all(same)
    }

    fn woken(&mut self, wake: anyhow::Result<Wake>) {
        match wake {
            Ok(Wake::ForeignChange) => self.force = true,
            Ok(Wake::Due) => self.due = true,
            Ok(Wake::InForce(generation)) => self.reached(generation, InForce::Now),
            Err(e) => self.failed(&e),
        }
    }

    fn reached(&self, generation: u64, in_force: InForce) {
        let by = match in_force {
            InForce::Now => None,
            InForce::By(at) => Some(at),
            InForce::WhenShown => return,
        };
        let mut p = self.progress.lock();
        if p.error.take().is_some() {
            info!(enforcer = self.info.name, "enforcer in sync again");
        }
        p.reached = generation;
        drop(p);
        self.report.send_replace(Reached { generation, by });
    }

    fn failed(&mut self, e: &anyhow::Error) {
        self.last.clear();
        let text = format!("{e:#}");
        let mut p = self.progress.lock();
        if p.error.as_ref() != Some(&text) {
            warn!(enforcer = self.info.name, err = text, "enforcer out of sync, keeping last good state");
        }
        p.error = Some(text);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use anyhow::bail;
    use futures_util::future::{BoxFuture, FutureExt, pending};
    use tokio::sync::{Notify, mpsc};

    use super::super::testing::published;
    use super::*;

    /// What a false enforcer was asked to do.
    #[derive(Debug, PartialEq, Eq)]
    struct Asked {
        entries: Vec<String>,
        force: bool,
    }

    /// An enforcer that does what a test tells it.
    struct False {
        info: Info,
        asked: mpsc::UnboundedSender<Asked>,
        /// What fails, change by change; nothing after the last of these.
        failures: Vec<bool>,
        /// It never finishes.
        stuck: bool,
        interval: Duration,
        in_force: InForce,
        wakes: Arc<Mutex<VecDeque<anyhow::Result<Wake>>>>,
        woken: Arc<Notify>,
    }

    struct Stage {
        out: watch::Sender<Arc<Published>>,
        handle: Handle,
        asked: mpsc::UnboundedReceiver<Asked>,
        wakes: Arc<Mutex<VecDeque<anyhow::Result<Wake>>>>,
        woken: Arc<Notify>,
    }

    impl Enforcer for False {
        fn info(&self) -> &Info {
            &self.info
        }

        fn min_interval(&self) -> Duration {
            self.interval
        }

        fn reconcile<'a>(
            &'a mut self,
            desired: &'a Snapshot,
            force: bool,
        ) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
            async move {
                let entries = desired.list("home")?.entries().iter().map(ToString::to_string).collect();
                let _ = self.asked.send(Asked { entries, force });
                if self.stuck {
                    pending::<()>().await;
                }
                if !self.failures.is_empty() && self.failures.remove(0) {
                    bail!("it is not there");
                }
                Ok(Reconciled { changed: true, in_force: self.in_force })
            }
            .boxed()
        }

        fn unchanged(&mut self, _: u64) -> InForce {
            self.in_force
        }

        fn idle(&mut self) -> BoxFuture<'_, anyhow::Result<Wake>> {
            async move {
                loop {
                    let wake = self.wakes.lock().pop_front();
                    match wake {
                        Some(wake) => return wake,
                        None => self.woken.notified().await,
                    }
                }
            }
            .boxed()
        }
    }

    fn start(with: impl FnOnce(&mut False)) -> Stage {
        let (out, seen) = watch::channel(published(1, &[("home", &["192.0.2.1"])]));
        let (asked_out, asked) = mpsc::unbounded_channel();
        let mut enforcer = False {
            info: Info { name: "false".to_string(), lists: vec!["home".to_string()], ..Info::default() },
            asked: asked_out,
            failures: Vec::new(),
            stuck: false,
            interval: Duration::ZERO,
            in_force: InForce::Now,
            wakes: Arc::default(),
            woken: Arc::default(),
        };
        with(&mut enforcer);
        let (wakes, woken) = (enforcer.wakes.clone(), enforcer.woken.clone());
        let (handle, sync) = Sync::new(seen, Arc::default(), Box::new(enforcer));
        tokio::spawn(sync.run());
        Stage { out, handle, asked, wakes, woken }
    }

    impl Stage {
        fn publish(&self, generation: u64, home: &[&str]) {
            self.out.send_replace(published(generation, &[("home", home)]));
        }

        async fn asked(&mut self) -> Asked {
            tokio::time::timeout(Duration::from_secs(3_600), self.asked.recv()).await.unwrap().unwrap()
        }

        async fn has(&self, generation: u64) -> bool {
            self.handle.has(generation, soon()).await
        }

        fn wake(&self, wake: anyhow::Result<Wake>) {
            self.wakes.lock().push_back(wake);
            self.woken.notify_one();
        }

        fn error(&self) -> Option<String> {
            self.handle.progress.lock().error.clone()
        }
    }

    /// Time stands still in these tests but for sleeps: an hour is over as soon as nothing else is to be done.
    fn soon() -> Instant {
        (tokio::time::Instant::now() + Duration::from_secs(5)).into_std()
    }

    fn asked(entries: &[&str], force: bool) -> Asked {
        Asked { entries: entries.iter().map(|e| (*e).to_string()).collect(), force }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_holds_back_no_other() {
        let mut slow = start(|e| e.stuck = true);
        let mut fast = start(|_| {});
        slow.asked().await;
        for generation in 2..10 {
            fast.publish(generation, &["192.0.2.9"]);
            assert!(fast.has(generation).await);
        }
        assert!(!slow.has(1).await);
        assert_eq!(fast.asked().await, asked(&["192.0.2.1"], true), "what was there at the start is read");
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_wins() {
        let mut s = start(|e| e.interval = Duration::from_secs(1));
        s.asked().await;
        for n in 2..50 {
            s.publish(n, &[&format!("192.0.2.{n}")]);
            tokio::task::yield_now().await;
        }
        assert!(s.has(49).await);
        assert_eq!(s.asked().await, asked(&["192.0.2.49"], false), "nothing in between");
        assert!(s.asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_keeps_what_was_reached_and_is_tried_again() {
        let mut s = start(|e| e.failures = vec![false, true, true, true]);
        assert!(s.has(1).await);
        s.asked().await;
        s.publish(2, &["192.0.2.2"]);
        assert_eq!(s.asked().await, asked(&["192.0.2.2"], false));
        tokio::task::yield_now().await;
        assert_eq!(s.error().unwrap(), "it is not there");
        assert_eq!(s.handle.progress.lock().reached, 1);
        let began = tokio::time::Instant::now();
        for _ in 0..3 {
            assert_eq!(s.asked().await, asked(&["192.0.2.2"], true), "what is there is read before the next try");
        }
        assert_eq!(began.elapsed(), BACKOFF.0 * 7, "waits of one, two and four");
        assert!(s.has(2).await);
        assert_eq!(s.error(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_change_is_undone() {
        let mut s = start(|_| {});
        s.asked().await;
        s.wake(Ok(Wake::ForeignChange));
        assert_eq!(s.asked().await, asked(&["192.0.2.1"], true));
        // Even if nobody says so: somebody may have changed it by hand.
        let began = tokio::time::Instant::now();
        assert_eq!(s.asked().await, asked(&["192.0.2.1"], true));
        assert_eq!(began.elapsed(), RESYNC_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_due_is_finished_without_a_look() {
        let mut s = start(|_| {});
        s.asked().await;
        s.wake(Ok(Wake::Due));
        assert_eq!(s.asked().await, asked(&["192.0.2.1"], false));
    }

    #[tokio::test(start_paused = true)]
    async fn lists_that_did_not_change_touch_nothing() {
        let mut s = start(|_| {});
        s.asked().await;
        let mut same = Published::clone(&s.out.borrow());
        same.generation = 7;
        s.out.send_replace(Arc::new(same));
        assert!(s.has(7).await, "the generation is reached all the same");
        assert!(s.asked.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_be_shown_is_in_force_when_it_is() {
        let mut s = start(|e| e.in_force = InForce::WhenShown);
        s.asked().await;
        assert!(!s.has(1).await);
        s.wake(Ok(Wake::InForce(1)));
        assert!(s.has(1).await);
        s.publish(2, &["192.0.2.2"]);
        s.wake(Err(anyhow::anyhow!("it does not show the lists")));
        assert_eq!(s.asked().await.entries, ["192.0.2.2"], "it is tried again");
        assert!(!s.has(2).await);
        assert!(s.error().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_force_later_is_waited_for() {
        let by = (tokio::time::Instant::now() + Duration::from_secs(2)).into_std();
        let s = start(|e| e.in_force = InForce::By(by));
        let early = (tokio::time::Instant::now() + Duration::from_secs(1)).into_std();
        assert!(!s.handle.has(1, early).await);
        assert!(s.has(1).await);
    }
}
