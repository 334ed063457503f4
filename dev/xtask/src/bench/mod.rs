//! `cargo xtask bench NAME`: figures beside a peer's in the same run. In: a name and flags. Out: a table in Markdown.

use anyhow::{Result, bail};

mod admit;
mod control;
mod control_servers;
mod figures;
mod gate;
mod gate_world;
mod link;
mod load;
mod pairs;
mod policy;
mod tunnel;
mod tunnel_table;

/// A benchmark: its name, what it measures, how it is run.
type Bench = (&'static str, &'static str, fn(&[String]) -> Result<()>);

/// Every benchmark that is built in.
const BENCHES: &[Bench] = &[
    ("admit", "nanoseconds of one decision, milliseconds to build a list", admit::run),
    ("tunnel", "throughput, CPU, requests, connections and memory beside rathole, bore, frp and chisel", tunnel::run),
    (
        "control",
        "registrations, policy changes, memory of map streams and the relay, beside headscale and derper",
        control::run,
    ),
    (
        "gate",
        "from event to enforced, checks behind real proxies, bursts, long lists, beside a Flask service",
        gate::run,
    ),
    ("policy", "a policy for 10,000 nodes, and packets under 10,000 rules", policy::run),
];

/// Runs one benchmark, or lists them.
///
/// # Errors
/// An unknown name, or what the benchmark says.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let list = || BENCHES.iter().map(|(n, what, _)| format!("  {n:<8} {what}")).collect::<Vec<_>>().join("\n");
    let Some((name, rest)) = args.split_first() else {
        println!("cargo xtask bench NAME, where NAME is one of\n{}", list());
        return Ok(());
    };
    match BENCHES.iter().find(|(n, _, _)| n == name) {
        Some((_, _, run)) => run(rest),
        None => bail!("there is no benchmark `{name}`; there are\n{}", list()),
    }
}

/// The machine that figures come from, in one sentence.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name));
        line.map(|l| l.trim_start_matches([' ', '\t', ':']).trim().to_string()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_string();
    format!(
        "Machine: {cores} cores ({}), {} GiB, Linux {}, load {load} at the end.",
        field(&read("/proc/cpuinfo"), "model name"),
        kib / (1 << 20),
        read("/proc/sys/kernel/osrelease").trim()
    )
}
