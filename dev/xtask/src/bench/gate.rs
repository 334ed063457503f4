//! `cargo xtask bench gate`: how fast an event becomes enforced, what a check costs, what a long list costs, beside a
//! Flask service that does the same learning. In: flags. Out: tables in Markdown, on the screen and in
//! `docs/bench/gate.md`.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use stage::Dir;
use stage::netns::World;

use super::gate_world::{self as world, Gate, LIST, entry, newcomer};
use super::load::{self, Small, Upstream};

/// Connections of a proxy to the check endpoint, and of visitors to the proxy.
const CONNECTIONS: usize = 64;
/// Requests a second of the paced rows: well below what any of the proxies can do here, so that a wait is the check's
/// and not a queue's.
const PACE: f64 = 1_000.0;
const SIZES: [usize; 3] = [10, 1_000, 100_000];
const LONG: usize = 100_000;
const BURST: usize = 10_000;

const USAGE: &str = "\
usage: cargo xtask bench gate [--setup] [--quick] [--part PART,…] [--bin FILE]
  --setup     first install Flask into the cache, for the comparison
  --quick     short windows, few events, no file written: to see that it works
  --part      of event, check, burst, start (all)
  --bin       measure this binary instead of building one";

struct Options {
    quick: bool,
    parts: Vec<String>,
    bin: PathBuf,
}

/// Runs it.
///
/// # Errors
/// Wrong flags, or a part could not be measured.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let o = options(args)?;
    let has = |p: &str| o.parts.is_empty() || o.parts.iter().any(|x| x == p);
    let mut out = String::from(
        "# The gate\n\nWritten by `cargo xtask bench gate` (release build). Nothing here is tuned by hand.\n\n",
    );
    let mut notes = Vec::new();
    for (part, measure) in [
        ("event", events as fn(&Options, &mut Vec<String>) -> Result<String>),
        ("check", checks),
        ("burst", burst),
        ("start", start),
    ] {
        if has(part) {
            eprintln!("{part} …");
            out += &measure(&o, &mut notes).with_context(|| format!("the part `{part}`"))?;
        }
    }
    for n in notes {
        let _ = writeln!(out, "- {n}");
    }
    let _ = writeln!(out, "\n{}", super::machine());
    println!("{out}");
    if o.parts.is_empty() && !o.quick {
        let file = crate::check::root().join("docs/bench/gate.md");
        std::fs::write(&file, out)?;
        eprintln!("written to {}", file.display());
    }
    Ok(())
}

/// From a proof to the moment at which each enforcer lets the address in.
fn events(o: &Options, notes: &mut Vec<String>) -> Result<String> {
    let mut out = String::from(
        "## From event to enforced\n\nA proof arrives at the mirror endpoint; the clock stops when the address gets in: median (longest), in ms. The store is on the disk before anything is let in.\n\n| entries on the list | forward-auth check | HAProxy's running map | nftables (a packet passes) | Traefik's file is written |\n| ---: | ---: | ---: | ---: | ---: |\n",
    );
    let count = if o.quick { 5 } else { 40 };
    for n in SIZES {
        let check = {
            let g = Gate::start(&o.bin, n, &[], None)?;
            repeat(o, &g, count, Duration::from_millis(20), |g, a| g.event(a, None, world::by_check(g, a)?))
        };
        let haproxy = {
            let dir = Dir::new("bench-haproxy");
            let (_p, socket, map) = world::haproxy(&dir)?;
            let flags =
                ["--haproxy-socket", &socket.display().to_string(), "--haproxy-map", &map.display().to_string()]
                    .map(str::to_string);
            let g = Gate::start(&o.bin, n, &flags, None)?;
            let ready = Instant::now();
            let mut there = world::by_haproxy(socket.clone(), &map, entry(n - 1));
            while !there()? && ready.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(20));
            }
            repeat(o, &g, count, Duration::from_millis(400), |g, a| {
                g.event(a, None, world::by_haproxy(socket.clone(), &map, a))
            })
        };
        let nft = match World::new() {
            Some(w) => {
                let (here, visitor) = (w.host("gate", "203.0.113.10"), w.host("visitor", "203.0.113.20"));
                here.ip(&["route", "add", "198.51.100.0/24", "via", "203.0.113.20"]);
                visitor.ip(&["route", "add", "local", "198.51.100.0/24", "dev", "lo"]);
                let target = here.within(|| UdpSocket::bind("0.0.0.0:7777"))?;
                target.set_nonblocking(true)?;
                let g = Gate::start(&o.bin, n, &["--nft-ports".to_string(), "7777".to_string()], Some(&here))?;
                std::thread::sleep(Duration::from_secs(1));
                let at = "203.0.113.10:7777".parse()?;
                repeat(o, &g, count, Duration::from_millis(100), |g, a| {
                    let mut passes = world::by_packet(&visitor, &target, at, a)?;
                    if passes()? {
                        bail!("{a} passes before it proved itself");
                    }
                    g.event(a, Some(&here), passes)
                })
            }
            None => Err(anyhow::anyhow!("network namespaces cannot be made here")),
        };
        let file = {
            let g = Gate::start(&o.bin, n, &[], None)?;
            let path = g.dir.path().join("dynamic-whitelist.yml");
            repeat(o, &g, count.min(10), Duration::from_millis(600), |g, a| {
                g.event(a, None, world::by_file(path.clone(), a))
            })
        };
        let mut cell = |what: &str, r: Result<Vec<f64>>| match r {
            Ok(t) => format!("{:.2} ({:.2})", at(&t, 0.5), at(&t, 1.0)),
            Err(e) => {
                notes.push(format!("{what} at {n} entries is left out: {e:#}"));
                "–".to_string()
            }
        };
        let row = [cell("the check", check), cell("HAProxy", haproxy), cell("nftables", nft), cell("the file", file)];
        let _ = writeln!(out, "| {n} | {} |", row.join(" | "));
        eprintln!("  {n}: {}", row.join(" | "));
    }
    out.push_str(
        "\nTraefik itself then reads its file within `providersThrottleDuration` (2 s unless set otherwise).\n\n",
    );
    Ok(out)
}

