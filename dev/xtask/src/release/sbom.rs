//! The bill of materials. In: `cargo metadata` for each target. Out: `portcullis-VERSION-linux-MACHINE.cdx.json` (CycloneDX
//! 1.5): every crate that is compiled into the program, with its licence, its checksum and what it depends on.
//!
//! The program itself carries the same list (`cargo auditable`), and the two are compared where a program has one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use addr::Timestamp;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Page;
use super::target::Target;

/// A crate of the program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    /// SPDX, if the crate says it.
    pub(super) licence: Option<String>,
    about: Option<String>,
    /// Of the workspace itself.
    pub(super) own: bool,
    /// Where its sources are.
    pub(super) dir: PathBuf,
    /// Identities of what it uses.
    uses: BTreeSet<String>,
}

/// Writes one file for each program.
///
/// # Errors
/// Cargo cannot read the workspace, or a program's own list is another.
pub(super) fn make(page: &Page) -> Result<()> {
    let checksums = checksums(&std::fs::read_to_string(page.root.join("Cargo.lock"))?);
    for program in &page.programs {
        let crates = crates(&page.root, program.target)?;
        let content = std::fs::read(&program.path)?;
        match carried(&content).with_context(|| format!("cannot read what {} carries", program.path.display()))? {
            Some(carried) => agree(&crates, &tools(&page.root, program.target)?, &carried)?,
            None => println!("release: {} carries no list of its crates to compare with", program.path.display()),
        }
        let name = format!("portcullis-{}-linux-{}.cdx.json", page.version, program.target.machine());
        let mut text = serde_json::to_string_pretty(&document(page, &crates, &checksums)?)?;
        text.push('\n');
        page.write(&name, text)?;
    }
    Ok(())
}

/// What is compiled into the program for this target: the crates that are reached by ordinary dependencies, without
/// macros and build scripts, which run while it is built.
///
/// # Errors
/// Cargo cannot read the workspace.
pub(super) fn crates(root: &Path, target: Target) -> Result<BTreeMap<String, Crate>> {
    reached(&metadata(root, target)?, false)
}

/// The same, with macros and what they are made of.
fn tools(root: &Path, target: Target) -> Result<BTreeMap<String, Crate>> {
    reached(&metadata(root, target)?, true)
}

fn metadata(root: &Path, target: Target) -> Result<Value> {
    let mut cargo = crate::step::cargo(&["metadata", "--format-version=1", "--locked", "--filter-platform"]);
    let out = cargo.arg(target.triple()).current_dir(root).output().context("cannot run cargo")?;
    ensure!(out.status.success(), "`cargo metadata`: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).context("`cargo metadata` is no JSON")
}

fn reached(metadata: &Value, macros: bool) -> Result<BTreeMap<String, Crate>> {
    let word = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|p| (word(&p["id"]), p)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|n| (word(&n["id"]), n)).collect();
    let is_macro =
        |id: &str| list(&packages[id]["targets"]).iter().any(|t| list(&t["kind"]).iter().any(|k| k == "proc-macro"));
    let program = packages.iter().find(|(_, p)| p["name"] == "portcullis" && p["source"].is_null());
    let (program, _) = program.context("the workspace has no package `portcullis`")?;
    let (mut found, mut open) = (BTreeMap::new(), vec![program.clone()]);
    while let Some(id) = open.pop() {
        if found.contains_key(&id) {
            continue;
        }
        let p = packages.get(&id).with_context(|| format!("there is no package {id}"))?;
        let mut uses = BTreeSet::new();
        for dependency in nodes.get(&id).map(|n| list(&n["deps"])).unwrap_or_default() {
            let to = word(&dependency["pkg"]);
            if list(&dependency["dep_kinds"]).iter().any(|k| k["kind"].is_null()) && (macros || !is_macro(&to)) {
                open.push(to.clone());
                uses.insert(to);
            }
        }
        let one = Crate {
            name: word(&p["name"]),
            version: word(&p["version"]),
            licence: p["license"].as_str().map(|l| l.replace('/', " OR ")),
            about: p["description"].as_str().map(|d| d.split_whitespace().collect::<Vec<_>>().join(" ")),
            own: p["source"].is_null(),
            dir: Path::new(&word(&p["manifest_path"])).parent().unwrap_or(Path::new("")).to_path_buf(),
            uses,
        };
        found.insert(id, one);
    }
    Ok(found)
}

