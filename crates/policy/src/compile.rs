//! From a policy and who exists to what each node is told. In: a [`Policy`] and a [`Topology`]. Out: a [`Compiled`],
//! which answers for one node or for all: packet filter, visible peers, routes, capabilities.
//!
//! Resolved once: names to sets. Reduced per node: of every rule, the destinations that this node answers for.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use addr::{Addr, Prefix};
use tailnet_proto::tailcfg::{self, NetPortRange, PortRange};

use super::bits::Bits;
use super::caps;
use super::language::Policy;
use super::resolve::Resolver;
use super::routes::{Reach, Routing};
use super::rules::{Dest, Origin, Rule, Rules, Target, nets_match};
use super::topology::{Node, Topology, is_exit};
use super::who::{Ports, Proto, Who};

/// Capabilities that come with another one: who may use the first on a node, is told the second about that node
/// (tailcfg: drive and its sharer, relay and its target).
const COMPANIONS: [(&str, &str); 2] = [
    ("tailscale.com/cap/drive", "tailscale.com/cap/drive-sharer"),
    ("tailscale.com/cap/relay", "tailscale.com/cap/relay-target"),
];

/// Whoever may open TCP port 53 at these is answered by an app connector about its names: that is what the public
/// client asks its filter (peerapi, "we treat the IP 0.0.0.0 as being the internet"). They are nobody's addresses.
pub(crate) const APP_DNS: [&str; 2] = ["0.0.0.0", "2000::"];

/// A policy applied to a network.
pub struct Compiled {
    pub(crate) resolver: Resolver,
    pub(crate) rules: Rules,
    pub(crate) routing: Routing,
    reach: Reach,
    /// For every node, the places of the rules that may concern it, in order.
    rules_of: OnceLock<Vec<Vec<u32>>>,
    /// Who sees whom, for all nodes at once.
    peers: OnceLock<Vec<Bits>>,
}

/// What one node is told.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Place in [`Topology::nodes`].
    pub node: usize,
    /// Its packet filter; none lets nothing in.
    pub filter: Vec<Filter>,
    /// Places of the nodes it sees.
    pub peers: Vec<usize>,
}

/// One rule of a packet filter, its sources shared with other nodes.
#[derive(Debug, Clone)]
pub struct Filter {
    /// Where it comes from.
    pub origin: Origin,
    /// Who may.
    pub src: Arc<SourcesRef>,
    /// Which protocol.
    pub proto: Proto,
    /// Where to; `None` is `*`.
    pub dst: Vec<(Option<Prefix>, Ports)>,
    /// Capabilities on destinations.
    pub caps: Vec<CapGrant>,
}

/// Capabilities and the destinations that they are granted on.
pub(crate) type CapGrant = (Vec<Prefix>, Arc<BTreeMap<String, serde_json::Value>>);

/// Sources of a filter rule: those of a rule of the policy, or texts of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourcesRef {
    /// Place among the sources of the policy.
    Shared(usize),
    /// Written out.
    Own(Vec<String>),
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Compiled({} nodes)", self.topology().nodes.len())
    }
}

impl Compiled {
    /// Resolves every name and reads every rule. Work for single nodes is done when it is asked for.
    #[must_use]
    pub fn new(policy: Arc<Policy>, topology: Arc<Topology>) -> Compiled {
        let primaries = topology.primaries.clone();
        Compiled::after(policy, topology, &primaries)
    }

    /// The same, where these routers (by name) have been the primary ones of their routes: they stay, as long as they
    /// are candidates.
    #[must_use]
    pub fn after(policy: Arc<Policy>, topology: Arc<Topology>, primaries: &BTreeMap<Prefix, String>) -> Compiled {
        let resolver = Resolver::new(policy, topology);
        let rules = Rules::new(&resolver);
        Compiled::from_rules(resolver, rules, primaries)
    }

    /// The same network where one node is another, or one more; it is found by its name. What the change does not touch
    /// is shared, and primary routers stay as long as they are candidates. A node that is replaced keeps its place, a new
    /// one moves those after it.
    #[must_use]
    pub fn with_node(&self, node: Node) -> Compiled {
        let mut topology = Topology::clone(self.topology());
        let found = topology.nodes.binary_search_by(|n| n.name.cmp(&node.name));
        match found {
            Ok(place) => topology.nodes[place] = Arc::new(node),
            Err(place) => topology.nodes.insert(place, Arc::new(node)),
        }
        let topology = Arc::new(topology);
        match found {
            Ok(place) => self.replaced(topology, place),
            Err(_) => self.with_nodes(topology),
        }
    }

