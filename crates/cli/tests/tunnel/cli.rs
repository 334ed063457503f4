//! The command line of the built binary: wrong usage, bad lists, bad files, tokens, help, completions, the manual page,
//! and a running edge that is asked. In: arguments. Out: exit codes and words.

use std::process::{Command, Stdio};
use std::time::Duration;

use stage::command::{Outcome, command};
use stage::process::Process;
use stage::{Dir, START, peers, ports};

/// A file that only its owner may read, as secrets must be; gives its path as one types it.
fn secret(dir: &Dir, name: &str, text: &str) -> String {
    dir.secret(name, text).display().to_string()
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    words(&mut command(args))
}

fn words(command: &mut Command) -> (i32, String, String) {
    let done = Outcome::of(command);
    (done.code, done.out, done.err)
}

/// The command fails with this code, and its words hold all of these.
#[track_caller]
fn fails(args: &[&str], code: i32, wanted: &[&str]) {
    let (got, _, err) = run(args);
    assert_eq!(got, code, "{args:?}: {err}");
    assert!(err.starts_with("error: ") || err.contains("\nerror: "), "{args:?}: {err}");
    for w in wanted {
        assert!(err.contains(w), "{args:?} wanted `{w}`: {err}");
    }
}

#[test]
fn wrong_usage_is_exit_2_and_says_what_to_do() {
    for (args, wanted) in [
        (&["http", "server"][..], &["no token given", "hint:", "--token-file"][..]),
        (&["http", "server", "--token", "a", "--token-file", "b"], &["given twice", "--token and --token-file"]),
        (&["http", "server", "--token", "a", "--port", "8123"], &["port 8123", "--control-port"]),
        (&["http", "server", "--token", "a", "--port", "99999"], &["--port"]),
        (&["http", "server", "--token", "a", "--tls-cert", "c"], &["--tls-key"]),
        (&["http", "server", "--token", "a", "--tls-cert", "c", "--tls-key", "k", "--auto-tls"], &["contradict"]),
        (&["http", "server", "--token", "a", "--auto-tls-san", "https://x/"], &["--auto-tls-san"]),
        (&["http", "server", "--token", "a", "--auto-tls-san", "edge.example.com:8123"], &["has a port"]),
        (&["http", "server", "--token", "a", "--auto-tls-san", "edge..example.com"], &["not a host name"]),
        (&["http", "server", "--token", "a", "--auto-tls-san", "::"], &["nobody can connect"]),
        (&["http", "server", "--token", "a", "--generate=k8s_yaml"], &["Kubernetes"]),
        (&["http", "server", "--token", "a", "--letsencrypt-domain", "x.example"], &["Caddy"]),
        (&["tcp", "server", "--token", "a", "--client-forwarding"], &["--client-forwarding"]),
        (
            &["http", "client", "--token", "a", "--basic-auth-username", "x", "--basic-auth-password", "y"],
            &["--allow-ips-data"],
        ),
        (&["http", "client", "--token", "a", "--oauth-provider=github"], &["--allow-ips-data"]),
        (&["uplink", "client", "--url", "wss://x"], &["portcullis http server"]),
        // Taken, with a word; what is wrong is something else.
        (&["http", "client", "--license-file", "x", "--token", "a"], &["no licence is needed", "no edge given"]),
        (&["http", "client", "--license", "x", "--token", "a"], &["no licence is needed", "no edge given"]),
        (&["http", "client", "--token", "a", "--url", "wss://e", "--upstream", "::1:5173"], &["[::1]:5173"]),
        (
            &[
                "http",
                "client",
                "--token",
                "a",
                "--url",
                "wss://e",
                "--upstream",
                "https://a",
                "--upstream-insecure",
                "--upstream-ca",
                "x",
            ],
            &["keep one of them"],
        ),
        (&["http", "server", "--token", "a", "--proxy-protocol", "v3"], &["v1", "v2"]),
        (
            &["http", "server", "--token", "a", "--trusted-proxies", "10.0.0.0/33"],
            &["--trusted-proxies, column 1", "0 to 32"],
        ),
        (&["tcp", "server", "--token", "a", "--allow-ports", "5-1"], &["backwards"]),
        (&["tcp", "server", "--token", "a", "--allow-ports", "none"], &["serve nothing"]),
        (&["http", "client", "--token", "a"], &["no edge given", "--connect"]),
        (&["http", "client", "--token", "a", "--url", "edge:8123"], &["wss://"]),
        (&["http", "client", "--token", "a", "--url", "wss://e"], &["nothing to publish", "--upstream http"]),
        (&["http", "client", "--token", "a", "--url", "wss://e", "--upstream", "3000"], &["127.0.0.1:3000"]),
        (&["tcp", "client", "--token", "a", "--url", "wss://e", "--upstream", "10.0.0.1"], &["--ports 22"]),
        (
            &["http", "client", "--token", "a", "--url", "wss://e", "--connect", "wss://f", "--upstream", "a:1"],
            &["different edges"],
        ),
        (&["http", "client", "--token", "a", "--connect", "wss://e#sha256:12", "--upstream", "a:1"], &["64 hex"]),
        (&["explain", "10.0.0"], &["not an IPv4 or IPv6"]),
        (&["nonsense"], &["nonsense"]),
    ] {
        fails(args, 2, wanted);
    }
}

