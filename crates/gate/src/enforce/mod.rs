//! Enforcers: what stands in front is kept in sync with a list. In: what is published. Out: files, sockets and programs
//! that have it, and how far each one is.
//!
//! Each target is a struct behind [`Enforcer`], with its own configuration and its own state; `sync` drives any of
//! them in a task of its own: the latest published state wins, what is there is read back, the difference is applied,
//! the generation that was reached is noted. On failure the last good state stays and it is tried again.

mod caddy;
mod command;
mod config;
mod file;
mod haproxy;
#[cfg(target_os = "linux")]
mod nftables;
#[cfg(not(target_os = "linux"))]
#[path = "nftables_elsewhere.rs"]
mod nftables;
mod nginx;
mod ports;
mod sync;
#[cfg(test)]
mod testing;
mod traefik;
mod webhook;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::Grant;
use access::ours::{Format, foreign};
use access::publish::Desired;
use addr::Prefix;
use anyhow::{Context, anyhow};
use futures_util::future::{BoxFuture, FutureExt, pending};
use net::replace::{How, replace};
use tracing::warn;

use super::ledger::{Published, ReadModel};
use runtime::hint::Hinted;

pub use caddy::CaddyConfig;
pub use command::CommandConfig;
pub use config::Config;
pub use file::FileConfig;
pub use haproxy::HaproxyConfig;
pub use nginx::NginxConfig;
pub use ports::{NftablesConfig, OnFailure};
pub use sync::{Handle, Progress, guard, start};
pub use traefik::{TRAEFIK_THROTTLE, TraefikConfig};
pub use webhook::WebhookConfig;

/// A program or an API that takes longer has failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Traefik, Caddy and nginx's `allow` read such a list from top to bottom for each request: about 10 ns an entry.
const LONG_LIST: usize = 1_000;
/// The longest answer of an API that shows a whole list: 100,000 prefixes are 4 MiB.
const MAX_LIST_BODY: usize = 16 << 20;

/// Something that can be made to hold a list, and keeps what it knows of it between two changes.
pub trait Enforcer: Send {
    /// What it is and what it holds.
    fn info(&self) -> &Info;

    /// Two changes are at least this far apart; what comes meanwhile goes together.
    fn min_interval(&self) -> Duration {
        Duration::ZERO
    }

    /// Looks, before anything starts, whether the file that is to be written is the gate's own: what somebody else wrote
    /// is never written over. A file that is missing, empty, or of an earlier gate is ours.
    ///
    /// # Errors
    /// It is somebody else's, or cannot be read; with what to do.
    fn check_file(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Closes guarded ports to everybody but these while no gate keeps them (`now`: seconds since the Unix epoch); those
    /// that are guarded already stay as they are.
    ///
    /// # Errors
    /// What is missing, and how to give it.
    fn close(&mut self, _to_all_but: &Desired, _now: u64) -> anyhow::Result<Closed> {
        Ok(Closed::NoPorts)
    }

    /// Opens guarded ports to everybody, unless a gate keeps them.
    ///
    /// # Errors
    /// What is missing, and how to give it.
    fn open(&mut self) -> anyhow::Result<Opened> {
        Ok(Opened::Before)
    }

    /// Makes guarded ports equal to what is published before anything else runs, so that nothing that fails later leaves
    /// them open. What guards no ports has nothing to do.
    ///
    /// # Errors
    /// The kernel does not let us.
    fn guard(&mut self, _desired: &Snapshot) -> anyhow::Result<()> {
        Ok(())
    }

    /// Makes it hold what is desired. `force`: what is there is read, even if nothing was published. Never dropped half
    /// done while the gate runs.
    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, force: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>>;

    /// Its lists are the same at this generation: when that is in force.
    fn unchanged(&mut self, _generation: u64) -> InForce {
        InForce::Now
    }

    /// Waits for something that the enforcer itself has to say; for ever if there is nothing. It may be dropped at any
    /// moment and loses nothing then.
    fn idle(&mut self) -> BoxFuture<'_, anyhow::Result<Wake>> {
        pending().boxed()
    }

    /// What a person should know of it.
    fn remarks(&self) -> &[Remark] {
        &[]
    }
}

/// What an enforcer is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// Its name in the log, in `doctor` and in metrics: what kind and where.
    pub name: String,
    /// The lists it holds.
    pub lists: Vec<String>,
    /// The file that it writes, if it writes one.
    pub file: Option<PathBuf>,
    /// It judges who connects to it, whatever proxies say.
    pub by_peer: bool,
}

/// What came of guarding ports before the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It guards none.
    NoPorts,
    /// They are guarded already.
    Stood,
    /// They were open, and are guarded now.
    Made,
}

