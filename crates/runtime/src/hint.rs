//! Errors that say what to do. In: what failed and advice. Out: a context of an `anyhow` chain, whose advice the
//! program prints as `hint: …` after the chain.

use std::fmt;

/// A link of an error chain that carries advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hinted {
    /// What failed; shown as this link of the chain.
    pub what: String,
    /// What to do about it; shown apart.
    pub hint: String,
}

impl Hinted {
    /// A new error with advice.
    pub fn error(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Hinted { what: what.into(), hint: hint.into() })
    }
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hinted {}
