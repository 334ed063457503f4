//! The registry of the mesh against a client that believes what it is told. Whatever happens, in whatever order: a client
//! that followed the differences knows exactly what one that comes new is told. And what was saved, read again, is the
//! same registry.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};
use tailnet::record::PreAuthKey;
use tailnet::{Registered, Registry, Saved, Sent, Settings, Slot, Snapshot};
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::Hostinfo;
use tailnet_proto::tailcfg::map::{MapRequest, MapResponse};
use tailnet_proto::tailcfg::register::RegisterRequest;

const POLICIES: [&str; 4] = [
    r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#,
    r#"{"tagOwners": {"tag:r": ["ada@example.com"]}, "grants": [{"src": ["ada@example.com"], "dst": ["tag:r"], "ip": ["22"]},
        {"src": ["ada@example.com"], "dst": ["198.51.100.0/24"], "ip": ["443"]}],
        "autoApprovers": {"routes": {"198.51.100.0/24": ["tag:r"]}}}"#,
    r#"{"grants": [{"src": ["autogroup:member"], "dst": ["autogroup:self"], "ip": ["*"]}],
        "ssh": [{"action": "accept", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["root"]}]}"#,
    r#"{"grants": []}"#,
];

/// A client that applies messages as the public clients do (control/controlclient/map.go).
#[derive(Default)]
struct Client {
    node: Value,
    peers: BTreeMap<u64, Value>,
    filter: Value,
    dns: Value,
    ssh: Value,
    users: BTreeMap<u64, Value>,
    sent: Sent,
    messages: usize,
}

impl Client {
    fn hear(&mut self, s: &Snapshot, id: u64) {
        let Some(m) = self.sent.advance(s, id, (1, &json!({ "Regions": {} }))) else { return };
        self.messages += 1;
        self.apply(&m);
        assert!(self.sent.advance(s, id, (1, &json!({ "Regions": {} }))).is_none(), "the same is not told twice");
    }

    fn apply(&mut self, m: &MapResponse) {
        let v = |it: &dyn erased::Json| it.json();
        if let Some(n) = &m.node {
            self.node = v(n);
        }
        if let Some(all) = &m.peers {
            self.peers = all.iter().map(|n| (n.id, v(n))).collect();
        }
        for n in &m.peers_changed {
            self.peers.insert(n.id, v(n));
        }
        for id in &m.peers_removed {
            assert!(self.peers.remove(id).is_some(), "nobody is removed who was not there");
        }
        for p in &m.peers_changed_patch {
            let n = self.peers.get_mut(&p.node_id).expect("only a known peer is patched");
            let patch = v(p);
            for (from, to) in
                [("Endpoints", "Endpoints"), ("DERPRegion", "HomeDERP"), ("DiscoKey", "DiscoKey"), ("Online", "Online")]
            {
                if let Some(new) = patch.get(from) {
                    n[to] = new.clone();
                }
            }
            let o = n.as_object_mut().unwrap();
            match patch.get("LastSeen") {
                Some(t) => drop(o.insert("LastSeen".into(), t.clone())),
                None => drop(o.remove("LastSeen")),
            }
            if let Some(region) = patch.get("DERPRegion") {
                o.insert("DERP".into(), json!(format!("127.3.3.40:{region}")));
            }
        }
        if let Some(f) = m.packet_filters.get("base") {
            self.filter = v(f);
        }
        if let Some(d) = &m.dns_config {
            self.dns = v(d);
        }
        if let Some(s) = &m.ssh_policy {
            self.ssh = s.clone();
        }
        for u in &m.user_profiles {
            self.users.insert(u.id, v(u));
        }
    }

    fn picture(&self) -> (Value, BTreeMap<u64, Value>, Value, Value, Value) {
        (self.node.clone(), self.peers.clone(), self.filter.clone(), self.dns.clone(), self.ssh.clone())
    }
}

