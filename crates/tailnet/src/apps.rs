//! App connectors: what each app stands for, who learns for it, what was learned and what of it has a route. In: a
//! snapshot for people; for the registry what connectors tell and what names answer. Out: tables, changed members.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{LearnedRoute, Node};
use addr::{Addr, Prefix};

use super::member::Member;
use super::registry::Registry;
use super::snapshot::Snapshot;
use policy::language::Connector;

/// An app of the policy.
#[derive(Debug, Clone)]
pub struct App<'s> {
    /// Its name.
    pub name: String,
    /// Its domains, as written; those that are left out with `!`.
    pub domains: Vec<String>,
    /// Its pinned routes.
    pub pinned: Vec<Prefix>,
    /// The nodes that learn for it.
    pub connectors: Vec<&'s Member>,
    /// What they have learned.
    pub learnt: Vec<(&'s Member, &'s LearnedRoute)>,
}

/// Addresses of one node that are remembered at all, routed or not.
const REMEMBERED: usize = 8_000;
/// Addresses of one app at one connector, unless set otherwise: a wildcard over a large service finds thousands, and each
/// is a route in everybody's map.
pub const APP_ROUTES: u32 = 1_000;
/// New addresses of one answer: those of large services hold a dozen.
const ANSWERS: usize = 64;
/// A sign of life is written down this often, in seconds, so that a name asked every few seconds is not a write each.
const WRITE: u64 = 60;

impl Snapshot {
    /// Every app of the policy, by name.
    #[must_use]
    pub fn apps(&self) -> Vec<App<'_>> {
        let mut out: BTreeMap<&str, App<'_>> = BTreeMap::new();
        for c in self.compiled.policy().connectors() {
            let app = out.entry(c.name.as_str()).or_insert_with(|| App {
                name: c.name.clone(),
                domains: Vec::new(),
                pinned: Vec::new(),
                connectors: Vec::new(),
                learnt: Vec::new(),
            });
            app.domains.extend(c.domains.iter().map(|d| d.it.clone()));
            app.domains.extend(c.except.iter().map(|d| format!("!{}", d.it)));
            app.pinned.extend(c.routes.iter().map(|r| r.it));
            for m in self.nodes.values().filter(|m| c.is_at(&m.node.tags)) {
                if !app.connectors.iter().any(|o| o.node.id == m.node.id) {
                    app.connectors.push(m);
                }
                app.learnt.extend(m.node.learnt.iter().filter(|l| c.covers(&l.domain)).map(|l| (m, l)));
            }
        }
        for app in out.values_mut() {
            // Two entries of one app may stand for the same name.
            app.learnt.sort_by(|(a, l), (b, m)| (l, a.node.id).cmp(&(m, b.node.id)));
            app.learnt.dedup_by(|(a, l), (b, m)| a.node.id == b.node.id && l == m);
        }
        out.into_values().collect()
    }

    /// The nodes that learn for some app.
    pub fn connectors(&self) -> impl Iterator<Item = &Member> {
        let policy = self.compiled.policy();
        self.nodes.values().filter(|m| policy.connectors().any(|c| c.is_at(&m.node.tags)))
    }

    /// The names that somebody has to be asked about, and the connectors that want to know: the names that apps spell
    /// out, and those that some connector has learned. Every connector of an app hears of what one has learned, so that
    /// another one can stand in for it.
    #[must_use]
    pub fn app_names(&self) -> BTreeMap<String, BTreeSet<u64>> {
        let mut out: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for c in self.compiled.policy().connectors() {
            let there: Vec<&Member> = self.nodes.values().filter(|m| c.is_at(&m.node.tags)).collect();
            let ids: BTreeSet<u64> = there.iter().filter(|m| m.node.learns()).map(|m| m.node.id).collect();
            let spelt = c.domains.iter().map(|d| d.it.as_str()).filter(|d| !d.starts_with("*."));
            let learnt = there.iter().flat_map(|m| m.node.learnt.iter().map(|l| (m.node.id, l.domain.as_str())));
            for (own, name) in spelt.map(|d| (None, d)).chain(learnt.map(|(id, d)| (Some(id), d))) {
                if c.covers(name) {
                    let nodes = out.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
                    nodes.extend(own.into_iter().chain(ids.iter().copied()));
                }
            }
        }
        out.retain(|_, nodes| !nodes.is_empty());
        out
    }
}

