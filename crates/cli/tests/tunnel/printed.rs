//! The tunnel's recipes, word for word, on machines with the addresses that they name.

use std::path::Path;
use std::process::Command;

use stage::command::binary;
use stage::netns::{Host, World};
use stage::pages::{self, commands, recipe};
use stage::process::Process;
use stage::upstream::Upstream;
use stage::{START, certificates, peers};

/// The manual's page on tunnels.
fn manual() -> String {
    pages::file("docs/manual/tunnel.md")
}

/// The edge's, the private and the visitors' machines, and somebody who is on no list.
struct Machines {
    // Ends before the world that it lives in.
    world: World,
    edge: Host,
    private: Host,
    visitor: Host,
    stranger: Host,
}

impl Machines {
    fn new() -> Option<Machines> {
        let curl = peers::need("curl");
        let world = World::new()?;
        curl?;
        let (edge, private) = (world.host("edge", "203.0.113.9"), world.host("private", "192.0.2.20"));
        let (visitor, stranger) = (world.host("visitor", "198.51.100.7"), world.host("stranger", "203.0.113.66"));
        for host in [&edge, &private, &visitor, &stranger] {
            host.name_of("example.com", [203, 0, 113, 9].into());
        }
        std::os::unix::fs::symlink(binary(), world.dir().path().join("portcullis")).unwrap();
        private.ip(&["addr", "add", "192.168.0.10/32", "dev", "lo"]);
        edge.ip(&["addr", "add", "192.168.0.5/32", "dev", "lo"]);
        Some(Machines { world, edge, private, visitor, stranger })
    }

    /// A line of a shell on a machine, in its own folder.
    fn shell(&self, host: &Host, line: &str) -> Command {
        let mut command = host.command("sh");
        let path = format!("{}:{}", self.world.dir().path().display(), std::env::var("PATH").unwrap_or_default());
        command.args(["-c", line]).current_dir(host.dir()).env("PATH", path).env("HOME", host.dir());
        // Root's own state is left alone.
        command.env("PORTCULLIS_DATA_DIR", host.dir().join("state"));
        command
    }

    /// Runs it to its end.
    fn run(&self, host: &Host, line: &str) -> String {
        let out = self.shell(host, line).output().unwrap();
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        assert!(out.status.success(), "{line}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    fn start(&self, host: &Host, line: &str) -> Process {
        Process::start(host.name(), self.shell(host, line))
    }

    /// Starts an edge and its client as printed; the client's words name a fingerprint of which only the beginning can
    /// be printed.
    fn pair(&self, edge: &str, client: &str) -> (Process, Process) {
        let mut edge = self.start(&self.edge, edge);
        let connect = edge.line(START, |l| l.strip_prefix("connect string: ").map(ToString::to_string)).unwrap();
        std::fs::copy(self.edge.dir().join("token"), self.private.dir().join("token")).unwrap();
        let pin = connect.split(['#', ',']).find(|w| w.starts_with("sha256:")).unwrap_or_default();
        let printed = client.replace("sha256:…", pin);
        assert!(client == printed || connect.starts_with("wss://203.0.113.9:8123#"), "{connect}");
        let mut client = self.start(&self.private, &printed);
        client
            .line(START, |l| l.contains("published").then_some(()))
            .unwrap_or_else(|e| panic!("{e}\n{}", edge.output()));
        (edge, client)
    }

    /// What a visitor gets.
    fn get(&self, host: &Host, args: &str) -> String {
        let out = self.shell(host, &format!("curl -sS --max-time 20 {args}")).output().unwrap();
        String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr }).into_owned()
    }

    fn site(&self) -> Upstream {
        self.private
            .within(|| Upstream::serve_at(([127, 0, 0, 1], 3000).into(), |s| drop(stage::upstream::site("private", s))))
    }
}

#[test]
fn publish_a_site() {
    let Some(m) = Machines::new() else { return };
    let _site = m.site();
    let [token, server] = commands("site-edge").try_into().unwrap();
    m.run(&m.edge, &token);
    let [client] = commands("site-client").try_into().unwrap();
    let _pair = m.pair(&server, &client);
    assert_eq!(m.get(&m.visitor, "http://203.0.113.9:8000"), "hello from private\n");
    assert!(!m.get(&m.stranger, "http://203.0.113.9:8000").contains("hello"), "who is on no list");
}