#[test]
fn failures_are_exit_1_with_cause_and_hint() {
    let dir = Dir::new("fail");
    let empty = secret(&dir, "empty", "\n");
    let two = secret(&dir, "two", "one\ntwo\n");
    fails(
        &["client", "--url", "ws://e", "--token", "a", "--upstream", "a:1"],
        1,
        &["not encrypted", "hint:", "--insecure"],
    );
    fails(&["http", "server", "--token", ""], 1, &["empty"]);
    fails(&["http", "server", "--token-file", &empty], 1, &["empty"]);
    fails(&["http", "server", "--token-file", &two], 1, &["one line"]);
    fails(&["http", "server", "--token-file", "/nonexistent/token"], 1, &["/nonexistent/token", "because:"]);
    fails(&["http", "server", "--token-env", "PORTCULLIS_TEST_UNSET"], 1, &["PORTCULLIS_TEST_UNSET", "export"]);
    fails(
        &["explain", "10.0.0.1", "--data-dir", &dir.path().display().to_string()],
        1,
        &["neither an edge nor a gate runs", "--data-dir"],
    );
    let mut client = command(&["http", "client", "--token", "a", "--url", "wss://e", "--upstream", "a:1"]);
    let (code, _, err) = words(client.env("HTTPS_PROXY", "socks5://p"));
    assert!(code == 1 && err.contains("HTTPS_PROXY") && err.contains("NO_PROXY=e"), "{err}");
}

#[test]
fn a_short_token_is_said() {
    for (token, said) in [("short", true), ("0123456789abcdef", false)] {
        // What comes after it stops the start.
        let (_, _, err) = run(&["http", "server", "--token", token, "--tls-cert", "/nonexistent", "--tls-key", "/x"]);
        assert_eq!(err.contains("may be guessed"), said, "{err}");
    }
}

#[test]
fn ports_of_a_token_that_the_edge_does_not_open_are_said() {
    let dir = Dir::new("token-ports");
    secret(&dir, "a.token", "0123456789abcdef");
    for (allowed, said) in [("", true), ("allow_ports = \"2222\"\n", true), ("allow_ports = \"2222-2230\"\n", false)] {
        let text = format!(
            "{allowed}tls_cert = \"none\"\ntls_key = \"none\"\n[[tokens]]\nname = \"a\"\nfile = \"a.token\"\nports = \"2222-2223\"\n"
        );
        let file = secret(&dir, "edge.toml", &text);
        // What comes after it stops the start.
        let (_, _, err) = run(&["serve", "--config", &file]);
        assert_eq!(err.contains("the token `a` may publish ports 2222-2223"), said, "{allowed}: {err}");
    }
}