    /// The same policy for the network as it is now, whatever has changed: what one changed node does not touch is
    /// shared, and so is what the policy says by itself. Primary routers stay as long as they are candidates.
    #[must_use]
    pub fn with_topology(&self, topology: Arc<Topology>) -> Compiled {
        let old = self.topology();
        if old.users != topology.users {
            return Compiled::after(Arc::clone(self.policy()), topology, &self.primaries());
        }
        let pairs = || old.nodes.iter().zip(&topology.nodes);
        let alike = old.nodes.len() == topology.nodes.len() && pairs().all(|(a, b)| a.name == b.name);
        let mut changed = pairs().enumerate().filter(|(_, (a, b))| a != b).map(|(place, _)| place);
        match (alike, changed.next(), changed.next()) {
            (true, Some(place), None) => self.replaced(topology, place),
            _ => self.with_nodes(topology),
        }
    }

    fn replaced(&self, topology: Arc<Topology>, place: usize) -> Compiled {
        match self.resolver.replaced(Arc::clone(&topology), place) {
            // Where two nodes share an address, a set holds both by it, and a change of one is not told from the other.
            Some((resolver, change)) if self.resolver.net.unique && resolver.net.unique => {
                let rules = self.rules.replaced(&resolver, &change);
                Compiled::from_rules(resolver, rules, &self.primaries())
            }
            _ => self.with_nodes(topology),
        }
    }

    /// The same network without a node. A name that is not there changes nothing.
    #[must_use]
    pub fn without_node(&self, name: &str) -> Compiled {
        let mut topology = Topology::clone(self.topology());
        if let Some(place) = topology.node(name) {
            topology.nodes.remove(place);
        }
        self.with_nodes(Arc::new(topology))
    }

    fn with_nodes(&self, topology: Arc<Topology>) -> Compiled {
        let resolver = self.resolver.with_nodes(topology);
        let rules = self.rules.with_nodes(&resolver);
        Compiled::from_rules(resolver, rules, &self.primaries())
    }

    fn from_rules(resolver: Resolver, rules: Rules, primaries: &BTreeMap<Prefix, String>) -> Compiled {
        let routing = Routing::new(&resolver, primaries);
        let reach = Reach::new(&resolver, &rules);
        Compiled { resolver, rules, routing, reach, rules_of: OnceLock::new(), peers: OnceLock::new() }
    }

