//! Names become addresses, once. In: a policy and who exists. Out: for every name the rules use, its addresses, the
//! nodes that have one of them, and the subnet routes that touch them.

use std::collections::BTreeMap;
use std::sync::Arc;

use addr::Prefix;

use super::bits::Bits;
use super::ipset::{self, internet, mesh};
use super::language::*;
use super::net::{Approvers, Net};
use super::people::{Members, People};
use super::posture;
use super::ranges::Ranges;
use super::topology::{Node, Topology};
use super::who::{Role, Who};

/// What a name stands for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    /// Its addresses.
    pub(crate) ranges: Ranges,
    /// Those that stand one by one, in order: addresses of nodes, and single addresses as written. They are never
    /// joined into ranges, so that a filter names nodes and not what happens to lie beside them.
    pub(crate) hosts: Vec<Prefix>,
    /// The others.
    pub(crate) wide: Ranges,
    /// Nodes with one of the addresses.
    pub(crate) nodes: Bits,
    /// Nodes that route one of the addresses by an approved subnet route.
    pub(crate) routers: Bits,
    /// Subnet routes that touch the addresses, by place in [`Net::routes`].
    pub(crate) routes: Bits,
    /// True if it stands for the internet at exit nodes.
    pub(crate) internet: bool,
}

/// Turns names into sets.
pub(crate) struct Resolver {
    pub(crate) policy: Arc<Policy>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) net: Arc<Net>,
    pub(crate) people: Arc<People>,
    approvers: Arc<Approvers>,
    pub(crate) sets: Arc<BTreeMap<String, ipset::Resolved>>,
    /// Nodes by tag, in order: asked once for every rule.
    tagged: Arc<BTreeMap<String, Vec<usize>>>,
    /// Devices of each user, in order.
    owned: Arc<Vec<Vec<usize>>>,
}

/// What became of one node.
pub(crate) struct Change {
    pub(crate) old: Arc<Node>,
    pub(crate) new: Arc<Node>,
    pub(crate) place: usize,
    /// True if its addresses are others.
    pub(crate) addrs: bool,
    /// Approved routes that it has no longer or has now.
    pub(crate) routes: Ranges,
}

impl Set {
    /// Both together. What either touches, both touch: nothing is looked up again.
    pub(crate) fn join(&mut self, other: &Set) {
        self.ranges.add(&other.ranges);
        self.wide.add(&other.wide);
        self.hosts.extend(&other.hosts);
        self.hosts.sort();
        self.hosts.dedup();
        if !self.wide.is_empty() {
            let wide = &self.wide;
            self.hosts.retain(|h| !wide.covers(*h));
        }
        self.nodes.add(&other.nodes);
        self.routers.add(&other.routers);
        self.routes.add(&other.routes);
        self.internet |= other.internet;
    }

    /// Its prefixes in order; addresses that stand one by one stay so.
    pub(crate) fn prefixes(&self) -> Vec<Prefix> {
        let mut out = self.wide.prefixes();
        out.extend(&self.hosts);
        out.sort_unstable();
        out
    }

    /// The same as `SrcIPs` are written.
    pub(crate) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        self.wide.texts().chain(self.hosts.iter().map(ToString::to_string))
    }
}

impl Resolver {
    pub(crate) fn new(policy: Arc<Policy>, topology: Arc<Topology>) -> Resolver {
        let people = People::new(&topology);
        let approvers = Approvers::new(&policy, &people);
        let net = Arc::new(Net::new(&policy, &topology, &approvers));
        let sets = Arc::new(ipset::resolve(&policy));
        let (tagged, owned) = listed(&topology);
        Resolver { net, people: people.into(), approvers: approvers.into(), sets, tagged, owned, policy, topology }
    }

    /// The same for other nodes under the same policy and the same users.
    pub(crate) fn with_nodes(&self, topology: Arc<Topology>) -> Resolver {
        let net = Arc::new(Net::new(&self.policy, &topology, &self.approvers));
        let (tagged, owned) = listed(&topology);
        Resolver { topology, net, tagged, owned, ..self.shared() }
    }

