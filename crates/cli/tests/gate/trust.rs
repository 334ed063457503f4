//! Who is believed: what a visitor writes into a request never decides who it is, from where, or on which list; behind
//! real Traefik, Caddy and nginx, one and two deep, with the configurations that the manual prints.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stage::command::{Outcome, Server, run};
use stage::curl::Visitor;
use stage::gate::{Gate, Serve};
use stage::http::{request, request_full};
use stage::pages::recipe;
use stage::process::Process;
use stage::proxies::{caddy_by, nginx_by, traefik_by};
use stage::upstream::answering;
use stage::{Dir, certificates, peers, ports, wait, wait_or};

const INFO: &str = "X-Forwarded-Tls-Client-Cert-Info: Subject%3D%22CN%3Downer-anna%22%3BSerialNumber%3D%2218%22";

fn names(s: &Serve) -> Vec<String> {
    let said = s.json(&["lists", "show", "family"]);
    said["grants"].as_array().unwrap().iter().map(|g| g["principal"].as_str().unwrap_or("-").to_string()).collect()
}

/// Caddy replaces the path of the question only: the visitor's query goes along. Whoever shows no certificate, or his own,
/// is nobody else by it.
#[test]
fn a_query_forges_no_certificate_through_caddy() {
    let (Some(program), Some(_), Some(_)) = (peers::need("caddy"), peers::need("openssl"), peers::need("curl")) else {
        return;
    };
    let dir = Dir::new("trustcaddy");
    certificates::sites_and_a_phone(dir.path());
    let (ha, photos, gate, d) = (ports::free(), ports::free(), ports::free(), dir.path().display().to_string());
    let config = format!(
        "http = false\n[lists.family]\nlearn_private = true\n[gate]\nlisten = \"127.0.0.1:{gate}\"\nprobes = [\"https://localhost:{ha}\"]\n[[gate.learn]]\nlist = \"family\"\ncertificate = \"gate\"\n"
    );
    let s = Serve::start(dir.path(), &config, &["listener=\"check endpoint\""]);
    let up = answering(|_| (200, "in".into()));
    let c = Process::start(
        "caddy",
        caddy_by(
            Command::new(&program),
            dir.path(),
            &format!(
                "{{
	admin off
	auto_https disable_redirects
	skip_install_trust
}}
https://ha.example.com:{ha}, https://localhost:{ha} {{
	bind 127.0.0.1
	tls {d}/site.pem {d}/site.key {{
		client_auth {{
			mode verify_if_given
			trusted_ca_cert_file {d}/ca.pem
		}}
	}}
	forward_auth 127.0.0.1:{gate} {{
		uri /v1/learn/family
		header_up X-Gate-Cert-Subject {{tls_client_subject}}
		header_up X-Gate-Cert-Fp {{tls_client_fingerprint}}
		copy_headers X-Gate-User
	}}
	reverse_proxy {up}
}}
https://photos.example.com:{photos} {{
	bind 127.0.0.1
	tls {d}/site.pem {d}/site.key
	forward_auth 127.0.0.1:{gate} {{
		uri /v1/check/family
	}}
	reverse_proxy {up}
}}
"
            ),
        ),
    );
    let at = |site: &'static str, port, from: &'static str| Visitor::new(from, site, port);
    let (stranger, kid) = (at("ha.example.com", ha, "127.0.1.8"), at("ha.example.com", ha, "127.0.1.9"));
    wait_or(|| stranger.get("/", &[]) == 403, || format!("{}\n{}", c.output(), s.process.output()));
    for query in ["/?cert=traefik", "/?cert=traefik&list=family", "/v1/learn/family?cert=traefik", "/?cert=gate"] {
        assert_eq!(stranger.get(query, &[INFO]), 403, "{query}\n{}", s.process.output());
        assert_eq!(stranger.get(query, &[INFO, "X-Gate-Cert-Subject: CN=owner-anna", "X-Gate-Cert-Fp: 00"]), 403);
    }
    assert_eq!(names(&s), Vec::<String>::new());
    assert_eq!(at("photos.example.com", photos, "127.0.1.8").get("/?cert=traefik", &[INFO]), 403);
    // With a certificate one is who it says, and nobody else.
    assert_eq!(kid.with(dir.path()).get("/?cert=traefik", &[INFO]), 200);
    assert_eq!(names(&s), ["CN=phone"]);
    // The doctor sends forged headers and such a query too, and finds no hole.
    let (_, said) = s.command(&["doctor"]);
    assert!(!said.contains("believed") && !said.contains("could not be asked"), "{said}");
}

