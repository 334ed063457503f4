//! A machine whose clock was wrong: for three seconds nothing comes of it, for good it is mended by `clock reset`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sim::mesh::{Node, server_key};
use stage::process::Process;
use stage::{Dir, eventually, peers, ports};

const BIN: &str = env!("CARGO_BIN_EXE_portcullis");

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
    let mut command = Command::new(BIN);
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

fn asks(data: &Path, args: &[&str]) -> Output {
    Command::new(BIN).args(args).arg("--data-dir").arg(data).env("NO_COLOR", "1").output().unwrap()
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn told(data: &Path, args: &[&str]) -> String {
    let out = asks(data, args);
    assert!(out.status.success(), "{args:?}: {}", said(&out));
    said(&out)
}

fn json(data: &Path, args: &[&str]) -> Value {
    let out = asks(data, &[args, &["--json"]].concat());
    assert!(out.status.success(), "{args:?}: {}", said(&out));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// The only clock of a data directory.
fn clock(data: &Path) -> Value {
    json(data, &["clock", "show"])["clocks"][0].clone()
}

fn near(v: &Value, wanted: u64) {
    assert!(v.as_u64().unwrap().abs_diff(wanted) <= SLACK, "{v} is not about {wanted}");
}

fn control(mut command: Command, data: &Path, more: &[&str]) -> (Process, SocketAddr) {
    let addr = ports::local(ports::free());
    command.args(["control", "--server-url", &format!("http://{addr}"), "--listen", &addr.to_string()]);
    command.args(["--stun", "off", "--data-dir"]).arg(data).args(more).env("NO_COLOR", "1");
    let process = Process::start("control", command);
    ports::wait(addr, LIMIT).unwrap();
    (process, addr)
}

fn stop(mut process: Process) -> String {
    process.terminate();
    process.wait(LIMIT).unwrap();
    process.output()
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
    let (process, addr) = control(command, &data, &["--node-expiry", "30d"]);
    told(&data, &["users", "create", "eve"]);
    let key = told(&data, &["keys", "create", "--user", "eve", "--reusable"]);
    join(addr, key.lines().last().unwrap()).await;
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
    join(addr, key.lines().last().unwrap()).await;
    std::thread::sleep(Duration::from_secs(3));
    set(&file, "+0d");
    eventually(LIMIT, || if clock(&data)["jump"].is_null() { Ok(()) } else { Err("still") }).unwrap();
    let log = stop(process);
    assert!(log.contains("the clock jumped forward by 400 days"), "{log}");
    assert!(log.contains("portcullis clock reset"), "{log}");

    near(&clock(&data)["floor"], wall());
    let (_process, addr) = control(Command::new(BIN), &data, &["--node-expiry", "30d"]);
    good("after a restart");
    near(&json(&data, &["keys", "list"])["keys"][1]["expires"], wall() + 3_600);
    near(&clock(&data)["time"], wall());
    join(addr, key.lines().last().unwrap()).await;
}

/// A server that began with a clock of forty days later, and a key of one hour that it gave out.
fn began_wrong(dir: &Dir) -> Option<std::path::PathBuf> {
    let data = dir.path().join("data");
    let (process, _) = control(with_clock(&dir.write("off", "+40d"))?, &data, &[]);
    told(&data, &["users", "create", "eve"]);
    told(&data, &["keys", "create", "--user", "eve", "--expiry", "1h"]);
    stop(process);
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
    let (process, _) = control(Command::new(BIN), &data, &[]);
    assert!(process.output().contains("portcullis clock reset"), "{}", process.output());
    near(&clock(&data)["time"], wall() + 40 * DAY);
    assert!(told(&data, &["clock", "show"]).contains("ahead of the clock"));
    // Not without being asked whether the clock is right.
    let out = asks(&data, &["clock", "reset"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("nothing was changed") && said(&out).contains("clock reset --yes"), "{}", said(&out));
    near(&clock(&data)["time"], wall() + 40 * DAY);

    let out = told(&data, &["clock", "reset", "--yes"]);
    assert!(out.contains("coordination server") && out.contains("back"), "{out}");
    mended(&data);
    stop(process);
    let (_process, _) = control(Command::new(BIN), &data, &[]);
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
    let (_process, _) = control(Command::new(BIN), &data, &[]);
    mended(&data);
}

#[test]
fn a_gates_grants_of_a_wrong_clock_last_as_long_as_they_were_given_for() {
    let dir = Dir::new("clock-gate");
    let (file, data) = (dir.write("off", "+40d"), dir.path().join("data"));
    let start = |mut command: Command| {
        command.args(["gatekeeper", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).current_dir(dir.path());
        let mut process = Process::start("gate", command);
        process.line(LIMIT, |l| l.contains("listening on").then_some(())).unwrap();
        process
    };
    let Some(command) = with_clock(&file) else { return };
    let process = start(command);
    let list = json(&data, &["list"])["lists"][0]["name"].as_str().unwrap().to_string();
    told(&data, &["grant", "add", "198.51.100.7", "--list", &list, "--for", "1h"]);
    // What a person took away stays taken, whatever the clock says.
    told(&data, &["grant", "add", "198.51.100.8", "--list", &list, "--for", "1h"]);
    told(&data, &["grant", "revoke", "198.51.100.8"]);
    stop(process);
    let process = start(Command::new(BIN));
    assert!(told(&data, &["clock", "reset", "--yes"]).contains("gate"));
    let ends = || {
        let shown = json(&data, &["list", "show", &list]);
        assert_eq!(shown["grants"].as_array().unwrap().len(), 1, "{shown}");
        near(&shown["grants"][0]["ends_at"], wall() + 3_600);
    };
    ends();
    stop(process);
    let _process = start(Command::new(BIN));
    ends();
    assert!(told(&data, &["audit"]).contains("clock-reset"));
}

#[test]
fn where_nothing_is_the_command_says_so() {
    let dir = Dir::new("clock-none");
    for args in [&["clock", "show"][..], &["clock", "reset", "--yes"]] {
        let out = asks(dir.path(), args);
        assert_eq!(out.status.code(), Some(1));
        assert!(said(&out).contains("neither a gate nor a coordination server runs"), "{}", said(&out));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "asking makes no files");
}
