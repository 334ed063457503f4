//! `cargo xtask site`: the manual as a site. In: the pages where they lie. Out: `target/site`, in which every link leads
//! somewhere.

mod lay;
mod links;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use stage::pages::root;
use stage::peers::find;

/// Builds it.
///
/// # Errors
/// A page is missing in SUMMARY.md, mdBook fails, or a link leads nowhere; all of them are named.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(other) = args.first() {
        bail!("unknown argument `{other}`; usage: cargo xtask site");
    }
    crate::setup::site()?;
    let out = root().canonicalize()?.join("target/site");
    let pages = build(&out)?;
    println!("{} pages in {}", pages, out.display());
    Ok(())
}

/// Lays the pages out, lets mdBook build them, and follows every link.
fn build(out: &Path) -> Result<usize> {
    let book = out.with_extension("book");
    let _ = std::fs::remove_dir_all(&book);
    lay::out(&root(), &book)?;
    let program = find("mdbook").context("mdbook is missing: `cargo xtask site` installs it")?;
    let mut command = Command::new(program);
    command.arg("build").arg(&book).arg("--dest-dir").arg(out).stdin(Stdio::null());
    let done = command.output().context("cannot run mdbook")?;
    let said = String::from_utf8_lossy(&done.stderr);
    // What it warns of is a page that reads otherwise than it was meant.
    if !done.status.success() || said.contains("WARN") || said.contains("ERROR") {
        bail!("mdbook: {said}");
    }
    std::fs::remove_dir_all(&book)?;
    let wrong = links::check(out)?;
    if !wrong.is_empty() {
        bail!("links that lead nowhere:\n{}", wrong.join("\n"));
    }
    Ok(html(out)?.len())
}

/// The pages of a built site.
fn html(site: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![site.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "html") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_site_builds_and_no_link_in_it_leads_nowhere() {
        if stage::peers::need("mdbook").is_none() {
            return;
        }
        let dir = stage::Dir::new("site");
        let site = dir.at("site");
        let pages = build(&site).unwrap();
        assert!(pages >= 20, "{pages}");
        let front = std::fs::read_to_string(site.join("index.html")).unwrap();
        assert!(front.contains("self-hosted access layer") && front.contains("searchbar"));
        assert!(site.join("docs/pictures/demo.svg").is_file());
        // A page for each file of keys.
        let keys = std::fs::read_to_string(site.join("docs/manual/gate-toml.html")).unwrap();
        assert!(keys.contains("language-toml") && keys.contains("[lists.family]"));
    }
}
