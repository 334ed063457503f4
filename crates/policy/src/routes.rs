//! Who sees whom, and who may use which route through whom. In: resolved rules and approved routes. Out: the primary
//! router of each route, the peers of a node, the routes of a peer as one node may use them.
//!
//! The rules were learned from the public source of the control protocol's servers and from captures of the hosted
//! one: a node sees a peer if either may reach the other; a route is seen by those who may reach part of it, by those
//! it may reach (they must answer), and by the other routers of the same route.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use addr::Prefix;

use super::bits::{Bits, symmetric};
use super::net::Net;
use super::resolve::Resolver;
use super::rules::{Rules, Sources};
use super::topology::Node;

/// The primary router of each route.
pub(crate) struct Routing {
    primary: Vec<Option<usize>>,
}

/// Everything that the rules with the same sources reach.
struct Group {
    /// Nodes and routers that may be reached.
    nodes: Bits,
    /// True if the internet may be reached, through exit nodes.
    internet: bool,
    /// Routes that may be reached.
    routes: Bits,
    /// Routes that a rule reaches by a name other than `*`.
    named: Bits,
}

/// A rule that goes through routers with a tag.
struct Via {
    src: usize,
    /// Nodes with one of the tags.
    tagged: Bits,
    /// Of those, the ones that route a destination.
    through: Bits,
    /// Routes that touch a destination.
    routes: Bits,
    internet: bool,
}

/// What the rules let who reach.
pub(crate) struct Reach {
    /// By place in [`Rules::sources`].
    sources: Vec<Arc<Sources>>,
    groups: Vec<Option<Group>>,
    via: Vec<Via>,
    /// Sources of rules on `autogroup:self`.
    own: Vec<usize>,
    /// For each route the nodes that may use it.
    viewers: OnceLock<Vec<Bits>>,
}

impl Routing {
    pub(crate) fn new(r: &Resolver, before: &BTreeMap<Prefix, String>) -> Routing {
        let nodes = &r.topology.nodes;
        let elect = |(i, routers): (usize, &Vec<usize>)| {
            let current = before.get(&r.net.routes[i]).and_then(|name| r.topology.node(name));
            elect(nodes, routers, current)
        };
        Routing { primary: r.net.routers.iter().enumerate().map(elect).collect() }
    }

    pub(crate) fn primary(&self, net: &Net, route: Prefix) -> Option<usize> {
        let i = net.routes.binary_search(&route).ok()?;
        self.primary.get(i).copied().flatten()
    }

    /// Every route that has a primary router, in order.
    pub(crate) fn primaries<'n>(&'n self, net: &'n Net) -> impl Iterator<Item = (Prefix, usize)> + 'n {
        net.routes.iter().zip(&self.primary).filter_map(|(route, n)| Some((*route, (*n)?)))
    }

    /// The routes that `viewer` may use through `peer`.
    pub(crate) fn for_peer(
        &self,
        r: &Resolver,
        rules: &Rules,
        reach: &Reach,
        viewer: usize,
        peer: usize,
    ) -> Vec<Prefix> {
        let net = &r.net;
        let (mine, theirs) = (net.routes_of(viewer), net.routes_of(peer));
        let exit = net.exits.has(peer);
        if theirs.is_empty() && !exit {
            return Vec::new();
        }
        let primary: Vec<usize> = theirs.iter().filter(|i| self.primary[*i] == Some(peer)).collect();
        let steer = self.steer(r, reach, viewer, peer);
        let mut out: Vec<usize> =
            primary.iter().copied().filter(|i| !steer.exclude.has(*i) && reach.may_use(r, rules, viewer, *i)).collect();
        out.extend(steer.include.iter().filter(|i| primary.contains(i) || !steer.shared.has(*i)));
        // Routers of one route know which of them is the primary one.
        out.extend(primary.iter().copied().filter(|i| mine.has(*i)));
        let mut routes: Vec<Prefix> = out.into_iter().map(|i| net.routes[i]).collect();
        if exit && (steer.exit_in || (!steer.exit_out && reach.may_use_internet(r, viewer))) {
            routes.extend(net.approved(peer).iter().copied().filter(|p| p.bits() == 0));
        }
        routes
    }

