//! Compose files, by what an engine would start: each service in a container of its own on a machine of the stage, with
//! Docker's private network, published ports and names. Images that are not here have stand-ins; Traefik is the real one,
//! and learns of labels from an engine's socket.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stage::command::Outcome;
use stage::netns::{Host, Nat, World};
use stage::upstream::Upstream;
use stage::{Dir, START, certificates, http, pages, peers, wait_or};

use crate::container::{self, Container, Spec, USER};
use crate::docker::{Known, Socket};

/// A share link of each kind.
const IMMICH: &str = "/share/TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";
const NEXTCLOUD: &str = "/s/aBcDeFgHiJkLmNo";

/// What stands in for a service: the status of an answer, by the request's head.
type StandIn = fn(&str) -> u16;

/// A folder with a compose file and what lies beside it, copied to where it may be changed.
fn folder(dir: &Dir, from: &str) {
    let copied = Command::new("cp").arg("-a").arg(pages::root().join(from).join(".")).arg(dir.path()).status();
    assert!(copied.is_ok_and(|s| s.success()), "cannot copy {from}");
}

/// The sample of an environment as `.env`, with some variables set otherwise; each must be there.
fn environment(dir: &Dir, set: &[(&str, &str)]) {
    let mut text = std::fs::read_to_string(dir.at("env.sample")).unwrap();
    for (name, value) in set {
        let line = text.lines().find(|l| l.starts_with(&format!("{name}="))).unwrap_or_else(|| panic!("no {name}"));
        text = text.replace(line, &format!("{name}='{value}'"));
    }
    dir.write(".env", text);
}

/// The compose file of a folder with these profiles.
fn read(dir: &Dir, profiles: &str) -> Option<Value> {
    let mut command = Command::new(peers::need("compose-spec")?);
    command.arg("compose.yaml").current_dir(dir.path()).env_clear().env("COMPOSE_PROFILES", profiles);
    let out = Outcome::of(&mut command);
    assert_eq!(out.code, 0, "{}", out.err);
    Some(serde_json::from_str(&out.out).unwrap())
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_string()).collect()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let all = value.as_object().into_iter().flatten();
    all.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_string())).collect()
}

/// A project that is up.
struct Up {
    model: Value,
    containers: BTreeMap<String, Container>,
    /// In the default network.
    addresses: BTreeMap<String, Ipv4Addr>,
    _stand_ins: Vec<Upstream>,
    _socket: Option<Socket>,
    _volumes: Dir,
}