    /// The same where the node at one place is another.
    pub(crate) fn replaced(&self, topology: Arc<Topology>, place: usize) -> Option<(Resolver, Change)> {
        let (old, new) = (Arc::clone(self.topology.nodes.get(place)?), Arc::clone(topology.nodes.get(place)?));
        let addrs = !old.addrs().eq(new.addrs());
        let before = self.net.approved(place);
        let approved = self.approvers.approved(&self.policy, &new);
        let lost = before.iter().filter(|p| !approved.contains(p));
        let routes: Ranges = lost.chain(approved.iter().filter(|p| !before.contains(p))).copied().collect();
        let mut out = Resolver { topology, ..self.shared() };
        if addrs || !routes.is_empty() {
            out.net = Arc::new(self.net.replaced(place, &new, approved));
        }
        if old.tags != new.tags {
            let tagged = Arc::make_mut(&mut out.tagged);
            for t in &old.tags {
                tagged.entry(t.clone()).or_default().retain(|n| *n != place);
            }
            for t in &new.tags {
                enter(tagged.entry(t.clone()).or_default(), place);
            }
        }
        if old.owner() != new.owner() {
            let owned = Arc::make_mut(&mut out.owned);
            if let Some(list) = old.owner().and_then(|u| owned.get_mut(u)) {
                list.retain(|n| *n != place);
            }
            if let Some(list) = new.owner().and_then(|u| owned.get_mut(u)) {
                enter(list, place);
            }
        }
        Some((out, Change { old, new, place, addrs, routes }))
    }

    fn shared(&self) -> Resolver {
        Resolver {
            policy: Arc::clone(&self.policy),
            topology: Arc::clone(&self.topology),
            net: Arc::clone(&self.net),
            people: Arc::clone(&self.people),
            approvers: Arc::clone(&self.approvers),
            sets: Arc::clone(&self.sets),
            tagged: Arc::clone(&self.tagged),
            owned: Arc::clone(&self.owned),
        }
    }

    /// What a name stands for, everything known about it.
    pub(crate) fn set(&self, who: &Who) -> Set {
        self.set_with(who, self.members(who).as_ref())
    }

    /// The same where the members are known already.
    pub(crate) fn set_with(&self, who: &Who, members: Option<&Members>) -> Set {
        if let Some(members) = members {
            return self.set_of(&self.list(members));
        }
        let (ranges, internet) = self.addresses(who);
        let mut set = match ranges.prefixes().as_slice() {
            [one] if one.is_host() => self.complete(Ranges::new(), vec![*one], internet, None),
            _ => self.complete(ranges, Vec::new(), internet, None),
        };
        if let Who::App(name) = who {
            // Those who may reach the app see its connectors, before anything is learned too: they are asked for its
            // names. What they learn opens themselves and no other node or router, whatever they say.
            let connectors = self.connectors(name.trim_start_matches("app:"));
            let theirs = |route: &usize| self.net.routers[*route].iter().any(|n| connectors.has(*n));
            set.routes = Bits::of(self.net.routes.len(), set.routes.iter().filter(theirs));
            set.routers.keep(&connectors);
            set.nodes = connectors;
        }
        set
    }

    /// The nodes a name of people or machines stands for, in order; `None` for names of addresses.
    pub(crate) fn nodes_of(&self, who: &Who) -> Option<Vec<usize>> {
        self.members(who).map(|m| self.list(&m))
    }

    /// The nodes of a name of people or machines, as a question.
    pub(crate) fn members(&self, who: &Who) -> Option<Members> {
        Members::of(&self.policy, &self.people, who)
    }

    fn list(&self, members: &Members) -> Vec<usize> {
        match members {
            Members::Tag(t) => self.tagged.get(t.as_str()).cloned().unwrap_or_default(),
            Members::Users(users) => {
                let mut out: Vec<usize> = users.iter().filter_map(|u| self.owned.get(*u)).flatten().copied().collect();
                out.sort_unstable();
                out
            }
            _ => (0..self.net.len).filter(|i| self.topology.nodes.get(*i).is_some_and(|n| members.has(n))).collect(),
        }
    }

    /// The nodes with this tag, in order.
    pub(crate) fn tagged(&self, tag: &str) -> &[usize] {
        self.tagged.get(tag).map(Vec::as_slice).unwrap_or_default()
    }

    /// The devices of a user.
    pub(crate) fn devices_of(&self, user: usize) -> Option<&[usize]> {
        self.owned.get(user).map(Vec::as_slice)
    }

    /// The devices of each user.
    pub(crate) fn devices(&self) -> &[Vec<usize>] {
        &self.owned
    }

    /// The users a name stands for.
    pub(crate) fn users(&self, who: &Who) -> Vec<usize> {
        self.people.users(&self.policy, who)
    }

