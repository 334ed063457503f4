//! What README and manual print. In: the pages of this repository as they stand. Out: each fenced block, and the recipes
//! among them by their names.
//!
//! A block opens with its language and, if a test runs it, a name: three backquotes and `toml token-rights`. The name
//! belongs to one block, wherever that moves, and a test that asks for one that is gone fails. Blocks without a name are
//! output and drawings, in the language `text`.

use std::path::{Path, PathBuf};

/// A fenced block of a page.
#[derive(Debug, Clone)]
pub struct Block {
    /// The page's path below the top of the repository, and the line on which the block opens.
    pub place: String,
    /// The first word behind the backquotes.
    pub language: String,
    /// The second, if a test runs the block.
    pub name: Option<String>,
    /// The lines between.
    pub text: String,
}

/// The top of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file of the repository.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// README and every page of the manual, by path.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn all() -> Vec<(String, String)> {
    let mut paths = vec!["README.md".to_string()];
    let mut folders = vec!["docs/manual".to_string()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap_or_else(|e| panic!("cannot read {folder}: {e}")) {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false if path.ends_with(".md") => paths.push(path),
                false => {}
            }
        }
    }
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), file(&p))).collect()
}

/// The fenced blocks of all pages.
#[must_use]
pub fn blocks() -> Vec<Block> {
    all().iter().flat_map(|(path, text)| of_page(path, text)).collect()
}

