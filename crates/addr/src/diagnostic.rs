//! What failed and what to do about it. In: two sentences for a person. Out: an error that carries the second apart from
//! the first, so that it is shown once, below everything that failed.

use std::fmt;

/// An error with advice. Its text is what failed; whoever shows it shows the advice apart, as `hint: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What failed.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl Diagnostic {
    /// An error with advice.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Diagnostic {
        Diagnostic { what: what.into(), hint: hint.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Diagnostic {}
