//! The life of the process: tasks with an owner and a name, readiness, reload, and a drain in three steps. In: the
//! rooms' futures and the signals of the system. Out: their end, in order, with the first error.
//!
//! 1. [`Run::stop`] (SIGTERM, SIGINT, a failed task): [`Run::stopping`] ends, rooms stop accepting.
//! 2. Tasks that are under way go on until they end or the drain deadline passes.
//! 3. What is left is dropped where it stands.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, debug_span, error, info, warn};

use crate::watchdog::{Pulse, Watchdog};

/// The default of `--drain`: long enough for a page and a short download, short enough for a restart by hand.
pub const DRAIN: Duration = Duration::from_secs(10);

/// One run of the process. Clones are the same run.
#[derive(Clone)]
pub struct Run {
    inner: Arc<Inner>,
}

/// Says that a part is not ready yet; see [`Run::not_ready`]. Dropped without [`NotReady::ready`], the run never
/// becomes ready.
#[must_use = "the run is not ready before `ready` is called"]
pub struct NotReady {
    run: Run,
    what: &'static str,
}

/// What a reload hook returns: a sentence about what changed.
pub type Reloading = Pin<Box<dyn Future<Output = anyhow::Result<String>> + Send>>;

struct Inner {
    tasks: TaskTracker,
    stop: CancellationToken,
    force: CancellationToken,
    /// How long what is under way may last after a stop.
    drain: Mutex<Duration>,
    /// How many tasks of each name are alive.
    alive: Mutex<BTreeMap<&'static str, usize>>,
    failed: Mutex<Option<anyhow::Error>>,
    /// Parts that are not ready, plus one until [`Run::finish`] is called.
    not_ready: AtomicUsize,
    ready: watch::Sender<bool>,
    hooks: Mutex<Vec<Hook>>,
    /// One reload at a time.
    reloading: tokio::sync::Mutex<()>,
    watchdog: Watchdog,
}

#[derive(Clone)]
struct Hook {
    name: &'static str,
    run: Arc<dyn Fn() -> Reloading + Send + Sync>,
}

impl Run {
    /// A run whose tasks get this long to end once it stops. Needs a tokio runtime from [`Run::spawn`] on.
    #[must_use]
    pub fn new(drain: Duration) -> Run {
        Run {
            inner: Arc::new(Inner {
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
                force: CancellationToken::new(),
                drain: Mutex::new(drain),
                alive: Mutex::default(),
                failed: Mutex::new(None),
                not_ready: AtomicUsize::new(1),
                ready: watch::channel(false).0,
                hooks: Mutex::default(),
                reloading: tokio::sync::Mutex::default(),
                watchdog: Watchdog::default(),
            }),
        }
    }

