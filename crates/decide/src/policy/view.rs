//! What a node is told, as JSON. In: a compiled policy. Out: the form in which captures of the hosted service have it,
//! so that both can be laid side by side.

use serde_json::{Map, Value, json};

use super::compile::{Compiled, NodeView};

impl Compiled<'_> {
    /// `{"nodes": {NAME: …}}` for one node or, with `None`, for all.
    #[must_use]
    pub fn to_json(&self, only: Option<usize>) -> Value {
        let mut nodes = Map::new();
        let mut add = |view: NodeView| {
            if let Some(n) = self.topology().nodes.get(view.node) {
                nodes.insert(n.name.clone(), self.node_json(&view));
            }
        };
        match only {
            Some(n) => self.for_node(n).into_iter().for_each(&mut add),
            None => self.for_all().for_each(&mut add),
        }
        json!({ "nodes": nodes })
    }

    /// One node: `packet_filter_rules` (`null` for none), `peers`, `peer_allowed_ips`, `self_allowed_ips`,
    /// `self_cap_map`.
    #[must_use]
    pub fn node_json(&self, view: &NodeView) -> Value {
        let name = |n: usize| self.topology().nodes.get(n).map(|n| n.name.clone()).unwrap_or_default();
        let rules: Vec<_> = view.filter.iter().map(|f| self.to_wire(f)).collect();
        let long = |list: Vec<model::Prefix>| list.iter().map(|p| format!("{}/{}", p.first(), p.bits())).collect::<Vec<_>>();
        let allowed: Map<String, Value> =
            view.peers.iter().map(|p| (name(*p), json!(long(self.allowed_ips(view.node, *p))))).collect();
        json!({
            "packet_filter_rules": if rules.is_empty() { Value::Null } else { json!(rules) },
            "peers": view.peers.iter().map(|p| name(*p)).collect::<Vec<_>>(),
            "peer_allowed_ips": allowed,
            "self_allowed_ips": long(self.own_allowed_ips(view.node)),
            "self_cap_map": self.capabilities(view.node),
        })
    }
}