mod erased {
    pub(super) trait Json {
        fn json(&self) -> serde_json::Value;
    }
    impl<T: serde::Serialize> Json for T {
        fn json(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join { machine: u8, user: u8, router: bool },
    Rejoin { machine: u8 },
    Logout { machine: u8 },
    Endpoints { machine: u8, port: u16, relay: u8 },
    Routes { machine: u8, routes: u8 },
    Connect { machine: u8 },
    Disconnect { machine: u8 },
    Approve { machine: u8, route: u8 },
    Revoke { machine: u8, route: u8 },
    Rename { machine: u8, name: u8 },
    Tag { machine: u8, tagged: bool },
    Expire { machine: u8 },
    Delete { machine: u8 },
    Policy(usize),
    Time(u64),
    Silent { machine: u8, alive: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let m = 0..5u8;
    prop_oneof![
        4 => (m.clone(), 0..2u8, any::<bool>()).prop_map(|(machine, user, router)| Step::Join { machine, user, router }),
        1 => m.clone().prop_map(|machine| Step::Rejoin { machine }),
        1 => m.clone().prop_map(|machine| Step::Logout { machine }),
        3 => (m.clone(), 1..4u16, 0..3u8).prop_map(|(machine, port, relay)| Step::Endpoints { machine, port, relay }),
        3 => (m.clone(), 0..8u8).prop_map(|(machine, routes)| Step::Routes { machine, routes }),
        3 => m.clone().prop_map(|machine| Step::Connect { machine }),
        2 => m.clone().prop_map(|machine| Step::Disconnect { machine }),
        2 => (m.clone(), 0..3u8).prop_map(|(machine, route)| Step::Approve { machine, route }),
        1 => (m.clone(), 0..3u8).prop_map(|(machine, route)| Step::Revoke { machine, route }),
        1 => (m.clone(), 0..4u8).prop_map(|(machine, name)| Step::Rename { machine, name }),
        1 => (m.clone(), any::<bool>()).prop_map(|(machine, tagged)| Step::Tag { machine, tagged }),
        1 => m.clone().prop_map(|machine| Step::Expire { machine }),
        1 => m.clone().prop_map(|machine| Step::Delete { machine }),
        2 => (0..POLICIES.len()).prop_map(Step::Policy),
        2 => (1..400u64).prop_map(Step::Time),
        1 => (m, any::<bool>()).prop_map(|(machine, alive)| Step::Silent { machine, alive }),
    ]
}

const ROUTES: [&str; 3] = ["198.51.100.7/32", "198.51.100.0/24", "0.0.0.0/0"];

fn machine(n: u8) -> MachineKey {
    MachineKey::from_bytes([n + 1; 32])
}

/// Keys change with every new login.
fn key(n: u8, turn: u8) -> NodeKey {
    let mut bytes = [n + 101; 32];
    bytes[0] = turn;
    NodeKey::from_bytes(bytes)
}

struct World {
    registry: Registry,
    now: u64,
    turns: [u8; 5],
    hosts: [Hostinfo; 5],
}

impl World {
    fn new() -> World {
        let mut registry = Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() });
        let now = 1_000_000;
        for (i, name) in ["ada@example.com", "ben@example.com"].into_iter().enumerate() {
            let user = registry.create_user(name, None, "test", now).unwrap();
            let key = PreAuthKey {
                bcrypt: None,
                id: 0,
                user: Some(user.id),
                hash: format!("hash-{i}"),
                reusable: true,
                ephemeral: i == 1,
                tags: Vec::new(),
                created: now,
                expires: None,
                used: 0,
                revoked: false,
            };
            registry.create_key(key, "test", now).unwrap();
        }
        World { registry, now, turns: [0; 5], hosts: std::array::from_fn(|_| Hostinfo::default()) }
    }

    fn request(&self, n: u8) -> RegisterRequest {
        RegisterRequest {
            version: 130,
            node_key: Some(key(n, self.turns[usize::from(n)])),
            hostinfo: self.hosts[usize::from(n)].clone(),
            ..RegisterRequest::default()
        }
    }

