//! Words on standard output. In: text. Out: the same, and a quiet end of the process when the reader went away
//! (`portcullis man | head`).

use std::io::{IsTerminal, Write};

/// Writes text as it is.
pub(crate) fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        // Nobody reads any more: nothing failed, and there is nothing left to say.
        std::process::exit(0);
    }
}

/// Writes a line.
pub(crate) fn line(text: impl std::fmt::Display) {
    raw(&format!("{text}\n"));
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
    let mut width: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in width.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let heads: Vec<String> = head.iter().map(|h| (*h).to_string()).collect();
    for row in std::iter::once(&heads).chain(rows) {
        let cells: Vec<String> = row.iter().zip(&width).map(|(c, w)| format!("{c:<w$}", w = *w)).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
