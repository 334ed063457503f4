//! What administrators do with the registry and what they are told: keys, users, routes, names, keys that end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::sync::Arc;

use serde_json::json;
use tailnet::record::PreAuthKey;
use tailnet::{Registered, Registry, Saved, Settings};
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::register::RegisterRequest;

fn node(registry: &mut Registry, id: u64, more: serde_json::Value) {
    let mut all = json!({
        "id": id, "machine": format!("mkey:{id:064x}"), "key": format!("nodekey:{id:064x}"), "name": format!("n{id}"),
        "ipv4": format!("100.64.0.{id}"), "ipv6": format!("fd7a:115c:a1e0::{id}"), "created": 1 });
    for (k, v) in more.as_object().unwrap() {
        all[k] = v.clone();
    }
    registry.load(Saved::Node(Arc::new(serde_json::from_value(all).unwrap())), 1).unwrap();
}

fn registry() -> Registry {
    let mut registry = Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() });
    for name in ["ada@example.com", "ben@example.com", "ben@other.example"] {
        registry.create_user(name, None, "test", 1).unwrap();
    }
    registry
}

fn key() -> PreAuthKey {
    PreAuthKey {
        bcrypt: None,
        id: 0,
        user: Some(1),
        hash: "x".into(),
        reusable: true,
        ephemeral: false,
        tags: vec!["tag:x".into()],
        created: 1,
        expires: None,
        used: 0,
        revoked: false,
    }
}

#[test]
fn a_key_is_in_the_next_picture_and_on_record_with_whose_it_is() {
    let mut b = registry();
    let _ = b.snapshot(1);
    let id = b.create_key(key(), "test", 2).unwrap().id;
    assert!(b.changed());
    assert!(!b.snapshot(2).keys[&id].revoked);
    b.revoke_key(id, "test", 3).unwrap();
    assert!(b.changed());
    assert!(b.snapshot(3).keys[&id].revoked);
    b.revoke_key(id, "test", 4).unwrap();
    let told: Vec<String> = b.take_audits().into_iter().map(|a| format!("{} {}", a.what, a.about)).collect();
    assert_eq!(told[3..], ["key-created key 1: ada@example.com tag:x reusable", "key-revoked key 1"]);
}

#[test]
fn a_short_name_that_is_two_users_is_neither() {
    let mut b = registry();
    let why = b.delete_user("ben", "test", 2).unwrap_err().to_string();
    assert!(why.contains("ben@example.com or ben@other.example"), "{why}");
    assert_eq!(b.user_named("ben@other.example").unwrap().id, 3);
    b.delete_user("ben@example.com", "test", 2).unwrap();
    assert_eq!(b.user_named("ben").unwrap().id, 3, "now it is one");
    assert!(b.user_named("nobody").unwrap_err().to_string().contains("there are ada@example.com"));
}

#[test]
fn who_goes_leaves_the_machines_of_tags_behind() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 2, "tags": ["tag:router"] }));
    node(&mut b, 2, json!({ "user": 2 }));
    let why = b.delete_user("ben@example.com", "test", 2).unwrap_err().to_string();
    assert!(why.contains("has nodes: n2;"), "{why}");
    b.delete("n2", "test", 2).unwrap();
    b.delete_user("ben@example.com", "test", 2).unwrap();
    assert_eq!(b.node_named("n1").unwrap().user, None);
}

#[test]
fn a_key_that_ends_by_itself_is_seen_to_have_ended() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1, "expires": 100 }));
    let s = b.snapshot(50);
    assert!(!s.nodes[&1].expired && !b.changed());
    assert_eq!(b.deadline(50), Some(61), "the grace after a start");
    b.tick(100);
    assert!(b.changed());
    let s = b.snapshot(100);
    assert!(s.nodes[&1].expired && s.place(1).is_none());
    b.tick(101);
    assert!(!b.changed(), "that is news once");
}

#[test]
fn records_are_full_names_that_no_node_has() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1 }));
    assert!(b.free_name("printer.mesh.internal").is_ok() && b.free_name("n1.corp.example").is_ok());
    assert!(b.free_name("printer").unwrap_err().to_string().contains("printer.mesh.internal"));
    assert!(b.free_name("n1.mesh.internal").unwrap_err().to_string().contains("is the node n1"));
}