    fn id(&self, n: u8) -> Option<u64> {
        let key = key(n, self.turns[usize::from(n)]).to_string();
        self.registry.node_named(&key).ok().map(|n| n.id)
    }

    fn update(&mut self, n: u8, endpoints: Vec<std::net::SocketAddr>) {
        let ask = MapRequest {
            version: 130,
            node_key: Some(key(n, self.turns[usize::from(n)])),
            hostinfo: Some(self.hosts[usize::from(n)].clone()),
            endpoints,
            ..MapRequest::default()
        };
        let _ = self.registry.update(machine(n), &ask, self.now);
    }

    fn go(&mut self, step: &Step) {
        let (now, by) = (self.now, "test");
        match *step {
            Step::Join { machine: n, user, router } => {
                let host = &mut self.hosts[usize::from(n)];
                host.hostname = format!("host-{}", n % 2);
                host.routable_ips = if router { vec![ROUTES[0].parse().unwrap()] } else { Vec::new() };
                let ask = self.request(n);
                let done = self.registry.register(machine(n), &ask, Some(&format!("hash-{user}")), "t", now);
                assert!(matches!(done, Registered::Node(_)), "{done:?}");
            }
            Step::Rejoin { machine: n } => {
                self.turns[usize::from(n)] = self.turns[usize::from(n)].wrapping_add(1);
                let ask = self.request(n);
                let _ = self.registry.register(machine(n), &ask, Some("hash-0"), "t", now);
            }
            Step::Logout { machine: n } => {
                let ask = RegisterRequest { expiry: Some(addr::Timestamp(123)), ..self.request(n) };
                assert_eq!(self.registry.register(machine(n), &ask, None, "t", now), Registered::Left);
            }
            Step::Endpoints { machine: n, port, relay } => {
                let net =
                    tailnet_proto::tailcfg::host::NetInfo { preferred_derp: u32::from(relay), ..Default::default() };
                self.hosts[usize::from(n)].net_info = Some(net);
                let all = (1..port).map(|p| format!("192.0.2.{n}:{p}").parse().unwrap()).collect();
                self.update(n, all);
            }
            Step::Routes { machine: n, routes } => {
                let offered = ROUTES.iter().enumerate().filter(|(i, _)| routes & (1 << i) != 0);
                self.hosts[usize::from(n)].routable_ips = offered.map(|(_, r)| r.parse().unwrap()).collect();
                self.update(n, vec!["192.0.2.9:9".parse().unwrap()]);
            }
            Step::Connect { machine: n } => {
                self.id(n).into_iter().for_each(|id| self.registry.connected(id, u64::from(n), None, now))
            }
            Step::Disconnect { machine: n } => {
                self.id(n).into_iter().for_each(|id| self.registry.disconnected(id, u64::from(n), now))
            }
            Step::Approve { machine: n, route } => {
                if let Some(id) = self.id(n) {
                    let route = ROUTES[usize::from(route)].parse().unwrap();
                    self.registry.approve_routes(&id.to_string(), &[route], by, now).unwrap();
                }
            }
            Step::Revoke { machine: n, route } => {
                if let Some(id) = self.id(n) {
                    let route = ROUTES[usize::from(route)].parse().unwrap();
                    let _ = self.registry.revoke_routes(&id.to_string(), &[route], by, now);
                }
            }
            Step::Rename { machine: n, name } => {
                if let Some(id) = self.id(n) {
                    let _ = self.registry.rename(&id.to_string(), &format!("name-{name}"), by, now);
                }
            }
            Step::Tag { machine: n, tagged } => {
                if let Some(id) = self.id(n) {
                    let tags = if tagged { vec!["tag:r".to_string()] } else { Vec::new() };
                    let _ = self.registry.tag(&id.to_string(), &tags, by, now);
                }
            }
            Step::Expire { machine: n } => {
                if let Some(id) = self.id(n) {
                    self.registry.expire(&id.to_string(), by, now).unwrap();
                }
            }
            Step::Delete { machine: n } => {
                if let Some(id) = self.id(n) {
                    self.registry.delete(&id.to_string(), by, now).unwrap();
                }
            }
            Step::Policy(i) => self.registry.set_policy(Some(POLICIES[i]), by, now).unwrap(),
            Step::Time(t) => self.now += t,
            Step::Silent { machine: n, alive } => {
                self.id(n).into_iter().for_each(|id| self.registry.answered(id, alive, now))
            }
        }
    }
}

/// What nobody may ever find.
fn sane(s: &Snapshot) {
    let unique = |all: Vec<String>| all.iter().collect::<BTreeSet<_>>().len() == all.len();
    assert!(unique(s.nodes.values().map(|m| m.node.name.clone()).collect()), "two nodes of one name");
    assert!(unique(s.nodes.values().map(|m| m.node.ipv4.to_string()).collect()), "two nodes at one address");
    assert!(unique(s.nodes.values().map(|m| m.node.key.to_string()).collect()), "two nodes of one key");
    assert_eq!(s.by_key.len(), s.nodes.len());
    for m in s.nodes.values().filter(|m| m.expired) {
        assert!(s.place(m.node.id).is_none(), "a node whose key has ended takes no part");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn who_follows_differences_knows_what_a_newcomer_is_told(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut clients: BTreeMap<u64, Client> = BTreeMap::new();
        for step in &steps {
            world.go(step);
            let s = world.registry.snapshot(world.now);
            sane(&s);
            clients.retain(|id, _| s.nodes.contains_key(id));
            for id in s.nodes.keys() {
                let client = clients.entry(*id).or_default();
                client.hear(&s, *id);
                let mut new = Client::default();
                new.hear(&s, *id);
                let (had, fresh) = (client.picture(), new.picture());
                prop_assert_eq!(&had.0, &fresh.0, "own node of {} after {:?}", id, step);
                prop_assert_eq!(&had.1, &fresh.1, "peers of {} after {:?}", id, step);
                prop_assert_eq!(&had.2, &fresh.2, "filter of {} after {:?}", id, step);
                prop_assert_eq!(&had.3, &fresh.3, "names of {} after {:?}", id, step);
                let none = json!({ "rules": [] });
                let ssh = |v: &Value| if v.is_null() { none.clone() } else { v.clone() };
                prop_assert_eq!(ssh(&had.4), ssh(&fresh.4), "logins of {} after {:?}", id, step);
                for (user, profile) in &new.users {
                    prop_assert_eq!(client.users.get(user), Some(profile));
                }
            }
        }
    }

    #[test]
    fn what_was_saved_is_the_same_book(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut disk: BTreeMap<Slot, Saved> = BTreeMap::new();
        for step in &steps {
            world.go(step);
            world.registry.tick(world.now);
            for slot in world.registry.take_saves() {
                match world.registry.saved(slot) {
                    Some(saved) => drop(disk.insert(slot, saved)),
                    None => drop(disk.remove(&slot)),
                }
            }
        }
        let mut again = Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() });
        for saved in disk.into_values() {
            again.load(saved, world.now).unwrap();
        }
        let (a, b) = (world.registry.snapshot(world.now), again.snapshot(world.now));
        let records = |s: &Snapshot| s.nodes.values().map(|m| m.node.clone()).collect::<Vec<_>>();
        prop_assert_eq!(records(&a), records(&b));
        prop_assert_eq!(&a.users, &b.users);
        prop_assert_eq!(&a.keys, &b.keys);
        prop_assert_eq!(world.registry.policy_text(), again.policy_text());
        // Numbers are not given out twice.
        let next = |registry: &mut Registry| registry.create_user("zoe", None, "test", 0).unwrap().id;
        prop_assert_eq!(next(&mut world.registry), next(&mut again));
    }
}