    /// The policy it was compiled from.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.resolver.policy
    }

    /// The nodes that a name stands for, in the order of the topology; `None` for what is no name of nodes.
    #[must_use]
    pub fn nodes_of(&self, who: &Who) -> Option<Vec<&Node>> {
        let members = self.resolver.members(who)?;
        Some(self.topology().nodes.iter().map(|n| &**n).filter(|n| members.has(n)).collect())
    }

    /// The nodes and users it was compiled for.
    #[must_use]
    pub fn topology(&self) -> &Arc<Topology> {
        &self.resolver.topology
    }

    /// What one node is told. `None` if there is no such node.
    #[must_use]
    pub fn for_node(&self, node: usize) -> Option<NodeView> {
        if node >= self.resolver.net.len {
            return None;
        }
        let peers = match self.peers.get() {
            Some(rows) => rows.get(node)?.iter().collect(),
            None => self.reach.row(&self.resolver, node).iter().collect(),
        };
        Some(NodeView { node, filter: self.filter(node), peers })
    }

    /// What every node is told, in the order of the nodes. Cheaper than asking for each.
    pub fn for_all(&self) -> impl Iterator<Item = NodeView> + '_ {
        self.peers.get_or_init(|| self.reach.rows(&self.resolver));
        self.rules_of.get_or_init(|| self.index());
        (0..self.resolver.net.len).filter_map(|n| self.for_node(n))
    }

    /// The prefixes that `viewer` reaches through `peer`: its addresses, and the routes it may use there.
    #[must_use]
    pub fn allowed_ips(&self, viewer: usize, peer: usize) -> Vec<Prefix> {
        let mut out = self.own_addrs(peer);
        let mut routes = self.routing.for_peer(&self.resolver, &self.rules, &self.reach, viewer, peer);
        routes.sort_unstable_by_key(|p| (is_exit(*p), *p));
        routes.dedup();
        out.extend(routes);
        out
    }

    /// The node's own prefixes: its addresses and its approved routes.
    #[must_use]
    pub fn own_allowed_ips(&self, node: usize) -> Vec<Prefix> {
        let mut out = self.own_addrs(node);
        out.extend(self.approved(node));
        out
    }

    /// The routes a node advertises that an administrator or `autoApprovers` have approved.
    #[must_use]
    pub fn approved(&self, node: usize) -> &[Prefix] {
        self.resolver.net.approved(node)
    }

    /// The router that answers for a subnet route now.
    #[must_use]
    pub fn primary(&self, route: Prefix) -> Option<usize> {
        self.routing.primary(&self.resolver.net, route)
    }

    /// The subnet routes that this node answers for now (tailcfg, `Node.PrimaryRoutes`), in order.
    pub fn primary_routes(&self, node: usize) -> impl Iterator<Item = Prefix> + '_ {
        self.routing.primaries(&self.resolver.net).filter(move |(_, n)| *n == node).map(|(route, _)| route)
    }

    /// The primary router of every approved subnet route, by name: what [`Compiled::after`] wants to know of before.
    #[must_use]
    pub fn primaries(&self) -> BTreeMap<Prefix, String> {
        let name = |n: usize| self.topology().nodes.get(n).map(|n| n.name.clone()).unwrap_or_default();
        self.routing.primaries(&self.resolver.net).map(|(route, n)| (route, name(n))).collect()
    }

    /// The node's capabilities and attributes; `null` where there is nothing more to say.
    #[must_use]
    pub fn capabilities(&self, node: usize) -> BTreeMap<String, serde_json::Value> {
        caps::capabilities(&self.resolver, node)
    }

    /// The ranges from which a node, known already or about to join, takes its addresses (`ipPool` of `nodeAttrs`), in
    /// the order in which they are to be tried; none means the usual ranges.
    #[must_use]
    pub fn ip_pool(&self, node: &Node) -> Vec<Prefix> {
        caps::ip_pool(&self.resolver, node)
    }

    /// The sources of a filter rule as the protocol writes them.
    #[must_use]
    pub fn source_texts<'s>(&'s self, src: &'s SourcesRef) -> &'s [String] {
        match src {
            SourcesRef::Shared(i) => self.rules.sources.get(*i).map(|s| s.texts()).unwrap_or_default(),
            SourcesRef::Own(texts) => texts,
        }
    }

    /// A node's packet filter in the protocol's form.
    #[must_use]
    pub fn filter_rules(&self, view: &NodeView) -> Vec<tailcfg::FilterRule> {
        view.filter.iter().map(|f| self.to_wire(f)).collect()
    }

    /// A filter rule in the protocol's form.
    #[must_use]
    pub fn to_wire(&self, filter: &Filter) -> tailcfg::FilterRule {
        let long = |p: &Prefix| p.long();
        tailcfg::FilterRule {
            src_ips: self.source_texts(&filter.src).to_vec(),
            dst_ports: filter
                .dst
                .iter()
                .map(|(to, ports)| NetPortRange {
                    ip: to.map_or_else(|| "*".to_string(), |p| p.to_string()),
                    ports: PortRange { first: ports.first, last: ports.last },
                })
                .collect(),
            ip_proto: filter.proto.into_iter().collect(),
            cap_grant: filter
                .caps
                .iter()
                .map(|(dsts, map)| tailcfg::CapGrant {
                    dsts: dsts.iter().map(long).collect(),
                    cap_map: (**map).clone(),
                })
                .collect(),
        }
    }

    fn own_addrs(&self, node: usize) -> Vec<Prefix> {
        let Some(n) = self.resolver.topology.nodes.get(node) else { return Vec::new() };
        let without_v4 = caps::ipv4_disabled(&self.resolver, node);
        n.addrs().filter(|a| !(without_v4 && a.is_v4())).map(Prefix::host).collect()
    }

    /// For every node the rules that may concern it.
    fn index(&self) -> Vec<Vec<u32>> {
        let len = self.resolver.net.len;
        let mut out: Vec<Vec<u32>> = vec![Vec::new(); len];
        for (i, rule) in self.rules.all().iter().enumerate() {
            let mut concerned = Bits::new(len);
            let everyone = rule.dst.iter().any(|d| d.who == Who::Own || d.who == Who::Any)
                || !rule.via.is_empty()
                || COMPANIONS.iter().any(|(c, _)| rule.app.contains_key(*c));
            if everyone {
                (0..len).for_each(|n| concerned.set(n));
            }
            for target in rule.dst.iter().filter_map(|d| self.rules.target(d)) {
                concerned.add(&target.set.nodes);
                concerned.add(&target.set.routers);
                if target.public {
                    concerned.add(&self.resolver.net.exits);
                }
            }
            for n in concerned.iter() {
                out[n].push(i as u32);
            }
        }
        out
    }

    /// The packet filter of a node: destinations it answers for. Rules with the same sources and protocol become one.
    fn filter(&self, node: usize) -> Vec<Filter> {
        let mut out = Merge::default();
        match self.rules_of.get().and_then(|r| r.get(node)) {
            Some(list) => list.iter().for_each(|i| self.reduce(&self.rules.all()[*i as usize], node, &mut out)),
            None => {
                self.rules.all().iter().filter(|r| self.concerns(r, node)).for_each(|r| self.reduce(r, node, &mut out))
            }
        }
        out.done
    }

    /// False if the rule surely says nothing to this node; asked for one node, it spares most rules a closer look.
    fn concerns(&self, rule: &Rule, node: usize) -> bool {
        let touches = |d: &Dest| match self.rules.target(d) {
            None => true,
            Some(t) => {
                let set = &t.set;
                t.any || set.nodes.has(node) || set.routers.has(node) || (t.public && self.resolver.net.exits.has(node))
            }
        };
        !rule.via.is_empty()
            || COMPANIONS.iter().any(|(c, _)| rule.app.contains_key(*c))
            || rule.dst.iter().any(touches)
    }

    fn reduce(&self, rule: &Rule, node: usize, out: &mut Merge) {
        let sources = self.rules.source(rule);
        if !rule.via.is_empty() {
            if !sources.is_empty() && rule.via.iter().any(|t| self.resolver.topology.nodes[node].has_tag(t)) {
                self.reduce_via(rule, node, out);
            }
            return;
        }
        let own: Vec<&Dest> = rule.dst.iter().filter(|d| d.set.is_none()).collect();
        // A rule among autogroups keeps the order written; otherwise one's own devices come last.
        let own_first =
            rule.dst.first().is_some_and(|d| d.set.is_none()) && rule.dst.iter().all(|d| d.who.is_autogroup());
        if own_first {
            self.reduce_own(rule, &own, node, out);
        }
        if !sources.is_empty() {
            for proto in protos(rule) {
                let mut dst = Vec::new();
                for d in &rule.dst {
                    let Some(target) = self.rules.target(d) else { continue };
                    for to in self.answers(target, node) {
                        dst.extend(ports_of(d, proto).map(|p| (to, p)));
                    }
                }
                out.push(rule.origin, SourcesRef::Shared(self.rules.place(rule)), proto, dst);
            }
            if self.answers_names(rule, node) {
                let dst = APP_DNS.iter().filter_map(|p| p.parse().ok());
                let dst = dst.map(|p| (Some(p), Ports { first: 53, last: 53 })).collect();
                out.push(rule.origin, SourcesRef::Shared(self.rules.place(rule)), Some(6), dst);
            }
        }
        self.reduce_app(rule, node, out);
        if !own_first {
            self.reduce_own(rule, &own, node, out);
        }
    }

    /// True if the node looks up names of an app connector for the sources of this rule: they may reach the app, or the
    /// node's own port 53. `*` covers the question already.
    fn answers_names(&self, rule: &Rule, node: usize) -> bool {
        let Some(n) = self.topology().nodes.get(node) else { return false };
        let mut learns = self.policy().connectors().filter(|c| c.is_at(&n.tags));
        let asks = |d: &Dest, app: &str| match &d.who {
            Who::App(name) => name.strip_prefix("app:") == Some(app),
            Who::Any => false,
            _ => self.rules.target(d).is_some_and(|t| t.set.nodes.has(node)) && nets_match(&d.nets, Some(6), Some(53)),
        };
        learns.any(|c| rule.dst.iter().any(|d| asks(d, &c.name)))
    }

    /// The parts of a destination that a node answers for: its own addresses, its approved subnet routes, and, as an
    /// exit node, the internet.
    fn answers(&self, target: &Target, node: usize) -> Vec<Option<Prefix>> {
        if target.any {
            return vec![None];
        }
        let net = &self.resolver.net;
        let set = &target.set;
        // What lies in the internet is let in by every exit node; whether the way there is open is another question.
        let exit = target.public && net.exits.has(node);
        if !set.nodes.has(node) && !set.routers.has(node) && !exit {
            return Vec::new();
        }
        if exit {
            // Whatever lies in the internet passes here; the rest as below.
            let internet = super::ipset::internet();
            let mine = self.resolver.topology.nodes[node].addrs().map(Prefix::host).collect::<Vec<_>>();
            let routes: Vec<Prefix> = self.approved(node).iter().copied().filter(|r| !is_exit(*r)).collect();
            let touches =
                |p: &Prefix| mine.iter().chain(&routes).any(|m| p.covers(*m) || m.covers(*p)) || internet.covers(*p);
            return target.prefixes.iter().filter(|p| touches(p)).map(|p| Some(*p)).collect();
        }
        let mut at: Vec<usize> = Vec::new();
        let mut find = |first: Addr, last: Addr| {
            let from = target.prefixes.partition_point(|p| p.last() < first);
            let hits = target.prefixes[from..].iter().take_while(|p| p.first() <= last).count();
            at.extend(from..from + hits);
        };
        for a in self.resolver.topology.nodes[node].addrs() {
            find(a, a);
        }
        if set.routers.has(node) {
            for r in net.routes_of(node).iter() {
                find(net.routes[r].first(), net.routes[r].last());
            }
        }
        at.sort_unstable();
        at.dedup();
        at.into_iter().map(|i| Some(target.prefixes[i])).collect()
    }

    /// A rule that must go through routers with a tag: they let in what they route, as the rule words it.
    fn reduce_via(&self, rule: &Rule, node: usize, out: &mut Merge) {
        let routes: Vec<Prefix> = self.approved(node).iter().copied().filter(|r| !is_exit(*r)).collect();
        for proto in protos(rule) {
            let mut dst = Vec::new();
            for d in &rule.dst {
                let Some(target) = self.rules.target(d) else { continue };
                let internet = target.set.internet && !target.any && self.resolver.net.exits.has(node);
                let routed = |p: &&Prefix| internet || routes.iter().any(|r| r.covers(**p) || p.covers(*r));
                for p in target.prefixes.iter().filter(routed) {
                    dst.extend(ports_of(d, proto).map(|ports| (Some(*p), ports)));
                }
            }
            out.push(rule.origin, SourcesRef::Shared(self.rules.place(rule)), proto, dst);
        }
    }

    fn reduce_app(&self, rule: &Rule, node: usize, out: &mut Merge) {
        if rule.app.is_empty() {
            return;
        }
        let map = Arc::clone(&rule.app);
        let mut caps = Vec::new();
        for target in rule.dst.iter().filter_map(|d| self.rules.target(d)) {
            let dsts = self.narrow(target.prefixes.iter().copied(), node);
            if !dsts.is_empty() {
                caps.push((dsts, Arc::clone(&map)));
            }
        }
        if !caps.is_empty() {
            out.caps(rule.origin, SourcesRef::Shared(self.rules.place(rule)), caps);
        }
        let sources = self.rules.source(rule);
        for (_, companion) in COMPANIONS.iter().filter(|(c, _)| rule.app.contains_key(*c)) {
            let dsts = self.narrow(sources.parts(), node);
            if dsts.is_empty() || rule.dst.iter().all(|d| d.set.is_none()) {
                continue;
            }
            let targets = rule.dst.iter().filter_map(|d| self.rules.target(d));
            let texts: Vec<String> = targets.flat_map(|t| t.texts(&self.resolver.net.routes)).collect();
            let map = Arc::new(BTreeMap::from([((*companion).to_string(), serde_json::Value::Null)]));
            out.caps(rule.origin, SourcesRef::Own(texts), vec![(dsts, map)]);
        }
    }

    /// Of these prefixes, what concerns a node: its own addresses, one by one, and prefixes that touch what it routes.
    fn narrow(&self, prefixes: impl Iterator<Item = Prefix>, node: usize) -> Vec<Prefix> {
        let net = &self.resolver.net;
        let addrs: Vec<Addr> = self.resolver.topology.nodes[node].addrs().collect();
        let mut out = Vec::new();
        for p in prefixes {
            out.extend(addrs.iter().filter(|a| p.contains(**a)).map(|a| Prefix::host(*a)));
            if net.routes_of(node).iter().any(|r| net.routes[r].covers(p) || p.covers(net.routes[r])) {
                out.push(p);
            }
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// `autogroup:self`: devices of one user among themselves; tagged nodes have no user.
    fn reduce_own(&self, rule: &Rule, own: &[&Dest], node: usize, out: &mut Merge) {
        if own.is_empty() {
            return;
        }
        let Some(from) = self.reach.own_sources(&self.resolver, self.rules.place(rule), node) else { return };
        let addrs: Vec<Addr> = self.resolver.topology.nodes[node].addrs().collect();
        let mut hosts: Vec<Prefix> =
            from.iter().flat_map(|n| self.resolver.topology.nodes[*n].addrs()).map(Prefix::host).collect();
        hosts.sort_unstable();
        let texts = || SourcesRef::Own(hosts.iter().map(ToString::to_string).collect());
        let src = || self.rules.plain(&hosts).map_or_else(texts, SourcesRef::Shared);
        for proto in protos(rule) {
            let mut dst = Vec::new();
            for a in &addrs {
                for d in own {
                    dst.extend(ports_of(d, proto).map(|p| (Some(Prefix::host(*a)), p)));
                }
            }
            out.push(rule.origin, src(), proto, dst);
        }
        if rule.app.is_empty() {
            return;
        }
        let own_prefixes: Vec<Prefix> = addrs.iter().map(|a| Prefix::host(*a)).collect();
        out.caps(rule.origin, src(), vec![(own_prefixes.clone(), Arc::clone(&rule.app))]);
        if from.contains(&node) {
            for (_, companion) in COMPANIONS.iter().filter(|(c, _)| rule.app.contains_key(*c)) {
                let user = self.resolver.topology.nodes[node].owner();
                let devices = self.resolver.topology.nodes.iter().filter(|n| n.owner() == user);
                let texts = devices.flat_map(|n| n.addrs()).map(|a| a.to_string()).collect();
                let map = Arc::new(BTreeMap::from([((*companion).to_string(), serde_json::Value::Null)]));
                out.caps(rule.origin, SourcesRef::Own(texts), vec![(own_prefixes.clone(), map)]);
            }
        }
    }
}

/// Filter rules as they come, those with the same sources and protocol joined.
#[derive(Default)]
struct Merge {
    done: Vec<Filter>,
    by_key: BTreeMap<(SourcesRef, Proto), usize>,
}

impl Merge {
    fn push(&mut self, origin: Origin, src: SourcesRef, proto: Proto, dst: Vec<(Option<Prefix>, Ports)>) {
        if dst.is_empty() {
            return;
        }
        let key = (src, proto);
        if let Some(f) = self.by_key.get(&key).and_then(|i| self.done.get_mut(*i)) {
            f.dst.extend(dst);
            return;
        }
        self.done.push(Filter { origin, src: Arc::new(key.0.clone()), proto, dst, caps: Vec::new() });
        self.by_key.insert(key, self.done.len() - 1);
    }

    fn caps(&mut self, origin: Origin, src: SourcesRef, caps: Vec<CapGrant>) {
        self.done.push(Filter { origin, src: Arc::new(src), proto: None, dst: Vec::new(), caps });
    }
}

/// The different protocols of a rule, in the order written.
fn protos(rule: &Rule) -> Vec<Proto> {
    let mut out = Vec::new();
    for (proto, _) in rule.dst.iter().flat_map(|d| &d.nets) {
        if !out.contains(proto) {
            out.push(*proto);
        }
    }
    out
}

/// The ports of a destination under a protocol.
fn ports_of(d: &Dest, proto: Proto) -> impl Iterator<Item = Ports> + '_ {
    d.nets.iter().filter(move |(p, _)| *p == proto).flat_map(|(_, ports)| ports.iter().copied())
}
