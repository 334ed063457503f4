//! Policies made at random, against an oracle that asks rule by rule whether a packet may pass. The oracle reads the
//! same JSON with `std::net` alone and shares nothing with what it checks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::net::IpAddr;
use std::sync::Arc;

use policy::{Compiled, Policy, Ranges, Topology, diff, format};
use proptest::prelude::*;
use serde_json::{Value, json};
use sim::filter::{Packet, PacketFilter, PacketKind};

/// A node: name, owner, or tags, address, routes.
type NodeRow = (&'static str, Option<&'static str>, &'static [&'static str], &'static str, &'static [&'static str]);

/// Nodes of the little network.
const NODES: [NodeRow; 6] = [
    ("ada1", Some("ada"), &[], "100.64.0.1", &[]),
    ("ada2", Some("ada"), &[], "100.64.0.2", &[]),
    ("ben1", Some("ben"), &[], "100.64.0.3", &[]),
    ("web1", None, &["tag:web"], "100.64.0.10", &[]),
    ("both", None, &["tag:web", "tag:db"], "100.64.0.11", &[]),
    ("rout", None, &["tag:rt"], "100.64.0.20", &["10.1.0.0/16"]),
];

const SRC: [&str; 12] = [
    "*",
    "ada@example.com",
    "ben@example.com",
    "group:eng",
    "group:none",
    "tag:web",
    "tag:rt",
    "autogroup:member",
    "autogroup:tagged",
    "100.64.0.0/29",
    "10.1.2.0/24",
    "ipset:mix",
];

const DST: [&str; 11] = [
    "*",
    "ada@example.com",
    "group:eng",
    "tag:web",
    "tag:db",
    "autogroup:member",
    "autogroup:self",
    "10.1.0.0/24",
    "10.0.0.0/8",
    "100.64.0.10",
    "ipset:mix",
];

const PORTS: [&str; 4] = ["*", "22", "80,443", "1000-2000"];

#[derive(Debug, Clone)]
struct Rule {
    src: Vec<&'static str>,
    dst: Vec<&'static str>,
    ports: &'static str,
    proto: &'static str,
}

fn rule() -> impl Strategy<Value = Rule> {
    let names = |from: &'static [&'static str]| proptest::sample::subsequence(from.to_vec(), 1..4);
    (names(&SRC), names(&DST), 0..PORTS.len(), 0..3usize).prop_map(|(src, dst, ports, proto)| Rule {
        src,
        dst,
        ports: PORTS[ports],
        proto: ["", "tcp", "udp"][proto],
    })
}

/// `autogroup:self` takes users only, and no `*` in grants: rules that would be refused are made acceptable.
fn tidy(mut r: Rule) -> Rule {
    let users = ["ada@example.com", "ben@example.com", "group:eng", "group:none", "autogroup:member"];
    if r.dst.contains(&"autogroup:self") && !r.src.iter().all(|s| users.contains(s)) {
        r.dst.retain(|d| *d != "autogroup:self");
    }
    r
}

fn document(rules: &[Rule], as_acls: bool) -> Value {
    let rules: Vec<Value> = rules
        .iter()
        .map(|r| {
            if as_acls {
                let dst: Vec<String> = r.dst.iter().map(|d| format!("{d}:{}", r.ports)).collect();
                json!({ "action": "accept", "src": r.src, "dst": dst, "proto": r.proto })
            } else {
                let net = if r.proto.is_empty() { r.ports.to_string() } else { format!("{}:{}", r.proto, r.ports) };
                json!({ "src": r.src, "dst": r.dst, "ip": [net] })
            }
        })
        .collect();
    json!({
        "groups": { "group:eng": ["ada@example.com", "nobody@example.com"], "group:none": [] },
        "tagOwners": { "tag:web": [], "tag:db": [], "tag:rt": [] },
        "ipsets": { "ipset:mix": ["add 100.64.0.2-100.64.0.10", "remove 100.64.0.3", "add 10.1.5.0/24"] },
        if as_acls { "acls" } else { "grants" }: rules,
    })
}

fn topology() -> Topology {
    let nodes: serde_json::Map<String, Value> = NODES
        .iter()
        .map(|(name, user, tags, ip, routes)| {
            (
                name.to_string(),
                json!({ "user": user, "tags": tags, "ipv4": ip, "routable_ips": routes, "approved_routes": routes }),
            )
        })
        .collect();
    let users = json!([
        { "id": 1, "name": "ada", "email": "ada@example.com" },
        { "id": 2, "name": "ben", "email": "ben@example.com" },
    ]);
    Topology::read(&json!({ "users": users, "nodes": nodes }).to_string()).unwrap()
}

