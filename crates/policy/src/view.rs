//! What a node is told, for machines and for people. In: a compiled policy. Out: JSON in the form in which captures of
//! the hosted service have it, so that both can be laid side by side; and lines to read.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use addr::Prefix;
use serde_json::{Map, Value, json};

use super::compile::{Compiled, NodeView};

impl Compiled {
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
        let rules = self.filter_rules(view);
        let long = |list: Vec<addr::Prefix>| list.iter().map(|p| p.long()).collect::<Vec<_>>();
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

    /// What a node is told, in lines: its prefixes, who comes in where, its peers with what goes through them, who logs
    /// in, whom it asks for names, its capabilities but for those that every node of every network has.
    #[must_use]
    pub fn describe(&self, view: &NodeView) -> String {
        let name = |n: usize| self.topology().nodes.get(n).map_or("?", |n| n.name.as_str());
        let list = |p: &[Prefix]| p.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let mut out = format!("{}: {}\n", name(view.node), list(&self.own_allowed_ips(view.node)));
        for f in &view.filter {
            let src = self.source_texts(&f.src).join(" ");
            let mut places: Vec<(String, Vec<String>)> = Vec::new();
            let mut at: BTreeMap<String, usize> = BTreeMap::new();
            for (to, ports) in &f.dst {
                let to = to.map_or_else(|| "*".into(), |p| p.to_string());
                let i = *at.entry(to.clone()).or_insert_with(|| {
                    places.push((to, Vec::new()));
                    places.len() - 1
                });
                places[i].1.push(ports.to_string());
            }
            let proto = f.proto.map(|p| format!(" {}", super::who::proto_name(p))).unwrap_or_default();
            for (to, mut ports) in places {
                ports.dedup();
                let _ = writeln!(out, "  in   {src} -> {to}{proto} {}", ports.join(","));
            }
            for (dsts, map) in &f.caps {
                let caps: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
                let _ = writeln!(out, "  app  {src} -> {}: {}", list(dsts), caps.join(" "));
            }
        }
        for p in &view.peers {
            let _ = writeln!(out, "  peer {} {}", name(*p), list(&self.allowed_ips(view.node, *p)));
        }
        for rule in self.ssh_policy(view.node, "check").rules {
            let from: Vec<&str> = rule.principals.iter().map(|p| p.node_ip.as_str()).collect();
            let logins = rule.ssh_users.iter().filter(|(_, to)| !to.is_empty()).map(|(name, _)| match name.as_str() {
                "*" => "anybody but root",
                name => name,
            });
            let action = rule.action.unwrap_or_default();
            let word = match (action.reject, action.accept) {
                (true, _) => " refused: nobody records",
                (false, true) => "",
                (false, false) => " after a check",
            };
            let _ = writeln!(out, "  ssh  {} as {}{word}", from.join(" "), logins.collect::<Vec<_>>().join(", "));
        }
        for (domain, at) in self.split_dns(view) {
            let at: Vec<&str> = at.iter().map(|n| name(*n)).collect();
            let _ = writeln!(out, "  dns  {domain} -> {}", at.join(" "));
        }
        for (k, v) in self.capabilities(view.node).into_iter().filter(|(k, _)| !super::caps::usual(k)) {
            let _ = if v.is_null() { writeln!(out, "  cap  {k}") } else { writeln!(out, "  cap  {k}={v}") };
        }
        out
    }
}
