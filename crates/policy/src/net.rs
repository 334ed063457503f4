//! Nodes and routes as the policy sees them: who has which address, who routes what. In: who exists, and who may have
//! which route without being asked. Out: addresses in order, approved routes, the routes that touch some addresses.

use std::collections::BTreeMap;

use addr::{Addr, Prefix};

use super::bits::Bits;
use super::language::*;
use super::people::{Members, People};
use super::ranges::Ranges;
use super::topology::{Node, Topology, is_exit};
use super::who::Who;

/// Nodes and routes.
pub(crate) struct Net {
    /// Addresses of nodes in order, with the node's place.
    pub(crate) addrs: Vec<(Addr, usize)>,
    /// True if no two nodes have the same address.
    pub(crate) unique: bool,
    /// Approved routes of the nodes that have any, exit routes included, in order.
    approved: BTreeMap<usize, Vec<Prefix>>,
    /// The different approved subnet routes, in order.
    pub(crate) routes: Vec<Prefix>,
    /// For each route the place of the narrowest route around it.
    around: Vec<Option<usize>>,
    /// The lowest and the highest address that is routed, of IPv6 and of IPv4.
    spans: [Option<(Addr, Addr)>; 2],
    /// The routers of each route.
    pub(crate) routers: Vec<Vec<usize>>,
    /// Subnet routes of the nodes that have any, by place in `routes`.
    routes_of: BTreeMap<usize, Bits>,
    none: Bits,
    /// Approved exit nodes.
    pub(crate) exits: Bits,
    /// Number of nodes.
    pub(crate) len: usize,
}

impl Net {
    pub(crate) fn new(policy: &Policy, topology: &Topology, approvers: &Approvers) -> Net {
        let nodes = &topology.nodes;
        let mut addrs: Vec<(Addr, usize)> = nodes.iter().enumerate().filter_map(|(i, n)| Some((n.ipv4?, i))).collect();
        addrs.extend(nodes.iter().enumerate().filter_map(|(i, n)| Some((n.ipv6?, i))));
        // Addresses are given out in order: what is nearly sorted is sorted in one walk.
        addrs.sort();
        let unique = addrs.windows(2).all(|w| w[0].0 != w[1].0);
        let routers = nodes.iter().enumerate().filter(|(_, n)| !n.routable.is_empty());
        let approved = routers.map(|(i, n)| (i, approvers.approved(policy, n))).filter(|(_, list)| !list.is_empty());
        Net::routed(addrs, unique, approved.collect(), nodes.len())
    }

    /// The same where one node has these addresses and approved routes.
    pub(crate) fn replaced(&self, place: usize, node: &Node, approved: Vec<Prefix>) -> Net {
        let mut addrs: Vec<(Addr, usize)> = self.addrs.iter().copied().filter(|(_, n)| *n != place).collect();
        addrs.extend(node.addrs().map(|a| (a, place)));
        addrs.sort();
        let unique = addrs.windows(2).all(|w| w[0].0 != w[1].0);
        let mut all = self.approved.clone();
        all.remove(&place);
        if !approved.is_empty() {
            all.insert(place, approved);
        }
        Net::routed(addrs, unique, all, self.len)
    }

    fn routed(addrs: Vec<(Addr, usize)>, unique: bool, approved: BTreeMap<usize, Vec<Prefix>>, len: usize) -> Net {
        let mut by_route: BTreeMap<Prefix, Vec<usize>> = BTreeMap::new();
        for (i, list) in &approved {
            for p in list.iter().filter(|p| !is_exit(**p)) {
                by_route.entry(*p).or_default().push(*i);
            }
        }
        let (routes, routers): (Vec<Prefix>, Vec<Vec<usize>>) = by_route.into_iter().unzip();
        let mut routes_of: BTreeMap<usize, Bits> = BTreeMap::new();
        for (r, list) in routers.iter().enumerate() {
            for n in list {
                routes_of.entry(*n).or_insert_with(|| Bits::new(routes.len())).set(r);
            }
        }
        let exits = approved.iter().filter(|(_, list)| list.iter().any(|p| is_exit(*p))).map(|(i, _)| *i);
        let exits = Bits::of(len, exits);
        let span = |v4: bool| {
            let of = || routes.iter().filter(|p| p.is_v4() == v4);
            of().map(|p| p.first()).min().zip(of().map(|p| p.last()).max())
        };
        let (around, spans, none) = (nesting(&routes), [span(false), span(true)], Bits::default());
        Net { addrs, unique, approved, routes, around, spans, routers, routes_of, none, exits, len }
    }