#[test]
fn a_key_of_another_machine_and_keys_that_are_used_up_let_nobody_in() {
    let mut w = World::new();
    w.go(&Step::Join { machine: 0, user: 0, router: false });
    let theirs = RegisterRequest { node_key: Some(key(0, 0)), ..w.request(1) };
    assert!(matches!(w.registry.register(machine(1), &theirs, Some("hash-0"), "t", w.now), Registered::Refused(_)));
    let ask = MapRequest { version: 130, node_key: Some(key(0, 0)), ..MapRequest::default() };
    assert_eq!(w.registry.update(machine(1), &ask, w.now), Err(tailnet::Refusal::NodeKeyOfAnother));
    assert!(w.registry.update(machine(0), &ask, w.now).is_ok());

    let once = PreAuthKey {
        bcrypt: None,
        hash: "once".into(),
        reusable: false,
        used: 0,
        expires: Some(w.now + 10),
        ..w.registry.keys().next().unwrap().clone()
    };
    let once = w.registry.create_key(once, "test", w.now).unwrap();
    let ask = w.request(2);
    let join = |w: &mut World, n: u8| {
        let ask = w.request(n);
        w.registry.register(machine(n), &ask, Some("once"), "t", w.now)
    };
    assert!(matches!(w.registry.register(machine(2), &ask, Some("nonsense"), "t", w.now), Registered::Refused(_)));
    assert!(matches!(join(&mut w, 2), Registered::Node(_)));
    assert!(matches!(join(&mut w, 2), Registered::Node(_)), "the same machine starts again with it");
    assert!(matches!(join(&mut w, 3), Registered::Refused(_)), "one node only");
    w.now += 11;
    assert!(matches!(join(&mut w, 2), Registered::Refused(_)), "it has ended");
    w.now -= 11;
    w.registry.revoke_key(once.id, "test", w.now).unwrap();
    assert!(matches!(join(&mut w, 2), Registered::Refused(_)), "it was taken back");
}