#[test]
fn bad_lists_are_refused_with_position() {
    let dir = Dir::new("lists");
    let data = dir.path().display().to_string();
    let base = ["http", "server", "--token", "a", "--control-port", "0", "--port", "0", "--data-dir", &data];
    let bad = |list: &str, wanted: &[&str]| fails(&[&base[..], &["--allow-ips", list]].concat(), 1, wanted);
    bad("10.0.0.1, 10.0.0.256", &["--allow-ips, column 11", "`10.0.0.256`"]);
    bad("10.0.0.9-10.0.0.1", &["backwards", "10.0.0.1-10.0.0.9"]);
    bad("", &["empty", "`none`"]);
    bad("none,10.0.0.1", &["stands alone"]);
    bad("home.example.net", &["`dns:home.example.net`"]);
    bad("dns:home", &["--allow-ips", "home"]);
    for name in ["dns:proxy.example.net", "traefik"] {
        fails(&[&base[..], &["--trusted-proxies", name]].concat(), 2, &["whom to believe", "by their addresses"]);
    }
    bad("@/nonexistent/office", &["/nonexistent/office"]);
    let file = secret(&dir, "office", "# office\n10.0.0.1\n\nfe80::1%eth0\n");
    bad(&format!("10.0.0.1,@{file}"), &["office, line 4, column 1", "zone"]);
    fails(&[&base[..], &["--allow-ips", "10.0.0.1", "--allow-ips", "none"]].concat(), 1, &["stands alone"]);
    let (_, _, err) = words(command(&base).env("PORTCULLIS_ALLOW_IPS", "10.0.0.0/x"));
    assert!(err.contains("PORTCULLIS_ALLOW_IPS, column 1"));
}

#[test]
fn bad_files_are_refused_with_line() {
    let dir = Dir::new("config");
    let data = dir.path().display().to_string();
    secret(&dir, "token", "secret");
    for (text, code, wanted) in [
        ("prot = 8000\n", 1, &["edge.toml", "line 1, column 1", "prot"][..]),
        ("token_file = \"token\"\nport = \"x\"\n", 1, &["line 2"]),
        ("token_file = \"token\"\ngrace = \"10 parsecs\"\n", 1, &["line 2", "10s"]),
        (
            "token_file = \"token\"\nallow_ips = [\n  \"10.0.0.1\",\n  \"10.0.0.0/99\",\n]\n",
            1,
            &["edge.toml:4", "0 to 32"],
        ),
        ("token_file = \"token\"\nallow_ips = []\n", 1, &["edge.toml:2", "none"]),
        ("token_file = \"token\"\nallow_ips = \"bad\"\n", 1, &["edge.toml:2", "`bad`"]),
        ("token_file = \"token\"\n[port_lists.0]\nallow_ips = [\"all\"]\n", 1, &["edge.toml:3", "1 to 65535"]),
        ("token_file = \"token\"\ntoken_env = \"X\"\n", 1, &["given twice"]),
        ("token_file = \"missing\"\n", 1, &["missing"]),
        ("port = 1\n", 2, &["no token given"]),
        ("token_file = \"token\"\nhttp = false\n", 2, &["serve nothing"]),
        ("port = = 1\n", 1, &["line 1"]),
    ] {
        let file = secret(&dir, "edge.toml", text);
        let args = ["serve", "--config", &file, "--data-dir", &data, "--control-port", "0"];
        fails(&args, code, wanted);
    }
    fails(&["serve", "--config", "/nonexistent.toml"], 1, &["/nonexistent.toml", "docs/manual/edge.toml"]);
}

#[test]
fn help_says_defaults_units_and_variables() {
    for sub in [
        &["http", "server"][..],
        &["tcp", "client"],
        &["fileserver"],
        &["serve"],
        &["server"],
        &["client"],
        &["status"],
        &["explain"],
        &["demo"],
    ] {
        let (code, out, _) = run(&[sub, &["--help"]].concat());
        assert_eq!(code, 0);
        assert!(out.contains("PORTCULLIS_"), "{sub:?}: {out}");
    }
    let (_, out, _) = run(&["http", "server", "--help"]);
    for wanted in [
        "[default: 8000]",
        "[default: 8123",
        "[default: 0.0.0.0/0,::/0]",
        "such as 10s [default: 10s]",
        "--auto-tls[=<BOOL>]",
        "PORTCULLIS_ALLOW_IPS",
    ] {
        let flat = out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(wanted), "{wanted}: {out}");
    }
    // A secret in the environment does not show in help.
    let (_, out, _) = words(command(&["http", "server", "--help"]).env("PORTCULLIS_TOKEN", "hidden-secret"));
    assert!(!out.contains("hidden-secret"));
}

