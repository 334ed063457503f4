//! What routers, connectors and names of one's own come to, as nodes are told: fail-over, what a connector has forgotten,
//! who leaves from the same address, names outside the network's domain.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::{Addr, Prefix};
use serde_json::{Value, json};
use tailnet::record::Names;
use tailnet::{Leaves, Registry, Saved, Sent, Settings, Snapshot};
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::Hostinfo;
use tailnet_proto::tailcfg::map::{DnsRecord, MapRequest};

const DAY: u64 = 86_400;

fn node(registry: &mut Registry, id: u64, more: Value) {
    let mut all = json!({
        "id": id, "machine": format!("mkey:{id:064x}"), "key": format!("nodekey:{id:064x}"), "name": format!("n{id}"),
        "ipv4": format!("100.64.0.{id}"), "ipv6": format!("fd7a:115c:a1e0::{id}"), "created": 1 });
    for (k, v) in more.as_object().unwrap() {
        all[k] = v.clone();
    }
    registry.load(Saved::Node(Arc::new(serde_json::from_value(all).unwrap())), 1).unwrap();
}

fn registry() -> Registry {
    let settings = Settings { domain: "mesh.internal".into(), app_expiry: Some(DAY), ..Settings::default() };
    let mut registry = Registry::new(settings);
    registry.create_user("ada@example.com", None, "test", 1).unwrap();
    registry
}

fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

/// What a node is told, as JSON.
fn map(s: &Snapshot, id: u64) -> Value {
    serde_json::to_value(Sent::default().advance(s, id, (1, &json!({}))).unwrap()).unwrap()
}

/// The routes to one peer that a node is told of.
fn routes_to(s: &Snapshot, id: u64, peer: &str) -> Vec<String> {
    let map = map(s, id);
    let peers = map["Peers"].as_array().unwrap();
    let peer = peers.iter().find(|p| p["Name"].as_str().unwrap().starts_with(peer)).unwrap();
    let all = peer["AllowedIPs"].as_array().unwrap().iter().map(|p| p.as_str().unwrap().to_string());
    all.filter(|p| !p.starts_with("100.") && !p.starts_with("fd7a:")).collect()
}

fn router(routes: &[&str]) -> Value {
    json!({ "user": 1, "approved": routes, "host": { "RoutableIPs": routes } })
}

#[test]
fn a_name_outside_the_domain_is_a_domain_that_the_client_is_asked_for() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1 }));
    let record = |name: &str| DnsRecord { name: name.into(), r#type: "A".into(), value: "10.0.0.11".into() };
    let mut names = Names {
        records: ["nas.other.lan", "printer.mesh.internal", "db.corp.example"].map(record).to_vec(),
        ..Names::default()
    };
    names.split.insert("corp.example".into(), vec!["10.0.0.53".into()]);
    b.set_names(names.clone(), "test", 2);
    let routes = map(&b.snapshot(2), 1)["DNSConfig"]["Routes"].clone();
    assert_eq!(routes, json!({ "nas.other.lan": [], "corp.example": [{ "Addr": "10.0.0.53" }] }));
    // What lies below such a name is asked of those who are asked for everything.
    names.nameservers = vec!["9.9.9.9".into()];
    b.set_names(names, "test", 3);
    let routes = map(&b.snapshot(3), 1)["DNSConfig"]["Routes"].clone();
    assert_eq!(routes["nas.other.lan"], json!([{ "Addr": "9.9.9.9" }]));
}

const SHOP: &str = r#"{"tagOwners": {"tag:c": []}, "autoApprovers": {"routes": {"0.0.0.0/0": ["tag:c"], "::/0": ["tag:c"]}},
    "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}],
    "nodeAttrs": [{"target": ["*"], "app": {"tailscale.com/app-connectors": [
        {"name": "shop", "connectors": ["tag:c"], "domains": ["shop.test", "*.shop.test"], "routes": ["192.0.2.80/32"]}]}}]}"#;

/// Ann is node 1, the connector node 2; it offers what is given.
fn shop(offers: &[&str]) -> Registry {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1 }));
    node(
        &mut b,
        2,
        json!({ "tags": ["tag:c"], "host": { "AppConnector": true, "RoutableIPs": offers,
            "Services": [{ "Proto": "peerapi4", "Port": 40_000 }] } }),
    );
    b.set_policy(Some(SHOP), "test", 1).unwrap();
    b
}

