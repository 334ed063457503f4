//! Names become addresses, once. In: a policy and who exists. Out: for every name the rules use, its addresses, the
//! nodes that have one of them, and the subnet routes that touch them.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::{Addr, Prefix};

use super::bits::Bits;
use super::ipset::{self, internet, mesh};
use super::language::*;
use super::posture;
use super::ranges::Ranges;
use super::topology::{People, Topology, is_exit};
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

/// Nodes and routes as the policy sees them.
pub(crate) struct Net {
    /// Addresses of nodes in order, with the node's place.
    addrs: Vec<(Addr, usize)>,
    /// True if no two nodes have the same address.
    unique: bool,
    /// Approved routes of each node, exit routes included, in order.
    pub(crate) approved: Vec<Vec<Prefix>>,
    /// The different approved subnet routes, in order.
    pub(crate) routes: Vec<Prefix>,
    /// All of them together, to see at once that an address is behind no router.
    routed: Ranges,
    /// The routers of each route.
    pub(crate) routers: Vec<Vec<usize>>,
    /// Subnet routes of each node, by place in `routes`.
    pub(crate) routes_of: Vec<Bits>,
    /// Approved exit nodes.
    pub(crate) exits: Bits,
    /// Number of nodes.
    pub(crate) len: usize,
}

/// Turns names into sets.
pub(crate) struct Resolver {
    pub(crate) policy: Arc<Policy>,
    pub(crate) topology: Arc<Topology>,
    pub(crate) net: Net,
    pub(crate) people: People,
    pub(crate) sets: BTreeMap<String, ipset::Resolved>,
    /// Nodes by tag, users' nodes by user, users of groups: asked once for every rule.
    tagged: BTreeMap<String, Vec<usize>>,
    owned: Vec<Vec<usize>>,
}

impl Net {
    pub(crate) fn new(policy: &Policy, topology: &Topology, people: &People) -> Net {
        let nodes = &topology.nodes;
        let mut addrs: Vec<(Addr, usize)> =
            nodes.iter().enumerate().flat_map(|(i, n)| n.addrs().map(move |a| (a, i))).collect();
        addrs.sort_unstable();
        let approvers = Approvers::new(policy, topology, people);
        let approved: Vec<Vec<Prefix>> = (0..nodes.len())
            .map(|i| {
                let node = &nodes[i];
                let yes = |p: &&Prefix| node.approved.contains(p) || approvers.approves(i, **p);
                let mut out: Vec<Prefix> = node.routable.iter().filter(yes).copied().collect();
                out.sort_unstable_by_key(|p| (is_exit(*p), *p));
                out.dedup();
                out
            })
            .collect();
        let mut by_route: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
        for (i, list) in approved.iter().enumerate() {
            for p in list.iter().filter(|p| !is_exit(**p)) {
                by_route.entry(*p).or_default().push(i);
            }
        }
        let (routes, routers): (Vec<Prefix>, Vec<Vec<usize>>) = by_route.into_iter().unzip();
        let mut routes_of = vec![Bits::new(routes.len()); nodes.len()];
        for (r, list) in routers.iter().enumerate() {
            for n in list {
                routes_of[*n].set(r);
            }
        }
        let exits = Bits::of(nodes.len(), (0..nodes.len()).filter(|i| approved[*i].iter().any(|p| is_exit(*p))));
        let routed = routes.iter().copied().collect();
        let unique = addrs.windows(2).all(|w| w[0].0 != w[1].0);
        Net { addrs, unique, routed, approved, routes, routers, routes_of, exits, len: nodes.len() }
    }

    /// The node that has this address.
    pub(crate) fn node_at(&self, addr: Addr) -> Option<usize> {
        let i = self.addrs.partition_point(|(a, _)| *a < addr);
        self.addrs.get(i).filter(|(a, _)| *a == addr).map(|(_, n)| *n)
    }

    /// The nodes with an address in these ranges.
    fn nodes_in(&self, ranges: &Ranges) -> Bits {
        let mut out = Bits::new(self.len);
        for r in ranges.iter() {
            let from = self.addrs.partition_point(|(a, _)| *a < r.first());
            for (_, n) in self.addrs[from..].iter().take_while(|(a, _)| *a <= r.last()) {
                out.set(*n);
            }
        }
        out
    }

    /// Everything known of these addresses.
    pub(crate) fn set(&self, wide: Ranges, hosts: Vec<Prefix>, internet: bool) -> Set {
        self.complete(wide, hosts, internet, None)
    }

