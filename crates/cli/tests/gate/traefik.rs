//! The gate beside the real Traefik: mirrored after mutual TLS and share links, with the labels that Gatekeeper
//! documents, written as Traefik's file provider reads them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use stage::command::{Server, binary, plain};
use stage::curl::{self, Visitor};
use stage::gate::Gate;
use stage::netns::World;
use stage::process::Process;
use stage::proxies::traefik_by;
use stage::upstream::answering;
use stage::{Dir, certificates, peers, ports, wait, wait_or};

const IMMICH: &str = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";
const NEXTCLOUD: &str = "aBcDeFgHiJkLmNo";

struct Site {
    _traefik: Process,
    https: u16,
    gate: Gate,
    dir: PathBuf,
}

/// A request from an address of the loopback network: Traefik's list looks at who connects, not at headers.
fn get(s: &Site, host: &str, path: &str, from: &str, cert: bool) -> u16 {
    let visitor = Visitor::new(from, host, s.https);
    if cert { visitor.with(&s.dir) } else { visitor }.get(path, &[])
}

fn site(name: &str, dir: &Dir, env: &[(&str, &str)]) -> Option<Site> {
    let binary = peers::need("traefik")?;
    peers::need("openssl")?;
    peers::need("curl")?;
    certificates::sites_and_a_phone(dir.path());
    let ha = answering(|_| (200, "ha".into()));
    let photos = answering(|h| {
        if h.contains("/share/") && !h.contains(IMMICH) { (404, String::new()) } else { (200, "photos".into()) }
    });
    let cloud = answering(|h| {
        if h.contains("/s/") && !h.contains(NEXTCLOUD) { (404, String::new()) } else { (200, "cloud".into()) }
    });
    let (https, api) = (ports::free(), ports::free());
    let dynamic = dir.at("dyn");
    std::fs::create_dir_all(&dynamic).unwrap();
    let shares = format!("immich=http://{photos},nextcloud=http://{cloud}");
    let file = dynamic.join("dynamic-whitelist.yml");
    let api_url = format!("http://127.0.0.1:{api}");
    let mut all = vec![
        ("SHARE_UPSTREAMS", shares.as_str()),
        ("TRAEFIK_API", api_url.as_str()),
        ("DEFAULT_SOURCE_RANGE", "127.0.2.200/32"),
        ("LEARN_PRIVATE", "true"),
    ];
    all.extend(env);
    let gate = Gate::start(dir.path(), &all, &["--file", file.to_str().unwrap()]);
    std::fs::write(
        dynamic.join("http.yml"),
        config(dir, gate.addrs[0], ha, photos, cloud, env.iter().any(|(k, _)| *k == "SHARE_SCOPE")),
    )
    .unwrap();
    let entry = format!("--entryPoints.https.address=127.0.0.1:{https}");
    let t = traefik_by(Command::new(binary), dir.path(), &[&entry, &api_at(api), "--api.insecure=true"]);
    let s = Site { _traefik: Process::start("traefik", t), https, gate, dir: dir.path().to_path_buf() };
    wait_or(
        || get(&s, "photos.example.com", "/", "127.0.2.200", false) == 200,
        || format!("{name}: Traefik serves; {}", s._traefik.output()),
    );
    Some(s)
}

/// Traefik's own API at a port.
fn api_at(port: u16) -> String {
    format!("--entryPoints.traefik.address=127.0.0.1:{port}")
}

fn config(dir: &Dir, gate: SocketAddr, ha: SocketAddr, photos: SocketAddr, cloud: SocketAddr, scoped: bool) -> String {
    let d = dir.path().display();
    // With a scope, each site uses its own middleware.
    let (mp, mc) = if scoped {
        ("dynamic-whitelist-immich", "dynamic-whitelist-nextcloud")
    } else {
        ("dynamic-whitelist", "dynamic-whitelist")
    };
    format!(
        r#"
http:
  routers:
    ha: {{ rule: "Host(`ha.example.com`)", entryPoints: [https], service: ha-mirror, tls: {{ options: your_mtls }} }}
    immich: {{ rule: "Host(`photos.example.com`)", entryPoints: [https], service: photos, middlewares: [{mp}], tls: {{}} }}
    immich-share: {{ rule: "Host(`photos.example.com`) && PathRegexp(`^\\/share\\/(?:[A-Z,a-z,0-9,_,-]){{67}}$`)", entryPoints: [https], service: photos, middlewares: [gatekeeper_immich_share], tls: {{}} }}
    nextcloud: {{ rule: "Host(`cloud.example.com`)", entryPoints: [https], service: cloud, middlewares: [{mc}], tls: {{}} }}
    nextcloud-share: {{ rule: "Host(`cloud.example.com`) && PathRegexp(`^\\/s\\/(?:[A-Z,a-z,0-9]){{15}}$`)", entryPoints: [https], service: cloud, middlewares: [gatekeeper_nextcloud_share], tls: {{}} }}
  middlewares:
    gatekeeper_immich_share: {{ forwardAuth: {{ address: "http://{gate}/verify_share_request?protocol=http&container_name_port={photos}", trustForwardHeader: true }} }}
    gatekeeper_nextcloud_share: {{ forwardAuth: {{ address: "http://{gate}/verify_share_request?protocol=http&container_name_port={cloud}", trustForwardHeader: true }} }}
  services:
    ha-mirror: {{ mirroring: {{ service: ha, mirrors: [ {{ name: gatekeeper, percent: 100 }} ] }} }}
    ha: {{ loadBalancer: {{ servers: [ {{ url: "http://{ha}" }} ] }} }}
    gatekeeper: {{ loadBalancer: {{ servers: [ {{ url: "http://{gate}/" }} ] }} }}
    photos: {{ loadBalancer: {{ servers: [ {{ url: "http://{photos}" }} ] }} }}
    cloud: {{ loadBalancer: {{ servers: [ {{ url: "http://{cloud}" }} ] }} }}
tls:
  certificates: [ {{ certFile: {d}/site.pem, keyFile: {d}/site.key }} ]
  options:
    your_mtls: {{ clientAuth: {{ caFiles: [ {d}/ca.pem ], clientAuthType: RequireAndVerifyClientCert }} }}
"#
    )
}

