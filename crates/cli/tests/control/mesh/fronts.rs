//! Other ways in: a client without a device, through its own proxies; and control behind the TLS of a real proxy.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use stage::command::Server;
use stage::mesh::{CONTROL, Mesh, SETTLED, SOON, ip, to};
use stage::netns::Host;
use stage::netns::service::{Service, answer, visit};
use stage::netns::tailscaled::{Mode, Tailscaled};
use stage::process::Process;
use stage::{Dir, START, becomes, certificates, eventually, peers, proxies};

const PROXY: &str = "127.0.0.1:1055";

/// Connects through a SOCKS5 proxy without a login (RFC 1928).
fn socks(client: &Tailscaled, target: SocketAddr) -> io::Result<TcpStream> {
    let mut s = client.host().connect(to(PROXY), SOON)?;
    s.write_all(&[5, 1, 0])?;
    let mut reply = [0; 2];
    s.read_exact(&mut reply)?;
    let mut request = vec![5, 1, 0];
    match target.ip() {
        IpAddr::V4(v4) => request.extend([1].into_iter().chain(v4.octets())),
        IpAddr::V6(v6) => request.extend([4].into_iter().chain(v6.octets())),
    }
    request.extend(target.port().to_be_bytes());
    s.write_all(&request)?;
    // Its own address in the answer is an IPv4 one, which nobody needs.
    let mut reply = [0; 10];
    s.read_exact(&mut reply)?;
    if reply[1] == 0 { Ok(s) } else { Err(io::Error::other(format!("SOCKS5 reply {}", reply[1]))) }
}

/// Connects through an HTTP proxy by CONNECT.
fn tunnel(client: &Tailscaled, target: SocketAddr) -> io::Result<TcpStream> {
    let mut s = client.host().connect(to(PROXY), SOON)?;
    write!(s, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && head.len() < 4096 {
        s.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 200") {
        Ok(s)
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()))
    }
}

#[test]
fn a_client_without_a_device_reaches_members_and_fixed_addresses_through_its_proxies() {
    let Some(mesh) = Mesh::new() else { return };
    let control = &mesh.control;
    let key = control.key("ann", &["--reusable"]);
    let partner = mesh.world.host("partner", "198.51.100.7");
    partner.only_from(ip("203.0.113.10"));
    let _at_partner = Service::start(&partner, to("[::]:443"));
    let server = mesh.member("server", "203.0.113.21", &key, &[]);
    let _at_server = Service::start(server.host(), to("[::]:80"));
    // The router has no device either: its own stack takes the connections and dials on.
    let router = Tailscaled::start_with(&mesh.world.host("router", "203.0.113.10"), Mode::Userspace(to(PROXY)), &[]);
    mesh.join(&router, &key, &["--advertise-routes=198.51.100.7/32"]);
    eventually(SETTLED, || control.try_run(&["routes", "approve", "router", "198.51.100.7/32"])).unwrap();
    let client = Tailscaled::start_with(&mesh.world.host("container", "203.0.113.20"), Mode::Userspace(to(PROXY)), &[]);
    mesh.join(&client, &key, &["--accept-routes"]);
    let through = |how: fn(&Tailscaled, SocketAddr) -> io::Result<TcpStream>, target: SocketAddr| {
        how(&client, target).map_err(|e| e.to_string()).and_then(|mut s| answer(&mut s))
    };
    for how in [socks, tunnel] {
        becomes(SETTLED, &Ok(client.v4()), || through(how, (server.v4(), 80).into()));
        becomes(SETTLED, &Ok(ip("203.0.113.10")), || through(how, to("198.51.100.7:443")));
    }
    // Without the proxy there is no way.
    assert!(visit(client.host(), (server.v4(), 80).into(), SOON).is_err());
    assert!(visit(client.host(), to("198.51.100.7:443"), SOON).is_err());
}

/// A recipe of the manual, for the name and the certificate of the test.
fn recipe(name: &str, dir: &Dir) -> String {
    let at = dir.path().display().to_string();
    let text = stage::pages::recipe(name);
    text.replace("mesh.example.com", "control.test").replace("/etc/nginx", &at).replace("/etc/traefik", &at)
}

