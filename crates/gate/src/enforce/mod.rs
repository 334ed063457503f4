//! Enforcers: what stands in front is kept equal to a list. In: what is published. Out: files, sockets and programs
//! that have it, and how far each one is.
//!
//! One task for each enforcer: the latest published state wins, what is there is read back, the difference is applied,
//! the generation that was reached is noted. On failure the last good state stays and it is tried again.

mod caddy;
mod haproxy;
mod hooks;
mod nftables;
mod nginx;
mod traefik;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::ours::{Format, foreign};
use access::publish::{Desired, TraefikStyle, lines};
use addr::{Port, Prefix};
use anyhow::{Context, anyhow};
use net::replace::{How, replace};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::fetch::Base;
use super::keeper::{Keeper, Picture, Published};
use runtime::hint::Hinted;
use runtime::run::Run;

/// What stands in front, and how it is told.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Traefik's file provider.
    Traefik {
        /// The file that Traefik watches.
        file: PathBuf,
        /// Each middleware's name and the lists it lets in.
        middlewares: Vec<(String, Vec<String>)>,
        /// How this Traefik reads a list.
        style: TraefikStyle,
        /// TCP middlewares too.
        tcp: bool,
        /// Traefik's API, to see when it has the list; `None`: it must have read the file after two throttles.
        api: Option<Base>,
        /// Its `providersThrottleDuration`.
        throttle: Duration,
    },
    /// nginx: a file for `geo … { include FILE; }`.
    Nginx {
        /// The list.
        list: String,
        /// The file.
        file: PathBuf,
        /// Tests the configuration.
        test: Vec<String>,
        /// Makes nginx read it.
        reload: Vec<String>,
    },
    /// HAProxy: a map, changed through the runtime API.
    Haproxy {
        /// The list.
        list: String,
        /// The `stats socket` with level admin.
        socket: PathBuf,
        /// The map file as HAProxy's configuration names it.
        map: PathBuf,
    },
    /// Caddy: the ranges of a `remote_ip` matcher with an `@id`, through the admin API.
    Caddy {
        /// The list.
        list: String,
        /// The admin API with the path of the ranges: `http://127.0.0.1:2019/id/gate/remote_ip/ranges`.
        api: Base,
    },
    /// nftables: a table of our own in the kernel.
    Nftables {
        /// The list.
        list: String,
        /// TCP and UDP ports that only the list may reach.
        ports: BTreeSet<Port>,
        /// The table's name.
        table: String,
    },
    /// A plain file, one prefix a line: what an edge follows as `--allow-ips @FILE`.
    File {
        /// The list.
        list: String,
        /// The file.
        file: PathBuf,
    },
    /// Any program: the entries on its standard input, one a line.
    Command {
        /// The list.
        list: String,
        /// The program and its arguments; no shell.
        argv: Vec<String>,
    },
    /// Any HTTP service: the entries by POST, as JSON.
    Webhook {
        /// The list.
        list: String,
        /// Where to.
        to: Base,
    },
}

/// How far an enforcer is.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// What it is, in words.
    pub name: String,
    /// The lists it holds.
    pub lists: Vec<String>,
    /// The latest generation it has.
    pub reached: u64,
    /// How long the latest change took.
    pub took: Duration,
    /// Changes applied since the start.
    pub changes: u64,
    /// What is wrong now.
    pub error: Option<String>,
    /// What a person should know.
    pub remark: Option<Remark>,
    /// Advice, each with what to do.
    pub notes: Vec<(String, String)>,
}

/// What a person should know of how something is kept equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// A file can not be replaced at one moment, as a single file that is mounted into a container.
    InPlace {
        /// The file.
        file: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Each change closes every open stream of Caddy.
    ClosesStreams,
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Remark::InPlace { file, why } => write!(
                f,
                "{} can not be replaced ({why}), so it is written in place; mount its directory instead of the single file and Traefik never meets a half-written list",
                file.display()
            ),
            Remark::ClosesStreams => f.write_str(
                "each change closes every open WebSocket and stream of Caddy; forward_auth to the check endpoint does not",
            ),
        }
    }
}

/// An enforcer at work.
#[derive(Debug, Clone)]
pub struct Enforcer {
    /// How far it is.
    pub progress: Arc<Mutex<Progress>>,
    reached: watch::Receiver<Reached>,
}

/// How far an enforcer is, for those who wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Reached {
    generation: u64,
    /// What it enforces by then is this generation; `None`: it is already.
    by: Option<Instant>,
}

