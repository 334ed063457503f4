//! The tunnel's figures as Markdown. In: figures. Out: goals with met or missed, then everything measured.

use std::fmt::Write;

use super::figures::{Figure as F, Figures, number};
use super::pairs::{ALL, BEFORE, Who};
use super::tunnel::Options;

/// A goal: what it says, what was reached, whether that is enough.
type Goal = (&'static str, &'static str, Option<(String, bool)>);

pub(crate) fn render(o: &Options, f: &Figures) -> String {
    let mut t = String::from("# The tunnel beside its peers\n\n");
    let _ = writeln!(t, "Made by `cargo xtask bench tunnel`. {}\n", super::machine());
    let _ = writeln!(
        t,
        "Medians of {} rounds, windows of {:.1} s, order of contestants turned round in every second round. Load and upstream share the\nmachine with both ends, so compare rows, not machines. CPU is user and system time of both ends. Bulk is the mean of down and up.\n",
        o.rounds,
        o.window.as_secs_f64()
    );
    goals(&mut t, f);
    everything(&mut t, f);
    lossy(&mut t, f);
    before(&mut t, f);
    if !f.notes.is_empty() {
        t.push_str("\nNot measured, or not to the end:\n\n");
        for n in &f.notes {
            let _ = writeln!(t, "- {n}");
        }
    }
    t
}

/// What a change cost, as ratios to the binary before it: above 1 is more.
fn before(t: &mut String, f: &Figures) {
    const ROWS: [(&str, F); 17] = [
        ("Gbit/s, 1 stream", F::Rate1),
        ("Gbit/s, 8 streams", F::Rate8),
        ("CPU per GiB, 1 stream", F::Cpu1),
        ("CPU per GiB, 8 streams", F::Cpu8),
        ("requests per second", F::Requests),
        ("p50 of requests", F::RequestP50),
        ("p99 of requests", F::RequestP99),
        ("CPU per request", F::RequestCpu),
        ("connections per second", F::Opens),
        ("p50 of connections", F::OpenP50),
        ("p99 of connections", F::OpenP99),
        ("CPU per connection", F::OpenCpu),
        ("idle memory, edge", F::IdleEdge),
        ("idle memory, client", F::IdleClient),
        ("memory per visitor at 1,000, edge", F::Held1kEdge),
        ("memory per visitor at 1,000, client", F::Held1kClient),
        ("memory per visitor at 10,000, edge", F::Held10kEdge),
    ];
    if !BEFORE.iter().any(|(_, before)| f.has(*before)) {
        return;
    }
    t.push_str("\nBeside the binary before the change, medians of the ratios within each round:\n\n");
    let _ = writeln!(t, "| | {} |", BEFORE.map(|(now, _)| now.name()).join(" | "));
    t.push_str("| --- | --- | --- | --- |\n");
    for (row, figure) in ROWS {
        let cells = BEFORE.map(|(now, before)| {
            f.ratio((now, figure), (before, figure)).map_or_else(|| "–".to_string(), |r| number(r, 3))
        });
        let _ = writeln!(t, "| {row} | {} |", cells.join(" | "));
    }
}

fn goals(t: &mut String, f: &Figures) {
    if ![Who::Plain, Who::Encrypted].iter().any(|w| f.has(*w)) {
        return;
    }
    t.push_str("| row | goal | reached | |\n| --- | --- | --- | --- |\n");
    for (row, goal, reached) in all_goals(f) {
        let (reached, word) = match &reached {
            Some((text, true)) => (text.as_str(), "met"),
            Some((text, false)) => (text.as_str(), "**missed**"),
            None => ("not measured", "–"),
        };
        let _ = writeln!(t, "| {row} | {goal} | {reached} | {word} |");
    }
    t.push('\n');
}

