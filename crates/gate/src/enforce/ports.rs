//! Which ports the kernel guards. In: flags and the configuration's table. Out: a value, the same on every system.

use std::collections::BTreeSet;

use addr::Port;
use serde::{Deserialize, Serialize};

/// How ports are guarded in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftablesConfig {
    /// The list.
    pub list: String,
    /// TCP and UDP ports that only the list may reach.
    pub ports: BTreeSet<Port>,
    /// The table's name.
    pub table: String,
    /// What becomes of the ports if the gate fails.
    pub on_failure: OnFailure,
}

/// What becomes of guarded ports when the gate cannot start, or ends because something failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// They stay guarded: who was let in stays in until their time is over, and nobody new comes in.
    #[default]
    Closed,
    /// They are open to everybody until a gate guards them again.
    Open,
}