#[test]
fn who_waits_is_let_in_by_a_person_and_only_then() {
    let mut w = World::new();
    let ask = w.request(0);
    assert_eq!(w.registry.register(machine(0), &ask, None, "ticket", w.now), Registered::Waits("ticket".into()));
    assert_eq!(
        w.registry.register(machine(0), &ask, None, "other", w.now),
        Registered::Waits("ticket".into()),
        "one page"
    );
    let map = MapRequest { version: 130, node_key: ask.node_key, ..MapRequest::default() };
    assert!(w.registry.update(machine(0), &map, w.now).is_err(), "no map before");
    assert!(w.registry.approve("ticket", "nobody", "test", w.now).is_err());
    assert!(w.registry.approve("nothing", "ada", "test", w.now).is_err());
    let node = w.registry.approve("ticket", "ada", "test", w.now).unwrap();
    assert!(w.registry.approve("ticket", "ada", "test", w.now).is_err(), "once");
    assert_eq!(w.registry.register(machine(0), &ask, None, "x", w.now), Registered::Node(node.id));
    // A page nobody looked at goes.
    let ask = w.request(1);
    w.registry.register(machine(1), &ask, None, "late", w.now);
    w.now += 3_600;
    w.registry.tick(w.now);
    assert!(w.registry.approve("late", "ada", "test", w.now).is_err());
}

#[test]
fn tags_are_asked_for_only_by_those_who_may_give_them() {
    let mut w = World::new();
    w.go(&Step::Policy(1));
    w.hosts[0].request_tags = vec!["tag:r".into()];
    w.hosts[1].request_tags = vec!["tag:r".into()];
    let (ada, ben) = (w.request(0), w.request(1));
    assert!(matches!(w.registry.register(machine(0), &ada, Some("hash-0"), "t", w.now), Registered::Node(_)));
    let Registered::Refused(why) = w.registry.register(machine(1), &ben, Some("hash-1"), "t", w.now) else { panic!() };
    assert!(why.contains("tag:r"), "{why}");
}

