//! `cargo xtask bench control`: the coordination server beside headscale, its relay beside the official one. In: flags.
//! Out: a table in Markdown, on the screen and in `docs/bench/control.md`.
//!
//! The nodes are those of `sim::mesh`: real handshakes, HTTP/2, map streams and relay connections, no tunnels. Each
//! contestant is started anew for each round, the order turns round, figures are medians.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sim::mesh::{Derp, Node, Transport, server_key, tls};
use stage::process::{cpu, rss_kib};
use tailnet_proto::derp::Frame;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use super::control_servers::{Server, Who};
use super::figures::{median, number};

const USAGE: &str = "\
usage: cargo xtask bench control [--rounds N] [--nodes N] [--quick] [--bin FILE] [--only NAME,…]
  --rounds    rounds, medians are taken over them (3)
  --nodes     simulated nodes (100)
  --quick     one round, no file written
  --bin       measure this binary instead of building one
  --only      contestants: portcullis, headscale, derper
headscale comes with `cargo xtask test --setup`; derper with
  GOBIN=~/.cache/portcullis/peers/bin go install tailscale.com/cmd/derper@v1.102.3";

/// Registrations at a time: more than people do, less than keeps the load generator busy with itself.
const AT_ONCE: usize = 8;

/// Policy changes for each round.
const CHANGES: u16 = 5;

/// How long one step of a contestant may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for: a change has reached every node, an idle map stream costs less.
const REACH: Duration = Duration::from_secs(1);
const STREAM_KIB: f64 = 50.0;

/// Packets of a tunnel with the usual MTU of 1280; in flight for each pair: fewer than the 32 that an official relay
/// holds, so that none is lost.
const PACKET: usize = 1312;
const IN_FLIGHT: usize = 24;
const BATCH: usize = 12;

/// How long each relay row is measured.
const WINDOW: Duration = Duration::from_secs(2);

/// Rows of the table, in order: name, decimals.
const ROWS: [(&str, usize); 9] = [
    ("registrations each second, 8 at a time", 0),
    ("policy change until the last node has it, ms", 0),
    ("memory for each idle map stream, KiB", 1),
    ("memory when all nodes are there, MiB", 1),
    ("relay, 1 pair over TLS, MiB/s", 0),
    ("relay, 1 pair over TLS, CPU s/GiB", 2),
    ("relay, 8 pairs over TLS, MiB/s", 0),
    ("relay, 8 pairs over TLS, CPU s/GiB", 2),
    ("relay, memory while 8 pairs run, MiB", 1),
];

/// Places of the rows that goals are for.
const CHANGE: usize = 1;
const STREAM: usize = 2;

struct Options {
    rounds: usize,
    nodes: usize,
    save: bool,
    bin: Option<PathBuf>,
    only: Vec<String>,
}

