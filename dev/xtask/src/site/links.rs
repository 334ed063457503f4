//! Links of a built site. In: its HTML. Out: those that lead nowhere, with the page that has them. Links to other sites are
//! left to their owners.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// Every link that leads nowhere, as `page: target`.
pub(super) fn check(site: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    for path in super::html(site)? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        pages.insert(path, text);
    }
    let anchors: BTreeMap<&PathBuf, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path, values(text, "id").collect())).collect();
    let mut wrong = Vec::new();
    for (page, text) in &pages {
        // It is shown for any path, and says so with a base of its own.
        if page.ends_with("404.html") {
            continue;
        }
        for target in values(text, "href").chain(values(text, "src")) {
            if !leads_somewhere(page, &target, &anchors) {
                wrong.push(format!("{}: {target}", page.strip_prefix(site).unwrap_or(page).display()));
            }
        }
    }
    wrong.dedup();
    Ok(wrong)
}

fn leads_somewhere(page: &Path, target: &str, anchors: &BTreeMap<&PathBuf, BTreeSet<String>>) -> bool {
    let scheme = target.split_once(':').is_some_and(|(s, _)| s.bytes().all(|b| b.is_ascii_alphanumeric()));
    if scheme || target.is_empty() {
        return true;
    }
    let (path, anchor) = target.split_once('#').map_or((target, None), |(p, a)| (p, Some(a)));
    let path = path.split('?').next().unwrap_or_default();
    let file = if path.is_empty() { page.to_path_buf() } else { flat(&page.with_file_name("").join(decoded(path))) };
    let file = if file.is_dir() { file.join("index.html") } else { file };
    match anchor.filter(|a| !a.is_empty()) {
        None => file.is_file(),
        Some(anchor) => anchors.get(&file).is_some_and(|all| all.contains(&decoded(anchor))),
    }
}

/// A path without `..`.
fn flat(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The values of an attribute.
fn values<'t>(text: &'t str, name: &str) -> impl Iterator<Item = String> + use<'t> {
    let begin = format!(" {name}=\"");
    let mut rest = text;
    std::iter::from_fn(move || {
        let after = rest.split_once(begin.as_str())?.1;
        let (value, end) = after.split_once('"')?;
        rest = end;
        Some(value.replace("&amp;", "&").replace("&quot;", "\""))
    })
}

/// Text in which `%20` stands for a blank.
fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match (b, bytes.clone().next(), bytes.clone().nth(1)) {
            (b'%', high, low) if hex(high).is_some() && hex(low).is_some() => {
                out.push(hex(high).unwrap_or(0) << 4 | hex(low).unwrap_or(0));
                bytes.nth(1);
            }
            _ => out.push(b),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_page_and_a_missing_heading_are_found() {
        let dir = stage::Dir::new("links");
        std::fs::create_dir(dir.at("a")).unwrap();
        dir.write(
            "index.html",
            r##"<h1 id="top"></h1><a href="a/b.html#here">x</a><a href="#top">x</a><a href="https://x.test/">x</a>"##,
        );
        let bad = r##"<p id="here"></p><a class="x" href="../index.html">x</a><a href="../no.html">x</a><a href="#gone">x</a><img src="p%20q.svg">"##;
        dir.write("a/b.html", bad);
        assert_eq!(check(dir.path()).unwrap(), ["a/b.html: ../no.html", "a/b.html: #gone", "a/b.html: p%20q.svg"]);
        dir.write("a/p q.svg", "<svg/>");
        assert_eq!(check(dir.path()).unwrap().len(), 2);
    }
}