    /// The addresses of these nodes.
    fn set_of(&self, topology: &Topology, nodes: &[usize]) -> Set {
        let hosts = nodes.iter().filter_map(|n| topology.nodes.get(*n)).flat_map(|n| n.addrs()).map(Prefix::host);
        // Without an address a node is in no set of addresses; where two share one, both are.
        let known = |n: &&usize| topology.nodes.get(**n).is_some_and(|n| n.addrs().next().is_some());
        let bits = self.unique.then(|| Bits::of(self.len, nodes.iter().filter(known).copied()));
        self.complete(Ranges::new(), hosts.collect(), false, bits)
    }

    fn complete(&self, wide: Ranges, mut hosts: Vec<Prefix>, internet: bool, nodes: Option<Bits>) -> Set {
        hosts.sort_unstable();
        hosts.dedup();
        hosts.retain(|h| !wide.covers(*h));
        let mut ranges: Ranges = hosts.iter().copied().collect();
        ranges.add(&wide);
        let nodes = nodes.unwrap_or_else(|| self.nodes_in(&ranges));
        let (routers, routes) = (Bits::new(self.len), Bits::new(self.routes.len()));
        let mut set = Set { ranges, hosts, wide, nodes, routers, routes, internet };
        if set.wide.is_empty() && !set.hosts.iter().any(|h| self.routed.overlaps(*h)) {
            return set;
        }
        for (i, route) in self.routes.iter().enumerate() {
            if set.ranges.overlaps(*route) {
                set.routes.set(i);
                for n in &self.routers[i] {
                    set.routers.set(*n);
                }
            }
        }
        set
    }
}

impl Set {
    /// Both together. What either touches, both touch: nothing is looked up again.
    pub(crate) fn with(mut self, other: Set) -> Set {
        self.ranges.add(&other.ranges);
        self.wide.add(&other.wide);
        self.hosts.extend(other.hosts);
        self.hosts.sort_unstable();
        self.hosts.dedup();
        let wide = &self.wide;
        self.hosts.retain(|h| !wide.covers(*h));
        self.nodes.add(&other.nodes);
        self.routers.add(&other.routers);
        self.routes.add(&other.routes);
        self.internet |= other.internet;
        self
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
        let net = Net::new(&policy, &topology, &people);
        let mut tagged: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut owned = vec![Vec::new(); topology.users.len()];
        for (i, n) in topology.nodes.iter().enumerate() {
            for t in &n.tags {
                tagged.entry(t.clone()).or_default().push(i);
            }
            if let Some(list) = n.owner().and_then(|u| owned.get_mut(u)) {
                list.push(i);
            }
        }
        let sets = ipset::resolve(&policy);
        Resolver { policy, topology, net, people, sets, tagged, owned }
    }

    /// What a name stands for, everything known about it.
    pub(crate) fn set(&self, who: &Who) -> Set {
        if let Some(nodes) = self.nodes_of(who) {
            return self.net.set_of(&self.topology, &nodes);
        }
        let (ranges, internet) = self.addresses(who);
        match ranges.prefixes().as_slice() {
            [one] if one.is_host() => self.net.set(Ranges::new(), vec![*one], internet),
            _ => self.net.set(ranges, Vec::new(), internet),
        }
    }

    /// The nodes a name of people or machines stands for; `None` for names of addresses.
    pub(crate) fn nodes_of(&self, who: &Who) -> Option<Vec<usize>> {
        let all = 0..self.topology.nodes.len();
        let node = |i: &usize| &self.topology.nodes[*i];
        let of_users = |users: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            let mut out: Vec<usize> = users.flat_map(|u| self.owned.get(u).cloned().unwrap_or_default()).collect();
            out.sort_unstable();
            out.dedup();
            out
        };
        Some(match who {
            Who::Member => all.filter(|i| !node(i).is_tagged()).collect(),
            Who::Tagged => all.filter(|i| node(i).is_tagged()).collect(),
            Who::Shared => Vec::new(),
            Who::Tag(t) => self.tagged.get(t.as_str()).cloned().unwrap_or_default(),
            Who::User(_) | Who::Domain(_) | Who::Role(_) | Who::Group(_) => of_users(&mut self.users(who).into_iter()),
            _ => return None,
        })
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
        users(&self.policy, &self.topology, &self.people, who)
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

    /// Exactly what an app connector has learnt, and its pinned routes.
    fn learned(&self, app: &str) -> Ranges {
        let mut out: Vec<Prefix> = Vec::new();
        for c in self.policy.node_attrs.iter().flat_map(|n| &n.connectors).filter(|c| c.name == app) {
            out.extend(c.routes.iter().map(|r| r.it));
            for n in self.topology.nodes.iter().filter(|n| is_connector(n, c)) {
                out.extend(n.learned.get(app).into_iter().flatten());
            }
        }
        out.into_iter().collect()
    }