/// A node says what it offers.
fn offers(b: &mut Registry, id: u64, routes: &[&str], now: u64) {
    let routable_ips = routes.iter().map(|r| r.parse().unwrap()).collect();
    let ask = MapRequest {
        version: 130,
        node_key: Some(format!("nodekey:{id:064x}").parse::<NodeKey>().unwrap()),
        hostinfo: Some(Hostinfo { routable_ips, app_connector: Some(true), ..Hostinfo::default() }),
        ..MapRequest::default()
    };
    b.update(format!("mkey:{id:064x}").parse::<MachineKey>().unwrap(), &ask, now).unwrap();
}

fn told(b: &mut Registry, id: u64, names: &[(&str, &str)], now: u64) {
    let mut all: BTreeMap<String, Vec<Addr>> = BTreeMap::new();
    for (name, a) in names {
        all.entry((*name).into()).or_default().push(addr(a));
    }
    let offered = b.node_named(&id.to_string()).unwrap().host.routable_ips.clone();
    b.connector_reported(id, &all, &offered, now);
}

/// The routes of the app as its connector is told them.
fn app_routes(s: &Snapshot) -> Value {
    map(s, 2)["Node"]["CapMap"]["tailscale.com/app-connectors"][0]["routes"].clone()
}

#[test]
fn what_a_connector_forgets_keeps_its_route_and_the_connector_is_told_to_offer_it() {
    let mut b = shop(&["192.0.2.80/32", "198.51.100.7/32"]);
    told(&mut b, 2, &[("www.shop.test", "198.51.100.7")], 10);
    assert_eq!(routes_to(&b.snapshot(10), 1, "n2"), ["192.0.2.80/32", "198.51.100.7/32"]);
    assert_eq!(app_routes(&b.snapshot(10)), json!(["192.0.2.80/32"]), "it knows by itself");
    // `tailscale set --advertise-routes=10.0.0.0/24`: the client has forgotten everything.
    offers(&mut b, 2, &["10.0.0.0/24"], 20);
    told(&mut b, 2, &[], 21);
    let s = b.snapshot(21);
    assert_eq!(routes_to(&s, 1, "n2"), ["198.51.100.7/32"]);
    assert_eq!(app_routes(&s), json!(["192.0.2.80/32", "198.51.100.7/32"]));
    assert!(s.routes().iter().any(|r| r.prefix.to_string().contains("198.51.100.7") && r.primary));
    // It offers it again, as told, and stays told: what it is not told any more it would take back.
    offers(&mut b, 2, &["192.0.2.80/32", "198.51.100.7/32"], 22);
    told(&mut b, 2, &[], 23);
    assert_eq!(app_routes(&b.snapshot(23)), json!(["192.0.2.80/32", "198.51.100.7/32"]));
    // A day after the name has answered with it last it goes, and is forgotten once nobody offers it.
    told(&mut b, 2, &[], 10 + DAY);
    let s = b.snapshot(10 + DAY);
    assert_eq!(routes_to(&s, 1, "n2"), ["192.0.2.80/32"]);
    assert_eq!(app_routes(&s), json!(["192.0.2.80/32"]));
    offers(&mut b, 2, &["192.0.2.80/32"], 11 + DAY);
    told(&mut b, 2, &[], 12 + DAY);
    assert!(b.node_named("n2").unwrap().learnt.is_empty());
}

#[test]
fn who_is_no_connector_any_more_keeps_nothing() {
    let mut b = shop(&["198.51.100.7/32"]);
    told(&mut b, 2, &[("www.shop.test", "198.51.100.7")], 10);
    let ask = MapRequest {
        version: 130,
        node_key: Some(format!("nodekey:{:064x}", 2).parse().unwrap()),
        hostinfo: Some(Hostinfo { app_connector: Some(false), ..Hostinfo::default() }),
        ..MapRequest::default()
    };
    b.update(format!("mkey:{:064x}", 2).parse().unwrap(), &ask, 20).unwrap();
    assert_eq!(routes_to(&b.snapshot(20), 1, "n2"), Vec::<String>::new());
}

