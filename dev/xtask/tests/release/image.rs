//! The container image: read by skopeo, and run by podman with a root that cannot be written and no capability. In: the
//! archive of a page. Out: the demo in a container, and an edge that keeps its state in a volume and drains.
//!
//! Podman is told to leave control groups alone, because not every machine of a test lets it make one; and runs in a
//! mount namespace of its own, in which the groups are of version 2, the only one that crun knows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use stage::command::Outcome;
use stage::process::Process;
use stage::{Dir, peers};

use super::{built, page, release};

/// Podman with a store of its own.
pub(crate) struct Podman {
    program: PathBuf,
    dir: Dir,
}

impl Podman {
    pub(crate) fn new() -> Option<Podman> {
        let program = peers::need("podman")?;
        peers::need("crun")?;
        if !rustix::process::geteuid().is_root() {
            stage::skip::skip("root is needed for containers");
            return None;
        }
        Some(Podman { program, dir: Dir::new("podman") })
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c"]);
        command.arg(
            "[ -f /sys/fs/cgroup/cgroup.controllers ] || \
             { umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; } && exec \"$@\"",
        );
        command.arg("sh").arg(&self.program);
        // Neither a journal nor a daemon is there to talk to.
        command.arg("--root").arg(self.dir.at("store")).arg("--runroot").arg(self.dir.at("run"));
        command.args(["--tmpdir"]).arg(self.dir.at("tmp")).args(["--events-backend=none", "--cgroup-manager=cgroupfs"]);
        command.args(args).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub(crate) fn say(&self, args: &[&str]) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// `podman run` as careful as can be.
    pub(crate) fn run(&self, more: &[&str]) -> Command {
        let careful = ["run", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host"];
        // The engine's own limits are above what a test machine may set.
        let here = ["--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"];
        // The program of the workspace's tests is linked to libraries of this machine; the released one needs none.
        let libraries = ["/lib", "/lib64", "/usr/lib"].into_iter().filter(|l| Path::new(l).exists());
        let libraries: Vec<String> = libraries.map(|l| format!("--volume={l}:{l}:ro")).collect();
        let libraries: Vec<&str> = libraries.iter().map(String::as_str).collect();
        self.command(&[&careful[..], &here[..], &libraries[..], more].concat())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "--all", "--force", "--time=1"]).output();
        let _ = self.command(&["rmi", "--all", "--force"]).output();
    }
}

/// The archive of a page that holds one program.
fn archive(dir: &Dir, program: &Path) -> String {
    page(program, "image", &dir.at("page"));
    dir.at(format!("page/portcullis-{}-image.tar", env!("CARGO_PKG_VERSION"))).display().to_string()
}

fn name() -> String {
    format!("portcullis:{}", env!("CARGO_PKG_VERSION"))
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

#[test]
fn a_container_without_rights_runs_the_demo_and_an_edge() {
    let Some(podman) = Podman::new() else { return };
    let Some(program) = built() else { return };
    let dir = Dir::new("image-run");
    let loaded = podman.say(&["load", "--quiet", "--input", &archive(&dir, &program)]);
    assert_eq!(loaded.code, 0, "{}", loaded.all());

    let version = Outcome::of(&mut podman.run(&["--rm", &name(), "--version"]));
    assert_eq!(version.all(), format!("portcullis {}\n", env!("CARGO_PKG_VERSION")));

    // Real requests through a tunnel and a gate, in one process that may nothing.
    let demo = Outcome::of(&mut podman.run(&["--rm", &name(), "demo", "--once"]));
    assert_eq!(demo.code, 0, "{}", demo.all());

    // An edge: its CA is made once, for its control port, and kept in the volume.
    let control = stage::ports::free().to_string();
    let fingerprints = [edge_once(&podman, &control), edge_once(&podman, &control)];
    assert_eq!(fingerprints[0], fingerprints[1], "the edge of the second container has another CA");

    // Nothing else can be written.
    let bad = Outcome::of(&mut podman.run(&["--rm", &name(), "gatekeeper", "--data-dir", "/elsewhere"]));
    assert!(bad.code == 1 && bad.err.contains("/elsewhere"), "{}", bad.all());
}

/// Runs an edge in a container until it answers, stops it as an engine does, and returns its fingerprint.
fn edge_once(podman: &Podman, control: &str) -> String {
    let data = stage::ports::free().to_string();
    let mut run = podman.run(&["--name=edge", "--volume=state:/var/lib/portcullis"]);
    run.args(["--env=PORTCULLIS_TOKEN=only-for-tests-and-nobody-guesses-it-in-time", &name(), "http", "server"]);
    run.args(["--auto-tls-san=127.0.0.1", "--allow-ips-data=127.0.0.0/8", "--control-port", control, "--port", &data]);
    let mut edge = Process::start("an edge in a container", run);
    let fingerprint = edge.line(stage::START, |line| {
        let word: String = line[line.find("sha256:")?..].chars().take(7 + 64).collect();
        (word.len() == 71).then_some(word)
    });
    let fingerprint = fingerprint.unwrap_or_else(|said| panic!("no fingerprint: {said}"));
    stage::wait("the edge answers its own command", || podman.say(&["exec", "edge", "portcullis", "lists"]).code == 0);
    let judged = podman.say(&["exec", "edge", "portcullis", "explain", "192.0.2.7"]);
    assert_eq!(judged.code, 3, "{}", judged.all());
    let stopped = podman.say(&["stop", "--time=20", "edge"]);
    assert_eq!(stopped.code, 0, "{}", stopped.all());
    let ended = edge.wait(stage::START).unwrap();
    assert_eq!(ended.code(), Some(0), "SIGTERM ends it well: {}", edge.output());
    let _ = podman.say(&["rm", "--force", "edge"]);
    fingerprint
}