/// Traefik's own default for its `providersThrottleDuration`.
pub const TRAEFIK_THROTTLE: Duration = Duration::from_secs(2);
/// From a file's change to its effect in Traefik, beside the throttle: noticing, reading, building the routers anew.
const TRAEFIK_READS: Duration = Duration::from_millis(300);

/// What is there is compared with what should be this often, in case somebody changed it by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A program or an API that takes longer has failed.
const WAIT: Duration = Duration::from_secs(20);
/// nginx starts new workers at each reload, and old ones live as long as their connections; Caddy closes its streams:
/// not more often than this.
const RELOADS_APART: Duration = Duration::from_secs(1);
/// Traefik takes what is quiet for its `providersThrottleDuration` (2 s) at once and gathers the rest: a burst is a
/// write or two.
const WRITES_APART: Duration = Duration::from_millis(250);
/// Traefik, Caddy and nginx's `allow` read such a list from top to bottom for each request: about 10 ns an entry.
const LONG: usize = 1_000;
/// What follows a change without haste, HAProxy's file: a burst is written once.
const SAVE: Duration = Duration::from_millis(50);

impl Enforcer {
    /// Starts keeping something equal to the published lists.
    ///
    /// # Errors
    /// Ports are to be guarded and the kernel does not let us: a guard is in force before anything else starts.
    pub fn start(run: &Run, keeper: &Keeper, kind: Kind, closed: Option<Closed>) -> anyhow::Result<Enforcer> {
        let mut memory = Memory { picture: keeper.picture.clone(), ..Memory::default() };
        if let Kind::Nftables { list, ports, table } = &kind {
            let published = keeper.published.borrow().clone();
            memory.nftables = closed.map(|c| c.state).unwrap_or_default();
            let now = memory.now();
            nftables::guard(&mut memory.nftables, &published, list, ports, table, now)?;
        }
        let progress = Arc::new(Mutex::new(Progress { name: kind.name(), lists: kind.lists(), ..Progress::default() }));
        let (tell, reached) = watch::channel(Reached::default());
        let enforcer = Enforcer { progress: progress.clone(), reached };
        let published = keeper.published.clone();
        let stopping = run.stopping();
        run.spawn("enforcer", async move {
            let work = keep_equal(kind, published, memory, progress, tell);
            tokio::select! {
                () = work => {}
                () = stopping => {}
            }
            Ok(())
        });
        Ok(enforcer)
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
        self.progress.lock().lists.iter().any(|l| l == list)
    }
}

