//! A machine whose clock was wrong: for three seconds nothing comes of it, for good it is mended by `clock reset`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sim::mesh::{Node, server_key};
use stage::command::{Server, command, run_at};
use stage::control::Control;
use stage::gate::Gate;
use stage::{Dir, eventually, peers};

/// Far more than is needed, for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(60);
/// How much later a busy machine looks, in seconds.
const SLACK: u64 = 300;
const DAY: u64 = 86_400;

fn wall() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// `portcullis` with a clock that is as far off as a file says, at every reading.
fn with_clock(file: &Path) -> Option<Command> {
    let faketime = peers::need("faketime")?;
    let out = Command::new(faketime).args(["-m", "-f", "+0d", "printenv", "LD_PRELOAD"]).output().unwrap();
    let mut command = command(&[]);
    command
        .env("LD_PRELOAD", String::from_utf8(out.stdout).unwrap().trim())
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Some(command)
}

/// Sets the clock of [`with_clock`].
fn set(file: &Path, off: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, off).unwrap();
    std::fs::rename(new, file).unwrap();
}

/// A command about a data directory, whether a server runs there or not; it succeeds.
fn told(data: &Path, args: &[&str]) -> String {
    let done = run_at(data, args);
    assert_eq!(done.code, 0, "{args:?}: {}", done.all());
    done.all()
}

fn json(data: &Path, args: &[&str]) -> Value {
    let done = run_at(data, &[args, &["--json"]].concat());
    assert_eq!(done.code, 0, "{args:?}: {}", done.all());
    serde_json::from_str(&done.out).unwrap()
}

/// The only clock of a data directory.
fn clock(data: &Path) -> Value {
    json(data, &["clock", "show"])["clocks"][0].clone()
}

fn near(v: &Value, wanted: u64) {
    assert!(v.as_u64().unwrap().abs_diff(wanted) <= SLACK, "{v} is not about {wanted}");
}

