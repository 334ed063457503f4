//! `serve --config` with a file that changes while it runs: what counts without a restart, what needs one and is said,
//! and that a bad file changes nothing.

use std::net::TcpStream;

use stage::command::Server;
use stage::edge::{Client, Mode};
use stage::gate::Serve;
use stage::upstream::answering;
use stage::{Dir, ports, wait_or};

const SECRETS: [(&str, &str); 3] =
    [("a", "token-of-a-0123456789abcdef"), ("b", "token-of-b-0123456789abcdef"), ("c", "token-of-c-0123456789abcdef")];

/// An edge on loopback; `more` is the rest of its file.
struct World {
    dir: Dir,
    serve: Serve,
    http: u16,
    control: u16,
}

impl World {
    fn start(name: &str, more: &str) -> World {
        let dir = Dir::new(name);
        for (name, secret) in SECRETS {
            dir.secret(&format!("{name}.token"), secret);
        }
        let (http, control) = (ports::free(), ports::free());
        let serve = Serve::start(dir.path(), &World::config(http, control, more), &[]);
        let world = World { dir, serve, http, control };
        wait_or(|| TcpStream::connect(("127.0.0.1", control)).is_ok(), || world.log());
        world
    }

    fn config(http: u16, control: u16, more: &str) -> String {
        format!(
            "port = {http}\ncontrol_port = {control}\ndata_addr = \"127.0.0.1\"\ncontrol_addr = \"127.0.0.1\"\nauto_tls = false\n{more}"
        )
    }

    fn rewrite(&self, more: &str) {
        self.serve.rewrite(&World::config(self.http, self.control, more));
    }

    /// A client of one of the tokens that publishes `host` with a site that answers `text`.
    fn client(&self, token: &str, host: &str, text: &'static str) -> Client {
        let site = answering(move |_| (200, text.to_string()));
        let (url, upstream) = (format!("ws://127.0.0.1:{}", self.control), format!("{host}=http://{site}"));
        let token = self.dir.at(format!("{token}.token"));
        Client::start(Mode::Http, &url, &token, &["--insecure", "--upstream", &upstream])
    }

    fn log(&self) -> String {
        self.serve.process.output()
    }

    fn logs(&self, what: &str) {
        wait_or(|| self.log().contains(what), || format!("`{what}`: {}", self.log()));
    }

    fn get(&self, host: &str, headers: &[(&str, &str)]) -> String {
        let at = ports::local(self.http);
        let answer = stage::http::get(at, host, "/", headers);
        answer.map_or_else(|_| String::new(), |a| String::from_utf8_lossy(&a.body).into_owned())
    }

    fn expect(&self, host: &str, text: &str) {
        wait_or(|| self.get(host, &[]) == text, || format!("{}\n{}", self.get(host, &[]), self.log()));
    }
}

fn tokens(names: &[&str]) -> String {
    names.iter().map(|n| format!("[[tokens]]\nname = \"{n}\"\nfile = \"{n}.token\"\n")).collect()
}

#[test]
fn a_token_that_is_added_works_and_one_that_is_taken_out_ends_its_sessions() {
    let w = World::start("tokens", &tokens(&["a"]));
    let a = w.client("a", "a.test", "site a");
    w.expect("a.test", "site a");
    w.rewrite(&tokens(&["a", "b"]));
    w.logs("tokens: `b` added");
    let _b = w.client("b", "b.test", "site b");
    w.expect("b.test", "site b");
    w.expect("a.test", "site a");
    assert!(!w.log().contains("sessions ended"), "{}", w.log());
    w.rewrite(&tokens(&["b"]));
    w.logs("tokens: `a` removed; 1 sessions ended");
    wait_or(|| a.process.output().contains("refuses the token"), || a.process.output());
    assert_ne!(w.get("a.test", &[]), "site a");
    w.expect("b.test", "site b");
    // Another secret under the same name: the file of the token alone has changed.
    std::fs::write(w.dir.at("b.new"), "another-secret-0123456789abcdef").unwrap();
    std::fs::rename(w.dir.at("b.new"), w.dir.at("b.token")).unwrap();
    w.logs("tokens: `b` changed; 1 sessions ended");
    let _b = w.client("b", "b.test", "site b again");
    w.expect("b.test", "site b again");
}

