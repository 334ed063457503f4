//! The picture that readers share. In: the registry at a moment. Out: what there is, the compiled policy for it, and the
//! way from a node's number to its place in the policy's network.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::record::{LearnedRoute, Names, Node, PreAuthKey, User};
use addr::{Addr, Prefix};
use tailnet_proto::meshkey::{MachineKey, NodeKey};

use super::member::{Member, Pending};
use super::refusal::Refusal;
use super::registry::{Registry, Settings};
use policy::language::Connector;
use policy::{Compiled, Role, Topology, Who, read_who};

/// The network at a moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts up.
    pub generation: u64,
    /// The same as in the picture before if nodes have nothing new to hear of it.
    pub revision: u64,
    /// When it was made, seconds since the Unix epoch.
    pub at: u64,
    /// Users by number.
    pub users: Arc<BTreeMap<u64, User>>,
    /// Pre-auth keys by number.
    pub keys: BTreeMap<u64, PreAuthKey>,
    /// Nodes by number.
    pub nodes: BTreeMap<u64, Member>,
    /// Numbers of nodes by their keys; the same map as long as nobody came, left or changed keys.
    pub by_key: Arc<BTreeMap<NodeKey, u64>>,
    /// Who waits to be approved.
    pub pending: BTreeMap<String, Arc<Pending>>,
    /// Names.
    pub names: Arc<Names>,
    /// The policy applied to all this.
    pub compiled: Arc<Compiled>,
    /// False: there is no policy, everything of one's own is reachable.
    pub has_policy: bool,
    /// Settings.
    pub settings: Settings,
    /// Places in the policy's network by number of the node.
    places: Arc<BTreeMap<u64, usize>>,
}

impl Snapshot {
    pub(crate) fn new(registry: &mut Registry, compiled: Arc<Compiled>, generation: u64, at: u64) -> Snapshot {
        let by_key = registry.keys_now();
        let topology = compiled.topology();
        let by_name: BTreeMap<&str, u64> = registry.nodes.values().map(|m| (m.node.name.as_str(), m.node.id)).collect();
        let place = |(i, n): (usize, &Arc<policy::Node>)| by_name.get(n.name.as_str()).map(|id| (*id, i));
        Snapshot {
            generation,
            revision: registry.revision,
            at,
            users: Arc::new(registry.users.clone()),
            keys: registry.keys.clone(),
            nodes: registry.nodes.clone(),
            by_key,
            pending: registry.pending.clone(),
            names: registry.names.clone(),
            places: Arc::new(topology.nodes.iter().enumerate().filter_map(place).collect()),
            compiled,
            has_policy: registry.policy_text().is_some(),
            settings: registry.settings.clone(),
        }
    }

    /// The place of a node in the policy's network; none for one whose key has ended.
    #[must_use]
    pub fn place(&self, id: u64) -> Option<usize> {
        self.places.get(&id).copied()
    }

    /// The node at a place.
    #[must_use]
    pub fn at_place(&self, place: usize) -> Option<&Member> {
        let id = self.compiled.topology().nodes.get(place)?.id?;
        self.nodes.get(&id)
    }

    /// True if a node of this machine is known.
    #[must_use]
    pub fn knows(&self, machine: &MachineKey) -> bool {
        self.nodes.values().any(|m| m.node.machine == *machine)
    }

    /// The node with a key.
    #[must_use]
    pub fn member(&self, key: &NodeKey) -> Option<&Member> {
        self.nodes.get(self.by_key.get(key)?)
    }

    /// The number of the node that a person means: a name, number, address or key.
    ///
    /// # Errors
    /// There is none; says who there is.
    pub fn find(&self, text: &str) -> Result<u64, Refusal> {
        super::nodes::find(self.nodes.values(), text, &self.settings.domain).map(|n| n.id)
    }

