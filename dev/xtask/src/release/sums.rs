//! Checksums. In: everything on the page. Out: `SHA256SUMS`, as `sha256sum -c` reads it.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use super::Page;

/// The name of the list.
pub(super) const NAME: &str = "SHA256SUMS";

/// Writes the list of every file but itself and its signature.
///
/// # Errors
/// A file cannot be read.
pub(super) fn make(page: &Page) -> Result<()> {
    let mut lines = String::new();
    for name in page.files()?.iter().filter(|n| !n.starts_with(NAME)) {
        let content = std::fs::read(page.dir.join(name)).with_context(|| format!("cannot read {name}"))?;
        let _ = writeln!(lines, "{}  {name}", stage::sha256(&content));
    }
    page.write(NAME, lines)
}
