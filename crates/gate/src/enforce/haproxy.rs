//! HAProxy: a map, through its runtime API. In: the list. Out: the map in the running HAProxy, then in its file.
//!
//! Few changes go one by one, within one connection, and are counted back. Many, and any doubt, go by a new version of
//! the map that takes the old one's place at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use access::publish::{Desired, haproxy_map};
use addr::Prefix;
use anyhow::{Context, anyhow, bail};
use net::replace::replace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Memory, WAIT};

/// What is known of the map between two changes.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What the running HAProxy has; `None`: it must be asked.
    has: Option<Arc<Desired>>,
    /// How many entries that is.
    entries: usize,
    /// What the file has.
    file: Option<Arc<Desired>>,
}

/// HAProxy drops a command longer than its buffer (`tune.bufsize`, 16 KiB by default) without a word.
const CHUNK: usize = 8 * 1024;
/// More changes than this are a new version: a command of so many stays far below [`CHUNK`].
const FEW: usize = 50;
/// The file of a list of so many is written in a millisecond or two.
const SHORT: usize = 2_000;

/// Makes the running map equal. The file follows by [`save`].
pub(super) async fn apply(
    d: &Arc<Desired>,
    socket: &Path,
    map: &Path,
    memory: &mut Memory,
    look: bool,
) -> anyhow::Result<bool> {
    let name = map.display().to_string();
    if name.contains([';', '\n', ' ']) {
        bail!("the path of the map {name:?} has a character that means something to HAProxy");
    }
    let has = memory.haproxy.has.take().filter(|_| !look);
    let entries = &mut memory.haproxy.entries;
    let running = async {
        match &has {
            Some(has) if quick(has, d, entries, socket, &name).await? => Ok(true),
            _ => whole(d, entries, socket, &name).await,
        }
    };
    // A short list is in the file as soon as it is in HAProxy, a long one shortly after.
    let (done, written) = if d.learnt.len() + d.statics.len() <= SHORT {
        let (done, written) = tokio::join!(running, write(d, map));
        written?;
        (done, true)
    } else {
        (running.await, false)
    };
    if written || done.is_err() {
        // An HAProxy that starts now starts with the right list.
        if !written {
            write(d, map).await?;
        }
        memory.haproxy.file = Some(d.clone());
    }
    let changed = done?;
    memory.haproxy.has = Some(d.clone());
    Ok(changed)
}

/// True if the file is behind.
pub(super) fn unsaved(d: &Arc<Desired>, memory: &Memory) -> bool {
    memory.haproxy.file.as_ref().is_none_or(|f| !Arc::ptr_eq(f, d))
}

/// Makes the file equal, from which HAProxy starts.
pub(super) async fn save(d: &Arc<Desired>, map: &Path, memory: &mut Memory) -> anyhow::Result<()> {
    write(d, map).await?;
    memory.haproxy.file = Some(d.clone());
    Ok(())
}

async fn write(d: &Arc<Desired>, map: &Path) -> anyhow::Result<()> {
    let (path, list) = (map.to_path_buf(), d.clone());
    tokio::task::spawn_blocking(move || replace(&path, haproxy_map(&list.sorted()).as_bytes()))
        .await?
        .with_context(|| format!("{} can not be written", map.display()))?;
    Ok(())
}

/// Few changes, one by one. False: they are many, or HAProxy does not count what it should.
async fn quick(has: &Desired, d: &Desired, entries: &mut usize, socket: &Path, name: &str) -> anyhow::Result<bool> {
    // The entry that stands for nobody comes and goes with the last other one.
    if has.statics != d.statics || (has.statics.is_empty() && (has.learnt.is_empty() || d.learnt.is_empty())) {
        return Ok(false);
    }
    let changes = has.learnt.changes(&d.learnt);
    let keys = |which: fn(&access::learned::Change) -> Option<Prefix>| -> BTreeSet<Prefix> {
        changes.iter().filter_map(which).filter(|p| !d.statics.contains(p)).collect()
    };
    let (before, after) = (keys(|c| c.before.map(|b| b.0)), keys(|c| c.after.map(|a| a.0)));
    let mut commands: Vec<String> = after.difference(&before).map(|p| format!("add map {name} {p} 1")).collect();
    commands.extend(before.difference(&after).map(|p| format!("del map {name} {p}")));
    if commands.is_empty() {
        return Ok(true);
    }
    if commands.len() > FEW || commands.iter().map(String::len).sum::<usize>() > CHUNK {
        return Ok(false);
    }
    commands.push("show map".to_string());
    let said = ask(socket, &commands.join(";")).await?;
    *entries = (*entries + after.difference(&before).count()).saturating_sub(before.difference(&after).count());
    Ok(count(&said, name) == Some(*entries))
}