/// The same address proves itself and is revoked, again and again; times in ms, shortest first.
fn repeat(
    o: &Options,
    g: &Gate,
    count: usize,
    apart: Duration,
    mut once: impl FnMut(&Gate, std::net::Ipv4Addr) -> Result<Duration>,
) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    for n in 0..=count {
        std::thread::sleep(apart);
        let took = once(g, newcomer(n))?;
        // The first one warms connections and caches.
        if n > 0 {
            times.push(took.as_secs_f64() * 1e3);
        }
        if n % 2 == 1 {
            g.revoke(&o.bin, newcomer(n))?;
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// The check endpoint by itself and behind real proxies.
fn checks(o: &Options, notes: &mut Vec<String>) -> Result<String> {
    let window = Duration::from_secs(if o.quick { 1 } else { 5 });
    let mut out = format!(
        "## What a check costs\n\n{CONNECTIONS} connections kept alive; a list of {LONG} entries. Full speed: as many requests as go, with load, proxy, upstream and gate on the same cores. Paced: {PACE:.0} requests a second in all.\n\n| | full speed, requests/s | p50 ms | p99 ms | paced p50 ms | paced p99 ms |\n| --- | ---: | ---: | ---: | ---: | ---: |\n"
    );
    let g = Gate::start(&o.bin, LONG, &[], None)?;
    let up = Upstream::start(stage::ports::local(stage::ports::free()))?;
    let both = |to, request: Vec<u8>| -> Result<(Small, Small)> {
        let full = load::block(world::requests(to, request.clone(), CONNECTIONS, window, None))??;
        Ok((full, load::block(world::requests(to, request, CONNECTIONS, window, Some(PACE)))??))
    };
    let row = |name: &str, (f, p): &(Small, Small)| {
        format!(
            "| {name} | {:.0} | {:.2} | {:.2} | {:.3} | {:.3} |\n",
            f.per_second, f.p50_ms, f.p99_ms, p.p50_ms, p.p99_ms
        )
    };
    // Before anything is timed, everything has run once.
    load::block(world::requests(g.check, world::question(entry(5)), CONNECTIONS, window / 5, None))??;
    out += &row("the check endpoint itself", &both(g.check, world::question(entry(LONG / 2)))?);
    for name in ["nginx", "caddy", "traefik"] {
        let dir = Dir::new("bench-proxy");
        let (_p, at_) = match world::proxy(name, &dir, g.check, up.addr) {
            Ok(p) => p,
            Err(e) => {
                notes.push(format!("{name} is left out: {e:#}"));
                continue;
            }
        };
        let mut added = Vec::new();
        let mut rows: [Vec<(Small, Small)>; 2] = [Vec::new(), Vec::new()];
        // Both in turn, so that whatever else the machine does meets both.
        for _ in 0..if o.quick { 1 } else { 3 } {
            let (open, checked) = (both(at_, world::get("/open"))?, both(at_, world::get("/checked"))?);
            added.push((checked.1.p50_ms - open.1.p50_ms, checked.1.p99_ms - open.1.p99_ms));
            rows[0].push(open);
            rows[1].push(checked);
        }
        for (what, mut r) in ["without the check", "with the check"].into_iter().zip(rows) {
            r.sort_by(|a, b| a.1.p99_ms.total_cmp(&b.1.p99_ms));
            out += &row(&format!("{name}, {what}"), &r[r.len() / 2]);
        }
        let middle = |f: fn(&(f64, f64)) -> f64| {
            let mut v: Vec<f64> = added.iter().map(f).collect();
            v.sort_by(f64::total_cmp);
            v[v.len() / 2] * 1e3
        };
        notes.push(format!("Behind {name}, paced, the check adds {:.0} µs at the median and {:.0} µs at p99 (median of the differences between neighbouring runs).", middle(|a| a.0), middle(|a| a.1)));
        eprintln!("  {}", notes.last().map_or("", String::as_str));
    }
    out.push('\n');
    Ok(out)
}

/// Many proofs at once, beside the Flask service.
fn burst(o: &Options, notes: &mut Vec<String>) -> Result<String> {
    let mut out = String::from(
        "## Many proofs at once\n\nEach proof comes from a new address on a connection of its own, 8 at a time.\n\n| | proofs | list holds | answered after | proofs/s |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut row = |who: &str, count: usize, most: &str, took: Duration| {
        let rate = count as f64 / took.as_secs_f64();
        let _ = writeln!(out, "| {who} | {count} | {most} | {:.2} s | {rate:.0} |", took.as_secs_f64());
        eprintln!("  {who} {count} {most}: {took:?}");
        rate
    };
    let flags = |most: usize| vec!["--max".to_string(), most.to_string()];
    let many = if o.quick { 1_000 } else { BURST };
    {
        let g = Gate::start(&o.bin, 0, &flags(1_000_000), None)?;
        let began = Instant::now();
        let took = load::block(world::proofs(g.mirror, many, 8))??;
        let path = g.dir.path().join("dynamic-whitelist.yml");
        let last = format!("\"{}\"", entry(1_000_000 + many - 1));
        while !std::fs::read_to_string(&path)?.contains(&last) {
            if began.elapsed() > Duration::from_secs(30) {
                bail!("the burst does not arrive in Traefik's file");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        row("portcullis", many, "all", took);
        notes.push(format!(
            "The whole burst of {many} is in Traefik's file {:.2} s after its first proof.",
            began.elapsed().as_secs_f64()
        ));
    }
    for (count, most) in [(if o.quick { 100 } else { 1_000 }, 10), (if o.quick { 50 } else { 500 }, 500)] {
        let g = Gate::start(&o.bin, 0, &flags(most), None)?;
        let ours = row("portcullis", count, &most.to_string(), load::block(world::proofs(g.mirror, count, 8))??);
        let dir = Dir::new("bench-flask");
        match world::flask(&dir, most) {
            Ok((_p, at)) => {
                // The worker is there when it has answered once.
                load::block(world::proofs(at, 1, 1))??;
                let theirs =
                    row("Flask, one worker", count, &most.to_string(), load::block(world::proofs(at, count, 8))??);
                notes.push(format!("With a list of {most}, portcullis takes {:.1} times as many proofs a second as the Flask service; it has each of them on the disk before it answers, the service keeps its list in memory.", ours / theirs));
            }
            Err(e) => notes.push(format!("Flask is left out: {e:#}")),
        }
    }
    out.push('\n');
    Ok(out)
}

/// A long list: start and memory.
fn start(o: &Options, _: &mut Vec<String>) -> Result<String> {
    let mut out =
        format!("## {LONG} grants\n\n| | start to the first verdict, ms | memory, MiB |\n| --- | ---: | ---: |\n");
    let mut rows = Vec::new();
    for n in [0, LONG] {
        let mut g = Gate::start(&o.bin, n, &[], None)?;
        let mut times = Vec::new();
        for _ in 0..if o.quick { 1 } else { 5 } {
            g.process.terminate();
            g.process.wait(Duration::from_secs(20)).map_err(anyhow::Error::msg)?;
            let Gate { dir, .. } = g;
            g = Gate::again(&o.bin, dir, &[], None)?;
            times.push(g.started.as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        std::thread::sleep(Duration::from_secs(1));
        rows.push((n, at(&times, 0.5), g.process.rss_kib() as f64 / 1024.0));
    }
    for (n, ms, mib) in rows {
        let _ = writeln!(out, "| {n} grants in the store | {ms:.0} | {mib:.1} |");
    }
    let _ = writeln!(out, "\nThe list is `{LIST}`, with Traefik's file and the check endpoint.\n");
    Ok(out)
}

fn at(sorted: &[f64], q: f64) -> f64 {
    sorted.get(((sorted.len().saturating_sub(1)) as f64 * q) as usize).copied().unwrap_or(f64::NAN)
}

fn options(args: &[String]) -> Result<Options> {
    let (mut quick, mut parts, mut bin) = (false, Vec::new(), None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("`{arg}` needs a value\n{USAGE}"));
        match arg.as_str() {
            "--setup" => crate::setup::flask(),
            "--quick" => quick = true,
            "--part" => parts = value()?.split(',').map(str::to_string).collect(),
            "--bin" => bin = Some(std::fs::canonicalize(Path::new(value()?))?),
            other => bail!("unknown argument `{other}`\n{USAGE}"),
        }
    }
    if let Some(bad) = parts.iter().find(|p| !["event", "check", "burst", "start"].contains(&p.as_str())) {
        bail!("there is no part `{bad}`\n{USAGE}");
    }
    let bin = match bin {
        Some(b) => b,
        None => super::tunnel::build()?,
    };
    Ok(Options { quick, parts, bin })
}