impl Up {
    /// Starts a project on a machine that hides Docker's network.
    #[track_caller]
    fn start(world: &World, engine: &Nat, model: Value, stand_ins: &[(&str, u16, StandIn)]) -> Option<Up> {
        let program = crate::built()?;
        let traefik = peers::need("traefik")?;
        if !container::possible(&engine.host) {
            return None;
        }
        let project = model["name"].as_str().unwrap().to_string();
        let services = model["services"].as_object().unwrap().clone();
        let mut hosts: BTreeMap<String, (Host, Ipv4Addr)> = BTreeMap::new();
        let beside = stand_ins.iter().map(|(name, ..)| (*name).to_string()).filter(|n| !services.contains_key(n));
        for (n, name) in (2..).zip(services.keys().cloned().chain(beside)) {
            let address = Ipv4Addr::new(172, 18, 0, n);
            let host = match services.get(&name).is_some_and(|s| s["network_mode"] == "host") {
                true => engine.host.clone(),
                false => world.behind(engine, &format!("{project}-{name}"), &address.to_string()),
            };
            hosts.insert(name, (host, address));
        }
        // Networks with addresses that the file gives: their members have these besides.
        let mut more: Vec<(String, String, IpAddr)> = Vec::new();
        for (name, service) in &services {
            for (network, there) in service["networks"].as_object().into_iter().flatten() {
                let Some(address) = there["ipv4_address"].as_str() else { continue };
                hosts[name].0.ip(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
                more.extend(
                    words(&there["aliases"]).into_iter().map(|a| (network.clone(), a, address.parse().unwrap())),
                );
            }
        }
        for (network, alias, address) in more {
            for (name, (host, _)) in &hosts {
                if services.get(name).is_some_and(|s| s["networks"].get(&network).is_some()) {
                    host.name_of(&alias, address);
                }
            }
        }
        for (host, _) in hosts.values() {
            for (name, (_, address)) in &hosts {
                let also = services.get(name).and_then(|s| s["container_name"].as_str());
                for name in also.into_iter().chain([name.as_str()]) {
                    host.name_of(name, (*address).into());
                }
            }
        }
        let mut up = Up {
            addresses: hosts.iter().map(|(name, (_, address))| (name.clone(), *address)).collect(),
            containers: BTreeMap::new(),
            _stand_ins: Vec::new(),
            _socket: None,
            _volumes: Dir::new("volumes"),
            model: model.clone(),
        };
        for (name, port, answer) in stand_ins {
            let (host, address) = &hosts[*name];
            let answer = *answer;
            let at = SocketAddr::from((*address, *port));
            up._stand_ins.push(host.within(|| Upstream::serve_at(at, move |s| drop(stand_in(s, answer)))));
        }
        let known = services.iter().map(|(name, s)| Known {
            name: s["container_name"].as_str().unwrap_or(name).to_string(),
            service: name.clone(),
            address: hosts[name].1.to_string(),
            exposed: exposed(s, stand_ins.iter().find(|i| i.0 == name).map(|i| i.1)),
            labels: pairs(&s["labels"]),
        });
        let socket = Socket::serve(&up._volumes.at("docker.sock"), &project, known.collect());
        for (name, service) in &services {
            for port in service["ports"].as_array().into_iter().flatten() {
                publish(&engine.host, port, hosts[name].1);
            }
            let image = service["image"].as_str().unwrap();
            let program = match image.split([':', '@']).next().unwrap() {
                "portcullis" => &program,
                "traefik" => &traefik,
                _ => {
                    assert!(stand_ins.iter().any(|i| i.0 == name), "nobody stands in for {image}");
                    continue;
                }
            };
            let spec = of_service(service, program, image.starts_with("traefik"), &socket.path, up._volumes.path());
            up.containers.insert(name.clone(), Container::start(&hosts[name].0, spec));
        }
        up._socket = Some(socket);
        Some(up)
    }

    fn container(&self, service: &str) -> &Container {
        &self.containers[service]
    }

    /// Everything that a service printed.
    fn said(&self, service: &str) -> String {
        self.container(service).process.output()
    }

    /// Waits until the health checks of this project's own services say that they are well.
    #[track_caller]
    fn healthy(&self) {
        for (name, container) in &self.containers {
            let test = words(&self.model["services"][name]["healthcheck"]["test"]);
            if let [kind, program, args @ ..] = &test[..]
                && program == "portcullis"
            {
                assert_eq!(kind, "CMD", "there is no shell in the image");
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                wait_or(|| container.exec(&args).code == 0, || format!("{name}: {}", self.said(name)));
            }
        }
    }

    /// Every service of this project's image is as closed as it can be.
    #[track_caller]
    fn closed(&self) {
        for (name, container) in &self.containers {
            if container.spec.name == "portcullis" {
                let spec = &container.spec;
                assert!(spec.read_only && spec.no_new_privileges && spec.capabilities.is_empty(), "{name}");
                assert_eq!(spec.user.0, USER, "{name}");
            }
        }
    }

    /// `docker compose restart SERVICE`.
    #[track_caller]
    fn restart(&mut self, service: &str) {
        let container = self.containers.remove(service).unwrap();
        self.containers.insert(service.to_string(), container.again());
    }
}

fn stand_in(mut s: TcpStream, answer: StandIn) -> std::io::Result<()> {
    while let Some(head) = http::read_head(&mut s)? {
        http::read_request_body(&mut s, &head)?;
        write!(s, "HTTP/1.1 {} X\r\nContent-Length: 2\r\n\r\nhi", answer(&head))?;
    }
    Ok(())
}

/// The ports of a container, by the file or by what its image says.
fn exposed(service: &Value, image: Option<u16>) -> Vec<u16> {
    let said = words(&service["expose"]).iter().map(|p| p.parse().unwrap()).collect::<Vec<u16>>();
    if said.is_empty() { image.into_iter().collect() } else { said }
}

/// A published port: as Docker does it for IPv4, by a rule that keeps the visitor's address.
fn publish(engine: &Host, port: &Value, to: Ipv4Addr) {
    let (outer, inner) = (port["published"].as_str().unwrap(), &port["target"]);
    let protocol = port["protocol"].as_str().unwrap_or("tcp");
    engine.nft(&format!(
        "table ip docker {{ chain pre {{ type nat hook prerouting priority dstnat; \
         iifname \"eth0\" {protocol} dport {outer} dnat to {to}:{inner}; }}; }}"
    ));
    engine.nft("insert rule inet way forward ct status dnat accept");
}

/// The container of a service: what the image says, then what the file says.
fn of_service(service: &Value, program: &Path, traefik: bool, socket: &Path, volumes: &Path) -> Spec {
    let mut spec = Spec::image(program);
    if traefik {
        (spec.name, spec.user) = ("traefik", (0, 0));
        // Of Docker's default set, what it needs: the port 443, and files of other users.
        spec.capabilities = ["CAP_NET_BIND_SERVICE", "CAP_DAC_OVERRIDE"].map(ToString::to_string).to_vec();
    }
    spec.marks.push(".dockerenv".to_string());
    spec.args = words(&service["command"]);
    spec.env.extend(pairs(&service["environment"]));
    spec.folder = service["working_dir"].as_str().unwrap_or("/").to_string();
    spec.read_only = service["read_only"] == true;
    spec.no_new_privileges = words(&service["security_opt"]).iter().any(|o| o.starts_with("no-new-privileges"));
    if words(&service["cap_drop"]) == ["ALL"] {
        spec.capabilities.clear();
    }
    if let Some(user) = service["user"].as_str() {
        let (user, group) = user.split_once(':').unwrap_or((user, user));
        spec.user = (user.parse().unwrap(), group.parse().unwrap());
    }
    for volume in service["volumes"].as_array().into_iter().flatten() {
        let (from, target) = (volume["source"].as_str().unwrap(), volume["target"].as_str().unwrap());
        let source = match volume["type"].as_str() {
            Some("volume") => named(&volumes.join(from), target),
            _ if from == "/var/run/docker.sock" => socket.to_path_buf(),
            _ => PathBuf::from(from),
        };
        spec.mount(source, target, volume["read_only"] == true);
    }
    spec
}

/// A named volume: made empty, with the owner of what the image has at its place.
fn named(at: &Path, target: &str) -> PathBuf {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !at.exists() {
        std::fs::create_dir(at).unwrap();
        if target == "/var/lib/portcullis" {
            chown(at, Some(USER), Some(USER)).unwrap();
            std::fs::set_permissions(at, PermissionsExt::from_mode(0o700)).unwrap();
        }
    }
    at.to_path_buf()
}

/// Gives a file or folder to the image's user, as the manual says.
fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
}

