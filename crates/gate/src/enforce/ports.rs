//! Which ports the kernel guards. In: flags and the configuration's table. Out: a value, the same on every system.

use std::collections::BTreeSet;

use addr::Port;

/// How ports are guarded in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NftablesConfig {
    /// The list.
    pub list: String,
    /// TCP and UDP ports that only the list may reach.
    pub ports: BTreeSet<Port>,
    /// The table's name.
    pub table: String,
}