/// Does this name mean this address? `asking` is the source, for `autogroup:self`.
fn means(name: &str, ip: u32, asking: u32) -> bool {
    let of =
        |f: &dyn Fn(Option<&str>, &[&str]) -> bool| NODES.iter().any(|(_, u, t, a, _)| number(a) == ip && f(*u, t));
    let owner = |ip: u32| NODES.iter().find(|n| number(n.3) == ip).and_then(|n| n.1);
    let within = |net: &str, len: u32| ip >> (32 - len) == number(net) >> (32 - len);
    match name {
        "*" => within("100.64.0.0", 10) || within("10.1.0.0", 16),
        "ada@example.com" | "group:eng" => of(&|u, _| u == Some("ada")),
        "ben@example.com" => of(&|u, _| u == Some("ben")),
        "group:none" => false,
        "autogroup:member" => of(&|u, _| u.is_some()),
        "autogroup:tagged" => of(&|_, t| !t.is_empty()),
        "autogroup:self" => owner(ip).is_some() && owner(ip) == owner(asking),
        "100.64.0.0/29" => within("100.64.0.0", 29),
        "10.1.2.0/24" => within("10.1.2.0", 24),
        "10.1.0.0/24" => within("10.1.0.0", 24),
        "10.0.0.0/8" => within("10.0.0.0", 8),
        "100.64.0.10" => ip == number("100.64.0.10"),
        "ipset:mix" => {
            let range = (number("100.64.0.2")..=number("100.64.0.10")).contains(&ip) && ip != number("100.64.0.3");
            range || within("10.1.5.0", 24)
        }
        tag => of(&|_, t| t.contains(&tag)),
    }
}

fn number(ip: &str) -> u32 {
    u32::from(ip.parse::<std::net::Ipv4Addr>().unwrap())
}

fn oracle(rules: &[Rule], src: u32, dst: u32, port: u16, proto: u8) -> bool {
    rules.iter().any(|r| {
        let proto_ok = match r.proto {
            "tcp" => proto == 6,
            "udp" => proto == 17,
            _ => true,
        };
        let port_ok = match r.ports {
            "22" => port == 22,
            "80,443" => port == 80 || port == 443,
            "1000-2000" => (1000..=2000).contains(&port),
            _ => true,
        };
        // As a destination `*` is everything that the node answers for.
        let dst_ok = r.dst.iter().any(|d| *d == "*" || means(d, dst, src));
        // A source of `autogroup:self` is a device of somebody whom the rule names.
        proto_ok && port_ok && dst_ok && r.src.iter().any(|s| means(s, src, src))
    })
}

const SOURCES: [&str; 10] = [
    "100.64.0.1",
    "100.64.0.2",
    "100.64.0.3",
    "100.64.0.10",
    "100.64.0.11",
    "100.64.0.20",
    "10.1.2.3",
    "10.1.5.9",
    "10.9.9.9",
    "8.8.8.8",
];
const PLACES: [(usize, &str); 8] = [
    (0, "100.64.0.1"),
    (1, "100.64.0.2"),
    (2, "100.64.0.3"),
    (3, "100.64.0.10"),
    (4, "100.64.0.11"),
    (5, "100.64.0.20"),
    (5, "10.1.0.7"),
    (5, "10.1.5.5"),
];
const TRIES: [u16; 5] = [22, 80, 443, 1500, 9999];

fn filters(policy: Policy, topology: Topology) -> Vec<PacketFilter> {
    let compiled = Compiled::new(policy.into(), topology.into());
    let by_name = |name: &str| compiled.topology().node(name).unwrap();
    NODES
        .iter()
        .map(|n| {
            let node = by_name(n.0);
            let view = compiled.for_node(node).unwrap();
            let rules: Vec<_> = view.filter.iter().map(|f| compiled.to_wire(f)).collect();
            PacketFilter::new(&rules, compiled.own_allowed_ips(node))
        })
        .collect()
}

fn passes(filter: &PacketFilter, src: &str, dst: &str, port: u16, proto: u8) -> bool {
    let addr = |t: &str| addr::Addr::new(t.parse::<IpAddr>().unwrap());
    let kind = if proto == 6 { PacketKind::TcpSyn } else { PacketKind::Plain };
    filter.incoming(&Packet { src: addr(src), dst: addr(dst), proto, src_port: 4000, dst_port: port, kind }).passes()
}