#[test]
fn a_certificate_opens_the_other_sites_and_a_revocation_and_a_restart_are_kept() {
    let dir = Dir::new("tfk");
    let Some(mut s) = site("mirror", &dir, &[]) else { return };
    let photos = |s: &Site, from: &str| get(s, "photos.example.com", "/", from, false);
    assert_eq!(photos(&s, "127.0.1.1"), 403);
    assert_eq!(get(&s, "ha.example.com", "/", "127.0.1.1", false), 0, "no certificate, no handshake");
    assert_eq!(
        get(
            &s,
            "ha.example.com",
            "/verify_share_request?protocol=http&container_name_port=127.0.0.1:1",
            "127.0.1.1",
            true
        ),
        200
    );
    wait("the phone is let in elsewhere", || photos(&s, "127.0.1.1") == 200);
    assert_eq!(photos(&s, "127.0.1.2"), 403);
    assert_eq!(s.gate.command(&["grant", "revoke", "127.0.1.1"]).0, 0);
    wait("the revoked phone is refused", || photos(&s, "127.0.1.1") == 403);
    get(&s, "ha.example.com", "/api", "127.0.1.7", true);
    wait("another phone is let in", || photos(&s, "127.0.1.7") == 200);
    // Killed: Traefik keeps its list; started again: nobody is forgotten.
    s.gate.process.kill();
    assert_eq!(photos(&s, "127.0.1.7"), 200);
    let file = dir.at("dyn/dynamic-whitelist.yml");
    s.gate = Gate::start(
        dir.path(),
        &[("DEFAULT_SOURCE_RANGE", "127.0.2.200/32"), ("LEARN_PRIVATE", "true")],
        &["--file", file.to_str().unwrap()],
    );
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(photos(&s, "127.0.1.7"), 200);
    assert_eq!(photos(&s, "127.0.1.1"), 403);
    assert_eq!(photos(&s, "127.0.2.200"), 200);
}

#[test]
fn a_share_link_lets_a_guest_in_when_the_answer_comes() {
    let dir = Dir::new("tfkshare");
    let Some(s) = site("share", &dir, &[]) else { return };
    let guest = "127.0.1.9";
    assert_eq!(get(&s, "photos.example.com", &format!("/share/{}", IMMICH.replace('T', "U")), guest, false), 403);
    assert_eq!(get(&s, "photos.example.com", "/", guest, false), 403);
    assert_eq!(get(&s, "photos.example.com", &format!("/share/{IMMICH}"), guest, false), 200);
    // With the API to look at, the answer came when Traefik had the list: the page's pictures load at once.
    assert_eq!(get(&s, "photos.example.com", "/api/assets/1", guest, false), 200, "{}", s.gate.process.output());
    assert_eq!(get(&s, "cloud.example.com", &format!("/s/{NEXTCLOUD}"), "127.0.1.10", false), 200);
    assert_eq!(get(&s, "cloud.example.com", "/apps", "127.0.1.11", false), 403);
}

#[test]
fn with_a_scope_the_guest_sees_one_site_only() {
    let dir = Dir::new("tfkscope");
    let Some(s) = site("scope", &dir, &[("SHARE_SCOPE", "service")]) else { return };
    let guest = "127.0.1.9";
    assert_eq!(get(&s, "photos.example.com", &format!("/share/{IMMICH}"), guest, false), 200);
    wait("the album's pictures load", || get(&s, "photos.example.com", "/api/assets/1", guest, false) == 200);
    assert_eq!(get(&s, "cloud.example.com", "/", guest, false), 403);
    get(&s, "ha.example.com", "/", "127.0.1.1", true);
    wait("the household sees both", || {
        get(&s, "photos.example.com", "/", "127.0.1.1", false) == 200
            && get(&s, "cloud.example.com", "/", "127.0.1.1", false) == 200
    });
}

