//! The packages, installed: in a Debian of their own, by `dpkg` and by `rpm`, without a service manager. What is installed
//! belongs to whom it should, an upgrade keeps what people wrote, and nothing but that is left afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use stage::command::Outcome;
use stage::{Dir, peers};

use super::{built, names, release};

/// A Debian that a test may change.
pub(super) struct Root {
    dir: Dir,
}

impl Root {
    /// `None`, said in one line, where there is none.
    pub(super) fn new(what: &str) -> Option<Root> {
        let pristine = peers::cache().join("debian-12-root");
        if !pristine.is_dir() || fs::metadata(&pristine).map_or(true, |m| m.uid() != 0) {
            stage::skip::skip("there is no Debian to install into (`cargo xtask release --setup`, as root)");
            return None;
        }
        let dir = Dir::new(what);
        let out = Outcome::of(Command::new("cp").arg("-a").arg(&pristine).arg(dir.at("root")));
        assert_eq!(out.code, 0, "{}", out.all());
        Some(Root { dir })
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.dir.at("root").join(path)
    }

    /// The folder beside it.
    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(super) fn run(&self, args: &[&str]) -> Outcome {
        let mut c = Command::new("chroot");
        c.arg(self.at(""))
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .env("SYSTEMD_OFFLINE", "1");
        Outcome::of(&mut c)
    }

    #[track_caller]
    pub(super) fn must(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert_eq!(out.code, 0, "{args:?}: {}", out.all());
        out.all()
    }

    /// Copies a package into it, and says where.
    pub(super) fn take(&self, package: &Path) -> String {
        let name = package.file_name().unwrap().to_str().unwrap();
        fs::copy(package, self.at("root").join(name)).unwrap();
        format!("/root/{name}")
    }

    /// Every file, folder and link that is there.
    fn files(&self) -> BTreeSet<String> {
        let root = self.at("");
        let mut out = BTreeSet::new();
        let mut todo = vec![root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path();
                out.insert(format!("/{}", path.strip_prefix(&root).unwrap().display()));
                if entry.file_type().unwrap().is_dir() {
                    todo.push(path);
                }
            }
        }
        out
    }

    /// What is there beside what was, and is not a package manager's own.
    fn left(&self, before: &BTreeSet<String>) -> Vec<String> {
        let own = |p: &String| {
            ["/var/lib/dpkg", "/var/lib/rpm", "/root", "/var/log", "/var/cache", "/etc/.pwd.lock"]
                .iter()
                .any(|o| p.starts_with(o))
                // The user's line is in these, and the files before it.
                || ["/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"].contains(&p.as_str())
        };
        self.files().difference(before).filter(|p| !own(p)).cloned().collect()
    }

    /// `root:portcullis 640`
    fn owner(&self, path: &str) -> String {
        self.must(&["stat", "-c", "%U:%G %a", path]).trim().to_string()
    }
}

/// The packages of two pages: `0.0.8` and `0.0.9`.
pub(super) fn made(only: &str, dir: &Dir) -> Option<[PathBuf; 2]> {
    let program = built()?;
    Some(["0.0.8", "0.0.9"].map(|version| {
        let at = dir.at(version);
        pack(&program, only, version, &at);
        at.join(&names(&at)[0])
    }))
}

/// Packages of this version, hardly compressed.
fn pack(program: &Path, only: &str, version: &str, to: &Path) {
    let mut c = Command::new(env!("CARGO_BIN_EXE_xtask"));
    c.args(["release", "--only", only, "--bin"]).arg(program).arg("--out").arg(to);
    let out = Outcome::of(c.env("SOURCE_DATE_EPOCH", "1700000000").env("PORTCULLIS_PACKAGE_VERSION", version));
    assert_eq!(out.code, 0, "{}", out.all());
}

/// Whether it can be installed where no C library is.
fn is_static(program: &Path) -> bool {
    Outcome::of(Command::new("ldd").arg(program)).code != 0
}

