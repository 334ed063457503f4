//! The container image as skopeo reads it. In: the archive of a page. Out: both machines, and the configuration that was
//! meant.

use std::path::Path;
use std::process::Command;

use stage::command::Outcome;
use stage::{Dir, peers};

use super::{built, page, release};

/// The archive of a page that holds one program.
fn archive(dir: &Dir, program: &Path) -> String {
    page(program, "image", &dir.at("page"));
    dir.at(format!("page/portcullis-{}-image.tar", env!("CARGO_PKG_VERSION"))).display().to_string()
}

fn skopeo(program: &Path, args: &[&str]) -> serde_json::Value {
    let said = Outcome::of(Command::new(program).args(args));
    assert_eq!(said.code, 0, "{args:?}: {}", said.all());
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn skopeo_reads_what_was_meant() {
    let (Some(program), Some(reader)) = (built(), peers::need("skopeo")) else { return };
    let dir = Dir::new("image-read");
    let file = archive(&dir, &program);
    for transport in ["oci-archive", "docker-archive"] {
        let place = format!("{transport}:{file}");
        let config = skopeo(&reader, &["inspect", "--config", &place]);
        let wanted = serde_json::json!({
            "User": "65532:65532",
            "Env": ["PATH=/usr/bin", "PORTCULLIS_DATA_DIR=/var/lib/portcullis"],
            "Entrypoint": ["/usr/bin/portcullis"],
            "Cmd": ["--help"],
            "Volumes": { "/var/lib/portcullis": {} },
            "WorkingDir": "/",
            "Labels": config["config"]["Labels"],
        });
        assert_eq!(config["config"], wanted);
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        let labels = &config["config"]["Labels"];
        assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(labels["org.opencontainers.image.licenses"], "MIT OR Apache-2.0");
        let seen = skopeo(&reader, &["inspect", &place]);
        assert_eq!(seen["Layers"].as_array().map(Vec::len), Some(1));
    }
}

#[test]
fn the_archive_holds_both_machines() {
    let (Some(program), Some(reader)) = (built(), peers::need("skopeo")) else { return };
    let dir = Dir::new("image-both");
    // A program for the other machine as far as anybody looks who does not run it: its head says so.
    let mut other = std::fs::read(&program).unwrap();
    other[18] = if other[18] == 62 { 183 } else { 62 };
    let other = dir.write("other", other);
    let page = dir.at("page");
    let said = release(&[
        "--bin",
        program.to_str().unwrap(),
        "--bin",
        other.to_str().unwrap(),
        "--only",
        "image",
        "--out",
        page.to_str().unwrap(),
    ]);
    assert_eq!(said.code, 0, "{}", said.all());
    let file = page.join(format!("portcullis-{}-image.tar", env!("CARGO_PKG_VERSION")));
    let mut digests = Vec::new();
    for arch in ["amd64", "arm64"] {
        let place = format!("oci-archive:{}", file.display());
        let seen = skopeo(&reader, &["--override-arch", arch, "inspect", &place]);
        assert_eq!(seen["Architecture"], arch);
        digests.push(seen["Layers"][0].clone());
    }
    assert_ne!(digests[0], digests[1], "both machines have one program");
}
