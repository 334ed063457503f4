//! Tunnels over a line with delay and loss. In: contestants. Out: what a lossy line leaves of the throughput, and
//! whether a visitor behind such a line costs a fast one anything. Needs root, `ip` and `/dev/net/tun`.
//!
//! Four namespaces: the edge; the client with the upstream; a fast visitor; a lossy visitor. The lossy lines are pairs
//! of TUN devices with `lossy_link.py` between them.

use std::ffi::OsStr;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use stage::Dir;
use stage::process::Process;

use super::figures::{Figure, Figures};
use super::load::{self, Upstream, Way};
use super::pairs::{Place, Who};
use super::tunnel::{Options, note};

/// What the lossy rows were measured over.
pub(crate) const WORDS: &str = "Lossy lines: 25 ms and 1 % loss each way, 100 Mbit/s, packets of 1,500 bytes, made by TUN devices between network namespaces. The\nsystem's congestion control is CUBIC, Linux' default, for everyone who does not choose another.";

/// The edge's address, on its loopback device, reached over every line.
const EDGE: [u8; 4] = [10, 77, 0, 1];

/// Linux' default congestion control, whatever this machine has chosen.
const CUBIC: &[&str] = &["congctl", "cubic"];

/// Seed of the losses: the same packets by number are lost for everyone.
const SEED: u32 = 20;

/// Rounds at most: each takes half a minute for each contestant.
const ROUNDS: usize = 3;

/// Measures every contestant; what cannot be is noted.
pub(crate) fn measure(o: &Options, who: &[Who], bin: Option<&Path>, f: &mut Figures) {
    for round in 0..o.rounds.min(ROUNDS) {
        for w in who.iter().filter(|w| **w != Who::Direct && !w.only_http()) {
            eprintln!("lossy round {}: {}", round + 1, w.name());
            let bin = if w.is_before() { o.before.as_deref() } else { bin };
            if let Err(e) = Net::lay().and_then(|net| one(o, *w, round, bin, &net, f)) {
                note(f, *w, &e.context("over a lossy line"));
            }
        }
    }
}

/// `--agent-…`: this program inside a namespace; `None` if these are ordinary arguments.
pub(crate) fn agent(args: &[String]) -> Option<Result<()>> {
    match args {
        [a, addr] if a == "--agent-upstream" => Some(upstream_agent(addr)),
        [a, addr, streams, seconds] if a == "--agent-visitor" => Some(visitor_agent(addr, streams, seconds)),
        _ => None,
    }
}

/// The load's upstream as a process of its own, perhaps inside a namespace; returns when it serves.
pub(crate) fn upstream(program: &OsStr, prefix: &[&str], addr: SocketAddr) -> Result<Process> {
    let mut command = Command::new(program);
    command.args(prefix).args(["bench", "tunnel", "--agent-upstream", &addr.to_string()]);
    let mut process = Process::start("upstream", command);
    process.line(stage::START, |l| l.contains("ready").then_some(())).map_err(anyhow::Error::msg)?;
    Ok(process)
}

fn own_path() -> String {
    std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned()
}

