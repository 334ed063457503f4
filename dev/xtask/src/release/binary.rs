//! The program as a file. In: the sources and a target, or a program that is there. Out: a static program, and a
//! `.tar.gz` of it with its manual page, completions and licences.
//!
//! Rust links against the C library that comes with its target. What is C (cryptography, SQLite, zstd, the allocator) is
//! compiled by `zig cc` for both machines: one compiler of one version from a Python package, with the headers of that C
//! library, where Debian's compilers are two, of the version of the day.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::target::Target;
use super::{Page, Program, git, licences, tool};

/// Shells that completions are made for.
const SHELLS: [&str; 3] = ["bash", "fish", "zsh"];

/// A program that is built already.
///
/// # Errors
/// It is no program for a machine that is released for.
pub(super) fn given(path: &Path) -> Result<Program> {
    let content = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let target = Target::of_elf(&content).with_context(|| format!("{} cannot be released", path.display()))?;
    Ok(Program { target, path: std::fs::canonicalize(path)? })
}

/// Builds it for each target, into `$CARGO_TARGET_DIR` or `target/`.
///
/// # Errors
/// A tool is missing, or the compiler's words.
pub(super) fn build(root: &Path, targets: &[Target], profile: &str, epoch: u64) -> Result<Vec<Program>> {
    let sysroot = PathBuf::from(line(Command::new("rustc").args(["--print", "sysroot"]))?);
    for triple in targets.iter().map(|t| t.triple()) {
        let library = sysroot.join("lib/rustlib").join(triple);
        ensure!(library.is_dir(), "Rust has no library for {triple}; `rustup target add {triple}` brings it");
    }
    let zig = tool("zig")?;
    let version = line(Command::new(zig.get_program()).arg("version"))?;
    let wanted = crate::setup::ZIG;
    ensure!(version == wanted, "zig is {version}, and releases are made with {wanted}: `cargo xtask release --setup`");

    let out = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    std::fs::create_dir_all(&out)?;
    let out = std::fs::canonicalize(out)?;
    let paths = paths(root, &out)?;
    let mut flags: Vec<String> = paths.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}")).collect();
    flags.push("-Clink-self-contained=yes".to_string());
    let c_flags: Vec<String> = paths.iter().map(|(from, to)| format!("-ffile-prefix-map={from}={to}")).collect();

    // Its data about dependencies goes into the program: `cargo audit bin` and scanners of images read it.
    let mut cargo = tool("cargo-auditable")?;
    cargo.args(["auditable", "build", "--locked", "--package", "portcullis", "--profile", profile]);
    for (name, _) in std::env::vars_os() {
        // What a developer's shell wants of compilers is not the release's.
        let name = name.to_string_lossy();
        let theirs = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "CC", "CFLAGS", "AR", "RUSTFLAGS", "RUSTC_"];
        if theirs.iter().any(|begin| name.starts_with(begin)) && name != "CARGO_BUILD_JOBS" {
            cargo.env_remove(name.as_ref());
        }
    }
    cargo
        .env("CARGO_TARGET_DIR", &out)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("SOURCE_DATE_EPOCH", epoch.to_string())
        .env("LC_ALL", "C");
    for target in targets {
        let tools = Tools::lay(&out.join("release-tools"), Path::new(zig.get_program()), *target)?;
        let (small, large) = (target.triple().replace('-', "_"), target.triple().replace('-', "_").to_uppercase());
        cargo.args(["--target", target.triple()]);
        cargo
            .env(format!("CARGO_TARGET_{large}_LINKER"), "rust-lld")
            .env(format!("CC_{small}"), &tools.cc)
            .env(format!("AR_{small}"), &tools.ar)
            .env(format!("CFLAGS_{small}"), c_flags.join(" "));
    }
    if let Ok(commit) = git(root, &["rev-parse", "--short=12", "HEAD"]) {
        cargo.env("PORTCULLIS_SHA", commit);
    }
    println!("release: building (some minutes for each machine)");
    let done = cargo.current_dir(root).stdin(Stdio::null()).status().context("cannot run cargo auditable")?;
    ensure!(done.success(), "the build failed");
    let built = |t: &Target| Program { target: *t, path: out.join(t.triple()).join(profile).join("portcullis") };
    Ok(targets.iter().map(built).collect())
}