/// A name on a list: who lives there comes in, from the first answer on.
#[test]
fn a_name_on_a_list() {
    let Some(m) = Machines::new() else { return };
    let _site = m.site();
    let servers = m.world.host("dns", "192.0.2.53");
    let dns = stage::netns::dns::Dns::start(&servers);
    dns.set("home.example.net", 60, &[stage::netns::dns::at("198.51.100.7"), stage::netns::dns::at("127.0.0.1")]);
    m.edge.resolver(&[[192, 0, 2, 53].into()]);
    let lists = commands("address-lists");
    let entry = lists.iter().find_map(|l| l.strip_prefix("--allow-ips ").filter(|l| l.starts_with("dns:"))).unwrap();
    let [token, server] = commands("site-edge").try_into().unwrap();
    m.run(&m.edge, &token);
    let server = server.replace("198.51.100.0/24", entry);
    let (mut edge, _client) = m.pair(&server, &commands("site-client")[0]);
    let said = |l: &str| l.contains("private addresses do not count") && l.contains("127.0.0.1");
    edge.line(START, |l| said(l).then_some(())).unwrap();
    stage::eventually(START, || match m.get(&m.visitor, "http://203.0.113.9:8000").as_str() {
        "hello from private\n" => Ok(()),
        other => Err(format!("{other}\n{}", edge.output())),
    })
    .unwrap_or_else(|e| panic!("{e}"));
    assert!(!m.get(&m.stranger, "http://203.0.113.9:8000").contains("hello"));
    let local = m.get(&m.edge, "http://127.0.0.1:8000");
    assert!(!local.contains("hello"), "a name does not open loopback: {local}");
}

#[test]
fn publish_ssh_or_any_tcp_port() {
    let Some(m) = Machines::new() else { return };
    let banner = |host: &'static str, port: u16, text: &'static [u8]| {
        let at = (host.parse::<std::net::IpAddr>().unwrap(), port).into();
        m.private.within(|| {
            Upstream::serve_at(at, move |mut s| {
                let _ = std::io::Write::write_all(&mut s, text);
            })
        })
    };
    let _ssh = banner("127.0.0.1", 22, b"SSH-2.0-there\r\n");
    let _postgres = banner("192.168.0.10", 5432, b"postgres\r\n");
    let block = recipe("tcp-ports");
    let line = |who: &str| block.lines().find_map(|l| l.strip_prefix(who)).unwrap().trim().to_string();
    m.run(&m.edge, &commands("site-edge")[0]);
    let _pair = m.pair(&line("edge "), &line("private "));
    let says = |host: &Host, port: u16| {
        let text = host.connect(([203, 0, 113, 9], port).into(), START).and_then(|mut s| stage::read_all(&mut s, 100));
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    };
    assert!(line("visitor ").contains("-p 2222 203.0.113.9"));
    assert_eq!(says(&m.visitor, 2222), "SSH-2.0-there\r\n");
    assert_eq!(says(&m.visitor, 5432), "postgres\r\n");
    assert_eq!(says(&m.stranger, 2222), "");
}

#[test]
fn share_a_folder() {
    let Some(m) = Machines::new() else { return };
    let [server] = commands("share-folder").try_into().unwrap();
    std::fs::create_dir(m.edge.dir().join("share")).unwrap();
    std::fs::write(m.edge.dir().join("share/hello.txt"), "hello\n").unwrap();
    let mut files = m.start(&m.edge, &server);
    let url = files.line(START, |l| l.strip_prefix("files: ").map(ToString::to_string)).unwrap();
    assert_eq!(url, "http://203.0.113.9:8080", "an address to hand on");
    assert_eq!(m.get(&m.edge, &format!("--interface 192.168.0.5 {url}/hello.txt")), "hello\n");
    assert!(!m.get(&m.stranger, &format!("{url}/hello.txt")).contains("hello"));
}

/// The commands of the open-source inlets, as they stand.
#[test]
fn coming_from_inlets() {
    let Some(m) = Machines::new() else { return };
    let site = |at: u16| {
        m.private
            .within(|| Upstream::serve_at(([127, 0, 0, 1], at).into(), |s| drop(stage::upstream::site("private", s))))
    };
    let _site = site(1313);
    let text = manual();
    let (_, text) = text.split_once("\n## Coming from inlets").unwrap();
    let code: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let find = |start: &str| code.iter().find(|c| c.starts_with(start)).unwrap().to_string();
    let _edge = {
        let mut edge = m.start(&m.edge, &find("portcullis server "));
        edge.line(START, |l| l.starts_with("connect string").then_some(())).unwrap();
        edge
    };
    let client = find("portcullis client ").replace("ws://…", "ws://203.0.113.9:9001");
    let mut client = m.start(&m.private, &client);
    client.line(START, |l| l.contains("published").then_some(())).unwrap();
    assert_eq!(m.get(&m.visitor, "http://203.0.113.9:9000"), "hello from private\n");
}

