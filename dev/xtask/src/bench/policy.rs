//! How long a policy takes: 10,000 nodes and 5,000 rules compiled for every node, one node told again, and packets
//! judged under 10,000 rules. In: flags. Out: a table with what is asked for beside what was measured.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::{Addr, Prefix};
use anyhow::{Result, bail};
use policy::{Compiled, Node, Policy, Topology, User};
use sim::filter::{Packet, PacketFilter, PacketKind};
use tailnet_proto::tailcfg::{FilterRule, NetPortRange, PortRange};

const NODES: usize = 10_000;
const RULES: usize = 5_000;
const FILTER_RULES: usize = 10_000;

/// Measures and prints; fails if something takes longer than it may.
///
/// # Errors
/// A limit was passed, or a flag is not known.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let rounds = match args {
        [] => 5,
        [flag] if flag == "--quick" => 1,
        _ => bail!("usage: cargo xtask bench policy [--quick]"),
    };
    if cfg!(debug_assertions) {
        println!(
            "built without optimisation: figures are several times too high; use cargo run --release -p xtask -- bench policy"
        );
    }
    let topology = Arc::new(topology());
    let text = policy();
    let policy =
        Arc::new(Policy::parse(&text).map_err(|p| anyhow::anyhow!("the policy of this bench is wrong: {p:?}"))?);
    let mut best = Figures::none();
    for _ in 0..rounds {
        best.keep(&measure(&text, &policy, &topology));
    }
    let packet = packets();
    println!("| {NODES} nodes, {RULES} rules, one core | measured | asked for |");
    println!("| --- | --- | --- |");
    println!("| read and check the document ({} KiB) | {:.1} ms | |", text.len() / 1024, ms(best.parse));
    println!("| resolve names and rules | {:.1} ms | |", ms(best.resolve));
    println!("| everything for every node | {:.0} ms | under 1000 ms |", ms(best.resolve + best.all));
    for (what, took) in CHANGES.iter().zip(best.told) {
        println!("| one node changed and told again: {what} | {:.1} ms | under 10 ms |", ms(took));
    }
    println!("| one packet under {FILTER_RULES} rules | {packet:.0} ns | under 100 ns |");
    let slow = |told: Duration| told > Duration::from_millis(10);
    let late = best.resolve + best.all > Duration::from_secs(1) || best.told.into_iter().any(slow) || packet > 100.0;
    if late && !cfg!(debug_assertions) {
        bail!("slower than asked for");
    }
    Ok(())
}

struct Figures {
    parse: Duration,
    resolve: Duration,
    all: Duration,
    /// One node changed and told again, by kind of change.
    told: [Duration; 5],
}

/// The kinds of change, in the order of [`Figures::told`].
const CHANGES: [&str; 5] =
    ["other tags", "a user's device becomes a server", "a router goes away", "a router gets a route", "a node is new"];

impl Figures {
    fn none() -> Figures {
        Figures { parse: Duration::MAX, resolve: Duration::MAX, all: Duration::MAX, told: [Duration::MAX; 5] }
    }

    /// Keeps the lowest of each: what the machine's other work adds is no property of the code.
    fn keep(&mut self, other: &Figures) {
        self.parse = self.parse.min(other.parse);
        self.resolve = self.resolve.min(other.resolve);
        self.all = self.all.min(other.all);
        for (mine, theirs) in self.told.iter_mut().zip(other.told) {
            *mine = theirs.min(*mine);
        }
    }
}

