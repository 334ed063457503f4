//! An IP set in a grant, on the wire: the right ports of the right addresses get through, and nothing else.

use stage::command::Server;
use stage::mesh::{Mesh, SETTLED, SOON, ip, to};
use stage::netns::service::{Service, visit, visit_udp};
use stage::{becomes, eventually};

/// A network without one of its addresses, and a range beside it; one TCP port and a UDP range.
const POLICY: &str = r#"{
    "ipsets": { "ipset:partner": [
        "add 198.51.100.0/28", "remove 198.51.100.9", "add 198.51.100.40-198.51.100.41" ] },
    "grants": [ { "src": ["ann@"], "dst": ["ipset:partner"], "ip": ["tcp:443", "udp:5000-5001"] } ],
}"#;

const PORTS: [u16; 4] = [443, 444, 5000, 5001];

#[test]
fn an_ip_set_in_a_grant_holds_on_the_wire() {
    let Some(mesh) = Mesh::new() else { return };
    let partner = mesh.world.host("partner", "198.51.100.7");
    let all = ["198.51.100.7", "198.51.100.8", "198.51.100.9", "198.51.100.40", "198.51.100.41", "198.51.100.42"];
    for addr in &all[1..] {
        partner.ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"]);
    }
    partner.only_from(ip("203.0.113.10"));
    // Each address on its own, so that answers to UDP come from the address that was asked.
    let each = all.iter().flat_map(|addr| PORTS.map(|port| (ip(addr), port)));
    let services: Vec<Service> = each.map(|at| Service::start(&partner, at.into())).collect();
    let control = &mesh.control;
    let (ann, ops) = (control.key("ann", &[]), control.key("ops", &[]));
    control.policy(POLICY);
    let ann = mesh.member("ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    let _router = mesh.router("router", "203.0.113.10", &ops, &["--advertise-routes=198.51.100.0/24"]);
    eventually(SETTLED, || control.try_run(&["routes", "approve", "router", "198.51.100.0/24"])).unwrap();
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(ann.host(), to("198.51.100.7:443"), SOON));

    // Every address and port by both protocols, at once: what is refused costs its whole time limit.
    let mut wrong: Vec<String> = Vec::new();
    let tries: Vec<(&str, u16, bool)> =
        all.iter().flat_map(|a| PORTS.iter().flat_map(move |p| [(*a, *p, true), (*a, *p, false)])).collect();
    let before: Vec<usize> = services.iter().map(|s| s.seen().len()).collect();
    let done: Vec<_> = std::thread::scope(|s| {
        let ann = &ann;
        let visits: Vec<_> = tries
            .iter()
            .map(|&(addr, port, tcp)| {
                s.spawn(move || {
                    let target = (ip(addr), port).into();
                    if tcp { visit(ann.host(), target, SOON) } else { visit_udp(ann.host(), target, SOON) }
                })
            })
            .collect();
        visits.into_iter().map(|v| v.join().unwrap()).collect()
    });
    let mut through = 0;
    for ((addr, port, tcp), got) in tries.iter().zip(done) {
        let member = matches!(*addr, "198.51.100.7" | "198.51.100.8" | "198.51.100.40" | "198.51.100.41");
        let named = if *tcp { *port == 443 } else { matches!(*port, 5000 | 5001) };
        let want = member && named;
        through += usize::from(want);
        if got.is_ok() != want {
            wrong.push(format!("{addr}:{port} {}: {got:?}", if *tcp { "tcp" } else { "udp" }));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The service counts for itself: what was refused did not arrive, not even once.
    let arrived: usize = services.iter().map(|s| s.seen().len()).sum::<usize>() - before.iter().sum::<usize>();
    assert_eq!((through, arrived), (12, 12));
}
