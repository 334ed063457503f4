//! Who leaves to the internet from the same address as a connector. In: a snapshot. Out: what such a node does without
//! the connector: the service sees the right address anyway, so that a detour through the connector gives nothing.

use std::collections::BTreeSet;

use addr::{Addr, Prefix};

use super::member::Member;
use super::snapshot::Snapshot;
use policy::language::Connector;

/// What a node reaches by its own way although an app stands for it.
#[derive(Debug, Default)]
pub(crate) struct OwnWay {
    /// The connectors of these apps, by number.
    pub(crate) connectors: BTreeSet<u64>,
    /// The routes of these apps.
    pub(crate) routes: BTreeSet<Prefix>,
}

impl OwnWay {
    /// Takes the routes out of those that a node is told of a peer.
    pub(crate) fn without(&self, peer: u64, mut allowed: Vec<Prefix>) -> Vec<Prefix> {
        if self.connectors.contains(&peer) {
            allowed.retain(|p| !self.routes.contains(p));
        }
        allowed
    }
}

impl Snapshot {
    /// What a node needs no connector for.
    pub(crate) fn own_way(&self, viewer: &Member) -> OwnWay {
        let mut out = OwnWay::default();
        if public(viewer).is_none() {
            return out;
        }
        let connectors: Vec<&Connector> = self.compiled.policy().connectors().collect();
        if connectors.is_empty() {
            return out;
        }
        let near: Vec<(&Member, Addr)> = self.nodes.values().filter_map(|m| Some((m, shared(viewer, m)?))).collect();
        for c in connectors {
            let here = near.iter().find(|(m, _)| !m.expired && c.is_at(&m.node.tags));
            let Some((_, addr)) = here.filter(|_| !c.is_at(&viewer.node.tags)) else { continue };
            let same = |p: &Prefix| p.is_v4() == addr.is_v4() && !p.first().is_private();
            out.routes.extend(c.routes.iter().map(|r| r.it).filter(same));
            for m in self.nodes.values().filter(|m| c.is_at(&m.node.tags)) {
                out.connectors.insert(m.node.id);
                let learnt = m.node.learnt.iter().filter(|l| c.covers(&l.domain));
                out.routes.extend(learnt.map(|l| Prefix::host(l.addr)).filter(same));
            }
        }
        out
    }
}

/// The public address that two nodes leave from. Two witnesses are wanted: their connections to this server, and what
/// they say of themselves (their STUN answers are among their endpoints). A proxy in front of this server that nobody
/// declared would make everybody seem to come from one address.
fn shared(one: &Member, other: &Member) -> Option<Addr> {
    (one.node.id != other.node.id).then(|| public(one).filter(|a| public(other) == Some(*a)))?
}

fn public(m: &Member) -> Option<Addr> {
    let said = |a: &Addr| m.node.endpoints.iter().any(|e| Addr::of(*e) == *a);
    m.from.filter(|a| !a.is_private()).filter(said)
}
