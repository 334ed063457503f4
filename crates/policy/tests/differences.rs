//! What a change of a policy gives and takes, against what `explain` and the packet filters say before and after: for
//! every source, every destination, protocol and port, on networks and policies made at random.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "the bound is on time spent, which a test has to measure")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::{Addr, Prefix};
use policy::{Change, Compiled, Diff, Policy, Question, Topology, Whose, diff};
use proptest::prelude::*;
use proptest::sample::subsequence;
use sim::filter::{Packet, PacketFilter, PacketKind};

/// Rules of which each policy takes some.
const RULES: [&str; 30] = [
    r#"{ "src": ["*"], "dst": ["*"], "ip": ["22"] }"#,
    r#"{ "src": ["*"], "dst": ["*"], "ip": ["*"] }"#,
    r#"{ "src": ["group:eng"], "dst": ["tag:web", "10.0.0.5"], "ip": ["443", "udp:53"] }"#,
    r#"{ "src": ["group:eng", "tag:web"], "dst": ["10.0.0.0/8"], "ip": ["tcp:22"] }"#,
    r#"{ "src": ["ada@example.com"], "dst": ["10.1.0.0/16"], "ip": ["tcp:20-30"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"] }"#,
    r#"{ "src": ["group:eng"], "dst": ["autogroup:self", "tag:rt"], "ip": ["22"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["autogroup:member"], "ip": ["tcp:22"] }"#,
    r#"{ "src": ["autogroup:tagged", "box"], "dst": ["autogroup:member"], "ip": ["icmp:*"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["*"] }"#,
    r#"{ "src": ["ben@example.com"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:exit"] }"#,
    r#"{ "src": ["group:eng", "tag:web"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:rt"] }"#,
    r#"{ "src": ["group:eng", "tag:web"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:exit", "tag:web"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["ipset:mix"], "ip": ["80"], "srcPosture": ["posture:mac"] }"#,
    r#"{ "src": ["*"], "dst": ["tag:rt"], "ip": ["90"], "srcPosture": ["posture:mac"] }"#,
    r#"{ "src": ["ipset:mix"], "dst": ["10.1.5.0/25", "100.64.0.0/29"], "ip": ["tcp:1-99"] }"#,
    r#"{ "src": ["10.1.0.0/24"], "dst": ["10.2.0.0/16", "tag:web"], "ip": ["*"] }"#,
    r#"{ "src": ["10.0.0.0/8"], "dst": ["autogroup:member", "fd00:9::/64"], "ip": ["udp:53"] }"#,
    r#"{ "src": ["autogroup:danger-all"], "dst": ["tag:exit"], "ip": ["53"] }"#,
    r#"{ "src": ["autogroup:admin"], "dst": ["198.51.100.0/24"], "ip": ["*"] }"#,
    r#"{ "src": ["ada@example.com"], "dst": ["198.51.100.7"], "ip": ["tcp:443"] }"#,
    r#"{ "src": ["*"], "dst": ["app:code"], "ip": ["443"] }"#,
    r#"{ "src": ["100.64.0.1"], "dst": ["100.64.0.10", "fd7a:115c:a1e0::3"], "ip": ["22", "sctp:9"] }"#,
    r#"{ "src": ["tag:web"], "dst": ["box", "lan"], "ip": ["80"] }"#,
    r#"{ "src": ["group:eng", "ben@example.com"], "dst": ["*"], "ip": ["tcp:443"] }"#,
    r#"{ "src": ["autogroup:tagged"], "dst": ["autogroup:tagged"], "ip": ["*"] }"#,
    r#"{ "src": ["ben@example.com"], "dst": ["fd00:9::7", "10.2.0.9"], "ip": ["*"] }"#,
    r#"{ "src": ["*"], "dst": ["ipset:net"], "ip": ["tcp:443"] }"#,
    r#"{ "src": ["tag:rt", "tag:exit"], "dst": ["*"], "ip": ["udp:*"] }"#,
    r#"{ "src": ["box"], "dst": ["192.0.2.0/24", "203.0.113.9"], "ip": ["*"], "via": ["tag:rt", "tag:exit"] }"#,
];