fn every_packet(mut look: impl FnMut(&str, usize, &str, u16, u8)) {
    for src in SOURCES {
        for (node, dst) in PLACES {
            for port in TRIES {
                for proto in [6, 17] {
                    look(src, node, dst, port, proto);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn compiled_filters_say_what_the_rules_say(rules in prop::collection::vec(rule().prop_map(tidy), 0..6), as_acls in any::<bool>()) {
        let rules: Vec<Rule> = rules.into_iter().filter(|r| !r.dst.is_empty()).collect();
        let policy = Policy::parse(&document(&rules, as_acls).to_string()).unwrap();
        let filters = filters(policy, topology());
        every_packet(|src, node, dst, port, proto| {
            let want = oracle(&rules, number(src), number(dst), port, proto);
            assert_eq!(passes(&filters[node], src, dst, port, proto), want, "{src} -> {dst}:{port}/{proto} under {rules:?}");
        });
    }

    #[test]
    fn one_more_grant_takes_nothing_away(rules in prop::collection::vec(rule().prop_map(tidy), 0..4), more in rule().prop_map(tidy)) {
        let mut rules: Vec<Rule> = rules.into_iter().filter(|r| !r.dst.is_empty()).collect();
        let before = filters(Policy::parse(&document(&rules, false).to_string()).unwrap(), topology());
        if !more.dst.is_empty() {
            rules.push(more);
        }
        let after = filters(Policy::parse(&document(&rules, false).to_string()).unwrap(), topology());
        every_packet(|src, node, dst, port, proto| {
            if passes(&before[node], src, dst, port, proto) {
                assert!(passes(&after[node], src, dst, port, proto), "{src} -> {dst}:{port}/{proto} was lost under {rules:?}");
            }
        });
    }

    #[test]
    fn asked_one_by_one_or_all_at_once_is_the_same(rules in prop::collection::vec(rule().prop_map(tidy), 0..6)) {
        let rules: Vec<Rule> = rules.into_iter().filter(|r| !r.dst.is_empty()).collect();
        let (policy, topology) = (Arc::new(Policy::parse(&document(&rules, false).to_string()).unwrap()), Arc::new(topology()));
        let (one, all) = (Compiled::new(Arc::clone(&policy), Arc::clone(&topology)), Compiled::new(policy, topology));
        for view in all.for_all() {
            let alone = one.for_node(view.node).unwrap();
            prop_assert_eq!(one.node_json(&alone), all.node_json(&view));
            for p in &view.peers {
                prop_assert!(one.for_node(*p).unwrap().peers.contains(&view.node), "peers see each other");
            }
        }
    }

    #[test]
    fn remove_never_adds(steps in prop::collection::vec((any::<bool>(), 0u32..64, 0u32..64), 0..8), cut in (0u32..64, 0u32..64)) {
        let text = |add: bool, a: u32, b: u32| {
            let word = if add { "add" } else { "remove" };
            format!("{word} 10.0.0.{}-10.0.0.{}", a.min(b), a.max(b))
        };
        let mut list: Vec<String> = steps.iter().map(|(add, a, b)| text(*add, *a, *b)).collect();
        let set = |list: &[String]| -> Ranges {
            let policy = Policy::parse(&json!({ "ipsets": { "ipset:x": list } }).to_string()).unwrap();
            policy.ip_sets().remove("ipset:x").unwrap()
        };
        let before = set(&list);
        // The oracle: one bit an address, step by step.
        let mut bits = [false; 64];
        for (add, a, b) in &steps {
            for bit in &mut bits[*a.min(b) as usize..=*a.max(b) as usize] {
                *bit = *add;
            }
        }
        for (i, bit) in bits.iter().enumerate() {
            prop_assert_eq!(before.contains(format!("10.0.0.{i}").parse().unwrap()), *bit, "{}", i);
        }
        list.push(text(false, cut.0, cut.1));
        prop_assert!(before.covers_all(&set(&list)));
    }

    #[test]
    fn texts_never_panic(cuts in prop::collection::vec((0usize..4000, 0usize..40, "[\\[\\]{}\",:*/a-z0-9 \\\\\n-]{0,12}"), 1..6)) {
        let mut text = include_str!("golden/ipsets/policy.hujson").to_string() + include_str!("golden/mistakes/policy.hujson");
        for (at, len, put) in cuts {
            let at = at % (text.len() + 1);
            let end = (at + len).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &put);
            }
        }
        let half = text.len() / 2;
        for piece in [text.as_str(), text.get(..half).unwrap_or(""), text.get(half..).unwrap_or("")] {
            if let Ok(policy) = Policy::parse(piece) {
                let compiled = Compiled::new(policy.into(), topology().into());
                prop_assert!(compiled.run_tests().len() < 1000 && compiled.to_json(None).is_object());
                let open = Compiled::new(Policy::default().into(), topology().into());
                prop_assert!(diff(&compiled, &compiled).changes.is_empty() && !diff(&open, &compiled).partial);
            }
            if let Ok(once) = format(piece) {
                prop_assert_eq!(format(&once).unwrap(), once);
            }
        }
    }
}