#[test]
fn carriers_are_those_whose_packets_pass() {
    let mut b = registry();
    let offers = |routes: &[&str]| json!({ "user": 1, "tags": ["tag:r"], "host": { "RoutableIPs": routes }, "approved": routes });
    node(&mut b, 1, json!({ "user": 1 }));
    node(&mut b, 2, json!({ "user": 2 }));
    node(&mut b, 3, offers(&["198.51.100.0/24", "0.0.0.0/0", "::/0"]));
    node(&mut b, 4, offers(&["198.51.100.7/32"]));
    let policy = r#"{"tagOwners": {"tag:r": []}, "ipsets": {"ipset:p": ["add 198.51.100.0/24", "remove 198.51.100.8"]},
        "grants": [{"src": ["ada@example.com"], "dst": ["ipset:p"], "ip": ["tcp:80"]}]}"#;
    b.set_policy(Some(policy), "test", 2).unwrap();
    let s = b.snapshot(2);
    let who = |addr: &str| -> Vec<(String, Vec<String>)> {
        let told = |c: tailnet::Carrier<'_>| {
            (format!("{} {}", c.member.node.name, c.route.long()), c.users.iter().map(ToString::to_string).collect())
        };
        s.carriers(addr.parse().unwrap()).into_iter().map(told).collect()
    };
    let of =
        |route: &str, users: &[&str]| (route.to_string(), users.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(who("198.51.100.9"), [of("n3 198.51.100.0/24", &["n1"])]);
    // The longer route takes it; the shorter one is not what anybody's packets go by.
    assert_eq!(who("198.51.100.7"), [of("n4 198.51.100.7/32", &["n1"])]);
    // What the set leaves out is dropped at the router.
    assert_eq!(who("198.51.100.8"), [of("n3 198.51.100.0/24", &[])]);
    assert_eq!(who("203.0.113.1"), [of("n3 0.0.0.0/0", &[])]);
}

#[test]
fn routes_that_nobody_offers_are_seen() {
    let mut b = registry();
    node(&mut b, 1, json!({ "user": 1, "host": { "RoutableIPs": ["10.0.0.0/8"] } }));
    b.approve_routes("n1", &["192.0.2.0/24".parse().unwrap()], "test", 2).unwrap();
    let s = b.snapshot(2);
    let all: Vec<String> = s.routes().iter().map(|r| format!("{} {}", r.prefix.long(), r.state.word())).collect();
    assert_eq!(all, ["10.0.0.0/8 pending", "192.0.2.0/24 approved, not offered"]);
    assert_eq!(
        s.unmatched(&["n1".into(), "group:none".into(), "ada@example.com".into(), "x".into()]),
        ["group:none", "x"]
    );
}

fn machine(n: u8) -> MachineKey {
    format!("mkey:{n:064x}").parse().unwrap()
}

fn node_key(n: u8) -> NodeKey {
    format!("nodekey:{n:064x}").parse().unwrap()
}

/// A machine logs in with a key, perhaps instead of another one, perhaps asking for tags.
fn login(
    registry: &mut Registry,
    m: u8,
    key: u8,
    before: Option<u8>,
    tags: &[&str],
    proof: Option<&str>,
    now: u64,
) -> Registered {
    let mut ask = RegisterRequest { version: 130, node_key: Some(node_key(key)), ..RegisterRequest::default() };
    ask.old_node_key = before.map(node_key);
    ask.hostinfo.hostname = format!("m{m}");
    ask.hostinfo.request_tags = tags.iter().map(ToString::to_string).collect();
    registry.register(machine(m), &ask, proof, &format!("ticket-{m}-{key}"), now)
}

