//! The small internet checks itself before any mesh stands in it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::net::IpAddr;
use std::time::Duration;

use stage::netns::dns::{self, Dns, alias, at};
use stage::netns::service::{Service, visit, visit_udp};
use stage::netns::{World, v6};

/// Far more than a packet takes here; waited out in full only where nothing may answer.
const SOON: Duration = Duration::from_millis(1500);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn hosts_nat_and_a_service_that_trusts_one_address() {
    let Some(world) = World::new() else { return };
    let service = world.host("service", "198.51.100.7");
    let office = world.host("office", "203.0.113.10");
    let home = world.nat("home", "203.0.113.30", "192.168.7.1");
    let laptop = world.behind(&home, "laptop", "192.168.7.2");
    let answers = Service::start(&service, "[::]:80".parse().unwrap());
    let to = "198.51.100.7:80".parse().unwrap();
    assert_eq!(visit(&office, to, SOON), Ok(ip("203.0.113.10")));
    assert_eq!(visit_udp(&office, to, SOON), Ok(ip("203.0.113.10")));
    assert_eq!(visit(&laptop, to, SOON), Ok(ip("203.0.113.30")), "the box stands for who is behind it");
    let to6 = format!("[{}]:80", v6("198.51.100.7".parse().unwrap())).parse().unwrap();
    assert_eq!(visit(&office, to6, SOON), Ok(v6("203.0.113.10".parse().unwrap()).into()));
    let inward = Service::start(&laptop, "[::]:80".parse().unwrap());
    assert!(visit(&office, "192.168.7.2:80".parse().unwrap(), SOON).is_err(), "nobody comes in through the box");
    assert!(inward.seen().is_empty());

    service.only_from(ip("203.0.113.10"));
    assert_eq!(visit(&office, to, SOON), Ok(ip("203.0.113.10")));
    let seen = answers.seen().len();
    assert!(visit(&laptop, to, SOON).is_err());
    assert!(visit_udp(&laptop, to, SOON).is_err());
    assert_eq!(answers.seen().len(), seen, "what is dropped is not seen");
}

#[test]
fn names_resolve_through_a_host_s_own_resolver_file() {
    let Some(world) = World::new() else { return };
    let (server, client) = (world.host("dns", "192.0.2.53"), world.host("client", "203.0.113.20"));
    let dns = Dns::start(&server);
    dns.rotate("shop.test", 1, &[at("198.51.100.7"), at("198.51.100.8")]);
    dns.set("www.test", 1, &[alias("shop.test")]);
    let ask = |name: &str| dns::resolve(&client, ip("192.0.2.53"), name, false, SOON);
    assert_eq!(ask("www.test"), Ok(vec![ip("198.51.100.7")]));
    assert_eq!(ask("www.test"), Ok(vec![ip("198.51.100.8")]));
    assert_eq!(ask("none.test"), Err("NXDOMAIN".to_string()));
    client.resolver(&[ip("192.0.2.53")]);
    let out = client.run("getent", &["ahostsv4", "shop.test"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.starts_with("198.51.100.7") || text.starts_with("198.51.100.8"), "{text}");
    assert!(dns.asked("shop.test").contains(&ip("203.0.113.20")));
    dns.remove("shop.test");
    assert_eq!(ask("shop.test"), Err("NXDOMAIN".to_string()));
}

#[test]
fn a_world_leaves_nothing_behind() {
    let Some(world) = World::new() else { return };
    let host = world.host("host", "203.0.113.10");
    let sleeper = stage::process::Process::start("sleep", {
        let mut c = host.command("sleep");
        c.arg("600");
        c
    });
    let (name, dir) = (host.namespace().to_string(), host.dir().to_path_buf());
    assert!(std::path::Path::new("/run/netns").join(&name).exists());
    drop(world);
    assert!(!std::path::Path::new("/run/netns").join(&name).exists());
    assert!(!dir.exists());
    let mut sleeper = sleeper;
    assert!(sleeper.wait(Duration::from_secs(5)).is_ok(), "what ran there has ended");
}
