//! App connectors from the side of those who use them. In: a compiled policy. Out: which names a node asks whom for.

use std::collections::BTreeMap;

use super::compile::{Compiled, NodeView};
use super::resolve::is_connector;

impl Compiled {
    /// Split DNS of a node: each name of an app connector, a wildcard as its parent (`*.code.example` is
    /// `code.example`, which covers all below it), and the places of the connectors that the node sees and that learn
    /// for it, in order. A connector asks nobody for its own names; a name nobody visible learns for is not there.
    #[must_use]
    pub fn split_dns(&self, view: &NodeView) -> BTreeMap<&str, Vec<usize>> {
        let mut out: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let nodes = &self.topology().nodes;
        for c in self.resolver.policy.node_attrs.iter().flat_map(|entry| &entry.connectors) {
            if nodes.get(view.node).is_some_and(|own| is_connector(own, c)) {
                continue;
            }
            let learn = |n: &&usize| nodes.get(**n).is_some_and(|node| is_connector(node, c));
            let learners: Vec<usize> = view.peers.iter().filter(learn).copied().collect();
            if learners.is_empty() {
                continue;
            }
            for domain in &c.domains {
                let name = domain.it.strip_prefix("*.").unwrap_or(&domain.it);
                let places = out.entry(name).or_default();
                places.extend(&learners);
                places.sort_unstable();
                places.dedup();
            }
        }
        out
    }

    /// True if the node learns for an app connector of the policy.
    #[must_use]
    pub fn is_connector(&self, node: usize) -> bool {
        let Some(node) = self.topology().nodes.get(node) else { return false };
        self.resolver.policy.node_attrs.iter().flat_map(|entry| &entry.connectors).any(|c| is_connector(node, c))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Policy, Topology};
    use super::*;

    #[test]
    fn names_go_to_visible_connectors_and_to_nobody_else() {
        let policy = Policy::parse(
            r#"{"tagOwners": {"tag:conn": [], "tag:far": []},
                "nodeAttrs": [{"target": ["*"], "app": {"tailscale.com/app-connectors": [
                    {"name": "code", "connectors": ["tag:conn"], "domains": ["code.example", "*.code.example", "x.example"]},
                    {"name": "far", "connectors": ["tag:far"], "domains": ["far.example"]}]}}],
                "grants": [{"src": ["ada@example.com"], "dst": ["tag:conn"], "ip": ["*"]}]}"#,
        )
        .unwrap();
        let topology = Topology::read(
            r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}, {"id": 2, "name": "ben", "email": "ben@example.com"}],
                "nodes": {"a": {"user": "ada", "ipv4": "100.64.0.1"}, "b": {"user": "ben", "ipv4": "100.64.0.2"},
                          "c": {"tags": ["tag:conn"], "ipv4": "100.64.0.3"}, "f": {"tags": ["tag:far"], "ipv4": "100.64.0.4"}}}"#,
        )
        .unwrap();
        let compiled = Compiled::new(policy.into(), topology.into());
        let place = |name: &str| compiled.topology().nodes.iter().position(|n| n.name == name).unwrap();
        let dns = |name: &str| {
            let view = compiled.for_node(place(name)).unwrap();
            compiled.split_dns(&view).into_iter().map(|(d, at)| (d.to_string(), at)).collect::<Vec<_>>()
        };
        let c = vec![place("c")];
        assert_eq!(dns("a"), [("code.example".to_string(), c.clone()), ("x.example".to_string(), c)]);
        assert_eq!(dns("b"), [], "ben sees no connector");
        assert_eq!(dns("c"), [], "a connector asks nobody for its own names");
    }
}
