//! Rust text as the rules read it. In: the files git knows. Out: for every byte whether it is code, a comment or inside
//! a literal, and for every line whether it belongs to a test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What a byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Code.
    Code,
    /// A comment, its slashes included.
    Comment,
    /// A literal, its quotes included.
    Literal,
}

/// One file of Rust.
pub(super) struct Source {
    /// From the workspace's directory.
    pub(super) path: PathBuf,
    /// As it was read.
    pub(super) text: String,
    kinds: Vec<Kind>,
    /// Where lines begin.
    starts: Vec<usize>,
    /// Which lines belong to tests.
    tests: Vec<bool>,
}

impl Source {
    /// Reads one file; whole files of tests are found by [`mark_test_files`].
    pub(super) fn new(path: PathBuf, text: String) -> Source {
        let kinds = kinds(text.as_bytes());
        let starts: Vec<usize> = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .filter(|at| *at < text.len())
            .collect();
        let of_tests =
            path.components().any(|c| ["tests", "examples", "benches"].contains(&c.as_os_str().to_str().unwrap_or("")))
                && !path.components().any(|c| c.as_os_str() == "src");
        let mut source = Source { tests: vec![of_tests; starts.len()], path, text, kinds, starts };
        source.mark_tests();
        source
    }

    /// The number of a byte's line, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|s| *s <= at)
    }

    /// Whether a byte stands in a test.
    pub(super) fn is_test(&self, at: usize) -> bool {
        self.tests.get(self.line(at).saturating_sub(1)).copied().unwrap_or(false)
    }

    /// What a byte belongs to.
    pub(super) fn kind(&self, at: usize) -> Kind {
        self.kinds.get(at).copied().unwrap_or(Kind::Code)
    }

    /// Lines outside tests that hold more than comments and blanks, by number from 1.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.starts.iter().zip(&self.tests).zip(self.text.lines()).enumerate();
        lines
            .filter(|(_, ((start, test), line))| !**test && self.holds_code(**start, line))
            .map(|(n, (_, l))| (n + 1, l))
    }

    fn holds_code(&self, start: usize, line: &str) -> bool {
        line.bytes().enumerate().any(|(i, b)| !b.is_ascii_whitespace() && self.kind(start + i) != Kind::Comment)
    }

    /// The occurrences of `word` in code outside tests: neither in a comment nor in a literal.
    pub(super) fn places<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let at = self.text.match_indices(word).map(|(at, _)| at);
        at.filter(|at| self.kind(*at) == Kind::Code && !self.is_test(*at))
    }

    /// Marks what an attribute `#[cfg(test)]` stands before, to its closing brace or its semicolon.
    fn mark_tests(&mut self) {
        for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
            let at: Vec<usize> = self.places(attribute).collect();
            for at in at {
                let end = self.item_end(at);
                let (first, last) = (self.line(at), self.line(end));
                self.tests.iter_mut().take(last).skip(first - 1).for_each(|t| *t = true);
            }
        }
    }

    /// The last byte of the item whose first attribute stands here.
    fn item_end(&self, at: usize) -> usize {
        let (mut braces, mut others) = (0_usize, 0_usize);
        for (i, b) in self.text.bytes().enumerate().skip(at).filter(|(i, _)| self.kind(*i) == Kind::Code) {
            match b {
                b'(' | b'[' => others += 1,
                b')' | b']' => others = others.saturating_sub(1),
                b'{' => braces += 1,
                b'}' if braces <= 1 => return i,
                b'}' => braces -= 1,
                b';' if braces == 0 && others == 0 => return i,
                _ => {}
            }
        }
        self.text.len().saturating_sub(1)
    }

    /// The modules that are declared for tests alone, with a file of their own.
    fn test_modules(&self) -> Vec<PathBuf> {
        let stem = self.path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let dir = self.path.parent().unwrap_or(Path::new(""));
        let dir = if ["mod", "lib", "main"].contains(&stem) { dir.to_path_buf() } else { dir.join(stem) };
        let declared = self
            .text
            .lines()
            .zip(&self.tests)
            .filter(|(_, test)| **test)
            .filter_map(|(line, _)| line.trim().strip_prefix("mod ").and_then(|l| l.strip_suffix(';')));
        declared.flat_map(|name| [dir.join(format!("{name}.rs")), dir.join(name).join("mod.rs")]).collect()
    }
}