#[test]
fn a_machine_that_logs_in_anew_with_or_without_tags_is_the_same_node() {
    let mut b = registry();
    let plain = PreAuthKey { tags: vec![], hash: "plain".into(), ..key() };
    let tagged = PreAuthKey { hash: "tagged".into(), ..key() };
    let bens = PreAuthKey { user: Some(2), hash: "bens".into(), tags: vec![], ..key() };
    for k in [plain, tagged, bens] {
        b.create_key(k, "test", 1).unwrap();
    }
    assert_eq!(login(&mut b, 1, 10, None, &[], Some("plain"), 2), Registered::Node(1));
    b.approve_routes("m1", &["192.0.2.0/24".parse().unwrap()], "test", 2).unwrap();
    let was = b.node_named("m1").unwrap();
    assert_eq!(login(&mut b, 1, 11, Some(10), &[], Some("tagged"), 3), Registered::Node(1), "it gains a tag");
    let is = b.node_named("m1").unwrap();
    assert_eq!((is.ipv4, &is.approved, is.tags.as_slice()), (was.ipv4, &was.approved, &["tag:x".to_string()][..]));
    assert_eq!(login(&mut b, 1, 12, Some(11), &[], Some("plain"), 4), Registered::Node(1), "and loses it");
    assert!(b.node_named("m1").unwrap().tags.is_empty());
    // Somebody else's login is somebody else's node, and so is a key that another machine had.
    assert_eq!(login(&mut b, 1, 13, Some(12), &[], Some("bens"), 5), Registered::Node(2));
    assert_eq!(login(&mut b, 2, 14, Some(12), &[], Some("tagged"), 6), Registered::Node(3));
    assert_eq!(b.node_named("m1").unwrap().key, node_key(12));
}

#[test]
fn who_is_turned_away_is_told_so_and_who_has_joined_waits_no_more() {
    let mut b = registry();
    b.create_key(PreAuthKey { hash: "plain".into(), tags: vec![], ..key() }, "test", 1).unwrap();
    assert_eq!(login(&mut b, 1, 10, None, &[], None, 2), Registered::Waits("ticket-1-10".into()));
    b.refuse("ticket-1-10", "test", 3).unwrap();
    assert!(b.refuse("ticket-1-10", "test", 3).is_err() && b.approve("ticket-1-10", "ada", "test", 3).is_err());
    let Registered::Refused(why) = login(&mut b, 1, 11, None, &[], None, 4) else { panic!("it has a new page") };
    assert!(why.contains("turned this device away") && why.contains("10 minutes"), "{why}");
    assert_eq!(login(&mut b, 1, 11, None, &[], Some("plain"), 5), Registered::Node(1), "a key is another matter");
    b.tick(700);
    // A page is asked for, and then the machine joins by key.
    assert_eq!(login(&mut b, 2, 20, None, &[], None, 701), Registered::Waits("ticket-2-20".into()));
    assert_eq!(login(&mut b, 2, 21, None, &[], Some("plain"), 702), Registered::Node(2));
    assert!(b.approve("ticket-2-20", "ada", "test", 703).is_err());
    assert!(b.snapshot(703).pending.is_empty());
}

#[test]
fn any_route_of_a_connector_is_any_single_address() {
    let mut b = registry();
    let offers = |tag: &str| json!({ "tags": [tag], "host": { "RoutableIPs": ["198.51.100.7/32", "128.0.0.0/1", "192.0.2.0/24"] } });
    node(&mut b, 1, offers("tag:c"));
    node(&mut b, 2, offers("tag:r"));
    let policy = r#"{"tagOwners": {"tag:c": [], "tag:r": []},
        "autoApprovers": {"routes": {"0.0.0.0/0": ["tag:c", "tag:r"], "192.0.2.0/24": ["tag:c"]}},
        "nodeAttrs": [{"target": ["*"], "app": {"tailscale.com/app-connectors": [
            {"name": "x", "connectors": ["tag:c"], "domains": ["x.example"]}]}}]}"#;
    b.set_policy(Some(policy), "test", 2).unwrap();
    let s = b.snapshot(2);
    let state = |id: u64| -> Vec<String> {
        let all = s.routes_of(&s.nodes[&id]);
        let mut all: Vec<String> = all.iter().map(|r| format!("{} {}", r.prefix.long(), r.state.word())).collect();
        all.sort();
        all
    };
    assert_eq!(state(1), ["128.0.0.0/1 pending", "192.0.2.0/24 approved", "198.51.100.7/32 approved"]);
    assert_eq!(state(2), ["128.0.0.0/1 approved", "192.0.2.0/24 approved", "198.51.100.7/32 approved"]);
}

