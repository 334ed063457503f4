//! Nothing grows without being seen. In: the sources. Out: each crate that holds too much of the product, and each file
//! that is longer than it may be. Counted are lines of code outside tests: no blanks, no comments.

use std::collections::BTreeMap;

use super::source::Source;

/// No crate holds more than one part in so many of the product's lines: what is larger is several things.
const PARTS: usize = 5;

/// Lines of code that a file may have. Longer ones are read by nobody as a whole.
const LONGEST: usize = 600;

/// Files that are longer, with the lines that they may have. The list only shrinks.
const LONGER: [(&str, usize); 0] = [];

/// A file on the list may lose so many lines before its number has to follow.
const SLACK: usize = 25;

/// Files first, then crates.
pub(super) fn check(sources: &[Source], breaches: &mut Vec<String>) {
    let mut crates: BTreeMap<String, usize> = BTreeMap::new();
    let mut longer: BTreeMap<&str, usize> = LONGER.into_iter().collect();
    for source in sources {
        let lines = source.code().count();
        let path = source.path.display().to_string();
        file(&path, lines, longer.remove(path.as_str()), breaches);
        if let Some((name, _)) = path.strip_prefix("crates/").and_then(|p| p.split_once("/src/")) {
            *crates.entry(name.to_string()).or_default() += lines;
        }
    }
    for path in longer.keys() {
        breaches.push(format!("{path}: stands on the list of long files in sizes.rs and is not there"));
    }
    shares(&crates, breaches);
    if let Some((name, lines)) = crates.iter().max_by_key(|(_, lines)| **lines) {
        println!(
            "the largest crate, {name}, has {lines} of the product's {} lines of code",
            crates.values().sum::<usize>()
        );
    }
}

fn file(path: &str, lines: usize, listed: Option<usize>, breaches: &mut Vec<String>) {
    match listed {
        Some(most) if lines > most => {
            breaches.push(format!("{path}: {lines} lines of code; it had {most} and may only get shorter"));
        }
        Some(_) if lines <= LONGEST => {
            breaches.push(format!("{path}: {lines} lines of code; take it off the list of long files in sizes.rs"));
        }
        Some(most) if lines + SLACK < most => {
            breaches.push(format!("{path}: {lines} lines of code; write that number in sizes.rs, where {most} stands"));
        }
        None if lines > LONGEST => {
            breaches.push(format!("{path}: {lines} lines of code; a file has at most {LONGEST}"));
        }
        _ => {}
    }
}

fn shares(crates: &BTreeMap<String, usize>, breaches: &mut Vec<String>) {
    let all: usize = crates.values().sum();
    for (name, lines) in crates.iter().filter(|(_, lines)| *lines * PARTS > all) {
        breaches.push(format!(
            "crates/{name}: {lines} of the product's {all} lines of code; no crate holds more than one in {PARTS}"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_crates_stay_within_bounds() {
        let told = |lines, listed| {
            let mut breaches = vec![];
            file("x.rs", lines, listed, &mut breaches);
            breaches.len()
        };
        assert_eq!((told(600, None), told(601, None)), (0, 1));
        assert_eq!((told(700, Some(700)), told(675, Some(700)), told(701, Some(700))), (0, 0, 1));
        assert_eq!((told(674, Some(700)), told(600, Some(610))), (1, 1));

        let mut breaches = vec![];
        let five = |largest| {
            ["a", "b", "c", "d"].map(|n| (n.to_string(), 100)).into_iter().chain([("e".to_string(), largest)])
        };
        shares(&five(100).collect(), &mut breaches);
        assert_eq!(breaches.len(), 0);
        shares(&five(101).collect(), &mut breaches);
        assert_eq!(breaches.len(), 1);
    }
}