fn of_page(path: &str, text: &str) -> Vec<Block> {
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    for (n, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, open.take()) {
            (Some(opens), None) => {
                let mut words = opens.split_whitespace();
                let language = words.next().unwrap_or_default().to_string();
                let name = words.next().map(ToString::to_string);
                open = Some(Block { place: format!("{path}:{}", n + 1), language, name, text: String::new() });
            }
            (Some(_), Some(whole)) => found.push(whole),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: the block is not closed", open.unwrap().place);
    found
}

/// The recipe of this name.
///
/// # Panics
/// If no page prints it, or more than one.
#[must_use]
pub fn recipe(name: &str) -> String {
    let mut found: Vec<Block> = blocks().into_iter().filter(|b| b.name.as_deref() == Some(name)).collect();
    let places: Vec<&str> = found.iter().map(|b| b.place.as_str()).collect();
    assert!(found.len() == 1, "one page prints the recipe `{name}`, not {places:?}");
    found.remove(0).text
}

/// The commands of a recipe: its lines, those that end in `\` put together, without what stands beside them behind three
/// blanks or more.
#[must_use]
pub fn commands(name: &str) -> Vec<String> {
    let whole = recipe(name).split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat();
    let alone = |l: &str| l.trim().split("   ").next().unwrap_or_default().to_string();
    whole.lines().map(alone).filter(|l| !l.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// All Rust sources below a folder.
    fn sources(at: &Path, into: &mut String) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, into);
            } else if path.extension().is_some_and(|e| e == "rs") {
                into.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    #[test]
    fn every_block_is_run_by_a_test_or_is_plain_text() {
        let mut tests = String::new();
        sources(&root().join("crates"), &mut tests);
        sources(&root().join("dev/xtask/tests"), &mut tests);
        let mut names = BTreeSet::new();
        for block in blocks() {
            let place = block.place;
            match block.name {
                Some(name) => {
                    assert!(tests.contains(&format!("\"{name}\"")), "{place}: no test asks for the recipe `{name}`");
                    assert!(names.insert(name.clone()), "{place}: a second recipe `{name}`");
                }
                None => assert_eq!(block.language, "text", "{place}: give the recipe a name and a test that runs it"),
            }
        }
        assert!(names.len() >= 45, "only {} recipes are left", names.len());
    }

    /// A first page that is read to its end.
    #[test]
    fn the_readme_is_short() {
        let lines = file("README.md").lines().count();
        assert!(lines <= 150, "README has {lines} lines; move what is not for a newcomer to the manual");
    }

    /// Figures of README are figures of a benchmark.
    #[test]
    fn figures_are_measured() {
        let bench = file("docs/bench/tunnel.md");
        let readme = file("README.md");
        let section = readme.split_once("\n## Speed\n").unwrap().1.split("\n## ").next().unwrap();
        let rows: Vec<&str> = section.lines().filter(|l| l.starts_with('|')).skip(2).collect();
        assert!(rows.len() > 3, "{section}");
        for row in rows {
            for figure in row.split(['|', '/']).skip(2).map(str::trim).filter(|f| !f.is_empty()) {
                assert!(bench.contains(figure), "README says {figure}, docs/bench/tunnel.md does not: {row}");
            }
        }
    }

    /// README, manual, and what else is written for readers.
    fn documents() -> Vec<(String, String)> {
        let more = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SCOPE.md", "docs/roadmap.md"];
        all().into_iter().chain(more.map(|p| (p.to_string(), file(p)))).collect()
    }

    /// Links between pages, with their headings, lead somewhere.
    #[test]
    fn links_lead_somewhere() {
        for (path, text) in documents() {
            let folder = Path::new(&path).parent().unwrap().to_path_buf();
            for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
                if link.contains("://") {
                    continue;
                }
                let (to, heading) = link.split_once('#').map_or((link, None), |(a, b)| (a, Some(b)));
                let target = if to.is_empty() { PathBuf::from(&path) } else { folder.join(to) };
                assert!(root().join(&target).exists(), "{path}: the link {link} leads nowhere");
                if let Some(heading) = heading {
                    let page = std::fs::read_to_string(root().join(&target)).unwrap();
                    assert!(page.lines().any(|l| anchor(l).as_deref() == Some(heading)), "{path}: no heading {link}");
                }
            }
        }
    }

    /// Files of the repository that a document names are there.
    #[test]
    fn named_files_are_there() {
        for (path, text) in documents() {
            for code in text.split('`').skip(1).step_by(2) {
                let ours = ["crates/", "dev/", "docs/", "fuzz/"].iter().any(|top| code.starts_with(top));
                // Not an example with a name to fill in.
                if ours && !code.contains(|c: char| c.is_ascii_uppercase() || " *{…".contains(c)) {
                    assert!(root().join(code).exists(), "{path}: there is no {code}");
                }
            }
        }
    }

    /// All files below a folder that are called so.
    fn called(name: &str, at: &Path, into: &mut String) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                called(name, &path, into);
            } else if path.ends_with(name) {
                into.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }

    /// Every metric stands in the manual, and every one that the manual names is there.
    #[test]
    fn metrics_are_those_of_the_program() {
        let mut golden = String::new();
        called("metrics.golden", &root().join("crates"), &mut golden);
        let real: BTreeSet<&str> =
            golden.lines().filter_map(|l| l.split(' ').next()).filter(|m| !m.is_empty()).collect();
        assert!(real.len() > 30, "only {} metrics", real.len());
        let page = file("docs/manual/operations.md");
        for metric in &real {
            assert!(page.contains(&format!("| `{metric}` |")), "docs/manual/operations.md has no row for `{metric}`");
        }
        for (path, text) in documents() {
            for word in text.split(|c: char| !c.is_ascii_lowercase() && c != '_') {
                let ours = [
                    "portcullis_tunnel_",
                    "portcullis_http_",
                    "portcullis_gate_",
                    "portcullis_mesh_",
                    "portcullis_relay_",
                ];
                if ours.iter().any(|p| word.starts_with(p)) {
                    assert!(real.contains(word), "{path}: there is no metric `{word}`");
                }
            }
        }
    }

    /// What a heading is called in a link.
    fn anchor(line: &str) -> Option<String> {
        let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?;
        let kept = |c: char| c.is_alphanumeric() || "-_ ".contains(c);
        Some(title.to_lowercase().chars().filter(|c| kept(*c)).map(|c| if c == ' ' { '-' } else { c }).collect())
    }
}
