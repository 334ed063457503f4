//! What the registry knows of nodes beside their records. In: a record, a request to join. Out: a member of the network,
//! somebody who waits to become one.

use std::sync::Arc;

use addr::Addr;
use tailnet_proto::meshkey::{MachineKey, NodeKey};
use tailnet_proto::tailcfg::host::Hostinfo;

use crate::record::Node;

/// A node and what is known of it now.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its record.
    pub node: Arc<Node>,
    /// True if it is connected and answers.
    pub online: bool,
    /// True if it is connected and does not answer.
    pub silent: bool,
    /// True if its key has ended.
    pub expired: bool,
    /// Where its control connection comes from.
    pub from: Option<Addr>,
    /// The revision at which others have to be told everything of it.
    pub told: u64,
    /// The revision at which a small change is enough.
    pub patched: u64,
}

/// A node that waits until a person approves it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// What its page and `nodes approve` call it.
    pub ticket: String,
    /// Its machine.
    pub machine: MachineKey,
    /// The key it will use.
    pub key: NodeKey,
    /// Its host.
    pub host: Hostinfo,
    /// True if it wants to be forgotten when it goes.
    pub ephemeral: bool,
    /// Capability version.
    pub version: u32,
    /// Where it asked from, if that is known.
    pub from: Option<Addr>,
    /// Since when, seconds since the Unix epoch.
    pub since: u64,
    /// The node key that its machine says it had before.
    pub before: Option<NodeKey>,
    /// When a person turned it away, seconds since the Unix epoch.
    pub refused: Option<u64>,
    /// The node it has become.
    pub node: Option<u64>,
}

/// A page is good for an hour: long enough to find the administrator.
const PENDING_LIFE: u64 = 3_600;
/// A machine that was turned away gets no new page for so long: its client asks for one every few seconds. A person who
/// turned away the wrong one does not wait for an hour.
const REFUSED_LIFE: u64 = 600;
impl Member {
    pub(crate) fn new(node: Arc<Node>, revision: u64) -> Member {
        Member { node, online: false, silent: false, expired: false, from: None, told: revision, patched: revision }
    }
}

impl Pending {
    /// When it is forgotten, seconds since the Unix epoch.
    #[must_use]
    pub fn ends(&self) -> u64 {
        self.refused.map_or(self.since + PENDING_LIFE, |at| at + REFUSED_LIFE)
    }

    /// True while a person has still to decide.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.node.is_none() && self.refused.is_none()
    }
}
