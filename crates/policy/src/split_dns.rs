//! Which names a node asks connectors for. In: a compiled policy and what one node sees. Out: domains, and at which nodes.

use std::collections::BTreeMap;

use super::apps::base;
use super::compile::{Compiled, NodeView};
use super::language::Connector;

impl Compiled {
    /// Split DNS of a node: each name of an app connector, a wildcard as its parent (`*.code.example` is
    /// `code.example`, which covers all below it), and the places of the connectors that the node sees and that learn
    /// for it, in order. A connector asks nobody for its own names; a name nobody visible learns for is not there. A
    /// name that is left out, and that no other app of these stands for, has no place: it is asked for as usual.
    #[must_use]
    pub fn split_dns(&self, view: &NodeView) -> BTreeMap<&str, Vec<usize>> {
        let mut out: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        let nodes = &self.topology().nodes;
        let mut asked: Vec<&Connector> = Vec::new();
        for c in self.resolver.policy.connectors() {
            if nodes.get(view.node).is_some_and(|own| c.is_at(&own.tags)) {
                continue;
            }
            let learn = |n: &&usize| nodes.get(**n).is_some_and(|node| c.is_at(&node.tags));
            let learners: Vec<usize> = view.peers.iter().filter(learn).copied().collect();
            if learners.is_empty() {
                continue;
            }
            asked.push(c);
            for domain in &c.domains {
                let places = out.entry(base(&domain.it)).or_default();
                places.extend(&learners);
                places.sort_unstable();
                places.dedup();
            }
        }
        for name in asked.iter().flat_map(|c| &c.except).map(|d| d.it.as_str()) {
            if !name.starts_with("*.") && !asked.iter().any(|c| c.covers(name)) {
                out.entry(name).or_default();
            }
        }
        out
    }
}

#[cfg(test)]
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

    #[test]
    fn a_name_that_is_left_out_is_asked_for_as_usual_unless_another_app_stands_for_it() {
        let dns = |more: &str| {
            let policy = Policy::parse(&format!(
                r#"{{"tagOwners": {{"tag:conn": [], "tag:two": []}},
                    "nodeAttrs": [{{"target": ["*"], "app": {{"tailscale.com/app-connectors": [
                        {{"name": "code", "connectors": ["tag:conn"], "domains": ["*.code.example", "!old.code.example", "!*.lab.code.example"]}}{more}]}}}}],
                    "grants": [{{"src": ["*"], "dst": ["*"], "ip": ["*"]}}]}}"#
            ))
            .unwrap();
            let topology = Topology::read(
                r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}],
                    "nodes": {"a": {"user": "ada", "ipv4": "100.64.0.1"}, "c": {"tags": ["tag:conn"], "ipv4": "100.64.0.3"},
                              "d": {"tags": ["tag:two"], "ipv4": "100.64.0.4"}}}"#,
            )
            .unwrap();
            let compiled = Compiled::new(policy.into(), topology.into());
            let view = compiled.for_node(0).unwrap();
            compiled.split_dns(&view).into_iter().map(|(d, at)| (d.to_string(), at)).collect::<Vec<_>>()
        };
        let (parent, out) = (("code.example".to_string(), vec![1]), "old.code.example".to_string());
        assert_eq!(dns(""), [parent.clone(), (out.clone(), vec![])]);
        let named = r#", {"name": "old", "connectors": ["tag:two"], "domains": ["old.code.example"]}"#;
        assert_eq!(dns(named), [parent, (out, vec![2])]);
    }
}
