//! What would change if this policy were saved. In: the old and the new policy, compiled for the same network. Out:
//! who gains and who loses what, grouped so that a person can read it.

use std::collections::{BTreeMap, BTreeSet};

use model::{Addr, Prefix};

use super::compile::{APP_DNS, Compiled, Filter, SourcesRef};
use super::who::{Proto, proto_name};

/// One change, the same for several sources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// True if it is gained, false if it is lost.
    pub gained: bool,
    /// Who: names of nodes, or prefixes.
    pub who: Vec<String>,
    /// Where: the name of a node or a prefix; for attributes and routes the node itself.
    pub at: String,
    /// What: `tcp:22`, `app example.com/cap/x`, `ssh as root`, `route 10.0.0.0/8`, `attribute funnel`.
    pub what: Vec<String>,
}

/// What a source may do at a place.
type Access = BTreeMap<(String, String), Rights>;

/// Ports by protocol, as disjoint ranges, and words for everything else.
#[derive(Default, Clone, PartialEq)]
struct Rights {
    ports: BTreeMap<Proto, Vec<(u16, u16)>>,
    words: BTreeSet<String>,
}

/// Above this many nodes logins by SSH are not compared pair by pair: a million pairs take seconds.
const MAX_SSH_NODES: usize = 1000;

/// Who gains and who loses what.
#[must_use]
pub fn diff(old: &Compiled, new: &Compiled) -> Vec<Change> {
    let mut gained: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
    let mut lost: BTreeMap<(String, Vec<String>), Vec<String>> = BTreeMap::new();
    let sources = sources(old, new);
    for node in 0..new.topology().nodes.len() {
        let (before, after) = (of_node(old, node), of_node(new, node));
        if filter_text(old, &before) == filter_text(new, &after) {
            continue;
        }
        let (before, after) = (access(old, node, &before, &sources), access(new, node, &after, &sources));
        let nothing = Rights::default();
        for key in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            let (b, a) = (before.get(key).unwrap_or(&nothing), after.get(key).unwrap_or(&nothing));
            for (into, what) in [(&mut gained, a.minus(b)), (&mut lost, b.minus(a))] {
                if !what.is_empty() {
                    into.entry((key.1.clone(), what)).or_default().push(key.0.clone());
                }
            }
        }
    }
    let mut out: Vec<Change> = Vec::new();
    for (is_gain, map) in [(false, lost), (true, gained)] {
        out.extend(map.into_iter().map(|((at, what), mut who)| {
            who.sort();
            who.dedup();
            Change { gained: is_gain, who, at, what }
        }));
    }
    out.extend(of_nodes(old, new));
    out.extend(logins(old, new));
    out.sort_by(|a, b| (a.gained, &a.at, &a.who, &a.what).cmp(&(b.gained, &b.at, &b.who, &b.what)));
    // Two routers of one route open the same place.
    out.dedup();
    out
}

fn of_node(c: &Compiled, node: usize) -> Vec<Filter> {
    c.for_node(node).map(|v| v.filter).unwrap_or_default()
}

fn filter_text(c: &Compiled, filter: &[Filter]) -> BTreeSet<String> {
    filter.iter().map(|f| format!("{:?}", c.to_wire(f))).collect()
}

/// Everybody who may be a source: nodes, approved routes, and prefixes that a policy names.
fn sources(old: &Compiled, new: &Compiled) -> Vec<(String, Prefix)> {
    let mut out: Vec<(String, Prefix)> = Vec::new();
    for n in &new.topology().nodes {
        out.extend(n.addrs().map(|a| (n.name.clone(), Prefix::host(a))));
    }
    let mut other: BTreeSet<Prefix> = BTreeSet::new();
    for c in [old, new] {
        other.extend(c.resolver.net.routes.iter());
        for rule in c.rules.all() {
            for who in rule.names.iter().filter_map(|w| c.resolver.nodes_of(w).is_none().then_some(w)) {
                if !matches!(who, super::who::Who::Any | super::who::Who::DangerAll) {
                    other.extend(c.resolver.set(who).prefixes());
                }
            }
        }
    }
    let known: BTreeSet<Prefix> = out.iter().map(|(_, p)| *p).collect();
    out.extend(other.into_iter().filter(|p| !known.contains(p)).map(|p| (p.to_string(), p)));
    out
}

/// What each source may do at a node and behind it.
fn access(c: &Compiled, node: usize, filter: &[Filter], sources: &[(String, Prefix)]) -> Access {
    let mut out = Access::new();
    let Some(n) = c.topology().nodes.get(node) else { return out };
    let own: Vec<Addr> = n.addrs().collect();
    let place = |p: &Option<Prefix>| match p {
        Some(p) if APP_DNS.contains(&p.to_string().as_str()) => format!("names of apps at {}", n.name),
        Some(p) if !own.iter().any(|a| p.contains(*a)) => p.to_string(),
        _ => n.name.clone(),
    };
    for f in filter {
        let own_texts: Vec<Prefix> = match &*f.src {
            SourcesRef::Own(texts) => texts.iter().filter_map(|t| t.parse().ok()).collect(),
            SourcesRef::Shared(_) => Vec::new(),
        };
        for (name, prefix) in sources {
            let among = match &*f.src {
                SourcesRef::Shared(i) => c.rules.sources.get(*i).is_some_and(|s| s.set.ranges.covers(*prefix)),
                SourcesRef::Own(_) => own_texts.iter().any(|p| p.covers(*prefix)),
            };
            if !among || *name == n.name {
                continue;
            }
            for (to, ports) in &f.dst {
                let rights = out.entry((name.clone(), place(to))).or_default();
                rights.ports.entry(f.proto).or_default().push((ports.first, ports.last));
            }
            for (dsts, map) in &f.caps {
                for d in dsts {
                    let rights = out.entry((name.clone(), place(&Some(*d)))).or_default();
                    rights.words.extend(map.iter().map(|(cap, value)| format!("app {cap} {value}")));
                }
            }
        }
    }
    out.values_mut().for_each(Rights::join);
    out
}

