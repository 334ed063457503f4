//! House checks that need no build: which crate uses which, what every file opens with, words that do not belong here.
//! In: the files git knows. Out: one line for each breach.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Which crates a crate may use. Development dependencies are free among `stage` and `sim`.
const ARROWS: [(&str, &[&str]); 19] = [
    ("addr", &[]),
    ("api", &["addr"]),
    ("access", &["addr"]),
    ("tailnet-proto", &["addr"]),
    ("policy", &["tailnet-proto", "addr"]),
    ("tailnet", &["policy", "tailnet-proto", "addr"]),
    ("tunnel-proto", &["access", "addr"]),
    ("net", &["addr"]),
    ("store", &[]),
    ("runtime", &["api", "access", "net", "store", "addr"]),
    ("fileserver", &["runtime", "access", "net", "addr"]),
    ("tunnel", &["tunnel-proto", "runtime", "api", "access", "net", "addr"]),
    ("gate", &["runtime", "api", "access", "net", "store", "addr"]),
    ("control", &["tailnet", "policy", "tailnet-proto", "runtime", "api", "access", "net", "store", "addr"]),
    ("demo", &["tunnel", "gate", "fileserver", "runtime", "tunnel-proto", "access", "net", "addr"]),
    ("portcullis", &PRODUCT),
    ("sim", &["tunnel-proto", "tailnet", "policy", "tailnet-proto", "access", "addr"]),
    ("stage", &[]),
    ("xtask", &["stage", "sim", "policy", "tailnet-proto", "addr"]),
];

/// Everything that the binary is made of.
const PRODUCT: [&str; 15] = [
    "demo",
    "tunnel",
    "gate",
    "control",
    "fileserver",
    "runtime",
    "api",
    "tunnel-proto",
    "tailnet",
    "policy",
    "tailnet-proto",
    "access",
    "net",
    "store",
    "addr",
];

/// Crates that must not do IO, tell the time or depend on a runtime.
const PURE: [&str; 7] = ["addr", "api", "access", "policy", "tailnet-proto", "tailnet", "tunnel-proto"];

/// What a pure crate must not name.
const IMPURE: [&str; 7] =
    ["tokio::", "std::fs", "std::net::Tcp", "std::net::Udp", "Instant::now", "SystemTime::now", "std::env::"];

/// Runs every check.
///
/// # Errors
/// Each breach with its place.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        bail!("unknown argument `{other}`; usage: cargo xtask check");
    }
    let root = root();
    let files = tracked(&root)?;
    let mut breaches = arrows(&root)?;
    for file in &files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        if file.extension().is_some_and(|e| e == "rs") {
            header(file, &text, &mut breaches);
            purity(file, &text, &mut breaches);
        }
        words(file, &text, &mut breaches);
    }
    if breaches.is_empty() {
        println!("check: {} files, arrows and words are in order", files.len());
        return Ok(());
    }
    for b in &breaches {
        println!("{b}");
    }
    bail!("{} house rules are broken", breaches.len())
}

/// The workspace's directory.
pub(crate) fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().and_then(Path::parent).unwrap_or(own).to_path_buf()
}

fn tracked(root: &Path) -> Result<Vec<PathBuf>> {
    let out =
        Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root).output();
    let out = out.context("cannot run git")?;
    Ok(String::from_utf8_lossy(&out.stdout).lines().map(PathBuf::from).collect())
}

fn arrows(root: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    let out = command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root).output()?;
    let metadata: serde_json::Value = serde_json::from_slice(&out.stdout).context("cannot read `cargo metadata`")?;
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut breaches = vec![];
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(may) = allowed.get(name) else {
            breaches.push(format!(
                "crate `{name}` stands in no arrow: add it to ARCHITECTURE.md and to dev/xtask/src/check.rs"
            ));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev" && ["stage", "sim"].contains(&to);
            if allowed.contains_key(to) && !may.contains(&to) && !for_tests {
                breaches.push(format!("crate `{name}` must not use `{to}` (ARCHITECTURE.md, section 2)"));
            }
        }
    }
    Ok(breaches)
}

fn header(file: &Path, text: &str, breaches: &mut Vec<String>) {
    if !text.trim_start().starts_with("//!") && !text.starts_with("#!") {
        breaches
            .push(format!("{}:1: a file opens with `//!`: what this is, what comes in, what goes out", file.display()));
    }
}

fn purity(file: &Path, text: &str, breaches: &mut Vec<String>) {
    if !PURE.iter().any(|c| file.starts_with(format!("crates/{c}/src"))) {
        return;
    }
    // Tests stand last in a file and may do what they need.
    let code = text.lines().take_while(|l| !l.contains("#[cfg(test)]"));
    for (n, line) in code.enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
        for word in IMPURE.iter().filter(|w| line.contains(**w)) {
            breaches.push(format!(
                "{}:{}: `{word}` in a pure crate: time, files and sockets come in as arguments",
                file.display(),
                n + 1
            ));
        }
    }
}

/// Paths of one machine and hosts of package registries do not belong in the tree.
fn words(file: &Path, text: &str, breaches: &mut Vec<String>) {
    if file.ends_with("Cargo.lock") {
        return;
    }
    // Written in two parts, or this file would name them itself.
    let forbidden = [
        ["/work", "/"],
        ["/root", "/."],
        ["proxy.golang", ".org"],
        ["static.crates", ".io"],
        ["index.crates", ".io"],
        ["pypi", ".org"],
        ["deb.debian", ".org"],
        ["registry.npmjs", ".org"],
    ];
    for word in forbidden.map(|parts| parts.concat()) {
        for (n, _) in text.lines().enumerate().filter(|(_, l)| l.contains(&word)) {
            breaches.push(format!("{}:{}: `{word}` does not belong in the tree", file.display(), n + 1));
        }
    }
}
