//! The fixed address: a service that answers only one public address is reached through the router that has it, by
//! those whom the policy names, while the route is approved, and by the next router when one dies.

use std::io::{Read, Write};
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stage::command::Server;
use stage::control::Control;
use stage::mesh::{Mesh, SETTLED, SOON, ip, to};
use stage::netns::service::{Service, answer, visit, visit_udp};
use stage::netns::tailscaled::Tailscaled;
use stage::{becomes, eventually};

const SERVICE: &str = "198.51.100.7:443";
const OTHER: &str = "198.51.100.7:8443";

/// Ann may use the service's port, Ben only another of the same address, Cem neither.
const POLICY: &str = r#"{
    // Who may reach the partner.
    "groups": { "group:sales": ["ann@"] },
    "hosts":  { "partner": "198.51.100.7/32" },
    "acls": [
        { "action": "accept", "src": ["group:sales"], "dst": ["partner:443"] },
        { "action": "accept", "src": ["ben@"], "dst": ["partner:8443"] },
    ],
}"#;

/// What `routes check` says of the partner: who carries it, for whom, and from which address, one after the other.
fn carriers(control: &Control) -> Value {
    control.json(&["routes", "check", "198.51.100.7"])["carriers"].clone()
}

/// The same where nobody may pass, which the command ends with 3 for.
fn try_carriers(control: &Control) -> Value {
    let answer = control.try_run(&["routes", "check", "198.51.100.7", "--json"]).unwrap_err();
    let (start, end) = (answer.find('{').unwrap(), answer.rfind('}').unwrap());
    serde_json::from_str::<Value>(&answer[start..=end]).unwrap()["carriers"].clone()
}

/// Every address that traffic to the partner may come from, and whether it does now.
fn addresses(control: &Control) -> Vec<(String, bool)> {
    let found = control.json(&["routes", "check", "198.51.100.7"]);
    let one = |s: &Value| (s["address"].as_str().unwrap().to_string(), s["carries"] == true);
    found["leaves_from"].as_array().unwrap().iter().map(one).collect()
}

fn carrier(node: &str, from: &str, users: &[&str]) -> Value {
    json!([{ "route": "198.51.100.7/32", "node": node, "online": true, "exit": false, "leaves_from": from, "users": users }])
}

#[test]
fn the_service_sees_the_router_for_whom_the_policy_names_while_the_route_is_approved() {
    let Some(mesh) = Mesh::new() else { return };
    let partner = mesh.world.host("partner", "198.51.100.7");
    partner.only_from(ip("203.0.113.10"));
    let (service, other) = (Service::start(&partner, to("[::]:443")), Service::start(&partner, to("[::]:8443")));
    let control = &mesh.control;
    let keys = ["ann", "ben", "cem", "ops"].map(|user| control.key(user, &[]));
    control.policy(POLICY);
    let accept = ["--accept-routes"];
    let ann = mesh.member("ann-laptop", "203.0.113.20", &keys[0], &accept);
    let ben = mesh.member("ben-laptop", "203.0.113.21", &keys[1], &accept);
    let cem = mesh.member("cem-laptop", "203.0.113.22", &keys[2], &accept);
    assert!(visit(ann.host(), to(SERVICE), SOON).is_err(), "nobody gets in from anywhere else");
    let check = || control.try_run(&["routes", "check", "198.51.100.7"]);
    let nobody = check().unwrap_err();
    assert!(nobody.contains("no router for 198.51.100.7") && nobody.contains("exit status: 3"), "{nobody}");

    let router = mesh.router("router", "203.0.113.10", &keys[3], &["--advertise-routes=198.51.100.7/32"]);
    let pending = || control.ok(&["routes", "list"]);
    eventually(SETTLED, || pending().contains("198.51.100.7").then_some(()).ok_or_else(pending)).unwrap();
    assert!(visit(ann.host(), to(SERVICE), SOON).is_err(), "a route that nobody approved carries nothing");
    assert_eq!(ann.routes_of("router"), Vec::<String>::new());
    assert_eq!((service.seen(), other.seen()), (vec![], vec![]));
    let waits = check().unwrap_err();
    assert!(waits.contains("pending: portcullis routes approve router 198.51.100.7/32\n"), "{waits}");

    control.ok(&["routes", "approve", "router", "198.51.100.7/32"]);
    let asked = Instant::now();
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(ann.host(), to(SERVICE), SOON));
    eprintln!("approved and in use after {:?}", asked.elapsed());
    assert_eq!(visit_udp(ann.host(), to(SERVICE), SOON), Ok(ip("203.0.113.10")));
    assert!(service.seen().iter().all(|source| *source == ip("203.0.113.10")), "{:?}", service.seen());
    // Ben's rule makes the router carry him, but not to that port.
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(ben.host(), to(OTHER), SOON));
    let seen = (service.seen().len(), other.seen().len());
    assert!(visit(ben.host(), to(SERVICE), SOON).is_err(), "the router refuses what the policy does not name");
    assert!(visit_udp(ben.host(), to(SERVICE), SOON).is_err());
    assert!(visit(ann.host(), to(OTHER), SOON).is_err());
    assert_eq!(cem.routes_of("router"), Vec::<String>::new(), "who may not use a route does not hear of it");
    assert!(visit(cem.host(), to(SERVICE), SOON).is_err());
    assert_eq!((service.seen().len(), other.seen().len()), seen);
    // It says what was just seen on the wire: the address of the router, for Ann and Ben and not for Cem.
    assert_eq!(carriers(control), carrier("router", "203.0.113.10", &["ann-laptop", "ben-laptop"]));
    let words = check().unwrap();
    for part in ["through router", "for:         ann-laptop, ben-laptop\n", "leaves from: 203.0.113.10 "] {
        assert!(words.contains(part), "{words}");
    }

    let mut open = ann.host().connect(to(SERVICE), SOON).unwrap();
    assert_eq!(answer(&mut open), Ok(ip("203.0.113.10")));
    control.ok(&["routes", "revoke", "router", "198.51.100.7/32"]);
    let revoked = Instant::now();
    let gone = || visit(ann.host(), to(SERVICE), Duration::from_millis(300)).is_err();
    becomes(Duration::from_secs(5), &true, gone);
    eprintln!("revoked and gone after {:?}", revoked.elapsed());
    assert!(answer(&mut open).is_err(), "an open connection ends with the route");
    let taken = check().unwrap_err();
    assert!(taken.contains("is revoked") && taken.contains("no router for"), "{taken}");
    drop(router);
}

