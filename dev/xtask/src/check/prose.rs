//! No program reads sentences that were made for people. In: the product's code. Out: each place outside tests that
//! looks for words in an error, a log line or a diagnostic: whoever rewords it would break the reader, and nothing would
//! say so. What has to be told apart is told apart by a type.

use std::path::Path;

use super::source::{Kind, Source};

/// What looks into text.
const READERS: [&str; 9] = [
    "contains",
    "starts_with",
    "ends_with",
    "find",
    "rfind",
    "strip_prefix",
    "strip_suffix",
    "split_once",
    "rsplit_once",
];

/// Names that values made for people go by, and what makes text of a value.
const FOR_PEOPLE: [&str; 26] = [
    "cause",
    "complaint",
    "diagnosis",
    "err",
    "error",
    "format",
    "hint",
    "hints",
    "message",
    "msg",
    "note",
    "notes",
    "problem",
    "reason",
    "refusal",
    "refused",
    "remark",
    "remarks",
    "said",
    "sentence",
    "to_string",
    "trouble",
    "warning",
    "warnings",
    "why",
    "words",
];

/// The same, where nothing stands between them and what looks: they are also short for entries and matches.
const SHORT: [&str; 3] = ["e", "m", "w"];

/// Places that may: file, how many, why. The list only shrinks, but for words of others that no type can replace.
const ALLOWED: [(&str, usize, &str); 2] = [
    ("crates/gate/src/enforce/haproxy.rs", 2, "HAProxy's socket answers in sentences of its own"),
    ("crates/demo/src/lib.rs", 2, "the demo reads what its client prints, as whoever watches it does"),
];

/// Every place in this file, but for those that are allowed.
pub(super) fn read(source: &Source, breaches: &mut Vec<String>) {
    let Some(allowed) = allowance(&source.path) else { return };
    let found: Vec<String> = READERS.iter().flat_map(|reader| uses(source, reader)).collect();
    match found.len() {
        n if n > allowed => breaches.extend(found),
        n if n < allowed => {
            let file = source.path.display();
            breaches
                .push(format!("{file}: {allowed} places may read sentences and {n} do: lower the number in prose.rs"));
        }
        _ => {}
    }
}

/// How many places a file may have; `None` where the rule does not reach: only the product is held to it.
fn allowance(path: &Path) -> Option<usize> {
    let product = path.starts_with("crates") && path.components().any(|c| c.as_os_str() == "src");
    product.then(|| ALLOWED.iter().find(|(file, ..)| Path::new(file) == path).map_or(0, |(_, n, _)| *n))
}

fn uses(source: &Source, reader: &str) -> Vec<String> {
    let call = format!(".{reader}(");
    let mut out = vec![];
    for at in source.places(&call) {
        let Some(literal) = literal(source, at + call.len()) else { continue };
        let why = match (prose(literal), receiver(source, at)) {
            (true, _) => "a sentence".to_string(),
            (false, Some(name)) => format!("what `{name}` says"),
            (false, None) => continue,
        };
        let (file, line) = (source.path.display(), source.line(at));
        out.push(format!(
            "{file}:{line}: `{reader}({literal})` reads {why}: tell it by a type, not by words made for people"
        ));
    }
    out
}

/// The string that is the first argument, as written.
fn literal(source: &Source, open: usize) -> Option<&str> {
    let rest = &source.text[open..];
    let begin = open + rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c == '&').len();
    if source.kind(begin) != Kind::Literal || !source.text[begin..].starts_with('"') {
        return None;
    }
    let end = source.text[begin + 1..]
        .char_indices()
        .map(|(i, _)| begin + 1 + i)
        .find(|i| source.kind(*i) != Kind::Literal)?;
    source.text.get(begin..end)
}

/// Whether a literal holds two words beside each other.
fn prose(literal: &str) -> bool {
    let bytes = literal.as_bytes();
    bytes.windows(3).any(|w| w[1] == b' ' && w[0].is_ascii_lowercase() && w[2].is_ascii_lowercase())
}

/// A name on the way to this dot by which the text was made for people.
fn receiver(source: &Source, dot: usize) -> Option<&str> {
    let text = source.text.as_bytes();
    let (mut at, mut first) = (dot, true);
    loop {
        while at > 0 && (text[at - 1].is_ascii_whitespace() || b"?!.:&".contains(&text[at - 1])) {
            at -= 1;
        }
        match at.checked_sub(1).map(|i| text[i]) {
            Some(b')' | b']') => at = opening(source, at - 1)?,
            Some(b) if b.is_ascii_alphanumeric() || b == b'_' => {
                let end = at;
                while at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_') {
                    at -= 1;
                }
                let name = source.text.get(at..end)?;
                if FOR_PEOPLE.contains(&name) || (first && SHORT.contains(&name)) {
                    return Some(name);
                }
                first = false;
                // Another word before this one is the end of the expression.
                let before = source.text[..at].trim_end();
                if !before.ends_with(['.', ':']) {
                    return None;
                }
            }
            _ => return None,
        }
    }
}

/// The bracket that this one closes.
fn opening(source: &Source, close: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for at in (0..=close).rev().filter(|at| source.kind(*at) == Kind::Code) {
        match source.text.as_bytes()[at] {
            b')' | b']' => depth += 1,
            b'(' | b'[' if depth == 1 => return Some(at),
            b'(' | b'[' => depth -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str) -> usize {
        let source = Source::new("crates/x/src/lib.rs".into(), format!("fn f() {{\n    {code}\n}}\n"));
        let mut breaches = vec![];
        read(&source, &mut breaches);
        breaches.len()
    }

    #[test]
    fn what_reads_words_is_found() {
        for code in [
            r#"e.to_string().contains("missing")"#,
            r#"format!("{e:#}").starts_with("no")"#,
            r#"self.remark.contains("x")"#,
            r#"list.iter().filter(|w| !w.contains("lets nobody in"))"#,
            "why\n    .lines()\n    .next()?\n    .ends_with(\n        \"x\")",
            r#"String::from_utf8_lossy(body).find("no such session")"#,
            r#"x.refused(a, &b[1])?.strip_prefix("404")"#,
        ] {
            assert_eq!(found(code), 1, "{code}");
        }
    }

    #[test]
    fn what_reads_a_format_is_not() {
        for code in [
            r#"text.strip_prefix("tag:")"#,
            r#"line.split_once(": ")"#,
            r#"e.kinds().contains(&Kind::A)"#,
            r#"e.name.strip_prefix("dns:")"#,
            r#"name.contains('e')"#,
            r#"// e.to_string().contains("missing")"#,
            r#"let error = text.starts_with("x");"#,
        ] {
            assert_eq!(found(code), 0, "{code}");
        }
    }
}