#[test]
fn what_the_server_has_seen_is_offered_before_anybody_asks() {
    let mut b = shop(&["192.0.2.80/32"]);
    let names: Vec<String> = b.snapshot(2).app_names().into_keys().collect();
    assert_eq!(names, ["shop.test"], "names that are spelt out, and no wildcard");
    let nowhere = ["10.0.0.1", "127.0.0.1", "224.0.0.1", "255.255.255.255", "0.0.0.0", "198.51.100.9"].map(addr);
    b.name_answered(2, "shop.test", &nowhere, 10, Some(DAY));
    let s = b.snapshot(10);
    assert_eq!(app_routes(&s), json!(["192.0.2.80/32", "198.51.100.9/32"]), "what is private or nowhere is nobody's");
    assert_eq!(routes_to(&s, 1, "n2"), ["192.0.2.80/32"], "not before the connector is ready for it");
    offers(&mut b, 2, &["192.0.2.80/32", "198.51.100.9/32"], 11);
    assert_eq!(routes_to(&b.snapshot(11), 1, "n2"), ["192.0.2.80/32", "198.51.100.9/32"]);
    // Names of nobody's app teach nothing.
    b.name_answered(2, "elsewhere.test", &[addr("198.51.100.60")], 12, Some(DAY));
    assert_eq!(b.node_named("n2").unwrap().learnt.len(), 1);
}

/// Says where a node is seen, and what it says itself.
fn seen(b: &mut Registry, id: u64, from: &str, endpoints: &[&str], now: u64) {
    b.connected(id, id, Some(addr(from)), now);
    let ask = MapRequest {
        version: 130,
        node_key: Some(format!("nodekey:{id:064x}").parse().unwrap()),
        endpoints: endpoints.iter().map(|e| e.parse().unwrap()).collect(),
        ..MapRequest::default()
    };
    b.update(format!("mkey:{id:064x}").parse().unwrap(), &ask, now).unwrap();
}

#[test]
fn who_leaves_from_the_connectors_address_takes_no_detour() {
    let mut b = shop(&["192.0.2.80/32", "198.51.100.7/32", "10.9.9.9/32"]);
    node(&mut b, 3, json!({ "user": 1 }));
    told(&mut b, 2, &[("www.shop.test", "198.51.100.7"), ("in.shop.test", "10.9.9.9")], 10);
    let all = ["10.9.9.9/32", "192.0.2.80/32", "198.51.100.7/32"];
    // Everybody behind one proxy that nobody declared: the connections alone are no proof.
    for id in [1, 2, 3] {
        b.connected(id, id, Some(addr("203.0.113.30")), 10);
    }
    assert_eq!(routes_to(&b.snapshot(10), 1, "n2"), all);
    seen(&mut b, 2, "203.0.113.30", &["192.168.1.2:41641", "203.0.113.30:41641"], 11);
    seen(&mut b, 1, "203.0.113.30", &["192.168.1.7:41641", "203.0.113.30:2222"], 11);
    seen(&mut b, 3, "203.0.113.99", &["203.0.113.99:41641"], 11);
    let s = b.snapshot(11);
    assert_eq!(routes_to(&s, 1, "n2"), ["10.9.9.9/32"], "a private address may be in another network");
    assert_eq!(routes_to(&s, 3, "n2"), all);
    let asks = |id: u64| map(&s, id)["DNSConfig"]["Routes"]["shop.test"].clone();
    assert!(asks(1).is_null() && !asks(3).is_null(), "{} {}", asks(1), asks(3));
    let users = |a: &str| s.carriers(addr(a))[0].users.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(users("198.51.100.7"), ["n3"]);
    // It goes home, and takes the detour.
    seen(&mut b, 1, "203.0.113.44", &["203.0.113.44:1"], 12);
    assert_eq!(routes_to(&b.snapshot(12), 1, "n2"), all);
}

