//! A failure of the machine is not an answer: descriptors run out, and what was revoked meanwhile counts all the same.

use std::path::Path;
use std::time::Duration;

use stage::command::{Outcome, Server, command};
use stage::control::Control;
use stage::disk::SmallDisk;
use stage::edge::{Edge, Mode};
use stage::gate::Gate;
use stage::process::Process;
use stage::{Dir, eventually, pages, ports};

/// Far more than is needed, for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_revocation_that_came_when_descriptors_had_run_out_counts_when_there_are_some_again() {
    let dir = Dir::new("lists");
    let list = dir.write("office", "127.0.0.66\n127.0.0.1\n");
    let edge = Edge::start(Mode::Http, false, &["--allow-ips-data", &format!("@{}", list.display())]);
    let explain = |who: &str| edge.command(&["explain", who, "--service", "data"]);
    assert_eq!(explain("127.0.0.66").0, 0);

    edge.process.limit_files(Some(3));
    dir.write("office.new", "127.0.0.1\n");
    std::fs::rename(dir.path().join("office.new"), &list).unwrap();
    let told = eventually(LIMIT, || edge.process.output().contains("Too many open files").then_some(()).ok_or(()));
    assert!(told.is_ok(), "{}", edge.process.output());
    edge.process.limit_files(None);
    let gone = eventually(LIMIT, || {
        let (code, said) = explain("127.0.0.66");
        if code == 3 { Ok(()) } else { Err(said) }
    });
    assert_eq!(gone, Ok(()));
    assert_eq!(explain("127.0.0.1").0, 0);
}

#[test]
fn explain_lists_and_doctor_say_that_a_list_file_cannot_be_read_and_how_old_what_counts_is() {
    let dir = Dir::new("stale");
    let list = dir.write("office", "127.0.0.66\n");
    let edge = Edge::start(Mode::Http, false, &["--allow-ips-data", &format!("@{}", list.display())]);
    assert!(edge.ok(&["doctor"]).contains("nothing wrong"));
    std::fs::remove_file(&list).unwrap();
    for args in [&["doctor"][..], &["explain", "127.0.0.66", "--service", "data"], &["lists"]] {
        let stale = eventually(LIMIT, || {
            let text = edge.command(args).1;
            let says =
                text.contains("may be out of date") && text.contains("office: No such file") && text.contains(" s ago");
            if says { Ok(()) } else { Err(text) }
        });
        assert_eq!(stale, Ok(()), "{args:?}");
    }
    // What was read stays.
    edge.ok(&["explain", "127.0.0.66", "--service", "data"]);
    dir.write("office", "127.0.0.67\n");
    let back = eventually(LIMIT, || {
        let text = edge.command(&["doctor"]).1;
        if text.contains("nothing wrong") { Ok(()) } else { Err(text) }
    });
    assert_eq!(back, Ok(()));
    assert_eq!(edge.command(&["explain", "127.0.0.66", "--service", "data"]).0, 3);
}

/// Room on a small disk, in KiB: enough to start, and soon used up.
const ROOM: u32 = 1200;

/// Repeats a command until the full disk refuses it; the write-ahead log may have room for some.
fn until_refused(server: &impl Server, args: impl Fn(u32) -> Vec<String>) -> (u32, String) {
    for n in 0..500 {
        let args = args(n);
        if let Err(why) = server.try_run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
            return (n, why);
        }
    }
    panic!("the disk does not fill");
}

/// Waits until the server says that what was not saved is.
fn saved_again(process: &mut Process) {
    process.line(LIMIT, |l| l.contains("saved again").then_some(())).unwrap();
}