impl Registry {
    /// A connector has told what it has learned: names and their addresses, of the names that the policy gives it. What
    /// it has forgotten is kept for as long as its name answers with it, or it still offers the address. `offered`: the
    /// routes that it offered when it was asked.
    pub fn connector_reported(&mut self, id: u64, told: &BTreeMap<String, Vec<Addr>>, offered: &[Prefix], now: u64) {
        let Some(node) = self.nodes.get(&id).map(|m| m.node.clone()) else { return };
        let policy = self.policy().clone();
        let mine: Vec<&Connector> = policy.connectors().filter(|c| c.is_at(&node.tags)).collect();
        let known: BTreeMap<(&str, Addr), &LearnedRoute> =
            node.learnt.iter().map(|l| ((l.domain.as_str(), l.addr), l)).collect();
        let mut list: Vec<LearnedRoute> = Vec::new();
        for (domain, addrs) in told.iter().filter(|(d, _)| mine.iter().any(|c| c.could_learn(d))) {
            for addr in addrs {
                list.push(match known.get(&(domain.as_str(), *addr)) {
                    Some(l) => (*l).clone(),
                    None => new(domain, *addr, now),
                });
            }
        }
        let told: BTreeSet<(&str, Addr)> = list.iter().map(|l| (l.domain.as_str(), l.addr)).collect();
        let expiry = self.settings.app_expiry;
        let over = |l: &LearnedRoute| l.gone || expiry.is_some_and(|e| now >= l.seen.saturating_add(e));
        let offers = |l: &LearnedRoute| node.host.routable_ips.contains(&Prefix::host(l.addr));
        let kept = |l: &&LearnedRoute| {
            !told.contains(&(l.domain.as_str(), l.addr))
                && mine.iter().any(|c| c.could_learn(&l.domain))
                && ((node.learns() && !over(l)) || offers(l))
        };
        let kept: Vec<LearnedRoute> =
            node.learnt.iter().filter(kept).map(|l| LearnedRoute { gone: over(l), ..l.clone() }).collect();
        drop(told);
        list.sort();
        list.dedup_by(|a, b| a.domain == b.domain && a.addr == b.addr);
        list.extend(kept);
        list.truncate(REMEMBERED);
        list.sort();
        let heard: BTreeSet<Prefix> = offered.iter().copied().collect();
        let presence = self.presence.entry(id).or_default();
        if presence.heard != heard {
            presence.heard = heard;
            self.recompile |= mine.iter().any(|c| !c.except.is_empty());
        }
        self.learnt(id, capped(list, &mine, self.settings.app_routes));
    }

    /// A name of a connector's apps has answered. An address that it has not answered with for `patience` seconds
    /// (`None`: ever) has no route any more; one that comes back has. A new one is given to the connector before anybody
    /// asks for the name, so that the first connection finds its route.
    pub fn name_answered(&mut self, id: u64, domain: &str, answer: &[Addr], now: u64, patience: Option<u64>) {
        let Some(node) = self.nodes.get(&id).map(|m| m.node.clone()) else { return };
        let policy = self.policy().clone();
        let mine: Vec<&Connector> = policy.connectors().filter(|c| c.is_at(&node.tags)).collect();
        let mut list = answered(&node.learnt, domain, answer, now, patience);
        if node.learns() && mine.iter().any(|c| c.covers(domain)) {
            let known: BTreeSet<Addr> = list.iter().filter(|l| l.domain == domain).map(|l| l.addr).collect();
            // What is private here is somebody else there, and what is nowhere is how resolvers say no.
            let good = |a: &&Addr| !known.contains(a) && !a.is_private() && !nowhere(**a);
            let fresh: BTreeSet<Addr> = answer.iter().filter(good).copied().collect();
            let room = REMEMBERED.saturating_sub(list.len()).min(ANSWERS);
            list.extend(fresh.into_iter().take(room).map(|a| LearnedRoute { held: true, ..new(domain, a, now) }));
            list.sort();
        }
        self.learnt(id, capped(list, &mine, self.settings.app_routes));
    }

    /// A connector offers other routes than `before`. Official clients forget all that they learned when their own routes
    /// are set (`tailscale set --advertise-routes`). What is still good keeps its route, and the connector is told to
    /// offer it again.
    pub(crate) fn offers_changed(&mut self, id: u64, before: &[Prefix]) {
        let Some(node) = self.nodes.get(&id).map(|m| m.node.clone()) else { return };
        let now = &node.host.routable_ips;
        let covered = |p: Prefix| now.iter().any(|r| r.bits() > 0 && r.covers(p));
        let look = |l: &LearnedRoute| {
            let p = Prefix::host(l.addr);
            let lost = !l.gone && node.learns() && !covered(p) && (l.lost || before.contains(&p));
            LearnedRoute { lost, held: l.held || lost, ..l.clone() }
        };
        self.learnt(id, node.learnt.iter().map(look).collect());
    }
}