#[test]
fn a_second_router_takes_over_and_the_first_does_not_take_it_back() {
    let mut w = World::new();
    for n in [0, 1] {
        w.go(&Step::Join { machine: n, user: 0, router: true });
        w.go(&Step::Connect { machine: n });
        w.go(&Step::Approve { machine: n, route: 0 });
    }
    let carrier = |w: &mut World| {
        let s = w.registry.snapshot(w.now);
        s.carriers("198.51.100.7".parse().unwrap()).first().map(|c| c.member.node.id)
    };
    let (first, second) = (w.id(0), w.id(1));
    assert_eq!(carrier(&mut w), first);
    w.go(&Step::Disconnect { machine: 0 });
    assert_eq!(carrier(&mut w), first, "a short absence moves nothing");
    w.now += 5;
    assert_eq!(carrier(&mut w), second);
    w.go(&Step::Connect { machine: 0 });
    assert_eq!(carrier(&mut w), second, "no flapping");
    w.go(&Step::Silent { machine: 1, alive: false });
    assert_eq!(carrier(&mut w), first, "one that does not answer is away");
    w.go(&Step::Revoke { machine: 0, route: 0 });
    assert_eq!(carrier(&mut w), second, "the last one that is left, answering or not");
    w.go(&Step::Revoke { machine: 1, route: 0 });
    assert_eq!(carrier(&mut w), None);
}

#[test]
fn only_clients_that_can_are_told_of_peers_in_a_small_message() {
    // Releases 1.84, 1.100 and 1.102.
    for (version, small) in [(116, false), (141, false), (142, true)] {
        let mut w = World::new();
        w.go(&Step::Join { machine: 0, user: 0, router: false });
        let ask = MapRequest { version, node_key: Some(key(0, 0)), ..MapRequest::default() };
        let id = w.registry.update(machine(0), &ask, w.now).unwrap();
        w.go(&Step::Join { machine: 1, user: 0, router: false });
        w.go(&Step::Endpoints { machine: 1, port: 3, relay: 9 });
        let mut sent = Sent::default();
        let derp = json!({ "Regions": {} });
        let mut next = |w: &mut World| sent.advance(&w.registry.snapshot(w.now), id, (1, &derp)).unwrap();
        next(&mut w);
        w.go(&Step::Join { machine: 2, user: 0, router: false });
        let came = next(&mut w);
        assert_eq!((came.peers_changed.len(), came.health.is_none()), (1, small), "{version}");
        w.go(&Step::Endpoints { machine: 1, port: 3, relay: 8 });
        let moved = next(&mut w);
        assert_eq!((moved.peers_changed_patch.len(), moved.health.is_none()), (1, true), "{version}");
        w.go(&Step::Delete { machine: 2 });
        let went = next(&mut w);
        assert_eq!((went.peers_removed.len(), went.health.is_none()), (1, small), "{version}");
    }
}

#[test]
fn a_node_that_logs_in_again_stays_at_its_relay() {
    let mut w = World::new();
    for n in [0, 1] {
        w.go(&Step::Join { machine: n, user: 0, router: false });
        w.go(&Step::Endpoints { machine: n, port: 3, relay: 9 });
    }
    let (viewer, id) = (w.id(0).unwrap(), w.id(1).unwrap());
    let relay = |w: &mut World| {
        let mut peer = Client::default();
        peer.hear(&w.registry.snapshot(w.now), viewer);
        peer.peers[&id]["HomeDERP"].clone()
    };
    assert_eq!(relay(&mut w), json!(9));
    w.go(&Step::Logout { machine: 1 });
    // A client that has just started says nothing of its network, neither in its login nor in its first updates.
    w.hosts[1].net_info = None;
    w.go(&Step::Rejoin { machine: 1 });
    assert_eq!((w.id(1), relay(&mut w)), (Some(id), json!(9)));
    w.update(1, Vec::new());
    assert_eq!(relay(&mut w), json!(9));
    w.go(&Step::Endpoints { machine: 1, port: 3, relay: 8 });
    assert_eq!(relay(&mut w), json!(8), "what it says is what counts");
}

