//! The how-to of installing, as it is printed. In: a page in a folder. Out: every command of it works there, and names
//! files of this version.

use std::path::Path;
use std::process::{Command, Stdio};

use stage::command::Outcome;
use stage::pages::{commands, root};
use stage::{Dir, peers};

use super::image::Podman;
use super::{built, page, release};

/// Types a command in a folder.
fn type_in(dir: &Path, command: &str) -> Outcome {
    Outcome::of(Command::new("sh").args(["-euc", command]).current_dir(dir).stdin(Stdio::null()))
}

#[test]
fn what_was_downloaded_is_checked() {
    let (Some(program), Some(minisign)) = (built(), peers::need("minisign")) else { return };
    let dir = Dir::new("install-check");
    let made = Outcome::of(
        Command::new(minisign).args(["-G", "-W", "-p", "portcullis.pub", "-s", "key"]).current_dir(dir.path()),
    );
    assert_eq!(made.code, 0, "{}", made.all());
    let (program, key) = (program.display().to_string(), dir.at("key").display().to_string());
    let out = dir.path().display().to_string();
    let said = release(&["--bin", &program, "--only", "notes,sums,sign", "--key", &key, "--out", &out]);
    assert_eq!(said.code, 0, "{}", said.all());
    std::fs::remove_file(dir.at("key")).unwrap();
    for command in commands("install-check") {
        let said = type_in(dir.path(), &command);
        assert_eq!(said.code, 0, "{command}: {}", said.all());
    }
}

#[test]
fn the_program_is_put_on_the_path() {
    let Some(program) = built() else { return };
    let dir = Dir::new("install-program");
    page(&program, "binary", dir.path());
    let local = dir.at("usr/local");
    std::fs::create_dir_all(local.join("bin")).unwrap();
    let here =
        |text: &str| text.replace("x86_64", std::env::consts::ARCH).replace("/usr/local", local.to_str().unwrap());
    for command in commands("install-program") {
        let said = type_in(dir.path(), &here(&command));
        assert_eq!(said.code, 0, "{command}: {}", said.all());
    }
    let said = Outcome::of(Command::new(local.join("bin/portcullis")).arg("version"));
    assert_eq!(said.out, format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));
    for file in ["share/man/man1/portcullis.1", "share/bash-completion/completions/portcullis"] {
        assert!(local.join(file).is_file(), "{file}");
    }
}

#[test]
fn the_image_is_loaded_or_built_and_run() {
    let Some(podman) = Podman::new() else { return };
    let Some(program) = built() else { return };
    let dir = Dir::new("install-image");
    page(&program, "image", &dir.at("target/release-page"));
    std::fs::create_dir(dir.at("deploy")).unwrap();
    std::fs::copy(root().join("deploy/Containerfile"), dir.at("deploy/Containerfile")).unwrap();
    let name = format!("portcullis:{}", env!("CARGO_PKG_VERSION"));
    let mut made = Vec::new();
    // Downloads lie in one folder; the file for the engine is in the checkout's.
    for (recipe, folder) in [("install-image", "target/release-page"), ("install-build", ".")] {
        for command in commands(recipe) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let mut podman = match words.as_slice() {
                ["podman", "run", more @ ..] => podman.run(more),
                ["podman", more @ ..] => podman.command(more),
                _ => panic!("{command} is no command of podman"),
            };
            let said = Outcome::of(podman.current_dir(dir.at(folder)));
            assert_eq!(said.code, 0, "{command}: {}", said.all());
        }
        let said = podman.say(&["image", "inspect", "--format", "{{json .Config}}", &name]);
        assert_eq!(said.code, 0, "{recipe}: {}", said.all());
        let config: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        made.push(["User", "Env", "Entrypoint", "Cmd", "Volumes"].map(|key| config[key].clone()));
    }
    assert_eq!(made[0], made[1], "both ways make one image");
}

#[test]
fn pages_and_files_to_deploy_name_this_version() {
    let mut texts = stage::pages::all();
    for file in ["deploy/Containerfile", "deploy/kubernetes/edge.yaml", "deploy/kubernetes/gate.yaml"] {
        texts.push((file.to_string(), stage::pages::file(file)));
    }
    for (path, text) in texts {
        for begin in ["portcullis:", "portcullis-", "VERSION="] {
            for (at, _) in text.match_indices(begin) {
                let version: String =
                    text[at + begin.len()..].chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
                let version = version.trim_end_matches('.');
                let ours = version.split('.').count() < 3 || version == env!("CARGO_PKG_VERSION");
                assert!(ours, "{path} names {begin}{version}");
            }
        }
    }
}