/// Every form of a list is taken by an edge, and explain's exit code says who comes in.
#[test]
fn restrict_by_address() {
    let Some(m) = Machines::new() else { return };
    m.run(
        &m.edge,
        "mkdir -p /etc/portcullis && echo 198.51.100.7 > /etc/portcullis/office && echo 0123456789abcdef > token",
    );
    let block = recipe("address-lists");
    let lists: Vec<String> = block
        .lines()
        .filter(|l| l.starts_with("--allow-ips"))
        .map(|l| l.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(lists.len() >= 4, "{block}");
    let long = block.split_whitespace().find(|w| w.starts_with("198.51.100.7,")).unwrap();
    let explain = block.lines().find(|l| l.starts_with("portcullis explain")).unwrap();
    let explain = explain.split("  ").next().unwrap();
    for list in lists.iter().map(String::as_str).chain([format!("--allow-ips {long}").as_str()]) {
        let mut edge = m.start(&m.edge, &format!("exec portcullis http server --token-file token {list}"));
        edge.line(START, |l| l.starts_with("connect string").then_some(())).unwrap_or_else(|e| panic!("{list}: {e}"));
        let out = m.shell(&m.edge, explain).output().unwrap();
        let wanted = if list.contains("none") || list.contains("dns:") { Some(3) } else { Some(0) };
        assert_eq!(out.status.code(), wanted, "{list}: {}", String::from_utf8_lossy(&out.stdout));
    }
}

/// The manual's flags and its file are taken as they stand.
#[test]
fn upstreams_and_tokens_of_the_manual() {
    let Some(m) = Machines::new() else { return };
    let certificate = stage::Dir::new("nas");
    certificates::signed(certificate.path(), "DNS:nas.lan");
    std::fs::copy(certificate.path().join("cert.pem"), m.private.dir().join("nas.pem")).unwrap();
    for flags in commands("upstreams") {
        let client = format!("exec portcullis http client --url wss://203.0.113.9:9 --token 0123456789abcdef {flags}");
        let mut client = m.start(&m.private, &client);
        client
            .line(START, |l| l.contains("cannot reach 203.0.113.9:9").then_some(()))
            .unwrap_or_else(|e| panic!("{flags}: {e}"));
    }
    let file = recipe("token-rights");
    std::fs::write(m.edge.dir().join("edge.toml"), file).unwrap();
    for name in ["laptop", "backup"] {
        m.run(&m.edge, &format!("head -c 24 /dev/urandom | base64 > {name}.token && chmod 600 {name}.token"));
    }
    let mut edge = m.start(&m.edge, "exec portcullis serve --config edge.toml");
    edge.line(START, |l| l.starts_with("connect string").then_some(())).unwrap();
    let page = manual();
    let explain = page.split('`').find(|c| c.starts_with("portcullis explain 198.51.100.7 --service token:")).unwrap();
    assert!(m.run(&m.edge, explain).contains("198.51.100.7 is allowed"));
}

#[test]
fn behind_caddy() {
    let Some(m) = Machines::new() else { return };
    if peers::need("caddy").is_none() {
        return;
    }
    let _site = m.site();
    let (_caddy, ca) = caddy(&m);
    through(&m, &ca);
}

/// The printed Caddyfile on the edge's machine, and the CA of its certificates.
fn caddy(m: &Machines) -> (Process, std::path::PathBuf) {
    let file = recipe("caddy-front");
    // Nobody on this internet gives certificates.
    let file = format!("{{\n skip_install_trust\n admin off\n}}\n{}", file.replace(" {\n", " {\n tls internal\n"));
    std::fs::write(m.edge.dir().join("Caddyfile"), file).unwrap();
    let data = m.edge.dir().display().to_string();
    let run =
        format!("XDG_DATA_HOME={data} XDG_CONFIG_HOME={data} exec caddy run --adapter caddyfile --config Caddyfile");
    let caddy = m.start(&m.edge, &run);
    let ca = m.edge.dir().join("caddy/pki/authorities/local/root.crt");
    stage::eventually(START, || ca.exists().then_some(()).ok_or(())).unwrap_or_else(|()| panic!("{}", caddy.output()));
    (caddy, ca)
}

/// The article about Caddy, which names no proxy: it works, and what is missing is said with the flag that mends it.
#[test]
fn the_article_behind_caddy() {
    let Some(m) = Machines::new() else { return };
    if peers::need("caddy").is_none() {
        return;
    }
    let _site = m.site();
    let (_caddy, ca) = caddy(&m);
    let mut edge = m.start(&m.edge, "exec portcullis server --port 9000 --control-port 9001 --token 0123456789abcdef");
    let client = format!(
        "SSL_CERT_FILE={} exec portcullis client --url wss://example.com:9444 --token 0123456789abcdef --upstream http://127.0.0.1:3000",
        ca.display()
    );
    let mut client = m.start(&m.private, &client);
    client.line(START, |l| l.contains("published").then_some(())).unwrap();
    let page = m.get(&m.visitor, &format!("--cacert {} https://example.com:9443/", ca.display()));
    assert_eq!(page, "hello from private\n");
    let said = |l: &str| (l.contains("WARN") && l.contains("--trusted-proxies 127.0.0.1")).then_some(());
    edge.line(START, said).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn behind_nginx() {
    let Some(m) = Machines::new() else { return };
    if peers::need("nginx").is_none() {
        return;
    }
    let _site = m.site();
    let certificate = stage::Dir::new("printed");
    let ca = certificates::signed(certificate.path(), "DNS:example.com");
    let at = certificate.path().display();
    let servers = recipe("nginx-front")
        .replace("/etc/ssl/example.com.pem", &format!("{at}/cert.pem"))
        .replace("/etc/ssl/example.com.key", &format!("{at}/key.pem"));
    let here = m.edge.dir().display();
    let config = format!(
        "daemon off; worker_processes 1; pid {here}/pid; error_log stderr warn; events {{}}\nhttp {{ access_log off;
client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u;
scgi_temp_path {here}/s;\n{servers}}}\n"
    );
    std::fs::write(m.edge.dir().join("nginx.conf"), config).unwrap();
    let _nginx = m.start(&m.edge, &format!("exec nginx -e stderr -p {here} -c nginx.conf"));
    through(&m, &ca);
}