    /// The nodes that these names stand for: users, groups, tags, `autogroup:member`, `*`, or nodes. A node whose key
    /// has ended is none of them.
    ///
    /// # Errors
    /// A text is no name of nodes; a name that nobody has now is none.
    pub fn named(&self, texts: &[String]) -> Result<BTreeSet<u64>, Refusal> {
        let mut out = BTreeSet::new();
        let topology = self.compiled.topology();
        for text in texts {
            let who = read_who(text).ok();
            let members = who.as_ref().and_then(|w| self.compiled.nodes_of(w));
            match (who, members) {
                (Some(Who::Any), _) => out.extend(topology.nodes.iter().filter_map(|n| n.id)),
                (_, Some(members)) => out.extend(members.into_iter().filter_map(|n| n.id)),
                _ if text.contains(':') && text.parse::<Addr>().is_err() => {
                    return Err(Refusal::NoNodes(text.clone()));
                }
                _ => out.extend(self.find(text).ok().filter(|id| self.place(*id).is_some())),
            }
        }
        Ok(out)
    }

    /// Those of these names that stand for no node now; a name may be one that nobody has yet.
    #[must_use]
    pub fn unmatched<'t>(&self, texts: &'t [String]) -> Vec<&'t str> {
        let nobody = |t: &&String| !self.named(std::slice::from_ref(t)).is_ok_and(|found| !found.is_empty());
        texts.iter().filter(nobody).map(String::as_str).collect()
    }

    /// The full name of a node, with a dot at its end.
    #[must_use]
    pub fn full_name(&self, node: &Node) -> String {
        if self.settings.domain.is_empty() {
            return format!("{}.", node.name);
        }
        format!("{}.{}.", node.name, self.settings.domain)
    }

    /// Who stands behind a node, in words: its user, else its tags.
    #[must_use]
    pub fn principal(&self, node: &Node) -> String {
        if node.is_tagged() {
            return node.tags.join(" ");
        }
        node.user.and_then(|u| self.users.get(&u)).map_or_else(|| "nobody".into(), |u| u.login().to_string())
    }
}

impl Registry {
    /// The picture of now. The same one as long as nothing has changed.
    pub fn snapshot(&mut self, now: u64) -> Snapshot {
        self.tick(now);
        let fresh = |m: &Member| m.expired != m.node.expired(now);
        let turned: Vec<u64> = self.nodes.values().filter(|m| fresh(m)).map(|m| m.node.id).collect();
        for id in turned {
            let expired = self.nodes.get(&id).is_some_and(|m| m.node.expired(now));
            self.touch(id, |m| m.expired = expired);
            self.recompile = true;
        }
        let compiled = match &self.compiled {
            Some(c) if !self.recompile => c.clone(),
            _ => {
                let topology = Arc::new(self.topology());
                let compiled = Arc::new(match &self.compiled {
                    Some(before) if Arc::ptr_eq(before.policy(), &self.policy) => before.with_topology(topology),
                    _ => Compiled::after(self.policy.clone(), topology, &self.primaries),
                });
                self.primaries = compiled.primaries();
                self.compiled = Some(compiled.clone());
                self.revision += 1;
                self.recompile = false;
                self.shared_keys = None;
                compiled
            }
        };
        self.generation += 1;
        self.changed = false;
        Snapshot::new(self, compiled, self.generation, now)
    }

    pub(crate) fn keys_now(&mut self) -> Arc<BTreeMap<NodeKey, u64>> {
        self.shared_keys.get_or_insert_with(|| Arc::new(self.by_key.clone())).clone()
    }

    /// Users and nodes as the policy sees them. A node whose key has ended is no part of it: nothing comes from it and
    /// nothing goes to it.
    pub(crate) fn topology(&self) -> Topology {
        self.topology_under(self.policy())
    }

    /// The same under another policy: which addresses count as learned, depends on its apps.
    #[must_use]
    pub fn topology_under(&self, policy: &policy::Policy) -> Topology {
        let places: BTreeMap<u64, usize> = self.users.keys().enumerate().map(|(i, id)| (*id, i)).collect();
        let users = self.users.values().map(|u| policy::User {
            id: u.id,
            name: u.name.clone(),
            email: u.email.clone(),
            role: u.role.as_deref().and_then(Role::named),
        });
        let connectors: Vec<&Connector> = policy.connectors().collect();
        // Nodes answer for their own addresses: no router and no connector speaks for them.
        let pools = self.settings.pools;
        let addrs = self.nodes.values().flat_map(|m| [m.node.ipv4, m.node.ipv6]);
        // From an `ipPool` of the policy.
        let elsewhere: BTreeSet<Addr> = addrs.filter(|a| !pools.hold(Prefix::host(*a))).collect();
        let own = |p: &Prefix| pools.hold(*p) || (p.is_host() && elsewhere.contains(&p.first()));
        let own: &dyn Fn(&Prefix) -> bool = &own;
        let nodes = self.nodes.values().filter(|m| !m.expired).map(|m| {
            let n = &m.node;
            policy::Node {
                name: n.name.clone(),
                user: n.user.and_then(|u| places.get(&u).copied()),
                tags: n.tags.clone(),
                ipv4: Some(n.ipv4),
                ipv6: Some(n.ipv6),
                routable: offered(n, &connectors, self.presence.get(&n.id).map(|p| &p.heard), own),
                approved: n.approved.clone(),
                id: Some(n.id),
                online: m.online,
                posture: policy::posture::of_client(&n.host.os, &n.host.os_version, &n.host.ipn_version),
                learned: learnt(n, &connectors, own),
            }
        });
        let mut nodes: Vec<Arc<policy::Node>> = nodes.map(Arc::new).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Topology { users: Arc::new(users.collect()), nodes, ..Topology::default() }
    }

