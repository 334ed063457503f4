//! `portcullis doctor` for an edge, a client, and what does not run. In: set-ups with a fault each. Out: its finding, how
//! much it matters, and the exit code.

use serde_json::Value;
use stage::command::{Outcome, Server, command};
use stage::edge::{Edge, Mode, TOKEN};
use stage::{Dir, ports};

/// The findings of a doctor: part, kind, severity; and how it ended.
fn findings(done: &Outcome) -> (i32, Vec<[String; 3]>) {
    let said: Value = serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"));
    let word = |f: &Value, key: &str| f[key].as_str().unwrap().to_string();
    let each = said["found"].as_array().unwrap().iter();
    (done.code, each.map(|f| [word(f, "part"), word(f, "id"), word(f, "severity")]).collect())
}

fn list(all: &[[&str; 3]]) -> Vec<[String; 3]> {
    all.iter().map(|f| f.map(str::to_string)).collect()
}

fn of_edge(edge: &Edge) -> (i32, Vec<[String; 3]>) {
    let (code, out) = edge.command(&["doctor", "--json"]);
    findings(&Outcome { code, out, err: String::new() })
}

#[test]
fn an_edge_that_nobody_can_reach_is_an_error_and_one_without_visitors_a_warning() {
    let shut = Edge::start(Mode::Http, false, &["--allow-ips-control", "none", "--allow-ips-data", "127.0.0.1"]);
    assert_eq!(of_edge(&shut), (1, list(&[["edge", "nobody", "error"]])));
    let quiet = Edge::start(Mode::Http, false, &["--allow-ips-control", "all", "--allow-ips-data", "none"]);
    let (code, found) = of_edge(&quiet);
    assert!(found.contains(&["edge", "nobody", "warning"].map(str::to_string)), "{found:?}");
    assert_eq!(code, 0, "warnings alone are no failure");
}

#[test]
fn a_client_is_told_step_by_step_what_is_in_its_way() {
    let mut edge = Edge::start(Mode::Http, true, &[]);
    let dir = Dir::new("doctor-client");
    let (right, wrong) = (dir.secret("right", TOKEN), dir.secret("wrong", "another token"));
    let port = edge.control.port();
    let upstream = format!("http://127.0.0.1:{}", ports::free());
    let look = |url: &str, pin: Option<&str>, token: &std::path::Path, more: &[&str]| {
        let mut c = command(&["doctor", "--json", "--url", url, "--upstream", &upstream]);
        c.arg("--token-file").arg(token).args(pin.iter().flat_map(|p| ["--ca-fingerprint", p])).args(more);
        findings(&Outcome::of(&mut c))
    };
    let url = format!("wss://127.0.0.1:{port}");
    let pin = edge.fingerprint();
    let down = ["client", "upstream", "error"];
    assert_eq!(look(&url, Some(&pin), &right, &[]), (1, list(&[down, ["client", "not-connected", "warning"]])));
    assert_eq!(look(&url, Some(&pin), &wrong, &[]), (1, list(&[down, ["client", "token", "error"]])));
    assert_eq!(look(&url, None, &right, &[]), (1, list(&[down, ["client", "certificate", "error"]])));
    let nobody = format!("wss://127.0.0.1:{}", ports::free());
    assert_eq!(look(&nobody, Some(&pin), &right, &[]), (1, list(&[down, ["client", "unreachable", "error"]])));
    let nowhere = "wss://edge.invalid:8123";
    assert_eq!(look(nowhere, Some(&pin), &right, &[]), (1, list(&[down, ["client", "name", "error"]])));
}

#[test]
fn what_does_not_run_is_looked_at_by_its_file() {
    let dir = Dir::new("doctor-stopped");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let free = ports::free();
    dir.secret("token", TOKEN);
    let write = |rest: &str| {
        let text = format!(
            "data_dir = \"state\"\nport = {port}\ndata_addr = \"127.0.0.1\"\ncontrol_addr = \"127.0.0.1\"\ncontrol_port = {free}\ntoken_file = \"token\"\n{rest}"
        );
        dir.write("edge.toml", &text)
    };
    let look = |file: &std::path::Path| findings(&Outcome::of(command(&["doctor", "--json", "--config"]).arg(file)));
    let stopped = ["process", "stopped", "error"];
    assert_eq!(look(&write("")), (1, list(&[stopped, ["process", "listen", "error"]])));
    for bad in ["allow_ips = []\n", "no_such_key = 1\n", "allow_ips = [\"@missing\"]\n"] {
        let (code, found) = look(&write(bad));
        assert_eq!(code, 1);
        assert!(found.contains(&["process", "configuration", "error"].map(str::to_string)), "{bad}: {found:?}");
    }
    // Nothing at all is a failure that says what to do.
    let none = Outcome::of(command(&["doctor", "--data-dir"]).arg(dir.at("nothing")));
    assert!(none.code == 1 && none.err.contains("portcullis init"), "{none:?}");
}