    /// What rules with `via` say about one viewer and one peer.
    fn steer(&self, r: &Resolver, reach: &Reach, viewer: usize, peer: usize) -> Steer {
        let net = &r.net;
        let len = net.routes.len();
        let mut s = Steer {
            include: Bits::new(len),
            exclude: Bits::new(len),
            shared: Bits::new(len),
            exit_in: false,
            exit_out: false,
        };
        let mine: Vec<&Via> = reach.via.iter().filter(|v| reach.sources[v.src].set.nodes.has(viewer)).collect();
        if mine.is_empty() {
            return s;
        }
        for v in &mine {
            let mut matched = net.routes_of(peer).clone();
            matched.keep(&v.routes);
            if v.tagged.has(peer) {
                s.include.add(&matched)
            } else {
                s.exclude.add(&matched)
            }
            if v.internet && net.exits.has(peer) {
                if v.tagged.has(peer) { s.exit_in = true } else { s.exit_out = true }
            }
        }
        // Among several routers with the tag, one is elected for the route; the others step back.
        for v in &mine {
            for i in s.include.clone().iter().filter(|i| v.routes.has(*i)) {
                let tagged: Vec<usize> = net.routers[i].iter().copied().filter(|n| v.tagged.has(*n)).collect();
                let first = elect(&r.topology.nodes, &tagged, self.primary[i]);
                if first.is_some_and(|f| f != peer) {
                    s.include.unset(i);
                    s.exclude.set(i);
                }
            }
        }
        // Where a rule without `via` lets the viewer reach the same route, the usual primary router stands.
        for (src, group) in reach.groups.iter().enumerate() {
            let Some(g) = group else { continue };
            if !reach.sources[src].set.nodes.has(viewer) {
                continue;
            }
            for i in g.named.iter() {
                if s.include.has(i) {
                    s.shared.set(i);
                }
                s.exclude.unset(i);
            }
        }
        s
    }
}

/// The effect of `via` between one viewer and one peer.
struct Steer {
    include: Bits,
    exclude: Bits,
    /// Included, but also reached without `via`.
    shared: Bits,
    exit_in: bool,
    exit_out: bool,
}

/// Chooses the router that answers for a route: the current one while it is a candidate, else the one registered
/// first. Where the order of registration is not known, a digest of the name decides: any order would do, this one is
/// the same everywhere and agrees with the captures of the hosted service, which do not carry the order either.
fn elect(nodes: &[Arc<Node>], candidates: &[usize], current: Option<usize>) -> Option<usize> {
    let online: Vec<usize> = candidates.iter().copied().filter(|i| nodes.get(*i).is_some_and(|n| n.online)).collect();
    // With everybody away, the route stays where it is rather than nowhere.
    let field = if online.is_empty() { candidates } else { &online };
    if let Some(c) = current.filter(|c| field.contains(c)) {
        return Some(c);
    }
    field.iter().copied().min_by_key(|i| {
        let n = nodes.get(*i);
        (n.and_then(|n| n.id).unwrap_or(u64::MAX), n.map_or(0, |n| digest(&n.name)), *i)
    })
}