#[test]
fn rights_of_a_token_count_for_who_is_connected() {
    let rights = |host: &str| format!("[[tokens]]\nname = \"a\"\nfile = \"a.token\"\nhosts = [\"{host}\"]\n");
    let w = World::start("rights", &rights("a.test"));
    let a = w.client("a", "a.test", "site a");
    w.expect("a.test", "site a");
    w.rewrite(&rights("other.test"));
    wait_or(|| a.process.output().contains("may not publish a.test"), || format!("{}{}", a.process.output(), w.log()));
    assert_ne!(w.get("a.test", &[]), "site a");
}

#[test]
fn a_proxy_that_is_named_is_believed_and_one_that_is_not_any_more_is_not() {
    let more = |trusted: &str| {
        format!("{trusted}allow_ips_data = [\"198.51.100.7\"]\nallow_ips_control = \"all\"\n{}", tokens(&["a"]))
    };
    let w = World::start("proxies", &more(""));
    let _a = w.client("a", "a.test", "site a");
    let forwarded = [("X-Forwarded-For", "198.51.100.7")];
    w.logs("client connected");
    assert_eq!(w.get("a.test", &forwarded), "", "nobody's word counts yet");
    w.rewrite(&more("trusted_proxies = [\"127.0.0.1\"]\n"));
    wait_or(|| w.get("a.test", &forwarded) == "site a", || w.log());
    w.rewrite(&more(""));
    wait_or(|| w.get("a.test", &forwarded).is_empty(), || w.log());
}

#[test]
fn listeners_move_and_clients_stay() {
    let mut w = World::start("ports", &tokens(&["a"]));
    let a = w.client("a", "a.test", "site a");
    w.expect("a.test", "site a");
    let (old_http, old_control) = (w.http, w.control);
    (w.http, w.control) = (ports::free(), ports::free());
    w.rewrite(&tokens(&["a"]));
    w.expect("a.test", "site a");
    wait_or(|| TcpStream::connect(("127.0.0.1", old_http)).is_err(), || w.log());
    wait_or(|| TcpStream::connect(("127.0.0.1", old_control)).is_err(), || w.log());
    TcpStream::connect(("127.0.0.1", w.control)).unwrap();
    assert!(!a.process.output().contains("is gone") && !w.log().contains("is gone"), "{}", w.log());
    // Commands find the edge as before, by its new port and by none.
    w.serve.ok(&["explain", "127.0.0.1"]);
    w.serve.ok(&["explain", "127.0.0.1", "--control-port", &w.control.to_string()]);
    // Somebody else's port: refused, and everything is as it was, the new token too.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = World::config(taken.local_addr().unwrap().port(), w.control, &tokens(&["a", "b"]));
    w.serve.rewrite(&file);
    let (code, said) = w.serve.command(&["reload"]);
    assert!(code == 1 && said.contains("cannot listen on 127.0.0.1:"), "{said}");
    assert!(!w.log().contains("`b` added"));
    w.expect("a.test", "site a");
    // It is tried again until the port is free.
    drop(taken);
    w.logs("tokens: `b` added");
}