#[test]
fn control_on_a_full_disk_gives_nothing_that_is_not_saved_and_takes_back_at_once() {
    let Some(disk) = SmallDisk::new("mesh", ROOM) else { return };
    let mut control = Control::start_in(&disk.path().join("data"), &[]);
    control.user("ada");
    let _key = control.key("ada", &[]);
    let policy = disk.path().join("p.hujson");
    std::fs::write(&policy, r#"{"grants": []}"#).unwrap();
    disk.fill();

    let (n, why) = until_refused(&control, |n| vec!["users".into(), "create".into(), format!("bob{n}")]);
    assert!(why.contains("nothing was changed") && why.contains("the disk is full"), "{why}");
    let users = control.ok(&["users", "list"]);
    assert!(!users.contains(&format!("bob{n} ")) && !users.contains(&format!("bob{n}\n")), "{users}");
    let (code, set) = control.command(&["policy", "set", &policy.display().to_string()]);
    assert!(code != 0 && set.contains("nothing was changed"), "{set}");
    // It only reads; no policy is in force, as before.
    let (_, get) = control.command(&["policy", "get"]);
    assert!(get.contains("there is no policy"), "{get}");
    let revoke = control.ok(&["keys", "revoke", "1"]);
    assert!(revoke.contains("in force, not saved yet"), "{revoke}");
    assert!(control.ok(&["keys", "list"]).contains("revoked"));
    let lines = |what: &str| control.process.output().lines().filter(|l| l.contains(what)).count();
    assert_eq!(
        lines(&format!("what=user-created about=\"bob{n}\"")),
        0,
        "what was refused is not said to have happened"
    );
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(lines("key-revoked"), 1, "tried again, said once: {}", control.process.output());

    disk.free();
    saved_again(&mut control.process);
    control.again();
    assert!(control.ok(&["keys", "list"]).contains("revoked"));
    assert!(!control.ok(&["users", "list"]).contains(&format!("bob{n} ")));
    control.user(&format!("bob{n}"));
    control.ok(&["audit", "verify"]);
    assert!(control.ok(&["audit"]).contains("key-revoked"));
}

#[test]
fn a_gate_on_a_full_disk_gives_nothing_that_is_not_saved_and_takes_back_at_once() {
    let Some(disk) = SmallDisk::new("gate", ROOM) else { return };
    let file = Dir::new("gate-file");
    let mut gate = Gate::start(disk.path(), &[], &["--file", &file.at("list.yml").display().to_string()]);
    gate.ok(&["grant", "add", "203.0.113.7"]);
    disk.fill();
    let address = |n: u32| format!("198.51.{}.{}", 100 + n / 200, n % 200 + 1);
    let (n, why) = until_refused(&gate, |n| vec!["grant".into(), "add".into(), address(n)]);
    assert!(why.contains("nothing was changed") && why.contains("the disk is full"), "{why}");
    let shown = |gate: &Gate| gate.ok(&["lists", "show", "dynamic-whitelist"]);
    assert!(!shown(&gate).contains(&format!("{} ", address(n))));
    let revoke = gate.ok(&["grant", "revoke", "203.0.113.7"]);
    assert!(revoke.contains("in force, not saved yet"), "{revoke}");
    assert!(!shown(&gate).contains("203.0.113.7"));
    disk.free();
    saved_again(&mut gate.process);
    gate.again();
    let shown = shown(&gate);
    assert!(!shown.contains("203.0.113.7") && !shown.contains(&format!("{} ", address(n))), "{shown}");
    gate.ok(&["grant", "add", &address(n)]);
    gate.ok(&["audit", "verify"]);
}

#[test]
fn a_running_server_is_backed_up_and_a_stopped_one_is_put_back() {
    let dir = Dir::new("backup");
    let mut control = Control::start_in(&dir.at("data"), &[]);
    let copy = dir.at("copy.db").display().to_string();
    control.user("ada");
    control.ok(&["backup", &copy]);
    let (code, there) = control.command(&["backup", &copy]);
    assert!(code == 1 && there.contains("is there already") && there.contains("--force"), "{there}");
    control.ok(&["backup", &copy, "--force"]);
    control.user("bob");
    let (code, refused) = control.command(&["restore", &copy]);
    assert!(code != 0 && refused.contains("a process uses"), "{refused}");
    control.process.stop();
    let letter = dir.write("letter.txt", "dear reader").display().to_string();
    for words in [&["restore", &letter][..], &["backup", &letter], &["backup", &letter, "--force"]] {
        assert!(control.try_run(words).is_err());
    }
    assert!(control.ok(&["restore", &copy]).contains("kept as"));
    control.again();
    let users = control.ok(&["users", "list"]);
    assert!(users.contains("ada") && !users.contains("bob"), "{users}");
}

/// State that version 0.1.0 wrote before the journal of its audit log was in the store: a gate's, by a mirrored request,
/// by hand and by name, and a coordination server's.
#[test]
fn data_directories_of_the_version_before_open_with_everything_in_them() {
    let dir = Dir::new("before");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1.0-before");
    for (what, to) in [("gate", dir.at("state")), ("control", dir.at("control"))] {
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(from.join(what)).unwrap().flatten() {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    // Nobody answers there: what a name said last stays.
    let nobody = ports::local(ports::free()).to_string();
    let gate = Gate::start(dir.path(), &[], &["--dns-servers", &nobody]);
    let control = Control::start_in(&dir.at("control"), &[]);
    let shown = |server: &dyn Server, args: &[&str], parts: &[&str]| {
        let text = server.ok(args);
        assert!(parts.iter().all(|p| text.contains(p)), "{args:?} {parts:?}: {text}");
    };
    let grants = ["203.0.113.7", "198.51.100.0/28", "office", "pinned", "203.0.113.99", "dns:home.example.net"];
    shown(&gate, &["lists", "show", "dynamic-whitelist"], &grants);
    shown(&gate, &["audit"], &["revoked", "198.51.100.77"]);
    shown(&gate, &["audit", "verify"], &["5 lines, none changed"]);
    shown(&control, &["users", "list"], &["ada", "owner", "bob"]);
    shown(&control, &["keys", "list"], &["tag:server", "reusable", "never ends", "revoked"]);
    shown(&control, &["policy", "get"], &["// kept as typed", "group:staff"]);
    shown(&control, &["audit", "verify"], &["8 lines, none changed"]);
    // And go on from there.
    shown(&gate, &["grant", "add", "198.51.100.99"], &[]);
    shown(&control, &["users", "create", "eve"], &["eve"]);
    shown(&gate, &["audit", "verify"], &["6 lines, none changed"]);
    shown(&control, &["audit", "verify"], &["9 lines, none changed"]);
}

/// The lines of the manual, with a folder for DIR.
#[test]
fn backup_lines_of_the_manual_do_what_they_say() {
    let dir = Dir::new("printed-backup");
    let mut control = Control::start_in(&dir.at("control"), &[]);
    backup_lines(&dir, &mut control, "copy.db");
    let mut gate = Gate::start(dir.path(), &[], &[]);
    backup_lines(&dir, &mut gate, "copy-of-gate.db");
}

fn backup_lines(dir: &Dir, server: &mut impl Server, copy: &str) {
    let data = server.data().to_path_buf();
    let line = |verb: &str| {
        let [line] = pages::commands(verb).try_into().unwrap();
        let line = line.replace("copy.db", copy).replace("DIR", &data.display().to_string());
        let words: Vec<&str> = line.strip_prefix("portcullis ").unwrap().split(' ').collect();
        let done = Outcome::of(command(&words).current_dir(dir.path()));
        (done.code, done.all())
    };
    let (code, text) = line("backup");
    assert_eq!(code, 0, "{text}");
    let (code, text) = line("restore");
    assert!(code == 1 && text.contains("a process uses") && text.contains("hint: stop it first"), "{text}");
    server.process_mut().stop();
    let (code, text) = line("restore");
    assert!(code == 0 && text.contains("is kept as"), "{text}");
    // A new machine: nothing there says whose copy it is but the copy.
    std::fs::remove_dir_all(&data).unwrap();
    let (code, text) = line("restore");
    assert_eq!(code, 0, "{text}");
    server.again();
    let (code, text) = server.command(&["backup", "-"]);
    assert!(code == 2 && text.contains("`-` is no file"), "{text}");
}
