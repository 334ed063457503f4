//! A network that changes node by node, against the same network compiled afresh: whatever happens to a node, what the
//! others are told is the same either way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Prefix;
use policy::posture::Value;
use policy::{Compiled, Node, Policy, Topology, User};
use proptest::prelude::*;

/// One document with everything in it whose meaning depends on who exists.
const POLICY: &str = r#"{
    "groups": { "group:eng": ["ada@example.com", "ben@example.com"], "group:one": ["cy@example.org"] },
    "tagOwners": { "tag:web": [], "tag:rt": ["group:eng"], "tag:conn": [], "tag:exit": [] },
    "hosts": { "lan": "10.1.0.0/16", "box": "100.64.0.3" },
    "ipsets": { "ipset:mix": ["add 100.64.0.2-100.64.0.9", "remove 100.64.0.4", "add 10.1.5.0/24"] },
    "postures": { "posture:mac": ["node:os == 'macos'"], "posture:new": ["node:tsVersion >= '1.40'"] },
    "autoApprovers": { "routes": { "10.0.0.0/8": ["tag:rt", "group:one"], "0.0.0.0/0": ["tag:conn"] }, "exitNode": ["tag:exit", "group:eng"] },
    "nodeAttrs": [
        { "target": ["tag:web", "group:one"], "attr": ["funnel"] },
        { "target": ["*"], "app": { "tailscale.com/app-connectors": [
            { "name": "code", "connectors": ["tag:conn"], "domains": ["code.example", "*.code.example"], "routes": ["192.0.2.0/28"] },
            { "name": "any", "connectors": ["*"], "domains": ["any.example"] } ] } },
    ],
    "grants": [RULES],
    "ssh": [
        { "action": "check", "src": ["group:eng"], "dst": ["tag:web", "tag:rt"], "users": ["root", "autogroup:nonroot"] },
        { "action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["localpart:*@example.com"] },
    ],
}"#;

/// Rules of which each case takes some.
const RULES: [&str; 18] = [
    r#"{ "src": ["*"], "dst": ["*"], "ip": ["22"] }"#,
    r#"{ "src": ["*", "group:eng"], "dst": ["tag:web"], "ip": ["80"] }"#,
    r#"{ "src": ["group:eng"], "dst": ["tag:web", "lan"], "ip": ["443", "udp:53"] }"#,
    r#"{ "src": ["ada@example.com", "ben@example.com"], "dst": ["tag:web"], "ip": ["8443"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["autogroup:self", "tag:rt"], "ip": ["*"] }"#,
    r#"{ "src": ["autogroup:tagged", "box"], "dst": ["autogroup:member"], "ip": ["icmp:*"] }"#,
    r#"{ "src": ["user:*@example.com"], "dst": ["app:code", "app:any"], "ip": ["443"] }"#,
    r#"{ "src": ["group:one"], "dst": ["autogroup:internet"], "ip": ["*"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["autogroup:internet"], "ip": ["*"], "via": ["tag:exit"] }"#,
    r#"{ "src": ["group:eng", "tag:web"], "dst": ["10.1.0.0/16"], "ip": ["*"], "via": ["tag:rt", "tag:web"] }"#,
    r#"{ "src": ["autogroup:member"], "dst": ["ipset:mix"], "ip": ["80"], "srcPosture": ["posture:mac"] }"#,
    r#"{ "src": ["*"], "dst": ["tag:rt"], "ip": ["90"], "srcPosture": ["posture:mac", "posture:new"] }"#,
    r#"{ "src": ["ipset:mix"], "dst": ["10.1.5.0/25", "100.64.0.0/29"], "ip": ["tcp:1-9"] }"#,
    r#"{ "src": ["10.1.0.0/24"], "dst": ["10.2.0.0/16", "tag:conn"], "ip": ["*"] }"#,
    r#"{ "src": ["autogroup:danger-all"], "dst": ["tag:exit"], "ip": ["53"] }"#,
    r#"{ "src": ["group:eng"], "dst": ["tag:web", "autogroup:self"], "app": { "tailscale.com/cap/drive": [{ "shares": ["*"] }] } }"#,
    r#"{ "src": ["cy@"], "dst": ["tag:conn"], "app": { "example.com/cap/x": [] } }"#,
    r#"{ "src": ["autogroup:admin"], "dst": ["192.0.2.0/24"], "ip": ["*"] }"#,
];

const TAGS: [&str; 4] = ["tag:web", "tag:rt", "tag:conn", "tag:exit"];
const ROUTES: [&str; 8] =
    ["10.1.0.0/16", "10.1.5.0/24", "10.2.0.0/16", "10.1.0.0/25", "192.0.2.1/32", "203.0.113.7/32", "0.0.0.0/0", "::/0"];

/// Everything about a node, by small numbers.
#[derive(Debug, Clone)]
struct Step {
    name: usize,
    gone: bool,
    addr: Option<u8>,
    six: bool,
    user: Option<usize>,
    tags: Vec<usize>,
    routable: Vec<usize>,
    approved: Vec<usize>,
    online: bool,
    mac: Option<bool>,
    learned: Vec<usize>,
}