    /// True if the policy gives this tag to this user.
    pub(crate) fn may_tag(&self, user: u64, tag: &str) -> bool {
        let topology = self.topology();
        let Some(place) = self.users.keys().position(|id| *id == user) else { return false };
        self.policy().owns_tag(&topology, place, tag)
    }
}

/// The routes a node offers that nobody has taken back. An address that was learned is one of them as long as a name of
/// the node's apps answers with it. Where an app leaves names out, an address waits until the connector has said for
/// which name it is (`heard`), unless a person approved it. None of them leads into the network's `own` addresses.
fn offered(
    node: &Node,
    connectors: &[&Connector],
    heard: Option<&BTreeSet<Prefix>>,
    own: &dyn Fn(&Prefix) -> bool,
) -> Vec<Prefix> {
    let mine: Vec<&&Connector> = connectors.iter().filter(|c| c.is_at(&node.tags)).collect();
    let picky = mine.iter().any(|c| !c.except.is_empty());
    let mut about: BTreeMap<Addr, bool> = BTreeMap::new();
    for l in &node.learnt {
        // A name that is no app's any more says nothing against a route that a person wants.
        let unmatched =
            || !mine.iter().any(|c| c.could_learn(&l.domain)) && node.approved.contains(&Prefix::host(l.addr));
        *about.entry(l.addr).or_default() |= !l.gone && mine.iter().any(|c| c.covers(&l.domain)) || unmatched();
    }
    let good = |p: &Prefix| {
        let known = p.is_host().then(|| about.get(&p.first())).flatten();
        let waits = || picky && p.is_host() && !heard.is_some_and(|h| h.contains(p)) && !node.approved.contains(p);
        known.copied().unwrap_or_else(|| !waits())
    };
    let lost = lost(node, connectors);
    let all = node.host.routable_ips.iter().filter(|p| good(p)).chain(&lost);
    all.filter(|p| !node.revoked.contains(p) && !own(p)).copied().collect()
}

/// The addresses of its apps that a connector has stopped to offer because it has forgotten them. It is told to offer
/// them again.
pub(crate) fn lost(node: &Node, connectors: &[&Connector]) -> Vec<Prefix> {
    let mine = |l: &&LearnedRoute| connectors.iter().any(|c| c.is_at(&node.tags) && c.covers(&l.domain));
    let lost = |l: &&LearnedRoute| l.lost && !l.gone && node.learns();
    let lost: BTreeSet<Prefix> = node.learnt.iter().filter(lost).filter(mine).map(|l| Prefix::host(l.addr)).collect();
    lost.into_iter().filter(|p| !node.host.routable_ips.contains(p)).collect()
}

/// What a node has learned for which app.
fn learnt(node: &Node, connectors: &[&Connector], own: &dyn Fn(&Prefix) -> bool) -> BTreeMap<String, Vec<Prefix>> {
    let mut out: BTreeMap<String, BTreeSet<Prefix>> = BTreeMap::new();
    for l in node.learnt.iter().filter(|l| !l.gone && !own(&Prefix::host(l.addr))) {
        for c in connectors.iter().filter(|c| c.covers(&l.domain)) {
            out.entry(c.name.clone()).or_default().insert(Prefix::host(l.addr));
        }
    }
    out.into_iter().map(|(app, addrs)| (app, addrs.into_iter().collect())).collect()
}
