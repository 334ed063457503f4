//! What `cargo xtask release` makes, tested by using it. A module for each artefact; what they share is here: a page made
//! of a program that is built already.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use stage::command::Outcome;

mod binary;
mod charts;
mod checks;
mod compose;
mod container;
mod docker;
mod image;
mod install;
mod packages;
mod systemd;

/// A program to put on a page where nothing is built: the one that the workspace's tests build, without what debuggers
/// want, which is most of it.
fn built() -> Option<PathBuf> {
    static STRIPPED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let strip = || {
        let own = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("portcullis");
        let copy = std::env::temp_dir().join(format!("portcullis-{}-built", std::process::id()));
        let done = own.is_file().then(|| Outcome::of(Command::new("strip").arg("-o").arg(&copy).arg(&own)))?;
        assert_eq!(done.code, 0, "{}", done.all());
        Some(copy)
    };
    let program = STRIPPED.get_or_init(strip).clone();
    if program.is_none() {
        stage::skip::skip("there is no built `portcullis` beside xtask (`cargo build` makes it)");
    }
    program
}

/// `cargo xtask release ARGS…`, with one date.
fn release(args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    Outcome::of(command.arg("release").args(args).env("SOURCE_DATE_EPOCH", "1700000000"))
}

/// Makes some files of a page into `dir` from the built program.
#[track_caller]
fn page(program: &Path, only: &str, dir: &Path) {
    let said = release(&["--bin", program.to_str().unwrap(), "--only", only, "--out", dir.to_str().unwrap()]);
    assert_eq!(said.code, 0, "{}", said.all());
}

/// The names of what is in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