fn measure(text: &str, policy: &Arc<Policy>, topology: &Arc<Topology>) -> Figures {
    let t = Instant::now();
    let read = Policy::parse(text).is_ok();
    let parse = t.elapsed();
    let t = Instant::now();
    let compiled = Compiled::new(Arc::clone(policy), Arc::clone(topology));
    let resolve = t.elapsed();
    let t = Instant::now();
    let (mut rules, mut peers) = (0, 0);
    for view in compiled.for_all() {
        rules += view.filter.len();
        peers += view.peers.len();
    }
    let all = t.elapsed();
    assert!(read && rules > 0 && peers > 0, "the bench measured nothing");
    // A node with other tags, a user's node that becomes a server, a router with one more route, a node that is new.
    let node = |i: usize| topology.nodes.get(i).map(|n| Node::clone(n)).unwrap_or_default();
    let tags = vec!["tag:t7".to_string(), "tag:t11".to_string()];
    let mut routed = node(33);
    routed.routable.extend(Prefix::new(Addr::new(std::net::Ipv4Addr::new(10, 200, 0, 0).into()), 24));
    routed.approved = routed.routable.clone();
    let new = Node { name: "n05000b".into(), ipv4: None, ipv6: None, ..node(NODES / 2) };
    let changes = [
        Node { tags: tags.clone(), ..node(NODES / 2) },
        Node { tags, ..node(NODES / 2 + 1) },
        Node { online: false, ..node(66) },
        routed,
        new,
    ];
    let told = changes.map(|n| {
        let name = n.name.clone();
        let t = Instant::now();
        let compiled = compiled.with_node(n);
        let view = compiled.topology().node(&name).and_then(|place| compiled.for_node(place));
        let took = t.elapsed();
        assert!(view.is_some_and(|v| !v.peers.is_empty()) || name == "n05000b", "the changed node was told nothing");
        took
    });
    Figures { parse, resolve, all, told }
}