    /// Starts a task the process cannot do without: an accept loop, a session loop. It ends by itself after
    /// [`Run::stopping`]; an error or a panic stops the run, which then ends with that error.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let (run, task) = (self.clone(), Box::pin(task));
        self.start(name, async move {
            match std::panic::AssertUnwindSafe(task).catch_unwind().await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => run.fail(e.context(format!("{name} failed"))),
                Err(_) => run.fail(anyhow!("{name} panicked; this is a bug")),
            }
        });
    }

    /// Starts the task of one connection, in a span with a number of its own: lines that belong together can be found,
    /// and say who the peer is. The span is one of DEBUG and costs nothing where that is not shown.
    pub fn connection(
        &self,
        name: &'static str,
        peer: impl fmt::Display,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let span = debug_span!("connection", id = NEXT.fetch_add(1, Ordering::Relaxed), kind = name, %peer);
        // Boxed inside, as in `visit`.
        self.visit(name, Box::pin(task).instrument(span));
    }

    /// Starts a task that comes and goes: one visitor, one command. Its end, even by a panic, ends nothing else.
    pub fn visit(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed before it is wrapped: each wrapper would hold it twice, once as an argument and once as it runs, and an
        // idle visitor is little more than this.
        let task = Box::pin(task);
        self.start(name, async move {
            if std::panic::AssertUnwindSafe(task).catch_unwind().await.is_err() {
                error!(task = name, "a task panicked; this is a bug");
            }
        });
    }

    /// Ends when the run stops: accept nothing new from here on.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.stop.clone().cancelled_owned()
    }

    /// The same, for what must know it again and again.
    #[must_use]
    pub fn stop_token(&self) -> CancellationToken {
        self.inner.stop.child_token()
    }

    /// True once the run stops.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.stop.is_cancelled()
    }

    /// Another time for what is under way, for a stop that is still to come.
    pub fn set_drain(&self, drain: Duration) {
        *self.inner.drain.lock() = drain;
    }

    fn drain(&self) -> Duration {
        *self.inner.drain.lock()
    }

    /// Starts the drain.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// Starts the drain because of an error; the first one is what [`Run::finish`] returns.
    pub fn fail(&self, e: anyhow::Error) {
        let mut failed = self.inner.failed.lock();
        if failed.is_none() {
            *failed = Some(e);
        } else {
            error!(err = format!("{e:#}"), "another task failed");
        }
        drop(failed);
        self.stop();
    }

    /// Holds readiness back until this part says [`NotReady::ready`]. Take it before the part's task starts.
    pub fn not_ready(&self, what: &'static str) -> NotReady {
        self.inner.not_ready.fetch_add(1, Ordering::AcqRel);
        NotReady { run: self.clone(), what }
    }

    /// A loop that the process cannot do without, from now until what is returned is dropped: once it no longer answers,
    /// the service manager's watchdog ends the process.
    #[must_use]
    pub fn pulse(&self, name: &'static str) -> Pulse {
        self.inner.watchdog.pulse(name)
    }

    /// Ends when every part is ready and [`Run::finish`] waits; never, if the run stops before.
    pub async fn ready(&self) {
        let mut seen = self.inner.ready.subscribe();
        if seen.wait_for(|r| *r).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Adds something to be read again on SIGHUP. The future returns a sentence about what changed; its error is
    /// reported and must leave everything as it was.
    pub fn on_reload(&self, name: &'static str, hook: impl Fn() -> Reloading + Send + Sync + 'static) {
        self.inner.hooks.lock().push(Hook { name, run: Arc::new(hook) });
    }

    /// Runs every hook in the order added, and says how each went.
    pub async fn reload(&self) -> Vec<(&'static str, anyhow::Result<String>)> {
        let _one = self.inner.reloading.lock().await;
        let hooks = self.inner.hooks.lock().clone();
        tell_reloading();
        let mut out = Vec::new();
        for hook in hooks {
            let done = (hook.run)().await;
            match &done {
                Ok(changed) => info!(part = hook.name, changed, "reloaded"),
                Err(e) => error!(part = hook.name, err = format!("{e:#}"), "not reloaded, everything stays as it was"),
            }
            out.push((hook.name, done));
        }
        if *self.inner.ready.borrow() {
            notify_systemd(&[sd_notify::NotifyState::Ready]);
        }
        out
    }

    /// Follows SIGTERM and SIGINT (stop; the second one forces) and SIGHUP (reload). Call it first, so that no
    /// signal meets the system's default action.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn follow_signals(&self) -> anyhow::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
        let run = self.clone();
        // Not a task of the run: it must outlive the drain to see the second signal, and ends with the runtime.
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Some(()) = term.recv() => run.signalled("SIGTERM"),
                    Some(()) = int.recv() => run.signalled("SIGINT"),
                    Some(()) = hup.recv() => {
                        info!(signal = "SIGHUP", "reloading");
                        run.reload().await;
                    }
                    else => return,
                }
            }
        });
        Ok(())
    }

    /// Ends a run whose start failed: what was started already is stopped and waited for, so that no task meets a runtime
    /// that is going away.
    pub async fn abandon(&self) {
        self.stop();
        self.inner.force.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Waits for the stop, drains, forces. Call it once everything has been started.
    ///
    /// # Errors
    /// The first error of a task that the process cannot do without.
    pub async fn finish(&self) -> anyhow::Result<()> {
        self.one_ready();
        // Not a task of the run: the drain is watched as well, and this ends with the runtime.
        tokio::spawn(self.inner.watchdog.clone().run());
        self.inner.stop.cancelled().await;
        notify_systemd(&[sd_notify::NotifyState::Stopping]);
        self.inner.tasks.close();
        if !self.inner.tasks.is_empty() {
            debug!(deadline = ?self.drain(), left = self.who_is_left(), "draining");
        }
        tokio::select! {
            () = self.inner.tasks.wait() => {}
            () = tokio::time::sleep(self.drain()) => {
                warn!(deadline = ?self.drain(), left = self.who_is_left(), "drain deadline passed, dropping what is left");
            }
            () = self.inner.force.cancelled() => warn!(left = self.who_is_left(), "stopping at once, dropping what is left"),
        }
        self.inner.force.cancel();
        self.inner.tasks.wait().await;
        match self.inner.failed.lock().take() {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// `2 × visitor, 1 × control plane`, for the log.
    #[must_use]
    pub fn who_is_left(&self) -> String {
        let alive = self.inner.alive.lock();
        let words: Vec<String> = alive.iter().map(|(name, n)| format!("{n} × {name}")).collect();
        if words.is_empty() { "nothing".to_string() } else { words.join(", ") }
    }

    fn start(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let alive = Alive::new(self.inner.clone(), name);
        let force = self.inner.force.clone();
        self.inner.tasks.spawn(async move {
            // Moved in, so that it counts until the task has been dropped.
            let _alive = alive;
            force.run_until_cancelled_owned(task).await;
        });
    }

    fn signalled(&self, signal: &str) {
        if self.is_stopping() {
            info!(signal, "stopping at once");
            self.inner.force.cancel();
        } else {
            info!(signal, drain = ?self.drain(), "stopping");
            self.stop();
        }
    }

    fn one_ready(&self) {
        if self.inner.not_ready.fetch_sub(1, Ordering::AcqRel) == 1 && !self.is_stopping() {
            self.inner.ready.send_replace(true);
            notify_systemd(&[sd_notify::NotifyState::Ready]);
        }
    }
}

impl NotReady {
    /// The part is ready.
    pub fn ready(self) {
        debug!(part = self.what, "ready");
        self.run.one_ready();
    }
}

/// True if the process runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

struct Alive {
    inner: Arc<Inner>,
    name: &'static str,
}

impl Alive {
    fn new(inner: Arc<Inner>, name: &'static str) -> Alive {
        *inner.alive.lock().entry(name).or_default() += 1;
        Alive { inner, name }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        let mut alive = self.inner.alive.lock();
        if let Some(n) = alive.get_mut(self.name) {
            *n -= 1;
            if *n == 0 {
                alive.remove(self.name);
            }
        }
    }
}

fn tell_reloading() {
    match sd_notify::NotifyState::monotonic_usec_now() {
        Ok(now) => notify_systemd(&[sd_notify::NotifyState::Reloading, now]),
        Err(_) => notify_systemd(&[sd_notify::NotifyState::Reloading]),
    }
}

/// Without a service manager (`NOTIFY_SOCKET` unset) this does nothing.
pub(crate) fn notify_systemd(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        debug!(err = %e, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[tokio::test]
    async fn drains_then_ends() {
        let run = Run::new(Duration::from_secs(5));
        let done = Arc::new(AtomicBool::new(false));
        let (stopping, flag) = (run.stopping(), done.clone());
        run.spawn("worker", async move {
            stopping.await;
            tokio::time::sleep(Duration::from_millis(30)).await;
            flag.store(true, Ordering::SeqCst);
            Ok(())
        });
        run.stop();
        run.finish().await.unwrap();
        assert!(done.load(Ordering::SeqCst), "the drain waited for the work under way");
        assert_eq!(run.who_is_left(), "nothing");
    }

    #[tokio::test]
    async fn forces_what_does_not_end() {
        let run = Run::new(Duration::from_millis(20));
        run.visit("visitor", std::future::pending());
        run.visit("visitor", std::future::pending());
        assert_eq!(run.who_is_left(), "2 × visitor");
        run.stop();
        run.finish().await.unwrap();
        assert_eq!(run.who_is_left(), "nothing");
    }

    #[tokio::test]
    async fn first_error_wins_and_a_panic_is_an_error() {
        let run = Run::new(Duration::from_millis(20));
        run.spawn("accept loop", async { Err(anyhow!("no sockets left")) });
        let e = run.finish().await.unwrap_err();
        assert_eq!(format!("{e:#}"), "accept loop failed: no sockets left");

        let run = Run::new(Duration::from_millis(20));
        run.spawn("accept loop", async { panic!("planted") });
        assert!(run.finish().await.unwrap_err().to_string().contains("panicked"));
    }

    #[tokio::test]
    async fn a_visitor_that_panics_ends_alone() {
        let run = Run::new(Duration::from_millis(20));
        run.visit("visitor", async { panic!("planted") });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!run.is_stopping());
        run.stop();
        run.finish().await.unwrap();
    }

    #[tokio::test]
    async fn ready_only_when_every_part_is() {
        let run = Run::new(Duration::from_millis(20));
        let (a, b) = (run.not_ready("a"), run.not_ready("b"));
        let waiting = tokio::spawn({
            let run = run.clone();
            async move { run.finish().await }
        });
        a.ready();
        assert!(tokio::time::timeout(Duration::from_millis(20), run.ready()).await.is_err());
        b.ready();
        tokio::time::timeout(Duration::from_secs(5), run.ready()).await.unwrap();
        run.stop();
        waiting.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_failed_reload_does_not_keep_others_from_theirs() {
        let run = Run::new(Duration::from_millis(20));
        run.on_reload("bad", || async { Err(anyhow!("line 3: no")) }.boxed());
        run.on_reload("good", || async { Ok("2 entries".to_string()) }.boxed());
        let said = run.reload().await;
        assert!(said[0].1.is_err());
        assert_eq!(said[1].1.as_ref().unwrap(), "2 entries");
    }
}
