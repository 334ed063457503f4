//! Data directories of other versions. In: those that earlier programs left (`fixtures/layouts`, each named by its layout
//! and by what was new in it), and one that a later program would leave. Out: the state that they held, word for word; and
//! a refusal that names both versions and touches nothing.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde_json::Value;
use stage::command::{Outcome, Server, command, run_at};
use stage::control::Control;
use stage::gate::Gate;
use stage::{Dir, ports};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/layouts")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(file.file_name());
        std::fs::copy(file.path(), &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// What does not depend on when it is looked at.
fn lasting(mut value: Value) -> Value {
    match &mut value {
        Value::Object(o) => {
            ["online", "expected", "primary", "comes_from", "silent", "seen_at"]
                .iter()
                .for_each(|k| drop(o.remove(*k)));
            o.values_mut().for_each(|v| *v = lasting(v.take()));
        }
        Value::Array(a) => a.iter_mut().for_each(|v| *v = lasting(v.take())),
        _ => {}
    }
    value
}

fn said(server: &dyn Server, words: &[&str]) -> Value {
    lasting(server.json(words))
}

fn state_of_control(control: &Control) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for what in ["users", "keys", "nodes", "routes"] {
        all.insert(what.to_string(), said(control, &[what, "list"]));
    }
    all.insert("dns".into(), said(control, &["dns", "show"]));
    all.insert("policy".into(), control.ok(&["policy", "get"]).into());
    all
}

fn state_of_gate(gate: &Gate) -> BTreeMap<String, Value> {
    // What enforcers are about is no part of the state.
    let list = said(gate, &["list", "show", "dynamic-whitelist"]);
    ["grants", "bans", "static"].into_iter().map(|k| (k.to_string(), list[k].clone())).collect()
}

/// Compares with what is kept beside the fixture, or keeps it.
fn is_golden(file: &Path, state: &BTreeMap<String, Value>) {
    let text = serde_json::to_string_pretty(state).unwrap() + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file, &text).unwrap();
    }
    let kept = std::fs::read_to_string(file).unwrap_or_default();
    assert_eq!(text, kept, "{}", file.display());
}

/// A gate that keeps this list, with nothing else to do.
fn gate(dir: &Path) -> Gate {
    Gate::start(dir, &[("DEFAULT_SOURCE_RANGE", "192.168.0.0/16")], &["--ttl", "never"])
}

#[test]
fn every_earlier_layout_opens_to_the_state_that_it_held() {
    let mut seen = 0;
    for layout in std::fs::read_dir(fixtures()).unwrap().flatten() {
        let dir = Dir::new("layouts");
        copy(&layout.path().join("control"), &dir.at("control"));
        let mut control = Control::start_in(&dir.at("control"), &[]);
        let state = state_of_control(&control);
        is_golden(&layout.path().join("control.json"), &state);
        // It goes on from there, and what this version has written opens as well.
        assert!(control.ok(&["users", "create", "eve"]).contains("eve"));
        assert!(control.ok(&["audit", "verify"]).contains("none changed"));
        control.ok(&["users", "delete", "eve"]);
        control.again();
        assert_eq!(state_of_control(&control), state, "{:?}", layout.path());
        // Its database is a backup of that version.
        let restored = dir.at("restored");
        let file = layout.path().join("control/control.db");
        let done = run_at(&restored, &["restore", &file.display().to_string()]);
        assert_eq!(done.code, 0, "{}", done.all());
        let control = Control::start_in(&restored, &[]);
        assert_eq!(state_of_control(&control), state, "{:?}", layout.path());

        copy(&layout.path().join("gate"), &dir.at("state"));
        let mut gate = gate(dir.path());
        let state = state_of_gate(&gate);
        is_golden(&layout.path().join("gate.json"), &state);
        gate.ok(&["grant", "add", "198.51.100.200"]);
        assert!(gate.ok(&["audit", "verify"]).contains("none changed"));
        gate.ok(&["grant", "revoke", "198.51.100.200"]);
        gate.again();
        assert_eq!(state_of_gate(&gate), state, "{:?}", layout.path());
        seen += 1;
    }
    assert!(seen >= 3, "{seen} layouts");
}

