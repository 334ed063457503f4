//! App connectors: a name is asked for, and what it leads to is reached from the connector's address. The records
//! change, rotate, chain and share addresses as those of real services do.

use std::time::Duration;

use serde_json::Value;
use stage::becomes;
use stage::command::Server;
use stage::mesh::{DNS, Mesh, SETTLED, SOON, ip, to};
use stage::netns::dns::{Dns, alias, at, resolve};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::Tailscaled;
use stage::netns::{Host, World};

/// The resolver of every client.
const QUAD100: &str = "100.100.100.100";
const CONNECTOR: &str = "203.0.113.10";

/// Ann may reach the shop, and nothing else of the internet through the connector.
const POLICY: &str = r#"{
    "tagOwners": { "tag:connector": ["ops@"] },
    "autoApprovers": { "routes": { "198.51.100.0/24": ["tag:connector"] } },
    "grants": [ { "src": ["ann@"], "dst": ["app:shop"], "ip": ["tcp:443"] } ],
    "nodeAttrs": [ { "target": ["*"], "app": { "tailscale.com/app-connectors": [ {
        "name": "shop", "connectors": ["tag:connector"],
        "domains": ["shop.test", "*.shop.test"], "routes": ["192.0.2.80/32"] } ] } } ],
}"#;

/// The internet of these tests: names, and services that answer only the connector.
struct Shop {
    dns: Dns,
    services: Vec<Service>,
}

impl Shop {
    fn open(world: &World) -> Shop {
        let dns = Dns::start(&world.host("dns", DNS));
        let mut services = Vec::new();
        for (name, first, more) in [
            ("cloud", "198.51.100.7", &["198.51.100.8", "198.51.100.9", "198.51.100.60"][..]),
            ("pinned", "192.0.2.80", &[]),
        ] {
            let host = world.host(name, first);
            for addr in more {
                host.ip(&["addr", "add", &format!("{addr}/24"), "dev", "eth0"]);
            }
            host.only_from(ip(CONNECTOR));
            services.push(Service::start(&host, to("[::]:443")));
        }
        Shop { dns, services }
    }
}

/// A client whose own resolver is the world's DNS.
fn member(mesh: &Mesh, name: &str, public: &str, key: &str, args: &[&str]) -> Tailscaled {
    let host = mesh.world.host(name, public);
    host.resolver(&[ip(DNS)]);
    host.forward();
    let client = Tailscaled::start(&host);
    mesh.join(&client, key, args);
    client
}

fn asks(client: &Host, name: &str) -> Result<Vec<std::net::IpAddr>, String> {
    let mut found = resolve(client, ip(QUAD100), name, false, Duration::from_secs(3))?;
    found.sort();
    Ok(found)
}

/// Asks for a name as programs do and reaches what it leads to, from the connector's address.
fn reaches(client: &Tailscaled, name: &str, addr: &str) {
    becomes(SETTLED, &Ok(vec![ip(addr)]), || asks(client.host(), name));
    becomes(SETTLED, &Ok(ip(CONNECTOR)), || visit(client.host(), (ip(addr), 443).into(), SOON));
}

