//! Several tokens on one edge: each has its names, ports and addresses, and nobody takes over what is another's. And
//! certificates that change: what a client was told stays true.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use stage::command::{command, run_at};
use stage::edge::{Client, Mode, wait_site};
use stage::process::Process;
use stage::upstream::Upstream;
use stage::{Dir, START, http, ports};

struct World {
    dir: Dir,
    edge: Process,
    control: SocketAddr,
    http: SocketAddr,
}

impl World {
    /// An edge from a file with `[[tokens]]` and three of them.
    fn start(tokens: &str) -> World {
        let dir = Dir::new("tokens");
        for name in ["a", "b", "c"] {
            dir.secret(name, &format!("token-of-{name}-0123456789"));
        }
        let (control, http) = (ports::local(ports::free()), ports::local(ports::free()));
        let file = format!(
            "auto_tls = false\ncontrol_addr = \"127.0.0.1\"\ndata_addr = \"127.0.0.1\"\ncontrol_port = {}\nport = {}\n\
             allow_ports = \"all\"\ngrace = \"2s\"\ndata_dir = \"state\"\n{tokens}",
            control.port(),
            http.port()
        );
        let file = dir.write("edge.toml", file);
        let mut command = command(&[]);
        command.arg("serve").arg("--config").arg(file);
        let mut edge = Process::start("edge", command);
        edge.line(START, |l| l.starts_with("connect string").then_some(())).unwrap();
        World { dir, edge, control, http }
    }

    fn client(&self, token: &str, upstream: &str) -> Client {
        let url = format!("ws://{}", self.control);
        let token = self.dir.path().join(token);
        Client::start(Mode::Http, &url, &token, &["--insecure", "--upstream", upstream])
    }

    fn page(&self, host: &str, path: &str) -> String {
        http::get(self.http, host, path, &[]).map(|r| r.text()).unwrap_or_default()
    }
}

fn line(process: &mut Process, words: &str) {
    process.line(START, |l| l.contains(words).then_some(())).unwrap_or_else(|e| panic!("no `{words}`: {e}"));
}

