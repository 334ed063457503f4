//! What nodes claim and may not have: keys, names, routes and addresses of others, a second life for a key that was
//! good once. In: requests of machines that lie. Out: the registry refuses, or believes only what is the node's own to say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;

use addr::Timestamp;
use serde_json::{Value, json};
use tailnet::record::{Names, PreAuthKey};
use tailnet::{Registered, Registry, Sent, Settings, Snapshot};
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::{Hostinfo, Service};
use tailnet_proto::tailcfg::map::{DnsRecord, MapRequest};
use tailnet_proto::tailcfg::register::RegisterRequest;

const NOW: u64 = 1_000_000;

fn machine(n: u8) -> MachineKey {
    MachineKey::from_bytes([n; 32])
}

fn key(n: u8) -> NodeKey {
    NodeKey::from_bytes([n + 100; 32])
}

fn host(name: &str, routes: &[&str]) -> Hostinfo {
    let routable_ips = routes.iter().map(|r| r.parse().unwrap()).collect();
    Hostinfo { hostname: name.into(), routable_ips, ..Hostinfo::default() }
}

fn ask(key: NodeKey, host: Hostinfo) -> RegisterRequest {
    RegisterRequest { version: 130, node_key: Some(key), hostinfo: host, ..RegisterRequest::default() }
}

/// A network of Ada, who owns it, and Mallory, with a key of each that is good for many.
fn registry(policy: &str) -> Registry {
    let mut registry = Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() });
    registry.create_user("ada@example.com", Some("owner".into()), "test", NOW).unwrap();
    registry.create_user("mallory@example.com", None, "test", NOW).unwrap();
    registry.set_policy(Some(policy), "test", NOW).unwrap();
    for (user, hash) in [(1, "ada"), (2, "mallory")] {
        give(&mut registry, user, hash, true, &[]);
    }
    registry
}

fn give(registry: &mut Registry, user: u64, hash: &str, reusable: bool, tags: &[&str]) {
    let key = PreAuthKey {
        bcrypt: None,
        id: 0,
        user: Some(user),
        hash: hash.into(),
        reusable,
        ephemeral: false,
        tags: tags.iter().map(ToString::to_string).collect(),
        created: NOW,
        expires: None,
        used: 0,
        revoked: false,
    };
    registry.create_key(key, "test", NOW).unwrap();
}

fn join(registry: &mut Registry, n: u8, host: Hostinfo, hash: &str) -> u64 {
    match registry.register(machine(n), &ask(key(n), host), Some(hash), "-", NOW) {
        Registered::Node(id) => id,
        other => panic!("{other:?}"),
    }
}

fn says(registry: &mut Registry, n: u8, host: Hostinfo) {
    let ask = MapRequest { version: 130, node_key: Some(key(n)), hostinfo: Some(host), ..MapRequest::default() };
    registry.update(machine(n), &ask, NOW).unwrap();
}

fn map(s: &Snapshot, id: u64) -> Value {
    serde_json::to_value(Sent::default().advance(s, id, (1, &json!({}))).unwrap()).unwrap()
}

const OPEN: &str =
    r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}], "tagOwners": {"tag:x": ["mallory@example.com"]}}"#;

#[test]
fn who_waits_with_the_key_of_another_does_not_become_that_other() {
    let mut b = registry(OPEN);
    // Mallory knows the key of a device of Ada's from before, and is first.
    let stolen = key(1);
    b.register(machine(9), &ask(stolen, host("m", &[])), None, "mallory", NOW);
    b.register(machine(1), &ask(stolen, host("laptop", &[])), None, "ada", NOW);
    let first = b.approve("mallory", "mallory", "test", NOW).unwrap();
    let second = b.approve("ada", "ada", "test", NOW);
    assert!(second.is_err(), "{second:?}");
    let node = b.node_named(&first.id.to_string()).unwrap();
    assert_eq!((node.machine, node.user), (machine(9), Some(2)), "Mallory's machine is no device of Ada's");
}