#[test]
fn names_lead_through_the_connector() {
    let Some(mesh) = Mesh::new() else { return };
    let shop = Shop::open(&mesh.world);
    shop.dns.rotate("www.shop.test", 1, &[at("198.51.100.7"), at("198.51.100.8")]);
    shop.dns.set("api.shop.test", 1, &[alias("edge.cdn.test")]);
    shop.dns.set("edge.cdn.test", 1, &[alias("one.cdn.test")]);
    shop.dns.set("one.cdn.test", 1, &[at("198.51.100.9")]);
    shop.dns.set("shop.test", 1, &[at("198.51.100.7")]);
    shop.dns.set("elsewhere.test", 1, &[at("198.51.100.60")]);
    let control = &mesh.control;
    let (ann, ben) = (control.key("ann", &[]), control.key("ben", &[]));
    let _ = control.try_run(&["users", "create", "ops"]);
    control.policy(POLICY);
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let connector =
        member(&mesh, "connector", CONNECTOR, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    let ben = member(&mesh, "ben-laptop", "203.0.113.21", &ben, &["--accept-routes"]);

    // The pinned route needs no name.
    becomes(SETTLED, &Ok(ip(CONNECTOR)), || visit(ann.host(), to("192.0.2.80:443"), SOON));
    assert!(visit(ann.host(), to("198.51.100.9:443"), SOON).is_err(), "nobody has asked for that name yet");
    // An alias through names that are not the app's own.
    reaches(&ann, "api.shop.test", "198.51.100.9");
    let askers = shop.dns.asked("api.shop.test");
    assert!(askers.contains(&ip(CONNECTOR)), "it is the connector that asks: {askers:?}");
    assert!(!askers.contains(&ip("203.0.113.20")), "and not the client: {askers:?}");
    // The bare domain, and two names on one address.
    reaches(&ann, "shop.test", "198.51.100.7");
    // Rotating records: both addresses come to be routed.
    let mut seen = std::collections::BTreeSet::new();
    let both = || {
        // Others ask too and take their turns: one address may come several times.
        let found = asks(ann.host(), "www.shop.test").unwrap();
        becomes(SETTLED, &Ok(ip(CONNECTOR)), || visit(ann.host(), (found[0], 443).into(), SOON));
        seen.insert(found[0]);
        if seen.len() == 2 { Ok(()) } else { Err(seen.clone()) }
    };
    stage::eventually(SETTLED, both).unwrap();
    let mut routes = connector_routes(&ann);
    routes.sort();
    assert_eq!(routes, ["192.0.2.80/32", "198.51.100.7/32", "198.51.100.8/32", "198.51.100.9/32"]);
    // Other names are nobody's business here, nor are other ports.
    assert_eq!(asks(ann.host(), "elsewhere.test"), Ok(vec![ip("198.51.100.60")]));
    assert!(visit(ann.host(), to("198.51.100.60:443"), SOON).is_err());
    assert!(shop.dns.asked("elsewhere.test").iter().all(|asker| *asker == ip("203.0.113.20")));
    assert!(visit(ann.host(), to("198.51.100.7:80"), SOON).is_err());
    // Who is not named has no part of it.
    assert_eq!(connector_routes(&ben), Vec::<String>::new());
    assert!(visit(ben.host(), to("198.51.100.9:443"), SOON).is_err());
    assert!(shop.services.iter().all(|s| s.seen().iter().all(|source| *source == ip(CONNECTOR))));

    let shown = control.json(&["apps", "show", "shop"]);
    let text = shown.to_string();
    for word in ["api.shop.test", "198.51.100.9", "www.shop.test", "198.51.100.8", "192.0.2.80", "connector"] {
        assert!(text.contains(word), "no {word} in {shown:#}");
    }
    assert!(control.ok(&["apps", "list"]).contains("shop"));
    drop(connector);
}

fn connector_routes(client: &Tailscaled) -> Vec<String> {
    client.routes_of("connector")
}

#[test]
fn old_addresses_go_when_the_name_stops_answering_with_them() {
    let Some(mesh) = Mesh::with(&["--app-expiry", "6s", "--app-resolver", DNS]) else { return };
    let shop = Shop::open(&mesh.world);
    shop.dns.set("www.shop.test", 1, &[at("198.51.100.7")]);
    shop.dns.set("img.shop.test", 1, &[at("198.51.100.8")]);
    shop.dns.set("api.shop.test", 1, &[at("198.51.100.8")]);
    let control = &mesh.control;
    let ann = control.key("ann", &[]);
    let _ = control.try_run(&["users", "create", "ops"]);
    control.policy(POLICY);
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let _connector =
        member(&mesh, "connector", CONNECTOR, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    for (name, addr) in
        [("www.shop.test", "198.51.100.7"), ("img.shop.test", "198.51.100.8"), ("api.shop.test", "198.51.100.8")]
    {
        reaches(&ann, name, addr);
    }
    // One name moves, one of two names on an address moves.
    shop.dns.set("www.shop.test", 1, &[at("198.51.100.9")]);
    shop.dns.set("img.shop.test", 1, &[at("198.51.100.9")]);
    let want = ["192.0.2.80/32", "198.51.100.8/32", "198.51.100.9/32"].map(ToString::to_string).to_vec();
    becomes(Duration::from_secs(60), &want, || {
        let _ = asks(ann.host(), "www.shop.test");
        let _ = asks(ann.host(), "api.shop.test");
        connector_routes(&ann)
    });
    assert!(
        visit(ann.host(), to("198.51.100.7:443"), SOON).is_err(),
        "what the app has left is not reached through it"
    );
    assert_eq!(visit(ann.host(), to("198.51.100.8:443"), SOON), Ok(ip(CONNECTOR)));
    let shown: Value = control.json(&["apps", "show", "shop"]);
    let learnt = shown["learnt"].as_array().unwrap();
    let live = learnt.iter().filter(|l| l["gone"] != true).map(|l| l["address"].to_string()).collect::<String>();
    assert!(!live.contains("198.51.100.7\"") && live.contains("198.51.100.9"), "{shown:#}");
}

#[test]
fn what_is_left_out_goes_by_the_clients_own_way() {
    let Some(mesh) = Mesh::new() else { return };
    let shop = Shop::open(&mesh.world);
    shop.dns.set("www.shop.test", 1, &[at("198.51.100.7")]);
    shop.dns.set("old.shop.test", 1, &[at("198.51.100.8")]);
    shop.dns.set("a.old.shop.test", 1, &[at("198.51.100.9")]);
    shop.dns.set("new.old.shop.test", 1, &[at("198.51.100.60")]);
    let control = &mesh.control;
    let ann = control.key("ann", &[]);
    let _ = control.try_run(&["users", "create", "ops"]);
    let domains = r#""*.shop.test", "!old.shop.test", "new.old.shop.test""#;
    control.policy(&POLICY.replace(r#""shop.test", "*.shop.test""#, domains));
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let _connector =
        member(&mesh, "connector", CONNECTOR, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    reaches(&ann, "www.shop.test", "198.51.100.7");
    // Without other nameservers the connector answers; its client learns, and no route comes of it.
    becomes(SETTLED, &Ok(vec![ip("198.51.100.8")]), || asks(ann.host(), "old.shop.test"));
    assert_eq!(asks(ann.host(), "a.old.shop.test"), Ok(vec![ip("198.51.100.9")]));
    // What says more about a name wins.
    reaches(&ann, "new.old.shop.test", "198.51.100.60");
    let state = |addr: &str| {
        let all = control.json(&["routes", "list"]);
        let route = all["routes"].as_array().unwrap().iter().find(|r| r["prefix"] == format!("{addr}/32")).cloned();
        route.map(|r| r["state"].as_str().unwrap().to_string())
    };
    for addr in ["198.51.100.8", "198.51.100.9"] {
        becomes(SETTLED, &Some("left out".to_string()), || state(addr));
        assert!(visit(ann.host(), (ip(addr), 443).into(), SOON).is_err(), "the service wants the connector's address");
    }
    let mut routes = connector_routes(&ann);
    routes.sort();
    assert_eq!(routes, ["192.0.2.80/32", "198.51.100.60/32", "198.51.100.7/32"]);
    let shown = control.json(&["apps", "show", "shop"]).to_string();
    assert!(shown.contains("!old.shop.test") && !shown.contains("198.51.100.8"), "{shown}");
    // With nameservers of one's own the connector is not asked at all.
    control.ok(&["dns", "nameservers", DNS]);
    let client = ip("203.0.113.20");
    becomes(SETTLED, &true, || {
        let _ = asks(ann.host(), "old.shop.test");
        shop.dns.asked("old.shop.test").contains(&client)
    });
    reaches(&ann, "www.shop.test", "198.51.100.7");
    assert!(!shop.dns.asked("www.shop.test").contains(&client));
}

/// A shop of so many services, each at an address of its own, that let in the connector alone.
fn many(world: &World, first: u8, count: u8) -> (Dns, Vec<Service>) {
    let dns = Dns::start(&world.host("dns", DNS));
    let host = world.host("cloud", &format!("198.51.100.{first}"));
    for n in 1..count {
        host.ip(&["addr", "add", &format!("198.51.100.{}/24", first + n), "dev", "eth0"]);
    }
    host.only_from(ip(CONNECTOR));
    let service = Service::start(&host, to("[::]:443"));
    (dns, vec![service])
}

#[test]
fn what_a_connector_has_learnt_outlives_new_routes_of_its_own() {
    let Some(mesh) = Mesh::new() else { return };
    let shop = Shop::open(&mesh.world);
    shop.dns.set("www.shop.test", 60, &[at("198.51.100.7")]);
    shop.dns.set("api.shop.test", 60, &[at("198.51.100.9")]);
    let control = &mesh.control;
    let ann = control.key("ann", &[]);
    let _ = control.try_run(&["users", "create", "ops"]);
    control.policy(POLICY);
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let connector =
        member(&mesh, "connector", CONNECTOR, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    reaches(&ann, "www.shop.test", "198.51.100.7");
    reaches(&ann, "api.shop.test", "198.51.100.9");
    let offers = || connector.cli(&["debug", "prefs"]).unwrap();
    connector.cli(&["set", "--advertise-routes=10.156.0.0/20"]).unwrap();
    // The client had forgotten them, and offers them again, as it is told.
    becomes(SETTLED, &true, || {
        ["198.51.100.7/32", "198.51.100.9/32", "10.156.0.0/20"].iter().all(|r| offers().contains(r))
    });
    for addr in ["198.51.100.7:443", "198.51.100.9:443"] {
        becomes(SETTLED, &Ok(ip(CONNECTOR)), || visit(ann.host(), to(addr), SOON));
    }
    let shown = control.json(&["apps", "show", "shop"]).to_string();
    assert!(shown.contains("198.51.100.7") && shown.contains("198.51.100.9"), "{shown}");
    assert!(shop.services.iter().all(|s| s.seen().iter().all(|source| *source == ip(CONNECTOR))));
}

#[test]
fn a_machine_at_the_connectors_own_address_takes_no_detour() {
    let Some(mesh) = Mesh::new() else { return };
    let shop = Shop::open(&mesh.world);
    shop.dns.set("www.shop.test", 1, &[at("198.51.100.7")]);
    let control = &mesh.control;
    let (ann, desk) = (control.key("ann", &[]), control.key("ann", &[]));
    let _ = control.try_run(&["users", "create", "ops"]);
    control.policy(POLICY);
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let office = mesh.world.nat("office", CONNECTOR, "10.1.1.1");
    office.host.resolver(&[ip(DNS)]);
    office.host.forward();
    let connector = Tailscaled::start(&office.host);
    mesh.join(&connector, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let machine = mesh.world.behind(&office, "desk", "10.1.1.16");
    machine.resolver(&[ip(DNS)]);
    let desk_key = desk;
    let desk = Tailscaled::start(&machine);
    mesh.join(&desk, &desk_key, &["--accept-routes"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    reaches(&ann, "www.shop.test", "198.51.100.7");
    // It leaves from the same address without the connector, and asks for the name as if there were none.
    becomes(SETTLED, &Vec::<String>::new(), || desk.routes_of("office"));
    let asked = shop.dns.asked("www.shop.test").len();
    becomes(SETTLED, &Ok(vec![ip("198.51.100.7")]), || asks(desk.host(), "www.shop.test"));
    assert!(shop.dns.asked("www.shop.test").len() > asked);
    assert_eq!(visit(desk.host(), to("198.51.100.7:443"), SOON), Ok(ip(CONNECTOR)));
    assert!(ann.routes_of("office").contains(&"198.51.100.7/32".to_string()));
    drop(connector);
}

/// How many first connections to names that nobody has asked for before go the right way, those that the app spells out
/// and those of its wildcard.
#[test]
fn first_connections_to_names_that_an_app_spells_out_go_the_right_way() {
    const EACH: u8 = 5;
    let Some(mesh) = Mesh::with(&["--app-resolver", DNS]) else { return };
    let (dns, _services) = many(&mesh.world, 11, 2 * EACH);
    let names: Vec<(String, String)> =
        (0..2 * EACH).map(|n| (format!("n{n}.shop.test"), format!("198.51.100.{}", 11 + n))).collect();
    for (name, addr) in &names {
        dns.set(name, 60, &[at(addr)]);
    }
    let control = &mesh.control;
    let ann = control.key("ann", &[]);
    let _ = control.try_run(&["users", "create", "ops"]);
    let spelt: Vec<String> = names[..usize::from(EACH)].iter().map(|(name, _)| format!("\"{name}\"")).collect();
    control.policy(&POLICY.replace("\"shop.test\"", &spelt.join(", ")));
    let ops = control.key("ops", &["--tags", "tag:connector"]);
    let _connector =
        member(&mesh, "connector", CONNECTOR, &ops, &["--advertise-connector", "--advertise-tags=tag:connector"]);
    let ann = member(&mesh, "ann-laptop", "203.0.113.20", &ann, &["--accept-routes"]);
    // The server has asked for what is spelt out before anybody else does.
    becomes(SETTLED, &(usize::from(EACH) + 1), || connector_routes(&ann).len());
    let right = |names: &[(String, String)]| {
        let first = |(name, addr): &&(String, String)| {
            let found = asks(ann.host(), name);
            assert_eq!(found, Ok(vec![ip(addr)]));
            visit(ann.host(), (ip(addr), 443).into(), SOON) == Ok(ip(CONNECTOR))
        };
        names.iter().filter(first).count()
    };
    let (spelt, wild) = names.split_at(usize::from(EACH));
    let (spelt, wild) = (right(spelt), right(wild));
    eprintln!(
        "first connections that went the right way: {spelt} of {EACH} spelt out, {wild} of {EACH} by the wildcard"
    );
    assert_eq!(spelt, usize::from(EACH));
}