/// Attributes and approved routes of nodes themselves.
fn of_nodes(old: &Compiled, new: &Compiled) -> Vec<Change> {
    let mut out = Vec::new();
    for (i, n) in new.topology().nodes.iter().enumerate() {
        let words = |c: &Compiled| -> BTreeSet<String> {
            let attributes = c.capabilities(i).into_iter().map(|(k, v)| match v {
                serde_json::Value::Null => format!("attribute {k}"),
                v => format!("attribute {k} {v}"),
            });
            attributes.chain(c.approved(i).iter().map(|r| format!("route {}", r.long()))).collect()
        };
        let (before, after) = (words(old), words(new));
        for (gained, what) in [(false, &before - &after), (true, &after - &before)] {
            if !what.is_empty() {
                out.push(Change {
                    gained,
                    who: vec![n.name.clone()],
                    at: n.name.clone(),
                    what: what.into_iter().collect(),
                });
            }
        }
    }
    out
}

/// Logins by SSH.
fn logins(old: &Compiled, new: &Compiled) -> Vec<Change> {
    let rules = |c: &Compiled| format!("{:?}", c.resolver.policy.ssh);
    let nodes = &new.topology().nodes;
    if nodes.len() > MAX_SSH_NODES
        || (rules(old) == rules(new) && old.resolver.policy.groups == new.resolver.policy.groups)
    {
        return Vec::new();
    }
    let mut names: BTreeSet<String> = ["root".to_string()].into();
    for c in [old, new] {
        names.extend(c.resolver.policy.ssh.iter().flat_map(|r| &r.users).map(|u| u.it.clone()));
    }
    let mut map: BTreeMap<(bool, String, Vec<String>), Vec<String>> = BTreeMap::new();
    for (to, dst) in nodes.iter().enumerate() {
        for (from, src) in nodes.iter().enumerate().filter(|(i, _)| *i != to) {
            let words = |c: &Compiled| -> BTreeSet<String> {
                let said = |name: &String| {
                    let login = if name == "autogroup:nonroot" { "any user but root" } else { name };
                    match c.ssh(from, to, login) {
                        (false, _) => None,
                        (true, true) => Some(format!("ssh as {login} after a check")),
                        (true, false) => Some(format!("ssh as {login}")),
                    }
                };
                names.iter().filter_map(said).collect()
            };
            let (before, after) = (words(old), words(new));
            for (gained, what) in [(false, &before - &after), (true, &after - &before)] {
                if !what.is_empty() {
                    map.entry((gained, dst.name.clone(), what.into_iter().collect()))
                        .or_default()
                        .push(src.name.clone());
                }
            }
        }
    }
    map.into_iter().map(|((gained, at, what), who)| Change { gained, who, at, what }).collect()
}

impl Rights {
    /// Joins what overlaps or touches.
    fn join(&mut self) {
        for ranges in self.ports.values_mut() {
            ranges.sort_unstable();
            let mut out: Vec<(u16, u16)> = Vec::new();
            for (first, last) in ranges.drain(..) {
                match out.last_mut() {
                    Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                    _ => out.push((first, last)),
                }
            }
            *ranges = out;
        }
    }

    /// What is here and not there, in words.
    fn minus(&self, other: &Rights) -> Vec<String> {
        let mut out = Vec::new();
        for (proto, ranges) in &self.ports {
            let mut rest = ranges.clone();
            for (first, last) in other.ports.get(proto).into_iter().flatten() {
                rest = rest.into_iter().flat_map(|r| without(r, (*first, *last))).collect();
            }
            if !rest.is_empty() {
                let texts: Vec<String> = rest
                    .iter()
                    .map(|(first, last)| super::who::Ports { first: *first, last: *last }.to_string())
                    .collect();
                let name = proto.map_or_else(|| "tcp+udp+icmp".to_string(), proto_name);
                out.push(format!("{name}:{}", texts.join(",")));
            }
        }
        out.extend(self.words.difference(&other.words).cloned());
        out
    }
}

/// A range of ports without another.
fn without((first, last): (u16, u16), (cut_first, cut_last): (u16, u16)) -> Vec<(u16, u16)> {
    if cut_last < first || cut_first > last {
        return vec![(first, last)];
    }
    let mut out = Vec::new();
    if cut_first > first {
        out.push((first, cut_first - 1));
    }
    if cut_last < last {
        out.push((cut_last + 1, last));
    }
    out
}
