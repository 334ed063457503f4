//! Licences of what others wrote. In: the crates of a program. Out: one text with each licence once, and the crates that
//! came under it: most of them ask that it goes along with the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::target::Target;
use super::{Page, sbom};

/// How files with a licence begin.
const FILES: [&str; 6] = ["COPYING", "COPYRIGHT", "LICENCE", "LICENSE", "NOTICE", "UNLICENSE"];

/// What is in the program and no crate.
const OTHERS: &str = "\
This program contains code of others. Below is each of their licences, and the crates of Rust that came under it.
Besides, it contains musl (MIT, https://musl.libc.org/) and Rust's own library (MIT OR Apache-2.0, https://www.rust-lang.org/).\n";

/// The text for a program's crates on a target.
///
/// # Errors
/// Cargo cannot read the workspace, or a file cannot be read.
pub(super) fn texts(page: &Page, target: Target) -> Result<String> {
    let mut by_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = BTreeSet::new();
    for c in sbom::crates(&page.root, target)?.values().filter(|c| !c.own) {
        let name = format!("{} {} ({})", c.name, c.version, c.licence.as_deref().unwrap_or("see its file"));
        // What is C lies in folders below, with licences of its own.
        let mut files = Vec::new();
        collect(&c.dir, if c.name.ends_with("-sys") { 3 } else { 0 }, &mut files)
            .with_context(|| format!("cannot read {}", c.dir.display()))?;
        let found = !files.is_empty();
        for file in files {
            let content = std::fs::read(file)?;
            let text: Vec<String> =
                String::from_utf8_lossy(&content).lines().map(|l| l.trim_end().to_string()).collect();
            by_text.entry(text.join("\n").trim().to_string()).or_default().insert(name.clone());
        }
        if !found {
            without.insert(name);
        }
    }
    // By who stands above a text, which is what somebody looks for.
    let mut sections: Vec<(String, String)> =
        by_text.into_iter().map(|(text, names)| (names.into_iter().collect::<Vec<_>>().join("\n"), text)).collect();
    sections.sort();
    let line = "=".repeat(80);
    let mut out = OTHERS.to_string();
    if !without.is_empty() {
        let names = without.into_iter().collect::<Vec<_>>().join("\n");
        out.push_str(&format!("\n{line}\nThese say their licence by its name alone:\n{names}\n"));
    }
    for (names, text) in sections {
        out.push_str(&format!("\n{line}\n{names}\n{line}\n\n{text}\n"));
    }
    Ok(out)
}

/// Files with a licence in a folder, and in folders below it down to a depth.
fn collect(dir: &Path, depth: u32, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, into)?;
            }
        } else if FILES.iter().any(|begin| name.starts_with(begin)) {
            into.push(path);
        }
    }
    Ok(())
}
