//! The clock of a component with a store: `clock`, `clock-reset`.

use serde::{Deserialize, Serialize};

/// Asks for the time that deadlines go by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Show {
    /// Whose; `None`: of the only one, or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Owner>,
}

/// Lets deadlines go by the machine's clock again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// Whose; `None`: of the only one, or the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<Owner>,
}

/// Who has a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The gate.
    Gate,
    /// The coordination server.
    Control,
}

/// How a component's time stands to the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The machine's clock.
    pub wall: u64,
    /// What deadlines go by.
    pub time: u64,
    /// What a restart goes on from.
    pub floor: u64,
    /// A jump forward that does not count yet.
    pub jump: Option<Jump>,
}

/// A jump of the machine's clock that does not count yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jump {
    /// How far, seconds.
    pub by: u64,
    /// In how many seconds it counts if it lasts.
    pub believed_in: u64,
}

/// What a reset changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WasReset {
    /// What deadlines went by.
    pub from: u64,
    /// What was saved for the next start.
    pub floor: u64,
    /// The machine's clock, which they go by now.
    pub to: u64,
    /// That in words.
    pub words: String,
}