const APPROVERS: [&str; 4] = [
    "{}",
    r#"{ "routes": { "10.0.0.0/8": ["tag:rt"] } }"#,
    r#"{ "routes": { "10.1.0.0/16": ["tag:web"], "198.51.100.0/24": ["tag:rt"] }, "exitNode": ["tag:exit"] }"#,
    r#"{ "routes": { "0.0.0.0/0": ["tag:rt", "tag:conn"], "fd00:9::/64": ["tag:rt"] }, "exitNode": ["tag:exit", "tag:rt"] }"#,
];

fn policy(rules: &[&str], approvers: &str) -> Policy {
    let text = format!(
        r#"{{
        "groups": {{ "group:eng": ["ada@example.com", "cy@example.com"] }},
        "tagOwners": {{ "tag:web": [], "tag:rt": [], "tag:exit": [], "tag:conn": [] }},
        "hosts": {{ "lan": "10.1.0.0/16", "box": "100.64.0.3" }},
        "ipsets": {{ "ipset:mix": ["add 100.64.0.2-100.64.0.9", "remove 100.64.0.4", "add 10.1.5.0/24"],
                    "ipset:net": ["add autogroup:internet", "remove 198.51.100.7"] }},
        "postures": {{ "posture:mac": ["node:os == 'macos'"] }},
        "nodeAttrs": [{{ "target": ["*"], "app": {{ "tailscale.com/app-connectors": [
            {{ "name": "code", "connectors": ["tag:conn"], "domains": ["code.example"], "routes": ["192.0.2.0/28"] }} ] }} }}],
        "autoApprovers": {approvers},
        "grants": [{}]
    }}"#,
        rules.join(",")
    );
    Policy::parse(&text).unwrap_or_else(|p| panic!("{p:?} in {text}"))
}

/// Every node has routes that it offers; which of them are approved, differs.
fn topology(approved: &[Vec<&str>]) -> Topology {
    let lists: Vec<String> = approved.iter().map(|l| serde_json::json!(l).to_string()).collect();
    let text = format!(
        r#"{{"users": [{{"id": 1, "name": "ada", "email": "ada@example.com"}}, {{"id": 2, "name": "ben", "email": "ben@example.com"}},
        {{"id": 3, "name": "cy", "email": "cy@example.com"}}],
        "nodes": {{
        "ada1": {{"user": "ada", "ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1", "posture": {{"node:os": "macos"}}}},
        "ada2": {{"user": "ada", "ipv4": "100.64.0.2"}},
        "ben1": {{"user": "ben", "ipv4": "100.64.0.3", "ipv6": "fd7a:115c:a1e0::3"}},
        "cy1": {{"user": "cy", "ipv4": "100.64.0.4", "routable_ips": ["10.1.5.0/24"], "approved_routes": {a}}},
        "web1": {{"tags": ["tag:web"], "ipv4": "100.64.0.10", "routable_ips": ["10.1.0.0/16"], "approved_routes": {b}}},
        "rt1": {{"tags": ["tag:rt"], "ipv4": "100.64.0.20", "ipv6": "fd7a:115c:a1e0::20", "routable_ips": {all}, "approved_routes": {c}}},
        "rt2": {{"tags": ["tag:rt"], "ipv4": "100.64.0.21", "routable_ips": {all}, "approved_routes": {d}}},
        "conn": {{"tags": ["tag:conn"], "ipv4": "100.64.0.30", "routable_ips": ["192.0.2.0/28", "203.0.113.9/32"], "approved_routes": [],
                 "learned": {{"code": ["203.0.113.9/32"]}}}},
        "exit": {{"tags": ["tag:exit"], "ipv4": "100.64.0.40", "routable_ips": ["0.0.0.0/0", "::/0", "10.2.0.0/16"], "approved_routes": {e}}}
        }}}}"#,
        all = serde_json::json!(ROUTES),
        a = lists[0],
        b = lists[1],
        c = lists[2],
        d = lists[3],
        e = lists[4],
    );
    Topology::read(&text).unwrap()
}