    /// The node that has this address.
    pub(crate) fn node_at(&self, addr: Addr) -> Option<usize> {
        let i = self.addrs.partition_point(|(a, _)| *a < addr);
        self.addrs.get(i).filter(|(a, _)| *a == addr).map(|(_, n)| *n)
    }

    /// The approved routes of a node, exit routes included, in order.
    pub(crate) fn approved(&self, node: usize) -> &[Prefix] {
        self.approved.get(&node).map(Vec::as_slice).unwrap_or_default()
    }

    /// The subnet routes of a node, by place in `routes`.
    pub(crate) fn routes_of(&self, node: usize) -> &Bits {
        self.routes_of.get(&node).unwrap_or(&self.none)
    }

    /// The nodes with an address in these ranges.
    pub(crate) fn nodes_in(&self, ranges: &Ranges) -> Bits {
        let mut out = Bits::new(self.len);
        for r in ranges.iter() {
            let from = self.addrs.partition_point(|(a, _)| *a < r.first());
            for (_, n) in self.addrs[from..].iter().take_while(|(a, _)| *a <= r.last()) {
                out.set(*n);
            }
        }
        out
    }

    /// The routes that share an address with these ranges, by place in `routes`.
    pub(crate) fn touching(&self, ranges: &Ranges) -> Bits {
        let mut out = Bits::default();
        for r in ranges.iter() {
            // Most names are nodes, which lie below or above all that is routed.
            let span = self.spans[usize::from(r.first().is_v4())];
            if span.is_none_or(|(first, last)| r.last() < first || r.first() > last) {
                continue;
            }
            let from = self.routes.partition_point(|p| p.first() < r.first());
            let within = self.routes[from..].iter().take_while(|p| p.first() <= r.last()).count();
            (from..from + within).for_each(|i| out.set(i));
            // Prefixes nest or are apart: what begins earlier and reaches in lies around the last that begins earlier.
            let mut before = from.checked_sub(1);
            while let Some(i) = before {
                if self.routes[i].last() >= r.first() {
                    out.set(i);
                }
                before = self.around[i];
            }
        }
        out
    }
}

/// For each prefix of a sorted list the place of the narrowest one around it.
fn nesting(sorted: &[Prefix]) -> Vec<Option<usize>> {
    let mut open: Vec<usize> = Vec::new();
    let mut out = Vec::with_capacity(sorted.len());
    for (i, p) in sorted.iter().enumerate() {
        while open.last().is_some_and(|o| !sorted[*o].covers(*p)) {
            open.pop();
        }
        out.push(open.last().copied());
        open.push(i);
    }
    out
}

/// Who may have which route without being asked.
pub(crate) struct Approvers {
    routes: Vec<(Prefix, Vec<Members>)>,
    exit: Vec<Members>,
}

impl Approvers {
    pub(crate) fn new(policy: &Policy, people: &People) -> Approvers {
        let members = |whos: &[At<Who>]| whos.iter().filter_map(|w| Members::of(policy, people, &w.it)).collect();
        let approvers = &policy.auto_approvers;
        Approvers {
            routes: approvers.routes.iter().map(|(p, who)| (p.it, members(who))).collect(),
            exit: members(&approvers.exit_node),
        }
    }

    /// Of what a node advertises, what an administrator or these approvers have approved, in order, exit routes last.
    pub(crate) fn approved(&self, policy: &Policy, node: &Node) -> Vec<Prefix> {
        let yes = |p: &&Prefix| node.approved.contains(p) || self.approves(policy, node, **p);
        let mut out: Vec<Prefix> = node.routable.iter().filter(yes).copied().collect();
        out.sort_unstable_by_key(|p| (is_exit(*p), *p));
        out.dedup();
        out
    }

