//! The gate beside the real Traefik: mirrored after mutual TLS and share links, with the labels that Gatekeeper
//! documents, written as Traefik's file provider reads them.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod gate_room;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use gate_room::*;

const IMMICH: &str = "TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";
const NEXTCLOUD: &str = "aBcDeFgHiJkLmNo";

fn traefik() -> Option<PathBuf> {
    let cache = std::env::var_os("PORTCULLIS_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/portcullis")))?;
    peer("traefik", &[cache.join("traefik/bin/traefik")])
}

fn run(dir: &Path, program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A CA, a server certificate for both sites and a client certificate.
fn certificates(dir: &Path) {
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let mut ca = vec!["req", "-x509", "-days", "2", "-subj", "/CN=test ca", "-keyout", "ca.key", "-out", "ca.pem"];
    ca.extend(ec);
    run(dir, "openssl", &ca);
    for (name, extra) in [
        ("site", "subjectAltName=DNS:ha.example.com,DNS:photos.example.com,DNS:cloud.example.com"),
        ("phone", "extendedKeyUsage=clientAuth"),
    ] {
        let (key, csr, pem, ext) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        std::fs::write(dir.join(&ext), extra).unwrap();
        let subject = format!("/CN={name}");
        let mut req = vec!["req", "-subj", &subject, "-keyout", &key, "-out", &csr];
        req.extend(ec);
        run(dir, "openssl", &req);
        run(
            dir,
            "openssl",
            &[
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                &csr,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-extfile",
                &ext,
                "-out",
                &pem,
            ],
        );
    }
}

struct Site {
    _traefik: Proc,
    https: u16,
    gate: Gate,
    dir: PathBuf,
}

/// A request from an address of the loopback network: Traefik's list looks at who connects, not at headers.
fn get(s: &Site, host: &str, path: &str, from: &str, cert: bool) -> u16 {
    let mut c = Command::new("curl");
    c.args([
        "-sk",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--max-time",
        "20",
        "--resolve",
        &format!("{host}:{}:127.0.0.1", s.https),
        "--interface",
        from,
    ]);
    if cert {
        c.arg("--cert").arg(s.dir.join("phone.pem")).arg("--key").arg(s.dir.join("phone.key"));
    }
    let out = c.arg(format!("https://{host}:{}{path}", s.https)).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap_or(0)
}

fn site(name: &str, dir: &Dir, env: &[(&str, &str)]) -> Option<Site> {
    let binary = traefik()?;
    peer("openssl", &[])?;
    peer("curl", &[])?;
    certificates(&dir.0);
    let ha = upstream(|_| (200, "ha".into()));
    let photos = upstream(|h| {
        if h.contains("/share/") && !h.contains(IMMICH) { (404, String::new()) } else { (200, "photos".into()) }
    });
    let cloud = upstream(|h| {
        if h.contains("/s/") && !h.contains(NEXTCLOUD) { (404, String::new()) } else { (200, "cloud".into()) }
    });
    let (https, api) = (free_port(), free_port());
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
    let gate = Gate::start(&dir.0, &all, &["--file", file.to_str().unwrap()]);
    std::fs::write(
        dynamic.join("http.yml"),
        config(dir, gate.addrs[0], ha, photos, cloud, env.iter().any(|(k, _)| *k == "SHARE_SCOPE")),
    )
    .unwrap();
    let mut t = Command::new(binary);
    t.args([
        &format!("--entryPoints.https.address=127.0.0.1:{https}"),
        &format!("--entryPoints.traefik.address=127.0.0.1:{api}"),
        "--api.insecure=true",
        &format!("--providers.file.directory={}", dynamic.display()),
        "--providers.file.watch=true",
        "--log.level=ERROR",
        &format!("--log.filePath={}", dir.at("traefik.log").display()),
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]);
    let s = Site { _traefik: Proc::start(t), https, gate, dir: dir.0.clone() };
    wait_or(
        || get(&s, "photos.example.com", "/", "127.0.2.200", false) == 200,
        || {
            format!(
                "{name}: Traefik serves; {} {}",
                s._traefik.text(),
                std::fs::read_to_string(dir.at("traefik.log")).unwrap_or_default()
            )
        },
    );
    Some(s)
}

fn config(dir: &Dir, gate: SocketAddr, ha: SocketAddr, photos: SocketAddr, cloud: SocketAddr, scoped: bool) -> String {
    let d = dir.0.display();
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
    s.gate.proc.child.kill().unwrap();
    s.gate.proc.child.wait().unwrap();
    assert_eq!(photos(&s, "127.0.1.7"), 200);
    let file = dir.at("dyn/dynamic-whitelist.yml");
    s.gate = Gate::start(
        &dir.0,
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
    assert_eq!(get(&s, "photos.example.com", "/api/assets/1", guest, false), 200, "{}", s.gate.proc.text());
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