    /// The addresses of a name of addresses.
    fn addresses(&self, who: &Who) -> (Ranges, bool) {
        match who {
            Who::Any => {
                let mut out = mesh();
                // A self-hosted network may give its nodes other addresses.
                let other = self.net.addrs.iter().map(|(a, _)| *a).filter(|a| !out.contains(*a)).map(Prefix::host);
                let other: Ranges = other.collect();
                out.add(&other);
                (out, true)
            }
            Who::DangerAll => (Ranges::all(), true),
            Who::App(name) => (self.learned(name.trim_start_matches("app:")), false),
            Who::Service(name) => {
                let mut out = Ranges::new();
                for who in self.policy.services.get(name).map(|s| s.it.addrs.as_slice()).unwrap_or_default() {
                    out.add(&ipset::target(&self.policy, &self.sets, &who.it).ranges);
                }
                (out, false)
            }
            _ => {
                let part = ipset::target(&self.policy, &self.sets, who);
                let everything =
                    part.internet || part.ranges.covers(Prefix::ALL_V4) || part.ranges.covers(Prefix::ALL_V6);
                let whole = everything || part.ranges.covers_all(&internet());
                (part.ranges, whole)
            }
        }
    }

    /// The nodes that learn for an app connector.
    fn connectors(&self, app: &str) -> Bits {
        let all = || self.policy.connectors().filter(|c| c.name == app);
        let nodes = self.topology.nodes.iter().enumerate();
        Bits::of(self.net.len, nodes.filter(|(_, n)| all().any(|c| c.is_at(&n.tags))).map(|(i, _)| i))
    }

    /// Exactly what an app connector has learned, and its pinned routes.
    fn learned(&self, app: &str) -> Ranges {
        let mut out: Vec<Prefix> = Vec::new();
        for c in self.policy.connectors().filter(|c| c.name == app) {
            out.extend(c.routes.iter().map(|r| r.it));
            for n in self.topology.nodes.iter().filter(|n| c.is_at(&n.tags)) {
                out.extend(n.learned.get(app).into_iter().flatten());
            }
        }
        out.into_iter().collect()
    }

    /// The addresses of these nodes.
    fn set_of(&self, nodes: &[usize]) -> Set {
        let at = |n: &usize| self.topology.nodes.get(*n);
        let v4 = nodes.iter().filter_map(at).filter_map(|n| n.ipv4);
        let hosts = v4.chain(nodes.iter().filter_map(at).filter_map(|n| n.ipv6)).map(Prefix::host).collect();
        // Without an address a node is in no set of addresses; where two share one, both are.
        let known = nodes.iter().filter(|n| at(n).is_some_and(|n| n.addrs().next().is_some()));
        let bits = self.net.unique.then(|| Bits::of(self.net.len, known.copied()));
        self.complete(Ranges::new(), hosts, false, bits)
    }

    /// Everything known of these addresses.
    pub(crate) fn complete(&self, wide: Ranges, mut hosts: Vec<Prefix>, internet: bool, nodes: Option<Bits>) -> Set {
        hosts.sort();
        hosts.dedup();
        if !wide.is_empty() {
            hosts.retain(|h| !wide.covers(*h));
        }
        let mut ranges: Ranges = hosts.iter().copied().collect();
        ranges.add(&wide);
        let nodes = nodes.unwrap_or_else(|| self.net.nodes_in(&ranges));
        let routes = self.net.touching(&ranges);
        let routers = Bits::of(0, routes.iter().flat_map(|r| self.net.routers[r].iter().copied()));
        Set { ranges, hosts, wide, nodes, routers, routes, internet }
    }

    /// The nodes that satisfy one of these postures.
    pub(crate) fn fit_nodes(&self, postures: &[At<String>]) -> Bits {
        let nodes = self.topology.nodes.iter().enumerate();
        Bits::of(self.net.len, nodes.filter(|(_, n)| self.fits(postures, n)).map(|(i, _)| i))
    }

    /// True if the node satisfies one of these postures.
    pub(crate) fn fits(&self, postures: &[At<String>], node: &Node) -> bool {
        postures.iter().any(|p| fits(&self.policy, &p.it, &node.posture))
    }
}

/// Places of nodes, by tag.
type ByTag = BTreeMap<String, Vec<usize>>;
/// Places of each user's devices.
type ByUser = Vec<Vec<usize>>;