fn all_goals(f: &Figures) -> Vec<Goal> {
    let (plain, enc, http) = (Who::Plain, Who::Encrypted, Who::Http);
    let (rat, tls) = (Who::RatholePlain, Who::RatholeTls);
    let at_most =
        |a: (Who, F), b: (Who, F), limit: f64| f.ratio(a, b).map(|r| (format!("{} ×", number(r, 2)), r <= limit));
    let at_least =
        |a: (Who, F), b: (Who, F), limit: f64| f.ratio(a, b).map(|r| (format!("{} ×", number(r, 2)), r >= limit));
    let below = |who, figure, limit: f64, unit: &str| {
        f.get(who, figure).map(|v| (format!("{} {unit}", number(v, 1)), v <= limit))
    };
    let opens_p99 = at_most((enc, F::OpenP99), (rat, F::OpenP99), 1.5);
    vec![
        ("CPU per GiB, plain, 1 stream", "≤ 0.65 × rathole", at_most((plain, F::Cpu1), (rat, F::Cpu1), 0.65)),
        ("CPU per GiB, plain, 8 streams", "≤ 0.65 × rathole", at_most((plain, F::Cpu8), (rat, F::Cpu8), 0.65)),
        ("CPU per GiB, encrypted, 1 stream", "≤ 1.0 × rathole plain", at_most((enc, F::Cpu1), (rat, F::Cpu1), 1.0)),
        ("CPU per GiB, encrypted, 8 streams", "≤ 1.0 × rathole plain", at_most((enc, F::Cpu8), (rat, F::Cpu8), 1.0)),
        ("CPU per GiB, encrypted, 1 stream", "≤ 0.5 × rathole-tls", at_most((enc, F::Cpu1), (tls, F::Cpu1), 0.5)),
        ("CPU per GiB, encrypted, 8 streams", "≤ 0.5 × rathole-tls", at_most((enc, F::Cpu8), (tls, F::Cpu8), 0.5)),
        ("throughput, plain, 1 stream", "≥ 1.3 × rathole", at_least((plain, F::Rate1), (rat, F::Rate1), 1.3)),
        ("throughput, plain, 8 streams", "≥ 1.3 × rathole", at_least((plain, F::Rate8), (rat, F::Rate8), 1.3)),
        ("throughput, encrypted, 1 stream", "≥ rathole plain", at_least((enc, F::Rate1), (rat, F::Rate1), 1.0)),
        ("throughput, encrypted, 8 streams", "≥ rathole plain", at_least((enc, F::Rate8), (rat, F::Rate8), 1.0)),
        ("8 streams against 1, plain", "≥ 1", at_least((plain, F::Rate8), (plain, F::Rate1), 1.0)),
        ("8 streams against 1, encrypted", "≥ 1", at_least((enc, F::Rate8), (enc, F::Rate1), 1.0)),
        ("requests per second, encrypted", "≥ rathole plain", at_least((enc, F::Requests), (rat, F::Requests), 1.0)),
        ("p99 of requests, encrypted", "≤ rathole plain", at_most((enc, F::RequestP99), (rat, F::RequestP99), 1.0)),
        (
            "requests per second, HTTP plane, encrypted",
            "≥ rathole plain",
            at_least((http, F::Requests), (rat, F::Requests), 1.0),
        ),
        (
            "p99 of requests, HTTP plane, encrypted",
            "≤ rathole plain",
            at_most((http, F::RequestP99), (rat, F::RequestP99), 1.0),
        ),
        ("new connections, encrypted", "≥ rathole plain", at_least((enc, F::Opens), (rat, F::Opens), 1.0)),
        ("new connections, encrypted", "≥ 10 × rathole-tls", at_least((enc, F::Opens), (tls, F::Opens), 10.0)),
        ("p99 of new connections, encrypted", "≤ 1.5 × rathole plain", opens_p99),
        ("memory, edge, idle, encrypted", "≤ 6 MiB", below(enc, F::IdleEdge, 6.0, "MiB")),
        ("memory, client, idle, encrypted", "≤ 6 MiB", below(enc, F::IdleClient, 6.0, "MiB")),
        ("edge, per idle visitor at 1,000", "≤ 8 KiB", below(enc, F::Held1kEdge, 8.0, "KiB")),
        ("client, per idle visitor at 1,000", "≤ 8 KiB", below(enc, F::Held1kClient, 8.0, "KiB")),
        ("edge, per idle visitor at 10,000", "≤ 8 KiB", below(enc, F::Held10kEdge, 8.0, "KiB")),
        ("client, per idle visitor at 10,000", "≤ 8 KiB", below(enc, F::Held10kClient, 8.0, "KiB")),
        (
            "fast visitor beside a lossy one, against alone",
            "≥ 0.95 (nothing measurable)",
            at_least((enc, F::FastBeside), (enc, F::FastAlone), 0.95),
        ),
        ("lossy link, 1 stream, encrypted", "≥ every peer", against_best(f, F::Lossy1)),
        ("lossy link, 8 streams, encrypted", "≥ every peer", against_best(f, F::Lossy8)),
    ]
}