#[test]
fn a_policy_change_is_with_the_router_at_once() {
    let _turn = stage::alone();
    let Some(mesh) = Mesh::new() else { return };
    let partner = mesh.world.host("partner", "198.51.100.7");
    partner.only_from(ip("203.0.113.10"));
    let _service = Service::start(&partner, to("[::]:443"));
    let control = &mesh.control;
    let keys = ["ann", "ben", "ops"].map(|user| control.key(user, &[]));
    control.policy(POLICY);
    let ann = mesh.member("ann-laptop", "203.0.113.20", &keys[0], &["--accept-routes"]);
    let _router = mesh.router("router", "203.0.113.10", &keys[2], &["--advertise-routes=198.51.100.7/32"]);
    eventually(SETTLED, || control.try_run(&["routes", "approve", "router", "198.51.100.7/32"])).unwrap();
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(ann.host(), to(SERVICE), SOON));

    assert_eq!(carriers(control), carrier("router", "203.0.113.10", &["ann-laptop"]));
    control.policy(&POLICY.replace("\"ann@\"", "\"ben@\""));
    becomes(Duration::from_secs(5), &true, || visit(ann.host(), to(SERVICE), Duration::from_millis(300)).is_err());
    assert_eq!(try_carriers(control), carrier("router", "203.0.113.10", &[]), "for nobody who is here");
    let nobody = control.try_run(&["routes", "check", "198.51.100.7"]).unwrap_err();
    for part in
        ["exit status: 3", "nobody may reach 198.51.100.7: no rule of the policy lets a node that is here reach it"]
    {
        assert!(nobody.contains(part), "{nobody}");
    }
    control.policy(POLICY);
    becomes(Duration::from_secs(5), &Ok(ip("203.0.113.10")), || visit(ann.host(), to(SERVICE), SOON));
    // A policy that breaks its own promise is refused, and the old one stays.
    let file = control.data().join("bad.hujson");
    let broken =
        POLICY.replace("\"acls\"", "\"tests\": [{ \"src\": \"ann@\", \"deny\": [\"partner:443\"] }], \"acls\"");
    std::fs::write(&file, broken).unwrap();
    let refused = control.try_run(&["policy", "set", file.to_str().unwrap()]).unwrap_err();
    assert!(refused.contains("partner:443"), "{refused}");
    assert_eq!(visit(ann.host(), to(SERVICE), SOON), Ok(ip("203.0.113.10")));
}

/// Two routers for the partner, the client that uses them, and what the partner's address is called.
struct Pair {
    ann: Tailscaled,
    routers: [Tailscaled; 2],
    _service: Service,
    mesh: Mesh,
}

/// Where the server's metrics are, on its own host.
const METRICS: &str = "127.0.0.1:9090";

const ROUTERS: [&str; 2] = ["203.0.113.10", "203.0.113.11"];

fn pair() -> Option<Pair> {
    let mesh = Mesh::with(&["--metrics", METRICS])?;
    let partner = mesh.world.host("partner", "198.51.100.7");
    partner.nft(
        "table inet trust { chain input { type filter hook input priority filter; policy drop; iif lo accept; \
         ct state { established, related } accept; ip saddr { 203.0.113.10, 203.0.113.11 } accept; }; }",
    );
    let service = Service::start(&partner, to("[::]:443"));
    let control = &mesh.control;
    let (ann, ops) = (control.key("ann", &[]), control.key("ops", &["--reusable"]));
    let _ = control.key("ben", &[]);
    control.policy(POLICY);
    let ann = mesh.member("ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    let routers = [("one", ROUTERS[0]), ("two", ROUTERS[1])].map(|(name, public)| {
        let router = mesh.router(name, public, &ops, &["--advertise-routes=198.51.100.7/32"]);
        eventually(SETTLED, || control.try_run(&["routes", "approve", name, "198.51.100.7/32"])).unwrap();
        router
    });
    becomes(SETTLED, &Ok(ip(ROUTERS[0])), || visit(ann.host(), to(SERVICE), SOON));
    Some(Pair { ann, routers, _service: service, mesh })
}

