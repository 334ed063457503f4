//! HAProxy: a map, through its runtime API. In: the list. Out: the map in the running HAProxy, then in its file.
//!
//! Few changes go one by one, within one connection, and are counted back. Many, and any doubt, go by a new version of
//! the map that takes the old one's place at once. The file of a long list follows a little later, so that a burst of
//! changes is written once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::ours::Format;
use access::publish::{Desired, haproxy_map};
use addr::Prefix;
use anyhow::{Context, anyhow, bail};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Enforcer, Info, OWN_FILE, REQUEST_TIMEOUT, Reconciled, Snapshot, Wake, check_ours, write};

/// HAProxy drops a command longer than its buffer (`tune.bufsize`, 16 KiB by default) without a word.
const MAX_COMMAND: usize = 8 * 1024;
/// More changes than this are a new version: a command of so many stays far below [`MAX_COMMAND`].
const MAX_SINGLE_CHANGES: usize = 50;
/// The file of a list of so many is written in a millisecond or two: together with the running map.
const SHORT_LIST: usize = 2_000;
/// The file follows a change of a long list when nothing has changed for this long: a burst is written once.
const FILE_DEBOUNCE: Duration = Duration::from_millis(50);
/// The file of a list that never rests is written at least this often.
const MAX_FILE_DELAY: Duration = Duration::from_millis(200);

/// How HAProxy is kept in sync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// The list.
    pub list: String,
    /// The `stats socket` with level admin.
    pub socket: PathBuf,
    /// The map file as HAProxy's configuration names it.
    pub map: PathBuf,
}

/// An HAProxy with a runtime API.
pub(super) struct Haproxy {
    config: HaproxyConfig,
    info: Info,
    /// The map's name in commands.
    name: String,
    /// What the running HAProxy has; `None`: it must be asked.
    has: Option<Arc<Desired>>,
    /// How many entries that is.
    entries: usize,
    /// What the file has; `None`: it is not known, or could not be written.
    file: Option<Arc<Desired>>,
    /// Since when the file is behind, and when the running map changed last.
    behind: Option<(Instant, Instant)>,
}

impl Haproxy {
    pub(super) fn new(config: HaproxyConfig) -> Haproxy {
        let info = Info {
            name: format!("haproxy {}", config.socket.display()),
            lists: vec![config.list.clone()],
            file: Some(config.map.clone()),
            by_peer: false,
        };
        let name = config.map.display().to_string();
        Haproxy { config, info, name, has: None, entries: 0, file: None, behind: None }
    }

    async fn sync(&mut self, desired: &Snapshot, force: bool) -> anyhow::Result<Reconciled> {
        if self.name.contains([';', '\n', ' ']) {
            bail!("the path of the map {:?} has a character that means something to HAProxy", self.name);
        }
        let d = desired.list(&self.config.list)?;
        let since = self.behind.take().map(|b| b.0);
        if !force && is(&self.has, d) {
            self.save(d).await?;
            return Ok(Reconciled::now(false));
        }
        let has = self.has.take().filter(|_| !force);
        // A short list is in the file as soon as it is in HAProxy, a long one shortly after, unless that went wrong.
        let together = d.learnt.len() + d.statics.len() <= SHORT_LIST || self.file.is_none();
        let (path, list) = (self.config.map.clone(), d.clone());
        let saving = async move { if together { write_map(&path, &list).await } else { Ok(()) } };
        let (done, saved) = tokio::join!(self.running(has.as_deref(), d), saving);
        if together {
            self.file = saved.is_ok().then(|| d.clone());
            saved?;
        } else if done.is_err() {
            // An HAProxy that starts now starts with the right list.
            self.save(d).await?;
        }
        let changed = done?;
        self.has = Some(d.clone());
        if !is(&self.file, d) {
            let now = Instant::now();
            self.behind = Some((since.unwrap_or(now), now));
        }
        Ok(Reconciled::now(changed))
    }

    /// Makes the running map equal; `has`: what it is known to have. True if something was changed.
    async fn running(&mut self, has: Option<&Desired>, d: &Desired) -> anyhow::Result<bool> {
        match has {
            Some(has) if self.quick(has, d).await? => Ok(true),
            _ => self.whole(d).await,
        }
    }

    /// Makes the file equal, from which HAProxy starts.
    async fn save(&mut self, d: &Arc<Desired>) -> anyhow::Result<()> {
        if !is(&self.file, d) {
            self.file = None;
            write_map(&self.config.map, d).await?;
            self.file = Some(d.clone());
        }
        Ok(())
    }