const ROUTES: [&str; 7] =
    ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "198.51.100.7/32", "198.51.100.0/24", "fd00:9::/64", "203.0.113.9/32"];

/// Addresses of nodes, behind routers, and in the internet.
const PLACES: [&str; 24] = [
    "100.64.0.1",
    "fd7a:115c:a1e0::1",
    "100.64.0.2",
    "100.64.0.3",
    "fd7a:115c:a1e0::3",
    "100.64.0.4",
    "100.64.0.10",
    "100.64.0.20",
    "fd7a:115c:a1e0::20",
    "100.64.0.21",
    "100.64.0.30",
    "100.64.0.40",
    "10.0.0.5",
    "10.0.0.6",
    "10.1.0.9",
    "10.1.5.9",
    "10.1.5.200",
    "10.2.0.9",
    "198.51.100.7",
    "198.51.100.8",
    "192.0.2.3",
    "203.0.113.9",
    "8.8.8.8",
    "fd00:9::7",
];

const ASKED: [(u8, &str); 5] = [(6, "tcp"), (17, "udp"), (1, "icmp"), (58, "ipv6-icmp"), (132, "sctp")];
const PORTS: [u16; 6] = [22, 53, 80, 90, 443, 9];

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

fn has_ports(proto: u8) -> bool {
    matches!(proto, 6 | 17 | 132)
}

/// What a network says of packets.
struct Network {
    compiled: Compiled,
    filters: Vec<PacketFilter>,
}

impl Network {
    fn new(policy: Policy, topology: &Arc<Topology>) -> Network {
        let compiled = Compiled::new(Arc::new(policy), Arc::clone(topology));
        let filters = (0..topology.nodes.len()).map(|n| {
            let rules: Vec<_> = compiled.for_node(n).unwrap().filter.iter().map(|f| compiled.to_wire(f)).collect();
            PacketFilter::new(&rules, compiled.own_allowed_ips(n))
        });
        let filters = filters.collect();
        Network { compiled, filters }
    }

    /// By the rules, as a person is told.
    fn explained(&self, src: &str, dst: &str, proto: &str, port: Option<u16>) -> bool {
        let q = Question { port, ..Question::read(src, dst, Some(proto)).unwrap() };
        let answer = self.compiled.explain(&q).unwrap();
        assert!(answer.allowed || !answer.arrives);
        answer.arrives
    }

    /// By the filters of those who have the address or carry there. Exit nodes carry to the internet only.
    fn filtered(&self, src: &str, dst: &str, proto: u8, port: u16) -> bool {
        let somebody = |a: Addr| {
            let nodes = &self.compiled.topology().nodes;
            nodes.iter().any(|n| n.addrs().any(|x| x == a))
                || (0..nodes.len()).any(|n| self.compiled.approved(n).iter().any(|r| r.bits() > 0 && r.contains(a)))
        };
        let (from, to) = (addr(src), addr(dst));
        let private = dst.starts_with("10.") || dst.starts_with("fd") || dst.starts_with("100.64");
        let answers = |n: usize| {
            let node = &self.compiled.topology().nodes[n];
            let own = self.compiled.topology().nodes.iter().any(|o| o.addrs().any(|a| a == to));
            let routed =
                self.compiled.approved(n).iter().any(|r: &Prefix| r.contains(to) && (r.bits() > 0 || !private));
            if own { node.addrs().any(|a| a == to) } else { routed }
        };
        let kind = if proto == 6 { PacketKind::TcpSyn } else { PacketKind::Plain };
        let packet = Packet { src: from, dst: to, proto, src_port: 4000, dst_port: port, kind };
        somebody(from) && (0..self.filters.len()).any(|n| answers(n) && self.filters[n].incoming(&packet).passes())
    }
}

