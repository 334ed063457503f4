//! App connectors from the side of those who use them. In: a compiled policy. Out: which names an app stands for, and
//! whom a node asks for them.

use std::collections::BTreeMap;

use super::compile::{Compiled, NodeView};
use super::language::{Connector, Policy};

impl Policy {
    /// All app connectors, in the order written.
    pub fn connectors(&self) -> impl Iterator<Item = &Connector> {
        self.node_attrs.iter().flat_map(|entry| &entry.connectors)
    }
}

impl Connector {
    /// True if a node with these tags learns for the app.
    pub fn is_at(&self, tags: &[String]) -> bool {
        self.connectors.iter().any(|t| t.it == "*" || tags.contains(&t.it))
    }

    /// True if the app stands for a name. Of everything written that reaches the name the longest decides, and of two
    /// that are as long the one that leaves it out.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        let named = self.domains.iter().filter_map(|d| reach(&d.it, name)).max();
        named.is_some_and(|n| self.left_out(name).is_none_or(|out| out < n))
    }

    /// True if official connectors learn for a name: they know nothing of names that are left out.
    #[must_use]
    pub fn could_learn(&self, name: &str) -> bool {
        self.domains.iter().any(|d| reach(&d.it, name).is_some())
    }

    /// How much is written of the name where it is left out.
    fn left_out(&self, name: &str) -> Option<usize> {
        let all = |d: &str| {
            if d.starts_with("*.") { reach(d, name) } else { reach(d, name).or(reach(&format!("*.{d}"), name)) }
        };
        self.except.iter().filter_map(|d| all(&d.it)).max()
    }
}

/// The domain of a wildcard, and any other as it is.
pub(crate) fn base(domain: &str) -> &str {
    domain.strip_prefix("*.").unwrap_or(domain)
}

/// How long the domain is that stands for the name, if it does: itself, or with `*.` whatever is below it.
pub(crate) fn reach(domain: &str, name: &str) -> Option<usize> {
    let (name, base) = (name.trim_end_matches('.'), base(domain).trim_end_matches('.'));
    let same = if domain.starts_with("*.") {
        let head = name.len().checked_sub(base.len()).filter(|n| *n > 1 && name.is_char_boundary(*n))?;
        name.as_bytes().get(head - 1) == Some(&b'.') && name[head..].eq_ignore_ascii_case(base)
    } else {
        name.eq_ignore_ascii_case(base)
    };
    same.then_some(base.len())
}

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

    /// True if the node learns for an app connector of the policy.
    #[must_use]
    pub fn is_connector(&self, node: usize) -> bool {
        let Some(node) = self.topology().nodes.get(node) else { return false };
        self.resolver.policy.connectors().any(|c| c.is_at(&node.tags))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Topology;
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
    fn the_longest_word_about_a_name_decides() {
        let app = |domains: &str| {
            let text = format!(
                r#"{{"nodeAttrs": [{{"target": ["*"], "app": {{"tailscale.com/app-connectors": [
                    {{"name": "crm", "connectors": ["*"], "domains": [{domains}]}}]}}}}]}}"#
            );
            Policy::parse(&text)
        };
        let policy =
            app(r#""*.crm.example", "!old.crm.example", "new.old.crm.example", "!*.lab.crm.example""#).unwrap();
        let c = &policy.node_attrs[0].connectors[0];
        for (name, is) in [
            ("a.crm.example", true),
            ("A.b.CRM.example.", true),
            ("crm.example", false),
            ("xcrm.example", false),
            ("old.crm.example", false),
            ("x.Old.crm.example.", false),
            ("gold.crm.example", true),
            ("new.old.crm.example", true),
            ("lab.crm.example", true),
            ("x.lab.crm.example", false),
        ] {
            assert_eq!(c.covers(name), is, "{name}");
        }
        assert!(c.could_learn("x.old.crm.example") && !c.could_learn("crm.example"));
        // What connectors are told holds no word that they do not know.
        let told = &policy.node_attrs[0].app["tailscale.com/app-connectors"][0]["domains"];
        assert_eq!(told, &serde_json::json!(["*.crm.example", "new.old.crm.example"]));
        for (bad, why) in [
            (r#""*.crm.example", "!else.example""#, "no wildcard of this app stands for it"),
            (r#""*.crm.example", "!crm.example""#, "no wildcard of this app stands for it"),
            (r#""*.crm.example", "a.crm.example", "!a.crm.example""#, "both named and left out"),
            (r#""*.crm.example", "!a..crm.example""#, "is no domain name"),
            (r#""!a.crm.example""#, "needs `domains`"),
        ] {
            let problems = app(bad).unwrap_err();
            assert!(problems.iter().any(|p| p.to_string().contains(why)), "{bad}: {problems:?}");
        }
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
