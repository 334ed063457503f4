//! The book's sources as mdBook wants them. In: the repository. Out: a folder with the pages where links between them
//! expect them, READMEs under the names that sites use, and a page for each file of keys.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Pages at the top of the repository that belong to the book.
const TOP: [&str; 5] = ["README.md", "CHANGELOG.md", "SCOPE.md", "ARCHITECTURE.md", "CONTRIBUTING.md"];

/// Files that pages link to and that are no pages.
const BESIDE: [&str; 1] = ["deploy/Containerfile"];

/// Lays everything out in `book`.
pub(super) fn out(root: &Path, book: &Path) -> Result<()> {
    let src = book.join("src");
    let mut files: Vec<PathBuf> = TOP.iter().chain(&BESIDE).map(PathBuf::from).collect();
    files.extend(below(root, Path::new("docs"))?);
    let summary = fs::read_to_string(root.join("docs/SUMMARY.md")).context("cannot read docs/SUMMARY.md")?;
    ensure_listed(&files, &summary)?;
    for file in &files {
        let from = root.join(file);
        let read = || fs::read_to_string(&from).with_context(|| format!("cannot read {}", from.display()));
        match file.extension().and_then(|e| e.to_str()) {
            Some("md") if file.ends_with("SUMMARY.md") => {}
            Some("md") => write(&src.join(site_name(file)), &page(&read()?))?,
            Some("toml") if file.ends_with("book.toml") => write(&book.join("book.toml"), &read()?)?,
            Some("toml") => {
                let name = file.file_name().unwrap_or_default().display().to_string();
                write(&src.join(site_name(file)), &format!("# {name}\n\n```toml\n{}```\n", read()?))?;
            }
            Some("css") => write(&book.join(file.file_name().unwrap_or_default()), &read()?)?,
            _ => write(&src.join(file), &read()?)?,
        }
    }
    write(&src.join("SUMMARY.md"), &contents(&summary))
}

/// Everything below a folder of the repository, by path from its top.
fn below(root: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => found.extend(below(root, &path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// A page that nobody can turn to is no part of the book.
fn ensure_listed(files: &[PathBuf], summary: &str) -> Result<()> {
    let listed = |path: &Path| {
        let name = path.strip_prefix("docs").map_or_else(|_| Path::new("..").join(path), Path::to_path_buf);
        summary.contains(&format!("({})", name.display()))
    };
    let page = |p: &&PathBuf| {
        let known = p.extension().is_some_and(|e| e == "md" || e == "toml");
        known && !p.ends_with("SUMMARY.md") && !p.ends_with("book.toml")
    };
    let missing: Vec<String> =
        files.iter().filter(page).filter(|p| !listed(p)).map(|p| p.display().to_string()).collect();
    ensure!(missing.is_empty(), "docs/SUMMARY.md does not name {}", missing.join(", "));
    Ok(())
}

/// How a file is called in the book.
fn site_name(file: &Path) -> PathBuf {
    match file.file_name().and_then(|n| n.to_str()) {
        Some("README.md") => file.with_file_name("index.md"),
        Some(name) => match name.strip_suffix(".toml") {
            Some(stem) => file.with_file_name(format!("{stem}-toml.md")),
            None => file.to_path_buf(),
        },
        None => file.to_path_buf(),
    }
}

/// A page with its links as the book calls their targets; code stays as it is.
fn page(text: &str) -> String {
    let mut code = false;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        match code || fence {
            true => out.push_str(line),
            false => out.push_str(&links(line, Path::to_path_buf)),
        }
        out.push('\n');
    }
    out
}

/// The table of contents, whose links start in `docs/`.
fn contents(summary: &str) -> String {
    let from_top = |p: &Path| p.strip_prefix("..").map_or_else(|_| Path::new("docs").join(p), Path::to_path_buf);
    summary.lines().map(|l| links(l, from_top) + "\n").collect()
}

/// A line with the targets of its links renamed.
fn links(line: &str, moved: fn(&Path) -> PathBuf) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, end)) = after.split_once(')') else { break };
        let (path, anchor) = target.split_once('#').map_or((target, None), |(p, a)| (p, Some(a)));
        let elsewhere = path.is_empty() || path.contains("://");
        let path = if elsewhere { path.to_string() } else { site_name(&moved(Path::new(path))).display().to_string() };
        let anchor = anchor.map_or_else(String::new, |a| format!("#{a}"));
        out.push_str(&format!("{before}]({path}{anchor})"));
        rest = end;
    }
    out + rest
}

fn write(path: &Path, text: &str) -> Result<()> {
    let Some(dir) = path.parent() else { bail!("{} has no folder", path.display()) };
    fs::create_dir_all(dir)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_the_book_has_their_targets() {
        let line = "[a](../README.md#x), [b](edge.toml) and [c](https://a.test/README.md), `x](y` [d](#here)";
        assert_eq!(
            page(line).trim_end(),
            "[a](../index.md#x), [b](edge-toml.md) and [c](https://a.test/README.md), `x](y` [d](#here)"
        );
        assert_eq!(page("```sh\n[a](README.md)\n```\n"), "```sh\n[a](README.md)\n```\n");
        assert_eq!(contents("- [a](manual/x.md)\n[b](../README.md)"), "- [a](docs/manual/x.md)\n[b](index.md)\n");
    }

    #[test]
    fn a_page_that_nobody_can_turn_to_is_named() {
        let files = ["README.md", "docs/manual/x.md", "docs/manual/y.md"].map(PathBuf::from);
        let why = ensure_listed(&files, "[a](../README.md) [x](manual/x.md)").unwrap_err().to_string();
        assert!(why.ends_with("does not name docs/manual/y.md"), "{why}");
        let root = stage::pages::root();
        let summary = stage::pages::file("docs/SUMMARY.md");
        ensure_listed(&below(&root, Path::new("docs")).unwrap(), &summary).unwrap();
    }
}