/// A proxy that says no address is not the visitor: with its own range on the list everybody would be in.
#[test]
fn a_missing_address_is_never_the_proxys() {
    let (Some(program), Some(_)) = (peers::need("nginx"), peers::need("curl")) else { return };
    let dir = Dir::new("trustnone");
    let env = [("DEFAULT_SOURCE_RANGE", "127.0.0.0/8")];
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
    let (port, up, check) = (ports::free(), answering(|_| (200, "in".into())), g.addrs[1]);
    let n = Process::start("nginx", nginx_by(Command::new(&program),
        dir.path(),
        &format!(
            "server {{ listen 127.0.0.1:{port};
  location = /_gate {{ internal; proxy_pass http://{check}/v1/check/dynamic-whitelist; proxy_pass_request_body off; proxy_set_header Content-Length \"\"; proxy_set_header X-Real-IP $remote_addr; }}
  location / {{ auth_request /_gate; proxy_pass http://{up}; }} }}"
        ),
    ));
    let v = Visitor::new("127.0.1.7", "photos.example.com", port);
    wait_or(|| v.plain("/", &[]) != 0, || n.output());
    assert_eq!(v.plain("/", &[]), 403);
    let (code, said) = g.doctor();
    assert!(code == 1 && said.contains("[no-address]") && said.contains("proxy_set_header X-Forwarded-For"), "{said}");
    let said = g.command(&["explain", "127.0.1.7"]).1;
    assert!(said.contains("sends no X-Forwarded-For"), "{said}");
    assert!(g.process.logged("sends no X-Forwarded-For").is_some(), "{}", g.process.output());
    // The learn endpoint does not know who it would learn either.
    let proof = [("X-Gate-Cert-Subject", "CN=anna")];
    assert_eq!(request(check, "GET", "/v1/learn/dynamic-whitelist", &proof).0, 403);
    // Another header than the configured one says nothing.
    let forwarded = [("Forwarded", "for=127.0.0.1")];
    assert_eq!(request(check, "GET", "/v1/check/dynamic-whitelist", &forwarded).0, 403);
    drop(g);
    let dir = Dir::new("trustfwd");
    let g = Gate::start(dir.path(), &[env[0], ("TRUSTED_HEADER", "forwarded")], &["--check-listen", "127.0.0.1:0"]);
    let ask = |head: &[(&str, &str)]| request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", head).0;
    assert_eq!(ask(&[("Forwarded", "for=127.0.3.1"), ("X-Forwarded-For", "198.51.100.1")]), 200);
    assert_eq!(ask(&[("Forwarded", "for=198.51.100.1"), ("X-Forwarded-For", "127.0.3.1")]), 403);
    assert_eq!(ask(&[("X-Forwarded-For", "127.0.3.1")]), 403);
}

#[test]
fn a_peer_that_is_no_proxy_is_itself_only_where_that_is_configured() {
    for (direct, want) in [("false", 403), ("true", 200)] {
        let dir = Dir::new(&format!("trustdirect{direct}"));
        let env = [("DEFAULT_SOURCE_RANGE", "127.0.0.1"), ("TRUSTED_PROXIES", "192.0.2.1"), ("CHECK_DIRECT", direct)];
        let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
        let forged = [("X-Forwarded-For", "198.51.100.1")];
        assert_eq!(request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &forged).0, want);
        // Nobody proves anything by himself, whatever is configured.
        let proof = [("X-Forwarded-For", "198.51.100.1"), ("X-Gate-Cert-Subject", "CN=anna")];
        assert_eq!(request(g.addrs[1], "GET", "/v1/learn/dynamic-whitelist", &proof).0, 403);
    }
}

/// Envoy appends the visitor's path to the endpoint's.
#[test]
fn a_path_below_the_endpoint_is_served_by_its_switch_only() {
    let env = [("DEFAULT_SOURCE_RANGE", "203.0.113.0/24")];
    let ask = |g: &Gate, path: &str, from: &str| {
        request(g.addrs[1], "GET", path, &[("X-Forwarded-For", from), ("X-Gate-Cert-Subject", "CN=anna")]).0
    };
    let dir = Dir::new("trustbelow");
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
    assert_eq!(ask(&g, "/v1/check/dynamic-whitelist/?x=/y", "203.0.113.1"), 200);
    assert_eq!(ask(&g, "/v1/check/dynamic-whitelist/index.html", "203.0.113.1"), 403);
    assert_eq!(ask(&g, "/v1/learn/dynamic-whitelist/index.html", "198.51.100.1"), 403);
    let (code, said) = g.doctor();
    assert!(code == 1 && said.contains("[path-below]") && said.contains("--paths-below"), "{said}");
    drop(g);
    // A list that is not there lets nobody in, and that is said with those that are.
    let dir = Dir::new("trustlist");
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
    assert_eq!(ask(&g, "/v1/check/dynamic-whitlist", "203.0.113.1"), 403);
    let (_, said) = g.doctor();
    assert!(said.contains("/v1/check/dynamic-whitlist, and there is no such list"), "{said}");
    assert!(said.contains("[no-list]") && said.contains("/v1/check/dynamic-whitelist"), "{said}");
    assert_eq!(ask(&g, "/v1/learn/other", "203.0.113.1"), 403);
    let (code, said) = g.command(&["explain", "198.51.100.9"]);
    assert!(code == 3 && said.contains("/v1/learn/other, and no list of that name learns there"), "{said}");
    drop(g);
    let dir = Dir::new("trustbelow2");
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0", "--paths-below=true"]);
    for path in ["", "/", "/index.html", "//x", "/../other?list=other&x=/v1/check/other", "/%2e%2e/other"] {
        assert_eq!(ask(&g, &format!("/v1/check/dynamic-whitelist{path}"), "203.0.113.1"), 200, "{path}");
        assert_eq!(ask(&g, &format!("/v1/check/dynamic-whitelist{path}"), "198.51.100.9"), 403, "{path}");
        assert_eq!(ask(&g, &format!("/v1/check/other{path}"), "203.0.113.1"), 403, "{path}");
        assert_eq!(ask(&g, &format!("/v1/learn/other{path}"), "203.0.113.1"), 403, "{path}");
    }
    assert_eq!(ask(&g, "/v1/learn/dynamic-whitelist/a/b", "198.51.100.1"), 200);
    assert_eq!(ask(&g, "/v1/check/dynamic-whitelist/a/b", "198.51.100.1"), 200);
}

/// nginx in front of Traefik, which keeps that proxy's header: `front` of the manual's section.
struct TwoDeep {
    dir: Dir,
    front: u16,
    _front: Process,
    _traefik: Process,
    gate_port: u16,
    check_port: u16,
}

/// How a test sees Traefik follow its files.
const QUICK: &str = "--providers.providersThrottleDuration=100ms";

/// Traefik's entry point at a port.
fn web(port: u16) -> String {
    format!("--entryPoints.web.address=127.0.0.1:{port}")
}

/// The address from which the front proxy connects.
const FRONT: &str = "127.0.0.3";

impl TwoDeep {
    fn start() -> Option<TwoDeep> {
        let (program, traefik) = (peers::need("nginx")?, peers::need("traefik")?);
        peers::need("curl")?;
        let dir = Dir::new("trusttwo");
        std::fs::create_dir(dir.at("dyn")).unwrap();
        let (front, inner, gate_port, check_port) = (ports::free(), ports::free(), ports::free(), ports::free());
        let up = answering(|_| (200, "in".into()));
        // The static configuration of the manual, with our front for Cloudflare's ranges.
        let fixed = recipe("cloudflare-traefik")
            .replace("\":443\"", &format!("\"127.0.0.1:{inner}\""))
            .replace("\"173.245.48.0/20\", \"103.21.244.0/22\"", &format!("\"{FRONT}\""));
        assert!(fixed.contains(FRONT) && fixed.contains("forwardedHeaders"), "{fixed}");
        let more = format!(
            "providers: {{ providersThrottleDuration: 100ms, file: {{ directory: {}/dyn }} }}\nlog: {{ level: ERROR }}\nglobal: {{ checkNewVersion: false, sendAnonymousUsage: false }}\n",
            dir.path().display()
        );
        std::fs::write(dir.at("traefik.yml"), format!("{fixed}{more}")).unwrap();
        let check = recipe("check-traefik").replace("127.0.0.1:7070", &format!("127.0.0.1:{check_port}"));
        assert!(check.contains("trustForwardHeader: true"), "{check}");
        std::fs::write(dir.at("dyn/check.yml"), check).unwrap();
        std::fs::write(
            dir.at("dyn/http.yml"),
            format!(
                "http:
  routers:
    ha: {{ rule: \"Host(`ha.example.com`)\", service: ha }}
    photos: {{ rule: \"Host(`photos.example.com`)\", service: up, middlewares: [dynamic-whitelist] }}
    asked: {{ rule: \"Host(`asked.example.com`)\", service: up, middlewares: [gate-check] }}
  services:
    ha: {{ mirroring: {{ service: up, mirrors: [ {{ name: gate, percent: 100 }} ] }} }}
    gate: {{ loadBalancer: {{ servers: [ {{ url: \"http://127.0.0.1:{gate_port}\" }} ] }} }}
    up: {{ loadBalancer: {{ servers: [ {{ url: \"http://{up}\" }} ] }} }}
"
            ),
        )
        .unwrap();
        let mut t = Command::new(traefik);
        t.arg(format!("--configFile={}", dir.at("traefik.yml").display()));
        let _traefik = Process::start("traefik", t);
        let _front = Process::start(
            "nginx",
            nginx_by(
                Command::new(&program),
                dir.path(),
                &format!(
                    "server {{ listen 127.0.0.1:{front}; location / {{ proxy_pass http://127.0.0.1:{inner}; proxy_bind {FRONT}; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https; }} }}"
                ),
            ),
        );
        Some(TwoDeep { dir, front, _front, _traefik, gate_port, check_port })
    }

    fn gate(&self, env: &[(&str, &str)]) -> Gate {
        let (main, check) = (format!("127.0.0.1:{}", self.gate_port), format!("127.0.0.1:{}", self.check_port));
        let args = ["--listen", &main, "--check-listen", &check, "--file", "dyn/dynamic-whitelist.yml"];
        let mut command = Gate::command_in(self.dir.path(), &args);
        command.envs(env.iter().copied()).env("LEARN_PRIVATE", "true").env("DEFAULT_SOURCE_RANGE", "192.0.2.1");
        Gate::by(command, self.dir.path(), 2)
    }

    fn get(&self, site: &str, from: &str, headers: &[&str]) -> u16 {
        Visitor::new(from, site, self.front).plain("/", headers)
    }
}

#[test]
fn behind_a_second_proxy_nobody_is_let_in_for_it_and_the_manuals_lines_mend_it() {
    let Some(two) = TwoDeep::start() else { return };
    let (phone, stranger) = ("127.0.1.1", "127.0.1.2");
    // The front is not named: its address is not learned, and the line that names it keeps the others.
    let g = two.gate(&[("TRUSTED_PROXIES", "127.0.0.1")]);
    wait_or(
        || two.get("ha.example.com", phone, &[]) == 200,
        || format!("{}{}", two._traefik.output(), two._front.output()),
    );
    wait_or(|| g.process.logged("127.0.0.3 is no visitor").is_some(), || g.process.output());
    let file = || std::fs::read_to_string(two.dir.at("dyn/dynamic-whitelist.yml")).unwrap_or_default();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!file().contains("127.0"), "{}", file());
    wait("Traefik has the list", || two.get("photos.example.com", stranger, &[]) == 403);
    assert_eq!(two.get("asked.example.com", stranger, &[]), 403);
    let (code, said) = g.doctor();
    assert!(
        code == 1 && said.contains("[second-proxy]") && said.contains("TRUSTED_PROXIES=127.0.0.1,127.0.0.3"),
        "{said}"
    );
    let said = g.command(&["explain", FRONT]).1;
    assert!(said.contains("is no visitor but a proxy"), "{said}");
    drop(g);
    // It is named, but Traefik's list looks at who connects: the phone is learned, and stays out; that is said.
    let trusted = ("TRUSTED_PROXIES", "127.0.0.1,127.0.0.3");
    let g = two.gate(&[trusted]);
    wait_or(
        || {
            two.get("ha.example.com", phone, &[]);
            file().contains("127.0.1.1")
        },
        || g.process.output(),
    );
    let (code, said) = g.doctor();
    assert!(
        code == 1 && said.contains("[traefik-behind-proxy]") && said.contains("TRAEFIK_EXCLUDED_IPS=127.0.0.3"),
        "{said}"
    );
    // The check endpoint knows already.
    assert_eq!((two.get("asked.example.com", phone, &[]), two.get("asked.example.com", stranger, &[])), (200, 403));
    drop(g);
    // With the line all is as it should be, and a forged header changes nothing.
    let g = two.gate(&[trusted, ("TRAEFIK_EXCLUDED_IPS", FRONT), ("TRAEFIK_REJECT_STATUS", "404")]);
    wait_or(|| two.get("photos.example.com", phone, &[]) == 200, || format!("{}\n{}", file(), two._traefik.output()));
    assert_eq!(two.get("photos.example.com", stranger, &[]), 404);
    for forged in ["X-Forwarded-For: 127.0.1.1", "X-Forwarded-For: 127.0.1.1, 127.0.0.3", "Forwarded: for=127.0.1.1"] {
        assert_eq!(two.get("photos.example.com", stranger, &[forged]), 404, "{forged}");
        assert_eq!(two.get("asked.example.com", stranger, &[forged]), 403, "{forged}");
        two.get("ha.example.com", stranger, &[forged]);
    }
    assert!(!file().contains("127.0.1.1\"\n        - \"127.0.0.3"), "{}", file());
    two.get("ha.example.com", phone, &[]);
    let (code, said) = g.command(&["explain", "127.0.0.3"]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn public_trusted_proxies_are_passed_over_by_traefiks_list() {
    let dir = Dir::new("trustcdn");
    let g = Gate::start(dir.path(), &[("TRUSTED_PROXIES", "127.0.0.1,172.16.0.0/12,173.245.48.0/20")], &[]);
    wait_or(|| g.file().contains("          excludedIPs:\n          - \"173.245.48.0/20\"\n"), || g.file());
    assert!(!g.file().contains("172.16"), "{}", g.file());
    g.mirror("203.0.113.7, 173.245.48.5");
    // The network's own requests are no visitor's.
    g.mirror("173.245.48.9");
    wait("the visitor is learnt", || g.entries() == ["203.0.113.7"]);
    drop(g);
    let dir = Dir::new("trustcdn2");
    let env = [("TRUSTED_PROXIES", "127.0.0.1,173.245.48.0/20"), ("TRAEFIK_EXCLUDED_IPS", "none")];
    let g = Gate::start(dir.path(), &env, &[]);
    wait("the file is there", || g.file().contains("sourceRange"));
    assert!(!g.file().contains("ipStrategy"), "{}", g.file());
    drop(g);
    // Traefik strips the header of a front that it does not trust: then the network's own header tells.
    let dir = Dir::new("trustcdn3");
    let g = Gate::start(dir.path(), &[], &["--check-listen", "127.0.0.1:0"]);
    let head = [("X-Forwarded-For", "173.245.48.5"), ("CF-Connecting-IP", "203.0.113.7")];
    assert_eq!(request(g.addrs[0], "GET", "/", &head).0, 200);
    let learn = [head[0], head[1], ("X-Gate-Cert-Subject", "CN=anna")];
    assert_eq!(
        request(g.addrs[1], "GET", "/v1/learn/dynamic-whitelist", &learn).0,
        200,
        "the certificate opens its site"
    );
    g.mirror("198.51.100.1");
    g.expect(&["198.51.100.1"]);
    let (code, said) = g.doctor();
    assert!(
        code == 1 && said.contains("173.245.48.5 is no visitor") && said.contains("cf-connecting-ip names 203.0.113.7"),
        "{said}"
    );
}

/// No line of the doctor lets in everybody behind a tunnel or a gateway.
#[test]
fn the_doctor_gives_no_advice_that_opens_a_door() {
    let dir = Dir::new("trustadvice");
    let g = Gate::start(dir.path(), &[], &[]);
    let mirror = |head: &[(&str, &str)]| assert_eq!(request(g.addrs[0], "GET", "/", head).0, 200);
    let cf = ("CF-Connecting-IP", "203.0.113.7");
    mirror(&[("X-Forwarded-For", "172.18.0.6"), cf]);
    mirror(&[("X-Forwarded-For", "172.18.0.7"), ("X-Real-IP", "203.0.113.7")]);
    mirror(&[("X-Forwarded-For", "fd12:3456::1")]);
    mirror(&[("X-Forwarded-For", "127.0.0.1")]);
    mirror(&[("X-Forwarded-For", "172.19.0.9")]);
    mirror(&[("X-Forwarded-For", "192.168.7.7")]);
    mirror(&[("X-Forwarded-For", "100.64.5.1")]);
    let (code, said) = g.doctor();
    assert_eq!(code, 1);
    for open in ["put your own network into", "LEARN_PRIVATE"] {
        assert!(!said.contains(open), "{said}");
    }
    let line = |what: &str| {
        let at = said.lines().position(|l| l.contains(what)).unwrap_or_else(|| panic!("no {what} in {said}"));
        said.lines().skip(at).take(2).collect::<Vec<_>>().join(" ")
    };
    for tunnel in ["172.18.0.6 is no visitor", "172.18.0.7 is no visitor"] {
        assert!(line(tunnel).contains("keep it out of DEFAULT_SOURCE_RANGE"), "{said}");
        assert!(line(tunnel).contains("forwardedHeaders.trustedIPs: [\"172.18.0."), "{said}");
    }
    assert!(line("come from fd12:3456::1").contains("[gateway]"), "{said}");
    assert!(line("come from 127.0.0.1").contains("keep loopback out"), "{said}");
    assert!(line("172.19.0.9 proved itself").contains("address of containers"), "{said}");
    assert!(line("192.168.7.7 proved itself").contains("only if one device of yours"), "{said}");
    assert!(!line("100.64.5.1 proved itself").contains("gateway that hides"), "{said}");
    drop(g);
    // Open already: a range that holds the tunnel's container.
    let dir = Dir::new("trustopen");
    let g = Gate::start(dir.path(), &[("DEFAULT_SOURCE_RANGE", "172.16.0.0/12")], &["--check-listen", "127.0.0.1:0"]);
    let head = [("X-Forwarded-For", "172.18.0.6"), cf];
    assert_eq!(request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &head).0, 200);
    let (code, said) = g.doctor();
    assert!(code == 1 && said.contains("172.18.0.6 is no visitor"), "{said}");
}

#[test]
fn a_finding_is_accepted_by_its_name_and_only_that_one() {
    let dir = Dir::new("trustaccept");
    let g = Gate::start(dir.path(), &[("DOCTOR_ACCEPT", "gateway, single-file-mount")], &[]);
    g.mirror("172.18.0.1");
    let (code, said) = g.doctor();
    assert!(code == 0 && said.contains("accepted: visitors seem to come from 172.18.0.1"), "{said}");
    g.mirror("nonsense");
    let (code, said) = g.doctor();
    assert!(code == 1 && said.contains("[unreadable-address]") && said.contains("DOCTOR_ACCEPT=NAME"), "{said}");
    let out = Outcome::of(&mut Gate::command_in(Dir::new("trustname").path(), &["--accept", "nonsense"]));
    assert!(out.code == 2 && out.err.contains("single-file-mount"), "{}", out.all());
}

/// With TLS 1.3 a server asks for a certificate and judges it after the handshake: the alert says so, whatever the error's
/// words are.
#[test]
fn the_doctor_knows_a_site_that_demands_a_certificate() {
    let (Some(program), Some(_)) = (peers::need("traefik"), peers::need("openssl")) else { return };
    let dir = Dir::new("trustmtls");
    certificates::sites_and_a_phone(dir.path());
    std::fs::create_dir(dir.at("dyn")).unwrap();
    let (port, d) = (ports::free(), dir.path().display().to_string());
    let site = |version: &str| {
        format!(
            "http:
  routers:
    ha: {{ rule: \"PathPrefix(`/`)\", service: ha, tls: {{ options: mtls }} }}
  services:
    ha: {{ loadBalancer: {{ servers: [ {{ url: \"http://127.0.0.1:1\" }} ] }} }}
tls:
  certificates: [ {{ certFile: {d}/site.pem, keyFile: {d}/site.key }} ]
  stores: {{ default: {{ defaultCertificate: {{ certFile: {d}/site.pem, keyFile: {d}/site.key }} }} }}
  options:
    mtls: {{ maxVersion: {version}, clientAuth: {{ caFiles: [ {d}/ca.pem ], clientAuthType: RequireAndVerifyClientCert }} }}
    default: {{ maxVersion: {version}, clientAuth: {{ caFiles: [ {d}/ca.pem ], clientAuthType: RequireAndVerifyClientCert }} }}
"
        )
    };
    for version in ["VersionTLS13", "VersionTLS12"] {
        std::fs::write(dir.at("dyn/http.yml"), site(version)).unwrap();
        let t = Process::start("traefik", traefik_by(Command::new(&program), dir.path(), &[&web(port), QUICK]));
        let visit = Visitor::new("127.0.0.1", "ha.example.com", port);
        wait_or(|| visit.with(dir.path()).get("/", &[]) == 502, || t.output());
        let sites = format!("https://localhost:{port},https://127.0.0.1:{port}/x?y=z");
        let state = Dir::new(version);
        let g = Gate::start(state.path(), &[("PROBE_URLS", &sites)], &[]);
        for _ in 0..3 {
            let (code, said) = g.doctor();
            assert!(code == 0 && said.contains("nothing wrong"), "{version}: {said}\n{}", g.process.output());
        }
        drop(t);
        // A site that does not answer is still said.
        assert!(g.doctor().1.contains("[site-unreachable]"));
    }
}

/// Traefik writes a name into its header as it is: whose name holds the header's own marks is nobody, not somebody else.
#[test]
fn a_certificates_name_with_marks_of_traefiks_header_proves_nothing() {
    let (Some(program), Some(_), Some(_)) = (peers::need("traefik"), peers::need("openssl"), peers::need("curl"))
    else {
        return;
    };
    let dir = Dir::new("trustquote");
    certificates::sites_and_a_phone(dir.path());
    let (port, gate, d) = (ports::free(), ports::free(), dir.path().display().to_string());
    let config = format!(
        "http = false\n[lists.family]\nlearn_private = true\n[gate]\nlisten = \"127.0.0.1:{gate}\"\n[[gate.learn]]\nlist = \"family\"\ncertificate = \"traefik\"\n"
    );
    let s = Serve::start(dir.path(), &config, &["listener=\"check endpoint\""]);
    let up = answering(|_| (200, "in".into()));
    std::fs::create_dir(dir.at("dyn")).unwrap();
    std::fs::write(
        dir.at("dyn/http.yml"),
        format!(
            "http:
  routers:
    ha: {{ rule: \"Host(`ha.example.com`)\", service: up, middlewares: [cert, learn], tls: {{ options: mtls }} }}
  middlewares:
    cert: {{ passTLSClientCert: {{ info: {{ subject: {{ commonName: true }}, serialNumber: true }} }} }}
    learn: {{ forwardAuth: {{ address: \"http://127.0.0.1:{gate}/v1/learn/family\" }} }}
  services:
    up: {{ loadBalancer: {{ servers: [ {{ url: \"http://{up}\" }} ] }} }}
tls:
  certificates: [ {{ certFile: {d}/site.pem, keyFile: {d}/site.key }} ]
  options:
    mtls: {{ clientAuth: {{ caFiles: [ {d}/ca.pem ], clientAuthType: RequireAndVerifyClientCert }} }}
"
        ),
    )
    .unwrap();
    let t = Process::start("traefik", traefik_by(Command::new(&program), dir.path(), &[&web(port), QUICK]));
    let visit = Visitor::new("127.0.1.5", "ha.example.com", port);
    wait_or(|| visit.with(dir.path()).get("/", &[]) == 200, || format!("{}\n{}", t.output(), s.process.output()));
    for name in [
        "owner-anna\";SerialNumber=\"18\";x=\"",
        "owner-anna\";SerialNumber=\"18\",Subject=\"CN=z",
        "owner-anna\";Issuer=\"CN=x",
        "{owner-anna}",
    ] {
        certificates::phone(dir.path(), name);
        assert_eq!(visit.with(dir.path()).get("/", &[]), 403, "{name}\n{}", s.process.output());
    }
    assert_eq!(names(&s), ["CN=phone"]);
    let (code, said) = s.command(&["doctor"]);
    assert!(code == 1 && said.contains("[certificate-form]"), "{said}");
}

#[test]
fn a_refusal_is_what_was_configured_and_names_no_list() {
    let at = |env: &[(&str, &str)], name: &str| {
        let dir = Dir::new(name);
        let g = Gate::start(dir.path(), env, &["--check-listen", "127.0.0.1:0"]);
        let answers =
            ["/v1/check/dynamic-whitelist", "/v1/check/other", "/v1/learn/dynamic-whitelist", "/v1/check/x/y"]
                .map(|path| request_full(g.addrs[1], "GET", path, &[("X-Forwarded-For", "198.51.100.1")]));
        (answers, dir)
    };
    for (status, head, body) in at(&[("REFUSE_STATUS", "404"), ("REFUSE_BODY", "<h1>gone</h1>")], "trustpage").0 {
        assert!(status == 404 && body == "<h1>gone</h1>" && head.contains("text/html"), "{head}{body}");
        assert!(!head.contains("whitelist") && !head.contains("x-gate") && !head.contains("198.51"), "{head}");
    }
    for (status, head, _) in at(&[("REFUSE_REDIRECT", "https://example.com/knock")], "trustmove").0 {
        assert!(status == 302 && head.contains("location: https://example.com/knock"), "{head}");
    }
    let said = at(&[("REFUSE_REASON", "true")], "trustwhy").0;
    assert!(said[0].1.contains("x-gate-reason: ") && said[0].1.contains("is refused"), "{}", said[0].1);
    for bad in [["--refuse-status", "200"], ["--refuse-status", "302"], ["--refuse-redirect", "javascript:x"]] {
        let out = run(&[&["gatekeeper"][..], &bad].concat());
        assert_eq!(out.code, 2, "{bad:?} {}", out.all());
    }
}

/// One trusted address that sends thousands of half requests keeps the real proxy out of nothing.
#[test]
fn half_requests_of_one_address_stop_no_proxy() {
    let _turn = stage::alone();
    let dir = Dir::new("trusthalf");
    let g = Gate::start(dir.path(), &[("DEFAULT_SOURCE_RANGE", "203.0.113.0/24")], &["--check-listen", "127.0.0.1:0"]);
    let check = || request(g.addrs[1], "GET", "/v1/check/dynamic-whitelist", &[("X-Forwarded-For", "203.0.113.1")]).0;
    assert_eq!(check(), 200);
    let began = Instant::now();
    let mut held = Vec::new();
    for _ in 0..4_200 {
        let Ok(mut s) = stage::http::tcp_from(Ipv4Addr::new(127, 0, 9, 9), g.addrs[1]) else { break };
        let _ = s.write_all(b"GET /v1/check/dynamic-whitelist HTTP/1.1\r\n");
        held.push(s);
    }
    assert!(held.len() == 4_200 || began.elapsed() < Duration::from_secs(9), "{}", held.len());
    let asked = Instant::now();
    assert_eq!(check(), 200);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?} after {:?}", asked.elapsed(), began.elapsed());
    drop(held);
    assert!(g.process.lines() < 100, "{}", g.process.output());
}

/// README's nginx recipe as printed: Home Assistant gets its WebSocket, a gate that is down breaks it not, and nobody
/// says who he is.
#[test]
fn readmes_nginx_recipe_as_printed() {
    let (Some(program), Some(_), Some(_)) = (peers::need("nginx"), peers::need("openssl"), peers::need("curl")) else {
        return;
    };
    let dir = Dir::new("trustnginx");
    certificates::sites_and_a_phone(dir.path());
    let g = Gate::start(dir.path(), &[("LEARN_PRIVATE", "true")], &["--check-listen", "127.0.0.1:0"]);
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let keep = heads.clone();
    let up: SocketAddr = answering(move |h| {
        keep.lock().unwrap().push(h.to_string());
        (200, "in".into())
    });
    let (https, d) = (ports::free(), dir.path().display().to_string());
    let recipe = recipe("nginx-home-assistant");
    for line in ["proxy_http_version 1.1", "proxy_set_header Host $host", "proxy_set_header Upgrade $http_upgrade"] {
        assert!(recipe.contains(line), "{line}");
    }
    let recipe = recipe
        .replace("listen 443 ssl", &format!("listen 127.0.0.1:{https} ssl"))
        .replace("/etc/nginx/ca.pem", &format!("{d}/ca.pem"))
        .replace("127.0.0.1:7070", &g.addrs[1].to_string())
        .replace("127.0.0.1:8123", &up.to_string())
        .replace("127.0.0.1:2283", &up.to_string());
    let n = Process::start(
        "nginx",
        nginx_by(
            Command::new(&program),
            dir.path(),
            &format!("ssl_certificate {d}/site.pem; ssl_certificate_key {d}/site.key;\n{recipe}"),
        ),
    );
    let at = |site: &'static str, from: &'static str| Visitor::new(from, site, https);
    let (ha, photos) = (at("ha.example.com", "127.0.1.1"), at("photos.example.com", "127.0.1.1"));
    wait_or(|| photos.get("/", &[]) == 403, || n.output());
    let socket = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ];
    let forged = [
        "X-Gate-User: CN=mallory",
        "X-Gate-Cert-Subject: CN=mallory",
        "X-Gate-Cert-Fp: 00",
        "X-Forwarded-For: 127.0.1.9",
        INFO,
    ];
    assert_eq!(ha.get("/api/websocket?cert=traefik", &forged), 400, "no certificate");
    assert_eq!(ha.with(dir.path()).get("/api/websocket?cert=traefik", &[&socket[..], &forged].concat()), 200);
    let head = heads.lock().unwrap().last().cloned().unwrap();
    let low = head.to_ascii_lowercase();
    for want in [
        "get /api/websocket?cert=traefik http/1.1",
        "host: ha.example.com",
        "upgrade: websocket",
        "connection: upgrade",
        "x-gate-user: cn=phone",
        "x-forwarded-for: 127.0.1.1",
    ] {
        assert!(low.contains(want), "{want} in {head}");
    }
    assert_eq!(low.matches("x-gate-user:").count(), 1, "{head}");
    // LearnedRoute by it: the other site opens, and says who came.
    assert_eq!(photos.get("/", &forged), 200);
    let head = heads.lock().unwrap().last().cloned().unwrap().to_ascii_lowercase();
    assert!(head.contains("x-gate-user: cn=phone") && head.matches("x-gate-user:").count() == 1, "{head}");
    assert_eq!(at("photos.example.com", "127.0.1.9").get("/", &forged), 403);
    // The gate is down: the certificate still opens its site, the list opens nothing.
    drop(g);
    assert_eq!(ha.with(dir.path()).get("/", &[]), 200);
    assert_ne!(photos.get("/", &[]), 200);
}

/// The manual's snippets for nginx and Caddy, as printed: judged by the list, and nobody says who he is.
#[test]
fn the_manuals_check_snippets_as_printed() {
    let (Some(nginx_at), Some(caddy_at), Some(_)) = (peers::need("nginx"), peers::need("caddy"), peers::need("curl"))
    else {
        return;
    };
    let dir = Dir::new("trustsnip");
    let env = [("LEARN_PRIVATE", "true"), ("DEFAULT_SOURCE_RANGE", "127.0.1.1")];
    let g = Gate::start(dir.path(), &env, &["--check-listen", "127.0.0.1:0"]);
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let keep = heads.clone();
    let up = answering(move |h| {
        keep.lock().unwrap().push(h.to_string());
        (200, "in".into())
    });
    let ours = |text: String| {
        text.replace("127.0.0.1:7070", &g.addrs[1].to_string()).replace("127.0.0.1:2283", &up.to_string())
    };
    let (by_nginx, by_caddy) = (ports::free(), ports::free());
    let snippet = ours(recipe("check-nginx"));
    let n = Process::start(
        "nginx",
        nginx_by(Command::new(&nginx_at), dir.path(), &format!("server {{ listen 127.0.0.1:{by_nginx}; {snippet} }}")),
    );
    let file = ours(recipe("check-caddy"))
        .replace("photos.example.com {", &format!("http://photos.example.com:{by_caddy} {{\n\tbind 127.0.0.1"));
    let c =
        Process::start("caddy", caddy_by(Command::new(&caddy_at), dir.path(), &format!("{{\n\tadmin off\n}}\n{file}")));
    for port in [by_nginx, by_caddy] {
        let at = |from: &'static str| Visitor::new(from, "photos.example.com", port);
        let forged = ["X-Gate-User: CN=mallory", "X-Forwarded-For: 127.0.1.1"];
        wait_or(
            || at("127.0.1.1").plain("/?cert=traefik", &forged) == 200,
            || format!("{}\n{}", n.output(), c.output()),
        );
        let head = heads.lock().unwrap().last().cloned().unwrap().to_ascii_lowercase();
        assert!(head.contains("x-gate-user: -") && !head.contains("mallory"), "{head}");
        assert_eq!(at("127.0.1.2").plain("/?cert=traefik", &forged), 403);
    }
}