/// Marks files that are modules of tests alone, and what stands below them.
pub(super) fn mark_test_files(sources: &mut [Source]) {
    loop {
        let modules: BTreeSet<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
        let mut found = false;
        for source in sources.iter_mut().filter(|s| modules.contains(&s.path) && s.tests.contains(&false)) {
            source.tests.fill(true);
            found = true;
        }
        if !found {
            return;
        }
    }
}

/// What each byte belongs to.
fn kinds(text: &[u8]) -> Vec<Kind> {
    let mut out = vec![Kind::Code; text.len()];
    let mut at = 0;
    while at < text.len() {
        let (kind, end) = token(text, at);
        out[at..end].fill(kind);
        at = end;
    }
    out
}

/// The comment, the literal or the byte of code that begins here, and where it ends.
fn token(text: &[u8], at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let word_before = at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return (Kind::Comment, rest.iter().position(|b| *b == b'\n').map_or(text.len(), |n| at + n));
    }
    if rest.starts_with(b"/*") {
        return (Kind::Comment, block_comment(text, at));
    }
    if rest.starts_with(b"\"") {
        return (Kind::Literal, quoted(text, at, b'"'));
    }
    let hashes = rest.iter().skip(1).take_while(|b| **b == b'#').count();
    if rest[0] == b'r' && rest.get(1 + hashes) == Some(&b'"') && (!word_before || text[at - 1] == b'b') {
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        let inside = at + 2 + hashes;
        let end = text[inside..].windows(close.len()).position(|w| w == close);
        return (Kind::Literal, end.map_or(text.len(), |n| inside + n + close.len()));
    }
    // A lifetime has no second quote.
    if rest[0] == b'\'' && (rest.get(1) == Some(&b'\\') || closes(rest)) {
        return (Kind::Literal, quoted(text, at, b'\''));
    }
    (Kind::Code, at + 1)
}

/// Whether one character stands between two single quotes.
fn closes(rest: &[u8]) -> bool {
    let width = match rest.get(1) {
        Some(b) if *b >= 0xF0 => 4,
        Some(b) if *b >= 0xE0 => 3,
        Some(b) if *b >= 0xC0 => 2,
        _ => 1,
    };
    rest.get(1 + width) == Some(&b'\'')
}

fn quoted(text: &[u8], at: usize, quote: u8) -> usize {
    let mut i = at + 1;
    while let Some(b) = text.get(i) {
        match b {
            b'\\' => i += 2,
            b if *b == quote => return i + 1,
            _ => i += 1,
        }
    }
    text.len()
}

fn block_comment(text: &[u8], at: usize) -> usize {
    let (mut depth, mut i) = (0_usize, at);
    while i < text.len() {
        if text[i..].starts_with(b"/*") {
            (depth, i) = (depth + 1, i + 2);
        } else if text[i..].starts_with(b"*/") {
            (depth, i) = (depth - 1, i + 2);
            if depth == 0 {
                return i;
            }
        } else {
            i += 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new("crates/x/src/lib.rs".into(), text.into())
    }

    #[test]
    fn code_is_told_from_comments_literals_and_tests() {
        let s = source(
            "//! A header.\n\nfn a<'x>(c: &'x str) -> char { '\"' } // \"\n/* { /* } */ */\nconst B: &str = r#\"// \" {\"#;\n\
             #[cfg(test)]\nmod tests {\n    const C: &str = \"}\";\n}\nfn d() { /* … */ }\n",
        );
        assert_eq!(s.code().map(|(n, _)| n).collect::<Vec<_>>(), [3, 5, 10]);
        assert_eq!(s.places("fn").count(), 2);
    }

    #[test]
    fn a_test_item_ends_where_it_ends() {
        let s = source("#[cfg(test)]\nuse a::{b, c};\nfn d() {}\n#[cfg(test)]\nfn e(f: [u8; 3]) {\n}\nfn g() {}\n");
        assert_eq!(s.code().map(|(n, _)| n).collect::<Vec<_>>(), [3, 7]);
    }

    #[test]
    fn modules_of_tests_alone_are_tests_whole() {
        let mut all = [
            source("//! A.\n#[cfg(test)]\nmod suite;\nmod policy;\n"),
            Source::new("crates/x/src/suite.rs".into(), "fn a() {}\n".into()),
            Source::new("crates/x/src/policy.rs".into(), "fn a() {}\n".into()),
        ];
        mark_test_files(&mut all);
        assert_eq!(all.map(|s| s.code().count()), [1, 0, 1]);
    }
}
