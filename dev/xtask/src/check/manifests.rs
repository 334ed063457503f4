//! What crates depend on. In: `cargo metadata` and the sources. Out: arrows between crates that must not be,
//! dependencies that no source names, and crates that ARCHITECTURE.md does not show.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::source::{Kind, Source};

/// Packages whose library has another name.
const LIBRARIES: [(&str, &str); 1] = [("rustls-webpki", "webpki")];

/// A crate of the workspace.
pub(super) struct Package {
    name: String,
    /// From the workspace's directory.
    dir: PathBuf,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    /// The package.
    package: String,
    /// What sources call it.
    name: String,
    for_tests: bool,
}

/// Every crate of the workspace.
///
/// # Errors
/// Cargo cannot read a manifest.
pub(super) fn packages(root: &Path) -> Result<Vec<Package>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    let out = command.args(["metadata", "--format-version=1", "--no-deps", "--offline"]).current_dir(root).output()?;
    let metadata: Value = serde_json::from_slice(&out.stdout).context("cannot read `cargo metadata`")?;
    Ok(each(&metadata["packages"]).map(|p| package(p, root)).collect())
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn package(p: &Value, root: &Path) -> Package {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let manifest = PathBuf::from(word(&p["manifest_path"]));
    let dir = manifest.parent().unwrap_or(root);
    let dependencies = each(&p["dependencies"]).map(|d| {
        let package = word(&d["name"]);
        let library = LIBRARIES.iter().find(|(p, _)| *p == package).map_or(package.as_str(), |(_, l)| l);
        let name = d["rename"].as_str().unwrap_or(library).replace('-', "_");
        Dependency { package, name, for_tests: d["kind"] == "dev" }
    });
    Package {
        name: word(&p["name"]),
        dir: dir.strip_prefix(root).unwrap_or(dir).to_path_buf(),
        dependencies: dependencies.collect(),
    }
}

/// Which crate uses which.
pub(super) fn arrows(packages: &[Package], allowed: &[(&str, &[&str])], breaches: &mut Vec<String>) {
    let allowed: BTreeMap<&str, &[&str]> = allowed.iter().copied().collect();
    for package in packages {
        let name = package.name.as_str();
        let Some(may) = allowed.get(name) else {
            breaches.push(format!(
                "crate `{name}` has no arrow: add it to ARCHITECTURE.md and to dev/xtask/src/check/mod.rs"
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.package.as_str();
            let for_tests = dependency.for_tests && ["stage", "sim"].contains(&to);
            if allowed.contains_key(to) && !may.contains(&to) && !for_tests {
                breaches.push(format!("crate `{name}` must not use `{to}` (ARCHITECTURE.md, section 2)"));
            }
        }
    }
}

/// Dependencies that no source of their crate names, those for tests among the sources of tests too; and what the
/// workspace offers and no crate takes.
pub(super) fn unused(root: &Path, packages: &[Package], sources: &[Source], breaches: &mut Vec<String>) {
    for package in packages {
        let own: Vec<&Source> = sources.iter().filter(|s| s.path.starts_with(&package.dir)).collect();
        for dependency in &package.dependencies {
            if own.iter().any(|s| names(s, &dependency.name, dependency.for_tests)) {
                continue;
            }
            let (file, to) = (package.dir.join("Cargo.toml"), &dependency.package);
            breaches.push(format!("{}: no source names the dependency `{to}`", file.display()));
        }
    }
    let taken: BTreeSet<&str> = packages.iter().flat_map(|p| &p.dependencies).map(|d| d.package.as_str()).collect();
    for (line, name) in offered(&std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default()) {
        if !taken.contains(name.as_str()) {
            breaches.push(format!("Cargo.toml:{line}: no crate takes the dependency `{name}`"));
        }
    }
}

/// The names under `[workspace.dependencies]` and their lines.
fn offered(manifest: &str) -> Vec<(usize, String)> {
    let lines = manifest.lines().enumerate().skip_while(|(_, l)| *l != "[workspace.dependencies]").skip(1);
    let lines = lines.take_while(|(_, l)| !l.starts_with('['));
    let entries = lines.filter(|(_, l)| !l.starts_with('#')).filter_map(|(n, l)| Some((n + 1, l.split_once('=')?.0)));
    entries.map(|(n, name)| (n, name.trim().to_string())).collect()
}

/// Whether a source names a crate: `name::…`, `use name…`, `name as …`.
fn names(source: &Source, name: &str, in_tests: bool) -> bool {
    source.text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&source.text[..at], &source.text[at + name.len()..]);
        let alone = !before.ends_with(|c: char| c.is_alphanumeric() || c == '_')
            && !after.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        // A module of some other path has a name before its colons; a crate may have bare ones.
        let below =
            before.strip_suffix("::").is_some_and(|b| b.ends_with(|c: char| c.is_alphanumeric() || "_>".contains(c)));
        let path = after.starts_with("::") && !below;
        let import = before.ends_with("use ") && after.starts_with([';', ' ', ',']);
        alone && (path || import) && source.kind(at) == Kind::Code && (in_tests || !source.is_test(at))
    })
}