    /// The nodes that satisfy one of these postures.
    pub(crate) fn fit_nodes(&self, postures: &[At<String>]) -> Bits {
        let fits = |i: &usize| {
            let attributes = &self.topology.nodes[*i].posture;
            postures.iter().any(|p| fits(&self.policy, &p.it, attributes))
        };
        Bits::of(self.net.len, (0..self.net.len).filter(fits))
    }
}

/// True if the attributes satisfy every condition of the posture.
pub(crate) fn fits(policy: &Policy, name: &str, attributes: &BTreeMap<String, posture::Value>) -> bool {
    policy.postures.get(name).is_some_and(|p| !p.it.is_empty() && p.it.iter().all(|c| posture::holds(c, attributes)))
}

/// True if the node learns for this app connector.
pub(crate) fn is_connector(node: &super::topology::Node, connector: &Connector) -> bool {
    connector.connectors.iter().any(|t| t.it == "*" || node.has_tag(&t.it))
}

/// The users a name stands for, in order; none for names that are no users.
pub(crate) fn users(policy: &Policy, topology: &Topology, people: &People, who: &Who) -> Vec<usize> {
    let mut out: Vec<usize> = match who {
        Who::User(text) => people.named(text),
        Who::Group(name) => {
            let members = policy.groups.get(name).map(|g| g.it.as_slice()).unwrap_or_default();
            members.iter().flat_map(|m| people.named(&m.it)).collect()
        }
        Who::Domain(domain) => {
            let of = |email: &str| email.rsplit_once('@').is_some_and(|(_, d)| d.eq_ignore_ascii_case(domain));
            (0..topology.users.len()).filter(|u| of(&topology.users[*u].email)).collect()
        }
        Who::Role(role) => (0..topology.users.len()).filter(|u| people.has_role(*u, *role)).collect(),
        Who::Member => (0..topology.users.len()).collect(),
        _ => Vec::new(),
    };
    out.sort_unstable();
    out.dedup();
    out
}

/// Who may approve what without being asked.
pub(crate) struct Approvers {
    routes: Vec<(Prefix, Bits)>,
    exit: Bits,
    pinned: Vec<(Prefix, Bits)>,
}

impl Approvers {
    pub(crate) fn new(policy: &Policy, topology: &Topology, people: &People) -> Approvers {
        let len = topology.nodes.len();
        let nodes = |whos: &[At<Who>]| {
            let mut out = Bits::new(len);
            for who in whos {
                let owners = users(policy, topology, people, &who.it);
                for (i, n) in topology.nodes.iter().enumerate() {
                    let tagged = match &who.it {
                        Who::Tag(t) => n.has_tag(t),
                        Who::Tagged => n.is_tagged(),
                        _ => false,
                    };
                    if tagged || n.owner().is_some_and(|u| owners.contains(&u)) {
                        out.set(i);
                    }
                }
            }
            out
        };
        let connectors = policy.node_attrs.iter().flat_map(|n| &n.connectors).flat_map(|c| {
            let learners = Bits::of(len, (0..len).filter(|i| is_connector(&topology.nodes[*i], c)));
            c.routes.iter().map(move |r| (r.it, learners.clone())).collect::<Vec<_>>()
        });
        Approvers {
            routes: policy.auto_approvers.routes.iter().map(|(p, who)| (p.it, nodes(who))).collect(),
            exit: nodes(&policy.auto_approvers.exit_node),
            pinned: connectors.collect(),
        }
    }

    /// True if the node may have this route, or a wider one it is part of. `0.0.0.0/0` under `routes` means any route,
    /// not the exit node's; pinned routes of app connectors are approved by being pinned.
    pub(crate) fn approves(&self, node: usize, route: Prefix) -> bool {
        if is_exit(route) {
            return self.exit.has(node);
        }
        self.routes.iter().chain(&self.pinned).any(|(p, nodes)| p.covers(route) && nodes.has(node))
    }
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
        owners.iter().any(|o| users(policy, topology, people, &o.it).iter().any(exact))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
                    fields(&r.net.set(one.wide.clone(), one.hosts.clone(), false)),
                    "{a} with twin {twin}"
                );
                for b in names {
                    let two = r.set(&read_who(b).unwrap());
                    let (mut wide, mut hosts) = (one.wide.clone(), one.hosts.clone());
                    wide.add(&two.wide);
                    hosts.extend(two.hosts.iter().copied());
                    let want = r.net.set(wide, hosts, false);
                    assert_eq!(fields(&one.clone().with(two)), fields(&want), "{a} and {b} with twin {twin}");
                }
            }
        }
    }
}