    /// Few changes, one by one. False: they are many, or HAProxy does not count what it should.
    async fn quick(&mut self, has: &Desired, d: &Desired) -> anyhow::Result<bool> {
        let Some(Commands { mut commands, entries }) = commands(has, d, &self.name, self.entries) else {
            return Ok(false);
        };
        if commands.is_empty() {
            return Ok(true);
        }
        commands.push("show map".to_string());
        let answer = ask(&self.config.socket, &commands.join(";")).await?;
        self.entries = entries;
        Ok(counted(&answer, &self.name) == Some(entries))
    }

    /// Everything: what is there is read, and replaced if it is not equal.
    async fn whole(&mut self, d: &Desired) -> anyhow::Result<bool> {
        let (socket, name) = (&self.config.socket, &self.name);
        let want: Vec<String> = d.sorted().iter().map(ToString::to_string).collect();
        self.entries = want.len();
        let shown = ask(socket, &format!("show map {name}")).await?;
        if shown.starts_with("Unknown map") {
            bail!("HAProxy has no map {name}; its configuration must use it, as in `src,map_ip({name})`");
        }
        if holds(&shown, &want) {
            return Ok(false);
        }
        let answer = ask(socket, &format!("prepare map {name}")).await?;
        let version = version(&answer)
            .ok_or_else(|| anyhow!("HAProxy says {answer:?} to `prepare map`; version 2.4 or later is needed"))?;
        for payload in payloads(&want) {
            ask(socket, &format!("add map @{version} {name} <<\n{payload}")).await?;
        }
        let taken = lines(&ask(socket, &format!("show map @{version} {name}")).await?);
        if taken != want.len() {
            let _ = ask(socket, &format!("clear map @{version} {name}")).await;
            bail!("HAProxy took {taken} of {} entries; the old map stays", want.len());
        }
        ask(socket, &format!("commit map @{version} {name}")).await?;
        let has = lines(&ask(socket, &format!("show map {name}")).await?);
        if has != want.len() {
            bail!("HAProxy has {has} entries where {} were sent", want.len());
        }
        Ok(true)
    }
}

impl Enforcer for Haproxy {
    fn info(&self) -> &Info {
        &self.info
    }

    fn check_file(&self) -> anyhow::Result<()> {
        check_ours(&self.config.map, Format::Map, OWN_FILE)
    }

    fn reconcile<'a>(&'a mut self, desired: &'a Snapshot, force: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        self.sync(desired, force).boxed()
    }

    fn idle(&mut self) -> BoxFuture<'_, anyhow::Result<Wake>> {
        let due = self.behind.map(|(since, changed)| (changed + FILE_DEBOUNCE).min(since + MAX_FILE_DELAY));
        async move {
            match due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
            Ok(Wake::Due)
        }
        .boxed()
    }
}

/// True if that is this very state of the list.
fn is(known: &Option<Arc<Desired>>, d: &Arc<Desired>) -> bool {
    known.as_ref().is_some_and(|k| Arc::ptr_eq(k, d))
}

async fn write_map(map: &Path, d: &Arc<Desired>) -> anyhow::Result<()> {
    let list = d.clone();
    write(map, move || haproxy_map(&list.sorted())).await.context("the map file").map(drop)
}

/// Few changes as commands.
#[derive(Debug, PartialEq, Eq)]
struct Commands {
    commands: Vec<String>,
    /// How many entries the map has afterwards.
    entries: usize,
}

/// The commands that lead from one state of a list, of so many entries, to another. `None`: they are too many for one
/// line, or more than single entries changes.
fn commands(has: &Desired, d: &Desired, name: &str, entries: usize) -> Option<Commands> {
    // The entry that stands for nobody comes and goes with the last other one.
    if has.statics != d.statics || (has.statics.is_empty() && (has.learnt.is_empty() || d.learnt.is_empty())) {
        return None;
    }
    let changes = has.learnt.changes(&d.learnt);
    let keys = |which: fn(&access::learned::Change) -> Option<Prefix>| -> BTreeSet<Prefix> {
        changes.iter().filter_map(which).filter(|p| !d.statics.contains(p)).collect()
    };
    let (before, after) = (keys(|c| c.before.map(|b| b.0)), keys(|c| c.after.map(|a| a.0)));
    let mut commands: Vec<String> = after.difference(&before).map(|p| format!("add map {name} {p} 1")).collect();
    commands.extend(before.difference(&after).map(|p| format!("del map {name} {p}")));
    if commands.len() > MAX_SINGLE_CHANGES || commands.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
        return None;
    }
    let entries = (entries + after.difference(&before).count()).saturating_sub(before.difference(&after).count());
    Some(Commands { commands, entries })
}