async fn join(addr: SocketAddr, key: &str) {
    let node = Node::new(1);
    let mut channel = node.connect(addr, &server_key(addr).await.unwrap()).await.unwrap();
    let (status, answer) = channel.post("/machine/register", &node.register_request(key)).await.unwrap();
    assert!(status == 200 && answer["MachineAuthorized"] == true, "{answer}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_for_three_seconds_ends_no_key_and_is_not_saved() {
    let dir = Dir::new("clock-three");
    let (file, data) = (dir.write("off", "+0d"), dir.path().join("data"));
    let Some(command) = with_clock(&file) else { return };
    let mut control = Control::by(command, &data, &["--node-expiry", "30d"]);
    let key = control.key("eve", &["--reusable"]);
    join(control.addr, &key).await;
    let good = |when: &str| {
        let (keys, nodes) = (json(&data, &["keys", "list"]), json(&data, &["nodes", "list"]));
        assert_eq!(keys["keys"][0]["state"], "good", "{when}: {keys}");
        assert_eq!(nodes["nodes"][0]["expired"], false, "{when}: {nodes}");
        near(&keys["keys"][0]["expires"], wall() + DAY);
        near(&nodes["nodes"][0]["expires"], wall() + 30 * DAY);
    };
    good("before");

    set(&file, "+400d");
    let jumped = eventually(LIMIT, || match clock(&data) {
        c if c["jump"].is_object() => Ok(c),
        c => Err(c),
    })
    .unwrap();
    near(&jumped["wall"], wall() + 400 * DAY);
    near(&jumped["time"], wall());
    near(&jumped["jump"]["by"], 400 * DAY);
    // What was written meanwhile is of the right time, and what the list says is what is decided.
    told(&data, &["keys", "create", "--user", "eve", "--expiry", "1h"]);
    good("while it is wrong");
    assert!(told(&data, &["clock", "show"]).contains("jumped forward by 400 days"));
    join(control.addr, &key).await;
    std::thread::sleep(Duration::from_secs(3));
    set(&file, "+0d");
    eventually(LIMIT, || if clock(&data)["jump"].is_null() { Ok(()) } else { Err("still") }).unwrap();
    control.process.stop();
    let log = control.process.output();
    assert!(log.contains("the clock jumped forward") && log.contains("by=\"400 days\""), "{log}");
    assert!(log.contains("portcullis clock reset"), "{log}");

    near(&clock(&data)["floor"], wall());
    let control = Control::start_in(&data, &["--node-expiry", "30d"]);
    good("after a restart");
    near(&json(&data, &["keys", "list"])["keys"][1]["expires"], wall() + 3_600);
    near(&clock(&data)["time"], wall());
    join(control.addr, &key).await;
}

/// A server that began with a clock of forty days later, and a key of one hour that it gave out.
fn began_wrong(dir: &Dir) -> Option<std::path::PathBuf> {
    let data = dir.path().join("data");
    let mut control = Control::by(with_clock(&dir.write("off", "+40d"))?, &data, &[]);
    let _one_hour = control.key("eve", &["--expiry", "1h"]);
    control.process.stop();
    Some(data)
}

/// After a reset: the one-hour key is good for an hour from now and no longer, and it is on record.
fn mended(data: &Path) {
    let (key, clock) = (json(data, &["keys", "list"])["keys"][0].clone(), clock(data));
    assert_eq!(key["state"], "good");
    near(&key["expires"], wall() + 3_600);
    near(&clock["time"], wall());
    near(&clock["floor"], wall());
    let audit = told(data, &["audit"]);
    assert!(audit.contains("clock-reset") && audit.contains("40 days back"), "{audit}");
    assert!(audit.contains("command line"), "{audit}");
    told(data, &["audit", "verify"]);
}

#[test]
fn a_clock_that_was_saved_wrong_is_reset_while_the_server_runs() {
    let dir = Dir::new("clock-reset");
    let Some(data) = began_wrong(&dir) else { return };
    let mut control = Control::start_in(&data, &[]);
    assert!(control.process.logged("portcullis clock reset").is_some(), "{}", control.process.output());
    near(&clock(&data)["time"], wall() + 40 * DAY);
    assert!(told(&data, &["clock", "show"]).contains("ahead of the clock"));
    // Not without being asked whether the clock is right.
    let (code, said) = control.command(&["clock", "reset"]);
    assert_eq!(code, 1);
    assert!(said.contains("nothing was changed") && said.contains("clock reset --yes"), "{said}");
    near(&clock(&data)["time"], wall() + 40 * DAY);

    let out = told(&data, &["clock", "reset", "--yes"]);
    assert!(out.contains("coordination server") && out.contains("back"), "{out}");
    mended(&data);
    control.process.stop();
    let _again = Control::start_in(&data, &[]);
    mended(&data);
}

#[test]
fn a_clock_that_was_saved_wrong_is_reset_while_nothing_runs() {
    let dir = Dir::new("clock-stopped");
    let Some(data) = began_wrong(&dir) else { return };
    near(&clock(&data)["time"], wall() + 40 * DAY);
    assert!(told(&data, &["clock", "show"]).contains("does not run"));
    told(&data, &["clock", "reset", "--yes"]);
    near(&clock(&data)["time"], wall());
    let _control = Control::start_in(&data, &[]);
    mended(&data);
}

#[test]
fn a_gates_grants_of_a_wrong_clock_last_as_long_as_they_were_given_for() {
    let dir = Dir::new("clock-gate");
    let (file, data) = (dir.write("off", "+40d"), dir.at("state"));
    let gate = |mut command: Command| {
        command.args(["gatekeeper", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).current_dir(dir.path());
        Gate::by(command, dir.path(), 1)
    };
    let Some(wrong) = with_clock(&file) else { return };
    let mut g = gate(wrong);
    let list = json(&data, &["lists"])["lists"][0]["name"].as_str().unwrap().to_string();
    told(&data, &["grant", "add", "198.51.100.7", "--list", &list, "--for", "1h"]);
    // What a person took away stays taken, whatever the clock says.
    told(&data, &["grant", "add", "198.51.100.8", "--list", &list, "--for", "1h"]);
    told(&data, &["grant", "revoke", "198.51.100.8"]);
    g.process.stop();
    let mut g = gate(command(&[]));
    assert!(told(&data, &["clock", "reset", "--yes"]).contains("gate"));
    let ends = || {
        let shown = json(&data, &["lists", "show", &list]);
        assert_eq!(shown["grants"].as_array().unwrap().len(), 1, "{shown}");
        near(&shown["grants"][0]["ends_at"], wall() + 3_600);
    };
    ends();
    g.process.stop();
    let _again = gate(command(&[]));
    ends();
    assert!(told(&data, &["audit"]).contains("clock-reset"));
}

#[test]
fn where_nothing_is_the_command_says_so() {
    let dir = Dir::new("clock-none");
    for args in [&["clock", "show"][..], &["clock", "reset", "--yes"]] {
        let out = run_at(dir.path(), args);
        assert_eq!(out.code, 1);
        assert!(out.all().contains("neither a gate nor a coordination server runs"), "{}", out.all());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "asking makes no files");
}
