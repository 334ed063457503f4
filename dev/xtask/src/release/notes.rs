//! What is new. In: `CHANGELOG.md`. Out: `NOTES.md`: the section of this version, and how to check what one downloads.

use anyhow::{Context, Result, ensure};

use super::Page;

/// Writes the notes.
///
/// # Errors
/// The changelog has no section of this version, or an empty one.
pub(super) fn make(page: &Page) -> Result<()> {
    let changelog = page.root.join("CHANGELOG.md");
    let text = std::fs::read_to_string(&changelog).with_context(|| format!("cannot read {}", changelog.display()))?;
    let section = section(&text, page.version)?;
    if section.unreleased {
        println!("release: CHANGELOG.md says that {} is unreleased: give it its date first", page.version);
    }
    let text = format!(
        "# Portcullis {}\n\nCommit {}.\n\n{}\n\n## Check what you download\n\n\
         ```text\nminisign -Vm SHA256SUMS -P KEY      KEY is the public key that you knew before\n\
         sha256sum -c --ignore-missing SHA256SUMS\n```\n",
        page.version, page.commit, section.body
    );
    page.write("NOTES.md", text)
}

/// What a version's section says.
#[derive(Debug, PartialEq, Eq)]
struct Section<'a> {
    body: &'a str,
    unreleased: bool,
}

/// Finds the section whose heading is `## VERSION`, or `## VERSION (…)`.
fn section<'a>(changelog: &'a str, version: &str) -> Result<Section<'a>> {
    let mut found: Option<(usize, &str)> = None;
    let mut at = 0;
    let mut end = changelog.len();
    for line in changelog.split_inclusive('\n') {
        let heading = line.strip_prefix("## ").map(str::trim);
        match (heading, found) {
            (Some(_), Some(_)) => {
                end = at;
                break;
            }
            (Some(h), None) if h.split(' ').next() == Some(version) => found = Some((at + line.len(), h)),
            _ => {}
        }
        at += line.len();
    }
    let (start, heading) =
        found.with_context(|| format!("CHANGELOG.md has no section `## {version}`: write what is new in it"))?;
    let body = changelog.get(start..end).unwrap_or_default().trim();
    ensure!(!body.is_empty(), "CHANGELOG.md says nothing below `## {version}`");
    Ok(Section { body, unreleased: heading.ends_with("(unreleased)") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_one_section() {
        let text = "# Changelog\n\n## 0.2.0 (unreleased)\n\n- new\n\n### sub\n- x\n\n## 0.1.10 (2026-01-01)\n- old\n## 0.1.1\n";
        assert_eq!(section(text, "0.2.0").unwrap(), Section { body: "- new\n\n### sub\n- x", unreleased: true });
        assert_eq!(section(text, "0.1.10").unwrap(), Section { body: "- old", unreleased: false });
        assert_eq!(section(text, "0.1.1").unwrap_err().to_string(), "CHANGELOG.md says nothing below `## 0.1.1`");
        let gone = section(text, "0.3.0").unwrap_err().to_string();
        assert_eq!(gone, "CHANGELOG.md has no section `## 0.3.0`: write what is new in it");
    }
}