#[test]
fn a_bad_file_changes_nothing_and_is_named_with_line_and_column() {
    let w = World::start("bad", &tokens(&["a"]));
    let _a = w.client("a", "a.test", "site a");
    w.expect("a.test", "site a");
    for (more, wanted) in [
        (format!("{}[[tokens]]\nname = \"c\"\nfile = \"none.token\"\n", tokens(&["b"])), "none.token"),
        (format!("allow_ips_data = [\"10.0.0.0/40\"]\n{}", tokens(&["b"])), "gate.toml:7"),
        (format!("trusted_proxies = [\"somewhere\"]\n{}", tokens(&["b"])), "gate.toml:7"),
        (format!("colour = \"red\"\n{}", tokens(&["b"])), "line 7, column 1"),
        (format!("{}{}", tokens(&["b"]), tokens(&["b"])), "are the same"),
    ] {
        w.rewrite(&more);
        let (code, said) = w.serve.command(&["reload"]);
        assert!(code == 1 && said.contains(wanted), "{more}: {said}");
        assert_eq!(w.get("a.test", &[]), "site a", "{more}");
    }
    assert!(!w.log().contains("tokens:"), "{}", w.log());
    w.rewrite(&tokens(&["a", "b"]));
    w.serve.ok(&["reload"]);
    w.logs("tokens: `b` added");
}

#[test]
fn what_needs_a_restart_is_said_in_one_line() {
    let w = World::start("restart", &tokens(&["a"]));
    w.rewrite(&format!("drain = \"3s\"\n{}[lists.family]\n[gate]\nlisten = \"127.0.0.1:0\"\n", tokens(&["a"])));
    w.logs("drain 3s; restart for: [gate]");
    w.rewrite(&format!("drain = \"3s\"\ndebug = true\nlog_format = \"json\"\n{}", tokens(&["a"])));
    w.logs("restart for: log_format, debug");
}

#[test]
fn a_gate_that_was_taken_out_for_a_while_has_the_lists_of_the_file_again() {
    let dir = Dir::new("out");
    dir.secret("a.token", SECRETS[0].1);
    let (http, control) = (ports::free(), ports::free());
    let file = |gate: &str| World::config(http, control, &format!("{}{gate}", tokens(&["a"])));
    let with =
        |entries: &str| file(&format!("[lists.family]\nstatic = [{entries}]\n[gate]\nlisten = \"127.0.0.1:0\"\n"));
    let both = with("\"192.0.2.7\", \"192.0.2.8\"");
    let serve = Serve::start(dir.path(), &both, &[]);
    wait_or(|| dir.at("state/gate.sock").exists(), || serve.process.output());
    let on = |address: &str| serve.ok(&["lists", "show", "family"]).contains(address);
    assert!(on("192.0.2.7"), "{}", serve.process.output());
    serve.rewrite(&file(""));
    let said = serve.ok(&["reload"]);
    assert!(on("192.0.2.7"), "the gate runs on as it was: {said}");
    serve.rewrite(&with("\"192.0.2.8\""));
    serve.ok(&["reload"]);
    assert!(!on("192.0.2.7") && on("192.0.2.8"), "{}", serve.process.output());
}

#[test]
fn a_tunnel_that_waits_for_its_end_lets_the_same_visitors_in() {
    let gate = "[lists.family]\n[gate]\nlisten = \"127.0.0.1:0\"\n";
    let w = World::start("doors", &format!("allow_ips_data = [\"127.0.0.1\"]\n{}{gate}", tokens(&["a"])));
    let _a = w.client("a", "a.test", "site a");
    w.expect("a.test", "site a");
    w.serve.rewrite(&format!("http = false\n{gate}"));
    let said = w.serve.ok(&["reload"]);
    assert_eq!(w.get("a.test", &[]), "site a", "{said}");
    w.rewrite(&format!("allow_ips_data = [\"127.0.0.2\"]\n{}{gate}", tokens(&["a"])));
    w.serve.ok(&["reload"]);
    assert_eq!(w.get("a.test", &[]), "", "lists of the file count again");
}