#[test]
fn completions_and_manual_for_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&["completions", shell]);
        assert!(code == 0 && out.contains("allow-ips"), "{shell}");
    }
    let (code, out, _) = run(&["man"]);
    assert_eq!(code, 0);
    for wanted in [".TH", "PORTCULLIS HTTP SERVER", "PORTCULLIS EXPLAIN", "allow\\-ips"] {
        assert!(out.contains(wanted), "{wanted}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = command(&["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_unit_keeps_the_token_out() {
    let (code, out, _) = run(&[
        "tcp",
        "server",
        "--token",
        "hidden-secret",
        "--port",
        "80",
        "--allow-ips",
        "10.0.0.0/8",
        "--generate=systemd",
    ]);
    assert_eq!(code, 0);
    assert!(!out.contains("hidden-secret") && !out.contains("--generate"), "{out}");
    for wanted in [
        "tcp server --token-file",
        "--allow-ips 10.0.0.0/8",
        "Type=notify",
        "LoadCredential=token:/etc/portcullis/token",
        "LimitNOFILE=69632",
        "CAP_NET_BIND_SERVICE",
        "NoNewPrivileges=yes",
        "WantedBy=",
    ] {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
}

/// A list that nobody can satisfy where the server listens is said.
#[test]
fn a_list_that_its_address_cannot_satisfy_is_said() {
    let dir = Dir::new("unreachable");
    for (list, said) in [("192.168.0.0/24", true), ("192.168.0.0/24,127.0.0.1", false)] {
        let mut c = command(&["fileserver", "--allow-browsing", "--allow-ips", list, "--port", "0"]);
        c.current_dir(dir.path());
        let mut server = Process::start("fileserver", c);
        server.line(START, |l| l.starts_with("files: http://127.0.0.1:").then_some(())).unwrap();
        server.kill();
        let err = server.output();
        assert_eq!(err.contains("nobody can come in") && err.contains("--addr 0.0.0.0"), said, "{list}: {err}");
    }
}

/// What README's command becomes is taken by systemd as it is, wherever it was typed.
#[test]
fn a_unit_is_one_that_systemd_takes() {
    let dir = Dir::new("a unit");
    secret(&dir, "token", "secret");
    secret(&dir, "edge.toml", "token_file = \"token\"\nport = 80\nmax_visitors = 1000\n");
    secret(
        &dir,
        "gate.toml",
        "[lists.players]\nstatic = [\"192.0.2.1\"]\n[[gate.nftables]]\nlist = \"players\"\nports = [25565, \"27015-27030/udp\"]\n[[gate.traefik]]\nfile = \"/etc/traefik/players.yml\"\n[gate.traefik.middlewares]\nplayers = [\"players\"]\n",
    );
    for (args, wanted) in [
        (
            &[
                "http",
                "server",
                "--token-file",
                "token",
                "--auto-tls-san",
                "203.0.113.9",
                "--allow-ips-data",
                "@office",
            ][..],
            &["a unit", "--token-file %d/token", "@/"][..],
        ),
        (
            &["tcp", "client", "--connect", "wss://203.0.113.9:8123", "-f", "token", "--upstream", "22=127.0.0.1:22"],
            &["tcp client"],
        ),
        (
            &[
                "control",
                "--server-url",
                "https://mesh.example.com",
                "--listen",
                "0.0.0.0:443",
                "--tls-cert",
                "c",
                "--tls-key",
                "k",
            ],
            &[
                "CAP_NET_BIND_SERVICE",
                "StateDirectory=portcullis-control",
                "--tls-key %d/key.pem",
                "LoadCredential=\"key.pem:/",
            ],
        ),
        (
            &["serve", "--config", "edge.toml"],
            &["CAP_NET_BIND_SERVICE", "LimitNOFILE=5096", "/edge.toml", "--token-file %d/token"],
        ),
        (
            &["serve", "--config", "gate.toml", "--token-file", "token"],
            &[
                "Description=Portcullis\n",
                "AmbientCapabilities=CAP_NET_ADMIN",
                "AF_NETLINK",
                "ReadWritePaths=/etc/traefik\n",
            ],
        ),
    ] {
        let (code, unit, err) = words(command(&[args, &["--generate=systemd"]].concat()).current_dir(dir.path()));
        assert_eq!(code, 0, "{err}");
        for w in wanted {
            assert!(unit.contains(w), "{w}:\n{unit}");
        }
        assert!(unit.contains("LoadCredential=") && !unit.contains("--token-file token"), "{unit}");
        verify_unit(&dir, &unit);
    }
}

/// systemd's own word on a unit; its programs and its manual are not looked at.
pub(crate) fn verify_unit(dir: &Dir, unit: &str) {
    let file = secret(dir, "portcullis-test.service", unit);
    let Some(analyze) = peers::need("systemd-analyze") else { return };
    let said = Outcome::of(Command::new(analyze).args(["verify", "--man=no", &file])).err;
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("portcullis-test")).collect();
    assert!(ours.is_empty(), "{said}\n{unit}");
}

#[test]
fn units_of_a_gate_have_the_rights_it_needs() {
    let dir = Dir::new("gate-units");
    let unit = |args: &[&str]| {
        let (code, unit, err) = words(command(&[args, &["--generate=systemd"]].concat()).current_dir(dir.path()));
        assert_eq!(code, 0, "{err}");
        verify_unit(&dir, &unit);
        unit
    };
    let game = unit(&["gatekeeper", "--nft-ports", "25565"]);
    for w in [
        "Description=Portcullis gate",
        "AmbientCapabilities=CAP_NET_ADMIN",
        "AF_NETLINK",
        "DynamicUser=yes",
        "--nft-ports 25565",
    ] {
        assert!(game.contains(w), "{w}:\n{game}");
    }
    let web = unit(&["gatekeeper", "--check-listen", "127.0.0.1:7070", "--nginx-file", "geo.conf"]);
    assert!(web.contains("User=root\n") && web.contains("# root: nginx"), "{web}");
    assert!(web.contains(&format!("ReadWritePaths={}\n", dir.path().display())), "{web}");
    let boot = unit(&["nft", "boot", "--nft-ports", "25565"]);
    for w in [
        "Before=network-pre.target",
        "After=local-fs.target nftables.service",
        "Type=oneshot",
        "CAP_NET_ADMIN",
        "nft boot --nft-ports 25565",
    ] {
        assert!(boot.contains(w), "{w}:\n{boot}");
    }
}

/// Starts an edge; gives its connect string too.
fn edge(command: Command) -> (Process, String) {
    let mut edge = Process::start("edge", command);
    let connect = edge.line(START, |l| l.strip_prefix("connect string: ").map(ToString::to_string)).unwrap();
    (edge, connect)
}

fn free_port() -> String {
    ports::free().to_string()
}

#[test]
fn a_running_edge_explains_reloads_and_ends_well() {
    let dir = Dir::new("edge");
    let data = dir.path().join("state").display().to_string();
    secret(&dir, "token.txt", "secret-of-the-test");
    secret(&dir, "office", "127.0.0.0/8\n");
    let file = secret(
        &dir,
        "edge.toml",
        "http = true\nport = 0\ncontrol_addr = \"127.0.0.1\"\ndata_addr = \"127.0.0.1\"\nallow_ports = \"2222\"\ntoken_file = \"token.txt\"\n\
         allow_ips = [\"@office\", \"192.0.2.1\"]\nallow_ips_control = \"all\"\n\n[port_lists.2222]\nallow_ips = [\"198.51.100.7\"]\n\n\
         [host_lists.\"App.example.com\"]\nallow_ips = [\"none\"]\n",
    );
    let port = free_port();
    let (mut edge, connect) =
        edge(command(&["serve", "--config", &file, "--data-dir", &data, "--control-port", &port]));
    assert!(
        connect.starts_with(&format!("wss://127.0.0.1:{port}#sha256:")) && connect.ends_with(",token-file=token.txt"),
        "{connect}"
    );

    let explain = |addr: &str, service: &str| run(&["explain", addr, "--service", service, "--data-dir", &data]);
    let (code, out, err) = explain("127.0.0.9", "data");
    assert!(
        code == 0 && out.contains("is allowed: `127.0.0.0/8` on list `data`") && out.contains("office"),
        "{out}{err}"
    );
    let (code, out, _) = explain("127.0.0.9", "2222");
    assert!(code == 3 && out.contains("list `port:2222` guards port 2222") && out.contains("is refused"), "{out}");
    let (code, out, _) = explain("127.0.0.9", "app.example.com");
    assert!(code == 3 && out.contains("is empty, which lets nobody in"), "{out}");
    let (code, out, _) = run(&["explain", "198.51.100.7", "--json", "--data-dir", &data]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, json["answers"].as_array().unwrap().len()), (3, 4), "{out}");

    // Reload: a changed configuration counts, a bad one changes nothing.
    secret(&dir, "office", "127.0.0.1\n");
    let (code, out, err) = run(&["reload", "--data-dir", &data]);
    assert!(code == 0 && out.contains("lists: "), "{out}{err}");
    assert_eq!(explain("127.0.0.9", "data").0, 3);
    secret(&dir, "office", "127.0.0.1\nnonsense\n");
    let (code, _, err) = run(&["reload", "--data-dir", &data]);
    assert!(code == 1 && err.contains("line 2, column 1: `nonsense`"), "{err}");
    assert_eq!(explain("127.0.0.1", "data").0, 0);

    // The same token and pin, from outside.
    let (code, out, err) = run(&[
        "status",
        "--connect",
        connect.split(",token-file").next().unwrap(),
        "--token-file",
        &dir.path().join("token.txt").display().to_string(),
        "--json",
    ]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {code} {out} {err}"));
    assert_eq!(status["clients"].as_array().unwrap().len(), 0);

    edge.terminate();
    let ended = edge.wait(Duration::from_secs(15)).unwrap_or_else(|e| panic!("the edge does not stop: {e}"));
    assert_eq!(ended.code(), Some(0));
    assert!(run(&["explain", "127.0.0.1", "--data-dir", &data]).2.contains("neither an edge nor a gate runs"));
}

#[test]
fn a_flag_counts_before_a_variable_before_the_file() {
    let dir = Dir::new("order");
    let data = dir.path().join("state").display().to_string();
    let token = secret(&dir, "token.txt", "secret-of-the-test");
    let file = secret(&dir, "edge.toml", "port = 0\nallow_ips = \"10.0.0.1\"\ntoken_file = \"missing\"\n");
    let base = [
        "serve",
        "--config",
        &file,
        "--data-dir",
        &data,
        "--token-file",
        &token,
        "--control-addr",
        "127.0.0.1",
        "--data-addr",
        "127.0.0.1",
    ];
    for (flags, variable, holds) in [
        (&[][..], None, "10.0.0.1"),
        (&[][..], Some("10.0.0.2"), "10.0.0.2"),
        (&["--allow-ips", "10.0.0.3"][..], Some("10.0.0.2"), "10.0.0.3"),
    ] {
        let port = free_port();
        let mut c = command(&[&base[..], flags, &["--control-port", &port]].concat());
        if let Some(list) = variable {
            c.env("PORTCULLIS_ALLOW_IPS", list).env("PORTCULLIS_TOKEN", "another");
        }
        let (_edge, _) = edge(c);
        let (code, said, err) =
            run(&["explain", holds, "--service", "data", "--data-dir", &data, "--control-port", &port]);
        assert_eq!(code, 0, "{said}{err}");
    }
}
