//! A real Headscale server with official clients, taken over: the same clients, the same URL, nobody logs in again.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use stage::command::{Outcome, binary, command, run_at};
use stage::mesh::{CONTROL, SETTLED, SOON, ip, to};
use stage::netns::service::{Service, visit};
use stage::netns::tailscaled::{Mode, Tailscaled};
use stage::netns::{Host, World};
use stage::pages::commands;
use stage::process::Process;
use stage::{START, becomes, certificates, eventually, peers};

const URL: &str = "https://control.test";

/// Ann reaches the router and what is behind it; nobody else reaches anything.
const POLICY: &str = r#"{
  // A note that stays.
  "tagOwners": {"tag:router": ["ann@"]},
  "acls": [{"action": "accept", "src": ["ann@"], "dst": ["tag:router:80", "198.51.100.7:443"]}],
}"#;

/// Its configuration, with names and a relay of its own, and some things that have no counterpart.
fn config(dir: &Path) -> String {
    let at = dir.display();
    format!(
        "server_url: {URL}\nlisten_addr: 0.0.0.0:443\nmetrics_listen_addr: \"\"\ngrpc_listen_addr: 127.0.0.1:50443\n\
         tls_cert_path: {at}/cert.pem\ntls_key_path: key.pem # beside this file\n\
         noise:\n  private_key_path: {at}/noise_private.key\n\
         prefixes:\n  v4: 100.64.0.0/10\n  v6: fd7a:115c:a1e0::/48\n  allocation: random\n\
         derp:\n  server:\n    enabled: true\n    region_id: 999\n    region_code: own\n    region_name: Own\n    \
         verify_clients: true\n    stun_listen_addr: 0.0.0.0:3478\n    private_key_path: {at}/derp.key\n  \
         urls: []\n  paths: []\n  auto_update_enabled: false\n\
         disable_check_updates: true\ndatabase:\n  type: sqlite\n  sqlite:\n    path: {at}/db.sqlite\n    \
         write_ahead_log: true\nlog: {{level: info}}\npolicy:\n  mode: database\n\
         unix_socket: {at}/headscale.sock\n\
         dns:\n  magic_dns: true\n  base_domain: net.test\n  override_local_dns: true\n  nameservers:\n    \
         global: [192.0.2.53]\n    split:\n      corp.test: [192.0.2.54]\n  search_domains: [corp.test]\n  \
         extra_records:\n    - {{name: app.net.test, type: A, value: 198.51.100.7}}\n"
    )
}

/// A command of the server to itself.
fn headscale(program: &Path, dir: &Path, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.arg("-c").arg(dir.join("config.yaml")).args(args);
    let done = Outcome::of(&mut command);
    assert_eq!(done.code, 0, "{args:?}: {}", done.all());
    done.out.trim().to_string()
}

/// Waits until somebody takes connections there.
fn up(process: &mut Process, host: &Host) {
    let up = eventually(START, || {
        process.must_run();
        host.connect(to("127.0.0.1:443"), SOON).map(drop)
    });
    up.unwrap_or_else(|e| panic!("nobody answers: {e}; it printed:\n{}", process.output()));
}

/// A client that knows the name of the server and its CA.
fn client(world: &World, ca: &Path, name: &str, public: &str) -> Tailscaled {
    let host = world.host(name, public);
    host.name_of("control.test", ip(CONTROL));
    Tailscaled::start_with(&host, Mode::Tun, &[("SSL_CERT_FILE", ca.to_str().unwrap())])
}

/// What people notice: who reaches what.
fn as_the_policy_says(laptop: &Tailscaled, phone: &Tailscaled, router: &Tailscaled) {
    let router_80 = (router.v4(), 80).into();
    becomes(SETTLED, &Ok(laptop.v4()), || visit(laptop.host(), router_80, SOON));
    becomes(SETTLED, &Ok(ip("203.0.113.10")), || visit(laptop.host(), to("198.51.100.7:443"), SOON));
    assert!(visit(phone.host(), router_80, SOON).is_err(), "the policy lets nobody but ann");
    assert!(visit(phone.host(), to("198.51.100.7:443"), SOON).is_err(), "nor through the route");
}