type Figures = BTreeMap<(&'static str, Who), Vec<f64>>;

/// Measures and prints.
///
/// # Errors
/// Wrong flags, nothing to measure, or more time or memory than asked for.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let o = options(args)?;
    let own = match &o.bin {
        Some(bin) => bin.clone(),
        None => super::tunnel::build()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (mut figures, mut notes) = (Figures::new(), Vec::new());
    for round in 0..o.rounds {
        let mut order = [Who::Portcullis, Who::Headscale, Who::Derper].to_vec();
        order.retain(|w| o.only.is_empty() || o.only.iter().any(|n| n == w.name()));
        if round % 2 == 1 {
            order.reverse();
        }
        for who in order {
            eprintln!("round {} of {}: {}", round + 1, o.rounds, who.name());
            if let Err(e) = runtime.block_on(measure(who, &own, &o, &mut figures)) {
                notes.push(format!("{}, round {}: {e:#}", who.name(), round + 1));
                eprintln!("  {e:#}");
            }
        }
    }
    let text = table(&o, &figures, &notes);
    println!("{text}");
    if o.save {
        let file = crate::check::root().join("docs/bench/control.md");
        std::fs::write(&file, &text)?;
        eprintln!("written to {}", file.display());
    }
    let own = |row: usize| figures.get(&(ROWS[row].0, Who::Portcullis)).cloned().and_then(median);
    let late = own(1).is_none_or(|ms| ms > REACH.as_secs_f64() * 1000.0);
    if (late || own(2).is_none_or(|kib| kib > STREAM_KIB)) && (o.only.is_empty() || !notes.is_empty()) {
        bail!("slower or bigger than asked for");
    }
    Ok(())
}

async fn measure(who: Who, own: &Path, o: &Options, f: &mut Figures) -> Result<()> {
    if who != Who::Derper {
        let server = Server::start(who, own, false)?;
        let nodes: Vec<Node> = (0..o.nodes as u64).map(Node::new).collect();
        control(&server, who, &nodes, f).await?;
        if who == Who::Portcullis {
            relay(&server, who, f).await?;
        }
    } else {
        relay(&Server::start(who, own, true)?, who, f).await?;
    }
    Ok(())
}

/// Registrations, map streams, policy changes.
async fn control(server: &Server, who: Who, nodes: &[Node], f: &mut Figures) -> Result<()> {
    let mut put = |row: usize, value: f64| f.entry((ROWS[row].0, who)).or_default().push(value);
    let (auth, key) = (server.auth_key()?, server_key(server.addr).await?);
    let (places, start) = (Arc::new(Semaphore::new(AT_ONCE)), Instant::now());
    let mut registering = tokio::task::JoinSet::new();
    for node in nodes.iter().cloned() {
        let (places, auth, addr) = (places.clone(), auth.clone(), server.addr);
        registering.spawn(async move {
            let _place = places.acquire().await?;
            node.connect(addr, &key).await?.register(&auth).await.with_context(|| node.name.clone())
        });
    }
    while let Some(done) = in_time("registrations", registering.join_next()).await? {
        done??;
    }
    put(0, nodes.len() as f64 / start.elapsed().as_secs_f64());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = anonymous_kib(server.pid());
    let (seen, mut news) = mpsc::unbounded_channel();
    let wanted = Arc::new(AtomicU64::new(0));
    let (mut opening, mut streams) = (tokio::task::JoinSet::new(), tokio::task::JoinSet::new());
    for node in nodes.iter().cloned() {
        let (places, addr) = (places.clone(), server.addr);
        opening.spawn(async move {
            let _place = places.acquire().await?;
            let mut channel = node.connect(addr, &key).await?;
            let mut map = channel.map().await?;
            map.news().await.with_context(|| format!("the first map of {}", node.name))?;
            // The channel lives as long as its stream.
            anyhow::Ok((channel, map))
        });
    }
    while let Some(opened) = in_time("the first maps", opening.join_next()).await? {
        let (channel, mut map) = opened??;
        let (seen, wanted) = (seen.clone(), wanted.clone());
        streams.spawn(async move {
            let _channel = channel;
            while let Ok(Some(message)) = map.next_bytes().await {
                let port = wanted.load(Ordering::Acquire);
                let sign = format!("\"First\":{port},");
                if port != 0 && message.windows(sign.len()).any(|w| w == sign.as_bytes()) {
                    let _ = seen.send((port, Instant::now()));
                }
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    put(2, anonymous_kib(server.pid()).saturating_sub(before) as f64 / nodes.len() as f64);
    put(3, rss_kib(server.pid()) as f64 / 1024.0);
    let mut took = vec![];
    for change in 0..CHANGES {
        let port = 1000 + change;
        wanted.store(port.into(), Ordering::Release);
        let start = Instant::now();
        server.set_policy(port)?;
        let last = async {
            let mut left = nodes.len();
            let mut last = start;
            while left > 0 {
                let (which, at) = news.recv().await.context("every stream ended")?;
                if which == u64::from(port) {
                    (left, last) = (left - 1, at);
                }
            }
            anyhow::Ok(last)
        };
        took.push(in_time("a policy change at every node", last).await??.duration_since(start));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    streams.abort_all();
    put(1, median(took.iter().map(|t| t.as_secs_f64() * 1000.0).collect()).unwrap_or_default());
    Ok(())
}

/// Resident memory that is no file: pages of the program itself come once and not for each stream.
fn anonymous_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("{what}: not within {} s", PATIENCE.as_secs()))
}

/// Packets through the relay; for this project's the nodes have been registered before.
async fn relay(server: &Server, who: Who, f: &mut Figures) -> Result<()> {
    for (pairs, rate, cost) in [(1, 4, 5), (8, 6, 7)] {
        let mut running = tokio::task::JoinSet::new();
        let passed = Arc::new(AtomicU64::new(0));
        for pair in 0..pairs {
            let (a, b) = (Node::new(2 * pair), Node::new(2 * pair + 1));
            let to = b.node.public();
            let (a, b) = (connect(server, &a).await?, connect(server, &b).await?);
            let passed = passed.clone();
            running.spawn(async move { pump(a, b, to, &passed).await });
        }
        // Buffers grow first.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (bytes, used, start) = (passed.load(Ordering::Relaxed), cpu(server.pid()), Instant::now());
        tokio::time::sleep(WINDOW).await;
        let bytes = (passed.load(Ordering::Relaxed) - bytes) as f64;
        let (used, took) = (cpu(server.pid()) - used, start.elapsed());
        if pairs == 8 {
            f.entry((ROWS[8].0, who)).or_default().push(rss_kib(server.pid()) as f64 / 1024.0);
        }
        if let Some(ended) = running.try_join_next() {
            ended??;
        }
        running.abort_all();
        if bytes == 0.0 {
            bail!("no packet came through");
        }
        f.entry((ROWS[rate].0, who)).or_default().push(bytes / took.as_secs_f64() / f64::from(1 << 20));
        f.entry((ROWS[cost].0, who)).or_default().push(used.as_secs_f64() / (bytes / f64::from(1 << 30)));
    }
    Ok(())
}

async fn connect(server: &Server, node: &Node) -> Result<Derp<impl Transport + use<>>> {
    let io = TcpStream::connect(server.addr).await?;
    io.set_nodelay(true)?;
    let host = server.addr.ip().to_string();
    let (io, _) = tls(io, &host).await?;
    node.relay_over_http(io, &host).await
}

/// Keeps packets in flight from one client to the other, and counts what arrives.
async fn pump<S: Transport>(
    mut a: Derp<S>,
    mut b: Derp<S>,
    to: tailnet_proto::meshkey::NodeKey,
    passed: &AtomicU64,
) -> Result<()> {
    let mut batch = vec![];
    (0..BATCH).for_each(|_| Frame::SendPacket(to, &[7; PACKET]).encode(&mut batch));
    let credit = Semaphore::new(IN_FLIGHT);
    let sending = async {
        loop {
            credit.acquire_many(BATCH as u32).await?.forget();
            a.sender.raw(&batch).await?;
        }
    };
    let receiving = async {
        loop {
            let bytes = b.receiver.count(BATCH).await?;
            passed.fetch_add(bytes, Ordering::Relaxed);
            credit.add_permits(BATCH);
        }
    };
    tokio::select! {
        done = sending => done,
        done = receiving => done,
    }
}

fn table(o: &Options, figures: &Figures, notes: &[String]) -> String {
    let mut out = format!(
        "# The coordination server and its relay\n\n`cargo xtask bench control`: {} simulated nodes, {} round{}, medians. \
         The load generator runs on the same machine. The registrations, maps and filters are those of the protocol; \
         nodes have no tunnels. A policy change is counted from the start of the command that sets it (`policy set` of \
         either server) until the last of the nodes has the new packet filter. Memory of a map stream: growth of the \
         process (without its program file) from before the first to five seconds after the last, divided by their number. Relay: packets of {PACKET} \
         bytes, {IN_FLIGHT} in flight for each pair; CPU is the relay's own. This relay reads one client at no more than \
         a gigabit a second.\n\n",
        o.nodes,
        o.rounds,
        if o.rounds == 1 { "" } else { "s" },
    );
    out += "| | portcullis | headscale | derper |\n| --- | ---: | ---: | ---: |\n";
    for (row, decimals) in ROWS {
        let cell = |who| {
            let values = figures.get(&(row, who)).cloned().and_then(median);
            values.map_or_else(String::new, |v| number(v, decimals))
        };
        let cells = [Who::Portcullis, Who::Headscale, Who::Derper].map(cell);
        let _ = writeln!(out, "| {row} | {} | {} | {} |", cells[0], cells[1], cells[2]);
    }
    let ours = |row: usize| figures.get(&(ROWS[row].0, Who::Portcullis)).cloned().and_then(median);
    let met = |row, most: f64| match ours(row) {
        Some(v) if v < most => "met",
        Some(_) => "**missed**",
        None => "not measured",
    };
    let _ = writeln!(
        out,
        "\nAsked for: a policy change reaches 100 nodes in under a second ({}); an idle map stream costs under 50 KB ({}).",
        met(CHANGE, REACH.as_secs_f64() * 1e3),
        met(STREAM, STREAM_KIB),
    );
    for note in notes {
        let _ = writeln!(out, "\nLeft out: {note}");
    }
    // An unoptimised program is slower than what people get; figures must not hide which one they are of.
    if o.bin.as_ref().is_some_and(|bin| bin.components().any(|c| c.as_os_str() == "debug")) {
        let _ = writeln!(
            out,
            "\nportcullis was a development build here, hardly optimised; the others are release builds."
        );
    }
    let _ = writeln!(out, "\n{}", super::machine());
    out
}

fn options(args: &[String]) -> Result<Options> {
    let mut o = Options { rounds: 3, nodes: 100, save: true, bin: None, only: vec![] };
    let mut args = args.iter();
    while let Some(flag) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{flag}` wants a value\n{USAGE}"));
        match flag.as_str() {
            "--quick" => (o.rounds, o.save) = (1, false),
            "--rounds" => o.rounds = value()?.parse().context("--rounds wants a number")?,
            "--nodes" => o.nodes = value()?.parse().context("--nodes wants a number")?,
            "--bin" => o.bin = Some(value()?.into()),
            "--only" => o.only = value()?.split(',').map(str::to_string).collect(),
            other => bail!("unknown flag `{other}`\n{USAGE}"),
        }
    }
    if o.rounds == 0 || o.nodes < 16 {
        bail!("at least one round and 16 nodes\n{USAGE}");
    }
    // A part of the contestants is for trying out.
    o.save &= o.only.is_empty();
    Ok(o)
}