fn owner(topology: &Topology, a: Addr) -> Option<usize> {
    topology.nodes.iter().find(|n| n.addrs().any(|x| x == a)).and_then(|n| n.owner())
}

fn node(topology: &Topology, a: Addr) -> Option<&str> {
    topology.nodes.iter().find(|n| n.addrs().any(|x| x == a)).map(|n| n.name.as_str())
}

fn says(changes: &[Change], topology: &Topology, gained: bool, src: &str, dst: &str, proto: u8, port: u16) -> bool {
    let (from, to) = (addr(src), addr(dst));
    let own = owner(topology, from).is_some() && owner(topology, from) == owner(topology, to);
    changes.iter().filter(|c| c.gained == gained && c.arrives).any(|c| {
        let pair = match c.whose {
            Whose::All => true,
            Whose::Own => own,
            Whose::Others => !own,
        };
        let net = c.nets.get(&proto).is_some_and(|p| !has_ports(proto) || p.iter().any(|p| p.contains(port)));
        pair && net && c.from.contains(from) && c.to.contains(to)
    })
}

fn lists() -> impl Strategy<Value = Vec<Vec<&'static str>>> {
    let some = |from: &'static [&'static str]| subsequence(from.to_vec(), 0..=from.len());
    (
        some(&["10.1.5.0/24"]),
        some(&["10.1.0.0/16"]),
        some(&ROUTES),
        some(&ROUTES),
        prop_oneof![Just(vec![]), Just(vec!["0.0.0.0/0", "::/0"]), Just(vec!["10.2.0.0/16"])],
    )
        .prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn the_difference_is_what_explain_and_the_filters_say(
        old in subsequence(RULES.to_vec(), 0..9),
        new in subsequence(RULES.to_vec(), 0..5),
        same in 0usize..9,
        approvers in (0usize..4, 0usize..4),
        approved in lists(),
        sources in subsequence(PLACES.to_vec(), 6),
        places in subsequence(PLACES.to_vec(), 8),
    ) {
        let topology = Arc::new(topology(&approved));
        // Some rules stay, some go, some come.
        let kept: Vec<&str> = old.iter().take(same).chain(&new).copied().collect();
        let before = Network::new(policy(&old, APPROVERS[approvers.0]), &topology);
        let after = Network::new(policy(&kept, APPROVERS[approvers.1]), &topology);
        let Diff { changes, more, partial } = diff(&before.compiled, &after.compiled);
        prop_assert!(more == 0 && !partial);
        for src in sources {
            for dst in places.iter().copied() {
                if addr(src).is_v4() != addr(dst).is_v4() || (node(&topology, addr(src)).is_some() && node(&topology, addr(src)) == node(&topology, addr(dst))) {
                    continue;
                }
                for (proto, name) in ASKED {
                    let ports: &[u16] = if has_ports(proto) { &PORTS } else { &[0] };
                    for port in ports {
                        let asked = has_ports(proto).then_some(*port);
                        let (was, is) = (before.explained(src, dst, name, asked), after.explained(src, dst, name, asked));
                        let at = format!("{src} -> {dst} {name} {port}: was {was}, is {is}\n{changes:#?}");
                        prop_assert_eq!(says(&changes, &topology, true, src, dst, proto, *port), is && !was, "{}", at);
                        prop_assert_eq!(says(&changes, &topology, false, src, dst, proto, *port), was && !is, "{}", at);
                        // Clients answer ICMP wherever anything is open.
                        if has_ports(proto) {
                            prop_assert_eq!(before.filtered(src, dst, proto, *port), was, "the filter before: {}", at);
                            prop_assert_eq!(after.filtered(src, dst, proto, *port), is, "the filter after: {}", at);
                        }
                    }
                }
            }
        }
    }
}