/// The addresses of a node's apps that it is told to offer, by app.
pub(crate) fn reminded(node: &Node, connectors: &[&Connector]) -> BTreeMap<String, BTreeSet<Prefix>> {
    let mut out: BTreeMap<String, BTreeSet<Prefix>> = BTreeMap::new();
    if node.learns() {
        for c in connectors.iter().filter(|c| c.is_at(&node.tags)) {
            let of = node.learnt.iter().filter(|l| l.held && !l.gone && c.covers(&l.domain));
            out.entry(c.name.clone()).or_default().extend(of.map(|l| Prefix::host(l.addr)));
        }
    }
    out
}

/// True for an address that no host has.
fn nowhere(addr: Addr) -> bool {
    addr.ip().is_multicast() || addr.ip() == std::net::IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

fn new(domain: &str, addr: Addr, now: u64) -> LearnedRoute {
    LearnedRoute {
        domain: domain.to_string(),
        addr,
        since: now,
        seen: now,
        gone: false,
        over: false,
        held: false,
        lost: false,
    }
}

/// The same with no more routes of one app than it may have: the addresses learned last keep theirs, because somebody has
/// just been told of them.
fn capped(mut list: Vec<LearnedRoute>, apps: &[&Connector], most: Option<u32>) -> Vec<LearnedRoute> {
    let most = most.unwrap_or(APP_ROUTES) as usize;
    let names: BTreeSet<&str> = apps.iter().map(|c| c.name.as_str()).collect();
    for name in names {
        let of = |l: &LearnedRoute| apps.iter().any(|c| c.name == name && c.covers(&l.domain));
        let mut live: Vec<usize> = (0..list.len()).filter(|i| !list[*i].gone && of(&list[*i])).collect();
        if live.len() > most {
            live.sort_by_key(|i| (std::cmp::Reverse(list[*i].since), *i));
            for i in live.split_off(most) {
                (list[i].gone, list[i].over, list[i].lost) = (true, true, false);
            }
        }
    }
    list
}

fn answered(old: &[LearnedRoute], domain: &str, answer: &[Addr], now: u64, patience: Option<u64>) -> Vec<LearnedRoute> {
    let write = patience.map_or(WRITE, |p| WRITE.min(p / 2));
    let fresh = |l: &LearnedRoute| {
        if l.domain != domain {
            return l.clone();
        }
        let mut l = l.clone();
        if answer.contains(&l.addr) {
            if l.gone || now >= l.seen + write {
                l.seen = now;
            }
            (l.gone, l.over) = (false, false);
        } else if patience.is_some_and(|p| now >= l.seen.saturating_add(p)) {
            (l.gone, l.over, l.lost) = (true, false, false);
        }
        l
    };
    old.iter().map(fresh).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{RouteState, Saved, Settings};
    use super::*;

    fn addr(n: u32) -> Addr {
        Addr::new(std::net::Ipv4Addr::from(0xC633_6400 + n).into())
    }

    /// A registry with one connector that offers the first `routes` addresses, and one app.
    fn registry(domains: &str, app_routes: Option<u32>, routes: u32) -> Registry {
        let offered: Vec<String> = (0..routes).map(|n| format!("{}/32", addr(n))).collect();
        let node = serde_json::from_value(serde_json::json!({
            "id": 1, "machine": format!("mkey:{:064x}", 1), "key": format!("nodekey:{:064x}", 2), "name": "router",
            "tags": ["tag:c"], "ipv4": "100.64.0.1", "ipv6": "fd7a:115c:a1e0::1", "created": 1,
            "host": { "RoutableIPs": offered } }));
        let mut registry = Registry::new(Settings { app_routes, ..Settings::default() });
        registry.load(Saved::Node(std::sync::Arc::new(node.unwrap())), 1).unwrap();
        let policy = format!(
            r#"{{"tagOwners": {{"tag:c": []}}, "autoApprovers": {{"routes": {{"0.0.0.0/0": ["tag:c"]}}}},
                "nodeAttrs": [{{"target": ["*"], "app": {{"tailscale.com/app-connectors": [
                    {{"name": "x", "connectors": ["tag:c"], "domains": [{domains}]}}]}}}}]}}"#
        );
        registry.set_policy(Some(&policy), "test", 1).unwrap();
        registry
    }

    fn told(registry: &mut Registry, names: &[(&str, &[u32])], now: u64) {
        let addrs = |list: &[u32]| list.iter().map(|n| addr(*n)).collect();
        let names = names.iter().map(|(name, list)| ((*name).to_string(), addrs(list))).collect();
        let offered = registry.node_named("router").unwrap().host.routable_ips.clone();
        registry.connector_reported(1, &names, &offered, now);
    }

    fn gone(registry: &Registry) -> Vec<bool> {
        registry.node_named("router").unwrap().learnt.iter().map(|l| l.gone).collect()
    }

    fn states(registry: &mut Registry, now: u64) -> Vec<&'static str> {
        registry.snapshot(now).routes().iter().map(|r| r.state.word()).collect()
    }

    #[test]
    fn an_address_goes_when_its_name_stops_answering_with_it_and_comes_back() {
        let mut b = registry(r#""x.example""#, None, 3);
        told(&mut b, &[("x.example", &[1, 2])], 100);
        b.name_answered(1, "x.example", &[addr(2)], 130, Some(60));
        assert_eq!(gone(&b), [false, false], "not yet");
        b.name_answered(1, "x.example", &[addr(2)], 161, Some(60));
        assert_eq!(gone(&b), [true, false]);
        assert_eq!(states(&mut b, 161), ["approved", "gone", "approved"]);
        // The connector keeps what it has learned for ever; that does not bring the route back.
        told(&mut b, &[("x.example", &[1, 2])], 170);
        assert_eq!(gone(&b), [true, false]);
        b.name_answered(1, "y.example", &[], 999, Some(60));
        assert_eq!(gone(&b), [true, false], "another name says nothing about this one");
        b.name_answered(1, "x.example", &[addr(1)], 180, Some(60));
        let back = b.node_named("router").unwrap().learnt[0].clone();
        assert!(!back.gone && back.since == 100 && back.seen == 180);
        told(&mut b, &[], 200);
        assert_eq!(gone(&b), [false, false], "what it forgets is kept while it offers it");
    }

    #[test]
    fn an_app_has_so_many_routes_and_no_more() {
        let mut b = registry(r#""*.x.example""#, Some(2), 5);
        told(&mut b, &[("a.x.example", &[0, 1])], 100);
        told(&mut b, &[("a.x.example", &[0, 1]), ("b.x.example", &[3])], 200);
        assert_eq!(gone(&b), [false, true, false], "the one just learnt has a route");
        // That a name answers with it brings no address above the limit back.
        b.name_answered(1, "a.x.example", &[addr(0), addr(1)], 300, Some(60));
        assert_eq!(gone(&b), [false, true, false]);
        assert!(b.node_named("router").unwrap().learnt[1].over);
        assert_eq!(states(&mut b, 300)[..2], ["approved", "over the limit"]);
        let many: Vec<u32> = (0..3_000).collect();
        let mut b = registry(r#""*.x.example""#, None, 1);
        told(&mut b, &[("a.x.example", &many)], 100);
        assert_eq!(gone(&b).iter().filter(|g| !**g).count(), APP_ROUTES as usize);
    }

    #[test]
    fn what_is_left_out_is_never_a_route() {
        let mut b = registry(r#""*.x.example", "!old.x.example""#, None, 4);
        // Until the connector has said what for, nobody is told of an address.
        assert_eq!(states(&mut b, 90), ["pending"; 4]);
        told(&mut b, &[("a.x.example", &[0, 1]), ("old.x.example", &[1, 2]), ("else.example", &[3])], 100);
        assert_eq!(states(&mut b, 100), ["approved", "approved", "left out", "approved"], "1 is of both, 3 of no app");
        let s = b.snapshot(100);
        let app = &s.apps()[0];
        assert_eq!(app.domains, ["*.x.example", "!old.x.example"]);
        assert_eq!(app.learnt.iter().map(|(_, l)| l.addr).collect::<Vec<_>>(), [addr(0), addr(1)]);
        assert_eq!(s.app_names().into_keys().collect::<Vec<_>>(), ["a.x.example"], "nobody asks for what is left out");
        // Left out no more.
        let mut b2 = registry(r#""*.x.example""#, None, 4);
        told(&mut b2, &[("a.x.example", &[0, 1]), ("old.x.example", &[1, 2])], 100);
        assert_eq!(states(&mut b2, 100), ["approved"; 4]);
        // A person's word goes before waiting, not before what is known.
        let mut b3 = registry(r#""*.x.example", "!old.x.example""#, None, 1);
        b3.approve_routes("router", &[Prefix::host(addr(0))], "test", 90).unwrap();
        assert_eq!(states(&mut b3, 90), ["approved"]);
        told(&mut b3, &[("old.x.example", &[0])], 100);
        assert!(b3.snapshot(100).routes().iter().all(|r| r.state == RouteState::LeftOut));
    }
}
