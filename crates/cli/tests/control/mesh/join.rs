//! Clients join by key and reach each other: directly, by the relay alone, and while control is away and back.

use std::thread::sleep;
use std::time::{Duration, Instant};

use stage::command::Server;
use stage::mesh::{Mesh, SETTLED, SOON, talk, to};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::Tailscaled;
use stage::{becomes, eventually};

#[test]
fn members_reach_each_other_directly_and_by_the_relay() {
    let Some(mesh) = Mesh::new() else { return };
    let key = mesh.control.key("ann", &["--reusable"]);
    let home = mesh.world.nat("home", "203.0.113.30", "192.168.7.1");
    let laptop = Tailscaled::start(&mesh.world.behind(&home, "laptop", "192.168.7.2"));
    mesh.join(&laptop, &key, &[]);
    let office = mesh.member("office", "203.0.113.20", &key, &[]);
    let router = mesh.router("router", "203.0.113.10", &key, &["--advertise-routes=10.9.0.0/16"]);
    for client in [&laptop, &office, &router] {
        client.wait(SETTLED, |s| s["Peer"].as_object().is_some_and(|p| p.len() == 2)).unwrap();
    }
    assert_eq!(office.peers(), ["laptop", "router"]);
    let _services = [&laptop, &office, &router].map(|c| Service::start(c.host(), to("[::]:80")));
    // A direct path to one behind a NAT is found with the help of STUN and the relay.
    let pong = office.ping(&laptop.v4().to_string(), &["--c=20", "--timeout=2s"]).unwrap();
    assert!(pong.contains("via 203.0.113.30:"), "{pong}");
    talk(&office, &laptop);
    talk(&laptop, &office);
    talk(&laptop, &router);

    office.host().no_direct_paths();
    let by_relay = || {
        let pong = office.ping(&laptop.v4().to_string(), &["--c=1", "--timeout=2s", "--until-direct=false"])?;
        if pong.contains("via DERP") { Ok(()) } else { Err(pong) }
    };
    eventually(SETTLED, by_relay).unwrap();
    talk(&office, &laptop);
    talk(&laptop, &office);
}

#[test]
fn control_may_end_and_come_back() {
    let Some(mut mesh) = Mesh::new() else { return };
    let key = mesh.control.key("ann", &["--reusable"]);
    let office = mesh.member("office", "203.0.113.20", &key, &[]);
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let _service = Service::start(server.host(), to("[::]:80"));
    talk(&office, &server);
    office.ping(&server.v4().to_string(), &["--c=20", "--timeout=2s"]).unwrap();
    let addresses = (office.addresses(), server.addresses());
    let before = mesh.control.json(&["nodes", "list"]);

    // Killed: what is direct goes on, and everything is known again afterwards.
    mesh.control.process.kill();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(visit(office.host(), (server.v4(), 80).into(), SOON), Ok(office.v4()), "while control is away");
        sleep(Duration::from_millis(200));
    }
    mesh.control.again();
    let third = mesh.member("third", "203.0.113.22", &key, &[]);
    for client in [&office, &server] {
        // Both come back by themselves; the proof is that they hear of somebody new.
        client.wait(Duration::from_secs(60), |s| s["Peer"].as_object().is_some_and(|p| p.len() == 2)).unwrap();
    }
    talk(&third, &server);
    assert_eq!((office.addresses(), server.addresses()), addresses);
    let after = mesh.control.json(&["nodes", "list"]);
    for node in before["nodes"].as_array().unwrap() {
        let same = after["nodes"].as_array().unwrap().iter().find(|n| n["id"] == node["id"]).unwrap();
        assert_eq!(same["name"], node["name"]);
    }

    // Ended as a service manager does it, with only the relay as a path between two of them.
    office.host().no_direct_paths();
    becomes(SETTLED, &Ok(office.v4()), || visit(office.host(), (server.v4(), 80).into(), SOON));
    mesh.control.process.terminate();
    let status = mesh.control.process.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0), "{}", mesh.control.process.output());
    mesh.control.again();
    becomes(Duration::from_secs(60), &Ok(office.v4()), || visit(office.host(), (server.v4(), 80).into(), SOON));
}
