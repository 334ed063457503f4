//! Settings of the network that a policy document carries for a server: pools of addresses, services, relays, what
//! clients are told. Each is read, checked, and said to the right nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::sync::Arc;

use policy::{Compiled, Node, Policy, Topology};

const NODES: &str = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}, {"id": 2, "name": "ben", "email": "ben@example.org"}],
    "nodes": {"mac": {"user": "ada", "ipv4": "100.64.0.1", "posture": {"node:os": "macos"}},
              "box": {"user": "ben", "ipv4": "100.64.0.2", "ipv6": "fd7a::2", "posture": {"node:os": "linux"}},
              "web": {"tags": ["tag:web"], "ipv4": "100.64.0.3"}}}"#;

fn compiled(text: &str) -> Compiled {
    Compiled::new(Arc::new(Policy::parse(text).unwrap()), Arc::new(Topology::read(NODES).unwrap()))
}

fn refused(text: &str, part: &str) {
    let problems = Policy::parse(text).unwrap_err();
    assert!(problems.iter().any(|p| p.message.contains(part)), "{part} in {problems:?}");
}

#[test]
fn a_node_that_joins_gets_its_pool() {
    let c = compiled(
        r#"{"tagOwners": {"tag:web": [], "tag:new": []}, "groups": {"group:a": ["ada@example.com"]},
            "nodeAttrs": [{"target": ["group:a", "tag:new"], "ipPool": ["100.81.0.0/16", "100.82.0.0/16"]},
                          {"target": ["autogroup:member"], "ipPool": ["100.82.0.0/16", "100.83.0.0/24"]}]}"#,
    );
    let pool = |n: Node| c.ip_pool(&n).iter().map(ToString::to_string).collect::<Vec<_>>();
    let of = |user| Node { user: Some(user), ..Node::default() };
    assert_eq!(pool(of(0)), ["100.81.0.0/16", "100.82.0.0/16", "100.83.0.0/24"]);
    assert_eq!(pool(of(1)), ["100.82.0.0/16", "100.83.0.0/24"]);
    assert_eq!(pool(Node { tags: vec!["tag:new".into()], ..of(1) }), ["100.81.0.0/16", "100.82.0.0/16"]);
    assert!(pool(Node { tags: vec!["tag:web".into()], ..Node::default() }).is_empty(), "the usual ranges");
    let web = &c.topology().nodes[c.topology().node("web").unwrap()];
    assert!(c.ip_pool(web).is_empty());
}

#[test]
fn clients_are_told_the_settings_that_are_theirs() {
    let c = compiled(r#"{"OneCGNATRoute": "mac-never", "randomizeClientPort": true, "disableIPv4": true}"#);
    let place = |name: &str| c.topology().node(name).unwrap();
    let (mac, other) = (c.capabilities(place("mac")), c.capabilities(place("box")));
    assert!(mac.contains_key("one-cgnat?v=false") && !other.contains_key("one-cgnat?v=false"));
    assert!(other.contains_key("randomize-client-port") && other.contains_key("disable-ipv4"));
    let addrs: Vec<String> = c.own_allowed_ips(place("box")).iter().map(ToString::to_string).collect();
    assert_eq!(addrs, ["fd7a::2"]);
    assert!(c.policy().randomize_client_port && c.policy().disable_ipv4);
    assert!(compiled(r#"{"OneCGNATRoute": "mac-always"}"#).capabilities(place("mac")).contains_key("one-cgnat?v=true"));
}

#[test]
fn what_lies_in_the_internet_is_let_in_by_exit_nodes() {
    let nodes = NODES.replace(r#""ipv4": "100.64.0.3""#, r#""ipv4": "100.64.0.3", "routable_ips": ["0.0.0.0/0"]"#);
    let text = r#"{"tagOwners": {"tag:web": []}, "autoApprovers": {"exitNode": ["tag:web"]},
        "grants": [{"src": ["ada@example.com"], "dst": ["8.8.8.8", "10.0.0.0/8"], "ip": ["53"]}]}"#;
    let c = Compiled::new(Arc::new(Policy::parse(text).unwrap()), Arc::new(Topology::read(&nodes).unwrap()));
    let (web, mac) = (c.topology().node("web").unwrap(), c.topology().node("mac").unwrap());
    let rules = c.filter_rules(&c.for_node(web).unwrap());
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0].dst_ports.iter().map(|d| d.ip.as_str()).collect::<Vec<_>>(), ["8.8.8.8"]);
    // The way there is open to those who may reach the whole internet only.
    assert!(c.for_node(mac).unwrap().peers.is_empty());
}

#[test]
fn relays_are_read_and_checked() {
    let text = r#"{"derpMap": {"OmitDefaultRegions": true, "Regions": {"900": {"RegionID": 900, "RegionCode": "me",
        "Nodes": [{"Name": "1", "RegionID": 900, "HostName": "relay.example.com", "DERPPort": 443}]}, "1": null}}}"#;
    let c = compiled(text);
    assert_eq!(c.policy().derp_map.as_ref().unwrap()["Regions"]["900"]["Nodes"][0]["HostName"], "relay.example.com");
    refused(r#"{"derpMap": []}"#, "an object");
    refused(r#"{"derpMap": {"Regions": []}}"#, "an object");
    refused(r#"{"derpMap": {"Regions": {"x": {}}}}"#, "has no number");
    refused(r#"{"derpMap": {"Regions": {"900": {"RegionID": 901}}}}"#, "differs");
    refused(r#"{"derpMap": {"Regions": {"900": {"Nodes": [{}]}}}}"#, "no `HostName`");
    refused(r#"{"derpMap": {"Regions": {"900": {"Nodes": {}}}}}"#, "a list");
    refused(r#"{"derpMap": {"OmitDefaultRegions": "yes"}}"#, "true or false");
}