/// FNV-1a, 64 bits (RFC 9923): offset basis and prime as published.
fn digest(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

impl Reach {
    pub(crate) fn new(r: &Resolver, rules: &Rules) -> Reach {
        let net = &r.net;
        let everybody = Bits::of(net.len, 0..net.len);
        let every_route = Bits::of(net.routes.len(), 0..net.routes.len());
        let mut reach = Reach {
            sources: rules.sources.clone(),
            groups: rules.sources.iter().map(|_| None).collect(),
            via: Vec::new(),
            own: Vec::new(),
            viewers: OnceLock::new(),
        };
        for rule in rules.all() {
            let src = rules.place(rule);
            if rule.dst.iter().any(|d| d.set.is_none()) && !reach.own.contains(&src) {
                reach.own.push(src);
            }
            let targets = rule.dst.iter().filter_map(|d| rules.target(d));
            if !rule.via.is_empty() {
                let tagged = Bits::of(net.len, rule.via.iter().flat_map(|t| r.tagged(t)).copied());
                let (mut routes, mut internet, mut through) = (Bits::new(net.routes.len()), false, Bits::new(net.len));
                for t in targets {
                    routes.add(&t.set.routes);
                    through.add(&t.set.routers);
                    if t.set.internet && !t.any {
                        internet = true;
                        through.add(&net.exits);
                    }
                }
                through.keep(&tagged);
                reach.via.push(Via { src, tagged, through, routes, internet });
                continue;
            }
            let empty = || Group {
                nodes: Bits::new(net.len),
                internet: false,
                routes: Bits::new(net.routes.len()),
                named: Bits::new(net.routes.len()),
            };
            let group = reach.groups[src].get_or_insert_with(empty);
            for t in targets {
                group.named.add(&t.set.routes);
                group.internet |= t.set.internet;
                if t.any {
                    group.nodes.add(&everybody);
                    group.routes.add(&every_route);
                } else {
                    group.nodes.add(&t.set.nodes);
                    group.nodes.add(&t.set.routers);
                    group.routes.add(&t.set.routes);
                }
            }
        }
        reach
    }

    /// The devices of a node's user that are among the sources; `None` for tagged nodes and where there is none.
    pub(crate) fn own_sources(&self, r: &Resolver, src: usize, node: usize) -> Option<Vec<usize>> {
        let devices = self.devices(r, node)?;
        let from: Vec<usize> = devices.into_iter().filter(|n| self.sources[src].set.nodes.has(*n)).collect();
        (!from.is_empty()).then_some(from)
    }

    /// The devices of a node's user; `None` for tagged nodes.
    fn devices(&self, r: &Resolver, node: usize) -> Option<Vec<usize>> {
        r.devices_of(r.topology.nodes.get(node)?.owner()?).map(<[usize]>::to_vec)
    }

    fn reached(&self, r: &Resolver, group: &Group) -> Bits {
        let mut out = group.nodes.clone();
        if group.internet {
            out.add(&r.net.exits);
        }
        out
    }

    /// Whom one node sees.
    pub(crate) fn row(&self, r: &Resolver, node: usize) -> Bits {
        let mut out = Bits::new(r.net.len);
        for (src, group) in self.groups.iter().enumerate() {
            let Some(g) = group else { continue };
            let exits = g.internet.then_some(&r.net.exits);
            if self.sources[src].from.has(node) {
                out.add(&g.nodes);
                exits.iter().for_each(|e| out.add(e));
            }
            if g.nodes.has(node) || exits.is_some_and(|e| e.has(node)) {
                out.add(&self.sources[src].from);
            }
        }
        for v in &self.via {
            if self.sources[v.src].from.has(node) {
                out.add(&v.through);
            }
            if v.through.has(node) {
                out.add(&self.sources[v.src].from);
            }
        }
        if let Some(devices) = self.devices(r, node) {
            for src in &self.own {
                let from: Vec<usize> =
                    devices.iter().copied().filter(|n| self.sources[*src].set.nodes.has(*n)).collect();
                if from.contains(&node) {
                    devices.iter().for_each(|n| out.set(*n));
                }
                from.iter().for_each(|n| out.set(*n));
            }
        }
        out.unset(node);
        out
    }

    /// Whom every node sees, in the order of the nodes.
    pub(crate) fn rows(&self, r: &Resolver) -> Vec<Bits> {
        let mut rows = vec![Bits::new(r.net.len); r.net.len];
        for (src, group) in self.groups.iter().enumerate() {
            let Some(g) = group else { continue };
            let reached = self.reached(r, g);
            self.sources[src].from.iter().for_each(|n| rows[n].add(&reached));
        }
        for v in &self.via {
            self.sources[v.src].from.iter().for_each(|n| rows[n].add(&v.through));
        }
        for src in &self.own {
            for devices in r.devices() {
                let bits = Bits::of(r.net.len, devices.iter().copied());
                devices.iter().filter(|n| self.sources[*src].set.nodes.has(**n)).for_each(|n| rows[*n].add(&bits));
            }
        }
        symmetric(rows)
    }

    /// True if a node may use a subnet route.
    fn may_use(&self, r: &Resolver, _rules: &Rules, viewer: usize, route: usize) -> bool {
        let viewers = self.viewers.get_or_init(|| {
            let mut out = vec![Bits::new(r.net.len); r.net.routes.len()];
            for (src, group) in self.groups.iter().enumerate() {
                let Some(g) = group else { continue };
                g.routes.iter().for_each(|i| out[i].add(&self.sources[src].from));
                self.sources[src].set.routes.iter().for_each(|i| out[i].add(&g.nodes));
            }
            for v in &self.via {
                self.sources[v.src].set.routes.iter().for_each(|i| out[i].add(&v.through));
            }
            out
        });
        viewers.get(route).is_some_and(|v| v.has(viewer))
    }

    /// True if a node may reach the internet through exit nodes.
    fn may_use_internet(&self, _r: &Resolver, viewer: usize) -> bool {
        let group = |(src, g): (usize, &Option<Group>)| {
            g.as_ref().is_some_and(|g| g.internet) && self.sources[src].from.has(viewer)
        };
        self.groups.iter().enumerate().any(group)
    }
}