/// Makes a store what a later program would have left.
fn of_later_version(store: &Path) {
    let db = Connection::open(store).unwrap();
    db.execute_batch("PRAGMA user_version = 99; UPDATE program SET version = '9.9.9';").unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM program", [], |r| r.get::<_, i64>(0)).unwrap(), 1);
    db.close().unwrap();
    // Nothing of it is touched, not even what others may do with it.
    std::fs::set_permissions(store, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// Every file of a folder: bytes and mode.
fn picture(of: &Path) -> BTreeMap<String, (Vec<u8>, u32)> {
    let files = std::fs::read_dir(of).unwrap().flatten().filter(|f| f.file_type().unwrap().is_file());
    let one = |f: std::fs::DirEntry| {
        let mode = f.metadata().unwrap().permissions().mode();
        (f.file_name().to_string_lossy().into_owned(), (std::fs::read(f.path()).unwrap(), mode))
    };
    files.map(one).collect()
}

fn refused(done: &Outcome) {
    let ours = format!("this is portcullis {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(done.code, 1, "{}", done.all());
    for part in ["is of portcullis 9.9.9", &ours, "hint: run the newer version of portcullis that wrote it"] {
        assert!(done.err.contains(part), "{part}: {}", done.err);
    }
}

#[test]
fn a_later_layout_is_refused_with_both_versions_and_nothing_is_touched() {
    let dir = Dir::new("later");
    let mut control = Control::start_in(&dir.at("control"), &[]);
    control.user("ada");
    let copy_before = dir.at("before.db").display().to_string();
    control.ok(&["backup", &copy_before]);
    control.process.stop();
    let mut gate = gate(dir.path());
    gate.ok(&["grant", "add", "203.0.113.7"]);
    gate.process_mut().stop();
    let data = gate.data().to_path_buf();
    let later = dir.at("later.db").display().to_string();
    std::fs::copy(&copy_before, &later).unwrap();
    of_later_version(Path::new(&later));
    // A newer backup is refused by an older program, and its store stays as it is.
    let before = picture(&dir.at("control"));
    refused(&run_at(&dir.at("control"), &["restore", "--store", "control", &later]));
    assert!(run_at(&dir.at("empty"), &["restore", &later]).code == 1 && !dir.at("empty/control.db").exists());
    assert_eq!(picture(&dir.at("control")), before);
    // A newer data directory too, by whatever opens it.
    of_later_version(&dir.at("control/control.db"));
    of_later_version(&data.join("gate.db"));
    let (before, gates) = (picture(&dir.at("control")), picture(&data));
    let at = ports::local(ports::free()).to_string();
    let url = format!("http://{at}");
    let mut start = command(&["control", "--server-url", &url, "--listen", &at, "--stun", "off", "--data-dir"]);
    refused(&Outcome::of(start.arg(dir.at("control"))));
    let mut start = command(&["gatekeeper", "--listen", "127.0.0.1:0", "--file", "none.yml", "--data-dir"]);
    refused(&Outcome::of(start.arg(&data).current_dir(dir.path())));
    refused(&run_at(&dir.at("control"), &["backup", &dir.at("copy.db").display().to_string()]));
    assert!(run_at(&data, &["clock", "show"]).err.contains("9.9.9"));
    assert!(!dir.at("copy.db").exists());
    for (now, before) in [(picture(&dir.at("control")), &before), (picture(&data), &gates)] {
        assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(now == *before, "a file was touched");
    }
    // The way back: the copy of before the upgrade goes in its place, and the newer store is kept whole.
    let done = run_at(&dir.at("control"), &["restore", &copy_before]);
    assert_eq!(done.code, 0, "{}", done.all());
    let kept = done.out.lines().find_map(|l| l.strip_prefix("what was there is kept as ")).unwrap().to_string();
    assert_eq!(std::fs::read(kept).unwrap(), before["control.db"].0);
    control.again();
    assert!(control.ok(&["users", "list"]).contains("ada"));
}
