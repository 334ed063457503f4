//! IPv6: clients that know control by an IPv6 address alone, and a service that trusts one IPv6 address.

use std::net::IpAddr;
use std::time::Duration;

use stage::command::Server;
use stage::mesh::{CONTROL, Mesh, SETTLED, SOON};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::Tailscaled;
use stage::netns::{Host, v6};
use stage::{becomes, eventually};

/// The IPv6 address of a host with this public IPv4 address.
fn six(public: &str) -> IpAddr {
    v6(public.parse().unwrap()).into()
}

/// A control that its clients know by an IPv6 address.
fn mesh() -> Option<Mesh> {
    Mesh::at(&format!("http://[{}]:8080", six(CONTROL)), &[])
}

/// Takes every IPv4 address away but loopback: what still works, works over IPv6.
fn ipv6_alone(host: &Host) {
    host.ip(&["-4", "addr", "flush", "dev", "eth0"]);
}

#[test]
fn members_join_and_talk_where_there_is_no_ipv4() {
    let Some(mesh) = mesh() else { return };
    ipv6_alone(mesh.control.host());
    let key = mesh.control.key("ann", &["--reusable"]);
    let [laptop, server] = [("laptop", "203.0.113.20"), ("server", "203.0.113.21")].map(|(name, public)| {
        let host = mesh.world.host(name, public);
        ipv6_alone(&host);
        let client = Tailscaled::start(&host);
        mesh.join(&client, &key, &[]);
        client
    });
    let _service = Service::start(server.host(), "[::]:80".parse().unwrap());
    let talk = || {
        for (target, own) in [(server.v4(), laptop.v4()), (server.v6(), laptop.v6())] {
            becomes(SETTLED, &Ok(own), || visit(laptop.host(), (target, 80).into(), SOON));
        }
    };
    talk();
    let pong = laptop.ping(&server.v4().to_string(), &["--c=20", "--timeout=2s"]).unwrap();
    assert!(pong.contains(&format!("via [{}]:", six("203.0.113.21"))), "{pong}");
    assert_eq!(
        mesh.control.node("laptop").map(|n| n["comes_from"].clone()),
        Some(six("203.0.113.20").to_string().into())
    );

    laptop.host().no_direct_paths();
    let by_relay = || laptop.ping(&server.v4().to_string(), &["--c=1", "--timeout=2s", "--until-direct=false"]);
    eventually(SETTLED, || by_relay().and_then(|p| if p.contains("via DERP") { Ok(()) } else { Err(p) })).unwrap();
    talk();
    // One that has no UDP at all, and so cannot ask how far away the relay is, takes it all the same.
    let host = mesh.world.host("guest", "203.0.113.22");
    ipv6_alone(&host);
    host.nft(
        "table inet lost { chain in { type filter hook input priority filter; iifname \"eth0\" meta l4proto udp drop; }; \
         chain out { type filter hook output priority filter; oifname \"eth0\" meta l4proto udp drop; }; }",
    );
    let guest = Tailscaled::start(&host);
    mesh.join(&guest, &key, &[]);
    becomes(SETTLED, &Ok(guest.v4()), || visit(guest.host(), (server.v4(), 80).into(), SOON));
}

#[test]
fn a_fixed_ipv6_address_is_reached_through_its_router() {
    let Some(mesh) = mesh() else { return };
    let (router_from, partner_at) = (six("203.0.113.10"), six("198.51.100.7"));
    let partner = mesh.world.host("partner", "198.51.100.7");
    partner.only_from(router_from);
    let service = Service::start(&partner, "[::]:443".parse().unwrap());
    let (target, route) = ((partner_at, 443).into(), format!("{partner_at}/128"));
    let control = &mesh.control;
    let keys = ["ann", "cem", "ops"].map(|user| control.key(user, &[]));
    control.policy(&format!(
        r#"{{ "hosts": {{ "partner": "{route}" }},
             "acls": [{{ "action": "accept", "src": ["ann@"], "dst": ["partner:443"] }}] }}"#
    ));
    let ann = mesh.member("ann-laptop", "203.0.113.20", &keys[0], &["--accept-routes"]);
    let cem = mesh.member("cem-laptop", "203.0.113.22", &keys[1], &["--accept-routes"]);
    let _router = mesh.router("router", "203.0.113.10", &keys[2], &[&format!("--advertise-routes={route}")]);
    let listed = || control.ok(&["routes", "list"]);
    eventually(SETTLED, || listed().contains(&route).then_some(()).ok_or_else(listed)).unwrap();
    assert!(visit(ann.host(), target, SOON).is_err(), "a route that nobody approved carries nothing");

    control.ok(&["routes", "approve", "router", &route]);
    becomes(SETTLED, &Ok(router_from), || visit(ann.host(), target, SOON));
    assert!(visit(cem.host(), target, SOON).is_err(), "the policy does not name him");
    assert!(service.seen().iter().all(|source| *source == router_from), "{:?}", service.seen());
    let found = control.json(&["routes", "check", &partner_at.to_string()]);
    let said = serde_json::json!([{ "route": route, "node": "router", "online": true, "exit": false,
                                    "leaves_from": router_from.to_string(), "users": ["ann-laptop"] }]);
    assert_eq!(found["carriers"], said);

    control.ok(&["routes", "revoke", "router", &route]);
    becomes(Duration::from_secs(5), &true, || visit(ann.host(), target, Duration::from_millis(300)).is_err());
}
