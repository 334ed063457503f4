//! What else routes can be: the whole internet by an exit node, and two sites with the same private network (4via6).

use stage::command::Server;
use stage::mesh::{Mesh, SETTLED, SOON, ip, to};
use stage::netns::service::{Service, visit};
use stage::{becomes, eventually};

#[test]
fn an_exit_node_carries_everything_once_approved() {
    let Some(mesh) = Mesh::new() else { return };
    let site = mesh.world.host("site", "198.51.100.7");
    let _service = Service::start(&site, to("[::]:443"));
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let laptop = mesh.member("laptop", "203.0.113.20", &key, &[]);
    let exit = mesh.router("exit", "203.0.113.10", &key, &["--advertise-exit-node"]);
    assert_eq!(visit(laptop.host(), to("198.51.100.7:443"), SOON), Ok(ip("203.0.113.20")));
    let listed = || control.ok(&["routes", "list"]);
    eventually(SETTLED, || listed().contains("0.0.0.0/0").then_some(()).ok_or_else(listed)).unwrap();
    assert!(laptop.peer("exit").is_some_and(|p| p["ExitNodeOption"] == false), "pending");
    control.ok(&["routes", "approve", "exit", "0.0.0.0/0", "::/0"]);
    becomes(SETTLED, &true, || laptop.peer("exit").is_some_and(|p| p["ExitNodeOption"] == true));
    laptop.cli(&["set", "--exit-node=exit"]).unwrap();
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(laptop.host(), to("198.51.100.7:443"), SOON));
    laptop.cli(&["set", "--exit-node="]).unwrap();
    becomes(SETTLED, &Ok(ip("203.0.113.20")), || visit(laptop.host(), to("198.51.100.7:443"), SOON));
    drop(exit);
}

#[test]
fn two_sites_with_the_same_network_are_told_apart() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let laptop = mesh.member("laptop", "203.0.113.20", &key, &["--accept-routes"]);
    let mut kept = Vec::new();
    for (site, public) in [(7, "203.0.113.17"), (8, "203.0.113.18")] {
        let nat = mesh.world.nat(&format!("site{site}"), public, "10.1.1.1");
        let machine = mesh.world.behind(&nat, &format!("machine{site}"), "10.1.1.16");
        let service = Service::start(&machine, to("[::]:80"));
        let router = stage::netns::tailscaled::Tailscaled::start(&nat.host);
        let via = router.cli(&["debug", "via", &site.to_string(), "10.1.1.0/24"]).unwrap().trim().to_string();
        mesh.join(&router, &key, &[&format!("--advertise-routes={via}")]);
        eventually(SETTLED, || control.try_run(&["routes", "approve", &format!("site{site}"), &via])).unwrap();
        // The IPv4 address stands in the last 32 bits (fd7a:115c:a1e0:b1a::/64, then the site, then the address).
        let target = ip(&format!("fd7a:115c:a1e0:b1a:0:{site}:0a01:0110"));
        becomes(SETTLED, &Ok(ip("10.1.1.1")), || visit(laptop.host(), (target, 80).into(), SOON));
        assert_eq!(service.seen().len(), 1, "site {site}");
        kept.push((service, router));
    }
    assert_eq!(kept.iter().map(|(service, _)| service.seen().len()).collect::<Vec<_>>(), [1, 1]);
}
