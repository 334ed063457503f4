//! What a node is told about itself: capabilities every node has, those that `nodeAttrs` give, and app connectors. In:
//! a resolved policy. Out: name to value, `null` where there is nothing more to say.

use std::collections::BTreeMap;

use addr::Prefix;
use serde_json::{Value, json};

use super::posture;
use super::resolve::{Resolver, role_reaches};
use super::topology::Node;
use super::who::{Role, Who};

/// What the hosted service tells every node, with no value (captures of `self_cap_map`): that it may use SSH and send
/// files, and how its client should behave.
const BASE: [&str; 7] = [
    "https://tailscale.com/cap/file-sharing",
    "https://tailscale.com/cap/ssh",
    "https://tailscale.com/cap/tailnet-lock",
    "probe-udp-lifetime",
    "ssh-behavior-v1",
    "ssh-env-vars",
    "store-appc-routes",
];

/// Ports that funnel may use, as the hosted service offers them, and its word that HTTPS is not switched on.
const FUNNEL: [&str; 2] =
    ["https://tailscale.com/cap/funnel-ports?ports=443,8443,10000", "https://tailscale.com/cap/warn-funnel-no-https"];

/// The attribute that takes a node's IPv4 address away.
const NO_IPV4: &str = "disable-ipv4";

/// True for what follows from the role of a node's user and from nothing that a policy says of the node.
pub(crate) fn by_role(name: &str) -> bool {
    matches!(name, "https://tailscale.com/cap/is-admin" | "https://tailscale.com/cap/is-owner")
}

/// True for what every node of every network has.
pub(crate) fn usual(name: &str) -> bool {
    BASE.contains(&name) || matches!(name, "default-auto-update" | "tailnet-display-name")
}

/// The capabilities of one node.
pub(crate) fn capabilities(r: &Resolver, node: usize) -> BTreeMap<String, Value> {
    let Some(n) = r.topology.nodes.get(node) else { return BTreeMap::new() };
    let mut out: BTreeMap<String, Value> = BASE.iter().map(|c| ((*c).to_string(), Value::Null)).collect();
    out.insert("default-auto-update".to_string(), json!([false]));
    let owner = r.topology.owner().and_then(|u| r.topology.users.get(u));
    if let Some(u) = owner {
        let name = if u.email.is_empty() { &u.name } else { &u.email };
        out.insert("tailnet-display-name".to_string(), json!([name]));
    }
    for (role, cap) in [(Role::Admin, "is-admin"), (Role::Owner, "is-owner")] {
        if role_reaches(r, node, role) {
            out.insert(format!("https://tailscale.com/cap/{cap}"), Value::Null);
        }
    }
    if r.policy.randomize_client_port {
        out.insert("randomize-client-port".to_string(), Value::Null);
    }
    let mac = n.posture.get("node:os") == Some(&posture::Value::Text("macos".to_string()));
    match r.policy.one_cgnat_route.as_str() {
        "mac-always" if mac => drop(out.insert("one-cgnat?v=true".to_string(), Value::Null)),
        "mac-never" if mac => drop(out.insert("one-cgnat?v=false".to_string(), Value::Null)),
        _ => {}
    }
    if r.policy.disable_ipv4 {
        out.insert(NO_IPV4.to_string(), Value::Null);
    }
    for entry in r.policy.node_attrs.iter().filter(|e| e.target.iter().any(|t| is_target(r, &t.it, n))) {
        for attr in &entry.attr {
            out.insert(attr.it.clone(), Value::Null);
            if attr.it == "funnel" {
                out.extend(FUNNEL.iter().map(|c| ((*c).to_string(), Value::Null)));
            }
        }
        for (name, value) in &entry.app {
            // Several entries about the same app are one list.
            let new = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            match out.entry(name.clone()).or_insert_with(|| json!([])) {
                Value::Array(list) => list.extend(new),
                other => *other = Value::Array(new),
            }
        }
    }
    out
}

/// True if the node goes without an IPv4 address.
pub(crate) fn ipv4_disabled(r: &Resolver, node: usize) -> bool {
    let Some(n) = r.topology.nodes.get(node) else { return false };
    r.policy.disable_ipv4
        || r.policy
            .node_attrs
            .iter()
            .any(|e| e.attr.iter().any(|a| a.it == NO_IPV4) && e.target.iter().any(|t| is_target(r, &t.it, n)))
}

/// The ranges from which a node takes its addresses, in the order written; none for the usual ones.
pub(crate) fn ip_pool(r: &Resolver, n: &Node) -> Vec<Prefix> {
    let entries = r.policy.node_attrs.iter().filter(|e| e.target.iter().any(|t| is_target(r, &t.it, n)));
    let mut out = Vec::new();
    for pool in entries.flat_map(|e| &e.ip_pool) {
        if !out.contains(&pool.it) {
            out.push(pool.it);
        }
    }
    out
}

fn is_target(r: &Resolver, who: &Who, n: &Node) -> bool {
    match who {
        Who::Any => true,
        Who::Prefix(p, _) => n.addrs().any(|a| p.contains(a)),
        Who::Host(h) => r.policy.hosts.get(h).is_some_and(|h| n.addrs().any(|a| h.it.contains(a))),
        _ => r.members(who).is_some_and(|m| m.has(n)),
    }
}