#[test]
fn lintian_and_rpmlint_find_no_error() {
    let (Some(program), Some(_), Some(_)) = (built(), peers::need("lintian"), peers::need("rpmlint")) else { return };
    let dir = Dir::new("release-lint");
    pack(&program, "deb,rpm", "0.0.9", &dir.at("page"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for name in names(&dir.at("page")) {
        let package = dir.at("page").join(&name);
        let out = match name.ends_with(".deb") {
            true => Outcome::of(Command::new("lintian").arg("--no-cfg").arg(&package)),
            false => {
                let mut c = Command::new("rpmlint");
                Outcome::of(c.arg("-r").arg(root.join("deploy/rpm/rpmlintrc")).arg(&package))
            }
        };
        // Those of this test are linked against a C library; released programs are not.
        let ours = is_static(&program);
        let known = |l: &str| !ours && (l.contains("missing-dependency-on-libc") || l.contains("unused-"));
        let errors: Vec<&str> = out.out.lines().filter(|l| l.starts_with("E: ") || l.contains(": E: ")).collect();
        let errors: Vec<&&str> = errors.iter().filter(|l| !known(l)).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}\n{}", out.all());
    }
}

#[test]
fn two_packages_of_one_program_are_equal() {
    let Some(program) = built() else { return };
    let dir = Dir::new("release-packages-twice");
    for at in ["a", "b"] {
        pack(&program, "deb,rpm", "0.0.9", &dir.at(at));
    }
    for name in names(&dir.at("a")) {
        let of = |page: &str| fs::read(dir.at(page).join(&name)).unwrap();
        if of("a") != of("b") {
            let whole =
                |page: &str| Outcome::of(Command::new("rpm").args(["-qp", "--xml"]).arg(dir.at(page).join(&name))).out;
            let (a, b) = (whole("a"), whole("b"));
            let other: Vec<_> = a.lines().zip(b.lines()).filter(|(a, b)| a != b).take(10).collect();
            panic!("{name} differs between two runs: {other:#?}");
        }
    }
    let said = release(&["--help"]);
    assert!(said.out.contains("deb") && said.out.contains("rpm"), "{}", said.all());
}

/// Installs the one before, looks, upgrades, removes. Returns what was there before.
fn lives(r: &Root, packages: &[PathBuf; 2], install: &[&str], remove: &[&str]) -> BTreeSet<String> {
    let before = r.files();
    let with = |package: &Path| {
        let path = r.take(package);
        r.must(&[install, &[path.as_str()]].concat())
    };
    with(&packages[0]);
    for (path, owner) in [
        ("/usr/bin/portcullis", "root:root 755"),
        ("/etc/portcullis", "root:portcullis 750"),
        ("/etc/portcullis/portcullis.toml", "root:portcullis 640"),
        ("/etc/portcullis/clients", "root:root 700"),
        ("/usr/lib/systemd/system/portcullis.service", "root:root 644"),
    ] {
        assert_eq!(r.owner(path), owner, "{path}");
    }
    // Nothing is started or enabled before somebody says what it is to do.
    let enabled = r.left(&before).into_iter().filter(|p| p.contains(".wants/")).collect::<Vec<_>>();
    assert!(enabled.is_empty(), "{enabled:?}");
    assert!(r.must(&["portcullis", "--version"]).starts_with("portcullis "));
    assert!(r.must(&["getent", "passwd", "portcullis"]).trim().ends_with(":/var/lib/portcullis:/usr/sbin/nologin"));
    // What people write, and what it writes.
    let settings = r.at("etc/portcullis/portcullis.toml");
    let mine = format!("# mine\n{}", fs::read_to_string(&settings).unwrap());
    fs::write(&settings, &mine).unwrap();
    r.must(&["install", "-d", "-o", "portcullis", "-g", "portcullis", "-m", "700", "/var/lib/portcullis"]);
    fs::write(r.at("var/lib/portcullis/gate.db"), "grants").unwrap();
    with(&packages[1]);
    assert_eq!(fs::read_to_string(&settings).unwrap(), mine);
    assert_eq!(r.owner("/etc/portcullis/portcullis.toml"), "root:portcullis 640");
    assert_eq!(fs::read_to_string(r.at("var/lib/portcullis/gate.db")).unwrap(), "grants");
    r.must(remove);
    before
}

#[test]
fn the_debian_package_comes_and_goes() {
    let Some(r) = Root::new("release-deb") else { return };
    let Some(packages) = made("deb", r.dir()) else { return };
    let before = lives(&r, &packages, &["dpkg", "--install"], &["dpkg", "--remove", "portcullis"]);
    let data =
        ["/etc/portcullis", "/etc/portcullis/portcullis.toml", "/var/lib/portcullis", "/var/lib/portcullis/gate.db"];
    let mut left = r.left(&before);
    left.retain(|p| p != "/etc/portcullis/clients");
    assert_eq!(left, data, "what is left after a removal");
    // What a person puts beside it goes with it.
    fs::write(r.at("etc/portcullis/token"), "secret").unwrap();
    fs::set_permissions(r.at("etc/portcullis/token"), fs::Permissions::from_mode(0o600)).unwrap();
    r.must(&["dpkg", "--purge", "portcullis"]);
    assert!(r.left(&before).is_empty(), "what is left after a purge: {:?}", r.left(&before));
    // And again, as if for the first time.
    let path = r.take(&packages[1]);
    r.must(&["dpkg", "--install", &path]);
    assert_eq!(r.owner("/etc/portcullis/portcullis.toml"), "root:portcullis 640");
}

#[test]
fn the_rpm_package_comes_and_goes() {
    let Some(_) = peers::need("rpm") else { return };
    let Some(r) = Root::new("release-rpm") else { return };
    let Some(packages) = made("rpm", r.dir()) else { return };
    // Its files and scripts are the root's; what it is installed by is this machine's `rpm`, since a Debian has none.
    let root = r.at("");
    let rpm = |args: &[&str]| {
        let out = Outcome::of(Command::new("rpm").arg("--root").arg(&root).args(args).env("LC_ALL", "C"));
        assert!(out.code == 0 && !out.err.contains("scriptlet failed"), "{args:?}: {}", out.all());
        out.all()
    };
    rpm(&["--initdb"]);
    let before = r.files();
    let install = |package: &Path| rpm(&["--nodeps", "-U", package.to_str().unwrap()]);
    install(&packages[0]);
    for (path, owner) in [
        ("/usr/bin/portcullis", "root:root 755"),
        ("/etc/portcullis", "root:portcullis 750"),
        ("/etc/portcullis/portcullis.toml", "root:portcullis 640"),
        ("/var/lib/portcullis", "portcullis:portcullis 700"),
    ] {
        // The last one is made by systemd-tmpfiles, which needs /proc.
        if r.at(&path[1..]).exists() {
            assert_eq!(r.owner(path), owner, "{path}");
        }
    }
    let enabled = r.left(&before).into_iter().filter(|p| p.contains(".wants/")).collect::<Vec<_>>();
    assert!(enabled.is_empty(), "{enabled:?}");
    fs::write(r.at("etc/portcullis/portcullis.toml"), "# mine\n").unwrap();
    r.must(&["install", "-d", "-o", "portcullis", "-g", "portcullis", "-m", "700", "/var/lib/portcullis"]);
    fs::write(r.at("var/lib/portcullis/gate.db"), "grants").unwrap();
    install(&packages[1]);
    assert!(rpm(&["-q", "portcullis"]).contains("0.0.9"));
    assert_eq!(fs::read_to_string(r.at("etc/portcullis/portcullis.toml")).unwrap(), "# mine\n");
    // All is as it was packed, but what a person changed.
    let mut verify = Command::new("rpm");
    let out = Outcome::of(verify.arg("--root").arg(&root).args(["--verify", "--nodeps", "portcullis"]));
    assert!(out.out.lines().all(|l| l.contains(" c /etc/portcullis/portcullis.toml")), "{}", out.all());
    rpm(&["-e", "portcullis"]);
    assert_eq!(
        r.left(&before),
        [
            "/etc/portcullis",
            "/etc/portcullis/portcullis.toml.rpmsave",
            "/var/lib/portcullis",
            "/var/lib/portcullis/gate.db"
        ],
        "what is left"
    );
}
