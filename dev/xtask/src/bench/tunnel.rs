//! `cargo xtask bench tunnel`: this tunnel beside its peers, in one run on one machine. In: flags. Out: tables in
//! Markdown, on the screen and in `docs/bench/tunnel.md`.
//!
//! Every contestant is started anew for each round; the order turns round from one round to the next; figures are
//! medians over the rounds and ratios are medians of the ratios within each round.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::figures::{Figure, Figures};
use super::load::{self, Upstream, Way};
use super::pairs::{ALL, Pair, Place, Who};
use super::{link, tunnel_table};

/// Connections of the request row and openings in flight of the connection row, as the field's anchors have them.
const KEPT_ALIVE: usize = 64;
const IN_FLIGHT: usize = 32;

/// Files one process may hold: 10,000 visitors are 20,000 sockets in an end that does not multiplex.
const FILES: u64 = 65_536;

/// How the benchmark is run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) window: Duration,
    pub(crate) only: Vec<String>,
    pub(crate) memory: bool,
    pub(crate) lossy: bool,
    pub(crate) bulk: bool,
    pub(crate) small: bool,
    pub(crate) setup: bool,
    pub(crate) save: bool,
    pub(crate) bin: Option<PathBuf>,
    pub(crate) before: Option<PathBuf>,
}

const USAGE: &str = "\
usage: cargo xtask bench tunnel [--setup] [--rounds N] [--seconds S] [--quick] [--only NAME,…] [--part PART,…] [--bin FILE] [--before FILE]
  --setup     first build the peers that are missing (rathole, bore, frp, chisel), outside the tree
  --rounds    rounds, medians are taken over them (5)
  --seconds   length of each measured window (2)
  --quick     one round, short windows, no file written: to see that it works
  --only      contestants whose name contains one of these
  --part      of bulk, small, memory, lossy (all)
  --bin       measure this binary instead of building one
  --before    and this one beside it, as it was before a change; no file is written";