/// Visits again and again for a while; gives each change of what was seen, with its time.
fn watch(pair: &Pair, span: Duration) -> Vec<(Duration, Option<IpAddr>)> {
    let start = Instant::now();
    let mut changes: Vec<(Duration, Option<IpAddr>)> = Vec::new();
    while start.elapsed() < span {
        let seen = visit(pair.ann.host(), to(SERVICE), Duration::from_millis(400)).ok();
        if changes.last().is_none_or(|(_, last)| *last != seen) {
            changes.push((start.elapsed(), seen));
        }
        sleep(Duration::from_millis(100));
    }
    changes
}

/// The second router is in use at the end, in time, and nothing went back and forth.
fn taken_over(changes: &[(Duration, Option<IpAddr>)]) {
    let (when, last) = changes.last().unwrap();
    assert_eq!(*last, Some(ip(ROUTERS[1])), "{changes:?}");
    assert!(*when < Duration::from_secs(15), "{changes:?}");
    let settled = changes.iter().filter(|(_, seen)| *seen == Some(ip(ROUTERS[1]))).count();
    assert_eq!(settled, 1, "it flaps: {changes:?}");
    eprintln!("taken over: {changes:?}");
}

#[test]
fn a_second_router_takes_over_from_one_that_is_killed() {
    let _turn = stage::alone();
    let Some(mut pair) = pair() else { return };
    let control = &pair.mesh.control;
    assert_eq!(carriers(control), carrier("one", ROUTERS[0], &["ann-laptop"]));
    let both = |first: usize| {
        let other = 1 - first;
        vec![(ROUTERS[first].to_string(), true), (ROUTERS[other].to_string(), false)]
    };
    assert_eq!(addresses(control), both(0), "the partner has to know the second one too");
    let words = control.ok(&["routes", "check", "198.51.100.7"]);
    for part in
        ["2 addresses; give all of them", "203.0.113.10     one carries it now", "203.0.113.11     two takes over"]
    {
        assert!(words.contains(part), "{words}");
    }
    pair.routers[0].kill();
    taken_over(&watch(&pair, Duration::from_secs(20)));
    let control = &pair.mesh.control;
    assert_eq!(addresses(control), both(1));
    moved(control, r#"from="one" to="two" why="has gone" routes="198.51.100.7/32""#);
    assert_eq!(carriers(control), carrier("two", ROUTERS[1], &["ann-laptop"]), "the address of who carries it now");
    // The first comes back, and the second keeps the work: an address that partners see must not jump about.
    pair.routers[0].restart(Duration::ZERO);
    pair.routers[0].wait(SETTLED, |s| s["BackendState"] == "Running").unwrap();
    let quiet = watch(&pair, Duration::from_secs(8));
    assert!(quiet.iter().all(|(_, seen)| *seen == Some(ip(ROUTERS[1]))), "{quiet:?}");
    assert_eq!(control.node("one").map(|n| n["online"].clone()), Some(true.into()));
    assert_eq!(carriers(control), carrier("two", ROUTERS[1], &["ann-laptop"]));
}

#[test]
fn a_second_router_takes_over_from_one_whose_cable_is_cut() {
    let _turn = stage::alone();
    let Some(pair) = pair() else { return };
    // No goodbye, no reset: nothing at all comes from it any more.
    pair.routers[0].host().ip(&["link", "set", "eth0", "down"]);
    taken_over(&watch(&pair, Duration::from_secs(25)));
    moved(&pair.mesh.control, r#"from="one" to="two" why="does not answer" routes="198.51.100.7/32""#);
}

/// A move of the route is in the log, and counted where Prometheus looks.
fn moved(control: &Control, line: &str) {
    eventually(SETTLED, || {
        let output = control.process.output();
        if output.contains(line) { Ok(()) } else { Err(output) }
    })
    .unwrap();
    let mut s = control.host().connect(to(METRICS), SOON).unwrap();
    s.write_all(b"GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    s.read_to_string(&mut text).unwrap();
    assert!(text.contains("portcullis_mesh_route_failovers_total{route=\"198.51.100.7/32\"} 1"), "{text}");
    assert!(text.contains("portcullis_mesh_router_online{node=\"one\"} 0"), "{text}");
}

#[test]
fn a_router_that_died_while_the_server_was_away_is_replaced_soon() {
    let _turn = stage::alone();
    let Some(mut pair) = pair() else { return };
    // Of the two a server that has just started prefers the first.
    pair.mesh.control.process.kill();
    pair.routers[0].kill();
    pair.mesh.control.again();
    taken_over(&watch(&pair, Duration::from_secs(25)));
}