fn lines(old: &str, new: &str, topology: &Topology) -> Vec<String> {
    let read = |text: &str| Compiled::new(Arc::new(Policy::parse(text).unwrap()), Arc::new(topology.clone()));
    let changes = diff(&read(old), &read(new)).changes;
    let text = |c: &Change| {
        let sign = if c.gained { '+' } else { '-' };
        format!("{sign} {} -> {}: {}", c.who.join(", "), c.at.join(", "), c.what.join("; "))
    };
    changes.iter().map(text).collect()
}

const TWO: &str = r#"{"users": [{"id": 1, "name": "alice"}], "nodes": {"a": {"user": "alice", "ipv4": "100.64.0.1"},
    "r": {"user": "alice", "ipv4": "100.64.0.2", "routable_ips": ["ROUTE"], "approved_routes": ["ROUTE"]}}}"#;

#[test]
fn addresses_behind_routers_are_said() {
    let t = Topology::read(&TWO.replace("ROUTE", "10.0.0.0/8")).unwrap();
    let wide = r#"{"grants": [{"src": ["alice@"], "dst": ["*"], "ip": ["*"]}]}"#;
    let one = r#"{"grants": [{"src": ["alice@"], "dst": ["10.0.0.5"], "ip": ["tcp:22"]}]}"#;
    let none = r#"{"grants": []}"#;
    let all = ["+ a, r -> a, r, 10.0.0.0/8 behind r: tcp+udp+icmp:*"];
    assert_eq!(lines(none, wide, &t), all);
    assert_eq!(lines(wide, none, &t), all.map(|l| l.replacen('+', "-", 1)));
    // What was reached before and still is, is no news; the rest is named by what was written.
    assert_eq!(
        lines(one, wide, &t),
        [
            "+ a, r -> 10.0.0.5 behind r: icmp; tcp:0-21,23-65535; udp:*",
            "+ a, r -> a, r, 10.0.0.0/8 without 10.0.0.5 behind r: tcp+udp+icmp:*"
        ]
    );
    let t = Topology::read(&TWO.replace("ROUTE", "198.51.100.7/32")).unwrap();
    let to = |dst: &str| format!(r#"{{"grants": [{{"src": ["alice@"], "dst": ["{dst}"], "ip": ["*"]}}]}}"#);
    assert_eq!(
        lines(&to("198.51.100.7"), &to("autogroup:internet"), &t),
        ["+ a, r -> autogroup:internet (no router has it): tcp+udp+icmp:*"]
    );
    assert_eq!(
        lines(&to("198.51.100.7"), &to("198.51.100.0/24"), &t),
        ["+ a, r -> 198.51.100.0/24 (no router has it): tcp+udp+icmp:*"]
    );
}

/// Nine nodes of two users, a server, a router.
const NINE: &str = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com", "role": "owner"}, {"id": 2, "name": "ben", "email": "ben@example.com", "role": "admin"}],
    "nodes": {"a1": {"user": "ada", "ipv4": "100.64.0.1"}, "a2": {"user": "ada", "ipv4": "100.64.0.2"}, "a3": {"user": "ada", "ipv4": "100.64.0.3"},
    "b1": {"user": "ben", "ipv4": "100.64.0.4"}, "b2": {"user": "ben", "ipv4": "100.64.0.5"}, "b3": {"user": "ben", "ipv4": "100.64.0.6"},
    "w1": {"tags": ["tag:w"], "ipv4": "100.64.0.7"}, "w2": {"tags": ["tag:w"], "ipv4": "100.64.0.8"},
    "r": {"tags": ["tag:r"], "ipv4": "100.64.0.9", "routable_ips": ["10.77.0.0/16"], "approved_routes": []}}}"#;