#[test]
fn a_name_belongs_to_the_token_that_published_it_first() {
    let (first, second) = (Upstream::site("first"), Upstream::site("second"));
    let w = World::start("token_files = [\"a\", \"b\"]\n");
    let to = |up: &Upstream, name: &str| format!("{name}=http://{}", up.addr());
    let a = w.client("a", &to(&first, "intranet.example"));
    wait_site(w.http, "intranet.example").unwrap();
    for name in ["intranet.example", "intranet.example/login"] {
        let mut b = w.client("b", &to(&second, name));
        line(&mut b.process, "belongs to clients of another token");
        for _ in 0..10 {
            assert_eq!(w.page("intranet.example", "/login"), "hello from first\n", "{name}");
        }
        b.process.must_run();
    }
    // It waits, and has the name when the other has let go of it.
    let _b = w.client("b", &to(&second, "intranet.example"));
    drop(a);
    stage::eventually(START, || match w.page("intranet.example", "/").as_str() {
        "hello from second\n" => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
}

#[test]
fn a_token_has_its_rights_and_no_others() {
    let (first, second) = (Upstream::site("first"), Upstream::site("second"));
    let (open, shut) = (ports::free(), ports::free());
    let w = World::start(&format!(
        "[[tokens]]\nname = \"all\"\nfile = \"a\"\n[[tokens]]\nname = \"some\"\nfile = \"b\"\n\
         hosts = [\"app.example\", \"intranet.example/login\"]\nports = \"{open}\"\n\
         [[tokens]]\nname = \"far\"\nfile = \"c\"\nallow_ips = [\"192.0.2.0/24\"]\n"
    ));
    let to = |up: &Upstream, name: &str| format!("{name}=http://{}", up.addr());
    let _a = w.client("a", &to(&first, "intranet.example"));
    wait_site(w.http, "intranet.example").unwrap();
    for (upstream, words) in [
        (to(&second, "other.example"), "may not publish other.example"),
        (to(&second, "*"), "may not publish every host"),
        (format!("{shut}=127.0.0.1:{}", second.port()), "may open no port"),
    ] {
        let mut b = w.client("b", &upstream);
        line(&mut b.process, words);
        assert_eq!(b.process.wait(START).unwrap().code(), Some(1), "what the file says does not change by waiting");
    }
    let all = format!(
        "{},{},{open}=127.0.0.1:{}",
        to(&second, "app.example"),
        to(&second, "intranet.example/login"),
        second.port()
    );
    let mut b = w.client("b", &all);
    line(&mut b.process, "published");
    assert_eq!(w.page("intranet.example", "/login"), "hello from second\n", "the file gives this path to it");
    assert_eq!(w.page("intranet.example", "/"), "hello from first\n");
    // From elsewhere than its addresses, with the right token.
    let mut c = w.client("c", &to(&second, "far.example"));
    line(&mut c.process, "no entry of list `token:far`");
    let explain = |service: &str| run_at(&w.dir.at("state"), &["explain", "127.0.0.1", "--service", service]).code;
    assert_eq!(explain("token:far"), 3);
    assert_eq!(explain("token:all"), 0, "it has no list of its own");
}

#[test]
fn two_clients_of_one_token_with_different_upstreams_are_said_on_both_sides() {
    let (first, second) = (Upstream::site("first"), Upstream::site("second"));
    let mut w = World::start("token_files = [\"a\"]\n");
    let mut a = w.client("a", &format!("app.example=http://{}", first.addr()));
    line(&mut a.process, "published");
    let mut b = w.client("a", &format!("app.example=http://{}", second.addr()));
    line(&mut b.process, "app.example is shared");
    line(&mut w.edge, "app.example is shared");
}

/// A certificate by an intermediate that is replaced by one from another intermediate of the same root.
#[test]
fn a_connect_string_outlives_renewals() {
    let dir = Dir::new("renewal");
    let openssl = |args: &str| {
        let out = Command::new("openssl").current_dir(dir.path()).args(args.split(' ')).output().unwrap();
        assert!(out.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("{new} -subj /CN=root -keyout root.key -out root.pem"));
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let chain = |n: u8, with_root: bool| {
        openssl(&format!(
            "{new} -subj /CN=inter{n} -addext basicConstraints=critical,CA:TRUE -CA root.pem -CAkey root.key -keyout i.key -out i.pem"
        ));
        openssl(&format!(
            "{new} -subj /CN=leaf -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost -CA i.pem -CAkey i.key -keyout new.key -out l.pem"
        ));
        let root = if with_root { read("root.pem") } else { String::new() };
        dir.write("chain.pem", format!("{}{}{root}", read("l.pem"), read("i.pem")));
        dir.write("key.pem", read("new.key"));
    };
    let token = dir.secret("token", stage::edge::TOKEN);
    let site = Upstream::site("private");
    for with_root in [true, false] {
        chain(1, with_root);
        let (control, http_at) = (ports::free(), ports::local(ports::free()));
        let mut server = command(&["http", "server", "--tls-cert", "chain.pem", "--tls-key", "key.pem"]);
        server.current_dir(dir.path());
        server.args(["--control-addr", "127.0.0.1", "--data-addr", "127.0.0.1", "--token-file", "token"]);
        server.args([
            "--data-dir",
            "state",
            "--control-port",
            &control.to_string(),
            "--port",
            &http_at.port().to_string(),
        ]);
        let mut edge = Process::start("edge", server);
        let connect = edge.line(START, |l| l.strip_prefix("connect string: ").map(ToString::to_string)).unwrap();
        assert!(connect.starts_with(&format!("wss://localhost:{control}")), "the certificate's name: {connect}");
        assert_eq!(connect.contains("sha256:"), with_root, "{connect}");
        if !with_root {
            line(&mut edge, "--ca-file");
        }
        let reaches = || {
            let mut c = command(&["http", "client", "--connect", &connect, "--token-file"]);
            c.arg(&token).args(["--upstream", &format!("http://{}", site.addr())]);
            if !with_root {
                c.arg("--ca-file").arg(dir.at("root.pem"));
            }
            let mut client = Process::start("client", c);
            line(&mut client, "published");
            wait_site(http_at, "site.test").unwrap_or_else(|e| panic!("{e}\n{}", client.output()));
        };
        reaches();
        chain(2, with_root);
        edge.hangup();
        line(&mut edge, "read again");
        assert!(!edge.output().contains("will refuse the new certificate"), "{}", edge.output());
        reaches();
    }
}
