//! The archive with the program in it, and what the command refuses.

use stage::Dir;
use stage::command::Outcome;
use std::process::Command;

use super::{built, names, page, release};

#[test]
fn the_archive_holds_a_program_that_runs() {
    let Some(program) = built() else { return };
    let dir = Dir::new("release-binary");
    page(&program, "binary", &dir.at("page"));
    let arch = std::env::consts::ARCH;
    let name = format!("portcullis-{}-linux-{arch}", env!("CARGO_PKG_VERSION"));
    assert_eq!(names(&dir.at("page")), [format!("{name}.tar.gz")]);
    let tar = Outcome::of(
        Command::new("tar").arg("-xzf").arg(dir.at(format!("page/{name}.tar.gz"))).arg("-C").arg(dir.path()),
    );
    assert_eq!(tar.code, 0, "{}", tar.all());
    assert_eq!(
        names(&dir.at(&name)),
        ["LICENSE-APACHE", "LICENSE-MIT", "THIRD-PARTY.txt", "completions", "portcullis", "portcullis.1"]
    );
    let theirs = std::fs::read_to_string(dir.at(format!("{name}/THIRD-PARTY.txt"))).unwrap();
    for wanted in ["aws-lc-sys ", "musl", "The rust-url developers", "Meta Platforms"] {
        assert!(theirs.contains(wanted), "no {wanted} in THIRD-PARTY.txt");
    }
    let said = Outcome::of(Command::new(dir.at(format!("{name}/portcullis"))).arg("--version"));
    assert_eq!(said.out, format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn two_pages_of_one_program_are_equal() {
    let Some(program) = built() else { return };
    let dir = Dir::new("release-twice");
    for page_dir in ["a", "b"] {
        page(&program, "binary", &dir.at(page_dir));
    }
    let files = names(&dir.at("a"));
    assert!(!files.is_empty());
    for file in files {
        let of = |page: &str| std::fs::read(dir.at(page).join(&file)).unwrap();
        assert!(of("a") == of("b"), "{file} differs between two runs");
    }
}

#[test]
fn wrong_arguments_say_what_there_is() {
    let dir = Dir::new("release-wrong");
    let text = dir.write("text", "no program");
    let full = dir.path().to_str().unwrap().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["--only", "snap"], "there is no step `snap`"),
        (&["--target", "sparc-sun-solaris"], "`sparc-sun-solaris` is not released for"),
        (&["--bin", text.to_str().unwrap(), "--only", "binary", "--out", &full], "it is no 64-bit ELF file"),
        (&["--out"], "`--out` needs a value"),
        (&["--bin", "/bin/true", "--out", &full], "is not empty"),
    ];
    for (args, wanted) in cases {
        let said = release(args);
        assert!(said.code == 1 && said.err.contains(wanted), "{args:?}: {}", said.all());
    }
}
