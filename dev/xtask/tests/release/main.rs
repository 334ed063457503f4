//! What `cargo xtask release` makes, tested by using it. A module for each artefact; what they share is here: a page made
//! of a program that is built already.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

use stage::command::Outcome;

mod binary;
mod charts;
mod container;

/// A program to put on a page where nothing is built: `cargo xtask` itself is an ELF file like any other, but knows no
/// `man`; so it is the program that the workspace's tests build, if it is there.
fn built() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_BIN_EXE_xtask")).with_file_name("portcullis");
    if !own.is_file() {
        stage::skip::skip("there is no built `portcullis` beside xtask (`cargo build` makes it)");
        return None;
    }
    Some(own)
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