/// The checksums of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(" = \""));
        line.and_then(|l| l.strip_suffix('"')).map(ToString::to_string)
    };
    let blocks = lock.split("[[package]]").skip(1);
    blocks.filter_map(|b| Some(((value(b, "name")?, value(b, "version")?), value(b, "checksum")?))).collect()
}

/// The document: <https://cyclonedx.org/docs/1.5/json/>. It has no serial number, which would be another each time.
fn document(
    page: &Page,
    crates: &BTreeMap<String, Crate>,
    checksums: &BTreeMap<(String, String), String>,
) -> Result<Value> {
    let url = |c: &Crate| format!("pkg:cargo/{}@{}", c.name, c.version);
    let component = |c: &Crate| {
        let kind = if c.name == "portcullis" { "application" } else { "library" };
        let mut value = json!({ "type": kind, "bom-ref": url(c), "name": c.name, "version": c.version });
        if let Some(about) = &c.about {
            value["description"] = json!(about);
        }
        if let Some(licence) = &c.licence {
            value["licenses"] = json!([{ "expression": licence }]);
        }
        if let Some(sum) = checksums.get(&(c.name.clone(), c.version.clone())) {
            value["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
        }
        // Crates of the workspace are on no registry: a scanner must not look for them there.
        if !c.own {
            value["purl"] = json!(url(c));
        }
        value
    };
    let program =
        crates.values().find(|c| c.name == "portcullis" && c.own).context("the program is not in its list")?;
    let others = crates.values().filter(|c| *c != program);
    let mut components: Vec<Value> = others.map(component).collect();
    components.sort_by_key(|c| c["bom-ref"].to_string());
    let mut dependencies: Vec<Value> = crates
        .values()
        .map(|c| {
            let on: BTreeSet<String> = c.uses.iter().filter_map(|id| crates.get(id)).map(url).collect();
            json!({ "ref": url(c), "dependsOn": on })
        })
        .collect();
    dependencies.sort_by_key(|d| d["ref"].to_string());
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "timestamp": Timestamp(page.epoch).to_string(), "component": component(program) },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Names and versions of the crates that a program says it is made of, if it says so: the ELF section `.dep-v0`, JSON
/// compressed by zlib (<https://github.com/rust-secure-code/cargo-auditable/blob/master/PARSING.md>).
fn carried(elf: &[u8]) -> Result<Option<BTreeSet<(String, String)>>> {
    let Some(section) = section(elf, b".dep-v0")? else { return Ok(None) };
    let mut text = String::new();
    flate2::read::ZlibDecoder::new(section).read_to_string(&mut text).context("it does not decompress")?;
    let list: Value = serde_json::from_str(&text).context("it is no JSON")?;
    let packages = list["packages"].as_array().context("it lists no packages")?.iter();
    let word = |v: &Value| v.as_str().unwrap_or_default().to_string();
    // `kind` is left out for what is part of the program; `build` is what ran while it was built.
    Ok(Some(packages.filter(|p| p["kind"] != "build").map(|p| (word(&p["name"]), word(&p["version"]))).collect()))
}

/// A section of a 64-bit little-endian ELF file (elf(5)).
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<Option<&'a [u8]>> {
    let number = |at: usize, n: usize| -> Result<usize> {
        let bytes = elf.get(at..at.saturating_add(n)).context("the file is cut off")?;
        let value = bytes.iter().rev().fold(0_u64, |sum, b| sum << 8 | u64::from(*b));
        Ok(usize::try_from(value)?)
    };
    let (table, size, count, names) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let head = |n: usize| table.saturating_add(n.saturating_mul(size));
    let range = |n: usize| -> Result<&'a [u8]> {
        let (at, long) = (number(head(n) + 0x18, 8)?, number(head(n) + 0x20, 8)?);
        elf.get(at..at.saturating_add(long)).context("a section is cut off")
    };
    if count == 0 {
        return Ok(None);
    }
    let names = range(names)?;
    for n in 0..count {
        let name = names.get(number(head(n), 4)?..).unwrap_or_default();
        if name.starts_with(wanted) && name.get(wanted.len()) == Some(&0) {
            return range(n).map(Some);
        }
    }
    Ok(None)
}