fn upstream_agent(addr: &str) -> Result<()> {
    Upstream::start(addr.parse()?)?;
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// Downloads and prints bytes and seconds.
fn visitor_agent(addr: &str, streams: &str, seconds: &str) -> Result<()> {
    let (addr, streams): (SocketAddr, usize) = (addr.parse()?, streams.parse()?);
    let window = Duration::from_secs_f64(seconds.parse()?);
    let dummy = Upstream::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    // The ends may still be connecting.
    stage::eventually(Duration::from_secs(20), || load::block(load::hold(addr, 1)).and_then(|r| r.map(drop)))?;
    let (bytes, took, _) = load::block(load::bulk(addr, &dummy, Way::Down, streams, window, || Duration::ZERO))??;
    println!("bytes {bytes} seconds {}", took.as_secs_f64());
    Ok(())
}

fn one(o: &Options, who: Who, round: usize, bin: Option<&Path>, net: &Net, f: &mut Figures) -> Result<()> {
    let window = o.window * 3;
    let upstream = SocketAddr::from(([127, 0, 0, 1], stage::ports::free()));
    let _up = self::upstream("ip".as_ref(), &["netns", "exec", &net.client, &own_path()], upstream)?;
    let at = IpAddr::from(EDGE);
    let place = Place { edge: exec(&net.edge), client: exec(&net.client), at, visit: at };

    net.client_line(false)?;
    let pair = who.start(upstream, &place, bin)?;
    let alone = net.visit(&net.fast, pair.visit, 1, window)?;
    let slow = net.own(
        &net.slow,
        &["--agent-visitor", &pair.visit.to_string(), "4", &(window.as_secs_f64() * 3.0 + 3.0).to_string()],
    );
    // The lossy visitor's downloads are under way.
    std::thread::sleep(Duration::from_secs(2));
    let beside = net.visit(&net.fast, pair.visit, 1, window)?;
    drop(slow);
    drop(pair);
    f.put(who, Figure::FastAlone, round, alone);
    f.put(who, Figure::FastBeside, round, beside);

    net.client_line(true)?;
    let pair = who.start(upstream, &place, bin)?;
    let one = net.visit(&net.fast, pair.visit, 1, window)?;
    f.put(who, Figure::Lossy1, round, one);
    let eight = net.visit(&net.fast, pair.visit, 8, window)?;
    f.put(who, Figure::Lossy8, round, eight);
    Ok(())
}

/// The namespaces and lines of one measurement; gone with it.
struct Net {
    edge: String,
    client: String,
    fast: String,
    slow: String,
    _lines: Vec<Process>,
    _dir: Dir,
}

impl Net {
    fn lay() -> Result<Net> {
        if !rustix::process::geteuid().is_root() {
            bail!("namespaces need root");
        }
        let dir = Dir::new("link");
        let script = dir.write("lossy_link.py", include_str!("lossy_link.py"));
        let name = |role: &str| format!("pb{}{role}", std::process::id());
        let mut net =
            Net { edge: name("e"), client: name("c"), fast: name("f"), slow: name("s"), _lines: vec![], _dir: dir };
        for ns in [&net.edge, &net.client, &net.fast, &net.slow] {
            ip(&["netns", "add", ns])?;
            ip(&["-n", ns, "link", "set", "lo", "up"])?;
        }
        ip(&["-n", &net.edge, "addr", "add", "10.77.0.1/32", "dev", "lo"])?;
        // Two fast lines and two lossy ones, each a subnet of its own: .1 is the far end, .2 the edge.
        for (i, far) in [(1, &net.fast), (2, &net.client)] {
            ip(&[
                "-n",
                far,
                "link",
                "add",
                "fast0",
                "type",
                "veth",
                "peer",
                "name",
                &format!("fast{i}"),
                "netns",
                &net.edge,
            ])?;
            address(far, "fast0", i, 1)?;
            address(&net.edge, &format!("fast{i}"), i, 2)?;
        }
        for (i, far) in [(3, &net.slow), (4, &net.client)] {
            // Device names are short, and unique on the machine until they are moved.
            let (a, b) = (format!("pa{i}{}", std::process::id()), format!("pb{i}{}", std::process::id()));
            let mut command = Command::new("python3");
            command.arg(&script).args([&a, &b, "25", "1", "100", &(SEED + i).to_string()]);
            let mut line = Process::start("lossy line", command);
            line.line(stage::START, |l| l.contains("ready").then_some(())).map_err(anyhow::Error::msg)?;
            net._lines.push(line);
            for (device, ns, end) in [(&a, far, 1), (&b, &net.edge, 2)] {
                ip(&["link", "set", device, "netns", ns])?;
                address(ns, device, i, end)?;
            }
        }
        for (ns, via) in [(&net.fast, "10.77.1.2"), (&net.slow, "10.77.3.2")] {
            ip(&[&["-n", ns, "route", "add", "10.77.0.1/32", "via", via], CUBIC].concat())?;
        }
        Ok(net)
    }

    /// Over which line the client reaches the edge.
    fn client_line(&self, lossy: bool) -> Result<()> {
        let via = if lossy { "10.77.4.2" } else { "10.77.2.2" };
        ip(&[&["-n", &self.client, "route", "replace", "10.77.0.1/32", "via", via], CUBIC].concat())
    }

    /// This program in a namespace.
    fn own(&self, ns: &str, args: &[&str]) -> Process {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", ns, &own_path(), "bench", "tunnel"]).args(args);
        Process::start(ns, command)
    }

    /// Downloads as a visitor; Mbit/s.
    fn visit(&self, ns: &str, addr: SocketAddr, streams: usize, window: Duration) -> Result<f64> {
        let mut visitor = self
            .own(ns, &["--agent-visitor", &addr.to_string(), &streams.to_string(), &window.as_secs_f64().to_string()]);
        let words = visitor
            .line(window + Duration::from_secs(60), |l| l.starts_with("bytes ").then(|| l.to_string()))
            .map_err(anyhow::Error::msg)?;
        let numbers: Vec<f64> = words.split_whitespace().filter_map(|w| w.parse().ok()).collect();
        let [bytes, seconds] = numbers[..] else { bail!("the visitor printed {words}") };
        Ok(bytes * 8.0 / 1e6 / seconds)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self._lines.clear();
        for ns in [&self.edge, &self.client, &self.fast, &self.slow] {
            let _ = ip(&["netns", "del", ns]);
        }
    }
}

fn exec(ns: &str) -> Vec<String> {
    ["ip", "netns", "exec", ns].map(str::to_string).to_vec()
}

fn address(ns: &str, device: &str, subnet: u32, end: u8) -> Result<()> {
    ip(&["-n", ns, "addr", "add", &format!("10.77.{subnet}.{end}/24"), "dev", device])?;
    ip(&["-n", ns, "link", "set", device, "up"])?;
    let (net, own) = (format!("10.77.{subnet}.0/24"), format!("10.77.{subnet}.{end}"));
    ip(&[&["-n", ns, "route", "replace", &net, "dev", device, "src", &own], CUBIC].concat())
}

fn ip(args: &[&str]) -> Result<()> {
    let out = Command::new("ip").args(args).output().context("cannot run `ip`")?;
    if !out.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