/// What a client is to its server: its keys, its name, its addresses.
fn identity(client: &Tailscaled) -> Value {
    let own = client.status()["Self"].clone();
    let keys = ["PublicKey", "DNSName", "TailscaleIPs", "ID", "UserID", "Tags"];
    keys.iter().map(|k| own[*k].clone()).collect()
}

#[test]
fn a_headscale_server_is_taken_over_and_nobody_logs_in_again() {
    let Some(program) = peers::need("headscale") else { return };
    if !Tailscaled::here() {
        return;
    }
    let Some(world) = World::new() else { return };
    let server = world.host("control", CONTROL);
    let dir = server.dir().join("headscale");
    std::fs::create_dir_all(&dir).unwrap();
    let ca = certificates::signed(&dir, &format!("DNS:control.test,IP:{CONTROL}"));
    std::fs::write(dir.join("config.yaml"), config(&dir)).unwrap();
    let mut serve = server.command(&program);
    serve.arg("serve").arg("-c").arg(dir.join("config.yaml"));
    let mut there = Process::start("headscale", serve);
    up(&mut there, &server);
    let told = |args: &[&str]| headscale(&program, &dir, args);
    told(&["users", "create", "ann", "--email", "ann@example.com"]);
    told(&["users", "create", "bob"]);
    std::fs::write(dir.join("policy.hujson"), POLICY).unwrap();
    told(&["policy", "set", "-f", dir.join("policy.hujson").to_str().unwrap()]);
    let key = |args: &[&str]| {
        let out = told(&[&["preauthkeys", "create"], args].concat());
        out.lines().last().unwrap().trim().to_string()
    };
    let (of_ann, of_bob) = (key(&["--user", "1", "--reusable", "--expiration", "24h"]), key(&["--user", "2"]));
    let of_router = key(&["--tags", "tag:router"]);
    assert!(of_ann.starts_with("hskey-auth-"), "{of_ann}");
    // Clients, a service behind a route, and a service of the router's own.
    let partner = world.host("partner", "198.51.100.7");
    partner.only_from(ip("203.0.113.10"));
    let _partner = Service::start(&partner, to("[::]:443"));
    let mut laptop = client(&world, &ca, "laptop", "203.0.113.20");
    let phone = client(&world, &ca, "phone", "203.0.113.21");
    let router = client(&world, &ca, "router", "203.0.113.10");
    router.host().forward();
    let _own = Service::start(router.host(), to("[::]:80"));
    let join = |client: &Tailscaled, key: &str, more: &[&str]| {
        let key = format!("--auth-key={key}");
        client.up(URL, &[&[key.as_str()], more].concat()).unwrap();
    };
    join(&laptop, &of_ann, &["--accept-routes"]);
    join(&phone, &of_bob, &["--accept-routes"]);
    join(&router, &of_router, &["--advertise-routes=198.51.100.7/32"]);
    let nodes: Value = serde_json::from_str(&told(&["nodes", "list", "-o", "json"])).unwrap();
    let number = |name: &str| {
        let node = nodes.as_array().unwrap().iter().find(|n| n["given_name"] == name).unwrap();
        node["id"].to_string().trim_matches('"').to_string()
    };
    told(&["nodes", "approve-routes", "-i", &number("router"), "-r", "198.51.100.7/32"]);
    as_the_policy_says(&laptop, &phone, &router);
    let before = [&laptop, &phone, &router].map(identity);

    // It ends, and is taken over: first in words, then in fact.
    there.terminate();
    there.wait(START).unwrap();
    let data = server.dir().join("data");
    let lines = commands("from-headscale");
    let [look, import, run] = lines
        .iter()
        .map(|l| {
            let line = l.replace("/var/lib/headscale", &dir.display().to_string());
            let line = line.replace("/etc/headscale", &dir.display().to_string());
            line.replace(" control.toml", &format!(" {}/control.toml", server.dir().display()))
        })
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    let type_in = |line: &str| {
        let words: Vec<&str> = line.strip_prefix("portcullis ").unwrap().split(' ').collect();
        Outcome::of(command(&words).arg("--data-dir").arg(&data))
    };
    let said = type_in(&look);
    assert_eq!(said.code, 0, "{}", said.all());
    for part in [
        "2 users, 3 pre-auth keys, 3 nodes, 1 approved routes, a policy",
        "config prefixes.allocation: random: addresses are given in order",
        "config derp.server.region_code: own: this server's relay is a region of its own",
        "config grpc_listen_addr: 127.0.0.1:50443: there is no gRPC here",
        "server_url = \"https://control.test\"",
        "domain = \"net.test\"",
        "nothing was changed",
    ] {
        assert!(said.out.contains(part), "{part}: {}", said.out);
    }
    assert!(!data.exists(), "looking makes nothing");
    let said = type_in(&import);
    assert_eq!(said.code, 0, "{}", said.all());
    let again = type_in(&import.replace("control.toml", "other.toml"));
    assert!(
        again.code == 1 && again.err.contains("collide") && again.err.contains("empty data directory"),
        "{}",
        again.all()
    );

    // The same URL, the same certificate, another program.
    let words: Vec<&str> = run.strip_prefix("portcullis ").unwrap().split(' ').collect();
    let mut command = server.command(binary());
    stage::command::plain(&mut command);
    command.args(words).arg("--data-dir").arg(&data);
    let mut here = Process::start("control", command);
    up(&mut here, &server);
    let ours = |args: &[&str]| {
        let done = run_at(&data, args);
        assert_eq!(done.code, 0, "{args:?}: {}\n{}", done.all(), here.output());
        done.out
    };
    let online = || {
        let nodes: Value = serde_json::from_str(&ours(&["nodes", "list", "--json"])).unwrap();
        nodes["nodes"].as_array().unwrap().iter().filter(|n| n["online"] == true).count()
    };
    becomes(Duration::from_secs(90), &3, online);
    as_the_policy_says(&laptop, &phone, &router);
    // Nobody was asked to log in, and everybody is who it was.
    for (client, was) in [&laptop, &phone, &router].into_iter().zip(&before) {
        assert_eq!(client.state(), "Running");
        assert_eq!(&identity(client), was);
    }
    assert!(laptop.ping(&router.v4().to_string(), &["--c=3"]).is_ok());
    assert!(ours(&["policy", "get"]).contains("// A note that stays."));
    assert!(ours(&["routes", "list"]).contains("198.51.100.7/32"));
    let dns = ours(&["dns", "show"]);
    assert!(["192.0.2.53", "corp.test", "192.0.2.54", "app.net.test"].iter().all(|p| dns.contains(p)), "{dns}");
    assert!(ours(&["audit"]).contains("imported"));
    assert!(ours(&["audit", "verify"]).contains("none changed"));
    // Also after a restart of the client.
    laptop.restart(Duration::ZERO);
    laptop.wait(SETTLED, |s| s["BackendState"] == "Running").unwrap();
    assert_eq!(identity(&laptop), before[0]);
    becomes(SETTLED, &Ok(laptop.v4()), || visit(laptop.host(), (router.v4(), 80).into(), SOON));
    // A key that only its bcrypt hash was kept of lets somebody new in; one that is used up does not, nor a wrong one.
    let tablet = client(&world, &ca, "tablet", "203.0.113.22");
    let used_up = tablet.up(URL, &[&format!("--auth-key={of_bob}"), "--timeout=10s"]).unwrap_err();
    assert!(used_up.contains("used"), "{used_up}");
    let wrong = format!("{}{}", &of_ann[..of_ann.len() - 4], if of_ann.ends_with("0000") { "1111" } else { "0000" });
    assert!(tablet.up(URL, &[&format!("--auth-key={wrong}"), "--timeout=10s"]).is_err());
    join(&tablet, &of_ann, &[]);
    becomes(SETTLED, &Ok(tablet.v4()), || visit(tablet.host(), (router.v4(), 80).into(), SOON));
}