/// Ours against the best peer's.
fn against_best(f: &Figures, figure: F) -> Option<(String, bool)> {
    let peers = [Who::RatholePlain, Who::RatholeTls, Who::RatholeNoise, Who::Bore, Who::Frp, Who::Chisel];
    let ours = f.get(Who::Encrypted, figure)?;
    let (best, name) =
        peers.iter().filter_map(|w| f.get(*w, figure).map(|v| (v, w.name()))).max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some((format!("{} × {name}, the best peer", number(ours / best, 2)), ours >= best))
}

fn everything(t: &mut String, f: &Figures) {
    t.push_str("| | Gbit/s 1 | 8 | CPU-s/GiB 1 | 8 | req/s c64 | p50 ms | p99 ms | CPU µs/req | conn/s c32 | p50 ms | p99 ms | CPU µs/conn | idle MiB edge / client | KiB/visitor at 1,000 | at 10,000 |\n");
    t.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for w in ALL.into_iter().filter(|w| f.has(*w)) {
        let c = |figure, decimals| f.cell(w, figure, decimals);
        let failed = f
            .get(w, F::OpenFailed)
            .filter(|n| *n > 0.0)
            .map(|n| format!(" ({} failed)", number(n, 0)))
            .unwrap_or_default();
        let two = |a, b| format!("{} / {}", c(a, 1), c(b, 1));
        let _ = writeln!(
            t,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {}{failed} | {} | {} | {} | {} | {} | {} |",
            w.name(),
            c(F::Rate1, 2),
            c(F::Rate8, 2),
            c(F::Cpu1, 2),
            c(F::Cpu8, 2),
            c(F::Requests, 0),
            c(F::RequestP50, 2),
            c(F::RequestP99, 2),
            c(F::RequestCpu, 1),
            c(F::Opens, 0),
            c(F::OpenP50, 1),
            c(F::OpenP99, 1),
            c(F::OpenCpu, 0),
            two(F::IdleEdge, F::IdleClient),
            two(F::Held1kEdge, F::Held1kClient),
            two(F::Held10kEdge, F::Held10kClient),
        );
    }
}

fn lossy(t: &mut String, f: &Figures) {
    if !ALL.iter().any(|w| f.get(*w, F::Lossy1).or(f.get(*w, F::FastAlone)).is_some()) {
        return;
    }
    let _ = writeln!(t, "\n{}\n", super::link::WORDS);
    t.push_str("| | 1 stream, lossy link between the ends, Mbit/s | 8 streams | fast visitor alone, Mbit/s | beside a lossy visitor | ratio |\n| --- | --- | --- | --- | --- | --- |\n");
    for w in ALL {
        if f.get(w, F::Lossy1).is_none() && f.get(w, F::FastAlone).is_none() {
            continue;
        }
        let c = |figure| f.cell(w, figure, 1);
        let ratio = f.ratio((w, F::FastBeside), (w, F::FastAlone)).map_or("–".to_string(), |r| number(r, 2));
        let _ = writeln!(
            t,
            "| {} | {} | {} | {} | {} | {ratio} |",
            w.name(),
            c(F::Lossy1),
            c(F::Lossy8),
            c(F::FastAlone),
            c(F::FastBeside)
        );
    }
}