    /// True if the node may have this route, or a wider one it is part of. `0.0.0.0/0` under `routes` means any route,
    /// not the exit node's; pinned routes of app connectors are approved by being pinned. For an app connector that
    /// "any route" is any single address, for that is what it learns: a person who writes it for names does not mean
    /// half the internet.
    pub(crate) fn approves(&self, policy: &Policy, node: &Node, route: Prefix) -> bool {
        if is_exit(route) {
            return self.exit.iter().any(|m| m.has(node));
        }
        let connectors = || policy.connectors().filter(|c| c.is_at(&node.tags));
        let wide = || route.is_host() || connectors().next().is_none();
        let covers = |p: &Prefix| p.covers(route) && (p.bits() > 0 || wide());
        self.routes.iter().any(|(p, members)| covers(p) && members.iter().any(|m| m.has(node)))
            || connectors().any(|c| c.routes.iter().any(|r| r.it.covers(route)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn touching_is_what_a_look_at_each_route_says() {
        let routes =
            ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.0.7.0/24", "10.2.0.0/16", "192.0.2.0/24", "fd00::/8"];
        let routes: Vec<Prefix> = routes.iter().map(|p| p.parse().unwrap()).collect();
        let net = Net::routed(Vec::new(), true, BTreeMap::from([(0, routes)]), 1);
        let asked =
            ["10.0.0.255", "10.0.1.0/24", "10.2.3.0/24", "10.0.0.0/7", "9.0.0.0/8", "192.0.2.9", "0.0.0.0/0", "::/0"];
        for a in asked {
            let ranges: Ranges = [a.parse::<Prefix>().unwrap()].into_iter().collect();
            let want: Vec<usize> = (0..net.routes.len()).filter(|i| ranges.overlaps(net.routes[*i])).collect();
            assert_eq!(net.touching(&ranges).iter().collect::<Vec<_>>(), want, "{a}");
        }
    }

    /// Prefixes that nest, touch and stand alone, of both families.
    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (0u32..4, 0u32..4, 0u32..4, prop::sample::select(vec![8u8, 12, 16, 23, 24, 32]))
            .prop_map(|(a, b, c, len)| (std::net::Ipv4Addr::from(0x0a00_0000 | a << 16 | b << 8 | c).into(), len));
        let v6 = (0u128..4, 0u128..4, prop::sample::select(vec![8u8, 48, 64, 128]))
            .prop_map(|(a, b, len)| (std::net::Ipv6Addr::from(0xfd00 << 112 | a << 80 | b).into(), len));
        prop_oneof![3 => v4, 1 => v6]
            .prop_map(|(ip, len): (std::net::IpAddr, u8)| Prefix::new(Addr::new(ip), len).unwrap())
    }

    proptest! {
        /// The routes that touch some addresses are those that a look at each of them finds.
        #[test]
        fn touching_is_a_look_at_each_route_whatever_nests(
            routes in prop::collection::vec(prefix(), 0..12),
            asked in prop::collection::vec(prefix(), 1..4),
        ) {
            let net = Net::routed(Vec::new(), true, BTreeMap::from([(0, routes)]), 1);
            let ranges: Ranges = asked.into_iter().collect();
            let want: Vec<usize> = (0..net.routes.len()).filter(|i| ranges.overlaps(net.routes[*i])).collect();
            prop_assert_eq!(net.touching(&ranges).iter().collect::<Vec<_>>(), want);
        }

        /// Nodes are found by their addresses, one by one and in ranges.
        #[test]
        fn nodes_are_where_their_addresses_are(at in prop::collection::btree_set(0u32..60, 0..20), from in 0u32..60, to in 0u32..60) {
            let addr = |n: u32| Addr::new(std::net::Ipv4Addr::from(0x6440_0000 + n).into());
            let addrs: Vec<(Addr, usize)> = at.iter().enumerate().map(|(i, n)| (addr(*n), i)).collect();
            let net = Net::routed(addrs.clone(), true, BTreeMap::new(), at.len());
            for n in 0..60 {
                prop_assert_eq!(net.node_at(addr(n)), at.iter().position(|x| *x == n));
            }
            let Some(range) = addr::AddrRange::new(addr(from), addr(to)) else { return Ok(()) };
            let want: Vec<usize> = addrs.iter().filter(|(a, _)| range.first() <= *a && *a <= range.last()).map(|(_, i)| *i).collect();
            prop_assert_eq!(net.nodes_in(&Ranges::of([range])).iter().collect::<Vec<_>>(), want);
        }
    }
}