#[test]
fn a_name_is_no_number_and_no_name_of_the_administrator() {
    let mut b = registry(OPEN);
    let ada = join(&mut b, 1, host("laptop", &[]), "ada");
    let record = DnsRecord { name: "printer.mesh.internal".into(), r#type: "A".into(), value: "10.0.0.9".into() };
    b.set_names(Names { records: vec![record], ..Names::default() }, "test", NOW);
    let mallory = join(&mut b, 2, host(&ada.to_string(), &[]), "mallory");
    assert_eq!(b.node_named(&ada.to_string()).unwrap().id, ada, "a number means the node of that number");
    says(&mut b, 2, host("printer", &[]));
    assert_ne!(b.node_named(&mallory.to_string()).unwrap().name, "printer", "names of the administrator are taken");
    assert!(b.rename("laptop", "77", "test", NOW).is_err());
}

#[test]
fn a_key_good_once_makes_one_node_and_does_not_bring_back_one_that_was_expired() {
    let mut b = registry(OPEN);
    give(&mut b, 2, "once", false, &[]);
    let id = join(&mut b, 3, host("m", &[]), "once");
    let with_tag = |n| {
        let host = Hostinfo { request_tags: vec!["tag:x".into()], ..host("m", &[]) };
        ask(key(n), host)
    };
    // The same machine, now with a tag, now without, each time with another key.
    for turn in 0..6u8 {
        let request = if turn % 2 == 0 { with_tag(3 + turn / 2) } else { ask(key(4 + turn / 2), host("m", &[])) };
        let _ = b.register(machine(3), &request, Some("once"), "-", NOW);
    }
    assert_eq!(b.nodes_of(machine(3)).len(), 1, "one node");
    b.expire(&id.to_string(), "test", NOW).unwrap();
    let again = b.register(machine(3), &ask(key(3), host("m", &[])), Some("once"), "-", NOW + 1);
    assert!(matches!(again, Registered::Refused(_)), "an administrator has ended it: {again:?}");
    let again = b.register(machine(3), &ask(key(40), host("m", &[])), Some("once"), "-", NOW + 1);
    assert!(matches!(again, Registered::Refused(_)), "{again:?}");
}

const APPS: &str = r#"{
    "tagOwners": {"tag:conn": ["mallory@example.com"], "tag:router": ["ada@example.com"]},
    "nodeAttrs": [{"target": ["*"], "app": {"tailscale.com/app-connectors": [
        {"name": "crm", "connectors": ["tag:conn"], "domains": ["crm.example"]}]}}],
    "autoApprovers": {"routes": {"0.0.0.0/0": ["tag:conn"], "::/0": ["tag:conn"], "10.0.0.0/24": ["tag:router"]}},
    "grants": [{"src": ["autogroup:member"], "dst": ["app:crm"], "ip": ["tcp:443"]}]}"#;

#[test]
fn a_connector_opens_itself_and_nobody_else() {
    let mut b = registry(APPS);
    give(&mut b, 2, "conn", true, &["tag:conn"]);
    give(&mut b, 1, "router", true, &["tag:router"]);
    let victim = join(&mut b, 1, host("laptop", &[]), "ada");
    let member = join(&mut b, 2, host("m", &[]), "mallory");
    let router = join(&mut b, 3, host("office", &["10.0.0.0/24"]), "router");
    let address = b.node_named("laptop").unwrap().ipv4;
    let claims = [format!("{address}/32"), "10.0.0.5/32".into(), "198.51.100.9/32".into(), "100.100.100.100/32".into()];
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    let conn = join(&mut b, 4, host("conn", &claims), "conn");
    let lies = [address.to_string(), "10.0.0.5".into(), "198.51.100.9".into()].map(|a| a.parse().unwrap());
    b.connector_reported(conn, &BTreeMap::from([("crm.example".to_string(), lies.to_vec())]), &[], NOW);
    let s = b.snapshot(NOW);
    let opened = |id| map(&s, id)["PacketFilters"]["base"].to_string();
    assert!(opened(conn).contains("198.51.100.9"), "{}", opened(conn));
    assert!(!opened(victim).contains("443"), "the connector's word opens a laptop: {}", opened(victim));
    assert!(!opened(router).contains("443"), "the connector's word opens another router: {}", opened(router));
    let told = map(&s, member);
    let peer = |name: &str| told["Peers"].as_array().unwrap().iter().find(|p| p["Name"] == json!(name)).cloned();
    let allowed = peer("conn.mesh.internal.").unwrap()["AllowedIPs"].to_string();
    assert!(!allowed.contains(&format!("\"{address}/32\"")), "the connector takes a node's address: {allowed}");
    assert!(!allowed.contains("100.100.100.100"), "{allowed}");
    assert!(peer("office.mesh.internal.").is_none(), "the other router is nobody's business");
}