/// The proxy as the manual sets it up; what is added is where it keeps its files, and where no certificate authority
/// can be asked, the certificate.
fn set_up(proxy: proxies::Kind, dir: &Dir, host: &Host, program: PathBuf) -> Command {
    let at = dir.path().display();
    let mut command = host.command(program);
    match proxy {
        proxies::Kind::Caddy => {
            let site = recipe("control-caddy", dir);
            let site = site.replacen("{\n", &format!("{{\n\ttls {at}/cert.pem {at}/key.pem\n"), 1);
            let file = format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{site}");
            proxies::caddy_by(command, dir.path(), &file)
        }
        proxies::Kind::Nginx => proxies::nginx_by(command, dir.path(), &recipe("control-nginx", dir)),
        proxies::Kind::Traefik => {
            dir.write("mesh.yml", recipe("control-traefik-routes", dir));
            let quiet = "global: { checkNewVersion: false, sendAnonymousUsage: false }\n";
            let file = dir.write("traefik.yml", format!("{quiet}{}", recipe("control-traefik", dir)));
            command.arg(format!("--configFile={}", file.display())).current_dir(dir.path());
            command
        }
        proxies::Kind::Haproxy => panic!("the manual has no recipe for HAProxy"),
    }
}

/// Control behind a proxy that ends TLS with a certificate of our own CA; clients trust it through `SSL_CERT_FILE`.
fn behind(proxy: proxies::Kind) {
    let Some(program) = peers::need(proxy.program()) else { return };
    let Some(mesh) = Mesh::at("https://control.test", &["--trusted-proxies", "127.0.0.1"]) else { return };
    let dir = Dir::new("front");
    let ca = certificates::signed(dir.path(), &format!("DNS:control.test,IP:{CONTROL}"));
    let command = set_up(proxy, &dir, mesh.control.host(), program);
    let mut front = Process::start(proxy.program(), command);
    let up = eventually(START, || {
        front.must_run();
        mesh.control.host().connect(to("127.0.0.1:443"), SOON).map(drop)
    });
    up.unwrap_or_else(|e| panic!("{proxy:?} does not answer: {e}; it printed:\n{}", front.output()));
    let key = mesh.control.key("ann", &["--reusable"]);
    let member = |name: &str, public: &str| {
        let host = mesh.world.host(name, public);
        host.name_of("control.test", ip(CONTROL));
        let client = Tailscaled::start_with(&host, Mode::Tun, &[("SSL_CERT_FILE", ca.to_str().unwrap())]);
        mesh.join(&client, &key, &[]);
        client
    };
    let (laptop, server) = (member("laptop", "203.0.113.20"), member("server", "203.0.113.21"));
    // It knows whose public addresses these are, not that of the proxy alone.
    let from = |name: &str| mesh.control.node(name).map(|n| n["comes_from"].clone());
    becomes(SETTLED, &[Some("203.0.113.20".into()), Some("203.0.113.21".into())], || [from("laptop"), from("server")]);
    let _service = Service::start(server.host(), to("[::]:80"));
    becomes(SETTLED, &Ok(laptop.v4()), || visit(laptop.host(), (server.v4(), 80).into(), SOON));
    // The relay works through the proxy too.
    laptop.host().no_direct_paths();
    let by_relay = || laptop.ping(&server.v4().to_string(), &["--c=1", "--timeout=2s", "--until-direct=false"]);
    eventually(SETTLED, || by_relay().and_then(|p| if p.contains("via DERP") { Ok(()) } else { Err(p) })).unwrap();
    becomes(SETTLED, &Ok(laptop.v4()), || visit(laptop.host(), (server.v4(), 80).into(), SOON));
    // A change arrives through the stream that the proxy carries.
    mesh.control.ok(&["nodes", "rename", "server", "db"]);
    let name = || laptop.peer("server").and_then(|p| p["DNSName"].as_str().map(|n| n.starts_with("db.")));
    becomes(SETTLED, &Some(true), name);
}

#[test]
fn behind_caddy() {
    behind(proxies::Kind::Caddy);
}

#[test]
fn behind_nginx() {
    behind(proxies::Kind::Nginx);
}

#[test]
fn behind_traefik() {
    behind(proxies::Kind::Traefik);
}
