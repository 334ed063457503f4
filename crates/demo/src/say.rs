//! Words on standard output. In: a line. Out: the same, and a quiet end of the process when the reader went away
//! (`portcullis demo | head`).

use std::io::Write;

/// Writes a line.
pub(crate) fn line(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        // Nobody reads any more: nothing failed, and there is nothing left to say.
        std::process::exit(0);
    }
}