/// The status that a visitor gets at a site of the machine 203.0.113.9; 0 if there is none.
fn visit(from: &Host, site: &str, path: &str, certificate: Option<&Path>) -> u16 {
    let mut command = from.command("curl");
    command.args(["-sk", "--http1.1", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20"]);
    command.args(["--resolve", &format!("{site}:443:203.0.113.9")]);
    if let Some(dir) = certificate {
        command.arg("--cert").arg(dir.join("phone.pem")).arg("--key").arg(dir.join("phone.key"));
    }
    let out = command.arg(format!("https://{site}{path}")).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap_or(0)
}

fn photos(head: &str) -> u16 {
    if head.contains("/share/") && !head.contains(IMMICH) { 404 } else { 200 }
}

fn cloud(head: &str) -> u16 {
    if head.contains("/s/") && !head.contains(NEXTCLOUD) { 404 } else { 200 }
}

/// Gatekeeper's household, with our image in the place of theirs and the lines that the manual adds.
#[test]
fn gatekeepers_household_works_with_our_image() {
    let (Some(world), Some(_), Some(_)) = (World::new(), peers::need("curl"), peers::need("openssl")) else { return };
    let dir = Dir::new("household");
    folder(&dir, "dev/xtask/tests/release/gatekeeper");
    certificates::sites_and_a_phone(dir.path());
    std::fs::copy(dir.at("ca.pem"), dir.at("traefik/etc/ca.pem")).unwrap();
    let list = dir.at("traefik/etc/file_providers/dynamic-whitelist.yml");
    std::fs::write(&list, "").unwrap();
    std::fs::create_dir(dir.at("portcullis")).unwrap();
    give(&list);
    give(&dir.at("portcullis"));
    let Some(model) = read(&dir, "") else { return };
    let engine = world.nat("docker", "203.0.113.9", "172.18.0.1");
    let [phone, stranger, guest] = [("phone", "198.51.100.7"), ("stranger", "198.51.100.8"), ("guest", "198.51.100.9")]
        .map(|(n, a)| world.host(n, a));
    let stand_ins: [(&str, u16, StandIn); 3] =
        [("ha", 8123, |_| 200), ("immich-server", 2283, photos), ("nextcloud-app", 80, cloud)];
    let Some(mut up) = Up::start(&world, &engine, model, &stand_ins) else { return };
    let (ha, immich, nextcloud) = ("trusted-service.your-domain.com", "immich.domain.com", "nextcloud.yourdomain.com");
    let why = |up: &Up| format!("{}\n{}", up.said("traefik"), up.said("gatekeeper"));
    wait_or(|| visit(&stranger, immich, "/", None) == 403, || why(&up));
    assert_eq!(visit(&stranger, ha, "/", None), 0, "no certificate, no handshake");
    assert_eq!(visit(&phone, ha, "/api/webhook", Some(dir.path())), 200, "{}", why(&up));
    wait_or(|| visit(&phone, immich, "/", None) == 200, || why(&up));
    assert_eq!(visit(&phone, nextcloud, "/", None), 200);
    assert_eq!(visit(&stranger, immich, "/", None), 403);
    // Share links: a dead one, then a live one.
    assert_eq!(visit(&guest, immich, &IMMICH.replace('T', "U"), None), 403);
    assert_eq!(visit(&guest, immich, IMMICH, None), 200, "{}", why(&up));
    wait_or(|| visit(&guest, nextcloud, "/apps", None) == 200, || why(&up));
    assert_eq!(visit(&stranger, nextcloud, NEXTCLOUD, None), 200, "{}", why(&up));
    // A restart forgets nobody.
    let before = std::fs::read_to_string(&list).unwrap();
    up.restart("gatekeeper");
    wait_or(|| up.container("gatekeeper").exec(&["list"]).code == 0, || why(&up));
    assert_eq!(visit(&phone, immich, "/", None), 200);
    assert_eq!(std::fs::read_to_string(&list).unwrap(), before);
    let listed = up.container("gatekeeper").exec(&["list", "show"]).all();
    assert!(listed.contains("198.51.100.7") && listed.contains("198.51.100.9"), "{listed}");
    // Those labels make a site of the gate itself: whoever visits it, with TLS or without, has proved nothing.
    let other = world.host("other", "198.51.100.66");
    let site = format!("gatekeeper-{}", up.model["name"].as_str().unwrap());
    let name = format!("Host: {site}");
    assert_eq!(visit(&other, &site, "/", None), 200, "{}", why(&up));
    let mut curl = other.command("curl");
    let answer = Outcome::of(curl.args(["-s", "--max-time", "20", "-H", &name, "http://203.0.113.9/"])).out;
    assert_eq!(answer, "OK", "the gate's own site: {}", why(&up));
    let listed = up.container("gatekeeper").exec(&["list", "show"]).all();
    assert!(!listed.contains("198.51.100.66"), "{listed}");
    let found = up.container("gatekeeper").exec(&["doctor"]).all();
    assert!(found.contains("[open-site]"), "{found}");
}

/// The gate's own compose file.
#[test]
fn a_gate_beside_traefik() {
    let (Some(world), Some(_), Some(_)) = (World::new(), peers::need("curl"), peers::need("openssl")) else { return };
    let dir = Dir::new("gate");
    folder(&dir, "deploy/compose/gate");
    environment(&dir, &[]);
    std::fs::create_dir(dir.at("certificates")).unwrap();
    certificates::sites_and_a_phone(&dir.at("certificates"));
    give(&dir.at("dynamic"));
    let Some(model) = read(&dir, "") else { return };
    let engine = world.nat("docker", "203.0.113.9", "172.18.0.1");
    let [phone, guest] = [("phone", "198.51.100.7"), ("guest", "198.51.100.9")].map(|(n, a)| world.host(n, a));
    let stand_ins: [(&str, u16, StandIn); 2] = [("ha", 8123, |_| 200), ("app", 2283, photos)];
    let Some(up) = Up::start(&world, &engine, model, &stand_ins) else { return };
    up.closed();
    up.healthy();
    let why = || format!("{}\n{}", up.said("traefik"), up.said("gatekeeper"));
    wait_or(|| visit(&phone, "photos.example.com", "/", None) == 403, why);
    let certificate = dir.at("certificates");
    assert_eq!(visit(&phone, "ha.example.com", "/", Some(&certificate)), 200, "{}", why());
    wait_or(|| visit(&phone, "photos.example.com", "/", None) == 200, why);
    let listed = up.container("gatekeeper").exec(&["list", "show"]).all();
    assert!(listed.contains("phone"), "whose certificate it was: {listed}");
    assert_eq!(visit(&guest, "photos.example.com", "/", None), 403);
    assert_eq!(visit(&guest, "photos.example.com", IMMICH, None), 200, "{}", why());
    wait_or(|| visit(&guest, "photos.example.com", "/", None) == 200, why);
    // What strangers reach by share links is beside the gate, and what it says of visitors is no proof.
    let beside = world.behind(&engine, "beside", "172.18.0.99");
    for path in ["/", "/verify_share_request?protocol=http&container_name_port=app:2283"] {
        let mut curl = beside.command("curl");
        curl.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "20",
            "-H",
            "X-Forwarded-For: 203.0.113.66",
        ]);
        curl.args(["-H", "X-Forwarded-Host: ha.example.com", "-H", &format!("X-Forwarded-Uri: {IMMICH}")]);
        let said = Outcome::of(curl.arg(format!("http://{}:5000{path}", up.addresses["gatekeeper"]))).out;
        assert_ne!(said, "000", "it is reached: {}", why());
    }
    let listed = up.container("gatekeeper").exec(&["list", "show"]).all();
    assert!(!listed.contains("203.0.113.66") && !listed.contains("172.18."), "{listed}");
}

