//! Enforcers: what stands in front is kept equal to a list. In: what is published. Out: files, sockets and programs
//! that have it, and how far each one is.
//!
//! One task for each enforcer: the latest published state wins, what is there is read back, the difference is applied,
//! the generation that was reached is noted. On failure the last good state stays and it is tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use decide::publish::{Desired, Middleware, TraefikKey, haproxy_map, lines, merge, nft_table, nginx_geo, traefik_yaml};
use http::{HeaderMap, HeaderValue, Method, header};
use model::Prefix;
use net::replace::{How, replace};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::fetch::{Base, fetch};
use super::keeper::{Keeper, Published};
use crate::run::Run;

/// What stands in front, and how it is told.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Traefik's file provider.
    Traefik {
        /// The file that Traefik watches.
        file: PathBuf,
        /// Each middleware's name and the lists it lets in.
        middlewares: Vec<(String, Vec<String>)>,
        /// The key that this version of Traefik reads.
        key: TraefikKey,
        /// TCP middlewares too.
        tcp: bool,
        /// Traefik's API, to see when it has the list; `None`: the file is the end of what is known.
        api: Option<Base>,
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
    /// nftables: a table of our own, given to the program `nft` as one transaction.
    Nftables {
        /// The list.
        list: String,
        /// TCP and UDP ports that only the list may reach.
        ports: Vec<u16>,
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
    pub remark: Option<String>,
}

/// An enforcer at work.
#[derive(Debug, Clone)]
pub struct Enforcer {
    /// How far it is.
    pub progress: Arc<Mutex<Progress>>,
    reached: watch::Receiver<u64>,
}

/// What is there is compared with what should be this often, in case somebody changed it by hand.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A program or an API that takes longer has failed.
const WAIT: Duration = Duration::from_secs(20);
/// nginx starts new workers at each reload, and old ones live as long as their connections: not more often than this.
const NGINX_APART: Duration = Duration::from_secs(1);
/// Traefik, Caddy and nginx's `allow` read such a list from top to bottom for each request: about 10 ns an entry.
const LONG: usize = 1_000;
/// HAProxy drops a command longer than its buffer (`tune.bufsize`, 16 KiB by default) without a word.
const HAPROXY_CHUNK: usize = 8 * 1024;

impl Enforcer {
    /// Starts keeping something equal to the published lists.
    pub fn start(run: &Run, keeper: &Keeper, kind: Kind) -> Enforcer {
        let progress = Arc::new(Mutex::new(Progress { name: kind.name(), lists: kind.lists(), ..Progress::default() }));
        let (tell, reached) = watch::channel(0);
        let enforcer = Enforcer { progress: progress.clone(), reached };
        let published = keeper.published.clone();
        let stopping = run.stopping();
        run.spawn("enforcer", async move {
            let work = keep_equal(kind, published, progress, tell);
            tokio::select! {
                () = work => {}
                () = stopping => {}
            }
            Ok(())
        });
        enforcer
    }

    /// Waits until the enforcer has a generation, or the time is over. True if it has.
    pub async fn has(&self, generation: u64, wait: Duration) -> bool {
        let mut reached = self.reached.clone();
        tokio::time::timeout(wait, reached.wait_for(|r| *r >= generation)).await.is_ok_and(|r| r.is_ok())
    }

    /// True if it holds this list.
    #[must_use]
    pub fn holds(&self, list: &str) -> bool {
        self.progress.lock().lists.iter().any(|l| l == list)
    }
}

impl Kind {
    /// What it is, in words.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Kind::Traefik { file, .. } => format!("traefik {}", file.display()),
            Kind::Nginx { file, .. } => format!("nginx {}", file.display()),
            Kind::Haproxy { socket, .. } => format!("haproxy {}", socket.display()),
            Kind::Caddy { api, .. } => format!("caddy {api}"),
            Kind::Nftables { .. } => "nftables".to_string(),
            Kind::File { file, .. } => format!("file {}", file.display()),
            Kind::Command { argv, .. } => format!("command {}", argv.first().map_or("", String::as_str)),
            Kind::Webhook { to, .. } => {
                format!("webhook {}://{}:{}", if to.https { "https" } else { "http" }, to.host, to.port)
            }
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
    progress: Arc<Mutex<Progress>>,
    tell: watch::Sender<u64>,
) {
    let mut wait = RETRY.0;
    let mut last: Vec<Option<Arc<Desired>>> = Vec::new();
    let mut memory = Memory::default();
    let mut look = true;
    loop {
        let now = published.borrow_and_update().clone();
        let lists: Vec<Option<Arc<Desired>>> = kind.lists().iter().map(|l| now.lists.get(l).cloned()).collect();
        let same = lists.len() == last.len()
            && lists.iter().zip(&last).all(|(a, b)| matches!((a, b), (Some(a), Some(b)) if Arc::ptr_eq(a, b)));
        let mut again = LOOK_AGAIN;
        if !same || look {
            look = false;
            let began = Instant::now();
            match apply(&kind, &now, &mut memory).await {
                Ok(changed) => {
                    wait = RETRY.0;
                    last = lists;
                    let mut p = progress.lock();
                    if changed {
                        p.changes += 1;
                        p.took = began.elapsed();
                        debug!("{}: generation {} after {} ms", p.name, now.generation, p.took.as_millis());
                    }
                    p.remark = memory.remark.clone();
                    if p.error.take().is_some() {
                        info!("{} is equal to its list again", p.name);
                    }
                }
                Err(e) => {
                    let mut p = progress.lock();
                    let text = format!("{e:#}");
                    if p.error.as_ref() != Some(&text) {
                        warn!("{} is not equal to its list; what it had stays: {text}", p.name);
                    }
                    p.error = Some(text);
                    drop(p);
                    last.clear();
                    again = wait;
                    wait = (wait * 2).min(RETRY.1);
                }
            }
        }
        if progress.lock().error.is_none() {
            progress.lock().reached = now.generation;
            tell.send_replace(now.generation);
        }
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(again) => look = true,
        }
    }
}