impl Kind {
    /// The file that it writes, if it writes one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Kind::Traefik { file, .. } | Kind::Nginx { file, .. } | Kind::File { file, .. } => Some(file),
            Kind::Haproxy { map, .. } => Some(map),
            Kind::Caddy { .. } | Kind::Nftables { .. } | Kind::Command { .. } | Kind::Webhook { .. } => None,
        }
    }

    /// Looks, before anything starts, whether the file that is to be written is the gate's own: what somebody else wrote
    /// is never written over. A file that is missing, empty, or of an earlier gate is ours.
    ///
    /// # Errors
    /// It is somebody else's, or cannot be read; with what to do.
    pub fn check_file(&self) -> anyhow::Result<()> {
        let names: Vec<String>;
        let Some(file) = self.file() else { return Ok(()) };
        let format = match self {
            Kind::Traefik { middlewares, .. } => {
                names = middlewares.iter().map(|(name, _)| name.clone()).collect();
                Format::Traefik(&names)
            }
            Kind::Nginx { .. } => Format::Geo,
            Kind::Haproxy { .. } => Format::Map,
            _ => Format::Lines,
        };
        let Some(text) = read_if_there(file)? else { return Ok(()) };
        let Some(other) = foreign(&text, format) else { return Ok(()) };
        let hint = match self {
            Kind::Traefik { .. } => {
                "give the gate a file of its own beside it: Traefik's file provider reads every file of a `directory`"
            }
            _ => "give the gate a file of its own",
        };
        Err(Hinted::error(format!("{} is not the gate's to write: it holds `{other}`", file.display()), hint))
    }

    /// Closes guarded ports before the store is read; those of a table that stands already stay as they are. `statics`:
    /// the entries that the configuration puts on a list. `None`: it guards no ports.
    ///
    /// # Errors
    /// What is missing, and how to give it.
    pub fn close<'a>(&self, statics: impl Fn(&str) -> &'a [Prefix]) -> anyhow::Result<Option<Closed>> {
        let Kind::Nftables { list, ports, table } = self else { return Ok(None) };
        let (state, made) = nftables::close(table, ports, statics(list))?;
        Ok(Some(Closed { state, made }))
    }

    /// What it is, in words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Kind::Traefik { file, .. } => format!("traefik {}", file.display()),
            Kind::Nginx { file, .. } => format!("nginx {}", file.display()),
            Kind::Haproxy { socket, .. } => format!("haproxy {}", socket.display()),
            Kind::Caddy { api, .. } => format!("caddy {api}"),
            Kind::Nftables { table, .. } => format!("nftables inet {table}"),
            Kind::File { file, .. } => format!("file {}", file.display()),
            Kind::Command { argv, .. } => format!("command {}", argv.first().map_or("", String::as_str)),
            Kind::Webhook { to, .. } => {
                format!("webhook {}://{}:{}", if to.https { "https" } else { "http" }, to.host, to.port)
            }
        }
    }

    /// True if it is a Traefik whose list judges who connects, whatever proxies say.
    #[must_use]
    pub fn is_traefik_by_peer(&self) -> bool {
        matches!(self, Kind::Traefik { style, .. } if style.strategy.is_none())
    }

    /// Changes are at least this far apart; what comes meanwhile goes together.
    fn apart(&self) -> Duration {
        match self {
            Kind::Traefik { .. } => WRITES_APART,
            Kind::Nginx { .. } | Kind::Caddy { .. } => RELOADS_APART,
            _ => Duration::ZERO,
        }
    }

    /// How long after a change of its file something reads it by itself, at the latest.
    fn reads_within(&self) -> Option<Duration> {
        match self {
            Kind::Traefik { api: None, throttle, .. } => Some(*throttle + TRAEFIK_READS),
            _ => None,
        }
    }

    /// Where it says what it has in force.
    fn asked(&self) -> Option<&Base> {
        match self {
            Kind::Traefik { api, .. } => api.as_ref(),
            _ => None,
        }
    }

    fn lists(&self) -> Vec<String> {
        match self {
            Kind::Traefik { middlewares, .. } => {
                let mut all: Vec<String> = middlewares.iter().flat_map(|(_, l)| l.clone()).collect();
                all.sort();
                all.dedup();
                all
            }
            Kind::Nginx { list, .. }
            | Kind::Haproxy { list, .. }
            | Kind::Caddy { list, .. }
            | Kind::Nftables { list, .. }
            | Kind::File { list, .. }
            | Kind::Command { list, .. }
            | Kind::Webhook { list, .. } => vec![list.clone()],
        }
    }
}

async fn keep_equal(
    kind: Kind,
    mut published: watch::Receiver<Arc<Published>>,
    mut memory: Memory,
    progress: Arc<Mutex<Progress>>,
    tell: watch::Sender<Reached>,
) {
    let mut wait = RETRY.0;
    let mut last: Vec<Option<Arc<Desired>>> = Vec::new();
    let mut look = true;
    let mut applied: Option<Instant> = None;
    let mut unsaved: Option<Instant> = None;
    let mut by: Option<Instant> = None;
    let reach = |generation: u64, by: Option<Instant>| {
        let mut p = progress.lock();
        if p.error.take().is_some() {
            info!("{} is equal to its list again", p.name);
        }
        p.reached = generation;
        drop(p);
        tell.send_replace(Reached { generation, by });
    };
    let fail = |e: anyhow::Error| {
        let mut p = progress.lock();
        let text = format!("{e:#}");
        if p.error.as_ref() != Some(&text) {
            warn!("{} is not equal to its list; what it had stays: {text}", p.name);
        }
        p.error = Some(text);
    };
    loop {
        if let Some(at) = applied {
            tokio::time::sleep(kind.apart().saturating_sub(at.elapsed())).await;
        }
        let now = published.borrow_and_update().clone();
        let lists: Vec<Option<Arc<Desired>>> = kind.lists().iter().map(|l| now.lists.get(l).cloned()).collect();
        let same = lists.len() == last.len()
            && lists.iter().zip(&last).all(|(a, b)| matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b)));
        let mut again = LOOK_AGAIN;
        if !same || look {
            let began = Instant::now();
            applied = Some(began);
            match apply(&kind, &now, &mut memory, std::mem::take(&mut look)).await {
                Ok(changed) => {
                    wait = RETRY.0;
                    last = lists;
                    let mut p = progress.lock();
                    if changed {
                        by = kind.reads_within().map(|d| Instant::now() + d);
                        p.changes += 1;
                        p.took = began.elapsed();
                        debug!("{}: generation {} after {} ms", p.name, now.generation, p.took.as_millis());
                    }
                    p.remark = memory.remark.clone();
                    p.notes = memory.notes.clone();
                    drop(p);
                    if kind.asked().is_none() {
                        reach(now.generation, by);
                    }
                }
                Err(e) => {
                    fail(e);
                    last.clear();
                    again = wait;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        } else if kind.asked().is_none() || memory.traefik.same(now.generation) {
            reach(now.generation, by);
        }
        if let (Kind::Haproxy { list, map, .. }, Some(d)) = (&kind, last.first().cloned().flatten())
            && haproxy::unsaved(&d, &memory)
        {
            let since = *unsaved.get_or_insert_with(Instant::now);
            let more = tokio::time::timeout(SAVE, published.changed()).await;
            if more.is_ok_and(|c| c.is_ok()) && since.elapsed() < SAVE * 4 {
                continue;
            }
            unsaved = None;
            if let Err(e) = haproxy::save(&d, map, &mut memory).await {
                warn!("the map file of `{list}`: {e:#}");
                progress.lock().error = Some(format!("{e:#}"));
                last.clear();
                again = wait;
            }
        }
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = memory.nftables.touched() => look = true,
            shown = memory.traefik.shown(kind.asked()) => match shown {
                Ok(generation) => reach(generation, None),
                Err(e) => {
                    fail(e);
                    last.clear();
                }
            },
            () = tokio::time::sleep(again) => look = true,
        }
    }
}