/// Edge and client, each on its own machine.
#[test]
fn a_tunnel_between_two_machines() {
    let (Some(world), Some(_)) = (World::new(), peers::need("curl")) else { return };
    let dir = Dir::new("tunnel");
    folder(&dir, "deploy/compose/tunnel");
    environment(&dir, &[("TOKEN", "a-token-of-the-test-0123456789"), ("EDGE_NAME", "203.0.113.9")]);
    let Some(model) = read(&dir, "edge") else { return };
    let (public, private) =
        (world.nat("public", "203.0.113.9", "172.18.0.1"), world.nat("private", "192.0.2.20", "172.18.0.1"));
    let Some(edge) = Up::start(&world, &public, model, &[]) else { return };
    edge.closed();
    edge.healthy();
    let connect = edge.said("edge").lines().find_map(|l| l.strip_prefix("connect string: ").map(ToString::to_string));
    let connect = connect.unwrap_or_else(|| panic!("{}", edge.said("edge")));
    environment(&dir, &[("TOKEN", "a-token-of-the-test-0123456789"), ("CONNECT", &connect)]);
    let Some(model) = read(&dir, "client") else { return };
    let Some(mut client) = Up::start(&world, &private, model, &[("app", 3000, |_| 200)]) else { return };
    client.closed();
    let published = |l: &str| l.contains("published").then_some(());
    let at = client.containers.get_mut("client").unwrap();
    at.process.line(START, published).unwrap_or_else(|e| panic!("{e}\n{}", edge.said("edge")));
    let (visitor, stranger) = (world.host("visitor", "198.51.100.7"), world.host("stranger", "203.0.113.66"));
    let get = |from: &Host| {
        let mut curl = from.command("curl");
        Outcome::of(curl.args(["-sS", "--max-time", "20", "http://203.0.113.9:8000/"])).out
    };
    assert_eq!(get(&visitor), "hi");
    assert_ne!(get(&stranger), "hi");
}