#[test]
fn routes_into_the_network_itself_are_nobodys_to_offer() {
    let mut b = registry(OPEN);
    let victim = join(&mut b, 1, host("laptop", &[]), "ada");
    let address = b.node_named("laptop").unwrap().ipv4;
    let claims = [format!("{address}/32"), "100.64.0.0/24".into(), "fd7a:115c:a1e0:b1a:0:7:a00:0/120".into()];
    let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
    let router = join(&mut b, 2, host("router", &claims), "mallory");
    let own = |text: &str| text.parse().unwrap();
    assert!(b.approve_routes(&router.to_string(), &[own(claims[0])], "test", NOW).is_err());
    let via = own(claims[2]);
    b.approve_routes(&router.to_string(), &[via], "test", NOW).unwrap();
    let allowed = map(&b.snapshot(NOW), victim)["Peers"][0]["AllowedIPs"].to_string();
    assert!(allowed.contains("b1a:0:7") && !allowed.contains(&address.to_string()), "{allowed}");
}

#[test]
fn what_a_node_says_of_itself_has_an_end() {
    let mut b = registry(OPEN);
    let viewer = join(&mut b, 1, host("laptop", &[]), "ada");
    let long = "x".repeat(100_000);
    let service = Service { proto: "tcp".into(), port: 1, description: long.clone() };
    let routes = (0..20_000u32).map(|i| format!("10.{}.{}.{}/32", i >> 16, i >> 8 & 255, i & 255).parse().unwrap());
    let huge = Hostinfo {
        os: long.clone(),
        ipn_version: long.clone(),
        services: vec![service; 1_000],
        ssh_host_keys: vec![long.clone(); 100],
        request_tags: Vec::new(),
        routable_ips: routes.collect(),
        ..host(&long, &[])
    };
    let loud = join(&mut b, 2, huge.clone(), "mallory");
    let size = |b: &mut Registry| {
        let node = b.node_named(&loud.to_string()).unwrap();
        (map(&b.snapshot(NOW), viewer).to_string().len(), serde_json::to_vec(&*node).unwrap().len())
    };
    let (peers, saved) = size(&mut b);
    assert!(peers < 64 * 1024 && saved < 256 * 1024, "joined: {peers} bytes to each peer, {saved} saved");
    says(&mut b, 2, Hostinfo { os_version: "2".into(), ..huge });
    let (peers, saved) = size(&mut b);
    assert!(peers < 64 * 1024 && saved < 256 * 1024, "updated: {peers} bytes to each peer, {saved} saved");
}

#[test]
fn who_has_left_hears_nothing_of_the_network_and_fills_no_log() {
    let mut b = registry(OPEN);
    let record = DnsRecord { name: "secret.corp.example".into(), r#type: "A".into(), value: "10.0.0.9".into() };
    let split = BTreeMap::from([("corp.example".to_string(), vec!["10.0.0.53".to_string()])]);
    b.set_names(Names { records: vec![record], split, ..Names::default() }, "test", NOW);
    let id = join(&mut b, 1, host("laptop", &[]), "ada");
    assert!(map(&b.snapshot(NOW), id).to_string().contains("secret.corp.example"));
    b.expire(&id.to_string(), "test", NOW).unwrap();
    let told = map(&b.snapshot(NOW), id).to_string();
    assert!(!told.contains("corp.example"), "{told}");
    b.take_audits();
    let out = RegisterRequest { expiry: Some(Timestamp(123)), ..ask(key(1), host("laptop", &[])) };
    for _ in 0..100 {
        assert_eq!(b.register(machine(1), &out, None, "-", NOW + 1), Registered::Left);
    }
    assert!(b.take_audits().len() <= 1, "leaving once is one line");
}

#[test]
fn strangers_do_not_weigh_on_every_picture() {
    let mut b = registry(OPEN);
    join(&mut b, 1, host("laptop", &[]), "ada");
    let before = b.snapshot(NOW);
    let service = Service { proto: "tcp".into(), port: 1, description: String::new() };
    let big = Hostinfo { services: vec![service; 700], ..host("x", &[]) };
    for n in 0..1_000u32 {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let ask = ask(NodeKey::from_bytes(bytes), big.clone());
        let done = b.register(MachineKey::from_bytes(bytes), &ask, None, &format!("ticket-{n}"), NOW);
        assert!(matches!(done, Registered::Waits(_)));
    }
    let after = b.snapshot(NOW);
    assert_eq!(after.revision, before.revision, "nodes have nothing to hear when strangers wait");
    assert!(after.pending.values().all(|p| p.host.services.is_empty()), "a page shows no services");
    says(&mut b, 1, Hostinfo { os: "other".into(), ..host("laptop", &[]) });
    let changed = b.snapshot(NOW);
    assert_ne!(changed.revision, after.revision);
    let same = |ticket: &str| std::sync::Arc::ptr_eq(&after.pending[ticket], &changed.pending[ticket]);
    assert!(same("ticket-5"), "pictures share who waits");
}