#[test]
fn a_member_that_comes_and_goes_does_not_fill_the_disk() {
    let mut b = registry();
    b.create_key(PreAuthKey { tags: vec![], ..key() }, "test", 1).unwrap();
    for _ in 0..5_000 {
        login(&mut b, 1, 10, None, &[], Some("x"), 600);
    }
    let lines = b.take_audits().iter().filter(|a| a.what == api::AuditEvent::NodeRejoined).count();
    assert_eq!(lines, 1_000);
    login(&mut b, 1, 10, None, &[], Some("x"), 660);
    assert!(
        b.take_audits().iter().any(|a| a.what == api::AuditEvent::NodeRejoined),
        "the next minute is on record again"
    );
}

#[test]
fn a_large_network_pushes_out_its_own_pages_and_nobody_elses() {
    let mut b = registry();
    let mut asks = |n: u64, from: &str, now: u64| {
        let ask: RegisterRequest = serde_json::from_value(json!({ "NodeKey": format!("nodekey:{n:064x}") })).unwrap();
        let machine: MachineKey = format!("mkey:{n:064x}").parse().unwrap();
        let Registered::Waits(ticket) = b.register(machine, &ask, None, &format!("t{n}"), now) else { panic!("{n}") };
        b.waits_from(&ticket, from.parse().unwrap());
        b.snapshot(now).pending.contains_key("t1")
    };
    assert!(asks(1, "192.0.2.7", 10));
    // A /48 is 65,536 sources, each of which asks for one page.
    for n in 2..2_500u64 {
        assert!(asks(n, &format!("2001:db8:1:{n:x}::1"), 11), "the page of {n} took another's place");
    }
}

#[test]
fn a_clock_that_is_set_back_gives_nobody_longer_and_brings_nobody_back_who_was_put_out() {
    const DAY: u64 = 86_400;
    let (right, wrong) = (100 * DAY, 500 * DAY);
    let settings = Settings { node_expiry: Some(30 * DAY), domain: "mesh.internal".into(), ..Settings::default() };
    let mut b = Registry::new(settings);
    b.create_user("ada@example.com", None, "test", 1).unwrap();
    // By the right clock: a key of a day, a node that is logged in for twenty more, and one that a person puts out later.
    let before = b.create_key(PreAuthKey { expires: Some(right + DAY), ..key() }, "test", right).unwrap().id;
    node(&mut b, 1, json!({ "user": 1, "expires": right + 20 * DAY }));
    node(&mut b, 2, json!({ "user": 1, "expires": right + 20 * DAY }));
    // By the wrong one: a key of an hour, two nodes that log in, one of which is put out.
    let meanwhile = b.create_key(PreAuthKey { expires: Some(wrong + 3_600), ..key() }, "test", wrong).unwrap().id;
    node(&mut b, 3, json!({ "user": 1, "created": wrong, "seen": wrong, "expires": wrong + 30 * DAY }));
    node(&mut b, 4, json!({ "user": 1, "created": wrong, "seen": wrong, "expires": wrong + 30 * DAY }));
    b.connected(3, 1, None, wrong);
    b.disconnected(3, 1, wrong + 10);
    b.expire("n2", "test", wrong).unwrap();
    b.expire("n4", "test", wrong + 5).unwrap();
    let expired = |b: &mut Registry, now: u64| -> Vec<u64> {
        b.snapshot(now).nodes.values().filter(|m| m.expired).map(|m| m.node.id).collect()
    };
    assert_eq!(expired(&mut b, wrong + 10), [1, 2, 4]);

    b.take_saves();
    b.set_back(right);
    assert_eq!(expired(&mut b, right), [2, 4], "put out stays put out");
    let s = b.snapshot(right);
    assert_eq!(s.keys[&before].expires, Some(right + DAY));
    assert_eq!((s.keys[&meanwhile].created, s.keys[&meanwhile].expires), (right, Some(right + 3_600)));
    assert_eq!(s.nodes[&1].node.expires, Some(right + 20 * DAY));
    assert_eq!(s.nodes[&3].node.expires, Some(right + 30 * DAY));
    assert!(b.take_saves().len() >= 3, "what changed is saved");
    assert!(!b.snapshot(right + 120).nodes[&3].online, "nobody counts as connected for days");
    // Once is enough, and a clock that was right changes nothing.
    b.set_back(right + 120);
    b.set_back(right + 180);
    assert!(b.take_saves().is_empty());
}
