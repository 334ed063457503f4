//! A list's yes or no, as the admin socket says it.

use serde::{Deserialize, Serialize};

/// A list's yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is let in.
    Allow,
    /// It is not.
    Refuse,
}

impl Verdict {
    /// True if it is let in.
    #[must_use]
    pub fn is_allow(self) -> bool {
        self == Verdict::Allow
    }
}