/// A world with a member that stays, and one of an ephemeral key that has just connected.
fn with_ephemeral(router: bool) -> (World, u64) {
    let mut w = World::new();
    w.go(&Step::Join { machine: 0, user: 0, router: false });
    w.go(&Step::Connect { machine: 0 });
    w.go(&Step::Join { machine: 1, user: 1, router });
    w.go(&Step::Connect { machine: 1 });
    let id = w.id(1).unwrap();
    (w, id)
}

#[test]
fn an_ephemeral_node_is_forgotten_five_minutes_after_it_has_left() {
    let (mut w, id) = with_ephemeral(false);
    let stays = w.id(0).unwrap();
    let mut peer = Client::default();
    w.now += 7_200;
    peer.hear(&w.registry.snapshot(w.now), stays);
    assert!(peer.peers.contains_key(&id), "who is connected stays, however long");
    w.go(&Step::Disconnect { machine: 1 });
    w.now += 299;
    peer.hear(&w.registry.snapshot(w.now), stays);
    assert!(peer.peers.contains_key(&id));
    assert_eq!(w.registry.deadline(w.now), Some(w.now + 1), "whoever turns the clock is told when to come");
    w.registry.take_saves();
    w.now += 1;
    let s = w.registry.snapshot(w.now);
    peer.hear(&s, stays);
    assert!(!s.nodes.contains_key(&id) && !peer.peers.contains_key(&id));
    assert!(w.registry.take_saves().contains(&Slot::Node(id)) && w.registry.saved(Slot::Node(id)).is_none());
    assert!(w.registry.take_audits().iter().any(|a| a.what == api::AuditEvent::NodeForgotten));
    assert!(s.nodes.contains_key(&stays));
    // Others only become absent.
    w.go(&Step::Disconnect { machine: 0 });
    w.now += 1_000_000;
    assert!(w.registry.snapshot(w.now).nodes.contains_key(&stays));
}

#[test]
fn an_ephemeral_node_that_comes_back_in_time_is_kept_and_one_that_never_came_is_not() {
    let (mut w, id) = with_ephemeral(false);
    for _ in 0..3 {
        w.go(&Step::Disconnect { machine: 1 });
        w.now += 299;
        w.registry.tick(w.now);
        w.go(&Step::Connect { machine: 1 });
        w.now += 299;
        w.registry.tick(w.now);
    }
    assert_eq!(w.id(1), Some(id), "each absence is counted for itself");
    // It registered and never asked for its map.
    w.go(&Step::Join { machine: 3, user: 1, router: false });
    w.now += 299;
    w.registry.tick(w.now);
    assert!(w.id(3).is_some());
    w.now += 1;
    w.registry.tick(w.now);
    assert!(w.id(3).is_none() && w.id(1) == Some(id));
}

#[test]
fn an_ephemeral_router_that_does_not_answer_is_kept_while_its_stream_stands() {
    let (mut w, id) = with_ephemeral(true);
    w.now += 7_200;
    w.go(&Step::Silent { machine: 1, alive: false });
    w.registry.tick(w.now);
    assert_eq!(w.id(1), Some(id), "it has not left");
    w.go(&Step::Disconnect { machine: 1 });
    w.now += 300;
    w.registry.tick(w.now);
    assert_eq!(w.id(1), None);
}

#[test]
fn after_a_restart_an_ephemeral_node_has_its_time_to_come_back() {
    let (mut w, id) = with_ephemeral(false);
    // It was connected for hours when the server was killed: when it was seen last is from long ago.
    w.now += 7_200;
    let saved: Vec<Saved> = w.registry.take_saves().into_iter().filter_map(|slot| w.registry.saved(slot)).collect();
    let start = w.now + 60;
    let mut again = Registry::new(Settings::default());
    for record in saved {
        again.load(record, start).unwrap();
    }
    let there = |registry: &mut Registry, now: u64| registry.snapshot(now).nodes.contains_key(&id);
    assert!(there(&mut again, start + 299), "five minutes, also after a restart");
    assert!(!there(&mut again, start + 300));
}