/// Ports that were closed before anything else ran.
#[derive(Debug)]
pub struct Closed {
    state: nftables::State,
    /// The table was not there before.
    pub made: bool,
}

/// What an enforcer remembers between two changes.
#[derive(Debug, Default)]
struct Memory {
    remark: Option<Remark>,
    /// nginx was reloaded with what its file has.
    reloaded: bool,
    sent: Option<Vec<Prefix>>,
    /// The list as it was when that was sent.
    told: Option<Arc<Desired>>,
    /// Advice for a person, each with what to do.
    notes: Vec<(String, String)>,
    haproxy: haproxy::State,
    nftables: nftables::State,
    traefik: traefik::State,
    /// For the ledger's clock.
    picture: Arc<Picture>,
}

impl Memory {
    /// The ledger's time: a wall clock that was set back gives nobody more.
    fn now(&self) -> u64 {
        self.picture.time.now()
    }
}

/// The text of a file, `None` if there is none.
pub(super) fn read_if_there(file: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::IsADirectory => Err(Hinted::error(
            format!("{} is a folder, and a file is to be written there", file.display()),
            "Docker makes a folder where a file to be mounted is missing: remove it, mount the folder around it instead",
        )),
        Err(e) => Err(e).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// Says once, in the log and to `doctor`, that a list is too long for something that reads it from top to bottom.
fn say_if_long(entries: usize, who: &str, list: &str, memory: &mut Memory) {
    let what = format!("`{list}` has more than {LONG} entries, which {who} reads from top to bottom for each request");
    let known = memory.notes.iter().any(|n| n.0 == what);
    match (entries > LONG, known) {
        (true, false) => {
            let fix = format!(
                "ask the check endpoint instead (forward-auth to /v1/check/{list}), which does not slow down with the list"
            );
            warn!("{what}; {fix}");
            memory.notes.push((what, fix));
        }
        (false, true) => memory.notes.retain(|n| n.0 != what),
        _ => {}
    }
}

fn of<'a>(now: &'a Published, list: &str) -> anyhow::Result<&'a Arc<Desired>> {
    now.lists.get(list).ok_or_else(|| anyhow!("there is no list `{list}`"))
}

/// Makes it equal. `look`: what is there is read, even if nothing was published. True if something was changed.
async fn apply(kind: &Kind, now: &Arc<Published>, memory: &mut Memory, look: bool) -> anyhow::Result<bool> {
    match kind {
        Kind::Traefik { file, middlewares, style, tcp, api, .. } => {
            traefik::apply(file, middlewares, style, *tcp, api.is_some(), now, memory).await
        }
        Kind::Nginx { list, file, test, reload } => nginx::apply(of(now, list)?, file, test, reload, memory).await,
        Kind::Haproxy { list, socket, map } => haproxy::apply(of(now, list)?, socket, map, memory, look).await,
        Kind::Caddy { list, api } => caddy::apply(of(now, list)?, api, memory).await,
        Kind::Nftables { list, ports, table } => nftables::apply(now, list, ports, table, memory, look).await,
        Kind::File { list, file } => {
            let text = lines(&of(now, list)?.merged());
            let how =
                replace(file, text.as_bytes()).with_context(|| format!("{} can not be written", file.display()))?;
            Ok(how != How::Same)
        }
        Kind::Command { list, argv } => hooks::command(of(now, list)?, argv, memory).await,
        Kind::Webhook { list, to } => hooks::webhook(of(now, list)?, to, memory).await,
    }
}
