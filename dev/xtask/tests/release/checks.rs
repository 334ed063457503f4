//! What a person checks a download with: checksums, their signature; and the notes. In: a page of a
//! program. Out: the usual tools say yes, and no when one byte is another.

use std::path::Path;
use std::process::{Command, Stdio};

use stage::command::Outcome;
use stage::{Dir, peers};

use super::{built, names, page, release};

/// Runs a program in a folder.
fn at(dir: &Path, program: impl AsRef<Path>, args: &[&str]) -> Outcome {
    Outcome::of(Command::new(program.as_ref()).args(args).current_dir(dir).stdin(Stdio::null()))
}

#[test]
fn sums_and_signature_hold_until_a_byte_changes() {
    let (Some(program), Some(minisign)) = (built(), peers::need("minisign")) else { return };
    let dir = Dir::new("release-signed");
    let made = at(dir.path(), &minisign, &["-G", "-W", "-p", "key.pub", "-s", "key"]);
    assert_eq!(made.code, 0, "{}", made.all());
    let folder = dir.at("page");
    let (key, out) = (dir.at("key"), folder.display().to_string());
    let said = release(&[
        "--bin",
        program.to_str().unwrap(),
        "--only",
        "binary,notes,sums,sign",
        "--key",
        key.to_str().unwrap(),
        "--out",
        &out,
    ]);
    assert_eq!(said.code, 0, "{}", said.all());
    let check = || at(&folder, &minisign, &["-V", "-m", "SHA256SUMS", "-p", "../key.pub"]);
    let sums = || at(&folder, "sha256sum", &["--check", "--strict", "SHA256SUMS"]);
    assert_eq!((check().code, sums().code), (0, 0), "{}{}", check().all(), sums().all());
    let listed = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let listed: Vec<&str> = listed.lines().map(|l| l.split_once("  ").unwrap().1).collect();
    let there = names(&folder);
    let there: Vec<&str> = there.iter().map(String::as_str).filter(|n| !n.starts_with("SHA256SUMS")).collect();
    assert_eq!(listed, there);

    let notes = folder.join("NOTES.md");
    let text = std::fs::read_to_string(&notes).unwrap();
    std::fs::write(&notes, text.replacen('P', "Q", 1)).unwrap();
    assert_ne!(sums().code, 0, "another file has the same sum");
    // The list follows the file, as an attacker would have it; the signature does not.
    std::fs::write(&notes, &text).unwrap();
    let list = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    std::fs::write(folder.join("SHA256SUMS"), list.replacen('a', "b", 1)).unwrap();
    assert_ne!(check().code, 0, "another list has the same signature");

    let again =
        release(&["--bin", program.to_str().unwrap(), "--only", "sums,sign", "--key", "/nowhere", "--out", &out]);
    assert!(again.code == 1 && again.err.contains("the step `sign` failed"), "{}", again.all());
}

#[test]
fn the_notes_are_the_changelog_s() {
    let Some(program) = built() else { return };
    let dir = Dir::new("release-notes");
    page(&program, "notes", &dir.at("page"));
    let notes = std::fs::read_to_string(dir.at("page/NOTES.md")).unwrap();
    assert!(notes.starts_with(&format!("# Portcullis {}\n", env!("CARGO_PKG_VERSION"))));
    let changelog = stage::pages::file("CHANGELOG.md");
    let first = changelog.lines().skip_while(|l| !l.starts_with("## ")).skip(1).find(|l| !l.is_empty()).unwrap();
    assert!(notes.contains(first), "{first} is not in the notes");
}
