//! A failure of the machine is not an answer: descriptors run out, and what was revoked meanwhile counts all the same.
#![allow(missing_docs, clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use stage::edge::{Edge, Mode};
use stage::eventually;

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
