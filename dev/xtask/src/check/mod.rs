//! What machines hold us to. In: the files git knows. Out: one line for each breach of a rule of ours (arrows between
//! crates, headers, sizes, words …), and what rustfmt, clippy, rustdoc and cargo-deny say, where a warning is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use source::Source;

use crate::step::{Step, cargo, summary};

mod manifests;
mod prose;
mod sizes;
mod source;

/// Which crates a crate may use. Development dependencies are free among `stage` and `sim`.
const ARROWS: [(&str, &[&str]); 20] = [
    ("addr", &[]),
    ("api", &["addr"]),
    ("access", &["addr"]),
    ("tailnet-proto", &["addr"]),
    ("policy", &["tailnet-proto", "addr"]),
    ("tailnet", &["policy", "tailnet-proto", "api", "addr"]),
    ("tunnel-proto", &["access", "addr"]),
    ("net", &["addr"]),
    ("store", &[]),
    ("runtime", &["api", "access", "net", "store", "addr"]),
    ("fileserver", &["runtime", "access", "net", "addr"]),
    ("tunnel", &["tunnel-proto", "runtime", "api", "access", "net", "addr"]),
    ("gate", &["runtime", "api", "access", "net", "store", "addr"]),
    ("control", &["tailnet", "policy", "tailnet-proto", "runtime", "api", "access", "net", "store", "addr"]),
    ("demo", &["tunnel", "gate", "fileserver", "runtime", "tunnel-proto", "api", "access", "net", "addr"]),
    ("server", &["tunnel", "gate", "control", "tailnet", "runtime", "api", "access", "net", "addr"]),
    ("portcullis", &PRODUCT),
    ("sim", &["stage", "tunnel-proto", "tailnet", "tailnet-proto", "access", "addr"]),
    ("stage", &[]),
    ("xtask", &["stage", "sim", "policy", "tailnet-proto", "addr"]),
];

/// Everything that the binary is made of.
const PRODUCT: [&str; 16] = [
    "server",
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

/// What `cargo xtask check` and `cargo xtask test` run.
pub(crate) const USUAL: [&str; 5] = ["rules", "fmt", "deny", "clippy", "doc"];

/// Runs the checks that are named, or the usual ones.
///
/// # Errors
/// A name is unknown, or something is not in order.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let names: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Some(other) = names.iter().find(|n| !USUAL.contains(n) && **n != "advisories") {
        bail!("there is no check `{other}`; usage: cargo xtask check [{}|advisories]…", USUAL.join("|"));
    }
    summary(&steps(if names.is_empty() { &USUAL } else { &names }, false), &[])
}

/// Runs checks by name. Where everything is required, a tool that is missing is a failure.
pub(crate) fn steps(names: &[&str], required: bool) -> Vec<Step> {
    let required = required || std::env::var(stage::skip::REQUIRE).as_deref() == Ok("1");
    names.iter().flat_map(|name| step(name, required)).collect()
}

fn step(name: &str, required: bool) -> Vec<Step> {
    let run = |name, command: &mut Command| vec![Step::command(name, command.current_dir(root()))];
    match name {
        "rules" => vec![Step::check("rules", rules)],
        "fmt" => run("fmt", &mut cargo(&["fmt", "--all", "--check"])),
        "clippy" => run(
            "clippy",
            &mut cargo(&["clippy", "--quiet", "--keep-going", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        ),
        "doc" => {
            let mut doc =
                cargo(&["doc", "--quiet", "--keep-going", "--workspace", "--no-deps", "--document-private-items"]);
            // Private items are documented too, so that links to them lead somewhere.
            run("doc", doc.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))
        }
        "deny" => deny("deny", &["bans", "licenses", "sources"], required),
        _ => deny("advisories", &["advisories"], required),
    }
}

/// The database of advisories is fetched each time, which not every machine can: that check runs when it is named.
fn deny(name: &'static str, checks: &[&str], required: bool) -> Vec<Step> {
    let Some(program) = stage::peers::find("cargo-deny") else {
        let why = "cargo-deny is not installed (`cargo xtask test --setup` installs it)";
        return vec![Step::skipped(name, why, required)];
    };
    let mut command = Command::new(program);
    vec![Step::command(name, command.args(["--locked", "check"]).args(checks).current_dir(root()))]
}

/// Our own rules.
fn rules() -> Result<()> {
    let root = root();
    let files = tracked(&root)?;
    let (mut breaches, mut sources) = (vec![], vec![]);
    for file in &files {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else { continue };
        words(file, &text, &mut breaches);
        if file.extension().is_some_and(|e| e == "rs") {
            sources.push(Source::new(file.clone(), text));
        }
    }
    source::mark_test_files(&mut sources);
    for source in &sources {
        header(source, &mut breaches);
        purity(source, &mut breaches);
        prose::read(source, &mut breaches);
    }
    let packages = manifests::packages(&root)?;
    manifests::arrows(&packages, &ARROWS, &mut breaches);
    manifests::unused(&root, &packages, &sources, &mut breaches);
    manifests::shown(&root, &packages, &mut breaches);
    sizes::check(&sources, &mut breaches);
    if breaches.is_empty() {
        println!("{} files and {} crates are in order", files.len(), packages.len());
        return Ok(());
    }
    for b in &breaches {
        println!("{b}");
    }
    bail!("{} breaches of our own rules", breaches.len())
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

fn header(source: &Source, breaches: &mut Vec<String>) {
    if !source.text.trim_start().starts_with("//!") && !source.text.starts_with("#!") {
        let file = source.path.display();
        breaches.push(format!("{file}:1: a file opens with `//!`: what this is, what comes in, what goes out"));
    }
}

fn purity(source: &Source, breaches: &mut Vec<String>) {
    if !PURE.iter().any(|c| source.path.starts_with(format!("crates/{c}/src"))) {
        return;
    }
    for word in IMPURE {
        for at in source.places(word) {
            let (file, line) = (source.path.display(), source.line(at));
            breaches
                .push(format!("{file}:{line}: `{word}` in a pure crate: time, files and sockets come in as arguments"));
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