/// Nodes by tag, and devices of each user.
fn listed(topology: &Topology) -> (Arc<ByTag>, Arc<ByUser>) {
    let mut tagged: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut owned = vec![Vec::new(); topology.users.len()];
    for (i, n) in topology.nodes.iter().enumerate() {
        for t in &n.tags {
            enter(tagged.entry(t).or_default(), i);
        }
        if let Some(list) = n.owner().and_then(|u| owned.get_mut(u)) {
            list.push(i);
        }
    }
    let tagged = tagged.into_iter().map(|(tag, nodes)| (tag.to_string(), nodes)).collect();
    (Arc::new(tagged), Arc::new(owned))
}

/// Enters a place into a list in order.
fn enter(list: &mut Vec<usize>, place: usize) {
    if let Err(at) = list.binary_search(&place) {
        list.insert(at, place);
    }
}

/// True if the attributes satisfy every condition of the posture.
pub(crate) fn fits(policy: &Policy, name: &str, attributes: &BTreeMap<String, posture::Value>) -> bool {
    policy.postures.get(name).is_some_and(|p| !p.it.is_empty() && p.it.iter().all(|c| posture::holds(c, attributes)))
}

/// True if the node's user has the role. A tagged node takes it from an owner of one of its tags who has exactly this
/// role: an owner of the network is an administrator on devices of their own only.
pub(crate) fn role_reaches(r: &Resolver, node: usize, role: Role) -> bool {
    let (policy, topology, people) = (&*r.policy, &*r.topology, &r.people);
    let Some(n) = topology.nodes.get(node) else { return false };
    if let Some(user) = n.owner() {
        return people.has_role(user, role);
    }
    let exact = |u: &usize| people.has_role(*u, role) && (role == Role::Owner || !people.has_role(*u, Role::Owner));
    n.tags.iter().any(|t| {
        let owners = policy.tag_owners.get(t).map(|o| o.it.as_slice()).unwrap_or_default();
        owners.iter().any(|o| people.users(policy, &o.it).iter().any(exact))
    })
}

#[cfg(test)]
mod tests {
    use super::super::who::read_who;
    use super::*;

    const NODES: &str = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}], "nodes": {
        "a": {"user": "ada", "ipv4": "100.64.0.1", "ipv6": "fd7a::1"}, "b": {"user": "ada", "ipv4": "100.64.0.2"},
        "c": {"tags": ["tag:x"], "ipv4": "100.64.0.3", "routable_ips": ["10.0.0.0/16"], "approved_routes": ["10.0.0.0/16"]},
        "none": {"tags": ["tag:x"]},
        "twin": {"tags": ["tag:y"], "ipv4": "TWIN", "routable_ips": ["10.0.0.0/24", "10.9.0.0/16", "0.0.0.0/0"],
                 "approved_routes": ["10.0.0.0/24", "10.9.0.0/16", "0.0.0.0/0"]}}}"#;

    /// What is looked up once and joined is what a look-up of everything finds, also where two nodes share an address.
    #[test]
    fn joined_sets_are_sets_of_the_joined() {
        let policy = Arc::new(Policy::parse(r#"{"tagOwners": {"tag:x": [], "tag:y": []}}"#).unwrap());
        let fields = |s: &Set| {
            (s.ranges.clone(), s.hosts.clone(), s.wide.clone(), s.nodes.clone(), s.routers.clone(), s.routes.clone())
        };
        for twin in ["100.64.0.9", "100.64.0.1"] {
            let topology = Topology::read(&NODES.replace("TWIN", twin)).unwrap();
            let r = Resolver::new(Arc::clone(&policy), Arc::new(topology));
            let names = [
                "ada@example.com",
                "tag:x",
                "tag:y",
                "autogroup:member",
                "100.64.0.1",
                "100.64.0.0/30",
                "10.0.0.0/8",
                "10.0.0.7",
                "*",
            ];
            for a in names {
                let one = r.set(&read_who(a).unwrap());
                assert_eq!(
                    fields(&one),
                    fields(&r.complete(one.wide.clone(), one.hosts.clone(), false, None)),
                    "{a} with twin {twin}"
                );
                for b in names {
                    let two = r.set(&read_who(b).unwrap());
                    let (mut wide, mut hosts) = (one.wide.clone(), one.hosts.clone());
                    wide.add(&two.wide);
                    hosts.extend(two.hosts.iter().copied());
                    let want = r.complete(wide, hosts, false, None);
                    let mut both = one.clone();
                    both.join(&two);
                    assert_eq!(fields(&both), fields(&want), "{a} and {b} with twin {twin}");
                }
            }
        }
    }
}