/// ARCHITECTURE.md shows the crates that there are: a block with a line `crates/` and below it one line for each,
/// `  NAME/ …`; the same for `dev/`.
pub(super) fn shown(root: &Path, packages: &[Package], breaches: &mut Vec<String>) {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    for place in ["crates", "dev"] {
        let there: BTreeSet<String> = packages
            .iter()
            .filter_map(|p| p.dir.strip_prefix(place).ok())
            .map(|rest| rest.display().to_string())
            .collect();
        let shown = listed(&text, place);
        for name in there.difference(&shown) {
            breaches.push(format!("ARCHITECTURE.md: the crate {place}/{name} is not shown below `{place}/`"));
        }
        for name in shown.difference(&there).filter(|name| !root.join(place).join(name).is_dir()) {
            breaches.push(format!("ARCHITECTURE.md: {place}/{name} is shown and is not there"));
        }
    }
}

fn listed(text: &str, place: &str) -> BTreeSet<String> {
    let below = text.lines().skip_while(|l| l.trim_end() != format!("{place}/")).skip(1);
    let below = below.take_while(|l| l.starts_with("  "));
    // A line that is further in goes on with the one before.
    let entries = below.filter_map(|l| l.strip_prefix("  ").filter(|l| !l.starts_with(' ')));
    entries.filter_map(|l| Some(l.split_once('/')?.0.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_named_by_a_path_or_an_import() {
        let source = |text: &str| Source::new("crates/x/src/lib.rs".into(), text.into());
        for (text, wanted) in [
            ("use time::Date;", true),
            ("fn a() { time::now() }", true),
            ("use time as t;", true),
            ("use ::time::Date;", true),
            ("use std::time::Duration;", false),
            ("// time::now()", false),
            ("let time = \"time::\";", false),
            ("let uptime = uptime::of();", false),
            ("#[cfg(test)]\nmod tests { use time::Date; }", false),
        ] {
            assert_eq!(names(&source(text), "time", false), wanted, "{text}");
        }
        assert!(names(&source("#[cfg(test)]\nmod tests { use time::Date; }"), "time", true));
    }

    #[test]
    fn lists_are_read() {
        let shown = listed(
            "```\ncrates/\n  addr/    nouns\n           more/less\n  app/  all\ndev/\n  sim/ x\n```\n",
            "crates",
        );
        assert_eq!(shown, ["addr", "app"].map(String::from).into());
        let manifest = "[workspace.dependencies]\n# kinds\na-b = \"1\"\nc = { path = \"c\" }\n\n[profile.dev]\nd = 1\n";
        assert_eq!(offered(manifest), [(3, "a-b".to_string()), (4, "c".to_string())]);
    }
}
