//! Containers without a daemon, by `crun`. In: a program, and what an image, a pod or a compose file says of it. Out: a
//! process in mounts of its own that sees only that, on a host of the stage.
//!
//! The root is that of the image: one file, a CA bundle, a data directory. crun 1.8 refuses the hybrid control groups of
//! some machines; it is shown an empty folder and asked to make no group.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stage::Dir;
use stage::command::Outcome;
use stage::netns::Host;
use stage::process::Process;

/// The user of the image, and its group.
pub(crate) const USER: u32 = 65532;

/// Hides the machine's control groups from crun; mounts are those of this shell alone.
const RUN: &str = "umount /sys/fs/cgroup/* 2>/dev/null; mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"";

/// The CA bundle of the image, and of most machines.
const ROOTS: &str = "etc/ssl/certs/ca-certificates.crt";

/// What a program that is linked to libraries needs of the machine; the released one is static and needs none of it.
const LIBRARIES: [&str; 3] = ["/lib", "/lib64", "/usr/lib"];

/// A folder or file of the machine in a container.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) read_only: bool,
}

/// What runs, and how.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    pub(crate) program: PathBuf,
    /// The program is `/usr/bin/NAME` inside.
    pub(crate) name: &'static str,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) user: (u32, u32),
    pub(crate) folder: String,
    pub(crate) read_only: bool,
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privileges: bool,
    /// Empty files that an engine leaves in the root, as `.dockerenv`.
    pub(crate) marks: Vec<String>,
}

impl Spec {
    /// The project's image, without arguments.
    pub(crate) fn image(program: &Path) -> Spec {
        Spec {
            program: program.to_path_buf(),
            name: "portcullis",
            args: Vec::new(),
            env: [("PATH", "/usr/bin"), ("PORTCULLIS_DATA_DIR", "/var/lib/portcullis")]
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .to_vec(),
            mounts: Vec::new(),
            user: (USER, USER),
            folder: "/".to_string(),
            read_only: false,
            capabilities: Vec::new(),
            no_new_privileges: false,
            marks: Vec::new(),
        }
    }

    /// A folder or file of the machine at a place inside.
    pub(crate) fn mount(&mut self, source: impl Into<PathBuf>, target: &str, read_only: bool) {
        self.mounts.push(Mount { source: source.into(), target: target.to_string(), read_only });
    }

    /// The bundle's description (<https://github.com/opencontainers/runtime-spec>).
    fn config(&self, etc: &Path) -> Value {
        let bind = |source: &Path, target: &str, read_only: bool| {
            let how = if read_only { "ro" } else { "rw" };
            json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", how]})
        };
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]}),
            bind(&self.program, &format!("/usr/bin/{}", self.name), true),
            bind(&etc.join("hosts"), "/etc/hosts", true),
            bind(&etc.join("resolv.conf"), "/etc/resolv.conf", true),
        ];
        mounts
            .extend(LIBRARIES.iter().map(Path::new).filter(|p| p.exists()).map(|p| bind(p, p.to_str().unwrap(), true)));
        mounts.extend(self.mounts.iter().map(|m| bind(&m.source, &m.target, m.read_only)));
        let env: Vec<String> = self.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let args: Vec<String> = [vec![self.name.to_string()], self.args.clone()].concat();
        let may = &self.capabilities;
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": self.user.0, "gid": self.user.1},
                "args": args, "env": env, "cwd": self.folder, "noNewPrivileges": self.no_new_privileges,
                "capabilities": {"bounding": may, "effective": may, "permitted": may, "inheritable": [], "ambient": []},
            },
            "root": {"path": "root", "readonly": self.read_only},
            "mounts": mounts,
            "linux": {"namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]},
        })
    }
}

/// A running container; it ends with its owner.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) process: Process,
    pub(crate) spec: Spec,
    host: Host,
    bundle: Dir,
}

