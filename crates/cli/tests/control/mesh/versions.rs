//! Releases of the official client: what the pinned one does, the last ten do, each beside a pinned one.

use std::path::Path;
use std::time::{Duration, Instant};

use stage::command::Server;
use stage::mesh::{Mesh, SETTLED, SOON, ip, talk, to};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::{RELEASES, Tailscaled, program_of, release};
use stage::{becomes, eventually};

/// Everything is open, only port 80 of each node is, nothing is.
const OPEN: &str = r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:*"] }] }"#;
const WEB: &str = r#"{ "acls": [{ "action": "accept", "src": ["*"], "dst": ["*:80"] }] }"#;
const SHUT: &str = r#"{ "acls": [] }"#;

/// How soon a change is in force.
const CHANGED: Duration = Duration::from_secs(5);

/// A node of this release in its whole life, beside a pinned one.
fn lives(number: &str, program: &Path) {
    let Some(mut mesh) = Mesh::new() else { return };
    let started = Instant::now();
    let key = mesh.control.key("ann", &["--reusable"]);
    let host = mesh.world.host("old", "203.0.113.20");
    host.forward();
    let mut old = Tailscaled::start_release(&host, program);
    mesh.join(&old, &key, &["--accept-routes"]);
    let new = mesh.router("new", "203.0.113.10", &key, &["--accept-routes"]);
    let client = mesh.control.node("old").map(|n| n["client"].to_string()).unwrap_or_default();
    assert!(client.starts_with(&format!("\"{number}.")), "not {number} but {client}");
    let _services = [&old, &new].map(|c| Service::start(c.host(), to("[::]:80")));
    let other = Service::start(old.host(), to("[::]:81"));
    for client in [&old, &new] {
        client.wait(SETTLED, |s| s["Peer"].as_object().is_some_and(|p| p.len() == 1)).unwrap();
    }

    let pong = old.ping(&new.v4().to_string(), &["--c=20", "--timeout=2s"]).unwrap();
    assert!(pong.contains("via 203.0.113.10:"), "{pong}");
    talk(&old, &new);
    talk(&new, &old);
    let named = || {
        let out = host.run("getent", &["ahostsv4", "new"]);
        String::from_utf8_lossy(&out.stdout).split_whitespace().next().and_then(|a| a.parse().ok())
    };
    becomes(SETTLED, &Some(new.v4()), named);

    routes(&mesh, &old, &new);
    policies(&mesh, &old, &new, &other);

    old.host().no_direct_paths();
    let by_relay = || old.ping(&new.v4().to_string(), &["--c=1", "--timeout=2s", "--until-direct=false"]);
    eventually(SETTLED, || by_relay().and_then(|p| if p.contains("via DERP") { Ok(()) } else { Err(p) })).unwrap();
    talk(&old, &new);
    talk(&new, &old);

    mesh.control.process.kill();
    mesh.control.again();
    // It is back by itself when it hears of a change.
    mesh.control.ok(&["nodes", "rename", "new", "db"]);
    let renamed = |s: &serde_json::Value| {
        s["Peer"].as_object().is_some_and(|p| p.values().any(|p| p["DNSName"].as_str() == Some("db.mesh.internal.")))
    };
    old.wait(Duration::from_secs(60), renamed).unwrap();
    talk(&new, &old);
    let own = old.v4();
    old.restart(Duration::ZERO);
    old.wait(SETTLED, |s| s["BackendState"] == "Running").unwrap();
    assert_eq!(old.v4(), own);
    talk(&old, &new);

    old.cli(&["logout"]).unwrap();
    assert_eq!(old.state(), "NeedsLogin");
    becomes(CHANGED, &true, || visit(new.host(), (own, 80).into(), Duration::from_millis(400)).is_err());
    mesh.join(&old, &key, &["--accept-routes"]);
    assert_eq!(old.v4(), own);
    talk(&new, &old);
    eprintln!("release {number}: all of it in {:?}", started.elapsed());
}

/// It takes a route while it is approved, and is a router itself.
fn routes(mesh: &Mesh, old: &Tailscaled, new: &Tailscaled) {
    let control = &mesh.control;
    for (user, router, partner) in [(old, new, "198.51.100.7"), (new, old, "192.0.2.7")] {
        let from = if router.host().name() == "new" { ip("203.0.113.10") } else { ip("203.0.113.20") };
        let host = mesh.world.host(&format!("partner-of-{}", router.host().name()), partner);
        host.only_from(from);
        let service = Service::start(&host, to("[::]:443"));
        let (target, name) = ((ip(partner), 443).into(), router.host().name());
        router.cli(&["set", &format!("--advertise-routes={partner}/32")]).unwrap();
        let listed = || control.ok(&["routes", "list"]);
        eventually(SETTLED, || listed().contains(partner).then_some(()).ok_or_else(listed)).unwrap();
        assert!(visit(user.host(), target, SOON).is_err(), "pending");
        assert_eq!(user.routes_of(name), Vec::<String>::new());
        control.ok(&["routes", "approve", name, partner]);
        becomes(SETTLED, &Ok(from), || visit(user.host(), target, SOON));
        assert_eq!(user.routes_of(name), [format!("{partner}/32")]);
        control.ok(&["routes", "revoke", name, partner]);
        becomes(CHANGED, &true, || visit(user.host(), target, Duration::from_millis(300)).is_err());
        becomes(CHANGED, &vec![], || user.routes_of(name));
        assert!(service.seen().iter().all(|source| *source == from), "{:?}", service.seen());
    }
}

/// What a policy says is what its filter does, and whom it does not let see anybody sees nobody.
fn policies(mesh: &Mesh, old: &Tailscaled, new: &Tailscaled, other: &Service) {
    let target = (old.v4(), 81).into();
    becomes(SETTLED, &Ok(new.v4()), || visit(new.host(), target, SOON));
    mesh.control.policy(WEB);
    becomes(CHANGED, &true, || visit(new.host(), target, Duration::from_millis(300)).is_err());
    let seen = other.seen().len();
    talk(new, old);
    talk(old, new);
    assert!(visit(new.host(), target, SOON).is_err());
    assert_eq!(other.seen().len(), seen);
    mesh.control.policy(SHUT);
    old.wait(SETTLED, |s| s["Peer"].as_object().is_none_or(serde_json::Map::is_empty)).unwrap();
    mesh.control.policy(OPEN);
    becomes(SETTLED, &Ok(new.v4()), || visit(new.host(), target, SOON));
    talk(old, new);
}

#[test]
fn the_oldest_of_the_last_ten_releases() {
    let (oldest, _) = RELEASES[0];
    let Some(program) = stage::peers::need(&program_of(oldest)) else { return };
    lives(oldest, &program);
}

/// The newest of the ten is the pinned one, which all other tests run.
#[test]
fn the_releases_between() {
    let between = RELEASES[1..].iter().map(|(number, _)| (*number, release(number)));
    let (there, absent): (Vec<_>, Vec<_>) = between.partition(|(_, program)| program.is_some());
    if !absent.is_empty() {
        let absent: Vec<&str> = absent.into_iter().map(|(number, _)| number).collect();
        // Each takes minutes to build: a full run goes without them unless it is asked for them.
        stage::skip::skip_always(&format!(
            "no tailscaled of releases {} (`cargo xtask test --setup --releases` builds them)",
            absent.join(", ")
        ));
    }
    for (number, program) in there {
        eprintln!("release {number}");
        lives(number, &program.unwrap());
    }
}