/// Runs it.
///
/// # Errors
/// Wrong flags, or nothing could be measured at all.
pub(crate) fn run(args: &[String]) -> Result<()> {
    // The lossy link's ends run this program again inside namespaces.
    if let Some(done) = link::agent(args) {
        return done;
    }
    let o = options(args)?;
    let limit = rustix::process::Rlimit { current: Some(FILES), maximum: Some(FILES) };
    if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        eprintln!(
            "note: cannot raise the number of open files ({e}): an end that needs two for a visitor may miss the row of 10,000"
        );
    }
    if o.setup {
        crate::setup::tunnel_peers();
    }
    let bin = match &o.bin {
        Some(bin) => Some(bin.clone()),
        None => build().map_err(|e| println!("note: portcullis is left out: {e:#}")).ok(),
    };
    let who: Vec<Who> = ALL
        .into_iter()
        .filter(|w| o.before.is_some() || !w.is_before())
        .filter(|w| o.only.is_empty() || o.only.iter().any(|n| w.name().contains(n.as_str())))
        .collect();
    let upstream = Upstream::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut f = Figures::default();
    for round in 0..o.rounds {
        let mut order = who.clone();
        if round % 2 == 1 {
            order.reverse();
        }
        for w in order {
            eprintln!("round {} of {}: {}", round + 1, o.rounds, w.name());
            let bin = if w.is_before() { o.before.as_deref() } else { bin.as_deref() };
            if let Err(e) = measure(&o, w, round, &upstream, bin, &mut f) {
                note(&mut f, w, &e);
            }
        }
    }
    if o.lossy {
        link::measure(&o, &who, bin.as_deref(), &mut f);
    }
    if !who.iter().any(|w| f.has(*w)) {
        bail!("nothing could be measured:\n{}", f.notes.join("\n"));
    }
    let text = tunnel_table::render(&o, &f);
    println!("{text}");
    if o.save {
        let file = crate::check::root().join("docs/bench/tunnel.md");
        std::fs::create_dir_all(file.parent().unwrap_or(&file))?;
        std::fs::write(&file, text)?;
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

/// One contestant's part of one round.
fn measure(o: &Options, who: Who, round: usize, up: &Upstream, bin: Option<&Path>, f: &mut Figures) -> Result<()> {
    let pair = who.start(up.addr, &Place::loopback(), bin)?;
    // Pools fill and allocators settle.
    std::thread::sleep(Duration::from_millis(700));
    if who != Who::Direct {
        let (edge, client) = pair.rss();
        f.put(who, Figure::IdleEdge, round, edge as f64 / 1024.0);
        f.put(who, Figure::IdleClient, round, client as f64 / 1024.0);
    }
    if o.bulk && !who.only_http() {
        bulk(o, who, round, up, &pair, 1, (Figure::Rate1, Figure::Cpu1), f)?;
        bulk(o, who, round, up, &pair, 8, (Figure::Rate8, Figure::Cpu8), f)?;
    }
    if o.small {
        let before = pair.cpu();
        let s = load::block(load::requests(pair.visit, KEPT_ALIVE, o.window))??;
        let used = pair.cpu().saturating_sub(before);
        f.put(who, Figure::Requests, round, s.per_second);
        f.put(who, Figure::RequestP50, round, s.p50_ms);
        f.put(who, Figure::RequestP99, round, s.p99_ms);
        f.put(who, Figure::RequestCpu, round, used.as_secs_f64() * 1e6 / s.done as f64);
        if !who.only_http() {
            let before = pair.cpu();
            let s = load::block(load::connections(pair.visit, IN_FLIGHT, o.window))??;
            let used = pair.cpu().saturating_sub(before);
            f.put(who, Figure::Opens, round, s.per_second);
            f.put(who, Figure::OpenP50, round, s.p50_ms);
            f.put(who, Figure::OpenP99, round, s.p99_ms);
            f.put(who, Figure::OpenCpu, round, used.as_secs_f64() * 1e6 / s.done as f64);
            f.put(who, Figure::OpenFailed, round, s.failed as f64);
        }
    }
    drop(pair);
    // Memory hardly varies: the first two rounds are enough, one for the many.
    if o.memory && round < 2 && who != Who::Direct && !who.only_http() {
        held(who, round, bin, 1_000, (Figure::Held1kEdge, Figure::Held1kClient), f)?;
        if round == 0 {
            held(who, round, bin, 10_000, (Figure::Held10kEdge, Figure::Held10kClient), f)?;
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one cell of the table: every axis is an argument")]
fn bulk(
    o: &Options,
    who: Who,
    round: usize,
    up: &Upstream,
    pair: &Pair,
    streams: usize,
    (rate, cost): (Figure, Figure),
    f: &mut Figures,
) -> Result<()> {
    let (mut bytes, mut took, mut used) = (0, Duration::ZERO, Duration::ZERO);
    for way in [Way::Down, Way::Up] {
        let done = load::block(load::bulk(pair.visit, up, way, streams, o.window, || pair.cpu()))?;
        let (b, t, u) = done.with_context(|| format!("{streams} streams {way:?}"))?;
        (bytes, took, used) = (bytes + b, took + t, used + u);
        // What was in flight is over before the next window.
        std::thread::sleep(Duration::from_millis(200));
    }
    f.put(who, rate, round, bytes as f64 * 8.0 / 1e9 / took.as_secs_f64());
    if who != Who::Direct {
        f.put(who, cost, round, used.as_secs_f64() / (bytes as f64 / f64::from(1 << 30)));
    }
    Ok(())
}

fn held(
    who: Who,
    round: usize,
    bin: Option<&Path>,
    n: usize,
    (edge, client): (Figure, Figure),
    f: &mut Figures,
) -> Result<()> {
    // A process of its own: visitors and upstream together would hold more files than one process may.
    let addr = stage::ports::local(stage::ports::free());
    let _up = link::upstream(std::env::current_exe()?.as_os_str(), &[], addr)?;
    let pair = who.start(addr, &Place::loopback(), bin)?;
    std::thread::sleep(Duration::from_millis(700));
    let before = pair.rss();
    let after = load::block(async {
        let held = load::hold(pair.visit, n).await?;
        // Long enough for what is only needed while opening to be given back.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let after = pair.rss();
        drop(held);
        anyhow::Ok(after)
    })?;
    let after = after.with_context(|| format!("{n} open visitors"))?;
    f.put(who, edge, round, after.0.saturating_sub(before.0) as f64 / n as f64);
    f.put(who, client, round, after.1.saturating_sub(before.1) as f64 / n as f64);
    Ok(())
}

pub(crate) fn note(f: &mut Figures, who: Who, e: &anyhow::Error) {
    let text = format!("{e:#}");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = format!("{}: {}", who.name(), text.chars().take(300).collect::<String>());
    eprintln!("note: {text}");
    if !f.notes.contains(&text) {
        f.notes.push(text);
    }
}

/// The release binary, built now.
pub(crate) fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let root = crate::check::root();
    let built = Command::new(&cargo)
        .args(["build", "--release", "--quiet", "--package", "portcullis"])
        .current_dir(&root)
        .status()?;
    if !built.success() {
        bail!("`cargo build --release` failed");
    }
    let out = Command::new(&cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(&root)
        .output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let target = metadata["target_directory"].as_str().context("no target directory in `cargo metadata`")?;
    Ok(Path::new(target).join("release/portcullis"))
}

fn options(args: &[String]) -> Result<Options> {
    let mut o = Options {
        rounds: 5,
        window: Duration::from_secs(2),
        only: vec![],
        memory: true,
        lossy: true,
        bulk: true,
        small: true,
        setup: false,
        save: true,
        bin: None,
        before: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value\n{USAGE}"));
        match arg.as_str() {
            "--setup" => o.setup = true,
            "--quick" => (o.rounds, o.window, o.save) = (1, Duration::from_millis(500), false),
            "--rounds" => o.rounds = value()?.parse().context("--rounds wants a number")?,
            "--seconds" => o.window = Duration::from_secs_f64(value()?.parse().context("--seconds wants a number")?),
            "--only" => o.only = value()?.split(',').map(str::to_string).collect(),
            "--part" => {
                let parts: Vec<&str> = value()?.split(',').collect();
                if let Some(bad) = parts.iter().find(|p| !["bulk", "small", "memory", "lossy"].contains(p)) {
                    bail!("there is no part `{bad}`\n{USAGE}");
                }
                let has = |p| parts.contains(&p);
                (o.bulk, o.small, o.memory, o.lossy) = (has("bulk"), has("small"), has("memory"), has("lossy"));
            }
            "--bin" => o.bin = Some(PathBuf::from(value()?)),
            "--before" => (o.before, o.save) = (Some(PathBuf::from(value()?)), false),
            other => bail!("unknown argument `{other}`\n{USAGE}"),
        }
    }
    // A part of the table must not replace the whole one.
    if !(o.only.is_empty() && o.bulk && o.small && o.memory && o.lossy) {
        o.save = false;
    }
    Ok(o)
}