impl Container {
    /// Starts it on a host, whose names and addresses it shares.
    #[track_caller]
    pub(crate) fn start(host: &Host, spec: Spec) -> Container {
        let bundle = Dir::new("bundle");
        let root = bundle.at("root");
        for folder in ["proc", "dev", "etc/ssl/certs", "usr/bin", "tmp", "run", "var/lib/portcullis", "app"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        // Of the image: the data directory is its user's.
        chown(root.join("var/lib/portcullis"), Some(USER), Some(USER)).unwrap();
        std::fs::set_permissions(root.join("var/lib/portcullis"), PermissionsExt::from_mode(0o700)).unwrap();
        // Where something is mounted there is a place for it, as container engines make one.
        for mount in &spec.mounts {
            let place = root.join(mount.target.trim_start_matches('/'));
            if mount.source.is_dir() {
                std::fs::create_dir_all(place).unwrap();
            } else {
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                std::fs::write(place, "").unwrap();
            }
        }
        let marks = spec.marks.iter().map(String::as_str);
        for place in ["etc/hosts", "etc/resolv.conf"].into_iter().chain(marks) {
            std::fs::write(root.join(place), "").unwrap();
        }
        std::fs::write(root.join(ROOTS), std::fs::read(Path::new("/").join(ROOTS)).unwrap_or_default()).unwrap();
        std::fs::write(root.join("usr/bin").join(spec.name), "").unwrap();
        for library in LIBRARIES {
            std::fs::create_dir_all(root.join(library.trim_start_matches('/'))).unwrap();
        }
        bundle.write("config.json", spec.config(&host.dir().join("etc")).to_string());
        let mut command = crun(host, &bundle, &["run", "--bundle"]);
        command.arg(bundle.path()).arg("it");
        let process = Process::start(spec.name, command);
        Container { process, spec, host: host.clone(), bundle }
    }

    /// `docker exec NAME portcullis ARGS…`.
    pub(crate) fn exec(&self, args: &[&str]) -> Outcome {
        // As engines do: the container's own user and variables.
        let mut command = crun(&self.host, &self.bundle, &["exec", "--user"]);
        command.arg(format!("{}:{}", self.spec.user.0, self.spec.user.1));
        for (name, value) in &self.spec.env {
            command.arg("--env").arg(format!("{name}={value}"));
        }
        command.arg("it");
        Outcome::of(command.arg(self.spec.name).args(args))
    }

    /// Asks it to end, waits, and starts another one with the same mounts, as an engine does.
    #[track_caller]
    pub(crate) fn again(self) -> Container {
        let (host, spec) = (self.host.clone(), self.spec.clone());
        self.stop();
        Container::start(&host, spec)
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        let status = self.process.stop();
        assert!(status.success(), "{} ended with {status}:\n{}", self.spec.name, self.process.output());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.process.terminate();
        let _ = self.process.wait(std::time::Duration::from_secs(3));
        // It is no child of crun's group, and would outlive it.
        let _ = crun(&self.host, &self.bundle, &["delete", "--force", "it"]).output();
    }
}

fn crun(host: &Host, bundle: &Dir, args: &[&str]) -> Command {
    let mut command = host.command("unshare");
    command.args(["--mount", "sh", "-c", RUN, "sh", "crun", "--cgroup-manager=disabled", "--root"]);
    command.arg(bundle.at("state")).args(args);
    command
}

/// Whether containers run here; otherwise the test is skipped in one line.
pub(crate) fn possible(host: &Host) -> bool {
    if stage::peers::need("crun").is_none() {
        return false;
    }
    let mut spec = Spec::image(Path::new("/bin/true"));
    spec.read_only = true;
    let mut it = Container::start(host, spec);
    let ended = it.process.wait(stage::START);
    let fine = ended.as_ref().is_ok_and(std::process::ExitStatus::success);
    if !fine {
        stage::skip::skip(&format!("crun runs no container here: {}", it.process.output()));
    }
    fine
}