#[test]
fn tcp_routers_take_the_list_too() {
    let Some(binary) = peers::need("traefik") else { return };
    if peers::need("curl").is_none() {
        return;
    }
    let dir = Dir::new("tfktcp");
    let up = answering(|_| (200, "in".into()));
    let (port, api) = (ports::free(), ports::free());
    std::fs::create_dir(dir.at("dyn")).unwrap();
    let file = dir.at("dyn/dynamic-whitelist.yml");
    let api_url = format!("http://127.0.0.1:{api}");
    let env = [("TRAEFIK_TCP", "true"), ("LEARN_PRIVATE", "true"), ("TRAEFIK_API", api_url.as_str())];
    let g = Gate::start(dir.path(), &env, &["--file", file.to_str().unwrap()]);
    std::fs::write(
        dir.at("dyn/tcp.yml"),
        format!(
            "tcp:\n  routers:\n    game: {{ rule: \"HostSNI(`*`)\", entryPoints: [game], service: game, middlewares: [dynamic-whitelist] }}\n  services:\n    game: {{ loadBalancer: {{ servers: [ {{ address: \"{up}\" }} ] }} }}\n"
        ),
    )
    .unwrap();
    let entry = format!("--entryPoints.game.address=127.0.0.1:{port}");
    let t = traefik_by(Command::new(binary), dir.path(), &[&entry, &api_at(api), "--api.insecure=true"]);
    let t = Process::start("traefik", t);
    let open =
        |from: &str| curl::command(from).arg(format!("http://127.0.0.1:{port}/")).output().unwrap().stdout == b"in";
    g.mirror("127.0.1.1");
    wait_or(|| open("127.0.1.1"), || format!("{}\n{}", t.output(), g.process.output()));
    assert!(!open("127.0.1.2"));
    assert_eq!(g.command(&["grant", "revoke", "127.0.1.1"]).0, 0);
    wait("the revoked one is refused", || !open("127.0.1.1"));
}

#[test]
fn ipv6_visitors_by_their_household_or_exactly() {
    let (Some(program), Some(_)) = (peers::need("traefik"), peers::need("curl")) else { return };
    let Some(world) = World::new() else { return };
    let host = world.lone("site");
    for a in ["2001:db8:1::7", "2001:db8:1::8", "2001:db8:2::7"] {
        host.ip(&["addr", "add", &format!("{a}/128"), "dev", "lo"]);
    }
    let open = |from: &str| {
        let mut c = host.command("curl");
        c.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "--interface", from]);
        let out = c.args(["-H", "Host: photos.example.com", "https://[::1]:8000/"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim() == "200"
    };
    for (width, neighbour) in [("64", true), ("128", false)] {
        let dir = Dir::new("tfk6");
        std::fs::create_dir(dir.at("dyn")).unwrap();
        std::fs::write(
            dir.at("dyn/http.yml"),
            "http:\n  routers:\n    photos: { rule: \"Host(`photos.example.com`)\", service: \"ping@internal\", middlewares: [dynamic-whitelist] }\n    ha: { rule: \"Host(`ha.example.com`)\", service: ha }\n  services:\n    ha: { mirroring: { service: gate, mirrors: [ { name: gate, percent: 100 } ] } }\n    gate: { loadBalancer: { servers: [ { url: \"http://127.0.0.1:5000\" } ] } }\n",
        )
        .unwrap();
        let mut g = host.command(binary());
        plain(&mut g);
        g.args(["gatekeeper", "--file", "dyn/dynamic-whitelist.yml", "--data-dir", "state"]).current_dir(dir.path());
        g.env("IPV6_PREFIX", width).env("DEFAULT_SOURCE_RANGE", "192.0.2.1");
        let g = Process::start("gate", g);
        wait_or(|| g.logged("listening listener=").is_some(), || g.output());
        let t = Process::start(
            "traefik",
            traefik_by(
                host.command(&program),
                dir.path(),
                &[
                    "--entryPoints.web.address=[::]:8000",
                    "--entryPoints.web.http.tls=true",
                    "--ping=true",
                    "--providers.providersThrottleDuration=100ms",
                ],
            ),
        );
        wait_or(
            || {
                let mut c = host.command("curl");
                c.args([
                    "-sk",
                    "--max-time",
                    "5",
                    "--interface",
                    "2001:db8:1::7",
                    "-H",
                    "Host: ha.example.com",
                    "https://[::1]:8000/",
                ]);
                c.output().unwrap().stdout == b"OK"
            },
            || format!("{}\n{}", t.output(), g.output()),
        );
        wait_or(
            || open("2001:db8:1::7"),
            || format!("{}\n{}", std::fs::read_to_string(dir.at("dyn/dynamic-whitelist.yml")).unwrap(), t.output()),
        );
        assert_eq!(open("2001:db8:1::8"), neighbour, "{width}");
        assert!(!open("2001:db8:2::7"));
    }
}