/// What came of opening ports that are guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// They are open now.
    Now,
    /// They were open before.
    Before,
    /// A gate that runs keeps them.
    Kept,
}

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconciled {
    /// Something was changed.
    pub changed: bool,
    /// When what was desired is in force.
    pub in_force: InForce,
}

/// When a generation is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InForce {
    /// It is.
    Now,
    /// By then at the latest.
    By(Instant),
    /// [`Wake::InForce`] says it.
    WhenShown,
}

/// What an idle enforcer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    /// Somebody else changed what it holds: to be read back.
    ForeignChange,
    /// It has something to finish, though nothing new is published.
    Due,
    /// This generation is in force.
    InForce(u64),
}

/// What an enforcer is to hold: everything published, and the ledger behind it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The lists.
    pub published: Arc<Published>,
    /// Who is behind their entries, and the time that deadlines go by.
    pub ledger: Arc<ReadModel>,
}

/// What a person should know of how something is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// A file cannot be replaced at one moment, as a single file that is mounted into a container.
    InPlace {
        /// The file.
        file: PathBuf,
        /// What the system says.
        why: String,
    },
    /// Each change closes every open stream of Caddy.
    ClosesStreams,
    /// A list is long for what reads it from top to bottom.
    LongList {
        /// What reads it.
        reader: &'static str,
        /// The list.
        list: String,
    },
}

impl Remark {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> String {
        match self {
            Remark::InPlace { .. } => {
                "mount the directory instead of the single file (`./dyn:/app/dyn`, `--file dyn/dynamic-whitelist.yml`), or accept it".to_string()
            }
            Remark::ClosesStreams => "use forward_auth; or accept it".to_string(),
            Remark::LongList { list, .. } => format!(
                "ask the check endpoint instead (forward-auth to /v1/check/{list}), which does not slow down with the list"
            ),
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::InPlace { file, why } => write!(
                f,
                "{} cannot be replaced ({why}), so it is written in place; mount its directory instead of the single file and Traefik never meets a half-written list",
                file.display()
            ),
            Remark::ClosesStreams => f.write_str(
                "each change closes every open WebSocket and stream of Caddy; forward_auth to the check endpoint does not",
            ),
            Remark::LongList { reader, list } => write!(
                f,
                "`{list}` has more than {LONG_LIST} entries, which {reader} reads from top to bottom for each request"
            ),
        }
    }
}

impl Snapshot {
    /// A list.
    ///
    /// # Errors
    /// It is not there.
    pub fn list(&self, name: &str) -> anyhow::Result<&Arc<Desired>> {
        self.published.lists.get(name).ok_or_else(|| anyhow!("there is no list `{name}`"))
    }

    /// The ledger's time, seconds since the Unix epoch: a wall clock that was set back gives nobody more.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.ledger.time.now()
    }

    /// The grant behind an entry.
    fn grant(&self, list: &str, prefix: Prefix) -> Option<Grant> {
        self.ledger.grants.read().get(list)?.get(&prefix).cloned()
    }
}

impl Reconciled {
    /// Done, and in force by now.
    fn now(changed: bool) -> Reconciled {
        Reconciled { changed, in_force: InForce::Now }
    }
}

/// The text of a file, `None` if there is none.
///
/// # Errors
/// It is a folder, or cannot be read.
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

/// [`Enforcer::check_file`] for a file of this form.
fn check_ours(file: &Path, format: Format<'_>, hint: &str) -> anyhow::Result<()> {
    let Some(text) = read_if_there(file)? else { return Ok(()) };
    let Some(other) = foreign(&text, format) else { return Ok(()) };
    Err(Hinted::error(format!("{} is not the gate's to write: it holds `{other}`", file.display()), hint))
}

/// What to do about a file that is somebody else's.
const OWN_FILE: &str = "give the gate a file of its own";

/// Gives a file this text, away from the threads that serve others.
async fn write(file: &Path, text: impl FnOnce() -> String + Send + 'static) -> anyhow::Result<How> {
    let path = file.to_path_buf();
    tokio::task::spawn_blocking(move || replace(&path, text().as_bytes()))
        .await?
        .with_context(|| format!("{} cannot be written", file.display()))
}

/// Notes, in the log and for `doctor`, that a list is too long for something that reads it from top to bottom; or that it
/// no longer is.
fn note_length(remarks: &mut Vec<Remark>, enforcer: &str, entries: usize, reader: &'static str, list: &str) {
    let what = Remark::LongList { reader, list: list.to_string() };
    match (entries > LONG_LIST, remarks.contains(&what)) {
        (true, false) => note(remarks, enforcer, what),
        (false, true) => remarks.retain(|r| *r != what),
        _ => {}
    }
}

/// Notes something once, in the log and for `doctor`.
fn note(remarks: &mut Vec<Remark>, enforcer: &str, what: Remark) {
    if !remarks.contains(&what) {
        warn!(enforcer, "{what}; {}", what.fix());
        remarks.push(what);
    }
}
