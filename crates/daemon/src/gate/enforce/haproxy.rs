//! HAProxy: a map, through its runtime API. In: the list. Out: the map in the running HAProxy and in its file.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use decide::publish::{Desired, haproxy_map};
use net::replace::replace;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{HAPROXY_CHUNK, WAIT};

pub(super) async fn apply(d: &Desired, socket: &Path, map: &Path) -> anyhow::Result<bool> {
    let entries = d.merged();
    // The file first: an HAProxy that restarts meanwhile starts with the right list.
    replace(map, haproxy_map(&entries).as_bytes()).with_context(|| format!("{} can not be written", map.display()))?;
    let name = map.display().to_string();
    if name.contains([';', '\n', ' ']) {
        bail!("the path of the map {name:?} has a character that means something to HAProxy");
    }
    let want: std::collections::BTreeSet<String> = entries.iter().map(ToString::to_string).collect();
    let shown = ask_haproxy(socket, &format!("show map {name}")).await?;
    if shown.starts_with("Unknown map") {
        bail!("HAProxy has no map {name}; its configuration must use it, as in `src,map_ip({name})`");
    }
    let there: Vec<&str> = shown.lines().filter_map(|l| l.split_whitespace().nth(1)).collect();
    let have: std::collections::BTreeSet<&str> = there.iter().copied().collect();
    if have.len() == there.len() && have.len() == want.len() && want.iter().all(|w| have.contains(w.as_str())) {
        return Ok(false);
    }
    // Few changes go one by one; many by a new version that takes the old one's place at once.
    let (add, del): (Vec<&String>, Vec<&&str>) = (
        want.iter().filter(|w| !have.contains(w.as_str())).collect(),
        have.iter().filter(|h| !want.contains(**h)).collect(),
    );
    if have.len() == there.len() && add.len() + del.len() <= 100 {
        let mut commands: Vec<String> = add.iter().map(|p| format!("add map {name} {p} 1")).collect();
        commands.extend(del.iter().map(|p| format!("del map {name} {p}")));
        for chunk in commands.chunks(50) {
            ask_haproxy(socket, &chunk.join("; ")).await?;
        }
    } else {
        let said = ask_haproxy(socket, &format!("prepare map {name}")).await?;
        let version = said.trim().rsplit(' ').next().and_then(|v| v.parse::<u64>().ok());
        let version =
            version.ok_or_else(|| anyhow!("HAProxy says {said:?} to `prepare map`; version 2.4 or later is needed"))?;
        let mut payload = String::new();
        for p in &want {
            if payload.len() > HAPROXY_CHUNK {
                ask_haproxy(socket, &format!("add map @{version} {name} <<\n{payload}")).await?;
                payload.clear();
            }
            payload.push_str(&format!("{p} 1\n"));
        }
        ask_haproxy(socket, &format!("add map @{version} {name} <<\n{payload}")).await?;
        let counted = ask_haproxy(socket, &format!("show map @{version} {name}"))
            .await?
            .lines()
            .filter(|l| !l.trim().is_empty())
            .count();
        if counted != want.len() {
            let _ = ask_haproxy(socket, &format!("clear map @{version} {name}")).await;
            bail!("HAProxy took {counted} of {} entries; the old map stays", want.len());
        }
        ask_haproxy(socket, &format!("commit map @{version} {name}")).await?;
    }
    let count =
        ask_haproxy(socket, &format!("show map {name}")).await?.lines().filter(|l| !l.trim().is_empty()).count();
    if count != want.len() {
        bail!("HAProxy has {count} entries where {} were sent", want.len());
    }
    Ok(true)
}

async fn ask_haproxy(socket: &Path, command: &str) -> anyhow::Result<String> {
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