/// Static entries, and learnt ones with their ends.
type Timed = (Vec<Prefix>, Vec<(Prefix, Option<u64>)>);

/// What an enforcer remembers between two changes.
#[derive(Debug, Default)]
struct Memory {
    remark: Option<String>,
    reloaded: Option<Instant>,
    sent: Option<Vec<Prefix>>,
    warned_long: bool,
    /// The learnt entries with their ends, as the kernel has them.
    timed: Option<Timed>,
}

fn of<'a>(now: &'a Published, list: &str) -> anyhow::Result<&'a Arc<Desired>> {
    now.lists.get(list).ok_or_else(|| anyhow!("there is no list `{list}`"))
}

/// Makes it equal. True if something was changed.
async fn apply(kind: &Kind, now: &Published, memory: &mut Memory) -> anyhow::Result<bool> {
    match kind {
        Kind::Traefik { file, middlewares, key, tcp, api } => {
            traefik(file, middlewares, *key, *tcp, api.as_ref(), now, memory).await
        }
        Kind::Nginx { list, file, test, reload } => nginx(of(now, list)?, file, test, reload, memory).await,
        Kind::Haproxy { list, socket, map } => haproxy(of(now, list)?, socket, map).await,
        Kind::Caddy { list, api } => caddy(of(now, list)?, api, memory).await,
        Kind::Nftables { list, ports } => nftables(of(now, list)?, ports, memory).await,
        Kind::File { list, file } => {
            let text = lines(&of(now, list)?.merged());
            let how =
                replace(file, text.as_bytes()).with_context(|| format!("{} can not be written", file.display()))?;
            Ok(how != How::Same)
        }
        Kind::Command { list, argv } => command(of(now, list)?, argv, memory).await,
        Kind::Webhook { list, to } => webhook(of(now, list)?, to, memory).await,
    }
}