/// The entries as payloads that HAProxy's buffer holds.
fn payloads(entries: &[String]) -> Vec<String> {
    let mut out = vec![String::new()];
    for p in entries {
        if let Some(last) = out.last_mut().filter(|l| l.len() <= MAX_COMMAND) {
            last.push_str(&format!("{p} 1\n"));
        } else {
            out.push(format!("{p} 1\n"));
        }
    }
    out
}

/// True if `show map NAME` shows exactly these.
fn holds(shown: &str, want: &[String]) -> bool {
    let mut there: Vec<&str> = shown.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    there.sort_unstable();
    let mut wanted: Vec<&str> = want.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    there == wanted
}

/// How many entries an answer shows, one a line.
fn lines(answer: &str) -> usize {
    answer.lines().filter(|l| !l.trim().is_empty()).count()
}

/// The version that `prepare map` answers: `New version created: 1`.
fn version(answer: &str) -> Option<u64> {
    answer.trim().rsplit(' ').next()?.parse().ok()
}

/// How many entries `show map` counts in a map.
fn counted(answer: &str, name: &str) -> Option<usize> {
    let line = answer.lines().find(|l| l.contains(&format!(" ({name}) ")))?;
    line.split_whitespace().find_map(|field| field.strip_prefix("entry_cnt="))?.parse().ok()
}

async fn ask(socket: &Path, command: &str) -> anyhow::Result<String> {
    let work = async {
        let mut s = UnixStream::connect(socket)
            .await
            .with_context(|| format!("HAProxy's socket {} cannot be reached", socket.display()))?;
        s.write_all(command.as_bytes()).await?;
        s.write_all(b"\n").await?;
        let mut out = String::new();
        s.read_to_string(&mut out).await?;
        if out.contains("Permission denied") {
            bail!("HAProxy says {:?}: the socket needs `level admin`", out.trim());
        }
        Ok(out)
    };
    tokio::time::timeout(REQUEST_TIMEOUT, work).await.map_err(|_| anyhow!("HAProxy does not answer"))?
}

#[cfg(test)]
mod tests {
    use super::super::testing::desired;
    use super::*;

    #[test]
    fn haproxy_says_how_many() {
        let answer = "\n\n# id (file) description\n-1 (/a.map) pattern loaded from file '/a.map' used by map at file 'h' line 9. curr_ver=0 next_ver=0 entry_cnt=7\n0 (/b.map) x entry_cnt=2\n\n";
        let of = |name| counted(answer, name);
        assert_eq!((of("/a.map"), of("/b.map"), of("/c.map")), (Some(7), Some(2), None));
        assert_eq!((version("New version created: 12\n\n"), version("Unknown command\n")), (Some(12), None));
    }

    #[test]
    fn a_map_is_read_back_whatever_its_order() {
        let want = ["192.0.2.1".to_string(), "2001:db8::/64".to_string()];
        assert!(holds("0x55 2001:db8::/64 1\n0x56 192.0.2.1 1\n\n", &want));
        assert!(!holds("0x56 192.0.2.1 1\n", &want));
        assert!(!holds("0x56 192.0.2.1 1\n0x57 2001:db8::/64 1\n0x58 198.51.100.1 1\n", &want), "a foreign entry");
        assert_eq!(lines("0x56 192.0.2.1 1\n\n0x57 x 1\n"), 2);
    }

    #[test]
    fn few_changes_are_commands_and_many_are_a_new_version() {
        let (a, b) = (desired("home", &["192.0.2.1", "192.0.2.2"]), desired("home", &["192.0.2.2", "192.0.2.3"]));
        let Commands { commands: line, entries } = commands(&a, &b, "/m", 2).unwrap();
        assert_eq!(line, ["add map /m 192.0.2.3 1", "del map /m 192.0.2.1"]);
        assert_eq!(entries, 2);
        assert_eq!(commands(&a, &a, "/m", 2).unwrap().commands, Vec::<String>::new());
        // The first and the last entry take the one that stands for nobody along.
        let nobody = desired("home", &[]);
        assert!(commands(&nobody, &a, "/m", 1).is_none() && commands(&a, &nobody, "/m", 2).is_none());
        let many: Vec<String> = (0..60).map(|n| format!("198.51.100.{n}")).collect();
        let many = desired("home", &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(commands(&a, &many, "/m", 2).is_none());
    }

    #[test]
    fn payloads_hold_every_entry_and_fit_the_buffer() {
        let entries: Vec<String> = (0..2_000).map(|n| format!("2001:db8:{n:x}::/64")).collect();
        let all = payloads(&entries);
        assert!(all.len() > 1 && all.iter().all(|p| p.len() < MAX_COMMAND + 64));
        assert_eq!(all.concat().lines().count(), entries.len());
        assert_eq!(payloads(&[]), [""]);
    }
}