#[test]
fn state_that_moves_at_a_restart_takes_its_ca_along_then() {
    let dir = Dir::new("moves");
    dir.secret("a.token", SECRETS[0].1);
    let (http, control) = (ports::free(), ports::free());
    let config = |to: &str| {
        let text = World::config(http, control, &tokens(&["a"])).replace("auto_tls = false", "");
        std::fs::write(dir.at("gate.new"), format!("data_dir = \"{to}\"\n{text}")).unwrap();
        std::fs::rename(dir.at("gate.new"), dir.at("gate.toml")).unwrap();
    };
    config("state");
    let process = stage::process::Process::start("serve", Serve::command_in(dir.path()));
    wait_or(|| dir.at("state/portcullis.sock").exists(), || process.output());
    config("elsewhere");
    wait_or(|| process.output().contains("restart for: data_dir"), || process.output());
    assert!(!process.output().contains("certificate read again"), "{}", process.output());
    assert!(!dir.at("elsewhere").exists(), "nothing is written there before the restart");
}

/// The gate of a file: two lists, the endpoints that are asked, and `more`.
fn gate(more: &str) -> String {
    format!(
        "http = false\n[lists.family]\nlearn_private = true\n[lists.office]\nstatic = [\"192.0.2.7\"]\n[gate]\nlisten = \"127.0.0.1:0\"\n{more}"
    )
}

#[test]
fn grant_sources_and_enforcers_of_the_gate_come_and_go() {
    let dir = Dir::new("parts");
    let (first, second) = (ports::free(), ports::free());
    let mirror = |port: u16| format!("[[gate.mirror]]\nlist = \"family\"\nlisten = \"127.0.0.1:{port}\"\n");
    let traefik = |file: &str| {
        format!("[[gate.traefik]]\nfile = \"{file}\"\nmiddlewares = {{ family = [\"family\", \"office\"] }}\n")
    };
    let serve = Serve::start(dir.path(), &gate(&mirror(first)), &["mirrored requests"]);
    let prove =
        |port: u16, from: &str| stage::http::request(ports::local(port), "GET", "/", &[("X-Forwarded-For", from)]).0;
    assert_eq!(prove(first, "198.51.100.1"), 200);
    let read = |file: &str| std::fs::read_to_string(dir.at(file)).unwrap_or_default();
    // One of each is new.
    serve.rewrite(&gate(&format!("{}{}{}", mirror(first), mirror(second), traefik("lists.yml"))));
    wait_or(|| read("lists.yml").contains("198.51.100.1"), || serve.process.output());
    wait_or(
        || std::panic::catch_unwind(|| prove(second, "198.51.100.2")).is_ok_and(|s| s == 200),
        || serve.process.output(),
    );
    wait_or(|| read("lists.yml").contains("198.51.100.2"), || read("lists.yml"));
    // The first ones go: what they wrote stays, and nothing is written there any more.
    serve.rewrite(&gate(&format!("{}{}", mirror(second), traefik("other.yml"))));
    wait_or(|| read("other.yml").contains("198.51.100.2"), || serve.process.output());
    wait_or(|| TcpStream::connect(("127.0.0.1", first)).is_err(), || serve.process.output());
    let left = read("lists.yml");
    assert_eq!(prove(second, "198.51.100.3"), 200);
    wait_or(|| read("other.yml").contains("198.51.100.3"), || read("other.yml"));
    assert_eq!(read("lists.yml"), left, "an enforcer that is gone leaves what it wrote");
    assert!(serve.process.output().contains("is no longer kept in sync"), "{}", serve.process.output());
    // Somebody else's file, somebody else's port: nothing changes.
    dir.write("mine.yml", "http:\n  routers: {}\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for (more, wanted) in [
        (format!("{}{}", mirror(second), traefik("mine.yml")), "is not the gate's to write"),
        (format!("{}{}", mirror(taken.local_addr().unwrap().port()), traefik("other.yml")), "cannot listen on"),
    ] {
        serve.rewrite(&gate(&more));
        let (code, said) = serve.command(&["reload"]);
        assert!(code == 1 && said.contains(wanted), "{said}");
        assert_eq!(prove(second, "198.51.100.3"), 200);
    }
    assert!(serve.ok(&["lists"]).contains("other.yml"), "{}", serve.ok(&["lists"]));
}