async fn traefik(
    file: &Path,
    middlewares: &[(String, Vec<String>)],
    key: TraefikKey,
    tcp: bool,
    api: Option<&Base>,
    now: &Published,
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let mut written = Vec::new();
    for (name, lists) in middlewares {
        let mut entries: Vec<Prefix> = Vec::new();
        for list in lists {
            entries.extend(of(now, list)?.entries());
        }
        let nobody = decide::publish::NOBODY;
        if entries.iter().any(|p| p.to_string() != nobody) {
            entries.retain(|p| p.to_string() != nobody);
        }
        let mut seen = std::collections::BTreeSet::new();
        entries.retain(|p| seen.insert(*p));
        if entries.len() > LONG {
            entries = merge(entries);
        }
        if entries.len() > LONG && !std::mem::replace(&mut memory.warned_long, true) {
            warn!(
                "`{name}` has {} entries, which Traefik reads from top to bottom for each request; the check endpoint (forwardAuth to /v1/check/LIST) does not slow down",
                entries.len()
            );
        }
        written.push(Middleware { name: name.clone(), entries, tcp });
    }
    let (path, text) = (file.to_path_buf(), traefik_yaml(&written, key));
    let how = tokio::task::spawn_blocking(move || replace(&path, text.as_bytes()))
        .await?
        .with_context(|| format!("{} can not be written", file.display()))?;
    if let How::InPlace(why) = &how
        && memory.remark.is_none()
    {
        let remark = format!(
            "{} can not be replaced ({why}), so it is written in place; mount its directory instead of the single file and Traefik never meets a half-written list",
            file.display()
        );
        warn!("{remark}");
        memory.remark = Some(remark);
    }
    if let Some(api) = api {
        seen_by_traefik(api, &written).await?;
    }
    Ok(how != How::Same)
}

