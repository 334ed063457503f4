//! What a node is told about itself: capabilities every node has, those that `nodeAttrs` give, and app connectors. In:
//! a resolved policy. Out: name to value, `null` where there is nothing more to say.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::resolve::{Resolver, role_reaches};
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

/// The capabilities of one node.
pub(crate) fn capabilities(r: &Resolver, node: usize) -> BTreeMap<String, Value> {
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
    if r.policy.disable_ipv4 {
        out.insert(NO_IPV4.to_string(), Value::Null);
    }
    for entry in r.policy.node_attrs.iter().filter(|e| e.target.iter().any(|t| is_target(r, &t.it, node))) {
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
    r.policy.disable_ipv4
        || r.policy
            .node_attrs
            .iter()
            .any(|e| e.attr.iter().any(|a| a.it == NO_IPV4) && e.target.iter().any(|t| is_target(r, &t.it, node)))
}

fn is_target(r: &Resolver, who: &Who, node: usize) -> bool {
    let Some(n) = r.topology.nodes.get(node) else { return false };
    match who {
        Who::Any => true,
        Who::Tag(t) => n.has_tag(t),
        Who::Tagged => n.is_tagged(),
        Who::Member => !n.is_tagged(),
        Who::Prefix(p, _) => n.addrs().any(|a| p.contains(a)),
        Who::Host(h) => r.policy.hosts.get(h).is_some_and(|h| n.addrs().any(|a| h.it.contains(a))),
        _ => n.owner().is_some_and(|u| r.users(who).contains(&u)),
    }
}