#[test]
fn nine_nodes_are_one_line() {
    let t = Topology::read(NINE).unwrap();
    let with = |rest: &str| format!(r#"{{"tagOwners": {{"tag:w": [], "tag:r": []}}, {rest}}}"#);
    let open = r#""grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]"#;
    assert_eq!(
        lines(&with(r#""grants": []"#), &with(open), &t),
        ["+ every node (9) -> every node (9): tcp+udp+icmp:*"]
    );
    // A route that the policy approves is an address that everybody gains, and one that gains everybody.
    let approved = format!(r#"{open}, "autoApprovers": {{"routes": {{"10.0.0.0/8": ["tag:r"]}}}}"#);
    assert_eq!(
        lines(&with(open), &with(&approved), &t),
        [
            "+ r -> : route 10.77.0.0/16",
            "+ every node (9) -> 10.77.0.0/16 behind r: tcp+udp+icmp:*",
            "+ 10.77.0.0/16 behind r -> every node (9), 10.77.0.0/16 behind r: tcp+udp+icmp:*",
        ]
    );
    // Devices of one's own, and all but those.
    let own = r#""grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}]"#;
    let members = "a1, a2, a3, b1, b2, b3";
    assert_eq!(
        lines(&with(r#""grants": []"#), &with(own), &t),
        [format!("+ {members} -> their own devices: tcp+udp+icmp:*")]
    );
    let more =
        own.replace("]}]", "]}, {\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:member\"], \"ip\": [\"22\"]}]");
    assert_eq!(
        lines(&with(own), &with(&more), &t),
        [format!("+ {members} -> {members}, but for their own devices: tcp+udp+icmp:22")]
    );
}

#[test]
fn logins_and_attributes_are_said_without_what_everybody_has() {
    let t = Topology::read(NINE).unwrap();
    let with = |owner: &str, rest: &str| {
        format!(r#"{{"tagOwners": {{"tag:w": ["{owner}"], "tag:r": []}}, "grants": [], {rest}}}"#)
    };
    // Who owns a tag decides what role its nodes have for clients, which is no news for a reviewer.
    assert_eq!(lines(&with("ben@example.com", ""), &with("ada@example.com", ""), &t), Vec::<String>::new());
    let ssh = r#""ssh": [{"action": "accept", "src": ["ada@example.com"], "dst": ["tag:w"], "users": ["root", "localpart:*@example.com"]},
        {"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["autogroup:nonroot"]}],
        "nodeAttrs": [{"target": ["tag:w"], "attr": ["funnel"]}]"#;
    let got = lines(&with("ada@example.com", ""), &with("ada@example.com", ssh), &t);
    assert!(got[0].starts_with("+ w1, w2 -> : attribute funnel"), "{got:?}");
    assert_eq!(
        got[1..],
        [
            "+ a1, a2, a3, b1, b2, b3 -> their own devices: ssh as any user but root after a check",
            "+ a1, a2, a3 -> w1, w2: ssh as their own name; ssh as root",
        ]
    );
}

#[test]
fn another_way_is_said() {
    let route = r#""routable_ips": ["10.77.0.0/16"], "approved_routes": ["10.77.0.0/16"]"#;
    let t = NINE.replace(r#""ipv4": "100.64.0.8""#, &format!(r#""ipv4": "100.64.0.8", {route}"#));
    let t = Topology::read(&t.replace(r#""approved_routes": []"#, r#""approved_routes": ["10.77.0.0/16"]"#)).unwrap();
    let through = |tag: &str| {
        format!(
            r#"{{"tagOwners": {{"tag:w": [], "tag:r": []}}, "grants": [{{"src": ["b1"], "dst": ["10.77.0.5"], "ip": ["22"], "via": ["{tag}"]}}], "hosts": {{"b1": "100.64.0.4"}}}}"#
        )
    };
    assert_eq!(
        lines(&through("tag:r"), &through("tag:w"), &t),
        ["+ b1 -> 10.77.0.5 behind w2: another way, before through r"]
    );
}

/// A network of so many nodes, half of them devices of users, and a policy of so many rules.
fn large(nodes: usize, rules: usize) -> (Topology, String) {
    let mut text = String::from(r#"{"users": ["#);
    for u in 0..nodes / 4 {
        text +=
            &format!(r#"{}{{"id": {u}, "name": "u{u}", "email": "u{u}@example.com"}}"#, if u > 0 { "," } else { "" });
    }
    text += r#"], "nodes": {"#;
    for n in 0..nodes {
        let who =
            if n % 2 == 0 { format!(r#""user": "u{}""#, n / 4) } else { format!(r#""tags": ["tag:t{}"]"#, n % 301) };
        let route =
            if n % 100 == 33 { format!(r#"["10.{}.{}.0/24"]"#, n / 25_600, n / 100 % 256) } else { "[]".to_string() };
        text += &format!(
            r#"{}"n{n:05}": {{{who}, "ipv4": "100.{}.{}.{}", "routable_ips": {route}, "approved_routes": {route}}}"#,
            if n > 0 { "," } else { "" },
            64 + n / 65536,
            n / 256 % 256,
            n % 256
        );
    }
    text += "}}";
    let tags: Vec<String> = (0..301).map(|t| format!(r#""tag:t{t}": []"#)).collect();
    let groups: Vec<String> = (0..500)
        .map(|g| {
            let users: Vec<String> =
                (0..20).map(|u| format!(r#""u{}@example.com""#, (g * 7 + u * 13) % (nodes / 4).max(1))).collect();
            format!(r#""group:g{g}": [{}]"#, users.join(","))
        })
        .collect();
    let rules: Vec<String> = (0..rules)
        .map(|r| {
            let src = match r % 4 {
                0 | 1 => format!("group:g{}", r % 500),
                2 => format!("u{}@example.com", r % (nodes / 4).max(1)),
                _ => format!("tag:t{}", r % 301),
            };
            let dst = match r % 3 {
                0 => format!("10.0.{}.0/24", r % 256),
                1 => format!("tag:t{}", r * 5 % 301),
                _ => format!("u{}@example.com", r * 3 % (nodes / 4).max(1)),
            };
            format!(r#"{{"src": ["{src}"], "dst": ["{dst}"], "ip": ["tcp:{}", "udp:{}"]}}"#, 1 + r % 900, 1 + r % 70)
        })
        .collect();
    let policy = format!(
        r#"{{"tagOwners": {{{}}}, "groups": {{{}}}, "grants": [MORE {}]}}"#,
        tags.join(","),
        groups.join(","),
        rules.join(",")
    );
    (Topology::read(&text).unwrap(), policy)
}

/// A change of one rule takes half a second, one that concerns everybody some seconds; here is room for a machine that
/// does something else.
#[test]
fn large_networks_are_compared_in_seconds() {
    let (topology, policy) = large(10_000, 5_000);
    let topology = Arc::new(topology);
    let with = |more: &str| {
        let policy = Policy::parse(&policy.replace("MORE", more)).unwrap();
        Compiled::new(Arc::new(policy), Arc::clone(&topology))
    };
    let plain = with("");
    for (more, most) in [
        (r#"{"src": ["group:g7"], "dst": ["tag:t3", "10.0.9.0/24"], "ip": ["tcp:22"]},"#, 8),
        (r#"{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]},"#, 1000),
        (r#"{"src": ["*"], "dst": ["*"], "ip": ["*"]},"#, 1000),
    ] {
        let other = with(more);
        let begun = Instant::now();
        let d = diff(&plain, &other);
        let took = begun.elapsed();
        println!("{more}: {took:?}, {} lines and {} more, partial {}", d.changes.len(), d.more, d.partial);
        assert!(!d.changes.is_empty() && d.changes.len() <= most && d.changes.iter().all(|c| c.gained), "{more}");
        assert!(took < Duration::from_secs(60), "{more} took {took:?}");
    }
}