/// Waits until Traefik's API shows every middleware with its entries.
async fn seen_by_traefik(api: &Base, written: &[Middleware]) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let mut missing = None;
        for m in written {
            let path = format!("{}/api/http/middlewares/{}@file", api.path.trim_end_matches('/'), m.name);
            let (status, body) = fetch(api, Method::GET, &path, HeaderMap::new(), Bytes::new(), 16 << 20, WAIT)
                .await
                .context("Traefik's API")?;
            let shown: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let ranges = ["ipAllowList", "ipWhiteList"].iter().find_map(|k| shown[*k]["sourceRange"].as_array());
            let want: Vec<String> = m.entries.iter().map(ToString::to_string).collect();
            let same =
                ranges.is_some_and(|r| r.len() == want.len() && r.iter().zip(&want).all(|(a, b)| a == b.as_str()));
            if status != 200 || !same {
                missing = Some(&m.name);
                break;
            }
        }
        let Some(name) = missing else { return Ok(()) };
        if Instant::now() > until {
            bail!("Traefik's API does not show `{name}` as written; does its file provider watch this file?");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn nginx(
    d: &Desired,
    file: &Path,
    test: &[String],
    reload: &[String],
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let text = nginx_geo(&d.merged());
    let before = std::fs::read(file).ok();
    if before.as_deref() == Some(text.as_bytes()) && memory.reloaded.is_some() {
        return Ok(false);
    }
    if let Some(at) = memory.reloaded {
        tokio::time::sleep(NGINX_APART.saturating_sub(at.elapsed())).await;
    }
    replace(file, text.as_bytes()).with_context(|| format!("{} can not be written", file.display()))?;
    if let Err(e) = program(test, None).await {
        // A reload of somebody else must not meet it either.
        if let Some(before) = before {
            replace(file, &before)?;
        }
        return Err(e.context("nginx refuses its configuration"));
    }
    program(reload, None).await.context("nginx was not reloaded")?;
    memory.reloaded = Some(Instant::now());
    Ok(true)
}

async fn haproxy(d: &Desired, socket: &Path, map: &Path) -> anyhow::Result<bool> {
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

async fn caddy(d: &Desired, api: &Base, memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    let want = json!(entries.iter().map(ToString::to_string).collect::<Vec<_>>());
    let (status, body) = fetch(api, Method::GET, &api.path, HeaderMap::new(), Bytes::new(), 16 << 20, WAIT).await?;
    if status == 200 && serde_json::from_slice::<Value>(&body).is_ok_and(|v| v == want) {
        return Ok(false);
    }
    if status == 404 || status == 400 {
        bail!("Caddy does not know {}: the matcher needs an \"@id\" ({})", api.path, String::from_utf8_lossy(&body));
    }
    memory.remark = Some(
        "each change closes every open WebSocket and stream of Caddy; forward_auth to the check endpoint does not"
            .to_string(),
    );
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, body) =
        fetch(api, Method::PATCH, &api.path, headers, Bytes::from(want.to_string()), 1 << 20, WAIT).await?;
    if status != 200 {
        bail!("Caddy answers {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(true)
}

async fn nftables(d: &Desired, ports: &[u16], memory: &mut Memory) -> anyhow::Result<bool> {
    let state = (d.statics.clone(), d.learnt.clone());
    let nft = |args: &[&str]| -> Vec<String> {
        std::iter::once("nft").chain(args.iter().copied()).map(str::to_string).collect()
    };
    // Somebody who flushed the ruleset took our table with it.
    let there = program(&nft(&["-t", "list", "table", "inet", "portcullis"]), None).await.is_ok();
    if there && memory.timed.as_ref() == Some(&state) {
        return Ok(false);
    }
    let now = super::keeper::wall();
    let learnt: Vec<(Prefix, Option<u64>)> =
        d.learnt.iter().map(|(p, end)| (*p, end.map(|e| e.saturating_sub(now)))).collect();
    program(&nft(&["-f", "-"]), Some(nft_table(&d.statics, &learnt, ports)))
        .await
        .context("nft refuses the table; it needs root or CAP_NET_ADMIN")?;
    memory.timed = Some(state);
    Ok(true)
}

async fn command(d: &Desired, argv: &[String], memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    program(argv, Some(lines(&entries))).await?;
    memory.sent = Some(entries);
    Ok(true)
}

async fn webhook(d: &Desired, to: &Base, memory: &mut Memory) -> anyhow::Result<bool> {
    let entries = d.merged();
    if memory.sent.as_ref() == Some(&entries) {
        return Ok(false);
    }
    let body = json!({
        "list": d.list,
        "generation": d.generation,
        "entries": entries.iter().map(ToString::to_string).collect::<Vec<_>>(),
    });
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (status, _) = fetch(to, Method::POST, &to.path, headers, Bytes::from(body.to_string()), 0, WAIT).await?;
    if !(200..300).contains(&status) {
        bail!("it answers {status}");
    }
    memory.sent = Some(entries);
    Ok(true)
}

/// Runs a program to its end, without a shell.
async fn program(argv: &[String], input: Option<String>) -> anyhow::Result<()> {
    let [name, args @ ..] = argv else { return Ok(()) };
    let mut child = Command::new(name)
        .args(args)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{name}` can not be started"))?;
    let mut stdin = child.stdin.take();
    let work = async {
        if let (Some(stdin), Some(text)) = (stdin.as_mut(), input) {
            // A program that does not read its input is judged by its exit code alone.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        drop(stdin.take());
        child.wait_with_output().await
    };
    let out = tokio::time::timeout(WAIT, work).await.map_err(|_| anyhow!("`{name}` takes too long"))??;
    if !out.status.success() {
        let said: String = String::from_utf8_lossy(&out.stderr).chars().take(500).collect();
        bail!("`{}` ended with {}: {}", argv.join(" "), out.status, said.trim());
    }
    Ok(())
}