#[test]
fn every_address_that_traffic_may_come_from_is_named() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1 }));
    node(&mut b, 2, router(&["198.51.100.7/32"]));
    node(&mut b, 3, router(&["198.51.100.7/32"]));
    node(&mut b, 4, json!({ "user": 1, "host": { "RoutableIPs": ["198.51.100.7/32"] } }));
    node(&mut b, 5, router(&["0.0.0.0/0", "::/0"]));
    seen(&mut b, 2, "203.0.113.30", &[], 2);
    seen(&mut b, 3, "2001:db8::3", &["192.168.0.3:1", "203.0.113.31:41641"], 2);
    let s = b.snapshot(2);
    let to = addr("198.51.100.7");
    let found = s.carriers(to);
    let all: Vec<(&str, bool, Leaves)> = s
        .sources(to, &found)
        .iter()
        .map(|o| (o.member.node.name.as_str(), o.carries, o.member.leaves_from(to)))
        .collect();
    assert_eq!(
        all,
        [("n2", true, Leaves::From(addr("203.0.113.30"))), ("n3", false, Leaves::From(addr("203.0.113.31")))],
        "both routers, and neither who waits nor the exit node"
    );
    assert_eq!(s.nodes[&1].leaves_from(to), Leaves::Unknown);
    seen(&mut b, 2, "192.168.1.9", &[], 3);
    assert_eq!(b.snapshot(3).nodes[&2].leaves_from(to), Leaves::Private(addr("192.168.1.9")));
    // All connectors of an app, though only one has learned the address so far.
    let mut b = shop(&["198.51.100.7/32"]);
    node(&mut b, 3, json!({ "tags": ["tag:c"], "host": { "AppConnector": true } }));
    b.set_policy(Some(SHOP), "test", 2).unwrap();
    told(&mut b, 2, &[("www.shop.test", "198.51.100.7")], 10);
    let s = b.snapshot(10);
    let found = s.carriers(to);
    let all: Vec<(&str, bool)> =
        s.sources(to, &found).iter().map(|o| (o.member.node.name.as_str(), o.carries)).collect();
    assert_eq!(all, [("n2", true), ("n3", false)]);
}

