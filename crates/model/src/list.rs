//! Lists as people write them. In: `10.0.0.1, 10.0.0.0/8, 192.0.2.10-192.0.2.99, 2001:db8::/32`, on one line or on
//! many, with `#` comments. Out: prefixes and warnings, or the position and reason of the first thing that is wrong.

use std::fmt;

use crate::addr::Addr;
use crate::prefix::{AddrRange, Prefix};

/// What a list text meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListText {
    /// The prefixes, in the order written.
    pub prefixes: Vec<Prefix>,
    /// What was accepted but should be written otherwise.
    pub warnings: Vec<ListWarning>,
}

/// Something accepted that deserves a word, with the normal form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListWarning {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was written.
    pub text: String,
    /// How it was read.
    pub normal: String,
}

/// The first thing wrong in a list text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was written.
    pub text: String,
    /// What was wanted and what is wrong.
    pub reason: String,
}

/// Reads a list: items parted by commas, spaces or line ends; `#` starts a comment.
///
/// # Errors
/// The first item that is no address, prefix or range. An empty text is an empty list, which lets nobody in.
pub fn parse_list(text: &str) -> Result<ListText, ListError> {
    let mut out = ListText::default();
    for (n, line) in text.lines().enumerate() {
        let body = line.split('#').next().unwrap_or_default();
        for (at, item) in items(body) {
            let column = body[..at].chars().count() + 1;
            read_item(item, &mut out, n + 1, column).map_err(|reason| ListError {
                line: n + 1,
                column,
                text: item.to_string(),
                reason,
            })?;
        }
    }
    Ok(out)
}

impl fmt::Display for ListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: `{}`: {}", self.line, self.column, self.text, self.reason)
    }
}

impl std::error::Error for ListError {}

impl fmt::Display for ListWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: `{}` has host bits, read as `{}`", self.line, self.column, self.text, self.normal)
    }
}

/// The items of a line with their byte offsets. `a - b` with spaces is one item.
fn items(line: &str) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    for part in split_keep(line, |c| c == ',' || c == ';') {
        let (mut at, text) = part;
        let lead = text.len() - text.trim_start().len();
        at += lead;
        let text = text.trim();
        if text.is_empty() {
            continue;
        }
        if text.contains(" - ") {
            out.push((at, text));
            continue;
        }
        for (o, word) in split_keep(text, char::is_whitespace) {
            if !word.is_empty() {
                out.push((at + o, word));
            }
        }
    }
    out
}

fn split_keep(text: &str, is: impl Fn(char) -> bool) -> Vec<(usize, &str)> {
    let mut out = Vec::new();
    let mut from = 0;
    for (i, c) in text.char_indices() {
        if is(c) {
            out.push((from, &text[from..i]));
            from = i + c.len_utf8();
        }
    }
    out.push((from, &text[from..]));
    out
}

fn read_item(item: &str, out: &mut ListText, line: usize, column: usize) -> Result<(), String> {
    if let Some((a, b)) = item.split_once('-') {
        let first: Addr = a.parse().map_err(|e: crate::AddrError| format!("the start of the range {e}"))?;
        let last: Addr = b.parse().map_err(|e: crate::AddrError| format!("the end of the range {e}"))?;
        let range = AddrRange::new(first, last)
            .ok_or("a range runs from the lower to the higher address of one family".to_string())?;
        out.prefixes.extend(range.prefixes());
        return Ok(());
    }
    let (prefix, host_bits) = Prefix::parse_lenient(item).map_err(|e| e.reason)?;
    if host_bits {
        out.warnings.push(ListWarning { line, column, text: item.to_string(), normal: prefix.to_string() });
    }
    out.prefixes.push(prefix);
    Ok(())
}
