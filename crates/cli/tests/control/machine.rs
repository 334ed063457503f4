//! A failure of the machine is not an answer: descriptors run out, and what was revoked meanwhile counts all the same.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use stage::edge::{Edge, Mode};
use stage::eventually;
use stage::process::Process;

const BIN: &str = env!("CARGO_BIN_EXE_portcullis");

/// Far more than is needed, for a machine that is busy.
const LIMIT: Duration = Duration::from_secs(30);

fn command(data: &Path, args: &[&str]) -> Output {
    Command::new(BIN).args(args).arg("--data-dir").arg(data).env("NO_COLOR", "1").output().unwrap()
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn a_revocation_that_came_when_descriptors_had_run_out_counts_when_there_are_some_again() {
    let dir = stage::Dir::new("lists");
    let list = dir.write("office", "127.0.0.66\n127.0.0.1\n");
    let edge = Edge::start(BIN, Mode::Http, false, &["--allow-ips-data", &format!("@{}", list.display())]);
    let data = edge.dir().path().join("data");
    let explain = |who: &str| command(&data, &["explain", who, "--service", "data"]);
    assert_eq!(explain("127.0.0.66").status.code(), Some(0));

    edge.process.limit_files(Some(3));
    dir.write("office.new", "127.0.0.1\n");
    std::fs::rename(dir.path().join("office.new"), &list).unwrap();
    let told = eventually(LIMIT, || edge.process.output().contains("Too many open files").then_some(()).ok_or(()));
    assert!(told.is_ok(), "{}", edge.process.output());
    edge.process.limit_files(None);
    let gone = eventually(LIMIT, || {
        let out = explain("127.0.0.66");
        if out.status.code() == Some(3) { Ok(()) } else { Err(said(&out)) }
    });
    assert_eq!(gone, Ok(()));
    assert_eq!(explain("127.0.0.1").status.code(), Some(0));
}

#[test]
fn explain_lists_and_doctor_say_that_a_list_file_cannot_be_read_and_how_old_what_counts_is() {
    let dir = stage::Dir::new("stale");
    let list = dir.write("office", "127.0.0.66\n");
    let edge = Edge::start(BIN, Mode::Http, false, &["--allow-ips-data", &format!("@{}", list.display())]);
    let data = edge.dir().path().join("data");
    let doctor = command(&data, &["doctor"]);
    assert!(doctor.status.success() && said(&doctor).contains("nothing wrong"), "{}", said(&doctor));
    std::fs::remove_file(&list).unwrap();
    for args in [&["doctor"][..], &["explain", "127.0.0.66", "--service", "data"], &["lists"]] {
        let stale = eventually(LIMIT, || {
            let text = said(&command(&data, args));
            let says =
                text.contains("may be out of date") && text.contains("office: No such file") && text.contains(" s ago");
            if says { Ok(()) } else { Err(text) }
        });
        assert_eq!(stale, Ok(()), "{args:?}");
    }
    assert_eq!(
        command(&data, &["explain", "127.0.0.66", "--service", "data"]).status.code(),
        Some(0),
        "what was read stays"
    );
    dir.write("office", "127.0.0.67\n");
    let back = eventually(LIMIT, || {
        let text = said(&command(&data, &["doctor"]));
        if text.contains("nothing wrong") { Ok(()) } else { Err(text) }
    });
    assert_eq!(back, Ok(()));
    assert_eq!(command(&data, &["explain", "127.0.0.66", "--service", "data"]).status.code(), Some(3));
}

/// A disk of a megabyte, mounted in a folder; unmounted with its owner.
struct Tiny {
    dir: stage::Dir,
}

impl Tiny {
    /// `None` where this machine mounts nothing for us.
    fn new(name: &str) -> Option<Tiny> {
        let dir = stage::Dir::new(name);
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1200k", "tmpfs"]).arg(dir.path()).output();
        if mount.is_ok_and(|o| o.status.success()) {
            return Some(Tiny { dir });
        }
        let why = "skipped: a small disk can not be mounted here (needs root)";
        assert!(std::env::var("PORTCULLIS_REQUIRE_PEERS").is_err(), "{why}");
        eprintln!("{why}");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all the room there is.
    fn fill(&self) {
        use std::io::Write;
        let mut ballast = std::fs::File::create(self.path().join("ballast")).unwrap();
        while ballast.write(&[1; 512]).is_ok_and(|n| n > 0) {}
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Tiny {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

struct Server {
    args: Vec<String>,
    process: Process,
}

impl Server {
    fn start(args: &[&str], data: &Path, ready: &str) -> Server {
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        args.extend(["--data-dir".to_string(), data.display().to_string()]);
        let mut server = Server { process: Process::start("server", Server::command(&args)), args };
        server.wait(ready);
        server
    }

    fn command(args: &[String]) -> Command {
        let mut c = Command::new(BIN);
        c.args(args).env("NO_COLOR", "1").current_dir(std::env::temp_dir());
        c
    }

    fn wait(&mut self, ready: &str) {
        let up = self.process.line(stage::START, |l| l.contains(ready).then_some(()));
        assert_eq!(up, Ok(()));
        // The admin socket is opened last.
        let socket =
            |p: &Path| p.extension().is_some_and(|e| e == "sock") && std::os::unix::net::UnixStream::connect(p).is_ok();
        let answers = eventually(LIMIT, || {
            let there = std::fs::read_dir(self.args.last().unwrap()).unwrap().flatten().any(|e| socket(&e.path()));
            there.then_some(()).ok_or(())
        });
        assert_eq!(answers, Ok(()));
    }

    /// As a power cut ends it.
    fn kill_and_start(&mut self, ready: &str) {
        self.process.signal(stage::process::Signal::KILL);
        self.process.wait(LIMIT).unwrap();
        self.process = Process::start("server", Server::command(&self.args));
        self.wait(ready);
    }
}

/// Repeats a command until the full disk refuses it; the write-ahead log may have room for some.
fn until_refused(data: &Path, args: impl Fn(u32) -> Vec<String>) -> (u32, String) {
    for n in 0..500 {
        let args = args(n);
        let out = command(data, &args.iter().map(String::as_str).collect::<Vec<_>>());
        if !out.status.success() {
            return (n, said(&out));
        }
    }
    panic!("the disk does not fill");
}

#[test]
fn control_on_a_full_disk_gives_nothing_that_is_not_saved_and_takes_back_at_once() {
    let Some(disk) = Tiny::new("mesh") else { return };
    let data = disk.path().join("data");
    let addr = stage::ports::local(stage::ports::free());
    let (url, listen) = (format!("http://{addr}"), addr.to_string());
    let args = ["control", "--server-url", &url, "--listen", &listen, "--stun", "off"];
    let ready = "listening on";
    let mut server = Server::start(&args, &data, ready);
    let ok = |args: &[&str]| {
        let out = command(&data, args);
        assert!(out.status.success(), "{args:?}: {}", said(&out));
        said(&out)
    };
    ok(&["users", "create", "ada"]);
    ok(&["keys", "create", "--user", "ada"]);
    let policy = disk.path().join("p.hujson");
    std::fs::write(&policy, r#"{"grants": []}"#).unwrap();
    disk.fill();

    let (n, why) = until_refused(&data, |n| vec!["users".into(), "create".into(), format!("bob{n}")]);
    assert!(why.contains("nothing was changed") && why.contains("the disk is full"), "{why}");
    let users = ok(&["users", "list"]);
    assert!(!users.contains(&format!("bob{n} ")) && !users.contains(&format!("bob{n}\n")), "{users}");
    let set = command(&data, &["policy", "set", &policy.display().to_string()]);
    assert!(!set.status.success() && said(&set).contains("nothing was changed"), "{}", said(&set));
    // It only reads; no policy is in force, as before.
    let get = said(&command(&data, &["policy", "get"]));
    assert!(get.contains("there is no policy"), "{get}");
    let revoke = command(&data, &["keys", "revoke", "1"]);
    assert!(revoke.status.success(), "{}", said(&revoke));
    assert!(said(&revoke).contains("in force, not saved yet"), "{}", said(&revoke));
    assert!(ok(&["keys", "list"]).contains("revoked"));
    let lines = |what: &str| server.process.output().lines().filter(|l| l.contains(what)).count();
    assert_eq!(lines(&format!("user-created: bob{n}")), 0, "what was refused is not said to have happened");
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(lines("key-revoked"), 1, "tried again, said once: {}", server.process.output());

    disk.free();
    let saved = server.process.line(LIMIT, |l| l.contains("saved again").then_some(()));
    assert_eq!(saved, Ok(()));
    server.kill_and_start(ready);
    assert!(ok(&["keys", "list"]).contains("revoked"));
    assert!(!ok(&["users", "list"]).contains(&format!("bob{n} ")));
    ok(&["users", "create", &format!("bob{n}")]);
    ok(&["audit", "verify"]);
    assert!(ok(&["audit"]).contains("key-revoked"));
}

#[test]
fn a_gate_on_a_full_disk_gives_nothing_that_is_not_saved_and_takes_back_at_once() {
    let Some(disk) = Tiny::new("gate") else { return };
    let data = disk.path().join("data");
    let file = stage::Dir::new("gate-file");
    let list = file.path().join("list.yml").display().to_string();
    let ready = "listening on";
    let mut server = Server::start(&["gatekeeper", "--listen", "127.0.0.1:0", "--file", &list], &data, ready);
    let ok = |args: &[&str]| {
        let out = command(&data, args);
        assert!(out.status.success(), "{args:?}: {}", said(&out));
        said(&out)
    };
    ok(&["grant", "add", "203.0.113.7"]);
    disk.fill();
    let address = |n: u32| format!("198.51.{}.{}", 100 + n / 200, n % 200 + 1);
    let (n, why) = until_refused(&data, |n| vec!["grant".into(), "add".into(), address(n)]);
    assert!(why.contains("nothing was changed") && why.contains("the disk is full"), "{why}");
    assert!(!ok(&["list", "show", "dynamic-whitelist"]).contains(&format!("{} ", address(n))));
    let revoke = command(&data, &["grant", "revoke", "203.0.113.7"]);
    assert!(revoke.status.success() && said(&revoke).contains("in force, not saved yet"), "{}", said(&revoke));
    assert!(!ok(&["list", "show", "dynamic-whitelist"]).contains("203.0.113.7"));
    disk.free();
    let saved = server.process.line(LIMIT, |l| l.contains("saved again").then_some(()));
    assert_eq!(saved, Ok(()));
    server.kill_and_start(ready);
    let shown = ok(&["list", "show", "dynamic-whitelist"]);
    assert!(!shown.contains("203.0.113.7") && !shown.contains(&format!("{} ", address(n))), "{shown}");
    ok(&["grant", "add", &address(n)]);
    ok(&["audit", "verify"]);
}

#[test]
fn a_running_server_is_backed_up_and_a_stopped_one_is_put_back() {
    let dir = stage::Dir::new("backup");
    let data = dir.path().join("data");
    let addr = stage::ports::local(stage::ports::free());
    let (url, listen) = (format!("http://{addr}"), addr.to_string());
    let args = ["control", "--server-url", &url, "--listen", &listen, "--stun", "off"];
    let mut server = Server::start(&args, &data, "listening on");
    let copy = dir.path().join("copy.db").display().to_string();
    let ok = |args: &[&str]| {
        let out = command(&data, args);
        assert!(out.status.success(), "{args:?}: {}", said(&out));
        said(&out)
    };
    ok(&["users", "create", "ada"]);
    ok(&["backup", &copy]);
    ok(&["users", "create", "bob"]);
    let refused = command(&data, &["restore", &copy]);
    assert!(!refused.status.success() && said(&refused).contains("a process uses"), "{}", said(&refused));
    server.process.terminate();
    server.process.wait(LIMIT).unwrap();
    let letter = dir.write("letter.txt", "dear reader").display().to_string();
    for words in [["restore", &letter], ["backup", &letter]] {
        assert!(!command(&data, &words).status.success());
    }
    assert!(ok(&["restore", &copy]).contains("kept as"));
    server.process = Process::start("server", Server::command(&server.args));
    server.wait("listening on");
    let users = ok(&["users", "list"]);
    assert!(users.contains("ada") && !users.contains("bob"), "{users}");
}

/// State that version 0.1.0 wrote before the journal of its audit log was in the store: a gate's, by a mirrored request,
/// by hand and by name, and a coordination server's.
#[test]
fn data_directories_of_the_version_before_open_with_everything_in_them() {
    let dir = stage::Dir::new("before");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/0.1.0-before");
    for what in ["gate", "control"] {
        std::fs::create_dir(dir.path().join(what)).unwrap();
        for file in std::fs::read_dir(from.join(what)).unwrap().flatten() {
            std::fs::copy(file.path(), dir.path().join(what).join(file.file_name())).unwrap();
        }
    }
    let (gate, control) = (dir.path().join("gate"), dir.path().join("control"));
    let list = dir.path().join("list.yml").display().to_string();
    // Nobody answers there: what a name said last stays.
    let nobody = stage::ports::local(stage::ports::free()).to_string();
    let args = ["gatekeeper", "--listen", "127.0.0.1:0", "--file", &list, "--dns-servers", &nobody];
    let _gate = Server::start(&args, &gate, "listening on");
    let addr = stage::ports::local(stage::ports::free());
    let (url, listen) = (format!("http://{addr}"), addr.to_string());
    let args = ["control", "--server-url", &url, "--listen", &listen, "--stun", "off"];
    let _control = Server::start(&args, &control, "listening on");
    let shown = |data: &Path, args: &[&str], parts: &[&str]| {
        let out = command(data, args);
        let text = said(&out);
        assert!(out.status.success() && parts.iter().all(|p| text.contains(p)), "{args:?} {parts:?}: {text}");
    };
    let grants = ["203.0.113.7", "198.51.100.0/28", "office", "pinned", "203.0.113.99", "dns:home.example.net"];
    shown(&gate, &["list", "show", "dynamic-whitelist"], &grants);
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
    let dir = stage::Dir::new("printed-backup");
    let (gate, control) = (dir.path().join("gate"), dir.path().join("control"));
    let addr = stage::ports::local(stage::ports::free());
    let (url, listen) = (format!("http://{addr}"), addr.to_string());
    let list = dir.path().join("list.yml").display().to_string();
    for data in [&control, &gate] {
        let line = |verb: &str| {
            let [line] = stage::pages::commands(verb).try_into().unwrap();
            // A copy of each.
            let copy = if data == &gate { "copy-of-gate.db" } else { "copy.db" };
            let line = line.replace("copy.db", copy).replace("DIR", &data.display().to_string());
            let words = line.strip_prefix("portcullis ").unwrap().split(' ');
            let out = Command::new(BIN).args(words).current_dir(dir.path()).output().unwrap();
            (out.status.code(), said(&out))
        };
        let args: Vec<&str> = if data == &gate {
            vec!["gatekeeper", "--listen", "127.0.0.1:0", "--file", &list]
        } else {
            vec!["control", "--server-url", &url, "--listen", &listen, "--stun", "off"]
        };
        let mut server = Server::start(&args, data, "listening on");
        for _ in 0..2 {
            let (code, text) = line("backup");
            assert_eq!(code, Some(0), "{text}");
        }
        let (code, text) = line("restore");
        assert!(code == Some(1) && text.contains("a process uses") && text.contains("hint: stop it first"), "{text}");
        server.process.terminate();
        server.process.wait(LIMIT).unwrap();
        let (code, text) = line("restore");
        assert!(code == Some(0) && text.contains("is kept as"), "{text}");
        // A new machine: nothing there says whose copy it is but the copy.
        std::fs::remove_dir_all(data).unwrap();
        let (code, text) = line("restore");
        assert_eq!(code, Some(0), "{text}");
        server.process = Process::start("server", Server::command(&server.args));
        server.wait("listening on");
        let (code, text) = (command(data, &["backup", "-"]).status.code(), said(&command(data, &["backup", "-"])));
        assert!(code == Some(2) && text.contains("`-` is no file"), "{text}");
    }
}