/// Everything: what is there is read, and replaced if it is not equal.
async fn whole(d: &Desired, entries: &mut usize, socket: &Path, name: &str) -> anyhow::Result<bool> {
    let want: Vec<String> = d.sorted().iter().map(ToString::to_string).collect();
    *entries = want.len();
    let shown = ask(socket, &format!("show map {name}")).await?;
    if shown.starts_with("Unknown map") {
        bail!("HAProxy has no map {name}; its configuration must use it, as in `src,map_ip({name})`");
    }
    let mut there: Vec<&str> = shown.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    there.sort_unstable();
    let mut wanted: Vec<&str> = want.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    if there == wanted {
        return Ok(false);
    }
    let said = ask(socket, &format!("prepare map {name}")).await?;
    let version = said.trim().rsplit(' ').next().and_then(|v| v.parse::<u64>().ok());
    let version =
        version.ok_or_else(|| anyhow!("HAProxy says {said:?} to `prepare map`; version 2.4 or later is needed"))?;
    let mut payload = String::new();
    for p in &want {
        if payload.len() > CHUNK {
            ask(socket, &format!("add map @{version} {name} <<\n{payload}")).await?;
            payload.clear();
        }
        payload.push_str(&format!("{p} 1\n"));
    }
    ask(socket, &format!("add map @{version} {name} <<\n{payload}")).await?;
    let filled = |text: &str| text.lines().filter(|l| !l.trim().is_empty()).count();
    let counted = filled(&ask(socket, &format!("show map @{version} {name}")).await?);
    if counted != want.len() {
        let _ = ask(socket, &format!("clear map @{version} {name}")).await;
        bail!("HAProxy took {counted} of {} entries; the old map stays", want.len());
    }
    ask(socket, &format!("commit map @{version} {name}")).await?;
    let counted = filled(&ask(socket, &format!("show map {name}")).await?);
    if counted != want.len() {
        bail!("HAProxy has {counted} entries where {} were sent", want.len());
    }
    Ok(true)
}

/// How many entries `show map` says that a map has.
fn count(said: &str, name: &str) -> Option<usize> {
    let line = said.lines().find(|l| l.contains(&format!(" ({name}) ")))?;
    line.split_whitespace().find_map(|w| w.strip_prefix("entry_cnt="))?.parse().ok()
}

async fn ask(socket: &Path, command: &str) -> anyhow::Result<String> {
    let work = async {
        let mut s = UnixStream::connect(socket)
            .await
            .with_context(|| format!("HAProxy's socket {} can not be reached", socket.display()))?;
        s.write_all(command.as_bytes()).await?;
        s.write_all(b"\n").await?;
        let mut out = String::new();
        s.read_to_string(&mut out).await?;
        if out.contains("Permission denied") {
            bail!("HAProxy says {:?}: the socket needs `level admin`", out.trim());
        }
        Ok(out)
    };
    tokio::time::timeout(WAIT, work).await.map_err(|_| anyhow!("HAProxy does not answer"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxy_says_how_many() {
        let said = "\n\n# id (file) description\n-1 (/a.map) pattern loaded from file '/a.map' used by map at file 'h' line 9. curr_ver=0 next_ver=0 entry_cnt=7\n0 (/b.map) x entry_cnt=2\n\n";
        assert_eq!((count(said, "/a.map"), count(said, "/b.map"), count(said, "/c.map")), (Some(7), Some(2), None));
    }
}