/// The program lists every crate of ours, and beyond them at most macros and what these are made of, some of which it
/// counts as its own.
fn agree(
    crates: &BTreeMap<String, Crate>,
    tools: &BTreeMap<String, Crate>,
    carried: &BTreeSet<(String, String)>,
) -> Result<()> {
    let named = |crates: &BTreeMap<String, Crate>| -> BTreeSet<(String, String)> {
        crates.values().map(|c| (c.name.clone(), c.version.clone())).collect()
    };
    let (ours, most) = (named(crates), named(tools));
    if ours.is_subset(carried) && carried.is_subset(&most) {
        return Ok(());
    }
    let names = |a: &BTreeSet<(String, String)>, b: &BTreeSet<(String, String)>| {
        a.difference(b).map(|(n, v)| format!("{n} {v}")).collect::<Vec<_>>().join(", ")
    };
    bail!(
        "the program's own list of crates is another: only here: [{}]; only in the program: [{}]",
        names(&ours, carried),
        names(carried, &most)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macros_and_build_scripts_are_no_part_of_the_program() {
        let package = |id: &str, kind: &str| json!({ "id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": if id == "portcullis" { Value::Null } else { json!("registry") }, "targets": [{ "kind": [kind] }] });
        let dep = |to: &str, kind: Value| json!({ "pkg": to, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [package("portcullis", "bin"), package("a", "lib"), package("m", "proc-macro"), package("c", "lib"), package("t", "lib"), package("b", "lib")],
            "resolve": { "nodes": [
                { "id": "portcullis", "deps": [dep("a", Value::Null), dep("m", Value::Null), dep("t", json!("dev"))] },
                { "id": "a", "deps": [dep("c", json!("build")), dep("b", Value::Null)] },
                { "id": "m", "deps": [dep("c", Value::Null)] },
            ] },
        });
        let found = reached(&metadata, false).unwrap();
        let most = reached(&metadata, true).unwrap();
        assert_eq!(most.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "c", "m", "portcullis"]);
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "portcullis"]);
        assert_eq!(found["a"].licence.as_deref(), Some("MIT OR Apache-2.0"));
        let carried = |names: &[&str]| names.iter().map(|n| ((*n).to_string(), "1.0.0".to_string())).collect();
        agree(&found, &most, &carried(&["a", "b", "portcullis"])).unwrap();
        agree(&found, &most, &carried(&["a", "b", "m", "portcullis"])).unwrap();
        let wrong = agree(&found, &most, &carried(&["a", "portcullis", "x"])).unwrap_err().to_string();
        assert!(wrong.ends_with("only here: [b 1.0.0]; only in the program: [x 1.0.0]"), "{wrong}");
    }

    #[test]
    fn a_program_without_a_list_and_a_torn_file_are_told_apart() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&own, b".text").unwrap().is_some_and(|s| !s.is_empty()));
        assert_eq!(carried(&own).unwrap(), None);
        assert!(carried(&own[..own.len() / 2]).is_err());
        assert!(carried(b"\x7fELF").is_err());
    }
}