#[test]
fn a_router_that_a_rule_names_is_a_carrier_too_and_nobody_has_a_reason() {
    let mut b = registry();
    b.create_user("ben@example.com", None, "test", 1).unwrap();
    node(&mut b, 1, json!({ "user": 1 }));
    node(&mut b, 2, json!({ "user": 2 }));
    let tagged = |tag: &str| json!({ "tags": [tag], "approved": ["198.51.100.7/32"], "host": { "RoutableIPs": ["198.51.100.7/32"] } });
    node(&mut b, 3, tagged("tag:a"));
    node(&mut b, 4, tagged("tag:b"));
    let policy = |rules: &str| format!(r#"{{"tagOwners": {{"tag:a": [], "tag:b": []}}, "grants": [{rules}]}}"#);
    let both = r#"{"src": ["ada@example.com"], "dst": ["198.51.100.7"], "ip": ["*"]},
        {"src": ["ben@example.com"], "dst": ["198.51.100.7"], "ip": ["*"], "via": ["tag:b"]}"#;
    b.set_policy(Some(&policy(both)), "test", 2).unwrap();
    let s = b.snapshot(2);
    let to = addr("198.51.100.7");
    let who: Vec<(&str, Vec<&str>)> =
        s.carriers(to).into_iter().map(|c| (c.member.node.name.as_str(), c.users)).collect();
    assert_eq!(who, [("n3", vec!["n1"]), ("n4", vec!["n2"])]);
    b.set_policy(Some(&policy(r#"{"src": ["ada@example.com"], "dst": ["10.0.0.1"], "ip": ["*"]}"#)), "test", 3)
        .unwrap();
    let s = b.snapshot(3);
    let found = s.carriers(to);
    assert!(found.iter().all(|c| c.users.is_empty()));
    assert_eq!(s.nobody(to, &found), "no rule of the policy lets a node that is here reach it");
    b.set_policy(Some(&policy("")), "test", 4).unwrap();
    for n in ["n1", "n2", "n4"] {
        b.delete(n, "test", 4).unwrap();
    }
    let s = b.snapshot(4);
    assert_eq!(s.nobody(to, &s.carriers(to)), "no other node has joined, or all others are logged out");
    assert_eq!(s.nobody(addr("192.0.2.1"), &[]), "no approved route leads there");
}

#[test]
fn a_route_that_goes_to_another_router_is_told_with_its_reason() {
    let mut b = registry();
    node(&mut b, 1, router(&["198.51.100.7/32", "192.0.2.0/24"]));
    node(&mut b, 2, router(&["198.51.100.7/32"]));
    for id in [1, 2] {
        b.connected(id, id, None, 2);
    }
    let mut before = b.snapshot(2);
    let mut moves = |b: &mut Registry, now: u64| -> Vec<String> {
        let s = b.snapshot(now);
        let all = s.moves(&before).iter().map(|m| format!("{} {} {} {}", m.route, m.from, m.why, m.to)).collect();
        before = s;
        all
    };
    b.rename("n1", "office", "test", 3).unwrap();
    assert_eq!(moves(&mut b, 3), [] as [&str; 0], "another name is no other router");
    b.answered(1, false, 4);
    assert_eq!(moves(&mut b, 4), ["198.51.100.7 office does not answer n2"]);
    b.answered(1, true, 5);
    assert_eq!(moves(&mut b, 5), [] as [&str; 0], "it stays where it is");
    b.disconnected(2, 2, 6);
    assert_eq!(moves(&mut b, 60), ["198.51.100.7 n2 has gone office"]);
    b.connected(2, 2, None, 61);
    b.revoke_routes("office", &["198.51.100.7/32".parse::<Prefix>().unwrap()], "test", 62).unwrap();
    assert_eq!(moves(&mut b, 62), ["198.51.100.7 office has the route no more n2"]);
}

#[test]
fn who_is_missing_after_a_start_is_not_waited_for_when_told_so() {
    let mut b = registry();
    node(&mut b, 1, router(&["198.51.100.7/32"]));
    node(&mut b, 2, router(&["198.51.100.7/32"]));
    b.connected(2, 2, None, 3);
    let carrier = |b: &mut Registry, now| b.snapshot(now).carriers(addr("198.51.100.7"))[0].member.node.id;
    assert_eq!(carrier(&mut b, 10), 1, "it counts as being there for a minute");
    b.absent(2, 12);
    b.absent(1, 12);
    assert_eq!(carrier(&mut b, 12), 2);
    assert!(b.snapshot(12).nodes[&2].online, "who is connected is not absent");
}

#[test]
fn users_are_renamed_and_have_roles_and_nodes_change_hands() {
    let mut b = registry();
    b.set_role("ada", Some("owner"), "test", 1).unwrap();
    b.create_user("ben@example.com", None, "test", 1).unwrap();
    node(&mut b, 1, json!({ "user": 1 }));
    // Names.
    assert!(b.rename_user("ben", "ada@example.com", "test", 2).is_err(), "taken");
    for bad in ["", "@x", "x@y@z", "a b"] {
        assert!(b.rename_user("ben", bad, "test", 2).is_err() && b.create_user(bad, None, "test", 2).is_err(), "{bad}");
    }
    assert_eq!(b.rename_user("ben", "BEN@example.com", "test", 2).unwrap().login(), "BEN@example.com", "its own");
    b.rename_user("ben@example.com", "cem@example.com", "test", 3).unwrap();
    assert!(b.user_named("ben").is_err() && b.user_named("cem").unwrap().id == 2);
    let policy = r#"{"grants": [{"src": ["cem@example.com"], "dst": ["*"], "ip": ["*"]}]}"#;
    b.set_policy(Some(policy), "test", 3).unwrap();
    // Ownership.
    let why = b.set_role("ada", None, "test", 4).unwrap_err().to_string();
    assert!(why.contains("give it to somebody else first"), "{why}");
    b.set_role("cem", Some("owner"), "test", 5).unwrap();
    let roles: Vec<Option<String>> = b.users().map(|u| u.role.clone()).collect();
    assert_eq!(roles, [Some("admin".into()), Some("owner".into())]);
    b.set_role("ada", None, "test", 6).unwrap();
    // Nodes.
    assert!(b.move_to("n1", "nobody", "test", 7).is_err() && b.move_to("n9", "cem", "test", 7).is_err());
    let s = b.snapshot(7);
    assert!(!s.compiled.reaches(addr("100.64.0.1"), addr("100.64.0.9")));
    b.move_to("n1", "cem", "test", 8).unwrap();
    let s = b.snapshot(8);
    assert!(s.compiled.reaches(addr("100.64.0.1"), addr("100.64.0.9")), "the new owner's rules hold");
    assert_eq!(map(&s, 1)["Node"]["User"], 2);
    b.delete_user("ada", "test", 9).unwrap();
    let told: Vec<String> = b.take_audits().into_iter().map(|a| format!("{} {}", a.what, a.about)).collect();
    for line in [
        "user-renamed BEN@example.com to cem@example.com",
        "user-role cem@example.com: owner",
        "node-moved n1 to cem@example.com",
    ] {
        assert!(told.contains(&line.to_string()), "{line}: {told:?}");
    }
    let again = b.saved(tailnet::Slot::User(2)).unwrap();
    assert!(matches!(again, Saved::User(u) if u.email == "cem@example.com" && u.role.as_deref() == Some("owner")));
}
