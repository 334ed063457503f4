//! Words on standard output. In: text. Out: the same, and a quiet end of the process when the reader went away
//! (`portcullis man | head`).

use std::borrow::Cow;
use std::io::{IsTerminal, Write};

use addr::Timestamp;
use anyhow::Context;

/// Writes text as it is.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody reads any more: nothing failed, and there is nothing left to say.
        std::process::exit(0);
    }
}

/// Writes a line, or several.
pub(crate) fn line(text: impl std::fmt::Display) {
    let text = text.to_string();
    let shown: Vec<Cow<'_, str>> = text.split('\n').map(plain).collect();
    raw(&(shown.join("\n") + "\n"));
}

/// Says that what is in force may not be what the files say.
pub(crate) fn stale(files: &api::Freshness) {
    if let Some(stale) = &files.stale {
        line(stale);
    }
}

/// Writes a value as JSON, over several lines. Keys are in the alphabet's order.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_value(value).and_then(|v| serde_json::to_string_pretty(&v));
    line(text.context("cannot print the answer")?);
    Ok(())
}

/// A word for a cell or a line: names come from certificates and hosts, so what steers a terminal or ends the line is
/// taken out.
pub(crate) fn word(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Words with something between them.
pub(crate) fn words<T: AsRef<str>>(all: &[T], between: &str) -> String {
    all.iter().map(|t| word(t.as_ref())).collect::<Vec<_>>().join(between)
}

/// Seconds since the Unix epoch as `2026-11-21 14:00:00Z`.
pub(crate) fn when(at: u64) -> String {
    Timestamp(at).to_string().replacen('T', " ", 1)
}

/// A word or a line as a person may see it: names come from policies under review, from hosts, from untrusted peers, and what
/// moves the cursor, ends the line or turns its direction could show another answer. In the form of JSON's strings.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(hides) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hides(c) {
            true => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Controls (C0, C1), and format characters that are not seen or reorder what is (Unicode's categories Zl, Zp and Cf).
fn hides(c: char) -> bool {
    (c.is_control() && c != '\t')
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Writes a line beside the real work: a room goes on serving when nobody reads its greeting any more.
pub(crate) fn aside(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush());
}

/// True if a person looks at standard output.
pub(crate) fn to_person() -> bool {
    std::io::stdout().is_terminal()
}

/// A table with aligned columns.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|r| r.iter().map(|c| plain(c).into_owned()).collect()).collect();
    let mut width: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in &rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let heads: Vec<String> = head.iter().map(|h| (*h).to_string()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells: Vec<String> = row.iter().zip(&width).map(|(c, w)| format!("{c:<w$}", w = *w)).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (t, text) in [
            (0u64, "1970-01-01 00:00:00Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_269_600, "2026-11-21 14:00:00Z"),
        ] {
            assert_eq!(when(t), text);
        }
    }

    #[test]
    fn nothing_that_is_shown_moves_the_cursor_or_turns_a_line() {
        assert_eq!(plain("ada@example.com, größe 東京"), "ada@example.com, größe 東京");
        assert_eq!(
            plain("a\u{1b}[1A\u{1b}[2Kb\r\nc\u{202e}d\u{9b}"),
            "a\\u001b[1A\\u001b[2Kb\\u000d\\u000ac\\u202ed\\u009b"
        );
        assert_eq!(table(&["A"], &[vec!["x\n+ y".into()]]), "A\nx\\u000a+ y\n");
    }
}