/// Folders of this machine, and what they are called in a program: panics and assertions name source files. The last
/// that fits counts, so the inner ones come last. The workspace is not among them: its own files are compiled by their
/// paths within it, and its place in the flags would make cargo build every dependency again elsewhere.
fn paths(root: &Path, out: &Path) -> Result<Vec<(String, &'static str)>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    // Below it lie crates, in a folder named after the registry's address: a mirror has another.
    let fetched = crate::step::cargo(&["fetch", "--locked"]).current_dir(root).status().context("cannot run cargo")?;
    ensure!(fetched.success(), "the dependencies cannot be fetched");
    let mut registries: Vec<PathBuf> =
        std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    registries.sort();
    let text = |p: &Path| p.display().to_string();
    let mut paths = vec![(text(&home), "/cargo"), (text(out), "/target")];
    paths.extend(registries.iter().map(|r| (text(r), "/crates")));
    Ok(paths)
}

/// The C compiler and archiver of a target, as programs that cargo's build scripts can call.
struct Tools {
    cc: PathBuf,
    ar: PathBuf,
}

impl Tools {
    /// Writes them.
    fn lay(dir: &Path, zig: &Path, target: Target) -> Result<Tools> {
        std::fs::create_dir_all(dir)?;
        let tools = Tools { cc: dir.join(format!("cc-{}", target.machine())), ar: dir.join("ar") };
        let head =
            format!("#!/bin/sh\nexport ZIG_GLOBAL_CACHE_DIR='{0}/zig' ZIG_LOCAL_CACHE_DIR='{0}/zig'\n", dir.display());
        // Build scripts name the target in Rust's words, which zig does not know; and it checks for undefined behaviour
        // where a script asks for no optimisation, by functions that nothing here has.
        let cc = format!(
            "{head}n=$#\nwhile [ $n -gt 0 ]; do\n  x=$1; shift; n=$((n - 1))\n  case $x in --target=*) ;; *) set -- \"$@\" \"$x\" ;; esac\n\
             done\nexec '{}' cc -target {}-linux-musl -fno-sanitize=undefined \"$@\"\n",
            zig.display(),
            target.machine()
        );
        for (path, text) in [(&tools.cc, cc), (&tools.ar, format!("{head}exec '{}' ar \"$@\"\n", zig.display()))] {
            // Only if it differs: cargo looks at the date, too.
            if std::fs::read_to_string(path).ok().as_deref() != Some(&text) {
                std::fs::write(path, text)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        Ok(tools)
    }
}

/// What a command prints, in one line.
fn line(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(out.status.success(), "{command:?} ended with {}", out.status);
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// One archive for each program.
///
/// # Errors
/// A file is missing.
pub(super) fn make(page: &Page) -> Result<()> {
    let man = page.say(&["man"])?;
    for program in &page.programs {
        let name = format!("portcullis-{}-linux-{}", page.version, program.target.machine());
        let mut archive = Archive::new(page.epoch);
        archive.file(&format!("{name}/portcullis"), 0o755, std::fs::read(&program.path)?);
        archive.file(&format!("{name}/portcullis.1"), 0o644, man.clone());
        for shell in SHELLS {
            let script = page.say(&["completions", shell])?;
            archive.file(&format!("{name}/completions/portcullis.{shell}"), 0o644, script);
        }
        for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
            archive.file(&format!("{name}/{licence}"), 0o644, std::fs::read(page.root.join(licence))?);
        }
        archive.file(&format!("{name}/THIRD-PARTY.txt"), 0o644, licences::texts(page, program.target)?);
        page.write(&format!("{name}.tar.gz"), archive.tar_gz()?)?;
    }
    Ok(())
}