#[test]
fn a_proxy_of_the_gate_is_believed_as_long_as_it_is_named() {
    let dir = Dir::new("believed");
    let check = |trusted: &str| gate(&format!("trusted_proxies = [\"{trusted}\"]\n"));
    let serve = Serve::start(dir.path(), &check("127.0.0.1"), &["listener=\"check endpoint\""]);
    let at = serve.at("check endpoint");
    // One connection all the time: what was believed at its start is not believed for ever.
    let mut kept = stage::http::tcp(at).unwrap();
    let mut ask = || {
        let answer = stage::http::get_on(&mut kept, "gate", "/v1/check/office", &[("X-Forwarded-For", "192.0.2.7")]);
        answer.unwrap().status
    };
    assert_eq!(ask(), 200);
    serve.rewrite(&check("127.0.0.9"));
    wait_or(|| serve.process.output().contains("the gate's trusted proxies"), || serve.process.output());
    assert_ne!(ask(), 200);
    serve.rewrite(&check("127.0.0.1"));
    wait_or(|| ask() == 200, || serve.process.output());
}

#[test]
fn one_process_has_one_socket_and_two_of_one_directory_do_not_hide_each_other() {
    let dir = Dir::new("socket");
    let control = ports::free();
    let serve = Serve::start(dir.path(), &gate(""), &["listener=\"check endpoint\""]);
    let state = dir.at("state");
    wait_or(|| state.join("gate.sock").exists(), || serve.process.output());
    let link = |name: &str| std::fs::read_link(state.join(name)).ok();
    assert_eq!(link("portcullis.sock"), None, "a socket of its own");
    assert_eq!(link("gate.sock"), Some("portcullis.sock".into()), "the old name leads to it");
    // Another process with the same data directory has its own.
    dir.secret("edge.token", SECRETS[0].1);
    let mut command = stage::command::command(&["tcp", "server", "--control-addr", "127.0.0.1", "--control-port"]);
    command.args([&control.to_string(), "--auto-tls=false", "--token-file"]).arg(dir.at("edge.token"));
    let mut edge = stage::process::Process::start("edge", {
        command.arg("--data-dir").arg(&state);
        command
    });
    let name = format!("edge-{control}.sock");
    wait_or(|| state.join(&name).exists(), || edge.output());
    assert_eq!(link(&name), None, "a socket of its own");
    let port = control.to_string();
    let both = serve.json(&["lists"]);
    assert!(both["lists"][0]["source"].is_string() && both["gate"]["lists"][0]["enforcers"].is_array(), "{both}");
    assert!(serve.json(&["lists", "--control-port", &port])["gate"].is_null());
    assert_eq!(serve.json(&["lists", "show", "office"])["name"], "office");
    assert_eq!(serve.json(&["lists", "show", "control"])["name"], "control", "a list of the edge alone");
    serve.ok(&["explain", "127.0.0.1", "--control-port", &port]);
    serve.ok(&["clock", "show"]);
    edge.stop();
    wait_or(|| !state.join(&name).exists(), || edge.output());
    // The gate alone, by its socket's one name; what another process left behind is nobody.
    std::fs::remove_file(state.join("gate.sock")).unwrap();
    std::os::unix::fs::symlink("portcullis.sock", state.join(&name)).unwrap();
    let alone = serve.json(&["lists"]);
    assert!(alone["lists"][0]["enforcers"].is_array() && alone["gate"].is_null(), "{alone}");
    assert_eq!(serve.json(&["list"]), alone, "as it was spelled before");
    serve.ok(&["doctor"]);
    let (code, said) = serve.command(&["lists", "--control-port", &port]);
    assert!(code == 1 && said.contains(&format!("{name}: a process without an edge")), "{said}");
    let (code, said) = serve.command(&["users", "list"]);
    let tried = "(portcullis.sock: a process without a coordination server; control.sock: not there)";
    assert!(code == 1 && said.contains(tried) && said.contains("`portcullis control`"), "{said}");
    let process = serve.process.pid();
    drop(serve);
    assert!(!state.join("portcullis.sock").exists() && link("gate.sock").is_none(), "{process} left its sockets");
}