/// The edge and the client of "Behind Caddy", and what their visitors see.
fn through(m: &Machines, ca: &Path) {
    let [server, client] = commands("proxy-front-commands").try_into().unwrap();
    m.run(&m.edge, &commands("site-edge")[0]);
    let trusted = format!("SSL_CERT_FILE={} {client}", ca.display());
    let (_edge, client) = m.pair(&server, &trusted);
    let ask = |host: &Host, args: &str| m.get(host, &format!("--cacert {} {args}", ca.display()));
    assert_eq!(ask(&m.visitor, "https://example.com:9443/"), "hello from private\n", "{}", client.output());
    let head = ask(&m.visitor, "-H 'X-Forwarded-For: 6.6.6.6' https://example.com:9443/head");
    let head = head.to_ascii_lowercase();
    assert!(head.contains("x-forwarded-proto: https") && head.contains("198.51.100.7"), "{head}");
    assert!(!head.contains("6.6.6.6"), "{head}");
    for spoof in ["", "-H 'X-Forwarded-For: 198.51.100.7'", "-H 'Forwarded: for=198.51.100.7'"] {
        let page = ask(&m.stranger, &format!("-o /dev/null -w '%{{http_code}}' {spoof} https://example.com:9443/"));
        assert!(page == "403" || page == "400", "a stranger with `{spoof}`: {page}");
    }
}

/// A port that only the list reaches: the quick start of the gate, line by line.
#[test]
fn a_game_server() {
    let Some(m) = Machines::new() else { return };
    let servers = m.world.host("dns", "192.0.2.53");
    let dns = stage::netns::dns::Dns::start(&servers);
    dns.set("friend.example.net", 60, &[stage::netns::dns::at("198.51.100.7")]);
    m.edge.resolver(&[[192, 0, 2, 53].into()]);
    let game = ([203, 0, 113, 9], 25565).into();
    let _game = m.edge.within(|| Upstream::serve_at(game, |mut s| drop(std::io::Write::write_all(&mut s, b"game\n"))));
    let plays = |host: &Host| host.connect(game, std::time::Duration::from_secs(1)).is_ok();
    assert!(plays(&m.stranger), "open before the gate runs");
    let [gate, grants @ ..] = &commands("game-server")[..] else { panic!("no commands") };
    let gate = m.start(&m.edge, &format!("exec {gate}"));
    let answers = || m.shell(&m.edge, "portcullis lists").output().is_ok_and(|o| o.status.success());
    stage::eventually(START, || answers().then_some(()).ok_or("no gate"))
        .unwrap_or_else(|e| panic!("{e}\n{}", gate.output()));
    assert!(!plays(&m.stranger) && !plays(&m.visitor), "{}", gate.output());
    for line in grants {
        m.run(&m.edge, line);
    }
    stage::eventually(START, || plays(&m.visitor).then_some(()).ok_or("the friend stands outside"))
        .unwrap_or_else(|e| panic!("{e}\n{}", gate.output()));
    assert!(!plays(&m.stranger));
    for line in commands("friends") {
        m.run(&m.edge, &line);
    }
    let anna = m.shell(&m.edge, "portcullis explain 203.0.113.7").output().unwrap();
    assert_eq!(anna.status.code(), Some(3), "{}", String::from_utf8_lossy(&anna.stdout));
}