fn step() -> impl Strategy<Value = Step> {
    let places = |len| prop::collection::vec(0..len, 0..3);
    (
        (0usize..8, prop::bool::weighted(0.1), prop::option::weighted(0.95, 1u8..11), any::<bool>()),
        (prop::option::of(0usize..3), prop_oneof![Just(vec![]), places(TAGS.len())]),
        (places(ROUTES.len()), places(ROUTES.len()), prop::bool::weighted(0.8)),
        (prop::option::of(any::<bool>()), places(ROUTES.len())),
    )
        .prop_map(|((name, gone, addr, six), (user, tags), (routable, approved, online), (mac, learned))| Step {
            name,
            gone,
            addr,
            six,
            user,
            tags,
            routable,
            approved,
            online,
            mac,
            learned,
        })
}

/// One thing about a node that changes, or all of it.
fn steps() -> impl Strategy<Value = Vec<(Step, u8)>> {
    prop::collection::vec((step(), 0u8..10), 1..14)
}

fn node(s: &Step) -> Node {
    let routes = |list: &[usize]| list.iter().map(|i| ROUTES[*i].parse().unwrap()).collect::<Vec<Prefix>>();
    // Most have an address of their own, which moves now and then; some share one.
    let addr = s.addr.map(|a| match a {
        1 => 5,
        2..8 => s.name + 1,
        _ => s.name + 20,
    });
    let learned = routes(&s.learned).into_iter().filter(|p| p.is_host()).collect();
    Node {
        name: format!("n{}", s.name),
        user: s.user,
        tags: s.tags.iter().map(|t| TAGS[*t].to_string()).collect(),
        ipv4: addr.map(|a| format!("100.64.0.{a}").parse().unwrap()),
        ipv6: addr.filter(|_| s.six).map(|a| format!("fd7a:115c:a1e0::{a}").parse().unwrap()),
        routable: routes(&s.routable),
        approved: routes(&s.approved),
        id: Some(s.name as u64 * 7 % 5),
        online: s.online,
        posture: s
            .mac
            .map(|m| ("node:os".to_string(), Value::Text(if m { "macos" } else { "linux" }.into())))
            .into_iter()
            .collect(),
        learned: BTreeMap::from([("code".to_string(), learned)]),
    }
}

/// The node after a step: everything of it new, or one thing only, so that a change touches little.
fn changed(before: Option<&Node>, s: &Step, what: u8) -> Node {
    let new = node(s);
    let Some(old) = before.cloned() else { return new };
    match what {
        0 => Node { tags: new.tags, ..old },
        1 => Node { user: new.user, ..old },
        2 => Node { routable: new.routable, ..old },
        3 => Node { approved: new.approved, ..old },
        4 => Node { online: new.online, ..old },
        5 => Node { posture: new.posture, ..old },
        6 => Node { learned: new.learned, ..old },
        7 => Node { ipv4: new.ipv4, ipv6: new.ipv6, ..old },
        8 => old,
        _ => new,
    }
}

fn users() -> Arc<Vec<User>> {
    let user = |id: u64, name: &str, email: &str| User { id, name: name.into(), email: email.into(), role: None };
    Arc::new(vec![
        user(1, "ada", "ada@example.com"),
        user(2, "ben", "ben@example.com"),
        user(3, "cy", "cy@example.org"),
    ])
}

fn everything(c: &Compiled) -> serde_json::Value {
    let mut out = c.to_json(None);
    let dns: Vec<_> = c.for_all().map(|v| format!("{:?}", c.split_dns(&v))).collect();
    let ssh: Vec<_> = (0..c.topology().nodes.len())
        .flat_map(|a| (0..c.topology().nodes.len()).map(move |b| (a, b)))
        .map(|(a, b)| format!("{:?}", c.ssh(a, b, "ada")))
        .collect();
    out["dns"] = serde_json::json!(dns);
    out["ssh"] = serde_json::json!(ssh);
    out["primaries"] = serde_json::json!(format!("{:?}", c.primaries()));
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn changed_in_place_is_compiled_afresh(
        rules in prop::sample::subsequence(RULES.to_vec(), 1..=RULES.len()),
        steps in steps(),
    ) {
        let policy = Arc::new(Policy::parse(&POLICY.replace("RULES", &rules.join(","))).unwrap());
        let mut topology = Topology { users: users(), ..Topology::default() };
        let mut compiled = Compiled::new(Arc::clone(&policy), Arc::new(topology.clone()));
        for (s, what) in &steps {
            let name = format!("n{}", s.name);
            let place = topology.node(&name);
            let next = if s.gone {
                place.map(|p| topology.nodes.remove(p));
                compiled.without_node(&name)
            } else {
                let new = changed(place.map(|p| &*topology.nodes[p]), s, *what);
                match place {
                    Some(p) => topology.nodes[p] = Arc::new(new.clone()),
                    None => topology.nodes.push(Arc::new(new.clone())),
                }
                topology.nodes.sort_by(|a, b| a.name.cmp(&b.name));
                compiled.with_node(new)
            };
            let afresh = Compiled::after(Arc::clone(&policy), Arc::new(topology.clone()), &compiled.primaries());
            // Asked one by one, as a server does after a change, and all at once.
            for n in 0..topology.nodes.len() {
                let (one, other) = (next.for_node(n).unwrap(), afresh.for_node(n).unwrap());
                prop_assert_eq!(next.node_json(&one), afresh.node_json(&other), "{:?} after {:?}", name, s);
            }
            prop_assert_eq!(everything(&next), everything(&afresh), "after {:?}", s);
            let told = compiled.with_topology(Arc::new(topology.clone()));
            prop_assert_eq!(everything(&told), everything(&afresh), "told of the network after {:?}", s);
            compiled = next;
        }
    }
}