/// The coordination server, and an official client that joins it by the words of the manual.
#[test]
fn a_mesh_with_an_official_client() {
    use stage::netns::tailscaled::Tailscaled;
    let Some(world) = World::new() else { return };
    if !Tailscaled::here() {
        return;
    }
    let dir = Dir::new("mesh");
    folder(&dir, "deploy/compose/mesh");
    environment(&dir, &[]);
    let Some(model) = read(&dir, "") else { return };
    let engine = world.nat("docker", "203.0.113.9", "172.18.0.1");
    let Some(up) = Up::start(&world, &engine, model, &[]) else { return };
    up.closed();
    up.healthy();
    let control = up.container("control");
    let made = control.exec(&["users", "create", "ada@example.com"]);
    assert_eq!(made.code, 0, "{}", made.all());
    let key = control.exec(&["keys", "create", "--user", "ada@example.com", "--json"]);
    let key: Value = serde_json::from_str(&key.out).unwrap_or_else(|e| panic!("{e}: {}", key.all()));
    let laptop = Tailscaled::start(&world.host("laptop", "198.51.100.7"));
    let key = key["key"].as_str().unwrap_or_else(|| panic!("{key}"));
    laptop.up("http://203.0.113.9:8080", &["--authkey", key]).unwrap_or_else(|e| panic!("{e}\n{}", up.said("control")));
    let nodes = control.exec(&["nodes", "list"]).all();
    assert!(nodes.contains("laptop"), "{nodes}");
}