/// A company: users with devices, servers under 200 tags, 300 routers.
fn topology() -> Topology {
    let users: Vec<User> = (0..2000)
        .map(|i| User { id: i + 1, name: format!("u{i}"), email: format!("u{i}@example.com"), role: None })
        .collect();
    let mut nodes: Vec<Arc<Node>> = (0..NODES)
        .map(|i| {
            let tagged = i % 2 == 0;
            let n = i as u32;
            let mut node = Node {
                name: format!("n{i:05}"),
                user: (!tagged).then_some(i % 2000),
                tags: if tagged { vec![format!("tag:t{}", i / 2 % 200)] } else { Vec::new() },
                ipv4: Some(Addr::new(std::net::Ipv4Addr::from(0x6440_0000 + n).into())),
                ipv6: Some(Addr::new(
                    std::net::Ipv6Addr::from(0xfd7a_115c_a1e0_0000_0000_0000_0000_0000 + u128::from(n)).into(),
                )),
                online: true,
                ..Node::default()
            };
            if i % 33 == 0 {
                let route = Prefix::new(Addr::new(std::net::Ipv4Addr::from(0x0a00_0000 + (n / 33) * 256).into()), 24);
                node.routable.extend(route);
                node.approved.extend(route);
            }
            Arc::new(node)
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Topology { users: Arc::new(users), nodes, ..Topology::default() }
}

/// 5,000 rules of the kinds that people write: groups to tags, tags to tags, members to subnets, sets, capabilities.
fn policy() -> String {
    let mut out = String::from("{\n\"groups\": {\n");
    for g in 0..100 {
        let members: Vec<String> = (0..20).map(|m| format!("\"u{}@example.com\"", (g * 20 + m) % 2000)).collect();
        let _ = writeln!(out, "  \"group:g{g}\": [{}],", members.join(", "));
    }
    out += "},\n\"tagOwners\": {\n";
    for t in 0..200 {
        let _ = writeln!(out, "  \"tag:t{t}\": [\"autogroup:admin\"],");
    }
    out += "},\n\"ipsets\": {\n";
    for s in 0..50 {
        let _ = writeln!(out, "  \"ipset:s{s}\": [\"add 10.0.{s}.0/24\", \"remove 10.0.{s}.128-10.0.{s}.200\"],");
    }
    out += "},\n\"grants\": [\n";
    for r in 0..RULES {
        let line = match r % 10 {
            0..=3 => format!(
                "{{\"src\": [\"group:g{}\"], \"dst\": [\"tag:t{}\"], \"ip\": [\"tcp:{}\"]}}",
                r % 100,
                r % 200,
                1000 + r
            ),
            4 | 5 => format!(
                "{{\"src\": [\"tag:t{}\"], \"dst\": [\"tag:t{}\"], \"ip\": [\"443\", \"udp:{}\"]}}",
                r % 200,
                (r * 7) % 200,
                1000 + r
            ),
            6 => format!(
                "{{\"src\": [\"autogroup:member\"], \"dst\": [\"10.0.{}.0/25\"], \"ip\": [\"tcp:{}\"]}}",
                r % 250,
                1000 + r
            ),
            7 => format!(
                "{{\"src\": [\"group:g{}\", \"u{}@example.com\"], \"dst\": [\"ipset:s{}\"], \"ip\": [\"*\"]}}",
                r % 100,
                r % 2000,
                r % 50
            ),
            8 => format!(
                "{{\"src\": [\"u{}@example.com\"], \"dst\": [\"tag:t{}\", \"autogroup:self\"], \"ip\": [\"22\"]}}",
                r % 2000,
                r % 200
            ),
            _ => format!(
                "{{\"src\": [\"group:g{}\"], \"dst\": [\"tag:t{}\"], \"app\": {{\"example.com/cap/c{r}\": [{{\"role\": \"user\"}}]}}}}",
                r % 100,
                r % 200
            ),
        };
        let _ = writeln!(out, "  {line},");
    }
    out += "],\n}\n";
    out
}

/// Nanoseconds for one packet, half of them let in, spread over rules, sources and ports.
fn packets() -> f64 {
    let own = |i: u32| Addr::new(std::net::Ipv4Addr::from(i).into());
    let rules: Vec<FilterRule> = (0..FILTER_RULES as u32)
        .map(|i| FilterRule {
            src_ips: vec![own(0x6440_0000 + i * 3).to_string(), format!("10.{}.{}.0/24", i / 256 % 256, i % 256)],
            dst_ports: vec![
                NetPortRange {
                    ip: "100.100.0.1".into(),
                    ports: PortRange { first: (i % 60_000) as u16 + 1, last: (i % 60_000) as u16 + 3 },
                },
                NetPortRange { ip: format!("192.168.{}.0/24", i % 256), ports: PortRange { first: 443, last: 443 } },
            ],
            ip_proto: if i % 2 == 0 { vec![6] } else { Vec::new() },
            cap_grant: Vec::new(),
        })
        .collect();
    let local = ["100.100.0.1/32", "192.168.0.0/16"].iter().filter_map(|p| p.parse::<Prefix>().ok());
    let filter = PacketFilter::new(&rules, local);
    let packets: Vec<Packet> = (0..20_000u32)
        .map(|i| {
            let rule = i.wrapping_mul(2_654_435_761) % FILTER_RULES as u32;
            let hit = i % 2 == 0;
            Packet {
                src: own(0x6440_0000 + rule * 3),
                dst: if i % 3 == 0 { own(0xc0a8_0001 + (rule % 256) * 256) } else { own(0x6464_0001) },
                proto: 6,
                src_port: 40_000,
                dst_port: if i % 3 == 0 {
                    if hit { 443 } else { 444 }
                } else {
                    (rule % 60_000) as u16 + if hit { 2 } else { 9 }
                },
                kind: PacketKind::TcpSyn,
            }
        })
        .collect();
    let mut best = f64::MAX;
    for _ in 0..20 {
        let t = Instant::now();
        let passed = packets.iter().filter(|p| filter.incoming(std::hint::black_box(p)).passes()).count();
        let each = t.elapsed().as_nanos() as f64 / packets.len() as f64;
        assert!(
            passed > packets.len() / 3 && passed < packets.len() * 2 / 3,
            "the bench's packets are wrong: {passed} pass"
        );
        best = best.min(each);
    }
    best
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}