/// The manual's page: its commands as printed, in the folders of a release; what `docker` does is done by the other tests.
#[test]
fn the_manuals_commands_are_right() {
    let Some(dir) = crate::charts::operator() else { return };
    let top = format!("portcullis-{}-deploy/compose", env!("CARGO_PKG_VERSION"));
    for (recipe, folder) in [("compose-edge", "tunnel"), ("compose-gate", "gate"), ("compose-mesh", "mesh")] {
        crate::charts::types(&dir, recipe);
        let at = std::fs::read_to_string(dir.at("folder")).unwrap();
        assert!(at.trim().ends_with(&format!("{top}/{folder}")), "{recipe}: {at}");
    }
    let asked = std::fs::read_to_string(dir.at("asked")).unwrap() + &pages::recipe("compose-client");
    // Services and profiles that the commands name are there.
    for (folder, profiles) in [("tunnel", "edge,client"), ("gate", ""), ("mesh", "")] {
        let sample = Dir::new("sample");
        self::folder(&sample, &format!("deploy/compose/{folder}"));
        let set: &[(&str, &str)] = if folder == "tunnel" { &[("TOKEN", "a-long-random-secret")] } else { &[] };
        environment(&sample, set);
        let Some(model) = read(&sample, profiles) else { return };
        for (name, service) in model["services"].as_object().unwrap() {
            for profile in words(&service["profiles"]) {
                assert!(asked.contains(&format!("compose --profile {profile} up")), "{profile}: {asked}");
            }
            let ours = service["image"].as_str().unwrap().starts_with("portcullis:");
            let said = [format!(" exec {name} portcullis"), format!(" --profile {name} ")];
            assert!(!ours || said.iter().any(|s| asked.contains(s)), "{name}: {asked}");
        }
    }
}
